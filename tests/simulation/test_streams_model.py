"""The queue on Redis Streams against a model that is a few sets, on a real Valkey that is killed and started again.

Each queue is a process of its own as far as the server can tell.  A crash leaves it without a word, its connections
closed; a fork is a real one.  A lease's time passes without being waited for: the server is told that what is pending
has been idle for as long, and the process that its clock went on.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventpost.errors import QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues.protocol import Answer, Lease
from eventpost.testing.clock import ManualClock
from redis_support import Fleet, RedisServer, RedisStreamsQueue, a_valkey
from support import closes

from redis import Redis  # isort: skip
from eventpost.queues.streams import claims, holding  # isort: skip - after the check that redis is here

LANES = ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b")
LANE = st.sampled_from(LANES)
WHO = st.integers(0, 2)
ALL = 1 << 30
LEASE_S = 60.0
SHARDS = 2
WAIT_S = 10.0
NAMES = itertools.count()


def number_of(lease: Lease) -> int:
    """Return the number in an event's payload."""
    return int(lease.event.payload)


class Boot:
    """The seconds since the machine came up; some of them are skipped."""

    skipped_s = 0.0

    def __call__(self) -> float:
        """Return them."""
        return time.monotonic() + self.skipped_s


class Life:
    """One process: its queue, what it put, and what it was leased."""

    def __init__(self, queue: RedisStreamsQueue) -> None:
        self.queue = queue
        self.accepted = 0
        self.leases: list[Lease] = []
        self.stale: list[Lease] = []


