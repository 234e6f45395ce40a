"""The published description of the event endpoint, field by field: what the SDK makes passes, each broken rule is told."""

import copy
import json
import logging
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimizely import optimizely
from optimizely.event.event_factory import EventFactory
from optimizely.event.event_processor import ForwardingEventProcessor

from eventpost.doors.sdk_samples import sample_user_events
from eventpost.relay.strict import ERRORS_MAX, SCHEMA, strict_errors

SILENT = logging.Logger("silent")  # noqa: LOG001 - hangs in no tree
SILENT.disabled = True
DATAFILE = files("eventpost").joinpath("demo_datafile.json").read_text("utf-8")
KNOWN = json.loads(DATAFILE)
SECRET = "zqsecretqz"
BATCH = {
    "account_id": "1", "project_id": "2", "revision": "3", "client_name": "c", "client_version": "4",
    "anonymize_ip": True, "enrich_decisions": True, "region": "EU",
    "visitors": [{
        "visitor_id": "v", "session_id": "s",
        "attributes": [{"type": "custom", "value": "x", "key": "k", "entity_id": "5"}],
        "snapshots": [{
            "decisions": [{
                "campaign_id": "6", "experiment_id": "7", "variation_id": "8", "is_campaign_holdback": False,
                "metadata": {
                    "flag_key": "f", "rule_key": "r", "rule_type": "t", "variation_key": "v", "enabled": True,
                    "cmab_uuid": "u",
                },
            }],
            "events": [{
                "timestamp": 1, "uuid": "u", "entity_id": "9", "key": "purchase", "type": "other", "value": 1.5,
                "quantity": 2, "revenue": 3, "tags": {"a": 1}, "properties": {"b": "c"},
            }],
        }],
    }],
}  # fmt: skip
PLACES = {
    "batch": "", "visitor": "visitors[0]", "attribute": "visitors[0].attributes[0]",
    "snapshot": "visitors[0].snapshots[0]", "decision": "visitors[0].snapshots[0].decisions[0]",
    "metadata": "visitors[0].snapshots[0].decisions[0].metadata", "event": "visitors[0].snapshots[0].events[0]",
}  # fmt: skip
"""Where in BATCH each object of the table stands."""
SAMPLES = {
    "null": None, "boolean": True, "string": SECRET, "integer": 7, "number": 1.5, "object": {SECRET: SECRET},
    "array": [SECRET],
}  # fmt: skip
FIELDS = [(kind, field) for kind, fields in SCHEMA.items() for field in fields]
VISITOR, ATTRIBUTE, EVENT = PLACES["visitor"], PLACES["attribute"], PLACES["event"]


def at(batch, path):
    """Return the object at a path."""
    for name in path.replace("[0]", ".0").split(".") if path else ():
        batch = batch[0] if name == "0" else batch[name]
    return batch


def broken(path, name, *value):
    """Return the faults of BATCH with one field of the object at ``path`` set to a value, or removed."""
    batch = copy.deepcopy(BATCH)
    if value:
        at(batch, path)[name] = value[0]
    else:
        del at(batch, path)[name]
    return strict_errors(batch)


class Recorder:
    """A dispatcher that keeps what it is handed."""

    def __init__(self):
        self.batches = []

    def dispatch_event(self, log_event):
        """Keep it as it goes over the wire."""
        self.batches.append(json.loads(json.dumps(log_event.params)))


SCALARS = st.text() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
TAGS = st.dictionaries(st.sampled_from(["value", "category", "$opt_event_properties"]) | st.text(), VALUES, max_size=4)
ATTRIBUTES = st.dictionaries(
    st.sampled_from([one["key"] for one in KNOWN["attributes"]] + ["unknown"]), SCALARS | st.none(), max_size=4
)


@given(
    st.text(),
    ATTRIBUTES,
    TAGS,
    st.none() | st.integers(-(2**63), 2**63 - 1) | SCALARS.filter(lambda one: type(one) is not int),
)
def test_what_the_sdks_client_sends_passes(user_id, attributes, tags, revenue):
    """Whatever an application decides and tracks, for whomever: the installed SDK's own requests have no fault."""
    recorder = Recorder()
    client = optimizely.Optimizely(DATAFILE, event_processor=ForwardingEventProcessor(recorder), logger=None)
    client.logger = SILENT
    user = client.create_user_context(user_id, attributes)
    for flag in KNOWN["featureFlags"]:
        user.decide(flag["key"])
    for event in KNOWN["events"]:
        user.track_event(event["key"], tags if revenue is None else {**tags, "revenue": revenue})
    assert len(recorder.batches) >= 2
    assert [strict_errors(batch) for batch in recorder.batches if strict_errors(batch)] == []


def test_every_kind_of_event_that_the_sdk_can_make_passes():
    """Impressions with and without experiment, variation and holdout, conversions with and without tags; all in one."""
    events = [one for one in sample_user_events() if one.event_context.region == "US"]
    for chosen in [[one] for one in events] + [events]:
        log_event = EventFactory.create_log_event(chosen, SILENT)
        assert strict_errors(json.loads(json.dumps(log_event.params))) == []


