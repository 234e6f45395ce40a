"""The fuzzing target ``door``: whatever is handed to ``dispatch_event`` costs at most itself.

An input is the choices from which an object is made: a LogEvent, something that looks like one, something that does
not.  The oracle is the standard library: what ``json.dumps`` writes as JSON is taken, and reads back the same, types
included; what it refuses, and NaN and infinity, is refused and counted; and nothing is raised but the TypeError for an
object that is no log event.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

from eventpost import EventDispatcher, LogEvent
from eventpost.event import Event
from eventpost.queues.protocol import Answer, Lease, QueueStats
from eventpost.testing import RecordingTransport
from eventpost.watch.signals import Refused, Signal

from .fuzz_objects import HEADERS, PLAIN_HEADERS, URL, URLS, VERBS, Choices, Deceiving, Raises

# ruff: noqa: D102 - the methods of a stand-in are its protocol's


class Ear:
    """A queue that takes everything and keeps the newest."""

    durability = "os"
    lease_s = None

    def __init__(self) -> None:
        self.taken: list[Event] = []
        self.accepted = 0

    def put(self, events: Sequence[Event]) -> None:
        self.taken.extend(events)
        self.accepted += len(events)

    def lanes(self) -> Sequence[str]:
        return ()

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        del lane, events_max, bytes_max
        return []

    def pending(self, lane: str) -> int:
        del lane
        return 0

    def next_due_s(self) -> float | None:
        return None

    def ack(self, leases: Sequence[Lease]) -> None:
        del leases

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        del leases, delay_s

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        del leases, reason, answer

    def tend(self) -> float | None:
        return None

    def sync(self, timeout_s: float) -> bool:
        del timeout_s
        return True

    def stats(self) -> QueueStats:
        return QueueStats(accepted=self.accepted, queued=self.accepted)

    def after_fork_in_child(self) -> None:
        return

    def close(self, timeout_s: float = 10.0) -> None:
        del timeout_s


class DoorTarget:
    """See the module."""

    name = "door"
    must_meet = (
        "taken",
        "merged",
        "as a query",
        "not JSON",
        "no log event",
        "odd URL, verb or headers",
        "nested without end",
    )

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()

    def __enter__(self) -> DoorTarget:
        self._heard: list[Signal] = []
        self._doors = []
        self._level = logging.getLogger("eventpost").level
        logging.getLogger("eventpost").setLevel(logging.CRITICAL)
        for merge in (False, True):
            queue = Ear()
            dispatcher = EventDispatcher(
                queue,
                transport=RecordingTransport(),
                sender="none",
                merge_log_events=merge,
                observers=[self._heard.append],
            )
            self._doors.append((dispatcher, queue))
        return self

    def __exit__(self, *exception: object) -> None:
        for dispatcher, _ in self._doors:
            dispatcher.close(0)
        logging.getLogger("eventpost").setLevel(self._level)

    def make(self, chance: Random) -> bytes:
        """Return some choices."""
        return chance.randbytes(chance.choice((4, 16, 64, 256)))

    def check(self, data: bytes) -> None:
        """Hand one object to a door, and compare with the standard library."""
        chosen = Choices(data)
        dispatcher, queue = chosen.of(self._doors)
        odd = chosen.below(8)
        params = chosen.params()
        url: Any = URL
        verb: Any = "POST"
        headers: Any = {"Content-Type": "application/json"}
        known = True
        if odd >= 5:
            url, verb = (chosen.of(URLS) if odd == 5 else URL), (chosen.of(VERBS) if odd == 6 else "POST")
            at = chosen.below(len(HEADERS)) if odd == 7 else 0
            headers = HEADERS[at]()
            known = odd == 7 and at < PLAIN_HEADERS
        event: Any = (
            LogEvent(url, params, verb, headers)
            if odd % 2
            else SimpleNamespace(url=url, params=params, http_verb=verb, headers=headers)
        )
        if odd == 4 and chosen.below(4) == 0:
            self._no_log_event(dispatcher, chosen)
            return
        refused, accepted = dispatcher._refused.read(), queue.accepted
        self._heard.clear()
        queue.taken.clear()
        taken = dispatcher.dispatch_event(event)
        assert type(taken) is bool
        assert queue.accepted - accepted == len(queue.taken) == taken
        assert sum(dispatcher._refused.read().values()) - sum(refused.values()) == (not taken)
        assert [type(one) for one in self._heard] == [Refused] * (not taken)
        if not taken:
            self._refused(params, self._heard[0], known=known)
        else:
            self._taken(params, queue.taken[0])
        if not known:
            self.met["odd URL, verb or headers"] += 1

    def _no_log_event(self, dispatcher: EventDispatcher, chosen: Choices) -> None:
        thing: Any = chosen.of(
            (
                None,
                7,
                "text",
                {},
                [],
                object(),
                SimpleNamespace(url=URL),
                SimpleNamespace(params={}),
                LogEvent,
                Raises(),
                Deceiving(),
            )
        )
        try:
            assert dispatcher.dispatch_event(thing) is False
        except TypeError:
            self.met["no log event"] += 1

    def _taken(self, params: Any, event: Event) -> None:
        self.met["taken"] += 1
        assert type(event.payload) is bytes
        if event.envelope.verb == "GET":
            self.met["as a query"] += 1
            event.payload.decode("ascii")
            return
        body = event.envelope.body([event.payload])
        self.met["merged"] += event.envelope.shared
        text = as_json(params)
        assert text is not None, "json.dumps refuses this, the door took it"
        assert same(json.loads(body), json.loads(text)), "it reads back as something else"
        body.decode("utf-8")

    def _refused(self, params: Any, signal: Any, *, known: bool) -> None:
        assert isinstance(signal, Refused)
        assert signal.reason in ("unencodable", "invalid", "too_large"), signal.reason
        if known:
            assert as_json(params) is None, f"json.dumps takes this, the door said {signal.reason}: {signal.detail}"
            self.met["not JSON"] += 1
            self.met["nested without end"] += "recursive" in signal.detail

    def finish(self, inputs: int) -> None:
        """See that the sums close."""
        del inputs
        for dispatcher, queue in self._doors:
            report = dispatcher.stats()
            assert report.closes
            assert report.accepted == queue.accepted


def as_json(params: Any) -> str | None:
    """Return params as the standard library writes them, None if it does not, or only as what is no JSON."""
    try:
        text = json.dumps(params)
        json.loads(text, parse_constant=_refuse)
    except Exception:  # noqa: BLE001 - a value's own code
        return None
    return text


def _refuse(name: str) -> None:
    raise ValueError(name)


def same(ours: Any, theirs: Any) -> bool:
    """Compare two parsed values, types included."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return (
            ours.keys() == theirs.keys()
            and list(ours) == list(theirs)
            and all(same(value, theirs[key]) for key, value in ours.items())
        )
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return repr(ours) == repr(theirs)  # tells -0.0 from 0.0
