"""The face of the queue on Redis Streams: what of its settings reaches whom, what it does, and what it tells."""

from __future__ import annotations

import inspect
import os
import socket

import pytest

from eventpost.errors import EventTooLarge, QueueFull, RedisUnusable
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.protocol import Answer
from eventpost.queues.spill import SpillQueue
from eventpost.queues.streams import queue as module
from streams_parts import GONE, INFO, LANE, SAID, FakeRoute, Fault, Whole, a_row, claimed, is_free, key_of
from support import ALL, URL, event


@pytest.fixture
def one(monkeypatch):
    """Make one as it is by default."""
    return Whole(monkeypatch)


# -- settings


def test_what_is_not_said_is_as_documented():
    """Whoever makes a queue with its address alone relies on these."""
    said = {name: one.default for name, one in inspect.signature(module.RedisStreamsQueue).parameters.items()}
    assert said.pop("url") is inspect.Parameter.empty
    assert said == {
        "name": "eventpost", "shards": 4, "bytes_max": 1024**3, "overflow": "refuse", "block_timeout_s": 1.0,
        "lease_s": 60.0, "timeout_s": 1.0, "dead_bytes_max": 256 * 1024**2, "dead_age_max_s": 30 * 24 * 3600.0,
        "durability": "os", "replicas": 0, "username": None, "password": None, "ca": None, "spill": None, "clock": None,
    }  # fmt: skip
    close = inspect.signature(module.RedisStreamsQueue.close).parameters["timeout_s"]
    release = inspect.signature(module.RedisStreamsQueue.release).parameters["delay_s"]
    assert (close.default, release.default) == (10.0, 0.0)


@pytest.mark.parametrize(
    ("least", "below"),
    [
        ({"shards": 1}, 0), ({"bytes_max": 1}, 0), ({"block_timeout_s": 0}, -0.001), ({"lease_s": 0.05}, 0.049),
        ({"timeout_s": 0.01}, 0.009), ({"dead_bytes_max": 1}, 0), ({"dead_age_max_s": 0}, -0.001),
        ({"replicas": 0}, -1),
        ({"shards": 1024}, 1025), ({"durability": "host", "replicas": 1}, 0), ({"dead_bytes_max": None}, 0),
        ({"dead_age_max_s": None}, -1), ({"overflow": "drop_oldest"}, "drop"), ({"durability": "fsync"}, "memory"),
    ],
)  # fmt: skip
def test_a_setting_may_be_as_small_or_as_large_as_is_said_and_no_more(monkeypatch, least, below):
    """What is out of its range is refused by name, before anything is asked."""
    Whole(monkeypatch, **least).queue.close()
    name = list(least)[-1]
    monkeypatch.setattr(module, "Route", None)
    with pytest.raises(ValueError, match=rf"(^|\s){name}\b"):
        module.RedisStreamsQueue("redis://h", **{**least, name: below})


def test_what_may_be_done_at_the_bound_is_named_to_who_asks_for_something_else():
    """All of it."""
    with pytest.raises(ValueError, match=r"'refuse', 'drop_oldest', 'block'"):
        module.RedisStreamsQueue("redis://h", overflow="panic")


def test_how_it_gets_in_is_told_to_the_route(monkeypatch):
    """To the server by user, password and number of the database; to sentinels by their own password."""
    one = Whole(monkeypatch, "redis://u:p@h/3")
    address, login, sentinels, name = one.arguments
    assert (str(address), name) == ("redis://h:6379/3", "eventpost")
    assert (login.username, login.password, login.database, login.authorities) == ("u", "p", 3, None)
    assert (sentinels.username, sentinels.password, sentinels.database, sentinels.authorities) == (None, None, 0, None)
    assert repr(one.queue).startswith("RedisStreamsQueue(redis://h:6379/3, name='eventpost'")
    assert Whole(monkeypatch, "redis+sentinel://h/main?sentinel_password=w").arguments[2].password == "w"
    one = Whole(monkeypatch, "redis://u:p@h", username="v", password="q", name="other")
    _, login, _, name = one.arguments
    assert (login.username, login.password, name, one.queue.name) == ("v", "q", "other", "other")


