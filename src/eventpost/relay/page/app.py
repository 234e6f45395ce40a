"""The page's paths, and who may use them.

Who may see the page is said by ``access``: a header with a token, or none where the relay asks for none.  A browser
shows its token once, in a form, and has a cookie from then on.  Its own files are for everybody: they are the same in
every installation.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ... import __version__
from ...errors import QueueUnavailable, RedisUnusable
from ...event import Event
from ...queues.place import SharedQueue
from ...queues.shown import answer, headers, letter_as_dict, payload
from .. import answers
from ..access import Access, Headers, Rate
from ..answers import ASGIApp, Denied, Receive, Scope, Send
from .events import EventsTail
from .jobs import RETRY_PER_S, Action, Busy, Jobs
from .letters import Choice
from .live import Live, Window
from .messages import (
    Refusal,
    form_of,
    headers_of,
    is_browser,
    json_answer,
    json_body,
    no_disk,
    no_server,
    no_such,
    refuse,
)
from .parts import Parts, parts_of
from .rows import Filter, event_row, indented, letter_row
from .safety import Sessions, foreign, root_of, shared_key, with_headers

HERE: Final = Path(__file__).parent
LOGINS_PER_S: Final = 2.0
SHORT_JOB_S: Final = 1.0
EXPORTS_MAX: Final = 2
_FORGED: Final = "this request does not come from the page"


def build_page(
    *, run_dir: str, journals: Sequence[str], access: Access, shared: SharedQueue | None = None,
    visitor_ids: bool = False,
) -> ASGIApp:  # fmt: skip
    """Return the page as an application, over journals' folders or a queue that machines share.

    Raises as ``open_folder``, RedisUnusable, OSError where the run_dir can't be used.
    """
    parts = parts_of(journals, shared, visitor_ids=visitor_ids)
    return with_headers(_Page(run_dir, parts, access, visitor_ids=visitor_ids))


class _Page:
    """The paths, and the gate before them."""

    def __init__(self, run_dir: str, parts: Parts, access: Access, *, visitor_ids: bool) -> None:
        self._access = access
        self._visitor_ids = visitor_ids
        self._sessions = Sessions(shared_key(run_dir))
        self._logins = Rate(LOGINS_PER_S)
        self._exports = 0
        self._shared = parts.shared
        self._tail = EventsTail(parts.events, visitor_ids=visitor_ids)
        self._letters = parts.letters
        self._jobs = Jobs(run_dir, parts.views, self._letters)
        window = Window(run_dir, self._tail, self._letters, self._jobs)
        self._live = Live(window, run_in_threadpool, run=self._sessions.run)
        self._html = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip
        self._app = Starlette(
            routes=[
                Route("/", self._show, methods=["GET"]),
                Route("/login", self._login, methods=["GET", "POST"]),
                Route("/logout", self._logout, methods=["POST"]),
                Route("/live", self._stream, methods=["GET"]),
                Route("/event", self._event, methods=["GET"]),
                Route("/letters", self._list, methods=["GET"]),
                Route("/letter", self._letter, methods=["GET"]),
                Route("/letters/retry", self._retry, methods=["POST"]),
                Route("/letters/discard", self._discard, methods=["POST"]),
                Route("/letters/stop", self._stop, methods=["POST"]),
                Route("/letters/export", self._export, methods=["POST"]),
                Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
            ],
            exception_handlers={
                Refusal: refuse,
                OSError: no_disk,
                QueueUnavailable: no_server,
                RedisUnusable: no_server,
                404: no_such,
                405: no_such,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        path = scope["path"].removeprefix(root_of(scope))
        found = dict(scope["headers"])
        denied = None if path.startswith("/static/") else self._access.page_denied(found)
        if denied is not None and denied.status == 401:
            if path == "/login" or self._sessions.is_login(self._sessions.find(found)):
                denied = None
            elif is_browser(found):
                await self._deny_browser(denied, found, scope, receive, send)
                return
        if denied is not None:
            await answers.deny(send, denied)
        else:
            await self._app(scope, receive, send)

    async def _deny_browser(
        self, denied: Denied, found: Headers, scope: Scope, receive: Receive, send: Send
    ) -> None:  # fmt: skip
        """Show the form, or tell the page's script, without a challenge: the browser would ask by a box of its own."""
        if b"text/html" in found.get(b"accept", b""):
            await self._page("login.html", scope, status=401, said="")(scope, receive, send)
        else:
            await answers.deny(send, denied._replace(challenge=b""))

    # -- documents

    def _page(self, template: str, scope: Mapping[str, Any], *, status: int = 200, **values: Any) -> Response:
        made = self._html.get_template(template).render(root=root_of(scope), version=__version__, **values)
        return Response(made, status, media_type="text/html")

    async def _show(self, request: Request) -> Response:
        found = headers_of(request)
        cookie = self._sessions.find(found)
        fresh = cookie is None
        if cookie is None:
            cookie = self._sessions.make("visit")
        page = self._page(
            "page.html", request.scope, token=self._sessions.token(cookie), run=self._sessions.run,
            visitor_ids=self._visitor_ids, login=self._sessions.is_login(cookie), per_s=RETRY_PER_S,
            shared=self._shared,
        )  # fmt: skip
        if fresh:
            page.headers.append("set-cookie", self._cookie(request, cookie))
        return page

    def _cookie(self, request: Request, value: str) -> str:
        return self._sessions.header(value, root=root_of(request.scope), secure=request.url.scheme == "https")

    async def _login(self, request: Request) -> Response:
        if self._access.page_denied(headers_of(request)) is None:
            return RedirectResponse(root_of(request.scope) + "/", 303)
        if request.method == "GET":
            return self._page("login.html", request.scope, said="")
        self._check_origin(request)
        client = "" if request.client is None else request.client.host
        if self._logins.wait_s(client, monotonic()):
            return self._page("login.html", request.scope, status=429, said="Too many tries. Wait a few seconds.")
        form = await form_of(request)
        shown = {b"authorization": b"Bearer " + form.get("token", "").strip().encode()}
        if self._access.page_denied({**headers_of(request), **shown}) is not None:
            return self._page("login.html", request.scope, status=401, said="This is not a token for the page.")
        moved = RedirectResponse(root_of(request.scope) + "/", 303)
        moved.headers.append("set-cookie", self._cookie(request, self._sessions.make("login")))
        return moved

    async def _logout(self, request: Request) -> Response:
        self._check_forged(request, (await form_of(request)).get("csrf", ""))
        moved = RedirectResponse(root_of(request.scope) + "/", 303)
        moved.headers.append("set-cookie", self._cookie(request, ""))
        return moved

    # -- what can be seen

    async def _stream(self, request: Request) -> Response:
        if self._live.is_full:
            raise Refusal(503, "pages", "as many pages are open on this worker as it may tell")
        stream: AsyncIterator[bytes] = self._live.stream(Filter.of(request.query_params))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _event(self, request: Request) -> Response:
        id_ = request.query_params.get("id", "")
        try:
            seen = await run_in_threadpool(self._tail.find, id_)
        except KeyError:
            detail = "it is settled, and gone with what it lay in: of what was delivered nothing is kept"
            raise Refusal(404, "gone", detail) from None
        event = seen.event
        died = self._letters.origins.get(id_)
        return json_answer({
            **event_row(event, visitor_ids=self._visitor_ids), **self._request_of(event),
            "id": id_, "at": seen.at_s, "state": seen.state, **({} if died is None else died.as_row()),
        })  # fmt: skip

    async def _list(self, request: Request) -> Response:
        wanted = Filter.of({name: request.query_params.get(name) for name in ("text", "reason")})
        try:
            rows, more = await run_in_threadpool(
                self._letters.rows, wanted, before=request.query_params.get("before", "")
            )
        except KeyError:
            raise Refusal(400, "id", "there is no such place in the list") from None
        return json_answer({"rows": rows, "more": more})

    async def _letter(self, request: Request) -> Response:
        id_ = request.query_params.get("id", "")
        try:
            letter = await run_in_threadpool(self._letters.find, id_)
        except KeyError:
            raise Refusal(404, "gone", "it was retried or discarded, or has expired") from None
        row = letter_row(letter, int(id_.partition("/")[0]), visitor_ids=self._visitor_ids)
        said = {"answer": indented(answer(letter, visitor_ids=self._visitor_ids))}
        return json_answer(row | said | self._request_of(letter.event))

    def _request_of(self, event: Event) -> dict[str, Any]:
        """Return what an endpoint is sent."""
        return {
            "verb": event.envelope.verb, "headers": headers(event, visitor_ids=self._visitor_ids),
            "shared": event.envelope.shared, "payload": indented(payload(event, visitor_ids=self._visitor_ids)),
        }  # fmt: skip

    # -- what can be done

    async def _retry(self, request: Request) -> Response:
        return await self._change(request, "retry")

    async def _discard(self, request: Request) -> Response:
        return await self._change(request, "discard")

    async def _stop(self, request: Request) -> Response:
        self._check_forged(request, request.headers.get("x-csrf-token", ""))
        self._jobs.stop()
        return json_answer({"job": self._jobs.note()})

    async def _change(self, request: Request, action: Action) -> Response:
        self._check_forged(request, request.headers.get("x-csrf-token", ""))
        said = await json_body(request)
        choice = self._choice(said)
        total = said.get("total")
        if choice.ids:
            total = len(choice.ids)
        try:
            thread = self._jobs.start(action, choice, total if isinstance(total, int) else None)
        except Busy as error:
            raise Refusal(409, "busy", str(error)) from None
        await run_in_threadpool(thread.join, SHORT_JOB_S)
        return json_answer({"job": self._jobs.note()}, 202 if thread.is_alive() else 200)

    async def _export(self, request: Request) -> Response:
        form = await form_of(request)
        self._check_forged(request, form.get("csrf", ""))
        try:
            choice = self._choice(orjson.loads(form.get("choice", "")))
        except ValueError:
            raise Refusal(400, "choice", "it does not say which") from None
        if self._exports >= EXPORTS_MAX:
            raise Refusal(429, "busy", "other exports are running; try again")
        name = f"dead-letters-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}.ndjson"
        return StreamingResponse(
            self._exported(choice), media_type="application/x-ndjson",
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )  # fmt: skip

    async def _exported(self, choice: Choice) -> AsyncIterator[bytes]:
        """Yield letters with their payloads, one a line, as ``eventpost dead export`` writes them."""
        self._exports += 1
        parts: Iterator[bytes] = (
            b"".join(
                json.dumps(letter_as_dict(one, visitor_ids=self._visitor_ids, with_payload=True)).encode() + b"\n"
                for one in letters
            )
            for _, letters in self._letters.chosen(choice)
        )
        try:
            while part := await run_in_threadpool(next, parts, b""):
                yield part
        finally:
            self._exports -= 1

    def _choice(self, said: Any) -> Choice:
        try:
            choice = Choice.of(said if isinstance(said, dict) else {})
            self._letters.check(choice)
        except ValueError as error:
            raise Refusal(400, "choice", str(error)) from None
        except KeyError:
            raise Refusal(400, "id", "one of these is no dead letter's id") from None
        return choice

    def _check_origin(self, request: Request) -> None:
        why = foreign(headers_of(request), frozenset(self._access.rules.hosts))
        if why is not None:
            raise Refusal(403, "forged", f"{_FORGED}: {why}")

    def _check_forged(self, request: Request, token: str) -> None:
        self._check_origin(request)
        cookie = self._sessions.find(headers_of(request))
        if cookie is None or not self._sessions.is_token(cookie, token):
            raise Refusal(403, "token", "the page is of an earlier run of the relay, or was open for long: reload it")
