"""Own events that have an outcome before they are read: the reader passes over them, and the count must know.

Void: stored and then refused, since a sync that a put waited for did not come in time.  The door has said no, so such
an event is neither accepted nor sent: its outcome byte says so, on the disk, too.  That is possible as long as nobody
has it in hand.  In this process nobody has: its sender sees what was synced only.  Another process that sends for one
that only stores sees it at once, and may have sent it.

Purged: dropped on somebody's order (``erasing``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import format as fmt
from .cursor import Cursor
from .disk import Disk
from .format import FRAME_HEAD_BYTES, Kind, Outcome
from .segment import SegmentWriter


class Passed:
    """The own events that got one outcome before they were read, by segment; under the claims' lock."""

    def __init__(self, disk: Disk, outcome: Outcome) -> None:
        self._disk = disk
        self._outcome = outcome
        self._by_name: dict[str, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def add(self, segment: SegmentWriter | Cursor, ordinals: Sequence[int]) -> int:
        """Settle these events, but for those that are settled already; returns how many.  Raises OSError."""
        passed = self._by_name.setdefault(segment.name, [])
        before = len(passed)
        for ordinal in ordinals:
            if self._store(segment, ordinal, self._outcome):
                passed.append(ordinal)
        return len(passed) - before

    def cut(self, writer: SegmentWriter, first: int) -> None:
        """Forget those from an ordinal on: the segment ends before it."""
        passed = self._by_name.get(writer.name, [])
        for ordinal in [one for one in passed if one >= first]:
            self._store(writer, ordinal, 0)
            passed.remove(ordinal)

    def forget(self, name: str) -> int:
        """Forget a segment that is gone; returns how many of its events were here."""
        return len(self._by_name.pop(name, ()))

    def of(self, writer: SegmentWriter) -> int:
        """Return how many events of a segment are here."""
        return len(self._by_name.get(writer.name, ()))

    def count(self, read_to: Mapping[str, int]) -> tuple[int, int]:
        """Return how many there are, and how many of these lie beyond what was read: ``read_to``, by segment."""
        total = sum(map(len, self._by_name.values()))
        ahead = sum(
            one >= read_to[name] for name, ordinals in self._by_name.items() if name in read_to for one in ordinals
        )
        return total, ahead

    def _store(self, segment: SegmentWriter | Cursor, ordinal: int, outcome: int) -> bool:
        disk, at = self._disk, segment.header.outcomes_at + ordinal
        fd = disk.open(segment.path)
        try:
            if outcome and disk.read(fd, 1, at) != b"\0":
                return False  # another process was faster
            disk.write(fd, bytes([outcome]), at)
        finally:
            disk.close(fd)
        return True


def ordinals_before(disk: Disk, writer: SegmentWriter, end: int) -> list[int]:
    """Return the ordinals of an own segment's events up to an offset.  Raises OSError.

    By the heads alone, which never change: of a process that only stores, somebody may be erasing a payload.
    """
    fd = disk.open(writer.path)
    try:
        data = disk.read(fd, end, 0)
    finally:
        disk.close(fd)
    ordinals, at = [], writer.header.records_at
    while at + FRAME_HEAD_BYTES <= len(data):
        _, length, ordinal, _, _, kind, _ = fmt.FRAME.unpack_from(data, at)
        if length < FRAME_HEAD_BYTES:
            break
        if kind == Kind.EVENT:
            ordinals.append(ordinal)
        at += fmt.frame_bytes(length - FRAME_HEAD_BYTES)
    return ordinals
