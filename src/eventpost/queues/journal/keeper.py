"""What is done now and then: look for what others left, sync in the background, expire the dead, make room."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ...clock import Clock
from ...watch.signals import Signal, Trouble
from . import dead
from .claims import Claims
from .count import Count
from .cursor import Cursor
from .erasing import AGAIN_S, Erasing
from .expiry import Expiry
from .folder import writer_of
from .format import Kind, Outcome
from .orphans import Orphans
from .segment import SegmentWriter
from .store import Store

if TYPE_CHECKING:
    from .folder import Folder

_SYNC_FILES_MAX: Final = 8
_WATCH_INTERVAL_S: Final = 0.01
_FOLLOW_INTERVAL_S: Final = 0.25
"""How often one that sends for others among its own looks for what a process that only stores has put."""
_DEAD_INTERVAL_S: Final = 60.0


class Keeper:
    """Periodic work on a folder, on behalf of one queue; on the sender's thread, but for ``make_room``."""

    def __init__(
        self, folder: Folder, clock: Clock, *, store: Store, claims: Claims, count: Count, orphans: Orphans,
        expiry: Expiry, erasing: Erasing, sync_interval_s: float, scan_interval_s: float,
        emit: Callable[[Signal], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file."""
        self.folder = folder
        self.clock = clock
        self.store = store
        self.claims = claims
        self.count = count
        self.orphans = orphans
        self.expiry = expiry
        self.erasing = erasing
        self.sync_interval_s = sync_interval_s
        self.scan_interval_s = scan_interval_s
        self.emit = emit
        self.reset()

    def reset(self) -> None:
        """Everything is due now."""
        self._sync_at = self._scan_at = self._watch_at = self._dead_at = 0.0
        self._syncing: list[SegmentWriter] = []

    def tend(self) -> float | None:
        """Do what is due; return the seconds until the next."""
        now = self.clock.monotonic()
        if self.claims.done:
            self.claims.fold_done()
        nexts: list[float] = []
        if not self.store.durable and self.sync_interval_s > 0:
            if now >= self._sync_at and not self._syncing:
                self._syncing = self.store.syncs.unsynced()
                self._sync_at = now + self.sync_interval_s
            some, self._syncing = self._syncing[:_SYNC_FILES_MAX], self._syncing[_SYNC_FILES_MAX:]
            if some and not self.store.syncs.sync(some):
                self.emit(Trouble("journal", f"{self.folder.path} cannot be synced"))
            if self._syncing:  # the rest of a backlog at once, but after what else the sender has to do
                nexts.append(now)
            elif some or self.store.syncs.unsynced() or self.claims.backlog():
                nexts.append(self._sync_at)  # with a backlog also where all is synced: a put then wakes nobody
        if self.orphans.adopt != "never" or self.store.presence.is_held:
            if now >= self._scan_at:
                self._scan_at = now + self.scan_interval_s
                self._look_after_own_lock()
                self.erasing.look(elected=self.orphans.elected_fd >= 0)
                self.orphans.scan()
                if self.erasing.recalls:
                    self._scan_at = min(self._scan_at, now + AGAIN_S)
            nexts.append(self._scan_at)
        if self.orphans.adopt == "always" or self.claims.follows():
            if now >= self._watch_at:
                self._watch_at = now + (_WATCH_INTERVAL_S if self.orphans.adopt == "always" else _FOLLOW_INTERVAL_S)
                if self.orphans.changed:
                    self.orphans.scan()
            nexts.append(self._watch_at)
        if now >= self._dead_at and (self.orphans.elected_fd >= 0 or self.expiry.dead_writer.names):
            self._dead_at = now + _DEAD_INTERVAL_S
            if self.orphans.elected_fd >= 0:
                self.expiry.expire()
            self.count.reap_own_dead()
        return max(0.0, min(nexts) - now) if nexts else None

    def _look_after_own_lock(self) -> None:
        """Make the own lock anew if its name is gone (a cleaner of temporary files): without it we look dead."""
        if self.store.presence.is_held:
            try:
                self.store.presence.enter()
            except OSError as error:
                self.emit(Trouble("journal", f"{self.folder.path} cannot be used any more: {error.strerror}"))

    def make_room(self, wanted: int) -> bool:
        """Free what the folder's bound needs for a new segment: settled ones first, then what overflow allows."""
        self.claims.fold_done()
        excess = self.folder.stored_bytes() + wanted - self.store.bytes_max
        if excess > 0 and not self.store.sends:
            with suppress(OSError, ValueError):  # then there is no room, which is the better reason
                excess -= self.count.reap_own(bytes_wanted=excess)
        return excess <= 0 or (self.store.overflow == "drop_oldest" and self._drop_oldest(excess))

    def _drop_oldest(self, excess: int) -> bool:
        with self.claims.lock:
            held = {cursor.name for cursor in self.claims.open}
            for name in self.folder.segment_names(self.folder.segments):
                if excess <= 0:
                    break
                if name not in held:
                    excess -= self._drop_segment(name)
            return excess <= 0

    def _drop_segment(self, name: str) -> int:
        """Drop what is unsettled in one sealed segment that nobody holds; returns the bytes that this frees."""
        writer, path, disk = writer_of(name), f"{self.folder.segments}/{name}", self.folder.disk
        own = writer == self.store.presence.name
        if not own and self.folder.is_alive(writer):
            return 0
        try:
            fd = disk.open(path)
        except OSError:
            return 0
        try:
            if not disk.lock(fd) or not disk.still_named(fd, path):
                raise BlockingIOError(errno.EAGAIN, "somebody sends it", path)
            cursor = Cursor(disk, path, alive=lambda: False, on_damage=lambda *_: None, fd=fd)
        except (OSError, ValueError):
            disk.close(fd)
            return 0
        try:
            count = cursor.header.sealed_events
            if count is None:
                if own:  # still written to
                    cursor.close()
                    return 0
                frames = (one for _, one, _ in dead.walk(disk.read(fd, disk.size(path), 0), cursor.header.records_at))
                count = 1 + max(
                    (one.ordinal for one in frames if one is not None and one.kind == Kind.EVENT), default=-1
                )
            cursor.ordinal = count
            self.orphans.settle_parked([cursor])
            before, size = cursor.outcomes(), disk.size(path)
            dropped = cursor.mark(range(count), Outcome.OVERFLOW)
        except OSError:  # held on to, it would be nobody's to send
            cursor.close()
            return 0
        if own:
            if self.count.forget_own(name):
                self.claims.absorb(name, before)
        else:
            self.claims.adopted += dropped
        self.claims.lose("overflow", dropped)
        self.claims.discard(cursor)
        return size
