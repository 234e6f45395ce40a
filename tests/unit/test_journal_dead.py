"""Dead letters as they lie in their files: what each says, which segment takes it, and who may settle it."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support import ENVELOPE, HookedDisk, event

from eventpost.event import Envelope, Event
from eventpost.queues.journal import dead
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.cursor import JournalLease
from eventpost.queues.journal.dead import DeadLetter, DeadWriter, Parked
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import Kind, Outcome
from eventpost.queues.journal.segment import SegmentWriter
from eventpost.queues.protocol import Answer
from eventpost.testing.clock import ManualClock

NOW_S = 1_700_000_000.625
WRITER = "7.00000000aa"
FIRST = f"{1_700_000_000_625}-{WRITER}-000000.seg"
SECOND = FIRST.replace("000000.seg", "000001.seg")
ORIGIN = "0000000000001-7.bb-000000.seg"
RECORDS_AT = 2 * fmt.PAGE_BYTES
META = {"reason": "rejected", "status": 400, "answer": "no", "attempts": 2, "origin": f"{ORIGIN}:5"}


class Parking:
    """A writer of letters, its folder, and what it did to the disk, in order."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.disk = HookedDisk()
        self.folder = Folder(path, disk=self.disk, gid=None, allow_network_fs=True)
        self.begun: list[tuple[str, int]] = []
        self.writer = DeadWriter(self.folder, ManualClock(epoch_s=NOW_S), durable=durable, begun=self.begins)
        self.done: list[str] = []
        for name in ("datasync", "sync_folder", "rename", "truncate"):
            self.disk.hooks[name] = lambda *_, name=name: self.done.append(name)

    def begins(self, segment: SegmentWriter) -> None:
        """Note a segment that somebody else has to sync, and how many letters it has."""
        self.begun.append((segment.name, segment.count))

    def park(self, what: Event, answer: Answer | None = None, *, ordinal: int = 5, attempts: int = 2) -> None:
        """Park an event."""
        lease = JournalLease(what, cast("Any", SimpleNamespace(name=ORIGIN)), ordinal, 1, 0.0, attempts)
        self.writer.write(lease, "rejected", answer, WRITER)

    def letters(self, name: str = FIRST) -> list[tuple[int, DeadLetter]]:
        """Return the letters of a segment."""
        return list(dead.letters(self.folder, name))


@pytest.fixture
def parking(tmp_path: Path) -> Parking:
    """Give one."""
    return Parking(tmp_path)


def test_a_letter_says_all_that_is_known_of_its_end(parking: Parking) -> None:
    """Why, with the first 1,024 characters of the answer; when, after how many attempts, and where it had waited."""
    parking.park(event(1), Answer(status=413, body="x" * 1024 + "y"))
    parking.park(event(2), ordinal=6, attempts=1)
    named = FIRST.removesuffix(".seg")
    origin = ORIGIN.removesuffix(".seg")
    assert parking.writer.names == os.listdir(parking.folder.dead) == [FIRST]
    assert parking.letters() == [
        (0, DeadLetter(f"{named}:0", event(1), "rejected", 413, "x" * 1024, int(NOW_S), 2, f"{origin}:5")),
        (1, DeadLetter(f"{named}:1", event(2), "rejected", 0, "", int(NOW_S), 1, f"{origin}:6")),
    ]
    header = parking.folder.read_header(f"{parking.folder.dead}/{FIRST}")
    assert header == fmt.Header(
        "", WRITER, int(NOW_S * 1000), sender=False, retry=False, header_pages=1, outcome_pages=1
    )
    assert parking.begun == [(FIRST, 0)]
    assert DeadLetter("a:0", event(1), "rejected", 400, "", 1, 1).origin == ""


