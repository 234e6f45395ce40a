"""Hands a world's chance, disk and small sizes to those modules of the journal that take them from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from eventpost.queues.journal import JournalQueue, dead, folder, inspect, keeper, queue, store

if TYPE_CHECKING:
    from .world import World

PATH: Final = "/eventpost-model"
SEGMENT_BYTES: Final = 16 * 1024


class _Names:
    """Stands for ``secrets``: names that repeat themselves with the seed."""

    def __init__(self, world: World) -> None:
        self.world = world

    def token_hex(self, count: int) -> str:
        """Return a name."""
        return f"{self.world.rng.getrandbits(8 * count):0{2 * count}x}"


@contextmanager
def wired(world: World) -> Iterator[None]:
    """Let the journal be this world's, with segments that are small enough to be many."""

    def open_folder(path: str) -> folder.Folder:
        return folder.Folder(path, disk=world.tool_disk, gid=None, allow_network_fs=True)

    def open_queue(path: str, durability: Any, **options: Any) -> JournalQueue:
        return JournalQueue(path, durability, disk=world.tool_disk, clock=world.clock, **options)

    places: list[tuple[Any, str, Any]] = [
        (folder, "secrets", _Names(world)),
        (folder, "file_system_of", lambda _path: "ext4"),
        (inspect, "open_folder", open_folder),
        (inspect, "JournalQueue", open_queue),
        (store, "SEGMENT_BYTES_MIN", SEGMENT_BYTES),
        (queue, "SEGMENT_BYTES_MIN", SEGMENT_BYTES),
        (dead, "_DEAD_SEGMENT_BYTES", SEGMENT_BYTES),
        (dead, "pause", lambda _seconds: None),
        (keeper, "_WATCH_INTERVAL_S", 1.0),
    ]
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, value in places:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(places, before, strict=True):
            setattr(module, name, value)
