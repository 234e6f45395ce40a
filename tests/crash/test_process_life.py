"""Forks, exits and interruptions of real processes: what the durability level covers arrives, and nothing hangs."""

import importlib.util
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventpost import EventDispatcher, LogEvent
from eventpost.testing import Collector, Reply
from eventpost.transports.pool import PoolTransport
from support import curl_transport, missing

PRELUDE = """
import multiprocessing, os, signal, sys, threading, time
from eventpost.doors.dispatcher import EventDispatcher
from eventpost.event import LogEvent
from eventpost.queues.memory import MemoryQueue
URL, ARGS = sys.argv[1], sys.argv[2:]

def event(name):
    return LogEvent(URL, {"visitors": [{"visitor_id": "v", "snapshots": [{"events": [{"uuid": name}]}]}]})

def put(dispatcher, *names):
    for name in names:
        assert dispatcher.dispatch_event(event(name)), name

def names(prefix, count):
    return [f"{prefix}{at}" for at in range(count)]
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Give a fake endpoint."""
    with Collector() as endpoint:
        yield endpoint


def run(code: str, url: str, *args: str, timeout_s: float = 30, exit_code: int = 0) -> tuple[str, float]:
    """Run a script in a process of its own; return its stderr and the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), url, *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr
    return done.stderr, time.monotonic() - began


def expected(prefix: str, count: int) -> set[str]:
    """Return the names that the script's ``names`` makes."""
    return {f"{prefix}{at}" for at in range(count)}


ENDS = {
    "falling off the end": ("", 0),
    "sys.exit": ("sys.exit(0)", 0),
    "sys.exit with a code": ("sys.exit(3)", 3),
    "an unhandled exception": ("raise RuntimeError('the application failed')", 1),
    "KeyboardInterrupt": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(1)", -signal.SIGINT),
    "a thread that still runs": ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", 0),
}


@pytest.mark.parametrize("end", ENDS)
def test_exit_drains_what_is_in_memory(collector: Collector, end: str) -> None:
    """However a process ends by itself, what it accepted is delivered before, once."""
    code, exit_code = ENDS[end]
    run(f"d = EventDispatcher()\nput(d, *names('a', 200))\n{code}", collector.url, exit_code=exit_code)
    assert dict(collector.uuids) == dict.fromkeys(expected("a", 200), 1)


def test_a_put_at_exit_is_delivered(collector: Collector) -> None:
    """What the application's own atexit handlers put is delivered, also when no thread can be started any more."""
    code = """
        import atexit
        d = EventDispatcher()
        atexit.register(lambda: put(d, *names('late', 20)))
    """
    run(code, collector.url)
    assert set(collector.uuids) == expected("late", 20)


def test_a_dispatcher_of_ones_own_is_given_the_rest_at_exit() -> None:
    """Also if its thread had nothing to do before: Python 3.12 starts none at that time."""
    code = """
        class Mine:
            def dispatch_event(self, event):
                print("got", event.params, file=sys.stderr, flush=True)

        d = EventDispatcher(transport=Mine())
        assert d.dispatch_event(LogEvent("http://127.0.0.1:9/", {"a": 1}))
    """
    said, took_s = run(code, "no endpoint")
    assert said == "got {'a': 1}\n"
    assert took_s < 5


