"""What a signal handler or a finalizer interrupts on its thread, and what it must not wait for there.

Locks, outermost first: the sync lock, the claims', the store's (which a put holds), and those that guard one thing and
take no other: a writer's sync, and the disk's opening of files.  An interruption knows no such order: it comes while
its thread holds any of them.  So that no two threads ever wait for each other:

* who has the put lock waits for no claims' lock, nor for the sync lock: room is made outside of it;
* a put that interrupts one of the innermost two, for which who has the put lock may wait, is put aside: into segments
  of its own, under no lock at all;
* who asks for the count where the claims' lock may not be waited for, waits a moment;
* what can't be done there at all, a close, is done when that which it interrupts has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...sender.primitives import is_mine
from .claims import Claims
from .disk import Disk
from .sync import Syncs


class Interruptions:
    """What this thread is in the middle of; ``put_depth()`` is how many puts are under way under the put lock."""

    def __init__(
        self, disk: Disk, *, put_lock: Any, put_depth: Callable[[], int], claims: Claims, syncs: Syncs
    ) -> None:
        """Keep the arguments."""
        self.is_opening_here = disk.is_opening_here
        self._put_lock = put_lock
        self._put_depth = put_depth
        self._claims = claims
        self._syncs = syncs
        self.left_to_do: list[Callable[[], None]] = []
        """What is done once nothing is under way on a thread any more."""

    @property
    def may_be_waited_for(self) -> bool:
        """Whether this thread is where who has the claims' lock may wait for it: there it can't wait for that lock."""
        return not is_mine(self._claims.lock) and (is_mine(self._put_lock) or self._is_innermost)

    @property
    def nothing_can_end(self) -> bool:
        """Whether this thread is in the middle of something that works on what is open."""
        in_a_put = self._put_depth() > 0 and is_mine(self._put_lock)
        return in_a_put or self._is_innermost or self.may_be_waited_for

    @property
    def _is_innermost(self) -> bool:
        return self.is_opening_here() or self._syncs.is_syncing_here()

    def do_what_is_left(self) -> None:
        """Do what was put off to the end of something, unless this thread is still in the middle of it."""
        while self.left_to_do and not self.nothing_can_end:
            try:
                work = self.left_to_do.pop()
            except IndexError:  # another thread did it
                return
            work()
