"""``eventpost verify --repair``: mend what can be, from outside, and say what was done.

What a live process holds is left alone and named: a segment of a writer that lives, and one whose flock somebody has.
Everything else is done under the segment's own flock, so no sender adopts what is being mended.  Nothing is guessed:
bytes that cannot be read go to ``bad/``, and the events that lay there are settled as damaged, which is how a sender
that came across them would count them (``dropped: damaged``).

Orders, each so that a crash in between leaves what a second run finishes: damaged bytes are kept in ``bad/`` before
their events are settled; outcomes before the seal; the seal before the cut.  A second run finds nothing to do.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import dead, totals
from . import format as fmt
from .folder import SUFFIX, Folder, open_folder, writer_of
from .format import SETTLED, Kind, Outcome


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing that was done, or was left alone.

    ``did``: cut, set_aside, sealed, outcomes, removed, mode, totals; or ``left``: somebody else has it, a newer release
    wrote it, or this user may not.  ``events``: how many events it settled as damaged.
    """

    path: str
    did: str
    events: int
    detail: str


def repair(path: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None) -> list[Repair]:
    """Mend a folder; returns what was done and what was left alone.  Raises as ``open_folder``."""
    folder = open_folder(path)
    done = [*_modes(folder), *_leftovers(folder)]
    for part in (folder.segments, folder.dead):
        for name in folder.disk.names(part):
            if progress is not None:
                progress(1)
            if not name.endswith(SUFFIX) or name[0] == ".":
                continue
            full = f"{part}/{name}"
            try:
                done += _segment(folder, full)
            except FileNotFoundError:
                continue  # settled and gone meanwhile
            except OSError as error:
                done.append(Repair(full, "left", 0, f"cannot be mended: {error.strerror}"))
    return done + _totals(folder)


def _modes(folder: Folder) -> Iterator[Repair]:
    """Put modes right: private, or the group's where the folder is shared; never wider."""
    for root, names, files in os.walk(folder.path):
        for path in [root] * (root == folder.path) + [f"{root}/{name}" for name in names + files]:
            try:
                info = os.lstat(path)
                if stat.S_ISLNK(info.st_mode):
                    yield Repair(path, "left", 0, "a symbolic link; look who made it, and remove it")
                    continue
                wanted = folder.folder_mode if stat.S_ISDIR(info.st_mode) else folder.file_mode
                found = stat.S_IMODE(info.st_mode)
                if found != wanted:
                    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    try:
                        os.fchmod(fd, wanted)
                    finally:
                        os.close(fd)
                    yield Repair(path, "mode", 0, f"{found:04o}, now {wanted:04o}")
            except FileNotFoundError:
                continue
            except OSError as error:
                yield Repair(path, "left", 0, f"its mode cannot be put right: {error.strerror}")


def _leftovers(folder: Folder) -> Iterator[Repair]:
    """Remove what the dead left half made: temporary files, probes, and locks of writers without segments."""
    before = {f"{part}/{name}" for part in _swept(folder) for name in folder.disk.names(part)}
    folder.sweep()
    for name in folder.disk.names(folder.path):
        if name.startswith(".probe-") and _is_free(folder, f"{folder.path}/{name}"):
            folder.disk.unlink(f"{folder.path}/{name}")
            yield Repair(f"{folder.path}/{name}", "removed", 0, "a dead process's probe")
    after = {f"{part}/{name}" for part in _swept(folder) for name in folder.disk.names(part)}
    for path in sorted(before - after):
        if path.endswith((".tmp", ".lock")):
            what = "lock" if path.endswith(".lock") else "unfinished file"
            yield Repair(path, "removed", 0, f"a dead writer's {what}")


def _swept(folder: Folder) -> tuple[str, ...]:
    return folder.segments, folder.dead, folder.writers


def _is_free(folder: Folder, path: str) -> bool:
    fd = folder.disk.open(path)
    try:
        return folder.disk.lock(fd)
    finally:
        folder.disk.close(fd)


@contextmanager
def _held(folder: Folder, path: str) -> Iterator[tuple[int, str]]:
    """Hold a segment; yields its descriptor, and why it is to be left alone, if it is."""
    fd = folder.disk.open(path)
    try:
        if folder.is_alive(writer_of(path.rsplit("/", 1)[1])):
            yield fd, "its writer lives, and mends it itself as far as that can be done"
        elif not folder.disk.lock(fd):
            yield fd, "somebody else has it"
        elif not folder.disk.still_named(fd, path):
            raise FileNotFoundError
        else:
            yield fd, ""
    finally:
        folder.disk.close(fd)


