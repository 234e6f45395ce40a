"""Claiming on Redis Streams: what is handed out of what is in hand, what the server is asked for, what it brings."""

from __future__ import annotations

import pytest

from eventpost.queues.streams.held import READY, SETTLED
from eventpost.sender.primitives import get_ident
from eventpost.watch.signals import Trouble
from streams_parts import GONE, LANE, ME, OTHER, Claimer, Fault, a_row, an_entry, claim_call, claimed, key_of
from support import ALL, URL, event, number_of

SIZE = len(event(100).payload)


@pytest.fixture
def one(monkeypatch):
    """Make one with three parts."""
    return Claimer(monkeypatch, shards=3)


# -- what is in hand


def test_what_is_in_hand_is_handed_out_in_its_order_and_nobody_is_asked(one):
    """As many events as are wanted, as many bytes as reach what is wanted; the rest the next time."""
    first, second = one.take(an_entry(1, 4)), one.take(an_entry(2, 3, own=False))
    assert one.claim(1) == [100]
    assert one.claim(9, SIZE) == [101]
    assert one.claim(9, SIZE + 1) == [102, 103]
    leases = one.claims.claim(URL, 2, ALL)
    assert [(lease.event, lease.ref, lease.claimed_at, lease.attempts, lease.live) for lease in leases] == [
        (second.events[at], (second, at), one.clock.monotonic(), 1, True) for at in (0, 1)
    ]
    assert second.leases == dict(enumerate(leases))
    assert (one.hand.in_flight_own, one.hand.in_flight_adopted) == (4, 2)
    assert list(first.states) == [1, 1, 1, 1]
    assert one.claim(9, 1) == [202], "one event at least, however large"
    assert one.claim() == []
    assert not one.route.asked
    assert one.hand.claimer == get_ident()


def test_what_was_given_back_and_is_due_comes_first(one):
    """In the order in which it is due; what does not fit stays in front of what is fresh."""
    held = one.take(an_entry(1, 5))
    one.claim(3)
    one.give_back(held, 0, 2.0)
    one.give_back(held, 1, 1.0)
    one.give_back(held, 2, 9.0)
    assert one.claims.next_due_s() == 1.0
    one.clock.advance(2.0)
    assert one.claims.next_due_s() == 0.0
    assert one.claims.pending(URL) == 5, "about: those given back count as one"
    assert one.claim(1) == [101]
    held.attempts[0] = 6
    (lease,) = one.claims.claim(URL, 1, ALL)
    assert (number_of(lease.event.payload), lease.attempts) == (100, 7)
    one.give_back(held, 0, 0.0)
    one.give_back(held, 1, 0.0)
    assert one.claim(9, SIZE) == [100]
    assert one.claim(9, 2 * SIZE) == [101, 103]
    assert held.leases[1].claimed_at == one.clock.monotonic()
    assert one.claim() == [104]
    assert one.claims.next_due_s() == 7.0
    for at in (0, 1, 3):
        one.give_back(held, at, 0.0)
    assert one.claim(9, 2 * SIZE) == [100, 101]
    assert not one.route.asked


def test_what_was_settled_meanwhile_is_handed_out_no_more(one):
    """By whomever: of what is fresh, and of what was given back; it takes no other's place."""
    held = one.take(an_entry(1, 6))
    one.claim(2)
    one.give_back(held, 0, 0.0)
    one.give_back(held, 1, 0.0)
    for at in (0, 2, 4):
        one.hand.settled(held, at)
    assert one.claim(3) == [101, 103, 105]


def test_an_entry_that_may_be_somebody_elses_by_now_is_asked_about_once(one):
    """Once half a lease has passed, or others were told of it; no more of them than are wanted."""
    ripe, told, fresh, behind = (
        an_entry(1, 2, sure_until=one.time.now), an_entry(2), an_entry(3), an_entry(4, sure_until=0.0)
    )  # fmt: skip
    told.told = True
    for held in (ripe, told, fresh, behind):
        one.take(held)
    one.route.answers = [[[1, 1]]]
    assert one.claim(4) == [100, 101, 200, 300]
    assert one.route.last == [(0, [("hold", 1, key_of(0), ME, LANE, "1-0", 0, LANE, "2-0", 0)])]
    assert (ripe.sure_until, told.told) == (one.time.now + 30.0, False)
    one.route.answers = [[[0]]]
    assert one.claim() == []
    assert behind.lost


