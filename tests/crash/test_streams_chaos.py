"""The queue on Redis Streams under everything at once, seeded: what was accepted is delivered, and the sums agree."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import ExitStack

from eventpost.errors import QueueError, QueueUnavailable
from redis_support import Fleet, Proxy, RedisServer, RedisStreamsQueue, a_proxy, a_valkey, until
from support import ALL, URL, closes, event, number_of

SECONDS = 6.0
OPTIONS = {"name": "chaos", "shards": 2, "timeout_s": 0.4, "lease_s": 0.8}


class Fleetful:
    """Two processes' worth of putters and three of senders, as threads, each behind a proxy of its own."""

    def __init__(self, proxies: list[Proxy], seed: int) -> None:
        self.putters = [RedisStreamsQueue(proxy.url, **OPTIONS) for proxy in proxies[:2]]
        self.senders = [RedisStreamsQueue(proxy.url, **OPTIONS) for proxy in proxies[2:]]
        self.taken: set[int] = set()
        self.refused: set[int] = set()
        self.claimed: Counter[int] = Counter()
        self.faults: list[str] = []
        self.no_more_puts = threading.Event()
        self.no_more = threading.Event()
        self._lock = threading.Lock()
        self._numbers = iter(range(1 << 40))
        self.put_threads = [
            threading.Thread(target=self._watched, args=(self._put, queue, seed + at))
            for at, queue in enumerate(self.putters * 2)
        ]
        self.send_threads = [
            threading.Thread(target=self._watched, args=(self._send, queue, seed + 10 + at))
            for at, queue in enumerate(self.senders)
        ]

    def _watched(self, work, queue, seed) -> None:
        try:
            work(queue, random.Random(seed))
        except BaseException as error:
            self.faults.append(repr(error))

    def _put(self, queue: RedisStreamsQueue, chance: random.Random) -> None:
        while not self.no_more_puts.is_set():
            with self._lock:
                numbers = [next(self._numbers) for _ in range(chance.choice((1, 1, 1, 5, 30)))]
            try:
                queue.put([event(number) for number in numbers])
                self.taken.update(numbers)
            except QueueError:
                self.refused.update(numbers)
                time.sleep(0.01)
            time.sleep(chance.random() * 0.01)

    def _send(self, queue: RedisStreamsQueue, chance: random.Random) -> None:
        held = []
        while not self.no_more.is_set():
            queue.tend()
            leases = queue.claim(URL, chance.choice((1, 10, 100)), ALL)
            with self._lock:
                self.claimed.update(number_of(lease.event.payload) for lease in leases)
            held += leases
            chance.shuffle(held)
            if chance.random() < 0.1 and not self.no_more_puts.is_set():
                queue.release(held[::2], chance.choice((0.0, 0.05, 0.5)))
                held = held[1::2]
            try:
                queue.ack(held[::3])
                held = [lease for at, lease in enumerate(held) if at % 3]
            except QueueUnavailable:
                pass  # they are delivered all the same: told again
            stats = queue.stats()
            assert closes(stats), stats
            assert min(stats.accepted, stats.queued, stats.in_flight, stats.delivered) >= 0, stats
            time.sleep(chance.random() * 0.02)


def harm(server: RedisServer, proxies: list[Proxy], chance: random.Random) -> str:
    """Do one thing."""
    proxy = chance.choice(proxies)
    what = chance.choice(("answers", "answers", "silent", "kill", "cut", "forget"))
    if what == "answers":
        proxy.lose_answers = chance.randint(1, 4)
    elif what == "silent":
        proxy.silent = True
        time.sleep(chance.random() * 0.8)
        proxy.silent = False
    elif what == "kill":
        server.kill()
        time.sleep(chance.random() * 0.5)
        server.start()
    elif what == "cut":
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    else:
        server.ask("SCRIPT", "FLUSH")
    return what


def test_everything_at_once_loses_nothing_and_invents_nothing() -> None:
    """Lost answers, silence, kills of the server, cut connections: every yes is delivered, every sum is the same."""
    chance = random.Random(20)
    with ExitStack() as stack:
        server = stack.enter_context(a_valkey(appendonly="yes", appendfsync="always"))
        proxies = [stack.enter_context(a_proxy(server)) for _ in range(5)]
        fleet = Fleetful(proxies, 100)
        threads = [*fleet.put_threads, *fleet.send_threads]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + SECONDS
        done: Counter[str] = Counter()
        while time.monotonic() < deadline or len(done) < 5:  # each kind of harm at least once
            time.sleep(chance.random() * 0.3)
            done[harm(server, proxies, chance)] += 1
        fleet.no_more_puts.set()
        for proxy in proxies:
            proxy.lose_answers = 0
        for thread in fleet.put_threads:
            thread.join(30)
        outside = Fleet(server.url, name="chaos")
        for queue in fleet.putters:
            until(lambda queue=queue: queue._puts.void_what_is_unsure(time.monotonic() + 1))
        until(lambda: sum([(status := outside.status()).queued, status.in_flight]) == 0, 30)
        fleet.no_more.set()
        for thread in fleet.send_threads:
            thread.join(30)
        assert fleet.faults == []
        sent = set(fleet.claimed)
        assert fleet.taken <= sent
        status = outside.status()
        wrongly_refused = fleet.refused & sent
        assert status.accepted == status.delivered == len(fleet.taken) + len(wrongly_refused)
        assert len(wrongly_refused) < len(fleet.taken) / 10
        assert sum(queue.stats().accepted for queue in fleet.putters) == status.accepted
        assert (status.dropped, status.stored_bytes, status.closes) == ({}, 0, True)
        for queue in [*fleet.putters, *fleet.senders]:
            queue.close()
