"""The private folder that a relay's processes share at run time; it goes with the main process.

A main process that was killed leaves it behind.  So each holds a lock in its own, which the kernel drops with it, and
the next relay of the same user removes those whose lock is free.

It lies where others clean up: what looks old in a folder for temporary files goes after some days.  So its files are
kept young, and where it goes all the same it is made anew, in its old place, which is all that the workers know of: a
worker that is started after that would not come up without it, and no event would be taken.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from typing import Final

from ..queues.journal.disk import Disk

PREFIX: Final = "eventpost-relay-"
YOUNG_S: Final = 60.0
"""A folder younger than this may belong to a relay that is just starting, and has not locked it yet."""
KEPT_YOUNG_S: Final = 3600.0
LOOK_S: Final = 1.0
KEY: Final = "page.key"
"""What the workers sign with (``page.safety``): remembered here, so that it is the same in a folder made anew."""
COUNTERS_BYTES: Final = 128 << 10
_COUNTERS: Final = ("counter", "histogram", "gauge_mostrecent")
_LOCK: Final = "main.lock"


class RunDir:
    """Makes the folder, and holds it until :meth:`remove`.  Raises OSError."""

    def __init__(self) -> None:
        _sweep()
        self.path = tempfile.mkdtemp(prefix=PREFIX)
        self._disk = Disk()
        self._fd = self._make_lock()
        self._key = b""
        self._looked_at = self._touched_at = 0.0

    def _make_lock(self) -> int:
        fd = self._disk.create(f"{self.path}/{_LOCK}", 0o600, None)
        self._disk.lock(fd)
        return fd

    def tend(self, now: float) -> bool:
        """Keep it there; True: it was gone, and is there anew.  ``now``: monotonic seconds.  Raises nothing."""
        if now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        with suppress(OSError):
            if not os.path.exists(f"{self.path}/{_LOCK}"):
                return self._make_anew()
            if not self._key and os.path.exists(f"{self.path}/{KEY}"):
                with open(f"{self.path}/{KEY}", "rb") as file:
                    self._key = file.read()
            if now - self._touched_at >= KEPT_YOUNG_S:
                self._touched_at = now
                for entry in os.scandir(self.path):
                    os.utime(entry.path)
        return False

    def _make_anew(self) -> bool:
        """Make the folder in its old place.  Raises OSError: also where it is somebody else's by now."""
        with suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        found = os.lstat(self.path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(self.path)
        old, self._fd = self._fd, self._make_lock()
        self._disk.close(old)
        if self._key and not os.path.exists(f"{self.path}/{KEY}"):
            fd = self._disk.create(f"{self.path}/{KEY}", 0o600, None)
            try:
                os.write(fd, self._key)
            finally:
                self._disk.close(fd)
        return True

    def remove(self) -> None:
        """Remove it, with what lies in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._disk.close(self._fd)


def take_room(path: str) -> bool:
    """Take the room that this process's counters need in the folder, before the first is made; False: there is none.

    They lie in mapped files, whose pages take their room when they are first written to: on a full disk the kernel
    kills who does that.
    """
    made = []
    try:
        for kind in _COUNTERS:
            name = f"{path}/{kind}_{os.getpid()}.db"
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            made.append(name)
            try:
                size = os.fstat(fd).st_size  # a process of the same number may have counted here before
                if os.pwrite(fd, bytes(max(0, COUNTERS_BYTES - size)), size) < COUNTERS_BYTES - size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            finally:
                os.close(fd)
    except OSError:
        for name in made:
            with suppress(OSError):
                os.unlink(name)
        return False
    return True


def _sweep() -> None:
    """Remove what relays of this user left that were killed."""
    disk = Disk()
    for entry in list(os.scandir(tempfile.gettempdir())):
        with suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            young = time.time() - found.st_mtime < YOUNG_S
            if not entry.name.startswith(PREFIX) or found.st_uid != os.geteuid() or young:
                continue
            fd = disk.open(f"{entry.path}/{_LOCK}")
            try:
                if disk.lock(fd):
                    shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                disk.close(fd)
