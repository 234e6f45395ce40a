"""What every journal does as it begins, fails and ends, each on the smallest one that shows it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, URL, event
from tests.unit.test_journal_home import Log, folder_in
from tests.unit.test_journal_queue import at, refusing
from tests.unit.test_journal_status import lies, name, put

from eventpost.errors import JournalUnusable
from eventpost.queues.journal import JournalQueue, orphans
from eventpost.queues.journal import folder as folder_module
from eventpost.queues.journal.folder import resolved
from eventpost.testing.clock import ManualClock


def without_syncs(queue: JournalQueue) -> JournalQueue:
    """Let a queue's disk not wait for the device."""
    queue.folder.disk.datasync = lambda _fd: None  # type: ignore[method-assign]  # it is not what is looked at
    return queue


@pytest.mark.parametrize(
    ("gid", "folder_mode", "file_mode"), [(None, 0o700, 0o600), (os.getgid(), 0o2770, 0o660)], ids=["own", "shared"]
)
def test_a_folder_is_tried_as_it_will_be_used(
    tmp_path: Path, gid: int | None, folder_mode: int, file_mode: int
) -> None:
    """By files and folders of its user, or of its group."""
    disk = Log("create", "make_folder")
    folder_in(tmp_path, disk, gid)
    assert {one[2:] for one in disk.log if one[0] == "make_folder"} == {(folder_mode, gid)}
    assert [one[2:] for one in disk.log if one[0] == "create"] == [(file_mode, gid)]


def test_locks_and_notes_are_their_folders(tmp_path: Path) -> None:
    """For its group to use, too."""
    gid = os.getgid()
    disk = Log()
    folder = folder_in(tmp_path, disk, gid)
    disk.hooks["create"] = lambda *asked: disk.log.append(asked[1:])
    disk.close(folder.create_lock(f"{folder.path}/x.lock"))
    folder.disk.datasync = lambda _fd: None  # type: ignore[method-assign]  # it is not what is looked at
    folder.write_note("x.json", {})
    disk.close(folder.enter()[1])
    assert disk.log == [(0o660, gid)] * 3


def test_who_asks_whether_a_writer_lives_buries_nobody(tmp_path: Path) -> None:
    """Unless it says so."""
    folder = folder_in(tmp_path)
    lock = Path(folder.writers, "4194305.aa.lock")
    lock.touch()
    assert not folder.is_alive("4194305.aa")
    assert lock.exists()
    assert not folder.is_alive("4194305.aa", bury=True)
    assert not lock.exists()


@pytest.mark.parametrize(
    ("mode", "shared"), [(0o2770, True), (0o2771, True), (0o770, False), (0o2760, False), (0o2700, False)]
)
def test_a_folder_is_shared_by_its_mode(tmp_path: Path, mode: int, *, shared: bool) -> None:
    """The group's bit, and all that a group may do."""
    (tmp_path / "j").mkdir()
    (tmp_path / "j").chmod(mode)
    assert folder_in(tmp_path / "j").file_mode == (0o660 if shared else 0o600)


