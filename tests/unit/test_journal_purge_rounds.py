"""A purge, round by round: how long it waits and for whom, what it asks of them, and what it counts as whose work."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventpost.event import Envelope, Event
from eventpost.queues.journal import Disk, dead, erase
from eventpost.queues.journal import purge as module
from eventpost.queues.journal.erase import Places
from eventpost.queues.journal.format import Outcome
from eventpost.queues.journal.purge import Purged, purge
from purge_support import ALICE, BOB, URL, Held, Time, body, file_of, holds, left


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Make a clock, and let a purge pause by it."""
    clock = Time()
    monkeypatch.setattr(module, "pause", clock.pause)
    return clock


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Places]]:
    """Collect what is written down."""
    found: list[Places] = []
    write = erase.write_note
    monkeypatch.setattr(erase, "write_note", lambda folder, places: (found.append(places), write(folder, places)))
    return found


# -- waiting


def test_it_waits_for_another_purge(tmp_path: Path, time: Time) -> None:
    """Until its time is over, to the moment, and then says so as an error of the system; or goes on when that ends."""
    mine = left(tmp_path, body(ALICE))
    (tmp_path / "purge.lock").touch()
    held = Held(tmp_path / "purge.lock")
    with pytest.raises(BlockingIOError) as caught:
        purge(tmp_path, ALICE, timeout_s=0.1, clock=time)
    assert (caught.value.errno, caught.value.filename) == (errno.EAGAIN, str(tmp_path))
    assert time.pauses == [0.05, 0.05]
    assert holds(mine)
    time.at[4] = held.let_go
    assert purge(tmp_path, ALICE, timeout_s=1.0, clock=time).queued == 1
    assert len(time.pauses) == 4


def test_half_a_minute_is_its_time_unless_another_is_named(tmp_path: Path, time: Time) -> None:
    """For others, whichever they are."""
    left(tmp_path, body(ALICE))
    (tmp_path / "purge.lock").touch()
    held = Held(tmp_path / "purge.lock")
    with pytest.raises(BlockingIOError):
        purge(tmp_path, ALICE, clock=time)
    held.let_go()
    assert sum(time.pauses) == pytest.approx(30.0, abs=0.051)


def test_it_waits_for_who_has_a_segment_in_hand(tmp_path: Path, time: Time) -> None:
    """It tries again each 50 ms until its time is over, and looks no further then: one round, told file by file."""
    mine, other = left(tmp_path, body(ALICE)), left(tmp_path, body(ALICE))
    held = Held(mine)
    seen: list[tuple[int, int]] = []
    result = purge(tmp_path, ALICE, timeout_s=0.1, clock=time, progress=lambda done, of: seen.append((done, of)))
    assert time.pauses == [0.05, 0.05]
    assert seen == [(1, 2), (2, 2)]
    assert [(one.file, one.places) for one in result.left] == [(file_of(mine), 1)]
    assert (result.queued, holds(mine), holds(other)) == (1, True, False)
    held.let_go()
    assert purge(tmp_path, BOB, timeout_s=0.0, clock=time) == Purged(), "it was asked by another"
    assert not holds(mine)


def test_once_they_let_go_it_goes_on(tmp_path: Path, time: Time) -> None:
    """At once it looks again, at all files, until nothing more is found."""
    mine, _ = left(tmp_path, body(ALICE)), left(tmp_path, body(ALICE))
    time.at[2] = Held(mine).let_go
    seen: list[tuple[int, int]] = []
    result = purge(tmp_path, ALICE, timeout_s=0.3, clock=time, progress=lambda done, of: seen.append((done, of)))
    assert len(time.pauses) == 2
    assert seen == [(1, 2), (2, 2)] * 2
    assert (result, holds(mine)) == (Purged(queued=2), False)
    assert not (tmp_path / "purge.json").exists()


def test_its_time_runs_from_its_beginning(tmp_path: Path, time: Time) -> None:
    """What the wait for another purge took is not there for the wait for a segment."""
    mine = left(tmp_path, body(ALICE))
    (tmp_path / "purge.lock").touch()
    time.at[3] = Held(tmp_path / "purge.lock").let_go
    held = Held(mine)
    assert len(purge(tmp_path, ALICE, timeout_s=0.2, clock=time).left) == 1
    held.let_go()
    assert len(time.pauses) == 4


# -- what it leaves


