"""What the command line shows and does with a folder, from outside, while others use it.

Nothing here claims an event.  Reading never waits for a writer; what changes dead letters takes their segment's
flock for a moment.  Counts are the folder's, over all processes and restarts: ``totals.json`` and what the segments
tell.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...clock import Clock, SystemClock
from ...event import Envelope, Event
from . import dead
from . import format as fmt
from .dead import DeadLetter
from .folder import Folder, writer_of
from .format import DROPPED, SETTLED, Kind, Outcome
from .queue import JournalQueue
from .segment import count_outcomes

_DEAD_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One endpoint's part: events queued, bytes of its segments, age of the oldest queued event in seconds."""

    url: str
    queued: int = 0
    stored_bytes: int = 0
    oldest_age_s: float | None = None


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


class Seen(NamedTuple):
    """An event as it lies in a segment; ``state`` is "queued" or the outcome's name in lower case."""

    id: str
    event: Event
    at_s: int
    state: str


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
    if not os.path.isdir(os.path.join(os.fspath(path), "segments")):
        raise FileNotFoundError(2, "no journal here (no folder named segments in it); check the path", os.fspath(path))
    return Folder(path, disk=None, gid=None, allow_network_fs=True)


def events(folder: Folder, name: str) -> Iterator[Seen]:
    """Yield every whole event of a segment, settled or not."""
    found = dead.read_segment(folder, f"{folder.segments}/{name}")
    if found is None:
        return
    header, settled, data = found
    envelopes: dict[int, Envelope] = {}
    for _, frame, _ in dead.walk(data, header.records_at):
        if frame is None or frame.ordinal >= len(settled):
            continue
        if frame.kind == Kind.ENVELOPE:
            try:
                envelopes[frame.envelope] = fmt.decode_envelope(frame.payload)
            except ValueError:
                continue
        elif frame.kind == Kind.EVENT and frame.envelope in envelopes:
            outcome = settled[frame.ordinal]
            state = Outcome(outcome).name.lower() if outcome in SETTLED else "queued"
            event = Event(envelopes[frame.envelope], frame.payload)
            yield Seen(f"{name.removesuffix('.seg')}:{frame.ordinal}", event, frame.at_s, state)


def folder_status(path: str | os.PathLike[str], *, clock: Clock | None = None) -> FolderStatus:
    """Count a folder.  Raises as ``open_folder``."""
    folder, now_s = open_folder(path), (clock or SystemClock()).time()
    totals = folder.totals()
    folded = set(totals["folded"])
    accepted, delivered, queued = totals["accepted"], totals["delivered"], 0
    dropped: dict[str, int] = dict(totals["dropped"])
    trouble = (
        ["totals.json cannot be read; the counts of segments that are gone are lost"] if "unreadable" in totals else []
    )
    lanes: dict[str, LaneStatus] = {}
    newer = stored = segments = 0
    oldest: int | None = None
    for name in folder.segment_names(folder.segments):
        if name in folded:
            continue
        try:
            found = dead.read_segment(folder, f"{folder.segments}/{name}")
        except fmt.NewerFormat:
            newer += 1
            continue
        except (OSError, ValueError) as error:
            trouble.append(f"{name}: {error}")
            continue
        if found is None:
            continue
        header, settled, data = found
        count, first_at_s = _count(header, settled, data)
        outcomes = count_outcomes(settled)
        waiting = max(0, count - sum(outcomes.values()))
        accepted += 0 if header.retry else count - outcomes.get(Outcome.VOID, 0)
        delivered += outcomes.get(Outcome.DELIVERED, 0)
        queued += waiting
        for outcome, reason in DROPPED.items():
            if outcome in outcomes:
                dropped[reason] = dropped.get(reason, 0) + outcomes[outcome]
        segments += 1
        stored += len(data)
        lane = lanes.get(header.lane, LaneStatus(header.lane))
        age = None if first_at_s is None else max(0.0, now_s - first_at_s)
        ages = [one for one in (lane.oldest_age_s, age) if one is not None]
        lanes[header.lane] = LaneStatus(
            header.lane, lane.queued + waiting, lane.stored_bytes + len(data), max(ages, default=None)
        )
        if first_at_s is not None:
            oldest = first_at_s if oldest is None else min(oldest, first_at_s)
    parked, dead_bytes = _count_dead(folder, folded, dropped, trouble)
    return FolderStatus(
        path=folder.path, accepted=accepted, delivered=delivered, queued=queued, dead=parked, dropped=dropped,
        segments=segments, stored_bytes=stored, dead_bytes=dead_bytes, writers=_living(folder), newer=newer,
        bad=len(folder.disk.names(folder.bad)),
        oldest_age_s=None if oldest is None else max(0.0, now_s - oldest), lanes=list(lanes.values()), trouble=trouble,
    )  # fmt: skip


