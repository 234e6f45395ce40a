"""The world of one seed: a disk, a clock, a network, some processes; what is done to them, and what must hold.

Only one thing happens at a time; where two processes meet, one of them acts within a call of the disk that the other
has just made (a twist).  That is enough to bring about every order that matters between two of them, and repeats
itself exactly.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from eventpost.errors import JournalUnusable, QueueError
from eventpost.event import Envelope, Event
from eventpost.queues.journal import inspect

from .actions import Action, Plan, Twist
from .disk_model import Killed, ModelDisk, PowerCut, Violation
from .file_system import NEVER, FileSystem
from .network import Network, Told
from .process_model import Process
from .twists import WorldClock, arm
from .wiring import PATH, wired

PREFIXES: Final = ((b'{"visitors":[', b"]}"), (b'{"revision":"7","visitors":[', b'],"x":"\xc3\xa9"}'))


class World:
    """See the module."""

    path = PATH

    def __init__(self, seed: int, plan: Plan, seen: Counter[str], *, fs: type[FileSystem] = FileSystem) -> None:
        self.seed = seed
        self.plan = plan
        self.seen = seen
        self.rng = random.Random(f"{seed} chance")
        self.clock = WorldClock(epoch_s=1_700_000_000.0)
        self.fs = fs(self.clock.time)
        self.network = Network(self.clock, self.rng, seen)
        self.slots: list[Process | None] = [None] * len(plan.kinds)
        self.told: list[Told] = []
        self.by_payload: dict[bytes, Told] = {}
        self.ended: list[Process] = []
        self.started = 0
        self.slack = 0
        self.may_be_damaged = False
        self.acting: list[tuple[str, Process | None]] = []
        self.disks: list[ModelDisk] = []
        self.tool_disk = self.new_disk()

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        return self

    def new_disk(self, *, mapped: bool = True) -> ModelDisk:
        """Return hands on the disk for one more process."""
        self.disks = [disk for disk in self.disks if disk.dead is None]
        self.disks.append(ModelDisk(self.fs, mapped=mapped))
        return self.disks[-1]

    # -- processes

    def start(self, slot: int, twist: Twist | None) -> Process | None:
        """Start a process in a free slot; None if it died of it, or could not use the folder."""
        self.started += 1
        disk = self.new_disk(mapped=self.plan.mapped)
        arm(self, disk, twist)
        try:
            process = Process(self, f"p{self.started}", self.plan.kinds[slot], disk)
        except (Killed, JournalUnusable):
            disk.die()
            return None
        disk.clear_trap()
        if self.slots[slot] is not None:  # somebody started there in between
            disk.die()
            return None
        self.slots[slot] = process
        return process

    def gone(self, slot: int, process: Process) -> None:
        """Note that a process was killed."""
        self.seen["crashes"] += 1
        if process.disk.dead is None:
            process.disk.die()
        if process.kind != "memory":
            for one in process.burying:
                one.excused = True
                self.slack += 1
        self._over(slot, process)

    def _over(self, slot: int, process: Process) -> None:
        if self.slots[slot] is process:
            self.slots[slot] = None
        self.network.cut(process.name)
        for one in self.told:
            if one.holder == process.name:
                one.holder = None

    def close(self, slot: int, process: Process) -> None:
        """Let a process end in order."""
        process.close()
        process.check()
        if process.disk.table:
            raise Violation(f"{process} leaves descriptors open: {len(process.disk.table)}")
        self.ended.append(process)
        self._over(slot, process)

    def fork(self, process: Process) -> None:
        """Fork a process into a free slot; parent and child go on."""
        free = [slot for slot, other in enumerate(self.slots) if other is None]
        if not free:
            return
        self.seen["forks"] += 1
        self.started += 1
        memo: dict[int, Any] = {}
        child: Process = copy.deepcopy(process, memo)
        child.name = f"p{self.started}"
        self.disks.append(child.disk)
        child.disk.clear_trap()
        child.to_note.clear()
        if self.rng.random() < 0.2:  # it ends before anything of ours runs in it
            child.disk.die()
            return
        child.queue.after_fork_in_child()
        child.transport.after_fork_in_child()
        child.sender.after_fork_in_child()
        child.due = 0.0
        self.slots[free[0]] = child

    # -- actions

    def perform(self, action: Action, *, look: bool = True) -> None:
        """Do one thing, then see whether the process's sum closes."""
        what, who, args, twist = action
        if what == "cut":
            raise PowerCut
        if what in {"mood", "clock", "wait", "full", "room", "run", "retry_dead", "discard_dead", "check"}:
            if what != "run" or not self.acting:  # within somebody's call no time goes by
                if twist is not None and what in {"run", "retry_dead", "discard_dead"}:
                    self._tool(what, args, twist)
                else:
                    getattr(self, "step_clock" if what == "clock" else what)(*args)
                if what == "run":
                    for process in self.slots:
                        if process is not None:
                            process.check()
            return
        process = self.slots[who]
        doing = [was for was, other in self.acting if other is process and process is not None]
        if doing and not (what == "put" and set(doing) <= {"put", "close", "flush"}):
            return  # it is in the middle of something; a signal handler may put all the same
        if process is None:
            process = self.start(who, twist)
            if process is None:
                return
            if twist is not None and twist.what == "nest":
                twist = None
        self.acting.append((what, process))
        if not doing:
            arm(self, process.disk, twist)
        try:
            self._do(what, who, args, process)
        except Killed:
            if doing:
                raise  # the whole process is gone, with what was interrupted
            self.gone(who, process)
        finally:
            self.acting.pop()
            if not doing:
                process.disk.clear_trap()
        if look and self.slots[who] is process and not self.acting:
            process.check()

    def _do(self, what: str, who: int, args: tuple[Any, ...], process: Process) -> None:
        if what == "put":
            process.put([self.make(process, *arguments) for arguments in args])
        elif what == "step":
            if process.steps:
                process.step()
        elif what == "kill":
            self.gone(who, process)
        elif what == "close":
            self.close(who, process)
        elif what == "fork":
            self.fork(process)
        elif what == "flush":
            if process.steps:
                process.sender.request_flush()
            if process.kind == "stores" or (process.kind != "memory" and self.rng.random() < 0.5):
                before = [one for one in self.told if one.owner == process.name and one.said == "yes"]
                self.flushed(before, process.queue.sync(1.0))
        elif what == "scan" and process.kind != "memory":
            process.queue.scan()

    def flushed(self, told: Sequence[Told], good: bool) -> None:  # noqa: FBT001 - what sync said
        """Note whether a process was told that all of this is safe."""

    def make(self, process: Process, lane: str, form: int, size: int, thinks: str) -> Told:
        """Make an event that nobody ever saw."""
        number = len(self.told)
        uuid = f"{self.seed:x}-{number}"
        payload = b'{"uuid":"%s","timestamp":%d,"entity_id":"%d","pad":"%s"}' % (
            uuid.encode(), 1_700_000_000_000 + number, number * 7, b"x" * size,
        )  # fmt: skip
        envelope = Envelope(lane)
        if form:
            prefix, suffix = PREFIXES[form - 1]
            envelope = Envelope(lane, shared=True, prefix=prefix, suffix=suffix)
        one = Told(uuid, Event(envelope, payload), process.kind != "memory", process.name, self.clock.monotonic())
        one.sends = process.steps
        one.poison, one.touchy = thinks == "poison", thinks == "touchy"
        self.told.append(one)
        self.by_payload[payload] = one
        self.network.offer(one)
        return one

    def mood(self, lane: str, mood: str) -> None:
        """Let an endpoint answer otherwise from now on."""
        self.network.moods[lane] = mood

    def step_clock(self, seconds: float) -> None:
        """Step the wall clock."""
        self.seen["clock steps forwards" if seconds > 0 else "clock steps backwards"] += 1
        self.clock.step(seconds)

    def wait(self, seconds: float) -> None:
        """Let time go by, in which nobody gets to run."""
        self.clock.advance(seconds)
        self.network.advance()

    def full(self, blocks: int) -> None:
        """Let others fill the disk but for a few blocks."""
        self.seen["full disks"] += 1
        self.fs.capacity = self.fs.used + blocks

    def room(self) -> None:
        """Let there be room again."""
        self.fs.capacity = NEVER

    def run(self, seconds: float) -> None:
        """Let everybody with a sender run for so long."""
        until, rounds, at = self.clock.monotonic() + seconds, 0, -1.0
        while True:
            now = self.clock.monotonic()
            rounds, at = (rounds + 1, at) if now < at + 0.001 else (0, now)
            if rounds > 100:
                raise Violation("a sender spins")
            self.network.advance()
            for slot, process in enumerate(self.slots):
                if process is not None and process.steps and process.next_s() <= now:
                    self.perform(Action("step", slot), look=False)
            nexts = [process.next_s() for process in self.slots if process is not None and process.steps]
            due = min(nexts, default=until)
            if due >= until:
                self.clock.advance(max(0.0, until - self.clock.monotonic()))
                self.network.advance()
                break
            self.clock.advance(max(1e-6, due - now))

    def check(self) -> None:
        """Look at the folder from outside."""
        if not self.acting and PATH + "/segments" in self.fs.folders and not self.slack and not self.may_be_damaged:
            self.tool_disk = self.new_disk()
            status = inspect.folder_status(PATH, clock=self.clock)
            if not status.closes:
                raise Violation(f"the folder's sum does not close: {status}")

    def retry_dead(self) -> None:
        """Put all dead letters back, as the command line does."""
        self._tool("retry_dead", (), None)

    def discard_dead(self) -> None:
        """Give all dead letters up, as the command line does."""
        self._tool("discard_dead", (), None)

    def _tool(self, what: str, args: tuple[Any, ...], twist: Twist | None) -> None:
        if what == "run":
            slot = self.rng.randrange(len(self.slots))
            victim = self.slots[slot]
            if victim is not None and victim.steps:
                arm(self, victim.disk, twist)
            self.run(*args)
            if victim is not None:
                victim.disk.clear_trap()
            return
        if PATH + "/segments" not in self.fs.folders:
            return
        disk = self.tool_disk = self.new_disk()
        arm(self, disk, twist)
        self.acting.append((what, None))
        try:
            work: Callable[..., int] = getattr(inspect, what)
            self.seen[what] += work(PATH, None)
        except Killed:
            self.seen["crashes"] += 1
            self.slack += 1
            self.tool_disk = self.new_disk()
            for letter in inspect.dead_letters(PATH):
                self.by_payload[letter.event.payload].excused = True
        except (OSError, ValueError, KeyError, QueueError) as error:
            self.seen[f"tool said {type(error).__name__}"] += 1
        finally:
            self.acting.pop()
            disk.die()

    def play(self, actions: Sequence[Action]) -> None:
        """Do all of it, then let the rest come to its end, then look."""
        from .verdict import finish

        with wired(self):
            for action in actions:
                try:
                    self.perform(action)
                except PowerCut:
                    self.cut()
            finish(self)

    def look(self) -> None:
        """See what a power cut cost."""

    def cut(self) -> None:
        """End everything at once, and forget what was not synced."""
        raise AssertionError("this disk knows no power")
