"""``eventpost micro`` as a test suite uses it: a process, real SDKs and sockets, what came, and failures on order."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.resources import files

import pytest
from optimizely import optimizely

from eventpost import EventDispatcher, EventProcessor, LogEvent, MemoryQueue
from relay_support import SRC, Wire, ask, batch, free_port, request, wait_for

JSON = "Content-Type: application/json"


class Micro:
    """The command in a process of its own."""

    def __init__(self, *options, listen="127.0.0.1:0"):
        command = [sys.executable, "-m", "eventpost.cli", "micro", "--listen", listen, *options]
        environ = {**os.environ, "PYTHONPATH": str(SRC)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
        self.first_line = self.process.stdout.readline()
        self.port = int(self.first_line.split("/v1/events")[0].rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}/v1/events"

    def get(self, path, status=200):
        """Ask for something; return it."""
        found = ask(self.port, path=path, method="GET")
        assert found.status == status, found
        return found.json()

    def post(self, path, value=None, status=200):
        """Say something; return the answer."""
        body = b"" if value is None else json.dumps(value).encode()
        found = ask(self.port, body, JSON, path=path)
        assert found.status == status, found
        return found.json()

    def counts(self, **some):
        """Assert some of the counts."""
        found = self.get("/micro/all")
        assert {name: found[name] for name in some} == some
        assert found["requests"] == found["good"] + found["bad"] + found["failed"]

    def stop(self, number=signal.SIGTERM):
        """Stop it; return its exit code and what it said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextmanager
def micro(*options, **more):
    """Run one."""
    up = Micro(*options, **more)
    try:
        yield up
    finally:
        up.process.kill()
        up.process.wait(10)
        up.process.stdout.close()
        up.process.stderr.close()


@pytest.fixture
def up():
    """Give one."""
    with micro() as one:
        yield one


def test_what_the_sdk_sends_is_good_and_can_be_asked_for(up):
    """Decisions and conversions of the real client, by kind, key and visitor; nothing bad; reset forgets."""
    datafile = files("eventpost").joinpath("demo_datafile.json").read_text("utf-8")
    known = json.loads(datafile)
    dispatcher = EventDispatcher(MemoryQueue(), endpoint=up.url, linger_s=0.0)
    client = optimizely.Optimizely(datafile, event_processor=EventProcessor(dispatcher))
    for name in ("user-1", "user-2"):
        user = client.create_user_context(name, {"plan": "gold"})
        user.decide(known["featureFlags"][0]["key"])
        user.track_event("purchase", {"revenue": 4200, "value": 1.5, "category": "shoes"})
    dispatcher.close()
    assert up.get("/micro/bad") == []
    good = up.get("/micro/good")
    up.counts(events=len(good), bad=0, failed=0)
    (bought,) = up.get("/micro/good?kind=conversion&key=purchase&visitor_id=user-2")
    assert bought["event"]["revenue"] == 4200
    assert bought["batch"]["account_id"] == known["accountId"]
    assert "visitors" not in bought["batch"]
    assert [one["value"] for one in bought["attributes"] if one["key"] == "plan"] == ["gold"]
    impressions = up.get("/micro/good?kind=impression")
    assert {one["visitor_id"] for one in impressions} <= {"user-1", "user-2"}
    assert all(one["decisions"] for one in impressions)
    assert len(up.get("/micro/good?limit=1")) == 1
    assert up.get("/micro/good?limit=1") == good[-1:]
    assert up.get(f"/micro/good?uuid={bought['event']['uuid']}") == [bought]
    assert up.post("/micro/reset")["events"] == len(good)
    assert up.get("/micro/good") == []
    up.counts(requests=0, events=0)


