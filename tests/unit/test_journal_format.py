"""The bytes of version 1, as they are told in the module: what lies in folders today must be read for ever."""

import re
import struct
from itertools import combinations
from typing import Any
from zlib import crc32

import orjson
import pytest

from eventpost.event import Envelope
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.format import Kind, Outcome

LANE = "http://127.0.0.1:9/v1/events"
ENVELOPE = Envelope(LANE, "PUT", (("X-A", "1"), ("X-A", "ä")), shared=True, prefix=bytes(range(256)), suffix=b"\xff]}")


def header(lane: str = LANE, outcome_pages: int = 3, *, sender: bool = True, retry: bool = False) -> bytes:
    """Return a header."""
    return fmt.encode_header(lane, "7.aa", 1_784_000_000_123, sender=sender, retry=retry, outcome_pages=outcome_pages)


def with_text(changes: dict[str, Any] | bytes, *, numbers: tuple[int, int, int] = (1, 1, 3)) -> bytes:
    """Return a header with another text, and with these: version, pages, pages of outcomes."""
    if isinstance(changes, dict):
        text = orjson.loads(header()[64:].rstrip(b"\0")) | changes
        changes = orjson.dumps({name: value for name, value in text.items() if value != "gone"})
    fixed = struct.pack("<8sHHIII", b"EVPOSTJ\n", *numbers, len(changes), crc32(changes))
    return (fixed.ljust(64, b"\0") + changes).ljust(4096, b"\0")


# -- headers and seals


def test_a_header_byte_for_byte() -> None:
    """The fixed part, little endian, then at 64 a JSON text, then zeros up to a whole page."""
    data = header()
    text = orjson.loads(data[64:].rstrip(b"\0"))
    assert text == {
        "lane": LANE, "writer": "7.aa", "created_ms": 1_784_000_000_123, "sender": True, "retry": False,
        "version": 1, "outcome_pages": 3,
    }  # fmt: skip
    assert data == with_text({})


@pytest.mark.parametrize("sender", [True, False])
@pytest.mark.parametrize("retry", [True, False])
def test_a_header_tells_what_it_was_told(*, sender: bool, retry: bool) -> None:
    """Also where its records begin, and how many events have an outcome byte."""
    found = fmt.decode_header(header(sender=sender, retry=retry))
    assert found == (LANE, "7.aa", 1_784_000_000_123, sender, retry, 1, 3, None, None)
    assert (found.outcomes_at, found.records_at, found.events_max) == (4096, 4 * 4096, 3 * 4096)
    assert fmt.decode_header(header(outcome_pages=1)).outcome_pages == 1


@pytest.mark.parametrize(("lane_bytes", "pages"), [(3000, 1), (4096, 2), (9000, 3)])
def test_a_header_takes_as_many_pages_as_its_endpoints_url(lane_bytes: int, pages: int) -> None:
    """How many is told by its first page."""
    data = header("h" * lane_bytes)
    assert len(data) == pages * 4096
    assert fmt.header_bytes_wanted(data[:4096]) == len(data)
    assert fmt.decode_header(data).header_pages == pages
    assert fmt.decode_header(data).lane == "h" * lane_bytes


def test_a_text_that_just_fits_its_page() -> None:
    """One byte more begins another."""
    around = len(header("").rstrip(b"\0"))
    assert [len(header("h" * (4096 - around + more))) for more in (0, 1)] == [4096, 8192]
    assert fmt.decode_header(header("h" * (4096 - around))).lane == "h" * (4096 - around)


def test_what_is_no_header_wants_one_page() -> None:
    """Too short, another magic, or a number of pages that is damaged."""
    good = header("h" * 9000)
    assert fmt.header_bytes_wanted(good[:24]) == 3 * 4096
    for data in (b"", good[:23], b"x" + good[1:4096], good[:10] + b"\0\0" + good[12:4096]):
        assert fmt.header_bytes_wanted(data) == 4096


