"""What bounds the relay's connections: slow senders, floods, garbage; each costs its connection and nothing else."""

import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from relay_support import Door, Wire, ask, batch, request, uuid_of, uuids, wait_for

BATCH = batch()
HEADER_BYTES_MAX = 4096


@pytest.fixture(scope="module")
def door(tmp_path_factory) -> Iterator[Door]:
    """Run a door with short times and small bounds."""
    settings = {
        "header_bytes_max": HEADER_BYTES_MAX, "header_timeout_s": 1.0, "body_timeout_s": 1.0, "keep_alive_s": 2.0,
        "bodies_bytes_max": 3_500_000,
    }  # fmt: skip
    with Door(tmp_path_factory.mktemp("relay") / "journal", **settings) as door:
        yield door


@pytest.fixture(autouse=True)
def still_well(door) -> Iterator[None]:
    """After each test the door takes events as before, and holds nothing of what the test left."""
    yield
    assert ask(door.port, BATCH).status == 204
    assert door.worker.reader.held_bytes == 0


class TestHeaders:
    """431, 408 and 400, before there is a request."""

    @pytest.mark.parametrize(
        "flood",
        [
            b"POST /v1/events HTTP/1.1\r\nX: " + b"y" * 10_000,
            b"POST /v1/events HTTP/1.1\r\n" + b"X: y\r\n" * 2000,
            b"POST /" + b"y" * 10_000,
            b"POST /v1/events HTTP/1.1\r\nX: " + b"y" * 5000 + b"\r\n\r\n",
            b"POST /v1/events HTTP/1.1\r\nContent-Length: 300000\r\n" + b"X: y\r\n" * 700 + b"\r\n" + b"{}",
        ],
        ids=["one", "many", "url", "whole", "whole-many"],
    )
    def test_too_large(self, door, flood):
        """A header over the bound is cut off with 431, whether or not it ever ends."""
        with Wire(door.port) as wire:
            answer = wire.send(flood).answer()
            assert (answer.status, answer.reason) == (431, "header_too_large")
            assert answer.headers["connection"] == "close"
            assert wire.ends()

    def test_an_endless_flood_is_not_kept(self, door):
        """Who goes on sending header lines is cut off, at a bounded cost."""
        with Wire(door.port) as wire:
            wire.send(b"GET / HTTP/1.1\r\n")
            with pytest.raises(ConnectionError):
                wire.send(b"X-Flood: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 1_000_000)

    def test_just_fits(self, door):
        """A header at the bound is a header, also where a large body comes in the same piece."""
        room = HEADER_BYTES_MAX - len(request(BATCH)) + len(BATCH) - 10
        body = batch(pad="x" * 50_000)
        assert ask(door.port, body, "X: " + "y" * (room - 20)).status == 204

    def test_too_slow(self, door):
        """A header that does not come to its end is answered 408 in time."""
        began = time.monotonic()
        with Wire(door.port) as wire:
            answer = wire.send(b"POST /v1/events HTTP/1.1\r\nHost: ").answer()
            assert (answer.status, answer.reason) == (408, "slow_header")
            assert wire.ends()
        assert 0.9 < time.monotonic() - began < 5

    def test_dripping(self, door):
        """A byte now and then does not buy time."""
        began = time.monotonic()
        with Wire(door.port) as wire, pytest.raises(ConnectionError):  # noqa: PT012 - it is one long sentence
            for byte in b"POST /v1/events HTTP/1.1\r\nHost: a\r\n" * 10:
                wire.send(bytes([byte]))
                time.sleep(0.1)
        assert time.monotonic() - began < 6

    def test_dripping_the_second_request(self, door):
        """Nor does it on a connection that has been of use."""
        began = time.monotonic()
        with Wire(door.port) as wire:
            assert wire.send(request(BATCH)).answer().status == 204
            assert wire.send(request(BATCH)[:30]).answer().status == 408
            assert wire.ends()
        assert time.monotonic() - began < 5

    def test_silence(self, door):
        """Who connects and says nothing is let go without a word; so is who says nothing more."""
        began = time.monotonic()
        with Wire(door.port) as silent, Wire(door.port) as idle:
            assert idle.send(request(BATCH)).answer().status == 204
            assert silent.ends()
            assert time.monotonic() - began < 4
            assert idle.ends()
        assert 1.9 < time.monotonic() - began < 6

    def test_empty_lines_buy_no_time(self, door):
        """Line ends between requests are no request."""
        with Wire(door.port) as wire:
            assert wire.send(request(BATCH)).answer().status == 204
            with pytest.raises(ConnectionError):  # noqa: PT012 - as above
                for _ in range(60):
                    wire.send(b"\r\n")
                    time.sleep(0.1)

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"POST /v1/events\r\n\r\n",
            b"POST /v1/events HTTP/9.9\r\n\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            request(BATCH, "Transfer-Encoding: chunked", "Content-Length: 5"),
            request(BATCH, "Content-Length: 5", "Content-Length: 6"),
            request(BATCH, "Content-Length: -5"),
            request(BATCH, "Content-Length: 99999999999999999999999"),
            request(BATCH, "Content-Length: 0x10"),
            request(BATCH, "Transfer-Encoding: chunked, gzip"),
            request(b"zz\r\n" + BATCH, "Transfer-Encoding: chunked"),
            request(BATCH, "X : y"),
            request(BATCH, "X\x00: y"),
            request(BATCH, "X: a\x00b"),
            request(BATCH, "X: y\r\n folded"),
            request(BATCH, path="/v1/\x00events"),
        ],
    )
    def test_no_http(self, door, garbage):
        """400 for what is no HTTP, and nothing of it is stored."""
        before = len(door.stored())
        with Wire(door.port) as wire:
            assert wire.send(garbage).answer().status in (400, 405)
            assert wire.ends()
        assert len(door.stored()) == before

    def test_garbage_after_requests(self, door):
        """What came whole is answered first, in order; then comes the end."""
        with Wire(door.port) as wire:
            wire.send(request(batch(71)) + request(batch(72)) + b"\x00garbage")
            assert [wire.answer().status for _ in range(3)] == [204, 204, 400]
            assert wire.ends()
        assert {uuid_of(71), uuid_of(72)} <= uuids(door.stored())

    def test_a_body_that_breaks_off_in_garbage(self, door):
        """A body whose framing breaks is not stored, neither first in line nor later."""
        broken = request(b'5\r\n{"vi\r\nzz\r\n', "Transfer-Encoding: chunked")
        before = len(door.stored())
        with Wire(door.port) as wire:
            assert wire.send(broken).answer().status == 400
            assert wire.ends()
        with Wire(door.port) as wire:
            wire.send(request(batch(73)) + broken)
            assert [wire.answer().status for _ in range(2)] == [204, 400]
            assert wire.ends()
        assert len(door.stored()) == before + 1


