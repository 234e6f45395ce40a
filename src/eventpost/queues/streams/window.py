"""What somebody is shown who looks on: events as they come, what became of them, the newest dead letters.

A look costs what was put since the last one, up to a bound: of a storm only the newest are fetched.  An entry goes with
its last event, so what was put and delivered between two looks is not seen by either.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ...errors import QueueUnavailable, RedisUnusable
from .client import SCRIPTS, Command
from .inspect import Fleet, letter_in, seen_in
from .names import lane_key
from .shown import DeadLetter, Seen

LOOK_EVENTS_MAX: Final = 200
_ENTRIES: Final = 20
_LETTERS: Final = 50
_COUNTED: Final = 500
_START: Final = "0-0"


class Spot(NamedTuple):
    """Where an event lies: part, lane, entry, number in it, counted from 1."""

    shard: int
    lane: str
    entry: str
    number: int

    @classmethod
    def of(cls, id_: str) -> Spot:
        """Return what an id names.  Raises KeyError."""
        shard, _, rest = id_.partition(":")
        lane, _, rest = rest.partition(":")
        entry, _, number = rest.partition(":")
        if not (shard.isdecimal() and number.isdecimal() and lane.isalnum() and len(shard + number) < 20):
            raise KeyError(id_)
        _order(entry)
        return cls(int(shard), lane, entry, int(number))


def _order(entry: str) -> tuple[int, int]:
    """Return what an entry's id is sorted by.  Raises KeyError."""
    ms, _, serial = entry.partition("-")
    if not (ms.isdecimal() and serial.isdecimal() and len(entry) < 50):
        raise KeyError(entry)
    return int(ms), int(serial)


