"""The operating system's own threads, locks and waits, whatever has been monkey-patched.

gevent and eventlet replace the standard library's threads and locks by cooperative ones.  The sender must not become a
greenlet: libcurl's wait would stop the whole hub.  This is the one module that looks behind the patches; whoever needs
a real primitive takes it from here.

Two kinds of waiting live side by side:

* :func:`real_sleep`, locks and selectors block the operating-system thread: right on threads that we started.
* :func:`pause` waits as the application's own code would (cooperatively under gevent): right on the threads of callers,
  in ``flush``, ``close`` and a put that blocks.
"""

from __future__ import annotations

import sys
import time as _application_time
from collections.abc import Callable
from importlib import import_module
from typing import Any


def original(module: str, name: str) -> Any:
    """Return ``module.name`` as the interpreter ships it, also after gevent's or eventlet's monkey-patching.

    Raises AttributeError if the module has no such name (``select.epoll`` outside Linux, for example).
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:  # it returns the unpatched name also where nothing was patched
        return monkey.get_original(module, name)
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.already_patched:
        return getattr(patcher.original(module), name)
    return getattr(import_module(module), name)


def original_module(module: str) -> Any:
    """Return a view on a module whose attributes are :func:`original` ones."""
    return _OriginalModule(module)


class _OriginalModule:
    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return original(self._module, name)


Lock: Callable[[], Any] = original("_thread", "allocate_lock")
RLock: Callable[[], Any] = original("_thread", "RLock")
get_ident: Callable[[], int] = original("_thread", "get_ident")
start_new_thread: Callable[..., int] = original("_thread", "start_new_thread")
real_sleep: Callable[[float], None] = original("time", "sleep")
FOREVER_S: float = original("_thread", "TIMEOUT_MAX")


def is_mine(lock: Any) -> bool:
    """Tell whether this thread holds an RLock."""
    return bool(lock._is_owned())  # noqa: SLF001 - C's RLock has no other name for it


def pause(seconds: float) -> None:
    """Wait on a caller's thread, the way the application waits: under gevent other greenlets run meanwhile."""
    _application_time.sleep(seconds)


class Event:
    """A flag that one thread waits for and any thread sets; built on a real lock, safe in signal handlers.

    One waiter at a time.  ``set`` never blocks.
    """

    def __init__(self) -> None:
        self._flag = False
        self._gate = Lock()
        self._gate.acquire()

    def is_set(self) -> bool:
        """Return whether :meth:`set` was called since the last :meth:`clear`."""
        return self._flag

    def set(self) -> None:
        """Raise the flag and let the waiter go."""
        self._flag = True
        try:
            self._gate.release()
        except RuntimeError:  # it was open already
            return

    def clear(self) -> None:
        """Lower the flag."""
        self._flag = False
        self._gate.acquire(False)

    def wait(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` seconds for the flag; return it."""
        if not self._flag:
            self._gate.acquire(True, max(0.0, timeout_s))
        return self._flag
