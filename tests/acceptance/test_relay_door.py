"""The relay's door over real sockets: what is taken, what is refused, and that nothing is stored then."""

import gzip
import json
import threading
import zlib
from collections.abc import Iterator

import pytest

from eventpost.queues.journal import inspect
from relay_support import Door, Wire, ask, batch, bodies, request, wait_for

ORIGIN = "https://shop.example"
BATCH = batch()


@pytest.fixture(scope="module")
def door(tmp_path_factory) -> Iterator[Door]:
    """One door for all tests of this file that change nothing about it."""
    with Door(tmp_path_factory.mktemp("relay") / "journal", origin=[ORIGIN], body_bytes_max=100_000) as door:
        yield door


def stored_by(door: Door, count: int = 1) -> list[bytes]:
    """Return the bodies that were stored since the test began, which must be that many."""
    return door.stored()[-count:]


@pytest.fixture
def nothing_stored(door) -> Iterator[None]:
    """Fail a test that stores something."""
    before = len(door.stored())
    yield
    assert len(door.stored()) == before


class TestTaken:
    """204, and the very bytes in the folder."""

    @pytest.mark.parametrize(
        "body",
        [
            BATCH,
            b'  {"visitors" : [ ] }\n',
            json.dumps({"visitors": [{}], "z": 1.0, "name": "J\u00f6rg \u2603"}, ensure_ascii=False).encode(),
            b'{"visitors":[],"big":123456789012345678901234567890,"e":1E400}',
            b'{"visitors":[],"half":"\\ud83d"}',
        ],
        ids=["plain", "spaces", "utf-8", "big-number", "half-a-surrogate"],
    )
    def test_bytes_are_kept(self, door, body):
        """What was posted is what is stored, byte for byte, at the moment of the answer."""
        answer = ask(door.port, body)
        assert answer.status == 204
        assert stored_by(door) == [body]

    @pytest.mark.parametrize(
        ("path", "method"), [("/v1/events", "POST"), ("/eu/v1/events", "POST"), ("/v1/events?a=b", "POST")]
    )
    def test_paths(self, door, path, method):
        """The paths of both regions take events; a query changes nothing."""
        assert ask(door.port, BATCH, path=path, method=method).status == 204

    @pytest.mark.parametrize("kind", ["application/json", "text/plain;charset=UTF-8", "application/octet-stream", ""])
    def test_any_content_type(self, door, kind):
        """``sendBeacon`` sends text or a Blob of any type; JSON is what is inside."""
        body = batch(kind=kind)
        assert ask(door.port, body, *([f"Content-Type: {kind}"] if kind else [])).status == 204
        assert stored_by(door) == [body]

    @pytest.mark.parametrize(
        ("encoding", "pack"),
        [
            ("gzip", gzip.compress),
            ("x-gzip", gzip.compress),
            ("GZip", gzip.compress),
            ("deflate", zlib.compress),
            ("deflate", lambda body: zlib.compress(body)[2:-4]),
            ("identity", bytes),
            ("gzip", lambda body: gzip.compress(body[:30]) + gzip.compress(body[30:])),
        ],
        ids=["gzip", "x-gzip", "case", "zlib", "raw-deflate", "identity", "two-members"],
    )
    def test_packed(self, door, encoding, pack):
        """A packed body is stored unpacked: the endpoint is sent what was meant."""
        body = batch(pad="x" * 5000)
        assert ask(door.port, pack(body), f"Content-Encoding: {encoding}").status == 204
        assert stored_by(door) == [body]

    def test_chunked(self, door):
        """A body in chunks, however they are cut, is one body."""
        body = batch(pad="y" * 3000)
        with Wire(door.port) as wire:
            wire.send(request(b"", "Transfer-Encoding: chunked"))
            for at in range(0, len(body), 700):
                part = body[at : at + 700]
                wire.send(b"%x\r\n%s\r\n" % (len(part), part))
            assert wire.send(b"0\r\n\r\n").answer().status == 204
        assert stored_by(door) == [body]

    def test_expect_100_continue(self, door):
        """Who asks before it sends is told to go on, and then answered."""
        with Wire(door.port) as wire:
            wire.send(request(b"", "Expect: 100-continue", f"Content-Length: {len(BATCH)}"))
            assert wire.socket.recv(100).startswith(b"HTTP/1.1 100 ")
            assert wire.send(BATCH).answer().status == 204

    def test_keep_alive_and_pipelining(self, door):
        """Many requests share a connection, also sent all at once; each gets its answer, in order."""
        bodies = [batch(number) for number in range(20)]
        with Wire(door.port) as wire:
            wire.send(b"".join(request(body) for body in bodies[:10]) + request(b"[]"))
            assert [wire.answer().status for _ in range(11)] == [204] * 10 + [400]
            for body in bodies[10:]:
                assert wire.send(request(body)).answer().status == 204
        assert stored_by(door, 20) == bodies

    def test_byte_by_byte(self, door):
        """A client that sends byte by byte is a client."""
        with Wire(door.port) as wire:
            for byte in request(BATCH):
                wire.send(bytes([byte]))
            assert wire.answer().status == 204

    def test_an_offer_of_another_protocol_is_passed_over(self, door):
        """Java's client offers h2c with each request: the request is answered, and the connection stays usable."""
        lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
        with Wire(door.port) as wire:
            for _ in range(3):
                assert wire.send(request(BATCH, *lines)).answer().status == 204
            assert wire.send(request(BATCH, *lines) + request(BATCH)).answer().status == 204
            assert wire.answer().status == 204

    def test_many_offers_at_once(self, door):
        """However many such requests come in one piece, each gets its answer."""
        count = 2000
        offer = request(b'{"visitors":[]}', "Connection: Upgrade", "Upgrade: h2c")
        with Wire(door.port) as wire:
            sending = threading.Thread(target=wire.send, args=(offer * count,), daemon=True)
            sending.start()
            assert {wire.answer().status for _ in range(count)} == {204}
            sending.join(10)

    def test_http_1_0(self, door):
        """A client of HTTP/1.0 is answered, and its connection closed."""
        with Wire(door.port) as wire:
            wire.send(request(BATCH).replace(b"HTTP/1.1", b"HTTP/1.0"))
            answer = wire.answer()
            assert (answer.status, answer.headers["connection"]) == (204, "close")
            assert wire.ends()

    def test_strict_mode_takes_what_the_schema_allows(self, door):
        """With X-Optimizely-Strict a sound batch is taken."""
        assert ask(door.port, BATCH, "X-Optimizely-Strict: true").status == 204


