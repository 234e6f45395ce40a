"""What broke the journal once: races, foreign hands in its folder, full disks, failed syncs, forks at a bad moment.

Where a race decides, a disk that stops in the middle of it makes it happen every time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, ENVELOPE, URL, HookedDisk, closes, drain, event, number_of

from eventpost import EventDispatcher
from eventpost.clock import SystemClock
from eventpost.errors import QueueFull, QueueUnavailable
from eventpost.event import Event
from eventpost.queues.journal import Disk, JournalQueue, inspect
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.disk import Map
from eventpost.queues.journal.folder import Folder
from eventpost.queues.protocol import Answer, QueueStats
from eventpost.testing.clock import ManualClock
from eventpost.testing.transports import RecordingTransport
from eventpost.watch.signals import Signal, Trouble


def names(folder: Path, part: str = "segments") -> list[str]:
    """Return the names in a part of a journal's folder."""
    return sorted(os.listdir(folder / part))


def crash(queue: JournalQueue) -> None:
    """Let a queue end as kill -9 would: its descriptors are closed, nothing is written."""
    queue.after_fork_in_child()


def dead_after(folder: Path, work: Callable[[JournalQueue], None], **options: Any) -> None:
    """Run a piece of work on a journal, then crash."""
    queue = JournalQueue(folder, **options)
    work(queue)
    crash(queue)


DAY_S = 86_400.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where a journal may be made."""
    return tmp_path / "j"


def no_space(*_: object, **__: object) -> None:
    """Be a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


# -- who lives, and who may send what


def test_a_scanner_does_not_unlink_the_lock_of_a_writer_that_just_came_to_life(folder: Path) -> None:
    """A writer takes its lock between the scanner's look and its unlink: it must still look alive afterwards."""
    disk = HookedDisk()
    looking = Folder(folder, disk=disk, gid=None, allow_network_fs=False)
    entering = Folder(folder, disk=None, gid=None, allow_network_fs=False)
    lock = folder / "writers" / "1.aa.lock"
    fd = entering.create_lock(str(lock))
    mine: list[bool] = []

    def take_it(path: str) -> None:
        if path == str(lock):
            mine.append(entering.disk.lock(fd) and entering.disk.still_named(fd, path))

    disk.hooks["unlink"] = take_it
    looking.sweep()
    assert mine
    assert not mine[0] or looking.is_alive("1.aa")


def test_a_writer_whose_lock_was_removed_makes_it_anew(folder: Path) -> None:
    """A cleaner of temporary files removes the lock: the writer soon looks alive again; nobody else sends for it."""
    clock = ManualClock()
    queue = JournalQueue(folder, clock=clock)
    queue.put([event(0)])
    shutil.rmtree(folder / "writers")
    clock.advance(6)
    queue.tend()
    other = JournalQueue(folder, adopt="always", clock=clock)
    assert other.scan() == 0
    assert drain(queue) == [0]


def test_a_folder_that_was_made_anew_is_used_like_a_new_one(folder: Path) -> None:
    """Removed and made again under a writer: what it holds open is still sent, and what it begins then is its own."""
    clock = ManualClock()
    queue = JournalQueue(folder, clock=clock, segment_bytes_max=1 << 18)
    queue.put([event(0)])
    shutil.rmtree(folder)
    other = JournalQueue(folder, adopt="always", clock=clock)
    queue.put([event(n, 1000) for n in range(1, 300)])  # begins the next segment
    assert other.scan() == 0
    assert drain(other) == []
    assert drain(queue)[-299:] == list(range(1, 300))
    assert closes(queue.stats())
    queue.close()
    other.close()


def test_segments_that_somebody_removed_do_not_stand_in_the_way(folder: Path) -> None:
    """Sealed segments are gone from the folder: their events are counted as lost, and the later ones are sent."""
    queue = JournalQueue(folder, segment_bytes_max=1 << 18)
    for n in range(1000):
        queue.put([event(n, 1000)])
    for name in names(folder)[:2]:
        os.unlink(folder / "segments" / name)
    got = drain(queue)
    stats = queue.stats()
    assert got
    assert got == list(range(1000 - len(got), 1000))
    assert stats.dropped == {"vanished": 1000 - len(got)}
    assert closes(stats)


def test_a_closed_queue_hands_out_nothing(folder: Path) -> None:
    """A sender that comes back after close, from a hung request, say, must not send what others send by now."""
    queue = JournalQueue(folder)
    queue.put([event(n) for n in range(5)])
    queue.close()
    other = JournalQueue(folder, adopt="always")
    other.scan()
    assert len(other.claim(URL, 5, ALL)) == 5
    assert queue.claim(URL, 5, ALL) == []


def test_a_closed_queue_holds_nothing(folder: Path) -> None:
    """Periodic work, a scan and a late refusal after close take no lock that others need."""
    queue = JournalQueue(folder, adopt="always")
    queue.put([event(0), event(1)])
    leases = queue.claim(URL, 1, ALL)
    queue.close()
    queue.tend()
    queue.scan()
    queue.bury(leases, "rejected", Answer(400))
    other = JournalQueue(folder)
    other.scan()
    assert drain(other) == [0, 1]
    assert inspect.folder_status(folder).closes


def test_one_file_that_cannot_be_had_does_not_stop_adoption(folder: Path) -> None:
    """An orphan that can't be opened is passed over; the next one is adopted."""
    dead_after(folder, lambda queue: queue.put([event(0)]))
    dead_after(folder, lambda queue: queue.put([event(1)]))
    first = names(folder)[0]
    disk = HookedDisk()

    def refuse(path: str, **_: object) -> None:
        if path.endswith(first):
            raise PermissionError(errno.EACCES, "Permission denied", path)

    disk.hooks["open"] = refuse
    queue = JournalQueue(folder, disk=disk)
    queue.scan()
    assert len(drain(queue)) == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to work in another user's folder")
