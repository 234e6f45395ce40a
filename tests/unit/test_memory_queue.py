"""What only the queue in memory does: waiting for room, giving up the oldest, and dead letters that expire.

Time is injected.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.support import closes, interrupted

from eventpost.errors import EventTooLarge, QueueFull, QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues import memory
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.protocol import Answer, Lease, QueueStats
from eventpost.testing.clock import ManualClock
from eventpost.testing.queue_contract import assert_sum_closes

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


# -- what it is made with


def test_its_bounds_unless_others_are_named() -> None:
    """100,000 events, 64 MiB, and 256 MiB of dead letters for 30 days."""
    queue = MemoryQueue()
    assert (queue.events_max, queue.bytes_max, queue.overflow) == (100_000, 64 << 20, "refuse")
    assert (queue.dead_bytes_max, queue.dead_age_max_s) == (256 << 20, 30 * 86_400.0)
    assert queue.block_timeout_s == 1.0
    assert (queue.durability, queue.lease_s, queue.sync(1.0)) == ("memory", None, False)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("events_max", 0, 1),
        ("bytes_max", 0.5, 1),
        ("dead_bytes_max", 0, 0.5),
        ("dead_age_max_s", 0, 0.5),
        ("block_timeout_s", -0.5, 0),
        ("overflow", "panic", "block"),
    ],
)
def test_a_bound_that_cannot_be_meant_is_named(name: str, value: Any, least: Any) -> None:
    """With its value; the least that can be is taken."""
    for wrong in (value, float("nan")):
        with pytest.raises(ValueError, match=rf"{name} must be .*, not {wrong!r}"):
            MemoryQueue(**{name: wrong})
    assert getattr(MemoryQueue(**{name: least}), name) == least


def test_a_refusal_says_what_the_bound_is() -> None:
    """Of the queue, or of what it could hold when it is empty."""
    queue = MemoryQueue(events_max=1, bytes_max=100)
    queue.put([event()])
    with pytest.raises(QueueFull, match="the queue holds its 1 events or 100 bytes"):
        queue.put([event()])
    with pytest.raises(EventTooLarge, match="2 events of 20 bytes: more than the queue holds when it is empty"):
        queue.put([event(), event()])
    queue.close()
    with pytest.raises(QueueUnavailable, match="the queue is closed"):
        queue.put([event()])
    assert repr(queue) == "MemoryQueue(queued=1, in_flight=0, dead=0)"


def test_what_fills_it_exactly_fits() -> None:
    """By events and by bytes, at once and one by one."""
    for puts in ([[event(50), event(50)]], [[event(50)], [event(50)]]):
        queue = MemoryQueue(events_max=2, bytes_max=100)
        for events in puts:
            queue.put(events)
        assert (queue.stats().queued, queue.stats().stored_bytes) == (2, 100)


# -- giving up the oldest


def payloads(queue: MemoryQueue, url: str = URL) -> list[bytes]:
    """Claim all of a lane; what it holds."""
    return [lease.event.payload for lease in queue.claim(url, 100, 1 << 20)]


def test_what_was_claimed_before_goes_first_and_then_the_oldest_of_all_lanes() -> None:
    """Due ones, then those that wait for their time, then those that were never claimed, in order of arrival."""
    queue = MemoryQueue(events_max=7, overflow="drop_oldest", clock=ManualClock())
    other = Envelope("http://127.0.0.1:8/")
    queue.put([Event(ENVELOPE, b"due"), Event(ENVELOPE, b"delayed"), Event(ENVELOPE, b"leased")])
    due, delayed, _ = queue.claim(URL, 3, 1 << 20)
    queue.release([due])
    queue.release([delayed], 5.0)
    queue.put([Event(other, b"1"), Event(ENVELOPE, b"2"), Event(other, b"3"), Event(ENVELOPE, b"4")])
    for number in range(5):
        queue.put([Event(ENVELOPE, b"new")])
        assert queue.stats().dropped == {"overflow": number + 1}
        assert queue.next_due_s() == (5.0 if number == 0 else None)
        assert (queue.stats().queued, queue.stats().in_flight) == (6, 1)
    assert payloads(queue, other.url) == []
    assert payloads(queue) == [b"4", *[b"new"] * 5]


def test_room_for_several_is_made_by_several() -> None:
    """As many go as it takes, by bytes, too; the sum closes and the room is used to the last byte."""
    queue = MemoryQueue(events_max=10, bytes_max=100, overflow="drop_oldest")
    queue.put([event(30), event(30), event(30)])
    queue.put([event(50)])
    assert (queue.stats().dropped, queue.stats().stored_bytes) == ({"overflow": 2}, 80)
    queue.put([event(20)])
    assert (queue.stats().dropped, queue.stats().stored_bytes) == ({"overflow": 2}, 100)


def test_the_rest_is_given_up_with_its_reason() -> None:
    """All that is queued, whoever had it before, and nothing that is leased; how many is told."""
    queue = MemoryQueue(clock=ManualClock())
    queue.put([event()] * 6)
    leases = queue.claim(URL, 3, 1 << 20)
    queue.release(leases[:1])
    queue.release(leases[1:2], 5.0)
    assert queue.drop_remaining("memory_at_exit") == 5
    assert queue.drop_remaining("memory_at_exit") == 0
    stats = queue.stats()
    assert (stats.dropped, stats.queued, stats.in_flight) == ({"memory_at_exit": 5}, 0, 1)
    assert (stats.stored_bytes, stats.oldest_age_s, queue.next_due_s()) == (10, None, None)
    assert payloads(queue) == []


# -- leases


def test_what_a_lease_and_a_letter_tell() -> None:
    """When it was claimed, how often, when and why it died."""
    clock = ManualClock(start_s=50.0, epoch_s=1_700_000_000.0)
    queue = MemoryQueue(clock=clock)
    queue.put([event()])
    (first,) = queue.claim(URL, 1, 1)
    assert (first.claimed_at, first.attempts, first.live) == (50.0, 1, True)
    clock.advance(2)
    queue.release([first])
    (second,) = queue.claim(URL, 1, 1)
    assert (second.claimed_at, second.attempts, first.live) == (52.0, 2, False)
    clock.advance(3)
    queue.bury([second], "http_400", Answer(400, "no"))
    (letter,) = queue.dead_letters()
    assert (letter.event, letter.reason, letter.answer) == (event(), "http_400", Answer(400, "no"))
    assert (letter.died_at, letter.attempts) == (1_700_000_005.0, 2)


def test_the_oldest_queued_event_tells_the_age() -> None:
    """Never claimed, given back or waiting for its time; since it was seen first, or claimed first."""
    clock = ManualClock()
    queue = MemoryQueue(clock=clock)

    def age() -> float | None:
        return queue.stats().oldest_age_s

    assert age() is None
    queue.put([event(), event()])
    assert age() == 0.0
    clock.advance(1)
    queue.put([event()])
    assert age() == 1.0
    clock.advance(1)
    assert age() == 2.0
    (old,) = queue.claim(URL, 1, 1 << 20)
    assert age() == 2.0
    queue.claim(URL, 1, 1 << 20)
    assert age() == 1.0
    clock.advance(1)
    queue.release([old])
    assert age() == 2.0
    clock.advance(1)
    assert age() == 3.0
    (old,) = queue.claim(URL, 1, 1)
    queue.release([old], 10.0)
    assert age() == 3.0
    clock.advance(1)
    assert age() == 4.0
    queue.ack([old])
    assert age() == 4.0
    queue.claim(URL, 1, 1)
    assert age() is None


@pytest.mark.parametrize("where", ["due", "delayed", "leased", "dead", "expired", "dropped", "delivered"])
def test_a_late_answer_delivers_the_event_wherever_it_is(where: str) -> None:
    """Once, and its room is free; what was given up stays so."""
    clock = ManualClock()
    queue = MemoryQueue(events_max=2, bytes_max=20, dead_age_max_s=10, clock=clock)
    queue.put([event(), event()])
    stale, _ = leases = queue.claim(URL, 2, 1 << 20)
    again = []
    if where in {"dead", "expired"}:
        queue.bury([stale], "http_400")
    else:
        queue.release([stale], 5.0 if where == "delayed" else 0.0)
    if where == "expired":
        clock.advance(11)
        queue.tend()
    elif where == "dropped":
        queue.drop_remaining("memory_at_exit")
    elif where in {"leased", "delivered"}:
        again = queue.claim(URL, 1, 1)
    if where == "delivered":
        queue.ack(again)
    for _ in range(2):
        queue.ack([stale])
        queue.ack(again)
        stats = queue.stats()
        gone = where in {"expired", "dropped"}
        assert (stats.delivered, stats.queued, stats.in_flight, stats.dead) == (0 if gone else 1, 0, 1, 0)
        assert stats.stored_bytes == 10
        assert (queue.dead_letters(), queue.next_due_s(), payloads(queue)) == ([], None, [])
    queue.put([event()])
    with pytest.raises(QueueFull):
        queue.put([event()])
    queue.ack(leases)
    clock.advance(100)
    queue.tend()
    assert queue.stats().dropped.get("dead_expired", 0) == (where == "expired")
    assert (queue.stats().queued, queue.stats().stored_bytes) == (1, 10)


def test_letters_that_were_delivered_after_all_count_towards_no_bound() -> None:
    """Neither do their bytes expire others."""
    queue = MemoryQueue(dead_bytes_max=100, clock=ManualClock())
    queue.put([event(60), event(60), event(40)])
    leases = queue.claim(URL, 3, 1 << 20)
    queue.bury(leases[:1], "rejected")
    queue.ack(leases[:1])
    queue.bury(leases[1:], "rejected")
    check(queue, dead=2, expired=0)


def test_what_is_due_is_told_past_what_was_settled_meanwhile() -> None:
    """The time until the next that is still waiting; none before now."""
    clock = ManualClock()
    queue = MemoryQueue(clock=clock)
    queue.put([event()] * 3)
    first, second, third = queue.claim(URL, 3, 1 << 20)
    queue.release([third], 9.0)
    queue.release([first], 1.0)
    queue.release([second], 4.0)
    queue.ack([first])
    assert queue.next_due_s() == 4.0
    clock.advance(4.5)
    assert queue.next_due_s() == 4.5
    assert queue.pending(URL) == 1
    queue.ack([second, third])
    assert queue.next_due_s() is None


def test_an_endpoint_is_forgotten_once_nothing_of_it_is_left() -> None:
    """When the queue is tended, every 60 s: not while its events are leased, or wait for anything."""
    clock = ManualClock()
    queue = MemoryQueue(clock=clock)
    queue.put([event()])
    assert queue.tend() == 60.0
    assert queue.lanes() == (URL,)
    leases = queue.claim(URL, 1, 1)
    queue.tend()
    assert queue.lanes() == (URL,)
    queue.release(leases, 5.0)
    queue.tend()
    assert queue.lanes() == (URL,)
    clock.advance(5)
    assert queue.pending(URL) == 1
    queue.tend()
    assert queue.lanes() == (URL,)
    queue.ack(queue.claim(URL, 1, 1))
    queue.tend()
    assert queue.lanes() == ()
    queue.put([event()])
    assert payloads(queue) == [b"x" * 10]


def test_the_end_gives_back_each_lease() -> None:
    """At once due; what is settled stays settled."""
    queue = MemoryQueue(clock=ManualClock())
    queue.put([event()] * 3)
    leases = queue.claim(URL, 3, 1 << 20)
    queue.ack(leases[:1])
    queue.close()
    assert (queue.stats().queued, queue.stats().delivered, queue.next_due_s()) == (2, 1, None)
    assert not any(lease.live for lease in leases)


# -- what interrupts it on its own thread


class Interrupted(list[Event]):
    """Events in the middle of whose being taken something else happens, as in a signal handler."""

    def __init__(self, events: list[Event], then: Callable[[], object]) -> None:
        super().__init__(events)
        self.then = then

    def __iter__(self) -> Iterator[Event]:
        """Let it happen."""
        self.then()
        return super().__iter__()


def test_puts_over_puts_are_counted_against_the_bound() -> None:
    """A put sees those that it interrupts others over; what the outermost holds may exceed it, and nothing else."""
    queue = MemoryQueue(bytes_max=100)
    refused: list[int] = []

    def put_over(size: int, then: Callable[[], object] = lambda: None) -> None:
        try:
            queue.put(Interrupted([event(size)], then))
        except QueueFull:
            refused.append(size)

    def twice() -> None:
        put_over(40, lambda: put_over(60))
        put_over(1)

    put_over(10, twice)
    assert refused == [1]
    assert (queue.stats().queued, queue.stats().stored_bytes) == (3, 110)
    queue.ack(queue.claim(URL, 3, 1 << 20))
    queue.put([event(100)])
    with pytest.raises(QueueFull):
        queue.put([event(1)])


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_a_put_over_a_put_neither_waits_nor_gives_anything_up(overflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused where it would have to wait, and exceeds the bound where it would have to drop."""
    monkeypatch.setattr(memory, "pause", lambda seconds: pytest.fail("it waits"))
    queue = MemoryQueue(bytes_max=100, overflow=overflow)
    queue.put([event(60)])

    def handler() -> None:
        if overflow == "block":
            with pytest.raises(QueueFull):
                queue.put([event(50)])
        else:
            queue.put([event(50)])

    queue.put(Interrupted([event(10)], handler))
    assert queue.stats().dropped == {}
    assert queue.stats().stored_bytes == (70 if overflow == "block" else 120)


