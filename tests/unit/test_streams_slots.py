"""Puts on Redis Streams that nobody answered, those that are under way at once, and what makes them safe."""

from __future__ import annotations

from collections import deque

import pytest

from eventpost.queues.streams import check
from streams_parts import GONE, ME, OK, SOON, Fault, Putter, key_of
from support import event


@pytest.fixture
def one(monkeypatch):
    """Make one with one part."""
    return Putter(monkeypatch)


@pytest.fixture
def many(monkeypatch):
    """Make one with three parts, its home the first."""
    return Putter(monkeypatch, shards=3)


def kept(level, *wait):
    """Make what a server keeps."""
    return check.Kept(level, wait, "why")


def slots(one):
    """Return the slots of the puts that were made."""
    return [call[4] for trip in one.route.asked for _, calls in trip for call in calls if call[0] == "put"]


def test_puts_that_are_under_way_at_once_have_slots_of_their_own(one):
    """One that interrupts another, for example."""

    def interrupts(*_):
        one.puts.send([event(2)], SOON)
        return OK

    one.route.answers = [interrupts, OK, OK]
    one.puts.send([event(1)], SOON)
    one.puts.send([event(3)], SOON)
    assert slots(one) == ["1", "2", "1"]
    assert one.accepted() == {0: 3}


def test_a_put_moves_to_a_part_that_is_there_and_is_not_kept_waiting_by_the_one_that_is_not(many):
    """The slot whose last put can't be taken back just now waits until it can; another one is used."""
    many.route.otherwise = lambda _, calls: [0] if calls[0][0] == "void" else [None] if calls[0][0] == "HGET" else OK
    assert many.refused([None], [None], GONE) == "redis_unavailable"
    many.route.away = {0: 0.1, 2: 0.1}
    many.route.asked.clear()
    many.puts.send([event(2)], SOON)
    assert many.server.home == 1
    assert many.accepted() == {1: 1}
    many.puts.send([event(3)], SOON)
    many.route.away = {2: 0.1}
    many.puts.send([event(4)], SOON)
    assert set(slots(many)) == {"2"}
    assert many.puts.void_what_is_unsure(SOON)
    assert many.route.last[0][1][0][:5] == ("void", 1, key_of(0), ME, "1")


def test_a_put_that_has_no_answer_from_home_is_taken_back_though_that_is_known_to_be_away(one):
    """There is no other place to put."""
    assert one.refused(GONE) == "redis_unavailable"
    one.route.away[0] = 0.1
    one.route.asked.clear()
    assert one.refused(GONE) == "redis_unavailable"
    assert one.route.last[0][1][0][:5] == ("void", 1, key_of(0), ME, "1")


class Racing(deque):
    """Slots of which another thread takes the last one just before it is had."""

    def pop(self):
        """Have none."""
        self.clear()
        return super().pop()

    def popleft(self):
        """Have none."""
        self.clear()
        return super().popleft()


def test_a_slot_that_another_thread_takes_first_is_no_error(one):
    """A new one is made, or there is nothing left to clear up."""
    one.put()
    one.puts._slots = Racing(one.puts._slots)
    assert one.put()[4:6] == ("2", 1)
    assert one.puts.void_what_is_unsure(SOON)
    assert one.accepted() == {0: 2}


def unsure(one, slots_wanted):
    """Leave so many slots without an answer."""

    def interrupts(shard, calls):
        if slots_wanted > len(slots(one)):
            one.refused(interrupts)
        return GONE

    one.refused(interrupts)
    assert slots(one) == [str(number) for number in range(1, slots_wanted + 1)]
    one.route.asked.clear()


def test_puts_without_an_answer_are_cleared_up_one_after_the_other(one):
    """Until one can't be; then the rest is asked for another time, and none is forgotten."""
    unsure(one, 3)
    one.route.answers = [[1], GONE]
    assert not one.puts.void_what_is_unsure(SOON)
    assert len(one.route.asked) == 2
    assert one.accepted() == {0: 1}
    one.route.answers = [[0], [0]]
    assert one.puts.void_what_is_unsure(SOON)
    assert one.route.deadlines[-1] == SOON
    assert {trip[0][1][0][4] for trip in one.route.asked} == {"1", "2", "3"}
    assert one.puts.void_what_is_unsure(SOON)
    assert len(one.route.asked) == 4


# -- sync


def synced(one, *says, deadline=None):
    """Sync; returns what came of it, and what was asked of which part."""
    one.route.asked.clear()
    one.route.deadlines.clear()
    one.route.answers = list(says)
    done = one.puts.sync(one.time.now + 2.15625 if deadline is None else deadline)
    assert not one.route.answers
    return done, [
        (shard, calls[1]) for trip in one.route.asked for shard, calls in trip
        if calls[0] == ("HINCRBY", key_of(shard), "b", 0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "wait", "asks"),
    [
        ("os", (), ("WAITAOF", 1, 0)),
        ("os", ("WAIT", 1), ("WAITAOF", 1, 0)),
        ("fsync", (), ("WAITAOF", 1, 0)),
        ("host", ("WAITAOF", 1, 1), ("WAITAOF", 1, 1)),
        ("host", ("WAIT", 1), ("WAIT", 1)),
    ],
)
def test_a_sync_waits_for_what_the_server_can_keep(one, level, wait, asks):
    """A write of now that is safe means that what came before it is."""
    one.server.kept = kept(level, *wait)
    enough = 1 if asks[0] == "WAIT" else list(asks[1:])
    done, asked = synced(one, [0, enough])
    assert (done, asked) == (True, [(0, (*asks, 2006))])
    assert one.route.deadlines == [one.time.now + 2.15625]
    assert synced(one, [0, [0, 0] if asks[0] == "WAITAOF" else 0])[0] is False
    assert synced(one, [0, Fault("ERR unknown command")])[0] is (level != "os"), "it keeps as much with each put"
    assert synced(one, GONE)[0] is False
    assert synced(one, [0, enough], deadline=one.time.now)[1] == [(0, (*asks, 1))]


def test_a_sync_is_of_all_parts_that_were_put_into(many):
    """And of the home; the first that can't be had ends it."""
    many.route.answers = [[None], [None], OK]
    many.puts.send([event(1)], SOON)
    many.server.home = 2
    many.route.answers = [OK]
    many.puts.send([event(1)], SOON)
    many.puts.fold()
    many.server.home = 1
    done, asked = synced(many, [0, [1, 0]], [0, [1, 0]], [0, [1, 0]])
    assert (done, [shard for shard, _ in asked]) == (True, [0, 1, 2])
    done, asked = synced(many, [0, [1, 0]], [0, [0, 0]])
    assert (done, [shard for shard, _ in asked]) == (False, [0, 1])


def test_a_sync_clears_up_first(one):
    """What is not known to be stored can't be made safe."""
    unsure(one, 1)
    assert synced(one, GONE) == (False, [])
    assert one.route.deadlines == [one.time.now + 2.15625]
    assert synced(one, [0], [0, [1, 0]])[0] is True
