"""The way back: to be quick about it, to stop, to give back what is in hand, and to be counted at every moment."""

from __future__ import annotations

import pytest

from eventpost import MemoryQueue
from eventpost.queues.protocol import QueueStats
from eventpost.queues.spill.flow import Flow, Move, counted_once
from spill_support import AWAY, Case, sized
from support import URL


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Make one."""
    return Case(monkeypatch)


# -- all of it, soon


def test_a_drain_moves_all_there_is(case: Case) -> None:
    """It begins at once, whatever pause was due, then keeps the pauses, looking at least each 10 ms."""
    case.spills(*range(200))
    case.refuse(AWAY, took_s=0.0625, fits=1000)
    case.flow.step()
    assert case.flow.drain(10.0)
    assert case.of("first", "put") == [list(range(64)), list(range(64, 192)), list(range(192, 200))]
    assert case.pauses == [0.01] * 6 + [pytest.approx(0.0025)]
    assert case.flow.drain(0.0), "there is nothing"


@pytest.mark.parametrize(("timeout_s", "waits"), [(0.0, []), (0.03125, []), (0.0390625, [0.0078125])])
def test_a_drain_ends_in_time(case: Case, timeout_s: float, waits: list[float]) -> None:
    """To the moment: with what is left of it, it waits once more, and then says that something is left."""
    case.spills(*range(200))
    case.refuse(AWAY, took_s=0.03125, fits=1000)
    assert not case.flow.drain(timeout_s)
    assert case.pauses == waits
    assert case.of("first", "put") == [list(range(64))]


def test_a_drain_does_not_wait_for_who_is_away(case: Case) -> None:
    """It tries once."""
    case.spills(1)
    case.refuse(AWAY)
    assert not case.flow.drain(10.0)
    assert case.of("first", "put") == [[1]]
    assert case.pauses == []


# -- beside a step


def test_beside_a_step_nobody_else_moves(case: Case) -> None:
    """Who asks for a step comes again in a tenth of a second; a signal handler over it can't drain, stop, give back."""
    said: list[object] = []

    def ask(_: list[int]) -> None:
        flow = case.flow
        said.extend([flow.step(at_once=True), flow.drain(5.0), flow.stop(5.0), flow.give_back()])
        case.thread = 2
        said.append(flow.stop(0.001))
        case.thread = 1

    case.spills(1)
    case.first.at["put"] = ask
    assert case.flow.step() is None
    assert said == [0.1, False, False, False, False]
    assert case.pauses == []
    assert [call[1] for call in case.calls] == ["claim", "put", "ack"]


def test_a_drain_on_another_thread_waits_for_the_step_that_is_under_way(case: Case) -> None:
    """It asks again while there is time."""
    case.spills(1)
    said: list[bool] = []

    def ask(_: list[int]) -> None:
        case.thread = 2
        said.append(case.flow.drain(0.0625))
        case.thread = 1

    case.first.at["put"] = ask
    assert case.flow.step() is None
    assert said == [False]
    assert case.pauses == [0.01] * 6 + [pytest.approx(0.0025)]


def test_once_stopped_nothing_moves(case: Case) -> None:
    """What is in the spill stays there."""
    case.spills(1)
    assert case.flow.stop(0.0)
    assert case.flow.step(at_once=True) == 0.1
    assert not case.flow.drain(0.0)
    assert not case.flow.give_back()
    assert case.calls == []


def test_what_is_in_hand_is_given_back_at_once_and_taken_anew(case: Case) -> None:
    """Who erases events from the spill may have them all; what is left moves then, each once."""
    case.spills(1, 2, 3)
    case.refuse(AWAY)
    case.flow.step()
    case.calls.clear()
    assert case.flow.give_back()
    assert case.of("spill", "release") == [([1, 2, 3], 0.0)]
    assert (case.spill.stats().in_flight, case.spill.pending(URL)) == (0, 3)
    assert case.flow.give_back()
    assert case.of("spill", "release") == [([], 0.0)]
    case.first.at.clear()
    assert case.flow.step(at_once=True) is None
    assert case.of("first", "put") == [[1, 2, 3]]


def test_a_child_knows_of_nothing(case: Case) -> None:
    """Neither what the parent has in hand or at the server, nor its pauses: what spills here is news."""
    case.spills(1)
    case.refuse(AWAY)
    case.flow.step()
    assert case.flow.away
    case.flow.reset()
    assert (case.flow.away, case.flow.flows, case.flow.is_passed(), case.flow.move) == (False, False, True, None)
    case.spill.after_fork_in_child()
    case.first.at.clear()
    case.calls.clear()
    assert case.spills(2)
    assert case.flow.step() is None
    assert case.of("first", "put") == [[2]]


