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
        alive = folder.is_alive(writer_of(name))
        if not name.endswith(".tmp"):
            findings += _verify_segment(folder, full, alive=alive)
        elif not alive:
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
        if found is None:
            return []
        header, settled, data = found
        if len(data) < header.records_at:
            raise fmt.BadHeader("the file ends before its records")
    except fmt.NewerFormat as error:
        return [Finding(full, "newer", 0, folder.disk.size(full), f"{error}; left alone")]
    except (OSError, ValueError) as error:
        return [Finding(full, "header", 0, folder.disk.size(full), str(error))]
    findings, readable, expected = _records(full, header, data, alive=alive)
    if header.sealed_events is not None:
        if expected < header.sealed_events:
            detail = f"{header.sealed_events - expected} events are missing at its end"
            findings.append(Finding(full, "damaged", len(data), 0, detail))
        if all(settled[one] in SETTLED or one in readable for one in range(header.sealed_events)):
            # It was set aside and counted, and nothing waits behind it.
            findings = [one for one in findings if one.kind != "damaged"]
    unknown = sum(1 for byte in settled if byte and byte not in SETTLED)
    if unknown:
        detail = "unknown outcome bytes; these events count as unsettled"
        findings.append(Finding(full, "damaged", header.outcomes_at, unknown, detail))
    return findings


def _records(full: str, header: fmt.Header, data: bytes, *, alive: bool) -> tuple[list[Finding], set[int], int]:
    """Return what is wrong with records, which events can be sent, and the ordinal after the last one."""
    findings: list[Finding] = []
    envelopes: set[int] = set()
    readable: set[int] = set()
    expected = 0
    for at, frame, damaged in dead.walk(data, header.records_at):
        if frame is None:
            last = at + len(damaged) == len(data) and header.sealed_events is None
            if not last:
                findings.append(Finding(full, "damaged", at, len(damaged), "a record's checksum does not hold"))
            elif not alive:  # else its writer is in the middle of it
                detail = "half a record: its writer died before that put returned"
                findings.append(Finding(full, "torn", at, len(damaged), detail))
        elif frame.kind == Kind.ENVELOPE:
            envelopes.add(frame.envelope)
        else:
            if frame.ordinal != expected and not any(one.kind == "damaged" for one in findings):
                findings.append(Finding(full, "damaged", at, 0, f"event {expected} is missing"))
            if frame.envelope in envelopes:
                readable.add(frame.ordinal)
            else:
                findings.append(Finding(full, "damaged", at, len(frame.payload), "its envelope is missing"))
            expected = frame.ordinal + 1
    return findings, readable, expected
