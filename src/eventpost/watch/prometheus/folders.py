"""A relay's processes as one: their counters added up, and what its main process knows of the queues.

A journal's figures are its folder's, those of a queue that machines share the whole fleet's: each relay of the fleet
tells the same of it, so of several relays one asks for the largest, not for the sum.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from time import time
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from .labels import LABELS_MAX


def render(folder: str, state: Mapping[str, Any] | None) -> tuple[bytes, str]:
    """Return the metrics of all processes that share a folder, and their content type.

    ``state``: what the main process wrote last (``relay.state``); None: nothing yet.
    """
    registry = CollectorRegistry()
    registry.register(_Collected(lambda: read_all(folder)))
    if state is not None:
        registry.register(_Collected(lambda: journals(state)))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collected:
    """Families as prometheus-client asks for them."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()


def read_all(folder: str) -> Iterator[Metric]:
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
    shards = _Families("journal", "part")
    members = _Families("journal")
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
            if lane.get("stored_bytes") is not None:
                lanes.gauge("queue_bytes", "What their segments take.", lane["stored_bytes"], *where)
            lanes.gauge("queue_oldest_seconds", "Age of the oldest of them.", lane["oldest_age_s"] or 0, *where)
        _of_parts(one, path, shards, members)
    for families in (ledger, reasons, lanes, shards, members):
        yield from families.made.values()


def _of_parts(one: Mapping[str, Any], path: str, shards: _Families, members: _Families) -> None:
    """Add what only a queue has that machines share: its parts, and who holds what."""
    for shard in one.get("shards", ())[:LABELS_MAX]:
        where = (path, str(shard["number"]))
        shards.gauge("part_queued_events", "Events of a part that nobody has claimed.", shard["queued"], *where)
        shards.gauge("part_in_flight_events", "Events of a part that a sender holds.", shard["in_flight"], *where)
        shards.gauge("part_oldest_seconds", "Age of a part's oldest event.", shard["oldest_age_s"] or 0, *where)
        shards.gauge("part_bytes", "What a part stores.", shard["stored_bytes"], *where)
        shards.gauge("part_up", "1 if a part's server answers.", int(not shard["trouble"]), *where)
    if "members" not in one:
        return
    holding = [member for member in one["members"] if member["entries_held"]]
    members.gauge("holders", "Senders that hold something.", len(holding), path)
    slowest = max((member["idle_s"] for member in holding), default=0)
    members.gauge("slowest_holder_seconds", "How long ago the slowest of them asked the server.", slowest, path)


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
