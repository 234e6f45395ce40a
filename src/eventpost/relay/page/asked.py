"""What a request to the page says, read within bounds; what is wrong with it is a :class:`Refusal`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request

from ..access import Headers
from ..answers import Denied

BODY_BYTES_MAX: Final = 1 << 20
_OWN: Final = b"x-eventpost-page"
_FORM: Final = "application/x-www-form-urlencoded"


class Refusal(Exception):  # noqa: N818 - an answer, carried out of a handler
    """Why a request is not answered as it asks."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.denied = Denied(status, reason, detail)


def headers_of(request: Request) -> Headers:
    """Return the request's headers."""
    return dict(request.scope["headers"])


def is_browser(found: Headers) -> bool:
    """Tell whether a page, or a person's browser, asks; a program is challenged instead."""
    wanted = found.get(b"accept", b"")
    return _OWN in found or b"text/html" in wanted or b"text/event-stream" in wanted


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
    """Return the object that is the body.  Raises Refusal."""
    with suppress(ValueError):
        value = orjson.loads(await _body(request, "application/json"))
        if isinstance(value, dict):
            return value
    raise Refusal(400, "not_json", "a JSON object is asked for")


async def form_body(request: Request) -> dict[str, str]:
    """Return the fields of the form that is the body.  Raises Refusal."""
    text = (await _body(request, _FORM)).decode("utf-8", "replace")
    try:
        return {name: values[-1] for name, values in parse_qs(text, max_num_fields=8).items()}
    except ValueError:
        raise Refusal(400, "form", "this is none of the page's forms") from None
