"""What an HTTP door took and refused.  On the hot path: plain additions, which are handed over now and then."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from .folders import read_all
from .labels import Known, Projects

FLUSH_S: Final = 0.25
ACCEPT_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class _Row:
    """What a door took for one endpoint and project since the last flush."""

    __slots__ = ("body_bytes", "buckets", "elapsed_s", "events", "examined", "labels", "unfit")

    def __init__(self, labels: tuple[str, str]) -> None:
        self.labels = labels
        self.clear()

    def clear(self) -> None:
        self.events = self.body_bytes = self.examined = self.unfit = 0
        self.elapsed_s = 0.0
        self.buckets = [0] * (len(ACCEPT_BUCKETS_S) + 1)


class DoorMetrics:
    """What one process's HTTP door took and refused.  On one thread.

    Args:
        later: calls a function after so many seconds, as an event loop's ``call_later`` does; None: nothing is put off.
        registry: None for a process whose counters are shown by :func:`render`; else where they are registered.
        folder: what :meth:`refused_by_reason` adds up; None: this process's own.
    """

    def __init__(
        self, later: Callable[[float, Callable[[], None]], Any] | None = None, *,
        registry: CollectorRegistry | None = None, folder: str | None = None,
    ) -> None:  # fmt: skip
        self._later = later
        self._folder = folder
        self._due = False
        self._rows: dict[tuple[str, str], _Row] = {}
        self._news: dict[str, int] = {}
        self._endpoints, self._projects, self._reasons = Known(), Projects(), Known()
        both = ("endpoint", "project")
        self._events = Counter("eventpost_accepted_events", "Events that the relay took.", both, registry=registry)
        self._bytes = Counter("eventpost_accepted_bytes", "Bytes of their bodies.", both, registry=registry)
        self._examined = Counter(
            "eventpost_examined_events", "Of these, what was looked at field by field.", both, registry=registry
        )
        self._unfit = Counter(
            "eventpost_unfit_events", "Of those, what breaks the published schema.", both, registry=registry
        )
        self._seconds = Histogram(
            "eventpost_accept_seconds", "From a request's header to its stored event.", ("endpoint",),
            buckets=ACCEPT_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "eventpost_refused_requests", "Requests that the relay refused.", ("reason",), registry=registry
        )

    def accepted(
        self, endpoint: str, project: str, events: int, body_bytes: int, elapsed_s: float, *, fits: bool | None = None
    ) -> None:  # fmt: skip
        """Count what was stored; ``endpoint`` as it is shown, ``fits``: the published schema, None: nobody looked."""
        row = self._rows.get((endpoint, project))
        if row is None:
            row = self._row(endpoint, project)
        row.events += events
        row.body_bytes += body_bytes
        row.elapsed_s += elapsed_s
        if fits is not None:
            row.examined += events
            row.unfit += 0 if fits else events
        row.buckets[bisect_left(ACCEPT_BUCKETS_S, elapsed_s)] += 1
        if not self._due:
            self._schedule()

    def _row(self, endpoint: str, project: str) -> _Row:
        labels = (self._endpoints.value(endpoint), self._projects.value(project))
        row = self._rows.get(labels)
        if row is None:
            row = self._rows[labels] = _Row(labels)
        if (endpoint, project) == labels:  # what is not remembered by its own name is looked up each time
            self._rows[labels] = row
        return row

    def refused(self, reason: str) -> None:
        """Count a no."""
        shown = self._reasons.value(reason)
        self._news[shown] = self._news.get(shown, 0) + 1
        if not self._due:
            self._schedule()

    def _schedule(self) -> None:
        if self._later is None:
            self.flush()
        else:
            self._due = True
            self._later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Hand over what was counted since the last time."""
        self._due = False
        for row in self._rows.values():
            if not row.events:
                continue
            self._events.labels(*row.labels).inc(row.events)
            self._bytes.labels(*row.labels).inc(row.body_bytes)
            if row.examined:
                self._examined.labels(*row.labels).inc(row.examined)
                self._unfit.labels(*row.labels).inc(row.unfit)
            seconds = self._seconds.labels(row.labels[0])
            # Many observations at once, which its public face takes one by one.
            seconds._sum.inc(row.elapsed_s)  # noqa: SLF001 - as said
            for bucket, count in zip(seconds._buckets, row.buckets, strict=True):  # noqa: SLF001 - as said
                if count:
                    bucket.inc(count)
            row.clear()
        news, self._news = self._news, {}
        for reason, count in news.items():
            self._refused.labels(reason).inc(count)

    def refused_by_reason(self) -> dict[str, int]:
        """Return the refusals by reason, of all processes of the folder."""
        self.flush()
        families = read_all(self._folder) if self._folder is not None else self._refused.collect()
        return {
            sample.labels["reason"]: int(sample.value)
            for family in families if family.name == "eventpost_refused_requests"
            for sample in family.samples if sample.name.endswith("_total")
        }  # fmt: skip
