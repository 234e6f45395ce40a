"""The processes of the outage: endpoint, relay and clients, each in a group of its own, so that all of it dies."""

from __future__ import annotations

import mmap
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from .chaos_judge import Broken
from .outage_judge import Counts
from .outage_wire import CELLS

CONNECTIONS: Final = 32
ANSWER_DELAY_S: Final = 0.05
WAIT_S: Final = 60.0
PORTS: Final = range(18_000, 28_000)
"""Below those that the system hands out: a client that is refused again and again must not meet itself there."""


def free_port() -> int:
    """Return a port that nobody listens on, nor is given by chance."""
    for port in random.sample(PORTS, len(PORTS)):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise Broken("no port is free")


class Cast:
    """All of them.  ``rate``: events a second, over all clients."""

    def __init__(self, root: Path, rate: float) -> None:
        self.root, self.rate = root, rate
        self.journal = str(root / "j")
        self.cells: mmap.mmap | None = None
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {"endpoint": free_port()}
        with socket.create_server(("127.0.0.1", self.ports["endpoint"])):
            self.ports["relay"] = free_port()

    def counts(self) -> Counts:
        """Return what the clients wrote down."""
        return Counts(*CELLS.unpack(self.cells[: CELLS.size])) if self.cells is not None else Counts(0, 0, 0, 0, 0)

    def check(self) -> None:
        """Raise Broken if one that should run has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise Broken(f"{name} ended by itself with {process.returncode}: see its log")

    def start(self, name: str, *words: str) -> None:
        """Start a process, with a group of its own; what it says goes to a file."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("EVENTPOST_", "PYTEST"))}
        environ["TMPDIR"] = str(self.root)  # what a killed relay leaves goes with the rest
        with (self.root / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *words], env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def start_endpoint(self) -> None:
        """Start the endpoint."""
        words = ["proof.outage_endpoint", "--port", str(self.ports["endpoint"])]
        self.start("endpoint", *words, "--records", str(self.root / "records"), "--delay-s", str(ANSWER_DELAY_S))

    def start_relay(self) -> None:
        """Start the relay; the clients find out when it listens."""
        url = f"http://127.0.0.1:{self.ports['endpoint']}/v1/events"
        words = ["eventpost.cli", "relay", "--listen", f"127.0.0.1:{self.ports['relay']}", "--workers", "2"]
        self.start("relay", *words, "--journal", self.journal, "--endpoint", url)

    def start_clients(self) -> None:
        """Start the clients."""
        path = self.root / "cells"
        path.write_bytes(bytes(CELLS.size))
        with path.open("r+b") as file:
            self.cells = mmap.mmap(file.fileno(), CELLS.size)
        words = ["proof.outage_clients", "--port", str(self.ports["relay"]), "--rate", str(self.rate)]
        words += ["--connections", str(CONNECTIONS), "--cells", str(path), "--left", str(self.root / "left")]
        self.start("clients", *words, "--patience-s", str(WAIT_S / 2))

    def listens(self, name: str) -> bool:
        """Tell whether it takes connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.ports[name]), 1):
                return True
        except OSError:
            return False

    def kill(self, name: str) -> None:
        """Kill -9 of all its processes."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT_S)

    def end(self, name: str) -> None:
        """SIGTERM, and wait for an end in order.  Raises Broken."""
        process = self.running.pop(name)
        process.terminate()
        try:
            code = process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        if code:
            raise Broken(f"{name} ended with {code}: see its log")

    def close(self) -> None:
        """End what is left."""
        for name in list(self.running):
            self.kill(name)
