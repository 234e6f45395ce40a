"""Sample user events, of the installed SDK's own classes: what the fast encoder proves itself on before it is used.

Between them they visit every branch of ``EventFactory._create_visitor`` that changes what is sent.  Arguments that only
some versions of the SDK take (``region``, ``cmab_uuid``, holdouts) are given if the constructor has them.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from optimizely import entities
from optimizely.event.payload import VisitorAttribute
from optimizely.event.user_event import ConversionEvent, EventContext, ImpressionEvent, UserEvent


def _made(cls: Any, **arguments: Any) -> Any:
    """Call ``cls`` with those of the arguments that it has parameters for."""
    known = signature(cls.__init__).parameters
    return cls(**{name: value for name, value in arguments.items() if name in known})


def _context(region: str) -> Any:
    return _made(EventContext, account_id="1", project_id="2", revision="3", anonymize_ip=True, region=region)


def sample_event_in(context: Any) -> ConversionEvent:
    """Return a plain conversion in this event context."""
    return ConversionEvent(context, entities.Event("4", "purchase", []), "visitor", [], None)


def sample_user_events() -> list[UserEvent]:
    """Return conversions and impressions of every kind that the fast encoder knows."""
    attributes = [VisitorAttribute("5", "plan", "custom", "gold"), VisitorAttribute("6", "age", "custom", 33.5)]
    tag_sets: list[Any] = [
        None,
        {},
        {"revenue": 4200, "value": 12.5, "category": "shoes", "new": True},
        {"value": "12.5", "revenue": "4200", "tags": None, "nested": {"value": None, "list": [1, None]}},
        {"value": 12, "revenue": True},
    ]
    events: list[UserEvent] = [
        ConversionEvent(_context(region), entities.Event("4", "purchase", []), "visitor", attributes, tags)
        for region, tags in [*(("US", tags) for tags in tag_sets), ("EU", None)]
    ]
    return events + _impressions(attributes)


def _impressions(attributes: list[VisitorAttribute]) -> list[UserEvent]:
    def experiment(layer_id: str) -> Any:
        return entities.Experiment("7", "rule", "Running", [], [], {}, [], layer_id)

    def impression(experiment: Any, variation: Any, cmab_uuid: str | None = None) -> Any:
        return _made(
            ImpressionEvent,
            event_context=_context("US"),
            user_id="visitor",
            experiment=experiment,
            visitor_attributes=attributes,
            variation=variation,
            flag_key="flag",
            rule_key="rule",
            rule_type="experiment",
            enabled=True,
            cmab_uuid=cmab_uuid,
        )

    impressions = [
        impression(experiment("8"), entities.Variation("9", "on", featureEnabled=True), "cmab"),
        impression(experiment("layer"), entities.Variation("nine", "on")),
        impression(experiment(""), entities.Variation("", "on")),
        impression(experiment("8"), None),
        impression(None, None),
        impression(experiment("8"), {"id": "9", "key": "on"}),
    ]
    if hasattr(entities, "Holdout"):
        holdout = entities.Holdout("10", "holdout", "Running", [], [], [])
        impressions += [impression(holdout, {"id": "11", "key": "off"}), impression(holdout, {})]
    return impressions