@pytest.mark.parametrize(
    "data",
    [
        b"",
        header()[:4095],
        b"x" + header()[1:],
        with_text({"lane": "gone"}),
        with_text({"created_ms": None}),
        with_text({"created_ms": "soon"}),
        with_text(b"{"),
        with_text(b"[]"),
        with_text({"version": 0}),
        with_text({"version": True}),
        with_text({"version": "1"}),
        with_text({"outcome_pages": 0}),
        with_text({"outcome_pages": -1}),
        with_text({"outcome_pages": 1.0}),
        with_text({"version": "gone"}),
        with_text({"outcome_pages": "gone"}),
        with_text({"version": "gone", "outcome_pages": "gone"}, numbers=(0, 1, 3)),
        with_text({"version": "gone", "outcome_pages": "gone"}, numbers=(1, 0, 3)),
        with_text({"version": "gone", "outcome_pages": "gone"}, numbers=(1, 1, 0)),
        header()[:70] + b"?" + header()[71:],
        header()[:16] + b"\0" + header()[17:],
        header().replace(b"7.aa", b"7.ab"),
    ],
)
def test_a_damaged_header_is_a_bad_one(data: bytes) -> None:
    """Whatever is wrong with it, and never an error of another kind; it says why."""
    with pytest.raises(fmt.BadHeader) as caught:
        fmt.decode_header(data)
    assert all(caught.value.args)


def test_the_text_is_right_where_the_fixed_part_differs() -> None:
    """It has a checksum; a text without numbers (none was ever written) leaves them to the fixed part."""
    assert fmt.decode_header(with_text({}, numbers=(9, 9, 9)))[5:7] == (1, 3)
    assert fmt.decode_header(with_text({"version": "gone", "outcome_pages": "gone"}, numbers=(1, 1, 5)))[5:7] == (1, 5)


@pytest.mark.parametrize("data", [with_text({"version": 2}), with_text(b"what it will be", numbers=(2, 1, 1))])
def test_a_newer_header_is_no_damage(data: bytes) -> None:
    """Whatever stands behind its version."""
    with pytest.raises(fmt.NewerFormat, match=re.escape("format version 2; this release reads up to 1")):
        fmt.decode_header(data)


def test_a_seal_byte_for_byte() -> None:
    """At 24: events, end, and a checksum that is never zero, which is what stands there before."""
    assert (fmt.SEAL_AT, fmt.SEAL_BYTES) == (24, 16)
    checksums = set()
    for events in range(10):
        seal = fmt.encode_seal(events, 40_000)
        assert seal == struct.pack("<IQI", events, 40_000, crc32(struct.pack("<IQ", events, 40_000)) | 1)
        checksums.add(crc32(seal[:12]) & 1)
        data = header()[:24] + seal + header()[40:]
        assert fmt.decode_header(data)[7:] == (events, 40_000)
    assert checksums == {0, 1}  # both kinds were seen


def test_a_seal_that_cannot_be_true_is_none() -> None:
    """Half of it, another checksum, more events than outcome bytes, an end before the records; the limits are true."""
    found = fmt.decode_header(header())
    most, least = found.events_max, found.records_at
    assert fmt.decode_seal(found, fmt.encode_seal(most, least)) == (most, least)
    assert fmt.decode_seal(found, fmt.encode_seal(most + 1, least)) is None
    assert fmt.decode_seal(found, fmt.encode_seal(most, least - 1)) is None
    assert fmt.decode_seal(found, bytes(16)) is None
    seal = fmt.encode_seal(1, 40_000)
    assert fmt.decode_seal(found, seal[:15]) is None
    assert fmt.decode_seal(found, seal[:12] + bytes(4)) is None
    for at in range(16):
        assert fmt.decode_seal(found, seal[:at] + bytes([seal[at] ^ 2]) + seal[at + 1 :]) is None


# -- outcomes


