"""What is shown of stored events: any shape that a relay may have taken, and masked."""

import json
from typing import Any

import pytest
from tests.support import ENVELOPE

from eventpost.event import Envelope, Event
from eventpost.queues import shown
from eventpost.queues.journal.dead import DeadLetter
from eventpost.queues.journal.tail import Seen

WHOLE = Envelope("https://example.org/v1/events")


def whole(value: Any) -> Event:
    """One LogEvent with this body."""
    return Event(WHOLE, json.dumps(value).encode())


@pytest.mark.parametrize(
    "value",
    [
        None, 1, "text", [], {}, {"visitors": None}, {"visitors": {"a": 1}}, {"visitors": [1, None, []]},
        {"visitors": [{"snapshots": None}]}, {"visitors": [{"snapshots": [1, None, {"events": 3}]}]},
        {"visitors": [{"snapshots": [{"events": [1, None, []]}]}]}, {"visitors": [{"snapshots": {"events": []}}]},
    ],
)  # fmt: skip
def test_a_batch_of_any_shape_is_shown(value: Any) -> None:
    """A door takes what the endpoint would take; who looks at it must not stumble."""
    event = whole(value)
    keys, uuids, _ = shown.summary(event, visitor_ids=False)
    assert (keys, uuids) == (f"<{len(event.payload)} bytes>", "-")
    shown.payload(event, visitor_ids=False)


def test_a_payload_that_is_nested_without_end_is_not_walked_through() -> None:
    """It is shown by its length: no function that calls itself meets it."""
    deep = Event(WHOLE, b'{"visitors":[' + b"[" * 900 + b"]" * 900 + b"]}")
    assert shown.payload(deep, visitor_ids=False).startswith(f"<{len(deep.payload)} bytes")
    assert shown.summary(deep, visitor_ids=False)[0] == f"<{len(deep.payload)} bytes>"
    deeper = Event(WHOLE, b"[" * 100_000)
    assert shown.payload(deeper, visitor_ids=False).startswith("<100000 bytes")


def test_who_somebody_is_stays_masked_in_payload_answer_and_headers() -> None:
    """And with visitor_ids all is shown as it is."""
    body = {"visitors": [{"visitor_id": "ada@example.org", "snapshots": [{"events": [{"key": "k", "uuid": "u"}]}]}]}
    envelope = Envelope("https://example.org/v1/events?key=s3cret", headers=(("Cookie", "abc"), ("Accept", "x")))
    event = Event(envelope, json.dumps(body).encode())
    letter = DeadLetter("a:0", event, "rejected", 400, "no ada@example.org for s3cret", 0, 1)
    masked = shown.letter_as_dict(letter, visitor_ids=False, with_payload=True)
    assert "ada" not in repr(masked)
    assert "s3cret" not in repr(masked)
    assert masked["headers"] == {"Cookie": "****", "Accept": "x"}
    assert masked["answer"] == "no **** for ****"
    assert (masked["events"], masked["uuids"], masked["visitors"]) == ("k", "u", "****")
    assert masked == {
        "id": "a:0", "died": "1970-01-01 00:00:00Z",
        "reason": "rejected", "status": 400, "answer": "no **** for ****",
        "attempts": 1, "endpoint": "https://example.org/v1/events", "events": "k", "uuids": "u", "visitors": "****",
        "verb": "POST", "headers": {"Cookie": "****", "Accept": "x"}, "shared": False, "payload": masked["payload"],
    }  # fmt: skip
    plain = shown.letter_as_dict(letter, visitor_ids=True, with_payload=True)
    assert (plain["visitors"], plain["answer"]) == ("ada@example.org", "no ada@example.org for s3cret")
    assert plain["payload"].encode() == event.payload


def test_one_visitor_of_a_shared_request_is_shown_like_a_batch() -> None:
    """Its payload is the visitor itself."""
    visitor = {"visitor_id": "v", "snapshots": [{"events": [{"key": "k", "uuid": "u"}, {"key": "l", "uuid": "w"}]}]}
    event = Event(ENVELOPE, json.dumps(visitor).encode())
    assert shown.summary(event, visitor_ids=True) == ("k, l", "u, w", "v")


def test_what_names_things_is_shown_where_an_id_is_the_same_word() -> None:
    """Somebody's id may be "main": a revision or a client of that name is nobody, and its attribute is somebody."""
    names = (
        "key", "uuid", "type", "entity_id", "account_id", "project_id", "revision", "client_name", "client_version",
        "campaign_id", "experiment_id", "variation_id", "rule_key", "rule_type", "flag_key", "variation_key",
    )  # fmt: skip
    named = dict.fromkeys(names, "main")
    body = {"visitor_id": "main", **named, "attributes": [{"value": "main"}]}
    assert shown.payload(whole(body), visitor_ids=False) == {
        "visitor_id": "****", **named, "attributes": [{"value": "****"}]
    }  # fmt: skip


def test_each_visitors_id_is_masked_wherever_it_is_repeated() -> None:
    """Of all visitors in a payload, whichever comes first."""
    visitors = [{"visitor_id": name, "session_id": f"{name}-1"} for name in ("ada", "ben", "cem")]
    found = shown.payload(
        whole({"visitors": visitors, "tags": ["by ada", "ben-1", "for cem", "none"]}), visitor_ids=False
    )
    assert found["tags"] == ["by ****", "****", "for ****", "none"]


def test_objects_that_are_nested_without_end_are_not_walked_through() -> None:
    """Like lists: a hundred levels are more than make sense."""
    for levels, is_shown in ((90, True), (150, False)):
        deep = Event(WHOLE, b'{"a":' * levels + b"1" + b"}" * levels)
        assert isinstance(shown.payload(deep, visitor_ids=False), dict) is is_shown


def test_an_answer_does_not_quote_what_a_get_asked() -> None:
    """Its payload is a query, and no JSON."""
    event = Event(WHOLE._replace(verb="GET"), b"u=ada%40example.org&n=page_view")
    letter = DeadLetter("a:0", event, "rejected", 400, "ada@example.org has no page_view", 0, 1)
    assert shown.answer(letter, visitor_ids=False) == "**** has no ****"
    assert shown.answer(letter, visitor_ids=True) == letter.answer


def test_a_stored_events_line_tells_what_is_in_it() -> None:
    """Its keys and uuids; its visitors only to who asked for them."""
    visitor = {"visitor_id": "ada", "snapshots": [{"events": [{"key": "k", "uuid": "u"}]}]}
    seen = Seen("a:0", whole({"visitors": [visitor]}), 0, "queued")
    line = {
        "id": "a:0", "at": "1970-01-01 00:00:00Z", "state": "queued", "endpoint": WHOLE.url,
        "events": "k", "uuids": "u", "visitors": "****",
    }  # fmt: skip
    assert shown.seen_as_dict(seen, visitor_ids=False) == line
    assert shown.seen_as_dict(seen, visitor_ids=True) == {**line, "visitors": "ada"}
