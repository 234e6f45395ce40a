"""What a repair does with a folder around its segments: modes, what the dead left half made, and how far it is."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest
from tests.unit.test_journal_forged import event, segment

from eventpost.queues.journal import JournalQueue, repair
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.repair import Repair

NAMES = [f"000000000000{n}-7.00000000aa-000000.seg" for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with nothing in it that a repair would mend."""
    JournalQueue(tmp_path / "j").close()
    assert repair.repair(tmp_path / "j") == []
    return tmp_path / "j"


def written(path: Path, data: bytes = b"", mode: int = 0o600) -> Path:
    """Make a file."""
    path.write_bytes(data)
    path.chmod(mode)
    return path


def modes(folder: Path) -> set[int]:
    """Return the modes of all that is in a folder."""
    return {stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*") if not path.is_symlink()}


def test_each_mode_is_put_right_once_and_said(folder: Path) -> None:
    """Of the folder itself, of those in it, and of files, which nobody may run."""
    kept = written(folder / "bad/one", mode=0o755)
    folder.chmod(0o750)
    (folder / "dead").chmod(0o701)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert sorted(repair.repair(folder), key=lambda one: one.path) == [
        Repair(str(folder), "mode", 0, "0750, now 0700"),
        Repair(str(kept), "mode", 0, "0755, now 0600"),
        Repair(f"{folder}/dead", "mode", 0, "0701, now 0700"),
    ]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes(folder) == {0o600, 0o700}
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_shared_folders_modes_are_its_groups(folder: Path) -> None:
    """Whoever may use it goes on doing so."""
    written(folder / "bad/one")
    folder.chmod(0o2770)
    repair.repair(folder)
    assert modes(folder) == {0o660, 0o2770}
    assert repair.repair(folder) == []


def test_what_is_no_file_stops_nothing(folder: Path) -> None:
    """A pipe that nobody writes to is not waited for; a link is named, not followed, and what lies beside it mended."""
    outside = written(folder.parent / "outside", mode=0o644)
    for n in range(4):
        (folder / f"bad/link{n}").symlink_to(outside)
        written(folder / f"bad/file{n}", mode=0o644)
    os.mkfifo(folder / "bad/pipe", 0o644)
    did = repair.repair(folder)
    assert sorted(one.did for one in did) == ["left"] * 4 + ["mode"] * 5
    assert modes(folder) == {0o600, 0o700}
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_a_link_that_takes_a_files_place_meanwhile_is_not_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write to the folder can't have somebody else's file changed by root."""
    outside = written(folder.parent / "outside", mode=0o644)
    (folder / "bad/file").symlink_to(outside)
    seen, lstat = written(folder.parent / "seen", mode=0o644).lstat(), os.lstat
    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", lambda path, **_: seen if str(path).endswith("bad/file") else lstat(path))
        [left] = repair.repair(folder)
    assert (left.path, left.did, os.strerror(errno.ELOOP) in left.detail) == (f"{folder}/bad/file", "left", True)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_a_file_that_goes_meanwhile_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all others are looked at."""
    for n in range(4):
        written(folder / f"bad/{n}", mode=0o644)
    lstat, gone = os.lstat, []

    def going(path: str) -> os.stat_result:
        if "/bad/" in path and not gone:
            gone.append(path)
            os.unlink(path)
        return lstat(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", going)
        assert [one.did for one in repair.repair(folder)] == ["mode"] * 3
    assert modes(folder) == {0o600, 0o700}


def test_what_the_dead_left_half_made_is_removed_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order; what a living process has, and what somebody else removed meanwhile, is not named."""
    free, held = written(folder / ".probe-00"), written(folder / ".probe-11")
    other = written(folder / "notes.probe-22")
    tmp = written(folder / f"segments/.{NAMES[0]}.tmp")
    parked = written(folder / f"dead/.{NAMES[0]}.tmp")
    lock = written(folder / "writers/7.00000000aa.lock")
    settled = written(folder / "segments" / NAMES[1])
    sweep = Folder.sweep

    def swept(self: Folder) -> None:
        os.unlink(settled)
        sweep(self)

    monkeypatch.setattr(Folder, "sweep", swept)
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        descriptors = len(os.listdir("/proc/self/fd"))
        assert repair.repair(folder) == [
            Repair(str(free), "removed", 0, "a dead process's probe"),
            Repair(str(parked), "removed", 0, "a dead writer's unfinished file"),
            Repair(str(tmp), "removed", 0, "a dead writer's unfinished file"),
            Repair(str(lock), "removed", 0, "a dead writer's lock"),
        ]
        assert len(os.listdir("/proc/self/fd")) == descriptors
    assert held.exists()
    assert other.exists()
    assert not free.exists()


def test_a_repair_tells_how_far_it_is(folder: Path) -> None:
    """After each name, also of what is no segment; and it looks at every segment behind such a one."""
    strangers = [written(folder / f"segments/{name}", b"noise") for name in (".0-7.aa-0.seg", "0.txt")]
    odd = written(folder / "segments/1.2-7.aa-000000.seg", b"noise")
    for part in ("segments", "dead"):
        for name in NAMES:
            written(folder / part / name, segment(event(0)))
    told: list[int] = []
    did = [(one.path, one.did) for one in repair.repair(folder, progress=told.append)]
    assert told == [1] * 9
    assert (str(odd), "set_aside") in did
    assert {path for path, what in did if what == "sealed"} == {
        f"{folder}/{part}/{name}" for part in ("segments", "dead") for name in NAMES
    }
    assert all(path.read_bytes() == b"noise" for path in strangers)


def test_segments_without_a_header_that_can_be_read_are_left_or_set_aside(folder: Path) -> None:
    """One that ends before its records is none; one of a newer release, or that somebody holds, is not touched."""
    short, newer, held = (folder / "segments" / name for name in NAMES)
    whole = bytearray(segment(event(0)))
    written(short, bytes(whole[: 2 * 4096 - 1]))
    whole[8] = 2
    written(newer, bytes(whole).replace(b'"version":1', b'"version":2'))
    written(held, b"noise")
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        did = repair.repair(folder)
    assert [(one.path, one.did, one.events) for one in did] == [
        (str(short), "set_aside", 0), (str(newer), "left", 0), (str(held), "left", 0),
    ]  # fmt: skip
    assert f"{folder}/bad/{NAMES[0]}.bad" in did[0].detail
    assert not did[0].detail.startswith("None")
    assert "2" in did[1].detail, "its version"
    assert did[2].detail == "somebody else has it"
    assert os.listdir(folder / "bad") == [f"{NAMES[0]}.bad"]
