"""AsyncEventDispatcher: the asyncio face of an EventDispatcher; no second code path.

A put into memory or into the journal at durability ``os`` takes microseconds and is done inline.  One that may wait
(an ``fsync``, a queue on another host, ``overflow="block"``) is done by the dispatcher's few threads for that (see
``doors/threads.py``); several at once share one sync by the queue's group commit.  Either way the event is encoded
before anything is waited for: the caller may change it as soon as the call has begun.

Cancelling loses nothing: what was handed in is put and counted, only its answer is not waited for.  Like any
coroutine's, the call begins when it is awaited or its task first runs; a task that is cancelled before that has handed
in nothing.  The end of the process waits for what was handed in, within ``close_timeout_s``, as ``flush`` and
``aclose`` do, which each wait on a thread of their own.  None of these threads keeps the interpreter alive, and a loop
that was closed meanwhile is told nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..errors import EventpostError
from ..watch.ledger import Report
from .dispatcher import EventDispatcher
from .encode import log_event_to_event
from .threads import Tell, on_own_thread


class AsyncEventDispatcher:
    """``await dispatch_event(event)``, ``await flush(...)``, ``await aclose(...)``, ``async with``.

    ``dispatcher`` is an EventDispatcher; it stays usable from threads (by an EventProcessor, say).  ``aclose`` and
    leaving ``async with`` close it.  Raises TypeError for anything else.
    """

    def __init__(self, dispatcher: EventDispatcher) -> None:
        if not isinstance(dispatcher, EventDispatcher):
            raise TypeError(f"AsyncEventDispatcher takes an EventDispatcher, not {type(dispatcher).__name__}")
        self.dispatcher = dispatcher
        queue: Any = dispatcher.queue
        waits = queue.durability not in {"memory", "os"} or getattr(queue, "overflow", "refuse") == "block"
        self._inline = not (waits or getattr(queue, "put_waits", False))

    async def dispatch_event(self, event: Any) -> bool:
        """Hand in one LogEvent (any object with url, params, http_verb, headers); True once the queue has taken it.

        False if not: the dispatcher has counted and logged the reason.  Never waits for the network.  Raises TypeError
        for a programmer's mistake only.
        """
        dispatcher = self.dispatcher
        if self._inline:
            return bool(dispatcher.dispatch_event(event))
        try:
            ready = log_event_to_event(event, endpoint=dispatcher.endpoint, merge=dispatcher.merge_log_events)
        except EventpostError as error:
            return dispatcher.refuse(getattr(error, "reason", "invalid"), str(error))
        put: asyncio.Future[bool]
        put, tell = _future()
        dispatcher.put_on_thread(ready, urgent=not ready.envelope.shared, tell=tell)
        return await asyncio.shield(put)

    async def flush(self, timeout_s: float = 10.0) -> Report:
        """Wait, up to ``timeout_s`` seconds, until what was handed in before is delivered; return the count."""
        return await self._waiting(lambda: self.dispatcher.flush(timeout_s))

    async def aclose(self, timeout_s: float = 10.0) -> Report:
        """Close the dispatcher within ``timeout_s`` seconds and return the count.  Idempotent.

        If this is cancelled, closing goes on in its thread.
        """
        return await self._waiting(lambda: self.dispatcher.close(timeout_s))

    async def __aenter__(self) -> AsyncEventDispatcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncEventDispatcher({self.dispatcher!r})"

    async def _waiting(self, call: Callable[[], Report]) -> Report:
        done: asyncio.Future[Report]
        done, tell = _future()
        on_own_thread(call, tell)
        return await asyncio.shield(done)


def _future() -> tuple[asyncio.Future[Any], Tell]:
    """Return a future of the running loop, and how to settle it from any thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(outcome: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(outcome)
        else:
            future.set_exception(error)

    def tell(outcome: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(settle, outcome, error)

    return future, tell
