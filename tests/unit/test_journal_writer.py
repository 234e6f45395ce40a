"""One segment from the side of who appends to it: what fits, what is promised, and what its end leaves."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import HookedDisk

from eventpost.event import Envelope
from eventpost.queues.journal import Disk
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.format import Kind, Outcome
from eventpost.queues.journal.segment import ENVELOPES_MAX, SegmentWriter
from eventpost.queues.journal.voided import Passed, ordinals_before

URL = "http://127.0.0.1:9/"
ENVELOPE = Envelope(URL, shared=True)
RECORDS_AT = 2 * fmt.PAGE_BYTES
SIZE = 8 * fmt.PAGE_BYTES
NAME = "1-7.aa-1.seg"
AT_S = 1_784_000_000


@pytest.fixture
def disk() -> HookedDisk:
    """Give a disk that tells what is done, and can be made to fail."""
    return HookedDisk()


def begin(disk: Disk, folder: Path, *, durable: bool = False, name: str = NAME) -> SegmentWriter:
    """Begin a segment."""
    header = fmt.encode_header(URL, "7.aa", 1, sender=True, retry=False, outcome_pages=1)
    return SegmentWriter(disk, str(folder), name, header, SIZE, mode=0o640, gid=None, durable=durable)


def append(writer: SegmentWriter, *payloads: bytes) -> None:
    """Append events."""
    for payload in payloads:
        writer.append(Kind.EVENT, 0, payload, AT_S)


def no_space(*_: object, **__: object) -> None:
    """Fail."""
    raise OSError(errno.ENOSPC, "No space left on device")


def watch(disk: HookedDisk, *methods: str) -> list[str]:
    """Return a list that grows with each call of these."""
    calls: list[str] = []

    def watched(method: str) -> Callable[..., None]:
        return lambda *_, **__: calls.append(method)

    for method in methods:
        disk.hooks[method] = watched(method)
    return calls


ORDER = ("create", "allocate", "map", "datasync", "rename", "sync_folder")


@pytest.mark.parametrize("durable", [False, True])
def test_a_segment_is_made_whole_before_it_has_its_name(tmp_path: Path, disk: HookedDisk, *, durable: bool) -> None:
    """Allocated, its header in it, on the device where that is promised; then named, with the mode that was asked."""
    calls = watch(disk, *ORDER)
    header: list[bytes] = []

    def named(old: str, new: str) -> None:
        calls.append("rename")
        assert os.path.basename(old) == f".{NAME}.tmp"
        header.append(Path(old).read_bytes())

    def allocated(fd: int, length: int, *, written: bool) -> None:
        calls.append("allocate")
        assert (length, written) == (SIZE, durable)

    disk.hooks |= {"rename": named, "allocate": allocated}
    writer = begin(disk, tmp_path, durable=durable)
    assert calls == [call for call in ORDER if durable or call not in {"datasync", "sync_folder"}]
    assert fmt.decode_header(header[0]) == writer.header
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (Path(writer.path).stat().st_size, Path(writer.path).stat().st_mode & 0o777) == (SIZE, 0o640)
    assert (writer.end, writer.synced, writer.count, writer.synced_count) == (RECORDS_AT, RECORDS_AT, 0, 0)
    assert (writer.events_max, writer.size, writer.name, writer.path) == (4096, SIZE, NAME, f"{tmp_path}/{NAME}")
    assert (writer.sealed, writer.failed, writer.hold, writer.durable) == (False, False, None, durable)
    writer.seal(disk)


@pytest.mark.parametrize("step", ORDER)
def test_a_segment_that_cannot_be_made_leaves_nothing(tmp_path: Path, disk: HookedDisk, step: str) -> None:
    """Neither a name nor a descriptor, whatever fails on the way."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    disk.hooks[step] = no_space
    with pytest.raises(OSError, match="No space left"):
        begin(disk, tmp_path, durable=True)
    assert list(tmp_path.iterdir()) == []
    assert before in {0, len(os.listdir("/proc/self/fd"))}


