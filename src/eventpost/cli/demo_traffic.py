"""The application in the demo: a real Optimizely client that decides and tracks, until told to stop.

One process of it is started as ``python -m eventpost.cli.demo_traffic``, with the same arguments on both sides but one:
with ``--journal`` events go through EventProcessor, EventDispatcher and a JournalQueue in that folder (with ``--queue``
into a queue that machines share, which others send from), without it through the SDK's own BatchEventProcessor and
EventDispatcher with their defaults.  (The SDK has its endpoint
hard-coded, so there an adapter of one line changes the URL and hands the event on.)

The witness is a file to which the uuid of an event is appended once the pipeline has said yes to it: what it should
deliver.  It is written by the system call ``write``, so it survives the kill -9 as the journal does.  The SDK's
pipeline never says no, even when it drops an event, so there every event handed in counts as taken.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import sys
import time
from importlib.resources import files
from typing import Any

from optimizely import optimizely
from optimizely.event.event_processor import BaseEventProcessor, BatchEventProcessor
from optimizely.event_dispatcher import EventDispatcher as OfficialDispatcher

from ..doors.dispatcher import EventDispatcher
from ..doors.processor import EventProcessor
from ..queues.journal import JournalQueue
from ..queues.place import SharedQueue

CLOSE_TIMEOUT_S = 5.0


class Redirected:
    """The SDK's own dispatcher, sending to another URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def dispatch_event(self, event: Any) -> None:
        """Send one event as the SDK would."""
        event.url = self.url
        OfficialDispatcher.dispatch_event(event)


class Witness(BaseEventProcessor):
    """A processor in front of a processor: writes down what was taken."""

    def __init__(self, inner: Any, path: str) -> None:
        self.inner = inner
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def process(self, user_event: Any) -> None:
        """Hand the event in, then write its uuid down unless the answer was no."""
        if self.inner.process(user_event) is not False:
            os.write(self._fd, f"{user_event.uuid}\n".encode())

    def stop(self) -> None:
        """Stop the processor behind."""
        self.inner.stop()


def main() -> int:
    """Run until SIGTERM; then close the client, as an application should."""
    parser = argparse.ArgumentParser(prog="python -m eventpost.cli.demo_traffic")
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--witness", required=True)
    parser.add_argument("--journal")
    parser.add_argument("--queue")
    parser.add_argument("--rate", type=float, required=True, help="visits a second")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="the demo's process")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # a refused connection is part of the show
    told: list[int] = []  # an Event's lock may be the very one that the signal interrupts
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    inner: Any
    dispatcher: EventDispatcher | None = None
    if options.journal:
        dispatcher = EventDispatcher(JournalQueue(options.journal), endpoint=options.endpoint, sender="thread")
        inner = EventProcessor(dispatcher)
    elif options.queue:
        shared = SharedQueue(options.queue).open(durability="fsync")
        dispatcher = EventDispatcher(shared, endpoint=options.endpoint, sender="none")
        inner = EventProcessor(dispatcher)
    else:
        # The arguments that Optimizely(datafile) gives it.
        inner = BatchEventProcessor(
            Redirected(options.endpoint), batch_size=1, flush_interval=30, timeout_interval=5, start_on_init=True
        )
    datafile = files("eventpost").joinpath("demo_datafile.json").read_text("utf-8")
    client = optimizely.Optimizely(datafile, event_processor=Witness(inner, options.witness))
    known = json.loads(datafile)
    visit(client, options, known, told)
    client.close()
    if dispatcher is not None:
        dispatcher.close(timeout_s=CLOSE_TIMEOUT_S)
    return 0


def visit(client: Any, options: argparse.Namespace, known: dict[str, Any], told: list[int]) -> None:
    """Let visitors come in until ``told`` something: each gets a decision, and some convert."""
    chance = random.Random(options.seed)
    flags = [flag["key"] for flag in known["featureFlags"]]
    conversions = [event["key"] for event in known["events"]]
    due = time.monotonic()
    while not told:
        user = client.create_user_context(
            f"visitor-{chance.randrange(100_000)}", {"plan": chance.choice(["free", "gold"])}
        )
        user.decide(chance.choice(flags))
        if chance.random() < 0.5:
            user.track_event(
                chance.choice(conversions), {"revenue": chance.randrange(10_000), "value": chance.random()}
            )
        if os.getppid() != options.parent:
            os._exit(1)  # the demo was killed: nobody looks on, and nobody would tell it to end
        due += 1 / options.rate
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
