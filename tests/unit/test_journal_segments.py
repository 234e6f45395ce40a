"""The journal's bytes: whatever happens to them, reading starts, goes on, and costs only what is damaged."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import URL, HookedDisk, closes, drain, event, interrupted

from eventpost.errors import JournalUnusable, QueueFull, QueueUnavailable
from eventpost.queues.journal import Disk, JournalQueue, inspect
from eventpost.queues.journal import disk as disk_module
from eventpost.queues.journal import format as fmt
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Damaged, Signal, Trouble


def left_by_a_dead_writer(folder: Path, count: int, size: int = 40) -> Path:
    """Make a folder with one segment whose writer died without closing it; the segment's path."""
    child = os.fork()
    if not child:
        queue = JournalQueue(folder)
        for n in range(count):
            queue.put([event(n, size)])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    [path] = (folder / "segments").glob("*.seg")
    return path


def adopt(folder: Path, **options: Any) -> tuple[JournalQueue, list[Signal]]:
    """Make a queue that has looked for orphans, and what it said."""
    queue, heard = JournalQueue(folder, **options), []
    queue.emit = heard.append
    queue.scan()
    return queue, heard


def test_events_come_out_as_they_went_in(tmp_path: Path) -> None:
    """Many segments, in order, byte for byte; the sum closes at every step; nothing is left on the disk."""
    queue = JournalQueue(tmp_path / "j", segment_bytes_max=1 << 18)
    for n in range(20_000):
        queue.put([event(n)])
    assert len(list((tmp_path / "j/segments").glob("*.seg"))) > 2
    assert queue.stats().queued == 20_000
    assert drain(queue) == list(range(20_000))
    assert queue.stats().delivered == 20_000
    queue.close()
    assert not list((tmp_path / "j/segments").iterdir())


def test_a_killed_writers_events_are_adopted(tmp_path: Path) -> None:
    """Kill -9 loses nothing that put returned for; the adopter counts them as accepted and adopted."""
    left_by_a_dead_writer(tmp_path / "j", 500)
    queue, _ = adopt(tmp_path / "j")
    assert drain(queue) == list(range(500))
    stats = queue.stats()
    assert (stats.accepted, stats.adopted, stats.delivered) == (500, 500, 500)
    queue.close()
    assert not list((tmp_path / "j/segments").iterdir())


def test_what_was_delivered_before_the_crash_is_not_sent_again(tmp_path: Path) -> None:
    """The outcome bytes survive kill -9 as the events do."""
    child = os.fork()
    if not child:
        queue = JournalQueue(tmp_path / "j")
        queue.put([event(n) for n in range(100)])
        queue.ack(queue.claim(URL, 60, 1 << 20))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    queue, _ = adopt(tmp_path / "j")
    assert drain(queue) == list(range(60, 100))
    assert queue.stats().accepted == 40


@pytest.mark.parametrize("sealed", [False, True])
def test_truncation_at_every_length(tmp_path: Path, *, sealed: bool) -> None:
    """Cut anywhere, what is whole before the cut is delivered, and the start never fails."""
    path = left_by_a_dead_writer(tmp_path / "origin", 6, size=3)
    data = path.read_bytes()
    header = fmt.decode_header(data[: fmt.PAGE_BYTES])
    ends = [header.records_at]
    while isinstance(frame := fmt.read_frame(data, ends[-1]), fmt.Frame):
        ends.append(frame.end)
    if sealed:
        data = data[: fmt.SEAL_AT] + fmt.encode_seal(6, ends[-1]) + data[fmt.SEAL_AT + fmt.SEAL_BYTES : ends[-1]]
    for cut in range(header.records_at, ends[-1] + 1):
        folder = tmp_path / f"cut{cut}"
        (folder / "segments").mkdir(parents=True)
        (folder / "segments" / path.name).write_bytes(data[:cut])
        queue, _ = adopt(folder)
        whole = sum(1 for end in ends[1:] if end - 7 <= cut or end <= cut) - 2  # two of the frames define the envelope
        got = drain(queue)
        assert got == list(range(len(got)))
        assert len(got) >= min(whole, sum(1 for end in ends[1:] if end <= cut) - 2)
        stats = queue.stats()
        assert closes(stats)
        if sealed:
            assert stats.dropped.get("damaged", 0) == 6 - len(got)
        queue.close()


