"""What ``python -m proof fleet`` does at length, in short: real servers and processes, and harm done to them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest

from eventpost.errors import QueueUnavailable
from redis_support import Fleet, RedisServer, RedisStreamsQueue, a_proxy, a_valkey, until
from support import ALL, URL, closes, event, missing, number_of

from eventpost.queues.streams.route import Away  # isort: skip
from proof import fleet  # isort: skip
from proof.fleet_faults import FAULTS, needs  # isort: skip
from proof.fleet_servers import programs  # isort: skip
from proof.fleet_world import Row  # isort: skip
from proof.kills_round import Processes, ViolationError, processes  # isort: skip

SEED = 7


@pytest.fixture(scope="module")
def parent() -> Iterator[Processes]:
    """Start the parent of all processes here: it imports the SDK once."""
    with processes("proof.fleet_children") as there:
        yield there


def play(name: str, parent: Processes, server: str = "valkey", hold_s: float = 0.4, rounds: int = 2) -> Row:
    """Play one fault in short."""
    if server not in programs():
        missing(server)
    if needs(name):
        missing(needs(name))
    return fleet.play(name, programs()[server], server, parent, hold_s=hold_s, rounds=rounds, seed=SEED)


def test_applications_and_senders_are_killed(parent: Processes) -> None:
    """Kill -9 at random moments, requests in flight: nothing acknowledged is lost, repeats are explained by a kill."""
    row = play("processes", parent, rounds=4)
    assert (row.lost, row.vanished, row.counts["kills"]) == (0, 0, 4)


def test_a_sender_is_stopped_beyond_its_lease(parent: Processes) -> None:
    """Others deliver what it held; once woken it sends nothing of that again, and undoes nothing."""
    row = play("sender-stopped", parent)
    assert row.counts["sent again by who took over"] > 0, "what was in flight when it was stopped: the unknown answer"
    assert (row.lost, row.vanished) == (0, 0)


def test_processes_that_share_one_name_lose_nothing(parent: Processes) -> None:
    """Six of them, as a snapshot makes them; some end while the others go on, and somebody is told."""
    row = play("one-name", parent)
    assert row.counts["processes that were told"] > 0
    assert (row.lost, row.vanished, row.refused) == (0, 0, 0)


@pytest.mark.parametrize(("name", "server"), [("server-always", "redis"), ("server-everysec", "valkey")])
def test_the_server_is_killed_and_comes_back_with_its_file(name: str, server: str, parent: Processes) -> None:
    """Nothing is lost with ``always``; with ``everysec`` what a slow disk had kept from being written, and counted."""
    row = play(name, parent, server)
    assert row.counts["kills of the server"] == 2
    assert row.lost <= row.vanished
    assert name == "server-everysec" or row.vanished == 0


@pytest.mark.parametrize("name", ["server-none", "flushall"])
def test_the_server_comes_back_empty(name: str, parent: Processes) -> None:
    """What was there is lost, is counted as vanished by who had put it, and every sum closes."""
    row = play(name, parent)
    assert 0 < row.lost <= row.vanished


def test_a_replica_that_was_waited_for_takes_over(parent: Processes) -> None:
    """What too few had was refused, so nothing acknowledged is lost with the primary."""
    row = play("failover", parent, hold_s=1.5)
    assert row.lost == 0
    assert row.refused > 0


def test_a_replica_that_was_not_waited_for_takes_over(parent: Processes) -> None:
    """What had not reached it is gone, at most that; it is counted as vanished."""
    row = play("failover-unasked", parent, "redis")
    assert 0 < row.lost <= row.vanished


@pytest.mark.parametrize("name", ["silent", "swallowed"])
def test_the_way_to_the_server_is_cut(name: str, parent: Processes) -> None:
    """Puts are refused within their time; what was stored unanswered is taken back or counted; nothing is lost."""
    row = play(name, parent, hold_s=1.5)
    assert (row.lost, row.vanished) == (0, 0)


@pytest.mark.parametrize("name", ["clock-forward", "clock-back"])
def test_the_servers_clock_steps(name: str, parent: Processes) -> None:
    """By an hour, either way: nothing is lost, and deliveries go on."""
    row = play(name, parent)
    assert (row.lost, row.vanished) == (0, 0)


def test_the_server_is_full(parent: Processes) -> None:
    """Puts are refused and counted; what is there is delivered all the same, and then puts go on."""
    row = play("memory", parent)
    assert (row.lost, row.vanished) == (0, 0)


def test_what_is_lost_in_silence_is_found(parent: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of all of this: it says no where events are gone that were not to be."""
    monkeypatch.setitem(FAULTS, "flushall", dataclasses.replace(FAULTS["flushall"], may_lose=False))
    monkeypatch.setattr("proof.fleet_world.WAIT_S", 4.0)
    with pytest.raises(ViolationError, match=r"did not arrive|are lost"):
        play("flushall", parent)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Run a Valkey of a test's own."""
    with a_valkey() as one:
        yield one


