"""A queue on Redis Streams seen from outside: what is asked of its servers, and what is made of the answers."""

from __future__ import annotations

import pytest

from eventpost.errors import QueueUnavailable, RedisUnusable
from eventpost.queues.streams import check, entry, inspect
from eventpost.queues.streams.address import Place
from eventpost.queues.streams.client import SCRIPTS, Fault
from eventpost.queues.streams.inspect import Fleet, letter_in, seen_in
from eventpost.queues.streams.names import lane_key
from eventpost.queues.streams.route import Away, Denied
from eventpost.queues.streams.shown import DeadLetter, FleetStatus, LaneStatus, Member, Seen, ShardStatus
from streams_support import URL, Recorder, a_letter, an_event, row
from support import event

OTHER = "http://h/other"
LANE = lane_key(URL)
META = ("HMGET", "{q:0}:meta", "format", "shards")


@pytest.fixture
def fleet(monkeypatch):
    """Return one whose servers are a recorder."""
    monkeypatch.setattr(inspect, "monotonic", lambda: 100.0)
    made = Fleet("redis://u:s3cret@h", name="q", timeout_s=2.5)
    made._route.ask = Recorder()
    return made


def test_its_arguments_are_the_queues(tmp_path):
    """User, password, authorities, database; another login for sentinels, whose database is none."""
    path = tmp_path / "ca.pem"
    path.touch()
    url = "rediss+sentinel://u:p@a/main/3?sentinel_password=s"
    route = Fleet(url, name="n", ca=str(path))._route
    login, sentinel = route._login, route._sentinel_login
    assert (login.username, login.password, login.database) == ("u", "p", 3)
    assert (sentinel.username, sentinel.password, sentinel.database) == (None, "s", 0)
    assert login.authorities.path == sentinel.authorities.path == str(path)
    login = Fleet(url, username="v", password="q")._route._login
    assert (login.username, login.password) == ("v", "q")
    plain = Fleet("redis://h", ca="/no/such/file")
    assert plain._route._login.authorities is None
    assert (plain.name, plain.address, plain._timeout_s) == ("eventpost", "redis://h:6379", 5.0)
    with pytest.raises(ValueError, match="name"):
        Fleet("redis://h", name="a b")


def test_how_many_parts_there_are(fleet):
    """None where there is no queue; of a newer format it is left alone."""
    ask = fleet._route.ask
    for answer, shards in (([None, None], 0), ([b"1", b"7"], 7), ([None, b"2"], 2)):
        ask.answers = [[answer]]
        assert fleet.shards() == shards
        assert ask.asked.pop() == (0, [META], 102.5)
    ask.answers = [[[b"2", b"1"]]]
    with pytest.raises(RedisUnusable, match="format 2"):
        fleet.shards()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Denied("no", Fault("NOPERM no")), RedisUnusable, "@stream"),
        (Away("it is away", sent=True), QueueUnavailable, "it is away"),
        ([Fault("NOPERM no")], RedisUnusable, "@stream"),
        ([Fault("ERR no")], RedisUnusable, "ERR no"),
    ],
)
def test_a_server_that_does_not_answer_is_told_from_one_that_does_not_let_us(fleet, answer, error, words):
    """With what to do."""
    fleet._route.ask.answers = [answer]
    with pytest.raises(error) as caught:
        fleet.shards()
    assert words in str(caught.value)
    if error is QueueUnavailable:
        assert caught.value.reason == "redis_unavailable"


PARTS = [[b"1", b"2"]]


def part_0(now_ms=100_000):
    """Return what a part says of itself."""
    pairs = [b"a", b"20", b"d", b"3", b"x", b"1", b"b", b"500", b"xb", b"60", b"-overflow", b"2", b"-none", b"0"]
    lanes = [
        [URL.encode(), 4, 3, 2, b"90000-7", [[b"b-2", 1, 2500], [b"a-1", 2, 1000]]],
        [OTHER.encode(), 1, 1, 0, b"95000-0", []],
        [b"http://h/empty", 0, 0, 0, b"", []],
    ]
    return [[now_ms, pairs, 1, *lanes]]


def part_1(now_ms=100_000):
    """Return what another one says."""
    lanes = [[URL.encode(), 2, 5, 4, b"80000-0", [[b"b-2", 4, 700], [b"c-3", 0, 9]]]]
    return [[now_ms, [b"a", b"9", b"d", b"1", b"-overflow", b"1", b"-damaged", b"1"], 0, *lanes]]


