"""One round of the kills: processes come, are killed, stopped and asked to end; then the folder is emptied and counted.

Everything random is drawn from the round's seed.  When exactly a signal hits is the machine's to say: a seed repeats
the round's choices, not its instants.

What must hold at the end of every round:

* each event that a processor said yes to was answered 2xx, or is a dead letter whose refusal the endpoint remembers;
* nothing arrived that no writer offered, nothing that was refused at the door;
* an event was delivered twice only if its first answer was torn, or a process that sends was killed around it;
* the folder is empty, its sum closes, nothing was dropped, and no lock is left of the dead; a kill between a dead
  letter and its note may leave one letter more than the sum accounts for, a kill in the middle of a put half a frame.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eventpost.queues.journal import inspect
from eventpost.testing.collector import uuids_in

from .kills_endpoint import WEATHER, Endpoint

END_S: Final = 20.0
AROUND_S: Final = 0.5
"""How long before its arrival was read a kill can have made a repeat: what is in a socket outlives its sender."""
SEGMENT_BYTES: Final = (1 << 18, 1 << 18, 1 << 20, 8 << 20)
MODES: Final = ("own", "own", "store", "both")


class ViolationError(AssertionError):
    """A promise did not hold."""


class Processes:
    """The parent of all processes of all rounds, from outside: one command a line."""

    def __init__(self, module: str) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, what: str, **command: Any) -> Any:
        """Give one command and return its answer."""
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(json.dumps({"do": what, **command}) + "\n")
        self.parent.stdin.flush()
        return json.loads(self.parent.stdout.readline())

    def close(self) -> None:
        """End it, and what it started."""
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.close()
        self.parent.wait(10)
        self.parent.stdout.close()


@contextmanager
def processes(module: str = "proof.kills_children") -> Iterator[Processes]:
    """Give a parent that forks."""
    there = Processes(module)
    try:
        yield there
    finally:
        there.close()


@dataclass
class Living:
    """A process of this round."""

    pid: int
    kind: str
    name: str
    sends: bool
    stopped: bool = False


@dataclass
class Found:
    """What rounds amounted to; summed over all."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, count: int = 1) -> None:
        """Count something."""
        self.counts[what] += count


