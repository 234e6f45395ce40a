"""When a flush is done: never before all that was accepted then is settled, and under steady traffic, too."""

from collections.abc import Iterable, Mapping

import pytest

from eventpost.queues.protocol import QueueStats
from eventpost.sender.flush import Flush

A, B = "http://127.0.0.1:1/", "http://127.0.0.1:2/"
BUSY = QueueStats(accepted=1000, delivered=1000, queued=1)
"""The queue is never empty; more is settled than was accepted at the flush."""


def noted(accepted: int = 5, pending: Mapping[str, int] = {A: 0}, serials: Mapping[str, int] = {A: 2}) -> Flush:
    """Return a flush that was noted at such a moment."""
    flush = Flush()
    flush.note(QueueStats(accepted=accepted, queued=accepted), pending, serials)
    return flush


def is_done(flush: Flush, stats: QueueStats = BUSY, *, returned: int = 0, held: Iterable[int] = ()) -> bool:
    """Check a flush; ``held``: the serials of A's batches."""
    done = flush.check(stats, returned, lambda lane: held if lane == A else ())
    assert done is flush.done
    return done


def test_a_new_flush_is_neither_done_nor_hopeless_nor_given_up() -> None:
    """Whoever waits for it waits."""
    flush = Flush()
    assert (flush.done, flush.hopeless, flush.given_up) == (False, False, False)


@pytest.mark.parametrize(("queued", "in_flight"), [(0, 0), (1, 0), (0, 1)])
def test_an_empty_queue_is_the_easy_answer(queued: int, in_flight: int) -> None:
    """Nothing is queued and nothing in flight: done, whatever else is known; with one event in either it is not."""
    flush = noted(pending={A: 3})
    assert is_done(flush, QueueStats(queued=queued, in_flight=in_flight), returned=1) is (queued + in_flight == 0)


def test_all_that_was_pending_must_have_been_claimed() -> None:
    """To the last event of each lane; claims of what came later, or elsewhere, do not count."""
    flush = noted(pending={A: 3, B: 1})
    flush.claimed(A, 3, 3)
    assert not is_done(flush)
    flush = noted(pending={A: 3, B: 1})
    flush.claimed(A, 2, 3)
    flush.claimed(B, 1, 1)
    flush.claimed("http://127.0.0.1:3/", 1, 1)
    assert not is_done(flush)
    flush.claimed(A, 1, 4)
    assert is_done(flush)


def test_more_may_be_claimed_at_once_than_was_pending() -> None:
    """The rest came later."""
    flush = noted(pending={A: 3})
    flush.claimed(A, 100, 4)
    assert is_done(flush)


def test_batches_up_to_the_one_that_took_the_last_are_waited_for() -> None:
    """Of a lane that had something pending: those that were formed up to its claim."""
    flush = noted(pending={A: 3})
    flush.claimed(A, 3, 7)
    flush.claimed(A, 3, 9)
    assert not is_done(flush, held=[8, 7])
    assert is_done(flush, held=[8, 9])


def test_batches_that_were_there_are_waited_for() -> None:
    """Of a lane that had nothing pending: those that were formed before the flush."""
    flush = noted()
    assert not is_done(flush, held=[5, 2])
    assert is_done(flush, held=[3, 5])


def test_what_was_given_back_is_waited_for() -> None:
    """One such event may be an old one."""
    flush = noted()
    assert not is_done(flush, returned=1)
    assert is_done(flush, returned=0)


def test_as_many_must_be_settled_as_were_accepted() -> None:
    """Delivered, dead and dropped for whatever reason all count."""
    for missing in range(4):
        settled = [2, 1, 1, 1]
        settled[missing] -= 1
        for delivered, dead, full, expired, done in ((*settled, False), (2, 1, 1, 1, True)):
            stats = QueueStats(
                queued=1, delivered=delivered, dead=dead, dropped={"overflow": full, "dead_expired": expired}
            )
            assert is_done(noted(accepted=5), stats) is done
