"""``eventpost micro``: the relay without an upstream, for people's own test suites.  One process, nothing on the disk.

It takes what the relay takes, by the same code, and keeps it in memory for a test to ask for: ``/micro/all``,
``/micro/good``, ``/micro/bad``, ``/micro/reset``.  ``/micro/script`` lets the next requests fail in ways that real
endpoints do: statuses, delays, Retry-After, resets, silence.  What the script lets fail is counted and not kept: to a
client it was never taken.

A batch that breaks the published description is answered 204, as the endpoint does, and listed as bad with its faults:
to find those is what it is for.  ``X-Optimizely-Strict: true``, or ``strict``, asks for a 400 instead.

Web pages of any origin may send events, as in production.  They may neither read nor script: ``/micro`` answers without
CORS, takes JSON only, and on loopback only under a name of this machine.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..settings import ENDPOINT_BODY_BYTES_MAX
from ..testing.collector import PLAIN, Reply
from . import answers, body, openapi
from .access import host_of, is_loopback
from .answers import Denied, Header, Receive, Scope, Send
from .app import EU_EVENTS, EVENTS
from .micro_description import described
from .micro_kept import FILTERS, Kept
from .micro_script import BadScript, Script
from .strict import strict_errors

BODY_TIMEOUT_S: Final = 30.0
BODIES_BYTES_MAX: Final = 256 << 20
SCRIPT_BYTES_MAX: Final = 1 << 20
_CONNECTION: Final = "eventpost.connection"
_DURING_S: Final = 0.02


class Micro:
    """The endpoint, and what it has seen.

    Args:
        strict: answer 400 to every batch with a fault.
        names: host names under which ``/micro`` may be asked for; empty: any.
        rows_max, bytes_max: see Kept.
    """

    def __init__(
        self, *, strict: bool = False, names: Sequence[str] = (), rows_max: int = 100_000, bytes_max: int = 256 << 20
    ) -> None:
        self.kept = Kept(rows_max=rows_max, bytes_max=bytes_max)
        self._strict = strict
        self._names = frozenset(names)
        self._script = Script()
        self._hanging: set[Any] = set()
        self._reader = body.Reader(
            body_bytes_max=ENDPOINT_BODY_BYTES_MAX, bodies_bytes_max=BODIES_BYTES_MAX, timeout_s=BODY_TIMEOUT_S
        )
        self.app = Starlette(
            routes=[
                Route(EVENTS, _Raw(self.take)), Route(EU_EVENTS, _Raw(self.take)),
                Route("/", self._about), Route(openapi.PATH, self._describe),
                Route("/micro/all", self._all, methods=["GET"]),
                Route("/micro/good", self._good, methods=["GET"]),
                Route("/micro/bad", self._bad, methods=["GET"]),
                Route("/micro/reset", self._reset, methods=["POST"]),
                Route("/micro/script", self._scripted, methods=["GET", "POST", "DELETE"]),
            ],
            exception_handlers={404: _no_such, 405: _no_such},
        )  # fmt: skip

    # -- the endpoint

    async def take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a path of events."""
        headers = dict(scope["headers"])
        if scope["method"] != "POST":
            await self._no_post(scope["method"], headers, send)
            return
        reply = self._script.next()
        connection = scope["extensions"][_CONNECTION]
        if reply.reset == "before":
            await self._fail(connection, receive)
            return
        try:
            raw = await asyncio.wait_for(self._read(headers, receive), BODY_TIMEOUT_S)
        except asyncio.TimeoutError:
            raw = body.SLOW
        except body.Gone:
            return
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        if reply.hang:
            self.kept.add_failed()
            self._hanging.add(connection)
            await _gone(receive)
            self._hanging.discard(connection)
            return
        if reply.reset is not None:
            if reply.reset == "during":
                half = reply.head_and_body()
                connection.transport.write(half[: len(half) // 2])
                await asyncio.sleep(_DURING_S)
            await self._fail(connection, receive)
            return
        cors = _cors(headers)
        if reply.status >= 300:
            self.kept.add_failed()
        else:
            said = self._judge(scope["path"], headers, raw, reply)
            if said is not None and reply.status == PLAIN.status:
                await answers.deny(send, said, cors)
                return
        await answers.answer(send, reply.status, [*_headers(reply), *cors], reply.body)

    async def _fail(self, connection: Any, receive: Receive) -> None:
        """End a connection with a TCP reset; the server is told nothing before it knows."""
        self.kept.add_failed()
        sock = connection.transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.transport.abort()
        await _gone(receive)

    def end(self) -> None:
        """Let go of those who are kept waiting for ever."""
        for connection in list(self._hanging):
            connection.transport.abort()

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | Denied:
        message = await receive()
        if message["type"] != "http.request":
            raise body.Gone
        raw: bytes | Denied = message.get("body", b"")
        if message.get("more_body", False):
            raw = await self._reader.rest(receive, message.get("body", b""))
        if isinstance(raw, bytes) and len(raw) > self._reader.body_bytes_max:
            return self._reader.too_large
        if isinstance(raw, bytes) and b"content-encoding" in headers:
            return self._reader.unpack(raw, headers[b"content-encoding"])
        return raw

    def _judge(self, path: str, headers: dict[bytes, bytes], raw: bytes | Denied, reply: Reply) -> Denied | None:
        """Keep what came; return the no that the relay would answer, None: it would be taken."""
        denied = raw if isinstance(raw, Denied) else None
        batch = raw if isinstance(raw, Denied) else body.parse_batch(raw)
        faults: Sequence[str] = ()
        if isinstance(batch, Denied):
            denied = batch
        else:
            faults = strict_errors(batch)
            if not faults:
                self.kept.add_good(batch, path=path, at_s=time.time(), body_bytes=len(raw))
                return None
            asked = self._strict or headers.get(b"x-optimizely-strict", b"").strip().lower() == b"true"
            if asked:
                denied = Denied(400, "strict", "the batch breaks the published schema", errors=tuple(faults))
        status = denied.status if denied is not None and reply.status == PLAIN.status else reply.status
        self.kept.add_bad(
            raw if isinstance(raw, bytes) else b"", path=path, at_s=time.time(), status=status,
            reason="strict" if denied is None else denied.reason, errors=faults or [denied.detail if denied else ""],
        )  # fmt: skip
        return denied

    async def _no_post(self, method: str, headers: dict[bytes, bytes], send: Send) -> None:
        if method != "OPTIONS":
            await answers.deny(send, Denied(405, "method", "events are posted: POST"), [(b"allow", b"POST, OPTIONS")])
            return
        asked = headers.get(b"access-control-request-headers", b"content-type")
        await answers.answer(
            send, 204,
            [*_cors(headers), (b"access-control-allow-methods", b"POST"), (b"access-control-allow-headers", asked)],
        )  # fmt: skip

    # -- for tests

    def _denied(self, request: Request) -> Response | None:
        if self._names and host_of(request.headers.get("host", "").encode("latin-1")) not in self._names:
            return _say({"reason": "host", "detail": "ask for it by a name of this machine"}, 403)
        return None

    async def _about(self, request: Request) -> Response:
        paths = {"events": [EVENTS, EU_EVENTS], "micro": ["all", "good", "bad", "reset", "script"]}
        return self._denied(request) or _say({"eventpost": "micro", **paths})

    async def _describe(self, request: Request) -> Response:
        return self._denied(request) or _say(described())

    async def _all(self, request: Request) -> Response:
        return self._denied(request) or _say(self.kept.counts())

    async def _good(self, request: Request) -> Response:
        return self._denied(request) or self._rows(request, self.kept.good, FILTERS)

    async def _bad(self, request: Request) -> Response:
        return self._denied(request) or self._rows(request, self.kept.bad, ("path", "reason"))

    def _rows(
        self, request: Request, rows: Callable[[dict[str, str], int | None], list[dict[str, Any]]],
        known: Sequence[str],
    ) -> Response:  # fmt: skip
        filters = dict(request.query_params)
        limit = filters.pop("limit", None)
        is_number = limit is None or (limit.isascii() and limit.isdecimal() and len(limit) < 10)
        if not is_number or not filters.keys() <= set(known):
            return _say({"reason": "filter", "detail": f"known are limit=N, {', '.join(known)}"}, 400)
        return _say(rows(filters, None if limit is None else int(limit)))

    async def _reset(self, request: Request) -> Response:
        denied = self._denied(request)
        if denied is not None:
            return denied
        counts = self.kept.counts()
        self.kept.reset()
        self._script.clear()
        return _say(counts)

    async def _scripted(self, request: Request) -> Response:
        denied = self._denied(request)
        if denied is not None:
            return denied
        if request.method == "POST":
            try:
                self._script.add(await _json_of(request))
            except BadScript as error:
                return _say({"reason": "script", "detail": str(error)}, 400)
        elif request.method == "DELETE":
            self._script.clear()
        return _say(self._script.left())


class _Raw:
    """An endpoint that speaks ASGI; Starlette takes functions for something else."""

    def __init__(self, call: Callable[[Scope, Receive, Send], Any]) -> None:
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._call(scope, receive, send)


class MicroProtocol(HttpToolsProtocol):
    """uvicorn's own, which lets a request end its connection as a broken endpoint does."""

    def on_message_begin(self) -> None:
        """Hand the connection on with the request."""
        super().on_message_begin()
        self.scope["extensions"] = {_CONNECTION: self}  # type: ignore[dict-item]  # extensions are anybody's


async def _gone(receive: Receive) -> None:
    """Wait until the connection is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Server(uvicorn.Server):
    """uvicorn's own, which waits for nobody who is made to wait for ever."""

    def __init__(self, config: uvicorn.Config, micro: Micro) -> None:
        super().__init__(config)
        self._micro = micro

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._micro.end()
        await super().shutdown(sockets)


def _say(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, {"cache-control": "no-store"}, "application/json")


async def _no_such(_: Request, error: Exception) -> Response:
    if getattr(error, "status_code", 404) == 404:
        return _say({"reason": "path", "detail": "there is nothing here; / names what there is"}, 404)
    refused = _say({"reason": "method", "detail": "the Allow header lists the methods that there are"}, 405)
    refused.headers.update(getattr(error, "headers", None) or {})
    return refused


async def _json_of(request: Request) -> Any:
    """Return a request's JSON.  Raises BadScript; a web page can't send such a type without asking first."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadScript("Content-Type: application/json is needed")
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > SCRIPT_BYTES_MAX:
            raise BadScript(f"{SCRIPT_BYTES_MAX:,} bytes at most")
    try:
        return orjson.loads(bytes(raw))
    except orjson.JSONDecodeError:
        raise BadScript("the body is no JSON") from None


def _cors(headers: dict[bytes, bytes]) -> tuple[Header, ...]:
    origin = headers.get(b"origin")
    if origin is None:
        return ()
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"retry-after"),
        (b"vary", b"origin"),
    )


def _headers(reply: Reply) -> list[Header]:
    """Return the headers of a scripted answer, Retry-After among them."""
    lines = reply.head_and_body().partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = (line.partition(b": ") for line in lines)
    return [(name.lower(), value) for name, _, value in pairs if name.lower() != b"content-length"]


def serve(micro: Micro, host: str, port: int, *, ready: Callable[[str], None]) -> None:
    """Listen until SIGTERM or Ctrl-C; ``ready`` is told the address.  Raises OSError."""
    listener = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
    )  # fmt: skip
    config = uvicorn.Config(
        micro.app, http=MicroProtocol, lifespan="off", ws="none", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    address = listener.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    ready(f"http://{shown}:{address[1]}")
    try:
        _Server(config, micro).run(sockets=[listener])
    finally:
        listener.close()


def names_of(host: str) -> tuple[str, ...]:
    """Return the host names under which ``/micro`` may be asked for where only this machine can connect."""
    return ("localhost", "127.0.0.1", "::1", host.lower()) if is_loopback(host) else ()
