"""Judges mutants of functions in some milliseconds each: ``python -m proof.mutation_resident FILE...``.

``mutation_judge`` imports product and tests anew for each mutant, which takes longer than most of them live.  This
process has imported the product and collected the tests of some files, once.  For each mutant it forks; the child gives
the functions that the mutant changes their new code, runs the tests that it is told until one fails, and ends.  Tests
that start processes of their own do not see the mutant here: these are left to ``mutation_judge``, and so is what is no
function's code (a constant, a class's attribute).

One command a line on stdin, one answer a line on stdout, JSON.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.runner import runtestprotocol  # what pytest's own loop calls; there is no public name for it

from .mutation_judge import FILE_BYTES_MAX, MEMORY_BYTES_MAX, POLL_S, PYTEST, ROOT, register_profile

TAKE_IN_S: Final = 3.0
CANNOT: Final = 77
"""Exit code of a child that could not take the mutant in."""
Function = types.FunctionType


def functions(names: Mapping[str, Any], home: str, owner: str = "") -> Iterator[tuple[str, Function]]:
    """Yield the functions of a module and of its classes, beneath their decorators, each with where it was found.

    What they call themselves does not tell them apart: those that ``dataclass`` makes have one name in all classes.
    """
    for name, found in list(names.items()):
        if isinstance(found, type) and found.__module__ == home:
            yield from functions(vars(found), home, f"{owner}{name}.")
            continue
        one = found.__func__ if isinstance(found, staticmethod | classmethod) else found
        for kind, accessor in (("", one.fget), ("=", one.fset)) if isinstance(one, property) else (("", one),):
            inner = inspect.unwrap(accessor) if callable(accessor) else accessor
            if isinstance(inner, Function) and inner.__module__ == home:
                yield f"{owner}{name}{kind}", inner


def outside(source: str) -> str:
    """Return what of a module is in no function."""
    return ast.dump(Outside().visit(ast.parse(source)))


class Outside(ast.NodeTransformer):
    """Leaves of a function its name."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.expr:
        """Take out what is in it."""
        return ast.Name(node.name)


def changed(real: types.ModuleType, source: str) -> list[tuple[Function, Function]]:
    """Return the functions that a mutant changes, each with its new self; none: it changes something else.

    Functions may differ although nothing in them does: where a constant has fewer lines, they stand elsewhere.
    Raises whatever its module raises when it is run.
    """
    if outside(source) != outside(Path(str(real.__file__)).read_text(encoding="utf-8")):
        return []
    mutant = types.ModuleType(real.__name__)
    mutant.__dict__.update({name: getattr(real, name) for name in ("__file__", "__package__", "__spec__")})
    sys.modules[real.__name__] = mutant
    try:
        exec(compile(source, str(real.__file__), "exec"), mutant.__dict__)
    finally:
        sys.modules[real.__name__] = real
    new = dict(functions(vars(mutant), real.__name__))
    pairs = [(one, new[name]) for name, one in functions(vars(real), real.__name__) if name in new]
    return [(old, one) for old, one in pairs if _code(old) != _code(one)]


def _code(one: Function) -> list[Any]:
    """Return what makes a function what it is; of a default that is a function, its code."""
    defaults = [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
    values = [value.__code__ if isinstance(value, Function) else value for value in defaults]
    return [one.__code__, *((type(value), value) for value in values)]


class Resident:
    """Takes the place of pytest's loop over its tests."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands = os.fdopen(commands)
        self.answers = os.fdopen(answers, "w", buffering=1)
        self.items: dict[str, pytest.Item] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Obey until stdin ends."""
        self.items = {item.nodeid: item for item in session.items}
        gc.collect()
        gc.freeze()
        self.answers.write(json.dumps(sorted(self.items)) + "\n")
        for line in self.commands:
            self.answers.write(json.dumps(self.judge(**json.loads(line))) + "\n")
        return True

    def judge(self, module: str, source: str, tests: Mapping[str, float]) -> dict[str, Any]:
        """Run tests with this in the module's place ("": as it is); ``tests``: the seconds that each of them may take.

        ``code`` 0: all pass; 1: ``by`` failed; None: ``by`` took too long.
        """
        folder = Path(tempfile.mkdtemp(prefix="eventpost-mutant-"))
        folder.chmod(0o755)  # some tests become another user
        told, tell = os.pipe()
        os.set_blocking(told, False)
        began = time.monotonic()
        child = os.fork()
        if not child:
            self._be_the_child(module, source, list(tests), folder, tell)
        os.close(tell)
        limits = [*tests.values(), TAKE_IN_S]
        code: int | None = None
        passed = 0
        while code is None and time.monotonic() < began + limits[passed] + TAKE_IN_S:
            done, status, used = os.wait4(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
            select.select([told], [], [], POLL_S)
            with suppress(BlockingIOError):
                if news := len(os.read(told, 1000)):
                    passed, began = passed + news, time.monotonic()
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what a test has left behind
        if code is None:
            _, _, used = os.wait4(child, 0)
        os.close(told)
        shutil.rmtree(folder, ignore_errors=True)
        by = list(tests)[passed] if code in (1, None) and passed < len(tests) else ""
        return {"code": code, "by": by, "cpu_s": round(used.ru_utime + used.ru_stime, 3)}

    def _be_the_child(self, module: str, source: str, tests: Sequence[str], folder: Path, tell: int) -> None:
        code = CANNOT
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
            os.environ["TMPDIR"] = os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder)
            tempfile.tempdir = None
            os.chdir(folder)
            if source:
                self._take_in(sys.modules[f"eventpost.{module.removesuffix('.py').replace('/', '.')}"], source)
            code = 0
            for test in tests:
                if any(report.failed for report in runtestprotocol(self.items[test], log=False, nextitem=None)):
                    code = 1
                    break
                os.write(tell, b".")
        except BaseException:  # noqa: BLE001 - the child must not return into its parent's code
            code = 1 if code == 0 else CANNOT
        finally:
            os._exit(code)

    @staticmethod
    def _take_in(real: types.ModuleType, source: str) -> None:
        pairs = changed(real, source)
        if not pairs:
            raise LookupError(real.__name__)
        for old, new in pairs:
            old.__code__ = new.__code__
            old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__


def main() -> None:
    """Collect, then obey."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it closes the pipe
    register_profile()
    commands, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    sys.path.insert(0, str(ROOT / "src"))
    options = [word for word in PYTEST if word != "-x"]
    sys.exit(int(pytest.main([*options, "-s", "-p", "no:faulthandler", *sys.argv[1:]], [Resident(commands, answers)])))


if __name__ == "__main__":
    main()
