"""The queue on Redis Streams where things fail: connections, servers, processes; on a real Valkey."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventpost.errors import EventTooLarge, QueueError, QueueFull, QueueUnavailable, RedisUnusable
from eventpost.queues.protocol import Answer
from eventpost.testing import Collector, Reply
from redis_support import Fleet, Proxy, RedisServer, RedisStreamsQueue, a_proxy, a_valkey, until
from support import ALL, ENVELOPE, URL, closes, drain, event, number_of

NAMES = (f"faults-{os.getpid()}-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One Valkey for the tests that do not harm it."""
    with a_valkey() as one:
        yield one


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """Run a Valkey for one test alone."""
    with a_valkey() as one:
        yield one


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    """Put a proxy in front of the shared one."""
    with a_proxy(server) as one:
        yield one


def numbers(leases: list[Any]) -> list[int]:
    """Return the numbers of leased events."""
    return [number_of(lease.event.payload) for lease in leases]


# -- a put whose answer does not come


def test_a_put_whose_answer_is_lost_is_stored_once(proxy: Proxy) -> None:
    """The server stored it and the connection broke: the put is repeated by its number, and stores nothing twice."""
    queue = RedisStreamsQueue(proxy.url, name=next(NAMES))
    queue.put([event(1)])
    for number in range(2, 6):
        proxy.lose_answers = 1
        queue.put([event(number)])
    assert (queue.stats().accepted, queue.stats().queued) == (5, 5)
    assert drain(queue) == [1, 2, 3, 4, 5]
    queue.close()


def test_a_put_that_is_never_answered_is_refused_in_time_and_taken_back(server: RedisServer, proxy: Proxy) -> None:
    """It was stored, nobody learned of it, nobody claimed it: it is voided before the next put, and not counted."""
    name = next(NAMES)
    queue = RedisStreamsQueue(proxy.url, name=name, timeout_s=0.3)
    queue.put([event(1)])
    proxy.lose_answers = 10**6
    began = time.monotonic()
    with pytest.raises(QueueUnavailable) as caught:
        queue.put([event(2), event(3, url=URL + "/other")])
    assert caught.value.reason == "redis_unavailable"
    assert time.monotonic() - began < 1.5
    fleet = Fleet(server.url, name=name)
    assert fleet.status().accepted == 3, "the server has it, which is what makes this a test"
    proxy.lose_answers = 0
    until(lambda: _stored(queue, event(4)))
    assert drain(queue) == [1, 4]
    status = fleet.status()
    assert (status.accepted, status.delivered, status.queued, status.closes) == (2, 2, 0, True)
    assert queue.stats().accepted == 2
    queue.close()


def test_a_right_that_is_taken_away_is_said_with_its_remedy(own: RedisServer) -> None:
    """A put that the server's user may not make is refused as such; once the right is given, the next one is made."""
    assert own.ask("ACL", "SETUSER", "post", "on", ">pw", "~*", "+@all", "-xadd") == "+OK"
    queue = RedisStreamsQueue(own.url, name=next(NAMES), username="post", password="pw")
    with pytest.raises(QueueUnavailable, match=r"allow .*@stream") as caught:
        queue.put([event(1)])
    assert caught.value.reason == "redis_unusable"
    own.ask("ACL", "SETUSER", "post", "+xadd")
    queue.put([event(2)])
    assert drain(queue) == [2]
    queue.close()


@pytest.mark.parametrize("what", ["sum", "lanes", "digests"])
def test_a_key_that_is_somebody_elses_is_said_with_its_remedy(server: RedisServer, what: str) -> None:
    """Another program's key under the queue's name: refused as a whole, and left as it is."""
    name = next(NAMES)
    queue = RedisStreamsQueue(server.url, name=name, shards=1)
    key = f"{{{name}:0}}:{what}"
    server.ask("SET", key, "theirs")
    with pytest.raises(QueueUnavailable, match="another name=") as caught:
        queue.put([event(1)])
    assert caught.value.reason == "redis_unusable"
    assert "theirs" in server.ask_all("GET", key)
    server.ask("DEL", key)
    queue.put([event(2)])
    assert drain(queue) == [2]
    assert queue.stats().accepted == 1
    queue.close()


@pytest.mark.parametrize("password", [None, "pw"])
def test_a_server_with_too_many_connections_is_one_that_is_away(own: RedisServer, password: str | None) -> None:
    """It raises nothing at the start of an application; there is room again, and puts are stored."""
    assert own.ask("ACL", "SETUSER", "default", "resetpass", "nopass" if password is None else f">{password}")
    own_url = own.url if password is None else own.url.replace("//", f"//:{password}@")
    with socket.create_connection(("127.0.0.1", own.port)) as other:
        if password:
            other.sendall(b"AUTH pw\r\n")
            other.recv(100)
        other.sendall(b"CONFIG SET maxclients 1\r\n")
        assert other.recv(100) == b"+OK\r\n"
        queue = RedisStreamsQueue(own_url, name=next(NAMES))
        with pytest.raises(QueueUnavailable, match="maxclients") as caught:
            queue.put([event(1)])
        assert caught.value.reason == "redis_unavailable"
    until(lambda: _stored(queue, event(2)))
    assert drain(queue) == [2]
    queue.close()


