"""What requests to the page say, and its answers in JSON; bodies are bounded."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ..access import Headers
from ..answers import Denied

BODY_BYTES_MAX: Final = 1 << 20
_OWN: Final = b"x-eventpost-page"
_FORM: Final = "application/x-www-form-urlencoded"


class Refusal(Exception):  # noqa: N818 - an answer, carried out of a handler
    """A no: HTTP status, reason and what to do."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.denied = Denied(status, reason, detail)


def headers_of(request: Request) -> Headers:
    """Return a request's headers by lower-case name."""
    return dict(request.scope["headers"])


def is_browser(found: Headers) -> bool:
    """Tell whether a page, or a person's browser, asks; a program is challenged instead."""
    wanted = found.get(b"accept", b"")
    return _OWN in found or b"text/html" in wanted or b"text/event-stream" in wanted


def json_answer(value: Any, status: int = 200) -> Response:
    """Return an answer in JSON."""
    return Response(orjson.dumps(value), status, media_type="application/json")


async def _body(request: Request, kind: str) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        raise Refusal(415, "type", f"{kind} is asked for")
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > BODY_BYTES_MAX:
            raise Refusal(413, "too_large", "the request is larger than the page's own are")
    return bytes(read)


async def json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request carries.  Raises Refusal."""
    with suppress(ValueError):
        value = orjson.loads(await _body(request, "application/json"))
        if isinstance(value, dict):
            return value
    raise Refusal(400, "not_json", "a JSON object is asked for")


async def form_of(request: Request) -> dict[str, str]:
    """Return the form that a request carries.  Raises Refusal."""
    text = (await _body(request, _FORM)).decode("utf-8", "replace")
    try:
        return {name: values[-1] for name, values in parse_qs(text, max_num_fields=8).items()}
    except ValueError:
        raise Refusal(400, "form", "this is none of the page's forms") from None


async def refuse(_: Request, error: Exception) -> Response:
    """Answer a Refusal."""
    assert isinstance(error, Refusal)  # noqa: S101 - it is registered for these only
    return json_answer({"reason": error.denied.reason, "detail": error.denied.detail}, error.denied.status)


async def no_disk(_: Request, error: Exception) -> Response:
    """Answer what a disk did not do."""
    said = getattr(error, "strerror", None) or type(error).__name__
    return json_answer({"reason": "disk", "detail": f"the disk did not do it: {said}"}, 503)


async def no_server(_: Request, error: Exception) -> Response:
    """Answer what the server of a shared queue did not do."""
    return json_answer({"reason": "queue", "detail": f"the queue's server did not do it: {error}"}, 503)


async def no_such(_: Request, error: Exception) -> Response:
    """Answer a path that there is not, or a method."""
    if getattr(error, "status_code", 404) == 404:
        return json_answer({"reason": "path", "detail": "there is nothing here; the page is at the root"}, 404)
    refused = json_answer({"reason": "method", "detail": "the Allow header lists the methods that there are"}, 405)
    refused.headers.update(getattr(error, "headers", None) or {})
    return refused
