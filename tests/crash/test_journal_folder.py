"""What a folder that many share costs its processes, and what they may not do to each other there."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, URL, HookedDisk, closes, drain, event

from eventpost.errors import QueueFull, QueueUnavailable
from eventpost.queues.journal import JournalQueue, inspect, orphans
from eventpost.queues.protocol import Answer
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal, Trouble

BIG = 200_000
"""Of two such events, each begins a segment of its own."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where a journal may be made."""
    return tmp_path / "j"


def names(folder: Path, part: str = "segments") -> list[str]:
    """Return the names in a part of a journal's folder."""
    return sorted(os.listdir(folder / part))


def crash(queue: JournalQueue) -> None:
    """Let a queue end as kill -9 would: its descriptors are closed, nothing is written."""
    queue.after_fork_in_child()


def dead_after(folder: Path, work: Callable[[JournalQueue], Any]) -> None:
    """Run a piece of work on a journal, then crash."""
    queue = JournalQueue(folder)
    work(queue)
    crash(queue)


def fails(code: int, where: str = "") -> Callable[..., None]:
    """Return a hook that fails, for paths that end so."""

    def fail(path: object = "", *_: object, **__: object) -> None:
        if str(path).endswith(where):
            raise OSError(code, os.strerror(code))

    return fail


def put_soon(queue: JournalQueue, number: int) -> None:
    """Put a big event; what others have freed may be noticed a moment later."""
    deadline = time.monotonic() + 10
    while True:
        try:
            queue.put([event(number, BIG)])
        except QueueFull:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


# -- who looks


def test_one_process_looks_for_leftovers_and_the_next_one_when_it_dies(folder: Path) -> None:
    """The elected one adopts within 5 s; the others do not even list the segments; its death is found as soon."""
    clock = ManualClock()
    disks = [HookedDisk(), HookedDisk()]
    first, second = (JournalQueue(folder, disk=disk, clock=clock) for disk in disks)
    first.tend()
    looked: list[str] = []
    disks[1].hooks["names"] = looked.append
    for queue in (first, second):
        queue.put([event(0, url=f"{URL}/own")])
    looked.clear()
    dead_after(folder, lambda queue: queue.put([event(1)]))
    due: list[float] = []
    for _ in range(5):
        clock.advance(1.0)
        due += [left_s for queue in (second, first) if (left_s := queue.tend()) is not None]
    assert max(due) <= 5.0
    assert drain(second) == []
    assert looked == []
    assert drain(first) == [1]
    dead_after(folder, lambda queue: queue.put([event(2)]))
    crash(first)
    clock.advance(5.0)
    second.tend()
    assert drain(second) == [2]
    assert drain(second, f"{URL}/own") == [0, 0]


def test_nobody_waits_for_a_process_that_was_stopped(folder: Path) -> None:
    """It holds the election, the totals, its own lock and a segment of a dead writer: the others store and send on."""
    dead_after(folder, lambda queue: queue.put([event(7)]))
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        queue = JournalQueue(folder)
        assert queue.scan() == 1
        queue.put([event(8)])
        with queue.folder.notes_lock() as locked:
            os.write(told, b"x" * (1 + locked))
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        assert os.read(ready, 9) == b"xx"
        os.waitpid(child, os.WUNTRACED)
        slowest_s = 0.0
        queue = JournalQueue(folder, segment_bytes_max=1 << 18)
        works: list[Callable[[], Any]] = [
            *(lambda n=n: queue.put([event(n, BIG)]) for n in range(6)),
            lambda: queue.bury(queue.claim(URL, 1, ALL), "http_400"),
            lambda: drain(queue), queue.scan, queue.tend, queue.stats, queue.close,
        ]  # fmt: skip
        for work in works:
            began = time.monotonic()
            work()
            slowest_s = max(slowest_s, time.monotonic() - began)
        assert slowest_s < 2.0
        stats = queue.stats()
        assert closes(stats)
        assert (stats.accepted, stats.delivered, stats.dead) == (6, 5, 1)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)
    other = JournalQueue(folder)
    other.scan()
    assert sorted(drain(other)) == [7, 8]
    other.close()
    status = inspect.folder_status(folder)
    assert (status.closes, status.accepted, status.delivered, status.dead) == (True, 8, 7, 1)


