"""One measurement per call: ``python -m bench.cases NAME JSON`` prints one JSON object.

Each function is a case.  Times are seconds unless a name says otherwise; ``lost`` is counted by the collector.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATAFILE = (ROOT / "src/eventpost/demo_datafile.json").read_text(encoding="utf-8")
EVENT_KEY = json.loads(DATAFILE)["events"][0]["key"]
ATTRIBUTES = {"plan": "pro"}
TAGS = {"revenue": 1000, "value": 3.5, "category": "shoes"}


class CollectorProcess:
    """The collector in a process of its own."""

    def __init__(self, *, delay_s: float = 0.0, bare: bool = False) -> None:
        command = [sys.executable, "-m", "eventpost.testing.collector", "--port", "0", "--delay-s", str(delay_s)]
        self.process = subprocess.Popen([*command, *(["--bare"] if bare else [])], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.origin = self.url.rsplit("/v1", 1)[0]

    def ask(self, what: str) -> Any:
        """Return what the collector says of itself."""
        with urllib.request.urlopen(f"{self.origin}/{what}", timeout=30) as answer:
            return json.load(answer)

    def uuids(self) -> int:
        """Return how many different events it saw."""
        return int(self.ask("_stats")["uuids"])

    def requests(self) -> int:
        """Return how many requests it answered."""
        return int(self.ask("_stats")["requests"])

    def settle(self, wanted: int, count: Callable[[], int], timeout_s: float) -> tuple[int, float]:
        """Wait until ``wanted`` were counted, or nothing new came for two seconds; how many, and when the last came."""
        deadline, seen, changed = time.perf_counter() + timeout_s, -1, time.perf_counter()
        while time.perf_counter() < deadline and seen < wanted and time.perf_counter() - changed < 2.0:
            now = count()
            if now != seen:
                seen, changed = now, time.perf_counter()
            time.sleep(0.01)
        return seen, changed

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(10)


@contextmanager
def collector(**options: Any) -> Iterator[CollectorProcess]:
    """Run a collector."""
    running = CollectorProcess(**options)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def folder() -> Iterator[str]:
    """Make a folder for a journal."""
    path = tempfile.mkdtemp(prefix="eventpost-bench-")
    try:
        yield f"{path}/journal"
    finally:
        shutil.rmtree(path, ignore_errors=True)


def quantiles(samples_ns: list[int]) -> dict[str, float]:
    """Return mean, median, p99 and maximum in microseconds."""
    samples_ns.sort()
    count = len(samples_ns)
    return {
        "mean_us": sum(samples_ns) / count / 1e3,
        "p50_us": samples_ns[count // 2] / 1e3,
        "p99_us": samples_ns[int(count * 0.99)] / 1e3,
        "max_us": samples_ns[-1] / 1e3,
    }


def make_queue(kind: str, path: str, **options: Any) -> Any:
    """Return a queue by its level."""
    from eventpost import JournalQueue, MemoryQueue

    return MemoryQueue() if kind == "memory" else JournalQueue(path, "fsync" if kind == "fsync" else "os", **options)


def track(client: Any, count: int) -> list[int]:
    """Call ``track`` in a tight loop; the nanoseconds of each call."""
    samples, now, call = [], time.perf_counter_ns, client.track
    for number in range(count):
        began = now()
        call(EVENT_KEY, f"visitor-{number}", ATTRIBUTES, TAGS)
        samples.append(now() - began)
    return samples


def track_official(batch: int, count: int) -> dict[str, Any]:
    """Run the SDK's own pipeline: how many of a burst arrive, and how fast."""
    from optimizely import optimizely
    from optimizely.event.event_processor import BatchEventProcessor
    from optimizely.event_dispatcher import EventDispatcher

    logging.disable(logging.CRITICAL)
    with collector() as there:

        class ToCollector:
            @staticmethod
            def dispatch_event(event: Any) -> None:
                event.url = there.url
                EventDispatcher.dispatch_event(event)

        processor = BatchEventProcessor(ToCollector(), batch_size=batch, flush_interval=1, start_on_init=True)
        client = optimizely.Optimizely(DATAFILE, event_processor=processor)
        began, cpu = time.perf_counter(), time.process_time()
        samples = track(client, count)
        arrived, last = there.settle(count, there.uuids, 120.0)
        took, cpu = last - began, time.process_time() - cpu
        client.close()
        return {
            "arrived": arrived,
            "lost": count - arrived,
            "per_s": arrived / took,
            "cpu_s": cpu,
            **quantiles(samples),
        }


