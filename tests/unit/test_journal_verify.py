"""What ``verify`` finds in a folder: each damage with its place and length, and nothing where nobody needs to look."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from proof.fuzz_segments import NAME
from tests.support import HookedDisk
from tests.unit.test_journal_forged import DELIVERED, OUTCOMES_AT, RECORDS_AT, event, segment
from tests.unit.test_journal_mend import BEGIN, FRAME, ODD, broken, sealed, strange

from eventpost.queues.journal import JournalQueue, repair, totals, verify
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.verify import Finding

SECOND, THIRD = BEGIN + FRAME, BEGIN + 2 * FRAME
LOST = strange(fmt.Kind.EVENT, 1, 7)
"""An event whose envelope is nowhere."""
CASES: dict[str, tuple[bytes, list[tuple[str, int, int]]]] = {
    # the segment; then kind, place and length of what is found
    "whole": (segment(event(0), event(1), b"\0" * 99), []),
    "sealed": (sealed(event(0), event(1), count=2), []),
    "half a record": (segment(event(0), event(1)[:-9]), [("torn", SECOND, FRAME - 9)]),
    "half a record, and damage": (
        segment(broken(0), event(1), event(2)[:-9]), [("damaged", BEGIN, FRAME), ("torn", THIRD, FRAME - 9)],
    ),
    "half a record of a sealed one": (sealed(event(0), event(1)[:-9], count=1), []),
    "damage": (segment(event(0), broken(1), event(2)), [("damaged", SECOND, FRAME)]),
    "damage of a sealed one": (sealed(event(0), broken(1), event(2), count=3), [("damaged", SECOND, FRAME)]),
    "damage, and a gap, which it may be": (
        segment(broken(0), event(1), event(3)), [("damaged", BEGIN, FRAME)],
    ),
    "a gap": (segment(event(0), event(2), event(3)), [("damaged", SECOND, 0)]),
    "a gap at its beginning": (segment(event(1), event(2)), [("damaged", BEGIN, 0)]),
    "two gaps, of which one is enough": (segment(event(1), event(3)), [("damaged", BEGIN, 0)]),
    "a gap of what is settled": (sealed(event(1), count=2, outcomes=DELIVERED), []),
    "an event without its envelope": (segment(event(0), LOST), [("damaged", SECOND, 7)]),
    "a sealed event without its envelope": (sealed(event(0), LOST, count=2), [("damaged", SECOND, 7)]),
    "a settled event without its envelope": (sealed(event(0), LOST, count=2, outcomes=DELIVERED * 2), []),
    "a gap, and an envelope": (
        segment(event(0), strange(fmt.Kind.EVENT, 2, 7)), [("damaged", SECOND, 0), ("damaged", SECOND, 7)],
    ),
    "two missing at its end": (sealed(event(0), count=3), [("damaged", SECOND, 0)]),
    "missing at its end, settled": (sealed(event(0), count=2, outcomes=DELIVERED * 2), []),
    "missing at its end, one settled": (
        sealed(event(0), count=3, outcomes=b"\0" + DELIVERED), [("damaged", SECOND, 0)],
    ),
    "odd outcomes": (
        segment(event(0), event(1), outcomes=ODD + DELIVERED + ODD), [("damaged", OUTCOMES_AT, 2)],
    ),
    "an odd outcome of a sealed one": (sealed(event(0), count=1, outcomes=ODD), [("damaged", OUTCOMES_AT, 1)]),
    "no header": (b"noise" * 1000, [("header", 0, 5000)]),
    "cut off in its outcomes": (
        sealed(event(0), count=1)[: RECORDS_AT - 1], [("header", 0, RECORDS_AT - 1)],
    ),
    "its records given back": (
        segment(seal=(2, RECORDS_AT), outcomes=DELIVERED * 2)[:RECORDS_AT], [],
    ),
    "as many events as can be": (
        segment(event(4095), seal=(4096, SECOND), outcomes=DELIVERED * 4095), [],
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder in which nothing is found."""
    JournalQueue(tmp_path).close()
    assert verify.verify(tmp_path) == []
    return tmp_path


