"""The whole way: the official client puts into Redis Streams, a sender in another process delivers."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files

import pytest
from optimizely import optimizely

import eventpost
from eventpost import AsyncEventDispatcher, EventDispatcher, EventProcessor, LogEvent
from eventpost.testing import Collector, Reply
from eventpost.testing.collector import uuids_in
from redis_support import Fleet, RedisServer, RedisStreamsQueue, a_proxy, a_valkey, until

DATAFILE = files(eventpost).joinpath("demo_datafile.json").read_text()
SENDER = """
import sys, time
from eventpost import EventDispatcher, RedisStreamsQueue
dispatcher = EventDispatcher(RedisStreamsQueue(sys.argv[1], name=sys.argv[2], lease_s=1.0), linger_s=0.0, timeout_s=0.5)
dispatcher.start()
print("started", flush=True)
sys.stdin.read()
print(dispatcher.close(), flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Run one Valkey."""
    with a_valkey() as one:
        yield one


def use(client: optimizely.Optimizely, users: int) -> None:
    """Make events."""
    for number in range(users):
        user = client.create_user_context(f"user-{number}", {"plan": "gold"})
        user.decide_all()
        user.track_event("purchase", {"revenue": number})


def test_a_client_delivers_through_redis_in_one_process(server: RedisServer) -> None:
    """Put, claimed, batched and delivered by one dispatcher; the endpoint gets each uuid once; the sum closes."""
    with Collector() as collector:
        queue = RedisStreamsQueue(server.url, name="one")
        with EventDispatcher(queue, endpoint=collector.url, linger_s=0.02) as dispatcher:
            client = optimizely.Optimizely(DATAFILE, event_processor=EventProcessor(dispatcher))
            use(client, 40)
            client.close()
            report = dispatcher.flush(20)
        assert (report.pending, report.dead, report.refused) == (0, 0, {})
        uuids = _uuids(collector)
        assert len(uuids) == len(set(uuids)) == report.delivered > 40
    assert Fleet(server.url, name="one").status().closes


def test_an_application_stores_and_another_process_sends(server: RedisServer) -> None:
    """A sender is killed and one more goes on; the endpoint fails at first; each event arrives, and the sums agree."""
    with Collector() as collector:
        collector.script([Reply(503)] * 5)
        with EventDispatcher(
            RedisStreamsQueue(server.url, name="two"), endpoint=collector.url, sender="none"
        ) as dispatcher:
            client = optimizely.Optimizely(DATAFILE, event_processor=EventProcessor(dispatcher))
            command = [sys.executable, "-c", SENDER, server.url, "two"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            with subprocess.Popen(command, **pipes) as first:
                assert first.stdout.readline() == "started\n"
                use(client, 30)
                until(lambda: len(collector.bodies) > 2)
                first.send_signal(signal.SIGKILL)
            with subprocess.Popen(command, **pipes) as second:
                use(client, 30)
                until(lambda: dispatcher.stats().pending == 0, 30)
                said, _ = second.communicate("")
            client.close()
            report = dispatcher.stats()
        assert (report.accepted, report.dead, dict(report.dropped)) == (report.delivered, 0, {})
        assert "adopted" in said
        assert len(set(_uuids(collector))) == report.delivered
    status = Fleet(server.url, name="two").status()
    assert (status.accepted, status.delivered, status.closes) == (report.accepted, report.delivered, True)


def test_an_event_loop_goes_on_while_a_put_waits_for_the_server(server: RedisServer) -> None:
    """The put is made on a thread: a server that is silent stops no other coroutine, and the answer is a no in time."""
    with a_proxy(server) as proxy:
        dispatcher = EventDispatcher(RedisStreamsQueue(proxy.url, name="aio", timeout_s=1.5), sender="none")

        async def run() -> tuple[list[bool], float]:
            door = AsyncEventDispatcher(dispatcher)
            said = [await door.dispatch_event(LogEvent("http://127.0.0.1:9/", {"n": 1}))]
            proxy.silent = True
            put = asyncio.ensure_future(door.dispatch_event(LogEvent("http://127.0.0.1:9/", {"n": 2})))
            longest_s, last = 0.0, time.monotonic()
            while not put.done():
                await asyncio.sleep(0.005)
                now = time.monotonic()
                longest_s, last = max(longest_s, now - last), now
            return [*said, await put], longest_s

        said, longest_s = asyncio.run(run())
        assert said == [True, False]
        assert longest_s < 1.0
        assert dict(dispatcher.stats().refused) == {"redis_unavailable": 1}
        proxy.silent = False
        dispatcher.close()


def test_without_its_extra_the_queue_says_what_to_install() -> None:
    """``import eventpost`` works; the name that needs redis-py names the extra."""
    code = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "redis":
            raise ModuleNotFoundError("No module named 'redis'", name="redis")
sys.meta_path.insert(0, Hidden())
import eventpost
eventpost.RedisStreamsQueue
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "eventpost[redis]" in done.stderr


def _uuids(collector: Collector) -> list[str]:
    return [uuid for body in collector.bodies for uuid in uuids_in(body)]
