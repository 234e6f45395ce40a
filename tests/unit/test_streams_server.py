"""What the queue on Redis Streams has to know of a server, when it asks, and what it makes of the answers."""

from __future__ import annotations

import pytest

from eventpost.errors import QueueUnavailable, RedisUnusable
from eventpost.queues.streams import check
from eventpost.queues.streams.address import parse
from eventpost.queues.streams.client import SCRIPTS, Fault
from eventpost.queues.streams.route import Away, Denied
from eventpost.queues.streams.server import Server, is_denied, remedy
from eventpost.watch.signals import Trouble

INFO = "redis_version:7.4.1\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n"
GOOD = [INFO.encode(), [b"appendfsync", b"no"]]
EVICTS = [INFO.replace("noeviction", "allkeys-lru") + "maxmemory:9\r\n", []]
ALWAYS = [(INFO + "aof_enabled:1\r\n").encode(), [b"appendfsync", b"always"]]
JOIN = (SCRIPTS["join"], 1, "{q:0}:sum", 1, 3)
HOW_MANY = ("HGET", "{q:0}:meta", "shards")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        """Return it."""
        return self.now


class FakeRoute:
    """The way to the servers, at its end: ``answers`` are given in turn, and what is asked is written down."""

    def __init__(self, clock, *answers, url="redis://h"):
        self.clock = clock
        self.answers = list(answers)
        self.asked = []
        self.address = parse(url)
        self.name = "q"
        self.news = 0
        self.has_many = self.address.kind == "cluster"
        self.away = set()
        self.takes_s = 0.0

    def ask(self, shard, calls, deadline):
        """Note what is asked, and by when, and answer."""
        self.asked.append((shard, list(calls), round(deadline, 6)))
        self.clock.now += self.takes_s
        answer = self.answers.pop(0)
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def away_for_s(self, shard):
        """As a route's."""
        return 2.5 if shard in self.away else 0.0

    def shown(self, shard):
        """As a route's."""
        return f"h{shard}"


@pytest.fixture
def clock(monkeypatch):
    """Have the module's time pass by hand."""
    made = Clock()
    monkeypatch.setattr("eventpost.queues.streams.server.monotonic", made)
    return made


def a_server(route, *, shards=3, asked="os", replicas=0):
    """Return a server, and what it tells."""
    told = []
    return Server(route, shards=shards, asked=asked, replicas=replicas, emit=told.append), told


ASK = list(check.QUESTIONS)


def test_a_server_is_asked_at_first_use_once_a_minute_and_when_there_is_news(clock):
    """At first it is joined; later it is asked how many parts there are, and what it is; meanwhile not at all."""
    route = FakeRoute(clock, [[1, 4, 6]], GOOD)
    server, told = a_server(route)
    assert route.asked == [], "making it asks nothing"
    server.make_sure(1004.0)
    assert route.asked == [(0, [JOIN], 1004.0), (0, ASK, 1004.0)]
    assert (server.joined, server.shards, server.home, server.unusable) == (True, 4, 2, "")
    assert server.facts == {0: check.read(GOOD)}
    clock.now = 1060.0
    server.make_sure(1064.0)
    assert len(route.asked) == 2
    clock.now = 1060.5
    route.answers += [[b"7"], GOOD]
    server.make_sure(1064.5)
    assert route.asked[2:] == [(0, [HOW_MANY], 1064.5), (0, ASK, 1064.5)]
    assert (server.shards, server.home) == (7, 2)
    server.make_sure(1064.5)
    assert len(route.asked) == 4
    route.news = 1
    route.answers += [[b"7"], GOOD]
    server.make_sure(1064.5)
    assert len(route.asked) == 6
    server.make_sure(1064.5)
    assert len(route.asked) == 6
    assert told == []


def test_news_that_came_while_it_was_asked_are_known_by_then(clock):
    """To be asked is what they were for."""
    route = FakeRoute(clock, [[1, 1, 0]], GOOD)
    server, _ = a_server(route)

    def came():
        route.news = 5
        return GOOD

    route.answers[1] = came
    server.make_sure(1001.0)
    server.make_sure(1001.0)
    assert len(route.asked) == 2


