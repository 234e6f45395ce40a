"""One simulated process: a queue, a sender, a transport, and what its doors were told.

:class:`Watched` stands between the sender and its queue, and notes who holds what: two living processes never hold one
event, and what was heard to be delivered is never sent again.
"""

from __future__ import annotations

import copyreg
import itertools
import random
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from eventpost.errors import QueueError
from eventpost.queues.journal import JournalQueue
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.protocol import Answer, Lease, Queue
from eventpost.sender.lane import Limits
from eventpost.sender.loop import Sender
from eventpost.sender.primitives import RLock
from eventpost.sender.retry import RetryPolicy
from eventpost.sender.thread import LOOK_AGAIN_S
from eventpost.watch import signals

from .disk_model import ModelDisk, Violation
from .network import SimTransport, Told

if TYPE_CHECKING:
    from .world import World

# A fork copies memory, locks and all; ``copy`` does not know these.
copyreg.pickle(type(RLock()), lambda _: (RLock, ()))  # type: ignore[arg-type]
copyreg.pickle(itertools.count, lambda count: (itertools.count, (int(repr(count)[6:-1]),)))
copyreg.pickle(MappingProxyType, lambda proxy: (MappingProxyType, (dict(proxy),)))

EXPECTED: Final = ("OSError", "BlockingIOError", "FileNotFoundError", "FileExistsError", "PermissionError", "Queue")
"""What a Trouble may speak of: a disk's faults, and no mistake of ours."""


