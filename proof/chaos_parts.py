"""What takes part in the chaos: writers, a memory dispatcher, `eventpost send`, and an endpoint that fails as told.

A writer is started as ``python -m proof.chaos_parts``.  The uuid of its n-th event is ``<name>.<life>.<n>``, and after
each yes it stores n + 1 into a mapped file, which survives kill -9: so an oracle of a few integers knows what must be
delivered (all below the count), and what may be (the one that was under way when it was killed).
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from eventpost import EventDispatcher, JournalQueue, LogEvent, MemoryQueue
from eventpost.testing import Collector, Reply
from eventpost.testing.collector import CollectedRequest, uuids_in

CELLS = struct.Struct("<6Q")
"""Acknowledged, refused; and for a memory dispatcher its own delivered, queued, in flight, dropped."""
BEHIND_MAX_S = 0.5
STATS_EVERY = 10


class Endpoint:
    """A collector that answers by ``mode``, and can be away altogether; remembers every uuid it said yes to."""

    def __init__(self) -> None:
        self.mode = "fine"
        self.seen: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self._requests = 0
        self._collector = self._start(0)
        self.url = self._collector.url
        self._port = self._collector.port

    def _start(self, port: int) -> Collector:
        collector = Collector(self._answer, port=port, keep=False)
        collector._answered = self._answered  # type: ignore[method-assign]  # one count over all its lives
        return collector.start()

    def _answered(self, request: CollectedRequest, status: int) -> None:
        self.answers[str(status)] += 1
        if 200 <= status < 300:
            self.seen.update(uuids_in(request.body))

    def _answer(self, _: CollectedRequest) -> Reply:
        self._requests += 1
        mode = self.mode
        if mode == "slow":
            return Reply(delay_s=0.5 + self._requests % 3)
        if mode == "429":
            return Reply(429, retry_after=1)
        if mode == "503":
            return Reply(503)
        if mode == "reset" and self._requests % 3:
            self.answers["reset"] += 1
            return Reply(reset=("before", "during", "after")[self._requests % 7 % 3])
        return Reply()

    def change(self, mode: str) -> None:
        """Behave otherwise from now on."""
        if mode == "refused":
            self._collector.close()
        elif self.mode == "refused":
            self._collector = self._start(self._port)
        self.mode = mode

    def reset_connections(self) -> None:
        """End all open connections at once."""
        self._collector.reset_connections()

    def close(self) -> None:
        """End."""
        self._collector.close()


@dataclass
class Life:
    """One process from its start to its end.  ``kind`` stays over its lives, ``number`` counts them."""

    kind: str
    number: int
    process: subprocess.Popen[bytes]
    began: float
    cells: mmap.mmap | None
    killed: bool = False
    stopped: bool = False
    samples: list[tuple[float, float, int, int, int]] = field(default_factory=list)
    """Seconds since the start of the run, MB of its own memory, descriptors but sockets, threads, sockets."""

    def count(self) -> tuple[int, ...]:
        """Return what it wrote down."""
        return CELLS.unpack(self.cells[: CELLS.size]) if self.cells is not None else (0,) * 6

    def sample(self, now: float) -> None:
        """Look at it from outside."""
        base = f"/proc/{self.process.pid}"
        try:
            fields = dict(line.split(":", 1) for line in Path(f"{base}/status").read_text().splitlines())
            own_mb = int(fields["RssAnon"].split()[0]) / 1024
            open_now = [_target(f"{base}/fd/{name}") for name in os.listdir(f"{base}/fd")]
        except (OSError, KeyError):
            return  # it has just ended
        sockets = sum(one.startswith("socket:") for one in open_now)
        self.samples.append((now, own_mb, len(open_now) - sockets, int(fields["Threads"]), sockets))

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self.killed = True
        self.process.kill()
        self.process.wait(30)

    def stop(self, *, stopped: bool) -> None:
        """Freeze it, or let it go on."""
        self.stopped = stopped
        self.process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)

    def end(self, timeout_s: float) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def start(kind: str, number: int, root: Path, words: list[str], *, counts: bool, now: float) -> Life:
    """Start a process with a count of its own; what it says goes to a file beside it."""
    cells = None
    if counts:
        path = root / f"{kind}-{number}.cells"
        path.write_bytes(bytes(CELLS.size))
        with path.open("r+b") as file:
            cells = mmap.mmap(file.fileno(), CELLS.size)
        words = [*words, "--name", kind, "--life", str(number), "--cells", str(path)]
    with (root / f"{kind}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    return Life(kind, number, process, now, cells)


def main() -> int:
    """Be a writer until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("name", "life", "cells", "endpoint", "rate", "sender", "durability"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--journal")
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Path(options.cells).open("r+b") as file:
        cells = mmap.mmap(file.fileno(), CELLS.size)
    queue = JournalQueue(options.journal, options.durability) if options.journal else MemoryQueue()
    dispatcher = EventDispatcher(
        queue, endpoint=options.endpoint, sender=options.sender, merge_log_events=not options.journal, linger_s=0.2
    )
    acked = refused = rounds = 0
    due, gap_s = time.monotonic(), 1 / float(options.rate)
    others = (0, 0, 0, 0)
    while not stop.is_set():
        one = {"uuid": f"{options.name}.{options.life}.{acked}", "timestamp": int(time.time() * 1000), "key": "k"}
        visitor = {"visitor_id": "v" * 36, "attributes": [], "snapshots": [{"events": [one]}]}
        params = {"account_id": "1", "client_name": "proof", "visitors": [visitor], "pad": "x" * 200}
        if dispatcher.dispatch_event(LogEvent(options.endpoint, params)):
            acked += 1
        else:
            refused += 1
        rounds += 1
        if not options.journal and rounds % STATS_EVERY == 0:
            seen = dispatcher.stats()
            others = (seen.delivered, seen.queued, seen.in_flight, sum(seen.dropped.values()))
        cells[: CELLS.size] = CELLS.pack(acked, refused, *others)
        due = max(due + gap_s, time.monotonic() - BEHIND_MAX_S)
        stop.wait(max(0.0, due - time.monotonic()))
    last = dispatcher.close(timeout_s=20)
    cells[: CELLS.size] = CELLS.pack(
        acked, refused, last.delivered, last.queued, last.in_flight, sum(last.dropped.values())
    )
    print(last, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
