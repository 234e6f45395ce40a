"""Erasing records where they lie, on somebody's order: the note that says which, and the stores that do it.

``eventpost purge`` finds the places of one visitor's bytes and writes them down in ``purge.json`` before any of them is
touched: which file, which record, which bytes of it; never whose.  Whoever has a segment in hand carries out what the
note asks of it: the command itself where nobody else does (``reach``), a sender for what it holds (``erasing``), and
who adopts a segment before it reads it.  The note goes when all of it is done.

An event that is the visitor's alone gets the outcome PURGED, unless it has one already, and zeros for its payload.
Where others are in it too, spaces take the visitor's place, and it stays what it was: queued, dead or delivered.
Head, length and ordinal stay, and the checksum is made anew, so the record is whole to whoever reads it.

A store of many bytes is not one step: power loss, or kill -9, can leave half of it, with a checksum that does not hold.
Hence the note, on the device before the first store: what it says is done again before anybody reads the segment, and
doing it twice is doing it once.  After the stores comes the sync, after the sync the note goes.  That is why outcome
and payload need no order between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import orjson

from . import format as fmt
from .dead import Parked
from .folder import writer_of
from .format import FRAME_HEAD_BYTES, SETTLED, Kind, Outcome
from .visitors import Span

if TYPE_CHECKING:
    from .disk import Disk
    from .folder import Folder

_NOTE: Final = "purge.json"
_LOCK: Final = "purge.lock"
_KINDS: Final = frozenset({Kind.EVENT, Kind.DEAD})
_CRC_BYTES: Final = fmt.U32.size
NO_RECORD: Final = -1
PARTS: Final = ("segments", "dead", "bad")
"""Where events may lie."""


class Place(NamedTuple):
    """Bytes to erase: in the record at ``at`` that holds event ``ordinal``, or (NO_RECORD) in bytes that are none.

    ``spans``: which bytes of its payload, spaces follow; none: all of it, zeros follow.  ``keep``: a dead letter's own
    text, which stays: what it says of its event's origin may still be needed.
    """

    at: int
    ordinal: int
    spans: tuple[Span, ...] = ()
    keep: str = ""

    @property
    def whole(self) -> bool:
        """Whether the whole event is to go."""
        return self.ordinal != NO_RECORD and not self.spans


Places = dict[str, list[Place]]
"""By file: "segments/<name>", "dead/<name>", "bad/<name>"."""


@dataclass(slots=True)
class Done:
    """What was carried out, in events (``raw``: in places).

    ``purged`` were queued or dead and are dropped now; ``cut`` are still, and others are in them; of ``erased``,
    settled before, only the bytes were left.
    """

    purged: int = 0
    erased: int = 0
    cut: int = 0
    raw: int = 0

    def add(self, other: Done) -> None:
        """Add another's."""
        self.purged += other.purged
        self.erased += other.erased
        self.cut += other.cut
        self.raw += other.raw


# -- the note


def read_note(folder: Folder) -> Places:
    """Return what is to be erased; nothing if there is no note, or one that can't be read.  Raises OSError."""
    data = folder.read_note(_NOTE)
    if data is None:
        return {}
    try:
        return {
            str(file): [
                Place(int(at), int(ordinal), tuple((int(start), int(stop)) for start, stop in spans), str(keep))
                for at, ordinal, spans, keep in places
            ]
            for file, places in orjson.loads(data).items()
            if _is_ours(file)
        }
    except (AttributeError, TypeError, ValueError):
        return {}


def _is_ours(file: str) -> bool:
    """Tell whether a note may speak of such a file: in a folder that others share, it is another's word."""
    part, _, name = file.partition("/")
    return part in PARTS and "/" not in name and name not in {"", ".", ".."}


def write_note(folder: Folder, places: Places) -> None:
    """Say what is to be erased, on the device when this returns; no note where nothing is.  Raises OSError.

    For whoever holds ``only_one``.
    """
    if places:
        folder.write_note(_NOTE, {file: list(map(tuple, some)) for file, some in places.items() if some})
    else:
        folder.disk.unlink(f"{folder.path}/{_NOTE}")
    folder.disk.sync_folder(folder.path)


@contextmanager
def only_one(folder: Folder) -> Iterator[bool]:
    """Be the only one who writes the note; False: somebody else is.  Raises OSError."""
    fd = folder.create_lock(f"{folder.path}/{_LOCK}")
    try:
        yield folder.disk.lock(fd)
    finally:
        folder.disk.close(fd)


# -- one record


def read_record(disk: Disk, fd: int, place: Place) -> bytes | None:
    """Return the bytes that a place speaks of, whole or torn; None if it is not there (any more).  Raises OSError."""
    head = disk.read(fd, FRAME_HEAD_BYTES, place.at)
    length = _length(head, place)
    data = disk.read(fd, length, place.at) if length else b""
    return data if length and len(data) == length else None


def record_in(data: bytes, place: Place) -> bytes | None:
    """Return the same from a file's bytes."""
    length = _length(data[place.at : place.at + FRAME_HEAD_BYTES], place)
    found = data[place.at : place.at + length]
    return found if length and len(found) == length else None


def _length(head: bytes, place: Place) -> int:
    """Return how many bytes a place speaks of; 0: this is not what it was."""
    if place.ordinal == NO_RECORD:
        return max((stop for _, stop in place.spans), default=0)
    if len(head) < FRAME_HEAD_BYTES:
        return 0
    _, length, ordinal, _, _, kind, _ = fmt.FRAME.unpack(head)
    return length if length >= FRAME_HEAD_BYTES and ordinal == place.ordinal and kind in _KINDS else 0


