"""What the command line shows and does with a folder, from outside, while others use it.

Nothing here claims an event.  Reading never waits for a writer; what changes dead letters takes their segment's
flock for a moment.  Counts are the folder's, over all processes and restarts: ``totals.json`` and what the segments
tell.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...clock import Clock, SystemClock
from ...event import shown_url
from ..shown import count
from . import dead, totals
from . import format as fmt
from .dead import DeadLetter
from .folder import Folder, open_folder
from .format import DROPPED, SETTLED, Kind, Outcome, count_outcomes
from .queue import JournalQueue
from .tail import Seen, Tail, events
from .verify import Finding, verify

__all__ = [
    "Finding",
    "FolderStatus",
    "LaneStatus",
    "Seen",
    "Tail",
    "as_dict",
    "dead_letters",
    "discard_dead",
    "events",
    "folder_status",
    "needs_a_person",
    "open_folder",
    "retry_dead",
    "tail",
    "verify",
]  # fmt: skip

_DEAD_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, repr=False)
class LaneStatus:
    """One endpoint's part: events queued, bytes of its segments, age of the oldest queued event in seconds."""

    url: str
    queued: int
    stored_bytes: int
    oldest_age_s: float | None

    def __repr__(self) -> str:
        return f"LaneStatus({shown_url(self.url)}, queued={self.queued})"


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """A folder's sum: ``accepted == delivered + queued + dead + sum(dropped.values())``.

    ``queued`` holds what is in flight, too: from outside the two look alike.  ``newer`` counts segments of a newer
    format, ``bad`` files set aside, ``writers`` the processes that live and write here.  ``closes`` is false for a
    moment while somebody else is at work between two reads, and for good after damage that no count can be had of.
    """

    path: str
    accepted: int
    delivered: int
    queued: int
    dead: int
    dropped: dict[str, int]
    segments: int
    stored_bytes: int
    dead_bytes: int
    writers: int
    newer: int
    bad: int
    oldest_age_s: float | None
    lanes: list[LaneStatus]
    trouble: list[str]

    @property
    def closes(self) -> bool:
        """Tell whether the sum holds."""
        return self.accepted == self.delivered + self.queued + self.dead + sum(self.dropped.values())


class _Part(NamedTuple):
    """What one segment adds to the sum; ``first_at_s`` is when its oldest event without an outcome was put."""

    header: fmt.Header
    events: int
    outcomes: dict[Outcome, int]
    stored_bytes: int
    first_at_s: int | None

    @property
    def waiting(self) -> int:
        return max(0, self.events - sum(self.outcomes.values()))


def folder_status(path: str | os.PathLike[str], *, clock: Clock | None = None) -> FolderStatus:
    """Count a folder.  Raises as ``open_folder``."""
    folder, now_s = open_folder(path), (clock or SystemClock()).time()
    gone = totals.read(folder)
    trouble = [totals.LOST] if "unreadable" in gone else []
    newer: list[str] = []
    folded = set(gone["folded"])
    parts = list(_parts(folder, "segments", folded, newer, trouble))
    parked = list(_parts(folder, "dead", folded, newer, trouble))
    dropped: dict[str, int] = dict(gone["dropped"])
    for part in parts + parked:
        for outcome, reason in DROPPED.items():
            if outcome in part.outcomes:
                dropped[reason] = dropped.get(reason, 0) + part.outcomes[outcome]
    by_lane: dict[str, list[_Part]] = {}
    for part in parts:
        by_lane.setdefault(part.header.lane, []).append(part)
    writers = sum(folder.is_alive(name.removesuffix(".lock")) for name in folder.disk.names(folder.writers))
    lanes = [
        LaneStatus(url, sum(one.waiting for one in own), sum(one.stored_bytes for one in own), _oldest_s(own, now_s))
        for url, own in by_lane.items()
    ]
    return FolderStatus(
        path=folder.path,
        accepted=gone["accepted"]
        + sum(part.events - part.outcomes.get(Outcome.VOID, 0) for part in parts if not part.header.retry),
        delivered=gone["delivered"] + sum(part.outcomes.get(Outcome.DELIVERED, 0) for part in parts),
        queued=sum(part.waiting for part in parts), dead=sum(part.waiting for part in parked), dropped=dropped,
        segments=len(parts), stored_bytes=sum(part.stored_bytes for part in parts),
        dead_bytes=sum(part.stored_bytes for part in parked), writers=writers, newer=len(newer),
        bad=len(folder.disk.names(folder.bad)), oldest_age_s=_oldest_s(parts, now_s), lanes=lanes, trouble=trouble,
    )  # fmt: skip


def _oldest_s(parts: Iterable[_Part], now_s: float) -> float | None:
    return max((max(0.0, now_s - part.first_at_s) for part in parts if part.first_at_s is not None), default=None)


def _parts(folder: Folder, where: str, folded: set[str], newer: list[str], trouble: list[str]) -> Iterator[_Part]:
    """Yield what each segment adds that ``totals.json`` does not hold yet; what can't be counted is noted."""
    prefix = "" if where == "segments" else f"{where}/"  # how totals.json and people name them
    for name in folder.segment_names(f"{folder.path}/{where}"):
        if prefix + name in folded:
            continue
        try:
            yield _part(folder, f"{folder.path}/{where}/{name}")
        except FileNotFoundError:
            continue  # settled, and gone since the listing
        except fmt.NewerFormat:
            newer.append(prefix + name)
        except (OSError, ValueError) as error:
            trouble.append(f"{prefix}{name}: {error}")


