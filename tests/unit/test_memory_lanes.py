"""What the queue in memory keeps of its events: their order, their room, their age, and nothing once they are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventpost.errors import QueueFull, QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues import memory
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.protocol import Lease, QueueStats
from eventpost.testing.clock import ManualClock

URL = "http://127.0.0.1:9/"
ENVELOPE = Envelope(URL)
ALL = 1 << 20


def events(*names: str) -> list[Event]:
    """Return events with these payloads."""
    return [Event(ENVELOPE, name.encode()) for name in names]


def names(leases: list[Lease]) -> list[str]:
    """Return the payloads of what was claimed."""
    return [lease.event.payload.decode() for lease in leases]


class Hooked(ManualClock):
    """A clock that calls ``at`` when it is asked."""

    def __init__(self) -> None:
        super().__init__(start_s=0.0)
        self.at: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        """Call, and tell the time."""
        self.at()
        return super().monotonic()

    def time(self) -> float:
        """Call, and tell the time."""
        self.at()
        return super().time()


class Interrupted(list[Event]):
    """Events in the middle of whose being taken something else happens, as in a signal handler."""

    def __init__(self, events: list[Event], then: Callable[[], object]) -> None:
        super().__init__(events)
        self.then = then

    def __iter__(self) -> Iterator[Event]:
        """Let it happen."""
        self.then()
        return super().__iter__()


# -- room


def test_puts_over_puts_are_counted_against_the_bound_on_events() -> None:
    """All of those that a put interrupts others over, not the last one alone."""
    queue = MemoryQueue(events_max=2)
    refused: list[str] = []

    def put_over(name: str, then: Callable[[], object] = lambda: None) -> None:
        try:
            queue.put(Interrupted(events(name), then))
        except QueueFull:
            refused.append(name)

    def thrice() -> None:
        put_over("b", lambda: put_over("a"))
        put_over("c")

    put_over("d", thrice)
    assert refused == ["c"]
    assert names(queue.claim(URL, 9, ALL)) == ["a", "b", "d"]


def test_a_put_leaves_nothing_for_the_next_one_to_add_up() -> None:
    """Neither one that interrupts none nor, once the interrupted one is through, one that does: no put gets slower."""
    queue = MemoryQueue()
    queue.put(Interrupted(events("x"), lambda: queue.put(events("y"))))
    queue.put(events("z"))
    assert (len(queue._nested), queue.stats().queued) == (0, 3)


@pytest.mark.parametrize("timeout_s", [0.0, memory.BLOCK_POLL_S, 4 * memory.BLOCK_POLL_S])
def test_a_put_that_blocks_waits_as_long_as_it_may_and_each_time(
    timeout_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the moment, and not at all for no time; a put that waited in vain does not keep the next one from waiting."""
    clock = ManualClock(start_s=0.0)
    queue = MemoryQueue(events_max=1, overflow="block", block_timeout_s=timeout_s, clock=clock)
    queue.put(events("x"))
    monkeypatch.setattr(memory, "pause", clock.advance)
    with pytest.raises(QueueFull):
        queue.put(events("y"))
    assert clock.monotonic() == timeout_s
    with pytest.raises(QueueFull):
        queue.put(events("y"))
    assert clock.monotonic() == pytest.approx(2 * timeout_s, abs=memory.BLOCK_POLL_S / 2)


def test_what_was_put_just_now_is_given_up_with_the_rest() -> None:
    """Nobody has looked at it yet; what was settled while it waited is given up no second time."""
    queue = MemoryQueue()
    queue.put(events("a", "b"))
    assert queue.drop_remaining("memory_at_exit") == 2
    assert queue.stats() == QueueStats(accepted=2, dropped={"memory_at_exit": 2})
    for delay_s in (0.0, 5.0):
        queue = MemoryQueue()
        queue.put(events("a", "b"))
        leases = queue.claim(URL, 2, ALL)
        queue.release(leases, delay_s)
        queue.ack(leases[:1])
        assert queue.drop_remaining("memory_at_exit") == 1
        assert queue.stats() == QueueStats(accepted=2, delivered=1, dropped={"memory_at_exit": 1})


@pytest.mark.parametrize("given_back", [True, False])
@pytest.mark.parametrize(("bytes_max", "claimed"), [(1, "a"), (5, "a"), (6, "ab"), (10, "ab"), (11, "abc")])
def test_a_claim_stops_once_its_bytes_are_reached(given_back: bool, bytes_max: int, claimed: str) -> None:
    """Not a byte later: of what was given back, and of what was never claimed."""
    queue = MemoryQueue()
    queue.put(events(*[5 * name for name in "abc"]))
    if given_back:
        queue.release(queue.claim(URL, 3, ALL))
    assert names(queue.claim(URL, 3, bytes_max)) == [5 * name for name in claimed]


