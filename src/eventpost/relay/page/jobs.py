"""What somebody has asked to be done with dead letters, one job at a time, at a pace.

A job runs on a thread of one worker; the others know of it by two files in the run_dir: ``job.json``, written as it
goes on, and a lock that is held for as long as it runs, so a job whose worker was killed is not taken for a running
one.  A file ``job.stop`` asks it to end, whichever worker was told.

Letters are put back at ``RETRY_PER_S`` at most: they go back because an endpoint is well again, and it should stay so.
Uuid and bytes are kept (``View.retry_dead``).  What was retried or discarded by somebody else meanwhile is passed
over, and the count says so.
"""

from __future__ import annotations

import atexit
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, sleep, time
from typing import Any, Final, Literal

import orjson

from ...errors import EventpostError
from ...queues.journal.disk import Disk
from ...queues.view import View
from .letters import Choice, Letters
from .rows import Filter

RETRY_PER_S: Final = 100
NOTE: Final = "job.json"
LOCK: Final = "job.lock"
STOP: Final = "job.stop"
JOIN_S: Final = 3.0
TRIES: Final = 3
Action = Literal["retry", "discard"]
Change = Callable[[list[str]], int]


class Busy(EventpostError):  # noqa: N818 - names a state
    """Another job is running."""


_PACES: Final[dict[str, tuple[int, float]]] = {"retry": (RETRY_PER_S // 4, 0.25), "discard": (250, 0.05)}
"""With how many at once something is done, and how long that takes at least, in seconds."""


class Jobs:
    """The jobs of all workers of a relay, seen from one."""

    def __init__(self, run_dir: str, views: Sequence[View], letters: Letters) -> None:
        self._run_dir = run_dir
        self._views = views
        self._letters = letters
        self._disk = Disk()
        self._thread: threading.Thread | None = None
        self._ending = False
        atexit.register(self._end)

    def start(self, action: Action, choice: Choice, total: int | None) -> threading.Thread:
        """Begin a job, and return its thread.  ``total``: how many letters it is about.  Raises Busy, OSError."""
        fd = self._lock()
        if fd is None:
            raise Busy("another retry or discard is running; wait for it, or stop it")
        self._disk.unlink(self._path(STOP))
        job = {
            "id": secrets.token_hex(6), "action": action, "state": "running", "total": total, "done": 0, "changed": 0,
            "started_at": time(), "error": "",
        }  # fmt: skip
        self._write(job)
        self._thread = threading.Thread(
            target=self._run, args=(job, choice, fd), name="eventpost-page-job", daemon=True
        )
        self._thread.start()
        return self._thread

    def stop(self) -> None:
        """Ask the running job to end, whichever worker has it.  Raises OSError."""
        os.close(os.open(self._path(STOP), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def note(self) -> dict[str, Any] | None:
        """Return what the last job has done so far; None: there was none."""
        try:
            with open(self._path(NOTE), "rb") as file:
                job: dict[str, Any] = orjson.loads(file.read())
        except (OSError, ValueError):
            return None
        if job["state"] == "running":
            with suppress(OSError):
                fd = self._lock()
                if fd is not None:
                    self._disk.close(fd)
                    return self._after_lock(job)
        return job

    def _after_lock(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return a job that nobody runs any more: it has just ended, or its worker has."""
        with suppress(OSError, ValueError), open(self._path(NOTE), "rb") as file:
            job = orjson.loads(file.read())
        if job["state"] == "running":
            job |= {"state": "failed", "error": "the process that did it ended; what it had not done is untouched"}
        return job

    def _path(self, name: str) -> str:
        return os.path.join(self._run_dir, name)

    def _lock(self) -> int | None:
        path = self._path(LOCK)
        try:
            fd = self._disk.create(path, 0o600, None)
        except FileExistsError:
            fd = self._disk.open(path)
        if self._disk.lock(fd):
            return fd
        self._disk.close(fd)
        return None

    def _write(self, job: dict[str, Any]) -> None:
        temporary = self._path(f".{NOTE}.tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, orjson.dumps(job))
        finally:
            os.close(fd)
        os.replace(temporary, self._path(NOTE))

    def _run(self, job: dict[str, Any], choice: Choice, fd: int) -> None:
        try:
            job["state"] = "done" if self._work(job, choice) else "stopped"
        except Exception as error:  # noqa: BLE001 - whatever a disk does is said on the page
            job |= {"state": "failed", "error": f"{type(error).__name__}: {error}"}
        finally:
            job["ended_at"] = time()
            with suppress(OSError):
                self._write(job)
            self._disk.close(fd)

    def _work(self, job: dict[str, Any], choice: Choice) -> bool:
        """Do a job, a few letters at a time; False: it was asked to end."""
        at_once, pause_s = _PACES[job["action"]]
        for number, letters in self._letters.chosen(choice):
            for start in range(0, len(letters), at_once):
                began = monotonic()
                if self._ending or os.path.exists(self._path(STOP)):
                    return False
                part = [letter.id for letter in letters[start : start + at_once]]
                view = self._views[number]
                change = view.retry_dead if job["action"] == "retry" else view.discard_dead
                job["changed"] += self._change(change, number, part)
                job["done"] += len(part)
                self._write(job)
                if len(part) == at_once:
                    sleep(max(0.0, pause_s - (monotonic() - began)))
        return True

    def _change(self, change: Change, number: int, ids: list[str]) -> int:
        """Change letters of one folder; returns how many were still there."""
        for _ in range(TRIES):
            try:
                return change(ids)
            except KeyError:  # somebody else was faster with one of them
                again = Choice(frozenset(f"{number}/{one}" for one in ids), Filter())
                ids = [letter.id for _, found in self._letters.chosen(again) for letter in found]
        return 0

    def _end(self) -> None:
        """End with the process: between two letters, not within one."""
        self._ending = True
        if self._thread is not None:
            self._thread.join(JOIN_S)
