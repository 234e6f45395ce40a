"""The putting side of a journal, where room, the disk or another put is in its way."""

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support import URL, HookedDisk, event
from tests.unit.test_journal_puts import LANES, Storing, refuse
from tests.unit.test_journal_puts import event as one
from tests.unit.test_journal_room import in_another_thread

from eventpost.errors import QueueFull, QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues.journal import JournalQueue
from eventpost.queues.journal import store as store_module
from eventpost.queues.journal.room import NoRoom
from eventpost.queues.journal.segment import SegmentWriter
from eventpost.sender.primitives import get_ident


@pytest.fixture
def storing(tmp_path: Path) -> Storing:
    """Give one that promises at ``os``."""
    return Storing(tmp_path)


@pytest.fixture
def durable(tmp_path: Path) -> Storing:
    """Give one that promises at ``fsync``."""
    return Storing(tmp_path, durable=True)


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


# -- all of a put or none of it


class Torn:
    """A writer's window that fails at the ``at``-th store."""

    def __init__(self, mapped: Any, at: int) -> None:
        self.mapped, self.left = mapped, at

    def __getitem__(self, key: slice) -> bytes:
        """Read."""
        return bytes(self.mapped[key])

    def __setitem__(self, key: slice, value: bytes) -> None:
        """Store, or fail."""
        self.left -= 1
        if not self.left:
            refuse()
        self.mapped[key] = value


