"""What others settled is folded by who wrote it: how much, when, and what becomes of the count."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from tests.support import ALL, URL, HookedDisk, closes, drain, event
from tests.unit.test_journal_hands import BIG, queue_in

from eventpost.queues.journal import JournalQueue, dead, erase, totals
from eventpost.queues.journal.erase import Place
from eventpost.queues.journal.format import FRAME_HEAD_BYTES, Outcome
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal, Trouble


def settled_by_another(folder: Path, count: int, *, retry: bool = False) -> JournalQueue:
    """Return a queue that only stores, whose events another has delivered; the last one's segment is open."""
    queue = queue_in(folder)
    queue.sends, queue.retry = False, retry
    for number in range(count):
        queue.put([event(number, BIG)])
    other = queue_in(folder, adopt="always")
    other.scan()
    assert drain(other) == list(range(count))
    other.close()
    return queue


def test_no_more_is_folded_than_what_is_wanted_to_the_byte(tmp_path: Path) -> None:
    """A put that needs room does not fold a whole backlog for it."""
    queue = settled_by_another(tmp_path, 3)
    oldest = min((tmp_path / "segments").iterdir()).stat().st_size
    assert queue._count.reap_own(bytes_wanted=oldest) == oldest
    assert (queue._claims.folds, queue.stats().delivered, closes(queue.stats())) == (1, 3, True)
    queue.close()


def test_a_segment_that_is_open_frees_nothing(tmp_path: Path) -> None:
    """Not one byte of it counts as room, though all in it is settled."""
    queue = settled_by_another(tmp_path, 1)
    assert queue._count.reap_own() == 0
    assert (queue._claims.folds, closes(queue.stats())) == (0, True)
    queue.close()


def test_nothing_is_folded_over_a_put_of_this_thread(tmp_path: Path) -> None:
    """What would wait for it waits until the put has ended."""
    queue = settled_by_another(tmp_path, 3)
    with queue._store.lock:
        assert queue._count.reap_own() == 0
    assert (queue._claims.folds, len(os.listdir(tmp_path / "segments"))) == (0, 3)
    names = sorted(os.listdir(tmp_path / "segments"))
    sizes = [os.path.getsize(tmp_path / "segments" / name) for name in names]
    assert queue._count.reap_own() == sum(sizes[:2])
    assert (queue._claims.folds, os.listdir(tmp_path / "segments")) == (2, names[2:])
    assert queue._count.reap_own() == 0
    assert (queue.stats().delivered, closes(queue.stats())) == (3, True)
    queue.close()


def test_before_a_put_only_the_oldest_are_folded(tmp_path: Path) -> None:
    """So many of each endpoint at most, and none behind one that is not settled."""
    queue = settled_by_another(tmp_path, 5)
    names = sorted(os.listdir(tmp_path / "segments"))
    queue._count.reap_own(oldest=2)
    assert sorted(os.listdir(tmp_path / "segments")) == names[2:]
    path = tmp_path / "segments" / names[2]
    data = bytearray(path.read_bytes())
    data[4096] = 0  # not settled after all
    path.write_bytes(data)
    queue._count.reap_own(oldest=2)
    assert sorted(os.listdir(tmp_path / "segments")) == names[2:]
    queue._count.reap_own()
    assert sorted(os.listdir(tmp_path / "segments")) == [names[2], names[4]]
    assert (queue._claims.folds, queue.stats().delivered, queue.stats().queued) == (3, 4, 1)
    assert closes(queue.stats())
    queue.close()