def test_a_replica_is_said_with_its_remedy(own: RedisServer) -> None:
    """Its URL was named instead of its master's."""
    with a_valkey(replicaof=f"127.0.0.1 {own.port}") as replica:
        queue = RedisStreamsQueue(replica.url, name=next(NAMES), timeout_s=0.3)
        with pytest.raises(QueueUnavailable, match="replica: name its master"):
            queue.put([event(1)])
        queue.close()


def test_a_server_that_is_far_away_is_had_again_after_it_was_gone(own: RedisServer) -> None:
    """Connecting and logging in take several round trips; also a process that puts once a second only goes on."""
    assert own.ask("ACL", "SETUSER", "post", "on", ">pw", "~*", "+@all") == "+OK"
    with a_proxy(own) as proxy:
        proxy.delay_s = 0.02
        queue = RedisStreamsQueue(proxy.url, name=next(NAMES), username="post", password="pw")
        queue.put([event(1)])
        proxy.target, port = 1, proxy.target
        own.ask("CLIENT", "KILL", "USER", "post")
        assert not _stored(queue, event(2))
        proxy.target = port
        turn = time.monotonic() + 1.1

        def stored() -> bool:
            nonlocal turn
            if time.monotonic() < turn:
                return False
            turn += 1.1
            return _stored(queue, event(3))

        until(stored, 8.0)
        assert 3 in drain(queue)
        queue.close()


@pytest.mark.parametrize("password", [None, "pw"])
def test_a_server_that_answers_byte_by_byte_is_given_no_more_time(own: RedisServer, password: str | None) -> None:
    """The time is that of the whole answer, or the whole login, not of each piece; what was put is taken back."""
    assert own.ask("ACL", "SETUSER", "post", "on", ">pw", "~*", "+@all") == "+OK"
    user = "post" if password else None
    with a_proxy(own) as proxy:
        queue = RedisStreamsQueue(proxy.url, name=next(NAMES), timeout_s=0.5, username=user, password=password)
        queue.put([event(1)])
        if password:
            own.ask("CLIENT", "KILL", "USER", "post")  # so that the next put logs in
        proxy.trickles = True
        began = time.monotonic()
        with pytest.raises(QueueUnavailable):
            queue.put([event(2)])
        assert time.monotonic() - began < 1.0
        proxy.trickles = False
        until(lambda: _stored(queue, event(3)))
        assert drain(queue) == [1, 3]
        assert queue.stats().accepted == 2
        queue.close()


def test_a_put_that_was_refused_for_time_and_sent_all_the_same_is_counted_as_both(
    server: RedisServer, proxy: Proxy
) -> None:
    """What another process claimed before it could be taken back is delivered, and its writer counts it as accepted."""
    name = next(NAMES)
    queue = RedisStreamsQueue(proxy.url, name=name, timeout_s=0.3)
    other = RedisStreamsQueue(server.url, name=name)
    queue.put([event(1)])
    proxy.lose_answers = 10**6
    with pytest.raises(QueueUnavailable):
        queue.put([event(2)])
    other.tend()
    assert drain(other) == [1, 2]
    proxy.lose_answers = 0
    until(lambda: _stored(queue, event(3)))
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.queued) == (3, 2, 1)
    assert closes(stats)
    queue.close()
    other.close()


def test_a_put_whose_answer_is_lost_before_a_denied_login_is_taken_back(own: RedisServer) -> None:
    """The new connection is let in no more: what became of the put is not known, and it is voided once it can be."""
    with a_proxy(own) as proxy:
        assert own.ask("ACL", "SETUSER", "post", "on", ">pw", "~*", "+@all") == "+OK"
        queue = RedisStreamsQueue(proxy.url, name=next(NAMES), timeout_s=0.5, username="post", password="pw")
        queue.put([event(1)])
        own.ask("ACL", "SETUSER", "post", "resetpass", ">other")  # connections that there are stay
        proxy.lose_answers = 1
        with pytest.raises(QueueUnavailable, match="WRONGPASS"):
            queue.put([event(2)])
        own.ask("ACL", "SETUSER", "post", "resetpass", ">pw")
        until(lambda: _stored(queue, event(3)))
        assert drain(queue) == [1, 3]
        assert queue.stats().accepted == 2
        queue.close()


def test_a_put_that_arrives_after_it_was_voided_does_nothing(server: RedisServer) -> None:
    """A request that was stuck on its way can't bring back what its sender was told is refused."""
    name = next(NAMES)
    queue = RedisStreamsQueue(server.url, name=name)
    queue.put([event(1)])
    commit = queue._puts
    late: list[Any] = []
    ask = queue._route.ask

    def stuck(shard: int, calls: Any, deadline: float, **how: Any) -> Any:
        if not late:
            from eventpost.queues.streams.route import Away

            late.append((shard, calls))
            raise Away("stuck on its way", sent=True)
        return ask(shard, calls, deadline, **how)

    queue._route.ask = stuck
    with pytest.raises(QueueUnavailable):
        queue.put([event(2)])
    assert commit.void_what_is_unsure(time.monotonic() + 1)
    (said,) = ask(*late[0], time.monotonic() + 1)
    assert said[0] == b"void"
    assert drain(queue) == [1]
    assert queue.stats().accepted == 1
    queue.close()


