"""What the command line is told about a folder agrees with what happened in it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from proof.fuzz_segments import NAME
from tests.support import URL, drain, event, number_of
from tests.unit import test_journal_forged as forged
from tests.unit.test_journal_segments import adopt, left_by_a_dead_writer

from eventpost.queues.journal import JournalQueue, dead, inspect
from eventpost.queues.journal import format as fmt
from eventpost.queues.protocol import Answer
from eventpost.testing.clock import ManualClock


def mixed(folder: Path) -> JournalQueue:
    """Ten events: four delivered, one leased, three dead, two queued."""
    queue = JournalQueue(folder)
    queue.put([event(n) for n in range(10)])
    queue.ack(queue.claim(URL, 4, 1 << 20))
    queue.bury(queue.claim(URL, 3, 1 << 20), "rejected", Answer(400, "no such project"))
    queue.claim(URL, 1, 1 << 20)
    return queue


def test_the_folders_sum_over_processes_and_restarts(tmp_path: Path) -> None:
    """Status counts living, dead and folded segments alike, and closes."""
    queue = mixed(tmp_path / "j")
    status = inspect.folder_status(tmp_path / "j")
    assert (status.accepted, status.delivered, status.queued, status.dead, status.writers) == (10, 4, 3, 3, 1)
    assert status.closes
    queue.close()
    left = inspect.folder_status(tmp_path / "j")
    assert (left.accepted, left.delivered, left.queued, left.dead, left.writers) == (10, 4, 3, 3, 0)
    second, _ = adopt(tmp_path / "j")
    second.put([event(n) for n in range(10, 15)])
    assert sorted(drain(second)) == list(range(7, 15))
    second.close()
    after = inspect.folder_status(tmp_path / "j")
    assert (after.accepted, after.delivered, after.queued, after.dead, after.segments) == (15, 12, 0, 3, 0)
    assert after.closes


def test_dead_letters_are_listed_retried_and_discarded(tmp_path: Path) -> None:
    """A retry puts the same bytes back; a discard is counted; the sum closes throughout."""
    mixed(tmp_path / "j").close()
    letters = list(inspect.dead_letters(tmp_path / "j"))
    assert [(one.reason, one.status, one.answer, one.attempts) for one in letters] == [
        ("rejected", 400, "no such project", 1)
    ] * 3
    assert letters[0].event == event(4)
    assert [one.origin for one in letters] == [one.id for one in inspect.tail(tmp_path / "j") if one.state == "dead"]
    assert inspect.retry_dead(tmp_path / "j", [letters[0].id]) == 1
    assert inspect.discard_dead(tmp_path / "j", [letters[1].id]) == 1
    status = inspect.folder_status(tmp_path / "j")
    assert (status.accepted, status.queued, status.dead, status.dropped) == (10, 4, 1, {"dead_discarded": 1})
    assert status.closes
    queue, _ = adopt(tmp_path / "j")
    assert sorted(drain(queue)) == [4, 7, 8, 9]
    queue.close()
    status = inspect.folder_status(tmp_path / "j")
    assert (status.accepted, status.delivered, status.queued, status.dead) == (10, 8, 0, 1)
    assert status.closes
    for unknown in ("nothing:1", "nothing", "", letters[1].id, f"../segments/{letters[1].id}", "a:x"):
        with pytest.raises(KeyError):
            inspect.discard_dead(tmp_path / "j", [unknown])


def test_who_names_dead_letters_waits_for_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a heap of dead letters only the segments are read that the ids name."""
    for _ in range(3):
        mixed(tmp_path / "j").close()
    letters = list(inspect.dead_letters(tmp_path / "j"))
    read: list[str] = []
    read_all = dead.letters

    def noted(folder: Any, name: str) -> Any:
        read.append(name)
        return read_all(folder, name)

    monkeypatch.setattr(dead, "letters", noted)
    assert inspect.discard_dead(tmp_path / "j", [letters[4].id]) == 1
    assert read == [letters[4].id.partition(":")[0] + ".seg"]


