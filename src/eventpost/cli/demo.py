"""``eventpost demo``: the same traffic through Eventpost and through the SDK's own pipeline, with the same misfortunes.

On each side three processes run a real Optimizely client (``demo_traffic``) against a collector of its own, on
127.0.0.1, that takes 20 ms to answer.  Beside ours a relay stands on the same journal, and takes what another process
posts to it over plain HTTP (``demo_post``); its page shows all of it while it happens.  Then the endpoint answers 503
for a while, one process is killed with SIGKILL during that outage and started again, and the endpoint recovers.  At the
end the applications close their clients, what the killed one left is delivered by ``eventpost send --until-empty`` if
the relay has not done it yet, and the books are made up: for each side the uuids that the witness files say were taken,
against the uuids that the collector saw.  Nothing is estimated.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.table import Table

from ..queues.journal import inspect
from ..testing.collector import Reply
from . import show
from .demo_sides import CALM, DemoError, Scene, Side, scene
from .relay import EXTRA

PROCESSES: Final = 3
START_TIMEOUT_S: Final = 20.0
CLOSE_TIMEOUT_S: Final = 12.0
RECOVERY_S: Final = 9.0
"""An endpoint that was away for five seconds is probed at most five later; then the backlog takes a moment."""
EMPTY_S: Final = 10.0
CAUGHT_UP_EVENTS: Final = 400
LOOK_S: Final = 0.2
OUTAGE: Final = Reply(503, body=b"outage")


class Stage:
    """What the audience sees: a live table on a terminal, plain lines elsewhere."""

    def __init__(self, cast: Scene) -> None:
        self.cast = cast
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
            parts = [f"{side.title}: taken {side.taken():,}, arrived {side.arrived():,}" for side in self.cast.sides]
            show.say(f"{now - self.began:5.1f} s    {'; '.join(parts)}; journal: {ledger(self.cast.ours)}")

    def render(self) -> Group:
        """Return the live picture."""
        numbers = Table(box=None, pad_edge=False, header_style="bold")
        numbers.add_column("")
        for side in self.cast.sides:
            numbers.add_column(side.title, justify="right", min_width=13)
        pairs: list[tuple[str, Callable[[Side], str]]] = [
            ("applications running", lambda side: f"{len(side.processes)}"),
            ("events taken", lambda side: f"{side.taken():,}"),
            ("arrived at the endpoint", lambda side: f"{side.arrived():,}"),
            ("not arrived", lambda side: f"{side.not_arrived():,}"),
        ]
        for name, value in pairs:
            numbers.add_row(name, *(value(side) for side in self.cast.sides))
        return Group(
            numbers, show.plain(f"journal: {ledger(self.cast.ours)}"), *(show.plain(line) for line in self.story)
        )


def ledger(side: Side) -> str:
    """Return the journal's own sum."""
    if side.journal is None or not (side.journal / "segments").is_dir():
        return "not there yet"
    count = inspect.folder_status(side.journal)
    return show.the_sum(count.accepted, count.delivered, count.queued, count.dead, count.dropped)


