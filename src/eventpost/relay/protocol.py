"""What bounds a connection before there is a request, and where there never will be one.

uvicorn's protocol on httptools bounds neither the bytes of a header nor the time that it takes, nor a body's sender who
stalls; and it answers what is no HTTP as plain text.  This subclass does:

====================================================  =================================================
a header of more than ``header_bytes_max``            431, and the connection ends
the same between a body's bytes, or behind them       431, and the connection ends
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
from collections.abc import Callable, Collection, Coroutine
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from . import answers
from .answers import Denied, Header, Receive, Scope, Send
from .cycle import Bell, Cycle, Together, begun
from .offers import OffersPassedOver

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
        keep_alive_s: float,
        paths: Collection[str],
        refuse: Callable[[str, str], Any],
        soon: Callable[[Callable[[], None]], Any],
    ) -> None:
        self.header_bytes_max = header_bytes_max
        self.header_timeout_s = header_timeout_s
        self.connections_max = connections_max
        self.connections_hard_max = connections_max + connections_max // 4 + 1
        self.keep_alive_s = keep_alive_s
        self.paths = {path.encode(): path for path in paths}
        """The paths of events, which need no parsing, by the bytes of a request's first line."""
        self.refuse = refuse
        self.stopping = False
        self.together = Together(soon)

    def refresh(self) -> list[Header]:
        """Return the headers of every answer: the date, which changes once a second."""
        date = formatdate(usegmt=True).encode()
        self.together.no_content = bytes(STATUS_LINE[204]) + b"date: " + date + b"\r\n\r\n"
        return [(b"date", date)]


