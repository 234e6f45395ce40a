"""What only the queue in memory does: waiting for room, and dead letters that expire; time is injected."""

from collections.abc import Callable

import pytest

from eventpost.errors import EventTooLarge, QueueFull
from eventpost.event import Envelope, Event
from eventpost.queues import memory
from eventpost.queues.memory import MemoryQueue
from eventpost.testing.clock import ManualClock
from support import interrupted

URL = "http://127.0.0.1:9/"
ENVELOPE = Envelope(URL)


def event(size: int = 10) -> Event:
    """Return an event of ``size`` bytes."""
    return Event(ENVELOPE, b"x" * size)


def bury(queue: MemoryQueue, size: int = 10) -> None:
    """Put one event and set it aside."""
    queue.put((event(size),))
    queue.bury(queue.claim(URL, 1, 1), "rejected")


def check(queue: MemoryQueue, *, dead: int, expired: int) -> None:
    """Check what is dead and what has expired, and that the sum closes."""
    stats = queue.stats()
    assert (stats.dead, stats.dropped.get("dead_expired", 0)) == (dead, expired)
    assert stats.accepted == stats.delivered + stats.queued + stats.in_flight + stats.dead + sum(stats.dropped.values())
    assert len(queue.dead_letters()) == dead


def test_dead_letters_expire_by_age() -> None:
    """Those past the age go when the queue is tended, younger ones stay; each is counted."""
    clock = ManualClock()
    queue = MemoryQueue(dead_age_max_s=100, clock=clock)
    bury(queue)
    clock.advance(60)
    bury(queue)
    clock.advance(40)
    queue.tend()
    check(queue, dead=2, expired=0)  # exactly as old as allowed
    clock.advance(1)
    queue.tend()
    check(queue, dead=1, expired=1)
    clock.advance(60)
    queue.tend()
    check(queue, dead=0, expired=2)


def test_dead_letters_expire_by_bytes() -> None:
    """The oldest go first, as many as it takes, at once."""
    queue = MemoryQueue(dead_bytes_max=100, clock=ManualClock())
    for size in (40, 30, 30):
        bury(queue, size)
    check(queue, dead=3, expired=0)
    bury(queue, 31)
    check(queue, dead=3, expired=1)
    assert [len(letter.event.payload) for letter in queue.dead_letters()] == [30, 30, 31]
    bury(queue, 100)
    check(queue, dead=1, expired=4)


def test_dead_letters_without_a_bound_stay() -> None:
    """None is no bound."""
    clock = ManualClock()
    queue = MemoryQueue(dead_bytes_max=None, dead_age_max_s=None, clock=clock)
    for _ in range(3):
        bury(queue, 10_000)
    clock.advance(10 * 365 * 86_400)
    queue.tend()
    check(queue, dead=3, expired=0)


def test_the_bound_counts_bytes_as_well_as_events() -> None:
    """What is in flight is part of it; what is delivered makes room, what is dropped is counted with its reason."""
    queue = MemoryQueue(events_max=4, bytes_max=100)
    queue.put([event(40), event(40)])
    for full in ([event(21)], [event(1), event(1), event(1)]):
        with pytest.raises(QueueFull):
            queue.put(full)
    with pytest.raises(EventTooLarge):
        queue.put([event(101)])
    leases = queue.claim(URL, 1, 1)
    with pytest.raises(QueueFull):
        queue.put([event(21)])
    queue.ack(leases)
    queue.put([event(21)])
    assert queue.stats().stored_bytes == 61
    dropping = MemoryQueue(bytes_max=100, overflow="drop_oldest")
    for _ in range(5):
        dropping.put([event(40)])
    assert (dropping.stats().queued, dropping.stats().dropped) == (2, {"overflow": 3})


class Waiting:
    """Stands in for ``pause``: moves the clock, and does something at a time."""

    def __init__(self, clock: ManualClock, *, at_s: float = float("inf"), then: Callable[[], object] | None = None):
        self.clock, self.at_s, self.then = clock, at_s, then
        self.began = clock.monotonic()

    @property
    def waited_s(self) -> float:
        """How long was waited."""
        return self.clock.monotonic() - self.began

    def __call__(self, seconds: float) -> None:
        """Wait."""
        self.clock.advance(seconds)
        if self.then is not None and self.waited_s >= self.at_s:
            self.then()
            self.then = None


def full_queue(clock: ManualClock) -> MemoryQueue:
    """Return a queue of one event, which holds it, and blocks for a second."""
    queue = MemoryQueue(events_max=1, overflow="block", block_timeout_s=1.0, clock=clock)
    queue.put((event(),))
    return queue


def test_a_put_that_blocks_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is accepted as soon as something has gone."""
    clock = ManualClock()
    queue = full_queue(clock)
    leases = queue.claim(URL, 1, 1)
    monkeypatch.setattr(queue, "_claimer", None)  # else this thread is taken for the sender's, which never waits
    waiting = Waiting(clock, at_s=0.5, then=lambda: queue.ack(leases))
    monkeypatch.setattr(memory, "pause", waiting)
    queue.put((event(),))
    assert 0.5 <= waiting.waited_s < 0.6
    assert (queue.stats().delivered, queue.stats().queued) == (1, 1)


def test_a_put_that_blocks_is_refused_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, and what was there stays."""
    clock = ManualClock()
    queue = full_queue(clock)
    waiting = Waiting(clock)
    monkeypatch.setattr(memory, "pause", waiting)
    with pytest.raises(QueueFull):
        queue.put((event(),))
    assert 1.0 <= waiting.waited_s < 1.1
    assert queue.stats().accepted == queue.stats().queued == 1


def test_neither_the_sender_nor_a_handler_over_a_waiting_put_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could make room, or stands on top of one who waits for it, is refused at once."""
    clock = ManualClock()
    queue = full_queue(clock)
    refused: list[float] = []

    def handler() -> None:
        with pytest.raises(QueueFull):
            queue.put((event(),))
        refused.append(waiting.waited_s)

    waiting = Waiting(clock, at_s=0.5, then=handler)
    monkeypatch.setattr(memory, "pause", waiting)
    with pytest.raises(QueueFull):
        queue.put((event(),))
    assert refused == [pytest.approx(0.5, abs=0.01)]
    waited_s = waiting.waited_s
    queue.claim(URL, 1, 1)  # from now on this is the sender's thread
    with pytest.raises(QueueFull):
        queue.put((event(),))
    assert waiting.waited_s == waited_s


@pytest.mark.parametrize("what", ["lanes", "pending"])
def test_a_count_that_interrupts_a_look_takes_nothing_in_twice(what: str) -> None:
    """A signal handler or a finalizer may read the count in the middle of anything that the sender asks."""

    def attempt(at: int) -> bool:
        queue = MemoryQueue()
        queue.put((event(), event()))
        look = {"lanes": queue.lanes, "pending": lambda: queue.pending(URL)}[what]
        came: list[int] = []
        interrupted(look, at, lambda: came.append(queue.stats().accepted))
        assert len(queue.claim(URL, 10, 1000)) == 2
        assert queue.stats().accepted == 2
        return bool(came)

    at = 1
    while attempt(at):
        at += 1
    assert at > 50
