"""What an event looks like in a table, and whether a filter wants it.  Pure.

Texts were written by others: what is shown on one line has no control characters, nor any that turn the direction of
writing, and an end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

from ...event import Event, shown_url
from ...queues.shown import MASK, answer, events_in, parsed, snapshots_in, visitors_in
from ...queues.view import Letter

CHARS_MAX: Final = 120
ANSWER_CHARS_MAX: Final = 300
NAMES_MAX: Final = 3
QUERY_CHARS_MAX: Final = 200
IMPRESSION: Final = "campaign_activated"
Row = dict[str, Any]


def one_line(text: object, chars_max: int = CHARS_MAX) -> str:
    """Return a text fit for one line."""
    shown = str(text)[: chars_max + 1]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
    return shown if len(shown) <= chars_max else shown[:chars_max] + "…"


def indented(payload: Any) -> str:
    """Return a payload as people read it, made here: a browser's numbers end at 53 bits."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def _names(found: Iterable[object]) -> str:
    names = [one_line(name) for name in dict.fromkeys(found)]
    more = f" +{len(names) - NAMES_MAX}" if len(names) > NAMES_MAX else ""
    return ", ".join(names[:NAMES_MAX]) + more


def _decided(snapshots: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the flags (else the experiments) that were decided, and the variations."""
    flags, variations = [], []
    for snapshot in snapshots:
        decisions = snapshot.get("decisions")
        for one in decisions if isinstance(decisions, list) else ():
            if not isinstance(one, dict):
                continue
            more = one.get("metadata")
            said = more if isinstance(more, dict) else {}
            flags.append(str(said.get("flag_key") or said.get("rule_key") or one.get("experiment_id")))
            variations.append(str(said.get("variation_key") or one.get("variation_id") or "off"))
    return flags, variations


def event_row(event: Event, *, visitor_ids: bool) -> Row:
    """Return what is shown of an event, but for where it lies and how it stands."""
    whole = parsed(event)
    shared = event.envelope.shared
    visitors = visitors_in(whole, shared=shared)
    around = parsed(Event(event.envelope, event.envelope.body([b"{}"]))) if shared else whole
    project = around.get("project_id") if isinstance(around, dict) else None
    snapshots = [snapshot for visitor in visitors for snapshot in snapshots_in(visitor)]
    inner = [one for snapshot in snapshots for one in events_in(snapshot)]
    impressions = [one for one in inner if IMPRESSION in (one.get("key"), one.get("type"))]
    kind = "impression" if impressions else "conversion"
    if not inner:
        kind = "other"
    elif impressions and len(impressions) < len(inner):
        kind = "mixed"
    flags, variations = _decided(snapshots) if impressions else ([], [])
    keys = [str(one.get("key")) for one in inner if one not in impressions]
    ids = [str(visitor.get("visitor_id")) if visitor_ids else MASK for visitor in visitors]
    return {
        "kind": kind,
        "key": _names([*flags, *keys]) or (IMPRESSION if impressions else f"{len(event.payload):,} bytes"),
        "variation": _names(variations),
        "project": one_line(project) if isinstance(project, (str, int)) else "",
        "uuid": one_line(inner[0].get("uuid")) if inner else "",
        "visitor": _names(ids),
        "events": max(1, len(inner)),
        "bytes": len(event.payload),
        "endpoint": one_line(shown_url(event.lane)),
    }


def letter_row(letter: Letter, journal: int, *, visitor_ids: bool) -> Row:
    """Return what is shown of a dead letter."""
    return event_row(letter.event, visitor_ids=visitor_ids) | {
        "id": f"{journal}/{letter.id}", "at": letter.at_s, "reason": one_line(letter.reason), "status": letter.status,
        "attempts": letter.attempts,
        "answer": one_line(answer(letter, visitor_ids=visitor_ids), ANSWER_CHARS_MAX),
    }  # fmt: skip


class Filter(NamedTuple):
    """What somebody wants to see: equal values where one is given, and a text that stands somewhere in the row."""

    text: str = ""
    kind: str = ""
    state: str = ""
    reason: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Filter:
        """Return the filter that a query or a form asks for; what is too long to be one is cut."""
        return cls(*(str(values.get(name) or "")[:QUERY_CHARS_MAX] for name in cls._fields))

    def takes(self, row: Row) -> bool:
        """Tell whether a row is wanted."""
        for name in ("kind", "state", "reason"):
            wanted = getattr(self, name)
            if wanted and row.get(name) != wanted:
                return False
        text = self.text.strip().casefold()
        return not text or any(text in str(value).casefold() for name, value in row.items() if name not in _NOT_TEXT)


_NOT_TEXT: Final = frozenset({"at", "events", "bytes", "attempts"})
