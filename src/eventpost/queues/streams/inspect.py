"""What people are shown of a queue from outside, over all its processes and machines; what is done to dead letters.

Nothing here claims an event.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from time import monotonic
from typing import Any, Final

from ...errors import QueueUnavailable, RedisUnusable
from ...transports.tls import find_authorities
from . import check
from .address import parse
from .client import SCRIPTS, Command, Fault, Login
from .count import Outcomes, read
from .entry import unpack
from .names import check_name, lane_key, prefix
from .route import Away, Denied, Route
from .server import FORMAT, remedy
from .shown import DeadLetter, FleetStatus, LaneStatus, Member, Seen, ShardStatus, as_dict

__all__ = ["DeadLetter", "Fleet", "FleetStatus", "LaneStatus", "Member", "Seen", "ShardStatus", "as_dict"]

_PAGE: Final = 100


class Fleet:
    """A queue seen from outside.  Each method asks the server anew, and raises QueueUnavailable while it is away.

    Args:
        url, name, username, password, ca: as of ``RedisStreamsQueue``.
        timeout_s: seconds that one question may take.

    Raises ValueError; RedisUnusable, from any method, where the server does not let us in or denies what is asked.
    """

    def __init__(
        self, url: str, *, name: str = "eventpost", username: str | None = None, password: str | None = None,
        ca: str | os.PathLike[str] | None = None, timeout_s: float = 5.0,
    ) -> None:  # fmt: skip
        address = parse(url, username=username, password=password)
        authorities = find_authorities(ca) if address.tls else None
        login = Login(
            username=address.username, password=address.password, database=address.database, authorities=authorities
        )
        sentinel = Login(username=None, password=address.sentinel_password, database=0, authorities=authorities)
        self._route = Route(address, login, sentinel, check_name(name))
        self._timeout_s = timeout_s

    @property
    def address(self) -> str:
        """Where it is; no user, no password."""
        return str(self._route.address)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._route.name

    def _ask(self, shard: int, *calls: Command) -> list[Any]:
        try:
            answers = self._route.ask(shard, calls, monotonic() + self._timeout_s)
        except Denied as denied:
            raise RedisUnusable(remedy(denied.fault)) from None
        except Away as away:
            raise QueueUnavailable(str(away), reason="redis_unavailable") from None
        for answer in answers:
            if isinstance(answer, Fault):
                raise RedisUnusable(remedy(answer))
        return answers

    def shards(self) -> int:
        """Return how many parts the queue has; 0: there is none of this name."""
        form, shards = self._ask(0, ("HMGET", self._key(0, "meta"), "format", "shards"))[0]
        if form is not None and int(form) > FORMAT:
            raise RedisUnusable(f"the queue is of format {int(form)}, made by a newer Eventpost: update this one")
        return int(shards or 0)

    def _key(self, shard: int, what: str) -> str:
        return prefix(self._route.name, shard) + what

    # -- the sum

    def status(self) -> FleetStatus:
        """Return the sum, who holds what, and how far behind each part is."""
        total = Outcomes()
        shards: list[ShardStatus] = []
        lanes: dict[str, list[LaneStatus]] = {}
        members: dict[str, list[Member]] = {}
        trouble = []
        for number in range(self.shards()):
            where = self._route.shown(number)
            try:
                answer = self._ask(number, (SCRIPTS["status"], 1, self._key(number, "sum")))[0]
            except QueueUnavailable as error:
                trouble.append(f"part {number}: {error}")
                shards.append(ShardStatus(number, where, trouble=str(error)))
                continue
            now_ms, pairs, _, *rows = answer
            said = read(pairs)
            total = _plus(total, said)
            ages = []
            waiting = 0
            for url, queued, entries, held, oldest, consumers in rows:
                age_s = max(0.0, (now_ms - _ms(oldest)) / 1000) if oldest else None
                ages += [] if age_s is None else [age_s]
                waiting += queued
                lanes.setdefault(_text(url), []).append(LaneStatus(_text(url), queued, entries, held, age_s))
                for name, pending, idle_ms in consumers:
                    members.setdefault(_text(name), []).append(Member(_text(name), pending, idle_ms / 1000))
            values = dict(zip(pairs[::2], pairs[1::2], strict=True))
            shards.append(
                ShardStatus(
                    number, where, queued=waiting, in_flight=said.queued - waiting, dead=said.dead,
                    stored_bytes=int(values.get(b"b", 0)), dead_bytes=int(values.get(b"xb", 0)),
                    oldest_age_s=max(ages, default=None),
                )
            )  # fmt: skip
        return FleetStatus(
            address=self.address, name=self.name, accepted=total.accepted, delivered=total.delivered,
            queued=sum(one.queued for one in shards), in_flight=sum(one.in_flight for one in shards),
            dead=total.dead, dropped={reason: events for reason, events in total.dropped.items() if events},
            stored_bytes=sum(one.stored_bytes for one in shards), dead_bytes=sum(one.dead_bytes for one in shards),
            oldest_age_s=max((one.oldest_age_s for one in shards if one.oldest_age_s is not None), default=None),
            lanes=[_one_lane(url, parts) for url, parts in lanes.items()], shards=shards,
            members=sorted(map(_one_member, members.values()), key=lambda one: -one.entries_held), trouble=trouble,
        )  # fmt: skip

    def servers(self) -> dict[str, check.Facts]:
        """Return what each server says of itself: version, append-only file, eviction, replicas."""
        found: dict[str, check.Facts] = {}
        for shard in range(max(1, self.shards())):
            where = self._route.shown(shard)
            if where not in found:
                try:
                    found[where] = check.read(self._route.ask(shard, check.QUESTIONS, monotonic() + self._timeout_s))
                except Away as away:
                    raise QueueUnavailable(str(away), reason="redis_unavailable") from None
                except ValueError as error:
                    raise RedisUnusable(str(error)) from None
        return found

    # -- events

    def tail(self, last: int | None = 10) -> list[Seen]:
        """Return the newest events that are not settled, oldest first; ``last`` None: all."""
        found: list[tuple[int, int, Seen]] = []
        order = count()
        for shard in range(self.shards()):
            for url in self._ask(shard, ("HKEYS", self._key(shard, "digests")))[0]:
                lane = lane_key(_text(url))
                seen = self._lane_tail(shard, lane, last)
                found += [(int(one.at_s * 1000), next(order), one) for one in seen]
        newest = sorted(found) if last is None else sorted(heapq.nlargest(last, found))
        return [one for _, _, one in newest]

    def _lane_tail(self, shard: int, lane: str, last: int | None) -> list[Seen]:
        key = self._key(shard, f"s:{lane}")
        seen: list[Seen] = []
        end = "+"
        while last is None or len(seen) < last:
            (rows,) = self._ask(shard, ("XREVRANGE", key, end, "-", "COUNT", _PAGE))
            if not rows:
                break
            ids = [row[0] for row in rows]
            asked: list[Command] = [("HMGET", self._key(shard, f"p:{lane}"), *ids)]
            asked += [("XPENDING", key, "g", one, one, 1) for one in ids]
            settled, *pending = self._ask(shard, *asked)
            for row, parts, held in zip(rows, settled, pending, strict=True):
                holder = _text(held[0][1]) if held else ""
                seen += reversed(seen_in(shard, lane, row, parts or b"", holder))
            end = f"({_text(ids[-1])}"
        return seen[::-1]

    # -- dead letters

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Yield the dead letters, part by part, oldest first; what can't be read is passed over."""
        for shard in range(self.shards()):
            start = "-"
            while True:
                (rows,) = self._ask(shard, ("XRANGE", self._key(shard, "dead"), start, "+", "COUNT", _PAGE))
                if not rows:
                    break
                for row in rows:
                    letter = letter_in(shard, row)
                    if letter is not None:
                        yield letter
                start = f"({_text(rows[-1][0])}"

    def retry_dead(self, ids: Iterable[str] | None, *, progress: Callable[[int], None] | None = None) -> int:
        """Put dead letters back into the queue, bytes and uuid unchanged (``ids`` None: all); returns how many.

        What somebody else retried or dropped meanwhile is passed over.  Raises KeyError for what is no dead letter's
        id, QueueUnavailable, also where the server's memory is full.
        """
        return self._change("retry", ids, progress)

    def discard_dead(self, ids: Iterable[str] | None, *, progress: Callable[[int], None] | None = None) -> int:
        """Drop dead letters, counted as dead_discarded (``ids`` None: all); returns how many.  As ``retry_dead``."""
        return self._change("discard", ids, progress)

    def _change(self, what: str, ids: Iterable[str] | None, progress: Callable[[int], None] | None) -> int:
        chosen = [one.id for one in self.dead_letters()] if ids is None else list(dict.fromkeys(ids))
        by_shard: dict[int, list[str]] = {}
        for one in chosen:
            shard, entry = _place(one)
            by_shard.setdefault(shard, []).append(entry)
        if ids is not None:
            self._must_be_there(by_shard)
        done = 0
        for shard, entries in by_shard.items():
            for first in range(0, len(entries), _PAGE):
                part = entries[first : first + _PAGE]
                try:
                    done += self._ask(shard, (SCRIPTS["letters"], 1, self._key(shard, "sum"), what, *part))[0]
                except RedisUnusable as error:
                    raise QueueUnavailable(str(error), reason="redis_full") from None
                if progress is not None:
                    progress(len(part))
        return done

    def _must_be_there(self, by_shard: dict[int, list[str]]) -> None:
        shards = self.shards()
        for shard, entries in by_shard.items():
            for entry in entries:
                key = self._key(shard, "dead")
                if shard >= shards or not self._ask(shard, ("XRANGE", key, entry, entry))[0]:
                    raise KeyError(f"{shard}:{entry}")

    def close(self) -> None:
        """Close the connections."""
        self._route.close()


