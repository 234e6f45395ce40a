"""What a purge finds in a folder whose files are not all as they should be, and what it says of it."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from eventpost.event import Envelope, Event
from eventpost.queues.journal import Disk, JournalQueue, dead, erase
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal import purge as purge_module
from eventpost.queues.journal.erase import Place, Places
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import Kind
from eventpost.queues.journal.purge import purge
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal

URL = "http://127.0.0.1:9/v1/events"
ALICE = "alice@example.com"


def body(*visitors: str, **more: Any) -> Event:
    """Return an event with these visitors."""
    snapshots = [{"events": [{"uuid": "u", "timestamp": 1}]}]
    batch = {"visitors": [{"visitor_id": one, "attributes": [], "snapshots": snapshots} for one in visitors], **more}
    return Event(Envelope(URL), json.dumps(batch).encode())


def left(folder: Path, *events: Event, bury: int = 0) -> list[Path]:
    """Let a process store these, set some aside, and be killed; its segments."""
    queue = JournalQueue(folder)
    before = {*(folder / "segments").iterdir(), *(folder / "dead").iterdir()}
    queue.put(events)
    if bury:
        queue.bury(queue.claim(URL, bury, 1 << 20), "rejected")
    queue.after_fork_in_child()
    return sorted({*(folder / "segments").iterdir(), *(folder / "dead").iterdir()} - before)


def holding(folder: Path) -> list[str]:
    """Return the files that hold the id."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and ALICE.encode() in path.read_bytes())


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """One of a newer format, and one that is no file, are left and named with the reason; so is no other."""
    left(tmp_path, body("bob"))
    header = fmt.encode_header(URL, "1.aa", 1, sender=True, retry=False, outcome_pages=1)
    newer = "0000000000001-1.aa-000000.seg"
    (tmp_path / "segments" / newer).write_bytes(header.replace(b'"version":1', b'"version":9'))
    text = header[64:].rstrip(b"\0").replace(b'"version":1', b'"version":9')
    data = bytearray((tmp_path / "segments" / newer).read_bytes())
    data[20:24] = fmt.crc32(text).to_bytes(4, "little")
    (tmp_path / "segments" / newer).write_bytes(data)
    (tmp_path / "segments" / "0000000000002-1.aa-000000.seg").mkdir()
    (tmp_path / "segments" / ".0000000000003-1.aa-000000.seg.tmp").write_bytes(ALICE.encode())
    left(tmp_path, body(ALICE), body("bob"), body(ALICE, "bob"))
    seen: list[tuple[int, int]] = []
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    result = purge(tmp_path, ALICE, timeout_s=0.0, progress=lambda done, of: seen.append((done, of)))
    assert before in {0, len(os.listdir("/proc/self/fd"))}
    assert (result.queued, result.cut, result.dead, result.erased, result.damaged) == (1, 1, 0, 0, 0)
    assert [(one.file, one.places) for one in result.left] == [
        (f"segments/{newer}", 0), ("segments/0000000000002-1.aa-000000.seg", 0),
    ]  # fmt: skip
    assert result.left[0].why.endswith("this release reads up to 1; a newer release can look into it")
    assert result.left[1].why == "it cannot be read or changed: not a regular file"
    assert holding(tmp_path) == [".0000000000003-1.aa-000000.seg.tmp"]
    assert seen[-1] == (5, 5)
    assert not (tmp_path / "purge.json").exists()


def test_what_is_found_is_told_by_its_kind(tmp_path: Path) -> None:
    """Letters, events, bytes that are no record, and the id as a value in somebody else's event, which stays."""
    left(tmp_path, body(ALICE), body(ALICE), body("bob", friend=ALICE), bury=1)
    (tmp_path / "bad" / "x-0.bad").write_bytes(b"\xff" * 100 + json.dumps(ALICE).encode() + b"\xff" * 100)
    (tmp_path / "bad" / "y-0.bad").write_bytes(b"\xff" * 100)
    result = purge(tmp_path, ALICE, timeout_s=0.0)
    assert (result.queued, result.dead, result.damaged) == (1, 1, 1)
    assert (result.mentioned, result.unreadable, result.left) == (1, 1, [])
    (path,) = (tmp_path / "segments").iterdir()
    assert holding(tmp_path) == [path.name]
    assert path.read_bytes().count(ALICE.encode()) == 1
    again = purge(tmp_path, ALICE, timeout_s=0.0)
    assert (again.queued, again.dead, again.damaged, again.mentioned) == (0, 0, 0, 1)


def test_what_somebody_has_in_hand_stays_asked(tmp_path: Path) -> None:
    """Who, and what to do, is told; the next purge, of another, does not forget it."""
    (mine,) = left(tmp_path, body(ALICE), body("bob"))
    with mine.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = purge(tmp_path, ALICE, timeout_s=0.0)
    (one,) = result.left
    assert (one.file, one.places) == (f"segments/{mine.name}", 1)
    assert one.why.startswith("a sender has it in hand ")
    assert (tmp_path / "purge.json").exists()
    assert purge(tmp_path, "bob", timeout_s=0.0).queued == 1
    assert holding(tmp_path) == []
    assert not (tmp_path / "purge.json").exists()


def test_another_purge_at_work_is_told(tmp_path: Path) -> None:
    """After the time that was given."""
    left(tmp_path, body(ALICE))
    with (tmp_path / "purge.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another purge is at work here; try again"):
            purge(tmp_path, ALICE, timeout_s=0.0)


