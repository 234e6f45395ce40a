"""The putting side: every process, and every endpoint in it, appends to a segment file of its own.

No put waits for another process, and within a process a put is a few microseconds under one re-entrant lock.  A put
that interrupts a put on the same thread (a signal handler, ``__del__``) finds the lock its own and the depth above
zero: it writes to segments of that depth, which nobody else touches, and so never sees a half-done append.  Whatever
such an interruption raises out of an append (KeyboardInterrupt) ends that segment at its last promised event.  What
else may be interrupted, and which lock stands outside which, is in ``interruption``.

A put that waits for room waits outside all locks: the sender needs them to make that room.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from ...clock import Clock
from ...errors import EventTooLarge, QueueFull, QueueUnavailable
from ...event import Envelope, Event
from ...sender.primitives import RLock, get_ident, is_mine, pause
from ..protocol import Overflow
from . import format as fmt
from .claims import Claims
from .disk import reason_of
from .format import Kind
from .interruption import Interruptions
from .presence import Presence
from .room import NoRoom, Room
from .segment import ENVELOPES_MAX, SegmentWriter
from .sync import Syncs
from .voided import ordinals_before

if TYPE_CHECKING:
    from .folder import Folder

SEGMENT_BYTES_MIN: Final = 1 << 18
_OUTCOME_RATIO: Final = 128  # a segment ends early if its events are smaller than this, on average
_DEPTH_MAX: Final = 16
_ASIDE_MAX: Final = 16
_ROOM_TRIES: Final = 10
_EVENT: Final = int(Kind.EVENT)
_LANES_OPEN_MAX: Final = 64
_BLOCK_POLL_S: Final = 0.01


class Store:
    """What this process appends to; ``claims`` knows each new writer before its first event."""

    def __init__(
        self, folder: Folder, clock: Clock, *, durable: bool, bytes_max: int, segment_bytes_max: int, overflow:
        Overflow, block_timeout_s: float, make_room: Callable[[int], bool], reap: Callable[[], None],
        claims: Claims,
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file.

        ``make_room(bytes)`` tells whether it could; ``reap()`` removes some own segments that others have settled.
        Both want the claims' lock, and are called without the put lock.
        """
        self.folder = folder
        self.clock = clock
        self._time = clock.time
        self.durable = durable
        self.bytes_max = bytes_max
        self.segment_bytes_max = segment_bytes_max
        self.overflow = overflow
        self.block_timeout_s = block_timeout_s
        self.sends = True
        self.retry = False
        self._make_room = make_room
        self._reap = reap
        self._claims = claims
        self.reset()

    def reset(self) -> None:
        """Start from nothing: locks of its own, no writer, counts at zero."""
        self.lock = RLock()
        self.presence = Presence(self.folder, self.lock)
        self.syncs = Syncs(
            self.folder, self.lock, durable=self.durable, end=self._end,
            writers=self._open_writers, sync_path=self.presence.sync_path,
        )  # fmt: skip
        self._depth = 0
        self._levels: list[dict[str, SegmentWriter]] = [{} for _ in range(_DEPTH_MAX)]
        self._free_aside = list(range(_DEPTH_MAX, _DEPTH_MAX + _ASIDE_MAX))
        self._counted: list[tuple[int, tuple[SegmentWriter, ...]]] = [(0, ())] * (_DEPTH_MAX + _ASIDE_MAX)
        """By depth, the events of sealed segments, and the open ones: one store, so no interruption sees half of it."""
        self._numbers = itertools.count()
        self._room = Room(
            self.folder, self.clock, bytes_max=self.bytes_max, lock=self.lock, claims=self._claims,
            make=self._make_room,
        )  # fmt: skip
        self.closed = False
        self.interruptions = Interruptions(
            self.folder.disk, put_lock=self.lock, put_depth=lambda: self._depth, claims=self._claims, syncs=self.syncs
        )
        self._is_opening = self.interruptions.is_opening_here
        self._left_to_do = self.interruptions.left_to_do

    def put(self, events: Sequence[Event], *, wait: bool = True, tries: int = _ROOM_TRIES) -> None:
        """Append all of them or none.  See Queue.put.  ``wait``: as long as ``overflow`` says."""
        if self._is_opening() or (self.durable and self.syncs.is_syncing_here()):
            self._put_aside(events)
            return
        try:
            with self.lock:
                depth = self._depth
                try:
                    self._depth = depth + 1  # before the look: a close that comes later waits for this put's end
                    if self.closed or depth >= _DEPTH_MAX:
                        raise QueueUnavailable(reason="closed" if self.closed else "reentrant")
                    level = self._levels[depth]
                    touched: Sequence[tuple[SegmentWriter, int]]
                    if len(events) == 1:
                        writer = self._append(level, depth, events[0])
                        touched = ((writer, writer.end),)
                    else:
                        touched = self._append_all(level, depth, events)
                finally:
                    self._depth = depth
            if self.durable:
                self._commit_all(touched, events)
        except NoRoom as full:
            if tries and self._room.is_made(full):
                self.put(events, wait=wait, tries=tries - 1)
            elif wait and self.overflow == "block" and not is_mine(self.lock):
                self._put_when_there_is_room(events)
            else:
                raise
        finally:
            if self._left_to_do:
                self.interruptions.do_what_is_left()

    def close_later(self, close: Callable[[], None]) -> None:
        """Refuse further puts, and close when what this thread is in the middle of has ended."""
        self.closed = True
        self._left_to_do.append(close)

    def _put_when_there_is_room(self, events: Sequence[Event]) -> None:
        deadline = self.clock.monotonic() + self.block_timeout_s
        while get_ident() != self._claims.claimer and self.clock.monotonic() < deadline:  # nobody else makes room
            pause(_BLOCK_POLL_S)
            try:
                self.put(events, wait=False)
            except QueueFull:
                continue
            return
        self.put(events, wait=False)

    def _put_aside(self, events: Sequence[Event]) -> None:
        """Append to segments of this put's own, which end with it; it waits for nobody but the disk."""
        if self.closed:
            raise QueueUnavailable(reason="closed")
        try:
            slot = self._free_aside.pop()
        except IndexError:
            raise QueueUnavailable(reason="reentrant") from None
        level: dict[str, SegmentWriter] = {}
        try:
            self.presence.enter_unlocked()
            self._append_all(level, slot, events)
        except OSError as error:
            _refuse(error)
        finally:
            for writer in list(level.values()):
                self._seal(level, slot, writer)
            self._free_aside.append(slot)

    def _append(self, level: dict[str, SegmentWriter], depth: int, event: Event) -> SegmentWriter:
        envelope, payload = event
        writer, at_s = level.get(envelope.url), int(self._time())
        if writer is not None and (writer.seen_s != at_s or self.durable):
            writer = self._if_there(level, depth, writer, at_s)
        number = None if writer is None else writer.envelopes.get(envelope)
        if (
            writer is None
            or number is None
            or writer.end + len(payload) + 32 > writer.size
            or writer.count >= writer.events_max
        ):
            writer = self._with_room(level, depth, envelope.url, (event,))
            number = writer.envelopes[envelope]
        end, count = writer.end, writer.count
        try:
            writer.append(_EVENT, number, payload, at_s)
        except BaseException as error:  # noqa: BLE001  # an interruption ends the segment, too, and is raised again
            if writer.end == end:  # else it came after the append: the event is stored, and may be on its way
                self._give_up(level, depth, writer, end, count)
            _refuse(error)
        return writer

    def _if_there(
        self, level: dict[str, SegmentWriter], depth: int, writer: SegmentWriter, at_s: int
    ) -> SegmentWriter | None:
        """Return an open segment's writer; None, after its end, if somebody has removed the file.

        Asked once a second, and at ``fsync`` by every put: what is stored in a file without a name would be nobody's
        after this process.  Raises QueueUnavailable where the folder is gone as a whole: the segment stays open then,
        for the own sender can still read it, and a lost mount may come back.
        """
        disk = self.folder.disk
        try:
            there = disk.still_named(writer.fd, writer.path)
        except OSError:  # it can't be told (permissions that were lost): what is open goes on
            there = True
        if not there and not disk.changed_ns(self.folder.segments):
            raise QueueUnavailable(f"the journal's folder is gone: {self.folder.path}", reason="folder_gone")
        writer.seen_s = at_s
        if there or writer.hold is not None:  # held: a put is in the middle of it
            return writer
        self._check_own(level, depth)
        self._seal(level, depth, writer)
        return None

    def _append_all(
        self, level: dict[str, SegmentWriter], depth: int, events: Sequence[Event]
    ) -> Sequence[tuple[SegmentWriter, int]]:
        by_lane: dict[str, list[Event]] = {}
        for event in events:
            by_lane.setdefault(event.envelope.url, []).append(event)
        writers: dict[str, SegmentWriter] = {}
        before: list[tuple[SegmentWriter, int, int]] = []
        try:
            # All the room first: what can fail for want of it, fails before anything is stored.
            for lane, those in by_lane.items():
                writer = writers[lane] = self._with_room(level, depth, lane, those)
                # All or none: the sender sees the first of them with the last, and no later lane's room is its end.
                writer.hold = writer.end
                before.append((writer, writer.end, writer.count))
            at_s = int(self.clock.time())
            try:
                for lane, those in by_lane.items():
                    writer = writers[lane]
                    for envelope, payload in those:
                        writer.append(Kind.EVENT, writer.envelopes[envelope], payload, at_s)
                if self.durable and (len(before) > 1 or depth >= _DEPTH_MAX):
                    self._sync_together(writers.values())
            except BaseException as error:  # noqa: BLE001  # an interruption ends the segment, too, and is raised again
                for writer, end, count in before:
                    self._give_up(level, depth, writer, end, count)
                _refuse(error)
        finally:
            for writer, _, _ in before:
                writer.hold = None
        return [(writer, writer.end) for writer in writers.values()]

    def _with_room(
        self, level: dict[str, SegmentWriter], depth: int, lane: str, events: Sequence[Event]
    ) -> SegmentWriter:
        """Return a writer that has room for the events, with their envelopes defined."""
        frames = sum(fmt.frame_bytes(len(event.payload)) for event in events)
        definitions: dict[Envelope, bytes] = {}
        writer, at_s = level.get(lane), int(self.clock.time())
        if writer is not None:
            writer = self._if_there(level, depth, writer, at_s)
        for event in events:
            if event.envelope not in definitions and (writer is None or event.envelope not in writer.envelopes):
                definitions[event.envelope] = fmt.encode_envelope(event.envelope)
        extra = sum(2 * fmt.frame_bytes(len(text)) for text in definitions.values())
        if writer is None or not writer.has_room(frames + extra, len(events), len(definitions)):
            for event in events:
                definitions.setdefault(event.envelope, fmt.encode_envelope(event.envelope))
            if len(definitions) > ENVELOPES_MAX:
                raise EventTooLarge(
                    f"{len(definitions)} different envelopes in one put; a segment takes {ENVELOPES_MAX}"
                )
            extra = sum(2 * fmt.frame_bytes(len(text)) for text in definitions.values())
            writer = self._roll(level, depth, lane, frames + extra, len(events))
        end, count = writer.end, writer.count
        try:
            for envelope, text in definitions.items():
                writer.define(envelope, text, at_s)
        except BaseException as error:  # noqa: BLE001  # an interruption ends the segment, too, and is raised again
            self._give_up(level, depth, writer, end, count)
            _refuse(error)
        return writer

    def _roll(self, level: dict[str, SegmentWriter], depth: int, lane: str, wanted: int, events: int) -> SegmentWriter:
        """Seal the lane's segment and begin the next one, if the folder's bound allows it."""
        old = level.get(lane)
        size = min(SEGMENT_BYTES_MIN if old is None else 2 * old.size, self.segment_bytes_max)
        pages = max(-(-size // _OUTCOME_RATIO // fmt.PAGE_BYTES), -(-events // fmt.PAGE_BYTES))
        now_ms = int(self.clock.time() * 1000)
        try:
            self.presence.enter()
            if self.durable:
                self.presence.sync_path()
            header = fmt.encode_header(
                lane, self.presence.name, now_ms, sender=self.sends, retry=self.retry, outcome_pages=pages
            )
            size = max(size, len(header) + pages * fmt.PAGE_BYTES + wanted)
            if size > self.bytes_max:
                raise EventTooLarge(f"{wanted} bytes do not fit a journal of bytes_max={self.bytes_max}")
            self._room.find(size, give_back=lambda: self._give_back(level, depth), may_make=depth < _DEPTH_MAX)
            name = f"{now_ms:013d}-{self.presence.name}-{next(self._numbers):06d}.seg"
            writer = SegmentWriter(
                self.folder.disk, self.folder.segments, name, header, size,
                mode=self.folder.file_mode, gid=self.folder.gid, durable=self.durable,
            )  # fmt: skip
        except OSError as error:
            _refuse(error)
        old = level.get(lane)
        if old is None and len(level) >= _LANES_OPEN_MAX:
            old = next((writer for writer in level.values() if writer.hold is None), None)
        if old is not None:
            self._seal(level, depth, old)
        if not self.durable:
            self.syncs.remember(writer)
        if not self.sends and not self._left_to_do:
            self._left_to_do.append(self._reap)
        self._claims.add_own(writer)  # first: an interruption in between must not leave a segment that nobody reads
        sealed, still_open = self._counted[depth]
        self._counted[depth] = (sealed, (*still_open, writer))
        level[lane] = writer
        return writer

    def _give_back(self, level: dict[str, SegmentWriter], depth: int) -> None:
        """End open segments, which hold blocks that they may never use."""
        for writer in list(level.values()):
            if writer.hold is None:  # else this very put is about to append to it
                self._seal(level, depth, writer)

    def _seal(self, level: dict[str, SegmentWriter], depth: int, writer: SegmentWriter) -> None:
        if self.durable and writer.synced < writer.end and not writer.sync(self.folder.disk, writer.end, writer.count):
            self._claims.voided.cut(writer, writer.synced_count)
            writer.take_back(writer.synced, writer.synced_count)
        if level.pop(writer.header.lane, None) is None:
            return  # what interrupted us did it
        sealed, still_open = self._counted[depth]
        self._counted[depth] = (sealed + writer.count, tuple(one for one in still_open if one is not writer))
        try:
            writer.seal(self.folder.disk)
        except OSError:
            return  # only the cut failed: the file is longer than it need be, what it holds is whole

    def _check_own(self, level: dict[str, SegmentWriter], depth: int) -> None:
        """Raise QueueUnavailable in a child that was forked meanwhile: these segments are its parent's."""
        if depth < _DEPTH_MAX and self._levels[depth] is not level:
            raise QueueUnavailable(reason="forked")

    def _give_up(
        self, level: dict[str, SegmentWriter], depth: int, writer: SegmentWriter, end: int, count: int
    ) -> None:
        """End a segment at its last promised event."""
        self._check_own(level, depth)
        writer.take_back(end, count)
        if level.get(writer.header.lane) is writer:
            self._seal(level, depth, writer)

    def _sync_together(self, writers: Iterable[SegmentWriter]) -> None:
        """Sync several endpoints' segments under the lock, while nobody sees what was appended.

        If the disk refuses one of them, all of it can still be taken back, also what the others have on the device.
        """
        for writer in writers:
            if not writer.sync(self.folder.disk, writer.end, writer.count):
                raise QueueUnavailable("the disk refused a sync; the segments are given up", reason="sync_failed")

    def _commit_all(self, touched: Sequence[tuple[SegmentWriter, int]], events: Sequence[Event]) -> None:
        try:
            for writer, end in touched:
                self.syncs.commit(writer, end)
        except QueueUnavailable:
            if not self._void(touched, events):
                raise

    def _void(self, touched: Sequence[tuple[SegmentWriter, int]], events: Sequence[Event]) -> bool:
        """Settle as never put what a put stored that is to be refused; True: all of it is safe by now, and stays."""
        if is_mine(self.lock):  # who has the claims' lock may wait for the put that this one interrupts
            return all(writer.synced >= end for writer, end in touched)  # what was refused then, was taken back
        with self._claims.lock, self.lock:  # nothing is claimed meanwhile
            if all(writer.synced >= end for writer, end in touched):
                return True
            for writer, end in touched:
                if writer.end < end:
                    continue  # its segment ended before them
                count = sum(event.envelope.url == writer.header.lane for event in events)
                with suppress(OSError):  # then it stays accepted, and may be sent
                    self._claims.void(writer, ordinals_before(self.folder.disk, writer, end)[-count:])
        return False

    def _end(self, writer: SegmentWriter) -> None:
        """End a segment that could not be synced, at its last synced event."""
        with self.lock:
            for depth, level in enumerate(self._levels):
                if level.get(writer.header.lane) is writer:
                    self._seal(level, depth, writer)

    def _open_writers(self) -> list[SegmentWriter]:
        """Return those that nobody on this thread is in the middle of appending to; under the lock."""
        return [writer for level in self._levels[self._depth :] for writer in level.values()]

    def own_name(self) -> str:
        """Return the name that this process writes under; "" before its first put."""
        return self.presence.name

    def remember_unsynced(self, writer: SegmentWriter) -> None:
        """At ``os``: let the background sync know a new segment."""
        self.syncs.remember(writer)

    def accepted(self) -> int:
        """Return how many events were put; of one instant only under the lock."""
        return sum(sealed + sum([one.count for one in still_open]) for sealed, still_open in self._counted)

    def close(self) -> None:
        """Seal what is open.  The writer's lock stays until its presence leaves."""
        with self.lock:
            self.closed = True
            for depth, level in enumerate(self._levels):
                for writer in list(level.values()):
                    self._seal(level, depth, writer)


def _refuse(error: BaseException) -> NoReturn:
    """Raise what a put raises for what the disk raised; an interruption stays what it is."""
    if isinstance(error, OSError):
        raise QueueUnavailable(f"cannot be stored: {error.strerror or error}", reason=reason_of(error)) from error
    raise error
