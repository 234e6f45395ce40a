"""Dead letters: parked with reason, answer and time; bounded by bytes and age, the oldest go first.

They lie in segments of the same format under ``dead/``.  A letter is on the disk (at ``fsync``: on the device)
before the outcome byte that settles the event.  A crash in between leaves a letter whose event looks queued: whoever
adopts the event's segment asks the letters of dead writers first (``Parked``).  Who changes an outcome here holds the
segment's flock for as long as that takes; who puts a letter back also looks, puts and notes under it, or two who do so
at once would send it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...clock import Clock
from ...event import Envelope, Event
from ...sender.primitives import pause
from ..protocol import Answer
from . import format as fmt
from .cursor import JournalLease
from .format import Frame, Kind, Outcome
from .segment import SegmentWriter

if TYPE_CHECKING:
    from .folder import Folder

_DEAD_SEGMENT_BYTES: Final = 1 << 18
_LOCK_POLL_S: Final = 0.01
_VOID: Final = bytes([Outcome.VOID])


@dataclass(frozen=True, slots=True, repr=False)
class DeadLetter:
    """One dead letter.  ``id`` names it to the command line; ``at_s`` is when it died, in seconds since the epoch.

    ``origin`` is the id that the event had as it waited.
    """

    id: str
    event: Event
    reason: str
    status: int
    answer: str
    at_s: int
    attempts: int
    origin: str = ""

    def __repr__(self) -> str:
        return f"DeadLetter({self.id!r}, {self.event!r}, {self.reason!r}, status={self.status})"


class DeadWriter:
    """Where this process parks its dead letters; used by one thread at a time."""

    def __init__(
        self, folder: Folder, clock: Clock, *, durable: bool, begun: Callable[[SegmentWriter], None]
    ) -> None:  # fmt: skip
        """Keep the arguments; the segment is made with the first letter.

        ``begun`` is told of each segment that is not synced here, before its first letter.
        """
        self.folder = folder
        self.clock = clock
        self.durable = durable
        self._begun = begun
        self.reset()

    def reset(self) -> None:
        """Start from nothing."""
        self._writer: SegmentWriter | None = None
        self._number = 0
        self.names: list[str] = []
        """The segments of this process's letters that are not folded yet, oldest first."""

    def write(self, lease: JournalLease, reason: str, answer: Answer | None, writer_name: str) -> None:
        """Park one event.  Raises OSError, after which it does not count as parked.

        One by one, each noted before the next is written: what a crash leaves without a note lies in the open segment.
        """
        at_s = int(self.clock.time())
        said = answer or Answer()
        meta = {
            "reason": reason, "status": said.status, "answer": said.body[:1024], "attempts": lease.attempts,
            "origin": f"{lease.cursor.name}:{lease.ordinal}",
        }  # fmt: skip
        payload = fmt.encode_dead(meta, lease.event.payload)
        writer = self._room(lease.event.envelope, payload, writer_name)
        writer.append(Kind.DEAD, writer.envelopes[lease.event.envelope], payload, at_s)
        try:
            if self.durable:
                self.folder.disk.datasync(writer.fd)
        except OSError:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Undo the newest letter, whose event went back to the queue after all; the segment ends here."""
        writer = self._writer
        if writer is not None:
            with suppress(OSError):
                self.close()  # a second sync after a failed one would say that all is well
            with suppress(OSError, ValueError):
                settle(self.folder, writer.name, [writer.count - 1], Outcome.VOID)

    def _room(self, envelope: Envelope, payload: bytes, writer_name: str) -> SegmentWriter:
        definition = fmt.encode_envelope(envelope)
        wanted = fmt.frame_bytes(len(payload)) + 2 * fmt.frame_bytes(len(definition))
        writer = self._writer
        if writer is None or not writer.has_room(wanted, 1, 0):
            self.close()
            size = max(_DEAD_SEGMENT_BYTES, wanted + 3 * fmt.PAGE_BYTES)
            now_ms = int(self.clock.time() * 1000)
            header = fmt.encode_header("", writer_name, now_ms, sender=False, retry=False, outcome_pages=1)
            name = f"{now_ms:013d}-{writer_name}-{self._number:06d}.seg"
            self._number += 1
            writer = SegmentWriter(
                self.folder.disk, self.folder.dead, name, header, size,
                mode=self.folder.file_mode, gid=self.folder.gid, durable=self.durable,
            )  # fmt: skip
            if not self.durable:
                self._begun(writer)
            self._writer = writer
            self.names.append(name)
        if envelope not in writer.envelopes:
            writer.define(envelope, definition, int(self.clock.time()))
        return writer

    def close(self) -> None:
        """Seal what is open."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                if self.durable:
                    self.folder.disk.datasync(writer.fd)
            finally:
                writer.seal(self.folder.disk)