class TestBodies:
    """408 and 503."""

    @pytest.mark.parametrize("sent", [b"", BATCH[:10]], ids=["nothing", "some"])
    def test_too_slow(self, door, sent):
        """A body that stops on its way is answered 408 in time, and not stored."""
        before = len(door.stored())
        with Wire(door.port) as wire:
            answer = wire.send(request(sent, f"Content-Length: {len(BATCH)}")).answer()
            assert (answer.status, answer.reason) == (408, "slow_body")
            assert wire.ends()
        assert len(door.stored()) == before

    def test_dripping(self, door):
        """A byte now and then does not buy time."""
        began = time.monotonic()
        with Wire(door.port) as wire:
            wire.send(request(b"{", "Content-Length: 1000"))
            with pytest.raises(ConnectionError):  # noqa: PT012 - as above
                for _ in range(60):
                    wire.send(b" ")
                    time.sleep(0.1)
        assert time.monotonic() - began < 6

    def test_all_bodies_together(self, door):
        """The bytes of bodies that come in at once are bounded: who would exceed that is told to come again."""
        with Wire(door.port) as first, Wire(door.port) as second:
            first.send(request(b"x" * 3_000_000, "Content-Length: 3400000"))
            wait_for(lambda: door.worker.reader.held_bytes == 3_000_000)
            second.send(request(b"x" * 1_000_000, "Content-Length: 3400000"))
            answer = second.answer()
            assert (answer.status, answer.reason) == (503, "busy")
            assert first.answer().status == 408

    def test_a_client_that_does_not_read(self, door):
        """Answers that nobody reads fill no memory: the connection is no longer read from, and others go on."""
        ask_ = request(b"", method="GET", path="/v1/events")
        many = ask_ * 1000
        with Wire(door.port) as wire:
            wire.socket.setblocking(False)
            sent = 0
            went_on_at = time.monotonic()
            while time.monotonic() < went_on_at + 1 and sent < 100_000_000:  # a second in which nothing more was read
                try:
                    sent += wire.socket.send(many[sent % len(ask_) :])
                    went_on_at = time.monotonic()
                except BlockingIOError:
                    assert ask(door.port, BATCH).status == 204
                    time.sleep(0.1)
            assert sent < 50_000_000


