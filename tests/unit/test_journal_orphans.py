"""The search for what others left: what may be taken, how much of it, and what is left alone."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support import ALL, URL, HookedDisk, event
from tests.unit.test_journal_hands import BIG, queue_in
from tests.unit.test_journal_status import letter, lies, name, put

from eventpost.queues.journal import JournalQueue, inspect
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.format import Outcome
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Adopted, Damaged, Signal, Trouble

GONE = "4194305.aa"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    JournalQueue(tmp_path).close()


class Looking:
    """A queue that looks for what others left in a folder, on a clock of its own."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.disk, self.clock = HookedDisk(), ManualClock()
        self.queue = JournalQueue(folder, disk=self.disk, clock=self.clock, **options)
        self.orphans = self.queue._orphans
        self.heard: list[Signal] = []
        self.queue.emit = self.heard.append

    def told(self) -> list[Signal]:
        """Return what was said since the last time."""
        heard, self.heard = self.heard, []
        self.queue.emit = self.heard.append
        return heard

    @property
    def open_files(self) -> int:
        """How many are."""
        return len(self.disk._descriptors)

    def fails(self, method: str, ends: str, code: int = errno.EIO) -> None:
        """Let a method fail for paths that end so."""

        def failing(path: str, *_: object, **__: object) -> None:
            if path.endswith(ends):
                raise OSError(code, os.strerror(code), path)

        self.disk.hooks[method] = failing


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds a file's flock."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# -- what may be taken


def test_what_is_in_hand_or_counted_is_not_opened_again(tmp_path: Path) -> None:
    """Nor what the totals name, which a crash left lying there: it would count twice."""
    for number in (1, 2):
        lies(tmp_path, number, put(0))
    gone = {"accepted": 1, "delivered": 1, "dropped": {}, "folded": [name(1)]}
    (tmp_path / "totals.json").write_bytes(orjson.dumps(gone))
    looking = Looking(tmp_path)
    assert (looking.queue.left_to_adopt(), looking.queue.scan()) == (1, 1)
    opened: list[str] = []
    looking.disk.hooks["open"] = lambda path, **_: opened.append(path)
    assert (looking.queue.left_to_adopt(), looking.queue.scan()) == (0, 0)
    assert [path for path in opened if path.endswith(".seg")] == []
    looking.queue.close()


def test_what_a_living_writer_will_fold_is_done_with_until_it_is_dead(tmp_path: Path) -> None:
    """Its end is sealed, and all of it was sent here."""
    storer = queue_in(tmp_path, adopt="never")
    storer.sends = False
    for number in range(2):
        storer.put([event(number, BIG)])
    looking = Looking(tmp_path, adopt="always")
    assert looking.queue.scan() == 2
    looking.queue.ack(looking.queue.claim(URL, 9, ALL))
    looking.queue.claim(URL, 9, ALL)
    looking.queue.tend()
    left = sorted(os.listdir(tmp_path / "segments"))
    assert (len(left), looking.queue.scan(), looking.queue.left_to_adopt()) == (2, 0, 0)
    assert looking.queue._claims.finished == {left[0]}
    storer.folder.disk.forget()  # it is killed
    looking.clock.advance(1.0)
    assert looking.queue.scan() == 1
    looking.queue.claim(URL, 9, ALL)
    looking.queue.tend()
    assert os.listdir(tmp_path / "segments") == []
    assert (looking.queue.stats().delivered, looking.queue.stats().adopted) == (2, 2)
    looking.queue.close()
    assert inspect.folder_status(tmp_path).closes


def test_what_is_taken_is_told_with_what_is_to_be_sent(tmp_path: Path) -> None:
    """As far as that is known: of a segment without an end it is not."""
    lies(tmp_path, 1, put(0), put(1), put(2), sealed=3)
    lies(tmp_path, 2, put(0), put(1))
    looking = Looking(tmp_path)
    assert looking.queue.scan() == 2
    paths = [f"{tmp_path}/segments/{name(number)}" for number in (1, 2)]
    assert looking.told() == [Adopted(paths[0], 3), Adopted(paths[1], 0)]
    assert len(looking.queue.claim(URL, 9, ALL)) == 5
    looking.queue.close()


