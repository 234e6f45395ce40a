"""What the sender makes of one answer: what the queue is told, and what observers hear, in order."""

from email.utils import formatdate

import pytest

from eventpost.sender.retry import RetryPolicy
from eventpost.transports.protocol import Completion, Request, Response, TransportError
from eventpost.watch.signals import BreakerChanged, Buried, Delivered, Retrying, Trouble
from sender_support import DOWN, MIB_16, UP, Outcome, Rounds, alone, sharing

ONCE = RetryPolicy(breaker_failures=1)
PATIENT = RetryPolicy(breaker_failures=100)
NO_ROUTE = TransportError("connect", "check the name")


def answered(rounds: Rounds, by: Outcome | None = None) -> list[object]:
    """Let all that is out end so; return what the next round says of it."""
    rounds.step()
    rounds.news()
    rounds.answer(by=by)
    rounds.sender.land(rounds.back())
    return rounds.news()


def test_a_delivery_is_told_with_all_that_is_known_of_it() -> None:
    """How many events, the status, how long it took, which attempt it was, and whose they are; noted in one write."""
    rounds = Rounds(project_of=lambda event: event.payload.decode(), linger_s=0.0, policy=PATIENT)
    rounds.put(*sharing(b"1", b"2"), *alone(b"3"))
    assert answered(rounds, Response(202, elapsed_s=0.75)) == [
        Delivered(UP, 1, 202, 0.75, 1, "3"),
        Delivered(UP, 2, 202, 0.75, 1, "1"),
        ("ack", [b"3", b"1", b"2"]),
    ]
    rounds.put(*alone(b"4"))
    answered(rounds, Response(500))
    rounds.clock.advance(60.0)
    assert answered(rounds, Response(204)) == [Delivered(UP, 1, 204, 0.0, 2, "4"), ("ack", [b"4"])]


@pytest.mark.parametrize(
    ("outcome", "reason", "status", "delays_s"),
    [
        (Response(500), "http_500", 500, [0.625, 1.25, 2.5]),
        (Response(408), "http_408", 408, [0.625, 1.25, 2.5]),
        (TransportError("timeout", ""), "timeout", 0, [0.625, 1.25, 2.5]),
        (TransportError("connect", ""), "connect", 0, [0.625, 1.25, 2.5]),
    ],
)
def test_a_failure_gives_the_event_back_for_longer_each_time(
    outcome: Outcome, reason: str, status: int, delays_s: list[float]
) -> None:
    """And says why, and for how long."""
    rounds = Rounds(policy=PATIENT)
    rounds.put(*alone(b"1"))
    for delay_s in delays_s:
        assert answered(rounds, outcome) == [
            ("release", [b"1"], delay_s),
            Retrying(UP, 1, reason, delay_s, status),
        ]
        rounds.clock.advance(delay_s)


@pytest.mark.parametrize(
    ("outcome", "reason", "status", "delay_s"),
    [
        (Response(500), "http_500", 500, 0.625),  # it may be the event's own: it goes to the back
        (TransportError("reset", ""), "reset", 0, 0.625),
        (Response(429), "http_429", 429, 0.0),  # the endpoint's: the breaker waits
        (TransportError("dns", ""), "dns", 0, 0.0),
    ],
)
def test_while_an_endpoint_is_left_alone_the_wait_is_the_breakers(
    outcome: Outcome, reason: str, status: int, delay_s: float
) -> None:
    """What may be the cause itself waits all the same, so that another event is the probe."""
    rounds = Rounds(policy=ONCE)
    rounds.put(*alone(b"1"))
    assert answered(rounds, outcome) == [
        BreakerChanged(UP, "open", reason, 1.25),
        ("release", [b"1"], delay_s),
        Retrying(UP, 1, reason, delay_s, status),
    ]


def test_an_endpoint_that_asks_for_time_has_it() -> None:
    """What may be the cause waits no shorter than it asks, and no shorter than it would have."""
    for asked_s, delay_s, open_s in (("9", 9.0, 9.0), ("0.25", 0.625, 1.25)):
        rounds = Rounds(policy=PATIENT)
        rounds.put(*alone(b"1"))
        assert answered(rounds, Response(503, retry_after=asked_s)) == [
            BreakerChanged(UP, "open", "http_503", open_s),
            ("release", [b"1"], delay_s),
            Retrying(UP, 1, "http_503", delay_s, 503),
        ]