def test_a_flipped_bit_anywhere_costs_at_most_its_own_event(tmp_path: Path) -> None:
    """One flipped bit in header, outcomes or frames: at most one event is lost, and every loss is counted."""
    path = left_by_a_dead_writer(tmp_path / "origin", 12)
    data = path.read_bytes()
    header = fmt.decode_header(data[: fmt.PAGE_BYTES])
    end = header.records_at
    while isinstance(frame := fmt.read_frame(data, end), fmt.Frame):
        end = frame.end
    data = data[: fmt.SEAL_AT] + fmt.encode_seal(12, end) + data[fmt.SEAL_AT + fmt.SEAL_BYTES : end]
    chance = random.Random(1)
    places = [*range(header.records_at, end), *range(90), *(header.outcomes_at + n for n in range(14))]
    lost_somewhere = False
    for at in places:
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        folder = tmp_path / f"f{at}"
        (folder / "segments").mkdir(parents=True)
        (folder / "segments" / path.name).write_bytes(flipped)
        queue, heard = adopt(folder)
        got = drain(queue)
        stats = queue.stats()
        assert closes(stats)
        if at < header.outcomes_at and not got:  # the header itself: the file is set aside whole, and said so
            assert any(isinstance(one, (Damaged, Trouble)) for one in heard)
        else:
            assert len(set(range(12)) - set(got)) <= 1
            assert stats.dropped.get("damaged", 0) + len(got) == 12
            lost_somewhere |= len(got) < 12
        queue.close()
    assert lost_somewhere


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600))
def test_the_reader_takes_any_bytes(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    """Noise in place of the records is set aside; nothing raises, nothing is invented."""
    folder = tmp_path_factory.mktemp("noise") / "j"
    (folder / "segments").mkdir(parents=True)
    header = fmt.encode_header(URL, "1.aa", 1, sender=True, retry=False, outcome_pages=1)
    (folder / "segments" / "0000000000001-1.aa-000000.seg").write_bytes(header + bytes(fmt.PAGE_BYTES) + noise)
    queue, _ = adopt(folder)
    assert drain(queue) == []
    assert closes(queue.stats())
    queue.close()


@pytest.mark.parametrize("text", ["as ours", "another"])
def test_a_newer_format_is_left_alone(tmp_path: Path, text: str) -> None:
    """A segment of a newer release is neither damage nor orphan, whatever that writes behind the version."""
    path = left_by_a_dead_writer(tmp_path / "j", 3)
    data = bytearray(path.read_bytes())
    data[8] = fmt.VERSION + 1
    length = int.from_bytes(data[16:20], "little")
    data[64 : 64 + length] = bytes(data[64 : 64 + length]).replace(b'"version":1', b'"version":2')
    if text == "as ours":
        data[20:24] = fmt.crc32(data[64 : 64 + length]).to_bytes(4, "little")
    path.write_bytes(data)
    queue, heard = adopt(tmp_path / "j")
    assert drain(queue) == []
    assert path.read_bytes() == bytes(data)
    [said] = [one for one in heard if isinstance(one, Trouble)]
    assert said.what == "newer_format"
    assert said.detail.endswith("left alone: format version 2; this release reads up to 1; a newer release can send it")


def test_modes_whatever_the_umask(tmp_path: Path) -> None:
    """Folders 0700, files 0600."""
    before = os.umask(0)
    try:
        queue = JournalQueue(tmp_path / "j")
        queue.put([event(1)])
        for folder, _, files in os.walk(tmp_path / "j"):
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
            assert all(stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600 for name in files)
    finally:
        os.umask(before)


def test_an_unusable_folder_says_what_to_do(tmp_path: Path) -> None:
    """A file in the way, and a folder of somebody else, are named with the remedy."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(JournalUnusable, match="choose another"):
            JournalQueue(path)


def test_a_path_means_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home folder and bytes are a path; what names no folder is an error, not the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/j", Path("~/j"), os.fsencode(tmp_path / "j"), "j"):
        assert JournalQueue(path).path == os.path.realpath(tmp_path / "j")
    assert inspect.folder_status("~/j").path == os.path.realpath(tmp_path / "j")
    for nothing in ("", b"", "~nobody-of-this-name/j"):
        with pytest.raises(ValueError, match="must name a folder"):
            JournalQueue(nothing)
    with pytest.raises(TypeError):
        JournalQueue(None)  # type: ignore[arg-type]  # on purpose
    assert [one.name for one in tmp_path.iterdir()] == ["j"]


def test_without_file_locks_it_says_what_to_use(tmp_path: Path) -> None:
    """On a POSIX system, too, if this Python was built without fcntl; nothing is made."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from eventpost import JournalQueue\n"
        f"try: JournalQueue({str(tmp_path / 'j')!r})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("JournalUnusable JournalQueue needs POSIX file locks")
    assert "use MemoryQueue" in said
    assert not (tmp_path / "j").exists()


def test_no_segment_before_the_first_put(tmp_path: Path) -> None:
    """Preload, then fork: the constructor leaves no writer behind."""
    JournalQueue(tmp_path / "j")
    assert not list((tmp_path / "j/segments").iterdir())
    assert not list((tmp_path / "j/writers").iterdir())


def test_on_macos_a_sync_goes_through_the_drives_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There ``fsync`` stops at the drive's cache: at ``fsync`` no put returns before F_FULLFSYNC of its segment."""
    full_syncs: list[int] = []

    def control(fd: int, command: int) -> int:
        assert command == 51
        full_syncs.append(os.fstat(fd).st_ino)
        return 0

    macs = SimpleNamespace(**{**vars(fcntl), "F_FULLFSYNC": 51, "fcntl": control})
    monkeypatch.setattr(disk_module, "fcntl", macs)
    queue = JournalQueue(tmp_path / "j", "fsync")
    queue.put([event(1)])
    (segment,) = (tmp_path / "j" / "segments").iterdir()
    assert full_syncs[-1] == segment.stat().st_ino
    before = len(full_syncs)
    queue.put([event(2)])
    assert full_syncs[before:] == [segment.stat().st_ino]
    queue.close()


class BrokenDisk(Disk):
    """A disk whose named methods fail when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fail: dict[str, OSError] = {}

    def allocate(self, fd: int, length: int, *, written: bool) -> None:
        """Fail as told."""
        if "allocate" in self.fail:
            raise self.fail["allocate"]
        super().allocate(fd, length, written=written)

    def datasync(self, fd: int) -> None:
        """Fail as told."""
        if "datasync" in self.fail:
            raise self.fail["datasync"]
        super().datasync(fd)


def test_a_full_disk_is_a_refusal(tmp_path: Path) -> None:
    """No room for a new segment: refused with its reason; what was accepted stays, and later puts work again."""
    disk = BrokenDisk()
    queue = JournalQueue(tmp_path / "j", disk=disk)
    queue.put([event(0)])
    disk.fail["allocate"] = OSError(28, "No space left on device")
    accepted = 1
    with pytest.raises(QueueUnavailable) as refused:  # noqa: PT012  # the put that fails is not known beforehand
        for n in range(1, 100_000):
            queue.put([event(n)])
            accepted += 1
    assert refused.value.reason == "disk_full"
    disk.fail.clear()
    queue.put([event(accepted)])
    assert drain(queue) == list(range(accepted + 1))


def test_a_failed_sync_is_a_refusal_and_not_repeated(tmp_path: Path) -> None:
    """At fsync, what could not be synced is refused and never sent; the segment is given up; the next one works."""
    disk = BrokenDisk()
    queue = JournalQueue(tmp_path / "j", "fsync", disk=disk)
    queue.put([event(0)])
    disk.fail["datasync"] = OSError(5, "Input/output error")
    with pytest.raises(QueueUnavailable) as refused:
        queue.put([event(1)])
    assert refused.value.reason == "sync_failed"
    disk.fail.clear()
    queue.put([event(2)])
    assert queue.stats().accepted == 2
    assert drain(queue) == [0, 2]


def test_a_folder_that_vanishes_costs_a_refusal(tmp_path: Path) -> None:
    """The open segment goes on without its name; the next one is refused or made anew; nothing crashes."""
    queue = JournalQueue(tmp_path / "j", segment_bytes_max=1 << 18)
    queue.put([event(0)])
    shutil.rmtree(tmp_path / "j")
    (tmp_path / "j").write_text("a file in its place")
    with pytest.raises(QueueUnavailable):  # noqa: PT012  # as above
        for n in range(1, 20_000):
            queue.put([event(n)])
    queue.stats()
    queue.tend()
    queue.close()


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("sends", [True, False], ids=["sends", "stores"])
def test_a_folder_that_is_gone_takes_nothing_after_a_second(tmp_path: Path, durability: Any, *, sends: bool) -> None:
    """Not even into the segment that is open, where it would be nobody's; what that held is counted."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path / "j", durability, clock=clock)
    queue.sends = sends
    queue.put([event(0)])
    shutil.rmtree(tmp_path / "j")
    clock.advance(1.0)
    for several in ([event(1)], [event(1), event(2)]):
        with pytest.raises(QueueUnavailable) as refused:
            queue.put(several)
        assert refused.value.reason == "folder_gone"
    stats = queue.stats()
    assert closes(stats)
    assert stats.accepted == 1
    queue.close()
    assert sum(queue.stats().dropped.values()) + queue.stats().queued == 1


def test_a_segment_that_is_gone_is_followed_by_another(tmp_path: Path) -> None:
    """Somebody removed the file, and the folder is there: the next second's event is in a new one."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path / "j", clock=clock)
    queue.sends = False
    queue.put([event(0)])
    for segment in (tmp_path / "j/segments").iterdir():
        segment.unlink()
    clock.advance(1.0)
    queue.put([event(1)])
    assert len(list((tmp_path / "j/segments").iterdir())) == 1
    queue.close()
    assert queue.stats().dropped == {"vanished": 1}
    other = JournalQueue(tmp_path / "j")
    other.scan()
    assert drain(other) == [1]
    other.close()


def test_the_bound_refuses(tmp_path: Path) -> None:
    """Full is QueueFull; after delivery there is room again."""
    queue = JournalQueue(tmp_path / "j", bytes_max=2 << 20)
    accepted = 0
    with pytest.raises(QueueFull):  # noqa: PT012  # as above
        for n in range(100_000):
            queue.put([event(n, 500)])
            accepted += 1
    assert accepted > 1500
    assert drain(queue) == list(range(accepted))
    queue.put([event(1)])


def test_drop_oldest_drops_whole_segments_and_counts_each_event(tmp_path: Path) -> None:
    """The newest events stay; accepted = delivered + dropped."""
    queue = JournalQueue(tmp_path / "j", bytes_max=2 << 20, overflow="drop_oldest")
    for n in range(10_000):
        queue.put([event(n, 500)])
        if not n % 500:
            assert closes(queue.stats())
    got = drain(queue)
    stats = queue.stats()
    assert got == list(range(10_000 - len(got), 10_000))
    assert stats.dropped == {"overflow": 10_000 - len(got)}
    assert stats.accepted == 10_000


def test_a_put_in_a_signal_handler_that_interrupts_a_put(tmp_path: Path) -> None:
    """Neither deadlock nor loss nor a torn count, wherever the signal falls."""
    queue = JournalQueue(tmp_path / "j", segment_bytes_max=1 << 18)
    numbers, put, inside = iter(range(1_000_000, 2_000_000)), [], []

    def handler(*_: object) -> None:
        if len(inside) == 3:  # a machine that is too busy to serve them as they come
            return
        number = next(numbers)
        inside.append(number)
        queue.put([event(number)])
        put.append(number)
        inside.remove(number)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    try:
        for n in range(20_000):
            queue.put([event(n)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(put) > 5
    assert queue.stats().accepted == 20_000 + len(put)
    assert sorted(drain(queue)) == sorted([*range(20_000), *put])


def test_the_sum_closes_when_a_put_interrupts_its_reading(tmp_path: Path) -> None:
    """On the same thread, as a signal handler's does: no lock keeps it out."""
    queue, puts = JournalQueue(tmp_path / "j"), 0
    for at in range(1, 100_000, 3):
        before = queue.stats().accepted
        stats = interrupted(queue.stats, at, lambda: queue.put([event(0)]))
        after = queue.stats().accepted
        assert closes(stats), (at, stats)
        assert before <= stats.accepted <= after
        puts += 1
        if after == before:  # it has no such instruction any more
            break
    assert puts == after + 1 > 30
    queue.close()


def test_the_sum_closes_when_its_reading_interrupts_a_put(tmp_path: Path) -> None:
    """Also one that ends a segment and begins the next."""
    queue, read = JournalQueue(tmp_path / "j", segment_bytes_max=1 << 18), []
    big = [event(0, 200_000)]
    for at in range(1, 100_000, 3):
        interrupted(lambda: queue.put(big), at, lambda: read.append(queue.stats()))
        if not read:
            break
        assert closes(read.pop()), at
        queue.ack(queue.claim(URL, 9, 1 << 30))
        queue.tend()
    assert at > 100
    queue.close()


def test_an_exception_out_of_a_put_loses_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt in the middle of an append: what was promised before and after is delivered once."""
    queue = JournalQueue(tmp_path / "j")
    others: list[object] = []

    class Stop(BaseException):
        pass

    def swallowed(what: object) -> None:  # by Python, where it comes in the middle of a weak reference's callback
        if what.exc_type is not Stop:  # type: ignore[attr-defined]  # sys.UnraisableHookArgs, which only stubs have
            others.append(what)

    monkeypatch.setattr(sys, "unraisablehook", swallowed)

    def handler(*_: object) -> None:
        raise Stop

    promised: list[int] = []
    before = signal.signal(signal.SIGALRM, handler)
    gc.disable()  # others' callbacks of the collector are interrupted, too, and say so
    try:
        for n in range(400):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + (n % 17) * 0.00001)
                for k in range(30):
                    queue.put([event(n * 100 + k)])
                    promised.append(n * 100 + k)
                time.sleep(0.01)  # not pause: a signal that comes just before it is not seen by it
            except Stop:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    got = drain(queue)
    assert len(got) == len(set(got))
    assert set(promised) <= set(got)
    assert closes(queue.stats())
    assert others == []


@pytest.mark.parametrize("several", [0, 1])
def test_an_interruption_out_of_a_put_at_any_instruction(tmp_path: Path, several: int) -> None:
    """What it was about is stored or not; all else is delivered once, and the next put is taken."""
    queue = JournalQueue(tmp_path / "j", segment_bytes_max=1 << 18)
    promised: list[int] = []

    class Stop(BaseException):
        pass

    def stop() -> None:
        raise Stop

    def stopped(at: int) -> bool:
        numbers = [10 * at, 10 * at + 1][: 1 + several]
        events = [event(n) for n in numbers]
        try:
            interrupted(lambda: queue.put(events), at, stop)
        except Stop:
            return True
        promised.extend(numbers)
        return False

    at, got = 1, []
    while stopped(at):
        at += 3
        queue.put([event(10 * at + 9)])
        promised.append(10 * at + 9)
        got += drain(queue)
    got += drain(queue)
    assert at > 100
    assert len(got) == len(set(got))
    assert set(promised) <= set(got)
    assert closes(queue.stats())
    queue.close()


def test_dead_letters_expire_by_age(tmp_path: Path) -> None:
    """The oldest go first, counted as dead_expired."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path / "j", clock=clock, dead_age_max_s=3600)
    queue.put([event(n) for n in range(3)])
    queue.bury(queue.claim(URL, 3, 1 << 20), "rejected")
    assert queue.stats().dead == 3
    clock.advance(3700)
    queue.tend()
    stats = queue.stats()
    assert (stats.dead, stats.dropped) == (0, {"dead_expired": 3})
    assert closes(stats)


def test_the_bounds_of_dead_letters_are_the_folders(tmp_path: Path) -> None:
    """Who names none, as ``eventpost send`` does, expires nothing that who named one would keep; the last one wins."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path / "j", clock=clock, dead_age_max_s=None)
    queue.put([event(n) for n in range(3)])
    queue.bury(queue.claim(URL, 3, 1 << 20), "rejected")
    queue.close()
    clock.advance(365 * 86_400)

    def dead(**named: Any) -> int:
        other = JournalQueue(tmp_path / "j", clock=clock, adopt="always", **named)
        other.tend()
        other.close()
        return inspect.folder_status(tmp_path / "j").dead

    assert dead() == 3
    assert dead(dead_bytes_max=1 << 20) == 3
    (tmp_path / "j/bounds.json").write_text('{"dead_age_max_s":-1}')
    assert dead() == 3  # damaged: rather too much room than a letter too few
    assert dead(dead_age_max_s=30 * 86_400.0) == 0
    assert stat.S_IMODE((tmp_path / "j/bounds.json").stat().st_mode) == 0o600


def test_bounds_that_two_processes_name_at_once_are_both_noted(tmp_path: Path) -> None:
    """Each reads the note and writes it anew: neither takes back what the other named meanwhile."""
    JournalQueue(tmp_path / "j")
    other = threading.Thread(target=lambda: JournalQueue(tmp_path / "j", dead_bytes_max=None), daemon=True)

    def meanwhile(path: str, *_: Any) -> None:
        if path.endswith(".tmp") and not other.ident:
            other.start()
            other.join(0.2)

    disk = HookedDisk()
    disk.hooks["create"] = meanwhile
    JournalQueue(tmp_path / "j", dead_age_max_s=60, disk=disk)
    other.join(10)
    assert json.loads((tmp_path / "j/bounds.json").read_text()) == {"dead_age_max_s": 60, "dead_bytes_max": None}


def test_bounds_that_cannot_be_noted_are_said_and_hold_nobody_up(tmp_path: Path) -> None:
    """Whoever holds the lock may have been stopped: the process goes on, after half a second."""
    said: list[Signal] = []
    JournalQueue(tmp_path / "j")
    with open(tmp_path / "j/totals.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        queue = JournalQueue(tmp_path / "j", dead_age_max_s=60)
    queue.emit = said.append
    queue.put([event(1)])
    assert ["totals.lock" in one.detail for one in said if isinstance(one, Trouble)] == [True]
    assert not (tmp_path / "j/bounds.json").exists()


def test_who_only_stores_learns_what_others_delivered(tmp_path: Path) -> None:
    """With ``sends`` False another process adopts at once, also from the open segment; the sum closes on both sides."""
    writer = JournalQueue(tmp_path / "j")
    writer.sends = False
    writer.put([event(n) for n in range(10)])
    sender, _ = adopt(tmp_path / "j", adopt="always")
    assert drain(sender) == list(range(10))
    writer.put([event(10)])
    assert drain(sender) == [10]
    stats = writer.stats()
    assert (stats.accepted, stats.delivered, stats.queued) == (11, 11, 0)
    assert sender.stats().adopted == 11
    writer.close()
    sender.scan()
    drain(sender)
    sender.close()
    assert not list((tmp_path / "j/segments").iterdir())


def test_one_of_many_that_sends_follows_who_only_stores(tmp_path: Path) -> None:
    """What an idle writer without a sender puts is looked for four times a second, its new segments too; not else."""
    sender = JournalQueue(tmp_path / "j", sync_interval_s=0)
    assert sender.tend() == pytest.approx(5.0, abs=0.1)
    writer = JournalQueue(tmp_path / "j")
    writer.sends = False
    writer.put([event(0)])
    sender.scan()
    for number in range(1, 4):
        assert sender.tend() <= 0.25
        assert drain(sender) == [number - 1]
        writer.put([event(number)])
    writer.put([event(4, url=URL + "/another")])
    time.sleep(0.3)
    sender.tend()
    assert drain(sender, URL + "/another") == [4]
    writer.close()
    assert drain(sender) == [3]
    assert drain(sender, URL + "/another") == []
    assert sender.tend() > 1
    sender.close()


def test_a_living_senders_segments_are_its_own(tmp_path: Path) -> None:
    """Nobody adopts from a writer that lives and sends."""
    writer = JournalQueue(tmp_path / "j", segment_bytes_max=1 << 18)
    for n in range(5000):
        writer.put([event(n)])
    other, _ = adopt(tmp_path / "j", adopt="always")
    assert drain(other) == []
    assert drain(writer) == list(range(5000))


def test_mutual_exclusion_of_adopters(tmp_path: Path) -> None:
    """Two adopters, one orphan: one of them has it."""
    left_by_a_dead_writer(tmp_path / "j", 50)
    first, _ = adopt(tmp_path / "j", adopt="always")
    second, _ = adopt(tmp_path / "j", adopt="always")
    assert drain(second) == []
    assert len(first.claim(URL, 20, 1 << 20)) == 20
    first.close()
    second.scan()
    assert drain(second) == list(range(50))


def test_a_child_starts_from_zero_and_leaves_its_parent_alone(tmp_path: Path) -> None:
    """After fork each delivers its own events; the parent's death frees its locks even while the child lives."""
    queue = JournalQueue(tmp_path / "j")
    queue.put([event(1)])
    read, write = os.pipe()
    child = os.fork()
    if not child:
        queue.after_fork_in_child()
        queue.put([event(2)])
        ok = drain(queue) == [2] and queue.stats().accepted == 1
        os.write(write, b"y" if ok else b"n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"y"
    assert drain(queue) == [1]


@pytest.mark.parametrize("mapped", [True, False])
def test_both_ways_to_store(tmp_path: Path, *, mapped: bool) -> None:
    """A mapping, and pwrite where a mapping can't be trusted."""
    queue = JournalQueue(tmp_path / "j", disk=Disk(mapped=mapped))
    for n in range(3000):
        queue.put([event(n)])
    assert drain(queue) == list(range(3000))
    queue.close()


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    """A symbolic link in the place of a segment or a lock is an error, not a way out of the folder."""
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    queue = JournalQueue(tmp_path / "j")
    (tmp_path / "j/segments/0000000000001-1.aa-000000.seg").symlink_to(target)
    (tmp_path / "j/totals.lock").symlink_to(target)
    queue.scan()
    queue.put([event(1)])
    drain(queue)
    assert target.read_bytes() == b"precious"


def test_telling_the_oldest_ages_reads_no_windows(tmp_path: Path) -> None:
    """A backlog of many segments costs memory for the one that is being read, and not for each that ``stats`` asks."""
    left_by_a_dead_writer(tmp_path, 50)
    queue, _ = adopt(tmp_path)
    assert queue.stats().oldest_age_s is not None
    cursors = queue._claims.open
    assert cursors
    assert not any(cursor.buffer for cursor in cursors)
    queue.close()