def erased(record: bytes, place: Place) -> bytes:
    """Return what a record becomes."""
    if place.ordinal == NO_RECORD:
        return _blanked(record, place.spans, b"\0")
    payload = record[FRAME_HEAD_BYTES:]
    if place.spans:
        payload = _blanked(payload, place.spans, b" ")
    else:
        kept = fmt.U32.pack(len(place.keep.encode())) + place.keep.encode() if place.keep else b""
        payload = kept[: len(payload)].ljust(len(payload), b"\0")
    body = record[_CRC_BYTES:FRAME_HEAD_BYTES] + payload
    return fmt.U32.pack(crc32(body)) + body


def erased_payload(payload: bytes, place: Place) -> bytes:
    """Return what an event's payload becomes whose record is erased in part."""
    return _blanked(payload, place.spans, b" ")


def _blanked(data: bytes, spans: Iterable[Span], blank: bytes) -> bytes:
    changed = bytearray(data)
    for start, stop in spans:
        if 0 <= start < stop <= len(changed):
            changed[start:stop] = blank * (stop - start)
    return bytes(changed)


def erase(disk: Disk, fd: int, place: Place, header: fmt.Header | None) -> None:
    """Erase one place; what is erased already, or gone, stays as it is.  Raises OSError.

    ``header``: the segment's; its event's outcome is stored once more.  A sync that failed before may have forgotten
    it: then it is in memory, and the next sync brings the device what is erased, but not that.
    """
    record = read_record(disk, fd, place)
    if record is None:
        return
    changed = erased(record, place)
    if changed == record:
        return
    if header is not None and 0 <= place.ordinal < header.events_max:
        outcome = disk.read(fd, 1, header.outcomes_at + place.ordinal)
        if outcome != b"\0":
            disk.write(fd, outcome, header.outcomes_at + place.ordinal)
    disk.write(fd, changed, place.at)


# -- files that nobody has in hand


@contextmanager
def reach(folder: Folder, file: str) -> Iterator[tuple[int, str]]:
    """Take a file in hand; yields its descriptor, and whose it is if it is somebody else's: then leave it alone.

    A segment is its writer's while that lives and sends, else whoever's who has its flock; this takes the flock.
    Raises FileNotFoundError if it is gone, other OSError, BadHeader or NewerFormat.
    """
    path, disk = f"{folder.path}/{file}", folder.disk
    fd = disk.open(path)
    try:
        yield fd, _holder(folder, file, path, fd)
    finally:
        disk.close(fd)


def _holder(folder: Folder, file: str, path: str, fd: int) -> str:
    disk, (part, name) = folder.disk, file.split("/", 1)
    if part == "segments":
        alive = folder.is_alive(writer_of(name))
        try:
            if alive and read_header(disk, fd).sender:
                return f"process {writer_of(name).partition('.')[0]} sends it"
        except fmt.BadHeader:
            if alive:
                return f"process {writer_of(name).partition('.')[0]} writes it"
    if not disk.lock(fd):
        return "a sender has it in hand" if part == "segments" else "somebody else is at it"
    if not disk.still_named(fd, path):
        raise FileNotFoundError(2, "removed just now", path)
    return ""


def read_header(disk: Disk, fd: int) -> fmt.Header:
    """Read a segment's header.  Raises OSError, BadHeader or NewerFormat."""
    first = disk.read(fd, fmt.PAGE_BYTES, 0)
    return fmt.decode_header(disk.read(fd, fmt.header_bytes_wanted(first), 0))


def carry_out(folder: Folder, file: str, places: Sequence[Place], parked: Mapping[str, Sequence[int]]) -> Done | str:
    """Erase what a file holds of these places; or return who has it in hand.  Raises as ``reach``.

    ``parked``: which events have dead letters that were never noted, by segment: these are dead, not purged.
    """
    done, disk, (part, _, name) = Done(), folder.disk, file.partition("/")
    with reach(folder, file) as (fd, holder):
        if holder:
            return holder
        # Of events only: a segment of letters that was begun in the same millisecond has the same name.
        settled, noted = b"", frozenset(parked.get(name, ()) if part == "segments" else ())
        header: fmt.Header | None = None
        if part != "bad":
            with suppress(fmt.BadHeader):  # then it holds records of nothing: bytes like those in bad/
                header = read_header(disk, fd)
                settled = disk.read(fd, header.events_max, header.outcomes_at)
        for place in places:
            if place.ordinal == NO_RECORD or header is None:
                done.raw += 1
            elif (
                place.ordinal >= (len(settled) if header.sealed_events is None else header.sealed_events)
                or settled[place.ordinal] in SETTLED
            ):
                done.erased += 1
            elif not place.whole:
                done.cut += 1
            else:
                outcome = Outcome.DEAD if place.ordinal in noted else Outcome.PURGED
                disk.write(fd, bytes([outcome]), header.outcomes_at + place.ordinal)
                done.purged += outcome is Outcome.PURGED
                done.erased += outcome is Outcome.DEAD
            erase(disk, fd, place, header)
        disk.datasync(fd)
    return done


def finish(folder: Folder) -> None:
    """Carry out what a note still asks whose command is gone, as far as nobody has it in hand.  Raises OSError."""
    with only_one(folder) as alone:
        if not alone:
            return  # it is at work
        places = read_note(folder)
        parked = Parked(folder).by_segment() if places else {}
        left: Places = {}
        for file, some in places.items():
            try:
                if isinstance(carry_out(folder, file, some, parked), str):
                    left[file] = some
            except (FileNotFoundError, ValueError):
                continue  # gone, and what is of a newer format now was no place of ours
        if left != places:
            write_note(folder, left)
