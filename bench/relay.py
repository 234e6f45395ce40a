"""The relay's ingest against a bare application, nginx and the endpoint: ``python -m bench.relay``.

Prints a table; ``--write`` also writes docs/performance-relay.md.  Needs wrk and nginx (Debian: ``apt install wrk
nginx-light``); rows whose server is missing are left out, and said so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.__main__ import shown, versions
from eventpost.queues.journal import inspect

ROOT = Path(__file__).resolve().parent.parent
BASE = "bare uvicorn"
CONNECTIONS = 64
NOWHERE = "http://127.0.0.1:9/v1/events"
EVENT = (
    '{"account_id":"12001","project_id":"12002","revision":"42","client_name":"python-sdk","client_version":"5.7.0",'
    '"anonymize_ip":true,"enrich_decisions":true,"visitors":[{"visitor_id":"visitor-000001","attributes":[{"entity_id":"11",'
    '"key":"plan","type":"custom","value":"pro"}],"snapshots":[{"decisions":[{"campaign_id":"9300001","experiment_id":'
    '"9300002","variation_id":"9300003","is_campaign_holdback":false,"metadata":{"flag_key":"checkout","rule_key":"rule_1",'
    '"rule_type":"experiment","variation_key":"on","enabled":true}}],"events":[{"entity_id":"9300001","timestamp":'
    '1790000000000,"key":"campaign_activated","uuid":"0f9d7a5e-3c2b-4a1d-9e8f-7a6b5c4d3e2f"}]}]}]}'
)
SCRIPT = f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '{EVENT}'\n"
NGINX = """daemon off; worker_processes {workers}; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder}; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }} }}
"""


async def bare(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - ASGI's signature
    """Answer 204."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@dataclass
class Row:
    """One server: how it is started, and what was measured of it, round by round."""

    name: str
    serve: Callable[[str, int], contextlib.AbstractContextManager[list[int]]]
    journal: bool = False
    results: list[dict[str, float]] = field(default_factory=list)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            found += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    return found


