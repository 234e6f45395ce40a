"""Whether a folder could take events: tried as a put would, step by step, and nothing stays."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support import HookedDisk

from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import PAGE_BYTES
from eventpost.queues.journal.probe import why_full_or_gone
from eventpost.queues.journal.store import SEGMENT_BYTES_MIN

STEPS = ["create", "allocate", "write", "datasync", "close", "unlink"]


def watched(tmp_path: Path, gid: int | None = None) -> tuple[Folder, HookedDisk, list[tuple[Any, ...]]]:
    """Return a folder, its disk, and what is asked of that."""
    disk, asked = HookedDisk(), list[tuple[Any, ...]]()
    folder = Folder(tmp_path, disk=disk, gid=gid, allow_network_fs=False)
    for step in STEPS:
        disk.hooks[step] = lambda *arguments, step=step, **named: asked.append((step, *arguments, *named.values()))
    return folder, disk, asked


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("gid", [None, os.getgid()])
def test_the_steps_of_a_new_segment_are_tried(tmp_path: Path, gid: int | None, *, durable: bool) -> None:
    """A file as a segment would be, for those who may use one, with blocks of its own; a sync where a put waits."""
    folder, _, asked = watched(tmp_path, gid)
    assert why_full_or_gone(folder, bytes_max=SEGMENT_BYTES_MIN, durable=durable) is None
    path, fd = asked[0][1], asked[1][1]
    assert os.path.dirname(path) == str(tmp_path)
    assert asked == [
        ("create", path, 0o600 if gid is None else 0o660, gid), ("allocate", fd, SEGMENT_BYTES_MIN, False),
        *([("write", fd, bytes(PAGE_BYTES), 0), ("datasync", fd)] if durable else []), ("close", fd), ("unlink", path),
    ]  # fmt: skip
    assert why_full_or_gone(folder, bytes_max=SEGMENT_BYTES_MIN - 1, durable=durable) == "queue_full"
    os.rmdir(folder.segments)
    assert why_full_or_gone(folder, bytes_max=SEGMENT_BYTES_MIN, durable=durable) == "folder_gone"


@pytest.mark.parametrize("step", STEPS[:-2])
@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, "disk_full"), (errno.EROFS, "permission")])
def test_what_fails_is_the_reason_and_leaves_nothing(tmp_path: Path, step: str, code: int, reason: str) -> None:
    """Whichever step it is."""
    folder, disk, _ = watched(tmp_path)

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    disk.hooks[step] = fails
    assert why_full_or_gone(folder, bytes_max=1 << 30, durable=True) == reason
    assert not disk._descriptors
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
