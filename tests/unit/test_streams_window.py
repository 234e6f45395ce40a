"""A queue on Redis Streams looked at again and again: what is asked of its servers, and what is made of the answers."""

from __future__ import annotations

import pytest

from eventpost.errors import QueueUnavailable
from eventpost.queues.streams import window
from eventpost.queues.streams.client import SCRIPTS, Fault
from eventpost.queues.streams.names import lane_key
from eventpost.queues.streams.route import Away
from eventpost.queues.streams.shown import DeadLetter, Seen
from eventpost.queues.streams.window import FleetWindow, Follower, Spot
from streams_support import URL, Recorder, a_letter, an_event, row

OTHER = "http://h/other"
LANE, OTHER_LANE = lane_key(URL), lane_key(OTHER)
META = ("HMGET", "{q:0}:meta", "format", "shards")
TWO_PARTS = [[b"1", b"2"]]


@pytest.fixture
def fleet(monkeypatch):
    """Return one whose servers are a recorder."""
    monkeypatch.setattr("eventpost.queues.streams.inspect.monotonic", lambda: 100.0)
    made = FleetWindow("redis://h", name="q", timeout_s=2.5)
    made._route.ask = Recorder()
    return made


def test_an_id_names_a_spot():
    """Part, lane, entry and number; anything else names nothing."""
    assert Spot.of("3:ab9:15-2:7") == Spot(3, "ab9", "15-2", 7)
    longest = "0:l:" + "1" * 47 + "-1:1"
    assert Spot.of(longest).entry == longest[4:-2]
    assert Spot.of("1" * 10 + ":l:1-1:" + "1" * 9).number == 111_111_111
    for wrong in (
        "", "0", "0:l", "0:l:1-1", "0:l:1-1:", ":l:1-1:1", "0::1-1:1", "x:l:1-1:1", "0:l-:1-1:1", "0:l:1-1:x",
        "0:l:11:1", "0:l:x-1:1", "0:l:1-x:1", "0:l:-1:1", "0:l:1-:1", "0:l:1-1-1:1", "0:l:1-1:1:1", "0:l::1-1:1",
        "0:l:" + "1" * 48 + "-1:1", "1" * 10 + ":l:1-1:" + "1" * 10,
    ):  # fmt: skip
        with pytest.raises(KeyError):
            Spot.of(wrong)
    with pytest.raises(KeyError) as caught:
        Spot.of("x:l:1-1:1")
    assert caught.value.args == ("x:l:1-1:1",)
    with pytest.raises(KeyError) as caught:
        Spot.of("0:l:x:1")
    assert caught.value.args == ("x",)


def test_lanes_are_those_of_every_part(fleet):
    """By the endpoints that a part has had."""
    ask = fleet._route.ask
    ask.answers = [TWO_PARTS, [[URL.encode(), OTHER.encode()]], [[URL.encode()]]]
    assert fleet.lanes() == [(0, LANE), (0, OTHER_LANE), (1, LANE)]
    assert ask.asked == [
        (0, [META], 102.5), (0, [("HKEYS", "{q:0}:digests")], 102.5), (1, [("HKEYS", "{q:1}:digests")], 102.5)
    ]  # fmt: skip


def test_the_newest_of_a_lane_are_fetched_from_its_end_on(fleet):
    """Page by page until there are enough, or nothing is left behind the entry that was seen; oldest first."""
    ask = fleet._route.ask
    ask.answers = [
        [[row("30-0", 5, 6), row("20-1", 3, 4)]], [[None, b"01"], [[b"30-0", b"b-2", 5, 1]], []],
        [[row("10-0", 1, 2)]], [[b""], []], [[]],
    ]  # fmt: skip
    found = fleet.newest(1, "lane", "5-0", 9)
    assert [one.id for one in found] == [f"1:lane:{one}" for one in ("10-0:1", "10-0:2", "20-1:1", "30-0:1", "30-0:2")]
    assert found[-1] == Seen("1:lane:30-0:2", an_event(6), 0.03, "b-2", "w-1")
    assert found[0] == Seen("1:lane:10-0:1", an_event(1), 0.01, "", "w-1")
    key, parts, page = "{q:1}:s:lane", "{q:1}:p:lane", window._ENTRIES
    assert [(shard, *calls) for shard, calls, _ in ask.asked] == [
        (1, ("XREVRANGE", key, "+", "(5-0", "COUNT", page)),
        (1, ("HMGET", parts, b"30-0", b"20-1"), ("XPENDING", key, "g", b"30-0", b"30-0", 1),
         ("XPENDING", key, "g", b"20-1", b"20-1", 1)),
        (1, ("XREVRANGE", key, "(20-1", "(5-0", "COUNT", page)),
        (1, ("HMGET", parts, b"10-0"), ("XPENDING", key, "g", b"10-0", b"10-0", 1)),
        (1, ("XREVRANGE", key, "(10-0", "(5-0", "COUNT", page)),
    ]  # fmt: skip
    for enough in (2, 3):
        ask.answers = [[[row("30-0", 5, 6)]], [[None], []], [[row("20-0", 4)]], [[None], []]]
        assert len(fleet.newest(1, "lane", "5-0", enough)) == enough


