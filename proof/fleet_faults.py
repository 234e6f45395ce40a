"""The faults of a fleet, one function each: what is set up, what is done to it, and whether anything may be lost.

Each is a generator: it yields the world once everything runs, is resumed when events flow, does its harm, and yields
when the harm began and ended.  ``fleet`` does what is the same for all of them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .fleet_servers import Proxy, Sentinel, Server, faketime, make_cluster, until
from .fleet_world import LEASE_S, World

Start = Callable[..., World]
"""Makes the world around a queue's URL."""


@dataclass
class Stage:
    """What a fault is played on: the program of the servers, a folder, and how long harm lasts."""

    program: str
    folder: Path
    hold_s: float
    make_world: Start
    rounds: int = 1

    def server(self, name: str = "server", **options: Any) -> Server:
        """Return a server that is not started yet."""
        return Server(self.program, self.folder / name, **options)


Play = Iterator[Any]


@dataclass(frozen=True)
class Fault:
    """One row.  ``kept``: with which durability.  ``hits``: what must have been, or nothing was tested.

    ``may_lose``: what is lost must be counted as vanished.  ``forgets``: the servers may forget what was confirmed to
    nobody: of what was refused, and delivered all the same, they may not know later.  ``repeated``: the harm is done
    many times, since its moment is what matters.  ``on``: which servers; Redis with jemalloc does not start under
    libfaketime.
    """

    title: str
    kept: str
    play: Callable[[Stage], Play]
    hits: tuple[str, ...] = ()
    may_lose: bool = False
    forgets: bool = False
    repeated: bool = False
    on: tuple[str, ...] = ("valkey", "redis")


def _lives(world: World, writers: int = 2, senders: int = 2, **options: Any) -> World:
    for number in range(writers):
        world.start("write", sender="thread" if number % 2 else "none", **options)
    for _ in range(senders):
        world.start("send", **options)
    return world


def _one(stage: Stage, *, writers: int = 2, senders: int = 2, **options: Any) -> Iterator[tuple[Server, World]]:
    """Run one server and a fleet on it."""
    server = stage.server(**options)
    try:
        server.start()
        yield server, _lives(stage.make_world(server.url), writers, senders)
    finally:
        server.close()


# -- processes


def nothing(stage: Stage) -> Play:
    """Do no harm: the control.  Nothing may be delivered twice."""
    for _, world in _one(stage):
        yield world
        began = time.monotonic()
        time.sleep(stage.hold_s)
        yield began


def kill_processes(stage: Stage) -> Play:
    """kill -9 applications and senders at random moments; another of each kind is started each time."""
    for _, world in _one(stage):
        world.endpoint.weather = "slow"
        yield world
        began = time.monotonic()
        for _ in range(stage.rounds):
            time.sleep(world.chance.uniform(0.05, 0.5))
            kind = world.chance.choice(["write", "write", "send"])
            living = world.writers if kind == "write" else world.senders
            one = world.chance.choice(living)
            at = time.monotonic()
            busy = world.endpoint.is_sending("")
            world.signal(one, signal.SIGKILL)
            world.count("kills")
            world.count("kills with requests in flight", busy)
            world.start(kind, sender=world.chance.choice(["thread", "none"]) if kind == "write" else "thread")
            world.is_fault(at)
        world.endpoint.weather = "fine"
        yield began


def stop_a_sender(stage: Stage) -> Play:
    """SIGSTOP a sender with requests in flight for longer than its lease, then wake it; another takes over meanwhile."""
    for _, world in _one(stage, senders=1, writers=1):
        world.endpoint.weather = "slow"
        yield world
        world.until(lambda: world.endpoint.is_sending(""), "nothing is in flight")
        one = world.senders[0]
        began = time.monotonic()
        world.signal(one, signal.SIGSTOP)
        world.start("send")
        owed = world.told("+") - world.seen()
        arrived = set(world.endpoint.stays)
        time.sleep(LEASE_S + 2 * stage.hold_s)
        world.until(lambda: not owed - world.seen(), "what the stopped one held was not taken over")
        world.count("sent again by who took over", sum(len(world.endpoint.stays[uuid]) > 1 for uuid in arrived))
        world.is_fault(began)
        world.woken_at = time.monotonic()
        world.signal(one, signal.SIGCONT)
        yield time.monotonic()


# -- one server


