"""Processes with a spill in one folder, and a server that comes and goes, against a model that is a list and some sets.

The folder lies on the proof's file system in memory, so a process may be killed at any call of its disk; the server is
a list of what it has stored.  It may refuse, be full, take events and not say so, and its process may be killed between
the server's yes and the note of it.  What must hold: what a put promised reaches the server, in the order in which each
process put it, and each process counts an event once, at every moment.
"""

from __future__ import annotations

import copy
import copyreg
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import proof.process_model
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from proof.disk_model import Killed, ModelDisk
from proof.file_system import NEVER, FileSystem
from proof.twists import WorldClock
from proof.wiring import PATH, wired

from eventpost.errors import QueueError, QueueFull, QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues.journal import JournalQueue, inspect
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.spill import SpillQueue, flow
from eventpost.sender.primitives import Lock

LANES = ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b")
WORKERS = st.integers(0, 2)
CALLS = st.sampled_from([None] * 30 + list(range(10)))
"""After how many calls of its disk a process dies; None: it does not."""
ALL = 1 << 30

assert proof.process_model  # it tells ``copy`` how a fork copies most locks
copyreg.pickle(type(Lock()), lambda _: (Lock, ()))  # type: ignore[arg-type]  # and the child makes this one anew


class Server:
    """What all processes share: what it has stored, and how it behaves."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, str]] = []
        self.mood = "there"

    def __deepcopy__(self, memo: dict[int, Any]) -> Server:
        return self

    def store(self, events: Sequence[Event]) -> None:
        """Note them."""
        for event in events:
            writer, _, number = event.payload.decode().strip().partition(":")
            self.log.append((writer, int(number), event.lane))


class OnServer(MemoryQueue):
    """One process's hands on it; the rest of a queue is that of one in memory."""

    def __init__(self, server: Server, die: Callable[[], None], clock: WorldClock) -> None:
        super().__init__(events_max=1 << 40, bytes_max=1 << 40, clock=clock)
        self.server = server
        self.die = die

    def put(self, events: Sequence[Event]) -> None:
        """Store, or do what the mood says."""
        mood = self.server.mood
        if mood == "away":
            raise QueueUnavailable("nobody answers", reason="redis_unavailable")
        if mood == "full":
            raise QueueFull("maxmemory", reason="redis_full")
        if mood == "few" and len(events) > 1:
            raise QueueFull("its bound")
        self.server.store(events)
        if mood == "mute":
            raise QueueUnavailable("no answer", reason="redis_unavailable")
        if mood == "deadly":
            self.die()
            raise Killed
        super().put(events)


class Worker:
    """One process."""

    def __init__(self, name: str, queue: SpillQueue) -> None:
        self.name = name
        self.queue = queue
        self.made = 0
        self.puts = 0
        self.out_of_turn = False


