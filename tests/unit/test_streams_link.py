"""One connection of the queue on Redis Streams: what goes over the wire, how long is waited, what breaks it."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from eventpost.queues.streams import client
from eventpost.queues.streams.address import Place
from eventpost.queues.streams.client import SCRIPTS, Broken, Fault, Link, Login
from streams_support import ScriptedServer, soon

NOBODY = Login(username=None, password=None, database=0, authorities=None)
PLACE = Place("queue.test", 7)


def test_nothing_goes_over_the_wire_but_what_is_asked():
    """All at once and without a greeting; errors come back among the answers, in the server's words."""
    with ScriptedServer(b"+PONG\r\n-MOVED 12 10.0.0.1:7\r\n:7\r\n*1\r\n$-1\r\n") as server:
        link = Link(server.place, NOBODY, soon())
        assert link.is_open
        answers = link.ask([("PING",), ("GET", "k"), ("INCR", b"\xff"), ("X", 1)], soon())
        link.close()
        assert not link.is_open
    assert server.got == b"".join(
        (
            b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"*2\r\n$4\r\nINCR\r\n$1\r\n\xff\r\n",
            b"*2\r\n$1\r\nX\r\n$1\r\n1\r\n",
        )
    )  # fmt: skip
    assert answers[0] == b"PONG"
    assert answers[2:] == [7, [None]]
    assert (type(answers[1]), str(answers[1]), answers[1].code) == (Fault, "MOVED 12 10.0.0.1:7", "MOVED")


def test_who_we_are_is_said_first():
    """User, password and database; a server that lets nobody in says why."""
    login = Login(username="u", password="p", database=3, authorities=None)
    with ScriptedServer(b"+OK\r\n", b"+OK\r\n") as server:
        Link(server.place, login, soon()).close()
    assert server.got == b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"
    with ScriptedServer(b"-WRONGPASS no\r\n") as server, pytest.raises(Fault, match=r"^WRONGPASS no$"):
        Link(server.place, login, soon())


NO_ROOM = b"-ERR max number of clients reached\r\n"


def test_a_server_with_as_many_connections_as_it_takes_has_done_nothing():
    """As it says at once, or to the first question: it is one that cannot be reached, and what to do is said."""
    login = Login(username="u", password="p", database=0, authorities=None)
    with ScriptedServer(NO_ROOM) as server, pytest.raises(Broken, match=f"^{server.place} .*maxclients") as caught:
        Link(server.place, login, soon())
    assert (caught.value.sent, caught.value.closed) == (False, False)
    with ScriptedServer(NO_ROOM) as server:
        link = Link(server.place, NOBODY, soon())
        with pytest.raises(Broken, match=f"^{server.place} .*maxclients") as caught:
            link.ask([("PING",)], soon())
    assert (caught.value.sent, caught.value.closed, link.is_open) == (False, False, False)


def test_a_server_that_says_nothing_is_not_waited_for():
    """Neither while it is told who we are nor for an answer; what was asked may have been done."""
    login = Login(username="u", password="p", database=0, authorities=None)
    with ScriptedServer(silent=True) as server, pytest.raises(Broken) as caught:
        Link(server.place, login, soon(0.03))
    assert caught.value.sent is False
    with ScriptedServer(b"+O", silent=True) as server:
        link = Link(server.place, NOBODY, soon())
        with pytest.raises(Broken) as caught:
            link.ask([("PING",)], soon(0.03))
    assert (caught.value.sent, caught.value.closed, link.is_open) == (True, False, False)


def test_a_connection_that_is_closed_by_the_other_side_is_told_from_one_that_is_slow():
    """It was idle, maybe: a new one is tried.  One that we closed answers nothing, and nothing was sent."""
    with ScriptedServer(b"+PONG\r\n") as server:
        link = Link(server.place, NOBODY, soon())
        with pytest.raises(Broken) as caught:
            link.ask([("PING",), ("PING",)], soon())
    assert (caught.value.sent, caught.value.closed, link.is_open) == (True, True, False)
    with pytest.raises(Broken) as caught:
        link.ask([("PING",)], soon())
    assert (caught.value.sent, caught.value.closed) == (False, True)
    assert not Broken("", sent=True).closed


class Recorded:
    """A connection of redis-py's, at what is used of it."""

    def __init__(self, *answers):
        self._sock = SimpleNamespace(until=0.0)
        self.answers = list(answers)
        self.calls = []

    def pack_commands(self, commands):
        """As redis-py's."""
        self.calls.append(("pack", list(commands)))
        return ["packed"]

    def send_packed_command(self, packed, check_health=True):
        """As redis-py's."""
        self.calls.append(("send", packed))

    def read_response(self):
        """As redis-py's."""
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def disconnect(self):
        """As redis-py's."""
        self.calls.append("closed")


