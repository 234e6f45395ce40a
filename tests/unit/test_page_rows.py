"""How events look in the page's tables."""

import json
from typing import Any

import pytest
from tests.support import ENVELOPE

from eventpost.event import Envelope, Event
from eventpost.queues.journal.dead import DeadLetter
from eventpost.relay.page.rows import Filter, event_row, indented, letter_row, one_line

WHOLE = Envelope("https://user:s3cret@example.org/v1/events?k=s3cret")
DECISION = {
    "campaign_id": "1", "experiment_id": "2", "variation_id": "3",
    "metadata": {"flag_key": "checkout", "rule_key": "rule", "rule_type": "experiment", "variation_key": "on"},
}  # fmt: skip
IMPRESSION = {
    "decisions": [DECISION],
    "events": [{"key": "campaign_activated", "type": "campaign_activated", "uuid": "u-1", "entity_id": "1"}],
}
CONVERSION = {"events": [{"key": "bought", "type": "bought", "uuid": "u-2", "entity_id": "9"}]}


def batch(*snapshots: Any, **more: Any) -> Event:
    """One LogEvent of one visitor."""
    value = {"project_id": "77", "visitors": [{"visitor_id": "ada", "snapshots": list(snapshots)}], **more}
    return Event(WHOLE, json.dumps(value).encode())


def test_an_impression_is_named_by_its_flag_and_variation() -> None:
    """All impressions have one key, which would tell nothing."""
    row = event_row(batch(IMPRESSION), visitor_ids=False)
    assert [row[name] for name in ("kind", "key", "variation", "project", "uuid", "visitor", "events")] == [
        "impression", "checkout", "on", "77", "u-1", "****", 1,
    ]  # fmt: skip
    assert row["endpoint"] == "https://example.org/v1/events"


def test_a_conversion_is_named_by_its_key() -> None:
    """And shows its visitor only where that was asked for."""
    row = event_row(batch(CONVERSION), visitor_ids=True)
    assert [row[name] for name in ("kind", "key", "variation", "visitor")] == ["conversion", "bought", "", "ada"]


def test_a_batch_of_both_says_so() -> None:
    """Names beyond the third are counted."""
    row = event_row(batch(IMPRESSION, CONVERSION), visitor_ids=False)
    assert (row["kind"], row["key"], row["events"]) == ("mixed", "checkout, bought", 2)
    many = [{"events": [{"key": f"k{number}", "uuid": "u"}]} for number in range(5)]
    assert event_row(batch(*many), visitor_ids=False)["key"] == "k0, k1, k2 +2"


def test_an_impression_without_a_flag_has_what_there_is() -> None:
    """SDKs older than flags send experiments only; a decision may be anything."""
    old = {**IMPRESSION, "decisions": [{"campaign_id": "1", "experiment_id": "22", "variation_id": None}]}
    row = event_row(batch(old), visitor_ids=False)
    assert (row["key"], row["variation"]) == ("22", "off")
    assert event_row(batch({**IMPRESSION, "decisions": [3, None]}), visitor_ids=False)["key"] == "campaign_activated"
    assert event_row(batch({**IMPRESSION, "decisions": 3}), visitor_ids=False)["key"] == "campaign_activated"


def test_one_visitor_of_a_shared_request_knows_its_project() -> None:
    """It stands in what all of them share."""
    envelope = ENVELOPE._replace(prefix=b'{"project_id":"88","visitors":[')
    event = Event(envelope, json.dumps({"visitor_id": "ada", "snapshots": [CONVERSION]}).encode())
    assert event_row(event, visitor_ids=False)["project"] == "88"


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"{}", b'{"visitors":[]}', b"[" * 10_000, b'{"visitors":{}}'])
def test_whatever_was_stored_has_a_row(payload: bytes) -> None:
    """The relay takes what the endpoint takes."""
    row = event_row(Event(WHOLE, payload), visitor_ids=False)
    assert (row["kind"], row["key"]) == ("other", f"{len(payload):,} bytes")


def test_a_line_has_an_end_and_nothing_that_moves_others() -> None:
    """Control characters, line breaks and those that turn the direction of writing are replaced."""
    assert one_line("a\n\x1b\u202eb") == "a\ufffd\ufffd\ufffdb"
    assert one_line("x" * 500) == "x" * 120 + "…"
    assert one_line(None) == "None"
    row = event_row(batch({"events": [{"key": "<script>\u2028", "uuid": "u"}]}), visitor_ids=False)
    assert row["key"] == "<script>\ufffd"


def test_a_payload_is_indented_number_for_number() -> None:
    """Also beyond a browser's 53 bits; what is no JSON stands as it is; what is no text can still be sent."""
    assert indented('{"id":9007199254740993,"a":[1.5]}') == '{\n  "id": 9007199254740993,\n  "a": [\n    1.5\n  ]\n}'
    assert indented({"a": "\xe4"}) == '{\n  "a": "\xe4"\n}'
    assert indented("<7 bytes>") == "<7 bytes>"
    assert indented({"a": "\ud800"}) == '{\n  "a": "\\ud800"\n}'
    odd = Event(WHOLE, b'{"project_id":"\\ud800","visitors":[{"snapshots":[{"events":[{"key":"\\udfff"}]}]}]}')
    row = event_row(odd, visitor_ids=True)
    assert (row["key"], row["project"]) == ("\ufffd", "\ufffd")


def test_a_letter_tells_why_it_died_without_what_the_answer_quotes() -> None:
    """Status, attempts, and the answer on one line."""
    letter = DeadLetter("1-a-1:0", batch(CONVERSION), "rejected", 400, "no such visitor:\nada", 5, 3)
    row = letter_row(letter, 2, visitor_ids=False)
    assert [row[name] for name in ("id", "at", "reason", "status", "attempts", "answer")] == [
        "2/1-a-1:0", 5, "rejected", 400, 3, "no such visitor:\ufffd****",
    ]  # fmt: skip


def test_a_filter_takes_what_has_its_text_and_its_values() -> None:
    """A text may stand anywhere in what is shown, in any case; numbers that are no names are not searched."""
    row = event_row(batch(CONVERSION), visitor_ids=False) | {"state": "queued"}
    for wanted in ("", "BOUGHT", "77", "u-2", "example.org", "  bought "):
        assert Filter(text=wanted).takes(row), wanted
    for wanted in ("sold", "ada", str(row["bytes"])):
        assert not Filter(text=wanted).takes(row), wanted
    assert Filter(kind="conversion", state="queued").takes(row)
    assert not Filter(kind="impression").takes(row)
    assert not Filter(state="dead").takes(row)
    assert Filter.of({"text": "x" * 10_000, "kind": None, "else": 3}) == Filter(text="x" * 200)