def test_an_endpoint_may_name_the_time_of_day() -> None:
    """It is compared with the clock's, not with this machine's."""
    rounds = Rounds(policy=PATIENT)
    rounds.put(*alone(b"1"))
    at = formatdate(rounds.clock.time() + 9.0, usegmt=True)
    assert answered(rounds, Response(429, retry_after=at))[0] == BreakerChanged(UP, "open", "http_429", 9.0)


def test_a_probe_that_is_delivered_too_early_is_followed_by_another() -> None:
    """While it was out, a late answer asked for more time: the endpoint is left alone until then."""
    rounds = Rounds(policy=ONCE)
    rounds.put(*alone(b"1", b"2", b"3"))
    rounds.step()
    rounds.answer(b"1", by=NO_ROUTE)
    rounds.step()
    rounds.after(1.25)
    rounds.answer(b"2", by=Response(429, retry_after="8"))
    rounds.answer(b"1")
    rounds.step()
    rounds.after(7.75)
    assert rounds.out == [b"3"]
    rounds.after(0.25)
    assert rounds.out == [b"3", b"2"]


def test_a_rate_limit_halves_what_may_be_out() -> None:
    """Another failure does not."""
    for status, most in ((429, 2), (500, 4)):
        rounds = Rounds(policy=PATIENT)
        rounds.put(*alone(*(b"%d" % number for number in range(10, 30))))
        rounds.step()
        rounds.answer(*rounds.out[1:])
        rounds.answer(by=Response(status))
        rounds.step()
        assert len(rounds.out) == most


@pytest.mark.parametrize("probe", [False, True])
def test_the_end_of_our_own_transport_says_nothing_about_the_endpoint(probe: bool) -> None:
    """The event is given back at once; a probe that ended so is none, and the next one goes as soon as it may."""
    rounds = Rounds(policy=ONCE)
    rounds.put(*alone(b"1"))
    if probe:
        answered(rounds, NO_ROUTE)
        rounds.clock.advance(1.25)
    assert answered(rounds, TransportError("closed", "")) == [
        ("release", [b"1"], 0.0),
        Retrying(UP, 1, "closed", 0.0),
    ]
    rounds.step()
    assert rounds.out == [b"1"]


def test_a_batch_that_failed_too_often_is_tried_in_halves() -> None:
    """They stay leased and go in their order, before what is ready; a single event is given back as ever."""
    rounds = Rounds(policy=RetryPolicy(breaker_failures=100, server_error_max=1), linger_s=0.0)
    rounds.put(*sharing(b"1", b"2", b"3"))
    rounds.step()
    rounds.answer(by=Response(500))
    rounds.news()
    rounds.step()
    assert rounds.news(Retrying, "start", "release") == [
        Retrying(UP, 3, "http_500", 0.0, 500),
        ("start", UP, b"[1]", 10.0, 1),
        ("start", UP, b"[2,3]", 10.0, 2),
    ]
    rounds.answer(b"[1]", by=TransportError("timeout", ""))
    rounds.step()
    assert rounds.news("release", Retrying) == [("release", [b"1"], 0.625), Retrying(UP, 1, "timeout", 0.625)]


@pytest.mark.parametrize(
    ("outcome", "reason", "status", "delay_s", "detail"),
    [
        (Response(403), "http_403", 403, 0.625, ""),  # one event may be what it forbids: another one is the probe
        (Response(302), "http_302", 302, 0.625, ""),
        (TransportError("tls", "renew the certificate"), "certificate", 0, 0.0, "renew the certificate"),
        (TransportError("not_allowed", "allow it"), "not_allowed", 0, 0.0, "allow it"),
        (TransportError("test_run", "it is a test"), "test_run", 0, 0.0, "it is a test"),
    ],
)
def test_a_misconfigured_endpoint_is_held_with_what_is_known(
    outcome: Outcome, reason: str, status: int, delay_s: float, detail: str
) -> None:
    """Why, for how long, and what to do where that is known; what was not sent is not delayed."""
    rounds = Rounds()
    rounds.put(*alone(b"1"))
    assert answered(rounds, outcome) == [
        BreakerChanged(UP, "held", reason, 1.25, detail),
        ("release", [b"1"], delay_s),
        Retrying(UP, 1, reason, delay_s, status),
    ]
    rounds.clock.advance(1.25)
    rounds.step()
    assert rounds.out == [b"1"]
    assert rounds.news(BreakerChanged) == []  # held it stays, until it works
    rounds.answer(by=outcome)
    rounds.step()
    assert rounds.news(BreakerChanged) == [BreakerChanged(UP, "held", reason, 2.5, detail)]


