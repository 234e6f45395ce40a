"""Whether a body fits the published schema: the quick look says what the thorough one says."""

import copy
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventpost.event import Envelope, Event
from eventpost.relay.answers import Denied
from eventpost.relay.body import LOOKS_PER_S, Looks, look, parse_batch
from eventpost.relay.projects import ENVELOPES_MAX, Projects
from eventpost.relay.strict import SCHEMA, strict_errors

BATCH = {
    "account_id": "1", "project_id": "2", "revision": "3", "client_name": "c", "client_version": "4",
    "anonymize_ip": True, "enrich_decisions": True, "region": "EU",
    "visitors": [{
        "visitor_id": "v", "session_id": "s",
        "attributes": [{"type": "custom", "value": "x", "key": "k", "entity_id": "5"}, {"type": "other", "value": 1}],
        "snapshots": [{
            "decisions": [{
                "campaign_id": "6", "experiment_id": "7", "variation_id": None, "is_campaign_holdback": False,
                "metadata": {"flag_key": "f", "enabled": True},
            }],
            "events": [
                {"timestamp": 1, "uuid": "u", "entity_id": "6", "key": "campaign_activated", "value": 1.5},
                {"timestamp": 1, "uuid": "u", "entity_id": "9", "key": "purchase", "revenue": 3, "tags": {"a": [1]}},
            ],
        }],
    }],
}  # fmt: skip
NAMES = sorted({field.name for fields in SCHEMA.values() for field in fields})
VALUES = st.sampled_from([
    None, True, "", "6", "campaign_activated", "custom", 0, -3, 1.0, 1.5, 1 << 62, 1 << 63, -(1 << 63) - 1, 1 << 64,
    1e300, {}, [], [{}], {"a": {"b": []}}, "é\ud7ff\n", [None],
])  # fmt: skip
PIECES = (b'"', b"\\", b"{", b"}", b",", b":", b"0", b".5", b"e2", b"-", b"null", b"tru", b"\xff", b"\xc3\xa9", b"1.0")


def places(value):
    """Return every object in a value."""
    found = [value] if isinstance(value, dict) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return found + [one for each in inner for one in places(each)]


def agree(body):
    """Assert that both looks say the same of a body."""
    quick, thorough = look(body), parse_batch(body)
    if isinstance(thorough, Denied):
        assert quick == thorough
    else:
        project = thorough.get("project_id")
        assert quick == (project if isinstance(project, str) else "", strict_errors(thorough) == [])


def test_not_each_is_looked_at_where_there_are_many():
    """A thousand a second, and one in sixteen of what is more; the next second begins anew."""
    looks = Looks()
    for second in (5.0, 6.5):
        passed_over = [looks.pass_over(second + number / 1e5) for number in range(LOOKS_PER_S + 100)]
        assert passed_over == [0] * (LOOKS_PER_S - 1) + [15] * 101


def test_what_fits():
    """A batch with all there is, and the smallest."""
    assert look(json.dumps(BATCH).encode()) == ("2", True)
    assert look(b'{"account_id": "1", "visitors": []}') == ("", True)
    assert look(b'{"visitors": [], "project_id": "3"}') == ("3", False)


@given(st.data())
def test_fields_that_are_changed(data):
    """Set to anything, taken away or added, some at once: the verdict is the thorough one's."""
    batch = copy.deepcopy(BATCH)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(batch)))
        name = data.draw(st.sampled_from([*place, *NAMES]))
        if name in place and data.draw(st.booleans()):
            del place[name]
        else:
            place[name] = copy.deepcopy(data.draw(VALUES))
    agree(json.dumps(batch).encode())
    agree(json.dumps(batch, ensure_ascii=False).encode())


@given(st.data())
@example(None)
def test_bytes_that_are_changed(data):
    """Whatever is done to the bytes, so long as no name stands twice in an object."""
    body = bytearray(json.dumps(BATCH).encode())
    for _ in range(data.draw(st.integers(0, 3)) if data is not None else 0):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from((*PIECES, b"")))
    agree(bytes(body))


class TestProjects:
    """Whose an event is that is sent."""

    URL = "http://127.0.0.1:9/v1/events"

    def test_alone(self):
        """It is read from its body; what is no batch is nobody's."""
        projects = Projects()
        assert projects(Event(Envelope(self.URL), json.dumps(BATCH).encode())) == "2"
        for body in (b"", b"a=b", b"{}", b"[" * 100_000, b'{"visitors":[]}'):
            assert projects(Event(Envelope(self.URL), body)) == ""

    @pytest.mark.parametrize("visitor", [b'{"visitor_id":"v"}', b"no JSON"])
    def test_shared(self, visitor):
        """It stands in the envelope, whatever the visitor is; memory does not grow with them."""
        projects = Projects()
        for number in range(2 * ENVELOPES_MAX + 1):
            envelope = Envelope(self.URL, shared=True, prefix=b'{"project_id":"%d","visitors":[' % number, suffix=b"]}")
            assert projects(Event(envelope, visitor)) == str(number)
        assert len(projects._known) <= ENVELOPES_MAX