def _plus(one: Outcomes, other: Outcomes) -> Outcomes:
    dropped = {
        reason: one.dropped.get(reason, 0) + other.dropped.get(reason, 0) for reason in {*one.dropped, *other.dropped}
    }
    return Outcomes(
        one.accepted + other.accepted, one.delivered + other.delivered, one.dead + other.dead, dropped
    )  # fmt: skip


def _one_lane(url: str, parts: Sequence[LaneStatus]) -> LaneStatus:
    ages = [one.oldest_age_s for one in parts if one.oldest_age_s is not None]
    queued, entries = sum(one.queued for one in parts), sum(one.entries for one in parts)
    return LaneStatus(url, queued, entries, sum(one.entries_held for one in parts), max(ages, default=None))


def _one_member(parts: Sequence[Member]) -> Member:
    return Member(parts[0].name, sum(one.entries_held for one in parts), min(one.idle_s for one in parts))


def seen_in(shard: int, lane: str, row: Sequence[Any], settled: bytes, holder: str) -> list[Seen]:
    """Return the events of an entry that are not settled."""
    values = _named(row[1])
    try:
        events = unpack(values.get(b"d", b""))
    except ValueError:
        return []
    entry, writer = _text(row[0]), _text(values.get(b"w", b""))
    return [
        Seen(f"{shard}:{lane}:{entry}:{at + 1}", event, _ms(row[0]) / 1000, holder, writer)
        for at, event in enumerate(events)
        if settled[at : at + 1] != b"1"
    ]


def letter_in(shard: int, row: Sequence[Any]) -> DeadLetter | None:
    """Return a dead letter; None: it can't be read."""
    values = _named(row[1])
    try:
        (event,) = unpack(values.get(b"d", b""))
        status, attempts = int(values.get(b"c", 0)), int(values.get(b"k", 0))
    except ValueError:
        return None
    return DeadLetter(
        id=f"{shard}:{_text(row[0])}", event=event, reason=_text(values.get(b"r", b"")), status=status,
        answer=_text(values.get(b"t", b"")), at_s=_ms(row[0]) // 1000, attempts=attempts,
        origin=f"{shard}:{_text(values.get(b'l', b''))}:{_text(values.get(b'o', b''))}",
        writer=_text(values.get(b"w", b"")),
    )  # fmt: skip


def _named(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _place(letter_id: str) -> tuple[int, str]:
    """Return the part and the entry that an id names.  Raises KeyError."""
    shard, _, entry = letter_id.partition(":")
    ms, _, serial = entry.partition("-")
    if not (shard.isdecimal() and ms.isdecimal() and serial.isdecimal()):
        raise KeyError(letter_id)
    return int(shard), entry


def _ms(entry_id: Any) -> int:
    return int(_text(entry_id).partition("-")[0])


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