class FleetWindow(Fleet):
    """A fleet's queue for who looks again and again.  For several threads, but for ``Follower``."""

    def lanes(self) -> list[tuple[int, str]]:
        """Return the lanes of every part."""
        return [
            (shard, lane_key(_text(url)))
            for shard in range(self.shards())
            for url in self._ask(shard, ("HKEYS", self._key(shard, "digests")))[0]
        ]

    def newest(self, shard: int, lane: str, after: str, events_max: int) -> list[Seen]:
        """Return the newest events of a lane behind an entry, oldest first."""
        key = self._key(shard, f"s:{lane}")
        found: list[Seen] = []
        end = "+"
        while len(found) < events_max:
            (rows,) = self._ask(shard, ("XREVRANGE", key, end, f"({after}", "COUNT", _ENTRIES))
            if not rows:
                break
            asked: list[Command] = [("HMGET", self._key(shard, f"p:{lane}"), *[row[0] for row in rows])]
            asked += [("XPENDING", key, "g", row[0], row[0], 1) for row in rows]
            settled, *pending = self._ask(shard, *asked)
            for row, parts, held in zip(rows, settled, pending, strict=True):
                found += reversed(seen_in(shard, lane, row, parts or b"", _text(held[0][1]) if held else ""))
            end = f"({_text(rows[-1][0])}"
        return found[::-1]

    def states(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the states of events that are still there; of the others nobody knows more than that they are not."""
        by_shard: dict[int, dict[tuple[str, str], list[tuple[str, int]]]] = {}
        for id_ in ids:
            spot = Spot.of(id_)
            by_shard.setdefault(spot.shard, {}).setdefault((spot.lane, spot.entry), []).append((id_, spot.number))
        found: dict[str, str] = {}
        for shard, entries in by_shard.items():
            asked = [word for pair in entries for word in pair]
            (rows,) = self._ask(shard, (SCRIPTS["there"], 1, self._key(shard, "sum"), *asked))
            for (there, settled, holder), wanted in zip(rows, entries.values(), strict=True):
                for id_, number in wanted:
                    if there and settled[number - 1 : number] != b"1":
                        found[id_] = f"held by {_text(holder)}" if holder else "queued"
        return found

    def find(self, id_: str) -> Seen:
        """Return an event that is not settled.  Raises KeyError."""
        spot = Spot.of(id_)
        key = self._key(spot.shard, f"s:{spot.lane}")
        asked: list[Command] = [
            ("XRANGE", key, spot.entry, spot.entry),
            ("HGET", self._key(spot.shard, f"p:{spot.lane}"), spot.entry),
        ]
        rows, settled = self._ask(spot.shard, *asked)
        for row in rows:
            for seen in seen_in(spot.shard, spot.lane, row, settled or b"", ""):
                if seen.id == id_:
                    return seen
        raise KeyError(id_)

    # -- dead letters

    def newest_letters(self, before: str = "") -> Iterator[DeadLetter]:
        """Yield the dead letters, the newest of all parts first; ``before``: those behind this one in that order.

        Raises KeyError for what is no dead letter's id.
        """
        start = _letter_order(before) if before else None
        parts = [self._letters_of(shard, start) for shard in range(self.shards())]
        for _, letter in heapq.merge(*parts, key=lambda pair: pair[0], reverse=True):
            yield letter

    def _letters_of(
        self, shard: int, start: tuple[int, int, int] | None
    ) -> Iterator[tuple[tuple[int, int, int], DeadLetter]]:
        end = "+"
        if start is not None:
            at = f"{start[0]}-{start[1]}"
            end = at if shard < start[2] else f"({at}"
        while True:
            (rows,) = self._ask(shard, ("XREVRANGE", self._key(shard, "dead"), end, "-", "COUNT", _LETTERS))
            for row in rows:
                letter = letter_in(shard, row)
                if letter is not None:
                    yield (*_order(_text(row[0])), shard), letter
            if len(rows) < _LETTERS:
                return
            end = f"({_text(rows[-1][0])}"

    @staticmethod
    def check_letter_id(id_: str) -> None:
        """Raise KeyError for what can be no dead letter's id."""
        _letter_order(id_)

    def letter(self, id_: str) -> DeadLetter:
        """Return a dead letter.  Raises KeyError."""
        _, _, shard = _letter_order(id_)
        entry = id_.partition(":")[2]
        (rows,) = self._ask(shard, ("XRANGE", self._key(shard, "dead"), entry, entry))
        letter = letter_in(shard, rows[0]) if rows else None
        if letter is None:
            raise KeyError(id_)
        return letter

    def dead_by_reason(self) -> dict[str, int]:
        """Count the dead letters by reason, at the server."""
        total: Counter[str] = Counter()
        for shard in range(self.shards()):
            start = "-"
            while True:
                call = (SCRIPTS["reasons"], 1, self._key(shard, "sum"), start, _COUNTED)
                ((last, *pairs),) = self._ask(shard, call)
                for reason, count in zip(pairs[::2], pairs[1::2], strict=True):
                    total[_text(reason)] += int(count)
                if not last:
                    break
                start = f"({_text(last)}"
        return dict(total)

    # -- would it take events?

    def why_not(self, bytes_max: int | None) -> str | None:
        """Return why a put would be refused just now, in the ledger's word; None: it would not."""
        try:
            shards = self.shards()
            stored = sum(
                int(self._ask(shard, ("HGET", self._key(shard, "sum"), "b"))[0] or 0) for shard in range(shards)
            )
            if bytes_max is not None and stored >= bytes_max:
                return "queue_full"
            (info,) = self._ask(0, ("INFO", "memory"))
        except QueueUnavailable:
            return "redis_unavailable"
        except RedisUnusable:
            return "redis_unusable"
        told = _told(_text(info))
        bound = int(told.get("maxmemory", 0))
        return "redis_full" if bound and int(told.get("used_memory", 0)) >= bound else None


class Follower:
    """Events from look to look, of all parts.  Raises as :class:`FleetWindow`; for one thread at a time."""

    def __init__(self, window: FleetWindow) -> None:
        """Keep the argument; asks nothing."""
        self._window = window
        self._places: dict[tuple[int, str], str] = {}

    def look(self, last: int | None = None) -> list[Seen]:
        """Return what was put since the last look and is not settled, oldest first; the newest 200 of a lane at most.

        ``last``: only so many of the newest.
        """
        found: list[Seen] = []
        for shard, lane in self._window.lanes():
            after = self._places.setdefault((shard, lane), _START)
            new = self._window.newest(shard, lane, after, last or LOOK_EVENTS_MAX)
            if new:
                self._places[shard, lane] = Spot.of(new[-1].id).entry
            found += new
        found.sort(key=lambda seen: seen.at_s)
        return found if last is None else found[-last:]


def _letter_order(id_: str) -> tuple[int, int, int]:
    shard, _, entry = id_.partition(":")
    if not shard.isdecimal() or len(shard) > 4:
        raise KeyError(id_)
    return (*_order(entry), int(shard))


def _told(info: str) -> Mapping[str, str]:
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
