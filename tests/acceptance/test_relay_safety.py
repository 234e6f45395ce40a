"""The relay's safety over the wire: tokens, certificates, the page's host names, what is never said."""

import socket
import ssl
from base64 import b64encode
from datetime import datetime, timezone

import pytest
import trustme

from eventpost.relay.access import make_digest
from relay_support import Answer, Door, Wire, ask, batch, request

TOKEN, PAGE_TOKEN = "evp_events", "evp_page"
SECRET = "visitor-of-great-secrecy"


def test_tokens(tmp_path):
    """Beyond loopback's rules, as a relay with tokens has them: each answer says what is missing, and no token."""
    settings = {"token": [make_digest("evp_other"), make_digest(TOKEN)], "page_token": [make_digest(PAGE_TOKEN)]}
    with Door(tmp_path / "j", **settings) as door:
        refused = ask(door.port, batch())
        assert (refused.status, refused.reason) == (401, "token")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert ask(door.port, batch(), "Authorization: Bearer evp_wrong").status == 401
        assert ask(door.port, batch(), f"Authorization: Bearer {PAGE_TOKEN}").status == 401
        assert ask(door.port, batch(), f"Authorization: Bearer {TOKEN}").status == 204
        user = b64encode(f":{TOKEN}".encode()).decode()
        assert ask(door.port, batch(), f"Authorization: Basic {user}").status == 204
        for path in ("/metrics", "/", "/anything"):
            assert ask(door.port, path=path, method="GET").status == 401
            assert ask(door.port, b"", f"Authorization: Bearer {TOKEN}", path=path, method="GET").status == 401
        shown = ask(door.port, b"", f"Authorization: Bearer {PAGE_TOKEN}", path="/metrics", method="GET")
        assert shown.status == 200
        for path in ("/livez", "/readyz"):
            assert ask(door.port, path=path, method="GET").status == 200
        assert len(door.stored()) == 2


def test_a_body_without_a_token_is_not_read_at_length(tmp_path):
    """Who may not send is told so, and cannot have a large body read into memory meanwhile."""
    with Door(tmp_path / "j", token=[make_digest(TOKEN)]) as door, Wire(door.port) as wire:
        wire.send(request(b"x" * 3_000_000))
        assert wire.answer().status == 401
        assert wire.send(request(batch(), f"Authorization: Bearer {TOKEN}")).answer().status == 204


@pytest.mark.parametrize("path", ["/", "/metrics"])
def test_a_rebound_host_name(tmp_path, path):
    """On loopback the page and the metrics are not shown to a foreign host name."""
    with Door(tmp_path / "j", host=["relay.example"]) as door:
        answer = ask(door.port, b"", "Host: evil.example:8787", path=path, method="GET")
        assert (answer.status, answer.reason) == (403, "host")
        for host in ("relay.example", "localhost:8787", "127.0.0.1"):
            assert ask(door.port, b"", f"Host: {host}", path=path, method="GET").status != 403


def test_a_rate(tmp_path):
    """Beyond its rate an address is told when to come again."""
    with Door(tmp_path / "j", rate_per_s=3) as door:
        statuses = [ask(door.port, batch()).status for _ in range(8)]
        assert statuses[:3] == [204] * 3
        assert 429 in statuses
        assert int(ask(door.port, batch()).headers["retry-after"]) >= 1


def test_nothing_of_a_request_is_said_again(tmp_path, caplog):
    """No answer and no log line holds anything of a body, a header or a path."""
    said: list[Answer] = []
    with Door(tmp_path / "j", token=[make_digest(TOKEN)], origin=["https://shop.example"]) as door:
        good = f"Authorization: Bearer {TOKEN}"
        secret = {"visitor_id": SECRET, "snapshots": SECRET}
        for body, *lines in (
            (batch(**{SECRET: SECRET}), good, "X-Optimizely-Strict: true"),
            (batch(visitors=[secret]), good, "X-Optimizely-Strict: true"),
            (SECRET.encode(), good),
            (b'{"' + SECRET.encode() + b'":1}', good),
            (batch(), f"Authorization: Bearer {SECRET}"),
            (batch(), f"Origin: https://{SECRET}.example"),
            (batch(), good, f"Content-Encoding: {SECRET}"),
        ):
            said.append(ask(door.port, body, *lines))
        said.append(ask(door.port, batch(), path=f"/{SECRET}"))
        said.append(ask(door.port, batch(), method=SECRET.upper().replace("-", "")))
    assert [one.status for one in said[2:]] == [400, 400, 401, 403, 415, 404, 400]
    assert SECRET not in "".join(f"{one.headers}{one.body!r}" for one in said)
    assert SECRET not in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "line",
    ["Origin: https://shop.example\r\n X: y", "X-Forwarded-For: 1.2.3.4\r\nOrigin: https://shop.example\rX: y"],
)
def test_no_header_is_injected(tmp_path, line):
    """What a request says stands in no answer's header in a form that would be another header."""
    with Door(tmp_path / "j", origin=["*"]) as door:
        answer = ask(door.port, batch(), line)
        assert "x" not in answer.headers


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return an authority, and the paths of what it issued."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client = authority.issue_cert("client@relay.example")
    client.private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    stranger = trustme.CA().issue_cert("stranger@relay.example")
    stranger.private_key_and_cert_chain_pem.write_to_path(str(folder / "stranger.pem"))
    late = authority.issue_cert("late@relay.example", not_after=datetime(2020, 1, 1, tzinfo=timezone.utc))
    late.private_key_and_cert_chain_pem.write_to_path(str(folder / "late.pem"))
    return folder


class TestTls:
    """HTTPS and client certificates."""

    def post(self, port, files, client=None):
        """Post a batch over TLS, and return the status."""
        context = ssl.create_default_context(cafile=str(files / "ca.pem"))
        if client is not None:
            context.load_cert_chain(str(files / client))
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            wrapped.sendall(request(batch()))
            return int(wrapped.recv(100).split()[1])

    def test_https(self, tmp_path, files):
        """With a certificate the relay speaks TLS, and nothing else."""
        with Door(tmp_path / "j", tls_cert=str(files / "server.pem")) as door:
            assert self.post(door.port, files) == 204
            with Wire(door.port) as wire:
                assert wire.send(request(batch())).ends()
            assert self.post(door.port, files) == 204

    def test_client_certificates(self, tmp_path, files):
        """With an authority for clients, who has no certificate of it cannot say a word."""
        settings = {"tls_cert": str(files / "server.pem"), "tls_client_ca": str(files / "ca.pem")}
        with Door(tmp_path / "j", **settings) as door:
            assert self.post(door.port, files, "client.pem") == 204
            for client in (None, "stranger.pem", "late.pem"):
                with pytest.raises((ssl.SSLError, ConnectionError, IndexError)):
                    self.post(door.port, files, client)
            assert len(door.stored()) == 1

    def test_a_handshake_that_stalls(self, tmp_path, files):
        """Who begins no handshake is let go in time."""
        settings = {"tls_cert": str(files / "server.pem"), "header_timeout_s": 0.5}
        with Door(tmp_path / "j", **settings) as door, Wire(door.port, timeout_s=10) as wire:
            assert wire.ends()
