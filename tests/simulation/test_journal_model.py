"""Several writers on one folder against a model that is a few sets: nothing is lost, invented, or leased twice.

Each queue is a process of its own as far as the journal can tell: flocks belong to what ``open`` returned.  A crash
closes a queue's descriptors and writes nothing, as kill -9 would.  The first machine works on real files.  The second
one's disk is a model, and so it also forks, fills the disk, and changes bits of what is stored.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

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
from proof.disk_model import ModelDisk
from proof.file_system import NEVER, FileSystem
from proof.twists import WorldClock
from proof.wiring import PATH, wired

from eventpost.errors import QueueError, QueueFull
from eventpost.event import Envelope, Event
from eventpost.queues.journal import JournalQueue, dead, inspect
from eventpost.queues.journal import format as fmt
from eventpost.queues.protocol import Answer, Lease
from eventpost.testing.clock import ManualClock

LANES = ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b")
WORKERS = st.integers(0, 2)
LANE = st.sampled_from(LANES)
ALL = 1 << 30

assert proof.process_model  # it tells ``copy`` how a fork copies locks


def number_of(lease: Lease) -> int:
    """Return the number in an event's payload."""
    return int(lease.event.payload.rstrip(b" "))


class Worker:
    """One process: its queue, and the leases that its sender holds."""

    def __init__(self, queue: JournalQueue) -> None:
        self.queue = queue
        self.leases: list[Lease] = []


class Journal(RuleBasedStateMachine):
    """``accepted`` is what puts promised; an event leaves ``queued`` by an ack, by a burial, or by nothing else.

    But for those ``at_risk``, whose bytes were changed: each may be gone, and then it is counted.
    """

    refusals: ClassVar[tuple[type[QueueError], ...]] = (QueueFull,)
    met: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.at_risk: set[int] = set()
        self.workers: list[Worker | None] = [None, None, None]
        self.accepted: set[int] = set()
        self.delivered: set[int] = set()
        self.dead: set[int] = set()
        self.options: dict[str, Any] = {}
        self.set_up()

    # -- the disk

    def set_up(self) -> None:
        """Make a place for a folder."""
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "j"

    def make_queue(self, adopt: Any) -> JournalQueue:
        """Start a process."""
        return JournalQueue(self.folder, adopt=adopt, **self.options)

    def kill(self, queue: JournalQueue) -> None:
        """End it like kill -9."""
        queue.after_fork_in_child()

    def names(self, part: str) -> Sequence[str]:
        """Return what lies in a part of the folder."""
        return os.listdir(self.folder / part) if self.folder.exists() else ()

    def tear_down(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.root)

    # -- what is done

    @initialize(durability=st.sampled_from(["os", "fsync"]), stores_only=st.booleans())
    def begin(self, *, durability: str, stores_only: bool) -> None:
        """Choose a level, and whether the first process leaves its events to the others."""
        self.options = {"durability": durability, "segment_bytes_max": 1 << 18, "clock": self.clock}
        self.stores_only = stores_only

    def worker(self, index: int) -> Worker:
        """Return a process; a new one if there is none."""
        found = self.workers[index]
        if found is None:
            queue = self.make_queue("always" if index else "elected")
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
        except self.refusals as error:
            self.met[error.reason] += 1
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
            self.dead |= self.parked(numbers)

    def parked(self, numbers: set[int]) -> set[int]:
        """Return which of these, that were to be buried, are: all of them."""
        return numbers

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
            self.kill(worker.queue)
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
        if not self.names("segments"):
            return
        status = inspect.folder_status(self.folder, clock=self.clock)
        assert status.closes, status
        lost = status.dropped.get("damaged", 0)
        torn = len(self.accepted) - status.accepted  # the last record of a dead writer, if damaged, was never put
        assert 0 <= torn <= lost + torn <= len(self.at_risk), status
        left = len(self.accepted) - len(self.delivered) - len(self.dead) - lost - torn
        assert (status.delivered, status.queued, status.dead) == (len(self.delivered), left, len(self.dead)), status
        assert set(status.dropped) <= {"damaged"}
        assert not status.trouble

    def teardown(self) -> None:
        """All end; a last process delivers the rest, each event once, and nothing stays behind."""
        try:
            for worker in self.workers:
                if worker is not None:
                    worker.queue.close()
            if self.names(""):
                self.deliver_the_rest()
        finally:
            self.tear_down()

    def deliver_the_rest(self) -> None:
        """Adopt all there is."""
        last = self.make_queue("always")
        last.scan()
        rest: Counter[int] = Counter()
        for lane in LANES:
            while leases := last.claim(lane, 100, ALL):
                rest.update(number_of(lease) for lease in leases)
                last.ack(leases)
        last.tend()
        last.close()
        lost = self.accepted - self.delivered - self.dead - set(rest)
        assert lost <= self.at_risk
        self.met["lost"] += len(lost)
        assert rest == Counter(self.accepted - self.delivered - self.dead - lost)
        assert not self.names("segments")
        assert self.at_risk or not self.names("bad")
        status = inspect.folder_status(self.folder, clock=self.clock)
        assert status.closes
        assert status.accepted - status.dropped.get("damaged", 0) == len(self.accepted) - len(lost)
        assert status.dead == len(self.dead)


