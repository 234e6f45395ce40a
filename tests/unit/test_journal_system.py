"""What the journal's disk asks of the system, call by call, and on systems that lack one."""

import errno
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from eventpost.queues.journal import Disk
from eventpost.queues.journal import disk as disk_module

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
Asked = list[tuple[Any, ...]]


def watched(monkeypatch: pytest.MonkeyPatch, *names: str, fakes: Any = None) -> Asked:
    """Note the calls of these functions of the system; ``fakes``: what they do in its place."""
    asked: Asked = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **_: Any) -> Any:
            asked.append((name, *arguments))
            return real(*arguments, **_)

        return noted

    for name in names:
        monkeypatch.setattr(os, name, noting(name, fakes or getattr(os, name)))
    return asked


def nothing(*_: Any) -> None:
    """Stand for a call that this process may not make."""


OWNERS = [(None, None, ()), (None, 5, (-1, 5)), (7, None, (7, -1)), (7, 5, (7, 5))]
"""Whose a disk's new files are, their group, and how that is asked of the system."""


@pytest.mark.parametrize(("uid", "gid", "owner"), OWNERS)
def test_a_new_file_is_the_groups_once_it_is_that_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int | None, gid: int | None, owner: tuple[int, ...]
) -> None:
    """Made for its owner alone, then given away if it is to be, then opened to others; in a folder that is no link."""
    opened = watched(monkeypatch, "open", "close")
    given = watched(monkeypatch, "fchown", "fchmod", fakes=nothing)
    disk = Disk()
    disk.uid = uid
    fd = disk.create(f"{tmp_path}/file", 0o677, gid)
    assert given == [*([("fchown", fd, *owner)] if owner else []), ("fchmod", fd, 0o677)]
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    (_, folder, folder_flags), file, (_, inside) = opened
    assert (folder, folder_flags, file) == (str(tmp_path), FOLDER_FLAGS, ("open", "file", flags, 0o600))
    assert disk._descriptors == {fd}
    disk.close(fd)
    assert (inside != fd, opened[3:]) == (True, [("close", fd)])


@pytest.mark.parametrize(("uid", "gid", "owner"), OWNERS)
def test_a_new_folder_is_the_groups_once_it_is_that_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int | None, gid: int | None, owner: tuple[int, ...]
) -> None:
    """Likewise; by its descriptor, which goes."""
    opened = watched(monkeypatch, "mkdir", "open", "close")
    given = watched(monkeypatch, "fchown", "fchmod", fakes=nothing)
    disk, path = Disk(), f"{tmp_path}/folder"
    disk.uid = uid
    assert disk.make_folder(path, 0o2777, gid)
    (_, fd) = opened[-1]
    assert opened == [("mkdir", path, 0o700), ("open", path, FOLDER_FLAGS), ("close", fd)]
    assert given == [*([("fchown", fd, *owner)] if owner else []), ("fchmod", fd, 0o2777)]


@pytest.mark.parametrize("fails", ["fchown", "fchmod"])
def test_what_cannot_be_given_away_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Neither the file nor its descriptor."""

    def refuses(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    watched(monkeypatch, "fchown", fakes=nothing)
    monkeypatch.setattr(os, fails, refuses)
    disk = Disk()
    closed = watched(monkeypatch, "close")
    with pytest.raises(PermissionError):
        disk.create(f"{tmp_path}/file", 0o660, 5)
    assert (os.listdir(tmp_path), disk._descriptors, len(closed)) == ([], set(), 2)


def test_blocks_are_allocated_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written where they are to be synced often, or where the system can't allocate; all of them, and no more."""
    length = 3 * (1 << 18) - 5
    asked = watched(monkeypatch, "posix_fallocate", "pwrite")
    disk = Disk()
    for how in ("allocated", "written", "no such call"):
        fd = disk.create(f"{tmp_path}/{how}", 0o600, None)
        asked.clear()
        if how == "no such call":
            monkeypatch.delattr(os, "posix_fallocate")
            disk.fill_holes(fd, length)
            assert asked == []
        disk.allocate(fd, length, written=how == "written")
        if how == "allocated":
            assert asked == [("posix_fallocate", fd, 0, length)]
        else:
            assert {name for name, *_ in asked} == {"pwrite"}
            assert sum(len(data) for _, _, data, _ in asked) == length
        assert os.fstat(fd).st_size == length
        assert os.fstat(fd).st_blocks * 512 >= length
        assert disk.read(fd, length, 0) == bytes(length)
        disk.close(fd)