def test_after_the_exit_handlers_a_put_is_refused_or_stored(collector: Collector, tmp_path: Path) -> None:
    """What nobody would send any more is refused as closed; a journal keeps it for others; no thread starts."""
    code = """
        import atexit, os, sys
        def late():
            for name, dispatcher in (("made late", EventDispatcher()), ("used late", early),
                                     ("stored late", EventDispatcher(JournalQueue(ARGS[0])))):
                said(name, dispatcher)
        atexit.register(late)  # before the import below: so it runs after what that registers
    """
    body = """
        from eventpost import JournalQueue
        def said(name, dispatcher, event=event, print=print, dict=dict, range=range, len=len, listdir=os.listdir):
            answers = {dispatcher.dispatch_event(event(name)) for _ in range(3)}
            report = dispatcher.stats()
            threads = len(listdir("/proc/self/task"))
            print(name, answers, report.accepted, report.pending, dict(report.refused), threads, flush=True)
        early = EventDispatcher()
        class Last:
            def __del__(self, said=said, early=early, EventDispatcher=EventDispatcher):
                said("used last", early)
                said("made last", EventDispatcher())
        last = Last()
    """
    script = textwrap.dedent(code) + PRELUDE + textwrap.dedent(body)
    command = [sys.executable, "-c", script, collector.url, str(tmp_path / "journal")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    refused = "{False} 0 0 {'closed': 3} 1"
    assert done.stdout.splitlines() == [
        f"made late {refused}",
        f"used late {refused}",
        "stored late {True} 3 3 {} 1",
        f"used last {refused.replace('3', '6')}",
        f"made last {refused}",
    ], done.stderr
    assert not collector.uuids
    adopting = """
        from eventpost import JournalQueue
        d = EventDispatcher(JournalQueue(ARGS[0], adopt="always"))
        d.start()
        until = time.monotonic() + 10
        while d.stats().delivered < 3 and time.monotonic() < until:
            time.sleep(0.02)
    """
    run(adopting, collector.url, str(tmp_path / "journal"))
    assert dict(collector.uuids) == {"stored late": 3}


def test_an_unused_dispatcher_costs_no_thread_and_no_time(collector: Collector) -> None:
    """A process that stores nothing starts nothing, and its exit waits for nothing."""
    code = """
        d = EventDispatcher()
        assert len(os.listdir('/proc/self/task')) == 1
        with EventDispatcher() as other:
            other.flush(5)
        assert len(os.listdir('/proc/self/task')) == 1
        before = len(os.listdir('/proc/self/fd'))
        put(d, 'a')
        d.close()
        assert len(os.listdir('/proc/self/fd')) <= before, os.listdir('/proc/self/fd')
    """
    run(code, collector.url)


@pytest.mark.parametrize("used_before", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("end", ["sys.exit(0)", "d.close(); os._exit(0)"])
def test_fork_parent_and_child_deliver_their_own(collector: Collector, *, used_before: bool, end: str) -> None:
    """After os.fork both deliver their own events and none of the other's; the child counts from zero."""
    code = f"""
        d = EventDispatcher(linger_s=0.05)
        if {used_before}:
            put(d, *names('before', 50))
        pid = os.fork()
        if not pid:
            assert d.stats().accepted == 0, d.stats()
            put(d, *names('child', 50))
            {end}
        put(d, *names('parent', 50))
        assert os.waitpid(pid, 0)[1] == 0
        put(d, *names('after', 50))
        report = d.close()
        assert report.delivered == report.accepted == (150 if {used_before} else 100), report
    """
    run(code, collector.url)
    wanted = expected("parent", 50) | expected("child", 50) | expected("after", 50)
    wanted |= expected("before", 50) if used_before else set()
    assert dict(collector.uuids) == dict.fromkeys(wanted, 1)


def test_fork_while_other_threads_put(collector: Collector) -> None:
    """A fork in the middle of another thread's put leaves the child usable: nothing hangs, nothing is lost."""
    code = """
        d = EventDispatcher(MemoryQueue(events_max=1_000_000))
        running = True
        made = []
        def work(at):
            count = 0
            while running and count < 3000:
                put(d, f"t{at}-{count}")
                count += 1
            made.append(count)
        threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
        [thread.start() for thread in threads]
        for at in range(10):
            pid = os.fork()
            if not pid:
                signal.alarm(15)
                put(d, f"c{at}")
                report = d.close(5)
                os._exit(0 if report.delivered == 1 else 1)
            assert os.waitpid(pid, 0)[1] == 0, at
        running = False
        [thread.join() for thread in threads]
        report = d.close(20)
        assert report.delivered == report.accepted == sum(made) and report.closes, (report, made)
    """
    run(code, collector.url, timeout_s=60)
    assert expected("c", 10) <= set(collector.uuids)
    assert set(collector.uuids.values()) == {1}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_multiprocessing_child_drains_at_its_end(collector: Collector, tmp_path: object, method: str) -> None:
    """Multiprocessing's children skip atexit; their events arrive all the same, without a close()."""
    script = f"{tmp_path}/children.py"
    code = f"""
if __name__ != "__main__":
    d = EventDispatcher()
d = None
def work(at):
    global d
    d = d or EventDispatcher()
    put(d, *names(f"p{{at}}-", 30))
if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    d = EventDispatcher()
    put(d, "parent")
    children = [context.Process(target=work, args=(at,)) for at in range(2)]
    [child.start() for child in children]
    [child.join(20) for child in children]
    assert [child.exitcode for child in children] == [0, 0]
"""
    with open(script, "w", encoding="utf-8") as file:
        file.write(PRELUDE + code)
    done = subprocess.run([sys.executable, script, collector.url], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert dict(collector.uuids) == dict.fromkeys({"parent"} | expected("p0-", 30) | expected("p1-", 30), 1)


def test_a_pool_of_processes_delivers(collector: Collector) -> None:
    """Workers of concurrent.futures that are told to end drain first."""
    code = """
        from concurrent.futures import ProcessPoolExecutor
        d = EventDispatcher()
        put(d, 'parent')
        context = multiprocessing.get_context('fork')
        def work(at):
            put(d, f'w{at}')
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            list(pool.map(work, range(20)))
    """
    run(code, collector.url)
    assert dict(collector.uuids) == dict.fromkeys({"parent"} | expected("w", 20), 1)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Give an endpoint that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/events"


def test_close_against_a_black_hole_ends_in_time(black_hole: str) -> None:
    """close(1) ends within 1.5 s; what could not be delivered is counted as dropped, and the sum closes."""
    code = """
        d = EventDispatcher()
        put(d, *names('a', 20))
        began = time.monotonic()
        report = d.close(1)
        took = time.monotonic() - began
        assert 0.9 < took < 1.5, took
        assert dict(report.dropped) == {'memory_at_exit': 20} and report.closes, report
        assert d.close() == report == d.stats()
        assert not d.dispatch_event(event('b')) and d.stats().refused == {'closed': 1}
    """
    run(code, black_hole)


@pytest.fixture(params=["curl", "pool"])
def without_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EventDispatcher:
    """Give a dispatcher of a process that can start no thread, as Python 3.12 at interpreter shutdown."""

    def refuse(*_: object) -> int:
        msg = "can't create new thread at interpreter shutdown"
        raise RuntimeError(msg)

    monkeypatch.setattr("eventpost.sender.thread.start_new_thread", refuse)
    monkeypatch.setattr("eventpost.transports.threads.start_new_thread", refuse)
    return EventDispatcher(transport=curl_transport() if request.param == "curl" else PoolTransport())


def log_events(url: str, count: int) -> list[LogEvent]:
    """Return events that the collector can tell apart."""
    bodies = [{"visitors": [{"snapshots": [{"events": [{"uuid": f"a{at}"}]}]}]} for at in range(count)]
    return [LogEvent(url, body) for body in bodies]


def test_close_drives_the_sender_where_no_thread_can_be_started(
    collector: Collector, without_threads: EventDispatcher
) -> None:
    """On its own thread, retries included."""
    collector.script([Reply(status=503)])
    assert all(without_threads.dispatch_event(event) for event in log_events(collector.url, 20))
    assert without_threads.close(10).delivered == 20
    assert set(collector.uuids) == expected("a", 20)


def test_close_is_bounded_where_no_thread_can_be_started(black_hole: str, without_threads: EventDispatcher) -> None:
    """A request that close() makes itself gets no longer than close() has, whatever ``timeout_s`` says."""
    assert all(without_threads.dispatch_event(event) for event in log_events(black_hole, 20))
    began = time.monotonic()
    report = without_threads.close(1)
    assert time.monotonic() - began < 1.5
    assert dict(report.dropped) == {"memory_at_exit": 20}
    assert report.closes


def test_exit_against_a_black_hole_says_what_it_waits_for(black_hole: str) -> None:
    """A line on stderr names the number of pending events, how long it waits, and how to abort; then the losses."""
    stderr, took_s = run("d = EventDispatcher(close_timeout_s=1)\nput(d, *names('a', 7))", black_hole)
    assert re.search(r"7 events pending, waiting up to 1 s .*Ctrl-C", stderr)
    assert re.search(r"7 events dropped \(memory_at_exit\)", stderr)
    assert took_s < 10


def test_ctrl_c_ends_the_wait_at_exit(black_hole: str) -> None:
    """A second Ctrl-C is not needed: the first one at exit ends the wait, and the loss is told."""
    code = PRELUDE + "d = EventDispatcher(close_timeout_s=25)\nput(d, *names('a', 7))"
    process = subprocess.Popen([sys.executable, "-c", code, black_hole], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert "Ctrl-C" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        rest = process.stderr.read()
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5
    finally:
        process.kill()
        process.stderr.close()
    assert "memory_at_exit" in rest
    assert "Traceback" not in rest


def test_an_exit_in_the_middle_of_close_is_one_exit(black_hole: str) -> None:
    """A signal handler's sys.exit ends close(): the loss is told once, and the end of the process waits no more."""
    code = """
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(3))
        d = EventDispatcher(close_timeout_s=20)
        put(d, *names('a', 7))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        d.close()
    """
    stderr, took_s = run(code, black_hole, exit_code=3)
    assert stderr.count("7 events dropped (memory_at_exit)") == 1
    assert took_s < 10


def test_a_close_over_a_close_does_not_wait_for_it(black_hole: str) -> None:
    """A signal handler that closes what its thread is closing returns at once; the count closes."""
    code = """
        took = []

        def handler(*_):
            began = time.monotonic()
            d.close()
            took.append(time.monotonic() - began)

        signal.signal(signal.SIGALRM, handler)
        d = EventDispatcher()
        put(d, *names('a', 7))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        report = d.close(1.5)
        assert took and took[0] < 0.5, took
        assert report.closes and dict(report.dropped) == {'memory_at_exit': 7}, report
    """
    run(code, black_hole)


def test_at_exit_one_dispatcher_does_not_wait_for_anothers_endpoint(collector: Collector, black_hole: str) -> None:
    """Every dispatcher ends its linger at once, whoever is waited for first."""
    code = """
        LIVE, HOLE = URL, ARGS[0]
        kept = []
        for at in range(10):
            url = HOLE if at % 2 else LIVE
            d = EventDispatcher(merge_log_events=True, linger_s=20, close_timeout_s=2, endpoint=url)
            put(d, *names(f'd{at}-', 3))
            kept.append(d)
    """
    collector.answer = lambda _: Reply(delay_s=0.7)
    run(code, collector.url, black_hole)
    assert set(collector.uuids) == {f"d{at}-{number}" for at in range(0, 10, 2) for number in range(3)}


def test_no_line_is_printed_when_exit_does_not_have_to_wait(collector: Collector) -> None:
    """A quick drain is silent."""
    assert run("d = EventDispatcher()\nput(d, *names('a', 50))", collector.url)[0] == ""


def test_a_retry_is_waited_for_at_exit(collector: Collector) -> None:
    """An endpoint that fails once does not cost what is in memory."""
    collector.script([Reply(status=503), Reply(status=503)])
    run("d = EventDispatcher()\nput(d, 'a')", collector.url)
    assert set(collector.uuids) == {"a"}


def test_puts_in_signal_handlers_and_finalizers(collector: Collector) -> None:
    """A dispatcher is usable in a handler and in ``__del__``, also when they interrupt its own put."""
    code = """
        d = EventDispatcher(MemoryQueue(events_max=1_000_000))
        import itertools
        made, numbers = [], itertools.count()
        def handler(signum, frame):
            name = f's{next(numbers)}'  # atomic: a handler may interrupt a handler
            made.append(name)
            put(d, name)
        class Last:
            def __init__(self, name): self.name, self.myself = name, self
            def __del__(self):
                put(d, self.name)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
        for at in range(3000):
            put(d, f'm{at}')
            if at % 30 == 0:
                Last(f'd{at}')
        signal.setitimer(signal.ITIMER_REAL, 0)
        import gc; gc.collect()
        report = d.close(20)
        assert report.accepted == report.delivered == 3100 + len(made) and made, (report, len(made))
    """
    run(code, collector.url, timeout_s=60)
    assert set(collector.uuids.values()) == {1}


def test_close_in_a_sigterm_handler(collector: Collector) -> None:
    """The usual handler, ``dispatcher.close(); sys.exit()``, drains wherever it interrupts."""
    code = """
        d = EventDispatcher(MemoryQueue(events_max=1_000_000))
        def stop(signum, frame):
            report = d.close(10)
            os._exit(0 if report.delivered == report.accepted and report.closes else 7)
        signal.signal(signal.SIGTERM, stop)
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        at = 0
        while at < 1_000_000:
            d.dispatch_event(event(f'a{at}'))
            at += 1
    """
    run(code, collector.url)
    assert set(collector.uuids.values()) == {1}


def test_under_gevent_the_sender_is_a_real_thread(collector: Collector) -> None:
    """Monkey-patched, greenlets run on while the endpoint is slow, and flush() does not stop the hub."""
    if importlib.util.find_spec("gevent") is None:
        missing("gevent")
    collector.answer = lambda _request: Reply(status=204, delay_s=0.3)
    code = (
        """
        from gevent import monkey; monkey.patch_all()
        import gevent
    """
        + PRELUDE.replace("\n", "\n        ")
        + """
        d = EventDispatcher()
        ticks = []
        def tick():
            while True:
                ticks.append(1)
                gevent.sleep(0.01)
        ticker = gevent.spawn(tick)
        put(d, *names('a', 8))
        report = d.flush(10)
        assert report.delivered == 8, report
        assert len(ticks) > 15, len(ticks)
        threads = len(os.listdir('/proc/self/task'))
        assert threads >= 2, threads
        put(d, *names('b', 4))
    """
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), collector.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 30
    assert set(collector.uuids) == expected("a", 8) | expected("b", 4)


def test_an_idle_process_uses_no_cpu(collector: Collector) -> None:
    """With a sender that has nothing to do, two seconds cost next to nothing."""
    code = """
        d = EventDispatcher()
        put(d, 'a')
        d.flush(5)
        before = time.process_time()
        time.sleep(2)
        spent = time.process_time() - before
        assert spent < 0.02, spent
    """
    run(code, collector.url)
