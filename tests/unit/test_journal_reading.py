"""One segment from the side of who reads it: what is handed out, and what is settled."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import ALL, ENVELOPE, URL, HookedDisk
from tests.unit.test_journal_writer import append, begin

from eventpost.event import Envelope
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.cursor import READ_BYTES, Again, Cursor, JournalLease
from eventpost.queues.journal.format import BadHeader, Kind, Outcome

AT_S = 1_784_000_000
NAME = "1-7.aa-1.seg"
RECORDS_AT = 2 * fmt.PAGE_BYTES
DEFINITION = fmt.frame(Kind.ENVELOPE, 0, AT_S, 0, fmt.encode_envelope(ENVELOPE))
CHECKSUM, OUTCOME, TORN = "checksum", "outcome", "torn"
"""The words that tell one kind of damage from another."""


def frame(ordinal: int, payload: bytes = b"payload", *, envelope: int = 0, kind: int = Kind.EVENT) -> bytes:
    """One frame; its time tells its ordinal."""
    return fmt.frame(kind, ordinal, AT_S + ordinal, envelope, payload)


class Reading:
    """A segment's file, and who reads it; ``damage``: where, which bytes, how many events, and why."""

    def __init__(self, folder: Path) -> None:
        self.disk = HookedDisk()
        self.path = folder / NAME
        self.damage: list[tuple[int, bytes, int, str]] = []
        self.lives = False
        self.lengths: list[int] = []
        """Of each read since the last ``open``."""
        self.made: dict[Envelope, Envelope] = {}

    def write(
        self, *frames: bytes, seal: tuple[int, int] | None = None, outcomes: bytes = b"", lane: str = URL
    ) -> None:  # fmt: skip
        """Write it anew; ``seal``: number of events, and where their records end, counted from the first."""
        header = fmt.encode_header(lane, "7.aa", 1, sender=True, retry=False, outcome_pages=1)
        if seal is not None:
            at = len(header) + fmt.PAGE_BYTES + seal[1]
            header = header[: fmt.SEAL_AT] + fmt.encode_seal(seal[0], at) + header[fmt.SEAL_AT + fmt.SEAL_BYTES :]
        self.path.write_bytes(header + outcomes.ljust(fmt.PAGE_BYTES, b"\0") + b"".join(frames))

    def open(self, *, orphan: bool = True, fd: int | None = None) -> Cursor:
        """Open it; ``orphan``: with somebody to ask whether its writer lives."""

        def damaged(one: Cursor, at: int, data: bytes, count: int, why: str) -> None:
            assert one is cursor
            [word] = [word for word in (CHECKSUM, OUTCOME, TORN) if word in why]
            self.damage.append((at - one.header.records_at, data, count, word))

        alive = (lambda: self.lives) if orphan else None
        cursor = Cursor(self.disk, str(self.path), alive=alive, on_damage=damaged, fd=fd)
        self.lengths.clear()
        self.disk.hooks["read"] = lambda _fd, length, _at: self.lengths.append(length)
        return cursor

    def intern(self, envelope: Envelope) -> Envelope:
        """Return one object for equal envelopes."""
        return self.made.setdefault(envelope, envelope)

    def read(self, cursor: Cursor, events_max: int = 100, bytes_max: int = ALL) -> list[int]:
        """Read on; the ordinals, whose frames' bytes were counted."""
        out: list[JournalLease] = []
        taken = cursor.read(events_max, bytes_max, 5.0, out, self.intern)
        assert taken == sum(fmt.FRAME_HEAD_BYTES + len(lease.event.payload) for lease in out)
        return [lease.ordinal for lease in out]


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    """Give one."""
    return Reading(tmp_path)


# -- opening


def test_a_segment_is_opened_at_its_first_record(reading: Reading) -> None:
    """Also one whose header takes two pages; with nothing read and nothing in hand."""
    lane = f"{URL}?{'x' * fmt.PAGE_BYTES}"
    for seal in (None, (0, 0)):
        reading.write(lane=lane, seal=seal)
        cursor = reading.open()
        assert (cursor.header.lane, cursor.header.header_pages) == (lane, 2)
        assert (cursor.name, cursor.path, cursor.at) == (NAME, str(reading.path), 3 * fmt.PAGE_BYTES)
        assert (cursor.ordinal, cursor.leased, cursor.waiting, cursor.ended) == (0, 0, 0, False)
        assert cursor.end == (None if seal is None else 3 * fmt.PAGE_BYTES)
        assert (cursor.adopted, cursor.writer) == (True, None)
        cursor.close()
    assert reading.disk._descriptors == set()


