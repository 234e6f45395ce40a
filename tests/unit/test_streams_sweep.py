"""What others let go of on Redis Streams, and what a claim's lost answer had, is found again."""

from __future__ import annotations

import pytest

from eventpost.queues.streams.names import lane_key
from streams_parts import GONE, LANE, ME, OTHER, Claimer, Fault, a_row, an_entry, claim_call, claimed
from support import URL


@pytest.fixture
def one(monkeypatch):
    """Make one with three parts."""
    return Claimer(monkeypatch, shards=3)


def test_a_sweep_takes_over_a_few_of_each_lane_and_knows_where_there_are_more(one):
    """What waits is left where it is; a part that is away is not asked."""
    one.lane.waiting[0] = 3
    other = one.hand.lane(URL + "/b")
    one.lane.left_behind = {2}
    one.route.away[1] = 0.1
    one.route.answers = [
        claimed(a_row(5, 2, writer=OTHER), waiting=8, taken_over=16), claimed(taken_over=15), claimed(), GONE,
    ]  # fmt: skip
    one.claims.sweep()
    there = {"lane": lane_key(URL + "/b"), "url": URL + "/b"}
    assert one.route.asked == [
        [claim_call(0, 0, 0, 16), claim_call(2, 0, 0, 16)],
        [claim_call(0, 0, 0, 16, **there), claim_call(2, 0, 0, 16, **there)],
    ]
    assert dict(one.lane.waiting) == {0: 3}
    assert (one.lane.left_behind, other.left_behind) == ({0}, set())
    assert one.claims.pending(URL) == 6
    one.route.asked.clear()
    assert one.claim(2) == [500, 501]
    assert not one.route.asked


@pytest.mark.parametrize(("ready", "again", "few"), [(62, 1, 16), (63, 1, 1), (64, 0, 1)])
def test_who_has_much_in_hand_only_finds_out_whether_there_is_more(one, ready, again, few):
    """What is taken over and not sent is kept from those who would send it."""
    held = one.take(an_entry(1, ready + again))
    if again:
        one.claim(1)
        one.give_back(held, 0, 9.0)
    one.route.otherwise = lambda *_: claimed()
    one.claims.sweep()
    assert one.route.last == [claim_call(shard, 0, 0, few) for shard in range(3)]


def test_what_a_sweep_finds_of_ones_own_and_not_in_hand_is_had_once_more(one):
    """A claim whose answer was lost had it."""
    one.take(an_entry(5))
    one.route.answers = [
        claimed(idle=[b"5-0", b"6-0", b"7-0"]),
        claimed(),
        claimed(idle=[b"8-0"]),
        claimed(a_row(6)),
        claimed(),
    ]
    one.claims.sweep()
    assert one.route.last == [claim_call(0, 0, 0, 0, "6-0", "7-0"), claim_call(2, 0, 0, 0, "8-0")]
    assert one.claim() == [500, 600]


def test_after_an_answer_was_lost_it_is_looked_for_at_once(one):
    """Without waiting a lease for it; again where a part did not answer, and then no more."""
    one.hand.lane(URL)
    one.take(an_entry(5, shard=1))
    one.route.otherwise = lambda *_: claimed()
    one.claims.sweep()
    assert len(one.route.asked) == 1
    one.route.asked.clear()
    one.route.torn = 1

    def answer(shard, calls):
        if calls[0][0] != "XPENDING":
            return claimed(a_row(6), a_row(7)) if calls[0][10:] else claimed()
        return [[Fault("NOGROUP no")], [[[b"5-0", b"me", 1, 1], [b"6-0", b"me", 1, 1], [b"7-0", b"me", 1, 1]]], GONE][
            shard
        ]

    one.route.otherwise = answer
    one.claims.sweep()
    looked = [
        (shard, [("XPENDING", f"{{q:{shard}}}:s:{LANE}", "g", "-", "+", 1000, ME)]) for shard in range(3)
    ]  # fmt: skip
    assert one.route.asked[1:] == [looked, [claim_call(1, 0, 0, 0, "6-0", "7-0")]]
    one.route.asked.clear()
    one.route.otherwise = lambda shard, calls: answer(shard, calls) if shard < 2 else [[]]
    one.route.away = dict.fromkeys(range(3), 0.1)
    one.claims.sweep()
    assert looked in one.route.asked
    one.route.away.clear()
    one.route.otherwise = lambda *_: claimed()
    one.route.asked.clear()
    one.claims.sweep()
    assert looked not in one.route.asked, "all have answered"
    one.route.torn = 2
    one.route.otherwise = lambda _, calls: [[]] if calls[0][0] == "XPENDING" else claimed()
    one.claims.sweep()
    assert looked in one.route.asked