def _stored(queue: RedisStreamsQueue, one: Any) -> bool:
    try:
        queue.put([one])
    except QueueUnavailable:
        return False
    return True


# -- a server that is away


def test_nothing_waits_for_a_server_that_is_known_to_be_away(server: RedisServer, proxy: Proxy) -> None:
    """The first put that finds it silent waits its time; those after it are refused at once; then all goes on."""
    queue = RedisStreamsQueue(proxy.url, name=next(NAMES), timeout_s=0.3)
    queue.put([event(0)])
    (lease,) = queue.claim(URL, 1, ALL)
    proxy.silent = True
    waited = []
    for number in range(1, 30):
        began = time.monotonic()
        with pytest.raises(QueueUnavailable):
            queue.put([event(number)])
        waited.append(time.monotonic() - began)
    assert max(waited) < 1.5
    assert sorted(waited)[len(waited) // 2] < 0.05
    began = time.monotonic()
    before = queue.stats()
    assert (before.accepted, before.in_flight) == (1, 1)
    with pytest.raises(QueueUnavailable):
        queue.ack([lease])
    assert queue.claim(URL, 10, ALL) == []
    assert queue.tend() > 0
    assert time.monotonic() - began < 3.0
    proxy.silent = False
    until(lambda: _acked(queue, lease))
    until(lambda: _stored(queue, event(99)))
    assert queue.stats().delivered == 1
    queue.close()


def _acked(queue: RedisStreamsQueue, lease: Any) -> bool:
    try:
        queue.ack([lease])
    except QueueUnavailable:
        return False
    return True


def test_a_queue_can_be_made_while_its_server_is_away(own: RedisServer) -> None:
    """The constructor waits no longer than its time, puts are refused, and all is well once the server is there."""
    own.kill()
    began = time.monotonic()
    queue = RedisStreamsQueue(own.url, name=next(NAMES), timeout_s=0.5)
    assert time.monotonic() - began < 2.0
    with pytest.raises(QueueUnavailable):
        queue.put([event(1)])
    assert queue.stats().accepted == 0
    assert queue.describe()["durability"] == "os"
    own.start()
    until(lambda: _stored(queue, event(2)))
    assert drain(queue) == [2]
    queue.close()


def test_a_name_that_is_not_resolved_in_time_is_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver knows no deadline; a put does."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: time.sleep(1) or [])
    began = time.monotonic()
    queue = RedisStreamsQueue("redis://nowhere.invalid", name="x", timeout_s=0.2)
    with pytest.raises(QueueUnavailable, match=r"resolved in time|not asked again"):
        queue.put([event(1)])
    assert time.monotonic() - began < 2.0
    queue.close()


def test_a_server_that_is_killed_and_comes_back_with_its_log_has_all_of_it() -> None:
    """With appendfsync always nothing that was accepted is lost, what was in flight is sent, and counts go on."""
    with a_valkey(appendonly="yes", appendfsync="always") as server:
        queue = RedisStreamsQueue(server.url, name=next(NAMES), durability="fsync", timeout_s=0.5)
        assert queue.durability == "fsync"
        queue.put([event(number) for number in range(10)])
        leases = queue.claim(URL, 3, ALL)
        queue.ack(leases[:1])
        server.kill()
        server.start()
        until(lambda: _stored(queue, event(10)))
        until(lambda: _acked(queue, leases[1]))
        queue.release(leases[2:])
        assert sorted(drain(queue)) == list(range(2, 11))
        stats = queue.stats()
        assert (stats.accepted, stats.delivered) == (11, 11)
        queue.close()


def test_what_a_server_forgot_is_counted_as_vanished(own: RedisServer) -> None:
    """FLUSHALL, or a log without its end: what is neither there nor known to be settled is dropped, with a reason.

    What this process has in hand by then is sent all the same.
    """
    queue = RedisStreamsQueue(own.url, name=next(NAMES))
    queue.put([event(number) for number in range(10)])
    leases = queue.claim(URL, 4, ALL)
    queue.ack(leases[:3])
    queue.bury(leases[3:], "http_400")
    assert queue.stats().delivered == 3
    assert own.ask("FLUSHALL") == "+OK"
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.queued, dict(stats.dropped)) == (10, 3, 0, {"vanished": 7})
    queue.put([event(20), event(21)])
    queue.tend()
    assert drain(queue) == [*range(4, 10), 20, 21]
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, dict(stats.dropped)) == (12, 5, {"vanished": 7})
    queue.close()


def test_scripts_that_a_server_forgot_are_handed_to_it_again(own: RedisServer) -> None:
    """SCRIPT FLUSH, or a restart: nobody notices."""
    queue = RedisStreamsQueue(own.url, name=next(NAMES))
    queue.put([event(1)])
    for number in range(2, 5):
        assert own.ask("SCRIPT", "FLUSH") == "+OK"
        queue.put([event(number)])
    assert drain(queue) == [1, 2, 3, 4]
    queue.close()