def test_a_copys_holes_get_blocks_before_anything_is_stored_into_them(reading: Reading) -> None:
    """To the last outcome, and in what another process wrote only: an own segment has them."""
    calls: list[tuple[str, int]] = []
    reading.disk.hooks["fill_holes"] = lambda _fd, length: calls.append(("fill", length))
    reading.disk.hooks["map"] = lambda _fd, length: calls.append(("map", length))
    reading.write()
    reading.open().close()
    reading.write(DEFINITION)
    reading.open().close()
    assert calls == [("fill", RECORDS_AT), ("map", RECORDS_AT)] * 2
    writer = begin(reading.disk, reading.path.parent)
    calls.clear()
    Cursor(reading.disk, writer.path, writer=writer, on_damage=print).close()
    assert calls == [("map", RECORDS_AT)]
    writer.seal(reading.disk)


@pytest.mark.parametrize("handed", [False, True])
def test_a_file_that_ends_before_its_records_is_refused_as_it_is(reading: Reading, *, handed: bool) -> None:
    """It is not made longer, and no descriptor stays but the caller's own."""
    reading.write()
    data = reading.path.read_bytes()
    for damaged in (data[:-1], data[: fmt.PAGE_BYTES], b"x" * len(data), b""):
        reading.path.write_bytes(damaged)
        fd = reading.disk.open(str(reading.path)) if handed else None
        with pytest.raises(BadHeader) as refused:
            reading.open(fd=fd)
        assert ("its records" in str(refused.value)) is (len(damaged) in {len(data) - 1, fmt.PAGE_BYTES})
        assert reading.disk._descriptors == ({fd} if handed else set())
        assert reading.path.read_bytes() == damaged
        if fd is not None:
            reading.disk.close(fd)


def test_an_own_segments_reader_does_not_lengthen_a_file_that_somebody_cut(reading: Reading) -> None:
    """What is gone is gone."""
    writer = begin(reading.disk, reading.path.parent)
    Path(writer.path).write_bytes(Path(writer.path).read_bytes()[: fmt.PAGE_BYTES])
    with pytest.raises(BadHeader):
        Cursor(reading.disk, writer.path, writer=writer, on_damage=print)
    assert Path(writer.path).stat().st_size == fmt.PAGE_BYTES
    assert reading.disk._descriptors == {writer.fd}


# -- what is handed out


def test_a_lease_tells_all_that_is_known_of_its_event(reading: Reading) -> None:
    """Its bytes, its one envelope, when it was put and claimed; it was never given back."""
    other = Envelope(URL, "PUT")
    reading.write(
        DEFINITION, DEFINITION, frame(0), frame(1, b""), frame(2, fmt.encode_envelope(other), envelope=3,
        kind=Kind.ENVELOPE), frame(2, b"four", envelope=3), frame(3, b"12345"),
    )  # fmt: skip
    cursor = reading.open()
    out: list[JournalLease] = []
    assert cursor.read(100, ALL, 5.0, out, reading.intern) == 80 + len(b"payload" + b"four" + b"12345")
    envelopes = [reading.made[one] for one in (ENVELOPE, ENVELOPE, other, ENVELOPE)]
    for lease, ordinal, payload, envelope in zip(
        out, range(4), (b"payload", b"", b"four", b"12345"), envelopes, strict=True
    ):
        assert lease.event == (envelope, payload)
        assert lease.event.payload == payload  # an Event, not a tuple
        assert lease.event.envelope is envelope
        assert (lease.ordinal, lease.at_s, lease.claimed_at, lease.attempts) == (ordinal, AT_S + ordinal, 5.0, 1)
        assert (lease.live, lease.again, lease.ref) == (True, None, None)
        assert lease.cursor is cursor
        again = Again(lease)
        assert (again.event, again.ordinal, again.at_s, again.attempts) == (lease.event, ordinal, AT_S + ordinal, 1)
        assert (again.cursor, again.lease) == (cursor, None)
    assert (cursor.ended, cursor.ordinal, cursor.at) == (True, 4, reading.path.stat().st_size)
    assert (cursor.is_done, cursor.unread(), cursor.has_more(), reading.damage) == (True, 0, False, [])
    cursor.leased = 1
    assert not cursor.is_done
    cursor.leased, cursor.waiting = 0, 1
    assert not cursor.is_done
    assert reading.read(cursor) == []  # and tells nothing again
    assert reading.damage == []
    cursor.close()


