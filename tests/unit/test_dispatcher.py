"""The dispatcher: what it takes, what it refuses, what it says, and how it ends."""

import asyncio
import inspect
import logging
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import curl_transport

from eventpost import guard, settings
from eventpost.doors.dispatcher import EventDispatcher
from eventpost.errors import QueueFull
from eventpost.event import Envelope, Event, LogEvent
from eventpost.queues.journal import JournalQueue
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.place import SharedQueue
from eventpost.sender.retry import RetryPolicy
from eventpost.testing.transports import RecordingTransport
from eventpost.transports.pool import PoolTransport
from eventpost.transports.protocol import Request, Response, TransportError
from eventpost.watch.ledger import Report
from eventpost.watch.signals import Closed, Refused, Signal

URL = "http://127.0.0.1:9/v1/events"
OPTIMIZELY = "https://logx.optimizely.com/v1/events"
PARAMS = {"visitors": [{"visitor_id": "v-secret", "snapshots": []}], "account_id": "1"}


class BlockingTransport(RecordingTransport):
    """A RecordingTransport whose wait really waits, as a thread that drives it needs."""

    def __init__(self, answer: Callable[[Request], Any] | None = None, **options: Any) -> None:
        super().__init__(answer, **options)
        self.bell = threading.Event()

    def wait(self, timeout_s: float) -> Any:
        """Wait for a wake or the timeout, but never past half a second."""
        completions = super().wait(timeout_s)
        if not completions and timeout_s > 0:
            self.bell.wait(min(timeout_s, 0.5))
            self.bell.clear()
            completions = super().wait(0.0)
        return completions

    def wake(self) -> None:
        """Let it return."""
        super().wake()
        self.bell.set()


@pytest.fixture
def transport() -> BlockingTransport:
    """Give a transport that answers 204."""
    return BlockingTransport()


@pytest.fixture
def dispatcher(transport: BlockingTransport) -> Iterator[EventDispatcher]:
    """Give a dispatcher over it."""
    with EventDispatcher(transport=transport) as made:
        yield made


def log_event(**changes: Any) -> LogEvent:
    """Return a LogEvent."""
    return LogEvent(**{"url": URL, "params": PARAMS, **changes})


def test_what_is_dispatched_is_delivered(dispatcher: EventDispatcher, transport: BlockingTransport) -> None:
    """True, then delivered; flush waits for it and returns the count."""
    assert dispatcher.dispatch_event(log_event()) is True
    report = dispatcher.flush(timeout_s=5)
    assert (report.accepted, report.delivered, report.queued, report.in_flight) == (1, 1, 0, 0)
    assert report.closes
    assert transport.requests[0].envelope.url == URL


def test_neither_length_nor_truth(dispatcher: EventDispatcher) -> None:
    """The SDK replaces a falsy dispatcher with its own; ours is never falsy."""
    assert bool(dispatcher)
    assert not hasattr(EventDispatcher, "__len__")
    assert not hasattr(EventDispatcher, "__bool__")


def test_the_endpoint_is_applied_at_the_door(transport: BlockingTransport) -> None:
    """And stored with the event."""
    other = "http://127.0.0.1:8/relay"
    with EventDispatcher(transport=transport, endpoint=other) as dispatcher:
        assert dispatcher.endpoint == other
        dispatcher.dispatch_event(log_event())
        dispatcher.flush(5)
    assert transport.requests[0].envelope.url == other


def test_who_adopts_an_event_sends_it_where_it_was_stored_for(transport: BlockingTransport, tmp_path: Path) -> None:
    """Whatever its own endpoint is; the event is part of its sum, as adopted."""
    other = "http://127.0.0.1:8/relay"
    with EventDispatcher(JournalQueue(tmp_path / "j"), endpoint=other, sender="none") as storing:
        assert storing.dispatch_event(log_event())
    adopting = EventDispatcher(JournalQueue(tmp_path / "j"), endpoint="http://127.0.0.1:7/", transport=transport)
    adopting.start()
    give_up_at = time.monotonic() + 5
    while not adopting.stats().delivered:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    report = adopting.close(5)
    assert (report.accepted, report.adopted, report.delivered, report.closes) == (1, 1, 1, True)
    assert [request.envelope.url for request in transport.requests] == [other]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (log_event(params={"a": {1, 2}}), "unencodable"),
        (log_event(params={"a": float("nan")}), "unencodable"),
        (log_event(url="ftp://127.0.0.1/"), "invalid"),
        (log_event(url="no url"), "invalid"),
        (log_event(http_verb="DELETE"), "invalid"),
        (log_event(params={"a": "x" * 3_600_000}), "too_large"),
    ],
)
def test_what_can_not_be_delivered_is_refused_with_its_reason(
    transport: BlockingTransport, event: LogEvent, reason: str
) -> None:
    """False, a count, and a signal without the payload; the queue has nothing of it."""
    signals: list[Signal] = []
    with EventDispatcher(transport=transport, observers=[signals.append]) as dispatcher:
        assert dispatcher.dispatch_event(event) is False
        report = dispatcher.stats()
    assert dict(report.refused) == {reason: 1}
    assert (report.accepted, report.offered) == (0, 1)
    (refused,) = [signal for signal in signals if isinstance(signal, Refused)]
    assert refused.reason == reason
    assert "secret" not in repr(refused)


