"""What a journal's folder notes beside its segments: the sum of those that are gone, and the bounds of dead letters."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support import HookedDisk

from eventpost.queues.journal import bounds as bounds_module
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal import totals
from eventpost.queues.journal.bounds import Bounds
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import Outcome

LOST = {"accepted": 0, "delivered": 0, "dropped": {}, "folded": [], "unreadable": True}
COUNTED = {outcome: number for number, outcome in enumerate(Outcome, start=1)}
"""One VOID less than all of them is what was accepted: 1 + 2 + ... + 9 is 45, and VOID is the ninth."""


@pytest.fixture
def disk() -> HookedDisk:
    """Give a disk that can be made to fail."""
    return HookedDisk()


@pytest.fixture
def folder(tmp_path: Path, disk: HookedDisk) -> Folder:
    """Give a journal's folder."""
    return Folder(tmp_path, disk=disk, gid=None, allow_network_fs=True)


@contextmanager
def held(folder: Folder) -> Iterator[None]:
    """Hold the lock of the notes, as another process would."""
    with open(f"{folder.path}/totals.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def note(folder: Folder, name: str, value: Any) -> None:
    """Write a note."""
    Path(folder.path, name).write_bytes(value if isinstance(value, bytes) else orjson.dumps(value))


def noted(folder: Folder, name: str) -> Any:
    """Return a note."""
    return orjson.loads(Path(folder.path, name).read_bytes())


# -- totals


def segment(folder: Folder, name: str = "1-7.aa-1.seg", *, part: str = "segments", frames: int = 0) -> str:
    """Make a segment with so many bytes of records; its path."""
    path = Path(folder.path, part, name)
    header = fmt.encode_header("http://127.0.0.1:9/", "7.aa", 1, sender=True, retry=False, outcome_pages=1)
    path.write_bytes(header.ljust(2 * fmt.PAGE_BYTES, b"\0") + b"x" * frames)
    return str(path)


def fold(folder: Folder, path: str, events: int = 45, **how: bool) -> bool:
    """Fold a segment in which each outcome was met as often as ``COUNTED`` says."""
    return totals.fold(folder, path, events, COUNTED, **{"retry": False, **how})


def test_a_folded_segment_is_in_the_sum_and_gone(folder: Folder) -> None:
    """Each event by its outcome; what was void was never accepted, and the rest of 50 nothing became of."""
    path = segment(folder)
    assert fold(folder, path, 50) is True
    assert not os.path.exists(path)
    assert totals.read(folder) == {
        "accepted": 50 - COUNTED[Outcome.VOID],
        "delivered": COUNTED[Outcome.DELIVERED],
        "dropped": {reason: COUNTED[outcome] for outcome, reason in fmt.DROPPED.items()},
        "folded": ["1-7.aa-1.seg"],
    }
    totals.fold(folder, segment(folder, "1-7.aa-2.seg"), 3, {Outcome.DELIVERED: 2, Outcome.DAMAGED: 1}, retry=False)
    found = totals.read(folder)
    assert (found["accepted"], found["delivered"]) == (44, 3)
    assert found["dropped"]["damaged"] == COUNTED[Outcome.DAMAGED] + 1
    assert found["folded"] == ["1-7.aa-2.seg"]


@pytest.mark.parametrize("how", ["retry", "dead"])
def test_what_was_accepted_before_is_not_accepted_again(folder: Folder, how: str) -> None:
    """Dead letters, and those that were put back into the queue, were accepted when they came first."""
    path = segment(folder, part="dead" if how == "dead" else "segments")
    assert fold(folder, path, **{how: True})
    found = totals.read(folder)
    assert (found["accepted"], found["delivered"], found["dropped"]["damaged"]) == (0, 1, COUNTED[Outcome.DAMAGED])
    assert found["folded"] == ["dead/1-7.aa-1.seg" if how == "dead" else "1-7.aa-1.seg"]
    assert not os.path.exists(path)


def test_a_crash_between_the_sum_and_the_unlink_counts_nothing_twice(folder: Folder) -> None:
    """Who folds it again unlinks it; so does who folds another."""
    path = segment(folder)
    assert fold(folder, path)
    before = totals.read(folder)
    assert fold(folder, segment(folder))
    assert totals.read(folder) == before
    assert not os.path.exists(path)
    left = [segment(folder), segment(folder, "1-7.aa-2.seg", part="dead")]
    note(folder, "totals.json", before | {"folded": ["1-7.aa-1.seg", "dead/1-7.aa-2.seg"]})
    assert totals.fold(folder, segment(folder, "1-7.aa-3.seg"), 0, {}, retry=False)
    assert [path for path in left if os.path.exists(path)] == []
    assert totals.read(folder) == before | {"folded": ["1-7.aa-3.seg"]}


def test_letters_and_segments_of_one_name_are_two(folder: Folder) -> None:
    """Each is counted."""
    assert fold(folder, segment(folder))
    assert fold(folder, segment(folder, part="dead"), dead=True)
    assert totals.read(folder)["delivered"] == 2


def test_who_comes_late_or_cannot_have_the_lock_counts_nothing(folder: Folder) -> None:
    """A segment that is gone is folded; one that somebody is at is left for later."""
    path = segment(folder)
    with held(folder):
        assert fold(folder, path) is False
    assert os.path.exists(path)
    os.unlink(path)
    assert fold(folder, path) is True
    assert totals.read(folder) == totals.empty()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_on_a_full_disk_the_records_make_room_for_the_sum(folder: Folder, disk: HookedDisk, code: int) -> None:
    """They are cut off, the seal tells the count from then on; another failure is none of room, and changes nothing."""
    path = segment(folder, frames=1000)
    sizes, fails = [], True

    def create(name: str, *_: object) -> None:
        nonlocal fails
        if name.endswith(".totals.tmp"):
            sizes.append(os.path.getsize(path))
            if fails:
                fails = False
                raise OSError(code, os.strerror(code))

    seals: list[tuple[int | None, int | None]] = []
    disk.hooks["create"] = create
    disk.hooks["unlink"] = lambda name: name == path and seals.append(folder.read_header(path)[7:])
    if code == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(code)):
            fold(folder, path)
        assert sizes == [2 * fmt.PAGE_BYTES + 1000]
        assert totals.read(folder) == totals.empty()
        return
    before = len(disk._descriptors)
    assert fold(folder, path) is True
    assert len(disk._descriptors) == before
    assert sizes == [2 * fmt.PAGE_BYTES + 1000, 2 * fmt.PAGE_BYTES]
    assert seals == [(45, 2 * fmt.PAGE_BYTES)]
    assert totals.read(folder)["accepted"] == 36


