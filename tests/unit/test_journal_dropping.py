"""What is dropped or folded where a folder is full: to the byte, to the event, and nothing that is in a hand."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, URL, HookedDisk, closes, event
from tests.unit import test_journal_forged as forged

from eventpost.queues.journal import JournalQueue, inspect
from eventpost.queues.journal import format as fmt
from eventpost.watch.signals import Adopted, Signal

BOUND = 1 << 20
WRITER = "4194305.00000000aa"  # no process can have that number


class Room:
    """A folder of a MiB in which others left segments, and who needs room."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.disk = HookedDisk()
        self.path = folder
        self.queue = JournalQueue(folder, bytes_max=BOUND, disk=self.disk, **{"overflow": "drop_oldest"} | options)
        self.heard: list[Signal] = []
        self.queue.emit = self.heard.append

    def lies(self, number: int, *frames: bytes, events: int = 0, sealed: bool = True, outcomes: bytes = b"") -> int:
        """Let a dead writer's segment lie there; returns its size."""
        frames = frames or tuple(forged.event(ordinal) for ordinal in range(events))
        size = len(forged.segment(*frames))
        data = forged.segment(*frames, seal=(len(frames), size) if sealed else None, outcomes=outcomes)
        Path(self.queue.folder.segments, self.name(number)).write_bytes(data)
        return size

    @staticmethod
    def name(number: int) -> str:
        """Return a segment's name."""
        return f"{number:013d}-{WRITER}-{number:06d}.seg"

    def make(self, more: int) -> bool:
        """Make room for so many bytes more than are free."""
        return self.queue._keeper.make_room(BOUND - self.queue.folder.stored_bytes() + more)

    def open(self) -> int:
        """Return how many files this queue has open."""
        return len(self.disk._descriptors)

    def left(self) -> list[str]:
        """Return the segments that lie there."""
        return sorted(os.listdir(self.queue.folder.segments))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Give one; whatever was done there, the sum of the folder closes."""
    found = Room(tmp_path)
    yield found
    found.queue.close()
    assert inspect.folder_status(tmp_path).closes


def test_the_oldest_go_first_and_no_more_than_must(room: Room) -> None:
    """To the byte; each event of theirs is counted as adopted and lost, but what was settled."""
    first, second = room.lies(1, events=3, outcomes=forged.DELIVERED), room.lies(2, events=2)
    third = room.lies(3, events=1)
    assert room.make(0)
    assert len(room.left()) == 3
    assert room.make(first + 1)
    assert room.left() == [room.name(3)]
    room.lies(4, events=1)
    assert room.make(third)
    assert room.left() == [room.name(4)]
    stats = room.queue.stats()
    assert (stats.dropped, stats.adopted, stats.accepted, stats.delivered) == ({"overflow": 5}, 5, 5, 0)
    assert closes(stats)
    status = inspect.folder_status(room.path)
    assert (status.accepted, status.delivered, status.dropped) == (7, 1, {"overflow": 5})
    larger = room.lies(2, events=40)
    assert second < larger
    assert not room.make(larger + third + 1)  # all there is, and it is a byte too little
    assert room.left() == []
    assert room.queue.stats().dropped == {"overflow": 5 + 40 + 1}
    assert room.open() == 0


def test_of_a_segment_without_an_end_the_records_tell_how_many_there_are(room: Room) -> None:
    """Its writer was killed; an envelope is no event, whatever it says of itself, and none at all are none."""
    envelope = fmt.frame(fmt.Kind.ENVELOPE, 900, forged.AT_S, 5, b"[]")
    broken = bytearray(forged.event(1))
    broken[fmt.FRAME_HEAD_BYTES] ^= 1
    size = room.lies(1, forged.event(0), bytes(broken), forged.event(2), envelope, sealed=False)
    assert room.make(size)
    assert room.queue.stats().dropped == {"overflow": 3}
    size = room.lies(2, envelope, sealed=False)
    assert room.make(size)
    assert room.queue.stats().dropped == {"overflow": 3}
    assert (room.left(), room.open()) == ([], 0)


def test_what_others_have_in_hand_is_not_dropped(room: Room, tmp_path: Path) -> None:
    """A living writer's, what somebody sends, what is sent here, and what is written here: the next one goes."""
    room.lies(1, events=1)
    room.queue.scan()  # in hand here
    living = JournalQueue(tmp_path, adopt="never")
    living.put([event(1)])
    room.queue.put([event(2)])
    size = room.lies(2, events=1)
    room.lies(3, events=1)
    before, opened = room.left(), room.open()
    with Path(room.queue.folder.segments, room.name(2)).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert room.make(size)
        assert sorted(set(before) - set(room.left())) == [room.name(3)]
        assert not room.make(1)
        assert room.open() == opened
    assert room.make(size)
    assert room.queue.stats().dropped == {"overflow": 2}
    assert [lease.event.payload for lease in room.queue.claim(URL, 9, ALL)] == [b'{"n":0}', event(2).payload]
    living.close()
    assert any(isinstance(signal, Adopted) for signal in room.heard)