def test_holes_are_filled_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the length that is named."""
    asked = watched(monkeypatch, "posix_fallocate", fakes=nothing)
    Disk().fill_holes(3, 4096)
    assert asked == [("posix_fallocate", 3, 0, 4096)]


def test_a_sync_is_the_strongest_that_the_system_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fdatasync; fsync where that is not; on macOS the call that empties the drive's cache, too."""
    asked = watched(monkeypatch, "fdatasync", "fsync")
    disk = Disk()
    fd = disk.create(f"{tmp_path}/file", 0o600, None)
    disk.datasync(fd)
    monkeypatch.delattr(os, "fdatasync")
    disk.datasync(fd)
    apple = SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda *arguments: asked.append(("fcntl", *arguments)))
    monkeypatch.setattr(disk_module, "fcntl", apple)
    disk.datasync(fd)
    assert asked == [("fdatasync", fd), ("fsync", fd), ("fcntl", fd, 51)]
    disk.close(fd)


def test_the_names_in_a_folder_are_synced_by_its_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which goes, whether that could be done or not; what is no folder is none."""
    asked = watched(monkeypatch, "open", "fsync", "close")
    Disk().sync_folder(str(tmp_path))
    (_, fd) = asked[-1]
    assert asked == [("open", str(tmp_path), FOLDER_FLAGS), ("fsync", fd), ("close", fd)]
    asked.clear()

    def refuses(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Disk().sync_folder(str(tmp_path))
    assert [name for name, *_ in asked] == ["open", "close"]


@pytest.mark.parametrize(
    ("listing", "answer", "held", "signals"),
    [
        (errno.EACCES, None, True, 0), (errno.ENOENT, None, False, 0),
        ("macOS", None, True, 1), ("macOS", errno.ESRCH, False, 1), ("macOS", errno.EPERM, True, 1),
    ],
)  # fmt: skip
def test_a_process_that_cannot_be_looked_into_is_taken_to_hold_its_file(
    monkeypatch: pytest.MonkeyPatch, listing: int | str, answer: int | None, *, held: bool, signals: int
) -> None:
    """Another user's, or any where there is no /proc, if it lives; it is asked by a signal that is none."""

    def refuses(code: int) -> None:
        raise OSError(code, os.strerror(code))

    def list_none(_: str) -> None:
        refuses(errno.ENOENT if listing == "macOS" else int(listing))

    sent: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        sent.append((pid, number))
        if answer is not None:
            refuses(answer)

    monkeypatch.setattr(os, "listdir", list_none)
    monkeypatch.setattr(os, "kill", kill)
    if listing == "macOS":
        monkeypatch.setattr(os.path, "isdir", lambda _: False)
    found = Disk().is_held_unnamed(77, "7.aa.lock")
    monkeypatch.undo()
    assert (found, sent) == (held, [(77, 0)] * signals)


def loaded_anew() -> ModuleType:
    """Load the module once more, beside the one that is in use."""
    spec = importlib.util.spec_from_file_location(f"{disk_module.__package__}.disk_anew", disk_module.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_fork_falls_between_an_open_and_its_being_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the lock of what is opened, which parent and child let go; where none is possible, nothing does."""
    told: list[dict[str, Callable[[], None]]] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: told.append(hooks))
    module = loaded_anew()
    (hooks,) = told
    for after in ("after_in_parent", "after_in_child"):
        hooks["before"]()
        assert module.Disk.is_opening_here()
        hooks[after]()
        assert not module.Disk.is_opening_here()
    monkeypatch.delattr(os, "register_at_fork")
    assert not loaded_anew().Disk.is_opening_here()


def test_a_system_without_locks_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows loads the module all the same."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    assert loaded_anew().HAS_LOCKS is disk_module.HAS_LOCKS is True
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert loaded_anew().HAS_LOCKS is False