def test_bad_ones_are_listed_with_their_faults(up):
    """204 as the endpoint says, 400 where it is no batch, or if strictness is asked for; each with what is wrong."""
    fault = batch(1).replace(b"1700000000000", b'"soon"')
    path = "visitors[0].snapshots[0].events[0].timestamp: must be an integer, not a string"
    assert ask(up.port, fault).status == 204
    strict = ask(up.port, fault, "X-Optimizely-Strict: true", path="/eu/v1/events")
    assert (strict.status, strict.json()["errors"]) == (400, [path])
    for body, reason in ((b"", "empty"), (b"{", "not_json"), (b"{}", "not_a_batch")):
        found = ask(up.port, body)
        assert (found.status, found.reason) == (400, reason)
    assert ask(up.port, b"\x1f\x8bno", "Content-Encoding: gzip").reason == "not_packed"
    assert ask(up.port, b"x", "Content-Encoding: br").status == 415
    assert ask(up.port, b"[" + b"1," * 1_800_000 + b"1]").status == 413
    bad = up.get("/micro/bad")
    assert [(one["status"], one["reason"]) for one in bad] == [
        (204, "strict"), (400, "strict"), (400, "empty"), (400, "not_json"), (400, "not_a_batch"), (400, "not_packed"),
        (415, "encoding"), (413, "too_large"),
    ]  # fmt: skip
    assert bad[0]["errors"] == bad[1]["errors"] == [path]
    assert bad[0]["body"].encode() == fault
    assert (bad[0]["path"], bad[1]["path"]) == ("/v1/events", "/eu/v1/events")
    assert all(one["errors"][0] for one in bad)
    assert up.get("/micro/bad?reason=empty&path=/v1/events") == [bad[2]]
    up.counts(requests=8, good=0, bad=8, events=0)


def test_strict_for_everybody():
    """``--strict``: a batch with a fault is answered 400, a good one 204."""
    with micro("--strict") as up:
        assert ask(up.port, batch(1).replace(b'"account_id": "1", ', b"")).json()["errors"] == [
            "account_id: is missing"
        ]
        assert ask(up.port, batch(1)).status == 204
        up.counts(good=1, bad=1, events=1)


def test_bodies_come_as_they_do_to_the_relay(up):
    """The types of sendBeacon, gzip, chunks, Expect, pipelining, and a browser's preflight from any origin."""
    with Wire(up.port) as wire:
        assert wire.send(request(batch(1), "Content-Type: text/plain;charset=UTF-8")).answer().status == 204
        assert wire.send(request(gzip.compress(batch(2)), "Content-Encoding: gzip")).answer().status == 204
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(batch(3)), batch(3))
        assert wire.send(request(chunk, "Transfer-Encoding: chunked")).answer().status == 204
        wire.send(request(batch(4)) + request(batch(5)))
        assert [wire.answer().status, wire.answer().status] == [204, 204]
        head = request(b"", "Expect: 100-continue", f"Content-Length: {len(batch(6))}")
        assert wire.send(head).send(batch(6)).answer().status == 204
        lines = ("Origin: https://shop.example", "Access-Control-Request-Method: POST")
        asks = "Access-Control-Request-Headers: content-type"
        asked = wire.send(request(b"", *lines, asks, method="OPTIONS")).answer()
        assert asked.headers["access-control-allow-origin"] == "https://shop.example"
        assert asked.headers["access-control-allow-headers"] == "content-type"
        sent = wire.send(request(batch(7), "Origin: https://shop.example")).answer()
        assert (sent.status, sent.headers["access-control-allow-credentials"]) == (204, "true")
    assert ask(up.port, method="GET").status == 405
    up.counts(good=7, bad=0, events=7)


def whole(wire):
    """Tell whether an answer arrives whole: no reset before or within it."""
    try:
        answer = wire.answer()
    except (EOFError, ConnectionError, ValueError, IndexError):
        return False
    return len(answer.body) == int(answer.headers.get("content-length", -1))


