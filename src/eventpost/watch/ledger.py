"""The count: what was offered, what became of it, and whether the sum closes.

The queue counts what it accepted, at one instant; the door counts what it refused.  A :class:`Report` is both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..queues.protocol import QueueStats
from ..sender.primitives import RLock

_FOLD_AT = 256


@dataclass(frozen=True, slots=True)
class Report:
    """Cumulative since the dispatcher was made (in a forked child: since the fork).  All values count events.

    ``accepted == delivered + queued + in_flight + dead + sum(dropped.values())`` at every moment.  ``adopted`` is the
    part of ``accepted`` that other processes had put.  ``dropped`` and ``refused`` are dicts by reason, this report's
    own: it can be copied, pickled and written as JSON.
    """

    accepted: int = 0
    adopted: int = 0
    delivered: int = 0
    queued: int = 0
    in_flight: int = 0
    dead: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def offered(self) -> int:
        """What was handed to the doors of this process, and what it adopted: accepted and refused."""
        return self.accepted + sum(self.refused.values())

    @property
    def pending(self) -> int:
        """What is not settled yet."""
        return self.queued + self.in_flight

    @property
    def closes(self) -> bool:
        """Whether the sum closes."""
        settled = self.delivered + self.dead + sum(self.dropped.values())
        return self.accepted == settled + self.queued + self.in_flight

    def as_dict(self) -> dict[str, Any]:
        """Return the count as plain values, for JSON."""
        return {
            "accepted": self.accepted,
            "adopted": self.adopted,
            "delivered": self.delivered,
            "queued": self.queued,
            "in_flight": self.in_flight,
            "dead": self.dead,
            "dropped": dict(self.dropped),
            "refused": dict(self.refused),
        }

    def __str__(self) -> str:
        parts = [f"accepted {self.accepted:,}"]
        if self.adopted:
            parts[0] += f" (adopted {self.adopted:,})"
        parts += [f"delivered {self.delivered:,}", f"queued {self.queued:,}", f"in flight {self.in_flight:,}"]
        parts += [f"dead {self.dead:,}", f"dropped {_by_reason(self.dropped)}", f"refused {_by_reason(self.refused)}"]
        return ", ".join(parts)


def _by_reason(counts: Mapping[str, int]) -> str:
    total = f"{sum(counts.values()):,}"
    if not counts:
        return total
    return f"{total} (" + ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items())) + ")"


class Tally:
    """Counts by reason, that neither threads nor a signal in the middle of an addition can tear."""

    __slots__ = ("_counts", "_folding", "_lock", "_news")

    def __init__(self) -> None:
        self._lock = RLock()
        self._news: deque[tuple[str, int]] = deque()
        self._counts: dict[str, int] = {}
        self._folding = False

    def add(self, reason: str, events: int = 1) -> None:
        """Count ``events`` more; the append is the moment."""
        self._news.append((reason, events))
        if len(self._news) >= _FOLD_AT:
            self.read()

    def read(self) -> dict[str, int]:
        """Return the counts.  What interrupts this on its own thread reads what was folded so far and the news."""
        with self._lock:
            if self._folding:
                counts = dict(self._counts)
                for reason, events in tuple(self._news):
                    counts[reason] = counts.get(reason, 0) + events
                return counts
            self._folding = True
            try:
                while self._news:
                    reason, events = self._news.popleft()
                    self._counts[reason] = self._counts.get(reason, 0) + events
                return dict(self._counts)
            finally:
                self._folding = False


def make_report(stats: QueueStats, refused: Mapping[str, int]) -> Report:
    """Return the queue's count and the door's as one."""
    return Report(
        accepted=stats.accepted,
        adopted=stats.adopted,
        delivered=stats.delivered,
        queued=stats.queued,
        in_flight=stats.in_flight,
        dead=stats.dead,
        dropped=dict(stats.dropped),
        refused=dict(refused),
    )
