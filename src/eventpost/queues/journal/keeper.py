"""What is done now and then: look for what others left, sync in the background, expire the dead, make room.

One process of those that share a folder is elected (a flock) to look for orphans, so that the cost of doing nothing
does not grow with workers times segments; a sender of its own (``eventpost send``) always looks.  A segment may be
adopted once its writer is dead, or if that writer does not send; never otherwise, so no event is leased to two
living processes.
"""

from __future__ import annotations

from collections.abc import Callable
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
_WATCH_INTERVAL_S: Final = 0.02
_DEAD_INTERVAL_S: Final = 60.0
_ALIVE_CACHE_S: Final = 0.5


class Keeper:
    """Periodic work on a folder, on behalf of one queue; on the sender's thread, but for ``make_room``."""

    def __init__(
        self, folder: Folder, clock: Clock, *, store: Store, claims: Claims, adopt: Adopt, sync_interval_s: float,
        scan_interval_s: float, dead_bytes_max: int | None, dead_age_max_s: float | None, emit: Callable[[Signal],
        None], on_damage: Callable[[Cursor, int, bytes, int, str], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file."""
        self.folder = folder
        self.clock = clock
        self.store = store
        self.claims = claims
        self.adopt = adopt
        self.sync_interval_s = sync_interval_s
        self.scan_interval_s = scan_interval_s
        self.dead_bytes_max = dead_bytes_max
        self.dead_age_max_s = dead_age_max_s
        self.emit = emit
        self.on_damage = on_damage
        self.elected_fd = -1
        self.reset()

    def reset(self) -> None:
        """Everything is due now."""
        self._sync_at = self._scan_at = self._watch_at = self._dead_at = 0.0
        self._synced: dict[str, int] = {}
        self._changed_ns = -1
        self._alive: dict[str, tuple[float, bool]] = {}
        self._left_alone: set[str] = set()

    def tend(self) -> float | None:
        """Do what is due; return the seconds until the next."""
        now = self.clock.monotonic()
        if self.claims.done:
            self.claims.fold_done()
        nexts: list[float] = []
        if not self.store.durable and self.sync_interval_s > 0 and self._has_unsynced():
            if now >= self._sync_at:
                self._sync()
                self._sync_at = now + self.sync_interval_s
            nexts.append(self._sync_at)
        if self.adopt != "never":
            if now >= self._scan_at:
                self._scan_at = now + self.scan_interval_s
                self.scan()
            nexts.append(self._scan_at)
            if self.adopt == "always":
                if now >= self._watch_at:
                    self._watch_at = now + _WATCH_INTERVAL_S
                    if self.folder.disk.changed_ns(self.folder.segments) != self._changed_ns:
                        self.scan()
                nexts.append(self._watch_at)
            if self.elected_fd >= 0 and now >= self._dead_at:
                self._dead_at = now + _DEAD_INTERVAL_S
                self.expire_dead()
        return max(0.0, min(nexts) - now) if nexts else None

    def _has_unsynced(self) -> bool:
        return any(
            cursor.writer is not None and self._synced.get(cursor.name, 0) != cursor.writer.end
            for cursor in self.claims.open
        )

    def _sync(self) -> None:
        """Sync what was written since the last time, through the reader's own descriptor: no put waits for it."""
        names = {}
        for cursor in list(self.claims.open):
            writer = cursor.writer
            if writer is None:
                continue
            end = writer.end
            if self._synced.get(cursor.name, 0) != end:
                try:
                    self.folder.disk.datasync(cursor.fd)
                except OSError as error:
                    self.emit(Trouble("journal", f"{cursor.path} cannot be synced: {error.strerror}"))
            names[cursor.name] = end
        self._synced = names

    def _elect(self) -> bool:
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
            if not self._elect():
                return 0
            self._changed_ns = self.folder.disk.changed_ns(self.folder.segments)
            folded = set(self.folder.totals()["folded"])
            known = {cursor.name for cursor in self.claims.open}
            for name in self.folder.segment_names(self.folder.segments):
                if len(self.claims.open) >= _ADOPTED_MAX:
                    break
                writer = writer_of(name)
                if writer == self.store.writer_name or name in known or name in folded or name in self._left_alone:
                    continue
                if name in self.claims.finished and self.is_alive(writer):
                    continue
                adopted += self._adopt(name, writer)
            self.folder.sweep()
        except OSError as error:
            self.emit(Trouble("journal", f"{self.folder.path} cannot be looked through: {error.strerror}"))
        return adopted

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
        if not disk.lock(fd) or not disk.still_named(fd, path):
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
            if isinstance(error, ValueError):
                self._quarantine(path, str(error))
            return 0
        with self.claims.lock:
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
        """Drop the oldest dead letters beyond the bounds; their own writer counts them, if it lives."""
        try:
            names = self.folder.segment_names(self.folder.dead)
            sizes = {name: self.folder.disk.size(f"{self.folder.dead}/{name}") for name in names}
            total = sum(sizes.values())
            oldest_s = self.clock.time() - self.dead_age_max_s if self.dead_age_max_s is not None else None
            for name in names:
                over = self.dead_bytes_max is not None and total > self.dead_bytes_max
                ordinals: list[int] | None = None
                if not over:
                    if oldest_s is None:
                        break
                    ordinals = [
                        ordinal for ordinal, letter in dead.letters(self.folder, name) if letter.at_s < oldest_s
                    ]
                if over or ordinals:
                    expired = dead.settle(self.folder, name, ordinals, Outcome.EXPIRED)
                    if expired:
                        self.emit(Dropped("dead_expired", expired, "the bounds of dead letters"))
                if self.fold_dead(name):
                    total -= sizes[name]
        except (OSError, ValueError) as error:
            self.emit(Trouble("journal", f"dead letters in {self.folder.dead} cannot be expired: {error}"))

    def fold_dead(self, name: str) -> bool:
        """Fold a dead segment whose writer is gone and whose letters are all settled; tells whether it is gone."""
        if self.folder.is_alive(writer_of(name)):
            return False
        path = f"{self.folder.dead}/{name}"
        found = dead.read_segment(self.folder, path)
        if found is None:
            return True
        header, settled, data = found
        count = sum(
            1 for _, frame, _ in dead.walk(data, header.records_at) if frame is not None and frame.kind == Kind.DEAD
        )
        outcomes = count_outcomes(settled)
        return sum(outcomes.values()) >= count and self.folder.fold(path, count, outcomes, retry=False, dead=True)

    def make_room(self, wanted: int) -> bool:
        """Free what the folder's bound needs for a new segment: settled ones first, then what overflow allows."""
        self.claims.fold_done()
        if not self.store.sends:
            self.reap_own()
        if self.folder.stored_bytes() + wanted <= self.store.bytes_max:
            return True
        return self.store.overflow == "drop_oldest" and self._drop_oldest(wanted)

    def _drop_oldest(self, wanted: int) -> bool:
        with self.claims.lock:
            held = {cursor.name for cursor in self.claims.open}
            for name in self.folder.segment_names(self.folder.segments):
                if self.folder.stored_bytes() + wanted <= self.store.bytes_max:
                    return True
                if name not in held:
                    self._drop_segment(name)
            return self.folder.stored_bytes() + wanted <= self.store.bytes_max

    def _drop_segment(self, name: str) -> None:
        """Drop what is unsettled in one sealed segment that nobody holds."""
        writer, path, disk = writer_of(name), f"{self.folder.segments}/{name}", self.folder.disk
        own = writer == self.store.writer_name
        if not own and self.folder.is_alive(writer):
            return
        try:
            fd = disk.open(path)
        except FileNotFoundError:
            return
        if not disk.lock(fd) or not disk.still_named(fd, path):
            disk.close(fd)
            return
        try:
            cursor = Cursor(disk, path, alive=lambda: False, on_damage=lambda *_: None, fd=fd)
        except (OSError, ValueError):
            disk.close(fd)
            return
        try:
            if cursor.header.sealed_events is None and own:
                return  # still written to
            count = cursor.header.sealed_events
            if count is None:
                count = sum(
                    1
                    for _, frame, _ in dead.walk(disk.read(fd, disk.size(path), 0), cursor.header.records_at)
                    if frame is not None and frame.kind == Kind.EVENT
                )
            before = cursor.outcomes()
            dropped = cursor.mark(range(count), Outcome.OVERFLOW)
            if own:
                self._forget_own(name)
                self.claims.absorb(before)
            else:
                self.claims.adopted += dropped
            self.claims.lose("overflow", dropped)
            self.emit(Dropped("overflow", dropped, "the oldest segment made room"))
            self.folder.fold(path, count, cursor.outcomes(), retry=cursor.header.retry)
        finally:
            cursor.close()

    def _forget_own(self, name: str) -> None:
        for lane in self.claims.lanes.values():
            for writer in list(lane.own):
                if writer.name == name:
                    lane.own.remove(writer)

    def reap_own(self) -> None:
        """Fold own sealed segments that others settled, and take their outcomes into the own count."""
        with self.claims.lock:
            for lane in self.claims.lanes.values():
                for writer in list(lane.own):
                    found = self._settled_by_others(writer)
                    if found is None or not writer.sealed or sum(found.values()) < writer.count:
                        continue
                    if self.folder.fold(writer.path, writer.count, found, retry=writer.header.retry):
                        lane.own.remove(writer)
                        self.claims.absorb(found)

    def _settled_by_others(self, writer: SegmentWriter) -> dict[Outcome, int] | None:
        found = self.folder.read_outcomes(writer.path)
        return None if found is None else found[1]

    def settled_by_others(self) -> dict[Outcome, int]:
        """Count what others settled of own segments that are still there; under the claims' lock."""
        total: dict[Outcome, int] = {}
        for lane in self.claims.lanes.values():
            for writer in list(lane.own):
                for outcome, count in (self._settled_by_others(writer) or {}).items():
                    total[outcome] = total.get(outcome, 0) + count
        return total

    def own_dead(self) -> dict[Outcome, int]:
        """Count what became of the dead letters that this process parked."""
        total: dict[Outcome, int] = {}
        for name in self.folder.segment_names(self.folder.dead):
            if writer_of(name) == self.store.writer_name:
                found = self.folder.read_outcomes(f"{self.folder.dead}/{name}")
                for outcome, count in (found[1] if found else {}).items():
                    if outcome in DROPPED:
                        total[outcome] = total.get(outcome, 0) + count
        return total

    def leave(self) -> None:
        """Give up the election."""
        fd, self.elected_fd = self.elected_fd, -1
        if fd >= 0:
            self.folder.disk.close(fd)
