"""The face of two queues: what it is made of, and where a put goes."""

from __future__ import annotations

import itertools

import pytest

from eventpost.errors import QueueError, QueueFull, QueueUnavailable
from eventpost.queues.protocol import QueueStats
from eventpost.queues.spill import SpillQueue
from eventpost.queues.spill.flow import Flow
from eventpost.watch.signals import Spilling
from spill_support import AWAY, Face, raising
from support import event

FULL = QueueUnavailable("no space", reason="disk_full")
EVENTS = [event(1), event(2)]


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Face:
    """Make one."""
    return Face(monkeypatch)


# -- what it is made of


def test_what_is_no_queue_is_named(case: Face) -> None:
    """Whichever of the two it is, by its type."""
    with pytest.raises(TypeError, match=r"first must be a queue, .* not str"):
        SpillQueue("redis://127.0.0.1", case.spill)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"spill must be a queue, .* not int"):
        SpillQueue(case.first, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "spill"), list(itertools.product(range(4), repeat=2)), ids=lambda level: f"level {level}"
)
def test_the_durability_is_the_weaker_one(case: Face, first: int, spill: int) -> None:
    """Nothing, the process, power loss, the host: of each pair the first in this order."""
    levels = ("memory", "os", "fsync", "host")
    case.first.durability, case.spill.durability = levels[first], levels[spill]  # type: ignore[assignment]
    assert case.queue.durability == levels[min(first, spill)]


def test_what_a_dispatcher_sets_reaches_both_queues(case: Face) -> None:
    """Signals go to it from both; that this process does not send is the first queue's business only."""
    for queue in (case.first, case.spill):
        queue.emit = queue.sends = None  # type: ignore[attr-defined]  # as a journal has them
    case.queue.emit = emit = case.told.append
    assert case.queue.emit is case.first.emit is case.spill.emit is emit  # type: ignore[attr-defined]
    assert case.queue.sends is True
    case.queue.sends = False
    assert (case.queue.sends, case.first.sends, case.spill.sends) == (False, False, None)  # type: ignore[attr-defined]
    assert case.queue.may_start()
    case.queue.may_start = may = lambda: False
    assert case.queue.may_start is case.queue._carrier.may_start is may


def test_a_queue_that_has_no_signals_is_given_none(case: Face) -> None:
    """Nor a word of who sends."""
    case.queue.sends = False
    for queue in (case.first, case.spill):
        assert not hasattr(queue, "emit")
        assert not hasattr(queue, "sends")


def test_what_the_first_queue_has_beside_the_protocol_is_there(case: Face) -> None:
    """By the same name, unless that is private."""
    case.first.shards = 8  # type: ignore[attr-defined]
    case.first._secret = 8  # type: ignore[attr-defined]
    assert case.queue.shards == 8
    for name in ("_secret", "no_such"):
        with pytest.raises(AttributeError, match=name):
            getattr(case.queue, name)


def test_it_describes_itself_as_the_first_queue_with_a_spill(case: Face) -> None:
    """Where that says nothing of itself, too; the durability is that of both."""
    case.spill.answers["stats"] = QueueStats(queued=30, in_flight=4, stored_bytes=500)
    spill = {
        "path": "", "durability": "memory", "spilling": False, "away": False, "queued": 34, "stored_bytes": 500
    }  # fmt: skip
    assert case.queue.describe() == {"durability": "memory", "spill": spill}
    case.first.describe = lambda: {"kind": "streams", "durability": "host"}  # type: ignore[attr-defined]
    case.spill.path = "/a"  # type: ignore[attr-defined]
    case.spills()
    spill |= {"path": "/a", "spilling": True, "away": True}
    assert case.queue.describe() == {"kind": "streams", "durability": "memory", "spill": spill}


# -- put


def test_a_put_goes_to_the_first_queue(case: Face) -> None:
    """And to no other."""
    case.queue.put(EVENTS)
    assert case.calls == [("first", "put", EVENTS)]
    assert (case.told, case.queue.spilling) == ([], False)


def test_a_put_that_the_first_queue_refuses_goes_to_the_spill_and_so_do_those_behind_it(case: Face) -> None:
    """What the first said is told, once."""
    case.first.answers["put"] = raising(AWAY)
    case.queue.put(EVENTS)
    assert case.calls == [("first", "put", EVENTS), ("spill", "put", EVENTS)]
    assert case.told == [Spilling("redis_unavailable", "nobody answers")]
    case.calls.clear()
    case.comes_back()
    case.queue.put(EVENTS)
    assert case.calls == [("spill", "put", EVENTS)]
    assert len(case.told) == 1
    assert case.queue.spilling