def test_a_status_adds_up_all_parts(fleet):
    """Lanes and members of several parts are one; ages are by the server's clock; who holds most is first."""
    ask = fleet._route.ask
    ask.answers = [PARTS, part_0(), part_1()]
    fleet._route.shown = lambda shard: f"h{shard}"
    assert fleet.status() == FleetStatus(
        address="redis://h:6379", name="q", accepted=29, delivered=4, queued=7, in_flight=14 - 5 + 6 - 2, dead=1,
        dropped={"overflow": 3, "damaged": 1}, stored_bytes=500, dead_bytes=60, oldest_age_s=20.0,
        lanes=[
            LaneStatus(URL, 6, 8, 6, 20.0), LaneStatus(OTHER, 1, 1, 0, 5.0), LaneStatus("http://h/empty", 0, 0, 0, None)
        ],
        shards=[
            ShardStatus(0, "h0", 5, 9, 1, 500, 60, 10.0, ""), ShardStatus(1, "h1", 2, 4, 0, 0, 0, 20.0, ""),
        ],
        members=[Member("b-2", 5, 0.7), Member("a-1", 2, 1.0), Member("c-3", 0, 0.009)],
    )  # fmt: skip
    assert ask.asked == [
        (0, [META], 102.5), (0, [(SCRIPTS["status"], 1, "{q:0}:sum")], 102.5),
        (1, [(SCRIPTS["status"], 1, "{q:1}:sum")], 102.5),
    ]  # fmt: skip


def test_a_part_that_is_away_is_trouble_and_the_others_are_shown(fleet):
    """Nothing is known of it; where nothing waits there is no age, and an entry is never younger than now."""
    fleet._route.shown = lambda shard: f"h{shard}"
    young = [[89_000, [], 0, [URL.encode(), 0, 1, 0, b"90000-0", []]]]
    fleet._route.ask.answers = [[[b"1", b"3"]], Away("gone", sent=False), young, [[1, [], 0]]]
    found = fleet.status()
    assert found.trouble == ["part 0: gone"]
    assert found.shards == [
        ShardStatus(0, "h0", trouble="gone"), ShardStatus(1, "h1", oldest_age_s=0.0), ShardStatus(2, "h2")
    ]  # fmt: skip
    assert (found.oldest_age_s, found.lanes, found.members) == (0.0, [LaneStatus(URL, 0, 1, 0, 0.0)], [])
    fleet._route.ask.answers = [[[None, None]]]
    assert fleet.status() == FleetStatus("redis://h:6379", "q")


INFO = b"redis_version:7.4.1\r\n"


def test_each_server_is_asked_once_what_it_is(fleet):
    """By where parts are; also where no queue is there yet."""
    ask = fleet._route.ask
    fleet._route.shown = lambda shard: "ab"[shard % 2]
    ask.answers = [[[b"1", b"3"]], [INFO, []], [INFO.replace(b"7", b"8"), []]]
    assert fleet.servers() == {"a": check.read([INFO, []]), "b": check.read([INFO.replace(b"7", b"8"), []])}
    questions = list(check.QUESTIONS)
    assert ask.asked == [(0, [META], 102.5), (0, questions, 102.5), (1, questions, 102.5)]
    ask.answers = [[[None, None]], [INFO, []]]
    assert list(fleet.servers()) == ["a"]
    ask.answers = [PARTS, Away("gone", sent=False)]
    with pytest.raises(QueueUnavailable, match="gone") as caught:
        fleet.servers()
    assert caught.value.reason == "redis_unavailable"
    ask.answers = [PARTS, [Fault("NOPERM no"), []]]
    with pytest.raises(RedisUnusable, match=r"\+info"):
        fleet.servers()


# -- events


