"""Real segments to begin with, and the ways in which a segment's bytes are changed for fuzzing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import orjson

from eventpost.event import Envelope, Event
from eventpost.queues.journal import JournalQueue, dead
from eventpost.queues.journal import format as fmt
from eventpost.queues.protocol import Answer
from eventpost.testing.clock import ManualClock

NAME = "1784000000000-7.00000000aa-000000.seg"
URL = "http://127.0.0.1:9/v1/events"
TAIL_BYTES = 256
_FIXED_AT = {"version": 8, "pages": 10, "outcome_pages": 12, "length": 16, "checksum": 20}
_EDGES = (0, 1, 2, 7, 8, 19, 20, 21, 255, 4095, 4096, 65535, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Seed:
    """A segment as a queue wrote it: its bytes, the payloads of its events, its frames (``end`` 0)."""

    data: bytes
    payloads: frozenset[bytes]
    frames: frozenset[fmt.Frame]


def make_seeds(folder: Path) -> list[Seed]:
    """Let a JournalQueue write segments, and copy them as a crash would leave them."""
    return [
        _seed(folder, "open", events=6),
        _seed(folder, "one", events=1),
        _seed(folder, "settled", events=12, acked=5),
        _seed(folder, "envelopes", events=9, envelopes=4),
        _seed(folder, "sealed", events=8, sealed=True),
        _seed(folder, "sealed-settled", events=12, acked=7, sealed=True, envelopes=2),
        _seed(folder, "long", events=3, size=3000, sealed=True),
        _seed(folder, "dead", events=5, part="dead"),
        _seed(folder, "dead-sealed", events=4, part="dead", sealed=True),
    ]


def _seed(
    folder: Path,
    name: str,
    *,
    events: int,
    acked: int = 0,
    envelopes: int = 1,
    size: int = 60,
    sealed: bool = False,
    part: str = "segments",
) -> Seed:
    clock = ManualClock(1_784_000_000.0)
    queue = JournalQueue(folder / name, clock=clock)
    payloads = [b'{"visitor_id":"%d","pad":"%s"}' % (n, bytes([97 + n % 26]) * (size + n)) for n in range(events)]
    for n, payload in enumerate(payloads):
        queue.put(
            [Event(Envelope(URL, shared=True, prefix=b'{"e":%d,"visitors":[' % (n % envelopes), suffix=b"]}"), payload)]
        )
    if acked:
        leases = queue.claim(URL, events, 1 << 30)
        queue.ack(leases[:acked] if acked % 2 else leases[::2])
    if part == "dead":
        queue.bury(queue.claim(URL, events, 1 << 30), "http_400", Answer(400, "no such project"))
    if sealed:
        queue._store.close()
        queue._dead.close()
    [path] = (folder / name / part).glob("*.seg")
    data = path.read_bytes()
    queue.close()
    shutil.rmtree(folder / name)
    header = fmt.decode_header(data[: fmt.PAGE_BYTES])
    frames = list(dead.walk(data, header.records_at))
    assert all(frame is not None for _, frame, _ in frames)
    whole = [frame for _, frame, _ in frames if frame is not None]
    data = data[: max(frame.end for frame in whole) + (0 if sealed else TAIL_BYTES)]
    return Seed(data, frozenset(payloads), frozenset(frame._replace(end=0) for frame in whole))


def records_at(data: bytes | bytearray) -> int:
    """Return where the records begin, by what the header says, or where they usually do."""
    try:
        at = fmt.decode_header(bytes(data[: fmt.PAGE_BYTES])).records_at
    except ValueError:
        at = 2 * fmt.PAGE_BYTES
    return at if at < len(data) else 2 * fmt.PAGE_BYTES


def frames_of(data: bytes | bytearray) -> list[tuple[int, fmt.Frame]]:
    """Return the whole frames with their offsets."""
    return [(at, frame) for at, frame, _ in dead.walk(bytes(data), records_at(data)) if frame is not None]


def place(data: bytearray, chance: Random) -> int:
    """Choose an offset: mostly in the records, now and then in the header, the seal or the outcomes."""
    start, kind = records_at(data), chance.random()
    if kind < 0.12:
        return chance.randrange(0, 200)
    if kind < 0.2:
        return chance.randrange(fmt.SEAL_AT, fmt.SEAL_AT + fmt.SEAL_BYTES)
    if kind < 0.32:
        return fmt.PAGE_BYTES + chance.randrange(0, 40 if chance.random() < 0.8 else fmt.PAGE_BYTES)
    return min(start, max(0, len(data) - 1)) + chance.randrange(max(1, len(data) - start))


def mutate(data: bytearray, chance: Random, seeds: list[Seed]) -> None:
    """Change some bytes, as damage does: no checksum is made to fit."""
    if len(data) < 256:
        data += bytes(4096)
    kind = chance.randrange(12)
    at = min(place(data, chance), len(data) - 1)
    length = chance.choice((1, 2, 3, 4, 7, 8, 16, 20, 24, 100, 512, 4096))
    if kind <= 2:
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 3:
        data[at] = chance.choice((0, 1, 2, 3, 255, *map(int, fmt.Outcome)))
    elif kind == 4:
        data[at : at + length] = chance.randbytes(len(data[at : at + length]))
    elif kind == 5:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 6:
        del data[at : at + length]
    elif kind == 7:
        data[at:at] = data[at : at + length] if chance.random() < 0.5 else chance.randbytes(length)
    elif kind == 8:
        del data[chance.randrange(len(data)) if chance.random() < 0.3 else at :]
    elif kind == 9:
        data += bytes(length) if chance.random() < 0.5 else chance.randbytes(length)
    elif kind == 10:
        other = chance.choice(seeds).data
        frames = frames_of(other)
        if frames and chance.random() < 0.7:
            start, frame = chance.choice(frames)
            part = other[start : frame.end]
        else:
            start = chance.randrange(len(other))
            part = other[start : start + length * 8]
        mine = frames_of(data)
        if mine and chance.random() < 0.7:
            at = chance.choice(mine)[0]
        data[at : at + (len(part) if chance.random() < 0.5 else 0)] = part
    else:
        _shuffle(data, chance)


def _shuffle(data: bytearray, chance: Random) -> None:
    """Double, drop or swap whole frames."""
    frames = frames_of(data)
    if not frames:
        return
    at, frame = chance.choice(frames)
    to, other = chance.choice(frames)
    kind = chance.randrange(3)
    if kind == 0:
        data[to:to] = data[at : frame.end]
    elif kind == 1:
        del data[at : frame.end]
    elif at < to:
        data[at : other.end] = data[to : other.end] + data[frame.end : to] + data[at : frame.end]


def forge(data: bytearray, chance: Random) -> None:
    """Change something, and make its checksum fit: what only a mistake of ours, or malice, can write."""
    kind = chance.randrange(8)
    if kind == 0:
        _forge_header(data, chance)
    elif kind == 1:
        events, end = (
            chance.choice((*_EDGES, 5, 12)),
            chance.choice((*_EDGES, len(data), len(data) + 1, records_at(data), 2**63, 2**64 - 1)),
        )
        data[fmt.SEAL_AT : fmt.SEAL_AT + fmt.SEAL_BYTES] = fmt.encode_seal(events, end)
    elif kind == 2:
        field, at = chance.choice(list(_FIXED_AT.items()))
        width = 2 if field in ("version", "pages") else 4
        data[at : at + width] = (chance.choice(_EDGES) & (256**width - 1)).to_bytes(width, "little")
    else:
        _forge_frame(data, chance)


def _forge_frame(data: bytearray, chance: Random) -> None:
    frames = frames_of(data)
    if not frames:
        return
    at, frame = chance.choice(frames)
    what = chance.randrange(7)
    ordinal, number, kind, at_s, payload = frame.ordinal, frame.envelope, frame.kind, frame.at_s, frame.payload
    if what == 0:
        ordinal = chance.choice((*_EDGES, ordinal + 1, max(0, ordinal - 1), ordinal + 300))
    elif what == 1:
        number = chance.choice((0, 1, 2, 3, 9, 65535))
    elif what == 2:
        kind = chance.choice((0, 1, 2, 3, 4, 255))
    elif what == 3:
        at_s = chance.choice(_EDGES)
    elif what == 4:
        payload = chance.choice(
            (
                b"",
                b"[]",
                b"null",
                b'["u","POST",[],true,1,2]',
                b"\xff\xff\xff\xff{}",
                b"\0\0\0\0",
                b"\2\0\0\0[]x",
                b"\2\0\0\0{}x",
                chance.randbytes(30),
            )
        )
    if what == 5:  # a length that is wrong, within a checksum over what it claims
        length = chance.choice((*_EDGES, len(payload), len(payload) + 28, len(data) - at, len(data) - at - 8))
        body = bytearray(data[at + 4 : at + max(24, min(length, len(data)))])
        body[:4] = length.to_bytes(4, "little")
        data[at : at + 4 + len(body)] = crc32(body).to_bytes(4, "little") + body
        return
    if what == 6:
        kind = fmt.Kind.DEAD
        meta: Any = chance.choice(
            (
                {},
                {"status": "x"},
                {"reason": None},
                {"status": 10**30},
                {"status": None},
                {"status": [1]},
                {"attempts": {}},
                [],
                7,
            )
        )
        text = orjson.dumps(meta) if meta != {"status": 10**30} else b'{"status":%d}' % 10**30
        payload = len(text).to_bytes(4, "little") + text + payload
    made = fmt.frame(kind, ordinal, at_s, number, payload)
    data[at : at + (len(made) if chance.random() < 0.5 else frame.end - at)] = made


def _forge_header(data: bytearray, chance: Random) -> None:
    text: Any = {"lane": URL, "writer": "7.00000000aa", "created_ms": 1, "sender": True, "retry": False}
    field = chance.choice(list(text))
    text[field] = chance.choice((None, "", -1, 2**40, 1.5, "é", [], {}, True, "x" * 5000))
    if chance.random() < 0.3:
        del text[field]
    made = orjson.dumps(text)
    pages = -(-(64 + len(made)) // fmt.PAGE_BYTES)
    data[16:24] = len(made).to_bytes(4, "little") + crc32(made).to_bytes(4, "little")
    if chance.random() < 0.5:
        data[10:12] = pages.to_bytes(2, "little")
    data[64 : 64 + len(made)] = made