def test_a_count_that_interrupts_the_queue_is_the_last_one() -> None:
    """Of before the claim that it interrupts; where there was none yet, a count of nothing."""

    def counts(at: int) -> list[QueueStats]:
        queue, read = MemoryQueue(clock=ManualClock()), list[QueueStats]()
        queue.put([event()])
        interrupted(lambda: queue.claim(URL, 1, 1), at, lambda: read.append(queue.stats()))
        return read

    seen: list[QueueStats] = []
    while read := counts(len(seen) + 1):
        seen += read
    assert {(stats.accepted, stats.queued, stats.in_flight) for stats in seen} == {(0, 0, 0), (1, 1, 0), (1, 0, 1)}


WORKS: dict[str, Callable[[MemoryQueue, list[Lease]], object]] = {
    "put": lambda queue, leases: queue.put([event(), event()]),
    "claim": lambda queue, leases: leases.extend(queue.claim(URL, 2, 1 << 20)),
    "ack": lambda queue, leases: queue.ack(leases),
    "release": lambda queue, leases: queue.release(leases),
    "bury": lambda queue, leases: queue.bury(leases, "rejected"),
    "stats": lambda queue, leases: queue.stats(),
    "tend": lambda queue, leases: queue.tend(),
    "drop_remaining": lambda queue, leases: queue.drop_remaining("memory_at_exit"),
}


