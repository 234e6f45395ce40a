"""One round of the sender after the other: what it asks of its queue, and what it begins."""

from typing import Any

import pytest

from eventpost.sender.retry import RetryPolicy
from eventpost.transports.protocol import TransportError
from eventpost.watch.signals import BreakerChanged, Delivered, Dropped, Retrying, Trouble
from sender_support import DOWN, MIB_16, OTHER, UP, Recalling, Rounds, alone, sharing

ONCE = RetryPolicy(breaker_failures=1)
NO_ROUTE = TransportError("connect", "check the name")


# -- periodic work


def test_a_queue_without_periodic_work_is_looked_after_once_a_minute() -> None:
    """None is no time at all: then the sender's own minute counts."""
    rounds = Rounds()
    rounds.queue.tends = [None, 7.5]
    assert rounds.step() == 60.0
    assert rounds.news() == [("tend",)]
    assert rounds.after(59.75) == 0.25
    assert rounds.news() == []
    assert rounds.after(0.25) == 7.5
    assert rounds.news() == [("tend",)]


def test_the_first_claim_since_the_periodic_work_brings_it_forward_once() -> None:
    """The queue may want a sync soon after what came while it was idle; later claims do not ask again."""
    rounds = Rounds()
    rounds.queue.tends = [60.0, 2.0, 60.0, 3.0]
    rounds.step()
    rounds.put(*alone(b"1"))
    assert rounds.after(1.0) == 2.0
    rounds.put(*alone(b"2"))
    assert rounds.after(0.5) == 1.5
    assert rounds.news("tend") == [("tend",)] * 2
    rounds.after(1.5)
    rounds.put(*alone(b"3"))
    assert rounds.after(1.0) == 3.0
    assert rounds.news("tend") == [("tend",)] * 2


def test_periodic_work_that_is_due_sooner_is_not_put_off_by_a_claim() -> None:
    """What the queue says then only ever brings it forward."""
    rounds = Rounds()
    rounds.queue.tends = [2.0, 60.0]
    rounds.step()
    rounds.put(*alone(b"1"))
    assert rounds.after(0.5) == 1.5


@pytest.mark.parametrize(
    ("tends", "counted_at"),
    [
        ([0.25] * 12, [0.0, 1.0, 2.0]),
        ([1.0] * 3, [0.0, 1.0, 2.0]),
        ([0.5, 60.0], [0.0, 0.5]),  # it comes back in a minute only: now, then
        ([0.5, 1.0, 60.0], [0.0, 0.5, 1.5]),
        ([0.5, 0.875, 0.875, 60.0], [0.0, 1.375, 2.25]),
    ],
)
def test_what_was_dropped_is_counted_once_a_second_and_before_a_long_wait(
    tends: list[float | None], counted_at: list[float]
) -> None:
    """To count may be dear; and what is told late is told at least before the sender sleeps a second or more."""
    rounds, seen = Rounds(), []
    rounds.queue.tends = tends
    wanted_s = rounds.step()
    while rounds.clock.monotonic() <= 102.5 and (rounds.queue.counts or rounds.queue.tends):
        if rounds.queue.counts:
            seen.append(rounds.clock.monotonic() - 100.0)
        rounds.queue.counts = 0
        wanted_s = rounds.after(wanted_s)
    assert seen == counted_at


def test_who_asks_hears_at_once_what_was_dropped_and_only_once() -> None:
    """Also between two times of periodic work."""
    rounds = Rounds(bounds={"events_max": 2, "overflow": "drop_oldest"})
    rounds.step()
    rounds.put(*alone(b"1", b"2"))
    rounds.put(*alone(b"3"))
    rounds.sender.tell_dropped()
    rounds.sender.tell_dropped()
    assert rounds.news(Dropped) == [Dropped("overflow", 1)]


def test_what_a_queue_wants_back_is_given_back_before_anything_else_is_sent() -> None:
    """All that lingers, at once and without delay; what is out stays out."""
    rounds = Rounds(queue=Recalling)
    rounds.put(*alone(b"1"), *sharing(b"2", b"3"))
    rounds.step()
    assert isinstance(rounds.queue, Recalling)
    rounds.queue.recalls = True
    rounds.news()
    rounds.after(60.0)
    assert rounds.news()[:3] == [("tend",), ("release", [b"2", b"3"], 0.0), ("recalled",)]
    assert rounds.out == [b"1"]


