"""What a record becomes that is erased, and the note that says which."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support import HookedDisk

from eventpost.event import Envelope
from eventpost.queues.journal import erase
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.disk import Disk
from eventpost.queues.journal.erase import NO_RECORD, Done, Place
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import Kind, Outcome

AT_S = 1_784_000_000
PAYLOAD = b'{"visitor":"ada","other":"bob"}'
ADA = (12, 15)
RECORDS_AT = 2 * fmt.PAGE_BYTES
NAME = "0000000000001-7.00000000aa-000000.seg"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Give a journal's folder."""
    return Folder(tmp_path, disk=None, gid=None, allow_network_fs=True)


def record(ordinal: int = 3, kind: int = Kind.EVENT, payload: bytes = PAYLOAD) -> bytes:
    """Return a record without its padding."""
    return fmt.frame(kind, ordinal, AT_S, 0, payload)[: fmt.FRAME_HEAD_BYTES + len(payload)]


def payload_of(data: bytes) -> bytes:
    """Return the payload of a record that must be whole, and what it was but for that."""
    found = fmt.read_frame(data, 0)
    assert isinstance(found, fmt.Frame)
    assert found[:4] == (Kind.EVENT, 3, AT_S, 0)
    return found.payload


def test_an_event_that_is_theirs_alone_becomes_zeros() -> None:
    """Of the same length, with a checksum that holds; a letter's note of its origin stays, as far as it fits."""
    assert payload_of(erase.erased(record(), Place(0, 3))) == bytes(len(PAYLOAD))
    kept = payload_of(erase.erased(record(), Place(0, 3, keep='{"o":"ä"}')))
    assert kept == b"\x0a\0\0\0" + '{"o":"ä"}'.encode() + bytes(len(PAYLOAD) - 14)
    assert payload_of(erase.erased(record(), Place(0, 3, keep="x" * 100))) == b"\x64\0\0\0" + b"x" * 27


def test_where_others_are_in_it_spaces_take_their_place() -> None:
    """In that place alone; what lies beyond the payload is no place."""
    changed = PAYLOAD.replace(b"ada", b"   ")
    place = Place(0, 3, (ADA,))
    assert payload_of(erase.erased(record(), place)) == erase.erased_payload(PAYLOAD, place) == changed
    for none in ((-1, 2), (5, 5), (6, 5), (0, len(PAYLOAD) + 1)):
        assert erase.erased_payload(PAYLOAD, Place(0, 3, (none,))) == PAYLOAD
    assert erase.erased_payload(PAYLOAD, Place(0, 3, ((0, len(PAYLOAD)),))) == b" " * len(PAYLOAD)


def test_bytes_that_are_no_record_become_zeros() -> None:
    """As they lie; that they are none is told by an ordinal of -1, which is on disks."""
    assert NO_RECORD == -1
    assert erase.erased(b"xxadaxx", Place(0, NO_RECORD, ((2, 5),))) == b"xx\0\0\0xx"
    assert not Place(0, NO_RECORD, ((2, 5),)).whole
    assert not Place(0, 3, (ADA,)).whole
    assert Place(0, 3).whole


def test_a_place_is_what_it_was_or_nothing(folder: Folder) -> None:
    """Another ordinal, another kind, a length that cannot be, or a file that ends within it: not there any more."""
    path = Path(folder.bad, "x")
    whole = record()
    short = whole[:4] + (19).to_bytes(4, "little") + whole[8:]
    for data, place, there in (
        (whole, Place(8, 3), True),
        (record(kind=Kind.DEAD), Place(8, 3), True),
        (record(kind=Kind.ENVELOPE), Place(8, 3), False),
        (whole, Place(8, 4), False),
        (short, Place(8, 3), False),
        (whole[:-1], Place(8, 3), False),
        (whole[:19], Place(8, 3), False),
        (b"xxadaxx", Place(8, NO_RECORD, ((2, 5), (0, 1))), True),
        (b"xxad", Place(8, NO_RECORD, ((2, 5),)), False),
        (b"xxadaxx", Place(8, NO_RECORD), False),
    ):
        path.write_bytes(bytes(8) + data)
        fd = folder.disk.open(str(path))
        found = erase.read_record(folder.disk, fd, place)
        folder.disk.close(fd)
        assert found == erase.record_in(bytes(8) + data, place)
        assert found == ((b"xxada" if data.startswith(b"xx") else data) if there else None)