def test_a_header_of_several_pages_makes_room_too(folder: Folder, disk: HookedDisk) -> None:
    """A long endpoint's: it is read whole, and what is cut off begins behind it."""
    header = fmt.encode_header("http://127.0.0.1:9/" + "x" * 9000, "7.aa", 1, sender=True, retry=False, outcome_pages=1)
    path = f"{folder.segments}/1-7.aa-1.seg"
    Path(path).write_bytes(header + bytes(fmt.PAGE_BYTES) + b"x" * 1000)
    sizes: list[int] = []

    def create(name: str, *_: object) -> None:
        if name.endswith(".totals.tmp"):
            sizes.append(os.path.getsize(path))
            if len(sizes) == 1:
                raise OSError(errno.ENOSPC, "No space left on device")

    disk.hooks["create"] = create
    assert fold(folder, path) is True
    assert sizes == [4 * fmt.PAGE_BYTES + 1000, 4 * fmt.PAGE_BYTES]
    assert totals.read(folder)["accepted"] == 36


@pytest.mark.parametrize(
    "damaged",
    [
        b"", b"{", b"[]", b"3", {"accepted": -1}, {"accepted": 1.0}, {"accepted": True}, {"delivered": "1"},
        {"delivered": (1 << 53) + 1}, {"dropped": []}, {"dropped": {"overflow": -1}}, {"folded": {}},
        {"folded": [1]}, {"folded": ["../../x"]}, {"folded": ["a/b"]}, {"folded": ["dead/../x"]},
    ],
)  # fmt: skip
def test_a_damaged_sum_is_none(folder: Folder, damaged: Any) -> None:
    """It says so, and names no file that would be unlinked."""
    note(folder, "totals.json", damaged)
    assert totals.read(folder) == LOST


