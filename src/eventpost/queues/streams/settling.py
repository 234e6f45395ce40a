"""What became of leases: delivered, given back, dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...clock import Clock
from ...errors import QueueUnavailable
from ..protocol import Answer, Lease
from .client import SCRIPTS, Command, Fault
from .entry import pack
from .hand import Hand
from .held import SETTLED, WAITING, Held, Ident
from .holding import AT_ONCE_MAX, Holding
from .route import Away
from .server import Server


class Settling:
    """The settling side; what it changes is in ``hand``, under its lock."""

    def __init__(
        self, server: Server, hand: Hand, holding: Holding, clock: Clock, *, dead_bytes_max: int | None,
        dead_age_max_s: float | None,
    ) -> None:  # fmt: skip
        """Keep the arguments."""
        self._server = server
        self._hand = hand
        self._holding = holding
        self._clock = clock
        self._dead_bytes_max = dead_bytes_max
        self._dead_age_max_s = dead_age_max_s

    def ack(self, leases: Sequence[Lease]) -> None:
        """Note that events are delivered, whoever holds them now.  Raises QueueUnavailable if nobody could be told."""
        with self._hand.lock:
            by_entry: dict[Ident, tuple[Held, list[int]]] = {}
            for lease in leases:
                held, at = self._place(lease)
                if held.states[at] != SETTLED or held.lost:
                    numbers = by_entry.setdefault(held.ident, (held, []))[1]
                    if at not in numbers:
                        numbers.append(at)
            if by_entry:
                self._settle(list(by_entry.values()))

    def _place(self, lease: Lease) -> tuple[Held, int]:
        """Return the entry that a lease is of, as it is in hand now if it is, and the event's number."""
        held, at = lease.ref
        return self._hand.held.get(held.ident, held), at

    def _settle(self, of: list[tuple[Held, list[int]]]) -> None:
        asked: list[tuple[int, list[Command]]] = []
        parts: list[list[tuple[Held, list[int]]]] = []
        by_shard: dict[int, list[tuple[Held, list[int]]]] = {}
        for held, numbers in of:
            by_shard.setdefault(held.shard, []).append((held, numbers))
        for shard, mine in by_shard.items():
            for first in range(0, len(mine), AT_ONCE_MAX):
                part = mine[first : first + AT_ONCE_MAX]
                call: list[Any] = [SCRIPTS["settle"], 1, self._holding.key(shard), "d"]
                for held, numbers in part:
                    call += [held.lane, held.id, held.writer, len(held.events), held.size, held.which(numbers)]
                asked.append((shard, [tuple(call)]))
                parts.append(part)
        failed: str | None = None
        for part, answers in zip(parts, self._holding.ask(asked), strict=True):
            if isinstance(answers, Away) or isinstance(answers[0], Fault):
                failed = str(answers if isinstance(answers, Away) else answers[0])
                continue
            for (held, numbers), fresh in zip(part, answers[0], strict=True):
                if not held.own:
                    self._hand.adopted_delivered += int(fresh)
                for at in numbers:
                    self._hand.settled(held, at)
        if failed is not None:
            raise QueueUnavailable(f"what is delivered could not be noted: {failed}", reason="redis_unavailable")

    def release(self, leases: Sequence[Lease], delay_s: float) -> None:
        """Give events back; the server is told with the next look."""
        with self._hand.lock:
            due = self._clock.monotonic() + delay_s
            for lease in leases:
                held, at = lease.ref
                if not lease.live or held.leases.get(at) is not lease:
                    continue
                lease.live = False
                del held.leases[at]
                held.states[at] = WAITING
                held.attempts[at] = lease.attempts
                held.due = max(held.due, due)
                self._hand.landed(held)
                self._hand.give_back(held, at, due)

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None) -> None:
        """Make dead letters of them.  What is somebody else's by now stays that.  Raises QueueUnavailable."""
        with self._hand.lock:
            by_shard: dict[int, list[tuple[Held, int, Lease]]] = {}
            for lease in leases:
                held, at = lease.ref
                if lease.live and held.leases.get(at) is lease:
                    by_shard.setdefault(held.shard, []).append((held, at, lease))
            said = answer or Answer()
            asked: list[tuple[int, list[Command]]] = []
            for shard, mine in by_shard.items():
                call: list[Any] = [
                    SCRIPTS["bury"], 1, self._holding.key(shard), self._hand.writer, reason, said.status,
                    said.body[:1024], *self.dead_bounds(),
                ]  # fmt: skip
                for held, at, lease in mine:
                    call += [
                        held.lane, held.url, held.id, held.writer, len(held.events), held.size, at + 1, lease.attempts,
                        pack([held.events[at]]),
                    ]  # fmt: skip
                asked.append((shard, [tuple(call)]))
            failed: str | None = None
            for mine, answers in zip(by_shard.values(), self._holding.ask(asked), strict=True):
                if isinstance(answers, Away) or isinstance(answers[0], Fault):
                    failed = str(answers if isinstance(answers, Away) else answers[0])
                    continue
                for (held, at, _), done in zip(mine, answers[0], strict=True):
                    if done:
                        self._hand.adopted_dead += not held.own
                        self._hand.settled(held, at)
                    else:
                        self._hand.lost(held)
            if failed is not None:
                raise QueueUnavailable(f"a dead letter could not be stored: {failed}", reason="redis_unavailable")

    def dead_bounds(self) -> tuple[str, str]:
        """Return the bounds of one part's dead letters, as the scripts want them."""
        share = "" if self._dead_bytes_max is None else str(max(1, self._dead_bytes_max // self._server.shards))
        return share, "" if self._dead_age_max_s is None else str(int(self._dead_age_max_s))
