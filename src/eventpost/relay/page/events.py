"""The live tail: the newest events of all queues, and what became of them since they were shown.

A look costs what was put since the last one; of a storm only the newest are parsed, and the others are counted as
passed over.  What is shown is remembered by its row; its payload only up to a bound, and beyond that it is fetched
again for as long as it is there.  An event whose segment, or entry, is gone was settled, which is what its state says
then: these go when all in them are delivered, dead or dropped, and nothing tells which of these this one was.

``FolderEvents`` and ``SharedEvents`` are the two kinds of queues, seen from here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ...errors import QueueUnavailable, RedisUnusable
from ...event import Event
from ...queues.journal.folder import Folder
from ...queues.journal.inspect import Tail, events
from ...queues.journal.tail import states
from ...queues.view import Seen
from .rows import Row, event_row

if TYPE_CHECKING:
    from ...queues.streams.view import StreamsView

ROWS_MAX: Final = 1000
FIRST_ROWS: Final = 200
PAYLOAD_BYTES_MAX: Final = 8 << 20
GONE: Final = "settled"
_NUMBER_CHARS: Final = 3
_ID: Final = re.compile(r"(\d{1,3})/(\d{1,20}-[\w.]{1,64}-\d{1,12}):(\d{1,9})", re.ASCII)


class Place(NamedTuple):
    """Where an event or a dead letter lies: the folder's number, its segment's name without the ending, its ordinal."""

    journal: int
    segment: str
    ordinal: int

    @classmethod
    def of(cls, id_: str, journals: int) -> Place:
        """Return what an id names.  Raises KeyError for what is none of these many folders'."""
        found = _ID.fullmatch(id_)
        if found is None or int(found[1]) >= journals:
            raise KeyError(id_)
        return cls(int(found[1]), found[2], int(found[3]))


class Died(NamedTuple):
    """What a dead letter says of the event that died."""

    at_s: int
    letter: str
    reason: str
    attempts: int

    def as_row(self) -> Row:
        """Return what the event's row gains."""
        return {"letter": self.letter, "reason": self.reason, "attempts": self.attempts}


class News(NamedTuple):
    """What a look found: new rows in order, older ones that have changed, how many events were not looked at."""

    rows: list[Row]
    changed: list[Row]
    passed_over: int


class Found(NamedTuple):
    """An event by its id; see ``queues.view.Seen``."""

    id: str
    event: Event
    at_s: float
    state: str


class EventSource(Protocol):
    """One queue's events.  Ids are the queue's own; nothing here raises where it is away."""

    def look(self, last: int | None) -> Sequence[Seen]:
        """Return what was put since the last look."""
        ...

    def states(self, ids: Iterable[str]) -> dict[str, str]:
        """Return what became of events that were queued; what can't be told now is left out."""
        ...

    def find(self, id_: str) -> Seen:
        """Return an event that is still there.  Raises KeyError."""
        ...


