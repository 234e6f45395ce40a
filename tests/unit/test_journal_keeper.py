"""What the keeper does, and when: by the clock, to the second; and what is dropped for room, to the event."""

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
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Adopted, Signal, Trouble

BOUND = 1 << 20
WRITER = "4194305.00000000aa"  # no process can have that number


class Diary:
    """A queue in a folder, and what its keeper does, each with the seconds since it began."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.clock = ManualClock(0.0)  # as on a machine that was just started: everything is due
        self.queue = JournalQueue(folder, clock=self.clock, **options)
        self.done: list[tuple[float, str]] = []
        queue = self.queue
        for what, owner, method in (
            ("sync", queue._store.syncs, "sync"), ("scan", queue._orphans, "scan"), ("look", queue._erasing, "look"),
            ("expire", queue._expiry, "expire"), ("reap", queue._count, "reap_own_dead"),
            ("lock", queue._store.presence, "enter"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, method, self._noting(what, getattr(owner, method)))

    def _noting(self, what: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **keywords: Any) -> Any:
            told = "".join(f" {name}={value}" for name, value in keywords.items())
            self.done.append((self.clock.monotonic(), what + told))
            return do(*arguments, **keywords)

        return noting

    def at(self, seconds: float) -> float | None:
        """Tend at this second; how long until the next time."""
        self.clock.advance(seconds - self.clock.monotonic())
        return self.queue.tend()

    def told(self) -> list[tuple[float, str]]:
        """Return what was done since the last time."""
        done, self.done = self.done, []
        return done


def test_who_is_elected_looks_every_five_seconds_and_expires_every_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything at once at first, nothing before its time, and the answer is when the next thing is due."""
    diary = Diary(tmp_path, monkeypatch)
    assert diary.at(0) == 5.0
    assert diary.told() == [(0, "look elected=False"), (0, "scan"), (0, "expire"), (0, "reap")]
    assert (diary.at(2), diary.at(4.5)) == (3.0, 0.5)
    assert diary.told() == []
    assert diary.at(5) == 5.0
    assert diary.told() == [(5, "look elected=True"), (5, "scan")]
    assert diary.at(59.5) == 5.0  # from when it was done, not from when it was due
    diary.told()
    assert diary.at(60) == 4.5
    assert diary.told() == [(60, "expire"), (60, "reap")]
    assert (diary.at(64.5), diary.at(119.5)) == (5.0, 5.0)
    assert [what for _, what in diary.told()] == ["look elected=True", "scan"] * 2
    diary.at(120)
    assert diary.told() == [(120, "expire"), (120, "reap")]
    diary.queue.close()


def test_who_never_adopts_looks_after_its_own_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, before the first put; then its lock, and what is asked of its segments; its letters once a minute."""
    diary = Diary(tmp_path, monkeypatch, adopt="never", sync_interval_s=0, scan_interval_s=7.0)
    assert diary.at(0) is None
    diary.queue.put([event(1), event(2)])
    diary.told()
    assert diary.at(1) == 7.0
    assert diary.told() == [(1, "lock"), (1, "look elected=False"), (1, "scan")]
    diary.queue.bury(diary.queue.claim(URL, 1, ALL), "rejected")
    diary.told()
    assert diary.at(2) == 6.0
    assert diary.told() == [(2, "reap")]
    assert diary.at(61.5) == 7.0
    assert [what for _, what in diary.told()] == ["lock", "look elected=False", "scan"]
    diary.at(62)
    assert diary.told() == [(62, "reap")]
    diary.queue.close()


def test_a_sender_of_its_own_looks_for_new_names_a_hundred_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan only where they changed; all that anybody may have left, every five seconds."""
    diary = Diary(tmp_path, monkeypatch, adopt="always")
    os.utime(tmp_path / "segments", (1, 1))
    assert diary.at(0) == pytest.approx(0.01)
    diary.told()
    assert diary.at(0.005) == pytest.approx(0.005)
    assert diary.at(1) == pytest.approx(0.01)
    assert diary.told() == []
    os.utime(tmp_path / "segments", (2, 2))
    assert diary.at(1.005) == pytest.approx(0.005)
    assert diary.told() == []
    assert diary.at(1.02) == pytest.approx(0.01)
    assert [what for _, what in diary.told()] == ["scan"]
    assert diary.at(5) == pytest.approx(0.01)
    assert diary.told() == [(5, "look elected=True"), (5, "scan")]
    diary.queue.close()


