"""What a reader settles: these events, and no others."""

from itertools import pairwise
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from tests.support import ALL, URL, closes, drain, event, number_of
from tests.unit.test_journal_hands import BIG, queue_in, spoil

from eventpost.queues.journal.cursor import runs


@given(st.sets(st.integers(0, 12)))
@example({0, 3})
def test_neighbours_are_settled_together_and_nobody_else(ordinals: set[int]) -> None:
    """Every one of them once, in any order of asking, and none that lies between; as few runs as can be."""
    found = runs(sorted(ordinals, reverse=True))
    assert [one for run in found for one in run] == sorted(ordinals)
    assert all(before.stop < after.start for before, after in pairwise(found))


def test_two_with_as_many_between_them_are_two_runs() -> None:
    """However far apart, they are no neighbours."""
    assert runs([0, 3]) == [range(1), range(3, 4)]


def test_a_damaged_last_event_of_a_segment_that_ended_while_it_was_read_is_counted(tmp_path: Path) -> None:
    """Its end is learnt from the writer then, and not from the header that was read before."""
    queue = queue_in(tmp_path)
    queue.put([event(0)])
    queue.ack(queue.claim(URL, 9, ALL))
    queue.put([event(1), event(2, BIG)])
    queue.put([event(3, BIG)])  # begins the next
    spoil(tmp_path, b'{"n":2')
    (lease,) = queue.claim(URL, 1, ALL)
    assert number_of(lease.event.payload) == 1
    queue.ack([lease])
    assert closes(queue.stats())
    assert drain(queue) == [3]
    stats = queue.stats()
    assert (stats.delivered, stats.dropped, stats.queued) == (3, {"damaged": 1}, 0)
    assert closes(stats)
    queue.close()


def test_what_follows_damage_in_a_segment_that_ended_while_it_was_read_is_still_queued(tmp_path: Path) -> None:
    """One by one, the sum closing at each step."""
    queue = queue_in(tmp_path)
    queue.put([event(0)])
    queue.ack(queue.claim(URL, 9, ALL))
    queue.put([event(1), event(2), event(3), event(4, BIG)])
    queue.put([event(5, BIG)])
    spoil(tmp_path, b'{"n":1')
    for number, queued in ((2, 3), (3, 2), (4, 1), (5, 0)):
        (lease,) = queue.claim(URL, 1, ALL)
        assert number_of(lease.event.payload) == number
        stats = queue.stats()
        assert (stats.queued, stats.in_flight, closes(stats)) == (queued, 1, True)
        queue.ack([lease])
    assert queue.stats().dropped == {"damaged": 1}
    queue.close()
