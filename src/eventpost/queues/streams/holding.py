"""What the server is told of what this process holds, and whether it still does.

``sure_until`` of an entry says how long nobody else can have it: half a lease from the moment before that was last
confirmed.  Later, or once the server was told that others may take it, it is asked before an event is handed out again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from ...clock import Clock
from .client import SCRIPTS, Command, Fault
from .hand import Hand
from .held import Held
from .names import prefix
from .route import Away, Route

AT_ONCE_MAX: Final = 500
"""Entries in one script call: the server does nothing else meanwhile."""
boot_s: Callable[[], float] = (
    (lambda: time.clock_gettime(time.CLOCK_BOOTTIME)) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds that also pass while the machine sleeps: leases end on the server then, too."""


class Holding:
    """Keeps leases, and gives them up; under the hand's lock."""

    def __init__(self, route: Route, hand: Hand, clock: Clock, *, lease_s: float, timeout_s: float) -> None:
        """Keep the arguments; asks nothing."""
        self._route = route
        self._hand = hand
        self._clock = clock
        self._timeout_s = timeout_s
        self.lease_ms = int(lease_s * 1000)

    def key(self, shard: int) -> str:
        """Return the key that a part's scripts are called with."""
        return prefix(self._route.name, shard) + "sum"

    def ask(self, asked: list[tuple[int, list[Command]]]) -> list[list[Any] | Away]:
        """Make calls to parts, within the time that anything may take."""
        return self._route.ask_all(asked, monotonic() + self._timeout_s) if asked else []

    def sure_until(self) -> float:
        """Return until when that is sure which is asked for now."""
        return boot_s() + self.lease_ms / 2000

    def confirm(self, of: Sequence[Held], idle_ms: Callable[[Held], int] = lambda _: 0) -> bool:
        """Ask which entries are still this process's, and set how long they count as idle; False: nobody answered."""
        asked: list[tuple[int, list[Command]]] = []
        parts: list[list[tuple[Held, int]]] = []
        by_shard: dict[int, list[tuple[Held, int]]] = {}
        for held in of:
            by_shard.setdefault(held.shard, []).append((held, idle_ms(held)))
        for shard, mine in by_shard.items():
            for first in range(0, len(mine), AT_ONCE_MAX):
                part = mine[first : first + AT_ONCE_MAX]
                call: list[Any] = [SCRIPTS["hold"], 1, self.key(shard), self._hand.writer]
                for held, idle in part:
                    call += [held.lane, held.id, idle]
                    held.told = held.told or idle > 0
                asked.append((shard, [tuple(call)]))
                parts.append(part)
        sure_until = self.sure_until()
        answered = True
        for part, answers in zip(parts, self.ask(asked), strict=True):
            if isinstance(answers, Away) or isinstance(answers[0], Fault):
                answered = False
                continue
            for (held, idle), still_mine in zip(part, answers[0], strict=True):
                if not still_mine:
                    self._hand.lost(held)
                elif not idle:
                    held.sure_until, held.told = sure_until, False
        return answered

    def _idle_ms(self, held: Held) -> int:
        """Return how idle an entry is to look: not at all in flight, a whole lease when others may take it."""
        if held.leases:
            return 0
        return max(0, self.lease_ms - int(max(0.0, held.due - self._clock.monotonic()) * 1000))

    def tell(self) -> None:
        """Say of what was given back, as far as nothing of it is in flight, when others may take it."""
        if self._hand.to_tell and self.confirm(
            [one for one in self._hand.to_tell.values() if not one.leases], self._idle_ms
        ):
            self._hand.to_tell.clear()  # what is in flight comes here again when it is given back

    def renew(self) -> None:
        """Keep what is in flight, or waits for a time that has not come."""
        now = self._clock.monotonic()
        self.confirm([held for held in list(self._hand.held.values()) if held.leases or held.due > now], self._idle_ms)
