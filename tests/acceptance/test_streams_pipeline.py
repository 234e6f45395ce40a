"""The whole way: the official client puts into Redis Streams, a sender in another process delivers."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files

import pytest
from optimizely import optimizely

import eventpost
from eventpost import EventDispatcher, EventProcessor
from eventpost.testing import Collector, Reply
from eventpost.testing.collector import uuids_in
from redis_support import Fleet, RedisServer, RedisStreamsQueue, a_valkey, until

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


def _uuids(collector: Collector) -> list[str]:
    return [uuid for body in collector.bodies for uuid in uuids_in(body)]
