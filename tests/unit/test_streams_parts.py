"""The pure parts of the queue on Redis Streams: URLs, keys, bytes, the sum, what a server keeps."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventpost.event import Envelope, Event
from eventpost.queues.streams import check, count, entry, names
from eventpost.queues.streams.address import Place, parse
from eventpost.queues.streams.client import SCRIPTS, Fault, Login
from eventpost.queues.streams.held import READY, SETTLED, Held
from eventpost.queues.streams.route import Away, Route
from redis_support import RedisStreamsQueue
from support import URL, event

URLS = {
    "redis://h": ("single", [("h", 6379)], False, 0, "", None, None, "redis://h:6379"),
    "valkey://h:1/3": ("single", [("h", 1)], False, 3, "", None, None, "redis://h:1/3"),
    "rediss://u:p%40ss@h:1": ("single", [("h", 1)], True, 0, "", "u", "p@ss", "rediss://h:1"),
    "redis://:p@[::1]:7": ("single", [("::1", 7)], False, 0, "", None, "p", "redis://[::1]:7"),
    "unix:///run/r.sock?db=2": ("single", [("/run/r.sock", 0)], False, 2, "", None, None, "unix:///run/r.sock/2"),
    "unix://u:p@/r.sock": ("single", [("/r.sock", 0)], False, 0, "", "u", "p", "unix:///r.sock"),
    "redis+sentinel://u:p@a,b:5/main/1": (
        "sentinel", [("a", 26379), ("b", 5)], False, 1, "main", "u", "p", "redis+sentinel://a:26379,b:5/main/1",
    ),
    "rediss+cluster://a:1,b:2": ("cluster", [("a", 1), ("b", 2)], True, 0, "", None, None, "rediss+cluster://a:1,b:2"),
}  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_an_url_says_where_the_server_is(url):
    """Each form is read, and shown again without user and password."""
    kind, places, tls, database, service, user, secret, shown = URLS[url]
    found = parse(url)
    assert (found.kind, list(found.places), found.tls) == (kind, places, tls)
    assert (found.database, found.service, found.username, found.password) == (database, service, user, secret)
    assert str(found) == shown
    assert "p@ss" not in repr(found)


@pytest.mark.parametrize(
    "url",
    [
        "http://h", "redis://", "redis://h:port", "redis://:s3cret@h:x", "redis://a,b", "redis://h/1/2", "redis://h/-1",
        "redis+sentinel://a:1", "redis+cluster://a/1", "unix://", "redis+other://h", "redis://h/name", "s3cret",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused_without_quoting_it(url):
    """It may hold a password."""
    with pytest.raises(ValueError, match="url") as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://h?password=s3cret", "redis://h?username=u", "rediss://h?ssl_cert_reqs=s3cret", "redis://h?s3cret=",
        "redis://h?sentinel_password=s3cret", "unix:///r.sock?password=s3cret", "redis+cluster://h?max=s3cret",
    ],
)  # fmt: skip
def test_an_option_of_an_url_that_nothing_would_heed_is_refused(url):
    """Left out silently it would be a login without password, or TLS other than it was asked for."""
    with pytest.raises(ValueError, match="stand before the host") as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)


def test_user_and_password_may_be_given_beside_the_url():
    """They win over the URL's."""
    found = parse("redis://u:p@h", username="v", password="q")
    assert (found.username, found.password) == ("v", "q")
    assert parse("redis://u:p@h", password="q").username == "u"
    assert Place("::1", 1) == parse("redis://[::1]:1").places[0]


def test_arguments_out_of_their_range_are_refused_where_they_are_written():
    """Before any server is asked."""
    for options in (
        {"name": "a b"}, {"shards": 0}, {"shards": 5000}, {"bytes_max": 0}, {"lease_s": 0}, {"timeout_s": 0},
        {"durability": "memory"}, {"durability": "host"}, {"overflow": "panic"}, {"replicas": -1},
        {"dead_bytes_max": 0}, {"dead_age_max_s": -1}, {"block_timeout_s": -1}, {"lease_s": float("nan")},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            RedisStreamsQueue("redis://127.0.0.1:1", **options)


def test_keys_of_a_part_share_a_slot_and_writers_a_name():
    """Whatever is in them; and two incarnations never have the same name."""
    assert names.prefix("q", 3) == "{q:3}:"
    assert names.lane_key(URL) != names.lane_key(URL + "/")
    assert names.writer_id("host.local", 7, b"\x01\x02") == "host.local-7-0102"
    assert names.writer_id("{bad} näme", 7, b"\x01") == "badnme-7-01"


ENVELOPES = st.builds(
    Envelope, st.text(), st.sampled_from(["POST", "GET"]), st.lists(st.tuples(st.text(), st.text())).map(tuple),
    st.booleans(), st.binary(), st.binary(),
)  # fmt: skip


def valid(text):
    """Tell whether text can be stored: a lone surrogate makes no URL and no header."""
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)