def test_a_purge_is_asked_about_what_is_taken_before_anybody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that cannot be, nothing is taken."""
    for number in (1, 2):
        lies(tmp_path, number, put(0))
    looking = Looking(tmp_path)
    asked: list[tuple[list[str], int]] = []

    def before_reading(taken: Any) -> None:
        asked.append(([one.name for one in taken], len(looking.queue._claims.open)))
        if len(asked) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(looking.queue._erasing, "before_reading", before_reading)
    assert [looking.queue.scan(), looking.queue.scan()] == [0, 2]
    assert asked == [([name(1), name(2)], 0)] * 2
    looking.queue.close()


def test_a_living_senders_segments_are_its_own(tmp_path: Path) -> None:
    """Until it has gone, which is noticed half a second late; that it lives is asked no more often than that."""
    looking = Looking(tmp_path, adopt="always")
    sender, storer = JournalQueue(tmp_path, adopt="never"), JournalQueue(tmp_path, adopt="never")
    storer.sends = False
    for queue in (sender, storer):
        queue.put([event(1)])
    asked: list[str] = []
    looking.disk.hooks["open"] = lambda path, **_: asked.append(path)
    assert looking.queue.scan() == 1
    asked.clear()
    assert looking.queue.scan() == 0
    assert [path for path in asked if path.endswith(".seg")] == []  # what does not change was read once
    assert looking.queue.left_to_adopt() == 0
    lock = f"{tmp_path}/writers/{sender._store.presence.name}.lock"
    for at_s, times in ((0.25, 0), (0.5, 0), (0.5625, 1)):
        looking.clock.advance(1000 + at_s - looking.clock.monotonic())
        asked.clear()
        assert looking.orphans.is_alive(sender._store.presence.name)
        assert asked.count(lock) == times
    sender.close()
    assert looking.orphans.is_alive(sender._store.presence.name)
    looking.clock.advance(0.5625)
    assert not looking.orphans.is_alive(sender._store.presence.name)
    assert looking.queue.left_to_adopt() == 1
    assert looking.queue.scan() == 1
    looking.queue.close()
    storer.close()


def test_what_another_holds_or_has_removed_is_passed_over(tmp_path: Path) -> None:
    """The others are taken; and nothing of it stays open."""
    for number in (1, 2, 3, 4):
        lies(tmp_path, number, put(0))
    looking = Looking(tmp_path)

    def goes(path: str, **_: object) -> None:
        if path.endswith(name(2)):
            Path(path).unlink(missing_ok=True)

    looking.disk.hooks["open"] = goes
    looking.disk.hooks["still_named"] = lambda _, path: os.unlink(path) if path.endswith(name(3)) else None
    with (tmp_path / "segments" / name(1)).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert looking.queue.left_to_adopt() == 1
        lies(tmp_path, 2, put(0))
        lies(tmp_path, 3, put(0))
        assert looking.queue.scan() == 1
        assert looking.open_files == 2
    assert looking.told() == [Adopted(f"{tmp_path}/segments/{name(4)}", 0)]
    looking.disk.hooks.clear()
    assert looking.queue.scan() == 1
    looking.queue.close()


def test_a_file_that_cannot_be_had_is_told_and_stops_no_other(tmp_path: Path) -> None:
    """With its name, and what the system said."""
    for number in (1, 2):
        lies(tmp_path, number, put(0))
    looking = Looking(tmp_path)
    looking.fails("open", name(1), errno.EMFILE)
    assert (looking.queue.scan(), looking.queue.left_to_adopt()) == (1, 0)
    trouble, adopted = looking.told()
    assert isinstance(trouble, Trouble)
    assert trouble.what == "journal"
    assert f"{tmp_path}/segments/{name(1)}" in trouble.detail
    assert os.strerror(errno.EMFILE) in trouble.detail
    assert isinstance(adopted, Adopted)
    looking.disk.hooks.clear()
    assert (looking.queue.left_to_adopt(), looking.queue.scan()) == (1, 1)
    looking.queue.close()


def test_letters_that_cannot_be_asked_put_a_look_off(tmp_path: Path) -> None:
    """An event that is dead would be sent again: nothing is taken, nothing stays open, and the next look does it."""
    lies(tmp_path, 1, put(0), put(1), put(2), sealed=3)
    lies(tmp_path, 9, letter(0, origin=f"{name(1)}:1"), part="dead")
    looking = Looking(tmp_path)
    looking.fails("names", "/dead")
    assert (looking.queue.scan(), looking.open_files) == (0, 1)
    (said,) = looking.told()
    assert isinstance(said, Trouble)
    assert (said.what, os.strerror(errno.EIO) in said.detail) == ("journal", True)
    looking.disk.hooks.clear()
    assert looking.queue.scan() == 1
    leases = looking.queue.claim(URL, 9, ALL)
    assert [lease.event.payload for lease in leases] == [b'{"n":0}', b'{"n":2}']
    looking.queue.close()


@pytest.mark.parametrize("ordinal", [0, fmt.PAGE_BYTES - 1, fmt.PAGE_BYTES, -1])
def test_a_letter_settles_its_event_and_nothing_else(tmp_path: Path, ordinal: int) -> None:
    """The first that there can be, and the last; not one before or behind them."""
    lies(tmp_path, 1, put(0), outcomes=[0])
    lies(tmp_path, 9, letter(0, origin=f"{name(1)}:{ordinal}"), part="dead")
    path = tmp_path / "segments" / name(1)
    before = path.read_bytes()
    looking = Looking(tmp_path)
    looking.queue.scan()
    after = path.read_bytes()
    changed = [at - fmt.PAGE_BYTES for at in range(len(before)) if before[at] != after[at]]
    assert changed == ([ordinal] if 0 <= ordinal < fmt.PAGE_BYTES else [])
    assert all(after[fmt.PAGE_BYTES + at] == Outcome.DEAD for at in changed)
    assert len(looking.queue.claim(URL, 9, ALL)) == (ordinal != 0)
    looking.queue.close()


def test_a_newer_releases_segment_is_left_alone_and_told_once(tmp_path: Path) -> None:
    """With its version; also one whose writer lives."""
    lies(tmp_path, 1, put(0))
    lies(tmp_path, 2, put(0))
    path = tmp_path / "segments" / name(1)
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[64 : fmt.PAGE_BYTES] = bytes(data[64 : fmt.PAGE_BYTES]).replace(b'"version":1', b'"version":2')
    for alive in (False, True):
        path.write_bytes(data)
        looking = Looking(tmp_path, adopt="always")
        if alive:
            looking.orphans._alive[GONE] = (looking.clock.monotonic(), True)
        looking.queue.scan()
        (said,) = [one for one in looking.told() if isinstance(one, Trouble)]
        assert said.what == "newer_format"
        assert f"{tmp_path}/segments/{name(1)} is left alone: format version 2" in said.detail
        assert (looking.queue.scan(), looking.told()) == (0, [])
        assert looking.queue.left_to_adopt() == int(alive)
        assert path.read_bytes() == data
        path.unlink()
        looking.queue.scan()
        path.write_bytes(data)  # another of this name
        looking.queue.scan()
        assert len(looking.told()) == 1
        looking.queue.close()


def test_what_has_no_header_is_set_aside_once_nobody_writes_it(tmp_path: Path) -> None:
    """Whole, and told with where it is now, how long it is, and why."""
    noise = b"noise" * 999
    lies(tmp_path, 1, put(0))
    (tmp_path / "segments" / name(2)).write_bytes(noise)
    looking = Looking(tmp_path)
    looking.orphans._alive[GONE] = (looking.clock.monotonic(), True)
    assert (looking.queue.scan(), looking.told(), looking.queue.left_to_adopt()) == (0, [], 1)
    looking.clock.advance(1.0)
    assert (looking.queue.scan(), looking.open_files) == (1, 2)
    damaged, adopted = looking.told()
    assert isinstance(damaged, Damaged)
    target = tmp_path / "bad" / f"{name(2)}.bad"
    assert (damaged.path, damaged.at_byte, damaged.length_bytes) == (str(target), 0, len(noise))
    assert "header" in damaged.why or "segment" in damaged.why
    assert target.read_bytes() == noise
    assert isinstance(adopted, Adopted)
    looking.queue.close()


def test_what_is_done_with_is_not_left_to_adopt(tmp_path: Path) -> None:
    """Sealed, and all of it settled: whoever wrote it folds it.  What is in hand here is not either, nor one's own."""
    looking = Looking(tmp_path)
    lies(tmp_path, 1, put(0), put(1), sealed=2, outcomes=[Outcome.DELIVERED, Outcome.PURGED])
    lies(tmp_path, 2, put(0), put(1), sealed=2, outcomes=[Outcome.DELIVERED])
    lies(tmp_path, 3, put(0), outcomes=[Outcome.DELIVERED])
    (tmp_path / "segments" / name(0)).write_bytes(b"noise")
    looking.queue.put([event(1)])
    before = looking.open_files
    assert (looking.queue.left_to_adopt(), looking.open_files) == (2, before)
    other = Looking(tmp_path)
    assert other.queue.scan() == 3
    assert (looking.queue.left_to_adopt(), other.queue.left_to_adopt()) == (0, 0)
    looking.queue.close()
    other.queue.close()
    assert inspect.folder_status(tmp_path).closes
