"""What our encoder sends equals, field for field, what the installed SDK's EventFactory would have sent."""

import dataclasses
import decimal
import json
import logging
import sys
import uuid
from inspect import signature
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from optimizely import entities
from optimizely.event.event_factory import EventFactory
from optimizely.event.payload import VisitorAttribute
from optimizely.event.user_event import ConversionEvent, EventContext, ImpressionEvent, UserEvent

from eventpost.doors import visitor
from eventpost.doors.sdk_samples import sample_user_events
from eventpost.doors.visitor import VisitorEncoder, fitting_rules
from eventpost.errors import InvalidEvent, UnencodableEvent

SILENT = logging.Logger("silent")  # noqa: LOG001 - hangs in no tree
SILENT.disabled = True
HAS_HOLDOUTS = hasattr(entities, "Holdout")


class Text(str):
    """A str subclass, which json.dumps takes."""

    __slots__ = ()


class Number(int):
    """An int subclass, which json.dumps takes."""


class Carrier:
    """An object that the SDK encodes by its __dict__."""

    def __init__(self):
        self.value = None
        self.kept = None


@dataclasses.dataclass
class Point:
    """A dataclass, which the SDK encodes by its __dict__ too."""

    x: int = 1


def made(cls, **arguments):
    """Call ``cls`` with those arguments that the installed SDK has."""
    known = signature(cls.__init__).parameters
    return cls(**{name: value for name, value in arguments.items() if name in known})


