"""Where the parts of a queue are, in a cluster and behind sentinels: who is asked for it, and when."""

from __future__ import annotations

import pytest

from eventpost.queues.streams.address import Place
from eventpost.queues.streams.client import Fault
from eventpost.queues.streams.route import Away
from streams_world import PING, SLOTS, TORN, UNSENT, A, B, C, Refused, World


@pytest.fixture
def cluster(monkeypatch):
    """Make a world of two servers, of which each has two of the parts, as is known."""
    world = World(monkeypatch, "redis+cluster://a:7,b:7")
    world.route._slots.update(zip(SLOTS, (A, B, A, B), strict=True))
    return world


def test_parts_are_asked_where_they_are_one_round_trip_for_each_server(cluster):
    """In the order in which they were asked for."""
    cluster.away[B] = 2.5
    cluster.says = {A: [["a0", "a0b", "a2"]], B: [["b1"]]}
    asked = [(0, [("X",), ("Y",)]), (1, [("Z",)]), (2, [("W",)])]
    assert cluster.route.ask_all(asked, 101.0) == [["a0", "a0b"], ["b1"], ["a2"]]
    assert cluster.done == [("a", ["X", "Y", "W"]), ("b", ["Z"])]
    assert cluster.until == 101.0
    cluster.says = {B: [["b3"]]}
    assert cluster.route.ask_all([(3, [("X",)])], 101.0) == [["b3"]]
    cluster.says = {B: [TORN, TORN]}
    cluster.route._looked_at = 100.0
    (gone,) = cluster.route.ask_all([(3, PING)], 101.0)
    assert type(gone) is Away, "it is asked as any part is, and no more often"
    assert cluster.route.has_many
    assert cluster.route.shown(1) == "b:7"
    assert (cluster.route.away_for_s(0), cluster.route.away_for_s(1)) == (0.0, 2.5)


@pytest.mark.parametrize("word", ["MOVED 1 c:7", "TRYAGAIN no"])
def test_a_part_that_was_not_answered_is_asked_by_itself(cluster, word):
    """Not those beside it, of which the answer came."""
    cluster.says = {A: [["a0", Fault(word)], ["a2"]], C: [["c2"]], B: [["b1"]]}
    asked = [(0, PING), (2, PING), (1, PING)]
    said = cluster.route.ask_all(asked, 101.0)
    assert said == [["a0"], ["a2"], ["b1"]]
    assert [host for host, _ in cluster.done] == ["a", "b", "a"]


@pytest.mark.parametrize("failure", [UNSENT, TORN, Fault("WRONGPASS no")])
def test_one_server_that_is_away_takes_none_of_the_others_answers(cluster, failure):
    """Its parts are asked once more by themselves, and say so."""
    cluster.route._looked_at = 100.0
    cluster.says = {A: [failure, UNSENT, ["a2"]], B: [["b1"]]}
    gone, there, late = cluster.route.ask_all([(0, PING), (1, PING), (2, PING)], 101.0)
    assert (type(gone), there, late) == (Away, ["b1"], ["a2"])
    assert [one[0] for one in cluster.done if one != "insists"] == ["a", "b", "a", "a"]


def test_a_part_that_nobody_knows_of_is_asked_for_first(cluster):
    """By itself, beside those that are known."""
    del cluster.route._slots[SLOTS[0]]
    cluster.says = {A: [["a0"]], B: [["b1"], [[0, 16383, [b"a", 7], [b"c", 7]]]]}
    assert cluster.route.ask_all([(0, PING), (1, PING)], 101.0) == [["a0"], ["b1"]]
    assert cluster.done == [
        ("b", ["PING"]), ("b", "server", "CLUSTER SLOTS", 0.5), ("close", "b"), ("a", ["PING"]),
    ]  # fmt: skip


