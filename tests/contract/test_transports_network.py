"""Proxies, name lookups that hang, processes that end: what needs more than an endpoint."""

import base64
import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from tests.support import missing

from eventpost.testing import Collector, Reply
from eventpost.testing.transport_contract import collect, free_port, kind, outcome_of, request_to, status_of
from eventpost.transports.pool import PoolTransport
from support import curl_transport

BOTH = pytest.mark.parametrize("make", [curl_transport, PoolTransport])
if TYPE_CHECKING:
    from typing_extensions import Self

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Proxy:
    """A forward proxy: absolute-form requests and CONNECT; ``lines`` is what it was asked, ``auth`` with what words."""

    def __init__(self, refuse: bool = False) -> None:
        self.lines: list[str] = []
        self.auth: list[str] = []
        self._refuse = refuse
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(65536)
                if not part:
                    return
                head += part
            line, _, rest = head.partition(b"\r\n")
            self.lines.append(line.decode())
            self.auth += [
                text.decode() for text in head.split(b"\r\n") if text.lower().startswith(b"proxy-authorization")
            ]
            if self._refuse:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                client.recv(1)
                return
            verb, goal, version = line.split()
            if verb == b"CONNECT":
                address, first = goal, b""
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                address, _, path = goal.removeprefix(b"http://").partition(b"/")
                first = b" ".join((verb, b"/" + path, version)) + b"\r\n" + rest
            host, _, port = address.decode().partition(":")
            with socket.create_connection((host, int(port))) as upstream:
                upstream.sendall(first)
                while True:
                    ready, _, _ = select.select([client, upstream], [], [], 10)
                    for sock in ready:
                        data = sock.recv(65536)
                        if not data:
                            return
                        (upstream if sock is client else client).sendall(data)

    def __enter__(self) -> "Self":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without any proxy variable."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Return a listening Collector."""
    with Collector() as collector:
        yield collector


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Return a forward proxy."""
    with Proxy() as proxy:
        yield proxy


@BOTH
def test_proxy_as_argument(make: Any, collector: Collector, proxy: Proxy) -> None:
    """With a proxy as argument every request goes through it, with the name and password in its URL."""
    transport = make(proxy=proxy.url.replace("//", "//me:p%40ss@"))
    assert status_of(outcome_of(transport, request_to(collector.url))) == 204
    transport.close(0)
    assert proxy.lines == [f"POST {collector.url} HTTP/1.1"]
    assert proxy.auth[0].endswith("Basic " + base64.b64encode(b"me:p@ss").decode())


@BOTH
def test_proxy_from_the_environment(
    make: Any, collector: Collector, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the argument http_proxy is honoured, and no_proxy; an empty argument means no proxy at all."""
    monkeypatch.setenv("http_proxy", proxy.url)
    transport = make()
    assert status_of(outcome_of(transport, request_to(collector.url))) == 204
    transport.close(0)
    assert len(proxy.lines) == 1
    transport = make(proxy="")
    assert status_of(outcome_of(transport, request_to(collector.url))) == 204
    transport.close(0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    transport = make()
    assert status_of(outcome_of(transport, request_to(collector.url))) == 204
    transport.close(0)
    assert len(proxy.lines) == 1
    assert collector.requests_total == 3


@BOTH
def test_https_through_a_proxy(make: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A request over https goes through the proxy's CONNECT, and the certificate that is checked is the endpoint's."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    with Collector(cert=str(tmp_path / "both.pem")) as collector:
        monkeypatch.setenv("https_proxy", proxy.url)
        transport = make(ca=tmp_path / "ca.pem")
        for _ in range(2):
            assert status_of(outcome_of(transport, request_to(collector.url))) == 204
        transport.close(0)
        (line,) = proxy.lines
        assert line.startswith(f"CONNECT 127.0.0.1:{collector.port} HTTP/1.")


@BOTH
def test_a_proxy_that_refuses(make: Any, collector: Collector) -> None:
    """A proxy's 407 is an answer for http; for https there is no connection; nothing reaches the endpoint."""
    with Proxy(refuse=True) as proxy:
        transport = make(proxy=proxy.url)
        assert status_of(outcome_of(transport, request_to(collector.url))) == 407
        assert kind(outcome_of(transport, request_to("https://127.0.0.1:1/", timeout_s=2))) == "connect"
        transport.close(0)
        transport = make(proxy=f"http://127.0.0.1:{free_port()}")
        assert kind(outcome_of(transport, request_to(collector.url))) == "connect"
        transport.close(0)
    assert collector.requests_total == 0


# -- lookups that hang ---------------------------------------------------------------------------------------------


def test_pool_lookup_that_hangs(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup that nothing can interrupt ends its request at the timeout; others go on; close does not wait."""
    release = threading.Event()
    real = socket.getaddrinfo

    def lookup(host: str, *rest: Any, **more: Any) -> Any:
        if host.startswith("hang"):
            release.wait(20)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    transport = PoolTransport(threads_max=2)
    for n in range(4):
        transport.start(request_to(f"http://hang{n}.invalid/", token=n, timeout_s=0.3))
    begun = time.monotonic()
    completions = collect(transport, 4)
    assert {kind(done.outcome) for done in completions} == {"timeout"}
    assert time.monotonic() - begun < 0.8
    assert status_of(outcome_of(transport, request_to(collector.url))) == 204
    transport.start(request_to("http://hang.invalid/", timeout_s=30))
    transport.wait(0.05)
    begun = time.monotonic()
    transport.close(0.2)
    assert time.monotonic() - begun < 0.2
    release.set()


def test_pool_stuck_threads_are_bounded(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lookups hang, the threads stay bounded; when they come back, requests are answered again."""
    release = threading.Event()
    real = socket.getaddrinfo

    def lookup(*address: Any, **more: Any) -> Any:
        release.wait(20)
        return real(*address, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    transport = PoolTransport(threads_max=2)
    monkeypatch.setattr(transport, "_stuck_max", 3)
    for n in range(12):
        assert kind(outcome_of(transport, request_to("http://127.0.0.1:1/", token=n, timeout_s=0.05))) == "timeout"
    assert "stuck=3" in repr(transport)
    release.set()
    assert status_of(outcome_of(transport, request_to(collector.url))) == 204
    transport.close(0)


BLACK_HOLE = """
import socket, sys, time
from eventpost.testing.transport_contract import collect, kind, request_to
from eventpost.transports.{module} import {name} as Make
hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hole.bind(("127.0.0.77", 53))  # takes every question, answers none
transport = Make()
for n in range(3):
    transport.start(request_to("http://name-%d.example.com/" % n, timeout_s=0.5))
begun = time.monotonic()
kinds = {{kind(done.outcome) for done in collect(transport, 3)}}
print(kinds, time.monotonic() - begun, flush=True)
assert kinds == {{"timeout"}}, kinds
assert time.monotonic() - begun < 1, time.monotonic() - begun
transport.start(request_to("http://more.example.com/", timeout_s=60))
transport.wait(0.1)
begun = time.monotonic()
if sys.argv[1] == "close":
    transport.close(0.2)
    assert time.monotonic() - begun < 0.5, time.monotonic() - begun
    assert [kind(done.outcome) for done in transport.wait(0)] == ["closed"]
print("done", flush=True)
"""


@pytest.mark.parametrize("end", ["close", "leave"])
@BOTH
def test_a_resolver_that_is_a_black_hole(make: Any, end: str, tmp_path: Path) -> None:
    """With a name server that never answers, requests time out, close returns, and the process ends at once."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.77\noptions timeout:10 attempts:3\n")
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        missing("the right to make a mount namespace (root)")
    script = tmp_path / "script.py"
    kind = type(make())
    script.write_text(BLACK_HOLE.format(module=kind.__module__.rpartition(".")[2], name=kind.__name__))
    inner = f"mount --bind {resolv} /etc/resolv.conf && exec {sys.executable} {script} {end}"
    begun = time.monotonic()
    done = subprocess.run([unshare, "-m", "sh", "-c", inner], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert time.monotonic() - begun < 5  # a joined lookup would take 30 s


# -- processes that end -------------------------------------------------------------------------------------------

LEAVING = """
import sys
from eventpost.testing.transport_contract import request_to
from eventpost.transports.{module} import {name} as Make
transport = Make()
for n in range(5):
    transport.start(request_to(sys.argv[1], timeout_s=60))
transport.wait(0.2)
"""


@BOTH
def test_a_process_that_just_ends(make: Any) -> None:
    """A process that ends with requests under way, and closes nothing, ends at once and without a word."""
    kind = type(make())
    script = LEAVING.format(module=kind.__module__.rpartition(".")[2], name=kind.__name__)
    with Collector(lambda _: Reply(hang=True)) as collector:
        begun = time.monotonic()
        command = [sys.executable, "-X", "dev", "-c", script, collector.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0
        assert done.stderr == ""
        assert time.monotonic() - begun < 5
        assert collector.requests_total >= 1


def test_pool_without_new_threads(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, as at interpreter shutdown, the waiting thread makes the attempts itself."""

    def refuse(*_: object) -> int:
        msg = "can't create new thread at interpreter shutdown"
        raise RuntimeError(msg)

    monkeypatch.setattr("eventpost.transports.threads.start_new_thread", refuse)
    transport = PoolTransport()
    for n in range(3):
        transport.start(request_to(collector.url, token=n))
    assert sorted(done.request.token for done in collect(transport, 3)) == [0, 1, 2]
    assert collector.requests_total == 3
    transport.close(0)


def test_pool_threads_end_when_idle(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has nothing to do ends, closes its connections, and a new one takes the next request."""
    monkeypatch.setattr("eventpost.transports.threads.IDLE_S", 0.05)
    transport = PoolTransport()
    assert status_of(outcome_of(transport, request_to(collector.url))) == 204
    assert collector.wait_until(lambda: "threads=0/" in repr(transport), 5)
    assert collector.wait_until(lambda: collector.connections_open == 0, 5)
    assert status_of(outcome_of(transport, request_to(collector.url))) == 204
    transport.close(0)


def test_curl_with_many_files_open(collector: Collector) -> None:
    """Where descriptors are numbered above 1,023, which libcurl can't name in an fd_set, requests are answered too."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        missing("a limit of 2,000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    filler = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        transport = curl_transport()
        collector.answer = lambda _: Reply(204, delay_s=0.05)
        begun = time.monotonic()
        for n in range(10):
            transport.start(request_to(collector.url, token=n))
        assert {status_of(done.outcome) for done in collect(transport, 10)} == {204}
        for _ in range(5):
            assert status_of(outcome_of(transport, request_to(collector.url))) == 204
        assert time.monotonic() - begun < 2
        transport.close(0)
    finally:
        for fd in filler:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_hundreds_in_flight_on_one_thread(collector: Collector) -> None:
    """Three hundred requests that are answered after half a second take little longer than one, and no thread more."""
    collector.answer = lambda _: Reply(204, delay_s=0.5)
    transport = curl_transport()
    threads = set(os.listdir("/proc/self/task"))  # those of earlier tests may still be ending
    begun = time.monotonic()
    for n in range(300):
        transport.start(request_to(collector.url, token=n, timeout_s=20))
    transport.wait(0.2)
    assert set(os.listdir("/proc/self/task")) <= threads
    assert {status_of(done.outcome) for done in collect(transport, 300, 20)} == {204}
    assert time.monotonic() - begun < 10  # 150 s one after the other
    assert collector.connections_total == 300
    transport.close(0)


def test_curl_keeps_no_bodies(collector: Collector) -> None:
    """An idle connection's handle does not hold the large body that it sent last."""
    transport = curl_transport()
    body = b"x" * 1_000_000
    before = sys.getrefcount(body)
    assert status_of(outcome_of(transport, request_to(collector.url, body=body))) == 204
    assert sys.getrefcount(body) == before
    transport.close(0)
