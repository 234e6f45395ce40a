"""What a purge asks of the segments that this process has in hand: its own while it sends, and what it adopted.

Only their holder knows which of their events are out, so only it can say of the others that they will not be sent.
An event that nobody has claimed, or that waits to be sent again, is dropped on the spot.  One that the sender holds
without having sent it comes back first (``recalls``).  One that is in flight is not called back: its answer settles
it, or brings it back.  The bytes go once an event has an outcome.

All of it happens under the claims' lock, so nothing is read or settled in between; of an own segment that is still
written to, nothing beyond what was promised is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ...event import Event
from ...watch.signals import Signal, Trouble
from . import erase
from .claims import Claims
from .cursor import Again, Cursor
from .erase import NO_RECORD, Place
from .format import Outcome
from .segment import SegmentWriter

if TYPE_CHECKING:
    from .folder import Folder

AGAIN_S: Final = 0.1
"""How soon to look again while something asked for is not done."""
_SEGMENTS: Final = "segments/"


class Erasing:
    """Carries out what the folder's note asks, on behalf of one queue."""

    def __init__(self, folder: Folder, claims: Claims, *, emit: Callable[[Signal], None]) -> None:
        """Keep the arguments; touches no file."""
        self.folder = folder
        self.claims = claims
        self.emit = emit
        self.reset()

    def reset(self) -> None:
        """Forget what was asked."""
        self.recalls = False
        """Whether the sender should give back what it holds and has not sent."""

    def look(self, *, elected: bool) -> None:
        """Do what the note asks; ``elected``: also for a command that is gone, where nobody has a segment in hand."""
        self.recalls = False
        try:
            asked = erase.read_note(self.folder)
            if not asked:
                return
            self._look(asked)
            if elected:
                erase.finish(self.folder)
        except OSError as error:
            self.emit(Trouble("journal", f"a purge of {self.folder.path} cannot be carried out: {error.strerror}"))

    def _look(self, asked: erase.Places) -> None:
        claims = self.claims
        with claims.lock:
            cursors = {cursor.name: cursor for cursor in claims.open}
            own = [writer for lane in list(claims.lanes.values()) for writer in list(lane.own)]
            unopened = {writer.name: writer for writer in own if writer.header.sender}  # others are anybody's
            for file, places in asked.items():
                name = file.removeprefix(_SEGMENTS)
                if name in cursors:
                    self._in_hand(cursors[name], places)
                elif name in unopened:
                    self._own_unopened(unopened[name], places)

    def before_reading(self, taken: Sequence[Cursor]) -> None:
        """Do what the note asks of segments that were just adopted.  Raises OSError."""
        asked = erase.read_note(self.folder) if taken else {}
        if asked:
            with self.claims.lock:
                for cursor in taken:
                    self._in_hand(cursor, asked.get(_SEGMENTS + cursor.name, ()))

    def _own_unopened(self, writer: SegmentWriter, places: Iterable[Place]) -> None:
        disk = self.folder.disk
        with suppress(FileNotFoundError):  # then it is lost, which its turn will tell
            fd = disk.open(writer.path)
            try:
                there = [one for one in places if one.ordinal != NO_RECORD and one.at < writer.visible]
                wholes = [one.ordinal for one in there if one.whole]
                self.claims.lose("purged", self.claims.purged.add(writer, wholes))
                for place in there:
                    erase.erase(disk, fd, place, writer.header)
                if there:
                    disk.datasync(fd)
            finally:
                disk.close(fd)

    def _in_hand(self, cursor: Cursor, places: Iterable[Place]) -> None:
        disk = self.folder.disk
        end = disk.size(cursor.path) if cursor.writer is None else cursor.writer.visible
        waiting = self._waiting(cursor)
        touched = False
        for place in places:
            if place.at < end and self._settle(cursor, place, waiting):
                erase.erase(disk, cursor.fd, place, cursor.header)
                touched = True
        if touched:
            cursor.buffer = b""  # it may hold what was erased
            disk.datasync(cursor.fd)
            self.claims.retire_if_done(cursor)

    def _waiting(self, cursor: Cursor) -> dict[int, Again]:
        lane = self.claims.lanes.get(cursor.header.lane)
        again = () if lane is None else lane.again
        return {one.ordinal: one for _, _, one in again if one.cursor is cursor and one.lease is None}

    def _settle(self, cursor: Cursor, place: Place, waiting: dict[int, Again]) -> bool:
        """Tell whether the bytes may go: the event has an outcome, gets one here, or is read from the disk later."""
        claims = self.claims
        if place.ordinal == NO_RECORD:
            return cursor.adopted  # of a dead writer: what is damaged there is nobody's half-done store
        if place.ordinal >= cursor.most or cursor.is_settled(place.ordinal):
            return True
        if place.ordinal >= cursor.ordinal:
            if place.whole:
                self._purge_unread(cursor, place.ordinal)
            return True
        again = waiting.get(place.ordinal)
        if again is None:
            self.recalls = True
            return False
        envelope, payload = again.event
        if place.whole:  # its entry is passed over when its time comes, like that of a late answer's
            cursor.mark(range(place.ordinal, place.ordinal + 1), Outcome.PURGED)
            again.event = Event(envelope, b"")
            cursor.waiting -= 1
            claims.waiting -= 1
            claims.lose("purged", 1)
        else:
            again.event = Event(envelope, erase.erased_payload(payload, place))
        return True

    def _purge_unread(self, cursor: Cursor, ordinal: int) -> None:
        claims = self.claims
        cursor.fresh = False
        if cursor.adopted:
            purged = cursor.mark(range(ordinal, ordinal + 1), Outcome.PURGED)
            claims.adopted += purged
        else:
            purged = claims.purged.add(cursor, [ordinal])
        claims.lose("purged", purged)
