"""What the measurement of a fleet becomes: costs for the model, tables for the page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import fleet_outage
from bench.__main__ import shown
from bench.fleet_cases import VISITOR
from bench.scale_model import Costs, fitted

ROOT = Path(__file__).resolve().parent.parent
EACH = (1, 10, 100)
OURS = "Eventpost"
RELAY = "relay, 1 worker"
OUTAGE = "outage"
RELAY_US = re.compile(r"^\| relay, os, 1 worker \|(?:[^|]*\|){4} ([\d.]+) \|", re.MULTILINE)


@dataclass
class Row:
    """One measurement: what so many processes put, and what so many take of it afterwards."""

    name: str
    each: int
    count: int
    putting: int = 1
    taking: int = 1
    role: str = "take"
    together: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """What it is called in the raw data."""
        how = "at once" if self.together else "then"
        return f"{self.name}, {self.each} each: {self.putting} put, {how} {self.taking} {self.role}"


def figure(measured: list[Row], key: str, phase_name: str, name: str) -> float:
    """Return a median over the rounds."""
    row = next(one for one in measured if one.key == key)
    return median(one[phase_name][name] for one in row.results)


def costs(measured: list[Row]) -> dict[str, Any]:
    """Return what an event costs, as ``scale_model.Costs`` reads it."""

    def of(each: int, phase_name: str, name: str) -> float:
        return figure(measured, Row(OURS, each, 0).key, phase_name, name)

    found: dict[str, Any] = {
        f"{what}_{side}": {str(each): of(each, what, f"{side}_us") for each in EACH}
        for what in ("put", "take") for side in ("client", "server")
    }  # fmt: skip
    found["memory"] = {str(each): of(each, "put", "memory") for each in EACH}
    for name, parts in (("wire", ("in", "out")), ("trips", ("trips",))):
        found[name] = {str(each): sum(of(each, at, part) for at in ("put", "take") for part in parts) for each in EACH}
    shared = figure(measured, Row(OURS, 100, 0, role="send").key, "take", "client_us")
    alone = figure(measured, Row(f"{OURS}, LogEvents", 100, 0, role="send").key, "take", "client_us")
    found["request_us"] = (alone - shared) / (1 - 1 / 100)
    found["send_us"] = shared - found["take_client"]["100"] - found["request_us"] / 100
    found["payload"] = len(VISITOR)
    of_relay = [one["relay"] for row in measured if row.name == RELAY for one in row.results if one]
    if of_relay:
        put = fitted({each: found["put_client"][str(each)] for each in EACH})
        found["relay_us"] = median(one["client_us"] - put.at(one["events_per_entry"]) for one in of_relay)
    else:  # wrk is missing: what it cost with a journal
        page = (ROOT / "docs/performance-relay.md").read_text("utf-8")
        found["relay_us"] = float(RELAY_US.search(page).group(1))  # type: ignore[union-attr]  # the page has that row
    few, many = (next(row for row in measured if row.name == f"{OURS}, {parts} parts").results for parts in (4, 64))
    for side in ("server_us", "client_us"):
        per_s = [median(one["idle"][side] / one["idle"]["took_s"] for one in results) for results in (few, many)]
        found[f"look_{side}_s"] = max(0.0, (per_s[1] - per_s[0]) / 60)
    return found


def between(page: Path, mark: str, text: str) -> None:
    """Put a text into a page, between ``<!-- MARK: ... -->`` and ``<!-- MARK end -->``."""
    old = page.read_text("utf-8")
    found = re.search(rf"(<!-- {mark}: .*?-->\n).*?(<!-- {mark} end -->)", old, re.DOTALL)
    if found is None:
        raise SystemExit(f"{page.name} has no place for {mark}")
    page.write_text(f"{old[: found.end(1)]}{text}\n{old[found.start(2) :]}", encoding="utf-8")


def per_event(measured: list[Row]) -> str:
    """Return the table of costs: one process puts, then one takes."""
    heads = ("put, events/s", "claim and ack, events/s", "CPU us: client", "server", "round trips", "on the wire, B")
    lines = [f"| | {' | '.join((*heads, 'in memory, B'))} |", "|---|" + "---:|" * 7]
    for one in measured:
        if (one.putting, one.taking, one.role, one.together) != (1, 1, "take", False):
            continue

        def of(name: str, *phases: str) -> list[float]:
            return [figure(measured, one.key, at, name) for at in phases]

        both = ("put", "take")
        cells = [shown(value) for value in of("per_s", *both)]
        cells += [" + ".join(shown(value) for value in of(f"{side}_us", *both)) for side in ("client", "server")]
        cells += [shown(sum(of("trips", *both))), shown(sum(of("in", *both)) + sum(of("out", *both)))]
        cells += [shown(*of("memory", "put"))]
        if one.name.startswith("journal"):
            cells[3:] = ["-"] * 4
        lines.append(f"| {one.name}, {one.each} an entry | {' | '.join(cells)} |")
    return "\n".join(lines)


def looks(measured: list[Row]) -> str:
    """Return what a sender costs that finds nothing."""
    row = next(one for one in measured if one.name == f"{OURS}, 4 parts")
    trips, client, server = (
        median(one["idle"][name] / one["idle"]["took_s"] for one in row.results)
        for name in ("trips", "client_us", "server_us")
    )
    found = costs(measured)
    return (
        f"A sender that finds nothing, with 4 parts: {shown(trips)} round trips a second, and of each second "
        f"{shown(client / 1e3)} ms of its own CPU and {shown(server / 1e3)} ms of the server's; each further part adds "
        f"{shown(found['look_client_us_s'] / 1e3)} and {shown(found['look_server_us_s'] / 1e3)} ms."
    )


def relayed(measured: list[Row]) -> str:
    """Return what a relay's worker does with the queue."""
    results = [one["relay"] for row in measured if row.name == RELAY for one in row.results if one]
    if not results:
        return "No wrk was there to measure a relay with."
    names = ("per_s", "events_per_entry", "p50_ms", "p99_ms", "client_us", "server_us")
    rate, together, p50, p99, client, server = (shown(median(one[name] for one in results)) for name in names)
    return (
        f"A relay with one worker in front of the queue, one event a request, 64 connections: {rate} requests/s, {together} events an "
        f"entry, p50 {p50} ms, p99 {p99} ms, {client} us of CPU a request in the relay and {server} us in the server."
    )