def test_no_more_is_handed_out_than_was_asked(reading: Reading) -> None:
    """By number, and by bytes: the event that reaches them is the last."""
    reading.write(DEFINITION, *[frame(n, b"x" * 28) for n in range(9)], seal=(9, len(DEFINITION) + 9 * 48))
    cursor = reading.open()
    assert cursor.unread() == 9
    assert reading.read(cursor, events_max=1) == [0]
    assert reading.read(cursor, events_max=2) == [1, 2]
    assert reading.read(cursor, bytes_max=1) == [3]
    assert reading.read(cursor, bytes_max=48) == [4]
    assert reading.read(cursor, bytes_max=49) == [5, 6]
    assert (cursor.unread(), cursor.has_more(), cursor.ended, cursor.is_done) == (2, True, False, False)
    assert reading.read(cursor, events_max=2, bytes_max=96) == [7, 8]
    assert (cursor.unread(), cursor.has_more(), cursor.ended) == (0, True, False)
    assert reading.read(cursor) == []
    assert (cursor.has_more(), cursor.ended) == (False, True)


def test_what_was_settled_before_is_not_handed_out(reading: Reading) -> None:
    """Nor does it count for what was asked; a byte that is no outcome settles nothing."""
    reading.write(DEFINITION, *[frame(n) for n in range(6)], outcomes=b"\xd1\0\x01\x6e")
    cursor = reading.open()
    assert not cursor.fresh
    assert reading.read(cursor, events_max=3) == [1, 2, 4]
    assert reading.read(cursor) == [5]
    reading.write(DEFINITION, *[frame(n) for n in range(3)])
    cursor = reading.open()
    assert cursor.fresh
    cursor.mark(range(1), Outcome.DELIVERED)
    cursor.fresh = False  # what somebody else of this process says, who settles what is still to be read
    assert reading.read(cursor) == [1, 2]


def test_events_that_cross_what_is_read_at_once_are_whole(reading: Reading) -> None:
    """Of any size, also larger than that; and little is read twice, however few are claimed at a time."""
    sizes = [3 * READ_BYTES, 100_001, 100_002, 100_003, READ_BYTES - 20, READ_BYTES, *[7] * 200]
    frames = [DEFINITION, *[frame(n, b"x" * size) for n, size in enumerate(sizes)]]
    length = sum(map(len, frames))
    for seal in (None, (len(sizes), length)):
        reading.write(*frames, seal=seal)
        cursor = reading.open(orphan=False)
        assert [n for _ in sizes for n in reading.read(cursor, events_max=1)] == list(range(len(sizes)))
        assert reading.damage == []
        assert len(reading.lengths) < 16


def test_a_last_frame_without_its_padding_is_whole(reading: Reading) -> None:
    """A file that was cut there, and no byte before; also an event without bytes."""
    for last in (frame(1, b""), frame(1, b"1")):
        length = int.from_bytes(last[4:8], "little")
        reading.write(DEFINITION, frame(0), last[:length])
        cursor = reading.open()
        assert (reading.read(cursor), cursor.ended, reading.damage) == ([0, 1], True, [])
        reading.write(DEFINITION, frame(0), last[: length - 1])
        assert reading.read(reading.open()) == [0]
        assert reading.damage.pop() == (64 + len(DEFINITION) - 32, last[: length - 1].rstrip(b"\0"), 0, TORN)


