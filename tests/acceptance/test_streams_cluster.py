"""A queue of many parts on a cluster: what is asked of a server is asked at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from eventpost.errors import QueueUnavailable
from redis_support import RedisServer, RedisStreamsQueue, a_valkey, free_port, until
from support import drain, event

PARTS = 24


@contextmanager
def a_cluster() -> Iterator[list[RedisServer]]:
    """Run three masters that have the slots between them."""
    with ExitStack() as stack:
        options = {"cluster_enabled": "yes", "cluster_node_timeout": "5000", "cluster_require_full_coverage": "no"}
        buses = [free_port() for _ in range(3)]
        nodes = [stack.enter_context(a_valkey(cluster_port=str(bus), **options)) for bus in buses]
        for node, slots in zip(nodes, ((0, 5460), (5461, 10922), (10923, 16383)), strict=True):
            node.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        until(lambda: all("cluster_slots_assigned:16384" in one.ask_all("CLUSTER", "INFO") for one in nodes))
        until(lambda: all("cluster_state:ok" in one.ask_all("CLUSTER", "INFO") for one in nodes))
        yield nodes


def writes(node: RedisServer) -> int:
    """Return how often a server has answered: a pipeline counts once."""
    found = re.search(r"total_writes_processed:(\d+)", node.ask_all("INFO", "stats"))
    assert found is not None
    return int(found.group(1))


def stored(queue: RedisStreamsQueue, number: int) -> bool:
    """Put an event; False if the servers were not there at the moment."""
    try:
        queue.put([event(number)])
    except QueueUnavailable:
        return False
    return True


def test_a_look_at_many_parts_is_one_round_trip_to_each_server() -> None:
    """A sender looks at all parts every 50 ms; what a lost server does not answer costs the other parts nothing."""
    with a_cluster() as nodes:
        url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        queues = [RedisStreamsQueue(url, name="many", shards=PARTS, timeout_s=3.0) for _ in range(PARTS)]
        for number, queue in enumerate(queues):
            until(lambda queue=queue, number=number: stored(queue, number))
        sender = queues[0]
        sender.tend()
        before = [writes(node) for node in nodes]
        for _ in range(10):
            sender._keeper.look()
        looks = [writes(node) - earlier - 1 for node, earlier in zip(nodes, before, strict=True)]  # 1: our own INFO
        assert looks == [10, 10, 10]
        assert sorted(drain(sender)) == list(range(PARTS))
        lost = next(node for node in nodes if str(node.port) not in sender._route.shown(0))
        for number, queue in enumerate(queues):
            until(lambda queue=queue, number=number: stored(queue, 100 + number))
        there = {part for part in range(PARTS) if str(lost.port) not in sender._route.shown(part)}
        assert 0 < len(there) < PARTS
        lost.kill()
        sender.tend()
        found = drain(sender)
        assert sorted(found) == [100 + number for number, queue in enumerate(queues) if queue._server.home in there]
        moved = [queue for queue in queues if queue._server.home not in there]
        for queue in moved:
            until(lambda queue=queue: stored(queue, 200))
        assert len({queue._server.home for queue in moved}) > 1, "one neighbour has all of the lost server's work"
        for queue in queues:
            queue.close(1.0)