def test_what_is_somebody_elses_does_not_keep_back_what_is_behind_it(one):
    """What was given back of it, or never handed out, is gone from here; the rest is handed out at once."""
    lost = one.take(an_entry(1, 3))
    one.claim(1)
    one.give_back(lost, 0, 0.0)
    one.take(an_entry(2))
    lost.sure_until = 0.0
    one.route.answers = [[[0]]]
    assert one.claim() == [200]
    assert one.hand.in_flight_own == 1


def test_what_is_not_answered_is_not_handed_out_and_keeps_its_place(one):
    """Nor what is behind it: order is kept; nor is there any less of it afterwards."""
    held = one.take(an_entry(1, 3))
    one.take(an_entry(2))
    one.claim(1)
    one.give_back(held, 0, 0.0)
    held.sure_until = 0.0
    one.route.answers = [GONE]
    assert one.claim() == []
    one.route.answers = [[[1]]]
    assert one.claim() == [100, 101, 102, 200]
    held = one.take(an_entry(3, 2, sure_until=0.0))
    one.take(an_entry(4))
    one.route.answers = [GONE]
    assert one.claim() == []
    one.route.answers = [[[1]]]
    assert one.claim(1) == [300]
    assert one.claim() == [301, 400]


def test_a_lane_that_is_not_known_has_nothing(one):
    """And asks nobody; as a queue that is closed."""
    assert one.claim() == []
    assert one.claims.pending(URL) == 0
    assert one.claims.next_due_s() is None
    assert one.hand.claimer is None
    one.take(an_entry(1))
    one.hand.closed = True
    assert one.claim() == []
    assert not one.route.asked


# -- what the server is asked for


def test_the_server_is_asked_for_what_is_missing(one):
    """Of what is known to wait there, also what was put here just now; what is beyond it stays in hand."""
    one.take(an_entry(1, 2))
    one.hand.know_waiting(0, [])
    one.puts.arrived.append((1, URL, 4))
    one.route.answers = [claimed(a_row(5, 2), a_row(6, 3), waiting=7)]
    assert one.claim(5, 10 * SIZE) == [100, 101, 500, 501, 600]
    assert one.route.last == [claim_call(1, 3, 8 * SIZE)]
    assert one.route.deadlines == [one.time.now + 2.0]
    assert one.claims.pending(URL) == 9
    assert one.claim(2) == [601, 602]
    assert not one.route.asked
    one.route.answers = [claimed(a_row(7, 2), waiting=0)]
    assert one.claim(3, SIZE) == [700]
    assert one.route.last == [claim_call(1, 3, SIZE)]
    assert one.claim(3) == [701]
    assert one.claim(3) == []
    assert not one.route.asked, "nothing is known to wait"


def test_the_bytes_that_are_in_hand_count_with_those_that_come(one):
    """A claim ends with the event that reaches its bytes, wherever that came from."""
    one.take(an_entry(1, 1))
    one.hand.know_waiting(0, [(URL, 9)])
    one.route.answers = [claimed(a_row(5, 3), waiting=6)]
    assert one.claim(9, 2 * SIZE + 1) == [100, 500, 501]
    assert one.route.last == [claim_call(0, 8, SIZE + 1)]
    assert one.claim(9, SIZE) == [502]
    assert one.claims.pending(URL) == 6
    assert not one.route.asked


def test_no_more_parts_are_asked_than_have_what_is_wanted_and_each_comes_first_in_turn(one):
    """By what is known of them."""
    for shard, waiting in enumerate((5, 4, 9)):
        one.hand.know_waiting(shard, [(URL, waiting)])
    one.route.otherwise = lambda shard, _: claimed(waiting=(5, 4, 9)[shard])
    turns = []
    for _ in range(4):
        one.claim(8)
        turns.append(one.route.last)
    first = [claim_call(0, 8), claim_call(1, 3)]
    assert turns == [first, [claim_call(1, 8), claim_call(2, 4)], [claim_call(2, 8)], first]
    one.claim(9)
    assert one.route.last == [claim_call(1, 9), claim_call(2, 5)]
    one.claim(10)
    assert one.route.last == [claim_call(2, 10), claim_call(0, 1)]


