"""Two queues as one keep the promise of a queue: with the first one there all the time, and with all taking the detour.

In the second case the first queue refuses whatever does not come from the spill, so each event is spilled and moved.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from eventpost import JournalQueue, MemoryQueue
from eventpost.errors import QueueUnavailable
from eventpost.event import Event
from eventpost.queues.protocol import Lease, Queue
from eventpost.queues.spill import SpillQueue
from eventpost.testing.clock import ManualClock
from eventpost.testing.queue_contract import QueueContract

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """One Valkey for all tests here."""
    from redis_support import a_valkey

    with a_valkey() as server:
        yield server.url


class Detour(SpillQueue):
    """The first queue is away for every put; who claims finds what has moved by then."""

    def __init__(self, first: Queue, spill: Queue, **options: Any) -> None:
        super().__init__(first, spill, **options)
        self.moving = False
        put = first.put

        def refusing(events: Sequence[Event]) -> None:
            if not self.moving:
                raise QueueUnavailable("away", reason="redis_unavailable")
            put(events)

        first.put = refusing  # type: ignore[method-assign]

    def move_all(self) -> None:
        """Move what there is, as a sender's thread does in some rounds."""
        if self.moving:  # a signal handler asks in the middle of it
            return
        self.moving = True
        try:
            while self._flow.step(at_once=True) is not None:
                pass
        finally:
            self.moving = False

    def lanes(self) -> Sequence[str]:
        """Return them once all has moved."""
        self.move_all()
        return super().lanes()

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Claim what has moved."""
        self.move_all()
        return super().claim(lane, events_max, bytes_max)

    def pending(self, lane: str) -> int:
        """Tell of what has moved."""
        self.move_all()
        return super().pending(lane)


class SpillContract(QueueContract):
    """A journal in a fresh folder stands in."""

    kind: ClassVar[type[SpillQueue]] = SpillQueue
    root: Path

    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        type(self).root = Path(tempfile.mkdtemp())
        yield
        shutil.rmtree(self.root)

    def make_first(self, clock: ManualClock, **options: Any) -> Queue:
        """Make the queue that events are delivered from."""
        return MemoryQueue(clock=clock, **options)

    def make_queue(self, clock: ManualClock, **options: Any) -> Queue:
        """Make both."""
        spill = JournalQueue(tempfile.mkdtemp(dir=self.root), clock=clock)
        return self.kind(self.make_first(clock, **options), spill, clock=clock)


class TestMemoryAndJournal(SpillContract):
    """The first queue is there."""


class TestMemoryThroughTheJournal(SpillContract):
    """Each event is spilled, and moves."""

    kind: ClassVar[type[SpillQueue]] = Detour
    bounded_by_events: ClassVar[bool] = False
    signal_interval_s: ClassVar[float] = 0.005


class StreamsFirst(SpillContract):
    """The first queue is on a server."""

    bounded_by_events: ClassVar[bool] = False
    signal_interval_s: ClassVar[float] = 0.005

    url: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _server(self, valkey: str) -> None:
        type(self).url = valkey

    def make_first(self, clock: ManualClock, **options: Any) -> Queue:
        """Make one on the class's server."""
        from eventpost import RedisStreamsQueue

        name = f"spill-{os.getpid()}-{next(NUMBERS)}"
        return RedisStreamsQueue(self.url, name=name, shards=1, clock=clock, **options)


class TestStreamsAndJournal(StreamsFirst):
    """The first queue is there."""


class TestStreamsThroughTheJournal(StreamsFirst):
    """Each event is spilled, and moves."""

    kind: ClassVar[type[SpillQueue]] = Detour
