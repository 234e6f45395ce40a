"""Folders that a purge is tried on: what dead processes left, who has a file in hand; a clock that a pause moves."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventpost.event import Envelope, Event
from eventpost.queues.journal import JournalQueue, dead
from eventpost.queues.journal import format as fmt
from eventpost.queues.protocol import Answer
from eventpost.testing.clock import ManualClock

URL = "http://127.0.0.1:9/v1/events"
ALICE, BOB = "alice@example.com", "bob@example.com"


def body(*visitors: str, **more: Any) -> Event:
    """Return an event with these visitors."""
    return Event(Envelope(URL), json.dumps({"visitors": [{"visitor_id": one} for one in visitors], **more}).encode())


def left(folder: Path, *events: Event, bury: int = 0, answer: Answer | None = None) -> Path:
    """Let a process store these, set some aside, and be killed; its segment."""
    queue = JournalQueue(folder)
    before = set((folder / "segments").iterdir())
    queue.put(events)
    if bury:
        queue.bury(queue.claim(URL, bury, 1 << 20), "rejected", answer)
    queue.after_fork_in_child()
    (mine,) = set((folder / "segments").iterdir()) - before
    return mine


def holds(path: Path, visitor: str = ALICE) -> bool:
    """Tell whether a file holds an id."""
    return visitor.encode() in path.read_bytes()


class Time(ManualClock):
    """A clock from zero on that a pause moves; ``at`` a pause something may happen."""

    def __init__(self) -> None:
        super().__init__(start_s=0.0)
        self.pauses: list[float] = []
        self.at: dict[int, Callable[[], object]] = {}

    def pause(self, seconds: float) -> None:
        """Take the place of a pause."""
        self.pauses.append(seconds)
        self.advance(seconds)
        self.at.pop(len(self.pauses), lambda: None)()


class Held:
    """Somebody who has a file in hand, until ``let_go``."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def let_go(self) -> None:
        """Have it no more."""
        self.file.close()


def file_of(path: Path) -> str:
    """Return a file's name in its folder."""
    return f"{path.parent.name}/{path.name}"


def records(path: Path) -> list[int]:
    """Return where a segment's events begin."""
    data = path.read_bytes()
    header = fmt.decode_header(data[: fmt.header_bytes_wanted(data[: fmt.PAGE_BYTES])])
    return [at for at, frame, _ in dead.walk(data, header.records_at) if frame and frame.kind != fmt.Kind.ENVELOPE]
