"""What the command line shows and does with a folder, from outside, while others use it.

Nothing here claims an event.  Reading never waits for a writer; what changes dead letters takes their segment's
flock for a moment.  Counts are the folder's, over all processes and restarts: ``totals.json`` and what the segments
tell.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...clock import Clock, SystemClock
from ...event import shown_url
from . import dead, totals
from . import format as fmt
from .dead import DeadLetter
from .folder import Folder, resolved, writer_of
from .format import DROPPED, SETTLED, Kind, Outcome
from .queue import JournalQueue
from .segment import count_outcomes
from .tail import Seen, Tail, events

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
    "open_folder",
    "retry_dead",
    "tail",
    "verify",
]  # fmt: skip

_DEAD_WAIT_S = 5.0
_TOTALS_LOST = "totals.json cannot be read; the counts of segments that are gone are lost"


@dataclass(frozen=True, slots=True, repr=False)
class LaneStatus:
    """One endpoint's part: events queued, bytes of its segments, age of the oldest queued event in seconds."""

    url: str
    queued: int = 0
    stored_bytes: int = 0
    oldest_age_s: float | None = None

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
    lanes: list[LaneStatus] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    @property
    def closes(self) -> bool:
        """Tell whether the sum holds."""
        return self.accepted == self.delivered + self.queued + self.dead + sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that ``verify`` found.  ``kind``: damaged, torn, header, newer, leftover, totals."""

    path: str
    kind: str
    at_byte: int
    length_bytes: int
    detail: str


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Return the folder of a journal.  Raises FileNotFoundError if it is none, JournalUnusable if it can't be used."""
    try:
        found = stat.S_ISDIR(os.stat(os.path.join(resolved(path), "segments")).st_mode)
    except PermissionError:
        found = True  # not ours to see: below it is said whose it is
    except (OSError, ValueError):
        found = False
    if not found:
        raise FileNotFoundError(2, "no journal here (no folder named segments in it); check the path", os.fspath(path))
    return Folder(path, disk=None, gid=None, allow_network_fs=True)


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
    trouble = [_TOTALS_LOST] if "unreadable" in gone else []
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
    for name in folder.segment_names(folder.dead):
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
    by_id = {letter.id: letter for letter in dead_letters(path)}
    return list(by_id.values()) if ids is None else [by_id[one] for one in dict.fromkeys(ids)]


def _place(letter_id: str) -> tuple[str, int]:
    stem, _, ordinal = letter_id.rpartition(":")
    return f"{stem}.seg", int(ordinal)


def verify(path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Read every byte of a folder and name what is damaged; changes nothing.

    ``progress`` is told how many files were read, and of how many.
    """
    folder = open_folder(path)
    findings: list[Finding] = []
    paths = [f"{part}/{name}" for part in (folder.segments, folder.dead) for name in folder.disk.names(part)]
    for done, full in enumerate(paths, 1):
        name = os.path.basename(full)
        if not name.endswith(".tmp"):
            findings += _verify_segment(folder, full, alive=folder.is_alive(writer_of(name)))
        elif not folder.is_alive(writer_of(name[1:])):
            detail = "a dead writer's unfinished file; swept by itself"
            findings.append(Finding(full, "leftover", 0, folder.disk.size(full), detail))
        if progress is not None:
            progress(done, len(paths))
    if "unreadable" in totals.read(folder):
        full = f"{folder.path}/totals.json"
        findings.append(Finding(full, "totals", 0, folder.disk.size(full), _TOTALS_LOST))
    return findings


def _verify_segment(folder: Folder, full: str, *, alive: bool) -> list[Finding]:
    try:
        found = dead.read_segment(folder, full)
    except fmt.NewerFormat as error:
        return [Finding(full, "newer", 0, folder.disk.size(full), f"{error}; left alone")]
    except (OSError, ValueError) as error:
        return [Finding(full, "header", 0, folder.disk.size(full), str(error))]
    if found is None:
        return []
    header, settled, data = found
    findings = []
    envelopes: set[int] = set()
    expected = 0
    places = list(dead.walk(data, header.records_at))
    for index, (at, frame, damaged) in enumerate(places):
        if frame is None:
            last = index == len(places) - 1 and header.sealed_events is None
            if last and alive:
                continue  # a living writer is in the middle of it
            torn = "half a record: its writer died before that put returned"
            detail = torn if last else "a record's checksum does not hold"
            findings.append(Finding(full, "torn" if last else "damaged", at, len(damaged), detail))
        elif frame.kind == Kind.ENVELOPE:
            envelopes.add(frame.envelope)
        else:
            if frame.ordinal != expected and not any(one.kind == "damaged" for one in findings):
                findings.append(Finding(full, "damaged", at, 0, f"event {expected} is missing"))
            if frame.envelope not in envelopes:
                findings.append(Finding(full, "damaged", at, len(frame.payload), "its envelope is missing"))
            expected = frame.ordinal + 1
    unknown = sum(1 for byte in settled if byte and byte not in SETTLED)
    if unknown:
        detail = "unknown outcome bytes; these events count as unsettled"
        findings.append(Finding(full, "damaged", header.outcomes_at, unknown, detail))
    if header.sealed_events is not None and expected < header.sealed_events:
        detail = f"{header.sealed_events - expected} events are missing at its end"
        findings.append(Finding(full, "damaged", len(data), 0, detail))
    return _without_accounted(findings, header, settled, places)


def _without_accounted(
    findings: list[Finding], header: fmt.Header, settled: bytes, places: list[tuple[int, fmt.Frame | None, bytes]]
) -> list[Finding]:
    """Leave out damage whose events are all settled: it was set aside and counted, and nothing waits behind it."""
    there = {frame.ordinal for _, frame, _ in places if frame is not None and frame.kind != Kind.ENVELOPE}
    if header.sealed_events is None or any(
        settled[one] not in SETTLED for one in range(min(header.sealed_events, len(settled))) if one not in there
    ):
        return findings
    return [one for one in findings if one.kind != "damaged" or one.at_byte == header.outcomes_at]


def as_dict(status: FolderStatus) -> dict[str, Any]:
    """Return a status as plain values, for JSON."""
    out = {name: getattr(status, name) for name in FolderStatus.__slots__ if name != "lanes"}
    out["lanes"] = [
        {name: getattr(lane, name) for name in LaneStatus.__slots__} | {"url": shown_url(lane.url)}
        for lane in status.lanes
    ]
    out["closes"] = status.closes
    return out