def _count(header: fmt.Header, settled: bytes, data: bytes) -> tuple[int, int | None]:
    """Return how many events a segment holds, and when its first unsettled one was put."""
    first: int | None = None
    highest = -1
    for _, frame, _ in dead.walk(data, header.records_at):
        if frame is not None and frame.kind in (Kind.EVENT, Kind.DEAD):
            highest = max(highest, frame.ordinal)
            if first is None and frame.ordinal < len(settled) and settled[frame.ordinal] not in SETTLED:
                first = frame.at_s
    return header.sealed_events if header.sealed_events is not None else highest + 1, first


def _count_dead(folder: Folder, folded: set[str], dropped: dict[str, int], trouble: list[str]) -> tuple[int, int]:
    parked = size = 0
    for name in folder.segment_names(folder.dead):
        if f"dead/{name}" in folded:
            continue
        try:
            found = dead.read_segment(folder, f"{folder.dead}/{name}")
        except (OSError, ValueError) as error:
            trouble.append(f"dead/{name}: {error}")
            continue
        if found is None:
            continue
        header, settled, data = found
        count, _ = _count(header, settled, data)
        outcomes = count_outcomes(settled)
        parked += max(0, count - sum(outcomes.values()))
        size += len(data)
        for outcome, reason in DROPPED.items():
            if outcome in outcomes:
                dropped[reason] = dropped.get(reason, 0) + outcomes[outcome]
    return parked, size


def _living(folder: Folder) -> int:
    names = (name.removesuffix(".lock") for name in folder.disk.names(folder.writers))
    return sum(1 for name in names if folder.is_alive(name))


def tail(path: str | os.PathLike[str], *, last: int | None = 10) -> list[Seen]:
    """Return the newest events in order, settled ones too while their segment is there; ``last`` None: all."""
    folder = open_folder(path)
    out: list[Seen] = []
    for name in reversed(folder.segment_names(folder.segments)):
        try:
            out[:0] = list(events(folder, name))
        except (OSError, ValueError):
            continue
        if last is not None and len(out) >= last:
            break
    out.sort(key=lambda seen: seen.at_s)
    return out if last is None else out[-last:]


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
    letters = list(dead_letters(path))
    if ids is None:
        return letters
    by_id = {letter.id: letter for letter in letters}
    return [by_id[one] for one in ids]


def _place(letter_id: str) -> tuple[str, int]:
    stem, _, ordinal = letter_id.rpartition(":")
    return f"{stem}.seg", int(ordinal)


def verify(path: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None) -> list[Finding]:
    """Read every byte of a folder and name what is damaged; changes nothing.  ``progress`` is told of each file."""
    folder = open_folder(path)
    findings: list[Finding] = []
    for part in (folder.segments, folder.dead):
        for name in folder.disk.names(part):
            if progress is not None:
                progress(1)
            full = f"{part}/{name}"
            if name.endswith(".tmp"):
                if not folder.is_alive(writer_of(name[1:])):
                    findings.append(
                        Finding(
                            full,
                            "leftover",
                            0,
                            folder.disk.size(full),
                            "a dead writer's unfinished file; swept by itself",
                        )
                    )
                continue
            findings += _verify_segment(folder, full, alive=folder.is_alive(writer_of(name)))
    if "unreadable" in folder.totals():
        full = f"{folder.path}/totals.json"
        findings.append(
            Finding(
                full, "totals", 0, folder.disk.size(full), "cannot be read; counts of segments that are gone are lost"
            )
        )
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
            detail = (
                "half a record: its writer died before that put returned"
                if last
                else "a record's checksum does not hold"
            )
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
        findings.append(
            Finding(
                full, "damaged", header.outcomes_at, unknown, "unknown outcome bytes; these events count as unsettled"
            )
        )
    if header.sealed_events is not None and expected < header.sealed_events:
        detail = f"{header.sealed_events - expected} events are missing at its end"
        findings.append(Finding(full, "damaged", len(data), 0, detail))
    return findings


def as_dict(status: FolderStatus) -> dict[str, Any]:
    """Return a status as plain values, for JSON."""
    out = {name: getattr(status, name) for name in FolderStatus.__slots__ if name != "lanes"}
    out["lanes"] = [{name: getattr(lane, name) for name in LaneStatus.__slots__} for lane in status.lanes]
    out["closes"] = status.closes
    return out
