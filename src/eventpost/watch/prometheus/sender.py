"""What a sender did: an observer that counts signals."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.registry import REGISTRY

from ...event import shown_url
from ...sender.primitives import RLock
from ..signals import (
    Adopted,
    BreakerChanged,
    Buried,
    Damaged,
    Delivered,
    Dropped,
    FlowedBack,
    Refused,
    Retrying,
    Signal,
    Spilling,
    Trouble,
)
from .labels import LABELS_MAX, Known, Projects

DELIVER_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BREAKER_STATES: Final = ("closed", "open", "half_open", "held")


class _Sent:
    """The families of an observer; one set for each registry."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"eventpost_{name}", text, labels, registry=registry)

        self.delivered = counter("delivered_events", "Events that the endpoint took.", "endpoint", "project")
        self.requests = counter("delivered_requests", "Requests that it answered with a yes.", "endpoint", "status")
        self.retried = counter("retried_events", "Events that went back to the queue.", "endpoint", "reason")
        self.dead = counter("dead_events", "Events that became dead letters.", "endpoint", "project", "reason")
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
        self.spilling = Gauge(
            "eventpost_spilling", "Processes whose events go to their spill, the shared queue's server being away.",
            registry=registry, multiprocess_mode="livesum",
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
        self._endpoints, self._projects, self._reasons = Known(), Projects(), Known()
        self._shown: dict[str, str] = {}
        self._children: dict[tuple[str, ...], Any] = {}

    def __call__(self, signal: Signal) -> None:
        """Count a signal."""
        if type(signal) is Delivered:  # the one that comes with every request
            endpoint = self._shown.get(signal.lane) or self._endpoint(signal.lane)
            self._child("delivered", endpoint, self._projects.value(signal.project)).inc(signal.events)
            self._child("requests", endpoint, str(signal.status)).inc()
            self._child("seconds", endpoint).observe(signal.elapsed_s)
            return
        match signal:
            case Retrying(lane, events, reason):
                self._child("retried", self._endpoint(lane), self._reasons.value(reason)).inc(events)
            case Buried(lane, events, reason, _, project):
                labels = (self._endpoint(lane), self._projects.value(project), self._reasons.value(reason))
                self._child("dead", *labels).inc(events)
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
            case Spilling():
                self._sent.spilling.set(1)
            case FlowedBack():
                self._sent.spilling.set(0)
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
