"""Helpers for the tests of the queue on Redis Streams: what servers answer, by hand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any

from eventpost.event import Envelope, Event
from eventpost.queues.streams import entry
from eventpost.queues.streams.address import Place

URL = "http://h/v1/events"


class Recorder:
    """The way to the servers, at its end: ``answers`` are given in turn, what is asked is written down."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[tuple[int, list[Any], float]] = []

    def __call__(self, shard: int, calls: Sequence[Any], deadline: float) -> Any:
        """Answer as a route does."""
        self.asked.append((shard, list(calls), deadline))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def an_event(number: int) -> Event:
    """Return an event that tells its number."""
    return Event(Envelope(URL), b'{"n":%d}' % number)


def row(entry_id: str, *numbers: int) -> list[Any]:
    """Return an entry as it lies on a server."""
    return [entry_id.encode(), [b"w", b"w-1", b"d", entry.pack([an_event(number) for number in numbers])]]


def a_letter(entry_id: str, number: int = 1, **more: bytes) -> list[Any]:
    """Return a dead letter as it lies on a server; ``more``: other fields than the usual ones."""
    fields = {
        "d": entry.pack([an_event(number)]), "c": b"400", "k": b"3", "r": b"rejected", "t": b"no \xff",
        "l": b"lane", "o": b"5-1:2", "w": b"w-1", **more,
    }  # fmt: skip
    return [entry_id.encode(), [word for name, value in fields.items() for word in (name.encode(), value)]]


class ScriptedServer:
    """Answers what it is told to, a piece for each piece that it gets; then it closes, or is silent."""

    def __init__(self, *answers: bytes, silent: bool = False, unix: str | None = None) -> None:
        self.got = b""
        self.answers = answers
        self.silent = silent
        self.listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        self.listener.bind(unix or ("127.0.0.1", 0))
        self.listener.listen()
        self.listener.settimeout(10)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place("127.0.0.1", self.listener.getsockname()[1])

    def serve(self) -> None:
        """Serve one connection, which may be cut at any time."""
        with suppress(OSError), closing(self.listener.accept()[0]) as one:
            for answer in self.answers:
                self.got += one.recv(1 << 16)
                one.sendall(answer)
            while self.silent and one.recv(1 << 16):
                pass

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(10)
        self.listener.close()


def soon(seconds: float = 5.0) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds
