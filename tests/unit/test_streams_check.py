"""What a server says of itself, as the queue on Redis Streams reads it, and what puts there survive."""

from __future__ import annotations

import pytest

from eventpost.queues.streams import check
from eventpost.queues.streams.client import Fault

INFO = (
    "# Server\r\nredis_version:7.2.4\r\nexecutable:/a:/b\r\nmaxmemory:1024\r\nmaxmemory_policy:a:b\r\n"
    "aof_enabled:1\r\nrole:slave\r\nconnected_slaves:3\r\nno colon\r\n"
)


def test_what_a_server_says_is_read_field_by_field():
    """As bytes or text, with what may be missing missing."""
    assert check.QUESTIONS == (("INFO",), ("CONFIG", "GET", "appendfsync"))
    facts = check.read([INFO, ["appendfsync", "no"]])
    assert facts == check.Facts("redis", (7, 2, 4), True, "no", 3, 1024, "a:b", "slave")
    assert facts.as_dict() == {
        "product": "redis", "version": "7.2.4", "appendonly": True, "appendfsync": "no", "replicas": 3,
        "maxmemory": 1024, "eviction": "a:b", "role": "slave",
    }  # fmt: skip
    assert check.read([INFO.encode() + b"x:\xff\r\n", [b"appendfsync", b"no"]]) == facts
    both = check.read([b"valkey_version:8.1.0-rc2\r\nredis_version:7.2.4\r\n", [b"appendfsync", b"always"]])
    assert both == check.Facts("valkey", (8, 1), appendfsync="always")
    for nothing in ([], [b"a"], [b"a", b"b", b"c"], Fault("NOPERM no")):
        assert check.read([b"", nothing]) == check.Facts("redis", (), False, "", 0, 0, "", "")
    assert check.Facts() == check.Facts("", (), False, "", 0, 0, "", "")
    assert not check.read(["aof_enabled:1\r\naof_last_write_status:err\r\n", []]).appendonly
    assert not check.read(["aof_last_write_status:ok\r\n", []]).appendonly


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (check.Facts("redis", (6, 2)), ""),
        (check.Facts("redis", (6, 2, 0)), ""),
        (check.Facts("redis", (7, 0, 0)), ""),
        (check.Facts("redis", (6, 1, 9)), "Redis 6.1.9 lacks"),
        (check.Facts("redis", ()), "unknown version"),
        (check.Facts("valkey", ()), ""),
        (check.Facts("valkey", (7,), maxmemory=1, eviction="noeviction"), ""),
        (check.Facts("valkey", (7,), maxmemory=1, eviction=""), ""),
        (check.Facts("valkey", (7,), maxmemory=0, eviction="allkeys-lru"), ""),
        (check.Facts("valkey", (7,), maxmemory=1, eviction="allkeys-lru"), "maxmemory-policy allkeys-lru"),
    ],
)
def test_a_server_too_old_or_one_that_evicts_is_told_by_what_it_is(facts, told):
    """The oldest that will do will do; what has no bound evicts nothing."""
    found = check.fault(facts)
    assert bool(found) == bool(told)
    assert told in found


ALWAYS = check.Facts("redis", (6, 2), True, "always")
EVERYSEC = check.Facts("redis", (7, 2, 0), True, "everysec")
OLDER = check.Facts("redis", (7, 1, 9), True, "everysec")
NOT_TOLD = check.Facts("redis", (7, 1, 9), True, "")
VALKEY = check.Facts("valkey", (7, 0), True, "no")


@pytest.mark.parametrize(
    ("facts", "asked", "replicas", "kept", "words"),
    [
        (ALWAYS, "memory", 0, ("os", ()), ""),
        (ALWAYS, "os", 1, ("os", ("WAIT", 1)), ""),
        (check.Facts("valkey", (9,)), "fsync", 0, ("os", ()), "appendonly no"),
        (check.Facts("valkey", (9,)), "host", 2, ("os", ("WAIT", 2)), "appendonly no"),
        (ALWAYS, "fsync", 0, ("fsync", ()), "before it answers"),
        (ALWAYS, "fsync", 2, ("fsync", ("WAIT", 2)), "put by put"),
        (ALWAYS, "host", 0, ("fsync", ()), "without replicas"),
        (ALWAYS, "host", 2, ("host", ("WAIT", 2)), "2 of its replicas"),
        (EVERYSEC, "fsync", 0, ("fsync", ("WAITAOF", 1, 0)), "put by put"),
        (EVERYSEC, "host", 0, ("fsync", ("WAITAOF", 1, 0)), "without replicas"),
        (EVERYSEC, "host", 1, ("host", ("WAITAOF", 1, 1)), "1 of its replicas"),
        (VALKEY, "fsync", 1, ("fsync", ("WAITAOF", 1, 1)), "put by put"),
        (OLDER, "host", 1, ("os", ("WAIT", 1)), "everysec"),
        (NOT_TOLD, "fsync", 0, ("os", ()), "not told"),
    ],
)
def test_each_level_is_had_by_its_settings_and_by_no_less(facts, asked, replicas, kept, words):
    """And the reason names what decided it."""
    found = check.kept(facts, asked, replicas)
    assert (found.level, found.wait) == kept
    assert words in found.because
    assert check.Kept() == check.Kept("os", (), "")


def test_a_wait_is_confirmed_by_as_many_as_were_asked_for():
    """And by more; not by one fewer, whichever of the two it is."""
    assert check.confirmed(3, ("WAIT", 2))
    assert check.confirmed([2, 2], ("WAITAOF", 1, 2))
    assert check.confirmed([1, 3], ("WAITAOF", 1, 2))
    assert not check.confirmed([1, 1], ("WAITAOF", 1, 2))
    assert not check.confirmed([0, 2], ("WAITAOF", 1, 2))
    assert check.confirmed(b"0", ("WAIT", 0))
    assert check.confirmed([b"1", b"0"], ("WAITAOF", 1, 0))


def test_the_weakest_of_several_is_the_lowest_level():
    """In the order in which they are promised."""
    levels = ["host", "fsync", "os", "memory"]
    for at in range(1, 5):
        assert check.weakest(levels[:at]) == check.weakest(levels[:at][::-1]) == levels[at - 1]
