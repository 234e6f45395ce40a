"""One worker: accepts from the inherited socket, stores, answers.  Started by ``supervisor`` and by nobody else.

The end of its socket to the main process (``children``) means that that is gone, and the worker stops as if SIGTERM had
come.  Ctrl-C in a terminal reaches all processes of the group; a worker leaves it to the main process.

Stopping: no new connection is accepted; what arrives within a moment on those that are there is still answered, each
answer with ``Connection: close``; idle ones are closed; events under way are waited for, up to ``stop_timeout_s``.
Then the journal's segments are ended, and the main process sends what is in them.

uvicorn's protocol and settings are used, its ``Server`` is not: the handshake's deadline, the order of a stop and the
date header's refresh are these few lines, and signals are nobody else's business here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import orjson
import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from ..doors.dispatcher import EventDispatcher
from ..queues.journal import JournalQueue
from . import commit
from .access import Access
from .answers import ASGIApp
from .app import EU_EVENTS, EVENTS, RelayApp
from .body import Reader
from .children import BACKLOG, NO_ROOM, hear, say_alive, say_ready
from .description import described
from .holding import open_store
from .ingest import Ingest, Target
from .mount import make_metrics, make_page, render_metrics
from .protocol import LOOK_S, Bounds, RelayProtocol
from .readiness import Readiness
from .run_dir import take_room
from .settings import RelaySettings, share_run_dir
from .strict import strict_errors
from .tending import Tending
from .tls import tls_context

LINGER_S: Final = 0.2
CLOSE_S: Final = 5.0
SPARE_DESCRIPTORS: Final = 128
_POLL_S: Final = 0.02
_log = logging.getLogger("eventpost.relay")


class Worker:
    """The parts of one worker, put together."""

    def __init__(self, settings: RelaySettings, run_dir: str, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._loop = loop
        store = open_store(settings)
        self._queue = store.queue
        self._dispatcher = EventDispatcher(self._queue, sender="none")
        self._commit = commit.GroupCommit(self._queue, loop) if store.waits else None
        self._stopped = asyncio.Event()
        self._tending = Tending(store.queue, self._stop_soon) if isinstance(store.queue, JournalQueue) else None
        self.reader = Reader(
            body_bytes_max=settings.body_bytes_max,
            bodies_bytes_max=settings.bodies_bytes_max,
            timeout_s=settings.body_timeout_s,
        )
        self._ready = Readiness(store.why_not)
        self._state = ServerState()
        self._metrics = make_metrics(run_dir, loop.call_later)
        self._event_paths = frozenset(settings.prefix + path for path in (EVENTS, EU_EVENTS))
        self._bounds = Bounds(
            header_bytes_max=settings.header_bytes_max,
            header_timeout_s=settings.header_timeout_s,
            connections_max=settings.connections_max,
            keep_alive_s=settings.keep_alive_s,
            paths=self._event_paths,
            refuse=self._refuse,
            soon=loop.call_soon,
        )
        self._config = Config(
            self._make_app(run_dir), interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=False,
            proxy_headers=False, server_header=False,
        )  # fmt: skip
        self._config.load()

    def _refuse(self, reason: str, detail: str) -> None:
        self._metrics.refused(reason)
        self._dispatcher.refuse(reason, detail)

    def _make_app(self, run_dir: str) -> ASGIApp:
        settings = self._settings
        access = Access(settings.rules)
        ingest = Ingest(
            queue=self._queue,
            group=self._commit,
            reader=self.reader,
            access=access,
            metrics=self._metrics,
            refuse=self._dispatcher.refuse,
            strict=strict_errors,
            eu_hosts=settings.eu_host,
            eu_target=Target.to(settings.eu_url),
            merges=settings.merge,
            unable=lambda: None if self._tending is None else self._tending.denied,
        )
        return RelayApp(
            ingest,
            targets={EVENTS: Target.to(settings.us_url), EU_EVENTS: Target.to(settings.eu_url)},
            access=access,
            ready=self._ready,
            metrics=lambda: render_metrics(run_dir),
            description=orjson.dumps(described(settings.prefix)),
            page=make_page(settings, run_dir, access),
            prefix=settings.prefix,
        )

    def _stop_soon(self) -> None:
        self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Have ``serve`` end in order."""
        self._stopped.set()

    async def serve(
        self, listener: socket.socket, ready: Callable[[], None], alive: Callable[[], None] = lambda: None
    ) -> None:  # fmt: skip
        """Serve until told to stop, and end in order; ``alive`` is called now and then."""
        loop = self._loop
        context = tls_context(self._settings)
        server = await loop.create_server(
            lambda: RelayProtocol(self._bounds, self._config, self._state, loop),
            sock=listener, backlog=BACKLOG, ssl=context,
            ssl_handshake_timeout=None if context is None else self._settings.header_timeout_s,
        )  # fmt: skip
        self._state.default_headers = list(self._bounds.refresh())
        looking = loop.create_task(self._look(alive))
        gc.freeze()  # what the start made lives as long as the process: no collection need look at it again
        ready()
        await self._stopped.wait()
        self._ready.stopping = self._bounds.stopping = True
        server.close()
        await self._finish(loop.time() + self._settings.stop_timeout_s)
        looking.cancel()
        if self._tending is not None:
            self._tending.close(CLOSE_S)
        if self._commit is not None:
            self._commit.close(CLOSE_S)
        self._dispatcher.close(0.0)
        self._metrics.flush()

    async def _look(self, alive: Callable[[], None]) -> None:
        """Now and then: a sign of life, the date header, and what is due on connections."""
        while True:
            alive()
            self._state.default_headers = list(self._bounds.refresh())
            now = self._loop.time()
            for connection in list(self._state.connections):
                if isinstance(connection, RelayProtocol):
                    connection.look(now)
            await asyncio.sleep(LOOK_S)

    async def _finish(self, deadline: float) -> None:
        """Answer what has been accepted, up to a deadline; then close every connection."""
        linger = min(deadline, self._loop.time() + LINGER_S)
        while (now := self._loop.time()) < deadline and (now < linger or self._under_way()):
            if now >= linger:
                for connection in self._connections():
                    connection.close_if_idle()
            await asyncio.sleep(_POLL_S)
        left = self._under_way()
        if left:
            _log.warning("eventpost relay: %d requests were not answered within stop_timeout_s", left)
        for connection in self._connections():
            if connection.is_busy(self._event_paths):
                connection.transport.abort()
            else:
                connection.transport.close()
        await asyncio.sleep(_POLL_S)  # who waits for a client learns that it is gone
        logging.getLogger("uvicorn.error").addFilter(_is_no_cancelling)
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.sleep(_POLL_S)

    def _connections(self) -> list[RelayProtocol]:
        return [one for one in list(self._state.connections) if isinstance(one, RelayProtocol)]

    def _under_way(self) -> int:
        """Count the requests with events that are not answered; a page that listens for news holds up no stop."""
        return sum(one.is_busy(self._event_paths) for one in self._connections())