TEXTS = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(
    ["", "null", "é", "\ud800", "\x00", "12.5", "1e999", "nan", "1,234", "layer_1", "0012"]
)
IDS = st.sampled_from(["", "12", "0012", "abc", "١٢", " 1", "-1"]) | TEXTS
FLOATS = st.floats() | st.sampled_from([1e16, -0.0])
INTEGERS = st.integers() | st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**400])
ODD = st.sampled_from(
    [
        decimal.Decimal(1), uuid.UUID(int=2), {1}, b"x", 1j, Carrier(), Point(), Text("t"), Number(3), object(), ...,
        Carrier, SimpleNamespace(tags=None),
    ]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | TEXTS | FLOATS | INTEGERS
TAG_KEYS = st.sampled_from(["revenue", "value", "tags", "decisions", "x"]) | TEXTS
VALUES = st.recursive(
    SCALARS | ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(TAG_KEYS | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=6,
)
TAGS = (
    st.none()
    | st.dictionaries(TAG_KEYS, SCALARS, max_size=4)
    | st.dictionaries(TAG_KEYS, VALUES, max_size=4)
    | st.sampled_from([{}, [], "tags", 5, {1: 2, "1": 3}, {Text("value"): 5, Text("revenue"): Number(2)}])
)
REGIONS = st.sampled_from(["US", "EU", "eu", "", None, "APAC", 5])
CONTEXTS = st.builds(
    lambda **fields: made(EventContext, **fields),
    account_id=IDS,
    project_id=IDS,
    revision=IDS | st.sampled_from([1, True, 1.0, None]),
    anonymize_ip=st.sampled_from([True, False, 1, 0, None]),
    region=REGIONS,
)
ATTRIBUTES = st.lists(
    st.builds(VisitorAttribute, TEXTS, TEXTS, st.just("custom"), st.booleans() | TEXTS | FLOATS | INTEGERS | VALUES),
    max_size=3,
)
USER_IDS = TEXTS | st.sampled_from([Text("user"), 5, None])
CONVERSIONS = st.builds(
    ConversionEvent,
    CONTEXTS,
    st.none() | st.builds(entities.Event, IDS | st.sampled_from([5, None]), TEXTS, st.just([])),
    USER_IDS,
    ATTRIBUTES,
    TAGS,
)
VARIATIONS = (
    st.none()
    | st.builds(entities.Variation, IDS | st.sampled_from([5, None, Text("7")]), TEXTS, st.booleans())
    | st.sampled_from([{"id": "7", "key": "on"}, {"id": "x"}, {}, {"id": None, "key": None}, {"id": 5, "key": "on"}])
)
EXPERIMENTS = st.none() | st.builds(
    lambda id_, layer_id: entities.Experiment(id_, "rule", "Running", [], [], {}, [], layer_id),
    IDS | st.sampled_from([5, None]),
    IDS | st.sampled_from([None, 5]),
)
if HAS_HOLDOUTS:
    EXPERIMENTS |= st.builds(lambda id_: entities.Holdout(id_, "h", "Running", [], [], []), IDS)
IMPRESSIONS = st.builds(
    lambda **fields: made(ImpressionEvent, **fields),
    event_context=CONTEXTS,
    user_id=USER_IDS,
    experiment=EXPERIMENTS,
    visitor_attributes=ATTRIBUTES,
    variation=VARIATIONS,
    flag_key=TEXTS | st.none(),
    rule_key=TEXTS,
    rule_type=st.sampled_from(["experiment", "rollout", "feature-test", "holdout"]),
    enabled=st.sampled_from([True, False, None, 1]),
    cmab_uuid=st.sampled_from([None, "", "cmab-1"]),
)


def refuse_constant(name):
    """NaN and the infinities are no JSON."""
    raise ValueError(name)


def official(user_event):
    """Return (url, verb, headers, body as read back) of what the SDK would send; None if it would send nothing."""
    try:
        log_event = EventFactory.create_log_event([user_event], SILENT)
        body = json.loads(json.dumps(log_event.params), parse_constant=refuse_constant)
    except (AttributeError, TypeError, ValueError, RecursionError, OverflowError):
        return None
    return log_event.url, log_event.http_verb, tuple(log_event.headers.items()), body


def check(encoder, user_event):
    """Compare one event: values, types and order of keys."""
    expected = official(user_event)
    if expected is None:
        with pytest.raises((UnencodableEvent, InvalidEvent)):
            encoder.encode(user_event)
        return
    event = encoder.encode(user_event)
    ours = json.loads(event.envelope.body([event.payload]))
    envelope = event.envelope
    assert repr((envelope.url, envelope.verb, envelope.headers, ours)) == repr(expected)


ENCODER = VisitorEncoder(
    None, fitting_rules()
)  # one for all examples: its cache of envelopes is part of what is tested


@given(CONVERSIONS)
def test_conversions_equal_the_sdks(user_event):
    """Every conversion: body, URL, verb and headers, or refused where the SDK's encoder fails."""
    check(ENCODER, user_event)


@given(IMPRESSIONS)
def test_impressions_equal_the_sdks(user_event):
    """Every impression, of experiments, rollouts and holdouts, with the installed SDK's normalisation."""
    check(ENCODER, user_event)


@given(st.lists(CONVERSIONS | IMPRESSIONS, min_size=2, max_size=4))
@example(sample_user_events())
def test_a_batch_equals_what_the_sdk_makes_of_the_same_events(user_events):
    """Visitors joined in one envelope are what create_log_event makes of the list of those events."""
    groups: dict = {}
    for user_event in user_events:
        if official(user_event) is not None:
            event = ENCODER.encode(user_event)
            groups.setdefault(event.envelope, []).append((user_event, event.payload))
    for envelope, members in groups.items():
        if envelope.shared:
            expected = EventFactory.create_log_event([user_event for user_event, _ in members], SILENT)
            ours = json.loads(envelope.body([payload for _, payload in members]))
            assert repr(ours) == repr(json.loads(json.dumps(expected.params)))


def test_the_samples_take_the_fast_path(monkeypatch):
    """Every kind of event that clients produce is encoded without the official encoder, once its context is known."""
    encoder = VisitorEncoder(None, fitting_rules())
    samples = sample_user_events()
    expected = [official(sample) for sample in samples]
    for sample in samples:
        encoder.encode(sample)
    monkeypatch.setattr(EventFactory, "create_log_event", lambda *_: pytest.fail("the official encoder was asked"))
    dict_variations = fitting_rules().dict_variations
    for sample, (_, _, _, body) in zip(samples, expected, strict=True):
        if isinstance(getattr(sample, "variation", None), dict) and not dict_variations:
            continue
        event = encoder.encode(sample)
        assert json.loads(event.envelope.body([event.payload])) == body


def test_uuid_and_timestamp_are_the_events_own():
    """They survive, so that the backend can recognise a repeat."""
    for sample in sample_user_events():
        event = json.loads(ENCODER.encode(sample).payload)["snapshots"][0]["events"][0]
        assert (event["uuid"], event["timestamp"]) == (sample.uuid, sample.timestamp)


def test_the_region_chooses_the_endpoint_and_an_endpoint_overrides_it():
    """EU projects go to the EU where the SDK knows regions; ``endpoint`` replaces either."""

    def conversion(region):
        context = made(EventContext, account_id="1", project_id="2", revision="3", anonymize_ip=True, region=region)
        return ConversionEvent(context, entities.Event("4", "e", []), "u", [], None)

    knows_regions = hasattr(EventFactory, "EVENT_ENDPOINTS")
    assert ENCODER.encode(conversion("US")).lane == "https://logx.optimizely.com/v1/events"
    eu = ENCODER.encode(conversion("EU")).lane
    assert eu == f"https://{'eu.' if knows_regions else ''}logx.optimizely.com/v1/events"
    elsewhere = VisitorEncoder("http://127.0.0.1:9/v1/events", fitting_rules())
    assert elsewhere.encode(conversion("EU")).lane == "http://127.0.0.1:9/v1/events"


def test_equal_contexts_share_one_envelope_object_and_the_cache_is_bounded():
    """A revision a minute for a year does not fill the memory."""

    def conversion(revision):
        context = made(EventContext, account_id="1", project_id="2", revision=revision, anonymize_ip=True, region="US")
        return ConversionEvent(context, entities.Event("4", "e", []), "u", [], None)

    encoder = VisitorEncoder(None, fitting_rules())
    assert encoder.encode(conversion("1")).envelope is encoder.encode(conversion("1")).envelope
    for revision in range(visitor.ENVELOPES_MAX * 2):
        encoder.encode(conversion(str(revision)))
    assert len(encoder._envelopes) <= visitor.ENVELOPES_MAX


def test_a_context_of_equal_but_other_values_gets_its_own_envelope():
    """1, 1.0 and True are equal as keys of a dict, and are not the same JSON."""

    def body(anonymize_ip):
        context = made(
            EventContext, account_id="1", project_id="2", revision="9", anonymize_ip=anonymize_ip, region="US"
        )
        event = ENCODER.encode(ConversionEvent(context, entities.Event("4", "e", []), "u", [], None))
        return json.loads(event.envelope.body([event.payload]))["anonymize_ip"]

    assert [repr(body(value)) for value in (True, 1, 1.0, False, 0, None)] == ["True", "1", "1.0", "False", "0", "None"]


@pytest.mark.parametrize("value", [None, "event", object(), SimpleNamespace(event_context=1, uuid="x")])
def test_what_is_no_user_event_is_invalid(value):
    """Anything but the SDK's user events."""
    with pytest.raises(InvalidEvent):
        ENCODER.encode(value)


def test_a_conversion_whose_event_is_unknown_is_invalid():
    """The SDK makes such an event when the datafile has no event of that key, and sends nothing."""
    context = sample_user_events()[0].event_context
    with pytest.raises(InvalidEvent, match="datafile"):
        ENCODER.encode(ConversionEvent(context, None, "u", [], None))
    with pytest.raises(InvalidEvent):
        ENCODER.encode(UserEvent(context, "u", []))


def test_a_refusal_names_the_tag_and_its_type_but_no_value():
    """It can be logged."""
    context = sample_user_events()[0].event_context
    event = ConversionEvent(
        context, entities.Event("4", "e", []), "visitor-4711", [], {"price": decimal.Decimal("9.9")}
    )
    with pytest.raises(UnencodableEvent) as caught:
        ENCODER.encode(event)
    assert str(caught.value) == "Decimal at event_tags.price"
    event.event_tags = {"price": float("nan")}
    with pytest.raises(UnencodableEvent, match=r"NaN or infinity at .*tags\.price"):
        ENCODER.encode(event)


def test_hostile_events_cost_an_exception_of_ours_and_no_other():
    """Attributes that are missing or raise do not get through to the application."""

    class Hostile(ConversionEvent):
        @property
        def event_tags(self):
            raise LookupError("secret")

        @event_tags.setter
        def event_tags(self, value):
            pass

    context = sample_user_events()[0].event_context
    hostile = Hostile(context, entities.Event("4", "e", []), "u", [], None)
    broken = ConversionEvent(context, entities.Event("4", "e", []), "u", [], None)
    del broken.user_id
    empty = ConversionEvent.__new__(ConversionEvent)
    for event in (hostile, broken, empty):
        with pytest.raises(UnencodableEvent) as caught:
            ENCODER.encode(event)
        assert "secret" not in str(caught.value)


def test_tags_that_contain_themselves_are_refused():
    """No endless loop, no crash, and the rest goes on."""
    context = sample_user_events()[0].event_context
    tags: dict = {}
    tags["again"] = tags
    with pytest.raises(UnencodableEvent):
        ENCODER.encode(ConversionEvent(context, entities.Event("4", "e", []), "u", [], tags))


def test_an_sdk_that_encodes_differently_is_left_to_its_own_encoder(monkeypatch, caplog):
    """A field that a later SDK adds is found by the self-check; then the SDK encodes everything."""
    original = EventFactory._create_visitor.__func__

    def with_a_new_field(cls, event, logger):
        made_visitor = original(cls, event, logger)
        if made_visitor is not None:
            made_visitor.session_id = "new"
        return made_visitor

    monkeypatch.setattr(EventFactory, "_create_visitor", classmethod(with_a_new_field))
    fitting_rules.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="eventpost"):
            assert fitting_rules() is None
            assert fitting_rules() is None
        assert len(caplog.records) == 1
        event = VisitorEncoder(None, fitting_rules()).encode(sample_user_events()[0])
        assert json.loads(event.payload)["session_id"] == "new"
        assert event.envelope.shared
    finally:
        fitting_rules.cache_clear()


def test_the_rules_are_found_for_the_installed_sdk():
    """The versions that we know are encoded the fast way; the newest one normalises ids."""
    rules = fitting_rules()
    assert rules is not None
    assert rules.normalized == ("optimizely.event.event_id_normalizer" in sys.modules)
    assert rules.dict_variations == HAS_HOLDOUTS


@given(st.sampled_from(sample_user_events()))
def test_without_rules_the_official_encoder_gives_the_same(user_event):
    """The fall-back is right too."""
    check(VisitorEncoder(None, None), user_event)


def test_wrong_rules_are_noticed():
    """The samples tell the rules of ids apart: under the wrong ones some sample is encoded differently."""
    rules = fitting_rules()
    wrong = VisitorEncoder(None, rules._replace(normalized=not rules.normalized))
    right = VisitorEncoder(None, rules)
    assert any(wrong.encode(sample) != right.encode(sample) for sample in sample_user_events())
