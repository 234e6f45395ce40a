"""The processes that are killed: ``python -m proof.kills_children`` loads the real SDK once and forks them on demand.

A round needs a dozen processes, and importing the SDK takes longer than a round may.  So one parent imports everything,
touches nothing, and forks; each child builds a client, a dispatcher and a queue of its own.  The parent takes one
command a line on its stdin (JSON), answers one a line on its stdout, and is the one who signals and reaps, so that no
process id can mean somebody else.  When its stdin ends, it kills what it started and ends.

A writer appends to its witness, by one ``write`` each, which outlives a kill: ``?uuid`` before an event is handed in,
``+uuid`` once the processor said yes, ``-uuid`` if it said no.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

from optimizely import optimizely
from optimizely.event.event_processor import BaseEventProcessor

import eventpost
from eventpost import EventDispatcher, EventProcessor, JournalQueue
from eventpost.cli.app import run as run_command_line
from eventpost.transports.build import build_http_transport
from eventpost.transports.pool import PoolTransport

DATAFILE: Final = files(eventpost).joinpath("demo_datafile.json").read_text("utf-8")
KNOWN: Final = json.loads(DATAFILE)
WAIT_STEP_S: Final = 0.005
CLOSE_S: Final = 10.0
JOIN_S: Final = 0.02


class Witness(BaseEventProcessor):
    """In front of the real processor: writes down what was offered, and what was answered."""

    def __init__(self, inner: EventProcessor, path: str) -> None:
        self.inner = inner
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def process(self, user_event: Any) -> None:
        """Hand it in between two notes."""
        os.write(self._fd, f"?{user_event.uuid}\n".encode())
        taken = self.inner.process(user_event)
        os.write(self._fd, f"{'+' if taken else '-'}{user_event.uuid}\n".encode())


def write(options: dict[str, Any]) -> int:
    """Track with a real client, on some threads, until SIGTERM; then close in order."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    queue = JournalQueue(
        options["journal"], options["durability"], segment_bytes_max=options["segment_bytes_max"], scan_interval_s=0.1
    )
    transport = build_http_transport() if options["curl"] else PoolTransport()
    dispatcher = EventDispatcher(
        queue, endpoint=options["url"], transport=transport, linger_s=options["linger_s"], sender=options["sender"],
        batch_events_max=options["batch_events_max"],
    )  # fmt: skip
    client = optimizely.Optimizely(DATAFILE, event_processor=Witness(EventProcessor(dispatcher), options["witness"]))

    def work(number: int) -> None:
        chance = random.Random(f"{options['name']} {number}")
        at = 0
        while not stop.is_set():
            poison = "poison" if chance.random() < options["poison"] else ""
            visitor = f"{options['name']}:{number}-{at}{poison}"
            if chance.random() < 0.3:
                context = client.create_user_context(visitor, {"plan": chance.choice(["free", "gold"])})
                context.decide(chance.choice(KNOWN["featureFlags"])["key"])
            else:
                tags = {"revenue": at, "note": "é" * chance.choice([1, 20, 400])}
                client.track(chance.choice(KNOWN["events"])["key"], visitor, {"plan": "pro"}, tags)
            at += 1
            if chance.random() < 0.2:
                time.sleep(chance.random() * options["pause_s"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(options["threads"])]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(JOIN_S)  # not join(): a signal that another thread was handed does not wake it
    client.close()
    report = dispatcher.close(CLOSE_S)
    print(options["name"], report, flush=True)
    return 0 if report.closes else 7


def send(options: dict[str, Any]) -> int:
    """Be ``eventpost send``."""
    os.environ["EVENTPOST_LINGER_S"] = "0"  # what is left waits for nobody, and a round for no second
    sys.argv = ["eventpost", "send", "--journal", options["journal"], *options["words"]]
    return run_command_line()


KINDS: Final[dict[str, Callable[[dict[str, Any]], int]]] = {"write": write, "send": send}


def live(command: dict[str, Any]) -> None:
    """Be a child: its work, then an end without a return."""
    code = 1
    try:
        out = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        faulthandler.register(signal.SIGUSR1, file=2)  # for one that does not end
        code = KINDS[command["kind"]](command)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
    except BaseException:  # noqa: BLE001 - it is told, and the child must not return into its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Parent:
    """Forks, signals and reaps."""

    def __init__(self) -> None:
        self.living: set[int] = set()

    def start(self, command: dict[str, Any]) -> dict[str, Any]:
        """Fork one."""
        pid = os.fork()
        if not pid:
            live(command)
        self.living.add(pid)
        return {"pid": pid}

    def signal(self, command: dict[str, Any]) -> dict[str, Any]:
        """Signal one; while it is not reaped its id is its own."""
        if command["pid"] in self.living:
            os.kill(command["pid"], command["number"])
        return {}

    def wait(self, command: dict[str, Any]) -> dict[str, Any]:
        """Wait for its end; ``code`` None: not in time."""
        pid, deadline = command["pid"], time.monotonic() + command["timeout_s"]
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.living.discard(pid)
                return {"code": os.waitstatus_to_exitcode(status)}
            if time.monotonic() >= deadline:
                return {"code": None}
            time.sleep(WAIT_STEP_S)

    def end(self) -> None:
        """Kill what is left."""
        for pid in self.living:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> None:
    """Obey until stdin ends."""
    logging.getLogger("eventpost").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it closes the pipe
    gc.freeze()
    parent = Parent()
    try:
        for line in sys.stdin:
            command = json.loads(line)
            answer: dict[str, Any] = getattr(parent, command["do"])(command)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        parent.end()


if __name__ == "__main__":
    main()
