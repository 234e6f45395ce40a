"""The faults of a fleet with real servers and processes: ``python -m proof fleet``.

Applications with the real SDK, senders, Valkey and Redis, killed, stopped, cut off, emptied, filled up and set to other
times, one after the other (``fleet_faults``).  Each ends with everything delivered and counted (``fleet_world``), and
is one row of docs/fleet-faults.md: what was lost, what came twice, how long it took until all was well.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from .fleet_faults import FAULTS, Fault, needs
from .fleet_servers import programs, version
from .fleet_stage import Stage
from .fleet_world import LEASE_S, Row, World
from .kills_round import Processes, ViolationError, processes
from .record import ROOT, Figures

HOLD_S: Final = 4.0
ROUNDS: Final = 15
PAGE: Final = ROOT / "docs" / "fleet-faults.md"
ROWS: Final = ROOT / "proof" / "fleet.json"
BEGIN, END = "<!-- fleet -->", "<!-- /fleet -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say which, on what, and how long."""
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="these faults")
    parser.add_argument("--on", nargs="+", choices=["valkey", "redis"], default=["valkey", "redis"], help="the servers")
    parser.add_argument("--hold-s", type=float, default=HOLD_S, help="how long a fault lasts")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many kills, where their moment matters")
    parser.add_argument("--seed", type=int, help="of what is drawn; the moments are the machine's")


def play(
    name: str, program: str, server: str, parent: Processes, *, hold_s: float, rounds: int, seed: int
) -> Row:  # fmt: skip
    """Play one fault once; raises ViolationError, with what the processes said on stderr."""
    fault = FAULTS[name]
    folder = Path(tempfile.mkdtemp(prefix="eventpost-fleet-"))
    worlds: list[World] = []

    def make_world(url: str, **options: Any) -> World:
        worlds.append(World(parent, folder, url, seed=seed, **options))
        return worlds[-1]

    stage = Stage(program, folder, hold_s, make_world, rounds if fault.repeated else 1)
    steps = fault.play(stage)
    try:
        row = _through(steps, fault, server)
    except (ViolationError, TimeoutError) as error:
        for world in worlds:
            print(world.tail_of_the_log(), file=sys.stderr)
        raise ViolationError(f"{name} on {server}, seed {seed}: {error}") from error
    finally:
        for world in worlds:
            world.close()
        steps.close()  # type: ignore[attr-defined]  # a generator
        shutil.rmtree(folder, ignore_errors=True)
    return row


def _through(steps: Any, fault: Fault, server: str) -> Row:
    world = next(steps)
    if world.endpoint.weather == "down":
        world.until(lambda: len(world.told("+")) > 40, "nothing is acknowledged")
    else:
        world.flows()
    since = next(steps)
    recovery_s = world.recovered(since=since, may_lose=fault.may_lose)
    return world.finish(server, recovery_s, may_lose=fault.may_lose, forgets=fault.forgets)


def check_that_it_hit(row: Row, fault: Fault) -> None:
    """Raise ViolationError if what a fault is about never happened."""
    never = [what for what in fault.hits if not (row.counts.get(what) or vars(row).get(what))]
    if never:
        raise ViolationError(f"there was never: {', '.join(never)}; this tested nothing")


def run(arguments: argparse.Namespace) -> Figures:
    """Play all; raises SystemExit at the first promise that did not hold."""
    here = programs()
    absent = [one for one in arguments.on if one not in here]
    if absent:
        raise SystemExit(f"not here: {', '.join(absent)}")
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed
    total = Row("all")
    with processes("proof.fleet_children") as parent:
        for name in arguments.only:
            lacking = needs(name)
            if lacking:
                raise SystemExit(f"{name} needs {lacking}")
            for server in (one for one in arguments.on if one in FAULTS[name].on):
                began = time.monotonic()
                try:
                    row = play(
                        name, here[server], server, parent, hold_s=arguments.hold_s, rounds=arguments.rounds, seed=seed
                    )
                    check_that_it_hit(row, FAULTS[name])
                except ViolationError as error:
                    again = f"--only {name} --on {server} --seed {seed} --rounds {arguments.rounds}"
                    raise SystemExit(f"{error}\nrepeat it: python -m proof fleet {again}") from error
                print(f"{name} on {server}, {time.monotonic() - began:.0f} s: {row}", file=sys.stderr, flush=True)
                total.add(row)
                if arguments.record:
                    write({f"{name} {server}": vars(row)}, {server: version(here[server])})
    return {
        "faults": len(arguments.only), "servers": " and ".join(arguments.on), "acknowledged": total.acknowledged,
        "lost where nothing may be": 0, "lost elsewhere, all counted": total.lost, "delivered twice": total.twice,
        **{what: number for what, number in total.counts.items() if not what.endswith("ms")},
    }  # fmt: skip


def write(found: dict[str, dict[str, Any]], versions: dict[str, str]) -> None:
    """Keep rows, and put all that are kept as a table into docs/fleet-faults.md."""
    kept: dict[str, dict[str, Any]] = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    kept |= found
    kept["versions"] = {**kept.get("versions", {}), **versions}
    ROWS.write_text(json.dumps(kept, indent=1) + "\n")
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(kept)}{END}{after}")


def table(kept: dict[str, dict[str, Any]]) -> str:
    """Return the rows as a table."""
    lines = [
        "",
        "| fault | with | on | acknowledged | lost | `vanished` | delivered twice | refused | recovery, s | besides |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, fault in FAULTS.items():
        for server in ("valkey", "redis"):
            row = kept.get(f"{name} {server}")
            if row is None:
                continue
            besides = "; ".join(f"{what}: {number:,}" for what, number in row["counts"].items())
            lines.append(
                f"| {fault.title} | {fault.kept} | {server} | {row['acknowledged']:,} | {row['lost']:,} | "
                f"{row['vanished']:,} | {row['twice']:,} | {row['refused']:,} | {row['recovery_s']:.1f} | {besides} |"
            )
    versions = " and ".join(f"{name} {number}" for name, number in sorted(kept.get("versions", {}).items()))
    return "\n".join([*lines, "", f"Leases were {LEASE_S:g} s; the default is 60. Servers: {versions}.", "", ""])
