"""What a process has in hand of a queue on Redis Streams: entries, leases, lanes, and what came of others' events."""

from __future__ import annotations

from collections import deque

import pytest

from eventpost.queues.streams.hand import Hand
from eventpost.queues.streams.held import LEASED, READY, SETTLED, WAITING, Lane, StreamsLease
from streams_parts import LANE, ME, an_entry
from support import URL


@pytest.fixture
def hand():
    """Make one of a new process."""
    made = Hand()
    made.reset(ME, deque())
    return made


def leased(hand, held, *numbers):
    """Lease events of an entry as a claim does; returns the leases."""
    for at in numbers:
        held.states[at] = LEASED
        held.leases[at] = StreamsLease(held.events[at], (held, at), 0.0)
        hand.leased(held)
    return [held.leases[at] for at in numbers]


def taken(hand, held):
    """Take an entry into hand."""
    hand.add(hand.lane(held.url), held)
    return held


def figures(hand):
    """Return what is in flight of the own and of others' events, and how many of others' are in hand."""
    return hand.in_flight_own, hand.in_flight_adopted, hand.adopted_in_hand


def test_what_is_put_here_adds_up_by_lane_and_part():
    """Until it is taken note of; once."""
    arrived = deque([(0, URL, 2), (1, URL, 3), (0, "b", 4), (0, URL, 5)])
    hand = Hand()
    hand.reset(ME, arrived)
    hand.take_note()
    assert {url: (lane.url, lane.waiting) for url, lane in hand.lanes.items()} == {
        URL: (URL, {0: 7, 1: 3}), "b": ("b", {0: 4}),
    }  # fmt: skip
    assert hand.lane(URL).key == LANE
    assert not arrived
    hand.take_note()
    assert hand.lane(URL).waiting == {0: 7, 1: 3}


def test_what_is_put_while_it_is_taken_note_of_is_no_error():
    """Another thread may have taken it."""

    class Gone(deque):
        def popleft(self):
            self.clear()
            return super().popleft()

    hand = Hand()
    hand.reset(ME, Gone([(0, URL, 2)]))
    hand.take_note()
    assert not hand.lanes


def test_a_look_tells_what_waits_in_one_part_of_every_lane(hand):
    """What it does not name has nothing there; what it names and nobody knew of is a lane from then on."""
    hand.lane(URL).waiting.update({0: 5, 1: 6})
    hand.know_waiting(0, [("b", 1), ("c", -1)])
    assert {url: lane.waiting for url, lane in hand.lanes.items()} == {URL: {0: 0, 1: 6}, "b": {0: 1}, "c": {0: 0}}


def test_entries_of_others_are_counted_as_long_as_they_are_in_hand(hand):
    """Event by event: in hand, in flight, settled; once, whoever settles it."""
    taken(hand, an_entry(1, 2))
    theirs = taken(hand, an_entry(2, 3, own=False, settled=b"100"))
    more = taken(hand, an_entry(3, 4, own=False))
    assert figures(hand) == (0, 0, 6)
    assert [at for held, at in hand.lane(URL).ready if held is theirs] == [1, 2]
    leases = leased(hand, theirs, 1, 2)
    assert figures(hand) == (0, 2, 6)
    hand.settled(theirs, 1)
    hand.settled(theirs, 1)
    assert figures(hand) == (0, 1, 5)
    assert not leases[0].live
    hand.settled(more, 0)
    assert figures(hand) == (0, 1, 4)
    hand.settled(theirs, 2)
    assert figures(hand) == (0, 0, 3)
    assert theirs.ident not in hand.held


def test_what_is_settled_or_lost_is_not_told_of_any_more(hand):
    """Nobody waits for it."""
    for entry, go in ((an_entry(1), lambda held: hand.settled(held, 0)), (an_entry(2), hand.lost)):
        held = taken(hand, entry)
        hand.give_back(held, 0, 5.0)
        assert list(hand.to_tell) == [held.ident]
        go(held)
        assert not hand.to_tell
        assert not hand.held


