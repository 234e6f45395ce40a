"""Frozen and thawed: senders are stopped for a minute with requests in flight, and all their connections die meanwhile.

As a laptop's lid does it, a container that is paused, a debugger.  When they go on every timer of theirs has run out.
Three are frozen: a process that stores and sends, one that keeps its events in memory, and `eventpost send`.  A fourth
goes on storing into the same folder, and a second `eventpost send` beside it.

What must hold: while they are frozen nothing of theirs is sent by anybody, since they live; the neighbours go on.  Once
they are thawed new events arrive from each; and at the end every acknowledged event has arrived, and none that nobody
offered.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from eventpost.queues.journal import inspect

from .chaos_judge import Broken, check_end, check_sum
from .chaos_parts import Endpoint, Life, start
from .record import Figures

WRITERS: Final = {"stores": "none", "sends": "thread", "memory": "thread"}
FROZEN: Final = ("sends", "memory", "sender")
RATE: Final = 100.0
SETTLE_S: Final = 3.0
"""How long what was on the wire may still arrive."""
WAIT_S: Final = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say how long."""
    parser.add_argument("--seconds", type=float, default=60)


class Freeze:
    """One run in a folder of its own."""

    def __init__(self, root: Path, seconds: float) -> None:
        self.root = root
        self.seconds = seconds
        self.journal = str(root / "j")
        self.endpoint = Endpoint()
        self.lives: dict[str, Life] = {}

    def begin(self, kind: str) -> None:
        """Start a process."""
        words = ["eventpost.cli", "send", "--journal", self.journal]
        if kind in WRITERS:
            words = ["proof.chaos_parts", "--endpoint", self.endpoint.url, "--rate", str(RATE)]
            words += ["--sender", WRITERS[kind], "--durability", "os"]
            words += [] if kind == "memory" else ["--journal", self.journal]
        self.lives[kind] = start(kind, 0, self.root, words, counts=kind in WRITERS, now=0.0)

    def seen(self) -> Counter[str]:
        """Return how many events have arrived, by who stored them."""
        return Counter(uuid.partition(".")[0] for uuid in list(self.endpoint.seen))

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something, but not for ever."""
        until = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > until:
                raise Broken(f"{what}: {self.seen()}")
            time.sleep(0.05)

    def grows(self, kinds: Sequence[str], what: str) -> None:
        """Wait until fifty more events of each have arrived."""
        before = self.seen()
        self.wait_until(lambda: all(self.seen()[kind] >= before[kind] + 50 for kind in kinds), what)

    def run(self) -> Figures:
        """Freeze, thaw, count.  Raises Broken."""
        for kind in WRITERS:
            self.begin(kind)
        self.wait_until(Path(self.journal, "segments").exists, "no writer began")
        self.begin("sender")
        self.grows([*WRITERS], "not everybody began")
        self.endpoint.change("slow")  # so that requests are in flight
        time.sleep(0.3)
        for kind in FROZEN:
            self.lives[kind].stop(stopped=True)
        self.endpoint.reset_connections()
        self.endpoint.change("fine")
        self.begin("neighbour")
        began = time.monotonic()
        time.sleep(SETTLE_S)
        frozen = self.seen()
        self.grows(["stores"], "the neighbours do not go on")
        time.sleep(max(0.0, began + self.seconds - time.monotonic()))
        for kind in ("sends", "memory"):
            if self.seen()[kind] != frozen[kind]:
                raise Broken(f"somebody sent what {kind} held, which was frozen and alive")
        for kind in FROZEN:
            self.lives[kind].stop(stopped=False)
        self.grows([*WRITERS], "thawed, not everybody goes on")
        return self.drain()

    def drain(self) -> Figures:
        """Let all end in order, and compare every uuid."""
        for kind in WRITERS:
            if self.lives[kind].end(WAIT_S):
                raise Broken(f"{kind} did not end in order: see its log")
        self.wait_until(lambda: not inspect.folder_status(self.journal).queued, "not all was delivered")
        for kind in ("sender", "neighbour"):
            if self.lives[kind].end(WAIT_S):
                raise Broken(f"{kind} did not end in order: see its log")
        writers = [life for life in self.lives.values() if life.cells is not None]
        check_sum(self.journal, self.endpoint, [life for life in writers if life.kind != "memory"])
        acknowledged, again = check_end(self.endpoint, writers)
        return {"seconds": self.seconds, "acknowledged": acknowledged, "lost": 0, "sent twice": again}

    def close(self) -> None:
        """End what is left."""
        for life in self.lives.values():
            if life.process.poll() is None:
                life.kill()
        self.endpoint.close()


def run(arguments: argparse.Namespace) -> Figures:
    """Run it; raises Broken, with the folder kept."""
    root = Path(tempfile.mkdtemp(prefix="freeze-"))
    freeze = Freeze(root, arguments.seconds)
    try:
        figures = freeze.run()
    except BaseException:
        print(f"repeat: python -m proof freeze --seconds {arguments.seconds:g}; kept: {root}")
        raise
    finally:
        freeze.close()
    shutil.rmtree(root)
    return figures
