"""The one small object through which the journal reaches a disk; exchangeable by argument, so that a test can break it.

Every method is one step whose failure is an ``OSError``.  Symbolic links are never followed inside the folder, new
files are private whatever the umask says, and no descriptor survives an exec (Python's default, PEP 446).

Stores go to a shared mapping of blocks that were allocated first: such a store survives the death of the process as a
``write`` does, but it is no system call, so a thread that stores never gives up the GIL (beside a CPU-bound thread, a
``write`` took 5 ms at p99).  A full disk shows when the blocks are allocated, with an error, and not at the store,
with a signal.  Where allocation promises nothing (copy-on-write and FUSE file systems), :class:`WrittenMap` stores with
``pwrite`` instead.

Forks.  A flock belongs to what ``open`` returned, and a forked child shares that: it must close what it inherited, or
the lock outlives its holder; also what another thread had open for just this moment (a probe of a dead writer's lock,
say).  So the object knows its descriptors and mappings, and no fork falls between an ``open`` and its being noted.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol
from weakref import WeakSet

from ...sender.primitives import RLock

try:
    import fcntl
except ImportError:  # Windows: JournalQueue's constructor says what to use instead
    fcntl = None  # type: ignore[assignment]  # absent on Windows only
HAS_LOCKS: Final = hasattr(fcntl, "flock")

_ZEROS: Final = bytes(1 << 18)
_READ_BYTES_CHECKED: Final = 1 << 20
_opening = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release)

_REASONS: Final = {
    errno.ENOSPC: "disk_full", errno.EDQUOT: "disk_full", errno.ENOENT: "folder_gone", errno.ENOTDIR: "folder_gone",
    errno.EACCES: "permission", errno.EPERM: "permission", errno.EROFS: "permission", errno.EMFILE: "no_descriptors",
    errno.ENFILE: "no_descriptors",
}  # fmt: skip


class Map(Protocol):
    """A window on a file's first bytes: slices are read and stored like a bytearray's."""

    def __getitem__(self, key: slice, /) -> bytes: ...
    def __setitem__(self, key: slice, value: bytes, /) -> None: ...
    def close(self) -> None:
        """Let the window go; what was stored stays."""
        ...


class WrittenMap:
    """A Map that stores with ``pwrite``, for file systems on which a mapping can't be trusted when the disk fills."""

    __slots__ = ("__weakref__", "_fd")

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def __getitem__(self, key: slice, /) -> bytes:
        """Read a slice."""
        return _read_all(self._fd, key.stop - (key.start or 0), key.start or 0)

    def __setitem__(self, key: slice, value: bytes, /) -> None:
        """Store a slice; raises OSError, after which what is stored there may be any part of it."""
        at, view = key.start or 0, memoryview(value)
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written

    def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        """Go with the last reference, as a mapping does; what it leaves open would hold a segment's flock, too."""
        self.close()


def _read_all(fd: int, length: int, at: int) -> bytes:
    data = os.pread(fd, length, at)
    while data and len(data) < length:
        more = os.pread(fd, length - len(data), at + len(data))
        if not more:
            break
        data += more
    return data


