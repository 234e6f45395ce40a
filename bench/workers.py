"""200 workers that come and go on one journal folder: ``python -m bench.workers`` prints, ``--write`` also writes the page.

The parent loads the client and forks, as gunicorn's ``--preload`` does, and replaces each worker that retires after some
events.  Then the workers rest, some are killed with an event in hand, and all are asked to stop.  Each acknowledged uuid is
appended to one file, by one ``write``, so that it outlives a kill; the collector, a process of its own, says what arrived.

Workers wait for signals with the signals blocked, so that resting costs them nothing: what is measured is ours.
"""

from __future__ import annotations

import argparse
import atexit
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.__main__ import versions
from bench.cases import ATTRIBUTES, DATAFILE, EVENT_KEY, TAGS, CollectorProcess, collector, folder

ROOT = Path(__file__).resolve().parent.parent
REST, PUT, STOP = signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM
SIGNALS = {REST, PUT, STOP}
SCAN_S = 5.0
END_S = 30.0


class Workers:
    """Forks, replaces, kills and reaps; the children are the only processes that it touches."""

    def __init__(self, target: int, track: Callable[[], None], events: tuple[int, int], pause_s: float) -> None:
        self.target = target
        self.track = track
        self.events = events
        self.pause_s = pause_s
        self.pids: set[int] = set()
        self.started = self.failed = 0
        self.resting = False

    def fill(self) -> None:
        """Reap who ended, and start as many as are missing."""
        self.reap()
        while len(self.pids) < self.target:
            pid = os.fork()
            if not pid:
                self._live()
            self.pids.add(pid)
            self.started += 1

    def _live(self) -> None:
        """Be a worker; ends as the interpreter would, by the functions that are registered for it."""
        code = 1
        try:
            self._work()
            atexit._run_exitfuncs()
            code = 0
        except BaseException:  # noqa: BLE001 - it is told, and the child must not return into its parent's code
            traceback.print_exc()
        finally:
            os._exit(code)

    def _work(self) -> None:
        resting = self.resting
        chance = random.Random(os.getpid())
        left = chance.randint(*self.events)
        self.track()
        while resting or left > 0:
            if resting:
                got = signal.sigwaitinfo(SIGNALS)
            else:
                got = signal.sigtimedwait(SIGNALS, chance.uniform(0.5, 1.5) * self.pause_s)
            if got is not None and got.si_signo == STOP:
                return
            if got is not None and got.si_signo == REST:
                resting = True
                continue
            self.track()
            left -= 1

    def reap(self) -> None:
        """Collect who ended."""
        for pid in list(self.pids):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.pids.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                self.failed += code not in (0, -signal.SIGKILL)

    def churn(self, seconds: float, sample: Callable[[], None]) -> None:
        """Come and go for a while, looking every few seconds."""
        end = time.monotonic() + seconds
        look = time.monotonic() + min(5.0, seconds / 2)
        while time.monotonic() < end:
            self.fill()
            if time.monotonic() >= look:
                sample()
                look += 5.0
            time.sleep(0.05)

    def rest(self) -> None:
        """Let everybody rest who lives; who retires meanwhile is replaced by one who rests."""
        self.resting = True
        for pid in self.pids:
            os.kill(pid, REST)
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            self.fill()
            time.sleep(0.05)

    def kill(self, pid: int) -> None:
        """Kill one and wait for its end."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.pids.discard(pid)

    def stop(self) -> float:
        """Ask all to end; the seconds until the last has, by force after ``END_S``."""
        began = time.monotonic()
        for pid in self.pids:
            os.kill(pid, STOP)
        while self.pids and time.monotonic() - began < END_S:
            self.reap()
            time.sleep(0.02)
        self.failed += len(self.pids)
        for pid in list(self.pids):
            self.kill(pid)
        return time.monotonic() - began


def descriptors(pid: int) -> int:
    """Count a process's descriptors; 0 if it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def threads(pid: int) -> int:
    """Count a process's threads; 0 if it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of all living threads of a process, from the scheduler's nanoseconds."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9


def elected(pids: set[int], journal: str) -> int | None:
    """Return the worker that looks for leftovers: the one that has the scanner's lock open."""
    path = os.path.realpath(f"{journal}/scanner.lock")
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                    return pid
            except OSError:
                continue
    return None


def disk_bytes(journal: str) -> tuple[int, int]:
    """Return the number of files in a folder and the bytes of blocks that they take."""
    files = [path for path in Path(journal).rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_blocks * 512 for path in files)


def adoption(there: CollectorProcess, workers: Workers, victims: list[int]) -> list[float]:
    """Let each victim put an event and kill it before the event leaves; the seconds until each event has arrived.

    Nothing else is sent meanwhile.  Arrivals before the last kill were not left over, and do not count.
    """
    for pid in victims:
        os.kill(pid, PUT)
    time.sleep(0.3)  # an event waits up to a second for company
    for pid in victims:
        workers.kill(pid)
    began, before = time.monotonic(), there.uuids()
    wanted = before + len(victims)
    arrivals: list[float] = []
    while time.monotonic() - began < 3 * SCAN_S and before + len(arrivals) < wanted:
        arrivals += [time.monotonic() - began] * (there.uuids() - before - len(arrivals))
        time.sleep(0.05)
    return arrivals


