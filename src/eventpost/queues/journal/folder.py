"""The folder: who lives in it, and what lies in it.

::

    segments/<created ms>-<writer>-<number>.seg   events, one file per writer and endpoint at a time
    dead/                                         the same, for dead letters
    bad/                                          bytes that could not be read, set aside
    writers/<writer>.lock                         held (flock) for as long as that writer lives
    scanner.lock                                  held by the one process that looks for what others left
    totals.json, totals.lock                      the counts of the segments that are gone; the lock is for bounds, too
    bounds.json                                   the bounds of dead letters, where somebody named them
    purge.json, purge.lock                        what is to be erased, and who says so

Locks.  The kernel drops a flock with the last descriptor of its holder: no timers, no heartbeats.  A writer holds one
lock for all its segments, not one each: a backlog of hundreds of segments then costs no descriptors.  Who sends another
process's segment holds the flock on the segment itself; it may, once that writer's lock is free or if its header says
that the writer does not send.  After each flock the name is looked at again, for the file may be unlinked by then.

Orders.  The names above the segments (``sync_path``) are synced before the first name among them is promised.  Bytes
set aside in ``bad/`` are copies for a person, and a file that is moved there is no segment any more: neither is
ordered.

A dead writer's lock is unlinked while its flock is held: a writer that is just starting either finds its lock taken or
its name gone, and begins again.  Unlinked after a look only, it could be the lock of somebody who came to life since.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import orjson

from ...errors import JournalUnusable
from . import format as fmt
from .disk import HAS_LOCKS, Disk
from .filesystem import NETWORK_FS, file_system_of, mapping_is_safe
from .format import Outcome, count_outcomes

SUFFIX: Final = ".seg"
_ENTER_TRIES: Final = 10
_NOTE_BYTES_MAX: Final = 1 << 24
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
_UNSYNCABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EROFS})
"""What a folder above ours may answer that is not ours to change, or that is no local disk's."""


