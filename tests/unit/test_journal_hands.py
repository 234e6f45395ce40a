"""What a journal's queue makes of what others did, and of a disk that refuses: each event has one fate."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, URL, HookedDisk, closes, drain, event

from eventpost.errors import QueueUnavailable
from eventpost.queues.journal import JournalQueue, dead, inspect
from eventpost.queues.journal import disk as disk_module
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.folder import Folder, open_folder
from eventpost.queues.journal.format import Outcome
from eventpost.queues.journal.probe import why_full_or_gone
from eventpost.sender.primitives import is_mine
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Damaged, Dropped, Signal, Trouble

BIG = 200_000
"""Of two such events, each begins a segment of its own."""


@pytest.fixture
def disk() -> HookedDisk:
    """Give a disk that tells what is done, and can be made to fail."""
    return HookedDisk()


def queue_in(folder: Path, **options: Any) -> JournalQueue:
    """Return a queue whose segments are small."""
    return JournalQueue(folder, segment_bytes_max=1 << 18, **options)


def spoil(folder: Path, text: bytes) -> None:
    """Change a bit where this stands in a segment."""
    for path in (folder / "segments").iterdir():
        data = bytearray(path.read_bytes())
        if text in data:
            data[data.index(text)] ^= 1
            path.write_bytes(data)


def test_who_only_stores_counts_what_another_found_damaged(tmp_path: Path) -> None:
    """And what it delivered; the sum closes before and after the segments are gone, and each is folded."""
    queue = queue_in(tmp_path)
    queue.sends = False
    for number in range(4):
        queue.put([event(number, BIG)])
    spoil(tmp_path, b'{"n":1')
    other = queue_in(tmp_path, adopt="always")
    other.scan()
    assert drain(other) == [0, 2, 3]
    for _ in range(2):
        stats = queue.stats()
        assert closes(stats)
        assert (stats.delivered, stats.dropped, stats.queued) == (3, {"damaged": 1}, 0)
        queue.sync(1.0)
    assert queue._claims.folds == 3
    queue.close()
    other.close()
    assert inspect.folder_status(tmp_path).closes


def test_what_cannot_be_folded_is_said_and_folded_later(tmp_path: Path, disk: HookedDisk) -> None:
    """It stays in the count meanwhile; how many were folded tells a put that there may be room."""
    queue, heard = queue_in(tmp_path, disk=disk), list[Signal]()
    queue.emit = heard.append
    for number in range(4):
        queue.put([event(number, BIG)])

    def refuses(path: str, *_: object) -> None:
        if path.endswith(".totals.tmp"):
            raise OSError(errno.EIO, "Input/output error")

    disk.hooks["create"] = refuses
    assert drain(queue) == [0, 1, 2, 3]
    assert len(heard) == 3
    assert {(one.what, one.detail.partition(": ")[2]) for one in heard if isinstance(one, Trouble)} == {
        ("journal", "[Errno 5] Input/output error")
    }
    assert all("cannot be folded" in repr(one) for one in heard)
    assert (queue._claims.folds, closes(queue.stats())) == (0, True)
    disk.hooks.clear()
    queue.tend()
    assert (queue._claims.folds, closes(queue.stats())) == (3, True)
    assert queue.stats().delivered == 4
    queue.close()


def test_own_letters_that_others_settle_are_counted_once(tmp_path: Path) -> None:
    """By part, and all of them, and after their segment is gone."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path, clock=clock)
    queue.put([event(number) for number in range(4)])
    queue.bury(queue.claim(URL, 4, ALL), "rejected")
    (name,) = os.listdir(tmp_path / "dead")
    folder = Folder(tmp_path, disk=None, gid=None, allow_network_fs=True)
    for settled in ([0], [1, 2]):
        dead.settle(folder, name, settled, Outcome.DISCARDED)
        clock.advance(10_000_000_000)  # past the steps of a file's time
        stats = queue.stats()
        assert closes(stats)
        assert (stats.dead, stats.dropped) == (3 - settled[-1], {"dead_discarded": 1 + settled[-1]})
    queue._dead.close()
    dead.settle(folder, name, None, Outcome.DISCARDED)
    queue._count.reap_own_dead()
    for _ in range(2):
        assert closes(queue.stats())
        assert (queue.stats().dead, queue.stats().dropped) == (0, {"dead_discarded": 4})
    assert os.listdir(tmp_path / "dead") == []
    queue.close()