def test_nobody_sees_a_part_of_a_put(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several endpoints neither; all of it once it is stored."""
    storing.put(one(b"before", LANES[0]))
    seen: list[list[bytes]] = []
    append = SegmentWriter.append

    def look(writer: SegmentWriter, *words: Any) -> None:
        append(writer, *words)
        seen.append(storing.claimed(*LANES))

    monkeypatch.setattr(SegmentWriter, "append", look)
    storing.put(one(b"a", LANES[0]), one(b"b", LANES[1]), one(b"A", LANES[0]), one(b"B", LANES[1]))
    assert seen == [[b"before"], [], [], []]
    assert storing.claimed(*LANES) == [b"a", b"A", b"b", b"B"]
    assert all(writer.hold is None for writer in storing.open())


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_store_that_fails_leaves_nothing_of_its_put(storing: Storing, at: int) -> None:
    """What was there before stays, in segments that end before it; the next put is whole."""
    storing.put(*[one(b"before", url) for url in LANES[:2]])
    for writer in (before := storing.open()):
        writer.map = Torn(writer.map, at if writer.header.lane == LANES[1] else 99)  # type: ignore[assignment]
    assert storing.refused(*[one(b"%d" % n, LANES[n % 2]) for n in range(6)]) == "disk"
    assert ([writer.sealed for writer in before], storing.open(), storing.store.accepted()) == ([True, True], [], 2)
    storing.put(*[one(b"after", url) for url in LANES[:2]])
    assert storing.claimed(*LANES[:2]) == [b"before", b"after"] * 2
    assert (storing.store.accepted(), storing.store._depth) == (4, 0)


@pytest.mark.parametrize("defines", [False, True])
def test_an_append_that_fails_ends_its_segment(storing: Storing, *, defines: bool) -> None:
    """At the last promised event, and before a definition that is half there; that of another endpoint stays."""
    storing.put(one(b"before"), one(b"other", LANES[0]))
    before, other = storing.open()
    before.map = Torn(before.map, 1)  # type: ignore[assignment]
    assert storing.refused(one(b"lost", verb="PUT" if defines else "POST")) == "disk"
    assert (before.sealed, storing.open(), storing.store.accepted()) == (True, [other], 2)
    storing.put(one(b"after"))
    assert storing.claimed(URL, LANES[0]) == [b"before", b"after", b"other"]


def test_an_interruption_is_raised_as_it_is(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the append its event is not stored; after it, it is, and nothing ends."""
    append, late = SegmentWriter.append, [True]
    storing.put(one(b"before"))

    def interrupted(writer: SegmentWriter, *words: Any) -> None:
        if late[0]:
            append(writer, *words)
        raise KeyboardInterrupt

    monkeypatch.setattr(SegmentWriter, "append", interrupted)
    for late[0], is_open in ((True, 1), (False, 0)):
        with pytest.raises(KeyboardInterrupt):
            storing.put(one(b"now"))
        assert (len(storing.open()), storing.store._depth) == (is_open, 0)
    assert storing.store.accepted() == 2
    with pytest.raises(KeyboardInterrupt):
        storing.put(one(), one())
    assert storing.store.accepted() == 2


def test_want_of_room_for_one_endpoint_refuses_all(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is stored; and what a put is about to append to is not given back for its own room."""
    storing.put(one(b"a", LANES[0]), one(b"c", LANES[2]))
    first, third = storing.open()
    asked: list[dict[str, Any]] = []

    def full(size: int, **options: Any) -> None:
        asked.append({"size": size, **options})
        options["give_back"]()
        raise NoRoom("full", size, None)

    monkeypatch.setattr(storing.store._room, "find", full)
    with pytest.raises(QueueFull):
        storing.put(one(b"lost", LANES[0]), one(b"lost", LANES[1]))
    assert [(one["size"], one["may_make"]) for one in asked] == [(1 << 18, True)]
    assert (first.sealed, third.sealed, first.hold, storing.open()) == (False, True, None, [first])
    assert (storing.store.accepted(), storing.claimed(*LANES)) == (2, [b"a", b"c"])


@pytest.mark.parametrize(("error", "reason", "said"), [
    (OSError(errno.ENOSPC, "No space left on device"), "disk_full", "cannot be stored: No space left on device"),
    (OSError("odd"), "disk", "cannot be stored: odd"),
])  # fmt: skip
def test_a_refusal_says_what_the_disk_said(storing: Storing, error: OSError, reason: str, said: str) -> None:
    """And carries it."""

    def fails(*_: object, **__: object) -> None:
        raise error

    storing.disk.hooks["allocate"] = fails
    with pytest.raises(QueueUnavailable) as refused:
        storing.put(one())
    assert (refused.value.reason, str(refused.value), refused.value.__cause__) == (reason, said, error)
    assert storing.store.accepted() == 0


# -- puts that interrupt puts


def test_puts_may_interrupt_each_other_sixteen_deep(storing: Storing) -> None:
    """Each with segments of its own; one more is refused, and all is as before."""
    reasons: list[str | None] = []

    def handler(*_: object, **__: object) -> None:
        try:
            storing.put(one())
        except QueueUnavailable as refused:
            reasons.append(refused.reason)

    storing.disk.hooks["allocate"] = handler
    storing.put(one())
    assert (reasons, storing.store._depth, storing.store.accepted()) == (["reentrant"], 0, 16)
    assert [len(storing.open(depth)) for depth in range(16)] == [1] * 16
    storing.disk.hooks.clear()
    assert len(storing.store._open_writers()) == 16
    for closed in range(2):
        storing.store.close()
        assert (storing.refused(one()), storing.refused(one(), one())) == ("closed", "closed")
        assert [len(storing.open(depth)) for depth in range(16)] == [0] * 16
        assert (storing.store.accepted(), storing.store.closed, closed in {0, 1}) == (16, True, True)
    assert len(storing.claimed()) == 16


def test_a_put_aside_has_segments_that_end_with_it(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for nobody, also not to become a writer; sixteen of them may interrupt each other."""
    reasons: list[str | None] = []
    with storing.store.lock:
        monkeypatch.setattr(storing.store, "_is_opening", lambda: True)
        assert in_another_thread(lambda: storing.put(one(b"a"), one(b"b", LANES[0])) or True)
    assert ([one.sealed for one in storing.writers()], storing.store.accepted()) == ([True, True], 2)

    def handler(*_: object, **__: object) -> None:
        try:
            storing.put(one())
        except QueueUnavailable as refused:
            reasons.append(refused.reason)

    storing.disk.hooks["allocate"] = handler
    for rounds in (1, 2):
        storing.put(one())
        assert (reasons, storing.store.accepted()) == (["reentrant"] * rounds, 2 + 16 * rounds)
    storing.disk.hooks["allocate"] = refuse
    assert storing.refused(one()) == "disk"
    storing.disk.hooks.clear()
    storing.store.closed = True
    assert storing.refused(one()) == "closed"
    assert all(writer.sealed for writer in storing.writers())
    assert len(storing.claimed(URL, LANES[0])) == storing.store.accepted() == 34


def test_nobody_makes_room_for_a_put_aside(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the middle of what room is made with; nor for those that interrupt it."""
    asked: list[bool] = []

    def find(_size: int, **options: Any) -> None:
        asked.append(options["may_make"])
        if len(asked) < 16:
            storing.put(one())

    monkeypatch.setattr(storing.store, "_is_opening", lambda: True)
    monkeypatch.setattr(storing.store._room, "find", find)
    storing.put(one())
    assert asked == [False] * 16


def test_a_put_that_closes_comes_before_the_close(storing: Storing) -> None:
    """What a handler closes in the middle of a put is closed at its end."""
    closed: list[int] = []
    storing.disk.hooks["allocate"] = lambda *_, **__: storing.store.close_later(
        lambda: closed.append(storing.store.accepted())
    )
    storing.put(one())
    assert closed == [1]
    assert storing.refused(one()) == "closed"


def test_in_a_forked_child_nothing_of_the_parents_is_ended(storing: Storing) -> None:
    """A put that a fork interrupted is refused there."""
    storing.put(one(b"a"))
    [writer] = storing.open()
    level = storing.store._levels[0]
    storing.store.reset()
    for depth in (0, 1, 15):
        with pytest.raises(QueueUnavailable) as refused:
            storing.store._give_up(level, depth, writer, 0, 0)
        assert refused.value.reason == "forked"
    assert (writer.count, writer.sealed) == (1, False)
    storing.disk.unlink(writer.path)
    with pytest.raises(QueueUnavailable):
        storing.store._if_there(level, 0, writer, 1)
    assert writer.sealed is False
    storing.store._check_own({}, 16)  # a put aside has none that outlive it


# -- waiting for room


class Waiting(Storing):
    """A store that waits for room up to a second; ``fails``: how often none is found, ``made``: can it be made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, fails: int, made: Sequence[bool] = ()) -> None:
        super().__init__(folder, overflow="block", block_timeout_s=1.0)
        self.fails, self.made, self.looks = fails, list(made), 0
        monkeypatch.setattr(store_module, "pause", self.pause)
        monkeypatch.setattr(self.store._room, "find", self.find)
        monkeypatch.setattr(self.store._room, "is_made", lambda full: self.made.pop(0) if self.made and full else False)

    def pause(self, seconds: float) -> None:
        """Let a quarter of a second go by."""
        assert 0 < seconds <= 0.05  # so soon it is seen
        self.pauses.append(seconds)
        self.clock.advance(0.25)

    def find(self, size: int, **_: object) -> None:
        """Find none."""
        self.looks += 1
        if self.looks <= self.fails:
            raise NoRoom("full", size, 0.0)


@pytest.mark.parametrize(("fails", "pauses", "stored"), [(0, 0, 1), (1, 1, 1), (3, 3, 1), (5, 4, 1), (6, 4, 0)])
def test_a_put_waits_for_room_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int, pauses: int, stored: int
) -> None:
    """It is stored as soon as there is some, and refused when the time is over, after a last look."""
    storing = Waiting(tmp_path, monkeypatch, fails=fails)
    if stored:
        storing.put(one())
    else:
        with pytest.raises(QueueFull):
            storing.put(one())
    assert (len(storing.pauses), storing.store.accepted()) == (pauses, stored)
    assert storing.looks == min(fails + 1, 6)


def test_who_would_make_the_room_does_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor who says so, nor who interrupts a put; such a put is refused at once."""
    storing = Waiting(tmp_path, monkeypatch, fails=99)
    storing.claims.claimer = get_ident()
    with pytest.raises(QueueFull):
        storing.put(one())
    storing.claims.claimer = None
    with pytest.raises(QueueFull):
        storing.put(one(), wait=False)
    with storing.store.lock, pytest.raises(QueueFull):
        storing.put(one())
    assert (storing.pauses, storing.store.accepted()) == ([], 0)
    storing.store.overflow = "refuse"
    with pytest.raises(QueueFull):
        storing.put(one())
    assert storing.pauses == []


@pytest.mark.parametrize("wait", [True, False])
def test_room_that_was_made_and_taken_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, wait: bool
) -> None:
    """As long as for any; or not at all, as it was asked."""
    storing = Waiting(tmp_path, monkeypatch, fails=2, made=[True])
    if wait:
        storing.put(one(), wait=wait)
    else:
        with pytest.raises(QueueFull):
            storing.put(one(), wait=wait)
    assert (len(storing.pauses), storing.store.accepted(), storing.made) == (wait, wait, [])
