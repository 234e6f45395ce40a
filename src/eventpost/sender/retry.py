"""What an answer means.  Pure: values in, a verdict out; time and chance are arguments.

The table (``judge`` follows it from top to bottom):

==============================  =====================================================================================
answer                          verdict
==============================  =====================================================================================
2xx                             Delivered (204 is expected; the others are counted by their status)
408, 425, 429, 5xx, no answer   RetryLater: exponential, additive jitter, ``Retry-After`` as the minimum
413                             TooLarge: a shared batch is halved by bytes; a single event is dead
400, 422, other 4xx             Rejected: a shared batch is bisected until the bad event stands alone, which is dead
401, 403, 404, 405, redirects   Hold: the endpoint is misconfigured; probe it, tell somebody, lose nothing
407                             Hold: the proxy is; no event was ever the reason for it
a failed certificate check      Hold
not sent from a test run        Hold
not on an allow-list            Hold
==============================  =====================================================================================

Guards, applied by the sender with what it remembers of the lane (:class:`History`):

* After ``refusals_in_a_row_max`` refusals of single events with no 2xx between, the endpoint itself is suspect (a proxy
  that answers 400 to everything): Hold, and nothing more is buried.
* A batch that got 5xx ``server_error_max`` times while the endpoint took others is Rejected as ``server_error``:
  bisected, and alone and still 5xx, dead.  Only answers count: no number of missing ones makes a 5xx the last.
* A batch that failed that often, whatever else was taken, is tried in halves: one event in it may make the endpoint
  fail or hang.  No answer never kills an event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from ..transports.protocol import Response, TransportError

_HOLD_STATUSES: Final = frozenset({401, 403, 404, 405, 407})
_LATER_STATUSES: Final = frozenset({408, 425, 429})
_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
UNSENT_KINDS: Final = frozenset({"dns", "connect", "tls", "closed", "test_run", "not_allowed"})
_HOLD_KINDS: Final = {"tls": "certificate", "test_run": "test_run", "not_allowed": "not_allowed"}


@dataclass(frozen=True, slots=True)  # and no tuple: verdicts of two kinds are never equal
class Delivered:
    """The endpoint has it."""

    status: int


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Try again; not before ``delay_min_s`` seconds.

    ``blames_event``: what was sent may itself be the cause.  ``split``: try its halves, to find out.
    """

    reason: str
    delay_min_s: float = 0.0
    status: int = 0
    blames_event: bool = False
    split: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """The endpoint works and does not want this body."""

    reason: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The endpoint works and this body is too large for it."""

    status: int = 413


@dataclass(frozen=True, slots=True)
class Hold:
    """The endpoint is misconfigured: nothing is lost, nothing is sent but a probe now and then."""

    reason: str
    status: int = 0


Verdict = Delivered | RetryLater | Rejected | TooLarge | Hold


class History(NamedTuple):
    """What the sender remembers when an answer comes in.

    ``attempts``: the largest number of claims among the body's events.  ``refusals_in_a_row``: single events of this
    lane that were refused since its last 2xx.  ``server_errors``: how often these events got a 5xx with deliveries of
    others between any two of their failures, this time included; ``took_others``: also before this one.
    """

    attempts: int = 1
    refusals_in_a_row: int = 0
    server_errors: int = 0
    took_others: bool = False


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again.  All times in seconds.

    Args:
        first_s: delay before the first retry of an event.
        multiplier: each further delay is this many times the one before.
        max_s: bound on the delay, without jitter and ``Retry-After``.
        jitter: up to this fraction of the delay is added, at random.
        retry_after_cap_s: a larger ``Retry-After`` counts as this much.
        breaker_failures: so many failures in a row, and the endpoint is left alone but for probes.
        breaker_first_s: until the first probe; doubles with each probe that fails.
        breaker_max_s: bound on the time between probes, without jitter.
        server_error_max: see the module's guards.
        refusals_in_a_row_max: see the module's guards.

    Raises ValueError naming the field for a value that makes no sense.
    """

    first_s: float = 0.5
    multiplier: float = 2.0
    max_s: float = 60.0
    jitter: float = 0.5
    retry_after_cap_s: float = 3600.0
    breaker_failures: int = 5
    breaker_first_s: float = 1.0
    breaker_max_s: float = 30.0
    server_error_max: int = 5
    refusals_in_a_row_max: int = 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"RetryPolicy: {field.name} must be a number, not {type(value).__name__}")
            if not 0 <= value < float("inf"):
                raise ValueError(f"RetryPolicy: {field.name} must be 0 or more, and finite, not {value!r}")
        for name in ("first_s", "breaker_first_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"RetryPolicy: {name} must be more than 0 seconds: retries would spin")
        for name in ("multiplier", "breaker_failures", "server_error_max", "refusals_in_a_row_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"RetryPolicy: {name} must be at least 1, not {getattr(self, name)!r}")
        for low, high in (("first_s", "max_s"), ("breaker_first_s", "breaker_max_s")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"RetryPolicy: {low} must not exceed {high}")

    def delay_s(self, attempts: int, chance: float) -> float:
        """Return the seconds until the next try after ``attempts`` of them; ``chance`` is a random in [0, 1)."""
        return backoff_s(self.first_s, self.multiplier, self.max_s, attempts - 1) * (1.0 + self.jitter * chance)


def backoff_s(first_s: float, multiplier: float, max_s: float, steps: int) -> float:
    """Return ``first_s`` multiplied ``steps`` times, at most ``max_s``; never overflows."""
    delay_s = first_s
    for _ in range(min(steps, 1100)):  # beyond the exponents of a float nothing changes any more
        if delay_s >= max_s or multiplier == 1.0:
            break
        delay_s *= multiplier
    return min(delay_s, max_s)


def parse_retry_after(value: str | None, *, now_epoch_s: float, cap_s: float) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for (RFC 9110, 10.2.3: seconds or a date), at most ``cap_s``.

    None for no header, and for one that makes no sense.  A date in the past is 0.
    """
    if value is None:
        return None
    text = value.strip()
    if _DECIMAL.fullmatch(text):
        return min(float(text), cap_s)
    try:
        when = parsedate_to_datetime(text)
        # Without a zone (asctime's form, "-0000") it is GMT like every date of HTTP, and not this machine's time.
        when_s = (when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None
    return min(max(0.0, when_s - now_epoch_s), cap_s)


def blames_event(outcome: Response | TransportError) -> bool:
    """Return whether what was sent may itself be the cause of this failure: a 5xx, or no answer to what was sent."""
    if isinstance(outcome, TransportError):
        return outcome.kind not in UNSENT_KINDS
    return 500 <= outcome.status < 600


def judge(
    policy: RetryPolicy, outcome: Response | TransportError, history: History, *, alone: bool, now_epoch_s: float
) -> Verdict:
    """Return what to do with a body that was answered so.  ``alone``: it carries a single event."""
    blamed = blames_event(outcome)
    split = blamed and not alone and history.attempts >= policy.server_error_max
    if isinstance(outcome, TransportError):
        if outcome.kind in _HOLD_KINDS:
            return Hold(_HOLD_KINDS[outcome.kind])
        return RetryLater(outcome.kind, 0.0, 0, blamed, split)
    status = outcome.status
    reason = f"http_{status}"
    if 200 <= status < 300:
        return Delivered(status)
    if 300 <= status < 400 or status in _HOLD_STATUSES:
        return Hold(reason, status)
    if 400 <= status < 500 and status not in _LATER_STATUSES:
        if history.refusals_in_a_row >= policy.refusals_in_a_row_max:
            return Hold("refuses_everything", status)
        return TooLarge(status) if status == 413 else Rejected(reason, status)
    if blamed and history.took_others and history.server_errors >= policy.server_error_max:
        return Rejected("server_error", status)
    wait_s = parse_retry_after(outcome.retry_after, now_epoch_s=now_epoch_s, cap_s=policy.retry_after_cap_s)
    return RetryLater(reason, wait_s or 0.0, status, blamed, split)
