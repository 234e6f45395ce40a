"""What is trusted, what is said when it is not, and what a fork does to a TLS connection; for both HTTP transports."""

import contextlib
import datetime as dt
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support import missing

from eventpost import EventDispatcher, LogEvent, RetryPolicy
from eventpost.testing import Collector, Reply
from eventpost.testing.transport_contract import OneShotServer, free_port, kind, outcome_of, request_to, status_of
from eventpost.transports.pool import PoolTransport
from eventpost.transports.protocol import TransportError
from eventpost.transports.tls import CA_VARIABLES, find_authorities
from support import curl_transport

BOTH = pytest.mark.parametrize("make", [curl_transport, PoolTransport])


@dataclass
class Papers:
    """An authority's bundle, and certificates that it signed."""

    ca: trustme.CA
    folder: Path
    bundle: str

    def server(self, *names: str, name: str = "server", not_after: dt.datetime | None = None) -> tuple[str, str]:
        """Return certificate and key files for these host names."""
        past = None if not_after is None else not_after - dt.timedelta(days=30)
        issued = self.ca.issue_cert(*names, not_before=past, not_after=not_after)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return str(cert), str(key)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Make a certificate authority of our own."""
    folder = tmp_path_factory.mktemp("papers")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    return Papers(ca, folder, str(folder / "ca.pem"))


@pytest.fixture
def secure(papers: Papers) -> Iterator[Collector]:
    """Return a Collector that speaks TLS with a certificate for 127.0.0.1."""
    cert, key = papers.server("127.0.0.1")
    with Collector(cert=cert, key=key) as collector:
        yield collector


@BOTH
def test_trusted_authority(make: Any, papers: Papers, secure: Collector) -> None:
    """With the authority as argument, requests arrive, over one connection."""
    transport = make(ca=papers.bundle)
    for _ in range(3):
        assert status_of(outcome_of(transport, request_to(secure.url))) == 204
    assert secure.connections_total == 1
    transport.close(0)


@BOTH
def test_unknown_authority(make: Any, secure: Collector, tmp_path: Path) -> None:
    """A certificate that nobody we trust has signed is kind "tls"; the message names the bundle and the remedy."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    transport = make(ca=str(other))
    outcome = outcome_of(transport, request_to(secure.url))
    assert isinstance(outcome, TransportError)
    assert outcome.kind == "tls"
    assert str(other) in outcome.message
    assert "REQUESTS_CA_BUNDLE" in outcome.message
    assert secure.requests_total == 0
    transport.close(0)


@BOTH
def test_wrong_host(make: Any, papers: Papers) -> None:
    """A certificate for another host is kind "tls"."""
    cert, key = papers.server("elsewhere.example.com", name="elsewhere")
    with Collector(cert=cert, key=key) as collector:
        transport = make(ca=papers.bundle)
        assert kind(outcome_of(transport, request_to(collector.url))) == "tls"
        assert collector.requests_total == 0
        transport.close(0)


@BOTH
def test_expired(make: Any, papers: Papers) -> None:
    """A certificate whose time is over is kind "tls"."""
    yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    cert, key = papers.server("127.0.0.1", name="expired", not_after=yesterday)
    with Collector(cert=cert, key=key) as collector:
        transport = make(ca=papers.bundle)
        outcome = outcome_of(transport, request_to(collector.url))
        assert isinstance(outcome, TransportError)
        assert outcome.kind == "tls"
        assert "expired" in outcome.message
        transport.close(0)


