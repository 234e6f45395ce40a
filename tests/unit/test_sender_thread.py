"""When the sender's thread is woken, and what is done where there is none."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventpost.clock import SystemClock
from eventpost.event import Envelope, Event
from eventpost.queues.memory import MemoryQueue
from eventpost.sender.lane import Limits
from eventpost.sender.loop import NEVER, Sender
from eventpost.sender.retry import RetryPolicy
from eventpost.sender.thread import SenderThread
from eventpost.testing.transports import RecordingTransport
from eventpost.watch.signals import Signal

URL, OTHER = "http://127.0.0.1:1/", "http://127.0.0.1:2/"
VISITOR = Event(Envelope(URL, shared=True, prefix=b"[", suffix=b"]"), b"1")


class Waking(RecordingTransport):
    """A transport that waits for a wake, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.bell = threading.Event()
        self.wakes = 0
        self.closed_with: list[float] = []

    def wait(self, timeout_s: float) -> Any:
        """Wait, but never past half a second."""
        completions = super().wait(0.0)
        if not completions and timeout_s > 0:
            self.bell.wait(min(timeout_s, 0.5))
            self.bell.clear()
            completions = super().wait(0.0)
        return completions

    def wake(self) -> None:
        """Let it return."""
        self.wakes += 1
        self.bell.set()

    def close(self, timeout_s: float) -> None:
        """Note how long it has."""
        self.closed_with.append(timeout_s)
        super().close(timeout_s)


class Sending:
    """A thread and its parts; a visitor lingers for a minute."""

    def __init__(self, *, may_start: Callable[[], bool] = lambda: True) -> None:
        self.queue, self.transport, self.signals = MemoryQueue(), Waking(), list[Signal]()
        sender = Sender(
            self.queue, self.transport, clock=SystemClock(), chance=lambda: 0.0, emit=self.signals.append,
            policy=RetryPolicy(), limits=Limits(linger_s=60.0),
        )  # fmt: skip
        self.started: list[bool] = []
        self.thread = SenderThread(
            sender, self.queue, self.transport, clock=SystemClock(), emit=self.signals.append,
            on_start=lambda: self.started.append(True), may_start=may_start,
        )  # fmt: skip

    def put(self) -> None:
        """Put one, and let the thread know."""
        self.queue.put((VISITOR,))
        self.thread.notice(URL, urgent=False)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for something, with a bound."""
        deadline = time.monotonic() + 10
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.mark.parametrize(
    ("quotas", "puts", "wakes"),
    [
        (None, [(URL, False)] * 9, []),  # it is busy, and looks before it sleeps
        ({}, [(URL, False)], [0]),
        ({URL: 3}, [(URL, False)] * 5, [2]),
        ({URL: 3}, [(URL, False), (URL, True), (URL, False)], [1]),
        ({URL: 2}, [(OTHER, False)], [0]),
        ({URL: NEVER}, [(URL, False), (URL, True)] * 5, []),
        ({URL: NEVER, OTHER: 1}, [(URL, True), (OTHER, False)], [1]),
    ],
)
def test_a_put_wakes_the_sender_when_it_wants_to_be_woken(
    quotas: dict[str, int] | None, puts: list[tuple[str, bool]], wakes: list[int]
) -> None:
    """After so many arrivals of a lane, at once for an urgent one, and never for a lane that can't be started."""
    sending = Sending()
    sending.thread._running = True
    sending.thread._quotas = quotas
    woken = []
    for at, (lane, urgent) in enumerate(puts):
        before = sending.transport.wakes
        sending.thread.notice(lane, urgent)
        woken += [at] * (sending.transport.wakes - before)
    assert woken == wakes


def test_who_is_in_a_hurry_ends_lingering_and_waits_for_nothing() -> None:
    """What lingered goes out in the background."""
    sending = Sending()
    sending.thread.hurry()
    assert sending.started == []  # nothing was put here
    sending.put()
    sending.until(lambda: sending.queue.stats().in_flight == 1)
    assert sending.transport.bodies == []
    sending.thread.hurry()
    sending.until(lambda: sending.queue.stats().delivered == 1)
    assert sending.thread.close()


def test_a_put_right_after_a_hurry_wakes_nobody_again() -> None:
    """The sender is awake by then, and looks before it sleeps."""
    sending = Sending()
    sending.thread._started = sending.thread._running = True
    sending.thread.hurry()
    assert sending.transport.wakes == 1
    for urgent in (False, True):
        sending.thread.notice(URL, urgent)
    assert sending.transport.wakes == 1


def test_where_no_thread_may_be_started_a_flush_does_the_work() -> None:
    """As if there were one: what is to happen first happens, once; a thread is started as soon as it may be."""
    may_start = False
    sending = Sending(may_start=lambda: may_start)
    sending.put()
    assert sending.thread.flush(10.0)
    assert not sending.thread._running
    assert (sending.started, sending.queue.stats().delivered) == ([True], 1)
    may_start = True
    sending.put()
    assert sending.thread.flush(10.0)
    assert sending.thread._running
    assert (sending.started, sending.queue.stats().delivered) == ([True], 2)
    assert sending.thread.close()


def test_the_end_gives_back_what_did_not_come_back_in_time() -> None:
    """After a moment; the transport has what is left of it."""
    sending = Sending()
    sending.transport.hold = True
    sending.put()
    sending.until(lambda: sending.queue.stats().in_flight == 1)
    sending.thread.hurry()
    sending.until(lambda: len(sending.transport.under_way) == 1)
    began = time.monotonic()
    assert sending.thread.close()
    assert 0.1 < time.monotonic() - began < 5
    assert (sending.queue.stats().queued, sending.queue.stats().in_flight) == (1, 0)
    assert sending.transport.closed_with == [pytest.approx(0.15)]
    assert not sending.thread.flush(1.0)
