"""Servers that run an application in processes of theirs, for the second table of docs/exits.md: how each is started.

The application puts one event a request, and says so in a file once the door has said yes.  As in ``exit_ends``, events
linger for a minute: what arrives, arrives because somebody saw to it at the end of a worker.
"""

from __future__ import annotations

from dataclasses import dataclass

from exit_ends import Fate, cell

APP = """
import itertools, os
from eventpost import EventDispatcher, JournalQueue, LogEvent, MemoryQueue
URL, QUEUE, SAID = os.environ["MATRIX"].split("|")[:3]
d = EventDispatcher(
    JournalQueue(QUEUE, scan_interval_s=0.2) if QUEUE else MemoryQueue(), merge_log_events=True, linger_s=60
)
said = os.open(SAID, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
numbers = itertools.count()

def put(prefix):
    name = f"{prefix}-{os.getpid()}-{next(numbers)}"
    body = {"visitors": [{"visitor_id": "v", "snapshots": [{"events": [{"uuid": name}]}]}]}
    if d.dispatch_event(LogEvent(URL, body)):
        os.write(said, name.encode() + b"\\n")

put("import")

def application(environ, start_response):
    put("worker")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [str(os.getpid()).encode()]
"""

TASKS = """
import os
from served import put

BROKER = os.environ["BROKER"]
if BROKER.startswith("filesystem"):
    from celery import Celery
    folder = BROKER.partition("|")[2]
    celery = Celery("tasks", broker="filesystem://")
    celery.conf.broker_transport_options = {"data_folder_in": folder, "data_folder_out": folder,
                                            "control_folder": folder + ".control", "polling_interval": 0.05}
    celery.conf.broker_connection_retry_on_startup = True
    @celery.task(ignore_result=True)
    def work():
        put("worker")
else:
    def work():
        put("worker")
"""


@dataclass(frozen=True)
class Server:
    """One row.  ``imported``: what becomes of what the application put when it was imported, before any fork."""

    tool: str
    options: tuple[str, ...]
    memory: Fate = "delivered"
    imported: Fate = "delivered"

    def fate(self, queue: str, name: str) -> Fate:
        """Return what becomes of an event with a queue of this kind; a journal loses nothing."""
        fate = self.imported if name.startswith("import") else self.memory
        return "kept" if queue == "journal" and fate == "lost" else fate

    def cells(self) -> list[str]:
        """Return the row's two cells."""
        found = []
        for queue in ("memory", "journal"):
            own, first = self.fate(queue, ""), self.fate(queue, "import")
            found.append(cell(own) if own == first else f"{cell(own)}; put at import: {cell(first)}")
        return found


GUNICORN = ("--workers=2", "--graceful-timeout=10", "--bind=unix:sock", "served:application")
UWSGI = ("--http-socket=sock", "--master", "--processes=2", "--need-app", "--wsgi=served", "--worker-reload-mercy=20")
SERVERS: dict[str, Server] = {
    "gunicorn, sync, `--max-requests`": Server("gunicorn", (*GUNICORN, "--max-requests=5")),
    "gunicorn, gthread, `--preload`": Server(
        "gunicorn", (*GUNICORN, "--preload", "--worker-class=gthread", "--threads=4")
    ),
    "gunicorn, gevent": Server("gunicorn", (*GUNICORN, "--worker-class=gevent")),
    "gunicorn, gevent, `--preload`": Server("gunicorn", (*GUNICORN, "--preload", "--worker-class=gevent")),
    "uWSGI": Server("uwsgi", UWSGI, imported="lost"),
    "uWSGI, `--enable-threads`": Server("uwsgi", (*UWSGI, "--enable-threads"), imported="lost"),
    "uWSGI, `--lazy-apps --enable-threads`": Server("uwsgi", (*UWSGI, "--lazy-apps", "--enable-threads")),
    "Celery, prefork, `--max-tasks-per-child`, warm shutdown": Server(
        "celery", ("--concurrency=2", "--max-tasks-per-child=10")
    ),
    "RQ, its worker forks for each job": Server("rq", (), memory="lost", imported="lost"),
}