def test_what_stands_around_a_visitor_counts(dispatcher: EventDispatcher, transport: BlockingTransport) -> None:
    """A body of 3.5 MB goes out, one byte more is refused."""
    envelope = Envelope(URL, shared=True, prefix=b"p" * 100, suffix=b"s" * 50)
    room = settings.ENDPOINT_BODY_BYTES_MAX - 150
    assert dispatcher.put_event(Event(envelope, b"x" * room), urgent=False)
    assert not dispatcher.put_event(Event(envelope, b"x" * (room + 1)), urgent=False)
    report = dispatcher.flush(5)
    assert (report.delivered, dict(report.refused)) == (1, {"too_large": 1})
    assert [len(request.body) for request in transport.requests] == [3_500_000]


def test_a_programmers_mistake_is_a_type_error(dispatcher: EventDispatcher) -> None:
    """An object that is no log event is not the event's fault."""
    for wrong in (None, {"url": URL}, "event", 7):
        with pytest.raises(TypeError):
            dispatcher.dispatch_event(wrong)
    assert dispatcher.stats().offered == 0


def test_an_object_whose_attributes_raise_is_refused(dispatcher: EventDispatcher) -> None:
    """Nothing but a TypeError reaches the application."""

    class Odd:
        url = URL
        http_verb = "POST"
        headers = None

        @property
        def params(self) -> Any:
            raise RuntimeError("v-secret")

    assert dispatcher.dispatch_event(Odd()) is False
    assert dispatcher.stats().offered == 1


def test_a_full_queue_refuses_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """A loss is a warning of the logger "eventpost": the first at once, then at most one a minute."""
    transport = BlockingTransport(hold=True)
    dispatcher = EventDispatcher(MemoryQueue(events_max=2), transport=transport)
    with caplog.at_level(logging.WARNING, "eventpost"):
        assert [dispatcher.dispatch_event(log_event()) for _ in range(50)] == [True, True] + [False] * 48
    assert dict(dispatcher.stats().refused) == {"queue_full": 48}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "queue_full" in lines[0]
    assert "secret" not in lines[0]
    dispatcher.close(0)


def test_whatever_a_queue_raises_is_a_refusal(transport: BlockingTransport) -> None:
    """Its own reason if it has one."""

    class Broken(MemoryQueue):
        def put(self, events: Any) -> None:
            del events
            raise self.error

        error: Exception = OSError(5, "I/O error")

    queue = Broken()
    with EventDispatcher(queue, transport=transport) as dispatcher:
        assert dispatcher.dispatch_event(log_event()) is False
        queue.error = QueueFull("disk full", reason="disk_full")
        assert dispatcher.dispatch_event(log_event()) is False
        assert dict(dispatcher.stats().refused) == {"queue_unavailable": 1, "disk_full": 1}


def test_close_is_idempotent_bounded_and_final(transport: BlockingTransport) -> None:
    """What comes later is refused as closed; the last count is told once."""
    signals: list[Signal] = []
    dispatcher = EventDispatcher(transport=transport, observers=[signals.append])
    dispatcher.dispatch_event(log_event())
    report = dispatcher.close(timeout_s=5)
    assert isinstance(report, Report)
    assert report.delivered == 1
    assert transport.closed
    assert dispatcher.close() == report
    assert dispatcher.dispatch_event(log_event()) is False
    assert dict(dispatcher.stats().refused) == {"closed": 1}
    assert dispatcher.flush(5).closes
    assert [signal for signal in signals if isinstance(signal, Closed)] == [Closed(report)]