class Round:
    """One round."""

    def __init__(self, seed: int, parent: Processes, folder: Path, found: Found) -> None:
        self.chance = random.Random(f"kills {seed}")
        self.parent = parent
        self.folder = folder
        self.found = found
        self.endpoint = Endpoint(random.Random(f"answers {seed}"))
        self.mode = self.chance.choice(MODES)
        self.quiet = self.chance.random() < 0.1  # no kill: then nothing may arrive twice
        self.living: list[Living] = []
        self.killed: dict[str, float] = {}
        self.kills_of_senders: list[float] = []
        self.number = 0
        self.history: list[tuple[float, str]] = []
        self.options = {
            "durability": "fsync" if self.chance.random() < 0.15 else "os",
            "segment_bytes_max": self.chance.choice(SEGMENT_BYTES),
            "linger_s": self.chance.choice([0.0, 0.01, 0.05, 0.3]),
            "batch_events_max": self.chance.choice([1, 10, 100]),
            "pause_s": self.chance.choice([0.002, 0.01, 0.05]),
            "threads": self.chance.choice([1, 1, 2]),
            "poison": self.chance.choice([0.0, 0.0, 0.002, 0.02]),
            "curl": self.chance.random() < 0.8,
        }

    @property
    def journal(self) -> str:
        """The folder that they share."""
        return str(self.folder / "journal")

    def note(self, what: str) -> None:
        """Remember what was done, for the day that something does not hold."""
        self.history.append((time.monotonic(), what))

    def start(self, kind: str, *, sends: bool, **options: Any) -> Living:
        """Start one process."""
        name = f"{kind}{self.number}"
        self.number += 1
        answer = self.parent.do(
            "start", kind=kind, name=name, journal=self.journal, url=self.endpoint.collector.url,
            witness=str(self.folder / "witness"), log=str(self.folder / "log"), **options,
        )  # fmt: skip
        process = Living(answer["pid"], kind, name, sends)
        self.living.append(process)
        self.found.add("processes")
        self.note(f"{name} starts: pid {process.pid}")
        return process

    def start_one(self, kind: str = "") -> None:
        """Start one that this round's mode has a place for."""
        senders = sum(one.kind == "send" for one in self.living)
        if kind == "send" or (not kind and self.mode != "own" and not senders):
            self.start("send", sends=True, words=[])
            return
        own = self.mode == "own" or (self.mode == "both" and self.chance.random() < 0.5)
        self.start("write", sends=own, **self.options, sender="thread" if own else "none")

    def kill(self, process: Living) -> None:
        """Kill -9, and note what it hit."""
        name = process.name if process.kind == "write" else ""
        sending = process.sends and self.endpoint.is_sending(name)
        self.parent.do("signal", pid=process.pid, number=signal.SIGKILL)
        now = time.monotonic()
        code = self.parent.do("wait", pid=process.pid, timeout_s=END_S)["code"]
        self.living.remove(process)
        if code != -signal.SIGKILL:
            raise ViolationError(f"{process.name} had ended by itself, with {code}")
        self.note(f"{process.name} is dead{' (was stopped)' if process.stopped else ''}")
        self.found.add("kills")
        self.found.add("kills of stopped processes", process.stopped)
        self.found.add("kills in the middle of sending", sending)
        if process.sends:
            self.killed[process.name] = now
            self.kills_of_senders.append(now)

    def stop(self, process: Living) -> None:
        """SIGSTOP, or SIGCONT what is stopped."""
        number = signal.SIGCONT if process.stopped else signal.SIGSTOP
        self.parent.do("signal", pid=process.pid, number=number)
        self.found.add("stops", not process.stopped)
        process.stopped = not process.stopped
        self.note(f"{process.name} is {'stopped' if process.stopped else 'going on'}")

    def ask_to_end(self, process: Living) -> None:
        """Ask one to end in order."""
        if process.stopped:
            self.stop(process)
        self.parent.do("signal", pid=process.pid, number=signal.SIGTERM)
        self.note(f"{process.name} is asked to end")

    def wait_for_end(self, process: Living) -> None:
        """Wait for one that was asked."""
        code = self.parent.do("wait", pid=process.pid, timeout_s=END_S)["code"]
        if code is None:
            self.parent.do("signal", pid=process.pid, number=signal.SIGUSR1)  # where is it?
            time.sleep(0.5)
        else:
            self.living.remove(process)
        self.note(f"{process.name} has ended with {code}")
        if code == -signal.SIGTERM:  # it had no handler yet: as good as killed, but it had nothing in hand either
            self.found.add("ended by SIGTERM before they had a handler")
        elif code != 0:
            raise ViolationError(f"{process.name} was asked to end; it ended with {code} (None: not in {END_S:g} s)")
        else:
            self.found.add("ends in order")

    def run(self) -> None:
        """Live through it, and check."""
        with self.endpoint.collector:
            for _ in range(self.chance.randint(1, 3)):
                self.start_one("write")
            if self.mode != "own":
                self.start_one("send")
            until = time.monotonic() + self.chance.uniform(0.3, 0.8)
            while time.monotonic() < until:
                time.sleep(self.chance.expovariate(1 / 0.05))
                self.act()
            self.endpoint.weather = "fine"
            for process in list(self.living):
                if not self.quiet and self.chance.random() < 0.6:
                    self.kill(process)
            for process in self.living:
                self.ask_to_end(process)
            for process in list(self.living):
                self.wait_for_end(process)
            self.drain()
        self.check()

    def act(self) -> None:
        """Do one thing to somebody."""
        drawn = self.chance.random()
        process = self.chance.choice(self.living)
        if drawn < 0.35:
            self.endpoint.weather = self.chance.choice(list(WEATHER))
            self.note(f"the endpoint is {self.endpoint.weather}")
        elif drawn < 0.55:
            self.stop(process)
        elif drawn < 0.9:
            if not self.quiet:
                self.kill(process)
                self.start_one("send" if process.kind == "send" else "")
        elif len(self.living) < 6:
            self.start_one()

    def drain(self) -> None:
        """Let ``eventpost send`` deliver what is left."""
        process = self.start("send", sends=True, words=["--until-empty", "--timeout", f"{END_S:g}"])
        code = self.parent.do("wait", pid=process.pid, timeout_s=END_S + 10)["code"]
        self.living.remove(process)
        if code != 0:
            raise ViolationError(f"what was left could not be sent: `eventpost send --until-empty` ended with {code}")

    def check(self) -> None:
        """Compare what was said with what arrived."""
        lines = (self.folder / "witness").read_text().splitlines() if (self.folder / "witness").exists() else []
        offered = {line[1:] for line in lines if line[0] == "?"}
        yes = {line[1:] for line in lines if line[0] == "+"}
        no = {line[1:] for line in lines if line[0] == "-"}
        seen = self.endpoint.collector.uuids
        bodies = (one.event.envelope.body([one.event.payload]) for one in inspect.dead_letters(self.journal))
        letters = [uuid for body in bodies for uuid in uuids_in(body)]
        dead = set(letters)
        lost = yes - seen.keys() - dead
        if lost:
            raise ViolationError(f"{len(lost)} of {len(yes)} acknowledged events are lost")
        if seen.keys() - offered or dead - offered:
            raise ViolationError(f"{len(seen.keys() - offered)} events arrived that nobody offered")
        if (seen.keys() | dead) & no:
            raise ViolationError("an event that was refused at the door was kept all the same")
        if dead - self.endpoint.refused:
            raise ViolationError(f"{len(dead - self.endpoint.refused)} dead letters that the endpoint did not refuse")
        repeats = self.repeats()
        status = inspect.folder_status(self.journal)
        again = len(letters) - len(dead - seen.keys())
        if status.bad and self.quiet:
            raise ViolationError(f"{status.bad} damaged places, and nobody was killed")
        if again and not self.kills_of_senders:
            raise ViolationError(f"{again} dead letters too many, and nobody was killed")
        too_many = status.delivered + status.dead - status.accepted
        if (status.queued, status.dropped, too_many) != (0, {}, again) or status.trouble:
            raise ViolationError(f"the folder's sum: {status}")
        if not len(yes) <= status.accepted <= len(offered) - len(no):
            raise ViolationError(f"{status.accepted} accepted, {len(yes)} acknowledged, {len(offered)} offered")
        if status.writers:
            raise ViolationError(f"{status.writers} writers are said to live, and none does")
        self.found.add("rounds")
        self.found.add(f"rounds {self.mode}")
        self.found.add("acknowledged", len(yes))
        self.found.add("refused at the door", len(no))
        self.found.add("kept though no answer came back", len((seen.keys() | dead) - yes))
        self.found.add("dead letters", len(dead))
        self.found.add("dead letters written again", again)
        self.found.add("torn tails set aside", status.bad)
        self.found.add("delivered twice", repeats)
        self.found.add("adopted after a kill", self.adopted())

    def repeats(self) -> int:
        """Count the events that were delivered more than once; each needs its excuse."""
        repeated = 0
        for uuid, stays in self.endpoint.stays.items():
            for first, second in itertools.pairwise(stays):
                repeated += 1
                killed = any(first.came_s - AROUND_S <= at <= second.came_s for at in self.kills_of_senders)
                if first.surely and not killed:
                    for number, stay in enumerate(stays):
                        self.history.append((stay.came_s, f"{uuid} of {self.endpoint.owners[uuid]} came, {number}"))
                    apart_s = second.came_s - first.left_s
                    raise ViolationError(f"an event was delivered twice, {apart_s:.3f} s apart, and nobody was killed")
        return repeated

    def adopted(self) -> int:
        """Count the events of killed processes that sent for themselves, which came once they were dead."""
        return sum(
            any(stay.came_s > self.killed[name] + AROUND_S / 2 for stay in self.endpoint.stays[uuid])
            for uuid, name in self.endpoint.owners.items()
            if name in self.killed
        )


def play(seed: int, parent: Processes, found: Found) -> None:
    """Play the round of this seed in a folder of its own; raises ViolationError."""
    with tempfile.TemporaryDirectory(prefix="eventpost-kills-") as folder:
        one = Round(seed, parent, Path(folder), found)
        try:
            one.run()
        except ViolationError:
            for process in list(one.living):
                parent.do("signal", pid=process.pid, number=signal.SIGKILL)
                parent.do("wait", pid=process.pid, timeout_s=END_S)
            log = Path(folder, "log")
            if log.exists():
                sys.stderr.write(log.read_text(errors="replace")[-4000:])
            print(f"mode {one.mode}, {one.options}", file=sys.stderr)
            for at, what in sorted(one.history):
                print(f"{at - one.history[0][0]:8.3f} s  {what}", file=sys.stderr)
            raise