# -- what is claimed and begun


def test_a_lane_is_asked_for_as_much_as_it_has_room_for() -> None:
    """Whole batches first; once an event turns out to travel alone, one for each request; and no more than comes."""
    rounds = Rounds(batch_events_max=10)
    rounds.put(*alone(b"1", b"2"))
    rounds.step()
    rounds.put(*alone(b"3"), *sharing(b"4"))
    rounds.step()
    rounds.step()
    rounds.step()
    assert rounds.news("claim") == [
        ("claim", UP, 40, MIB_16, [b"1", b"2"]),
        ("claim", UP, 2, MIB_16 - 2, [b"3", b"4"]),  # it got all it asked for, so it asks once more
        ("claim", UP, 10, MIB_16 - 3, []),
        ("claim", UP, 10, MIB_16 - 3, []),
        ("claim", UP, 10, MIB_16 - 3, []),
    ]
    assert rounds.out == [b"1", b"2", b"3"]


def test_what_is_begun_says_where_it_goes_how_much_it_carries_and_how_long_it_has() -> None:
    """In the order of arrival, with the timeout that was set."""
    rounds = Rounds(linger_s=0.0, timeout_s=3.5)
    rounds.put(*alone(b"1"), *sharing(b"2", b"3"))
    rounds.step()
    assert rounds.news("start") == [("start", UP, b"1", 3.5, 1), ("start", UP, b"[2,3]", 3.5, 2)]


@pytest.mark.parametrize(("left_s", "timeout_s"), [(3.0, 3.0), (9.75, 9.75), (11.0, 10.0), (0.0, 0.001), (-5.0, 0.001)])
def test_who_has_no_longer_gives_requests_no_longer(left_s: float, timeout_s: float) -> None:
    """A request has to end before who drives the sender goes; it is begun all the same."""
    rounds = Rounds()
    rounds.put(*alone(b"1"))
    rounds.sender.end_by = rounds.clock.monotonic() + left_s
    rounds.step()
    assert rounds.news("start") == [("start", UP, b"1", timeout_s, 1)]


def test_a_sender_that_was_told_where_to_send_says_so_in_all_it_tells() -> None:
    """The queue goes on to know the lane by the event's own URL."""
    rounds = Rounds(send_to=OTHER, policy=ONCE)
    rounds.put(*alone(b"1", b"2"))
    rounds.step()
    rounds.answer(b"1")
    rounds.answer(b"2", by=NO_ROUTE)
    rounds.step()
    assert rounds.news()[1:] == [
        ("claim", UP, 400, MIB_16, [b"1", b"2"]),
        ("start", OTHER, b"1", 10.0, 1),
        ("start", OTHER, b"2", 10.0, 1),
        ("tend",),
        Delivered(OTHER, 1, 204, 0.0, 1),
        BreakerChanged(OTHER, "open", "connect", 1.25),
        ("release", [b"2"], 0.0),
        Retrying(OTHER, 1, "connect", 0.0),
        ("ack", [b"1"]),
    ]


def test_what_lingered_long_enough_goes_before_what_came_later() -> None:
    """Also where there was no room when its time was over."""
    rounds = Rounds(in_flight_max=1)
    rounds.put(*alone(b"1"), *sharing(b"2"))
    rounds.step()
    rounds.after(1.0)
    assert rounds.out == [b"1"]
    rounds.put(*alone(b"3"))
    rounds.answer()
    rounds.step()
    assert rounds.out == [b"[2]"]


def test_endpoints_take_turns_to_be_first() -> None:
    """Where one request may be out in all, each of them has it in turn."""
    rounds = Rounds(in_flight_max=1)
    for url in (UP, DOWN, OTHER):
        rounds.put(*alone(b"1", b"2", url=url))
    begun = []
    for _ in range(6):
        rounds.step()
        begun += [one[1] for one in rounds.news("start")]
        rounds.answer()
    assert begun == [UP, DOWN, OTHER, UP, DOWN, OTHER]
    rounds = Rounds(in_flight_max=1)
    for url in (UP, DOWN):
        rounds.put(*alone(b"1", b"2", url=url))
    for url in (UP, DOWN, UP, DOWN):
        rounds.step()
        assert [one[1] for one in rounds.news("start")] == [url]
        rounds.answer()