def lay(folder: Path, data: bytes, name: str = f"segments/{NAME}") -> str:
    """Put a file into the folder; its path."""
    (folder / name).write_bytes(data)
    return str(folder / name)


def short(found: list[Finding]) -> list[tuple[str, int, int]]:
    """Return kind, place and length."""
    return [(one.kind, one.at_byte, one.length_bytes) for one in found]


@pytest.mark.parametrize("case", CASES)
def test_each_damage_is_named_with_its_place(folder: Path, case: str) -> None:
    """As long as something waits behind it; after a repair there is none."""
    data, expected = CASES[case]
    path = lay(folder, data)
    found = verify.verify(folder)
    assert short(found) == expected
    assert {one.path for one in found} <= {path}
    assert all(isinstance(one.detail, str) and one.detail != "None" for one in found)
    assert Path(path).read_bytes() == data
    repair.repair(folder)
    assert verify.verify(folder) == []


def test_what_a_living_writer_is_in_the_middle_of_is_no_damage(folder: Path) -> None:
    """Half a record, or a file that has no name yet; damage before it is, whoever lives."""
    path = lay(folder, segment(event(0), event(1)[:-9]))
    lay(folder, b"", f"segments/.{NAME}.tmp")
    lock = folder / "writers/7.00000000aa.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert verify.verify(folder) == []
        lay(folder, segment(broken(0), event(1), event(2)[:-9]))
        assert short(verify.verify(folder)) == [("damaged", BEGIN, FRAME)]
    Path(path).unlink()
    assert [one.kind for one in verify.verify(folder)] == ["leftover"]


def test_what_is_no_segment_is_named(folder: Path) -> None:
    """By its whole path and length: what a dead writer left half made, a newer release's, totals that are none."""
    newer = bytearray(segment(event(0)))
    newer[8] = 2
    paths = [
        lay(folder, b"half", f"segments/.{NAME}.tmp"),
        lay(folder, b"more", f"dead/.{NAME}.tmp"),
        lay(folder, bytes(newer).replace(b'"version":1', b'"version":2'), f"dead/{NAME}"),
        lay(folder, b"{", totals.NAME),
    ]
    found = verify.verify(folder)
    assert short(found) == [("leftover", 0, 4), ("leftover", 0, 4), ("newer", 0, len(newer)), ("totals", 0, 1)]
    assert [one.path for one in found] == paths
    assert "2" in found[2].detail, "the version"
    assert found[3].detail == totals.LOST
    assert isinstance(found[0].detail, str)


def test_how_many_are_missing_is_said(folder: Path) -> None:
    """Which event, where one is; how many, where they are missing at the end."""
    lay(folder, segment(event(0), event(2)))
    [gap] = verify.verify(folder)
    assert "event 1 " in gap.detail
    lay(folder, sealed(event(0), count=3))
    [end] = verify.verify(folder)
    assert end.detail.startswith("2 events")


def test_a_segment_that_goes_meanwhile_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was settled and removed; what comes after it is read, and all are counted as looked at."""
    names = [f"segments/000000000000{n}-7.00000000aa-000000.seg" for n in range(3)]
    paths = [lay(folder, segment(broken(0), event(1)), name) for name in names]
    disk = HookedDisk()
    disk.hooks["open"] = lambda path, **_: os.unlink(path) if path == paths[1] else None

    def opened(path: Any) -> Folder:
        return Folder(path, disk=disk, gid=None, allow_network_fs=True)

    monkeypatch.setattr(verify, "open_folder", opened)
    told: list[tuple[int, int]] = []
    found = verify.verify(folder, progress=lambda done, of: told.append((done, of)))
    assert [one.path for one in found] == [paths[0], paths[2]]
    assert told == [(1, 3), (2, 3), (3, 3)]
