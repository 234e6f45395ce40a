"""Damage in a segment, as who reads it meets it: what is lost by it, what is told, and where reading goes on."""

from pathlib import Path

import pytest
from tests.support import ENVELOPE
from tests.unit.test_journal_reading import CHECKSUM, DEFINITION, OUTCOME, RECORDS_AT, TORN, Reading, frame

from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.format import Kind, Outcome


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    """Give a segment, and who reads it."""
    return Reading(tmp_path)


def spoilt(data: bytes) -> bytes:
    """Flip a bit in the last byte of a frame's payload."""
    at = fmt.FRAME_HEAD_BYTES
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


E0, E1, E2, E3 = (frame(n, b"event %d" % n * (n + 1)) for n in range(4))
NOBODYS = frame(1, b"its envelope is gone", envelope=9)
LATER = frame(1, b"1", kind=Kind.ENVELOPE, envelope=5)
"""An envelope that cannot be read."""
DAMAGED: dict[str, tuple[list[bytes], int, list[int], list[tuple[int, bytes, int, str]]]] = {
    # frames, how many of their events a seal tells, what is read, and what is told, by the frame where it begins
    "one": ([E0, spoilt(E1), E2], 3, [0, 2], [(1, spoilt(E1), 1, CHECKSUM)]),
    "two": ([E0, spoilt(E1), spoilt(E2), E3], 4, [0, 3], [(1, spoilt(E1) + spoilt(E2), 2, CHECKSUM)]),
    "the first": ([spoilt(E0), E1], 2, [1], [(0, spoilt(E0), 1, CHECKSUM)]),
    "zeros": ([E0, bytes(len(E1)), E2], 3, [0, 2], [(1, bytes(len(E1)), 1, CHECKSUM)]),
    "a head": ([E0, b"\0\0\0\0\1" + E1[5:], E2], 3, [0, 2], [(1, b"\0\0\0\0\1" + E1[5:], 1, CHECKSUM)]),
    "its envelope": ([E0, NOBODYS, E2], 3, [0, 2], [(1, NOBODYS, 1, CHECKSUM)]),
    "its envelope, the last": ([E0, NOBODYS], 2, [0], [(1, NOBODYS, 1, CHECKSUM)]),
    "an envelope": ([E0, LATER, E1], 2, [0, 1], [(1, LATER, 0, CHECKSUM)]),
    "an envelope, the last": ([E0, LATER], 1, [0], [(1, LATER, 0, CHECKSUM)]),
    "a gap": ([E0, E3], 4, [0, 3], [(1, b"", 2, CHECKSUM)]),
    "a gap before an envelope": ([frame(1, fmt.encode_envelope(ENVELOPE), kind=Kind.ENVELOPE, envelope=4), E1], 2,
                                 [1], [(0, b"", 1, CHECKSUM)]),
    "one again": ([E0, E1, spoilt(E2), E0, E2], 3, [0, 1, 2], [(2, spoilt(E2), 0, CHECKSUM), (3, E0, 0, CHECKSUM)]),
    "the last but an envelope": ([E0, spoilt(E1), frame(2, b"1", kind=Kind.ENVELOPE, envelope=5)], 2, [0],
        [(1, spoilt(E1), 1, CHECKSUM), (2, frame(2, b"1", kind=Kind.ENVELOPE, envelope=5), 0, CHECKSUM)]),
    "an unknown kind": ([E0, frame(1, b"?", kind=7), E2], 3, [0, 2], [(1, frame(1, b"?", kind=7), 1, CHECKSUM)]),
}  # fmt: skip


def told(frames: list[bytes], damage: list[tuple[int, bytes, int, str]]) -> list[tuple[int, bytes, int, str]]:
    """Return the damage with offsets instead of numbers of frames."""
    starts = [len(DEFINITION) + sum(map(len, frames[:n])) for n in range(len(frames) + 1)]
    return [(starts[at], data, count, why) for at, data, count, why in damage]


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("sealed", [False, True])
def test_damage_costs_what_is_damaged(reading: Reading, name: str, *, sealed: bool) -> None:
    """What follows is read; each lost event is settled as damaged, and its bytes are set aside."""
    frames, events, read, damage = DAMAGED[name]
    size = len(DEFINITION) + sum(map(len, frames))
    reading.write(DEFINITION, *frames, seal=(events, size) if sealed else None)
    cursor = reading.open()
    assert reading.read(cursor) == read
    assert reading.damage == told(frames, damage)
    assert (cursor.ended, cursor.ordinal, cursor.at) == (True, events, RECORDS_AT + size)
    lost = [n for n in range(events) if n not in read]
    assert [n for n in range(20) if cursor.is_settled(n)] == lost
    assert cursor.outcomes() == ({Outcome.DAMAGED: len(lost)} if lost else {})