@pytest.mark.parametrize("overflow", ["refuse", "drop_oldest"])
@pytest.mark.parametrize("work", WORKS)
def test_a_put_over_anything_at_any_instruction(work: str, overflow: Any) -> None:
    """Every event is in one place, and afterwards the queue takes as much as its bound says, to the last event."""

    def was_interrupted(at: int) -> bool:
        queue = MemoryQueue(events_max=3 if overflow == "drop_oldest" else 5, overflow=overflow, clock=ManualClock())
        queue.put([event(), event()])
        leases, nested = queue.claim(URL, 1, 1), list[bool]()

        def handler() -> None:
            nested.append(False)
            with suppress(QueueFull):
                queue.put([event()])
                nested[0] = True

        interrupted(lambda: WORKS[work](queue, leases), at, handler)
        assert queue.stats().accepted == 2 + sum(nested) + 2 * (work == "put")
        assert_sum_closes(queue)
        queue.ack([*leases, *queue.claim(URL, 9, 1 << 20)])
        assert queue.stats().stored_bytes == 0
        queue.overflow = "refuse"
        queue.put([event()] * queue.events_max)
        with pytest.raises(QueueFull):
            queue.put([event()])
        return bool(nested)

    at = 1
    while was_interrupted(at):
        at += 1
    assert at > 20


@pytest.mark.parametrize("work", WORKS)
def test_the_count_over_anything_at_any_instruction(work: str) -> None:
    """It closes: it is of before or of after what it interrupts."""

    def counts(at: int) -> list[QueueStats]:
        queue = MemoryQueue(events_max=3, overflow="drop_oldest", clock=ManualClock())
        queue.put([event(), event()])
        leases, read = queue.claim(URL, 1, 1), list[QueueStats]()
        queue.stats()
        interrupted(lambda: WORKS[work](queue, leases), at, lambda: read.append(queue.stats()))
        return read

    at = 1
    while read := counts(at):
        assert all(closes(stats) and stats.accepted in {2, 4} for stats in read)
        at += 1
    assert at > 20