def test_parts_that_have_nothing_or_are_away_are_not_asked(one):
    """Their time comes with the next look."""
    for shard, waiting in enumerate((5, 0, 9)):
        one.hand.know_waiting(shard, [(URL, waiting)])
    one.route.away[0] = 0.1
    one.route.answers = [claimed(waiting=9)]
    one.claim(20)
    assert one.route.last == [claim_call(2, 20)]
    assert one.claims.pending(URL) == 9
    one.route.away[2] = 0.1
    assert one.claim(20) == []
    assert not one.route.asked


def test_what_others_let_go_of_is_taken_where_there_is_more_of_it(one):
    """As many entries as events are wanted; until the server finds fewer than that."""
    one.lane.left_behind |= {1}
    one.hand.know_waiting(2, [(URL, 3)])
    assert one.claims.pending(URL) == 4
    one.route.answers = [claimed(waiting=3), claimed(a_row(5, 1, writer=OTHER), taken_over=4)]
    assert one.claim(7) == [500]
    assert one.route.last == [claim_call(2, 7), claim_call(1, 4, ALL, 4)]
    assert one.lane.left_behind == {1}
    one.hand.know_waiting(2, [])
    one.route.answers = [claimed(taken_over=299)]
    one.claim(300)
    assert one.route.last == [claim_call(1, 300, ALL, 256)]
    assert one.lane.left_behind == {1}
    one.route.answers = [claimed(taken_over=255)]
    one.claim(300)
    assert one.route.last == [claim_call(1, 300, ALL, 256)]
    assert one.lane.left_behind == set()


def test_what_others_let_go_of_is_taken_where_nothing_else_waits(one):
    """A part of which no look has told yet."""
    one.lane.left_behind |= {1}
    one.route.answers = [claimed(a_row(5, 1, writer=OTHER), taken_over=9)]
    assert one.claim(3) == [500]
    assert one.route.last == [claim_call(1, 3, ALL, 3)]


def test_what_others_let_go_of_counts_for_what_is_wanted(one):
    """Whichever is more: entries of others, or events that wait."""
    one.lane.left_behind |= {0}
    one.hand.know_waiting(0, [(URL, 300)])
    one.hand.know_waiting(1, [(URL, 9)])
    one.route.otherwise = lambda *_: claimed(waiting=2, taken_over=256)
    one.claim(310)
    assert one.route.last == [claim_call(0, 310, ALL, 256), claim_call(1, 10)]
    one.lane.waiting.clear()
    one.lane.waiting.update({0: 2, 1: 9})
    one.claim(5)
    assert one.route.last == [claim_call(0, 5, ALL, 5)]


def test_a_part_that_does_not_answer_or_refuses_keeps_back_no_other(one):
    """The refusal is told, and that part is not asked again before the next look."""
    for shard in range(3):
        one.hand.know_waiting(shard, [(URL, 2)])
    one.route.answers = [GONE, [Fault("OOM it is full")], claimed(a_row(5, 2), waiting=0)]
    assert one.claim(20) == [500, 501]
    assert dict(one.lane.waiting) == {0: 2, 1: 0, 2: 0}
    assert [(type(signal), signal.what) for signal in one.told] == [(Trouble, "redis")]
    assert "OOM it is full" in one.told[0].detail


# -- what is taken into hand


def test_an_entry_is_taken_as_the_server_has_it(one):
    """Whose it is, what of it is settled, and for how long it is sure: from the moment before it was asked for."""
    one.hand.know_waiting(2, [(URL, 9)])

    def later(*_):
        one.time.now += 5
        return claimed(a_row(5, 3, writer=OTHER, settled=b"010"), a_row(6, 1))

    one.route.answers = [later]
    assert one.claim() == [500, 502, 600]
    theirs, mine = one.hand.held.values()
    assert (theirs.shard, theirs.url, theirs.lane, theirs.id, theirs.writer) == (2, URL, LANE, "5-0", OTHER)
    assert (theirs.size, theirs.own, list(theirs.states)) == (len(a_row(5, 3)[3]), False, [1, SETTLED, 1])
    assert (theirs.sure_until, mine.own, mine.writer) == (one.time.now + 25.0, True, ME)
    assert one.hand.adopted_in_hand == 2


