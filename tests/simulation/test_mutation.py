"""The mutation check: which mutants are made, that they are judged rightly, and that none survives unexplained."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from proof import mutation, mutation_tests
from proof.mutants import PACKAGE, Mutant, mutants_of
from proof.mutation_resident import changed

from eventpost.sender import breaker, retry

SOURCE = '''"""A module."""

if TYPE_CHECKING:
    from .other import Other
LIMIT: Final = 4
KINDS = frozenset({"a", "b c"})


class Thing:
    __slots__ = ("one",)

    @property
    def full(self) -> int | None:
        """Say so."""
        if self.count > LIMIT and not self.sealed:
            raise ValueError("it is full")
        self.disk.sync(self.fd, flag=True)
        return len(self.names) + 1

    def __repr__(self) -> str:
        return "x" * 3
'''
BREAKER = "sender/breaker.py"


def differences(source: str) -> set[tuple[str, str, str]]:
    """Return where a module is changed, from what to what."""
    return {(one.where, one.was, one.now) for one in mutants_of("a.py", source)}


def test_what_a_mistake_might_look_like() -> None:
    """Constants, properties, conditions, calls and arguments change; words, annotations, slots and repr stay."""
    condition = "if self.count > LIMIT and not self.sealed:"
    sync = "self.disk.sync(self.fd, flag=True)"
    kinds = 'KINDS = frozenset({"a", "b c"})'
    assert differences(SOURCE) == {
        ("", "LIMIT: Final = 4", "LIMIT: Final = 5"),
        ("", kinds, "KINDS = None"),
        ("", kinds, "KINDS = frozenset(None)"),
        ("", kinds, 'KINDS = frozenset({"XXaXX", "b c"})'),
        ("Thing.full", condition, "if not (self.count > LIMIT and not self.sealed):"),
        ("Thing.full", condition, "if self.count > LIMIT or not self.sealed:"),
        ("Thing.full", condition, "if self.count >= LIMIT and not self.sealed:"),
        ("Thing.full", condition, "if self.count > LIMIT and self.sealed:"),
        ("Thing.full", 'raise ValueError("it is full")', "raise ValueError(None)"),
        ("Thing.full", sync, "pass"),
        ("Thing.full", sync, "self.disk.sync(None, flag=True)"),
        ("Thing.full", sync, "self.disk.sync(self.fd, flag=None)"),
        ("Thing.full", sync, "self.disk.sync(self.fd, )"),
        ("Thing.full", sync, "self.disk.sync(self.fd, flag=False)"),
        ("Thing.full", "return len(self.names) + 1", "return len(self.names) - 1"),
        ("Thing.full", "return len(self.names) + 1", "return len(self.names) + 2"),
    }


def test_every_mutant_of_a_module_differs_from_it_in_the_lines_that_it_names() -> None:
    """And each is Python, and is made once."""
    source = (PACKAGE / BREAKER).read_text()
    made = mutants_of(BREAKER)
    assert len({one.source for one in made} | {source}) == len(made) + 1 > 150
    for one in made:
        first, last = one.lines
        before, after = source.splitlines(), one.source.splitlines()
        assert before[: first - 1] == after[: first - 1]
        assert before[last:] == after[len(after) - len(before) + last :]
        compile(one.source, BREAKER, "exec")


def test_an_explanation_names_its_mutants_and_its_reason() -> None:
    """Several may share one; without a reason it is none."""
    text = "# a comment\n\na.py f\n- x = 1\n+ x = 2\n- y(\n- 1)\n+ y(2)\n= it does\n= not matter\n"
    assert mutation.explained(text) == {
        ("a.py", "f", "x = 1", "x = 2"): "it does not matter",
        ("a.py", "f", "y(\n1)", "y(2)"): "it does not matter",
    }
    with pytest.raises(ValueError, match="without a reason"):
        mutation.explained("a.py f\n- x = 1\n+ x = 2\n")


def test_no_explanation_is_stale() -> None:
    """What it shows still stands in its module; a run checks that it is a mutant, too."""
    reasons = mutation.explained(mutation.explanations())
    lines = {module: {line.strip() for line in (PACKAGE / module).read_text().splitlines()} for module, *_ in reasons}
    assert [key for key in reasons if not set(key[2].split("\n")) <= lines[key[0]]] == []


def test_each_module_is_judged_by_tests_that_exist() -> None:
    """Every mutated module has a row, and every row names files that are there."""
    assert all(mutation_tests.row_of(module) for module in mutation.modules())
    files = {f"tests/{name}.py" for names in mutation_tests.TESTS.values() for name in names}
    assert [file for file in files if not (mutation.ROOT / file).exists()] == []


def test_who_survives_fails_the_run_until_it_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a test notices, one that ends in no time, and one that says the same in other words."""
    source = (PACKAGE / BREAKER).read_text()
    line = "self._tries += 1"
    at = source[: source.index(line)].count("\n") + 1
    some = [
        Mutant(BREAKER, "Breaker._open", line, now, (at, at), source.replace(line, now))
        for now in ("self._tries -= 1", "while True: pass", "self._tries = self._tries + 1")
    ]
    monkeypatch.setattr(mutation_tests, "TESTS", {"sender/*": ("unit/test_breaker",)})
    monkeypatch.setattr(mutation, "mutants_of", lambda module: some)
    monkeypatch.setattr(mutation, "EXPLAINED", tmp_path)
    monkeypatch.setattr(mutation, "TIMEOUT_LEAST_S", 3.0)
    (tmp_path / "survivors.txt").write_text("")

    def run(**options: Any) -> Any:
        words = {"minutes": 1.0, "seed": 0, "patience": 60.0, "jobs": 1, "afresh": False, "unexplained": 0}
        words |= {"work": tmp_path / "work", "module": [BREAKER]}
        return mutation.run(argparse.Namespace(**words | options))

    with pytest.raises(SystemExit, match="1 of 3 mutants survive, and nobody has said why"):
        run()
    figures = run(minutes=0.0, unexplained=1)
    assert (figures["survive, with a reason"], figures["survive without one"]) == (0, 1)
    (tmp_path / "survivors.txt").write_text(f"{some[2]}\n= it says the same\n")
    figures = run(minutes=0.0)  # the verdicts are kept
    assert (figures["judged"], figures["killed"], figures["of them by time"]) == (3, 2, 1)
    assert (figures["drawn from all"], figures["killed of these"], figures["modules judged whole"]) == (3, 2, 1)
    assert (figures["survive, with a reason"], figures["survive without one"]) == (1, 0)
    (tmp_path / "survivors.txt").write_text(f"{some[2]}+ 2\n= it was another\n")
    with pytest.raises(SystemExit, match="explains what is no mutant any more"):
        run(minutes=0.0)


