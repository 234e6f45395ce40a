"""The ends of processes whose queue is a journal: nothing is lost, and nobody waits for an endpoint that is down."""

import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventpost import EventDispatcher, JournalQueue, LogEvent
from eventpost.testing import Collector, Reply

PRELUDE = """
import os, signal, sys, threading, time
from eventpost.doors.dispatcher import EventDispatcher
from eventpost.event import LogEvent
from eventpost.queues.journal import JournalQueue
URL, PATH = sys.argv[1:3]

def event(name):
    return LogEvent(URL, {"visitors": [{"visitor_id": "v", "snapshots": [{"events": [{"uuid": name}]}]}]})

def put(dispatcher, prefix, count):
    for at in range(count):
        assert dispatcher.dispatch_event(event(f"{prefix}{at}"))
"""
DELIVER = "d = EventDispatcher(JournalQueue(PATH)); put(d, 'last', 1); d.flush(20); print(d.close(5))"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Give a fake endpoint."""
    with Collector() as endpoint:
        yield endpoint


def start(code: str, url: str, path: Path) -> "subprocess.Popen[str]":
    """Start a script in a process of its own."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), url, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]", exit_code: int = 0) -> tuple[str, str]:
    """Wait for its end; return stdout and stderr."""
    out, err = process.communicate(timeout=40)
    assert process.returncode == exit_code, err
    return out, err


def test_exit_does_not_wait_for_an_endpoint_that_is_left_alone(tmp_path: Path) -> None:
    """Nobody listens: once the breaker is open, exit leaves the events to the next process."""
    code = """
        d = EventDispatcher(JournalQueue(PATH), close_timeout_s=30)
        put(d, 'a', 50)
        deadline = time.monotonic() + 10
        while not any(lane.breaker.blocked for lane in d._sender._lanes.values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        print(time.monotonic())
    """
    process = start(code, "http://127.0.0.1:9/v1/events", tmp_path / "journal")
    out, err = ended(process)
    assert time.monotonic() - float(out) < 5
    assert "dropped" not in err


def test_exit_does_not_wait_for_a_probe_that_hangs(collector: Collector, tmp_path: Path) -> None:
    """Nor for another endpoint's sake: one that is well and idle changes nothing."""
    code = """
        import socket
        hole = socket.socket()
        hole.bind(('127.0.0.1', 0))  # refuses, until it listens; then it hangs
        down = f'http://127.0.0.1:{hole.getsockname()[1]}/v1/events'
        d = EventDispatcher(JournalQueue(PATH), timeout_s=25, close_timeout_s=30)
        put(d, 'well', 1)
        assert d.flush(5).delivered == 1
        for at in range(50):
            assert d.dispatch_event(LogEvent(down, event(f'a{at}').params))

        def wait_for(state):
            deadline = time.monotonic() + 10
            while d._sender._lanes[down].breaker.state != state and time.monotonic() < deadline:
                time.sleep(0.005)
            assert d._sender._lanes[down].breaker.state == state

        while down not in d._sender._lanes:
            time.sleep(0.005)
        wait_for('open')
        hole.listen(64)
        wait_for('half_open')
        print(time.monotonic())
    """
    out, err = ended(start(code, collector.url, tmp_path / "journal"))
    assert time.monotonic() - float(out) < 12
    assert "dropped" not in err


def test_exit_says_what_it_waits_for_and_what_becomes_of_it(tmp_path: Path) -> None:
    """While the endpoint may still answer: how many, for how long, how to leave at once, and that nothing is lost."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        url = f"http://127.0.0.1:{hole.getsockname()[1]}/v1/events"
        code = "d = EventDispatcher(JournalQueue(PATH), close_timeout_s=1)\nput(d, 'a', 7)"
        _, err = ended(start(code, url, tmp_path / "journal"))
    line = "7 events pending, waiting up to 1 s for them; Ctrl-C to leave at once (they stay in the queue)"
    assert err.splitlines() == [f"eventpost: {line}"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_loses_nothing(collector: Collector, tmp_path: Path, end: signal.Signals) -> None:
    """Python's default handler for SIGTERM runs nothing at all; the next process delivers what is left."""
    collector.answer = lambda _request: Reply(status=503)
    code = """
        d = EventDispatcher(JournalQueue(PATH))
        put(d, 'a', 300)
        print('stored', flush=True)
        time.sleep(30)
    """
    process = start(code, collector.url, tmp_path / "journal")
    assert process.stdout is not None
    assert process.stdout.readline() == "stored\n"
    process.send_signal(end)
    ended(process, -end)
    collector.answer = lambda _request: Reply(status=204)
    before = {uuid for uuid, count in collector.uuids.items() if count}
    assert before <= {f"a{at}" for at in range(300)}
    out, _ = ended(start(DELIVER, collector.url, tmp_path / "journal"))
    assert "queued 0, in flight 0, dead 0, dropped 0" in out
    assert {f"a{at}" for at in range(300)} | {"last0"} == set(collector.uuids)


