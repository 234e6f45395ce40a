"""Whether a queue that machines share holds something that a sender here may yet get to send.

That is what nobody has claimed, what this process has, and what was claimed by one that is gone: its leases end, and
then anybody may take it.  Nothing tells a holder that is gone from one that is only busy, but that the living ask the
server now and then: one that has asked since it was first seen here lives, and what it holds is left to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ..errors import QueueUnavailable
from ..queues.view import View

ASK_AGAIN_S: Final = 0.2
_SLACK_S: Final = 0.05
"""The server's clock and ours do not tick together."""


class Leftovers:
    """Looks at a queue for a sender whose own events are all settled.  ``own``: its name among the holders."""

    def __init__(self, view: View, own: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Keep the arguments."""
        self._view = view
        self._own = own
        self._monotonic = monotonic
        self._first_seen: dict[str, float] = {}
        self._alive: set[str] = set()
        self._asked_at = -ASK_AGAIN_S

    def look(self) -> bool:
        """Tell whether something is left; while the server is away nobody knows, so yes."""
        now = self._monotonic()
        if now - self._asked_at < ASK_AGAIN_S:
            return True
        self._asked_at = now
        try:
            status = self._view.status()
        except QueueUnavailable:
            return True
        holding = [one for one in status.values["members"] if one["entries_held"]]
        lives = [self._lives(str(one["name"]), float(one["idle_s"]), now) for one in holding]
        return any(lane.queued for lane in status.lanes) or not all(lives)

    def _lives(self, name: str, idle_s: float, now: float) -> bool:
        """Tell whether a holder has asked for something since it was first seen; our own holds us up, then."""
        if name == self._own:
            return False
        first = self._first_seen.setdefault(name, now)
        if idle_s + _SLACK_S < now - first:
            self._alive.add(name)
        return name in self._alive
