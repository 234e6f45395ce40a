"""The queue on Redis Streams on the kinds of servers that people run: TLS, users, replicas, sentinels, clusters."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from eventpost.errors import QueueUnavailable, RedisUnusable
from redis_support import Fleet, RedisServer, RedisStreamsQueue, a_redis, a_valkey, free_port, until
from support import ALL, URL, drain, event

NAMES = (f"servers-{os.getpid()}-{number}" for number in itertools.count())


def test_tls_trusts_who_was_named_and_nobody_else(tmp_path: Path) -> None:
    """A server with a private authority is reached with ca=, and refused without."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    port = free_port()
    options = {"tls_cert_file": tmp_path / "server.pem", "tls_key_file": tmp_path / "server.pem"}
    options |= {"tls_ca_cert_file": tmp_path / "ca.pem", "tls_auth_clients": "no", "tls_port": port}
    with a_redis(**{name: str(value) for name, value in options.items()}):
        queue = RedisStreamsQueue(f"rediss://localhost:{port}", name="tls", ca=tmp_path / "ca.pem")
        queue.put([event(1)])
        assert drain(queue) == [1]
        queue.close()
        strict = RedisStreamsQueue(f"rediss://localhost:{port}", name="tls", timeout_s=0.5)
        with pytest.raises(QueueUnavailable, match=r"(?i)certificate|not asked again"):
            strict.put([event(1)])
        strict.close()
    with pytest.raises(FileNotFoundError):
        RedisStreamsQueue("rediss://localhost:1", ca=tmp_path / "none.pem")


def test_a_user_with_few_rights_over_a_socket_of_the_system(tmp_path: Path) -> None:
    """The rights that the documentation names are enough; with fewer the constructor says which are missing."""
    path = tmp_path / "r.sock"
    with a_valkey(unixsocket=str(path)) as server:
        rights = "~{acl:* +@read +@write +@stream +@scripting +time +info +wait +waitaof -config"
        assert server.ask("ACL", "SETUSER", "post", "on", ">pw", *rights.split()) == "+OK"
        assert server.ask("ACL", "SETUSER", "poor", "on", ">pw", "~*", "+@read") == "+OK"
        queue = RedisStreamsQueue(f"unix://{path}", name="acl", username="post", password="pw")
        queue.put([event(1), event(2)])
        (lease, _) = queue.claim(URL, 2, ALL)
        queue.tend()
        queue.bury([lease], "http_400")
        assert queue.stats().dead == 1
        fleet = Fleet(f"unix://post:pw@{path}", name="acl")
        assert fleet.status().closes
        assert fleet.discard_dead(None) == 1
        fleet.close()
        queue.close()
        with pytest.raises(RedisUnusable, match="NOPERM"):
            RedisStreamsQueue(f"unix://{path}", name="acl", username="poor", password="pw")
        with pytest.raises(RedisUnusable, match="NOPERM"):
            RedisStreamsQueue(f"unix://{path}", name="other", username="post", password="pw")


def test_host_is_what_a_replica_confirmed_put_by_put() -> None:
    """Without the replica a put is refused in time and taken back; with it, again accepted."""
    options = {"appendonly": "yes", "appendfsync": "always", "repl_diskless_sync_delay": "0"}
    with a_valkey(**options) as primary, a_valkey(replicaof=f"127.0.0.1 {primary.port}", **options) as replica:
        until(lambda: "link_status:up" in replica.ask_all("INFO", "replication"))
        queue = RedisStreamsQueue(primary.url, name="r", durability="host", replicas=1, timeout_s=0.5)
        assert queue.durability == "host"
        queue.put([event(1)])
        assert f"{{r:{queue._server.home}}}:sum" in replica.ask_all("KEYS", "*")
        replica.kill()
        began = time.monotonic()
        with pytest.raises(QueueUnavailable) as caught:
            queue.put([event(2)])
        assert caught.value.reason == "redis_unconfirmed"
        assert time.monotonic() - began < 2.0
        replica.start()
        until(lambda: _stored(queue, 3))
        assert drain(queue) == [1, 3]
        assert queue.stats().accepted == 2
        queue.close()
        modest = RedisStreamsQueue(primary.url, name="r", durability="fsync")
        assert modest.durability == "fsync"
        modest.close()
    with a_valkey() as server:
        told: list[Any] = []
        queue = RedisStreamsQueue(server.url, name="r", durability="fsync")
        queue.emit = told.append
        assert queue.durability == "os", "no append-only file: no more is claimed"
        assert "appendonly no" in queue.describe()["because"]
        queue.close()


