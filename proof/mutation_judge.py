"""Judges mutants, one command a line: ``python -m proof.mutation_judge`` (JSON on stdin, JSON on stdout).

Starting an interpreter with pytest and all that the tests import takes ten times as long as most mutants live.  So one
process imports what is not ours, once, and forks; the child finds product and tests in a copy of all of this, in which
the mutant has taken its module's place, runs the tests that it is told until one fails, and ends.  Processes that tests
start find the same copy.  A child is a group of processes with a folder for temporary files of its own, and both go
with it.  Nothing of ours may be imported here: it must be imported in the child, from the copy.
"""

from __future__ import annotations

import compileall
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = Path("src", "eventpost")
OURS: Final = ("eventpost", "proof", "tests", "conftest", "support", "exit_ends", "exit_servers")
MUTATED: Final = ("queues", "sender")
POLL_S: Final = 0.005
MEMORY_BYTES_MAX: Final = 4 << 30
FILE_BYTES_MAX: Final = 1 << 30
PYTEST: Final = (
    "-x",
    "-q",
    "--tb=no",
    "--no-header",
    "-p",
    "no:cacheprovider",
    "--hypothesis-profile=mutation",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)


class Chosen:
    """Runs these tests only, in this order; ``failed``: the first that failed."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.order = {test: at for at, test in enumerate(tests)}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid]
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what failed."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


class Touching:
    """Notes how long each test takes, and by which tests each line is run.

    A test that sets a tracer of its own (``support.interrupted``) is not seen to run all that it runs: ``blind``.
    """

    def __init__(self, coverage: Any, copy: Path) -> None:
        self.coverage = coverage
        self.tests_s: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []
        self.blind: set[str] = set()
        self.now = ""
        settrace = sys.settrace

        def noted(tracer: Any) -> None:
            if sys._getframe(1).f_code.co_filename.startswith(str(copy)):
                self.blind.add(self.now)
            settrace(tracer)

        sys.settrace = noted

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Let what is run be this test's."""
        self.now = item.nodeid
        self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            if item.nodeid in self.blind:  # what it put back sees no further test
                self.coverage.stop()
                self.coverage.start()
            self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up."""
        self.tests_s[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)
        if report.skipped:
            self.tests_s.pop(report.nodeid, None)


class Judge:
    """See the module.  ``root``: where the copy lies, and what children leave."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.chmod(0o755)  # some tests become another user
        self.copy = root / "copy"
        shutil.copytree(ROOT, self.copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist"))
        compileall.compile_dir(self.copy / "src", quiet=1)

    def cover(self, tests: Sequence[str], timeout_s: float) -> dict[str, Any]:
        """Run these files without a mutant; return each test's seconds, its lines by module, and what they load."""
        out = self.root / "cover.json"
        out.unlink(missing_ok=True)

        def work() -> int:
            import coverage

            tracer = coverage.Coverage(
                data_file=None, include=[f"{self.copy / PACKAGE / part}/*" for part in MUTATED], config_file=False
            )
            tracer.start()
            touching = Touching(tracer, self.copy)
            code = int(pytest.main(self._words(tests)[1:], [touching]))
            tracer.stop()
            data = tracer.get_data()
            lines = {
                os.path.relpath(file, self.copy / PACKAGE): data.contexts_by_lineno(file)
                for file in data.measured_files()
            }
            loaded = sorted(name for name in sys.modules if name.partition(".")[0] not in OURS)
            told = {
                "tests_s": touching.tests_s, "failed": touching.failed, "blind": sorted(touching.blind),
                "lines": lines, "modules": loaded,
            }  # fmt: skip
            out.write_text(json.dumps(told))
            return code

        verdict = self._in_child(work, timeout_s)
        return verdict | (json.loads(out.read_text()) if out.exists() else {})

    def load(self, modules: Sequence[str]) -> dict[str, Any]:
        """Load these, once for all children; those of ours are never among them."""
        for name in modules:
            try:
                importlib.import_module(name)
            except Exception:  # noqa: BLE001 - then each child has to
                continue
        gc.freeze()
        return {}

    def judge(self, module: str, source: str, tests: Sequence[str], timeout_s: float) -> dict[str, Any]:
        """Run these tests with this in the module's place."""
        path = self.copy / PACKAGE / module
        before = path.read_text(encoding="utf-8")
        path.write_text(source, encoding="utf-8")
        Path(cache_from_source(str(path))).unlink(missing_ok=True)
        said = self.root / "failed"
        said.unlink(missing_ok=True)

        def work() -> int:
            chosen = Chosen(tests)
            code = int(pytest.main(self._words(tests), [chosen]))
            said.write_text(chosen.failed)
            return code

        try:
            return self._in_child(work, timeout_s) | {"by": said.read_text() if said.exists() else ""}
        finally:
            path.write_text(before, encoding="utf-8")

    def _words(self, tests: Sequence[str]) -> list[str]:
        """Return what pytest is told; ``-x`` stands first."""
        files = dict.fromkeys(str(self.copy / test.partition("::")[0]) for test in tests)
        return [*PYTEST, f"--rootdir={self.copy}", f"--config-file={self.copy / 'pyproject.toml'}", *files]

    def _in_child(self, work: Callable[[], int], timeout_s: float) -> dict[str, Any]:
        folder = Path(tempfile.mkdtemp(dir=self.root))
        folder.chmod(0o755)
        began = time.monotonic()
        child = os.fork()
        if not child:
            self._be_the_child(work, folder)
        code: int | None = None
        while code is None and time.monotonic() < began + timeout_s:
            done, status, used = os.wait4(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(POLL_S)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what a test has left behind
        if code is None:
            _, _, used = os.wait4(child, 0)
        said = (folder / "said").read_text(errors="replace")[-2000:] if (folder / "said").exists() else ""
        shutil.rmtree(folder, ignore_errors=True)
        cpu_s = round(used.ru_utime + used.ru_stime, 3)
        return {"code": code, "took_s": round(time.monotonic() - began, 3), "cpu_s": cpu_s, "said": said}

    def _be_the_child(self, work: Callable[[], int], folder: Path) -> None:
        code = 99
        try:
            os.setsid()
            out = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
            os.environ["PYTHONPATH"] = os.pathsep.join([str(self.copy / "src"), str(self.copy)])
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            os.environ["TMPDIR"] = str(folder)
            os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder)
            tempfile.tempdir = None
            sys.path[:] = [str(self.copy / "src"), *(path for path in sys.path if path not in ("", str(ROOT)))]
            for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
                del sys.modules[name]
            os.chdir(folder)
            code = work()
        except BaseException:  # noqa: BLE001 - the child must not return into its parent's code
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def register_profile() -> None:
    """Let hypothesis try the same examples each time, and look for no shorter ones."""
    hypothesis.settings.register_profile(
        "mutation", database=None, deadline=None, derandomize=True, max_examples=100,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip


def main() -> None:
    """Obey until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it closes the pipe
    register_profile()
    with tempfile.TemporaryDirectory(prefix="eventpost-mutation-") as root:
        judge = Judge(Path(root))
        for line in sys.stdin:
            command = json.loads(line)
            answer = getattr(judge, command.pop("do"))(**command)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
