"""Endpoints that misbehave below HTTP, on real sockets; what HTTP itself can say wrongly is the Collector's business.

A ``Raw`` server hands each connection to a function on a thread of its own.  It notes which events it has said yes to
(``yes``): an event that counts as delivered, and to which nobody said yes, would be lost.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eventpost.testing import Collector
from eventpost.testing.collector import uuids_in

Behaviour = Callable[["Raw", socket.socket], None]
QUICK_S = 0.02


class Raw:
    """A server that does to each connection what ``behave`` does."""

    def __init__(self, behave: Behaviour) -> None:
        self.yes: set[str] = set()
        self.hits = 0
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._ended = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            if self._ended:
                connection.close()
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._behave(self, connection)
        self._open.discard(connection)

    def stop(self) -> None:
        """Hang up and stop listening."""
        self._ended = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def request(self, connection: socket.socket) -> bytes | None:
        """Read a request; its body, None at the connection's end."""
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return None
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < int(lengths[0]):
            part = connection.recv(65536)
            if not part:
                return None
            body += part
        self.hits += 1
        return body

    def say_yes(self, body: bytes) -> None:
        """Note that the answer to this is a yes."""
        self.yes.update(uuids_in(body))

    @property
    def ended(self) -> bool:
        """Whether it was stopped."""
        return self._ended


def reset(connection: socket.socket) -> None:
    """End a connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def until_hung_up(connection: socket.socket) -> None:
    """Wait until the other end goes, taking what it sends."""
    connection.settimeout(10)
    while connection.recv(65536):
        pass


def answering(answer: bytes, *, close: bool = True, yes: bool = False) -> Behaviour:
    """Return a behaviour: answer each request with these bytes, then hang up, or stay silent."""

    def behave(server: Raw, connection: socket.socket) -> None:
        while (body := server.request(connection)) is not None:
            if yes:
                server.say_yes(body)
            connection.sendall(answer)
            if close:
                return

    return behave


def cycling(*answers: bytes) -> Behaviour:
    """Return a behaviour: one of these answers after the other, a connection each."""

    def behave(server: Raw, connection: socket.socket) -> None:
        if server.request(connection) is not None:
            connection.sendall(answers[server.hits % len(answers)])

    return behave


def reset_at_once(server: Raw, connection: socket.socket) -> None:
    """Take the connection and reset it."""
    server.hits += 1
    reset(connection)


def close_at_once(server: Raw, connection: socket.socket) -> None:
    """Take the connection and close it in the orderly way."""
    server.hits += 1
    connection.shutdown(socket.SHUT_WR)


def speaks_plainly(server: Raw, connection: socket.socket) -> None:
    """Answer whatever comes, a handshake, say, with a 400."""
    connection.recv(1000)
    server.hits += 1
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def reset_in_body(server: Raw, connection: socket.socket) -> None:
    """Read a part of the body, then reset."""
    connection.recv(20_000)
    server.hits += 1
    reset(connection)


def never_reads(server: Raw, connection: socket.socket) -> None:
    """Take the connection and nothing of what is sent over it."""
    server.hits += 1
    while not server.ended:
        time.sleep(QUICK_S)
    reset(connection)


def silent(server: Raw, connection: socket.socket) -> None:
    """Read and say nothing."""
    server.hits += 1
    until_hung_up(connection)


def repeating(first: bytes, again: bytes, *, every_s: float = QUICK_S, yes: bool = False) -> Behaviour:
    """Return a behaviour: answer with ``first``, then ``again`` for ever."""

    def behave(server: Raw, connection: socket.socket) -> None:
        body = server.request(connection)
        if body is None:
            return
        if yes:
            server.say_yes(body)
        connection.sendall(first)
        while not server.ended:
            connection.sendall(again)
            if every_s:
                time.sleep(every_s)

    return behave


def once_each(server: Raw, connection: socket.socket) -> None:
    """Answer a connection's first request, and hang up as soon as the second begins to arrive."""
    body = server.request(connection)
    if body is not None:
        server.say_yes(body)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        connection.recv(1)


def unasked(server: Raw, connection: socket.socket) -> None:
    """Answer the very first request twice, and every other one with 503."""
    while (body := server.request(connection)) is not None:
        if server.hits == 1:
            server.say_yes(body)
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n" * 2)
        else:
            connection.sendall(b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n")


class Backlog:
    """A listening socket that accepts nobody, and has no room for another one who waits."""

    hits = 0

    def __init__(self) -> None:
        self.yes: set[str] = set()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.port))
            self._waiting.append(sock)

    def stop(self) -> None:
        """Let all of them go."""
        for sock in (*self._waiting, self._listener):
            sock.close()


class Nobody:
    """A port where nobody listens."""

    hits = 0

    def __init__(self) -> None:
        self.yes: set[str] = set()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]

    def stop(self) -> None:
        """There is nothing to stop."""


class NameServer:
    """Answers questions about names over UDP: not at all, with "no such name", or with 127.0.0.1."""

    def __init__(self, address: str) -> None:
        self.mode = "silent"
        self.hits = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                question, asker = self._socket.recvfrom(2000)
            except OSError:
                return
            self.hits += 1
            end = question.index(b"\0", 12) + 5
            wants_v4 = question[end - 4 : end - 2] == b"\0\1"
            count, code = (1, 0) if self.mode == "right" and wants_v4 else (0, 0 if self.mode == "right" else 3)
            if self.mode == "silent":
                continue
            head = question[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, count, 0, 0)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" * count
            self._socket.sendto(head + question[12:end] + record, asker)

    def close(self) -> None:
        """Stop."""
        self._socket.close()


class Papers:
    """Certificates: a good one, and those that must not be trusted; ``bundle`` is whom we trust."""

    def __init__(self, folder: Path) -> None:
        import trustme

        self._folder = folder
        ours, strangers = trustme.CA(), trustme.CA()
        self.bundle = str(folder / "ca.pem")
        ours.cert_pem.write_to_path(self.bundle)
        yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
        self.good = self._pair("good", ours.issue_cert("127.0.0.1"))
        self.wrong_host = self._pair("wrong_host", ours.issue_cert("elsewhere.example.com"))
        self.self_signed = self._pair("self_signed", strangers.issue_cert("127.0.0.1"))
        month = dt.timedelta(days=30)
        self.expired = self._pair(
            "expired", ours.issue_cert("127.0.0.1", not_before=yesterday - month, not_after=yesterday)
        )

    def _pair(self, name: str, issued: Any) -> tuple[str, str]:
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        os.chmod(key, 0o600)
        return str(cert), str(key)


@contextlib.contextmanager
def well(port: int, papers: tuple[str, str] | None) -> Iterator[Collector]:
    """Be a good endpoint at a port, as soon as it can be had."""
    cert, key = papers or (None, None)
    until = time.monotonic() + 5
    while True:
        collector = Collector(port=port, cert=cert, key=key)
        try:
            collector.start()
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(QUICK_S)
    try:
        yield collector
    finally:
        collector.close()
