r"""The bytes on the disk, version 1.  Pure: values in, values out, no file is touched here.

A segment is one file::

    page 0 ..      header   fixed part (64 bytes) and a JSON text, padded to whole pages of 4,096 bytes
    next pages     outcomes one byte per event, by ordinal: 0 while unsettled, else an :class:`Outcome`
    rest           records  frames, each starting at a multiple of 8

The text repeats the version and the pages of the outcomes: it has a checksum, so where they differ it is right, and a
bit that flips in the fixed part costs nothing.

Fixed part, little endian: magic ``EVPOSTJ\\n``, format version (u16), pages of the header (u16), pages of the outcomes
(u32), length and crc32 of the JSON text (u32 each), and, zero until the segment is sealed: number of events (u32),
end of the records (u64) and a crc32 of those two (u32).

Frame: crc32 over all that follows but the padding (u32), length with this head (u32), ordinal (u32), seconds since
the epoch (u32), envelope number (u16), kind (u8), reserved (u8), payload, zeros up to a multiple of 8.  Kinds:
an ENVELOPE defines the number that later frames name (written twice, so that one damaged place costs no other
event); an EVENT is one event's bytes; a DEAD letter is the same with a JSON text before it.  A length of zero is the
end so far.  Payload and checksum of a frame change only where somebody's bytes are erased: zeros for all of it, spaces
for a part.

Outcome bytes differ from zero and from each other in at least three bits: a flipped bit makes an unknown byte, which
counts as unsettled, and an event that is sent twice is one the endpoint can recognise; one that is never sent is lost.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, Final, NamedTuple
from zlib import crc32

import orjson

from ...event import Envelope, shown_url

VERSION: Final = 1
MAGIC: Final = b"EVPOSTJ\n"
PAGE_BYTES: Final = 4096
ALIGN_BYTES: Final = 8
FRAME_HEAD_BYTES: Final = 20

_FIXED: Final = struct.Struct("<8sHHIII")
_SEAL: Final = struct.Struct("<IQI")
SEAL_AT: Final = _FIXED.size
_JSON_AT: Final = 64
U32: Final = struct.Struct("<I")
FRAME_BODY: Final = struct.Struct("<IIIHBB")
FRAME: Final = struct.Struct("<IIIIHBB")
_LENGTH_AT: Final = 4
_KIND_AT: Final = 18


class Kind(IntEnum):
    """What a frame holds."""

    ENVELOPE = 1
    EVENT = 2
    DEAD = 3


class Outcome(IntEnum):
    """What became of an event; the byte that settles it."""

    DELIVERED = 0xD1
    DEAD = 0x6E
    OVERFLOW = 0xB4
    DAMAGED = 0x2B
    RETRIED = 0x4D
    DISCARDED = 0xF8
    EXPIRED = 0x5A
    PURGED = 0x8A
    VOID = 0x97
    """Never promised: its put was refused after it had been stored, or a dead letter that was taken back."""


DROPPED: Final = {
    Outcome.OVERFLOW: "overflow",
    Outcome.DAMAGED: "damaged",
    Outcome.DISCARDED: "dead_discarded",
    Outcome.EXPIRED: "dead_expired",
    Outcome.PURGED: "purged",
}
"""The outcomes that are losses, with the ledger's word for them."""

SETTLED: Final = frozenset(int(outcome) for outcome in Outcome)


class BadHeader(ValueError):  # noqa: N818 - a state of the file, named as such in messages
    """The header is not one that this version wrote."""


class NewerFormat(ValueError):  # noqa: N818 - a state of the file, named as such in messages
    """The segment was written by a newer release: left alone, counted, reported."""


class Header(NamedTuple):
    """What a segment says of itself.

    ``sender`` tells whether its writer also sends; ``retry`` marks dead letters that were put back.
    """

    lane: str
    writer: str
    created_ms: int
    sender: bool
    retry: bool
    header_pages: int
    outcome_pages: int
    sealed_events: int | None = None
    sealed_end: int | None = None

    def __repr__(self) -> str:
        return f"Header({shown_url(self.lane)}, writer={self.writer!r}, sealed_events={self.sealed_events})"

    @property
    def outcomes_at(self) -> int:
        """Offset of the outcome bytes."""
        return self.header_pages * PAGE_BYTES

    @property
    def records_at(self) -> int:
        """Offset of the first frame."""
        return (self.header_pages + self.outcome_pages) * PAGE_BYTES

    @property
    def events_max(self) -> int:
        """How many events the segment can hold, by its outcome bytes."""
        return self.outcome_pages * PAGE_BYTES