def a_link(*answers):
    """Return a link over a recorded connection."""
    link = Link.__new__(Link)
    link.place = PLACE
    link._connection = Recorded(*answers)
    return link, link._connection


def test_a_question_has_until_its_deadline(monkeypatch):
    """One that is over already is asked all the same, and has next to no time."""
    monkeypatch.setattr(client, "monotonic", lambda: 100.0)
    link, connection = a_link(1, 2)
    assert link.ask([("A",)], 103.0) == [1]
    assert connection._sock.until == 103.0
    link.ask([("A",)], 90.0)
    assert 100.0 < connection._sock.until < 100.1
    assert connection.calls == [("pack", [("A",)]), ("send", ["packed"])] * 2


@pytest.mark.parametrize(
    ("error", "closed"),
    [
        (TimeoutError(), False), (RedisTimeoutError("slow"), False), (RedisConnectionError("gone"), True),
        (ConnectionResetError(), True),
    ],
)  # fmt: skip
def test_what_breaks_a_connection_closes_it(error, closed):
    """Half an answer may lie there."""
    link, connection = a_link(1, error)
    with pytest.raises(Broken, match=rf"queue\.test:7 does not answer: {client._said(error)}") as caught:
        link.ask([("A",), ("B",)], soon())
    assert (caught.value.sent, caught.value.closed) == (True, closed)
    assert connection.calls[-1] == "closed"
    assert not link.is_open
    link.close()
    assert connection.calls.count("closed") == 1


def test_an_interrupt_closes_it_too():
    """What comes over it later would be taken for the answer to something else."""
    link, connection = a_link(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        link.ask([("A",)], soon())
    assert connection.calls[-1] == "closed"
    link, connection = a_link()
    connection.pack_commands = lambda _: {}["no"]
    with pytest.raises(KeyError):
        link.ask([("A",)], soon())
    assert connection.calls == ["closed"]


NO_SCRIPT = Fault("NOSCRIPT no")
LOAD = [("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values()]


def running(*answers):
    """Return a link whose questions are answered in turn, and what it is asked."""
    link, asked, left = Link.__new__(Link), [], list(answers)

    def ask(commands, deadline):
        asked.append((list(commands), deadline))
        return left.pop(0)

    link.ask = ask
    return link, asked


def test_a_script_is_named_by_its_digest_and_handed_over_where_it_is_not_known():
    """From the first that was not known on all is asked again, with what must stand before it; once."""
    put, tidy = SCRIPTS["put"], SCRIPTS["tidy"]
    calls = [("GET", "a"), (put, 1, "k"), ("ASKING",), (tidy, 1, "k", "x"), ("GET", "b")]
    sent = [("GET", "a"), ("EVALSHA", put.sha, 1, "k"), ("ASKING",), ("EVALSHA", tidy.sha, 1, "k", "x"), ("GET", "b")]
    link, asked = running([1, 2, 3, 4, 5])
    assert link.run(calls, 9.0) == [1, 2, 3, 4, 5]
    assert asked == [(sent, 9.0)]
    link, asked = running([1, 2, 3, NO_SCRIPT, Fault("ERR no")], ["sha"] * 13, [13, 14, 15])
    assert link.run(calls, 9.0) == [1, 2, 13, 14, 15]
    assert asked == [(sent, 9.0), (LOAD, 9.0), (sent[2:], 9.0)]
    link, asked = running([1, NO_SCRIPT, 3, NO_SCRIPT, 5], ["sha"] * 13, [12, NO_SCRIPT, 14, 15])
    assert link.run(calls, 9.0) == [1, 12, NO_SCRIPT, 14, 15]
    assert asked[2] == (sent[1:], 9.0)
    denied = Fault("NOPERM no")
    link, asked = running([1, NO_SCRIPT, 3, 4, 5], ["sha", denied])
    assert link.run(calls, 9.0) == [denied] * 5
    assert len(asked) == 2
    link, asked = running([NO_SCRIPT], ["sha"], [7])
    assert link.run([(put, 1, "k")], 9.0) == [7]


def test_a_script_is_what_is_common_and_its_own():
    """The server knows it by the digest of both."""
    put = SCRIPTS["put"]
    assert put.name == "put"
    assert put.source[:40] == SCRIPTS["tidy"].source[:40]
    assert put.source != SCRIPTS["tidy"].source
    assert "common" not in SCRIPTS
    assert put.sha == hashlib.sha1(put.source.encode()).hexdigest()


def test_errors_are_quoted_up_to_a_bound():
    """They may be somebody else's words."""
    assert client._said(OSError("x" * 200)) == "x" * 200
    assert client._said(OSError("x" * 201)) == "x" * 200 + "..."
    assert client._said(TimeoutError()) == "TimeoutError"
    assert Fault("ERR max number of clients reached").is_no_room
    assert not Fault("ERR other").is_no_room
