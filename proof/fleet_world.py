"""One run of a fleet: applications, senders, an endpoint that remembers; what is measured of it, and what must hold.

The oracle knows nothing of the queue: what an application was told yes for stands in its witness, what arrived in the
endpoint.  The rest is compared with the two: the servers' sum, and the last report of every process that lived to the
end.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eventpost.errors import QueueError
from eventpost.queues.streams.inspect import Fleet, FleetStatus

from .kills_endpoint import Endpoint
from .kills_round import AROUND_S, Processes, ViolationError

WAIT_S: Final = 40.0
LOOK_S: Final = 0.05
LEASE_S: Final = 3.0
BACKOFF_S: Final = 5.0
"""How long a process may leave a server alone that is there again: longer than a lease here, so others take over."""


@dataclass
class Row:
    """What one fault cost.  ``recovery_s``: from its end until all that was acknowledged by then has arrived."""

    server: str
    acknowledged: int = 0
    refused: int = 0
    lost: int = 0
    vanished: int = 0
    twice: int = 0
    recovery_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, other: Row) -> None:
        """Add another run of the same."""
        self.acknowledged += other.acknowledged
        self.refused += other.refused
        self.lost += other.lost
        self.vanished += other.vanished
        self.twice += other.twice
        self.recovery_s = max(self.recovery_s, other.recovery_s)
        for what, number in other.counts.items():
            self.counts[what] = self.counts.get(what, 0) + number


class Witness:
    """What one application was told, read as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: dict[str, set[str]] = {"?": set(), "+": set(), "-": set()}
        self._at = 0

    def read(self) -> dict[str, set[str]]:
        """Return the uuids by what was said: offered ``?``, yes ``+``, no ``-``."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._at)
                news = file.read()
            whole = news[: news.rfind(b"\n") + 1]
            self._at += len(whole)
            for line in whole.decode().splitlines():
                self.told[line[0]].add(line[1:])
        return self.told


@dataclass
class Living:
    """A process of this run."""

    pid: int
    name: str
    witness: Witness | None
    report: Path
    stopped: bool = False

    def last_report(self) -> dict[str, Any]:
        """Return what it reported at its end."""
        told: dict[str, Any] = json.loads(self.report.read_text())
        return told


class World:
    """One run; everything in one folder."""

    def __init__(self, parent: Processes, folder: Path, queue: str, *, seed: int, **options: Any) -> None:
        self.parent = parent
        self.folder = folder
        self.queue = queue
        self.chance = random.Random(f"fleet {seed}")
        self.endpoint = Endpoint(random.Random(f"answers {seed}"))
        self.endpoint.collector.start()
        self.options: dict[str, Any] = {
            "queue": queue, "queue_name": "fleet", "shards": 2, "lease_s": LEASE_S, "queue_timeout_s": 1.0,
            "replicas": 0, "linger_s": 0.02, "batch_events_max": 20, "pause_s": 0.01, "skew_s": 0.0, "poison": 0.0,
            "one_name": False, "sender": "none", "close_s": 3.0, "url": self.endpoint.collector.url,
            "log": str(folder / "log"), **options,
        }  # fmt: skip
        self.fleet = Fleet(queue, name=self.options["queue_name"])
        self.writers: list[Living] = []
        self.senders: list[Living] = []
        self.witnesses: list[Witness] = []
        self.ended: list[Living] = []
        self.posts: list[Living] = []
        """Who is no process of this parent, and has a witness all the same."""
        self.before_end: list[Callable[[], None]] = []
        self.windows: list[tuple[float, float]] = []
        """When a fault was: what arrived before its end and again after its beginning may have come twice for it."""
        self.counts: dict[str, int] = {}
        self.offered_again: Callable[[], int] = lambda: 0
        """How often somebody handed in an event a second time, having had no answer: each may be accepted."""
        self.woken_at = 0.0
        """When a sender was woken that others had taken over from: it may send nothing again."""
        self.number = 0

    # -- processes

    def start(self, kind: str, **options: Any) -> Living:
        """Start an application (``write``) or a sender (``send``)."""
        name = f"{kind}{self.number}"
        self.number += 1
        witness = Witness(self.folder / f"{name}.witness") if kind == "write" else None
        report = self.folder / f"{name}.report"
        answer = self.parent.do(
            "start", **{**self.options, **options}, kind=kind, name=name, report=str(report),
            witness=str(witness.path) if witness else "",
        )  # fmt: skip
        one = Living(answer["pid"], name, witness, report)
        (self.writers if kind == "write" else self.senders).append(one)
        self.witnesses += [witness] if witness else []
        return one

    def also(self, name: str) -> Witness:
        """Return a witness for somebody who puts in by another way."""
        witness = Witness(self.folder / f"{name}.witness")
        self.posts.append(Living(0, name, witness, self.folder / name))
        self.witnesses.append(witness)
        return witness

    def signal(self, one: Living, number: int) -> None:
        """Send a signal; a kill is waited for."""
        self.parent.do("signal", pid=one.pid, number=number)
        one.stopped = number == signal.SIGSTOP or (one.stopped and number != signal.SIGCONT)
        if number == signal.SIGKILL:
            code = self.parent.do("wait", pid=one.pid, timeout_s=WAIT_S)["code"]
            if code != -signal.SIGKILL:
                raise ViolationError(f"{one.name} had ended by itself, with {code}")
            (self.writers if one in self.writers else self.senders).remove(one)

    def end(self, one: Living) -> None:
        """Ask it to end in order, and wait."""
        self.parent.do("signal", pid=one.pid, number=signal.SIGTERM)
        code = self.parent.do("wait", pid=one.pid, timeout_s=WAIT_S)["code"]
        if code != 0:
            raise ViolationError(f"{one.name} did not end in order: {code} (7: its sum does not close)")
        (self.writers if one in self.writers else self.senders).remove(one)
        self.ended.append(one)

    # -- what is known

    def told(self, what: str) -> set[str]:
        """Return the uuids that any application was told this for."""
        return set().union(*(witness.read()[what] for witness in self.witnesses))

    def seen(self) -> set[str]:
        """Return what has arrived, or was refused by the endpoint for good."""
        return set(self.endpoint.stays) | set(self.endpoint.refused)

    def until(self, met: Callable[[], Any], what: str, within_s: float | None = None) -> float:
        """Wait for something, ``WAIT_S`` at most; returns the seconds it took.  Raises ViolationError."""
        within_s, began = WAIT_S if within_s is None else within_s, time.monotonic()
        while not met():
            if time.monotonic() - began > within_s:
                raise ViolationError(f"{what}: not within {within_s:g} s")
            time.sleep(LOOK_S)
        return time.monotonic() - began

    def flows(self, events: int = 15) -> None:
        """Wait until so many more of each application's events have been acknowledged and have arrived."""
        before = {one.name: len(self._arrived(one)) for one in [*self.writers, *self.posts]}
        self.until(
            lambda: all(len(self._arrived(one)) >= before[one.name] + events for one in [*self.writers, *self.posts]),
            "it does not flow",
        )

    def _arrived(self, one: Living) -> set[str]:
        assert one.witness is not None
        return one.witness.read()["+"] & self.endpoint.stays.keys()

    def count(self, what: str, number: int = 1) -> None:
        """Count something that the row tells besides."""
        self.counts[what] = self.counts.get(what, 0) + number

    def is_fault(self, began: float, *, after_s: float = 0.0) -> None:
        """Note that something was wrong from then until now, and may be for some after that."""
        self.windows.append((began, time.monotonic() + after_s))

    def recovered(self, *, since: float, may_lose: bool) -> float:
        """Wait until what was acknowledged by now has arrived, and every living application's new events do."""
        owed = self.told("+") - self.seen()
        self.flows(5)
        if not may_lose:
            self.until(
                lambda: not owed - self.seen(), f"what was acknowledged before did not arrive ({len(owed)} owed)"
            )
        return time.monotonic() - since

    def status(self) -> FleetStatus | None:
        """Return what the servers say; None: they do not."""
        try:
            return self.fleet.status()
        except QueueError:
            return None

    # -- the end

    def finish(self, server: str, recovery_s: float, *, may_lose: bool, forgets: bool) -> Row:
        """End everything in order and judge.  Raises ViolationError."""
        for close in self.before_end:
            close()
        for one in list(self.writers):
            self.end(one)
        self.until(self._is_empty, f"the queue does not become empty: {self.status()}")
        for one in list(self.senders):
            self.end(one)
        status = self.fleet.status()
        offered, yes, no = (self.told(what) for what in "?+-")
        letters = {uuid for letter in self.fleet.dead_letters() for uuid in _uuids(letter.event.payload)}
        seen = set(self.endpoint.stays)
        lost = yes - seen - letters
        reports = [one.last_report() for one in self.ended]
        vanished = sum(report["dropped"].get("vanished", 0) for report in reports)
        self._judge_reports(reports)
        if seen - offered:
            raise ViolationError(f"{len(seen - offered)} events arrived that nobody offered")
        if lost and not may_lose:
            raise ViolationError(
                f"{len(lost)} of {len(yes)} acknowledged events are lost, {vanished} said to have vanished"
            )
        if len(lost) > vanished:
            raise ViolationError(f"{len(lost)} acknowledged events are lost, and {vanished} counted as vanished")
        if not status.closes or status.queued or status.in_flight or not status.accepted:
            raise ViolationError(f"the servers' sum: {status}")
        if not may_lose and vanished > (len(no) if forgets else 0):
            raise ViolationError(f"{vanished} counted as vanished, and nothing was to vanish ({len(no)} were refused)")
        if not may_lose and not len(yes) <= status.accepted <= len(offered) + self.offered_again():
            raise ViolationError(f"{status.accepted} accepted, {len(yes)} acknowledged, {len(offered)} offered")
        return Row(server, len(yes), len(no), len(lost), vanished, self._twice(), recovery_s, dict(self.counts))

    def _is_empty(self) -> Any:
        status = self.status()
        return status is not None and status.shards and not status.trouble and not status.queued + status.in_flight

    def _judge_reports(self, reports: Sequence[dict[str, Any]]) -> None:
        for one, report in zip(self.ended, reports, strict=True):
            if not report["closes"]:
                raise ViolationError(f"the sum of {one.name} does not close: {report}")
            others = {reason: number for reason, number in report["dropped"].items() if reason != "vanished"}
            if others:
                raise ViolationError(f"{one.name} dropped events: {others}")
            if one.witness is not None and not self.options["one_name"]:  # under one name they share one count
                yes, no = (len(one.witness.read()[what]) for what in "+-")
                own = report["accepted"] - report["adopted"]
                if not yes <= own <= yes + no:
                    raise ViolationError(f"{one.name} counts {own} accepted, and was told yes for {yes}, no for {no}")

    def _twice(self) -> int:
        """Count what was delivered more than once; each needs its excuse."""
        repeated = 0
        for stays in self.endpoint.stays.values():
            for first, second in itertools.pairwise(stays):
                repeated += 1
                excused = any(
                    first.came_s - AROUND_S <= ended and began <= second.came_s for began, ended in self.windows
                )
                if self.woken_at and second.came_s > self.woken_at and first.left_s < self.woken_at:
                    raise ViolationError("an event that had been delivered was sent again by who had slept")
                if first.surely and not excused:
                    apart_s = second.came_s - first.left_s
                    raise ViolationError(f"an event was delivered twice, {apart_s:.3f} s apart, and nothing was wrong")
        return repeated

    def tail_of_the_log(self) -> str:
        """Return what the processes said last."""
        path = self.folder / "log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def close(self) -> None:
        """Kill what is left."""
        for one in [*self.writers, *self.senders]:
            self.parent.do("signal", pid=one.pid, number=signal.SIGKILL)
            self.parent.do("wait", pid=one.pid, timeout_s=WAIT_S)
        self.fleet.close()
        self.endpoint.collector.close()


def _uuids(payload: bytes) -> list[str]:
    visitor = json.loads(payload)
    return [event["uuid"] for snapshot in visitor["snapshots"] for event in snapshot["events"]]


def make_folder(parent: Path, name: str) -> Path:
    """Make a private folder."""
    folder = parent / name
    folder.mkdir(mode=0o700)
    return folder
