"""How things look, and what is masked.

What lies in a journal was written by others: control characters never reach the terminal, rich's markup is never read
from data, URLs are shown without user, password and query, and visitor ids are masked unless asked for, wherever a
payload repeats them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..event import Event, shown_url
from ..queues.journal.dead import DeadLetter
from ..queues.journal.inspect import FolderStatus, Seen

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
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def plain(text: object) -> Text:
    """Return text fit for a terminal: no markup, and control characters as ``?``."""
    return Text("".join(char if char.isprintable() else "?" for char in str(text)))


def say(text: object, *, style: str = "", to: Console | None = None) -> None:
    """Print one line of text, unwrapped."""
    line = plain(text)
    line.stylize(style)
    (to or out).print(line, soft_wrap=True)


def say_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    out.out(json.dumps(value, ensure_ascii=True, indent=2), highlight=False)


def say_json_lines(values: Iterable[Any]) -> None:
    """Print each value as one line of JSON."""
    for value in values:
        out.out(json.dumps(value, ensure_ascii=True), highlight=False)


def table(*columns: str) -> Table:
    """Return an empty table; a column whose name begins with ``#`` holds numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            column.removeprefix("#"), justify="right" if column.startswith("#") else "left", overflow="fold"
        )
    return made


def row(into: Table, *cells: object) -> None:
    """Add a row of untrusted cells."""
    into.add_row(*(plain(cell) for cell in cells))


