"""The way to the disk: what it opens, and how."""

import errno
from pathlib import Path

import pytest

from eventpost.queues.journal import Disk


def test_what_is_opened_to_be_read_cannot_be_changed(tmp_path: Path) -> None:
    """Nor need it be writable; what is opened without a word can be."""
    path, disk = tmp_path / "file", Disk()
    path.write_bytes(b"as it was")
    fd = disk.open(str(path), write=False)
    with pytest.raises(OSError, match="Bad file descriptor") as refused:
        disk.write(fd, b"changed", 0)
    assert (refused.value.errno, disk.read(fd, 99, 0)) == (errno.EBADF, b"as it was")
    disk.close(fd)
    fd = disk.open(str(path))
    disk.write(fd, b"is changed", 0)
    disk.close(fd)
    assert path.read_bytes() == b"is changed"
