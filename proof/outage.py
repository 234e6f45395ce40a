"""Ten minutes without an endpoint, behind the relay, which is killed twice meanwhile.

Clients post one event a request to a real ``eventpost relay`` with two workers, 1,000 a second, the whole time.  The
endpoint's process is killed.  A third and two thirds into its absence all processes of the relay are killed with
SIGKILL, and a moment later it is started again; clients whose connection was refused or whose answer never came post
the same bytes again.  Then the endpoint comes back.

What must hold: the sum, each second; each event that got a 204 arrives at the endpoint, bytes unchanged; the backlog is
delivered while new events come in; and the endpoint is met without a storm (``outage_judge``).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

from eventpost.queues.journal import inspect

from .chaos_judge import Broken
from .outage_graph import draw, most_at_once, per_second
from .outage_judge import Counts, Seen, check_end, check_ramp, check_sum, in_flight
from .outage_wire import CELLS
from .record import ROOT, Figures

CONNECTIONS: Final = 32
ANSWER_DELAY_S: Final = 0.05
DOWN_S: Final = 2.0
"""How long the relay stays away after a kill."""
WAIT_S: Final = 60.0
DRAIN_S: Final = 900.0
CALM_S: Final = 10.0
"""How long everything is well before the outage, and once more after it; in a short run a tenth of the outage."""
TICK_S: Final = 0.05
NEAR_S: Final = (-0.5, 3.0)
PORTS: Final = range(18_000, 28_000)
"""Below those that the system hands out: a client that is refused again and again must not meet itself there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the numbers; the defaults are those of make soak."""
    parser.add_argument("--minutes", type=float, default=10, help="how long the endpoint is away")
    parser.add_argument("--rate", type=float, default=1000, help="events a second")
    parser.add_argument("--graph", type=Path, default=ROOT / "docs" / "outage.svg", help="where the picture goes")


def free_port() -> int:
    """Return a port that nobody listens on, nor is given by chance."""
    for port in PORTS:
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise Broken("no port is free")


class Outage:
    """One run in a folder of its own."""

    def __init__(self, root: Path, rate: float, away_s: float) -> None:
        self.root, self.rate, self.away_s = root, rate, away_s
        self.journal = str(root / "j")
        self.began = time.monotonic()
        self.calm_s = min(CALM_S, max(1.0, away_s / 10))
        self.seen = Seen(root / "records")
        self.cells: mmap.mmap | None = None
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {"endpoint": free_port()}
        with socket.create_server(("127.0.0.1", self.ports["endpoint"])):
            self.ports["relay"] = free_port()
        self.bands: list[tuple[float, float, str]] = []
        self.marks: list[tuple[float, str]] = []
        self.rows: list[tuple[float, int, int, int]] = []
        """Once a second: when, acknowledged, answered by the endpoint, queued."""
        self.looked_at = 0.0
        self.drained_s = 0.0

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def counts(self) -> Counts:
        """Return what the clients wrote down."""
        return Counts(*CELLS.unpack(self.cells[: CELLS.size])) if self.cells is not None else Counts(0, 0, 0, 0, 0)

    # -- processes

    def start(self, name: str, *words: str) -> None:
        """Start a process, with a group of its own; what it says goes to a file."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("EVENTPOST_", "PYTEST"))}
        with (self.root / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *words], env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def start_endpoint(self) -> None:
        """Start the endpoint and wait until it listens."""
        words = ["proof.outage_endpoint", "--port", str(self.ports["endpoint"])]
        self.start("endpoint", *words, "--records", str(self.root / "records"), "--delay-s", str(ANSWER_DELAY_S))
        self.wait(lambda: self.listens("endpoint"), "the endpoint did not begin")

    def start_relay(self) -> None:
        """Start the relay; the clients find out when it listens."""
        url = f"http://127.0.0.1:{self.ports['endpoint']}/v1/events"
        words = ["eventpost.cli", "relay", "--listen", f"127.0.0.1:{self.ports['relay']}", "--workers", "2"]
        self.start("relay", *words, "--journal", self.journal, "--endpoint", url)

    def start_clients(self) -> None:
        """Start the clients."""
        path = self.root / "cells"
        path.write_bytes(bytes(CELLS.size))
        with path.open("r+b") as file:
            self.cells = mmap.mmap(file.fileno(), CELLS.size)
        words = ["proof.outage_clients", "--port", str(self.ports["relay"]), "--rate", str(self.rate)]
        words += ["--connections", str(CONNECTIONS), "--cells", str(path), "--left", str(self.root / "left")]
        self.start("clients", *words, "--patience-s", str(WAIT_S / 2))

    def listens(self, name: str) -> bool:
        """Tell whether it takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.ports[name]), 1):
                return True
        except OSError:
            return False

    def kill(self, name: str) -> None:
        """Kill -9 of all its processes."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT_S)

    def end(self, name: str) -> None:
        """SIGTERM, and wait for an end in order.  Raises Broken."""
        process = self.running.pop(name)
        process.terminate()
        try:
            code = process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        if code:
            raise Broken(f"{name} ended with {code}: see its log")

    def close(self) -> None:
        """End what is left."""
        for name in list(self.running):
            self.kill(name)

    # -- the story

    def run(self) -> None:
        """Do it all.  Raises Broken."""
        self.start_endpoint()
        self.start_relay()
        self.wait(lambda: self.listens("relay"), "the relay did not begin")
        self.start_clients()
        self.wait(lambda: self.seen.answered > self.rate, "nothing arrived")
        self.pass_time(self.calm_s)
        self.kill("endpoint")
        gone_s = self.now
        self.bands.append((gone_s, gone_s, "refused"))
        for third in (1, 2):
            self.pass_time(gone_s + self.away_s * third / 3 - self.now)
            self.marks.append((self.now, "kill -9"))
            self.kill("relay")
            self.pass_time(min(DOWN_S, self.away_s / 12))
            self.start_relay()
            self.wait(lambda: self.listens("relay"), "the relay did not begin again")
        self.pass_time(gone_s + self.away_s - self.now)
        self.back_s = self.now
        self.bands[0] = (gone_s, self.back_s, "refused")
        self.start_endpoint()
        self.wait(lambda: self.rows[-1][3] < self.rate / 2, f"not drained in {DRAIN_S:g} s", DRAIN_S)
        self.drained_s = self.now - self.back_s
        self.pass_time(self.calm_s)
        self.end("clients")
        self.wait(lambda: not inspect.folder_status(self.journal).queued, "the rest was not delivered")
        self.end("relay")
        self.end("endpoint")

    def wait(self, until: Callable[[], bool], otherwise: str, timeout_s: float = WAIT_S) -> None:
        """Wait for something, looking each second.  Raises Broken."""
        end = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > end:
                raise Broken(f"{otherwise}: {self.counts()}")
            self.pass_time(TICK_S)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, looking each second."""
        end = time.monotonic() + seconds
        while True:
            if self.now >= self.looked_at + 1 and Path(self.journal, "segments").exists():
                self.look()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, TICK_S))

    def look(self) -> None:
        """Check the sum, and that everybody lives."""
        self.looked_at = self.now
        for name, process in self.running.items():
            if process.poll() is not None:
                raise Broken(f"{name} ended by itself with {process.returncode}: see its log")
        status, counts = check_sum(self.journal, self.seen, self.counts), self.counts()
        self.rows.append((self.now, counts.acknowledged, self.seen.answered, status.queued))
        if len(self.rows) % 30 == 0:
            print(f"  {self.now:5.0f} s: {counts}, answered {self.seen.answered:,}, queued {status.queued:,}", flush=True)

    def draw(self, path: Path) -> None:
        """Write the picture."""
        begins = [at - self.began for at in self.seen.begins]
        ends = [at - self.began for at in self.seen.ends]
        first = min(at for at in begins if at >= self.back_s)
        near_s = (first + NEAR_S[0], first + NEAR_S[1])
        close = [(begin, end) for begin, end in zip(begins, ends, strict=True) if near_s[0] < end < near_s[1] + 1]
        near_begins, near_ends = [begin for begin, _ in close], [end for _, end in close]
        pairs = list(pairwise(self.rows))
        rates = {
            name: [(new[0], (new[column] - old[column]) / (new[0] - old[0])) for old, new in pairs]
            for name, column in (("204 by the relay", 1), ("204 by the endpoint", 2))
        }
        panels = [
            ("events queued in the relay's journal", {"queued": [(row[0], float(row[3])) for row in self.rows]}),
            ("answers a second", rates),
            ("requests at once at the endpoint", {"most": most_at_once(begins, ends, 0.0, self.now, 1.0)}),
        ]
        near = [
            ("requests at once at the endpoint", {"most": most_at_once(near_begins, near_ends, *near_s, 0.005)}),
            ("requests a second at the endpoint", {"begun": per_second(near_begins, *near_s, 0.05)}),
        ]
        title = f"{self.away_s / 60:g} minutes without an endpoint at {self.rate:g} events/s, the relay killed twice"
        draw(path, title, self.now, panels, self.bands, self.marks, back_s=first, near_s=near_s, near=near)

    def judge(self) -> Figures:
        """Judge it, and return the figures.  Raises Broken."""
        counts, said = self.counts(), json.loads((self.root / "left").read_text())
        again = check_end(self.journal, self.seen, counts, said["left"])
        back = self.began + self.back_s
        after = [(begin, end) for begin, end in zip(self.seen.begins, self.seen.ends, strict=True) if begin >= back]
        ramp = in_flight([begin for begin, _ in after], [end for _, end in after])
        most = check_ramp(ramp)
        deepest = max(row[3] for row in self.rows)
        never = [] if counts.refused else ["refused connections"]
        never += [] if counts.unanswered else ["posts whose answer was cut off"]
        never += [] if deepest > self.rate * self.away_s / 2 else ["a backlog"]
        if never:
            raise Broken(f"never happened, so nothing was shown: {', '.join(never)}")
        grown = next(begin for begin, flying, _ in ramp if flying >= most / 2)
        return {
            "minutes": self.away_s / 60, "events/s": self.rate, "acknowledged": counts.acknowledged, "lost": 0,
            "without a 204 at the end": len(said["left"]), "answered 5xx": sum(said["noes"].values()),
            "kills": len(self.marks), "connections refused": counts.refused, "answers cut off": counts.unanswered,
            "delivered twice": again, "sums checked": len(self.rows), "deepest queue": deepest,
            "first request after the return, s": round(ramp[0][0] - back, 1),
            "from 1 to half of the most at once, s": round(grown - ramp[0][0], 2), "most at once": most,
            "drained after the return, s": round(self.drained_s),
            "most requests in a second": int(max(new[2] - old[2] for old, new in pairwise(self.rows))),
        }  # fmt: skip


def run(arguments: argparse.Namespace) -> Figures:
    """Run it; raises on the first violation, with the folder kept."""
    root = Path(tempfile.mkdtemp(prefix="outage-"))
    outage = Outage(root, arguments.rate, 60 * arguments.minutes)
    try:
        outage.run()
        if arguments.graph is not None:
            outage.draw(arguments.graph)
        figures = outage.judge()
    except BaseException:
        print(f"repeat: python -m proof outage --minutes {arguments.minutes:g} --rate {arguments.rate:g}; kept: {root}")
        raise
    finally:
        outage.close()
    shutil.rmtree(root)
    return figures
