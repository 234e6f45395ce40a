"""The claiming side: what this process reads, what it has in its hands, and what it knows of the rest.

A lane reads its segments one after the other: the own ones in the order of writing, those of others as the keeper
adopts them.  Nothing is kept in memory for an event that nobody has claimed; a claimed one lives until it is
settled, and one that was given back waits in memory for its time.  All of this belongs to one lock, which no put
ever waits for while it has the put lock.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ...clock import Clock
from ...event import Envelope
from ...sender.primitives import RLock, get_ident
from ...watch.signals import Signal, Trouble
from ..protocol import Lease
from . import totals
from .cursor import Again, Cursor, JournalLease, runs
from .format import DROPPED, Outcome
from .segment import SegmentWriter
from .voided import Passed

if TYPE_CHECKING:
    from .folder import Folder

_ENVELOPES_MAX: Final = 4096
_CURSORS_MAX: Final = 512


class Lane:
    """One endpoint's segments and returned events."""

    __slots__ = ("again", "cursors", "own")

    def __init__(self) -> None:
        self.own: deque[SegmentWriter] = deque()
        """Own segments that were not opened for reading yet, oldest first."""
        self.cursors: list[Cursor] = []
        self.again: list[tuple[float, int, Again]] = []


class Claims:
    """Leases, and the count of what came of them."""

    def __init__(
        self, folder: Folder, clock: Clock, *, on_damage: Callable[[Cursor, int, bytes, int, str], None],
        emit: Callable[[Signal], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file."""
        self.folder = folder
        self.clock = clock
        self.on_damage = on_damage
        self.emit = emit
        self.reset()

    def reset(self) -> None:
        """Start from nothing."""
        self.lock = RLock()
        self.lanes: dict[str, Lane] = {}
        self.adopted = self.delivered = self.in_flight = self.waiting = self.dead = 0
        self.dropped: dict[str, int] = {}
        self.open: set[Cursor] = set()
        self.done: list[Cursor] = []
        """Fully settled, to be folded."""
        self.finished: set[str] = set()
        """Settled segments of writers that live and will fold them."""
        self.closed = False
        self.folds = 0
        """How many segments were folded here."""
        self.claimer: int | None = None
        """The sender's thread, which must not wait for the room that it makes."""
        self.voided = Passed(self.folder.disk, Outcome.VOID)
        self.purged = Passed(self.folder.disk, Outcome.PURGED)
        self._ids = itertools.count()
        self._envelopes: dict[Envelope, Envelope] = {}

    def add_own(self, writer: SegmentWriter) -> None:
        """Know a new own segment; called by the putting side, under its lock only."""
        self.lanes.setdefault(writer.header.lane, Lane()).own.append(writer)

    def add_adopted(self, cursor: Cursor) -> None:
        """Know a segment that was adopted."""
        lane = self.lanes.setdefault(cursor.header.lane, Lane())
        lane.cursors.append(cursor)
        self.open.add(cursor)

    def intern(self, envelope: Envelope) -> Envelope:
        """Return one object for equal envelopes, so that telling them apart is cheap."""
        if len(self._envelopes) >= _ENVELOPES_MAX:
            self._envelopes.clear()
        return self._envelopes.setdefault(envelope, envelope)

    def claim(self, url: str, events_max: int, bytes_max: int) -> list[Lease]:
        """See Queue.claim."""
        with self.lock:
            self.claimer = get_ident()
            lane = self.lanes.get(url)
            out: list[JournalLease] = []
            if lane is None or self.closed:  # what a closed queue handed out, others may send as well
                return []
            now = self.clock.monotonic()
            taken = self._claim_again(lane, events_max, bytes_max, now, out)
            if len(out) < events_max and taken < bytes_max:
                self._claim_new(lane, events_max, bytes_max - taken, now, out)
            self.in_flight += len(out)
            return out  # type: ignore[return-value]  # a list of our leases is a list of leases

    def _claim_again(self, lane: Lane, events_max: int, bytes_max: int, now: float, out: list[JournalLease]) -> int:
        taken = 0
        while lane.again and lane.again[0][0] <= now and len(out) < events_max and taken < bytes_max:
            again = heapq.heappop(lane.again)[2]
            if again.lease is not None or again.cursor.is_settled(again.ordinal):
                continue  # settled by its late answer while it waited
            again.attempts += 1
            lease = JournalLease(again.event, again.cursor, again.ordinal, again.at_s, now, again.attempts)
            lease.again, again.lease = again, lease
            again.cursor.waiting -= 1
            again.cursor.leased += 1
            self.waiting -= 1
            taken += len(again.event.payload)
            out.append(lease)
        return taken

    def _claim_new(self, lane: Lane, events_max: int, bytes_max: int, now: float, out: list[JournalLease]) -> None:
        taken = 0
        while True:
            for cursor in list(lane.cursors):
                before = len(out)
                try:
                    taken += cursor.read(events_max - before, bytes_max - taken, now, out, self.intern)
                except (OSError, ValueError) as error:
                    self.emit(Trouble("journal", f"{cursor.path} cannot be read: {error}"))
                cursor.leased += len(out) - before  # what was read before an error is in hand all the same
                if cursor.adopted:
                    self.adopted += len(out) - before
                if cursor.ended:
                    lane.cursors.remove(cursor)
                    self.retire_if_done(cursor)
                if len(out) >= events_max or taken >= bytes_max:
                    return
            if not self._open_next(lane):
                return

    def read_to_end(self, lane: Lane, cursor: Cursor) -> None:
        """Let a cursor that has read all there is see that its segment is sealed; under the lock."""
        cursor.read(1, 1, self.clock.monotonic(), [], self.intern)
        if cursor.ended:
            lane.cursors.remove(cursor)
            self.retire_if_done(cursor)

    def _open_next(self, lane: Lane) -> bool:
        # All open ones are read to where they end now, so those of the own ones that stay are still written to.
        if not lane.own or len(lane.cursors) >= _CURSORS_MAX:
            return False
        writer = lane.own[0]
        disk = self.folder.disk
        try:
            try:
                cursor = Cursor(disk, writer.path, writer=writer, on_damage=self.on_damage)
            except FileNotFoundError:
                if writer.sealed:
                    lane.own.popleft()
                    self.vanished(writer)
                    return True
                fd = disk.duplicate(writer.fd)  # its name is gone; what it holds is not, as long as we have it open
                try:
                    cursor = Cursor(disk, writer.path, writer=writer, on_damage=self.on_damage, fd=fd)
                except (OSError, ValueError):
                    disk.close(fd)
                    raise
        except (OSError, ValueError) as error:
            self.emit(Trouble("journal", f"{writer.path} cannot be opened: {error}"))
            return False
        lane.own.popleft()
        lane.cursors.append(cursor)
        self.open.add(cursor)
        return True

    def retire_if_done(self, cursor: Cursor) -> None:
        """Let a cursor whose events are all settled be folded; under the lock."""
        if cursor.is_done and cursor in self.open and cursor not in self.done:
            self.done.append(cursor)

    def ack(self, leases: Sequence[Lease]) -> None:
        """See Queue.ack."""
        with self.lock:
            index, count = 0, len(leases)
            while index < count:
                cursor = leases[index].cursor  # type: ignore[attr-defined]  # our leases
                ordinals: list[int] = []
                settling: list[JournalLease] = []
                late: list[JournalLease] = []
                while index < count:
                    lease: JournalLease = leases[index]  # type: ignore[assignment]  # our leases
                    if lease.cursor is not cursor:
                        break
                    index += 1
                    if not lease.live:
                        late.append(lease)  # to be looked at last: its event may be among those that are settled here
                    else:
                        lease.live = False
                        ordinals.append(lease.ordinal)
                        settling.append(lease)
                try:
                    self._settle(cursor, ordinals, Outcome.DELIVERED)
                except OSError:
                    for lease in settling:
                        lease.live = True  # not noted: whoever asks again finds them as they were
                    raise
                self.delivered += len(ordinals)
                for lease in late:
                    self._ack_late(lease)
                self.retire_if_done(cursor)

    def _ack_late(self, lease: JournalLease) -> None:
        """Take an answer for a lease that was given back: the event is delivered all the same."""
        again, cursor = lease.again, lease.cursor
        if again is None or cursor.is_settled(lease.ordinal):
            return
        cursor.mark(range(lease.ordinal, lease.ordinal + 1), Outcome.DELIVERED)
        holder, again.lease = again.lease, None
        if holder is not None:
            holder.live = False
            self.in_flight -= 1
            cursor.leased -= 1
        else:
            self.waiting -= 1
            cursor.waiting -= 1
        self.delivered += 1

    def _settle(self, cursor: Cursor, ordinals: list[int], outcome: Outcome) -> None:
        for run in runs(ordinals):
            cursor.mark(run, outcome)
        self.in_flight -= len(ordinals)
        cursor.leased -= len(ordinals)

    def release(self, leases: Sequence[Lease], delay_s: float) -> None:
        """See Queue.release."""
        with self.lock:
            due = self.clock.monotonic() + delay_s
            for lease in leases:
                assert isinstance(lease, JournalLease)  # noqa: S101 - the protocol: a queue is handed its own leases
                if not lease.live:
                    continue
                lease.live = False
                cursor = lease.cursor
                again = lease.again or Again(lease)
                again.lease, lease.again = None, again
                cursor.leased -= 1
                cursor.waiting += 1
                self.in_flight -= 1
                self.waiting += 1
                heapq.heappush(self.lanes[cursor.header.lane].again, (due, next(self._ids), again))

    def settle_dead(self, leases: Sequence[JournalLease]) -> None:
        """Settle the leases of letters that are on the disk; under the lock."""
        for lease in leases:
            self._settle(lease.cursor, [lease.ordinal], Outcome.DEAD)
            lease.live = False
            self.dead += 1
            self.retire_if_done(lease.cursor)

    def vanished(self, writer: SegmentWriter, settled: int = 0) -> None:
        """Count the events of an own segment whose file somebody removed, ``settled`` of them before that."""
        gone = writer.count - self.voided.of(writer) - self.purged.forget(writer.name) - settled
        self.lose("vanished", gone)
        self.emit(Trouble("journal", f"{writer.path} is gone, and its events with it"))

    def lose(self, reason: str, events: int) -> None:
        """Count a loss."""
        if events:
            self.dropped[reason] = self.dropped.get(reason, 0) + events

    def discard(self, cursor: Cursor) -> None:
        """Fold a cursor's segment that was settled as a whole, now or when it can be had; under the lock."""
        self.open.add(cursor)
        self.done.append(cursor)
        self.fold_done()

    def fold_done(self) -> None:
        """Fold what is fully settled; what cannot be folded now stays for the next time."""
        with self.lock:
            done, self.done = self.done, []
            for cursor in done:
                try:
                    if cursor.alive is not None and cursor.alive():
                        self.finished.add(cursor.name)  # its writer folds it, and takes its count from it
                        self._let_go(cursor)
                        continue
                    outcomes, retry = cursor.outcomes(), cursor.header.retry
                    if totals.fold(self.folder, cursor.path, cursor.ordinal, outcomes, retry=retry):
                        self.folds += 1
                        self._let_go(cursor)
                        continue
                except (OSError, ValueError) as error:
                    self.emit(Trouble("journal", f"{cursor.path} cannot be folded: {error}"))
                self.done.append(cursor)

    def _let_go(self, cursor: Cursor) -> None:
        self.open.discard(cursor)
        self.purged.forget(cursor.name)
        cursor.close()

    def unread(self) -> int:
        """Return how many own events were not read yet; under the lock."""
        return sum(
            sum(writer.count for writer in list(lane.own))
            + sum(cursor.unread() for cursor in lane.cursors if not cursor.adopted)
            for lane in list(self.lanes.values())
        )

    def backlog(self) -> bool:
        """Tell whether anything here is not settled yet."""
        with self.lock:
            return self.in_flight > 0 or self.waiting > 0 or self.unread() > 0

    def follows(self) -> bool:
        """Tell whether a process that only stores may still append to what was adopted here."""
        with self.lock:
            return any(cursor.adopted and cursor.end is None and not cursor.header.sender for cursor in self.open)

    def pending(self, url: str) -> int:
        """See Queue.pending."""
        lane = self.lanes.get(url)
        if lane is None:
            return 0
        with self.lock:
            due = len(lane.again) if lane.again and lane.again[0][0] <= self.clock.monotonic() else 0
            own = sum(writer.count for writer in list(lane.own))
            opened = sum(max(cursor.unread(), cursor.adopted and cursor.has_more()) for cursor in lane.cursors)
            return due + own + opened

    def next_due_s(self) -> float | None:
        """See Queue.next_due_s."""
        with self.lock:
            firsts = [lane.again[0][0] for lane in list(self.lanes.values()) if lane.again]
        return max(0.0, min(firsts) - self.clock.monotonic()) if firsts else None

    def void(self, writer: SegmentWriter, ordinals: Sequence[int]) -> None:
        """Settle own events as never put, but for those that are in hand already; under the store's lock."""
        with self.lock:
            cursor = next((one for one in self.open if one.name == writer.name), None)
            if cursor is not None:
                cursor.fresh = False
                ordinals = [one for one in ordinals if one >= cursor.ordinal]
            self.voided.add(writer, ordinals)

    def count_passed(self) -> tuple[int, int]:
        """Return how many events are void, and how many, purged ones too, are to be passed over yet; under the lock."""
        if not self.voided and not self.purged:
            return 0, 0
        read_to = {writer.name: 0 for lane in self.lanes.values() for writer in list(lane.own)}
        read_to |= {one.name: one.ordinal for one in list(self.open)}
        voided, ahead = self.voided.count(read_to)
        return voided, ahead + self.purged.count(read_to)[1]

    def absorb(self, name: str, outcomes: dict[Outcome, int]) -> None:
        """Take over what others settled of an own segment; under the lock."""
        self.delivered += outcomes.get(Outcome.DELIVERED, 0)
        self.dead += outcomes.get(Outcome.DEAD, 0)
        for outcome, reason in DROPPED.items():
            self.lose(reason, outcomes.get(outcome, 0))
        self.lose("purged", -self.purged.forget(name))  # counted when they were

    def close(self) -> None:
        """Let every claim go; nothing is handed out any more."""
        with self.lock:
            self.closed = True
            for cursor in list(self.open):
                self._let_go(cursor)