def test_root_leaves_files_that_the_folders_user_can_use(folder: Path) -> None:
    """`eventpost send` as root: what it makes belongs to the folder's user, and to its group if shared."""
    user = 65534
    os.mkdir(folder)
    os.chown(folder, user, user)
    os.chmod(folder, 0o2770)
    queue = JournalQueue(folder)
    queue.put([event(n) for n in range(3)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected", Answer(400))
    drain(queue)
    queue.scan()
    queue.close()
    seen = 0
    for path in folder.rglob("*"):
        info = path.lstat()
        assert (info.st_uid, info.st_gid) == (user, user), path
        assert stat.S_IMODE(info.st_mode) == (0o2770 if path.is_dir() else 0o660), path
        seen += 1
    assert seen > 6


def as_user(uid: int, group: int, work: Callable[[], object]) -> None:
    """Run a piece of work in a child of another user, who is a member of the group."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.umask(0o077)
            os.setgroups([group])
            os.setgid(uid)
            os.setuid(uid)
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to become two users")
def test_two_users_of_one_group_share_a_folder() -> None:
    """One user stores and dies, another adopts, buries, folds and sweeps; the first retries, the other sends."""
    group, storing, sending = 61234, 61001, 61002
    root = Path(tempfile.mkdtemp())  # not below pytest's own folder, which is closed to others
    root.chmod(0o777)
    folder = root / "j"

    def store() -> None:
        queue = JournalQueue(folder, group=group)
        queue.put([event(n) for n in range(5)])

    def send() -> None:
        queue = JournalQueue(folder, group=group, adopt="always")
        troubles: list[Signal] = []
        queue.emit = lambda one: troubles.append(one) if type(one).__name__ == "Trouble" else None
        assert queue.scan() == 1
        queue.bury(queue.claim(URL, 1, ALL), "rejected", Answer(400))
        assert drain(queue) == [1, 2, 3, 4]
        queue.tend()
        queue.close()
        assert troubles == []

    def retry() -> None:
        assert inspect.retry_dead(folder, None) == 1  # told of no group: it follows the folder

    def send_again() -> None:
        queue = JournalQueue(folder, group=group)
        assert queue.scan() == 1
        assert drain(queue) == [0]
        queue.tend()
        queue.close()

    try:
        as_user(storing, group, store)
        as_user(sending, group, send)
        as_user(storing, group, retry)
        as_user(sending, group, send_again)
        status = inspect.folder_status(folder)
        assert (status.accepted, status.delivered, status.queued, status.dead) == (5, 5, 0, 0)
        assert names(folder) == []
    finally:
        shutil.rmtree(root)


# -- the count


def test_a_segment_is_folded_once_when_its_writer_and_its_sender_both_do(folder: Path) -> None:
    """The writer folds what the sender settled, and ends; the sender finds its writer dead and folds: counted once."""
    clock = ManualClock()
    writer = JournalQueue(folder, clock=clock)
    writer.sends = False
    lanes = [f"{URL}/{n}" for n in range(3)]
    for lane in lanes:
        writer.put([event(n, url=lane) for n in range(4)])
    sender = JournalQueue(folder, adopt="always", clock=clock)
    sender.scan()
    for lane in lanes:
        assert len(drain(sender, lane)) == 4
    writer.close()
    clock.advance(1)
    for lane in lanes:
        drain(sender, lane)
    sender.tend()
    sender.close()
    status = inspect.folder_status(folder)
    assert (status.accepted, status.delivered, status.queued) == (12, 12, 0)


def test_a_read_error_in_the_middle_of_a_claim_keeps_the_count(folder: Path) -> None:
    """What was read before the error is leased and counted; the rest comes once the disk reads again."""
    dead_after(folder, lambda queue: [queue.put([event(n, 20_000)]) for n in range(40)])
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.scan()
    reads = iter(range(10_000))

    def fail_later(*_: object) -> None:
        if next(reads) >= 1:
            raise OSError(errno.EIO, "Input/output error")

    disk.hooks["read"] = fail_later
    first = queue.claim(URL, 100, ALL)
    disk.hooks.clear()
    assert 0 < len(first) < 40
    assert closes(queue.stats())
    queue.ack(first)
    rest = drain(queue)
    assert [number_of(lease.event.payload) for lease in first] + rest == list(range(40))
    queue.tend()
    assert names(folder) == []
    assert closes(queue.stats())


class FailingMap:
    """A map whose stores fail when told to."""

    def __init__(self, inner: Map, disk: FailingMapDisk) -> None:
        self.inner = inner
        self.disk = disk

    def __getitem__(self, key: slice) -> bytes:
        """Read."""
        return self.inner[key]

    def __setitem__(self, key: slice, value: bytes) -> None:
        """Store, or fail as told."""
        if self.disk.fails(key):
            no_space()
        self.inner[key] = value

    def close(self) -> None:
        """Close."""
        self.inner.close()


class FailingMapDisk(Disk):
    """A copy-on-write file system: a store can fail for want of room."""

    def __init__(self) -> None:
        super().__init__(mapped=False)
        self.fails: Callable[[slice], bool] = lambda _: False

    def map(self, fd: int, length: int) -> Map:
        """Return a map that fails as told."""
        return FailingMap(super().map(fd, length), self)


def in_outcomes(key: slice) -> bool:
    """Tell whether a store is a note of what became of an event."""
    return fmt.PAGE_BYTES <= key.start < 2 * fmt.PAGE_BYTES and key.stop <= 2 * fmt.PAGE_BYTES


def test_a_delivery_that_cannot_be_noted_can_be_noted_later(folder: Path) -> None:
    """An ack raises on a full disk; asked again, it settles what it could not, and the sum closes all the time."""
    disk = FailingMapDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.put([event(n) for n in range(5)])
    leases = queue.claim(URL, 5, ALL)
    disk.fails = in_outcomes
    with pytest.raises(OSError, match="No space"):
        queue.ack(leases)
    assert closes(queue.stats())
    disk.fails = lambda _: False
    queue.ack(leases)
    stats = queue.stats()
    assert (stats.in_flight, stats.delivered) == (0, 5)
    queue.close()
    assert names(folder) == []


def test_a_dead_letter_whose_note_fails_is_not_counted_twice(folder: Path) -> None:
    """The letter is stored, its note is not: the event goes back to the queue, and the folder's sum closes."""
    clock, disk = ManualClock(), FailingMapDisk()
    queue = JournalQueue(folder, disk=disk, clock=clock)
    queue.put([event(n) for n in range(3)])
    leases = queue.claim(URL, 3, ALL)
    disk.fails = in_outcomes
    queue.bury(leases, "rejected", Answer(400))
    disk.fails = lambda _: False
    stats = queue.stats()
    assert (stats.queued, stats.in_flight, stats.dead) == (3, 0, 0)
    status = inspect.folder_status(folder)
    assert (status.queued, status.dead) == (3, 0)
    clock.advance(61)
    queue.bury(queue.claim(URL, 3, ALL), "rejected", Answer(400))
    queue.close()
    status = inspect.folder_status(folder)
    assert (status.accepted, status.queued, status.dead) == (3, 0, 3)
    assert status.closes


def test_a_dead_letter_that_cannot_be_synced_is_not_counted_twice(folder: Path) -> None:
    """At fsync a letter whose sync failed does not count; the segment is given up, and the next letter counts once."""
    clock, disk = ManualClock(), HookedDisk()
    queue = JournalQueue(folder, "fsync", disk=disk, clock=clock)
    queue.put([event(0)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected", Answer(400))
    queue.put([event(1)])
    leases = queue.claim(URL, 1, ALL)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk.hooks["datasync"] = fail
    queue.bury(leases, "rejected", Answer(400))
    disk.hooks.clear()
    clock.advance(61)
    queue.bury(queue.claim(URL, 1, ALL), "rejected", Answer(400))
    assert queue.stats().dead == 2
    queue.close()
    status = inspect.folder_status(folder)
    assert (status.accepted, status.dead, status.queued) == (2, 2, 0)


def test_events_beyond_a_damaged_place_are_counted_when_they_are_dropped(folder: Path) -> None:
    """A dead writer's segment with a damaged frame makes room: the folder's sum closes."""
    dead_after(folder, lambda queue: [queue.put([event(n, 300)]) for n in range(500)])
    [name] = names(folder)
    path = folder / "segments" / name
    data = bytearray(path.read_bytes())
    data[data.index(b'{"n":100,')] ^= 0xFF
    data[fmt.PAGE_BYTES + 499] = fmt.Outcome.DELIVERED
    path.write_bytes(data)
    queue = JournalQueue(folder, bytes_max=1 << 20, overflow="drop_oldest")
    for n in range(3000):
        queue.put([event(n, 500)])
    queue.close()
    status = inspect.folder_status(folder)
    assert not (folder / "segments" / name).exists()
    assert (status.accepted, status.delivered) == (3500, 1)
    assert status.closes, status


def test_totals_that_nobody_can_fold_now_cost_no_further_segment(folder: Path) -> None:
    """drop_oldest while another process is at the totals: it drops what it needs and folds it later."""
    queue = JournalQueue(folder, bytes_max=2 << 20, overflow="drop_oldest")
    queue.put([event(0)])
    fd = os.open(folder / "totals.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    before = 0
    n = 1
    while not queue.stats().dropped:
        before = len(names(folder))
        queue.put([event(n, 500)])
        n += 1
    dropped = queue.stats().dropped["overflow"]
    assert dropped <= 1100, f"{dropped} events of {n} for the room of one segment of {before}"
    os.close(fd)
    got = drain(queue)
    queue.close()
    assert len(got) + dropped == n
    assert names(folder) == []
    assert inspect.folder_status(folder).closes


# -- disks


def test_a_full_disk_does_not_keep_delivered_events(folder: Path) -> None:
    """No room for new totals: the room comes from the settled segment, or the disk would stay full for good."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.put([event(n) for n in range(50)])
    queue.put([event(n, 6000) for n in range(100)])
    segment = folder / "segments" / names(folder)[0]

    def full_until_it_shrinks(path: str, *_: object) -> None:
        if path.endswith(".totals.tmp") and segment.exists() and segment.stat().st_size > 3 * fmt.PAGE_BYTES:
            no_space()

    disk.hooks["create"] = full_until_it_shrinks
    assert len(drain(queue)) == 150
    queue.close()
    assert names(folder) == []
    status = inspect.folder_status(folder)
    assert (status.accepted, status.delivered) == (150, 150)


def test_cut_records_of_a_settled_segment_are_no_damage(folder: Path) -> None:
    """A crash after that cut: whoever finds the segment folds it, with its count, and complains of nothing."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.put([event(n) for n in range(50)])
    leases = queue.claim(URL, 100, ALL)
    queue.ack(leases)
    disk.hooks["create"] = lambda path, *_: no_space() if path.endswith(".totals.tmp") else None
    queue.close()
    assert len(names(folder)) == 1
    heard: list[Signal] = []
    other = JournalQueue(folder)
    other.emit = heard.append
    other.scan()
    assert drain(other) == []
    other.close()
    assert names(folder) == names(folder, "bad") == []
    assert [one for one in heard if type(one).__name__ == "Damaged"] == []
    assert inspect.folder_status(folder).delivered == 50


def sparse_orphan(folder: Path) -> Path:
    """Leave a dead writer's segment as a copy tool that skips zeros would: its notes have no blocks on the disk."""
    dead_after(folder, lambda queue: queue.put([event(n) for n in range(10)]))
    [name] = names(folder)
    path = folder / "segments" / name
    data = path.read_bytes().rstrip(b"\0")
    path.unlink()
    with path.open("wb") as file:
        for at in range(0, len(data), fmt.PAGE_BYTES):
            if any(page := data[at : at + fmt.PAGE_BYTES]):
                file.seek(at)
                file.write(page)
    return path


def test_notes_have_blocks_before_they_are_stored(folder: Path) -> None:
    """A store into a hole of a full disk is a SIGBUS: an orphan that has holes gets blocks when it is adopted."""
    path = sparse_orphan(folder)
    before = path.stat().st_blocks
    queue = JournalQueue(folder, disk=Disk(mapped=True))
    queue.scan()
    assert path.stat().st_blocks > before
    assert drain(queue) == list(range(10))


def test_notes_that_get_no_blocks_are_not_stored(folder: Path) -> None:
    """On a full disk such an orphan waits, and is said to; it is adopted once there is room."""
    sparse_orphan(folder)
    disk = HookedDisk(mapped=True)
    queue = JournalQueue(folder, disk=disk)
    heard: list[Signal] = []
    queue.emit = heard.append
    disk.hooks["fill_holes"] = no_space
    assert queue.scan() == 0
    assert [type(one).__name__ for one in heard] == ["Trouble"]
    disk.hooks.clear()
    assert queue.scan() == 1
    assert drain(queue) == list(range(10))


def test_a_segment_whose_name_could_not_be_synced_leaves_nothing(folder: Path) -> None:
    """At fsync every refused put would leave a segment that nobody settles, until the bound is reached."""
    disk = HookedDisk()
    queue = JournalQueue(folder, "fsync", disk=disk)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk.hooks["sync_folder"] = fail
    for n in range(5):
        with pytest.raises(QueueUnavailable):
            queue.put([event(n)])
    assert names(folder) == []


def test_a_failed_sync_is_told_to_every_put_that_it_covers(folder: Path) -> None:
    """The kernel tells one caller of a failed write, the next hears that all is well: a put must not believe that."""
    disk = HookedDisk()
    queue = JournalQueue(folder, "fsync", disk=disk)
    queue.put([event(0)])
    flusher = threading.Thread(target=queue.sync, args=(1.0,))
    failures: list[int] = []
    main = threading.get_ident()

    def the_flush_hears_of_it(*_: object) -> None:
        if threading.get_ident() == main and not flusher.ident:
            flusher.start()
            flusher.join(0.4)
        elif threading.get_ident() != main:
            failures.append(1)
            raise OSError(errno.EIO, "Input/output error")

    disk.hooks["datasync"] = the_flush_hears_of_it
    promised = True
    try:
        queue.put([event(1)])
    except QueueUnavailable:
        promised = False
    flusher.join(5)
    disk.hooks.clear()
    assert not (failures and promised)
    queue.put([event(2)])
    assert drain(queue) == ([0, 1, 2] if promised else [0, 2])
    assert closes(queue.stats())


def test_a_backlog_is_synced_too(folder: Path) -> None:
    """During an outage nothing is claimed: what was stored must still reach the device every sync_interval_s."""
    clock, disk = ManualClock(), HookedDisk()
    queue = JournalQueue(folder, disk=disk, clock=clock, segment_bytes_max=1 << 18)
    for n in range(1000):
        queue.put([event(n, 1000)])
    synced: set[int] = set()
    disk.hooks["datasync"] = lambda fd: synced.add(os.fstat(fd).st_ino)
    folders: list[str] = []
    disk.hooks["sync_folder"] = folders.append
    clock.advance(2)
    queue.tend()
    assert len(names(folder)) > 2
    assert synced == {path.stat().st_ino for path in (folder / "segments").iterdir()}
    assert str(folder / "segments") in folders
    synced.clear()
    clock.advance(2)
    queue.tend()
    assert synced == set(), "what is safe is not synced again"


def test_a_large_backlog_is_synced_in_parts(folder: Path) -> None:
    """The sender does not wait for all of it at once; a few rounds later everything is safe, and each file once."""
    clock, disk = ManualClock(), HookedDisk()
    queue = JournalQueue(folder, disk=disk, clock=clock, segment_bytes_max=1 << 18)
    for n in range(6000):
        queue.put([event(n, 1000)])
    synced: list[int] = []
    disk.hooks["datasync"] = lambda fd: synced.append(os.fstat(fd).st_ino)
    rounds = [0]
    while queue.tend() == 0:
        rounds.append(len(synced))
        assert len(rounds) < 20
    assert len(rounds) > 2
    assert max(after - before for before, after in pairwise(rounds)) <= 10
    clock.advance(2)
    while queue.tend() == 0:
        pass
    assert sorted(synced) == sorted({path.stat().st_ino for path in (folder / "segments").iterdir()})


def test_flush_of_a_process_that_only_stores_syncs_sealed_segments(folder: Path) -> None:
    """A sync makes everything that was stored safe, not what happens to be open."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk, segment_bytes_max=1 << 18)
    queue.sends = False
    for n in range(1000):
        queue.put([event(n, 1000)])
    synced: set[int] = set()
    disk.hooks["datasync"] = lambda fd: synced.add(os.fstat(fd).st_ino)
    assert queue.sync(1.0)
    assert synced == {path.stat().st_ino for path in (folder / "segments").iterdir()}


def test_a_put_that_waits_for_room_keeps_nobody_from_making_it(folder: Path) -> None:
    """overflow="block": the count can be read and events can be settled while a put waits; then it succeeds."""
    queue = JournalQueue(folder, bytes_max=1 << 20, overflow="block", block_timeout_s=5.0)
    accepted = 0
    blocking = threading.Event()
    done = threading.Event()

    def fill() -> None:
        nonlocal accepted
        for n in range(2500):
            queue.put([event(n, 500)])
            accepted += 1
        done.set()

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    last = -1
    while not blocking.is_set() and time.monotonic() < deadline:
        time.sleep(0.1)
        if accepted == last:
            blocking.set()
        last = accepted
    began = time.monotonic()
    queue.stats()
    took_s = time.monotonic() - began
    got: list[int] = []
    while not done.is_set() and time.monotonic() < deadline:
        got += drain(queue)
        queue.tend()
        time.sleep(0.01)
    thread.join(5)
    assert blocking.is_set()
    assert took_s < 1.0
    assert accepted == 2500
    assert sorted(got + drain(queue)) == list(range(2500))


def test_a_put_that_waits_gives_up_in_time(folder: Path) -> None:
    """Several that wait do so side by side, not one after the other."""
    queue = JournalQueue(folder, bytes_max=1 << 20, overflow="block", block_timeout_s=0.4)
    with pytest.raises(QueueFull):  # noqa: PT012  # the put that fails is not known beforehand
        for n in range(5000):
            queue.put([event(n, 500)])
    took: list[float] = []

    def put() -> None:
        began = time.monotonic()
        with pytest.raises(QueueFull):
            queue.put([event(1, 500)])
        took.append(time.monotonic() - began)

    threads = [threading.Thread(target=put) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(took) == 5
    assert max(took) < 1.4


class HurriedClock(SystemClock):
    """Each look at it costs a quarter of a second: every try to put takes that long."""

    looks = 0

    def monotonic(self) -> float:
        """See Clock.monotonic."""
        self.looks += 1
        return self.looks / 4


def test_a_put_that_waits_counts_its_tries_as_time(folder: Path) -> None:
    """A slow disk makes the tries slow, not the wait long."""
    clock = HurriedClock()
    queue = JournalQueue(folder, bytes_max=1 << 20, overflow="block", block_timeout_s=2.0, clock=clock)
    with pytest.raises(QueueFull):  # noqa: PT012  # the put that fails is not known beforehand
        for n in range(5000):
            queue.put([event(n, 500)])
    clock.looks = 0
    with pytest.raises(QueueFull):
        queue.put([event(1, 500)])
    assert 2 < clock.looks <= 12


def test_a_put_on_the_senders_own_thread_does_not_wait_for_room(folder: Path) -> None:
    """An observer that dispatches: only the sender's thread makes room, and it would wait for itself."""
    queue = JournalQueue(folder, bytes_max=1 << 20, overflow="block", block_timeout_s=60.0)
    queue.claim(URL, 1, 1000)
    began = time.monotonic()
    with pytest.raises(QueueFull):  # noqa: PT012  # the put that fails is not known beforehand
        for n in range(5000):
            queue.put([event(n, 500)])
    assert time.monotonic() - began < 30
    assert closes(queue.stats())


def test_many_endpoints_in_a_small_journal(folder: Path) -> None:
    """Open segments that are nearly empty give their room back: 200 endpoints fit a bound of a few segments."""
    queue = JournalQueue(folder, bytes_max=4 << 20)
    urls = [f"{URL}/{n}" for n in range(200)]
    for url in urls:
        queue.put([event(0, url=url)])
    assert sum(len(drain(queue, url)) for url in urls) == 200
    assert closes(queue.stats())


def test_who_only_stores_removes_what_others_delivered_while_it_stores(folder: Path) -> None:
    """Nobody asks it for its count, and the folder does not fill with delivered events."""
    writer = JournalQueue(folder, segment_bytes_max=1 << 18)
    writer.sends = False
    sender = JournalQueue(folder, adopt="always")
    most = 0
    for n in range(6000):
        writer.put([event(n, 500)])
        if not n % 200:
            sender.scan()
            drain(sender)
            sender.tend()
            most = max(most, len(names(folder)))
    assert most <= 5


# -- dead letters


def bury(queue: JournalQueue, count: int, size: int = 40) -> None:
    """Put and bury events."""
    queue.put([event(n, size) for n in range(count)])
    for _ in range(count):
        queue.bury(queue.claim(URL, 1, ALL), "rejected", Answer(400))


def test_only_the_oldest_dead_letters_go(folder: Path) -> None:
    """Beyond the bound, with their writer alive: as many segments go as needed, and the bound is kept afterwards."""
    clock = ManualClock()
    queue = JournalQueue(folder, dead_bytes_max=1 << 20, clock=clock)
    for _ in range(12):
        bury(queue, 20, 5000)
        clock.advance(61)
        queue.tend()
        assert sum(path.stat().st_size for path in (folder / "dead").iterdir()) <= (1 << 20) + (1 << 18)
        assert closes(queue.stats())
    stats = queue.stats()
    assert stats.dead > 100
    assert stats.dropped["dead_expired"] == 240 - stats.dead
    kept = [number_of(letter.event.payload) for letter in inspect.dead_letters(folder)]
    assert len(kept) == stats.dead
    queue.close()
    assert inspect.folder_status(folder).closes


def test_a_dead_segment_that_cannot_be_read_does_not_stop_expiry(folder: Path) -> None:
    """A damaged header among the dead letters: the others expire all the same."""
    clock = ManualClock()
    dead_after(folder, lambda queue: bury(queue, 3), clock=clock)
    [path] = (folder / "dead").iterdir()
    shutil.copy(path, folder / "dead" / "0000000000001-1.aa-000000.seg")
    (folder / "dead" / "0000000000001-1.aa-000000.seg").write_bytes(b"x" * 9000)
    clock.advance(40 * 86_400)
    queue = JournalQueue(folder, clock=clock)
    queue.tend()
    assert not path.exists()
    assert inspect.folder_status(folder).dropped == {"dead_expired": 3}


def test_two_who_retry_a_letter_send_it_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dead retry` twice at once: each letter is put back by one of them, and the folder's sum closes."""
    dead_after(folder, lambda queue: bury(queue, 6))
    first_look = inspect._chosen
    both_looked = threading.Barrier(2, timeout=5)

    def look(*arguments: Any) -> Any:
        found = first_look(*arguments)
        both_looked.wait()
        return found

    monkeypatch.setattr(inspect, "_chosen", look)
    done: list[int] = []
    threads = [threading.Thread(target=lambda: done.append(inspect.retry_dead(folder, None))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    status = inspect.folder_status(folder)
    assert sum(done) == status.queued == 6
    assert (status.accepted, status.dead) == (6, 0)
    assert status.closes


def test_retry_beside_an_expiry_keeps_the_sum(folder: Path) -> None:
    """The letter is gone when its turn comes: passed over, not put back, no error."""
    dead_after(folder, lambda queue: bury(queue, 2))
    expired = threading.Event()

    def discard_the_rest(_: int) -> None:
        if not expired.is_set():
            expired.set()
            inspect.discard_dead(folder, None)

    assert inspect.retry_dead(folder, None, progress=discard_the_rest) == 1
    status = inspect.folder_status(folder)
    assert (status.accepted, status.queued, status.dead, status.dropped) == (2, 1, 0, {"dead_discarded": 1})


# -- observers, signals, forks


def test_an_observer_is_called_under_no_lock(folder: Path) -> None:
    """It may ask for the count from another thread, and wait for it: damage, drops and trouble are told afterwards."""
    dead_after(folder, lambda queue: [queue.put([event(n)]) for n in range(20)])
    [name] = names(folder)
    path = folder / "segments" / name
    data = bytearray(path.read_bytes())
    data[data.index(b'{"n":7,')] ^= 0xFF
    path.write_bytes(data)
    queue = JournalQueue(folder, bytes_max=1 << 20, overflow="drop_oldest")
    free: list[tuple[str, bool]] = []

    def observer(signal: Signal) -> None:
        thread = threading.Thread(target=queue.stats, daemon=True)
        thread.start()
        thread.join(0.4)
        free.append((type(signal).__name__, not thread.is_alive()))

    dispatcher = EventDispatcher(queue, transport=RecordingTransport(), observers=[observer])
    queue.scan()
    assert len(drain(queue)) == 19
    for n in range(3000):
        queue.put([event(n, 500)])
    dispatcher.close()
    assert {name for name, _ in free} >= {"Adopted", "Damaged", "Dropped"}
    assert all(ok for _, ok in free), free


def test_new_endpoints_appear_while_the_sender_asks_what_is_due(folder: Path) -> None:
    """A put to a new endpoint on another thread disturbs no question of the sender's."""
    queue = JournalQueue(folder)
    stop = threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                queue.next_due_s()
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for n in range(300):
            queue.put([event(n, url=f"{URL}/{n}")])
    finally:
        stop.set()
        sys.setswitchinterval(interval_s)
        thread.join(5)
    assert failed == []


def test_a_late_letter_and_a_first_put_make_one_writer(folder: Path) -> None:
    """A sender of other processes' events buries one while this process stores its first: one lock, one name."""
    dead_after(folder, lambda queue: queue.put([event(0)]))
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.scan()
    leases = queue.claim(URL, 1, ALL)
    disk.hooks["create"] = lambda path, *_: time.sleep(0.05) if path.endswith(".lock") else None
    threads = [
        threading.Thread(target=queue.bury, args=(leases, "rejected", Answer(400))),
        threading.Thread(target=queue.put, args=([event(1)],)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    disk.hooks.clear()
    mine = {name.removesuffix(".lock") for name in names(folder, "writers")}
    living = [name for name in mine if queue.folder.is_alive(name)]
    assert len(living) == 1
    queue.close()
    assert not [name for name in mine if queue.folder.is_alive(name)]
    other = JournalQueue(folder)
    other.scan()
    assert drain(other) == [1]


def wait_for_child(child: int, timeout_s: float = 5.0) -> None:
    """Reap a child, by force if need be."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Kill what a test forked."""
    forked: list[int] = []
    yield forked
    for child in forked:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def fork_idle(queue: JournalQueue, children: list[int]) -> None:
    """Fork a child that lives on, doing nothing."""
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        queue.after_fork_in_child()
        os.write(told, b"x")
        signal.pause()
        os._exit(0)
    children.append(child)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.close(told)


@pytest.mark.parametrize("at", ["lock", "map", "still_named"])
def test_a_fork_in_the_middle_of_an_adoption_takes_no_lock_along(folder: Path, children: list[int], at: str) -> None:
    """The child lives on, the parent ends: its locks are free, and others send what it held."""
    dead_after(folder, lambda queue: queue.put([event(0)]))
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)

    def fork_now(*_: object, **__: object) -> None:
        if not children:
            fork_idle(queue, children)

    for wanted in range(6):  # the parent forks at the first, second, ... call of that kind
        calls = iter(range(100))
        disk.hooks[at] = lambda *_, calls=calls, wanted=wanted: fork_now() if next(calls) == wanted else None
        queue.scan()
        disk.hooks.clear()
        assert len(queue.claim(URL, 1, ALL)) == 1
        crash(queue)
        other = JournalQueue(folder)
        assert other.scan() == 1, f"{at} {wanted}: a lock is still held"
        crash(other)
        while children:
            child = children.pop()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_child_keeps_neither_the_election_nor_the_writers_lock(folder: Path, children: list[int]) -> None:
    """The parent, elected and a writer, ends; another is elected at once and adopts, though the child lives."""
    queue = JournalQueue(folder)
    queue.put([event(0)])
    queue.tend()
    fork_idle(queue, children)
    crash(queue)
    other = JournalQueue(folder)
    assert other.scan() == 1
    assert drain(other) == [0]


def test_a_closed_queue_stays_closed_in_a_child(folder: Path) -> None:
    """What was closed before the fork takes nothing afterwards."""
    queue = JournalQueue(folder)
    queue.put([event(0)])
    queue.close()
    child = os.fork()
    if not child:
        queue.after_fork_in_child()
        try:
            queue.put([event(1)])
        except QueueUnavailable as error:
            os._exit(0 if error.reason == "closed" and queue.stats() == QueueStats() else 2)
        os._exit(3)
    assert os.waitpid(child, 0)[1] == 0


# -- sizes


def test_more_envelopes_than_a_segment_can_number(folder: Path) -> None:
    """65,535 are the end of a segment, not of the journal; a put that crosses it is taken."""
    queue = JournalQueue(folder)
    base = queue._store
    queue.put([event(0)])
    writer = base._levels[0][URL]
    for n in range(fmt_envelopes_left(writer)):
        writer.envelopes[ENVELOPE._replace(suffix=b"%d" % n)] = n + 1
    assert len(writer.envelopes) == 0xFFFF - 2
    fresh = [Event(ENVELOPE._replace(prefix=b"%d" % n), b'{"n":%d,"pad":""}' % n) for n in range(1, 6)]
    queue.put(fresh)
    assert drain(queue) == [0, 1, 2, 3, 4, 5]


def fmt_envelopes_left(writer: Any) -> int:
    """Return how many envelopes to add so that two are left."""
    return 0xFFFF - 2 - len(writer.envelopes)


def test_a_put_of_several_events_is_seen_whole_or_not_at_all(folder: Path) -> None:
    """A put that fails in the middle: the sender that looked meanwhile has seen none of it."""
    disk = FailingMapDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.put([event(0)])
    seen: list[int] = []
    stores = iter(range(100))

    def fail_at_third(_: slice) -> bool:
        if next(stores) == 2:
            return True
        seen.extend(number_of(lease.event.payload) for lease in queue.claim(URL, 10, ALL))
        return False

    disk.fails = fail_at_third
    with pytest.raises(QueueUnavailable):
        queue.put([event(n) for n in range(1, 6)])
    disk.fails = lambda _: False
    assert seen == [0]
    stats = queue.stats()
    assert (stats.accepted, stats.queued, stats.in_flight) == (1, 0, 1)


def test_the_oldest_age_is_told(folder: Path) -> None:
    """Of what is unread, what waits for its time, and what was adopted; None when nothing is queued."""
    clock = ManualClock()
    queue = JournalQueue(folder, clock=clock)
    assert queue.stats().oldest_age_s is None
    queue.put([event(0)])
    clock.advance(10)
    queue.put([event(1)])
    clock.advance(5)
    assert queue.stats().oldest_age_s == pytest.approx(15, abs=1)
    [first] = queue.claim(URL, 1, ALL)
    assert queue.stats().oldest_age_s == pytest.approx(5, abs=1)
    queue.release([first], 60)
    assert queue.stats().oldest_age_s == pytest.approx(15, abs=1)
    crash(queue)
    other = JournalQueue(folder, clock=clock)
    other.scan()
    assert other.stats().oldest_age_s == pytest.approx(15, abs=1)
    drain(other)
    assert other.stats().oldest_age_s is None


def test_a_damaged_size_in_a_header_costs_its_file_only(folder: Path) -> None:
    """A header that claims terabytes of outcomes, of a writer that only stores and lives: the scan goes on."""
    writer = JournalQueue(folder)
    writer.sends = False
    writer.put([event(0)])
    [name] = names(folder)
    path = folder / "segments" / name
    header = fmt.decode_header(path.read_bytes()[: fmt.PAGE_BYTES])
    with path.open("r+b") as file:
        file.write(
            fmt.encode_header(
                header.lane, header.writer, header.created_ms, sender=False, retry=False, outcome_pages=(1 << 31) - 1
            )
        )
    dead_after(folder, lambda queue: queue.put([event(1)]))
    sender = JournalQueue(folder, adopt="always")
    sender.scan()
    assert drain(sender) == [1]


# -- what is between two steps


def test_a_crash_between_a_dead_letter_and_its_note_counts_it_once(folder: Path) -> None:
    """The process dies once the letter is written: who adopts the event finds it dead; it is not sent again."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    for n in range(5):
        queue.put([event(n)])
    leases = queue.claim(URL, 3, ALL)
    queue.bury(leases[:1], "http_400")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    queue._claims.settle_dead = die  # type: ignore[method-assign]  # the moment after the letter
    with pytest.raises(KeyboardInterrupt):
        queue.bury(leases[1:], "http_400")
    crash(queue)
    other = JournalQueue(folder)
    assert other.scan() == 1
    assert drain(other) == [2, 3, 4]
    assert closes(other.stats())
    other.close()
    status = inspect.folder_status(folder)
    assert status.closes, status
    assert (status.accepted, status.delivered, status.dead) == (5, 3, 2)


@pytest.mark.parametrize("how", ["retried", "expired"])
def test_a_letter_without_its_note_that_was_dealt_with_is_not_sent_twice(folder: Path, how: str) -> None:
    """Somebody retries or discards the letter before its event's segment is adopted."""
    dead_after(folder, lambda queue: [queue.put([event(n)]) for n in range(2)])
    queue = JournalQueue(folder)
    queue.scan()
    [lease] = queue.claim(URL, 1, ALL)
    queue._claims.settle_dead = lambda _: crash(queue)  # type: ignore[assignment,method-assign]
    queue.bury([lease], "http_400")
    if how == "retried":
        inspect.retry_dead(folder, None)
    else:
        inspect.discard_dead(folder, None)
    other = JournalQueue(folder)
    other.scan()
    assert sorted(drain(other)) == ([0, 1] if how == "retried" else [1])
    other.close()
    status = inspect.folder_status(folder)
    assert status.closes, status
    assert status.accepted == 2


def test_a_letter_that_was_taken_back_leaves_its_event_queued(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note failed, and so did the seal; the event went back, then the process died: it is sent all the same."""
    disk = HookedDisk(mapped=False)
    queue = JournalQueue(folder, disk=disk)
    queue.put([event(0)])
    leases = queue.claim(URL, 1, ALL)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    queue._claims._settle = fail  # type: ignore[method-assign]  # the note
    monkeypatch.setattr("eventpost.queues.journal.segment.SegmentWriter.seal", fail)
    queue.bury(leases, "http_400")
    monkeypatch.undo()
    crash(queue)
    other = JournalQueue(folder)
    other.scan()
    assert drain(other) == [0]
    other.close()
    assert inspect.folder_status(folder).closes


def test_a_put_that_is_refused_for_a_slow_sync_is_not_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync hangs, a second put gives up: it is refused, not accepted, and never sent, whatever the sync says then."""
    monkeypatch.setattr("eventpost.queues.journal.sync.SYNC_WAIT_S", 0.1)
    for failing in (False, True):
        disk, goes_on, hangs = HookedDisk(), threading.Event(), threading.Event()
        queue = JournalQueue(folder, "fsync", disk=disk)
        queue.put([event(0)])
        assert len(queue.claim(URL, 1, ALL)) == 1

        def hang(_: int, *, failing: bool = failing, on: Any = goes_on, here: Any = hangs, disk: Any = disk) -> None:
            here.set()
            assert on.wait(10)
            disk.hooks.pop("datasync", None)
            if failing:
                raise OSError(errno.EIO, "Input/output error")

        disk.hooks["datasync"] = hang
        refusals: list[str] = []

        def put_first(queue: JournalQueue = queue, refusals: list[str] = refusals) -> None:
            try:
                queue.put([event(1)])
            except QueueUnavailable as error:
                refusals.append(error.reason)

        first = threading.Thread(target=put_first)
        first.start()
        assert hangs.wait(10)
        with pytest.raises(QueueUnavailable) as refused:
            queue.put([event(2)])
        assert refused.value.reason == "sync_timeout"
        assert closes(queue.stats())
        assert queue.stats().accepted == 2
        goes_on.set()
        first.join(10)
        queue.put([event(3)])
        assert refusals == (["sync_failed"] if failing else [])
        accepted = 2 if failing else 3
        assert queue.stats().accepted == accepted
        assert closes(queue.stats())
        assert drain(queue) == ([3] if failing else [1, 3])
        queue.close()
        status = inspect.folder_status(folder)
        assert status.closes, status
        shutil.rmtree(folder)
        crash(queue)


@pytest.mark.parametrize("again", [False, True])
def test_a_handlers_put_in_the_middle_of_becoming_a_writer(folder: Path, *, again: bool) -> None:
    """A signal handler's put becomes a writer while the interrupted one is about to, anew or again: both are stored."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    if again:
        queue.put([event(2)])
        shutil.rmtree(folder / "writers")
    nested = iter([1])

    def put_too(path: str, *_: object) -> None:
        if path.endswith(f"/j/{'bad' if not again else 'writers'}"):
            for n in nested:
                disk.hooks.clear()
                queue.put([event(n)])

    disk.hooks["make_folder"] = put_too
    queue.put([event(0, url=f"{URL}/other")])
    assert drain(queue) == ([2, 1] if again else [1])
    assert drain(queue, f"{URL}/other") == [0]
    assert len(names(folder, "writers")) == 1
    assert queue.folder.is_alive(names(folder, "writers")[0].removesuffix(".lock"))


def test_the_count_is_read_without_the_put_lock(folder: Path) -> None:
    """While somebody who only stores looks what others delivered, another thread's put waits for nothing."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.sends = False
    queue.put([event(0)])
    free: list[bool] = []

    def take_and_release() -> None:
        free.append(queue._store.lock.acquire(timeout=0.2))
        if free[-1]:
            queue._store.lock.release()

    def look(*_: object, **__: object) -> None:
        thread = threading.Thread(target=take_and_release)
        thread.start()
        thread.join(5)

    disk.hooks["open"] = disk.hooks["names"] = look
    assert queue.stats().queued == 1
    assert len(free) >= 2
    assert all(free)


# -- foreign hands, again


@pytest.mark.parametrize("sends", [True, False])
def test_a_lock_that_somebody_removed_makes_nobody_dead(folder: Path, *, sends: bool) -> None:
    """Its writer does not know yet; others neither send what it sends nor end what it still stores into."""
    queue = JournalQueue(folder)
    queue.sends = sends
    queue.put([event(0)])
    shutil.rmtree(folder / "writers")
    (folder / "writers").mkdir()
    other = JournalQueue(folder, adopt="always")
    assert other.scan() == (0 if sends else 1)
    assert drain(other) == ([] if sends else [0])
    queue.put([event(1)])
    other.scan()
    assert drain(other) == ([] if sends else [1])
    assert drain(queue) == ([0, 1] if sends else []) or not sends
    crash(queue)  # now it is dead
    other.scan()
    drain(other)
    other.close()
    status = inspect.folder_status(folder)
    assert (status.accepted, status.delivered, status.queued) == (2, 2, 0)


def test_bytes_set_aside_are_bounded(folder: Path) -> None:
    """The oldest files in bad/ go beyond the bound, and that is said."""
    queue, heard = JournalQueue(folder, dead_bytes_max=10_000), []
    queue.emit = heard.append
    for n in range(8):
        (folder / "bad" / f"{n}.bad").write_bytes(b"x" * 3000)
        os.utime(folder / "bad" / f"{n}.bad", (n + 1, n + 1))
    queue.tend()
    assert names(folder, "bad") == ["5.bad", "6.bad", "7.bad"]
    assert [(one.what, one.detail[:20]) for one in heard if isinstance(one, Trouble)] == [
        ("bad_expired", "5 files, 15000 bytes")
    ]


@pytest.mark.parametrize(
    "totals",
    [
        "[]", "7", '{"accepted": "1"}', '{"accepted": true}', '{"delivered": 1.5}', '{"dropped": {"overflow": "x"}}',
        '{"dropped": []}', '{"folded": {}}', '{"folded": [1]}', '{"folded": ["../precious"]}', "{",
    ],
)  # fmt: skip
def test_totals_of_the_wrong_types_are_unreadable(folder: Path, totals: str) -> None:
    """They cost the counts of what is gone, which is said; folding goes on, and removes nothing else."""
    queue = JournalQueue(folder)
    (folder / "precious").write_text("x")
    (folder / "totals.json").write_text(totals)
    queue.put([event(0)])
    assert drain(queue) == [0]
    queue.close()
    assert (folder / "precious").exists()
    status = inspect.folder_status(folder)
    assert (status.accepted, status.delivered) == (1, 1)
    assert status.trouble


# -- no descriptors left


@pytest.fixture
def descriptors() -> Iterator[Callable[[int], None]]:
    """Give a function that leaves the process so many free descriptors; -1: as many as before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def leave(free: int) -> None:
        while taken:
            os.close(taken.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if free < 0:
            return
        highest = max(int(one) for one in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())

    yield leave
    leave(-1)


def test_without_descriptors_a_put_is_refused_and_nothing_is_lost(
    folder: Path, descriptors: Callable[[int], None]
) -> None:
    """The limit is reached while a segment is made, opened to be read, adopted: later all comes out, and none leaks."""
    dead_after(folder, lambda queue: [queue.put([event(n)]) for n in range(1000, 1003)])
    heard: list[Signal] = []
    queue = JournalQueue(folder)
    queue.emit = heard.append
    put: list[int] = []
    refused: set[str] = set()
    for free in range(7):
        descriptors(free)
        try:
            queue.put([event(free)])
            put.append(free)
        except QueueUnavailable as error:
            refused.add(error.reason)
        descriptors(-1)
    assert refused == {"no_descriptors"}
    assert put
    got: list[int] = []
    for free in range(9):
        descriptors(free)
        queue.scan()
        queue.tend()
        leases = queue.claim(URL, 1, ALL)
        queue.ack(leases)
        got += [number_of(lease.event.payload) for lease in leases]
        stats = queue.stats()
        descriptors(-1)
        assert closes(stats)
    assert any(isinstance(one, Trouble) for one in heard)
    queue.scan()
    got += drain(queue)
    assert sorted(got) == sorted([*put, 1000, 1001, 1002])
    queue.close()
    assert inspect.folder_status(folder).closes
    assert not queue.folder.disk._descriptors


# -- time that jumps


def test_a_wall_clock_that_jumps_loses_and_repeats_nothing(folder: Path) -> None:
    """By a day back and forth: events, dead letters and retries take no notice; ages are not negative."""
    clock = ManualClock()
    queue = JournalQueue(folder, clock=clock, segment_bytes_max=1 << 18)
    put = 0
    for step_s in (0.0, -DAY_S, 2 * DAY_S, -DAY_S):
        clock._epoch_s += step_s
        for _ in range(600):
            queue.put([event(put, 900)])
            put += 1
        [lease] = queue.claim(URL, 1, ALL)
        queue.bury([lease], "http_400")
        [lease] = queue.claim(URL, 1, ALL)
        queue.release([lease], 5.0)
        age_s = queue.stats().oldest_age_s
        assert age_s is not None
        assert age_s >= 0
        queue.tend()
        clock.advance(61.0)
        queue.tend()
    seen = drain(queue)
    assert len(seen) == len(set(seen)) == put - 4
    stats = queue.stats()
    assert (stats.dead, stats.dropped) == (4, {})
    crash(queue)
    clock._epoch_s -= DAY_S
    other = JournalQueue(folder, clock=clock)
    other.scan()
    assert drain(other) == []
    assert len(list(inspect.dead_letters(folder))) == 4
    other.close()
    assert inspect.folder_status(folder, clock=clock).closes


# -- what is synced, and when


def test_at_fsync_the_names_on_the_way_are_synced_too(tmp_path: Path) -> None:
    """Every name above the segments, whoever made it, then the segment's own, all before the put returns; once."""
    disk = HookedDisk()
    synced: list[str] = []
    disk.hooks["sync_folder"] = synced.append
    folder = tmp_path / "a" / "b" / "j"
    queue = JournalQueue(folder, "fsync", disk=disk)
    queue.put([event(0)])
    assert synced == [*map(str, (folder, *folder.parents)), str(folder / "segments")]
    synced.clear()
    queue.put([event(1, size=1 << 19)])
    assert synced == [str(folder / "segments")]


def test_a_retried_letter_is_on_the_device_before_it_is_noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power loss in between leaves it dead and queued; the other order would lose it."""
    queue = JournalQueue(folder)
    queue.put([event(0)])
    queue.bury(queue.claim(URL, 1, ALL), "http_400")
    queue.close()
    did: list[str] = []
    datasync, write = Disk.datasync, Disk.write

    def watched_sync(self: Disk, fd: int) -> None:
        did.append("sync" if b'{"n":0,' in Path(f"/proc/self/fd/{fd}").read_bytes() else "sync of no event")
        datasync(self, fd)

    def watched_write(self: Disk, fd: int, data: bytes, at: int) -> None:
        if data == bytes([fmt.Outcome.RETRIED]):
            did.append("note")
        write(self, fd, data, at)

    monkeypatch.setattr(Disk, "datasync", watched_sync)
    monkeypatch.setattr(Disk, "write", watched_write)
    assert inspect.retry_dead(folder, None) == 1
    assert "sync" in did[: did.index("note")]


def test_a_damaged_dead_letter_expires_with_the_others(folder: Path) -> None:
    """It can't be shown or retried, but it is counted, and its segment is folded once it is old."""
    clock = ManualClock()

    def work(queue: JournalQueue) -> None:
        for n in range(3):
            queue.put([event(n)])
        queue.bury(queue.claim(URL, 3, ALL), "http_400")

    dead_after(folder, work, clock=clock)
    [name] = names(folder, "dead")
    path = folder / "dead" / name
    data = bytearray(path.read_bytes())
    data[data.index(b'{"n":1,')] ^= 0xFF
    path.write_bytes(data)
    assert [number_of(letter.event.payload) for letter in inspect.dead_letters(folder)] == [0, 2]
    queue = JournalQueue(folder, clock=clock, dead_age_max_s=100)
    clock.advance(1000)
    queue.tend()
    assert names(folder, "dead") == []
    queue.close()
    status = inspect.folder_status(folder, clock=clock)
    assert status.closes, status
    assert (status.accepted, status.dropped) == (3, {"dead_expired": 3})


@pytest.mark.parametrize("mapped", [True, False])
def test_segments_come_and_go_without_leaving_descriptors(tmp_path: Path, *, mapped: bool) -> None:
    """Sealed, read, settled and folded, some fifty of them: as many descriptors as before."""
    queue = JournalQueue(tmp_path / "j", disk=Disk(mapped=mapped), segment_bytes_max=1 << 18)
    counts = []
    for _ in range(5):
        for n in range(1000):
            queue.put([event(n, 3000)])
        assert len(drain(queue)) == 1000
        queue.tend()
        counts.append(len(os.listdir("/proc/self/fd")))
    queue.close()
    assert counts[-1] <= counts[0] + 2, counts


def test_a_signal_handlers_put_that_reaps_within_a_reap_counts_nothing_twice(tmp_path: Path) -> None:
    """What others settled of a process that only stores is taken into its count once, whoever folds the segment."""
    disk = HookedDisk()
    queue = JournalQueue(tmp_path, adopt="never", disk=disk, segment_bytes_max=1 << 18)
    queue.sends = False
    queue.put([event(1)])
    queue.put([event(2, size=300_000)])  # seals the first
    sender = JournalQueue(tmp_path, adopt="always")
    sender.scan()
    sender.ack(sender.claim(URL, 1, 1))
    nested: list[int] = []

    def interrupt(*_: object, **__: object) -> None:
        if not nested:
            nested.append(1)
            queue._count.reap_own()

    disk.hooks["lock"] = interrupt
    queue._count.reap_own()
    stats = queue.stats()
    assert nested
    assert (stats.accepted, stats.delivered, stats.queued) == (2, 1, 1)
    sender.close()
    queue.close()
