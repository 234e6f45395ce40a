"""The asyncio face: never blocks the loop, loses nothing when cancelled."""

import _thread
import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest

from eventpost import AsyncEventDispatcher, EventDispatcher, JournalQueue, LogEvent, MemoryQueue
from eventpost.doors import threads
from eventpost.errors import QueueUnavailable
from eventpost.queues.journal import inspect
from eventpost.testing import Collector
from support import HookedDisk

URL = "http://127.0.0.1:9/v1/events"


class SlowQueue(MemoryQueue):
    """A queue whose put waits for ``gate``, as one does that waits for a disk; it says so by its durability."""

    durability = "fsync"

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.putting = 0
        self.seen = []

    def put(self, events):
        """Wait, then store."""
        self.putting += 1
        if not self.gate.wait(10):
            raise QueueUnavailable("the test forgot the gate")
        self.seen += [event.payload for event in events]
        super().put(events)


class Hostile(str):
    """A header's name whose own code raises."""

    __slots__ = ()

    def lower(self):
        """Fail."""
        raise LookupError("secret")


@pytest.fixture
def collector():
    """Give a fake endpoint."""
    with Collector() as running:
        yield running


def log_event(number=0, url=URL):
    """Return a LogEvent."""
    return LogEvent(url, {"visitors": [{"visitor_id": f"user-{number}"}], "number": number})


