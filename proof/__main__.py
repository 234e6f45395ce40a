"""``python -m proof PART``: run one part of the proof, or ``all`` of them; ``make soak`` is ``all --record``.

A part is a module here with ``add_arguments(parser)``, whose defaults are those of ``make soak``, and
``run(arguments) -> Figures``.  It raises, or exits with 1, on the first violation, after it has said how to repeat it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from .record import record

PARTS: dict[str, str] = {
    "endpoints": "every fault of an endpoint, against both transports",
    "fuzz": "mutated segments, Retry-After headers and log events, a million each",
    "openapi": "the relay and micro, asked what their own descriptions allow and what they do not",
    "kills": "real processes with the real SDK, SIGKILL and SIGSTOP at random moments",
    "freeze": "senders that are stopped for a minute with requests in flight, and all their connections dead",
    "versions": "the crash tests under each Python that is here",
    "simulation": "one seed, the whole system: processes, forks, crashes, clocks and endpoints, on a model of a disk",
    "power": "power loss: a disk that forgets what was not synced, at any moment; lost at fsync: 0",
    "purge": "the simulation, with purges of one visitor in the middle of anything, crashes and power loss too",
    "chaos": "a constant rate while endpoint, writers and senders fail; the sum each second; nothing grows",
    "outage": "the relay's endpoint away for ten minutes, the relay killed twice meanwhile; 0 lost, no storm after it",
    "mutation": "the code made wrong in one place at a time: a test notices, or it is explained",
}
"""Name on the command line: what it does.  The module has the same name."""


def main(words: list[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m proof", description="Faults by the thousand, counted.")
    parser.add_argument("--record", action="store_true", help="write the figures to proof/results.json and docs/")
    choices = parser.add_subparsers(dest="part", required=True)
    choices.add_parser("all", help="every part, as make soak runs it")
    for name, text in PARTS.items():
        importlib.import_module(f"{__package__}.{name}").add_arguments(choices.add_parser(name, help=text))
    arguments = parser.parse_args(words)
    chosen = list(PARTS) if arguments.part == "all" else [arguments.part]
    for name in chosen:
        options = parser.parse_args([name]) if arguments.part == "all" else arguments
        print(f"== {name}: {PARTS[name]}", flush=True)
        began = time.monotonic()
        figures = importlib.import_module(f"{__package__}.{name}").run(options)
        took_s = time.monotonic() - began
        print(f"== {name}: holds, {took_s:.0f} s; " + ", ".join(f"{key} {value}" for key, value in figures.items()))
        if arguments.record:
            record(name, figures, took_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
