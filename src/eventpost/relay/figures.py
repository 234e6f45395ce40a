"""The main process's figures: counts the queues, and writes what every worker shows, on a thread of its own.

Counting a folder reads a little of each of its segments; with a large backlog that takes a while, so the next count
waits for ten times as long as the last one took, up to ``NEXT_S_MAX``.  A disk or a server that hangs holds up this
thread and nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..doors.dispatcher import EventDispatcher
from ..errors import EventpostError
from ..queues.journal.view import JournalView
from ..queues.shown import count
from ..queues.view import Status
from .children import Slot
from .holding import Holding
from .state import Monitor, journal_as_dict, write_state

EVERY_S: Final = 0.5
SHARE: Final = 10
NEXT_S_MAX: Final = 30.0
"""However long a count took: a disk that stalled once must not leave everybody without figures for minutes."""
SAMPLE_S: Final = 1.0
CLOSE_S: Final = 2.0
_log = logging.getLogger("eventpost.relay")


class Figures:
    """Writes the state every half second.

    Args:
        run_dir: where to.
        senders: the queues, each with its dispatcher, None where others send.
        slots: the workers.
        monitor: what happened.
        refused: returns what the doors of all workers refused, by reason.
    """

    def __init__(
        self,
        run_dir: str,
        senders: Sequence[tuple[Holding, EventDispatcher | None]],
        slots: Sequence[Slot],
        monitor: Monitor,
        refused: Callable[[], Mapping[str, int]],
    ) -> None:
        self._run_dir = run_dir
        self._senders = senders
        self._slots = slots
        self._monitor = monitor
        self._refused = refused
        self._started_at = time.time()
        self._sampled_at = 0.0
        self._known: dict[str, dict[str, Any]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventpost-figures", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._ended.wait(wait_s):
            wait_s = EVERY_S
            try:
                wait_s = self.write()
            except Exception:  # noqa: BLE001 - logged; the next round may do better, and events are sent meanwhile
                _log.exception("eventpost relay: the figures could not be written")

    def write(self) -> float:
        """Count, and write the state; return the seconds until the next time, as the state says.  Raises OSError."""
        began = time.monotonic()
        journals = [self._count(*sender) for sender in self._senders]
        now = time.monotonic()
        if now - self._sampled_at >= SAMPLE_S:
            self._sampled_at = now
            self._monitor.sample(sum(one["accepted"] for one in journals), sum(one["queued"] for one in journals))
        state = {
            "at": time.time(), "started_at": self._started_at, "pid": os.getpid(),
            "workers": [slot.as_dict() for slot in self._slots], "journals": journals,
            "refused": dict(self._refused()),
        }  # fmt: skip
        next_s = min(NEXT_S_MAX, max(EVERY_S, SHARE * (time.monotonic() - began)))
        write_state(self._run_dir, state | {"next_s": next_s} | self._monitor.as_dict())
        return next_s

    def _count(self, holding: Holding, dispatcher: EventDispatcher | None) -> dict[str, Any]:
        """Return a queue's part, with what has spilled of it here."""
        found = self._look(holding, dispatcher)
        if holding.spill is not None and os.path.isdir(holding.spill):
            try:
                found = _with_spill(found, JournalView(holding.spill).status())
            except OSError as error:
                found["needs"] = [*found["needs"], f"{holding.spill} cannot be counted: {error.strerror or error}"]
        return found

    def _look(self, holding: Holding, dispatcher: EventDispatcher | None) -> dict[str, Any]:
        """Return a queue's part; where it can't be counted, what was last known of it, and why."""
        place = holding.view.place
        try:
            status = holding.view.status()
        except (OSError, EventpostError) as error:
            known = self._known.get(place) or _unknown(place)
            why = getattr(error, "strerror", None) or str(error)
            parts = [{**part, "trouble": why} for part in known.get("shards", ())]
            return known | {"needs": [f"{place} cannot be counted: {why}"], "shards": parts}
        in_flight = None if dispatcher is None or status.kind != "journal" else dispatcher.stats().in_flight
        found = journal_as_dict(
            status, durability=holding.queue.durability, bytes_max=holding.bytes_max, in_flight=in_flight
        )
        found["needs"] = [*found["needs"], *holding.complaints()]
        self._known[place] = found
        return found


def _with_spill(found: dict[str, Any], spill: Status) -> dict[str, Any]:
    """Return a queue's part with what waits on this machine for its server: that is accepted, and queued.

    What has moved on is settled there, and counted by the queue.
    """
    dropped = dict(found["dropped"])
    for reason, events in spill.dropped.items():
        dropped[reason] = dropped.get(reason, 0) + events
    kept = spill.queued + spill.dead
    needs = list(spill.needs)
    if kept:
        needs.append(f"{count(kept, 'event')} in {spill.place} until the queue's server takes them")
    return found | {
        "accepted": found["accepted"] + kept + sum(spill.dropped.values()), "queued": found["queued"] + spill.queued,
        "dead": found["dead"] + spill.dead, "dropped": dropped, "needs": [*found["needs"], *needs],
        "spilled": spill.queued, "closes": found["closes"] and spill.closes,
    }  # fmt: skip


def _unknown(path: str) -> dict[str, Any]:
    """Return a folder's part where nothing was ever known of it."""
    counts = (
        "accepted",
        "delivered",
        "queued",
        "dead",
        "segments",
        "stored_bytes",
        "dead_bytes",
        "writers",
        "newer",
        "bad",
    )
    nothing: dict[str, Any] = {"dropped": {}, "oldest_age_s": None, "lanes": [], "trouble": [], "closes": True}
    return {
        "kind": "journal",
        "path": path,
        **dict.fromkeys(counts, 0),
        **nothing,
        "durability": "",
        "bytes_max": None,
        "in_flight": None,
    }
