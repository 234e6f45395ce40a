"""The parts that transports share: what is sent, what faults mean, threads, and life under gevent."""

import subprocess
import sys
import threading
import time

import pytest

from eventpost.event import Envelope
from eventpost.testing import Collector
from eventpost.testing.transport_contract import collect, kind, outcome_of, request_to, status_of
from eventpost.transports.curl_faults import fault, is_believed, is_lookup_timeout
from eventpost.transports.outgoing import UnfitRequestError, outgoing_headers, target
from eventpost.transports.pool import PoolTransport
from eventpost.transports.protocol import Request, Response, TransportError
from eventpost.transports.threads import Job, ThreadedTransport, Worker
from support import curl_transport


@pytest.mark.parametrize(
    ("url", "verb", "body", "asked"),
    [
        ("https://a/v1/events", "POST", b"{}", "https://a/v1/events"),
        ("https://a/v1/events#f", "POST", b"{}", "https://a/v1/events"),
        ("https://a/p", "GET", b"x=1", "https://a/p?x=1"),
        ("https://a/p?q=2", "GET", b"x=1", "https://a/p?q=2&x=1"),
        ("https://a/p#f", "GET", b"x=1", "https://a/p?x=1"),
        ("https://a/p", "GET", b"", "https://a/p"),
        ("HTTP://a/p", "POST", b"", "HTTP://a/p"),
    ],
)
def test_target(url: str, verb: str, body: bytes, asked: str) -> None:
    """A GET's body is its query; fragments are not sent."""
    assert target(Envelope(url, verb), body) == asked


@pytest.mark.parametrize("url", ["ftp://a/", "a/b", "", "httpx://a", "javascript:alert(1)"])
def test_target_refuses(url: str) -> None:
    """What is neither http nor https is not asked."""
    with pytest.raises(UnfitRequestError):
        target(Envelope(url), b"")


def test_a_query_that_is_not_ascii() -> None:
    """A query string that is not ASCII can't be sent."""
    with pytest.raises(UnfitRequestError):
        target(Envelope("http://a/", "GET"), "x=\u00e9".encode())


def test_headers() -> None:
    """Framing headers are left out whatever their case, a User-Agent of one's own stays, values are trimmed."""
    kept = outgoing_headers((("CONTENT-length", "3"), ("User-Agent", "mine"), ("X-A", "  b \t"), ("X-E", "")))
    assert kept == (("User-Agent", "mine"), ("X-A", "b"), ("X-E", ""))


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (6, "Could not resolve host: x", "dns"),
        (7, "Failed to connect", "connect"),
        (28, "Operation timed out", "timeout"),
        (35, "TLS connect error", "connect"),
        (35, "tlsv1 alert unknown ca", "tls"),
        (56, "tlsv13 alert certificate required", "tls"),
        (56, "Recv failure: Connection reset by peer", "reset"),
        (56, "CONNECT tunnel failed, response 407", "connect"),
        (60, "SSL certificate problem: unable to get local issuer certificate", "tls"),
        (77, "error setting certificate file", "tls"),
        (58, "could not load PEM client certificate", "tls"),
        (52, "Empty reply from server", "reset"),
        (1, "Received HTTP/0.9 when not allowed", "protocol"),
        (4711, "of the future", "other"),
    ],
)
def test_libcurl_faults(code: int, message: str, expected: str) -> None:
    """Each of libcurl's errors has a kind; a failed check carries the remedy, our own certificate's fault does not."""
    kind_, text = fault(code, message, "REMEDY")
    assert kind_ == expected
    assert message in text
    assert ("REMEDY" in text) == (code in (60, 77))


@pytest.mark.parametrize(
    ("code", "status", "believed"),
    [
        (0, 204, True),
        (0, 0, False),
        (18, 200, False),
        (18, 400, True),
        (56, 413, True),
        (55, 413, True),
        (56, 204, False),
        (28, 503, False),
    ],
)
def test_when_an_answer_is_believed(code: int, status: int, believed: bool) -> None:
    """A whole answer counts; one that was cut short only if it is a refusal."""
    assert is_believed(code, status) is believed


def test_lookup_timeouts() -> None:
    """Time that ran out in the lookup is told apart."""
    assert is_lookup_timeout(28, "Resolving timed out after 500 milliseconds")
    assert not is_lookup_timeout(28, "Operation timed out")