def _killed_server(appendfsync: str) -> Callable[[Stage], Play]:
    def play(stage: Stage) -> Play:
        aof = {"appendonly": "yes", "appendfsync": appendfsync} if appendfsync else {}
        for server, world in _one(stage, **aof):
            world.endpoint.weather = "slow" if aof else "down"  # without the file, so that there is something to lose
            yield world
            began = time.monotonic()
            for _ in range(stage.rounds):
                at = time.monotonic()
                time.sleep(world.chance.uniform(0.0, 0.3))
                server.kill()
                world.count("kills of the server")
                time.sleep(min(stage.hold_s, world.chance.uniform(0.1, 1.0)))
                server.start()
                began = time.monotonic()
                world.is_fault(at)
                if stage.rounds > 1:
                    world.flows(5)
            world.endpoint.weather = "fine"
            yield began

    return play


def stop_the_server(stage: Stage) -> Play:
    """SIGSTOP the server, then let it go on."""
    for server, world in _one(stage):
        yield world
        at = time.monotonic()
        server.signal(signal.SIGSTOP)
        time.sleep(stage.hold_s)
        server.signal(signal.SIGCONT)
        world.is_fault(at)
        yield time.monotonic()


def flush_all(stage: Stage) -> Play:
    """FLUSHALL in the middle."""
    for server, world in _one(stage):
        world.endpoint.weather = "down"  # so that there is something to lose
        yield world
        at = time.monotonic()
        server.ask("FLUSHALL")
        world.endpoint.weather = "fine"
        world.is_fault(at)
        yield time.monotonic()


def out_of_memory(stage: Stage) -> Play:
    """Let the server's memory fill up to maxmemory, with noeviction, while the endpoint is down; then it recovers."""
    for server, world in _one(stage):
        yield world
        world.endpoint.weather = "down"
        at = time.monotonic()
        used = server.info("memory")["used_memory"]
        server.ask("CONFIG", "SET", "maxmemory", used + 300_000)
        before = len(world.told("-"))
        world.until(lambda: len(world.told("-")) > before + 20, "no put is refused")
        world.count("refused while full", len(world.told("-")) - before)
        time.sleep(stage.hold_s)
        world.endpoint.weather = "fine"
        world.is_fault(at)
        yield time.monotonic()


def evicting(stage: Stage) -> Play:
    """Set an evicting policy while all runs (CONFIG SET): it is noticed within a minute, puts are refused until it is gone."""
    for server, world in _one(stage):
        yield world
        at = time.monotonic()
        server.ask("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
        before = len(world.told("-"))
        took_s = world.until(lambda: len(world.told("-")) > before, "nobody notices", 80)
        world.count("noticed within, ms", int(took_s * 1000))
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        world.is_fault(at)
        yield time.monotonic()


# -- clocks


def skewed_machines(stage: Stage) -> Play:
    """Run on machines whose clocks are an hour off, each another way; the server's is a day off."""
    clock = stage.folder / "clock"
    clock.write_text("+86400s")
    server = stage.server(clock=clock)
    try:
        server.start()
        world = stage.make_world(server.url)
        for skew_s in (-3600.0, 3600.0):
            world.start("write", skew_s=skew_s, sender="thread")
            world.start("send", skew_s=-skew_s)
        yield world
        began = time.monotonic()
        time.sleep(stage.hold_s)
        yield began
    finally:
        server.close()


def _stepped(step_s: int) -> Callable[[Stage], Play]:
    def play(stage: Stage) -> Play:
        clock = stage.folder / "clock"
        clock.write_text("+0s")
        for server, world in _one(stage, clock=clock):
            world.endpoint.weather = "slow"
            yield world
            at = time.monotonic()
            before = server.ask("TIME")[0]
            clock.write_text(f"{step_s:+d}s")
            until(
                lambda: abs(int(server.ask("TIME")[0]) - int(before) - step_s) < 120, 5, "the clock does not step"
            )
            time.sleep(stage.hold_s)
            world.is_fault(at)
            world.endpoint.weather = "fine"
            yield time.monotonic()

    return play


# -- the network


def _partition(what: str) -> Callable[[Stage], Play]:
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
            world.is_fault(at)
            world.count("answers that never came", proxy.cut)
            yield time.monotonic()
        finally:
            proxy.close()
            server.close()

    return play


# -- several servers


def _fail_over(replicas: int) -> Callable[[Stage], Play]:
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
            world = _lives(stage.make_world(address.url, replicas=replicas))
            yield world
            at = time.monotonic()
            link.silent = True  # what is put from here on does not reach the replica
            time.sleep(stage.hold_s)
            address.closed = True
            address.cut_all()
            primary.kill()
            link.close()
            replica.ask("REPLICAOF", "NO", "ONE")
            third.replicates(replica.port)
            address.target = replica.port
            address.closed = False
            world.is_fault(at)
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
        world = _lives(stage.make_world(url, replicas=1))
        yield world
        at = time.monotonic()
        primary.kill()
        world.is_fault(at)
        ports = {str(one.port) for one in replicas}
        took_s = world.until(
            lambda: sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1] in ports, "nobody takes over"
        )
        world.count("sentinels needed, ms", int(took_s * 1000))
        world.windows[-1] = (at, time.monotonic())
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
        world = _lives(stage.make_world(url, shards=6), writers=3)
        yield world
        at = time.monotonic()
        servers[1].kill()
        time.sleep(0.2)
        world.flows(10)  # the others go on
        world.count("went on without it, ms", int((time.monotonic() - at) * 1000))
        time.sleep(stage.hold_s)
        servers[1].start()
        world.is_fault(at)
        yield time.monotonic()
    finally:
        for one in servers:
            one.close()


