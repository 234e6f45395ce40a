"""The door's encoder: exact JSON or a refusal, and a LogEvent as an Event."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import sys
import uuid
from types import SimpleNamespace
from urllib.parse import parse_qsl

import orjson
import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from eventpost.doors import encode
from eventpost.doors.encode import check_url, encode_json, encode_json_slowly, log_event_to_event
from eventpost.errors import InvalidEvent, UnencodableEvent
from eventpost.event import Envelope, LogEvent

URL = "https://logx.optimizely.com/v1/events"


class Text(str):
    """A value for the encoder."""

    __slots__ = ()


class Number(int):
    """A value for the encoder."""


class Ratio(float):
    """A value for the encoder."""


class Record(dict):
    """A value for the encoder."""


class Rows(list):
    """A value for the encoder."""


class Pair(tuple):
    """A value for the encoder."""

    __slots__ = ()


class Color(enum.Enum):
    """A value for the encoder."""

    RED = "red"


class Level(enum.IntEnum):
    """A value for the encoder."""

    HIGH = 3


class Mode(str, enum.Enum):
    """A value for the encoder."""

    FAST = "fast"


class Blob(bytes, enum.Enum):
    """A value for the encoder: bytes to json, text to orjson."""

    def __new__(cls, value):
        """Make a member whose value is not the bytes that it is."""
        member = bytes.__new__(cls, b"x")
        member._value_ = value
        return member

    def __repr__(self):
        return "Blob.TEXT"

    TEXT = "text"


@dataclasses.dataclass
class Point:
    """A value for the encoder."""

    x: int = 1


class Plain:
    """A value for the encoder."""

    def __init__(self):
        self.a = 1


TEXTS = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(
    ["", "null", "\x00", "\ud800", "\ud83d\ude00", "é", "\u2028", '"\\', "NaN", "😀", "a\x7fb"]
)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, -0.0, 0.1, 1e16, 1e22, 5e-324, 1e400, 10**40])
)
ODD = st.sampled_from(
    [
        decimal.Decimal(1),
        dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
        dt.date(2026, 1, 1),
        uuid.UUID(int=1),
        Color.RED,
        Level.HIGH,
        Mode.FAST,
        Blob.TEXT,
        Point(),
        Plain(),
        b"bytes",
        bytearray(b"x"),
        memoryview(b"x"),
        {1, 2},
        frozenset(),
        1j,
        ...,
        object(),
        Text("text"),
        Number(7),
        Ratio(0.5),
        Ratio("nan"),
        Rows([1]),
        Pair((1, 2)),
        orjson.Fragment(b"{}"),
        range(3),
        print,
        int,
    ]
)
SCALARS = st.none() | st.booleans() | TEXTS | NUMBERS
KEYS = TEXTS | NUMBERS | st.booleans() | st.none() | st.sampled_from([Text("k"), Number(1), Mode.FAST, Level.HIGH])
VALUES = st.recursive(
    SCALARS | ODD,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(TEXTS, inner, max_size=2).map(Record)
    ),
    max_leaves=12,
)


def refuse_constant(name):
    """NaN and the infinities are no JSON."""
    raise ValueError(name)


def oracle(value):
    """Return what a reader of the standard library's JSON gets; None if there is no such JSON."""
    try:
        return json.loads(json.dumps(value), parse_constant=refuse_constant), True
    except (TypeError, ValueError, RecursionError):
        return None, False


def same(one, other):
    """Compare with types: 1, 1.0 and True differ, so do 0.0 and -0.0, and the order of keys."""
    return repr(one) == repr(other)


@given(VALUES)
@example({1: "a", "1": "b"})
@example({"x": [float("nan")]})
@example({float("nan"): 1, float("inf"): 2})
@example([None, (1, 2)])
@example({"a": [Blob.TEXT]})
@example({"a": 0xF3, "b": "\U000f0000", "c": None, "d": (1, 243 << 8)})
@example({"a": 10**5000})
def test_reads_back_like_the_standard_librarys_json_or_is_refused(value):
    """Any value reads back as json.dumps would have it, types included, or is refused as json.dumps does."""
    expected, expressible = oracle(value)
    if expressible:
        assert same(json.loads(encode_json(value)), expected)
    else:
        with pytest.raises(UnencodableEvent):
            encode_json(value)


