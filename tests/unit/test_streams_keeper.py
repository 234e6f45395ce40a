"""What is done now and then on Redis Streams, and when; and a socket whose waits end together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eventpost.queues.streams import timed
from eventpost.queues.streams.keeper import Keeper
from eventpost.queues.streams.timed import Timed
from streams_parts import GONE, LANE, ME, Fault, Parts, key_of
from support import URL


class Kept(Parts):
    """A keeper whose others only note that they are called, in ``done``."""

    def __init__(self, monkeypatch, *, shards=2, lease_ms=60_000):
        super().__init__(monkeypatch, shards=shards)
        self.done = []
        self.server.look_again = lambda deadline: self.note("server", deadline)
        self.server.hear_shards = lambda answer, deadline: self.note("shards", answer, deadline)
        holding = SimpleNamespace(lease_ms=lease_ms, renew=lambda: self.note("renew"), tell=lambda: self.note("tell"))
        self.keeper = Keeper(
            self.route, self.server, hand=self.hand, holding=holding, timeout_s=2.0,
            puts=SimpleNamespace(void_what_is_unsure=lambda deadline: self.note("void", deadline)),
            claims=SimpleNamespace(sweep=lambda: self.note("sweep")),
            settling=SimpleNamespace(dead_bounds=lambda: ("500", "90")),
        )  # fmt: skip
        self.route.otherwise = self.answer

    def note(self, *what):
        """Note that something is done, with deadlines as seconds from now."""
        self.done.append((what[0], *[one - self.time.now if isinstance(one, float) else one for one in what[1:]]))

    def answer(self, shard, calls):
        """Note what the server is asked, but for the number of parts; and answer it."""
        self.note(calls[0][0], shard)
        assert self.route.deadlines[-1] == self.time.now + 2.0
        return [[], None][: len(calls)]

    def tend(self, after_s=0.0):
        """Do what is due then; returns it."""
        self.time.now += after_s
        self.done.clear()
        self.keeper.tend()
        return self.done


@pytest.fixture
def one(monkeypatch):
    """Make one with two parts."""
    return Kept(monkeypatch)


SERVER = ("server", 2.0)

LOOKS = [("tell",), ("HGETALL", 0), ("HGETALL", 1), ("shards", None, 2.0)]
SWEEP = [("sweep",), ("void", 2.0)]
TIDY = [("tidy", 0), ("tidy", 1)]


def test_all_is_due_at_first_and_each_again_in_its_time(one):
    """A look each time, a sweep a second, leases after a third of them, the rest each minute; in that order."""
    assert one.tend() == [SERVER, ("renew",), *LOOKS, *SWEEP, *TIDY]
    assert one.tend(0.5) == [SERVER, *LOOKS]
    assert one.tend(0.5) == [SERVER, *LOOKS, *SWEEP]
    assert one.tend(0.75) == [SERVER, *LOOKS]
    assert one.tend(18.0) == [SERVER, *LOOKS, *SWEEP]
    assert one.tend(0.25) == [SERVER, ("renew",), *LOOKS]
    assert one.tend(19.5) == [SERVER, *LOOKS, *SWEEP]
    assert one.tend(0.5) == [SERVER, ("renew",), *LOOKS]
    assert one.tend(19.75) == [SERVER, *LOOKS, *SWEEP]
    assert one.tend(0.25) == [SERVER, ("renew",), *LOOKS, *TIDY]
    assert one.tend(0.75) == [SERVER, *LOOKS, *SWEEP]
    assert one.tend(0.25) == [SERVER, *LOOKS]
    one.keeper.reset()
    assert one.tend() == [SERVER, ("renew",), *LOOKS, *SWEEP, *TIDY]
    assert one.keeper.looks == 1


def test_a_short_lease_is_renewed_and_looked_for_as_often(monkeypatch):
    """Others' that let go is found no later than one's own is renewed."""
    one = Kept(monkeypatch, lease_ms=1500)
    one.tend()
    assert one.tend(0.375) == [SERVER, *LOOKS]
    assert one.tend(0.125) == [SERVER, ("renew",), *LOOKS, *SWEEP]


def test_a_lease_is_renewed_after_a_third_of_it(monkeypatch):
    """No sooner."""
    one = Kept(monkeypatch, lease_ms=6000)
    one.tend()
    assert ("renew",) not in one.tend(1.9995)
    assert ("renew",) in one.tend(0.0005)


def test_the_next_time_is_when_a_look_is_due_or_a_server_is_asked_again(one):
    """While none is there, nothing is to be done."""
    assert one.keeper.tend() == 0.05
    one.route.away = {0: 3.0}
    assert one.keeper.tend() == 0.05
    one.route.away = {0: 3.0, 1: 2.0}
    assert one.keeper.tend() == 2.0


def test_before_the_server_is_known_nothing_is_done(one):
    """But to ask it what it is."""
    one.server.joined = False
    one.route.away = {0: 3.0}
    assert one.keeper.tend() == 3.0
    one.route.away = {1: 3.0}
    assert one.keeper.tend() == 0.05
    assert one.done == [SERVER] * 2
    assert not one.keeper.look_if_old()
    assert not one.route.asked


def test_a_look_is_one_round_trip_and_old_after_a_moment(one):
    """The number of parts is asked with the first one's lanes."""
    assert one.keeper.look_if_old()
    parts = ("HGET", "{q:0}:meta", "shards")
    look = [(0, [("HGETALL", "{q:0}:lanes"), parts]), (1, [("HGETALL", "{q:1}:lanes")])]
    assert one.route.last == look
    assert not one.keeper.look_if_old()
    one.time.now += 0.03125
    assert not one.keeper.look_if_old()
    one.time.now += 0.03125
    assert one.keeper.look_if_old()
    assert one.route.last == look
    assert one.keeper.looks == 2
    one.keeper.look()
    assert one.keeper.looks == 3