class Sleeper(ThreadedTransport):
    """Attempts that last as many milliseconds as their body says."""

    def _attempt(self, request: Request, job: Job, worker: Worker) -> Response | TransportError:
        del job, worker
        time.sleep(int(request.body) / 1000)
        return Response(204)

    def _interrupt(self, worker: Worker) -> None:
        """Do nothing: they can't be interrupted."""

    def _leave(self, worker: Worker) -> None:
        """Hold nothing."""


def test_answers_that_race_their_deadline() -> None:
    """However answers and deadlines fall together, each request ends exactly once."""
    transport = Sleeper(threads_max=4, stuck_max=50)
    for n in range(100):
        transport.start(request_to("http://x/", body=b"%d" % (n % 8), token=n, timeout_s=0.003 + n % 3 * 0.01))
    completions = collect(transport, 100)
    assert sorted(done.request.token for done in completions) == list(range(100))
    assert {kind(done.outcome) for done in completions} == {"timeout", "Response(204)"}
    assert list(transport.wait(0.05)) == []
    assert "in_flight=0" in repr(transport)
    transport.close(0)


def test_ended_requests_are_let_go() -> None:
    """While one request hangs, those that have ended keep no body in memory."""
    transport = Sleeper(threads_max=2, stuck_max=1)
    transport.start(request_to("http://x/", body=b"300", timeout_s=5))
    body = b"0" * 1000
    before = sys.getrefcount(body)
    for _ in range(20):
        assert status_of(outcome_of(transport, request_to("http://x/", body=body))) == 204
    assert sys.getrefcount(body) == before
    transport.close(0)


def test_no_thread_and_nothing_bounded() -> None:
    """Where no thread can be started and an attempt may last for ever, the request comes back at once."""
    transport = Sleeper(threads_max=1, stuck_max=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eventpost.transports.threads.start_new_thread", raise_runtime_error)
        assert kind(outcome_of(transport, request_to("http://x/", body=b"1"))) == "other"
    assert status_of(outcome_of(transport, request_to("http://x/", body=b"1"))) == 204
    transport.close(0)


def raise_runtime_error(*_: object) -> int:
    """Fail as the interpreter does when it ends."""
    msg = "can't create new thread at interpreter shutdown"
    raise RuntimeError(msg)


@pytest.mark.parametrize(("threads_max", "stuck_max"), [(0, 1), (1, -1)])
def test_bounds(threads_max: int, stuck_max: int) -> None:
    """Bounds that make no sense are told."""
    with pytest.raises(ValueError, match="threads_max"):
        Sleeper(threads_max, stuck_max)
    with pytest.raises(ValueError, match="threads_max"):
        PoolTransport(threads_max=0)


def test_threads_do_not_show() -> None:
    """The threads are none that the interpreter would wait for."""
    transport = Sleeper(threads_max=2, stuck_max=1)
    assert status_of(outcome_of(transport, request_to("http://x/", body=b"0"))) == 204
    assert all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate())
    transport.close(0)


GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import sys, time, gevent
from eventpost.sender.primitives import start_new_thread
from eventpost.testing.transport_contract import request_to
if sys.argv[2] == "curl":
    from eventpost.transports.curl import CurlTransport as Transport
else:
    from eventpost.transports.pool import PoolTransport as Transport

got, slept, transport = [], [], Transport()

def run():
    for n in range(20):
        transport.start(request_to(sys.argv[1], token=n))
    while len(got) < 20:
        got.extend(done.outcome.status for done in transport.wait(5))
    begun = time.monotonic()
    transport.wait(20)
    slept.append(time.monotonic() - begun)

start_new_thread(run, ())
until, ticks = time.monotonic() + 10, 0
while len(got) < 20 and time.monotonic() < until:
    gevent.sleep(0.01)
for _ in range(30):  # the hub goes round while the sender's thread waits
    gevent.sleep(0.01)
    ticks += 1
transport.wake()
while not slept and time.monotonic() < until:
    gevent.sleep(0.01)
assert got == [204] * 20, got
assert slept and slept[0] < 5, slept
transport.close(0)
"""


@pytest.mark.parametrize("transport", ["curl", "pool"])
def test_under_gevent(transport: str) -> None:
    """With everything monkey-patched, a transport works on a real thread, and other greenlets go on meanwhile."""
    if transport == "curl":
        curl_transport().close()
    with Collector() as collector:
        command = [sys.executable, "-c", GEVENT, collector.url, transport]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stderr) == (0, "")