def test_the_outcome_bytes() -> None:
    """They are on disks; three bits at least part each from every other, and from zero."""
    assert {outcome.name: int(outcome) for outcome in Outcome} == {
        "DELIVERED": 0xD1, "DEAD": 0x6E, "OVERFLOW": 0xB4, "DAMAGED": 0x2B, "RETRIED": 0x4D, "DISCARDED": 0xF8,
        "EXPIRED": 0x5A, "PURGED": 0x8A, "VOID": 0x97,
    }  # fmt: skip
    assert all((one ^ other).bit_count() >= 3 for one, other in combinations([0, *fmt.SETTLED], 2))
    assert set(Outcome) == fmt.SETTLED
    assert fmt.DROPPED == {
        Outcome.OVERFLOW: "overflow", Outcome.DAMAGED: "damaged", Outcome.DISCARDED: "dead_discarded",
        Outcome.EXPIRED: "dead_expired", Outcome.PURGED: "purged",
    }  # fmt: skip


def test_outcomes_are_counted() -> None:
    """Zeros and unknown bytes are nobody's."""
    assert fmt.count_outcomes(b"\0\xd1\0\xd1\x6e\x01\xff") == {Outcome.DELIVERED: 2, Outcome.DEAD: 1}


# -- frames


@pytest.mark.parametrize("size", range(13))
def test_a_frame_byte_for_byte(size: int) -> None:
    """Checksum, length, ordinal, seconds, envelope, kind, a reserved byte, the payload, zeros up to eight."""
    payload = bytes(range(1, size + 1))
    data = fmt.frame(Kind.EVENT, 0x01020304, 1_784_000_000, 0x0506, payload)
    body = struct.pack("<IIIHBB", 20 + size, 0x01020304, 1_784_000_000, 0x0506, 2, 0) + payload
    assert data.startswith(struct.pack("<I", crc32(body)) + body)
    assert len(data) == fmt.frame_bytes(size) == -(-(20 + size) // 8) * 8
    assert not any(data[20 + size :])
    for before in (b"", bytes(16)):
        found = fmt.read_frame(before + data + b"\1", len(before))
        assert found == (2, 0x01020304, 1_784_000_000, 0x0506, payload, len(before) + len(data))
    assert [int(kind) for kind in Kind] == [1, 2, 3]


def test_a_frame_without_its_padding_is_whole() -> None:
    """The last one of a file that was cut."""
    data = fmt.frame(Kind.EVENT, 0, 0, 0, b"12345")
    found = fmt.read_frame(data[:25], 0)
    assert isinstance(found, fmt.Frame)
    assert (found.payload, found.end) == (b"12345", 32)
    assert fmt.read_frame(data[:24], 0) is False


def test_nothing_half_a_frame_and_damage() -> None:
    """Zeros are the end so far, and so is no byte at all; everything else that is no whole frame is told from it."""
    good = fmt.frame(Kind.EVENT, 0, 1, 0, b"payload")
    assert fmt.read_frame(b"", 0) is None
    assert fmt.read_frame(bytes(19), 0) is None
    assert fmt.read_frame(bytes(40), 0) is None
    assert fmt.read_frame(bytes(20) + b"\1", 0) is None  # what comes next is not looked at
    assert fmt.read_frame(bytes(8) + good, 8 + len(good)) is None
    for cut in range(1, 27):
        assert fmt.read_frame(good[:cut], 0) is False
    for at in range(20):
        assert fmt.read_frame(bytes(at) + b"\1" + bytes(19 - at), 0) is False
    for at in range(27):
        assert fmt.read_frame(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], 0) is False
    short = struct.pack("<IIIHBB", 19, 0, 0, 0, 2, 0)
    assert fmt.read_frame(struct.pack("<I", crc32(short[:15])) + short, 0) is False  # shorter than its own head