def test_the_journal_keeps_to_the_model() -> None:
    """On real files: puts, claims, settlements, crashes, ends, adoption, and the command line, in any order."""
    run_state_machine_as_test(Journal, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))


class Faults(Journal):
    """The same on a disk in memory, which can be full, and rot; and with forks."""

    refusals: ClassVar[tuple[type[QueueError], ...]] = (QueueError,)

    def set_up(self) -> None:
        """Hand the journal a disk of the model's."""
        self.clock: WorldClock = WorldClock()
        self.rng = random.Random(0)
        self.fs = FileSystem(self.clock.time)
        self.folder = PATH  # type: ignore[assignment]  # no path of this machine
        self.full = False
        self.wiring = wired(self)  # type: ignore[arg-type]  # as much of a world as it needs
        self.wiring.__enter__()

    @property
    def tool_disk(self) -> ModelDisk:
        """Hands for who looks from outside."""
        return ModelDisk(self.fs)

    def make_queue(self, adopt: Any) -> JournalQueue:
        """Start a process; there is room for that."""
        self.room()
        return JournalQueue(PATH, adopt=adopt, disk=ModelDisk(self.fs), allow_network_fs=True, **self.options)

    def kill(self, queue: JournalQueue) -> None:
        """End it; its locks go, and nothing is written."""
        disk = queue.folder.disk
        assert isinstance(disk, ModelDisk)
        disk.die()

    def names(self, part: str) -> Sequence[str]:
        """Return what lies in a part of the folder."""
        return self.tool_disk.names(f"{PATH}/{part}".rstrip("/"))

    def tear_down(self) -> None:
        """Give the journal its own disk back."""
        self.wiring.__exit__(None, None, None)
        assert not self.fs.descriptions, "descriptors are left open"

    def parked(self, numbers: set[int]) -> set[int]:
        """Return which letters there are now: on a full disk an event goes back to the queue."""
        letters = {int(letter.event.payload.rstrip(b" ")) for letter in inspect.dead_letters(PATH)}
        assert self.dead <= letters <= self.dead | numbers
        assert self.full or letters >= numbers
        return letters

    @rule(blocks=st.integers(0, 70))
    def fill(self, blocks: int) -> None:
        """Let others fill the disk but for a few blocks."""
        self.full = True
        self.fs.capacity = self.fs.used + blocks

    @rule()
    def room(self) -> None:
        """Let there be room again."""
        self.full = False
        self.fs.capacity = NEVER

    @precondition(lambda self: self.dead and not self.full)
    @rule()
    def retry(self) -> None:
        """Put the dead letters back from outside."""
        super().retry()

    @precondition(lambda self: any(self.workers) and not all(self.workers))
    @rule(index=WORKERS)
    def fork(self, index: int) -> None:
        """Fork: the child holds nothing of the parent's, and both go on."""
        there = [worker for worker in self.workers if worker]
        parent = there[index % len(there)]
        before = parent.queue.stats()
        child = copy.deepcopy(parent.queue)
        child.after_fork_in_child()
        assert child.stats().accepted == 0
        assert parent.queue.stats() == before
        self.workers[self.workers.index(None)] = Worker(child)
        self.met["forks"] += 1

    @precondition(lambda self: self.accepted)
    @rule(at=st.integers(0, 1 << 20), bit=st.integers(0, 7))
    def rot(self, at: int, bit: int) -> None:
        """Change one bit of a stored event's record, whoever has it open."""
        found = []
        for name in self.names("segments"):
            data = self.fs.file(f"{PATH}/segments/{name}").data
            header = fmt.decode_header(bytes(data[: fmt.header_bytes_wanted(bytes(data[: fmt.PAGE_BYTES]))]))
            for begin, frame, _ in dead.walk(bytes(data), header.records_at):
                if frame is not None and frame.kind == fmt.Kind.EVENT:
                    found.append((data, begin, frame))
        if found:
            data, begin, frame = found[at % len(found)]
            data[begin + at % (frame.end - begin)] ^= 1 << bit
            self.at_risk.add(int(frame.payload.rstrip(b" ")))


def test_the_journal_keeps_to_the_model_through_forks_full_disks_and_changed_bits() -> None:
    """A changed bit costs at most its own event, which is counted; a full disk and a fork cost nothing."""
    Faults.met.clear()
    run_state_machine_as_test(Faults, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))
    assert all(Faults.met[what] for what in ("forks", "disk_full", "lost")), f"it tested nothing: {Faults.met}"
