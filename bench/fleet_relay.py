"""A relay's worker that puts into the queue on a server: what a request costs it, and how many share an entry.

wrk posts one event over and over on 64 connections, as in ``bench.relay``; nothing is sent, so what was stored is still
there to be counted.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.relay import NOWHERE, SCRIPT, cpu_s, free_port, running, wrk

WARM_S = 1.0


def measure(url: str, pid: int, client: Any, seconds: float) -> dict[str, float] | None:
    """Run a relay with one worker under wrk; None where wrk is missing.  ``pid``: the server's, ``client``: to ask it.

    Raises SystemExit if a request was answered with anything but 2xx, or the queue holds less than was answered 204.
    """
    if shutil.which("wrk") is None:
        return None
    with tempfile.TemporaryDirectory(prefix="eventpost-bench-") as folder:
        port = free_port()
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT, encoding="utf-8")
        to = f"http://127.0.0.1:{port}/v1/events"
        command = [sys.executable, "-m", "eventpost.cli", "relay", "--listen", f"127.0.0.1:{port}", "--queue", url]
        command += ["--endpoint", NOWHERE, "--no-send", "--drain-timeout", "0", "--workers", "1"]
        with running(command, port) as pids:
            wrk(script, to, WARM_S)
            stored, entries = counted(client)
            before, server_before = cpu_s(pids), cpu_s([pid])
            found = wrk(script, to, seconds)
            spent, server_spent = cpu_s(pids) - before, cpu_s([pid]) - server_before
            stored_now, entries_now = counted(client)
    events = stored_now - stored
    if events < found["requests"]:
        raise SystemExit(f"the queue took {events:,} events, the relay answered {found['requests']:,} times 204")
    return {
        "per_s": found["per_s"], "p50_ms": found["p50_ms"], "p99_ms": found["p99_ms"],
        "client_us": spent / found["requests"] * 1e6, "server_us": server_spent / events * 1e6,
        "events_per_entry": events / (entries_now - entries), "events": float(events),
    }  # fmt: skip


def counted(client: Any) -> tuple[int, int]:
    """Return the events that the queue has accepted, and the entries that lie in it."""
    sums = list(client.scan_iter(match="{eventpost:*}:sum", count=1000))
    streams = list(client.scan_iter(match="{eventpost:*}:s:*", count=1000))
    return sum(int(client.hget(key, "a") or 0) for key in sums), sum(client.xlen(key) for key in streams)
