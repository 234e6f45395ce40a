"""What is parked stays within its bounds: which letters and damaged bytes go, which stay, and what is said of it."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support import HookedDisk
from tests.unit.test_journal_dead import ENDPOINT, letter
from tests.unit.test_journal_dead import left as left_in

from eventpost.queues.journal import dead, totals
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.bounds import Bounds
from eventpost.queues.journal.expiry import Expiry
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import Outcome
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Dropped, Signal, Trouble

NOW_S = 1_700_000_100.5
AGE_S = 100.0
OLDEST_S = 1_700_000_000
"""A letter of this second is too old by half a second; of the next one it is not."""


class Kept:
    """A folder that is kept within bounds, and what is said."""

    def __init__(self, path: Path, bytes_max: int | None = None, age_max_s: float | None = None) -> None:
        self.disk = HookedDisk()
        self.folder = Folder(path, disk=self.disk, gid=None, allow_network_fs=True)
        self.heard: list[Signal] = []
        self.mine: list[str] = []
        self.expiry = Expiry(
            self.folder, ManualClock(epoch_s=NOW_S), dead_writer=cast("Any", SimpleNamespace(names=self.mine)),
            bounds=Bounds(bytes_max, age_max_s), emit=self.heard.append,
        )  # fmt: skip

    def left(self, writer: str, *at_s: int, number: int = 0, created_ms: int = 1, **how: Any) -> str:
        """Leave a segment with letters of these times; its name."""
        name = f"{created_ms:013d}-{writer}-{number:06d}.seg"
        letters = [letter(ordinal, at_s=one) for ordinal, one in enumerate(at_s)]
        left_in(self.folder, ENDPOINT, *letters, name=name, **how)
        return name

    @contextmanager
    def alive(self, *writers: str) -> Iterator[None]:
        """Let these live."""
        locks = [open(f"{self.folder.writers}/{writer}.lock", "w") for writer in writers]  # noqa: SIM115 - closed below
        try:
            for lock in locks:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            for lock in locks:
                lock.close()

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold a segment, as who retries its letters does."""
        with open(f"{self.folder.dead}/{name}", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def there(self) -> list[str]:
        """Return the segments that are there."""
        return sorted(os.listdir(self.folder.dead))

    def outcomes(self, name: str, count: int) -> list[int]:
        """Return the outcomes of the first letters of a segment."""
        return list(Path(self.folder.dead, name).read_bytes()[fmt.PAGE_BYTES :][:count])

    def dropped(self) -> dict[str, int]:
        """Return what was folded into the sum."""
        found = totals.read(self.folder)
        assert (found["accepted"], found["delivered"]) == (0, 0)
        return dict(found["dropped"])


def told(count: int) -> Dropped:
    """Return what is said of so many letters."""
    return Dropped("dead_expired", count, "dead letters that another process left")


def test_only_letters_that_are_too_old_go(tmp_path: Path) -> None:
    """To the second, whether their writer lives or not; a segment whose letters are all settled then is folded."""
    kept = Kept(tmp_path, None, AGE_S)
    young, old = OLDEST_S + 1, OLDEST_S
    some = kept.left("7.aa", old, young, old, seal=3)
    every = kept.left("7.bb", old, 5, seal=3)  # of the third one nothing can be read
    living = kept.left("7.cc", old, young)
    mine = kept.left("7.dd", old, old, seal=2)
    kept.mine.append(mine)
    new = kept.left("7.ee", young)
    with kept.alive("7.cc", "7.dd"):
        kept.expiry.expire()
    assert kept.heard == [told(2), told(3), told(1)]
    assert kept.there() == sorted([some, living, mine, new])
    assert kept.outcomes(some, 3) == [Outcome.EXPIRED, 0, Outcome.EXPIRED]
    assert kept.outcomes(living, 2) == [Outcome.EXPIRED, 0]
    assert kept.outcomes(mine, 2) == [Outcome.EXPIRED, Outcome.EXPIRED]
    assert kept.dropped() == {"dead_expired": 3}
    kept.expiry.expire()
    assert kept.there() == sorted([some, living, new])
    assert kept.dropped() == {"dead_expired": 5}
    assert (len(kept.heard), every in kept.there()) == (3, False)


def test_a_bound_in_seconds_is_met_to_the_fraction(tmp_path: Path) -> None:
    """A letter is as old as its second says; no segment is looked into that was begun since."""
    kept = Kept(tmp_path, None, AGE_S - 0.5)  # the oldest that stays is of the second OLDEST_S + 1
    exact = kept.left("7.aa", OLDEST_S + 1)
    opened: list[str] = []
    kept.disk.hooks["open"] = lambda path, **_: opened.append(os.path.basename(path))
    begun = kept.left("7.bb", OLDEST_S, created_ms=1000 * (OLDEST_S + 1))
    before = kept.left("7.cc", OLDEST_S, created_ms=1000 * (OLDEST_S + 1) - 1)
    kept.expiry.expire()
    assert kept.there() == sorted([exact, begun])
    assert before not in kept.there()
    assert kept.heard == [told(1)]


def test_without_a_bound_nothing_goes(tmp_path: Path) -> None:
    """However old, and however large."""
    kept = Kept(tmp_path)
    name = kept.left("7.aa", 1, seal=1)
    Path(kept.folder.bad, "x.bad").write_bytes(bytes(100))
    kept.expiry.expire()
    assert (kept.there(), os.listdir(kept.folder.bad), kept.heard) == ([name], ["x.bad"], [])


def test_what_is_settled_is_folded_once_its_writer_is_gone(tmp_path: Path) -> None:
    """Sealed or not; each outcome is in the sum by its reason, and what was put back is in none."""
    kept = Kept(tmp_path)
    done = bytes([Outcome.RETRIED, Outcome.DISCARDED, Outcome.DISCARDED])
    kept.left("7.aa", 1, 1, 1, seal=3, outcomes=done)
    kept.left("7.aa", 1, 1, 1, number=1, outcomes=done)
    stay = [
        kept.left("7.aa", 1, 1, 1, number=2, seal=3, outcomes=done[:2]),
        kept.left("7.aa", 1, 1, 1, number=3, outcomes=done[:2]),
        kept.left("7.bb", 1, 1, 1, seal=3, outcomes=done),
        kept.left("7.bb", 1, 1, 1, number=1, outcomes=done),
    ]
    with kept.alive("7.bb"):
        kept.expiry.expire()
        assert kept.there() == stay
    assert kept.dropped() == {"dead_discarded": 4}
    kept.expiry.expire()
    assert kept.there() == stay[:2]
    assert kept.dropped() == {"dead_discarded": 8}
    assert kept.heard == []


@pytest.mark.parametrize("short", [0, 1])
def test_the_oldest_segments_go_until_the_rest_is_within_the_bound(tmp_path: Path, short: int) -> None:
    """To the byte, and no more than need be; the reason is in the sum."""
    sizes = Kept(tmp_path / "sizes")
    one = os.path.getsize(f"{sizes.folder.dead}/{sizes.left('7.aa', 1)}")
    kept = Kept(tmp_path / "j", 2 * one - short)
    names = [kept.left("7.aa", 1, number=number, seal=1) for number in range(4)]
    kept.expiry.expire()
    gone = 2 + short
    assert kept.there() == names[gone:]
    assert kept.heard == [told(1)] * gone
    assert kept.dropped() == {"dead_expired": gone}


def test_what_cannot_go_makes_no_room(tmp_path: Path) -> None:
    """Held by who retries it, still written to, or unreadable: a newer one goes in its place, and nobody is told."""
    kept = Kept(tmp_path)
    held = kept.left("7.aa", 1, seal=1)
    spoilt = kept.left("7.aa", 1, number=1, seal=1)
    open_ = kept.left("7.bb", 1)
    last = kept.left("7.cc", 1, 1)
    newest = kept.left("7.dd", 1, 1)
    sizes = [os.path.getsize(f"{kept.folder.dead}/{name}") for name in kept.there()]
    Bounds(sum(sizes) - sizes[0], None).note(kept.folder)

    def spoil(path: str) -> None:
        if path.endswith(spoilt):
            with open(path, "r+b") as file:
                file.write(b"noise")

    kept.disk.hooks["size"] = spoil
    with kept.alive("7.bb"), kept.held(held):
        kept.expiry.expire()
        assert kept.there() == [held, spoilt, open_, newest]
        assert kept.outcomes(open_, 1) == [0]
        assert kept.heard == [told(2)]
    assert last not in kept.there()
    kept.disk.hooks.clear()
    os.unlink(f"{kept.folder.dead}/{spoilt}")
    Bounds(1, None).note(kept.folder)
    kept.expiry.expire()
    assert kept.there() == []


def test_what_is_young_enough_is_bounded_in_bytes_all_the_same(tmp_path: Path) -> None:
    """Both bounds hold: also for segments that were begun since, and for what is left of one that was cut down."""
    kept = Kept(tmp_path, 1, AGE_S)
    kept.left("7.aa", OLDEST_S + 1, created_ms=1000 * (OLDEST_S + 1))
    kept.left("7.bb", OLDEST_S, OLDEST_S + 1, seal=2)
    kept.expiry.expire()
    assert kept.there() == []
    assert kept.heard == [told(1), told(1), told(1)]
    assert kept.dropped() == {"dead_expired": 3}


def test_on_a_full_disk_letters_make_room_for_their_own_count(tmp_path: Path) -> None:
    """Their bytes go first."""
    kept = Kept(tmp_path, 1)
    kept.left("7.aa", 1, 1, seal=2)
    refused: list[str] = []

    def full(path: str, *_: object) -> None:
        if path.endswith(".totals.tmp") and not refused:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")

    kept.disk.hooks["create"] = full
    kept.expiry.expire()
    assert (kept.there(), kept.dropped(), len(refused)) == ([], {"dead_expired": 2}, 1)


def test_what_cannot_be_read_is_told_and_hides_no_other(tmp_path: Path) -> None:
    """What somebody has in hand is not even told: its turn comes."""
    kept = Kept(tmp_path, None, AGE_S)
    Path(kept.folder.dead, "0000000000001-7.00-000000.seg").write_bytes(b"noise" * 2000)
    busy = kept.left("7.aa", 1, seal=1)
    kept.left("7.bb", 1, seal=1)
    with kept.held(busy):
        kept.expiry.expire()
    said, dropped = kept.heard
    assert isinstance(said, Trouble)
    assert (said.what, "0000000000001-7.00-000000.seg" in str(said.detail)) == ("journal", True)
    assert dropped == told(1)
    assert kept.there() == ["0000000000001-7.00-000000.seg", busy]


def test_a_segment_that_goes_meanwhile_is_no_trouble(tmp_path: Path) -> None:
    """Its writer was faster; at whichever moment."""
    for at in range(1, 5):
        kept = Kept(tmp_path / str(at), 1, AGE_S)
        name = kept.left("7.aa", 1)
        path = f"{kept.folder.dead}/{name}"
        opened: list[str] = []

        def goes(opening: str, *, path: str = path, opened: list[str] = opened, at: int = at, **_: Any) -> None:
            opened += [opening] * (opening == path)
            if len(opened) == at and os.path.exists(path):
                os.unlink(path)

        kept.disk.hooks["open"] = goes
        kept.expiry.expire()
        assert (kept.there(), len(opened) >= at) == ([], True)
        assert [one for one in kept.heard if isinstance(one, Trouble)] == []


def bad(kept: Kept, *files: tuple[str, int, int]) -> None:
    """Set bytes aside: name, size, and when."""
    for name, size, when in files:
        path = Path(kept.folder.bad, name)
        path.write_bytes(bytes(size))
        os.utime(path, ns=(when, when))


@pytest.mark.parametrize(("bytes_max", "stay", "gone"), [(60, "abc", 0), (59, "ac", 20), (40, "ac", 20), (39, "a", 50)])
def test_the_oldest_damaged_bytes_go_until_the_rest_is_within_the_bound(
    tmp_path: Path, bytes_max: int, stay: str, gone: int
) -> None:
    """By when they were set aside, to the byte; it is told once, with how many."""
    for how in ("expire", "expire_bad"):
        kept = Kept(tmp_path / how, bytes_max)
        bad(kept, ("a", 10, 3), ("b", 20, 1), ("c", 30, 2))
        getattr(kept.expiry, how)()
        assert sorted(os.listdir(kept.folder.bad)) == list(stay)
        files = 3 - len(stay)
        assert len(kept.heard) == bool(files)
        for said in kept.heard:
            assert isinstance(said, Trouble)
            assert said.what == "bad_expired"
            assert str(said.detail).startswith(f"{files} files, {gone} bytes")


def test_damaged_bytes_that_cannot_be_removed_are_passed_over(tmp_path: Path) -> None:
    """The next oldest go."""
    kept = Kept(tmp_path, 15)
    bad(kept, ("b", 20, 1), ("c", 30, 2), ("d", 10, 3))

    def refuses(path: str) -> None:
        if path.endswith("/b"):
            raise OSError(errno.EPERM, "Operation not permitted")

    kept.disk.hooks["unlink"] = refuses
    kept.expiry.expire()
    assert os.listdir(kept.folder.bad) == ["b"]
    (said,) = kept.heard
    assert isinstance(said, Trouble)
    assert "2 files, 40 bytes" in str(said.detail)


def test_bounds_that_are_named_are_noted_at_once(tmp_path: Path) -> None:
    """Where they can't be, or can't be read again, it is told; nothing goes meanwhile."""
    kept = Kept(tmp_path, 123, 4.0)
    assert Bounds().in_force(kept.folder) == (123, 4.0)
    name = kept.left("7.aa", 1, seal=1)
    (tmp_path / "bounds.json").write_bytes(b"[]")
    kept.expiry.expire()
    assert kept.there() == [name]
    (tmp_path / "totals.lock").unlink()
    (tmp_path / "totals.lock").mkdir()
    again = Kept(tmp_path, 123, 4.0)
    for said in (*kept.heard, *again.heard):
        assert isinstance(said, Trouble)
        assert (said.what, str(tmp_path) in str(said.detail)) == ("journal", True)
    assert (len(kept.heard), len(again.heard)) == (1, 1)


def test_a_letter_that_is_taken_in_hand_meanwhile_is_not_dropped(tmp_path: Path) -> None:
    """It was put back before the segment could be had: that is its outcome."""
    kept = Kept(tmp_path, None, AGE_S)
    name = kept.left("7.aa", 1, 1, seal=2)
    seen: list[str] = []

    def retried(path: str, *_: object, **how: object) -> None:
        if path.endswith(name) and not how and not seen:
            seen.append(path)
            dead.settle(kept.folder, name, [0], Outcome.RETRIED)

    kept.disk.hooks["open"] = retried
    kept.expiry.expire()
    assert (kept.heard, kept.dropped(), kept.there()) == ([told(1)], {"dead_expired": 1}, [])
