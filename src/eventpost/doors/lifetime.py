"""What happens to dispatchers when their process ends, or forks.

The end closes every dispatcher: by ``atexit`` (registered when this module is imported, so that it runs after what the
application registers later), and in multiprocessing's children, which leave by ``os._exit``, by its finalizers.  A
dispatcher that has taken an event is kept alive until it is closed; others may be collected at any time.

One that is made after that (by an exit handler that was registered before ours, by a ``__del__``) is not waited for by
anybody: it is told so, starts no thread, and says yes only to what its queue keeps without this process.

A fork starts every dispatcher of the child from zero.  Forks that Python makes are told by it; of one that a C program
makes around us nobody tells (uWSGI without ``--py-call-osafterfork``), so the doors compare the process's number, or
parent and children would write over each other's events in one journal segment.

A child that was forked in a thread ends when that thread does, without a word to ``atexit``, and not before the other
threads have ended, ours too: so it closes its dispatchers then.

Celery's workers leave by ``os._exit`` as well, after a signal of Celery's own, which is heard.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from os import getpid
from typing import Final, Protocol

from ..clock import SystemClock
from ..sender.primitives import get_ident, original, pause

_log = logging.getLogger("eventpost")


class Mortal(Protocol):
    """What ends with its process."""

    close_timeout_s: float

    def close_at_exit(self, timeout_s: float) -> None:
        """End within about ``timeout_s`` seconds."""
        ...

    def hurry(self) -> None:
        """End lingering and go on sending, in the background; must not raise."""
        ...

    def after_fork_in_child(self) -> None:
        """Start from zero."""
        ...


_FIND_POLL_S: Final = 0.0005
process = getpid()
"""The process that this module knows itself in."""
_finders: dict[int, int] = {}
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
    _register_with_celery()


def let_go(mortal: Mortal) -> None:
    """Keep it no longer: it is closed."""
    _kept_alive.discard(mortal)


def in_this_process() -> None:
    """Start from zero if this is a child that nobody has told of its fork."""
    if getpid() != process:
        _find_a_fork()


def _find_a_fork() -> None:
    here, me = getpid(), get_ident()
    if _finders.setdefault(here, me) == me:  # no lock: it could be inherited locked; a signal handler can't wait for us
        _after_fork_in_child()
    while process != here:
        pause(_FIND_POLL_S)


def close_all() -> None:
    """Close all of this process; together they take about as long as the slowest may."""
    global _over  # noqa: PLW0603 - a fact about the process
    _over = True
    in_this_process()
    clock = SystemClock()
    began = clock.monotonic()
    living = living_here()
    for mortal in living:
        mortal.hurry()  # all at once: what waits for one endpoint is no time lost for another
    for mortal in living:
        left_s = max(0.0, mortal.close_timeout_s - (clock.monotonic() - began))
        try:
            mortal.close_at_exit(left_s)
        except Exception:  # noqa: BLE001 - logged; the next dispatcher's events matter as much
            _log.exception("eventpost: a dispatcher could not be closed")


def living_here() -> list[Mortal]:
    """Return all that are registered and were not collected."""
    return [mortal for known in list(_all) if (mortal := known()) is not None]


class _ThreadsEnd:
    """Lies among the variables of one thread, and goes with them."""

    def __init__(self) -> None:
        self._process = getpid()

    def __del__(self) -> None:
        if self._process == getpid():  # else a fork took the thread away
            close_all()


_of_thread = original("_thread", "_local")()
_forks_in_thread = False


def threads_may_start() -> bool:
    """Tell whether a thread may be started here: not in uWSGI's master, before it forks its workers.

    It would never run there again, and a fork in C beside it can leave the children the interpreter's lock locked.
    """
    uwsgi = sys.modules.get("uwsgi")
    worker_id = getattr(uwsgi, "worker_id", None)
    if uwsgi is None or worker_id is None or worker_id():
        return True
    return bool(uwsgi.mule_id() or uwsgi.i_am_the_spooler())


def a_helper_may_start() -> bool:
    """Tell whether a thread that is not waited for may be started here: not any more once the process ends, either."""
    return not _over and threads_may_start()


def _before_fork() -> None:
    global _forks_in_thread  # noqa: PLW0603 - the child can't find it out any more: there this thread is the main one
    in_thread = sys.platform == "linux" and threading.get_native_id() != getpid()
    _forks_in_thread = in_thread or hasattr(_of_thread, "end")


def _after_fork_in_child() -> None:
    global process  # noqa: PLW0603 - a fact about the process
    _kept_alive.clear()
    if _forks_in_thread:
        _of_thread.end = _ThreadsEnd()
    for mortal in living_here():
        if process == getpid():  # whoever interrupted this has done the rest, and may have put since
            return
        try:
            mortal.after_fork_in_child()
        except Exception:  # noqa: BLE001 - logged; the child must go on
            _log.exception("eventpost: a dispatcher could not be carried into a child process")
    process = getpid()
    for other in [one for one in _finders if one != process]:  # a number may come again
        del _finders[other]


def _register_with_multiprocessing() -> None:
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return
    from multiprocessing.util import Finalize  # noqa: PLC0415 - only where it is loaded anyway

    Finalize(None, close_all, exitpriority=1)


def _register_with_celery() -> None:
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.worker_process_shutdown.connect(_close_in_celery, dispatch_uid="eventpost")


def _close_in_celery(**_: object) -> None:
    close_all()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