def test_parts_that_are_added_are_known_to_all_and_an_emptied_server_learns_of_them_again(own: RedisServer) -> None:
    """Who asks for more parts puts into them, and who was there before sends from them; in the end, too."""
    name = next(NAMES)
    sender = RedisStreamsQueue(own.url, name=name, shards=1)
    more = [RedisStreamsQueue(own.url, name=name, shards=3) for _ in range(3)]
    for number, queue in enumerate(more):
        queue.put([event(number)])
    sender.tend()
    assert sorted(numbers(until(lambda: _tended_claim(sender)))) == [0, 1, 2]
    assert own.ask("FLUSHALL") == "+OK"
    sender.tend()
    assert RedisStreamsQueue(own.url, name=name, shards=1)._server.shards == 3
    for queue in (sender, *more):
        queue.close()


# -- a server that can't hold a queue, or no more of it


def test_a_server_that_evicts_is_refused_with_the_remedy(own: RedisServer) -> None:
    """It would throw away what was accepted; also where that is set later, and until it is mended."""
    queue = RedisStreamsQueue(own.url, name=next(NAMES))
    own.ask("CONFIG", "SET", "maxmemory", "100mb")
    own.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(RedisUnusable, match="maxmemory-policy noeviction"):
        RedisStreamsQueue(own.url, name=next(NAMES))
    queue._server._checked_at = -1e9  # a minute later
    with pytest.raises(QueueUnavailable) as caught:
        queue.put([event(1)])
    assert caught.value.reason == "redis_unusable"
    own.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    queue._server._checked_at = -1e9
    queue.put([event(1)])
    queue.close()


def test_a_server_whose_memory_is_full_refuses_and_is_emptied_all_the_same(own: RedisServer) -> None:
    """OOM is a refusal of its own; what is there can be claimed, delivered and buried, and then there is room."""
    queue = RedisStreamsQueue(own.url, name=next(NAMES), bytes_max=1 << 30)
    own.ask("CONFIG", "SET", "maxmemory", "12mb")
    stored = 0
    refused = ""
    while not refused and stored < 400:
        try:
            queue.put([event(stored, 100_000), event(stored + 1, 1)])
            stored += 2
        except QueueFull as full:
            refused = full.reason
    assert refused == "redis_full"
    assert stored > 20
    leases = queue.claim(URL, 7, ALL)
    queue.bury(leases[:1], "http_400", Answer(400, "no"))
    queue.ack(leases[1:])
    assert len(drain(queue)) == stored - 7
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.dead, stats.queued) == (stored, stored - 1, 1, 0)
    queue.put([event(1)])
    queue.close()


def test_the_bound_is_on_all_parts_and_drop_oldest_spares_what_is_claimed(server: RedisServer) -> None:
    """The oldest entries that nobody has go, each event counted for who had put it; else nothing is stored."""
    name = next(NAMES)
    first = RedisStreamsQueue(server.url, name=name, bytes_max=10_000, shards=1)
    first.put([event(number, 1000) for number in range(4)])
    (lease,) = first.claim(URL, 1, ALL)
    first.put([event(4, 3000, url=URL + "/other")])
    second = RedisStreamsQueue(server.url, name=name, bytes_max=10_000, shards=1, overflow="drop_oldest")
    with pytest.raises(QueueFull):
        first.put([event(5, 4000)])
    second.put([event(6, 4000)])
    assert dict(first.stats().dropped) == {"overflow": 1}
    with pytest.raises(QueueFull):
        second.put([event(7, 9000)])
    with pytest.raises(EventTooLarge):
        second.put([event(8, 10_001)])
    assert second.stats().accepted == 1
    second.tend()
    assert drain(second) == [6]
    first.ack([lease])
    assert first.stats().delivered == 1
    assert closes(first.stats())
    for queue in (first, second):
        queue.close()


def test_a_full_queue_that_blocks_waits_for_room_and_no_longer(server: RedisServer) -> None:
    """With overflow="block" a put goes on when there is room, and is refused in time when there is none."""
    queue = RedisStreamsQueue(
        server.url, name=next(NAMES), bytes_max=3000, overflow="block", block_timeout_s=0.7, shards=1
    )
    queue.put([event(1, 2000)])
    began = time.monotonic()
    with pytest.raises(QueueFull):
        queue.put([event(2, 2000)])
    assert 0.6 < time.monotonic() - began < 2.0
    thread = threading.Thread(target=lambda: drain(queue))
    timer = threading.Timer(0.1, thread.start)
    timer.start()
    queue.put([event(3, 2000)])
    timer.join()
    thread.join()
    queue.close()


# -- leases


