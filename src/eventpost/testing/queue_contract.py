"""What every queue must do, as tests: subclass it, give it a queue, and run pytest.

    class TestMyQueue(QueueContract):
        def make_queue(self, clock, **options):
            return MyQueue(clock=clock, **options)

``make_queue`` is called with the ManualClock that the test advances, and with options by the names that every bounded
queue has: ``overflow``, and, where ``bounded_by_events`` is true, ``events_max``.  A queue without ``overflow`` sets
``overflows = ()``; one whose put takes longer than ``signal_interval_s`` sets that.  Each call makes a queue with
nothing in it.
"""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..errors import QueueError, QueueFull, QueueUnavailable
from ..event import Envelope, Event
from ..queues.protocol import Answer, Lease, Queue
from .clock import ManualClock

LANE = "http://127.0.0.1:1/v1/events"
OTHER_LANE = "http://127.0.0.1:2/v1/events"
SHARED = Envelope(LANE, shared=True, prefix=b'{"visitors":[', suffix=b"]}")
EVERYTHING = 1 << 30


def make_event(number: int, *, lane: str = LANE, size: int = 0) -> Event:
    """Return an event whose payload begins with its number; ``size`` pads it, in bytes."""
    return Event(SHARED._replace(url=lane), b"%d;" % number + b"x" * size)


def number_of(item: Lease | Event) -> int:
    """Return the number that :func:`make_event` gave the event."""
    event = item.event if isinstance(item, Lease) else item
    return int(event.payload.partition(b";")[0])


def assert_sum_closes(queue: Queue) -> None:
    """Every accepted event is in exactly one place, and nothing is negative."""
    stats = queue.stats()
    parts = [stats.delivered, stats.queued, stats.in_flight, stats.dead, *stats.dropped.values()]
    assert stats.accepted == sum(parts), stats
    assert min([stats.accepted, stats.adopted, stats.stored_bytes, *parts]) >= 0, stats


