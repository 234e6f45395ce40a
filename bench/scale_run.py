"""Six hours of a fleet, second by second, as a fluid: what waits where while the endpoint is away and a server is lost.

Each server has a budget of CPU; what comes in is served first, the rest is for claims.  Where a server is away, full, or
too busy, puts go to their process's own disk if there is a spill, and are refused and counted if not; what is on the
disks flows back in order, so it goes before what comes then.  A process whose server is lost puts into
another part from then on.  At every moment ``offered = delivered + queued + spilled + refused``; what replication had not yet
copied when a server was lost is not part of the model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from .scale_model import FLOW_EVENTS, Costs, Plan, World, loads, processes

HOUR_S = 3600.0
NOISE = 0.05
"""Of what arrives in a step at one server; its standard deviation, as a share."""


@dataclass(frozen=True, slots=True)
class Events:
    """What happens when, in seconds.  ``lost``: the server of that number, until a replica has taken over."""

    outage_from_s: float = HOUR_S
    outage_to_s: float = 3 * HOUR_S
    lost_at_s: float = 3.5 * HOUR_S
    lost: int = 0
    length_s: float = 6 * HOUR_S
    step_s: float = 4.0


@dataclass(slots=True)
class Node:
    """One server's part of the fleet."""

    rate: float
    queued: float = 0.0
    spilled: float = 0.0
    left_us: float = 0.0
    used_us: float = 0.0


@dataclass(slots=True)
class Story:
    """What was seen, step by step; ``peak_...`` over all steps."""

    seed: int
    at_s: list[float] = field(default_factory=list)
    offered_s: list[float] = field(default_factory=list)
    delivered_s: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    spilled: list[float] = field(default_factory=list)
    memory_fullest: list[float] = field(default_factory=list)
    busy_fullest: list[float] = field(default_factory=list)
    offered: float = 0.0
    delivered: float = 0.0
    refused: float = 0.0
    caught_up_s: float | None = None
    """Seconds from the endpoint's return until no more waits than before it went; None: not in this time."""

    @property
    def missing(self) -> float:
        """Events that are in no place: zero, but for rounding."""
        return self.offered - self.delivered - self.refused - self.queued[-1] - self.spilled[-1]


def tell(
    plan: Plan, costs: Costs, world: World, events: Events, *, seed: int, node_bytes: float | None = None,
    spill: bool = True, direct: bool = False,
) -> Story:  # fmt: skip
    """Let the time pass over a fleet that was planned so.  ``node_bytes``: the bound of each server, if not the plan's."""
    chance = random.Random(seed)
    bound = (world.node_bytes if node_bytes is None else node_bytes) / costs.memory.at(plan.events_per_entry)
    rates = processes(plan.rate, world, seed) if direct else [plan.rate / plan.relays] * plan.relays
    nodes = [Node(rate) for rate in loads(rates, plan.nodes, world)]
    moved = loads(rates, plan.nodes, world, lost=events.lost)
    put_us = costs.put_server.at(plan.events_per_entry)
    flow_us = costs.put_server.at(max(plan.events_per_entry, FLOW_EVENTS))
    take_us = costs.take_server.at(plan.events_per_entry)
    capacity = plan.rate * world.surge
    story = Story(seed)
    step = 0
    while (now := step * events.step_s) < events.length_s:
        down = events.lost if events.lost_at_s <= now < events.lost_at_s + world.failover_s else None
        if down is not None:
            for node, rate in zip(nodes, moved, strict=True):
                node.rate = rate
        arrive(nodes, down, events.step_s, chance, story, put_us=put_us, flow_us=flow_us, bound=bound, spill=spill)
        away = events.outage_from_s <= now < events.outage_to_s
        out = 0.0 if away else take(nodes, down, capacity * events.step_s, take_us)
        story.delivered += out
        note(story, nodes, now, out, events, costs.memory.at(plan.events_per_entry))
        step += 1
    return story


def arrive(
    nodes: Sequence[Node], down: int | None, step_s: float, chance: random.Random, story: Story, *, put_us: float, flow_us: float,
    bound: float, spill: bool,
) -> None:  # fmt: skip
    """Let a step's events come in, each to its server, to the others' if that is lost, to a disk, or nowhere."""
    offered = 0.0
    for number, node in enumerate(nodes):
        node.left_us = 0.0 if number == down else 1e6 * step_s
        node.used_us = 0.0
        fresh = node.rate * step_s * max(0.0, chance.gauss(1.0, NOISE))
        offered += fresh
        wants = node.spilled + fresh
        each_us = flow_us if node.spilled else put_us  # what is new goes behind what is on the disks
        taken = min(wants, node.left_us / each_us, max(0.0, bound - node.queued))
        node.queued += taken
        node.left_us -= taken * each_us
        node.used_us += taken * each_us
        node.spilled = wants - taken
        if not spill:
            story.refused += node.spilled
            node.spilled = 0.0
    story.offered += offered
    story.at_s.append(0.0)
    story.offered_s.append(offered / step_s)


def take(nodes: Sequence[Node], down: int | None, capacity: float, take_us: float) -> float:
    """Deliver what senders and servers can in a step: senders ask all parts, so what they can is shared by what waits."""
    wanted = [0.0 if number == down else min(node.queued, node.left_us / take_us) for number, node in enumerate(nodes)]
    whole = sum(wanted)
    share = min(1.0, capacity / whole) if whole else 0.0
    for node, want in zip(nodes, wanted, strict=True):
        node.queued -= want * share
        node.used_us += want * share * take_us
    return whole * share


def note(story: Story, nodes: Sequence[Node], now: float, out: float, events: Events, memory: float) -> None:
    """Write down a step."""
    story.at_s[-1] = now
    story.delivered_s.append(out / events.step_s)
    story.queued.append(sum(node.queued for node in nodes))
    story.spilled.append(sum(node.spilled for node in nodes))
    story.memory_fullest.append(max(node.queued for node in nodes) * memory)
    story.busy_fullest.append(max(node.used_us for node in nodes) / (1e6 * events.step_s))
    if now < events.outage_to_s or story.caught_up_s is not None:
        return
    if story.queued[-1] + story.spilled[-1] <= 2 * story.offered_s[-1] * events.step_s:
        story.caught_up_s = now - events.outage_to_s
