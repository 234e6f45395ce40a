"""One segment from the side of the process that appends to it; who reads and settles it is in ``cursor``.

Orders of writing, each with its reason:

* A segment is made under a temporary name, allocated, given its header, synced if asked, then renamed in: a name that
  ends in ``.seg`` always has a whole header, and a full disk shows here, before anything was promised.  Synced before
  the rename, for the name may reach the device long before the bytes; the folder after it, for the name is part of the
  promise.  What fails is unlinked under both names: nobody would ever settle it.
* Within a frame nothing is ordered: its checksum decides whether it is there.  ``end`` moves after the store, so the
  own sender never looks at half a frame, and ``count`` before ``end``, so it never has more than was counted; another
  process takes half a frame of a living writer for "not yet".
* At ``fsync`` the sync comes between the store and the yes, and the sender sees a frame only after it.  A failed sync
  ends the segment at what was synced before: a second one would say that all is well.
* Outcome bytes are stored after the fact they tell (an answer that came, a dead letter that is on the disk): a crash in
  between repeats an event, the other order would lose one.  They are not synced: power loss repeats events, too.
* Sealing stores the count and the end, then cuts the file.  Either tells where the records end, so each is done though
  the other failed; the seal comes first, for a reader that finds it never looks at what is about to be cut.  Neither is
  synced: what it would save is a tail of zeros, or a frame that was refused after a failed sync.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from ...event import Envelope
from ...sender.primitives import RLock
from . import format as fmt
from .disk import Disk, Map
from .format import FRAME_HEAD_BYTES, Kind

ENVELOPES_MAX: Final = 0xFFFF
"""Envelopes in a segment, by the width of their number."""
_pack_body = fmt.FRAME_BODY.pack
_pack_crc = fmt.U32.pack


class SegmentWriter:
    """The appending side.  One thread at a time, which the queue sees to."""

    __slots__ = (
        "count", "durable", "end", "envelopes", "events_max", "failed", "fd", "header", "hold", "map", "name", "path",
        "sealed", "seen_s", "size", "sync_lock", "synced", "synced_count",
    )  # fmt: skip

    def __init__(
        self, disk: Disk, folder: str, name: str, header_bytes: bytes, size: int, *,
        mode: int, gid: int | None, durable: bool,
    ) -> None:  # fmt: skip
        """Make the file.  Raises OSError, after which nothing of it is left.  ``durable``: level fsync."""
        self.header = fmt.decode_header(header_bytes)
        self.name = name
        self.path = f"{folder}/{name}"
        self.size = size
        temporary = f"{folder}/.{name}.tmp"
        self.fd = disk.create(temporary, mode, gid)
        try:
            disk.allocate(self.fd, size, written=durable)
            self.map: Map | None = disk.map(self.fd, size)
            self.map[0 : len(header_bytes)] = header_bytes
            self.end = self.synced = self.header.records_at
            self.events_max = self.header.events_max
            if durable:
                disk.datasync(self.fd)  # the bytes before the name: who finds the one finds the other
            disk.rename(temporary, self.path)  # it has its name once it has its header, whoever is killed when
            if durable:
                disk.sync_folder(folder)  # the name is part of the promise
        except BaseException:
            disk.close(self.fd)
            disk.unlink(temporary)
            disk.unlink(self.path)  # also when only the folder's sync failed: nobody would ever settle it
            raise
        self.count = 0
        self.envelopes: dict[Envelope, int] = {}
        self.synced_count = 0
        self.hold: int | None = None
        self.seen_s = 0
        self.durable = durable
        self.failed = self.sealed = False
        self.sync_lock = RLock()

    def has_room(self, frames_bytes: int, events: int, new_envelopes: int) -> bool:
        """Tell whether that many events and envelopes with that many bytes of frames fit."""
        return (
            self.end + frames_bytes <= self.size
            and self.count + events <= self.events_max
            and len(self.envelopes) + new_envelopes <= ENVELOPES_MAX
        )

    def define(self, envelope: Envelope, definition: bytes, at_s: int) -> int:
        """Write an envelope, twice, and return its number."""
        number = len(self.envelopes)
        data = fmt.frame(Kind.ENVELOPE, self.count, at_s, number, definition)
        self._store(data + data)
        self.envelopes[envelope] = number
        return number

    def append(self, kind: int, number: int, payload: bytes, at_s: int) -> None:
        """Store one frame.  The caller has seen to the room."""
        length = FRAME_HEAD_BYTES + len(payload)
        end, count = self.end, self.count
        body = _pack_body(length, count, at_s, number, kind, 0) + payload
        self.map[end : end + length] = _pack_crc(crc32(body)) + body  # type: ignore[index]  # a sealed writer is never appended to
        self.count = count + 1
        self.end = end + ((length + 7) & -8)

    def _store(self, data: bytes) -> None:
        self.map[self.end : self.end + len(data)] = data  # type: ignore[index]  # as in append
        self.end += len(data)

    @property
    def visible(self) -> int:
        """Return how far the own reader may look: it sends nothing that was not promised yet.

        At ``fsync`` that is what was synced; ``hold`` is set while a put of several events is under way.
        """
        hold, promised = self.hold, self.synced if self.durable and not self.sealed else self.end
        return promised if hold is None else min(promised, hold)

    def sync(self, disk: Disk, end: int, count: int) -> bool:
        """Sync, which makes the first ``count`` events safe; False: the disk refused, now or before: seal it then.

        One thread at a time, and never again after a failure: the kernel tells a failed write to one caller of fsync
        only, and to the next that all is well.
        """
        with self.sync_lock:
            if self.sealed or self.failed or self.synced >= end:
                return self.synced >= end
            try:
                disk.datasync(self.fd)
            except OSError:
                self.failed = True
                return False
            if end > self.synced and not self.failed:  # a signal handler's put on this thread may have synced meanwhile
                self.synced, self.synced_count = end, count
            return self.synced >= end

    def take_back(self, end: int, count: int) -> None:
        """Forget what was stored after ``end`` and not promised; the segment must be sealed next, never appended to."""
        self.end, self.count = end, count
        self.synced, self.synced_count = min(self.synced, end), min(self.synced_count, count)

    def seal(self, disk: Disk) -> None:
        """End it: what it holds is all it will ever hold.  Idempotent; raises OSError only where the disk does."""
        if self.sealed:
            return
        self.sealed = True
        self.envelopes = {}  # a backlog would keep those of all its segments
        # Not closed: the own reader may be slicing it this moment; the last reference lets it go.
        mapped, self.map = self.map, None
        try:
            try:
                if mapped is not None:  # before the cut: what lies behind a seal nobody reads
                    mapped[fmt.SEAL_AT : fmt.SEAL_AT + fmt.SEAL_BYTES] = fmt.encode_seal(self.count, self.end)
            finally:  # without a seal the file's end is what tells where its records end
                disk.truncate(self.fd, self.end)
        finally:
            fd, self.fd = self.fd, -1
            disk.close(fd)