def test_no_more_events_are_handed_out_than_have_room_for_an_outcome(reading: Reading) -> None:
    """A forged one behind them is set aside."""
    forged = frame(fmt.PAGE_BYTES, b"1234")
    frames = [DEFINITION, *[frame(n, b"") for n in range(fmt.PAGE_BYTES)], forged]
    reading.write(*frames)
    cursor = reading.open()
    assert reading.read(cursor, events_max=9999) == list(range(fmt.PAGE_BYTES))
    assert reading.damage == [(sum(map(len, frames[:-1])), forged, 0, TORN)]
    assert cursor.ended


# -- another process's segment while it is written


def test_a_living_writers_half_frame_is_not_there_yet(reading: Reading) -> None:
    """It is read once it is whole; while there is nothing, a look costs four bytes, not a window."""
    whole = [DEFINITION, DEFINITION, frame(0, bytes(60)), frame(1)]
    reading.write(*whole[:2], bytes(8192))
    cursor = reading.open()
    reading.lives = True
    assert reading.read(cursor) == []  # the definitions
    reading.lengths.clear()
    assert (cursor.has_more(), reading.read(cursor), reading.lengths) == (False, [], [4, 4])
    reading.write(*whole[:3], bytes(8192))
    assert (cursor.has_more(), reading.read(cursor)) == (True, [0])
    reading.write(*whole[:3], whole[3][:24], bytes(8192))
    for _ in range(2):
        assert (cursor.has_more(), reading.read(cursor), cursor.unread(), cursor.ended) == (True, [], 0, False)
    reading.write(*whole, bytes(8192))
    assert reading.read(cursor) == [1]
    assert (reading.read(cursor), cursor.has_more(), cursor.end) == ([], False, None)
    reading.lives = False
    assert reading.read(cursor) == []
    assert (cursor.ended, cursor.end, reading.damage) == (True, reading.path.stat().st_size, [])


def test_a_living_writers_seal_is_seen(reading: Reading) -> None:
    """It ends the segment, though the file goes on: what lies behind it was taken back."""
    frames = [DEFINITION, frame(0), frame(1)]
    reading.write(*frames, bytes(64))
    cursor = reading.open()
    reading.lives = True
    assert reading.read(cursor, events_max=1) == [0]
    reading.write(*frames, frame(2), bytes(64), seal=(2, sum(map(len, frames))))
    assert cursor.has_more()
    assert reading.read(cursor, events_max=1) == [1]
    reading.write(*frames, seal=(2, sum(map(len, frames))))
    assert (cursor.has_more(), reading.read(cursor)) == (True, [])
    assert (cursor.ended, cursor.header.sealed_events, cursor.end) == (True, 2, RECORDS_AT + sum(map(len, frames)))
    assert (cursor.header.sealed_end, cursor.has_more(), reading.damage) == (cursor.end, False, [])


def test_whom_nobody_can_ask_for_has_written_all(reading: Reading) -> None:
    """What is readable is all there is."""
    reading.write(DEFINITION, frame(0), bytes(64))
    cursor = reading.open(orphan=False)
    assert not cursor.adopted
    assert (reading.read(cursor), cursor.ended, reading.damage) == ([0], True, [])


# -- what is settled


def test_what_is_settled_stays_as_it_was(reading: Reading) -> None:
    """Only the others get an outcome, which are counted; what stands behind the last event is none of its."""
    reading.write(DEFINITION, *[frame(n) for n in range(6)])
    cursor = reading.open()
    reading.read(cursor)

    def outcomes() -> bytes:
        return reading.path.read_bytes()[fmt.PAGE_BYTES :][:8]

    assert cursor.mark(range(1, 3), Outcome.DELIVERED) == 2
    assert outcomes() == b"\0\xd1\xd1\0\0\0\0\0"
    assert cursor.mark(range(5), Outcome.DEAD) == 3
    assert outcomes() == b"\x6e\xd1\xd1\x6e\x6e\0\0\0"
    assert cursor.mark(range(5), Outcome.DEAD) == cursor.mark(range(3, 3), Outcome.DEAD) == 0
    assert [cursor.is_settled(n) for n in range(6)] == [True] * 5 + [False]
    assert cursor.map is not None
    cursor.map[fmt.PAGE_BYTES + 5 : fmt.PAGE_BYTES + 8] = b"\1\xd1\xd1"
    assert cursor.outcomes() == {Outcome.DELIVERED: 2, Outcome.DEAD: 3}
    assert cursor.mark(range(4, 6), Outcome.EXPIRED) == 1
    assert outcomes() == b"\x6e\xd1\xd1\x6e\x6e\x5a\xd1\xd1"


