"""The promise every queue makes.

``put`` stores all of the events or none, and returns when the durability it names holds.  ``claim`` never waits.  An
``ack`` is a fact about the event (delivered is delivered); ``release`` and ``bury`` are facts about the lease, and a
stale one changes nothing.  The queue owns the count: every event that it accepted is, at every moment, in exactly
one of delivered, queued, in flight, dead or dropped, and ``stats()`` reads all of them at one instant.

Threads: ``put`` may be called from any thread, from a signal handler and from ``__del__``, also when that interrupts a
``put`` on the same thread; all else is called by the sender, or under its lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from ..event import Event

Durability = Literal["memory", "os", "fsync", "host"]
Overflow = Literal["refuse", "drop_oldest", "block"]


class Lease:
    """The right to deliver one event.  ``attempts`` counts the claims of it that this process knows of, this included.

    ``ref`` belongs to the queue that issued the lease.  ``claimed_at`` is the queue's monotonic clock, in seconds.
    """

    __slots__ = ("attempts", "claimed_at", "event", "live", "ref")

    def __init__(self, event: Event, ref: Any, claimed_at: float, attempts: int = 1) -> None:
        self.event = event
        self.ref = ref
        self.claimed_at = claimed_at
        self.attempts = attempts
        self.live = True

    def __repr__(self) -> str:
        return f"Lease({self.event!r}, attempts={self.attempts}, live={self.live})"


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """What an endpoint said when it refused an event: kept with the dead letter.

    ``status`` is the HTTP status (0: none), ``body`` an excerpt of at most 1,024 characters.
    """

    status: int = 0
    body: str = ""

    def __repr__(self) -> str:
        return f"Answer({self.status}, <{len(self.body)} characters>)"  # it may quote what was sent


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One instant's count.  ``accepted == delivered + queued + in_flight + dead + sum(dropped.values())``.

    ``adopted`` is the part of ``accepted`` that other processes had put.  ``stored_bytes`` is what the queue's bound is
    measured against.  ``oldest_age_s`` is the age of the oldest queued event if the queue knows it.
    """

    accepted: int = 0
    adopted: int = 0
    delivered: int = 0
    queued: int = 0
    in_flight: int = 0
    dead: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    stored_bytes: int = 0
    oldest_age_s: float | None = None


@runtime_checkable
class Queue(Protocol):
    """Where events wait between a door and the sender."""

    @property
    def durability(self) -> Durability:
        """What a returned ``put`` survives: nothing, the process (os), power loss (fsync), the host."""
        ...

    @property
    def lease_s(self) -> float | None:
        """How long a lease lasts, in seconds; None: as long as its holder lives."""
        ...

    def put(self, events: Sequence[Event]) -> None:
        """Store all of them or none.  Raises QueueFull, QueueUnavailable or EventTooLarge.

        Waits for no network; a queue on another machine, for its own within a bound, and says ``put_waits = True``.
        """
        ...

    def lanes(self) -> Sequence[str]:
        """Return the lanes that have, or may have, something to claim now or later."""
        ...

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Lease up to ``events_max`` due events, oldest first, stopping once ``bytes_max`` payload bytes are reached.

        Returns at least one event if one is due, however large.  Never waits.
        """
        ...

    def pending(self, lane: str) -> int:
        """Return about how many events of the lane could be claimed now; cheap; may be low for other processes'."""
        ...

    def next_due_s(self) -> float | None:
        """Return the seconds until the next released event is due, or None if none is waiting for its time."""
        ...

    def ack(self, leases: Sequence[Lease]) -> None:
        """Note that the events are delivered.  Idempotent."""
        ...

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """Give the events back; claimable again after ``delay_s``.  A stale lease changes nothing."""
        ...

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """Set the events aside as dead letters.  A stale lease changes nothing."""
        ...

    def tend(self) -> float | None:
        """Do the periodic work that is due (orphans, sync, expiry); return the seconds until the next, or None.

        Called by the sender's thread only, never by a door.
        """
        ...

    def sync(self, timeout_s: float) -> bool:
        """Make what is stored as safe as this queue can (flush of a process that only stores); False: not in time."""
        ...

    def stats(self) -> QueueStats:
        """Return the count, all of it read at one instant."""
        ...

    def after_fork_in_child(self) -> None:
        """Forget, without touching, what belongs to the parent; the count starts at zero; usable at once."""
        ...

    def close(self, timeout_s: float = 10.0) -> None:
        """Give back what is leased, make the rest safe, refuse further puts as ``closed``.  Idempotent."""
        ...


@runtime_checkable
class Recalls(Protocol):
    """A queue that may want leases back: of events that somebody erases, none is to be sent any more.

    No queue needs it.  While ``recalls`` is true after ``tend``, the sender releases what it has claimed and not sent,
    and says so.
    """

    @property
    def recalls(self) -> bool:
        """Whether leases are wanted back."""
        ...

    def recalled(self) -> None:
        """Go on: what was not in flight has been released."""
        ...
