"""The folder's bound, as a put meets it.

Room is made outside the put lock, for it takes the claims' lock and reads many files.  Where none can be made, that is
remembered for a while, in proportion to what the look took: an application whose journal is full is refused within
microseconds, and spends no more than a twentieth of its time on finding out.  What this process folds ends the while at
once; what others free is noticed at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ...clock import Clock
from ...errors import QueueFull
from ...sender.primitives import is_mine
from .claims import Claims

if TYPE_CHECKING:
    from .folder import Folder

_LOOK_SHARE: Final = 20


class NoRoom(QueueFull):
    """The bound is reached: ``size`` bytes were wanted; ``looked_at``: when the folder was looked at, None: not now."""

    def __init__(self, message: str, size: int, looked_at: float | None) -> None:
        super().__init__(message)
        self.size = size
        self.looked_at = looked_at


class Room:
    """What a store may still take of its folder; ``lock`` is the put lock."""

    def __init__(
        self, folder: Folder, clock: Clock, *, bytes_max: int, lock: Any, claims: Claims, make: Callable[[int], bool]
    ) -> None:  # fmt: skip
        """Keep the arguments; ``make(bytes)`` tells whether it could, and wants the claims' lock."""
        self._folder = folder
        self._clock = clock
        self._bytes_max = bytes_max
        self._lock = lock
        self._claims = claims
        self._make = make
        self._none_for, self._none_until, self._folds = 0, 0.0, -1

    def find(self, size: int, *, give_back: Callable[[], None], may_make: bool) -> None:
        """Return if there is room for so many bytes; ``give_back()`` ends what holds some that it need not.

        Raises NoRoom; ``may_make`` False: nobody is to make any for this put.
        """
        began = self._clock.monotonic()
        as_before = size >= self._none_for and self._folds == self._claims.folds and not self._claims.done
        if as_before and began < self._none_until:
            raise self._no_room(size, None)
        if self._folder.stored_bytes() + size <= self._bytes_max:
            return
        give_back()
        if self._folder.stored_bytes() + size > self._bytes_max:
            raise self._no_room(size, began if may_make else None)

    def _no_room(self, size: int, looked_at: float | None) -> NoRoom:
        message = f"the journal in {self._folder.path} holds its bytes_max={self._bytes_max}"
        return NoRoom(message, size, looked_at)

    def is_made(self, full: NoRoom) -> bool:
        """Make room for a put that found none; tells whether it could."""
        if full.looked_at is None:
            return False
        claims = self._claims.lock
        if not is_mine(self._lock) or is_mine(claims):  # what interrupts an open or a sync does not come here
            made = self._make(full.size)
        elif claims.acquire(False):
            try:
                made = self._make(full.size)
            finally:
                claims.release()
        else:  # who has it may wait for the put that this one interrupts
            return False
        if not made:
            now = self._clock.monotonic()
            self._none_for, self._folds = full.size, self._claims.folds
            self._none_until = now + _LOOK_SHARE * (now - full.looked_at)
        return made
