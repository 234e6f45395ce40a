"""What happens to dispatchers when their process ends, or forks.

The end closes every dispatcher: by ``atexit`` (registered when this module is imported, so that it runs after what the
application registers later), and in multiprocessing's children, which leave by ``os._exit``, by its finalizers.  A
dispatcher that has taken an event is kept alive until it is closed; others may be collected at any time.

A fork starts every dispatcher of the child from zero.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import weakref
from typing import Protocol

from ..clock import SystemClock

_log = logging.getLogger("eventpost")


class Mortal(Protocol):
    """What ends with its process."""

    close_timeout_s: float

    def close_at_exit(self, timeout_s: float) -> None:
        """End within about ``timeout_s`` seconds."""
        ...

    def after_fork_in_child(self) -> None:
        """Start from zero."""
        ...


_all: weakref.WeakSet[Mortal] = weakref.WeakSet()
_kept_alive: set[Mortal] = set()


def register(mortal: Mortal) -> None:
    """Let it know of forks, and of the end of the process if it still lives then."""
    _all.add(mortal)


def keep_alive(mortal: Mortal) -> None:
    """Keep it until :func:`let_go`: it has taken an event in this process."""
    _kept_alive.add(mortal)
    _register_with_multiprocessing()


def let_go(mortal: Mortal) -> None:
    """Keep it no longer: it is closed."""
    _kept_alive.discard(mortal)


def close_all() -> None:
    """Close all of this process; together they take about as long as the slowest may."""
    clock = SystemClock()
    began = clock.monotonic()
    for mortal in list(_all):
        left_s = max(0.0, mortal.close_timeout_s - (clock.monotonic() - began))
        try:
            mortal.close_at_exit(left_s)
        except Exception:  # noqa: BLE001 - logged; the next dispatcher's events matter as much
            _log.exception("eventpost: a dispatcher could not be closed")


def _after_fork_in_child() -> None:
    _kept_alive.clear()
    for mortal in list(_all):
        try:
            mortal.after_fork_in_child()
        except Exception:  # noqa: BLE001 - logged; the child must go on
            _log.exception("eventpost: a dispatcher could not be carried into a child process")


def _register_with_multiprocessing() -> None:
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return
    from multiprocessing.util import Finalize  # noqa: PLC0415 - only where it is loaded anyway

    Finalize(None, close_all, exitpriority=1)


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