def test_a_note_says_places_and_never_whose(folder: Folder) -> None:
    """It comes back as it was written; where nothing is to be erased there is none."""
    places = {f"segments/{NAME}": [Place(8, 3), Place(80, 4, (ADA, (20, 25)))], "bad/x.bad": [Place(0, -1, ((1, 2),))]}
    letters = {f"dead/{NAME}": [Place(8, 0, keep='{"origin":"a:1"}')]}
    erase.write_note(folder, places | letters | {"dead/none": []})
    assert erase.read_note(folder) == places | letters
    assert orjson.loads(Path(folder.path, "purge.json").read_bytes())[f"segments/{NAME}"][0] == [8, 3, [], ""]
    erase.write_note(folder, {})
    assert erase.read_note(folder) == {}
    assert not Path(folder.path, "purge.json").exists()


def test_a_note_is_on_the_device_before_anything_is_erased(tmp_path: Path) -> None:
    """Its bytes, then its name; that it is gone likewise."""
    disk = HookedDisk()
    folder, done = Folder(tmp_path, disk=disk, gid=None, allow_network_fs=True), list[str]()
    for name in ("datasync", "rename", "sync_folder"):
        disk.hooks[name] = lambda *_, name=name: done.append(name)
    disk.hooks["unlink"] = lambda path: done.append(os.path.basename(path))
    erase.write_note(folder, {"bad/x": [Place(1, 2)]})
    assert [one for one in done if not one.startswith(".")] == ["datasync", "rename", "sync_folder"]
    done.clear()
    erase.write_note(folder, {})
    assert done == ["purge.json", "sync_folder"]


@pytest.mark.parametrize(
    "note",
    [
        b"{", b"[]", b"3", b'{"segments/a":[[1,2]]}', b'{"segments/a":[[1,"x",[],""]]}',
        b'{"segments/a":[[1,2,[1],""]]}',
        b'{"segments/a":3}', b'{"../a":[[1,2,[],""]]}', b'{"writers/a":[[1,2,[],""]]}', b'{"bad/..":[[1,2,[],""]]}',
        b'{"bad/.":[[1,2,[],""]]}', b'{"bad/":[[1,2,[],""]]}', b'{"bad":[[1,2,[],""]]}', b'{"bad/a/b":[[1,2,[],""]]}',
    ],
)  # fmt: skip
def test_a_note_that_cannot_be_ours_asks_nothing(folder: Folder, note: bytes) -> None:
    """Neither a damaged one, nor one that names what is no part of the folder."""
    Path(folder.path, "purge.json").write_bytes(note)
    assert erase.read_note(folder) == {}


def test_one_writes_the_note_at_a_time(folder: Folder) -> None:
    """Somebody else's command, or its leftovers, wait."""
    with erase.only_one(folder) as alone:
        assert alone
        assert Path(folder.path, "purge.lock").exists()  # other releases look for it there
        with erase.only_one(folder) as another:
            assert not another
    with erase.only_one(folder) as alone:
        assert alone


def test_what_was_done_adds_up() -> None:
    """Each by its kind."""
    done = Done(1, 2, 3, 4)
    done.add(Done(10, 20, 30, 40))
    assert done == Done(11, 22, 33, 44)
    assert Done() == Done(0, 0, 0, 0)


def segment(folder: Folder, part: str = "segments", events: int = 4, lane: str = "http://127.0.0.1:9/") -> str:
    """Leave a dead writer's segment of events, each of which holds the visitor; its file."""
    header = fmt.encode_header(lane, "7.00000000aa", 1, sender=True, retry=False, outcome_pages=1)
    definition = fmt.frame(Kind.ENVELOPE, 0, AT_S, 0, fmt.encode_envelope(Envelope("http://127.0.0.1:9/")))
    frames = [fmt.frame(Kind.EVENT, ordinal, AT_S, 0, PAYLOAD) for ordinal in range(events)]
    data = header + bytes(fmt.PAGE_BYTES) + definition + b"".join(frames)
    Path(folder.path, part, NAME).write_bytes(data)
    return f"{part}/{NAME}"