@pytest.mark.usefixtures("nothing_stored")
class TestRefused:
    """A no with its reason in JSON, and nothing stored."""

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", "empty"),
            (b" \r\n", "empty"),
            (b"{", "not_json"),
            (b'{"visitors":[]}x', "not_json"),
            (b'{"visitors":[NaN]}', "not_json"),
            (b'{"visitors":["\\u00zz"]}', "not_json"),
            (b'{"visitors":[],"n":"\\ud800", "x":NaN}', "not_json"),
            (b"\xff\xfe{}", "not_json"),
            (b"[" * 100_000, "not_json"),
            (b'"\\u0041' + b"[" * 90_000, "not_json"),
            (b"[]", "not_a_batch"),
            (b"null", "not_a_batch"),
            (b'"visitors"', "not_a_batch"),
            (b"{}", "not_a_batch"),
            (b'{"visitors":{}}', "not_a_batch"),
            (b'{"visitors":null}', "not_a_batch"),
        ],
    )
    def test_no_batch(self, door, body, reason):
        """400 names what is wrong with the body."""
        answer = ask(door.port, body)
        assert (answer.status, answer.reason) == (400, reason)
        assert answer.headers["content-type"] == "application/json"

    def test_strict_mode(self, door):
        """With X-Optimizely-Strict each break of the schema is named by its place, and no value is."""
        body = b'{"visitors":[{"visitor_id":4711,"snapshots":[]}]}'
        answer = ask(door.port, body, "X-Optimizely-Strict: true")
        assert (answer.status, answer.reason) == (400, "strict")
        assert any("visitor_id" in one for one in answer.json()["errors"])
        assert b"4711" not in answer.body

    @pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip,deflate", "chunked", "\u00e9"])
    def test_unknown_encoding(self, door, encoding):
        """415 says which encodings are taken."""
        answer = ask(door.port, BATCH, f"Content-Encoding: {encoding}")
        assert (answer.status, answer.reason) == (415, "encoding")
        assert answer.headers["accept-encoding"] == "gzip, deflate"

    @pytest.mark.parametrize(
        "packed",
        [
            BATCH,
            gzip.compress(BATCH)[:-1],
            gzip.compress(BATCH)[:20],
            gzip.compress(BATCH) + b"x",
            gzip.compress(BATCH)[:-8] + bytes(8),
            b"",
        ],
        ids=["plain", "cut", "cut-short", "something-follows", "wrong-sum", "empty"],
    )
    def test_not_packed(self, door, packed):
        """A body that is not what its encoding says is malformed."""
        answer = ask(door.port, packed, "Content-Encoding: gzip")
        assert (answer.status, answer.reason) == (400, "not_packed")

    @pytest.mark.parametrize(
        ("encoding", "bomb"),
        [
            ("gzip", gzip.compress(bytes(50_000_000), 9)),
            ("deflate", zlib.compress(bytes(50_000_000), 9)),
            ("gzip", gzip.compress(b"") * 4000),
        ],
        ids=["gzip", "deflate", "members"],
    )
    def test_a_bomb(self, door, encoding, bomb):
        """A small body that would unpack to a huge one, or for ever, is refused early."""
        answer = ask(door.port, bomb, f"Content-Encoding: {encoding}")
        assert answer.status in (400, 413)

    def test_too_large_by_its_header(self, door):
        """413 comes before the body is read, and the connection stays in order if the client sends it all the same."""
        body = b"x" * 150_000
        with Wire(door.port) as wire:
            answer = wire.send(request(body) + request(b"{}")).answer()
            assert (answer.status, answer.reason) == (413, "too_large")
            assert wire.answer().status == 400

    def test_too_large_in_chunks(self, door):
        """413 also where nothing told the length before."""
        with Wire(door.port) as wire:
            wire.send(request(b"", "Transfer-Encoding: chunked") + b"20000\r\n" + bytes(0x20000) + b"\r\n0\r\n\r\n")
            assert wire.answer().status == 413

    def test_endless_chunks_are_not_read_to_their_end(self, door):
        """A body without an end is cut off, answered 413 where the client still reads."""
        with Wire(door.port) as wire:
            wire.send(request(b"", "Transfer-Encoding: chunked"))
            with pytest.raises(ConnectionError):
                wire.send((b"4000\r\n" + bytes(0x4000) + b"\r\n") * 4000)

    def test_refused_before_the_body_is_asked_for(self, door):
        """Who asks with Expect is refused without sending, and its connection ends: what follows could be that body."""
        with Wire(door.port) as wire:
            answer = wire.send(request(b"", "Expect: 100-continue", "Content-Length: 999999")).answer()
            assert (answer.status, answer.headers["connection"]) == (413, "close")
            assert wire.ends()

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
    def test_other_methods(self, door, method):
        """405 says which methods there are."""
        answer = ask(door.port, method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS")

    @pytest.mark.parametrize("path", ["/v1/event", "/v1/events/", "/us/v1/events", "//v1/events", "/V1/events"])
    def test_other_paths(self, door, path):
        """404 says where events go."""
        assert ask(door.port, BATCH, path=path).status == 404

    def test_a_client_that_goes_away(self, door):
        """A body that was broken off is not stored."""
        with Wire(door.port) as wire:
            wire.send(request(BATCH)[:-5])
        assert ask(door.port, path="/livez", method="GET").status == 200


class TestBrowsers:
    """Origins and preflights."""

    def test_a_known_origin(self, door):
        """A page on the list may send, and may read the answer."""
        answer = ask(door.port, BATCH, f"Origin: {ORIGIN}")
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["vary"] == "origin"

    @pytest.mark.usefixtures("nothing_stored")
    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "https://shop.example.evil", "http://127.0.0.1"]
    )
    def test_an_unknown_origin(self, door, origin):
        """Any other page is refused, also on this machine, and gets no word that its browser would show it."""
        answer = ask(door.port, BATCH, f"Origin: {origin}")
        assert (answer.status, answer.reason) == (403, "origin")
        assert "access-control-allow-origin" not in answer.headers

    def test_a_preflight(self, door):
        """A browser is told what it may send: a beacon with a JSON type comes with credentials."""
        lines = (
            f"Origin: {ORIGIN}",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: content-type",
        )
        answer = ask(door.port, b"", *lines, method="OPTIONS")
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["access-control-allow-methods"] == "POST"
        assert "content-type" in answer.headers["access-control-allow-headers"]
        assert int(answer.headers["access-control-max-age"]) > 0
        assert "access-control-allow-private-network" not in answer.headers

    def test_a_preflight_to_a_private_network(self, door):
        """A page on the list may reach a relay in a private network, if its browser asks."""
        lines = (
            f"Origin: {ORIGIN}",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Private-Network: true",
        )
        answer = ask(door.port, b"", *lines, method="OPTIONS")
        assert answer.headers["access-control-allow-private-network"] == "true"

    def test_a_preflight_of_an_unknown_origin(self, door):
        """Any other page's preflight fails."""
        lines = ("Origin: https://evil.example", "Access-Control-Request-Method: POST")
        answer = ask(door.port, b"", *lines, method="OPTIONS")
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers

    def test_a_no_can_be_read(self, door):
        """A page on the list may read why it was refused."""
        answer = ask(door.port, b"{}", f"Origin: {ORIGIN}")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (400, ORIGIN)


