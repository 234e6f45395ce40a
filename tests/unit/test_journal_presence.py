"""How a process becomes a writer of a folder, stays one, and goes."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from tests.support import HookedDisk
from tests.unit.test_journal_room import in_another_thread

from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.presence import Presence
from eventpost.sender.primitives import RLock


@pytest.fixture
def disk() -> HookedDisk:
    """Give a disk that tells what is done."""
    return HookedDisk()


@pytest.fixture
def folder(tmp_path: Path, disk: HookedDisk) -> Folder:
    """Give a journal's folder."""
    return Folder(tmp_path / "j", disk=disk, gid=None, allow_network_fs=True)


@pytest.fixture
def presence(folder: Folder) -> Presence:
    """Give a process that is nobody yet."""
    return Presence(folder, RLock())


def locks(folder: Folder) -> list[str]:
    """Return the writers' locks that have a name."""
    return sorted(os.listdir(folder.writers))


def test_nobody_becomes_a_writer_once(folder: Folder, presence: Presence) -> None:
    """With a name and a lock that lives; entering again changes nothing."""
    assert (presence.name, presence.is_held) == ("", False)
    presence.enter()
    name = presence.name
    assert presence.is_held
    assert locks(folder) == [f"{name}.lock"]
    assert folder.is_alive(name)
    presence.enter()
    presence.enter_unlocked()
    assert (presence.name, locks(folder)) == (name, [f"{name}.lock"])


def test_who_is_a_writer_already_waits_for_no_put(folder: Folder) -> None:
    """A put in the middle of an open says so again, and who has the put lock may wait for it."""
    lock = RLock()
    presence = Presence(folder, lock)
    presence.enter()
    with lock:
        assert in_another_thread(lambda: presence.enter() or True)


def test_a_lock_whose_name_is_gone_is_made_anew_by_the_same_name(
    folder: Folder, presence: Presence, disk: HookedDisk
) -> None:
    """Segments tell their writer by it; the old descriptor is let go."""
    presence.enter()
    name, held = presence.name, len(disk._descriptors)
    os.unlink(f"{folder.writers}/{name}.lock")
    presence.enter()
    assert (presence.name, presence.is_held, locks(folder)) == (name, True, [f"{name}.lock"])
    assert folder.is_alive(name)
    assert len(disk._descriptors) == held
    shutil.rmtree(folder.writers)
    presence.enter()
    assert (presence.name, locks(folder)) == (name, [f"{name}.lock"])


def test_a_folder_that_is_gone_is_not_made_anew_by_who_was_there(folder: Folder, presence: Presence) -> None:
    """It may be a lost mount; who was never there makes it."""
    presence.enter()
    shutil.rmtree(folder.path)
    with pytest.raises(FileNotFoundError, match="the journal's folder is gone") as caught:
        presence.enter()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, folder.path)
    assert not os.path.exists(folder.path)
    other = Presence(folder, RLock())
    other.enter()
    assert locks(folder) == [f"{other.name}.lock"]


def test_of_two_who_enter_at_once_one_is_the_writer(folder: Folder, presence: Presence, disk: HookedDisk) -> None:
    """A signal handler's put in the middle of another's: whoever was first is, the other leaves nothing."""
    names: list[str] = []

    def handler(path: str, *_: object) -> None:
        if path.endswith(".lock"):
            disk.hooks.clear()
            presence.enter_unlocked()
            names.append(presence.name)

    disk.hooks["create"] = handler
    before = len(disk._descriptors)
    presence.enter()
    assert names == [presence.name]
    assert locks(folder) == [f"{presence.name}.lock"]
    assert len(disk._descriptors) == before + 1
    assert folder.is_alive(presence.name)


def test_of_two_who_make_a_lock_anew_at_once_one_does(folder: Folder, presence: Presence, disk: HookedDisk) -> None:
    """The other finds it made, and goes on with it."""
    presence.enter()
    name, held = presence.name, len(disk._descriptors)
    os.unlink(f"{folder.writers}/{name}.lock")

    def handler(path: str, *_: object) -> None:
        if path.endswith(".lock"):
            disk.hooks.clear()
            presence.enter_unlocked()

    disk.hooks["create"] = handler
    presence.enter()
    assert (presence.name, locks(folder), len(disk._descriptors)) == (name, [f"{name}.lock"], held)
    assert folder.is_alive(name)


def test_a_lock_of_another_by_this_name_is_an_error(folder: Folder, presence: Presence, disk: HookedDisk) -> None:
    """Nobody takes a name that somebody else has made meanwhile."""
    presence.enter()
    path = Path(folder.writers, f"{presence.name}.lock")
    path.unlink()
    path.touch()
    with pytest.raises(FileExistsError):
        presence.enter()


def test_the_names_on_the_way_are_synced_once(folder: Folder, presence: Presence, disk: HookedDisk) -> None:
    """Again after they were made again, and after a sync that failed."""
    synced: list[str] = []
    disk.hooks["sync_folder"] = synced.append
    presence.enter()
    for _ in range(2):
        presence.sync_path()
    assert synced.count(folder.path) == 1
    os.unlink(f"{folder.writers}/{presence.name}.lock")
    presence.enter()

    def fails(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk.hooks["sync_folder"] = fails
    with pytest.raises(OSError, match="Input/output error"):
        presence.sync_path()
    disk.hooks["sync_folder"] = synced.append
    for _ in range(2):
        presence.sync_path()
    assert synced.count(folder.path) == 2


@pytest.mark.parametrize("nothing_left", [True, False])
def test_who_leaves_lets_go_of_the_lock(
    folder: Folder, presence: Presence, disk: HookedDisk, *, nothing_left: bool
) -> None:
    """Its name goes first, while it is locked, where no segment tells of it; leaving twice is leaving."""
    before = len(disk._descriptors)
    presence.leave(nothing_left=nothing_left)
    presence.enter()
    name = presence.name
    calls: list[str] = []
    disk.hooks["unlink"] = lambda path: calls.append("unlink")
    disk.hooks["close"] = lambda fd: calls.append("close")
    presence.leave(nothing_left=nothing_left)
    assert calls == (["unlink", "close"] if nothing_left else ["close"])
    disk.hooks.clear()
    assert (presence.name, presence.is_held, len(disk._descriptors)) == (name, False, before)
    assert locks(folder) == ([] if nothing_left else [f"{name}.lock"])
    assert not folder.is_alive(name)
    presence.leave(nothing_left=nothing_left)
    assert len(disk._descriptors) == before


def test_a_lock_that_cannot_be_unlinked_is_let_go(folder: Folder, presence: Presence, disk: HookedDisk) -> None:
    """Its segments are anybody's all the same."""
    presence.enter()

    def fails(path: str) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    disk.hooks["unlink"] = fails
    with pytest.raises(OSError, match="Permission denied"):
        presence.leave(nothing_left=True)
    assert not presence.is_held
    assert not folder.is_alive(presence.name)
