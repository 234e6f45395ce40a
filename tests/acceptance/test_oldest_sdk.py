"""Parity with the oldest SDK that we support, beside the installed one."""

import os
import subprocess
import sys
from pathlib import Path

from support import fetched

OLDEST = "5.0.0"
TESTS = Path(__file__).parents[1]


def test_parity_holds_with_the_oldest_sdk(request):
    """The parity properties and the real client's tests pass with that SDK in the place of the installed one."""
    oldest_sdk = fetched(request.config.cache, f"optimizely-sdk=={OLDEST}")
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
