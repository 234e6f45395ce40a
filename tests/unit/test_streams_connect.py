"""How the queue on Redis Streams connects: which address, for how long, trusting whom."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from eventpost.queues.streams import client
from eventpost.queues.streams.address import Place
from eventpost.queues.streams.client import Broken, Fault, Link, Login
from eventpost.transports.tls import Authorities
from streams_support import ScriptedServer, soon

NOBODY = Login(username=None, password=None, database=0, authorities=None)
PLACE = Place("queue.test", 7)


@pytest.fixture
def connected(monkeypatch):
    """Have connecting written down; an exception in ``answers`` is what comes of it."""
    found = SimpleNamespace(now=100.0, tried=[], answers=[], numbers=["a", "b", "c"])
    monkeypatch.setattr(client, "monotonic", lambda: found.now)

    def numbers(place, deadline):
        assert (place, deadline) == (PLACE, 106.0)
        return found.numbers

    def connect(place, number, login, until):
        found.tried.append((place, number, login, until))
        answer = found.answers.pop(0)
        found.now += 1.0
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "_numbers", numbers)
    monkeypatch.setattr(client, "_connected", connect)
    return found


def test_addresses_are_tried_in_turn_each_in_its_share_of_the_time(connected):
    """One that is silent leaves time for the others; the first that answers is taken."""
    connected.answers = [OSError("one"), RedisConnectionError("two"), "connection"]
    link = Link(PLACE, NOBODY, 106.0)
    assert (link.place, link._connection) == (PLACE, "connection")
    assert connected.tried == [(PLACE, "a", NOBODY, 102.0), (PLACE, "b", NOBODY, 103.5), (PLACE, "c", NOBODY, 106.0)]
    connected.now, connected.tried = 100.0, []
    connected.answers = [ValueError("one"), "connection"]
    Link(PLACE, NOBODY, 106.0)
    assert len(connected.tried) == 2


def test_where_none_answers_the_last_one_says_why(connected):
    """Nothing was sent.  With no time left none is tried; with little, one is."""
    connected.answers = [OSError("one"), OSError("two"), OSError("three")]
    with pytest.raises(Broken, match=r"queue\.test:7 .*three") as caught:
        Link(PLACE, NOBODY, 106.0)
    assert caught.value.sent is False
    connected.tried.clear()
    connected.now = 106.0
    with pytest.raises(Broken, match="no time") as caught:
        Link(PLACE, NOBODY, 106.0)
    assert caught.value.sent is False
    assert connected.tried == []
    connected.now, connected.answers, connected.numbers = 105.9, ["connection"], ["a"]
    Link(PLACE, NOBODY, 106.0)


def test_a_server_that_lets_nobody_in_is_asked_at_no_other_address(connected):
    """Its answer is an answer; and a socket of the system has no address to look for."""
    connected.answers = [Fault("WRONGPASS no"), "connection"]
    with pytest.raises(Fault, match="WRONGPASS"):
        Link(PLACE, NOBODY, 106.0)
    connected.answers = [Fault("ERR max number of clients reached"), "connection"]
    with pytest.raises(Broken, match="maxclients"):
        Link(PLACE, NOBODY, 106.0)
    connected.tried.clear()
    connected.now, connected.answers = 100.0, ["connection"]
    path = Place("/run/r.sock", 0)
    Link(path, NOBODY, 106.0)
    assert connected.tried == [(path, "/run/r.sock", NOBODY, 106.0)]


class Connection:
    """What redis-py would connect."""

    fails = None
    made = None

    def __init__(self, **options):
        self.options = options
        self.closed = 0
        type(self).made = self

    def connect(self):
        """As redis-py's."""
        if self.fails:
            raise self.fails

    def disconnect(self):
        """As redis-py's."""
        self.closed += 1


@pytest.mark.parametrize("kind", ["_Tcp", "_Tls", "_Unix"])
def test_redis_py_is_told_to_wait_no_longer_and_to_try_once(monkeypatch, kind):
    """It decides nothing; what does not connect is closed."""
    monkeypatch.setattr(client, "monotonic", lambda: 100.0)
    monkeypatch.setattr(client, "_context", lambda authorities: ("trusts", authorities))
    fake = type(kind, (Connection,), {})
    monkeypatch.setattr(client, kind, fake)
    authorities = Authorities("/ca.pem", "ca") if kind == "_Tls" else None
    login = Login(username="u", password="p", database=4, authorities=authorities)
    place = Place("/r.sock", 0) if kind == "_Unix" else PLACE
    made = client._connected(place, "10.0.0.1", login, 102.5)
    assert isinstance(made, fake)
    options = made.options
    retry = options.pop("retry")
    assert (retry._retries, type(retry._backoff).__name__) == (0, "NoBackoff")
    assert options.pop("socket_read_size") > 0
    assert {name: options.pop(name) for name in client._NO_GREETING} == client._NO_GREETING
    where = {"path": "/r.sock"} if kind == "_Unix" else {"host": "queue.test", "port": 7}
    assert options == {
        "username": "u", "password": "p", "db": 4, "socket_timeout": 2.5, "socket_connect_timeout": 2.5,
        "protocol": 2, "parser_class": client._Parser, **where,
    }  # fmt: skip
    assert made.until == 102.5
    if kind != "_Unix":
        assert made.number == "10.0.0.1"
    assert getattr(made, "context", None) == (("trusts", authorities) if authorities else None)
    assert made.closed == 0
    assert 0 < client._connected(place, "10.0.0.1", login, 90.0).options["socket_timeout"] < 0.1
    for error in (OSError("no"), KeyboardInterrupt()):
        fake.fails = error
        with pytest.raises(type(error)):
            client._connected(place, "10.0.0.1", login, 102.5)
        assert fake.made.closed == 1


