"""How the queue on Redis Streams reads URLs, names its keys, and lays out the bytes of its entries."""

from __future__ import annotations

import struct

import orjson
import pytest

from eventpost.event import Envelope, Event
from eventpost.queues.streams import entry, names
from eventpost.queues.streams.address import Address, Place, parse
from support import ENVELOPE, URL, event

READ = {
    "REDIS://h": Address("single", (Place("h", 6379),)),
    "valkeys://h": Address("single", (Place("h", 6379),), tls=True),
    "redis://h/": Address("single", (Place("h", 6379),)),
    "redis://h?db=0": Address("single", (Place("h", 6379),)),
    "redis://h:7?db=5": Address("single", (Place("h", 7),), database=5),
    "redis://h:7/4?db=5": Address("single", (Place("h", 7),), database=4),
    "redis://h,": Address("single", (Place("h", 6379),)),
    "redis://u@h": Address("single", (Place("h", 6379),), username="u"),
    "redis://u:@h": Address("single", (Place("h", 6379),), username="u", password=""),
    "redis://a%3Ab:p%3A:q%2F@h": Address("single", (Place("h", 6379),), username="a:b", password="p::q/"),
    "redis://u:p@q@h": Address("single", (Place("h", 6379),), username="u", password="p@q"),
    "redis+sentinel://a:1,b/%6dain?db=3&sentinel_password=s": Address(
        "sentinel", (Place("a", 1), Place("b", 26379)), database=3, service="main", sentinel_password="s"
    ),
    "rediss+sentinel://a/main/2": Address("sentinel", (Place("a", 26379),), tls=True, database=2, service="main"),
    "redis+sentinel://a/main?sentinel_password=": Address(
        "sentinel", (Place("a", 26379),), service="main", sentinel_password=""
    ),
    "valkey+cluster://[::1]:1,,b": Address("cluster", (Place("::1", 1), Place("b", 6379))),
    "redis+cluster://a?db=0": Address("cluster", (Place("a", 6379),)),
    "unix:///run/a://b.sock": Address("single", (Place("/run/a://b.sock", 0),)),
    "unix:///run/a%3Fb.sock?db=": None,
    "unix:///run/a%3Fb.sock": Address("single", (Place("/run/a?b.sock", 0),)),
    "unix://u:p@q@/r.sock": Address("single", (Place("/r.sock", 0),), username="u", password="p@q"),
    "unix:///r.sock?db=0": Address("single", (Place("/r.sock", 0),)),
    "unix:///r.sock?db=1?": None,
    "unix:///r.sock?db=-1": None,
    "unix://u:p@": None,
    "unix://?db=1": None,
    "unix+cluster:///r.sock": None,
    "redis+sentinel+cluster://h": None,
    "redis://?db=1": None,
    "redis://,": None,
    "redis+cluster://,": None,
    "redis+cluster://a?db=1": None,
    "redis://h?db=-1": None,
    "redis+sentinel://a/main/1/2": None,
    "redis://h:65536": None,
    "redis://:7": None,
}


@pytest.mark.parametrize("url", READ)
def test_an_url_is_read_to_the_letter_or_refused(url):
    """Its case, ports that are left out, what is percent-encoded, a database in either place; what is no server's."""
    if READ[url] is None:
        with pytest.raises(ValueError, match="url"):
            parse(url)
    else:
        assert parse(url) == READ[url]


def test_an_url_is_text():
    """Anything else is a mistake in a program, and said as one."""
    for wrong in (None, b"redis://h", 7):
        with pytest.raises(TypeError, match=f"url .*{type(wrong).__name__}"):
            parse(wrong)


def test_a_user_or_a_password_alone_may_be_given_beside_the_url():
    """What is not given is the URL's."""
    assert parse("redis://h") == Address("single", (Place("h", 6379),), False, 0, "", None, None, None)
    both = parse("redis://u:p@h", username="v")
    assert (both.username, both.password) == ("v", "p")
    both = parse("redis://u:p@h", password="q")
    assert (both.username, both.password) == ("u", "q")
    shown = repr(parse("redis+sentinel://u:s3cret@h/main?sentinel_password=s3cret"))
    assert "'u'" in shown
    assert "s3cret" not in shown


def test_a_name_is_part_of_keys():
    """Letters, digits and three signs, one of them at least and 64 at most."""
    for good in ("q", "A-z_0.9", "x" * 64):
        assert names.check_name(good) == good
    for bad in ("", "x" * 65, "a b", "{q}", "q\n", "ä", "a:b"):
        with pytest.raises(ValueError, match="name"):
            names.check_name(bad)


def test_keys_stay_what_they_are_called():
    """Processes of several releases share them: other names would be another queue."""
    assert names.GROUP == "g"
    assert names.lane_key("https://logx.optimizely.com/v1/events") == "b88228e7cab7d591"
    assert names.lane_key("a\ud800") != names.lane_key("a")
    assert names.writer_id("h" * 41 + "!", 7, b"\xff\x00") == "h" * 40 + "-7-ff00"
    assert names.writer_id("äöü", 7, b"\x01") == "host-7-01"
    assert names.writer_id("A-z_0.9 {", 7, b"\x01") == "A-z_0.9-7-01"