def test_an_event_whose_letter_lies_there_is_dead_and_not_lost(room: Room, tmp_path: Path) -> None:
    """Its writer died before it noted that."""
    letter = fmt.encode_dead({"reason": "http_400", "status": 400, "origin": f"{room.name(1)}:1"}, b"{}")
    dead = forged.segment(fmt.frame(fmt.Kind.DEAD, 0, forged.AT_S, 0, letter))
    (tmp_path / "dead" / room.name(9)).write_bytes(dead)
    size = room.lies(1, events=3)
    assert room.make(size)
    assert room.queue.stats().dropped == {"overflow": 2}
    status = inspect.folder_status(tmp_path)
    assert (status.accepted, status.dead, status.dropped) == (3, 1, {"overflow": 2})


def test_what_cannot_be_settled_stays_and_is_nobodys(room: Room) -> None:
    """It can be adopted after that; a file that can't be read stays, too."""
    room.lies(1, events=3)
    Path(room.queue.folder.segments, room.name(2)).write_bytes(b"noise")

    def fails(path: str) -> None:
        if path.endswith("/dead"):
            raise OSError(errno.EIO, "Input/output error")

    room.disk.hooks["names"] = fails
    assert not room.make(1)
    assert room.open() == 0

    def is_not_there(path: str, **_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    room.disk.hooks["open"] = is_not_there
    assert not room.make(1)
    assert room.left() == [room.name(1), room.name(2)]
    room.disk.hooks.clear()
    assert (room.queue.scan(), room.queue.pending(URL)) == (1, 3)
    assert len(room.queue.claim(URL, 9, ALL)) == 3


def test_who_refuses_drops_nothing(tmp_path: Path) -> None:
    """What is settled is folded all the same, and may be enough."""
    room = Room(tmp_path, overflow="refuse")
    size = room.lies(1, events=2)
    assert room.make(0)
    assert not room.make(1)
    room.queue.scan()
    room.queue.ack(room.queue.claim(URL, 9, ALL))
    assert room.left() == [room.name(1)]
    free = BOUND - room.queue.folder.stored_bytes()
    assert room.queue._keeper.make_room(free + size)
    assert (room.left(), room.queue.stats().dropped) == ([], {})
    room.queue.close()


def test_what_others_delivered_of_its_own_makes_room_for_who_only_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more of it than must be, and before anything is dropped; where it can't be looked at, there is no room."""
    room = Room(tmp_path, segment_bytes_max=1 << 18)
    room.queue.sends = False
    for number in range(4):
        room.queue.put([event(number, 200_000)])
    other = JournalQueue(tmp_path, adopt="always")
    other.scan()
    other.ack(other.claim(URL, 3, ALL))
    other.close()
    before = room.left()
    assert len(before) == 4
    assert room.make(0)
    assert room.left() == before
    for error in (OSError(errno.EIO, "Input/output error"), ValueError("damaged")):
        with monkeypatch.context() as patched:
            patched.setattr(room.queue._count, "reap_own", raising(error))
            patched.setattr(room.queue._store, "overflow", "refuse")
            assert not room.make(1)
    assert room.make(1)
    assert room.left() == before[1:]
    assert room.make(os.stat(f"{tmp_path}/segments/{before[1]}").st_size + 1)
    assert room.left() == before[3:]
    stats = room.queue.stats()
    assert (stats.accepted, stats.delivered, stats.queued, stats.dropped) == (4, 3, 1, {})
    room.queue.close()


def test_what_was_purged_of_an_own_segment_that_is_dropped_counts_once(tmp_path: Path) -> None:
    """Neither lost twice nor forgotten."""
    room = Room(tmp_path, segment_bytes_max=1 << 18)
    for number in range(3):
        room.queue.put([event(number, 200_000)])
    claims = room.queue._claims
    claims.lose("purged", claims.purged.add(claims.lanes[URL].own[0], [0]))
    assert not room.make(BOUND)
    stats = room.queue.stats()
    assert (stats.accepted, stats.queued, stats.dropped) == (3, 1, {"purged": 1, "overflow": 1})
    room.queue.close()
    assert inspect.folder_status(tmp_path).closes


def raising(error: Exception) -> Callable[..., Any]:
    """Return what raises this."""

    def raises(**_: object) -> Any:
        raise error

    return raises


def test_an_own_segment_that_is_dropped_keeps_what_others_delivered_of_it(tmp_path: Path) -> None:
    """Who only stores takes its count with it, and drops none that is open."""
    room = Room(tmp_path)
    room.queue.sends = False
    for number in range(2):
        room.queue.put([event(3 * number + one, 60_000) for one in range(3)])
    first, second = room.left()
    other = JournalQueue(tmp_path, adopt="always")
    other.scan()
    other.ack(other.claim(URL, 1, ALL))
    other.close()
    assert not room.make(BOUND)
    assert room.left() == [second]
    stats = room.queue.stats()
    assert (stats.accepted, stats.delivered, stats.queued, stats.dropped) == (6, 1, 3, {"overflow": 2})
    assert (stats.adopted, closes(stats)) == (0, True)
    assert first.split("-")[1] == room.queue._store.presence.name
    room.queue.close()
