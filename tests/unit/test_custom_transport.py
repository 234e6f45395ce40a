"""Somebody else's dispatcher behind the Transport protocol."""

import threading
import time
from typing import Any

import optimizely.event_dispatcher
import pytest

from eventpost import EventDispatcher, RetryPolicy
from eventpost.event import Envelope, LogEvent
from eventpost.testing import Collector, RecordingTransport
from eventpost.testing.transport_contract import collect, kind, outcome_of, request_to, status_of
from eventpost.transports import threads
from eventpost.transports.custom import CustomTransport, as_transport
from eventpost.transports.protocol import Request, TransportError

URL = "http://127.0.0.1:1/v1/events"


class Calling:
    """A dispatcher that calls a function."""

    def __init__(self, work: Any) -> None:
        self.work = work
        self.threads: list[int] = []

    def dispatch_event(self, event: Any) -> Any:
        """Call it."""
        self.threads.append(threading.get_ident())
        return self.work(event)


@pytest.mark.parametrize("answer", [None, True, 0, "", [], (False, "no"), 204])
def test_everything_but_false_is_delivered(answer: Any) -> None:
    """None, which the SDK's own protocol returns, and everything else but False mean delivered."""
    transport = CustomTransport(Calling(lambda _: answer))
    assert status_of(outcome_of(transport, request_to(URL))) == 204
    transport.close(0)


def test_false_and_exceptions_are_later() -> None:
    """False and any exception, SystemExit too, are kind "dispatcher"; the message names no event and no value."""

    def fail(error: BaseException) -> Any:
        raise error

    for work in (lambda _: False, lambda _: fail(ValueError("alice")), lambda _: fail(SystemExit(1))):
        transport = CustomTransport(Calling(work))
        outcome = outcome_of(transport, request_to(URL))
        assert isinstance(outcome, TransportError)
        assert outcome.kind == "dispatcher"
        assert "alice" not in outcome.message
        assert kind(outcome_of(transport, request_to(URL))) == "dispatcher"
        transport.close(0)


def test_it_is_handed_a_log_event() -> None:
    """The dispatcher gets a LogEvent with URL, verb, headers and params as a dict; nothing of them is left out."""
    got: list[Any] = []
    transport = CustomTransport(Calling(got.append))
    headers = (("Content-Type", "application/json"), ("X-A", "b"))
    body = b'{"account_id":"1","n":123456789012345678901234567890,"f":1.5}'
    assert status_of(outcome_of(transport, request_to(URL, body=body, headers=headers))) == 204
    assert status_of(outcome_of(transport, request_to(URL, body=b"a=1&b=&c=%20x&d=2&d=1", verb="GET"))) == 204
    transport.close(0)
    assert got == [
        LogEvent(URL, {"account_id": "1", "n": 123456789012345678901234567890, "f": 1.5}, "POST", dict(headers)),
        LogEvent(URL, {"a": "1", "b": "", "c": " x", "d": ["2", "1"]}, "GET", {"Content-Type": "application/json"}),
    ]


@pytest.mark.parametrize("body", [b"no json", b"[1]", b"\xff"])
def test_a_body_that_is_no_object(body: bytes) -> None:
    """What is no JSON object is never handed over, and says so without showing it."""
    got: list[Any] = []
    transport = CustomTransport(Calling(got.append))
    assert kind(outcome_of(transport, request_to(URL, body=body))) == "other"
    assert got == []
    transport.close(0)


def test_a_thread_of_its_own() -> None:
    """Events are handed over one after the other on one thread, which is not the caller's."""
    dispatcher = Calling(lambda _: time.sleep(0.001))
    transport = CustomTransport(dispatcher)
    for n in range(20):
        transport.start(request_to(URL, token=n))
    assert [done.request.token for done in collect(transport, 20)] == list(range(20))
    assert len(set(dispatcher.threads)) == 1
    assert threading.get_ident() not in dispatcher.threads
    transport.close(0)


def test_its_thread_is_there_when_none_can_be_started_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made ready, stays while there is nothing to do, and ends with the transport."""
    monkeypatch.setattr(threads, "IDLE_S", 0.05)
    dispatcher = Calling(lambda _: True)
    transport = CustomTransport(dispatcher)
    transport.make_ready()
    transport.make_ready()
    monkeypatch.setattr(threads, "start_new_thread", none_any_more)
    for _ in range(2):
        time.sleep(0.2)
        assert status_of(outcome_of(transport, request_to(URL))) == 204
    assert len(set(dispatcher.threads)) == len(transport._workers) == 1
    transport.close(0)
    give_up_at = time.monotonic() + 5
    while transport._workers:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def none_any_more(*_: Any) -> None:
    """Refuse, as Python 3.12 does once the main thread is through."""
    raise RuntimeError("can't create new thread at interpreter shutdown")


def test_the_first_event_makes_it_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the thread that hands the event in: the sender's may come to it when it is too late for starting one."""
    main, start = threading.get_ident(), threads.start_new_thread
    monkeypatch.setattr(
        threads, "start_new_thread", lambda *work: start(*work) if threading.get_ident() == main else none_any_more()
    )
    with EventDispatcher(transport=Calling(lambda _: True)) as dispatcher:
        assert dispatcher.dispatch_event(LogEvent(URL, {}))
        assert dispatcher.flush(5).delivered == 1


