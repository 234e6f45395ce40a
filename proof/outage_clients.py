"""The clients in the outage: events at a constant rate, one a POST on kept-alive connections, each until it has a yes.

Started as ``python -m proof.outage_clients``.  An event is due at its time whatever the relay does; one that got no
answer, a no, or no connection is posted again, with the same bytes, until it gets 204.  SIGTERM: no new ones are begun;
when each that was has its yes (or ``--patience-s`` is over) it writes to ``--left`` the numbers that have none.

The counts lie in a mapped file.  They are written before a post is, so at every moment what the relay has stored lies
between what is acknowledged there and the posts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import signal
import time
from collections import Counter, deque
from pathlib import Path
from typing import Final, cast

import uvloop

from .outage_wire import CELLS, TEMPLATE, body

TICK_S: Final = 0.005
AGAIN_S: Final = 0.1
"""How long a client waits after a refused connection or a no."""
YES: Final = b"HTTP/1.1 204 "


class Connection(asyncio.Protocol):
    """One connection with at most one post under way."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._buffer = b""
        self.number: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be at hand."""
        self.transport = cast("asyncio.Transport", transport)
        self._clients.idle.append(self)

    def post(self, number: int, head: bytes) -> None:
        """Post an event."""
        self.number = number
        self.transport.write(head + body(number))

    def data_received(self, data: bytes) -> None:
        """Take the answer; after a no the connection is not used again."""
        self._buffer += data
        if b"\r\n\r\n" not in self._buffer or self.number is None:
            return
        answer, self._buffer, number = self._buffer, b"", self.number
        if answer.startswith(YES):
            self.number = None
            self._clients.acknowledged(number)
            self._clients.idle.append(self)
        else:
            self.number = None
            self._clients.refuse(number, answer[9:12].decode("ascii", "replace"))
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """Have another one made, and the event posted again."""
        self._clients.lost(self)


class Clients:
    """All of them.  ``rate``: events a second."""

    def __init__(self, port: int, rate: float, connections: int, cells: mmap.mmap) -> None:
        self._port, self._rate, self._connections = port, rate, connections
        self._cells = cells
        self._loop = asyncio.get_running_loop()
        self._head = (
            f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body(0))}\r\n\r\n"
        ).encode()
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: deque[int] = deque()
        self.idle: deque[Connection] = deque()
        self.noes: Counter[str] = Counter()
        self.due = self.begun = self.acked = self.posts = self.unanswered = self.refused = 0
        self.waiting: set[int] = set()

    def acknowledged(self, number: int) -> None:
        """Note a yes."""
        self.acked += 1
        self.waiting.discard(number)

    def refuse(self, number: int, status: str) -> None:
        """Note a no."""
        self.noes[status] += 1
        self._loop.call_later(AGAIN_S, self._again.append, number)

    def lost(self, connection: Connection) -> None:
        """Note that a connection has ended, and make another."""
        number, connection.number = connection.number, None
        if connection in self.idle:
            self.idle.remove(connection)
        if number is not None:
            self.unanswered += 1
            self._loop.call_later(AGAIN_S, self._again.append, number)
        self._connect()

    def _connect(self) -> None:
        task = self._loop.create_task(self._until_connected())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_connected(self) -> None:
        while True:
            try:
                await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
            except OSError:
                self.refused += 1
                await asyncio.sleep(AGAIN_S)
            else:
                return

    def pump(self) -> None:
        """Post what is due, as far as there are connections."""
        idle, again = self.idle, self._again
        chosen = []
        while idle and (again or self.begun < self.due):
            if again:
                number = again.popleft()
            else:
                number = self.begun
                self.begun += 1
                self.waiting.add(number)
            chosen.append((idle.popleft(), number))
        self.posts += len(chosen)
        self._cells[: CELLS.size] = CELLS.pack(self.begun, self.acked, self.posts, self.unanswered, self.refused)
        for connection, number in chosen:
            connection.post(number, self._head)

    async def run(self, patience_s: float) -> None:
        """Post until SIGTERM, and then until everything has its yes."""
        ended: list[int] = []
        self._loop.add_signal_handler(signal.SIGTERM, ended.append, 1)
        for _ in range(self._connections):
            self._connect()
        began = time.monotonic()
        while not ended:
            self.due = int((time.monotonic() - began) * self._rate)
            self.pump()
            await asyncio.sleep(TICK_S)
        until = time.monotonic() + patience_s
        while (self.waiting or self.begun < self.due) and time.monotonic() < until:
            self.pump()
            await asyncio.sleep(TICK_S)
        self.pump()


async def serve(options: argparse.Namespace, cells: mmap.mmap) -> Clients:
    """Be the clients."""
    clients = Clients(options.port, options.rate, options.connections, cells)
    await clients.run(options.patience_s)
    return clients


def main() -> None:
    """Be the clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--cells", required=True)
    parser.add_argument("--left", required=True)
    parser.add_argument("--patience-s", type=float, required=True)
    options = parser.parse_args()
    assert len({len(body(number)) for number in (0, 10**6, 10**9)}) == 1, TEMPLATE
    with Path(options.cells).open("r+b") as file:
        cells = mmap.mmap(file.fileno(), CELLS.size)
    uvloop.install()
    clients = asyncio.run(serve(options, cells))
    Path(options.left).write_text(json.dumps({"left": sorted(clients.waiting), "noes": clients.noes}))


if __name__ == "__main__":
    main()
