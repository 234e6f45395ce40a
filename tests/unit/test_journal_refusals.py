"""What JournalQueue's constructor says no to, and the remedy that it names."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventpost import JournalQueue
from eventpost.errors import JournalUnusable
from eventpost.queues.journal import folder as folder_module
from eventpost.queues.journal.filesystem import NETWORK_FS
from support import HookedDisk, event, missing

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that lies where every user may go, unlike pytest's own."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    (root / "journal").mkdir(mode=0o700)
    yield root / "journal"
    (root / "journal").chmod(0o700)
    shutil.rmtree(root)


def refusal(path: Path, uid: int) -> str:
    """Return what a user hears who makes a JournalQueue there; "" if it can be used."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            if uid != os.geteuid():
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            JournalQueue(path)
        except JournalUnusable as error:
            os.write(write, str(error).encode())
        except BaseException as error:
            os.write(write, f"not JournalUnusable: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def test_a_read_only_folder(folder: Path) -> None:
    """Its own user may not write to it: owner, mode, who asks, and the remedy.  With the mode mended it can be used."""
    uid = os.geteuid() or NOBODY  # to root no mode is an obstacle
    os.chown(folder, uid, -1)
    folder.chmod(0o500)
    said = refusal(folder, uid)
    assert said.startswith(f"{folder}: belongs to uid {uid} with mode 0500; uid {uid} can't: ")
    assert "chown it" in said
    folder.chmod(0o700)
    assert refusal(folder, uid) == ""


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_another_users_folder(folder: Path, mode: int) -> None:
    """Owner, mode, who asks, and both remedies: make it one's own, or share it."""
    if os.geteuid():
        missing("root, to become another user")
    folder.chmod(mode)
    said = refusal(folder, NOBODY)
    assert said.startswith(f"{folder}: belongs to uid 0 with mode {mode:04o}; uid {NOBODY} can't: chown it, or share")
    assert "group=" in said
    assert "chmod 2770" in said
    assert refusal(folder, 0) == ""


def test_a_journal_of_another_user(folder: Path) -> None:
    """One that is in use: it was root's, and another user is told so, whatever the folder above allows."""
    if os.geteuid():
        missing("root, to become another user")
    queue = JournalQueue(folder)
    queue.put([event(1)])
    queue.close()
    assert "belongs to uid 0 with mode 0700" in refusal(folder, NOBODY)


@pytest.mark.parametrize("below", ["", "/a/b"])
def test_not_a_folder(folder: Path, below: str) -> None:
    """A file in its place, or in the place of a folder above it."""
    file = folder / "file"
    file.write_text("x")
    with pytest.raises(JournalUnusable, match=re.escape(f"{file}{below}") + ".* a file; choose another folder"):
        JournalQueue(f"{file}{below}")
    assert file.read_text() == "x"


@pytest.mark.parametrize("kind", sorted(NETWORK_FS))
def test_a_network_file_system(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by its name, and taken if its user says so."""
    monkeypatch.setattr(folder_module, "file_system_of", lambda _path: kind)
    with pytest.raises(JournalUnusable, match=rf"network file system \({kind}\).*local disk.*allow_network_fs=True"):
        JournalQueue(folder)
    queue = JournalQueue(folder, allow_network_fs=True)
    queue.put([event(1)])
    queue.close()


def test_who_looks_at_a_journal_need_not_say_that_its_file_system_will_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever put events there has said so: the commands work on them."""
    JournalQueue(folder).close()
    monkeypatch.setattr(folder_module, "file_system_of", lambda _path: "nfs4")
    assert folder_module.open_folder(folder).path == os.path.realpath(folder)


@pytest.mark.parametrize("part", ["segments", "dead", "bad", "writers"])
def test_a_part_that_is_a_link(folder: Path, part: str) -> None:
    """It is named, and what to do; nothing is made behind it."""
    (folder / "elsewhere").mkdir()
    (folder / part).symlink_to(folder / "elsewhere")
    with pytest.raises(JournalUnusable) as refused:
        JournalQueue(folder)
    said = "is a symbolic link, which is not followed; look who made it, and remove it"
    assert str(refused.value) == f"{os.path.realpath(folder)}: {os.path.realpath(folder)}/{part} {said}"
    assert list((folder / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks(folder: Path, number: int) -> None:
    """``flock`` that fails is noticed at once, not at the first event; nothing is left behind."""
    disk = HookedDisk()

    def refuse(*_arguments: object, **_named: object) -> None:
        raise OSError(number, os.strerror(number))

    disk.hooks["lock"] = refuse
    with pytest.raises(JournalUnusable, match=rf"{os.strerror(number)}.*file locks.*local disk"):
        JournalQueue(folder, disk=disk)
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bytes_max", 1), ("segment_bytes_max", 1), ("block_timeout_s", -1), ("sync_interval_s", -1),
        ("scan_interval_s", 0), ("dead_bytes_max", 0), ("dead_age_max_s", -1),
    ],
)  # fmt: skip
def test_an_argument_out_of_its_range(folder: Path, name: str, value: int) -> None:
    """Which one, and what it was; nothing is made for it."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"^{name}={value}: must be at least "):
        JournalQueue(folder, **options)
    assert os.listdir(folder) == []
