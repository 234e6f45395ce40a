"""How a worker stores: at once where a put does not wait, together with others where it does.

A put into a journal at ``os`` is a store into memory that the kernel keeps; it is made where the request is handled.
One at ``fsync`` waits for the device, one into a queue that machines share for a server.  So these are made on a thread
of their own: everything that came in while the last put was under way goes into one, which is one sync for each
endpoint, or one round trip, and only then are these requests answered.  A queue takes all of a put or none; where it
takes none for want of room, each event is tried by itself, until one finds none.  A disk or a server that fails is not
asked again for each: a sync that is not answered takes half a minute to be given up.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Final, Protocol

from ..errors import EventTooLarge, QueueError
from ..event import Event
from .answers import Denied, unavailable

TOGETHER_MAX: Final = 1024
TOGETHER_BYTES_MAX: Final = 4 << 20
GATHER_SHARE: Final = 0.25
"""How much of a put's time the next one waits where several came at once.

Who was just answered sends again, and shares the next sync if that waits a moment; else two halves of the clients take
turns, and each sync is for one of them.
"""
GATHER_MAX_S: Final = 0.001
_ONE_MAY_FIT: Final = frozenset({"too_large", "queue_full"})
_DETAILS: Final = {
    "queue_full": "the queue holds as many bytes as it may: the endpoint is behind",
    "redis_unavailable": "the queue's server does not answer",
    "redis_unusable": "the queue's server cannot hold a queue: see the relay's log",
    "redis_unconfirmed": "too few replicas have the event, or it is not on the server's disk",
    "redis_full": "the memory of the queue's server is full",
    "disk_full": "the disk is full",
    "folder_gone": "the journal's folder is gone",
    "permission": "the journal's folder may not be written to",
    "closed": "the relay is stopping",
}


class Putting(Protocol):
    """What is needed of a queue."""

    def put(self, events: Sequence[Event], /) -> None:
        """Store all of them or none."""
        ...


def denied_by(error: QueueError) -> Denied:
    """Return the answer to what a queue refused."""
    if isinstance(error, EventTooLarge):
        return Denied(413, "too_large", "the event is larger than the queue can take")
    return unavailable(error.reason, _DETAILS.get(error.reason, "the queue cannot store at the moment"))


def put_now(queue: Putting, *events: Event) -> Denied | None:
    """Store all of these or none; None: they are stored."""
    try:
        queue.put(events)
    except QueueError as error:
        return denied_by(error)
    except Exception as error:  # noqa: BLE001 - whatever a queue raises is a no, and never a lost answer
        return unavailable("queue_unavailable", type(error).__name__)
    return None


class GroupCommit:
    """Puts of one worker, together.  ``put`` belongs to the loop's thread; ``close`` to any."""

    def __init__(self, queue: Putting, loop: asyncio.AbstractEventLoop) -> None:
        self._queue = queue
        self._loop = loop
        self._waiting: deque[tuple[Event, asyncio.Future[Denied | None]]] = deque()
        self._bell = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="eventpost-commit", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> asyncio.Future[Denied | None]:
        """Return what becomes None once the event is stored, or a no."""
        done: asyncio.Future[Denied | None] = self._loop.create_future()
        self._waiting.append((event, done))
        if not self._bell.is_set():  # else the thread has yet to look, and finds it
            self._bell.set()
        return done

    def close(self, timeout_s: float) -> None:
        """Store what waits, and end."""
        self._closing = True
        self._bell.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing or self._waiting:
            self._bell.wait()
            self._bell.clear()  # first: what comes after this rings again
            while group := self._next_group():
                began = monotonic()
                said = self._store([event for event, _ in group])
                took_s = monotonic() - began
                try:
                    self._loop.call_soon_threadsafe(_tell, [done for _, done in group], said)
                except RuntimeError:  # the loop is closed: nobody waits
                    return
                if len(group) > 1:
                    sleep(min(took_s * GATHER_SHARE, GATHER_MAX_S))

    def _next_group(self) -> list[tuple[Event, asyncio.Future[Denied | None]]]:
        group: list[tuple[Event, asyncio.Future[Denied | None]]] = []
        size = 0
        while self._waiting and len(group) < TOGETHER_MAX and size < TOGETHER_BYTES_MAX:
            group.append(self._waiting.popleft())
            size += len(group[-1][0].payload)
        return group

    def _store(self, events: list[Event]) -> list[Denied | None]:
        said = put_now(self._queue, *events)
        if said is None or len(events) == 1 or said.reason not in _ONE_MAY_FIT:
            return [said] * len(events)
        each: list[Denied | None] = []
        full: Denied | None = None
        for event in events:
            each.append(full or put_now(self._queue, event))
            full = each[-1] if each[-1] is not None and each[-1].reason == "queue_full" else None
        return each


def _tell(futures: list[asyncio.Future[Denied | None]], said: list[Denied | None]) -> None:
    for future, one in zip(futures, said, strict=True):
        if not future.done():
            future.set_result(one)
