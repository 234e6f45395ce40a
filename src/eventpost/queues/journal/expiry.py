"""The bounds of what is parked: dead letters, by bytes and age, and damaged bytes in ``bad/``; the oldest go first.

Dead letters and ``bad/`` have the same bound in bytes, each its own.  The elected process sees to it.  A living writer
folds its own dead letters, and counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ...clock import Clock
from ...watch.signals import Dropped, Signal, Trouble
from . import dead, totals
from .bounds import Bounds
from .folder import writer_of
from .format import Outcome, count_outcomes

if TYPE_CHECKING:
    from .folder import Folder


class Expiry:
    """Keeps a folder's dead letters and damaged bytes within its bounds; ``bounds``: what this process says of them."""

    def __init__(
        self, folder: Folder, clock: Clock, *, dead_writer: dead.DeadWriter, bounds: Bounds,
        emit: Callable[[Signal], None],
    ) -> None:  # fmt: skip
        """Note the bounds in the folder."""
        self.folder = folder
        self.clock = clock
        self.dead_writer = dead_writer
        self.bounds = bounds
        self.emit = emit
        try:
            bounds.note(folder)
        except OSError as error:
            emit(Trouble("journal", f"the bounds of dead letters can't be noted in {folder.path}: {error.strerror}"))

    def expire(self) -> None:
        """Do both."""
        try:
            bounds = self.bounds.in_force(self.folder)
            self._expire_dead(bounds)
            self._expire_bad(bounds.dead_bytes_max)
        except (OSError, ValueError) as error:
            self.emit(Trouble("journal", f"{self.folder.path} cannot be kept within its bounds: {error}"))

    def expire_bad(self) -> None:
        """Remove the oldest files in ``bad/`` beyond the bound.  Raises OSError or ValueError."""
        self._expire_bad(self.bounds.in_force(self.folder).dead_bytes_max)

    def _expire_dead(self, bounds: Bounds) -> None:
        """Drop the oldest dead letters beyond the bounds; a living writer folds its own, and counts them."""
        folder = self.folder
        left: dict[str, int] = {}
        for name in folder.segment_names(folder.dead):
            try:
                if not self._is_settled(name) and not self._expire_old(name, bounds.dead_age_max_s):
                    left[name] = folder.disk.size(f"{folder.dead}/{name}")
                else:
                    self._fold_dead(name)
            except (BlockingIOError, FileNotFoundError):
                continue  # somebody retries or discards its letters: next time; or it is gone by now
            except (OSError, ValueError) as error:  # one file that can't be read must not keep the others
                self.emit(Trouble("journal", f"dead letters in {folder.dead}/{name} cannot be expired: {error}"))
        total = sum(left.values())
        for name, size in left.items():
            if bounds.dead_bytes_max is None or total <= bounds.dead_bytes_max:
                break
            with suppress(OSError, ValueError):
                if self._expire(name, None):
                    total -= size
                    self._fold_dead(name)

    def _expire_bad(self, bytes_max: int | None) -> None:
        """Remove the oldest files; what was lost with them was counted before."""
        if bytes_max is None:
            return
        disk, folder = self.folder.disk, self.folder.bad
        found = sorted((disk.changed_ns(f"{folder}/{name}"), name) for name in disk.names(folder))
        sizes = {name: disk.size(f"{folder}/{name}") for _, name in found}
        total, files, gone = sum(sizes.values()), 0, 0
        for _, name in found:
            if total - gone <= bytes_max:
                break
            with suppress(OSError):
                disk.unlink(f"{folder}/{name}")
                files, gone = files + 1, gone + sizes[name]
        if files:
            self.emit(
                Trouble("bad_expired", f"{files} files, {gone} bytes, were removed from {folder}: beyond its bound")
            )

    def _is_settled(self, name: str) -> bool:
        found = self.folder.read_outcomes(f"{self.folder.dead}/{name}")
        if found is None:
            return True
        header, outcomes = found
        if header.sealed_events is not None:
            return sum(outcomes.values()) >= header.sealed_events
        if self.folder.is_alive(writer_of(name)):
            return False
        with dead.held(self.folder, name) as segment:  # its writer was killed: nobody will seal it any more
            return not segment.unsettled(segment.all_ordinals())

    def _expire_old(self, name: str, age_max_s: float | None) -> bool:
        """Drop the letters of a segment that are too old; tells whether all of it is settled then."""
        if age_max_s is None:
            return False
        oldest_s = self.clock.time() - age_max_s
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

    def _fold_dead(self, name: str) -> None:
        """Fold a dead segment whose writer is gone and whose letters are all settled."""
        if self.folder.is_alive(writer_of(name)):
            return
        with dead.held(self.folder, name) as segment:
            ordinals = segment.all_ordinals()
            if not segment.unsettled(ordinals):
                outcomes = count_outcomes(self.folder.disk.read(segment.fd, len(ordinals), segment.header.outcomes_at))
                totals.fold(self.folder, segment.path, len(ordinals), outcomes, retry=False, dead=True)