FAULTS: Final[dict[str, Fault]] = {
    "nothing": Fault("none (the control)", "any", nothing, ("acknowledged",)),
    "processes": Fault(
        "kill -9 of applications and senders, at random moments", "any", kill_processes,
        ("twice", "kills with requests in flight"), repeated=True,
    ),
    "sender-stopped": Fault(
        "SIGSTOP of a sender beyond its lease, then SIGCONT", "any", stop_a_sender, ("sent again by who took over",)
    ),
    "server-always": Fault(
        "kill -9 and restart of the server", "`appendfsync always`", _killed_server("always"),
        ("kills of the server",),
        repeated=True,
    ),
    "server-everysec": Fault(
        "kill -9 and restart of the server", "`appendfsync everysec`", _killed_server("everysec"),
        ("kills of the server",),
        repeated=True,
    ),
    "server-none": Fault(
        "kill -9 and restart of the server", "`appendonly no`", _killed_server(""), ("lost", "vanished"), may_lose=True
    ),
    "server-stopped": Fault("SIGSTOP of the server, then SIGCONT", "any", stop_the_server, ("acknowledged",)),
    "failover": Fault(
        "the primary is lost, its replica, which had fallen behind, takes its address", "`replicas=1`", _fail_over(1),
        ("refused",), forgets=True,
    ),
    "failover-unasked": Fault(
        "the primary is lost, its replica, which had fallen behind, takes its address", "`replicas=0`", _fail_over(0),
        ("vanished",), may_lose=True,
    ),
    "sentinel": Fault(
        "kill -9 of the primary, three sentinels promote a replica", "`replicas=1`", sentinel, ("refused",),
        forgets=True,
    ),
    "cluster": Fault(
        "kill -9 and restart of one of a cluster's three nodes", "`appendfsync everysec`", cluster, ("acknowledged",)
    ),
    "refused": Fault("partition: connections are cut and refused", "any", _partition("closed"), ("refused",)),
    "silent": Fault("partition: nothing goes through, nothing is closed", "any", _partition("silent"), ("refused",)),
    "swallowed": Fault(
        "partition: cut after the server did what it was asked", "any", _partition("swallow"),
        ("answers that never came",),
    ),
    "flushall": Fault("`FLUSHALL`", "any", flush_all, ("lost", "vanished"), may_lose=True),
    "skew": Fault("clocks of applications, senders and server an hour and a day apart", "any", skewed_machines, on=("valkey",)),
    "clock-forward": Fault("the server's clock steps an hour forward", "any", _stepped(3600), on=("valkey",)),
    "clock-back": Fault("the server's clock steps an hour back", "any", _stepped(-3600), on=("valkey",)),
    "memory": Fault("the server is full: `maxmemory` with `noeviction`", "any", out_of_memory, ("refused while full",)),
    "evicting": Fault("`CONFIG SET maxmemory-policy allkeys-lru`", "any", evicting, ("noticed within, ms",)),
}  # fmt: skip


def needs(name: str) -> str:
    """Return what is missing for a fault; empty: nothing."""
    if name in ("skew", "clock-forward", "clock-back") and faketime() is None:
        return "libfaketime"
    return ""