def cpu_s(pids: list[int]) -> float:
    """Return the CPU seconds of all threads of some processes, from the scheduler's nanoseconds."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@contextlib.contextmanager
def running(command: list[str], port: int, *, path: str = "/livez") -> Iterator[list[int]]:
    """Run a server until it answers, and yield its processes; ends them all."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as one:
                one.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                if one.recv(100):
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise SystemExit(f"{command[:4]} did not start: {process.communicate()[1]}")
            time.sleep(0.05)
        yield family(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.communicate()


def uvicorn(workers: int) -> Callable[[str, int], Any]:
    """Return how a bare application is served."""
    command = ["uvicorn", "bench.relay:bare", "--http", "httptools", "--loop", "uvloop", "--log-level", "error"]
    command += ["--no-access-log", "--no-server-header", "--lifespan", "off", "--workers", str(workers), "--port"]
    return lambda _, port: running([sys.executable, "-m", *command, str(port)], port)


def nginx(workers: int) -> Callable[[str, int], Any]:
    """Return how nginx is run."""

    def serve(folder: str, port: int) -> Any:
        config = Path(folder) / "nginx.conf"
        config.write_text(NGINX.format(workers=workers, folder=folder, port=port), encoding="utf-8")
        return running(["nginx", "-c", str(config), "-p", folder], port)

    return serve


def endpoint(_: str, port: int) -> Any:
    """Run the collector in its barest form."""
    return running([sys.executable, "-m", "eventpost.testing.collector", "--bare", "--port", str(port)], port)


def relay(durability: str, workers: int, *options: str, sends: bool = False) -> Callable[[str, int], Any]:
    """Return how a relay is run; with ``sends`` beside an endpoint that takes everything."""

    @contextlib.contextmanager
    def serve(folder: str, port: int) -> Iterator[list[int]]:
        with contextlib.ExitStack() as stack:
            url = NOWHERE
            if sends:
                there = free_port()
                stack.enter_context(endpoint(folder, there))
                url = f"http://127.0.0.1:{there}/v1/events"
            command = [sys.executable, "-m", "eventpost.cli", "relay", "--listen", f"127.0.0.1:{port}"]
            command += ["--journal", f"{folder}/journal", "--endpoint", url, "--durability", durability]
            command += ["--workers", str(workers), "--drain-timeout", "0", *options]
            yield stack.enter_context(running(command, port))

    return serve


def rows() -> list[Row]:
    """Return what is measured; the first row is the yardstick."""
    made = [Row(f"{BASE}, 1 worker", uvicorn(1)), Row("relay, os, 1 worker", relay("os", 1), journal=True)]
    made += [Row("relay, os, 1 worker, sending beside", relay("os", 1, sends=True), journal=True)]
    made += [Row("relay, fsync, 1 worker", relay("fsync", 1), journal=True)]
    made += [Row(f"{BASE}, 2 workers", uvicorn(2)), Row("relay, os, 2 workers", relay("os", 2), journal=True)]
    made += [Row("relay, fsync, 2 workers", relay("fsync", 2), journal=True)]
    if shutil.which("nginx"):
        made += [Row("nginx, 1 worker", nginx(1)), Row("nginx, 2 workers", nginx(2))]
    else:
        print("no nginx here: its rows are left out", file=sys.stderr)
    return [*made, Row("the endpoint's stand-in, direct", endpoint)]


def measure(row: Row, seconds: float) -> dict[str, float]:
    """Run one server under wrk once."""
    folder = tempfile.mkdtemp(prefix="eventpost-bench-")
    try:
        port = free_port()
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT, encoding="utf-8")
        url = f"http://127.0.0.1:{port}/v1/events"
        with row.serve(folder, port) as pids:
            wrk(script, url, 1.0)
            before = cpu_s(pids)
            found = wrk(script, url, seconds)
            found["cpu_us"] = (cpu_s(pids) - before) / found["requests"] * 1e6
        if row.journal and inspect.folder_status(f"{folder}/journal").accepted < found["requests"]:
            raise SystemExit(f"{row.name}: the journal holds fewer events than were answered 204")
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wrk(script: Path, url: str, seconds: float) -> dict[str, float]:
    """Post for a while; raises SystemExit for any answer but 2xx."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
    if "Non-2xx" in out:
        raise SystemExit(out)
    requests = int(re.search(r"(\d+) requests in", out).group(1))  # type: ignore[union-attr]  # wrk always says so
    per_s = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))  # type: ignore[union-attr]  # as above
    latency = {share: duration_ms(out, share) for share in ("50%", "99%")}
    return {"requests": requests, "per_s": per_s, "p50_ms": latency["50%"], "p99_ms": latency["99%"]}


def duration_ms(out: str, share: str) -> float:
    """Return one line of wrk's latencies, in milliseconds."""
    number, unit = re.search(rf"{share}\s+([\d.]+)(us|ms|s)\b", out).groups()  # type: ignore[union-attr]  # as above
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def rendered(measured: list[Row]) -> str:
    """Return the table."""
    lines = ["| | requests/s | of bare uvicorn, same workers | p50, ms | p99, ms | CPU us | lowest to highest round |"]
    lines.append("|---|" + "---:|" * 6)
    bases = {row.name.rsplit(", ", 1)[-1]: row for row in measured if row.name.startswith(BASE)}
    for row in measured:
        figures = {key: median(one[key] for one in row.results) for key in row.results[0]}
        base = next((bases[workers] for workers in bases if workers in row.name), None)
        ratio = ""
        if base is not None:
            pairs = zip(row.results, base.results, strict=True)
            ratio = f"{median(mine['per_s'] / yardstick['per_s'] for mine, yardstick in pairs):.0%}"
        rates = [one["per_s"] for one in row.results]
        cells = [shown(figures["per_s"]), ratio, *(shown(figures[key]) for key in ("p50_ms", "p99_ms", "cpu_us"))]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {shown(min(rates))} to {shown(max(rates))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run, after one second to warm up")
    parser.add_argument("--only", default="", help="rows whose name holds this, beside the bare application's")
    parser.add_argument("--write", action="store_true", help="write docs/performance-relay.md")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: apt install wrk")
    measured = [row for row in rows() if options.only in row.name or row.name.startswith(BASE)]
    for number in range(options.rounds):
        for row in measured:
            row.results.append(measure(row, options.seconds))
            last = row.results[-1]
            print(f"{number + 1}/{options.rounds} {row.name}: {last['per_s']:,.0f}/s", file=sys.stderr)
    table = rendered(measured)
    print(table)
    if options.write:
        head = (ROOT / "bench/relay.md").read_text(encoding="utf-8").rstrip()
        text = f"{head}\n\n{table}\n\nMeasured with {versions()}, {os.cpu_count()} cores, {options.rounds} rounds.\n"
        (ROOT / "docs/performance-relay.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
