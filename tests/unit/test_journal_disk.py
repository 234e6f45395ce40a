"""The way to the disk: what it opens, and how; what it makes of a system that does half of what it is asked."""

import errno
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from eventpost.queues.journal import Disk
from eventpost.queues.journal.disk import WrittenMap, reason_of


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the descriptors that are closed, as they are."""
    found: list[int] = []
    close = os.close

    def noted(fd: int) -> None:
        found.append(fd)
        close(fd)

    monkeypatch.setattr(os, "close", noted)
    return found


def is_open(fd: int) -> bool:
    """Tell whether this is a descriptor."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def error_of(work: Callable[[], object]) -> OSError:
    """Do what must fail; return how."""
    with pytest.raises(OSError, match=r".") as caught:
        work()
    assert caught.value.strerror
    return caught.value


def test_what_is_opened_to_be_read_cannot_be_changed(tmp_path: Path) -> None:
    """Nor need it be writable; what is opened without a word can be."""
    path, disk = tmp_path / "file", Disk()
    path.write_bytes(b"as it was")
    fd = disk.open(str(path), write=False)
    with pytest.raises(OSError, match="Bad file descriptor") as refused:
        disk.write(fd, b"changed", 0)
    assert (refused.value.errno, disk.read(fd, 99, 0)) == (errno.EBADF, b"as it was")
    disk.close(fd)
    fd = disk.open(str(path))
    disk.write(fd, b"is changed", 0)
    disk.close(fd)
    assert path.read_bytes() == b"is changed"


def test_what_is_no_regular_file_is_neither_opened_nor_waited_for(tmp_path: Path, closed: list[int]) -> None:
    """A pipe has nobody at its other end, a folder can be read; the error names it, and no descriptor stays."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    disk = Disk()
    for name, write in (("pipe", False), ("pipe", True), ("folder", False)):
        path = str(tmp_path / name)
        error = error_of(lambda path=path, write=write: disk.open(path, write=write))  # type: ignore[misc]  # bound here
        assert (error.errno, error.filename) == (errno.EINVAL, path)
        assert (disk._descriptors, len(closed)) == (set(), 2)  # the folder that it lies in, and it
        closed.clear()
    error = error_of(lambda: disk.open(f"{tmp_path}/none"))
    assert (error.errno, error.filename, len(closed)) == (errno.ENOENT, f"{tmp_path}/none", 1)


def test_no_link_is_followed_inside_the_folder(tmp_path: Path) -> None:
    """Neither in the last place of a name nor in the one before; what lies behind it stays as it is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(b"theirs")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/other").symlink_to("file")
    disk, real, link = Disk(), f"{tmp_path}/real", f"{tmp_path}/link"
    for work in (
        lambda: disk.open(f"{link}/file", write=False), lambda: disk.open(f"{real}/other"),
        lambda: disk.create(f"{link}/new", 0o600, None), lambda: disk.create(f"{real}/other", 0o600, None),
        lambda: disk.rename(f"{link}/file", f"{real}/x"), lambda: disk.rename(f"{real}/file", f"{link}/x"),
        lambda: disk.unlink(f"{link}/file"), lambda: disk.sync_folder(link),
        lambda: disk.make_folder(link, 0o700, None),
    ):  # fmt: skip
        assert error_of(work).errno in {errno.ELOOP, errno.ENOTDIR, errno.EEXIST}
    for work in (lambda: disk.unlink(f"{link}/file"), lambda: disk.make_folder(link, 0o700, None)):
        error = error_of(work)
        assert (error.errno, error.filename, error.strerror != os.strerror(errno.ELOOP)) == (errno.ELOOP, link, True)
    assert sorted(os.listdir(real)) == ["file", "other"]
    assert (disk.names(link), disk.names(real)) == ([], ["file", "other"])
    assert disk.size(f"{real}/other") == len("file")
    assert disk._descriptors == set()


def test_what_is_gone_is_nothing_and_no_error(tmp_path: Path) -> None:
    """Also where a part of its path is a file."""
    (tmp_path / "file").write_bytes(b"12345")
    os.utime(tmp_path / "file", ns=(1, 2_000_000_003))
    disk = Disk()
    for path in (f"{tmp_path}/none", f"{tmp_path}/none/none", f"{tmp_path}/file/none"):
        assert (disk.names(path), disk.size(path), disk.changed_ns(path)) == ([], 0, 0)
    disk.unlink(f"{tmp_path}/none")
    disk.unlink(f"{tmp_path}/none/none")
    file = f"{tmp_path}/file"
    assert (disk.names(file), disk.size(file), disk.changed_ns(file)) == ([], 5, 2_000_000_003)
    disk.rename(file, f"{tmp_path}/new")
    assert disk.names(str(tmp_path)) == ["new"]
    disk.unlink(f"{tmp_path}/new")
    for name in ("b", "c", "a"):
        (tmp_path / name).touch()
    assert disk.names(str(tmp_path)) == ["a", "b", "c"]


