"""A relay for tests: one worker on a thread of its own, or the whole of it in its processes; raw HTTP to talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from eventpost.queues.journal import inspect
from eventpost.relay.settings import read_settings
from eventpost.relay.worker import Worker

SRC = Path(__file__).parents[1] / "src"
NOWHERE = "http://127.0.0.1:9/v1/events"


def batch(number: int = 1, **more: Any) -> bytes:
    """Return the body of a batch with one visitor and one event, whose uuid tells its number."""
    event = {"uuid": uuid_of(number), "timestamp": 1_700_000_000_000, "key": "bought", "entity_id": "7", "type": "x"}
    visitor = {"visitor_id": f"visitor-{number}", "attributes": [], "snapshots": [{"decisions": [], "events": [event]}]}
    return json.dumps({"account_id": "1", "project_id": "2", "visitors": [visitor], **more}).encode()


def uuid_of(number: int) -> str:
    """Return the uuid in the batch with that number."""
    return f"00000000-0000-4000-8000-{number:012d}"


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The reason of a no."""
        return str(self.json()["reason"])


class Wire:
    """A connection that says what it is told, and reads answers."""

    def __init__(self, port: int, *, timeout_s: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> Wire:
        """Send bytes as they are."""
        self.socket.sendall(data)
        return self

    def answer(self, *, head: bool = False) -> Answer:
        """Read one answer, past any 100.  Raises EOFError if the connection ends first."""
        line = self._file.readline()
        if not line:
            raise EOFError
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self._file.readline()).strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if status == 100:
            return self.answer(head=head)
        length = 0 if head or status == 204 else int(headers.get("content-length", 0))
        return Answer(status, headers, self._file.read(length))

    def ends(self) -> bool:
        """Tell whether the other side closes, and says nothing more."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(body: bytes = b"", *lines: str, path: str = "/v1/events", method: str = "POST") -> bytes:
    """Return the bytes of a request, with a Content-Length unless it is among the header's lines or chunked."""
    given = "\n".join(lines).lower()
    framed = "content-length:" in given or "transfer-encoding:" in given
    head = [f"{method} {path} HTTP/1.1", *([] if "host:" in given else ["Host: 127.0.0.1"]), *lines]
    if not framed and (body or method == "POST"):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def ask(port: int, body: bytes = b"", *lines: str, path: str = "/v1/events", method: str = "POST") -> Answer:
    """Send one request on a connection of its own, and return the answer."""
    with Wire(port) as wire:
        return wire.send(request(body, *lines, path=path, method=method)).answer(head=method == "HEAD")


class Door:
    """One worker on a thread: its port, its folder, and the event loop's parts."""

    def __init__(self, journal: Path, **settings: Any) -> None:
        self.journal = journal
        self.settings = read_settings(
            {"journal": [str(journal)], "endpoint": NOWHERE, "stop_timeout_s": 2.0, **settings}, environ={}
        )
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(20)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
            self.loop.close()

    async def _serve(self) -> None:
        self.worker = Worker(self.settings, str(self.journal), self.loop)
        await self.worker.serve(self.listener, self._ready.set)

    def stop(self) -> None:
        """Stop it in order, and wait until it has."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.worker.stop)
        self.join()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def stored(self) -> list[bytes]:
        """Return the bodies that lie in the folder."""
        return bodies(self.journal)

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def bodies(journal: Path | str) -> list[bytes]:
    """Return the bodies that lie in a folder, oldest first."""
    try:
        return [one.event.envelope.body([one.event.payload]) for one in inspect.tail(journal, last=None)]
    except FileNotFoundError:
        return []


class Relay:
    """``eventpost relay`` in processes of its own.  ``path``: a folder that Python looks into for modules, too.

    Where nothing can be sent to, a stop does not try for long, unless a test says for how long.
    """

    def __init__(
        self, journal: Path | str | None, *options: str, endpoint: str = NOWHERE, port: int = 0, path: str = "",
        **environment: str,
    ) -> None:  # fmt: skip
        self.journal = journal
        self.port = port or free_port()
        command = [sys.executable, "-m", "eventpost.cli", "relay", "--listen", f"127.0.0.1:{self.port}"]
        command += [] if journal is None else ["--journal", str(journal)]
        command += [*(["--endpoint", endpoint] if endpoint else []), *options]
        if endpoint == NOWHERE and "--drain-timeout" not in options:
            command += ["--drain-timeout", "0.2"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("EVENTPOST_", "PYTEST"))}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**environ, "PYTHONPATH": f"{SRC}:{path}".rstrip(":"), **environment},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    @property
    def workers(self) -> list[int]:
        """The workers' process numbers."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(one) for one in listed.split()]

    def kill(self) -> None:
        """Kill the main process."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout_s: float = 30.0) -> tuple[int, str, str]:
        """Stop it in order; return its exit code, and what it said on its way."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def wait_for(what: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Wait until ``what()`` is true, and return it; a failure if it never is."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def clients(port: int, count: int, say: Callable[[int], bytes], stop: threading.Event) -> Iterator[list[int]]:
    """Yield the list of numbers that were answered 204, while ``count`` threads post until ``stop`` is set."""
    taken: list[int] = []
    numbers = iter(range(1, 10_000_000))
    lock = threading.Lock()

    def post() -> None:
        wire: Wire | None = None
        while not stop.is_set():
            with lock:
                number = next(numbers)
            try:
                wire = wire or Wire(port, timeout_s=5)
                if wire.send(request(say(number))).answer().status == 204:
                    taken.append(number)
            except (OSError, EOFError, ValueError, IndexError):
                if wire is not None:
                    wire.close()
                wire = None
                time.sleep(0.02)
        if wire is not None:
            wire.close()

    threads = [threading.Thread(target=post) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield taken
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def uuids(found: Sequence[bytes]) -> set[str]:
    """Return the uuids in some bodies."""
    return {
        event["uuid"]
        for body in found
        for visitor in json.loads(body)["visitors"]
        for snapshot in visitor["snapshots"]
        for event in snapshot["events"]
    }
