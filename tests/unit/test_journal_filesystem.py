"""What is known of the file system that holds a folder, by what Linux tells of its mounts."""

import os
from pathlib import Path

import pytest

from eventpost.queues.journal.filesystem import NETWORK_FS, file_system_of, mapping_is_safe

MOUNTS = b"""
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:5 / /data rw,noatime shared:1 master:2 - xfs /dev/sdb1 rw
23 22 0:6 / /data/with\\040space rw - nfs4 server:/a rw
24 22 0:7 / /data/inner rw - tmpfs tmpfs rw
25 22 0:8 / /data/inner rw - btrfs /dev/sdc rw
26 21 0:9 / /gr\xc3\xb6\xc3\x9fe rw - cifs //server/share rw
27 21 0:10 / /no\xfftext\x0c\\134\\011 rw - ceph server:/ rw
28 21 0:11 / /short
29 21 0:12 / /dataX rw - zfs pool rw
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let Linux tell of these mounts; which file was asked."""
    files: list[Path] = []

    def read(path: Path) -> bytes:
        files.append(path)
        return MOUNTS

    monkeypatch.setattr(Path, "read_bytes", read)
    return files


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"), ("/home/x", "ext4"), ("/data", "xfs"), ("/data/x", "xfs"), ("/dataX/x", "zfs"),
        ("/database", "ext4"),
        ("/data/with space/j", "nfs4"), ("/data/with", "xfs"), ("/data/inner/j", "btrfs"), ("/größe/j", "cifs"),
        ("/grö", "ext4"), (os.fsdecode(b"/no\xfftext\x0c\\\t"), "ceph"), ("/short", "ext4"),
    ],
)  # fmt: skip
def test_the_file_system_is_that_of_the_nearest_mount(asked: list[Path], path: str, kind: str) -> None:
    """The last one, where several lie on one another; names may hold spaces, any letters, and what is no text."""
    assert file_system_of(path) == kind
    assert asked == [Path("/proc/self/mountinfo")]


def test_where_the_system_does_not_tell_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, or where nothing that it tells of holds the path."""
    monkeypatch.setattr(Path, "read_bytes", lambda _: MOUNTS.replace(b"/ / rw", b"/ /database rw"))
    assert (file_system_of("/home"), file_system_of("/database/x")) == ("", "ext4")

    def refuses(_: Path) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_bytes", refuses)
    assert file_system_of("/") == ""


def test_the_network_file_systems_by_the_names_that_linux_gives_them() -> None:
    """A journal on one of these is refused unless somebody says that its locks hold; a local disk is none of them."""
    kernel = "nfs nfs4 cifs smb3 smbfs 9p afs ceph lustre glusterfs gpfs ocfs2 gfs2 beegfs davfs"
    fuse = "sshfs glusterfs ceph s3fs gcsfuse rclone davfs2"
    assert {*kernel.split(), *(f"fuse.{name}" for name in fuse.split())} == NETWORK_FS
    assert not {"ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs"} & NETWORK_FS


def test_a_mapping_is_trusted_where_allocated_blocks_stay_allocated() -> None:
    """Not where a store copies first, and not where it is somebody's program; nor where nobody knows."""
    assert all(map(mapping_is_safe, ("ext4", "ext3", "ext2", "xfs", "tmpfs", "f2fs", "jfs", "overlay")))
    assert not any(map(mapping_is_safe, ("btrfs", "zfs", "bcachefs", "fuse", "fuseblk", "nfs4", "apfs", "")))
