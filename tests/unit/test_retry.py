"""The policy table, row by row, and its guards."""

import time
from datetime import datetime, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventpost.sender.retry import (
    Delivered,
    History,
    Hold,
    Rejected,
    RetryLater,
    RetryPolicy,
    TooLarge,
    Verdict,
    backoff_s,
    blames_event,
    judge,
    parse_retry_after,
)
from eventpost.transports.protocol import Response, TransportError

NOW = 1_700_000_000.0
POLICY = RetryPolicy()
NOTHING = History()


def judged(
    outcome: int | str | Response, *, alone: bool = True, history: History = NOTHING, policy: RetryPolicy = POLICY
) -> Verdict:
    """Judge a status, a kind of transport error, or a response."""
    if isinstance(outcome, int):
        outcome = Response(outcome)
    answer = TransportError(outcome, "") if isinstance(outcome, str) else outcome  # type: ignore[arg-type]
    return judge(policy, answer, history, alone=alone, now_epoch_s=NOW)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    """204 is expected, the others are counted by their status."""
    assert judged(status) == Delivered(status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 511, 599, 0, 100, 199, 600, 999])
@pytest.mark.parametrize("alone", [True, False])
def test_a_failure_of_the_moment_is_for_later(status: int, alone: bool) -> None:
    """Also what is no status at all; whether the body is one event or many."""
    verdict = judged(status, alone=alone)
    assert isinstance(verdict, RetryLater)
    assert (verdict.reason, verdict.status) == (f"http_{status}", status)
    assert (verdict.delay_min_s, verdict.blames_event, verdict.split) == (0.0, 500 <= status <= 599, False)


@pytest.mark.parametrize("kind", ["dns", "connect", "timeout", "reset", "protocol", "dispatcher", "closed", "other"])
def test_no_answer_is_for_later(kind: str) -> None:
    """Whatever happened on the way; only what was sent can itself be the cause."""
    sent = kind not in {"dns", "connect", "closed"}
    assert judged(kind) == RetryLater(kind, blames_event=sent)


def test_413_splits() -> None:
    """Too large is said apart from refused: it is halved by bytes."""
    assert judged(413) == judged(413, alone=False) == TooLarge(413)


@pytest.mark.parametrize("status", [400, 402, 406, 409, 410, 411, 415, 418, 422, 431, 451, 499])
def test_other_4xx_refuse_the_body(status: int) -> None:
    """400, 422 and the rest of 4xx are about what was sent."""
    assert judged(status) == judged(status, alone=False) == Rejected(f"http_{status}", status)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407, 300, 301, 302, 303, 304, 307, 308])
def test_a_misconfigured_endpoint_is_held(status: int) -> None:
    """It may refuse everything for a week: nothing is lost."""
    assert judged(status) == judged(status, alone=False) == Hold(f"http_{status}", status)


def test_verdicts_of_two_kinds_are_never_equal() -> None:
    """Else a test, or a sender, could take "dead" for "held"."""
    assert Rejected("http_401", 401) != Hold("http_401", 401)
    assert Delivered(413) != TooLarge(413)


@pytest.mark.parametrize(
    ("kind", "reason"), [("tls", "certificate"), ("test_run", "test_run"), ("not_allowed", "not_allowed")]
)
def test_what_somebody_has_to_allow_or_repair_is_held(kind: str, reason: str) -> None:
    """A failed certificate check is, like a 401; so is what may not be sent from here."""
    for alone in (True, False):
        assert judged(kind, alone=alone) == Hold(reason)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_after_twenty_refusals_in_a_row_the_endpoint_is_suspect(status: int) -> None:
    """A proxy that answers 400 to everything must not bury everything: 20, then it is held."""
    assert not isinstance(judged(status, history=History(refusals_in_a_row=19)), Hold)
    for alone in (True, False):
        assert judged(status, alone=alone, history=History(refusals_in_a_row=20)) == Hold("refuses_everything", status)