def _is_no_cancelling(record: logging.LogRecord) -> bool:
    """Tell uvicorn's lines about what went wrong from those about tasks that a stop cancels."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def raise_descriptors(wanted: int) -> int:
    """Allow this process as many descriptors as it may need, as far as it may; return how many it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _run(settings: RelaySettings, run_dir: str, listener: socket.socket, life: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    worker = Worker(settings, run_dir, loop)
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    loop.add_reader(life, worker.stop)  # nothing is ever sent: it is readable when the main process is gone
    await worker.serve(listener, lambda: say_ready(life), lambda: say_alive(life))
    loop.remove_reader(life)


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a worker."""
    parser = argparse.ArgumentParser(prog="python -m eventpost.relay.worker")
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--life", type=int, required=True)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    life = socket.socket(fileno=given.life)
    told = hear(life)
    if told is None:
        return 0
    settings = told.settings
    logging.basicConfig(level=logging.WARNING, format=told.log_format)
    there_is_room = take_room(told.run_dir)
    share_run_dir(told.run_dir if there_is_room else None)
    if not there_is_room:
        _log.error("eventpost relay: %s", NO_ROOM)
    raise_descriptors(settings.connections_max + settings.connections_max // 4 + SPARE_DESCRIPTORS)
    listener = socket.socket(fileno=given.listener)
    listener.setblocking(False)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_run(settings, told.run_dir, listener, life))
    finally:
        loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
