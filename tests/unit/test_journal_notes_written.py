"""What lies in a journal's folder beside its segments: written aside, safe before it has its name, read by anybody."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import orjson
import pytest
from tests.unit.test_journal_home import Log, folder_in
from tests.unit.test_journal_status import lies, name, put

from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import BadHeader, Outcome


@pytest.fixture
def disk() -> Log:
    """Give one that notes nothing yet."""
    return Log()


@pytest.fixture
def folder(tmp_path: Path, disk: Log) -> Folder:
    """Give a folder."""
    return folder_in(tmp_path / "j", disk)


def test_a_note_is_whole_and_safe_before_it_has_its_name(folder: Folder) -> None:
    """What another left half written is in nobody's way; the old note is there until the new one is."""
    disk = Log("unlink", "create", "write", "datasync", "close", "rename")
    folder.disk = disk
    Path(folder.path, ".x.tmp").write_bytes(b"half of it, and longer than the note")
    Path(folder.path, "x.json").write_bytes(b"old")
    folder.write_note("x.json", {"a": 1})
    temporary, (fd, *_) = f"{folder.path}/.x.tmp", [one[1] for one in disk.log if one[0] == "write"]
    assert disk.log == [
        ("unlink", temporary), ("create", temporary, 0o600, None), ("write", fd, b'{"a":1}', 0), ("datasync", fd),
        ("close", fd), ("rename", temporary, f"{folder.path}/x.json"),
    ]  # fmt: skip
    assert folder.read_note("x.json") == b'{"a":1}'
    disk.fails("datasync", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        folder.write_note("x.json", {"a": 2})
    assert (folder.read_note("x.json"), disk.open_files) == (b'{"a":1}', 0)


def test_a_note_is_read_by_who_may_only_read_it(folder: Folder, disk: Log) -> None:
    """None where there is none; and it leaves nothing open."""
    disk.hooks["open"] = lambda path, *, write=True: disk.log.append((os.path.basename(path), write))
    assert folder.read_note("none.json") is None
    Path(folder.path, "x.json").write_bytes(orjson.dumps({"pad": "x" * 100_000}))
    assert orjson.loads(folder.read_note("x.json") or b"") == {"pad": "x" * 100_000}
    assert disk.log == [("none.json", False), ("x.json", False)]
    disk.fails("read", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        folder.read_note("x.json")
    assert disk.open_files == 0


def test_the_notes_lock_is_had_at_once_or_not(folder: Folder, disk: Log) -> None:
    """And let go whatever happens under it."""
    path = Path(folder.path, "totals.lock")
    for _ in range(2):
        with folder.notes_lock() as locked, path.open("rb") as file:
            assert locked
            with folder.notes_lock() as again:
                assert not again
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(ZeroDivisionError), folder.notes_lock():
        raise ZeroDivisionError
    assert disk.open_files == 0


def test_what_is_set_aside_lies_where_it_is_said(folder: Folder, disk: Log) -> None:
    """By its segment and place; what lies there already is kept, and what cannot be written is said to be nowhere."""
    path = f"{folder.bad}/s-7.bad"
    assert folder.set_aside("s", 7, b"bytes") == path
    assert folder.set_aside("s", 7, b"others") == path
    assert Path(path).read_bytes() == b"bytes"
    disk.fails("write", errno.ENOSPC)
    assert folder.set_aside("s", 8, b"bytes") == ""
    disk.fails("create", errno.ENOSPC)
    assert (folder.set_aside("s", 9, b"x"), folder.set_aside("s", 7, b"x")) == ("", path)
    assert disk.open_files == 0


# -- headers


def test_headers_and_outcomes_are_read_by_who_may_only_read_them(folder: Folder, tmp_path: Path, disk: Log) -> None:
    """Of more than one page, too; outcomes up to the last; a segment that is gone is None."""
    lies(tmp_path / "j", 1, put(0), put(1), outcomes=[Outcome.DELIVERED, *[0] * 4094, Outcome.DEAD], lane="u" * 5000)
    path = f"{folder.segments}/{name(1)}"
    disk.hooks["open"] = lambda _, *, write=True: disk.log.append((write,))
    found = folder.read_outcomes(path)
    assert found is not None
    assert found == (folder.read_header(path), {Outcome.DELIVERED: 1, Outcome.DEAD: 1})
    assert (found[0].lane, found[0].header_pages) == ("u" * 5000, 2)
    assert folder.read_outcomes(f"{path}x") is None
    with pytest.raises(FileNotFoundError):
        folder.read_header(f"{path}x")
    Path(path).write_bytes(b"noise")
    for read in (folder.read_outcomes, folder.read_header):
        with pytest.raises(BadHeader):
            read(path)
    assert set(disk.log) == {(False,)}
    assert disk.open_files == 0
