"""The face of two queues: what a sender asks, the work of each round, and the end."""

from __future__ import annotations

from typing import Any

import pytest

from eventpost import MemoryQueue
from eventpost.errors import QueueUnavailable
from eventpost.queues.protocol import Answer, Lease, QueueStats
from eventpost.queues.spill import SpillQueue, carrier
from eventpost.queues.spill.flow import Flow, Move
from eventpost.watch.signals import FlowedBack, Signal, Spilling, Trouble
from spill_support import AWAY, Face, raising
from support import URL, event

EVENTS = [event(1), event(2)]
LEASES = [Lease(one, None, 0.0) for one in EVENTS]


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Face:
    """Make one."""
    return Face(monkeypatch)


# -- the sender's side


@pytest.mark.parametrize(
    ("method", "arguments", "asked"),
    [
        ("claim", (URL, 3, 5), (URL, 3, 5)),
        ("next_due_s", (), ()),
        ("ack", (LEASES,), (LEASES,)),
        ("release", (LEASES, 2.5), (LEASES, 2.5)),
        ("release", (LEASES,), (LEASES, 0.0)),
        ("bury", (LEASES, "rejected", Answer(400, "no")), (LEASES, "rejected", Answer(400, "no"))),
        ("bury", (LEASES, "rejected"), (LEASES, "rejected", None)),
    ],
)
def test_what_a_sender_asks_is_asked_of_the_first_queue(
    case: Face, method: str, arguments: tuple[Any, ...], asked: tuple[Any, ...]
) -> None:
    """Of it alone, also while events are in the spill."""
    case.spills()
    case.first.answers[method] = answer = None if method in {"ack", "release", "bury"} else object()
    assert getattr(case.queue, method)(*arguments) is answer
    assert case.calls == [("first", method, *asked)]


def test_what_flows_back_is_seen_as_soon_as_it_flows(case: Face) -> None:
    """Lanes of both, each once, and what both have of one; of the first queue alone while that is away."""
    case.first.answers |= {"lanes": ("a", "b"), "pending": 3}
    case.spill.answers |= {"lanes": ["b", "c"], "pending": 40}
    assert (case.queue.lanes(), case.queue.pending("b")) == (("a", "b"), 3)
    case.spills()
    assert (case.queue.lanes(), case.queue.pending("b")) == (("a", "b"), 3)
    assert not [call for call in case.calls if call[0] == "spill"]
    case.comes_back()
    assert (case.queue.lanes(), case.queue.pending("b")) == (["a", "b", "c"], 43)
    assert [call for call in case.calls if call[1] == "pending"][-2:] == [
        ("first", "pending", "b"),
        ("spill", "pending", "b"),
    ]


def test_the_first_queue_may_want_its_leases_back(case: Face) -> None:
    """If it has the word at all."""
    assert case.queue.recalls is False
    case.first.recalls = 1  # type: ignore[attr-defined]
    case.first.recalled = lambda: case.calls.append("recalled")  # type: ignore[attr-defined, arg-type]
    assert case.queue.recalls is True
    case.queue.recalled()
    assert case.calls == ["recalled"]


# -- now and then


@pytest.mark.parametrize(
    ("spill", "first", "wait_s"),
    [(None, None, 1.0), (0.5, None, 0.5), (None, 0.25, 0.25), (0.5, 0.25, 0.25), (30.0, 60.0, 1.0)],
)
def test_periodic_work_is_done_in_both(case: Face, spill: float | None, first: float | None, wait_s: float) -> None:
    """And what is sooner is the time of the next: a second at most, for something may spill meanwhile."""
    case.spill.answers["tend"], case.first.answers["tend"] = spill, first
    assert case.queue.tend() == wait_s
    assert (case.calls[0], case.calls[-1]) == (("spill", "tend"), ("first", "tend"))


def refuses(case: Face) -> None:
    """Let a step be refused: it wants to be called again in 0.05 s."""
    case.first.answers["put"] = raising(AWAY)
    case.spill.answers |= {"lanes": [URL], "claim": LEASES}


def test_a_round_moves_some(case: Face) -> None:
    """And comes again when that wants to; the first queue's own work is done whatever happens before it."""
    refuses(case)
    assert case.queue.tend() == 0.05
    case.spill.answers["tend"] = raising(OSError(5, "no"))
    with pytest.raises(OSError, match="no"):
        case.queue.tend()
    assert case.calls[-2:] == [("spill", "tend"), ("first", "tend")]


