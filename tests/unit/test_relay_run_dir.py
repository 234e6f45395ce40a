"""The folder that a relay's processes share: private, held by a lock, swept where its relay was killed."""

import os
import stat
import tempfile
import time

import pytest

from eventpost.queues.journal import Disk
from eventpost.relay.page.safety import shared_key
from eventpost.relay.run_dir import COUNTERS_BYTES, KEY, PREFIX, RunDir, take_room


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


def test_counters_take_their_room_at_once(temporary, monkeypatch):
    """Nothing is left to take later, when there may be none; where there is none now, nothing is shared."""
    assert take_room(str(temporary))
    made = [os.stat(temporary / name) for name in os.listdir(temporary)]
    assert len(made) == 3
    assert all(one.st_blocks * 512 >= one.st_size >= COUNTERS_BYTES for one in made)
    assert {stat.S_IMODE(one.st_mode) for one in made} == {0o600}

    (counter,) = temporary.glob("counter_*")
    counter.write_bytes(b"x" * COUNTERS_BYTES)
    assert take_room(str(temporary))
    assert counter.read_bytes() == b"x" * COUNTERS_BYTES
    monkeypatch.setattr(os, "pwrite", lambda _fd, data, _at: len(data) - 1)  # as a disk does that is nearly full
    (temporary / "full").mkdir()
    assert not take_room(str(temporary / "full"))
    assert os.listdir(temporary / "full") == []


def test_it_is_kept_young(temporary):
    """What removes old files finds none, however long the relay runs."""
    made = RunDir()
    made.tend(10_000.0)
    age(f"{made.path}/main.lock")
    made.tend(10_002.0)
    assert time.time() - os.stat(f"{made.path}/main.lock").st_mtime > 60
    made.tend(20_000.0)
    assert time.time() - os.stat(f"{made.path}/main.lock").st_mtime < 60
    made.remove()


@pytest.mark.parametrize("left", ["nothing", "folder", "key"])
def test_removed_by_somebody(temporary, left):
    """It is made anew in its place, private and held, with the key that browsers' cookies are signed with."""
    made = RunDir()
    key = shared_key(made.path)
    assert not made.tend(10_000.0)
    for name in os.listdir(made.path):
        if left != "key" or name != KEY:
            os.unlink(f"{made.path}/{name}")
    if left == "nothing":
        os.rmdir(made.path)
    assert made.tend(10_002.0)
    assert not made.tend(10_004.0)
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o700
    assert shared_key(made.path) == key
    fd = Disk().open(f"{made.path}/main.lock")
    assert not Disk().lock(fd)
    os.close(fd)
    made.remove()
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("by", ["open", "link"])
def test_somebody_elses_place(temporary, by):
    """What others could read or put there meanwhile is not used."""
    made = RunDir()
    os.unlink(f"{made.path}/main.lock")
    os.rmdir(made.path)
    if by == "open":
        os.mkdir(made.path)
        os.chmod(made.path, 0o755)
    else:
        (temporary / "else").mkdir(0o700)
        os.symlink(temporary / "else", made.path)
    assert not made.tend(10_000.0)
    assert os.listdir(made.path) == []


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