def test_an_endpoint_is_told_once_in_a_segment(parking: Parking) -> None:
    """Twice, for one damaged place must cost no letter; another endpoint's is told beside it."""
    other = event(3, url="http://127.0.0.1:9/other")
    for what in (event(1), event(2), other):
        parking.park(what)
    found = dead.read_segment(parking.folder, f"{parking.folder.dead}/{FIRST}")
    assert found is not None
    frames = [frame for _, frame, _ in dead.walk(found[2], RECORDS_AT) if frame is not None]
    assert [(one.kind, one.ordinal, one.envelope, one.at_s) for one in frames] == [
        (Kind.ENVELOPE, 0, 0, int(NOW_S)), (Kind.ENVELOPE, 0, 0, int(NOW_S)), (Kind.DEAD, 0, 0, int(NOW_S)),
        (Kind.DEAD, 1, 0, int(NOW_S)), (Kind.ENVELOPE, 2, 1, int(NOW_S)), (Kind.ENVELOPE, 2, 1, int(NOW_S)),
        (Kind.DEAD, 2, 1, int(NOW_S)),
    ]  # fmt: skip
    assert [letter.event for _, letter in parking.letters()] == [event(1), event(2), other]


def filled(parking: Parking, left: int) -> None:
    """Park letters until so many bytes of the first segment are left, for a letter and its endpoint, told twice."""
    parking.park(event(0))
    size, path = 1 << 18, f"{parking.folder.dead}/{FIRST}"
    assert os.path.getsize(path) == size
    writer = parking.writer._writer
    assert writer is not None
    frame = fmt.frame_bytes(len(fmt.encode_dead(META | {"status": 0, "answer": ""}, event(1, 0).payload)))
    parking.park(event(1, size - writer.end - frame - left))
    assert size - writer.end == left


@pytest.mark.parametrize("short", [0, 8])
def test_a_segment_takes_letters_to_its_last_byte(parking: Parking, short: int) -> None:
    """Also the last one's endpoint is in it, twice; for what does not fit the next begins, and this one is sealed."""
    new = event(2, url="http://127.0.0.1:9/new")
    wanted = fmt.frame_bytes(len(fmt.encode_dead(META | {"status": 0, "answer": ""}, new.payload)))
    wanted += 2 * fmt.frame_bytes(len(fmt.encode_envelope(new.envelope)))
    filled(parking, wanted - short)
    parking.park(new)
    names = [FIRST, SECOND] if short else [FIRST]
    assert (parking.writer.names, sorted(os.listdir(parking.folder.dead))) == (names, names)
    assert [letter.event for _, letter in parking.letters(names[-1])][-1] == new
    seals = [parking.folder.read_header(f"{parking.folder.dead}/{name}").sealed_events for name in names]
    assert seals == ([2, None] if short else [None])
    assert parking.begun == [(name, 0) for name in names]


def test_a_letter_that_is_larger_than_a_segment_has_one_of_its_size(parking: Parking) -> None:
    """With room for it and no more than some pages beside; each has a name of its own, in the same millisecond too."""
    names = [FIRST.replace("000000.seg", f"00000{number}.seg") for number in range(4)]
    for number, name in enumerate(names):
        large = event(number, 300_000)
        parking.park(large)
        assert 300_000 < os.path.getsize(f"{parking.folder.dead}/{name}") < 300_000 + 5 * fmt.PAGE_BYTES
        assert [letter.event for _, letter in parking.letters(name)] == [large]
    assert parking.writer.names == sorted(os.listdir(parking.folder.dead)) == names


def test_at_fsync_a_letter_is_on_the_device_before_its_event_is_settled(tmp_path: Path) -> None:
    """As is its segment's name before, and what is sealed; nobody else has to see to it."""
    parking = Parking(tmp_path, durable=True)
    parking.park(event(1))
    assert parking.done == ["datasync", "rename", "sync_folder", "datasync"]
    parking.park(event(2))
    parking.writer.close()
    assert parking.done[4:] == ["datasync", "datasync", "truncate"]
    assert parking.begun == []
    parking.writer.close()
    assert len(parking.done) == 7
    parking.writer.reset()
    assert parking.writer.names == []
    parking.park(event(3))
    assert parking.writer.names == [FIRST]


