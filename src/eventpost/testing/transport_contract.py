"""What every transport must do, as tests: subclass, say how one is made, and let pytest collect the subclass.

``TransportContract`` is the promise of the protocol; ``HttpTransportContract`` adds how answers, and what goes wrong on
the wire, come back from a transport that speaks HTTP itself.  Both talk to a real Collector.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ..event import Envelope
from ..transports.protocol import BODY_EXCERPT_BYTES_MAX, Completion, Request, Response, Transport, TransportError
from .collector import Collector, Reply

if TYPE_CHECKING:
    from typing_extensions import Self

BODY = b'{"account_id":"1","visitors":[]}'
SLACK_S = 0.5
"""How late a deadline may be noticed, in seconds."""


def request_to(url: str, *, body: bytes = BODY, token: object = None, timeout_s: float = 5.0, **parts: Any) -> Request:
    """Return a request of one event to ``url``; ``parts`` go to its Envelope."""
    return Request(Envelope(url, **parts), body, token, timeout_s)


def collect(transport: Transport, n: int, timeout_s: float = 10.0) -> list[Completion]:
    """Return the next ``n`` completions.  Raises AssertionError if they don't come in time."""
    until = time.monotonic() + timeout_s
    completions: list[Completion] = []
    while len(completions) < n:
        left_s = until - time.monotonic()
        if left_s <= 0:
            pytest.fail(f"{len(completions)} of {n} requests completed within {timeout_s} s: {completions}")
        completions += transport.wait(left_s)
    return completions


def outcome_of(transport: Transport, request: Request) -> Response | TransportError:
    """Send one request and return how it ended."""
    transport.start(request)
    (completion,) = collect(transport, 1, request.timeout_s + 5)
    assert completion.request is request
    return completion.outcome


def open_files() -> int:
    """Return how many descriptors this process has open (Linux)."""
    return len(os.listdir("/proc/self/fd"))


