"""What a worker does for its journal beside taking events: on a thread of its own, about once a second.

A process that only stores has no sender's thread, which elsewhere syncs in the background and makes a lock anew that
somebody removed.  A relay lives long and takes much, so its workers do both: at ``os`` power loss costs the last second
here, too.

It also looks whether the folder is there.  Stores go to a mapping of an open segment, which goes on although somebody
moved or removed the folder; so from then on the door is told to say no.  If another folder stands in its place later,
the worker ends, and its successor begins there.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from ..queues.journal.queue import JournalQueue
from .answers import Denied, unavailable

EVERY_S: Final = 1.0
_GONE: Final = unavailable("folder_gone", "the journal's folder is gone")
_log = logging.getLogger("eventpost.relay")


class Tending:
    """Tends a queue; ``replaced`` is called, on this thread, once another folder stands in place of its own."""

    def __init__(self, queue: JournalQueue, replaced: Callable[[], None], *, every_s: float = EVERY_S) -> None:
        self._queue = queue
        self._replaced = replaced
        self._every_s = every_s
        self._ended = threading.Event()
        self._place = self._look()
        self.denied: Denied | None = None
        """What the door has to answer, whatever is asked; None: nothing is wrong."""
        self._thread = threading.Thread(target=self._run, name="eventpost-tending", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """End it."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _look(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._queue.folder.segments)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _run(self) -> None:
        wait_s = 0.0
        while not self._ended.wait(min(wait_s, self._every_s)):
            try:
                wait_s = self._tend()
            except Exception:  # noqa: BLE001 - logged; the next round may do better, and events are taken meanwhile
                _log.exception("eventpost relay: the journal could not be looked after")
                wait_s = self._every_s

    def _tend(self) -> float:
        place = self._look()
        if place is not None and place != self._place:
            self.denied = _GONE
            self._ended.set()
            _log.error("eventpost relay: another folder stands in place of %s: beginning anew", self._queue.path)
            self._replaced()
            return 0.0
        self.denied = _GONE if place is None else None
        if place is None:
            return self._every_s
        wait_s = self._queue.tend()
        return self._every_s if wait_s is None else wait_s
