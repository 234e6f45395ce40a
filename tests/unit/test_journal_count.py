"""What the count says, and what is folded or dropped for room: each to the byte, and without a wait."""

import errno
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from tests.support import ALL, URL, HookedDisk, closes, drain, event
from tests.unit.test_journal_hands import BIG, queue_in
from tests.unit.test_journal_room import in_another_thread

from eventpost.queues.journal import JournalQueue, dead
from eventpost.queues.journal import count as count_module
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import DROPPED, Outcome
from eventpost.queues.protocol import QueueStats
from eventpost.sender.primitives import is_mine
from eventpost.testing.clock import ManualClock


def test_no_more_is_dropped_than_what_is_wanted_to_the_byte(tmp_path: Path) -> None:
    """Where the oldest segment is just as large as what is missing, it alone makes room."""
    queue = queue_in(tmp_path, bytes_max=1 << 20, overflow="drop_oldest")
    for number in range(3):
        queue.put([event(number, BIG)])
    oldest = min((tmp_path / "segments").iterdir()).stat().st_size
    free = (1 << 20) - queue.folder.stored_bytes()
    assert queue._keeper.make_room(free)
    assert queue.stats().dropped == {}
    assert queue._keeper.make_room(free + oldest)
    assert (queue.stats().dropped, closes(queue.stats())) == ({"overflow": 1}, True)
    assert drain(queue) == [1, 2]
    queue.close()


def test_a_count_over_a_put_waits_a_moment_only(tmp_path: Path) -> None:
    """In a signal handler, while another thread has the claims: it says what it can, and the put goes on."""
    queue = JournalQueue(tmp_path)
    queue.put([event(1)])
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with queue._claims.lock:
            taken.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    with queue._store.lock:
        began = time.monotonic()
        stats = queue.stats()
        waited_s = time.monotonic() - began
    done.set()
    thread.join(10)
    assert (stats.queued, closes(stats)) == (1, True)
    assert waited_s < 0.9
    queue.close()


def test_a_count_over_a_put_says_what_was_last_said_if_it_finds_half_of_a_change(tmp_path: Path) -> None:
    """Nothing before anything was; under the claims' lock, which others have again after it."""
    queue = JournalQueue(tmp_path)
    count, claims, held = queue._count, queue._claims, list[bool]()
    read = count._read

    def watched() -> QueueStats:
        held.append(is_mine(claims.lock))
        return read()

    count._read = watched  # type: ignore[method-assign]
    with queue._store.lock:
        assert queue.stats() == QueueStats()
        claims.in_flight += 1
        assert queue.stats() == QueueStats()
        claims.in_flight -= 1
    queue.put([event(1)])
    said = queue.stats()
    assert (said.queued, closes(said)) == (1, True)
    with queue._store.lock:
        claims.in_flight += 1
        assert queue.stats() is said
        claims.in_flight -= 1
        stats = queue.stats()
        assert stats == replace(said, oldest_age_s=stats.oldest_age_s)
    assert set(held) == {True}
    assert in_another_thread(lambda: claims.lock.acquire(False))


def test_only_a_count_that_puts_keep_from_closing_makes_them_wait(tmp_path: Path) -> None:
    """Ten times it is read again without; then it closes, for nobody puts."""
    queue = JournalQueue(tmp_path)
    queue.put([event(1)])
    read, alone, torn = queue._count._read, list[bool](), [0]

    def watched() -> QueueStats:
        alone.append(is_mine(queue._store.lock))
        stats = read()
        return replace(stats, queued=stats.queued + 1) if not alone[-1] and len(alone) <= torn[0] else stats

    queue._count._read = watched  # type: ignore[method-assign]
    for torn[0], readings in ((0, [False]), (3, [False] * 4), (10, [False] * 11), (11, [False] * 11 + [True])):
        alone.clear()
        assert closes(queue.stats())
        assert alone == readings
    queue.close()


def test_a_sum_closes_or_it_does_not() -> None:
    """Each part of it counts."""
    whole = QueueStats(accepted=31, delivered=1, queued=2, in_flight=4, dead=8, dropped={"x": 10, "y": 6})
    assert count_module._closes(whole)
    for part in ("accepted", "delivered", "queued", "in_flight", "dead"):
        assert not count_module._closes(replace(whole, **{part: getattr(whole, part) + 1}))
    assert not count_module._closes(replace(whole, dropped={"x": 10, "y": 7}))