def encode_header(lane: str, writer: str, created_ms: int, *, sender: bool, retry: bool, outcome_pages: int) -> bytes:
    """Return the header pages of a new segment."""
    text = orjson.dumps({
        "lane": lane, "writer": writer, "created_ms": created_ms, "sender": sender, "retry": retry,
        "version": VERSION, "outcome_pages": outcome_pages,
    })  # fmt: skip
    pages = _pages(len(text))
    fixed = _FIXED.pack(MAGIC, VERSION, pages, outcome_pages, len(text), crc32(text))
    return (fixed.ljust(_JSON_AT, b"\0") + text).ljust(pages * PAGE_BYTES, b"\0")


def _pages(text_bytes: int) -> int:
    """Return how many pages a header with such a text has."""
    return -(-(_JSON_AT + text_bytes) // PAGE_BYTES)


def header_bytes_wanted(first_page: bytes) -> int:
    """Return how many bytes of a file must be read to decode its header, judged by its first page."""
    if len(first_page) < _FIXED.size or first_page[:8] != MAGIC:
        return PAGE_BYTES
    pages: int = _FIXED.unpack_from(first_page)[2]
    return max(1, pages) * PAGE_BYTES


def _fields(text: bytes, length: int, checksum: int) -> dict[str, Any] | None:
    """Return what the header's text says, None if it is damaged; the numbers in it are numbers."""
    if len(text) != length or crc32(text) != checksum:
        return None
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    numbers = ("version", "outcome_pages")
    if not isinstance(fields, dict) or any(type(fields.get(name, 0)) is not int for name in numbers):
        return None
    return fields if ("version" in fields) == ("outcome_pages" in fields) else None


def decode_header(data: bytes) -> Header:
    """Read a header.  Raises BadHeader for what is damaged and NewerFormat for what is newer."""
    if len(data) < PAGE_BYTES or data[:8] != MAGIC:
        raise BadHeader("not a segment: its first bytes are not a segment's")
    _, version, pages, outcome_pages, length, checksum = _FIXED.unpack_from(data)
    fields = _fields(data[_JSON_AT : _JSON_AT + length], length, checksum)
    if fields is not None and "outcome_pages" in fields:
        version, pages, outcome_pages = fields["version"], _pages(length), fields["outcome_pages"]
    if version > VERSION:
        raise NewerFormat(f"format version {version}; this release reads up to {VERSION}")
    if fields is None or version <= 0 or not pages or outcome_pages <= 0:
        raise BadHeader("the header's checksum does not hold")
    try:
        header = Header(
            str(fields["lane"]), str(fields["writer"]), int(fields["created_ms"]),
            bool(fields["sender"]), bool(fields["retry"]), pages, outcome_pages,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise BadHeader("the header's text cannot be read") from error
    return with_seal(header, data)


def with_seal(header: Header, data: bytes) -> Header:
    """Return the header with what its first page says of the seal."""
    seal = decode_seal(header, data[SEAL_AT : SEAL_AT + _SEAL.size])
    return header if seal is None else header._replace(sealed_events=seal[0], sealed_end=seal[1])


def encode_seal(events: int, end: int) -> bytes:
    """Return the bytes that go to ``SEAL_AT`` when a segment is sealed."""
    body = _SEAL.pack(events, end, 0)[:12]
    return _SEAL.pack(events, end, crc32(body) | 1)


def decode_seal(header: Header, data: bytes) -> tuple[int, int] | None:
    """Read the seal: number of events and end of the records, or None if there is none that can be true."""
    if len(data) < _SEAL.size:
        return None
    events, end, checksum = _SEAL.unpack(data)
    if not checksum or crc32(data[:12]) | 1 != checksum or events > header.events_max or end < header.records_at:
        return None
    return events, end


SEAL_BYTES: Final = _SEAL.size


def frame(kind: int, ordinal: int, at_s: int, envelope: int, payload: bytes) -> bytes:
    """Return one frame, padded."""
    length = FRAME_HEAD_BYTES + len(payload)
    body = FRAME_BODY.pack(length, ordinal, at_s, envelope, kind, 0) + payload
    return U32.pack(crc32(body)) + body + b"\0" * (-length % ALIGN_BYTES)


def frame_bytes(payload_bytes: int) -> int:
    """Return how much room a frame with such a payload takes."""
    return (FRAME_HEAD_BYTES + payload_bytes + ALIGN_BYTES - 1) & -ALIGN_BYTES


class Frame(NamedTuple):
    """A frame that was read; ``end`` is the offset of the next one, relative like ``at``."""

    kind: int
    ordinal: int
    at_s: int
    envelope: int
    payload: bytes
    end: int

    def __repr__(self) -> str:
        return f"Frame(kind={self.kind}, ordinal={self.ordinal}, <{len(self.payload)} bytes>, end={self.end})"


def read_frame(data: bytes, at: int) -> Frame | bool | None:
    """Read the frame at ``at``: a Frame; None if nothing is there yet; False for half a frame or damage."""
    if at + FRAME_HEAD_BYTES > len(data):
        return None if not any(data[at:]) else False
    checksum, length, ordinal, at_s, envelope, kind, _ = FRAME.unpack_from(data, at)
    if not length:
        return None if not any(data[at : at + FRAME_HEAD_BYTES]) else False
    stop = at + length
    if length < FRAME_HEAD_BYTES or stop > len(data):
        return False
    if crc32(data[at + _LENGTH_AT : stop]) != checksum:
        return False
    return Frame(
        kind,
        ordinal,
        at_s,
        envelope,
        data[at + FRAME_HEAD_BYTES : stop],
        at + ((length + ALIGN_BYTES - 1) & -ALIGN_BYTES),
    )


def frame_length(data: bytes, at: int) -> int:
    """Return the length that the frame at ``at`` claims, 0 if there is none."""
    length: int = U32.unpack_from(data, at + _LENGTH_AT)[0] if at + FRAME_HEAD_BYTES <= len(data) else 0
    return length


def frame_at_s(data: bytes, at: int) -> int | None:
    """Return the time that the frame at ``at`` tells, unchecked; None if there is none."""
    return FRAME.unpack_from(data, at)[3] or None if at + FRAME_HEAD_BYTES <= len(data) else None


def resync(data: bytes, at: int) -> int | None:
    """Return the offset of the first whole frame after ``at``, or None.  For bytes that nobody writes to any more."""
    for start in range((at + ALIGN_BYTES) & -ALIGN_BYTES, len(data) - FRAME_HEAD_BYTES + 1, ALIGN_BYTES):
        if data[start + _KIND_AT] in (1, 2, 3) and isinstance(read_frame(data, start), Frame):
            return start
    return None


def encode_envelope(envelope: Envelope) -> bytes:
    """Return an envelope as bytes.  Latin-1 keeps prefix and suffix byte for byte inside JSON."""
    return orjson.dumps([
        envelope.url, envelope.verb, envelope.headers, envelope.shared,
        envelope.prefix.decode("latin-1"), envelope.suffix.decode("latin-1"),
    ])  # fmt: skip


def decode_envelope(payload: bytes) -> Envelope:
    """Read an envelope back.  Raises ValueError."""
    try:
        url, verb, headers, shared, prefix, suffix = orjson.loads(payload)
        pairs = tuple((str(name), str(value)) for name, value in headers)
        return Envelope(str(url), str(verb), pairs, bool(shared), prefix.encode("latin-1"), suffix.encode("latin-1"))
    except (AttributeError, TypeError, UnicodeEncodeError) as error:
        raise ValueError("not an envelope") from error


def encode_dead(meta: dict[str, Any], payload: bytes) -> bytes:
    """Return a dead letter: what is known of its end, then the event's own bytes."""
    text = orjson.dumps(meta)
    return U32.pack(len(text)) + text + payload


def decode_dead(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Read a dead letter back.  Raises ValueError."""
    if len(data) < 4:
        raise ValueError("not a dead letter")
    (length,) = U32.unpack_from(data)
    meta = orjson.loads(data[4 : 4 + length])
    if not isinstance(meta, dict):
        raise ValueError("not a dead letter")  # noqa: TRY004 - bad bytes, not a bad argument
    return meta, data[4 + length :]


def count_outcomes(settled: bytes) -> dict[Outcome, int]:
    """Count outcome bytes."""
    return {outcome: found for outcome in Outcome if (found := settled.count(outcome))}