def test_a_look_reads_each_header_once(folder: Path) -> None:
    """Segments of those who live and send cost a look their names, however many there are and however often it is."""
    writer = JournalQueue(folder, segment_bytes_max=1 << 18)
    for n in range(20):
        writer.put([event(n, BIG)])
    disk = HookedDisk()
    other = JournalQueue(folder, adopt="always", disk=disk)
    reads: list[int] = []
    disk.hooks["read"] = lambda _, length, __: reads.append(length)
    other.scan()
    first = len(reads)
    other.scan()
    assert 20 <= first <= 70
    assert len(reads) - first <= 3
    crash(writer)
    other._orphans._alive.clear()
    assert other.scan() == 20


def test_a_backlog_for_one_endpoint_holds_up_no_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More leftovers than are adopted at once are for an endpoint that is down: another's are sent all the same."""
    monkeypatch.setattr(orphans, "_ADOPTED_MAX", 6)
    monkeypatch.setattr(orphans, "_ADOPTED_EXTRA", 3)
    monkeypatch.setattr(orphans, "_ADOPTED_OF_LANE", 2)
    for n in range(9):
        dead_after(folder, lambda queue, n=n: queue.put([event(n)]))
    for n in range(4):
        dead_after(folder, lambda queue, n=n: queue.put([event(n, url=f"{URL}/up")]))
    queue = JournalQueue(folder)
    assert queue.scan() == 8
    got: list[int] = []
    for _ in range(3):
        got += drain(queue, f"{URL}/up")
        assert len(queue._claims.open) <= 9
        queue.scan()
    assert sorted(got) == [0, 1, 2, 3]
    assert len(queue.claim(URL, 100, ALL)) == 6


# -- who is full


def test_a_full_journal_refuses_without_looking_each_time(folder: Path) -> None:
    """A look takes what it takes; a refusal is answered from the last one for some twenty times that long."""
    disk = HookedDisk()
    queue = JournalQueue(folder, bytes_max=1 << 20, disk=disk)
    with pytest.raises(QueueFull):  # noqa: PT012  # the put that fails is not known beforehand
        while True:
            queue.put([event(0, BIG)])
    looks = 0

    def slow(path: str) -> None:
        nonlocal looks
        looks += 1
        time.sleep(0.01)

    disk.hooks["names"] = slow
    time.sleep(0.2)
    for _ in range(50):
        with pytest.raises(QueueFull):
            queue.put([event(1, BIG)])
    assert looks <= 6
    drain(queue)
    queue.put([event(2, BIG)])
    assert closes(queue.stats())


@pytest.mark.parametrize("bound", [None, 2 << 20])
def test_what_another_delivered_is_tidied_in_parts(folder: Path, bound: int | None) -> None:
    """All at once would hold up the application's put; at the bound no more goes than is needed, and none is lost."""
    disk = HookedDisk()
    options = {} if bound is None else {"bytes_max": bound}
    queue = JournalQueue(folder, segment_bytes_max=1 << 18, disk=disk, **options)
    queue.sends = False
    put = 0
    try:
        for put in range(60):
            queue.put([event(put, BIG)])
    except QueueFull:
        put -= 1
    put += 1
    sender = JournalQueue(folder, adopt="always")
    sender.scan()
    delivered = len(drain(sender))
    old = set(names(folder))
    more = len(old) // 2 + 1
    syncs: list[int] = []
    disk.hooks["datasync"] = syncs.append
    most = 0
    for n in range(more):
        syncs.clear()
        put_soon(queue, put + n)
        most = max(most, len(syncs))
    assert 1 <= most <= 3
    assert len(old & set(names(folder))) <= 1
    assert closes(queue.stats())
    queue.close()
    sender.scan()
    assert delivered + len(drain(sender)) == put + more
    sender.close()
    assert inspect.folder_status(folder).closes