def test_close_counts_what_memory_loses(caplog: pytest.LogCaptureFixture) -> None:
    """What could not be delivered in time is dropped as memory_at_exit, and logged."""
    dispatcher = EventDispatcher(transport=BlockingTransport(hold=True))
    for _ in range(7):
        dispatcher.dispatch_event(log_event())
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "eventpost"):
        report = dispatcher.close(0.2)
    assert time.monotonic() - began < 0.7
    assert dict(report.dropped) == {"memory_at_exit": 7}
    assert report.closes
    assert "7 events dropped (memory_at_exit)" in caplog.text


def test_threads_may_close_at_once(transport: BlockingTransport) -> None:
    """Both get the last count."""
    dispatcher = EventDispatcher(transport=transport)
    for _ in range(20):
        dispatcher.dispatch_event(log_event())
    reports: list[Report] = []
    threads = [threading.Thread(target=lambda: reports.append(dispatcher.close(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [report.delivered for report in reports] == [20] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("closed", [False, True])
def test_a_forked_child_counts_from_zero(transport: BlockingTransport, *, closed: bool) -> None:
    """Accepted, refused, and what close() returns, also of a dispatcher that was closed before the fork."""
    dispatcher = EventDispatcher(transport=transport)
    assert dispatcher.dispatch_event(log_event())
    assert not dispatcher.dispatch_event(log_event(url="no url"))
    if closed:
        dispatcher.close(5)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            counts = [dispatcher.stats(), dispatcher.flush(0), dispatcher.close(0), dispatcher.close(0)]
            os.write(write, b"zero" if counts == [Report()] * 4 else str(counts).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(read, 9999).decode()
    os.close(read)
    os.close(write)
    assert said == "zero"
    report = dispatcher.close(5)
    assert (report.accepted, report.delivered, report.refused) == (1, 1, {"invalid": 1})


def test_an_observer_may_do_anything(transport: BlockingTransport, caplog: pytest.LogCaptureFixture) -> None:
    """It may raise, put, read the count, flush and close, on the sender's own thread: nothing is lost."""
    done = threading.Event()

    def observer(signal: Signal) -> None:
        if isinstance(signal, Refused) or done.is_set():
            return
        dispatcher.stats()
        dispatcher.flush(1)
        if not dispatcher.dispatch_event(log_event(params={"visitors": [2]})):
            return
        dispatcher.close(1)
        done.set()
        raise RuntimeError("an observer's mistake")

    dispatcher = EventDispatcher(transport=transport, observers=[observer])
    dispatcher.dispatch_event(log_event())
    assert done.wait(5)
    report = dispatcher.close(5)
    assert (report.accepted, report.delivered) == (2, 2)
    assert "an observer failed" in caplog.text


@pytest.mark.parametrize("mistake", [SystemExit(1), asyncio.CancelledError()])
def test_nothing_that_is_called_on_the_senders_thread_ends_it(
    transport: BlockingTransport, caplog: pytest.LogCaptureFixture, mistake: BaseException
) -> None:
    """An observer, or a listener to requests, that calls sys.exit: a thread would end without a word."""

    def fail(*_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise mistake

    answers = iter([Response(401), Response(503)])
    transport.answer = lambda _: next(answers, Response(204))
    policy = RetryPolicy(first_s=0.01, breaker_first_s=0.01, breaker_max_s=0.01)
    dispatcher = EventDispatcher(transport=transport, observers=[fail], retry=policy)
    dispatcher.on_request.append(fail)
    assert dispatcher.dispatch_event(log_event())
    deadline = time.monotonic() + 5
    while dispatcher.stats().delivered < 1 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert dispatcher.stats().delivered == 1
    assert dispatcher._thread._running
    assert "an observer failed" in caplog.text
    assert "a listener to requests failed" in caplog.text
    dispatcher.close(5)


def test_the_sender_goes_on_after_a_surprise(dispatcher: EventDispatcher, transport: BlockingTransport) -> None:
    """An exception inside a round costs a moment, not the thread."""
    wait, failures = transport.wait, iter([True])

    def broken(timeout_s: float) -> Any:
        if next(failures, False):
            raise RuntimeError("surprise")
        return wait(timeout_s)

    transport.wait = broken  # type: ignore[method-assign] # a transport with a mistake in it
    dispatcher.dispatch_event(log_event())
    assert dispatcher.flush(5).delivered == 1


def test_a_transport_may_be_anybodys_dispatcher() -> None:
    """An object with dispatch_event is put behind queue, batches and retries."""
    seen: list[Any] = []

    class Mine:
        def dispatch_event(self, event: Any) -> bool:
            seen.append(event)
            return True

    with EventDispatcher(transport=Mine()) as dispatcher:
        dispatcher.dispatch_event(log_event())
        assert dispatcher.flush(5).delivered == 1
    assert seen[0].params == PARAMS


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"queue": object()}, TypeError, "queue"),
        ({"queue": "/var/lib/events"}, TypeError, "JournalQueue"),
        ({"endpoint": "nowhere"}, ValueError, "URL"),
        ({"retry": 3}, TypeError, "retry"),
        ({"transport": object()}, TypeError, "dispatch_event"),
        ({"batch_events_max": 0}, ValueError, "batch_events_max"),
        ({"batch_events_max": 1.5}, TypeError, "batch_events_max"),
        ({"batch_bytes_max": 3_500_000}, ValueError, "batch_bytes_max"),
        ({"linger_s": -1}, ValueError, "linger_s"),
        ({"linger_s": float("nan")}, ValueError, "linger_s"),
        ({"linger_s": "1"}, TypeError, "linger_s"),
        ({"in_flight_max": 0}, ValueError, "in_flight_max"),
        ({"in_flight_bytes_max": 0}, ValueError, "in_flight_bytes_max"),
        ({"timeout_s": 0}, ValueError, "timeout_s"),
        ({"close_timeout_s": -1}, ValueError, "close_timeout_s"),
        ({"sender": "process"}, ValueError, "sender"),
        ({"sender": "none"}, ValueError, "JournalQueue"),
        ({"observers": [3]}, TypeError, "observer"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """The error names the argument."""
    with pytest.raises(kind, match=message):
        EventDispatcher(**options)


def test_flush_and_close_check_their_timeout(dispatcher: EventDispatcher) -> None:
    """A timeout is a number of seconds."""
    for wrong, kind in ((-1, ValueError), (float("nan"), ValueError), ("5", TypeError), (True, TypeError)):
        with pytest.raises(kind):
            dispatcher.flush(wrong)  # type: ignore[arg-type]


def test_the_environment_stands_in_for_what_is_not_passed(
    monkeypatch: pytest.MonkeyPatch, transport: BlockingTransport
) -> None:
    """What is passed wins, also where it equals the default."""
    monkeypatch.setenv("EVENTPOST_ENDPOINT", "http://127.0.0.1:8/")
    monkeypatch.setenv("EVENTPOST_BATCH_EVENTS_MAX", "7")
    with EventDispatcher(transport=transport) as dispatcher:
        assert dispatcher.endpoint == "http://127.0.0.1:8/"
        assert dispatcher._sender._limits.batch_events_max == 7
    with EventDispatcher(transport=transport, batch_events_max=100) as dispatcher:
        assert dispatcher._sender._limits.batch_events_max == 100
    for text in ("0", "many"):
        monkeypatch.setenv("EVENTPOST_BATCH_EVENTS_MAX", text)
        with pytest.raises(ValueError, match="EVENTPOST_BATCH_EVENTS_MAX"):
            EventDispatcher(transport=transport)


def test_every_setting_has_a_variable_and_a_meaning() -> None:
    """The table is what the documentation is made from."""
    of_the_queue = {f"queue_{name}" for name in ("password_file", *inspect.signature(SharedQueue).parameters)}
    for row in settings.SETTINGS.values():
        assert row.env == f"EVENTPOST_{row.name.upper()}"
        assert row.meaning
        assert row.name in {*inspect.signature(EventDispatcher).parameters, *of_the_queue}


class TestTestRuns:
    """Nothing goes to Optimizely from a test run."""

    @pytest.fixture
    def guarded(self, monkeypatch: pytest.MonkeyPatch, transport: BlockingTransport) -> Iterator[EventDispatcher]:
        """Give a dispatcher whose HTTP transport is replaced behind its back."""
        monkeypatch.setattr(settings, "build_transport", lambda: transport)
        dispatcher = EventDispatcher()
        yield dispatcher
        dispatcher.close(0)

    def test_events_for_optimizely_are_refused_and_it_is_said_once(
        self, guarded: EventDispatcher, transport: BlockingTransport, caplog: pytest.LogCaptureFixture
    ) -> None:
        """This is one: PYTEST_CURRENT_TEST is set."""
        for url in (OPTIMIZELY, "https://eu.logx.optimizely.com/v1/events", "https://LOGX.Optimizely.com./v1/events"):
            assert guarded.dispatch_event(log_event(url=url)) is False
        assert dict(guarded.stats().refused) == {"test_run": 3}
        assert transport.requests == []
        assert caplog.text.count("EVENTPOST_ALLOW_TEST_SENDS") == 1

    def test_other_hosts_are_not(self, guarded: EventDispatcher) -> None:
        """A collector, a relay, a host that only looks alike."""
        for url in (URL, "http://optimizely.com.example/", "http://notoptimizely.com/"):
            assert guarded.dispatch_event(log_event(url=url)) is True

    def test_it_can_be_lifted(self, guarded: EventDispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
        """And comes back: nothing is remembered while a test runner is loaded."""
        monkeypatch.setenv("EVENTPOST_ALLOW_TEST_SENDS", "1")
        assert guarded.dispatch_event(log_event(url=OPTIMIZELY)) is True
        monkeypatch.delenv("EVENTPOST_ALLOW_TEST_SENDS")
        assert guarded.dispatch_event(log_event(url=OPTIMIZELY)) is False

    @pytest.mark.parametrize("make", [curl_transport, PoolTransport])
    def test_our_http_is_guarded_also_if_it_is_handed_in(self, make: Any) -> None:
        """For its proxy or certificates, say."""
        dispatcher = EventDispatcher(transport=make(proxy="http://127.0.0.1:9"))
        assert dispatcher.dispatch_event(log_event(url=OPTIMIZELY)) is False
        assert dict(dispatcher.close(0).refused) == {"test_run": 1}

    @pytest.mark.parametrize("make", [curl_transport, PoolTransport])
    def test_what_lies_in_a_journal_already_is_kept(
        self, make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Stored by a process that was no test run, adopted by one that is: not sent, not lost, and said once."""
        stored = JournalQueue(tmp_path / "j")
        stored.put([Event(Envelope(OPTIMIZELY), b"{}"), Event(Envelope(OPTIMIZELY), b"[]")])
        stored.close()
        with socket.create_server(("127.0.0.1", 0)) as proxy:
            proxy.settimeout(0)
            transport = make(proxy=f"http://127.0.0.1:{proxy.getsockname()[1]}")
            policy = RetryPolicy(breaker_first_s=0.01, breaker_max_s=0.02)
            dispatcher = EventDispatcher(JournalQueue(tmp_path / "j"), transport=transport, retry=policy)
            dispatcher.start()
            report = dispatcher.flush(0.3)
            assert (report.adopted, report.queued + report.in_flight) == (2, 2)
            assert dispatcher.close(0).dropped == {}
            with pytest.raises(BlockingIOError):
                proxy.accept()
        assert caplog.text.count("EVENTPOST_ALLOW_TEST_SENDS") == 1
        later = JournalQueue(tmp_path / "j")
        later.scan()
        assert [bytes(lease.event.payload) for lease in later.claim(OPTIMIZELY, 9, 1 << 20)] == [b"{}", b"[]"]
        later.close()

    def test_where_it_really_goes_decides(self, transport: BlockingTransport, monkeypatch: pytest.MonkeyPatch) -> None:
        """With ``send_to``, also for the door."""
        monkeypatch.setattr(settings, "build_transport", lambda: transport)
        with EventDispatcher(send_to=URL) as dispatcher:
            assert dispatcher.dispatch_event(log_event(url=OPTIMIZELY)) is True
        assert [request.envelope.url for request in transport.requests] == [URL]
        with EventDispatcher(send_to=OPTIMIZELY) as dispatcher:
            assert dispatcher.dispatch_event(log_event(url=URL)) is False

    def test_ones_own_dispatcher_is_not_guarded(self, dispatcher: EventDispatcher) -> None:
        """What is not our HTTP sends nothing to Optimizely by itself."""
        assert dispatcher.dispatch_event(log_event(url=OPTIMIZELY)) is True

    def test_only_a_runner_or_the_variables_make_a_test_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Never that something is imported."""
        monkeypatch.delenv("PYTEST_CURRENT_TEST")
        monkeypatch.setattr(guard, "_test_runner", lambda: None)
        assert guard.evidence() is None
        monkeypatch.setenv("EVENTPOST_TEST_MODE", "1")
        assert guard.evidence() == "EVENTPOST_TEST_MODE=1"
        monkeypatch.setenv("EVENTPOST_TEST_MODE", "0")
        assert guard.evidence() is None


def test_a_queue_belongs_to_one_dispatcher(tmp_path: Path) -> None:
    """Two would count, and close, each other's events; two queues may share a folder."""
    for make in (MemoryQueue, lambda: JournalQueue(tmp_path / "j")):
        queue = make()
        first = EventDispatcher(queue, transport=BlockingTransport())
        with pytest.raises(ValueError, match="belongs to another dispatcher"):
            EventDispatcher(queue, transport=BlockingTransport())
        assert first.dispatch_event(log_event())
        assert first.close(5).delivered == 1
    with EventDispatcher(JournalQueue(tmp_path / "j")), EventDispatcher(JournalQueue(tmp_path / "j")):
        pass


def test_signals_name_where_it_really_goes() -> None:
    """With ``send_to``, what the queue knows it by would send a person to the wrong machine."""
    answers = iter([Response(401), *[Response(204)] * 9])
    heard: list[Any] = []
    elsewhere = "http://127.0.0.1:7/relay"
    policy = RetryPolicy(first_s=0.01, breaker_first_s=0.01, breaker_max_s=0.01)
    dispatcher = EventDispatcher(
        transport=BlockingTransport(lambda _: next(answers)), send_to=elsewhere, retry=policy, observers=[heard.append]
    )
    assert dispatcher.dispatch_event(log_event())
    assert dispatcher.close(5).delivered == 1
    told = [signal for signal in heard if hasattr(signal, "lane")]
    assert {type(one).__name__ for one in told} >= {"BreakerChanged", "Retrying", "Delivered"}
    assert {one.lane for one in told} == {elsewhere}


def test_repr_shows_the_sum_and_no_payload(dispatcher: EventDispatcher) -> None:
    """The words are the report's."""
    dispatcher.dispatch_event(log_event())
    dispatcher.flush(5)
    assert repr(dispatcher).startswith("EventDispatcher(accepted 1, delivered 1, queued 0")
    assert "secret" not in repr(dispatcher)


class Round(list[Any]):
    """What one wait returned; unlike a list it can be referred to weakly."""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="up to Python 3.10 a caller keeps what it has passed on")
def test_the_bodies_of_a_round_are_gone_before_the_next_ones_are_claimed() -> None:
    """Else a backlog is drained with twice the memory that ``in_flight_bytes_max`` says."""
    alive_at_start: list[bool] = []

    class Noting(BlockingTransport):
        last: Any = staticmethod(lambda: None)

        def start(self, request: Request) -> None:
            alive_at_start.append(self.last() is not None)
            super().start(request)

        def wait(self, timeout_s: float) -> Any:
            answers = super().wait(timeout_s)
            if not answers:
                return answers
            completions = Round(answers)
            self.last = weakref.ref(completions)
            return completions

    with EventDispatcher(transport=Noting(), in_flight_max=1) as dispatcher:
        for _ in range(20):
            dispatcher.dispatch_event(log_event())
        assert dispatcher.flush(5).delivered == 20
    assert alive_at_start == [False] * 20


def test_the_sender_is_woken_only_when_it_has_to_be() -> None:
    """A thousand visitors in a loop cost a handful of wake-ups, not a thousand."""
    transport = BlockingTransport()
    envelope = Envelope(URL, shared=True, prefix=b"[", suffix=b"]")
    with EventDispatcher(transport=transport) as dispatcher:
        for _ in range(1000):
            dispatcher.put_event(Event(envelope, b"1"), urgent=False)
        assert dispatcher.flush(5).delivered == 1000
        assert transport.wakes < 150


def test_a_lingering_visitor_goes_out_by_itself() -> None:
    """Nobody has to flush; a wake-up is not lost between two looks."""
    transport = BlockingTransport()
    envelope = Envelope(URL, shared=True, prefix=b"[", suffix=b"]")
    with EventDispatcher(transport=transport, linger_s=0.02) as dispatcher:
        for round_ in range(1, 15):
            dispatcher.put_event(Event(envelope, b"1"), urgent=False)
            deadline = time.monotonic() + 2
            while dispatcher.stats().delivered < round_ and time.monotonic() < deadline:
                time.sleep(0.002)
            assert dispatcher.stats().delivered == round_


def test_an_endpoint_that_fails_is_retried_in_the_background() -> None:
    """With the policy that was passed."""
    transport = BlockingTransport(script=[Response(503), TransportError("reset", "")])
    policy = RetryPolicy(first_s=0.01, max_s=0.02)
    with EventDispatcher(transport=transport, retry=policy, random=lambda: 0.0) as dispatcher:
        dispatcher.dispatch_event(log_event())
        assert dispatcher.flush(5).delivered == 1
    assert len(transport.requests) == 3
    assert len({request.body for request in transport.requests}) == 1