class Streams(RuleBasedStateMachine):
    """``accepted`` is what puts promised; it is delivered, dead, or still to be had, by one holder at a time."""

    server: ClassVar[RedisServer]
    boot: ClassVar[Boot]

    def __init__(self) -> None:
        super().__init__()
        self.name = f"model-{os.getpid()}-{next(NAMES)}"
        self.clock = ManualClock()
        self.lives: list[Life | None] = [None, None, None]
        self.number = 0
        self.lane_of: dict[int, str] = {}
        self.delivered: set[int] = set()
        self.dead: set[int] = set()
        self.gone: set[int] = set()
        """What lay on the server when it was emptied."""
        self.holders: dict[int, Life] = {}
        """Whose lease has not run out, be it alive or not: nobody else may have it."""
        self.raw = Redis(port=self.server.port)
        self.fleet = Fleet(self.server.url, name=self.name)

    @property
    def left(self) -> set[int]:
        """What is neither delivered nor dead."""
        return self.lane_of.keys() - self.delivered - self.dead - self.gone

    def life(self, who: int) -> Life:
        """Return a process; a new one if there is none."""
        found = self.lives[who]
        if found is None:
            queue = RedisStreamsQueue(
                self.server.url, name=self.name, shards=SHARDS, lease_s=LEASE_S, timeout_s=5.0, clock=self.clock
            )
            found = self.lives[who] = Life(queue)
        return found

    def events(self, lane: str, count: int) -> list[Event]:
        """Make new events."""
        first, self.number = self.number, self.number + count
        return [Event(Envelope(lane), str(number).encode()) for number in range(first, self.number)]

    def promised(self, lane: str, events: list[Event]) -> None:
        """Note that a put said yes."""
        self.lane_of |= {int(one.payload): lane for one in events}

    @rule(who=WHO, lane=LANE, count=st.sampled_from([1, 1, 3, 20]))
    def put(self, who: int, lane: str, count: int) -> None:
        """Put several at once."""
        life = self.life(who)
        events = self.events(lane, count)
        steadily(lambda: life.queue.put(events))
        life.accepted += count
        self.promised(lane, events)

    @rule(who=WHO, lane=LANE, count=st.integers(1, 6), look=st.booleans())
    def claim(self, who: int, lane: str, count: int, *, look: bool) -> None:
        """Claim: nothing that is delivered, dead, or anybody's."""
        life = self.life(who)
        if look:
            self.tend(life)
        for lease in life.queue.claim(lane, count, ALL):
            number = number_of(lease)
            assert self.lane_of[number] == lane
            assert number in self.left, "it is settled"
            holder = self.holders.get(number)
            assert holder is None, "it is leased" if holder is life else "it is another's"
            self.holders[number] = life
            life.leases.append(lease)

    @precondition(lambda self: any(life and life.leases for life in self.lives))
    @rule(
        who=WHO, first=st.integers(0, 5), count=st.integers(1, 4), delay_s=st.sampled_from([0.0, 5.0]),
        how=st.sampled_from(["ack", "release", "bury"]),
    )  # fmt: skip
    def settle(self, who: int, first: int, count: int, delay_s: float, how: str) -> None:
        """Deliver, give back or set aside what is surely one's own."""
        busy = [life for life in self.lives if life and life.leases]
        life = busy[who % len(busy)]
        leases = life.leases[first % len(life.leases) :][:count]
        life.leases = [lease for lease in life.leases if lease not in leases]
        life.stale += leases
        numbers = {number_of(lease) for lease in leases}
        if how == "ack":
            steadily(lambda: life.queue.ack(leases))
            self.delivered |= numbers
        elif how == "release":
            life.queue.release(leases, delay_s)
        else:
            steadily(lambda: life.queue.bury(leases, "rejected", Answer(400, "no")))
            self.dead |= numbers
        for number in numbers:
            del self.holders[number]

    @precondition(lambda self: any(life and life.stale for life in self.lives))
    @rule(who=WHO, at=st.integers(0, 20), how=st.sampled_from(["ack", "release", "bury"]))
    def settle_late(self, who: int, at: int, how: str) -> None:
        """Settle what may be another's by now: an answer is a fact, all else is for who holds it."""
        some = [life for life in self.lives if life and life.stale]
        life = some[who % len(some)]
        lease = life.stale[at % len(life.stale)]
        number = number_of(lease)
        before = self.fleet.status()
        if how == "ack":
            steadily(lambda: life.queue.ack([lease]))
        elif how == "release":
            life.queue.release([lease])
        else:
            steadily(lambda: life.queue.bury([lease], "rejected"))
        after = self.fleet.status()
        gained = (after.delivered - before.delivered, after.dead - before.dead)
        if number not in self.left:
            assert gained == (0, 0)
        elif how == "ack":
            assert gained == (1, 0)
            self.delivered.add(number)
            holder = self.holders.pop(number, None)
            if holder is not None:
                late = [one for one in holder.leases if number_of(one) == number]
                holder.leases = [one for one in holder.leases if one not in late]
                holder.stale += late
        elif gained == (0, 1):
            assert lease.live is False
            assert number not in self.holders, "it is another's"
            self.dead.add(number)
        else:
            assert gained == (0, 0)

    @rule(who=WHO, seconds=st.sampled_from([1.0, 6.0]))
    def wait(self, who: int, seconds: float) -> None:
        """Let a little time go by, and somebody do its periodic work."""
        self.clock.advance(seconds)
        self.tend(self.life(who))

    @precondition(lambda self: any(self.lives))
    @rule()
    def sleep(self) -> None:
        """Stop everybody for longer than a lease: whatever they hold is for who comes first."""
        self.clock.advance(LEASE_S + 1)
        self.boot.skipped_s += LEASE_S + 1
        idle_ms = int((LEASE_S + 1) * 1000)
        for key in self.raw.keys(f"{{{self.name}:*}}:s:*"):
            for one in self.raw.xpending_range(key, "g", "-", "+", 10_000):
                self.raw.xclaim(key, "g", one["consumer"], 0, [one["message_id"]], idle=idle_ms, justid=True)
        self.holders.clear()
        for life in self.lives:
            if life:
                life.stale += life.leases
                life.leases = []

    @precondition(lambda self: any(self.lives))
    @rule(who=WHO, killed=st.booleans())
    def end(self, who: int, *, killed: bool) -> None:
        """Die, which leaves all as it is until the leases end; or close, which hands over at once."""
        life = self.life(who)
        self.lives[who] = None
        if killed:
            life.queue._route.close()
            return
        life.queue.close()
        assert closes(life.queue.stats())
        self.holders = {number: holder for number, holder in self.holders.items() if holder is not life}

    @rule(who=WHO, lane=LANE)
    def fork(self, who: int, lane: str) -> None:
        """Fork: the child puts and counts on its own, the parent never hears of it."""
        life = self.life(who)
        events = self.events(lane, 2)
        before = life.queue.stats()
        pid = os.fork()
        if not pid:  # pragma: no cover - the child
            code = 1
            try:
                life.queue.after_fork_in_child()
                life.queue.put(events)
                stats = life.queue.stats()
                code = 0 if (stats.accepted, stats.in_flight) == (2, 0) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        after = life.queue.stats()
        assert (after.accepted, after.delivered) == (before.accepted, before.delivered)
        self.promised(lane, events)

    @precondition(lambda self: self.lane_of)
    @rule()
    def restart_the_server(self) -> None:
        """Kill -9 the server, and start it again: its file holds all that it answered for."""
        self.server.kill()
        self.server.start()
        for life in self.lives:
            if life:
                steadily(lambda life=life: life.queue.put(self.one_more(life)))

    def one_more(self, life: Life) -> list[Event]:
        """Return one more event, which is put; so that a queue notices that its server is there again."""
        events = self.events(LANES[0], 1)
        life.accepted += 1
        self.promised(LANES[0], events)
        return events

    @precondition(lambda self: len(self.left) > 10)
    @rule()
    def flush(self) -> None:
        """Empty the server."""
        self.server.ask("FLUSHALL")
        self.gone |= self.left
        self.delivered.clear()
        self.dead.clear()
        self.gone = set(self.lane_of)
        self.holders.clear()
        for life in self.lives:
            if life:
                life.stale += life.leases
                life.leases = []
                steadily(lambda life=life: life.queue.put(self.one_more(life)))

    def tend(self, life: Life) -> None:
        """Do all of a process's periodic work at once."""
        life.queue._keeper.reset()
        life.queue.tend()

    @invariant()
    def the_sums_close(self) -> None:
        """Find the model's count on the server, and each process's own in its queue."""
        if not self.lane_of:
            return
        status = self.fleet.status()
        assert status.closes, status
        assert (status.accepted, status.delivered, status.dead) == (
            len(self.lane_of.keys() - self.gone), len(self.delivered), len(self.dead),
        ), status  # fmt: skip
        assert not status.dropped, status
        for life in self.lives:
            if life:
                stats = life.queue.stats()
                assert closes(stats), stats
                assert stats.accepted - stats.adopted == life.accepted, stats

    def teardown(self) -> None:
        """Deliver the rest by one who comes new: each event once, and nothing else is left."""
        try:
            self.sleep()
            last = RedisStreamsQueue(self.server.url, name=self.name, shards=SHARDS, lease_s=LEASE_S, clock=self.clock)
            rest: list[int] = []
            deadline = time.monotonic() + WAIT_S
            while self.left - set(rest):
                assert time.monotonic() < deadline, self.left - set(rest)
                last._keeper.reset()
                last.tend()
                for lane in LANES:
                    leases = last.claim(lane, 7, ALL)
                    rest += [number_of(lease) for lease in leases]
                    steadily(lambda leases=leases: last.ack(leases))
            assert sorted(rest) == sorted(self.left)
            status = self.fleet.status()
            assert (status.queued, status.in_flight, status.stored_bytes) == (0, 0, 0)
            assert {int(letter.event.payload) for letter in self.fleet.dead_letters()} == self.dead
            last.close()
        finally:
            for life in self.lives:
                if life:
                    life.queue._route.close()
            self.fleet.close()
            self.raw.close()


def steadily(do: Callable[[], Any]) -> None:
    """Do it, again while the server has just come back."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            do()
        except QueueUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return


def test_the_shared_queue_keeps_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts, claims, settlements, late ones, crashes, forks, lost leases and restarts of the server, in any order."""
    Streams.boot = Boot()
    for module in (claims, holding):
        monkeypatch.setattr(module, "boot_s", Streams.boot)
    with a_valkey(appendonly="yes", appendfsync="always") as server:
        Streams.server = server
        run_state_machine_as_test(
            Streams,
            settings=settings(
                max_examples=12, stateful_step_count=30, deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )  # fmt: skip
