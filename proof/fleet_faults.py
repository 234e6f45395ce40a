"""The faults of a fleet, one row each: what is done, with which durability, and whether anything may be lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from .fleet_one import (
    evicting,
    flush_all,
    killed_server,
    out_of_memory,
    skewed_machines,
    stepped,
    stop_the_server,
)
from .fleet_processes import kill_processes, kill_relays, nothing, one_name, stop_a_sender
from .fleet_servers import faketime
from .fleet_several import cluster, fail_over, partition, sentinel
from .fleet_stage import Play, Stage


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


FAULTS: Final[dict[str, Fault]] = {
    "nothing": Fault("none (the control)", "any", nothing, ("acknowledged",)),
    "processes": Fault(
        "kill -9 of applications and senders, at random moments", "any", kill_processes,
        ("twice", "kills with requests in flight"), repeated=True,
    ),
    "relays": Fault(
        "kill -9 of relays and of their workers, at random moments", "any", kill_relays, ("kills of relays",),
        repeated=True,
    ),
    "sender-stopped": Fault(
        "SIGSTOP of a sender beyond its lease, then SIGCONT", "any", stop_a_sender, ("sent again by who took over",)
    ),
    "one-name": Fault(
        "a consumer's name is used twice: six processes with one", "any", one_name, ("processes that were told",)
    ),
    "server-always": Fault(
        "kill -9 and restart of the server", "`appendfsync always`", killed_server("always"),
        ("kills of the server",),
        repeated=True,
    ),
    "server-everysec": Fault(
        "kill -9 and restart of the server", "`appendfsync everysec`", killed_server("everysec"),
        ("kills of the server",),
        may_lose=True,
        repeated=True,
    ),
    "server-none": Fault(
        "kill -9 and restart of the server", "`appendonly no`", killed_server(""), ("lost", "vanished"), may_lose=True
    ),
    "server-stopped": Fault("SIGSTOP of the server, then SIGCONT", "any", stop_the_server, ("acknowledged",)),
    "failover": Fault(
        "the primary is lost, its replica, which had fallen behind, takes its address", "`replicas=1`", fail_over(1),
        ("refused",), forgets=True,
    ),
    "failover-unasked": Fault(
        "the primary is lost, its replica, which had fallen behind, takes its address", "`replicas=0`", fail_over(0),
        ("lost", "vanished"), may_lose=True,
    ),
    "sentinel": Fault(
        "kill -9 of the primary, three sentinels promote a replica", "`replicas=1`", sentinel, ("refused",),
        forgets=True,
    ),
    "cluster": Fault(
        "kill -9 and restart of one of a cluster's three nodes", "`appendfsync everysec`", cluster, ("acknowledged",)
    ),
    "refused": Fault("partition: connections are cut and refused", "any", partition("closed"), ("refused",)),
    "silent": Fault("partition: nothing goes through, nothing is closed", "any", partition("silent"), ("refused",)),
    "swallowed": Fault(
        "partition: cut after the server did what it was asked", "any", partition("swallow"),
        ("answers that never came",),
    ),
    "flushall": Fault("`FLUSHALL`", "any", flush_all, ("lost", "vanished"), may_lose=True),
    "skew": Fault("clocks of all machines an hour and a day apart", "any", skewed_machines, on=("valkey",)),
    "clock-forward": Fault("the server's clock steps an hour forward", "any", stepped(3600), on=("valkey",)),
    "clock-back": Fault("the server's clock steps an hour back", "any", stepped(-3600), on=("valkey",)),
    "memory": Fault("the server is full: `maxmemory` with `noeviction`", "any", out_of_memory, ("refused while full",)),
    "evicting": Fault("`CONFIG SET maxmemory-policy allkeys-lru`", "any", evicting, ("noticed within, ms",)),
}  # fmt: skip


def needs(name: str) -> str:
    """Return what is missing for a fault; empty: nothing."""
    if name in ("skew", "clock-forward", "clock-back") and faketime() is None:
        return "libfaketime"
    if name == "relays" and not (find_spec("eventpost.queues.place") and find_spec("uvicorn")):
        return "a relay on the shared queue"
    return ""
