"""Whose an event is, and which of its bytes; what is cut out leaves the others' bytes as they were."""

import json
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventpost.event import Envelope
from eventpost.queues.journal.visitors import Found, Visitor, answer_span

BODY = Envelope("http://127.0.0.1:9/")
PIECE = BODY._replace(shared=True, prefix=b'{"visitors":[', suffix=b"]}")
QUERY = BODY._replace(verb="GET")
IDS = st.sampled_from(["alice", 'a"b', "a\\u0062", "é\u2028", "{},[]", "1", " ", "visitors", "\U0001f600"]) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(TEXTS | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=3)
VISITORS = st.builds(
    lambda visitor_id, before, after: {**before, "visitor_id": visitor_id, **after},
    IDS, st.dictionaries(TEXTS, VALUES, max_size=2), st.just({"snapshots": [{"events": [{"tags": {"x": "]},{"}}]}]}),
)  # fmt: skip
WRITERS = st.sampled_from(
    [
        lambda value: json.dumps(value).encode(),
        lambda value: json.dumps(value, ensure_ascii=False, indent=1).encode(),
        lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
    ]
)


def cut(visitor_id, envelope, payload):
    """Return what is left of a payload once the visitor is taken out; None where all of it is theirs."""
    found = Visitor(visitor_id).find(envelope, payload)
    assert found is not None
    if found.whole:
        return None
    left = bytearray(payload)
    for start, stop in found.spans:
        left[start:stop] = b" " * (stop - start)
    return bytes(left)


@given(st.lists(VISITORS, min_size=1, max_size=5), IDS, st.dictionaries(TEXTS, VALUES, max_size=2), WRITERS, st.data())
def test_a_visitor_is_taken_out_of_a_body_and_nobody_else_is_changed(visitors, gone, around, write, data):
    """However it is written: the rest is the same JSON without them, as long as before, the others' bytes untouched."""
    keys = [*around, "visitors"]
    batch = {**around, "visitors": visitors}
    body = write({key: batch[key] for key in data.draw(st.permutations(list(dict.fromkeys(keys))))})
    theirs = [one for one in visitors if one["visitor_id"] == gone]
    if not theirs:
        assert Visitor(gone).find(BODY, body) is None
        return
    left = cut(gone, BODY, body)
    if len(theirs) == len(visitors):
        assert left is None
        return
    assert len(left) == len(body)
    assert json.loads(left) == {**batch, "visitors": [one for one in visitors if one not in theirs]}
    assert all(after in (before, 0x20) for before, after in zip(body, left, strict=True))
    assert Visitor(gone).find(BODY, left) is None


@given(st.lists(VISITORS, min_size=1, max_size=4), IDS, WRITERS)
def test_the_same_for_a_piece_that_travels_with_others(visitors, gone, write):
    """Visitors cut out of a body, one after the other: still a list between prefix and suffix, alone or joined."""
    piece = b",".join(map(write, visitors))
    kept = [one for one in visitors if one["visitor_id"] != gone]
    if len(kept) == len(visitors):
        assert Visitor(gone).find(PIECE, piece) is None
        return
    left = cut(gone, PIECE, piece)
    if not kept:
        assert left is None
        return
    assert json.loads(PIECE.body([left])) == {"visitors": kept}
    assert json.loads(PIECE.body([left, left])) == {"visitors": [*kept, *kept]}


@given(IDS, st.dictionaries(st.sampled_from(["u", "n", "x"]), TEXTS, max_size=3))
def test_a_query_is_theirs_if_one_of_its_values_is_the_id(gone, others):
    """The legacy GET names its visitor in a value of its query: the whole event is one person's."""
    rest = {key: value for key, value in others.items() if value != gone}
    assert Visitor(gone).find(QUERY, urlencode({**rest, "visitor": gone}).encode()).whole
    assert Visitor(gone).find(QUERY, urlencode(rest).encode()) is None


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        (b'{"visitors":[{"visitor_id":7}]}', True),
        (b'{"visitors":[{"visitor_id":"7"},{"visitor_id":"8","visitor_id":"7"}]}', True),
        (b'{"visitors":[{"visitor_id":"\\u0037"}]}', True),
        (b'{"visitors":[{"visitor_id":"8"}],"visitors":[{"visitor_id":"7"}]}', False),
        (b'{"visitors":[{"visitor_id":"7"}],"visitors":[{"visitor_id":"8"},{"visitor_id":"7"}]}', False),
        (b' { "x" : "\xff" , "visitors" : [ { "visitor_id" : "7" } , {} ] } ', False),
        (b'{"visitors":[{"visitor_id":"7","x":"\xff"}]}', True),
        (b'{"visitors":[],"visitors":[{"visitor_id":"7"}]}', True),
        (b'{"x":"a\nb","visitors":[{"visitor_id":"7","x":"a\tb"}]}', True),
        (b'{"visitors":[{"visitor_id":"8"},{"visitor_id":"7","x":"a\tb"}]}', False),
    ],
)
def test_forms_that_no_sdk_writes(body, whole):
    """Numbers, names that occur twice, escapes, bytes that are no UTF-8, or no characters of a JSON text."""
    found = Visitor("7").find(BODY, body)
    assert found.whole is whole
    if not whole:
        assert b'"7"' not in cut("7", BODY, body)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"7", b'"7"', b'["7"]', b'{"visitors":"7"}', b'{"visitors":["7",7]}', b'{"visitor_id":"7"}',
        b'{"visitors":[{"visitor_id":true}]}', b'{"visitors":[{"visitor_id":["7"]}]}',
        b'{"visitors":[{"visitor_id":"77"}]}', b'{"people":[{"visitor_id":"7"}],"visitors":[]}',
        b'{"visitor_id":"7"} x', b'{"visitor_id":"7"}]',
        b'{"visitors":[{"visitor_id":"8","attributes":[{"value":"7"}]}]}', b'{"visitors":[{"visitor_id":"7"}',
        b'{"visitors":[{"visitor_id":"7"},]}', b"\x007", b'{"visitors":' + b"[" * 100_000 + b'"7"',
    ],
)  # fmt: skip
def test_what_is_nobodys_visitor(body):
    """Not JSON, no list of visitors, another's id, the id as somebody's value: None, and no exception."""
    assert Visitor("7").find(BODY, body) is None
    assert Visitor("7").find(PIECE, body) is None or body == b'{"visitor_id":"7"}'