@pytest.mark.parametrize("why", ["the totals cannot be written", "nor can the header be read, for want of room"])
def test_what_cannot_be_tidied_refuses_no_put(folder: Path, why: str) -> None:
    """It is said, costs no event, and is done once it can be."""
    disk = HookedDisk()
    queue, heard = JournalQueue(folder, segment_bytes_max=1 << 18, disk=disk), list[Signal]()
    queue.emit = heard.append
    queue.sends = False
    queue.put([event(0, BIG)])
    queue.put([event(1, BIG)])
    sender = JournalQueue(folder, adopt="always")
    sender.scan()
    assert drain(sender) == [0, 1]
    [first, _] = names(folder)
    header = (folder / "segments" / first).read_bytes()[:80]
    if why == "the totals cannot be written":
        disk.hooks["create"] = fails(errno.EIO, ".totals.tmp")
    else:
        disk.hooks["create"] = fails(errno.ENOSPC, ".totals.tmp")
        with (folder / "segments" / first).open("r+b") as file:
            file.write(b"x" * 80)
    queue.put([event(2, BIG)])
    assert [type(one) for one in heard] == [Trouble]
    assert queue.stats().accepted == 3
    disk.hooks.clear()
    with (folder / "segments" / first).open("r+b") as file:
        file.write(header)
    queue.close()
    sender.close()
    status = inspect.folder_status(folder)
    assert (status.closes, status.accepted, status.delivered, status.queued) == (True, 3, 2, 1)
    assert len(names(folder)) == 1


# -- what is lost is counted


def test_who_only_stores_counts_what_somebody_removed(folder: Path) -> None:
    """A sealed segment is gone from the folder, some of its events delivered before: the others are counted as lost."""
    queue, heard = JournalQueue(folder, segment_bytes_max=1 << 18), list[Signal]()
    queue.emit = heard.append
    queue.sends = False
    for n in range(60):
        queue.put([event(n, 9000)])
    sender = JournalQueue(folder, adopt="always")
    sender.scan()
    sender.ack(sender.claim(URL, 5, ALL))
    assert queue.stats().delivered == 5
    [first, *_] = names(folder)
    os.unlink(folder / "segments" / first)
    queue.sync(1.0)
    stats = queue.stats()
    assert closes(stats)
    assert (stats.accepted, stats.delivered) == (60, 5)
    assert stats.dropped == {"vanished": 60 - 5 - stats.queued}
    assert 0 < stats.queued < 55
    assert [type(one) for one in heard] == [Trouble]


def test_what_was_refused_and_then_removed_is_not_counted_as_lost(folder: Path) -> None:
    """Events that were never promised are neither accepted nor lost with their segment."""
    queue = JournalQueue(folder, "fsync", segment_bytes_max=1 << 18)
    for n in range(4):
        queue.put([event(n)])
    writer = queue._store._levels[0][URL]
    with queue._claims.lock, queue._store.lock:
        queue._claims.void(writer, [1])
    queue.put([event(4, BIG)])
    queue.put([event(5, BIG)])
    os.unlink(writer.path)
    assert drain(queue)[-1:] == [5]
    stats = queue.stats()
    assert closes(stats)
    assert stats.accepted == 5


def test_two_flushes_at_once_both_wait_for_the_device(folder: Path) -> None:
    """Who only stores: the second one does not take what the first is about to sync for safe."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.sends = False
    queue.put([event(0)])
    syncing, goes_on = threading.Event(), threading.Event()
    synced = Counter[int]()

    def hang_the_first(_: int) -> None:
        synced[threading.get_ident()] += 1
        if not syncing.is_set():
            syncing.set()
            assert goes_on.wait(10)

    disk.hooks["datasync"] = hang_the_first
    first = threading.Thread(target=queue.sync, args=(1.0,))
    first.start()
    assert syncing.wait(10)
    assert queue.sync(1.0)
    assert synced[threading.get_ident()] == 1
    goes_on.set()
    first.join(10)
    assert queue.sync(1.0)
    assert synced.total() == 2, "what is safe is not synced again"


# -- what is left behind


@pytest.mark.parametrize("where", ["a put", "a look"])
def test_a_lock_that_the_system_refuses_leaves_no_descriptor(folder: Path, where: str) -> None:
    """The kernel may have no lock to give: each try is a refusal, and closes what it opened."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    disk.hooks["lock"] = fails(errno.ENOLCK)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(5):
        if where == "a put":
            with pytest.raises(QueueUnavailable):
                queue.put([event(n)])
        else:
            queue.scan()
    assert len(os.listdir("/proc/self/fd")) == before
    assert names(folder, "writers") == []
    disk.hooks.clear()
    queue.put([event(9)])
    assert drain(queue) == [9]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("shared", [False, True])
