"""What a repair makes of a segment: which events it counts as lost, what stays, and in which order it is written."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from proof.fuzz_segments import NAME
from tests.support import ALL, HookedDisk
from tests.unit.test_journal_forged import AT_S, CASES, DELIVERED, OUTCOMES_AT, RECORDS_AT, URL, event, segment

from eventpost.queues.journal import JournalQueue, inspect, repair
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.repair import Repair

DAMAGED = bytes([fmt.Outcome.DAMAGED])
ODD = b"\7"
BEGIN = len(segment())
"""Where the first event's frame begins."""
FRAME = len(event(0))


def broken(ordinal: int) -> bytes:
    """Return an event's frame with a bit flipped in its payload."""
    data = bytearray(event(ordinal))
    data[fmt.FRAME_HEAD_BYTES] ^= 1
    return bytes(data)


def sealed(*frames: bytes, count: int, outcomes: bytes = b"") -> bytes:
    """Return a segment whose seal tells so many events, and where its records end."""
    return segment(*frames, seal=(count, len(segment(*frames))), outcomes=outcomes)


def strange(kind: int, ordinal: int, envelope: int) -> bytes:
    """Return a whole frame."""
    return fmt.frame(kind, ordinal, AT_S, envelope, b'{"n":9}')


def kept(aside: dict[int, bytes]) -> dict[int, bytes]:
    """Return what is kept of these: all but the zeros behind them."""
    return {at: data.rstrip(b"\0") for at, data in aside.items()}


class Mended:
    """A folder with one segment, and what a repair made of it."""

    def __init__(self, folder: Path, data: bytes) -> None:
        (folder / "segments").mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)
        self.folder, self.path = folder, folder / "segments" / NAME
        self.path.write_bytes(data)
        self.path.chmod(0o600)
        self.did = repair.repair(folder)

    @property
    def short(self) -> list[tuple[str, int]]:
        """What was done, and how many events each counts."""
        assert {one.path for one in self.did} <= {str(self.path)}
        return [(one.did, one.events) for one in self.did]

    @property
    def outcomes(self) -> bytes:
        """The outcomes, as far as there are some."""
        return self.path.read_bytes()[OUTCOMES_AT:RECORDS_AT].rstrip(b"\0")

    @property
    def seal(self) -> tuple[int | None, int | None]:
        """How many events the segment has now, and where they end."""
        header = fmt.decode_header(self.path.read_bytes()[: fmt.PAGE_BYTES])
        return header.sealed_events, header.sealed_end

    @property
    def aside(self) -> dict[int, bytes]:
        """What lies in ``bad/``, by its place in the segment."""
        files = (self.folder / "bad").iterdir()
        return {int(one.name.removeprefix(NAME + "-").removesuffix(".bad")): one.read_bytes() for one in files}


