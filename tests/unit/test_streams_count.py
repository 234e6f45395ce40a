"""The sum of the queue on Redis Streams, by what its server says and what this process knows besides."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eventpost.queues.protocol import QueueStats
from eventpost.queues.streams import count
from eventpost.queues.streams.client import Fault
from eventpost.queues.streams.count import Known, Outcomes, reconciled
from eventpost.queues.streams.hand import Hand
from eventpost.queues.streams.route import Away


def test_a_hash_is_read_name_by_name():
    """What is not in it is none; names of drops begin with a minus, and may be anything."""
    assert count.read([]) == Outcomes(0, 0, 0, {}) == Outcomes()
    found = count.read([b"a", b"9", b"d", b"2", b"x", b"1", b"-overflow", b"3", b"-x\xff", b"1", b"b", b"77"])
    assert found == Outcomes(9, 2, 1, {"overflow": 3, "x\ufffd": 1})
    assert found.queued == 2
    with pytest.raises(ValueError, match="shorter"):
        count.read([b"a"])


def test_what_was_known_before_adds_to_what_is_said():
    """Of each reason, and of what was accepted as much as is known of its end."""
    known = Known(2, {"overflow": 1, "vanished": 4})
    assert known.with_(Outcomes(10, 3, 1, {"overflow": 2, "damaged": 5})) == Outcomes(
        17, 5, 1, {"overflow": 3, "vanished": 4, "damaged": 5}
    )
    assert known.with_(Outcomes()) == Outcomes(7, 2, 0, {"overflow": 1, "vanished": 4})
    assert Known() == Known(0, {})


def test_where_a_server_knows_less_than_it_did_what_was_known_is_kept_beside_it():
    """Of drops the most that was ever known, by reason; the rest of what is missing has vanished."""
    before = Outcomes(20, 5, 1, {"overflow": 3, "none": 0, "damaged": 1})
    said = Outcomes(4, 1, 1, {"damaged": 2})
    assert reconciled(Known(), before, said, 20) == Known(4, {"overflow": 3, "damaged": 0, "vanished": 9})
    known = reconciled(Known(), before, said, 20)
    assert known.with_(said) == Outcomes(20, 5, 1, {"overflow": 3, "damaged": 2, "vanished": 9})


def test_what_nobody_delivered_or_dropped_was_not():
    """Of a server that was emptied before anything was sent all has vanished, and nothing else."""
    assert reconciled(Known(), Outcomes(10), Outcomes(), 10) == Known(0, {"vanished": 10})
    assert reconciled(Known(), Outcomes(10), Outcomes(0, 0, 0, {"none": 0}), 10) == Known(0, {"vanished": 10})


@pytest.mark.parametrize("accepted", [9, 10, 11])
def test_a_server_that_knows_of_all_that_was_stored_has_forgotten_nothing(accepted):
    """One fewer is enough to tell."""
    known = Known(1, {"overflow": 1})
    found = reconciled(known, Outcomes(12, 1), Outcomes(accepted - 2, 0), 10)
    assert (found is known) == (accepted >= 10)


def test_a_second_loss_adds_to_the_first():
    """What had vanished stays so, and deliveries known before count once."""
    said = Outcomes(6, 2)
    first = reconciled(Known(), Outcomes(10, 4), said, 10)
    assert first.with_(said) == Outcomes(10, 2, 0, {"vanished": 4})
    shown = first.with_(said)
    emptied = Outcomes()
    second = reconciled(first, shown, emptied, 12)
    assert second.with_(emptied) == Outcomes(12, 2, 0, {"vanished": 10})
    third = reconciled(second, second.with_(emptied), Outcomes(3, 1), 15)
    assert third is second


class FakeRoute:
    """The way to the servers, at its end: ``answers`` by part; what is asked is written down."""

    def __init__(self):
        self.name = "q"
        self.asked = []
        self.answers = {}

    def ask_all(self, asked, deadline):
        """Note what is asked, and answer."""
        self.asked.append((asked, deadline))
        return [self.answers[shard] for shard, _ in asked]


class FakePuts:
    """What was put, as the sum asks for it."""

    def __init__(self):
        self.writer = "w-1"
        self.accepted = {}
        self.folds = 0
        self.others = []

    def fold(self):
        """As the puts'."""
        self.folds += 1

    def know_others(self, sizes):
        """As the puts'."""
        self.others.append(sizes)


@pytest.fixture
def parts(monkeypatch):
    """Return a sum, and what it is made of."""
    monkeypatch.setattr(count, "monotonic", lambda: 100.0)
    route, puts, hand = FakeRoute(), FakePuts(), Hand()
    server = SimpleNamespace(joined=True, shards=3, home=1)
    return SimpleNamespace(
        sum=count.Count(route, server, puts, hand, timeout_s=2.5), route=route, puts=puts, hand=hand, server=server
    )


def said(size, *pairs):
    """Return a part's answers: its bytes, and a writer's hash if it was asked for."""
    return [size, *([list(pairs)] if pairs else [])]


MINE = (b"a", b"0")


