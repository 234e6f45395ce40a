"""``eventpost dead``: events that the endpoint refused, set aside with reason, answer and time."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ..queues import shown
from ..queues.shown import letter_as_dict
from ..queues.view import Letter, View
from . import show, where
from .where import Journal, Queue, QueueName

app = typer.Typer(
    no_args_is_help=True, help="Look at dead letters; send them again, or let them go.", rich_markup_mode=None
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
VisitorIds = Annotated[bool, typer.Option("--visitor-ids", help="Show visitor and session ids; masked otherwise.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Which, as `dead list` names them.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("list")
def list_(
    *,
    journal: Journal = None,
    queue: Queue = None,
    queue_name: QueueName = None,
    json_: Json = False,
    visitor_ids: VisitorIds = False,
) -> None:
    """List the dead letters, oldest first."""
    letters = where.view(journal, queue, queue_name).dead_letters()
    rows = [letter_as_dict(one, visitor_ids=visitor_ids, with_payload=False) for one in letters]
    if json_:
        show.say_json(rows)
    elif not rows:
        show.say("no dead letters")
    else:
        show.lines(rows, ("id", "died", "reason", "status", "endpoint", "events", "visitors"))


@app.command("show")
def show_(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Which, as `dead list` names it.", show_default=False)],
    *,
    journal: Journal = None,
    queue: Queue = None,
    queue_name: QueueName = None,
    json_: Json = False,
    visitor_ids: VisitorIds = False,
) -> None:
    """Show one dead letter with the endpoint's answer and its payload."""
    letter = next((one for one in where.view(journal, queue, queue_name).dead_letters() if one.id == id_), None)
    if letter is None:
        raise KeyError(id_)
    value = letter_as_dict(letter, visitor_ids=visitor_ids, with_payload=True)
    if json_:
        show.say_json(value)
        return
    body = value.pop("payload")
    for name, one in value.items():
        show.say(f"{name + ':':<10} {one if isinstance(one, str) else json.dumps(one)}")
    show.say("payload:")
    for line in (body if isinstance(body, str) else json.dumps(body, indent=2)).splitlines():
        show.say(f"  {line}")


@app.command()
def retry(
    ids: Ids = None,
    *,
    journal: Journal = None,
    queue: Queue = None,
    queue_name: QueueName = None,
    all_: All = False,
    json_: Json = False,
) -> None:
    """Put dead letters back into the queue, bytes and uuid unchanged."""
    view = where.view(journal, queue, queue_name)
    _change(view, ids, all_=all_, json_=json_, word="retried", change=view.retry_dead)


@app.command()
def discard(
    ids: Ids = None,
    *,
    journal: Journal = None,
    queue: Queue = None,
    queue_name: QueueName = None,
    all_: All = False,
    json_: Json = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give dead letters up for good.  The ledger counts them as dropped: dead_discarded."""
    view = where.view(journal, queue, queue_name)
    _change(view, ids, all_=all_, json_=json_, word="discarded", change=view.discard_dead, ask=not yes)


@app.command()
def export(
    *,
    journal: Journal = None,
    queue: Queue = None,
    queue_name: QueueName = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write (made 0600; must not exist).", show_default="stdout"),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One array; without it one JSON object a line.")] = False,
    visitor_ids: VisitorIds = False,
) -> None:
    """Write all dead letters with their payloads as JSON."""
    letters = where.view(journal, queue, queue_name).dead_letters()  # no queue, no file
    if output is None:
        for _, text in _exported(letters, array=json_, visitor_ids=visitor_ids):
            sys.stdout.write(text)
        sys.stdout.flush()
        return
    count = 0
    with (
        os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file,
        Progress(console=show.err, disable=not show.err.is_terminal, transient=True) as bar,
    ):
        task = bar.add_task("writing", total=None)
        for count, text in _exported(letters, array=json_, visitor_ids=visitor_ids):
            file.write(text)
            bar.update(task, completed=count)
    show.say(f"{shown.count(count, 'dead letter')} written to {output}", to=show.err)


def _exported(letters: Iterable[Letter], *, array: bool, visitor_ids: bool) -> Iterator[tuple[int, str]]:
    """Yield the text of an export, piece by piece, with the letters so far: there may be more than memory holds."""
    count = 0
    for count, letter in enumerate(letters, 1):
        value = letter_as_dict(letter, visitor_ids=visitor_ids, with_payload=True)
        if array:
            yield count, ("[\n" if count == 1 else ",\n") + textwrap.indent(json.dumps(value, indent=2), "  ")
        else:
            yield count, json.dumps(value) + "\n"
    if array:
        yield count, "\n]\n" if count else "[]\n"


def _change(
    view: View, ids: list[str] | None, *, all_: bool, json_: bool, word: str, change: Callable[..., int],
    ask: bool = False,
) -> None:  # fmt: skip
    if bool(ids) == all_:
        raise typer.BadParameter("name dead letters by their ids, or say --all")
    there = dict.fromkeys(one.id for one in view.dead_letters())
    chosen = list(there if all_ else dict.fromkeys(ids or ()))
    for one in chosen:
        if one not in there:
            raise KeyError(one)
    if ask and chosen:
        if sys.stdin is None or not sys.stdin.isatty():
            raise typer.BadParameter("discarding cannot be undone: say --yes where nobody can be asked")
        typer.confirm(f"Discard {shown.count(len(chosen), 'dead letter')} for good?", abort=True)
    with Progress(console=show.err, disable=not show.err.is_terminal, transient=True) as bar:
        task = bar.add_task(word, total=len(chosen))
        done = change(chosen if ask or not all_ else None, progress=lambda count: bar.advance(task, count))
    if json_:
        show.say_json({word: done})
    else:
        show.say(f"{word} {done:,}")
