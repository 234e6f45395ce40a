"""What happens to dispatchers when their process ends, or forks.

The end closes every dispatcher: by ``atexit`` (registered when this module is imported, so that it runs after what the
application registers later), and in multiprocessing's children, which leave by ``os._exit``, by its finalizers.  A
dispatcher that has taken an event is kept alive until it is closed; others may be collected at any time.

One that is made after that (by an exit handler that was registered before ours, by a ``__del__``) is not waited for by
anybody: it is told so, starts no thread, and says yes only to what its queue keeps without this process.

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


_all: set[weakref.ref[Mortal]] = set()  # no WeakSet: other threads may add to this while it is listed
_kept_alive: set[Mortal] = set()
_over = False


def register(mortal: Mortal) -> bool:
    """Let it know of forks, and of the end of the process if it still lives then; False: that end has come already."""
    _all.add(weakref.ref(mortal, _all.discard))
    return not _over  # read after the line above: close_all sets it, and then looks who is there


def keep_alive(mortal: Mortal) -> None:
    """Keep it until :func:`let_go`: it has taken an event in this process."""
    _kept_alive.add(mortal)
    _register_with_multiprocessing()


def let_go(mortal: Mortal) -> None:
    """Keep it no longer: it is closed."""
    _kept_alive.discard(mortal)


def close_all() -> None:
    """Close all of this process; together they take about as long as the slowest may."""
    global _over  # noqa: PLW0603 - a fact about the process
    _over = True
    clock = SystemClock()
    began = clock.monotonic()
    for mortal in _living():
        left_s = max(0.0, mortal.close_timeout_s - (clock.monotonic() - began))
        try:
            mortal.close_at_exit(left_s)
        except Exception:  # noqa: BLE001 - logged; the next dispatcher's events matter as much
            _log.exception("eventpost: a dispatcher could not be closed")


def _living() -> list[Mortal]:
    return [mortal for known in list(_all) if (mortal := known()) is not None]


def _after_fork_in_child() -> None:
    _kept_alive.clear()
    for mortal in _living():
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