class FolderEvents:
    """The events of a journal's folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._tail = Tail(folder)

    def look(self, last: int | None) -> Sequence[Seen]:
        """See EventSource.look."""
        return self._tail.look(last)

    def states(self, ids: Iterable[str]) -> dict[str, str]:
        """See EventSource.states."""
        segments: dict[str, dict[int, str]] = {}
        for id_ in ids:
            place = Place.of(f"0/{id_}", 1)
            segments.setdefault(place.segment, {})[place.ordinal] = id_
        found: dict[str, str] = {}
        for segment, ones in segments.items():
            with suppress(OSError, ValueError):
                now = states(self._folder, f"{segment}.seg", list(ones))
                found |= {id_: GONE if now is None else now.get(at, "queued") for at, id_ in ones.items()}
        return found

    def find(self, id_: str) -> Seen:
        """See EventSource.find."""
        place = Place.of(f"0/{id_}", 1)
        with suppress(OSError, ValueError):
            for seen in events(self._folder, f"{place.segment}.seg"):
                if seen.id == id_:
                    return seen
        raise KeyError(id_)


class SharedEvents:
    """The events of a queue that machines share."""

    def __init__(self, view: StreamsView) -> None:
        self._view = view
        self._follower = view.follow()

    def look(self, last: int | None) -> Sequence[Seen]:
        """See EventSource.look."""
        try:
            seen = self._follower.look(last)
        except (QueueUnavailable, RedisUnusable):
            return []
        return [Found(one.id, one.event, one.at_s, "queued") for one in seen]

    def states(self, ids: Iterable[str]) -> dict[str, str]:
        """See EventSource.states."""
        wanted = list(ids)
        try:
            there = self._view.fleet.states(wanted)
        except (QueueUnavailable, RedisUnusable):
            return {}
        return {id_: "queued" if id_ in there else GONE for id_ in wanted}

    def find(self, id_: str) -> Seen:
        """See EventSource.find."""
        return self._view.fleet.find(id_)


class EventsTail:
    """The newest events of these queues.  For several threads, one at a time."""

    def __init__(self, sources: Sequence[EventSource], *, visitor_ids: bool) -> None:
        self._sources = sources
        self._visitor_ids = visitor_ids
        self._begun = False
        self._lock = Lock()
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._kept: OrderedDict[str, Event] = OrderedDict()
        self._kept_bytes = 0

    def rows(self) -> list[Row]:
        """Return what is remembered, oldest first."""
        with self._lock:
            return [dict(row) for row in self._rows.values()]

    def look(self, letters: Mapping[str, Died]) -> News:
        """Look for news.  ``letters``: what is known of dead letters, by the id of the event that died."""
        with self._lock:
            changed = self._look_again(letters)
            last = None if self._begun else FIRST_ROWS
            self._begun = True
            seen = [(number, one) for number, source in enumerate(self._sources) for one in source.look(last)]
            seen.sort(key=lambda pair: pair[1].at_s)
            passed_over = max(0, len(seen) - ROWS_MAX)
            return News([self._remember(number, one) for number, one in seen[passed_over:]], changed, passed_over)

    def _remember(self, number: int, seen: Seen) -> Row:
        id_ = f"{number}/{seen.id}"
        row = event_row(seen.event, visitor_ids=self._visitor_ids)
        row |= {"id": id_, "at": seen.at_s, "state": seen.state, "attempts": None}
        self._rows[id_] = row
        self._kept[id_] = seen.event
        self._kept_bytes += len(seen.event.payload)
        if len(self._rows) > ROWS_MAX:
            old, _ = self._rows.popitem(last=False)
            self._forget(old)
        while self._kept_bytes > PAYLOAD_BYTES_MAX:
            self._forget(next(iter(self._kept)))
        return dict(row)

    def _forget(self, id_: str) -> None:
        event = self._kept.pop(id_, None)
        if event is not None:
            self._kept_bytes -= len(event.payload)

    def _look_again(self, letters: Mapping[str, Died]) -> list[Row]:
        """Return the rows that have changed since the rows were shown."""
        changed: dict[str, Row] = {}
        waiting: dict[int, list[str]] = {}
        for id_, row in self._rows.items():
            if row["state"] == "queued":
                source, _, inner = id_.partition("/")
                waiting.setdefault(int(source), []).append(inner)
            elif row["state"] in ("dead", GONE) and "letter" not in row and id_ in letters:
                changed[id_] = {"state": "dead", **letters[id_].as_row()}
        for number, ones in waiting.items():
            now = self._sources[number].states(ones)
            for one in ones:
                id_ = f"{number}/{one}"
                state = now.get(one, "queued")
                if id_ in letters:
                    changed[id_] = {"state": "dead", **letters[id_].as_row()}
                elif state != "queued":
                    changed[id_] = {"state": state}
        for id_, news in changed.items():
            self._rows[id_] |= news
        return [dict(self._rows[id_]) for id_ in changed]

    def find(self, id_: str) -> Seen:
        """Return an event by its id.  Raises KeyError: there is none, or it is settled and gone."""
        number, _, inner = id_.partition("/")
        with self._lock:
            kept, row = self._kept.get(id_), self._rows.get(id_)
        if kept is not None and row is not None:
            return Found(inner, kept, row["at"], row["state"])
        if not number.isdecimal() or len(number) > _NUMBER_CHARS or int(number) >= len(self._sources):
            raise KeyError(id_)
        return self._sources[int(number)].find(inner)