def test_what_tells_more_than_a_seal_is_not_believed(reading: Reading) -> None:
    """It is no measure of what was lost before it."""
    frames = [E0, spoilt(E1), E3]
    reading.write(DEFINITION, *frames, seal=(2, len(DEFINITION) + sum(map(len, frames))))
    cursor = reading.open()
    assert reading.read(cursor) == [0]
    assert reading.damage == told(frames, [(1, spoilt(E1), 0, CHECKSUM), (2, E3, 1, CHECKSUM)])
    assert (cursor.ordinal, cursor.outcomes()) == (2, {Outcome.DAMAGED: 1})


def test_damage_is_passed_over_between_claims(reading: Reading) -> None:
    """One by one; what has an end that is known has more until it was reached."""
    reading.write(DEFINITION, E0, spoilt(E1), E2)
    cursor = reading.open()
    assert reading.read(cursor, events_max=1) == [0]
    assert reading.read(cursor, events_max=1) == [2]
    assert (cursor.ended, cursor.has_more()) == (False, True)
    assert reading.read(cursor, events_max=1) == []
    assert (cursor.ended, len(reading.damage)) == (True, 1)


def test_a_seal_tells_how_many_are_lost_at_the_end(reading: Reading) -> None:
    """And where: what lies behind it was never promised, and is nobody's."""
    tail = spoilt(E1) + bytes(9)
    before, stop = len(DEFINITION + E0), len(DEFINITION + E0) + len(tail)
    reading.write(DEFINITION, E0, tail, E2, seal=(4, stop))
    cursor = reading.open()
    assert reading.read(cursor) == [0]
    assert reading.damage == [(before, tail, 3, CHECKSUM)]
    assert (cursor.outcomes(), cursor.at) == ({Outcome.DAMAGED: 3}, RECORDS_AT + stop)
    reading.damage.clear()
    reading.write(DEFINITION, E0, E1, seal=(2, before))  # the end of its records is lost
    assert reading.read(reading.open()) == [0]
    assert reading.damage == [(before, b"", 1, CHECKSUM)]
    reading.damage.clear()
    short = len(DEFINITION) + int.from_bytes(E0[4:8], "little")
    reading.write(DEFINITION, E0, E1, seal=(2, short))
    assert reading.read(reading.open()) == [0]
    assert reading.damage == [(before, b"", 1, CHECKSUM)]


@pytest.mark.parametrize(("tail", "kept"), [
    (b"\0" * 16 + b"torn \n\0X" + b"\0" * 8, b"\0" * 16 + b"torn \n\0X"), (b"torn \n\0\0", b"torn \n"),
    (bytes(48), b""),
    (frame(1, b"behind the seal", envelope=9), frame(1, b"behind the seal", envelope=9).rstrip(b"\0")),
])  # fmt: skip
@pytest.mark.parametrize("sealed", [False, True])
def test_what_was_not_finished_is_kept_for_a_person(
    reading: Reading, tail: bytes, kept: bytes, *, sealed: bool
) -> None:
    """No event is lost by it; zeros are what was never written."""
    if not sealed and b"behind" in tail:
        return  # nothing tells then that it was never promised
    before = len(DEFINITION + E0)
    reading.write(DEFINITION, E0, tail, *[b"behind"] * sealed, seal=(1, before + len(tail)) if sealed else None)
    cursor = reading.open()
    assert reading.read(cursor) == [0]
    assert reading.damage == ([(before, kept, 0, TORN)] if kept else [])
    assert cursor.outcomes() == {}
    assert reading.read(cursor) == []
    assert len(reading.damage) <= 1


@pytest.mark.parametrize(("outcomes", "lost"), [
    (b"\0\xd1", 1), (b"\0\0\xd1", 2), (b"\0\xd1\0\x6e", 3), (b"\xd1", 0), (b"\0\xd1X", 0), (b"\0X\xd1", 0), (b"", 0),
])  # fmt: skip
def test_an_outcome_tells_of_an_event_that_power_loss_took(reading: Reading, outcomes: bytes, lost: int) -> None:
    """And of those before it: they are settled as damaged, but for what has an outcome; garbage tells nothing."""
    reading.write(DEFINITION, E0, outcomes=outcomes)
    cursor = reading.open()
    assert reading.read(cursor) == [0][: outcomes[:1] != b"\xd1"]
    fresh = outcomes[1:].count(0) if lost else 0
    assert reading.damage == ([(len(DEFINITION + E0), b"", fresh, OUTCOME)] if fresh else [])
    assert (cursor.ordinal, cursor.ended) == (1 + lost, True)
    reading.damage.clear()
    reading.write(DEFINITION, E0, outcomes=outcomes, seal=(1, len(DEFINITION + E0)))  # a seal knows better
    cursor = reading.open()
    reading.read(cursor)
    assert (cursor.ordinal, reading.damage) == (1, [])
