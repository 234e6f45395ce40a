"""The live tail: the newest events of all folders, and what became of them since they were shown.

A look costs what was put since the last one; of a storm only the newest are parsed, and the others are counted as
passed over.  What is shown is remembered by its row; its payload only up to a bound, and beyond that it is read from
the disk for as long as it lies there.  An event whose segment is gone was settled, which is what its state says then:
segments go when all in them are delivered, dead or dropped, and nothing tells which of these this one was.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Final, NamedTuple

from ...event import Event
from ...queues.journal.folder import Folder
from ...queues.journal.inspect import Seen, Tail, events
from ...queues.journal.tail import states
from .rows import Row, event_row

ROWS_MAX: Final = 1000
FIRST_ROWS: Final = 200
PAYLOAD_BYTES_MAX: Final = 8 << 20
GONE: Final = "settled"
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


class EventsTail:
    """The newest events of these folders.  For several threads, one at a time."""

    def __init__(self, folders: Sequence[Folder], *, visitor_ids: bool) -> None:
        self._folders = folders
        self._visitor_ids = visitor_ids
        self._tails = [Tail(folder) for folder in folders]
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
            seen = [(number, one) for number, tail in enumerate(self._tails) for one in tail.look(last)]
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
        waiting: dict[tuple[int, str], list[tuple[int, str]]] = {}
        for id_, row in self._rows.items():
            if row["state"] == "queued":
                place = Place.of(id_, len(self._folders))
                waiting.setdefault(place[:2], []).append((place.ordinal, id_))
            elif row["state"] == "dead" and "letter" not in row and id_ in letters:
                changed[id_] = letters[id_].as_row()
        for (number, segment), ones in waiting.items():
            now: Mapping[int, str] | None = {}
            with suppress(OSError, ValueError):
                now = states(self._folders[number], f"{segment}.seg", [ordinal for ordinal, _ in ones])
            for ordinal, id_ in ones:
                state = GONE if now is None else now.get(ordinal, "queued")
                if id_ in letters:
                    changed[id_] = {"state": "dead", **letters[id_].as_row()}
                elif state != "queued":
                    changed[id_] = {"state": state}
        for id_, news in changed.items():
            self._rows[id_] |= news
        return [dict(self._rows[id_]) for id_ in changed]

    def find(self, id_: str) -> Seen:
        """Return an event by its id.  Raises KeyError: there is none, or it is settled and gone."""
        place = Place.of(id_, len(self._folders))
        with self._lock:
            kept, row = self._kept.get(id_), self._rows.get(id_)
        inner = f"{place.segment}:{place.ordinal}"
        if kept is not None and row is not None:
            return Seen(inner, kept, row["at"], row["state"])
        with suppress(OSError, ValueError):
            for seen in events(self._folders[place.journal], f"{place.segment}.seg"):
                if seen.id == inner:
                    return seen
        raise KeyError(id_)
