"""The endpoint that goes away: answers 204 after a moment, and writes down each answer before it gives it.

Started as ``python -m proof.outage_endpoint``.  What it saw lies in a file, a record for each request, written by the
system call ``write``: so it may be killed with SIGKILL, and still be the oracle.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from typing import Final, cast

import uvloop

from .outage_wire import RECORD, number_of

NO_CONTENT: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
BACKLOG: Final = 1024


class Connection(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self, fd: int, delay_s: float) -> None:
        self._fd, self._delay_s = fd, delay_s
        self._buffer = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read on, and answer later."""
        buffer = self._buffer + data
        while (end := buffer.find(b"\r\n\r\n") + 4) > 3:
            head = buffer[:end].lower()
            at = head.index(b"\r\ncontent-length:") + 17
            whole = end + int(head[at : head.index(b"\r\n", at)])
            if len(buffer) < whole:
                break
            self._loop.call_later(self._delay_s, self._answer, time.monotonic(), number_of(buffer[end:whole]))
            buffer = buffer[whole:]
        self._buffer = buffer

    def _answer(self, since: float, number: int) -> None:
        if not self._transport.is_closing():
            os.write(self._fd, RECORD.pack(since, time.monotonic(), number))
            self._transport.write(NO_CONTENT)


async def serve(port: int, path: str, delay_s: float) -> None:
    """Serve until SIGTERM."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(lambda: Connection(fd, delay_s), "127.0.0.1", port, backlog=BACKLOG)
    print("listening", flush=True)
    await ended.wait()


def main() -> None:
    """Be the endpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--records", required=True)
    parser.add_argument("--delay-s", type=float, required=True)
    options = parser.parse_args()
    uvloop.install()
    asyncio.run(serve(options.port, options.records, options.delay_s))


if __name__ == "__main__":
    main()