async def until(condition, timeout_s=5.0):
    """Wait on the loop, in small steps, until the condition holds."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.005)


def test_events_arrive(collector):
    """``async with``, dispatch, flush: delivered and counted."""

    async def main():
        async with AsyncEventDispatcher(EventDispatcher(endpoint=collector.url)) as dispatcher:
            answers = await asyncio.gather(*(dispatcher.dispatch_event(log_event(number)) for number in range(20)))
            report = await dispatcher.flush(timeout_s=5)
        return answers, report, dispatcher

    answers, report, dispatcher = asyncio.run(main())
    assert answers == [True] * 20
    assert report.delivered == report.accepted == collector.requests_total == 20
    assert dispatcher.dispatcher.dispatch_event(log_event()) is False


def test_a_put_into_memory_is_done_inline():
    """It takes microseconds, so no thread is started for it, and no other task runs in between."""

    async def main():
        with EventDispatcher(MemoryQueue(), endpoint=URL) as inner:
            dispatcher = AsyncEventDispatcher(inner)
            dispatch = dispatcher.dispatch_event(log_event())
            with pytest.raises(StopIteration) as ended:
                dispatch.send(None)
            assert ended.value.value is True
            assert inner.put_threads.living == 0
            inner.close(timeout_s=0)

    asyncio.run(main())


@pytest.mark.parametrize("options", [{"durability": "fsync"}, {"overflow": "block"}])
def test_a_put_that_may_wait_is_done_on_a_thread(tmp_path, options):
    """fsync, and a queue that blocks when it is full."""

    async def main():
        inner = EventDispatcher(JournalQueue(tmp_path / "journal", **options), endpoint=URL, sender="none")
        dispatcher = AsyncEventDispatcher(inner)
        answers = await asyncio.gather(*(dispatcher.dispatch_event(log_event(number)) for number in range(40)))
        assert inner.put_threads.living > 0
        report = await dispatcher.aclose(timeout_s=2)
        assert answers == [True] * 40
        assert report.accepted == report.queued == 40

    asyncio.run(main())


def test_the_loop_goes_on_while_a_put_waits():
    """Other tasks run meanwhile; several puts wait at once, so that they can share one sync."""

    async def main():
        queue = SlowQueue()
        inner = EventDispatcher(queue, endpoint=URL)
        dispatcher = AsyncEventDispatcher(inner)
        puts = [asyncio.ensure_future(dispatcher.dispatch_event(log_event(number))) for number in range(5)]
        await until(lambda: queue.putting == 5)
        assert not any(put.done() for put in puts)
        queue.gate.set()
        assert await asyncio.gather(*puts) == [True] * 5
        assert (await dispatcher.aclose(timeout_s=0)).accepted == 5

    asyncio.run(main())


def test_cancelling_loses_nothing():
    """What was handed in is put and counted, also what still waited for a thread; only its answer is not waited for."""

    async def main():
        queue = SlowQueue()
        inner = EventDispatcher(queue, endpoint=URL)
        dispatcher = AsyncEventDispatcher(inner)
        puts = [asyncio.ensure_future(dispatcher.dispatch_event(log_event(number))) for number in range(40)]
        await until(lambda: queue.putting > 0)
        for put in puts:
            put.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*puts, return_exceptions=True)
        )
        queue.gate.set()
        report = await dispatcher.aclose(timeout_s=1)
        assert report.accepted == 40
        assert report.refused == {}
        assert report.closes

    asyncio.run(main())


def test_the_event_is_taken_as_it_was_when_it_was_handed_in():
    """The caller may change its dict while the put still waits."""

    async def main():
        queue = SlowQueue()
        dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint=URL))
        event = LogEvent(URL, {"value": "before"})
        put = asyncio.ensure_future(dispatcher.dispatch_event(event))
        await until(lambda: queue.putting == 1)
        event.params["value"] = "after"
        queue.gate.set()
        assert await put
        await dispatcher.aclose(timeout_s=0)
        assert queue.seen == [b'{"value":"before"}']

    asyncio.run(main())


@pytest.mark.parametrize("queue", [MemoryQueue, SlowQueue])
def test_what_cannot_be_sent_is_refused_the_same_both_ways(queue):
    """Unencodable and invalid events are counted; something that is no event is a TypeError; closed is closed."""

    async def main():
        made = queue()
        if isinstance(made, SlowQueue):
            made.gate.set()
        dispatcher = AsyncEventDispatcher(EventDispatcher(made, endpoint=None))
        assert await dispatcher.dispatch_event(LogEvent(URL, {"a": {1}})) is False
        assert await dispatcher.dispatch_event(LogEvent("nowhere", {})) is False
        assert await dispatcher.dispatch_event(LogEvent(URL, {}, headers={Hostile("A"): "x"})) is False
        with pytest.raises(TypeError):
            await dispatcher.dispatch_event(object())
        await dispatcher.aclose(timeout_s=0)
        assert await dispatcher.dispatch_event(log_event()) is False
        report = await dispatcher.aclose(timeout_s=0)
        assert report.refused == {"unencodable": 1, "invalid": 2, "closed": 1}

    asyncio.run(main())


def test_aclose_is_bounded_although_a_put_hangs():
    """A disk that hangs does not hang the shutdown."""

    async def main():
        queue = SlowQueue()
        dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint=URL))
        put = asyncio.ensure_future(dispatcher.dispatch_event(log_event()))
        await until(lambda: queue.putting == 1)
        began = time.monotonic()
        await dispatcher.aclose(timeout_s=0.2)
        assert time.monotonic() - began < 2
        queue.gate.set()
        await put

    asyncio.run(main())


def test_puts_at_once_share_syncs(tmp_path):
    """As many events as threads, at ``fsync``: what is put while one sync runs waits for one more, together."""
    disk = HookedDisk()
    queue = JournalQueue(tmp_path / "journal", durability="fsync", disk=disk)
    syncs = []

    def slow_sync(*_arguments):
        syncs.append(1)
        deadline = time.monotonic() + 10
        while 0 < queue.stats().accepted < threads.THREADS_MAX and time.monotonic() < deadline:
            time.sleep(0.001)

    disk.hooks["datasync"] = slow_sync

    async def main():
        async with AsyncEventDispatcher(EventDispatcher(queue, endpoint=URL, sender="none")) as dispatcher:
            puts = [dispatcher.dispatch_event(log_event(number)) for number in range(threads.THREADS_MAX)]
            return await asyncio.gather(*puts), dispatcher.dispatcher.put_threads.living

    puts, living = asyncio.run(main())
    assert puts == [True] * threads.THREADS_MAX
    assert len(syncs) <= 3  # the new segment's, the first put's, and one for all who came meanwhile
    assert living <= threads.THREADS_MAX


def test_a_loop_that_was_closed_is_told_nothing():
    """The put goes on, is counted, and ends quietly; nobody waits for it later."""

    async def give_up(dispatcher):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(dispatcher.dispatch_event(log_event()), 0.05)

    queue = SlowQueue()
    inner = EventDispatcher(queue, endpoint=URL)
    asyncio.run(give_up(AsyncEventDispatcher(inner)))
    queue.gate.set()
    assert inner.put_threads.wait(5, inner._clock) > 0
    report = inner.close(timeout_s=0)
    assert (report.accepted, dict(report.refused)) == (1, {})


def test_a_dispatch_after_aclose_leaves_no_thread():
    """It is refused as closed where it is made, and the threads of earlier puts have ended."""

    async def main():
        queue = SlowQueue()
        queue.gate.set()
        before = _thread._count()
        dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint=URL))
        assert await dispatcher.dispatch_event(log_event())
        await dispatcher.aclose(timeout_s=0)
        assert await dispatcher.dispatch_event(log_event()) is False
        await until(lambda: dispatcher.dispatcher.put_threads.living == 0, threads.IDLE_S / 2)
        await until(lambda: _thread._count() <= before)
        report = await dispatcher.aclose()
        assert (report.accepted, dict(report.refused)) == (1, {"closed": 1})

    asyncio.run(main())


def test_a_thread_without_work_ends(monkeypatch):
    """An idle thread serves the next put, and ends after a while."""
    monkeypatch.setattr(threads, "IDLE_S", 0.1)

    async def main():
        queue = SlowQueue()
        queue.gate.set()
        dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint=URL))
        for number in range(20):
            assert await dispatcher.dispatch_event(log_event(number))
        assert dispatcher.dispatcher.put_threads.living < threads.THREADS_MAX  # an answer comes just before the idling
        await until(lambda: dispatcher.dispatcher.put_threads.living == 0)
        assert await dispatcher.dispatch_event(log_event())
        await dispatcher.aclose(timeout_s=0)

    asyncio.run(main())


def test_where_no_thread_can_be_started_the_caller_puts(monkeypatch):
    """As at the end of the interpreter since Python 3.12: dispatch, flush and close still work."""

    def refuse(*_arguments):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    async def main():
        queue = SlowQueue()
        queue.gate.set()
        dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint=URL))
        monkeypatch.setattr(threads, "start_new_thread", refuse)
        assert await dispatcher.dispatch_event(log_event())
        assert (await dispatcher.flush(timeout_s=0)).accepted == 1
        assert (await dispatcher.aclose(timeout_s=0)).accepted == 1
        assert dispatcher.dispatcher.put_threads.living == 0

    asyncio.run(main())


def test_an_observer_that_closes_does_not_wait_for_its_own_put():
    """It is called on the thread of a put that was refused, which can't end before it."""

    class Full(SlowQueue):
        def put(self, events):
            raise QueueUnavailable("full", reason="queue_full")

    async def main():
        inner = EventDispatcher(Full(), endpoint=URL, observers=[lambda signal: inner.close(timeout_s=5)])
        began = time.monotonic()
        assert await AsyncEventDispatcher(inner).dispatch_event(log_event()) is False
        assert time.monotonic() - began < 2
        assert dict(inner.stats().refused) == {"queue_full": 1}

    asyncio.run(main())


