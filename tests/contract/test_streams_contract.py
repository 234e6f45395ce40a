"""The queue on Redis Streams keeps the promise of a queue, on a real Valkey and a real Redis."""

from __future__ import annotations

import itertools
import os
from typing import Any, ClassVar

import pytest

from eventpost.queues.protocol import Queue
from eventpost.testing.clock import ManualClock
from eventpost.testing.queue_contract import QueueContract
from redis_support import RedisStreamsQueue, a_redis, a_valkey

NUMBERS = itertools.count()


class StreamsContract(QueueContract):
    """A queue of a fresh name for each."""

    bounded_by_events: ClassVar[bool] = False
    signal_interval_s: ClassVar[float] = 0.005  # a put is a round trip
    settings: ClassVar[dict[str, Any]] = {}
    url: str

    def make_queue(self, clock: ManualClock, **options: Any) -> Queue:
        """Make one on the class's server."""
        name = f"contract-{os.getpid()}-{next(NUMBERS)}"
        return RedisStreamsQueue(self.url, name=name, clock=clock, **{**self.settings, **options})


@pytest.fixture(scope="module")
def valkey():
    """One Valkey for all tests here."""
    with a_valkey() as server:
        yield server.url


@pytest.fixture(scope="module")
def redis():
    """One Redis for all tests here."""
    with a_redis() as server:
        yield server.url


class TestOnValkey(StreamsContract):
    """Valkey."""

    @pytest.fixture(autouse=True)
    def _server(self, valkey):
        type(self).url = valkey


class TestOnRedis(StreamsContract):
    """Redis, with one part only."""

    settings: ClassVar[dict[str, Any]] = {"shards": 1}

    @pytest.fixture(autouse=True)
    def _server(self, redis):
        type(self).url = redis
