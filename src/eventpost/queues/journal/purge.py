"""``eventpost purge``: erase one visitor's events from a folder, for good, while others use it.

It reads every byte, also of what is settled and not removed yet, and of ``bad/``.  What it finds is written down
(``erase``), then carried out: here, where nobody has the file in hand; else by who has, for whom this waits.  Then it
reads all of it again, until nothing more is found: an event that was in flight may have become a dead letter, damaged
bytes may have been set aside.  What is put while it works is not its business.

What it can't do is named (``left``), and stays asked for: the note is kept, and its holder carries it out as soon as it
can.  Nothing here, and nothing that it writes, says who the visitor is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ...clock import Clock, SystemClock
from ...event import Envelope
from ...sender.primitives import pause
from . import dead, erase
from . import format as fmt
from .dead import Parked
from .erase import NO_RECORD, Done, Place, Places
from .folder import writer_of
from .format import SETTLED, Kind, Outcome
from .inspect import open_folder
from .visitors import Visitor, answer_span

if TYPE_CHECKING:
    from .folder import Folder

_PLACES_MAX: Final = 50_000
"""Places in one note."""
_WATCHED_MAX: Final = 256
_POLL_S: Final = 0.05
_ROUNDS_MAX: Final = 100
"""Looks at the whole folder: what is put in the second in which it began may be found by each."""
_KEPT: Final[tuple[str, ...]] = ("reason", "status", "attempts", "origin")
"""What stays of a dead letter's own text: not the answer, which may quote what was sent."""
_SETTLED: Final = frozenset(bytes([one]) for one in SETTLED)
_NO_ANSWER: Final = "and did not answer in time: stop it (its events stay on the disk), then purge again"


@dataclass(frozen=True, slots=True)
class Left:
    """A file in which something could not be erased: how many places of it, and why."""

    file: str
    places: int
    why: str


@dataclass(slots=True)
class Purged:
    """What a purge did.

    ``queued`` and ``dead`` events are dropped now, counted as ``purged``; of ``erased`` events, settled before, only
    the bytes were left; of ``cut`` events others are part, and stay.  ``damaged``: places where bytes that are no
    record showed the id, erased too.  ``unreadable``: such places that do not show it, left as they are.
    ``mentioned``: records of others in which the id stands as somebody's value, left as they are.
    """

    queued: int = 0
    dead: int = 0
    erased: int = 0
    cut: int = 0
    damaged: int = 0
    unreadable: int = 0
    mentioned: int = 0
    left: list[Left] = field(default_factory=list)


