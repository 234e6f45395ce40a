"""What others left: look for it, and take it over.

One process of those that share a folder is elected (a flock) to look for orphans, so that the cost of doing nothing
does not grow with workers times segments; a sender of its own (``eventpost send``) always looks.  A segment may be
adopted once its writer is dead, or if that writer does not send; never otherwise, so no event is leased to two
living processes.  The oldest go first, a few hundred at once; beyond that some of each endpoint, so that a backlog for
one that is down holds up no other's.

Before an adopted segment is read, the dead letters of dead writers are asked which of its events they hold: who parked
a letter may have died before he noted it.  Such an event is settled as dead, neither sent again nor counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

from ...clock import Clock
from ...watch.signals import Adopted, Damaged, Signal, Trouble
from . import totals
from .claims import Claims
from .cursor import Cursor
from .dead import Parked
from .erasing import Erasing
from .folder import writer_of
from .format import NewerFormat, Outcome

if TYPE_CHECKING:
    from .folder import Folder

Adopt = Literal["elected", "always", "never"]
_ADOPTED_MAX: Final = 256
_ADOPTED_EXTRA: Final = 64
_ADOPTED_OF_LANE: Final = 16
_ALIVE_CACHE_S: Final = 0.5
_TICK_S: Final = 0.05


class Orphans:
    """The search on behalf of one queue; ``own_name()`` is its writer's name."""

    def __init__(
        self, folder: Folder, clock: Clock, *, claims: Claims, adopt: Adopt, own_name: Callable[[], str],
        emit: Callable[[Signal], None], on_damage: Callable[[Cursor, int, bytes, int, str], None],
        erasing: Erasing,
    ) -> None:  # fmt: skip
        """Keep the arguments; touches no file."""
        self.folder = folder
        self.clock = clock
        self.claims = claims
        self.erasing = erasing
        self.adopt = adopt
        self.emit = emit
        self.on_damage = on_damage
        self.elected_fd = -1
        self._own_name = own_name
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._changed_ns = -1
        self._alive: dict[str, tuple[float, bool]] = {}
        self._left_alone: set[str] = set()
        self._headers: dict[str, tuple[str, bool]] = {}
        """By segment, what does not change: its lane, and whether its writer sends."""
        self._parked = Parked(self.folder)

    @property
    def changed(self) -> bool:
        """Whether segments came or went since the last look."""
        return self.folder.disk.changed_ns(self.folder.segments) != self._changed_ns

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
        try:
            if self.folder.disk.lock(fd) and self.folder.disk.still_named(fd, path):
                self.elected_fd = fd
        finally:
            if self.elected_fd != fd:
                self.folder.disk.close(fd)
        return self.elected_fd == fd

    def leave(self) -> None:
        """Give up the election."""
        fd, self.elected_fd = self.elected_fd, -1
        if fd >= 0:
            self.folder.disk.close(fd)

    def scan(self) -> int:
        """Adopt what may be adopted; returns how many segments were."""
        adopted = 0
        try:
            if self.adopt == "never" or self.claims.closed or not self._elect():
                return 0
            changed_ns = self.folder.disk.changed_ns(self.folder.segments)
            # The disk's clock ticks in milliseconds: what follows in the same tick would not show.
            settled = abs(self.clock.time() - changed_ns / 1e9) > _TICK_S
            self._changed_ns = changed_ns if settled else -1
            names = self.folder.segment_names(self.folder.segments)
            self._forget_what_is_gone(names)
            adopted = self._adopt(self._take_all(names))
            self.folder.sweep()
        except OSError as error:
            self.emit(Trouble("journal", f"{self.folder.path} cannot be looked through: {error.strerror}"))
        if self.claims.closed:
            self.leave()  # closed meanwhile, on another thread
        return adopted

    def _take_all(self, names: Sequence[str]) -> list[Cursor]:
        taken: list[Cursor] = []
        with self.claims.lock:
            held = Counter(cursor.header.lane for cursor in self.claims.open)
        for name in self._not_ours(names):
            most = held.total() - _ADOPTED_MAX
            if most >= _ADOPTED_EXTRA:
                break
            try:
                if most >= 0 and held[self._lane_of(name)] >= _ADOPTED_OF_LANE:
                    continue
                cursor = self._take(name, writer_of(name))
            except OSError as error:  # one file that can't be had must not stop the others
                self.emit(Trouble("journal", f"{self.folder.segments}/{name} cannot be adopted: {error.strerror}"))
                continue
            if cursor is not None:
                taken.append(cursor)
                held[cursor.header.lane] += 1
        return taken

    def _header_of(self, name: str) -> tuple[str, bool]:
        """Return a segment's lane, and whether its writer sends.  Raises OSError or ValueError."""
        known = self._headers.get(name)
        if known is None:
            header = self.folder.read_header(f"{self.folder.segments}/{name}")
            known = self._headers[name] = header.lane, header.sender
        return known

    def _lane_of(self, name: str) -> str:
        try:
            return self._header_of(name)[0]
        except (FileNotFoundError, ValueError):  # whoever takes it finds that out
            return ""

    def _adopt(self, taken: Sequence[Cursor]) -> int:
        try:
            self.settle_parked(taken)
            self.erasing.before_reading(taken)
        except (OSError, ValueError):
            for cursor in taken:
                cursor.close()  # the next look tries again
            raise
        with self.claims.lock:
            for cursor in taken:
                if self.claims.closed:
                    cursor.close()
                    continue
                self.claims.add_adopted(cursor)
                self.emit(Adopted(cursor.path, max(0, cursor.unread())))
            return 0 if self.claims.closed else len(taken)

    def settle_parked(self, taken: Sequence[Cursor]) -> None:
        """Settle those events of segments that are in hand whose dead letters were never noted.  Raises OSError."""
        if not taken:
            return
        parked = self._parked.by_segment()
        for cursor in taken:
            for ordinal in parked.get(cursor.name, ()):
                if 0 <= ordinal < cursor.header.events_max and cursor.mark(range(ordinal, ordinal + 1), Outcome.DEAD):
                    cursor.fresh = False

    def _not_ours(self, names: Sequence[str]) -> list[str]:
        """Return those of the segments that this process neither wrote nor holds nor has done with."""
        with self.claims.lock:
            known = {cursor.name for cursor in self.claims.open} | set(totals.read(self.folder)["folded"])
            finished = self.claims.finished.copy()
        return [
            name for name in names
            if writer_of(name) != self._own_name() and name not in known and name not in self._left_alone
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
        self._headers = {name: known for name, known in self._headers.items() if name in there}
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

    def _take(self, name: str, writer: str) -> Cursor | None:
        """Return a segment that is this process's to send from now on, or None.  Raises OSError."""
        path = f"{self.folder.segments}/{name}"
        alive = self.is_alive(writer)
        disk = self.folder.disk
        try:
            if alive and self._header_of(name)[1]:
                return None
            fd = disk.open(path)
        except FileNotFoundError:
            return None
        except NewerFormat as error:
            self._leave_alone(name, str(error))
            return None
        except ValueError:  # whose writer lives
            return None
        cursor = None
        try:
            if disk.lock(fd) and disk.still_named(fd, path):
                cursor = Cursor(disk, path, alive=lambda: self.is_alive(writer), on_damage=self.on_damage, fd=fd)
        except NewerFormat as error:
            self._leave_alone(name, str(error))
        except ValueError as error:
            self._quarantine(path, str(error))
        finally:
            if cursor is None:
                disk.close(fd)
        return cursor

    def _leave_alone(self, name: str, why: str) -> None:
        self._left_alone.add(name)
        self.emit(
            Trouble("newer_format", f"{self.folder.segments}/{name} is left alone: {why}; a newer release can send it")
        )

    def _quarantine(self, path: str, why: str) -> None:
        """Put a file whose header can't be read where a person can look at it."""
        target = f"{self.folder.bad}/{path.rsplit('/', 1)[1]}.bad"
        size = self.folder.disk.size(path)
        self.folder.disk.rename(path, target)  # under its lock; undone by power loss, it is only found once more
        self.emit(Damaged(target, 0, size, why))
