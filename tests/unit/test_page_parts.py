"""The page's parts over a real folder: the tail, the dead letters, the jobs."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, URL, event, number_of

from eventpost import JournalQueue
from eventpost.queues.journal import inspect
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.view import JournalView
from eventpost.queues.protocol import Answer
from eventpost.relay.page import events as tail_module
from eventpost.relay.page import jobs as jobs_module
from eventpost.relay.page.events import EventsTail, FolderEvents, Place
from eventpost.relay.page.jobs import Busy, Jobs
from eventpost.relay.page.letters import LIST_ROWS, Choice, FolderLetters
from eventpost.relay.page.rows import Filter


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JournalQueue]:
    """Return a queue that is its own sender."""
    made = JournalQueue(tmp_path / "j")
    yield made
    made.close()


@pytest.fixture
def folder(queue: JournalQueue) -> Folder:
    """Return its folder as the page sees it."""
    return inspect.open_folder(queue.path)


def bury(queue: JournalQueue, *numbers: int, reason: str = "rejected", answer: str = "no such project") -> None:
    """Have events die."""
    queue.put([event(number) for number in numbers])
    leases = queue.claim(URL, len(numbers), ALL)
    for lease in leases:
        queue.bury([lease], reason=reason, answer=Answer(400, answer))


def jobs_of(tmp_path: Path, folder: Folder) -> Jobs:
    """Return the jobs of one worker."""
    (tmp_path / "run").mkdir(exist_ok=True)
    return Jobs(str(tmp_path / "run"), [JournalView(folder.path)], FolderLetters([folder], visitor_ids=False))


def finished(jobs: Jobs, thread: threading.Thread) -> dict[str, Any]:
    """Return what a job has done."""
    thread.join(30)
    assert not thread.is_alive()
    note = jobs.note()
    assert note is not None
    return note


def every(text: str = "", reason: str = "") -> Choice:
    """Choose all that a filter takes."""
    return Choice(frozenset(), Filter(text=text, reason=reason))


# -- the tail


def test_the_tail_tells_what_comes_and_what_becomes_of_it(queue: JournalQueue, folder: Folder) -> None:
    """New rows in order; a row changes as its event is settled."""
    tail = EventsTail([FolderEvents(folder)], visitor_ids=False)
    queue.put([event(1), event(2)])
    first = tail.look({})
    assert [(row["state"], row["attempts"]) for row in first.rows] == [("queued", None)] * 2
    assert (first.changed, first.passed_over) == ([], 0)
    queue.ack(queue.claim(URL, 1, ALL))
    queue.put([event(3)])
    news = tail.look({})
    assert [row["id"] for row in news.rows] == ["0/" + inspect.tail(folder.path)[-1].id]
    assert [(row["id"], row["state"]) for row in news.changed] == [(first.rows[0]["id"], "delivered")]
    assert tail.look({}) == ([], [], 0)
    assert [row["state"] for row in tail.rows()] == ["delivered", "queued", "queued"]


def test_a_row_whose_event_died_knows_its_letter(queue: JournalQueue, folder: Folder) -> None:
    """Attempts and reason are known then; also where the letter is found a look later."""
    tail, letters = EventsTail([FolderEvents(folder)], visitor_ids=False), FolderLetters([folder], visitor_ids=False)
    queue.put([event(1)])
    tail.look({})
    queue.bury(queue.claim(URL, 1, ALL), reason="rejected", answer=Answer(400, ""))
    (row,) = tail.look({}).changed
    assert (row["state"], row["attempts"]) == ("dead", None)
    assert letters.by_reason() == {"rejected": 1}
    (row,) = tail.look(letters.origins).changed
    assert (row["state"], row["attempts"], row["reason"]) == ("dead", 1, "rejected")
    assert letters.find(row["letter"]).event == event(1)
    assert tail.look(letters.origins).changed == []


def test_an_event_whose_segment_is_gone_is_settled(queue: JournalQueue, folder: Folder) -> None:
    """Its payload is still known where it was shown; of what was not shown nothing is kept."""
    tail = EventsTail([FolderEvents(folder)], visitor_ids=False)
    queue.put([event(1)])
    (row,) = tail.look({}).rows
    (name,) = folder.segment_names(folder.segments)
    os.unlink(f"{folder.segments}/{name}")
    (changed,) = tail.look({}).changed
    assert (changed["id"], changed["state"]) == (row["id"], "settled")
    assert tail.find(row["id"]).event == event(1)
    with pytest.raises(KeyError):
        EventsTail([FolderEvents(folder)], visitor_ids=False).find(row["id"])


def test_an_event_is_found_on_the_disk_by_any_worker(queue: JournalQueue, folder: Folder) -> None:
    """Whoever answers a click need not have shown the row."""
    queue.put([event(1), event(2)])
    ids = [f"0/{seen.id}" for seen in inspect.tail(folder.path)]
    found = EventsTail([FolderEvents(folder)], visitor_ids=False).find(ids[1])
    assert (found.event, found.state) == (event(2), "queued")
    last = ids[1].rpartition(":")[0] + ":99"
    with pytest.raises(KeyError):
        EventsTail([FolderEvents(folder)], visitor_ids=False).find(last)


def test_of_a_storm_the_newest_are_shown(
    queue: JournalQueue, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The others are counted; rows and payloads that are remembered have a bound."""
    monkeypatch.setattr(tail_module, "ROWS_MAX", 10)
    monkeypatch.setattr(tail_module, "PAYLOAD_BYTES_MAX", 300)
    tail = EventsTail([FolderEvents(folder)], visitor_ids=False)
    tail.look({})
    queue.put([event(number) for number in range(25)])
    news = tail.look({})
    assert (len(news.rows), news.passed_over) == (10, 15)
    assert [number_of(tail.find(row["id"]).event.payload) for row in news.rows] == list(range(15, 25))
    queue.put([event(number) for number in range(25, 30)])
    tail.look({})
    assert len(tail.rows()) == 10
    assert sum(len(kept.payload) for kept in tail._kept.values()) <= 300
    assert set(tail._kept) <= {row["id"] for row in tail.rows()}