def test_exit_drains_a_journal_while_the_endpoint_answers(collector: Collector, tmp_path: Path) -> None:
    """Falling off the end delivers; nothing is left for anybody."""
    ended(start("d = EventDispatcher(JournalQueue(PATH))\nput(d, 'a', 200)", collector.url, tmp_path / "journal"))
    assert dict(collector.uuids) == {f"a{at}": 1 for at in range(200)}


def test_a_process_that_only_stores_sends_nothing_and_loses_nothing(collector: Collector, tmp_path: Path) -> None:
    """sender="none": no thread, no request; another process delivers."""
    code = """
        d = EventDispatcher(JournalQueue(PATH), sender="none")
        put(d, 'a', 50)
        report = d.flush(5)
        assert report.queued == 50 and report.closes, report
        assert len(os.listdir('/proc/self/task')) == 1
    """
    ended(start(code, collector.url, tmp_path / "journal"))
    assert not collector.uuids
    ended(start(DELIVER, collector.url, tmp_path / "journal"))
    assert {f"a{at}" for at in range(50)} | {"last0"} == set(collector.uuids)


def test_fork_with_a_journal(collector: Collector, tmp_path: Path) -> None:
    """Parent and child write to the same folder, each its own events; all of them arrive once."""
    code = """
        d = EventDispatcher(JournalQueue(PATH))
        put(d, 'before', 20)
        children = []
        for child in range(3):
            pid = os.fork()
            if not pid:
                signal.alarm(20)
                assert d.stats().accepted == 0, d.stats()
                put(d, f'c{child}-', 30)
                sys.exit(0)
            children.append(pid)
        put(d, 'after', 20)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
        report = d.close(10)
        assert report.queued == report.in_flight == 0 and report.closes, report
    """
    ended(start(code, collector.url, tmp_path / "journal"))
    wanted = {f"{prefix}{at}" for prefix in ("before", "after") for at in range(20)}
    wanted |= {f"c{child}-{at}" for child in range(3) for at in range(30)}
    assert dict(collector.uuids) == dict.fromkeys(wanted, 1)


def test_what_is_in_flight_at_the_end_lands_and_nothing_more_is_started(collector: Collector, tmp_path: Path) -> None:
    """A sender that ends takes the answers that come within a moment: what it gave up, another one would send again."""
    collector.answer = lambda _request: Reply(delay_s=0.05)
    body = {"visitors": [{"visitor_id": "v", "snapshots": [{"events": [{"uuid": "a"}]}]}]}
    dispatcher = EventDispatcher(JournalQueue(tmp_path / "journal"), in_flight_max=1)
    for _ in range(2):
        assert dispatcher.dispatch_event(LogEvent(collector.url, body))
    assert collector.wait_requests(1)
    assert dispatcher._thread.close()  # as close() does once what was accepted before it is settled
    count = dispatcher.stats()
    assert (count.delivered, count.queued, count.in_flight) == (1, 1, 0)
    assert collector.requests_total == 1
    assert dispatcher.close().delivered == 1


def test_a_signal_handler_over_the_finding_of_a_fork_does_not_wait_for_it(collector: Collector, tmp_path: Path) -> None:
    """A put that interrupts the put which finds out that this is a child: both are taken, neither waits for ever."""
    code = """
        import ctypes
        class First(JournalQueue):
            def after_fork_in_child(self):
                super().after_fork_in_child()
                if not interrupted:
                    interrupted.append(1)
                    signal.raise_signal(signal.SIGUSR1)
        interrupted = []
        signal.signal(signal.SIGUSR1, lambda *_: put(second, 'handler', 1))
        first = EventDispatcher(First(PATH), sender="none")
        second = EventDispatcher(JournalQueue(PATH), sender="none")
        pid = ctypes.PyDLL(None).fork()
        if not pid:
            signal.alarm(10)
            put(first, 'child', 1)
            put(second, 'more', 1)
            assert first.stats().accepted == 1, first.stats()
            assert second.stats().accepted == 2, second.stats()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    ended(start(code, collector.url, tmp_path / "journal"))
    ended(start(DELIVER, collector.url, tmp_path / "journal"))
    assert set(collector.uuids) == {"child0", "handler0", "more0", "last0"}


def test_a_fork_that_python_is_not_told_of(collector: Collector, tmp_path: Path) -> None:
    """Parent and child of a fork in C, as uWSGI makes them, do not write over each other's events."""
    code = """
        import ctypes
        d = EventDispatcher(JournalQueue(PATH), sender="none")
        put(d, 'before', 20)
        pid = ctypes.PyDLL(None).fork()
        if not pid:
            threads = [threading.Thread(target=put, args=(d, f'child{at}-', 20)) for at in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            assert d.stats().accepted == 80, d.stats()
            os._exit(0)
        put(d, 'parent', 20)
        assert os.waitpid(pid, 0)[1] == 0
        assert d.stats().accepted == 40, d.stats()
    """
    ended(start(code, collector.url, tmp_path / "journal"))
    ended(start(DELIVER, collector.url, tmp_path / "journal"))
    wanted = {f"{prefix}{at}" for prefix in ("before", "parent") for at in range(20)} | {"last0"}
    wanted |= {f"child{thread}-{at}" for thread in range(4) for at in range(20)}
    assert dict(collector.uuids) == dict.fromkeys(wanted, 1)