@BOTH
@pytest.mark.parametrize("at", range(len(CA_VARIABLES)))
def test_the_first_variable_wins(
    make: Any, papers: Papers, secure: Collector, at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the variables that name a bundle the first in the documented order is believed, the later ones are not."""
    good = papers.bundle if CA_VARIABLES[at] != "SSL_CERT_DIR" else hashed(papers.bundle, tmp_path)
    for name in CA_VARIABLES[:at]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(CA_VARIABLES[at], good)
    for name in CA_VARIABLES[at + 1 :]:
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    transport = make()
    assert status_of(outcome_of(transport, request_to(secure.url))) == 204
    transport.close(0)


@BOTH
def test_a_variable_that_names_nothing(
    make: Any, secure: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A variable's file that is not there is not replaced by another bundle; the message names both."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    transport = make()
    outcome = outcome_of(transport, request_to(secure.url))
    assert isinstance(outcome, TransportError)
    assert outcome.kind == "tls"
    assert "gone.pem" in outcome.message
    assert "REQUESTS_CA_BUNDLE" in outcome.message
    transport.close(0)


@BOTH
@pytest.mark.parametrize("where", ["absolute", "relative"])
def test_a_bundle_that_is_mended_is_read_again(
    make: Any, papers: Papers, secure: Collector, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows the message and mends the file needs not start the process anew; nor does the next mistake."""
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    transport = make(ca=bundle if where == "absolute" else "bundle.pem")
    for _ in range(3):
        assert kind(outcome_of(transport, request_to(secure.url))) == "tls"
    shutil.copy(papers.bundle, bundle)
    for _ in range(3):
        assert status_of(outcome_of(transport, request_to(secure.url))) == 204
    assert secure.requests_total == 3
    transport.close(0)


@BOTH
def test_a_failed_check_is_held_and_said_like_a_401(
    make: Any, papers: Papers, secure: Collector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, as an error that names the file and what to do; nothing is lost, and once it is mended all is delivered."""
    bundle = tmp_path / "bundle.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    policy = RetryPolicy(first_s=0.01, breaker_first_s=0.02, breaker_max_s=0.05)
    dispatcher = EventDispatcher(transport=make(ca=bundle), retry=policy)
    try:
        for number in range(20):
            assert dispatcher.dispatch_event(LogEvent(secure.url, {"n": number}))
        time.sleep(0.5)
        report = dispatcher.stats()
        assert (report.queued + report.in_flight, report.dead) == (20, 0)
        assert (secure.requests_total, dispatcher._sender._lanes[secure.url].breaker.state) == (0, "held")
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert f"{secure.url} needs a look (certificate)" in record.getMessage()
        assert str(bundle) in record.getMessage()
        assert "REQUESTS_CA_BUNDLE" in record.getMessage()
        shutil.copy(papers.bundle, bundle)
        assert dispatcher.flush(10).delivered == 20
    finally:
        dispatcher.close(1)


@BOTH
def test_files_that_are_not_there(make: Any, papers: Papers, tmp_path: Path) -> None:
    """An argument that names a missing file is told by the constructor, as is a key without its certificate."""
    missing_key = {"client_cert": papers.bundle, "client_key": "no"}
    for options in ({"ca": tmp_path / "no"}, {"client_cert": tmp_path / "no"}, missing_key):
        with pytest.raises(FileNotFoundError, match="no"):
            make(**options)
    with pytest.raises(ValueError, match="client_cert"):
        make(client_key=papers.bundle)


def test_where_authorities_come_from(tmp_path: Path) -> None:
    """The argument goes before the environment, which goes before the system's bundle."""
    bundle = tmp_path / "b.pem"
    bundle.write_text("")
    environ = {"SSL_CERT_FILE": "/x", "CURL_CA_BUNDLE": "/y"}
    assert find_authorities(bundle, environ).path == str(bundle)
    assert (find_authorities(None, environ).path, find_authorities(None, environ).source) == ("/y", "CURL_CA_BUNDLE")
    assert find_authorities(None, {"CURL_CA_BUNDLE": ""}).source in ("the system", "certifi", "nowhere")


@BOTH
def test_client_certificate(make: Any, papers: Papers) -> None:
    """An endpoint that demands a client certificate gets it; without one the outcome is kind "tls"."""
    cert, key = papers.server("127.0.0.1")
    mine, my_key = papers.server("client.example.com", name="client")
    with Collector(cert=cert, key=key, client_ca=papers.bundle) as collector:
        transport = make(ca=papers.bundle, client_cert=mine, client_key=my_key)
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204
        transport.close(0)


@BOTH
def test_client_certificate_demanded(make: Any, papers: Papers) -> None:
    """An endpoint that says it wants a client certificate, which we have not, is kind "tls"; told what to do.

    Over TLS 1.3 it says so after the handshake, and urllib3 may meet the closed connection first: "reset".
    """
    with Demanding(papers) as url:
        transport = make(ca=papers.bundle)
        outcomes = [outcome_of(transport, request_to(url)) for _ in range(3)]
        transport.close(0)
    for outcome in outcomes:
        assert isinstance(outcome, TransportError)
        if make is curl_transport or outcome.kind == "tls":
            assert outcome.kind == "tls"
            assert "client_cert" in outcome.message
        else:
            assert outcome.kind == "reset"


@BOTH
def test_certificate_and_key_in_one_file(make: Any, papers: Papers) -> None:
    """A client certificate's file may hold its key."""
    cert, key = papers.server("127.0.0.1")
    mine, my_key = papers.server("client.example.com", name="client")
    both = papers.folder / "both.pem"
    both.write_text(Path(mine).read_text() + Path(my_key).read_text())
    with Collector(cert=cert, key=key, client_ca=papers.bundle) as collector:
        transport = make(ca=papers.bundle, client_cert=both)
        assert status_of(outcome_of(transport, request_to(collector.url))) == 204
        transport.close(0)


@BOTH
def test_no_tls_at_the_other_end(make: Any, papers: Papers) -> None:
    """A handshake with something that speaks no TLS is kind "connect": nothing is wrong with a certificate."""
    with OneShotServer(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as plain:
        transport = make(ca=papers.bundle)
        outcome = outcome_of(transport, request_to(plain.url.replace("http:", "https:"), timeout_s=2))
        assert kind(outcome) == "connect"
        transport.close(0)


@BOTH
def test_refused_over_tls(make: Any, papers: Papers) -> None:
    """Nobody listening is kind "connect" with https, too."""
    transport = make(ca=papers.bundle)
    assert kind(outcome_of(transport, request_to(f"https://127.0.0.1:{free_port()}/"))) == "connect"
    transport.close(0)


class Demanding:
    """A TLS server that demands a client certificate and says so with an alert (asyncio's would just hang up)."""

    def __init__(self, papers: Papers) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*papers.server("127.0.0.1"))
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(papers.bundle)
        self._listener = socket.create_server(("127.0.0.1", 0))

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            raw.settimeout(1)
            with contextlib.suppress(OSError), raw:  # the other end may be gone at any moment
                secure = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                with secure:
                    with contextlib.suppress(OSError):
                        secure.do_handshake()
                    socket.socket.recv(secure, 10_000)  # what was sent meanwhile, so that closing is no reset

    def __enter__(self) -> str:
        threading.Thread(target=self._serve, daemon=True).start()
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}/v1/events"

    def __exit__(self, *exception: object) -> None:
        self._listener.close()


FORKING = """
import os, sys
from eventpost.testing.transport_contract import outcome_of, request_to, status_of
from eventpost.transports.{module} import {name} as Make

url, ca, busy = sys.argv[1], sys.argv[2], sys.argv[3] == "busy"
transport = Make(ca=ca)
assert status_of(outcome_of(transport, request_to(url, token="first"))) == 204
if busy:  # a request under way while we fork: the collector delays this one
    transport.start(request_to(url + "?slow", token="slow"))
    transport.wait(0.1)
child = os.fork()
if child == 0:
    transport.after_fork_in_child()
    ok = status_of(outcome_of(transport, request_to(url + "?child"))) == 204
    if sys.argv[4] == "close":
        transport.close(1)
    sys.exit(0 if ok else 1)  # ends normally: modules are emptied, objects collected
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
if busy:
    (completion,) = transport.wait(10)
    assert status_of(completion.outcome) == 204, completion
    transport.wait(0.1)  # a thread that has just answered may not be free yet: the next request would be another's
assert status_of(outcome_of(transport, request_to(url + "?after"))) == 204
transport.close(1)
"""


@pytest.mark.parametrize("end", ["close", "leave"])
@pytest.mark.parametrize("state", ["idle", "busy"])
@BOTH
def test_a_child_that_ends_leaves_its_parents_connection_alone(
    make: Any, papers: Papers, secure: Collector, state: str, end: str
) -> None:
    """The parent's kept connection lives on after a child forked, used the transport and ended normally."""
    secure.answer = lambda request: Reply(204, delay_s=0.4 if request.path.endswith("?slow") else 0.0)
    kind = type(make())
    script = FORKING.format(module=kind.__module__.rpartition(".")[2], name=kind.__name__)
    command = [sys.executable, "-c", script, secure.url, papers.bundle, state, end]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    by_path = {request.path.partition("?")[2]: request.connection for request in secure.requests}
    assert by_path["after"] == by_path[""] == 1
    if state == "busy":
        assert by_path["slow"] == 1
    assert by_path["child"] == 2
    assert secure.connections_total == 2


def hashed(bundle: str, folder: Path) -> str:
    """Return a directory that holds the bundle's certificate under its hash, as OpenSSL looks for it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("the openssl command")
    command = [openssl, "x509", "-hash", "-noout", "-in", bundle]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    directory = folder / "hashed"
    directory.mkdir()
    shutil.copy(bundle, directory / f"{name}.0")
    return str(directory)
