"""The thread that moves what was spilled, in a process without a sender's thread.

It is started by a put, lazily: when something has spilled, and now and then to look for what others left.  It ends when
nothing is left to move.  It is a thread of the operating system whatever is monkey-patched, keeps no interpreter alive,
and is not started where threads may not be; then the next put tries again, and ``sync`` moves on its caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...clock import Clock
from ...sender.primitives import Event, Lock, start_new_thread
from ...watch.signals import Signal, Trouble

LOOK_S: Final = 30.0
"""How often a process that puts looks for what others left, in seconds; the journal's sender looks every 5 s."""
_WAIT_MAX_S: Final = 1.0
_AFTER_ERROR_S: Final = 1.0


class Carrier:
    """Calls ``work`` until that returns None, on a thread.

    Args:
        work: moves some; returns the seconds until it wants to be called again, or None.
        wanted: whether there is something to move.
        clock, emit: as everywhere.
    """

    def __init__(
        self, work: Callable[[], float | None], wanted: Callable[[], bool], clock: Clock, emit: Callable[[Signal], None]
    ) -> None:
        """Keep the arguments; starts nothing."""
        self._work = work
        self._wanted = wanted
        self._clock = clock
        self._emit = emit
        self.may_start: Callable[[], bool] = lambda: True
        self.reset()

    def reset(self) -> None:
        """Know of no thread."""
        self._starting = Lock()
        self._running = False
        self._stopping = False
        self._wake = Event()
        self._look_at = -1e9

    @property
    def is_due(self) -> bool:
        """Whether it is time to look for what others left."""
        return not self._running and self._clock.monotonic() >= self._look_at

    def start(self) -> None:
        """Start, unless it runs."""
        if not self._starting.acquire(False):
            return  # somebody is at it
        try:
            if not self._running and not self._stopping and self.may_start():
                self._look_at = self._clock.monotonic() + LOOK_S
                self._running = True
                start_new_thread(self._run, ())
        except RuntimeError:  # no thread can be started: out of them, or the interpreter ends
            self._running = False
        finally:
            self._starting.release()

    def stop(self) -> None:
        """End it soon, and start none any more."""
        self._stopping = True
        self._wake.set()

    def _run(self) -> None:
        wake = self._wake
        try:
            while not self._stopping:
                wait_s = self._once()
                if wait_s is None:
                    break
                wake.wait(min(wait_s, _WAIT_MAX_S))
        finally:
            self._running = False
        if self._wanted():  # a put stored after the last look, and saw us running
            self.start()

    def _once(self) -> float | None:
        try:
            return self._work()
        except Exception as error:  # noqa: BLE001 - told; what waits is somebody's data: it goes on
            self._emit(Trouble("what was spilled could not be moved", f"{type(error).__name__}: {error}"))
            return _AFTER_ERROR_S