def test_what_a_dead_process_held_is_taken_over_after_its_lease(server: RedisServer, tmp_path: Path) -> None:
    """Who has claimed is killed: another process gets all of it, once the lease is over, and nothing before."""
    name = next(NAMES)
    queue = RedisStreamsQueue(server.url, name=name, lease_s=1.5)
    queue.put([event(number) for number in range(5)])
    code = """
import sys, time
from eventpost import RedisStreamsQueue
queue = RedisStreamsQueue(sys.argv[1], name=sys.argv[2], lease_s=1.5)
queue.tend()
leases = queue.claim(sys.argv[3], 5, 1 << 30)
queue.ack(leases[:2])
print(len(leases), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, server.url, name, URL], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"5\n"
        queue.tend()
        assert queue.claim(URL, 10, ALL) == []
        assert (queue.stats().delivered, queue.stats().queued) == (2, 3)
        other.send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert numbers(until(lambda: _tended_claim(queue))) == [2, 3, 4]
    assert time.monotonic() - began < 10
    queue.close()


def _tended_claim(queue: RedisStreamsQueue) -> list[Any]:
    queue.tend()
    return queue.claim(URL, 10, ALL)


def test_a_lease_is_renewed_while_its_holder_lives(server: RedisServer) -> None:
    """A slow endpoint costs no duplicate: who tends its queue keeps what it holds beyond lease_s."""
    name = next(NAMES)
    holder = RedisStreamsQueue(server.url, name=name, lease_s=1.0)
    other = RedisStreamsQueue(server.url, name=name, lease_s=1.0)
    holder.put([event(1)])
    (lease,) = holder.claim(URL, 1, ALL)
    end = time.monotonic() + 2.2
    while time.monotonic() < end:
        holder.tend()
        assert _tended_claim(other) == []
        time.sleep(0.02)
    holder.ack([lease])
    assert holder.stats().delivered == 1
    for queue in (holder, other):
        queue.close()


def test_who_slept_beyond_its_lease_learns_that_it_is_gone(server: RedisServer) -> None:
    """Its release and its bury change nothing any more; its ack is a fact, and is not undone by the new holder."""
    name = next(NAMES)
    asleep = RedisStreamsQueue(server.url, name=name, lease_s=0.2)
    other = RedisStreamsQueue(server.url, name=name, lease_s=0.2)
    asleep.put([event(number) for number in range(3)])
    released, buried, acked = asleep.claim(URL, 3, ALL)
    taken = until(lambda: _tended_claim(other))
    assert numbers(taken) == [0, 1, 2]
    asleep.release([released])
    asleep.bury([buried], "http_400")
    asleep.ack([acked])
    other.tend()
    assert asleep.claim(URL, 10, ALL) == []
    assert (asleep.stats().delivered, asleep.stats().dead, asleep.stats().queued) == (1, 0, 2)
    other.ack(taken)
    assert other.stats().delivered == 2, "one was delivered already, by who slept"
    assert (asleep.stats().delivered, asleep.stats().in_flight) == (3, 0)
    for queue in (asleep, other):
        assert closes(queue.stats())
        queue.close()


def test_what_was_given_back_may_be_taken_by_others_when_it_is_due(server: RedisServer) -> None:
    """Not before: a retry of one sender is not brought forward by another."""
    name = next(NAMES)
    mine = RedisStreamsQueue(server.url, name=name, lease_s=5.0)
    other = RedisStreamsQueue(server.url, name=name, lease_s=5.0)
    mine.put([event(1)])
    mine.put([event(2)])
    later, now = mine.claim(URL, 2, ALL)
    mine.release([later], 2.5)
    mine.release([now])
    mine.tend()
    began = time.monotonic()
    assert numbers(until(lambda: _tended_claim(other))) == [2]
    assert numbers(until(lambda: _tended_claim(other))) == [1]
    assert 1.5 < time.monotonic() - began < 10
    assert mine.claim(URL, 10, ALL) == []
    for queue in (mine, other):
        queue.close()


def test_a_closed_sender_hands_over_at_once(server: RedisServer) -> None:
    """What it held is not waited for a lease long; and it leaves no consumer behind that holds nothing."""
    name = next(NAMES)
    one = RedisStreamsQueue(server.url, name=name)
    other = RedisStreamsQueue(server.url, name=name)
    one.put([event(1), event(2)])
    (lease, _) = one.claim(URL, 2, ALL)
    one.ack([lease])
    one.close()
    began = time.monotonic()
    leases = until(lambda: _tended_claim(other))
    assert numbers(leases) == [2]
    assert time.monotonic() - began < 10
    other.ack(leases)
    other.close()
    members = Fleet(server.url, name=name).status().members
    assert [member.entries_held for member in members] in ([], [0])


def test_parts_of_an_entry_are_settled_where_they_lie(server: RedisServer) -> None:
    """One entry of many events: settled in any order, over two processes, each event once; then it is gone."""
    name = next(NAMES)
    one = RedisStreamsQueue(server.url, name=name)
    other = RedisStreamsQueue(server.url, name=name)
    one.put([event(number) for number in range(10)])
    leases = one.claim(URL, 10, ALL)
    one.ack(leases[2:4])
    one.bury(leases[5:6], "http_400")
    one.ack([leases[0], leases[9], leases[0]])
    fleet = Fleet(server.url, name=name)
    assert (fleet.status().lanes[0].entries, fleet.status().delivered) == (1, 4)
    assert [number_of(seen.event.payload) for seen in fleet.tail()] == [1, 4, 6, 7, 8]
    one.close()
    rest = until(lambda: _tended_claim(other))
    assert numbers(rest) == [1, 4, 6, 7, 8]
    one.ack(leases[1:2])  # a fact, also from who is closed
    other.ack(rest)
    stats = other.stats()
    assert (stats.accepted, stats.adopted, stats.delivered) == (4, 4, 4)
    status = fleet.status()
    assert (status.accepted, status.delivered, status.dead, status.lanes[0].entries) == (10, 9, 1, 0)
    assert (status.stored_bytes, status.closes) == (0, True)
    other.close()


# -- dead letters


def test_dead_letters_are_kept_shown_retried_and_discarded(server: RedisServer) -> None:
    """With reason, answer, attempts and bytes; back in the queue they are the same event; the sums close throughout."""
    name = next(NAMES)
    queue = RedisStreamsQueue(server.url, name=name)
    queue.put([event(number) for number in range(3)])
    queue.release(queue.claim(URL, 1, ALL))
    queue.bury(queue.claim(URL, 3, ALL), "http_400", Answer(400, "visitor x is wrong"))
    fleet = Fleet(server.url, name=name)
    letters = list(fleet.dead_letters())
    assert [(one.event, one.reason, one.status, one.answer) for one in letters] == [
        (event(number), "http_400", 400, "visitor x is wrong") for number in range(3)
    ]
    assert [one.attempts for one in letters] == [2, 1, 1]
    assert abs(letters[0].at_s - time.time()) < 60
    with pytest.raises(KeyError):
        fleet.retry_dead([letters[0].id, "0:1-1"])
    assert fleet.retry_dead([letters[0].id]) == 1
    assert fleet.discard_dead([letters[1].id]) == 1
    queue.tend()
    assert drain(queue) == [0]
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.dead, dict(stats.dropped)) == (3, 1, 1, {"dead_discarded": 1})
    assert fleet.retry_dead(None) == 1
    assert fleet.status().closes
    queue.close()
    fleet.close()


def test_dead_letters_have_bounds(server: RedisServer) -> None:
    """By bytes at once, by age now and then; the oldest go first, counted for who had put them."""
    queue = RedisStreamsQueue(server.url, name=next(NAMES), shards=1, dead_bytes_max=5000, dead_age_max_s=3600)
    queue.put([event(number, 1000) for number in range(8)])
    queue.bury(queue.claim(URL, 8, ALL), "http_400")
    stats = queue.stats()
    assert stats.dead + stats.dropped["dead_expired"] == 8
    assert 2 <= stats.dead <= 4
    queue._settling._dead_age_max_s = 0.0
    time.sleep(0.002)
    queue._keeper._tidied_at = -1e9
    queue.tend()
    assert (queue.stats().dead, dict(queue.stats().dropped)) == (0, {"dead_expired": 8})
    queue.close()


# -- processes


def test_a_forked_child_is_a_writer_of_its_own(server: RedisServer) -> None:
    """It never touches its parent's connections, counts from zero, and both go on."""
    from eventpost import EventDispatcher

    dispatcher = EventDispatcher(RedisStreamsQueue(server.url, name=next(NAMES)), sender="none")
    queue = dispatcher.queue
    assert dispatcher.put_event(event(1), urgent=True)
    writer = queue.writer
    read, write = os.pipe()
    pid = os.fork()
    if not pid:  # pragma: no cover - the child
        try:
            taken = dispatcher.put_event(event(2), urgent=True)
            stats = dispatcher.stats()
            os.write(write, b"%d %d %d" % (taken, stats.accepted, queue.writer != writer))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"1 1 1"
    assert dispatcher.put_event(event(3), urgent=True)
    assert dispatcher.stats().accepted == 2
    assert queue.writer == writer
    queue.tend()
    assert sorted(drain(queue)) == [1, 2, 3]
    dispatcher.close()