def test_a_segment_that_was_let_go_is_nobodys_to_settle(reading: Reading) -> None:
    """Its descriptor goes once."""
    reading.write(DEFINITION, frame(0))
    cursor = reading.open()
    closed: list[int] = []
    reading.disk.hooks["close"] = closed.append
    fd = cursor.fd
    for _ in range(2):
        cursor.close()
    assert (closed, reading.disk._descriptors) == ([fd], set())
    assert (cursor.mark(range(1), Outcome.DEAD), cursor.mark(range(0), Outcome.DEAD)) == (0, 0)
    assert cursor.is_settled(0)
    assert cursor.outcomes() == {}


# -- the own segment


def own(reading: Reading, *payloads: bytes) -> tuple[Cursor, Callable[..., None], Callable[[], None]]:
    """Begin a segment with these events; its reader, what appends, and what seals."""
    writer = begin(reading.disk, reading.path.parent, name=NAME)
    writer.define(ENVELOPE, fmt.encode_envelope(ENVELOPE), AT_S)
    append(writer, *payloads)
    cursor = reading.open()
    cursor.close()
    cursor = Cursor(
        reading.disk, writer.path, writer=writer,
        on_damage=lambda _, at, data, count, why: reading.damage.append((at - RECORDS_AT, data, count, why[:8])),
    )  # fmt: skip
    return cursor, lambda *more: append(writer, *more), lambda: writer.seal(reading.disk)


def test_the_own_segment_is_read_while_it_is_written(reading: Reading) -> None:
    """And to its end once it is sealed, without another look; it was never adopted."""
    cursor, more, seal = own(reading, b"0", b"1")
    assert (cursor.unread(), cursor.adopted, cursor.end) == (2, False, None)
    assert reading.read(cursor, events_max=1) == [0]
    assert cursor.unread() == 1
    assert reading.read(cursor) == [1]
    more(b"2")
    assert (cursor.unread(), cursor.ended) == (1, False)
    assert reading.read(cursor) == [2]
    assert (reading.read(cursor), cursor.ended) == ([], False)
    more(b"3", b"4")
    seal()
    assert (reading.read(cursor), cursor.ended, cursor.writer, cursor.unread()) == ([3, 4], True, None, 0)
    size = reading.path.stat().st_size
    assert (cursor.header.sealed_events, cursor.header.sealed_end, cursor.at) == (5, size, size)
    assert reading.damage == []


def test_what_is_held_back_is_not_looked_at_even_behind_damage(reading: Reading) -> None:
    """Nothing of it was promised yet; when it is, the damaged one is set aside."""
    cursor, more, seal = own(reading, b"event 0")
    writer = cursor.writer
    assert writer is not None
    assert writer.map is not None
    at = writer.end
    damaged = at - 32 + fmt.FRAME_HEAD_BYTES
    writer.map[damaged : damaged + 1] = b"E"
    writer.hold = at
    more(b"event 1")
    assert (reading.read(cursor), reading.damage, cursor.unread()) == ([], [], 2)
    writer.hold = None
    assert reading.read(cursor) == [1]
    assert [(one[0], one[2], one[3]) for one in reading.damage] == [(at - 32 - RECORDS_AT, 1, "a frame'")]
    assert (cursor.ended, cursor.unread(), cursor.is_settled(0)) == (False, 0, True)
    seal()


def test_what_was_taken_back_is_not_read_though_the_file_could_not_be_cut(reading: Reading) -> None:
    """The end is the writer's to tell."""
    cursor, more, _ = own(reading, b"0")
    writer = cursor.writer
    assert writer is not None
    end = writer.end
    more(b"refused")
    writer.take_back(end, 1)
    reading.disk.truncate = lambda fd, length: None  # type: ignore[method-assign]  # a cut that did not happen
    writer.seal(reading.disk)
    assert reading.path.stat().st_size > end
    assert (reading.read(cursor), cursor.ended, cursor.at, reading.damage) == ([0], True, end, [])
