"""The journal's ``Disk`` on a file system in memory: the one small object through which files are reached.

Each call of a :class:`ModelDisk` counts.  A :class:`Trap` springs at one of them: the process dies there (before it, or
in the middle of a store), the call fails, or another process does something just then.  A process that is dead
changes nothing any more, whatever its exception handlers try.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from eventpost.queues.journal.disk import Disk

from .file_system import NEVER, PAGE, Description, FileSystem, Folder, Inode

READS: Final = frozenset({"names", "changed_ns", "size", "still_named", "close", "lock", "read", "load", "forget"})
"""Calls that no trap lets fail; a process may die at them."""


class Killed(BaseException):
    """The process is gone: kill -9."""


class PowerCut(BaseException):
    """All processes are gone, and what was not synced may be."""


class Violation(BaseException):
    """A promise was broken.  No ``Exception``: nothing in the product may catch it."""


Trap = Callable[["ModelDisk", str], "type[BaseException] | None"]
"""Told of the call it springs at: returns how the process dies there, raises the call's error, or returns None."""


class ModelMap:
    """A mapping of a file's first bytes; it holds what ``open`` returned, as mmap does by its own descriptor."""

    __slots__ = ("__weakref__", "description", "disk", "length")

    def __init__(self, disk: ModelDisk, description: Description, length: int) -> None:
        self.disk = disk
        self.description: Description | None = description
        self.length = length
        description.refs += 1

    def __getitem__(self, key: slice) -> bytes:
        disk, description = self.disk, self.description
        if disk.dead or disk.fs.off:
            disk.call("load")
        assert description is not None, "a closed mapping is read"
        data = description.inode.data
        if disk.mapped and key.stop > -(-len(data) // PAGE) * PAGE and key.stop > (key.start or 0):
            raise Violation("SIGBUS: a mapping is read beyond the end of its file")
        return bytes(data[key])

    def __setitem__(self, key: slice, value: bytes) -> None:
        at = key.start or 0
        if self.description is None:
            self.disk.call("store")
            raise Violation("a closed mapping is stored to")
        if self.disk.mapped:
            if key.stop - at != len(value) or key.stop > self.length:
                raise Violation("a store of the wrong size, or beyond its mapping")
            if key.stop > len(self.description.inode.data):
                raise Violation("SIGBUS: a store beyond the end of its file")
        self.disk.put_bytes("store" if self.disk.mapped else "write", self.description.inode, at, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelMap:
        import copy

        disk = copy.deepcopy(self.disk, memo)
        if self.description is None:
            raise AssertionError("a closed mapping is still known at a fork")
        twin = ModelMap(disk, self.description, self.length)
        disk.maps.add(twin)
        return twin

    def close(self) -> None:
        """Let it go."""
        description, self.description = self.description, None
        if description is not None:
            self.disk.fs.let_go(description)

    def __del__(self) -> None:
        self.close()


class ModelDisk(Disk):
    """One process's hands on a :class:`FileSystem`."""

    def __init__(self, fs: FileSystem, *, mapped: bool = True) -> None:
        self.fs = fs
        self.mapped = mapped
        self.uid = None
        self.table: dict[int, Description] = {}
        self.maps: WeakSet[ModelMap] = WeakSet()
        self.next_fd = 3
        self.dead: type[BaseException] | None = None
        self.calls = 0
        self.trap_at = NEVER
        self.trap: Trap | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelDisk:
        twin = ModelDisk(self.fs, mapped=bool(self.mapped))
        memo[id(self)] = twin
        twin.next_fd = self.next_fd
        for fd, description in self.table.items():
            description.refs += 1
            twin.table[fd] = description
        return twin

    # -- what befalls it

    def set_trap(self, calls: int, trap: Trap) -> None:
        """Let ``trap`` spring at the call that comes after ``calls`` others."""
        self.trap_at, self.trap = self.calls + 1 + calls, trap

    def clear_trap(self) -> None:
        """Take it away."""
        self.trap_at, self.trap = NEVER, None

    def die(self, how: type[BaseException] = Killed) -> None:
        """End as kill -9 ends it: descriptors and locks go, nothing is written."""
        self.dead = how
        self.clear_trap()
        for mapped in list(self.maps):
            mapped.close()
        for description in self.table.values():
            self.fs.let_go(description)
        self.table.clear()

    def call(self, op: str, *, tears: bool = False) -> type[BaseException] | None:
        """Count a call; returns how the process dies in the middle of it, if it does and ``tears``."""
        if self.fs.off:
            raise PowerCut
        if self.dead is not None:
            raise self.dead
        self.calls += 1
        if self.calls < self.trap_at:
            return None
        trap = self.trap
        assert trap is not None
        self.clear_trap()
        death = trap(self, op)
        if death is not None and not tears:
            self.die(death)
            raise death
        return death

    def put_bytes(self, op: str, inode: Inode, at: int, data: bytes) -> None:
        """Store, in part if the process dies or the disk fills just then."""
        death = self.call(op, tears=True)
        if death is not None:
            data = data[: self.calls * 7919 % (len(data) + 1)]
        if at + len(data) > len(inode.data):
            try:
                self.fs.resize(inode, at + len(data))
            except OSError:
                self.fs.store(inode, at, data[: max(0, inode.blocks * PAGE - at)])
                raise
        self.fs.store(inode, at, data)
        if death is not None:
            self.die(death)
            raise death

    def _new(self, inode: Inode) -> int:
        fd, self.next_fd = self.next_fd, self.next_fd + 1
        self.table[fd] = Description(inode)
        self.fs.descriptions += 1
        return fd

    # -- what the journal calls: see Disk

    def is_opening_here(self) -> bool:
        """Nothing interrupts it there."""
        return False

    def create(self, path: str, mode: int, gid: int | None) -> int:
        """Make a new file."""
        self.call("create")
        folder, name = self.fs.place(path)
        if name in folder.names:
            raise FileExistsError(errno.EEXIST, "it is there", path)
        inode = Inode()
        inode.mtime_ns = self.fs.now_ns()
        self.fs.change((folder, name, inode))
        return self._new(inode)

    def open(self, path: str, *, write: bool = True) -> int:
        """Open a file."""
        self.call("open")
        return self._new(self.fs.file(path))

    def duplicate(self, fd: int) -> int:
        """Share what is open."""
        self.call("open")
        description = self.table[fd]
        description.refs += 1
        other, self.next_fd = self.next_fd, self.next_fd + 1
        self.table[other] = description
        return other

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        self.call("close")
        self.fs.let_go(self.table.pop(fd))

    def forget(self) -> None:
        """Close all, in a forked child."""
        self.call("forget")
        for mapped in list(self.maps):
            mapped.close()
        self.maps.clear()
        for description in self.table.values():
            self.fs.let_go(description)
        self.table.clear()

    def allocate(self, fd: int, length: int, *, written: bool) -> None:
        """Take blocks."""
        self.call("allocate")
        inode = self.table[fd].inode
        if length > len(inode.data):
            self.fs.resize(inode, length)

    def fill_holes(self, fd: int, length: int) -> None:
        """Take blocks: no file here has holes."""
        self.call("allocate")

    def map(self, fd: int, length: int) -> ModelMap:
        """Map a file's first bytes."""
        self.call("map")
        description = self.table[fd]
        if self.mapped and length > len(description.inode.data):
            raise ValueError("mmap length is greater than file size")
        mapped = ModelMap(self, description, length)
        self.maps.add(mapped)
        return mapped

    def read(self, fd: int, length: int, at: int) -> bytes:
        """Read what is there."""
        self.call("read")
        return bytes(self.table[fd].inode.data[at : at + length])

    def write(self, fd: int, data: bytes, at: int) -> None:
        """Write, and let the file grow."""
        self.put_bytes("write", self.table[fd].inode, at, data)

    def truncate(self, fd: int, length: int) -> None:
        """Cut."""
        self.call("truncate")
        self.fs.resize(self.table[fd].inode, length)

    def datasync(self, fd: int) -> None:
        """Sync a file's bytes and size."""
        inode = self.table[fd].inode if fd in self.table else Inode()
        try:
            self.call("datasync")
        except OSError:
            self.fs.sync_failed(inode)
            raise
        self.fs.sync(inode)

    def sync_folder(self, path: str) -> None:
        """Sync a folder's names."""
        folder = self.fs.folders.get(path.rstrip("/"), Folder(0))
        try:
            self.call("sync_folder")
        except OSError:
            self.fs.sync_failed(folder)
            raise
        if path.rstrip("/") not in self.fs.folders:
            raise FileNotFoundError(errno.ENOENT, "no such folder", path)
        self.fs.sync_names(folder)

    def lock(self, fd: int, *, wait: bool = False) -> bool:
        """Take a flock if it is free."""
        self.call("lock")
        description = self.table[fd]
        inode = description.inode
        if inode.holder is None:
            inode.holder = description
        return inode.holder is description

    def still_named(self, fd: int, path: str) -> bool:
        """Tell whether a name still means this file."""
        self.call("still_named")
        try:
            return self.fs.file(path) is self.table[fd].inode
        except FileNotFoundError:
            return False

    def is_held_unnamed(self, pid: int, name: str) -> bool:
        """Return False: here only its own process, at its end, removes a lock's name."""
        self.call("is_held_unnamed")
        return False

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what is there."""
        self.call("rename")
        inode = self.fs.file(old)
        (above, name), (other, target) = self.fs.place(old), self.fs.place(new)
        inode.links += 1  # it has a name all the while
        self.fs.change((above, name, None), (other, target, inode))
        inode.links -= 1

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self.call("unlink")
        try:
            self.fs.file(path)
        except FileNotFoundError:
            return
        folder, name = self.fs.place(path)
        self.fs.change((folder, name, None))

    def names(self, path: str) -> list[str]:
        """Return the names in a folder."""
        self.call("names")
        folder = self.fs.folders.get(path)
        return [] if folder is None else sorted(folder.names)

    def changed_ns(self, path: str) -> int:
        """Return when it changed."""
        self.call("changed_ns")
        folder = self.fs.folders.get(path)
        if folder is not None:
            return folder.mtime_ns
        try:
            return self.fs.file(path).mtime_ns
        except FileNotFoundError:
            return 0

    def size(self, path: str) -> int:
        """Return a file's size."""
        self.call("size")
        try:
            return len(self.fs.file(path).data)
        except FileNotFoundError:
            return 0

    def make_folder(self, path: str, mode: int, gid: int | None) -> bool:
        """Make a folder."""
        self.call("make_folder")
        if path.rstrip("/") in self.fs.folders:
            return False
        above, name = self.fs.place(path)
        made = Folder(self.fs.now_ns())
        self.fs.folders[path] = made
        self.fs.change((above, name, made))
        return True
