"""What the page looks at: the views, events and letters of journals' folders, or of a queue that machines share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ...queues.journal.inspect import open_folder
from ...queues.journal.view import JournalView
from ...queues.place import SharedQueue
from ...queues.view import View
from .events import EventSource, FolderEvents, SharedEvents
from .letters import FolderLetters, Letters, SharedLetters

SERVER_TIMEOUT_S: Final = 3.0


class Parts(NamedTuple):
    """The queues, their numbers being their places here; ``shared``: it is one that machines share."""

    views: Sequence[View]
    events: Sequence[EventSource]
    letters: Letters
    shared: bool


def parts_of(journals: Sequence[str], shared: SharedQueue | None, *, visitor_ids: bool) -> Parts:
    """Return what to look at.  Raises as ``open_folder``, RedisUnusable."""
    if shared is not None:
        view = shared.view(timeout_s=SERVER_TIMEOUT_S)
        return Parts([view], [SharedEvents(view)], SharedLetters(view, visitor_ids=visitor_ids), shared=True)
    folders = [open_folder(path) for path in journals]
    views = [JournalView(folder.path) for folder in folders]
    events = [FolderEvents(folder) for folder in folders]
    return Parts(views, events, FolderLetters(folders, visitor_ids=visitor_ids), shared=False)
