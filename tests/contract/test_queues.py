"""Every queue keeps the queue's promise."""

from typing import Any

from eventpost.queues.memory import MemoryQueue
from eventpost.testing.clock import ManualClock
from eventpost.testing.queue_contract import QueueContract


class TestMemoryQueue(QueueContract):
    """The queue in memory."""

    def make_queue(self, clock: ManualClock, **options: Any) -> MemoryQueue:
        """Return an empty one."""
        return MemoryQueue(clock=clock, **options)