def test_who_is_trusted_is_told_for_tls_alone(monkeypatch, tmp_path):
    """The authorities that are named, to servers and sentinels."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    _, login, sentinels, _ = Whole(monkeypatch, "rediss://h", ca=ca).arguments
    assert login.authorities.path == sentinels.authorities.path == str(ca)
    assert Whole(monkeypatch, "redis://h", ca=ca).arguments[1].authorities is None


def test_the_server_is_asked_at_once_how_many_parts_there_are(monkeypatch):
    """So many at least as were asked for, within its time."""
    one = Whole(monkeypatch, shards=7, timeout_s=3.0)
    assert one.route.deadlines[0] == one.time.now + 3.0
    assert one.asked("join") == [(0, ("join", 1, key_of(0), 1, 7))]
    assert one.queue.describe()["shards"] == 2


def test_a_server_that_cannot_be_used_is_refused_and_left(monkeypatch):
    """No connection stays open; one that is merely away is no error."""
    monkeypatch.setitem(SAID, "join", Fault("NOPERM no"))
    routes = []

    def close(route):
        routes.append(route)

    monkeypatch.setattr(FakeRoute, "close", close)
    with pytest.raises(RedisUnusable, match="NOPERM"):
        Whole(monkeypatch)
    assert len(routes) == 1
    monkeypatch.setitem(SAID, "join", GONE)
    Whole(monkeypatch)
    assert len(routes) == 1


def test_a_put_is_bounded_confirmed_and_in_time_as_is_said(monkeypatch):
    """By the bytes of the queue, what is done at the bound, the replicas, and the time for the server."""
    one = Whole(monkeypatch, bytes_max=500, overflow="drop_oldest", replicas=2, timeout_s=4.0)
    one.says["WAIT"] = 2
    assert one.until(lambda: one.queue.put([event(1)])) == {4.0}
    wait = one.route.asked[-1][0][1][1]
    ((_, put),) = one.asked("put")
    assert (put[3], put[7:9], wait) == (one.queue.writer, (500, "drop"), ("WAIT", 2, 3850))
    assert one.queue.overflow == "drop_oldest"
    with pytest.raises(EventTooLarge):
        one.queue.put([event(1, 500)])
    assert one.queue.durability == "os"
    strict = Whole(monkeypatch, durability="host", replicas=1)
    assert strict.queue.durability == "host"
    assert strict.queue.describe()["asked"] == {"durability": "host", "replicas": 1}


def test_who_makes_room_does_not_wait_for_it(monkeypatch):
    """Any other thread does, as long as is said."""
    one = Whole(monkeypatch, overflow="block", block_timeout_s=0.5)
    one.says["put"] = [b"full", 9]
    with pytest.raises(QueueFull):
        one.queue.put([event(1)])
    assert 0.5 <= sum(one.time.paused) < 0.53
    one.says["put"] = SAID["put"]
    one.lease()
    one.time.paused.clear()
    one.says["put"] = [b"full", 9]
    with pytest.raises(QueueFull):
        one.queue.put([event(1)])
    assert not one.time.paused


def test_leases_and_dead_letters_are_as_is_said(monkeypatch):
    """How long a lease lasts, how many bytes of dead letters a part holds, how old they grow; each in its time."""
    one = Whole(monkeypatch, lease_s=7.5, dead_bytes_max=300, dead_age_max_s=99.0, timeout_s=4.0)
    assert one.queue.lease_s == 7.5
    assert one.until(one.queue.tend) == {4.0}
    assert one.asked("tidy")[1] == (1, ("tidy", 1, key_of(1), one.queue.writer, "150", "99", 600_000, 3_600_000))
    one.says["HGETALL"] = ([URL.encode(), b"2"], [])
    one.says["claim"] = (*claimed(a_row(1, 2)),)
    one.time.now += 1.0
    leases = []
    assert one.until(lambda: leases.extend(one.queue.claim(URL, 2, 1 << 20))) == {4.0}
    assert one.asked("claim") == [(0, ("claim", 1, key_of(0), one.queue.writer, LANE, URL, 2, 1 << 20, 7500, 0))]
    assert one.until(lambda: one.queue.bury(leases[:1], "rejected", Answer(400, "no"))) == {4.0}
    assert one.asked("bury")[0][1][3:9] == (one.queue.writer, "rejected", 400, "no", "150", "99")
    assert one.until(lambda: one.queue.ack(leases[1:])) == {4.0}
    assert one.until(one.queue.stats) == {4.0}


def test_time_is_the_clocks_that_is_given(monkeypatch):
    """For delays; without one, the system's."""
    one = Whole(monkeypatch)
    (lease,) = one.lease()
    one.queue.release([lease], 5.0)
    assert one.queue.next_due_s() == 5.0
    one.clock.advance(4.0)
    assert one.queue.next_due_s() == 1.0
    one.queue.release([lease])
    assert one.queue.next_due_s() == 1.0
    one.clock.advance(1.0)
    (lease,) = one.queue.claim(URL, 1, ALL)
    one.queue.release([lease])
    assert one.queue.next_due_s() == 0.0
    assert type(module.RedisStreamsQueue("redis://h").clock).__name__ == "SystemClock"


def test_a_queue_beside_it_makes_two_that_look_like_one(monkeypatch):
    """With the same clock, and all that either is told."""
    one = Whole(monkeypatch, spill=MemoryQueue(), name="shared")
    assert type(one.queue) is SpillQueue
    assert one.queue.name == "shared"
    assert one.queue.clock is one.queue._clock is one.clock


