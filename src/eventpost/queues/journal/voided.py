"""Events that were stored and then refused: a sync that a put waited for did not come in time.

The door has said no, so such an event is neither accepted nor sent: its outcome byte says so, on the disk, too.  That
is possible as long as nobody has it in hand.  In this process nobody has: its sender sees what was synced only.
Another process that sends for one that only stores sees it at once, and may have sent it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .disk import Disk
from .format import Kind, Outcome, read_frame
from .segment import SegmentWriter


class Voided:
    """The own events that are void, by segment; under the claims' lock."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._by_name: dict[str, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def add(self, writer: SegmentWriter, ordinals: Sequence[int]) -> None:
        """Settle these events as void, but for those that are settled already.  Raises OSError."""
        voided = self._by_name.setdefault(writer.name, [])
        for ordinal in ordinals:
            if self._store(writer, ordinal, Outcome.VOID):
                voided.append(ordinal)

    def cut(self, writer: SegmentWriter, first: int) -> None:
        """Forget what is void from an ordinal on: the segment ends before it."""
        voided = self._by_name.get(writer.name, [])
        for ordinal in [one for one in voided if one >= first]:
            self._store(writer, ordinal, 0)
            voided.remove(ordinal)

    def of(self, writer: SegmentWriter) -> int:
        """Return how many events of a segment are void."""
        return len(self._by_name.get(writer.name, ()))

    def count(self, read_to: Mapping[str, int]) -> tuple[int, int]:
        """Return how many are void, and how many of these lie beyond what was read: ``read_to``, by segment."""
        total = sum(map(len, self._by_name.values()))
        ahead = sum(
            one >= read_to[name] for name, ordinals in self._by_name.items() if name in read_to for one in ordinals
        )
        return total, ahead

    def _store(self, writer: SegmentWriter, ordinal: int, outcome: int) -> bool:
        disk, at = self._disk, writer.header.outcomes_at + ordinal
        fd = disk.open(writer.path)
        try:
            if outcome and disk.read(fd, 1, at) != b"\0":
                return False  # another process was faster
            disk.write(fd, bytes([outcome]), at)
        finally:
            disk.close(fd)
        return True


def ordinals_before(disk: Disk, writer: SegmentWriter, end: int) -> list[int]:
    """Return the ordinals of a segment's events up to an offset.  Raises OSError."""
    fd = disk.open(writer.path)
    try:
        data = disk.read(fd, end, 0)
    finally:
        disk.close(fd)
    ordinals, at = [], writer.header.records_at
    while at < end:
        frame = read_frame(data, at)
        if frame is None or isinstance(frame, bool):
            break
        if frame.kind == Kind.EVENT:
            ordinals.append(frame.ordinal)
        at = frame.end
    return ordinals