@given(VALUES)
def test_both_paths_agree(value):
    """What the fast path takes, the slow path takes with the same meaning."""
    try:
        fast = json.loads(encode_json(value))
    except UnencodableEvent:
        with pytest.raises(UnencodableEvent):
            encode_json_slowly(value)
    else:
        assert same(json.loads(encode_json_slowly(value)), fast)


def test_plain_values_take_the_fast_path(monkeypatch):
    """Values of exact built-in types never reach the slow path, also with null and None in them."""
    monkeypatch.setattr(encode, "encode_json_slowly", lambda *_args, **_named: pytest.fail("slow path"))
    encode_json({"a": [1, 2.5, "x", True, None, {"b": "null"}], "é": -1})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"visitors": [{"tags": {"price": decimal.Decimal("9.99")}}]}, "Decimal at visitors[0].tags.price"),
        ({"a": {"b": {1, 2}}}, "set at a.b"),
        ({"user4711@example.com": {"x": b"1"}}, "bytes at ?.x"),
        ({"a": [1.0, float("nan")]}, "NaN or infinity at a[1]"),
        ({"a": {(1, 2): 3}}, "a key of type tuple at a"),
        (decimal.Decimal(1), "Decimal"),
    ],
)
def test_a_refusal_names_the_type_and_the_way_but_no_value(value, words):
    """The message says which type stands where; keys that may be somebody's id are masked."""
    with pytest.raises(UnencodableEvent) as caught:
        encode_json(value)
    assert str(caught.value) == words
    assert caught.value.reason == "unencodable"
    assert caught.value.__suppress_context__


def test_recursive_values_are_refused_and_no_stack_is_exhausted():
    """A structure that contains itself, or is nested 100,000 deep, costs an UnencodableEvent."""
    loop: list = []
    loop.append(loop)
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, {"a": loop}, deep):
        with pytest.raises(UnencodableEvent, match="nested too deeply"):
            encode_json(value)
    while deep:  # taken apart by hand: freeing it in one go would need that stack
        deep = deep.pop()


def test_nesting_that_the_standard_library_takes_is_taken():
    """300 levels are over orjson's limit and under json's."""
    deep: list = []
    for _ in range(300):
        deep = [deep]
    assert json.loads(encode_json(deep)) == deep


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the limit on digits came with 3.11")
def test_an_integer_of_five_thousand_digits_is_refused_as_json_dumps_refuses_it():
    """The interpreter's limit on digits makes it a refusal, not a crash."""
    with pytest.raises(UnencodableEvent):
        encode_json({"n": 10**5000})


def test_a_values_own_code_may_raise_anything():
    """An exception out of the value's own methods is a refusal that does not repeat its message."""

    class Hostile(dict):
        def items(self):
            raise LookupError("visitor-4711")

    with pytest.raises(UnencodableEvent) as caught:
        encode_json({"a": Hostile(x=1)}, default=vars)
    assert "4711" not in str(caught.value)


def test_a_dict_that_changes_while_it_is_written_is_tried_once_more():
    """A RuntimeError (changed size during iteration) is retried once; a second one is a refusal."""

    class Restless(dict):
        failures = 1

        def items(self):
            if self.failures:
                self.failures -= 1
                raise RuntimeError("dictionary changed size during iteration")
            return super().items()

    assert encode_json(Restless(a=1)) == b'{"a":1}'
    twice = Restless(a=1)
    twice.failures = 9
    with pytest.raises(UnencodableEvent):
        encode_json(twice)


