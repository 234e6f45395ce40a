"""Metrics for Prometheus: of one process, or of a relay's several processes as one.

prometheus-client keeps the counters.  Where ``PROMETHEUS_MULTIPROC_DIR`` was set before it was imported, they lie in
files of that folder, one for each process, and :func:`render` adds them up: whichever process answers shows the same.
Without that folder they are this process's own, in prometheus-client's registry, and shown as it always shows them.

Three kinds of figures:

* what a door took and refused (:class:`DoorMetrics`, in each worker);
* what the sender did (:class:`MetricsObserver`, an observer like any other, also of a plain ``EventDispatcher``);
* what lies in the folders (``journals``, read from the state that a relay's main process writes): the ledger, which is
  over all processes and restarts, depth and age of the queues, bytes, room on the disk.

A label's values are bounded: by an endpoint's URL as it is shown, a project's id, a reason.  Project ids come out of
bodies, which anybody may have written, so only what looks like one becomes a label, and of these the first hundred.

A door's counters are on the hot path.  They are plain additions; what they add up to is handed to prometheus-client
four times a second (``later``), at once where nothing calls back later.
"""

from __future__ import annotations

import glob
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from time import time
from typing import Any, Final
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY

from ..event import shown_url
from ..sender.primitives import RLock
from .signals import (
    Adopted,
    BreakerChanged,
    Buried,
    Damaged,
    Delivered,
    Dropped,
    Refused,
    Retrying,
    Signal,
    Trouble,
)

LABELS_MAX: Final = 100
OTHER: Final = "other"
FLUSH_S: Final = 0.25
ACCEPT_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
DELIVER_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BREAKER_STATES: Final = ("closed", "open", "half_open", "held")
_PROJECT: Final = re.compile(r"[A-Za-z0-9._-]{0,64}\Z")