def test_all_folders_are_on_the_device_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing was found: what somebody removed before, power loss must not bring back."""
    folder = tmp_path / "BOX"
    left(folder, body(BOB))
    synced: list[str] = []
    monkeypatch.setattr(Disk, "sync_folder", lambda _, path: synced.append(path))
    assert purge(folder, ALICE, timeout_s=0.0) == Purged()
    assert Purged() == Purged(0, 0, 0, 0, 0, 0, 0, [])
    assert synced == [str(folder), *[f"{folder}/{part}" for part in ("segments", "dead", "bad")]]


def test_nothing_stays_open(tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it looked at a segment, and where a run comes to no end."""
    mine = left(tmp_path, body(ALICE))
    held = Held(mine)
    descriptors: list[int] = []
    opens, creates, closes = Disk.open, Disk.create, Disk.close

    def opened(fd: int) -> int:
        descriptors.append(fd)
        return fd

    def close(disk: Disk, fd: int) -> None:
        descriptors.remove(fd)
        closes(disk, fd)

    monkeypatch.setattr(Disk, "open", lambda *given, **more: opened(opens(*given, **more)))
    monkeypatch.setattr(Disk, "create", lambda *given, **more: opened(creates(*given, **more)))
    monkeypatch.setattr(Disk, "close", close)
    purge(tmp_path, ALICE, timeout_s=0.1, clock=time)
    assert descriptors == []

    def ends() -> None:
        raise KeyboardInterrupt

    time.at[len(time.pauses) + 1] = ends
    with pytest.raises(KeyboardInterrupt):
        purge(tmp_path, BOB, timeout_s=0.1, clock=time)
    assert descriptors == []
    held.let_go()


def test_what_is_left_is_told_by_file_in_order(tmp_path: Path, time: Time) -> None:
    """How many places each has, those that another purge asked for among them, and who has it in hand."""
    files = [left(tmp_path, body(BOB), body(ALICE), body(ALICE)) for _ in range(3)]
    held = [Held(path) for path in files]
    assert [one.places for one in purge(tmp_path, BOB, timeout_s=0.0, clock=time).left] == [1, 1, 1]
    held.pop(1).let_go()
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert [(one.file, one.places) for one in result.left] == [(file_of(files[at]), 3) for at in (0, 2)]
    assert (result.queued, holds(files[1], BOB)) == (2, False)
    for one in held:
        one.let_go()


def test_a_letter_that_somebody_is_at_is_named_otherwise(tmp_path: Path, time: Time) -> None:
    """No sender has it, so none is to be stopped."""
    mine = left(tmp_path, body(ALICE), bury=1)
    (letters,) = (tmp_path / "dead").iterdir()
    held = Held(letters)
    segment = Held(mine)
    first, second = purge(tmp_path, ALICE, timeout_s=0.0, clock=time).left
    assert (first.file, second.file) == (file_of(letters), file_of(mine))
    assert "stop it" in second.why
    assert "stop it" not in first.why
    held.let_go()
    segment.let_go()


def test_an_event_is_read_as_its_envelope_says(tmp_path: Path, time: Time) -> None:
    """What is sent as a query is one."""
    query = Event(Envelope(URL, "GET"), b"visitor=alice%40example.com")
    mine = left(tmp_path, query, body(BOB), query._replace(payload=b"visitor=bob"))
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged(queued=1)
    assert mine.read_bytes().count(b"visitor=") == 1


def test_a_segment_whose_header_is_damaged_is_bytes_of_nothing(tmp_path: Path, time: Time) -> None:
    """What of it is a record and the visitor's goes as such bytes do."""
    mine = left(tmp_path, body(ALICE))
    mine.write_bytes(b"\xff" * 64 + mine.read_bytes()[64:])
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert (result.damaged, result.left, holds(mine)) == (1, [], False)


def test_a_disk_that_fails_at_a_look_fails_no_purge(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its holder has done is not known then; what is to do is done."""
    mine = left(tmp_path, body(ALICE))
    still_named, failed = Disk.still_named, list[int]()

    def fail(disk: Disk, fd: int, path: str) -> bool:
        if not failed:
            failed.append(fd)
            raise OSError(errno.EIO, "Input/output error")
        return still_named(disk, fd, path)

    monkeypatch.setattr(Disk, "still_named", fail)
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged(queued=1)
    assert (len(failed), holds(mine)) == (1, False)


def test_letters_that_cannot_be_read_hold_up_nothing(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which events they are about is not known then; what is queued is erased all the same."""
    mine = left(tmp_path, body(ALICE))

    def fail(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(dead.Parked, "by_segment", fail)
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged(queued=1)
    assert not holds(mine)


def test_all_files_are_counted_together(tmp_path: Path, time: Time) -> None:
    """Whatever each of them held."""
    for _ in range(2):
        left(tmp_path, body(ALICE), body(ALICE), body(ALICE, BOB), bury=1)
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged(queued=2, dead=2, cut=2, erased=2)


def test_what_its_holder_has_done_is_counted_and_the_rest_is_left(
    tmp_path: Path, time: Time, notes: list[Places]
) -> None:
    """Place for place, in any order."""
    mine = left(tmp_path, body(BOB), body(ALICE), body(ALICE), body(ALICE, BOB))
    held = Held(mine)

    def work() -> None:
        disk = Disk()
        fd = disk.open(str(mine))
        header = erase.read_header(disk, fd)
        disk.write(fd, bytes([Outcome.PURGED]), header.outcomes_at + 2)
        for place in notes[0][file_of(mine)][1:]:
            erase.erase(disk, fd, place, header)
        disk.close(fd)

    time.at[1] = work
    result = purge(tmp_path, ALICE, timeout_s=0.1, clock=time)
    assert (result.queued, result.cut, result.erased, result.left[0].places) == (1, 1, 0, 1)
    held.let_go()
