"""The fuzzing target ``journal``: a segment's bytes, damaged in every way that can be thought of.

An input is a whole segment.  The seeds are segments that a JournalQueue wrote: open, sealed, partly settled, with many
envelopes, with dead letters.  They are flipped, spliced, cut, doubled, shuffled; some get frames, headers or seals that
are wrong but carry a valid checksum.

The oracle: every reader ends, and raises nothing but what it documents.  What is handed out was written as an event,
unless a checksum was forged (told by a frame that holds and was never written).  Every event has one fate: handed out
once, settled before, or counted as damaged; when what was handed out is settled, the outcomes add up to the count that
goes into the folder's sum.  One input in a few hundred lies in a real folder and is adopted by a real JournalQueue,
whose sum, and the folder's, must close.  At the end a bit of every byte of the seeds is flipped, and each is cut at
every length.
"""

# ruff: noqa: D102 - the methods of a stand-in are those of what it stands for

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from eventpost.queues.journal import JournalQueue, dead, inspect, verify
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.cursor import Cursor, JournalLease

from .fuzz_segments import NAME, Seed, forge, make_seeds, mutate

REAL_OF = 500
"""One in so many inputs is adopted by a real queue."""
READS_MAX = 5_000
FULL_INPUTS_MIN = 100_000
PADDING_STEP = 64
ELSEWHERE = (fmt.Outcome.DEAD, fmt.Outcome.RETRIED)


class OneFile:
    """A Disk that holds one file, in memory; it refuses what the real one refuses."""

    mapped = True

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.maps: list[Window] = []

    def open(self, path: str, *, write: bool = True) -> int:
        del path, write
        return 3

    def close(self, fd: int) -> None:
        del fd

    def read(self, fd: int, length: int, at: int) -> bytes:
        del fd
        assert length >= 0, "a negative length"
        assert at >= 0, "a negative offset"
        return bytes(self.data[at : at + length])

    def size(self, path: str) -> int:
        del path
        return len(self.data)

    def fill_holes(self, fd: int, length: int) -> None:
        del fd
        assert length <= len(self.data), "it makes the file longer"

    def map(self, fd: int, length: int) -> Window:
        del fd
        if length > len(self.data):
            raise ValueError("mmap length is greater than file size")
        return Window(self.data, length)


class Window:
    """A mapping: slices are read and stored, and stay within it."""

    def __init__(self, data: bytearray, length: int) -> None:
        self._data = data
        self._length = length

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(self._length)
        return bytes(self._data[start:stop])

    def __setitem__(self, key: slice, value: bytes) -> None:
        start, stop, _ = key.indices(self._length)
        if stop - start != len(value):
            raise IndexError("mmap slice assignment is wrong size")
        self._data[start:stop] = value

    def close(self) -> None:
        """Nothing holds it."""