def test_who_is_sent_elsewhere_goes_there_at_once(cluster):
    """For good, when the part has moved; for this once, when it is moving."""
    cluster.says = {A: [[Fault(f"MOVED {SLOTS[0]} c:7")]], C: [["c0"], ["c0"]]}
    assert cluster.ask() == ["c0"]
    assert cluster.ask() == ["c0"]
    assert [host for host, _ in cluster.done] == ["a", "c", "c"]
    assert cluster.route.news == 1
    cluster.done.clear()
    cluster.says = {B: [[Fault(f"ASK {SLOTS[1]} c:7")], ["b1"]], C: [["fine", "c1", "fine", "c1b"]]}
    assert cluster.ask(1, [("X",), ("Y", 1)]) == ["c1", "c1b"]
    assert cluster.ask(1) == ["b1"]
    assert cluster.done == [("b", ["X", "Y 1"]), ("c", ["ASKING", "X", "ASKING", "Y 1"]), ("b", ["PING"])]
    assert (cluster.route.news, cluster.time.paused, cluster.failed) == (1, [], [])
    cluster.says = {B: [[Fault(f"MOVED {SLOTS[1]} a:7")]], A: [["a1"]]}
    assert cluster.ask(1) == ["a1"]
    assert cluster.route.news == 2


def test_who_is_sent_elsewhere_and_is_not_answered_there_asks_where_the_part_is(cluster):
    """The move may be over."""
    cluster.route._looked_at = 100.0
    cluster.says = {A: [[Fault(f"ASK {SLOTS[0]} c:7")], ["a0"]], C: [TORN]}
    assert cluster.ask(insist=True) == ["a0"]
    assert [one[0] for one in cluster.done if one != "insists"] == ["a", "c", "a"]
    assert cluster.time.paused == [0.005]


@pytest.mark.parametrize(
    ("told", "place"),
    [("c:8", Place("c", 8)), (":8", Place("a", 8)), ("[::1]:8", Place("::1", 8)), ("Xc:8", Place("Xc", 8))],
)
def test_where_one_is_sent_is_read_as_servers_write_it(cluster, told, place):
    """Without a name it is another port of the same."""
    cluster.says = {A: [[Fault(f"MOVED {SLOTS[0]} {told}")]], place: [["there"]]}
    assert cluster.ask() == ["there"]


def test_a_server_that_sends_elsewhere_until_the_time_is_over_is_of_no_use(cluster):
    """It is left alone."""
    cluster.says = {A: [[Fault(f"MOVED {SLOTS[0]} a:7")]] * 3}
    cluster.time.now = 0.0
    assert cluster.away_from(within_s=0.005) is False
    assert cluster.failed == [("a", cluster.why)]


def test_where_the_parts_are_is_asked_of_one_server_after_the_other(monkeypatch):
    """Of those that are known, then of those that were named; each has its share of the time."""
    world = World(monkeypatch, "redis+cluster://a:7,b:7,c:7")
    told = [[0, SLOTS[0] - 1, [b"x", 1]], [SLOTS[0], SLOTS[0], [b"b", b"7"], [b"y", 2]]]
    world.says = {A: [UNSENT], B: [Refused("NOAUTH no")], C: [told]}
    world.says[B].append(["b0"])
    assert world.ask() == ["b0"]
    assert world.done == [
        ("a", "server", "CLUSTER SLOTS", 0.333333), ("b", "refused"),
        ("c", "server", "CLUSTER SLOTS", 1.0), ("close", "c"), ("b", ["PING"]),
    ]  # fmt: skip
    assert world.route.news == 1
    assert world.route._slots[SLOTS[0] - 1] == Place("x", 1)
    assert len(world.route._slots) == SLOTS[0] + 1
    world.done.clear()
    world.route._slots.clear()
    world.time.now += 0.25
    world.says = {B: [[[0, 16383, [b"", 9]]]], Place("b", 9): [["there"]]}
    assert world.ask() == ["there"], "it is the same host, then"
    assert world.done[:2] == [("b", "server", "CLUSTER SLOTS", 0.333333), ("close", "b")]