def test_five_5xx_while_others_were_taken_point_at_the_batch() -> None:
    """It is bisected, and alone it is dead; without deliveries in between it is the endpoint's fault."""
    assert isinstance(judged(503, history=History(9, 0, 4, took_others=True)), RetryLater)
    assert isinstance(judged(503, history=History(9, 0, 50, took_others=False)), RetryLater)
    for alone in (True, False):
        assert judged(503, alone=alone, history=History(1, 0, 5, took_others=True)) == Rejected("server_error", 503)


def test_a_batch_that_keeps_failing_is_tried_in_halves() -> None:
    """One event in it may make the endpoint fail or hang; what was never sent is no evidence."""
    for outcome in (500, "reset", "timeout"):
        for attempts, alone, split in ((4, False, False), (5, False, True), (5, True, False), (99, False, True)):
            verdict = judged(outcome, alone=alone, history=History(attempts))  # type: ignore[arg-type]
            assert isinstance(verdict, RetryLater)
            assert verdict.split is split
    for outcome in (429, "connect", "dns"):
        assert judged(outcome, alone=False, history=History(99)) == judged(outcome)  # type: ignore[arg-type]


def test_no_answer_never_kills() -> None:
    """A single event without an answer is tried for ever."""
    assert isinstance(judged("reset", history=History(99, 0, 99, took_others=True)), RetryLater)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("9" * 400, 3600.0),
        (format_datetime(datetime.fromtimestamp(NOW + 90, timezone.utc), usegmt=True), 90.0),
        ("Tue, 14 Nov 2023 22:14:50 GMT", 90.0),
        ("Tuesday, 14-Nov-23 22:14:50 GMT", 90.0),
        ("Tue Nov 14 22:14:50 2023", 90.0),
        ("Tue, 14 Nov 2023 22:14:50 -0000", 90.0),
        ("Tue, 14 Nov 2023 23:14:50 +0100", 90.0),
        ("Tue, 14 Nov 2023 22:13:19 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("-1", None),
        ("", None),
        ("soon", None),
        ("1e9", None),
        ("inf", None),
        ("nan", None),
        ("0x10", None),
        ("٣", None),
        ("Thu, 99 Foo 2023 99:99:99 GMT", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds or an HTTP date (RFC 9110, 10.2.3), capped; nonsense is no wish."""
    parsed = parse_retry_after(value, now_epoch_s=NOW, cap_s=3600.0)
    assert parsed == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("value", ["Tue Nov 14 22:14:50 2023", "Tue, 14 Nov 2023 22:14:50 -0000"])
def test_a_date_without_a_zone_is_gmt(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dates of HTTP are GMT, whatever the time zone of this machine."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert parse_retry_after(value, now_epoch_s=NOW, cap_s=3600.0) == pytest.approx(90.0)
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=40))
def test_retry_after_never_raises(value: str) -> None:
    """A header is somebody else's text."""
    parsed = parse_retry_after(value, now_epoch_s=NOW, cap_s=3600.0)
    assert parsed is None or 0.0 <= parsed <= 3600.0


@pytest.mark.parametrize("status", [429, 503, 408, 502])
def test_retry_after_is_the_minimum(status: int) -> None:
    """Every answer that is for later may carry one."""
    verdict = judged(Response(status, retry_after="120"))
    assert isinstance(verdict, RetryLater)
    assert verdict.delay_min_s == 120.0


@pytest.mark.parametrize(("wish", "delay_s"), [("120", 30.0), ("29", 29.0), ("Fri, 31 Dec 9999 23:59:59 GMT", 30.0)])
def test_the_policy_bounds_what_an_endpoint_may_wish(wish: str, delay_s: float) -> None:
    """``retry_after_cap_s``: a larger Retry-After counts as this much; an hour if nothing is said; 0 hears none."""
    for cap_s, expected in ((30.0, delay_s), (0.0, 0.0)):
        verdict = judged(Response(503, retry_after=wish), policy=RetryPolicy(retry_after_cap_s=cap_s))
        assert isinstance(verdict, RetryLater)
        assert verdict.delay_min_s == expected
    verdict = judged(Response(503, retry_after="99999"))
    assert isinstance(verdict, RetryLater)
    assert verdict.delay_min_s == 3600.0


def test_delays_double_from_half_a_second_to_a_minute() -> None:
    """First retry after 0.5 s, doubling to 60 s; jitter only adds."""
    assert [POLICY.delay_s(attempts, 0.0) for attempts in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert POLICY.delay_s(10**9, 0.0) == 60
    assert POLICY.delay_s(1, 0.999) == pytest.approx(0.75, abs=0.001)


@pytest.mark.parametrize(("steps", "delay_s"), [(-1, 2.0), (0, 2.0), (1, 6.0), (2, 18.0), (3, 50.0), (10**12, 50.0)])
def test_backoff_multiplies(steps: int, delay_s: float) -> None:
    """As often as told, from the first delay to the bound; never, if the factor is one or the first is the bound."""
    assert backoff_s(2.0, 3.0, 50.0, steps) == delay_s
    assert backoff_s(2.0, 1.0, 50.0, steps) == 2.0
    assert backoff_s(2.0, 3.0, 2.0, steps) == 2.0


@given(
    st.floats(0.001, 100),
    st.floats(1, 10),
    st.floats(0.001, 1000),
    st.integers(-1, 10**6),
    st.floats(0, 1, exclude_max=True),
)
def test_backoff_is_bounded(first_s: float, multiplier: float, max_s: float, steps: int, chance: float) -> None:
    """Never more than its maximum, never less than its first, and no overflow."""
    assert min(first_s, max_s) <= backoff_s(first_s, multiplier, max_s, steps) <= max_s
    assert 0.5 <= POLICY.delay_s(steps, chance) <= 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_s": 0}, "first_s"),
        ({"first_s": -1}, "first_s"),
        ({"first_s": float("nan")}, "first_s"),
        ({"max_s": float("inf")}, "max_s"),
        ({"multiplier": 0.5}, "multiplier"),
        ({"first_s": 100.0}, "must not exceed max_s"),
        ({"breaker_first_s": 100.0}, "breaker_max_s"),
        ({"server_error_max": 0}, "server_error_max"),
        ({"refusals_in_a_row_max": 0}, "refusals_in_a_row_max"),
        ({"breaker_failures": 0}, "breaker_failures"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, float], message: str) -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**options)  # type: ignore[arg-type]


def test_a_policy_of_another_type_is_refused() -> None:
    """Text and booleans are no numbers."""
    for value in ("1", None, True):
        with pytest.raises(TypeError, match="first_s"):
            RetryPolicy(first_s=value)  # type: ignore[arg-type]


def test_the_least_and_the_most_that_makes_sense_is_taken() -> None:
    """One failure may open a breaker, a delay may stay as it is, and nothing need be random or awaited."""
    policy = RetryPolicy(
        first_s=3.0, max_s=3.0, multiplier=1, jitter=0, retry_after_cap_s=0, breaker_failures=1,
        breaker_first_s=2, breaker_max_s=2.0, server_error_max=1, refusals_in_a_row_max=1,
    )  # fmt: skip
    assert policy.delay_s(99, 0.9) == 3.0


def test_an_error_of_a_policy_names_the_type() -> None:
    """What was handed in is told by its type."""
    with pytest.raises(TypeError, match="first_s must be a number, not str"):
        RetryPolicy(first_s="1")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["dns", "connect", "tls", "closed", "test_run", "not_allowed"])
def test_what_was_never_sent_is_no_evidence(kind: str) -> None:
    """Nor is an answer that is not about what was sent."""
    assert not blames_event(TransportError(kind, ""))  # type: ignore[arg-type]
    assert [blames_event(Response(status)) for status in (499, 500, 599, 600)] == [False, True, True, False]
    assert blames_event(TransportError("reset", ""))


def test_what_a_verdict_says_if_nothing_is_said() -> None:
    """Not before at once, no status, nobody's fault."""
    assert RetryLater("x") == RetryLater("x", 0.0, 0, blames_event=False, split=False)
    assert (Rejected("x"), Hold("x"), TooLarge()) == (Rejected("x", 0), Hold("x", 0), TooLarge(413))
    assert History() == (1, 0, 0, False)