@given(st.lists(st.builds(Event, ENVELOPES, st.binary()), min_size=1, max_size=8))
def test_what_is_packed_comes_out_unchanged(events):
    """Every byte of every payload, every field of every envelope; what is cut or longer is no entry."""
    if not all(valid(one.envelope.url) and all(valid(a + b) for a, b in one.envelope.headers) for one in events):
        return
    data = entry.pack(events)
    assert entry.unpack(data, len(events)) == events
    for wrong in (data[:-1], data + b"x", b"", b"\x02" + data[1:]):
        with pytest.raises(ValueError, match=r"entry|envelope|number|unexpected|format"):
            entry.unpack(wrong)
    with pytest.raises(ValueError, match="number"):
        entry.unpack(data, len(events) + 1)


def test_entries_are_by_endpoint_and_bounded():
    """Events of an endpoint share entries, in their order, up to bounds; one larger event is alone."""
    big = entry.ENTRY_BYTES_MAX
    events = [event(0), event(1, url=URL + "/b"), event(2, big + 1), event(3), event(4, url=URL + "/b")]
    made = list(entry.entries(events))
    assert [(one.url, one.events) for one in made] == [(URL, 1), (URL, 1), (URL, 1), (URL + "/b", 2)]
    many = [event(number) for number in range(entry.ENTRY_EVENTS_MAX + 1)]
    assert [one.events for one in entry.entries(many)] == [entry.ENTRY_EVENTS_MAX, 1]
    assert "payload" not in repr(made)
    assert [one for part in entry.entries(many) for one in entry.unpack(part.data)] == many


def outcomes(accepted, delivered=0, dead=0, **dropped):
    """Make a part's word."""
    return count.Outcomes(accepted, delivered, dead, dropped)


@pytest.mark.parametrize(
    ("before", "said", "stored", "delivered", "vanished"),
    [
        (outcomes(9, 3), outcomes(10, 4), 10, 4, 0),  # nothing is missing
        (outcomes(9, 3), outcomes(12, 4), 10, 4, 0),  # somebody else's put of ours, unanswered yet
        (outcomes(10, 3, 1), outcomes(0), 10, 3, 7),  # emptied
        (outcomes(10, 3), outcomes(8, 3), 10, 3, 2),  # the end of the log is missing
        (outcomes(10, 10), outcomes(8, 5), 10, 7, 0),  # what was delivered waits again
        (outcomes(10, 5), outcomes(6, 3), 10, 3, 4),  # two that were delivered may be among the three that wait again
        (outcomes(0), outcomes(9, 8), 10, 8, 1),  # one is missing; nobody had looked before
        (outcomes(4, 1), outcomes(9, 6, 0, overflow=2), 10, 6, 1),
        (outcomes(10, 3, 0, overflow=2), outcomes(0), 10, 3, 5),
    ],
)  # fmt: skip
def test_the_sum_closes_also_where_the_server_forgot(before, said, stored, delivered, vanished):
    """What is known of deliveries holds, what is there is queued or dead, and the rest has vanished."""
    known = count.reconciled(count.Known(), before, said, stored)
    shown = known.with_(said)
    assert shown.accepted >= stored
    assert (shown.delivered, shown.dropped.get("vanished", 0)) == (delivered, vanished)
    assert shown.queued == said.queued
    assert count.reconciled(known, shown, said, stored) == known, "once, not with each look"
    later = count.Outcomes(said.accepted + 5, said.delivered + 2, said.dead, said.dropped)
    assert known.with_(later).delivered == delivered + 2
    assert known.with_(later).accepted == shown.accepted + 5


INFO = (
    b"# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.1.2\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"
    b"aof_enabled:1\r\naof_last_write_status:ok\r\nrole:master\r\nconnected_slaves:1\r\n"
)
ALWAYS = check.read([INFO, [b"appendfsync", b"always"]])
EVERYSEC = check.read([INFO, [b"appendfsync", b"everysec"]])
NOT_TOLD = check.read([INFO.replace(b"valkey_version:9.1.2\r\n", b"").replace(b"7.2.4", b"7.0.0"), Fault("NOPERM no")])
NO_LOG = check.read([INFO.replace(b"aof_enabled:1", b"aof_enabled:0"), [b"appendfsync", b"always"]])
BROKEN_LOG = check.read([INFO.replace(b"aof_last_write_status:ok", b"aof_last_write_status:err"), [b"", b"always"]])


