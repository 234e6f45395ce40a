r"""When to stop asking an endpoint, when to try it once, and how many requests it may have in flight.  Pure.

::

             failures in a row, or a closed tap             time is up, one probe
    closed -------------------------------------> open --------------------------> half_open
      ^  \                                         ^                                 |    |
      |   \ misconfigured                          |  the probe failed               |    |
      |    `-------------------------> held <------+---------------------------------'    |
      |                                  |  a probe now and then                          |
      `----------------------------------+------------------------------------------------'
                                            any 2xx

``held`` is ``open`` for an endpoint that somebody has to look at.  A probe is one request with one event.  Any 2xx,
also a late one of a request from before, closes the breaker, but not before a ``Retry-After`` is over: an endpoint that
limits its rate takes some requests of a round and refuses the others.  Late failures of requests from before change
nothing: only the probe's own failure doubles the time until the next.

In flight: ``limit`` starts at ``START_LIMIT`` and doubles after as many deliveries as it allows, while a backlog
stands; it falls back when the lane has run dry, so that hundreds of quiet processes hold few connections.  After a
recovery it starts at 1 and doubles with each delivery until it is where a new endpoint starts.  A 429 halves it.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from ..watch.signals import BreakerState
from .retry import RetryPolicy, backoff_s

START_LIMIT: Final = 4


class Change(NamedTuple):
    """The breaker is in another state now.  ``retry_in_s``: seconds until the next probe."""

    state: BreakerState
    reason: str
    retry_in_s: float = 0.0


class Breaker:
    """The breaker of one endpoint.  ``now`` is monotonic seconds, ``chance`` a random in [0, 1)."""

    __slots__ = (
        "_asked_until",
        "_delivered",
        "_failures",
        "_policy",
        "_probing",
        "_tries",
        "limit",
        "limit_max",
        "probe_at",
        "reason",
        "state",
    )

    def __init__(self, policy: RetryPolicy, limit_max: int) -> None:
        self._policy = policy
        self.limit_max = limit_max
        self.limit = min(START_LIMIT, limit_max)
        self.state: BreakerState = "closed"
        self.reason = ""
        self.probe_at = 0.0
        self._asked_until = -inf
        self._failures = 0
        self._tries = 0
        self._delivered = 0
        self._probing = False

    def room(self, now: float, in_flight: int) -> int:
        """Return how many more requests may be started now; with :meth:`probing_next`, 1 at most."""
        if self.state == "closed":
            return max(0, self.limit - in_flight)
        return 1 if not self._probing and now >= self.probe_at else 0

    @property
    def blocked(self) -> bool:
        """Whether the endpoint is left alone but for probes."""
        return self.state != "closed"

    @property
    def probe_due_at(self) -> float | None:
        """When the next probe may start, in monotonic seconds; None: closed, or one is under way."""
        return None if self.state == "closed" or self._probing else self.probe_at

    def start_probe(self) -> Change | None:
        """Note that the one request which :meth:`room` allowed is a probe."""
        self._probing = True
        if self.state == "held":  # it stays what it is until somebody has repaired it
            return None
        self.state = "half_open"
        return Change("half_open", self.reason)

    def probe_vanished(self) -> None:
        """Note that the probe ended without a word on the endpoint."""
        self._probing = False
        if self.state == "half_open":
            self.state = "open"

    def delivered(self, now: float, *, backlog: bool, probe: bool = False) -> Change | None:
        """Note a 2xx."""
        self._failures = 0
        if now < self._asked_until:
            if probe:
                self.probe_vanished()
            return None
        if self.state != "closed":
            self.state, self.reason = "closed", ""
            self._probing = False
            self._tries = 0
            self.limit = 1
            self._delivered = 0
            return Change("closed", "recovered")
        self._delivered += 1
        ramping = self.limit < min(START_LIMIT, self.limit_max)
        if ramping or (backlog and self._delivered >= self.limit):
            self.limit = min(self.limit * 2, self.limit_max)
            self._delivered = 0
        return None

    def answered(self) -> None:
        """Note a refusal of what was sent: the endpoint works."""
        self._failures = 0

    def ran_dry(self) -> None:
        """Note that the lane has nothing to send and nothing in flight."""
        if self.state == "closed" and self.limit > START_LIMIT:
            self.limit = min(START_LIMIT, self.limit_max)
            self._delivered = 0

    def failed(
        self, now: float, reason: str, chance: float, *, probe: bool, wait_s: float = 0.0, throttled: bool = False
    ) -> Change | None:
        """Note a failure.  ``wait_s``: the endpoint asked to be left alone so long.  ``throttled``: it was a 429."""
        self._failures += 1
        if wait_s:
            self._asked_until = max(self._asked_until, now + wait_s)
        if probe:
            self._probing = False
            return self._open("held" if self.state == "held" else "open", now, reason, chance, wait_s)
        if self.state != "closed":
            self.probe_at = max(self.probe_at, self._asked_until)
            return None
        if throttled:
            self.limit = max(1, self.limit // 2)
            self._delivered = 0
        if wait_s or self._failures >= self._policy.breaker_failures:
            return self._open("open", now, reason, chance, wait_s)
        return None

    def hold(self, now: float, reason: str, chance: float, *, probe: bool) -> Change | None:
        """Note that the endpoint is misconfigured."""
        if probe:
            self._probing = False
        elif self.state == "held" and self.reason == reason:
            return None
        return self._open("held", now, reason, chance, 0.0)

    def _open(self, state: BreakerState, now: float, reason: str, chance: float, wait_s: float) -> Change:
        policy = self._policy
        pause_s = backoff_s(policy.breaker_first_s, 2.0, policy.breaker_max_s, self._tries)
        pause_s = max(pause_s * (1.0 + policy.jitter * chance), wait_s)
        if now + pause_s < self._asked_until:  # by another answer than this one
            pause_s = self._asked_until - now
        self._tries += 1
        self.probe_at = now + pause_s
        self.state, self.reason = state, reason
        return Change(state, reason, pause_s)
