"""The standing between the main process and a worker, from both ends: one pair of sockets.

The main process sends the settings, as one line of JSON; the worker says ``ready``; then nothing more.  Its end tells
the main process that the worker is gone, and the worker that the main process is.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Final, NamedTuple

import orjson

from .settings import RelaySettings

BACKLOG: Final = 2048
RESTART_FIRST_S: Final = 0.5
RESTART_MAX_S: Final = 30.0
LIVED_S: Final = 60.0
_READY: Final = b"ready\n"
_LINE_BYTES_MAX: Final = 1 << 20


class Told(NamedTuple):
    """What a worker is told."""

    settings: RelaySettings
    run_dir: str
    log_format: str

    def as_line(self) -> bytes:
        """Return it as it is sent."""
        return orjson.dumps(self._asdict() | {"settings": self.settings.as_dict()}) + b"\n"


def hear(life: socket.socket) -> Told | None:
    """Return what this worker is told; None: the main process is gone."""
    line = bytearray()
    while not line.endswith(b"\n"):
        part = life.recv(65536)
        if not part or len(line) > _LINE_BYTES_MAX:
            return None
        line += part
    said: dict[str, Any] = orjson.loads(line)
    return Told(RelaySettings.from_dict(said["settings"]), said["run_dir"], said["log_format"])


def say_ready(life: socket.socket) -> None:
    """Tell the main process that this worker accepts connections."""
    with suppress(OSError):  # it is gone: the end of this socket says so, too
        life.sendall(_READY)


class Slot:
    """One worker's place: the process in it, and when another one may take it.

    A worker that dies is followed at once the first time, then after ever longer pauses, so that one that cannot start
    does not eat the machine; after one that has lived a while the pauses begin anew.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.life: socket.socket | None = None
        self.ready = False
        self.restarts = -1
        self.due_at = 0.0
        self._started_at = 0.0
        self._pause_s = 0.0

    def start(self, listener: socket.socket, told: Told) -> None:
        """Start a worker.  Raises OSError."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "eventpost.relay.worker"]
        command += ["--listener", str(listener.fileno()), "--life", str(theirs.fileno())]
        try:
            self.process = subprocess.Popen(command, pass_fds=(listener.fileno(), theirs.fileno()))  # noqa: S603 - it is this interpreter
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.life, self.ready = ours, False
        self.restarts += 1
        self._started_at = time.monotonic()
        with suppress(BrokenPipeError):  # it ended at once, which the next look finds
            ours.sendall(told.as_line())
        ours.setblocking(False)

    def look(self) -> None:
        """Note whether the worker is ready."""
        if self.life is not None and not self.ready:
            with suppress(OSError):
                self.ready = self.life.recv(len(_READY)) == _READY

    def reap(self, now: float) -> int | None:
        """Return the exit code of a worker that has ended since the last look."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        if now - self._started_at > LIVED_S:
            self._pause_s = 0.0
        self.due_at = now + self._pause_s
        self._pause_s = min(RESTART_MAX_S, max(RESTART_FIRST_S, 2 * self._pause_s))
        self._let_go()
        return code

    def tell_to_stop(self) -> None:
        """Send the worker SIGTERM, if there is one."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait for the worker's end; False: it did not come in time, and was brought about."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        finally:
            self._let_go()
        return True

    def as_dict(self) -> dict[str, int]:
        """Return what the page shows of it."""
        return {"pid": 0 if self.process is None else self.process.pid, "restarts": max(0, self.restarts)}

    def _let_go(self) -> None:
        if self.life is not None:
            self.life.close()
        self.process = self.life = None
        self.ready = False