@pytest.mark.parametrize(
    ("outcome", "reason", "body"),
    [
        (Response(400, body=b"no \xff such"), "http_400", "no \N{REPLACEMENT CHARACTER} such"),
        (Response(413, body=b"x" * 2000), "too_large", "x" * 1024),
        (Response(422), "http_422", ""),
    ],
)
def test_a_refused_event_is_set_aside_with_what_was_answered(outcome: Response, reason: str, body: str) -> None:
    """Up to 1,024 characters, whatever bytes they were; and told, with whose it was."""
    rounds = Rounds(project_of=lambda event: event.payload.decode())
    rounds.put(*alone(b"7"))
    assert answered(rounds, outcome) == [
        ("bury", [b"7"], reason, outcome.status, body),
        Buried(UP, 1, reason, outcome.status, "7"),
    ]


def test_who_names_no_projects_hears_of_none() -> None:
    """The name is empty then."""
    rounds = Rounds()
    rounds.put(*alone(b"1", b"2"))
    rounds.step()
    rounds.news()
    rounds.answer(b"1")
    rounds.answer(b"2", by=Response(400))
    rounds.sender.land(rounds.back())
    assert rounds.news(Delivered, Buried) == [Delivered(UP, 1, 204, 0.0, 1), Buried(UP, 1, "http_400", 400)]


@pytest.mark.parametrize(("status", "parts"), [(400, [b"[333333,1]", b"[2,4]"]), (413, [b"[333333]", b"[1,2,4]"])])
def test_a_refused_batch_is_parted_and_nothing_is_given_back(status: int, parts: list[bytes]) -> None:
    """By events to find the bad one, by bytes where it was too large; both parts go at once, in order."""
    rounds = Rounds(linger_s=0.0)
    rounds.put(*sharing(b"333333", b"1", b"2", b"4"))
    rounds.step()
    rounds.news()
    rounds.answer(by=Response(status))
    rounds.step()
    assert [one[2] for one in rounds.news("start")] == parts
    assert rounds.said == []


def test_an_event_that_cannot_be_set_aside_comes_back() -> None:
    """After its delay, and that is told."""
    rounds = Rounds()
    rounds.queue.failing = {"bury"}
    rounds.put(*alone(b"1"))
    _, trouble, *rest = answered(rounds, Response(400))
    assert isinstance(trouble, Trouble)
    assert rest == [("release", [b"1"], 0.625), Retrying(UP, 1, "http_400", 0.625, 400)]


def test_refusals_in_a_row_count_from_the_last_delivery() -> None:
    """Two are set aside, and the third tells that the endpoint refuses everything."""
    rounds = Rounds(policy=RetryPolicy(refusals_in_a_row_max=2))
    reasons: list[str] = []
    for status in (400, 204, 400, 400, 400):
        rounds.put(*alone(b"1"))
        reasons += [
            one.reason for one in answered(rounds, Response(status)) if isinstance(one, Buried | BreakerChanged)
        ]
    assert reasons == ["http_400"] * 3 + ["refuses_everything"]


def test_a_refused_probe_is_no_probe_any_more() -> None:
    """The endpoint answered, so the next event asks at once; its first delivery closes the breaker."""
    rounds = Rounds(policy=ONCE)
    rounds.put(*alone(b"1"))
    answered(rounds, NO_ROUTE)
    rounds.put(*alone(b"2"))
    rounds.clock.advance(1.25)
    answered(rounds, Response(400))
    rounds.step()
    assert rounds.out == [b"2"]


def test_an_event_that_was_refused_or_delivered_is_no_suspect_any_more() -> None:
    """What is remembered of a payload that failed goes with its event."""
    for outcome in (Response(400), Response(204)):
        rounds = Rounds(policy=PATIENT)
        rounds.put(*alone(b"1"))
        answered(rounds, Response(500))
        assert len(rounds.sender._lanes[UP].suspects) == 1
        rounds.clock.advance(60.0)
        answered(rounds, outcome)
        assert rounds.sender._lanes[UP].suspects == {}


