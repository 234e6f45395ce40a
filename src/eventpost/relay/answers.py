"""What the relay answers: 204, or a status with its reason as JSON.

``{"reason": "queue_full", "detail": "..."}``: ``reason`` is one word for programs and counters, ``detail`` says to a
person what to do.  Neither quotes anything of the request's body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

LATER_S: Final = 10
"""What ``Retry-After`` asks for where nothing tells when it will be better."""
JSON_TYPE: Final[Header] = (b"content-type", b"application/json")
NO_STORE: Final[Header] = (b"cache-control", b"no-store")
CLOSE: Final[Header] = (b"connection", b"close")
NO_CONTENT: Final[Message] = {"type": "http.response.start", "status": 204, "headers": ()}
END: Final[Message] = {"type": "http.response.body"}


class Denied(NamedTuple):
    """A no: HTTP status, the reason in one word, and what to do.

    ``retry_after_s`` 0: nothing is said about later.  ``challenge``: how to show who one is.  ``errors``: what strict
    mode found.
    """

    status: int
    reason: str
    detail: str
    retry_after_s: int = 0
    challenge: bytes = b""
    errors: tuple[str, ...] = ()

    def body(self) -> bytes:
        """Return the answer's body."""
        value: dict[str, Any] = {"reason": self.reason, "detail": self.detail}
        if self.errors:
            value["errors"] = self.errors
        return orjson.dumps(value) + b"\n"

    def headers(self) -> list[Header]:
        """Return the answer's own headers."""
        headers = [JSON_TYPE, NO_STORE]
        if self.retry_after_s:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.challenge:
            headers.append((b"www-authenticate", self.challenge))
        return headers


def unavailable(reason: str, detail: str) -> Denied:
    """Return the answer to what cannot be stored just now."""
    return Denied(503, reason, detail, LATER_S)


async def answer(send: Send, status: int, headers: Sequence[Header], body: bytes = b"") -> None:
    """Send a whole answer."""
    length = () if status == 204 else ((b"content-length", b"%d" % len(body)),)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})


async def deny(send: Send, denied: Denied, headers: Sequence[Header] = ()) -> None:
    """Send a no."""
    await answer(send, denied.status, [*denied.headers(), *headers], denied.body())


def saying(denied: Denied) -> ASGIApp:
    """Return an application that says no, and ends the connection."""

    async def say(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
        await deny(send, denied, [CLOSE])

    return say


def behind_status(denied: Denied) -> bytes:
    """Return the bytes of a no behind its first line, for a connection that ends with it."""
    body = denied.body()
    headers = [*denied.headers(), (b"content-length", b"%d" % len(body)), CLOSE]
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n" + body
