"""Fuzzing of what strangers write: a segment's bytes, a ``Retry-After``, the object that is handed to the door.

An input is bytes: a segment, a header's value, or the choices from which a log event is made.  A target makes them from
a seeded chance and checks one with an oracle, which raises.  ``proof/corpus/<target>/`` holds inputs that once failed;
they are always run first, and a new one is written there, minimised.  A target also counts what its inputs met, and a
run in which something that it is about never happened fails: it tested nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Protocol

from .fuzz_door import DoorTarget
from .fuzz_journal import JournalTarget
from .fuzz_retry_after import RetryAfterTarget
from .record import Figures

CORPUS = Path(__file__).resolve().parent / "corpus"
HANG_S = 10.0
"""An input that takes longer than this hangs; they take microseconds."""
PROGRESS_S = 10.0
MINIMISE_S = 30.0


class Target(Protocol):
    """What is fuzzed.  ``met`` counts what the inputs so far came upon; ``must_meet`` names what a run has to."""

    name: str
    met: Counter[str]
    must_meet: tuple[str, ...]

    def __enter__(self) -> Target:
        """Make what all inputs share."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Let go of it."""
        ...

    def make(self, chance: Random) -> bytes:
        """Return a new input."""
        ...

    def check(self, data: bytes) -> None:
        """Hand in one input; raises whatever it should not."""
        ...

    def finish(self, inputs: int) -> None:
        """Do what is done once a run, to a part of the inputs; raises likewise."""
        ...


TARGETS: dict[str, Callable[[], Target]] = {
    "journal": JournalTarget,
    "retry_after": RetryAfterTarget,
    "door": DoorTarget,
}


class HangsError(AssertionError):
    """An input did not come to an end."""


class FailedError(AssertionError):
    """An input was found that fails; the message says where it lies."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")


def run(options: argparse.Namespace) -> Figures:
    """Fuzz, and return the figures."""
    seed = options.seed or time.time_ns() % 1_000_000_000
    figures: dict[str, int | float | str] = {}
    for name in TARGETS if options.target == "all" else [options.target]:
        began = time.monotonic()
        corpus, met = fuzz(name, options.inputs, seed, progress=True)
        per_s = round(options.inputs / (time.monotonic() - began))
        print(f"   {name}: seed {seed}, " + ", ".join(f"{what} {n:,}" for what, n in sorted(met.items())), flush=True)
        figures |= {f"{name} inputs": options.inputs, f"{name} inputs/s": per_s, f"{name} corpus": corpus}
    return figures


def fuzz(name: str, inputs: int, seed: int, *, progress: bool = False) -> tuple[int, Counter[str]]:
    """Run the corpus and ``inputs`` new inputs; return the corpus's size, and what was met.  Raises FailedError."""
    chance = Random(f"{name}:{seed}")
    with TARGETS[name]() as target, hangs_raise():
        kept = corpus_of(name)
        for path, data in kept:
            try:
                one(target, data)
            except Exception as error:
                raise FailedError(f"{path.name} of the corpus fails: {type(error).__name__}: {error}") from error
        began = told_at = time.monotonic()
        for number in range(inputs):
            data = target.make(chance)
            try:
                one(target, data)
            except Exception as error:
                raise FailedError(_told(target, data, error, f"input {number} of seed {seed}")) from error
            if progress and number % 256 == 0 and time.monotonic() > told_at + PROGRESS_S:
                told_at = time.monotonic()
                print(f"   {name}: {number:,} inputs, {number / (told_at - began):,.0f}/s", flush=True)
        target.finish(inputs)
        never = [what for what in target.must_meet if not target.met[what]]
        if inputs >= 1000 and never:
            raise FailedError(f"{name}: in {inputs} inputs of seed {seed} there was never: {', '.join(never)}")
        return len(kept), target.met


def one(target: Target, data: bytes) -> None:
    """Check one input, within ``HANG_S``."""
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        target.check(data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def hangs_raise() -> Iterator[None]:
    """Let the alarm raise ``HangsError`` in the main thread."""

    def alarm(number: int, frame: object) -> None:
        del number, frame
        raise HangsError(f"it takes more than {HANG_S:g} s")

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- the corpus, and making an input small ---------------------------------------------------------------------------


def corpus_of(name: str) -> list[tuple[Path, bytes]]:
    """Return the kept inputs of a target.  They are deflated: a segment is mostly zeros."""
    return [(path, zlib.decompress(path.read_bytes())) for path in sorted((CORPUS / name).glob("*.z"))]


def keep(name: str, data: bytes) -> Path:
    """Put an input into the corpus."""
    path = CORPUS / name / f"{hashlib.sha256(data).hexdigest()[:16]}.z"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zlib.compress(data, 9))
    return path


def _told(target: Target, data: bytes, error: Exception, where: str) -> str:
    small = minimise(data, lambda other: fails_alike(target, other, error))
    path = keep(target.name, small)
    return (
        f"{target.name}: {where} fails: {type(error).__name__}: {error}; minimised to {len(small)} bytes in "
        f"proof/corpus/{target.name}/{path.name}, which every run begins with: "
        f"python -m proof fuzz --target {target.name} --inputs 0"
    )


def fails_alike(target: Target, data: bytes, error: Exception) -> bool:
    """Tell whether an input fails with the same kind of error."""
    try:
        one(target, data)
    except Exception as other:  # noqa: BLE001 - whatever it is, it is compared
        return type(other) is type(error)
    return False


def minimise(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Return a smaller input that fails, too: chunks cut off or out, then made zero, by halves; bounded in time."""
    until = time.monotonic() + MINIMISE_S
    for fill in (0, 1):  # first out with it, then zeros in its place
        size = max(1, len(data) // 2)
        while size and time.monotonic() < until:
            at = len(data) - size
            while at > -size and time.monotonic() < until:
                start = max(0, at)
                part = data[start : at + size]
                other = data[:start] + bytes(len(part) * fill) + data[at + size :]
                if other != data and fails(other):
                    data = other
                at -= size
            size //= 2
    return data
