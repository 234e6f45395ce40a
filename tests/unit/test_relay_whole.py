"""What becomes of a request that came whole, whose application is begun without a task, whatever it then does."""

import asyncio
import gc
import weakref

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from eventpost.relay import answers
from eventpost.relay.protocol import Bounds, RelayProtocol

PATH = "/v1/events"
BODY = b'{"visitors":[]}'
SLOW_S = 0.02


def request(*lines: str, version: str = "1.1") -> bytes:
    """Return a whole request."""
    head = [f"POST {PATH} HTTP/{version}", "Host: here", f"Content-Length: {len(BODY)}", *lines, "", ""]
    return "\r\n".join(head).encode() + BODY


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closing = False

    def write(self, data):
        """Keep it."""
        self.written += data

    def is_closing(self):
        """Tell what was asked."""
        return self.closing

    def close(self):
        """Be closed."""
        self.closing = True

    abort = close

    def pause_reading(self):
        """Do nothing."""

    def resume_reading(self):
        """Do nothing."""


def connected(app):
    """Return a connection to an application."""
    bounds = Bounds(
        header_bytes_max=8192, header_timeout_s=5, connections_max=10, keep_alive_s=5, paths=[PATH],
        refuse=lambda *said: None, soon=asyncio.get_running_loop().call_soon,
    )  # fmt: skip
    bounds.refresh()
    config = Config(app, interface="asgi3", lifespan="off", ws="none", log_config=None, proxy_headers=False)
    config.load()
    protocol = RelayProtocol(bounds, config, ServerState(), asyncio.get_running_loop())
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


def answered(app, *pieces: bytes) -> Transport:
    """Send these to an application; return the connection after a moment."""

    async def scenario():
        protocol, transport = connected(app)
        for piece in pieces:
            protocol.data_received(piece)
        await asyncio.sleep(3 * SLOW_S)
        assert protocol.tasks == set()
        return transport

    return asyncio.run(scenario())


async def takes(scope, receive, send):
    """Answer 204 to a body."""
    message = await receive()
    assert (message["body"], message["more_body"]) == (BODY, False)
    await send(answers.NO_CONTENT)
    await send(answers.END)


async def takes_slowly(scope, receive, send):
    """Do the same, with a wait in between."""
    await asyncio.sleep(SLOW_S)
    await takes(scope, receive, send)


async def fails(scope, receive, send):
    """Break before anything was said."""
    raise LookupError("nothing is here")


async def fails_late(scope, receive, send):
    """Break after a wait."""
    await asyncio.sleep(SLOW_S)
    raise LookupError("nothing is here")


async def says_nothing(scope, receive, send):
    """End without an answer."""
    await receive()


async def says_half(scope, receive, send):
    """End in the middle of an answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})


@pytest.mark.parametrize("app", [takes, takes_slowly])
@pytest.mark.parametrize("expects", [(), ("Expect: 100-continue",)])
def test_it_is_answered(app, expects):
    """Once for each request, also where a client says that it would have waited to be told to go on."""
    whole = request(*expects)
    transport = answered(app, whole, whole)
    assert transport.written.count(b"HTTP/1.1 204 No Content\r\n") == 2
    assert not transport.closing


@pytest.mark.parametrize("app", [takes, takes_slowly])
def test_a_body_that_comes_later_is_waited_for(app):
    """It is taken whole, whatever came with its header."""

    async def reads(scope, receive, send):
        parts = [await receive()]
        while parts[-1]["more_body"]:
            parts.append(await receive())
        assert b"".join(part["body"] for part in parts) == BODY
        await send(answers.NO_CONTENT)
        await send(answers.END)

    whole = request()
    transport = answered(reads, whole[:-9], whole[-9:-4], whole[-4:] + whole[:-1], whole[-1:])
    assert transport.written.count(b"HTTP/1.1 204 No Content\r\n") == 2


@pytest.mark.parametrize(("version", "line", "lasts"), [
    ("1.1", "Accept: */*", True), ("1.1", "Connection: close", False), ("1.0", "Accept: */*", False),
    ("1.0", "Connection: keep-alive", False),
])  # fmt: skip
def test_a_connection_lasts_as_its_requests_say(version, line, lasts):
    """HTTP/1.0 ends it whatever its client says."""
    transport = answered(takes, request(line, version=version))
    assert transport.written.startswith(b"HTTP/1.1 204 ")
    assert transport.closing is not lasts


@pytest.mark.parametrize("app", [fails, fails_late, says_nothing])
def test_what_breaks_is_answered_500(app, caplog):
    """The connection ends, and the log says what it was."""
    transport = answered(app, request())
    assert transport.written.startswith(b"HTTP/1.1 500 ")
    assert transport.closing
    assert ("nothing is here" in caplog.text) is (app is not says_nothing)


def test_half_an_answer_ends_the_connection(caplog):
    """Nobody could tell where the next answer begins."""
    transport = answered(says_half, request())
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert transport.closing
    assert "without completing response" in caplog.text


def test_a_connection_that_is_gone_is_let_go_of():
    """Nothing that an answered request leaves keeps the connection: no collection is needed to be rid of it."""

    async def scenario():
        protocol, transport = connected(takes)
        protocol.data_received(request())
        protocol.connection_lost(None)
        del transport
        there = weakref.ref(protocol.cycle)
        gc.disable()
        try:
            protocol.cycle = None
            return there()
        finally:
            gc.enable()

    assert asyncio.run(scenario()) is None


async def refuses(scope, receive, send):
    """Say no."""
    await answers.deny(send, answers.Denied(400, "empty", "there is no body"))


@pytest.mark.parametrize("then", [
    lambda protocol: protocol.data_received(b"no HTTP\r\n\r\n"), lambda protocol: protocol.eof_received(),
    lambda protocol: protocol.close_if_idle(), lambda protocol: protocol.data_received(b"GET /other HTTP/1.1\r\n\r\n"),
])  # fmt: skip
def test_what_was_answered_is_written_before_anything_else(then):
    """Answers are written at the end of the loop's round; whatever ends the connection before that lets them pass."""

    async def app(scope, receive, send):
        await (takes if scope["path"] == PATH else refuses)(scope, receive, send)

    async def scenario():
        protocol, transport = connected(app)
        protocol.data_received(request() + request())
        assert transport.written == b""
        if not then(protocol) and not transport.closing:
            await asyncio.sleep(0)
        written = transport.written
        await asyncio.sleep(SLOW_S)
        return written, transport.written

    written, in_the_end = asyncio.run(scenario())
    assert written.split(b"\r\n", 1)[0] == b"HTTP/1.1 204 No Content"
    assert written.count(b"HTTP/1.1 204 ") == in_the_end.count(b"HTTP/1.1 204 ") == 2
    assert in_the_end.rfind(b"HTTP/1.1 204 ") < (in_the_end.find(b"HTTP/1.1 400 ") % (len(in_the_end) + 1))


def test_a_connection_that_broke_meanwhile_holds_up_no_other():
    """Its answer is nobody's; the others have theirs."""

    async def scenario():
        first, gone = connected(takes)
        second, there = connected(takes)
        second._bounds = first._bounds
        for protocol in (first, second):
            protocol.data_received(request())
        gone.close()
        await asyncio.sleep(0)
        return gone.written, there.written

    gone, there = asyncio.run(scenario())
    assert gone == b""
    assert there.startswith(b"HTTP/1.1 204 ")