class Disk:
    """A local file system.  ``mapped`` None: decide by the file system's type; True or False: as told.

    ``is_opening_here()`` tells whether this thread is in the middle of an open, a close or a fork, where others wait
    for it; each put asks, so it is C's own function.
    """

    is_opening_here: Callable[[], bool] = staticmethod(_opening._is_owned)  # noqa: SLF001 - C's RLock has no other name

    def __init__(self, *, mapped: bool | None = None) -> None:
        self.mapped = mapped
        self.uid: int | None = None
        """Who new files belong to, where root works in another user's folder; None: the process's user."""
        self._descriptors: set[int] = set()
        self._maps: WeakSet[Map] = WeakSet()

    def _open(self, path: str, flags: int, mode: int = 0) -> int:
        folder, name = os.path.split(path)
        with _opening:
            # The folder apart: O_NOFOLLOW is about the last name, and segments/ itself may be a link that was planted.
            inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fd = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=inside)
            except OSError as error:
                error.filename = path
                raise
            finally:
                os.close(inside)
            self._descriptors.add(fd)
        return fd

    def create(self, path: str, mode: int, gid: int | None) -> int:
        """Make a new file, readable and writable; raises FileExistsError.  ``gid`` None: the process's group."""
        fd = self._open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode & 0o600)  # the group's part once it is the group
        try:
            if gid is not None or self.uid is not None:
                os.fchown(fd, -1 if self.uid is None else self.uid, -1 if gid is None else gid)
            os.fchmod(fd, mode)
        except OSError:
            self.close(fd)
            self.unlink(path)
            raise
        return fd

    def open(self, path: str, *, write: bool = True) -> int:
        """Open an existing regular file."""
        fd = self._open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            self.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", path)
        return fd

    def duplicate(self, fd: int) -> int:
        """Return another descriptor of the same open file."""
        with _opening:
            other = os.dup(fd)
            self._descriptors.add(other)
        return other

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        with _opening:
            self._descriptors.discard(fd)
            os.close(fd)

    def forget(self) -> None:
        """In a forked child: close all that the parent had open, without unlocking and without touching a file."""
        with _opening:
            for mapped in list(self._maps):  # a mapping holds a descriptor of its own, and that one the flock
                with suppress(BufferError):
                    mapped.close()
            for fd in self._descriptors:
                with suppress(OSError):
                    os.close(fd)
            self._maps.clear()
            self._descriptors.clear()

    def allocate(self, fd: int, length: int, *, written: bool) -> None:
        """Give a file blocks of its own up to ``length``; raises OSError(ENOSPC) if there are none.

        ``written``: by writing zeros.  Blocks that are only allocated cost every first sync a change of the file
        system's own records (ext4 and xfs mark them as written then), which is many times the sync of the bytes.
        """
        if hasattr(os, "posix_fallocate") and not written:
            os.posix_fallocate(fd, 0, length)
        else:  # macOS has no such call
            for at in range(0, length, len(_ZEROS)):
                self.write(fd, _ZEROS[: length - at], at)

    def fill_holes(self, fd: int, length: int) -> None:
        """Give blocks to what has none in the first ``length`` bytes, changing nothing; raises OSError(ENOSPC)."""
        if self.mapped is not False and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, length)

    def map(self, fd: int, length: int) -> Map:
        """Return a window on the first ``length`` bytes."""
        with _opening:
            window: Map = WrittenMap(fd) if self.mapped is False else mmap.mmap(fd, length)
            self._maps.add(window)
        return window

    def read(self, fd: int, length: int, at: int) -> bytes:
        """Read up to ``length`` bytes at an offset; fewer at the end of the file."""
        if length > _READ_BYTES_CHECKED:  # it may come from a damaged place, and memory is taken for all of it first
            length = max(0, min(length, os.fstat(fd).st_size - at))
        return _read_all(fd, length, at)

    def write(self, fd: int, data: bytes, at: int) -> None:
        """Write all of ``data`` at an offset."""
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written

    def truncate(self, fd: int, length: int) -> None:
        """Cut a file."""
        os.ftruncate(fd, length)

    def datasync(self, fd: int) -> None:
        """Return once a file's bytes, and what is needed to read them, are on the device."""
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync alone stops at the drive's cache
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        elif hasattr(os, "fdatasync"):
            os.fdatasync(fd)
        else:
            os.fsync(fd)

    def sync_folder(self, path: str) -> None:
        """Return once the names in a folder are on the device."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, fd: int, *, wait: bool = False) -> bool:
        """Take a file's exclusive flock; False: somebody has it.  The kernel lets it go with the last descriptor."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def still_named(self, fd: int, path: str) -> bool:
        """Tell whether ``path`` still names the file behind ``fd``: a lock on an unlinked file guards nothing."""
        held = os.fstat(fd)
        try:
            named = os.lstat(path)
        except FileNotFoundError:
            return False
        return held.st_nlink > 0 and (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)

    def is_held_unnamed(self, pid: int, name: str) -> bool:
        """Tell whether a process still has a file open whose name somebody removed; where that can't be told: True.

        ``pid`` is one of this machine and of this process's own namespace; another container's is not seen.
        """
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            return True  # another user's
        except OSError:
            if os.path.isdir("/proc/self/fd"):
                return False
            try:  # no /proc, as on macOS
                os.kill(pid, 0)
            except OSError as error:
                return error.errno == errno.EPERM
            return True
        for descriptor in descriptors:
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}").endswith(f"/{name} (deleted)"):
                    return True
        return False

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what is there."""
        for path in (old, new):
            _refuse_link(os.path.dirname(path))
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """Remove a name; a name that is gone already is no error."""
        try:
            _refuse_link(os.path.dirname(path))
            os.unlink(path)
        except FileNotFoundError:
            return

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, in order; a folder that is gone has none, nor has a link in its place."""
        try:
            return [] if os.path.islink(path) else sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def changed_ns(self, path: str) -> int:
        """Return when a folder's names last changed; 0 if it is gone."""
        try:
            return os.stat(path).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def size(self, path: str) -> int:
        """Return a file's size in bytes; 0 if it is gone."""
        try:
            return os.lstat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def make_folder(self, path: str, mode: int, gid: int | None) -> bool:
        """Make a folder if it is not there; its mode is set only when made here, which the answer tells."""
        try:
            os.mkdir(path, mode & 0o700)
        except FileExistsError:
            _refuse_link(path)
            return False
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # not by its name: it may be another's by now
        try:
            if gid is not None or self.uid is not None:
                os.fchown(fd, -1 if self.uid is None else self.uid, -1 if gid is None else gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        return True


def _refuse_link(path: str) -> None:
    """Raise if a part of the folder is a symbolic link: what lies behind it is nobody's journal."""
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link, which is not followed; look who made it, and remove it", path)


def reason_of(error: OSError) -> str:
    """Return the ledger's word for what a disk raised."""
    return _REASONS.get(error.errno or 0, "disk")
