"""A queue on Redis Streams as a view: what people are shown of it, and what they are told to look at."""

from __future__ import annotations

import pytest

from eventpost.errors import QueueUnavailable, RedisUnusable
from eventpost.queues.place import SharedQueue
from eventpost.queues.streams import check, view
from eventpost.queues.streams.shown import (
    DeadLetter,
    FleetStatus,
    LaneStatus,
    Member,
    Seen,
    ShardStatus,
    as_dict,
)
from eventpost.queues.view import Lane, Status
from support import event

LANES = [LaneStatus("http://u:p@h/a?b=c", 3, 2, 1, 4.5), LaneStatus("http://h/b", 1, 5)]
PARTS = [ShardStatus(0, "redis://h:1", 4, 2, 1, 50, 7, 4.5), ShardStatus(1, "redis://h:1", trouble="away")]
MEMBERS = [Member("a-1", 2, 119.5), Member("b-2", 1, 121.0), Member("c-3", 0, 999.0)]
FULL = FleetStatus(
    "redis://h:1", "q", 20, 8, 4, 2, 1, {"overflow": 5}, 50, 7, 4.5, LANES, PARTS, MEMBERS, ["part 1: away"],
)  # fmt: skip
FACTS = check.Facts("valkey", (8, 1, 0), True, "everysec", 2, 2048, "noeviction", "master")


def test_a_status_is_told_in_the_words_of_all_queues():
    """What is in flight is queued, too; beside them stand the plain values, without a secret."""
    found = view.status_of(FULL, {"redis://h:1": FACTS})
    values = found.values
    assert found == Status(
        kind="streams", place="redis://h:1 (q)", accepted=20, delivered=8, queued=6, dead=1, dropped={"overflow": 5},
        stored_bytes=50, dead_bytes=7, oldest_age_s=4.5, closes=True, in_flight=2,
        lanes=[Lane("http://u:p@h/a?b=c", 3, None, 4.5), Lane("http://h/b", 1, None, None)],
        needs=view.needs(FULL), values=values,
    )  # fmt: skip
    assert values == {
        "address": "redis://h:1", "name": "q", "accepted": 20, "delivered": 8, "queued": 6, "in_flight": 2, "dead": 1,
        "dropped": {"overflow": 5}, "stored_bytes": 50, "dead_bytes": 7, "oldest_age_s": 4.5, "closes": True,
        "lanes": [
            {"url": "http://h/a", "queued": 3, "entries": 2, "entries_held": 1, "oldest_age_s": 4.5},
            {"url": "http://h/b", "queued": 1, "entries": 5, "entries_held": 0, "oldest_age_s": None},
        ],
        "shards": [
            {"number": 0, "address": "redis://h:1", "queued": 4, "in_flight": 2, "dead": 1, "stored_bytes": 50,
             "dead_bytes": 7, "oldest_age_s": 4.5, "trouble": ""},
            {"number": 1, "address": "redis://h:1", "queued": 0, "in_flight": 0, "dead": 0, "stored_bytes": 0,
             "dead_bytes": 0, "oldest_age_s": None, "trouble": "away"},
        ],
        "members": [
            {"name": "a-1", "entries_held": 2, "idle_s": 119.5}, {"name": "b-2", "entries_held": 1, "idle_s": 121.0},
            {"name": "c-3", "entries_held": 0, "idle_s": 999.0},
        ],
        "trouble": ["part 1: away"], "path": "redis://h:1 (q)", "segments": 7, "writers": 3, "newer": 0, "bad": 0,
        "slowest": {"name": "b-2", "entries_held": 1, "idle_s": 121.0},
        "servers": {"redis://h:1": FACTS.as_dict()}, "kept": view.kept({"redis://h:1": FACTS}),
        "needs": view.needs(FULL),
    }  # fmt: skip
    short = FleetStatus("a", "q", queued=3, in_flight=-1)
    found = view.status_of(short, {})
    assert (found.queued, found.in_flight, found.values["in_flight"], found.closes) == (3, -1, -1, False)
    assert found.values["slowest"] is None


@pytest.mark.parametrize(
    ("queued", "in_flight", "entries", "closes"),
    [(0, 0, [], True), (1, 0, [1], True), (0, 1, [0, 1], True), (1, 0, [], False), (0, 0, [1], False),
     (2, -1, [1], False), (1, 1, [0, 0], False)],
)  # fmt: skip
def test_the_sum_closes_where_what_the_counts_leave_lies_in_the_streams(queued, in_flight, entries, closes):
    """In flight is never less than nothing."""
    lanes = [LaneStatus("u", entries=one) for one in entries]
    assert FleetStatus("a", "q", queued=queued, in_flight=in_flight, lanes=lanes).closes == closes


