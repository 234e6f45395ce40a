"""Frozen records of everything that happens; an observer is a callable that takes one of them.

``list.append`` is a test observer.  Telemetry is written against these records only.  Observers are never called under
a lock, an exception in one is logged and costs nothing else, and no record holds a payload or a visitor id.
``lane`` is an endpoint's URL; ``events`` counts events; times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..event import shown_url

BreakerState = Literal["closed", "open", "half_open", "held"]


@dataclass(frozen=True, slots=True, repr=False)
class Signal:
    """Base of all signals.  ``repr`` shows an endpoint as logs do: without user, password and query."""

    def __repr__(self) -> str:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        shown = (f"{name}={shown_url(value) if name == 'lane' else value!r}" for name, value in values.items())
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, repr=False)
class Refused(Signal):
    """A door said no.  ``reason``: queue_full, too_large, unencodable, invalid, closed, test_run, disk_full, ..."""

    reason: str
    events: int = 1
    detail: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Delivered(Signal):
    """The endpoint answered 2xx.  ``attempts`` is the largest number among the events of this request.

    ``project``: whose they are, where the dispatcher was told how to tell.
    """

    lane: str
    events: int
    status: int
    elapsed_s: float
    attempts: int
    project: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Retrying(Signal):
    """The events go back to the queue and become due again after ``delay_s``."""

    lane: str
    events: int
    reason: str
    delay_s: float
    status: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Buried(Signal):
    """The events are dead letters now.  ``project``: as in Delivered."""

    lane: str
    events: int
    reason: str
    status: int = 0
    project: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Dropped(Signal):
    """Accepted events were given up: overflow, memory_at_exit, dead_expired, damaged, ..."""

    reason: str
    events: int
    detail: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class BreakerChanged(Signal):
    """The breaker of a lane changed.  "held": it is misconfigured (401, 404, certificate), look at it.

    ``detail`` says what to do where that is known.
    """

    lane: str
    state: BreakerState
    reason: str
    retry_in_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Adopted(Signal):
    """This process took over a segment that another one left."""

    path: str
    events: int


@dataclass(frozen=True, slots=True, repr=False)
class Damaged(Signal):
    """Bytes on the disk were not what was written; they are set aside in ``path`` (.bad) and the rest goes on."""

    path: str
    at_byte: int
    length_bytes: int
    why: str


@dataclass(frozen=True, slots=True, repr=False)
class Spilling(Signal):
    """The first queue takes nothing just now (``reason``: redis_unavailable, ...): puts go to the local one."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class FlowedBack(Signal):
    """All that was put into the local queue is in the first one, ``after_s`` after it began; puts go there again."""

    events: int
    after_s: float


@dataclass(frozen=True, slots=True, repr=False)
class Trouble(Signal):
    """Something needs a person, or may soon: a full disk, a folder that vanished, a newer journal format."""

    what: str
    detail: str


@dataclass(frozen=True, slots=True, repr=False)
class Closed(Signal):
    """The dispatcher ended; ``report`` is its last Report."""

    report: Any


Observer = Callable[[Signal], None]