def _segment(folder: Folder, path: str) -> list[Repair]:
    with _held(folder, path) as (fd, why_not):
        data = folder.disk.read(fd, folder.disk.size(path), 0)
        try:
            header = fmt.decode_header(data[: fmt.header_bytes_wanted(data[: fmt.PAGE_BYTES])])
            if len(data) < header.records_at:
                raise fmt.BadHeader("the file ends before its records")
        except fmt.NewerFormat as error:
            return [Repair(path, "left", 0, f"{error}; a newer release can mend it")]
        except ValueError as error:
            if why_not:
                return [Repair(path, "left", 0, why_not)]
            target = f"{folder.bad}/{path.rsplit('/', 1)[1]}.bad"
            folder.disk.rename(path, target)  # under its lock; undone by power loss, the next repair finds it again
            return [Repair(path, "set_aside", 0, f"{error}; it is {target} now, and its events cannot be counted")]
        found = _Found(header, data)
        if not found.wrong or (why_not and not found.lost and not found.unknown):
            return []  # the end of what somebody writes to is no damage
        if why_not:
            return [Repair(path, "left", 0, why_not)]
        return _mend(folder, path, fd, found)


class _Found:
    """What a segment holds, and what of it is wrong."""

    def __init__(self, header: fmt.Header, data: bytes) -> None:
        self.header = header
        outcomes = data[header.outcomes_at : header.records_at]
        kind = Kind.DEAD if not header.lane else Kind.EVENT
        self.damaged: list[tuple[int, bytes]] = []
        readable: set[int] = set()
        envelopes: set[int] = set()
        there = 0
        self.end = header.records_at
        for at, frame, bytes_ in dead.walk(data, header.records_at):
            if frame is None:
                self.damaged.append((at, bytes_))
                continue
            self.end = frame.end
            if frame.kind == Kind.ENVELOPE:
                envelopes.add(frame.envelope)
                continue
            if frame.ordinal < header.events_max:
                there = max(there, frame.ordinal + 1)
                if frame.kind == kind and frame.envelope in envelopes:
                    readable.add(frame.ordinal)
                    continue
            self.damaged.append((at, data[at : frame.end]))
        promised = header.sealed_events
        torn = bool(self.damaged) and self.damaged[-1][0] == self.end and promised is None
        self.tail = self.damaged[-1] if torn else None
        # Unsealed: a note of what became of an event tells that it was there, also where its record is gone.
        noted = outcomes[there:].rstrip(b"\0")
        told = there + len(noted) if SETTLED.issuperset(noted.replace(b"\0", b"")) else there
        self.count = told if promised is None else max(promised, there)
        self.unsealed = self.count != promised
        self.lost = [one for one in range(self.count) if outcomes[one] not in SETTLED and one not in readable]
        odd = [at for at, one in enumerate(outcomes) if one and one not in SETTLED]
        self.unknown = [one for one in odd if one not in set(self.lost)]
        # Else what is damaged was set aside and counted before: its bytes stay where they are.
        self.wrong = bool(self.lost or self.unknown or self.unsealed)


def _mend(folder: Folder, path: str, fd: int, found: _Found) -> list[Repair]:
    name, disk, header = path.rsplit("/", 1)[1], folder.disk, found.header
    done: list[Repair] = []
    for at, data in found.damaged:
        if not folder.set_aside(name, at, data.rstrip(b"\0")):
            return [*done, Repair(path, "left", 0, "its damaged bytes cannot be set aside: is the disk full?")]
    if found.lost:
        for ordinal in found.lost:
            disk.write(fd, bytes([Outcome.DAMAGED]), header.outcomes_at + ordinal)
        done.append(
            Repair(path, "set_aside", len(found.lost), f"damaged records are in {folder.bad}; counted as dropped")
        )
    for ordinal in found.unknown:
        disk.write(fd, b"\0", header.outcomes_at + ordinal)
    if found.unknown:
        done.append(Repair(path, "outcomes", 0, f"{len(found.unknown)} unknown outcomes: these events are sent again"))
    if found.unsealed:
        disk.write(fd, fmt.encode_seal(found.count, found.end), fmt.SEAL_AT)
        done.append(Repair(path, "sealed", 0, f"its writer is dead: {found.count} events"))
        disk.truncate(fd, found.end)
    if found.tail:
        said = f"half a record at {found.tail[0]:,}: its put never returned; kept in {folder.bad}"
        done.append(Repair(path, "cut", 0, said))
    disk.datasync(fd)  # after all of it: each of these stores may be there or not, and is made again
    return done


def _totals(folder: Folder) -> list[Repair]:
    """Begin the totals anew where they cannot be read; what they counted is lost, and the old bytes are kept."""
    path = f"{folder.path}/{totals.NAME}"
    if "unreadable" not in totals.read(folder):
        return []
    if because := totals.begin_anew(folder):
        return [Repair(path, "left", 0, because)]
    return [Repair(path, "totals", 0, f"begun anew; the old bytes are in {folder.bad}")]