@pytest.mark.parametrize(("tend_s", "wait_s"), [(None, 0.05), (0.02, 0.02), (30.0, 0.05)])
def test_a_thread_does_the_spills_work_and_moves_some(case: Face, tend_s: float | None, wait_s: float) -> None:
    """The first queue's own is not its business; it ends when nothing is left to move."""
    case.spill.answers["tend"] = tend_s
    assert case.queue._carry() is None
    assert case.calls[0] == ("spill", "tend")
    refuses(case)
    assert case.queue._carry() == wait_s
    assert ("first", "tend") not in case.calls


def test_who_erases_from_the_spill_is_given_back_what_is_in_hand(case: Face) -> None:
    """And told so; not while it is being moved, and not where nobody erases."""
    refuses(case)
    case.queue.tend()
    case.calls.clear()
    case.spill.recalled = lambda: case.calls.append("recalled")  # type: ignore[attr-defined, arg-type]
    case.spill.recalls = False  # type: ignore[attr-defined]
    case.queue.tend()
    assert ("spill", "release", LEASES) not in case.calls
    case.spill.recalls = True  # type: ignore[attr-defined]
    assert case.queue._flow.stop(0.0)
    case.queue.tend()
    assert "recalled" not in case.calls
    case.queue._flow._working.release()
    case.queue.tend()
    assert case.calls.index(("spill", "release", LEASES)) == case.calls.index("recalled") - 1  # type: ignore[arg-type]


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("spill", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_sync_is_complete_where_all_has_moved_and_both_are_safe(
    case: Face, moved: bool, spill: bool, first: bool
) -> None:
    """All three are tried in any case."""
    if not moved:
        refuses(case)
    case.spill.answers["sync"], case.first.answers["sync"] = spill, first
    assert case.queue.sync(10.0) is (moved and spill and first)
    assert case.calls[-2:] == [("spill", "sync", 10.0), ("first", "sync", 10.0)]


@pytest.mark.parametrize(
    ("move_s", "sync_s", "asked"),
    [(2.0, 3.0, (8.0, 5.0)), (12.0, 0.0, (0.0, 0.0)), (0.0, 12.0, (10.0, 0.0))],
)
def test_a_sync_has_one_deadline(case: Face, move_s: float, sync_s: float, asked: tuple[float, float]) -> None:
    """Each gets what is left of it, and none less than nothing."""

    def lanes() -> list[str]:
        case.clock.advance(move_s / 2)  # it is asked twice
        return []

    case.spill.answers |= {"lanes": lanes, "sync": lambda _: case.clock.advance(sync_s)}
    case.queue.sync(10.0)
    assert case.calls[-2:] == [("spill", "sync", asked[0]), ("first", "sync", asked[1])]


def voids(case: Face, times: int) -> None:
    """Let a move come in between so many counts."""
    left = times

    def count() -> QueueStats:
        nonlocal left
        if left:
            left -= 1
            case.queue._flow.move = Move(0, QueueStats(), 0)
            case.queue._flow.move.done = True
        return QueueStats()

    case.spill.answers["stats"] = count


@pytest.mark.parametrize(("times", "accepted"), [(0, 7), (9, 7), (10, 5)])
def test_a_count_that_a_move_makes_void_is_tried_anew(case: Face, times: int, accepted: int) -> None:
    """Ten times; after that the last one that was good is told, and never none."""
    case.first.answers["stats"] = QueueStats(accepted=5)
    voids(case, 10)
    assert case.queue.stats() == QueueStats()
    assert case.queue.stats().accepted == 5
    case.first.answers["stats"] = QueueStats(accepted=7)
    voids(case, times)
    assert case.queue.stats().accepted == accepted


def test_a_child_begins_with_nothing(case: Face) -> None:
    """Both queues are told; what the parent counted, spilled and knew is not its own."""
    case.spills()
    case.first.answers["stats"] = QueueStats(accepted=5)
    case.queue.stats()
    case.calls.clear()
    case.queue.after_fork_in_child()
    assert case.calls == [("first", "after_fork_in_child"), ("spill", "after_fork_in_child")]
    assert not case.queue.spilling
    voids(case, 10)
    assert case.queue.stats() == QueueStats()


def test_what_waits_on_this_machine_is_told(case: Face) -> None:
    """How much and where: a folder, or whatever queue it is; nothing where nothing does."""
    assert case.queue.left_here() == ""
    case.spill.answers["stats"] = QueueStats(queued=1000, in_flight=234)
    assert case.queue.left_here().startswith("1,234 ")
    assert case.queue.left_here().endswith(repr(case.spill))
    case.spill.path = "/a"  # type: ignore[attr-defined]
    assert case.queue.left_here().endswith(" /a")


# -- the end


@pytest.mark.parametrize(
    ("arguments", "timeout_s", "stop_s"), [((), 10.0, 0.3), ((7.5,), 7.5, 0.3), ((0.1,), 0.1, 0.1)]
)
def test_a_close_waits_for_a_step_and_closes_both(
    case: Face, monkeypatch: pytest.MonkeyPatch, arguments: tuple[float, ...], timeout_s: float, stop_s: float
) -> None:
    """A moment for the step, the caller's time for the queues; what is left is told once."""
    monkeypatch.setattr(Flow, "stop", lambda _, timeout_s: case.calls.append(("flow", "stop", timeout_s)))
    case.spill.answers["stats"] = QueueStats(queued=3)
    case.queue.close(*arguments)
    closes = [("flow", "stop", stop_s), ("first", "close", timeout_s), ("spill", "close", timeout_s)]
    assert [call for call in case.calls if call[1] != "stats"] == closes
    (trouble,) = case.told
    assert isinstance(trouble, Trouble)
    assert case.queue.left_here() in trouble.detail
    assert trouble.what
    case.calls.clear()
    case.queue.close(*arguments)
    assert case.calls == closes[1:]
    assert len(case.told) == 1


def test_a_close_that_fails_closes_the_spill_all_the_same(case: Face) -> None:
    """And says what failed."""
    case.first.answers["close"] = raising(OSError(5, "no"))
    with pytest.raises(OSError, match="no"):
        case.queue.close(1.0)
    assert case.calls[-1] == ("spill", "close", 1.0)


# -- its own thread


def test_the_thread_moves_what_was_spilled_and_tells_what_hinders_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order; it ends when nothing is left.  Where nobody listens, nobody is told."""
    monkeypatch.setattr(carrier, "start_new_thread", lambda run, _: run())
    monkeypatch.setattr(carrier, "_AFTER_ERROR_S", 0.0)
    for told in (list[Signal](), None):
        first = MemoryQueue()
        errors: list[Exception] = [ZeroDivisionError("by nothing"), AWAY]
        queue = SpillQueue(first, MemoryQueue())
        queue.sends = False
        if told is not None:
            queue.emit = told.append

        def put(events: Any, errors: Any = errors, first: Any = first) -> None:
            if errors:
                raise errors.pop()
            MemoryQueue.put(first, events)

        first.put = put  # type: ignore[method-assign]
        queue.put(EVENTS)
        assert (queue.spilling, first.stats().queued, queue.stats().accepted) == (False, 2, 2)
        if told is not None:
            assert [type(one) for one in told] == [Spilling, Trouble, FlowedBack]


def test_a_child_starts_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent's is not there."""
    started: list[object] = []
    monkeypatch.setattr(carrier, "start_new_thread", lambda *_: started.append(1))
    queue = SpillQueue(MemoryQueue(), MemoryQueue())
    queue.sends = False
    for at in range(2):
        queue.put(EVENTS)
        assert len(started) == at + 1
        queue.after_fork_in_child()


def test_a_closed_queue_takes_nothing_and_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child that it closed before, too; where nothing is left, nothing is told."""
    started: list[object] = []
    monkeypatch.setattr(carrier, "start_new_thread", lambda *_: started.append(1))
    told: list[Signal] = []
    queue = SpillQueue(MemoryQueue(), MemoryQueue())
    queue.emit = told.append
    queue.sends = False
    queue.close()
    for _ in range(2):
        with pytest.raises(QueueUnavailable) as caught:
            queue.put(EVENTS)
        assert caught.value.reason == "closed"
        queue._carrier.start()
        queue.after_fork_in_child()
    assert (started, told) == ([], [])
