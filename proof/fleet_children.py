"""The processes of a fleet: ``python -m proof.fleet_children`` is ``kills_children`` with other children.

``write`` is an application with the real SDK that puts into the shared queue, ``send`` a process that only sends.  Both
leave their last report where they were told to.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from optimizely import optimizely

from eventpost import EventDispatcher, EventProcessor, RedisStreamsQueue
from eventpost.clock import SystemClock
from eventpost.watch.signals import Signal, Trouble

from . import kills_children
from .kills_children import DATAFILE, JOIN_S, KNOWN, Witness

TIMEOUT_S: Final = 1.0
CLOSE_S: Final = 3.0
TROUBLES: Final[list[str]] = []
"""What this process was told that needs a person."""


class SkewedClock(SystemClock):
    """The clock of a machine that is off."""

    def __init__(self, skew_s: float) -> None:
        self.skew_s = skew_s

    def time(self) -> float:
        """Return the seconds since the epoch, as this machine has them."""
        return super().time() + self.skew_s


def _dispatcher(options: dict[str, Any]) -> EventDispatcher:
    clock = SkewedClock(options["skew_s"])
    with _as_on_one_machine() if options["one_name"] else nullcontext():
        queue = RedisStreamsQueue(
            options["queue"], name=options["queue_name"], shards=options["shards"], lease_s=options["lease_s"],
            timeout_s=options["queue_timeout_s"], replicas=options["replicas"], clock=clock,
        )  # fmt: skip
    return EventDispatcher(
        queue, endpoint=options["url"], linger_s=options["linger_s"], timeout_s=TIMEOUT_S, sender=options["sender"],
        batch_events_max=options["batch_events_max"], clock=clock, observers=[_heard],
    )  # fmt: skip


def _heard(signal: Signal) -> None:
    if isinstance(signal, Trouble):
        TROUBLES.append(signal.detail)


@contextmanager
def _as_on_one_machine() -> Iterator[None]:
    """Have the same process number and the same chance as every other: a snapshot that was resumed more than once."""
    with patch("os.getpid", lambda: 7), patch("os.urandom", bytes):
        yield


def _until_asked(wait: threading.Event) -> None:
    while not wait.is_set():
        time.sleep(JOIN_S)


def _asked() -> threading.Event:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def _report(dispatcher: EventDispatcher, path: str, close_s: float) -> int:
    report = dispatcher.close(close_s)
    told = {
        **report.as_dict(), "closes": report.closes, "writer": getattr(dispatcher.queue, "writer", ""),
        "troubles": TROUBLES,
    }  # fmt: skip
    ready = Path(path + ".new")
    ready.write_text(json.dumps(told))
    os.replace(ready, path)
    return 0 if report.closes else 7


def write(options: dict[str, Any]) -> int:
    """Track with a real client until SIGTERM; then close in order."""
    stop = _asked()
    dispatcher = _dispatcher(options)
    client = optimizely.Optimizely(DATAFILE, event_processor=Witness(EventProcessor(dispatcher), options["witness"]))
    chance = random.Random(options["name"])

    def work() -> None:
        at = 0
        while not stop.is_set():
            poison = "poison" if chance.random() < options["poison"] else ""
            tags = {"revenue": at, "note": "é" * chance.choice([1, 20, 400])}
            client.track(
                chance.choice(KNOWN["events"])["key"], f"{options['name']}:{at}{poison}", {"plan": "pro"}, tags
            )
            at += 1
            time.sleep(chance.random() * options["pause_s"])

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        time.sleep(JOIN_S)  # not join(): a signal that another thread was handed does not wake it
    client.close()
    return _report(dispatcher, options["report"], options["close_s"])


def send(options: dict[str, Any]) -> int:
    """Only send, until SIGTERM."""
    stop = _asked()
    dispatcher = _dispatcher({**options, "sender": "thread"})
    dispatcher.start()
    _until_asked(stop)
    return _report(dispatcher, options["report"], options["close_s"])


if __name__ == "__main__":
    kills_children.KINDS.update(write=write, send=send)
    kills_children.main()