class Watched:
    """A queue under watch."""

    def __init__(self, process: Process, queue: Queue) -> None:
        self.process = process
        self.queue = queue
        self.lanes = queue.lanes
        self.pending = queue.pending
        self.next_due_s = queue.next_due_s
        self.tend = queue.tend
        self.stats = queue.stats
        self.durability = queue.durability
        self.lease_s = queue.lease_s

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Claim, and look whether somebody else has it."""
        leases = self.queue.claim(lane, events_max, bytes_max)
        for lease in leases:
            one = self.process.told_of(lease)
            holder = one.holder
            if holder is not None and not one.excused:
                raise Violation(f"{one.uuid} is leased to {holder} and to {self.process.name}")
            one.holder = self.process.name
            if not one.may_be(lease.event):
                raise Violation(f"{one.uuid} came out of the queue changed")
        return leases

    def ack(self, leases: Sequence[Lease]) -> None:
        """Note a delivery."""
        try:
            self.queue.ack(leases)
        except Exception:
            self.process.deaf = True
            raise
        self.process.deaf = False
        for lease in leases:
            one = self.process.told_of(lease)
            one.heard, one.holder = True, None
            self.process.to_note.discard(one.uuid)

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """Give back."""
        self.process.holds_no_more(leases)
        self.queue.release(leases, delay_s)

    @property
    def recalls(self) -> bool:
        """Whether leases are wanted back."""
        return self.process.kind != "memory" and self.process.queue.recalls

    def recalled(self) -> None:
        """Say that they are."""
        self.process.queue.recalled()

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """Set aside."""
        self.process.burying = [self.process.told_of(lease) for lease in leases]
        parked = self._parked()
        self.queue.bury(leases, reason, answer)
        parked = self._parked() - parked
        self.process.burying = []
        for lease in leases:
            one = self.process.told_of(lease)
            one.holder = None
            if not parked:
                continue  # its letter found no room on the disk: it went back, and is safe where it was
            one.owner = self.process.name  # who parked it is who makes it safe
            one.at_s, one.synced, one.sends = self.process.world.clock.monotonic(), False, True

    def _parked(self) -> int:
        """Return how many events this queue has set aside, without a look at the disk, which may have a trap."""
        return int(self.queue._dead if isinstance(self.queue, MemoryQueue) else self.queue._claims.dead)


class Process:
    """See the module.  ``kind``: "both" stores and sends, "stores" only stores, "sends" takes everybody's, "memory"."""

    def __init__(self, world: World, name: str, kind: str, disk: ModelDisk) -> None:
        self.world = world
        self.name = name
        self.kind = kind
        self.burying: list[Told] = []
        self.deaf = False
        self.due = 0.0
        self.quotas: dict[str, int] = {}
        self.to_note: set[str] = set()
        rng = random.Random(f"{world.seed} {name}")
        self.disk = disk
        clock, plan = world.clock, world.plan
        self.queue: Any
        if kind == "memory":
            self.queue = MemoryQueue(events_max=30, overflow=plan.overflow, clock=clock)
        else:
            self.queue = JournalQueue(
                world.path, plan.durability, plan.bytes_max, plan.overflow, segment_bytes_max=plan.segment_bytes_max,
                adopt="always" if kind == "sends" else "elected", allow_network_fs=True, disk=self.disk, clock=clock,
                dead_bytes_max=plan.dead_bytes_max, block_timeout_s=0.0,
            )  # fmt: skip
            self.queue.sends = kind != "stores"
            self.queue.emit = self.hear
        self.transport = SimTransport(world.network, self)
        self.sender = Sender(
            Watched(self, self.queue), self.transport, clock=clock, chance=rng.random, emit=self.hear,
            policy=RetryPolicy(refusals_in_a_row_max=5),
            limits=Limits(
                batch_events_max=rng.choice((1, 3, 10)), batch_bytes_max=rng.choice((300, 100_000)),
                linger_s=rng.choice((0.0, 0.3, 1.0)), in_flight_max=rng.choice((1, 4, 50)), timeout_s=10.0,
            ),
        )  # fmt: skip

    @property
    def steps(self) -> bool:
        """Whether it has a sender."""
        return self.kind != "stores"

    def told_of(self, lease: Lease) -> Told:
        """Return what is known of a lease's event."""
        found = self.world.by_payload.get(lease.event.payload)
        if found is None:
            raise Violation("the queue handed out an event that no door was ever handed")
        return found

    def holds_no_more(self, leases: Sequence[Lease]) -> None:
        """Note that these are anybody's."""
        for lease in leases:
            one = self.told_of(lease)
            if one.holder == self.name and lease.live:
                one.holder = None

    def sending(self, events: list[Told]) -> None:
        """Note that these go out now."""
        known = set().union(*(process.to_note for process in self.world.slots if process is not None))
        for one in events:
            if one.heard and not one.excused:
                raise Violation(f"{one.uuid} was noted as delivered, and is sent again")
            if one.uuid in known and not one.excused:
                raise Violation(f"{one.uuid} was answered with a 2xx, whoever heard it lives, and it is sent again")

    def hears(self, events: list[Told]) -> None:
        """Note that these were answered with a 2xx, and that the sender is about to hear it."""
        self.to_note.update(one.uuid for one in events)

    def hear(self, signal: signals.Signal) -> None:
        """Take a signal; its own mistakes are violations."""
        seen = self.world.seen
        if isinstance(signal, signals.Trouble):
            seen["troubles"] += 1
            if signal.detail.endswith("cannot be synced"):
                for one in self.world.told:
                    one.unsafe = one.unsafe or one.owner == self.name
            name, _, rest = signal.detail.partition(":")
            if rest and name.endswith(("Error", "Exception")) and not name.startswith(EXPECTED):
                raise Violation(f"{signal.what}: {signal.detail}")
        elif isinstance(signal, signals.Adopted):
            seen["adoptions"] += 1
        elif isinstance(signal, signals.Damaged):
            seen["torn tails" if signal.why.startswith("torn") else "damaged places"] += 1
            if not self.world.may_be_damaged and not signal.why.startswith("torn"):
                raise Violation(f"damage where there was none: {signal}")
        elif isinstance(signal, signals.BreakerChanged):
            seen[f"breakers {signal.state}"] += 1
        elif isinstance(signal, signals.Buried):
            seen["dead letters"] += signal.events
        elif isinstance(signal, signals.Dropped):
            seen[f"dropped {signal.reason}"] += signal.events

    # -- what it does

    def put(self, told: Sequence[Told]) -> None:
        """Offer events to the door; note what it says."""
        try:
            self.queue.put([one.event for one in told])
        except QueueError as error:
            self.world.seen[f"refused {error.reason}"] += len(told)
            for one in told:
                one.said = "no"
            return
        for one in told:
            one.said = "yes"
            left = self.quotas.get(one.event.lane, 1) - 1
            self.quotas[one.event.lane] = left
            if left <= 0:
                self.due = 0.0

    def step(self) -> None:
        """Run a round of the sender."""
        wanted_s = self.sender.step(self.transport.wait(0.0))
        if self.to_note and not self.deaf:
            raise Violation(f"{len(self.to_note)} deliveries were heard and not noted")
        self.quotas = self.sender.quotas()
        if self.sender.arrived(self.quotas):
            wanted_s = min(wanted_s, LOOK_AGAIN_S)
        self.due = self.world.clock.monotonic() + wanted_s

    def next_s(self) -> float:
        """Return when it has something to do, in monotonic seconds."""
        return min(self.due, self.transport.next_s())

    def close(self) -> None:
        """End in order, as the sender's thread and the dispatcher do."""
        if self.steps:
            self.step()
            self.sender.abandon()
        self.transport.close(0.0)
        self.queue.close()
        if self.kind == "memory":
            self.queue.drop_remaining("memory_at_exit")

    def check(self) -> None:
        """Look whether its sum closes."""
        stats = self.queue.stats()
        counts = (stats.delivered, stats.queued, stats.in_flight, stats.dead, *stats.dropped.values())
        if stats.accepted != sum(counts) or min(counts) < 0:
            raise Violation(f"the sum of {self.name} does not close: {stats}")

    def __repr__(self) -> str:
        return f"{self.name} ({self.kind})"