def test_a_body_with_every_field_passes():
    """The sample that the tests below break has no fault, and every field of the table in it."""
    assert strict_errors(BATCH) == []
    for kind, fields in SCHEMA.items():
        assert {field.name for field in fields} <= set(at(BATCH, PLACES[kind])), kind


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda one: one if isinstance(one, str) else one.name)
def test_each_field_that_is_broken_is_told_with_its_path(kind, field):
    """Missing, or of each type that it may not have: one fault, at its path, and nothing of the value in it."""
    path = PLACES[kind]
    where = f"{path}.{field.name}" if path else field.name
    assert broken(path, field.name) == ([f"{where}: is missing"] if field.required else [])
    for type_, value in SAMPLES.items():
        wrong = type_ not in field.types
        found = broken(path, field.name, value)
        if wrong:
            assert len(found) == 1, found
            assert found[0].startswith(f"{where}: must be a")
            assert found[0].endswith(("not null", f"not a {type_}", f"not an {type_}"))
            assert SECRET not in found[0]
        elif type_ not in {"object", "array"} and (kind, field.name) != ("attribute", "type"):
            assert found == []


@pytest.mark.parametrize("kind", SCHEMA)
@pytest.mark.parametrize("value", [None, SECRET, [SECRET], 5])
def test_what_should_be_an_object_and_is_none(kind, value):
    """Each object of the table, replaced by something else: told at its place, in an array with its position."""
    if kind == "batch":
        (found,) = strict_errors(value)
        assert found.startswith("the body: must be an object, not ")
        return
    batch = copy.deepcopy(BATCH)
    outer, _, name = PLACES[kind].rpartition(".")
    if name.endswith("[0]"):
        at(batch, outer)[name[:-3]].append(value)
        name = name[:-3] + "[1]"
    else:
        at(batch, outer)[name] = value
    (found,) = strict_errors(batch)
    assert found.startswith(f"{outer}.{name}: must be an object, not " if outer else f"{name}: must be an object, not ")


@pytest.mark.parametrize(
    ("path", "name", "value", "fault"),
    [
        (ATTRIBUTE, "entity_id", None, "entity_id: must be a string, not null"),
        (ATTRIBUTE, "entity_id", 5, "entity_id: must be a string, not an integer"),
        (ATTRIBUTE, "key", [], "key: must be a string, not an array"),
        (ATTRIBUTE, "type", "browser", "entity_id: only an attribute of type custom has one"),
        (EVENT, "timestamp", 1.0, "timestamp: must be an integer, not a number"),
        (EVENT, "revenue", 2**63, "revenue: must fit 64 bits"),
        (EVENT, "revenue", -(2**63) - 1, "revenue: must fit 64 bits"),
        (EVENT, "key", "campaign_activated", "entity_id: must be the campaign_id of a decision of this snapshot"),
    ],
)
def test_rules_that_concern_more_than_a_type(path, name, value, fault):
    """Custom attributes, integers, 64 bits, an impression without its decision."""
    (found,) = broken(path, name, value)
    assert found.startswith(f"{path}.{fault}")


@pytest.mark.parametrize("name", ["entity_id", "key"])
def test_a_custom_attribute_needs_its_names_and_another_does_not(name):
    """``entity_id`` and ``key`` are asked of custom attributes only."""
    assert broken(ATTRIBUTE, name) == [f"{ATTRIBUTE}.{name}: is missing, and an attribute of type custom needs it"]
    batch = copy.deepcopy(BATCH)
    at(batch, VISITOR)["attributes"] = [{"type": "browser", "value": "x"}, {"type": "b", "value": 1, "entity_id": None}]
    assert strict_errors(batch) == []


def test_an_impression_with_its_decision_passes():
    """``entity_id`` equal to the campaign of one of the decisions, not of another snapshot's."""
    batch = copy.deepcopy(BATCH)
    at(batch, EVENT).update(key="campaign_activated", entity_id="6")
    assert strict_errors(batch) == []
    snapshots = at(batch, VISITOR)["snapshots"]
    snapshots.append({"events": [{**at(batch, EVENT)}]})
    (found,) = strict_errors(batch)
    assert found.startswith("visitors[0].snapshots[1].events[0].entity_id: ")


def test_fields_that_nobody_knows_are_no_fault():
    """The description allows them, so a newer SDK passes."""
    batch = copy.deepcopy(BATCH)
    for path in PLACES.values():
        at(batch, path)[SECRET] = SECRET
    assert strict_errors(batch) == []


def test_the_list_is_bounded():
    """A body of a hundred thousand faults costs a list of fifty, and says that there are more."""
    found = strict_errors({"account_id": "1", "visitors": [None] * 100_000})
    assert len(found) == ERRORS_MAX + 1
    assert found[-1].startswith("and more")
    assert len(strict_errors({"account_id": "1", "visitors": [None] * ERRORS_MAX})) == ERRORS_MAX


NAMES = sorted({field.name for _, field in FIELDS} | {SECRET})
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=40,
)


@given(HOSTILE, st.sampled_from([field for field in FIELDS if field[1].items]))
def test_nothing_of_a_body_is_in_a_message_and_nothing_is_raised(value, place):
    """Whatever stands wherever: no exception, and neither a value nor a key of the body in what is said."""
    kind, field = place
    batch = copy.deepcopy(BATCH)
    at(batch, PLACES[kind])[field.name] = value
    for found in [*strict_errors(batch), *strict_errors(value)]:
        assert SECRET not in found