def play(cast: Scene, stage: Stage) -> None:
    """Perform the whole story.  Raises DemoError if it can't go on."""
    clients = [cast.ours, cast.alone]

    def wait(seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = time.monotonic() + seconds
        while not (found := until()) and time.monotonic() < end:
            time.sleep(LOOK_S)
            for side in cast.sides:
                side.check()
            stage.look()
        return found

    def answer(reply: Reply) -> None:
        for side in clients:
            side.collector.answer = lambda _: reply

    if cast.hop is None:
        stage.tell(f"without the relay and its page. {EXTRA}")
    else:
        stage.tell(f"a relay stands beside them; its page, to look on meanwhile: {cast.hop.url}")
    stage.tell(f"{PROCESSES} applications start on each side: a real Optimizely client, the same traffic")
    for side in clients:
        for _ in range(PROCESSES):
            side.start_process()
    if cast.hop is not None:
        stage.tell("another process posts to the relay over plain HTTP, as the SDK of any language can")
        cast.hop.start_process()
    if not wait(START_TIMEOUT_S, lambda: all(side.arrived() for side in cast.sides)):
        raise DemoError(f"nothing arrived within {START_TIMEOUT_S:.0f} s")
    wait(3)
    stage.tell("outage: the endpoint answers 503 to everything")
    answer(OUTAGE)
    wait(2)
    stage.tell("kill -9: one application on each side is gone")
    for side in clients:
        side.kill_one()
    wait(1)
    stage.tell("it is started again")
    for side in clients:
        side.start_process()
    wait(2)
    stage.tell("the endpoint is back")
    answer(CALM)
    wait(RECOVERY_S, lambda: sum(side.not_arrived() for side in cast.sides[:-1]) < CAUGHT_UP_EVENTS)
    wait(1)
    stage.tell("the applications close their clients and end")
    for side in cast.sides:
        side.ask_to_close()
    for side in cast.sides:
        side.wait_for_all(CLOSE_TIMEOUT_S)
        stage.look()
    stage.tell("eventpost send --until-empty: what the killed one left, if nobody took it over yet")
    command = [sys.executable, "-m", "eventpost.cli", "send", "--journal", str(cast.ours.journal)]
    done = subprocess.run(  # noqa: S603 - a module of ours
        [*command, "--until-empty", "--timeout", "15"], capture_output=True, text=True, timeout=40, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"eventpost send ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    wait(EMPTY_S, lambda: not queued(cast.ours))  # what the relay holds it sends itself


def queued(side: Side) -> int:
    """Return how many events wait in a side's journal."""
    return 0 if side.journal is None else inspect.folder_status(side.journal).queued


def make_up(cast: Scene) -> int:
    """Count uuid by uuid, print the result, and return the exit code."""
    lost = {}
    for side in cast.sides:
        taken, seen = side.taken_uuids(), set(side.collector.uuids)
        missing = lost[side.title] = len(taken - seen)
        word = "accepted" if side.journal is not None else "handed in"
        share = f" ({missing / max(1, len(taken)):.0%})" if missing else ""
        show.say(
            f"{side.title + ':':<15} {word} {len(taken):,}, delivered {len(taken & seen):,}, lost {missing:,}{share}",
            style="bold red" if missing else "bold green",
        )
    ours, through = cast.ours, cast.sides[:-1]
    cut_off = set(ours.collector.uuids).difference(*(side.taken_uuids() for side in through))
    if cut_off:
        show.say(f"{'':<15} and {len(cut_off):,} arrived whose yes was cut off by the kill -9")
    twice = sum(count - 1 for count in ours.collector.uuids.values())
    show.say(f"{'':<15} {twice:,} arrived more than once; Optimizely drops repeats by their uuid")
    show.say(f"journal:        {ledger(ours)}")
    assert ours.journal is not None  # noqa: S101 - the first side is the one with a journal
    status = inspect.folder_status(ours.journal)
    fine = status.closes and not status.queued and not any(lost[side.title] for side in through)
    return 0 if fine else 1


def stay(cast: Scene) -> None:
    """Leave the page open until somebody presses Enter."""
    if cast.hop is not None:
        show.say(f"the page stays open until you press Enter: {cast.hop.url}")
        with suppress(KeyboardInterrupt):  # or Ctrl-C
            sys.stdin.readline()


def run_demo(*, keep: bool) -> int:
    """Run the show; returns the exit code: 1 if an event of ours was lost or the show could not go on."""
    if find_spec("optimizely") is None:
        show.say("The demo runs the real Optimizely client: pip install 'eventpost[optimizely]'", to=show.err)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended like that, too, it leaves nothing behind
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"  # nothing here leaves this machine
    try:
        with scene(keep=keep) as cast:
            with Stage(cast) as stage:
                play(cast, stage)
            code = make_up(cast)
            if show.out.is_terminal and sys.stdin.isatty():
                if keep:
                    stay(cast)
                elif cast.hop is not None:
                    show.say("To leave the page open at the end: eventpost demo --keep")
            return code
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        show.say(f"the demo could not go on: {error}", style="red", to=show.err)
        return 1
