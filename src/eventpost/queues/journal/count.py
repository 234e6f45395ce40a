"""The count, and what it needs to know of own events that are in other hands.

Running totals make up the sum, and no put waits for who reads it: only where puts come in between ten times does it
take the put lock, for some microseconds.  Files are looked at before that, under no lock or the claims' alone: what
others settled of the segments that this process only stores, what became of its dead letters, and, no more often than a
twentieth of the time, how many bytes lie in the folder and how old the oldest event is.

A signal handler may ask in the middle of anything.  Where who has the claims' lock may wait for what it interrupts, it
waits a moment only for that lock, looks at no files, and says what it last said if all it finds is half of a change.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from ...clock import Clock
from ...watch.signals import Signal, Trouble
from ..protocol import QueueStats
from . import format as fmt
from . import totals
from .claims import Claims
from .cursor import Cursor
from .dead import DeadWriter
from .format import DROPPED, Outcome, count_outcomes
from .segment import SegmentWriter
from .store import Store

if TYPE_CHECKING:
    from .folder import Folder

_LOOK_SHARE: Final = 20
_TIME_STEP_NS: Final = 100_000_000
_TORN_MAX: Final = 10
_INTERRUPTING_S: Final = 0.05


class _Seen:
    """Outcomes by segment, and their sum."""

    def __init__(self) -> None:
        self.total: dict[Outcome, int] = {}
        self._by_name: dict[str, dict[Outcome, int]] = {}

    def get(self, name: str) -> dict[Outcome, int]:
        return self._by_name.get(name, {})

    def note(self, name: str, outcomes: dict[Outcome, int]) -> None:
        before = self._by_name.get(name, {})
        for outcome in {*before, *outcomes}:
            self.total[outcome] = self.total.get(outcome, 0) + outcomes.get(outcome, 0) - before.get(outcome, 0)
        self._by_name[name] = outcomes

    def forget(self, name: str) -> None:
        self.note(name, {})
        del self._by_name[name]  # note() put it there


class Count:
    """The sum of one queue."""

    def __init__(
        self, folder: Folder, clock: Clock, *, store: Store, claims: Claims, dead_writer: DeadWriter,
        emit: Callable[[Signal], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file."""
        self.folder = folder
        self.clock = clock
        self.store = store
        self.claims = claims
        self.dead_writer = dead_writer
        self.emit = emit
        self.reset()

    def reset(self) -> None:
        """Start from nothing."""
        self._others = _Seen()
        """What others settled of own segments that are still there; under the claims' lock."""
        self._dead = _Seen()
        """What became of own dead letters that are still there; likewise."""
        self._dead_changed_ns: dict[str, int] = {}
        self._looked_at, self._look_s = -inf, 0.0
        self._stored_bytes = 0
        self._oldest_at_s: int | None = None
        self._said = QueueStats()

    def stats(self) -> QueueStats:
        """Return the count of one instant."""
        store, claims = self.store, self.claims
        if store.interruptions.may_be_waited_for:
            return self._stats_interrupting()
        self._look_at_files()
        with claims.lock:
            stats = self._read_whole()
            if not _closes(stats):
                with store.lock:
                    stats = self._read_whole()
        self._said = stats
        return stats

    def _stats_interrupting(self) -> QueueStats:
        lock = self.claims.lock
        had = lock.acquire(timeout=_INTERRUPTING_S)
        try:
            stats = self._read_whole()
        finally:
            if had:
                lock.release()
        return stats if _closes(stats) else self._said

    def _read_whole(self) -> QueueStats:
        """Read again where a put came in between, on another thread or in a signal handler on this one."""
        stats = self._read()
        for _ in range(_TORN_MAX):
            if _closes(stats):
                break
            stats = self._read()
        return stats

    def _read(self) -> QueueStats:
        store, claims = self.store, self.claims
        settled = {} if store.sends else self._others.total
        voided, passed_ahead = claims.count_passed()
        moved = self._dead.total
        dropped = dict(claims.dropped)
        for outcome, reason in DROPPED.items():
            more = settled.get(outcome, 0) + moved.get(outcome, 0)
            if more:
                dropped[reason] = dropped.get(reason, 0) + more
        queued = claims.unread() + claims.waiting - (sum(settled.values()) if settled else passed_ahead)
        at_s = self._oldest_at_s
        return QueueStats(
            accepted=store.accepted() - voided + claims.adopted, adopted=claims.adopted,
            delivered=claims.delivered + settled.get(Outcome.DELIVERED, 0), queued=queued,
            in_flight=claims.in_flight,
            dead=claims.dead + settled.get(Outcome.DEAD, 0) - sum(moved.get(one, 0) for one in DROPPED),
            dropped=dropped, stored_bytes=self._stored_bytes,
            oldest_age_s=None if at_s is None else max(0.0, self.clock.time() - at_s),
        )  # fmt: skip

    def _look_at_files(self) -> None:
        if not self.store.sends:
            self._look_at_others()
        if self.dead_writer.names:
            self._look_at_dead()
        began = self.clock.monotonic()
        if began - self._looked_at < _LOOK_SHARE * self._look_s:
            return
        try:
            self._stored_bytes = self.folder.stored_bytes()
        except OSError:
            self._stored_bytes = 0  # a folder that can't be listed any more: the count matters more
        try:
            # Of what a process only stores, others' outcomes would tell which is the oldest: too dear for a look.
            self._oldest_at_s = self._find_oldest() if self.store.sends else None
        except (OSError, ValueError):
            self._oldest_at_s = None
        self._looked_at = self.clock.monotonic()
        self._look_s = self._looked_at - began

    def _find_oldest(self) -> int | None:
        """Return when the oldest event to be claimed here was put, in seconds since the epoch."""
        found: list[int | None] = []
        with self.claims.lock:
            for lane in list(self.claims.lanes.values()):
                found += [self._next_at_s(cursor) for cursor in lane.cursors]
                waiting = (again for _, _, again in lane.again if again.lease is None)
                # Not of one that a late answer has settled: its entry is there until its time comes.
                found += [again.at_s for again in waiting if not again.cursor.is_settled(again.ordinal)]
                found += [writer.header.created_ms // 1000 for writer in list(lane.own)[:1] if writer.count]
        return min((at_s for at_s in found if at_s is not None), default=None)

    def _next_at_s(self, cursor: Cursor) -> int | None:
        # By a frame's head alone: a window of each of some hundred segments would stay in memory.
        if not cursor.unread() and not (cursor.adopted and cursor.has_more()):
            return None
        return fmt.frame_at_s(self.folder.disk.read(cursor.fd, fmt.FRAME_HEAD_BYTES, cursor.at), 0)

    def _look_at_others(self) -> None:
        for lane in list(self.claims.lanes.values()):
            for writer in list(lane.own):
                if writer.sealed and sum(self._others.get(writer.name).values()) >= writer.count:
                    continue
                found = self._settled_by_others(writer)
                with self.claims.lock:
                    if found is not None and writer in lane.own:
                        self._others.note(writer.name, found)

    def _settled_by_others(self, writer: SegmentWriter) -> dict[Outcome, int] | None:
        """Return the outcomes of an own segment; None if it can't be read, or is gone."""
        disk = self.folder.disk
        try:
            fd = disk.open(writer.path, write=False)
            try:
                return count_outcomes(disk.read(fd, writer.count, writer.header.outcomes_at))
            finally:
                disk.close(fd)
        except OSError:
            return None

    def _look_at_dead(self) -> None:
        for name in list(self.dead_writer.names):
            path = f"{self.folder.dead}/{name}"
            try:
                changed_ns = self.folder.disk.changed_ns(path)
                # A file's time moves in steps of some milliseconds: two changes in one step look like one.
                if changed_ns == self._dead_changed_ns.get(name, 0) < self.clock.time() * 1e9 - _TIME_STEP_NS:
                    continue
                found = self.folder.read_outcomes(path)
            except (OSError, ValueError):
                continue
            with self.claims.lock:
                if found is not None and name in self.dead_writer.names:
                    self._dead.note(name, found[1])
                    self._dead_changed_ns[name] = changed_ns

    def forget_own(self, name: str) -> bool:
        """Take an own segment that was not opened out of the lanes; False: it is not there.  Under the claims' lock."""
        for lane in list(self.claims.lanes.values()):
            for writer in list(lane.own):
                if writer.name == name:
                    lane.own.remove(writer)
                    self._others.forget(name)
                    return True
        return False

    def reap_own(self, *, bytes_wanted: int | None = None, oldest: int | None = None) -> int:
        """Fold own sealed segments that others settled, and take their outcomes into the own count; returns the bytes.

        ``bytes_wanted``: no more than frees so many.  ``oldest``: of each lane no more than so many, and these only
        while they are settled.  Nothing is done where this thread may be waited for.  Raises OSError.
        """
        if self.store.interruptions.may_be_waited_for:
            return 0
        freed = 0
        with self.claims.lock:
            for lane in list(self.claims.lanes.values()):
                for place, writer in enumerate(list(lane.own)):
                    if (bytes_wanted is not None and freed >= bytes_wanted) or place == oldest:
                        break
                    size = self._reap(writer) if writer.sealed else 0
                    if not size and oldest is not None:
                        break
                    freed += size
        return freed

    def _reap(self, writer: SegmentWriter) -> int:
        """Fold a sealed segment if others settled all of it; returns its bytes, 0 if it stays."""
        size = self.folder.disk.size(writer.path)
        found = self._settled_by_others(writer)
        if not size:
            known = self._others.get(writer.name)
            if self.forget_own(writer.name):
                if known:  # else all that was settled of it was purged here: counted then, and not to be counted again
                    self.claims.absorb(writer.name, known)
                self.claims.vanished(writer, sum(known.values()) - known.get(Outcome.VOID, 0))
            return 1
        if found is None or sum(found.values()) < writer.count:
            return 0
        self._others.note(writer.name, found)
        if not totals.fold(self.folder, writer.path, writer.count, found, retry=writer.header.retry):
            return 0
        self.claims.folds += 1
        if self.forget_own(writer.name):
            self.claims.absorb(writer.name, found)
        return size

    def reap_own_dead(self) -> None:
        """Fold own sealed segments of dead letters that are all settled, and count what became of them."""
        with self.claims.lock:
            for name in list(self.dead_writer.names):
                path = f"{self.folder.dead}/{name}"
                try:
                    found = self.folder.read_outcomes(path)
                    if found is not None:
                        header, outcomes = found
                        events = header.sealed_events
                        if events is None or sum(outcomes.values()) < events:
                            continue
                        if not totals.fold(self.folder, path, events, outcomes, retry=False, dead=True):
                            continue
                        for outcome, reason in DROPPED.items():
                            self.claims.dead -= outcomes.get(outcome, 0)
                            self.claims.lose(reason, outcomes.get(outcome, 0))
                except (OSError, ValueError) as error:
                    self.emit(Trouble("journal", f"{path} cannot be folded: {error}"))
                    continue
                self.dead_writer.names.remove(name)
                self._dead.forget(name)
                self._dead_changed_ns.pop(name, None)


def _closes(stats: QueueStats) -> bool:
    settled = stats.delivered + stats.dead + sum(stats.dropped.values())
    return stats.accepted == settled + stats.queued + stats.in_flight
