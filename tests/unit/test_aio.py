"""The asyncio face: never blocks the loop, loses nothing when cancelled."""

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest

from eventpost import AsyncEventDispatcher, EventDispatcher, JournalQueue, LogEvent, MemoryQueue
from eventpost.errors import QueueUnavailable
from eventpost.testing import Collector

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
            assert dispatcher._pool is None
            inner.close(timeout_s=0)

    asyncio.run(main())


@pytest.mark.parametrize("options", [{"durability": "fsync"}, {"overflow": "block"}])
def test_a_put_that_may_wait_is_done_on_a_thread(tmp_path, options):
    """fsync, and a queue that blocks when it is full."""

    async def main():
        inner = EventDispatcher(JournalQueue(tmp_path / "journal", **options), endpoint=URL, sender="none")
        dispatcher = AsyncEventDispatcher(inner)
        answers = await asyncio.gather(*(dispatcher.dispatch_event(log_event(number)) for number in range(40)))
        assert dispatcher._pool is not None
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
        report = await dispatcher.aclose(timeout_s=5)
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
        with pytest.raises(TypeError):
            await dispatcher.dispatch_event(object())
        await dispatcher.aclose(timeout_s=0)
        assert await dispatcher.dispatch_event(log_event()) is False
        report = await dispatcher.aclose(timeout_s=0)
        assert report.refused == {"unencodable": 1, "invalid": 1, "closed": 1}

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
