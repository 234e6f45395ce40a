"""Which process is a test run: real ones of unittest and pytest, and one that merely imports both."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support import missing

PROBE = '''
"""Hands one event for Optimizely to a dispatcher, whose HTTP could reach nobody, and says what became of it."""
import json, os, sys, unittest
import pytest, _pytest
from eventpost import EventDispatcher, LogEvent, guard
from eventpost.transports.pool import PoolTransport

def probe():
    dispatcher = EventDispatcher(transport=PoolTransport(proxy="http://127.0.0.1:9"))
    taken = dispatcher.dispatch_event(LogEvent("https://logx.optimizely.com/v1/events", {}))
    return [taken, dict(dispatcher.close(timeout_s=0).refused), guard.evidence()]

def both():
    assert "PYTEST_CURRENT_TEST" not in os.environ
    guarded = probe()
    os.environ["EVENTPOST_ALLOW_TEST_SENDS"] = "1"
    lifted = probe()
    del os.environ["EVENTPOST_ALLOW_TEST_SENDS"]
    with open(sys.argv[1] if __name__ == "__main__" else os.environ["OUT"], "w") as out:
        json.dump([guarded, lifted], out)

both()  # while the tests are collected: pytest has not set its variable yet

class TestNothing(unittest.TestCase):
    def test_nothing(self):
        pass
'''


def run_probe(folder: Path, *command: object) -> list:
    """Run the probe with a command, as a person would in a shell; what it said."""
    (folder / "test_probe.py").write_text(PROBE)
    out = folder / "out.json"
    names = ("PYTEST_", "EVENTPOST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    environment |= {"OUT": str(out), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins cost two seconds
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    said: list = json.loads(out.read_text())
    return said


@pytest.mark.parametrize(
    ("runner", "evidence"),
    [
        ([sys.executable, "-m", "unittest", "test_probe"], "the main module is unittest's runner"),
        ([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."], "the main module is pytest's runner"),
        (["pytest", "-q", "-p", "no:cacheprovider", "."], "the main module is pytest's runner"),
    ],
    ids=["unittest", "python -m pytest", "pytest"],
)
def test_a_runner_as_the_main_module_is_a_test_run(tmp_path: Path, runner: list[str], evidence: str) -> None:
    """Also where no variable says so: nothing goes to Optimizely; EVENTPOST_ALLOW_TEST_SENDS=1 lifts it."""
    if runner[0] == "pytest":
        script = Path(sysconfig.get_path("scripts")) / "pytest"
        if not script.exists():
            missing("the script pytest beside this Python")
        runner = [str(script), *runner[1:]]
    guarded, lifted = run_probe(tmp_path, *runner)
    assert guarded == [False, {"test_run": 1}, evidence]
    assert lifted == [True, {}, None]


def test_what_is_merely_imported_makes_no_test_run(tmp_path: Path) -> None:
    """A program that imports pytest and unittest, and even defines tests, sends."""
    guarded, lifted = run_probe(tmp_path, sys.executable, "test_probe.py", "out.json")
    assert guarded == lifted == [True, {}, None]
