"""Power loss: the disk forgets what was not synced, at any moment, also in the middle of a put, a sync or a rename.

At ``fsync`` no event is lost that a door said yes to.  At ``os`` the age of what is lost is measured: it must stay
within the interval of the background sync where a sender runs, and nothing is lost that a flush said is safe.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from . import simulation
from .actions import KIB, LANES, Action, Plan, Twist, draw_action
from .disk_model import Violation
from .file_system import FileSystem
from .network import Told
from .power_model import ForgetfulFileSystem
from .record import Figures
from .verdict import dead_letters
from .world import World

WEIGHTS: Final = {
    "put": 40, "run": 14, "step": 8, "flush": 5, "cut": 4, "kill": 3, "close": 3, "mood": 5, "scan": 2, "fork": 2,
    "full": 1, "room": 3, "retry_dead": 1,
}  # fmt: skip
WEIGHTS_MEASURED: Final = {"put": 40, "run": 30, "cut": 4, "mood": 4}
SYNC_INTERVAL_S: Final = 1.0
SOMETIMES: Final = (
    "power cuts", "cuts in the middle", "cuts in a put", "cuts in a step", "failed syncs", "torn tails",
    "refused sync_failed", "dead letters", "duplicates", "adoptions",
)  # fmt: skip


class PowerWorld(World):
    """A world whose power fails.  ``lost``: age in seconds, and whether a sender ran, of what a cut at ``os`` cost."""

    fs: ForgetfulFileSystem

    def __init__(
        self, seed: int, plan: Plan, seen: Counter[str], *, fs: type[FileSystem] = ForgetfulFileSystem
    ) -> None:  # fmt: skip
        super().__init__(seed, plan, seen, fs=fs)
        self.fs.rng = self.rng
        self.cut_at_s: list[float] = []
        self.lost: list[tuple[float, bool]] = []

    def cut(self) -> None:
        """End everything at once, and forget what was not synced."""
        self.seen["power cuts"] += 1
        self.seen["cuts in the middle"] += self.fs.off
        self.fs.off = False
        for disk in self.disks:
            disk.die()
        self.tool_disk = self.new_disk()
        for slot, process in enumerate(self.slots):
            if process is not None:
                self._over(slot, process)
        self.acting.clear()
        for one in self.told:
            one.excused = True  # what was noted of it may be forgotten
        self.cut_at_s.append(self.clock.monotonic())
        self.may_be_damaged = True
        self.fs.forget()
        self.clock.advance(0.001)

    def flushed(self, told: Sequence[Told], good: bool) -> None:  # noqa: FBT001 - what sync said
        """Note what a process was told is safe; a no is told once, and a later yes does not take it back."""
        for one in told:
            one.synced = one.synced or (good and not one.unsafe)
            one.unsafe = one.unsafe or not good

    def look(self) -> None:
        """See what is lost.  Raises Violation."""
        letters = dead_letters(self)
        lost = [one for one in self.told if one.durable and one.said == "yes" and not one.received and not one.erased]
        lost = [one for one in lost if one.uuid not in letters]
        if self.plan.durability == "fsync":
            if lost:
                raise Violation(f"lost at fsync: {[one.uuid for one in lost]}")
            return
        if any(one.synced for one in lost):
            raise Violation(f"lost, although a flush said it is safe: {[one.uuid for one in lost if one.synced]}")
        for one in lost:
            cut_s = next((at_s for at_s in self.cut_at_s if at_s >= one.at_s), None)
            if cut_s is None:
                raise Violation(f"lost without a cut: {one.uuid}")
            self.lost.append((cut_s - one.at_s, one.sends))


def draw(seed: int, *, durability: str, measured: bool) -> tuple[Plan, list[Action]]:
    """Return a seed's world, and what happens in it."""
    rng = random.Random(f"{seed} {durability}")
    kinds = ("both", "both", "stores", "sends")
    plan = Plan(
        durability="fsync" if durability == "fsync" else "os", mapped=rng.random() < 0.8, overflow="refuse",
        bytes_max=10_000 * KIB, segment_bytes_max=rng.choice((16, 64)) * KIB, dead_bytes_max=None,
        kinds=tuple(rng.choice(kinds) for _ in range(rng.randint(1, 3))), lanes=LANES[: rng.randint(1, 2)],
    )  # fmt: skip
    actions = []
    for _ in range(rng.randint(5, 40)):
        action = draw_action(rng, plan, WEIGHTS_MEASURED if measured else WEIGHTS)
        if measured:
            action = action._replace(twist=None)
        if action.what not in {"mood", "kill", "cut"} and rng.random() < 0.06:
            action = action._replace(twist=Twist(rng.randrange(rng.choice((4, 40))), "cut"))
        actions.append(action)
    return plan, [*actions, Action("cut")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say how many."""
    parser.add_argument("--seeds", type=int, default=10_000, help="how many seeds at fsync")
    parser.add_argument("--os-seeds", type=int, default=5_000, help="how many at os, where the loss is measured")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, default=None, help="repeat this one only, and shorten it if it fails")


def failure(
    seed: int, plan: Plan, actions: Sequence[Action], seen: Counter[str], lost: list[tuple[float, bool]] | None = None
) -> BaseException | None:
    """Run a world; return what went wrong."""
    world = PowerWorld(seed, plan, seen)
    error = simulation.outcome(world, actions)
    if error is None and lost is not None:
        lost += world.lost
    return error


def run_seeds(
    seeds: Sequence[int], durability: str, *, every: int = 1000
) -> tuple[Counter[str], list[tuple[float, bool]]]:
    """Run many at one level; raises AssertionError at the first that fails."""
    seen: Counter[str] = Counter()
    lost: list[tuple[float, bool]] = []
    began = time.monotonic()
    gc.collect()
    gc.freeze()
    for number, seed in enumerate(seeds):
        plan, actions = draw(seed, durability=durability, measured=durability == "measured")
        error = failure(seed, plan, actions, seen, lost)
        if error is not None:
            simulation.explain(f"power --seed {seed}", plan, actions, error, failure)
        if number % every == every - 1:
            print(
                f"   {durability}: {number + 1:,} seeds, {(number + 1) / (time.monotonic() - began):.0f}/s", flush=True
            )
    gc.unfreeze()
    return seen, lost


def run(arguments: argparse.Namespace) -> Figures:
    """Run it."""
    if arguments.seed is not None:
        for durability in ("fsync", "os", "measured"):
            run_seeds([arguments.seed], durability)
        return {"seeds": 1}
    first = arguments.first
    seen, _ = run_seeds(range(first, first + arguments.seeds), "fsync")
    never = [what for what in SOMETIMES if not seen[what]]
    assert not never, f"this never occurred, so nothing was tested: {never}"
    at_os, _ = run_seeds(range(first, first + arguments.os_seeds), "os")
    measured, lost = run_seeds(range(first, first + arguments.os_seeds), "measured")
    assert lost, "nothing was lost at os: the cuts tested nothing"
    sender = max((age_s for age_s, sends in lost if sends), default=0.0)
    assert sender <= SYNC_INTERVAL_S + 0.1, f"at os, a sender's process lost what was {sender:.2f} s old"
    return {
        "seeds at fsync": arguments.seeds, "lost at fsync": 0, **{what: seen[what] for what in SOMETIMES},
        "seeds at os": 2 * arguments.os_seeds, "power cuts at os": at_os["power cuts"] + measured["power cuts"],
        "lost at os where a sender runs": sum(sends for _, sends in lost),
        "oldest of them, s": round(sender, 2),
        "lost at os where none runs": sum(not sends for _, sends in lost),
        "oldest of those, s": round(max((age_s for age_s, sends in lost if not sends), default=0.0), 2),
    }  # fmt: skip