# -- the count


def test_events_are_counted_once_whatever_has_happened_to_them(case: Case) -> None:
    """Before the put has stored, before the ack is noted, and after; in the first step and in the next ones."""
    seen: list[tuple[int, int, int]] = []
    MemoryQueue.put(case.first, [sized(at) for at in range(1000, 1005)])
    case.first.ack(case.first.claim(URL, 2, 1 << 20))
    case.spills(*range(100))
    for queue, method in ((case.first, "put"), (case.spill, "ack")):
        queue.at[method] = lambda _: seen.append(case.count())
    while case.flow.step(at_once=True) is not None:
        seen.append(case.count())
    assert len(seen) == 5
    assert set(seen) == {(105, 103, 2)}
    assert case.count() == (105, 103, 2)


HERE = QueueStats(100, 7, 20, 30, 5, 40, {"overflow": 3, "dead_expired": 2}, 1000, 2.5)
THERE = QueueStats(60, 9, 16, 33, 4, 6, {"dead_expired": 1, "purged": 0}, 300, 4.5)


@pytest.fixture
def flow(case: Case) -> Flow:
    """Make one that moves nothing of itself."""
    return case.flow


def test_a_count_over_both_adds_up(flow: Flow) -> None:
    """What the spill calls delivered is the first queue's; what it has in flight waits."""
    both = counted_once(lambda: HERE, lambda: THERE, flow)
    dropped = {"overflow": 3, "dead_expired": 3, "purged": 0}
    assert both == QueueStats(144, 16, 20, 67, 5, 46, dropped, 1300, 4.5)
    assert HERE.dropped == {"overflow": 3, "dead_expired": 2}


@pytest.mark.parametrize(
    ("here", "there", "both"),
    [(1.0, None, 1.0), (None, 2.0, 2.0), (None, None, None), (0.0, None, 0.0), (3.0, 2.0, 3.0)],
)
def test_the_oldest_of_both_tells_the_age(
    flow: Flow, here: float | None, there: float | None, both: float | None
) -> None:
    """None where neither has any."""
    found = counted_once(lambda: QueueStats(oldest_age_s=here), lambda: QueueStats(oldest_age_s=there), flow)
    assert found == QueueStats(oldest_age_s=both)


@pytest.mark.parametrize(
    ("done", "delivered", "accepted", "queued"),
    [
        (False, 16, 90 + 44, 11 + 37),  # the first queue as it was before the put
        (True, 16, 100 + 44 - 10, 30 + 37 - 10),  # all ten are in both
        (True, 12, 100 + 44 - 6, 30 + 37 - 6),  # four are acknowledged
        (True, 6, 100 + 44, 30 + 37),  # all are
        (True, 2, 100 + 44, 30 + 37),  # and some of a later move
    ],
)
def test_what_is_under_way_is_counted_where_it_is(
    flow: Flow, done: bool, delivered: int, accepted: int, queued: int
) -> None:
    """By how far the move is that it belongs to; ``delivered``: what the spill had called so before it."""
    before = QueueStats(accepted=90, queued=11)
    flow.move = Move(10, before, delivered)
    assert flow.move.done is False
    flow.move.done = done
    both = counted_once(lambda: HERE, lambda: THERE, flow)
    assert both is not None
    assert (both.accepted, both.queued) == (accepted, queued)


@pytest.mark.parametrize("at", ["first", "spill"])
def test_a_move_that_begins_within_a_count_makes_it_void(flow: Flow, at: str) -> None:
    """It is asked for anew then."""

    def begins() -> QueueStats:
        flow.move = Move(1, HERE, 0)
        return HERE

    counts = {"first": lambda: HERE, "spill": lambda: THERE, at: begins}
    assert counted_once(counts["first"], counts["spill"], flow) is None
    assert counted_once(lambda: HERE, lambda: THERE, flow) is not None


def test_the_spill_is_read_first(flow: Flow) -> None:
    """What moves in between is in the first queue by the time that it is read."""
    order: list[str] = []

    def read(name: str) -> QueueStats:
        order.append(name)
        return HERE

    counted_once(lambda: read("first"), lambda: read("spill"), flow)
    assert order == ["spill", "first"]