class Spills(RuleBasedStateMachine):
    """``accepted`` is what puts promised, by process and number."""

    met: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.clock = WorldClock()
        self.rng = random.Random(0)
        self.fs = FileSystem(self.clock.time)
        self.server = Server()
        self.workers: list[Worker | None] = [None, None, None]
        self.accepted: set[tuple[str, int]] = set()
        self.free: set[str] = set()
        self.names = 0
        self.wiring = wired(self)  # type: ignore[arg-type]  # as much of a world as it needs
        self.wiring.__enter__()

    @property
    def tool_disk(self) -> ModelDisk:
        """Hands for who looks from outside."""
        return ModelDisk(self.fs)

    # -- processes

    def new_name(self) -> str:
        """Return a name for a process."""
        self.names += 1
        return f"w{self.names}"

    def make_queue(self, adopt: Any = "elected") -> SpillQueue:
        """Start a process; there is room for that."""
        self.fs.capacity = NEVER
        disk = ModelDisk(self.fs)
        options = {"segment_bytes_max": 1 << 18, "clock": self.clock, "allow_network_fs": True}
        spill = JournalQueue(PATH, adopt=adopt, disk=disk, **options)
        return SpillQueue(OnServer(self.server, disk.die, self.clock), spill, clock=self.clock)

    def worker(self, index: int) -> Worker:
        """Return a process; a new one if there is none."""
        found = self.workers[index]
        if found is None:
            found = self.workers[index] = Worker(self.new_name(), self.make_queue())
        return found

    @staticmethod
    def disk(worker: Worker) -> ModelDisk:
        """Return its hands on the file system."""
        spill = worker.queue.spill
        assert isinstance(spill, JournalQueue)
        assert isinstance(spill.folder.disk, ModelDisk)
        return spill.folder.disk

    def perhaps_killed(self, index: int, calls: int | None, work: Callable[[Worker], None]) -> None:
        """Do it; where ``calls`` is a number, the process dies at its disk's call after so many."""
        worker = self.worker(index)
        disk = self.disk(worker)
        if calls is not None:
            disk.set_trap(calls, lambda _disk, _op: Killed)
        try:
            work(worker)
        except Killed:
            self.met["killed"] += 1
            self.workers[index] = None
        else:
            disk.clear_trap()

    # -- what is done

    @rule(
        index=WORKERS, lane=st.integers(0, 1), count=st.integers(1, 4), size=st.sampled_from([10, 10, 5000]),
        calls=CALLS,
    )  # fmt: skip
    def add(self, index: int, lane: int, count: int, size: int, calls: int | None) -> None:
        """Put several events at once."""
        self.put(index, lane, count, size, calls)

    def put(self, index: int, lane: int, count: int, size: int, calls: int | None) -> None:
        """Put several events at once."""

        def work(worker: Worker) -> None:
            numbers = range(worker.puts, worker.puts + count)
            worker.puts += count
            spilled, before = worker.queue.spilling, len(self.server.log)
            envelope = Envelope(LANES[lane], shared=True, prefix=b"[", suffix=b"]")
            events = [Event(envelope, f"{worker.name}:{number}".encode().ljust(size)) for number in numbers]
            try:
                worker.queue.put(events)
            except QueueError as error:
                self.met[error.reason] += 1
                return
            worker.made += count
            self.accepted.update((worker.name, number) for number in numbers)
            if spilled and len(self.server.log) > before:
                self.free.add(worker.name)  # its spill refused, and the server did not
                self.met["out of turn"] += 1

        self.perhaps_killed(index, calls, work)

    @rule(index=WORKERS, puts=st.integers(1, 12))
    def burst(self, index: int, puts: int) -> None:
        """Put one by one."""
        for at in range(puts):
            self.put(index, at % 2, 1, 10, None)

    @rule(index=WORKERS, calls=CALLS)
    def tend(self, index: int, calls: int | None) -> None:
        """Do a round of the periodic work: also a step of the way back."""
        self.perhaps_killed(index, calls, lambda worker: worker.queue.tend() and None)

    @rule(index=WORKERS, calls=CALLS)
    def sync(self, index: int, calls: int | None) -> None:
        """Have some moved at once, as at the end of a process that only stores."""
        self.perhaps_killed(index, calls, lambda worker: worker.queue.sync(0.0) and None)

    @rule(mood=st.sampled_from(["there", "there", "away", "away", "full", "few", "mute", "deadly"]))
    def turn(self, mood: str) -> None:
        """Let the server behave so from now on."""
        self.server.mood = mood

    @rule(index=WORKERS, count=st.integers(1, 8), bury=st.booleans())
    def deliver(self, index: int, count: int, *, bury: bool) -> None:
        """Deliver some, or set them aside."""
        queue = self.worker(index).queue
        for lane in LANES:
            leases = queue.claim(lane, count, ALL)
            queue.bury(leases, "rejected") if bury else queue.ack(leases)

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 61.0]))
    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.advance(seconds)

    @rule(blocks=st.integers(0, 20))
    def fill(self, blocks: int) -> None:
        """Let others fill the disk but for a few blocks."""
        self.fs.capacity = self.fs.used + blocks

    @rule()
    def room(self) -> None:
        """Let there be room again."""
        self.fs.capacity = NEVER

    @precondition(lambda self: any(self.workers))
    @rule(index=WORKERS, crash=st.booleans())
    def end(self, index: int, *, crash: bool) -> None:
        """End in order, or like kill -9."""
        worker, self.workers[index] = self.worker(index), None
        if crash:
            self.disk(worker).die()
        else:
            worker.queue.close()

    @precondition(lambda self: any(self.workers) and not all(self.workers))
    @rule(index=WORKERS)
    def fork(self, index: int) -> None:
        """Fork: the child knows of nothing that is the parent's, and both go on."""
        there = [worker for worker in self.workers if worker]
        parent = there[index % len(there)]
        child = Worker(self.new_name(), copy.deepcopy(parent.queue))
        child.queue.after_fork_in_child()
        assert child.queue.stats().accepted == 0
        assert not child.queue.spilling
        self.workers[self.workers.index(None)] = child
        self.met["forks"] += 1

    # -- what holds

    @invariant()
    def each_process_counts_an_event_once(self) -> None:
        """Its sum closes, and what it accepted is what it put and what it adopted."""
        for worker in self.workers:
            if worker is not None:
                stats = worker.queue.stats()
                counts = (stats.delivered, stats.queued, stats.in_flight, stats.dead, *stats.dropped.values())
                assert stats.accepted == sum(counts), stats
                assert min(counts) >= 0, stats
                assert stats.accepted - stats.adopted == worker.made, (stats, worker.made)

    @invariant()
    def each_process_keeps_its_order(self) -> None:
        """For each endpoint, events reach the server as they were put; repeats aside."""
        last: dict[tuple[str, str], int] = {}
        seen: set[tuple[str, int]] = set()
        for writer, number, lane in self.server.log:
            if (writer, number) not in seen and writer not in self.free:
                seen.add((writer, number))
                assert number > last.get((writer, lane), -1), f"{writer}: {number} after {last[writer, lane]}"
                last[writer, lane] = number

    def teardown(self) -> None:
        """Have all end, and a last process move what they left: nothing stays behind."""
        try:
            self.server.mood = "there"
            self.fs.capacity = NEVER
            for worker in self.workers:
                if worker is not None:
                    worker.queue.close()
            last = self.make_queue("always")
            for _ in range(100):
                self.clock.advance(5.0)
                last.tend()
                if not inspect.folder_status(PATH, clock=self.clock).queued:
                    break
            assert self.accepted <= {(writer, number) for writer, number, _ in self.server.log}
            self.each_process_keeps_its_order()
            last.close()
            status = inspect.folder_status(PATH, clock=self.clock)
            assert (status.closes, status.queued, status.dead) == (True, 0, 0), status
            self.met["moved"] += status.delivered
        finally:
            self.wiring.__exit__(None, None, None)


def test_the_spill_keeps_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages, kills at any disk call, full disks, forks, ends: nothing is lost, out of order or counted twice."""
    for name, value in (("EVENTS_FIRST", 2), ("EVENTS_MAX", 4), ("_ROUNDS_MAX", 2)):
        monkeypatch.setattr(flow, name, value)  # so that a few events take several steps
    Spills.met.clear()
    run_state_machine_as_test(Spills, settings=settings(max_examples=150, stateful_step_count=50, deadline=None))
    wanted = ("killed", "forks", "moved", "disk_full", "queue_full")
    assert all(Spills.met[what] for what in wanted), f"it tested too little: {Spills.met}"
