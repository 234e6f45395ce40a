"""From the SDK's user events to visitor bytes: field for field what the SDK itself would have sent, ten times faster.

The SDK's ``EventFactory.create_log_event`` is the reference, and stays in use for everything out of the ordinary.  An
event is encoded in one of two ways:

- **fast**: the visitor is built as one dict and written by orjson.  Only for the SDK's own classes with values of exact
  built-in types, floats finite (orjson would write NaN as null, and accept UUIDs and enums): each value is looked at.
  Nested tags go through :func:`_plain`, which also removes what the SDK removes (None under the keys of ``REMOVED``).
- **official**: ``create_log_event`` makes a LogEvent of one visitor, and its bytes are cut into envelope and visitor.
  Subclasses, objects that JSON knows only by their ``__dict__``, huge integers, lone surrogates, new kinds of events.

What stands around the visitors, and the URL, is always the official encoder's, kept per event context.

SDK 5.0 to 5.x differ: how ids are normalised, whether a variation may be a dict, and later ones may add fields.  We do
not go by version.  Once per process sample events are encoded both ways (:func:`fitting_rules`): the first
:class:`Rules` that reproduce the installed SDK's output on all of them are used; if none do, every event takes the
official way (slower, always right) and one warning says so.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from itertools import product
from math import isfinite
from typing import Any, Final, NamedTuple

import orjson
from optimizely import entities
from optimizely.event.event_factory import EventFactory
from optimizely.event.payload import VisitorAttribute
from optimizely.event.user_event import ConversionEvent, ImpressionEvent, UserEvent
from optimizely.helpers import event_tag_utils

from ..errors import EventpostError, InvalidEvent
from ..event import Envelope, Event
from .encode import log_event_to_event, refusal
from .sdk_samples import sample_event_in, sample_user_events

REMOVED: Final = frozenset({"revenue", "value", "tags", "decisions"})  # EventBatch._dict_clean, if None
ENVELOPES_MAX: Final = 256

_log = logging.getLogger("eventpost")
# The SDK logs the values of event tags.  Nobody is to hear them, so this logger hangs in no tree and is off.
_silent: Final = logging.Logger("eventpost.sdk")  # noqa: LOG001 - as the line above says
_silent.disabled = True
_EXACT: Final = frozenset({str, int, bool})
_SdkEvent = entities.Event
_SdkExperiment = entities.Experiment
_SdkVariation = entities.Variation
_HOLDOUT: Final = getattr(entities, "Holdout", None)


class Rules(NamedTuple):
    """How an SDK's EventFactory writes impressions.

    ``normalized``: campaign_id and entity_id fall back to the experiment's id, a variation_id that is not all ASCII
    digits is null.  ``dict_variations``: a variation may be a dict (holdouts).
    """

    normalized: bool
    dict_variations: bool


_new = tuple.__new__  # a NamedTuple's own constructor is a Python function


class _Unusual(Exception):  # noqa: N818 - no error: the way from the fast path to the official one
    """This event takes the official way."""


class VisitorEncoder:
    """Turns user events into Events whose envelopes are shared.  Thread-safe.

    ``endpoint``: an URL instead of the one that the SDK would send to (which goes by the project's region).
    ``rules``: None encodes everything the official way.
    """

    def __init__(self, endpoint: str | None, rules: Rules | None) -> None:
        self._endpoint = endpoint
        self._rules = rules
        self._envelopes: dict[tuple[Any, ...], Envelope] = {}

    def encode(self, user_event: object) -> Event:
        """Return the Event for one ImpressionEvent or ConversionEvent of the SDK.

        Raises InvalidEvent for anything else (also a conversion whose event is not in the datafile), UnencodableEvent
        if the SDK's encoder would have failed, or written NaN or infinity.
        """
        rules = self._rules
        if rules is not None:
            try:
                if type(user_event) is ConversionEvent:
                    return _new(Event, (self._envelope(user_event), _conversion(user_event)))
                if type(user_event) is ImpressionEvent:
                    return _new(Event, (self._envelope(user_event), _impression(user_event, rules)))
            except EventpostError:
                raise
            except Exception:  # noqa: BLE001, S110 - whatever it was, the official encoder is the judge of it
                pass
        return self._official(user_event)

    def _envelope(self, user_event: UserEvent) -> Envelope:
        context = user_event.event_context
        key = tuple(context.__dict__.values())  # a new object for each event: what it holds is what tells it apart
        # What is kept under a key is made of str, None and this one bool, so only True == 1 could be mistaken.
        if type(context.anonymize_ip) is not bool:
            raise _Unusual
        envelope = self._envelopes.get(key)
        if envelope is not None:
            return envelope
        if not all(type(part) is str or part is None or part is context.anonymize_ip for part in key):
            raise _Unusual
        envelope = self._official(sample_event_in(context)).envelope
        if not envelope.shared:
            raise _Unusual
        if len(self._envelopes) >= ENVELOPES_MAX:
            self._envelopes.clear()
        self._envelopes[key] = envelope
        return envelope

    def _official(self, user_event: Any) -> Event:
        if not isinstance(user_event, UserEvent):
            raise InvalidEvent(f"the processor takes the SDK's user events, not {type(user_event).__name__}")
        try:
            log_event = EventFactory.create_log_event([user_event], _silent)
        except Exception as error:  # noqa: BLE001 - values' own code, and what the SDK makes of unexpected types
            raise refusal(user_event, error, default=vars) from None
        if log_event is None:
            raise InvalidEvent(f"this {type(user_event).__name__} has no event that the datafile knows")
        return log_event_to_event(log_event, endpoint=self._endpoint, merge=True)


def _conversion(user_event: ConversionEvent) -> bytes:
    """Follow ``EventFactory._create_visitor``, conversions."""
    entity = user_event.event
    if type(entity) is not _SdkEvent:
        raise _Unusual
    entity_id, uuid, key, timestamp = entity.id, user_event.uuid, entity.key, user_event.timestamp
    if not (type(entity_id) is str and type(uuid) is str and type(key) is str and type(timestamp) is int):
        raise _Unusual
    event: dict[str, Any] = {"entity_id": entity_id, "uuid": uuid, "key": key, "timestamp": timestamp}
    tags = user_event.event_tags
    if tags is not None:
        _add_tags(event, tags)
    return _visitor(user_event, {"events": [event]})


def _add_tags(event: dict[str, Any], tags: Any) -> None:
    """Add revenue, value and tags, in the SDK's order, each of them only if it is not None."""
    if type(tags) is not dict:
        raise _Unusual
    tags = tags.copy()  # whatever another thread does to it, revenue, value and tags agree
    for item in tags.values():
        if type(item) not in _EXACT and not (type(item) is float and isfinite(item)):
            tags = _plain(tags)
            break
    if "revenue" in tags:
        revenue = tags["revenue"]
        if type(revenue) is not int:
            revenue = event_tag_utils.get_revenue_value(tags)
        if revenue is not None:
            event["revenue"] = revenue
    if "value" in tags:
        value = tags["value"]
        if type(value) is int:
            value = float(value)
        elif type(value) is not float or not isfinite(value):
            value = event_tag_utils.get_numeric_value(tags)
        if value is not None:
            event["value"] = value
    event["tags"] = tags


def _plain(value: Any) -> Any:
    """Return a copy of nested built-in values as the SDK's round trip through JSON would leave it."""
    kind = type(value)
    if kind in _EXACT or value is None or (kind is float and isfinite(value)):
        return value
    if kind is dict:
        # A copy first: another thread may be writing to it.
        return {key: _plain(item) for key, item in value.copy().items() if item is not None or key not in REMOVED}
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]
    raise _Unusual