def test_an_own_segment_that_somebody_removed_is_lost_but_for_what_was_known(tmp_path: Path) -> None:
    """What others had delivered of it stays delivered; the rest has vanished, and it is told once."""
    queue, heard = queue_in(tmp_path), list[Signal]()
    queue.emit = heard.append
    queue.sends = False
    queue.put([event(number) for number in range(3)])
    queue.put([event(3, BIG)])
    queue.put([event(4, BIG)])
    first = min((tmp_path / "segments").iterdir())
    queue._claims.void(queue._claims.lanes[URL].own[0], [2])  # its put was refused
    other = queue_in(tmp_path, adopt="always")
    other.scan()
    other.ack(other.claim(URL, 2, ALL))
    assert (queue.stats().accepted, queue.stats().delivered, queue.stats().queued) == (4, 2, 2)
    first.unlink()
    assert queue._count.reap_own() > 0
    queue._say()
    stats = queue.stats()
    assert (stats.delivered, stats.queued, stats.dropped, closes(stats)) == (2, 1, {"vanished": 1}, True)
    (said,) = heard
    assert isinstance(said, Trouble)
    assert first.name in str(said.detail)
    assert queue._count.forget_own(first.name) is False
    assert queue._count.reap_own() == 0
    other.close()
    queue.close()


def test_an_endpoint_whose_events_wait_holds_up_no_other(tmp_path: Path) -> None:
    """Only what stands behind its own oldest segment stays."""
    queue, other_url = queue_in(tmp_path), URL + "/other"
    queue.sends = False
    for number, url in enumerate([URL, URL, other_url, other_url]):
        queue.put([event(number, BIG, url)])
    other = queue_in(tmp_path, adopt="always")
    other.scan()
    other.ack(other.claim(other_url, 9, ALL))
    other.close()
    queue._count.reap_own(oldest=1)
    assert (queue._claims.folds, len(os.listdir(tmp_path / "segments"))) == (1, 3)
    queue.close()


def test_letters_that_cannot_be_looked_at_or_need_not_be_hold_up_no_others(tmp_path: Path) -> None:
    """What others did with the next one's is seen in the same look."""
    disk = HookedDisk()
    queue = JournalQueue(tmp_path, disk=disk)
    for number in range(3):
        queue.put([event(number)])
        queue.bury(queue.claim(URL, 1, ALL), "rejected")
        queue._dead.close()
    count, names = queue._count, list(queue._dead.names)

    def refuses(path: str, **_: object) -> None:
        if path.endswith(names[1]):
            raise OSError(errno.EIO, "Input/output error")

    disk.hooks["open"] = refuses
    count.clock = ManualClock(epoch_s=4e9)  # long after these files changed last
    count._dead_changed_ns[names[0]] = disk.changed_ns(f"{queue.folder.dead}/{names[0]}")
    count._look_at_dead()
    assert count._dead_changed_ns.keys() == {names[0], names[2]}
    queue.close()


