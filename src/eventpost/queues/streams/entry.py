"""The bytes of an entry: events of one endpoint that were put together; pure.

::

    format (1 byte, 1)   envelopes (2 bytes)   events (4 bytes)
    for each envelope: length (4 bytes), JSON
    for each event: number of its envelope (2 bytes), length of its payload (4 bytes)
    the payloads

Numbers are little-endian.  Everything that is needed to send the events is in the entry itself: what lies beside it
could be gone before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import orjson

from ...event import Envelope, Event

ENTRY_EVENTS_MAX: Final = 1024
ENTRY_BYTES_MAX: Final = 1 << 20
"""Payload bytes at which an entry is closed: a claim takes whole entries into memory.  One larger event is alone."""
_FORMAT: Final = 1
_HEAD: Final = struct.Struct("<BHI")
_LENGTH: Final = struct.Struct("<I")
_ROW: Final = struct.Struct("<HI")


@dataclass(frozen=True, slots=True, repr=False)
class Entry:
    """What one put stores for one endpoint, packed."""

    url: str
    events: int
    data: bytes

    def __repr__(self) -> str:
        return f"Entry({self.events} events, {len(self.data)} bytes)"


def entries(events: Sequence[Event]) -> Iterator[Entry]:
    """Yield the entries that hold these events: by endpoint, in their order, each within its bounds."""
    by_lane: dict[str, list[Event]] = {}
    for event in events:
        by_lane.setdefault(event.envelope.url, []).append(event)
    for url, all_of_it in by_lane.items():
        part: list[Event] = []
        size = 0
        for event in all_of_it:
            if part and (len(part) >= ENTRY_EVENTS_MAX or size + len(event.payload) > ENTRY_BYTES_MAX):
                yield Entry(url, len(part), pack(part))
                part, size = [], 0
            part.append(event)
            size += len(event.payload)
        yield Entry(url, len(part), pack(part))


def pack(events: Sequence[Event]) -> bytes:
    """Return events as bytes."""
    numbers: dict[Envelope, int] = {}
    rows = [(numbers.setdefault(event.envelope, len(numbers)), len(event.payload)) for event in events]
    pieces = [_HEAD.pack(_FORMAT, len(numbers), len(events))]
    for envelope in numbers:
        definition = _encode(envelope)
        pieces += [_LENGTH.pack(len(definition)), definition]
    pieces += [_ROW.pack(*row) for row in rows]
    pieces += [event.payload for event in events]
    return b"".join(pieces)


def unpack(data: bytes, events: int | None = None) -> list[Event]:
    """Read events back, as many as there should be.  Raises ValueError for what is no entry, or of a newer format."""
    try:
        form, envelopes_count, events_count = _HEAD.unpack_from(data, 0)
        if form != _FORMAT:
            raise ValueError(f"an entry of format {form}")
        if events is not None and events != events_count:
            raise ValueError("another number of events than it says")
        at = _HEAD.size
        envelopes = []
        for _ in range(envelopes_count):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            envelopes.append(_decode(data[at : at + length]))
            at += length
        end = at + events_count * _ROW.size
        rows = list(_ROW.iter_unpack(data[at:end]))
        if len(rows) != events_count or end + sum([length for _, length in rows]) != len(data):
            raise ValueError("an entry of another length than it says")
        found = []
        for number, length in rows:
            found.append(Event(envelopes[number], data[end : end + length]))
            end += length
    except (struct.error, IndexError) as error:
        raise ValueError("not an entry") from error
    return found


@lru_cache(maxsize=1024)
def _encode(envelope: Envelope) -> bytes:
    """Return an envelope as JSON.  Latin-1 keeps prefix and suffix byte for byte inside it."""
    prefix, suffix = envelope.prefix.decode("latin-1"), envelope.suffix.decode("latin-1")
    return orjson.dumps([envelope.url, envelope.verb, envelope.headers, envelope.shared, prefix, suffix])


@lru_cache(maxsize=4096)
def _decode(definition: bytes) -> Envelope:
    """Read an envelope back; equal ones are one object, so that telling them apart is cheap.  Raises ValueError."""
    try:
        url, verb, headers, shared, prefix, suffix = orjson.loads(definition)
        pairs = tuple((str(name), str(value)) for name, value in headers)
        return Envelope(str(url), str(verb), pairs, bool(shared), prefix.encode("latin-1"), suffix.encode("latin-1"))
    except (AttributeError, TypeError, UnicodeEncodeError) as error:
        raise ValueError("not an envelope") from error