class Folder:
    """A journal's folder, its path resolved once."""

    def __init__(
        self, path: str | bytes | os.PathLike[str], *, disk: Disk | None, gid: int | None, allow_network_fs: bool
    ) -> None:
        """Make the folder if need be, and check that it can be used.

        Raises JournalUnusable with the remedy, ValueError or TypeError for what is no path.
        """
        if not HAS_LOCKS:
            raise JournalUnusable(
                "JournalQueue needs POSIX file locks, which this system or this Python does not have; "
                "use MemoryQueue, or a relay"
            )
        self.path = resolved(path)
        self.disk = disk or Disk()
        self.gid = gid
        self.file_mode = 0o600 if gid is None else 0o660
        self.folder_mode = 0o700 if gid is None else 0o2770
        self._follow_owner()
        self.segments = f"{self.path}/segments"
        self.dead = f"{self.path}/dead"
        self.bad = f"{self.path}/bad"
        self.writers = f"{self.path}/writers"
        self._check(allow_network_fs=allow_network_fs)

    def _follow_owner(self) -> None:
        """Make new files such that those can use them whose folder it is: a shared one's group, root's host."""
        try:
            info = os.stat(self.path)
        except OSError:
            return
        if self.gid is None and info.st_mode & 0o2070 == 0o2070:
            self.gid, self.file_mode, self.folder_mode = info.st_gid, 0o660, 0o2770
        if os.geteuid() == 0 and info.st_uid:
            self.disk.uid = info.st_uid

    def _check(self, *, allow_network_fs: bool) -> None:
        try:
            _make_parents(os.path.dirname(self.path))
            self.make()
        except (NotADirectoryError, FileExistsError) as error:
            raise JournalUnusable(f"{self.path}: a part of this path is a file; choose another folder") from error
        except OSError as error:
            raise JournalUnusable(f"{self.path}: {self._remedy(error)}") from error
        kind = file_system_of(self.path)
        if kind in NETWORK_FS and not allow_network_fs:
            raise JournalUnusable(
                f"{self.path} is on a network file system ({kind}), where locks and mappings may not hold; "
                "use a local disk, or pass allow_network_fs=True if you know that they do"
            )
        if self.disk.mapped is None:
            self.disk.mapped = mapping_is_safe(kind)
        probe = f"{self.path}/.probe-{secrets.token_hex(4)}"
        try:
            fd = self.disk.create(probe, self.file_mode, self.gid)
            try:
                self.disk.lock(fd)
            finally:
                self.disk.close(fd)
                self.disk.unlink(probe)
        except OSError as error:
            raise JournalUnusable(f"{self.path}: {self._remedy(error)}") from error

    def _remedy(self, error: OSError) -> str:
        try:
            info = os.stat(self.path)
        except OSError:
            return f"cannot be made ({error.strerror}); make it, or choose one that uid {os.geteuid()} may write to"
        if not stat.S_ISDIR(info.st_mode):
            return "is not a folder; choose another path"
        if error.errno in (errno.EACCES, errno.EPERM):
            return (
                f"belongs to uid {info.st_uid} with mode {stat.S_IMODE(info.st_mode):04o}; uid {os.geteuid()} can't: "
                f"chown it, or share it with group= and `chgrp` / `chmod 2770`"
            )
        if error.errno == errno.ELOOP:
            return f"{error.filename} {error.strerror}"
        if error.errno in _NO_LOCKS:
            return f"cannot be used ({error.strerror}): it is on a file system without file locks; use a local disk"
        if error.errno == errno.EROFS:
            return "is on a read-only file system; choose another folder"
        return f"cannot be used: {error.strerror}"

    def make(self) -> None:
        """Make what is missing of the folder; raises OSError.  Nothing of it is safe before ``sync_path``."""
        for part in (self.path, self.segments, self.dead, self.bad, self.writers):
            self.disk.make_folder(part, self.folder_mode, self.gid)

    def sync_path(self) -> None:
        """Make the names safe that lead to the segments' folder.  Raises OSError.

        All of them, and whoever made them: another process may have died, or be, between making one and syncing it.
        """
        self.disk.sync_folder(self.path)
        above = self.path
        while above != os.path.dirname(above):
            above = os.path.dirname(above)
            try:
                self.disk.sync_folder(above)
            except OSError as error:
                if error.errno not in _UNSYNCABLE:
                    raise

    def create_lock(self, path: str) -> int:
        """Open a lock file, making it if need be."""
        try:
            return self.disk.create(path, self.file_mode, self.gid)
        except FileExistsError:
            return self.disk.open(path)

    def enter(self, again: str = "") -> tuple[str, int]:
        """Become a writer: returns its name and the descriptor that holds its lock.  Raises OSError.

        ``again``: the name to take, of a writer whose lock's name is gone.
        """
        for _ in range(_ENTER_TRIES):
            writer = again or f"{os.getpid()}.{secrets.token_hex(5)}"
            path = f"{self.writers}/{writer}.lock"
            fd = self.disk.create(path, self.file_mode, self.gid)
            entered = False
            try:
                # Before this line a scanner may take it for a dead writer's, and lock or unlink it: then once more.
                entered = self.disk.lock(fd) and self.disk.still_named(fd, path)
            finally:
                if not entered:
                    self.disk.close(fd)
                    self.disk.unlink(path)
            if entered:
                return writer, fd
        raise OSError(errno.EAGAIN, "a writer's lock could not be had", self.writers)

    def is_entered(self, writer: str, fd: int) -> bool:
        """Tell whether the lock that ``enter`` returned is still what others look at."""
        return fd >= 0 and self.disk.still_named(fd, f"{self.writers}/{writer}.lock")

    def is_alive(self, writer: str, *, bury: bool = False) -> bool:
        """Tell whether a writer still lives; ``bury``: unlink its lock if it does not."""
        path = f"{self.writers}/{writer}.lock"
        try:
            fd = self.disk.open(path)
        except FileNotFoundError:
            # Gone with its writer, or taken from it by a foreign hand: then it still has the file open.
            pid = writer.partition(".")[0]
            return pid.isdigit() and self.disk.is_held_unnamed(int(pid), f"{writer}.lock")
        except OSError:
            return True  # not ours to judge (another user's): leave its events alone
        try:
            if not self.disk.lock(fd):
                return True
            if bury and self.disk.still_named(fd, path):
                self.disk.unlink(path)
            return False
        finally:
            self.disk.close(fd)

    def segment_names(self, folder: str) -> list[str]:
        """Return the segments in a folder, oldest first."""
        return [
            name
            for name in self.disk.names(folder)
            if name.endswith(SUFFIX) and name.count("-") == 2 and name[0] != "."
        ]

    def stored_bytes(self) -> int:
        """Return what the segments take on the disk."""
        return sum(self.disk.size(f"{self.segments}/{name}") for name in self.disk.names(self.segments))

    def sweep(self) -> None:
        """Remove what a crash left half made: temporary files, and locks of dead writers without segments."""
        in_use = {writer_of(name) for part in (self.segments, self.dead) for name in self.segment_names(part)}
        for name in self.disk.names(self.writers):
            writer = name.split(".lock", maxsplit=1)[0]
            if writer not in in_use:
                self.is_alive(writer, bury=True)
        for part in (self.segments, self.dead):
            for name in self.disk.names(part):
                if name.endswith(".tmp") and not self.is_alive(writer_of(name[1:])):
                    self.disk.unlink(f"{part}/{name}")

    @contextmanager
    def notes_lock(self) -> Iterator[bool]:
        """Hold the lock of the folder's notes if it can be had at once: a stopped holder must not stop the others."""
        fd = self.create_lock(f"{self.path}/totals.lock")
        try:
            yield self.disk.lock(fd)
        finally:
            self.disk.close(fd)

    def read_note(self, name: str) -> bytes | None:
        """Return the bytes of a note, one of the folder's JSON files; None if there is none.  Raises OSError."""
        try:
            fd = self.disk.open(f"{self.path}/{name}", write=False)
        except FileNotFoundError:
            return None
        try:
            return self.disk.read(fd, _NOTE_BYTES_MAX, 0)
        finally:
            self.disk.close(fd)

    def write_note(self, name: str, note: dict[str, Any]) -> None:
        """Put a note in the place of the last one, written aside and synced; under the note's lock.  Raises OSError."""
        temporary = f"{self.path}/.{name.removesuffix('.json')}.tmp"
        self.disk.unlink(temporary)
        fd = self.disk.create(temporary, self.file_mode, self.gid)
        try:
            self.disk.write(fd, orjson.dumps(note), 0)
            self.disk.datasync(
                fd
            )  # before the name is its: power loss must not put an empty note in the old one's place
        finally:
            self.disk.close(fd)
        # The folder is not synced: the old note may come back and its segments not, which costs a count, no event.
        self.disk.rename(temporary, f"{self.path}/{name}")

    def set_aside(self, segment: str, at: int, data: bytes) -> str:
        """Keep damaged bytes for a person to look at; returns the path, "" if even that can't be written."""
        path = f"{self.bad}/{segment}-{at}.bad"
        try:
            fd = self.disk.create(path, self.file_mode, self.gid)
        except OSError:
            return path if self.disk.size(path) else ""
        try:
            self.disk.write(fd, data, 0)
        except OSError:
            return ""
        finally:
            self.disk.close(fd)
        return path

    def read_outcomes(self, path: str) -> tuple[fmt.Header, dict[Outcome, int]] | None:
        """Read a segment's header and outcomes without claiming it; None if it is gone.

        Raises OSError or ValueError.
        """
        try:
            fd = self.disk.open(path, write=False)
        except FileNotFoundError:
            return None
        try:
            header = self._header(fd)
            settled = self.disk.read(fd, header.events_max, header.outcomes_at)
        finally:
            self.disk.close(fd)
        return header, count_outcomes(settled)

    def read_header(self, path: str) -> fmt.Header:
        """Read a segment's header.  Raises OSError or ValueError."""
        fd = self.disk.open(path, write=False)
        try:
            return self._header(fd)
        finally:
            self.disk.close(fd)

    def _header(self, fd: int) -> fmt.Header:
        first = self.disk.read(fd, fmt.PAGE_BYTES, 0)
        return fmt.decode_header(self.disk.read(fd, fmt.header_bytes_wanted(first), 0))


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Return the folder of a journal.  Raises FileNotFoundError if it is none, JournalUnusable if it can't be used."""
    try:
        found = stat.S_ISDIR(os.stat(os.path.join(resolved(path), "segments")).st_mode)
    except PermissionError:
        found = True  # not ours to see: below it is said whose it is
    except (OSError, ValueError):
        found = False
    if not found:
        raise FileNotFoundError(2, "no journal here (no folder named segments in it); check the path", os.fspath(path))
    return Folder(path, disk=None, gid=None, allow_network_fs=True)


def resolved(path: str | bytes | os.PathLike[str]) -> str:
    """Return the absolute path without links; ``~`` is the home folder.  Raises ValueError or TypeError."""
    name = os.path.expanduser(os.fsdecode(path))
    if not name or name[0] == "~":  # realpath would take it for the folder that the process happens to stand in
        raise ValueError(f"path={path!r}: must name a folder{'; that user has no home here' if name else ''}")
    return os.path.realpath(name)


def _make_parents(path: str) -> None:
    """Make what is missing on the way to a folder, writable by its maker only, whatever the umask says."""
    if not os.path.lexists(path):
        _make_parents(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)


def writer_of(name: str) -> str:
    """Return the writer that a segment's name tells."""
    return name.split("-")[1] if name.count("-") >= 2 else ""
