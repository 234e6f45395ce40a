"""Where events are held: how a place is opened, and what is said where the extra for it is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from eventpost import JournalQueue
from eventpost.errors import RedisUnusable
from eventpost.event import Envelope, Event
from eventpost.queues import streams, view
from eventpost.queues.place import JournalFolder, SharedQueue, check_address, shown_address

URL = "redis://sender:secret@127.0.0.1:6390/3"  # nobody listens there, and nobody asks
ENDPOINT = "https://somebody:secret@events.example.com/v1/events?token=secret"


class Opened:
    """What RedisStreamsQueue is given."""

    def __init__(self, url: str, **given: Any) -> None:
        self.url, self.given = url, given


def test_a_shared_queue_is_opened_with_all_that_was_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word reaches the queue under its own name, and what is given beside it as it is."""
    monkeypatch.setattr(streams, "RedisStreamsQueue", Opened)
    place = SharedQueue(URL, name="shop", password="word", ca="/etc/ca.pem", lease_s=7.0)
    opened: Any = place.open(shards=5)
    assert opened.url == URL
    assert opened.given == {"name": "shop", "password": "word", "ca": "/etc/ca.pem", "lease_s": 7.0, "shards": 5}
    opened = SharedQueue(URL).open()
    assert opened.given == {"name": "eventpost", "password": None, "ca": None, "lease_s": 60.0}


def test_no_secret_is_shown_of_a_shared_queue() -> None:
    """Neither URL nor password: a place is put into logs and onto the page."""
    place = SharedQueue(URL, password="word")
    assert str(place) == shown_address(URL)
    assert "127.0.0.1:6390" in str(place)
    for shown in (str(place), repr(place)):
        assert "secret" not in shown
        assert "word" not in shown.replace("password", "")


def test_an_address_is_checked_and_returned_as_it_was() -> None:
    """The password stays in what is returned, and out of what is said."""
    assert check_address(URL) == URL
    with pytest.raises(ValueError, match=r"redis://") as refused:
        check_address("http://user:secret@127.0.0.1/")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("missing", ["redis", "hiredis", "redis.exceptions"])
def test_without_the_extra_it_is_said_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every way to a shared queue, whichever part of the extra is missing."""

    class Missing:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.startswith("eventpost.queues.streams"):
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    for name in [name for name in sys.modules if name.startswith("eventpost.queues.streams")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    place = SharedQueue(URL)
    for way in (place.open, place.view, lambda: str(place), lambda: check_address(URL)):
        with pytest.raises(RedisUnusable, match=r"pip install 'eventpost\[redis\]'"):
            way()


def test_another_missing_module_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is not the extra's absence."""
    for name in [name for name in sys.modules if name.startswith("eventpost.queues.streams")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "eventpost.queues.streams.address", None)
    with pytest.raises(ModuleNotFoundError, match="address"):
        shown_address(URL)


def test_a_folder_is_shown_whole_and_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its full path, wherever somebody stands; and its view counts what lies in it."""
    queue = JournalQueue(str(tmp_path / "journal"))
    queue.put([Event(Envelope("http://127.0.0.1:9/v1/events"), b"{}")])
    queue.close(0.0)
    monkeypatch.chdir(tmp_path)
    place = JournalFolder("journal")
    assert str(place) == os.path.join(str(tmp_path), "journal")
    assert place.view().status().accepted == 1


def test_a_shared_queue_is_looked_at_with_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The view is of this very place, and waits for five seconds unless told otherwise."""
    seen: list[Any] = []
    from eventpost.queues.streams import view as streams_view

    monkeypatch.setattr(streams_view, "StreamsView", lambda *args, **words: seen.append((args, words)))
    place = SharedQueue(URL)
    place.view()
    place.view(timeout_s=0.5)
    assert seen == [((place,), {"timeout_s": 5.0}), ((place,), {"timeout_s": 0.5})]


def test_a_lane_says_nothing_secret_and_knows_nothing_at_first() -> None:
    """Its repr holds the endpoint without credentials and query; what nobody counted is not known."""
    lane = view.Lane(ENDPOINT)
    assert (lane.queued, lane.stored_bytes, lane.oldest_age_s) == (0, None, None)
    assert "secret" not in repr(lane)
    assert "queued=0" in repr(lane)


def test_a_status_begins_with_nothing_to_look_at() -> None:
    """Lists and values of its own, and nobody knows what is in flight."""
    given: dict[str, Any] = {
        "kind": "journal", "place": "/var/journal", "accepted": 0, "delivered": 0, "queued": 0, "dead": 0,
        "dropped": {}, "stored_bytes": 0, "dead_bytes": 0, "oldest_age_s": None, "closes": True,
    }  # fmt: skip
    one, other = view.Status(**given), view.Status(**given)
    assert (one.in_flight, one.lanes, one.needs, one.values) == (None, [], [], {})
    one.needs.append("a look")
    assert other.needs == []