def test_what_others_did_is_in_the_sum_by_its_reason(tmp_path: Path) -> None:
    """Of events that this process only stores, and of its letters; a process that sends knows of its own events."""
    queue = JournalQueue(tmp_path)
    for number in range(40):
        queue.put([event(number)])
    lost = {outcome: number for number, outcome in enumerate(DROPPED, start=1)}
    count, claims = queue._count, queue._claims
    claims.dead = 20
    claims.in_flight = -20  # they are dead
    claims.dropped = {"overflow": 3, "damaged": 0}
    claims.in_flight -= 3
    count._dead.note("x", lost | {Outcome.RETRIED: 7})
    assert closes(count._read())
    assert (count._read().dead, count._read().delivered, count._read().queued) == (5, 0, 40)
    assert count._read().dropped == {
        "overflow": 4, "damaged": 2, "dead_discarded": 3, "dead_expired": 4, "purged": 5,
    }  # fmt: skip
    count._others.note("y", lost | {Outcome.DELIVERED: 6, Outcome.DEAD: 2})
    assert (count._read().delivered, count._read().queued) == (0, 40)
    queue.sends = False
    stats = count._read()
    assert closes(stats)
    assert (stats.dead, stats.delivered, stats.queued) == (7, 6, 40 - 23)
    assert stats.dropped == {"overflow": 5, "damaged": 4, "dead_discarded": 6, "dead_expired": 8, "purged": 10}
    count._others.note("y", {Outcome.DELIVERED: 7})
    count._others.note("z", {Outcome.DELIVERED: 1})
    assert (count._read().delivered, count._read().queued) == (8, 32)
    assert count._others.get("z") == {Outcome.DELIVERED: 1}
    count._others.forget("y")
    count._dead.forget("x")
    assert (count._read().delivered, count._read().dead, count._others.get("y")) == (1, 20, {})


def test_the_folder_is_looked_at_for_a_twentieth_of_the_time_at_most(tmp_path: Path) -> None:
    """A look that took an eighth of a second is not followed by another for two and a half."""
    disk, clock = HookedDisk(), ManualClock()
    queue = JournalQueue(tmp_path, disk=disk, clock=clock)
    queue.put([event(1)])
    looks: list[str] = []

    def look(path: str) -> None:
        looks.append(path)
        clock.advance(0.125)

    disk.hooks["names"] = look
    size = sum(path.stat().st_size for path in (tmp_path / "segments").iterdir())
    for advance, looked in ((0.0, 1), (0.0, 1), (2.375, 1), (0.125, 2), (2.375, 2), (9.0, 3)):
        clock.advance(advance)
        assert queue.stats().stored_bytes == size
        assert len(looks) == looked
    clock.advance(9.0)

    def refuses(path: str) -> None:
        raise OSError(errno.EIO, path)

    disk.hooks["names"] = refuses
    assert (queue.stats().stored_bytes, queue.stats().queued) == (0, 1)
    disk.hooks.clear()
    queue.close()


def test_the_oldest_event_is_the_oldest_that_waits(tmp_path: Path) -> None:
    """Put, given back, or in a segment that was not opened yet; what the sender has in hand does not wait."""
    disk, clock = HookedDisk(), ManualClock(epoch_s=1_700_000_000.5)
    queue = queue_in(tmp_path, disk=disk, clock=clock)
    assert queue.stats().oldest_age_s is None
    for number in range(4):
        queue.put([event(number, BIG)])
        clock.advance(10.0)

    def age() -> float | None:
        return queue.stats().oldest_age_s

    assert age() == 40.5
    first, second = queue.claim(URL, 2, ALL)
    assert age() == 20.5
    queue.release([second], 99.0)
    assert age() == 30.5
    queue.ack([first])
    rest = queue.claim(URL, 9, ALL)
    assert age() == 30.5
    disk.hooks["read"] = lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    assert age() == 30.5
    disk.hooks.clear()
    queue.ack([second, *rest])
    assert age() is None
    queue.put([event(9)])
    queue.claim(URL, 9, ALL)
    queue.put([event(9)])
    assert age() == 0.5
    clock._epoch_s -= 1000.0  # somebody set it back
    assert age() == 0.0
    disk.hooks["read"] = lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    assert age() is None
    disk.hooks.clear()
    queue.close()