def test_default_is_asked_for_what_json_does_not_know():
    """``default`` works as in json.dumps, also nested."""
    assert json.loads(encode_json({"p": [Plain()]}, default=vars)) == {"p": [{"a": 1}]}
    with pytest.raises(UnencodableEvent, match=r"Decimal at p.d"):
        encode_json({"p": SimpleNamespace(d=decimal.Decimal(1))}, default=vars)


# -- LogEvents ---------------------------------------------------------------------------------------------------------


def event_of(url=URL, params=None, *, endpoint=None, merge=False, **more):
    """Encode a LogEvent of these parts."""
    log_event = SimpleNamespace(url=url, params={"a": 1} if params is None else params, **more)
    return log_event_to_event(log_event, endpoint=endpoint, merge=merge)


def test_a_log_event_becomes_its_url_verb_headers_and_json():
    """The body is the params as JSON; it travels alone."""
    event = log_event_to_event(LogEvent(URL, {"a": [1, None]}), endpoint=None, merge=False)
    assert event.envelope == Envelope(URL, "POST", (("Content-Type", "application/json"),))
    assert event.envelope.body([event.payload]) == b'{"a":[1,null]}'


@pytest.mark.parametrize(("given", "verb"), [(None, "POST"), ("", "POST"), ("post", "POST"), ("Get", "GET")])
def test_a_verb_may_be_missing_and_in_any_case(given, verb):
    """None, empty and missing are POST; the case does not matter."""
    assert event_of(http_verb=given).envelope.verb == verb
    assert event_of().envelope.verb == "POST"


@pytest.mark.parametrize("verb", ["PUT", "DELETE", "POST ", 1, b"POST", ["POST"], "po\u017ft"])
def test_other_verbs_are_invalid(verb):
    """There is nothing else that an event endpoint takes."""
    with pytest.raises(InvalidEvent, match="verb"):
        event_of(http_verb=verb)


@pytest.mark.parametrize(
    "url",
    [
        "", "logx.optimizely.com", "ftp://host/x", "http://", "https:///v1", "http://host:99999/", "http://host:x/",
        "http://[::1", "http://ho st/", "http://host/\r\nX: y", "http://host/\x00", "http://hést/", "file:///etc/passwd",
        None, 5, b"http://host/", ["http://host/"],
    ],
)  # fmt: skip
def test_an_url_that_is_no_http_url_is_invalid(url):
    """No scheme, no host, an impossible port, spaces, control characters: invalid, and the URL is not repeated."""
    with pytest.raises(InvalidEvent) as caught:
        event_of(url)
    assert caught.value.reason == "invalid"
    assert str(caught.value) in {
        "the URL is not http:// or https:// with a host",
        f"the URL is no str but {type(url).__name__}",
    }


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/v1/events", "HTTPS://User:pw@Host.example/x?y=1", "http://[::1]/"]
)
def test_usable_urls_are_kept_as_they_are(url):
    """Nothing is normalised."""
    assert check_url(url) == url
    assert event_of(url).envelope.url == url


def test_an_endpoint_replaces_the_events_url():
    """Also if the event's own URL is useless."""
    assert event_of("nonsense", endpoint="http://127.0.0.1:1/x").envelope.url == "http://127.0.0.1:1/x"


@pytest.mark.parametrize(
    "headers",
    [
        {"A": "x\r\nB: y"}, {"A\r\nB": "x"}, {"": "x"}, {"A B": "x"}, {"A": 1}, {1: "x"}, {b"A": b"x"}, {"A": "é"},
        {"A": ["x"]}, [("A", "x")], "A: x", 5, {"A": True},
    ],
)  # fmt: skip
def test_headers_that_are_no_headers_are_invalid(headers):
    """Line breaks in names or values, other types than str, things that are no mapping."""
    for _ in range(2):  # the second time finds nothing in the cache either
        with pytest.raises(InvalidEvent, match="header"):
            event_of(headers=headers)


