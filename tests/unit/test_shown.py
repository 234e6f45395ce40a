"""What is shown of stored events: any shape that a relay may have taken, and masked."""

import json
import time
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


def answered(event: Event, said: str) -> str:
    """Return what is shown of an answer to it."""
    return shown.answer(DeadLetter("a:0", event, "rejected", 400, said, 0, 1), visitor_ids=False)


def test_headers_that_hold_no_secret_are_shown() -> None:
    """However they are written; others only to who asked for all, and a quote of theirs is none of a secret."""
    plain = {"Accept": "text/x", "content-type": "a/json", "Content-Encoding": "gzip", "User-Agent": "curl/8"}
    envelope = Envelope(WHOLE.url, headers=(*plain.items(), ("X-Key", "abc")))
    event = Event(envelope, b"{}")
    assert shown.headers(event, visitor_ids=False) == {**plain, "X-Key": "****"}
    assert shown.headers(event, visitor_ids=True) == {**plain, "X-Key": "abc"}
    letter = DeadLetter("a:0", event, "rejected", 400, "", 0, 1)
    shown_headers = shown.letter_as_dict(letter, visitor_ids=True, with_payload=True)["headers"]
    assert shown_headers == {**plain, "X-Key": "abc"}
    assert answered(event, "abc takes no a/json of curl/8 as gzip") == "**** takes no a/json of curl/8 as gzip"


def test_a_secret_of_several_words_is_masked_in_an_answer_as_a_whole_and_by_the_word() -> None:
    """An endpoint may quote the scheme and the token, or the token alone; short words only with the others."""
    event = Event(Envelope(WHOLE.url, headers=(("Authorization", "Bearer t0ken"), ("X-Key", "is it"))), b"{}")
    assert answered(event, "no t0ken; Bearer t0ken; is it") == "no ****; ****; ****"
    assert answered(event, "it is") == "it is"


def test_a_get_is_masked_in_an_answer_like_any_other() -> None:
    """What its URL holds besides, and whatever bytes its query is made of."""
    event = Event(Envelope(f"{WHOLE.url}?key=s3cret", "GET"), b"u=\xff&n=page_view")
    assert answered(event, "s3cret: page_view") == "****: ****"


def test_the_longest_is_masked_first() -> None:
    """Else what is left of it would say who it was: in answers and in payloads."""
    event = whole({"visitors": [{"visitor_id": "dam"}, {"visitor_id": "adam"}, {"visitor_id": "adams"}], "tag": "adam"})
    assert answered(event, "adams, adam, dam") == "****, ****, ****"
    assert shown.payload(event, visitor_ids=False)["tag"] == "****"


def test_a_number_may_be_an_id() -> None:
    """It is masked where it is repeated, as a number and in a text; other values stay what they are."""
    body = {"visitor_id": 12345, "attributes": [{"value": one} for one in (12345, "no 12345", 54321, 1.5, True, None)]}
    found = shown.payload(whole(body), visitor_ids=False)
    assert found["visitor_id"] == "****"
    assert [one["value"] for one in found["attributes"]] == ["****", "no ****", 54321, 1.5, True, None]


def test_a_short_id_is_masked_in_its_place_only() -> None:
    """It may be part of any word; and what is nobody's id is shown."""
    body = {"visitor_id": "ab", "session_id": None, "value": "cab", "other": "cab ab"}
    assert shown.payload(whole(body), visitor_ids=False) == {**body, "visitor_id": "****", "session_id": "****"}


def test_what_is_wide_is_shown_and_what_is_deep_is_not() -> None:
    """A hundred levels are more than make sense, any number of values beside each other is not."""
    wide = {"tags": [[n, "text"] for n in range(200)], "text": "text"}
    assert shown.payload(whole(wide), visitor_ids=False) == wide
    for levels, is_shown in ((99, True), (100, False)):
        deep = Event(WHOLE, b'{"a":' * levels + b"1" + b"}" * levels)
        assert isinstance(shown.payload(deep, visitor_ids=False), dict) is is_shown


def test_a_payload_is_read_as_other_encoders_write_it() -> None:
    """NaN is no JSON, and clients send it; to who asked for all, any bytes are shown."""
    event = Event(WHOLE, b'{"visitor_id":"ada","value":NaN,"tag":"ada"}')
    found = shown.payload(event, visitor_ids=False)
    assert (found["visitor_id"], found["tag"]) == ("****", "****")
    assert shown.payload(Event(WHOLE, b"\xff{"), visitor_ids=True) == "\ufffd{"


def test_visitors_are_found_by_how_their_event_is_sent() -> None:
    """What shares a request is one visitor, whatever it holds; what goes alone may be one without a list."""
    visitor = {"visitor_id": "ada", "snapshots": [{"events": [{"key": "k", "uuid": "u"}]}]}
    shares = Event(ENVELOPE, json.dumps({**visitor, "visitors": []}).encode())
    for event in (shares, whole(visitor), whole({"visitors": [visitor]})):
        assert shown.summary(event, visitor_ids=True) == ("k", "u", "ada")
    assert shown.summary(whole({}), visitor_ids=True) == ("<2 bytes>", "-", "-")


def test_a_number_of_things_is_told_as_people_do() -> None:
    """One, or more, or none; thousands set apart; where an s does not make the plural, that is said."""
    assert [shown.count(number, "event") for number in (0, 1, 2)] == ["0 events", "1 event", "2 events"]
    assert [shown.count(number, "entry", "entries") for number in (1, 1234)] == ["1 entry", "1,234 entries"]


def test_a_moment_is_told_in_utc_wherever_this_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its date."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-9")
        time.tzset()
        told = shown.moment(86_399.0)
    time.tzset()
    assert told == "1970-01-01 23:59:59Z"
