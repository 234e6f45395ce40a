"""A disk that forgets: what was not synced may be there after a power cut, wholly, partly, out of order, or not at all.

On the device is what ``datasync`` brought there of a file (its bytes and its size, as long as a name leads to it) and
what ``sync_folder`` brought there of a folder's names.  Neither brings the other: POSIX promises no more.

Of the rest, a cut keeps what chance decides, in one of these ways.  Bytes: none, all, the first so many stores, or for
each page, or each sector of 512 bytes, as it was after any one of the stores that touched it, since the kernel may have
written it at any time.  Sizes: any that the file ever had since.  Names: none, all, the first so many changes, or any
of them; a rename is one change.  A failed sync keeps some of what it was to bring, forgets the rest for good, and the
next sync says that all is well: that is what kernels do with bytes.  Names stay unsynced: a file system that cannot
write its journal stops.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from .file_system import PAGE, FileSystem, Folder, Inode

Change = tuple[tuple[Folder, str, "Inode | Folder | None"], ...]
WAYS: Final = ("none", "all", "first", "pages", "sectors", "sectors")
SECTOR: Final = 512


class ForgetfulFileSystem(FileSystem):
    """See the module."""

    def __init__(self, time: Callable[[], float]) -> None:
        super().__init__(time)
        self.unsynced_names: list[Change] = []
        self.rng = random.Random(0)

    def change(self, *changes: tuple[Folder, str, Inode | Folder | None]) -> None:
        """Set or remove names, all at once; not on the device yet."""
        self.unsynced_names.append(changes)
        super().change(*changes)

    def log(self, inode: Inode, at: int, data: bytes | None) -> None:
        """Note a change that is not on the device yet; ``data`` None: the size is ``at`` now."""
        inode.pending.append((at, data))

    def sync(self, inode: Inode) -> None:
        """Bring a file's bytes and size to the device."""
        for at, data in inode.pending:
            apply(inode.safe, at, data)
        inode.pending.clear()

    def sync_names(self, folder: Folder) -> None:
        """Bring a folder's names to the device."""
        later: list[Change] = []
        for changes in self.unsynced_names:
            if any(one[0] is folder for one in changes):
                keep(changes)
            else:
                later.append(changes)
        self.unsynced_names = later

    def sync_failed(self, what: Inode | Folder) -> None:
        """Keep some of the bytes that the sync was to bring, and forget the rest."""
        if isinstance(what, Inode):
            survive(what, self.rng)

    def forget(self) -> None:
        """Cut the power, and come back with what was kept."""
        rng, changes = self.rng, self.unsynced_names
        way = rng.choice(("none", "all", "first", "any", "any"))
        if way == "first":
            changes = changes[: rng.randint(0, len(changes))]
        for one in changes:
            if way in {"all", "first"} or (way == "any" and rng.random() < 0.5):
                keep(one)
        self.unsynced_names = []
        root = self.folders[""]
        self.folders = {}
        self.used = 0
        self._return("", root, rng.choice(WAYS))
        self.off = False

    def _return(self, path: str, folder: Folder, way: str) -> None:
        self.folders[path] = folder
        folder.names = dict(folder.safe)
        for name, what in folder.names.items():
            if isinstance(what, Folder):
                self._return(f"{path}/{name}", what, way)
                continue
            survive(what, self.rng, way)
            what.data = bytearray(what.safe)
            what.links, what.blocks = 1, -(-len(what.data) // PAGE)
            self.used += what.blocks


def keep(changes: Change) -> None:
    """Let a change of names be on the device."""
    for folder, name, what in changes:
        if what is None:
            folder.safe.pop(name, None)
        else:
            folder.safe[name] = what


def apply(data: bytearray, at: int, new: bytes | None) -> None:
    """Let one store, or one change of size, be on the device."""
    if new is None:
        del data[at:]
        data.extend(bytes(at - len(data)))
    else:
        data.extend(bytes(max(0, at - len(data))))
        data[at : at + len(new)] = new


def survive(inode: Inode, rng: random.Random, way: str = "pages") -> None:
    """Decide what of a file's changes is on the device after all."""
    pending, inode.pending = inode.pending, []
    if not pending or way == "none":
        return
    if way in {"all", "first"}:
        for at, data in pending if way == "all" else pending[: rng.randint(0, len(pending))]:
            apply(inode.safe, at, data)
        return
    sizes = [len(inode.safe)]
    for at, data in pending:
        sizes.append(at if data is None else max(sizes[-1], at + len(data)))
    unit = PAGE if way == "pages" else SECTOR
    bytes_by_unit(inode.safe, pending, unit, rng)
    apply(inode.safe, rng.choice(sizes), None)


def bytes_by_unit(safe: bytearray, pending: Sequence[tuple[int, bytes | None]], unit: int, rng: random.Random) -> None:
    """Let each unit of a file be as it was after one of the stores that touched it."""
    touched: dict[int, int] = {}
    for at, data in pending:
        if data:
            for number in range(at // unit, (at + len(data) - 1) // unit + 1):
                touched[number] = touched.get(number, 0) + 1
    kept = {number: rng.choice((0, count, rng.randint(0, count))) for number, count in touched.items()}
    for at, data in pending:
        if not data:
            continue
        for number in range(at // unit, (at + len(data) - 1) // unit + 1):
            if kept[number] > 0:
                kept[number] -= 1
                first, last = max(at, number * unit), min(at + len(data), (number + 1) * unit)
                apply(safe, first, data[first - at : last - at])