def test_headers_keep_their_order_and_lose_what_frames_the_body():
    """Content-Length and Transfer-Encoding are the transport's to write; None leaves a header out, as requests does."""
    headers = {"X-B": "2", "Content-Length": "5", "x-a": "1", "transfer-encoding": "chunked", "X-C": None}
    assert event_of(headers=headers).envelope.headers == (("X-B", "2"), ("x-a", "1"))
    assert event_of(headers={}).envelope.headers == ()
    assert event_of(headers=None).envelope.headers == (("Content-Type", "application/json"),)


def test_equal_envelopes_are_one_object():
    """So the sender may compare them by identity first; str subclasses come out as str."""
    one = event_of(headers={"A": "x"}).envelope
    assert event_of(Text(URL), headers={Text("A"): Text("x")}, http_verb=Text("post")).envelope is one
    assert type(event_of(Text("http://127.0.0.1/text")).envelope.url) is str


def test_the_cache_of_envelopes_is_bounded():
    """URLs with an id in each cannot fill the memory."""
    for number in range(3 * encode.ENVELOPES_MAX):
        event_of(f"http://127.0.0.1/{number}")
    assert len(encode._envelopes) <= encode.ENVELOPES_MAX


@pytest.mark.parametrize("value", [object(), None, "text", SimpleNamespace(url=URL), SimpleNamespace(params={})])
def test_what_is_no_log_event_is_a_programmers_mistake(value):
    """A missing url or params is a TypeError that says what is wanted."""
    with pytest.raises(TypeError, match="url, params, http_verb and headers"):
        log_event_to_event(value, endpoint=None, merge=False)


def test_a_user_event_at_the_wrong_door_is_told_where_to_go():
    """The TypeError names EventProcessor."""
    with pytest.raises(TypeError, match=r"EventProcessor\.process"):
        log_event_to_event(SimpleNamespace(event_context=1), endpoint=None, merge=False)


@pytest.mark.parametrize("name", ["url", "params", "http_verb", "headers"])
def test_a_property_that_raises_makes_the_event_invalid(name):
    """Whatever an attribute raises but AttributeError stays inside."""

    class Odd:
        url = URL
        params = None
        http_verb = "POST"
        headers = None

    def fail(_self):
        raise LookupError("secret")

    setattr(Odd, name, property(fail))
    with pytest.raises(InvalidEvent) as caught:
        log_event_to_event(Odd(), endpoint=None, merge=False)
    assert "secret" not in str(caught.value)


class Hostile(str):
    """A value whose own code raises the one exception that a door lets through from nobody but itself."""

    __slots__ = ()

    def lower(self):
        """Fail."""
        raise TypeError("secret")


class Faceless:
    """An object that can't even be asked what it is."""

    @property
    def __class__(self):
        """Fail."""
        raise TypeError("secret")


HOSTILE = [
    {"url": Faceless()}, {"http_verb": Faceless()}, {"headers": Faceless()}, {"headers": {"A": Faceless()}},
    {"headers": {Faceless(): "x"}}, {"headers": {Hostile("A"): "x"}}, {"params": Faceless()},
]  # fmt: skip


@pytest.mark.parametrize("parts", HOSTILE, ids="-".join)
def test_a_type_error_of_an_attributes_own_code_is_no_programmers_mistake(parts):
    """It costs this event only, and nothing of it is repeated."""
    with pytest.raises((InvalidEvent, UnencodableEvent)) as caught:
        event_of(**parts)
    assert "secret" not in str(caught.value)


QUERY_VALUES = TEXTS | st.integers() | st.booleans() | st.none() | st.binary(max_size=3) | st.lists(TEXTS, max_size=3)


@given(st.dictionaries(TEXTS, QUERY_VALUES, max_size=4))
def test_get_puts_the_params_in_the_query_as_requests_does(params):
    """The oracle is the library that the SDK sends with."""
    try:
        expected = requests.models.RequestEncodingMixin._encode_params(params)
    except UnicodeEncodeError:
        with pytest.raises(UnencodableEvent):
            event_of(params=params, http_verb="GET")
    else:
        assert event_of(params=params, http_verb="GET").payload == expected.encode()


