"""The private folder that a relay's processes share at run time; it goes with the main process.

A main process that was killed leaves it behind.  So each holds a lock in its own, which the kernel drops with it, and
the next relay of the same user removes those whose lock is free.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from typing import Final

from ..queues.journal.disk import Disk

PREFIX: Final = "eventpost-relay-"
YOUNG_S: Final = 60.0
"""A folder younger than this may belong to a relay that is just starting, and has not locked it yet."""
_LOCK: Final = "main.lock"


class RunDir:
    """Makes the folder, and holds it until :meth:`remove`.  Raises OSError."""

    def __init__(self) -> None:
        _sweep()
        self.path = tempfile.mkdtemp(prefix=PREFIX)
        self._disk = Disk()
        self._fd = self._disk.create(f"{self.path}/{_LOCK}", 0o600, None)
        self._disk.lock(self._fd)

    def remove(self) -> None:
        """Remove it, with what lies in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._disk.close(self._fd)


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