def run_program(program, *arguments):
    """Run a program in a process of its own; what it did, and how many seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done, time.monotonic() - began


def test_a_put_that_waits_does_not_keep_the_interpreter_alive():
    """A put that may block for 25 s, given up: the process ends within ``close_timeout_s``, and says what it lost."""
    program = """
import asyncio
from eventpost import AsyncEventDispatcher, EventDispatcher, LogEvent, MemoryQueue

async def main():
    queue = MemoryQueue(events_max=1, overflow="block", block_timeout_s=25)
    dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint="http://127.0.0.1:9/", close_timeout_s=0.5))
    event = LogEvent("http://127.0.0.1:9/", {"a": 1})
    assert await dispatcher.dispatch_event(event)
    try:
        await asyncio.wait_for(dispatcher.dispatch_event(event), 0.1)
    except asyncio.TimeoutError:
        print("gave up")

asyncio.run(main())
"""
    done, took_s = run_program(program)
    assert done.stdout == "gave up\n"
    assert "1 events pending" in done.stderr
    assert "1 event refused (closed)" in done.stderr
    assert took_s < 10


def test_exit_puts_what_was_handed_in(tmp_path):
    """Forty puts at ``fsync``, cancelled at once, and the program ends: all of them are in the journal."""
    program = """
import asyncio, sys
from eventpost import AsyncEventDispatcher, EventDispatcher, JournalQueue, LogEvent