def places_in(folder: Folder, file: str) -> list[int]:
    """Return where the events' records begin."""
    data, found = Path(folder.path, file).read_bytes(), []
    at = fmt.decode_header(data).records_at
    while isinstance(frame := fmt.read_frame(data, at), fmt.Frame):
        if frame.kind == Kind.EVENT:
            found.append(at)
        at = frame.end
    return found


def outcomes(folder: Folder, file: str) -> list[int]:
    """Return the outcomes of the first events."""
    return list(Path(folder.path, file).read_bytes()[fmt.PAGE_BYTES :][:4])


def test_what_nobody_has_in_hand_is_carried_out(folder: Folder) -> None:
    """A queued event is purged, a settled one keeps its outcome, one with others in it is cut; twice is once."""
    file = segment(folder)
    at = places_in(folder, file)
    fd = os.open(f"{folder.path}/{file}", os.O_WRONLY)
    os.pwrite(fd, bytes([Outcome.DELIVERED]), fmt.PAGE_BYTES + 1)
    os.close(fd)
    places = [Place(at[0], 0), Place(at[1], 1), Place(at[2], 2, (ADA,)), Place(at[3], 3)]
    parked = {NAME: [3]}
    assert erase.carry_out(folder, file, places, parked) == Done(purged=1, erased=2, cut=1)
    assert outcomes(folder, file) == [Outcome.PURGED, Outcome.DELIVERED, 0, Outcome.DEAD]
    data = Path(folder.path, file).read_bytes()
    assert b"ada" not in data
    assert data.count(b"bob") == 1
    assert len(places_in(folder, file)) == 4
    assert erase.carry_out(folder, file, places, parked) == Done(erased=3, cut=1)
    assert Path(folder.path, file).read_bytes() == data


def test_a_letter_is_purged_though_its_event_lay_in_a_segment_of_the_same_name(folder: Folder) -> None:
    """Both were begun in the same millisecond: what is noted of the one says nothing of the other."""
    letters = segment(folder, "dead")
    assert erase.carry_out(folder, letters, [Place(places_in(folder, letters)[0], 0)], {NAME: [0]}) == Done(purged=1)
    assert outcomes(folder, letters) == [Outcome.PURGED, 0, 0, 0]


def test_bytes_set_aside_and_files_without_a_header_are_erased_as_they_lie(folder: Folder) -> None:
    """They are counted as places, and have no outcome."""
    for file in ("bad/x.bad", f"segments/{NAME}"):
        Path(folder.path, file).write_bytes(b"-" * 5000 + b"ada")
        assert erase.carry_out(folder, file, [Place(4990, NO_RECORD, ((10, 13),))], {}) == Done(raw=1)
        assert Path(folder.path, file).read_bytes() == b"-" * 5000 + bytes(3)


def test_a_header_of_several_pages_is_read_whole(folder: Folder) -> None:
    """A long endpoint's; the outcomes stand behind it."""
    file = segment(folder, lane="http://127.0.0.1:9/" + "x" * 9000)
    assert erase.carry_out(folder, file, [Place(places_in(folder, file)[1], 1)], {}) == Done(purged=1)
    assert Path(folder.path, file).read_bytes()[3 * fmt.PAGE_BYTES :][:3] == bytes([0, Outcome.PURGED, 0])


def test_each_place_counts_by_what_it_is(folder: Folder) -> None:
    """Damaged bytes in a segment, events with others in them, and an event beyond the last one, which was none."""
    file = segment(folder)
    at = places_in(folder, file)
    raw = [Place(one, NO_RECORD, ((40, 44),)) for one in at[:3]]
    cut = [Place(one, ordinal, (ADA,)) for ordinal, one in enumerate(at)]
    none = [Place(at[0], 4096), Place(at[0], 5000)]
    assert erase.carry_out(folder, file, [*raw, *cut, *none], {}) == Done(raw=3, cut=4, erased=2)
    path = Path(folder.path, file)
    data = bytearray(path.read_bytes())
    data[fmt.SEAL_AT : fmt.SEAL_AT + fmt.SEAL_BYTES] = fmt.encode_seal(2, len(data))
    path.write_bytes(data)
    assert erase.carry_out(folder, file, [Place(at[1], 1), Place(at[2], 2)], {}) == Done(purged=1, erased=1)
    assert outcomes(folder, file) == [0, Outcome.PURGED, 0, 0]


