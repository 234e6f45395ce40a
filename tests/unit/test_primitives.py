"""Real locks, threads and waits, whatever is monkey-patched."""

import _thread
import importlib.util
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest

from eventpost.sender import primitives
from eventpost.sender.primitives import Event, is_mine, original, original_module, pause
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


def test_unpatched_all_of_them_are_the_interpreters_own() -> None:
    """Locks, threads, waits, and how long the longest may be."""
    assert primitives.Lock is _thread.allocate_lock
    assert primitives.RLock is _thread.RLock
    assert primitives.get_ident is _thread.get_ident
    assert primitives.start_new_thread is _thread.start_new_thread
    assert primitives.real_sleep is time.sleep
    assert primitives.FOREVER_S == threading.TIMEOUT_MAX


def test_gevent_is_asked_for_what_it_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is loaded: it knows whether it patched anything."""
    monkeypatch.setitem(sys.modules, "gevent.monkey", SimpleNamespace(get_original=lambda *what: what))
    assert original("time", "sleep") == ("time", "sleep")
    assert original_module("select").epoll == ("select", "epoll")


@pytest.mark.parametrize("patched", [False, True])
def test_eventlet_is_asked_for_what_it_replaced_once_it_did(patched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded alone it changes nothing, and its copies of modules need not be made."""
    asked: list[str] = []

    def theirs(module: str) -> SimpleNamespace:
        asked.append(module)
        return SimpleNamespace(sleep="the real one")

    monkeypatch.delitem(sys.modules, "gevent.monkey", raising=False)
    patcher = SimpleNamespace(already_patched={"time": True} if patched else {}, original=theirs)
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    assert original("time", "sleep") == ("the real one" if patched else time.sleep)
    assert asked == ["time"] * patched


def test_a_pause_is_the_applications_own_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked up each time: the application may be patched after this was loaded."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pause(0.25)
    assert slept == [0.25]


def test_a_thread_knows_which_lock_it_holds() -> None:
    """And that another one's is not its own."""
    lock, seen = primitives.RLock(), list[bool]()
    assert is_mine(lock) is False
    with lock:
        assert is_mine(lock) is True
        other = threading.Thread(target=lambda: seen.append(is_mine(lock)))
        other.start()
        other.join()
    assert (seen, is_mine(lock)) == ([False], False)


class Gate:
    """A lock that notes how long it is waited for."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def acquire(self, *how: object) -> bool:
        """Note it."""
        self.said.append(how)
        return len(self.said) == 1

    def release(self) -> None:
        """Let nobody in."""


def test_a_wait_takes_the_time_it_is_given_and_none_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for whoever computes it from a deadline; what is set is found set without a wait."""
    gate = Gate()
    monkeypatch.setattr(primitives, "Lock", lambda: gate)
    flag = Event()
    for seconds in (0.25, 0.0, -1.0):
        assert flag.wait(seconds) is False
    assert gate.said == [(), (True, 0.25), (True, 0.0), (True, 0.0)]
    flag.set()
    assert (flag.wait(9.0), flag.is_set(), len(gate.said)) == (True, True, 4)


def test_whether_new_or_cleared_an_event_has_to_be_waited_for() -> None:
    """What it was before it was cleared lets nobody through."""
    new, cleared = Event(), Event()
    cleared.set()
    cleared.clear()
    for flag in (new, cleared):
        began = time.monotonic()
        assert not flag.wait(0.02)
        assert time.monotonic() - began >= 0.015


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