def test_the_newest_events_are_told_oldest_first(fleet):
    """Entries from the end on, page by page, with what is settled of them and who holds them; as many as are wanted."""
    ask = fleet._route.ask
    rows = [row("30-0", 5, 6), row("20-1", 3, 4)]
    ask.answers = [
        [[b"1", b"1"]], [[URL.encode()]], [rows], [[None, b"01"], [[b"30-0", b"b-2", 5, 1]], []],
        [[row("10-0", 1, 2)]], [[b""], []], [[]],
    ]  # fmt: skip
    found = fleet.tail(None)
    assert [one.id for one in found] == [
        f"0:{LANE}:{one}" for one in ("10-0:1", "10-0:2", "20-1:1", "30-0:1", "30-0:2")
    ]
    assert found[-1] == Seen(f"0:{LANE}:30-0:2", an_event(6), 0.03, "b-2", "w-1")
    assert found[2].holder == ""
    key, parts = f"{{q:0}}:s:{LANE}", f"{{q:0}}:p:{LANE}"
    assert [calls for _, calls, _ in ask.asked] == [
        [META], [("HKEYS", "{q:0}:digests")], [("XREVRANGE", key, "+", "-", "COUNT", inspect._PAGE)],
        [("HMGET", parts, b"30-0", b"20-1"), ("XPENDING", key, "g", b"30-0", b"30-0", 1),
         ("XPENDING", key, "g", b"20-1", b"20-1", 1)],
        [("XREVRANGE", key, "(20-1", "-", "COUNT", inspect._PAGE)],
        [("HMGET", parts, b"10-0"), ("XPENDING", key, "g", b"10-0", b"10-0", 1)],
        [("XREVRANGE", key, "(10-0", "-", "COUNT", inspect._PAGE)],
    ]  # fmt: skip
    ask.asked.clear()
    ask.answers = [[[b"1", b"1"]], [[URL.encode()]], [rows], [[None, None], [], []]]
    assert [one.event for one in fleet.tail(3)] == [an_event(4), an_event(5), an_event(6)]
    assert len(ask.asked) == 4, "no more is asked for than is wanted"
    ask.answers = [[[b"1", b"1"]], [[URL.encode()]], [[row("30-0", *range(11))]], [[None], []]]
    assert [one.event for one in fleet.tail()] == [an_event(n) for n in range(1, 11)], "ten, unless it is said"
    ask.answers = [[[b"1", b"1"]], [[URL.encode()]], [[]]]
    assert fleet.tail() == []


def test_the_newest_of_all_lanes_and_parts_are_told(fleet):
    """In the order of their time; of the same moment each lane's in their order."""
    ask = fleet._route.ask
    lanes = [[URL.encode(), OTHER.encode()]]

    def answers():
        return [
            PARTS, lanes, [[row("1000-0", 1, 2)]], [[None], []], [[]], [[row("2000-0", 3)]], [[None], []], [[]],
            lanes, [[row("1000-0", 4)]], [[None], []], [[]], [[row("500-0", 5)]], [[None], []], [[]],
        ]  # fmt: skip

    ask.answers = answers()
    assert [one.event for one in fleet.tail(None)] == [an_event(n) for n in (5, 1, 2, 4, 3)]
    assert {shard for shard, _, _ in ask.asked} == {0, 1}
    ask.answers = answers()
    assert [one.event for one in fleet.tail(10)] == [an_event(n) for n in (5, 1, 2, 4, 3)]
    ask.answers = [one for one in answers() if one != [[]]]
    assert [one.event for one in fleet.tail(1)] == [an_event(3)]


def test_of_an_entry_what_is_not_settled_is_seen():
    """Numbered from one; what can't be read is not."""
    fields = [b"w", b"w-1", b"d", entry.pack([event(n) for n in range(4)])]
    found = seen_in(2, "l", [b"1500-3", fields], b"0101", "b-2")
    assert found == [
        Seen("2:l:1500-3:1", event(0), 1.5, "b-2", "w-1"), Seen("2:l:1500-3:3", event(2), 1.5, "b-2", "w-1"),
    ]  # fmt: skip
    assert [one.id[-1] for one in seen_in(2, "l", ["1-1", fields], b"", "")] == ["1", "2", "3", "4"]
    assert [one.id[-1] for one in seen_in(2, "l", ["1-1", fields], b"1", "")] == ["2", "3", "4"]
    assert seen_in(0, "l", [b"1-1", [b"d", b"damaged"]], b"", "") == []
    assert seen_in(0, "l", [b"1-1", []], b"", "") == []
    (found,) = seen_in(0, "l", [b"1-1", [b"d", entry.pack([event(1)])]], b"", "")
    assert found.writer == ""


# -- dead letters


def test_a_dead_letter_is_read_field_by_field():
    """What is not in it is empty; what can't be read is none."""
    assert letter_in(3, a_letter("2999-7")) == DeadLetter(
        id="3:2999-7", event=an_event(1), reason="rejected", status=400, answer="no \ufffd", at_s=2, attempts=3,
        origin="3:lane:5-1:2", writer="w-1",
    )  # fmt: skip
    assert letter_in(3, a_letter("2000-7")).at_s == 2
    bare = letter_in(0, [b"1-1", [b"d", entry.pack([an_event(1)])]])
    assert bare == DeadLetter("0:1-1", an_event(1), "", 0, "", 0, 0, "0::", "")
    two = entry.pack([an_event(1), an_event(2)])
    for wrong in ([b"1-1", []], a_letter("1-1", d=b"x"), a_letter("1-1", c=b"x"), a_letter("1-1", d=two)):
        assert letter_in(0, wrong) is None


