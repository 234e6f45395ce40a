"""A file system in memory.

What it keeps of a real one: names are not files, a file lives while a name or a descriptor has it, a flock belongs to
what ``open`` returned and goes with its last descriptor or mapping, a forked child shares those, blocks are taken when
a file grows and a full disk says so, and folders remember when they changed, no finer than 4 ms.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

PAGE: Final = 4096
NEVER: Final = 1 << 60


class Inode:
    """A file.  ``safe`` and ``pending`` are for power: what is on the device, and what was done since."""

    __slots__ = ("blocks", "data", "holder", "links", "mtime_ns", "opens", "pending", "safe")

    def __init__(self) -> None:
        self.data = bytearray()
        self.links = self.opens = self.blocks = self.mtime_ns = 0
        self.holder: Description | None = None
        self.safe = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []


class Folder:
    """A folder: names, and when they changed."""

    __slots__ = ("mtime_ns", "names", "safe")

    def __init__(self, mtime_ns: int) -> None:
        self.names: dict[str, Inode | Folder] = {}
        self.safe: dict[str, Inode | Folder] = {}
        self.mtime_ns = mtime_ns


class Description:
    """What ``open`` returned: shared by ``dup``, by mappings and by forked children."""

    __slots__ = ("inode", "refs")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.refs = 1
        inode.opens += 1


class FileSystem:
    """The one that all processes share.  ``time`` tells the wall clock; ``capacity`` is in blocks of 4,096 bytes."""

    def __init__(self, time: Callable[[], float]) -> None:
        self.time = time
        self.capacity = NEVER
        self.used = 0
        self.off = False
        self.folders: dict[str, Folder] = {"": Folder(0)}
        self.descriptions = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> FileSystem:
        return self  # a fork copies a process, not the disk

    def now_ns(self) -> int:
        """Return the time as a file system tells it."""
        return int(self.time() * 250) * 4_000_000

    def place(self, path: str) -> tuple[Folder, str]:
        """Return the folder that holds a path's last name, and that name."""
        above, _, name = path.rpartition("/")
        folder = self.folders.get(above)
        if folder is None:
            raise FileNotFoundError(errno.ENOENT, "no such folder", path)
        return folder, name

    def file(self, path: str) -> Inode:
        """Return a file; raises FileNotFoundError."""
        folder, name = self.place(path)
        found = folder.names.get(name)
        if not isinstance(found, Inode):
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return found

    def change(self, *changes: tuple[Folder, str, Inode | Folder | None]) -> None:
        """Set or remove names, all at once."""
        for folder, name, what in changes:
            folder.mtime_ns = self.now_ns()
            old = folder.names.pop(name, None)
            if isinstance(old, Inode):
                old.links -= 1
                self.drop(old)
            if what is not None:
                folder.names[name] = what
                if isinstance(what, Inode):
                    what.links += 1

    def drop(self, inode: Inode) -> None:
        """Take back a file's blocks if nobody has it any more."""
        if not inode.links and not inode.opens:
            self.used -= inode.blocks
            inode.blocks = 0

    def let_go(self, description: Description) -> None:
        """Close one reference; with the last one goes the flock."""
        description.refs -= 1
        if description.refs:
            return
        inode = description.inode
        inode.opens -= 1
        self.descriptions -= 1
        if inode.holder is description:
            inode.holder = None
        self.drop(inode)

    def resize(self, inode: Inode, length: int) -> None:
        """Cut a file, or let it grow with zeros; raises OSError(ENOSPC)."""
        blocks = -(-length // PAGE)
        more = blocks - inode.blocks
        if more > 0 and self.used + more > self.capacity:
            raise OSError(errno.ENOSPC, "No space left on device")
        if length < len(inode.data):
            del inode.data[length:]
        else:
            inode.data.extend(bytes(length - len(inode.data)))
        self.used += more
        inode.blocks = blocks
        self.log(inode, length, None)

    def store(self, inode: Inode, at: int, data: bytes) -> None:
        """Change bytes that are there."""
        inode.data[at : at + len(data)] = data
        inode.mtime_ns = self.now_ns()
        self.log(inode, at, data)

    def log(self, inode: Inode, at: int, data: bytes | None) -> None:
        """Note a change that is not on the device yet; ``data`` None: the size is ``at`` now."""

    def sync(self, inode: Inode) -> None:
        """Bring a file's bytes and size to the device."""

    def sync_names(self, folder: Folder) -> None:
        """Bring a folder's names to the device."""

    def sync_failed(self, what: Inode | Folder) -> None:
        """Forget what a failed sync did not bring to the device: the next sync says that all is well."""
