"""One request and its answer, under uvicorn; cheaper where both are as usual.

A body that came whole with its header is handed out without a wait, and the answer to most requests, 204 and nothing
else, is written as one piece that was made before, with those of others.  Each saves some microseconds where a request
costs twenty; everything else goes uvicorn's own way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from . import answers


class Bell:
    """An asyncio.Event that costs little where nobody waits for it."""

    __slots__ = ("_event", "_rung")

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        self._rung = False

    def set(self) -> None:
        """Wake who waits, or who will."""
        self._rung = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        """Let the next one wait."""
        self._rung = False
        if self._event is not None:
            self._event.clear()

    async def wait(self) -> None:
        """Wait for ``set``."""
        if not self._rung:
            self._event = self._event or asyncio.Event()
            await self._event.wait()


async def go_on(running: Coroutine[Any, Any, None], waited_for: Any) -> None:
    """Run a coroutine on that was begun without a task, and now waits for something; what a task is made of."""
    await _steps(running, waited_for)


@coroutine
def _steps(running: Coroutine[Any, Any, None], waited_for: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            found = yield waited_for
        except BaseException as error:  # noqa: BLE001 - whatever a task is sent is its coroutine's
            step = partial(running.throw, error)
        else:
            step = partial(running.send, found)
        try:
            waited_for = step()
        except StopIteration:
            return


class Together:
    """Whole answers 204 of one round of the event loop, written together at its end.

    A client that waits is woken by the first of them, and still awake for the others: to wake it for each one costs as
    much as a fourth of all else.  What else is written to or ends one of these connections comes after :meth:`write`.

    Args:
        soon: calls a function at the end of the loop's round, as its ``call_soon`` does.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], Any]) -> None:
        self._soon = soon
        self._waiting: list[asyncio.Transport] = []
        self.no_content = b""
        """A whole answer 204."""

    def answer(self, transport: asyncio.Transport) -> None:
        """Answer 204, soon."""
        if not self._waiting:
            self._soon(self.write)
        self._waiting.append(transport)

    def write(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            if not transport.is_closing():
                transport.write(self.no_content)


class Cycle(RequestResponseCycle):
    """``bell``: rings for all requests of the connection."""

    def __init__(self, protocol: HttpToolsProtocol, bell: Bell, together: Together, *, keep_alive: bool) -> None:
        super().__init__(
            protocol.scope, protocol.transport, protocol.flow, protocol.logger, protocol.access_logger,
            False, protocol.server_state.default_headers, cast("asyncio.Event", bell),
            protocol.expect_100_continue, keep_alive, protocol.on_response_complete,
        )  # fmt: skip
        self._together = together
        self._plain = self._handed_out = False

    async def receive(self) -> Any:
        """See ASGI."""
        if self.more_body or self._handed_out or self.disconnected:
            return await super().receive()
        self._handed_out = True
        return {"type": "http.request", "body": bytes(self.body), "more_body": False}

    async def send(self, message: Any) -> None:
        """See ASGI."""
        if message is answers.NO_CONTENT and self.keep_alive and not self.flow.write_paused:
            self.response_started = self._plain = True
            return
        if self.transport.is_closing():
            self.disconnected = True  # which is told a moment later, and until then writing is an error
        if message is answers.END and self._plain:
            if not self.disconnected:
                self.response_complete = True
                self._together.answer(self.transport)
                self.message_event.set()
                self.on_response()
        else:
            if message["type"] == "http.response.start" and not self.keep_alive:  # older releases do not say so
                others = [one for one in message.get("headers", ()) if one[0].lower() != b"connection"]
                message = {**message, "headers": [*others, answers.CLOSE]}
            self._together.write()
            await super().send(message)


def begun(cycle: Cycle, app: answers.ASGIApp) -> Coroutine[Any, Any, None] | None:
    """Run an application for a whole request until it has to wait, which it most often never does.

    Returns what is left to run, in a task; None: nothing.  Whatever it does but answer is uvicorn's to see to.
    """
    running: Any = app(cycle.scope, cycle.receive, cycle.send)  # type: ignore[arg-type]  # a TypedDict in uvicorn
    try:
        waited_for = running.send(None)
    except StopIteration:
        if cycle.response_complete or cycle.disconnected:
            cycle.on_response = _nothing  # nor does the cycle keep the connection
            return None
        rest = _ended()
    except BaseException as error:  # noqa: BLE001 - raised again where uvicorn catches it
        rest = _ended(error)
    else:
        rest = go_on(running, waited_for)
    return cycle.run_asgi(lambda *_: rest)


def _nothing() -> None:
    pass


async def _ended(error: BaseException | None = None) -> None:
    """End as an application did that was begun without a task."""
    if error is not None:
        raise error
