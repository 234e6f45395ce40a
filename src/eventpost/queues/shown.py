"""What is shown of a stored event, to people and in files: plain values, what says who somebody is masked.

What lies in a queue was written by others and never checked but for being a batch: nothing here trusts its shape.
URLs are shown without user, password and query.  Unless ``visitor_ids`` is true, visitor and session ids are masked in
payloads, wherever a payload repeats them, secrets in headers, and both in what an endpoint quotes in its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import orjson

from ..event import Event, shown_url
from .view import Letter, Seen

MASK: Final = "****"
MASKED: Final = frozenset({"visitor_id", "session_id"})
NAMES: Final = frozenset({
    "key", "uuid", "type", "entity_id", "account_id", "project_id", "revision", "client_name", "client_version",
    "campaign_id", "experiment_id", "variation_id", "rule_key", "rule_type", "flag_key", "variation_key",
})  # fmt: skip
QUOTED_MIN: Final = 3
"""Shorter texts say nothing about anybody, and would turn every answer into stars."""
PLAIN_HEADERS: Final = frozenset({"accept", "content-type", "content-encoding", "user-agent"})
"""Headers that hold no secret; what others hold is nobody's business."""
_DEPTH_MAX: Final = 100


def count(number: int, one: str, many: str = "") -> str:
    """Return a number of things for people."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(at_s: float) -> str:
    """Return a point in time in UTC, to the second."""
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def parsed(event: Event) -> Any:
    """Return the value in an event's payload; None if it is no JSON, or nested past anything that makes sense."""
    raw = event.payload
    try:
        value = orjson.loads(raw)
    except ValueError:
        try:  # what other encoders write, and orjson does not read: NaN, lone surrogates
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return None
    few = raw.count(b"[") + raw.count(b"{") < _DEPTH_MAX
    return value if few or _is_flat(value) else None


def _is_flat(value: Any) -> bool:
    """Tell whether a value can be walked through by a function that calls itself."""
    level = [value]
    for _ in range(_DEPTH_MAX):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
        if not level:
            return True
    return False


def visitors_in(value: Any, *, shared: bool) -> list[dict[str, Any]]:
    """Return the visitors in what :func:`parsed` returned; none if it is something else."""
    if not isinstance(value, dict):
        return []
    found = [value] if shared else value.get("visitors", [value])
    return [one for one in found if isinstance(one, dict) and "snapshots" in one] if isinstance(found, list) else []


def snapshots_in(visitor: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a visitor's snapshots."""
    found = visitor.get("snapshots")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def events_in(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a snapshot's events."""
    found = snapshot.get("events")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def summary(event: Event, *, visitor_ids: bool) -> tuple[str, str, str]:
    """Return what an event is about: the keys of its events, their uuids, its visitors' ids."""
    visitors = visitors_in(parsed(event), shared=event.envelope.shared)
    inner = [one for visitor in visitors for snapshot in snapshots_in(visitor) for one in events_in(snapshot)]
    keys = ", ".join(dict.fromkeys(str(one.get("key")) for one in inner))
    uuids = ", ".join(str(one.get("uuid")) for one in inner)
    ids = ", ".join(str(one.get("visitor_id")) if visitor_ids else MASK for one in visitors)
    return keys or f"<{len(event.payload)} bytes>", uuids or "-", ids or "-"


def payload(event: Event, *, visitor_ids: bool) -> Any:
    """Return an event's payload for a person or a file; with ids, exactly as it will be sent."""
    if visitor_ids:
        return event.payload.decode("utf-8", "replace")
    value = parsed(event)
    if value is None:
        return f"<{len(event.payload)} bytes that are no JSON; --visitor-ids shows them>"
    return _masked(value, sorted(_ids(value), key=len, reverse=True))


def _ids(value: Any) -> set[str]:
    """Return the visitor and session ids in a payload that are long enough to mean somebody."""
    found: set[str] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            found |= {str(inner) for key, inner in one.items() if key in MASKED and isinstance(inner, (str, int))}
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return {one for one in found if len(one) >= QUOTED_MIN}


def _masked(value: Any, ids: list[str]) -> Any:
    """Return a payload without its ids, which attributes and tags may repeat; what names things, not people, stays."""
    if isinstance(value, dict):
        return {
            key: MASK if key in MASKED else inner if key in NAMES and isinstance(inner, str) else _masked(inner, ids)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_masked(inner, ids) for inner in value]
    if isinstance(value, str):
        for one in ids:
            value = value.replace(one, MASK)
        return value
    return MASK if type(value) is int and str(value) in ids else value


def answer(letter: Letter, *, visitor_ids: bool) -> str:
    """Return what an endpoint answered; masked: without what it quotes of values, headers and the URL's secrets."""
    text, event = letter.answer, letter.event
    if visitor_ids:
        return text
    envelope, parts = event.envelope, urlsplit(event.lane)
    said = {parts.username, parts.password, parts.query, *_query_values(parts.query)}
    said |= {value for name, value in envelope.headers if _shown_header(name, value) == MASK}
    said |= {word for value in list(said) if value for word in value.split()}
    if envelope.verb == "GET":
        said |= _query_values(event.payload.decode("utf-8", "replace"))
    for one in sorted(said | set(_texts(event)), key=lambda one: -len(one or "")):
        text = text.replace(one, MASK) if one and len(one) >= QUOTED_MIN else text
    return text


def _query_values(query: str) -> set[str]:
    return {value for _, value in parse_qsl(query)}


def _shown_header(name: str, value: str) -> str:
    return value if name.lower() in PLAIN_HEADERS else MASK


def headers(event: Event, *, visitor_ids: bool) -> dict[str, str]:
    """Return the headers that an event is sent with."""
    return {name: value if visitor_ids else _shown_header(name, value) for name, value in event.envelope.headers}


def _texts(event: Event) -> Iterator[str]:
    """Yield all texts in an event's payload but those that name things, not people."""
    todo = [parsed(event)]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            todo += [value for name, value in one.items() if name not in NAMES]
        elif isinstance(one, list):
            todo += one
        elif isinstance(one, str):
            yield one


def seen_as_dict(seen: Seen, *, visitor_ids: bool) -> dict[str, Any]:
    """Return a stored event's line as plain values."""
    keys, uuids, ids = summary(seen.event, visitor_ids=visitor_ids)
    return {
        "id": seen.id, "at": moment(seen.at_s), "state": seen.state, "endpoint": shown_url(seen.event.lane),
        "events": keys, "uuids": uuids, "visitors": ids,
    }  # fmt: skip


def letter_as_dict(letter: Letter, *, visitor_ids: bool, with_payload: bool) -> dict[str, Any]:
    """Return a dead letter as plain values."""
    keys, uuids, ids = summary(letter.event, visitor_ids=visitor_ids)
    value: dict[str, Any] = {
        "id": letter.id, "died": moment(letter.at_s), "reason": letter.reason, "status": letter.status,
        "answer": answer(letter, visitor_ids=visitor_ids),
        "attempts": letter.attempts, "endpoint": shown_url(letter.event.lane),
        "events": keys, "uuids": uuids, "visitors": ids,
    }  # fmt: skip
    if with_payload:
        envelope = letter.event.envelope
        value |= {"verb": envelope.verb, "headers": headers(letter.event, visitor_ids=visitor_ids)}
        value |= {"shared": envelope.shared, "payload": payload(letter.event, visitor_ids=visitor_ids)}
    return value
