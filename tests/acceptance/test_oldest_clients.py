"""The oldest HTTP clients that pyproject.toml allows keep the contract, beside the installed ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import fetched, missing

ROOT = Path(__file__).parents[2]
VERSIONS = {"urllib3": "urllib3.__version__", "pycurl": "pycurl.version.split()[0].partition('/')[2]"}
TESTS = {"urllib3": "Pool", "pycurl": "Curl or curl"}
REDIS_FILES = ["tests/contract/test_streams_contract.py", "tests/acceptance/test_streams_servers.py"]


@pytest.mark.parametrize("name", VERSIONS)
def test_the_oldest_client_keeps_the_contract(request: pytest.FixtureRequest, name: str) -> None:
    """Also over TLS and through proxies: what an environment has pinned for another package's sake must do."""
    floor = re.search(rf'"{name}>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert floor is not None
    oldest = floor[1] if floor[1].count(".") == 2 else f"{floor[1]}.0"
    cache = request.config.cache
    if cache is None:
        missing("pytest's cache")
    folders = [str(fetched(cache, f"{name}=={oldest}")), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    told = subprocess.run(
        [sys.executable, "-c", f"import {name}; print({VERSIONS[name]})"],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == oldest
    files = [f"tests/contract/test_transports{part}.py" for part in ("", "_tls", "_network")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", TESTS[name], *files],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


def test_the_oldest_redis_client_keeps_the_contract(request: pytest.FixtureRequest) -> None:
    """Over TCP, TLS and a socket of the system, with a user."""
    floor = re.search(r'"redis\[hiredis\]>=([\d.]+),<', (ROOT / "pyproject.toml").read_text())
    assert floor is not None
    cache = request.config.cache
    if cache is None:
        missing("pytest's cache")
    folders = [str(fetched(cache, f"redis=={floor[1]}")), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    script = "import redis; print(redis.__version__)"
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == floor[1]
    chosen = ["-k", "Valkey or tls or user", *REDIS_FILES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
