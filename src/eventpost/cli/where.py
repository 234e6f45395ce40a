"""Which queue a command is about: ``--journal``, ``--queue``, or what the environment names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .. import settings
from ..queues.place import JournalFolder, Place, check_address
from ..queues.view import View

Journal = Annotated[  # whether it can be used, `open_folder` says, with the remedy
    Path | None,
    typer.Option("--journal", metavar="DIR", help="The journal's folder.", show_default=False, readable=False),
]
Queue = Annotated[
    str | None,
    typer.Option(
        "--queue",
        metavar="URL",
        help="The queue that machines share, in Redis or Valkey.",
        show_default="EVENTPOST_QUEUE",
    ),
]
QueueName = Annotated[
    str | None,
    typer.Option("--queue-name", metavar="NAME", help="Its name.", show_default="EVENTPOST_QUEUE_NAME, or eventpost"),
]


@contextmanager
def wrong_usage(where: str) -> Iterator[None]:
    """Say a value that makes no sense as the command line says it; the message names what is wanted."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=where) from None


def place(journal: Path | None, queue: str | None, name: str | None) -> Place:
    """Return what is meant; naming neither, or both, is wrong usage."""
    if journal is not None and queue:
        raise typer.BadParameter("name a journal or a queue, not both", param_hint="--queue")
    if journal is not None:
        return JournalFolder(str(journal))
    with wrong_usage("--queue"):
        shared = settings.shared_queue(queue, name)
        if shared is None:
            raise typer.BadParameter(
                "name a journal's folder with --journal, or a queue with --queue or EVENTPOST_QUEUE",
                param_hint="--journal",
            )
        check_address(shared.url)
    return shared


def view(journal: Path | None, queue: str | None, name: str | None) -> View:
    """Return what is meant as it is seen from outside."""
    found = place(journal, queue, name)
    with wrong_usage("--queue"):
        return found.view()