def test_tail_shows_the_newest_with_their_state(tmp_path: Path) -> None:
    """Settled and queued events, oldest first."""
    queue = mixed(tmp_path / "j")
    seen = inspect.tail(tmp_path / "j", last=8)
    assert [one.state for one in seen] == ["delivered"] * 2 + ["dead"] * 3 + ["queued"] * 3
    assert seen[-1].event == event(9)
    queue.close()


def test_verify_names_each_damage(tmp_path: Path) -> None:
    """A sound folder has no findings; a torn tail and a flipped bit are named with their place."""
    path = left_by_a_dead_writer(tmp_path / "j", 5)
    assert inspect.verify(tmp_path / "j") == []
    data = bytearray(path.read_bytes())
    at = data.index(b'"n":2')
    data[at] ^= 1
    path.write_bytes(data[: data.index(b'"n":4') + 20])
    kinds = [(one.kind, one.at_byte <= at) for one in inspect.verify(tmp_path / "j")]
    assert kinds == [("damaged", True), ("torn", False)]


def test_verify_tells_how_far_it_is(tmp_path: Path) -> None:
    """After each file, of all of them: segments and dead letters."""
    mixed(tmp_path / "j").close()
    told: list[tuple[int, int]] = []
    inspect.verify(tmp_path / "j", progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("waits", [False, True])
def test_damage_is_named_as_long_as_something_waits_behind_it(tmp_path: Path, *, waits: bool) -> None:
    """A record that does not hold, of an event that is settled, was counted: nobody needs to look at it any more."""
    JournalQueue(tmp_path / "j").close()
    broken = bytearray(forged.event(1))
    broken[fmt.FRAME_HEAD_BYTES] ^= 1
    whole = forged.segment(forged.event(0), bytes(broken))
    outcomes = forged.DELIVERED + (b"\0" if waits else forged.DELIVERED)
    data = forged.segment(forged.event(0), bytes(broken), seal=(2, len(whole)), outcomes=outcomes)
    (tmp_path / "j/segments" / NAME).write_bytes(data)
    damaged = {one.at_byte for one in inspect.verify(tmp_path / "j") if one.kind == "damaged"}
    assert (len(whole) - len(broken) in damaged) is waits
    assert waits or not damaged


def test_verify_names_an_event_without_its_envelope(tmp_path: Path) -> None:
    """Where it is, and how much cannot be sent."""
    JournalQueue(tmp_path / "j").close()
    whole = forged.segment(forged.event(0))
    lost = fmt.frame(fmt.Kind.EVENT, 1, forged.AT_S, 7, b'{"n":1}')
    path = tmp_path / "j/segments" / NAME
    path.write_bytes(whole + lost)
    assert inspect.verify(tmp_path / "j") == [
        inspect.Finding(str(path), "damaged", len(whole), len(b'{"n":1}'), "its envelope is missing")
    ]


def test_what_needs_a_person_is_said_with_what_to_do(tmp_path: Path) -> None:
    """Each thing once, with its number; nothing of a folder that is well."""
    mixed(tmp_path / "j").close()
    well = inspect.folder_status(tmp_path / "j")
    assert inspect.needs_a_person(well) == []
    ill = replace(well, accepted=11, newer=2, bad=1, trouble=["x.seg: no header"])
    assert inspect.needs_a_person(ill) == [
        "x.seg: no header",
        "2 segments of a newer format: left alone; a newer release delivers them",
        f"1 damaged place set aside in {tmp_path / 'j'}/bad: look at it, then remove it",
        "the sum does not close: run `eventpost verify`",
    ]


@pytest.mark.parametrize(
    "totals", [{"accepted": -5}, {"delivered": -1}, {"dropped": {"overflow": -1}}, {"accepted": (1 << 63) - 1}]
)
def test_a_count_that_cannot_be_is_damage(tmp_path: Path, totals: dict[str, Any]) -> None:
    """A total below zero, or beyond any number of events, is not believed: it is named, and nothing else suffers."""
    mixed(tmp_path / "j").close()
    (tmp_path / "j/totals.json").write_bytes(orjson.dumps({"accepted": 7, **totals}))
    status = inspect.folder_status(tmp_path / "j")
    assert (status.accepted, status.delivered, status.queued) == (10, 4, 3)
    assert status.dropped == {}
    assert any("totals.json" in line for line in status.trouble)
    assert [one.kind for one in inspect.verify(tmp_path / "j")] == ["totals"]
    second, _ = adopt(tmp_path / "j")
    assert len(drain(second)) == 3
    second.close()


def test_segments_of_a_newer_format_are_counted(tmp_path: Path) -> None:
    """Those of events and those of dead letters, whose writer is gone."""
    mixed(tmp_path / "j").close()
    for path in (tmp_path / "j").glob("*/*.seg"):
        data = bytearray(path.read_bytes())
        data[8] = fmt.VERSION + 1
        data[64 : fmt.PAGE_BYTES] = bytes(data[64 : fmt.PAGE_BYTES]).replace(b'"version":1', b'"version":2')
        path.write_bytes(data)
    assert inspect.folder_status(tmp_path / "j").newer == 2


def test_no_journal_is_said_so(tmp_path: Path) -> None:
    """A wrong path is an error that names it, and no folder is made."""
    for path in (tmp_path / "nothing", ""):
        with pytest.raises(FileNotFoundError, match="no journal here"):
            inspect.folder_status(path)
    assert not (tmp_path / "nothing").exists()


def test_the_age_of_the_oldest(tmp_path: Path) -> None:
    """Counted from the put of the oldest event that is still queued."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path / "j", clock=clock)
    queue.put([event(1)])
    clock.advance(10)
    queue.put([event(2)])
    queue.ack(queue.claim(URL, 1, 1 << 20))
    clock.advance(10)
    assert inspect.folder_status(tmp_path / "j", clock=clock).oldest_age_s == pytest.approx(10, abs=1.1)


def test_the_age_of_the_oldest_in_a_sealed_segment(tmp_path: Path) -> None:
    """Where the first were delivered, the oldest of the rest counts; where all were, nothing waits."""
    clock = ManualClock()
    queue = JournalQueue(tmp_path / "j", clock=clock)
    for n in range(3):
        queue.put([event(n)])
        clock.advance(10)
    queue.ack(queue.claim(URL, 1, 1 << 20))
    queue.close()
    status = inspect.folder_status(tmp_path / "j", clock=clock)
    assert (status.queued, status.oldest_age_s) == (2, pytest.approx(20, abs=1.1))
    assert status.lanes[0].oldest_age_s == status.oldest_age_s


def test_status_does_not_read_a_backlog(tmp_path: Path) -> None:
    """A sealed segment is counted by its head: what it costs does not grow with what waits."""
    queue = JournalQueue(tmp_path / "j")
    queue.put([event(n) for n in range(100)])
    queue.close()
    [path] = (tmp_path / "j/segments").glob("*.seg")
    whole = inspect.folder_status(tmp_path / "j")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b'{"n":0')])
    headless = inspect.folder_status(tmp_path / "j")
    assert (headless.queued, headless.closes) == (whole.queued, True) == (100, True)


def test_what_cannot_be_counted_is_named(tmp_path: Path) -> None:
    """A header that can't be read, in segments and among the dead, is trouble and costs the others nothing."""
    mixed(tmp_path / "j").close()
    for part in ("segments", "dead"):
        [path] = (tmp_path / "j" / part).glob("*.seg")
        path.with_name(f"0000000000001-1.{'0' * 10}-000000.seg").write_bytes(b"no segment")
    status = inspect.folder_status(tmp_path / "j")
    assert (status.queued, status.dead, status.segments) == (3, 3, 1)
    assert [line.split(":")[0] for line in status.trouble] == [
        "0000000000001-1.0000000000-000000.seg", "dead/0000000000001-1.0000000000-000000.seg"
    ]  # fmt: skip


def test_a_tail_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each event is seen once, whichever segment it is in; half a record not before it is whole."""
    first, second = JournalQueue(tmp_path / "j"), JournalQueue(tmp_path / "j")
    first.put([event(n) for n in range(5)])
    tail = inspect.Tail(inspect.open_folder(tmp_path / "j"))
    assert [number_of(one.event.payload) for one in tail.look(2)] == [3, 4]
    assert tail.look() == []
    second.put([event(5)])
    first.put([event(6)])
    assert sorted(number_of(one.event.payload) for one in tail.look()) == [5, 6]
    first.close()
    assert tail.look() == []
    second.put([event(7)])
    path = next(path for path in (tmp_path / "j/segments").glob("*.seg") if b'"n":7' in path.read_bytes())
    at = path.read_bytes().index(b'"n":7')
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"?")
        file.flush()
        assert tail.look() == []
        file.seek(at)
        file.write(b'"')
    assert [number_of(one.event.payload) for one in tail.look()] == [7]
    second.close()


def test_the_newest_may_lie_in_an_older_segment(tmp_path: Path) -> None:
    """A writer that began long ago and still writes is heard beside those that began later."""
    clock = ManualClock()
    old = JournalQueue(tmp_path / "j", clock=clock)
    old.put([event(0)])
    clock.advance(10)
    new = JournalQueue(tmp_path / "j", clock=clock)
    new.put([event(n) for n in range(1, 5)])
    clock.advance(10)
    old.put([event(5)])
    assert [number_of(one.event.payload) for one in inspect.tail(tmp_path / "j", last=2)] == [4, 5]


def test_a_new_segment_is_noticed_within_20_ms(tmp_path: Path) -> None:
    """A sender of its own looks that often: at segments it has, and for new ones, in the same tick of the disk too."""
    clock = ManualClock()
    first, second = JournalQueue(tmp_path / "j", clock=clock), JournalQueue(tmp_path / "j", clock=clock)
    for writer in (first, second):
        writer.sends = False
    looking = JournalQueue(tmp_path / "j", clock=clock, adopt="always")
    first.put([event(0)])
    segments = tmp_path / "j/segments"
    clock._epoch_s = segments.stat().st_mtime + 0.001
    assert looking.tend() is not None
    assert drain(looking) == [0]
    ticks = segments.stat().st_mtime_ns
    second.put([event(1)])
    os.utime(segments, ns=(ticks, ticks))  # a file system counts in ticks of some milliseconds
    first.put([event(2)])
    wait_s = looking.tend()
    assert wait_s is not None
    assert wait_s <= 0.01
    clock.advance(wait_s)
    looking.tend()
    assert drain(looking) == [2, 1]
    clock.advance(10)  # by the interval of the full looks
    for queue in (looking, first, second):
        queue.close()


def test_an_event_that_was_delivered_counts_whatever_became_of_its_record(tmp_path: Path) -> None:
    """A bit of it changes, or power loss keeps its outcome and not its record: the sum closes all the same."""
    queue = JournalQueue(tmp_path / "j")
    queue.put([event(0), event(1)])
    queue.ack(queue.claim(URL, 9, 1 << 20))
    [path] = (tmp_path / "j/segments").iterdir()
    data = path.read_bytes()
    with path.open("r+b") as file:  # in place: it is mapped
        file.seek(data.index(b'"n":1'))
        file.write(b"?")
    status = inspect.folder_status(tmp_path / "j")
    assert (status.accepted, status.delivered, status.queued, status.closes) == (2, 2, 0, True)
    queue.close()
    status = inspect.folder_status(tmp_path / "j")
    assert (status.accepted, status.delivered, status.dropped, status.closes) == (2, 2, {}, True)