def _impression(user_event: ImpressionEvent, rules: Rules) -> bytes:
    """Follow ``EventFactory._create_visitor``, impressions."""
    experiment: Any = user_event.experiment
    kind = type(experiment)
    if kind is _SdkExperiment:
        campaign_id, experiment_id = experiment.layerId, experiment.id
    elif experiment is None:
        campaign_id = experiment_id = ""
    elif kind is _HOLDOUT:
        campaign_id, experiment_id = "", experiment.id
    else:
        raise _Unusual
    variation_id, variation_key = _variation(user_event.variation, rules)
    if rules.normalized:
        if campaign_id == "":
            campaign_id = experiment_id
        if variation_id is not None and not (variation_id.isascii() and variation_id.isdigit()):
            variation_id = None
    metadata = {
        "flag_key": user_event.flag_key,
        "rule_key": user_event.rule_key,
        "rule_type": user_event.rule_type,
        "variation_key": variation_key,
        "enabled": user_event.enabled,
    }
    cmab_uuid = getattr(user_event, "cmab_uuid", None)
    if cmab_uuid:
        metadata["cmab_uuid"] = cmab_uuid
    event = {
        "entity_id": campaign_id,
        "uuid": user_event.uuid,
        "key": EventFactory.ACTIVATE_EVENT_KEY,
        "timestamp": user_event.timestamp,
    }
    for part in metadata.values():
        if type(part) not in _EXACT:
            raise _Unusual
    if not (
        type(campaign_id) is str
        and type(experiment_id) is str
        and type(user_event.uuid) is str
        and type(user_event.timestamp) is int
    ):
        raise _Unusual
    decision = {
        "campaign_id": campaign_id,
        "experiment_id": experiment_id,
        "variation_id": variation_id,
        "metadata": metadata,
    }
    return _visitor(user_event, {"events": [event], "decisions": [decision]})


