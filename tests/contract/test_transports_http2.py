"""HTTP/2 where it is offered: libcurl against a real HTTP/2 server over TLS (the package h2)."""

import contextlib
import socket
import ssl
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trustme

from eventpost.testing import Collector
from eventpost.testing.transport_contract import collect, outcome_of, request_to, status_of
from support import curl_transport, missing

WINDOW_BYTES = 65_535
"""What an HTTP/2 sender may send before the receiver says that it has read."""


class Http2Server:
    """Answers every request with 204 over HTTP/2, on connections that agreed on it by ALPN; remembers what it read."""

    def __init__(self, folder: Path) -> None:
        ca = trustme.CA()
        self.bundle = str(folder / "ca.pem")
        ca.cert_pem.write_to_path(self.bundle)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        context.set_alpn_protocols(["h2"])
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/v1/events"
        self.agreed: list[str | None] = []
        self.requests: dict[tuple[int, int], dict[bytes, bytes]] = {}
        self.bodies: dict[tuple[int, int], bytes] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        try:
            with self._context.wrap_socket(plain, server_side=True) as connection:
                self._talk(connection)
        except OSError:  # the client went, or took too long
            return

    def _talk(self, connection: ssl.SSLSocket) -> None:
        from h2 import connection as http2
        from h2 import events
        from h2.config import H2Configuration

        number = len(self.agreed)
        self.agreed.append(connection.selected_alpn_protocol())
        if self.agreed[number] != "h2":
            return
        talk: Any = http2.H2Connection(H2Configuration(client_side=False, header_encoding=None))
        talk.initiate_connection()
        connection.sendall(talk.data_to_send())
        while data := connection.recv(65_536):
            for event in talk.receive_data(data):
                stream = (number, getattr(event, "stream_id", 0) or 0)
                if isinstance(event, events.RequestReceived):
                    self.requests[stream] = dict(event.headers)
                    self.bodies[stream] = b""
                elif isinstance(event, events.DataReceived):
                    self.bodies[stream] += event.data
                    talk.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, events.StreamEnded):
                    talk.send_headers(event.stream_id, [(b":status", b"204")], end_stream=True)
            connection.sendall(talk.data_to_send())

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def test_http2_where_tls_offers_it(tmp_path: Path) -> None:
    """Many requests at once are streams of one connection; whole bodies arrive, also beyond the flow control window."""
    if find_spec("h2") is None:
        missing("h2")
    server = Http2Server(tmp_path)
    transport = curl_transport(ca=server.bundle)
    try:
        sizes = [10] * 20 + [300_000] * 2
        bodies = [b'{"n":%d,"pad":"%s"}' % (number, b"x" * size) for number, size in enumerate(sizes)]
        assert max(map(len, bodies)) > 4 * WINDOW_BYTES
        for number, body in enumerate(bodies):
            transport.start(request_to(server.url, body=body, token=number))
        done = collect(transport, len(bodies))
        assert [status_of(completion.outcome) for completion in done] == [204] * len(bodies)
        assert server.agreed == ["h2"]
        assert sorted(server.bodies.values()) == sorted(bodies)
        for headers in server.requests.values():
            assert (headers[b":method"], headers[b":path"]) == (b"POST", b"/v1/events")
            assert headers[b"content-type"] == b"application/json"
            assert headers[b"user-agent"].startswith(b"eventpost/")
            assert b"expect" not in headers
    finally:
        transport.close(0)
        server.close()


@pytest.mark.parametrize("http2", [True, False])
def test_http2_is_offered_unless_it_is_declined(tmp_path: Path, http2: bool) -> None:
    """``http2=False`` does not offer it: a server that speaks nothing else hangs up."""
    if find_spec("h2") is None:
        missing("h2")
    server = Http2Server(tmp_path)
    transport = curl_transport(ca=server.bundle, http2=http2)
    try:
        transport.start(request_to(server.url))
        (completion,) = collect(transport, 1)
        assert (status_of(completion.outcome) == 204) is http2
        assert server.agreed == ["h2"] if http2 else "h2" not in server.agreed
    finally:
        transport.close(0)
        server.close()


class Forgetful:
    """Hands bytes on, as a balancer or firewall does, until ``forget``: connections from before then go silent."""

    def __init__(self, url: str) -> None:
        self._goal = url.split("/")[2].split(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{self._goal[1]}/", f":{self._listener.getsockname()[1]}/")
        self._forgotten = 0
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """Hand on nothing more of what is connected now, and do not say so."""
        self._forgotten = self.connections

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._goal[0], int(self._goal[1])))
            except OSError:
                return
            self.connections += 1
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._hand_on, args=(self.connections, *pair), daemon=True).start()

    def _hand_on(self, number: int, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError), one, other:
            while data := one.recv(65_536):
                if number > self._forgotten:
                    other.sendall(data)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


@pytest.mark.parametrize("version", ["HTTP/2", "HTTP/1.1"])
def test_a_connection_that_went_silent_is_left(tmp_path: Path, version: str) -> None:
    """One timeout is enough: the next request takes a new connection, and none of the others that were kept."""
    if version == "HTTP/2":
        if find_spec("h2") is None:
            missing("h2")
        server: Any = Http2Server(tmp_path)
        transport = curl_transport(ca=server.bundle)
    else:
        server, transport = Collector().start(), curl_transport()
    relay = Forgetful(server.url)
    try:
        for number in range(4):  # at once: HTTP/1.1 keeps four connections
            transport.start(request_to(relay.url, token=number))
        assert {status_of(done.outcome) for done in collect(transport, 4)} == {204}
        kept = relay.connections
        assert kept == (1 if version == "HTTP/2" else 4)
        time.sleep(1.1)  # libcurl counts a connection's age in seconds
        relay.forget()
        outcomes = [status_of(outcome_of(transport, request_to(relay.url, timeout_s=1.0))) for _ in range(4)]
        assert str(outcomes[0]).startswith("timeout")
        assert outcomes[1:] == [204] * 3
        assert relay.connections == kept + 1
    finally:
        transport.close(0)
        relay.close()
        server.close()
