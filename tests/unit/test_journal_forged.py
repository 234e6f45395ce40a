"""Segments that damage, a mistake or malice has made: found by fuzzing (``python -m proof fuzz``), kept here by name.

Each is also in ``proof/corpus/journal``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from proof.fuzz_journal import JournalTarget
from proof.fuzz_segments import NAME, URL

from eventpost.event import Envelope, Event
from eventpost.queues.journal import JournalQueue, inspect
from eventpost.queues.journal import format as fmt
from eventpost.watch.signals import Damaged, Signal

ENVELOPE = Envelope(URL, shared=True, prefix=b'{"visitors":[', suffix=b"]}")
OUTCOMES_AT = fmt.PAGE_BYTES
RECORDS_AT = 2 * fmt.PAGE_BYTES
AT_S = 1_784_000_000


def segment(*frames: bytes, seal: tuple[int, int] | None = None, outcomes: bytes = b"") -> bytes:
    """Return a segment with one envelope, these frames, this seal and these outcomes."""
    header = bytearray(fmt.encode_header(URL, "7.00000000aa", 1, sender=True, retry=False, outcome_pages=1))
    if seal is not None:
        header[fmt.SEAL_AT : fmt.SEAL_AT + fmt.SEAL_BYTES] = fmt.encode_seal(*seal)
    definition = fmt.frame(fmt.Kind.ENVELOPE, 0, AT_S, 0, fmt.encode_envelope(ENVELOPE))
    return bytes(header) + outcomes.ljust(fmt.PAGE_BYTES, b"\0") + definition + definition + b"".join(frames)


def event(ordinal: int) -> bytes:
    """Return an event's frame."""
    return fmt.frame(fmt.Kind.EVENT, ordinal, AT_S, 0, b'{"n":%d}' % ordinal)


def overlong() -> bytes:
    """Return a frame that claims more than there is, with a checksum over what there is."""
    body = bytearray(event(1)[4:])
    body[:4] = (1 << 20).to_bytes(4, "little")
    return fmt.crc32(body).to_bytes(4, "little") + bytes(body)


DELIVERED = bytes([fmt.Outcome.DELIVERED])
CASES: dict[str, tuple[Callable[[], bytes], list[int], int]] = {
    # name: the segment, the events that are handed out, how many count as damaged
    "a seal that tells more events than fit": (lambda: segment(event(0), seal=(1 << 31, 1 << 20)), [0], 0),
    "a seal that ends before the records": (lambda: segment(event(0), event(1), seal=(2, 64)), [0, 1], 0),
    "outcomes of events whose frames are gone": (lambda: segment(event(0), outcomes=b"\0\0\0" + DELIVERED), [0], 2),
    "outcomes behind the last event of a sealed segment": (
        lambda: segment(event(0), seal=(1, len(segment(event(0)))), outcomes=b"\0\0" + DELIVERED),
        [0],
        0,
    ),
    "noise behind the outcomes": (lambda: segment(event(0), outcomes=b"\0\1\2" + DELIVERED), [0], 0),
    "a frame that claims more than there is": (lambda: segment(event(0), overlong()), [0], 0),
    "a gap": (lambda: segment(event(0), event(2), event(3)), [0, 2, 3], 1),
    "an event whose envelope was never defined": (
        lambda: segment(event(0), fmt.frame(fmt.Kind.EVENT, 1, AT_S, 7, b'{"n":1}'), event(2)),
        [0, 2],
        1,
    ),
    "an envelope that is none": (
        lambda: segment(event(0), fmt.frame(fmt.Kind.ENVELOPE, 1, AT_S, 5, b"[]"), event(1)),
        [0, 1],
        0,
    ),
    "an envelope that is none, behind a gap": (
        lambda: segment(event(0), fmt.frame(fmt.Kind.ENVELOPE, 2, AT_S, 5, b"[]"), event(2)),
        [0, 2],
        1,
    ),
    "an ordinal beyond what can be": (lambda: segment(event(0), event(1 << 20), event(1)), [0, 1], 0),
    "an ordinal beyond what can be, at the end": (lambda: segment(event(0), event(1 << 31)), [0], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_each_event_has_one_fate(name: str, tmp_path: Path) -> None:
    """What can be delivered is, what is missing is counted once, nothing is invented, and the folder's sum closes."""
    make, handed_out, damaged = CASES[name]
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / NAME).write_bytes(make())
    queue = JournalQueue(tmp_path)
    queue.scan()
    got = []
    while leases := queue.claim(URL, 10, 1 << 20):
        got += [orjson.loads(lease.event.payload)["n"] for lease in leases]
        queue.ack(leases)
    stats = queue.stats()
    queue.close()
    assert got == handed_out
    assert stats.dropped.get("damaged", 0) == damaged
    status = inspect.folder_status(tmp_path)
    assert status.closes, status
    with JournalTarget() as target:
        target.check(make())


def test_a_file_that_ends_within_its_outcomes(tmp_path: Path) -> None:
    """It is set aside whole, with words that a person understands."""
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / NAME).write_bytes(segment()[: OUTCOMES_AT + 100])
    queue = JournalQueue(tmp_path)
    heard: list[Signal] = []
    queue.emit = heard.append
    queue.scan()
    [damaged] = [signal for signal in heard if isinstance(signal, Damaged)]
    assert damaged.why == "the file ends before its records begin"
    queue.close()