def test_what_a_person_has_to_look_at():
    """Parts that are away, a name that nobody has, a sum that does not close, who stopped and holds something."""
    (away, held) = view.needs(FULL)
    assert away == "part 1: away"
    assert held.startswith("b-2 holds 1 entry")
    assert "121 s" in held
    (empty,) = view.needs(FleetStatus("a", "q"))
    assert "called q" in empty
    assert view.needs(FleetStatus("a", "q", shards=PARTS[:1])) == []
    (open_,) = view.needs(FleetStatus("a", "q", queued=1, shards=PARTS[:1]))
    assert "does not close" in open_
    late = [Member("a", 3, view.IDLE_S), Member("b", 3, view.IDLE_S + 1)]
    (told,) = view.needs(FleetStatus("a", "q", shards=PARTS[:1], members=late))
    assert told.startswith("b holds 3 entries")
    assert view.IDLE_S == 120


def test_what_a_server_keeps_is_told_by_what_it_is_set_to():
    """The most that can be had there, and why not more."""
    servers = {
        "a": FACTS,
        "b": check.Facts("redis", (6, 2), appendonly=True, role="master"),
        "c": check.Facts("redis", (7, 2), replicas=1, role="slave"),
        "d": check.Facts("redis", (7, 0), True, "always"),
    }
    a, b, c, d = view.kept(servers)
    assert a.startswith(
        "a: valkey 8.1.0, master, appendfsync everysec, 2 replicas, maxmemory 2,048 bytes, noeviction; durability host "
    )
    assert a.endswith(check.kept(FACTS, "host", 1).because)
    assert b.startswith(
        "b: redis 6.2, master, appendfsync not told, 0 replicas, maxmemory none; durability os can be had: "
    )
    assert c.startswith("c: redis 7.2, slave, appendonly no, 1 replica, maxmemory none; durability os can be had: ")
    assert "appendfsync always" in d
    assert "durability fsync" in d
    assert d.endswith(check.kept(servers["d"], "fsync", 0).because)
    assert view.kept({}) == []


class Fleet:
    """What a view asks, at its protocol."""

    def __init__(self, *, servers=None):
        self.calls = []
        self.found = servers

    def status(self):
        """As a fleet's."""
        return FULL

    def servers(self):
        """As a fleet's."""
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def __getattr__(self, name):
        def noted(*arguments, **named):
            self.calls.append((name, arguments, named))
            return name

        return noted


def test_a_view_asks_the_fleet():
    """Each question is handed on as it is; where servers can't be asked the rest is shown."""
    shared = SharedQueue("redis://u:s3cret@h:7", "name", password="p", lease_s=1.0)
    made = view.StreamsView(shared, timeout_s=2.5)
    assert made.place == "redis://h:7 (name)"
    assert (made.fleet.address, made.fleet.name, made.fleet._timeout_s) == ("redis://h:7", "name", 2.5)
    assert made.fleet._route._login.password == "p"
    assert made.follow()._window is made.fleet
    fleet = made.fleet = Fleet(servers={"h": FACTS})
    assert made.status() == view.status_of(FULL, {"h": FACTS})
    for error in (QueueUnavailable("x"), RedisUnusable("x")):
        made.fleet = Fleet(servers=error)
        assert made.status() == view.status_of(FULL, {})
    made.fleet = fleet
    assert made.dead_letters() == "dead_letters"
    assert made.retry_dead(["a"], progress=print) == "retry_dead"
    assert made.discard_dead(["b"], progress=print) == "discard_dead"
    assert made.why_not(7) == "why_not"
    made.close()
    assert fleet.calls == [
        ("dead_letters", (), {}), ("retry_dead", (["a"],), {"progress": print}),
        ("discard_dead", (["b"],), {"progress": print}), ("why_not", (7,), {}), ("close", (), {}),
    ]  # fmt: skip


def test_a_view_trusts_who_was_named(tmp_path):
    """With TLS: the authorities of ``ca``."""
    path = tmp_path / "ca.pem"
    path.touch()
    made = view.StreamsView(SharedQueue("rediss://h", ca=str(path)), timeout_s=1.0)
    assert made.fleet._route._login.authorities.path == str(path)


def test_what_is_shown_begins_with_nothing():
    """Each with lists of its own."""
    one, other = FleetStatus("a", "q"), FleetStatus("a", "q")
    assert as_dict(one) == {
        "address": "a", "name": "q", "accepted": 0, "delivered": 0, "queued": 0, "in_flight": 0, "dead": 0,
        "dropped": {}, "stored_bytes": 0, "dead_bytes": 0, "oldest_age_s": None, "lanes": [], "shards": [],
        "members": [], "trouble": [], "closes": True,
    }  # fmt: skip
    assert one.lanes is not other.lanes
    assert LaneStatus("u") == LaneStatus("u", 0, 0, 0, None)
    assert ShardStatus(1, "a") == ShardStatus(1, "a", 0, 0, 0, 0, 0, None, "")
    letter = DeadLetter("0:1-1", event(1), "rejected", 400, "no", 7, 2)
    assert (letter.origin, letter.writer) == ("", "")
    seen = Seen("0:l:1-1:1", event(1), 7.5)
    assert (seen.holder, seen.writer, seen.state) == ("", "", "queued")
    assert Seen("0:l:1-1:1", event(1), 7.5, "a-1").state == "held by a-1"
    assert "pad" not in repr(letter) + repr(seen)