def _part(folder: Folder, path: str) -> _Part:
    """Count a segment, reading no more of it than that takes."""
    disk = folder.disk
    fd = disk.open(path, write=False)
    try:
        size, first_page = disk.size(path), disk.read(fd, fmt.PAGE_BYTES, 0)
        header = fmt.decode_header(disk.read(fd, fmt.header_bytes_wanted(first_page), 0))
        settled = disk.read(fd, header.events_max, header.outcomes_at)
        outcomes = count_outcomes(settled)
        first = len(settled) - len(settled.lstrip(bytes(SETTLED)))
        sealed = header.sealed_events
        if sealed is not None and (first == 0 or first >= sealed):  # most of a backlog, or done with
            at_s = header.created_ms // 1000 if first < sealed else None
            return _Part(header, sealed, outcomes, size, at_s)
        data = disk.read(fd, size, 0)
    finally:
        disk.close(fd)
    frames = (frame for _, frame, _ in dead.walk(data, header.records_at))
    put = [(one.ordinal, one.at_s) for one in frames if one is not None and one.kind in (Kind.EVENT, Kind.DEAD)]
    events = max(1 + max((ordinal for ordinal, _ in put), default=-1), _told_by_outcomes(settled))
    events = events if sealed is None else sealed
    return _Part(header, events, outcomes, size, next((at_s for ordinal, at_s in put if ordinal >= first), None))


def _told_by_outcomes(settled: bytes) -> int:
    """Return how many events there must have been for these outcomes, whatever became of their records: as a sender."""
    told = settled.rstrip(b"\0")
    return len(told) if SETTLED.issuperset(told.replace(b"\0", b"")) else 0


def tail(path: str | os.PathLike[str], *, last: int | None = 10) -> list[Seen]:
    """Return the newest events in order, settled ones too while their segment is there; ``last`` None: all."""
    return Tail(open_folder(path)).look(last)


def dead_letters(path: str | os.PathLike[str]) -> Iterator[DeadLetter]:
    """Yield the dead letters, oldest first."""
    folder = open_folder(path)
    yield from _letters(folder, folder.segment_names(folder.dead))


def _letters(folder: Folder, names: Iterable[str]) -> Iterator[DeadLetter]:
    for name in names:
        try:
            for _, letter in dead.letters(folder, name):
                yield letter
        except (OSError, ValueError):
            continue


def retry_dead(
    path: str | os.PathLike[str], ids: Iterable[str] | None, *, progress: Callable[[int], None] | None = None
) -> int:
    """Put dead letters back into the queue, bytes and uuid unchanged (``ids`` None: all); returns how many.

    They go into a segment of their own, which any sender of the folder adopts; what somebody else retried or dropped in
    the meantime is passed over.  Raises as ``open_folder``, KeyError for an id that is no dead letter.
    """
    chosen = _chosen(path, ids)
    if not chosen:
        return 0
    # fsync: the note below may reach the device before the event does.
    queue = JournalQueue(path, "fsync", adopt="never", allow_network_fs=True)
    queue.sends = False
    queue.retry = True
    done = 0
    try:
        for letter in chosen:
            name, ordinal = _place(letter.id)
            with suppress(FileNotFoundError), dead.held(queue.folder, name, wait_s=_DEAD_WAIT_S) as segment:
                if segment.unsettled([ordinal]):
                    # Stored first: a crash here leaves it both dead and queued, and it is sent once more.
                    queue.put([letter.event])
                    done += segment.settle([ordinal], Outcome.RETRIED)
            if progress is not None:
                progress(1)
    finally:
        queue.close()
    return done


def discard_dead(
    path: str | os.PathLike[str], ids: Iterable[str] | None, *, progress: Callable[[int], None] | None = None
) -> int:
    """Drop dead letters, counted as dead_discarded (``ids`` None: all); returns how many.  Raises as ``retry_dead``."""
    folder = open_folder(path)
    done = 0
    for letter in _chosen(path, ids):
        name, ordinal = _place(letter.id)
        with suppress(FileNotFoundError):
            done += dead.settle(folder, name, [ordinal], Outcome.DISCARDED, wait_s=_DEAD_WAIT_S)
        if progress is not None:
            progress(1)
    return done


def _chosen(path: str | os.PathLike[str], ids: Iterable[str] | None) -> list[DeadLetter]:
    if ids is None:
        return list(dead_letters(path))
    folder, wanted = open_folder(path), dict.fromkeys(ids)
    there = {_place(one)[0] for one in wanted}
    names = [name for name in folder.segment_names(folder.dead) if name in there]
    by_id = {letter.id: letter for letter in _letters(folder, names)}
    return [by_id[one] for one in wanted]


def _place(letter_id: str) -> tuple[str, int]:
    """Return the segment's name and the ordinal that an id names.  Raises KeyError."""
    stem, _, ordinal = letter_id.rpartition(":")
    if not ordinal.isdecimal():
        raise KeyError(letter_id)
    return f"{stem}.seg", int(ordinal)


def needs_a_person(status: FolderStatus) -> list[str]:
    """Return what in a folder does not mend itself."""
    lines = list(status.trouble)
    if status.newer:
        lines.append(f"{count(status.newer, 'segment')} of a newer format: left alone; a newer release delivers them")
    if status.bad:
        lines.append(f"{count(status.bad, 'damaged place')} set aside in {status.path}/bad: look at it, then remove it")
    if not status.closes:
        lines.append("the sum does not close: run `eventpost verify`")
    return lines


def as_dict(status: FolderStatus) -> dict[str, Any]:
    """Return a status as plain values, for JSON."""
    out = {name: getattr(status, name) for name in FolderStatus.__slots__}
    out["lanes"] = [
        {name: getattr(lane, name) for name in LaneStatus.__slots__} | {"url": shown_url(lane.url)}
        for lane in status.lanes
    ]
    out["closes"] = status.closes
    return out