def test_an_evicting_policy_is_noticed_while_all_runs(server: RedisServer) -> None:
    """It is asked for again within a minute; then puts are refused, with a reason, until the policy is right again."""
    queue = RedisStreamsQueue(server.url, name="evicting")
    told: list[str] = []
    queue.emit = lambda signal: told.append(str(signal))
    queue.put([event(1)])
    server.ask("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
    queue._server._checked_at -= 61
    with pytest.raises(QueueUnavailable, match="noeviction") as caught:
        queue.put([event(2)])
    assert caught.value.reason == "redis_unusable"
    assert [one for one in told if "noeviction" in one]
    assert [number_of(lease.event.payload) for lease in queue.claim(URL, 10, ALL)] == [1], "what is there is sent"
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    queue._server._checked_at -= 6
    queue.put([event(3)])
    queue.close()


def test_a_name_that_is_used_twice_costs_nothing(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes are one by their name, as a snapshot resumed twice makes them: every put is stored, and told."""
    with monkeypatch.context() as same:
        same.setattr("os.urandom", lambda size: b"\x07" * size)
        one = RedisStreamsQueue(server.url, name="twice", shards=1)
        other = RedisStreamsQueue(server.url, name="twice", shards=1)
    assert one.writer == other.writer
    told: list[str] = []
    one.emit = other.emit = lambda signal: told.append(str(signal))
    for number in range(0, 20, 2):
        one.put([event(number)])
        other.put([event(number + 1)])
    for number in range(20, 26):
        one.put([event(number)])
    other.put([event(26)])
    assert [text for text in told if "name" in text and "twice" not in text.partition(":")[0]]
    found: list[int] = []
    while leases := one.claim(URL, 100, ALL):
        found += [number_of(lease.event.payload) for lease in leases]
        one.ack(leases)
    assert sorted(found) == list(range(27))
    assert closes(one.stats())
    assert closes(other.stats())
    assert Fleet(server.url, name="twice").status().accepted == 27
    one.close()
    other.close()


@pytest.mark.parametrize("how", ["emptied", "restarted"])
def test_a_server_that_comes_back_empty_shows_what_is_put_from_then_on(how: str, server: RedisServer) -> None:
    """Also where the mark is gone that says how many parts there are."""
    queue = RedisStreamsQueue(server.url, name=f"again-{how}", shards=3)
    queue.put([event(1)])
    if how == "emptied":
        server.ask("FLUSHALL")
    else:
        server.kill()
        server.start()
    until(lambda: stored(queue, 2))
    queue.tend()
    fleet_now = Fleet(server.url, name=f"again-{how}")
    assert (fleet_now.shards(), fleet_now.status().queued) == (3, 1)
    assert dict(queue.stats().dropped) == {"vanished": 1}
    queue.close()


def stored(queue: RedisStreamsQueue, number: int) -> bool:
    """Put one event; False if it was refused."""
    try:
        queue.put([event(number)])
    except QueueUnavailable:
        return False
    return True


def test_what_a_lost_answer_had_claimed_is_had_again_at_once(server: RedisServer) -> None:
    """The server gave an entry to this process, which never learned of it: it is not waited for a lease long."""
    name = "claimed"
    with a_proxy(server) as proxy:
        queue = RedisStreamsQueue(proxy.url, name=name, lease_s=60.0, timeout_s=0.5)
        queue.put([event(1)])
        proxy.lose_answers = 10**6
        assert queue.claim(URL, 10, ALL) == []
        proxy.lose_answers = 0
        deadline = time.monotonic() + 10
        while not (leases := queue.claim(URL, 10, ALL)):
            assert time.monotonic() < deadline
            queue.tend()
            time.sleep(0.02)
        assert number_of(leases[0].event.payload) == 1
        queue.close()


def test_a_failover_that_forgot_one_event_says_one(server: RedisServer) -> None:
    """Who never looked before knows of no delivery, but the server does: only what is missing has vanished."""
    queue = RedisStreamsQueue(server.url, name="one", shards=1)
    other = RedisStreamsQueue(server.url, name="one", shards=1)
    queue.put([event(number) for number in range(10)])
    other.tend()
    other.ack(other.claim(URL, 10, ALL))
    (key,) = [f"{{one:0}}:w:{queue.writer}"]
    for field in "ad":
        server.ask("HINCRBY", key, field, -1)
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, dict(stats.dropped)) == (10, 9, {"vanished": 1})
    queue.close()
    other.close()


def test_a_lost_part_takes_no_more_than_a_quarter_of_a_puts_time(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where parts are on many servers: how much the others hold is a guess for the bound; the put is to come yet."""
    queue = RedisStreamsQueue(server.url, name="quarter", shards=3, timeout_s=1.0)
    asked: list[float] = []

    def away(parts: list[Any], deadline: float) -> list[Away]:
        asked.append(deadline - time.monotonic())
        return [Away("it is gone", sent=True)] * len(parts)

    monkeypatch.setattr(type(queue._route), "has_many", True)  # as in a cluster
    monkeypatch.setattr(queue._route, "ask_all", away)
    queue.put([event(1)])
    monkeypatch.undo()
    assert len(asked) == 1
    assert asked[0] <= 0.25
    assert queue.stats().accepted == 1
    queue.close()