def test_dead_letters_are_fetched_page_by_page(fleet):
    """Part by part, oldest first; damaged ones are passed over."""
    ask = fleet._route.ask
    ask.answers = [PARTS, [[a_letter("1-0", 1), a_letter("2-0", d=b"x")]], [[a_letter("3-0", 3)]], [[]], [[]]]
    assert [(one.id, one.event) for one in fleet.dead_letters()] == [("0:1-0", an_event(1)), ("0:3-0", an_event(3))]
    page = inspect._PAGE
    assert [(shard, *calls) for shard, calls, _ in ask.asked[1:]] == [
        (0, ("XRANGE", "{q:0}:dead", "-", "+", "COUNT", page)),
        (0, ("XRANGE", "{q:0}:dead", "(2-0", "+", "COUNT", page)),
        (0, ("XRANGE", "{q:0}:dead", "(3-0", "+", "COUNT", page)),
        (1, ("XRANGE", "{q:1}:dead", "-", "+", "COUNT", page)),
    ]


@pytest.mark.parametrize("what", ["retry", "discard"])
def test_dead_letters_are_changed_part_by_part_in_pages(fleet, monkeypatch, what):
    """Those that are named, each once, or all; how many were still there is told, and how far it is."""
    monkeypatch.setattr(inspect, "_PAGE", 2)
    ask = fleet._route.ask
    change = getattr(fleet, f"{what}_dead")
    script = (SCRIPTS["letters"], 1)
    there = [[a_letter("1-0")]]
    ask.answers = [PARTS, *[there] * 4, [2], [1], [0]]
    progress = []
    assert change(["0:1-0", "1:7-1", "0:2-0", "0:1-0", "0:3-5"], progress=progress.append) == 3
    assert progress == [2, 1, 1]
    assert [(shard, *calls) for shard, calls, _ in ask.asked[1:]] == [
        (0, ("XRANGE", "{q:0}:dead", "1-0", "1-0")), (0, ("XRANGE", "{q:0}:dead", "2-0", "2-0")),
        (0, ("XRANGE", "{q:0}:dead", "3-5", "3-5")), (1, ("XRANGE", "{q:1}:dead", "7-1", "7-1")),
        (0, (*script, "{q:0}:sum", what, "1-0", "2-0")), (0, (*script, "{q:0}:sum", what, "3-5")),
        (1, (*script, "{q:1}:sum", what, "7-1")),
    ]  # fmt: skip
    ask.asked.clear()
    ask.answers = [PARTS, [[a_letter("1-0")]], [[]], [[a_letter("2-0")]], [[]], [1], [1]]
    assert change(None) == 2
    assert [calls[0][3:] for _, calls, _ in ask.asked[-2:]] == [(what, "1-0"), (what, "2-0")]
    assert len(ask.asked) == 7, "those that were found just now are not looked for again"
    ask.answers = [PARTS]
    assert change([]) == 0


@pytest.mark.parametrize("wrong", ["", "1-0", "x:1-0", "0:x-0", "0:1-x", "0:1", "0:1-0-0", "-1:1-0", "0:", "²:1-0"])
def test_what_is_no_dead_letters_id_is_told(fleet, wrong):
    """Before anything is asked; nothing is changed."""
    with pytest.raises(KeyError) as caught:
        fleet.retry_dead(["0:1-0", wrong])
    assert caught.value.args == (wrong,)
    assert fleet._route.ask.asked == []


def test_a_dead_letter_that_is_not_there_is_told(fleet):
    """In a part that there is not, or is no more; then none of them is changed."""
    ask = fleet._route.ask
    for shard, answers in (("1", [[[]]]), ("2", []), ("9", [])):
        ask.asked.clear()
        ask.answers = [PARTS, *answers]
        with pytest.raises(KeyError) as caught:
            fleet.discard_dead([f"{shard}:8-1"])
        assert caught.value.args == (f"{shard}:8-1",)
        assert len(ask.asked) == 1 + len(answers)


def test_a_server_that_refuses_to_take_dead_letters_back_is_full(fleet):
    """Its words are told."""
    fleet._route.ask.answers = [PARTS, [[a_letter("1-0")]], [Fault("OOM command not allowed")]]
    with pytest.raises(QueueUnavailable, match="OOM") as caught:
        fleet.retry_dead(["0:1-0"])
    assert caught.value.reason == "redis_full"


def test_closing_closes_its_connections(fleet):
    """All of them."""
    node = fleet._route._node(Place("h", 6379))
    closed = []
    node.close = lambda: closed.append(1)
    fleet.close()
    assert closed == [1]
    assert (fleet.address, fleet.name) == ("redis://h:6379", "q")
