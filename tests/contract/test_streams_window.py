"""A queue that machines share, looked at from outside again and again, on a real Valkey."""

from __future__ import annotations

import itertools
import os
import time

import pytest

from eventpost.event import Envelope, Event
from eventpost.queues.place import SharedQueue
from eventpost.queues.protocol import Answer
from redis_support import a_valkey
from relay_support import wait_for

NUMBERS = itertools.count()
URL = "http://127.0.0.1:9/v1/events"
OTHER = "http://127.0.0.1:9/eu/v1/events"
ALL = 1 << 30


@pytest.fixture(scope="module")
def server():
    """One Valkey for all tests here."""
    with a_valkey() as running:
        yield running


@pytest.fixture
def shared(server):
    """Return the address of a queue of a fresh name."""
    return SharedQueue(server.url, f"window-{os.getpid()}-{next(NUMBERS)}")


@pytest.fixture
def queue(shared):
    """Return the queue."""
    made = shared.open()
    yield made
    made.close()


@pytest.fixture
def fleet(shared, queue):
    """Return what looks at it."""
    view = shared.view()
    yield view.fleet
    view.close()


def put(queue, *numbers, url=URL):
    """Put events, together."""
    queue.put([Event(Envelope(url), b'{"n":%d}' % number) for number in numbers])


def numbers(seen):
    """Return the numbers of events."""
    return [int(one.event.payload[5:-1]) for one in seen]


def claimed(queue, count, url=URL):
    """Claim so many events."""
    return wait_for(lambda: queue.claim(url, count, ALL))


def bury(queue, *which, reason="rejected", url=URL):
    """Have events die, each with an entry of its own."""
    for number in which:
        put(queue, number, url=url)
        queue.bury(claimed(queue, 1, url), reason, Answer(400, "no"))


def test_each_event_is_told_once(shared, queue):
    """From look to look, over all endpoints, in the order in which they were put; what is settled is not."""
    follower = shared.view().follow()
    assert follower.look() == []
    put(queue, 1, 2)
    put(queue, 3, url=OTHER)
    assert sorted(numbers(follower.look())) == [1, 2, 3]
    time.sleep(0.003)  # of two endpoints' events, which is newer is known by the millisecond
    put(queue, 4)
    put(queue, 5)
    assert numbers(follower.look()) == [4, 5]
    assert follower.look() == []
    queue.ack(claimed(queue, 1))
    late = shared.view().follow()
    assert sorted(numbers(late.look())) == [2, 3, 4, 5]
    assert numbers(shared.view().follow().look(1)) == [5]


def test_of_a_storm_the_newest_are_told(shared, queue, monkeypatch):
    """A look has a bound, and what it passed over does not come later."""
    monkeypatch.setattr("eventpost.queues.streams.window.LOOK_EVENTS_MAX", 30)
    follower = shared.view().follow()
    for number in range(100):
        put(queue, number)
    told = numbers(follower.look())
    assert told == list(range(100 - len(told), 100))
    assert 30 <= len(told) < 60
    assert follower.look() == []


def test_what_became_of_events(queue, fleet, shared):
    """Of an entry that is settled in part each event is told for itself; one that is gone is not among them."""
    put(queue, 1, 2, 3)
    put(queue, 4)
    ids = [one.id for one in shared.view().follow().look()]
    assert fleet.states(ids) == dict.fromkeys(ids, "queued")
    first, *_ = claimed(queue, 3)
    queue.ack([first])
    assert fleet.states(ids) == {ids[1]: f"held by {queue.writer}", ids[2]: f"held by {queue.writer}", ids[3]: "queued"}
    assert fleet.find(ids[1]).event.payload == b'{"n":2}'
    with pytest.raises(KeyError):
        fleet.find(ids[0])


@pytest.mark.parametrize("id_", ["", "x", "0:lane:1-1", "0:lane:x-1:1", "0:../../x:1-1:1", "9" * 30 + ":lane:1-1:1"])
def test_what_is_no_id_is_refused(fleet, id_):
    """Ids come from a browser."""
    with pytest.raises(KeyError):
        fleet.find(id_)
    with pytest.raises(KeyError):
        list(fleet.newest_letters(id_ or "?"))
    with pytest.raises(KeyError):
        fleet.letter(id_)


def test_dead_letters_come_the_newest_first(server, fleet, shared, queue):
    """Over all parts; from any of them on, each of the older ones comes once, and none of the newer."""
    second = shared.open()  # it puts into another part
    for number in range(6):
        bury(queue if number % 2 else second, number)
    second.close()
    letters = list(fleet.newest_letters())
    assert len({one.id.partition(":")[0] for one in letters}) == 2
    assert [one.at_s for one in letters] == sorted((one.at_s for one in letters), reverse=True)
    assert sorted(numbers(letters)) == list(range(6))
    for at, letter in enumerate(letters):
        assert [one.id for one in fleet.newest_letters(letter.id)] == [one.id for one in letters[at + 1 :]]
        assert fleet.letter(letter.id).event == letter.event


def test_more_dead_letters_than_a_page_of_the_server(fleet, queue, monkeypatch):
    """They are fetched and counted page by page."""
    monkeypatch.setattr("eventpost.queues.streams.window._LETTERS", 3)
    monkeypatch.setattr("eventpost.queues.streams.window._COUNTED", 3)
    bury(queue, *range(6))
    bury(queue, 6, reason="too_large")
    assert numbers(fleet.newest_letters()) == [6, 5, 4, 3, 2, 1, 0]
    assert fleet.dead_by_reason() == {"rejected": 6, "too_large": 1}


def test_a_dead_letter_says_where_it_lay(fleet, queue, shared):
    """By the id that the event had as it waited, so that who saw it there finds the letter."""
    put(queue, 1, 2)
    seen = shared.view().follow().look()
    leases = claimed(queue, 2)
    queue.bury(leases[1:], "rejected", Answer(400, "no"))
    (letter,) = fleet.newest_letters()
    assert letter.origin == seen[1].id


def test_whether_a_put_would_be_taken(fleet, queue, shared):
    """Full by the queue's bound, by the server's memory, away: each has its word."""
    assert fleet.why_not(1 << 30) is None
    put(queue, 1)
    assert fleet.why_not(5) == "queue_full"
    gone = SharedQueue("redis://127.0.0.1:1").view(timeout_s=0.5)
    assert gone.why_not(None) == "redis_unavailable"
    with a_valkey(maxmemory="1mb", maxmemory_policy="noeviction") as tiny:
        assert SharedQueue(tiny.url).view().why_not(None) == "redis_full"
    with a_valkey(requirepass="x") as locked:
        assert SharedQueue(locked.url).view().why_not(None) == "redis_unusable"
