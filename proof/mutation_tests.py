"""Which tests judge a mutant: those that run its lines, by what was seen when they ran without one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, Protocol

from .mutants import PACKAGE, Mutant, modules
from .record import ROOT

JOURNAL: Final = ("contract/test_journal_contract", "unit/test_journal_count", "unit/test_journal_cursor",
                  "unit/test_journal_disk", "unit/test_journal_erase",
                  "unit/test_journal_forged", "unit/test_journal_format", "unit/test_journal_hands",
                  "unit/test_journal_inspect", "unit/test_journal_notes", "unit/test_journal_presence",
                  "unit/test_journal_purge", "unit/test_journal_refusals", "unit/test_journal_repair",
                  "unit/test_journal_room", "unit/test_journal_segments", "unit/test_journal_store",
                  "unit/test_journal_sync", "unit/test_journal_tail", "unit/test_journal_visitors",
                  "unit/test_journal_writer", "simulation/test_journal_model", "simulation/test_purge",
                  "simulation/test_whole_system", "crash/test_repair", "crash/test_journal_breakit",
                  "crash/test_journal_folder", "crash/test_journal_interrupted", "crash/test_purge",
                  "crash/test_disk_matrix")  # fmt: skip
SENDER: Final = ("unit/test_batch", "unit/test_breaker", "unit/test_flush", "unit/test_in_flight", "unit/test_lane",
                 "unit/test_retry", "unit/test_sender_thread", "unit/test_settlement", "unit/test_primitives",
                 "unit/test_watch", "unit/test_dispatcher", "simulation/test_sender",
                 "simulation/test_whole_system")  # fmt: skip
MEMORY: Final = ("unit/test_memory_queue", "unit/test_queue_protocol", "contract/test_queues",
                 "simulation/test_memory_model", "simulation/test_sender")  # fmt: skip
SHOWN: Final = ("unit/test_shown", "unit/test_journal_inspect", "unit/test_journal_tail")
PLACE: Final = ("unit/test_place",)
STREAMS: Final = ("unit/test_streams_parts", "unit/test_streams_blocking", "unit/test_streams_claims",
                  "unit/test_streams_commit", "unit/test_streams_ends", "unit/test_streams_hand",
                  "unit/test_streams_keeper", "unit/test_streams_places", "unit/test_streams_put",
                  "unit/test_streams_queue", "unit/test_streams_route", "unit/test_streams_settling",
                  "unit/test_streams_slots", "unit/test_streams_sweep",
                  "contract/test_streams_contract", "contract/test_streams_window",
                  "crash/test_streams_faults", "simulation/test_streams_model")  # fmt: skip
SPILL: Final = ("unit/test_spill", "contract/test_spill_contract", "simulation/test_spill_model")
TESTS: Final = {"queues/journal/*": JOURNAL, "queues/streams/*": STREAMS, "queues/spill/*": SPILL,
                "queues/shown.py": SHOWN, "queues/place.py": PLACE, "queues/view.py": PLACE, "queues/*": MEMORY,
                "sender/*": SENDER}  # fmt: skip
"""Which files of tests judge a module; the first row that fits."""
UNSEEN: Final = ("sender/thread.py", "sender/primitives.py")
"""They run on threads that no tracer sees: any test that loads them may be the one that notices."""
COVER_TIMEOUT_S: Final = 1800.0


class Judges(Protocol):
    """What this wants of a judge."""

    def do(self, what: str, **command: Any) -> dict[str, Any]:
        """Give one command and return its answer."""
        ...


def rows() -> list[str]:
    """Return the rows of TESTS."""
    return list(TESTS)


def row_of(module: str) -> str:
    """Return the row of TESTS that a module's mutants are judged by."""
    return next(glob for glob in TESTS if fnmatch(module, glob))


def files_of(row: str) -> list[str]:
    """Return the files of tests that judge a row."""
    return [f"tests/{name}.py" for name in TESTS[row]]


