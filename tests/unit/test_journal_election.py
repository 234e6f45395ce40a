"""Who looks for what others left: one of all, by a lock that the others can see."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tests.unit.test_journal_orphans import GONE, Looking, is_locked
from tests.unit.test_journal_status import lies, put

from eventpost.queues.journal import JournalQueue
from eventpost.watch.signals import Trouble


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    JournalQueue(tmp_path).close()


def test_one_is_elected_and_stays_so(tmp_path: Path) -> None:
    """It takes the lock once; the other looks for nothing, and opens nothing, until that one has left."""
    first, second = Looking(tmp_path), Looking(tmp_path)
    lies(tmp_path, 1, put(0))
    asked: list[str] = []
    first.disk.hooks["create"] = lambda path, *_: asked.append(path)
    assert [first.queue.scan(), second.queue.scan()] == [1, 0]
    lies(tmp_path, 2, put(0))
    assert [second.queue.scan(), first.queue.scan()] == [0, 1]
    assert [path for path in asked if path.endswith("scanner.lock")] == [f"{tmp_path}/scanner.lock"]
    assert second.open_files == 0
    first.queue.close()
    assert first.open_files == 0
    assert (second.queue.scan(), is_locked(tmp_path / "scanner.lock")) == (2, True)
    second.queue.close()
    assert not is_locked(tmp_path / "scanner.lock")


def test_a_lock_that_others_cannot_see_is_no_election(tmp_path: Path) -> None:
    """Somebody removed it, or made the folder anew: it is taken again, and not held twice."""
    looking = Looking(tmp_path)
    looking.queue.scan()
    (tmp_path / "scanner.lock").unlink()
    lies(tmp_path, 1, put(0))
    assert looking.queue.scan() == 1
    assert is_locked(tmp_path / "scanner.lock")
    assert looking.open_files == 2  # the lock and the segment
    (tmp_path / "scanner.lock").unlink()
    other = Looking(tmp_path)
    assert (other.queue.scan(), is_locked(tmp_path / "scanner.lock")) == (0, True)
    lies(tmp_path, 2, put(0))
    assert [looking.queue.scan(), other.queue.scan()] == [0, 1]
    looking.queue.close()
    other.queue.close()


def test_a_lock_whose_name_goes_as_it_is_taken_is_none(tmp_path: Path) -> None:
    """And it is not left open, nor where the system refuses a lock, which is told."""
    looking = Looking(tmp_path)
    looking.disk.hooks["still_named"] = lambda _, path: os.unlink(path) if path.endswith("scanner.lock") else None
    lies(tmp_path, 1, put(0))
    assert (looking.queue.scan(), looking.open_files) == (0, 0)

    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    looking.disk.hooks = {"lock": refuses}
    assert (looking.queue.scan(), looking.open_files) == (0, 0)
    (said,) = looking.told()
    assert isinstance(said, Trouble)
    assert (said.what, str(tmp_path) in said.detail, os.strerror(errno.ENOLCK) in said.detail) == (
        "journal",
        True,
        True,
    )
    looking.disk.hooks.clear()
    assert looking.queue.scan() == 1
    looking.queue.close()


def test_a_sender_of_its_own_looks_whoever_is_elected(tmp_path: Path) -> None:
    """And is elected as soon as nobody else is: the letters of others are looked after by one."""
    first, own = Looking(tmp_path), Looking(tmp_path, adopt="always")
    first.queue.scan()
    lies(tmp_path, 1, put(0))
    assert (own.queue.scan(), own.orphans.elected_fd) == (1, -1)
    first.queue.close()
    assert own.queue.scan() == 0
    held = own.orphans.elected_fd
    assert held >= 0
    own.queue.scan()
    assert own.orphans.elected_fd == held
    own.queue.close()


def test_who_never_adopts_does_not_even_ask(tmp_path: Path) -> None:
    """Nor does a queue that is closed."""
    lies(tmp_path, 1, put(0))
    never = Looking(tmp_path, adopt="never")
    closed = Looking(tmp_path)
    closed.queue.close()
    assert [never.queue.scan(), closed.queue.scan()] == [0, 0]
    assert not (tmp_path / "scanner.lock").exists()
    assert never.queue.left_to_adopt() == 1
    never.queue.close()


def test_a_queue_that_is_closed_while_it_looks_keeps_nothing(tmp_path: Path) -> None:
    """Neither the election nor a segment: others may take both at once."""
    for number in (1, 2):
        lies(tmp_path, number, put(0))
    for method, ends in (
        ("names", "/dead"),
        ("create", "scanner.lock"),
    ):  # before the adopting, and before the election
        looking = Looking(tmp_path)

        def closing(path: str, *_: object, looking: Looking = looking, ends: str = ends) -> None:
            if path.endswith(ends):
                looking.disk.hooks.clear()
                looking.queue.close()

        (tmp_path / "scanner.lock").unlink(missing_ok=True)
        looking.disk.hooks[method] = closing
        assert looking.queue.scan() == 0
        assert looking.open_files == 0
        assert not is_locked(tmp_path / "scanner.lock")
    other = Looking(tmp_path)
    assert other.queue.scan() == 2
    other.queue.close()


def test_what_changed_since_the_last_look_is_told_by_the_disk(tmp_path: Path) -> None:
    """What came within one tick of it would not show: then there is another look in any case."""
    looking = Looking(tmp_path)
    segments = tmp_path / "segments"
    now_s = looking.clock.time()
    assert looking.orphans.changed
    for at_s, changed in ((now_s - 1, False), (now_s - 0.06, False), (now_s - 0.04, True), (now_s + 0.04, True),
                          (now_s + 0.06, False), (now_s + 9, False)):  # fmt: skip
        os.utime(segments, (at_s, at_s))
        looking.queue.scan()
        assert looking.orphans.changed is changed
    os.utime(segments, (now_s - 5, now_s - 5))
    assert looking.orphans.changed
    looking.queue.close()


def test_a_look_sweeps_the_folder(tmp_path: Path) -> None:
    """The locks of the dead that left nothing."""
    (tmp_path / "writers" / f"{GONE}.lock").touch()
    looking = Looking(tmp_path)
    looking.queue.scan()
    assert os.listdir(tmp_path / "writers") == []
    looking.queue.close()
