"""The relays of a fleet: real processes in front of the shared queue, and somebody who posts to them and remembers.

A relay is its main process and its workers; either is killed.  Who posts goes to the other relay where one does not
answer, as a client behind a load balancer would, with the same uuid.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from .fleet_servers import free_port, until

START_S: Final = 40.0
YES: Final = 204


class Relay:
    """One relay, started again on its port after a kill."""

    def __init__(self, queue: str, endpoint: str, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.words = [
            sys.executable, "-m", "eventpost.cli", "relay", "--listen", f"127.0.0.1:{self.port}", "--queue", queue,
            "--queue-name", "fleet", "--endpoint", endpoint, "--no-send",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it takes events."""
        environment = {**os.environ, "TMPDIR": str(self.folder)}  # what a killed one leaves goes with it
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )  # fmt: skip
        until(self._is_ready, START_S, "a relay does not become ready")

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def kill(self, chance: random.Random) -> str:
        """Kill -9 its main process or a worker; returns which."""
        assert self.process is not None
        workers = self.workers
        if workers and chance.random() < 0.5:
            os.kill(chance.choice(workers), signal.SIGKILL)
            until(self._is_ready, START_S, "no worker takes the killed one's place")
            return "workers"
        self.process.kill()
        self.process.wait(10)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), START_S, "orphaned workers stay")
        self.start()
        return "relays"

    def close(self) -> None:
        """End it in order; kill what does not."""
        if self.process is None or self.process.poll() is not None:
            return
        workers = self.workers
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
            return
        for pid in workers:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(10)


class Poster:
    """Posts one event after the other on a thread; writes down what was offered and answered, as applications do."""

    def __init__(self, relays: Sequence[Relay], path: Path, pause_s: float) -> None:
        self._ports = [relay.port for relay in relays]
        self._path = path
        self._pause_s = pause_s
        self.again = 0
        """How often an event was posted a second time, to the other relay."""
        self._ended = threading.Event()
        self._open: dict[int, http.client.HTTPConnection] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join(20)
        for connection in self._open.values():
            connection.close()

    def _run(self) -> None:
        turn = 0
        with self._path.open("w", buffering=1) as witness:
            while not self._ended.wait(self._pause_s):
                turn += 1
                uuid = str(uuid4())
                witness.write(f"?{uuid}\n")
                ports = [self._ports[(turn + step) % len(self._ports)] for step in range(len(self._ports))]
                taken = self._post(ports[0], uuid)
                for port in ports[1:]:
                    if not taken:
                        self.again += 1
                        taken = self._post(port, uuid)
                witness.write(f"{'+' if taken else '-'}{uuid}\n")

    def _post(self, port: int, uuid: str) -> bool:
        connection = self._open.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=3))
        try:
            connection.request("POST", "/v1/events", _body(uuid), {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return answer.status == YES


def _body(uuid: str) -> bytes:
    event = {"uuid": uuid, "timestamp": int(time.time() * 1000), "key": "bought", "entity_id": "7", "type": "custom"}
    visitor = {"visitor_id": f"post:{uuid}", "attributes": [], "snapshots": [{"decisions": [], "events": [event]}]}
    return json.dumps(
        {"account_id": "1", "project_id": "2", "client_name": "posts", "client_version": "1", "visitors": [visitor]}
    ).encode()
