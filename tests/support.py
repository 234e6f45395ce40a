"""Helpers that more than one test file uses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from eventpost import EventDispatcher, JournalQueue
from eventpost.event import Envelope, Event
from eventpost.queues.journal import Disk, inspect
from eventpost.queues.protocol import Queue, QueueStats

if TYPE_CHECKING:
    from eventpost.transports.curl import CurlTransport

URL = "http://127.0.0.1:9/v1/events"
ENVELOPE = Envelope(URL, shared=True, prefix=b'{"visitors":[', suffix=b"]}")
ALL = 1 << 30


def missing(what: str) -> NoReturn:
    """Skip a test because a tool is missing; where CI is set that is a failure: CI installs everything."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}", allow_module_level=True)


def fetched(cache: pytest.Cache, *wanted: str) -> Path:
    """Return a folder with these packages, without what they depend on; fetched once, then kept in pytest's cache."""
    folder = cache.mkdir("-".join(wanted).replace("==", "-"))
    if not (folder / "complete").exists():
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--retries=1"]
        command = [sys.executable, "-m", "pip", "install", *options, f"--target={folder}", *wanted]
        if subprocess.run(command, capture_output=True, timeout=90, check=False).returncode:
            missing(f"{', '.join(wanted)}, which pip could not fetch")
        (folder / "complete").touch()
    return folder


def curl_transport(**options: Any) -> CurlTransport:
    """Return a new CurlTransport; where its package is not installed the test is skipped."""
    if find_spec("pycurl") is None:
        missing("pycurl (the extra curl)")
    from eventpost.transports.curl import CurlTransport

    return CurlTransport(**options)


def event(number: int, size: int = 40, url: str = URL) -> Event:
    """One event whose payload tells its number."""
    return Event(ENVELOPE._replace(url=url), b'{"n":%d,"pad":"%s"}' % (number, b"x" * size))


def number_of(payload: bytes) -> int:
    """Return the number in a payload of ``event``."""
    return int(payload[5 : payload.index(b",")])


def closes(stats: QueueStats) -> bool:
    """Tell whether the sum holds."""
    return stats.accepted == stats.delivered + stats.queued + stats.in_flight + stats.dead + sum(stats.dropped.values())


def drain(queue: Queue, lane: str = URL) -> list[int]:
    """Claim and ack everything, the sum closing at each step; the numbers in order."""
    numbers = []
    while leases := queue.claim(lane, 100, ALL):
        numbers += [number_of(lease.event.payload) for lease in leases]
        queue.ack(leases)
        assert closes(queue.stats())
    queue.tend()
    return numbers


def interrupted(work: Callable[[], Any], at: int, interrupt: Callable[[], None]) -> Any:
    """Do it, and what a signal handler would do before the ``at``-th instruction of it; returns what it returned."""
    left = at

    def trace(frame: Any, happening: str, _: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        if happening == "opcode":
            left -= 1
            if not left:
                sys.settrace(None)
                interrupt()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return work()
    finally:
        sys.settrace(before)


class HookedDisk(Disk):
    """A disk that calls ``hooks[method]`` with the method's arguments before doing it."""

    def __init__(self, *, mapped: bool | None = None) -> None:
        super().__init__(mapped=mapped)
        self.hooks: dict[str, Callable[..., None]] = {}

    def __getattribute__(self, name: str) -> Any:
        """Return a method with its hook in front."""
        found = super().__getattribute__(name)
        hook = None if name.startswith("_") or name == "hooks" else self.hooks.get(name)
        if hook is None:
            return found

        def hooked(*arguments: Any, **keywords: Any) -> Any:
            hook(*arguments, **keywords)
            return found(*arguments, **keywords)

        return hooked


def deliver_leftovers(journal: str | os.PathLike[str]) -> None:
    """Deliver what lies in a folder, as another process would that starts on it."""
    dispatcher = EventDispatcher(JournalQueue(journal, adopt="always"), linger_s=0.0)
    dispatcher.start()
    deadline = time.monotonic() + 20
    while inspect.folder_status(journal).queued and time.monotonic() < deadline:
        time.sleep(0.02)
    assert dispatcher.close().pending == 0
