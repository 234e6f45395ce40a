"""The putting side: every process, and every endpoint in it, appends to a segment file of its own.

No put waits for another process, and within a process a put is a few microseconds under one re-entrant lock.  A put
that interrupts a put on the same thread (a signal handler, ``__del__``) finds the lock its own and the depth above
zero: it writes to segments of that depth, which nobody else touches, and so never sees a half-done append.  Whatever
such an interruption raises out of an append (KeyboardInterrupt) ends that segment at its last promised event.

Group commit at ``fsync``: a put appends under the lock, then waits for the sync lock; whoever gets it syncs for all who
appended before, and the others find their bytes on the device when their turn comes.  A sync that failed is not
repeated (the kernel may have dropped the pages and would report success): the segment ends at its last synced event,
and what was not synced is refused.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from ...clock import Clock
from ...errors import EventTooLarge, QueueFull, QueueUnavailable
from ...event import Envelope, Event
from ...sender.primitives import RLock, pause
from ..protocol import Overflow
from . import format as fmt
from .format import Kind
from .segment import SegmentWriter

if TYPE_CHECKING:
    from .folder import Folder

SEGMENT_BYTES_MIN: Final = 1 << 18
_OUTCOME_RATIO: Final = 128  # a segment ends early if its events are smaller than this, on average
_DEPTH_MAX: Final = 16
_EVENT: Final = int(Kind.EVENT)
_LANES_OPEN_MAX: Final = 64
_SYNC_WAIT_S: Final = 30.0
_BLOCK_POLL_S: Final = 0.01


class Store:
    """What this process appends to.  ``appended`` is called with each new writer, before its first event."""

    def __init__(
        self, folder: Folder, clock: Clock, *, durable: bool, bytes_max: int, segment_bytes_max: int, overflow:
        Overflow, block_timeout_s: float, make_room: Callable[[int], bool], appended: Callable[[SegmentWriter], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file.  ``make_room(bytes)`` tells whether it could."""
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
        self._appended = appended
        self.reset()

    def reset(self) -> None:
        """Start from nothing: locks of its own, no writer, counts at zero."""
        self.lock = RLock()
        self._sync_lock = RLock()
        self._depth = 0
        self._levels: list[dict[str, SegmentWriter]] = [{} for _ in range(_DEPTH_MAX)]
        self._sealed_counts = [0] * _DEPTH_MAX
        self._numbers = itertools.count()
        self._next_size = min(SEGMENT_BYTES_MIN, self.segment_bytes_max)
        self.writer_name = ""
        self.presence_fd = -1
        self.closed = False

    def put(self, events: Sequence[Event]) -> None:
        """Append all of them or none.  See Queue.put."""
        with self.lock:
            depth = self._depth
            if self.closed or depth >= _DEPTH_MAX:
                raise QueueUnavailable(reason="closed" if self.closed else "reentrant")
            try:
                self._depth = depth + 1
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
            for writer, end in touched:
                self._commit(writer, end)

    def _append(self, level: dict[str, SegmentWriter], depth: int, event: Event) -> SegmentWriter:
        envelope, payload = event
        writer = level.get(envelope.url)
        number = None if writer is None else writer.envelopes.get(envelope)
        if (
            writer is None
            or number is None
            or writer.end + len(payload) + 32 > writer.size
            or writer.count >= writer.events_max
        ):
            writer = self._room(level, depth, envelope.url, (event,))
            number = writer.envelopes[envelope]
        end, count = writer.end, writer.count
        try:
            writer.append(_EVENT, number, payload, int(self._time()))
        except BaseException as error:  # noqa: BLE001  # an interruption ends the segment, too, and is raised again
            self._give_up(level, depth, writer, end, count)
            _refuse(error)
        return writer

    def _append_all(
        self, level: dict[str, SegmentWriter], depth: int, events: Sequence[Event]
    ) -> Sequence[tuple[SegmentWriter, int]]:
        by_lane: dict[str, list[Event]] = {}
        for event in events:
            by_lane.setdefault(event.envelope.url, []).append(event)
        # All the room first: what can fail for want of it, fails before anything is stored.
        writers = {lane: self._room(level, depth, lane, those) for lane, those in by_lane.items()}
        before = [(writer, writer.end, writer.count) for writer in writers.values()]
        at_s = int(self.clock.time())
        try:
            for lane, those in by_lane.items():
                writer = writers[lane]
                for envelope, payload in those:
                    writer.append(Kind.EVENT, writer.envelopes[envelope], payload, at_s)
        except BaseException as error:  # noqa: BLE001  # an interruption ends the segment, too, and is raised again
            for writer, end, count in before:
                self._give_up(level, depth, writer, end, count)
            _refuse(error)
        return [(writer, writer.end) for writer in writers.values()]

    def _room(self, level: dict[str, SegmentWriter], depth: int, lane: str, events: Sequence[Event]) -> SegmentWriter:
        """Return a writer that has room for the events, with their envelopes defined."""
        frames = sum(fmt.frame_bytes(len(event.payload)) for event in events)
        definitions: dict[Envelope, bytes] = {}
        writer = level.get(lane)
        for event in events:
            if event.envelope not in definitions and (writer is None or event.envelope not in writer.envelopes):
                definitions[event.envelope] = fmt.encode_envelope(event.envelope)
        extra = sum(2 * fmt.frame_bytes(len(text)) for text in definitions.values())
        if writer is None or not writer.has_room(frames, len(events), extra):
            for event in events:
                definitions.setdefault(event.envelope, fmt.encode_envelope(event.envelope))
            extra = sum(2 * fmt.frame_bytes(len(text)) for text in definitions.values())
            writer = self._roll(level, depth, lane, frames + extra, len(events))
        at_s = int(self.clock.time())
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
        size, header = self._shape(lane, wanted, events)
        if size > self.bytes_max:
            raise EventTooLarge(f"{wanted} bytes do not fit a journal of bytes_max={self.bytes_max}")
        try:
            if not self.presence_fd >= 0:
                self.folder.make()
                self.writer_name, self.presence_fd = self.folder.enter()
                size, header = self._shape(lane, wanted, events)
            self._wait_for_room(size, depth)
            old = level.get(lane)
            if old is None and len(level) >= _LANES_OPEN_MAX:
                old = next(iter(level.values()))
            name = f"{int(self.clock.time() * 1000):013d}-{self.writer_name}-{next(self._numbers):06d}{'.seg'}"
            writer = SegmentWriter(
                self.folder.disk, self.folder.segments, name, header, size,
                mode=self.folder.file_mode, gid=self.folder.gid, durable=self.durable,
            )  # fmt: skip
        except OSError as error:
            _refuse(error)
        if old is not None:
            self._seal(level, depth, old)
        self._next_size = min(2 * self._next_size, self.segment_bytes_max)
        self._appended(writer)  # first: an interruption in between must not leave a segment that nobody reads
        level[lane] = writer
        return writer

    def _shape(self, lane: str, wanted: int, events: int) -> tuple[int, bytes]:
        size = max(self._next_size, wanted + 2 * fmt.PAGE_BYTES)
        pages = max(1, -(-size // _OUTCOME_RATIO // fmt.PAGE_BYTES), -(-events // fmt.PAGE_BYTES))
        header = fmt.encode_header(
            lane,
            self.writer_name,
            int(self.clock.time() * 1000),
            sender=self.sends,
            retry=self.retry,
            outcome_pages=pages,
        )
        return max(size, len(header) + pages * fmt.PAGE_BYTES + wanted), header

    def _wait_for_room(self, size: int, depth: int) -> None:
        """Apply the folder's bound.  Raises QueueFull."""
        if self.folder.stored_bytes() + size <= self.bytes_max or self._make_room(size):
            return
        if self.overflow == "block" and depth == 0:
            for _ in range(int(self.block_timeout_s / _BLOCK_POLL_S)):
                pause(_BLOCK_POLL_S)
                if self.folder.stored_bytes() + size <= self.bytes_max or self._make_room(size):
                    return
        raise QueueFull(f"the journal in {self.folder.path} holds its bytes_max={self.bytes_max}")

    def _seal(self, level: dict[str, SegmentWriter], depth: int, writer: SegmentWriter) -> None:
        if self.durable and writer.synced < writer.end:
            self._sync(writer)
        if writer.sealed:
            return  # that sync failed, and gave it up
        level.pop(writer.header.lane, None)
        self._sealed_counts[depth] += writer.count
        try:
            writer.seal(self.folder.disk)
        except OSError:
            return  # only the cut failed: the file is longer than it need be, what it holds is whole

    def _give_up(
        self, level: dict[str, SegmentWriter], depth: int, writer: SegmentWriter, end: int, count: int
    ) -> None:
        """End a segment at its last promised event."""
        writer.take_back(end, count)
        if level.get(writer.header.lane) is writer:
            self._seal(level, depth, writer)

    def _commit(self, writer: SegmentWriter, end: int) -> None:
        """Return once the writer's bytes up to ``end`` are on the device.  Raises QueueUnavailable."""
        if writer.synced >= end:
            return
        if not self._sync_lock.acquire(timeout=_SYNC_WAIT_S):
            raise QueueUnavailable("the disk did not answer a sync in time", reason="sync_timeout")
        try:
            if writer.synced < end and not writer.sealed:
                self._sync(writer)
        finally:
            self._sync_lock.release()
        if writer.synced < end:
            raise QueueUnavailable("the disk refused a sync; the segment is given up", reason="sync_failed")

    def _sync(self, writer: SegmentWriter) -> None:
        end, count = writer.end, writer.count
        try:
            self.folder.disk.datasync(writer.fd)
        except OSError:
            with self.lock:
                for depth, level in enumerate(self._levels):
                    if level.get(writer.header.lane) is writer:
                        level.pop(writer.header.lane)
                        writer.take_back(writer.synced, writer.synced_count)
                        self._seal(level, depth, writer)
            return
        if end > writer.synced:
            writer.synced, writer.synced_count = end, count

    def sync(self) -> bool:
        """Make all that is stored safe against power loss; False: the disk refused."""
        good = True
        for level in self._levels:
            for writer in list(level.values()):
                try:
                    if not writer.sealed:
                        self.folder.disk.datasync(writer.fd)
                except OSError:
                    good = False
        return good

    def accepted(self) -> int:
        """Return how many events were put; under the lock."""
        return sum(self._sealed_counts) + sum(writer.count for level in self._levels for writer in level.values())

    def close(self) -> None:
        """Seal what is open.  The writer's lock stays until ``leave``."""
        with self.lock:
            self.closed = True
            for depth, level in enumerate(self._levels):
                for writer in list(level.values()):
                    self._seal(level, depth, writer)

    def leave(self, *, nothing_left: bool) -> None:
        """Let the writer's lock go: from now on its segments are anybody's."""
        fd, self.presence_fd = self.presence_fd, -1
        if fd >= 0:
            if nothing_left:
                self.folder.disk.unlink(f"{self.folder.writers}/{self.writer_name}.lock")
            self.folder.disk.close(fd)

    def forget(self) -> None:
        """In a forked child: drop the parent's descriptors without touching its files."""
        for level in self._levels:
            for writer in level.values():
                mapped, writer.map = writer.map, None
                if mapped is not None:
                    mapped.close()
                if writer.fd >= 0:
                    self.folder.disk.close(writer.fd)
                writer.fd = -1
        if self.presence_fd >= 0:
            self.folder.disk.close(self.presence_fd)
        self.reset()


_REASONS: Final = {
    errno.ENOSPC: "disk_full", errno.EDQUOT: "disk_full", errno.ENOENT: "folder_gone", errno.ENOTDIR: "folder_gone",
    errno.EACCES: "permission", errno.EPERM: "permission", errno.EROFS: "permission", errno.EMFILE: "no_descriptors",
    errno.ENFILE: "no_descriptors",
}  # fmt: skip


def _refuse(error: BaseException) -> NoReturn:
    """Raise what a put raises for what the disk raised; an interruption stays what it is."""
    if isinstance(error, OSError):
        reason = _REASONS.get(error.errno or 0, "disk")
        raise QueueUnavailable(f"the journal cannot store: {error.strerror or error}", reason=reason) from error
    raise error
