"""What is in flight, over all endpoints, and how much more may be.  Pure.

The ceilings on requests and on bytes are shared, and an endpoint that was well, had a backlog, and hangs all of a
sudden may hold all that they allow until its requests time out.  So that it never holds up another, a few requests are
kept free for each other endpoint, and for one that is not known yet (up to half of all): nobody's first ones wait for
anybody else's.  Of bytes nothing is kept free: an endpoint that has nothing in flight may exceed that ceiling by one
request.
"""

from __future__ import annotations

from .batch import Batch
from .breaker import START_LIMIT
from .lane import Lane, Limits


class InFlight:
    """The count of ``requests`` and ``bytes``, and the room that is left."""

    __slots__ = ("_kept", "_limits", "_unused", "bytes", "requests")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept = min(START_LIMIT, limits.in_flight_max // 8)
        self._unused = self._kept  # of all that is kept free; the first is the unknown endpoint's
        self.requests = 0
        self.bytes = 0

    def meet(self) -> None:
        """Note that there is one more endpoint."""
        self._unused += self._kept

    def add(self, lane: Lane, batch: Batch) -> None:
        """Note that a batch's request begins."""
        lane.flying.add(batch)
        self._unused -= len(lane.flying) <= self._kept
        self.requests += 1
        self.bytes += batch.size

    def remove(self, lane: Lane, batch: Batch) -> bool:
        """Note that it has ended; False if it had already."""
        if batch not in lane.flying:
            return False
        lane.flying.remove(batch)
        self._unused += len(lane.flying) < self._kept
        self.requests -= 1
        self.bytes -= batch.size
        return True

    def room(self, lane: Lane, now: float) -> int:
        """Return how many more requests may begin now for this endpoint."""
        limits, flying = self._limits, len(lane.flying)
        if flying and self.bytes >= limits.in_flight_bytes_max:
            return 0
        free = limits.in_flight_max - self.requests
        first = max(0, self._kept - flying)
        others = min(self._unused - first, limits.in_flight_max // 2)
        return min(lane.breaker.room(now, flying), free, max(first, free - others))
