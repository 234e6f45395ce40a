"""``eventpost purge``: erase one person's events from a folder, and say what was done; never whose."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any, Final

import typer
from rich.progress import Progress

from ..queues.journal.purge import Purged, purge
from ..queues.place import JournalFolder, Place
from . import show

TIMEOUT_S: Final = 30.0
_SHARED: Final = (
    "purge reaches journals only, and nothing was erased. From a shared queue an event goes with its delivery: let "
    "senders empty it, then find the person's dead letters with `dead export --visitor-ids`, discard those, and have "
    "the server write its append-only file anew (BGREWRITEAOF); docs/fleet.md says more"
)


def run_purge(place: Place, visitor: str, *, timeout_s: float, json_: bool) -> int:
    """Erase; return the exit code: 1 if something is left."""
    if not isinstance(place, JournalFolder):
        show.say(_SHARED, to=show.err)
        return 1
    journal = place.path
    visitor_id = _read_id() if visitor == "-" else visitor
    with Progress(console=show.err, disable=not show.err.is_terminal, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def read(files: int, of: int) -> None:
            bar.update(task, completed=files, total=of)

        try:
            done = purge(journal, visitor_id, timeout_s=timeout_s, progress=read)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--visitor") from None
    if json_:
        show.say_json(as_dict(done, os.path.abspath(journal)))
    else:
        for line in lines(done):
            show.say(line)
        for left in done.left:
            places = f"{left.places:,} places of it are not erased yet; " if left.places else ""
            show.say(f"{left.file}: {places}{left.why}", style="yellow")
    return 1 if done.left else 0


def _read_id() -> str:
    """Return the first line of standard input: an id there stands in no list of processes and no shell's history."""
    return (sys.stdin.readline() if sys.stdin else "").rstrip("\r\n")


def lines(done: Purged) -> list[str]:
    """Return what was done, for a person."""
    told = [f"purged {done.queued + done.dead:,} events: {done.queued:,} queued, {done.dead:,} dead"]
    if done.cut:
        told.append(f"taken out of {done.cut:,} events that others are in, too: these go on without them")
    if done.erased:
        told.append(f"erased the bytes of {done.erased:,} events that were delivered, or dropped, before")
    if done.damaged:
        told.append(f"erased {done.damaged:,} damaged places that showed the id")
    if done.unreadable:
        told.append(
            f"{done.unreadable:,} damaged places do not show whose they are: in doubt, look into bad/ and remove them"
        )
    if done.mentioned:
        told.append(f"{done.mentioned:,} events of others hold the id as somebody's value: these were left as they are")
    return told


def as_dict(done: Purged, path: str) -> dict[str, Any]:
    """Return what was done as plain values, for JSON."""
    return {"path": path, **dataclasses.asdict(done)}
