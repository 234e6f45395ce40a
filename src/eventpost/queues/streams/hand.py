"""What this process has in hand: lanes, entries, leases, and what came of those that others had put.

All of it belongs to one lock, which no put ever takes.  An entry is in ``held`` while any of its events is not settled
and the server has it pending for this process, as far as is known.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable

from ...sender.primitives import RLock
from .held import LEASED, READY, SETTLED, Held, Ident, Lane
from .names import lane_key


class Hand:
    """The state of the claiming side; changed under its lock."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.reset("", deque())

    def reset(self, writer: str, arrived: deque[tuple[int, str, int]]) -> None:
        """Start from nothing, as another consumer; ``arrived``: what is put here, to be taken note of."""
        self.lock = RLock()
        self.writer = writer
        self.closed = False
        self.claimer: int | None = None
        """The sender's thread, which must not wait for the room that it makes."""
        self.lanes: dict[str, Lane] = {}
        self.held: dict[Ident, Held] = {}
        self.in_flight_own = self.in_flight_adopted = 0
        self.adopted_in_hand = 0
        """Events of others in hand and not settled, what is in flight included."""
        self.adopted_delivered = self.adopted_dead = 0
        self.adopted_dropped: dict[str, int] = {}
        self.to_tell: dict[Ident, Held] = {}
        """Entries of which something was given back since the server was told."""
        self._arrived = arrived
        self._ids = itertools.count()

    def lane(self, url: str) -> Lane:
        """Return an endpoint's lane, made if it is new."""
        found = self.lanes.get(url)
        if found is None:
            found = self.lanes.setdefault(url, Lane(url, lane_key(url)))
        return found

    def take_note(self) -> None:
        """Take note of what was put here since."""
        while self._arrived:
            try:
                shard, url, events = self._arrived.popleft()
            except IndexError:
                return
            waiting = self.lane(url).waiting
            waiting[shard] = waiting.get(shard, 0) + events

    def know_waiting(self, shard: int, waiting: Iterable[tuple[str, int]]) -> None:
        """Take note of what a look found; after ``take_note``, which was before the look."""
        for lane in self.lanes.values():
            lane.waiting[shard] = 0
        for url, events in waiting:
            self.lane(url).waiting[shard] = max(0, events)

    def add(self, lane: Lane, held: Held) -> None:
        """Take an entry into hand."""
        self.held[held.ident] = held
        if not held.own:
            self.adopted_in_hand += held.left
        lane.ready.extend([(held, at) for at in range(len(held.events)) if held.states[at] == READY])

    def leased(self, held: Held) -> None:
        """Count an event that is handed out."""
        if held.own:
            self.in_flight_own += 1
        else:
            self.in_flight_adopted += 1

    def landed(self, held: Held, events: int = 1) -> None:
        """Count events of an entry that are in flight no more."""
        if held.own:
            self.in_flight_own -= events
        else:
            self.in_flight_adopted -= events

    def give_back(self, held: Held, at: int, due: float) -> None:
        """Have an event wait here until it is due; the server is told with the next look."""
        heapq.heappush(self.lane(held.url).again, (due, next(self._ids), held, at))
        self.to_tell[held.ident] = held

    def settled(self, held: Held, at: int) -> None:
        """Note that an event is settled, whoever did it."""
        if held.states[at] == SETTLED:
            return
        if held.states[at] == LEASED:
            self.landed(held)
        held.settle(at)
        if not held.own:
            self.adopted_in_hand -= 1
        if not held.left:
            self._let_go(held)

    def lost(self, held: Held) -> None:
        """Note that an entry is somebody else's, or gone."""
        if self.held.get(held.ident) is not held:
            return
        self.landed(held, len(held.leases))
        if not held.own:
            self.adopted_in_hand -= held.left
        self._let_go(held)
        held.lose()

    def _let_go(self, held: Held) -> None:
        self.held.pop(held.ident, None)
        self.to_tell.pop(held.ident, None)

    def dropped(self, reason: str, events: int) -> None:
        """Count events of others that were given up here."""
        self.adopted_dropped[reason] = self.adopted_dropped.get(reason, 0) + events

    def close(self) -> None:
        """Hand nothing out any more, and forget what is in hand."""
        for held in list(self.held.values()):
            self.lost(held)
        self.lanes.clear()
        self.closed = True
