"""Who takes part in the demo: the two pipelines with their applications, and what comes in through the relay."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from ..testing.collector import Collector, Reply
from . import show
from .relay import lacks_packages

VISITS_PER_S: Final = 100.0
POSTS_PER_S: Final = 50.0
ANSWER_DELAY_S: Final = 0.02
UUID_LINE_BYTES: Final = 37
RELAY_START_S: Final = 20.0
RELAY_STOP_S: Final = 12.0
CALM: Final = Reply(204, delay_s=ANSWER_DELAY_S)
LISTENING: Final = "listening on "


class DemoError(Exception):
    """The show could not go on."""


@dataclass
class Side:
    """One pipeline: its collector, its processes, its witnesses."""

    title: str
    collector: Collector
    folder: Path
    journal: Path | None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: int = 0

    def start_process(self) -> subprocess.Popen[bytes]:
        """Start one more application."""
        arguments = ["--endpoint", self.collector.url]
        if self.journal is not None:
            arguments += ["--journal", str(self.journal)]
        return self._start("demo_traffic", VISITS_PER_S, arguments)

    def _start(self, module: str, rate: float, arguments: list[str]) -> subprocess.Popen[bytes]:
        self.started += 1
        process = self.run(
            module, *arguments, "--rate", str(rate), "--seed", str(self.started), "--witness",
            str(self.folder / f"taken-{self.started}"), out=None,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, module: str, *arguments: str, out: int | None) -> subprocess.Popen[bytes]:
        """Run a module of ours that ends with the demo; what it complains of goes to a file."""
        command = [sys.executable, "-m", f"eventpost.cli.{module}", *arguments, "--parent", str(os.getpid())]
        with (self.folder / "errors").open("ab") as errors:
            return subprocess.Popen(  # noqa: S603 - a module of ours
                command, stdin=subprocess.DEVNULL, stdout=errors if out is None else out, stderr=errors
            )

    def kill_one(self) -> None:
        """Kill the first application as the kernel's OOM killer would."""
        victim = self.processes.pop(0)
        victim.send_signal(signal.SIGKILL)
        victim.wait(5)

    def complaint(self) -> str:
        """Return the last line of what its processes said."""
        said = (self.folder / "errors").read_text("utf-8", "replace").strip().splitlines()
        return said[-1] if said else ""

    def check(self) -> None:
        """Raise DemoError if an application ended by itself."""
        for process in self.processes:
            if process.poll() is not None:
                raise DemoError(f"an application ended by itself with {process.returncode}: {self.complaint()}")

    def taken(self) -> int:
        """Count the events that the pipeline said yes to."""
        return sum(path.stat().st_size // UUID_LINE_BYTES for path in self.folder.glob("taken-*"))

    def arrived(self) -> int:
        """Count those of them that the endpoint has."""
        there = self.collector.uuids
        return sum(1 for uuid in self.taken_uuids() if uuid in there)

    def not_arrived(self) -> int:
        """Count the events that it said yes to and that the endpoint does not have, as far as is known now."""
        return max(0, self.taken() - self.arrived())

    def taken_uuids(self) -> set[str]:
        """Return the uuids that the pipeline said yes to; half a line, from a kill in the middle of it, is no yes."""
        text = "".join(path.read_text("ascii") for path in self.folder.glob("taken-*"))
        return {line for line in text.split("\n") if len(line) == UUID_LINE_BYTES - 1}

    def ask_to_close(self) -> None:
        """Ask all applications to close their clients and end."""
        for process in self.processes:
            process.terminate()

    def wait_for_all(self, timeout_s: float) -> None:
        """Wait until all applications have ended; kill those that do not come back in time."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            _wait_or_kill(process, deadline - time.monotonic())
        self.processes.clear()

    def stop(self) -> None:
        """End whatever is left, at once."""
        for process in self.processes:
            process.kill()
            process.wait(5)


@dataclass
class Hop(Side):
    """What posts to a relay on the journal of the other applications.  ``url``: the relay's, and so its page's."""

    relay: subprocess.Popen[bytes] | None = None
    url: str = ""

    def start_relay(self) -> Hop:
        """Start the relay, wait until it listens, and return this.  Raises DemoError."""
        self.relay = self.run(
            "demo_relay", "--journal", str(self.journal), "--endpoint", self.collector.url, "--folder",
            str(self.folder), out=subprocess.PIPE,
        )  # fmt: skip
        line = _first_line(self.relay, RELAY_START_S)
        self.url = line.partition(LISTENING)[2].partition(",")[0] + "/"
        if self.url == "/":
            raise DemoError(f"the relay did not start: {self.complaint() or line}")
        return self

    def start_process(self) -> subprocess.Popen[bytes]:
        """Start what posts."""
        return self._start("demo_post", POSTS_PER_S, ["--url", f"{self.url}v1/events"])

    def check(self) -> None:
        """Raise DemoError if one of them ended by itself."""
        super().check()
        if self.relay is not None and self.relay.poll() is not None:
            raise DemoError(f"the relay ended by itself with {self.relay.returncode}: {self.complaint()}")

    def stop(self) -> None:
        """End what posts at once, and the relay in order."""
        super().stop()
        if self.relay is not None:
            self.relay.terminate()
            _wait_or_kill(self.relay, RELAY_STOP_S)
            if self.relay.stdout is not None:
                self.relay.stdout.close()
            self.relay = None


class Scene(NamedTuple):
    """All of them.  ``hop``: None where the relay's packages are not there."""

    ours: Side
    alone: Side
    hop: Hop | None

    @property
    def sides(self) -> list[Side]:
        """Return those that have processes, in the order in which they are shown."""
        return [self.ours, *([self.hop] if self.hop else []), self.alone]


def _first_line(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Return the first line that a process prints; "" if none comes in time, or it ends."""
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        if not waiting.select(timeout_s):
            return ""
    return process.stdout.readline().decode("utf-8", "replace").strip()


def _wait_or_kill(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        process.wait(max(0.1, timeout_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


@contextlib.contextmanager
def scene(*, keep: bool) -> Iterator[Scene]:
    """Build both sides, with the relay if it can be, and clear them away whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="eventpost-demo-"))
    journal = folder / "journal"
    own = [folder / name for name in ("eventpost", "relay", "sdk")]
    try:
        for path in own:
            path.mkdir(0o700)
        with Collector(lambda _: CALM, keep=False) as first, Collector(lambda _: CALM, keep=False) as second:
            ours = Side("Eventpost", first, own[0], journal)
            hop = Hop("the relay", first, own[1], journal)
            alone = Side("the SDK alone", second, own[2], None)
            try:
                yield Scene(ours, alone, None if lacks_packages() else hop.start_relay())
            finally:
                for side in (ours, hop, alone):
                    side.stop()
    finally:
        if keep:
            show.say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
