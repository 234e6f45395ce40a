"""kill -9 of real processes that run the real SDK on a journal: nothing that was acknowledged is lost.

The oracle is what the child wrote to a pipe after each event was taken, against the visitors that the collector
answered 204 for.  Repeats are counted, never forbidden: a crash between an answer and its note allows them.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eventpost.queues.journal import JournalQueue, inspect
from eventpost.testing import Collector, Reply

PRELUDE = """
import json, logging, os, signal, sys, threading, time
from importlib.resources import files
import eventpost
from eventpost import EventDispatcher, EventProcessor, JournalQueue, LogEvent
from optimizely import optimizely
FOLDER, URL, NAME = sys.argv[1:4]
logging.getLogger("eventpost").setLevel(logging.CRITICAL)
DATAFILE = files(eventpost).joinpath("demo_datafile.json").read_text()
KEY = json.loads(DATAFILE)["events"][0]["key"]

class Told:
    '''Writes each visitor to stdout once the processor has taken its event.'''
    def __init__(self, dispatcher):
        self.processor = EventProcessor(dispatcher)
    def process(self, user_event):
        if self.processor.process(user_event):
            os.write(1, user_event.user_id.encode() + b"\\n")

def make(**options):
    durability = options.pop("durability", "os")
    dispatcher = EventDispatcher(JournalQueue(FOLDER, durability), endpoint=URL, linger_s=0.05, **options)
    return optimizely.Optimizely(DATAFILE, event_processor=Told(dispatcher)), dispatcher

def track(client, prefix, count=10**9, pause_s=0.0):
    for number in range(count):
        client.track(KEY, f"{NAME}-{prefix}-{number}", {"plan": "pro"}, {"revenue": number, "note": "caf\\u00e9"})
        if pause_s and not number % 50:
            time.sleep(pause_s)
"""


def start(code: str, folder: Path, url: str, name: str) -> subprocess.Popen[bytes]:
    """Start a script in a process of its own."""
    script = PRELUDE + textwrap.dedent(code)
    command = [sys.executable, "-c", script, str(folder), url, name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill_after(child: subprocess.Popen[bytes], seconds: float) -> list[str]:
    """Let a child work for a while after its first acknowledgement, kill it, and return what it acknowledged."""
    assert child.stdout is not None
    descriptor, data = child.stdout.fileno(), b""
    deadline = time.monotonic() + 20
    until = None
    while time.monotonic() < (until or deadline):
        if select.select([descriptor], [], [], 0.01)[0]:
            more = os.read(descriptor, 1 << 16)
            if not more:
                break
            data += more
            until = until or time.monotonic() + seconds
    child.send_signal(signal.SIGKILL)
    while more := os.read(descriptor, 1 << 16):
        data += more
    err = child.communicate(timeout=10)[1]
    assert until is not None, err.decode()
    return [line.decode() for line in data.split(b"\n")[:-1]]


def finish(child: subprocess.Popen[bytes], timeout_s: float = 30) -> list[str]:
    """Wait for a child's own end and return what it acknowledged."""
    out, err = child.communicate(timeout=timeout_s)
    assert child.returncode == 0, err.decode()
    return out.decode().split()


