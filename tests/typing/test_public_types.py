"""What users write against the public names passes their own strict mypy, and what is wrong does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RIGHT = """
from optimizely import optimizely

from eventpost import (
    AsyncEventDispatcher, EventDispatcher, EventProcessor, JournalQueue, LogEvent, MemoryQueue, OptimizelyFactory,
    Report, RetryPolicy,
)
from eventpost.watch.signals import Delivered, Signal


class Mine:
    def dispatch_event(self, event: LogEvent) -> bool:
        return bool(event.url)


def heard(signal: Signal) -> None:
    if isinstance(signal, Delivered):
        print(signal.events + 1)


dispatcher = EventDispatcher(JournalQueue("folder", durability="fsync"), retry=RetryPolicy(), observers=[heard])
client = optimizely.Optimizely("{}", event_processor=EventProcessor(dispatcher))
seeds = optimizely.Optimizely("{}", event_dispatcher=dispatcher)
other = OptimizelyFactory(datafile="{}").client(event_dispatcher=Mine())
report: Report = dispatcher.flush(timeout_s=5)
total: int = report.accepted + report.delivered + sum(report.dropped.values()) + sum(report.refused.values())
taken: bool = dispatcher.dispatch_event(LogEvent("http://127.0.0.1/", {"visitors": []}))
EventDispatcher(MemoryQueue(events_max=5, overflow="drop_oldest"), transport=Mine())


async def main() -> bool:
    async with AsyncEventDispatcher(dispatcher) as aio:
        return await aio.dispatch_event(LogEvent("http://127.0.0.1/", {}))
"""

WRONG = {
    'from eventpost import JournalQueue\nJournalQueue("folder", durability="maybe")\n': "arg-type",
    'from eventpost import EventDispatcher\nEventDispatcher().flush(timeout_s="soon")\n': "arg-type",
    "from eventpost import Report\ndef lost(report: Report) -> str:\n    return report.delivered\n": "return-value",
    'from eventpost import LogEvent\nLogEvent("u", {}).url = "v"\n': "misc",
}


def mypy(folder: Path, code: str) -> str:
    """Check a program of a user's; return what mypy says."""
    path = folder / "program.py"
    path.write_text(code, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(folder / "cache"),
        str(path),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout


def test_the_public_names_are_typed(tmp_path: Path) -> None:
    """The programs of the README pass --strict; mistakes are found by the type checker."""
    said = mypy(tmp_path, RIGHT)
    assert "Success" in said, said
    for code, kind in WRONG.items():
        said = mypy(tmp_path, code)
        assert f"[{kind}]" in said, said
