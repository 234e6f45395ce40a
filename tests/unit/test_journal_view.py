"""A journal's folder in the words that all queues share: each number under its own name, each id to its own letter."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import ALL, URL, event, number_of

from eventpost.queues.journal import JournalQueue, inspect
from eventpost.queues.journal.inspect import FolderStatus, LaneStatus
from eventpost.queues.journal.view import JournalView, status_of
from eventpost.queues.view import Lane, Status

OTHER = URL + "/other"


def test_a_folders_numbers_go_under_the_names_that_all_queues_share() -> None:
    """No two of them are mixed up, and what is the journal's alone is among the values."""
    found = FolderStatus(
        path="/var/journal", accepted=100, delivered=50, queued=20, dead=15, dropped={"damaged": 14}, segments=2,
        stored_bytes=7_000, dead_bytes=800, writers=3, newer=0, bad=1, oldest_age_s=9.5,
        lanes=[LaneStatus(URL, 17, 6_000, 9.5), LaneStatus(OTHER, 3, 1_000, 4.25)], trouble=[],
    )  # fmt: skip
    told = status_of(found)
    assert told == Status(
        kind="journal", place="/var/journal", accepted=100, delivered=50, queued=20, dead=15, dropped={"damaged": 14},
        stored_bytes=7_000, dead_bytes=800, oldest_age_s=9.5, closes=False, in_flight=None,
        lanes=[Lane(URL, 17, 6_000, 9.5), Lane(OTHER, 3, 1_000, 4.25)], needs=told.needs, values=told.values,
    )  # fmt: skip
    assert told.needs == inspect.needs_a_person(found)
    assert len(told.needs) == 2, "what was set aside, and a sum that does not close"
    assert told.values == inspect.as_dict(found)
    assert (told.values["writers"], told.values["closes"]) == (3, False)


@pytest.fixture
def buried(tmp_path: Path) -> Path:
    """Give a folder with four dead letters, and one event that waits."""
    queue = JournalQueue(tmp_path / "j")
    queue.put([event(n) for n in range(5)])
    queue.bury(queue.claim(URL, 4, ALL), "rejected")
    queue.close()
    return tmp_path / "j"


def test_a_view_looks_anew_each_time(buried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the folder it was made for, wherever somebody stands; it follows what comes."""
    monkeypatch.chdir(buried.parent)
    view = JournalView("j")
    monkeypatch.chdir("/")
    assert view.place == str(buried)
    assert (view.status().place, view.status().accepted, view.status().dead) == (str(buried), 5, 4)
    follower = view.follow()
    assert [number_of(one.event.payload) for one in follower.look(1)] == [4]
    queue = JournalQueue(buried)
    queue.put([event(5)])
    assert [number_of(one.event.payload) for one in follower.look()] == [5]
    assert view.status().accepted == 6
    queue.close()
    view.close()


def test_a_view_of_no_journal_is_refused(tmp_path: Path) -> None:
    """At once, with the folder's name."""
    with pytest.raises(FileNotFoundError, match="no journal here") as refused:
        JournalView(tmp_path / "nothing")
    assert refused.value.filename == str(tmp_path / "nothing")


def test_those_letters_are_put_back_or_dropped_that_somebody_named(buried: Path) -> None:
    """And no others, unless nobody named any; each is told as it is done."""
    view = JournalView(buried)
    letters = list(view.dead_letters())
    assert [number_of(one.event.payload) for one in letters] == [0, 1, 2, 3]
    told: list[int] = []
    assert view.retry_dead([letters[1].id], progress=told.append) == 1
    assert view.discard_dead([letters[2].id], progress=told.append) == 1
    assert told == [1, 1]
    assert [number_of(one.event.payload) for one in view.dead_letters()] == [0, 3]
    status = view.status()
    assert (status.queued, status.dead, status.dropped, status.closes) == (2, 2, {"dead_discarded": 1}, True)
    assert view.retry_dead(None) == 2
    assert view.discard_dead(None) == 0
    assert view.status().queued == 4
