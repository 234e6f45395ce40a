"""What people are shown of a queue: plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...event import Event, shown_url


@dataclass(frozen=True, slots=True, repr=False)
class LaneStatus:
    """One endpoint: events that nobody has claimed, entries stored, entries that somebody holds, the oldest's age."""

    url: str
    queued: int = 0
    entries: int = 0
    entries_held: int = 0
    oldest_age_s: float | None = None

    def __repr__(self) -> str:
        return f"LaneStatus({shown_url(self.url)}, queued={self.queued})"


@dataclass(frozen=True, slots=True)
class Member:
    """A process that claims here: how many entries it holds, and the seconds since it last asked for some."""

    name: str
    entries_held: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One part: where it is, what lies in it, and its trouble if its server did not answer."""

    number: int
    address: str
    queued: int = 0
    in_flight: int = 0
    dead: int = 0
    stored_bytes: int = 0
    dead_bytes: int = 0
    oldest_age_s: float | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The sum of all processes: ``accepted == delivered + queued + in_flight + dead + sum(dropped.values())``.

    ``queued``: nobody has claimed it; ``in_flight``: somebody holds it, on its way or until it is due again.
    ``members`` are sorted, who holds most first.
    """

    address: str
    name: str
    accepted: int = 0
    delivered: int = 0
    queued: int = 0
    in_flight: int = 0
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
        """Tell whether the sum holds: what the counts leave over is what lies in the streams."""
        entries = sum(lane.entries for lane in self.lanes)
        return self.in_flight >= 0 and (entries > 0) == (self.queued + self.in_flight > 0)


@dataclass(frozen=True, slots=True, repr=False)
class DeadLetter:
    """One dead letter.  ``id`` is "part:entry"; ``at_s`` when it died, in seconds since the epoch, by the server.

    ``origin`` is the id that the event had as it waited; ``writer`` the process that had put it.
    """

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
    """An event that is stored.  ``id`` is "part:lane:entry:number"; ``at_s`` when it was put; ``holder`` who has it."""

    id: str
    event: Event
    at_s: float
    holder: str = ""
    writer: str = ""

    @property
    def state(self) -> str:
        """What became of it so far, in one word or two."""
        return f"held by {self.holder}" if self.holder else "queued"

    def __repr__(self) -> str:
        return f"Seen({self.id!r}, {self.event!r})"


def as_dict(status: FleetStatus) -> dict[str, Any]:
    """Return a status as plain values, for JSON; endpoints without user, password and query."""
    out = asdict(status)
    for lane in out["lanes"]:
        lane["url"] = shown_url(lane["url"])
    return out | {"closes": status.closes}
