"""A transport made of threads: each runs one blocking attempt at a time, and none of them is ever waited for.

Some calls can't be interrupted: ``getaddrinfo``, somebody else's dispatcher.  So the deadline belongs to the waiting
side: ``wait`` ends a request with "timeout" when its time has passed, whether its thread has come back or not; a late
answer is ignored.  A thread that is still busy then is *stuck*: it is replaced, up to ``stuck_max`` times at once, and
ends when it comes back.  A request that no thread had begun by its deadline is never sent afterwards.

Every request ends exactly once, by the first of: its answer, its deadline, ``close``.  ``_settle`` decides under the
lock.  ``wake`` takes no lock: it opens a gate, which a signal handler may do while it interrupts anything.

The threads are the operating system's own (``sender.primitives``), end when idle for ``IDLE_S`` and are not known to
``threading``: they keep no interpreter alive.  Where no thread can be started (interpreter shutdown), ``wait`` runs the
attempt itself if the transport says that this is bounded.  One that can't say so makes its first thread ready in time,
and keeps it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any, Final

from ..sender.primitives import FOREVER_S, Event, Lock, start_new_thread
from .protocol import Completion, Request, Response, TransportError

IDLE_S: Final = 10.0
"""A thread that had nothing to do for this long ends."""


class Job:
    """One request on its way.  ``deadline`` is on the monotonic clock, in seconds."""

    __slots__ = ("deadline", "request", "started_at", "timeout_s", "worker")

    def __init__(self, request: Request) -> None:
        self.request: Request | None = request  # None when it is over: the heap below may hold the job for longer
        self.timeout_s = request.timeout_s
        self.started_at = time.monotonic()
        self.deadline = self.started_at + request.timeout_s
        self.worker: Worker | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, by whatever came first."""
        return self.request is None

    def left_s(self) -> float:
        """Return the seconds until its deadline; at least a millisecond, which is short but no "for ever"."""
        return max(0.001, self.deadline - time.monotonic())


class Worker:
    """One thread's place.  ``state`` belongs to the transport (its connections)."""

    __slots__ = ("bell", "state", "stuck")

    def __init__(self) -> None:
        self.bell = Event()
        self.stuck = False
        self.state: Any = None


