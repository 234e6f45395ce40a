"""What a fleet needs, from what one event costs: pure arithmetic; ``scale.py`` shows it, ``scale_run.py`` lets time pass.

A cost that is paid for an entry and for each event in it is a ``Line``: at ``n`` events an entry it is ``event + entry /
n`` for each.  What is not measured is an assumption, and stands in ``World`` with its reason.

How many events an entry has is no setting: while one round trip of a relay's worker is out, what arrives waits and is
the next entry (group commit), so ``n`` is what arrives in a round trip.  How many events a request has follows from how
projects share the traffic: only events of one project (and revision) may travel together, within ``linger_s``.
"""

from __future__ import annotations

import binascii
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

SLOTS = 16_384
"""Of a Redis Cluster; a key's is the CRC-16 of what stands in its braces."""
ENTRY_EVENTS_MAX = 1024
BATCH_EVENTS_MAX = 100
SPREAD = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""How many times the relay workers that the work needs are tried."""
NODES_MAX = 1000
FLOW_EVENTS = 64
"""In an entry of what flows back from a disk, at least: the first step's."""
LINES = ("put_client", "put_server", "take_client", "take_server", "memory", "wire", "trips")
PLAIN = ("payload", "send_us", "request_us", "relay_us")


@dataclass(frozen=True, slots=True)
class Line:
    """A cost per event: ``event`` for itself, and its share of ``entry``."""

    event: float
    entry: float

    def at(self, events: float) -> float:
        """Return the cost of one event where an entry has so many."""
        return self.event + self.entry / events


def fitted(points: Mapping[int, float]) -> Line:
    """Return the line through costs measured at some numbers of events an entry: least squares of the relative error."""
    weights = {n: 1.0 / cost**2 for n, cost in points.items()}
    whole = sum(weights.values())
    x = sum(weight / n for n, weight in weights.items()) / whole
    y = sum(weight * points[n] for n, weight in weights.items()) / whole
    square = sum(weight * (1 / n - x) ** 2 for n, weight in weights.items())
    slope = sum(weight * (1 / n - x) * (points[n] - y) for n, weight in weights.items()) / square if square else 0.0
    entry = min(max(0.0, slope), y / x)
    return Line(y - entry * x, entry)


@dataclass(frozen=True, slots=True)
class Costs:
    """What one event costs: CPU in microseconds, memory and wire in bytes, ``trips`` to the server and back.

    ``put`` is the door's side, ``take`` claim and ack; memory, wire and trips are of both.  ``payload`` is an event's own
    bytes, ``send_us`` what the sender, its queue left out, spends on an event in a request of 100, ``request_us`` on a
    request, and ``relay_us`` what a relay spends on a request with one event.
    """

    put_client: Line
    put_server: Line
    take_client: Line
    take_server: Line
    memory: Line
    wire: Line
    trips: Line
    payload: float
    send_us: float
    request_us: float
    relay_us: float

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Costs:
        """Return costs as ``bench.fleet`` writes them: by events an entry, or plain numbers."""
        lines = {name: fitted({int(n): float(cost) for n, cost in found[name].items()}) for name in LINES}
        return cls(**lines, **{name: float(found[name]) for name in PLAIN})