def send_until_empty(folder: Path) -> None:
    """Run the command that delivers what lies in a folder."""
    command = [
        sys.executable,
        "-m",
        "eventpost.cli",
        "send",
        "--journal",
        str(folder),
        "--until-empty",
        "--timeout",
        "60",
    ]
    done = subprocess.run(command, capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr.decode()


def visitors(collector: Collector) -> Counter[str]:
    """Count the visitors in what was answered 2xx."""
    found: Counter[str] = Counter()
    for body in collector.bodies:
        for visitor in json.loads(body)["visitors"]:
            found[visitor["visitor_id"]] += 1
    return found


def check(folder: Path, collector: Collector, acknowledged: list[str]) -> Counter[str]:
    """Nothing acknowledged is missing, the folder is empty and its sum closes."""
    seen = visitors(collector)
    assert not set(acknowledged) - set(seen), f"{len(set(acknowledged) - set(seen))} lost"
    status = inspect.folder_status(folder)
    assert (status.queued, status.dead, status.dropped, status.closes) == (0, 0, {}, True)
    return seen


def test_killed_again_and_again(tmp_path: Path) -> None:
    """Twelve processes in turn, each killed at a random moment while it writes and sends; the next one adopts."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    acknowledged: list[str] = []

    def answer(_: Any) -> Reply:
        return chance.choice([Reply(), Reply(), Reply(delay_s=0.02), Reply(503), Reply(reset="after")])

    with Collector() as collector:
        collector.answer = answer
        for number in range(12):
            code = "client, _ = make()\ntrack(client, 'x', pause_s=0.002)"
            child = start(code, tmp_path / "j", collector.url, f"p{number}")
            acknowledged += kill_after(child, chance.uniform(0.0, 0.4))
        collector.answer = None
        send_until_empty(tmp_path / "j")
        check(tmp_path / "j", collector, acknowledged)
    assert len(acknowledged) > 500


def test_a_killed_sender_beside_its_writers(tmp_path: Path) -> None:
    """Processes that only store, and a sender beside them that is killed and started again: nothing is lost."""
    with Collector() as collector:
        code = "client, d = make(sender='none')\ntrack(client, 'x', count=3000, pause_s=0.01)\nd.close()"
        writers = [start(code, tmp_path / "j", collector.url, f"w{number}") for number in range(3)]
        for _ in range(4):
            command = [sys.executable, "-m", "eventpost.cli", "send", "--journal", str(tmp_path / "j")]
            sender = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.6)
            sender.kill()
            sender.wait(10)
        acknowledged = [one for writer in writers for one in finish(writer)]
        send_until_empty(tmp_path / "j")
        check(tmp_path / "j", collector, acknowledged)
    assert len(acknowledged) == 9000


def test_eight_writers_at_once(tmp_path: Path) -> None:
    """Eight processes write and send at once into one folder: each event arrives, and exactly once."""
    with Collector() as collector:
        code = "client, d = make()\ntrack(client, 'x', count=400)\nd.close(20)"
        writers = [start(code, tmp_path / "j", collector.url, f"w{number}") for number in range(8)]
        acknowledged = [one for writer in writers for one in finish(writer, 60)]
        send_until_empty(tmp_path / "j")
        seen = check(tmp_path / "j", collector, acknowledged)
    assert len(acknowledged) == 3200
    assert set(seen.values()) == {1}


ENDS = {
    "falling off the end": ("", 0),
    "sys.exit": ("sys.exit(0)", 0),
    "an exception": ("raise RuntimeError('on purpose')", 1),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", -signal.SIGTERM),
    "os._exit": ("os._exit(0)", 0),
}


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("end", ENDS)
def test_however_a_process_ends(tmp_path: Path, end: str, durability: str) -> None:
    """What a durable queue took is delivered: at once, or by whoever comes next."""
    code, exit_code = ENDS[end]
    with Collector() as collector:
        script = f"client, _ = make(durability={durability!r})\ntrack(client, 'x', count=300)\n{code}"
        child = start(script, tmp_path / "j", collector.url, "p")
        out, err = child.communicate(timeout=30)
        assert child.returncode == exit_code, err.decode()
        send_until_empty(tmp_path / "j")
        check(tmp_path / "j", collector, out.decode().split())
        assert len(out.split()) == 300


def test_exit_does_not_wait_for_a_dead_endpoint(tmp_path: Path) -> None:
    """With a durable queue and an endpoint that is down, the end of the process is not held up; the events stay."""
    code = (
        "client, d = make()\ntrack(client, 'x', count=300)\ntime.sleep(1.5)\nos.write(2, b'end %f' % time.monotonic())"
    )
    child = start(code, tmp_path / "j", "http://127.0.0.1:9/v1/events", "p")
    _, err = child.communicate(timeout=30)
    ended_s = time.monotonic() - float(err.split(b"end ")[1].split()[0])
    assert child.returncode == 0
    assert ended_s < 3
    assert inspect.folder_status(tmp_path / "j").queued == 300


def test_fork_after_use_on_a_journal(tmp_path: Path) -> None:
    """Parent, child and grandchild write and deliver their own; nobody sends another's."""
    code = """
        client, d = make(sender="thread")
        track(client, "parent", count=50)
        child = os.fork()
        if not child:
            track(client, "child", count=50)
            grandchild = os.fork()
            if not grandchild:
                track(client, "grandchild", count=50)
                d.close(10)
                os._exit(0)
            os.waitpid(grandchild, 0)
            d.close(10)
            os._exit(0)
        track(client, "parent2", count=50)
        os.waitpid(child, 0)
        assert d.close(10).accepted == 100
    """
    with Collector() as collector:
        acknowledged = finish(start(code, tmp_path / "j", collector.url, "p"))
        send_until_empty(tmp_path / "j")
        seen = check(tmp_path / "j", collector, acknowledged)
    assert len(acknowledged) == 200
    assert set(seen.values()) == {1}


def test_workers_that_come_and_go(tmp_path: Path) -> None:
    """Forty short-lived workers of a preloading parent, some killed: descriptors and lock files do not pile up."""
    code = """
        client, d = make()
        for number in range(40):
            child = os.fork()
            if not child:
                track(client, f"c{number}", count=20)
                if number % 3:
                    d.close(10)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
        assert len(os.listdir("/proc/self/fd")) < 16, os.listdir("/proc/self/fd")
    """
    with Collector() as collector:
        acknowledged = finish(start(code, tmp_path / "j", collector.url, "p"), 60)
        send_until_empty(tmp_path / "j")
        check(tmp_path / "j", collector, acknowledged)
        assert len(acknowledged) == 800
    assert len(os.listdir(tmp_path / "j/writers")) <= 1


@pytest.mark.parametrize(("count", "headers"), [(250_000, "()"), (100_000, "(('X-Request-Id', 'request-%d' % n),)")])
def test_a_million_queued_events_cost_little_memory(tmp_path: Path, count: int, headers: str) -> None:
    """Of events that nobody claimed nothing is kept, by who stored them or who adopts them; a million may cost 50 MB.

    Asked of fewer: a quarter of a million for a quarter of that, and a tenth whose headers all differ for half of it,
    since those of the open segment are known by heart.
    """
    ours = """
        from eventpost.event import Envelope, Event
        def most_kb():  # getrusage would tell the most of whoever started this process, too
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
        def grown(work):
            before = most_kb()
            work()
            print(most_kb() - before)
    """
    store = f"""{ours}
        def put(n):
            queue.put([Event(Envelope(URL, headers={headers}, shared=True, prefix=b"{{", suffix=b"}}"), b"x" * 300)])
        queue = JournalQueue(FOLDER)
        put(0)
        def store():
            for n in range({count}):
                put(n)
        grown(store)
    """
    send = f"""{ours}
        queue = JournalQueue(FOLDER, adopt="always")
        def send():
            queue.scan()
            while leases := queue.claim(URL, 100, 1 << 20):
                queue.ack(leases)
        grown(send)
        assert queue.stats().delivered == {count} + 1
    """
    nowhere = "http://127.0.0.1:9/v1/events"
    for code in (store, send):
        [grown_kb] = finish(start(code, tmp_path / "j", nowhere, "p"), 60)
        assert int(grown_kb) < (12_800 if count > 100_000 else 25_600)


def test_leftovers_are_found_by_the_next_start(tmp_path: Path) -> None:
    """A process that starts on a folder with leftovers delivers them with its own first events."""
    left = JournalQueue(tmp_path / "j")
    from tests.unit.test_journal_segments import event

    with Collector() as collector:
        left.put([event(number, url=collector.url) for number in range(20)])
        left.close()
        code = "client, d = make()\ntrack(client, 'x', count=1)\ntime.sleep(0.2)\nprint(d.close(10))"
        child = start(code, tmp_path / "j", collector.url, "p")
        out, err = child.communicate(timeout=30)
        assert b"accepted 21 (adopted 20), delivered 21" in out, (out, err)
