"""Dead letters: how many of each reason, those that somebody looks for, and the choice that a change is about.

They are read from the disk, segment by segment (of 256 KiB), the newest first, as far as is needed: a list ends when it
is long enough.  Of each segment its counts are remembered until its outcome bytes change, so that the sum by reason,
asked for every few seconds, reads little.  Between two segments this waits a moment: the thread that takes events
shares the interpreter.

Those of a queue that machines share are counted by the server, and come a page at a time, the newest of all first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from threading import Lock
from time import sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ...errors import QueueUnavailable, RedisUnusable
from ...queues.journal import dead
from ...queues.journal import format as fmt
from ...queues.journal.dead import DeadLetter
from ...queues.journal.folder import Folder
from ...queues.view import Letter
from .events import Died, Place
from .rows import Filter, Row, letter_row

if TYPE_CHECKING:
    from ...queues.streams.view import StreamsView

LIST_ROWS: Final = 20
TOGETHER: Final = 250
NEWEST: Final = 200
ORIGINS_MAX: Final = 2000
BREATH_S: Final = 0.002
IDS_MAX: Final = 5000


class Choice(NamedTuple):
    """Which letters somebody means: these ids, or, if there are none, all that a filter takes."""

    ids: frozenset[str]
    filter: Filter

    @classmethod
    def of(cls, values: dict[str, Any]) -> Choice:
        """Return what a request asks for.  Raises ValueError where it says neither: nobody means all by mistake."""
        ids = values.get("ids")
        if isinstance(ids, list) and 0 < len(ids) <= IDS_MAX and all(isinstance(one, str) for one in ids):
            return cls(frozenset(ids), Filter())
        wanted = values.get("matching")
        if ids is None and isinstance(wanted, dict):
            return cls(frozenset(), Filter.of({"text": wanted.get("text"), "reason": wanted.get("reason")}))
        raise ValueError(f"name up to {IDS_MAX:,} dead letters by their ids, or a filter")


class Counted(NamedTuple):
    """What is remembered of a segment: what it was counted by, and its letters by reason."""

    sign: tuple[int, bytes]
    by_reason: Counter[str]


class Letters(Protocol):
    """The dead letters of a relay's queues.  For several threads."""

    origins: dict[str, Died]
    """The newest letters, by the id that the event had as it waited."""

    def by_reason(self) -> dict[str, int]:
        """Count the letters by reason."""
        ...

    def rows(self, wanted: Filter, *, before: str = "") -> tuple[list[Row], str]:
        """Return the newest letters that a filter takes, and what to ask for next; "": these were the last.

        ``before``: what an earlier answer said.  Raises KeyError for what is no id.
        """
        ...

    def check(self, choice: Choice) -> None:
        """Raise KeyError for a choice that names what is no id."""
        ...

    def chosen(self, choice: Choice) -> Iterator[tuple[int, Sequence[Letter]]]:
        """Yield the letters of a choice, with their queue's number, some at a time."""
        ...

    def find(self, id_: str) -> Letter:
        """Return a letter by its id.  Raises KeyError."""
        ...


class SharedLetters:
    """The dead letters of a queue that machines share; see :class:`Letters`.

    Its methods raise QueueUnavailable and RedisUnusable, but for ``by_reason``, which then says what it said last.
    """

    def __init__(self, view: StreamsView, *, visitor_ids: bool) -> None:
        self._fleet = view.fleet
        self._visitor_ids = visitor_ids
        self._by_reason: dict[str, int] = {}
        self.origins: dict[str, Died] = {}

    def by_reason(self) -> dict[str, int]:
        """See Letters.by_reason."""
        with suppress(QueueUnavailable, RedisUnusable):
            self._by_reason = self._fleet.dead_by_reason()
            self.origins = {
                f"0/{one.origin}": Died(one.at_s, f"0/{one.id}", one.reason, one.attempts)
                for one in islice(self._fleet.newest_letters(), NEWEST)
            }
        return self._by_reason

    def rows(self, wanted: Filter, *, before: str = "") -> tuple[list[Row], str]:
        """See Letters.rows."""
        found: list[Row] = []
        for letter in self._fleet.newest_letters(_inner(before) if before else ""):
            row = letter_row(letter, 0, visitor_ids=self._visitor_ids)
            if wanted.takes(row):
                if len(found) == LIST_ROWS:
                    return found, str(found[-1]["id"])
                found.append(row)
        return found, ""

    def check(self, choice: Choice) -> None:
        """See Letters.check."""
        for one in choice.ids:
            self._fleet.check_letter_id(_inner(one))

    def chosen(self, choice: Choice) -> Iterator[tuple[int, Sequence[Letter]]]:
        """See Letters.chosen."""
        part: list[Letter] = []
        for letter in self._meant(choice):
            part.append(letter)
            if len(part) == TOGETHER:
                yield 0, part
                part = []
        if part:
            yield 0, part

    def _meant(self, choice: Choice) -> Iterator[Letter]:
        if choice.ids:
            for id_ in sorted(choice.ids):
                with suppress(KeyError):  # somebody was faster
                    yield self._fleet.letter(_inner(id_))
            return
        for letter in self._fleet.newest_letters():
            if choice.filter.takes(letter_row(letter, 0, visitor_ids=self._visitor_ids)):
                yield letter

    def find(self, id_: str) -> Letter:
        """See Letters.find."""
        return self._fleet.letter(_inner(id_))


def _inner(id_: str) -> str:
    number, _, inner = id_.partition("/")
    if number != "0":
        raise KeyError(id_)
    return inner