def test_two_processes_count_each_its_own(server: RedisServer) -> None:
    """Who put it learns what became of it, whoever sent it; who sent others' events counts them as adopted."""
    name = next(NAMES)
    putter = RedisStreamsQueue(server.url, name=name)
    putter.sends = False
    sender = RedisStreamsQueue(server.url, name=name)
    putter.put([event(number) for number in range(6)])
    sender.put([event(10)])
    sender.tend()
    leases = sender.claim(URL, 100, ALL)
    assert sorted(numbers(leases)) == [0, 1, 2, 3, 4, 5, 10]
    own = [lease for lease in leases if number_of(lease.event.payload) == 10]
    others = [lease for lease in leases if lease not in own]
    stats = sender.stats()
    assert (stats.accepted, stats.adopted, stats.in_flight) == (7, 6, 7)
    sender.ack(others[:3])
    sender.bury(others[3:4], "http_400")
    sender.release(others[4:])
    sender.ack(own)
    assert (sender.stats().delivered, sender.stats().dead, sender.stats().queued) == (4, 1, 2)
    stats = putter.stats()
    assert (stats.accepted, stats.delivered, stats.dead, stats.queued) == (6, 3, 1, 2)
    status = Fleet(server.url, name=name).status()
    assert (status.accepted, status.delivered, status.dead) == (7, 4, 1)
    for queue in (sender, putter):
        assert closes(queue.stats())
        queue.close()


