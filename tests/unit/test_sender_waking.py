"""When the sender wants to come back, and after how many arrivals it wants to be woken."""

import pytest

from eventpost.sender.loop import NEVER
from eventpost.sender.retry import RetryPolicy
from eventpost.transports.protocol import Response, TransportError
from sender_support import DOWN, MIB_16, OTHER, UP, RecordingQueue, Rounds, alone, sharing

ONCE = RetryPolicy(breaker_failures=1)
NO_ROUTE = TransportError("connect", "")


# -- when to come back


def test_the_next_deadline_is_the_nearest() -> None:
    """A linger that ends, a delivery that is to be noted again, an event that is due, a probe, periodic work."""
    rounds = Rounds(linger_s=4.0)
    rounds.put(*sharing(b"1"))
    assert rounds.step() == 4.0
    assert rounds.after(1.0) == 3.0
    rounds.put(*alone(b"2"))
    rounds.step()
    rounds.answer(b"2", by=Response(503, retry_after="2"))
    assert rounds.after(0.5) == 2.0  # its probe and the event itself
    rounds.queue.failing = {"ack"}
    rounds = Rounds(linger_s=4.0)
    rounds.put(*sharing(b"1"), *alone(b"2"))
    rounds.step()
    rounds.queue.failing = {"ack"}
    rounds.answer(b"2")
    assert rounds.after(0.5) == 1.0
    assert rounds.after(0.25) == 0.75


def test_a_linger_wakes_where_one_request_may_be_out_and_not_where_none_may() -> None:
    """Its end would change nothing then: another request's end is what is waited for."""
    rounds = Rounds(in_flight_max=1, linger_s=4.0)
    rounds.put(*sharing(b"1"))
    assert rounds.step() == 4.0
    rounds.put(*alone(b"2"))
    assert rounds.step() == 60.0
    assert rounds.out == [b"2"]


def test_an_event_that_is_due_while_its_endpoint_is_busy_does_not_spin() -> None:
    """It could not be claimed just now."""
    rounds = Rounds(in_flight_max=1, policy=RetryPolicy(breaker_failures=9))
    rounds.put(*alone(b"1"))
    rounds.step()
    rounds.answer(by=Response(500))
    rounds.put(*alone(b"2"))
    assert rounds.step() == 0.625
    assert rounds.after(0.625) == 60.0 - 0.625
    assert rounds.out == [b"2"]


def test_an_endpoint_that_is_left_alone_is_asked_when_its_time_is_over() -> None:
    """With what is in the queue; and every endpoint at its own time, whatever is out to another."""
    rounds = Rounds(policy=ONCE)
    for url, later_s in ((UP, 0.0), (DOWN, 0.5)):
        rounds.put(*alone(b"1", url=url))
        rounds.after(later_s)
        rounds.answer(by=NO_ROUTE)
        rounds.step()
    assert rounds.step() == 0.75
    assert rounds.after(0.75) == 0.5
    assert len(rounds.out) == 1  # a probe
    assert rounds.step() == 0.5
    assert rounds.step() == 0.5
    rounds.after(0.5)
    assert len(rounds.out) == 2


def test_a_probe_whose_time_is_just_over_waits_for_room_without_spinning() -> None:
    """To the very moment: another request's end is what wakes the sender."""
    rounds = Rounds(policy=ONCE, in_flight_max=1)
    rounds.put(*alone(b"1"))
    rounds.step()
    rounds.answer(by=NO_ROUTE)
    rounds.put(*alone(b"2", url=DOWN))
    rounds.step()
    assert rounds.out == [b"2"]
    assert rounds.after(1.25) == 60.0 - 1.25
    assert rounds.after(1.0) == 60.0 - 2.25


def test_a_probe_that_is_due_and_has_nothing_to_ask_with_looks_again_soon() -> None:
    """A queue may say that there is something and hand out nothing (half of another process's record)."""

    class Promising(RecordingQueue):
        def pending(self, lane: str) -> int:
            return super().pending(lane) or 1

    rounds = Rounds(queue=Promising, policy=ONCE)
    rounds.put(*alone(b"0"))
    rounds.step()
    rounds.answer(by=NO_ROUTE)
    assert rounds.step() == 1.25
    assert rounds.queue.claim(UP, 9, 9)
    assert rounds.after(1.25) == pytest.approx(0.05)
    assert rounds.after(0.5) == pytest.approx(0.05)


# -- when the sender wants to be woken


def test_an_idle_lane_wakes_with_the_first_arrival_and_a_lingering_one_when_it_is_full() -> None:
    """A lane that is not known yet is not named: it wakes with its first."""
    rounds = Rounds(batch_events_max=5, linger_s=60.0)
    assert rounds.sender.quotas() == {}
    rounds.put(*alone(b"1"))
    rounds.put(*sharing(b"2", b"3", url=OTHER))
    rounds.put(*sharing(b"1", b"2", b"3", b"4", url=DOWN))
    rounds.step()
    assert rounds.sender.quotas() == {UP: 1, OTHER: 3, DOWN: 1}


def test_a_lane_with_as_much_as_may_be_out_is_not_woken_for_more() -> None:
    """An answer wakes the sender then; exactly as much as there is room for is enough."""
    rounds = Rounds()
    rounds.put(*alone(b"1", b"2", b"3"))
    rounds.step()
    assert rounds.sender.quotas() == {UP: 1}
    rounds.put(*alone(b"4"))
    rounds.step()
    assert rounds.sender.quotas() == {UP: NEVER}
    rounds.put(*alone(b"5"))
    rounds.answer(b"1")
    lane = rounds.sender._lanes[UP]
    rounds.sender.land(rounds.back())
    assert rounds.sender.quotas() == {UP: 1}
    lane.former.add_alone(rounds.queue.claim(UP, 1, 1)[0])
    assert rounds.sender.quotas() == {UP: NEVER}


def test_an_endpoint_that_is_left_alone_wakes_only_for_an_event_to_ask_with() -> None:
    """With something to ask with already, or while a probe is out, no arrival changes anything."""
    rounds = Rounds(policy=ONCE)
    rounds.put(*alone(b"down"))
    rounds.step()
    rounds.answer(by=NO_ROUTE)
    rounds.step()
    assert rounds.sender.quotas() == {UP: NEVER}  # it was given back, and may be claimed when it is time
    (lease,) = rounds.queue.claim(UP, 1, 1)
    assert rounds.sender.quotas() == {UP: 1}
    rounds.sender._lanes[UP].former.add_alone(lease)
    assert rounds.sender.quotas() == {UP: NEVER}
    rounds.after(1.25)
    assert rounds.out == [b"down"]
    assert rounds.sender.quotas() == {UP: NEVER}


def test_what_came_before_the_quotas_were_known_is_seen() -> None:
    """Of a lane that is to be woken for, or that is not known; of no other."""
    rounds = Rounds()
    assert not rounds.sender.arrived({})
    rounds.put(*alone(b"1", url=DOWN))
    assert rounds.sender.arrived({})
    assert rounds.sender.arrived({UP: NEVER})
    assert rounds.sender.arrived({DOWN: 1})
    assert rounds.sender.arrived({DOWN: NEVER - 1})
    assert not rounds.sender.arrived({DOWN: NEVER})
    rounds.queue.claim(DOWN, 1, MIB_16)
    assert not rounds.sender.arrived({})