def size(bytes_: int) -> str:
    """Return a number of bytes for people."""
    if bytes_ < 1024:
        return f"{bytes_} B"
    steps = min(3, (bytes_.bit_length() - 1) // 10)
    return f"{bytes_ / 1024**steps:.1f} {('KiB', 'MiB', 'GiB')[steps - 1]}"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number of things for people."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def age(seconds: float | None) -> str:
    """Return a duration for people."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(at_s: float) -> str:
    """Return a point in time in UTC, to the second."""
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def the_sum(accepted: int, delivered: int, queued: int, dead: int, dropped: Mapping[str, int]) -> str:
    """Return the ledger's sum in the words that are used everywhere."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(dropped.items()))
    lost = f"{sum(dropped.values()):,}" + (f" ({reasons})" if reasons else "")
    return f"accepted {accepted:,} = delivered {delivered:,} + queued {queued:,} + dead {dead:,} + dropped {lost}"


def show_status(status: FolderStatus) -> None:
    """Print a folder's status."""
    say(status.path, style="bold")
    say(the_sum(status.accepted, status.delivered, status.queued, status.dead, status.dropped))
    if not status.closes:
        say("this sum does not close", style="bold red")
    oldest = f", the oldest waiting for {age(status.oldest_age_s)}" if status.queued else ""
    say(
        f"{count(status.segments, 'segment')}, {size(status.stored_bytes)}; dead letters {size(status.dead_bytes)}; "
        f"{count(status.writers, 'process', 'processes')} at work{oldest}"
    )
    if status.lanes:
        lanes = table("endpoint", "#queued", "#stored", "#oldest")
        for lane in status.lanes:
            row(
                lanes,
                shown_url(lane.url),
                f"{lane.queued:,}",
                size(lane.stored_bytes),
                age(lane.oldest_age_s) if lane.queued else "-",
            )
        out.print(lanes)
    for line in needs_a_person(status):
        say(line, style="yellow")


def needs_a_person(status: FolderStatus) -> list[str]:
    """Return what in a folder does not mend itself."""
    lines = list(status.trouble)
    if status.newer:
        lines.append(f"{count(status.newer, 'segment')} of a newer format: left alone; a newer release delivers them")
    if status.bad:
        lines.append(f"{count(status.bad, 'damaged place')} set aside in {status.path}/bad: look at it, then remove it")
    if not status.closes:
        lines.append("the sum does not close: run `eventpost verify`")
    return lines


def visitors_of(event: Event) -> list[dict[str, Any]]:
    """Return the visitors in an event's payload; none if it is something else."""
    try:
        value = json.loads(event.payload)
    except ValueError:
        return []
    if not isinstance(value, dict):
        return []
    found = value.get("visitors", [value]) if not event.envelope.shared else [value]
    return [one for one in found if isinstance(one, dict) and "snapshots" in one] if isinstance(found, list) else []


def summary(event: Event, *, visitor_ids: bool) -> tuple[str, str, str]:
    """Return what an event is about: the keys of its events, their uuids, its visitors' ids."""
    visitors = visitors_of(event)
    inner = [one for visitor in visitors for snapshot in visitor["snapshots"] for one in snapshot.get("events", ())]
    keys = ", ".join(dict.fromkeys(str(one.get("key")) for one in inner))
    uuids = ", ".join(str(one.get("uuid")) for one in inner)
    ids = ", ".join(str(one.get("visitor_id")) if visitor_ids else MASK for one in visitors)
    return keys or f"<{len(event.payload)} bytes>", uuids or "-", ids or "-"


def payload(event: Event, *, visitor_ids: bool) -> Any:
    """Return an event's payload for a person or a file; with ids, exactly as it will be sent."""
    if visitor_ids:
        return event.payload.decode("utf-8", "replace")
    try:
        value = json.loads(event.payload)
    except ValueError:
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


def _masked_text(text: str, event: Event) -> str:
    """Return what an endpoint answered without what it quotes from the event: values, headers, the URL's secrets."""
    envelope, parts = event.envelope, urlsplit(event.lane)
    said = {parts.username, parts.password, parts.query, *_query_values(parts.query)}
    said |= {value for name, value in envelope.headers if _masked_header(name, value) == MASK}
    said |= {word for value in list(said) if value for word in value.split()}
    if envelope.verb == "GET":
        said |= _query_values(event.payload.decode("utf-8", "replace"))
    for one in sorted(said | _texts(event), key=lambda one: -len(one or "")):
        text = text.replace(one, MASK) if one and len(one) >= QUOTED_MIN else text
    return text


def _query_values(query: str) -> set[str]:
    return {value for _, value in parse_qsl(query)}


def _masked_header(name: str, value: str) -> str:
    return value if name.lower() in PLAIN_HEADERS else MASK


def _texts(event: Event) -> set[str]:
    """Return all texts in an event's payload but those that name things, not people."""
    try:
        todo = [json.loads(event.payload)]
    except ValueError:
        return set()
    found = set()
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            todo += [value for name, value in one.items() if name not in NAMES]
        elif isinstance(one, list):
            todo += one
        elif isinstance(one, str):
            found.add(one)
    return found


def seen_as_dict(seen: Seen, *, visitor_ids: bool) -> dict[str, Any]:
    """Return a stored event's line as plain values."""
    keys, uuids, ids = summary(seen.event, visitor_ids=visitor_ids)
    return {
        "id": seen.id, "at": moment(seen.at_s), "state": seen.state, "endpoint": shown_url(seen.event.lane),
        "events": keys, "uuids": uuids, "visitors": ids,
    }  # fmt: skip


def letter_as_dict(letter: DeadLetter, *, visitor_ids: bool, with_payload: bool) -> dict[str, Any]:
    """Return a dead letter as plain values."""
    keys, uuids, ids = summary(letter.event, visitor_ids=visitor_ids)
    value: dict[str, Any] = {
        "id": letter.id, "died": moment(letter.at_s), "reason": letter.reason, "status": letter.status,
        "answer": letter.answer if visitor_ids else _masked_text(letter.answer, letter.event),
        "attempts": letter.attempts, "endpoint": shown_url(letter.event.lane),
        "events": keys, "uuids": uuids, "visitors": ids,
    }  # fmt: skip
    if with_payload:
        envelope = letter.event.envelope
        headers = {name: value if visitor_ids else _masked_header(name, value) for name, value in envelope.headers}
        value |= {"verb": envelope.verb, "headers": headers, "shared": envelope.shared}
        value["payload"] = payload(letter.event, visitor_ids=visitor_ids)
    return value


def lines(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Print one tab-free line for each row: stable for ``grep``, never wrapped."""
    for one in rows:
        say("  ".join(str(one[column]) for column in columns))