def track_ours(kind: str, count: int) -> dict[str, Any]:
    """Run ours; ``kind``: memory, os, fsync, or beside (this process only stores, ``eventpost send`` delivers)."""
    from optimizely import optimizely

    from eventpost import EventDispatcher, EventProcessor

    beside = kind == "beside"
    with collector() as there, folder() as path:
        queue = make_queue("os" if beside else kind, path)
        dispatcher = EventDispatcher(queue, endpoint=there.url, sender="none" if beside else "thread")
        client = optimizely.Optimizely(DATAFILE, event_processor=EventProcessor(dispatcher))
        sender = None
        if beside:
            command = [sys.executable, "-m", "eventpost.cli", "send", "--journal", path]
            short = {**os.environ, "EVENTPOST_LINGER_S": "0.05"}
            sender = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=short)
        track(client, 200)
        dispatcher.flush(10)
        there.settle(200, there.uuids, 20.0)
        began, cpu = time.perf_counter(), time.process_time()
        samples = track(client, count)
        looped = time.perf_counter() - began
        dispatcher.flush(60)
        arrived, last = there.settle(count + 200, there.uuids, 60.0)
        arrived -= 200
        took, cpu = last - began, time.process_time() - cpu
        report = dispatcher.close()
        if sender is not None:
            sender.terminate()
            sender.wait(20)
        return {
            "arrived": arrived, "lost": count - arrived, "per_s": count / took, "put_per_s": count / looped, "cpu_s": cpu,
            "report": str(report), **quantiles(samples),
        }  # fmt: skip


def track_floor(count: int) -> dict[str, Any]:
    """Run the SDK with a processor that does nothing: what no dispatcher can be faster than."""
    from optimizely import optimizely

    class Nothing:
        def process(self, user_event: object) -> None:
            pass

    client = optimizely.Optimizely(DATAFILE, event_processor=Nothing())
    began = time.perf_counter()
    samples = track(client, count)
    return {"arrived": 0, "lost": 0, "per_s": count / (time.perf_counter() - began), "cpu_s": 0.0, **quantiles(samples)}


def cost(kind: str, count: int, *, running: bool) -> dict[str, Any]:
    """Time one ``process()`` of our processor, or of the SDK's, alone or while a sender delivers."""
    from optimizely import optimizely

    from eventpost import EventDispatcher, EventProcessor

    logging.disable(logging.CRITICAL)
    seen: list[Any] = []

    class Keep:
        def process(self, user_event: object) -> None:
            seen.append(user_event)

    client = optimizely.Optimizely(DATAFILE, event_processor=Keep())
    track(client, count)
    gc.collect()
    with collector(bare=True) as there, folder() as path:
        if kind == "official":
            from optimizely.event.event_processor import BatchEventProcessor

            class Quiet:
                @staticmethod
                def dispatch_event(event: Any) -> None:
                    pass

            processor: Any = BatchEventProcessor(Quiet(), batch_size=10, flush_interval=1, start_on_init=running)
            close: Callable[[], object] = processor.stop if running else (lambda: None)
        else:
            dispatcher = EventDispatcher(make_queue(kind, path), endpoint=there.url)
            processor = EventProcessor(dispatcher)
            if not running:
                dispatcher._notice = lambda *_: None  # the sender is never woken
            close = dispatcher.close if running else (lambda: dispatcher.queue.close())
        samples, now, process = [], time.perf_counter_ns, processor.process
        for user_event in seen:
            began = now()
            process(user_event)
            samples.append(now() - began)
        close()
    return quantiles(samples)