def test_what_is_appended_is_one_frame_after_the_other(tmp_path: Path, disk: HookedDisk) -> None:
    """An envelope is written twice; each frame begins at a multiple of eight; ordinals and numbers count from zero."""
    writer = begin(disk, tmp_path)
    other = Envelope(URL, "PUT")
    assert [writer.define(one, fmt.encode_envelope(one), AT_S) for one in (ENVELOPE, other)] == [0, 1]
    assert (writer.envelopes, writer.count) == ({ENVELOPE: 0, other: 1}, 0)
    append(writer, b"1", b"", b"12345678")
    third = writer.define(Envelope(URL, "GET"), b"third", AT_S + 1)
    writer.append(Kind.DEAD, third, b"letter", AT_S + 2)
    assert (writer.count, third) == (4, 2)
    data, at, frames = Path(writer.path).read_bytes(), RECORDS_AT, []
    while isinstance(frame := fmt.read_frame(data, at), fmt.Frame):
        frames.append(frame[:-1])
        at = frame.end
        assert at % 8 == 0
    assert at == writer.end
    assert data[RECORDS_AT:at] == b"".join(fmt.frame(*frame) for frame in frames)
    assert frames == [
        *[(Kind.ENVELOPE, 0, AT_S, 0, fmt.encode_envelope(ENVELOPE))] * 2,
        *[(Kind.ENVELOPE, 0, AT_S, 1, fmt.encode_envelope(other))] * 2,
        (Kind.EVENT, 0, AT_S, 0, b"1"),
        (Kind.EVENT, 1, AT_S, 0, b""),
        (Kind.EVENT, 2, AT_S, 0, b"12345678"),
        *[(Kind.ENVELOPE, 3, AT_S + 1, 2, b"third")] * 2,
        (Kind.DEAD, 3, AT_S + 2, 2, b"letter"),
    ]
    writer.seal(disk)


def test_what_fits_exactly_has_room(tmp_path: Path, disk: HookedDisk) -> None:
    """By bytes, by outcome bytes, and by numbers of envelopes."""
    writer = begin(disk, tmp_path)
    append(writer, b"x")
    left = SIZE - writer.end
    assert writer.has_room(left, 4095, ENVELOPES_MAX)
    assert not writer.has_room(left + 1, 1, 0)
    assert not writer.has_room(1, 4096, 0)
    assert not writer.has_room(1, 1, ENVELOPES_MAX + 1)
    writer.define(ENVELOPE, b"{}", AT_S)
    assert writer.has_room(1, 1, ENVELOPES_MAX - 1)
    assert not writer.has_room(1, 1, ENVELOPES_MAX)
    assert ENVELOPES_MAX == 65_535
    writer.seal(disk)


def test_the_own_reader_sees_what_is_promised(tmp_path: Path, disk: HookedDisk) -> None:
    """All that is appended, but what a put of several holds back; at ``fsync`` what was synced, and all once sealed."""
    writer, durable = begin(disk, tmp_path), begin(disk, tmp_path, durable=True, name="2-7.aa-2.seg")
    for one in (writer, durable):
        append(one, b"1")
    one_frame = RECORDS_AT + 24
    assert (writer.visible, durable.visible) == (one_frame, RECORDS_AT)
    assert durable.sync(disk, durable.end, 1)
    append(durable, b"2")
    assert durable.visible == one_frame
    for one in (writer, durable):
        one.hold = RECORDS_AT + 8
        assert one.visible == RECORDS_AT + 8
        one.hold = one_frame + 1000
        assert one.visible == one_frame
        one.hold = None
    durable.seal(disk)
    assert durable.visible == durable.end == one_frame + 24
    writer.seal(disk)
    assert writer.visible == one_frame


def test_a_sync_makes_safe_what_was_there_when_it_was_asked(tmp_path: Path, disk: HookedDisk) -> None:
    """What is safe already needs none; what is appended meanwhile is not taken for safe."""
    syncs = watch(disk, "datasync")
    writer = begin(disk, tmp_path, durable=True)
    syncs.clear()
    append(writer, b"1")
    end = writer.end
    append(writer, b"2")
    assert writer.sync(disk, end, 1) is True
    assert (writer.synced, writer.synced_count, syncs) == (end, 1, ["datasync"])
    assert writer.sync(disk, end, 1) is True
    assert syncs == ["datasync"]
    assert writer.sync(disk, writer.end, 2) is True
    assert (writer.synced, writer.synced_count, len(syncs)) == (writer.end, 2, 2)
    writer.seal(disk)