@pytest.mark.parametrize(
    ("visitor_id", "body"),
    [("a", b'{"visitors":[{"visitor_id":"\\u0061"}]}'), ("a/b", b'{"visitors":[{"visitor_id":"a\\/b"}]}')],
)
def test_an_id_that_is_escaped_where_it_need_not_be(visitor_id, body):
    """No byte of it stands there as itself, or not all of them side by side."""
    assert visitor_id.encode() not in body
    assert Visitor(visitor_id).find(BODY, body) == Found(whole=True)


@pytest.mark.parametrize("query", [b"v=a+b/&x", b"x=\xff&v=a%20b%2F", b"&v=c&v=a+b%2f&v="])
def test_a_query_as_others_write_it(query):
    """Spaces and slashes in either form, bytes that are no UTF-8, names without a value; it is no JSON."""
    assert Visitor("a b/").find(QUERY, query) == Found(whole=True)
    assert Visitor("a b").find(QUERY, query) is None
    assert Visitor("7").find(QUERY, b'{"visitors":[{"visitor_id":"7"}]}') is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"7,8", b"- 8"), (b"8,7", b"8 -"), (b"8,7,9", b"8 -,9"), (b"7,7,8", b"- - 8"), (b"8,7,7", b"8 - -"),
        (b"7,8,7", b"- 8 -"), (b"7 , 8", b"-   8"), (b"8 , 7 , 9", b"8   - , 9"), (b" 7,8 ", b" - 8 "),
    ],
)  # fmt: skip
def test_what_is_cut_takes_one_comma_with_it(before, after):
    """The one before it, or the one behind it where nobody is kept before; in a body and in a piece."""
    for one in (b"7", b"8", b"9"):
        visitor = b'{"visitor_id":"%s"}' % one
        before, after = before.replace(one, visitor), after.replace(one, visitor)
    after = after.replace(b"-", b" " * len(visitor))
    assert cut("7", PIECE, before) == after
    assert cut("7", BODY, b'{"visitors":[%s],"a":1}' % before) == b'{"visitors":[%s],"a":1}' % after


def test_an_event_whose_envelope_was_lost_is_tried_both_ways():
    """A body by its list, a piece by its visitors."""
    assert Visitor("7").find(None, b'{"visitors":[{"visitor_id":"7"}]}').whole
    assert Visitor("7").find(None, b'{"visitor_id":"7"}').whole
    assert not Visitor("7").find(None, b'{"visitor_id":"7"},{"visitor_id":"8"}').whole


@pytest.mark.parametrize("visitor_id", ["a", 'q"b', "é", 'é"b', "a b&c", "a b/c"])
def test_what_shows_the_id(visitor_id):
    """In bytes that can't be read its end may be missing; where it is mentioned it stands as a string of its own."""
    visitor = Visitor(visitor_id)
    for text in (json.dumps(visitor_id), json.dumps(visitor_id, ensure_ascii=False)):
        assert visitor.is_mentioned(b"x:" + text.encode())
        assert visitor.shows_in(b"x:" + text.encode()[:-1])
    assert visitor.is_mentioned(b'x:"' + visitor_id.encode() + b'"')
    assert visitor.shows_in(urlencode({"v": visitor_id}).encode())
    assert visitor.shows_in(b"v=" + quote(visitor_id, safe="").encode())
    assert visitor.shows_in(b'x:"' + visitor_id.encode())
    assert not visitor.is_mentioned(json.dumps(f"{visitor_id}2").encode())
    assert not visitor.shows_in(b"x" + json.dumps(f"2{visitor_id}").encode())


def test_the_answer_in_a_dead_letter_is_found():
    """Between its quotes, whatever it quotes; not where there is none."""
    meta = json.dumps({"reason": "http_400", "answer": 'no "answer":"x" here', "origin": "a:1"}).encode()
    start, stop = answer_span(meta)
    assert json.loads(b'"' + meta[start:stop] + b'"') == 'no "answer":"x" here'
    assert answer_span(b'{"reason":"x"}') is None
    assert answer_span(b'{"answer":5}') is None
    assert answer_span(b"\0\0") is None


@pytest.mark.parametrize("visitor_id", ["", "\ud800"])
def test_an_id_that_is_none(visitor_id):
    """Refused, without being quoted; and no object shows one."""
    with pytest.raises(ValueError, match="a visitor's id"):
        Visitor(visitor_id)
    assert "alice" not in repr(Visitor("alice"))