def test_without_fsync_nothing_waits_for_the_device(parking: Parking) -> None:
    """Neither a letter nor its segment's end."""
    parking.park(event(1))
    parking.writer.close()
    assert parking.done == ["rename", "truncate"]


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a segment as another process would."""
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("in_the_way", ["nothing", "a lock", "a header"])
def test_a_letter_that_cannot_be_synced_is_none(tmp_path: Path, in_the_way: str) -> None:
    """The one before it is; the segment ends there, with a seal, whatever else fails, and the error is the sync's."""
    parking = Parking(tmp_path, durable=True)
    parking.park(event(1))
    path = f"{parking.folder.dead}/{FIRST}"

    def refuses(*_: object) -> None:
        if in_the_way == "a header":
            with open(path, "r+b") as file:
                file.write(b"noise")
        raise OSError(errno.EIO, "Input/output error")

    parking.disk.hooks["datasync"] = refuses
    if in_the_way == "a lock":
        with locked(path), pytest.raises(OSError, match="Input/output error"):
            parking.park(event(2))
    else:
        with pytest.raises(OSError, match="Input/output error"):
            parking.park(event(2))
    if in_the_way == "a header":
        return
    found = parking.folder.read_outcomes(path)
    assert found is not None
    assert (found[0].sealed_events, found[1]) == (2, {} if in_the_way == "a lock" else {Outcome.VOID: 1})
    if in_the_way == "nothing":
        assert [letter.event for _, letter in parking.letters()] == [event(1)]
    parking.disk.hooks.clear()
    parking.park(event(3))
    assert [letter.event for _, letter in parking.letters(SECOND)] == [event(3)]


def test_where_no_letter_is_none_is_taken_back(parking: Parking) -> None:
    """Nor is anything made for it."""
    parking.writer.take_back()
    assert os.listdir(parking.folder.dead) == []


# -- what lies in a file


def letter(ordinal: int, meta: Any = META, *, envelope: int = 0, at_s: int = 9) -> bytes:
    """Return a letter's frame."""
    return fmt.frame(Kind.DEAD, ordinal, at_s, envelope, fmt.encode_dead(meta, event(ordinal).payload))


ENDPOINT = fmt.frame(Kind.ENVELOPE, 0, 9, 0, fmt.encode_envelope(ENVELOPE))


def left(folder: Folder, *frames: bytes, name: str = FIRST, outcomes: bytes = b"", seal: int | None = None) -> str:
    """Leave a segment of letters; its path."""
    header = fmt.encode_header("", WRITER, 1, sender=False, retry=False, outcome_pages=1)
    data = bytearray(header.ljust(RECORDS_AT, b"\0") + b"".join(frames))
    data[fmt.PAGE_BYTES : fmt.PAGE_BYTES + len(outcomes)] = outcomes
    if seal is not None:
        data[fmt.SEAL_AT : fmt.SEAL_AT + fmt.SEAL_BYTES] = fmt.encode_seal(seal, len(data))
    path = f"{folder.dead}/{name}"
    Path(path).write_bytes(data)
    return path


def test_what_cannot_be_read_hides_no_letter(parking: Parking) -> None:
    """Damaged, of an endpoint that nobody told, settled, without its numbers, or with an ordinal that cannot be."""
    none = fmt.frame(Kind.DEAD, 3, 9, 0, b"x")
    damaged = bytearray(letter(4))
    damaged[30] ^= 1
    odd = fmt.frame(Kind.ENVELOPE, 0, 9, 1, b"[]")
    bare = letter(7, {})
    left(
        parking.folder, letter(0), ENDPOINT, odd, letter(1), letter(2), none, bytes(damaged),
        letter(5, META | {"status": None}), letter(6, envelope=1), bare, letter(5000), letter(8), bytes(64),
        outcomes=bytes([0, 0, Outcome.EXPIRED]),
    )  # fmt: skip
    named, origin = FIRST.removesuffix(".seg"), f"{ORIGIN.removesuffix('.seg')}:5"
    assert parking.letters() == [
        (1, DeadLetter(f"{named}:1", event(1), "rejected", 400, "no", 9, 2, origin)),
        (7, DeadLetter(f"{named}:7", event(7), "", 0, "", 9, 0, "")),
        (8, DeadLetter(f"{named}:8", event(8), "rejected", 400, "no", 9, 2, origin)),
    ]
    assert parking.letters("none") == []