def test_what_neither_takes_is_refused_with_the_spills_reason(case: Face) -> None:
    """As the kind of error that it is, with both texts, and from then on the first queue is known to be away."""
    case.first.answers["put"] = raising(AWAY)
    for error in (FULL, QueueFull("full to the brim")):
        case.spill.answers["put"] = raising(error)
        with pytest.raises(QueueError, match=f"{error}.*nobody answers") as caught:
            case.queue.put(EVENTS)
        assert (type(caught.value), caught.value.reason) == (type(error), error.reason)
        assert caught.value.__cause__ is AWAY
    assert (case.queue._flow.away, case.queue.spilling, case.told, case.starts) == (True, False, [], 0)


def test_behind_older_events_a_put_may_overtake_rather_than_be_lost(case: Face) -> None:
    """Only where the first queue takes events by now; if it does not, the spill's refusal is told, and it is away."""
    case.spills()
    case.spill.answers["put"] = raising(FULL)
    with pytest.raises(QueueUnavailable) as caught:
        case.queue.put(EVENTS)
    assert caught.value is FULL
    assert case.calls == [("spill", "put", EVENTS)]
    case.comes_back()
    case.calls.clear()
    case.queue.put(EVENTS)
    assert case.calls == [("spill", "put", EVENTS), ("first", "put", EVENTS)]
    case.first.answers["put"] = raising(AWAY)
    with pytest.raises(QueueUnavailable) as caught:
        case.queue.put(EVENTS)
    assert caught.value is FULL
    assert case.queue._flow.away
    assert case.told == []


@pytest.mark.parametrize("reason", ["closed", "forked"])
def test_a_spill_that_has_ended_refuses(case: Face, reason: str) -> None:
    """That is no lack of room: the first queue is at its end, too."""
    case.spills()
    case.comes_back()
    case.spill.answers["put"] = raising(QueueUnavailable(reason=reason))
    with pytest.raises(QueueUnavailable) as caught:
        case.queue.put(EVENTS)
    assert caught.value.reason == reason
    assert case.calls == [("spill", "put", EVENTS)]


@pytest.mark.parametrize(("passed", "where"), [(True, "first"), (False, "spill")])
def test_a_put_goes_where_the_last_few_have_gone(
    case: Face, monkeypatch: pytest.MonkeyPatch, passed: bool, where: str
) -> None:
    """It waits for them; if they have not gone by then, it stays behind them."""
    case.spills()
    case.comes_back()
    monkeypatch.setattr(Flow, "is_passed", lambda _: passed)
    case.queue.put(EVENTS)
    assert case.calls == [(where, "put", EVENTS)]


def test_a_put_that_the_move_leaves_alone_begins_an_outage_of_its_own(case: Face) -> None:
    """The last older event moved while it was on its way into the spill: that is told, with no reason to give."""
    case.spills()
    case.comes_back()
    case.spill.answers["put"] = lambda _: case.queue._flow.step(at_once=True)
    case.queue.put(EVENTS)
    assert case.told[1:] == [Spilling("", "")]
    assert case.queue.spilling


def test_without_a_sender_a_put_starts_the_thread(case: Face) -> None:
    """When something has spilled, each time; else when it is time to look for what others left."""
    case.queue.put(EVENTS)
    case.spills()
    assert case.starts == 0, "a sender is there"
    case.queue.sends = False
    case.queue.put(EVENTS)
    assert case.starts == 1
    case.queue.after_fork_in_child()
    case.first.answers["put"] = None
    case.queue.put(EVENTS)
    assert case.starts == 2
    case.queue._carrier._look_at = case.clock.monotonic() + 1
    case.queue.put(EVENTS)
    assert case.starts == 2
    case.spills()
    assert case.starts == 3


def test_who_neither_puts_nor_sends_has_it_look_for_what_others_left(case: Face) -> None:
    """If that is due; not where a sender does, and not once it is closed."""
    case.queue.look_for_left()
    assert case.starts == 0
    case.queue.sends = False
    case.queue.look_for_left()
    assert case.starts == 1
    case.queue._carrier._look_at = case.clock.monotonic() + 1
    case.queue.look_for_left()
    assert case.starts == 1
    case.queue._carrier._look_at = 0.0
    case.queue.close()
    case.queue.look_for_left()
    assert case.starts == 1
