"""`eventpost verify --repair`: what is mended, what is left to whom it belongs, and that the sum closes afterwards."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.unit.test_journal_segments import URL, adopt, drain, event, left_by_a_dead_writer

from eventpost.queues.journal import JournalQueue, inspect
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.repair import repair

COUNT = 6


def sound(folder: Path, path: Path) -> None:
    """Make a sealed segment of what a dead writer left."""
    repair(folder)
    assert fmt.decode_header(path.read_bytes()[: fmt.PAGE_BYTES]).sealed_events == COUNT


def check(folder: Path, at: object) -> tuple[list[int], int]:
    """Repair, then again, then let a sender have it; return what it was handed, and how many were dropped."""
    done = repair(folder)
    assert [one for one in done if one.did == "left"] == [], at
    assert repair(folder) == [], f"not idempotent at {at}"
    assert [one for one in inspect.verify(folder) if one.kind != "newer"] == [], at
    status = inspect.folder_status(folder)
    assert status.closes, at
    queue, _ = adopt(folder)
    got = drain(queue)
    stats = queue.stats()
    assert len(got) == stats.adopted, at
    assert stats.dropped == {}, "a sender finds nothing left to count"
    queue.close()
    assert inspect.folder_status(folder).closes, at
    return got, status.dropped.get("damaged", 0)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_flipped_bit_is_mended_wherever_it_is(tmp_path: Path, *, sealed: bool) -> None:
    """At every byte of the records, and of what is used before them: the rest is sent, what was lost is counted."""
    path = left_by_a_dead_writer(tmp_path / "origin", COUNT, size=3)
    if sealed:
        sound(tmp_path / "origin", path)
    data = path.read_bytes()
    header = fmt.decode_header(data[: fmt.PAGE_BYTES])
    end = len(data.rstrip(b"\0"))
    lost_somewhere = 0
    places = [*range(header.records_at, end, 1 if sealed else 3), *range(0, 90, 3), *range(4096, 4096 + 9)]
    for at in places:
        folder = tmp_path / f"f{at}"
        (folder / "segments").mkdir(parents=True)
        flipped = bytearray(data[: end + 64])
        flipped[at] ^= 1 << at % 8
        (folder / "segments" / path.name).write_bytes(flipped)
        got, dropped = check(folder, at)
        if at < header.outcomes_at and not got:  # the header: set aside whole
            assert len(os.listdir(folder / "bad")) == 1
            continue
        assert got == sorted(set(got))
        assert len(got) >= COUNT - 1, at
        assert len(got) + dropped in ({COUNT} if sealed else {COUNT, COUNT - 1}), at
        lost_somewhere += dropped
    assert lost_somewhere


@pytest.mark.parametrize("sealed", [False, True])
def test_a_cut_segment_is_mended_at_every_length(tmp_path: Path, *, sealed: bool) -> None:
    """Cut anywhere in its records: what is whole is sent; of a sealed one the rest is counted as damaged."""
    path = left_by_a_dead_writer(tmp_path / "origin", COUNT, size=3)
    if sealed:
        sound(tmp_path / "origin", path)
    data = path.read_bytes()
    header = fmt.decode_header(data[: fmt.PAGE_BYTES])
    for cut in range(header.records_at, len(data.rstrip(b"\0")) + 1, 2):
        folder = tmp_path / f"c{cut}"
        (folder / "segments").mkdir(parents=True)
        (folder / "segments" / path.name).write_bytes(data[:cut])
        got, dropped = check(folder, cut)
        assert got == list(range(len(got)))
        assert dropped == (COUNT - len(got) if sealed else 0)


def test_what_a_live_process_holds_is_left_alone(tmp_path: Path) -> None:
    """A living writer's segment, and one that a sender holds, are named and not changed."""
    queue = JournalQueue(tmp_path / "j")
    queue.put([event(n) for n in range(3)])
    assert repair(tmp_path / "j") == [], "an open segment is no damage"
    [path] = (tmp_path / "j/segments").iterdir()
    data = bytearray(path.read_bytes())
    data[data.index(b'"n":1')] ^= 1
    with path.open("r+b") as file:  # in place: it is mapped
        file.write(data)
    assert [one.did for one in repair(tmp_path / "j")] == ["left"]
    assert path.read_bytes() == bytes(data)
    queue.close()
    left = left_by_a_dead_writer(tmp_path / "k", 3)
    data = bytearray(left.read_bytes())
    data[data.index(b'"n":1')] ^= 1
    left.write_bytes(data)
    sender, _ = adopt(tmp_path / "k")
    before = left.read_bytes()
    assert [one.did for one in repair(tmp_path / "k") if one.path == str(left)] == ["left"]
    assert left.read_bytes() == before
    assert drain(sender) == [0, 2]
    sender.close()


def test_leftovers_modes_and_totals(tmp_path: Path) -> None:
    """What the dead left half made goes, modes come back, totals that cannot be read begin anew; links are named."""
    folder = tmp_path / "j"
    path = left_by_a_dead_writer(folder, 3)
    (folder / "segments/.0000000000001-1.aa-000000.seg.tmp").write_bytes(b"half")
    (folder / "writers/1.aa.lock").write_bytes(b"")
    (folder / ".probe-0011").write_bytes(b"")
    (folder / "totals.json").write_text("{")
    (folder / "bad/link").symlink_to(tmp_path)
    path.chmod(0o644)
    (folder / "segments").chmod(0o755)
    did = sorted(one.did for one in repair(folder))
    assert did == ["left", *["mode"] * 6, *["removed"] * 3, "sealed", "totals"]
    assert {stat.S_IMODE(one.lstat().st_mode) for one in folder.rglob("*.seg")} == {0o600}
    assert stat.S_IMODE((folder / "segments").stat().st_mode) == 0o700
    assert [one.did for one in repair(folder)] == ["left"]
    queue, _ = adopt(folder)
    assert drain(queue) == [0, 1, 2]
    queue.close()
    assert inspect.folder_status(folder).delivered == 3


def test_dead_letters_are_mended_too(tmp_path: Path) -> None:
    """A damaged dead letter is counted as dropped; the others can be retried."""
    child = os.fork()
    if not child:
        queue = JournalQueue(tmp_path / "j")
        queue.put([event(n) for n in range(3)])
        queue.bury(queue.claim(URL, 3, 1 << 20), "rejected")
        os._exit(0)
    os.waitpid(child, 0)
    [path] = (tmp_path / "j/dead").glob("*.seg")
    data = bytearray(path.read_bytes())
    data[data.index(b'"n":1')] ^= 1
    path.write_bytes(data)
    assert {one.did for one in repair(tmp_path / "j")} >= {"set_aside", "sealed"}
    assert repair(tmp_path / "j") == []
    status = inspect.folder_status(tmp_path / "j")
    assert (status.accepted, status.dead, status.dropped) == (3, 2, {"damaged": 1})
    assert status.closes
    assert inspect.retry_dead(tmp_path / "j", None) == 2