def test_letters_whose_segment_cannot_be_folded_are_told_and_kept_in_the_count(tmp_path: Path) -> None:
    """The others are folded."""
    disk, heard = HookedDisk(), list[Signal]()
    queue = JournalQueue(tmp_path, disk=disk)
    queue.emit = heard.append
    for number in range(3):
        queue.put([event(number)])
        queue.bury(queue.claim(URL, 1, ALL), "rejected")
        queue._dead.close()
    names = sorted(os.listdir(tmp_path / "dead"))
    dead.settle(queue.folder, names[0], None, Outcome.DISCARDED)
    dead.settle(queue.folder, names[1], None, Outcome.RETRIED)

    def refuses(path: str, **_: object) -> None:
        if path.endswith(names[0]):
            raise OSError(errno.EIO, "Input/output error")

    disk.hooks["open"] = refuses
    queue._count.reap_own_dead()
    queue._say()
    (said,) = heard
    assert isinstance(said, Trouble)
    assert (said.what, names[0] in str(said.detail)) == ("journal", True)
    assert sorted(os.listdir(tmp_path / "dead")) == [names[0], names[2]] == sorted(queue._dead.names)
    disk.hooks.clear()
    assert (queue.stats().dead, queue.stats().dropped) == (2, {"dead_discarded": 1})
    queue.put([event(4)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected")
    queue._dead.close()
    dead.settle(queue.folder, queue._dead.names[-1], None, Outcome.RETRIED)
    queue._count.reap_own_dead()
    assert (os.listdir(tmp_path / "dead"), queue._dead.names) == ([names[2]], [names[2]])
    assert queue._count._dead_changed_ns.keys() <= {names[2]}
    found = totals.read(queue.folder)
    assert (found["accepted"], found["dropped"], found["folded"][0][:5]) == (0, {"dead_discarded": 1}, "dead/")
    assert (queue.stats().dead, queue.stats().dropped, closes(queue.stats())) == (3, {"dead_discarded": 1}, True)
    queue.close()


def test_letters_make_room_for_their_count_on_a_full_disk(tmp_path: Path) -> None:
    """Their bytes go first."""
    disk, refused = HookedDisk(), list[str]()
    queue = JournalQueue(tmp_path, disk=disk)
    queue.put([event(1), event(2)])
    queue.bury(queue.claim(URL, 2, ALL), "rejected")
    queue._dead.close()
    dead.settle(queue.folder, queue._dead.names[0], None, Outcome.DISCARDED)

    def full(path: str, *_: object) -> None:
        if path.endswith(".totals.tmp") and not refused:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")

    disk.hooks["create"] = full
    queue._count.reap_own_dead()
    assert (os.listdir(tmp_path / "dead"), len(refused)) == ([], 1)
    assert (queue.stats().dead, queue.stats().dropped, closes(queue.stats())) == (0, {"dead_discarded": 2}, True)
    queue.close()


def test_what_cannot_be_folded_now_is_in_the_count_all_the_same(tmp_path: Path) -> None:
    """Somebody has the totals: no room was made, and a signal handler that asks over a put hears what was found."""
    queue = settled_by_another(tmp_path, 2)
    with (tmp_path / "totals.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert queue._count.reap_own() == 0
    with queue._store.lock:
        stats = queue.stats()
    assert (stats.delivered, stats.queued, queue._claims.folds, closes(stats)) == (1, 1, 0, True)
    queue.close()


def test_what_was_put_back_is_not_accepted_again_when_it_is_folded(tmp_path: Path) -> None:
    """It was when it came first."""
    queue = settled_by_another(tmp_path, 2, retry=True)
    queue._count.reap_own()
    found = totals.read(queue.folder)
    assert (found["accepted"], found["delivered"]) == (0, 1)
    queue.close()


@pytest.mark.parametrize("known", [False, True])
def test_what_was_purged_of_a_segment_that_is_gone_was_purged(tmp_path: Path, *, known: bool) -> None:
    """Only the rest has vanished; also where a fold had been tried, and so all that is in it was known."""
    queue = queue_in(tmp_path)
    queue.put([event(number) for number in range(3)])
    for _ in range(2):
        queue.put([event(9, BIG)])
    path = min((tmp_path / "segments").iterdir())
    data = path.read_bytes()
    numbers = (0, 1, 2, 9) if known else (0, 1)
    at = [data.index(b'{"n":%d' % number) - FRAME_HEAD_BYTES for number in numbers]
    places = [Place(one, ordinal) for ordinal, one in enumerate(at)]
    erase.write_note(queue.folder, {f"segments/{path.name}": places})
    queue._erasing.look(elected=False)
    with (tmp_path / "totals.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        queue._count.reap_own()
    path.unlink()
    queue._count.reap_own()
    stats = queue.stats()
    assert stats.dropped == ({"purged": 4} if known else {"purged": 2, "vanished": 2})
    assert (stats.queued, closes(stats)) == (1, True)
    queue.close()


def test_a_purge_of_a_whole_segment_counts_once(tmp_path: Path) -> None:
    """When it was done, and not again when the segment is folded."""
    queue = queue_in(tmp_path)
    for number in range(2):
        queue.put([event(number, BIG)])
    path = min((tmp_path / "segments").iterdir())
    at = path.read_bytes().index(event(0, BIG).payload) - FRAME_HEAD_BYTES
    erase.write_note(queue.folder, {f"segments/{path.name}": [Place(at, 0)]})
    queue._erasing.look(elected=False)
    for folds in (0, 1):
        stats = queue.stats()
        assert (stats.dropped, stats.queued, queue._claims.folds, closes(stats)) == ({"purged": 1}, 1, folds, True)
        queue._count.reap_own()
    queue.close()