@pytest.mark.parametrize("asks", [0, 1, 12345])
def test_only_root_makes_files_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: int) -> None:
    """Whoever else is asked to, makes its own."""
    folder = folder_in(tmp_path / "j")
    seen = os.stat_result((0o40700, 1, 1, 1, 12345, 1, 0, 0, 0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: asks)
    monkeypatch.setattr(os, "stat", lambda _path: seen)
    folder._follow_owner()
    assert folder.disk.uid == (12345 if asks == 0 else None)


def test_a_path_that_is_none_is_said_plainly() -> None:
    """Nothing about a home where none was named."""
    with pytest.raises(ValueError, match=r"^path='': must name a folder$"):
        resolved("")


def test_a_queue_asks_its_keeper_for_room_and_for_tidiness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each endpoint two segments at most, for a put waits for it."""
    queue = JournalQueue(tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr(queue._keeper, "make_room", lambda wanted: asked.append(wanted) or True)
    monkeypatch.setattr(queue._count, "reap_own", lambda **wanted: asked.append(wanted))
    assert queue._store._make_room(7)
    queue._store._reap()
    assert asked == [7, {"oldest": 2}]


def test_a_letter_that_finds_no_room_is_due_in_a_minute(tmp_path: Path) -> None:
    """At every level."""
    queue, disk, _ = at(ManualClock(), tmp_path)
    queue.put([event(1)])
    leases = queue.claim(URL, 1, ALL)
    disk.hooks["create"] = refusing(errno.ENOSPC)
    queue.bury(leases, "rejected")
    assert queue.next_due_s() == 60.0


def test_what_is_not_safe_is_synced_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segments that a put has begun, as they are."""
    queue = JournalQueue(tmp_path, adopt="never", clock=ManualClock())
    queue.put([event(1)])
    asked: list[Any] = []
    monkeypatch.setattr(queue._store.syncs, "sync", lambda some: asked.append(some) or True)
    queue.tend()
    assert asked == [queue._store.syncs.unsynced()]
    assert len(asked[0]) == 1


def test_letters_are_looked_after_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who is elected."""
    clock = ManualClock(0.0)
    queue = JournalQueue(tmp_path, clock=clock)
    done: list[float] = []
    monkeypatch.setattr(queue._expiry, "expire", lambda: done.append(clock.monotonic()))
    for after_s in (0.0, 59.5, 0.5, 59.5, 0.5):
        clock.advance(after_s)
        queue.tend()
    assert done == [0.0, 60.0, 120.0]
    queue.close()


def test_a_backlog_is_synced_in_parts_and_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender does what else it has to between them."""
    queue = JournalQueue(tmp_path, adopt="never", clock=ManualClock())
    backlog, asked = list(range(9)), list[Any]()
    monkeypatch.setattr(queue._store.syncs, "unsynced", lambda: backlog)
    monkeypatch.setattr(queue._store.syncs, "sync", lambda some: asked.extend(some) or True)
    assert queue.tend() == 0.0
    assert 0 < len(asked) < len(backlog)
    assert queue.tend() == 1.0
    assert asked == backlog


@pytest.mark.parametrize(("sends", "more", "asked"), [(False, 1, [{"bytes_wanted": 1}]), (False, 0, []), (True, 5, [])])
def test_room_is_made_of_what_others_settled_by_who_only_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool, more: int, asked: list[Any]
) -> None:
    """As much as is wanted, and where some is."""
    queue = JournalQueue(tmp_path)
    queue.sends = sends
    found: list[Any] = []
    monkeypatch.setattr(queue._count, "reap_own", lambda **wanted: found.append(wanted) or wanted["bytes_wanted"])
    assert queue._keeper.make_room((4 << 30) + more) is not (sends and more > 0)
    assert found == asked


@pytest.mark.parametrize("acked", [1, 2])
def test_an_end_leaves_a_lock_only_with_something_under_it(tmp_path: Path, acked: int) -> None:
    """And a segment only with something in it."""
    queue = without_syncs(JournalQueue(tmp_path))
    queue.put([event(1), event(2)])
    queue.ack(queue.claim(URL, 2, ALL)[:acked])
    queue.close()
    assert [len(os.listdir(tmp_path / part)) for part in ("segments", "writers")] == [2 - acked, 2 - acked]


@pytest.mark.parametrize("sends", [True, False])
def test_an_end_folds_what_others_settled_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool
) -> None:
    """Where it only stores, all of it; a sender has none that others settle."""
    queue = without_syncs(JournalQueue(tmp_path))
    queue.sends = sends
    queue.put([event(1)])
    asked: list[Any] = []
    monkeypatch.setattr(queue._count, "reap_own", lambda **wanted: asked.append(wanted))
    queue.close()
    assert asked == ([] if sends else [{}])


