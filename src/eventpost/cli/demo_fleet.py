"""``eventpost demo-fleet``: two relays, two senders, two applications on one Valkey, and a kill -9 of one of each.

The applications run a real Optimizely client whose dispatcher puts into the shared queue; beside them somebody posts
events to the relays as an SDK of another language would, to the other one where one does not answer.  One relay, one
sender, one application and then the server itself are killed with SIGKILL and started again.  At the end the books are
made up: the uuids of all events that were said yes to, against those that the endpoint saw.  Nothing is estimated.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from ..errors import EventpostError
from ..queues.place import SharedQueue
from ..testing.collector import Collector, Reply
from . import show
from .demo_leash import Leash
from .demo_server import REMEDY, Server, free_port, program
from .demo_sides import UUID_LINE_BYTES, DemoError

VISITS_PER_S: Final = 40.0
POSTS_PER_S: Final = 60.0
ANSWER: Final = Reply(204, delay_s=0.01)
LEASE_S: Final = 3
START_TIMEOUT_S: Final = 25.0
DRAIN_TIMEOUT_S: Final = 15.0
STOP_TIMEOUT_S: Final = 10.0
LOOK_S: Final = 0.2


@dataclass
class Post:
    """Posts events to the relays, in turn; ``taken`` are the uuids of those that were answered with 204."""

    ports: list[int]
    taken: set[str] = field(default_factory=set)
    refused: int = 0

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._open: dict[int, http.client.HTTPConnection] = {}
        self._thread = threading.Thread(target=self._run, name="eventpost-demo-post", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        due = time.monotonic()
        turn = 0
        while not self._ended.is_set():
            turn += 1
            uuid = str(uuid4())
            first, second = (self.ports[(turn + step) % len(self.ports)] for step in (0, 1))
            if self._post(first, uuid) or self._post(second, uuid):
                self.taken.add(uuid)
            else:
                self.refused += 1
            due = max(due + 1 / POSTS_PER_S, time.monotonic() - 1.0)
            self._ended.wait(max(0.0, due - time.monotonic()))

    def _post(self, port: int, uuid: str) -> bool:
        """Post one event; tells whether a relay said yes.  One that does not answer is left for the other."""
        connection = self._open.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=3))
        try:
            connection.request("POST", "/v1/events", body(uuid), {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return answer.status == 204


def body(uuid: str) -> bytes:
    """Return a request's body with one event, as SDKs send it."""
    event = {"uuid": uuid, "timestamp": int(time.time() * 1000), "key": "bought", "entity_id": "7", "type": "custom"}
    visitor = {"visitor_id": uuid[:8], "attributes": [], "snapshots": [{"decisions": [], "events": [event]}]}
    batch = {"account_id": "1", "project_id": "2", "client_name": "posts", "client_version": "1", "visitors": [visitor]}
    return json.dumps(batch).encode()


class Fleet:
    """All that runs, and the folder it runs in."""

    def __init__(self, folder: Path, collector: Collector, path: str) -> None:
        self.folder = folder
        self.collector = collector
        self.server = Server(path, folder)
        self.leash = Leash()
        self._environment = {**os.environ, "TMPDIR": str(folder)}  # a killed relay's run_dir goes with it
        self.ports = [free_port(), free_port()]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.started = 0
        self.post: Post | None = None

    def start(self, name: str) -> None:
        """Start a relay, a sender, an application or the server by its name, its number last; again after a kill."""
        kind, _, number = name.partition(" ")
        if kind == "server":
            process = self.server.start()
        else:
            command = [sys.executable, "-m", *getattr(self, f"_{kind}")(int(number))]
            with (self.folder / "output").open("ab") as output:
                process = subprocess.Popen(  # noqa: S603 - ours
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment
                )  # fmt: skip
        self.leash.take(process.pid)
        self.running[name] = process

    def _relay(self, number: int) -> list[str]:
        listen = f"127.0.0.1:{self.ports[number - 1]}"
        more = ["--queue", self.server.url, "--listen", listen, "--endpoint", self.collector.url, "--no-send"]
        return ["eventpost.cli", "relay", *more, "--durability", "fsync"]

    def _sender(self, number: int) -> list[str]:
        del number
        return ["eventpost.cli", "send", "--queue", self.server.url]

    def _application(self, number: int) -> list[str]:
        del number
        self.started += 1
        more = ["--endpoint", self.collector.url, "--rate", str(VISITS_PER_S), "--seed", str(self.started)]
        more += ["--witness", str(self.folder / f"taken-{self.started}"), "--parent", str(os.getpid())]
        return ["eventpost.cli.demo_traffic", *more, "--queue", self.server.url]

    def kill(self, name: str) -> None:
        """Kill it as the kernel's OOM killer would."""
        process = self.running.pop(name)
        process.kill()
        self._gone(process)

    def stop(self, kind: str) -> None:
        """Ask all of a kind to end in order, and wait until they have; kill those that do not in time."""
        named = [name for name in self.running if name.startswith(kind)]
        for name in named:
            self.running[name].terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for name in named:
            process = self.running.pop(name)
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
            self._gone(process)

    def _gone(self, process: subprocess.Popen[bytes]) -> None:
        process.wait(STOP_TIMEOUT_S)
        self.leash.let_go(process.pid)

    def check(self) -> None:
        """Raise DemoError if something ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                said = (self.folder / "output").read_text("utf-8", "replace").strip().splitlines()
                raise DemoError(f"{name} ended by itself with {process.returncode}: {said[-1] if said else ''}")

    def taken(self) -> set[str]:
        """Return the uuids of all events that were said yes to; half a line, from a kill in its middle, is no yes."""
        text = "".join(path.read_text("ascii") for path in self.folder.glob("taken-*"))
        own = {line for line in text.split("\n") if len(line) == UUID_LINE_BYTES - 1}
        return own | (set(self.post.taken) if self.post is not None else set())

    def ready(self, port: int) -> bool:
        """Tell whether a relay would take events."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False

    def status(self) -> Any:
        """Return the queue's status; None while the server is away."""
        view = SharedQueue(self.server.url).view(timeout_s=1.0)
        try:
            return view.status()
        except EventpostError:
            return None
        finally:
            view.close()

    def close(self) -> None:
        """End everything."""
        if self.post is not None:
            self.post.close()
        for process in self.running.values():
            process.kill()
            process.wait(STOP_TIMEOUT_S)
            self.leash.let_go(process.pid)
        self.leash.close()