def test_an_answer_that_cannot_be_dealt_with_gives_back_what_is_still_leased() -> None:
    """After its delay; a probe that ended so is none, and what others have taken meanwhile stays theirs."""
    broken = Response("nonsense")  # type: ignore[arg-type] # a transport with a mistake in it
    rounds = Rounds(linger_s=0.0, policy=ONCE)
    rounds.put(*sharing(b"1", b"2", b"3"))
    rounds.step()
    rounds.transport.under_way[0].token.leases[1].live = False
    trouble, *rest = answered(rounds, broken)
    assert isinstance(trouble, Trouble)
    assert trouble.detail.startswith("TypeError: ")
    assert rest == [("release", [b"1", b"3"], 0.625)]
    rounds = Rounds(policy=ONCE)
    rounds.put(*alone(b"1"))
    answered(rounds, NO_ROUTE)
    rounds.put(*alone(b"2"))
    rounds.clock.advance(1.25)
    answered(rounds, broken)
    rounds.step()
    assert rounds.out == [b"2"]


def test_an_answer_of_a_lane_that_nobody_knows_changes_nothing() -> None:
    """Nor does one that comes twice."""
    rounds = Rounds()
    rounds.put(*alone(b"1"))
    rounds.step()
    (request,) = rounds.transport.under_way
    rounds.answer()
    (completion,) = rounds.back()
    rounds.sender.step([completion])
    rounds.news()
    rounds.sender.step([completion, completion])
    assert rounds.news("ack", Delivered, "release", Trouble) == []
    other = Rounds()
    other.sender.step([Completion(request, Response(204))])
    assert other.news() == [("tend",)]
    assert (rounds.queue.stats().delivered, rounds.sender._in_flight.requests) == (1, 0)


def test_an_interrupt_while_a_request_begins_gives_its_events_back() -> None:
    """It goes on to whoever it is meant for."""
    rounds = Rounds()

    def interrupted(_request: Request) -> None:
        raise KeyboardInterrupt

    rounds.transport.start = interrupted  # type: ignore[assignment,method-assign] # a person's Ctrl-C
    rounds.put(*alone(b"1"))
    with pytest.raises(KeyboardInterrupt):
        rounds.step()
    assert rounds.news("release") == [("release", [b"1"], 0.625)]
    assert not rounds.sender.land([])


# -- the end


def test_landing_settles_what_came_back_and_begins_nothing() -> None:
    """It tells whether an answer is still waited for."""
    rounds = Rounds()
    rounds.put(*alone(b"1", b"2"))
    rounds.step()
    rounds.put(*alone(b"3"))
    rounds.news()
    assert rounds.sender.land(rounds.back())
    assert rounds.news() == []
    rounds.answer(b"1")
    assert rounds.sender.land(rounds.back())
    assert rounds.news() == [Delivered(UP, 1, 204, 0.0, 1), ("ack", [b"1"])]
    rounds.answer(b"2")
    assert not rounds.sender.land(rounds.back())
    assert rounds.news() == [Delivered(UP, 1, 204, 0.0, 1), ("ack", [b"2"])]


def test_who_abandons_notes_what_was_delivered_and_gives_back_the_rest_in_order() -> None:
    """At once, also what could not be noted a moment ago; and nothing counts as in flight any more."""
    rounds = Rounds()
    rounds.put(*alone(b"1", b"2", b"3"), *sharing(b"4", b"5"))
    rounds.put(*alone(b"6", url=DOWN))
    rounds.step()
    rounds.queue.failing = {"ack"}
    rounds.answer(b"1")
    rounds.step()
    rounds.queue.failing = set()
    rounds.news()
    rounds.sender.abandon()
    assert rounds.news() == [
        ("ack", [b"1"]),
        ("release", [b"4", b"5", b"2", b"3"], 0.0),
        ("release", [b"6"], 0.0),
    ]
    assert (rounds.sender._in_flight.requests, rounds.sender._in_flight.bytes) == (0, 0)
    assert rounds.queue.stats().in_flight == 0


def test_a_child_process_knows_nothing_of_its_parents() -> None:
    """No lane, no request, no deadline, no flush: it starts with periodic work as its parent did."""
    rounds = Rounds()
    rounds.put(*alone(b"1"))
    rounds.sender.end_by = 5.0
    rounds.step()
    rounds.sender.request_flush()
    rounds.transport.after_fork_in_child()
    rounds.queue.after_fork_in_child()
    rounds.sender.after_fork_in_child()
    rounds.news()
    rounds.put(*sharing(b"2"))
    assert rounds.step() == 1.0
    assert rounds.news() == [
        ("tend",), ("claim", UP, 400, MIB_16, [b"2"]), ("tend",),
    ]  # fmt: skip
    assert not rounds.sender.land([])
