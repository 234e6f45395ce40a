"""The putting side of a journal, where room, the disk or another put is in its way."""

import errno
from pathlib import Path

import pytest
from tests.support import URL, HookedDisk, event

from eventpost.errors import QueueFull, QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues.journal import JournalQueue
from eventpost.queues.journal.room import NoRoom


@pytest.mark.parametrize(("taken", "looks"), [(0, 1), (1, 2), (2, 3), (9, 10), (1000, 11)])
def test_room_that_others_take_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, taken: int, looks: int
) -> None:
    """Other processes put, too: room is made up to ten times for a put, and then it is refused."""
    queue = JournalQueue(tmp_path / "j")
    room = queue._store._room
    looked: list[int] = []

    def find(size: int, **_: object) -> None:
        looked.append(size)
        if len(looked) <= taken:
            raise NoRoom("taken by another", size, 0.0)

    monkeypatch.setattr(room, "find", find)
    monkeypatch.setattr(room, "is_made", lambda _full: True)
    if looks <= taken:
        with pytest.raises(QueueFull):
            queue.put([event(1)])
    else:
        queue.put([event(1)])
    assert len(looked) == looks
    assert queue.stats().queued == (looks > taken)
    queue.close()


def test_a_put_aside_that_cannot_become_a_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that interrupts the opening of a file, on a full disk: no yes without an event that is stored."""
    disk = HookedDisk()
    queue = JournalQueue(tmp_path / "j", disk=disk)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(queue._store, "_is_opening", lambda: True)
    disk.hooks["lock"] = full
    with pytest.raises(QueueUnavailable, match="No space left on device"):
        queue.put([event(1)])
    disk.hooks.clear()
    queue.put([event(2)])
    assert (queue.stats().accepted, queue.stats().queued) == (1, 1)
    queue.close()


def test_a_larger_segment_has_room_for_the_outcomes_of_more_events(tmp_path: Path) -> None:
    """Of half a megabyte on it ends only for events of less than 128 bytes on average, not after 4,096 of any size."""
    queue = JournalQueue(tmp_path / "j")
    small = Envelope(URL)
    for _ in range(2):  # the second segment is twice as large as the first, and half of it is free
        queue.put([Event(small, b"x" * 400_000)])
    before = {path.name for path in (tmp_path / "j/segments").glob("*.seg")}
    for _ in range(2):
        queue.put([Event(small, b"x" * 40)] * 2500)
    assert {path.name for path in (tmp_path / "j/segments").glob("*.seg")} == before
    queue.close()
