"""What pip installs: a wheel with everything in it, a core that works alone, and extras that are asked for by name."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from eventpost.testing import Collector
from support import fetched, missing

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--retries=1"]
CORE = """
import sys
from importlib.metadata import distributions
import eventpost
from eventpost import EventDispatcher, JournalQueue, LogEvent, MemoryQueue

print(sorted(one.name for one in distributions()))
for queue in (MemoryQueue(), JournalQueue(sys.argv[2])):
    with EventDispatcher(queue, endpoint=sys.argv[1]) as dispatcher:
        assert dispatcher.dispatch_event(LogEvent("http://127.0.0.1:9/", {"a": 1}))
    print(dispatcher.stats().delivered)
for name in ("EventProcessor", "OptimizelyFactory"):
    try:
        getattr(eventpost, name)
    except ModuleNotFoundError as error:
        print(error)
"""


def run(*command, **options):
    """Run a command outside the repository; returns the finished process."""
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=110, check=False, stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_CURRENT_TEST")},
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from what a clone holds, as a release does."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", *(str(one.relative_to(ROOT)) for one in package_files())):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    done = run(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, source)
    if done.returncode:
        missing("setuptools, which pip could not fetch")
    (built,) = folder.glob("*.whl")
    return built


def package_files():
    """Return the files of the package."""
    return [one for one in (ROOT / "src").rglob("*") if one.is_file() and "__pycache__" not in one.parts]


def test_the_wheel_holds_every_file_of_the_package(wheel):
    """The marker of its types and the demo's datafile, too; and the licence."""
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {one.relative_to(ROOT / "src").as_posix() for one in package_files() if ".egg-info" not in str(one)}
    assert ours - names == set()
    assert {"eventpost/py.typed", "eventpost/demo_datafile.json"} <= ours
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_core_works_alone_and_names_the_extra_that_is_missing(wheel, tmp_path):
    """In an environment of its own: two dependencies, both queues deliver; the other parts say what to install."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    if not python.exists():
        missing("an environment laid out as on POSIX")
    done = run(*PIP, "--python", python, "install", wheel)
    if done.returncode:
        missing("the core's dependencies, which pip could not fetch")
    with Collector() as collector:
        done = run(python, "-c", CORE, collector.url, tmp_path / "j", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "['eventpost', 'orjson', 'urllib3']",
        "1",
        "1",
        "eventpost.EventProcessor needs the official SDK: pip install 'eventpost[optimizely]'",
        "eventpost.OptimizelyFactory needs the official SDK: pip install 'eventpost[optimizely]'",
    ], done.stderr
    done = run(python.with_name("eventpost"), "status", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "The command line needs two more packages: pip install 'eventpost[cli]'\n"


def test_the_command_line_works_with_the_oldest_of_its_packages(request):
    """With the lowest versions that the extra ``cli`` allows: help, wrong usage, and a path without a journal."""
    extra = re.search(r"^cli = (.*)$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    wanted = re.findall(r"(\w+)>=([\d.]+)", extra.group(1))
    oldest = fetched(request.config.cache, *(f"{name}=={version}.0" for name, version in wanted))
    paths = [str(oldest), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def eventpost(*words):
        return subprocess.run(
            [sys.executable, "-m", "eventpost.cli", *words],
            env=environment, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    from_there = "import typer, rich; print(typer.__file__, rich.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", from_there], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.count(str(oldest)) == 2
    for command in ("", "demo", "send", "status", "tail", "dead", "dead retry", "dead discard", "dead show", "verify"):
        done = eventpost(*command.split(), "--help")
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "Usage" in done.stdout
    done = eventpost("status")
    assert done.returncode == 2
    assert "name a journal's folder with --journal" in done.stderr
    assert eventpost("dead", "retry", "--journal", "/nowhere").returncode == 2
    assert "no journal here" in eventpost("tail", "--journal", "/nowhere").stderr


def test_the_command_line_works_without_the_relays_packages(tmp_path):
    """With the extra ``cli`` alone commands work; those that need the relay's packages say what to install."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    from eventpost.cli.relay import PACKAGES

    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    extra = re.search(r"^relay = (.*)$", pyproject, re.MULTILINE)
    wanted = [name.replace("-", "_") for name in re.findall(r'"([\w-]+)>=', extra.group(1))]
    assert {*wanted} == {*PACKAGES, "tomli"}
    gone = f"import sys; sys.modules.update(dict.fromkeys({wanted!r}))"
    (tmp_path / "sitecustomize.py").write_text(gone)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def eventpost(*words):
        command = [sys.executable, "-m", "eventpost.cli", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)

    done = eventpost("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("relay", "check", "micro"):
        done = eventpost(command)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert done.stderr == "The relay needs more packages: pip install 'eventpost[relay]'\n"
    assert "no journal here" in eventpost("status", "--journal", str(tmp_path / "none")).stderr