def test_what_was_set_aside_has_no_outcomes(folder: Folder) -> None:
    """Though it may be a whole segment; where no header can be read there are none either, whatever is asked."""
    file = segment(folder, "bad")
    before = Path(folder.path, file).read_bytes()
    (first, *_) = places_in(folder, file)
    assert erase.carry_out(folder, file, [Place(first, 0)], {}) == Done(raw=1)
    after = Path(folder.path, file).read_bytes()
    assert (before[:first], before.count(b"ada") - after.count(b"ada")) == (after[:first], 1)
    Path(folder.path, f"segments/{NAME}").write_bytes(b"noise" * 2000)
    assert erase.carry_out(folder, f"segments/{NAME}", [Place(10, 3), Place(20, 4)], {}) == Done(raw=2)
    assert Path(folder.path, f"segments/{NAME}").read_bytes() == b"noise" * 2000


def test_what_is_carried_out_is_on_the_device_when_it_is_told(tmp_path: Path) -> None:
    """Outcome, outcome once more, and bytes, in whatever order, before the sync."""
    disk, done = HookedDisk(), list[Any]()
    folder = Folder(tmp_path, disk=disk, gid=None, allow_network_fs=True)
    file = segment(folder)
    (first, *_) = places_in(folder, file)
    disk.hooks["write"] = lambda _, __, at: done.append(at)
    disk.hooks["datasync"] = lambda _: done.append("sync")
    assert erase.carry_out(folder, file, [Place(first, 0)], {}) == Done(purged=1)
    assert done == [fmt.PAGE_BYTES, fmt.PAGE_BYTES, first, "sync"]


def test_what_goes_while_it_is_taken_in_hand_is_gone(tmp_path: Path) -> None:
    """Somebody folded it: what was locked is nobody's file any more."""
    disk = HookedDisk()
    folder = Folder(tmp_path, disk=disk, gid=None, allow_network_fs=True)
    file = segment(folder)
    path = f"{folder.path}/{file}"
    disk.hooks["lock"] = lambda _: os.unlink(path)
    with pytest.raises(FileNotFoundError) as caught:
        erase.carry_out(folder, file, [], {})
    assert (caught.value.errno, caught.value.filename, bool(caught.value.strerror)) == (errno.ENOENT, path, True)
    assert disk._descriptors == set()


def test_an_event_whose_letter_was_not_noted_is_dead_to_who_finishes_too(tmp_path: Path) -> None:
    """Its letter is another file's; without a note nobody looks for letters."""
    disk, looked = HookedDisk(), list[str]()
    folder = Folder(tmp_path, disk=disk, gid=None, allow_network_fs=True)
    file = segment(folder)
    letter = fmt.frame(Kind.DEAD, 0, AT_S, 0, fmt.encode_dead({"origin": f"{NAME}:1"}, PAYLOAD))
    header = fmt.encode_header("", "7.00000000bb", 1, sender=False, retry=False, outcome_pages=1)
    Path(folder.dead, NAME.replace("aa", "bb")).write_bytes(header + bytes(fmt.PAGE_BYTES) + letter)
    disk.hooks["names"] = looked.append
    erase.finish(folder)
    assert looked == []
    at = places_in(folder, file)
    erase.write_note(folder, {file: [Place(at[1], 1), Place(at[2], 2)]})
    erase.finish(folder)
    assert outcomes(folder, file) == [0, Outcome.DEAD, Outcome.PURGED, 0]


