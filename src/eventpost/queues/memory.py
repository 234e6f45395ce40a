"""A queue in memory: the fastest, and gone when the process is gone.

Doors and sender share no lock.  ``put`` does three things under the *put lock*: it reads the bound, appends to the
*inbox* (one atomic append: the moment of acceptance) and adds to the put side's counters.  Everything else works under
the *state lock* and begins by taking in the inbox: counts are made there, from what was really appended, so that a put
cut short by a signal can't tear them.  Occupancy is the put side's total minus the state side's total of what is
gone; each is written by one side only.  A sender that claims ten thousand events does not hold up a put.

A put that interrupts a put on the same thread (signal handler, ``__del__``) finds ``_depth`` raised and leaves its
numbers in ``_nested`` (again one atomic append) for the next put to add; the bound may be exceeded by what it holds.
Anything that interrupts a state operation on the same thread sees ``_working`` and changes nothing.  The order of the
locks is: the state lock may be held while a put lock is taken (by ``__del__`` during a claim), never the reverse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from ..clock import Clock, SystemClock
from ..errors import EventTooLarge, QueueFull, QueueUnavailable
from ..event import Event
from ..sender.primitives import RLock, get_ident, pause
from .memory_lanes import MemoryLanes
from .protocol import Durability, Overflow

MIB: Final = 1024 * 1024
DAY_S: Final = 86_400.0
BLOCK_POLL_S: Final = 0.002


class MemoryQueue(MemoryLanes):
    """Keep up to ``events_max`` events and ``bytes_max`` payload bytes, what is in flight included, in this process.

    Args:
        events_max: bound on events that are neither delivered, dead nor dropped.
        bytes_max: bound on their payload bytes.
        overflow: what a full queue does: ``"refuse"`` raises QueueFull, ``"drop_oldest"`` gives up the oldest events
            that are not in flight (counted as ``overflow``), ``"block"`` waits up to ``block_timeout_s`` and then
            refuses.
        block_timeout_s: seconds; a put in a signal handler that interrupts a put, and a put on the sender's own
            thread, do not wait.
        dead_bytes_max: bound on the payload bytes of dead letters; None for no bound.
        dead_age_max_s: bound on their age in seconds; None for no bound.  The oldest go first, as ``dead_expired``.
        clock: for delays and ages.

    Raises ValueError for a bound that is not positive or an unknown ``overflow``.
    """

    durability: Durability = "memory"
    lease_s: float | None = None

    def __init__(
        self,
        events_max: int = 100_000,
        bytes_max: int = 64 * MIB,
        overflow: Overflow = "refuse",
        *,
        block_timeout_s: float = 1.0,
        dead_bytes_max: int | None = 256 * MIB,
        dead_age_max_s: float | None = 30 * DAY_S,
        clock: Clock | None = None,
    ) -> None:
        for name, value in (("events_max", events_max), ("bytes_max", bytes_max)):
            if not value >= 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        for name, bound in (("dead_bytes_max", dead_bytes_max), ("dead_age_max_s", dead_age_max_s)):
            if bound is not None and not bound > 0:
                raise ValueError(f"{name} must be positive, or None for no bound, not {bound!r}")
        if overflow not in ("refuse", "drop_oldest", "block"):
            raise ValueError(f"overflow must be 'refuse', 'drop_oldest' or 'block', not {overflow!r}")
        if not block_timeout_s >= 0:
            raise ValueError(f"block_timeout_s must be 0 or more seconds, not {block_timeout_s!r}")
        self.events_max = events_max
        self.bytes_max = bytes_max
        self.overflow: Overflow = overflow
        self.block_timeout_s = block_timeout_s
        self.dead_bytes_max = dead_bytes_max
        self.dead_age_max_s = dead_age_max_s
        self._clock: Clock = clock or SystemClock()
        self._start_from_zero()

    def _start_from_zero(self) -> None:
        self._put_lock = RLock()
        self._depth = 0
        self._inbox: deque[Sequence[Event]] = deque()
        self._nested: deque[tuple[int, int]] = deque()
        self._put_events = 0
        self._put_bytes = 0
        self._blocked_threads: set[int] = set()
        self._closed = False
        self._forget_lanes()

    def put(self, events: Sequence[Event]) -> None:
        """Store all of the events or none.

        Raises QueueFull, QueueUnavailable (reason ``closed``), or EventTooLarge if they could not fit even into an
        empty queue.
        """
        count = len(events)
        size = len(events[0].payload) if count == 1 else sum([len(event.payload) for event in events])
        if count > self.events_max or size > self.bytes_max:
            raise EventTooLarge(f"{count} events of {size} bytes: more than the queue holds when it is empty")
        interrupting = self._put(events, count, size)
        if interrupting is None:
            return
        if self.overflow == "drop_oldest":
            stored = self._drop_oldest_and_put(events, count, size, interrupting=interrupting)
        else:
            stored = self.overflow == "block" and not interrupting and self._put_when_there_is_room(events, count, size)
        if not stored:
            raise QueueFull(f"the queue holds its {self.events_max} events or {self.bytes_max} bytes")

    def _put(self, events: Sequence[Event], count: int, size: int, *, over_the_bound: bool = False) -> bool | None:
        """Store them and return None; without room, return whether this put interrupts another on its thread."""
        with self._put_lock:
            depth = self._depth
            self._depth = depth + 1
            try:
                if self._closed:
                    raise QueueUnavailable("the queue is closed", reason="closed")
                if not over_the_bound and not self._has_room(count, size):
                    return depth > 0
                if depth:
                    self._nested.append((count, size))
                    self._inbox.append(tuple(events))
                    return None
                self._inbox.append(tuple(events))
                self._put_events += count
                self._put_bytes += size
                while self._nested:
                    nested_count, nested_size = self._nested.popleft()
                    self._put_events += nested_count
                    self._put_bytes += nested_size
                return None
            finally:
                self._depth = depth

    def _has_room(self, count: int, size: int) -> bool:
        events = self._put_events + count - self._gone_events
        stored_bytes = self._put_bytes + size - self._gone_bytes
        if self._nested:
            for nested_count, nested_size in tuple(self._nested):
                events += nested_count
                stored_bytes += nested_size
        return events <= self.events_max and stored_bytes <= self.bytes_max

    def _put_when_there_is_room(self, events: Sequence[Event], count: int, size: int) -> bool:
        me = get_ident()
        if me == self._claimer or me in self._blocked_threads:  # the sender, or a signal handler over a waiting put
            return False
        self._blocked_threads.add(me)
        try:
            deadline = self._clock.monotonic() + self.block_timeout_s
            while self._clock.monotonic() < deadline:
                pause(BLOCK_POLL_S)
                if self._put(events, count, size) is None:
                    return True
            return False
        finally:
            self._blocked_threads.discard(me)

    def _drop_oldest_and_put(self, events: Sequence[Event], count: int, size: int, *, interrupting: bool) -> bool:
        while not interrupting:
            with self._state_lock:
                if self._working:
                    break
                self._working = True
                try:
                    while not self._has_room(count, size):
                        self._take_in()  # each time: others put meanwhile, and what they put is given up, too
                        if not self._drop_one("overflow") and not self._inbox:
                            return False  # all of it is in flight
                finally:
                    self._working = False
            if self._put(events, count, size) is None:
                return True
        # It interrupts a put or the sender on its own thread: nothing may be dropped under their hands.
        return self._put(events, count, size, over_the_bound=True) is None

    def sync(self, timeout_s: float) -> bool:
        """Return False: nothing makes memory safer.  ``timeout_s`` is not needed."""
        del timeout_s
        return False

    def drop_remaining(self, reason: str) -> int:
        """Give up all that is queued, as ``dropped[reason]``; return how many events that was.

        The end of a process is the end of this queue: its dispatcher calls this once it is closed.
        """
        with self._put_lock:
            pass  # a put on another thread that had passed the check for closed has appended by now
        with self._state_lock:
            self._working = True
            try:
                self._take_in()
                count = 0
                while self._drop_one(reason):
                    count += 1
                return count
            finally:
                self._working = False

    def after_fork_in_child(self) -> None:
        """Start from zero: what was queued is the parent's to deliver."""
        self._start_from_zero()

    def close(self, timeout_s: float = 10.0) -> None:
        """Refuse further puts as ``closed`` and give back what is leased.  Idempotent; needs no ``timeout_s``."""
        del timeout_s
        self._closed = True
        with self._state_lock:
            leased = list(self._leased)
        self.release(leased)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"MemoryQueue(queued={stats.queued}, in_flight={stats.in_flight}, dead={stats.dead})"
