"""Whether a folder could take events just now, found out without putting one: for a readiness probe.

A put that finds room in its open segment says nothing about the next one, and a process that gets no events because it
is not ready would never find out that it could store again.  So what a new segment needs is tried, at its smallest:
room under the bound, a new file, blocks of its own, and at ``fsync`` a sync; then the file is removed.
"""

from __future__ import annotations

import os
import secrets

from .disk import reason_of
from .folder import Folder
from .format import PAGE_BYTES
from .store import SEGMENT_BYTES_MIN


def why_full_or_gone(folder: Folder, *, bytes_max: int, durable: bool) -> str | None:
    """Return why nothing can be stored, in the ledger's word; None: something can.  Raises nothing."""
    disk = folder.disk
    path = f"{folder.path}/.probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        if not disk.changed_ns(folder.segments):
            return "folder_gone"
        if folder.stored_bytes() + SEGMENT_BYTES_MIN > bytes_max:
            return "queue_full"
        fd = disk.create(path, folder.file_mode, folder.gid)
        try:
            disk.allocate(fd, SEGMENT_BYTES_MIN, written=False)
            if durable:
                disk.write(fd, b"\0" * PAGE_BYTES, 0)
                disk.datasync(fd)
        finally:
            disk.close(fd)
            disk.unlink(path)
    except OSError as error:
        return reason_of(error)
    return None