def log_events(kind: str, count: int, delay_s: float) -> dict[str, Any]:
    """Dispatch whole LogEvents, nothing shared; ``kind``: official, memory or os."""
    from eventpost import EventDispatcher, LogEvent

    logging.disable(logging.CRITICAL)
    params = {
        "account_id": "1", "project_id": "2", "revision": "3", "client_name": "python-sdk", "client_version": "5.0.0",
        "anonymize_ip": True, "enrich_decisions": True, "visitors": [{"visitor_id": "v" * 20, "attributes": [], "snapshots": [
            {"events": [{"timestamp": 1, "uuid": "u" * 36, "entity_id": "1", "key": "purchase", "tags": {"note": "x" * 400}}]}]}],
    }  # fmt: skip
    with collector(bare=True, delay_s=delay_s) as there, folder() as path:
        event = LogEvent(there.url, params)
        if kind == "official":
            from optimizely.event_dispatcher import EventDispatcher as Official

            began, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                Official.dispatch_event(event)  # type: ignore[arg-type]  # it reads the same four attributes
            took = time.perf_counter() - began
            return {"per_s": count / took, "cpu_s": time.process_time() - cpu, "lost": count - there.requests()}
        with EventDispatcher(make_queue(kind, path)) as dispatcher:
            for _ in range(100):
                dispatcher.dispatch_event(event)
            dispatcher.flush(10)
            began, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                dispatcher.dispatch_event(event)
            report = dispatcher.flush(60)
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
            return {"per_s": count / took, "cpu_s": cpu, "lost": count + 100 - report.delivered}


def put(count: int, *, busy: bool, bare: bool) -> dict[str, Any]:
    """Time one durable put of 1 KB at ``os``; ``busy``: beside a CPU-bound thread; ``bare``: one ``os.write`` instead."""
    from eventpost import JournalQueue
    from eventpost.event import Envelope, Event

    event = Event(Envelope("http://127.0.0.1:9/v1/events", shared=True, prefix=b"{", suffix=b"}"), b"x" * 1024)
    stop = threading.Event()

    def burn() -> None:
        n = 0
        while not stop.is_set():
            for _ in range(1000):
                n += 1

    with folder() as path:
        queue = JournalQueue(path)
        file = open(f"{path}/bare", "ab", buffering=0)  # noqa: SIM115  # closed below
        thing = event.payload
        call: Callable[[], Any] = (lambda: file.write(thing)) if bare else (lambda: queue.put((event,)))
        if busy:
            threading.Thread(target=burn, daemon=True).start()
        samples, now = [], time.perf_counter_ns
        began = time.perf_counter()
        for _ in range(count):
            start = now()
            call()
            samples.append(now() - start)
        took = time.perf_counter() - began
        stop.set()
        file.close()
        queue.close()
        return {"per_s": count / took, **quantiles(samples)}