def test_every_file_is_private_whatever_the_umask(folder: Path, umask: int, *, shared: bool) -> None:
    """Or the group's where it was asked for: segments, dead letters, notes, locks, what was set aside."""
    before = os.umask(umask)
    try:
        dead_after(folder, lambda queue: queue.put([event(n) for n in range(3)]))
        [name] = names(folder)
        (folder / "segments" / name).unlink()
        group = os.getegid() if shared else None
        queue = JournalQueue(folder.with_name("k"), group=group, dead_bytes_max=1 << 20)
        queue.put([event(n, BIG) for n in range(2)])
        queue.bury(queue.claim(URL, 1, ALL), "http_400", Answer(400))
        queue.put([event(3)])
        drain(queue)
        queue.tend()
        queue.folder.set_aside("x", 1, b"damaged")
        queue.put([event(4)])
        found = {path: path.lstat() for path in [Path(queue.path), *Path(queue.path).rglob("*")]}
    finally:
        os.umask(before)
    parts = {str(path.relative_to(queue.path)).partition("/")[0] for path in found}
    assert parts >= {"segments", "dead", "bad", "writers", "scanner.lock", "totals.json", "totals.lock", "bounds.json"}
    for path, info in found.items():
        if stat.S_ISDIR(info.st_mode):
            assert stat.S_IMODE(info.st_mode) == (0o2770 if shared else 0o700), path
        else:
            assert stat.S_IMODE(info.st_mode) == (0o660 if shared else 0o600), path
    queue.close()


def test_a_dead_letter_without_bounds_is_kept(folder: Path) -> None:
    """None is no bound, of bytes and of age, also for the process that comes next and names none."""
    clock = ManualClock()
    queue = JournalQueue(folder, dead_bytes_max=None, dead_age_max_s=None, clock=clock)
    for n in range(4):
        queue.put([event(n, BIG)])
        queue.bury(queue.claim(URL, 1, ALL), "http_400")
    queue.close()
    clock.advance(10 * 365 * 86_400.0)
    other = JournalQueue(folder, clock=clock)
    other.tend()
    assert inspect.folder_status(folder, clock=clock).dead == 4
    bounded = JournalQueue(folder, dead_bytes_max=3 * BIG, clock=clock)
    other.close()
    clock.advance(61.0)
    bounded.tend()
    status = inspect.folder_status(folder, clock=clock)
    assert (status.dead, status.dropped) == (2, {"dead_expired": 2})
    kept = [letter.event.payload[:6] for letter in inspect.dead_letters(folder)]
    assert kept == [b'{"n":2', b'{"n":3'], "the oldest go first"


def test_dead_letters_of_a_newer_release_are_left_alone(folder: Path) -> None:
    """Neither expired, whatever their age, nor folded or repaired: counted, and said."""
    clock = ManualClock()
    queue = JournalQueue(folder, clock=clock)
    queue.put([event(0)])
    queue.bury(queue.claim(URL, 1, ALL), "http_400")
    queue.close()
    [name] = names(folder, "dead")
    path = folder / "dead" / name
    data = path.read_bytes().replace(b'"version":1', b'"version":2')
    newer = data[:8] + b"\2\0" + data[10:]
    path.write_bytes(newer)
    clock.advance(365 * 86_400.0)
    other, heard = JournalQueue(folder, dead_bytes_max=1, clock=clock), list[Signal]()
    other.emit = heard.append
    other.tend()
    other.close()
    assert path.read_bytes() == newer
    assert inspect.folder_status(folder).newer == 1
    assert [one.what for one in heard if isinstance(one, Trouble)] == ["journal"]