def test_the_oldest_event_may_be_any_endpoints(tmp_path: Path) -> None:
    """Each has a lane of its own."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path, clock=clock)
    lanes = [URL, "http://127.0.0.1:9/b", "http://127.0.0.1:9/c"]
    for lane in lanes:
        queue.put([event(0, url=lane), event(1, url=lane)])
        clock.advance(10.0)
    assert queue.stats().oldest_age_s == 30.0
    for lane in lanes[:2]:
        queue.ack(queue.claim(lane, 1, ALL))
        assert queue.stats().oldest_age_s == 30.0
    queue.ack(queue.claim(lanes[0], 1, ALL))
    assert queue.stats().oldest_age_s == 20.0
    queue.release(queue.claim(lanes[1], 1, ALL), 99.0)
    assert queue.stats().oldest_age_s == 20.0
    queue.close()


def opened(disk: HookedDisk) -> list[str]:
    """Return which files are opened from now on; to be read only, as all here."""
    names: list[str] = []

    def note(path: str, *, write: bool = True) -> None:
        assert write is False
        names.append(os.path.basename(path))

    disk.hooks["open"] = note
    return names


def test_own_segments_that_others_settled_are_looked_at_once(tmp_path: Path) -> None:
    """To be read only, and no descriptor stays; those that are not settled as a whole are looked at each time."""
    disk = HookedDisk()
    queue = queue_in(tmp_path, disk=disk)
    queue.sends = False
    for number in range(3):
        queue.put([event(number, BIG)])
    names = sorted(os.listdir(tmp_path / "segments"))
    other = queue_in(tmp_path, adopt="always")
    other.scan()
    other.ack(other.claim(URL, 1, ALL))
    looks, before = opened(disk), set(disk._descriptors)
    assert (queue.stats().delivered, looks) == (1, names)
    looks.clear()
    assert (queue.stats().delivered, looks, disk._descriptors) == (1, names[1:], before)
    assert drain(other) == [1, 2]
    assert (queue.stats().delivered, queue.stats().queued) == (3, 0)
    os.unlink(tmp_path / "segments" / names[2])
    os.unlink(tmp_path / "segments" / names[1])
    assert (queue.stats().delivered, closes(queue.stats())) == (3, True)
    disk.hooks.clear()
    other.close()
    queue.close()


def test_own_letters_are_looked_at_when_their_file_has_changed(tmp_path: Path) -> None:
    """Or may have since, for a file's time moves in steps; one that is gone leaves the count as it was."""
    disk, clock = HookedDisk(), ManualClock()
    queue = JournalQueue(tmp_path, disk=disk, clock=clock)
    for number in range(2):
        queue.put([event(number)])
        queue.bury(queue.claim(URL, 1, ALL), "rejected")
        queue._dead.close()
        clock.advance(1.0)
    names = sorted(os.listdir(tmp_path / "dead"))
    paths = [tmp_path / "dead" / name for name in names]

    def changed(path: Path, ago_s: float) -> None:
        at_ns = int((clock.time() - ago_s) * 1e9)
        os.utime(path, ns=(at_ns, at_ns))

    for path in paths:
        changed(path, 0.5)
    looks = opened(disk)
    for expected in (names, []):
        looks.clear()
        assert (queue.stats().dead, [name for name in looks if name in names]) == (2, expected)
    dead.settle(Folder(tmp_path, disk=None, gid=None, allow_network_fs=True), names[1], None, Outcome.DISCARDED)
    changed(paths[1], 0.0625)
    for expected in ([names[1]], [names[1]]):
        looks.clear()
        assert (queue.stats().dead, [name for name in looks if name in names]) == (1, expected)
    clock.advance(0.0625)
    looks.clear()
    assert (queue.stats().dead, [name for name in looks if name in names]) == (1, [])
    for path in paths:
        path.unlink()
    assert (queue.stats().dead, queue.stats().dropped, closes(queue.stats())) == (1, {"dead_discarded": 1}, True)
    disk.hooks.clear()


def test_the_oldest_event_of_a_living_process_that_only_stores_is_known_to_who_sends_it(tmp_path: Path) -> None:
    """Though its segment is not sealed, so nobody knows how many there are."""
    clock = ManualClock()
    writer = JournalQueue(tmp_path, clock=clock)
    writer.sends = False
    writer.put([event(0)])
    clock.advance(10.0)
    writer.put([event(1)])
    assert writer.stats().oldest_age_s is None
    sender = JournalQueue(tmp_path, clock=clock, adopt="always")
    sender.scan()
    for waits in (10.0, 0.0, None):
        clock.advance(50.0)
        found = sender.stats().oldest_age_s
        assert found == (None if waits is None else waits + 50.0 * (1 if waits else 2))
        sender.ack(sender.claim(URL, 1, ALL))
    sender.close()
    writer.close()