async def main():
    queue = JournalQueue(sys.argv[1], durability="fsync")
    dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint="http://127.0.0.1:9/", sender="none"))
    event = LogEvent("http://127.0.0.1:9/", {"a": 1})
    puts = [asyncio.ensure_future(dispatcher.dispatch_event(event)) for _ in range(40)]
    await asyncio.sleep(0)
    for put in puts:
        put.cancel()

asyncio.run(main())
"""
    run_program(program, tmp_path / "journal")
    assert inspect.folder_status(tmp_path / "journal").queued == 40


def test_an_exit_handler_may_dispatch(tmp_path):
    """At interpreter shutdown, where no thread may be started any more, the put is done by who makes it."""
    program = """
import asyncio, atexit, sys
from eventpost import AsyncEventDispatcher, EventDispatcher, JournalQueue, LogEvent

async def main():
    print(await dispatcher.dispatch_event(LogEvent("http://127.0.0.1:9/", {"a": 1})))

queue = JournalQueue(sys.argv[1], durability="fsync")
dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint="http://127.0.0.1:9/", sender="none"))
atexit.register(lambda: asyncio.run(main()))
"""
    done, _ = run_program(program, tmp_path / "journal")
    assert done.stdout == "True\n", done.stderr
    assert inspect.folder_status(tmp_path / "journal").queued == 1


def test_a_flush_that_was_given_up_does_not_keep_the_interpreter_alive():
    """A program that stops waiting for flush(timeout_s=600) and ends, ends (its events are dropped from memory)."""
    program = """
import asyncio
from eventpost import AsyncEventDispatcher, EventDispatcher, LogEvent

async def main():
    dispatcher = AsyncEventDispatcher(EventDispatcher(endpoint="http://127.0.0.1:9/", close_timeout_s=0.1))
    assert await dispatcher.dispatch_event(LogEvent("http://127.0.0.1:9/", {"a": 1}))
    try:
        await asyncio.wait_for(dispatcher.flush(timeout_s=600), 0.1)
    except asyncio.TimeoutError:
        print("gave up")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "gave up\n"), done.stderr


def test_what_flush_raises_is_raised_where_it_is_awaited():
    """A timeout that is none is a programmer's mistake, here as there."""

    async def main():
        with EventDispatcher(endpoint=URL) as inner, pytest.raises(ValueError, match="timeout_s"):
            await AsyncEventDispatcher(inner).flush(timeout_s=float("inf"))

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_uses_threads_of_its_own(tmp_path):
    """The pool that the parent used has no threads in the child; the child's puts get new ones."""

    async def put(dispatcher, number):
        return await asyncio.wait_for(dispatcher.dispatch_event(log_event(number)), 10)

    queue = JournalQueue(tmp_path / "journal", durability="fsync")
    dispatcher = AsyncEventDispatcher(EventDispatcher(queue, endpoint=URL, sender="none"))
    assert asyncio.run(put(dispatcher, 1))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if asyncio.run(put(dispatcher, 2)) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(put(dispatcher, 3))
    asyncio.run(dispatcher.aclose(timeout_s=2))


@pytest.mark.parametrize("wrong", [None, object(), EventDispatcher])
def test_what_is_no_dispatcher_is_a_type_error(wrong):
    """It wraps an EventDispatcher, so that there is one code path."""
    with pytest.raises(TypeError, match="EventDispatcher"):
        AsyncEventDispatcher(wrong)