def test_a_name_that_is_another_files_now_is_not_the_one_that_is_held(tmp_path: Path) -> None:
    """A lock on what was unlinked guards nothing."""
    disk, path = Disk(), f"{tmp_path}/lock"
    fd = disk.create(path, 0o600, None)
    assert disk.still_named(fd, path)
    os.rename(path, f"{tmp_path}/away")
    assert not disk.still_named(fd, path)
    (tmp_path / "lock").touch()
    assert not disk.still_named(fd, path)
    assert disk.still_named(fd, f"{tmp_path}/away")
    disk.close(fd)


def test_a_lock_is_had_at_once_or_not_unless_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time; what else is wrong is an error."""
    import fcntl

    disk, path = Disk(), f"{tmp_path}/lock"
    fd, other = disk.create(path, 0o600, None), disk.open(path)
    assert (disk.lock(fd), disk.lock(fd), disk.lock(other)) == (True, True, False)
    disk.close(fd)
    assert disk.lock(other, wait=True)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: asked.append(arguments))
    assert disk.lock(5, wait=True)
    assert disk.lock(6)
    assert asked == [(5, fcntl.LOCK_EX), (6, fcntl.LOCK_EX | fcntl.LOCK_NB)]
    monkeypatch.undo()
    disk.close(other)
    assert error_of(lambda: disk.lock(other)).errno == errno.EBADF


@pytest.mark.parametrize("mapped", [False, None])
def test_a_window_shows_and_changes_the_first_bytes(tmp_path: Path, *, mapped: bool | None) -> None:
    """Mapped or not; what was stored stays, and the window needs no descriptor but its own."""
    disk, path = Disk(mapped=mapped), tmp_path / "file"
    fd = disk.create(str(path), 0o600, None)
    disk.write(fd, b"0123456789", 0)
    window = disk.map(fd, 10)
    assert isinstance(window, WrittenMap if mapped is False else mmap.mmap)
    disk.close(fd)
    assert (window[0:3], window[:3], window[4:7], window[9:10]) == (b"012", b"012", b"456", b"9")
    window[0:2] = b"ab"
    window[5:8] = b"xyz"
    window.close()
    assert path.read_bytes() == b"ab234xyz89"


def test_a_window_without_a_mapping_closes_its_descriptor_once(
    tmp_path: Path, closed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told to, or nobody has it any more; also the descriptor 0 of a process without standard input."""
    disk = Disk(mapped=False)
    fd = disk.create(f"{tmp_path}/file", 0o600, None)
    closed.clear()
    for told in (True, False):
        window = disk.map(fd, 4)
        assert isinstance(window, WrittenMap)
        own = window._fd
        assert own != fd
        if told:
            window.close()
            window.close()
            assert closed == [own]
        del window
        assert closed == [own]
        closed.clear()
    monkeypatch.setattr(os, "close", closed.append)
    monkeypatch.setattr(os, "dup", lambda _: 0)
    disk.map(fd, 4).close()
    assert closed == [0]
    monkeypatch.undo()
    disk.close(fd)


def test_a_system_that_does_a_part_is_asked_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a read or a write; not a byte more than was asked, and what ends there ends."""
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 3), at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:3], at))
    path = tmp_path / "file"
    disk = Disk(mapped=False)
    fd = disk.create(str(path), 0o600, None)
    disk.write(fd, b"0123456789", 5)
    window = disk.map(fd, 15)
    window[7:12] = b"abcde"
    assert path.read_bytes() == bytes(5) + b"01abcde789"
    assert window[6:13] == disk.read(fd, 7, 6) == b"1abcde7"
    assert (disk.read(fd, 99, 9), disk.read(fd, 99, 15), disk.read(fd, 0, 0)) == (b"cde789", b"", b"")
    disk.close(fd)


def test_a_length_from_a_damaged_place_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two GiB, what is there is read; beyond the end there is nothing."""
    asked: list[int] = []
    pread = os.pread

    def noted(fd: int, length: int, at: int) -> bytes:
        asked.append(length)
        return pread(fd, length, at)

    disk = Disk()
    fd = disk.create(f"{tmp_path}/file", 0o600, None)
    disk.write(fd, b"0123456789", 0)
    monkeypatch.setattr(os, "pread", noted)
    assert (disk.read(fd, 1 << 31, 4), disk.read(fd, 1 << 31, 10), disk.read(fd, 1 << 31, 99)) == (b"456789", b"", b"")
    assert max(asked) == 6
    disk.truncate(fd, 3 << 20)
    assert len(disk.read(fd, 2 << 20, 4)) == 2 << 20
    assert len(disk.read(fd, 9 << 20, 4)) == (3 << 20) - 4
    disk.close(fd)


