"""The sender's thread: the only place that waits, and the one that knows about processes, forks and their ends.

*Start.*  The first event that is noticed starts the thread; a process that stores nothing has none.  It is a thread of
the operating system whatever is monkey-patched, and keeps no interpreter alive.

*Waking.*  It must not cost each put a system call.  While the sender is busy ``quotas`` is None and a put does nothing.
Before it sleeps, the sender makes known after how many arrivals, by lane, it wants to be woken, then looks once more
for what came in between: a put first stores and then reads the quotas, the sender first writes them and then looks, so
one of the two sees the other.  A lingering batch wants its missing events, an idle lane the first one, an urgent event
goes at once, a lane that can't be started just now nothing.

*Waiting callers.*  ``flush`` and ``close`` poll with the application's own sleep: cooperative under gevent, bounded,
and safe where a signal handler interrupted anything at all.

*Fork.*  The parent goes on.  The child starts from zero: queue and transport forget their parent's things without
touching them, locks are made anew, and the next put starts a thread of the child's.

*End.*  ``close`` flushes within its timeout, stops the thread and waits a moment for it.  A thread that does not come
back is left alone with what it holds.  Where there is no thread and none can be started (interpreter shutdown since
Python 3.12), the closing thread drives the sender itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from ..clock import Clock
from ..queues.protocol import Queue
from ..transports.protocol import Completion, Transport
from ..watch.signals import Signal, Trouble
from .loop import IDLE_S, Sender
from .primitives import Event, Lock, get_ident, pause, start_new_thread

POLL_FIRST_S: Final = 0.0005
POLL_MAX_S: Final = 0.01
STOP_GRACE_S: Final = 0.3
LAND_S: Final = 0.15
LAND_ROUNDS_MAX: Final = 1000
AFTER_ERROR_S: Final = 0.5
LOOK_AGAIN_S: Final = 0.05
_log = logging.getLogger("eventpost")


class SenderThread:
    """Runs a :class:`Sender`.

    Args:
        sender, queue, transport, clock: its parts.
        emit: takes every signal; must not raise.
        on_start: called once per process, on the thread of the first event, before the thread starts, or before a
            caller does its work.
        may_start: whether a thread may be started in this process by now; asked again at the next event.
    """

    def __init__(
        self,
        sender: Sender,
        queue: Queue,
        transport: Transport,
        *,
        clock: Clock,
        emit: Callable[[Signal], None],
        on_start: Callable[[], None],
        may_start: Callable[[], bool] = lambda: True,
    ) -> None:
        self.sender = sender
        self._queue = queue
        self._transport = transport
        self._clock = clock
        self._emit = emit
        self._on_start = on_start
        self._may_start = may_start
        self._start_from_zero()

    def _start_from_zero(self) -> None:
        self._quotas: dict[str, int] | None = {}
        self._start_lock = Lock()
        self._started = False
        self._running = False
        self._stopping = False
        self._ended = Event()
        self._ident: int | None = None
        self._step_lock = Lock()  # whoever steps the sender holds it: the thread while it runs, else one caller

    # -- called by doors

    def notice(self, lane: str, urgent: bool) -> None:  # noqa: FBT001 - the hot path: a keyword costs 20 ns
        """Note that an event was put into a lane; wake or start the sender if it should look."""
        quotas = self._quotas
        if quotas is None:
            return
        left = quotas.get(lane, 1) - 1
        if left > 0 and (not urgent or left > 1 << 32):
            quotas[lane] = left
            return
        self._quotas = None
        self._poke()

    def start(self) -> None:
        """Start before anything was put here: for a sender of what other processes stored."""
        if not self._running:
            self._poke()

    def _poke(self) -> None:
        if self._running:
            self._transport.wake()
        elif not self._stopping:
            self._start()

    def _start(self) -> None:
        """Start the thread, once.  Where none can be started, the next put tries again, or ``close`` does the work."""
        if not self._start_lock.acquire(False):
            return  # somebody is at it
        try:
            if self._running or self._stopping:
                return
            if not self._may_start():
                self._quotas = {}
                return
            self._begin()
            make_ready: Callable[[], None] | None = getattr(self._transport, "make_ready", None)
            if make_ready is not None:
                make_ready()
            self._ended = Event()
            self._running = True
            start_new_thread(self._run, ())
        except RuntimeError:  # no thread can be started: out of them, or the interpreter ends
            self._running = False
            self._quotas = {}
        finally:
            self._start_lock.release()

    def _begin(self) -> None:
        if not self._started:
            self._started = True
            self._on_start()

    @property
    def on_own_thread(self) -> bool:
        """Whether the caller runs on the sender's thread (an observer, say), which can't wait for itself."""
        return self._ident == get_ident()

    # -- the thread

    def _run(self) -> None:
        self._ident = get_ident()
        lock, ended = self._step_lock, self._ended
        lock.acquire()
        try:
            self._loop()
            self._finish()
        finally:
            lock.release()
            self._ident = None
            self._running = False
            self._quotas = {}
            ended.set()

    def _loop(self) -> None:
        timeout_s = 0.0
        looked = False
        while not self._stopping:
            try:
                timeout_s = min(self.sender.step(self._wait(timeout_s)), IDLE_S)
                quotas = self.sender.quotas()
                self._quotas = quotas
                if timeout_s > 0 and self.sender.arrived(quotas):
                    # A queue that promises what it does not hand out must not make this spin.
                    timeout_s = min(timeout_s, LOOK_AGAIN_S) if looked else 0.0
                    looked = True
                else:
                    looked = False
            except Exception as error:  # noqa: BLE001 - logged; what the thread holds is somebody's data: it goes on
                _log.exception("eventpost: the sender failed, and goes on")
                self._emit(Trouble("the sender failed, and goes on", type(error).__name__))
                timeout_s = AFTER_ERROR_S
                self._quotas = {}

    def _wait(self, timeout_s: float) -> Sequence[Completion]:
        completions = self._transport.wait(timeout_s)
        self._quotas = None
        return completions

    def _finish(self) -> None:
        """Settle what comes back within a moment, give back the rest, let go of the transport.

        A flush waits for what was accepted before it; what came or was adopted since may be in flight now.  Nothing
        more is started: a request that is given up may have been delivered, and its events are then sent twice.
        """
        try:
            deadline, left_s = self._clock.monotonic() + LAND_S, 0.0
            for _ in range(LAND_ROUNDS_MAX):
                if not self.sender.land(self._transport.wait(left_s)):
                    break
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0:
                    break
        except Exception:  # noqa: BLE001 - logged; what can't be settled is given back
            _log.exception("eventpost: the sender's last round failed")
        self.sender.abandon()
        self._transport.close(STOP_GRACE_S - LAND_S)

    # -- waiting, on callers' threads

    def flush(
        self, timeout_s: float, *, hopeless_ends_it: bool = False, told: Callable[[], None] | None = None
    ) -> bool:
        """End lingering and wait until what was accepted before is settled.  False: not within ``timeout_s``.

        ``hopeless_ends_it``: do not wait for endpoints that are left alone.  ``told`` is called once after a short
        wait.
        """
        if self.on_own_thread or self._stopping:
            return False
        if not self._started and not self._pending():
            return True
        flush = self.sender.request_flush()
        deadline = self._clock.monotonic() + timeout_s
        tell_at = self._clock.monotonic() + STOP_GRACE_S
        poll_s = POLL_FIRST_S
        try:
            while not flush.done and not (hopeless_ends_it and flush.hopeless):
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0:
                    return False
                if told is not None and self._clock.monotonic() >= tell_at:
                    told()
                    told = None
                self._quotas = None
                self._poke()
                if self._running:
                    pause(min(poll_s, left_s))
                    poll_s = min(poll_s * 2, POLL_MAX_S)
                else:
                    self._drive(min(left_s, POLL_MAX_S), deadline)
        finally:
            flush.given_up = True
        return flush.done

    def hurry(self) -> None:
        """End lingering, and do not wait for what that brings."""
        if self._started:
            self.sender.request_flush()
            self._quotas = None
            self._poke()

    def _pending(self) -> bool:
        stats = self._queue.stats()
        return stats.queued + stats.in_flight > 0

    def _drive(self, timeout_s: float, end_by: float) -> None:
        """Do a round here: there is no thread and none can be started, maybe not for the transport either.

        So the requests that are begun get no longer than until ``end_by``: the caller may be who makes the attempt.
        """
        if not self._step_lock.acquire(False):
            pause(POLL_FIRST_S)
            return
        try:
            self._begin()
            self.sender.end_by = end_by
            wanted_s = self.sender.step(self._transport.wait(0.0))
            completions = self._transport.wait(max(0.0, min(timeout_s, wanted_s)))
            if completions:
                self.sender.step(completions)
        finally:
            self.sender.end_by = inf
            self._step_lock.release()

    def close(self) -> bool:
        """Stop the thread and end the transport; False if the thread did not come back and keeps what it holds."""
        self._stopping = True
        if self.on_own_thread:
            return False
        if not self._running:
            if not self._step_lock.acquire(True, STOP_GRACE_S):
                return False
            try:
                if self._started:
                    self._finish()
                else:
                    self._transport.close(0.0)
            finally:
                self._step_lock.release()
            return True
        self._transport.wake()
        deadline = self._clock.monotonic() + STOP_GRACE_S
        while not self._ended.is_set():
            if self._clock.monotonic() >= deadline:
                return False
            pause(POLL_FIRST_S)
        return True

    def after_fork_in_child(self) -> None:
        """Start from zero in the child: the thread is the parent's."""
        self._start_from_zero()
        self.sender.after_fork_in_child()
