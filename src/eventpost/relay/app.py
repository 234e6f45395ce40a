"""The bare ASGI callable: which path a request is for.

The paths of events come first and cost one lookup in a dict.  ``/livez`` says that this process answers, ``/readyz``
that it can store, ``/metrics`` shows the counters of all processes, ``/openapi.json`` describes all of it; everything
else is the page.  With a prefix all of them begin with it; these four are there without it, too, since probes come past
any proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from . import answers, openapi
from .access import Access, Headers
from .answers import ASGIApp, Denied, Receive, Scope, Send
from .ingest import Ingest, Target

EVENTS: Final = "/v1/events"
EU_EVENTS: Final = "/eu/v1/events"
LIVEZ: Final = "/livez"
READYZ: Final = "/readyz"
METRICS: Final = "/metrics"
GETS: Final = frozenset({LIVEZ, READYZ, METRICS, openapi.PATH})
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_NOT_FOUND: Final = Denied(404, "path", "events are posted to /v1/events and /eu/v1/events")
_NO_GET: Final = Denied(405, "method", "GET is asked for")


class RelayApp:
    """One worker's application.

    Args:
        ingest: the door.
        targets: where events go, by path.
        access: who may see the metrics; the page asks by itself.
        ready: returns why nothing can be stored, None if something can.
        metrics: returns the counters as text, and its content type.
        description: this application in OpenAPI's words, for everybody: it says nothing of this installation.
        page: what answers every other path; None: nothing does.
        prefix: what every path begins with.
    """

    def __init__(
        self,
        ingest: Ingest,
        *,
        targets: Mapping[str, Target],
        access: Access,
        ready: Callable[[], Awaitable[Denied | None]],
        metrics: Callable[[], tuple[bytes, str]],
        description: bytes,
        page: ASGIApp | None,
        prefix: str = "",
    ) -> None:
        self._ingest = ingest
        self._targets = {prefix + path: target for path, target in targets.items()}
        self._access = access
        self._ready = ready
        self._metrics = metrics
        self._description = description
        self._page = page
        self._prefix = prefix

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        target = self._targets.get(scope.get("path", ""))
        if target is None or scope["type"] != "http":
            return self._other(scope, receive, send)
        return self._ingest(target, scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the relay speaks HTTP, not {scope['type']}")
        path = scope["path"]
        inner = path.removeprefix(self._prefix) if path.startswith(self._prefix + "/") else path
        if inner in GETS:
            await self._probe(inner, scope, send)
        elif path.startswith(self._prefix + "/"):
            await self._show(scope, receive, send)
        else:
            await answers.deny(send, _NOT_FOUND)

    async def _probe(self, what: str, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await answers.deny(send, _NO_GET, [(b"allow", b"GET, HEAD")])
            return
        said: Denied | None = None
        if what == READYZ:
            said = await self._ready()
        elif what == METRICS:
            said = self._access.metrics_denied(_headers(scope))
        if said is not None:
            await answers.deny(send, said)
        elif what == openapi.PATH:
            await answers.answer(send, 200, [answers.JSON_TYPE, answers.NO_STORE], self._description)
        elif what == METRICS:
            text, kind = await asyncio.get_running_loop().run_in_executor(None, self._metrics)
            await answers.answer(send, 200, [(b"content-type", kind.encode()), answers.NO_STORE], text)
        else:
            await answers.answer(send, 200, [_TEXT, answers.NO_STORE], b"ok\n")

    async def _show(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._page is None:
            await answers.deny(send, _NOT_FOUND)
            return
        if self._prefix:
            scope = {**scope, "root_path": self._prefix}
        await self._page(scope, receive, send)


def _headers(scope: Scope) -> Headers:
    return dict(scope["headers"])
