"""Which server a part of a queue is asked on, how often, and what is told of who does not answer."""

from __future__ import annotations

import pytest

from eventpost.queues.streams.client import Fault
from eventpost.queues.streams.node import NotAsked
from eventpost.queues.streams.route import Away, Denied
from streams_world import TORN, UNSENT, A, World


@pytest.fixture
def one(monkeypatch):
    """Make a world of a single server."""
    return World(monkeypatch, "redis://a:7")


ASKED = ("a", ["PING"])


def test_an_answer_is_returned(one):
    """Errors among it, too; that a server came back is news."""
    fault = Fault("ERR no")
    one.says[A] = [["PONG"], [fault]]
    assert one.ask() == ["PONG"]
    assert one.until == 101.0
    one.worked = [True]
    assert one.ask() == [fault]
    assert one.done == [ASKED] * 2
    assert (one.route.torn, one.route.news, one.failed) == (0, 1, [])


def test_what_breaks_is_asked_once_more_at_once_over_a_new_connection(one):
    """An answer that did not come is counted: it may have been done."""
    one.says[A] = [TORN, ["PONG"]]
    assert one.ask() == ["PONG"]
    assert one.done == [ASKED, ASKED, "insists"]
    assert (one.route.torn, one.time.paused) == (1, [])


def test_what_breaks_twice_is_given_up(one):
    """Unless who asked must know; what was sent once was sent."""
    one.says[A] = [TORN, TORN]
    assert one.away_from() is True
    assert one.why == "cut"
    assert one.route.torn == 2
    one.says[A] = [TORN, UNSENT]
    assert one.away_from() is True
    assert one.route.torn == 3
    assert not one.time.paused


def test_what_could_not_be_sent_is_not_tried_again(one):
    """Nothing was done, and who asked is told so at once."""
    one.says[A] = [UNSENT]
    assert one.away_from(insist=True) is False
    one.says[A] = [NotAsked("away", sent=False)]
    assert one.away_from() is False
    assert one.why == "away"
    one.says[A] = [TORN, NotAsked("away", sent=False)]
    assert one.away_from() is True
    assert one.route.torn == 1


def test_who_must_know_asks_until_its_time_is_over(one):
    """Ever less often, ten times a second at least."""
    one.says[A] = [TORN] * 99
    assert one.away_from(insist=True) is True
    assert one.time.paused[:7] == [0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.1]
    assert set(one.time.paused[6:]) == {0.1}
    assert 0.9 <= one.time.now - 100.0 < 1.0
    one.says[A] = [TORN, TORN, ["PONG"]]
    assert one.ask(insist=True) == ["PONG"]


def test_what_can_not_be_asked_again_in_time_is_not(one):
    """A pause would outlast it."""
    one.says[A] = [TORN]
    one.time.now = 0.0
    assert one.away_from(insist=True, within_s=0.005) is True
    assert one.why == "cut"
    one.says[A] = [TORN, ["PONG"]]
    assert one.ask(within_s=0.0051) == ["PONG"]
    one.says[A] = [Fault("ERR no"), ["PONG"]]
    assert not one.failed


def test_a_server_that_lets_nobody_in_is_denied_with_its_word(one):
    """And left alone for a while."""
    fault = Fault("WRONGPASS no")
    for earlier, sent in (([], False), ([TORN], True)):
        one.says[A] = [*earlier, fault]
        with pytest.raises(Denied) as caught:
            one.ask()
        assert caught.value.fault is fault
        assert caught.value.sent is sent
        assert "WRONGPASS" in str(caught.value)
    assert [host for host, _ in one.failed] == ["a", "a"]
    assert str(caught.value) == one.failed[1][1]


@pytest.mark.parametrize("word", ["LOADING", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN"])
def test_a_server_that_is_not_ready_is_left_alone(one, word):
    """Who must know asks on, as long as there is time."""
    fault = Fault(f"{word} not yet")
    one.says[A] = [["x", fault]]
    assert one.away_from() is False
    assert word in one.why
    assert one.failed == [("a", one.why)]
    one.says[A] = [[fault], [fault], ["PONG"]]
    assert one.ask(insist=True) == ["PONG"]
    assert one.time.paused == [0.005, 0.01]
    assert len(one.failed) == 1
    one.says[A] = [TORN, [fault]]
    assert one.away_from() is True
    one.says[A] = [[fault]]
    one.time.now = 0.0
    assert one.away_from(insist=True, within_s=0.005) is False
    assert len(one.failed) == 3
    one.says[A] = [[fault]]
    one.time.now = 100.0
    assert one.away_from(insist=True, within_s=5 / 1024) is False
    assert len(one.failed) == 4
    assert one.route.news == 0


def test_a_single_server_that_only_reads_is_said_with_its_remedy(one):
    """It may become one that writes meanwhile; that is news."""
    one.says[A] = [[Fault("READONLY no")]] * 99
    assert one.away_from() is False
    assert "name its master" in one.why
    assert one.time.paused[:2] == [0.005, 0.01]
    one.says[A] = [[Fault("READONLY no")], ["PONG"]]
    news = one.route.news
    assert one.ask() == ["PONG"]
    assert one.route.news == news + 1


def test_several_parts_of_one_server_are_asked_in_one_round_trip(one):
    """Each is dealt its answers; if there are none, all are told."""
    asked = [(0, [("A",), ("B", 1)]), (1, [("C",)]), (2, [("D",)])]
    one.says[A] = [[1, 2, 3, 4]]
    assert one.route.ask_all(asked, 101.0) == [[1, 2], [3], [4]]
    assert one.done == [("a", ["A", "B 1", "C", "D"])]
    assert one.until == 101.0
    one.says[A] = [UNSENT]
    gone = one.route.ask_all(asked, 101.0)
    assert [type(said) for said in gone] == [Away] * 3
    assert one.route.ask_all([], 101.0) == []
    assert len(one.done) == 2


def test_a_server_is_one_for_all_who_ask_and_closed_with_them(one):
    """What was known of it is known again; after a fork nothing is."""
    one.says[A] = [["x"], ["x"], ["x"]]
    assert one.route.away_for_s(0) == 0.0
    one.away[A] = 2.5
    one.ask()
    one.ask()
    assert one.route.away_for_s(0) == 2.5
    assert one.route.shown(0) == "a:7"
    assert not one.route.has_many
    one.done.clear()
    one.route.close()
    assert one.done == [("close", "a")]
    one.route.news = one.route.torn = 5
    one.route.reset()
    assert (one.route.news, one.route.torn, one.route.away_for_s(0)) == (0, 0, 0.0)