@pytest.mark.parametrize(
    ("was", "now", "functions"),
    [
        ("self._tries += 1", "self._tries -= 1", ["Breaker._open"]),
        ("def probe_due_at(self)", "def probe_due_at(self, *, extra=1)", ["Breaker.probe_due_at"]),
        ("START_LIMIT: Final = 4", "START_LIMIT: Final = 5", []),
        ("", "", []),
    ],
)
def test_a_resident_changes_the_functions_that_differ(was: str, now: str, functions: list[str]) -> None:
    """Also properties, and nothing where something else is changed, which is then judged the other way."""
    source = (PACKAGE / BREAKER).read_text()
    assert was in source
    lines = source.replace(was, now, 1)
    pairs = changed(breaker, lines)
    assert [old.__qualname__ for old, _ in pairs] == functions
    assert all(old is not new and old.__module__ == breaker.__name__ for old, new in pairs)


@pytest.mark.parametrize("more", ["MORE = 1", "MORE = (\n    1,\n)"])
def test_what_is_no_function_is_judged_the_other_way(more: str) -> None:
    """All dataclasses have methods of one name, and functions may stand on other lines: that changes none of them."""
    source = (PACKAGE / "sender" / "retry.py").read_text()
    assert source.count("\n@dataclass") > 1
    assert changed(retry, source.replace("\n@dataclass", f"\n{more}\n@dataclass", 1)) == []
    assert changed(retry, f"{source}\n{more}\n") == []


def test_a_test_kills_only_if_it_passes_without_the_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails in a resident whatever is judged there is not believed."""
    asked: list[dict[str, Any]] = []

    class Sick:
        def __init__(self, module: str, *arguments: str) -> None:
            del module, arguments

        def answer(self) -> list[str]:
            return ["tests/a.py::one", "tests/a.py::two"]

        def ask(self, command: dict[str, Any]) -> dict[str, Any]:
            asked.append(command)
            last = list(command["tests"])[-1]
            healthy = not command["source"] and last == "tests/a.py::one"
            return {"code": 0 if healthy else 1, "by": "" if healthy else last, "cpu_s": 0.0}

    monkeypatch.setattr(mutation, "Process", Sick)
    judge = object.__new__(mutation.Judge)
    judge.residents, judge.trusted = {}, set()
    tests = {"tests/a.py::one": 1.0, "tests/a.py::gone": 1.0}
    killed = mutation.Verdict(True, "tests/a.py::one", 0.0)
    assert judge.quickly("sender/*", tests, module=BREAKER, source="x") == killed
    assert judge.quickly("sender/*", tests, module=BREAKER, source="x") == killed
    assert [command["source"] for command in asked] == ["x", "", "x"], "once seen to pass is enough"
    assert judge.quickly("sender/*", {"tests/a.py::two": 1.0}, module=BREAKER, source="x") is None