END = BEGIN + 2 * FRAME
TAIL = event(2)[:-9]
SEALED: list[tuple[str, int]] = [("sealed", 0)]
CUT = [*SEALED, ("cut", 0)]
LOST = [("set_aside", 1), *SEALED]
UNSEALED: dict[str, tuple[bytes, list[tuple[str, int]], bytes, tuple[int, int], dict[int, bytes]]] = {
    # the segment; what is done; then its outcomes, its seal, and what lies in bad/
    "whole": (segment(event(0), event(1)), SEALED, b"", (2, END), {}),
    "with room behind it": (segment(event(0), event(1), b"\0" * 999), SEALED, b"", (2, END), {}),
    "without an event": (segment(), SEALED, b"", (0, BEGIN), {}),
    "without a record": (segment()[:RECORDS_AT], SEALED, b"", (0, RECORDS_AT), {}),
    "half a record": (segment(event(0), event(1), TAIL, b"\0" * 99), CUT, b"", (2, END), {END: TAIL}),
    "damage before the last": (segment(broken(0), event(1)), LOST, DAMAGED, (2, END), {BEGIN: broken(0)}),
    "damage, and half a record": (
        segment(broken(0), event(1), TAIL), [("set_aside", 1), *CUT], DAMAGED, (2, END), {BEGIN: broken(0), END: TAIL},
    ),
    "damage of what was delivered": (
        segment(broken(0), event(1), outcomes=DELIVERED), SEALED, DELIVERED, (2, END), {BEGIN: broken(0)},
    ),
    "a last event whose envelope is gone": (
        segment(event(0), strange(fmt.Kind.EVENT, 1, 7)), LOST, b"\0" + DAMAGED, (2, END),
        {BEGIN + FRAME: strange(fmt.Kind.EVENT, 1, 7)},
    ),
    "a dead letter among events": (
        segment(event(0), strange(fmt.Kind.DEAD, 1, 0)), LOST, b"\0" + DAMAGED, (2, END),
        {BEGIN + FRAME: strange(fmt.Kind.DEAD, 1, 0)},
    ),
    "the last event that can be": (
        segment(event(4095), outcomes=DELIVERED * 4095), SEALED, DELIVERED * 4095, (4096, BEGIN + FRAME), {},
    ),
    "one more than can be": (
        segment(event(0), event(4096)), SEALED, b"", (1, END), {BEGIN + FRAME: event(4096)},
    ),
    "an event that is there twice": (
        segment(event(0), strange(fmt.Kind.EVENT, 0, 7)), SEALED, b"", (1, END),
        {BEGIN + FRAME: strange(fmt.Kind.EVENT, 0, 7)},
    ),
    "outcomes of records that are gone": (
        segment(event(0), event(1), outcomes=b"\0\0\0" + DELIVERED), LOST, b"\0\0" + DAMAGED + DELIVERED, (4, END), {},
    ),
    "noise behind its records": (
        segment(event(0), event(1), b"noiseX\0\0"), CUT, b"", (2, END), {END: b"noiseX"},
    ),
    "noise behind the outcomes": (
        segment(event(0), event(1), outcomes=b"\0\0" + DELIVERED + b"X"), [("outcomes", 0), *SEALED],
        b"\0\0" + DELIVERED, (2, END), {},
    ),
    "a last record that nothing follows": (
        segment(event(0), event(1).rstrip(b"\0")), SEALED, b"", (2, END), {},
    ),
    "noise where outcomes stand": (
        segment(event(0), event(1), outcomes=b"\0" + ODD + b"\0" + ODD + DELIVERED), [("outcomes", 0), *SEALED],
        b"\0\0\0\0" + DELIVERED, (2, END), {},
    ),
    "an odd outcome of an event that is lost": (
        segment(broken(0), event(1), outcomes=ODD), LOST, DAMAGED, (2, END), {BEGIN: broken(0)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSEALED)
def test_what_a_dead_writer_left_is_ended_where_it_is_whole(tmp_path: Path, case: str) -> None:
    """Its events are counted, the lost ones as damaged with their bytes kept; nothing stands behind the last one."""
    data, did, outcomes, seal, aside = UNSEALED[case]
    mended = Mended(tmp_path / "j", data)
    assert mended.short == did
    assert (mended.outcomes, mended.seal, mended.aside) == (outcomes, seal, kept(aside))
    assert mended.path.stat().st_size == seal[1]
    status = inspect.folder_status(tmp_path / "j")
    assert (status.accepted, status.closes) == (seal[0], True)
    assert status.dropped.get("damaged", 0) == outcomes.count(DAMAGED)
    assert repair.repair(tmp_path / "j") == []


SEALED_ONES: dict[str, tuple[bytes, list[tuple[str, int]], bytes, dict[int, bytes]]] = {
    "whole": (sealed(event(0), event(1), count=2), [], b"", {}),
    "damage": (sealed(broken(0), event(1), count=2), [("set_aside", 1)], DAMAGED, {BEGIN: broken(0)}),
    "damage of what is settled": (sealed(broken(0), event(1), count=2, outcomes=DELIVERED), [], DELIVERED, {}),
    "all settled, its records given back": (
        segment(seal=(3, RECORDS_AT), outcomes=DELIVERED * 3)[:RECORDS_AT], [], DELIVERED * 3, {},
    ),
    "cut off": (sealed(event(0), count=3), [("set_aside", 2)], b"\0" + 2 * DAMAGED, {}),
    "damage at its end": (
        sealed(event(0), broken(1), count=2), [("set_aside", 1)], b"\0" + DAMAGED, {BEGIN + FRAME: broken(1)},
    ),
    "an odd outcome": (sealed(event(0), event(1), count=2, outcomes=ODD), [("outcomes", 0)], b"", {}),
    "an outcome behind the last event": (
        sealed(event(0), event(1), count=2, outcomes=b"\0\0" + DELIVERED), [], b"\0\0" + DELIVERED, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEALED_ONES)
def test_a_sealed_segment_keeps_its_seal(tmp_path: Path, case: str) -> None:
    """What it promised and is not there counts as damaged; of one that has all of it nothing is touched."""
    data, did, outcomes, aside = SEALED_ONES[case]
    mended = Mended(tmp_path / "j", data)
    assert mended.short == did
    assert (mended.outcomes, mended.aside) == (outcomes, kept(aside))
    unlike = {at for at, (was, now) in enumerate(zip(data, mended.path.read_bytes(), strict=True)) if was != now}
    assert unlike <= set(range(OUTCOMES_AT, RECORDS_AT))
    assert repair.repair(tmp_path / "j") == []


def test_a_seal_that_promises_less_than_there_is_is_made_anew(tmp_path: Path) -> None:
    """The events behind it were put, and are sent; what is no record is cut off behind them."""
    mended = Mended(tmp_path / "j", sealed(event(0), event(1), event(2), b"noise", count=2))
    assert mended.short == [("sealed", 0)]
    assert mended.seal == (3, BEGIN + 3 * FRAME) == (3, mended.path.stat().st_size)
    assert inspect.folder_status(tmp_path / "j").queued == 3


def test_a_repair_says_how_much_and_where(tmp_path: Path) -> None:
    """How many outcomes were none, how many events a segment has, where half a record began."""
    mended = Mended(tmp_path / "j", segment(event(0), event(1), event(2), TAIL, outcomes=ODD * 2))
    outcomes, ended, cut = (one.detail for one in mended.did)
    assert outcomes.startswith("2 ")
    assert "3 events" in ended
    assert f"{END + FRAME:,}" in cut
    assert f"{tmp_path}/j/bad" in cut
    assert f"{tmp_path}/k/bad" in Mended(tmp_path / "k", segment(broken(0), event(1))).did[0].detail


@pytest.mark.parametrize("case", CASES)
def test_a_repair_and_a_sender_count_alike(tmp_path: Path, case: str) -> None:
    """Who repairs first loses no other event than who sends, and a sender has nothing left to count."""
    make, _, damaged = CASES[case]
    (tmp_path / "j/segments").mkdir(parents=True)
    (tmp_path / "j/segments" / NAME).write_bytes(make())
    counted = sum(one.events for one in repair.repair(tmp_path / "j"))
    assert counted == damaged
    queue = JournalQueue(tmp_path / "j", adopt="always")
    queue.scan()
    while leases := queue.claim(URL, 100, ALL):
        queue.ack(leases)
    assert queue.stats().dropped == {}
    queue.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> HookedDisk:
    """Give the disk of who repairs."""
    disk = HookedDisk()

    def opened(path: Any) -> Folder:
        return Folder(path, disk=disk, gid=None, allow_network_fs=True)

    monkeypatch.setattr(repair, "open_folder", opened)
    return disk


def test_a_crash_at_any_point_leaves_what_a_second_run_finishes(tmp_path: Path, disk: HookedDisk) -> None:
    """The bytes are in ``bad/`` before their event is settled; outcomes before the seal, the seal before the cut."""
    order: list[Any] = []

    disk.hooks["create"] = lambda path, *_: order.append("create") if path.endswith(".bad") else None
    disk.hooks["write"] = lambda _, data, at: order.append((data, at))
    disk.hooks["truncate"] = lambda _, length: order.append(("truncate", length))
    disk.hooks["datasync"] = lambda _: order.append("datasync")
    Mended(tmp_path / "j", segment(broken(0), event(1), TAIL, outcomes=b"\0" + ODD))
    assert order == [
        "create", (broken(0).rstrip(b"\0"), 0), "create", (TAIL, 0), (DAMAGED, OUTCOMES_AT), (b"\0", OUTCOMES_AT + 1),
        (fmt.encode_seal(2, END), fmt.SEAL_AT), ("truncate", END), "datasync",
    ]  # fmt: skip


def test_no_event_is_settled_whose_bytes_cannot_be_kept(tmp_path: Path, disk: HookedDisk) -> None:
    """It is named, and the segment stays as it was."""
    data = segment(broken(0), event(1))

    def full(path: str, *_: Any) -> None:
        if path.endswith(".bad"):
            raise OSError(28, "No space left on device")

    disk.hooks["create"] = full
    mended = Mended(tmp_path / "j", data)
    assert mended.short == [("left", 0)]
    assert isinstance(mended.did[0].detail, str)
    assert mended.path.read_bytes() == data


LIVING = {
    "writes it": (segment(event(0), event(1)), []),
    "is in the middle of a record": (segment(event(0), TAIL), []),
    "has a damaged record in it": (segment(broken(0), event(1)), [("left", 0)]),
    "has an odd outcome in it": (segment(event(0), outcomes=ODD), [("left", 0)]),
}


@pytest.mark.parametrize("case", LIVING)
def test_what_somebody_works_at_is_only_named_if_it_is_ill(tmp_path: Path, case: str) -> None:
    """The end of what is being written is no damage; nothing of it is changed, and its lock is not kept."""
    data, did = LIVING[case]
    (tmp_path / "j/segments").mkdir(parents=True, mode=0o700)
    (tmp_path / "j").chmod(0o700)
    path = tmp_path / "j/segments" / NAME
    path.write_bytes(data)
    path.chmod(0o600)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [(one.did, one.events) for one in repair.repair(tmp_path / "j")] == did
    assert path.read_bytes() == data
    descriptors = len(os.listdir("/proc/self/fd"))
    repair.repair(tmp_path / "j")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_whose_a_segment_is_tells_its_name_alone(tmp_path: Path) -> None:
    """Whatever the folder is called; damage in it is its living writer's, and stays where it is."""
    folder = tmp_path / "one-other-third"
    JournalQueue(folder).close()
    (folder / "segments" / NAME).write_bytes(segment(broken(0), event(1)))
    (folder / "segments" / NAME).chmod(0o600)
    with (folder / "writers/7.00000000aa.lock").open("w") as held:
        os.fchmod(held.fileno(), 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [one.did for one in repair.repair(folder)] == ["left"]
    assert repair.repair(folder)[-1].did == "sealed"
    assert [path.name for path in (folder / "bad").iterdir()] == [f"{NAME}-{BEGIN}.bad"]


def test_letters_are_mended_as_letters(tmp_path: Path) -> None:
    """Where no endpoint is named they are whole, and an event among them is not."""
    JournalQueue(tmp_path).close()
    letters = [fmt.frame(fmt.Kind.DEAD, n, AT_S, 0, fmt.encode_dead({"reason": "rejected"}, b"{}")) for n in (0, 2)]
    data = segment(letters[0], event(1), letters[1])
    header = fmt.encode_header("", "7.00000000aa", 1, sender=False, retry=False, outcome_pages=1)
    path = tmp_path / "dead" / NAME
    path.write_bytes(header + data[fmt.PAGE_BYTES :])
    path.chmod(0o600)
    assert [(one.path, one.did, one.events) for one in repair.repair(tmp_path)] == [
        (str(path), "set_aside", 1), (str(path), "sealed", 0),
    ]  # fmt: skip
    status = inspect.folder_status(tmp_path)
    assert (status.dead, status.dropped) == (2, {"damaged": 1})


def test_what_is_settled_and_removed_meanwhile_is_passed_over(tmp_path: Path, disk: HookedDisk) -> None:
    """Before it is opened, or before it is held: it is nobody's damage, and the next one is mended."""
    names = [f"000000000000{n}-7.00000000aa-000000.seg" for n in range(3)]
    (tmp_path / "j/segments").mkdir(parents=True, mode=0o700)
    (tmp_path / "j").chmod(0o700)
    paths = [tmp_path / "j/segments" / name for name in names]
    for path in paths:
        path.write_bytes(segment(event(0)))
        path.chmod(0o600)
    gone = iter(paths[:2])
    disk.hooks["open"] = lambda path, **_: os.unlink(next(gone)) if path == str(paths[0]) else None
    disk.hooks["still_named"] = lambda _, path: os.unlink(path) if path == str(paths[1]) else None
    assert repair.repair(tmp_path / "j") == [
        Repair(str(paths[2]), "sealed", 0, "its writer is dead: 1 events"),
    ]  # fmt: skip