def test_a_failed_sync_is_the_last_one(tmp_path: Path, disk: HookedDisk) -> None:
    """A second one would say that all is well: nothing is safe but what was before, whoever asks."""
    writer = begin(disk, tmp_path, durable=True)
    append(writer, b"1")
    first = writer.end
    assert writer.sync(disk, first, 1)
    append(writer, b"2")
    disk.hooks["datasync"] = no_space
    assert writer.sync(disk, writer.end, 2) is False
    assert writer.failed
    syncs = watch(disk, "datasync")
    assert writer.sync(disk, writer.end, 2) is False
    assert writer.sync(disk, first, 1) is True
    assert (writer.synced, writer.synced_count, syncs) == (first, 1, [])
    writer.seal(disk)


def test_a_handlers_sync_in_the_middle_of_one_counts_the_later_end(tmp_path: Path, disk: HookedDisk) -> None:
    """It has synced more than who it interrupted knows of; where it failed, that one's is no success either."""
    for fails in (False, True):
        writer = begin(disk, tmp_path, durable=True, name=f"{int(fails)}-7.aa-1.seg")
        append(writer, b"1")
        end = writer.end

        def handler(*_: object, writer: SegmentWriter = writer, fails: bool = fails) -> None:
            disk.hooks.clear()
            append(writer, b"2")
            if fails:
                disk.hooks["datasync"] = no_space
            assert writer.sync(disk, writer.end, 2) is not fails
            disk.hooks.clear()

        disk.hooks["datasync"] = handler
        assert writer.sync(disk, end, 1) is not fails
        assert (writer.synced, writer.synced_count) == ((RECORDS_AT, 0) if fails else (writer.end, 2))
        writer.seal(disk)


def test_a_sealed_segment_is_not_synced(tmp_path: Path, disk: HookedDisk) -> None:
    """Its descriptor is gone, and may be another file's by now."""
    writer = begin(disk, tmp_path, durable=True)
    append(writer, b"1")
    writer.seal(disk)
    syncs = watch(disk, "datasync")
    assert writer.sync(disk, writer.end, 1) is False
    assert writer.sync(disk, RECORDS_AT, 0) is True
    assert syncs == []


def test_what_is_taken_back_was_never_there(tmp_path: Path, disk: HookedDisk) -> None:
    """Neither in the count nor in what is safe; what came before stays safe, and no more than it was."""
    writer = begin(disk, tmp_path, durable=True)
    append(writer, b"1")
    end = writer.end
    append(writer, b"2")
    writer.sync(disk, writer.end, 2)
    writer.take_back(end, 1)
    assert (writer.end, writer.count, writer.synced, writer.synced_count) == (end, 1, end, 1)
    writer.take_back(end, 1)
    append(writer, b"3")
    writer.take_back(writer.end, 2)
    assert (writer.synced, writer.synced_count) == (end, 1)
    writer.seal(disk)


def test_its_end_tells_what_it_holds(tmp_path: Path, disk: HookedDisk) -> None:
    """A seal with count and end, and a file that ends there; once, and without a descriptor that stays."""
    writer = begin(disk, tmp_path)
    writer.define(ENVELOPE, b"{}", AT_S)
    append(writer, b"1", b"2")
    fd, ends = writer.fd, watch(disk, "truncate", "close")
    writer.seal(disk)
    writer.seal(disk)
    assert ends == ["truncate", "close"]
    data = Path(writer.path).read_bytes()
    assert fmt.decode_header(data)[7:] == (2, len(data)) == (writer.count, writer.end)
    assert (writer.sealed, writer.fd, writer.map, writer.envelopes) == (True, -1, None, {})
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_end_that_cannot_cut_the_file_seals_it(tmp_path: Path, disk: HookedDisk) -> None:
    """And one that cannot seal it cuts it: either tells where the records end; the descriptor goes in any case."""
    writer = begin(disk, tmp_path)
    append(writer, b"1")
    closed = watch(disk, "close")
    disk.hooks["truncate"] = no_space
    with pytest.raises(OSError, match="No space left"):
        writer.seal(disk)
    data = Path(writer.path).read_bytes()
    assert (len(data), fmt.decode_header(data)[7:]) == (SIZE, (1, writer.end))
    assert (closed, writer.sealed) == (["close"], True)
    disk.hooks.clear()

    class Unwritable:
        def __setitem__(self, key: slice, value: bytes) -> None:
            no_space()

    writer = begin(disk, tmp_path, name="2-7.aa-2.seg")
    append(writer, b"1")
    writer.map = Unwritable()  # type: ignore[assignment]  # a disk that takes no more stores
    with pytest.raises(OSError, match="No space left"):
        writer.seal(disk)
    data = Path(writer.path).read_bytes()
    assert (len(data), fmt.decode_header(data)[7:]) == (writer.end, (None, None))


