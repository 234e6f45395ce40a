"""What the sender knows of one endpoint, and within which limits it works.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..queues.protocol import Lease
from .batch import Batch, Former
from .breaker import Breaker
from .retry import RetryPolicy

SUSPECTS_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much travels together and at once.  ``timeout_s`` is one attempt's total."""

    batch_events_max: int = 100
    batch_bytes_max: int = 1_000_000
    linger_s: float = 1.0
    in_flight_max: int = 300
    in_flight_bytes_max: int = 16 * 1024 * 1024
    timeout_s: float = 10.0


class Lane:
    """One endpoint's breaker, batches and memory.

    ``url`` is what the queue knows it by, ``endpoint`` where its requests go (the same, unless the sender was told).
    ``flying``: batches whose requests are out.  ``backlog``: more is waiting than may be in flight.  ``delayed_until``:
    what was given back is due by then, in monotonic seconds.  ``solo``: the last event that was claimed shares a
    request with nothing.  ``refusals``: of single events in a row.  ``suspects``: by
    hash of a payload that failed, how often it did while others were delivered, how often of these with an answer, and
    ``deliveries`` at the last time.
    """

    __slots__ = (
        "backlog", "breaker", "delayed_until", "deliveries", "endpoint", "flying", "former", "refusals", "solo",
        "suspects", "url",
    )  # fmt: skip

    def __init__(self, url: str, policy: RetryPolicy, limits: Limits, endpoint: str | None = None) -> None:
        self.url = url
        self.endpoint = endpoint or url
        self.breaker = Breaker(policy, limits.in_flight_max)
        self.former = Former(limits.batch_events_max, limits.batch_bytes_max)
        self.flying: set[Batch] = set()
        self.backlog = False
        self.delayed_until = 0.0
        self.solo = False
        self.deliveries = 0
        self.refusals = 0
        self.suspects: dict[int, tuple[int, int, int]] = {}

    def serials(self) -> list[int]:
        """Return the serials of the batches that are neither settled nor given back."""
        return [batch.serial for batch in (*self.flying, *self.former.held())]

    def suspect(self, batch: Batch, *, answered: bool) -> tuple[int, bool]:
        """Note a failure that may be the batch's own, ``answered`` or not; return History's last two."""
        suspects, deliveries = self.suspects, self.deliveries
        if len(suspects) > SUSPECTS_MAX:
            suspects.clear()
        worst, took_others = 0, False
        for lease in batch.leases:
            key = hash(lease.event.payload)
            times, errors, at = suspects.get(key, (0, 0, -1))
            counts = deliveries > at
            errors += counts and answered
            suspects[key] = (times + counts, errors, deliveries)
            if errors >= worst:
                took_others = (counts and times > 0) or (errors == worst and took_others)
                worst = errors
        return worst, took_others

    def single_out(self, leases: list[Lease], times_max: int) -> list[Lease]:
        """Let those that failed so often go alone, so that the next answer is about them; return the others."""
        others = []
        for lease in leases:
            if self.suspects.get(hash(lease.event.payload), (0,))[0] >= times_max:
                self.former.add_alone(lease)
            else:
                others.append(lease)
        return others

    def acquit(self, batch: Batch) -> None:
        """Forget what was noted of the batch's events."""
        if self.suspects:
            for lease in batch.leases:
                self.suspects.pop(hash(lease.event.payload), None)
