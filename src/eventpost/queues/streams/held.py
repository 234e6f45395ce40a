"""What this process has in hand of one entry, and of one lane."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Final

from ...event import Event
from ..protocol import Lease

READY, LEASED, WAITING, SETTLED = range(4)
"""Of an event: claimed and not handed out; handed out; given back; settled, by whomever."""
Ident = tuple[int, str, str]
"""Of an entry: part, lane, id."""
_ONE: Final = b"1"


class StreamsLease(Lease):
    """A lease of one event of an entry; ``ref`` is its place: the entry, and its number in it."""

    __slots__ = ()


class Held:
    """An entry that is pending for this process.

    ``sure_until``: before it, in the seconds of ``boot_s``, nobody else can have taken it.  ``due``: when the last of
    those that were given back is due, by the queue's clock.  ``told``: the server knows that others may take it then.
    """

    __slots__ = (
        "attempts", "due", "events", "id", "lane", "leases", "lost", "own", "shard", "size", "states",
        "sure_until", "told", "url", "writer",
    )  # fmt: skip

    def __init__(
        self, shard: int, url: str, *, lane: str, entry_id: str, writer: str, events: list[Event], size: int,
        own: bool, settled: bytes, sure_until: float,
    ) -> None:  # fmt: skip
        """Keep the arguments; ``settled``: one byte an event, ``1`` for settled, or nothing."""
        self.shard = shard
        self.url = url
        self.lane = lane
        self.id = entry_id
        self.writer = writer
        self.events = events
        self.size = size
        self.own = own
        self.sure_until = sure_until
        self.due = 0.0
        self.told = False
        self.lost = False
        self.states = bytearray(len(events))
        for at in range(min(len(settled), len(events))):
            if settled[at : at + 1] == _ONE:
                self.states[at] = SETTLED
        self.leases: dict[int, StreamsLease] = {}
        self.attempts: dict[int, int] = {}

    @property
    def ident(self) -> Ident:
        """What names it."""
        return self.shard, self.lane, self.id

    @property
    def left(self) -> int:
        """Return how many of its events are not settled."""
        return len(self.states) - self.states.count(SETTLED)

    def settle(self, at: int) -> None:
        """Note that an event is settled; a lease of it ends."""
        self.states[at] = SETTLED
        self.attempts.pop(at, None)
        lease = self.leases.pop(at, None)
        if lease is not None:
            lease.live = False

    def lose(self) -> None:
        """Note that it is somebody else's: leases of it end, and what waits is not handed out."""
        self.lost = True
        for lease in self.leases.values():
            lease.live = False
        self.leases.clear()
        self.states[:] = bytes([SETTLED]) * len(self.states)

    def which(self, numbers: list[int]) -> str:
        """Return events of it as the scripts want them: '' for all that there are, else ranges counted from 1."""
        if len(numbers) == len(self.events):
            return ""
        return "".join(f"{first + 1}-{last + 1}," for first, last in _ranges(sorted(numbers)))


def _ranges(numbers: list[int]) -> Iterator[tuple[int, int]]:
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


class Lane:
    """One endpoint's events in hand, and how many wait on the server."""

    __slots__ = ("again", "key", "left_behind", "ready", "url", "waiting")

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.ready: deque[tuple[Held, int]] = deque()
        self.again: list[tuple[float, int, Held, int]] = []
        self.waiting: dict[int, int] = {}
        """By part: events that nobody has claimed, as of the last look, and what was put here since."""

        self.left_behind: set[int] = set()
        """Parts where others let go of more than was taken over."""

    def has(self, shard: int) -> bool:
        """Tell whether there seems to be something to claim in a part."""
        return shard in self.left_behind or self.waiting.get(shard, 0) > 0

    def due(self, now: float, events_max: int) -> list[tuple[float, int, Held, int]]:
        """Take out those that were given back and are due, up to so many, in their order."""
        found: list[tuple[float, int, Held, int]] = []
        while self.again and self.again[0][0] <= now and len(found) < events_max:
            row = heapq.heappop(self.again)
            if row[2].states[row[3]] == WAITING:
                found.append(row)
        return found

    def in_hand(self, now: float) -> int:
        """Return how many events could be handed out without asking for more."""
        return len(self.ready) + (len(self.again) if self.again and self.again[0][0] <= now else 0)

    def next_due(self) -> float | None:
        """Return when the next of those that were given back is due."""
        while self.again and self.again[0][2].states[self.again[0][3]] != WAITING:
            heapq.heappop(self.again)
        return self.again[0][0] if self.again else None