@dataclass(frozen=True, slots=True)
class World:
    """What is assumed.

    ``busy_max``: the share of a core that is planned for; the rest is for peaks within a second and for neighbours.
    ``round_trip_s``: between machines of one place, what the server does included.  ``gather_s``: how
    long a relay's worker waits for company before it puts.  ``node_bytes``: ``maxmemory`` of one server; its machine has half
    as much again, since a rewrite of the log copies pages that change meanwhile.  ``outage_s``: how long the endpoint
    is away.  ``memory_s``: how much of that the servers hold in memory; the rest is on the disks of who puts.
    ``catch_up_s``: how soon after it all is sent.  ``projects`` share the
    traffic by Zipf's law with ``exponent`` (1.1: the largest of 1,000 has 17 %).  ``process_events_s_max``: what one
    process of an application makes.  ``parts_per_node``: how many parts of the queue lie on one server.
    ``by_hand``: slots were moved so that parts lie on servers in turn; False: where the hash puts them.  ``failover_s``: until a replica has taken over (``cluster-node-timeout`` is 15 s by default, and the vote follows).
    """

    busy_max: float = 0.6
    round_trip_s: float = 0.0005
    gather_s: float = 0.0
    node_bytes: float = 48e9
    outage_s: float = 7200.0
    memory_s: float = 7200.0
    catch_up_s: float = 7200.0
    projects: int = 1000
    exponent: float = 1.1
    process_events_s_max: float = 200.0
    parts_per_node: int = 8
    by_hand: bool = True
    linger_s: float = 1.0
    failover_s: float = 16.0

    @property
    def surge(self) -> float:
        """How many times the traffic senders have to deliver, to send the backlog and what comes meanwhile."""
        return 1.0 + self.outage_s / self.catch_up_s

    def nodes_of_parts(self, nodes: int) -> list[int]:
        """Return on which server each part lies: slots lie on servers in equal ranges, unless they were moved."""
        parts = range(nodes * self.parts_per_node)
        return [part % nodes if self.by_hand else slot("eventpost", part) * nodes // SLOTS for part in parts]

    def shares(self) -> list[float]:
        """Return each project's share of the traffic, the largest first."""
        weights = [1.0 / rank**self.exponent for rank in range(1, self.projects + 1)]
        whole = sum(weights)
        return [weight / whole for weight in weights]


def slot(name: str, part: int) -> int:
    """Return the slot of a part's keys in a Redis Cluster."""
    return binascii.crc_hqx(f"{name}:{part}".encode(), 0) % SLOTS


def loads(rates: Sequence[float], nodes: int, world: World, *, lost: int | None = None) -> list[float]:
    """Return what each node gets of processes' rates, whose homes are dealt in turn.

    ``lost``: a node that is away; who had a home there puts into any part that is elsewhere.
    """
    of_part = world.nodes_of_parts(nodes)
    found = [0.0] * nodes
    moved = 0.0
    for number, rate in enumerate(rates):
        node = of_part[number % len(of_part)]
        if node == lost:
            moved += rate
        else:
            found[node] += rate
    there = [node for node in of_part if node != lost]
    for node in there:
        found[node] += moved / len(there)
    return found


def processes(rate: float, world: World, seed: int) -> list[float]:
    """Return the rates of the processes of an application's fleet, in the order in which they come: chance, by seed."""
    made = []
    for share in world.shares():
        count = ceil(rate * share / world.process_events_s_max)
        made += [rate * share / count] * count
    random.Random(seed).shuffle(made)
    return made


def fullest(found: Sequence[float]) -> float:
    """Return how many times the mean the largest is."""
    whole = sum(found)
    return max(found) * len(found) / whole if whole else 1.0


def events_per_request(rate: float, world: World) -> float:
    """Return how many events share a request where one sender delivers so many a second.

    The first of a project waits ``linger_s`` for company; a request goes earlier when it is full.
    """
    requests = 0.0
    for share in world.shares():
        its = rate * share
        requests += its / min(BATCH_EVENTS_MAX, 1.0 + its * world.linger_s)
    return min(float(BATCH_EVENTS_MAX), rate / requests) if requests else 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What so many events a second need.  ``skew``: the fullest server's load, as a multiple of the mean."""

    rate: float
    events_per_entry: float
    events_per_request: float
    relays: int
    senders: int
    nodes: int
    skew: float
    bound_by: str
    memory_bytes: float
    disk_bytes: float
    wire_bits_s: float
    trips_s: float

    @property
    def requests_s(self) -> float:
        """Requests a second at the endpoint while the senders catch up."""
        return self.rate / self.events_per_request


def group(rate: float, least: int, costs: Costs, world: World) -> tuple[int, float]:
    """Return how many relay workers, at least ``least``, and how many events an entry of theirs has."""
    events, workers = 1.0, least
    for _ in range(20):  # each needs the other; settles in a few rounds
        busy = rate * (costs.relay_us + costs.put_client.at(events)) / 1e6
        workers = max(least, ceil(busy / world.busy_max))
        events = min(ENTRY_EVENTS_MAX, max(1.0, rate / workers * (world.round_trip_s + world.gather_s)))
    return workers, events


def senders(rate: float, events: float, costs: Costs, world: World) -> tuple[int, float]:
    """Return how many senders, and how many events a request of theirs has while they catch up."""
    number, together = 2, 1.0
    for _ in range(20):
        each_us = costs.take_client.at(events) + costs.send_us + costs.request_us / together
        number = max(2, ceil(rate * world.surge * each_us / 1e6 / world.busy_max))
        together = events_per_request(rate * world.surge / number, world)
    return number, together


def plan(rate: float, costs: Costs, world: World, *, seed: int, direct: bool = False) -> Plan:
    """Return what so many events a second need: of all numbers of relay workers that serve, the one with fewest servers.

    More workers than the work needs spread over more servers, but put fewer events into an entry.  ``direct``:
    applications put by themselves, one event an entry, and there are no relays.
    """
    if direct:
        return _plan(rate, processes(rate, world, seed), 0, 1.0, costs, world)
    least, _ = group(rate, 2, costs, world)
    found = []
    for share in SPREAD:
        workers, events = group(rate, ceil(least * share), costs, world)
        found.append(_plan(rate, [rate / workers] * workers, workers, events, costs, world))
    return min(found, key=lambda one: (one.nodes, one.relays))


def busiest_us(events: float, costs: Costs, world: World) -> float:
    """Return what servers spend on the traffic of an event's time, while it is most: when all is caught up with.

    What was on disks comes in larger entries, and what is new meanwhile goes behind it.
    """
    fresh = costs.put_server.at(events) + world.surge * costs.take_server.at(events)
    if world.memory_s >= world.outage_s:
        return fresh
    moved = max(events, FLOW_EVENTS)
    return max(fresh, world.surge * (costs.put_server.at(moved) + costs.take_server.at(moved)))


def _plan(rate: float, rates: Sequence[float], workers: int, events: float, costs: Costs, world: World) -> Plan:
    """Return what is needed where processes put at these rates; the fullest server decides how many servers."""
    kept_s = min(world.memory_s, world.outage_s)
    busy = rate * busiest_us(events, costs, world) / 1e6
    cpu, memory = busy / world.busy_max, rate * kept_s * costs.memory.at(events) / world.node_bytes
    nodes = ceil(max(cpu, memory))
    while True:
        skew = fullest(loads(rates, nodes, world))
        if max(cpu, memory) * skew <= nodes or nodes > NODES_MAX:
            break
        nodes += max(1, nodes // 50)
    number, together = senders(rate, events, costs, world)
    return Plan(
        rate=rate,
        events_per_entry=events,
        events_per_request=together,
        relays=workers,
        senders=number,
        nodes=nodes,
        skew=skew,
        bound_by="CPU" if cpu > memory else "memory",
        memory_bytes=rate * kept_s * costs.memory.at(events),
        disk_bytes=rate * (world.outage_s - kept_s) * costs.payload,
        wire_bits_s=rate * costs.wire.at(events) * 8,
        trips_s=rate * costs.trips.at(events),
    )