class RelayProtocol(OffersPassedOver):
    """One connection."""

    cycle: Any  # None before the first request, which uvicorn's own annotation leaves out
    pipeline: deque[Any]
    scope: Any

    def __init__(
        self, bounds: Bounds, config: Config, server_state: ServerState, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self._bounds = bounds
        self._broken = False
        self._bell = Bell()
        self._version: str | None = None
        """HTTP's, of the newest request that was asked for it: of a connection that is kept they are all the same."""
        self._in_head = False
        self._head_bytes = 0
        """Of a header that is not complete: what came before the newest data."""
        self._data_bytes = 0
        self._framing_bytes = 0  # since the last byte of a body that is not complete: trailers, or a chunk's extension
        self._began_behind = False
        """Whether the header that is under way began behind other bytes of the newest data."""
        self._waits_for_body = False
        """Whether the newest request is for a path of events, and its application has not begun."""
        self._waits_since: float | None = None  # when the wait for a request, or for the rest of a header, began
        self._stalled_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types it
        """Take a connection, or turn it away."""
        super().connection_made(transport)
        self._scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "server": self.server, "client": self.client, "scheme": self.scheme, "root_path": "",
        }  # fmt: skip
        self._waits_since = self.loop.time()
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
        self._data_bytes = len(data)
        self._framing_bytes += self._data_bytes
        self._began_behind = self.cycle is not None and self.cycle.more_body
        try:
            self.feed(data)
        except httptools.HttpParserError:
            if not self._broken:
                self._end_after(_NO_HTTP)
            return
        if self._waits_for_body:  # the rest comes later: its reader sees to the time that it takes
            self._waits_for_body = False
            self.cycle.message_event.set()
            self._begin(self.cycle.run_asgi(self.app))
        if self._in_head:
            if not self._head_bytes:
                self._waits_since = self.loop.time()
            self._head_bytes += self._parsed_bytes() if self._began_behind else len(data)
            if self._head_bytes > self._bounds.header_bytes_max:
                self._end_after(_TOO_LARGE)
        elif self._framing_bytes > self._bounds.header_bytes_max and self.cycle is not None and self.cycle.more_body:
            self._end_after(_TOO_LARGE)

    def _parsed_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.scope = {**self._scope, "headers": self.headers}
        self._in_head = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a line of the header, not of the trailers: nobody reads them, and they must pass for no header."""
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        """Keep bytes of a body."""
        self._framing_bytes = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        if not self._waits_for_body:
            cycle.message_event.set()

    def on_headers_complete(self) -> None:
        """Hand a request to the application, unless its header is too large after all."""
        self._in_head = False
        self._framing_bytes = 0
        self._waits_since = None
        bounds = self._bounds
        limit = bounds.header_bytes_max
        if self._head_bytes + self._data_bytes > limit and self._parsed_bytes() > limit:
            self._end_after(_TOO_LARGE)
            raise ValueError(_TOO_LARGE.reason)  # ends the parser
        if self.transport.is_closing():  # the last answer has ended the connection
            self._broken = True
            raise ConnectionAbortedError
        parser, scope = self.parser, self.scope
        if parser.should_upgrade():
            return  # its header comes once more, without the offer
        lasts = parser.should_keep_alive()
        version = self._version
        if version is None or not lasts:
            version = self._version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        path = bounds.paths.get(self.url)
        if path is None:
            self._parse_url(scope)
        else:
            scope["path"], scope["raw_path"], scope["query_string"] = path, self.url, b""
        waiting = self.cycle is not None and not self.cycle.response_complete
        self.cycle = Cycle(
            self, self._bell, bounds.together, keep_alive=lasts and version != "1.0" and not bounds.stopping
        )
        if waiting:  # it came before the last one was answered: its turn will come
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        elif path is None:
            self._begin(self.cycle.run_asgi(self.app))
        else:
            self._waits_for_body = True

    def _begin(self, running: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(running)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _parse_url(self, scope: Any) -> None:
        parsed = httptools.parse_url(self.url)
        raw_path: bytes = parsed.path or b"/"
        scope["path"] = unquote(raw_path.decode("ascii"))
        scope["raw_path"] = raw_path
        scope["query_string"] = parsed.query or b""

    def on_response_complete(self) -> None:
        """Go on with what waits in line, or wait for the next request."""
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._begin(cycle.run_asgi(app))
            return
        if self.flow.read_paused:
            self.flow.resume_reading()  # not before: who sends on and on without reading would fill the line
        if not self._in_head:
            self._waits_since = self.loop.time()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's own loses the answers
        """Go on answering a client that has only ended its sending; with TLS there is no such thing."""
        self._bounds.together.write()
        cycle = self.cycle
        if self.scheme == "https" or cycle is None or cycle.response_complete or cycle.more_body:
            return False
        self._broken = True
        cycle.keep_alive = False
        return True

    def _is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def on_message_complete(self) -> None:
        """End a request; also one that was answered before its body was there, which uvicorn would wait for."""
        self._began_behind = True
        if self.parser.should_upgrade():
            return
        self.cycle.more_body = False
        if self._waits_for_body:
            self._waits_for_body = False
            left = begun(self.cycle, self.app)
            if left is not None:
                self._begin(left)
        else:
            self.cycle.message_event.set()

    def _end_after(self, denied: Denied) -> None:
        """End the connection once what came whole before is answered; ``denied`` answers what did not."""
        self._bounds.together.write()
        self._broken = True
        self._in_head = False
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if not cycle.more_body:
                self._bounds.refuse(denied.reason, denied.detail)
                return
            # The body of this very request is broken off: its application must see no end of it.
            if self._waits_for_body:
                self._bounds.refuse(denied.reason, denied.detail)
            if self.pipeline:
                self._bounds.refuse(denied.reason, denied.detail)
                self.pipeline[0] = (cycle, answers.saying(denied))
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        else:
            self._bounds.refuse(denied.reason, denied.detail)
        if not self.transport.is_closing():
            self.transport.write(bytes(STATUS_LINE[denied.status]) + answers.behind_status(denied))
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
        if self._waits_since is None:
            return
        if self.flow.read_paused:
            self._waits_since = now  # it is this side that lets the client wait
        waits_s = now - self._waits_since
        if self._in_head:
            if waits_s > self._bounds.header_timeout_s:
                self._end_after(_TOO_SLOW)
        elif waits_s > (self._bounds.header_timeout_s if cycle is None else self._bounds.keep_alive_s):
            self.transport.close()

    def close_if_idle(self) -> None:
        """Close a connection that waits for a request."""
        self._bounds.together.write()
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
