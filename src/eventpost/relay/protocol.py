"""What bounds a connection before there is a request, and where there never will be one.

uvicorn's protocol on httptools bounds neither the bytes of a header nor the time that it takes, nor a body's sender who
stalls; and it answers what is no HTTP as plain text.  This subclass does:

====================================================  =================================================
a header of more than ``header_bytes_max``            431, and the connection ends
a header that is not there in ``header_timeout_s``    408 if some of it came, and the connection ends
more than ``connections_max`` connections             503 with Retry-After to the first request of each
a fourth more                                         closed without a word: descriptors are finite
bytes that are no HTTP                                400, after the answers to what came before them
a client that does not read its answer                closed after ``STALLED_S``
====================================================  =================================================

Times are kept by one look at all connections every ``LOOK_S``, not by a timer for each request, which would cost the
hot path more than all the rest of this.  The same look wakes whoever waits for a body, so that its reader
(``body.Reader``) can tell that its time is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from . import answers
from .answers import ASGIApp, Denied, Receive, Scope, Send

LOOK_S: Final = 0.5
STALLED_S: Final = 60.0
_TOO_MANY: Final = answers.unavailable("connections", "this worker has as many connections as it may")
_TOO_LARGE: Final = Denied(431, "header_too_large", "the request's header is larger than the relay takes")
_TOO_SLOW: Final = Denied(408, "slow_header", "the request's header did not arrive in time")
_NO_HTTP: Final = Denied(400, "malformed", "this is no HTTP/1.1 request")


class Bounds:
    """What a worker's connections have in common: the bounds, who counts a no, and whether the worker is stopping."""

    def __init__(
        self,
        *,
        header_bytes_max: int,
        header_timeout_s: float,
        connections_max: int,
        refuse: Callable[[str, str], Any],
    ) -> None:
        self.header_bytes_max = header_bytes_max
        self.header_timeout_s = header_timeout_s
        self.connections_max = connections_max
        self.connections_hard_max = connections_max + connections_max // 4 + 1
        self.refuse = refuse
        self.stopping = False


class RelayProtocol(HttpToolsProtocol):
    """One connection."""

    cycle: Any  # None before the first request, which uvicorn's own annotation leaves out
    pipeline: deque[Any]

    def __init__(
        self, bounds: Bounds, config: Config, server_state: ServerState, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self._bounds = bounds
        self._broken = False
        self._in_head = False
        self._head_bytes = 0
        """Of a header that is not complete: what came before the newest data."""
        self._data_bytes = 0
        self._head_since: float | None = None
        """When the wait for a header began, while there is one and no keep-alive timer runs."""
        self._stalled_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types it
        """Take a connection, or turn it away."""
        super().connection_made(transport)
        self._head_since = self.loop.time()
        count = len(self.connections)
        if count > self._bounds.connections_max:
            if count > self._bounds.connections_hard_max:
                self._bounds.refuse("connections", "more connections than can be answered")
                transport.abort()
            self.app = self._turn_away

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        self._bounds.refuse(_TOO_MANY.reason, _TOO_MANY.detail)
        await answers.deny(send, _TOO_MANY, [answers.CLOSE])

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._broken:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._data_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._begin_anew(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            if not self._broken:
                self._end_after(_NO_HTTP)
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._bounds.header_bytes_max:
                self._end_after(_TOO_LARGE)
        if self._head_since is None and (self._in_head or self._is_idle()):
            self._head_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Hand a request to the application, unless its header is too large after all."""
        self._in_head = False
        self._head_since = None
        limit = self._bounds.header_bytes_max
        if self._head_bytes + self._data_bytes > limit:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limit:
                self._end_after(_TOO_LARGE)
                raise ValueError(_TOO_LARGE.reason)  # ends the parser
        super().on_headers_complete()
        if self._bounds.stopping:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def on_message_complete(self) -> None:
        """End a request; also one that was answered before its body was there, which uvicorn would wait for."""
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _begin_anew(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 after a request that offered another protocol, as Java's client does with each."""
        self.parser = httptools.HttpRequestParser(self)
        if rest:
            self.data_received(rest)

    def _end_after(self, denied: Denied) -> None:
        """End the connection once what came whole before is answered; ``denied`` answers what did not."""
        self._broken = True
        self._in_head = False
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if not cycle.more_body:
                self._bounds.refuse(denied.reason, denied.detail)
                return
            # The body of this very request is broken off: its application must see no end of it.
            if self.pipeline:
                self._bounds.refuse(denied.reason, denied.detail)
                self.pipeline[0] = (cycle, _saying(denied))
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        else:
            self._bounds.refuse(denied.reason, denied.detail)
        if not self.transport.is_closing():
            self.transport.write(_as_bytes(denied))
        self.transport.close()

    def look(self, now: float) -> None:
        """Do what is due: called for each connection every ``LOOK_S``.  ``now``: the loop's time."""
        cycle = self.cycle
        if self.flow.write_paused or (cycle is not None and cycle.response_complete and cycle.more_body):
            if self._stalled_since is None:
                self._stalled_since = now
            elif now - self._stalled_since > STALLED_S:
                self.transport.abort()
            return
        self._stalled_since = None
        if cycle is not None and cycle.more_body and not cycle.response_complete:
            cycle.message_event.set()
        waits_s = 0.0 if self._head_since is None else now - self._head_since
        if waits_s > self._bounds.header_timeout_s and (self._in_head or self._is_idle()):
            if self._in_head:
                self._end_after(_TOO_SLOW)
            else:
                self.transport.close()

    def close_if_idle(self) -> None:
        """Close a connection that waits for a request."""
        if self._is_idle() and not self._in_head:
            self.transport.close()
        elif self.cycle is not None and not self.pipeline:
            self.cycle.keep_alive = False

    def is_busy(self, paths: Collection[str]) -> bool:
        """Tell whether a request for one of these paths is not answered yet."""
        cycle = self.cycle
        return bool(self.pipeline) or (
            cycle is not None and not cycle.response_complete and cycle.scope["path"] in paths
        )


def _saying(denied: Denied) -> ASGIApp:
    async def say(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
        await answers.deny(send, denied, [answers.CLOSE])

    return say


def _as_bytes(denied: Denied) -> bytes:
    body = denied.body()
    headers = [*denied.headers(), (b"content-length", b"%d" % len(body)), answers.CLOSE]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return bytes(STATUS_LINE[denied.status]) + lines + b"\r\n" + body