def test_a_walk_tells_every_frame_and_every_damaged_place() -> None:
    """Where each lies; zeros are no damage, neither before a frame nor at the end, and half a frame is."""
    first, last = ENDPOINT, letter(0)
    size = len(first)
    frames = [fmt.read_frame(first, 0), fmt.read_frame(last, 0)]
    for between, told in ((b"", []), (bytes(64), []), (b"noise   " * 2, [(8 + size, None, b"noise   " * 2)])):
        at = 8 + size + len(between)
        found = list(dead.walk(b"x" * 8 + first + between + last + bytes(99), 8))
        assert [(here, frame and frame[:5], data) for here, frame, data in found] == [
            (8, cast("Any", frames[0])[:5], b""), *told, (at, cast("Any", frames[1])[:5], b""),
        ]  # fmt: skip
    for tail in (b"noise", last[:-8], b"\0" * 30 + b"x"):
        assert list(dead.walk(first + tail, size)) == [(size, None, tail)]
    assert list(dead.walk(bytes(100), 0)) == list(dead.walk(b"", 0)) == []


def test_a_segment_is_read_whole_and_let_go(parking: Parking) -> None:
    """With a header of several pages, too; what is gone is none, what is no segment an error; none need be writable."""
    opened: list[dict[str, bool]] = []
    parking.disk.hooks["open"] = lambda _, **how: opened.append(how)
    header = fmt.encode_header("x" * 5000, WRITER, 1, sender=False, retry=False, outcome_pages=1)
    path = Path(parking.folder.dead, "long")
    data = header.ljust(3 * fmt.PAGE_BYTES, b"\1") + b"rest"
    path.write_bytes(data)
    found = dead.read_segment(parking.folder, str(path))
    assert found is not None
    assert (found[0].lane, found[1], found[2]) == ("x" * 5000, b"\1" * fmt.PAGE_BYTES, data)
    assert opened == [{"write": False}]
    with dead.held(parking.folder, "long") as held:
        assert held.header == found[0]
    path.write_bytes(b"noise" * 2000)
    with pytest.raises(fmt.BadHeader):
        dead.read_segment(parking.folder, str(path))
    assert dead.read_segment(parking.folder, f"{path}s") is None
    assert parking.disk._descriptors == set()


# -- what is not noted yet