def test_who_sends_for_one_that_only_stores_looks_for_new_names_four_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as that one lives, and may begin another segment."""
    other = JournalQueue(tmp_path, adopt="never")
    other.sends = False
    other.put([event(1)])
    diary = Diary(tmp_path, monkeypatch)
    assert diary.at(0) == 0.25
    os.utime(tmp_path / "segments", (1, 1))
    diary.told()
    assert diary.at(0.125) == 0.125
    assert diary.told() == []
    assert diary.at(0.25) == 0.25
    assert diary.told() == [(0.25, "scan")]
    assert diary.at(0.5) == 0.25
    assert diary.told() == []
    other.close()
    diary.queue.ack(diary.queue.claim(URL, 9, ALL))
    assert diary.at(1) == 4.0
    diary.queue.close()


def test_while_a_purge_waits_for_what_is_out_it_is_looked_at_ten_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or as often as the folder is looked at anyway, if that is more."""
    for number, (interval_s, wait_s) in enumerate(((5.0, 0.1), (0.0625, 0.0625))):
        diary = Diary(tmp_path / str(number), monkeypatch, scan_interval_s=interval_s)
        monkeypatch.setattr(diary.queue._erasing, "recalls", True)
        monkeypatch.setattr(diary.queue._erasing, "look", lambda **_: None)
        assert diary.at(0) == pytest.approx(wait_s)
        diary.told()
        diary.at(0.125)
        assert diary.told() == [(0.125, "scan")]
        diary.queue.close()


def test_a_sync_is_due_while_something_is_not_safe_or_not_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A put wakes nobody, so a sender with a backlog asks each time; where nothing is left nothing is due."""
    diary = Diary(tmp_path, monkeypatch, adopt="never", sync_interval_s=0.5, scan_interval_s=100.0)
    queue = diary.queue
    assert diary.at(0) is None
    queue.put([event(1)])
    diary.at(0.125)
    assert [what for _, what in diary.told()] == ["lock", "lock", "look elected=False", "scan"]
    assert diary.at(0.25) == 0.25  # due half a second after it was asked for, not after a put
    assert diary.at(0.5) == 0.5
    assert diary.told() == [(0.5, "sync")]
    (lease,) = queue.claim(URL, 9, ALL)
    assert diary.at(1.0) == 0.5  # all is safe, and one is out
    assert diary.told() == []
    queue.ack([lease])
    assert diary.at(1.5) == 98.625
    assert diary.told() == []
    queue.put([event(2)])
    queue.ack(queue.claim(URL, 9, ALL))
    assert diary.at(2.0) == 0.5  # it was synced just now
    assert diary.told() == [(2.0, "sync")]
    assert diary.at(2.5) == 97.625
    queue.close()


@pytest.mark.parametrize("options", [{"durability": "fsync"}, {"sync_interval_s": 0}])
def test_nobody_syncs_in_the_background_who_was_not_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """At ``fsync`` each put does; an interval of zero means never."""
    diary = Diary(tmp_path, monkeypatch, scan_interval_s=30.0, **options)
    diary.queue.put([event(1)])
    assert diary.at(0) == 30.0
    assert diary.at(29) == 1.0
    assert "sync" not in [what for _, what in diary.told()]
    diary.queue.close()


def test_a_sync_that_fails_is_told_with_its_folder(tmp_path: Path) -> None:
    """And the queue goes on; a second sync would say that all is well, so what was asked for is not asked for again."""
    disk, heard = HookedDisk(), list[Signal]()
    queue = JournalQueue(tmp_path, disk=disk)
    queue.emit = heard.append
    queue.put([event(1)])

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk.hooks["datasync"] = fails
    queue.tend()
    queue.tend()
    assert heard == [Trouble("journal", f"{tmp_path} cannot be synced")]
    disk.hooks.clear()
    queue.close()


def test_a_lock_that_cannot_be_made_anew_is_told_with_its_folder(tmp_path: Path) -> None:
    """Others take this process for dead from then on."""
    disk, heard = HookedDisk(), list[Signal]()
    queue = JournalQueue(tmp_path, disk=disk, adopt="never")
    queue.emit = heard.append
    queue.put([event(1)])
    for lock in (tmp_path / "writers").iterdir():
        lock.unlink()

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    disk.hooks["create"] = fails
    queue.tend()
    assert heard == [Trouble("journal", f"{tmp_path} cannot be used any more: No space left on device")]
    disk.hooks.clear()
    queue.close()


# -- room


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