class TransportContract:
    """The promise of the Transport protocol."""

    def make_transport(self) -> Transport:
        """Return a new transport."""
        raise NotImplementedError

    @pytest.fixture
    def collector(self) -> Iterator[Collector]:
        """Return a listening Collector."""
        with Collector() as collector:
            yield collector

    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        """Return a transport of the kind under test."""
        transport = self.make_transport()
        yield transport
        transport.close(1.0)

    def test_satisfies_the_protocol(self, transport: Transport) -> None:
        """It has every method of the protocol."""
        assert isinstance(transport, Transport)

    def test_an_answer_comes_back_with_its_request(self, transport: Transport, collector: Collector) -> None:
        """A 2xx answer is a Response, with the very request, its token untouched, and the time it took."""
        token = object()
        request = request_to(collector.url, token=token)
        outcome = outcome_of(transport, request)
        assert isinstance(outcome, Response)
        assert outcome.status == 204
        assert 0 <= outcome.elapsed_s < 5
        assert request.token is token
        assert collector.requests[0].json() == {"account_id": "1", "visitors": []}

    def test_every_request_comes_back_exactly_once(self, transport: Transport, collector: Collector) -> None:
        """Of many requests, answered well, slowly or not at all, each comes back once and nothing else does."""
        replies = [Reply(), Reply(500), Reply(reset="after"), Reply(delay_s=0.01)]
        collector.answer = lambda request: replies[len(request.body) % len(replies)]
        requests = [request_to(collector.url, body=b'{"a":"%s"}' % (b"x" * n), token=n) for n in range(60)]
        for request in requests:
            transport.start(request)
        completions = collect(transport, len(requests))
        assert Counter(done.request.token for done in completions) == dict.fromkeys(range(60), 1)
        assert list(transport.wait(0.05)) == []

    def test_wait_returns_when_its_time_is_over(self, transport: Transport) -> None:
        """With nothing under way, wait sleeps for its timeout and returns nothing."""
        begun = time.monotonic()
        assert list(transport.wait(0.1)) == []
        assert 0.09 <= time.monotonic() - begun < 0.1 + SLACK_S

    def test_wake_ends_a_wait(self, transport: Transport, collector: Collector) -> None:
        """Woken from another thread, wait returns at once, with requests under way or without."""
        for hanging in (False, True):
            if hanging:
                collector.script([Reply(hang=True)])
                transport.start(request_to(collector.url))
            timer = threading.Timer(0.05, transport.wake)
            timer.start()
            begun = time.monotonic()
            assert list(transport.wait(5)) == []
            assert time.monotonic() - begun < 1
            timer.join()

    def test_wake_is_not_forgotten(self, transport: Transport) -> None:
        """A wake that comes before the wait ends that wait, and only that one."""
        transport.wake()
        transport.wake()
        begun = time.monotonic()
        assert list(transport.wait(5)) == []
        assert time.monotonic() - begun < 1
        assert list(transport.wait(0.05)) == []
        assert time.monotonic() - begun >= 0.05

    def test_wake_many_times_never_blocks(self, transport: Transport) -> None:
        """A hundred thousand wakes with nobody waiting do not block (a full pipe would)."""
        for _ in range(100_000):
            transport.wake()
        assert list(transport.wait(5)) == []

    def test_wake_in_a_signal_handler(self, transport: Transport) -> None:
        """A signal handler that interrupts the wait may wake it."""
        before = signal.signal(signal.SIGALRM, lambda *_: transport.wake())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            begun = time.monotonic()
            assert list(transport.wait(5)) == []
            assert time.monotonic() - begun < 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_start_does_not_wait(self, transport: Transport, collector: Collector) -> None:
        """Start returns at once, also when nothing answers."""
        collector.answer = lambda _: Reply(hang=True)
        begun = time.monotonic()
        for n in range(20):
            transport.start(request_to(collector.url, token=n, timeout_s=30))
        assert time.monotonic() - begun < SLACK_S

    def test_a_hanging_endpoint_ends_at_the_timeout(self, transport: Transport, collector: Collector) -> None:
        """No answer within timeout_s is a TransportError of the kind "timeout", at that time."""
        collector.script([Reply(hang=True)])
        begun = time.monotonic()
        outcome = outcome_of(transport, request_to(collector.url, timeout_s=0.3))
        assert isinstance(outcome, TransportError)
        assert outcome.kind == "timeout"
        assert 0.25 <= time.monotonic() - begun < 0.3 + SLACK_S

    def test_works_on_after_a_timeout(self, transport: Transport, collector: Collector) -> None:
        """After several requests that hang, the next one is answered."""
        for _ in range(3):
            collector.script([Reply(hang=True)])
            assert isinstance(outcome_of(transport, request_to(collector.url, timeout_s=0.1)), TransportError)
        outcome = outcome_of(transport, request_to(collector.url))
        assert isinstance(outcome, Response)
        assert outcome.status == 204

    def test_close_abandons_what_is_under_way(self, transport: Transport, collector: Collector) -> None:
        """Close against an endpoint that hangs returns in time; what was under way comes back as "closed", once."""
        collector.answer = lambda _: Reply(hang=True)
        for n in range(5):
            transport.start(request_to(collector.url, token=n, timeout_s=60))
        transport.wait(0.1)
        begun = time.monotonic()
        transport.close(0.2)
        assert time.monotonic() - begun < 0.2 + SLACK_S
        completions = transport.wait(0)
        assert sorted(done.request.token for done in completions) == [0, 1, 2, 3, 4]
        assert {kind_of(done) for done in completions} == {"closed"}

    def test_close_twice_and_start_after(self, transport: Transport, collector: Collector) -> None:
        """Closing again changes nothing; a request started afterwards comes back as "closed"."""
        transport.close(0.1)
        transport.close(0.1)
        transport.wake()
        transport.start(request_to(collector.url))
        (completion,) = transport.wait(1)
        assert kind_of(completion) == "closed"
        assert collector.requests_total == 0

    def test_opens_nothing_before_the_first_start(self) -> None:
        """Making and closing a transport starts no thread and opens no file."""
        files, threads = open_files(), threading.active_count()
        transport = self.make_transport()
        assert (open_files(), threading.active_count()) == (files, threads)
        transport.close(0)
        assert (open_files(), threading.active_count()) == (files, threads)

    def test_the_child_of_a_fork_starts_afresh(self, transport: Transport, collector: Collector) -> None:
        """After a fork parent and child each get the answers to their own requests, and none of the other's."""
        assert isinstance(outcome_of(transport, request_to(collector.url, token=-1)), Response)
        collector.script([Reply(delay_s=0.3)])
        transport.start(request_to(collector.url, token=1))
        transport.wait(0.05)

        def child() -> bool:
            transport.after_fork_in_child()
            transport.start(request_to(collector.url, token=2))
            return [done.request.token for done in collect(transport, 1)] == [2] and not transport.wait(0.5)

        assert in_child(child)
        (completion,) = collect(transport, 1)
        assert completion.request.token == 1
        assert isinstance(completion.outcome, Response)

    def test_nothing_secret_in_messages(self, transport: Transport) -> None:
        """A message about a fault names neither the payload nor the URL's password or query."""
        port = free_port()
        url = f"http://user:hunter2@127.0.0.1:{port}/v1/events?token=s3cret"
        outcome = outcome_of(transport, request_to(url, body=b'{"visitor_id":"alice"}', timeout_s=2))
        assert isinstance(outcome, TransportError)
        for secret in ("hunter2", "s3cret", "alice"):
            assert secret not in outcome.message