def test_a_name_is_resolved_once_and_stays_the_name(monkeypatch):
    """What is connected to is the number; redis-py, which would ask again without a deadline, is given no name."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host, *rest):
        asked.append((host, *rest))
        return real("127.0.0.1" if len(asked) == 1 else host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with ScriptedServer(b"+PONG\r\n") as server:
        place = Place("queue.test", server.place.port)
        link = Link(place, NOBODY, soon())
        assert link._connection.host == "queue.test"
        assert link.ask([("PING",)], soon()) == [b"PONG"]
        link.close()
    assert asked[0] == ("queue.test", place.port, 0, socket.SOCK_STREAM)
    assert asked[1][0] == "127.0.0.1"


def test_addresses_of_a_host(monkeypatch):
    """What is a number already is nobody's to resolve."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    for number in ("127.0.0.1", "::1"):
        assert client._numbers(Place(number, 7), 0.0) == [number]


def test_a_name_has_the_addresses_that_the_system_says(monkeypatch):
    """Each once, in its order; a name that is not known, or that no name can be, cannot be reached."""
    answers = [[(0, 0, 0, "", (one, 7)) for one in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]]
    answers += [OSError("unknown"), UnicodeError("no name"), []]

    def getaddrinfo(host, port, family, kind):
        assert (host, port, family, kind) == ("queue.test", 7, 0, socket.SOCK_STREAM)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert client._numbers(PLACE, soon()) == ["10.0.0.2", "10.0.0.1"]
    for words in ("unknown", "no name", "name"):
        with pytest.raises(Broken, match=words) as caught:
            client._numbers(PLACE, soon())
        assert caught.value.sent is False


def test_the_systems_resolver_is_not_waited_for(monkeypatch):
    """It knows no deadline."""
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: done.wait(5) and [])
    began = time.monotonic()
    with pytest.raises(Broken, match="in time") as caught:
        client._numbers(PLACE, began + 0.02)
    done.set()
    assert caught.value.sent is False
    assert 0.02 <= time.monotonic() - began < 4


class Sock:
    """A socket, at what is used of it."""

    def __init__(self, *, fails=None):
        self.fails = fails
        self.calls = []

    def settimeout(self, seconds):
        """As a socket's."""
        self.calls.append(round(seconds, 6))

    def connect(self, path):
        """As a socket's."""
        self.calls.append(path)
        if self.fails:
            raise self.fails

    def wrap_socket(self, sock, *, server_hostname):
        """As a context's."""
        self.calls.append((sock, server_hostname))
        if self.fails:
            raise self.fails
        return "wrapped"

    def close(self):
        """As a socket's."""
        self.calls.append("closed")


def test_a_greeting_with_tls_ends_in_time_and_is_checked_for_the_name(monkeypatch):
    """Not for the number that was connected to; where it fails the socket is closed."""
    monkeypatch.setattr(client, "monotonic", lambda: 100.0)
    sock = Sock()
    monkeypatch.setattr(client.Connection, "_connect", lambda self: sock.calls.append(self.host) or sock)
    tls = client._Tls(host="queue.test", port=7)
    tls.number, tls.until, tls.context = "10.0.0.1", 103.0, Sock()
    timed = tls._connect()
    assert (timed._sock, timed.until) == ("wrapped", 103.0)
    assert sock.calls == ["10.0.0.1", 3.0]
    assert tls.context.calls == [(sock, "queue.test")]
    sock.calls.clear()
    tls.until, tls.context = 90.0, Sock(fails=ssl.SSLError("no"))
    with pytest.raises(ssl.SSLError):
        tls._connect()
    assert 0 < sock.calls[1] < 0.1
    assert sock.calls[2] == "closed"


def test_a_socket_of_the_system_is_connected_in_time(monkeypatch, tmp_path):
    """And closed where it cannot be."""
    path = str(tmp_path / "s")
    with ScriptedServer(b"+PONG\r\n", unix=path):
        link = Link(Place(path, 0), NOBODY, soon())
        assert link.ask([("PING",)], soon()) == [b"PONG"]
        link.close()
    with pytest.raises(Broken):
        Link(Place(str(tmp_path / "none"), 0), NOBODY, soon())
    monkeypatch.setattr(client, "monotonic", lambda: 100.0)
    made = Sock()
    kinds = []
    monkeypatch.setattr(client.socket, "socket", lambda *kind: kinds.append(kind) or made)
    unix = client._Unix(path="/r.sock")
    unix.until = 103.0
    timed = unix._connect()
    assert (timed._sock, timed.until) == (made, 103.0)
    assert kinds == [(socket.AF_UNIX, socket.SOCK_STREAM)]
    assert made.calls == [3.0, "/r.sock"]
    made = Sock(fails=OSError("no"))
    unix.until = 90.0
    with pytest.raises(OSError, match="no"):
        unix._connect()
    assert 0 < made.calls[0] < 0.1
    assert made.calls[1:] == ["/r.sock", "closed"]


def test_those_who_are_trusted_are_those_who_were_named(monkeypatch, tmp_path):
    """A file, a folder, or where nothing was found whoever the system trusts."""
    asked = []
    monkeypatch.setattr(ssl, "create_default_context", lambda **options: asked.append(options) or "context")
    for path in (None, str(tmp_path), str(tmp_path / "ca.pem")):
        assert client._context(Authorities(path, "ca")) == "context"
    assert asked == [{}, {"capath": str(tmp_path)}, {"cafile": str(tmp_path / "ca.pem")}]
