"""Real gunicorn, the real client, one journal: what a worker has answered 200 for arrives, however that worker ends."""

import contextlib
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventpost.testing import Collector
from support import missing

APP = """
import os
import threading
from importlib.resources import files
import eventpost
from eventpost import EventDispatcher, EventProcessor, JournalQueue
from optimizely.optimizely import Optimizely

class Noting(EventProcessor):
    def process(self, user_event):
        seen.uuid = user_event.uuid
        seen.taken = super().process(user_event)
        return seen.taken

seen = threading.local()
queue = JournalQueue(os.environ["JOURNAL"], scan_interval_s=0.3)
processor = Noting(EventDispatcher(queue, endpoint=os.environ["ENDPOINT"], linger_s=0.3))
datafile = files(eventpost).joinpath("demo_datafile.json").read_text(encoding="utf-8")
client = Optimizely(datafile, event_processor=processor)

def application(environ, start_response):
    seen.taken = seen.uuid = None
    client.track("purchase", environ["QUERY_STRING"])
    start_response("200 OK" if seen.taken is True else "503 Not Taken", [("Content-Type", "text/plain")])
    return [f"{seen.uuid} {os.getpid()}".encode()]
"""

KINDS = {
    "sync, preloaded, max-requests": ["--preload", "--max-requests=40", "--max-requests-jitter=10"],
    "gthread": ["--worker-class=gthread", "--threads=4"],
    "gevent": ["--worker-class=gevent"],
}
WORKERS = 3
WAIT_S = 15.0


class Site:
    """A running gunicorn; ``acknowledged`` has the uuid of each event that was answered with 200, by worker."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.acknowledged: dict[int, set[str]] = {}
        self.failed = 0
        self._lock = threading.Lock()

    def ask(self) -> int | None:
        """Make one request; the pid of the worker that took its event, None if it got no 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("GET", "/?user", headers={"Connection": "close"})
            answer = connection.getresponse()
            uuid, pid = answer.read().decode().split()
        except (OSError, http.client.HTTPException, ValueError):  # its worker was killed: nothing was promised
            with self._lock:
                self.failed += 1
            return None
        finally:
            connection.close()
        with self._lock:
            if answer.status != 200:
                self.failed += 1
                return None
            self.acknowledged.setdefault(int(pid), set()).add(uuid)
        return int(pid)

    def load(self, requests: int, clients: int = 4) -> None:
        """Make this many requests, from several threads."""
        threads = [
            threading.Thread(target=lambda: [self.ask() for _ in range(requests // clients)]) for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * WAIT_S)
        assert not any(thread.is_alive() for thread in threads)

    @property
    def promised(self) -> set[str]:
        """Everything that was answered with 200."""
        return set().union(*self.acknowledged.values())


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Site, Collector]]:
    """Run gunicorn on a socket that is bound already, so that no port has to be guessed or waited for."""
    for tool in ("gunicorn", "gevent"):
        if importlib.util.find_spec(tool) is None:
            missing(tool)
    (tmp_path / "app.py").write_text(APP)
    with Collector() as collector, socket.socket() as listener, (tmp_path / "log").open("wb") as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        fd = listener.fileno()
        options = [f"--bind=fd://{fd}", f"--workers={WORKERS}", "--graceful-timeout=10", "--chdir", str(tmp_path)]
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, *KINDS[request.param], "app:application"],
            env={**os.environ, "JOURNAL": str(tmp_path / "journal"), "ENDPOINT": collector.url, "HOME": str(tmp_path)},
            stdout=log,
            stderr=log,
            pass_fds=[fd],
            start_new_session=True,
        )
        running = Site(process, listener.getsockname()[1])
        try:
            yield running, collector
        finally:
            with contextlib.suppress(ProcessLookupError):  # the group is what this test started, workers included
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def test_what_a_worker_acknowledged_arrives(site: tuple[Site, Collector]) -> None:
    """Workers retire, one is killed with events in hand, the rest stop gracefully: behind each 200 an event arrives."""
    gunicorn, collector = site
    gunicorn.load(160)
    killed = gunicorn.ask()
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert not gunicorn.acknowledged[killed] <= set(collector.uuids)  # its last event lingered still
    known = set(gunicorn.acknowledged)
    gunicorn.load(160)
    assert gunicorn.failed <= 8  # what the killed worker had on its desk
    # Its colleagues take over what it left.
    assert collector.wait_until(lambda: gunicorn.promised <= set(collector.uuids), WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while not set(gunicorn.acknowledged) > known and time.monotonic() < deadline:
        gunicorn.ask()
        time.sleep(0.01)
    assert set(gunicorn.acknowledged) > known  # somebody took its place

    gunicorn.load(20)
    gunicorn.process.terminate()
    assert gunicorn.process.wait(WAIT_S) == 0
    assert gunicorn.promised <= set(collector.uuids)
    assert len(gunicorn.promised) >= 320