def test_a_sum_may_leave_out_what_is_nothing_and_hold_what_is_newer(folder: Folder) -> None:
    """The largest count that can be is one."""
    assert totals.read(folder) == totals.empty()
    note(folder, "totals.json", {"accepted": 1 << 53, "delivered": 0, "newer": 1, "folded": ["x", "dead/y"]})
    assert totals.read(folder) == totals.empty() | {"accepted": 1 << 53, "newer": 1, "folded": ["x", "dead/y"]}


def test_a_damaged_sum_is_set_aside_before_a_new_one_begins(folder: Folder) -> None:
    """Its bytes are kept, also those of several; where they can't be, or somebody is at it, it stays as it is."""
    for number, damaged in enumerate((b"{", b"[", b"")):
        note(folder, "totals.json", damaged)
        if not damaged:
            os.unlink(f"{folder.path}/totals.json")  # somebody was faster
        assert totals.begin_anew(folder) == ""
        assert totals.read(folder) == totals.empty()
        assert Path(folder.bad, f"totals.json-{number}.bad").read_bytes() == damaged
    note(folder, "totals.json", b"{")
    with held(folder):
        assert totals.begin_anew(folder) == "somebody else is at it"
    os.rmdir(folder.dead)
    folder.bad = folder.dead
    assert totals.begin_anew(folder) == "its bytes cannot be set aside: is the disk full?"
    assert totals.read(folder) == LOST
    assert Path(folder.path, "totals.json").read_bytes() == b"{"


# -- bounds


def test_without_a_note_a_processs_own_bounds_hold(folder: Folder) -> None:
    """The defaults are 256 MiB and 30 days."""
    assert Bounds() == (256 << 20, 30 * 86_400.0)
    assert Bounds().in_force(folder) == Bounds()
    assert Bounds(7, None).in_force(folder) == (7, None)


def test_bounds_that_are_named_are_the_folders(folder: Folder) -> None:
    """Those only; the last one who names one wins, and a default that is named is named."""
    Bounds().note(folder)
    assert not Path(folder.path, "bounds.json").exists()
    Bounds(dead_bytes_max=1000).note(folder)
    assert noted(folder, "bounds.json") == {"dead_bytes_max": 1000}
    assert Bounds(5, 6.0).in_force(folder) == (1000, 6.0)
    Bounds(dead_age_max_s=None).note(folder)
    assert Bounds(5, 6.0).in_force(folder) == (1000, None)
    Bounds(dead_bytes_max=int("268435456")).note(folder)
    assert noted(folder, "bounds.json") == {"dead_bytes_max": 256 << 20, "dead_age_max_s": None}


def test_bounds_that_are_noted_already_wait_for_nobody(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others try for half a second, then say who is in the way."""
    waited: list[float] = []
    monkeypatch.setattr(bounds_module, "pause", waited.append)
    Bounds(1000, 6.0).note(folder)
    with held(folder):
        Bounds(1000, 6.0).note(folder)
        Bounds(dead_age_max_s=6.0).note(folder)
        Bounds().note(folder)
        assert waited == []
        with pytest.raises(OSError, match=r"somebody holds .*/totals\.lock") as caught:
            Bounds(1000, 7.0).note(folder)
    assert caught.value.errno == errno.EBUSY
    assert sum(waited) == pytest.approx(0.5)
    assert noted(folder, "bounds.json") == {"dead_bytes_max": 1000, "dead_age_max_s": 6.0}


@pytest.mark.parametrize("damaged", [[], 3, {"dead_bytes_max": -1}, {"dead_age_max_s": "7"}, {"dead_age_max_s": True}])
def test_damaged_bounds_hold_nothing_and_are_mended_by_who_names_some(folder: Folder, damaged: Any) -> None:
    """Nothing expires meanwhile."""
    note(folder, "bounds.json", damaged)
    with pytest.raises(ValueError, match="damaged: nothing expires until somebody names bounds anew"):
        Bounds().in_force(folder)
    Bounds(dead_age_max_s=7).note(folder)
    assert Bounds().in_force(folder) == (256 << 20, 7)


@pytest.mark.parametrize("least", [0, 0.0, None])
def test_the_least_bounds_that_can_be_noted(folder: Folder, least: Any) -> None:
    """Zero keeps nothing, None all."""
    note(folder, "bounds.json", {"dead_bytes_max": least, "dead_age_max_s": least, "newer": "x"})
    assert Bounds().in_force(folder) == (least, least)
