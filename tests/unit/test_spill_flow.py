"""The way back, step by step: what is asked of each queue and when, how much at a time, and what is told."""

from __future__ import annotations

import pytest

from eventpost import MemoryQueue
from eventpost.errors import EventTooLarge, QueueError, QueueFull
from eventpost.watch.signals import FlowedBack, Trouble
from spill_support import AWAY, MIB, SIZE, Case, sized
from support import URL


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Make one."""
    return Case(monkeypatch)


# -- a step


def test_a_step_puts_first_and_acknowledges_then(case: Case) -> None:
    """What is not at the server yet is never called moved; then puts pass the spill again, and that is told."""
    case.spills(0, 1, 2)
    case.clock.advance(7.5)
    assert not case.flow.is_passed()
    assert case.flow.step() is None
    assert case.calls == [
        ("spill", "claim", URL, 64, MIB), ("first", "put", [0, 1, 2]), ("spill", "ack", [0, 1, 2])
    ]  # fmt: skip
    assert case.told == [FlowedBack(3, 7.5)]
    assert case.flow.is_passed()
    assert case.pauses == []


def test_each_outage_is_told_by_itself(case: Case) -> None:
    """That it begins is news once; how many events it had and how long it took; it begins with small steps."""
    assert [case.spills(*range(10 * at, 10 * at + 10)) for at in range(20)] == [True] + [False] * 19
    while case.flow.step(at_once=True) is not None:
        pass
    assert case.of("spill", "claim") == [(URL, 64, MIB), (URL, 128, MIB), (URL, 256, MIB)]
    case.clock.advance(100)
    assert case.spills(300, 301)
    case.clock.advance(2.5)
    assert not case.spills(302)
    case.clock.advance(0.5)
    assert case.flow.step() is None
    assert case.told == [FlowedBack(200, 0.0), FlowedBack(3, 3.0)]
    assert case.of("spill", "claim") == [(URL, 64, MIB)]


def test_what_others_left_moves_without_a_word(case: Case) -> None:
    """No put of this process went there; and the next outage does not count it as its own."""
    MemoryQueue.put(case.spill, [sized(1), sized(2)])
    assert case.flow.step() is None
    assert case.told == []
    case.spills(3)
    assert case.flow.step() is None
    assert case.told == [FlowedBack(1, 0.0)]


@pytest.mark.parametrize(("took_s", "wait_s"), [(0.0, 0.001), (0.03125, 0.03125), (5.0, 0.1)])
def test_a_pause_as_long_as_the_step_follows_it(case: Case, took_s: float, wait_s: float) -> None:
    """A millisecond at least, a tenth of a second at most; who comes earlier is told the rest, and moves nothing."""
    case.spills(*range(200))
    case.refuse(AWAY, took_s=took_s, fits=64)
    assert case.flow.step() == wait_s
    assert case.of("first", "put") == [list(range(64))]
    case.clock.advance(wait_s / 2)
    assert case.flow.step() == pytest.approx(wait_s / 2)
    assert case.calls == []
    case.clock.advance(wait_s / 2 if took_s == 0.03125 else wait_s)
    case.refuse(AWAY, fits=1000)
    case.flow.step()
    assert case.of("first", "put") == [list(range(64, 192))]
    assert case.flow.step(at_once=True) is None


def test_while_the_first_queue_refuses_the_same_events_are_tried_again_more_and_more_seldom(case: Case) -> None:
    """They stay in hand and in order, no others are taken; each yes makes the next refusal a first one."""
    case.spills(*range(112))
    assert case.flow.flows
    case.refuse(AWAY)
    waits_s = [case.flow.step(at_once=True) for _ in range(7)]
    assert waits_s == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert case.calls == [("spill", "claim", URL, 64, MIB), *[("first", "put", list(range(64)))] * 7]
    assert (case.flow.away, case.flow.flows) == (True, False)
    assert case.spill.stats().in_flight == 64
    case.refuse(AWAY, fits=1000)
    case.flow.step(at_once=True)
    assert (case.flow.away, case.flow.flows) == (False, True)
    case.refuse(AWAY)
    assert case.flow.step(at_once=True) == 0.05
    assert case.told == []


def test_an_attempt_that_takes_long_makes_the_pause_long(case: Case) -> None:
    """Four times as long as it took, if that is more than its turn."""
    case.spills(1)
    case.refuse(AWAY, took_s=0.5)
    assert case.flow.step() == 2.0
    case.refuse(AWAY, took_s=0.015625)
    assert case.flow.step(at_once=True) == 0.1


def test_where_there_is_little_room_steps_are_small_and_grow_again(case: Case) -> None:
    """A quarter each time; what is in hand goes first, and only then more is claimed, as many as are missing."""
    case.spills(*range(112))
    case.refuse(QueueFull(), fits=16)
    assert case.flow.step() == 0.05
    assert case.flow.step(at_once=True) == 0.001
    assert case.flow.inside, "as many are in hand as wait behind them"
    case.refuse(AWAY, fits=1000)
    while case.flow.step(at_once=True) is not None:
        pass
    assert [(call[1], call[3:] if call[1] == "claim" else len(call[2])) for call in case.calls] == [
        ("claim", (64, MIB)), ("put", 64), ("put", 16), ("ack", 16), ("put", 32), ("ack", 32),
        ("claim", (48, MIB - 16 * SIZE)), ("put", 64), ("ack", 64),
    ]  # fmt: skip
    assert case.first.stats().queued == 112


def test_a_refusal_for_another_reason_asks_for_no_smaller_steps(case: Case) -> None:
    """Nor for larger ones: it begins with the first size again."""
    case.spills(*range(500))
    for _ in range(2):
        case.flow.step(at_once=True)
    case.refuse(AWAY)
    case.flow.step(at_once=True)
    case.refuse(AWAY, fits=1000)
    case.flow.step(at_once=True)
    assert [len(events) for events in case.of("first", "put")] == [64, 128, 256, 64]


def test_lanes_take_turns(case: Case) -> None:
    """Another one is first each time: a full one does not hold up the others."""
    lanes = [f"{URL}/{at}" for at in range(4)]
    for at, lane in enumerate(lanes):
        case.spills(at, url=lane)
    began = []
    for _ in range(5):
        case.flow.step(at_once=True)
        began.append(case.of("spill", "claim")[0][0])
    assert sorted(began[:4]) == lanes
    assert began[4] == began[0]


def test_one_step_takes_from_all_lanes_what_it_needs(case: Case) -> None:
    """Each is asked for what is still missing, of events and of bytes, and none once there is enough."""
    for lane, size in (("/a", 300_000), ("/b", 200_000), ("/c", SIZE)):
        case.spills(1, 2, url=URL + lane, size=size)
    case.spills(3, url=URL + "/d", size=300_000)
    case.refuse(AWAY)
    case.flow.step()
    claims = case.of("spill", "claim")
    left = {"/a": 600_000, "/b": 400_000, "/c": 2 * SIZE, "/d": 300_000}
    events, size = 64, MIB
    for lane, events_max, bytes_max in claims:
        assert (events_max, bytes_max) == (events, size)
        events -= 1 if lane.endswith("/d") else 2
        size -= left.pop(lane.removeprefix(URL))
        assert size > 0 or lane == claims[-1][0]
    assert size <= 0
    case.flow.step(at_once=True)
    assert case.of("spill", "claim") == [], "a mebibyte is in hand"


@pytest.mark.parametrize(("missing", "asked"), [(0, 1), (1, 2)])
def test_a_mebibyte_is_enough_to_the_byte(case: Case, missing: int, asked: int) -> None:
    """Another lane is asked for the last byte, and for none beyond it; in the next step, too."""
    case.spills(1, url=URL + "/a", size=MIB - missing)
    case.spills(2, url=URL + "/b", size=MIB - missing)
    case.refuse(AWAY)
    case.flow.step()
    claims = case.of("spill", "claim")
    assert [bytes_max for _, _, bytes_max in claims] == [MIB, missing][:asked]
    case.flow.step(at_once=True)
    assert case.of("spill", "claim") == []


@pytest.mark.parametrize(("each", "claims"), [(64, [64]), (63, [64, 1])])
def test_a_step_is_full_with_its_last_event(case: Case, each: int, claims: list[int]) -> None:
    """A lane is asked for one, and none for nothing."""
    for lane in "ab":
        case.spills(*range(each), url=URL + lane)
    case.flow.step()
    assert [call[3] for call in case.calls if call[1] == "claim"] == claims


def test_where_nothing_waits_nothing_is_put(case: Case) -> None:
    """The first queue is not bothered; a lane may be known that has nothing."""
    assert case.flow.step() is None
    assert case.calls == []
    case.spills(1)
    case.flow.step()
    case.calls.clear()
    assert case.flow.step() is None
    assert case.calls == [("spill", "claim", URL, 64, MIB)]


def test_what_is_stored_behind_the_look_moves_before_puts_pass(case: Case) -> None:
    """The mover found nothing any more, and then somebody stored: that is seen."""
    case.spills(1)
    due = case.spill.next_due_s

    def stores() -> None:
        case.spill.next_due_s = due  # type: ignore[method-assign]
        case.spills(2)

    case.spill.next_due_s = stores  # type: ignore[method-assign]
    assert case.flow.step() is None
    assert case.of("first", "put") == [[1], [2]]
    assert case.told == [FlowedBack(2, 0.0)]


# -- what does not go as it should


def test_what_never_fits_is_found_by_halves(case: Case) -> None:
    """It alone is set aside as too_large; the others keep their order, and each yes is noted before the next put."""
    case.spills(0, 1, 2, 3, 4)

    def refuse(events: list[int]) -> None:
        if 2 in events:
            raise EventTooLarge

    case.first.at["put"] = refuse
    assert case.flow.step() is None
    assert case.calls[1:] == [
        ("first", "put", [0, 1, 2, 3, 4]),
        ("first", "put", [0, 1]), ("spill", "ack", [0, 1]),
        ("first", "put", [2, 3, 4]), ("first", "put", [2]), ("spill", "bury", [2], "too_large", None),
        ("first", "put", [3, 4]), ("spill", "ack", [3, 4]),
    ]  # fmt: skip
    assert case.told == [FlowedBack(4, 0.0)]


@pytest.mark.parametrize(
    ("events", "never", "puts"),
    [
        (2, 1, [[0, 1], [0], [1]]),
        (2, 0, [[0, 1], [0], [1]]),
        (4, 0, [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3]]),
        (4, 3, [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]),
    ],
)
def test_no_more_than_one_is_set_aside(case: Case, events: int, never: int, puts: list[list[int]]) -> None:
    """Wherever it stands; the others are put in the same step, without another look at the spill."""
    case.spills(*range(events))

    def refuse(some: list[int]) -> None:
        if never in some:
            raise EventTooLarge

    case.first.at["put"] = refuse
    assert case.flow.step() is None
    assert [call[1] for call in case.calls].count("claim") == 1
    assert [call[2] for call in case.calls if call[1] == "bury"] == [[never]]
    assert case.of("first", "put") == puts


def test_what_stands_behind_what_never_fits_stays_in_hand(case: Case) -> None:
    """Where the first queue goes away just then, it is put later."""
    case.spills(0, 1, 2)

    def refuse(events: list[int]) -> None:
        if 1 in events:
            raise EventTooLarge
        if events == [2]:
            raise AWAY

    case.first.at["put"] = refuse
    assert case.flow.step() == 0.05
    case.first.at.clear()
    case.calls.clear()
    assert case.flow.step(at_once=True) is None
    assert case.of("first", "put") == [[2]]


def test_where_there_was_room_for_none_one_is_taken(case: Case) -> None:
    """The smallest step is one event, and not less."""
    case.spills(1, 2)
    case.refuse(QueueFull())
    for _ in range(4):
        case.flow.step(at_once=True)
    assert case.flow.give_back()
    case.calls.clear()
    case.first.at.clear()
    case.flow.step(at_once=True)
    assert case.of("first", "put") == [[1]]


@pytest.mark.parametrize("error", [OSError(5, "no"), ValueError("no"), QueueError("no")], ids=repr)
def test_what_the_spill_can_not_note_is_noted_before_anything_else_moves(case: Case, error: Exception) -> None:
    """Each second it is tried again and told; nothing is put twice, and all is counted once."""
    case.spills(0, 1, 2)

    def refuse(events: list[int]) -> None:
        if len(events) == 3:
            raise EventTooLarge

    def fail(_: list[int]) -> None:
        raise error

    case.first.at["put"] = refuse
    case.spill.at["ack"] = fail
    for _ in range(3):
        assert case.flow.step() == 1.0
        assert case.count() == (3, 3, 0)
        case.clock.advance(1.0)
    assert case.calls[1:] == [("first", "put", [0, 1, 2]), ("first", "put", [0]), *[("spill", "ack", [0])] * 3]
    for one in case.told:
        assert isinstance(one, Trouble)
        assert one.detail == f"{type(error).__name__}: {error}"
        assert one.what
    assert len(case.told) == 3
    case.calls.clear()
    case.spill.at.clear()
    assert case.flow.step() is None
    assert case.calls[0] == ("spill", "ack", [0])
    assert [call[2] for call in case.calls if call[1] == "put"] == [[1, 2]]
    assert case.told[3:] == [FlowedBack(3, 3.0)]


def test_what_the_spill_does_not_hand_out_yet_is_waited_for(case: Case) -> None:
    """It was given back with a delay: puts stay behind it, and it is looked for each tenth of a second."""
    case.spills(1)
    case.spill.release(case.spill.claim(URL, 1, 1), 5.0)
    assert case.flow.step() == 0.1
    assert not case.flow.is_passed()
    case.clock.advance(5.0)
    assert case.flow.step() is None
    assert case.flow.is_passed()


def test_where_some_have_moved_the_next_step_is_soon(case: Case) -> None:
    """Though there are others that are not handed out yet."""
    case.spills(1)
    case.spill.release(case.spill.claim(URL, 1, 1), 5.0)
    case.spills(2)
    assert case.flow.step() == 0.001
    assert case.of("first", "put") == [[2]]


def test_an_error_of_no_queue_leaves_the_count_alive(case: Case) -> None:
    """Whatever comes up in a put: what was not put is still in the spill, and moves with the next step."""
    case.spills(1, 2)
    case.refuse(ZeroDivisionError())  # type: ignore[arg-type]  # any
    with pytest.raises(ZeroDivisionError):
        case.flow.step()
    case.first.at.clear()
    MemoryQueue.put(case.first, [sized(9)])
    assert case.count() == (3, 3, 0)
    assert case.flow.step() is None
    assert case.count() == (3, 3, 0)


# -- the last few


def test_the_last_few_are_followed_up_within_the_step(case: Case) -> None:
    """What puts have stored meanwhile moves at once, four times at most: a step has an end under any load."""
    case.spills(0)
    case.first.at["put"] = lambda events: case.spills(events[-1] + 1)
    assert case.flow.step() == 0.001
    assert case.of("first", "put") == [[0], [1], [2], [3]]
    case.first.at.clear()
    assert case.flow.step(at_once=True) is None
    assert case.of("first", "put") == [[4]]


@pytest.mark.parametrize(("before", "meanwhile", "puts"), [(74, 0, 1), (10, 128, 1), (10, 127, 2)])
def test_more_than_a_few_wait_for_the_next_step(case: Case, before: int, meanwhile: int, puts: int) -> None:
    """Where a step was full, or as many wait as the next one takes, the pause comes first."""
    case.spills(*range(before))

    def more(_: list[int]) -> None:
        case.first.at.clear()
        if meanwhile:
            case.spills(*range(before, before + meanwhile))

    case.first.at["put"] = more
    case.flow.step()
    assert len(case.of("first", "put")) == puts


def test_a_put_waits_for_the_last_few_and_not_for_long(case: Case) -> None:
    """Twenty milliseconds, once; not where many wait, and not in a signal handler over the move itself."""
    asked: list[tuple[int, bool, int]] = []

    def ask(events: list[int]) -> None:
        for thread in (1, 2, 2):
            case.thread = thread
            passed = case.flow.is_passed()
            asked.append((thread, passed, len(case.pauses)))
        case.thread = 1
        if events == [0]:
            case.spills(1)

    case.spills(0)
    case.first.at["put"] = ask
    assert case.flow.step() is None
    assert asked == [(1, False, 0), (2, False, 0), (2, False, 0), (1, False, 0), (2, False, 40), (2, False, 40)]
    assert set(case.pauses) == {0.0005}
    case.first.at.clear()
    case.spills(*range(100))
    case.flow.step(at_once=True)
    case.thread = 2
    assert not case.flow.is_passed()
    assert len(case.pauses) == 40
