"""The queue in memory against a model that is a few sets: what it holds, what it refuses, and what it gives up.

It has no disk that could fill or rot; what there is instead is its bound, the death of its process, which takes all
along, and a fork, after which parent and child have nothing in common but the past.
"""

from __future__ import annotations

import copy
from typing import Any

import proof.process_model
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventpost.errors import EventTooLarge, QueueFull, QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.protocol import Answer, Lease
from eventpost.testing.clock import ManualClock

LANES = ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b")
LANE = st.sampled_from(LANES)
WHO = st.integers(0, 2)
EVENTS_MAX, BYTES_MAX, DEAD_BYTES_MAX, DEAD_AGE_MAX_S = 12, 300, 60, 100.0
ALL = 1 << 30

assert proof.process_model  # it tells ``copy`` how a fork copies locks


def number_of(lease: Lease) -> int:
    """Return the number in an event's payload."""
    return int(lease.event.payload)


class Life:
    """One process: its queue, and what must be true of it."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.queue = queue
        self.sizes: dict[int, int] = {}
        self.lanes: dict[int, str] = {}
        self.leases: list[Lease] = []
        self.stale: list[Lease] = []
        self.claimed: set[int] = set()
        self.delivered: set[int] = set()
        self.letters: list[tuple[int, float]] = []
        self.forgotten: set[int] = set()
        self.closed = False

    @property
    def dead(self) -> set[int]:
        """What is set aside."""
        return {number for number, _ in self.letters}

    def held(self) -> set[int]:
        """Return what is leased."""
        return {number_of(lease) for lease in self.leases}

    def expire(self, before: float) -> None:
        """Expect the oldest letters to go, by age and by bytes."""
        while self.letters and (
            sum(self.sizes[number] for number, _ in self.letters) > DEAD_BYTES_MAX or self.letters[0][1] < before
        ):
            self.forgotten.add(self.letters.pop(0)[0])


class Memory(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.lives: list[Life | None] = [None, None, None]
        self.number = 0

    @initialize(overflow=st.sampled_from(["refuse", "drop_oldest"]))
    def begin(self, overflow: Any) -> None:
        """Choose what a full queue does."""
        self.overflow = overflow

    def life(self, who: int) -> Life:
        """Return a process; a new one if there is none."""
        found = self.lives[who]
        if found is None:
            queue = MemoryQueue(
                EVENTS_MAX, BYTES_MAX, self.overflow,
                dead_bytes_max=DEAD_BYTES_MAX, dead_age_max_s=DEAD_AGE_MAX_S, clock=self.clock,
            )  # fmt: skip
            found = self.lives[who] = Life(queue)
        return found

    @rule(who=WHO, lane=LANE, count=st.sampled_from([1, 1, 2, 5, 13]), size=st.sampled_from([5, 5, 30, 120]))
    def put(self, who: int, lane: str, count: int, size: int) -> None:
        """Put several at once: all of them or none, and refused only where there is no room."""
        life = self.life(who)
        numbers = range(self.number, self.number + count)
        self.number += count
        events = [Event(Envelope(lane), str(number).encode().rjust(size, b"0")) for number in numbers]
        before = life.queue.stats()
        held_bytes = sum(life.sizes[number] for number in life.held())
        fits = (
            before.queued + before.in_flight + count <= EVENTS_MAX and before.stored_bytes + count * size <= BYTES_MAX
        )
        may_fit = before.in_flight + count <= EVENTS_MAX and held_bytes + count * size <= BYTES_MAX
        try:
            life.queue.put(events)
        except QueueUnavailable as error:
            assert (life.closed, error.reason) == (True, "closed")  # noqa: PT017 - it is one outcome of three
        except EventTooLarge:
            assert count > EVENTS_MAX or count * size > BYTES_MAX
        except QueueFull:
            assert not fits
            assert self.overflow == "refuse" or not may_fit
        else:
            assert not life.closed
            assert fits or (self.overflow == "drop_oldest" and may_fit)
            life.sizes |= dict.fromkeys(numbers, size)
            life.lanes |= dict.fromkeys(numbers, lane)

    @rule(who=WHO, lane=LANE, count=st.integers(1, 6), size=st.sampled_from([1, 60, ALL]))
    def claim(self, who: int, lane: str, count: int, size: int) -> None:
        """Claim: nothing that is delivered, dead or held; what was never claimed comes in order."""
        life = self.life(who)
        pending = life.queue.pending(lane)
        leases = life.queue.claim(lane, count, size)
        assert len(leases) <= min(count, pending)
        held, new = life.held(), []
        for lease in leases:
            number = number_of(lease)
            assert life.lanes[number] == lane == lease.event.lane
            assert len(lease.event.payload) == life.sizes[number]
            assert number not in held | life.delivered | life.dead | life.forgotten
            held.add(number)
            new += [number] if number not in life.claimed else []
        earlier = [number for number in life.claimed if life.lanes[number] == lane]
        assert new == sorted(new)
        assert not new or not earlier or min(new) > max(earlier)
        assert sum(len(lease.event.payload) for lease in leases[:-1]) < size
        life.claimed |= held
        life.leases += leases

    @precondition(lambda self: any(life and life.leases for life in self.lives))
    @rule(
        who=WHO, count=st.integers(1, 6), delay_s=st.sampled_from([0.0, 0.0, 5.0]),
        how=st.sampled_from(["ack", "release", "bury"]),
    )  # fmt: skip
    def settle(self, who: int, count: int, delay_s: float, how: str) -> None:
        """Deliver, give back or set aside."""
        busy = [life for life in self.lives if life and life.leases]
        life = busy[who % len(busy)]
        leases, life.leases = life.leases[:count], life.leases[count:]
        life.stale += leases
        numbers = [number_of(lease) for lease in leases]
        if how == "ack":
            life.queue.ack(leases)
            life.delivered |= set(numbers)
        elif how == "release":
            life.queue.release(leases, delay_s)
        else:
            life.queue.bury(leases, "rejected", Answer(400, "no"))
            life.letters += [(number, self.clock.time()) for number in numbers]
            life.expire(self.clock.time() - DEAD_AGE_MAX_S)

    @precondition(lambda self: any(life and life.stale for life in self.lives))
    @rule(who=WHO, at=st.integers(0, 20), late=st.booleans())
    def settle_again(self, who: int, at: int, *, late: bool) -> None:
        """Settle what is settled: a late answer delivers the event wherever it is, all else changes nothing."""
        some = [life for life in self.lives if life and life.stale]
        life = some[who % len(some)]
        lease = life.stale[at % len(life.stale)]
        number = number_of(lease)
        if not late:
            life.queue.release([lease], 5.0)
            life.queue.bury([lease], "rejected")
            return
        before = life.queue.stats()
        life.queue.ack([lease])
        gained = life.queue.stats().delivered - before.delivered
        if number in life.delivered | life.forgotten:
            assert not gained
        elif number in life.dead | life.held():
            assert gained == 1
        if gained:  # else it had been dropped
            life.delivered.add(number)
            life.letters = [letter for letter in life.letters if letter[0] != number]
            life.leases = [one for one in life.leases if number_of(one) != number]

    @rule(seconds=st.sampled_from([0.1, 5.0, 61.0]), who=WHO)
    def wait(self, seconds: float, who: int) -> None:
        """Let time go by, and somebody do its periodic work."""
        self.clock.advance(seconds)
        life = self.life(who)
        life.queue.tend()
        life.expire(self.clock.time() - DEAD_AGE_MAX_S)

    @precondition(lambda self: any(self.lives) and not all(self.lives))
    @rule(who=WHO)
    def fork(self, who: int) -> None:
        """Fork: the child begins with nothing, and the parent never hears of it."""
        there = [life for life in self.lives if life]
        parent = there[who % len(there)]
        before = parent.queue.stats()
        child: MemoryQueue = copy.deepcopy(parent.queue, {id(self.clock): self.clock})
        child.after_fork_in_child()
        assert (child.stats().accepted, child.stats().stored_bytes, child.lanes(), child.dead_letters()) == (
            0,
            0,
            (),
            [],
        )
        assert parent.queue.stats() == before
        self.lives[self.lives.index(None)] = Life(child)

    @precondition(lambda self: any(self.lives))
    @rule(who=WHO, how=st.sampled_from(["killed", "closed", "over"]))
    def end(self, who: int, how: str) -> None:
        """Die, which takes all along; or be closed, which gives back; or be over, which drops and counts the rest."""
        life = self.life(who)
        if how == "killed":
            self.lives[who] = None
            return
        life.queue.close()
        life.closed = True
        life.stale += life.leases
        life.leases = []
        if how == "over":
            stats = life.queue.stats()
            assert life.queue.drop_remaining("memory_at_exit") == stats.queued
            assert life.queue.stats().dropped["memory_at_exit"] == stats.queued if stats.queued else True
            self.lives[who] = None

    @invariant()
    def each_can_account_for_all(self) -> None:
        """Find the model's count, and nothing beyond the bound."""
        for life in self.lives:
            if life is None:
                continue
            stats = life.queue.stats()
            dropped = stats.dropped.get("overflow", 0)
            queued = (
                len(life.sizes)
                - len(life.delivered)
                - len(life.letters)
                - len(life.forgotten)
                - len(life.leases)
                - dropped
            )
            assert stats.accepted == len(life.sizes), stats
            assert (stats.delivered, stats.dead) == (len(life.delivered), len(life.letters)), stats
            assert (stats.queued, stats.in_flight) == (queued, len(life.leases)), stats
            assert stats.dropped.get("dead_expired", 0) == len(life.forgotten), stats
            assert stats.queued + stats.in_flight <= EVENTS_MAX
            assert 0 <= stats.stored_bytes <= BYTES_MAX
            assert not dropped or self.overflow == "drop_oldest"
            assert [int(letter.event.payload) for letter in life.queue.dead_letters()] == [n for n, _ in life.letters]

    def teardown(self) -> None:
        """Deliver the rest, each event once; what is missing was dropped to make room, and of the new the oldest."""
        self.clock.advance(1000)
        for life in self.lives:
            if life is None or life.closed:
                continue
            life.queue.ack(life.leases)
            left = set(life.sizes) - life.delivered - life.dead - life.forgotten - life.held()
            rest: set[int] = set()
            for lane in LANES:
                while leases := life.queue.claim(lane, 3, ALL):
                    numbers = {number_of(lease) for lease in leases}
                    assert len(numbers) == len(leases)
                    assert numbers <= left - rest
                    rest |= numbers
                    life.queue.ack(leases)
            dropped = left - rest
            assert len(dropped) == life.queue.stats().dropped.get("overflow", 0)
            assert max(dropped - life.claimed, default=-1) < min(rest - life.claimed, default=self.number)
            assert life.queue.stats().stored_bytes == 0


def test_the_queue_in_memory_keeps_to_the_model() -> None:
    """Puts, claims, settlements, late ones, a full queue, forks and deaths, in any order."""
    run_state_machine_as_test(Memory, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))