class TestProbes:
    """/livez, /readyz, /metrics."""

    @pytest.mark.parametrize("path", ["/livez", "/readyz"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_well(self, door, path, method):
        """A worker that can store says so."""
        assert ask(door.port, path=path, method=method).status == 200

    def test_only_get(self, door):
        """A probe is read."""
        assert ask(door.port, path="/livez").status == 405

    def test_the_folder_is_gone(self, tmp_path):
        """Without its folder a worker lives, is not ready, and answers 503 with Retry-After; it recovers."""
        with Door(tmp_path / "journal") as door:
            assert ask(door.port, BATCH).status == 204
            moved = tmp_path / "moved"
            (tmp_path / "journal").rename(moved)
            assert ask(door.port, path="/livez", method="GET").status == 200
            answer = ask(door.port, path="/readyz", method="GET")
            assert (answer.status, answer.reason) == (503, "folder_gone")
            wait_for(lambda: ask(door.port, BATCH).status == 503)
            answer = ask(door.port, BATCH)
            assert answer.reason == "folder_gone"
            assert int(answer.headers["retry-after"]) > 0
            moved.rename(tmp_path / "journal")
            wait_for(lambda: ask(door.port, path="/readyz", method="GET").status == 200)
            wait_for(lambda: ask(door.port, BATCH).status == 204)


def test_a_folder_that_was_replaced_ends_the_worker(tmp_path):
    """Where another folder stands in place of the worker's own, it ends: its successor begins there."""
    with Door(tmp_path / "journal") as door:
        assert ask(door.port, BATCH).status == 204
        (tmp_path / "journal").rename(tmp_path / "moved")
        (tmp_path / "journal" / "segments").mkdir(parents=True)
        door.join()
    assert bodies(tmp_path / "moved") == [BATCH]


def test_a_full_journal(tmp_path):
    """At its bound the relay says 503 and is not ready; what it took is all there, and nothing more."""
    with Door(tmp_path / "journal", bytes_max=1 << 20) as door:
        statuses = []
        with Wire(door.port) as wire:
            while not statuses or statuses[-1] == 204:
                assert len(statuses) < 200
                answer = wire.send(request(batch(len(statuses), pad="x" * 50_000))).answer()
                statuses.append(answer.status)
        assert (answer.status, answer.reason) == (503, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        assert ask(door.port, path="/readyz", method="GET").reason == "queue_full"
        assert ask(door.port, path="/livez", method="GET").status == 200
        assert len(door.stored()) == statuses.count(204)


class TestWhere:
    """Which endpoint an event goes to."""

    def urls(self, journal):
        """Return the URLs that the folder's events go to, in order."""
        return [one.event.envelope.url for one in inspect.tail(journal, last=None)]

    def test_regions(self, tmp_path, monkeypatch):
        """By path, and by host where it is set; never by anything in the request's body or header."""
        monkeypatch.setenv("EVENTPOST_ALLOW_TEST_SENDS", "1")
        with Door(tmp_path / "j", endpoint=None, eu_host=["eu.relay.example"], prefix="/optimizely/") as door:
            body = batch(url="http://evil.example/", endpoint="http://evil.example/")
            assert ask(door.port, body, path="/v1/events").status == 404
            assert ask(door.port, body, "X-Forwarded-Host: evil.example", path="/optimizely/v1/events").status == 204
            assert ask(door.port, body, path="/optimizely/eu/v1/events").status == 204
            assert ask(door.port, body, "Host: eu.relay.example:8787", path="/optimizely/v1/events").status == 204
            assert ask(door.port, path="/livez", method="GET").status == 200
            assert ask(door.port, path="/optimizely/livez", method="GET").status == 200
        us, eu = "https://logx.optimizely.com/v1/events", "https://eu.logx.optimizely.com/v1/events"
        assert sorted(self.urls(tmp_path / "j")) == sorted([us, eu, eu])

    def test_eu(self, tmp_path, monkeypatch):
        """With ``eu`` both paths mean the EU."""
        monkeypatch.setenv("EVENTPOST_ALLOW_TEST_SENDS", "1")
        with Door(tmp_path / "j", endpoint=None, eu=True) as door:
            assert ask(door.port, BATCH).status == 204
        assert self.urls(tmp_path / "j") == ["https://eu.logx.optimizely.com/v1/events"]

    def test_a_test_run_takes_nothing_for_optimizely(self, tmp_path):
        """Under a test runner nothing that would go to Optimizely is taken."""
        with Door(tmp_path / "j", endpoint=None) as door:
            answer = ask(door.port, BATCH)
        assert (answer.status, answer.reason) == (503, "test_run")


def test_merge_lets_equal_envelopes_share(tmp_path):
    """With ``merge`` a batch's visitors are stored apart from what stands around them; together they are its bytes."""
    one, two = batch(1, revision="5"), batch(2, revision="5")
    with Door(tmp_path / "j", merge=True) as door:
        assert ask(door.port, one).status == 204
        assert ask(door.port, two).status == 204
    first, second = (seen.event for seen in inspect.tail(tmp_path / "j", last=None))
    assert first.envelope == second.envelope
    assert first.envelope.shared
    assert [first.envelope.body([first.payload]), second.envelope.body([second.payload])] == [one, two]
    together = json.loads(first.envelope.body([first.payload, second.payload]))
    assert together["visitors"] == json.loads(one)["visitors"] + json.loads(two)["visitors"]
