"""Two queues that note what they are asked, and a clock: what the tests of the spill's parts stand on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from eventpost import MemoryQueue
from eventpost.errors import QueueUnavailable
from eventpost.event import Event
from eventpost.queues.protocol import Answer, Lease, QueueStats
from eventpost.queues.spill import SpillQueue, flow
from eventpost.queues.spill.carrier import Carrier
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal
from support import ENVELOPE, URL, event, number_of

AWAY = QueueUnavailable("nobody answers", reason="redis_unavailable")
MIB = 1 << 20
SIZE = 16


def sized(number: int, size: int = SIZE, url: str = URL) -> Event:
    """One event of so many bytes."""
    return Event(ENVELOPE._replace(url=url), (b'{"n":%d,' % number).ljust(size, b"x"))


def numbers(leases: Sequence[Lease]) -> list[int]:
    """Tell which events these are."""
    return [number_of(lease.event.payload) for lease in leases]


class Noted(MemoryQueue):
    """Notes what it is asked; ``at[method]`` is called before it is done, with the numbers of the events."""

    def __init__(self, name: str, calls: list[tuple[Any, ...]], clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.name = name
        self.calls = calls
        self.at: dict[str, Callable[[list[int]], object]] = defaultdict(lambda: lambda _: None)

    def _note(self, method: str, events: list[int], *more: Any) -> None:
        self.calls.append((self.name, method, events, *more))
        self.at[method](events)

    def put(self, events: Sequence[Event]) -> None:
        """Note it."""
        self._note("put", [number_of(event.payload) for event in events])
        super().put(events)

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Note what was asked for."""
        self.calls.append((self.name, "claim", lane, events_max, bytes_max))
        return super().claim(lane, events_max, bytes_max)

    def ack(self, leases: Sequence[Lease]) -> None:
        """Note it."""
        self._note("ack", numbers(leases))
        super().ack(leases)

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """Note it."""
        self._note("release", numbers(leases), delay_s)
        super().release(leases, delay_s)

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """Note it."""
        self._note("bury", numbers(leases), reason, answer)
        super().bury(leases, reason, answer)


class Case:
    """Two queues, a flow between them, and a clock that a pause moves.  ``thread``: who is said to run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock(start_s=1024.0)
        self.calls: list[tuple[Any, ...]] = []
        self.told: list[Signal] = []
        self.pauses: list[float] = []
        self.thread = 1
        self.first = Noted("first", self.calls, self.clock)
        self.spill = Noted("spill", self.calls, self.clock)
        self.flow = flow.Flow(self.first, self.spill, self.clock, self.told.append)
        monkeypatch.setattr(flow, "pause", self._pause)
        monkeypatch.setattr(flow, "get_ident", lambda: self.thread)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    def spills(self, *events: int, url: str = URL, size: int = SIZE) -> bool:
        """Store events as a put does that spills; without a word of it in ``calls``."""
        MemoryQueue.put(self.spill, [sized(number, size, url) for number in events])
        return self.flow.stored()

    def refuse(self, error: Exception, *, took_s: float = 0.0, fits: int = -1) -> None:
        """Let the first queue refuse puts of more than ``fits`` events."""

        def refuse(events: list[int]) -> None:
            self.clock.advance(took_s)
            if len(events) > fits:
                raise error

        self.first.at["put"] = refuse

    def of(self, queue: str, method: str) -> list[Any]:
        """Return what such calls were made with, and forget all calls."""
        found = [call[2] if len(call) == 3 else call[2:] for call in self.calls if call[:2] == (queue, method)]
        self.calls.clear()
        return found

    def count(self) -> tuple[int, int, int]:
        """Return how many are accepted, queued and delivered, over both."""
        stats = flow.counted_once(self.first.stats, self.spill.stats, self.flow)
        assert stats is not None
        return stats.accepted, stats.queued, stats.delivered


METHODS = frozenset({
    "put", "lanes", "claim", "pending", "next_due_s", "ack", "release", "bury", "tend", "sync", "stats",
    "after_fork_in_child", "close",
})  # fmt: skip


class Told(MemoryQueue):
    """Notes what it is asked, and answers what it is told: a value, or what a function returns or raises."""

    def __init__(self, name: str, calls: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self.name = name
        self.calls = calls
        self.answers: dict[str, Any] = {"lanes": [], "stats": QueueStats()}

    def __getattribute__(self, name: str) -> Any:
        """Return a method that notes and answers."""
        if name not in METHODS:
            return super().__getattribute__(name)

        def method(*arguments: Any) -> Any:
            self.calls.append((self.name, name, *arguments))
            answer = self.answers.get(name)
            return answer(*arguments) if callable(answer) else answer

        return method


def raising(error: BaseException) -> Callable[..., None]:
    """Make an answer that is an error."""

    def answer(*_: object) -> None:
        raise error

    return answer


class Face:
    """Both, and what was asked of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock(start_s=1024.0)
        self.calls: list[tuple[Any, ...]] = []
        self.told: list[Signal] = []
        self.first = Told("first", self.calls)
        self.spill = Told("spill", self.calls)
        self.queue = SpillQueue(self.first, self.spill, clock=self.clock)
        self.queue.emit = self.told.append
        self.starts = 0
        monkeypatch.setattr(Carrier, "start", self._start)

    def _start(self) -> None:
        self.starts += 1

    def spills(self) -> None:
        """Put something into the spill; forget that."""
        self.first.answers["put"] = raising(AWAY)
        self.queue.put([event(0)])
        self.told.clear()
        self.calls.clear()

    def comes_back(self) -> None:
        """Let the first queue take events again, as far as is known."""
        self.first.answers["put"] = None
        self.queue._flow.away = False
