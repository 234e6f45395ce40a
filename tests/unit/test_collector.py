"""The Collector does what its script says, and counts what it saw."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from eventpost.testing import CollectedRequest, Collector, RecordingTransport, Reply
from eventpost.testing.transport_contract import collect, free_port, request_to
from eventpost.transports.protocol import Response, TransportError


def batch(*uuids: str) -> bytes:
    """Return a body with these events."""
    events = [{"uuid": uuid, "timestamp": 1, "entity_id": "e"} for uuid in uuids]
    return json.dumps({"account_id": "1", "visitors": [{"snapshots": [{"events": events}]}]}).encode()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Return a listening Collector."""
    with Collector() as collector:
        yield collector


def post(collector: Collector, body: bytes) -> http.client.HTTPResponse:
    """Send a body on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=5)
    try:
        connection.request("POST", "/v1/events?x=1", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer


def test_counts_uuids(collector: Collector) -> None:
    """Uuids of what was answered 2xx are counted, repeats too; those that were refused are not."""
    assert post(collector, batch("a", "b")).status == 204
    collector.script([Reply(503), Reply(200)])
    assert post(collector, batch("b", "c")).status == 503
    assert post(collector, batch("b")).status == 200
    assert dict(collector.uuids) == {"a": 1, "b": 2}
    assert collector.wait_for(2, 1)
    assert not collector.wait_for(3, 0.05)
    assert dict(collector.statuses) == {204: 1, 503: 1, 200: 1}


def test_records_requests(collector: Collector) -> None:
    """Method, path, headers, body and time of each request are there to look at."""
    post(collector, batch("a"))
    (request,) = collector.requests
    assert (request.method, request.path) == ("POST", "/v1/events?x=1")
    assert request.headers["content-type"] == "application/json"
    assert request.uuids() == ["a"]
    assert abs(request.time - time.time()) < 5
    assert collector.bodies == [batch("a")]
    assert "uuid" not in repr(request)


def test_answers_from_a_function(collector: Collector) -> None:
    """A function answers what the script leaves over; one that raises is a 500 that says so."""
    collector.answer = lambda request: Reply(400 if b"bad" in request.body else 204)
    assert post(collector, b"good").status == 204
    assert post(collector, b"bad").status == 400

    def fail(_: CollectedRequest) -> Reply:
        msg = "of the test"
        raise ValueError(msg)

    collector.answer = fail
    assert post(collector, b"x").status == 500


def test_a_body_in_pieces_and_chunks(collector: Collector) -> None:
    """Requests that arrive byte by byte, in chunks or several at once are cut apart rightly."""
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    plain = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxyz"
    with socket.create_connection(("127.0.0.1", collector.port)) as sock:
        sock.settimeout(5)
        for byte in chunked + plain:
            sock.sendall(bytes([byte]))
        sock.sendall(plain + chunked + plain)
        got = b""
        while got.count(b"HTTP/1.1 204") < 5:
            got += sock.recv(1000)
    assert collector.bodies == [b"abcde", b"xyz", b"xyz", b"abcde", b"xyz"]


def test_what_is_no_http(collector: Collector) -> None:
    """Garbage is answered 400 and counted nowhere."""
    with socket.create_connection(("127.0.0.1", collector.port)) as sock:
        sock.sendall(b"hello\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400")
    assert collector.requests_total == 0


def test_a_port_that_is_taken(collector: Collector) -> None:
    """A port that is taken is told at once."""
    with pytest.raises(OSError, match="in use"):
        Collector(port=collector.port).start()


def test_comes_back_on_its_port() -> None:
    """An outage in a test: a collector that is closed refuses, and another one takes its port."""
    port = free_port()
    with Collector(port=port) as first:
        assert post(first, batch("a")).status == 204
    with pytest.raises(ConnectionRefusedError):
        post(first, batch("a"))
    with Collector(port=port) as second:
        assert post(second, batch("b")).status == 204


def test_closing_leaves_nothing() -> None:
    """After the with block its thread is gone, also with connections open and answers delayed."""
    before = threading.active_count()
    with (
        Collector(lambda _: Reply(delay_s=30)) as collector,
        socket.create_connection(("127.0.0.1", collector.port)) as sock,
    ):
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert collector.wait_requests(1, 5)
    assert threading.active_count() == before


def test_as_a_process() -> None:
    """As a process it prints its URL, counts from outside and ends on SIGTERM."""
    command = [sys.executable, "-m", "eventpost.testing.collector", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            urllib.request.urlopen(urllib.request.Request(url, batch("a", "a"), method="POST"), timeout=5).close()
            origin = url.removesuffix("/v1/events")
            with urllib.request.urlopen(origin + "/_uuids", timeout=5) as answer:
                assert json.load(answer) == {"a": 2}
            with urllib.request.urlopen(origin + "/_stats", timeout=5) as answer:
                assert json.load(answer) | {"connections": 0} == {
                    "requests": 1,
                    "uuids": 1,
                    "events": 2,
                    "statuses": {"204": 1},
                    "connections": 0,
                }
        finally:
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (0, "")


def test_recording_transport() -> None:
    """RecordingTransport records, answers from its script, from a function, and with 204."""
    now = 0.0
    transport = RecordingTransport(
        lambda request: Response(400 if b"bad" in request.body else 204),
        script=[TransportError("timeout", "")],
        monotonic=lambda: now,
        latency_s=2.0,
    )
    requests = [request_to("http://x/", body=body) for body in (b"a", b"bad", b"c")]
    for request in requests:
        transport.start(request)
    assert list(transport.wait(9)) == []
    assert transport.under_way == requests
    now = 2.0
    outcomes = [done.outcome for done in transport.wait(0)]
    assert outcomes == [TransportError("timeout", ""), Response(400), Response(204)]
    transport.hold = True
    transport.start(requests[0])
    assert list(transport.wait(0)) == []
    assert transport.complete(requests[0], Response(500)) is requests[0]
    assert collect(transport, 1)[0].outcome == Response(500)
    transport.start(requests[1])
    transport.close(0)
    transport.start(requests[2])
    closed = [done.outcome for done in transport.wait(0)]
    assert [outcome.kind for outcome in closed if isinstance(outcome, TransportError)] == ["closed", "closed"]
    with pytest.raises(LookupError):
        transport.complete()
