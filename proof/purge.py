"""Purges in the middle of everything: processes that live, die, hold segments and send, and a command that is killed.

The simulation's world, but its events are about visitors, alone or several, and now and then one of them is purged.
When a purge says that nothing is left, no file holds the visitor's id any more, no sole event of theirs is sent again,
what they shared with others goes on without them and otherwise unchanged, and every sum closes.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, Final

from eventpost.event import Envelope, Event
from eventpost.queues.journal import folder, inspect
from eventpost.queues.journal import purge as command

from . import simulation
from .actions import KIB, LANES, Action, Plan, Twist, draw_action
from .disk_model import Killed, Violation
from .file_system import FileSystem, Inode
from .network import Told
from .power import PowerWorld
from .power_model import ForgetfulFileSystem
from .process_model import Process
from .record import Figures
from .twists import arm
from .wiring import PATH
from .wiring import wired as wired_journal
from .world import PREFIXES, World

VISITORS: Final = ("v1", "v2", "v3")
WEIGHTS: Final = {
    "put": 34, "step": 10, "run": 10, "mood": 8, "kill": 4, "close": 3, "fork": 2, "scan": 2, "wait": 3, "full": 1,
    "room": 2, "retry_dead": 2, "discard_dead": 1, "check": 2, "purge": 12,
}  # fmt: skip
SOMETIMES: Final = (
    "purges", "purges killed", "purges with something left", "purged", "purged dead", "erased", "cut", "crashes",
    "adoptions", "dead letters", "injected errors", "acted in between", "dropped purged", "power cuts",
    "cuts in a purge",
)  # fmt: skip
TIMEOUT_S: Final = 40.0


class PurgeWorld(World):
    """See the module."""

    def __init__(self, seed: int, plan: Plan, seen: Counter[str], *, fs: type[FileSystem] = FileSystem) -> None:
        super().__init__(seed, plan, seen, fs=fs)
        self.about: dict[str, tuple[str, ...]] = {}
        self.purged = 0
        self.uncounted = False
        self.asked: set[str] = set()

    def make(self, process: Process, lane: str, form: int, size: int, thinks: str) -> Told:
        """Make an event about one visitor, or about several."""
        number = len(self.told)
        uuid = f"{self.seed:x}-{number}"
        about = tuple(self.rng.sample(VISITORS, self.rng.choice((1, 1, 1, 2, 3))))
        visitors = [b'{"visitor_id":"%s","n":%d}' % (one.encode(), number) for one in about]
        envelope = Envelope(lane)
        if form:
            prefix, suffix = PREFIXES[form - 1]
            envelope = Envelope(lane, shared=True, prefix=prefix, suffix=suffix)
            about, visitors = about[:1], visitors[:1]
            payload = visitors[0][:-1] + b',"uuid":"%s","pad":"%s"}' % (uuid.encode(), b"x" * size)
        else:
            payload = b'{"uuid":"%s","visitors":[%s],"pad":"%s"}' % (uuid.encode(), b",".join(visitors), b"x" * size)
        one = Told(uuid, Event(envelope, payload), process.kind != "memory", process.name, self.clock.monotonic())
        one.sends = process.steps
        one.poison, one.touchy = thinks == "poison", thinks == "touchy"
        if len(about) > 1:
            one.forms = set(without(payload, about, visitors))
        self.told.append(one)
        self.about[uuid] = about
        for known in (payload, *one.forms):
            self.by_payload[known] = one
        self.network.offer(one)
        return one

    def perform(self, action: Action, *, look: bool = True) -> None:
        """Do one thing; a purge is one more."""
        if action.what == "purge":
            self._purge(VISITORS[action.who % len(VISITORS)], action.twist)
        else:
            super().perform(action, look=look)

    def _purge(self, visitor: str, twist: Twist | None) -> None:
        if PATH + "/segments" not in self.fs.folders or any(what == "purge" for what, _ in self.acting):
            return
        nested = bool(self.acting)
        self.asked.add(visitor)
        before = [one for one in self.told if one.durable and visitor in self.about[one.uuid]]
        disk = self.tool_disk = self.new_disk()
        arm(self, disk, twist)
        self.acting.append(("purge", None))
        self.seen["purges"] += 1
        result = None
        try:
            result = command.purge(PATH, visitor, timeout_s=1.0 if nested else TIMEOUT_S, clock=self.clock)
        except Killed:
            self.seen["purges killed"] += 1
        except (OSError, ValueError) as error:
            self.seen[f"purge said {type(error).__name__}"] += 1
        finally:
            self.uncounted = self.uncounted or result is None
            if self.acting:  # else the power failed
                self.acting.pop()
            disk.die()
        if result is None:
            return
        self.purged += result.queued + result.dead
        for name in ("queued", "dead", "erased", "cut", "damaged"):
            self.seen[{"queued": "purged", "dead": "purged dead"}.get(name, name)] += getattr(result, name)
        if result.left:
            self.seen["purges with something left"] += 1
            self.uncounted = True
            # A process that only stores adopts nothing by itself; here it is told to, and then never runs.
            idle = [one for one in self.slots if one is not None and not one.steps and one.queue._claims.open]
            if twist is None and not nested and not idle:
                raise Violation(f"a purge left something although everybody was there: {result.left}")
            return
        for one in before:
            one.erased = one.erased or (one.said == "yes" and self.about[one.uuid] == (visitor,))
        if not nested and len(before) == sum(one.durable and visitor in self.about[one.uuid] for one in self.told):
            self._search(visitor)

    def pause(self, seconds: float) -> None:
        """Let the others go on while a purge waits for them."""
        if len(self.acting) == 1:
            for slot, process in enumerate(self.slots):
                if process is not None and process.steps:
                    super().perform(Action("step", slot), look=False)
        self.clock.advance(max(seconds, 0.25))
        self.network.advance()

    def _search(self, visitor: str) -> None:
        for path, found in self.fs.folders.items():
            for name, inode in found.names.items():
                if isinstance(inode, Inode) and b'"%s' % visitor.encode() in inode.data:
                    raise Violation(f"a purge said that nothing is left of {visitor}, and {path}/{name} holds it")

    def play(self, actions: Sequence[Action]) -> None:
        """Do all of it; then every purge is in the folder's sum."""
        with wired_journal(self), wired(self):
            super().play(actions)
            if PATH in self.fs.folders and "purge.json" in self.fs.folders[PATH].names:
                raise Violation("what a purge asked is not done, or is asked for ever")
            if not self.uncounted and not self.seen["power cuts"] and PATH + "/segments" in self.fs.folders:
                self.tool_disk = self.new_disk()
                dropped = inspect.folder_status(PATH, clock=self.clock).dropped.get("purged", 0)
                if dropped != self.purged:
                    raise Violation(f"purges told of {self.purged} events, the folder of {dropped}")