def test_a_frame_of_no_bytes_is_one() -> None:
    """An empty payload is a payload."""
    data = fmt.frame(Kind.EVENT, 0, 0, 0, b"")
    assert fmt.read_frame(data, 0) == (2, 0, 0, 0, b"", 24)
    assert fmt.read_frame(data[:20], 0) == (2, 0, 0, 0, b"", 24)


def test_what_a_frame_claims_is_told_unchecked() -> None:
    """Its length and its time; there is none where not even its head fits."""
    data = bytes(8) + fmt.frame(Kind.EVENT, 3, 77, 0, b"payload")
    for cut, length, at_s in ((27, 0, None), (28, 27, 77), (40, 27, 77)):
        assert fmt.frame_length(data[:cut], 8) == length
        assert fmt.frame_at_s(data[:cut], 8) == at_s
    assert fmt.frame_at_s(bytes(20), 0) is None


@pytest.mark.parametrize("kind", list(Kind))
def test_reading_goes_on_at_the_next_whole_frame(kind: Kind) -> None:
    """After the place, at a multiple of eight; where none follows there is None."""
    good = fmt.frame(kind, 3, 77, 0, b"1234")
    assert len(good) == 24
    for before in (8, 16, 24):
        for at in (before - 8, before - 1):
            assert fmt.resync(bytes(before) + good, at) == before
            assert fmt.resync(b"\xff" * before + good + good, at) == before
        assert fmt.resync(bytes(before) + good, before) is None
        assert fmt.resync(bytes(before) + good[:-1], 0) is None
    assert fmt.resync(bytes(4) + good, 0) is None
    assert fmt.resync(bytes(8) + fmt.frame(kind, 0, 0, 0, b"")[:20], 0) == 8  # a file that ends with it
    assert fmt.resync(bytes(8) + fmt.frame(4, 0, 0, 0, b""), 0) is None


# -- what frames hold


def test_an_envelope_byte_for_byte() -> None:
    """JSON, prefix and suffix as Latin-1; it comes back as it was."""
    text = orjson.loads(fmt.encode_envelope(ENVELOPE))
    assert text[:4] == [LANE, "PUT", [["X-A", "1"], ["X-A", "ä"]], True]
    assert [part.encode("latin-1") for part in text[4:]] == [bytes(range(256)), b"\xff]}"]
    assert fmt.decode_envelope(fmt.encode_envelope(ENVELOPE)) == ENVELOPE
    alone = Envelope(LANE)
    assert fmt.decode_envelope(fmt.encode_envelope(alone)) == alone


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{", b"3", b"null", b"[]", b"[1,2,3,4,5]", b'["u","v",null,true,"",""]', b'["u","v",[1],true,"",""]',
        b'["u","v",[["a"]],true,"",""]', b'["u","v",[],true,3,""]', b'["u","v",[],true,"",null]',
        '["u","v",[],true,"€",""]'.encode(),
    ],
)  # fmt: skip
def test_what_is_no_envelope(payload: bytes) -> None:
    """ValueError, and never another; it says why."""
    with pytest.raises(ValueError) as caught:
        fmt.decode_envelope(payload)
    assert all(caught.value.args[:1])


def test_a_dead_letter_byte_for_byte() -> None:
    """The length of its note, its note as JSON, and the event's own bytes."""
    note = {"reason": "http_400", "status": 400}
    data = fmt.encode_dead(note, b"\0payload")
    assert data == struct.pack("<I", len(orjson.dumps(note))) + orjson.dumps(note) + b"\0payload"
    assert fmt.decode_dead(data) == (note, b"\0payload")
    assert fmt.decode_dead(fmt.encode_dead({}, b"")) == ({}, b"")


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\2\0\0\0", b"\2\0\0\0[]rest", b"\0\0\0\0{}"])
def test_what_is_no_dead_letter(data: bytes) -> None:
    """ValueError, and never another; it says why."""
    with pytest.raises(ValueError) as caught:
        fmt.decode_dead(data)
    assert all(caught.value.args[:1])