def test_shares_are_kept_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of whatever comes first, then two of each endpoint, those that it has already among them, six in all."""
    monkeypatch.setattr(orphans, "_ADOPTED_MAX", 3)
    monkeypatch.setattr(orphans, "_ADOPTED_EXTRA", 3)
    monkeypatch.setattr(orphans, "_ADOPTED_OF_LANE", 2)
    queue = JournalQueue(tmp_path)
    for number, lane in enumerate("aaabbbcd"):
        lies(tmp_path, number, put(0), lane=f"{URL}/{lane}")
    assert queue.scan() == 6
    assert sorted(cursor.name for cursor in queue._claims.open) == [name(number) for number in (0, 1, 2, 3, 4, 6)]
    assert (queue.scan(), queue.left_to_adopt()) == (0, 2)
    queue.close()


def test_what_is_taken_in_every_look_counts_for_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what is taken in one does."""
    monkeypatch.setattr(orphans, "_ADOPTED_MAX", 2)
    monkeypatch.setattr(orphans, "_ADOPTED_EXTRA", 9)
    monkeypatch.setattr(orphans, "_ADOPTED_OF_LANE", 2)
    queue = JournalQueue(tmp_path, adopt="always")
    taken = []
    for number, lane in enumerate("ababab"):
        lies(tmp_path, number, put(0), lane=f"{URL}/{lane}")
        taken.append(queue.scan())
    assert taken == [1, 1, 1, 1, 0, 0]
    queue.close()


def test_the_first_beyond_the_bound_is_held_to_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the second."""
    monkeypatch.setattr(orphans, "_ADOPTED_MAX", 1)
    monkeypatch.setattr(orphans, "_ADOPTED_OF_LANE", 1)
    queue = JournalQueue(tmp_path)
    for number in (1, 2):
        lies(tmp_path, number, put(0))
    assert queue.scan() == 1


def test_what_cannot_be_had_hides_nothing_that_is_left_to_adopt(tmp_path: Path) -> None:
    """What is damaged, settled, a living sender's, or refuses its lock; nor does any of it count."""
    queue, disk, _ = at(ManualClock(), tmp_path)
    (tmp_path / "segments" / name(1)).write_bytes(b"noise")
    lies(tmp_path, 2, put(0), sealed=1, outcomes=[0xD1])
    for number in (3, 4, 5):
        lies(tmp_path, number, put(0))
    living, _ = queue.folder.enter()
    os.rename(tmp_path / "segments" / name(3), tmp_path / "segments" / name(3).replace("4194305.aa", living))
    refused = [os.stat(tmp_path / "segments" / name(4)).st_ino]

    def lock(fd: int, **_: object) -> None:
        if os.fstat(fd).st_ino in refused:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    disk.hooks["lock"] = lock
    assert queue.left_to_adopt() == 1
    refused.clear()
    assert queue.left_to_adopt() == 2


def test_without_locks_there_is_a_queue_to_use_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and nothing is made."""
    monkeypatch.setattr(folder_module, "HAS_LOCKS", False)
    with pytest.raises(JournalUnusable, match="MemoryQueue"):
        JournalQueue(tmp_path / "j")
    assert not (tmp_path / "j").exists()


def test_what_is_done_with_is_left_until_its_writer_is_dead(tmp_path: Path) -> None:
    """A living one folds it itself."""
    queue = JournalQueue(tmp_path)
    lies(tmp_path, 1, put(0))
    queue._claims.finished.add(name(1))
    assert queue.left_to_adopt() == 1
    queue._orphans._alive["4194305.aa"] = (queue.clock.monotonic() + 60, True)
    assert queue.left_to_adopt() == 0


def test_folders_above_that_are_not_ours_to_sync_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's own is not."""
    folder = folder_in(tmp_path)
    asked: list[str] = []

    def sync_folder(path: str) -> None:
        asked.append(path)
        if path != folder.path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(folder.disk, "sync_folder", sync_folder)
    folder.sync_path()
    assert asked == [folder.path, *(str(above) for above in Path(folder.path).parents)]
