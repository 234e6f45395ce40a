"""Real locks, threads and waits, whatever is monkey-patched."""

import importlib.util
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from eventpost.sender.primitives import Event, original, original_module
from support import missing

UNDER_GEVENT = """
    from gevent import monkey
    monkey.patch_all()
    import _thread, threading, time, gevent
    from eventpost.sender import primitives
    assert type(primitives.Lock()).__module__ == "_thread", type(primitives.Lock())
    assert primitives.real_sleep is monkey.get_original("time", "sleep")
    assert primitives.original("time", "sleep") is not time.sleep
    ticks, here = [], primitives.get_ident()
    def tick():
        while len(ticks) < 5:
            ticks.append(1)
            gevent.sleep(0.01)
    ticking = gevent.spawn(tick)
    flag, idents = primitives.Event(), []
    def work():
        primitives.real_sleep(0.05)  # a greenlet that did this would stop the others
        idents.append(primitives.get_ident())
        flag.set()
    primitives.start_new_thread(work, ())
    primitives.pause(0.2)  # the others run meanwhile
    assert len(ticks) == 5, ticks
    assert flag.wait(5) and idents[0] != here
"""


def test_under_gevent_threads_are_real_and_pauses_cooperative() -> None:
    """A thread of ours runs beside the hub, and a pause on a caller's thread lets other greenlets run."""
    if importlib.util.find_spec("gevent") is None:
        missing("gevent")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(UNDER_GEVENT)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_unpatched_they_are_the_interpreters_own() -> None:
    """Also through a view on a module; a name that is not there is an AttributeError."""
    assert original("time", "sleep") is time.sleep
    assert original_module("time").monotonic is time.monotonic
    with pytest.raises(AttributeError):
        original("time", "no_such_name")


def test_an_event_wakes_its_waiter_and_times_out() -> None:
    """Set twice, cleared, waited for: the flag is what counts, and the gate never lets a later wait through."""
    flag = Event()
    assert not flag.wait(0.0)
    flag.set()
    flag.set()
    assert flag.wait(0.0)
    assert flag.wait(0.0)
    flag.clear()
    assert not flag.is_set()
    assert not flag.wait(0.01)
    threading.Timer(0.02, flag.set).start()
    assert flag.wait(5)