@pytest.mark.parametrize(
    ("facts", "asked", "replicas", "level", "wait"),
    [
        (ALWAYS, "os", 0, "os", ()),
        (ALWAYS, "os", 2, "os", ("WAIT", 2)),
        (ALWAYS, "fsync", 0, "fsync", ()),
        (ALWAYS, "host", 1, "host", ("WAIT", 1)),
        (EVERYSEC, "fsync", 0, "fsync", ("WAITAOF", 1, 0)),
        (EVERYSEC, "host", 2, "host", ("WAITAOF", 1, 2)),
        (NOT_TOLD, "fsync", 0, "os", ()),
        (NO_LOG, "host", 1, "os", ("WAIT", 1)),
        (BROKEN_LOG, "fsync", 0, "os", ()),
    ],
)
def test_no_more_is_claimed_than_the_server_confirmed(facts, asked, replicas, level, wait):
    """What is kept, and the command behind each put that makes it so; with the reason."""
    kept = check.kept(facts, asked, replicas)
    assert (kept.level, kept.wait) == (level, wait)
    assert kept.because


def test_what_was_waited_for_is_compared_with_what_was_asked():
    """WAIT counts replicas, WAITAOF this server and replicas; an error confirms nothing."""
    assert check.confirmed(2, ("WAIT", 2))
    assert not check.confirmed(1, ("WAIT", 2))
    assert check.confirmed([1, 1], ("WAITAOF", 1, 1))
    assert not check.confirmed([1, 0], ("WAITAOF", 1, 1))
    assert not check.confirmed([0, 1], ("WAITAOF", 1, 1))
    assert not check.confirmed(Fault("ERR no"), ("WAIT", 1))


def test_a_server_that_can_hold_no_queue_is_told_with_its_remedy():
    """Too old, or it evicts; one that may not be asked is refused, too."""
    assert check.fault(ALWAYS) == ""
    old = check.read([b"redis_version:6.0.16\r\n", Fault("ERR no")])
    assert "6.2 or newer" in check.fault(old)
    evicts = check.read([b"redis_version:7.0.1\r\nmaxmemory:100\r\nmaxmemory_policy:volatile-ttl\r\n", []])
    assert "noeviction" in check.fault(evicts)
    with pytest.raises(ValueError, match="denies INFO"):
        check.read([Fault("NOPERM this user has no permissions"), []])
    assert check.weakest(["host", "os", "fsync"]) == "os"
    assert check.weakest([]) == "os"


def held(settled=b""):
    """Make an entry of five events in hand."""
    return Held(
        0, URL, lane="l", entry_id="1-1", writer="w", events=[event(n) for n in range(5)], size=9, own=True,
        settled=settled, sure_until=0.0,
    )  # fmt: skip


def test_an_entry_in_hand_knows_what_is_settled():
    """From the server's note, and from what happens here; ranges are counted from one."""
    one = held(b"01001")
    assert list(one.states) == [READY, SETTLED, READY, READY, SETTLED]
    assert one.left == 3
    assert one.which([0, 2, 3]) == "1-1,3-4,"
    assert one.which([0, 1, 2, 3, 4]) == ""
    one.lose()
    assert (one.left, one.lost) == (0, True)


def test_a_server_that_is_not_ready_is_left_alone_like_one_that_is_away():
    """Who must know asks on until its time is over; everybody else, and whoever comes then, is told at once."""
    address = parse("redis://127.0.0.1:1")
    login = Login(username=None, password=None, database=0, authorities=None)
    for insist in (True, False):
        route = Route(address, login, login, "q")
        asked = []

        def loading(node, *_, asked=asked, **__):
            asked.append(node)
            return [Fault("LOADING the server is loading its data")]

        route._answers = loading
        with pytest.raises(Away) as caught:
            route.ask(0, [("PING",)], time.monotonic() + 0.1, insist=insist)
        assert not caught.value.sent, "it said no: nothing was done"
        assert (len(asked) > 1) == insist
        assert route.away_for_s(0) > 0


def test_every_script_is_there():
    """They are data of the package: a wheel without them would be no queue."""
    wanted = {"put", "void", "claim", "settle", "bury", "hold", "letters", "tidy", "leave", "join", "status"}
    wanted |= {"there", "reasons"}
    assert set(SCRIPTS) == wanted
    assert all(len(script.sha) == 40 for script in SCRIPTS.values())
