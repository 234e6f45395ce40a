"""Parity with the oldest SDK that we support, beside the installed one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import missing

OLDEST = "5.0.0"
TESTS = Path(__file__).parents[1]


@pytest.fixture
def oldest_sdk(request):
    """Return a folder that holds the oldest SDK without its dependencies; fetched once, then kept in pytest's cache."""
    folder = request.config.cache.mkdir(f"optimizely-sdk-{OLDEST}")
    if not (folder / "complete").exists():
        wanted = ["--quiet", "--no-deps", "--only-binary=:all:", f"--target={folder}", f"optimizely-sdk=={OLDEST}"]
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--retries=1", *wanted]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode:
            missing(f"optimizely-sdk {OLDEST}, which pip could not fetch")
        (folder / "complete").touch()
    return folder


def test_parity_holds_with_the_oldest_sdk(oldest_sdk):
    """The parity properties and the real client's tests pass with that SDK in the place of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(oldest_sdk)}
    version = subprocess.run(
        [sys.executable, "-c", "from optimizely.version import __version__; print(__version__)"],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert version.stdout.strip() == OLDEST
    suites = [TESTS / "unit" / "test_visitor_parity.py", TESTS / "acceptance" / "test_sdk_client.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, suites)],
        env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
