"""Endpoints that answer anything in any order, and the transport that reaches them; all of it from one seed.

An endpoint sees bytes only.  It takes a body apart, finds the events by their uuid, and compares every byte with what
was handed to a door.  What it takes it takes for good, whatever it answers, and also after the sender has died.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson

from eventpost.event import Envelope, Event
from eventpost.testing.clock import ManualClock
from eventpost.transports.protocol import Completion, FaultKind, Request, Response, TransportError

from .disk_model import Violation

MOODS: Final = (
    "good", "good", "slow", "flaky", "flaky", "down", "silent", "takes_and_resets", "takes_and_fails", "throttles",
    "5xx", "holds", "refuses", "small",
)  # fmt: skip
RETRY_AFTER: Final = ("1", "30", "7200", "soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", "0.5", None)
SMALL_BODY_BYTES: Final = 400


@dataclass(slots=True, eq=False)
class Told:
    """One event that was offered to a door, and all that is known of it.

    ``owner``: whose door it was.  ``at_s``: when it was put, or set aside as dead, monotonic.  ``said``: what the door
    said: "yes", "no", or "" where its process died before it said anything.  ``heard``: a 2xx was noted in the queue.
    ``excused``: a crash may have left two of it.  ``sends``: its process has a sender.  ``synced``: a flush said that
    it is safe.  ``unsafe``: a sync failed, and that was told.  ``forms``: what else its payload may be, once a purge
    has taken somebody out of it; ``erased``: a purge said that nothing of it is left.
    """

    uuid: str
    event: Event
    durable: bool
    owner: str
    at_s: float
    said: str = ""
    heard: bool = False
    excused: bool = False
    poison: bool = False
    touchy: bool = False
    synced: bool = False
    unsafe: bool = False
    sends: bool = False
    received: int = 0
    holder: str | None = None
    forms: set[bytes] = field(default_factory=set)
    erased: bool = False

    def may_be(self, event: Event) -> bool:
        """Tell whether this is the event, or what a purge left of it."""
        return event == self.event or (event.envelope == self.event.envelope and event.payload in self.forms)

    def found_in(self, body: bytes, at: int) -> bytes:
        """Return its payload as it stands at a place of a body; if it does not, as it was handed in."""
        return next((one for one in self.forms if body.startswith(one, at)), self.event.payload)

    def __deepcopy__(self, memo: dict[int, Any]) -> Told:
        return self  # what is known of an event is no part of a process


class Owner(Protocol):
    """Whose transport it is."""

    name: str


class Network:
    """All endpoints.  ``record`` counts what happened."""

    def __init__(self, clock: ManualClock, rng: random.Random, seen: Counter[str]) -> None:
        self.clock = clock
        self.rng = rng
        self.seen = seen
        self.moods: dict[str, str] = {}
        self.by_uuid: dict[str, Told] = {}
        self.late: list[tuple[float, int, object, list[Told]]] = []
        self.serial = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self

    def offer(self, told: Told) -> None:
        """Know an event before a door is asked."""
        self.by_uuid[told.uuid] = told

    def events_of(self, envelope: Envelope, body: bytes) -> list[Told]:
        """Take a body apart; raises Violation if any byte of it is not what was offered."""
        if envelope.shared:
            inner = body[len(envelope.prefix) : len(body) - len(envelope.suffix)]
            parts = orjson.loads(b"[%b]" % inner)
        else:
            inner = body
            parts = [orjson.loads(body)]
        told = [self.by_uuid.get(part["uuid"]) for part in parts]
        if None in told:
            raise Violation("an event was sent that no door was ever handed")
        known = [one for one in told if one is not None]
        sent = []
        for one in known:
            sent.append(one.found_in(inner, len(b",".join(sent)) + bool(sent)))
        if envelope.body(sent) != body:
            raise Violation("the bytes of a body are not those that were handed in")
        for one in known:
            if one.erased:
                raise Violation(f"{one.uuid} was sent after a purge had erased it")
            if one.event.envelope != envelope:
                raise Violation(f"{one.uuid} was sent with another envelope than its own")
            if one.said == "no" and not one.excused:
                raise Violation(f"{one.uuid} was sent although it was refused")
        return known

    def arrive(self, events: list[Told]) -> None:
        """Let an endpoint take events."""
        for one in events:
            one.received += 1
            if one.received > 1:
                self.seen["duplicates"] += 1

    def advance(self) -> None:
        """Let everything arrive that is due."""
        while self.late and self.late[0][0] <= self.clock.monotonic():
            self.arrive(heapq.heappop(self.late)[3])

    def cut(self, owner: object) -> None:
        """Its process is gone: what is not out yet may still go out, or not."""
        for item in self.late:
            if item[2] is owner and self.rng.random() < 0.5:
                item[3].clear()

    def answer(self, owner: object, request: Request, events: list[Told]) -> tuple[float, Response | TransportError]:
        """Return when a request ends, and how; what the endpoint takes of it arrives at some time before or after."""
        rng, limit_s = self.rng, request.timeout_s
        mood = self.moods.get(request.envelope.url, "good")
        if mood == "flaky":
            mood = rng.choice(("good", "good", "5xx", "takes_and_fails", "takes_and_resets", "silent", "throttles"))
        latency_s = rng.random() * (limit_s * 1.2 if mood in {"slow", "silent"} else 0.2)
        takes, outcome = self._judge(mood, request, events)
        if latency_s > limit_s or mood == "silent":
            takes = takes and (mood == "slow" or rng.random() < 0.5)
            outcome = TransportError("timeout", "no answer in time")
        if takes:
            if not isinstance(outcome, Response) or outcome.status >= 300:
                self.seen["unknown answers"] += 1
            at_s = latency_s * rng.random() if rng.random() < 0.5 else 0.0
            if isinstance(outcome, TransportError) and rng.random() < 0.3:
                at_s = limit_s + 5.0 * rng.random()
                self.seen["late arrivals"] += 1
            self.serial += 1
            heapq.heappush(self.late, (self.clock.monotonic() + at_s, self.serial, owner, list(events)))
            self.advance()
        return min(latency_s, limit_s), outcome

    def _judge(self, mood: str, request: Request, events: list[Told]) -> tuple[bool, Response | TransportError]:
        rng = self.rng
        if mood == "down":
            kind: FaultKind = rng.choice(("connect", "dns", "reset"))
            return False, TransportError(kind, "it is down")
        if mood == "holds":
            if rng.random() < 0.2:
                return False, TransportError("tls", "certificate")
            return False, Response(rng.choice((401, 403, 404, 405, 301, 302)))
        if mood == "throttles":
            return False, Response(429, retry_after=rng.choice(RETRY_AFTER))
        if mood == "5xx":
            return False, Response(rng.choice((500, 502, 503, 504, 599)), retry_after=rng.choice(RETRY_AFTER))
        if mood == "refuses":
            return False, Response(rng.choice((400, 410, 422, 418)), body=b"no")
        if mood == "takes_and_resets":
            return True, TransportError(rng.choice(("reset", "protocol", "other")), "it hung up")
        if mood == "takes_and_fails":
            return True, Response(rng.choice((500, 503)))
        if len(request.body) > SMALL_BODY_BYTES and mood == "small":
            return False, Response(413)
        if any(one.poison for one in events):
            return False, Response(400, body=b"this one is bad")
        if any(one.touchy for one in events):
            return False, Response(500)
        return True, Response(rng.choice((200, 202, 204, 204, 204)))


class SimTransport:
    """A Transport on a :class:`Network`.  ``waiting``: when each request ends, and how."""

    in_flight_max = 1000

    def __init__(self, network: Network, owner: Any) -> None:
        self.network = network
        self.owner = owner
        self.waiting: list[tuple[float, int, Request, Response | TransportError, list[Told]]] = []
        self.closed = False
        self.serial = 0

    def start(self, request: Request) -> None:
        """Let the network answer it."""
        events = self.network.events_of(request.envelope, request.body)
        under_way = {one.uuid for *_, others in self.waiting for one in others}
        for one in events:
            if one.uuid in under_way and not one.excused:
                raise Violation(f"{one.uuid} is in two requests of one process at once")
        self.owner.sending(events)
        self.serial += 1
        latency_s, outcome = self.network.answer(self.owner.name, request, events)
        ends = self.network.clock.monotonic() + latency_s
        heapq.heappush(self.waiting, (ends, self.serial, request, outcome, events))

    def wait(self, timeout_s: float) -> Sequence[Completion]:
        """Return what has ended by now, in any order."""
        now, out = self.network.clock.monotonic(), []
        while self.waiting and (self.closed or self.waiting[0][0] <= now):
            _, _, request, outcome, events = heapq.heappop(self.waiting)
            if self.closed:
                outcome = TransportError("closed", "the transport was closed")
            if isinstance(outcome, Response) and outcome.status < 300:
                self.owner.hears(events)
            out.append(Completion(request, outcome))
        if len(out) > 1:
            self.network.rng.shuffle(out)
        return out

    def next_s(self) -> float:
        """Return when the next request ends, in monotonic seconds."""
        return self.waiting[0][0] if self.waiting else float("inf")

    def wake(self) -> None:
        """Nobody waits here."""

    def close(self, timeout_s: float) -> None:
        """End what is under way as "closed"."""
        self.closed = True

    def after_fork_in_child(self) -> None:
        """Forget what is the parent's."""
        self.waiting.clear()