def by_processes(measured: list[Row]) -> str:
    """Return the table of 1, 2, 4, 8 processes."""
    columns = {
        "put": (False, "take", "put"), "claim and ack": (False, "take", "take"), "both at once": (True, "take", "both"),
        "one put before, so many send": (False, "send", "take"),
    }  # fmt: skip
    heads = [f"{name}: events/s | CPU us, clients + server" for name in columns]
    lines = [f"| processes | {' | '.join(heads)} |", "|---|" + "---:|" * (2 * len(columns))]
    for number in (1, 2, 4, 8):
        cells = []
        for together, role, at in columns.values():
            row = next(
                one for one in measured
                if (one.name, one.each, one.taking, one.role, one.together) == (OURS, 100, number, role, together)
            )  # fmt: skip
            rate, client, server = (figure(measured, row.key, at, name) for name in ("per_s", "client_us", "server_us"))
            cells += [shown(rate), f"{shown(client)} + {shown(server)}"]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def checked(measured: list[Row]) -> str:
    """Return a small outage as it was, beside what the model makes of it."""
    results = [one["outage"] for row in measured if row.name == OUTAGE for one in row.results]
    sender_s = figure(measured, Row(OURS, 100, 0, role="send").key, "take", "per_s")
    return fleet_outage.compared(results, Costs.read(costs(measured)), sender_s)