class ThreadedTransport(ABC):
    """Implements the Transport protocol over :meth:`_attempt`.

    ``threads_max``: attempts at once; ``stuck_max``: how many threads may be stuck beyond those.
    """

    inline_is_bounded = False
    """Whether an attempt ends by itself at about its deadline, so that the waiting thread may run it in need."""
    keeps_threads = False
    """Whether a thread that has nothing to do stays."""

    def __init__(self, threads_max: int, stuck_max: int) -> None:
        if threads_max < 1 or stuck_max < 0:
            msg = f"threads_max must be at least 1 and stuck_max at least 0, not {threads_max} and {stuck_max}"
            raise ValueError(msg)
        self._threads_max = threads_max
        self._stuck_max = stuck_max
        self._closed = False
        self._forget()

    def _forget(self) -> None:
        self._lock = Lock()
        self._bell = Event()
        self._todo: deque[Job] = deque()
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._stuck = 0
        self._done: deque[Completion] = deque()
        self._deadlines: list[tuple[float, int, Job]] = []
        self._under_way = 0
        self._number = 0
        self._inline: Worker | None = None

    @abstractmethod
    def _attempt(self, request: Request, job: Job, worker: Worker) -> Response | TransportError:
        """Make the one attempt, on ``worker``'s thread; ``elapsed_s`` is filled in by the caller."""

    @abstractmethod
    def _interrupt(self, worker: Worker) -> None:
        """Try to make a stuck attempt fail soon; from another thread; never blocks, never raises."""

    @abstractmethod
    def _leave(self, worker: Worker) -> None:
        """Let go of what the worker holds, on its thread; never raises."""

    # -- the protocol -----------------------------------------------------------------------------------------------

    @property
    def in_flight_max(self) -> int:
        """How many requests it is sensible to start: what is beyond the threads waits, and its time runs."""
        return self._threads_max

    def start(self, request: Request) -> None:
        """Hand the request to a thread; its outcome, whatever it is, comes from ``wait``."""
        if self._closed:
            self._done.append(Completion(request, TransportError("closed", "the transport is closed")))
            return
        job = Job(request)
        with self._lock:
            self._under_way += 1
            self._number += 1
            heappush(self._deadlines, (job.deadline, self._number, job))
            self._todo.append(job)
        self._employ()

    def wait(self, timeout_s: float) -> Sequence[Completion]:
        """Return what has completed, waiting up to ``timeout_s``; early and empty when woken."""
        until = time.monotonic() + timeout_s
        while True:
            if self._inline is not None:
                self._run_inline(self._inline)
            now = time.monotonic()
            self._expire(now)
            if self._done or self._bell.is_set() or now >= until:
                break
            next_deadline = self._deadlines[0][0] if self._deadlines else until
            self._bell.wait(min(until, next_deadline) - now)
        self._bell.clear()
        completions = []
        while self._done:
            completions.append(self._done.popleft())
        return completions

    def wake(self) -> None:
        """Make ``wait`` return soon; from any thread and from signal handlers."""
        self._bell.set()

    def close(self, timeout_s: float = 0.0) -> None:
        """Abandon what is under way: each comes from the next ``wait`` as "closed".  Waits for no thread."""
        del timeout_s  # nothing here waits
        with self._lock:
            if self._closed:
                return
            self._closed = True
            jobs = [job for _, _, job in self._deadlines if not job.over]
            workers = list(self._workers)
        for job in jobs:
            self._settle(job, TransportError("closed", "the transport was closed"))
        for worker in workers:
            worker.bell.set()
            self._interrupt(worker)

    def after_fork_in_child(self) -> None:
        """Start from nothing: the parent's threads are not here, and its connections are not ours to end."""
        self._forget()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _employ(self) -> None:
        """See to it that somebody takes the job."""
        with self._lock:
            if self._idle:
                self._idle.pop().bell.set()
                return
            if len(self._workers) >= self._threads_max:
                return
            worker = Worker()
            self._workers.add(worker)
        try:
            start_new_thread(self._work, (worker,))
        except RuntimeError:  # the interpreter shuts down, or the system has no thread left
            with self._lock:
                self._workers.discard(worker)
                if self._workers:
                    return
            if self.inline_is_bounded:
                self._inline = worker
                return
            self._fail_todo("no thread can be started")

    def _fail_todo(self, why: str) -> None:
        while self._todo:
            self._settle(self._todo.popleft(), TransportError("other", why))

    def _work(self, worker: Worker) -> None:
        """Do jobs until there has been none for a while: what a thread does."""
        while not worker.stuck and not self._closed:
            try:
                job = self._todo.popleft()
            except IndexError:
                if self._rest(worker):
                    continue
                break
            self._run(job, worker)
        with self._lock:
            self._workers.discard(worker)
            if worker.stuck:
                self._stuck -= 1
        self._leave(worker)

    def _rest(self, worker: Worker) -> bool:
        """Wait for a job; False: it is time to go."""
        with self._lock:
            if self._todo:  # it came between the look and the lock
                return True
            worker.bell.clear()
            self._idle.append(worker)
        if worker.bell.wait(FOREVER_S if self.keeps_threads else IDLE_S):
            return True
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                self._workers.discard(worker)
                return False
        return True  # called between the end of the wait and the lock

    def _run(self, job: Job, worker: Worker) -> None:
        with self._lock:
            request = job.request
            if request is None:
                return
            job.worker = worker
        try:
            outcome = self._attempt(request, job, worker)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the request must come back
            outcome = TransportError("other", type(error).__name__)
        self._settle(job, outcome)

    def _run_inline(self, worker: Worker) -> None:
        if self._todo:
            self._run(self._todo.popleft(), worker)

    def _settle(self, job: Job, outcome: Response | TransportError) -> None:
        elapsed_s = time.monotonic() - job.started_at
        if isinstance(outcome, Response):
            outcome = Response(outcome.status, outcome.retry_after, outcome.body, elapsed_s)
        else:
            outcome = TransportError(outcome.kind, outcome.message, elapsed_s)
        with self._lock:
            request = job.request
            if request is None:
                return
            job.request = job.worker = None
            self._under_way -= 1
        self._done.append(Completion(request, outcome))
        self._bell.set()

    def _expire(self, now: float) -> None:
        """End what is past its deadline, and replace the threads that are stuck with it."""
        while self._deadlines and (self._deadlines[0][2].over or self._deadlines[0][0] <= now):
            with self._lock:
                job = heappop(self._deadlines)[2]
                worker = None if job.over else job.worker
                if worker is not None and self._stuck < self._stuck_max:
                    self._stuck += 1
                    worker.stuck = True
                    self._workers.discard(worker)
            if job.over:
                continue
            unsent = "" if worker is not None else " before a thread was free to send it"
            self._settle(job, TransportError("timeout", f"no answer within {job.timeout_s:g} s{unsent}"))
            if worker is not None:
                self._interrupt(worker)
                if self._todo:
                    self._employ()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"in_flight={self._under_way}"
        return f"{type(self).__name__}({state}, threads={len(self._workers)}/{self._threads_max}, stuck={self._stuck})"
