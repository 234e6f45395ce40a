"""Dead letters: parked with reason, answer and time; bounded by bytes and age, the oldest go first.

They lie in segments of the same format under ``dead/``.  A letter is on the disk (at ``fsync``: on the device)
before the outcome byte that settles the event: a crash in between leaves the event both dead and queued, and it is
then sent once more.  Who changes an outcome here holds the segment's flock for as long as that takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...clock import Clock
from ...event import Envelope, Event
from ..protocol import Answer
from . import format as fmt
from .format import Frame, Kind, Outcome
from .segment import JournalLease, SegmentWriter

if TYPE_CHECKING:
    from .folder import Folder

_DEAD_SEGMENT_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter.  ``id`` names it to the command line; ``at_s`` is when it died, in seconds since the epoch."""

    id: str
    event: Event
    reason: str
    status: int
    answer: str
    at_s: int
    attempts: int


class DeadWriter:
    """Where this process parks its dead letters; used by one thread at a time."""

    def __init__(self, folder: Folder, clock: Clock, *, durable: bool) -> None:
        """Keep the arguments; the segment is made with the first letter."""
        self.folder = folder
        self.clock = clock
        self.durable = durable
        self._writer: SegmentWriter | None = None
        self._number = 0

    def write(self, leases: Sequence[JournalLease], reason: str, answer: Answer | None, writer_name: str) -> None:
        """Park the events of these leases.  Raises OSError, after which none of them counts as parked."""
        at_s = int(self.clock.time())
        said = answer or Answer()
        for lease in leases:
            meta = {
                "reason": reason, "status": said.status, "answer": said.body[:1024], "attempts": lease.attempts,
                "origin": f"{lease.cursor.name}:{lease.ordinal}",
            }  # fmt: skip
            payload = fmt.encode_dead(meta, lease.event.payload)
            writer = self._room(lease.event.envelope, payload, writer_name)
            writer.append(Kind.DEAD, writer.envelopes[lease.event.envelope], payload, at_s)
        if self.durable and self._writer is not None:
            self.folder.disk.datasync(self._writer.fd)

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
            self._writer = writer
        if envelope not in writer.envelopes:
            writer.define(envelope, definition, int(self.clock.time()))
        return writer

    def close(self) -> None:
        """Seal what is open."""
        writer, self._writer = self._writer, None
        if writer is not None:
            if self.durable:
                self.folder.disk.datasync(writer.fd)
            writer.seal(self.folder.disk)

    def forget(self) -> None:
        """In a forked child: drop the parent's descriptor."""
        writer, self._writer = self._writer, None
        if writer is not None:
            mapped, writer.map = writer.map, None
            if mapped is not None:
                mapped.close()
            if writer.fd >= 0:
                self.folder.disk.close(writer.fd)
                writer.fd = -1


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
        except (ValueError, IndexError):
            continue


def _letter(name: str, frame: Frame, meta: dict[str, Any], event: Event) -> DeadLetter:
    return DeadLetter(
        id=f"{name.removesuffix('.seg')}:{frame.ordinal}", event=event, reason=str(meta.get("reason", "")),
        status=int(meta.get("status", 0)), answer=str(meta.get("answer", "")), at_s=frame.at_s,
        attempts=int(meta.get("attempts", 0)),
    )  # fmt: skip


def settle(folder: Folder, name: str, ordinals: Sequence[int] | None, outcome: Outcome) -> int:
    """Settle letters of one segment (None: all of them) under its flock; returns how many were not settled before.

    Raises OSError (BlockingIOError if somebody else is at this segment) or ValueError.
    """
    path = f"{folder.dead}/{name}"
    fd = folder.disk.open(path)
    try:
        if not folder.disk.lock(fd) or not folder.disk.still_named(fd, path):
            raise BlockingIOError(11, "somebody else is at this segment; try again", path)
        first = folder.disk.read(fd, fmt.PAGE_BYTES, 0)
        header = fmt.decode_header(folder.disk.read(fd, fmt.header_bytes_wanted(first), 0))
        if ordinals is None:
            data = folder.disk.read(fd, folder.disk.size(path), 0)
            ordinals = [
                frame.ordinal
                for _, frame, _ in walk(data, header.records_at)
                if frame is not None and frame.kind == Kind.DEAD
            ]
        settled = folder.disk.read(fd, header.events_max, header.outcomes_at)
        fresh = [ordinal for ordinal in ordinals if ordinal < len(settled) and settled[ordinal] not in fmt.SETTLED]
        for ordinal in fresh:
            folder.disk.write(fd, bytes([outcome]), header.outcomes_at + ordinal)
        return len(fresh)
    finally:
        folder.disk.close(fd)