def test_a_server_that_can_hold_no_queue_is_not_used_and_asked_again_soon(clock):
    """Every five seconds; it is told of once, and of what it becomes."""
    route = FakeRoute(clock, [[1, 1, 0]], EVICTS)
    server, told = a_server(route)
    for _ in range(2):
        with pytest.raises(QueueUnavailable) as caught:
            server.make_sure(1001.0)
        assert (caught.value.reason, str(caught.value)) == ("redis_unusable", server.unusable)
        assert "noeviction" in server.unusable
    assert told == [Trouble("redis", server.unusable)]
    assert len(route.asked) == 2
    closed, _ = a_server(FakeRoute(clock, [[1, 1, 0]], [Fault("NOPERM no"), []]))
    with pytest.raises(QueueUnavailable, match=r"\+info"):
        closed.make_sure(1001.0)
    clock.now = 1005.0
    with pytest.raises(QueueUnavailable):
        server.make_sure(1006.0)
    assert len(route.asked) == 2
    clock.now = 1005.1
    route.answers += [[b"1"], EVICTS]
    with pytest.raises(QueueUnavailable):
        server.make_sure(1006.0)
    assert len(route.asked) == 4
    assert len(told) == 1
    clock.now = 1011.0
    route.answers += [[b"1"], GOOD]
    server.make_sure(1012.0)
    assert server.unusable == ""
    server.make_sure(1012.0)
    assert len(route.asked) == 6


def test_what_is_kept_is_less_than_what_was_asked_for_and_is_told_once(clock):
    """The reason is in it; where all is kept nothing is told."""
    route = FakeRoute(clock, [[1, 1, 0]], GOOD, [b"1"], GOOD, [b"1"], ALWAYS)
    server, told = a_server(route, asked="fsync", replicas=2)
    assert server.kept == check.Kept("os", (), server.kept.because)
    server.make_sure(1001.0)
    assert server.kept == check.kept(server.facts[0], "fsync", 2)
    (trouble,) = told
    assert trouble.what == "redis"
    assert all(word in trouble.detail for word in ("'fsync'", "'os'", server.kept.because))
    clock.now += 61
    server.make_sure(clock.now + 1)
    assert len(told) == 1
    clock.now += 61
    server.make_sure(clock.now + 1)
    assert server.kept.level == "fsync"
    assert len(told) == 1
    server.tell("b")
    server.tell("b")
    server.tell("c")
    assert told[1:] == [Trouble("redis", "b"), Trouble("redis", "c")]


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (Away("it is away", sent=False), "redis_unavailable", "it is away"),
        (Denied("no", Fault("NOPERM no")), "redis_unusable", "+@stream"),
        ([Fault("WRONGTYPE no")], "redis_unusable", "name="),
        ([[b"2", b"1", b"0"]], "redis_unusable", "format 2"),
    ],
)
def test_a_server_that_was_never_joined_is_asked_each_time(clock, answer, reason, words):
    """Away, closed to us, in others' use, or newer: each has its word, and is no error for who only looks."""
    route = FakeRoute(clock, answer, answer, answer, answer)
    server, _ = a_server(route)
    for _ in range(2):
        with pytest.raises(QueueUnavailable) as caught:
            server.make_sure(1001.0)
        assert caught.value.reason == reason
        assert words in str(caught.value)
    server.look_again(1001.0)
    if reason == "redis_unusable":
        with pytest.raises(RedisUnusable) as unusable:
            server.first_look(1001.0)
        assert str(unusable.value) == str(caught.value)
    else:
        server.first_look(1001.0)
    assert route.asked == [(0, [JOIN], 1001.0)] * 4
    assert not server.joined
    route.answers += [[[1, 1, 0]], GOOD]
    server.make_sure(1001.0)
    assert (server.joined, server.unusable, server.shards) == (True, "", 1)