class PowerPurgeWorld(PurgeWorld, PowerWorld):
    """The same where power fails, at ``fsync``: only what nobody but purged visitors were in may be gone."""

    def __init__(self, seed: int, plan: Plan, seen: Counter[str]) -> None:
        super().__init__(seed, plan, seen, fs=ForgetfulFileSystem)

    def look(self) -> None:
        """See what is lost.  Raises Violation."""
        for one in self.told:
            one.erased = self.asked.issuperset(self.about[one.uuid])
        super().look()


def without(payload: bytes, about: Sequence[str], visitors: Sequence[bytes]) -> Iterator[bytes]:
    """Yield what a body becomes when some of its visitors, not all, are taken out, in any order."""
    for count in range(1, len(about)):
        for gone in combinations(range(len(about)), count):
            left = [index for index in range(len(about)) if index not in gone]
            changed = payload
            for index in gone:
                at = payload.index(visitors[index])
                start, stop = at, at + len(visitors[index])
                if index > left[0]:
                    start -= 1
                else:
                    stop += 1
                changed = changed[:start] + b" " * (stop - start) + changed[stop:]
            yield changed


@contextmanager
def wired(world: PurgeWorld) -> Iterator[None]:
    """Let the command work on this world."""

    def open_folder(path: str) -> folder.Folder:
        return folder.Folder(path, disk=world.tool_disk, gid=None, allow_network_fs=True)

    before = command.open_folder, command.pause
    command.open_folder, command.pause = open_folder, world.pause  # type: ignore[assignment]
    try:
        yield
    finally:
        command.open_folder, command.pause = before  # type: ignore[assignment]