def test_a_closed_queue_buries_nothing(tmp_path: Path) -> None:
    """Its events are anybody's by then: a letter would be one of two."""
    queue = JournalQueue(tmp_path)
    queue.put([event(1)])
    leases = queue.claim(URL, 1, ALL)
    queue.close()
    heard: list[Signal] = []
    queue.emit = heard.append
    queue.bury(leases, "rejected")
    assert (heard, os.listdir(tmp_path / "dead")) == ([], [])
    other = JournalQueue(tmp_path)
    other.scan()
    assert drain(other) == [1]
    other.close()


def test_a_put_aside_that_cannot_be_stored_is_refused(tmp_path: Path, disk: HookedDisk) -> None:
    """Over the opening of a file, on a full disk: never a yes for what is not there; the next one is taken."""
    queue = JournalQueue(tmp_path, disk=disk)
    queue.put([event(0)])
    refused: list[str] = []

    def allocate(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def handler(*_: object) -> None:
        disk.hooks = {"allocate": allocate}
        with pytest.raises(QueueUnavailable) as caught:
            queue.put([event(1)])
        refused.append(caught.value.reason)
        disk.hooks = {}
        queue.put([event(2)])

    is_opening = queue._store._is_opening
    queue._store._is_opening = lambda: True
    handler()
    queue._store._is_opening = is_opening
    assert refused == ["disk_full"]
    assert queue.stats().accepted == 2
    assert drain(queue) == [0, 2]
    queue.close()


def test_a_first_put_aside_that_makes_nobody_a_writer_is_refused(tmp_path: Path, disk: HookedDisk) -> None:
    """It has nowhere to be: never a yes for what is not there."""
    queue = JournalQueue(tmp_path, disk=disk)

    def refuses(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    disk.hooks["create"] = refuses
    queue._store._is_opening = lambda: True
    with pytest.raises(QueueUnavailable) as caught:
        queue.put([event(1)])
    assert (caught.value.reason, queue.stats().accepted) == ("disk_full", 0)


def test_segments_that_are_nobodys_to_send_do_not_hide_others(tmp_path: Path) -> None:
    """Of a newer format, damaged, or held: what is left to adopt is counted past them."""
    header = bytearray(fmt.encode_header(URL, "1.aa", 1, sender=True, retry=False, outcome_pages=1))
    for number in range(4):
        queue = JournalQueue(tmp_path)
        queue.put([event(number)])
        queue.after_fork_in_child()  # as kill -9 would end it
    newer = bytes(header).replace(b'"version":1', b'"version":9')
    (tmp_path / "segments/0000000000001-1.aa-000000.seg").write_bytes(newer)
    (tmp_path / "segments/0000000000002-1.aa-000000.seg").write_bytes(b"noise" * 9000)
    looker = JournalQueue(tmp_path, adopt="never")
    assert looker.left_to_adopt() == 4
    held = max((tmp_path / "segments").iterdir())
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert looker.left_to_adopt() == 3
    looker.close()


def test_letters_that_somebody_is_at_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless so long is asked."""
    waited: list[float] = []
    monkeypatch.setattr(dead, "pause", waited.append)
    queue = JournalQueue(tmp_path)
    queue.put([event(1)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected")
    (name,) = os.listdir(tmp_path / "dead")
    folder = Folder(tmp_path, disk=None, gid=None, allow_network_fs=True)
    with (tmp_path / "dead" / name).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for wait_s in (0.0, 0.5):
            options = {"wait_s": wait_s} if wait_s else {}
            with pytest.raises(BlockingIOError, match="somebody else is at this segment"):
                dead.settle(folder, name, [0], Outcome.DISCARDED, **options)
            assert sum(waited) == pytest.approx(wait_s)
    assert [dead.settle(folder, name, [0], Outcome.DISCARDED) for _ in range(2)] == [1, 0]
    queue.close()


def test_who_takes_letters_in_hand_waits_for_nobody_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks after them on the sender's thread does so later."""
    waited: list[float] = []
    monkeypatch.setattr(dead, "pause", waited.append)
    queue = JournalQueue(tmp_path)
    queue.put([event(1)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected")
    (name,) = os.listdir(tmp_path / "dead")
    with (tmp_path / "dead" / name).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError), dead.held(queue.folder, name):
            pass
    assert waited == []
    queue.close()


def test_bounds_that_cannot_be_kept_are_told(tmp_path: Path) -> None:
    """With what is in the way; the queue goes on."""
    queue, heard = JournalQueue(tmp_path), list[Signal]()
    (tmp_path / "bounds.json").mkdir()
    queue.emit = heard.append
    queue.tend()
    detail = f"{queue.path} cannot be kept within its bounds: [Errno 22] not a regular file: '{queue.path}/bounds.json'"
    assert heard == [Trouble("journal", detail)]
    queue.put([event(1)])
    assert drain(queue) == [1]
    queue.close()


def test_a_file_without_a_header_is_set_aside_whole(tmp_path: Path) -> None:
    """And it is told where it lies now, how long it is, and why."""
    queue, heard = JournalQueue(tmp_path), list[Signal]()
    queue.emit = heard.append
    noise, name = b"noise" * 9000, "0000000000002-1.aa-000000.seg"
    (tmp_path / "segments" / name).write_bytes(noise)
    queue.scan()
    target = tmp_path / "bad" / f"{name}.bad"
    (said,) = heard
    assert isinstance(said, Damaged)
    assert (said.path, said.at_byte, said.length_bytes) == (str(target), 0, len(noise))
    assert said.why
    assert target.read_bytes() == noise
    queue.close()


def test_background_syncs_keep_to_their_interval(tmp_path: Path, disk: HookedDisk) -> None:
    """However often the queue is tended, and whatever is put meanwhile."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path, disk=disk, clock=clock, sync_interval_s=1.0, adopt="never")
    synced: list[int] = []
    disk.hooks["datasync"] = synced.append
    for number in range(9):
        queue.put([event(number)])
        assert queue.tend() == pytest.approx(1.0 - 0.25 * (number % 4))
        assert len(synced) == 1 + number // 4
        clock.advance(0.25)
    queue.close()


def test_letters_of_others_that_expire_are_told(tmp_path: Path) -> None:
    """Those of this process are in its own count."""
    clock = ManualClock()
    first = JournalQueue(tmp_path, clock=clock, dead_age_max_s=60)
    first.put([event(1), event(2)])
    first.bury(first.claim(URL, 2, ALL), "rejected")
    first.close()
    clock.advance(100)
    heard: list[Signal] = []
    other = JournalQueue(tmp_path, clock=clock)
    other.emit = heard.append
    other.tend()
    assert heard == [Dropped("dead_expired", 2, "dead letters that another process left")]
    other.close()


def test_damage_beyond_the_bound_of_what_is_set_aside_removes_the_oldest_at_once(tmp_path: Path) -> None:
    """A disk that rots is not filled by what it loses."""
    queue = queue_in(tmp_path, dead_bytes_max=3 * BIG // 2)
    for number in range(4):
        queue.put([event(number, BIG)])
    spoil(tmp_path, b'{"n":0')
    spoil(tmp_path, b'{"n":1')
    spoil(tmp_path, b'{"n":2')
    assert [lease.event for lease in queue.claim(URL, 9, ALL)] == [event(3, BIG)]
    assert queue.stats().dropped == {"damaged": 3}
    assert len(os.listdir(tmp_path / "bad")) == 1


def test_all_that_is_made_in_a_shared_folder_is_its_groups(tmp_path: Path, disk: HookedDisk) -> None:
    """Segments, letters, notes, locks, and what is set aside."""
    gid = os.getgid()
    made: list[tuple[str, int, int | None]] = []
    disk.hooks["create"] = lambda path, mode, group: made.append((os.path.basename(os.path.dirname(path)), mode, group))
    queue = queue_in(tmp_path / "j", disk=disk, group=gid, dead_age_max_s=60)
    for number in range(3):
        queue.put([event(number, BIG)])
    spoil(tmp_path / "j", b'{"n":0')
    queue.bury(queue.claim(URL, 1, ALL), "rejected")
    drain(queue)
    queue.close()
    assert {part for part, _, _ in made} == {"j", "segments", "dead", "bad", "writers"}
    assert {(mode, group) for _, mode, group in made} == {(0o660, gid)}
    (tmp_path / "j").chmod(0o2771)  # whoever may pass it, too
    made.clear()
    Folder(tmp_path / "j", disk=disk, gid=None, allow_network_fs=True)
    assert {(mode, group) for _, mode, group in made} == {(0o660, gid)}


def test_whether_a_folder_could_take_events_is_found_out_without_one(tmp_path: Path, disk: HookedDisk) -> None:
    """At ``fsync`` a sync is tried, too; whatever is found, nothing is left behind."""
    folder = Folder(tmp_path, disk=disk, gid=None, allow_network_fs=True)
    room = 1 << 18
    before = len(disk._descriptors)

    def why(*, bytes_max: int = room, durable: bool = True) -> str | None:
        return why_full_or_gone(folder, bytes_max=bytes_max, durable=durable)

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert (why(), why(durable=False), why(bytes_max=room - 1)) == (None, None, "queue_full")
    disk.hooks = {"datasync": fails}
    assert (why(), why(durable=False)) == ("disk_full", None)
    disk.hooks = {"allocate": fails}
    assert why(durable=False) == "disk_full"
    disk.hooks = {}
    assert len(disk._descriptors) == before
    assert sorted(os.listdir(tmp_path)) == ["bad", "dead", "segments", "writers"]
    os.rmdir(folder.segments)
    assert why() == "folder_gone"


def test_where_no_journal_is_the_path_is_told(tmp_path: Path) -> None:
    """As it was given."""
    with pytest.raises(FileNotFoundError, match="no journal here") as caught:
        open_folder(tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")


def test_an_observer_hears_of_damage_under_no_lock(tmp_path: Path, disk: HookedDisk) -> None:
    """Also where a signal handler's put comes in between: an observer may wait for anybody.  It hears where it was."""
    writer = JournalQueue(tmp_path)
    writer.put([event(0), event(1), event(2)])
    writer.close()
    (path,) = (tmp_path / "segments").iterdir()
    at = path.read_bytes().index(event(1).payload) - fmt.FRAME_HEAD_BYTES
    length = path.read_bytes().index(event(2).payload) - fmt.FRAME_HEAD_BYTES - at
    spoil(tmp_path, b'{"n":1')
    queue, heard = JournalQueue(tmp_path, disk=disk), list[tuple[Signal, bool]]()
    queue.scan()
    queue.emit = lambda signal: heard.append((signal, is_mine(queue._claims.lock) or is_mine(queue._store.lock)))

    def handler(looked_at: str) -> None:
        if looked_at.endswith("/bad"):  # what was damaged is set aside there, under the claims' lock
            disk.hooks.clear()
            queue.put([event(3)])
            interrupted.append(is_mine(queue._claims.lock))

    interrupted: list[bool] = []
    disk.hooks["names"] = handler
    assert drain(queue) == [0, 2, 3]
    assert interrupted == [True]
    ((said, locked),) = heard
    assert isinstance(said, Damaged)
    assert (said.path, said.at_byte, said.length_bytes) == (f"{tmp_path}/bad/{path.name}-{at}.bad", at, length)
    assert not locked
    queue.close()


def test_a_close_over_the_count_is_done_when_that_ends(tmp_path: Path, disk: HookedDisk) -> None:
    """A signal handler's, where a file is being opened: it can't be done there, and is not forgotten."""
    queue = JournalQueue(tmp_path, disk=disk)
    queue.put([event(0), event(1)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected")

    def handler(*_: object, **__: object) -> None:
        disk.hooks.clear()
        with disk_module._opening:
            queue.close()

    disk.hooks["open"] = handler
    assert closes(queue.stats())
    other = JournalQueue(tmp_path, adopt="always")
    other.scan()
    assert drain(other) == [1]
    other.close()


def test_nothing_to_bury_leaves_no_trace(tmp_path: Path) -> None:
    """Leases that were settled meanwhile: no letter, and nobody becomes a writer for it."""
    writer = JournalQueue(tmp_path)
    writer.put([event(0)])
    writer.close()
    queue = JournalQueue(tmp_path, adopt="always")
    queue.scan()
    leases = queue.claim(URL, 1, ALL)
    queue.ack(leases)
    before = sorted(os.listdir(tmp_path / "writers"))
    queue.bury(leases, "rejected")
    assert sorted(os.listdir(tmp_path / "writers")) == before
    assert (queue.stats().dead, queue.stats().delivered) == (0, 1)
    queue.close()