@contextlib.contextmanager
def scene(path: str) -> Iterator[Fleet]:
    """Make the folder and the endpoint, and clear all away whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="eventpost-demo-fleet-"))
    try:
        with (
            Collector(lambda _: ANSWER, keep=False) as collector,
            contextlib.closing(Fleet(folder, collector, path)) as made,
        ):
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def play(fleet: Fleet) -> None:
    """Perform the whole story.  Raises DemoError if it can't go on."""
    began = time.monotonic()
    said_at = began

    def tell(line: str) -> None:
        show.say(f"{time.monotonic() - began:5.1f} s  {line}")

    def wait(seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        nonlocal said_at
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until():
                return True
            time.sleep(LOOK_S)
            fleet.check()
            if time.monotonic() - said_at >= 1.0:
                said_at = time.monotonic()
                tell(f"  accepted {len(fleet.taken()):,}, arrived {len(fleet.collector.uuids):,}; {_queue(fleet)}")
        return False

    tell("a Valkey starts that syncs every write; then two senders, two relays, two applications with the real SDK")
    fleet.start("server")
    if not fleet.server.wait():
        raise DemoError(f"the server did not start within {START_TIMEOUT_S:.0f} s")
    for name in ("sender 1", "sender 2", "relay 1", "relay 2", "application 1", "application 2"):
        fleet.start(name)
    if not wait(START_TIMEOUT_S, lambda: all(map(fleet.ready, fleet.ports))):
        raise DemoError("the relays were not ready in time")
    fleet.post = Post(fleet.ports)
    if not wait(START_TIMEOUT_S, lambda: len(fleet.collector.uuids) > 50 and bool(fleet.post and fleet.post.taken)):
        raise DemoError("nothing arrived in time")
    tell("posts to the relays, too: events flow")
    wait(2)
    for name, meaning in (
        ("relay 1", "whoever posts goes on at the other one"),
        ("sender 2", f"what it had in hand the other takes when its lease ends, after {LEASE_S} s"),
        ("application 1", "what it had put is in the queue"),
        ("server", "nobody can store: events are refused, and what was accepted is on its disk"),
    ):
        tell(f"kill -9: {name}; {meaning}")
        fleet.kill(name)
        wait(1.5)
        tell(f"{name} is started again")
        fleet.start(name)
        if name == "server" and not fleet.server.wait():
            raise DemoError("the server did not start again in time")
        wait(0.7)
    if not wait(START_TIMEOUT_S, lambda: all(map(fleet.ready, fleet.ports))):
        raise DemoError("the relays were not ready again in time")
    wait(2)
    tell("the traffic ends")
    if fleet.post is not None:
        fleet.post.close()
    fleet.stop("application")
    wait(DRAIN_TIMEOUT_S, lambda: (found := fleet.status()) is not None and not found.queued)
    tell("relays and senders are told to end")
    fleet.stop("relay")
    fleet.stop("sender")


def _queue(fleet: Fleet) -> str:
    found = fleet.status()
    if found is None:
        return "the queue's server is away"
    return f"queue: {found.queued - (found.in_flight or 0):,} waiting, {found.in_flight or 0:,} in hand"


def make_up(fleet: Fleet) -> int:
    """Count uuid by uuid, print the result, and return the exit code."""
    taken, seen = fleet.taken(), set(fleet.collector.uuids)
    lost = len(taken - seen)
    show.say(
        f"accepted {len(taken):,}, delivered {len(taken & seen):,}, lost {lost:,}",
        style="bold red" if lost else "bold green",
    )
    twice = sum(count - 1 for count in fleet.collector.uuids.values())
    show.say(f"{twice:,} arrived more than once; Optimizely drops repeats by their uuid")
    if seen - taken:
        show.say(f"{len(seen - taken):,} arrived whose yes was cut off by a kill -9")
    status = fleet.status()
    if status is None:
        return 1
    show.say(f"queue: {show.the_sum(status.accepted, status.delivered, status.queued, status.dead, status.dropped)}")
    return 0 if not lost and status.closes and not status.queued and taken else 1


def run_demo_fleet() -> int:
    """Run the show; returns the exit code: 1 if an event was lost or the show could not go on."""
    path = program()
    if path is None:
        show.say(REMEDY, to=show.err)
        return 2
    for package, extra in (("optimizely", "optimizely"), ("redis", "redis"), ("uvicorn", "relay")):
        if find_spec(package) is None:
            show.say(f"The demo needs one more package: pip install 'eventpost[{extra}]'", to=show.err)
            return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended like that, too, it leaves nothing behind
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"  # nothing here leaves this machine
    os.environ |= {"EVENTPOST_QUEUE_LEASE_S": str(LEASE_S), "EVENTPOST_TIMEOUT_S": "1", "EVENTPOST_LINGER_S": "0.2"}
    with scene(path) as fleet:
        try:
            play(fleet)
            return make_up(fleet)
        except (DemoError, OSError, subprocess.SubprocessError) as error:
            show.say(f"the demo could not go on: {error}", style="red", to=show.err)
            return 1
