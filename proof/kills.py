"""Real kills: ``python -m proof kills``; real processes with the real SDK, SIGKILL, SIGSTOP and an endpoint that fails.

What one round is stands in ``kills_round``; here is how many there are, what they add up to, and that they hit
something: a run in which no kill met a request in flight, or nothing was adopted, or nothing was delivered twice, has
tested nothing.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterable
from typing import Final

from .kills_round import Found, ViolationError, play, processes
from .record import Figures

SAY_EVERY_S: Final = 10.0
SOMETIMES: Final = (
    "kills",
    "kills in the middle of sending",
    "kills of stopped processes",
    "adopted after a kill",
    "delivered twice",
    "dead letters",
    "kept though no answer came back",
    "ends in order",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say how many rounds, or which one."""
    parser.add_argument("--rounds", type=int, default=500, help="how many rounds, with seeds drawn at random")
    parser.add_argument("--seed", type=int, help="play the round of this seed only")


def run(arguments: argparse.Namespace) -> Figures:
    """Play; raises SystemExit at the first promise that did not hold."""
    if arguments.seed is not None:
        return play_all([arguments.seed], sometimes=())
    chance = random.Random()
    return play_all([chance.randrange(1 << 31) for _ in range(arguments.rounds)])


def play_all(seeds: Iterable[int], *, sometimes: Iterable[str] = SOMETIMES) -> Figures:
    """Play one round for each seed and return what they add up to."""
    found = Found()
    began = said = time.monotonic()
    with processes() as parent:
        for seed in seeds:
            try:
                play(seed, parent, found)
            except ViolationError as error:
                raise SystemExit(f"seed {seed}: {error}\nrepeat it: python -m proof kills --seed {seed}") from error
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                print(f"{said - began:5.0f} s: {dict(found.counts)}", file=sys.stderr, flush=True)
    never = [what for what in sometimes if not found.counts[what]]
    if never:
        raise SystemExit(
            f"in {found.counts['rounds']} rounds there never were: {', '.join(never)}; this tested nothing"
        )
    return dict(sorted(found.counts.items())) | {"lost": 0}
