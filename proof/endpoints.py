"""The endpoint matrix: every fault of ``endpoint_faults`` against both transports, through a dispatcher and a journal.

Each cell: a dispatcher takes events, meets the fault and is closed while it lasts (``close`` must be bounded).  Another
one on the same folder takes events of its own and adopts what the first left, meets the fault again, and sees the
endpoint get well at the same address.  Then every event must be delivered, to somebody who said yes to it, or be a dead
letter with its reason; every wait is measured, and both reports and the folder's sum must close and agree.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eventpost import EventDispatcher, JournalQueue, LogEvent, RetryPolicy
from eventpost.queues.journal import inspect
from eventpost.transports.curl import CurlTransport
from eventpost.transports.pool import PoolTransport
from eventpost.watch.signals import BreakerChanged, Buried, Delivered, Retrying, Signal, Trouble

from .endpoint_faults import FAULTS, TRANSPORTS, Fault, Scripted
from .endpoint_page import PAGE, page
from .endpoint_servers import NameServer, Nobody, Papers, well
from .record import ROOT, Figures

MAKE: dict[str, Any] = {"curl": CurlTransport, "pool": PoolTransport}
BY_KEY = {fault.key: fault for fault in FAULTS}
TIMEOUT_S = 0.12
"""Of one attempt, where attempts hang."""
PATIENCE_S = 5.0
CLOSE_S = 0.05
SLACK_S = 1.0
"""Half a second is promised; the rest is a machine that others use."""
POLICY = {
    "first_s": 0.02,
    "max_s": 0.1,
    "jitter": 0.0,
    "breaker_failures": 3,
    "breaker_first_s": 0.02,
    "breaker_max_s": 0.1,
}
NAME = "events.proof.test"


class MissingError(RuntimeError):
    """This system lacks something that a cell needs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--fault", choices=[*BY_KEY, "all"], default="all")
    parser.add_argument("--transport", choices=[*TRANSPORTS, "both"], default="both")
    parser.add_argument("--write-page", action="store_true", help="write docs/endpoints.md, and do nothing else")
    parser.add_argument("--name-server", default="", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> Figures:
    """Run the matrix, and return the figures."""
    if options.write_page:
        PAGE.write_text(page())
        return {"rows": len(FAULTS)}
    figures = {"cells": 0, "events": 0, "delivered": 0, "dead": 0, "lost": 0, "not possible here": 0}
    longest_s = 0.0
    for fault in FAULTS if options.fault == "all" else [BY_KEY[options.fault]]:
        for transport in TRANSPORTS if options.transport == "both" else [options.transport]:
            began = time.monotonic()
            try:
                cell = run_cell(fault, transport, name_server=options.name_server)
            except MissingError as error:
                print(f"   {fault.key}-{transport}: {error}")
                figures["not possible here"] += 1
                continue
            except Exception:
                print(f"   FAILED: python -m proof endpoints --fault {fault.key} --transport {transport}", flush=True)
                raise
            figures["cells"] += 1
            for name in ("events", "delivered", "dead"):
                figures[name] += cell[name]
            longest_s = max(longest_s, cell["close_ms"] / 1000)
            print(f"   {fault.key}-{transport}: {time.monotonic() - began:.2f} s, {cell}", flush=True)
    return {**figures, "longest close, ms": round(longest_s * 1000)}


@functools.cache
def papers() -> Papers:
    """Return certificates for all cells: making them takes a while."""
    folder = Path(tempfile.mkdtemp(prefix="eventpost-papers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Papers(folder)


def run_cell(fault: Fault, transport: str, *, name_server: str = "") -> dict[str, int]:
    """Run one cell; return its figures.  Raises AssertionError for a violation, MissingError for what can't be had."""
    if fault.dns and not name_server:
        return _with_a_resolver_of_its_own(fault, transport)
    folder = Path(tempfile.mkdtemp(prefix="eventpost-endpoint-"))
    try:
        return Cell(fault, transport, folder, name_server).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Cell:
    """One fault against one transport."""

    def __init__(self, fault: Fault, transport: str, folder: Path, name_server: str) -> None:
        self.fault = fault
        self.transport = transport
        self.folder = folder
        self.journal = folder / "journal"
        self.heard: list[tuple[float, Signal]] = []
        self.uuids: set[str] = set()
        self.papers = papers() if fault.tls else None
        self.names = NameServer(name_server) if fault.dns else None
        if self.names is not None:
            self.names.mode = fault.dns
        self.server: Any = self._server()

    def _server(self) -> Any:
        fault = self.fault
        if fault.server is not None:
            return fault.server()
        if fault.dns:
            return Nobody()
        cert, key = getattr(self.papers, fault.tls)
        return Scripted(None, cert=cert, key=key)  # type: ignore[arg-type]  # no answer of its own: 204

    # -- the steps

    def run(self) -> dict[str, int]:
        """Do it."""
        leaver_events = 0 if self.fault.codes or self.fault.merge else 2
        close_s = self._leave(leaver_events) if leaver_events else 0.0
        left = self.heard
        self.heard = []
        stayer = self._dispatcher()
        stayer.start()
        self._put(stayer, len(self.fault.codes) or self.fault.events)
        expected = len(self.uuids)
        self._wait_for(lambda: self._met(stayer), "the fault to be met again")
        during = stayer.stats()
        assert during.closes, during
        if self.fault.fate in ("later", "held"):
            assert during.delivered == during.dead == 0, during
        before = [signal for _, signal in (*left, *self.heard)]
        with self._heal() as collector:
            self._wait_for(lambda: not stayer.stats().pending, f"all to be settled: {stayer.stats()}")
            report = stayer.flush(1.0)
            assert report.closes, report
            assert not report.pending, report
            began = time.monotonic()
            stayer.close(CLOSE_S)
            close_s = max(close_s, time.monotonic() - began)
            assert close_s < CLOSE_S + 0.5 + SLACK_S, f"close took {close_s:.2f} s"
            yes = set(collector.uuids) | self.server.yes
        self._check_reasons(before)
        self._check_states([signal for _, signal in (*left, *self.heard)])
        return self._check_sum(expected, yes) | {"close_ms": round(close_s * 1000)}

    def _leave(self, events: int) -> float:
        """Meet the fault and be closed while it lasts; return how long the close took."""
        dispatcher = self._dispatcher()
        began = time.monotonic()
        self._put(dispatcher, events)
        self._wait_for(lambda: bool(self._answers()), "the fault to be met")
        if self.fault.hangs:
            waited_s = self.heard[0][0] - began
            assert waited_s < TIMEOUT_S + 0.5 + SLACK_S, f"an attempt took {waited_s:.2f} s"
        began = time.monotonic()
        report = dispatcher.close(CLOSE_S)
        took_s = time.monotonic() - began
        assert took_s < CLOSE_S + 0.5 + SLACK_S, f"close took {took_s:.2f} s"
        assert report.closes
        assert report.accepted == events
        assert report.queued + report.delivered + report.dead == events, report
        return took_s

    def _dispatcher(self) -> EventDispatcher:
        fault = self.fault
        make = MAKE[self.transport]
        return EventDispatcher(
            JournalQueue(self.journal, scan_interval_s=0.05, sync_interval_s=0, segment_bytes_max=16 << 20),
            transport=make(ca=self.papers.bundle if self.papers else None, proxy=""),
            retry=RetryPolicy(**{**POLICY, **fault.policy}),  # type: ignore[arg-type]  # one of them is an int
            timeout_s=TIMEOUT_S if fault.hangs else PATIENCE_S,
            linger_s=0.05,
            merge_log_events=fault.merge,
            observers=[lambda signal: self.heard.append((time.monotonic(), signal))],
        )

    def _put(self, dispatcher: EventDispatcher, count: int) -> None:
        """Dispatch events; no put may wait for the endpoint."""
        host = NAME if self.fault.dns else "127.0.0.1"
        origin = f"http{'s' if self.fault.tls else ''}://{host}:{self.server.port}/v1/events"
        for n in range(count):
            one = str(uuid.uuid4())
            url = f"{origin}/{self.fault.codes[n]}" if self.fault.codes else origin
            note = {"uuid": one, "key": "x" * self.fault.size + (self.fault.poison if n == 0 else "")}
            params = {"account_id": "1", "visitors": [{"visitor_id": "v", "snapshots": [{"events": [note]}]}]}
            began = time.monotonic()
            assert dispatcher.dispatch_event(LogEvent(url, params)), dispatcher.stats()
            assert time.monotonic() - began < SLACK_S, "a put waited"
            self.uuids.add(one)

    def _answers(self) -> list[Any]:
        return [signal for _, signal in self.heard if isinstance(signal, Retrying | Buried | Delivered)]

    def _met(self, dispatcher: EventDispatcher) -> bool:
        """Tell whether the fault was met often enough: by every endpoint, or a few times by the one, or to the end."""
        fault, met = self.fault, self._answers()
        settles = fault.fate in ("dead", "delivered") or fault.merge
        if settles and dispatcher.stats().pending:
            return False
        if fault.wait_s or fault.key == "refuses_everything":
            state = "open" if fault.wait_s else "held"
            return any(isinstance(signal, BreakerChanged) and signal.state == state for _, signal in self.heard)
        if fault.codes:  # a signal comes a moment after the count
            return len({signal.lane for signal in met if signal.status}) == len(fault.codes)
        return len(met) >= (1 if settles or fault.fate == "some" else 2 + fault.events)

    @contextlib.contextmanager
    def _heal(self) -> Iterator[Any]:
        """Be well, at the same address."""
        if self.names is not None:
            self.names.mode = "right"
        if isinstance(self.server, Scripted) and not self.fault.tls:
            self.server.collector.answer = None
            yield self.server.collector
            self.server.collector.close()
            return
        if isinstance(self.server, Scripted):
            self.server.collector.close()
        else:
            self.server.stop()
        with well(self.server.port, self.papers.good if self.papers else None) as collector:
            yield collector

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < until, (
                f"waited 10 s for {what}; heard {[signal for _, signal in self.heard][-9:]}"
            )
            time.sleep(0.005)

    # -- the oracle

    def _check_reasons(self, signals: list[Signal]) -> None:
        """See that it was taken for what the table says; ``signals`` are those from before it was well."""
        fault = self.fault
        given = [signal for signal in signals if isinstance(signal, Retrying | Buried)]
        expected = set(fault.reasons[self.transport])
        stray = set() if fault.hangs else {"timeout"}  # of a machine that stands still for five seconds
        told = {signal.reason for signal in given} - stray - {"closed"}
        if "http_*" in expected:
            codes = {f"http_{code}" for code in fault.codes}
            assert told == codes, f"taken for {told - codes} too, never for {codes - told}"
            return
        assert told <= expected, f"taken for {told}, not {expected}"
        assert told or fault.fate in ("delivered", "some"), "nothing was told"

    def _check_states(self, signals: list[Signal]) -> None:
        """See that it was told in the ledger's words, and recovered from."""
        fault = self.fault
        trouble = [signal for signal in signals if isinstance(signal, Trouble)]
        assert not trouble, trouble
        changes = [signal for signal in signals if isinstance(signal, BreakerChanged)]
        assert all(change.retry_in_s < 3600 for change in changes)
        states = [change.state for change in changes]
        if fault.fate in ("later", "held") and not fault.codes:
            assert ("open" if fault.fate == "later" else "held") in states, states
            assert states[-1] == "closed", states
        if fault.fate == "held":
            assert "open" not in states, states
        if fault.wait_s is not None:
            low, high = fault.wait_s
            first = changes[states.index("open")]
            assert low <= first.retry_in_s <= high, first

    def _check_sum(self, expected: int, yes: set[str]) -> dict[str, int]:
        """See that nothing is lost: by the endpoints' own lists, the dead letters and the folder's sum."""
        letters = list(inspect.dead_letters(self.journal))
        parked = {one for letter in letters for one in self.uuids if one.encode() in letter.event.payload}
        status = inspect.folder_status(self.journal)
        assert status.closes, status
        assert (status.accepted, status.queued, status.dropped) == (expected, 0, {}), status
        assert status.dead == len(letters) == len(parked), (status, len(letters), len(parked))
        assert status.delivered == expected - len(parked), status
        lost = self.uuids - yes - parked
        assert not lost, f"{len(lost)} events were lost"
        fault = self.fault
        if fault.dead is not None:
            leaver = 2 if fault.key == "refuses_everything" else 0
            assert len(parked) == fault.dead + leaver, len(parked)
        else:
            assert len(parked) == (expected if fault.fate == "dead" else 0)
        assert all(
            letter.reason in fault.reasons[self.transport] or letter.reason.startswith("http_4") for letter in letters
        )
        return {"events": expected, "delivered": status.delivered, "dead": status.dead}


def _with_a_resolver_of_its_own(fault: Fault, transport: str) -> dict[str, int]:
    """Run a cell in a process whose resolver asks a name server of ours; root may give it one."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        raise MissingError("needs the right to make a mount namespace (root)")
    address = f"127.53.{os.getpid() % 250}.{1 + time.time_ns() % 250}"
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as resolv:
        resolv.write(f"nameserver {address}\noptions timeout:1 attempts:1\n")
        resolv.flush()
        cell = f"endpoints --fault {fault.key} --transport {transport} --name-server {address}"
        inner = f"mount --bind {resolv.name} /etc/resolv.conf && exec {sys.executable} -m proof {cell}"
        done = subprocess.run(
            [unshare, "-m", "sh", "-c", inner], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(part.rsplit(" ", 1) for part in done.stdout.rstrip().rsplit("s; ", 1)[1].split(", ") if " " in part)
    return {
        "events": int(figures["events"]),
        "delivered": int(figures["delivered"]),
        "dead": int(figures["dead"]),
        "close_ms": int(figures.get("ms", 0)),
    }