OTHER = Envelope("http://h/ü", "GET", (("A", "b"), ("C", "d")), False, b"\xff\x00", b"\x80")


def packed(*, form=1, envelopes=1, events=1, definition=None, number=0, length=2, payload=b"{}"):
    """Lay out an entry by hand."""
    definition = orjson.dumps([URL, "POST", [], True, "", ""]) if definition is None else definition
    head = struct.pack("<BHI", form, envelopes, events) + struct.pack("<I", len(definition)) + definition
    return head + struct.pack("<HI", number, length) + payload


def test_an_entry_is_laid_out_as_it_is_written_down():
    """Processes of several releases read them."""
    first, second = (
        orjson.dumps([URL, "POST", [["Content-Type", "application/json"]], True, '{"visitors":[', "]}"]),
        (b'["http://h/\xc3\xbc","GET",[["A","b"],["C","d"]],false,"\xc3\xbf\\u0000","\xc2\x80"]'),
    )
    events = [Event(ENVELOPE, b"one"), Event(OTHER, b"\x00two"), Event(ENVELOPE, b"")]
    assert entry.pack(events) == b"".join(
        (
            b"\x01\x02\x00\x03\x00\x00\x00", struct.pack("<I", len(first)), first,
            struct.pack("<I", len(second)), second,
            b"\x00\x00\x03\x00\x00\x00", b"\x01\x00\x04\x00\x00\x00", b"\x00\x00\x00\x00\x00\x00", b"one\x00two",
        )
    )  # fmt: skip
    assert entry.unpack(entry.pack(events)) == events
    assert entry.unpack(entry.pack(events), 3) == events


def test_what_comes_out_of_an_entry_has_its_types():
    """What others wrote is not trusted: texts are texts, and whether an envelope is shared is true or false."""
    definition = orjson.dumps([7, 8, [[1, 2]], 1, "", "\xff"])
    (found,) = entry.unpack(packed(definition=definition))
    assert found == Event(Envelope("7", "8", (("1", "2"),), True, b"", b"\xff"), b"{}")
    assert found.envelope.shared is True
    again, *_ = entry.unpack(packed(definition=definition))
    assert again.envelope is found.envelope, "told apart by what they are, not by what is in them"


@pytest.mark.parametrize(
    "wrong",
    [
        packed(form=0), packed(form=2), packed(envelopes=0), packed(envelopes=2), packed(events=2), packed(number=1),
        packed(length=1), packed(length=3), packed(definition=b"[]"), packed(definition=b"7"), packed(definition=b"{"),
        packed(definition=orjson.dumps([URL, "POST", [], True, 7, ""])),
        packed(definition=orjson.dumps([URL, "POST", [], True, "", "€"])),
        packed(definition=orjson.dumps([URL, "POST", [], True, "", "", ""])),
        packed(definition=orjson.dumps([URL, "POST", [7], True, "", ""])),
        b"\x01", packed()[:10], packed()[:-3],
    ],
)  # fmt: skip
def test_what_is_no_entry_is_told(wrong):
    """A ValueError in words, and nothing else: whoever claims it drops it as damaged, and goes on."""
    with pytest.raises(ValueError, match=r"\w \w"):
        entry.unpack(wrong)
    assert entry.unpack(packed()) == [Event(Envelope(URL, "POST", (), True, b"", b""), b"{}")]
    assert entry.unpack(struct.pack("<BHI", 1, 0, 0)) == []


def test_an_entry_is_closed_at_its_bounds_and_not_before(monkeypatch):
    """So many events, so many bytes; each that comes after begins anew."""
    monkeypatch.setattr(entry, "ENTRY_EVENTS_MAX", 3)
    small = len(event(0).payload)
    assert [one.events for one in entry.entries([event(n) for n in range(7)])] == [3, 3, 1]
    monkeypatch.setattr(entry, "ENTRY_BYTES_MAX", 2 * small)
    made = list(entry.entries([event(n) for n in range(5)]))
    assert [one.events for one in made] == [2, 2, 1]
    assert made[0] == entry.Entry(URL, 2, entry.pack([event(0), event(1)]))
    monkeypatch.setattr(entry, "ENTRY_BYTES_MAX", 2 * small - 1)
    assert [one.events for one in entry.entries([event(n) for n in range(3)])] == [1, 1, 1]
    assert list(entry.entries([])) == []


def test_many_small_events_share_an_entry():
    """A claim takes whole entries: they are neither one event each, nor without a bound."""
    many = [event(0)] * (1 << 14)
    made = [one.events for one in entry.entries(many)]
    assert len(made) == 16
    big = [Event(ENVELOPE, b"x" * (1 << 18))] * 8
    assert [one.events for one in entry.entries(big)] == [4, 4]
