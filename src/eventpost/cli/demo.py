"""``eventpost demo``: the same traffic through Eventpost and through the SDK's own pipeline, with the same misfortunes.

On each side three processes run a real Optimizely client (``demo_traffic``) against a collector of its own, on
127.0.0.1, that takes 20 ms to answer.  Then the endpoint answers 503 for a while, one process is killed with SIGKILL
during that outage and started again, and the endpoint recovers.  At the end the applications close their clients, what
the killed one left is delivered by ``eventpost send --until-empty``, and the books are made up: for each side the uuids
that the witness files say were taken, against the uuids that the collector saw.  Nothing is estimated.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.table import Table

from ..queues.journal import inspect
from ..testing.collector import Collector, Reply
from . import show

PROCESSES: Final = 3
VISITS_PER_S: Final = 100.0
ANSWER_DELAY_S: Final = 0.02
UUID_LINE_BYTES: Final = 37
START_TIMEOUT_S: Final = 20.0
CLOSE_TIMEOUT_S: Final = 12.0
RECOVERY_S: Final = 9.0
"""An endpoint that was away for five seconds is probed at most five later; then the backlog takes a moment."""
CAUGHT_UP_EVENTS: Final = 400
LOOK_S: Final = 0.2
OUTAGE: Final = Reply(503, body=b"outage")
CALM: Final = Reply(204, delay_s=ANSWER_DELAY_S)


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
        self.started += 1
        arguments = [
            sys.executable, "-m", "eventpost.cli.demo_traffic", "--endpoint", self.collector.url,
            "--rate", str(VISITS_PER_S), "--seed", str(self.started),
            "--witness", str(self.folder / f"taken-{self.started}"), "--parent", str(os.getpid()),
        ]  # fmt: skip
        if self.journal is not None:
            arguments += ["--journal", str(self.journal)]
        with (self.folder / "errors").open("ab") as errors:
            process = subprocess.Popen(  # noqa: S603 - a module of ours
                arguments, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
        self.processes.append(process)
        return process

    def kill_one(self) -> None:
        """Kill the first application as the kernel's OOM killer would."""
        victim = self.processes.pop(0)
        victim.send_signal(signal.SIGKILL)
        victim.wait(5)

    def check(self) -> None:
        """Raise DemoError if an application ended by itself."""
        for process in self.processes:
            if process.poll() is not None:
                said = (self.folder / "errors").read_text("utf-8", "replace").strip().splitlines()
                raise DemoError(f"an application ended by itself with {process.returncode}: {said[-1] if said else ''}")

    def taken(self) -> int:
        """Count the events that the pipeline said yes to."""
        return sum(path.stat().st_size // UUID_LINE_BYTES for path in self.folder.glob("taken-*"))

    def not_arrived(self) -> int:
        """Count the events that it said yes to and that the endpoint does not have, as far as is known now."""
        return max(0, self.taken() - len(self.collector.uuids))

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
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        self.processes.clear()


class Stage:
    """What the audience sees: a live table on a terminal, plain lines elsewhere."""

    def __init__(self, sides: list[Side]) -> None:
        self.sides = sides
        self.began = time.monotonic()
        self.story: list[str] = []
        self.live: Live | None = None
        if show.out.is_terminal:
            self.live = Live(console=show.out, refresh_per_second=5, get_renderable=self.render)
        self._said_at = 0.0

    def __enter__(self) -> Stage:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def tell(self, line: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{time.monotonic() - self.began:5.1f} s  {line}")
        if self.live is None:
            show.say(self.story[-1])

    def look(self) -> None:
        """Say where things stand, once a second, where there is no live table."""
        now = time.monotonic()
        if self.live is None and now - self._said_at >= 1.0:
            self._said_at = now
            parts = [
                f"{side.title}: taken {side.taken():,}, arrived {len(side.collector.uuids):,}" for side in self.sides
            ]
            show.say(f"{now - self.began:5.1f} s    {'; '.join(parts)}; journal: {ledger(self.sides[0])}")

    def render(self) -> Group:
        """Return the live picture."""
        numbers = Table(box=None, pad_edge=False, header_style="bold")
        numbers.add_column("")
        for side in self.sides:
            numbers.add_column(side.title, justify="right", min_width=24)
        pairs: list[tuple[str, Callable[[Side], str]]] = [
            ("applications running", lambda side: f"{len(side.processes)}"),
            ("events taken", lambda side: f"{side.taken():,}"),
            ("arrived at the endpoint", lambda side: f"{len(side.collector.uuids):,}"),
            ("not arrived", lambda side: f"{side.not_arrived():,}"),
            ("requests", lambda side: f"{side.collector.requests_total:,}"),
        ]
        for name, value in pairs:
            numbers.add_row(name, *(value(side) for side in self.sides))
        return Group(
            numbers, show.plain(f"journal: {ledger(self.sides[0])}"), *(show.plain(line) for line in self.story)
        )


def ledger(side: Side) -> str:
    """Return the journal's own sum."""
    if side.journal is None or not (side.journal / "segments").is_dir():
        return "not there yet"
    count = inspect.folder_status(side.journal)
    return show.the_sum(count.accepted, count.delivered, count.queued, count.dead, count.dropped)


@contextlib.contextmanager
def scene(*, keep: bool) -> Iterator[list[Side]]:
    """Build both sides, and clear them away whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="eventpost-demo-"))
    sides: list[Side] = []
    try:
        with Collector(lambda _: CALM, keep=False) as first, Collector(lambda _: CALM, keep=False) as second:
            for title, collector, journal in (
                ("Eventpost", first, folder / "journal"),
                ("the SDK alone", second, None),
            ):
                own = folder / title.replace(" ", "-")
                own.mkdir()
                sides.append(Side(title, collector, own, journal))
            yield sides
    finally:
        for side in sides:
            for process in side.processes:
                process.kill()
                process.wait(5)
        if keep:
            show.say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def play(sides: list[Side], stage: Stage) -> None:
    """Perform the whole story.  Raises DemoError if it can't go on."""

    def wait(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            time.sleep(LOOK_S)
            for side in sides:
                side.check()
            stage.look()

    def answer(reply: Reply) -> None:
        for side in sides:
            side.collector.answer = lambda _: reply

    stage.tell(f"{PROCESSES} applications start on each side: a real Optimizely client, the same traffic")
    for side in sides:
        for _ in range(PROCESSES):
            side.start_process()
    wait(START_TIMEOUT_S, lambda: all(side.collector.uuids for side in sides))
    if not all(side.collector.uuids for side in sides):
        raise DemoError(f"nothing arrived within {START_TIMEOUT_S:.0f} s")
    wait(3)
    stage.tell("outage: the endpoint answers 503 to everything")
    answer(OUTAGE)
    wait(2)
    stage.tell("kill -9: one application on each side is gone")
    for side in sides:
        side.kill_one()
    wait(1)
    stage.tell("it is started again")
    for side in sides:
        side.start_process()
    wait(2)
    stage.tell("the endpoint is back")
    answer(CALM)
    wait(RECOVERY_S, lambda: sides[0].not_arrived() < CAUGHT_UP_EVENTS)
    wait(1)
    stage.tell("the applications close their clients and end")
    for side in sides:
        side.ask_to_close()
    for side in sides:
        side.wait_for_all(CLOSE_TIMEOUT_S)
        stage.look()
    journal = sides[0].journal
    stage.tell("eventpost send --until-empty: what the killed one left, if nobody took it over yet")
    command = [
        sys.executable,
        "-m",
        "eventpost.cli",
        "send",
        "--journal",
        str(journal),
        "--until-empty",
        "--timeout",
        "15",
    ]
    done = subprocess.run(  # noqa: S603 - a module of ours
        command, capture_output=True, text=True, timeout=40, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"eventpost send ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    wait(LOOK_S)


def make_up(sides: list[Side]) -> int:
    """Count uuid by uuid, print the result, and return the exit code."""
    lost = {}
    for side in sides:
        taken, seen = side.taken_uuids(), set(side.collector.uuids)
        missing = lost[side.title] = len(taken - seen)
        word = "accepted" if side.journal is not None else "handed in"
        share = f" ({missing / max(1, len(taken)):.0%})" if missing else ""
        show.say(
            f"{side.title + ':':<15} {word} {len(taken):,}, delivered {len(taken & seen):,}, lost {missing:,}{share}",
            style="bold red" if missing else "bold green",
        )
        if side.journal is not None and seen - taken:
            show.say(f"{'':<15} and {len(seen - taken):,} arrived whose yes was cut off by the kill -9")
    ours = sides[0]
    twice = sum(count - 1 for count in ours.collector.uuids.values())
    show.say(f"{'':<15} {twice:,} arrived more than once; Optimizely drops repeats by their uuid")
    show.say(f"journal:        {ledger(ours)}")
    assert ours.journal is not None  # noqa: S101 - the first side is the one with a journal
    status = inspect.folder_status(ours.journal)
    return 0 if not lost[ours.title] and status.closes and not status.queued else 1


def run_demo(*, keep: bool) -> int:
    """Run the show; returns the exit code: 1 if an event of ours was lost or the show could not go on."""
    if find_spec("optimizely") is None:
        show.say("The demo runs the real Optimizely client: pip install 'eventpost[optimizely]'", to=show.err)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended like that, too, it leaves nothing behind
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"  # nothing here leaves this machine
    with scene(keep=keep) as sides:
        try:
            with Stage(sides) as stage:
                play(sides, stage)
            return make_up(sides)
        except (DemoError, OSError, subprocess.SubprocessError) as error:
            show.say(f"the demo could not go on: {error}", style="red", to=show.err)
            return 1
