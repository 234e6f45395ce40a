"""A spill beside the queue on Redis Streams, where servers and processes fail: real Valkey, real signals, real ends."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eventpost import EventDispatcher, JournalQueue, LogEvent
from eventpost.errors import QueueFull
from eventpost.queues.journal import inspect
from eventpost.queues.protocol import Queue
from eventpost.testing import Collector
from redis_support import Fleet, RedisServer, RedisStreamsQueue, a_proxy, a_valkey, until
from support import URL, closes, deliver_leftovers, drain, event

NAMES = (f"spill-{os.getpid()}-{number}" for number in itertools.count())
TIMEOUT_S = 0.3
PRELUDE = """
import os, signal, sys, threading, time
from eventpost import EventDispatcher, JournalQueue, LogEvent, RedisStreamsQueue
SERVER, NAME, SPILL, URL = sys.argv[1:5]

def make(sender):
    queue = RedisStreamsQueue(SERVER, name=NAME, timeout_s=0.3, shards=1, spill=JournalQueue(SPILL))
    return EventDispatcher(queue, sender=sender, linger_s=0.0)

def put(dispatcher, names):
    for name in names:
        visitors = [{"visitor_id": "v", "snapshots": [{"events": [{"uuid": str(name)}]}]}]
        if dispatcher.dispatch_event(LogEvent(URL, {"visitors": visitors})):
            say(name)

def say(what):
    os.write(1, b"%s\\n" % str(what).encode())  # one write: children share the pipe
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Run a Valkey for one test, whose log keeps what it said yes to."""
    with a_valkey(appendonly="yes", appendfsync="always") as one:
        yield one


@contextmanager
def application(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that puts; it prints what was accepted."""
    command = [sys.executable, "-c", PRELUDE + code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def spilling_queue(server: RedisServer, folder: Path, name: str, **options: Any) -> Any:
    """Make a queue whose process only stores."""
    queue = RedisStreamsQueue(
        options.pop("url", server.url), name=name, timeout_s=TIMEOUT_S, shards=1, spill=JournalQueue(folder), **options
    )
    queue.sends = False
    return queue


def timed(queue: Queue, numbers: range) -> list[float]:
    """Put one by one; return how long each took, in seconds."""
    took = []
    for number in numbers:
        began = time.monotonic()
        queue.put([event(number)])
        took.append(time.monotonic() - began)
    return took


def first_times(numbers: list[int]) -> list[int]:
    """Return them without their repeats."""
    return list(dict.fromkeys(numbers))


def at_the_server(server: RedisServer, name: str) -> list[int]:
    """Return what lies in the server's stream, in its order."""
    reader = RedisStreamsQueue(server.url, name=name)
    reader.tend()
    try:
        return drain(reader)
    finally:
        reader.close()


@pytest.mark.parametrize("how", ["killed", "stopped", "silent", "mute"])
def test_an_outage_costs_one_put_its_timeout_and_no_order(server: RedisServer, tmp_path: Path, how: str) -> None:
    """Killed, hanging, behind a black hole, or storing without an answer: one put waits its time, the others do not.

    When the server is back everything is in its stream, in the order of the puts, also of those that came meanwhile.
    """
    name = next(NAMES)
    with a_proxy(server) as proxy:
        away: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "killed": (server.kill, server.start),
            "stopped": (lambda: server.kill(signal.SIGSTOP), lambda: server.kill(signal.SIGCONT)),
            "silent": (lambda: setattr(proxy, "silent", True), lambda: setattr(proxy, "silent", False)),
            "mute": (lambda: setattr(proxy, "lose_answers", 1 << 30), lambda: setattr(proxy, "lose_answers", 0)),
        }
        url = proxy.url if how in ("silent", "mute") else server.url
        queue = spilling_queue(server, tmp_path, name, url=url)
        timed(queue, range(50))
        leave, come_back = away[how]
        leave()
        took = timed(queue, range(50, 1050))
        assert max(took) < TIMEOUT_S + 0.25
        assert len([one for one in took if one > 0.05]) <= 3, "but for one that found out, and a machine's hiccups"
        assert queue.describe()["spill"]["queued"] >= 900
        come_back()
        timed(queue, range(1050, 1100))
        until(lambda: not queue.spilling and timed(queue, range(5000, 5001)))
        stats = queue.stats()
        assert closes(stats)
        assert stats.accepted == stats.queued, "what moved counts once"
        assert [one for one in first_times(at_the_server(server, name)) if one < 5000] == list(range(1100))
        queue.close()
    assert inspect.folder_status(tmp_path).queued == 0


def test_a_server_that_is_away_from_the_start(server: RedisServer, tmp_path: Path) -> None:
    """The constructor waits no longer than its time, and puts spill."""
    name = next(NAMES)
    server.kill()
    began = time.monotonic()
    queue = spilling_queue(server, tmp_path, name)
    took = timed(queue, range(100))
    assert time.monotonic() - began < 2 * TIMEOUT_S + 0.4
    assert sorted(took)[50] < 0.005
    server.start()
    until(lambda: not queue.spilling)
    assert at_the_server(server, name) == list(range(100))
    queue.close()