class Parked:
    """Which events the dead letters of dead writers hold, of those that may not have been noted.

    A segment that was sealed holds none of these.  What a dead writer left does not change, so it is read once.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._by_name: dict[str, dict[str, list[int]]] = {}

    def by_segment(self) -> dict[str, list[int]]:
        """Return the ordinals of the events by their segment's name.  Raises OSError."""
        names = self.folder.segment_names(self.folder.dead)
        known = self._by_name
        self._by_name = {name: known[name] for name in names if name in known}
        for name in names:
            if name not in known and not self.folder.is_alive(name.split("-")[1]):
                with suppress(ValueError):  # a header that can't be read
                    self._by_name[name] = self._read(name)
        found: dict[str, list[int]] = {}
        for origins in self._by_name.values():
            for segment, ordinals in origins.items():
                found.setdefault(segment, []).extend(ordinals)
        return found

    def _read(self, name: str) -> dict[str, list[int]]:
        found = read_segment(self.folder, f"{self.folder.dead}/{name}")
        origins: dict[str, list[int]] = {}
        if found is None or found[0].sealed_events is not None:
            return origins
        header, settled, data = found
        for _, frame, _ in walk(data, header.records_at):
            if frame is None or frame.kind != Kind.DEAD or settled[frame.ordinal : frame.ordinal + 1] == _VOID:
                continue
            with suppress(ValueError):
                segment, _, ordinal = str(fmt.decode_dead(frame.payload)[0].get("origin")).rpartition(":")
                origins.setdefault(segment, []).append(int(ordinal))
        return origins


def walk(data: bytes, start: int) -> Iterator[tuple[int, Frame | None, bytes]]:
    """Yield every frame of a segment's bytes with its offset; a damaged place as None with its bytes.

    Ends where nothing is written yet.  What follows the last whole frame and is not zero comes as one damaged place.
    """
    at = start
    while at < len(data):
        here = fmt.read_frame(data, at)
        if here is None:
            if not any(data[at:]):
                return
            here = False
        if isinstance(here, Frame):
            yield at, here, b""
            at = here.end
            continue
        found = fmt.resync(data, at)
        stop = len(data) if found is None else found
        damaged = data[at:stop]
        if any(damaged):
            yield at, None, damaged
        at = stop


def read_segment(folder: Folder, path: str) -> tuple[fmt.Header, bytes, bytes] | None:
    """Read a whole segment: header, outcome bytes, all bytes; None if it is gone.  Raises OSError or ValueError."""
    try:
        fd = folder.disk.open(path, write=False)
    except FileNotFoundError:
        return None
    try:
        data = folder.disk.read(fd, folder.disk.size(path), 0)
    finally:
        folder.disk.close(fd)
    header = fmt.decode_header(data[: fmt.header_bytes_wanted(data[: fmt.PAGE_BYTES])])
    return header, data[header.outcomes_at : header.records_at], data


