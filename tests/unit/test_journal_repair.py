"""What a repair says of what it can't mend, and where it puts what it sets aside."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from eventpost.queues.journal import JournalQueue, repair
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