def test_a_script_fails_as_endpoints_do(up):
    """Statuses, Retry-After, delays, three kinds of resets, silence; what fails is in neither list."""
    up.post("/micro/script", [
        {"status": 503, "retry_after": 7, "times": 2}, {"status": 429, "retry_after_date_s": 5}, {"reset": "before"},
        {"reset": "after"}, {"reset": "during", "status": 200, "body": "x" * 50}, {"delay_s": 0.4},
        {"status": 200, "body": "taken", "headers": {"X-From": "test"}}, {"hang": True},
    ])  # fmt: skip
    assert up.get("/micro/script") == {"left": 9, "always": False}
    for _ in range(2):
        found = ask(up.port, batch(1))
        assert (found.status, found.headers["retry-after"]) == (503, "7")
    assert ask(up.port, batch(1)).headers["retry-after"].endswith("GMT")
    for _ in range(3):
        with Wire(up.port) as wire:
            assert not whole(wire.send(request(batch(1))))
    began = time.monotonic()
    assert ask(up.port, batch(2)).status == 204
    assert time.monotonic() - began >= 0.4
    found = ask(up.port, batch(3))
    assert (found.status, found.body, found.headers["x-from"]) == (200, b"taken", "test")
    with Wire(up.port, timeout_s=0.3) as wire, pytest.raises(TimeoutError):
        wire.send(request(batch(1))).answer()
    assert ask(up.port, batch(4)).status == 204
    assert [one["event"]["uuid"][-1] for one in up.get("/micro/good")] == ["2", "3", "4"]
    up.counts(requests=10, good=3, bad=0, failed=7)
    assert up.stop() == (0, "requests 10, good 3, bad 0, failed 7, events 3, forgotten 0\n", "")


