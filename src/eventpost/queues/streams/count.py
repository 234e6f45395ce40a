"""The sum: what the server says of this writer, and what this process knows besides.

Of its own events the server knows what became of them, whoever did it: per part, in the writer's hash.  What this
process has in flight it knows itself; the rest of what is neither delivered, dead nor dropped is queued.  Of others'
events those count that it has in hand, or has settled.

The server may know less than it did: it was emptied, or came back without the end of its log.  Then what was known of
deliveries and drops still holds, what it has is queued or dead, and what is missing between the two is dropped as
``vanished``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import MappingProxyType
from typing import Any, Final

from ..protocol import QueueStats
from .client import Command, Fault
from .hand import Hand
from .names import prefix
from .put import Puts
from .route import Away, Route
from .server import Server

VANISHED: Final = "vanished"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of events, by one part's word: as they stand in a hash."""

    accepted: int = 0
    delivered: int = 0
    dead: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def queued(self) -> int:
        """What is left: waiting or in flight."""
        return self.accepted - self.delivered - self.dead - sum(self.dropped.values())


def read(pairs: Sequence[Any]) -> Outcomes:
    """Read a hash's names and values."""
    values: dict[str, bytes] = {
        name.decode("utf-8", "replace"): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)
    }
    return Outcomes(
        int(values.get("a", 0)), int(values.get("d", 0)), int(values.get("x", 0)),
        {name[1:]: int(value) for name, value in values.items() if name.startswith("-")},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one part's share of the own events, beside what the server says by now: before it forgot."""

    delivered: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def with_(self, said: Outcomes) -> Outcomes:
        """Return the two together."""
        dropped = dict(self.dropped)
        for reason, events in said.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + events
        accepted = said.accepted + self.delivered + sum(self.dropped.values())
        return Outcomes(accepted, said.delivered + self.delivered, said.dead, dropped)


def reconciled(known: Known, before: Outcomes, said: Outcomes, stored: int) -> Known:
    """Return what is known beside ``said`` now.

    ``before``: what was last shown.  ``stored``: events that the server had confirmed before it said this; if it knows
    of fewer, it has forgotten some.
    """
    if known.with_(said).accepted >= stored:
        return known
    dropped = {reason: events for reason, events in before.dropped.items() if events}
    room = stored - said.queued - said.dead - sum(dropped.values())
    delivered = max(0, min(before.delivered, room))  # of those that wait again, some had been delivered
    dropped[VANISHED] = dropped.get(VANISHED, 0) + max(0, room - delivered)
    beside = {reason: events - said.dropped.get(reason, 0) for reason, events in dropped.items()}
    return Known(delivered - said.delivered, beside)


class Count:
    """Reads the sum; under the hand's lock."""

    def __init__(self, route: Route, server: Server, puts: Puts, hand: Hand, *, timeout_s: float) -> None:
        """Keep the arguments; asks nothing."""
        self._route = route
        self._server = server
        self._puts = puts
        self._hand = hand
        self._timeout_s = timeout_s
        self.reset()

    def reset(self) -> None:
        """Start from zero."""
        self._known: dict[int, Known] = {}
        self._said: dict[int, Outcomes] = {}
        self._bytes: dict[int, int] = {}

    def stats(self, *, ask: bool = True) -> QueueStats:
        """Return the sum; with the server's last known word while it is away, or is not to be asked."""
        self._puts.fold()
        stored = dict(self._puts.accepted)
        if ask and self._server.joined:
            self._ask(stored)
        return self._made(stored)

    def _ask(self, stored: Mapping[int, int]) -> None:
        mine = sorted({*stored, *self._said, self._server.home})
        asked: list[tuple[int, list[Command]]] = []
        for shard in range(self._server.shards):
            key = prefix(self._route.name, shard)
            calls: list[Command] = [("HGET", key + "sum", "b")]
            if shard in mine:
                calls.append(("HGETALL", f"{key}w:{self._puts.writer}"))
            asked.append((shard, calls))
        for (shard, _), answers in zip(
            asked, self._route.ask_all(asked, monotonic() + self._timeout_s), strict=True
        ):  # fmt: skip
            if isinstance(answers, Away) or any(isinstance(one, Fault) for one in answers):
                continue
            self._bytes[shard] = max(0, int(answers[0] or 0))
            if len(answers) > 1:
                self._hear(shard, read(answers[1]), stored.get(shard, 0))
        self._puts.know_others([size for shard, size in self._bytes.items() if shard != self._server.home])

    def _hear(self, shard: int, said: Outcomes, stored: int) -> None:
        known = self._known.get(shard, Known())
        before = known.with_(self._said.get(shard, Outcomes()))
        self._known[shard] = reconciled(known, before, said, stored)
        self._said[shard] = said

    def _made(self, stored: Mapping[int, int]) -> QueueStats:
        accepted = delivered = dead = 0
        dropped: dict[str, int] = {}
        for shard in {*stored, *self._said}:
            one = self._known.get(shard, Known()).with_(self._said.get(shard, Outcomes()))
            accepted += max(stored.get(shard, 0), one.accepted)
            delivered += one.delivered
            dead += one.dead
            for reason, events in one.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + events
        left = max(0, accepted - delivered - dead - sum(dropped.values()))
        accepted = left + delivered + dead + sum(dropped.values())
        hand = self._hand
        in_flight = min(hand.in_flight_own, left)  # what somebody else settled is in flight here for nothing
        for reason, events in hand.adopted_dropped.items():
            dropped[reason] = dropped.get(reason, 0) + events
        adopted_gone = hand.adopted_delivered + hand.adopted_dead + sum(hand.adopted_dropped.values())
        adopted = hand.adopted_in_hand + adopted_gone
        return QueueStats(
            accepted=accepted + adopted,
            adopted=adopted,
            delivered=delivered + hand.adopted_delivered,
            queued=left - in_flight + hand.adopted_in_hand - hand.in_flight_adopted,
            in_flight=in_flight + hand.in_flight_adopted,
            dead=dead + hand.adopted_dead,
            dropped=MappingProxyType({reason: events for reason, events in dropped.items() if events}),
            stored_bytes=sum(self._bytes.values()),
        )