def test_a_lost_entry_takes_its_leases_and_its_place_in_the_count_with_it(hand):
    """Once; another one of its name that came into hand since stays."""
    held = taken(hand, an_entry(1, 4, own=False))
    own = taken(hand, an_entry(2, 2))
    leases = leased(hand, held, 0, 1)
    leased(hand, own, 0)
    hand.settled(held, 0)
    hand.lost(held)
    hand.lost(own)
    assert figures(hand) == (0, 0, 0)
    assert [lease.live for lease in leases] == [False, False]
    assert not held.leases
    assert list(held.states) == [SETTLED] * 4
    again = taken(hand, an_entry(1, 4, own=False))
    hand.lost(held)
    assert hand.held == {again.ident: again}
    assert figures(hand) == (0, 0, 4)


def test_what_is_given_up_adds_up_by_reason(hand):
    """As does all that becomes of others' events."""
    for reason, events in (("damaged", 2), ("other", 4), ("damaged", 3)):
        hand.dropped(reason, events)
    assert hand.adopted_dropped == {"damaged": 5, "other": 4}


def test_a_closed_hand_is_empty(hand):
    """Its leases end, and there is nothing to claim."""
    own, theirs = taken(hand, an_entry(1, 2)), taken(hand, an_entry(2, 2, own=False))
    leases = [*leased(hand, own, 0), *leased(hand, theirs, 1)]
    hand.close()
    assert (hand.closed, hand.held, hand.lanes, figures(hand)) == (True, {}, {}, (0, 0, 0))
    assert [lease.live for lease in leases] == [False, False]


def test_events_of_an_entry_are_named_as_ranges():
    """Counted from one; nothing at all for all of them."""
    held = an_entry(1, 9)
    assert held.which([0, 1, 3, 4, 5, 8]) == "1-2,4-6,9-9,"
    assert held.which([5, 3]) == "4-4,6-6,"
    assert held.which([8, 7]) == "8-9,"
    assert held.which(list(range(9))) == ""


# -- a lane


def rows(*dues, state=WAITING):
    """Make a lane with one event given back for each of these times."""
    hand = Hand()
    hand.reset(ME, deque())
    held = taken(hand, an_entry(1, len(dues)))
    lane = hand.lane(URL)
    lane.ready.clear()
    for at, due in enumerate(dues):
        held.states[at] = state
        hand.give_back(held, at, due)
    return lane, held


def numbers(found):
    """Return which events those are."""
    return [row[3] for row in found]


def test_what_is_due_is_taken_out_in_its_order_and_so_many_at_most():
    """Those of one time in the order in which they were given back; what was settled meanwhile is left out."""
    lane, held = rows(3.0, 1.0, 2.0, 1.0, 9.0)
    assert lane.next_due() == 1.0
    assert numbers(lane.due(0.5, 9)) == []
    assert numbers(lane.due(1.0, 1)) == [1]
    held.states[3] = SETTLED
    assert lane.next_due() == 2.0
    assert numbers(lane.due(3.0, 0)) == []
    assert numbers(lane.due(3.0, 9)) == [2, 0]
    held.states[4] = READY
    assert lane.next_due() is None
    assert not lane.again
    assert lane.next_due() is None


def test_what_is_in_hand_is_what_is_fresh_and_what_was_given_back_once_some_of_it_is_due():
    """About."""
    lane, held = rows(5.0, 7.0)
    assert [lane.in_hand(now) for now in (4.9, 5.0, 9.0)] == [0, 2, 2]
    lane.ready.extend([(held, 0)] * 3)
    assert [lane.in_hand(now) for now in (4.9, 5.0)] == [3, 5]
    assert Lane(URL, LANE).in_hand(9.0) == 0
    one, _ = rows(5.0)
    assert (one.in_hand(4.0), one.in_hand(5.0)) == (0, 1)


def test_a_part_has_something_where_others_left_more_or_something_waits():
    """One event is something."""
    lane = Lane(URL, LANE)
    lane.waiting.update({0: 0, 1: 1})
    lane.left_behind.add(2)
    assert [lane.has(shard) for shard in range(4)] == [False, True, True, False]
