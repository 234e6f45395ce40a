"""What requests to the page say: their bodies are bounded."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from starlette.requests import Request

from eventpost.relay.page import messages
from eventpost.relay.page.messages import Refusal, form_of, json_body

FORM = b"application/x-www-form-urlencoded"
Read = Callable[[Request], Coroutine[Any, Any, Any]]


def asking(kind: bytes, part: bytes, *, pause_s: float) -> Request:
    """Return a request whose body never ends: such a part, again and again."""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": part, "more_body": True}

    return Request({"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}, receive)


@pytest.mark.parametrize(("read", "kind"), [(form_of, FORM), (json_body, b"application/json")])
@pytest.mark.parametrize("part", [b"", b"a"], ids=["silent", "dripping"])
def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch, read: Read, kind: bytes, part: bytes) -> None:
    """Its sender is told so after a while: nobody holds a connection by it that an event may need."""
    monkeypatch.setattr(messages, "BODY_TIMEOUT_S", 0.1)
    with pytest.raises(Refusal) as refused:
        asyncio.run(asyncio.wait_for(read(asking(kind, part, pause_s=0.01)), 20))
    assert (refused.value.denied.status, refused.value.denied.reason) == (408, "slow_body")


@pytest.mark.parametrize(("read", "kind"), [(form_of, FORM), (json_body, b"application/json")])
def test_a_body_that_does_not_end(read: Read, kind: bytes) -> None:
    """It is read up to a bound, and no further."""
    with pytest.raises(Refusal) as refused:
        asyncio.run(asyncio.wait_for(read(asking(kind, bytes(1 << 16), pause_s=0)), 20))
    assert refused.value.denied.status == 413