def test_parts_of_a_cluster_are_asked_each_in_its_share_of_the_time(clock):
    """One that is away leaves time for the others, which are used all the same; what is kept is what the weakest do."""
    route = FakeRoute(clock, [[1, 3, 5]], GOOD, Away("x", sent=True), ALWAYS, url="redis+cluster://a")
    server, told = a_server(route, asked="fsync")
    route.takes_s = 1.0
    server.make_sure(1007.0)
    assert route.asked == [
        (0, [JOIN], 1007.0), (0, ASK, 1003.0), (1, ASK, 1004.5), (2, ASK, 1007.0),
    ]  # fmt: skip
    assert server.facts == {0: check.read(GOOD), 2: check.read(ALWAYS)}
    assert server.kept == check.kept(server.facts[0], "fsync", 0)
    assert len(told) == 1
    assert server.home == 2
    route.takes_s = 0.0
    clock.now += 61
    route.answers += [Away("y", sent=False), ALWAYS, ALWAYS, ALWAYS]
    server.make_sure(clock.now + 8.0)
    assert route.asked[4][1:] == ([HOW_MANY], clock.now + 2.0), "a quarter: it may be this one that is away"
    assert server.kept.level == "fsync"
    clock.now += 61
    route.answers += [[None], [[1, 3, 9]], ALWAYS, ALWAYS, ALWAYS]
    server.make_sure(clock.now + 8.0)
    assert route.asked[9][1:] == ([JOIN], clock.now + 2.0), "one that forgot is told in that time, too"


def test_parts_of_a_cluster_that_are_all_away_are_a_server_that_is_away(clock):
    """Unless something was known of them before; one that can hold no queue makes all of it unusable."""
    route = FakeRoute(clock, [[1, 2, 0]], Away("x", sent=False), Away("y", sent=False), url="redis+cluster://a")
    server, _ = a_server(route)
    with pytest.raises(QueueUnavailable) as caught:
        server.make_sure(1001.0)
    assert (caught.value.reason, str(caught.value)) == ("redis_unavailable", "y")
    route.answers += [[b"2"], [Fault("NOPERM no"), []], EVICTS]
    with pytest.raises(QueueUnavailable) as caught:
        server.make_sure(1001.0)
    assert "+info" in str(caught.value), "the first"
    assert server.facts == {1: check.read(EVICTS)}
    clock.now += 6
    route.answers += [[b"2"], Away("x", sent=False), Away("y", sent=False)]
    server.make_sure(clock.now + 1)
    assert server.unusable == ""


class RecordedLock:
    """A lock that somebody else holds, or nobody."""

    def __init__(self, *, free):
        self.free = free
        self.calls = []

    def acquire(self, *arguments):
        """As a lock's."""
        self.calls.append(arguments)
        return self.free

    def release(self):
        """As a lock's."""
        self.calls.append("released")


def test_who_comes_over_this_threads_own_question_is_told_why(clock):
    """A signal handler's put can wait for nobody; once the server has answered it needs no answer."""
    server, _ = a_server(FakeRoute(clock))
    server._busy = True
    with pytest.raises(QueueUnavailable, match=" ") as caught:
        server.make_sure(1001.0)
    assert caught.value.reason == "redis_unavailable"
    server.joined = True
    server.make_sure(1001.0)
    assert server._route.asked == []


def test_who_comes_while_another_thread_asks_waits_for_it_and_no_longer(clock):
    """Until its own deadline; then the server is as good as away."""
    route = FakeRoute(clock)
    server, _ = a_server(route)
    server._lock = RecordedLock(free=False)
    for deadline in (1002.5, 990.0):
        with pytest.raises(QueueUnavailable) as caught:
            server.make_sure(deadline)
        assert caught.value.reason == "redis_unavailable"
        assert " " in str(caught.value), "it says why"
    assert server._lock.calls == [(True, 2.5), (True, 0.0)]
    assert route.asked == []
    server._lock = RecordedLock(free=True)
    route.answers = [Away("x", sent=False), [[1, 1, 0]], GOOD]
    with pytest.raises(QueueUnavailable):
        server.make_sure(1001.0)
    server.make_sure(1001.0)
    assert server._lock.calls == [(True, 1.0), "released"] * 2