def test_a_look_exactly_as_old_as_it_may_get_is_made(one, monkeypatch):
    """Twenty times a second."""
    monkeypatch.setattr("eventpost.queues.streams.keeper.LOOK_S", 0.0625)
    one.keeper.look()
    one.time.now += 0.0625
    assert one.keeper.look_if_old()


def test_a_part_that_is_away_is_not_looked_at_unless_it_is_the_only_one(one, monkeypatch):
    """The look at the only one is what finds it back."""
    one.route.away = {0: 1.0}
    one.keeper.look()
    assert one.route.last == [(1, [("HGETALL", "{q:1}:lanes")])]
    one.route.away[1] = 1.0
    one.keeper.look()
    assert one.route.last == []
    alone = Kept(monkeypatch, shards=1)
    alone.route.away = {0: 1.0}
    alone.keeper.look()
    assert [shard for shard, _ in alone.route.last] == [0]


def test_a_look_tells_what_waits_and_what_was_put_here_before_it_counts_no_more(one):
    """It is among what the server counts; a part that says nothing has nothing."""
    one.puts.arrived.extend([(0, URL, 5), (1, URL, 6)])
    said = [
        [[URL.encode(), b"7", b"http://b/\xff", b"-2"], b"4"], [[b"http://b/\xff", b"3"]],
    ]  # fmt: skip
    one.route.answers = list(said)
    one.keeper.look()
    lanes = one.hand.lanes
    one.hand.take_note()
    assert {url: lane.waiting for url, lane in lanes.items()} == {URL: {0: 7, 1: 0}, "http://b/\ufffd": {0: 0, 1: 3}}
    assert lanes[URL].key == LANE
    assert one.done[-1] == ("shards", b"4", 2.0)
    one.done.clear()
    one.route.answers = [GONE, [[b"http://b/\xff", b"4"]]]
    one.keeper.look()
    assert {url: lane.waiting for url, lane in lanes.items()} == {URL: {0: 0, 1: 0}, "http://b/\ufffd": {0: 0, 1: 4}}
    one.route.answers = [said[0], [Fault("WRONGTYPE no")]]
    one.keeper.look()
    assert {url: lane.waiting for url, lane in lanes.items()} == {URL: {0: 7, 1: 0}, "http://b/\ufffd": {0: 0, 1: 0}}
    assert [what for what, *_ in one.done] == ["tell", "tell", "shards"], "who does not answer says nothing of parts"


def test_old_dead_letters_and_what_is_gone_is_cleared_away_in_every_part(one):
    """Consumers that were silent for ten minutes, lanes that were empty for an hour."""
    one.tend()
    assert one.route.last == [
        (shard, [("tidy", 1, key_of(shard), ME, "500", "90", 600_000, 3_600_000)]) for shard in (0, 1)
    ]


# -- the socket


class Sock:
    """Notes the time that each wait is given; sends three bytes at once."""

    def __init__(self):
        self.done = []

    def settimeout(self, value):
        """Note it."""
        self.done.append(value)

    def recv(self, *arguments):
        """Note it."""
        self.done.append(arguments)
        return b"data"

    def recv_into(self, *arguments):
        """Note it."""
        self.done.append(arguments)
        return 7

    def send(self, data):
        """Note what there is."""
        self.done.append(bytes(data))
        return min(3, len(data))

    def fileno(self):
        """Say something."""
        return 42


def test_each_wait_of_a_socket_has_what_is_left_and_no_more(monkeypatch):
    """Also where it sends in pieces; when the time is over it is not waited at all."""
    now = SimpleNamespace(s=10.0)
    monkeypatch.setattr(timed, "monotonic", lambda: now.s)
    sock = Sock()
    one = Timed(sock, 12.0)
    assert one.recv(5, 6) == b"data"
    now.s = 11.5
    assert one.recv_into("buffer", 8) == 7
    one.settimeout(99.0)
    one.sendall(bytearray(b"abcdefgh"))
    assert sock.done == [2.0, (5, 6), 0.5, ("buffer", 8), 0.5, b"abcdefgh", 0.5, b"defgh", 0.5, b"gh"]
    assert one.fileno() == 42
    one.until = 11.75
    one.sendall(b"x")
    assert sock.done[-2:] == [0.25, b"x"]
    now.s = 11.75
    for wait in (one.recv, one.recv_into, lambda: one.sendall(b"x")):
        with pytest.raises(TimeoutError, match=" "):
            wait()
    one.sendall(b"")
    assert len(sock.done) == 12
