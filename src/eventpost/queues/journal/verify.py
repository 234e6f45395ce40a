"""Every byte of a folder looked at, for ``eventpost verify``; changes nothing (``repair`` does)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from . import dead, totals
from . import format as fmt
from .folder import Folder, open_folder, writer_of
from .format import SETTLED, Kind


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that ``verify`` found.  ``kind``: damaged, torn, header, newer, leftover, totals."""

    path: str
    kind: str
    at_byte: int
    length_bytes: int
    detail: str


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
        findings.append(Finding(full, "totals", 0, folder.disk.size(full), totals.LOST))
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