def test_what_became_of_events_is_asked_once_for_each_part(fleet):
    """By entry, whatever number of its events is asked for; what is settled or gone has no state."""
    ask = fleet._route.ask
    ask.answers = [[[[1, b"01", b"b-2"], [0, b"", b""]]], [[[1, b"", b""]]]]
    ids = ["0:l:1-0:1", "0:l:1-0:2", "0:l:1-0:3", "0:l:2-0:1", "1:l:1-0:1"]
    assert fleet.states(ids) == {ids[0]: "held by b-2", ids[2]: "held by b-2", ids[4]: "queued"}
    script = (SCRIPTS["there"], 1)
    assert ask.asked == [
        (0, [(*script, "{q:0}:sum", "l", "1-0", "l", "2-0")], 102.5), (1, [(*script, "{q:1}:sum", "l", "1-0")], 102.5),
    ]  # fmt: skip
    assert fleet.states([]) == {}
    with pytest.raises(KeyError):
        fleet.states(["x"])


def test_one_event_is_found_by_its_id(fleet):
    """Unless it is settled, or its entry is gone."""
    ask = fleet._route.ask
    ask.answers = [[[row("7-0", 1, 2)], None]]
    assert fleet.find("2:l:7-0:2") == Seen("2:l:7-0:2", an_event(2), 0.007, "", "w-1")
    assert ask.asked == [(2, [("XRANGE", "{q:2}:s:l", "7-0", "7-0"), ("HGET", "{q:2}:p:l", "7-0")], 102.5)]
    for answer in ([[row("7-0", 1, 2)], b"01"], [[], None], [[row("7-0", 1)], None]):
        ask.answers = [answer]
        with pytest.raises(KeyError) as caught:
            fleet.find("2:l:7-0:2")
        assert caught.value.args == ("2:l:7-0:2",)


# -- dead letters


def test_the_newest_dead_letters_of_all_parts_come_first(fleet, monkeypatch):
    """Page by page; what can't be read is passed over, and of the same id a later part's comes first."""
    monkeypatch.setattr(window, "_LETTERS", 3)
    ask = fleet._route.ask
    ask.answers = [
        TWO_PARTS, [[a_letter("30-0", 3), a_letter("29-0", c=b"x"), a_letter("28-0", d=b"x")]],
        [[a_letter("25-1", 2)]], [[a_letter("25-1", 7), a_letter("25-0", 1), a_letter("24-0", 8)]], [[]],
    ]  # fmt: skip
    letters = list(fleet.newest_letters())
    assert [(one.id, one.event) for one in letters] == [
        ("0:30-0", an_event(3)), ("1:25-1", an_event(2)), ("0:25-1", an_event(7)), ("0:25-0", an_event(1)),
        ("0:24-0", an_event(8)),
    ]  # fmt: skip
    assert isinstance(letters[0], DeadLetter)
    assert [(shard, *calls) for shard, calls, _ in ask.asked[1:]] == [
        (0, ("XREVRANGE", "{q:0}:dead", "+", "-", "COUNT", 3)), (1, ("XREVRANGE", "{q:1}:dead", "+", "-", "COUNT", 3)),
        (0, ("XREVRANGE", "{q:0}:dead", "(28-0", "-", "COUNT", 3)),
        (0, ("XREVRANGE", "{q:0}:dead", "(24-0", "-", "COUNT", 3)),
    ]  # fmt: skip


def test_dead_letters_behind_one_of_them(fleet):
    """In an earlier part the same id lies behind it, in its own and in later ones what is older."""
    ask = fleet._route.ask
    ask.answers = [[[b"1", b"3"]], [[]], [[]], [[]]]
    assert list(fleet.newest_letters("1:25-3")) == []
    assert [(shard, calls[0][2]) for shard, calls, _ in ask.asked[1:]] == [(0, "25-3"), (1, "(25-3"), (2, "(25-3")]
    with pytest.raises(KeyError):
        list(fleet.newest_letters("x"))


def test_one_dead_letter_is_found_by_its_id(fleet):
    """One that is gone, or can't be read, is none."""
    ask = fleet._route.ask
    ask.answers = [[[a_letter("7-1", 4)]]]
    found = fleet.letter("12:7-1")
    assert (found.id, found.event) == ("12:7-1", an_event(4))
    assert ask.asked == [(12, [("XRANGE", "{q:12}:dead", "7-1", "7-1")], 102.5)]
    for answer in ([[]], [[a_letter("7-1", d=b"x")]]):
        ask.answers = [answer]
        with pytest.raises(KeyError) as caught:
            fleet.letter("12:7-1")
        assert caught.value.args == ("12:7-1",)


def test_what_can_be_no_dead_letters_id():
    """Ids come from a browser."""
    FleetWindow.check_letter_id("9999:1-0")
    for wrong in ("", "1-0", "x:1-0", "10000:1-0", "0:1", "0:1-0:1", "0:x-0"):
        with pytest.raises(KeyError):
            FleetWindow.check_letter_id(wrong)
    with pytest.raises(KeyError) as caught:
        FleetWindow.check_letter_id("x:1-0")
    assert caught.value.args == ("x:1-0",)


