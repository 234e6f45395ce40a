"""One seed, the whole system: processes, forks, crashes, clock steps, full disks, and endpoints that answer anything.

Journal, queue in memory and sender are the product's own; the disk under them, time, chance and the network are
models.  After each run every acknowledged event is delivered, dead, or dropped with a reason; none is invented, none
is changed, and none is sent twice but where a crash or an unknown answer allows it.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from .actions import Action, Plan, draw, shrink
from .disk_model import Killed, PowerCut
from .record import Figures
from .world import World

SOMETIMES: Final = (
    "duplicates", "crashes", "killed in the middle", "torn tails", "adoptions", "breakers open", "breakers held",
    "dead letters", "clock steps forwards", "clock steps backwards", "forks", "full disks", "refused disk_full",
    "refused queue_full", "unknown answers", "late arrivals", "acted in between", "injected errors", "failed syncs",
    "dropped overflow", "dropped dead_expired", "retry_dead", "discard_dead",
)  # fmt: skip
"""What must have happened at least once in a run of many seeds, or it tested nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say how many."""
    parser.add_argument("--seeds", type=int, default=10_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, default=None, help="repeat this one only, and shorten it if it fails")


def outcome(world: World, actions: Sequence[Action]) -> BaseException | None:
    """Play a world; return what went wrong."""
    try:
        world.play(actions)
    except (KeyboardInterrupt, SystemExit):
        raise
    except (Killed, PowerCut) as error:
        return AssertionError(f"{error!r} came out of the world")
    except BaseException as error:  # noqa: BLE001 - a Violation, or a mistake that nobody caught: either ends the run
        return error
    return None


def failure(seed: int, plan: Plan, actions: Sequence[Action], seen: Counter[str]) -> BaseException | None:
    """Run a seed's world; return what went wrong."""
    return outcome(World(seed, plan, seen), actions)


def run_seeds(seeds: Sequence[int], *, every: int = 1000) -> Counter[str]:
    """Run many; raises AssertionError at the first that fails, with the shortest list of actions that does."""
    seen: Counter[str] = Counter()
    began = time.monotonic()
    gc.collect()
    gc.freeze()
    for number, seed in enumerate(seeds):
        plan, actions = draw(seed)
        seen["actions"] += len(actions)
        error = failure(seed, plan, actions, seen)
        if error is not None:
            explain(f"simulation --seed {seed}", plan, actions, error, failure)
        if number % every == every - 1:
            print(f"   {number + 1:,} seeds, {(number + 1) / (time.monotonic() - began):.0f}/s", flush=True)
    gc.unfreeze()
    return seen


def kind_of(error: BaseException | None) -> str:
    """Return what tells one failure from another, whatever events and processes it names."""
    return re.sub(r"[^a-z ]", "", f"{type(error).__name__} {error}".lower())[:30]


def explain(
    again: str, plan: Plan, actions: Sequence[Action], error: BaseException,
    failure: Callable[[int, Plan, Sequence[Action], Counter[str]], BaseException | None],
) -> None:  # fmt: skip
    """Say what failed and how to repeat it, shortened; raises AssertionError.  ``again``: the part and its seed."""
    kind, seed = kind_of(error), int(again.rsplit(" ", 1)[1])
    print(f"{again} fails: {error!r}; shortening {len(actions)} actions ...", flush=True)
    short = shrink(actions, lambda some: kind_of(failure(seed, plan, some, Counter())) == kind)
    last = failure(seed, plan, short, Counter())
    assert last is not None, "it does not repeat itself"
    traceback.print_exception(last)
    print(f"{plan}\n" + "\n".join(f"  {action}" for action in short), file=sys.stderr)
    raise AssertionError(f"{last}\nrepeat it: python -m proof {again}") from last


def run(arguments: argparse.Namespace) -> Figures:
    """Run it."""
    if arguments.seed is not None:
        run_seeds([arguments.seed])
        return {"seeds": 1}
    seen = run_seeds(range(arguments.first, arguments.first + arguments.seeds))
    never = [what for what in SOMETIMES if not seen[what]]
    assert not never, f"this never occurred, so nothing was tested: {never}"
    return {"seeds": arguments.seeds, "violations": 0, **{what: seen[what] for what in ("actions", *SOMETIMES)}}
