"""Harm between a fleet and its servers, and to one of several: partitions, failovers, sentinels, a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

from .fleet_servers import Proxy, Sentinel, make_cluster, until
from .fleet_stage import Play, Stage, lives
from .fleet_world import BACKOFF_S


def partition(what: str) -> Callable[[Stage], Play]:
    """Return: a proxy that fails in this way, before two applications and one of two senders."""

    def play(stage: Stage) -> Play:
        server = stage.server()
        proxy = Proxy(server.port)
        try:
            server.start()
            world = stage.make_world(server.url)
            world.start("write", queue=proxy.url)
            world.start("write", queue=proxy.url, sender="thread")
            world.start("send", queue=proxy.url)
            world.start("send")
            yield world
            at = time.monotonic()
            setattr(proxy, what, True)
            if what == "closed":
                proxy.cut_all()
            time.sleep(stage.hold_s)
            setattr(proxy, what, False)
            world.is_fault(at, after_s=BACKOFF_S)
            if proxy.cut:
                world.count("answers that never came", proxy.cut)
            yield time.monotonic()
        finally:
            proxy.close()
            server.close()

    return play


def fail_over(replicas: int) -> Callable[[Stage], Play]:
    """Let the replica fall behind, kill the primary, and lead everybody to the replica (an address that moves)."""

    def play(stage: Stage) -> Play:
        primary = stage.server("primary", appendonly="yes")
        replica = stage.server("replica", appendonly="yes")
        third = stage.server("third", appendonly="yes")
        link, address = Proxy(primary.port), Proxy(primary.port)
        try:
            for one in (primary, replica, third):
                one.start()
            replica.replicates(link.port)
            world = lives(stage.make_world(address.url, replicas=replicas))
            yield world
            at = time.monotonic()
            link.silent = True  # what is put from here on does not reach the replica
            world.endpoint.weather = "down"  # nor anybody else
            time.sleep(stage.hold_s)
            address.closed = True
            address.cut_all()
            primary.kill()
            link.close()
            replica.ask("REPLICAOF", "NO", "ONE")
            third.replicates(replica.port)
            address.target = replica.port
            address.closed = False
            world.endpoint.weather = "fine"
            world.is_fault(at, after_s=BACKOFF_S)
            yield time.monotonic()
        finally:
            for one in (primary, replica, third):
                one.close()
            link.close()
            address.close()

    return play


def sentinel(stage: Stage) -> Play:
    """Kill -9 the primary of three; three sentinels make one of the replicas the next."""
    primary, *replicas = servers = [stage.server(f"server{number}", appendonly="yes") for number in range(3)]
    sentinels: list[Sentinel] = []
    try:
        for one in servers:
            one.start()
        for one in replicas:
            one.replicates(primary.port)
        for number in range(3):
            sentinels.append(Sentinel(stage.program, stage.folder / f"sentinel{number}", primary.port, 2))
            sentinels[-1].start()
        for one in sentinels:
            until(lambda one=one: _knows(one), 20, "the sentinels do not find each other")
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in sentinels) + "/main"
        world = lives(stage.make_world(url, replicas=1))
        yield world
        at = time.monotonic()
        primary.kill()
        world.is_fault(at, after_s=BACKOFF_S)
        ports = {str(one.port) for one in replicas}
        took_s = world.until(
            lambda: sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1] in ports, "nobody takes over"
        )
        world.count("sentinels needed, ms", int(took_s * 1000))
        world.windows[-1] = (at, time.monotonic() + BACKOFF_S)
        yield at
    finally:
        for one in [*sentinels, *servers]:
            one.close()


def _knows(one: Sentinel) -> bool:
    told = one.ask("SENTINEL", "MASTER", "main")
    told = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
    return int(told["num-slaves"]) == 2 and int(told["num-other-sentinels"]) == 2


def cluster(stage: Stage) -> Play:
    """Kill -9 one of a cluster's three primaries, and start it again; the others go on meanwhile."""
    servers = [
        stage.server(
            f"node{number}", **{
                "appendonly": "yes", "cluster-enabled": "yes", "cluster-node-timeout": 1000,
                "cluster-require-full-coverage": "no",
            },
        )
        for number in range(3)
    ]  # fmt: skip
    try:
        for one in servers:
            one.start()
        make_cluster(servers)
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in servers)
        world = lives(stage.make_world(url, shards=6), writers=3)
        yield world
        at = time.monotonic()
        servers[1].kill()
        time.sleep(0.2)
        world.flows(10)  # the others go on
        world.count("went on without it, ms", int((time.monotonic() - at) * 1000))
        time.sleep(stage.hold_s)
        servers[1].start()
        world.is_fault(at, after_s=BACKOFF_S)
        yield time.monotonic()
    finally:
        for one in servers:
            one.close()
