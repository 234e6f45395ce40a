"""What the count says, and what is folded or dropped for room: each to the byte, and without a wait."""

import threading
import time
from pathlib import Path

from tests.support import closes, drain, event
from tests.unit.test_journal_hands import BIG, queue_in

from eventpost.queues.journal import JournalQueue


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


def settled_by_another(folder: Path, count: int) -> JournalQueue:
    """Return a queue that only stores, whose events another has delivered; the last one's segment is open."""
    queue = queue_in(folder)
    queue.sends = False
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