def letters(folder: Folder, name: str) -> Iterator[tuple[int, DeadLetter]]:
    """Yield the unsettled letters of one dead segment with their ordinals; what can't be read is passed over."""
    found = read_segment(folder, f"{folder.dead}/{name}")
    if found is None:
        return
    header, settled, data = found
    envelopes: dict[int, Envelope] = {}
    for _, frame, _ in walk(data, header.records_at):
        if frame is None:
            continue
        try:
            if frame.kind == Kind.ENVELOPE:
                envelopes[frame.envelope] = fmt.decode_envelope(frame.payload)
            elif frame.kind == Kind.DEAD and settled[frame.ordinal] not in fmt.SETTLED and frame.envelope in envelopes:
                meta, payload = fmt.decode_dead(frame.payload)
                yield frame.ordinal, _letter(name, frame, meta, Event(envelopes[frame.envelope], payload))
        except (ValueError, TypeError, IndexError):  # what was damaged or made by hand: null where a number stands
            continue


def _letter(name: str, frame: Frame, meta: dict[str, Any], event: Event) -> DeadLetter:
    return DeadLetter(
        id=f"{name.removesuffix('.seg')}:{frame.ordinal}", event=event, reason=str(meta.get("reason", "")),
        status=int(meta.get("status", 0)), answer=str(meta.get("answer", "")), at_s=frame.at_s,
        attempts=int(meta.get("attempts", 0)), origin=str(meta.get("origin", "")).replace(".seg:", ":"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """A dead segment whose flock is held."""

    folder: Folder
    path: str
    fd: int
    header: fmt.Header

    def unsettled(self, ordinals: Sequence[int]) -> list[int]:
        """Return those of the letters that have no outcome yet."""
        settled = self.folder.disk.read(self.fd, self.header.events_max, self.header.outcomes_at)
        return [one for one in ordinals if one < len(settled) and settled[one] not in fmt.SETTLED]

    def all_ordinals(self) -> Sequence[int]:
        """Return the ordinals of all letters, of damaged ones too."""
        if self.header.sealed_events is not None:
            return range(self.header.sealed_events)
        data = self.folder.disk.read(self.fd, self.folder.disk.size(self.path), 0)
        frames = (frame for _, frame, _ in walk(data, self.header.records_at))
        return range(1 + max((one.ordinal for one in frames if one is not None and one.kind == Kind.DEAD), default=-1))

    def settle(self, ordinals: Sequence[int], outcome: Outcome) -> int:
        """Settle letters; returns how many were not settled before."""
        fresh = self.unsettled(ordinals)
        for ordinal in fresh:
            self.folder.disk.write(self.fd, bytes([outcome]), self.header.outcomes_at + ordinal)
        return len(fresh)


@contextmanager
def held(folder: Folder, name: str, *, wait_s: float = 0.0) -> Iterator[Held]:
    """Hold a dead segment's flock, waiting for it up to ``wait_s`` seconds.

    Raises FileNotFoundError if it is gone, BlockingIOError if somebody else is at it, other OSError, ValueError.
    """
    path = f"{folder.dead}/{name}"
    fd = folder.disk.open(path)
    try:
        polls = int(wait_s / _LOCK_POLL_S)
        while not folder.disk.lock(fd):
            if polls <= 0:
                raise BlockingIOError(11, "somebody else is at this segment; try again", path)
            polls -= 1
            pause(_LOCK_POLL_S)
        if not folder.disk.still_named(fd, path):
            raise FileNotFoundError(2, "this segment was removed just now", path)
        first = folder.disk.read(fd, fmt.PAGE_BYTES, 0)
        header = fmt.decode_header(folder.disk.read(fd, fmt.header_bytes_wanted(first), 0))
        yield Held(folder, path, fd, header)
    finally:
        folder.disk.close(fd)


def settle(folder: Folder, name: str, ordinals: Sequence[int] | None, outcome: Outcome, *, wait_s: float = 0.0) -> int:
    """Settle letters of one segment (None: all of them); returns how many were not settled before.

    Raises as ``held``.
    """
    with held(folder, name, wait_s=wait_s) as segment:
        return segment.settle(segment.all_ordinals() if ordinals is None else ordinals, outcome)
