"""What people are shown of a queue, from outside, over all its processes and machines; and what is done to dead letters.

Nothing here claims an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...event import Event, shown_url


@dataclass(frozen=True, slots=True, repr=False)
class LaneStatus:
    """One endpoint's part.  ``queued`` are events nobody has claimed; ``pending_entries`` those that somebody holds."""

    url: str
    queued: int = 0
    entries: int = 0
    pending_entries: int = 0
    oldest_age_s: float | None = None

    def __repr__(self) -> str:
        return f"LaneStatus({shown_url(self.url)}, queued={self.queued})"


@dataclass(frozen=True, slots=True)
class Member:
    """A process that holds entries, or claimed here lately.  ``idle_s``: since it last asked for some."""

    name: str
    entries: int
    idle_s: float
    shard: int


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One part: what lies in it, and whether its server answered."""

    number: int
    address: str
    queued: int = 0
    stored_bytes: int = 0
    dead: int = 0
    dead_bytes: int = 0
    oldest_age_s: float | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The sum of the whole fleet: ``accepted == delivered + queued + dead + sum(dropped.values())``.

    ``queued`` holds what is in flight, too.  ``closes`` is false where the server lost some of what it knew.
    """

    address: str
    name: str
    accepted: int = 0
    delivered: int = 0
    queued: int = 0
    dead: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    stored_bytes: int = 0
    dead_bytes: int = 0
    oldest_age_s: float | None = None
    lanes: list[LaneStatus] = field(default_factory=list)
    shards: list[ShardStatus] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    @property
    def closes(self) -> bool:
        """Tell whether the sum holds."""
        return self.accepted == self.delivered + self.queued + self.dead + sum(self.dropped.values())


@dataclass(frozen=True, slots=True, repr=False)
class DeadLetter:
    """One dead letter; the same fields as the journal's.  ``id`` is "shard:entry id"."""

    id: str
    event: Event
    reason: str
    status: int
    answer: str
    at_s: int
    attempts: int
    origin: str = ""
    writer: str = ""

    def __repr__(self) -> str:
        return f"DeadLetter({self.id!r}, {self.event!r}, {self.reason!r}, status={self.status})"


@dataclass(frozen=True, slots=True, repr=False)
class Seen:
    """An event that waits or is in flight, for ``tail``.  ``holder`` is who has claimed it, if anybody."""

    id: str
    event: Event
    at_s: float
    holder: str = ""

    def __repr__(self) -> str:
        return f"Seen({self.id!r}, {self.event!r})"


class Fleet:
    """A queue seen from outside.  Each method asks the server anew; raises QueueUnavailable while it is away.

    Args:
        url, name, username, password, ca, timeout_s: as of :class:`RedisStreamsQueue`.

    Raises RedisUnusable, ValueError.
    """

    def __init__(
        self, url: str, *, name: str = "eventpost", username: str | None = None, password: str | None = None,
        ca: str | None = None, timeout_s: float = 5.0,
    ) -> None:  # fmt: skip
        raise NotImplementedError

    def status(self) -> FleetStatus:
        """Return the sum, who holds what, and how far behind each part is."""
        raise NotImplementedError

    def tail(self, last: int | None = 10) -> list[Seen]:
        """Return the newest events that are not settled, oldest first; ``last`` None: all."""
        raise NotImplementedError

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Yield the dead letters, part by part, oldest first."""
        raise NotImplementedError

    def retry_dead(self, ids: Iterable[str] | None, *, progress: Callable[[int], None] | None = None) -> int:
        """Put dead letters back, bytes and uuid unchanged (None: all); returns how many.  KeyError: no such letter."""
        raise NotImplementedError

    def discard_dead(self, ids: Iterable[str] | None, *, progress: Callable[[int], None] | None = None) -> int:
        """Drop dead letters, counted as dead_discarded (None: all); returns how many.  KeyError: no such letter."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections."""
        raise NotImplementedError


def as_dict(status: FleetStatus) -> dict[str, Any]:
    """Return a status as plain values, for JSON."""
    raise NotImplementedError
