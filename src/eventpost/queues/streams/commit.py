"""Putting: once, all or none, and many threads' puts in one round trip.

Who comes first leads: it takes everything that waits by then and sends it as one put; what comes meanwhile is the next
one's.  A thread that is in the middle of a put already (a signal handler or a finalizer interrupts it, or greenlets
share it) neither leads nor follows: its put goes alone, over another connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from ...errors import EventTooLarge, QueueError, QueueFull, QueueUnavailable
from ...event import Event
from ...sender import primitives
from ..protocol import Overflow
from .put import Puts

TOGETHER_EVENTS_MAX: Final = 2048
TOGETHER_BYTES_MAX: Final = 4 << 20
_BLOCK_POLL_S: Final = 0.02


class _Waiting:
    """One caller's put."""

    __slots__ = ("deadline", "done", "error", "events", "gate", "size")

    def __init__(self, events: Sequence[Event], size: int, deadline: float) -> None:
        self.events = events
        self.size = size
        self.deadline = deadline
        self.done = False
        self.error: QueueError | None = None
        self.gate = primitives.Event()


class Commit:
    """Puts of many threads, together."""

    def __init__(
        self, puts: Puts, *, bytes_max: int, overflow: Overflow, block_timeout_s: float, timeout_s: float,
        is_sender: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Keep the arguments; ``is_sender``: whether this is the thread that makes room, and must not wait for some."""
        self._puts = puts
        self._bytes_max = bytes_max
        self._overflow = overflow
        self._block_timeout_s = block_timeout_s
        self._timeout_s = timeout_s
        self._is_sender = is_sender
        self.reset()

    def reset(self) -> None:
        """Start from nothing."""
        self.closed = False
        self._leading = primitives.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._inside: set[int] = set()

    def put(self, events: Sequence[Event]) -> None:
        """Store all of the events or none.  Raises QueueError."""
        if self.closed:
            raise QueueUnavailable("the queue is closed", reason="closed")
        if not events:
            return
        size = sum([len(event.payload) for event in events])
        if size > self._bytes_max:
            raise EventTooLarge(f"{len(events)} events of {size} bytes: more than the queue holds when it is empty")
        me = primitives.get_ident()
        interrupts = me in self._inside
        try:
            self._put(tuple(events), size, me, interrupts=interrupts)
        except QueueFull as full:
            if self._overflow != "block" or interrupts or full.reason != "queue_full" or self._is_sender():
                raise
            self._put_when_there_is_room(tuple(events), size, me)

    def _put(self, events: Sequence[Event], size: int, me: int, *, interrupts: bool) -> None:
        item = _Waiting(events, size, monotonic() + self._timeout_s)
        if interrupts:
            self._store([item])
        else:
            self._inside.add(me)
            try:
                self._put_together(item)
            finally:
                self._inside.discard(me)
        if item.error is not None:
            raise item.error

    def _put_when_there_is_room(self, events: Sequence[Event], size: int, me: int) -> None:
        deadline = monotonic() + self._block_timeout_s
        while True:
            primitives.pause(_BLOCK_POLL_S)
            try:
                self._put(events, size, me, interrupts=False)
            except QueueFull as full:
                if full.reason != "queue_full" or monotonic() >= deadline:
                    raise
            else:
                return

    # -- together

    def _put_together(self, item: _Waiting) -> None:
        self._waiting.append(item)
        while not item.done:
            if self._leading.acquire(False):
                try:
                    if not item.done:
                        self._lead()
                finally:
                    self._leading.release()
                    self._call_the_next()
                continue
            if item.gate.wait(item.deadline - monotonic()):
                item.gate.clear()
                continue
            try:
                self._waiting.remove(item)  # nobody took it: nothing was sent
            except ValueError:
                item.gate.wait(self._timeout_s)  # somebody did, and knows no later than this
            if not item.done:
                item.error = QueueUnavailable("the server did not answer in time", reason="redis_unavailable")
            return

    def _call_the_next(self) -> None:
        try:
            self._waiting[0].gate.set()
        except IndexError:
            return

    def _lead(self) -> None:
        """Take what waits, and store it as one put; tell each what became of it."""
        group: list[_Waiting] = []
        events = size = 0
        while self._waiting and events < TOGETHER_EVENTS_MAX and size < TOGETHER_BYTES_MAX:
            try:
                group.append(self._waiting.popleft())
            except IndexError:  # it gave up just now
                break
            events += len(group[-1].events)
            size += group[-1].size
        try:
            self._store(group)
        except BaseException:  # a signal handler's: the others must not wait for what nobody does any more
            for one in group:
                one.error = one.error or QueueUnavailable("the put was interrupted", reason="redis_unavailable")
            raise
        finally:
            for one in group:
                one.done = True
                one.gate.set()

    def _store(self, group: list[_Waiting]) -> None:
        if not group:
            return
        try:
            self._puts.send([event for one in group for event in one.events], min(one.deadline for one in group))
        except QueueError as error:
            if len(group) == 1 or not isinstance(error, (QueueFull, EventTooLarge)):
                for one in group:
                    one.error = error
                return
            full: _Waiting | None = None
            for one in group:  # one alone may fit, if it is not as large as one that did not
                if full is not None and one.size >= full.size:
                    one.error = full.error
                    continue
                self._store([one])
                if isinstance(one.error, QueueFull):
                    full = one
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the application
            for one in group:
                one.error = QueueUnavailable(f"the put failed: {type(error).__name__}", reason="queue_unavailable")
