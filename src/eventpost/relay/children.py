"""The standing between the main process and a worker, from both ends: one pair of sockets.

The main process sends the settings, as one line of JSON; the worker says ``ready``, and from then on a byte with each
round of its event loop's look at connections: a worker that is stopped, or whose loop does not come round, is silent.
The socket's end tells the main process that the worker is gone, and the worker that the main process is.
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
STILL_S: Final = 2.0
"""A main process that did not look for so long stood still itself, and cannot tell who was silent meanwhile."""
START_S: Final = 30.0
_READY: Final = b"ready\n"
_ALIVE: Final = b"."
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


def say_alive(life: socket.socket) -> None:
    """Tell the main process that this worker's loop comes round; if it does not listen just now, that is as well."""
    with suppress(OSError):
        life.send(_ALIVE, socket.MSG_DONTWAIT)


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
        self._started_at = self._looked_at = self._heard_at = 0.0
        self._killed = False
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
        self._started_at = self._looked_at = self._heard_at = time.monotonic()
        self._killed = False
        with suppress(BrokenPipeError):  # it ended at once, which the next look finds
            ours.sendall(told.as_line())
        ours.setblocking(False)

    def look(self, now: float) -> None:
        """Note whether the worker is ready, and whether it said something.  ``now``: monotonic seconds."""
        if now - self._looked_at > STILL_S:
            self._heard_at = now
        self._looked_at = now
        if self.life is None:
            return
        with suppress(OSError):
            if not self.ready:
                self.ready = self.life.recv(len(_READY)) == _READY
                self._heard_at = now if self.ready else self._heard_at
            elif self.life.recv(4096):
                self._heard_at = now

    def hangs(self, now: float, timeout_s: float) -> bool:
        """Tell whether the worker has been silent for too long; 0: that is never too long."""
        if not timeout_s or self.process is None or self._killed:
            return False
        return now - self._heard_at > (timeout_s if self.ready else max(timeout_s, START_S))

    def kill(self) -> None:
        """Kill the worker, once; a stopped one, too.  One that the kernel holds on to ends when it is let go."""
        self._killed = True
        if self.process is not None:
            self.process.kill()

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