def test_each_part_is_asked_for_its_bytes_and_those_with_events_of_ours_for_them(parts):
    """In one go; the bound is told what the others than the home hold."""
    parts.puts.accepted = {0: 4}
    parts.route.answers = {0: said(b"50", b"a", b"4", b"d", b"1"), 1: said(None, *MINE), 2: said(b"7")}
    stats = parts.sum.stats()
    assert parts.route.asked == [
        (
            [
                (0, [("HGET", "{q:0}:sum", "b"), ("HGETALL", "{q:0}:w:w-1")]),
                (1, [("HGET", "{q:1}:sum", "b"), ("HGETALL", "{q:1}:w:w-1")]),
                (2, [("HGET", "{q:2}:sum", "b")]),
            ],
            102.5,
        )
    ]
    assert parts.puts.others == [[50, 7]]
    assert stats == QueueStats(accepted=4, delivered=1, queued=3, stored_bytes=57)
    assert parts.puts.folds == 1
    parts.puts.accepted = {}
    parts.server.home = 2
    parts.route.answers = {0: said(b"-3", *MINE), 1: said(b"9", *MINE), 2: said(b"1", *MINE)}
    assert parts.sum.stats().stored_bytes == 10, "a part that was looked at is looked at again; no size is below none"
    assert [len(calls) for _, calls in parts.route.asked[1][0]] == [2, 2, 2]
    assert parts.puts.others[1] == [0, 9]


def test_nothing_is_asked_of_a_server_that_was_never_joined_nor_by_who_must_not(parts):
    """What was put is known all the same."""
    parts.puts.accepted = {0: 4, 2: 1}
    assert parts.sum.stats(ask=False) == QueueStats(accepted=5, queued=5)
    parts.server.joined = False
    assert parts.sum.stats() == QueueStats(accepted=5, queued=5)
    assert parts.route.asked == []
    assert parts.puts.folds == 2


def test_a_part_that_is_away_counts_as_it_was(parts):
    """One that answers with an error, too; the others go on."""
    parts.puts.accepted = {0: 4, 1: 2, 2: 2}
    whole = {shard: said(b"10", b"a", b"%d" % events, b"d", b"1") for shard, events in ((0, 4), (1, 2), (2, 2))}
    parts.route.answers = whole
    assert parts.sum.stats() == QueueStats(accepted=8, delivered=3, queued=5, stored_bytes=30)
    parts.route.answers = {
        0: Away("x", sent=False), 1: [b"1", Fault("NOPERM no")], 2: said(b"4", b"a", b"2", b"d", b"2"),
    }  # fmt: skip
    assert parts.sum.stats() == QueueStats(accepted=8, delivered=4, queued=4, stored_bytes=24)
    assert parts.puts.others[-1] == [10, 4]
    assert parts.sum.stats(ask=False) == QueueStats(accepted=8, delivered=4, queued=4, stored_bytes=24)
    parts.sum.reset()
    parts.puts.accepted = {}
    assert parts.sum.stats(ask=False) == QueueStats()


def test_what_a_part_forgot_is_dropped_as_vanished_once(parts):
    """By what was stored before it was asked; what has come to nothing is not shown."""
    parts.server.shards = 2
    parts.puts.accepted = {0: 9}
    parts.route.answers = {
        0: said(b"1", b"a", b"9", b"d", b"3", b"-overflow", b"2", b"-none", b"0"),
        1: said(b"0", *MINE),
    }
    assert parts.sum.stats().dropped == {"overflow": 2}
    parts.route.answers[0] = said(None, *MINE)
    for _ in range(2):
        stats = parts.sum.stats()
        assert stats == QueueStats(accepted=9, delivered=3, dropped={"overflow": 2, "vanished": 4})
    with pytest.raises(TypeError):
        stats.dropped["x"] = 1


def test_events_of_others_count_as_far_as_they_are_in_hand_or_settled_here(parts):
    """They were accepted elsewhere; of our own, what somebody else settled meanwhile is in flight for nothing."""
    parts.puts.accepted = {0: 9, 1: 3}
    parts.route.answers = {
        0: said(b"1", b"a", b"9", b"d", b"3", b"x", b"1", b"-damaged", b"1"),
        1: said(b"1", b"a", b"3", b"d", b"1", b"-damaged", b"1"), 2: said(b"0"),
    }  # fmt: skip
    hand = parts.hand
    hand.in_flight_own, hand.in_flight_adopted, hand.adopted_in_hand = 2, 3, 5
    hand.adopted_delivered, hand.adopted_dead, hand.adopted_dropped = 7, 11, {"damaged": 13, "other": 1}
    stats = parts.sum.stats()
    assert stats == QueueStats(
        accepted=12 + 37, adopted=37, delivered=4 + 7, queued=5 - 2 + 5 - 3, in_flight=2 + 3, dead=1 + 11,
        dropped={"damaged": 2 + 13, "other": 1}, stored_bytes=2,
    )  # fmt: skip
    hand.in_flight_own = 6
    stats = parts.sum.stats()
    assert (stats.in_flight, stats.queued) == (5 + 3, 2)


def test_more_outcomes_than_were_accepted_are_accepted_then(parts):
    """A put that was taken back all the same, say: the sum closes whatever the server says."""
    parts.server.shards = 2
    parts.puts.accepted = {1: 2}
    parts.route.answers = {0: said(b"0"), 1: said(b"0", b"a", b"3", b"d", b"3", b"x", b"2")}
    assert parts.sum.stats() == QueueStats(accepted=5, delivered=3, dead=2)
    parts.puts.accepted = {1: 6}
    assert parts.sum.stats(ask=False) == QueueStats(accepted=6, delivered=3, dead=2, queued=1)