class QueueContract:
    """The promise of :class:`eventpost.queues.protocol.Queue`, sentence by sentence."""

    overflows: ClassVar[tuple[str, ...]] = ("refuse", "drop_oldest", "block")
    bounded_by_events: ClassVar[bool] = True
    signal_interval_s: ClassVar[float] = 0.0003

    def make_queue(self, clock: ManualClock, **options: Any) -> Queue:
        """Return an empty queue that takes its time from ``clock``."""
        raise NotImplementedError

    @contextmanager
    def a_queue(self, clock: ManualClock | None = None, **options: Any) -> Iterator[Queue]:
        """Make a queue; check the sum and close it in the end."""
        queue = self.make_queue(clock or ManualClock(), **options)
        try:
            yield queue
            assert_sum_closes(queue)
        finally:
            queue.close(1.0)

    # -- the shape

    def test_it_is_a_queue(self) -> None:
        """It has every method of the protocol and states its facts."""
        with self.a_queue() as queue:
            assert isinstance(queue, Queue)
            assert queue.durability in {"memory", "os", "fsync", "host"}
            assert queue.lease_s is None or queue.lease_s > 0

    def test_a_new_queue_is_empty(self) -> None:
        """Nothing is counted, nothing can be claimed, no time is waited for."""
        with self.a_queue() as queue:
            stats = queue.stats()
            assert (stats.accepted, stats.queued, stats.in_flight, stats.delivered, stats.dead) == (0, 0, 0, 0, 0)
            assert queue.claim(LANE, 10, EVERYTHING) == []
            assert queue.pending(LANE) == 0
            assert queue.next_due_s() is None

    # -- put and claim

    def test_what_is_put_can_be_claimed_unchanged_and_in_order(self) -> None:
        """Events come out as they went in, the oldest first, with their envelopes and every byte."""
        events = [make_event(number, size=number) for number in range(5)]
        with self.a_queue() as queue:
            queue.put(events[:2])
            queue.put(events[2:])
            assert queue.pending(LANE) == 5
            leases = queue.claim(LANE, 10, EVERYTHING)
            assert [lease.event for lease in leases] == events
            assert [lease.attempts for lease in leases] == [1] * 5
            assert queue.stats().in_flight == 5

    def test_any_bytes_survive(self) -> None:
        """A payload is bytes: also empty, also no UTF-8, also every envelope field."""
        envelope = Envelope(LANE, "GET", (("X-A", "ä"), ("X-A", "2")), shared=False)
        events = [
            Event(envelope, bytes(range(256))),
            Event(SHARED, b""),
            Event(SHARED._replace(prefix=b"\xff", suffix=b""), b"1"),
        ]
        with self.a_queue() as queue:
            queue.put(events)
            assert [lease.event for lease in queue.claim(LANE, 10, EVERYTHING)] == events

    def test_the_caller_may_reuse_its_list(self) -> None:
        """The queue keeps nothing of the sequence that it was handed."""
        events = [make_event(1)]
        with self.a_queue() as queue:
            queue.put(events)
            events.clear()
            assert queue.stats().queued == 1

    def test_a_claim_is_limited_by_events(self) -> None:
        """A claim returns at most events_max; the rest waits."""
        with self.a_queue() as queue:
            queue.put([make_event(number) for number in range(5)])
            assert [number_of(lease) for lease in queue.claim(LANE, 2, EVERYTHING)] == [0, 1]
            assert [number_of(lease) for lease in queue.claim(LANE, 2, EVERYTHING)] == [2, 3]
            assert [number_of(lease) for lease in queue.claim(LANE, 2, EVERYTHING)] == [4]
            assert queue.claim(LANE, 2, EVERYTHING) == []

    def test_a_claim_is_limited_by_bytes_but_never_empty(self) -> None:
        """A claim stops once bytes_max is reached, and returns one event however large it is."""
        with self.a_queue() as queue:
            queue.put([make_event(number, size=1000) for number in range(4)])
            assert len(queue.claim(LANE, 10, 1)) == 1
            assert 1 <= len(queue.claim(LANE, 10, 1500)) <= 2

    def test_what_was_given_back_is_part_of_a_claims_limits(self) -> None:
        """By events and by bytes, together with what was never claimed."""
        with self.a_queue() as queue:
            queue.put([make_event(number, size=1000) for number in range(6)])
            queue.release(queue.claim(LANE, 2, EVERYTHING))
            leases = queue.claim(LANE, 3, EVERYTHING)
            assert [number_of(lease) for lease in leases] == [0, 1, 2]
            queue.release(leases)
            assert [number_of(lease) for lease in queue.claim(LANE, 10, 1500)] == [0, 1]
            assert [number_of(lease) for lease in queue.claim(LANE, 10, 1500)] == [2, 3]
            assert [number_of(lease) for lease in queue.claim(LANE, 10, 1)] == [4]

    def test_a_claim_ends_where_what_was_given_back_reaches_its_bytes(self) -> None:
        """To the byte: what was never claimed waits then."""
        with self.a_queue() as queue:
            queue.put([make_event(number, size=1000) for number in range(3)])
            queue.release(queue.claim(LANE, 1, EVERYTHING))
            assert [number_of(lease) for lease in queue.claim(LANE, 10, len(make_event(0, size=1000).payload))] == [0]

    def test_an_event_is_leased_once(self) -> None:
        """What is in flight is not claimed again while its lease lives."""
        with self.a_queue() as queue:
            queue.put([make_event(1)])
            assert len(queue.claim(LANE, 10, EVERYTHING)) == 1
            assert queue.claim(LANE, 10, EVERYTHING) == []

    def test_lanes_do_not_mix(self) -> None:
        """A claim on one endpoint never sees another's events, however many there are."""
        with self.a_queue() as queue:
            queue.put([make_event(number) for number in range(100)])
            queue.put([make_event(100, lane=OTHER_LANE)])
            assert set(queue.lanes()) >= {LANE, OTHER_LANE}
            assert [number_of(lease) for lease in queue.claim(OTHER_LANE, 10, EVERYTHING)] == [100]
            assert queue.pending(LANE) == 100
            assert queue.claim("http://127.0.0.1:3/", 10, EVERYTHING) == []

    def test_one_put_may_hold_several_lanes(self) -> None:
        """Events of one put go each to its own lane, in order."""
        with self.a_queue() as queue:
            queue.put([make_event(number, lane=(LANE, OTHER_LANE)[number % 2]) for number in range(6)])
            assert [number_of(lease) for lease in queue.claim(LANE, 10, EVERYTHING)] == [0, 2, 4]
            assert [number_of(lease) for lease in queue.claim(OTHER_LANE, 10, EVERYTHING)] == [1, 3, 5]

    # -- settling

    def test_ack_delivers_and_is_idempotent(self) -> None:
        """Delivered is delivered, once, however often it is said."""
        with self.a_queue() as queue:
            queue.put([make_event(number) for number in range(3)])
            leases = queue.claim(LANE, 2, EVERYTHING)
            queue.ack(leases)
            queue.ack(leases)
            queue.ack([])
            stats = queue.stats()
            assert (stats.delivered, stats.queued, stats.in_flight) == (2, 1, 0)

    def test_release_makes_claimable_again_and_counts_the_attempt(self) -> None:
        """What is given back without delay is due at once; its next lease is its second attempt."""
        with self.a_queue() as queue:
            queue.put([make_event(1)])
            queue.release(queue.claim(LANE, 1, EVERYTHING))
            assert queue.stats().queued == 1
            assert queue.pending(LANE) == 1
            (lease,) = queue.claim(LANE, 1, EVERYTHING)
            assert (number_of(lease), lease.attempts) == (1, 2)

    def test_what_was_given_back_keeps_its_bytes_and_comes_before_younger_events(self) -> None:
        """A retry is the same bytes, and the oldest first still holds."""
        with self.a_queue() as queue:
            queue.put([make_event(1, size=50), make_event(2)])
            (first,) = queue.claim(LANE, 1, EVERYTHING)
            queue.release([first])
            leases = queue.claim(LANE, 2, EVERYTHING)
            assert [number_of(lease) for lease in leases] == [1, 2]
            assert leases[0].event == first.event

    def test_a_delayed_release_waits_for_its_time(self) -> None:
        """Not before delay_s, and next_due_s says when."""
        clock = ManualClock()
        with self.a_queue(clock) as queue:
            queue.put([make_event(1), make_event(2)])
            first, second = queue.claim(LANE, 2, EVERYTHING)
            queue.release([first], delay_s=5.0)
            queue.release([second], delay_s=2.0)
            assert queue.claim(LANE, 2, EVERYTHING) == []
            assert queue.next_due_s() == pytest.approx(2.0)
            clock.advance(2.0)
            assert [number_of(lease) for lease in queue.claim(LANE, 2, EVERYTHING)] == [2]
            assert queue.next_due_s() == pytest.approx(3.0)
            clock.advance(3.0)
            assert [number_of(lease) for lease in queue.claim(LANE, 2, EVERYTHING)] == [1]
            assert queue.next_due_s() is None

    def test_bury_sets_aside(self) -> None:
        """A dead letter is neither queued nor in flight, and is not claimed again."""
        with self.a_queue() as queue:
            queue.put([make_event(1), make_event(2)])
            queue.bury(queue.claim(LANE, 1, EVERYTHING), "http_400", Answer(400, "no"))
            stats = queue.stats()
            assert (stats.dead, stats.queued, stats.in_flight) == (1, 1, 0)
            assert [number_of(lease) for lease in queue.claim(LANE, 10, EVERYTHING)] == [2]

    def test_a_stale_release_or_bury_changes_nothing(self) -> None:
        """They are facts about the lease: once it is settled, they are void."""
        with self.a_queue() as queue:
            queue.put([make_event(1), make_event(2)])
            acked, released = queue.claim(LANE, 2, EVERYTHING)
            queue.ack([acked])
            queue.release([released])
            before = queue.stats()
            queue.release([acked, released], 9.0)
            queue.bury([acked, released], "http_400")
            after = queue.stats()
            assert (after.delivered, after.queued, after.dead, after.in_flight) == (before.delivered, 1, 0, 0)
            assert [number_of(lease) for lease in queue.claim(LANE, 10, EVERYTHING)] == [2]

    def test_a_late_ack_is_a_fact_about_the_event(self) -> None:
        """An answer that comes after the event was given back still delivers it: it is not sent again."""
        with self.a_queue() as queue:
            queue.put([make_event(1)])
            stale = queue.claim(LANE, 1, EVERYTHING)
            queue.release(stale)
            queue.ack(stale)
            assert queue.claim(LANE, 1, EVERYTHING) == []
            assert (queue.stats().delivered, queue.stats().queued) == (1, 0)

    def test_a_late_ack_ends_a_younger_lease(self) -> None:
        """Also when the event was claimed again meanwhile; settling that lease then counts nothing twice."""
        with self.a_queue() as queue:
            queue.put([make_event(1)])
            stale = queue.claim(LANE, 1, EVERYTHING)
            queue.release(stale)
            again = queue.claim(LANE, 1, EVERYTHING)
            queue.ack(stale)
            queue.release(again)
            queue.ack(again)
            stats = queue.stats()
            assert (stats.delivered, stats.queued, stats.in_flight) == (1, 0, 0)

    # -- bounds

    def test_a_full_queue_refuses_all_of_a_put_or_nothing(self) -> None:
        """All or nothing: a put that does not fit as a whole leaves no part behind."""
        self._needs(bounded=True)
        with self.a_queue(events_max=3) as queue:
            queue.put([make_event(1), make_event(2)])
            with pytest.raises(QueueFull):
                queue.put([make_event(3), make_event(4)])
            assert queue.stats().queued == 2
            queue.put([make_event(5)])
            assert [number_of(lease) for lease in queue.claim(LANE, 10, EVERYTHING)] == [1, 2, 5]

    def test_what_can_never_fit_is_refused_with_its_own_reason(self) -> None:
        """A put larger than the empty queue raises a QueueError, whatever the overflow."""
        self._needs(bounded=True)
        for overflow in self.overflows:
            with self.a_queue(events_max=2, overflow=overflow) as queue:
                with pytest.raises(QueueError):
                    queue.put([make_event(number) for number in range(3)])
                assert queue.stats().accepted == 0

    def test_leases_count_against_the_bound_until_they_are_settled(self) -> None:
        """In flight is still stored: it may come back."""
        self._needs(bounded=True)
        with self.a_queue(events_max=1) as queue:
            queue.put([make_event(1)])
            leases = queue.claim(LANE, 1, EVERYTHING)
            with pytest.raises(QueueFull):
                queue.put([make_event(2)])
            queue.ack(leases)
            queue.put([make_event(2)])

    def test_drop_oldest_drops_the_oldest_and_counts_it(self) -> None:
        """The youngest are kept; what went is dropped["overflow"]; what is in flight is never dropped."""
        self._needs(bounded=True, overflow="drop_oldest")
        with self.a_queue(events_max=3, overflow="drop_oldest") as queue:
            queue.put([make_event(1)])
            (leased,) = queue.claim(LANE, 1, EVERYTHING)
            for number in (2, 3, 4, 5):
                queue.put([make_event(number, lane=(LANE, OTHER_LANE)[number % 2])])
            stats = queue.stats()
            assert dict(stats.dropped) == {"overflow": 2}
            left = [*queue.claim(LANE, 10, EVERYTHING), *queue.claim(OTHER_LANE, 10, EVERYTHING)]
            assert sorted(number_of(lease) for lease in left) == [4, 5]
            queue.ack([leased, *left])
            assert queue.stats().delivered == 3

    def test_drop_oldest_refuses_when_everything_is_in_flight(self) -> None:
        """There is nothing that may be dropped."""
        self._needs(bounded=True, overflow="drop_oldest")
        with self.a_queue(events_max=1, overflow="drop_oldest") as queue:
            queue.put([make_event(1)])
            queue.claim(LANE, 1, EVERYTHING)
            with pytest.raises(QueueFull):
                queue.put([make_event(2)])

    def test_an_overflow_that_does_not_exist_is_refused_at_once(self) -> None:
        """A misspelt option is found where it is written."""
        if not self.overflows:
            pytest.skip("this queue has no overflow")
        with pytest.raises(ValueError, match="overflow"):
            self.make_queue(ManualClock(), overflow="panic")

    # -- the end

    def test_a_closed_queue_refuses_puts_as_closed(self) -> None:
        """close() is idempotent, and the count can still be read."""
        with self.a_queue() as queue:
            queue.put([make_event(1)])
            queue.close(1.0)
            queue.close(1.0)
            with pytest.raises(QueueUnavailable) as caught:
                queue.put([make_event(2)])
            assert caught.value.reason == "closed"
            assert queue.stats().accepted == 1

    def test_close_gives_back_what_is_leased(self) -> None:
        """Nothing stays in flight when nobody can settle it any more."""
        with self.a_queue() as queue:
            queue.put([make_event(1)])
            queue.claim(LANE, 1, EVERYTHING)
            queue.close(1.0)
            assert (queue.stats().in_flight, queue.stats().queued) == (0, 1)

    def test_tend_says_when_it_wants_to_be_called_again(self) -> None:
        """The sender sleeps in between."""
        with self.a_queue() as queue:
            queue.put([make_event(1)])
            next_s = queue.tend()
            assert next_s is None or next_s > 0
            assert isinstance(queue.sync(0.1), bool)

    # -- threads and interruptions

    def test_puts_from_many_threads_lose_nothing(self) -> None:
        """Four threads put while one claims and settles; every event comes out once, in order by thread."""
        threads, each = 4, 300
        with self.a_queue() as queue:
            workers = [
                threading.Thread(target=_put_one_by_one, args=(queue, range(at * each, (at + 1) * each)))
                for at in range(threads)
            ]
            for worker in workers:
                worker.start()
            seen: list[int] = []
            deadline = time.monotonic() + 30
            while len(seen) < threads * each and time.monotonic() < deadline:
                leases = queue.claim(LANE, 50, EVERYTHING)
                seen += [number_of(lease) for lease in leases]
                queue.ack(leases)
                assert_sum_closes(queue)
            for worker in workers:
                worker.join(10)
            assert sorted(seen) == list(range(threads * each))
            for at in range(threads):
                own = [number for number in seen if number // each == at]
                assert own == sorted(own)

    def test_a_put_in_a_signal_handler_interrupts_anything_without_deadlock(self) -> None:
        """A timer's handler puts while the main thread puts, claims, settles and reads the count: nothing is lost."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            pytest.skip("needs signals on the main thread")
        with self.a_queue() as queue:
            numbers = iter(range(1_000_000, 2_000_000))
            by_handler: list[int] = []
            inside: list[int] = []

            def handler(signum: int, frame: object) -> None:
                del signum, frame
                if len(inside) == 3:  # a machine that is too busy to serve them as they come
                    return
                number = next(numbers)
                inside.append(number)
                queue.put([make_event(number)])
                by_handler.append(number)
                inside.remove(number)

            before = signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.0005, self.signal_interval_s)
            seen: list[int] = []
            put = 0
            try:
                until = time.monotonic() + 0.5
                while time.monotonic() < until:
                    for _ in range(20):
                        queue.put([make_event(put)])
                        put += 1
                    leases = queue.claim(LANE, 30, EVERYTHING)
                    queue.release(leases[:1])
                    queue.ack(leases[1:])
                    seen += [number_of(lease) for lease in leases[1:]]
                    queue.stats()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            while leases := queue.claim(LANE, 1000, EVERYTHING):
                queue.ack(leases)
                seen += [number_of(lease) for lease in leases]
            assert by_handler
            assert sorted(seen) == sorted([*range(put), *by_handler])
            assert queue.stats().delivered == queue.stats().accepted == put + len(by_handler)

    def test_a_put_in_a_finalizer_interrupts_anything_without_deadlock(self) -> None:
        """``__del__`` may run inside any allocation of a put or a claim, and put."""
        with self.a_queue() as queue:
            made: list[int] = []

            class Last:
                def __init__(self, number: int) -> None:
                    self.number, self.myself = number, self  # a cycle: only the collector ends it

                def __del__(self) -> None:
                    queue.put([make_event(self.number)])
                    made.append(self.number)

            thresholds = gc.get_threshold()
            gc.set_threshold(3, 3, 3)
            try:
                for number in range(300):
                    Last(1000 + number)
                    queue.put([make_event(number)])
                    queue.ack(queue.claim(LANE, 1, EVERYTHING))
            finally:
                gc.set_threshold(*thresholds)
                gc.collect()
            assert len(made) == 300
            assert queue.stats().accepted == 600

    def test_a_forked_child_starts_from_zero(self) -> None:
        """after_fork_in_child forgets the parent's events and count, and the queue is usable at once."""
        with self.a_queue() as queue:
            queue.put([make_event(1)])
            queue.claim(LANE, 1, EVERYTHING)
            queue.after_fork_in_child()
            assert queue.stats().accepted == 0
            queue.put([make_event(2)])
            assert [number_of(lease) for lease in queue.claim(LANE, 10, EVERYTHING)] == [2]

    # -- anything, in any order

    # One function, run by the class of every queue: the executors differ, and no example depends on them.
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(seed=st.integers(0, 2**32), steps=st.integers(1, 60))
    def test_the_sum_closes_after_every_step(self, seed: int, steps: int) -> None:
        """Against a model: random puts, claims and settlements, stale ones included; every event is in one place."""
        chance = random.Random(seed)
        clock = ManualClock()
        with self.a_queue(clock) as queue:
            model = _Model()
            for _ in range(steps):
                getattr(self, f"_step_{chance.choice(_STEPS)}")(queue, model, chance, clock)
                assert_sum_closes(queue)
                stats = queue.stats()
                assert stats.accepted == model.made
                assert (stats.delivered, stats.dead) == (len(model.delivered), len(model.dead))
            clock.advance(1000.0)
            for lane in (LANE, OTHER_LANE):
                while leases := queue.claim(lane, 7, EVERYTHING):
                    queue.ack(leases)
                    model.delivered.update(number_of(lease) for lease in leases)
            queue.ack(model.leases)
            model.delivered.update(number_of(lease) for lease in model.leases)
            model.dead -= model.delivered
            assert model.delivered | model.dead == set(range(model.made))

    def _step_put(self, queue: Queue, model: _Model, chance: random.Random, clock: ManualClock) -> None:
        del clock
        count = chance.randint(1, 5)
        lanes = [chance.choice((LANE, OTHER_LANE)) for _ in range(count)]
        queue.put([make_event(model.made + at, lane=lane) for at, lane in enumerate(lanes)])
        model.made += count

    def _step_claim(self, queue: Queue, model: _Model, chance: random.Random, clock: ManualClock) -> None:
        del clock
        leases = queue.claim(chance.choice((LANE, OTHER_LANE)), chance.randint(1, 6), EVERYTHING)
        held = {number_of(lease) for lease in model.live}
        for lease in leases:
            number = number_of(lease)
            assert number not in held
            assert number not in model.delivered
            assert number not in model.dead
        model.live += leases
        model.leases += leases

    def _step_ack(self, queue: Queue, model: _Model, chance: random.Random, clock: ManualClock) -> None:
        del clock
        leases = model.some_live(chance)
        queue.ack(leases)
        model.delivered.update(number_of(lease) for lease in leases)

    def _step_release(self, queue: Queue, model: _Model, chance: random.Random, clock: ManualClock) -> None:
        del clock
        queue.release(model.some_live(chance), chance.choice((0.0, 0.0, 1.5, 10.0)))

    def _step_bury(self, queue: Queue, model: _Model, chance: random.Random, clock: ManualClock) -> None:
        del clock
        leases = model.some_live(chance)
        queue.bury(leases, "http_400", Answer(400, "no"))
        model.dead.update(number_of(lease) for lease in leases)

    def _step_stale(self, queue: Queue, model: _Model, chance: random.Random, clock: ManualClock) -> None:
        del clock
        live = set(map(id, model.live))
        stale = [lease for lease in model.leases if id(lease) not in live][: chance.randint(0, 3)]
        queue.release(stale, 1.0)
        queue.bury(stale, "late")

    def _step_time(self, queue: Queue, model: _Model, chance: random.Random, clock: ManualClock) -> None:
        del model
        clock.advance(chance.choice((0.1, 1.0, 5.0)))
        queue.tend()

    def _needs(self, *, bounded: bool = False, overflow: str | None = None) -> None:
        if bounded and not self.bounded_by_events:
            pytest.skip("this queue has no bound on events")
        if overflow is not None and overflow not in self.overflows:
            pytest.skip(f"this queue has no overflow {overflow!r}")


def _put_one_by_one(queue: Queue, numbers: range) -> None:
    for number in numbers:
        queue.put([make_event(number)])


_STEPS = ("put", "put", "claim", "claim", "ack", "release", "bury", "stale", "time")


class _Model:
    """What a queue should know, in sets."""

    def __init__(self) -> None:
        self.made = 0
        self.live: list[Lease] = []
        self.leases: list[Lease] = []
        self.delivered: set[int] = set()
        self.dead: set[int] = set()

    def some_live(self, chance: random.Random) -> list[Lease]:
        """Take some of the leases that live out of the model."""
        count = chance.randint(0, len(self.live))
        taken = chance.sample(self.live, count)
        self.live = [lease for lease in self.live if lease not in taken]
        return taken
