"""A scripted endpoint for tests: it says, and breaks, what you tell it to, and counts the events that it saw.

One asyncio protocol speaks just enough HTTP/1.1: keep-alive, pipelining in order, Content-Length and chunked bodies.
It runs on a daemon thread of its own (``with Collector() as collector``) or in a process of its own (``python -m
eventpost.testing.collector --port 0`` prints its URL; ``GET /_stats`` and ``GET /_uuids`` answer in JSON), so that kill
tests and benchmarks can count from outside.  What is listening is real: sockets, TLS if it is given a certificate.

How an answer is chosen: the next of ``script`` if there is one left, else ``answer(request)``, else 204.  A request
whose answer is a reset "before" its body was read, or one that hangs, was still received as far as it got; only what
was read to its end and answered 2xx is counted in ``uuids`` (``delivered``), everything that arrived in ``requests``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import urlsplit

import orjson

if TYPE_CHECKING:
    from typing_extensions import Self

REQUEST_BYTES_MAX: Final = 64 * 1024 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
POLL_S: Final = 0.005
CLOSE_TURNS: Final = 20
CLOSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and how it goes wrong.

    ``delay_s``: wait before answering; ``retry_after``: seconds (a number is sent as it is), or a ready header value;
    ``retry_after_date_s``: seconds from now, sent as an HTTP date; ``reset``: close with a TCP reset "before" the
    request's body is read, "after" it without an answer, or "during" the answer; ``hang``: never answer; ``drip_s``:
    send the answer byte by byte, this far apart; ``garbage``: these bytes instead of an answer; ``close``: end the
    connection after the answer (``announce_close`` False: without saying so); ``content_length``: lie about the body's
    length; ``interim``: statuses of 1xx answers to send first.
    """

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_s: float = 0.0
    retry_after: float | str | None = None
    retry_after_date_s: float | None = None
    reset: Literal["before", "during", "after"] | None = None
    hang: bool = False
    drip_s: float = 0.0
    garbage: bytes | None = None
    close: bool = False
    announce_close: bool = True
    content_length: int | None = None
    interim: tuple[int, ...] = ()

    def head_and_body(self) -> bytes:
        """Return the answer's bytes."""
        lines = [f"HTTP/1.1 {status} Interim\r\n\r\n" for status in self.interim]
        lines.append(f"HTTP/1.1 {self.status} Scripted\r\n")
        lines.extend(f"{name}: {value}\r\n" for name, value in self.headers.items())
        if self.retry_after is not None:
            lines.append(f"Retry-After: {self.retry_after}\r\n")
        if self.retry_after_date_s is not None:
            lines.append(f"Retry-After: {formatdate(time.time() + self.retry_after_date_s, usegmt=True)}\r\n")
        if self.status not in (204, 304) or self.content_length is not None:
            length = len(self.body) if self.content_length is None else self.content_length
            lines.append(f"Content-Length: {length}\r\n")
        if self.close and self.announce_close:
            lines.append("Connection: close\r\n")
        return "".join(lines).encode("latin-1") + b"\r\n" + self.body


PLAIN: Final = Reply()
_NO_CONTENT: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


class CollectedRequest:
    """What arrived: ``method``, ``path`` (with its query), ``headers`` (lower case), ``body``, ``time`` (epoch, s).

    ``connection`` numbers the connections of a collector from 1.
    """

    __slots__ = ("body", "connection", "head", "method", "path", "time")

    def __init__(self, head: bytes, body: bytes, connection: int) -> None:
        method, path, _ = head.split(b" ", 2)
        self.method = method.decode("latin-1")
        self.path = path.decode("latin-1")
        self.head = head
        self.body = body
        self.connection = connection
        self.time = time.time()

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers by lower-case name; the last one wins."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines)
        return {name.strip().lower(): value.strip() for name, _, value in pairs if name}

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)

    def uuids(self) -> list[str]:
        """Return the uuids of the events in the body; none if it is no event batch."""
        return uuids_in(self.body)

    def __repr__(self) -> str:
        return f"CollectedRequest({self.method} {self.path.partition('?')[0]}, <{len(self.body)} bytes>)"


