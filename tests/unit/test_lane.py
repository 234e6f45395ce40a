"""What the sender remembers of one endpoint: which events failed while it took others."""

import pytest

from eventpost.event import Envelope, Event
from eventpost.queues.protocol import Lease
from eventpost.sender import lane as lane_module
from eventpost.sender.batch import Batch
from eventpost.sender.lane import Lane, Limits
from eventpost.sender.retry import RetryPolicy

URL = "http://127.0.0.1:1/"
SHARED = Envelope(URL, shared=True, prefix=b"[", suffix=b"]")


def a_lane() -> Lane:
    """Return a new endpoint's lane."""
    return Lane(URL, RetryPolicy(), Limits())


def lease(name: str) -> Lease:
    """Return a lease of an event with such a payload."""
    return Lease(Event(SHARED, name.encode()), None, 0.0)


def batch(*names: str, serial: int = 1) -> Batch:
    """Return a batch of such events."""
    return Batch(SHARED, [lease(name) for name in names], 100, 0.0, serial)


def fails(lane: Lane, *names: str, answered: bool = True, others: int = 0) -> tuple[int, bool]:
    """Let a batch fail after so many deliveries of others; what is told of it."""
    lane.deliveries += others
    return lane.suspect(batch(*names), answered=answered)


def test_a_new_lane_knows_nothing() -> None:
    """Its requests go to its own URL unless the sender was told another."""
    lane = a_lane()
    assert (lane.url, lane.endpoint, lane.serials(), lane.backlog, lane.solo) == (URL, URL, [], False, False)
    assert (lane.deliveries, lane.refusals, lane.suspects, lane.delayed_until) == (0, 0, {}, 0.0)
    limits = Limits(batch_events_max=3, batch_bytes_max=70, in_flight_max=2)
    other = Lane(URL, RetryPolicy(), limits, "http://127.0.0.1:2/")
    assert (other.url, other.endpoint) == (URL, "http://127.0.0.1:2/")
    assert (other.former.events_max, other.former.bytes_max, other.breaker.limit_max) == (3, 70, 2)


def test_limits_unless_others_are_named() -> None:
    """A hundred events or a megabyte travel together within a second; 300 requests and 16 MiB may be in flight."""
    assert Limits() == Limits(100, 1_000_000, 1.0, 300, 16 << 20, 10.0)


def test_failures_count_once_for_each_time_that_others_were_taken() -> None:
    """The first counts; those of an outage, in which nothing is delivered, are one."""
    lane = a_lane()
    assert fails(lane, "x") == (1, False)
    assert fails(lane, "x") == (1, False)
    assert fails(lane, "x") == (1, False)
    assert fails(lane, "x", others=1) == (2, True)
    assert fails(lane, "x") == (2, False)
    assert fails(lane, "x", others=5) == (3, True)


def test_failures_without_an_answer_are_no_errors() -> None:
    """They count as failures, for being sent alone, and not towards the last 5xx."""
    lane = a_lane()
    assert fails(lane, "x", answered=False) == (0, False)
    for others in (1, 1):
        assert fails(lane, "x", answered=False, others=others)[0] == 0
    assert fails(lane, "x", others=1) == (1, True)
    assert lane.single_out([lease("x")], 4) == []


def test_what_is_told_of_a_batch_is_told_of_its_worst_event() -> None:
    """Wherever in it that one is; others were taken meanwhile if they were for one of the worst."""
    for order in (("old", "new"), ("new", "old")):
        lane = a_lane()
        fails(lane, "old")
        assert fails(lane, *order, others=1) == (2, True)
    for order in (("once", "again"), ("again", "once")):
        lane = a_lane()
        fails(lane, "again")
        fails(lane, "again", others=1)
        assert fails(lane, *order, others=0) == (2, False)
    for order in (("worst", "taken"), ("taken", "worst")):
        lane = a_lane()
        for others in (0, 1, 1):
            fails(lane, "worst", others=others)
        lane.suspects[hash(b"taken")] = (1, 1, 0)
        assert fails(lane, *order) == (3, False)
    for order in (("equal", "taken"), ("taken", "equal")):
        lane = a_lane()
        for others in (0, 1):
            fails(lane, "equal", others=others)
        lane.suspects[hash(b"taken")] = (1, 1, 0)
        assert fails(lane, *order) == (2, True)


def test_those_that_failed_so_often_go_alone() -> None:
    """At once, in front of nobody; the others are returned in their order."""
    lane = a_lane()
    for others in (0, 1, 1):
        fails(lane, "bad", "worse", others=others)
    fails(lane, "worse", others=1)
    leases = [lease(name) for name in ("a", "worse", "b", "bad", "c")]
    assert [one.event.payload for one in lane.single_out(leases, 4)] == [b"a", b"b", b"bad", b"c"]
    assert [one.body() for one in lane.former.ready] == [b"[worse]"]
    assert [one.event.payload for one in lane.single_out(leases, 3)] == [b"a", b"b", b"c"]
    assert [one.event.payload for one in lane.single_out(leases, 1)] == [b"a", b"b", b"c"]


def test_a_delivery_acquits_its_own_events_only() -> None:
    """And so does a letter that is buried."""
    lane = a_lane()
    lane.acquit(batch("x"))
    fails(lane, "x", "y")
    lane.acquit(batch("x", "z"))
    assert fails(lane, "x", others=1) == (1, False)
    assert fails(lane, "y") == (2, True)


def test_suspects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many all are forgotten: an event is found later then, and no memory grows without end."""
    assert lane_module.SUSPECTS_MAX == 100_000
    monkeypatch.setattr(lane_module, "SUSPECTS_MAX", 5)
    lane = a_lane()
    for number in range(6):
        fails(lane, str(number))
    assert len(lane.suspects) == 6
    fails(lane, "6")
    assert len(lane.suspects) == 1


def test_serials_are_those_of_batches_that_are_not_settled() -> None:
    """In flight, ready and lingering ones."""
    lane = a_lane()
    lane.flying.add(batch("x", serial=70))
    lane.former.add_alone(lease("y"))
    lane.former.add([lease("z")], 0.0)
    assert sorted(lane.serials()) == [1, 2, 70]