class Touched:
    """Which tests run which lines, and how long each of them takes."""

    def __init__(self, told: Sequence[Mapping[str, Any]]) -> None:
        self.tests_s: dict[str, float] = {}
        self.lines: dict[str, dict[str, list[str]]] = {}
        self.modules: set[str] = set()
        self.blind: set[str] = set()
        for one in told:
            self.blind |= set(one["blind"])
            self.tests_s |= one["tests_s"]
            self.modules |= set(one["modules"])
            for module, lines in one["lines"].items():
                mine = self.lines.setdefault(module, {})
                for line, tests in lines.items():
                    mine[line] = [*mine.get(line, []), *tests]

    def tests(self, mutant: Mutant, patience_s: float) -> list[str]:
        """Return the tests for a mutant, quickest first: those that run its lines.

        What is run when a module is loaded is every test's: of those files, then, of which some test runs the module.
        A blind test is taken to run all of each module of which some test of its file runs anything.
        """
        lines = self.lines.get(mutant.module, {})
        found = {test for at in range(mutant.lines[0], mutant.lines[1] + 1) for test in lines.get(str(at), ())}
        files = {test.partition("::")[0] for tests in lines.values() for test in tests}
        found |= {test for test in self.blind if test.partition("::")[0] in files}
        if mutant.module in UNSEEN or "" in found or not found:
            found = {test for test in self.tests_s if test.partition("::")[0] in files}
        chosen, left_s = [], patience_s
        for test in sorted(found & self.tests_s.keys(), key=self.tests_s.__getitem__):
            left_s -= self.tests_s[test]
            if left_s < 0 and chosen:
                break
            chosen.append(test)
        return chosen

    @staticmethod
    def parts(tests: Sequence[str]) -> list[list[str]]:
        """Return the tests of the file that has the quickest, then the others: to load them all takes its time."""
        first = tests[0].partition("::")[0]
        mine = [test for test in tests if test.partition("::")[0] == first]
        return [part for part in (mine, [test for test in tests if test not in mine]) if part]

    def seconds(self, tests: Sequence[str]) -> float:
        """Return how long these take."""
        return sum(self.tests_s[test] for test in tests)


def cover(file: str, state: str, judge: Judges, folder: Path) -> dict[str, Any]:
    """Run a file of tests without a mutant, unless that was done before; ``state``: a hash of all that it hangs on.

    They must pass.  One that fails only while it is watched (it is too slow then) judges nothing, and is named.
    """
    name = f"cover-{hashlib.sha256(file.encode()).hexdigest()[:8]}-"
    path = folder / f"{name}{state}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    for old in folder.glob(f"{name}*"):
        old.unlink()
    print(f"   {file}: seeing which test runs which line", flush=True)
    told = judge.do("cover", tests=[file], timeout_s=COVER_TIMEOUT_S)
    failed = told.get("failed", [])
    if told["code"]:
        module = modules()[0]
        source = (PACKAGE / module).read_text(encoding="utf-8")
        again = judge.do("judge", module=module, source=source, tests=failed, timeout_s=COVER_TIMEOUT_S)
        if not failed or again["code"]:
            raise SystemExit(f"without a mutant, its tests do not pass: {failed}\n{told['said']}\n{again['said']}")
        print(f"   judge nothing, for they fail while they are watched: {', '.join(failed)}", flush=True)
    seen = {
        "tests_s": {test: took_s for test, took_s in told["tests_s"].items() if test not in failed},
        "lines": told["lines"], "modules": told["modules"], "blind": told["blind"],
    }  # fmt: skip
    path.write_text(json.dumps(seen), encoding="utf-8")
    return seen


def judging(*tests: Path) -> list[Path]:
    """Return what the outcome of these files of tests hangs on: they, the package, and what they all use."""
    helpers = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_")]
    proof = [path for path in (ROOT / "proof").glob("*.py") if not path.name.startswith("mut")]
    return sorted([*PACKAGE.rglob("*.py"), *tests, *helpers, *proof])


def hash_of(*paths: Path) -> str:
    """Return a hash of what is in these files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes() if path.exists() else b"gone")
    return digest.hexdigest()[:16]
