"""Threads for puts that may wait: few, bounded, and none of them keeps the interpreter alive.

A put is handed in with a way to tell what became of it.  Threads of the operating system (``sender.primitives``) take
one at a time, end when there has been nothing to do for ``IDLE_S``, and at once when the dispatcher is closed.  They
are not known to ``threading``, whose threads, and those of an executor, the interpreter joins before it ends, for as
long as they take.  In their place the dispatcher waits when it is flushed or closed, at exit too: for what was handed
in before, and within its own timeout.

Where no thread can be started (interpreter shutdown since Python 3.12) the caller's thread does the work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ..clock import Clock
from ..sender.primitives import Event, Lock, get_ident, pause, start_new_thread

THREADS_MAX: Final = 16
IDLE_S: Final = 5.0
TELL_AFTER_S: Final = 0.3
_POLL_FIRST_S: Final = 0.0005
_POLL_MAX_S: Final = 0.01

Tell = Callable[[Any, BaseException | None], None]
"""Called with the outcome and None, or None and what was raised; on any thread; must not raise."""


class _Job:
    __slots__ = ("call", "ident", "tell")

    def __init__(self, call: Callable[[], Any], tell: Tell) -> None:
        self.call = call
        self.tell = tell
        self.ident: int | None = None

    def do(self) -> None:
        self.ident = get_ident()
        try:
            outcome = self.call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is awaited
            self.tell(None, error)
        else:
            self.tell(outcome, None)


def on_own_thread(call: Callable[[], Any], tell: Tell) -> None:
    """Call on a thread of its own, for a wait that its caller bounds; here if none can be started any more."""
    job = _Job(call, tell)
    try:
        start_new_thread(job.do, ())
    except RuntimeError:
        job.do()


class PutThreads:
    """Up to ``THREADS_MAX`` threads.  Starts none before the first :meth:`run`; a forked child makes its own."""

    def __init__(self, *, may_start: Callable[[], bool] = lambda: True) -> None:
        self._may_start = may_start
        self._lock = Lock()
        self._todo: deque[_Job] = deque()
        self._jobs: set[_Job] = set()
        self._idle: list[Event] = []
        self._ended = False
        self.living = 0
        """How many threads there are."""

    def run(self, call: Callable[[], Any], tell: Tell) -> None:
        """Have ``call`` done on a thread; here if no thread can be started."""
        job = _Job(call, tell)
        with self._lock:
            self._jobs.add(job)
            self._todo.append(job)
            bell = self._idle.pop() if self._idle else None
            wanted = bell is None and self.living < THREADS_MAX
            self.living += wanted
        if bell is not None:
            bell.set()
        elif wanted:
            self._start()

    def wait(self, timeout_s: float, clock: Clock, told: Callable[[], None] | None = None) -> float:
        """Wait up to ``timeout_s`` seconds for what was handed in before; return what is left of them, at least 0.

        ``told`` is called once after a short wait.
        Takes no lock: a signal handler may call it, whatever it interrupts.  A caller that is one of these threads (an
        observer that closes its dispatcher) does not wait for itself.
        """
        began, me = clock.monotonic(), get_ident()
        deadline = began + timeout_s
        before = [job for job in tuple(self._jobs) if job.ident != me]
        poll_s = _POLL_FIRST_S
        while before := [job for job in before if job in self._jobs]:
            left_s = deadline - clock.monotonic()
            if left_s <= 0:
                return 0.0
            if told is not None and clock.monotonic() - began >= TELL_AFTER_S:
                told()
                told = None
            pause(min(poll_s, left_s))
            poll_s = min(2 * poll_s, _POLL_MAX_S)
        return max(0.0, deadline - clock.monotonic())

    def end(self) -> None:
        """Let the threads go as soon as there is nothing to do.  Takes no lock, waits for nothing."""
        self._ended = True
        while self._idle:
            try:
                self._idle.pop().set()
            except IndexError:  # another thread was faster
                return

    def _start(self) -> None:
        try:
            if self._may_start():
                start_new_thread(self._work, ())
                return
        except RuntimeError:  # out of threads, or the interpreter ends
            pass
        with self._lock:
            self.living -= 1
        while self._do_next():
            continue

    def _work(self) -> None:
        bell = Event()
        while self._do_next() or self._rest(bell):
            continue

    def _do_next(self) -> bool:
        try:
            job = self._todo.popleft()
        except IndexError:
            return False
        try:
            job.do()
        finally:
            self._jobs.discard(job)
        return True

    def _rest(self, bell: Event) -> bool:
        """Wait for something to do; False: it is time to go."""
        with self._lock:
            if self._todo:  # it came between the look and the lock
                return True
            bell.clear()
            self._idle.append(bell)
        if not self._ended and bell.wait(IDLE_S):
            return True
        with self._lock:
            if bell not in self._idle:  # it was called just now
                return True
            self._idle.remove(bell)
            self.living -= 1
            return False

    def __repr__(self) -> str:
        return f"PutThreads({self.living}/{THREADS_MAX}, under way: {len(self._jobs)})"
