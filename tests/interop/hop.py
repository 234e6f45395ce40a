"""A recording hop: a TCP proxy in front of the relay that keeps every byte, so that a test knows what an SDK sent.

It passes on what it reads, both ways, and understands none of it; requests and answers are cut out of the two streams
of each connection afterwards, and paired in order.  ``down()`` makes its port refuse connections and ends those that
are open, as a relay does whose process died; ``up(port)`` brings it back at the same address, in front of another port.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

CONNECT_TIMEOUT_S = 5.0
READ_BYTES = 65536


class Exchange(NamedTuple):
    """One request as it was sent, and the status that it was answered with; None: with nothing."""

    head: bytes
    body: bytes
    status: int | None

    def header(self, name: str) -> str:
        """Return a header's value; "" if there is none."""
        for line in self.head.split(b"\r\n")[1:]:
            found, _, value = line.partition(b":")
            if found.strip().lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return ""


class Hop:
    """Listens on a port of its own, once it is told to; 127.0.0.1 only."""

    def __init__(self) -> None:
        self.port = 0
        self._behind = 0
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._streams: list[tuple[bytearray, bytearray]] = []
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """The URL to give to an SDK."""
        return f"http://127.0.0.1:{self.port}/v1/events"

    @property
    def exchanges(self) -> list[Exchange]:
        """Every request that has arrived as a whole, in the order of their connections."""
        with self._lock:
            streams = [(bytes(asked), bytes(answered)) for asked, answered in self._streams]
        return [one for asked, answered in streams for one in exchanges(asked, answered)]

    def down(self) -> None:
        """Refuse connections from now on, and end those that are open."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._listener.close()
        with self._lock:
            still_open = list(self._open)
        for one in still_open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def up(self, port: int) -> None:
        """Listen, again where it did, in front of ``port``."""
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), name="hop", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._behind), CONNECT_TIMEOUT_S)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            asked, answered = bytearray(), bytearray()
            with self._lock:
                self._streams.append((asked, answered))
                self._open |= {client, server}
            for source, target, kept in ((client, server, asked), (server, client, answered)):
                threading.Thread(target=self._pass_on, args=(source, target, kept), name="hop", daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(READ_BYTES):
                with self._lock:
                    kept += data
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            both_done = source not in self._open
            self._open -= {source, target}
        if both_done:  # the other direction has ended before
            source.close()
            target.close()


def exchanges(asked: bytes, answered: bytes) -> list[Exchange]:
    """Cut the two streams of one connection into requests and their answers."""
    statuses = [status for head, _ in messages(answered) if (status := int(head.split(b" ", 2)[1])) >= 200]
    requests = list(messages(asked))
    statuses += [None] * (len(requests) - len(statuses))
    return [Exchange(head, body, status) for (head, body), status in zip(requests, statuses, strict=False)]


def messages(stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield head and body of each complete HTTP/1.1 message in a stream."""
    at = 0
    while (end := stream.find(b"\r\n\r\n", at)) >= 0:
        head = stream[at:end]
        lower = head.lower()
        if b"\r\ntransfer-encoding: chunked" in lower:
            found = _unchunk(stream, end + 4)
        else:
            _, length_is_said, rest = lower.partition(b"\r\ncontent-length:")
            length = int(rest.split(b"\r\n", 1)[0]) if length_is_said else 0
            body = stream[end + 4 : end + 4 + length]
            found = (body, end + 4 + length) if len(body) == length else None
        if found is None:
            return
        body, at = found
        yield head, body


def _unchunk(stream: bytes, at: int) -> tuple[bytes, int] | None:
    """Return a chunked body and where it ends; None: it has not arrived as a whole."""
    body = b""
    while (end := stream.find(b"\r\n", at)) >= 0:
        length = int(stream[at:end].split(b";")[0], 16)
        chunk = stream[end + 2 : end + 2 + length]
        at = end + 2 + length + 2
        if len(stream) < at:
            return None
        body += chunk
        if length == 0:
            return body, at
    return None