class FolderLetters:
    """The dead letters of these folders; see :class:`Letters`."""

    def __init__(self, folders: Sequence[Folder], *, visitor_ids: bool) -> None:
        self._folders = folders
        self._visitor_ids = visitor_ids
        self._lock = Lock()
        self._counted: dict[tuple[int, str], Counted] = {}
        self.origins: dict[str, Died] = {}
        """The newest letters, by the id that the event had as it waited."""

    def by_reason(self) -> dict[str, int]:
        """Count the letters by reason."""
        with self._lock:
            total: Counter[str] = Counter()
            known, self._counted = self._counted, {}
            for number, name in self._segments():
                with suppress(OSError, ValueError):
                    sign = _sign(self._folders[number], name)
                    found = known.get((number, name))
                    if found is None or found.sign != sign:
                        found = Counted(sign, self._count(number, name))
                        sleep(BREATH_S)
                    self._counted[number, name] = found
                    total += found.by_reason
            return dict(total)

    def _segments(self) -> list[tuple[int, str]]:
        """Return all segments of dead letters, the newest first."""
        found = [
            (number, name) for number, folder in enumerate(self._folders) for name in folder.segment_names(folder.dead)
        ]
        return sorted(found, key=lambda pair: (pair[1], pair[0]), reverse=True)

    def _count(self, number: int, name: str) -> Counter[str]:
        by_reason: Counter[str] = Counter()
        for _, letter in dead.letters(self._folders[number], name):
            by_reason[letter.reason] += 1
            origin = f"{number}/{letter.origin}"
            self.origins[origin] = Died(letter.at_s, f"{number}/{letter.id}", letter.reason, letter.attempts)
        if len(self.origins) > 2 * ORIGINS_MAX:
            newest = sorted(self.origins.items(), key=lambda pair: pair[1], reverse=True)
            self.origins = dict(newest[:ORIGINS_MAX])
        return by_reason

    def rows(self, wanted: Filter, *, before: str = "") -> tuple[list[Row], str]:
        """Return the newest letters that a filter takes, and what to ask for next; "": these were the last.

        ``before``: what an earlier answer said.  Raises KeyError for what is no id.
        """
        found: list[Row] = []
        start = Place.of(before, len(self._folders)) if before else None
        for number, name, letters in self._walk(wanted.reason):
            segment = name.removesuffix(".seg")
            if start is not None and (segment, number) > (start.segment, start.journal):
                continue
            for letter in reversed(letters):
                here = Place.of(f"{number}/{letter.id}", len(self._folders))
                if start is not None and here[:2] == start[:2] and here.ordinal >= start.ordinal:
                    continue
                row = letter_row(letter, number, visitor_ids=self._visitor_ids)
                if wanted.takes(row):
                    if len(found) == LIST_ROWS:
                        return found, str(found[-1]["id"])
                    found.append(row)
        return found, ""

    def _walk(self, reason: str = "") -> Iterator[tuple[int, str, list[DeadLetter]]]:
        """Yield the letters of each segment, the newest segment first; those of a reason, if one is given."""
        for number, name in self._segments():
            with suppress(OSError, ValueError):
                letters = [letter for _, letter in dead.letters(self._folders[number], name)]
                wanted = [letter for letter in letters if not reason or letter.reason == reason]
                if wanted:
                    yield number, name, wanted
            sleep(BREATH_S)

    def check(self, choice: Choice) -> None:
        """Raise KeyError for a choice that names what is no id."""
        for one in choice.ids:
            Place.of(one, len(self._folders))

    def chosen(self, choice: Choice) -> Iterator[tuple[int, list[DeadLetter]]]:
        """Yield the letters of a choice, with their folder's number, a segment at a time."""
        segments = {Place.of(one, len(self._folders))[:2] for one in choice.ids}
        for number, name, letters in self._walk(choice.filter.reason):
            if choice.ids and (number, name.removesuffix(".seg")) not in segments:
                continue
            wanted = [one for one in letters if self._is_chosen(choice, number, one)]
            if wanted:
                yield number, wanted

    def _is_chosen(self, choice: Choice, number: int, letter: DeadLetter) -> bool:
        if choice.ids:
            return f"{number}/{letter.id}" in choice.ids
        text = choice.filter.text
        return not text or choice.filter.takes(letter_row(letter, number, visitor_ids=self._visitor_ids))

    def find(self, id_: str) -> DeadLetter:
        """Return a letter by its id.  Raises KeyError."""
        place = Place.of(id_, len(self._folders))
        folder, name = self._folders[place.journal], f"{place.segment}.seg"
        with suppress(OSError, ValueError):
            for ordinal, letter in dead.letters(folder, name):
                if ordinal == place.ordinal:
                    return letter
        raise KeyError(id_)


def _sign(folder: Folder, name: str) -> tuple[int, bytes]:
    """Return what changes with every letter that a segment gains or loses.  Raises OSError or ValueError."""
    path = f"{folder.dead}/{name}"
    fd = folder.disk.open(path, write=False)
    try:
        header = fmt.decode_header(
            folder.disk.read(fd, fmt.header_bytes_wanted(folder.disk.read(fd, fmt.PAGE_BYTES, 0)), 0)
        )
        settled = folder.disk.read(fd, header.events_max, header.outcomes_at)
        if header.sealed_events is not None:
            return header.sealed_events, settled
        written = folder.disk.read(fd, folder.disk.size(path), header.records_at)
    finally:
        folder.disk.close(fd)
    return -len(written.rstrip(b"\0")), settled
