"""What a fleet needs for up to a million events a second: ``python -m bench.scale`` prints; ``--write`` writes docs/scale.md.

Takes what an event costs from bench/fleet.json, which ``bench.fleet`` measures, and carries it on by ``scale_model`` and
``scale_run``.  All chance comes from one seed, which is printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from proof.chaos_graph import FOOT, GAP, TOP, block, head, high

from bench.fleet import PAGE, RAW
from bench.fleet_tables import between
from bench.scale_model import Costs, Plan, World, fullest, loads, plan
from bench.scale_run import HOUR_S, Events, Story, tell
from eventpost.relay.commit import GATHER_SHARE

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/scale.svg"
SEED = 20_261_127
RATES = (1e3, 1e4, 1e5, 3e5, 1e6)
SPILL_S = 600.0
"""Of the outage, in the servers' memory; the rest on disks."""
WORLD = World(gather_s=GATHER_SHARE * World().round_trip_s, memory_s=SPILL_S)
PATIENT_S = 0.005
"""A put of a worker that waits for company, or to a server so busy that it answers no sooner."""


def number(value: float) -> str:
    """Return a figure with two significant digits or more, as a person says it."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.1f} {unit}" if value < 10 * size else f"{value / size:,.0f} {unit}"
    return f"{value:,.0f}"


def stored(value: float) -> str:
    """Return bytes."""
    return f"{number(value)}B" if value else "-"


def millions(value: float) -> str:
    """Return events."""
    return f"{value / 1e6:,.0f} million"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def row(name: str, found: Plan) -> list[str]:
    """Return a line of a sizing table."""
    return [
        name, f"{found.relays}" if found.relays else "-", f"{found.events_per_entry:.0f}", f"{found.nodes}", found.bound_by,
        f"{found.skew:.1f}x", f"{found.senders}", stored(found.memory_bytes), stored(found.disk_bytes),
        f"{number(found.wire_bits_s)}bit/s", number(found.trips_s), number(found.requests_s),
    ]  # fmt: skip


HEADS = (
    "relay workers", "events an entry", "servers", "bound by", "fullest server", "senders", "memory", "on disks", "wire",
    "round trips/s", "requests/s",
)  # fmt: skip


def sizes(costs: Costs, seed: int) -> str:
    """Return the sizing table."""
    return table(
        ["events/s", *HEADS],
        [row(f"{rate:,.0f}", plan(rate, costs, WORLD, seed=seed)) for rate in RATES],
    )


def choices(costs: Costs, seed: int) -> str:
    """Return what becomes of a million a second if it is done in other ways."""
    patient = replace(WORLD, gather_s=PATIENT_S)
    in_memory = replace(WORLD, memory_s=WORLD.outage_s)
    ways = [
        ("as above", WORLD, False),
        (f"a put takes {PATIENT_S * 1000:.0f} ms", patient, False),
        ("slots as the hash has them", replace(WORLD, by_hand=False), False),
        ("applications put by themselves", WORLD, True),
        ("the whole outage in memory", in_memory, False),
        ("the same, 192 GB a server", replace(in_memory, node_bytes=192e9), False),
    ]
    return table(
        [f"{RATES[-1]:,.0f} events/s", *HEADS],
        [row(name, plan(RATES[-1], costs, world, seed=seed, direct=direct)) for name, world, direct in ways],
    )


def placing() -> str:
    """Return how evenly parts lie on a cluster's servers."""
    rows = []
    for nodes in (3, 6, 12, 24):
        worlds = [replace(WORLD, by_hand=False, parts_per_node=parts) for parts in (1, 2, 4, 8, 16)]
        even = [fullest(loads([1.0] * (nodes * world.parts_per_node), nodes, world)) for world in worlds]
        rows.append([f"{nodes}", *(f"{one:.1f}x" for one in even)])
    return table(["servers; parts on each", "1", "2", "4", "8", "16"], rows)


def told(story: Story, costs: Costs) -> list[list[str]]:
    """Return what happened, for a table."""
    peak = max(story.queued)
    back = "not in this time" if story.caught_up_s is None else f"{story.caught_up_s / HOUR_S:.1f} h"
    return [
        ["most events waiting on the servers", millions(peak)],
        [
            "most events waiting on disks",
            f"{millions(max(story.spilled))}, {stored(max(story.spilled) * costs.payload)}",
        ],
        ["memory of the fullest server", stored(max(story.memory_fullest))],
        ["busiest server, share of its core", f"{max(story.busy_fullest):.0%}"],
        ["after the endpoint's return, until nothing waits", back],
        ["refused", f"{story.refused:,.0f}"],
        ["offered - delivered - waiting - refused", f"{abs(round(story.missing)):,}"],
    ]


def draw(path: Path, story: Story, events: Events, rate: float) -> None:
    """Draw it."""
    hours = story.at_s
    panels: list[tuple[str, dict[str, Any]]] = [
        ("events/s", {
            "offered": list(zip(hours, story.offered_s, strict=True)),
            "delivered": list(zip(hours, story.delivered_s, strict=True)),
        }),
        ("events waiting, millions", {
            "on servers": [(at, value / 1e6) for at, value in zip(hours, story.queued, strict=True)],
            "on disks": [(at, value / 1e6) for at, value in zip(hours, story.spilled, strict=True)],
        }),
        ("fullest server's memory, GB", {"memory": [(at, value / 1e9) for at, value in zip(hours, story.memory_fullest, strict=True)]}),
        ("busiest server, % of a core", {"busy": [(at, value * 100) for at, value in zip(hours, story.busy_fullest, strict=True)]}),
    ]  # fmt: skip
    title = f"{rate:,.0f} events/s: the endpoint is away for two hours, and a server is lost while its backlog is sent (model)"
    out = head(title, TOP + high(len(panels)) + GAP + FOOT, ["refused"], ["kill -9"])
    out += block(
        TOP, 0.0, events.length_s, panels, [(events.outage_from_s, events.outage_to_s, "refused")],
        [(events.lost_at_s, "kill")], shown=lambda at: f"{at / HOUR_S:.0f} h",
    )  # fmt: skip
    path.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")


def story(costs: Costs, seed: int) -> Story:
    """Let six hours pass over a fleet for the highest rate."""
    return tell(plan(RATES[-1], costs, WORLD, seed=seed), costs, WORLD, Events(), seed=seed)


def texts(costs: Costs, seed: int) -> dict[str, str]:
    """Return the page's tables, by where they stand."""
    heads = [f"{RATES[-1]:,.0f} events/s", f"seed {seed}"]
    return {
        "sizing": sizes(costs, seed),
        "choices": choices(costs, seed),
        "placing": placing(),
        "story": table(heads, told(story(costs, seed), costs)),
    }


def main() -> None:
    """Reckon and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--costs", type=Path, default=RAW, help="what bench.fleet wrote")
    parser.add_argument("--write", action="store_true", help="write docs/scale.md and docs/scale.svg")
    options = parser.parse_args()
    costs = Costs.read(json.loads(options.costs.read_text("utf-8"))["costs"])
    made = texts(costs, options.seed)
    print(f"seed {options.seed}")
    for text in made.values():
        print(f"\n{text}")
    if options.write:
        for mark, text in made.items():
            between(PAGE, mark, text)
        draw(PICTURE, story(costs, options.seed), Events(), RATES[-1])


if __name__ == "__main__":
    main()
