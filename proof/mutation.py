"""Mutation check: does a test fail when the code is wrong?  ``python -m proof mutation``.

Each mutant of ``queues/`` and ``sender/`` (``mutants`` makes them) is judged by the tests that run its lines, quickest
first, until one fails: by a process that has collected them (``mutation_resident``), or where that cannot tell, by one
that imports all of it anew (``mutation_judge``).  Who survives is a test that is missing, or says the same as the
original; the latter are explained in ``proof/survivors/``, a file for each module, and are not judged; any other
survivor fails the run, unless ``--unexplained`` allows so many.

All of them take about an hour on two cores.  They come in an order drawn from a seed, as many as the time allows: a
sample, whose survivors stand for all.  A mutant's place in it is its own, so it stays the same when code around it
changes, and when only some modules are chosen.  Verdicts are kept in a folder, and the next run goes on where this one
stopped.  A mutant that was killed stays so until its module changes; one that survived is tried again as soon as the
package or a test that judges it does, or with more patience.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from .mutants import PACKAGE, Mutant, modules, mutants_of
from .mutation_tests import Touched, cover, files_of, hash_of, judging, row_of, rows
from .record import ROOT, Figures

T = TypeVar("T")
R = TypeVar("R")
EXPLAINED: Final = ROOT / "proof" / "survivors"
TIMEOUT_LEAST_S: Final = 10.0
APART: Final = "tests/crash/"
"""Where tests start processes of their own."""
NOT_A_VERDICT: Final = (4, 5)
"""Exit codes of pytest: it was called wrongly, or found no tests."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say which, and how long."""
    parser.add_argument("--minutes", type=float, default=120, help="begin no further mutant after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which they come")
    parser.add_argument("--module", action="append", metavar="GLOB", help="these only, e.g. sender/retry.py")
    parser.add_argument("--patience", type=float, default=60, metavar="S", help="seconds of tests for each mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    parser.add_argument("--unexplained", type=int, default=0, metavar="N", help="so many may survive without a reason")
    parser.add_argument("--afresh", action="store_true", help="forget the verdicts of earlier runs")
    parser.add_argument("--work", type=Path, default=ROOT / ".mutation", help="where verdicts are kept")


class Verdict(NamedTuple):
    """``by``: the test that failed, "timeout", or "" for a survivor.  ``cpu_s``: what it took to know."""

    killed: bool
    by: str
    cpu_s: float


class Process:
    """A process that obeys: one command at a time."""

    def __init__(self, module: str, *arguments: str) -> None:
        words = [sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Give one command and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = self.answer()
        return answer

    def answer(self) -> Any:
        """Return the next answer."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End it, and what it started."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class Judge(Process):
    """Judges any mutant, and most of those that are killed much quicker: by a resident for each row of tests."""

    def __init__(self) -> None:
        super().__init__("proof.mutation_judge")
        self.residents: dict[str, tuple[Process, set[str]]] = {}
        self.killers: dict[tuple[str, str], list[str]] = {}
        """By module and function, the tests that killed its last mutants."""
        self.trusted: set[str] = set()
        """Tests that passed in a resident without a mutant, behind the same tests as when they killed one."""

    def do(self, what: str, **command: Any) -> dict[str, Any]:
        """Give one command and return its answer."""
        return self.ask({"do": what, **command})

    def quickly(self, row: str, tests: Mapping[str, float], **command: Any) -> Verdict | None:
        """Judge by a resident; ``tests``: the seconds that each may take.  None: it can't tell, or tests apart have to.

        Whoever fails must pass without the mutant; whoever takes too long must do so again.
        """
        if row not in self.residents:
            resident = Process("proof.mutation_resident", *files_of(row))
            self.residents[row] = resident, set(resident.answer())
        resident, collected = self.residents[row]
        mine = {test: limit_s for test, limit_s in tests.items() if test in collected}
        answer = resident.ask({**command, "tests": mine})
        by, cpu_s = answer["by"], answer["cpu_s"]
        if by and answer["code"] is None:
            again = resident.ask({**command, "tests": {by: mine[by] + TIMEOUT_LEAST_S}})
            return Verdict(True, "timeout", cpu_s + again["cpu_s"]) if again["code"] is None else None
        if by and by not in self.trusted:
            if resident.ask({**command, "source": "", "tests": {by: mine[by]}})["code"] != 0:
                return None
            self.trusted.add(by)
        if by:
            return Verdict(True, by, cpu_s)
        survives = answer["code"] == 0 and not any(test.startswith(APART) for test in tests)
        return Verdict(False, "", cpu_s) if survives else None

    def close(self) -> None:
        """End all of them."""
        for resident, _ in self.residents.values():
            resident.close()
        super().close()


class Kept:
    """The verdicts of this run and earlier ones, a line each."""

    def __init__(self, folder: Path, *, afresh: bool, patience_s: float) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "verdicts.jsonl"
        if afresh:
            self.path.unlink(missing_ok=True)
        self.patience_s = patience_s
        # As they are now: the judges have a copy, and somebody may go on writing meanwhile.
        self.modules = {module: hash_of(PACKAGE / module) for module in modules()}
        self.rows = {row: hash_of(*judging(*(ROOT / file for file in files_of(row)))) for row in rows()}
        self.verdicts: dict[tuple[str, ...], Verdict] = {}
        self.lock = threading.Lock()
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            one = json.loads(line)
            if self._holds(one):
                self.verdicts[tuple(one["key"])] = Verdict(one["killed"], one["by"], one["cpu_s"])

    def _holds(self, one: Mapping[str, Any]) -> bool:
        module = one["key"][0]
        patient = one["killed"] or one["patience_s"] >= self.patience_s
        return patient and module in self.modules and one["of"] == self._of(module, killed=one["killed"])

    def _of(self, module: str, *, killed: bool) -> str:
        return self.modules[module] if killed else self.rows[row_of(module)]

    def keep(self, mutant: Mutant, verdict: Verdict) -> None:
        """Write one down."""
        of = self._of(mutant.module, killed=verdict.killed)
        line = {"key": mutant.key, "of": of, "patience_s": self.patience_s, **verdict._asdict()}
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            self.verdicts[mutant.key] = verdict


def explanations() -> str:
    """Return what stands in all files of explanations."""
    return "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(EXPLAINED.rglob("*.txt")))


def explained(text: str) -> dict[tuple[str, str, str, str], str]:
    """Return the reason for each mutant that need not be killed.  Raises ValueError for a block without one.

    A block names module and function, then shows one mutant or more as a difference does, then says why: ``= reason``.
    """
    found: dict[tuple[str, str, str, str], str] = {}
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        module, _, where = lines[0].partition(" ")
        reason = " ".join(line[1:].strip() for line in lines if line.startswith("="))
        if not reason or len(lines) < 3:
            raise ValueError(f"without a reason: {block}")
        pairs: list[tuple[list[str], list[str]]] = []
        for line in lines[1:]:
            if line.startswith("-") and (not pairs or pairs[-1][1]):
                pairs.append(([], []))
            if line[0] in "-+":
                pairs[-1][line[0] == "+"].append(line[1:].strip())
        found.update({(module, where, "\n".join(was), "\n".join(now)): reason for was, now in pairs})
    return found


def run(arguments: argparse.Namespace) -> Figures:
    """Judge as many as the time allows; raises SystemExit for a survivor that nobody has explained."""
    chosen = [name for name in modules() if any(fnmatch(name, glob) for glob in arguments.module or ["*"])]
    everyone = [mutant for module in chosen for mutant in mutants_of(module)]
    reasons = explained(explanations())
    gone = [key for key in reasons if key[0] in chosen and key not in {mutant.key for mutant in everyone}]
    if gone:
        raise SystemExit(f"proof/survivors explains what is no mutant any more: {gone}")
    kept = Kept(arguments.work, afresh=arguments.afresh, patience_s=arguments.patience)
    order = sorted(everyone, key=lambda mutant: drawn(mutant, arguments.seed))
    for key in reasons:  # whether a test notices all the same is not worth its time
        kept.verdicts.setdefault(key, Verdict(False, "", 0.0))
    todo = [mutant for mutant in order if mutant.key not in kept.verdicts]
    print(f"   {len(everyone):,} mutants, {len(todo):,} of them without a verdict", flush=True)
    judge_all(todo, kept, arguments)
    verdicts = [(mutant, kept.verdicts[mutant.key]) for mutant in order if mutant.key in kept.verdicts]
    survivors = [mutant for mutant, verdict in verdicts if not verdict.killed]
    left = [mutant for mutant in survivors if mutant.key not in reasons]
    for mutant in sorted(left):
        print(f"\n{mutant}", file=sys.stderr)
    if len(left) > arguments.unexplained:
        raise SystemExit(f"{len(left)} of {len(verdicts)} mutants survive, and nobody has said why")
    killed = len(verdicts) - len(survivors)
    assert killed or not everyone, "nothing was killed, so nothing was judged"
    mutated = {mutant.module for mutant in everyone}
    unjudged = {mutant.module for mutant in order if mutant.key not in kept.verdicts}
    sample = [kept.verdicts[mutant.key] for mutant in takewhile(lambda mutant: mutant.key in kept.verdicts, order)]
    return {
        "mutants": len(everyone), "modules": len(mutated), "modules judged whole": len(mutated - unjudged),
        "drawn from all": len(sample), "killed of these": sum(verdict.killed for verdict in sample),
        "judged": len(verdicts), "killed": killed,
        "of them by time": sum(verdict.by == "timeout" for _, verdict in verdicts),
        "survive, with a reason": len(survivors) - len(left), "survive without one": len(left),
        "CPU seconds each": round(sum(verdict.cpu_s for _, verdict in verdicts) / max(1, len(verdicts)), 2),
    }  # fmt: skip


def drawn(mutant: Mutant, seed: int) -> str:
    """Return a mutant's place in the order of a seed."""
    return hashlib.sha256("\0".join((str(seed), *mutant.key)).encode()).hexdigest()


def judge_all(todo: Sequence[Mutant], kept: Kept, arguments: argparse.Namespace) -> None:
    """Judge them in their order, some at once, until the time is up."""
    until = time.monotonic() + 60 * arguments.minutes
    if not todo or arguments.minutes <= 0:
        return
    files = {row: files_of(row) for row in dict.fromkeys(row_of(mutant.module) for mutant in todo)}
    states = {file: hash_of(*judging(ROOT / file)) for row in files for file in files[row]}
    judges = [Judge() for _ in range(max(1, arguments.jobs))]
    covered = in_turns(judges, list(states), lambda judge, file: cover(file, states[file], judge, arguments.work))
    touched = {row: Touched([covered[file] for file in files[row]]) for row in files}
    loaded = sorted({name for one in touched.values() for name in one.modules})
    for judge in judges:
        judge.do("load", modules=loaded)
    said = Counter[str]()

    def work(judge: Judge, mutant: Mutant) -> None:
        if time.monotonic() > until:
            return
        verdict = judged(judge, mutant, touched, arguments.patience)
        kept.keep(mutant, verdict)
        said["killed" if verdict.killed else "survive"] += 1
        if sum(said.values()) % 100 == 0:
            print(f"   {sum(said.values()):,}: {dict(said)}", flush=True)

    try:
        in_turns(judges, todo, work)
    finally:
        for judge in judges:
            judge.close()


def in_turns(judges: Sequence[Judge], todo: Sequence[T], work: Callable[[Judge, T], R]) -> dict[T, R]:
    """Have judges do work in its order, each at one piece; return what came of each."""
    left = iter(todo)
    done: dict[T, R] = {}

    def one(judge: Judge) -> None:
        for piece in left:  # a list's iterator may be shared by threads
            done[piece] = work(judge, piece)

    with ThreadPoolExecutor(len(judges)) as threads:
        for doing in [threads.submit(one, judge) for judge in judges]:
            doing.result()
    return done


def judged(judge: Judge, mutant: Mutant, by_row: Mapping[str, Touched], patience_s: float) -> Verdict:
    """Let the tests see one mutant: by the quick way, which only knows who is killed, then by the thorough one."""
    row = row_of(mutant.module)
    touched = by_row[row]
    tests = touched.tests(mutant, patience_s)
    if not tests:
        return Verdict(False, "", 0.0)
    given = {"module": mutant.module, "source": mutant.source}
    killers = judge.killers.setdefault((mutant.module, mutant.where), [])
    first = [test for test in killers if test in tests]
    ordered = [*first, *(test for test in tests if test not in first)]
    verdict = judge.quickly(row, {test: 3 * touched.seconds([test]) for test in ordered}, **given)
    if verdict is not None:
        if verdict.by in ordered:
            killers[:] = [verdict.by, *(test for test in killers if test != verdict.by)]
        return verdict
    cpu_s = 0.0
    for part in touched.parts(tests):
        answer = judge.do("judge", tests=part, timeout_s=3 * touched.seconds(part) + TIMEOUT_LEAST_S, **given)
        code, cpu_s = answer["code"], cpu_s + answer["cpu_s"]
        if code in NOT_A_VERDICT:
            raise SystemExit(f"{mutant}\npytest: {answer['said']}")
        if code != 0:
            return Verdict(True, "timeout" if code is None else answer["by"] or f"exit code {code}", cpu_s)
    return Verdict(False, "", cpu_s)
