"""This process as a writer: its name, and the lock that says that it lives.

A writer whose lock has no name looks dead, and its segments would be sent by others, too: so the name is looked at
before each segment, and made anew where it is gone.  It stays what it was, for segments tell their writer by it.

Two puts may enter at once: a signal handler's in the middle of another, on one thread or on two.  Whoever is the first
to follow the entry that both have seen (one ``setdefault``) is the writer, and the other lets go of what it has made.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .folder import Folder


class _Entry:
    """A name, and the descriptor that holds its lock; -1: none."""

    __slots__ = ("fd", "name")

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd


class Presence:
    """A writer of a folder, or nobody yet; ``lock`` is the put lock."""

    def __init__(self, folder: Folder, lock: Any) -> None:
        """Keep the arguments; touches no file."""
        self._folder = folder
        self._lock = lock
        self._entry = _Entry("", -1)
        self._followed: dict[_Entry, _Entry] = {}
        self._path_synced = False

    @property
    def name(self) -> str:
        """The name that this process writes under; "" before its first put."""
        return self._entry.name

    @property
    def is_held(self) -> bool:
        """Whether this process is a writer."""
        return self._entry.fd >= 0

    def enter(self) -> None:
        """Become a writer, or make its lock anew where the name is gone.  Raises OSError."""
        if not self._folder.is_entered(self._entry.name, self._entry.fd):
            with self._lock:  # one file instead of many: it would go without
                self.enter_unlocked()

    def enter_unlocked(self) -> None:
        """Do so without the put lock, whose holder may wait for this thread.  Raises OSError."""
        folder, entry = self._folder, self._entry
        if folder.is_entered(entry.name, entry.fd):
            return
        if entry.fd >= 0 and not folder.disk.changed_ns(folder.path):  # it may be a lost mount: not made anew
            raise FileNotFoundError(errno.ENOENT, "the journal's folder is gone", folder.path)
        folder.make()
        try:
            mine = _Entry(*folder.enter(entry.name))
        except FileExistsError:
            if self._entry is not entry:  # made meanwhile
                return
            raise
        first = self._followed.setdefault(entry, mine)
        if first is mine:
            self._path_synced = False
        else:
            folder.disk.unlink(f"{folder.writers}/{mine.name}.lock")
            folder.disk.close(mine.fd)
        self._entry = first
        if first is mine and entry.fd >= 0:
            folder.disk.close(entry.fd)

    def sync_path(self) -> None:
        """Make the names above the segments safe, once: before a name among them is promised.  Raises OSError."""
        if not self._path_synced:
            self._folder.sync_path()
            self._path_synced = True

    def leave(self, *, nothing_left: bool) -> None:
        """Let the writer's lock go: from now on its segments are anybody's."""
        entry, self._entry = self._entry, _Entry(self._entry.name, -1)
        if entry.fd >= 0:
            try:
                if nothing_left:  # first, while it is locked: a free one may be another's by the time it is unlinked
                    self._folder.disk.unlink(f"{self._folder.writers}/{entry.name}.lock")
            finally:
                self._folder.disk.close(entry.fd)