def test_a_dispatcher_that_hangs() -> None:
    """A call that hangs times out, the next event is handed to another thread, and the late answer is ignored."""
    release = threading.Event()
    dispatcher = Calling(lambda event: release.wait(10) if "slow" in event.params else True)
    transport = CustomTransport(dispatcher)
    assert kind(outcome_of(transport, request_to(URL, body=b'{"slow":1}', timeout_s=0.1))) == "timeout"
    assert status_of(outcome_of(transport, request_to(URL))) == 204
    assert len(set(dispatcher.threads)) == 2
    release.set()
    assert list(transport.wait(0.1)) == []
    assert status_of(outcome_of(transport, request_to(URL))) == 204
    transport.close(0)


def test_what_was_not_begun_in_time_is_never_handed_over() -> None:
    """An event that waited behind a slow one until its time was over goes back unseen."""
    got: list[Any] = []
    release = threading.Event()

    def work(event: Any) -> None:
        got.append(event.params)
        release.wait(10)

    transport = CustomTransport(Calling(work))
    transport.start(request_to(URL, body=b'{"n":1}', token=1, timeout_s=5))
    transport.start(request_to(URL, body=b'{"n":2}', token=2, timeout_s=0.1))
    (completion,) = collect(transport, 1)
    assert completion.request.token == 2
    assert kind(completion.outcome) == "timeout"
    release.set()
    assert [done.request.token for done in collect(transport, 1)] == [1]
    assert list(transport.wait(0.05)) == []
    assert got == [{"n": 1}]
    transport.close(0)


def test_coroutines_are_not_taken_for_a_yes() -> None:
    """A dispatcher that returns a coroutine has done nothing yet; it is told so, early where that can be seen."""

    async def nothing(_: Any) -> None: ...

    class Async:
        async def dispatch_event(self, event: Any) -> None: ...

    with pytest.raises(TypeError, match="coroutine"):
        as_transport(Async())
    transport = CustomTransport(Calling(nothing))
    assert kind(outcome_of(transport, request_to(URL))) == "dispatcher"
    transport.close(0)


@pytest.mark.parametrize("obj", [None, object(), "x", 1, Calling])
def test_what_is_no_dispatcher(obj: Any) -> None:
    """Anything else is a TypeError that says what is expected, also a class whose method needs an instance."""
    with pytest.raises(TypeError, match="dispatch_event"):
        as_transport(obj)


def test_a_transport_stays_itself() -> None:
    """A Transport is not wrapped."""
    transport = RecordingTransport()
    assert as_transport(transport) is transport


@pytest.mark.parametrize(
    "dispatcher", [optimizely.event_dispatcher.EventDispatcher, optimizely.event_dispatcher.EventDispatcher()]
)
def test_the_sdks_own(dispatcher: Any) -> None:
    """The SDK's own dispatcher, as a class or an instance, sends the event."""
    with Collector() as collector:
        transport = as_transport(dispatcher)
        body = b'{"account_id":"1","visitors":[{"snapshots":[{"events":[{"uuid":"u-1"}]}]}]}'
        outcome = outcome_of(transport, Request(Envelope(collector.url), body, None, 5.0))
        assert status_of(outcome) == 204
        assert dict(collector.uuids) == {"u-1": 1}
        assert collector.requests[0].headers["content-type"] == "application/json"
        transport.close(0)


@pytest.mark.parametrize("merge", [False, True], ids=["alone", "in batches"])
def test_an_event_that_makes_it_hang_for_ever_never_holds_up_the_rest(merge: bool) -> None:
    """The hung calls stay few, whatever company the event is in, and the others are delivered."""
    release = threading.Event()
    got: set[int] = set()  # a slow machine lets some arrive twice

    def work(event: Any) -> None:
        numbers = [visitor["n"] for visitor in event.params["visitors"]]
        if 7 in numbers:
            release.wait(60)
        else:
            got.update(numbers)

    policy = RetryPolicy(first_s=0.01, max_s=0.02, breaker_first_s=0.01, breaker_max_s=0.02)
    dispatcher = EventDispatcher(
        transport=Calling(work), retry=policy, timeout_s=0.05, linger_s=0.01, merge_log_events=merge
    )
    try:
        for n in range(400):
            assert dispatcher.dispatch_event(LogEvent(URL, {"visitors": [{"n": n}]}))
            if n >= 300:
                time.sleep(0.005)
        deadline = time.monotonic() + 20
        while len(got) < 399 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert got == {n for n in range(400) if n != 7}
        time.sleep(0.3)  # it is tried again and again
        assert dispatcher.dispatch_event(LogEvent(URL, {"visitors": [{"n": 1000}]}))
        while 1000 not in got and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 1000 in got
    finally:
        release.set()
        dispatcher.close(2)
