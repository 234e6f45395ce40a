"""The documentation names what there is: modules, settings, signals, commands, tests, targets."""

import ast
import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from proof.__main__ import PARTS
from proof.record import table

from eventpost import settings
from eventpost.relay import settings as relay_settings
from eventpost.watch import signals
from exit_ends import ENDS
from exit_servers import SERVERS
from support import missing

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "eventpost"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").glob("*.md"))]
TEST_ID = re.compile(r"\b(tests/[\w/]+\.py)::(\w+)")
ROW = {"figures": {}, "took_s": 1, "date": "", "python": "", "optimizely-sdk": "", "system": ""}
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)")


def text(name: str) -> str:
    """Return a document's text."""
    return (ROOT / name).read_text("utf-8")


def functions(path: Path) -> set[str]:
    """Return the names of the functions and methods in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


CONTRACTS = {name for path in (SRC / "testing").glob("*_contract.py") for name in functions(path)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    """A row that names a test which is gone, or was never there, is a claim without proof."""
    for file, name in TEST_ID.findall(page.read_text("utf-8")):
        path = ROOT / file
        assert path.exists(), f"{page.name} names {file}"
        in_contract = "contract" in path.parts and name in CONTRACTS
        assert in_contract or name in functions(path), f"{page.name} names {file}::{name}"


def test_every_row_of_the_page_has_a_test():
    """In from-the-page.md each row names at least one test."""
    rows = [line for line in text("docs/from-the-page.md").splitlines() if line.startswith("|")]
    rows = [row for row in rows if not row.startswith(("| the page", "|---"))]
    assert len(rows) >= 29
    assert [row for row in rows if not TEST_ID.search(row)] == []


def test_every_cell_of_the_guarantees_is_shown():
    """Each names a test that there is, and figures are of parts of the proof; what goes with the disk shows itself."""
    page = text("docs/guarantees.md")
    tests = dict(re.findall(r'^\[([\w-]+)\]: \.\./(tests/[\w/]+\.py) "\2::\w+"$', page, re.MULTILINE))
    cells = [
        cell.strip()
        for line in page.split("## Figures")[0].splitlines()
        if line.startswith("| ") and not line.startswith(("| after the yes", "| the disk is lost"))
        for cell in line.strip("|").split(" | ")[1:]
    ]
    assert len(cells) >= 45
    assert [cell for cell in cells if cell != "-" and "([test][" not in cell] == []
    assert {name for cell in cells for name in re.findall(r"\[test\]\[([\w-]+)\]", cell)} == tests.keys()
    figures = {name for cell in cells for name in re.findall(r"\[figure\]\(#([\w-]+)\)", cell)}
    assert figures <= PARTS.keys()
    assert f'<a id="{min(figures)}"></a>' in table({min(figures): ROW}), "where the figure is, the link leads"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """A link to a file of the repository finds it."""
    links = LINK.findall(page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_architecture_names_each_module_once():
    """docs/architecture.md says of every module, in one row of its own, what it is for."""
    rows = [line for line in text("docs/architecture.md").splitlines() if line.lstrip().startswith(("|", "-"))]
    heads = [match.group(1) for row in rows if (match := re.match(r"\s*[|-]\s*`([\w/]+\.py)`", row))]
    modules = {str(path.relative_to(SRC)) for path in SRC.rglob("*.py") if path.read_text().count("\n") > 1}
    assert {head for head in heads if heads.count(head) > 1} == set()
    assert modules - set(heads) == set(), "not named"
    assert {head for head in heads if not (SRC / head).exists()} == set(), "no such module"


def test_every_setting_is_documented():
    """docs/cli.md names each setting with its variable and its default, no others, and the two switches."""
    page = text("docs/cli.md")
    rows = re.findall(r"^\| `(\w+)` \| `(EVENTPOST_\w+)` \| (.+) \|$", page, re.MULTILINE)
    assert [row[:2] for row in rows] == [(setting.name, setting.env) for setting in settings.SETTINGS.values()]
    for (_, _, told), setting in zip(rows, settings.SETTINGS.values(), strict=True):
        if isinstance(setting.default, (int, float)):
            assert float(told.replace(",", "")) == setting.default, setting.name
        else:
            assert told == (setting.default or setting.without)
    assert set(re.findall(r"EVENTPOST_\w+", page)) == set(re.findall(r"EVENTPOST_\w+", inspect.getsource(settings)))


def test_every_setting_of_the_relay_is_documented():
    """docs/relay.md holds the relay's table of settings, row for row."""
    page = text("docs/relay.md").split("## Settings")[1]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{row.name}` | {row.shown_default} | {row.meaning} |" for row in relay_settings.TABLE]


def answers(path: Path) -> set[tuple[str, str]]:
    """Return the statuses and reasons of the noes that are written down in a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        texts = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
        called = ast.unparse(node.func).split(".")[-1]
        if called == "Denied" and len(texts) == 2:
            found.add((str(texts[0]), texts[1]))
        elif called == "unavailable" and isinstance(node.args[0], ast.Constant):
            found.add(("503", texts[0]))
    return found


def test_every_answer_of_the_relay_is_documented():
    """Each status and reason in the relay's code stands in a row of docs/relay.md."""
    said = set().union(*(answers(path) for path in (SRC / "relay").glob("*.py")))
    told = set()
    for statuses, reasons in re.findall(r"^\| (\d{3}[\d, ]*) \| ([^|]*) \|", text("docs/relay.md"), re.MULTILINE):
        told |= {(status, reason) for status in re.findall(r"\d+", statuses) for reason in re.findall(r"\w+", reasons)}
    assert len(said) > 20
    assert said - told == set()


def test_every_signal_is_documented():
    """docs/cli.md has a row for each signal, and for nothing else."""
    table = text("docs/cli.md").split("## Signals")[1]
    there = {one.__name__ for one in vars(signals).values() if inspect.isclass(one) and issubclass(one, signals.Signal)}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == there - {"Signal"}


def test_every_command_and_option_is_documented():
    """docs/cli.md has a row for each command, with each of its options and no others."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    import typer

    from eventpost.cli.app import app

    rows = {}
    for head in re.findall(r"^\| `eventpost ([^`]+)` \|", text("docs/cli.md"), re.MULTILINE):
        words = re.match(r"(?:[a-z][a-z-]* ?)+", head).group().split()
        rows[" ".join(words)] = set(re.findall(r"--[\w-]+", head))
    found = {}

    def walk(command, path):
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*path, name])
        if not hasattr(command, "commands"):
            options = {name for one in command.params for name in one.opts if name.startswith("--")}
            found[" ".join(path)] = options

    walk(typer.main.get_command(app), [])
    assert rows == found


