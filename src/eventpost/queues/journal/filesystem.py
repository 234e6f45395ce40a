"""Which file systems keep what the journal relies on: locks between processes, and blocks that stay allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NETWORK_FS: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "gpfs", "ocfs2", "gfs2",
    "beegfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "davfs",
    "fuse.davfs2",
})  # fmt: skip
"""File systems on which a lock or a mapping may not mean what it means on a local disk."""

_MAPPED_FS: Final = frozenset({"ext4", "ext3", "ext2", "xfs", "tmpfs", "f2fs", "jfs", "overlay"})


def file_system_of(path: str) -> str:
    """Return the type of the file system that holds ``path``, "" where the system does not tell."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].encode().decode("unicode_escape") if len(fields.split(" ")) > 4 else ""
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if point and inside and len(point) >= len(best):
            best, kind = point, rest.split(" ", 1)[0]
    return kind


def mapping_is_safe(kind: str) -> bool:
    """Tell whether allocated blocks of such a file system stay allocated under a store."""
    return kind in _MAPPED_FS