def test_a_writer_is_named_by_where_it_runs(monkeypatch):
    """And by chance, so that no two have the same name; what it is and what it found is described."""
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    one, other = Whole(monkeypatch).queue, Whole(monkeypatch).queue
    host, pid, chance = one.writer.split("-")
    assert (host, pid) == ("box", str(os.getpid()))
    assert len(bytes.fromhex(chance)) >= 4
    assert one.writer != other.writer
    assert one.describe()["writer"] == one.writer
    assert one.describe()["address"] == "redis://h:6379"
    assert one.put_waits is True
    assert one.sends is True


# -- what it does


def test_lanes_are_those_that_have_something_now_or_later(one):
    """In hand, given back, or waiting anywhere."""
    assert one.queue.lanes() == []
    one.queue.put([event(1), event(2, url=URL + "/b")])
    assert one.queue.lanes() == [URL, URL + "/b"]
    one.says["HGETALL"] = ([], [])
    one.queue.tend()
    assert one.queue.lanes() == []
    leases = one.lease(events=2)
    assert one.queue.lanes() == []
    one.queue.release(leases[:1], 5.0)
    assert one.queue.lanes() == [URL]
    assert one.queue.pending(URL) == 0
    one.clock.advance(5.0)
    assert one.queue.pending(URL) == 1


def test_a_claim_that_finds_nothing_looks_once_more_unless_that_was_done_just_now(one):
    """A sender may have slept since the last look."""
    one.says["HGETALL"] = ([URL.encode(), b"1"], [], [], [])
    one.says["claim"] = (*claimed(a_row(1)),)
    assert len(one.queue.claim(URL, 1, ALL)) == 1
    assert len(one.asked("HGETALL")) == 2
    assert one.queue.claim(URL, 1, ALL) == []
    assert not one.asked("HGETALL")
    one.time.now += 0.0625
    assert one.queue.claim(URL, 1, ALL) == []
    assert len(one.asked("HGETALL")) == 2


def test_what_is_claimed_is_claimed_without_another_look(one):
    """As long as there is something."""
    leases = one.lease(events=1)
    one.queue.release(leases)
    one.time.now += 1.0
    one.says["hold"] = ([1],)
    assert len(one.queue.claim(URL, 1, ALL)) == 1
    assert not one.asked("HGETALL")


def test_a_look_at_the_server_has_its_time(monkeypatch):
    """Of whoever neither puts nor sends."""
    one = Whole(monkeypatch, timeout_s=3.0)
    one.time.now += 61.0
    assert one.until(one.queue.look_at_server) == {3.0}
    assert one.asked("INFO")


@pytest.mark.parametrize(("asked_s", "given_s"), [(0.5, 0.5), (2.0, 2.0), (9.0, 2.0)])
def test_a_sync_is_as_long_as_is_asked_and_two_seconds_at_most(one, asked_s, given_s):
    """The sender does nothing else meanwhile."""
    done = []
    assert one.until(lambda: done.append(one.queue.sync(asked_s))) == {given_s}
    assert done == [True]
    one.says["WAITAOF"] = [0, 0]
    assert one.queue.sync(1.0) is False


# -- what it tells


def test_what_happened_is_told_once_somebody_listens(monkeypatch):
    """After a put, a look, or anything of the sender's; in its order; what the constructor found out, too."""
    one = Whole(monkeypatch, durability="host", replicas=1)
    told = []
    one.queue._tell("more")
    one.queue.look_at_server()
    one.queue.put([event(1)])
    one.queue.emit = told.append
    one.queue.put([])
    assert told == ["more"]
    for work in (one.queue.look_at_server, one.queue.tend, one.queue.stats, lambda: one.queue.sync(1.0)):
        one.queue._tell("again")
        work()
        assert told.pop() == "again"
    one.queue.put([event(1)])
    assert told == ["more"]
    one.says["CONFIG"] = [b"appendfsync", b"no"]
    one.says["INFO"] = INFO.replace(b"aof_enabled:1", b"aof_enabled:0")
    one.time.now += 61.0
    one.queue.look_at_server()
    assert "'host' was asked for" in told[1].detail


def test_what_goes_wrong_with_a_claim_is_told(one):
    """As all that needs a person."""
    told = []
    one.queue.emit = told.append
    one.says["HGETALL"] = [URL.encode(), b"1"]
    one.says["claim"] = Fault("OOM it is full")
    assert one.queue.claim(URL, 1, ALL) == []
    assert "OOM it is full" in told[0].detail


def test_nothing_is_told_while_a_lock_is_held(one):
    """An observer may call anything, and wait for anybody."""
    told = []
    one.queue.emit = told.append
    one.queue._tell("something")
    with one.queue._hand.lock:
        one.queue.put([event(1)])
        assert not told
    seen = []
    one.queue.emit = lambda signal: seen.append((signal, is_free(one.queue._hand.lock)))
    one.queue.tend()
    assert seen == [("something", True)]


def test_of_what_nobody_hears_the_newest_is_kept(one):
    """A thousand signals."""
    for number in range(1001):
        one.queue._tell(number)
    told = []
    one.queue.emit = told.append
    one.queue.put([])
    assert told == list(range(1, 1001))