class _Known:
    """The values of one label, so many and no more."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def value(self, text: str) -> str:
        """Return the text, or OTHER once there are too many."""
        if text not in self._values:
            if len(self._values) >= LABELS_MAX:
                return OTHER
            self._values.add(text)
        return text


class _Row:
    """What a door took for one endpoint and project since the last flush."""

    __slots__ = ("body_bytes", "buckets", "elapsed_s", "events", "labels")

    def __init__(self, labels: tuple[str, str]) -> None:
        self.labels = labels
        self.clear()

    def clear(self) -> None:
        self.events = self.body_bytes = 0
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
        self._endpoints, self._projects, self._reasons = _Known(), _Known(), _Known()
        both = ("endpoint", "project")
        self._events = Counter("eventpost_accepted_events", "Events that the relay took.", both, registry=registry)
        self._bytes = Counter("eventpost_accepted_bytes", "Bytes of their bodies.", both, registry=registry)
        self._seconds = Histogram(
            "eventpost_accept_seconds", "From a request's header to its stored event.", ("endpoint",),
            buckets=ACCEPT_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "eventpost_refused_requests", "Requests that the relay refused.", ("reason",), registry=registry
        )

    def accepted(self, endpoint: str, project: str, events: int, body_bytes: int, elapsed_s: float) -> None:
        """Count what was stored; ``endpoint`` as it is shown."""
        row = self._rows.get((endpoint, project))
        if row is None:
            row = self._row(endpoint, project)
        row.events += events
        row.body_bytes += body_bytes
        row.elapsed_s += elapsed_s
        row.buckets[bisect_left(ACCEPT_BUCKETS_S, elapsed_s)] += 1
        if not self._due:
            self._schedule()

    def _row(self, endpoint: str, project: str) -> _Row:
        shown = self._projects.value(project if _PROJECT.match(project) else OTHER)
        labels = (self._endpoints.value(endpoint), shown)
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
        families = _read_all(self._folder) if self._folder is not None else self._refused.collect()
        return {
            sample.labels["reason"]: int(sample.value)
            for family in families if family.name == "eventpost_refused_requests"
            for sample in family.samples if sample.name.endswith("_total")
        }  # fmt: skip


class _Sent:
    """The families of an observer; one set for each registry."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"eventpost_{name}", text, labels, registry=registry)

        self.delivered = counter("delivered_events", "Events that the endpoint took.", "endpoint")
        self.requests = counter("delivered_requests", "Requests that it answered with a yes.", "endpoint", "status")
        self.retried = counter("retried_events", "Events that went back to the queue.", "endpoint", "reason")
        self.dead = counter("dead_events", "Events that became dead letters.", "endpoint", "reason")
        self.dropped = counter("dropped_events", "Accepted events that were given up.", "reason")
        self.refused = counter("refused_events", "Events that a door of this process refused.", "reason")
        self.adopted = counter("adopted_events", "Events that were taken over from other processes.")
        self.damaged = counter("damaged_places", "Places on the disk that were not what was written.")
        self.troubles = counter("troubles", "What needs a person, or may soon.", "what")
        self.seconds = Histogram(
            "eventpost_deliver_seconds", "From a request's start to the endpoint's yes.", ("endpoint",),
            buckets=DELIVER_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.breaker = Gauge(
            "eventpost_breaker_state", "1 for the state that an endpoint's breaker is in.", ("endpoint", "state"),
            registry=registry, multiprocess_mode="mostrecent",
        )  # fmt: skip


        self.known: set[str] = set()
        """Endpoints whose breaker's state is shown."""


_sent: WeakKeyDictionary[CollectorRegistry, _Sent] = WeakKeyDictionary()
_unregistered: list[_Sent] = []


def _sent_of(registry: CollectorRegistry | None) -> _Sent:
    """Return the one set of families for a registry: two of one name would write over each other."""
    if registry is None:
        if not _unregistered:
            _unregistered.append(_Sent(None))
        return _unregistered[0]
    found = _sent.get(registry)
    if found is None:
        found = _sent[registry] = _Sent(registry)
    return found


class MetricsObserver:
    """An observer that counts; for any number of threads and dispatchers.

    ``registry``: where the metrics are registered; None where :func:`render` shows them.  Observers of one registry
    count together.
    """

    def __init__(self, registry: CollectorRegistry | None = REGISTRY) -> None:
        self._lock = RLock()
        with self._lock:
            self._sent = _sent_of(registry)
        self._endpoints, self._reasons = _Known(), _Known()
        self._shown: dict[str, str] = {}
        self._children: dict[tuple[str, ...], Any] = {}

    def __call__(self, signal: Signal) -> None:
        """Count a signal."""
        if type(signal) is Delivered:  # the one that comes with every request
            endpoint = self._shown.get(signal.lane) or self._endpoint(signal.lane)
            self._child("delivered", endpoint).inc(signal.events)
            self._child("requests", endpoint, str(signal.status)).inc()
            self._child("seconds", endpoint).observe(signal.elapsed_s)
            return
        match signal:
            case Retrying(lane, events, reason):
                self._child("retried", self._endpoint(lane), self._reasons.value(reason)).inc(events)
            case Buried(lane, events, reason):
                self._child("dead", self._endpoint(lane), self._reasons.value(reason)).inc(events)
            case Dropped(reason, events):
                self._child("dropped", self._reasons.value(reason)).inc(events)
            case Refused(reason, events):
                self._child("refused", self._reasons.value(reason)).inc(events)
            case BreakerChanged(lane, state):
                self._set(self._endpoint(lane), state)
            case Adopted(_, events):
                self._sent.adopted.inc(events)
            case Damaged():
                self._sent.damaged.inc()
            case Trouble(what):
                self._child("troubles", self._reasons.value(what)).inc()
            case _:
                pass

    def _child(self, name: str, *labels: str) -> Any:
        """Return one time series; to look it up costs prometheus-client more than to count."""
        key = (name, *labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = getattr(self._sent, name).labels(*labels)
        return found

    def _endpoint(self, lane: str) -> str:
        shown = self._shown.get(lane)
        if shown is None:
            with self._lock:
                if len(self._shown) >= 10 * LABELS_MAX:
                    self._shown.clear()
                shown = self._endpoints.value(shown_url(lane))
                if shown not in self._sent.known:
                    self._set(shown, "closed")
                self._shown[lane] = shown
        return shown

    def _set(self, endpoint: str, state: str) -> None:
        self._sent.known.add(endpoint)
        for one in BREAKER_STATES:
            self._child("breaker", endpoint, one).set(one == state)


# -- a relay's processes as one


def render(folder: str, state: Mapping[str, Any] | None) -> tuple[bytes, str]:
    """Return the metrics of all processes that share a folder, and their content type.

    ``state``: what the main process wrote last (``relay.state``); None: nothing yet.
    """
    registry = CollectorRegistry()
    registry.register(_Collected(lambda: _read_all(folder)))
    if state is not None:
        registry.register(_Collected(lambda: journals(state)))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collected:
    """Families as prometheus-client asks for them."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()


def _read_all(folder: str) -> Iterator[Metric]:
    """Yield what the processes of a folder have counted; a file that is half made just now is passed over."""
    files = sorted(glob.glob(os.path.join(glob.escape(folder), "*.db")))
    try:
        merged = _merged(files)
    except Exception:  # noqa: BLE001 - whatever a file is that a process began, or died over: the others count
        merged = _merged([one for one in files if _is_whole(one)])
    yield from merged


def _merged(files: list[str]) -> list[Metric]:
    return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]  # it has no types


def _is_whole(file: str) -> bool:
    try:
        _merged([file])
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def journals(state: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield what a relay's state says of the folders and of its processes."""
    yield from _of_processes(state)
    ledger = _Families("journal")
    lanes = _Families("journal", "endpoint")
    reasons = _Families("journal", "reason")
    for one in state.get("journals", ()):
        path = str(one["path"])
        ledger.count("journal_accepted_events", "Events that a folder took, ever.", one["accepted"], path)
        ledger.count("journal_delivered_events", "Events of a folder that were delivered.", one["delivered"], path)
        ledger.gauge("journal_queued_events", "Events that wait in a folder or are in flight.", one["queued"], path)
        ledger.gauge("journal_dead_events", "Dead letters in a folder.", one["dead"], path)
        ledger.gauge("journal_oldest_seconds", "Age of the oldest queued event.", one["oldest_age_s"] or 0, path)
        ledger.gauge("journal_bytes", "What a folder's segments take.", one["stored_bytes"], path)
        ledger.gauge("journal_dead_bytes", "What its dead letters take.", one["dead_bytes"], path)
        ledger.gauge("journal_closes", "1 if the ledger's sum closes.", int(bool(one["closes"])), path)
        ledger.gauge("journal_needs", "Things in a folder that need a person.", len(one.get("needs", ())), path)
        if one.get("bytes_max"):
            ledger.gauge("journal_bytes_max", "The bound on a folder's segments.", one["bytes_max"], path)
        if one.get("in_flight") is not None:
            ledger.gauge("in_flight_events", "Events whose requests are out.", one["in_flight"], path)
        with suppress(OSError):
            room = os.statvfs(path)
            ledger.gauge("disk_bytes", "Size of the file system of a folder.", room.f_frsize * room.f_blocks, path)
            ledger.gauge("disk_free_bytes", "What is free there.", room.f_frsize * room.f_bavail, path)
        for reason, events in one["dropped"].items():
            text = "Accepted events of a folder that were given up."
            reasons.count("journal_dropped_events", text, events, path, str(reason))
        for lane in one.get("lanes", ())[:LABELS_MAX]:
            where = (path, str(lane["url"]))
            lanes.gauge("queue_events", "Events that wait for an endpoint.", lane["queued"], *where)
            lanes.gauge("queue_bytes", "What their segments take.", lane["stored_bytes"], *where)
            lanes.gauge("queue_oldest_seconds", "Age of the oldest of them.", lane["oldest_age_s"] or 0, *where)
    for families in (ledger, reasons, lanes):
        yield from families.made.values()


def _of_processes(state: Mapping[str, Any]) -> Iterator[Metric]:
    workers = state.get("workers", ())
    started = GaugeMetricFamily("eventpost_relay_start_time_seconds", "When the relay began, since the epoch.")
    started.add_metric((), float(state.get("started_at", 0)))
    age = GaugeMetricFamily("eventpost_state_age_seconds", "Age of what the figures of folders were read from.")
    age.add_metric((), max(0.0, time() - float(state.get("at", 0))))
    running = GaugeMetricFamily("eventpost_workers", "Workers that the relay runs.")
    running.add_metric((), len(workers))
    restarts = CounterMetricFamily("eventpost_worker_restarts", "Workers that were started again.")
    restarts.add_metric((), sum(int(one.get("restarts", 0)) for one in workers))
    yield from (started, age, running, restarts)


class _Families:
    """Families with the same labels, made as they are needed."""

    def __init__(self, *labels: str) -> None:
        self._labels = labels
        self.made: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def count(self, name: str, text: str, value: float, *labels: str) -> None:
        self._add(CounterMetricFamily, name, text, value, labels)

    def gauge(self, name: str, text: str, value: float, *labels: str) -> None:
        self._add(GaugeMetricFamily, name, text, value, labels)

    def _add(
        self, kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str, value: float,
        labels: tuple[str, ...],
    ) -> None:  # fmt: skip
        family = self.made.get(name)
        if family is None:
            family = self.made[name] = kind(f"eventpost_{name}", text, labels=self._labels)
        family.add_metric(labels, float(value))
