"""Several writers on one folder against a model that is a few sets: nothing is lost, invented, or leased twice.

Each queue is a process of its own as far as the journal can tell: flocks belong to what ``open`` returned.  A crash
closes a queue's descriptors and writes nothing, as kill -9 would.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventpost.errors import QueueFull
from eventpost.event import Envelope, Event
from eventpost.queues.journal import JournalQueue, inspect
from eventpost.queues.protocol import Answer, Lease
from eventpost.testing.clock import ManualClock

LANES = ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b")
WORKERS = st.integers(0, 2)
LANE = st.sampled_from(LANES)
ALL = 1 << 30


def number_of(lease: Lease) -> int:
    """Return the number in an event's payload."""
    return int(lease.event.payload.rstrip(b" "))


class Worker:
    """One process: its queue, and the leases that its sender holds."""

    def __init__(self, queue: JournalQueue) -> None:
        self.queue = queue
        self.leases: list[Lease] = []


class Journal(RuleBasedStateMachine):
    """``accepted`` is what puts promised; an event leaves ``queued`` by an ack, by a burial, or by nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "j"
        self.clock = ManualClock()
        self.workers: list[Worker | None] = [None, None, None]
        self.accepted: set[int] = set()
        self.delivered: set[int] = set()
        self.dead: set[int] = set()
        self.options: dict[str, Any] = {}

    @initialize(durability=st.sampled_from(["os", "fsync"]), stores_only=st.booleans())
    def begin(self, *, durability: str, stores_only: bool) -> None:
        """Choose a level, and whether the first process leaves its events to the others."""
        self.options = {"durability": durability, "segment_bytes_max": 1 << 18, "clock": self.clock}
        self.stores_only = stores_only

    def worker(self, index: int) -> Worker:
        """Return a process; a new one if there is none."""
        found = self.workers[index]
        if found is None:
            queue = JournalQueue(self.folder, adopt="always" if index else "elected", **self.options)
            queue.sends = not (self.stores_only and index == 0)
            found = self.workers[index] = Worker(queue)
        return found

    @rule(index=WORKERS, lane=LANE, count=st.integers(1, 5), size=st.sampled_from([10, 10, 3000, 70_000]))
    def put(self, index: int, lane: str, count: int, size: int) -> None:
        """Put several events at once."""
        first = len(self.accepted)
        envelope = Envelope(lane, shared=True, prefix=b"[", suffix=b"]")
        events = [Event(envelope, str(number).encode().ljust(size)) for number in range(first, first + count)]
        try:
            self.worker(index).queue.put(events)
        except QueueFull:
            return
        self.accepted.update(range(first, first + count))

    @precondition(lambda self: self.accepted)
    @rule(index=WORKERS, lane=LANE, count=st.integers(1, 8))
    def claim(self, index: int, lane: str, count: int) -> None:
        """Claim from the first who has any: nothing that is delivered, dead or held comes again."""
        held = {number_of(lease) for other in self.workers if other for lease in other.leases}
        for step in range(3):
            worker = self.worker((index + step) % 3)
            if not worker.queue.sends:
                continue
            leases = worker.queue.claim(lane, count, ALL) or worker.queue.claim(LANES[lane == LANES[0]], count, ALL)
            for lease in leases:
                number = number_of(lease)
                assert number in self.accepted
                assert number not in held, f"{number} is leased twice"
                assert number not in self.delivered, f"{number} was delivered"
                assert number not in self.dead, f"{number} is dead"
                held.add(number)
            worker.leases += leases
            if leases:
                return

    @precondition(lambda self: any(worker and worker.leases for worker in self.workers))
    @rule(
        index=WORKERS, count=st.integers(1, 8), delay_s=st.sampled_from([0.0, 0.0, 5.0]),
        how=st.sampled_from(["ack", "release", "late", "bury"]),
    )  # fmt: skip
    def settle(self, index: int, count: int, delay_s: float, how: str) -> None:
        """Deliver, give back, give back and hear of the delivery later, or set aside."""
        busy = [worker for worker in self.workers if worker and worker.leases]
        worker = busy[index % len(busy)]
        leases, worker.leases = worker.leases[:count], worker.leases[count:]
        numbers = {number_of(lease) for lease in leases}
        if how in {"release", "late"}:
            worker.queue.release(leases, delay_s)
        if how in {"ack", "late"}:
            worker.queue.ack(leases)
            self.delivered |= numbers
        if how == "bury":
            worker.queue.bury(leases, "rejected", Answer(400, "no"))
            self.dead |= numbers

    @precondition(lambda self: self.dead)
    @rule()
    def retry(self) -> None:
        """Put the dead letters back from outside."""
        assert inspect.retry_dead(self.folder, None) == len(self.dead)
        self.dead = set()

    @rule(index=WORKERS, tend=st.booleans())
    def look(self, index: int, *, tend: bool) -> None:
        """Look for what others left, or do all the periodic work that is due."""
        queue = self.worker(index).queue
        queue.tend() if tend else queue.scan()

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 61.0]))
    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.advance(seconds)

    @precondition(lambda self: any(self.workers))
    @rule(index=WORKERS, crash=st.booleans())
    def end(self, index: int, *, crash: bool) -> None:
        """End in order, or like kill -9."""
        worker, self.workers[index] = self.worker(index), None
        if crash:
            worker.queue.after_fork_in_child()
        else:
            worker.queue.close()

    @invariant()
    def each_process_can_account_for_its_events(self) -> None:
        """Each count closes, and none is negative."""
        for worker in self.workers:
            if worker is not None:
                stats = worker.queue.stats()
                counts = (stats.delivered, stats.queued, stats.in_flight, stats.dead, *stats.dropped.values())
                assert stats.accepted == sum(counts), stats
                assert min(counts) >= 0, stats
                assert stats.in_flight == len(worker.leases), stats

    @invariant()
    def the_folder_can_account_for_all(self) -> None:
        """Find the model's sum in the folder, at every step."""
        if self.folder.exists():
            status = inspect.folder_status(self.folder, clock=self.clock)
            left = len(self.accepted) - len(self.delivered) - len(self.dead)
            assert status.closes, status
            assert (status.accepted, status.delivered, status.queued, status.dead) == (
                len(self.accepted), len(self.delivered), left, len(self.dead),
            )  # fmt: skip
            assert not status.dropped
            assert not status.trouble

    def teardown(self) -> None:
        """All end; a last process delivers the rest, each event once, and nothing stays behind."""
        try:
            for worker in self.workers:
                if worker is not None:
                    worker.queue.close()
            if self.folder.exists():
                self.deliver_the_rest()
        finally:
            shutil.rmtree(self.root)

    def deliver_the_rest(self) -> None:
        """Adopt all there is."""
        last = JournalQueue(self.folder, adopt="always", **self.options)
        last.scan()
        rest: Counter[int] = Counter()
        for lane in LANES:
            while leases := last.claim(lane, 100, ALL):
                rest.update(number_of(lease) for lease in leases)
                last.ack(leases)
        last.tend()
        last.close()
        assert rest == Counter(self.accepted - self.delivered - self.dead)
        assert list((self.folder / "segments").iterdir()) == []
        assert list((self.folder / "bad").iterdir()) == []
        status = inspect.folder_status(self.folder, clock=self.clock)
        assert status.closes
        assert (status.accepted, status.dead) == (len(self.accepted), len(self.dead))


TestJournal = Journal.TestCase
TestJournal.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