def test_letters_of_a_dead_writer_tell_which_events_are_dead(parking: Parking) -> None:
    """Those of segments that nobody sealed; not what was taken back, and nothing of what cannot be read."""
    folder = parking.folder
    end = letter(3, META | {"origin": "other.seg:9"})
    odd = [letter(4, META | {"origin": "?"}), letter(5, {}), b"noise   " * 9, fmt.frame(Kind.DEAD, 6, 9, 0, b"x")]
    left(folder, ENDPOINT, letter(0), letter(1), *odd, end, outcomes=bytes([0, Outcome.VOID]))
    left(folder, ENDPOINT, letter(0, META | {"origin": f"{ORIGIN}:6"}), name=SECOND, outcomes=bytes([Outcome.RETRIED]))
    left(folder, ENDPOINT, letter(0), name="0000000000003-7.cc-000000.seg", seal=1)
    Path(folder.dead, "0000000000002-7.cc-000000.seg").write_bytes(b"noise" * 2000)
    left(folder, ENDPOINT, letter(0), name="0000000000003-7.dd-000000.seg")
    with Path(folder.writers, "7.dd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parked = Parked(folder)
        for _ in range(2):
            found = {name: ordinals for name, ordinals in parked.by_segment().items() if ordinals}
            assert found == {ORIGIN: [5, 6], "other.seg": [9]}


def test_what_a_dead_writer_left_is_read_once(parking: Parking) -> None:
    """Until its file is gone; a new one is read when it is there."""
    opened: list[str] = []
    path = left(parking.folder, ENDPOINT, letter(0))
    parked = Parked(parking.folder)
    parking.disk.hooks["open"] = lambda path, **_: opened.append(os.path.basename(path))
    for _ in range(2):
        assert parked.by_segment() == {ORIGIN: [5]}
    assert opened.count(FIRST) == 1
    left(parking.folder, ENDPOINT, letter(0, META | {"origin": "other.seg:1"}), name=SECOND)
    assert parked.by_segment() == {ORIGIN: [5], "other.seg": [1]}
    os.unlink(path)
    assert parked.by_segment() == {"other.seg": [1]}
    assert (opened.count(FIRST), opened.count(SECOND)) == (1, 1)


# -- who settles


def test_letters_are_settled_once(parking: Parking) -> None:
    """Those that are named, or all, damaged ones too; how many were not before is told; an outcome stays."""
    frames = [ENDPOINT, *(letter(ordinal) for ordinal in range(4)), fmt.frame(Kind.ENVELOPE, 9, 9, 1, b"[]")]
    path = left(parking.folder, *frames, outcomes=bytes([0, Outcome.RETRIED, 1]))
    settle = dead.settle
    with dead.held(parking.folder, FIRST) as held:
        assert held.all_ordinals() == range(4)
        assert held.unsettled([0, 1, 2, 3, 4095, 4096]) == [0, 2, 3, 4095]
    assert settle(parking.folder, FIRST, [3, 1, 4096], Outcome.DISCARDED) == 1
    assert settle(parking.folder, FIRST, None, Outcome.EXPIRED) == 2
    assert settle(parking.folder, FIRST, None, Outcome.EXPIRED) == 0
    settled = Path(path).read_bytes()[fmt.PAGE_BYTES :][:5]
    assert settled == bytes([Outcome.EXPIRED, Outcome.RETRIED, Outcome.EXPIRED, Outcome.DISCARDED, 0])
    left(parking.folder, *frames, seal=6)
    with dead.held(parking.folder, FIRST) as held:
        assert held.all_ordinals() == range(6)
    left(parking.folder, ENDPOINT)
    assert settle(parking.folder, FIRST, None, Outcome.EXPIRED) == 0


def test_a_segment_that_went_while_it_was_waited_for_is_gone(parking: Parking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits in vain is told who to blame; either way no descriptor stays."""
    path = left(parking.folder, ENDPOINT, letter(0))
    waited: list[float] = []

    def moves(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            fcntl.flock(other, fcntl.LOCK_UN)
            os.rename(path, f"{path}.away")

    monkeypatch.setattr(dead, "pause", moves)
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError) as caught:
            dead.settle(parking.folder, FIRST, None, Outcome.EXPIRED, wait_s=0.02)
        assert (caught.value.errno, caught.value.filename, len(waited)) == (errno.EAGAIN, path, 2)
        with pytest.raises(FileNotFoundError) as gone:
            dead.settle(parking.folder, FIRST, None, Outcome.EXPIRED, wait_s=0.02)
        assert (gone.value.errno, gone.value.filename, len(waited)) == (errno.ENOENT, path, 3)
        assert gone.value.strerror
    assert waited == [pytest.approx(0.01)] * 3
    assert parking.disk._descriptors == set()


def test_another_kind_of_envelope_is_another(parking: Parking) -> None:
    """Its headers count: a letter comes back with its own."""
    asked = Envelope(ENVELOPE.url, headers=(("x", "1"),))
    parking.park(event(1))
    parking.park(Event(asked, b"{}"))
    assert [letter.event.envelope for _, letter in parking.letters()] == [ENVELOPE, asked]
