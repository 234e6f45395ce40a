"""One server of the queue on Redis Streams: its idle connections, and when it is left alone."""

from __future__ import annotations

from collections import deque

import pytest

from eventpost.queues.streams import node as module
from eventpost.queues.streams.address import Place
from eventpost.queues.streams.client import Broken, Login
from eventpost.queues.streams.node import Node, NotAsked

PLACE = Place("h", 7)
LOGIN = Login(username=None, password=None, database=0, authorities=None)


class FakeLink:
    """A connection; ``made`` are all of them."""

    made: list[FakeLink] = []  # noqa: RUF012 - emptied for each test
    fails: Exception | None = None

    def __init__(self, *arguments):
        if FakeLink.fails:
            raise FakeLink.fails
        self.arguments = arguments
        self.is_open = True
        FakeLink.made.append(self)

    def close(self):
        """As a link's."""
        self.is_open = False


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by hand, and connections that are none."""
    now = [100.0]
    FakeLink.made.clear()
    FakeLink.fails = None
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "Link", FakeLink)
    return now


@pytest.fixture
def node(clock):
    """Return a server that nobody has asked yet."""
    assert clock
    return Node(PLACE, LOGIN)


def used(node, *, insist=False):
    """Borrow a connection and give it back; return it."""
    with node.link(9.0, insist=insist) as link:
        return link


def broken(node, error, *, insist=False):
    """Have a connection break in somebody's hands."""
    with pytest.raises(type(error)), node.link(9.0, insist=insist):
        raise error


def test_a_connection_is_used_again(node):
    """By one at a time; what was closed meanwhile is not."""
    assert node.away_for_s == 0
    first = used(node)
    assert first.arguments == (PLACE, LOGIN, 9.0)
    assert used(node) is first
    with node.link(9.0, insist=False) as one, node.link(9.0, insist=False) as other:
        assert (one, other) == (first, FakeLink.made[1])
    first.close()
    assert used(node) is other
    other.close()
    assert used(node) is FakeLink.made[2]
    with node.link(9.0, insist=False) as one:
        one.close()
    assert used(node) is FakeLink.made[3], "what its user closed is not given back"


class Raced(list):
    """What seems to hold a connection, until it is reached for."""

    def pop(self):
        """As if another thread had been quicker."""
        self.clear()
        return super().pop()


def test_a_connection_that_another_thread_took_is_not_missed(node):
    """A new one is made; and where somebody else closes them meanwhile, that is done, too."""
    node._idle[0] = Raced(["idle"])
    used(node)
    assert len(FakeLink.made) == 1
    node._idle = {1: Raced(["idle"]), 0: deque(FakeLink.made)}
    node.close()
    assert not FakeLink.made[0].is_open


def test_eight_connections_are_kept_and_no_more(node):
    """What is given back beside them is closed."""
    borrowed = [node.link(9.0, insist=False) for _ in range(10)]
    for one in borrowed:
        one.__enter__()
    for one in borrowed:
        one.__exit__(None, None, None)
    assert [one.is_open for one in FakeLink.made] == [True] * 8 + [False] * 2
    node.close()
    assert not any(one.is_open for one in FakeLink.made)
    used(node)
    assert len(FakeLink.made) == 11


def test_a_server_that_does_not_answer_is_left_alone_twice_as_long_each_time(node, clock):
    """Up to five seconds; whoever asks meanwhile is told why at once, and then one tries."""
    for pause_s in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        broken(node, Broken("it is gone", sent=True))
        assert node.away_for_s == pytest.approx(pause_s)
        clock[0] += pause_s / 2
        assert node.away_for_s == pytest.approx(pause_s / 2)
        made = len(FakeLink.made)
        with pytest.raises(NotAsked, match="it is gone") as caught:
            used(node)
        assert caught.value.sent is False
        assert len(FakeLink.made) == made
        clock[0] += pause_s / 2 + 0.001
        assert node.away_for_s == 0
    used(node)
    assert node.worked() is True
    assert node.worked() is False
    assert node.away_for_s == 0
    broken(node, Broken("again", sent=False))
    node.failed("once more")
    assert node.worked() is True
    assert node.away_for_s == 0, "at once"
    node.failed("again")
    clock[0] += 0.05
    node.failed("once more")
    assert node.away_for_s == pytest.approx(0.05), "from the first failure on, and from the beginning"
    with pytest.raises(NotAsked, match="once more"):
        used(node)


def test_one_tries_while_the_others_are_told_no(node, clock):
    """Until it knows; and the next one tries after it, whatever came of it."""
    node.failed("gone")
    clock[0] += 1
    with node.link(9.0, insist=False):
        with pytest.raises(NotAsked):
            used(node)
        assert used(node, insist=True), "who must know asks all the same"
    for error in (Broken("gone", sent=False), KeyboardInterrupt(), None):
        clock[0] += 10
        if error:
            broken(node, error)
        else:
            used(node)
    FakeLink.fails = Broken("gone", sent=False)
    node.close()
    clock[0] += 10
    for _ in range(2):
        with pytest.raises(Broken, match=r"^gone$"):
            used(node)
        clock[0] += 10
    FakeLink.fails = None
    node.worked()
    with node.link(9.0, insist=False):
        used(node)


def test_who_insists_does_not_keep_others_from_trying(node, clock):
    """It is not the one that tries."""
    node.failed("gone")
    clock[0] += 1
    with node.link(9.0, insist=True):
        used(node)


def test_an_idle_connection_that_was_closed_says_nothing_about_the_server(node):
    """The others may be closed, too, and are; one that was new, or answers nothing, says a lot."""
    with node.link(9.0, insist=False):
        used(node)
    first, second = FakeLink.made
    assert first.is_open
    assert second.is_open
    broken(node, Broken("closed", sent=True, closed=True))
    assert node.away_for_s == 0
    assert [one.is_open for one in FakeLink.made].count(True) == 1, "the one that was borrowed closed itself"
    used(node)
    assert len(FakeLink.made) == 3
    with node.link(9.0, insist=False):
        used(node)
    broken(node, Broken("silent", sent=True, closed=False))
    assert node.away_for_s > 0
    assert [one.is_open for one in FakeLink.made].count(True) == 2, "those that were borrowed"
    fresh = Node(PLACE, LOGIN)
    broken(fresh, Broken("closed", sent=True, closed=True))
    assert fresh.away_for_s > 0


def test_a_connection_belongs_to_its_thread_where_sockets_are_patched(node, monkeypatch):
    """Those of gevent and eventlet can't be used from two."""
    thread = [1]
    monkeypatch.setattr(module, "get_ident", lambda: thread[0])
    first = used(node)
    thread[0] = 2
    assert used(node) is first
    monkeypatch.setattr(module, "original", lambda module, name: (module, name) == ("socket", "socket") and "other")
    assert used(node) is not first
    thread[0] = 1
    other = used(node)
    thread[0] = 2
    assert used(node) is not other
    node.close()
    assert not any(one.is_open for one in FakeLink.made)
