"""What is done now and then: look for what others left, sync in the background, expire the dead, make room.

One process of those that share a folder is elected (a flock) to look for orphans, so that the cost of doing nothing
does not grow with workers times segments; a sender of its own (``eventpost send``) always looks.  A segment may be
adopted once its writer is dead, or if that writer does not send; never otherwise, so no event is leased to two
living processes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

from ...clock import Clock
from ...watch.signals import Adopted, Damaged, Dropped, Signal, Trouble
from . import dead
from .claims import Claims
from .folder import writer_of
from .format import DROPPED, BadHeader, Kind, NewerFormat, Outcome
from .segment import Cursor, SegmentWriter, count_outcomes
from .store import Store

if TYPE_CHECKING:
    from .folder import Folder

Adopt = Literal["elected", "always", "never"]
_ADOPTED_MAX: Final = 256
_SYNC_FILES_MAX: Final = 8
_WATCH_INTERVAL_S: Final = 0.01
_DEAD_INTERVAL_S: Final = 60.0
_ALIVE_CACHE_S: Final = 0.5


class Keeper:
    """Periodic work on a folder, on behalf of one queue; on the sender's thread, but for ``make_room``."""

    def __init__(
        self, folder: Folder, clock: Clock, *, store: Store, claims: Claims, adopt: Adopt, sync_interval_s: float,
        scan_interval_s: float, dead_writer: dead.DeadWriter, dead_bytes_max: int | None,
        dead_age_max_s: float | None, emit: Callable[[Signal], None],
        on_damage: Callable[[Cursor, int, bytes, int, str], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file."""
        self.folder = folder
        self.clock = clock
        self.store = store
        self.claims = claims
        self.adopt = adopt
        self.sync_interval_s = sync_interval_s
        self.scan_interval_s = scan_interval_s
        self.dead_writer = dead_writer
        self.dead_bytes_max = dead_bytes_max
        self.dead_age_max_s = dead_age_max_s
        self.emit = emit
        self.on_damage = on_damage
        self.elected_fd = -1
        self.reset()

    def reset(self) -> None:
        """Everything is due now."""
        self._sync_at = self._scan_at = self._watch_at = self._dead_at = 0.0
        self._changed_ns = -1
        self._alive: dict[str, tuple[float, bool]] = {}
        self._left_alone: set[str] = set()
        self._syncing: list[SegmentWriter] = []
        self._dead_seen: dict[str, tuple[int, dict[Outcome, int]]] = {}

    def tend(self) -> float | None:
        """Do what is due; return the seconds until the next."""
        now = self.clock.monotonic()
        if self.claims.done:
            self.claims.fold_done()
        nexts: list[float] = []
        if not self.store.durable and self.sync_interval_s > 0:
            if now >= self._sync_at and not self._syncing:
                self._syncing = self.store.unsynced()
                self._sync_at = now + self.sync_interval_s
            some, self._syncing = self._syncing[:_SYNC_FILES_MAX], self._syncing[_SYNC_FILES_MAX:]
            if some and not self.store.sync(some):
                self.emit(Trouble("journal", f"{self.folder.path} cannot be synced"))
            if self._syncing:  # the rest of a backlog at once, but after what else the sender has to do
                nexts.append(now)
            elif some or self.store.unsynced():
                nexts.append(self._sync_at)
        if self.adopt != "never" or self.store.presence_fd >= 0:
            if now >= self._scan_at:
                self._scan_at = now + self.scan_interval_s
                self._look_after_own_lock()
                self.scan()
            nexts.append(self._scan_at)
        if self.adopt == "always":
            if now >= self._watch_at:
                self._watch_at = now + _WATCH_INTERVAL_S
                if self.folder.disk.changed_ns(self.folder.segments) != self._changed_ns:
                    self.scan()
            nexts.append(self._watch_at)
        if now >= self._dead_at and (self.elected_fd >= 0 or self.dead_writer.names):
            self._dead_at = now + _DEAD_INTERVAL_S
            if self.elected_fd >= 0:
                self.expire_dead()
            self.reap_own_dead()
        return max(0.0, min(nexts) - now) if nexts else None

    def _look_after_own_lock(self) -> None:
        """Make the own lock anew if its name is gone (a cleaner of temporary files): without it we look dead."""
        if self.store.presence_fd >= 0:
            try:
                self.store.enter()
            except OSError as error:
                self.emit(Trouble("journal", f"{self.folder.path} cannot be used any more: {error.strerror}"))

    def _elect(self) -> bool:
        if self.elected_fd >= 0 and not self.folder.disk.still_named(
            self.elected_fd, f"{self.folder.path}/scanner.lock"
        ):
            self.leave()  # the folder was made anew: others can't see this lock
        if self.adopt == "always":
            if self.elected_fd < 0:
                self._try_election()
            return True
        return self.elected_fd >= 0 or self._try_election()

    def _try_election(self) -> bool:
        path = f"{self.folder.path}/scanner.lock"
        fd = self.folder.create_lock(path)
        if self.folder.disk.lock(fd) and self.folder.disk.still_named(fd, path):
            self.elected_fd = fd
            return True
        self.folder.disk.close(fd)
        return False

    def scan(self) -> int:
        """Adopt what may be adopted; returns how many segments were."""
        adopted = 0
        try:
            if self.adopt == "never" or self.claims.closed or not self._elect():
                return 0
            self._changed_ns = self.folder.disk.changed_ns(self.folder.segments)
            names = self.folder.segment_names(self.folder.segments)
            self._forget_what_is_gone(names)
            for name in self._not_ours(names):
                if len(self.claims.open) >= _ADOPTED_MAX:
                    break
                try:
                    adopted += self._adopt(name, writer_of(name))
                except OSError as error:  # one file that can't be had must not stop the others
                    self.emit(Trouble("journal", f"{self.folder.segments}/{name} cannot be adopted: {error.strerror}"))
            self.folder.sweep()
        except OSError as error:
            self.emit(Trouble("journal", f"{self.folder.path} cannot be looked through: {error.strerror}"))
        if self.claims.closed:
            self.leave()  # closed meanwhile, on another thread
        return adopted

    def _not_ours(self, names: list[str]) -> list[str]:
        """Return those of the segments that this process neither wrote nor holds nor has done with."""
        with self.claims.lock:
            known = {cursor.name for cursor in self.claims.open} | set(self.folder.totals()["folded"])
            finished = self.claims.finished.copy()
        return [
            name for name in names
            if writer_of(name) != self.store.writer_name and name not in known and name not in self._left_alone
            and not (name in finished and self.is_alive(writer_of(name)))
        ]  # fmt: skip

    def left_to_adopt(self) -> int:
        """Return how many segments could be adopted this moment and were not yet.  From any thread.

        There may be more than one process opens at once, and a look may be late.
        """
        disk, left = self.folder.disk, 0
        for name in self._not_ours(self.folder.segment_names(self.folder.segments)):
            path = f"{self.folder.segments}/{name}"
            try:
                found = self.folder.read_outcomes(path)
                if found is None or (found[0].sender and self.folder.is_alive(writer_of(name))):
                    continue
                if found[0].sealed_events is not None and sum(found[1].values()) >= found[0].sealed_events:
                    continue
                fd = disk.open(path)
            except (OSError, ValueError):
                continue  # gone, of a newer format, or damaged: a look deals with it
            try:
                left += disk.lock(fd) and disk.still_named(fd, path)
            except OSError:
                continue
            finally:
                disk.close(fd)
        return left

    def _forget_what_is_gone(self, names: list[str]) -> None:
        there = set(names)
        self._left_alone &= there
        with self.claims.lock:
            self.claims.finished &= there
        writers = {writer_of(name) for name in names}
        self._alive = {writer: looked for writer, looked in self._alive.items() if writer in writers}

    def is_alive(self, writer: str) -> bool:
        """Tell whether a writer lives, from a look that is at most half a second old."""
        now = self.clock.monotonic()
        looked = self._alive.get(writer)
        if looked is None or not looked[1] or now - looked[0] > _ALIVE_CACHE_S:
            looked = self._alive[writer] = (now, self.folder.is_alive(writer))
        return looked[1]

    def _adopt(self, name: str, writer: str) -> int:
        path = f"{self.folder.segments}/{name}"
        alive = self.is_alive(writer)
        disk = self.folder.disk
        try:
            if alive:
                found = self.folder.read_outcomes(path)
                if found is None or found[0].sender:
                    return 0
            fd = disk.open(path)
        except FileNotFoundError:
            return 0
        except NewerFormat as error:
            self._leave_alone(name, str(error))
            return 0
        except (BadHeader, ValueError) as error:
            if not alive:
                self._quarantine(path, str(error))
            return 0
        try:
            mine = disk.lock(fd) and disk.still_named(fd, path)
        except OSError:
            mine = False
        if not mine:
            disk.close(fd)
            return 0
        try:
            cursor = Cursor(disk, path, alive=lambda: self.is_alive(writer), on_damage=self.on_damage, fd=fd)
        except NewerFormat as error:
            disk.close(fd)
            self._leave_alone(name, str(error))
            return 0
        except (OSError, ValueError) as error:
            disk.close(fd)
            if isinstance(error, OSError):
                raise
            self._quarantine(path, str(error))
            return 0
        with self.claims.lock:
            if self.claims.closed:
                cursor.close()
                return 0
            self.claims.finished.discard(name)
            self.claims.add_adopted(cursor)
        self.emit(Adopted(path, max(0, cursor.unread())))
        return 1

    def _leave_alone(self, name: str, why: str) -> None:
        self._left_alone.add(name)
        self.emit(
            Trouble("newer_format", f"{self.folder.segments}/{name} is left alone: {why}; a newer release can send it")
        )

    def _quarantine(self, path: str, why: str) -> None:
        """Put a file whose header can't be read where a person can look at it."""
        target = f"{self.folder.bad}/{path.rsplit('/', 1)[1]}.bad"
        size = self.folder.disk.size(path)
        self.folder.disk.rename(path, target)
        self.emit(Damaged(target, 0, size, why))

    def expire_dead(self) -> None:
        """Drop the oldest dead letters beyond the bounds; a living writer folds its own, and counts them."""
        folder = self.folder
        left: dict[str, int] = {}
        for name in folder.segment_names(folder.dead):
            try:
                if not self._is_settled(name) and not self._expire_old(name):
                    left[name] = folder.disk.size(f"{folder.dead}/{name}")
                else:
                    self.fold_dead(name)
            except BlockingIOError:
                continue  # somebody retries or discards its letters: next time
            except (OSError, ValueError) as error:  # one file that can't be read must not keep the others
                self.emit(Trouble("journal", f"dead letters in {folder.dead}/{name} cannot be expired: {error}"))
        total = sum(left.values())
        for name, size in left.items():
            if self.dead_bytes_max is None or total <= self.dead_bytes_max:
                break
            with suppress(OSError, ValueError):
                if self._expire(name, None):
                    total -= size
                    self.fold_dead(name)

    def _is_settled(self, name: str) -> bool:
        found = self.folder.read_outcomes(f"{self.folder.dead}/{name}")
        if found is None:
            return True
        return found[0].sealed_events is not None and sum(found[1].values()) >= found[0].sealed_events

    def _expire_old(self, name: str) -> bool:
        """Drop the letters of a segment that are too old; tells whether all of it is settled then."""
        if self.dead_age_max_s is None:
            return False
        oldest_s = self.clock.time() - self.dead_age_max_s
        if int(name.split("-", 1)[0]) / 1000 >= oldest_s:
            return False  # begun after that
        old, young = [], 0
        for ordinal, letter in dead.letters(self.folder, name):
            if letter.at_s < oldest_s:
                old.append(ordinal)
            else:
                young += 1
        if not young and not self.folder.is_alive(writer_of(name)):
            return self._expire(name, None)  # what can't be read goes with the rest
        if old:
            self._expire(name, old)
        return self._is_settled(name)

    def _expire(self, name: str, ordinals: list[int] | None) -> bool:
        """Drop these letters of a segment (None: all, but not where its writer still writes); tells whether it did."""
        with dead.held(self.folder, name) as segment:
            if ordinals is None:
                if segment.header.sealed_events is None and self.folder.is_alive(writer_of(name)):
                    return False
                expired = segment.settle(segment.all_ordinals(), Outcome.EXPIRED)
            else:
                expired = segment.settle(ordinals, Outcome.EXPIRED)
        if expired and name not in self.dead_writer.names:  # what is in the own count, the sender tells from it
            self.emit(Dropped("dead_expired", expired, "dead letters that another process left"))
        return True

    def fold_dead(self, name: str) -> bool:
        """Fold a dead segment whose writer is gone and whose letters are all settled; tells whether it is gone."""
        if self.folder.is_alive(writer_of(name)):
            return False
        try:
            with dead.held(self.folder, name) as segment:
                ordinals = segment.all_ordinals()
                if segment.unsettled(ordinals):
                    return False
                outcomes = count_outcomes(self.folder.disk.read(segment.fd, len(ordinals), segment.header.outcomes_at))
                return self.folder.fold(segment.path, len(ordinals), outcomes, retry=False, dead=True)
        except FileNotFoundError:
            return True

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
                        if not self.folder.fold(path, events, outcomes, retry=False, dead=True):
                            continue
                        for outcome, reason in DROPPED.items():
                            self.claims.dead -= outcomes.get(outcome, 0)
                            self.claims.lose(reason, outcomes.get(outcome, 0))
                except (OSError, ValueError) as error:
                    self.emit(Trouble("journal", f"{path} cannot be folded: {error}"))
                    continue
                self.dead_writer.names.remove(name)
                self._dead_seen.pop(name, None)

    def make_room(self, wanted: int) -> bool:
        """Free what the folder's bound needs for a new segment: settled ones first, then what overflow allows."""
        self.claims.fold_done()
        if not self.store.sends:
            self.reap_own()
        excess = self.folder.stored_bytes() + wanted - self.store.bytes_max
        return excess <= 0 or (self.store.overflow == "drop_oldest" and self._drop_oldest(excess))

    def _drop_oldest(self, excess: int) -> bool:
        with self.claims.lock:
            held = {cursor.name for cursor in self.claims.open}
            for name in self.folder.segment_names(self.folder.segments):
                if excess <= 0:
                    break
                if name not in held:
                    excess -= self._drop_segment(name)
            return excess <= 0

    def _drop_segment(self, name: str) -> int:
        """Drop what is unsettled in one sealed segment that nobody holds; returns the bytes that this frees."""
        writer, path, disk = writer_of(name), f"{self.folder.segments}/{name}", self.folder.disk
        own = writer == self.store.writer_name
        if not own and self.folder.is_alive(writer):
            return 0
        try:
            fd = disk.open(path)
        except OSError:
            return 0
        try:
            if not disk.lock(fd) or not disk.still_named(fd, path):
                raise BlockingIOError(errno.EAGAIN, "somebody sends it", path)
            cursor = Cursor(disk, path, alive=lambda: False, on_damage=lambda *_: None, fd=fd)
        except (OSError, ValueError):
            disk.close(fd)
            return 0
        count = cursor.header.sealed_events
        if count is None:
            if own:  # still written to
                cursor.close()
                return 0
            frames = (one for _, one, _ in dead.walk(disk.read(fd, disk.size(path), 0), cursor.header.records_at))
            count = 1 + max((one.ordinal for one in frames if one is not None and one.kind == Kind.EVENT), default=-1)
        before, size = cursor.outcomes(), disk.size(path)
        dropped = cursor.mark(range(count), Outcome.OVERFLOW)
        if own:
            self._forget_own(name)
            self.claims.absorb(before)
        else:
            self.claims.adopted += dropped
        self.claims.lose("overflow", dropped)
        cursor.ordinal = count
        self.claims.discard(cursor)
        return size

    def _forget_own(self, name: str) -> None:
        for lane in list(self.claims.lanes.values()):
            for writer in list(lane.own):
                if writer.name == name:
                    lane.own.remove(writer)

    def reap_own(self, *, thorough: bool = True) -> None:
        """Fold own sealed segments that others settled, and take their outcomes into the own count.

        Without ``thorough`` it looks at each lane's oldest only.
        """
        with self.claims.lock:
            for lane in list(self.claims.lanes.values()):
                for writer in list(lane.own):
                    found = self._settled_by_others(writer) if writer.sealed else None
                    if found is None or sum(found.values()) < writer.count:
                        if thorough:
                            continue
                        break
                    if self.folder.fold(writer.path, writer.count, found, retry=writer.header.retry):
                        lane.own.remove(writer)
                        self.claims.absorb(found)

    def _settled_by_others(self, writer: SegmentWriter) -> dict[Outcome, int] | None:
        found = self.folder.read_outcomes(writer.path)
        return None if found is None else found[1]

    def settled_by_others(self) -> dict[Outcome, int]:
        """Count what others settled of own segments that are still there; under the claims' lock."""
        total: dict[Outcome, int] = {}
        for lane in list(self.claims.lanes.values()):
            for writer in list(lane.own):
                for outcome, count in (self._settled_by_others(writer) or {}).items():
                    total[outcome] = total.get(outcome, 0) + count
        return total

    def own_dead(self) -> dict[Outcome, int]:
        """Count what became of the dead letters that this process parked."""
        total: dict[Outcome, int] = {}
        for name in self.dead_writer.names:
            path = f"{self.folder.dead}/{name}"
            changed_ns = self.folder.disk.changed_ns(path)
            seen = self._dead_seen.get(name)
            if seen is None or seen[0] != changed_ns:
                found = self.folder.read_outcomes(path)
                seen = self._dead_seen[name] = (changed_ns, found[1] if found else {})
            for outcome, count in seen[1].items():
                if outcome in DROPPED:
                    total[outcome] = total.get(outcome, 0) + count
        return total

    def leave(self) -> None:
        """Give up the election."""
        fd, self.elected_fd = self.elected_fd, -1
        if fd >= 0:
            self.folder.disk.close(fd)