def purge(
    path: str | os.PathLike[str], visitor_id: str, *, timeout_s: float = 30.0, clock: Clock | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Purged:  # fmt: skip
    """Erase a visitor; wait up to ``timeout_s`` for those who have segments in hand.

    ``progress`` is told how many files were read, and of how many.  Raises as ``open_folder``, ValueError for an id
    that is none, BlockingIOError if another purge is at work in this folder all the while.
    """
    visitor, folder, clock = Visitor(visitor_id), open_folder(path), clock or SystemClock()
    deadline = clock.monotonic() + timeout_s
    while True:
        with erase.only_one(folder) as alone:
            if alone:
                return _Purge(folder, visitor, clock, deadline, progress or _nobody).run()
        if clock.monotonic() >= deadline:
            raise BlockingIOError(11, "another purge is at work here; try again", folder.path)
        pause(_POLL_S)


def _nobody(done: int, of: int) -> None:
    """Hear of progress that nobody asked for."""


class _Purge:
    """One run.  ``todo``: what was found and is not known to be done; ``earlier``: what others before it left asked."""

    def __init__(
        self, folder: Folder, visitor: Visitor, clock: Clock, deadline: float, progress: Callable[[int, int], None]
    ) -> None:  # fmt: skip
        self.folder = folder
        self.visitor = visitor
        self.clock = clock
        self.deadline = deadline
        self.progress = progress
        self.began_s = int(clock.time())
        self.result = Purged()
        self.todo: Places = {}
        self.earlier: Places = {}
        self.why: dict[str, str] = {}
        self.watched: dict[str, int] = {}

    def run(self) -> Purged:
        try:
            self._rounds()
        finally:
            for fd in self.watched.values():
                self.folder.disk.close(fd)
        return self.result

    def _rounds(self) -> None:
        self.earlier = erase.read_note(self.folder)
        noted = False
        for number in range(_ROUNDS_MAX):
            if not self._look(first=not number) and not self.earlier:
                break
            noted = True
            self._watch()
            self._write_down()
            self._carry_out()
            while (self.earlier or self.todo) and self.clock.monotonic() < self.deadline:
                pause(_POLL_S)
                self._carry_out()
            if self.earlier or self.todo:
                break
        if noted:
            self._write_down()
        for part in ("", *erase.PARTS):  # what was removed before, power loss must not bring back
            self.folder.disk.sync_folder(f"{self.folder.path}/{part}".rstrip("/"))
        for file in sorted({*self.earlier, *self.todo}):
            places = len(self.earlier.get(file, ())) + len(self.todo.get(file, ()))
            self.result.left.append(Left(file, places, self.why[file]))

    def _watch(self) -> None:
        """Open the segments: of one that somebody else is done with, and removes, this tells what became of it."""
        for file in (*self.earlier, *self.todo):
            if file.startswith("segments/") and file not in self.watched and len(self.watched) < _WATCHED_MAX:
                with suppress(FileNotFoundError):
                    self.watched[file] = self.folder.disk.open(f"{self.folder.path}/{file}", write=False)

    def _write_down(self) -> None:
        """Say what is to be done; there is one place for a record."""
        files = {*self.earlier, *self.todo}
        asked = {file: [*self.earlier.get(file, ()), *self.todo.get(file, ())] for file in files}
        erase.write_note(self.folder, asked)

    # -- looking

    def _look(self, *, first: bool) -> bool:
        """Read every file; tells whether anything was found."""
        disk, result = self.folder.disk, self.result
        result.unreadable = result.mentioned = 0
        result.left.clear()
        files = [f"{part}/{name}" for part in erase.PARTS for name in disk.names(f"{self.folder.path}/{part}")]
        found = 0
        for done, file in enumerate(files, 1):
            if not file.endswith(".tmp"):
                try:
                    places = list(self._places(file, first=first))
                except FileNotFoundError:
                    continue
                except (OSError, fmt.NewerFormat) as error:
                    why = f"{error}; a newer release can look into it" if isinstance(error, ValueError) else _why(error)
                    result.left.append(Left(file, 0, why))
                    continue
                if places:
                    self.todo[file] = self._with_earlier(file, places)
                    found += len(places)
            self.progress(done, len(files))
            if found >= _PLACES_MAX:
                break
        return found > 0

    def _places(self, file: str, *, first: bool) -> Iterator[Place]:
        """Yield the places of the visitor in a file.  Raises OSError or NewerFormat."""
        disk, part = self.folder.disk, file.partition("/")[0]
        fd = disk.open(f"{self.folder.path}/{file}", write=False)
        try:
            data = disk.read(fd, disk.size(f"{self.folder.path}/{file}"), 0)
        finally:
            disk.close(fd)
        start = 0
        if part != "bad":
            with suppress(fmt.BadHeader):  # then it is as what lies in bad/
                start = fmt.decode_header(data[: fmt.header_bytes_wanted(data[: fmt.PAGE_BYTES])]).records_at
        elif file.startswith("bad/totals"):
            return
        envelopes: dict[int, Envelope] = {}
        data = self._without_earlier(file, data)
        alive = part != "bad" and self.folder.is_alive(writer_of(file.partition("/")[2]))
        for at, frame, damaged in dead.walk(data, start):
            if frame is None:
                if alive:  # its writer may be in the middle of it; what stays so is seen by the purge after its end
                    continue
                if self.visitor.shows_in(damaged):
                    yield Place(at, NO_RECORD, ((0, len(damaged)),))
                else:
                    self.result.unreadable += 1
            elif frame.kind == Kind.ENVELOPE:
                with suppress(ValueError):
                    envelopes[frame.envelope] = fmt.decode_envelope(frame.payload)
            elif first or frame.kind == Kind.DEAD or frame.at_s <= self.began_s or part == "bad":
                place = self._place(at, frame, envelopes.get(frame.envelope))
                if place is not None:
                    yield place

    def _without_earlier(self, file: str, data: bytes) -> bytes:
        """Return a file's bytes as they will be once what was asked before is done: two may stand in one event."""
        changed = bytearray(data)
        for place in self.earlier.get(file, ()):
            record = erase.record_in(data, place)
            if record is not None:
                changed[place.at : place.at + len(record)] = erase.erased(
                    bytes(changed[place.at : place.at + len(record)]), place
                )
        return bytes(changed)

    def _with_earlier(self, file: str, places: list[Place]) -> list[Place]:
        """Join what was asked before of the same records to these places: one store does both."""
        before = {place.at: place for place in self.earlier.pop(file, ())}
        joined = [
            place if place.whole or place.at not in before
            else place._replace(spans=tuple(sorted({*before[place.at].spans, *place.spans})))
            for place in places
        ]  # fmt: skip
        found = {place.at for place in places}
        left = [place for at, place in before.items() if at not in found]
        if left:
            self.earlier[file] = left
        return joined

    def _place(self, at: int, frame: fmt.Frame, envelope: Envelope | None) -> Place | None:
        """Return what of a record is the visitor's."""
        before, payload = 0, frame.payload
        meta: dict[str, Any] = {}
        if frame.kind == Kind.DEAD:
            try:
                meta, payload = fmt.decode_dead(frame.payload)
            except ValueError:
                return None
            before = len(frame.payload) - len(payload)
        found = self.visitor.find(envelope, payload)
        if found is None:
            self.result.mentioned += self.visitor.is_mentioned(frame.payload)
            return None
        if found.whole:
            kept = {name: meta[name] for name in _KEPT if name in meta}
            return Place(at, frame.ordinal, (), fmt.encode_dead(kept, b"")[4:].decode() if kept else "")
        spans = [(before + start, before + stop) for start, stop in found.spans]
        answer = answer_span(frame.payload[4:before]) if before else None
        if answer is not None and answer[0] < answer[1]:
            spans.append((4 + answer[0], 4 + answer[1]))
        return Place(at, frame.ordinal, tuple(spans))

    # -- doing

    def _carry_out(self) -> None:
        parked: dict[str, list[int]] = {}
        with suppress(OSError):  # they are about events that nobody has in hand: these wait, then
            parked = Parked(self.folder).by_segment()
        for file in list(self.earlier):
            self._try(self.earlier, file, parked, counted=False)
        for file in list(self.todo):
            self._try(self.todo, file, parked, counted=True)

    def _try(self, places: Places, file: str, parked: dict[str, list[int]], *, counted: bool) -> None:
        """Erase what nobody has in hand; of what somebody has, or had, see what they have done."""
        done: Done | str
        if file in self.watched:
            with suppress(OSError, ValueError):
                self._see_what_was_done(file, places[file], counted=counted)
        try:
            done = erase.carry_out(self.folder, file, places[file], parked)
        except FileNotFoundError:
            done = "it is gone" if file in self.watched else Done(erased=len(places[file]))
        except (OSError, ValueError) as error:
            done = _why(error)
        if isinstance(done, str):
            self.why[file] = f"{done} {_NO_ANSWER}" if file.startswith("segments/") else done
        else:
            places[file] = []
            if counted:
                self._count(file, done)
        if not places[file]:
            del places[file]

    def _count(self, file: str, done: Done) -> None:
        result = self.result
        if file.startswith("dead/"):
            result.dead += done.purged
        else:
            result.queued += done.purged
        result.erased += done.erased
        result.cut += done.cut
        result.damaged += done.raw

    def _see_what_was_done(self, file: str, places: list[Place], *, counted: bool) -> None:
        """Take out of the list, of a file that somebody has in hand, what its holder has done."""
        disk, fd = self.folder.disk, self.watched[file]
        gone = not disk.still_named(fd, f"{self.folder.path}/{file}")
        header = erase.read_header(disk, fd)
        for place in list(places):
            record = erase.read_record(disk, fd, place)
            outcome = disk.read(fd, 1, header.outcomes_at + max(0, place.ordinal))
            left = record is not None and erase.erased(record, place) != record
            if not gone and (left or (place.whole and outcome not in _SETTLED)):  # power loss may keep one of the two
                continue
            places.remove(place)
            if counted:
                self._count(file, _done(place, outcome))


def _done(place: Place, outcome: bytes) -> Done:
    """Return what was done of a place by somebody else, by the event's outcome."""
    if place.ordinal == NO_RECORD:
        return Done(raw=1)
    if outcome == bytes([Outcome.PURGED]):
        return Done(purged=1)
    return Done(erased=1) if outcome in _SETTLED or place.whole else Done(cut=1)


def _why(error: Exception) -> str:
    return f"it cannot be read or changed: {getattr(error, 'strerror', None) or error}"