def test_trouble_with_one_endpoint_is_told_and_the_next_one_is_served() -> None:
    """With the kind of the error; what could not be begun comes back after its delay."""
    rounds = Rounds()
    rounds.put(*alone(b"1"))
    rounds.transport.failing = True
    rounds.step()
    (trouble,) = rounds.news(Trouble)
    assert trouble.what
    assert trouble.detail == "RuntimeError: broken"
    assert rounds.said == []
    assert rounds.queue.next_due_s() == 0.625
    rounds.transport.failing = False
    rounds.put(*alone(b"2"))
    rounds.step()
    assert rounds.out == [b"2"]


# -- how many may be out


def test_what_is_ready_and_has_no_room_is_a_backlog() -> None:
    """Nothing is left in the queue, and still twice as many may be out after as many deliveries as were."""
    rounds = Rounds()
    rounds.put(*alone(*(b"%d" % number for number in range(20))))
    rounds.step()
    rounds.step()
    assert len(rounds.out) == 4
    assert rounds.queue.pending(UP) == 0
    rounds.answer()
    rounds.step()
    assert len(rounds.out) == 8


def test_what_is_in_the_queue_and_has_no_room_is_a_backlog() -> None:
    """It was noticed while the requests were out."""
    rounds = Rounds()
    rounds.put(*alone(b"1", b"2", b"3", b"4"))
    rounds.step()
    rounds.put(*alone(*(b"%d" % number for number in range(10, 30))))
    rounds.step()
    rounds.answer()
    rounds.step()
    assert len(rounds.out) == 8


def test_one_event_that_waits_is_a_backlog() -> None:
    """Not only two."""
    rounds = Rounds()
    rounds.put(*alone(b"1", b"2", b"3", b"4"))
    rounds.step()
    rounds.put(*alone(b"5"))
    rounds.step()
    rounds.put(*alone(*(b"%d" % number for number in range(10, 30))))
    rounds.answer()
    rounds.step()
    assert len(rounds.out) == 8


def test_as_many_as_may_be_out_are_no_backlog() -> None:
    """Four are out and nothing waits: four at once stay enough."""
    rounds = Rounds()
    rounds.put(*alone(b"1", b"2", b"3", b"4"))
    rounds.step()
    rounds.step()
    rounds.put(*alone(*(b"%d" % number for number in range(10, 30))))
    rounds.answer()
    rounds.step()
    assert len(rounds.out) == 4


def test_a_full_measure_of_bytes_is_a_backlog_too() -> None:
    """The claim ended with the bytes that may be in flight, exactly, and more is waiting."""
    rounds = Rounds(in_flight_bytes_max=40)
    rounds.put(*alone(*[b"0123456789"] * 4, *[b"x"] * 20))
    rounds.step()
    assert rounds.news("claim") == [("claim", UP, 400, 40, [b"0123456789"] * 4)]
    rounds.answer()
    rounds.step()
    assert len(rounds.out) == 8


def test_what_may_be_in_flight_ends_with_its_last_byte() -> None:
    """Exactly as many bytes as may be out are enough, whatever else is ready."""
    rounds = Rounds(in_flight_bytes_max=40, linger_s=0.0)
    for kind in (b"a", b"b", b"c"):
        rounds.put(sharing(b"x")[0]._replace(envelope=sharing(b"x")[0].envelope._replace(prefix=kind * 18)))
    rounds.step()
    assert rounds.out == [b"a" * 18 + b"x]", b"b" * 18 + b"x]"]


def test_an_endpoint_with_nothing_out_may_exceed_the_bytes_by_one_request() -> None:
    """It asks for one byte more, which is one event."""
    rounds = Rounds(in_flight_bytes_max=10)
    rounds.put(*alone(b"0123456789", url=DOWN))
    rounds.step()
    rounds.put(*alone(b"1", b"2"))
    rounds.news()
    rounds.step()
    assert ("claim", UP, 400, 1, [b"1"]) in rounds.news("claim")
    assert rounds.out == [b"0123456789", b"1"]