def test_get_refuses_what_makes_no_query():
    """A number is no set of parameters, and a value's own code may raise."""

    class Hostile:
        def __str__(self):
            raise LookupError("secret")

    for params in (5, ["abc"], {"a": Hostile()}):
        with pytest.raises(UnencodableEvent) as caught:
            event_of(params=params, http_verb="GET")
        assert "secret" not in str(caught.value)
    event = log_event_to_event(SimpleNamespace(url=URL, params=None, http_verb="GET"), endpoint=None, merge=True)
    assert event.payload == b""


# -- merging -----------------------------------------------------------------------------------------------------------

BATCHES = st.fixed_dictionaries(
    {"account_id": TEXTS, "visitors": st.lists(st.dictionaries(TEXTS, SCALARS, max_size=3), max_size=3)},
    optional={"revision": SCALARS, "client_name": TEXTS, "list": st.lists(st.integers(), max_size=2)},
).flatmap(lambda batch: st.permutations(list(batch.items())).map(dict))


@given(BATCHES)
@example({"visitors": [{"a": "é"}], "z": "\ud800"})
@example({"visitors": [{}]})
@example({"visitors": []})
@example({"a": ["visitors"], "visitors": [{"visitors": []}], "b": [1]})
def test_a_merged_event_alone_has_the_bytes_of_the_unmerged_one(batch):
    """Cutting the visitors out changes no byte; what cannot be cut travels alone."""
    try:
        whole = event_of(params=batch, merge=False)
    except UnencodableEvent:
        with pytest.raises(UnencodableEvent):
            event_of(params=batch, merge=True)
        return
    event = event_of(params=batch, merge=True)
    assert event.envelope.body([event.payload]) == whole.payload
    if event.envelope.shared:
        joined = json.loads(event.envelope.body([event.payload, event.payload]))
        alone = json.loads(whole.payload)
        assert same(joined, {**alone, "visitors": alone["visitors"] * 2})
        assert batch["visitors"]


@pytest.mark.parametrize(
    ("params", "verb"),
    [
        ({"visitors": []}, "POST"),
        ({"visitors": {}}, "POST"),
        ({"visitors": ({},)}, "POST"),
        ({"a": {"visitors": [{}]}}, "POST"),
        ([{"visitors": [{}]}], "POST"),
        ({"visitors": [{}], 1: 2}, "POST"),
        (Record(visitors=[{}]), "POST"),
        ({"visitors": "x"}, "GET"),
    ],
)
def test_a_body_without_a_visitors_array_travels_alone(params, verb):
    """Only a non-empty list under the top-level key ``visitors`` of a POST is merged."""
    assert not event_of(params=params, http_verb=verb, merge=True).envelope.shared


def test_events_merge_only_if_everything_around_the_visitors_is_equal():
    """Another value, another order of keys, another header or URL: another envelope."""
    base = {"account_id": "1", "visitors": [{"v": 1}], "revision": "2"}
    same_envelope = event_of(params={**base, "visitors": [{"v": 2}]}, merge=True).envelope
    assert event_of(params=base, merge=True).envelope is same_envelope
    others = [
        event_of(params={**base, "revision": 2}, merge=True),
        event_of(params={"revision": "2", **base}, merge=True),
        event_of(params=base, merge=True, headers={"A": "x"}),
        event_of("http://127.0.0.1/", params=base, merge=True),
    ]
    assert all(other.envelope != same_envelope for other in others)


def test_the_caller_may_change_its_dict_afterwards():
    """The event is a snapshot."""
    params = {"visitors": [{"a": 1}]}
    for merge in (False, True):
        event = event_of(params=params, merge=merge)
        before = event.envelope.body([event.payload])
        params["visitors"].append({"b": 2})
        assert event.envelope.body([event.payload]) == before


def test_get_query_reads_back():
    """Repeated keys, None left out."""
    event = event_of(params={"a": [1, 2], "b": None, "c": "x y&"}, http_verb="get")
    assert parse_qsl(event.payload.decode()) == [("a", "1"), ("a", "2"), ("c", "x y&")]
