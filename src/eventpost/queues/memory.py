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

Per lane there are three places: ``fresh`` (never claimed, first in first out), ``again`` (released and due) and the
queue-wide heap of what is released and not due yet.  An event becomes an ``_Entry`` only when it is released or buried.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..clock import Clock, SystemClock
from ..errors import EventTooLarge, QueueFull, QueueUnavailable
from ..event import Event
from ..sender.primitives import RLock, get_ident, pause
from .protocol import Answer, Durability, Lease, Overflow, QueueStats

MIB: Final = 1024 * 1024
DAY_S: Final = 86_400.0
BLOCK_POLL_S: Final = 0.002
TEND_EVERY_S: Final = 60.0
_QUEUED, _LEASED, _DEAD, _GONE = range(4)


class _Entry:
    """An event that was given back or buried, whoever holds a lease of it now."""

    __slots__ = ("answer", "attempts", "died_at", "event", "lease", "reason", "since", "state")

    def __init__(self, event: Event, since: float) -> None:
        self.event = event
        self.since = since
        self.attempts = 0
        self.state = _QUEUED
        self.lease: Lease | None = None
        self.reason = ""
        self.answer: Answer | None = None
        self.died_at = 0.0


class _Lane:
    __slots__ = ("again", "fresh", "runs")

    def __init__(self) -> None:
        self.fresh: deque[Event] = deque()
        self.runs: deque[list[float]] = deque()  # [serial of its first event, taken in at, events]: one a stretch
        self.again: deque[_Entry] = deque()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was set aside.  ``died_at`` is in seconds since the epoch."""

    event: Event
    reason: str
    answer: Answer | None
    died_at: float
    attempts: int


class MemoryQueue:
    """Keep up to ``events_max`` events and ``bytes_max`` payload bytes, what is in flight included, in this process.

    Args:
        events_max: bound on events that are neither delivered, dead nor dropped.
        bytes_max: bound on their payload bytes.
        overflow: what a full queue does: ``"refuse"`` raises QueueFull, ``"drop_oldest"`` gives up the oldest events
            that are not in flight (counted as ``overflow``), ``"block"`` waits up to ``block_timeout_s`` and then refuses.
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
        self._state_lock = RLock()
        self._working = False
        self._claimer: int | None = None
        self._lanes: dict[str, _Lane] = {}
        self._delayed: list[tuple[float, int, _Entry]] = []
        self._dead_letters: deque[_Entry] = deque()
        self._dead_bytes = 0
        self._leased: set[Lease] = set()
        self._serial = 0
        self._accepted = self._delivered = self._queued = self._in_flight = self._dead = 0
        self._dropped: dict[str, int] = {}
        self._gone_events = 0
        self._gone_bytes = 0
        self._stored_bytes = 0
        self._order = 0
        self._last_stats = QueueStats()

    # -- the put side

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
                    self._take_in()
                    while not self._has_room(count, size):
                        if not self._drop_one("overflow"):
                            return False  # all of it is in flight
                finally:
                    self._working = False
            if self._put(events, count, size) is None:
                return True
        # It interrupts a put or the sender on its own thread: nothing may be dropped under their hands.
        return self._put(events, count, size, over_the_bound=True) is None

    # -- the state side; callers hold the state lock

    def _take_in(self) -> None:
        """Move the inbox into the lanes, and count it."""
        inbox = self._inbox
        if not inbox:
            return
        now = self._clock.monotonic()
        envelope = None
        lane = _Lane()
        run: list[float] = []
        count = size = 0
        try:
            while inbox:
                for event in inbox[0]:
                    if event.envelope is not envelope:
                        envelope = event.envelope
                        found = self._lane(envelope.url)
                        if found is not lane:
                            lane = found
                            run = [self._serial + count, now, 0]
                            lane.runs.append(run)
                    lane.fresh.append(event)
                    run[2] += 1
                    count += 1
                    size += len(event.payload)
                inbox.popleft()
        finally:
            self._serial += count
            self._accepted += count
            self._queued += count
            self._stored_bytes += size

    def _forget_runs(self, lane: _Lane, count: int) -> None:
        """Note that ``count`` events left the front of ``fresh``."""
        while count:
            run = lane.runs[0]
            part = min(count, int(run[2]))
            run[0] += part
            run[2] -= part
            count -= part
            if not run[2]:
                lane.runs.popleft()

    def _due(self) -> None:
        """Move what has become due from the heap to its lane."""
        delayed = self._delayed
        if not delayed:
            return
        now = self._clock.monotonic()
        while delayed and delayed[0][0] <= now:
            entry = heapq.heappop(delayed)[2]
            if entry.state == _QUEUED:
                self._lane(entry.event.lane).again.append(entry)

    def _lane(self, name: str) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane()
        return lane

    def _drop_one(self, reason: str) -> bool:
        """Give up the oldest event that is not leased; what was claimed before is older than what was not."""
        for lane in self._lanes.values():
            while lane.again:
                if self._drop_entry(lane.again.popleft(), reason):
                    return True
        while self._delayed:
            if self._drop_entry(heapq.heappop(self._delayed)[2], reason):
                return True
        waiting = [lane for lane in self._lanes.values() if lane.runs]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda lane: lane.runs[0][0])
        self._forget_runs(oldest, 1)
        self._drop([oldest.fresh.popleft()], reason)
        return True

    def _drop_entry(self, entry: _Entry, reason: str) -> bool:
        if entry.state != _QUEUED:
            return False
        entry.state = _GONE
        self._drop([entry.event], reason)
        return True

    def _drop(self, queued: Sequence[Event], reason: str) -> None:
        self._queued -= len(queued)
        self._dropped[reason] = self._dropped.get(reason, 0) + len(queued)
        self._gone(len(queued), sum([len(event.payload) for event in queued]))

    def _gone(self, events: int, size: int) -> None:
        self._stored_bytes -= size
        self._gone_bytes += size
        self._gone_events += events

    # -- the sender's side

    def lanes(self) -> Sequence[str]:
        """Return the lanes that have, or may have, something to claim now or later."""
        with self._state_lock:
            self._take_in()
            return tuple(self._lanes)

    def pending(self, lane: str) -> int:
        """Return how many events of the lane could be claimed now."""
        with self._state_lock:
            self._take_in()
            self._due()
            found = self._lanes.get(lane)
            return 0 if found is None else len(found.fresh) + len(found.again)

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Lease up to ``events_max`` due events: what was given back first, then in order of arrival."""
        with self._state_lock:
            self._working = True
            try:
                self._claimer = get_ident()
                self._take_in()
                self._due()
                found = self._lanes.get(lane)
                return [] if found is None else self._claim(found, events_max, bytes_max)
            finally:
                self._working = False

    def _claim(self, lane: _Lane, events_max: int, bytes_max: int) -> list[Lease]:
        now = self._clock.monotonic()
        leases: list[Lease] = []
        size = 0
        while lane.again and len(leases) < events_max and size < bytes_max:
            entry = lane.again.popleft()
            if entry.state == _QUEUED:
                lease = Lease(entry.event, entry, now, entry.attempts + 1)
                entry.state, entry.lease = _LEASED, lease
                size += len(entry.event.payload)
                leases.append(lease)
        fresh = lane.fresh
        count = min(events_max - len(leases), len(fresh))
        first_times = 0
        while first_times < count and size < bytes_max:
            event = fresh.popleft()
            size += len(event.payload)
            leases.append(Lease(event, None, now))
            first_times += 1
        self._forget_runs(lane, first_times)
        self._leased.update(leases)
        self._queued -= len(leases)
        self._in_flight += len(leases)
        return leases

    def next_due_s(self) -> float | None:
        """Return the seconds until the next released event is due, or None if none is waiting for its time."""
        with self._state_lock:
            self._due()
            while self._delayed and self._delayed[0][2].state != _QUEUED:
                heapq.heappop(self._delayed)
            return max(0.0, self._delayed[0][0] - self._clock.monotonic()) if self._delayed else None

    def ack(self, leases: Sequence[Lease]) -> None:
        """Count the events as delivered, whoever holds them now.  Idempotent."""
        with self._state_lock:
            self._working = True
            try:
                count = size = 0
                for lease in leases:
                    entry = lease.ref
                    if lease.live:
                        lease.live = False
                        count += 1
                        size += len(lease.event.payload)
                        if entry is not None:
                            entry.state = _GONE
                    elif entry is not None:
                        self._ack_stale(entry)
                self._leased.difference_update(leases)
                self._in_flight -= count
                self._delivered += count
                self._gone(count, size)
            finally:
                self._working = False

    def _ack_stale(self, entry: _Entry) -> None:
        """The event was given back or buried since; it is delivered all the same, and must not go out again."""
        if entry.state == _GONE:
            return
        size = len(entry.event.payload)
        if entry.state == _DEAD:
            self._dead -= 1
            self._dead_bytes -= size
        else:
            if entry.state == _LEASED and entry.lease is not None:
                entry.lease.live = False
                self._leased.discard(entry.lease)
                self._in_flight -= 1
            else:
                self._queued -= 1
            self._gone(1, size)
        entry.state = _GONE
        self._delivered += 1

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """Give the events back; claimable again after ``delay_s`` seconds.  A stale lease changes nothing."""
        with self._state_lock:
            self._working = True
            try:
                due = self._clock.monotonic() + delay_s
                for entry in self._take_back(leases):
                    entry.state = _QUEUED
                    self._queued += 1
                    if delay_s > 0:
                        self._order += 1
                        heapq.heappush(self._delayed, (due, self._order, entry))
                    else:
                        self._lane(entry.event.lane).again.append(entry)
            finally:
                self._working = False

    def _take_back(self, leases: Sequence[Lease]) -> list[_Entry]:
        """End the leases that live; return their events' entries, which are nowhere yet."""
        entries = []
        for lease in leases:
            if lease.live:
                lease.live = False
                entry: _Entry = lease.ref
                if entry is None:
                    entry = lease.ref = _Entry(lease.event, lease.claimed_at)
                entry.attempts = lease.attempts
                entry.lease = None
                entries.append(entry)
        self._leased.difference_update(leases)
        self._in_flight -= len(entries)
        return entries

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """Set the events aside as dead letters.  A stale lease changes nothing."""
        with self._state_lock:
            self._working = True
            try:
                died_at = self._clock.time()
                for entry in self._take_back(leases):
                    size = len(entry.event.payload)
                    entry.state, entry.reason, entry.answer, entry.died_at = _DEAD, reason, answer, died_at
                    self._dead_letters.append(entry)
                    self._dead += 1
                    self._dead_bytes += size
                    self._gone(1, size)
                self._expire_dead()
            finally:
                self._working = False

    def _expire_dead(self) -> None:
        letters = self._dead_letters
        bytes_max = math.inf if self.dead_bytes_max is None else self.dead_bytes_max
        died_before = -math.inf if self.dead_age_max_s is None else self._clock.time() - self.dead_age_max_s
        while letters and (
            letters[0].state != _DEAD or self._dead_bytes > bytes_max or letters[0].died_at < died_before
        ):
            entry = letters.popleft()
            if entry.state == _DEAD:
                entry.state = _GONE
                self._dead -= 1
                self._dead_bytes -= len(entry.event.payload)
                self._dropped["dead_expired"] = self._dropped.get("dead_expired", 0) + 1

    def dead_letters(self) -> list[DeadLetter]:
        """Return what is set aside, the oldest first."""
        with self._state_lock:
            return [
                DeadLetter(entry.event, entry.reason, entry.answer, entry.died_at, entry.attempts)
                for entry in self._dead_letters
                if entry.state == _DEAD
            ]

    def tend(self) -> float | None:
        """Expire dead letters and forget empty lanes; return the seconds until the next time."""
        with self._state_lock:
            self._working = True
            try:
                self._expire_dead()
                if not self._delayed and not self._leased:
                    for name in [name for name, lane in self._lanes.items() if not lane.fresh and not lane.again]:
                        del self._lanes[name]
            finally:
                self._working = False
        return TEND_EVERY_S

    def sync(self, timeout_s: float) -> bool:
        """Return False: nothing makes memory safer.  ``timeout_s`` is not needed."""
        del timeout_s
        return False

    # -- the count, fork and the end

    def stats(self) -> QueueStats:
        """Return the count, all of it read at one instant; the last one if it interrupts an operation on its thread."""
        with self._state_lock:
            if self._working:
                return self._last_stats
            self._working = True
            try:
                self._take_in()
                self._last_stats = QueueStats(
                    accepted=self._accepted,
                    delivered=self._delivered,
                    queued=self._queued,
                    in_flight=self._in_flight,
                    dead=self._dead,
                    dropped=MappingProxyType(dict(self._dropped)),
                    stored_bytes=self._stored_bytes,
                    oldest_age_s=self._oldest_age_s(),
                )
                return self._last_stats
            finally:
                self._working = False

    def _oldest_age_s(self) -> float | None:
        since = [lane.runs[0][1] for lane in self._lanes.values() if lane.runs]
        since += [entry.since for lane in self._lanes.values() for entry in lane.again if entry.state == _QUEUED]
        since += [entry.since for _, _, entry in self._delayed if entry.state == _QUEUED]
        return max(0.0, self._clock.monotonic() - min(since)) if since else None

    def drop_remaining(self, reason: str) -> int:
        """Give up all that is queued, as ``dropped[reason]``; return how many events that was.

        The end of a process is the end of this queue: its dispatcher calls this once it is closed.
        """
        with self._state_lock:
            self._take_in()
            count = 0
            while self._drop_one(reason):
                count += 1
            return count

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
