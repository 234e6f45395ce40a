"""How things look in a terminal; what is shown of an event, and masked, says ``queues.shown``.

What lies in a queue was written by others: control characters never reach the terminal, and rich's markup is never
read from data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..event import shown_url
from ..queues.shown import count
from ..queues.view import Status

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


def age(seconds: float | None) -> str:
    """Return a duration for people."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def the_sum(accepted: int, delivered: int, queued: int, dead: int, dropped: Mapping[str, int]) -> str:
    """Return the ledger's sum in the words that are used everywhere."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(dropped.items()))
    lost = f"{sum(dropped.values()):,}" + (f" ({reasons})" if reasons else "")
    return f"accepted {accepted:,} = delivered {delivered:,} + queued {queued:,} + dead {dead:,} + dropped {lost}"


def show_status(status: Status) -> None:
    """Print a queue's status."""
    say(status.place, style="bold")
    say(the_sum(status.accepted, status.delivered, status.queued, status.dead, status.dropped))
    if not status.closes:
        say("this sum does not close", style="bold red")
    oldest = f", the oldest waiting for {age(status.oldest_age_s)}" if status.queued else ""
    if status.kind == "journal":
        stored = count(status.values["segments"], "segment")
        works = f"{count(status.values['writers'], 'process', 'processes')} at work"
    else:
        stored = f"{count(len(status.values['shards']), 'part')}, {status.in_flight or 0:,} of the queued in hand"
        works = f"{count(len(status.values['members']), 'sender')} known"
    say(f"{stored}, {size(status.stored_bytes)}; dead letters {size(status.dead_bytes)}; {works}{oldest}")
    if status.lanes:
        _show_lanes(status)
    if status.kind == "streams":
        _show_fleet(status)
    for line in status.needs:
        say(line, style="yellow")


def _show_lanes(status: Status) -> None:
    known = any(lane.stored_bytes is not None for lane in status.lanes)
    lanes = table("endpoint", "#queued", *(["#stored"] if known else []), "#oldest")
    for lane in status.lanes:
        cells = [shown_url(lane.url), f"{lane.queued:,}"]
        if known:
            cells.append(size(lane.stored_bytes or 0))
        row(lanes, *cells, age(lane.oldest_age_s) if lane.queued else "-")
    out.print(lanes)


def _show_fleet(status: Status) -> None:
    """Print what only a queue has that machines share: its parts, and who holds what."""
    if not status.values["shards"]:
        return
    shards = table("#part", "server", "#waiting", "#in hand", "#stored", "#dead", "#oldest", "")
    for one in status.values["shards"]:
        row(
            shards, one["number"], one["address"], f"{one['queued']:,}", f"{one['in_flight']:,}",
            size(one["stored_bytes"]), f"{one['dead']:,}", age(one["oldest_age_s"]), one["trouble"],
        )  # fmt: skip
    out.print(shards)
    if status.values["members"]:
        members = table("sender", "#entries in hand", "#asked")
        for one in status.values["members"]:
            row(members, one["name"], f"{one['entries_held']:,}", f"{age(one['idle_s'])} ago")
        out.print(members)
    last = status.values["slowest"]
    if last is not None:
        say(f"slowest: {last['name']}, which asked last {age(last['idle_s'])} ago")
    for line in status.values["kept"]:
        say(line)


def lines(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Print one tab-free line for each row: stable for ``grep``, never wrapped."""
    for one in rows:
        say("  ".join(str(one[column]) for column in columns))
