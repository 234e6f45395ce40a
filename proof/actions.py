"""What happens in a run, drawn up-front from its seed: a list, so that a failing one can be shortened.

Every action makes sense alone: it names a slot, and where no process lives there, one is started first.  A twist says
what befalls the process in the middle of it, at its n-th call of the disk.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from eventpost.queues.protocol import Overflow

from .network import MOODS

KIB: Final = 1024
LANES: Final = tuple(f"http://127.0.0.1:9/{name}/v1/events" for name in "abc")
ERRORS: Final = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EACCES)
WHAT: Final = {
    "put": 30, "step": 14, "run": 12, "mood": 10, "kill": 5, "close": 3, "fork": 4, "flush": 3, "scan": 3, "clock": 3,
    "wait": 4, "full": 2, "room": 3, "retry_dead": 2, "discard_dead": 1, "check": 2,
}  # fmt: skip


class Twist(NamedTuple):
    """At the call that comes after ``calls`` others: ``what`` is kill, cut, error (an errno) or nest (an action)."""

    calls: int
    what: Literal["kill", "cut", "error", "nest"]
    extra: Any = None


class Action(NamedTuple):
    """``what`` with its arguments, done by the process in slot ``who``."""

    what: str
    who: int = 0
    args: tuple[Any, ...] = ()
    twist: Twist | None = None


class Plan(NamedTuple):
    """What a run's world is like."""

    durability: Literal["os", "fsync"]
    mapped: bool
    overflow: Overflow
    bytes_max: int
    segment_bytes_max: int
    dead_bytes_max: int | None
    kinds: tuple[str, ...]
    lanes: tuple[str, ...]


def draw_plan(rng: random.Random) -> Plan:
    """Draw what the world is like."""
    return Plan(
        durability=rng.choice(("os", "os", "fsync")),
        mapped=rng.random() < 0.8,
        overflow=rng.choice(("refuse", "refuse", "drop_oldest")),
        bytes_max=rng.choice((64 * KIB, 128 * KIB, 10_000 * KIB, 10_000 * KIB)),
        segment_bytes_max=rng.choice((16 * KIB, 64 * KIB)),
        dead_bytes_max=rng.choice((None, None, 20 * KIB)),
        kinds=tuple(rng.choice(("both", "both", "stores", "sends", "memory")) for _ in range(rng.randint(2, 4))),
        lanes=LANES[: rng.randint(1, 3)],
    )


def draw_put(rng: random.Random, plan: Plan) -> tuple[Any, ...]:
    """Draw what is put at once: lane, envelope, size of the filling, and what the endpoint thinks of it, of each."""
    several = rng.random() < 0.3
    return tuple(
        (
            rng.choice(plan.lanes),
            rng.choice((0, 0, 1, 2)),
            rng.choice((0, 0, 0, 40, 300, 300, 3000)) if rng.random() < 0.98 else rng.choice((12_000, 70_000)),
            rng.choice(("poison", "touchy")) if rng.random() < 0.08 else "",
        )
        for _ in range(rng.randint(2, 6) if several else 1)
    )


def draw_args(what: str, rng: random.Random, plan: Plan) -> tuple[Any, ...]:
    """Draw an action's arguments."""
    if what == "put":
        return draw_put(rng, plan)
    if what == "run":
        return (rng.choice((0.3, 1.0, 3.0, 12.0)),)
    if what == "mood":
        return (rng.choice(plan.lanes), rng.choice(MOODS))
    if what == "clock":
        return (rng.choice((-2.0, 2.0, -3600.0, 3600.0, -86_400.0, -4e7, 4e6)),)
    if what == "wait":
        return (rng.choice((0.01, 0.5, 6.0, 70.0)),)
    if what == "full":
        return (rng.randint(0, 9),)
    return ()


def draw_action(rng: random.Random, plan: Plan, weights: dict[str, int], *, depth: int = 0) -> Action:
    """Draw one action, and what befalls it."""
    what = rng.choices(list(weights), list(weights.values()))[0]
    who = rng.randrange(len(plan.kinds))
    twist = None
    chance = rng.random()
    calls = rng.randrange(4) if rng.random() < 0.5 else rng.randrange(40)
    if what in {"mood", "clock", "full", "room", "wait", "kill", "check"}:
        pass
    elif chance < 0.05:
        twist = Twist(calls, "kill")
    elif chance < 0.09:
        twist = Twist(calls, "error", rng.choice(ERRORS))
    elif chance < 0.18 and depth < 2:
        twist = Twist(calls, "nest", draw_action(rng, plan, weights, depth=depth + 1))
    return Action(what, who, draw_args(what, rng, plan), twist)


def draw(seed: int) -> tuple[Plan, list[Action]]:
    """Return a seed's world, and what happens in it."""
    rng = random.Random(seed)
    plan = draw_plan(rng)
    return plan, [draw_action(rng, plan, WHAT) for _ in range(rng.randint(10, 70))]


def shrink(actions: Sequence[Action], fails: Callable[[list[Action]], bool]) -> list[Action]:
    """Return a shorter list that still fails: chunks are left out while it does, then twists."""
    left = list(actions)
    size = max(1, len(left) // 2)
    while True:
        at, shorter = 0, False
        while at < len(left):
            without = left[:at] + left[at + size :]
            if fails(without):
                left, shorter = without, True
            else:
                at += size
        if size == 1 and not shorter:
            break
        size = max(1, size // 2)
    for at, action in enumerate(left):
        if action.twist is not None:
            plain = [*left[:at], action._replace(twist=None), *left[at + 1 :]]
            if fails(plain):
                left = plain
    return left