def test_a_server_whose_memory_is_full_spills_and_its_bound_refuses(server: RedisServer, tmp_path: Path) -> None:
    """At maxmemory events wait on this machine until there is room; at ``bytes_max`` they are refused, as chosen."""
    name = next(NAMES)
    server.ask("CONFIG", "SET", "maxmemory", "12mb")
    queue = spilling_queue(server, tmp_path, name)
    number = 0
    while not queue.spilling and number < 400:
        queue.put([event(number, 100_000)])
        number += 1
    assert number < 400
    assert queue.describe()["spill"]["queued"] == 1
    assert server.ask("CONFIG", "SET", "maxmemory", "100mb") == "+OK"
    until(lambda: not queue.spilling)
    assert at_the_server(server, name) == list(range(number))
    queue.close()
    small = spilling_queue(server, tmp_path, next(NAMES), bytes_max=10_000)
    while small.stats().stored_bytes < 9000:
        small.put([event(1, 1000)])
    with pytest.raises(QueueFull) as caught:
        small.put([event(1, 1000)])
    assert (caught.value.reason, small.spilling) == ("queue_full", False)
    small.close()


def test_a_server_that_can_not_be_used_any_more_spills(server: RedisServer, tmp_path: Path) -> None:
    """Somebody lets it evict: its events would be lost, so they wait here until that is mended."""
    name = next(NAMES)
    queue = spilling_queue(server, tmp_path, name)
    queue.put([event(0)])
    server.ask("CONFIG", "SET", "maxmemory", "100mb")
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    queue._first._server._checked_at = -1e9  # a minute later
    queue.put([event(1)])
    assert queue.spilling
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    queue._first._server._checked_at = -1e9
    until(lambda: not queue.spilling)
    assert at_the_server(server, name) == [0, 1]
    queue.close()


def test_events_reach_the_endpoint_while_the_server_is_killed_again_and_again(
    server: RedisServer, tmp_path: Path
) -> None:
    """One process puts and sends through two outages: each uuid arrives, the sum closes at every look."""
    with Collector() as collector:
        queue = RedisStreamsQueue(
            server.url, name=next(NAMES), timeout_s=TIMEOUT_S, lease_s=2.0, spill=JournalQueue(tmp_path)
        )
        accepted: list[str] = []
        looks = 0
        with EventDispatcher(queue, endpoint=collector.url, linger_s=0.01, timeout_s=1.0) as dispatcher:
            stop = threading.Event()

            def traffic() -> None:
                for number in itertools.count():
                    visitors = [{"visitor_id": "v", "snapshots": [{"events": [{"uuid": f"u{number}"}]}]}]
                    if dispatcher.dispatch_event(LogEvent(URL, {"visitors": visitors})):
                        accepted.append(f"u{number}")
                    if stop.wait(0.002):
                        return

            thread = threading.Thread(target=traffic)
            thread.start()
            for _ in range(2):
                before = len(collector.uuids)
                until(lambda before=before: len(collector.uuids) > before + 50)
                server.kill()
                until(lambda: queue.describe()["spill"]["queued"] > 100)
                assert dispatcher.stats().closes
                looks += 1
                server.start()
                until(lambda: not queue.spilling)
                assert dispatcher.stats().closes
            stop.set()
            thread.join()
            report = dispatcher.flush(20)
        assert (looks, report.closes, report.pending, report.dead, report.refused) == (2, True, 0, 0, {})
        assert len(accepted) > 300
        assert set(accepted) <= set(collector.uuids)
        assert 0 <= report.accepted - len(accepted) <= 2, "a put that a kill left without an answer counts as both"


def test_what_a_killed_process_had_spilled_flows_from_the_next_one(server: RedisServer, tmp_path: Path) -> None:
    """Whoever is killed in an outage, or while it flows back: what was accepted is at the server, in order."""
    name = next(NAMES)
    server.kill()
    code = "d = make('none'); put(d, range(2000)); say('end'); time.sleep(60)"
    with application(code, server.url, name, str(tmp_path), URL) as process:
        accepted = [int(line) for line in iter(lambda: process.stdout.readline().strip(), "end")]
        process.send_signal(signal.SIGKILL)
    assert accepted == list(range(2000))
    server.start()
    code = "d = make('none'); put(d, [9000]); say('end'); time.sleep(60)"
    for _ in range(2):
        with application(code, server.url, name, str(tmp_path), URL) as process:
            assert process.stdout.readline() == "9000\n"
            time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    with application(code, server.url, name, str(tmp_path), URL) as process:
        until(lambda: inspect.folder_status(tmp_path).queued == 0)
    fleet = Fleet(server.url, name=name)
    status = fleet.status()
    assert status.closes
    found = [uuid_number(seen.event.payload) for seen in fleet.tail(None)]
    assert [one for one in first_times(found) if one < 9000] == accepted
    fleet.close()