def run(options: argparse.Namespace, there: CollectorProcess, journal: str, acks: str) -> dict[str, Any]:
    """Run all phases; what was measured."""
    from optimizely.optimizely import Optimizely

    from eventpost import EventDispatcher, EventProcessor, JournalQueue

    acks_fd = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    class Noting(EventProcessor):
        def process(self, user_event: Any) -> bool:
            taken = super().process(user_event)
            if taken:
                os.write(acks_fd, f"{user_event.uuid}\n".encode())
            return taken

    processor = Noting(EventDispatcher(JournalQueue(journal, scan_interval_s=SCAN_S), endpoint=there.url))
    client = Optimizely(DATAFILE, event_processor=processor)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    workers = Workers(
        options.workers, lambda: client.track(EVENT_KEY, f"user-{os.getpid()}", ATTRIBUTES, TAGS), (20, 40), 0.4
    )
    own = descriptors(there.process.pid)
    found: dict[str, Any] = {}
    busy: list[tuple[float, int, float, int]] = []

    def sample() -> None:
        counts = [descriptors(pid) for pid in workers.pids]
        tasks = [threads(pid) for pid in workers.pids]
        busy.append((median(counts), sum(counts), median(tasks), descriptors(there.process.pid) - own))

    try:
        began = time.monotonic()
        workers.fill()
        found["fork_s"] = time.monotonic() - began
        workers.churn(options.churn_s, sample)
        found["came"] = workers.started
        for at, name in enumerate(("fds", "fds_total", "threads", "connections")):
            found[name] = max(one[at] for one in busy)
        workers.rest()
        time.sleep(options.settle_s)
        before = {pid: cpu_s(pid) for pid in workers.pids}
        began = time.monotonic()
        time.sleep(options.idle_s)
        minutes = (time.monotonic() - began) / 60
        spent = sorted((cpu_s(pid) - before[pid]) / minutes for pid in workers.pids)
        counts = [descriptors(pid) for pid in workers.pids]
        found |= {
            "idle_workers": len(spent), "idle_cpu": sum(spent), "idle_cpu_median": median(spent),
            "idle_cpu_max": spent[-1], "idle_fds": median(counts), "idle_fds_total": sum(counts),
            "idle_threads": median(threads(pid) for pid in workers.pids),
            "idle_connections": descriptors(there.process.pid) - own,
        }  # fmt: skip
        found["files"], found["disk"] = disk_bytes(journal)
        scanner = elected(workers.pids, journal)
        others = sorted(workers.pids - {scanner})
        some = max(1, min(10, len(others) // 3))
        found["killed"] = some
        found["adopted"] = adoption(there, workers, others[:some])
        found["killed_elected"] = some + (scanner is not None)
        victims = others[some : 2 * some] + ([scanner] if scanner is not None else [])
        found["adopted_elected"] = adoption(there, workers, victims)
        found["stop_s"] = workers.stop()
    finally:
        for pid in list(workers.pids):
            workers.kill(pid)
        os.close(acks_fd)
    found["failed"] = workers.failed
    acknowledged = set(Path(acks).read_text(encoding="ascii").split())
    there.settle(len(acknowledged), there.uuids, 5)
    seen: dict[str, int] = there.ask("_uuids")
    found["acknowledged"] = len(acknowledged)
    found["lost"] = len(acknowledged - seen.keys())
    found["repeated"] = sum(count - 1 for count in seen.values())
    return found


def spread(times: list[float], of: int) -> str:
    """Return when the first, the median and the last arrived, and how many of how many did."""
    if not times:
        return f"0 of {of}"
    return f"{times[0]:.1f} / {median(times):.1f} / {times[-1]:.1f} s ({len(times)} of {of})"


def rendered(found: dict[str, Any]) -> str:
    """Return the table."""
    rows = {
        "workers at once / in all": f"{found['idle_workers']} / {found['came']:,}",
        "descriptors per worker, busy (median; all)": f"{found['fds']:g}; {found['fds_total']:,}",
        "descriptors per worker, idle (median; all)": f"{found['idle_fds']:g}; {found['idle_fds_total']:,}",
        "threads per worker, busy / idle (median)": f"{found['threads']:g} / {found['idle_threads']:g}",
        "connections open at the endpoint, busy (most) / idle": f"{found['connections']} / {found['idle_connections']}",
        "CPU s per minute, all idle workers": f"{found['idle_cpu']:.2f}",
        "CPU ms per minute, one idle worker (median; most)":
            f"{found['idle_cpu_median'] * 1e3:.2f}; {found['idle_cpu_max'] * 1e3:.1f}",
        "files / disk of all idle writers": f"{found['files']:,} / {found['disk'] / 1e6:.1f} MB",
        "leftovers of killed workers at the endpoint (first / median / last)":
            spread(found["adopted"], found["killed"]),
        "the same, with the process that looks for them killed too":
            spread(found["adopted_elected"], found["killed_elected"]),
        "all asked to stop, until the last has ended": f"{found['stop_s']:.1f} s",
        "workers that ended badly": f"{found['failed']}",
        "events acknowledged / lost / sent twice":
            f"{found['acknowledged']:,} / {found['lost']} / {found['repeated']}",
    }  # fmt: skip
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows.items())])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--churn-s", type=float, default=40.0, help="seconds of coming and going")
    parser.add_argument(
        "--settle-s", type=float, default=6.0, help="seconds between the last event and the measurement"
    )
    parser.add_argument("--idle-s", type=float, default=30.0, help="seconds in which idle CPU is measured")
    parser.add_argument("--write", action="store_true", help="write docs/workers.md")
    options = parser.parse_args()
    began = time.monotonic()
    with collector() as there, folder() as journal:
        found = run(options, there, journal, f"{os.path.dirname(journal)}/acks")
    table = rendered(found)
    print(table)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if options.write:
        head = (ROOT / "bench/workers.md").read_text(encoding="utf-8").rstrip()
        text = f"{head}\n\n{table}\n\nMeasured with {versions()}, {os.cpu_count()} cores.\n"
        (ROOT / "docs/workers.md").write_text(text, encoding="utf-8")
    if found["lost"] or found["failed"]:
        raise SystemExit("events were lost, or workers ended badly")


if __name__ == "__main__":
    main()