def test_who_adopts_a_segment_erases_before_it_reads(tmp_path: Path) -> None:
    """What a purge asked of it and did not come to do: never sent, counted once, and gone from the disk."""
    (path,) = left(tmp_path, body(ALICE), body("bob"), body(ALICE, "bob"))
    data = path.read_bytes()
    records = [data.index(body(ALICE).payload) - fmt.FRAME_HEAD_BYTES]
    records.append(data.index(body(ALICE, "bob").payload) - fmt.FRAME_HEAD_BYTES)
    at = body(ALICE, "bob").payload.index(ALICE.encode())
    heard: list[Signal] = []
    queue = JournalQueue(tmp_path)
    queue.emit = heard.append
    places = [Place(records[0], 0), Place(records[1], 2, ((at, at + len(ALICE)),))]
    erase.write_note(queue.folder, {f"segments/{path.name}": places})
    queue.scan()
    leases = queue.claim(URL, 9, 1 << 20)
    assert [ALICE.encode() in lease.event.payload for lease in leases] == [False, False]
    assert leases[0].event == body("bob")
    stats = queue.stats()
    assert (stats.accepted, stats.in_flight, stats.dropped) == (3, 2, {"purged": 1})
    assert holding(tmp_path) == []
    queue.close()


def test_of_a_letter_stays_why_it_died(tmp_path: Path) -> None:
    """Reason, status, attempts, and which event it was: none of it says who; the answer and the event go."""
    (path,) = [one for one in left(tmp_path, body(ALICE), bury=1) if one.parent.name == "dead"]
    assert purge(tmp_path, ALICE, timeout_s=0.0).dead == 1
    data = path.read_bytes()
    frames = [frame for _, frame, _ in dead.walk(data, fmt.decode_header(data[: fmt.PAGE_BYTES]).records_at)]
    ((meta, payload),) = [fmt.decode_dead(one.payload) for one in frames if one is not None and one.kind == Kind.DEAD]
    (segment,) = (tmp_path / "segments").iterdir()
    assert meta == {"reason": "rejected", "status": 0, "attempts": 1, "origin": f"{segment.name}:0"}
    assert payload.strip(b"\0") == b""


def test_a_note_is_bounded_over_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files hold the visitor: the rest is looked for once the first are done, and nothing is left."""
    for _ in range(5):
        left(tmp_path, body(ALICE))
    noted: list[int] = []
    write_note = erase.write_note

    def write(folder: Folder, places: Places) -> None:
        noted.append(sum(map(len, places.values())))
        write_note(folder, places)

    monkeypatch.setattr(purge_module, "_PLACES_MAX", 2)
    monkeypatch.setattr(erase, "write_note", write)
    result = purge(tmp_path, ALICE, timeout_s=0.0)
    assert (result.queued, result.left, holding(tmp_path)) == (5, [], [])
    assert noted == [2, 2, 1, 0]


def test_what_looks_damaged_where_somebody_writes_hides_nothing(tmp_path: Path) -> None:
    """It may be half of a store, so it is passed over and not counted; what stands behind it is found."""
    queue = JournalQueue(tmp_path)
    queue.sends = False
    queue.put([body("bob"), body("carol"), body(ALICE)])
    (path,) = (tmp_path / "segments").iterdir()
    with path.open("r+b") as file:  # in place: it is mapped
        file.seek(path.read_bytes().index(b"carol"))
        file.write(b"C")
    result = purge(tmp_path, ALICE, timeout_s=0.0)
    assert (result.queued, result.damaged, result.unreadable, result.left) == (1, 0, 0, [])
    assert holding(tmp_path) == []
    queue.close()


def test_what_was_there_when_it_began_is_found_whatever_the_time(tmp_path: Path) -> None:
    """The clock was put back since: what seems to be of the future is the visitor's all the same."""
    left(tmp_path, body(ALICE), body("bob"))
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=ManualClock(epoch_s=1000.0)).queued == 1
    assert holding(tmp_path) == []


def test_a_segment_that_may_only_be_read_is_left_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk's word; the others are erased."""
    (mine,) = left(tmp_path, body(ALICE))
    left(tmp_path, body(ALICE))
    opens = Disk.open

    def refuses(disk: Disk, path: str, *, write: bool = True) -> int:
        if write and path == str(mine):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opens(disk, path, write=write)

    monkeypatch.setattr(Disk, "open", refuses)
    result = purge(tmp_path, ALICE, timeout_s=0.0)
    assert [(one.file, one.places) for one in result.left] == [(f"segments/{mine.name}", 1)]
    assert result.left[0].why.startswith("it cannot be read or changed: Permission denied ")
    assert (result.queued, holding(tmp_path)) == (1, [mine.name])


def test_what_its_holder_did_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who asked, place for place: one event dropped, one that others share cut, on the holder's side too."""
    queue = JournalQueue(tmp_path)
    queue.put([body(ALICE), body("bob"), body(ALICE, "bob")])
    monkeypatch.setattr(purge_module, "pause", lambda _: queue.recalled())
    result = purge(tmp_path, ALICE)
    assert (result.queued, result.cut, result.erased, result.dead, result.left) == (1, 1, 0, 0, [])
    assert holding(tmp_path) == []
    stats = queue.stats()
    assert (stats.accepted, stats.queued, stats.dropped) == (3, 2, {"purged": 1})
    queue.close()