def test_too_many_connections(tmp_path):
    """Beyond the bound a request is told to come again, far beyond it nobody is listened to; then all is well again."""
    with Door(tmp_path / "j", connections_max=4) as door:
        some = [Wire(door.port) for _ in range(4)]
        for wire in some:
            assert wire.send(request(BATCH)).answer().status == 204
        over = Wire(door.port)
        answer = over.send(request(BATCH)).answer()
        assert (answer.status, answer.reason) == (503, "connections")
        assert int(answer.headers["retry-after"]) > 0
        assert over.ends()
        more = [Wire(door.port) for _ in range(3)]
        assert more[-1].ends()
        for wire in [*some, over, *more]:
            wire.close()
        time.sleep(0.2)
        assert ask(door.port, BATCH).status == 204


def test_raw_bytes(door):
    """Whatever bytes come, the answers are none of 5xx, nobody hangs, and events are taken as before."""
    chance = random.Random(20260401)
    good = [
        request(BATCH), request(BATCH, "Transfer-Encoding: chunked"), request(BATCH, "Content-Encoding: gzip"),
        request(b'5\r\n{"vis\r\n0\r\n\r\n', "Transfer-Encoding: chunked"), request(method="OPTIONS"),
        request(BATCH, "Expect: 100-continue"), request(BATCH, "Origin: null", "Authorization: Basic Og=="),
        request(method="GET", path="/readyz"), request(method="GET", path="/metrics"), request(method="GET", path="/"),
        request(BATCH, "Connection: Upgrade", "Upgrade: websocket"), request(BATCH, "X-Optimizely-Strict: true"),
        request(BATCH, "Content-Encoding: deflate", "X-Forwarded-For: ::1, [", "Host: ["),
    ]  # fmt: skip
    tokens = [
        b"\r\n",
        b"\0",
        b":",
        b" ",
        b"HTTP/1.1",
        b"%",
        b"\xff",
        b"chunked",
        b"9" * 30,
        b"{",
        b"\\u",
        b"/../",
        b"?",
    ]

    def mutated() -> bytes:
        data = bytearray(b"".join(chance.choice(good) for _ in range(chance.randint(1, 3))))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(4):
                case 0:
                    data[at : at + chance.randint(1, 20)] = b""
                case 1:
                    data[at:at] = chance.choice(tokens)
                case 2:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case _:
                    data[at:at] = data[: chance.randint(0, 200)]
        return bytes(data)

    statuses: set[int] = set()
    lock = threading.Lock()

    def attack(pieces: list[bytes]) -> None:
        for piece in pieces:
            with Wire(door.port, timeout_s=15) as wire:
                seen = bytearray()
                try:
                    wire.send(piece)
                    wire.socket.shutdown(socket.SHUT_WR)
                    while part := wire.socket.recv(65536):
                        seen += part
                except ConnectionError:
                    pass  # cut off; a timeout is no ConnectionError, and fails the test
                lines = [line for line in bytes(seen).split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
                with lock:
                    statuses.update(int(line.split()[1]) for line in lines)

    work = [[mutated() for _ in range(100)] for _ in range(8)]
    failures: list[BaseException] = []
    threads = [threading.Thread(target=lambda one=one: _noting(failures, attack, one)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert failures == []
    assert {200, 204, 400} <= statuses
    assert {one for one in statuses if one >= 500} == set()


def _noting(failures, call, *arguments):
    try:
        call(*arguments)
    except BaseException as error:
        failures.append(error)