def test_a_childs_disk_lets_go_of_all_that_it_inherited(tmp_path: Path) -> None:
    """Files, their duplicates, and windows, of whatever kind; what cannot be closed does not keep the rest open."""
    for mapped in (False, None):
        disk = Disk(mapped=mapped)
        fds = [disk.create(f"{tmp_path}/{mapped}{number}", 0o600, None) for number in range(3)]
        fds.append(disk.duplicate(fds[0]))
        assert disk._descriptors == set(fds)
        assert len(set(fds)) == 4
        disk.allocate(fds[0], 8192, written=False)
        windows = [disk.map(fds[0], 8192) for _ in range(2)]
        used = memoryview(windows[0] if isinstance(windows[0], mmap.mmap) else b"\0")
        os.close(fds[1])  # as a library might
        disk.forget()
        assert [fd for fd in fds if is_open(fd)] == []
        with pytest.raises((ValueError, OSError)):
            windows[1][0:1]
        assert used[0] == 0  # of a mapping: it can't go while somebody looks at it
        used.release()
        assert (disk._descriptors, len(disk._maps)) == (set(), 0)


def test_where_an_allocation_promises_nothing_holes_stay(tmp_path: Path) -> None:
    """Elsewhere they get blocks, and no byte changes."""
    for mapped in (None, True, False):
        path = tmp_path / str(mapped)
        path.write_bytes(b"x" * 5000)
        os.truncate(path, 1 << 16)
        disk = Disk(mapped=mapped)
        fd = disk.open(str(path))
        disk.fill_holes(fd, 1 << 16)
        assert (os.fstat(fd).st_blocks * 512 >= 1 << 16) is (mapped is not False)
        disk.close(fd)
        assert path.read_bytes() == b"x" * 5000 + bytes((1 << 16) - 5000)


def test_a_file_that_is_held_unnamed_is_found(tmp_path: Path) -> None:
    """By its name, in the process that has it open; one that lives without it, or is gone, has it not."""
    disk = Disk()
    fd = disk.create(f"{tmp_path}/7.aa.lock", 0o600, None)
    mine = os.getpid()
    assert not disk.is_held_unnamed(mine, "7.aa.lock")
    disk.unlink(f"{tmp_path}/7.aa.lock")
    assert disk.is_held_unnamed(mine, "7.aa.lock")
    assert not disk.is_held_unnamed(mine, "a.lock")
    assert not disk.is_held_unnamed(1 << 23, "7.aa.lock")
    disk.close(fd)
    assert not disk.is_held_unnamed(mine, "7.aa.lock")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.ENOENT, "folder_gone"),
        (errno.ENOTDIR, "folder_gone"), (errno.EACCES, "permission"), (errno.EPERM, "permission"),
        (errno.EROFS, "permission"), (errno.EMFILE, "no_descriptors"), (errno.ENFILE, "no_descriptors"),
        (errno.EIO, "disk"), (None, "disk"),
    ],
)  # fmt: skip
def test_what_a_disk_raises_has_a_word_in_the_ledger(code: int | None, reason: str) -> None:
    """One that nobody thought of is the disk's."""
    assert reason_of(OSError() if code is None else OSError(code, os.strerror(code))) == reason


def test_what_is_made_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    """A folder that is there keeps its own."""
    before = os.umask(0o077)
    try:
        disk = Disk()
        disk.close(disk.create(f"{tmp_path}/file", 0o640, None))
        assert disk.make_folder(f"{tmp_path}/folder", 0o2750, None) is True
        assert disk.make_folder(f"{tmp_path}/folder", 0o700, None) is False
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder")]
    assert modes == [0o640, 0o2750]
