"""Mutants: one module of the product, changed in one place, as a mistake of ours might change it.

The changes are mutmut's operators (a comparison, a number, an argument that becomes None, ``and`` for ``or``), and two
that it lacks and that matter most here: a call whose result nobody uses is left out (a sync, a note, an unlock), and a
condition is turned round.  They are made everywhere, also in properties, defaults and constants, which mutmut's own
runner passes over: it changes plain functions only.

Not made is what no test should be asked to notice: annotations and what is imported for them, decorators, docstrings,
``__slots__``, ``repr`` and what an error says to a person (any text with a space in it).  Nor is what another mutant
shows already: a positional argument that is left out, where there is one with None in its place; None for a number, a
text or False, where there is one with another; ``not (a == b)`` beside ``a != b``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, Final, NamedTuple

import libcst as cst
import libcst.matchers as m
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

from .record import ROOT

PACKAGE: Final = ROOT / "src" / "eventpost"
PARTS: Final = ("queues", "sender")
UNTOUCHED: Final = ("len", "isinstance", "cast", "Literal")
"""What is handed to these stays as it is: to change it is a TypeError at once, or nothing."""
WORDS: Final = ("__repr__", "__str__")
NAMES: Final = m.Assign(targets=[m.AssignTarget(m.OneOf(m.Name("__slots__"), m.Name("__all__")))])
ANNOTATING: Final = m.If(test=m.Name("TYPE_CHECKING"))
TURNED: Final = m.OneOf(
    m.UnaryOperation(operator=m.Not()),
    m.Comparison(
        comparisons=[m.ComparisonTarget(m.OneOf(m.Equal(), m.NotEqual(), m.Is(), m.IsNot(), m.In(), m.NotIn()))]
    ),
)
"""Conditions that one of mutmut's operators turns round."""
PLAIN: Final = m.OneOf(m.Integer(), m.Float(), m.SimpleString(), m.Name("False"))