def uuid_number(payload: bytes) -> int:
    """Return the number that the application used as uuid."""
    return int(payload.partition(b'"uuid":"')[2].partition(b'"')[0])


def test_a_plain_sender_delivers_what_a_dead_process_left_and_nothing_of_a_living_one(
    server: RedisServer, tmp_path: Path
) -> None:
    """``eventpost send --journal`` on the folder goes straight to the endpoint; a living process moves its own."""
    name = next(NAMES)
    server.kill()
    with Collector() as collector:
        alive = spilling_queue(server, tmp_path, name)
        alive.put([event(1)])
        code = "d = make('none'); put(d, range(20)); say('end'); time.sleep(60)"
        with application(code, server.url, name, str(tmp_path), collector.url) as process:
            for _ in iter(lambda: process.stdout.readline().strip(), "end"):
                pass
            process.send_signal(signal.SIGKILL)
        command = [sys.executable, "-m", "eventpost.cli", "send", "--journal", str(tmp_path), "--until-empty"]
        subprocess.run([*command, "--timeout", "20"], check=True, capture_output=True, timeout=60)
        assert sorted(map(int, collector.uuids)) == list(range(20))
        server.start()
        until(lambda: not alive.spilling)
        assert at_the_server(server, name) == [1]
        alive.close()


@pytest.mark.parametrize("sender", ["thread", "none"])
def test_a_process_that_ends_in_an_outage_leaves_it_on_the_disk_and_says_so(
    server: RedisServer, tmp_path: Path, sender: str
) -> None:
    """It ends soon, says how many events wait on this machine and where, and the next process moves them."""
    name = next(NAMES)
    server.kill()
    code = f"d = make({sender!r}); put(d, range(30))"
    with Collector() as collector, application(code, server.url, name, str(tmp_path), collector.url) as process:
        began = time.monotonic()
        out, err = process.communicate(timeout=40)
        assert time.monotonic() - began < 8
        assert process.returncode == 0, err
        assert out.split() == [str(number) for number in range(30)]
        assert f"30 of them on this machine, in {tmp_path}" in err
        assert inspect.folder_status(tmp_path).queued == 30
        deliver_leftovers(tmp_path)
        assert sorted(map(int, collector.uuids)) == list(range(30))


def test_a_process_that_ends_while_it_flows_back_moves_the_rest(server: RedisServer, tmp_path: Path) -> None:
    """A process that only stores, once the server takes events again: all is there within its time to close."""
    name = next(NAMES)
    server.kill()
    code = """
d = make('none')
for number in range(20_000):
    d.dispatch_event(LogEvent(URL, {"visitors": [{"snapshots": [{"events": [{"uuid": str(number)}]}]}]}))
say('end')
sys.stdin.readline()
while d.queue.describe()["spill"]["away"]:
    time.sleep(0.001)
say(d.close(10))
"""
    command = [sys.executable, "-c", PRELUDE + code, server.url, name, str(tmp_path), URL]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "end\n"
        server.start()
        out, _ = process.communicate("\n", timeout=40)
    assert "accepted 20,000, delivered 0, queued 20,000" in out
    assert inspect.folder_status(tmp_path).queued == 0
    found = [uuid_number(seen.event.payload) for seen in Fleet(server.url, name=name).tail(None)]
    assert first_times(found) == list(range(20_000))


def test_children_that_are_forked_in_an_outage_move_their_own(server: RedisServer, tmp_path: Path) -> None:
    """Parent and children spill into one folder, none touches the others', and all of it arrives once."""
    name = next(NAMES)
    server.kill()
    code = """
d = make('none')
put(d, range(100))
children = []
for at in range(1, 4):
    child = os.fork()
    if not child:
        put(d, range(at * 1000, at * 1000 + 100))
        say('end')
        signal.pause()
    children.append(child)
signal.signal(signal.SIGTERM, lambda *_: ([os.kill(one, signal.SIGKILL) for one in children], os._exit(0)))
put(d, range(100, 200))
say('end')
signal.pause()
"""
    with application(code, server.url, name, str(tmp_path), URL) as process:
        accepted, ends = [], 0
        while ends < 4:
            line = process.stdout.readline().strip()
            if line == "end":
                ends += 1
            else:
                accepted.append(int(line))
        server.start()
        until(lambda: inspect.folder_status(tmp_path).queued == 0)
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    found = [uuid_number(seen.event.payload) for seen in Fleet(server.url, name=name).tail(None)]
    assert sorted(found) == sorted(accepted)
    for at in range(4):
        own = [one for one in found if one // 1000 == at]
        assert own == sorted(own)
