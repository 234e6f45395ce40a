"""The folder that a relay's processes share: private, held by a lock, swept where its relay was killed."""

import os
import stat
import tempfile
import time

import pytest

from eventpost.queues.journal import Disk
from eventpost.relay.run_dir import PREFIX, RunDir


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the folder in which run_dirs are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def age(path):
    """Let a folder look old."""
    os.utime(path, (time.time() - 3600, time.time() - 3600))


def test_it_is_private_and_goes(temporary):
    """Nobody else may look into it, and nothing is left of it."""
    made = RunDir()
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o700
    made.remove()
    assert os.listdir(temporary) == []


def test_what_a_killed_relay_left_is_removed(temporary):
    """The next relay removes it, but for what is held, what is young, and what is something else."""
    left, held, young = RunDir(), RunDir(), RunDir()
    left._disk.close(left._fd)  # as the kernel does it
    young._disk.close(young._fd)
    (temporary / "else").mkdir()
    (temporary / f"{PREFIX}of-no-relay").mkdir()
    (temporary / f"{PREFIX}link").symlink_to(temporary / "else")
    for name in os.listdir(temporary):
        if os.path.join(temporary, name) != young.path:
            age(temporary / name)
    newest = RunDir()
    there = {os.path.join(temporary, name) for name in os.listdir(temporary)}
    assert left.path not in there
    assert {held.path, young.path, newest.path, str(temporary / "else"), f"{temporary}/{PREFIX}link"} <= there
    fd = Disk().open(f"{held.path}/main.lock")
    assert not Disk().lock(fd)
    os.close(fd)
    held.remove()
    newest.remove()