def draw(seed: int, weights: dict[str, int] = WEIGHTS) -> tuple[Plan, list[Action]]:
    """Return a seed's world, and what happens in it."""
    rng = random.Random(f"{seed} purge")
    plan = Plan(
        durability=rng.choice(("os", "os", "fsync")), mapped=rng.random() < 0.8,
        overflow=rng.choice(("refuse", "refuse", "drop_oldest")),
        bytes_max=rng.choice((128 * KIB, 10_000 * KIB, 10_000 * KIB)), segment_bytes_max=rng.choice((16, 64)) * KIB,
        dead_bytes_max=None, lanes=LANES[: rng.randint(1, 2)],
        kinds=tuple(rng.choice(("both", "both", "stores", "sends")) for _ in range(rng.randint(1, 4))),
    )  # fmt: skip
    return plan, [draw_action(rng, plan, weights) for _ in range(rng.randint(10, 60))]


def draw_with_power(seed: int) -> tuple[Plan, list[Action]]:
    """The same, and its power fails: at ``fsync``, with nothing given up but by a purge."""
    plan, actions = draw(seed, {what: weight for what, weight in WEIGHTS.items() if what != "discard_dead"})
    rng = random.Random(f"{seed} purge power")
    for at, action in enumerate(actions):
        if action.what not in {"mood", "kill"} and rng.random() < (0.3 if action.what == "purge" else 0.04):
            actions[at] = action._replace(twist=Twist(rng.randrange(rng.choice((4, 40, 80))), "cut"))
    return plan._replace(durability="fsync", overflow="refuse", bytes_max=10_000 * KIB), [*actions, Action("cut")]


def power_failure(seed: int, plan: Plan, actions: Sequence[Action], seen: Counter[str]) -> BaseException | None:
    """Run a seed's world whose power fails; return what went wrong."""
    return simulation.outcome(PowerPurgeWorld(seed, plan, seen), actions)


def failure(seed: int, plan: Plan, actions: Sequence[Action], seen: Counter[str]) -> BaseException | None:
    """Run a seed's world; return what went wrong."""
    return simulation.outcome(PurgeWorld(seed, plan, seen), actions)


def run_seeds(seeds: Sequence[int], *, power: bool = False) -> Counter[str]:
    """Run many; raises AssertionError at the first that fails, with the shortest list of actions that does."""
    seen: Counter[str] = Counter()
    drawn, fails = (draw_with_power, power_failure) if power else (draw, failure)
    for seed in seeds:
        plan, actions = drawn(seed)
        error = fails(seed, plan, actions, seen)
        if error is not None:
            simulation.explain(f"purge --seed {seed}", plan, actions, error, fails)
    return seen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say how many."""
    parser.add_argument("--seeds", type=int, default=10_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, default=None, help="repeat this one only, and shorten it if it fails")


def run(arguments: argparse.Namespace) -> Figures:
    """Run it."""
    if arguments.seed is not None:
        for power in (False, True):
            run_seeds([arguments.seed], power=power)
        return {"seeds": 1}
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    seen = run_seeds(seeds) + run_seeds(seeds, power=True)
    never = [what for what in SOMETIMES if not seen[what]]
    assert not never, f"this never occurred, so nothing was tested: {never}"
    return {"seeds": arguments.seeds, "violations": 0, **{what: seen[what] for what in SOMETIMES}}