@pytest.mark.parametrize(
    "id_",
    [
        "", "0/", "0/../../etc/passwd:1", "0/1-a/../b-1:1", "1/1-a-1:1", "0/1-a-1:x", "0/1-a-1", "-1/1-a-1:1",
        "0/1-a-1:\u0661",
    ],
)  # fmt: skip
def test_an_id_names_nothing_but_a_place_in_a_known_folder(id_: str) -> None:
    """No path, and no folder that is not the relay's."""
    with pytest.raises(KeyError):
        Place.of(id_, 1)


# -- the dead letters


def test_letters_are_counted_by_reason_and_anew_when_they_change(queue: JournalQueue, folder: Folder) -> None:
    """Whoever changes them."""
    letters = FolderLetters([folder], visitor_ids=False)
    assert letters.by_reason() == {}
    bury(queue, 1, 2)
    bury(queue, 3, reason="too_large")
    assert letters.by_reason() == {"rejected": 2, "too_large": 1}
    bury(queue, 4)
    assert letters.by_reason() == {"rejected": 3, "too_large": 1}
    first = next(inspect.dead_letters(folder.path))
    inspect.discard_dead(folder.path, [first.id])
    assert letters.by_reason() == {"rejected": 2, "too_large": 1}


def test_a_segment_of_letters_is_read_once_while_it_does_not_change(
    queue: JournalQueue, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The sum is asked for every few seconds."""
    letters = FolderLetters([folder], visitor_ids=False)
    bury(queue, 1)
    assert letters.by_reason() == {"rejected": 1}
    monkeypatch.setattr(letters, "_count", lambda *_: pytest.fail("read again"))
    assert letters.by_reason() == {"rejected": 1}


def test_the_list_is_newest_first_in_parts(queue: JournalQueue, folder: Folder) -> None:
    """Every letter once, however many answers that takes; filtered by reason and text."""
    letters = FolderLetters([folder], visitor_ids=False)
    total = 2 * LIST_ROWS + 5
    bury(queue, *range(total))
    bury(queue, 900, reason="too_large", answer="beyond 3.5 MB")
    seen: list[str] = []
    more, parts = "", 0
    while parts == 0 or more:
        rows, more = letters.rows(Filter(reason="rejected"), before=more)
        seen += [row["id"] for row in rows]
        parts += 1
    assert (len(seen), len(set(seen)), parts) == (total, total, 3)
    assert [number_of(letters.find(id_).event.payload) for id_ in seen] == list(reversed(range(total)))
    (large,), more = letters.rows(Filter(text="3.5 mb"))
    assert (large["reason"], large["status"], more) == ("too_large", 400, "")
    assert letters.rows(Filter(text="nothing like it")) == ([], "")
    with pytest.raises(KeyError):
        letters.rows(Filter(), before="../x")


def test_letters_of_several_folders_are_one_list(queue: JournalQueue, folder: Folder, tmp_path: Path) -> None:
    """The relay's own, and those of applications."""
    other = JournalQueue(tmp_path / "other")
    bury(queue, 1)
    bury(other, 2)
    letters = FolderLetters([folder, inspect.open_folder(other.path)], visitor_ids=False)
    rows, _ = letters.rows(Filter())
    assert sorted(row["id"][0] for row in rows) == ["0", "1"]
    assert letters.by_reason() == {"rejected": 2}
    other.close()


@pytest.mark.parametrize(
    "said",
    [
        {}, {"ids": []}, {"ids": "x"}, {"ids": [1]}, {"ids": ["x"] * 5001}, {"matching": None},
        {"ids": [], "matching": {}},
    ],
)  # fmt: skip
def test_nobody_means_all_by_mistake(said: dict[str, Any]) -> None:
    """A choice names ids, or says that it is a filter's."""
    with pytest.raises(ValueError, match="name up to"):
        Choice.of(said)
    assert Choice.of({"matching": {}}) == every()


# -- the jobs


def test_a_retry_keeps_uuid_and_bytes(queue: JournalQueue, folder: Folder, tmp_path: Path) -> None:
    """One letter, by its id; the sum closes."""
    bury(queue, 1, 2, 3)
    jobs = jobs_of(tmp_path, folder)
    assert jobs.note() is None
    rows, _ = FolderLetters([folder], visitor_ids=False).rows(Filter())
    note = finished(jobs, jobs.start("retry", Choice(frozenset({rows[0]["id"]}), Filter()), 1))
    assert [note[name] for name in ("action", "state", "total", "done", "changed")] == ["retry", "done", 1, 1, 1]
    assert [one.event for one in inspect.tail(folder.path) if one.state == "queued"] == [event(3)]
    status = inspect.folder_status(folder.path)
    assert (status.accepted, status.queued, status.dead, status.closes) == (3, 1, 2, True)


def test_all_of_a_reason_are_discarded_and_no_others(queue: JournalQueue, folder: Folder, tmp_path: Path) -> None:
    """And counted as what they are."""
    bury(queue, 1, 2, 3)
    bury(queue, 4, reason="too_large")
    jobs = jobs_of(tmp_path, folder)
    note = finished(jobs, jobs.start("discard", every(reason="rejected"), 3))
    assert (note["done"], note["changed"]) == (3, 3)
    status = inspect.folder_status(folder.path)
    assert (status.dead, status.dropped, status.closes) == (1, {"dead_discarded": 3}, True)
    note = finished(jobs, jobs.start("discard", every(text="no such letter"), None))
    assert (note["state"], note["done"]) == ("done", 0)


def test_what_somebody_else_has_done_meanwhile_is_passed_over(
    queue: JournalQueue, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The others are still retried, and the count says how many."""
    bury(queue, 1, 2, 3)
    jobs = jobs_of(tmp_path, folder)
    chosen = jobs._letters.chosen

    def chosen_then_gone(choice: Choice) -> Iterator[Any]:
        for number, letters in list(chosen(choice)):
            if not choice.ids:
                inspect.discard_dead(folder.path, [letters[1].id])
            yield number, letters

    monkeypatch.setattr(jobs._letters, "chosen", chosen_then_gone)
    note = finished(jobs, jobs.start("retry", every(), 3))
    assert [note[name] for name in ("state", "done", "changed")] == ["done", 3, 2]
    status = inspect.folder_status(folder.path)
    assert (status.queued, status.dead, status.dropped) == (2, 0, {"dead_discarded": 1})


def test_a_job_goes_at_its_pace_one_at_a_time_and_can_be_stopped(
    queue: JournalQueue, folder: Folder, tmp_path: Path
) -> None:  # fmt: skip
    """Whichever worker is asked: the run_dir tells the others."""
    bury(queue, *range(200))
    jobs, other = jobs_of(tmp_path, folder), jobs_of(tmp_path, folder)
    began = time.monotonic()
    thread = jobs.start("retry", every(), 200)
    with pytest.raises(Busy):
        other.start("discard", every(), 200)
    while not (note := other.note() or {}).get("done"):
        assert time.monotonic() < began + 20
        time.sleep(0.01)
    assert note["state"] == "running"
    other.stop()
    note = finished(jobs, thread)
    assert note["state"] == "stopped"
    assert 0 < note["done"] < 200
    assert note["changed"] == note["done"]
    assert (time.monotonic() - began) * jobs_module.RETRY_PER_S >= note["done"] - jobs_module.RETRY_PER_S / 4
    status = inspect.folder_status(folder.path)
    assert (status.queued, status.dead, status.closes) == (note["done"], 200 - note["done"], True)
    assert finished(other, other.start("discard", every(), None))["state"] == "done"


def test_a_job_that_fails_says_why(
    queue: JournalQueue, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """And another one can begin."""
    bury(queue, 1)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JournalView, "retry_dead", full)
    jobs = jobs_of(tmp_path, folder)
    note = finished(jobs, jobs.start("retry", every(), 1))
    assert (note["state"], note["changed"]) == ("failed", 0)
    assert "No space left" in note["error"]
    assert finished(jobs, jobs.start("discard", every(), 1))["changed"] == 1


def test_a_job_whose_worker_was_killed_is_not_running(folder: Folder, tmp_path: Path) -> None:
    """Nobody holds its lock; what it had not done is untouched."""
    jobs = jobs_of(tmp_path, folder)
    left = {"id": "x", "action": "retry", "state": "running", "total": 5, "done": 2, "changed": 2, "error": ""}
    (tmp_path / "run" / "job.json").write_text(json.dumps(left))
    note = jobs.note()
    assert note is not None
    assert note["state"] == "failed"
    assert "process" in note["error"]
    assert finished(jobs, jobs.start("retry", every(), 0))["state"] == "done"


@pytest.mark.parametrize("written", ["", "{", "[]x"])
def test_a_note_that_cannot_be_read_is_none(folder: Folder, tmp_path: Path, written: str) -> None:
    """The page goes on."""
    jobs = jobs_of(tmp_path, folder)
    (tmp_path / "run" / "job.json").write_text(written)
    assert jobs.note() is None


def test_the_end_of_the_process_ends_a_job_between_two_letters(
    queue: JournalQueue, folder: Folder, tmp_path: Path
) -> None:  # fmt: skip
    """It is waited for, for a moment."""
    bury(queue, *range(200))
    jobs = jobs_of(tmp_path, folder)
    jobs.start("retry", every(), 200)
    ending: Callable[[], None] = jobs._end
    ending()
    assert jobs._thread is not None
    assert not jobs._thread.is_alive()
    assert inspect.folder_status(folder.path).closes
