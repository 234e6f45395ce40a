"""Harm that is done to a fleet's only server: killed, stopped, emptied, filled up, set to evict, set to other times."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from .fleet_servers import until
from .fleet_stage import Play, Stage, one_server
from .fleet_world import BACKOFF_S


def killed_server(appendfsync: str) -> Callable[[Stage], Play]:
    """Return: kill -9 the server and start it again; without a file where ``appendfsync`` is empty."""

    def play(stage: Stage) -> Play:
        aof = {"appendonly": "yes", "appendfsync": appendfsync} if appendfsync else {}
        with one_server(stage, **aof) as (server, world):
            world.endpoint.weather = "slow" if aof else "down"  # without the file, so that there is something to lose
            yield world
            began = time.monotonic()
            for _ in range(stage.rounds):
                at = time.monotonic()
                time.sleep(world.chance.uniform(0.0, 0.3))
                server.kill()
                world.count("kills of the server")
                time.sleep(min(stage.hold_s, world.chance.uniform(0.1, 1.0)))
                server.start()
                began = time.monotonic()
                world.is_fault(at, after_s=BACKOFF_S)
                if stage.rounds > 1:
                    world.flows(5)
            world.endpoint.weather = "fine"
            yield began

    return play


def stop_the_server(stage: Stage) -> Play:
    """SIGSTOP the server, then let it go on."""
    with one_server(stage) as (server, world):
        yield world
        at = time.monotonic()
        server.signal(signal.SIGSTOP)
        time.sleep(stage.hold_s)
        server.signal(signal.SIGCONT)
        world.is_fault(at, after_s=BACKOFF_S)
        yield time.monotonic()


def flush_all(stage: Stage) -> Play:
    """FLUSHALL in the middle."""
    with one_server(stage) as (server, world):
        world.endpoint.weather = "down"  # so that there is something to lose
        yield world
        at = time.monotonic()
        server.ask("FLUSHALL")
        world.endpoint.weather = "fine"
        world.is_fault(at)
        yield time.monotonic()


def out_of_memory(stage: Stage) -> Play:
    """Let the server's memory fill up to maxmemory, with noeviction, while the endpoint is down; then it recovers."""
    with one_server(stage) as (server, world):
        yield world
        world.endpoint.weather = "down"
        at = time.monotonic()
        used = server.info("memory")["used_memory"]
        server.ask("CONFIG", "SET", "maxmemory", used + 300_000)
        before = len(world.told("-"))
        world.until(lambda: len(world.told("-")) > before + 20, "no put is refused")
        world.count("refused while full", len(world.told("-")) - before)
        time.sleep(stage.hold_s)
        world.endpoint.weather = "fine"
        world.is_fault(at)
        yield time.monotonic()


def evicting(stage: Stage) -> Play:
    """Set an evicting policy while all runs (CONFIG SET): noticed within a minute, refused until it is gone."""
    with one_server(stage) as (server, world):
        yield world
        at = time.monotonic()
        server.ask("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
        before = len(world.told("-"))
        took_s = world.until(lambda: len(world.told("-")) > before, "nobody notices", 80)
        world.count("noticed within, ms", int(took_s * 1000))
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        world.is_fault(at)
        yield time.monotonic()


def skewed_machines(stage: Stage) -> Play:
    """Run on machines whose clocks are an hour off, each another way; the server's is a day off."""
    clock = stage.folder / "clock"
    clock.write_text("+86400s")
    server = stage.server(clock=clock)
    try:
        server.start()
        world = stage.make_world(server.url)
        for skew_s in (-3600.0, 3600.0):
            world.start("write", skew_s=skew_s, sender="thread")
            world.start("send", skew_s=-skew_s)
        yield world
        time.sleep(stage.hold_s)
        yield time.monotonic()
    finally:
        server.close()


def stepped(step_s: int) -> Callable[[Stage], Play]:
    """Return: step the server's clock, and let it go on from there."""

    def play(stage: Stage) -> Play:
        clock = stage.folder / "clock"
        clock.write_text("+0s")
        with one_server(stage, clock=clock) as (server, world):
            world.endpoint.weather = "slow"
            yield world
            at = time.monotonic()
            before = server.ask("TIME")[0]
            clock.write_text(f"{step_s:+d}s")
            until(lambda: abs(int(server.ask("TIME")[0]) - int(before) - step_s) < 120, 5, "the clock does not step")
            time.sleep(stage.hold_s)
            world.is_fault(at)
            world.endpoint.weather = "fine"
            yield time.monotonic()

    return play
