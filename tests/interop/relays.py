"""The relay as a process of its own, as an operator starts it, with a journal that outlives it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.01
_ADDRESS = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")


class Relay:
    """Starts, is killed, and starts again on the same journal; each time on a port that the system chooses."""

    def __init__(self, folder: Path, upstream_url: str, *options: str) -> None:
        self._command = [
            sys.executable, "-m", "eventpost.cli", "relay", "--listen", "127.0.0.1:0",
            "--journal", str(folder / "journal"), "--endpoint", upstream_url, *options,
        ]  # fmt: skip
        self._log = folder / "relay.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        """Start it; it listens when this returns."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while (found := _ADDRESS.search(self.log())) is None:
            if self._process.poll() is not None or time.monotonic() >= deadline:
                self.kill()
                pytest.fail(f"the relay does not listen; it said: {self.log()}")
            time.sleep(POLL_S)
        self.port = int(found[1])

    def log(self) -> str:
        """Return what it has said since its last start."""
        return self._log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """End all of its processes with SIGKILL."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def stop(self) -> None:
        """Ask it to stop, and see that it does."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(STOP_TIMEOUT_S)
        self._process = None
        assert status == 0, self.log()