def _variation(variation: Any, rules: Rules) -> tuple[str | None, str]:
    if type(variation) is _SdkVariation:
        variation_id, key = variation.id, variation.key
    elif variation is None:
        return "", ""
    elif type(variation) is dict and rules.dict_variations:
        variation_id, key = variation.get("id", ""), variation.get("key", "")
    else:
        raise _Unusual
    if type(variation_id) is not str or type(key) is not str:
        raise _Unusual
    return variation_id, key


def _visitor(user_event: UserEvent, snapshot: dict[str, Any]) -> bytes:
    """Write the visitor with this snapshot, all of whose values have been looked at."""
    user_id, given = user_event.user_id, user_event.visitor_attributes
    if type(user_id) is not str or type(given) is not list:
        raise _Unusual
    attributes = []
    for attribute in given:
        if type(attribute) is not VisitorAttribute:
            raise _Unusual
        fields = attribute.__dict__
        for part in fields.values():
            if type(part) not in _EXACT and not (type(part) is float and isfinite(part)):
                raise _Unusual
        attributes.append(fields)
    return orjson.dumps({"snapshots": [snapshot], "attributes": attributes, "visitor_id": user_id})


@lru_cache(maxsize=1)
def fitting_rules() -> Rules | None:
    """Return the rules that reproduce the installed SDK's output on the samples; None, and a warning, if none do."""
    try:
        samples = sample_user_events()
        official = [_comparable(VisitorEncoder(None, None), sample) for sample in samples]
        for choice in product((True, False), repeat=2):
            rules = Rules(*choice)
            ours = VisitorEncoder(None, rules)
            if [_comparable(ours, sample) for sample in samples] == official:
                return rules
    except Exception:  # noqa: BLE001, S110 - an SDK unlike those we know must not stop the application; see below
        pass
    _log.warning(
        "eventpost does not know how this version of optimizely-sdk encodes events; its own encoder is used for all of "
        "them. They are right, but a look for a newer eventpost would make this faster."
    )
    return None


def _comparable(encoder: VisitorEncoder, sample: UserEvent) -> tuple[Envelope, Any]:
    event = encoder.encode(sample)
    return event.envelope, orjson.loads(event.payload)
