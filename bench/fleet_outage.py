"""A small outage for real, beside what the model says of it: one process puts at a pace, one sender delivers.

The endpoint's stand-in is ended and started again on its port, so it refuses connections meanwhile.  The sender asks once
a second whether it is back, so up to a second and a half of the time to catch up is waiting.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from bench.relay import free_port
from bench.scale_model import Costs, Plan, World
from bench.scale_run import Events, Story, tell

RATE = 20_000
BEFORE_S, AWAY_S, AFTER_S = 2.0, 10.0, 20.0
LOOK_S = 0.05
Roles = list[tuple[str, dict[str, Any]]]


@contextmanager
def stand_in(port: int) -> Iterator[subprocess.Popen[str]]:
    """Run an endpoint on a port; it answers once this is entered."""
    command = [sys.executable, "-m", "eventpost.testing.collector", "--bare", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def measure(client: Any, started: Callable[[Roles], Callable[[], None]]) -> dict[str, float]:
    """Put and send with the endpoint away for a while.  ``started``: starts processes, returns what ends them."""
    port = free_port()
    to = f"http://127.0.0.1:{port}/v1/events"
    whole_s = BEFORE_S + AWAY_S + AFTER_S
    options = {"url": to, "each": 100, "count": int(RATE * whole_s), "per_s": RATE}
    empty = client.info("memory")["used_memory"]
    samples: list[tuple[float, int, int]] = []
    back = 0.0
    with ExitStack() as stack:
        there = stack.enter_context(stand_in(port))
        stack.callback(started([("put", options), ("send", {**options, "quiet_s": whole_s, "breaker_max_s": 1.0})]))
        began = time.monotonic()
        while (now := time.monotonic() - began) < whole_s:
            if there.poll() is None and now >= BEFORE_S and not back:
                there.kill()
                there.wait(10)
            if not back and now >= BEFORE_S + AWAY_S:
                stack.enter_context(stand_in(port))
                back = time.monotonic() - began
            samples.append((now, waiting(client), client.info("memory")["used_memory"] - empty))
            if back and samples[-1][1] < RATE * LOOK_S * 4:
                break
            time.sleep(LOOK_S)
    peak = max(samples, key=lambda one: one[1])
    first = max(back, peak[0])  # the sender takes it up again
    return {
        "queued": peak[1], "memory": max(one[2] for one in samples), "caught_up_s": samples[-1][0] - back,
        "idle_s": first - back, "per_s": (peak[1] + RATE * (samples[-1][0] - first)) / (samples[-1][0] - first),
        "away_s": back - BEFORE_S,
    }  # fmt: skip


def waiting(client: Any) -> int:
    """Return how many events wait or are in flight."""
    sums = [client.hmget(f"{{eventpost:{part}}}:sum", "a", "d") for part in range(4)]
    return sum(int(accepted or 0) - int(delivered or 0) for accepted, delivered in sums)


def modelled(costs: Costs, sender_s: float, away_s: float) -> Story:
    """Return what the model makes of it, with a sender that delivers so many a second."""
    plan = Plan(
        rate=RATE, events_per_entry=100.0, events_per_request=100.0, relays=1, senders=1, nodes=1, skew=1.0, bound_by="CPU",
        memory_bytes=0.0, disk_bytes=0.0, wire_bits_s=0.0, trips_s=0.0,
    )  # fmt: skip
    world = World(outage_s=away_s, catch_up_s=away_s / max(0.1, sender_s / RATE - 1.0))
    events = Events(BEFORE_S, BEFORE_S + away_s, 1e9, 0, BEFORE_S + 12.0 * away_s, LOOK_S)
    return tell(plan, costs, world, events, seed=1)


def compared(results: list[dict[str, float]], costs: Costs, sender_s: float) -> str:
    """Return the table: measured, medians of the rounds, beside the model."""
    seen = {name: median(one[name] for one in results) for name in results[0]}
    story = modelled(costs, sender_s, seen["away_s"])
    assert story.caught_up_s is not None
    rows = [
        ("most events waiting", f"{seen['queued']:,.0f}", f"{max(story.queued):,.0f}"),
        ("most memory, MB", f"{seen['memory'] / 1e6:,.0f}", f"{max(story.memory_fullest) / 1e6:,.0f}"),
        ("until the endpoint's return was noticed, s", f"{seen['idle_s']:.1f}", "0"),
        ("and then until all was sent, s", f"{seen['caught_up_s'] - seen['idle_s']:.1f}", f"{story.caught_up_s:.1f}"),
        ("the sender's rate meanwhile, events/s", f"{seen['per_s']:,.0f}", f"{sender_s:,.0f}"),
    ]
    head = f"| {RATE:,} events/s, {seen['away_s']:.1f} s without the endpoint | measured | model |"
    return "\n".join([head, "|---|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows)])