def test_a_writer_may_be_called_anything(one):
    """Whatever stands there is somebody's name."""
    one.hand.know_waiting(2, [(URL, 9)])
    row = a_row(5)
    row[1] = b"\xff"
    one.route.answers = [claimed(row)]
    assert one.claim() == [500]
    assert [held.writer for held in one.hand.held.values()] == ["\ufffd"]


def test_an_entry_that_is_in_hand_and_comes_again_is_sure_anew(one):
    """What was settled of it meanwhile is known then, and nothing of it is had twice."""
    held = one.take(an_entry(5, 3, sure_until=0.0))
    held.told = True
    one.lane.ready.clear()
    one.hand.know_waiting(0, [(URL, 9)])
    one.route.answers = [claimed(a_row(5, 3, settled=b"011"))]
    assert one.claim() == []
    assert (held.sure_until, held.told, list(held.states)) == (one.time.now + 30.0, False, [READY, SETTLED, SETTLED])
    assert list(one.hand.held.values()) == [held]


@pytest.mark.parametrize(("writer", "dropped"), [(ME, {}), (OTHER, {"damaged": 2})])
def test_an_entry_that_cannot_be_read_is_dropped_and_told(one, writer, dropped):
    """It is counted where its writer's are, and here if that is another; the rest goes on."""
    row = a_row(5, 2, writer=writer)
    row[3] = b"\x01"
    one.hand.know_waiting(1, [(URL, 9)])
    one.route.answers = [claimed(row, a_row(6, 1)), [[2]]]
    assert one.claim() == [600]
    assert one.route.last == [(1, [("settle", 1, key_of(1), "-damaged", LANE, b"5-0", writer.encode(), 2, 1, "")])]
    assert one.hand.adopted_dropped == dropped
    assert [(type(signal), signal.what) for signal in one.told] == [(Trouble, "redis")]
    assert "5-0" in one.told[0].detail
    assert "not an entry" in one.told[0].detail


def test_an_entry_of_another_number_of_events_is_damaged(one):
    """Than stands beside it."""
    row = a_row(5, 2)
    row[2] = b"3"
    one.hand.know_waiting(0, [(URL, 9)])
    one.route.answers = [claimed(row), [[3]]]
    assert one.claim() == []
    assert one.route.last == [
        (0, [("settle", 1, key_of(0), "-damaged", LANE, b"5-0", ME.encode(), 3, len(row[3]), "")])
    ]


# -- what could be claimed


def test_what_is_pending_is_what_could_be_had_just_now(one):
    """In hand and due, waiting on a server that is there, and something where others left more."""
    one.puts.arrived.append((0, URL, 4))
    one.hand.know_waiting(1, [(URL, 2)])
    one.lane.left_behind |= {0, 2}
    one.take(an_entry(1, 3))
    assert one.claims.pending(URL) == 3 + 4 + 2 + 2
    one.route.away[0] = 0.1
    assert one.claims.pending(URL) == 3 + 2 + 1
    one.route.away[1] = one.route.away[2] = 0.1
    assert one.claims.pending(URL) == 0, "whether what is in hand still is ours can't be asked just now"
    one.lane.left_behind.clear()
    one.route.away = {1: 0.1}
    one.lane.waiting.clear()
    assert one.claims.pending(URL) == 3, "home is there"


def test_the_next_that_is_due_is_the_first_of_all_lanes(one):
    """And never in the past."""
    lanes = [URL, URL + "/b"]
    for number, url in enumerate(lanes, 1):
        held = an_entry(number)
        held.url = url
        one.take(held)
        one.claims.claim(url, 1, ALL)
        one.give_back(held, 0, 10.0 - number)
    assert one.claims.next_due_s() == 8.0
    one.clock.advance(8.5)
    assert one.claims.next_due_s() == 0.0
