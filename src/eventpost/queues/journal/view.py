"""A journal's folder as a :class:`~eventpost.queues.view.View`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from ..view import Follower, Lane, Letter, Progress, Status
from . import inspect
from .inspect import FolderStatus
from .tail import Tail


def status_of(found: FolderStatus) -> Status:
    """Return a folder's status in the words that all queues share."""
    return Status(
        kind="journal", place=found.path, accepted=found.accepted, delivered=found.delivered, queued=found.queued,
        dead=found.dead, dropped=found.dropped, stored_bytes=found.stored_bytes, dead_bytes=found.dead_bytes,
        oldest_age_s=found.oldest_age_s, closes=found.closes,
        lanes=[Lane(one.url, one.queued, one.stored_bytes, one.oldest_age_s) for one in found.lanes],
        needs=inspect.needs_a_person(found), values=inspect.as_dict(found),
    )  # fmt: skip


class JournalView:
    """See :class:`~eventpost.queues.view.View`.  Raises as ``open_folder``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Look whether there is a journal."""
        self.place = inspect.open_folder(path).path

    def status(self) -> Status:
        """See View.status."""
        return status_of(inspect.folder_status(self.place))

    def follow(self) -> Follower:
        """See View.follow."""
        return Tail(inspect.open_folder(self.place))

    def dead_letters(self) -> Iterator[Letter]:
        """See View.dead_letters."""
        return inspect.dead_letters(self.place)

    def retry_dead(self, ids: Iterable[str] | None, *, progress: Progress | None = None) -> int:
        """See View.retry_dead."""
        return inspect.retry_dead(self.place, ids, progress=progress)

    def discard_dead(self, ids: Iterable[str] | None, *, progress: Progress | None = None) -> int:
        """See View.discard_dead."""
        return inspect.discard_dead(self.place, ids, progress=progress)

    def close(self) -> None:
        """See View.close: nothing is held open."""
