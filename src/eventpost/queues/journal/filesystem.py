"""Which file systems keep what the journal relies on: locks between processes, and blocks that stay allocated."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

NETWORK_FS: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "gpfs", "ocfs2", "gfs2",
    "beegfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "davfs",
    "fuse.davfs2",
})  # fmt: skip
"""File systems on which a lock or a mapping may not mean what it means on a local disk."""

_MAPPED_FS: Final = frozenset({"ext4", "ext3", "ext2", "xfs", "tmpfs", "f2fs", "jfs", "overlay"})
_MOUNT: Final = re.compile(rb"(?m)^(?:[^ \n]+ ){4}([^ \n]+) .*? - ([^ \n]+) ")
"""A line of mountinfo: the folder, and the type of what is mounted there."""
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


def file_system_of(path: str) -> str:
    """Return the type of the file system that holds ``path``, "" where the system does not tell."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()  # a folder's name need not be text
    except OSError:
        return ""
    inside, best, found = os.fsencode(path) + b"/", b"", b""
    for escaped, kind in _MOUNT.findall(mounts):
        point = _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), escaped)
        if inside.startswith(point.rstrip(b"/") + b"/") and len(point) >= len(best):
            best, found = point, kind
    return os.fsdecode(found)


def mapping_is_safe(kind: str) -> bool:
    """Tell whether allocated blocks of such a file system stay allocated under a store."""
    return kind in _MAPPED_FS
