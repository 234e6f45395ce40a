"""What the command line is told about a folder agrees with what happened in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.test_journal_segments import URL, adopt, drain, event, left_by_a_dead_writer

from eventpost.queues.journal import JournalQueue, inspect
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
    with pytest.raises(KeyError):
        inspect.discard_dead(tmp_path / "j", ["nothing:1"])


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


def test_no_journal_is_said_so(tmp_path: Path) -> None:
    """A wrong path is an error that names it, and no folder is made."""
    with pytest.raises(FileNotFoundError, match="no journal here"):
        inspect.folder_status(tmp_path / "nothing")
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