@pytest.mark.parametrize("at", range(8, 16))
def test_a_flipped_bit_in_the_headers_numbers_costs_nothing(at: int, tmp_path: Path) -> None:
    """Version and pages stand in the header's text, too, which has a checksum: a bit that flips is seen through."""
    for bit in range(8):
        data = bytearray(segment(*map(event, range(20))))
        data[at] ^= 1 << bit
        folder = tmp_path / str(bit)
        (folder / "segments").mkdir(parents=True)
        (folder / "segments" / NAME).write_bytes(data)
        queue = JournalQueue(folder)
        queue.scan()
        queue.ack(queue.claim(URL, 100, 1 << 20))
        stats = queue.stats()
        queue.close()
        assert (stats.accepted, stats.delivered, stats.dropped) == (20, 20, {})


def test_a_dead_letter_whose_note_is_none(tmp_path: Path) -> None:
    """A letter whose note has null where a number stands is passed over; the others are shown."""
    frames = [
        fmt.frame(fmt.Kind.DEAD, ordinal, AT_S, 0, fmt.encode_dead({"reason": "http_400", "status": status}, b"{}"))
        for ordinal, status in enumerate((400, None, [1], 413))
    ]
    JournalQueue(tmp_path).close()
    (tmp_path / "dead" / NAME).write_bytes(segment(*frames))
    assert [letter.status for letter in inspect.dead_letters(tmp_path)] == [400, 413]


def test_a_dead_letter_of_an_event_that_cannot_be(tmp_path: Path) -> None:
    """A letter that tells an ordinal below zero, or beyond the segment's, settles nothing and writes nowhere."""
    name = NAME.replace("-000000", "-000001")
    notes = [{"reason": "http_400", "origin": f"{name}:{ordinal}"} for ordinal in (-1, -70, 1 << 40)]
    frames = [fmt.frame(fmt.Kind.DEAD, n, AT_S, 0, fmt.encode_dead(note, b"{}")) for n, note in enumerate(notes)]
    JournalQueue(tmp_path).close()
    (tmp_path / "dead" / NAME).write_bytes(segment(*frames))
    (tmp_path / "segments" / name).write_bytes(segment(event(0), event(1)))
    queue = JournalQueue(tmp_path)
    queue.scan()
    assert (tmp_path / "segments" / name).read_bytes() == segment(event(0), event(1))
    assert len(queue.claim(URL, 10, 1 << 20)) == 2
    queue.close()


def test_room_is_made_by_what_others_have_delivered_too(tmp_path: Path) -> None:
    """What another process delivered of the segment that makes room stays delivered, in its writer's count, too."""
    queue = JournalQueue(tmp_path, bytes_max=1 << 20, overflow="drop_oldest", segment_bytes_max=1 << 18)
    queue.sends = False
    big = Event(ENVELOPE, b'{"pad":"%s"}' % (b"x" * 10_000))
    for _ in range(30):
        queue.put([big])
    other = JournalQueue(tmp_path, adopt="always")
    other.scan()
    delivered = other.claim(URL, 5, 1 << 20)
    other.ack(delivered)
    other.close()
    for _ in range(200):
        queue.put([big])
    stats = queue.stats()
    assert stats.dropped["overflow"]
    assert stats.delivered == len(delivered) == 5
    assert stats.accepted == 230 == stats.delivered + stats.queued + sum(stats.dropped.values())
    queue.close()
    assert inspect.folder_status(tmp_path).closes


def test_of_a_damaged_end_no_more_is_set_aside_than_there_was(tmp_path: Path) -> None:
    """A seal whose writer could not cut the file: what lies behind it is nobody's."""
    before, last = segment(event(0)), bytearray(event(1))
    last[fmt.FRAME_HEAD_BYTES] ^= 1
    end = len(before) + len(last)
    data = segment(event(0), bytes(last), seal=(2, end))
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / NAME).write_bytes(data + b"behind" * 1000)
    queue, heard = JournalQueue(tmp_path, adopt="always"), list[Signal]()
    queue.emit = heard.append
    queue.scan()
    assert [lease.event.payload for lease in queue.claim(URL, 9, 1 << 20)] == [b'{"n":0}']
    (said,) = [one for one in heard if isinstance(one, Damaged)]
    assert (said.at_byte, said.length_bytes) == (len(before), len(last))
    assert Path(said.path).read_bytes() == last
    assert queue.stats().dropped == {"damaged": 1}
    queue.close()