def test_the_readme_commands_are_targets():
    """Each ``make`` command that a page tells people to run is a target of the Makefile, and described by its help."""
    targets = set(re.findall(r"^([a-z-]+):.*##", text("Makefile"), re.MULTILINE))
    for page in PAGES:
        commands = re.findall(r"(?:^|`)make ([a-z-]+(?: [a-z-]+)*)(?=`|\s+#|$)", page.read_text("utf-8"), re.MULTILINE)
        assert {word for command in commands for word in command.split()} <= targets, page.name
    assert "make demo" in text("README.md")
    assert "make test" in text("README.md")
    assert "make test" in text(".ci/run")


def test_the_readmes_figures_are_those_that_were_measured():
    """Each figure of its table stands in a page that benchmarks write: of the queues, of the relay, of a fleet."""
    block = re.search(r"<!-- performance.*?<!-- performance end -->", text("README.md"), re.DOTALL).group()
    cells = [line.split("|")[2] for line in block.splitlines() if line.startswith("| ")][1:]
    intro = block.partition("\n\n")[0]
    figures = [figure for place in (intro, *cells) for figure in re.findall(r"\d[\d,]+", place)]
    assert len(figures) >= 11
    written = text("docs/performance.md") + text("docs/performance-relay.md")
    for mark in ("costs", "processes"):
        written += re.search(rf"<!-- {mark}: .*?<!-- {mark} end -->", text("docs/scale.md"), re.DOTALL).group()
    page = set(re.findall(r"\d[\d,]+", written))
    assert [figure for figure in figures if figure not in page] == []


def test_security_tells_of_the_pycurl_that_is_tested_with():
    """What it says is inside the wheel is what the pinned version says of itself."""
    (pinned,) = re.findall(r"^pycurl==(\S+)", text("requirements-dev-curl.txt"), re.MULTILINE)
    assert f"PycURL/{pinned} libcurl/" in text("SECURITY.md")


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_use_what_is_public(example):
    """Each module that an example imports from is one that docs/versioning.md promises to keep."""
    page = text("docs/versioning.md")
    tree = ast.walk(ast.parse(example.read_text("utf-8")))
    modules = {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module}
    ours = {module for module in modules if module.startswith("eventpost.")}
    assert ours
    assert {module for module in ours if f"`{module}`" not in page and f"`{module}.__all__`" not in page} == set()


def test_no_page_names_a_machine():
    """No absolute path of somebody's machine stands in a page."""
    for page in PAGES:
        assert re.findall(r"(?<![\w./])/(?:work|tmp|root|home)/", page.read_text("utf-8")) == [], page.name


def test_the_exits_are_the_tests_rows():
    """docs/exits.md has the rows of the exit matrix, each with what its test asserts, and no others."""
    page = [line for line in text("docs/exits.md").splitlines() if line.startswith("| ") and line.count("|") == 4]
    rows = [*ENDS.items(), *SERVERS.items()]
    wanted = [f"| {name} | {' | '.join(row.cells())} |" for name, row in rows]
    assert [line for line in page if not line.startswith("| | ")] == wanted