class JournalTarget:
    """See the module."""

    name = "journal"
    must_meet = (
        "header refused", "newer format", "events handed out", "whole", "damaged events", "torn tail", "settled before",
        "forged", "letters", "a real folder", "bytes flipped, and lengths cut",
    )  # fmt: skip

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()
        self._number = 0

    def __enter__(self) -> JournalTarget:
        self._folder = Path(tempfile.mkdtemp(prefix="eventpost-fuzz-"))
        self._seeds: list[Seed] = make_seeds(self._folder)
        self._written = {payload for seed in self._seeds for payload in seed.payloads}
        self._frames = {frame for seed in self._seeds for frame in seed.frames}
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def make(self, chance: Random) -> bytes:
        """Return a seed, changed a few times."""
        data = bytearray(chance.choice(self._seeds).data)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            if chance.random() < 0.2:
                forge(data, chance)
            else:
                mutate(data, chance, self._seeds)
        return bytes(data)

    def check(self, data: bytes) -> None:
        """Read it in every way there is."""
        self._number += 1
        disk = OneFile(data)
        folder: Any = SimpleNamespace(
            disk=disk, segments="segments", dead="dead", is_alive=lambda writer: writer == "nobody"
        )
        forged = self._is_forged(data)
        self.met["forged"] += forged
        self._look(folder, forged=forged)
        disk = OneFile(data)
        try:
            cursor = Cursor(disk, f"segments/{NAME}", alive=lambda: False, on_damage=self._damaged)  # type: ignore[arg-type]  # the part of a Disk that is asked
        except fmt.NewerFormat:
            self.met["newer format"] += 1
        except fmt.BadHeader:
            self.met["header refused"] += 1
        else:
            self._read(cursor, data, forged=forged)
        if self._number % REAL_OF == 1:
            self._adopt(data)

    def _is_forged(self, data: bytes) -> bool:
        """Tell whether a frame holds that nobody wrote."""
        header = _header(data)
        if header is None:
            return False
        for _, frame, _ in dead.walk(data, header.records_at):
            if frame is not None and frame._replace(end=0) not in self._frames:
                return True
        return False

    def _damaged(self, cursor: Cursor, at: int, data: bytes, lost: int, why: str) -> None:
        assert cursor.name == NAME
        assert at >= 0
        assert lost >= 0
        assert isinstance(data, bytes)
        self.lost += lost
        self.met["damaged events"] += lost > 0
        self.met["torn tail"] += why.startswith("torn")

    def _read(self, cursor: Cursor, data: bytes, *, forged: bool) -> None:
        """Drain it as a sender does, and add up."""
        header = cursor.header
        before = data[header.outcomes_at : header.records_at]
        leases: list[JournalLease] = []
        self.lost = 0
        step = 1 + self._number % 7
        for _ in range(READS_MAX):
            cursor.unread()
            cursor.has_more()
            cursor.read(step, 1 << (self._number % 14), 0.0, leases, lambda envelope: envelope)
            if cursor.ended:
                break
        assert cursor.ended, "it never ends"
        ordinals = [lease.ordinal for lease in leases]
        assert len(set(ordinals)) == len(ordinals), "an event was handed out twice"
        assert ordinals == sorted(ordinals)
        assert not forged or all(ordinal < header.events_max for ordinal in ordinals)
        for lease in leases:
            assert before[lease.ordinal] not in fmt.SETTLED, "an event that was settled was handed out"
            assert forged or lease.event.payload in self._written, "what was handed out was never written"
        settled = sum(before[ordinal] in fmt.SETTLED for ordinal in range(min(cursor.ordinal, header.events_max)))
        if cursor.ordinal <= header.events_max:
            assert len(leases) + settled + self.lost == cursor.ordinal, (
                len(leases),
                settled,
                self.lost,
                cursor.ordinal,
            )
        if cursor.header.sealed_events is not None:
            assert cursor.ordinal >= cursor.header.sealed_events or forged, "sealed events without a fate"
        for ordinal in ordinals:
            cursor.mark(range(ordinal, ordinal + 1), fmt.Outcome.DELIVERED)
        total = sum(cursor.outcomes().values())
        assert total == cursor.ordinal, (
            f"{total} outcomes for {cursor.ordinal} events: the folder's sum would not close"
        )
        self.met["events handed out"] += bool(leases)
        self.met["settled before"] += settled > 0
        self.met["whole"] += bool(leases) and not self.lost
        cursor.close()

    def _look(self, folder: Any, *, forged: bool) -> None:
        """Read it in one of the ways of the command line; they raise OSError or ValueError at most."""
        way = self._number % 3
        if way == 2:
            verify._verify_segment(folder, f"segments/{NAME}", alive=False)
            return
        try:
            if way == 0:
                payloads = [seen.event.payload for seen in inspect.events(folder, NAME)]
            else:
                payloads = [letter.event.payload for _, letter in dead.letters(folder, NAME)]
                self.met["letters"] += bool(payloads)
        except ValueError:
            return
        assert forged or self._written.issuperset(payloads), "what is shown was never written"

    def _adopt(self, data: bytes) -> None:
        """Let a real queue find it."""
        path = self._folder / f"real{self._number}"
        (path / "segments").mkdir(parents=True)
        (path / "segments" / NAME).write_bytes(data)
        queue = JournalQueue(path, sync_interval_s=0, scan_interval_s=0.01)
        try:
            queue.scan()
            for lane in queue.lanes():
                for _ in range(READS_MAX):
                    leases = queue.claim(lane, 5, 1 << 20)
                    if not leases:
                        break
                    queue.ack(leases)
                    assert closes(queue.stats()), queue.stats()
            queue.tend()
            stats = queue.stats()
            assert closes(stats), stats
            assert stats.queued == stats.in_flight == 0, stats
        finally:
            queue.close()
        status = inspect.folder_status(path)
        header = _header(data)
        # What was put back or set aside is counted where its counterpart lies, which is not here.
        elsewhere = header is not None and (header.retry or any(one in _outcomes(header, data) for one in ELSEWHERE))
        assert status.closes or status.newer or status.trouble or elsewhere, status
        (path / "dead" / NAME).write_bytes(data)
        letters = list(inspect.dead_letters(path))
        assert inspect.retry_dead(path, [letter.id for letter in letters[::2]]) <= len(letters)
        inspect.discard_dead(path, None)
        inspect.verify(path)
        inspect.folder_status(path)
        self.met["a real folder"] += 1
        shutil.rmtree(path)

    def finish(self, inputs: int) -> None:
        """Flip a bit of every byte, and cut at every length: of each seed; in a short run, of a part of one."""
        full = inputs >= FULL_INPUTS_MIN
        for seed in self._seeds if full else self._seeds[:1]:
            for at in range(len(seed.data)):
                if not full and not seed.data[at] and at % PADDING_STEP:
                    continue  # most of it is padding
                flipped = bytearray(seed.data)
                flipped[at] ^= 1 << at % 8
                try:
                    self.check(bytes(flipped))
                    self.check(seed.data[:at])
                except Exception as error:
                    raise AssertionError(f"a bit flipped at byte {at}, or cut there: {error!r}") from error
                self.met["bytes flipped, and lengths cut"] += 1


def closes(stats: Any) -> bool:
    """Tell whether the sum holds."""
    settled = stats.delivered + stats.dead + sum(stats.dropped.values())
    return bool(stats.accepted == settled + stats.queued + stats.in_flight)


def _outcomes(header: fmt.Header, data: bytes) -> bytes:
    return data[header.outcomes_at : header.records_at]


def _header(data: bytes) -> fmt.Header | None:
    try:
        return fmt.decode_header(data[: fmt.header_bytes_wanted(data[: fmt.PAGE_BYTES])])
    except ValueError:
        return None
