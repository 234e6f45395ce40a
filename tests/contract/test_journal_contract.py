"""The journal keeps the promise of a queue, at both levels and both ways to store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from eventpost.queues.journal import Disk, JournalQueue
from eventpost.queues.protocol import Queue
from eventpost.testing.clock import ManualClock
from eventpost.testing.queue_contract import QueueContract


class JournalContract(QueueContract):
    """A journal in a fresh folder for each queue."""

    bounded_by_events: ClassVar[bool] = False
    signal_interval_s: ClassVar[float] = 0.005  # a put that begins a segment makes a file
    settings: ClassVar[dict[str, Any]] = {}
    root: Path

    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        type(self).root = Path(tempfile.mkdtemp())
        yield
        shutil.rmtree(self.root)

    def make_queue(self, clock: ManualClock, **options: Any) -> Queue:
        """Make one in a folder of its own."""
        return JournalQueue(tempfile.mkdtemp(dir=self.root), clock=clock, **{**self.settings, **options})


class TestJournalAtOs(JournalContract):
    """Level os, through a mapping."""


class TestJournalAtFsync(JournalContract):
    """Level fsync."""

    signal_interval_s: ClassVar[float] = 0.02
    settings: ClassVar[dict[str, Any]] = {"durability": "fsync"}


class TestJournalWritten(JournalContract):
    """Level os, through pwrite."""

    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        """Make a disk of its own for each queue."""
        return {"disk": Disk(mapped=False)}