def test_a_lane_that_ran_dry_begins_again_as_a_new_one() -> None:
    """Hundreds of quiet processes hold few connections; while a request is out the lane is not dry."""
    rounds = Rounds()
    rounds.put(*alone(*(b"%d" % number for number in range(10, 22))))
    rounds.step()
    rounds.step()
    rounds.answer()
    rounds.step()
    assert len(rounds.out) == 8
    rounds.answer(*rounds.out[:5])
    rounds.step()  # three are out: it may have eight
    rounds.put(*alone(*(b"%d" % number for number in range(30, 50))))
    rounds.step()
    assert len(rounds.out) == 8
    while rounds.out:
        rounds.answer()
        rounds.step()
    rounds.put(*alone(*(b"%d" % number for number in range(50, 90))))
    rounds.step()
    assert len(rounds.out) == 4


# -- an endpoint that is left alone


def down(rounds: Rounds, by: Any = NO_ROUTE) -> None:
    """Let the endpoint be left alone: its first event fails."""
    rounds.put(*alone(b"0"))
    rounds.step()
    rounds.answer(b"0", by=by)
    rounds.step()
    rounds.news()


def test_a_probe_is_one_event_of_those_that_wait() -> None:
    """What shared its batch stays, in front, and goes once the endpoint is well."""
    rounds = Rounds(policy=ONCE, linger_s=60.0)
    rounds.put(*sharing(b"1", b"2"))
    down(rounds)
    assert rounds.after(1.0) == 0.25
    assert rounds.news("start", "claim", BreakerChanged) == []
    rounds.after(0.25)
    assert rounds.news() == [BreakerChanged(UP, "half_open", "connect"), ("start", UP, b"[1]", 10.0, 1)]
    rounds.answer(b"[1]")
    rounds.step()
    assert rounds.news() == [
        BreakerChanged(UP, "closed", "recovered"),
        Delivered(UP, 1, 204, 0.0, 1),
        ("ack", [b"1"]),
        ("start", UP, b"[2]", 10.0, 1),
    ]


def test_a_probe_is_claimed_alone_where_nothing_waits() -> None:
    """One event, whatever else is in the queue; and the queue is looked after soon, as after any first claim."""
    rounds = Rounds(policy=ONCE)
    down(rounds)
    rounds.put(*sharing(b"1", b"2"))
    rounds.clock.advance(60.0)
    rounds.queue.tends = [60.0, 5.0]
    assert rounds.step() == 5.0
    assert rounds.news() == [
        ("tend",),
        ("claim", UP, 1, 1, [b"0"]),
        BreakerChanged(UP, "half_open", "connect"),
        ("start", UP, b"0", 10.0, 1),
        ("tend",),
    ]


def test_a_probe_that_might_share_does_not_linger() -> None:
    """It is claimed and goes."""
    rounds = Rounds(policy=ONCE)
    down(rounds)
    assert rounds.queue.claim(UP, 1, 1)  # by somebody else
    rounds.put(*sharing(b"1", b"2"))
    rounds.after(1.25)
    assert rounds.out == [b"[1]"]


def test_a_probe_whose_event_was_taken_over_is_none() -> None:
    """Nothing is sent, and the next event is the question."""
    rounds = Rounds(policy=ONCE, linger_s=60.0)
    rounds.put(*sharing(b"1"))
    down(rounds)
    (batch,) = rounds.sender._lanes[UP].former.held()
    batch.leases[0].live = False
    rounds.after(1.25)
    assert rounds.news("start") == []
    rounds.step()
    assert rounds.news("start") == [("start", UP, b"0", 10.0, 1)]


def test_a_probe_that_could_not_be_begun_is_none() -> None:
    """The next event is asked as soon as it is there."""
    rounds = Rounds(policy=ONCE)
    down(rounds)
    rounds.transport.failing = True
    rounds.after(1.25)
    rounds.transport.failing = False
    assert [type(one) for one in rounds.news(Trouble)] == [Trouble]
    rounds.put(*alone(b"1"))
    rounds.step()
    assert rounds.out == [b"1"]