def uuids_in(body: bytes) -> list[str]:
    """Return the uuids of all events in a batch as the endpoint takes it, in order; none if it is something else."""
    try:
        return [
            event["uuid"]
            for visitor in orjson.loads(body)["visitors"]
            for snapshot in visitor["snapshots"]
            for event in snapshot["events"]
        ]
    except (ValueError, KeyError, TypeError):
        return []


class _Connection(asyncio.Protocol):
    """One keep-alive connection: cuts requests out of the stream and answers them in order."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.buffer = bytearray()
        self.head: bytes | None = None
        self.body_bytes = 0
        self.chunked = False
        self.busy = False
        self.number = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own is not derived from it
        self.number = self.collector._connected(self)  # noqa: SLF001 - two halves of one thing

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport.close()  # Python 3.10's TLS transport does not notice by itself that it is closed, and warns
        self.collector._lost(self)  # noqa: SLF001 - two halves of one thing

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.busy:
            self.cut()

    def cut(self) -> None:
        """Take complete requests off the buffer for as long as they are answered at once."""
        buffer = self.buffer
        while not self.busy:
            if self.head is None:
                end = buffer.find(b"\r\n\r\n")
                if end < 0:
                    if len(buffer) > HEAD_BYTES_MAX:
                        self.transport.abort()
                    return
                self.head = bytes(buffer[:end])
                del buffer[: end + 4]
                if not self.measure(self.head):
                    return
            if self.chunked:
                body = self.unchunk()
                if body is None:
                    return
            else:
                if len(buffer) < self.body_bytes:
                    return
                body = bytes(buffer[: self.body_bytes])
                del buffer[: self.body_bytes]
            head, self.head = self.head, None
            self.collector._received(self, CollectedRequest(head, body, self.number))  # noqa: SLF001 - ours

    def measure(self, head: bytes) -> bool:
        """Find the body's length in the head; False: nothing more is to be read."""
        lower = head.lower()
        self.chunked = b"\r\ntransfer-encoding: chunked" in lower
        at = lower.find(b"\r\ncontent-length:")
        try:
            self.body_bytes = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        except ValueError:
            self.body_bytes = REQUEST_BYTES_MAX + 1
        if head.split(b"\r\n", 1)[0].count(b" ") != 2 or self.body_bytes > REQUEST_BYTES_MAX:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()
            return False
        if b"\r\nexpect: 100-continue" in lower:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self.collector._announced(self, head)  # noqa: SLF001 - two halves of one thing

    def unchunk(self) -> bytes | None:
        """Return the body once the last chunk is there."""
        body, at = bytearray(), 0
        while True:
            end = self.buffer.find(b"\r\n", at)
            if end < 0:
                return None
            length = int(self.buffer[at:end].split(b";")[0] or b"0", 16)
            if len(self.buffer) < end + 2 + length + 2:
                return None
            body += self.buffer[end + 2 : end + 2 + length]
            at = end + 2 + length + 2
            if length == 0:
                del self.buffer[:at]
                return bytes(body)

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def play(self, request: CollectedRequest, reply: Reply) -> None:
        """Answer in the way that ``reply`` says, then go on with what has arrived meanwhile."""
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        if reply.hang:
            return
        if reply.reset == "after":
            self.reset()
            return
        answer = reply.garbage if reply.garbage is not None else reply.head_and_body()
        if reply.reset == "during":
            self.transport.write(answer[: len(answer) // 2])
            await asyncio.sleep(0.02)
            self.reset()
            return
        if reply.drip_s:
            for at in range(len(answer)):
                if self.transport.is_closing():
                    return
                self.transport.write(answer[at : at + 1])
                await asyncio.sleep(reply.drip_s)
        if reply.garbage is None:  # counted before it is sent: whoever has the answer can see the count
            self.collector._answered(request, reply.status)  # noqa: SLF001 - two halves of one thing
        if not reply.drip_s:
            self.transport.write(answer)
        if reply.close or reply.garbage is not None:
            self.transport.close()
            return
        self.busy = False
        self.cut()


class Collector:
    """A fake Optimizely endpoint on 127.0.0.1.

    ``port`` 0 lets the system choose; ``cert`` and ``key`` (PEM files) make it speak TLS, ``client_ca`` (PEM file)
    makes it demand a client certificate.  ``keep`` False: count, but keep no requests (for loads of millions).
    ``answer``: called with each :class:`CollectedRequest` that the script leaves over, on the collector's thread;
    returns a :class:`Reply`.  All attributes may be read from any thread.
    """

    def __init__(
        self,
        answer: Callable[[CollectedRequest], Reply] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        cert: str | None = None,
        key: str | None = None,
        client_ca: str | None = None,
        keep: bool = True,
    ) -> None:
        self.answer = answer
        self.requests: list[CollectedRequest] = []
        self.uuids: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.requests_total = 0
        self.connections_total = 0
        self.connections_open = 0
        self.keep = keep
        self._script: deque[Reply] = deque()
        self._count_uuids = True
        self._host, self._port = host, port
        self._tls: ssl.SSLContext | None = None
        if cert is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(cert, key)
            if client_ca is not None:
                self._tls.verify_mode = ssl.CERT_REQUIRED
                self._tls.load_verify_locations(client_ca)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        self._stop: asyncio.Event
        self._failure: BaseException | None = None

    # -- for tests --------------------------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http{'s' if self._tls else ''}://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """The port that it listens on, or will."""
        return self._port

    @property
    def url(self) -> str:
        """The URL to send events to."""
        return f"{self.origin}/v1/events"

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all requests kept so far."""
        return [request.body for request in list(self.requests)]

    def script(self, replies: Iterable[Reply]) -> None:
        """Answer the next requests with these, one each, before ``answer`` is asked again."""
        self._script.extend(replies)

    def wait_for(self, n_uuids: int, timeout_s: float = 10.0) -> bool:
        """Wait until ``n_uuids`` different events were answered 2xx; False: not in time."""
        return self.wait_until(lambda: len(self.uuids) >= n_uuids, timeout_s)

    def wait_requests(self, n_requests: int, timeout_s: float = 10.0) -> bool:
        """Wait until ``n_requests`` requests have arrived, whatever was answered; False: not in time."""
        return self.wait_until(lambda: self.requests_total >= n_requests, timeout_s)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``condition()`` holds; False: not in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def reset_connections(self) -> None:
        """End all open connections with a TCP reset."""
        self._call(_Connection.reset)

    def close_idle(self) -> None:
        """End all open connections in the orderly way, as a server does with idle ones."""
        self._call(lambda connection: connection.transport.close())

    def start(self) -> Self:
        """Begin to listen; returns when it does.  Raises OSError if it cannot."""
        self._thread = threading.Thread(target=self._run, name="eventpost-collector", daemon=True)
        self._thread.start()
        self._up.wait(10)
        if self._failure is not None:
            raise self._failure
        return self

    def close(self) -> None:
        """Stop listening and end all connections."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it ended by itself meanwhile
                loop.call_soon_threadsafe(self._stop.set)
            thread.join(5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Collector({self.origin}, requests={self.requests_total}, uuids={len(self.uuids)})"

    # -- inside -----------------------------------------------------------------------------------------------------

    def _call(self, work: Callable[[_Connection], None]) -> None:
        """Run ``work`` for each open connection, on the collector's thread, and wait for it."""
        done = threading.Event()

        def run() -> None:
            for connection in list(self._connections):
                work(connection)
            done.set()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(run)
        done.wait(5)

    def _run(self) -> None:
        try:
            asyncio.run(self.serve())
        except OSError as error:
            self._failure = error
            self._up.set()

    async def serve(self, *, listener: socket.socket | None = None) -> None:
        """Listen until closed, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if listener is not None:
            server = await self._loop.create_server(lambda: _Connection(self), sock=listener, ssl=self._tls)
        else:
            server = await self._loop.create_server(
                lambda: _Connection(self), self._host, self._port, ssl=self._tls, backlog=1024
            )
        self._port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._stop.wait()
        # First no more accepting, then the end: a connection that asyncio has accepted but not yet handed over when its
        # server closes, is dropped unclosed (an assertion in Server._attach, before Python 3.12.1).
        for listening in server.sockets:
            with contextlib.suppress(RuntimeError, ValueError, OSError):
                self._loop.remove_reader(listening.fileno())
        for _ in range(CLOSE_TURNS):
            await asyncio.sleep(0)
        server.close()
        for task in list(self._tasks):
            task.cancel()
        # An accepted connection needs a few turns to show itself, an aborted one to end; some need time.
        turns, until = CLOSE_TURNS, self._loop.time() + CLOSE_S
        while turns > 0 or (self._ending() and self._loop.time() < until):
            for connection in list(self._connections):
                connection.transport.abort()
            await asyncio.sleep(0 if turns > 0 else POLL_S)
            turns -= 1

    def _ending(self) -> bool:
        return bool(self._connections) or len(asyncio.all_tasks()) > 1

    def _connected(self, connection: _Connection) -> int:
        self._connections.add(connection)
        self.connections_total += 1
        self.connections_open += 1
        return self.connections_total

    def _lost(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self.connections_open -= 1

    def _announced(self, connection: _Connection, head: bytes) -> bool:
        """Look at a head that has arrived; return whether to go on and read the body."""
        script = self._script
        if script and script[0].reset == "before":
            script.popleft()
            self._count(CollectedRequest(head, b"", connection.number))
            connection.reset()
            return False
        return True

    def _count(self, request: CollectedRequest) -> None:
        self.requests_total += 1
        if self.keep:
            self.requests.append(request)

    def _received(self, connection: _Connection, request: CollectedRequest) -> None:
        if request.path.startswith("/_"):
            reply = self._inside(request)
            connection.transport.write(reply.head_and_body())
            return
        self._count(request)
        if self._script:
            reply = self._script.popleft()
        elif self.answer is not None:
            try:
                reply = self.answer(request)
            except Exception as error:  # noqa: BLE001 - the test's own function; it must see what it did
                reply = Reply(500, body=f"answer() raised {type(error).__name__}: {error}".encode())
        else:
            reply = PLAIN
        if reply is PLAIN:
            self._answered(request, 204)
            connection.transport.write(_NO_CONTENT)
            return
        if reply.reset == "before":
            connection.reset()
            return
        connection.busy = True
        assert self._loop is not None
        task = self._loop.create_task(connection.play(request, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answered(self, request: CollectedRequest, status: int) -> None:
        self.statuses[status] += 1
        if 200 <= status < 300:
            self.uuids.update(request.uuids())

    def _inside(self, request: CollectedRequest) -> Reply:
        path = urlsplit(request.path).path
        if path == "/_uuids":
            return Reply(200, body=orjson.dumps(self.uuids))
        if path == "/_stats":
            stats = {
                "requests": self.requests_total,
                "uuids": len(self.uuids),
                "events": self.uuids.total(),
                "statuses": {str(status): n for status, n in self.statuses.items()},
                "connections": self.connections_total,
            }
            return Reply(200, body=orjson.dumps(stats))
        return Reply(404)


def main(arguments: list[str] | None = None) -> int:
    """Run a collector as a process of its own: print its URL, serve until SIGTERM, SIGINT or its stdin's owner ends."""
    parser = argparse.ArgumentParser(prog="python -m eventpost.testing.collector", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--status", type=int, default=204, help="answer every request with this status")
    parser.add_argument("--delay-s", type=float, default=0.0, help="wait this long before each answer")
    parser.add_argument("--cert", help="PEM file; speak TLS")
    parser.add_argument("--key", help="PEM file of the certificate's key")
    parser.add_argument("--bare", action="store_true", help="count requests only, look into no body (fastest)")
    options = parser.parse_args(arguments)
    scripted = options.status != PLAIN.status or options.delay_s > 0
    reply = Reply(options.status, delay_s=options.delay_s)
    collector = Collector(
        (lambda _: reply) if scripted else None,
        host=options.host,
        port=options.port,
        cert=options.cert,
        key=options.key,
        keep=False,
    )
    if options.bare:
        collector._answered = lambda request, status: None  # type: ignore[method-assign] # noqa: SLF001, ARG005 - our own

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(collector.serve())
        while not collector._up.is_set() and not task.done():  # noqa: SLF001, ASYNC110 - a thread's event, our own
            await asyncio.sleep(POLL_S)
        if not task.done():
            for number in (signal.SIGTERM, signal.SIGINT):
                with contextlib.suppress(NotImplementedError):  # Windows
                    loop.add_signal_handler(number, collector._stop.set)  # noqa: SLF001 - our own
            sys.stdout.write(collector.url + "\n")
            sys.stdout.flush()
        await task

    try:
        import uvloop  # noqa: PLC0415 - optional: two to three times as fast where it is installed

        uvloop.install()
    except ImportError:
        pass
    asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