def test_a_sender_that_is_stopped_beyond_its_lease_and_woken_undoes_nothing(server: RedisServer) -> None:
    """SIGSTOP while a request is out, another sender delivers, SIGCONT: every event is delivered, the sum agrees."""
    name = next(NAMES)
    code = """
import sys, time
from eventpost import EventDispatcher, RedisStreamsQueue
queue = RedisStreamsQueue(sys.argv[1], name=sys.argv[2], lease_s=0.8)
dispatcher = EventDispatcher(queue, linger_s=0.0, timeout_s=0.7)
dispatcher.start()
print("started", flush=True)
sys.stdin.read()
print(dispatcher.close().closes, flush=True)
"""
    with Collector() as collector:
        collector.script([Reply(delay_s=0.5)])
        command = [sys.executable, "-c", code, server.url, name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        putter = RedisStreamsQueue(server.url, name=name)
        with subprocess.Popen(command, **pipes) as first:
            assert first.stdout.readline() == "started\n"
            putter.put([event(number, url=collector.url) for number in range(5)])
            until(lambda: collector.bodies or Fleet(server.url, name=name).status().in_flight)
            first.send_signal(signal.SIGSTOP)
            with subprocess.Popen(command, **pipes) as second:
                until(lambda: putter.stats().delivered == 5)
                first.send_signal(signal.SIGCONT)
                putter.put([event(9, url=collector.url)])
                until(lambda: putter.stats().delivered == 6)
                assert second.communicate("")[0] == "started\nTrue\n"
            assert first.communicate("")[0] == "True\n"
    status = Fleet(server.url, name=name).status()
    assert (status.accepted, status.delivered, status.dead, status.closes) == (6, 6, 0, True)
    assert closes(putter.stats())
    putter.close()


def test_puts_of_many_threads_share_round_trips(proxy: Proxy) -> None:
    """Who waits meanwhile is taken along: far fewer answers than puts, each event once, each thread's in order."""
    queue = RedisStreamsQueue(proxy.url, name=next(NAMES), shards=1)
    before = proxy.answers
    threads, each = 16, 50

    def put(first: int) -> None:
        for number in range(first, first + each):
            queue.put([event(number)])

    workers = [threading.Thread(target=put, args=(at * each,)) for at in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert proxy.answers - before < threads * each / 2
    found = drain(queue)
    assert sorted(found) == list(range(threads * each))
    for at in range(threads):
        own = [number for number in found if number // each == at]
        assert own == sorted(own)
    queue.close()


def test_one_that_does_not_fit_does_not_cost_the_others_that_were_put_with_it(server: RedisServer) -> None:
    """Puts that share a round trip are still each taken or refused by itself."""
    queue = RedisStreamsQueue(server.url, name=next(NAMES), shards=1, bytes_max=20_000)
    refused: list[int] = []
    gate = threading.Barrier(8)

    def put(number: int) -> None:
        gate.wait()
        try:
            queue.put([event(number, 15_000 if number == 3 else 100)])
        except QueueFull:
            refused.append(number)

    queue.put([event(99, 8_000)])
    workers = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert refused == [3]
    assert sorted(drain(queue)) == [0, 1, 2, 4, 5, 6, 7, 99]
    queue.close()


def test_an_idle_connection_that_the_server_closed_costs_nobody_a_put(own: RedisServer) -> None:
    """It says nothing about the server: no put is refused for it, none waits."""
    queue = RedisStreamsQueue(own.url, name=next(NAMES))
    for number in range(5):
        queue.put([event(number)])
        assert own.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").startswith(":")
        assert queue._route.away_for_s(0) == 0
    queue.put([event(5)])
    assert drain(queue) == list(range(6))
    queue.close()


def test_a_claim_whose_answer_is_lost_is_found_again_by_who_made_it(proxy: Proxy) -> None:
    """The server counts the entries as this process's: it has them once more when their lease is over."""
    queue = RedisStreamsQueue(proxy.url, name=next(NAMES), lease_s=0.3)
    queue.put([event(number) for number in range(3)])
    proxy.lose_answers = 2
    assert queue.claim(URL, 10, ALL) == []
    assert queue.stats().queued == 3
    assert numbers(until(lambda: _tended_claim(queue))) == [0, 1, 2]
    queue.close()


def test_a_large_leftover_is_taken_over_as_fast_as_it_is_claimed(server: RedisServer) -> None:
    """A sender that died held thousands: the next one has them in a moment, not a few each second."""
    name = next(NAMES)
    dead = RedisStreamsQueue(server.url, name=name, lease_s=0.2)
    for number in range(1000):
        dead.put([event(number)])
    claimed, until = 0, time.monotonic() + 10
    while claimed < 1000 and time.monotonic() < until:  # no claim waits: a busy server may have more the next time
        dead.tend()
        claimed += len(dead.claim(URL, 1000, ALL))
    assert claimed == 1000
    other = RedisStreamsQueue(server.url, name=name, lease_s=60.0)
    time.sleep(0.25)
    other._holding.lease_ms = 200  # what idle means to it; its own leases last as long as this test
    found: list[int] = []
    began = time.monotonic()
    while len(found) < 1000 and time.monotonic() - began < 10:
        other.tend()
        leases = other.claim(URL, 300, ALL)
        found += numbers(leases)
        other.ack(leases)
    assert sorted(found) == list(range(1000))
    assert time.monotonic() - began < 5
    for queue in (dead, other):
        queue.close()


def test_a_close_in_a_signal_handler_ends_what_it_interrupts_first(server: RedisServer) -> None:
    """It refuses puts at once; the rest is done when the interrupted claim has ended."""
    queue = RedisStreamsQueue(server.url, name=next(NAMES))
    queue.put([event(1)])
    ask = queue._route.ask_all
    calls: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        if not calls:
            calls.append(1)
            queue.close()
            assert queue.stats().accepted == 0, "the last known"
        return ask(*arguments)

    queue._route.ask_all = interrupted
    queue.claim(URL, 1, ALL)
    assert calls
    assert queue._closed is not None
    with pytest.raises(QueueUnavailable) as caught:
        queue.put([event(2)])
    assert caught.value.reason == "closed"
    assert (queue.stats().accepted, queue.stats().queued, queue.stats().in_flight) == (1, 1, 0)
    queue.close()


def test_sync_waits_for_the_servers_disk() -> None:
    """With appendfsync everysec a put is not on the disk when it returns; after sync() it is, or False is said."""
    with a_valkey(appendonly="yes", appendfsync="everysec") as server:
        queue = RedisStreamsQueue(server.url, name=next(NAMES))
        queue.put([event(1)])
        assert queue.sync(5.0)
        queue.close()
    with a_valkey() as server:
        queue = RedisStreamsQueue(server.url, name=next(NAMES))
        queue.put([event(1)])
        assert not queue.sync(1.0)
        queue.close()


def test_nothing_is_imported_on_other_threads(server: RedisServer) -> None:
    """A fork in that moment would leave the child a module's lock for ever."""
    code = """
import sys, threading
from eventpost import EventDispatcher, LogEvent, RedisStreamsQueue
from eventpost.testing import Collector
main, seen = threading.get_ident(), []
def hook(name, arguments):
    if name == "import" and threading.get_ident() != main:
        seen.append(arguments[0])
with Collector() as collector:
    url = sys.argv[1].replace("127.0.0.1", "localhost")
    dispatcher = EventDispatcher(RedisStreamsQueue(url, name=sys.argv[2]))
    sys.addaudithook(hook)
    for number in range(10):
        dispatcher.dispatch_event(LogEvent(collector.url, {"n": number}))
    report = dispatcher.close(10)
assert report.delivered == 10, report
print(sorted(set(seen)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, server.url, next(NAMES)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_figures_of_a_writer_live_as_long_as_it_puts_and_then_a_month(server: RedisServer) -> None:
    """Each put, and each settlement by whomever, begins the month anew; the fleet's sum stays for good."""
    queue = RedisStreamsQueue(server.url, name=next(NAMES), shards=1)
    key = f"{{{queue.name}:0}}:w:{queue.writer}"
    for number in range(2):
        queue.put([event(number)])
        assert int(server.ask("TTL", key)[1:]) == 30 * 86_400
        server.ask("EXPIRE", key, 1000)
    queue.ack(queue.claim(URL, 1, ALL))
    assert int(server.ask("TTL", key)[1:]) == 30 * 86_400
    assert server.ask("TTL", f"{{{queue.name}:0}}:sum") == ":-1"
    queue.close()


# -- secrets


def test_no_password_shows_anywhere() -> None:
    """Not in a repr, not in an error, not in what describes the queue; a wrong one is refused with a remedy."""
    with a_valkey(requirepass="s3cret") as server:
        with pytest.raises(RedisUnusable) as caught:
            RedisStreamsQueue(f"redis://:wr0ng@127.0.0.1:{server.port}", name="x")
        assert "password" in str(caught.value)
        queue = RedisStreamsQueue(f"redis://:s3cret@127.0.0.1:{server.port}", name="x")
        queue.put([event(1)])
        seen = [repr(queue), str(queue.describe()), repr(vars(queue)), str(caught.value), repr(queue._route.address)]
        with pytest.raises(ValueError, match="url") as misread:
            RedisStreamsQueue("redis://:s3cret@127.0.0.1:port", name="x")
        server.kill()
        with pytest.raises(QueueError) as away:
            queue.put([event(2)])
        for text in [*seen, str(misread.value), str(away.value), repr(misread.value.__cause__)]:
            assert "s3cret" not in text
            assert "wr0ng" not in text
        queue.close()


def test_a_damaged_entry_is_dropped_and_the_rest_goes_on(server: RedisServer) -> None:
    """Somebody else wrote into the stream: it is counted, told, and holds nothing up."""
    name = next(NAMES)
    told: list[Any] = []
    queue = RedisStreamsQueue(server.url, name=name, shards=1)
    queue.emit = told.append
    queue.put([event(1)])
    (key,) = [f"{{{name}:0}}:s:{lane}" for lane in [queue._hand.lane(URL).key]]
    server.ask("XADD", key, "*", "w", "somebody", "n", "3", "d", "nonsense")
    queue.put([event(2)])
    assert numbers(queue.claim(URL, 10, ALL)) == [1, 2]
    assert [one.detail for one in told if "cannot be read" in getattr(one, "detail", "")]
    assert dict(queue.stats().dropped) == {"damaged": 3}
    assert ENVELOPE.url not in repr(told)
    queue.close()