class Mutant(NamedTuple):
    """``was`` and ``now``: the lines that differ, without indentation.  ``lines``: first and last of the statement."""

    module: str
    where: str
    was: str
    now: str
    lines: tuple[int, int]
    source: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is called from run to run, wherever in the module it stands; two that look alike share it."""
        return self.module, self.where, self.was, self.now

    def __str__(self) -> str:
        was, now = (text.replace("\n", f"\n{sign} ") for text, sign in ((self.was, "-"), (self.now, "+")))
        return f"{self.module} {self.where}\n- {was}\n+ {now}"


def modules() -> list[str]:
    """Return the modules that are mutated, by their path below the package."""
    found = [path for part in PARTS for path in sorted((PACKAGE / part).rglob("*.py"))]
    return [str(path.relative_to(PACKAGE)) for path in found]


def mutants_of(module: str, source: str | None = None) -> list[Mutant]:
    """Return all mutants of one module."""
    source = (PACKAGE / module).read_text(encoding="utf-8") if source is None else source
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    places = Places()
    wrapper.visit(places)
    text = Text(wrapper.module, source)
    made = {source}
    found = []
    for place in places.found:
        changed = text.changed(place)
        if changed in made or not _is_python(changed):
            continue
        made.add(changed)
        was, now = difference(source, changed)
        found.append(Mutant(module, place.where, was, now, place.lines, changed))
    return found


class Place(NamedTuple):
    """One node, where it stands, and what it becomes."""

    old: cst.CSTNode
    new: cst.CSTNode
    at: CodeRange
    where: str
    lines: tuple[int, int]


class Places(cst.CSTVisitor):
    """Walks a module and finds what can be changed in it."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        self.found: list[Place] = []
        self.names: list[str] = []
        self.statements: list[tuple[int, int]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Change a node in every way; return whether to go on with what is in it."""
        if stays(node):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.names.append(node.name.value)
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            self.statements.append(self._lines(node))
        for old, new in changes(node):
            at = self.get_metadata(PositionProvider, old)
            self.found.append(Place(old, new, at, ".".join(self.names), self.statements[-1]))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """Come out of it."""
        if stays(original_node):
            return
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.names.pop()
        if isinstance(original_node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            self.statements.pop()

    def _lines(self, node: Any) -> tuple[int, int]:
        """Return the lines of a statement; of one with a block: those before the block."""
        first, last = self._span(node)
        body = getattr(node, "body", None)
        if isinstance(body, cst.IndentedBlock):
            last = max(first, self._span(body.body[0])[0] - 1)
        return first, last

    def _span(self, node: cst.CSTNode) -> tuple[int, int]:
        at = self.get_metadata(PositionProvider, node)
        return at.start.line, at.end.line


def stays(node: cst.CSTNode) -> bool:
    """Tell whether a node, with all that is in it, is left as it is."""
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
        return True
    if isinstance(node, cst.FunctionDef):
        return node.name.value in WORDS
    if isinstance(node, cst.Assign | cst.If):
        return m.matches(node, m.OneOf(NAMES, ANNOTATING))
    if isinstance(node, cst.SimpleString):
        return " " in node.raw_value or len(node.quote) > 1
    name = node.func if isinstance(node, cst.Call) else node.value if isinstance(node, cst.Subscript) else None
    return isinstance(name, cst.Name) and name.value in UNTOUCHED


def changes(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    """Yield what in a node may become what."""
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            for new in _chosen(operator, node, list(operator(node))):
                yield node, new
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield node, cst.Pass()
    if isinstance(node, cst.If | cst.While) and not m.matches(node.test, TURNED):
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.test, cst.UnaryOperation(cst.Not(), test)


def _chosen(operator: Callable[..., Any], node: Any, made: Sequence[cst.CSTNode]) -> Sequence[cst.CSTNode]:
    """Leave out of what an operator makes what only costs time."""
    if operator.__name__ == "operator_string":
        return made[:1]  # with other letters is enough: upper and lower case are the same mistake again
    if operator.__name__ == "operator_arg_removal":
        positional = sum(arg.keyword is None for arg in node.args)
        shorter = [one for one in made if len(one.args) < len(node.args)]  # type: ignore[attr-defined]  # calls
        return [*made[: len(made) - len(shorter)], *shorter[positional:]]
    if operator.__name__ == "operator_assignment" and m.matches(node.value, PLAIN):
        return []
    return made


class Text:
    """A module's text, in which one node after the other is replaced."""

    def __init__(self, module: cst.Module, source: str) -> None:
        self.module = module
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def changed(self, place: Place) -> str:
        """Return the text with a node replaced, and all else as it is."""
        first, last = (self.starts[at.line - 1] + at.column for at in (place.at.start, place.at.end))
        here = self.source[first:last]
        old, new = self.module.code_for_node(place.old), self.module.code_for_node(place.new)
        before, found, after = old.partition(here)  # a node owns the spaces and brackets around it
        if found and new.startswith(before) and new.endswith(after):
            return self.source[:first] + new[len(before) : len(new) - len(after)] + self.source[last:]
        return cst.ensure_type(self.module.deep_replace(place.old, place.new), cst.Module).code  # the long way


def _is_python(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def difference(source: str, changed: str) -> tuple[str, str]:
    """Return the lines that differ, before and after."""
    before, after = source.splitlines(), changed.splitlines()
    head = _alike(before, after)
    tail = _alike(before[head:][::-1], after[head:][::-1])
    was, now = before[head : len(before) - tail], after[head : len(after) - tail]
    return "\n".join(line.strip() for line in was), "\n".join(line.strip() for line in now)


def _alike(some: Sequence[str], others: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(some, others, strict=False)))


def main() -> None:
    """Count them."""
    total = 0
    for module in modules():
        count = len(mutants_of(module))
        total += count
        print(f"{count:5}  {module}", flush=True)
    print(f"{total:5}")


if __name__ == "__main__":
    main()
