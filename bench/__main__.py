"""``make bench``: run the tables, write docs/performance.md and bench/results.json.

``--quick`` shrinks the counts, ``--only`` picks a table, ``--rounds`` sets the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("eventpost", "optimizely-sdk", "pycurl", "orjson", "urllib3", "uvloop", "httptools")


@dataclass
class Row:
    """One line of a table: what it is called, which case it is, and its options."""

    label: str
    case: str
    options: dict[str, Any]


@dataclass
class Table:
    """Cases that are compared with each other; the first row is the yardstick of the ratios in ``columns[0]``."""

    key: str
    title: str
    columns: dict[str, str]
    rows: list[Row]
    note: str = ""
    bound: str = ""
    """The row that nothing can beat: each row's first column is also shown as a share of it, round by round."""
    rounds: int = 5
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def tables(scale: float) -> list[Table]:
    """Return what is measured; ``scale`` shrinks the counts."""
    many = max(500, int(20_000 * scale))
    burst = {"count": many}
    throughput = {
        "per_s": "events/s",
        "put_per_s": "taken/s",
        "lost": "lost",
        "cpu_s": "CPU s",
        "p99_us": "p99 of track(), us",
    }
    costs = {"p50_us": "median, us", "mean_us": "mean, us", "p99_us": "p99, us"}
    return [
        Table(
            "track", f"{many:,} track() in a tight loop, then flush(), until the collector has them", throughput,
            [
                Row("official, batch 1", "track_official", {"batch": 1, **burst}),
                Row("official, batch 10", "track_official", {"batch": 10, **burst}),
                Row("official, batch 100", "track_official", {"batch": 100, **burst}),
                Row("ours, memory", "track_ours", {"kind": "memory", **burst}),
                Row("ours, journal os", "track_ours", {"kind": "os", **burst}),
                Row("ours, journal os, `eventpost send` beside", "track_ours", {"kind": "beside", **burst}),
                Row("ours, journal fsync", "track_ours", {"kind": "fsync", **burst}),
                Row("the SDK's own floor (nothing is sent)", "track_floor", burst),
            ],
            "The official rows count what arrived; what is lost was never sent.",
            bound="the SDK's own floor (nothing is sent)",
        ),
        Table(
            "cost", "cost of one process() call: what a dispatcher adds to a track()", costs,
            [
                Row("official, alone", "cost", {"kind": "official", "running": False, "count": 900}),
                Row("ours, memory, alone", "cost", {"kind": "memory", "running": False, **burst}),
                Row("ours, journal os, alone", "cost", {"kind": "os", "running": False, **burst}),
                Row("official, its thread running", "cost", {"kind": "official", "running": True, **burst}),
                Row("ours, memory, sender running", "cost", {"kind": "memory", "running": True, **burst}),
                Row("ours, journal os, sender running", "cost", {"kind": "os", "running": True, **burst}),
            ],
            "The official processor alone takes no more than its queue holds (1,000).",
        ),
        Table(
            "solo", "LogEvent by LogEvent, nothing shared, one process", {"per_s": "POST/s", "lost": "lost", "cpu_s": "CPU s"},
            [
                Row("official", "log_events", {"kind": "official", "count": max(50, int(1000 * scale)), "delay_s": 0}),
                Row("ours, memory", "log_events", {"kind": "memory", "delay_s": 0, **burst}),
                Row("ours, journal os", "log_events", {"kind": "os", "delay_s": 0, **burst}),
            ],
        ),
        Table(
            "slow", "the same against an endpoint that answers after 50 ms", {"per_s": "POST/s", "lost": "lost"},
            [
                Row("official", "log_events", {"kind": "official", "count": max(20, int(60 * scale)), "delay_s": 0.05}),
                Row("ours, memory", "log_events", {"kind": "memory", "delay_s": 0.05, "count": many}),
            ],
            rounds=3,
        ),
        Table(
            "put", "one durable put of 1 KB (os)", {"p50_us": "median, us", "mean_us": "mean, us", "p99_us": "p99, us", "max_us": "max, us"},
            [
                Row("bare append (os.write)", "put", {"busy": False, "bare": True, "count": many}),
                Row("ours", "put", {"busy": False, "bare": False, "count": many}),
                Row("bare append beside a CPU-bound thread", "put", {"busy": True, "bare": True, "count": max(200, many // 20)}),
                Row("ours beside a CPU-bound thread", "put", {"busy": True, "bare": False, "count": many}),
            ],
        ),
        Table(
            "processes", "4 processes putting into one folder at once", {"per_s": "puts/s in all", "p99_us": "p99, us", "max_us": "max, us"},
            [
                Row("bare appends", "put_processes", {"processes": 4, "bare": True, "count": many * 2}),
                Row("ours", "put_processes", {"processes": 4, "bare": False, "count": many * 2}),
            ],
        ),
        Table(
            "fsync", "durable put (fsync), 16 threads", {"per_s": "puts/s", "p50_us": "median, us", "p99_us": "p99, us"},
            [Row("ours", "put_fsync", {"threads": 16, "count": max(50, int(1000 * scale))})],
        ),
        Table(
            "drain", "draining 1,000,000 queued events at 100 per request", {"per_s": "events/s", "lost": "lost", "memory_mb": "memory, MB"},
            [
                Row("bare pycurl, bodies made before", "drain", {"kind": "bound", "count": max(20_000, int(1_000_000 * scale))}),
                Row("ours", "drain", {"kind": "ours", "count": max(20_000, int(1_000_000 * scale))}),
            ],
            rounds=3,
            note="Memory is what the process grew by while it sent: the transport, and what was in flight. With 100,000 events queued it is as much.",
        ),
        Table(
            "import", "import", {"ms": "ms"},
            [Row("the SDK", "import_time", {"what": "sdk"}), Row("ours, on top", "import_time", {"what": "ours"})],
        ),
    ]  # fmt: skip


def measure(row: Row) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, "-m", "bench.cases", row.case, json.dumps(row.options)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT, check=False)
    if out.returncode:
        raise SystemExit(f"{row.label} failed:\n{out.stderr}")
    result: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return result


def shown(value: float) -> str:
    """Print a figure with three significant digits, or whole thousands."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def rendered(table: Table) -> str:
    """Return a table of medians, with the ratio of its first column to its first row."""
    first = next(iter(table.columns))
    lines = [f"## {table.title}", ""]
    heads = [*table.columns.values(), f"{table.columns[first]}: ratio, lowest to highest round"]
    if table.bound:
        heads.append(f"of {table.bound}, median of the rounds")
    lines += [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    base = median(one[first] for one in table.results[table.rows[0].label])
    for row in table.rows:
        results = table.results[row.label]
        cells = [shown(median(one[key] for one in results)) if key in results[0] else "" for key in table.columns]
        values = [one[first] for one in results]
        spread = f"{median(values) / base:.2f}x, {shown(min(values))} to {shown(max(values))}"
        cells.append(spread)
        if table.bound:
            bounds = [one[first] for one in table.results[table.bound]]
            cells.append(f"{median(value / bound for value, bound in zip(values, bounds, strict=True)):.2f}")
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", table.note, ""])


def versions(packages: tuple[str, ...] = PACKAGES) -> str:
    """Return what was measured with what."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {', '.join(found)}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the counts, one round, nothing written")
    parser.add_argument("--only", help="one table, by its key; nothing written")
    parser.add_argument("--rounds", type=int, help="rounds of each table")
    arguments = parser.parse_args()
    chosen = [one for one in tables(0.1 if arguments.quick else 1.0) if arguments.only in (None, one.key)]
    for table in chosen:
        rounds = arguments.rounds or (1 if arguments.quick else table.rounds)
        for number in range(rounds):
            for row in table.rows:
                began = time.monotonic()
                table.results.setdefault(row.label, []).append(measure(row))
                print(
                    f"{table.key} {number + 1}/{rounds}: {row.label} ({time.monotonic() - began:.1f} s)",
                    file=sys.stderr,
                )
        print(rendered(table))
    if arguments.quick or arguments.only:
        return
    raw = {table.key: table.results for table in chosen}
    (ROOT / "bench/results.json").write_text(
        json.dumps({"versions": versions(), "raw": raw}, indent=1) + "\n", encoding="utf-8"
    )
    intro = (ROOT / "bench/intro.md").read_text(encoding="utf-8")
    text = [intro.rstrip(), "", f"Measured with {versions()}, 2 cores.", "", *(rendered(table) for table in chosen)]
    (ROOT / "docs/performance.md").write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
