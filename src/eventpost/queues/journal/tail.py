"""Events as they lie in a folder, settled or not, for people who look on; nothing here claims one.

A :class:`Tail` reads on where its last look ended, segment by segment: what it costs to follow a folder grows with
what is put, not with what lies there.  Half a record is not there yet, and a segment that was settled and removed
between two looks is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ...event import Envelope, Event
from . import dead
from . import format as fmt
from .format import SETTLED, Kind, Outcome

if TYPE_CHECKING:
    from .folder import Folder


class Seen(NamedTuple):
    """An event as it lies in a segment; ``state`` is "queued" or the outcome's name in lower case."""

    id: str
    event: Event
    at_s: int
    state: str


@dataclass(slots=True)
class _Place:
    """How far a segment was read: up to the byte ``at`` (0: not begun), with the envelopes that stand before it."""

    at: int = 0
    envelopes: dict[int, Envelope] = field(default_factory=dict)
    ended: bool = False


class Tail:
    """The events of a folder, from look to look."""

    def __init__(self, folder: Folder) -> None:
        """Keep the argument; reads nothing."""
        self._folder = folder
        self._places: dict[str, _Place] = {}

    def look(self, last: int | None = None) -> list[Seen]:
        """Return what was put since the last look, in order; ``last``: only so many of the newest."""
        names = self._folder.segment_names(self._folder.segments)
        self._places = {name: self._places.get(name, _Place()) for name in names}
        out: list[Seen] = []
        for name in reversed(names):
            place = self._places[name]
            enough = last is not None and len(out) >= last
            if not place.ended:
                with suppress(OSError, ValueError):  # gone, damaged or of a newer format: `verify` says so
                    out[:0] = _read_on(self._folder, name, place, pass_sealed=enough)
        out.sort(key=lambda seen: seen.at_s)
        return out if last is None else out[-last:]


def events(folder: Folder, name: str) -> Iterator[Seen]:
    """Yield every whole event of a segment.  Raises OSError, or ValueError where the header can't be read."""
    with suppress(FileNotFoundError):
        yield from _read_on(folder, name, _Place(), pass_sealed=False)


def states(folder: Folder, name: str, ordinals: Iterable[int]) -> dict[int, str] | None:
    """Return the states of events of a segment by their ordinals; None if it is gone: all of them were settled.

    Raises OSError or ValueError.
    """
    try:
        fd = folder.disk.open(f"{folder.segments}/{name}", write=False)
    except FileNotFoundError:
        return None
    try:
        first = folder.disk.read(fd, fmt.PAGE_BYTES, 0)
        header = fmt.decode_header(folder.disk.read(fd, fmt.header_bytes_wanted(first), 0))
        settled = folder.disk.read(fd, header.events_max, header.outcomes_at)
    finally:
        folder.disk.close(fd)
    return {one: _state(settled[one]) for one in ordinals if one < len(settled)}


def _state(outcome: int) -> str:
    return Outcome(outcome).name.lower() if outcome in SETTLED else "queued"


def _read_on(folder: Folder, name: str, place: _Place, *, pass_sealed: bool) -> list[Seen]:
    """Return what follows ``place``, and move it; with ``pass_sealed`` a segment that nobody writes to is passed."""
    disk, path = folder.disk, f"{folder.segments}/{name}"
    fd = disk.open(path, write=False)
    try:
        header = fmt.decode_header(disk.read(fd, fmt.header_bytes_wanted(disk.read(fd, fmt.PAGE_BYTES, 0)), 0))
        sealed = header.sealed_events is not None
        if sealed and pass_sealed:
            place.ended = True
            return []
        begin = place.at or header.records_at
        if not sealed and not any(disk.read(fd, fmt.FRAME_HEAD_BYTES, begin)):
            return []
        data = disk.read(fd, disk.size(path), begin)
        settled = disk.read(fd, header.events_max, header.outcomes_at)
    finally:
        disk.close(fd)
    out: list[Seen] = []
    place.ended = sealed
    for _, frame, _ in dead.walk(data, 0):
        if frame is None or frame.ordinal >= header.events_max:
            continue
        place.at = begin + frame.end
        if frame.kind == Kind.ENVELOPE:
            with suppress(ValueError):
                place.envelopes[frame.envelope] = fmt.decode_envelope(frame.payload)
        elif frame.kind == Kind.EVENT and frame.envelope in place.envelopes:
            state = _state(settled[frame.ordinal])
            event = Event(place.envelopes[frame.envelope], frame.payload)
            out.append(Seen(f"{name.removesuffix('.seg')}:{frame.ordinal}", event, frame.at_s, state))
    return out
