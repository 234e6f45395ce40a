"""What the relay holds events in: journals' folders, or one queue that machines share; opened here for its processes.

``Holding`` is the main process's side: the queue that it sends from, and the view that its figures come from.
``Store`` is a worker's: the queue that it puts into, whether such a put waits, and whether one would be taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from ..errors import RedisUnusable
from ..queues.journal import JournalQueue, inspect
from ..queues.journal.folder import resolved
from ..queues.journal.orphans import Adopt
from ..queues.journal.probe import why_full_or_gone
from ..queues.journal.view import JournalView
from ..queues.place import SharedQueue
from ..queues.protocol import Queue
from ..queues.view import View
from .settings import RelaySettings

PROBE_TIMEOUT_S: Final = 2.0
LOOK_TIMEOUT_S: Final = 2.0


class CannotStart(Exception):  # noqa: N818 - names a state
    """The relay cannot start; the message says what to do."""


class Holding(NamedTuple):
    """One queue, as the main process has it.

    ``bytes_max``: its bound, None where it is another process's to know.  ``look``: looks for what workers left.
    ``spill``: the folder that takes what comes while the queue is away.
    """

    queue: Queue
    view: View
    bytes_max: int | None
    look: Callable[[], object]
    spill: str | None = None

    def complaints(self) -> list[str]:
        """Return what a shared queue's server does not keep of what was asked for, for people.

        Where nobody sends here, nothing else would ask the server, or move on what dead workers had spilled.
        """
        for name in ("look_at_server", "look_for_left"):
            look: Callable[[], None] | None = getattr(self.queue, name, None)
            if look is not None:
                look()
        if not hasattr(self.queue, "describe"):
            return []
        said: dict[str, Any] = self.queue.describe()
        asked = said.get("asked", {}).get("durability", said["durability"])
        if said.get("unusable"):
            return [str(said["unusable"])]
        if asked == said["durability"]:
            return []
        return [f"durability {asked} was asked for, {said['durability']} is kept: {said['because']}"]


class Store(NamedTuple):
    """What a worker puts into.  ``waits``: for a disk or a server.  ``why_not``: why a put would be refused."""

    queue: Queue
    waits: bool
    why_not: Callable[[], str | None]


def open_holdings(settings: RelaySettings) -> list[Holding]:
    """Return what the main process sends from, the relay's own first.  Raises CannotStart, JournalUnusable."""
    shared = settings.shared
    if shared is not None:
        return [_shared(shared, settings)]
    return [_journal(path, settings, own=not number) for number, path in enumerate(settings.journal)]


def open_store(settings: RelaySettings) -> Store:
    """Return what a worker puts into.  Raises JournalUnusable, RedisUnusable."""
    shared = settings.shared
    if shared is not None:
        return _store_shared(shared, settings)
    journal = JournalQueue(
        settings.journal[0], _level(settings), settings.bytes_max,
        adopt="never", group=settings.shared_with, allow_network_fs=True,
    )  # fmt: skip
    durable = settings.durability == "fsync"
    return Store(
        journal, durable, lambda: why_full_or_gone(journal.folder, bytes_max=settings.bytes_max, durable=durable)
    )


def _level(settings: RelaySettings) -> Literal["os", "fsync"]:
    return "os" if settings.durability == "os" else "fsync"


def _store_shared(shared: SharedQueue, settings: RelaySettings) -> Store:
    view = shared.view(timeout_s=PROBE_TIMEOUT_S)
    spill = _open_spill(settings, adopt="never")
    queue = _open_shared(shared, settings, spill)

    def why_not() -> str | None:
        why = view.why_not(settings.bytes_max)
        if why is None or why == "queue_full" or spill is None:
            return why
        durable = settings.durability != "os"
        return why_full_or_gone(spill.folder, bytes_max=settings.bytes_max, durable=durable)

    return Store(queue, True, why_not)


def _open_spill(settings: RelaySettings, *, adopt: Adopt) -> JournalQueue | None:
    """Return the journal that stands in while the server is away.  What dead workers left, the main process moves."""
    if settings.spill is None:
        return None
    return JournalQueue(settings.spill, _level(settings), settings.bytes_max, adopt=adopt)


def _open_shared(shared: SharedQueue, settings: RelaySettings, spill: JournalQueue | None) -> Queue:
    more: dict[str, Any] = {"bytes_max": settings.bytes_max, "replicas": settings.replicas, "spill": spill}
    queue = shared.open(durability=settings.durability, **more)
    queue.sends = settings.send
    return queue


def _shared(shared: SharedQueue, settings: RelaySettings) -> Holding:
    try:
        view = shared.view(timeout_s=LOOK_TIMEOUT_S)
        queue = _open_shared(shared, settings, _open_spill(settings, adopt="always"))
    except (RedisUnusable, ValueError) as error:
        raise CannotStart(str(error)) from error
    return Holding(queue, view, settings.bytes_max, lambda: None, settings.spill and resolved(settings.spill))


def _journal(path: str, settings: RelaySettings, *, own: bool) -> Holding:
    if own:
        try:
            queue = JournalQueue(
                path, _level(settings), settings.bytes_max, adopt="always", group=settings.shared_with
            )  # fmt: skip
        except ValueError as error:
            raise CannotStart(str(error)) from error
        return Holding(queue, JournalView(path), settings.bytes_max, queue.scan)
    try:
        inspect.open_folder(path)
    except FileNotFoundError as error:
        raise CannotStart(f"{path}: {error.strerror}") from error
    queue = JournalQueue(path, adopt="always", allow_network_fs=True)
    return Holding(queue, JournalView(path), None, queue.scan)