def put_processes(processes: int, count: int, *, bare: bool) -> dict[str, Any]:
    """Let several processes put into one folder at once."""
    from eventpost import JournalQueue
    from eventpost.event import Envelope, Event

    event = Event(Envelope("http://127.0.0.1:9/v1/events", shared=True, prefix=b"{", suffix=b"}"), b"x" * 1024)
    with folder() as path:
        queue = JournalQueue(path)
        gates, children = os.pipe(), []
        pipes = []
        for number in range(processes):
            read, write = os.pipe()
            pipes.append(read)
            child = os.fork()
            if not child:
                queue.after_fork_in_child()
                os.close(gates[1])
                file = open(f"{path}/bare{number}", "ab", buffering=0)  # noqa: SIM115  # the process ends
                os.read(gates[0], 1)
                samples, now, one = [], time.perf_counter_ns, event.payload
                call: Callable[[], Any] = (lambda file=file: file.write(one)) if bare else (lambda: queue.put((event,)))
                began = time.time()
                for _ in range(count):
                    start = now()
                    call()
                    samples.append(now() - start)
                os.write(write, json.dumps([began, time.time(), quantiles(samples)]).encode())
                os._exit(0)
            children.append(child)
        os.close(gates[0])
        os.close(gates[1])
        results = [json.loads(os.read(read, 1 << 16)) for read in pipes]
        for child in children:
            os.waitpid(child, 0)
        took = max(one[1] for one in results) - min(one[0] for one in results)
        p99 = sorted(one[2]["p99_us"] for one in results)
        return {
            "per_s": processes * count / took,
            "p99_us": p99[len(p99) // 2],
            "max_us": max(one[2]["max_us"] for one in results),
        }


def put_fsync(threads: int, count: int) -> dict[str, Any]:
    """Let several threads put at ``fsync`` (group commit)."""
    from eventpost import JournalQueue
    from eventpost.event import Envelope, Event

    event = Event(Envelope("http://127.0.0.1:9/v1/events", shared=True, prefix=b"{", suffix=b"}"), b"x" * 1024)
    with folder() as path:
        queue = JournalQueue(path, "fsync")
        queue.put((event,))
        samples: list[list[int]] = [[] for _ in range(threads)]

        def work(mine: list[int]) -> None:
            now = time.perf_counter_ns
            for _ in range(count):
                start = now()
                queue.put((event,))
                mine.append(now() - start)

        workers = [threading.Thread(target=work, args=(mine,)) for mine in samples]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took = time.perf_counter() - began
        return {"per_s": threads * count / took, **quantiles([one for mine in samples for one in mine])}


def drain(kind: str, count: int) -> dict[str, Any]:
    """Deliver a journal that another process filled; ``kind``: ours, or bound (bare pycurl, bodies made before)."""
    from eventpost import EventDispatcher, JournalQueue
    from eventpost.event import Envelope, Event

    visitor = b'{"visitor_id":"%s","attributes":[],"snapshots":[]}'
    with collector(bare=True) as there, folder() as path:
        envelope = Envelope(there.url, shared=True, prefix=b'{"account_id":"1","visitors":[', suffix=b"]}")
        if kind == "bound":
            body = envelope.body([visitor % (b"v" * 240) for _ in range(100)])
            took = _bare_curl(there.url, body, count // 100)
            return {"per_s": count / took, "requests": there.requests()}
        child = os.fork()
        if not child:
            queue = JournalQueue(path)
            for number in range(count):
                queue.put((Event(envelope, visitor % (b"%0240d" % number)),))
            queue.close()
            os._exit(0)
        os.waitpid(child, 0)
        before = _most_memory_mb()
        dispatcher = EventDispatcher(JournalQueue(path, adopt="always"), endpoint=there.url)
        began, cpu = time.perf_counter(), time.process_time()
        dispatcher._thread._poke()
        while dispatcher.stats().delivered < count and time.perf_counter() - began < 120:
            time.sleep(0.02)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        delivered = dispatcher.close().delivered
        after = _most_memory_mb()
        return {
            "per_s": delivered / took,
            "lost": count - delivered,
            "cpu_s": cpu,
            "memory_mb": after - before,
        }


def _most_memory_mb() -> float:
    """Return the most that this process has had; getrusage tells that of whoever started it, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def _bare_curl(url: str, body: bytes, requests: int, parallel: int = 16) -> float:
    import pycurl

    multi, free, sent, done = pycurl.CurlMulti(), [], 0, 0
    for _ in range(parallel):
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json", "Expect:"])
        curl.setopt(pycurl.WRITEDATA, io.BytesIO())
        free.append(curl)
    began = time.perf_counter()
    while done < requests:
        while free and sent < requests:
            multi.add_handle(free.pop())
            sent += 1
        multi.perform()
        _, good, bad = multi.info_read()
        for curl in [*good, *(one[0] for one in bad)]:
            multi.remove_handle(curl)
            free.append(curl)
            done += 1
        if not good:
            multi.select(0.05)
    return time.perf_counter() - began


def import_time(what: str) -> dict[str, Any]:
    """Time an import in a fresh interpreter: ``sdk``, or ``ours`` on top of the SDK."""
    code = (
        "import optimizely.optimizely, time; began=time.perf_counter(); import eventpost; eventpost.EventDispatcher; "
    )
    code += "eventpost.EventProcessor; eventpost.JournalQueue; print(time.perf_counter()-began)"
    if what == "sdk":
        code = "import time; began=time.perf_counter(); import optimizely.optimizely; print(time.perf_counter()-began)"
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(2):  # the first compiles what an installation compiles
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=compiled)
    return {"ms": float(out.stdout) * 1000}


def main() -> None:
    """Run one case."""
    name, options = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(globals()[name](**options)))


if __name__ == "__main__":
    main()
