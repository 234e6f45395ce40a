"""A queue seen from outside, over all its processes: what the command line and the relay's page need of one.

``journal.view`` is this for a folder, ``streams.view`` for a queue that machines share; ``place`` opens either.
Nothing here claims an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..event import Event, shown_url

Kind = Literal["journal", "streams"]


class Letter(Protocol):
    """A dead letter.  ``id`` names it, ``at_s`` is when it died, ``origin`` the id that the event had as it waited."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def event(self) -> Event: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> int: ...  # noqa: D102
    @property
    def answer(self) -> str: ...  # noqa: D102
    @property
    def at_s(self) -> int: ...  # noqa: D102
    @property
    def attempts(self) -> int: ...  # noqa: D102
    @property
    def origin(self) -> str: ...  # noqa: D102


class Seen(Protocol):
    """An event that lies in a queue; ``state`` is what became of it so far."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def event(self) -> Event: ...  # noqa: D102
    @property
    def at_s(self) -> float: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True, repr=False)
class Lane:
    """One endpoint's part: events that wait, bytes of them (None: not known), age of the oldest in seconds."""

    url: str
    queued: int = 0
    stored_bytes: int | None = None
    oldest_age_s: float | None = None

    def __repr__(self) -> str:
        return f"Lane({shown_url(self.url)}, queued={self.queued})"


@dataclass(frozen=True, slots=True)
class Status:
    """The sum of a queue over all its processes: ``accepted == delivered + queued + dead + sum(dropped.values())``.

    ``queued`` holds what is in flight, too; ``in_flight``: how much of it somebody has claimed, None: not known.
    ``needs``: what a person has to look at.  ``values``: the same and what is this kind's alone, as plain values.
    """

    kind: Kind
    place: str
    accepted: int
    delivered: int
    queued: int
    dead: int
    dropped: dict[str, int]
    stored_bytes: int
    dead_bytes: int
    oldest_age_s: float | None
    closes: bool
    in_flight: int | None = None
    lanes: list[Lane] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


class Follower(Protocol):
    """Events as they come, from look to look."""

    def look(self, last: int | None = None) -> Sequence[Seen]:
        """Return what was put since the last look, oldest first; ``last``: only so many of the newest."""
        ...


Progress = Callable[[int], None]


class View(Protocol):
    """One queue.  Each method looks anew.

    Raises OSError where a folder can't be read, QueueUnavailable where a server does not answer.
    """

    @property
    def place(self) -> str:
        """Where it is, for people; no secret."""
        ...

    def status(self) -> Status:
        """Count it."""
        ...

    def follow(self) -> Follower:
        """Return what tells the events that are there, and from then on those that come."""
        ...

    def dead_letters(self) -> Iterator[Letter]:
        """Yield the dead letters, oldest first."""
        ...

    def retry_dead(self, ids: Iterable[str] | None, *, progress: Progress | None = None) -> int:
        """Put dead letters back, bytes and uuid unchanged (None: all); returns how many.  KeyError: no such letter."""
        ...

    def discard_dead(self, ids: Iterable[str] | None, *, progress: Progress | None = None) -> int:
        """Drop dead letters, counted as dead_discarded (None: all); returns how many.  KeyError: no such letter."""
        ...

    def close(self) -> None:
        """Let go of what it holds open."""
        ...
