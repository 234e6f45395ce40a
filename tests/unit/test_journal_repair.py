"""What a repair says of what it can't mend, and where it puts what it sets aside."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support import event

from eventpost.queues.journal import JournalQueue, inspect, repair
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.repair import Repair

SEGMENT = "0000000000001-7.aa-000000.seg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with a segment that is none."""
    JournalQueue(tmp_path).close()
    (tmp_path / "segments" / SEGMENT).write_bytes(b"noise" * 1000)
    (tmp_path / "segments" / SEGMENT).chmod(0o600)
    return tmp_path


def test_a_segment_without_a_header_is_set_aside_by_its_name(folder: Path) -> None:
    """Where a person finds it."""
    said = repair.repair(folder)
    assert os.listdir(folder / "bad") == [f"{SEGMENT}.bad"]
    assert Repair(
        f"{folder}/segments/{SEGMENT}", "set_aside", 0,
        f"not a segment: its first bytes are not a segment's; it is {folder}/bad/{SEGMENT}.bad now, and its events "
        "cannot be counted",
    ) in said  # fmt: skip


def test_what_somebody_holds_is_left_and_named(folder: Path) -> None:
    """Its writer, who lives, or somebody who has it in hand."""
    path = f"{folder}/segments/{SEGMENT}"
    with open(path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert Repair(path, "left", 0, "somebody else has it") in repair.repair(folder)
    with open(f"{folder}/writers/7.aa.lock", "w") as held:
        os.fchmod(held.fileno(), 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        [said] = [one for one in repair.repair(folder) if one.path == path]
    assert said == Repair(path, "left", 0, "its writer lives, and mends it itself as far as that can be done")


def test_what_the_disk_refuses_is_left_and_the_rest_is_mended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk's own words."""

    def refuses(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (folder / "totals.json").write_bytes(b"{")
    (folder / "totals.json").chmod(0o644)
    totals, path, fchmod = (folder / "totals.json").stat().st_ino, f"{folder}/segments/{SEGMENT}", os.fchmod
    with monkeypatch.context() as patched:
        patched.setattr(os, "fchmod", lambda fd, mode: (refuses if os.fstat(fd).st_ino == totals else fchmod)(fd, mode))
        patched.setattr(repair, "_segment", refuses)
        said = repair.repair(folder)
    assert Repair(f"{folder}/totals.json", "left", 0, "its mode cannot be put right: Input/output error") in said
    assert Repair(path, "left", 0, "cannot be mended: Input/output error") in said


def test_what_it_removes_and_what_it_does_not_follow_is_named(folder: Path) -> None:
    """By its whole path; no event is counted for either."""
    (folder / ".probe-0011").write_bytes(b"")
    (folder / "bad/link").symlink_to(folder)
    said = repair.repair(folder)
    assert Repair(f"{folder}/.probe-0011", "removed", 0, "a dead process's probe") in said
    assert Repair(f"{folder}/bad/link", "left", 0, "a symbolic link; look who made it, and remove it") in said
    assert not (folder / ".probe-0011").exists()


def test_half_a_record_is_cut_off_and_said(tmp_path: Path) -> None:
    """Where it began, and where its bytes are; what was whole stays, and no event is lost."""
    queue = JournalQueue(tmp_path)
    queue.put([event(0), event(1)])
    queue.after_fork_in_child()  # as kill -9 would end it
    [path] = (tmp_path / "segments").iterdir()
    data = path.read_bytes()
    at = data.index(event(1).payload) - fmt.FRAME_HEAD_BYTES
    path.write_bytes(data[: at + fmt.FRAME_HEAD_BYTES + 8].ljust(len(data), b"\0"))
    said = repair.repair(tmp_path)
    assert [one for one in said if one.path == str(path)] == [
        Repair(str(path), "sealed", 0, "its writer is dead: 1 events"),
        Repair(
            str(path), "cut", 0, f"half a record at {at:,}: its put never returned; kept in {tmp_path}/bad",
        ),
    ]  # fmt: skip
    assert path.stat().st_size == at
    assert (tmp_path / f"bad/{path.name}-{at}.bad").read_bytes() == data[at : at + fmt.FRAME_HEAD_BYTES + 8]
    assert inspect.folder_status(tmp_path).queued == 1


def test_totals_that_somebody_is_at_are_left_and_named(folder: Path) -> None:
    """They are begun anew by the next repair."""
    (folder / "totals.json").write_bytes(b"{")
    path = f"{folder}/totals.json"
    with open(folder / "totals.lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert Repair(path, "left", 0, "somebody else is at it") in repair.repair(folder)
    assert (folder / "totals.json").read_bytes() == b"{"
    assert Repair(path, "totals", 0, f"begun anew; the old bytes are in {folder}/bad") in repair.repair(folder)
