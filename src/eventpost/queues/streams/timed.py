"""A socket whose waits end together.

A timeout of the system's holds for one wait, and begins anew with each piece that arrives: a server that answers byte
by byte would be waited for as long as it likes.  Here each wait has what is left until ``until``.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any


class Timed:
    """What redis-py takes for a socket.  ``until`` is when all waits end, in monotonic seconds."""

    __slots__ = ("_sock", "until")

    def __init__(self, sock: socket.socket, until: float) -> None:
        """Keep the arguments."""
        self._sock = sock
        self.until = until

    def _in_time(self) -> socket.socket:
        left_s = self.until - monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        return self._sock

    def recv(self, *arguments: Any) -> bytes:
        """As a socket's.  Raises TimeoutError."""
        return self._in_time().recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        """As a socket's.  Raises TimeoutError."""
        return self._in_time().recv_into(*arguments)

    def sendall(self, data: Any) -> None:
        """As a socket's.  Raises TimeoutError.  With TLS a socket's own would wait anew for each piece, too."""
        left = memoryview(data)
        while left:
            left = left[self._in_time().send(left) :]

    def settimeout(self, value: float | None) -> None:
        """Ignore what redis-py would set: each wait is told its time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
