"""AsyncEventDispatcher: the asyncio face of an EventDispatcher; no second code path.

A put into memory or into the journal at durability ``os`` takes microseconds and is done inline.  One that may wait
(an ``fsync``, a queue on another host, ``overflow="block"``) is done by a small pool of threads; several at once share
one sync by the queue's group commit.  Either way the event is encoded before the first ``await``: the caller may change
it as soon as the call is made.

Cancelling loses nothing: what was handed in is put and counted, only its answer is not waited for.  The pool's threads
are joined when the interpreter ends, so that this holds then too; a put is bounded by its queue.  ``flush`` and
``aclose``, which may be given a long time, run on daemon threads, which keep no interpreter alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, TypeVar

from ..errors import EventpostError
from ..watch.ledger import Report
from .dispatcher import EventDispatcher
from .encode import log_event_to_event

THREADS_MAX: Final = 16

_T = TypeVar("_T")


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
        may_wait = queue.durability not in {"memory", "os"} or getattr(queue, "overflow", "refuse") == "block"
        self._inline = not may_wait
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = 0
        self._handed_in: set[asyncio.Future[bool]] = set()

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
        put = self._in_pool(lambda: dispatcher.put_event(ready, urgent=not ready.envelope.shared))
        self._handed_in.add(put)
        put.add_done_callback(self._handed_in.discard)
        return await asyncio.shield(put)

    async def flush(self, timeout_s: float = 10.0) -> Report:
        """Wait, up to ``timeout_s`` seconds, until what was handed in before is delivered; return the count."""
        return await self._after_puts(self.dispatcher.flush, timeout_s)

    async def aclose(self, timeout_s: float = 10.0) -> Report:
        """Close the dispatcher within ``timeout_s`` seconds and return the count.  Idempotent.

        If this is cancelled, closing goes on in its thread.
        """
        report = await self._after_puts(self.dispatcher.close, timeout_s)
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
        return report

    async def __aenter__(self) -> AsyncEventDispatcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncEventDispatcher({self.dispatcher!r})"

    async def _after_puts(self, call: Callable[..., Report], timeout_s: float) -> Report:
        """Call with what is left of the time once the puts under way have ended."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_s
        under_way = {put for put in self._handed_in if put.get_loop() is loop}
        if under_way:
            await asyncio.wait(under_way, timeout=timeout_s)
        left_s = max(0.0, give_up_at - loop.time())
        return await asyncio.shield(_in_daemon_thread(lambda: call(timeout_s=left_s)))

    def _in_pool(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run ``call`` on the pool; on this thread if no thread can be started any more (the interpreter is ending)."""
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool_pid != os.getpid():  # a forked child has the pool's record, not its threads
            self._pool, self._pool_pid = (
                ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="eventpost-aio"),
                os.getpid(),
            )
        try:
            return loop.run_in_executor(self._pool, call)
        except RuntimeError:
            future: asyncio.Future[_T] = loop.create_future()
            future.set_result(call())
            return future


def _in_daemon_thread(call: Callable[[], _T]) -> asyncio.Future[_T]:
    """Run ``call`` on a thread of its own; on this one if none can be started any more (the interpreter is ending)."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def tell(settle: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            settle(outcome)

    def run() -> None:
        report: tuple[Callable[[Any], None], Any]
        try:
            report = (future.set_result, call())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            report = (future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(tell, *report)

    try:
        threading.Thread(target=run, name="eventpost-aio-wait", daemon=True).start()
    except RuntimeError:
        run()
    return future
