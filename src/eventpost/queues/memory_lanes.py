"""The sender's side of the queue in memory: lanes, leases, dead letters and the count.  ``memory.py`` has the theory.

Per lane there are two places: ``fresh`` (never claimed, first in first out, described by ``runs`` so that age and order
across lanes are known without a record for each event) and ``again`` (given back, and due).  What is given back and not
due yet is in one heap.  An event becomes an ``Entry`` only when it is given back or buried; a lease's ``ref`` is that
entry, so that a late ``ack`` finds the event wherever it is by then.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..clock import Clock
from ..event import Event
from ..sender.primitives import RLock, get_ident
from .protocol import Answer, Lease, QueueStats

TEND_EVERY_S: Final = 60.0
_QUEUED, _LEASED, _DEAD, _GONE = range(4)


class Entry:
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


class Lane:
    """What waits for one endpoint.

    A run is [serial of its first event when it came, taken in at, events left]: one for a stretch of events between
    which none of another endpoint came.
    """

    __slots__ = ("again", "fresh", "runs")

    def __init__(self) -> None:
        self.fresh: deque[Event] = deque()
        self.runs: deque[list[float]] = deque()
        self.again: deque[Entry] = deque()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was set aside.  ``died_at`` is in seconds since the epoch."""

    event: Event
    reason: str
    answer: Answer | None
    died_at: float
    attempts: int


class MemoryLanes:
    """Everything of a MemoryQueue but its bound and ``put``.  Public methods take the state lock, others need it."""

    dead_bytes_max: int | None
    dead_age_max_s: float | None
    _clock: Clock
    _inbox: deque[Sequence[Event]]

    def _forget_lanes(self) -> None:
        self._state_lock = RLock()
        self._working = False
        self._claimer: int | None = None
        self._lanes: dict[str, Lane] = {}
        self._delayed: list[tuple[float, int, Entry]] = []
        self._dead_letters: deque[Entry] = deque()
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

    def _take_in(self) -> None:
        """Move the inbox into the lanes, and count it."""
        inbox = self._inbox
        if not inbox:
            return
        now = self._clock.monotonic()
        envelope = None
        lane = Lane()
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

    def _forget_runs(self, lane: Lane, count: int) -> None:
        """Note that ``count`` events left the front of ``fresh``."""
        while count:
            run = lane.runs[0]
            part = min(count, int(run[2]))
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

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane()
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

    def _drop_entry(self, entry: Entry, reason: str) -> bool:
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

    def _look(self) -> None:
        """Take in what has come and what is due, unless this interrupts on its thread who is at it."""
        if self._working:
            return
        self._working = True
        try:
            self._take_in()
            self._due()
        finally:
            self._working = False

    def lanes(self) -> Sequence[str]:
        """Return the lanes that have, or may have, something to claim now or later."""
        with self._state_lock:
            self._look()
            return tuple(self._lanes)

    def pending(self, lane: str) -> int:
        """Return how many events of the lane could be claimed now."""
        with self._state_lock:
            self._look()
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

    def _claim(self, lane: Lane, events_max: int, bytes_max: int) -> list[Lease]:
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

    def _ack_stale(self, entry: Entry) -> None:
        """Deliver an event that was given back or buried since: it must not go out again."""
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

    def _take_back(self, leases: Sequence[Lease]) -> list[Entry]:
        """End the leases that live; return their events' entries, which are nowhere yet."""
        entries = []
        for lease in leases:
            if lease.live:
                lease.live = False
                entry: Entry | None = lease.ref
                if entry is None:
                    entry = lease.ref = Entry(lease.event, lease.claimed_at)
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
