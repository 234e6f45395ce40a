"""Harm that is done to the processes of a fleet: applications, senders, relays."""

from __future__ import annotations

import signal
import time
from math import inf

from .fleet_relays import Poster, Relay
from .fleet_stage import Play, Stage, lives, one_server
from .fleet_world import LEASE_S, make_folder
from .kills_round import ViolationError


def nothing(stage: Stage) -> Play:
    """Do no harm: the control.  Nothing may be delivered twice."""
    with one_server(stage) as (_, world):
        yield world
        time.sleep(stage.hold_s)
        yield time.monotonic()


def kill_processes(stage: Stage) -> Play:
    """Kill -9 applications and senders at random moments; another of each kind is started each time."""
    with one_server(stage) as (_, world):
        world.endpoint.weather = "slow"
        yield world
        at = time.monotonic()
        for _ in range(stage.rounds):
            time.sleep(world.chance.uniform(0.05, 0.5))
            kind = world.chance.choice(["write", "write", "send"])
            living = world.writers if kind == "write" else world.senders
            one = world.chance.choice(living)
            at = time.monotonic()
            busy = world.endpoint.is_sending("")
            world.signal(one, signal.SIGKILL)
            world.count("kills")
            world.count("kills with requests in flight", busy)
            world.start(kind, sender=world.chance.choice(["thread", "none"]) if kind == "write" else "thread")
            world.is_fault(at)
        world.endpoint.weather = "fine"
        yield at


def kill_relays(stage: Stage) -> Play:
    """Kill -9 relays and their workers at random moments, while somebody posts to them; others send."""
    server = stage.server()
    relays: list[Relay] = []
    poster = None
    try:
        server.start()
        world = stage.make_world(server.url)
        for number in range(2):
            relays.append(
                Relay(server.url, world.endpoint.collector.url, make_folder(stage.folder, f"relay{number}"))
            )  # fmt: skip
            relays[-1].start()
        world.start("send")
        world.start("send")
        poster = posts = Poster(relays, world.also("posts").path, world.options["pause_s"])
        world.offered_again = lambda: posts.again
        world.before_end.append(poster.close)
        yield world
        for _ in range(stage.rounds):
            time.sleep(world.chance.uniform(0.05, 0.5))
            at = time.monotonic()
            world.count(f"kills of {world.chance.choice(relays).kill(world.chance)}")
            world.is_fault(at)
        yield time.monotonic()
    finally:
        if poster is not None:
            poster.close()
        for relay in relays:
            relay.close()
        server.close()


def stop_a_sender(stage: Stage) -> Play:
    """SIGSTOP a sender with requests in flight beyond its lease, then wake it; another takes over meanwhile."""
    with one_server(stage, senders=1, writers=1) as (_, world):
        world.endpoint.weather = "slow"
        yield world
        world.until(lambda: world.endpoint.is_sending(""), "nothing is in flight")
        one = world.senders[0]
        began = time.monotonic()
        world.signal(one, signal.SIGSTOP)
        world.start("send")
        owed = world.told("+") - world.seen()
        arrived = set(world.endpoint.stays)
        world.until(
            lambda: not owed - world.seen() and any(len(world.endpoint.stays[uuid]) > 1 for uuid in arrived),
            "what the stopped one held was not taken over",
        )
        world.count("taken over after, ms", int((time.monotonic() - began) * 1000))
        time.sleep(max(0.0, began + LEASE_S + 2 * stage.hold_s - time.monotonic()))
        world.count("sent again by who took over", sum(len(world.endpoint.stays[uuid]) > 1 for uuid in arrived))
        world.is_fault(began)
        world.woken_at = time.monotonic()
        world.signal(one, signal.SIGCONT)
        yield time.monotonic()


def one_name(stage: Stage) -> Play:
    """Have all use one consumer's name, as a machine's snapshot does that is resumed more than once; some then end."""
    server = stage.server()
    try:
        server.start()
        world = lives(stage.make_world(server.url, one_name=True, shards=1), writers=4)
        world.endpoint.weather = "slow"  # so that whoever ends lets go of what the others have under way
        began = time.monotonic()
        yield world
        time.sleep(stage.hold_s)
        for one in (world.senders[0], *world.writers[:2]):
            world.end(one)
        ended = time.monotonic()
        reports = [one.last_report() for one in world.ended]
        if len({report["writer"] for report in reports}) != 1:
            raise ViolationError("these were to have one name")
        world.count(
            "processes that were told",
            sum(any("by this one's name" in one for one in report["troubles"]) for report in reports),
        )
        world.windows.append((began, inf))  # until the last of them has ended
        yield ended
    finally:
        server.close()
