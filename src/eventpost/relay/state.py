"""What the main process knows, as plain values: written by it twice a second, read by every worker.

:class:`Monitor` listens to the senders' signals and keeps, of each endpoint, how it stands and how long its answers
take; of the whole relay a line of figures for each of the last ten minutes' seconds; and the last things that happened
that somebody on call may want to know.  ``state.json`` lies in the run_dir: private to the user, gone with the relay.
It names endpoints as pages do and holds no payload and no visitor id, as no signal does.

Latencies are kept as counts in buckets 8 % apart: what a quantile says is within 4 % of the truth, and costs the
sender's thread the same however many requests there are.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import log
from typing import Any, Final

import orjson

from ..clock import Clock, SystemClock
from ..event import shown_url
from ..queues.view import Status
from ..sender.primitives import RLock
from ..watch.signals import (
    BreakerChanged,
    BreakerState,
    Buried,
    Damaged,
    Delivered,
    Dropped,
    Refused,
    Retrying,
    Signal,
    Trouble,
)

STATE: Final = "state.json"
VERSION: Final = 1
SERIES: Final = ("at", "accepted_per_s", "delivered_per_s", "queued", "p50_s", "p99_s")
"""What stands in each row of the series; the latencies are None for a second without an answer."""
SERIES_ROWS: Final = 600
WINDOW_S: Final = 60
HAPPENED_ROWS: Final = 50
AGAIN_S: Final = 60.0
ENDPOINTS_MAX: Final = 200
_SHORTEST_S: Final = 1e-4
_RATIO: Final = 1.08

Buckets = Counter[int]


def bucket_of(elapsed_s: float) -> int:
    """Return the bucket of a duration."""
    return 0 if elapsed_s <= _SHORTEST_S else 1 + int(log(elapsed_s / _SHORTEST_S) / log(_RATIO))


def quantile_s(buckets: Buckets, share: float) -> float | None:
    """Return the duration that ``share`` of those counted do not exceed; None if there are none."""
    left = share * sum(buckets.values())
    found = None
    for bucket in sorted(buckets):
        found = _SHORTEST_S * _RATIO ** (bucket - 0.5)
        left -= buckets[bucket]
        if left <= 0:
            break
    return found


@dataclass(slots=True)
class _Endpoint:
    """One endpoint's standing.  ``latencies``: the buckets of each of the last seconds, by their epoch second."""

    url: str
    since: float
    breaker: BreakerState = "closed"
    reason: str = ""
    detail: str = ""
    probe_at: float | None = None
    status: int = 0
    answered_at: float | None = None
    requests: int = 0
    delivered: int = 0
    retried: int = 0
    dead: int = 0
    latencies: deque[tuple[int, Buckets]] = field(default_factory=lambda: deque(maxlen=WINDOW_S))

    def count(self, second: int, elapsed_s: float) -> None:
        if not self.latencies or self.latencies[-1][0] != second:
            self.latencies.append((second, Counter()))
        self.latencies[-1][1][bucket_of(elapsed_s)] += 1

    def as_dict(self, now: float, second: int) -> dict[str, Any]:
        recent: Buckets = Counter()
        for at, buckets in self.latencies:
            if at > second - WINDOW_S:
                recent.update(buckets)
        return {
            "endpoint": self.url, "breaker": self.breaker, "reason": self.reason, "detail": self.detail,
            "since": self.since, "retry_in_s": None if self.probe_at is None else max(0.0, self.probe_at - now),
            "status": self.status, "answered_at": self.answered_at, "requests": self.requests,
            "delivered": self.delivered, "retried": self.retried, "dead": self.dead,
            "p50_s": quantile_s(recent, 0.5), "p99_s": quantile_s(recent, 0.99),
        }  # fmt: skip


