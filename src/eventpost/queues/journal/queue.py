"""JournalQueue: the queue that survives its process.  See the package's docstring for the theory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal, get_args

from ...clock import Clock, SystemClock
from ...event import Event
from ...sender.primitives import is_mine
from ...watch.signals import Damaged, Signal, Trouble
from ..protocol import Answer, Durability, Lease, Overflow, QueueStats
from .bounds import DEAD_AGE_MAX_S, DEAD_BYTES_MAX, Bounds
from .claims import Claims
from .count import Count
from .cursor import Cursor, JournalLease
from .dead import DeadWriter
from .disk import Disk
from .erasing import Erasing
from .expiry import Expiry
from .folder import Folder
from .keeper import Keeper
from .orphans import Adopt, Orphans
from .store import SEGMENT_BYTES_MIN, Store

_DEAD_RETRY_S = 60.0
_REAPED_MAX = 2
"""Segments that a put folds when it begins one: more than come, and few enough that the put does not notice."""


class JournalQueue:
    """A durable queue in a folder of files; shared by any number of processes on one machine.

    Args:
        path: The folder; made (mode 0700) if it is not there.  Resolved once, here; ``~`` is the home folder.
        durability: What this queue's puts survive; another process's on the same folder, what that one says.  ``"os"``:
            any end of the process, kill -9 too, but not of the kernel or the power: these can cost what was not synced,
            the last ``sync_interval_s`` where this process sends and lives; where it only stores, or has just died,
            what the kernel had not yet written by itself (some 30 s).  ``"fsync"``: power loss, too.
        bytes_max: Bound on the folder's segments, in bytes; checked when a segment is begun, so every writer may exceed
            it by what it has open.
        overflow: What a put does at the bound: ``"refuse"`` raises QueueFull, ``"drop_oldest"`` drops whole segments,
            counted event by event, ``"block"`` waits up to ``block_timeout_s`` and then raises QueueFull.
        block_timeout_s: See ``overflow``.
        dead_bytes_max: Bound on dead letters, in bytes, and another on what is set aside in ``bad/``; None: no bound.
        dead_age_max_s: Age at which a dead letter is dropped, in seconds; None: never.  Both bounds are the folder's:
            who names one notes it there for all processes, the last one wins; who names none goes by what is noted.
        segment_bytes_max: Size to which segments grow, in bytes; the first ones are smaller.
        sync_interval_s: How often the sender's thread syncs at ``"os"``, in seconds; 0: never.
        scan_interval_s: How often the elected process looks for what others left, in seconds.  Once it has found a
            process that only stores, it looks for what that one puts four times a second.
        adopt: ``"elected"``: one of the processes adopts; ``"always"``: this one does, at once (a sender of its own);
            ``"never"``: this one does not.
        group: A group's name or number that shares the folder (folders 2770, files 0660); None: private to the user.
        allow_network_fs: Do not refuse a network file system.
        disk: The object through which files are reached; one for each queue, for it knows what a fork must close.
        clock: Time.

    Raises:
        JournalUnusable: the folder can't be used; the message names the remedy.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        durability: Literal["os", "fsync"] = "os",
        bytes_max: int = 4 << 30,
        overflow: Overflow = "refuse",
        *,
        block_timeout_s: float = 1.0,
        dead_bytes_max: int | None = DEAD_BYTES_MAX,
        dead_age_max_s: float | None = DEAD_AGE_MAX_S,
        segment_bytes_max: int = 8 << 20,
        sync_interval_s: float = 1.0,
        scan_interval_s: float = 5.0,
        adopt: Adopt = "elected",
        group: str | int | None = None,
        allow_network_fs: bool = False,
        disk: Disk | None = None,
        clock: Clock | None = None,
    ) -> None:
        _one_of("durability", durability, ("os", "fsync"))
        _one_of("overflow", overflow, get_args(Overflow))
        _one_of("adopt", adopt, get_args(Adopt))
        _at_least("bytes_max", bytes_max, 4 * SEGMENT_BYTES_MIN)
        _at_least("segment_bytes_max", segment_bytes_max, SEGMENT_BYTES_MIN)
        _at_least("block_timeout_s", block_timeout_s, 0)
        _at_least("sync_interval_s", sync_interval_s, 0)
        _at_least("scan_interval_s", scan_interval_s, 0.01)
        _at_least("dead_bytes_max", dead_bytes_max, 1)
        _at_least("dead_age_max_s", dead_age_max_s, 0)
        self.emit: Callable[[Signal], None] = _nobody
        self.clock: Clock = clock or SystemClock()
        self._signals: deque[Signal] = deque()
        self._durability: Durability = durability
        self.overflow: Overflow = overflow
        self.folder = Folder(path, disk=disk, gid=_gid(group), allow_network_fs=allow_network_fs)
        self._claims = Claims(self.folder, self.clock, on_damage=self._damaged, emit=self._tell)
        self._store = Store(
            self.folder, self.clock, durable=durability == "fsync", bytes_max=bytes_max,
            segment_bytes_max=min(segment_bytes_max, bytes_max // 4), overflow=overflow,
            block_timeout_s=block_timeout_s, reap=self._reap, claims=self._claims,
            make_room=self._make_room,
        )  # fmt: skip
        self._dead = DeadWriter(
            self.folder, self.clock, durable=durability == "fsync",
            begun=self._store.remember_unsynced,
        )  # fmt: skip
        self._count = Count(
            self.folder, self.clock, store=self._store, claims=self._claims, dead_writer=self._dead, emit=self._tell
        )
        self._erasing = Erasing(self.folder, self._claims, emit=self._tell)
        self._orphans = Orphans(
            self.folder, self.clock, claims=self._claims, adopt=adopt, own_name=self._store.own_name,
            emit=self._tell, on_damage=self._damaged, erasing=self._erasing,
        )  # fmt: skip
        self._expiry = Expiry(
            self.folder, self.clock, dead_writer=self._dead, bounds=Bounds(dead_bytes_max, dead_age_max_s),
            emit=self._tell,
        )  # fmt: skip
        self._keeper = Keeper(
            self.folder, self.clock, store=self._store, claims=self._claims, count=self._count, orphans=self._orphans,
            expiry=self._expiry, erasing=self._erasing, sync_interval_s=sync_interval_s,
            scan_interval_s=scan_interval_s, emit=self._tell,
        )  # fmt: skip
        self._last: QueueStats | None = None

    def _make_room(self, wanted: int) -> bool:
        return self._keeper.make_room(wanted)

    def _reap(self) -> None:
        try:
            self._count.reap_own(oldest=_REAPED_MAX)
        except (OSError, ValueError) as error:  # what is left lying there refuses no put
            self._tell(Trouble("journal", f"{self.folder.path} cannot be tidied: {error}"))

    def put(self, events: Sequence[Event]) -> None:
        """See Queue.put."""
        try:
            self._store.put(events)
        finally:
            if self._signals:
                self._say()

    @property
    def path(self) -> str:
        """The folder."""
        return self.folder.path

    @property
    def durability(self) -> Durability:
        """See Queue.durability."""
        return self._durability

    @property
    def lease_s(self) -> None:
        """A lease lasts as long as this process holds it."""
        return

    @property
    def sends(self) -> bool:
        """Whether this process delivers what it stores; False leaves that to another.  Set before the first put."""
        return self._store.sends

    @sends.setter
    def sends(self, value: bool) -> None:
        self._store.sends = value

    @property
    def retry(self) -> bool:
        """Whether what is put was accepted before (dead letters that are put back).  Set before the first put."""
        return self._store.retry

    @retry.setter
    def retry(self, value: bool) -> None:
        self._store.retry = value

    def _tell(self, signal: Signal) -> None:
        self._signals.append(signal)

    def _say(self) -> None:
        """Tell what happened, once no lock is held: an observer may call anything, and wait for anybody."""
        if is_mine(self._claims.lock) or is_mine(self._store.lock):
            return  # whoever holds it says it
        while self._signals:
            try:
                signal = self._signals.popleft()
            except IndexError:  # another thread said it
                return
            self.emit(signal)

    def _damaged(self, cursor: Cursor, at: int, data: bytes, lost: int, why: str) -> None:
        path = self.folder.set_aside(cursor.name, at, data)
        if cursor.adopted:
            self._claims.adopted += lost
        self._claims.lose("damaged", lost)
        self._tell(Damaged(path or cursor.path, at, len(data), why))
        with suppress(OSError, ValueError):  # once a minute, it is tried anyway
            self._expiry.expire_bad()

    def lanes(self) -> Sequence[str]:
        """See Queue.lanes."""
        known = self._claims.lanes.copy()  # in one step: a list of pairs may be interrupted by a collection, and a put
        return [url for url, lane in known.items() if lane.own or lane.cursors or lane.again]

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """See Queue.claim."""
        leases = self._claims.claim(lane, events_max, bytes_max)
        if self._signals:
            self._say()
        return leases

    def pending(self, lane: str) -> int:
        """See Queue.pending."""
        return self._claims.pending(lane)

    def next_due_s(self) -> float | None:
        """See Queue.next_due_s."""
        return self._claims.next_due_s()

    def ack(self, leases: Sequence[Lease]) -> None:
        """See Queue.ack."""
        self._claims.ack(leases)

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """See Queue.release."""
        self._claims.release(leases, delay_s)

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """See Queue.bury.  If the letter can't be written, the event goes back to the queue for a minute."""
        with self._claims.lock:
            live = [lease for lease in leases if isinstance(lease, JournalLease) and lease.live]
            if live and not self._claims.closed:
                self._bury(live, reason, answer)
        self._say()

    def _bury(self, live: list[JournalLease], reason: str, answer: Answer | None) -> None:
        presence = self._store.presence
        try:
            presence.enter()
            if self._store.durable:
                presence.sync_path()
            for lease in live:
                self._dead.write(lease, reason, answer, presence.name)
                try:
                    self._claims.settle_dead([lease])
                except OSError:
                    self._dead.take_back()
                    raise
        except OSError as error:
            self._claims.release(live, _DEAD_RETRY_S)
            self._tell(Trouble("journal", f"a dead letter can't be stored in {self.folder.dead}: {error.strerror}"))

    def tend(self) -> float | None:
        """See Queue.tend."""
        if self._claims.closed:
            return None
        try:
            return self._keeper.tend()
        finally:
            self._store.interruptions.do_what_is_left()
            self._say()

    @property
    def recalls(self) -> bool:
        """See Recalls: a purge waits for it."""
        return self._erasing.recalls

    def recalled(self) -> None:
        """See Recalls."""
        self._erasing.look(elected=False)
        self._say()

    def scan(self) -> int:
        """Look for what others left, now; returns how many segments were adopted."""
        adopted = self._orphans.scan()
        self._say()
        return adopted

    def left_to_adopt(self) -> int:
        """Return how many segments of others this process could adopt now and has not: it opens 256 at once."""
        return self._orphans.left_to_adopt()

    def sync(self, timeout_s: float) -> bool:  # noqa: ARG002 - a sync can't be interrupted; the kernel's own limits apply
        """See Queue.sync."""
        try:
            safe = self._store.syncs.sync()
            if not self._store.sends:
                with suppress(OSError, ValueError):  # the next one, or the end, will
                    self._count.reap_own()
        finally:
            self._store.interruptions.do_what_is_left()
            self._say()
        return safe

    def stats(self) -> QueueStats:
        """See Queue.stats."""
        if self._last is not None:
            return self._last
        try:
            return self._count.stats()
        finally:
            self._store.interruptions.do_what_is_left()

    def after_fork_in_child(self) -> None:
        """See Queue.after_fork_in_child."""
        closed = self._last is not None
        self.folder.disk.forget()
        self._store.reset()
        self._claims.reset()
        self._dead.reset()
        self._orphans.elected_fd = -1
        self._orphans.reset()
        self._erasing.reset()
        self._count.reset()
        self._keeper.reset()
        self._signals.clear()
        if closed:
            self._store.closed = self._claims.closed = True
            self._last = QueueStats()

    def close(self, timeout_s: float = 10.0) -> None:  # noqa: ARG002 - nothing here waits for anybody
        """See Queue.close.  What is not delivered stays in the folder, where any sender may take it.

        In a signal handler that interrupts something here, the rest is done when that has ended.
        """
        if self._store.interruptions.nothing_can_end:
            self._store.close_later(self._close)
        else:
            self._close()

    def _close(self) -> None:
        with self._claims.lock, self._store.lock:
            if self._last is not None:
                return
            try:
                self._end()
            except (OSError, ValueError) as error:
                self._tell(Trouble("journal", f"{self.folder.path} could not be left in order: {error}"))
            last = self.stats()
            self._last = replace(last, queued=last.queued + last.in_flight, in_flight=0)
            try:
                # The writer's lock last: while it is held, nobody else reads what we may still have in hand.
                self._claims.close()
                self._orphans.leave()
                self._store.presence.leave(nothing_left=not self._last.queued and not self._last.dead)
            except OSError as error:
                self._tell(Trouble("journal", f"{self.folder.path} could not be left in order: {error}"))
        self._say()

    def _end(self) -> None:
        """Seal what is open, and fold what is settled."""
        try:
            self._store.close()
        finally:
            self._dead.close()
        self._end_own()
        self._claims.fold_done()
        self._count.reap_own_dead()
        if not self._store.sends:
            self._count.reap_own()

    def _end_own(self) -> None:
        """Let readers that stand at the end of a segment see that it is sealed now."""
        for lane in list(self._claims.lanes.values()):
            for cursor in list(lane.cursors):
                if not cursor.adopted and not cursor.unread():
                    self._claims.read_to_end(lane, cursor)

    def __repr__(self) -> str:
        return f"JournalQueue({self.folder.path!r}, durability={self._durability!r})"


def _nobody(signal: Signal) -> None:
    """Hear a signal that nobody listens to."""


def _gid(group: str | int | None) -> int | None:
    if group is None or isinstance(group, int):
        return group
    import grp  # noqa: PLC0415 - POSIX only, like this argument

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"group={group!r}: there is no such group on this machine") from None


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(repr, allowed))}")


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise ValueError(f"{name}={value!r}: must be at least {least}")