def test_a_closed_queue_says_so() -> None:
    """With the ledger's word."""
    queue = MemoryQueue()
    queue.close()
    with pytest.raises(QueueUnavailable) as caught:
        queue.put(events("a"))
    assert caught.value.reason == "closed"


@pytest.mark.parametrize("work", ["stats", "tend"])
def test_a_put_over_the_sender_is_stored_beyond_the_bound(work: str) -> None:
    """In a signal handler on its thread: nothing is given up under its hands, and nothing is refused."""
    clock = Hooked()
    queue = MemoryQueue(events_max=2, overflow="drop_oldest", clock=clock)
    queue.put(events("a", "b"))

    def put() -> None:
        clock.at = lambda: None
        queue.put(events("c"))

    clock.at = put
    does: dict[str, Callable[[], Any]] = {"stats": queue.stats, "tend": queue.tend}
    does[work]()
    assert (queue.stats().accepted, queue.stats().dropped) == (3, {})
    assert names(queue.claim(URL, 9, ALL)) == ["a", "b", "c"]


# -- order and age


def test_what_was_given_back_keeps_its_order() -> None:
    """At once or for a time; what is due earlier comes first."""
    clock = ManualClock()
    queue = MemoryQueue(clock=clock)
    queue.put(events("a", "b", "c", "d", "e", "f"))
    leases = queue.claim(URL, 6, ALL)
    queue.release(leases[2:4], 5.0)
    queue.release(leases[4:], 5.0)
    queue.release(leases[:2], 2.0)
    assert queue.claim(URL, 6, ALL) == []
    clock.advance(5.0)
    leases = queue.claim(URL, 6, ALL)
    assert names(leases) == ["a", "b", "c", "d", "e", "f"]
    queue.release(leases[:3])
    queue.release(leases[3:])
    assert names(queue.claim(URL, 6, ALL)) == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("delay_s", [0.0, 60.0])
def test_an_event_that_was_given_back_is_as_old_as_its_claim(delay_s: float) -> None:
    """Also where it is the only one; one that was delivered since has no age."""
    clock = ManualClock()
    queue = MemoryQueue(clock=clock)
    queue.put(events("a"))
    leases = queue.claim(URL, 1, ALL)
    clock.advance(3.0)
    queue.release(leases, delay_s)
    clock.advance(4.0)
    assert queue.stats().oldest_age_s == 7.0
    queue.ack(leases)
    assert queue.stats().oldest_age_s is None


# -- late answers


def test_late_answers_are_counted_one_by_one_and_leave_nothing() -> None:
    """What another lease has is delivered by the first one's answer, and its endpoint can be forgotten."""
    queue = MemoryQueue()
    queue.put(events("a", "b", "c"))
    stale = queue.claim(URL, 3, ALL)
    queue.release(stale)
    leases = queue.claim(URL, 2, ALL)
    queue.ack(stale)
    assert queue.stats() == QueueStats(accepted=3, delivered=3)
    assert [lease.live for lease in leases] == [False, False]
    queue.claim(URL, 1, ALL)
    queue.tend()
    assert queue.lanes() == ()
    queue.ack(leases)
    queue.release(leases)
    assert queue.stats() == QueueStats(accepted=3, delivered=3)


def test_a_late_answer_finds_an_event_that_was_given_back_twice() -> None:
    """It is the same one, as old as its first claim, whoever had it since."""
    clock = ManualClock()
    queue = MemoryQueue(clock=clock)
    queue.put(events("a"))
    stale = queue.claim(URL, 1, ALL)
    for _ in range(2):
        clock.advance(1.0)
        queue.release(queue.claim(URL, 1, ALL) or stale)
    assert queue.stats().oldest_age_s == 2.0
    queue.ack(stale)
    assert queue.stats() == QueueStats(accepted=1, delivered=1)


# -- a count in the middle


@pytest.mark.parametrize("work", ["stats", "tend"])
def test_a_count_over_a_count_or_a_round_is_the_last_one(work: str) -> None:
    """Nothing is taken in under their hands; afterwards all is counted."""
    clock = Hooked()
    queue = MemoryQueue(clock=clock)
    queue.put(events("a"))
    before = queue.stats()
    queue.put(events("b"))
    read: list[QueueStats] = []

    def look() -> None:
        clock.at = lambda: None
        read.append(queue.stats())

    clock.at = look
    does: dict[str, Callable[[], Any]] = {"stats": queue.stats, "tend": queue.tend}
    does[work]()
    assert read == [before]
    assert queue.stats().accepted == 2
