"""Pure: what the published description of the event endpoint asks of a body, field by field.

With ``X-Optimizely-Strict: true`` Optimizely's endpoint answers with a failure where it would otherwise take a body and
silently not use it.  This is that check: the description of the Event API (1.3.0) as one table, and what the SDKs add
to it (``revision``, ``enrich_decisions``, ``region``, a decision's ``metadata``) beside it.

Where the description's schema and its prose differ, this side is taken:

* ``experiment_id`` and ``variation_id`` may be null: the prose asks for an explicit null where nobody was bucketed.
* What lies in ``tags`` and ``properties`` is not judged: the prose wants scalars, the SDKs send what they are handed.
* An ``integer`` is a number without a fraction or an exponent; ``revenue`` must fit 64 bits.
* Fields that the description does not know are no fault, as in its schema.
* An impression (``campaign_activated``) needs the decision that it is about beside it: one whose ``campaign_id`` is its
  ``entity_id``.

A fault is told as ``path: what is wrong``.  A path is made of the table's names and of positions only, and a value is
told by its JSON type only, so no message holds anything of a payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

ERRORS_MAX: Final = 50
"""Faults that are told; a body of 3.5 MB could hold a hundred thousand."""
IMPRESSION_KEY: Final = "campaign_activated"
INT64: Final = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object: its name, the JSON types that it may have, and whether it must be there.

    ``items``: the name of the object in ``SCHEMA`` that each element of an array, or the object itself, is.
    """

    name: str
    types: tuple[str, ...]
    required: bool = False
    items: str | None = None


def _text(name: str, *, required: bool = False) -> Field:
    return Field(name, ("string",), required)


SCHEMA: Final[dict[str, tuple[Field, ...]]] = {
    "batch": (
        _text("account_id", required=True),
        Field("visitors", ("array",), required=True, items="visitor"),
        _text("project_id"),
        _text("revision"),
        _text("client_name"),
        _text("client_version"),
        Field("anonymize_ip", ("boolean",)),
        Field("enrich_decisions", ("boolean",)),
        _text("region"),
    ),
    "visitor": (
        _text("visitor_id", required=True),
        Field("snapshots", ("array",), required=True, items="snapshot"),
        Field("attributes", ("array",), items="attribute"),
        _text("session_id"),
    ),
    "attribute": (
        _text("type", required=True),
        Field("value", ("string", "integer", "number", "boolean"), required=True),
    ),
    "snapshot": (
        Field("events", ("array",), required=True, items="event"),
        Field("decisions", ("array",), items="decision"),
    ),
    "decision": (
        _text("campaign_id", required=True),
        Field("experiment_id", ("string", "null"), required=True),
        Field("variation_id", ("string", "null"), required=True),
        Field("metadata", ("object",), items="metadata"),
        Field("is_campaign_holdback", ("boolean",)),
    ),
    "metadata": (
        _text("flag_key"),
        _text("rule_key"),
        _text("rule_type"),
        _text("variation_key"),
        Field("enabled", ("boolean",)),
        _text("cmab_uuid"),
    ),
    "event": (
        Field("timestamp", ("integer",), required=True),
        _text("uuid", required=True),
        _text("entity_id"),
        _text("key"),
        _text("type"),
        Field("value", ("integer", "number")),
        Field("quantity", ("integer",)),
        Field("revenue", ("integer",)),
        Field("tags", ("object",)),
        Field("properties", ("object",)),
    ),
}
"""The objects of a body, each with its fields."""


def strict_errors(batch: object) -> list[str]:
    """Return what is wrong with a parsed body, in the order of its fields; an empty list: nothing.

    At most ``ERRORS_MAX`` faults are told; a last line says so if there are more.
    """
    found = list(islice(_faults("batch", batch, ""), ERRORS_MAX + 1))
    if len(found) > ERRORS_MAX:
        found[ERRORS_MAX] = f"and more: only the first {ERRORS_MAX} faults are listed"
    return found


def json_type(value: object) -> str:
    """Return the JSON type of a parsed value; a number without a fraction or an exponent is an ``integer``."""
    if value is None:
        return "null"
    for type_, name in _TYPES:
        if isinstance(value, type_):
            return name
    return type(value).__name__


_TYPES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "boolean"),  # first: to Python it is an int
    (str, "string"),
    (int, "integer"),
    (float, "number"),
    (dict, "object"),
    (list, "array"),
)


def _faults(kind: str, value: object, path: str) -> Iterator[str]:
    """Yield the faults of one object and of all that lies in it."""
    if not isinstance(value, dict):
        yield f"{path or 'the body'}: must be an object, not {_article(json_type(value))}"
        return
    for field in SCHEMA[kind]:
        where = f"{path}.{field.name}" if path else field.name
        if field.name not in value:
            if field.required:
                yield f"{where}: is missing"
            continue
        inner = value[field.name]
        found = json_type(inner)
        if found not in field.types:
            yield f"{where}: must be {' or '.join(map(_article, field.types))}, not {_article(found)}"
        elif field.items is not None:
            if isinstance(inner, list):
                for index, element in enumerate(inner):
                    yield from _faults(field.items, element, f"{where}[{index}]")
            else:
                yield from _faults(field.items, inner, where)
    judge = _RULES.get(kind)
    if judge is not None:
        yield from judge(value, path)


def _attribute_rules(attribute: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the faults of ``entity_id`` and ``key``, which go by the attribute's type."""
    custom = attribute.get("type") == "custom"
    for name in ("entity_id", "key"):
        value = attribute.get(name)
        if name not in attribute:
            if custom:
                yield f"{path}.{name}: is missing, and an attribute of type custom needs it"
        elif name == "entity_id" and not custom and isinstance(attribute.get("type"), str):
            if value is not None:
                yield f"{path}.{name}: only an attribute of type custom has one"
        elif not isinstance(value, str) and (custom or value is not None):
            yield f"{path}.{name}: must be a string, not {_article(json_type(value))}"


def _event_rules(event: dict[str, Any], path: str) -> Iterator[str]:
    revenue = event.get("revenue")
    if json_type(revenue) == "integer" and revenue not in INT64:
        yield f"{path}.revenue: must fit 64 bits"


def _snapshot_rules(snapshot: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the impressions that have no decision beside them."""
    events, decisions = snapshot.get("events"), snapshot.get("decisions", [])
    if not isinstance(events, list) or not isinstance(decisions, list):
        return
    campaigns = {
        one["campaign_id"] for one in decisions if isinstance(one, dict) and isinstance(one.get("campaign_id"), str)
    }
    for index, event in enumerate(events):
        if isinstance(event, dict) and event.get("key") == IMPRESSION_KEY:
            entity_id = event.get("entity_id")
            if not isinstance(entity_id, str) or entity_id not in campaigns:
                yield (
                    f"{path}.events[{index}].entity_id: must be the campaign_id of a decision of this snapshot, "
                    f"for the event's key is {IMPRESSION_KEY}"
                )


_RULES: Final[dict[str, Callable[[dict[str, Any], str], Iterator[str]]]] = {
    "attribute": _attribute_rules,
    "event": _event_rules,
    "snapshot": _snapshot_rules,
}


def _article(type_: str) -> str:
    if type_ == "null":
        return type_
    return f"{'an' if type_[0] in 'aeiou' else 'a'} {type_}"