def test_what_somebody_has_in_hand_is_left_alone(folder: Folder, tmp_path: Path) -> None:
    """And it is told who."""
    file = segment(folder)
    before = Path(folder.path, file).read_bytes()
    at = places_in(folder, file)
    with open(f"{folder.path}/{file}", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert erase.carry_out(folder, file, [Place(at[0], 0)], {}) == "a sender has it in hand"
    letters = segment(folder, "dead")
    with open(f"{folder.path}/{letters}", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert erase.carry_out(folder, letters, [Place(at[0], 0)], {}) == "somebody else is at it"
    lock = Path(folder.writers, "7.00000000aa.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert erase.carry_out(folder, file, [Place(at[0], 0)], {}) == "process 7 sends it"
        Path(folder.path, "segments", "x-7.00000000aa-1.seg").write_bytes(b"noise" * 1000)
        assert erase.carry_out(folder, "segments/x-7.00000000aa-1.seg", [], {}) == "process 7 writes it"
    assert Path(folder.path, file).read_bytes() == before
    with pytest.raises(FileNotFoundError):
        erase.carry_out(folder, "segments/none", [], {})


def test_what_a_command_left_undone_is_finished(folder: Folder) -> None:
    """As far as nobody has it in hand: that stays asked; what is gone is not; nothing while the command is at it."""
    mine, other = segment(folder), segment(folder, "dead")
    at = places_in(folder, mine)
    asked = {"segments/gone": [Place(1, 1)], mine: [Place(at[0], 0)], other: [Place(at[1], 1)]}
    erase.write_note(folder, asked)
    with erase.only_one(folder):
        erase.finish(folder)
    assert erase.read_note(folder) == asked
    with open(f"{folder.path}/{other}", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        erase.finish(folder)
    assert outcomes(folder, mine)[:2] == [Outcome.PURGED, 0]
    assert erase.read_note(folder) == {other: [Place(at[1], 1)]}
    erase.finish(folder)
    assert outcomes(folder, other)[:2] == [0, Outcome.PURGED]
    assert not Path(folder.path, "purge.json").exists()
    erase.finish(folder)
    assert not [path for path in Path(folder.path).iterdir() if path.name == "purge.json"]


def test_an_outcome_is_stored_once_more_before_the_bytes_go(folder: Folder) -> None:
    """A sync that failed may have forgotten it; what is erased already is not touched again."""
    file = segment(folder)
    at = places_in(folder, file)
    writes: list[int] = []

    class Watched(Disk):
        def write(self, fd: int, data: bytes, at: int) -> None:
            writes.append(at)
            super().write(fd, data, at)

    disk = Watched()
    fd = disk.open(f"{folder.path}/{file}")
    header = erase.read_header(disk, fd)
    disk.write(fd, bytes([Outcome.DELIVERED]), fmt.PAGE_BYTES + 2)
    writes.clear()
    for place in (Place(at[2], 2), Place(at[2], 2), Place(at[1], 1)):
        erase.erase(disk, fd, place, header)
    erase.erase(disk, fd, Place(at[0], 0), None)
    assert writes == [fmt.PAGE_BYTES + 2, at[2], at[1], at[0]]
    erase.erase(disk, fd, Place(at[3], 3), header)
    disk.write(fd, record(0), at[0])
    disk.write(fd, bytes([Outcome.PURGED]), fmt.PAGE_BYTES)
    writes.clear()
    erase.erase(disk, fd, Place(at[0], 0), header)
    assert writes == [fmt.PAGE_BYTES, at[0]]
    disk.close(fd)


def test_a_record_that_has_no_outcome_stores_none(folder: Folder) -> None:
    """A forged one, of one event more than there can be: behind the outcomes lies the first record."""
    file = segment(folder, events=1)
    path = Path(folder.path, file)
    at = path.stat().st_size
    path.write_bytes(path.read_bytes() + fmt.frame(Kind.EVENT, fmt.PAGE_BYTES, AT_S, 0, PAYLOAD))
    writes: list[int] = []

    class Watched(Disk):
        def write(self, fd: int, data: bytes, at: int) -> None:
            writes.append(at)
            super().write(fd, data, at)

    disk = Watched()
    fd = disk.open(str(path))
    header = erase.read_header(disk, fd)
    assert header.events_max == fmt.PAGE_BYTES
    assert disk.read(fd, 1, header.records_at) != b"\0"
    erase.erase(disk, fd, Place(at, fmt.PAGE_BYTES), header)
    disk.close(fd)
    assert writes == [at]