class Monitor:
    """An observer that remembers.  For any number of threads; ``clock``: for tests."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._lock = RLock()
        self._endpoints: dict[str, _Endpoint] = {}
        self._happened: deque[dict[str, Any]] = deque(maxlen=HAPPENED_ROWS)
        self._series: deque[tuple[float | None, ...]] = deque(maxlen=SERIES_ROWS)
        self._latencies: Buckets = Counter()
        self._delivered = 0
        self._sampled: tuple[float, int] | None = None

    def __call__(self, signal: Signal) -> None:
        """Note a signal."""
        with self._lock:
            match signal:
                case Delivered():
                    self._note_delivered(signal)
                case Retrying(lane, events, _, _, status):
                    endpoint = self._endpoint(lane)
                    endpoint.retried += events
                    endpoint.status = status
                case Buried(lane, events, reason, status):
                    endpoint = self._endpoint(lane)
                    endpoint.dead += events
                    endpoint.status = status
                    self._happen("dead", reason, where=endpoint.url, events=events)
                case BreakerChanged():
                    self._note_breaker(signal)
                case Dropped(reason, events, detail):
                    self._happen("dropped", reason, detail=detail, events=events)
                case Refused(reason, events, detail):
                    self._happen("refused", reason, detail=detail, events=events)
                case Damaged(path, _, length_bytes, why):
                    self._happen("damaged", why, where=path, detail=f"{length_bytes} bytes set aside")
                case Trouble(what, detail):
                    self._happen("trouble", what, detail=detail)
                case _:
                    pass

    def _endpoint(self, lane: str) -> _Endpoint:
        found = self._endpoints.get(lane)
        if found is None:
            if len(self._endpoints) >= ENDPOINTS_MAX:
                del self._endpoints[next(iter(self._endpoints))]
            found = self._endpoints[lane] = _Endpoint(shown_url(lane), self._clock.time())
        return found

    def _note_delivered(self, signal: Delivered) -> None:
        now = self._clock.time()
        endpoint = self._endpoint(signal.lane)
        endpoint.requests += 1
        endpoint.delivered += signal.events
        endpoint.status, endpoint.answered_at = signal.status, now
        endpoint.count(int(now), signal.elapsed_s)
        self._delivered += signal.events
        self._latencies[bucket_of(signal.elapsed_s)] += 1

    def _note_breaker(self, signal: BreakerChanged) -> None:
        endpoint = self._endpoint(signal.lane)
        probing = "half_open" in (signal.state, endpoint.breaker)
        if not (probing and signal.state != "closed"):  # a probe that failed: it is as it was before
            endpoint.since = self._clock.time()
            self._happen(signal.state, signal.reason, where=endpoint.url, detail=signal.detail)
        endpoint.breaker = signal.state
        endpoint.reason = "" if signal.state == "closed" else signal.reason
        endpoint.detail = signal.detail
        waits = signal.state in ("open", "held")
        endpoint.probe_at = self._clock.monotonic() + signal.retry_in_s if waits else None

    def _happen(self, what: str, reason: str, *, where: str = "", detail: str = "", events: int = 0) -> None:
        """Note something for people; what repeats itself within a minute is one line with a count."""
        now = self._clock.time()
        kind = {"what": what, "reason": reason, "where": where}
        for row in self._happened:
            if row["at"] > now - AGAIN_S and kind.items() <= row.items():
                self._happened.remove(row)
                break
        else:
            row = {"first_at": now, "times": 0, "events": 0, **kind}
        row |= {"at": now, "times": row["times"] + 1, "events": row["events"] + events, "detail": detail}
        self._happened.append(row)

    def sample(self, accepted: int, queued: int) -> None:
        """Add a row to the series: once a second, with the sums over all folders."""
        with self._lock:
            now = self._clock.monotonic()
            before, self._sampled = self._sampled, (now, accepted)
            if before is not None and now > before[0]:
                elapsed_s = now - before[0]
                self._series.append((
                    round(self._clock.time(), 1),
                    round(max(0, accepted - before[1]) / elapsed_s, 1),
                    round(self._delivered / elapsed_s, 1),
                    queued,
                    _rounded(quantile_s(self._latencies, 0.5)),
                    _rounded(quantile_s(self._latencies, 0.99)),
                ))  # fmt: skip
            self._delivered = 0
            self._latencies = Counter()

    def as_dict(self) -> dict[str, Any]:
        """Return ``endpoints``, ``series`` and ``happened``, the newest last, for the state."""
        with self._lock:
            now, second = self._clock.monotonic(), int(self._clock.time())
            endpoints = [one.as_dict(now, second) for one in self._endpoints.values()]
            return {
                "endpoints": sorted(endpoints, key=lambda one: str(one["endpoint"])),
                "series": [list(row) for row in self._series],
                "happened": [dict(row) for row in self._happened],
            }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.3g}")


def journal_as_dict(
    status: Status, *, durability: str, bytes_max: int | None, in_flight: int | None = None
) -> dict[str, Any]:
    """Return one queue's part of the state.

    ``bytes_max``: its bound, None where it is another process's to know.  ``in_flight``: events whose requests are out
    just now, which a folder counts as queued; None: not known.
    """
    known = status.in_flight if status.in_flight is not None else in_flight
    more = {"durability": durability, "bytes_max": bytes_max, "in_flight": known}
    return status.values | more | {"kind": status.kind, "path": status.place, "needs": status.needs}


def write_state(run_dir: str, state: Mapping[str, Any]) -> None:
    """Put the state in the place of the last one.  Raises OSError."""
    temporary = os.path.join(run_dir, f".{STATE}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        data = memoryview(orjson.dumps({"version": VERSION, **state}))
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
    os.replace(temporary, os.path.join(run_dir, STATE))


def read_state(run_dir: str) -> dict[str, Any] | None:
    """Return the state; None: there is none yet, or none that this release understands.  Raises nothing."""
    with suppress(OSError, ValueError):
        with open(os.path.join(run_dir, STATE), "rb") as file:
            found = orjson.loads(file.read())
        if isinstance(found, dict) and found.get("version") == VERSION:
            return found
    return None