def test_a_signal_handlers_put_over_its_own_threads_question_asks_nothing(clock):
    """What is known already will do; where nothing is, the put is refused."""
    route = FakeRoute(clock)
    server, _ = a_server(route)
    reasons = []

    def interrupted(answer):
        def handler():
            try:
                server.make_sure(1001.0)
                reasons.append("")
            except QueueUnavailable as error:
                reasons.append((error.reason, "asked" in str(error)))
            return answer

        return handler

    route.answers = [interrupted([[1, 1, 0]]), interrupted(GOOD)]
    server.make_sure(1001.0)
    assert reasons == [("redis_unavailable", True), ""]
    assert len(route.asked) == 2
    clock.now += 61
    route.answers = [[b"1"], GOOD]
    server.make_sure(clock.now + 1)
    assert len(route.asked) == 4, "and it asks again as if nothing had been"


def test_a_new_home_is_any_part_whose_server_is_there(clock):
    """Where all are away it stays."""
    route = FakeRoute(clock)
    server, _ = a_server(route, shards=3)
    route.away = {0, 1}
    server.move_home()
    assert server.home == 2
    route.away = {0, 1, 2}
    server.move_home()
    assert server.home == 2
    route.away = {1, 2}
    server.move_home()
    assert server.home == 0


def test_a_server_that_forgot_how_many_parts_there_are_is_told(clock):
    """One that knows more is believed; an error, or one that is away, changes nothing."""
    route = FakeRoute(clock)
    server, _ = a_server(route, shards=3)
    for answer, shards in ((b"3", 3), (b"5", 5), (Fault("NOPERM no"), 5)):
        server.hear_shards(answer, 1002.0)
        assert server.shards == shards
    assert route.asked == []
    for answer in (None, b"4"):
        route.answers = [[[1, 5, 1]]]
        server.hear_shards(answer, 1002.0)
        assert route.asked.pop() == (0, [(*JOIN[:4], 5)], 1002.0)
    route.answers = [Away("x", sent=True)]
    server.hear_shards(None, 1002.0)
    assert route.asked.pop() == (0, [(*JOIN[:4], 5)], 1002.0)
    route.answers = [[None], [[1, 5, 1]]]
    server.is_new(1003.0)
    assert route.asked == [(0, [HOW_MANY], 1003.0), (0, [(*JOIN[:4], 5)], 1003.0)]
    route.answers = [Away("x", sent=True)]
    server.is_new(1003.0)
    assert server.shards == 5
    route.answers = [[[1, 1, 1]]]
    server, _ = a_server(route, shards=1)
    server.hear_shards(None, 1002.0)
    assert route.asked[-1] == (0, [(*JOIN[:4], 1)], 1002.0), "also of a single one"


def test_what_is_known_is_shown(clock):
    """As plain values; and a forked child begins with knowing nothing."""
    route = FakeRoute(clock, [[1, 4, 6]], ALWAYS, url="redis://u:s3cret@h")
    server, _ = a_server(route, asked="host", replicas=2)
    fresh = {
        "address": "redis://h:6379", "name": "q", "shards": 3, "asked": {"durability": "host", "replicas": 2},
        "durability": "os", "because": server.kept.because, "waits": "", "unusable": "", "servers": {},
    }  # fmt: skip
    assert server.describe() == fresh
    assert "not asked" in server.kept.because
    server.make_sure(1001.0)
    kept = check.kept(check.read(ALWAYS), "host", 2)
    assert server.describe() == {
        **fresh, "shards": 4, "durability": "host", "because": kept.because, "waits": "WAIT 2",
        "servers": {"h0": check.read(ALWAYS).as_dict()},
    }  # fmt: skip
    server.reset()
    assert server.describe() == fresh
    assert (server.home, server.joined) == (0, False)


def test_an_error_of_the_servers_is_told_with_what_to_do():
    """By its first word; within a script some have words of their own."""
    for word in ("NOAUTH x", "WRONGPASS x"):
        assert "user and password" in remedy(Fault(word))
    assert "name=" in remedy(Fault("WRONGTYPE x"))
    scripts = ("ERR ACL failure in script: x", "ERR The user executing the script can't run this command")
    for word in ("NOPERM x", *scripts):
        assert is_denied(Fault(word))
        assert "+@stream" in remedy(Fault(word))
        assert word in remedy(Fault(word))
    assert not is_denied(Fault("ERR NOPERM"))
    assert "+@stream" not in remedy(Fault("ERR x"))
