"""What makes stored events safe against power loss: group commit at ``fsync``, background syncs at ``os``.

Group commit at ``fsync``: a put appends under the lock, then waits for the sync lock; whoever gets it syncs for all who
appended before, and the others find their bytes on the device when their turn comes.  A sync that failed is not
repeated (the kernel may have dropped the pages and would report success): the segment ends at its last synced event,
and what was not synced is refused.  A put that
cannot have the sync lock in time is refused, too, and its events are settled as void (``Store``), never to be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ...errors import QueueUnavailable
from ...sender.primitives import RLock, get_ident, is_mine
from .segment import SegmentWriter

if TYPE_CHECKING:
    from .folder import Folder

SYNC_WAIT_S: Final = 30.0
_UNSYNCED_MAX: Final = 256


class Syncs:
    """The syncs of one store, whose lock is ``lock``.

    ``writers()`` returns its open writers; ``end(writer)`` ends one that could not be synced; ``sync_path()`` makes the
    names above the segments safe.
    """

    def __init__(
        self, folder: Folder, lock: Any, *, durable: bool,
        writers: Callable[[], list[SegmentWriter]], end: Callable[[SegmentWriter], None],
        sync_path: Callable[[], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file."""
        self.folder = folder
        self.lock = lock
        self.durable = durable
        self._writers = writers
        self._end = end
        self._sync_path = sync_path
        self._sync_lock = RLock()
        self._syncing: set[int] = set()
        """The threads that are in the middle of one."""
        self._unsynced: dict[str, SegmentWriter] = {}
        """At ``os``: what was begun and is not known to be safe in full, sealed or not, by its path."""

    def commit(self, writer: SegmentWriter, end: int) -> None:
        """Return once the writer's bytes up to ``end`` are on the device.  Raises QueueUnavailable."""
        if writer.synced >= end:
            return
        if is_mine(self.lock):
            self._sync(writer)  # who has the sync lock may wait for the put that this one interrupts
        else:
            self._sync_in_turn(writer, end)
        if writer.synced < end:
            raise QueueUnavailable("the disk refused a sync; the segment is given up", reason="sync_failed")

    def is_syncing_here(self) -> bool:
        """Tell whether this thread is in the middle of a sync, for which who has the put lock may wait."""
        return get_ident() in self._syncing

    def _sync_in_turn(self, writer: SegmentWriter, end: int) -> None:
        try:
            if not self._sync_lock.acquire(timeout=SYNC_WAIT_S):
                raise QueueUnavailable("the disk did not answer a sync in time", reason="sync_timeout")
            if writer.synced < end:
                self._sync(writer)
        finally:
            if is_mine(self._sync_lock):  # an interruption may come right after it was had
                self._sync_lock.release()

    def _sync(self, writer: SegmentWriter) -> bool:
        with self.lock:  # end and count of one moment
            end, count = writer.end, writer.count
        me = get_ident()
        outermost = me not in self._syncing
        try:
            self._syncing.add(me)
            synced = writer.sync(self.folder.disk, end, count)
        finally:
            if outermost:
                self._syncing.discard(me)
        if not synced:
            self._end(writer)
        return synced

    def remember(self, writer: SegmentWriter) -> None:
        """Know a new segment at ``os``."""
        if len(self._unsynced) >= _UNSYNCED_MAX:  # nobody syncs here: forget at least what is settled and gone
            for path in list(self._unsynced):
                if not self.folder.disk.size(path):
                    self._unsynced.pop(path, None)
        self._unsynced[writer.path] = writer

    def unsynced(self) -> list[SegmentWriter]:
        """Return, oldest first, what a sync would make safer; at ``fsync`` nothing is."""
        return [one for one in list(self._unsynced.values()) if one.sealed or one.synced < one.end]

    def sync(self, some: Sequence[SegmentWriter] | None = None) -> bool:
        """Make what is stored safe against power loss; False: the disk refused some of it, which is told once.

        No put waits for it.  ``some``: these only, of what ``unsynced`` returned.
        """
        if self.durable:
            if self.folder.disk.is_opening_here() or self.is_syncing_here():
                return True  # who has the put lock may wait for this thread; what was promised is safe
            with self.lock:
                writers = self._writers()
            synced = [self._sync(writer) for writer in writers]
            return all(synced)
        disk, good = self.folder.disk, True
        named: set[str] = set()
        for writer in self.unsynced() if some is None else some:
            sealed, end = writer.sealed, writer.end  # sealed first: what is appended later is not taken for synced
            if writer.synced == writer.header.records_at:
                named.add(writer.path.rpartition("/")[0])
            try:
                if writer.synced < end:
                    fd = disk.open(writer.path, write=False)
                    try:
                        disk.datasync(fd)
                    finally:  # whatever came of it: a second sync would say that all is well
                        writer.synced = max(writer.synced, end)
                        disk.close(fd)
            except FileNotFoundError:
                sealed = True  # settled and gone
            except OSError:
                good = False
            if sealed:
                self._unsynced.pop(writer.path, None)
        try:
            for folder in sorted(named):  # bytes first, then the names that make them part of the journal
                disk.sync_folder(folder)
            if named:
                self._sync_path()
        except OSError:
            good = False
        return good
