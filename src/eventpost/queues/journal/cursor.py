"""One segment from the side of the process that reads and settles it, its own or another's: leases, damage, outcomes.

Which orders of writing it relies on, and in which it stores outcomes, is at the head of ``segment``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final
from zlib import crc32

from ...event import Envelope, Event
from ..protocol import Lease
from . import format as fmt
from .disk import Disk, Map
from .format import FRAME_HEAD_BYTES, PAGE_BYTES, SETTLED, Header, Kind, Outcome, count_outcomes
from .segment import SegmentWriter

READ_BYTES: Final = 1 << 18
_EVENT: Final = int(Kind.EVENT)
_ENVELOPE: Final = int(Kind.ENVELOPE)
_unpack_frame = fmt.FRAME.unpack_from
_new = tuple.__new__  # a NamedTuple's own constructor is a Python function: a tenth of a claim's time


class JournalLease(Lease):
    """A lease on one frame; ``again`` is set once the event was given back, ``at_s`` is when it was put."""

    __slots__ = ("again", "at_s", "cursor", "ordinal")

    def __init__(  # noqa: PLR0917 - by position: a keyword costs a claim 3 %
        self, event: Event, cursor: Cursor, ordinal: int, at_s: int, now: float, attempts: int = 1
    ) -> None:
        self.event = event
        self.ref = None
        self.claimed_at = now
        self.attempts = attempts
        self.live = True
        self.cursor = cursor
        self.ordinal = ordinal
        self.at_s = at_s
        self.again: Again | None = None


class Again:
    """An event that was given back: ``lease`` is who holds it now, None while it waits for its time."""

    __slots__ = ("at_s", "attempts", "cursor", "event", "lease", "ordinal")

    def __init__(self, lease: JournalLease) -> None:
        self.cursor = lease.cursor
        self.ordinal = lease.ordinal
        self.at_s = lease.at_s
        self.event = lease.event
        self.attempts = lease.attempts
        self.lease: JournalLease | None = None


class Cursor:
    """The reading side: hands out the events that are not settled, in order, and stores what became of them.

    ``writer`` is the own writer while it appends, else None.  ``alive()`` tells whether another process still writes
    here.
    """

    __slots__ = (
        "adopted", "alive", "at", "buffer", "buffer_at", "disk", "end", "ended", "envelopes", "fd", "fresh",
        "header", "leased", "map", "name", "on_damage", "ordinal", "path", "waiting", "writer",
    )  # fmt: skip

    def __init__(
        self, disk: Disk, path: str, *, writer: SegmentWriter | None = None, alive: Callable[[], bool] | None = None,
        on_damage: Callable[[Cursor, int, bytes, int, str], None], fd: int | None = None,
    ) -> None:  # fmt: skip
        """Open a segment.  Raises OSError, BadHeader or NewerFormat."""
        self.disk = disk
        self.path = path
        self.name = path.rsplit("/", 1)[1]
        self.fd = disk.open(path) if fd is None else fd
        try:
            first = disk.read(self.fd, PAGE_BYTES, 0)
            self.header: Header = fmt.decode_header(disk.read(self.fd, fmt.header_bytes_wanted(first), 0))
            if writer is None and disk.size(path) >= self.header.records_at:
                # A copy of a journal may have holes here, and a store into a hole of a full disk is a SIGBUS.
                disk.fill_holes(self.fd, self.header.records_at)
            try:
                self.map: Map | None = disk.map(self.fd, self.header.records_at)
            except ValueError as error:  # a mapping that is longer than its file
                raise fmt.BadHeader("the file ends before its records begin") from error
        except (OSError, ValueError):
            if fd is None:
                disk.close(self.fd)
            raise
        self.fresh = not any(self.map[self.header.outcomes_at : self.header.records_at])
        self.writer = writer
        self.alive = alive
        self.adopted = writer is None and alive is not None
        self.on_damage = on_damage
        self.at = self.header.records_at
        self.ordinal = 0
        self.leased = 0
        self.waiting = 0
        self.ended = False
        self.end: int | None = self.header.sealed_end
        self.envelopes: dict[int, Envelope] = {}
        self.buffer = b""
        self.buffer_at = 0

    def read(
        self,
        events_max: int,
        bytes_max: int,
        now: float,
        out: list[JournalLease],
        intern: Callable[[Envelope], Envelope],
    ) -> int:
        """Append leases to ``out``, return the bytes handed out; ``ended`` is set when nothing can follow."""
        left, most, taken = events_max, self.header.events_max, 0
        if self.writer is None and self.alive is not None and not self.has_more() and self.alive():
            return 0  # looked at a hundred times a second: a window of nothing is not worth reading
        while left > 0 and taken < bytes_max:
            data, at = self._window()
            begin, size = at, len(data)
            stop = size - FRAME_HEAD_BYTES
            settled, envelopes, expected = self._settled(), self.envelopes, self.ordinal
            while at <= stop:
                checksum, length, ordinal, at_s, number, kind, _ = _unpack_frame(data, at)
                after = at + length
                if length < FRAME_HEAD_BYTES or ordinal != expected or after > size:
                    break  # nothing there, or half of a frame, or what follows a gap
                if crc32(data[at + 4 : after]) != checksum:
                    break
                if kind == _EVENT:
                    envelope = envelopes.get(number)
                    if envelope is None or ordinal >= most:
                        break
                    expected += 1
                    if settled is None or settled[ordinal] not in SETTLED:
                        event = _new(Event, (envelope, data[at + FRAME_HEAD_BYTES : after]))
                        out.append(JournalLease(event, self, ordinal, at_s, now))
                        left -= 1
                        taken += length
                elif kind == _ENVELOPE:
                    try:
                        envelopes[number] = intern(fmt.decode_envelope(data[at + FRAME_HEAD_BYTES : after]))
                    except ValueError:
                        break
                else:
                    break
                at += (length + 7) & -8
                if left <= 0 or taken >= bytes_max:
                    break
            self.ordinal = expected
            self.at += at - begin
            if at == begin and not self._go_on(empty=begin >= size):
                break
        return taken

    def _window(self) -> tuple[bytes, int]:
        """Return bytes that start no later than ``at``, and where in them ``at`` is."""
        offset = self.at - self.buffer_at
        if 0 <= offset < len(self.buffer) - FRAME_HEAD_BYTES:
            length = fmt.frame_length(self.buffer, offset)
            if length and offset + length <= len(self.buffer):
                return self.buffer, offset
        wanted = READ_BYTES
        window = self._fetch(wanted)
        length = fmt.frame_length(window, 0)
        if length > len(window) == wanted:
            window = self._fetch(length)
        self.buffer, self.buffer_at = window, self.at
        return window, 0

    def _fetch(self, length: int) -> bytes:
        writer = self.writer
        if writer is not None:
            visible, mapped = writer.visible, writer.map
            if mapped is not None:
                return mapped[self.at : min(visible, self.at + length)]
            return self.disk.read(self.fd, max(0, min(writer.end - self.at, length)), self.at)
        stop = self.at + length if self.end is None else min(self.end, self.at + length)
        return self.disk.read(self.fd, max(0, stop - self.at), self.at)

    def _settled(self) -> bytes | None:
        """Return the outcome bytes, or None if nothing was settled before this cursor was opened (the usual case)."""
        return None if self.fresh or self.map is None else self.map[self.header.outcomes_at : self.header.records_at]

    def _go_on(self, *, empty: bool) -> bool:
        """Decide what it means that no frame could be read; True: read on.  ``empty``: there were no bytes."""
        self.buffer = b""
        if self.writer is not None:
            if not self.writer.sealed:
                return not empty and self._skip_damage(self.writer.visible)
            self._end_at(self.writer.count, self.writer.end)
            self.writer = None
            return True
        if self.end is None:
            seal = self._seal()
            if seal is not None:
                self._end_at(*seal)
            elif self.alive is not None and self.alive():
                return False
            else:  # nobody writes here any more: what is readable now is all there is
                self.end = self.disk.size(self.path)
            return True
        if self.at < self.end and self._skip_damage(self.end):
            return True
        self._finish()
        return False

    def _seal(self) -> tuple[int, int] | None:
        """Return how another process has ended its segment, if it has: the header is mapped, and so its seal."""
        if self.map is None:
            return None
        return fmt.decode_seal(self.header, self.map[fmt.SEAL_AT : fmt.SEAL_AT + fmt.SEAL_BYTES])

    def _end_at(self, events: int, end: int) -> None:
        self.header = self.header._replace(sealed_events=events, sealed_end=end)
        self.end = end

    def _skip_damage(self, stop: int) -> bool:
        """Set aside what can't be read and go to the next whole frame; False: there is none before ``stop``."""
        data = self.disk.read(self.fd, stop - self.at, self.at)
        here = fmt.read_frame(data, 0)
        if here is None and not any(data):
            return False
        if isinstance(here, fmt.Frame) and self._passable(here):
            # A whole frame that can't be delivered (its envelope is gone), or one that follows a gap.
            lost_until = here.ordinal if here.ordinal > self.ordinal or here.kind == Kind.ENVELOPE else here.ordinal + 1
            skipped = 0 if here.ordinal > self.ordinal else here.end
        else:
            found = fmt.resync(data, 0)
            if found is None:
                return False
            follower = fmt.read_frame(data, found)
            lost_until = self.ordinal
            if isinstance(follower, fmt.Frame) and follower.ordinal <= self.most:
                lost_until = follower.ordinal
            skipped = found
        lost = max(0, lost_until - self.ordinal)
        self._lose(lost, data[:skipped], "a frame's checksum does not hold")
        self.at += skipped
        return bool(skipped or lost)

    @property
    def most(self) -> int:
        """How many events there can be."""
        sealed = self.header.sealed_events
        return self.header.events_max if sealed is None else sealed

    def _passable(self, here: fmt.Frame) -> bool:
        return self.ordinal <= here.ordinal < self.most + (here.kind == Kind.ENVELOPE)

    def _lose(self, lost: int, data: bytes, why: str) -> None:
        first, self.ordinal = self.ordinal, self.ordinal + lost
        count = self.mark(range(first, min(first + lost, self.header.events_max)), Outcome.DAMAGED)
        if count or data:  # else its records were cut off after all of them were settled
            self.on_damage(self, self.at, data, count, why)

    def _finish(self) -> None:
        """Account for the tail, then hand out nothing more."""
        self.ended = True
        self.envelopes = {}
        end = self.end or 0
        if self.header.sealed_events is not None and self.ordinal < self.header.sealed_events:
            tail = self.disk.read(self.fd, max(0, end - self.at), self.at)
            self._lose(self.header.sealed_events - self.ordinal, tail, "a frame's checksum does not hold")
        else:
            self._lose(self._told_by_outcomes(), b"", "an outcome is there, its event is not")
            if self.at < end:
                tail = self.disk.read(self.fd, min(end - self.at, 1 << 24), self.at).rstrip(b"\0")
                if tail:
                    self.on_damage(self, self.at, tail, 0, "torn tail: the writer died before this put returned")
        self.at = end

    def _told_by_outcomes(self) -> int:
        """Return how many events beyond the last frame must have been there, for they or later ones have an outcome.

        So it is after power loss, which may keep the outcomes and not the records.  Sealed segments tell their count.
        """
        if self.map is None or self.header.sealed_events is not None:
            return 0
        rest = self.map[self.header.outcomes_at + self.ordinal : self.header.records_at].rstrip(b"\0")
        return len(rest) if SETTLED.issuperset(rest.replace(b"\0", b"")) else 0

    def mark(self, ordinals: range, outcome: Outcome) -> int:
        """Settle those of the ordinals that are not settled yet; returns how many were."""
        if self.map is None or not ordinals:
            return 0
        start = self.header.outcomes_at + ordinals.start
        stop = start + len(ordinals)
        before = self.map[start:stop]
        fresh = before.count(0)
        if fresh == len(before):
            self.map[start:stop] = bytes([outcome]) * fresh
            return fresh
        fresh = 0
        for offset, byte in enumerate(before):
            if byte not in SETTLED:
                self.map[start + offset : start + offset + 1] = bytes([outcome])
                fresh += 1
        return fresh

    def is_settled(self, ordinal: int) -> bool:
        """Tell whether an event has an outcome."""
        if self.map is None:
            return True
        at = self.header.outcomes_at + ordinal
        return self.map[at : at + 1][0] in SETTLED

    def unread(self) -> int:
        """Return how many events may still be read here, as far as is known: 0 for another process's open segment."""
        if self.ended:
            return 0
        if self.writer is not None:
            return self.writer.count - self.ordinal
        if self.header.sealed_events is not None:
            return self.header.sealed_events - self.ordinal
        return 0

    def has_more(self) -> bool:
        """Tell whether another process has appended something that was not read yet, or has ended its segment."""
        if self.ended or self.end is not None:
            return not self.ended
        length_at = self.at + fmt.FRAME_HEAD_BYTES - fmt.FRAME_BODY.size
        return any(self.disk.read(self.fd, 4, length_at)) or self._seal() is not None

    @property
    def is_done(self) -> bool:
        """Nothing left to read, nothing leased, nothing waiting."""
        return self.ended and not self.leased and not self.waiting

    def outcomes(self) -> dict[Outcome, int]:
        """Count the settled events by outcome; what stands behind the last event is not one's outcome."""
        if self.map is None:
            return {}
        return count_outcomes(self.map[self.header.outcomes_at : self.header.outcomes_at + self.ordinal])

    def close(self) -> None:
        """Let the file go, and with it the claim."""
        self.map = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.disk.close(fd)


def runs(ordinals: list[int]) -> list[range]:
    """Join neighbours: [1, 2, 3, 7] becomes [range(1, 4), range(7, 8)]."""
    if not ordinals:
        return []
    ordinals = sorted(ordinals)
    if ordinals[-1] - ordinals[0] + 1 == len(ordinals):
        return [range(ordinals[0], ordinals[-1] + 1)]
    cuts = [
        0,
        *(index + 1 for index, (left, right) in enumerate(pairwise(ordinals)) if right != left + 1),
        len(ordinals),
    ]
    return [range(ordinals[start], ordinals[stop - 1] + 1) for start, stop in pairwise(cuts)]
