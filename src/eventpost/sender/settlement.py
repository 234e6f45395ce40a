"""Tells the queue what became of its leases, and keeps what it could not tell.

Deliveries are collected over a round, so that a queue on a disk notes many of them with one write.  Whatever a queue
raises (a full disk, a vanished folder) costs nothing but a Trouble signal: deliveries are noted again a second later,
what could not be buried is given back, and what could not be given back is still leased and comes back when the queue
closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Final

from ..queues.protocol import Answer, Lease, Queue, Recalls
from ..watch.signals import Dropped, Signal, Trouble

SETTLE_AGAIN_S: Final = 1.0


class Settlement:
    """The sender's hand on the queue.  ``returned``: events that were given back and are not settled since."""

    def __init__(self, queue: Queue, emit: Callable[[Signal], None]) -> None:
        self._queue = queue
        self._recalls = queue if isinstance(queue, Recalls) else None
        self._emit = emit
        self._to_ack: list[Lease] = []
        self._dropped: dict[str, int] = {}
        self.again_at = inf
        self.returned = 0

    def deliver(self, leases: Sequence[Lease]) -> None:
        """Note that these were delivered; :meth:`settle` tells the queue."""
        self._to_ack += leases

    def settle(self, now: float, *, at_once: bool = False) -> None:
        """Tell the queue what was delivered; after a failure not before ``again_at``, or ``at_once``."""
        if not self._to_ack or (now < self.again_at < inf and not at_once):
            return
        try:
            self._queue.ack(self._to_ack)
        except Exception as error:  # noqa: BLE001 - they are delivered: asking again is all that can be done
            self.again_at = now + SETTLE_AGAIN_S
            self._trouble("the queue could not note deliveries", error)
            return
        self.again_at = inf
        self._settled(self._to_ack)
        self._to_ack = []

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer) -> bool:
        """Set events aside; False if the queue could not."""
        try:
            self._queue.bury(leases, reason, answer)
        except Exception as error:  # noqa: BLE001 - whatever a queue raises, the event is not lost
            self._trouble("the queue could not set an event aside", error)
            return False
        self._settled(leases)
        return True

    def release(self, leases: Sequence[Lease], delay_s: float) -> None:
        """Give events back."""
        self.returned += len([lease for lease in leases if lease.attempts == 1])
        try:
            self._queue.release(leases, delay_s)
        except Exception as error:  # noqa: BLE001 - the queue gives back what is leased when it closes
            self._trouble("the queue could not take events back", error)

    def tend(self) -> float | None:
        """Let the queue do its periodic work; return the seconds until the next time, or None."""
        try:
            return self._queue.tend()
        except Exception as error:  # noqa: BLE001 - it will be tried again
            self._trouble("the queue's periodic work failed", error)
            return SETTLE_AGAIN_S

    def recall(self, held: Iterable[Callable[[], list[Lease]]]) -> None:
        """Give back what has not been sent, if the queue wants it; ``held``: what each lane holds, and forgets then."""
        if self._recalls is None or not self._recalls.recalls:
            return
        for leases in held:
            self.release(leases(), 0.0)
        try:
            self._recalls.recalled()
        except Exception as error:  # noqa: BLE001 - it is asked again
            self._trouble("the queue could not go on with what it recalled", error)

    def tell_dropped(self) -> None:
        """Emit what the queue has dropped since the last time."""
        for reason, events in self._queue.stats().dropped.items():
            news = events - self._dropped.get(reason, 0)
            if news > 0:
                self._dropped[reason] = events
                self._emit(Dropped(reason, news))

    def _settled(self, leases: Sequence[Lease]) -> None:
        if self.returned:
            self.returned = max(0, self.returned - len([lease for lease in leases if lease.attempts > 1]))

    def _trouble(self, what: str, error: Exception) -> None:
        self._emit(Trouble(what, f"{type(error).__name__}: {error}"))