class HttpTransportContract(TransportContract):
    """What a transport that speaks HTTP makes of answers, and of what goes wrong on the wire."""

    def test_what_is_sent(self, transport: Transport, collector: Collector) -> None:
        """The body arrives byte for byte, with the envelope's headers, our User-Agent and no Expect."""
        body = b'{"a":"' + bytes(range(128, 256)) * 9000 + b'"}'
        headers = (("Content-Type", "application/json"), ("X-Optimizely-Strict", "true"), ("X-Empty", ""))
        assert status_of(outcome_of(transport, request_to(collector.url, body=body, headers=headers))) == 204
        (request,) = collector.requests
        assert request.body == body
        assert (request.method, request.path) == ("POST", "/v1/events")
        assert request.headers["content-type"] == "application/json"
        assert request.headers["x-optimizely-strict"] == "true"
        assert request.headers["x-empty"] == ""
        assert request.headers["user-agent"].startswith("eventpost/")
        assert request.headers["content-length"] == str(len(body))
        assert "expect" not in request.headers

    def test_verbs_take_turns(self, transport: Transport, collector: Collector) -> None:
        """A GET carries its body as the query, joined to one that is there; a POST after it is a POST again."""
        for url, body, verb in (
            (collector.url, b"{}", "POST"),
            (collector.url, b"a=1&b=%20", "GET"),
            (collector.url + "?x=y", b"a=1", "GET"),
            (collector.url + "#part", b"", "POST"),
            (collector.url, b"{}", "PUT"),
            (collector.url, b"{}", "POST"),
        ):
            assert status_of(outcome_of(transport, request_to(url, body=body, verb=verb))) == 204
        seen = [(request.method, request.path, request.body) for request in collector.requests]
        assert seen == [
            ("POST", "/v1/events", b"{}"),
            ("GET", "/v1/events?a=1&b=%20", b""),
            ("GET", "/v1/events?x=y&a=1", b""),
            ("POST", "/v1/events", b""),
            ("PUT", "/v1/events", b"{}"),
            ("POST", "/v1/events", b"{}"),
        ]

    def test_framing_belongs_to_the_transport(self, transport: Transport, collector: Collector) -> None:
        """An event's own Content-Length, Transfer-Encoding and Expect can't contradict what is sent."""
        headers = (("Content-Length", "1"), ("Transfer-Encoding", "chunked"), ("Expect", "100-continue"))
        assert status_of(outcome_of(transport, request_to(collector.url, headers=headers))) == 204
        assert collector.requests[0].body == BODY
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204

    @pytest.mark.parametrize(
        "headers",
        [(("X-Bad", "a\r\nX-Smuggled: 1"),), (("X Bad", "a"),), (("X-Bad", "a\0b"),), (("X-Bad", "\u20ac"),)],
    )
    def test_headers_that_cannot_be_sent(
        self, transport: Transport, collector: Collector, headers: tuple[tuple[str, str], ...]
    ) -> None:
        """A header with a line break, NUL or a foreign letter ends its own request, unsent, and no other."""
        assert kind(outcome_of(transport, request_to(collector.url, headers=headers))) == "other"
        assert collector.requests_total == 0
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204

    @pytest.mark.parametrize(
        "url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "nonsense", "http://127.0.0.1:99999/"]
    )
    def test_urls_that_cannot_be_asked(self, transport: Transport, url: str) -> None:
        """Only http and https are spoken; anything else is a TransportError and never an exception."""
        assert kind(outcome_of(transport, request_to(url, timeout_s=2))) == "other"

    @pytest.mark.parametrize("status", [200, 202, 204, 301, 302, 307, 308, 400, 401, 404, 413, 429, 500, 503])
    def test_statuses_are_handed_on(self, transport: Transport, collector: Collector, status: int) -> None:
        """Every status is a Response with its body; a redirect is not followed."""
        body = b"" if status == 204 else b"words"
        collector.script([Reply(status, headers={"Location": collector.url}, body=body)])
        outcome = outcome_of(transport, request_to(collector.url))
        assert isinstance(outcome, Response)
        assert (outcome.status, outcome.body) == (status, body)
        assert collector.requests_total == 1

    def test_retry_after(self, transport: Transport, collector: Collector) -> None:
        """Retry-After comes back as seconds or as a date; an answer without one has none, also after one that had."""
        collector.script([Reply(503, retry_after=120), Reply(503), Reply(429, retry_after_date_s=90)])
        first, second, third = (outcome_of(transport, request_to(collector.url)) for _ in range(3))
        assert isinstance(first, Response)
        assert first.retry_after == "120"
        assert isinstance(second, Response)
        assert second.retry_after is None
        assert isinstance(third, Response)
        assert third.retry_after is not None
        assert third.retry_after.endswith("GMT") or 85 <= int(third.retry_after) <= 91

    def test_nonsense_in_retry_after(self, transport: Transport, collector: Collector) -> None:
        """A Retry-After that is neither does no harm."""
        collector.script([Reply(503, retry_after="soon"), Reply(503, retry_after="-5")])
        for _ in range(2):
            assert status_of(outcome_of(transport, request_to(collector.url))) == 503

    def test_connections_are_kept(self, transport: Transport, collector: Collector) -> None:
        """Requests one after the other share a connection."""
        for _ in range(5):
            assert status_of(outcome_of(transport, request_to(collector.url))) == 204
        assert collector.connections_total == 1

    def test_refused(self, transport: Transport) -> None:
        """Nobody listening is kind "connect", and a name that does not exist is kind "dns"."""
        assert kind(outcome_of(transport, request_to(f"http://127.0.0.1:{free_port()}/"))) == "connect"

    @pytest.mark.parametrize("when", ["before", "during", "after"])
    def test_reset(self, collector: Collector, when: Any) -> None:
        """A connection that is reset before, during or after the answer is kind "reset", and the next one works."""
        for reply in (Reply(204, reset=when), Reply(200, body=b"x" * 2000, reset=when)):
            transport = self.make_transport()  # on a kept connection a transport may repeat the request by itself
            collector.script([reply])
            assert kind(outcome_of(transport, request_to(collector.url))) == "reset"
            assert status_of(outcome_of(transport, request_to(collector.url))) == 204
            transport.close(0)

    def test_kept_connection_closed_at_the_worst_moment(self, transport: Transport, collector: Collector) -> None:
        """An endpoint that drops kept connections, announced or not, costs at most a "reset", never a wrong answer."""
        collector.answer = lambda request: Reply(
            200, body=request.body, close=True, announce_close=b"announce" in request.body
        )
        good = 0
        for n in range(30):
            body = b'{"n":%d%s}' % (n, b',"announce":1' if n % 3 == 0 else b"")
            outcome = outcome_of(transport, request_to(collector.url, body=body))
            if isinstance(outcome, Response):
                assert outcome.body == body
                good += 1
            else:
                assert outcome.kind == "reset"
            if n % 5 == 0:
                collector.reset_connections()
        assert good >= 20

    def test_interim_answers_are_skipped(self, transport: Transport, collector: Collector) -> None:
        """1xx answers are not the answer, and the next request on the connection gets its own."""
        collector.script([Reply(503, interim=(100, 102, 103)), Reply(204, interim=(103,))])
        assert status_of(outcome_of(transport, request_to(collector.url))) == 503
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204
        assert collector.requests_total == 3

    def test_a_drip_does_not_outlast_the_timeout(self, transport: Transport, collector: Collector) -> None:
        """An answer that comes byte by byte, head or body, ends at timeout_s."""
        head_drip = Reply(204, drip_s=0.05)
        body_drip = Reply(200, body=b"x" * 1000, drip_s=0.002)
        for reply in (head_drip, body_drip):
            collector.script([reply])
            begun = time.monotonic()
            assert kind(outcome_of(transport, request_to(collector.url, timeout_s=0.4))) == "timeout"
            assert time.monotonic() - begun < 0.4 + SLACK_S

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x00\xff\xfe" * 50 + b"\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/9.9 204 No\r\n\r\n",
            b"HTTP/1.1 \r\n\r\n",
        ],
    )
    def test_garbage(self, transport: Transport, collector: Collector, garbage: bytes) -> None:
        """Bytes that are not HTTP are no answer."""
        collector.script([Reply(garbage=garbage)])
        assert kind(outcome_of(transport, request_to(collector.url))) in ("protocol", "reset")
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204

    def test_headers_without_end(self, transport: Transport, collector: Collector) -> None:
        """An answer whose headers never end is given up, long before the timeout."""
        collector.script([Reply(garbage=b"HTTP/1.1 204 No\r\n" + b"X-More: 1234567890\r\n" * 100_000)])
        assert kind(outcome_of(transport, request_to(collector.url))) in ("protocol", "reset")

    def test_a_body_cut_short(self, transport: Transport, collector: Collector) -> None:
        """A 200 whose body ends early is no answer; a refusal is one by its status line."""
        collector.script([Reply(200, body=b"abc", content_length=10, close=True)])
        assert kind(outcome_of(transport, request_to(collector.url))) == "reset"
        collector.script([Reply(400, body=b"abc", content_length=10, close=True)])
        outcome = outcome_of(transport, request_to(collector.url))
        assert isinstance(outcome, Response)
        assert (outcome.status, outcome.body) == (400, b"abc")

    def test_a_body_longer_than_announced(self, transport: Transport, collector: Collector) -> None:
        """Bytes beyond the announced length are not taken for the next answer."""
        collector.script([Reply(503, body=b"HTTP/1.1 204 No Content\r\n\r\n" * 3, content_length=4)])
        assert status_of(outcome_of(transport, request_to(collector.url))) == 503
        collector.script([Reply(500)])
        assert status_of(outcome_of(transport, request_to(collector.url))) == 500

    def test_a_204_with_a_body(self, transport: Transport, collector: Collector) -> None:
        """A body behind a 204, which has none by definition, is not taken for the next answer."""
        collector.script([Reply(garbage=b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")])
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204
        collector.script([Reply(500)])
        outcome = outcome_of(transport, request_to(collector.url))
        assert kind(outcome) in ("Response(500)", "reset")  # the collector ends a connection behind garbage

    def test_a_gigantic_answer(self, transport: Transport, collector: Collector) -> None:
        """An answer of many megabytes is cut off; its status counts, and an excerpt of the body is kept."""
        collector.script([Reply(500, body=b"x" * 50_000_000)])
        begun = time.monotonic()
        outcome = outcome_of(transport, request_to(collector.url))
        assert isinstance(outcome, Response)
        assert (outcome.status, len(outcome.body)) == (500, BODY_EXCERPT_BYTES_MAX)
        assert time.monotonic() - begun < 3
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204

    def test_an_early_refusal_of_a_large_body(self, transport: Transport) -> None:
        """An endpoint that answers 413 and hangs up before it has read the body is a 413, or at worst no answer."""
        with OneShotServer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as server:
            outcome = outcome_of(transport, request_to(server.url, body=b"x" * 3_000_000))
        assert status_of(outcome) == 413 if isinstance(outcome, Response) else outcome.kind == "reset"

    def test_one_slow_endpoint_does_not_hold_up_another(self, transport: Transport, collector: Collector) -> None:
        """While requests to one endpoint hang, another one's are answered."""
        with Collector(lambda _: Reply(hang=True)) as hanging:
            for n in range(4):
                transport.start(request_to(hanging.url, token=n, timeout_s=20))
            begun = time.monotonic()
            transport.start(request_to(collector.url, token=99))
            (completion,) = collect(transport, 1)
            assert completion.request.token == 99
            assert time.monotonic() - begun < 1


# -- helpers ---------------------------------------------------------------------------------------------------------


def kind(outcome: Response | TransportError) -> str:
    """Return a fault's kind, or ``Response(<status>)``."""
    return outcome.kind if isinstance(outcome, TransportError) else f"Response({outcome.status})"


def kind_of(completion: Completion) -> str:
    """Return the kind of a completion's fault."""
    return kind(completion.outcome)


def status_of(outcome: Response | TransportError) -> int | str:
    """Return an answer's status, or what the fault was."""
    return outcome.status if isinstance(outcome, Response) else f"{outcome.kind}: {outcome.message}"


def free_port() -> int:
    """Return a port on 127.0.0.1 where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def in_child(work: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Run ``work`` in a forked child; return whether it returned True in time.  The child skips the tests' clean-up."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


class OneShotServer:
    """Answers each connection's first bytes with fixed ones and hangs up, without reading the rest."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1/events"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1000)
                connection.sendall(self._answer)
                connection.shutdown(socket.SHUT_WR)
                time.sleep(0.05)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()