def _stored(queue: RedisStreamsQueue, number: int) -> bool:
    try:
        queue.put([event(number)])
    except QueueUnavailable:
        return False
    return True


def test_sentinels_name_the_new_master(tmp_path: Path) -> None:
    """The master is killed: puts are refused for a moment, then go to the replica that took its place."""
    with ExitStack() as stack:
        first = stack.enter_context(a_valkey(repl_diskless_sync_delay="0"))
        second = stack.enter_context(a_valkey(replicaof=f"127.0.0.1 {first.port}", repl_diskless_sync_delay="0"))
        until(lambda: "link_status:up" in second.ask_all("INFO", "replication"))
        sentinel = RedisServer(first.program, tmp_path)
        (tmp_path / "sentinel.conf").write_text(
            f"sentinel monitor main 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
        )
        sentinel.start("sentinel.conf", "--sentinel")
        stack.callback(sentinel.kill)
        until(lambda: "slaves=1" in sentinel.ask_all("INFO", "sentinel"))
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main"
        queue = RedisStreamsQueue(url, name="s", timeout_s=0.3)
        queue.put([event(1)])
        leases = queue.claim(URL, 1, ALL)
        first.kill()
        until(lambda: _stored(queue, 2), 30)
        assert queue._route.shown(0) == f"127.0.0.1:{second.port}"
        queue.ack(leases)
        assert drain(queue) == [2]
        assert queue.stats().delivered == 2
        queue.close()


def test_a_cluster_holds_the_parts_on_its_servers() -> None:
    """Parts are where their slots are; a slot that moves is followed, half way, too; a lost server costs its parts."""
    with ExitStack() as stack:
        options = {"cluster_enabled": "yes", "cluster_node_timeout": "1000", "cluster_require_full_coverage": "no"}
        buses = [free_port() for _ in range(3)]
        nodes = [stack.enter_context(a_valkey(cluster_port=str(bus), **options)) for bus in buses]
        for node, slots in zip(nodes, ((0, 5999), (6000, 11999), (12000, 16383)), strict=True):
            node.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        until(lambda: all("cluster_slots_assigned:16384" in one.ask_all("CLUSTER", "INFO") for one in nodes))
        until(lambda: all("cluster_state:ok" in one.ask_all("CLUSTER", "INFO") for one in nodes))
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{nodes[0].port}"
        queues = [RedisStreamsQueue(url, name="c", timeout_s=1.0) for _ in range(4)]
        for number, queue in enumerate(queues):
            queue.put([event(number), event(10 + number, url=URL + "/other")])
        assert {queue._server.home for queue in queues} == {0, 1, 2, 3}
        fleet = Fleet(url, name="c")
        status = fleet.status()
        of = [next(node for node in nodes if str(node.port) in shard.address) for shard in status.shards]
        assert len({node.port for node in of}) > 1
        assert (status.accepted, status.queued, status.closes) == (8, 8, True)
        sender = queues[0]
        sender.tend()
        assert sorted(drain(sender)) == [0, 1, 2, 3]
        moved = max(range(1, 4), key=lambda shard: of[shard] is not of[0])
        _move(of[moved], of[0], sender, moved)
        for number, queue in enumerate(queues):
            queue.put([event(20 + number)])
        sender.tend()
        assert sorted(drain(sender)) == [20, 21, 22, 23]
        assert sorted(drain(sender, URL + "/other")) == [10, 11, 12, 13]
        assert fleet.status().delivered == 12
        lost = next(node for node in nodes if node is not of[0] and str(node.port) in str(fleet.status().shards))
        lost.kill()
        for queue in queues:
            until(lambda queue=queue: _stored(queue, 30))
            assert queue._route.shown(queue._server.home) != f"127.0.0.1:{lost.port}"
        assert [shard.number for shard in fleet.status().shards if shard.trouble]
        for queue in queues:
            queue.close(1.0)


def _move(source: RedisServer, target: RedisServer, queue: RedisStreamsQueue, shard: int) -> None:
    """Move a part's slot from one server to another, and use the queue half way."""
    slot = queue._route._slot(shard)
    ids = [node.ask_all("CLUSTER", "MYID").split("\r\n")[1] for node in (source, target)]
    assert target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0]) == "+OK"
    assert source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1]) == "+OK"
    keys = [line for line in source.ask_all("CLUSTER", "GETKEYSINSLOT", slot, 100).split("\r\n") if line[:1] == "{"]
    assert keys
    assert source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys) == "+OK"
    queue.tend()  # half way: the keys are there, the slot is not
    for node in (target, source):
        assert node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[1]) == "+OK"