# -- events that get an outcome before they are read


@pytest.fixture
def written(tmp_path: Path, disk: HookedDisk) -> SegmentWriter:
    """Give a segment of ten events."""
    writer = begin(disk, tmp_path)
    writer.define(ENVELOPE, b"{}", AT_S)
    append(writer, *[b"x" * size for size in range(10)])
    return writer


def outcomes(writer: SegmentWriter) -> bytes:
    """Return the outcomes of the first ten events."""
    return Path(writer.path).read_bytes()[fmt.PAGE_BYTES :][:10]


VOID = bytes([Outcome.VOID])


def test_events_are_settled_before_they_are_read(written: SegmentWriter, disk: HookedDisk) -> None:
    """But for those that another process has settled; how many were is told, and they are counted by segment."""
    passed = Passed(disk, Outcome.VOID)
    assert not passed
    fd = os.open(written.path, os.O_WRONLY)
    os.pwrite(fd, bytes([Outcome.DELIVERED]), fmt.PAGE_BYTES + 3)
    os.close(fd)
    assert passed.add(written, [2, 3, 4]) == 2
    assert passed.add(written, [4, 5]) == 1
    assert passed
    assert outcomes(written) == b"\0\0" + VOID + b"\xd1" + VOID + VOID + bytes(4)
    assert passed.of(written) == 3
    assert passed.count({}) == (3, 0)
    assert [passed.count({NAME: read})[1] for read in (0, 2, 3, 4, 5, 6)] == [3, 3, 2, 2, 1, 0]
    assert passed.forget("another") == 0
    assert passed.forget(NAME) == 3
    assert not passed
    assert passed.forget(NAME) == passed.of(written) == 0


def test_a_segment_that_ends_before_them_takes_them_along(written: SegmentWriter, disk: HookedDisk) -> None:
    """Their outcomes are nobody's, from the first that is cut off."""
    passed = Passed(disk, Outcome.PURGED)
    passed.cut(written, 0)
    passed.add(written, [1, 5, 6, 7])
    passed.cut(written, 6)
    assert outcomes(written) == b"\0\x8a\0\0\0\x8a" + bytes(4)
    assert (passed.of(written), passed.count({NAME: 5})) == (2, (2, 1))


def test_neither_of_them_leaves_a_descriptor(written: SegmentWriter, disk: HookedDisk) -> None:
    """Also where the disk fails."""
    calls = watch(disk, "open", "close")
    passed = Passed(disk, Outcome.VOID)
    passed.add(written, [1])
    passed.add(written, [1])
    ordinals_before(disk, written, written.end)
    disk.hooks["write"] = disk.hooks["read"] = no_space
    for work in (lambda: passed.add(written, [2]), lambda: ordinals_before(disk, written, written.end)):
        with pytest.raises(OSError, match="No space left"):
            work()
    assert calls == ["open", "close"] * 5


def test_the_events_before_a_place_are_found_by_their_heads(written: SegmentWriter, disk: HookedDisk) -> None:
    """Events only, and whole ones; also where somebody erases a payload at this moment."""
    written.define(Envelope(URL, "PUT"), b"{}", AT_S)
    append(written, b"last")
    data = Path(written.path).read_bytes()
    ends, at = [], RECORDS_AT
    while isinstance(frame := fmt.read_frame(data, at), fmt.Frame):
        at = frame.end
        if frame.kind == Kind.EVENT:
            ends.append(at)
    assert len(ends) == 11
    for found, end in enumerate(ends):
        assert ordinals_before(disk, written, end) == list(range(found + 1))
    assert ordinals_before(disk, written, SIZE) == list(range(11))
    fd = os.open(written.path, os.O_WRONLY)
    os.pwrite(fd, b" " * 4, ends[8] - 8)
    os.close(fd)
    assert ordinals_before(disk, written, written.end) == list(range(11))
