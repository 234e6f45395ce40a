"""What every fault of a fleet is played on.

A fault is a generator: it yields the world once everything runs, is resumed when events flow, does its harm, yields the
moment from which recovery is measured, and cleans up behind itself.  ``fleet`` does what is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .fleet_servers import Server
from .fleet_world import World

Play = Iterator[Any]
Start = Callable[..., World]
"""Makes the world around a queue's URL."""


@dataclass
class Stage:
    """What a fault is played on: the program of the servers, a folder, and how long harm lasts."""

    program: str
    folder: Path
    hold_s: float
    make_world: Start
    rounds: int = 1

    def server(self, name: str = "server", **options: Any) -> Server:
        """Return a server that is not started yet."""
        return Server(self.program, self.folder / name, **options)


def lives(world: World, writers: int = 2, senders: int = 2, **options: Any) -> World:
    """Start applications, every other of which sends, too, and senders."""
    for number in range(writers):
        world.start("write", sender="thread" if number % 2 else "none", **options)
    for _ in range(senders):
        world.start("send", **options)
    return world


@contextmanager
def one_server(
    stage: Stage, *, writers: int = 2, senders: int = 2, **options: Any
) -> Iterator[tuple[Server, World]]:  # fmt: skip
    """Run one server and a fleet on it."""
    server = stage.server(**options)
    try:
        server.start()
        yield server, lives(stage.make_world(server.url), writers, senders)
    finally:
        server.close()