def test_an_outage_until_further_notice_and_a_client_that_sits_it_out(up):
    """``always``: every request fails, and what a dispatcher was handed arrives once it is over; all of it once."""
    up.post("/micro/script", {"always": {"status": 503}})
    dispatcher = EventDispatcher(MemoryQueue(), endpoint=up.url, linger_s=0.0)
    for number in range(5):
        assert dispatcher.dispatch_event(LogEvent(up.url, json.loads(batch(number))))
    wait_for(lambda: up.get("/micro/all")["failed"] >= 5)
    assert up.get("/micro/good") == []
    assert up.get("/micro/script")["always"] is True
    ask(up.port, path="/micro/script", method="DELETE")
    wait_for(lambda: up.get("/micro/all")["events"] == 5)
    dispatcher.close()
    assert len({one["event"]["uuid"] for one in up.get("/micro/good")}) == 5
    up.post("/micro/script", {"replies": [{"status": 500}], "always": {"status": 202}})
    assert [ask(up.port, batch(9)).status for _ in range(3)] == [500, 202, 202]
    up.post("/micro/reset")
    assert ask(up.port, batch(9)).status == 204


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ({"status": 503}, "a list of answers is needed"),
        (7, "a list of answers is needed"),
        ([7], "replies[0]: an object is needed"),
        ([{}, {"stats": 503}], "replies[1]: there is no 'stats'"),
        ([{"status": "503"}], "replies[0].status: wrong type"),
        ([{"status": True}], "replies[0].status: wrong type"),
        ([{"status": 100}], "replies[0].status: from 200 to 599"),
        ([{"delay_s": -1}], "replies[0].delay_s: from 0"),
        ([{"delay_s": 1e9}], "replies[0].delay_s: from 0"),
        ([{"reset": "sometimes"}], "replies[0].reset: one of before, during, after"),
        ([{"times": 0}], "replies[0].times: from 1"),
        ([{"times": 100_000}] * 2, "replies: 100,000 at most"),
        ([{"headers": {"X": "a\r\nY: b"}}], "replies[0]: headers are printable ASCII"),
        ([{"retry_after": "a\r\nY: b"}], "replies[0]: headers are printable ASCII"),
        ({"replies": {}}, "replies: a list is needed"),
        ({"always": 5}, "always: an object is needed"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused_as_a_whole(up, script, says):
    """400, where it is wrong and what is known; nothing of it is taken."""
    assert says in up.post("/micro/script", script, status=400)["detail"]
    assert up.get("/micro/script") == {"left": 0, "always": False}


def test_web_pages_may_send_and_neither_read_nor_script(up):
    """No CORS for /micro, JSON only, and on loopback only a name of this machine: a rebound host name is refused."""
    for host in ("evil.example", "evil.example:8788", "127.0.0.1.evil.example"):
        for path in ("/micro/all", "/micro/good", "/micro/bad", "/"):
            assert ask(up.port, b"", f"Host: {host}", path=path, method="GET").status == 403
        assert ask(up.port, b"[]", JSON, f"Host: {host}", path="/micro/script").status == 403
        assert ask(up.port, b"", f"Host: {host}", path="/micro/reset").status == 403
    for host in ("localhost", f"127.0.0.1:{up.port}", "[::1]:80"):
        assert ask(up.port, b"", f"Host: {host}", path="/micro/all", method="GET").status == 200
    found = ask(up.port, b"", "Origin: https://evil.example", path="/micro/good", method="GET")
    assert not [name for name in found.headers if name.startswith("access-control")]
    assert ask(up.port, b"[]", "Content-Type: text/plain", path="/micro/script").status == 400
    assert up.get("/micro/nothing", status=404)["reason"] == "path"
    refused = ask(up.port, b"", path="/micro/reset", method="GET")
    assert (refused.status, refused.reason, refused.headers["allow"]) == (405, "method", "POST")
    assert up.get("/micro/good?nonsense=1", status=400)["reason"] == "filter"
    for limit in ("many", "", "-1", "1e3", "%D9%A3", "9" * 5000):
        assert up.get(f"/micro/good?limit={limit}", status=400)["reason"] == "filter"


def test_memory_is_bounded():
    """The oldest go first, and how many is told; the counts go on."""
    with micro("--keep", "5") as up:
        for number in range(20):
            assert ask(up.port, batch(number)).status == 204
            assert ask(up.port, b"{}").status == 400
        assert [one["visitor_id"] for one in up.get("/micro/good")] == [f"visitor-{number}" for number in range(15, 20)]
        assert len(up.get("/micro/bad")) == 5
        up.counts(requests=40, events=20, bad=20, forgotten=30)


def test_many_clients_at_once(up):
    """Nothing is missing and nothing is counted twice."""

    def post(first):
        with Wire(up.port) as wire:
            for number in range(first, first + 50):
                assert wire.send(request(batch(number))).answer().status == 204

    threads = [threading.Thread(target=post, args=(1000 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({one["event"]["uuid"] for one in up.get("/micro/good")}) == 400
    up.counts(good=400, events=400)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_and_says_what_came(number):
    """Exit code 0, one line with the counts, nothing on stderr; also while a client hangs."""
    with micro() as up:
        assert "events to http://127.0.0.1:" in up.first_line
        up.post("/micro/script", [{"status": 204}, {"hang": True}])
        assert ask(up.port, batch(1)).status == 204
        with Wire(up.port) as wire:
            wire.send(request(batch(2)))
            wait_for(lambda: up.get("/micro/all")["failed"] == 1)
            code, out, err = up.stop(number)
    assert (code, err) == (0, "")
    assert "requests 2, good 1, bad 0, failed 1, events 1" in out


def test_wrong_usage():
    """An address that is none, one that is taken, and one beyond loopback without a word that this is meant."""
    port = free_port()
    with micro(listen=f"127.0.0.1:{port}"):
        for options, says in (
            (["--listen", f"127.0.0.1:{port}"], "Address already in use"),
            (["--listen", "here"], "HOST:PORT is needed"),
            (["--listen", "0.0.0.0:0"], "say --open if that is meant"),
        ):  # fmt: skip
            command = [sys.executable, "-m", "eventpost.cli", "micro", *options]
            environ = {**os.environ, "PYTHONPATH": str(SRC)}
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environ)
            assert done.returncode == 2
            assert says in " ".join(done.stderr.replace("│", " ").split())
    with micro("--open", listen="0.0.0.0:0") as up:
        assert ask(up.port, b"", "Host: tests.internal", path="/micro/all", method="GET").status == 200