def test_where_the_parts_are_is_asked_again_when_a_server_breaks(cluster):
    """Another one may have taken its place; the others' parts are looked up with it."""
    cluster.says = {A: [TORN, [[0, 16383, [b"c", 7]]]], C: [["c0"], ["c1"]]}
    assert cluster.ask() == ["c0"]
    assert cluster.ask(1) == ["c1"]
    assert cluster.done == [
        ("a", ["PING"]), ("a", "server", "CLUSTER SLOTS", 0.5), ("close", "a"), ("c", ["PING"]), "insists",
        ("c", ["PING"]),
    ]  # fmt: skip


def test_a_cluster_of_which_nobody_tells_its_parts_is_away(monkeypatch):
    """Asked again after a moment, and not sooner."""
    world = World(monkeypatch, "redis+cluster://a:7")
    world.says = {A: [UNSENT]}
    assert world.away_from() is False
    assert "no way" in world.why
    assert world.away_from() is False
    assert "a:7" in world.why
    world.time.now += 0.24
    assert world.away_from() is False
    assert len(world.done) == 1
    world.time.now += 0.01
    world.says = {A: [Fault("ERR no cluster")]}
    assert world.away_from() is False
    assert "no cluster" in world.why
    world.time.now += 0.25
    world.says = {A: [[[SLOTS[0] + 1, 16383, [b"a", 7]]]]}
    assert world.away_from() is False, "nobody has this part"
    assert "a:7" in world.why
    assert world.route.news == 0
    assert "a:7" in world.route.shown(0)
    assert world.route.away_for_s(0) == 0.0


# -- sentinels


@pytest.fixture
def watched(monkeypatch):
    """Make a world of two sentinels."""
    return World(monkeypatch, "redis+sentinel://a:7,b:7/main")


QUESTION = "SENTINEL GET-MASTER-ADDR-BY-NAME main"


def test_the_master_is_asked_of_one_sentinel_after_the_other(watched):
    """With their own password; each has its share of the time."""
    watched.says = {A: [UNSENT], B: [[b"c", b"7"]], C: [["PONG"]] * 2}
    assert watched.ask() == ["PONG"]
    assert watched.ask(1) == ["PONG"]
    assert watched.done == [
        ("a", "sentinels", QUESTION, 0.5), ("b", "sentinels", QUESTION, 1.0), ("close", "b"), ("c", ["PING"]),
        ("c", ["PING"]),
    ]  # fmt: skip
    assert watched.route.news == 1
    assert watched.route.shown(0) == "c:7"


def test_no_sentinel_that_names_the_master_is_a_queue_that_is_away(watched):
    """Whatever is wrong with each."""
    watched.says = {A: [None], B: [UNSENT]}
    assert watched.away_from() is False
    assert "no way" in watched.why
    watched.time.now += 0.25
    watched.says = {A: [[b"c"]], B: [Refused("NOAUTH no")]}
    assert watched.away_from() is False
    assert "NOAUTH" in watched.why
    watched.time.now += 0.25
    watched.says = {A: [UNSENT], B: [None]}
    assert watched.away_from() is False
    assert "'main'" in watched.why


def test_a_master_that_breaks_or_only_reads_is_asked_for_again(watched):
    """But no more than four times a second."""
    watched.says = {A: [[b"c", b"7"], [b"b", b"9"]], C: [TORN, TORN, ["PONG"], TORN], Place("b", 9): [["PONG"]]}
    assert watched.away_from() is True
    watched.time.now += 0.24
    assert watched.ask() == ["PONG"]
    watched.time.now += 0.01
    assert watched.ask() == ["PONG"]
    assert watched.route.shown(0) == "b:9"
    assert watched.route.news == 2
    watched.time.now += 0.25
    watched.says = {A: [[b"c", b"7"]], C: [["PONG"]], Place("b", 9): [[Fault("READONLY no")]]}
    assert watched.ask() == ["PONG"]
    assert watched.time.paused == [0.005]
    assert watched.route.news == 4