def test_dead_letters_are_counted_at_the_server(fleet):
    """By reason, over all parts, page by page."""
    ask = fleet._route.ask
    ask.answers = [
        TWO_PARTS, [[b"50-0", b"rejected", 3, b"other", b"1"]], [[b"", b"rejected", 1]], [[b"", b"too_large", 2]],
    ]  # fmt: skip
    assert fleet.dead_by_reason() == {"rejected": 4, "other": 1, "too_large": 2}
    script, most = (SCRIPTS["reasons"], 1), window._COUNTED
    assert [(shard, *calls) for shard, calls, _ in ask.asked[1:]] == [
        (0, (*script, "{q:0}:sum", "-", most)), (0, (*script, "{q:0}:sum", "(50-0", most)),
        (1, (*script, "{q:1}:sum", "-", most)),
    ]  # fmt: skip


# -- would it take events?


@pytest.mark.parametrize(
    ("bytes_max", "info", "why"),
    [
        (None, b"", None), (31, b"maxmemory:0\r\nused_memory:5\r\n", None), (30, b"", "queue_full"),
        (29, b"", "queue_full"), (31, b"maxmemory:6\r\nused_memory:5\r\n", None),
        (None, b"maxmemory:5\r\nused_memory:5\r\n", "redis_full"), (None, b"maxmemory:5\r\nx\r\n", None),
        (None, b"used_memory:5\r\n", None), (None, b"maxmemory:1\r\n", None),
        (None, "maxmemory:1\r\nused_memory:1\r\n", "redis_full"),
        (None, b"a:b:c\r\nmaxmemory:1\r\nused_memory:5\r\n", "redis_full"),
        (None, b"maxmemory:1\r\nused_memory:0\r\n\xff:1\r\n", None),
    ],
)  # fmt: skip
def test_why_a_put_would_be_refused(fleet, bytes_max, info, why):
    """By the bytes of all parts against the bound, then by the server's memory."""
    ask = fleet._route.ask
    ask.answers = [[[b"1", b"3"]], [b"10"], [None], [b"20"], [info]]
    assert fleet.why_not(bytes_max) == why
    asked = [(shard, *calls) for shard, calls, _ in ask.asked]
    assert asked[1:4] == [(shard, ("HGET", f"{{q:{shard}}}:sum", "b")) for shard in range(3)]
    assert asked[4:] == ([] if why == "queue_full" else [(0, ("INFO", "memory"))])


def test_why_a_put_would_be_refused_by_a_server_that_does_not_answer(fleet):
    """Away, or closed to us."""
    for error, why in ((Away("x", sent=False), "redis_unavailable"), ([Fault("NOPERM no")], "redis_unusable")):
        fleet._route.ask.answers = [error]
        assert fleet.why_not(None) == why


# -- looking on


class Window:
    """What a follower looks at, at its protocol."""

    def __init__(self):
        self.lanes_there = [(0, "a"), (1, "b")]
        self.new = {}
        self.asked = []

    def lanes(self):
        """As a window's."""
        return self.lanes_there

    def newest(self, *asked):
        """As a window's."""
        self.asked.append(asked)
        found = self.new.pop(asked[:2], [])
        if isinstance(found, Exception):
            raise found
        return found


def seen(shard, lane, at_s, number=1):
    """Return an event that lies there."""
    return Seen(f"{shard}:{lane}:{int(at_s * 1000)}-0:{number}", an_event(number), at_s)


def test_a_follower_goes_on_behind_what_it_has_told():
    """Lane by lane; all of them together in the order of time, as many of the newest as are wanted."""
    looked = Window()
    follower = Follower(looked)
    assert looked.asked == []
    a, b, c, d = seen(0, "a", 5.0), seen(1, "b", 3.0), seen(1, "b", 4.0), seen(1, "b", 9.0)
    looked.new = {(0, "a"): [a], (1, "b"): [b, c]}
    assert follower.look() == [b, c, a]
    assert looked.asked == [(0, "a", "0-0", 200), (1, "b", "0-0", 200)]
    looked.asked.clear()
    looked.new = {(1, "b"): [d]}
    assert follower.look(7) == [d]
    assert looked.asked == [(0, "a", "5000-0", 7), (1, "b", "4000-0", 7)]
    looked.asked.clear()
    looked.new = {(0, "a"): [seen(0, "a", 8.0), seen(0, "a", 10.0)], (1, "b"): [seen(1, "b", 9.5)]}
    assert [one.at_s for one in follower.look(2)] == [9.5, 10.0]
    assert looked.asked == [(0, "a", "5000-0", 2), (1, "b", "9000-0", 2)]
    looked.asked.clear()
    assert follower.look(1) == []
    assert looked.asked[0] == (0, "a", "10000-0", 1)
    looked.new = {(0, "a"): QueueUnavailable("x")}
    with pytest.raises(QueueUnavailable):
        follower.look()
