"""The claiming side: what this process has in hand, and what it asks of the server for it.

All of it belongs to one lock, which no put ever takes.  An entry is in ``held`` while any of its events is not settled
and the server has it pending for this process, as far as is known.  ``sure_until`` says how far that is: half a lease
from the moment before it was last confirmed.  Later, or once the server was told that others may take it, a script is
asked before an event of it is handed out again.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final

from ...clock import Clock
from ...errors import QueueUnavailable
from ...sender.primitives import RLock, get_ident
from ...watch.signals import Signal, Trouble
from ..protocol import Answer, Lease
from .client import SCRIPTS, Command, Fault
from .entry import pack, unpack
from .held import LEASED, READY, SETTLED, WAITING, Held, Ident, Lane, StreamsLease
from .names import lane_key, prefix
from .route import Away, Route
from .server import Server

_AT_ONCE_MAX: Final = 500
"""Entries in one script call: the server does nothing else meanwhile."""
_SWEEP_COUNT: Final = 16
_HOARD_MAX: Final = 64
"""Entries of others in hand, of one lane, beyond which no more are taken over."""
boot_s: Callable[[], float] = (
    (lambda: time.clock_gettime(time.CLOCK_BOOTTIME)) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds that also pass while the machine sleeps: leases end on the server then, too."""


class Claims:
    """Leases, and what came of those that others had put."""

    def __init__(
        self, route: Route, server: Server, clock: Clock, *, lease_s: float, timeout_s: float,
        dead_bytes_max: int | None, dead_age_max_s: float | None, emit: Callable[[Signal], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; asks nothing."""
        self._route = route
        self._server = server
        self._clock = clock
        self._lease_s = lease_s
        self._timeout_s = timeout_s
        self._dead_bytes_max = dead_bytes_max
        self.dead_age_max_s = dead_age_max_s
        self._emit = emit
        self.reset("", deque())

    def reset(self, writer: str, arrived: deque[tuple[int, str, int]]) -> None:
        """Start from nothing, as another consumer; ``arrived``: what is put here, to be taken note of."""
        self.lock = RLock()
        self.writer = writer
        self.closed = False
        self.claimer: int | None = None
        self.lanes: dict[str, Lane] = {}
        self.held: dict[Ident, Held] = {}
        self.in_flight_own = self.in_flight_adopted = 0
        self.adopted_delivered = self.adopted_dead = 0
        self.adopted_dropped: dict[str, int] = {}
        self.adopted_in_hand = 0
        """Events of others in hand and not settled, what is in flight included."""
        self._to_tell: dict[Ident, Held] = {}
        self._arrived = arrived
        self._ids = itertools.count()

    # -- what there is

    def lane(self, url: str) -> Lane:
        """Return an endpoint's lane, made if it is new."""
        found = self.lanes.get(url)
        if found is None:
            found = self.lanes.setdefault(url, Lane(url, lane_key(url)))
        return found

    def take_note(self) -> None:
        """Take note of what was put here since; under the lock."""
        while self._arrived:
            try:
                shard, url, events = self._arrived.popleft()
            except IndexError:
                return
            waiting = self.lane(url).waiting
            waiting[shard] = waiting.get(shard, 0) + events

    def pending(self, url: str) -> int:
        """Return about how many events could be claimed now."""
        with self.lock:
            self.take_note()
            lane = self.lanes.get(url)
            if lane is None:
                return 0
            asked = [shard for shard in lane.waiting if not self._route.away_for_s(shard)]
            if not asked and self._route.away_for_s(self._server.home):
                return 0  # nothing is handed out that can't be settled
            return lane.in_hand(self._clock.monotonic()) + sum(lane.waiting[shard] for shard in asked)

    def next_due_s(self) -> float | None:
        """Return the seconds until the next of those that were given back is due."""
        with self.lock:
            dues = [due for lane in list(self.lanes.values()) if (due := lane.next_due()) is not None]
        return max(0.0, min(dues) - self._clock.monotonic()) if dues else None

    # -- claim

    def claim(self, url: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Lease events: what was given back and is due, then what is in hand, then what the server has."""
        with self.lock:
            self.take_note()
            lane = self.lanes.get(url)
            if lane is None or self.closed:
                return []
            self.claimer = get_ident()
            leases: list[Lease] = []
            size = self._hand_out(lane, leases, events_max, bytes_max, 0)
            if len(leases) < events_max and size < bytes_max and any(lane.waiting.values()):
                self._fetch(lane, events_max - len(leases), bytes_max - size)
                self._hand_out(lane, leases, events_max, bytes_max, size)
            return leases

    def _hand_out(self, lane: Lane, leases: list[Lease], events_max: int, bytes_max: int, size: int) -> int:
        """Lease what is in hand; returns the bytes of all that is leased in this claim."""
        now, claimed_at = boot_s(), self._clock.monotonic()
        unsure: dict[Ident, Held] = {}
        looked_at = 0
        for due, _, held, at in sorted(lane.again)[: events_max * 2]:
            if due > claimed_at or looked_at >= events_max:
                break
            if held.states[at] == WAITING:
                looked_at += 1
                if held.told or held.sure_until <= now:
                    unsure[held.ident] = held
        for held, at in itertools.islice(lane.ready, max(0, events_max - looked_at)):
            if held.states[at] == READY and (held.told or held.sure_until <= now):
                unsure[held.ident] = held
        if unsure and not self.confirm(list(unsure.values())):
            return size  # nobody can be asked just now
        while lane.again and lane.again[0][0] <= claimed_at and len(leases) < events_max and size < bytes_max:
            _, _, held, at = lane.again[0]
            if held.states[at] == WAITING:
                if held.told or held.sure_until <= now:
                    break
                size += self._lease(held, at, leases, claimed_at)
            heapq.heappop(lane.again)
        while lane.ready and len(leases) < events_max and size < bytes_max:
            held, at = lane.ready[0]
            if held.states[at] == READY:
                if held.told or held.sure_until <= now:
                    break
                size += self._lease(held, at, leases, claimed_at)
            lane.ready.popleft()
        return size

    def _lease(self, held: Held, at: int, leases: list[Lease], now: float) -> int:
        event = held.events[at]
        lease = StreamsLease(event, (held, at), now, held.attempts.get(at, 0) + 1)
        held.states[at] = LEASED
        held.leases[at] = lease
        if held.own:
            self.in_flight_own += 1
        else:
            self.in_flight_adopted += 1
        leases.append(lease)
        return len(event.payload)

    def _fetch(self, lane: Lane, events: int, size: int) -> None:
        """Claim on the server, from as many parts as it takes by what is known of them."""
        asked: list[tuple[int, list[Command]]] = []
        left = events
        for shard in self._in_turn(lane):
            if left <= 0:
                break
            asked.append((shard, [self._claim(lane, shard, left, size)]))
            left -= lane.waiting[shard]
        self._take(lane, asked)

    def _in_turn(self, lane: Lane) -> list[int]:
        shards = [shard for shard, events in lane.waiting.items() if events > 0 and not self._route.away_for_s(shard)]
        if shards:  # the next claim begins with another part
            first = shards[0]
            lane.waiting[first] = lane.waiting.pop(first)
        return shards

    def _claim(self, lane: Lane, shard: int, events: int, size: int, others: int = 0, *ids: str) -> Command:
        idle_ms = int(self._lease_s * 1000)
        return (
            SCRIPTS["claim"], 1, self.key(shard), self.writer, lane.key, lane.url, events, size, idle_ms, others,
            *ids,
        )  # fmt: skip

    def sweep(self) -> None:
        """Take over what others let go of, a few entries of each lane, where there are not too many in hand."""
        for lane in list(self.lanes.values()):
            if len(lane.ready) >= _HOARD_MAX or len(lane.again) >= _HOARD_MAX:
                continue
            shards = [shard for shard in range(self._server.shards) if not self._route.away_for_s(shard)]
            idle = self._take(lane, [(at, [self._claim(lane, at, 0, 0, _SWEEP_COUNT)]) for at in shards], swept=True)
            # An answer to a claim was lost: they are this process's, and it does not know.
            lost = [(at, [one for one in ids if (at, lane.key, one) not in self.held]) for at, ids in idle]
            self._take(lane, [(at, [self._claim(lane, at, 0, 0, 0, *ids)]) for at, ids in lost if ids], swept=True)

    def _take(
        self, lane: Lane, asked: list[tuple[int, list[Command]]], *, swept: bool = False
    ) -> list[tuple[int, list[str]]]:
        """Take into hand what a claim brings; returns, by part, which entries of this process's own are idle."""
        idle = []
        sure_until = boot_s() + self._lease_s / 2
        for (shard, _), answers in zip(asked, self._ask(asked), strict=True):
            if isinstance(answers, Away):
                continue
            (answer,) = answers
            if isinstance(answer, Fault):
                self._emit(Trouble("redis", f"events could not be claimed: {answer}"))
                continue
            idle.append((shard, [_text(one) for one in answer[0]]))
            if not swept:
                lane.waiting[shard] = int(answer[1])
            for one in answer[2:]:
                self._add(lane, shard, one, sure_until)
        return idle

    def _add(self, lane: Lane, shard: int, row: Sequence[Any], sure_until: float) -> None:
        """Take an entry into hand."""
        entry_id, writer, data = _text(row[0]), _text(row[1]), row[3]
        known = self.held.get((shard, lane.key, entry_id))
        if known is not None:  # let go of, and taken over again by ourselves
            known.sure_until, known.told = sure_until, False
            return
        try:
            events = unpack(data, int(row[2]))
        except ValueError as error:
            self._damaged(lane, shard, row, str(error))
            return
        held = Held(
            shard, lane.url, lane=lane.key, entry_id=entry_id, writer=writer, events=events, size=len(data),
            own=writer == self.writer, settled=row[4], sure_until=sure_until,
        )  # fmt: skip
        self.held[held.ident] = held
        if not held.own:
            self.adopted_in_hand += held.left
        lane.ready.extend([(held, at) for at in range(len(events)) if held.states[at] == READY])

    def _damaged(self, lane: Lane, shard: int, row: Sequence[Any], why: str) -> None:
        """Give up an entry that is none of ours, or was changed: it is counted, and the rest goes on."""
        call = (
            SCRIPTS["settle"], 1, self.key(shard), "-damaged", lane.key, row[0], row[1], int(row[2]), len(row[3]), "",
        )  # fmt: skip
        self._ask([(shard, [call])])
        if _text(row[1]) != self.writer:
            self.adopted_dropped["damaged"] = self.adopted_dropped.get("damaged", 0) + int(row[2])
        self._emit(Trouble("redis", f"entry {_text(row[0])} of part {shard} cannot be read ({why}): it is dropped"))

    # -- what became of them

    def ack(self, leases: Sequence[Lease]) -> None:
        """Note that events are delivered, whoever holds them now.  Raises QueueUnavailable if nobody could be told."""
        with self.lock:
            by_entry: dict[Ident, tuple[Held, list[int]]] = {}
            for lease in leases:
                held, at = self._place(lease)
                if held.states[at] != SETTLED or held.lost:
                    numbers = by_entry.setdefault(held.ident, (held, []))[1]
                    if at not in numbers:
                        numbers.append(at)
            if by_entry:
                self._settle(list(by_entry.values()))

    def _place(self, lease: Lease) -> tuple[Held, int]:
        """Return the entry that a lease is of, as it is in hand now if it is, and the event's number."""
        held, at = lease.ref
        return self.held.get(held.ident, held), at

    def _settle(self, of: list[tuple[Held, list[int]]]) -> None:
        asked: list[tuple[int, list[Command]]] = []
        parts: list[list[tuple[Held, list[int]]]] = []
        by_shard: dict[int, list[tuple[Held, list[int]]]] = {}
        for held, numbers in of:
            by_shard.setdefault(held.shard, []).append((held, numbers))
        for shard, mine in by_shard.items():
            for first in range(0, len(mine), _AT_ONCE_MAX):
                part = mine[first : first + _AT_ONCE_MAX]
                call: list[Any] = [SCRIPTS["settle"], 1, self.key(shard), "d"]
                for held, numbers in part:
                    call += [held.lane, held.id, held.writer, len(held.events), held.size, held.which(numbers)]
                asked.append((shard, [tuple(call)]))
                parts.append(part)
        failed: str | None = None
        for part, answers in zip(parts, self._ask(asked), strict=True):
            if isinstance(answers, Away) or isinstance(answers[0], Fault):
                failed = str(answers if isinstance(answers, Away) else answers[0])
                continue
            for (held, numbers), fresh in zip(part, answers[0], strict=True):
                in_hand = held.ident in self.held
                if not held.own:
                    self.adopted_delivered += int(fresh)
                for at in numbers:
                    self._settled(held, at, in_hand=in_hand)
        if failed is not None:
            raise QueueUnavailable(f"what is delivered could not be noted: {failed}", reason="redis_unavailable")

    def _settled(self, held: Held, at: int, *, in_hand: bool) -> None:
        if held.states[at] == SETTLED:
            return
        if held.states[at] == LEASED:
            self._landed(held)
        held.settle(at)
        if in_hand and not held.own:
            self.adopted_in_hand -= 1
        if not held.left:
            self._let_go(held)

    def _landed(self, held: Held) -> None:
        if held.own:
            self.in_flight_own -= 1
        else:
            self.in_flight_adopted -= 1

    def _let_go(self, held: Held) -> None:
        self.held.pop(held.ident, None)
        self._to_tell.pop(held.ident, None)

    def release(self, leases: Sequence[Lease], delay_s: float) -> None:
        """Give events back; the server is told with the next look."""
        with self.lock:
            due = self._clock.monotonic() + delay_s
            for lease in leases:
                held, at = lease.ref
                if not lease.live or held.leases.get(at) is not lease:
                    continue
                lease.live = False
                del held.leases[at]
                held.states[at] = WAITING
                held.attempts[at] = lease.attempts
                held.due = max(held.due, due)
                self._landed(held)
                heapq.heappush(self.lane(held.url).again, (due, next(self._ids), held, at))
                self._to_tell[held.ident] = held

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None) -> None:
        """Make dead letters of them.  What is somebody else's by now stays that.  Raises QueueUnavailable."""
        with self.lock:
            by_shard: dict[int, list[tuple[Held, int, Lease]]] = {}
            for lease in leases:
                held, at = lease.ref
                if lease.live and held.leases.get(at) is lease:
                    by_shard.setdefault(held.shard, []).append((held, at, lease))
            said = answer or Answer()
            asked: list[tuple[int, list[Command]]] = []
            for shard, mine in by_shard.items():
                call: list[Any] = [
                    SCRIPTS["bury"], 1, self.key(shard), self.writer, reason, said.status, said.body[:1024],
                    *self.dead_bounds(),
                ]  # fmt: skip
                for held, at, lease in mine:
                    call += [
                        held.lane, held.url, held.id, held.writer, len(held.events), held.size, at + 1, lease.attempts,
                        pack([held.events[at]]),
                    ]  # fmt: skip
                asked.append((shard, [tuple(call)]))
            failed: str | None = None
            for mine, answers in zip(by_shard.values(), self._ask(asked), strict=True):
                if isinstance(answers, Away) or isinstance(answers[0], Fault):
                    failed = str(answers if isinstance(answers, Away) else answers[0])
                    continue
                for (held, at, _), done in zip(mine, answers[0], strict=True):
                    if done:
                        self.adopted_dead += not held.own
                        self._settled(held, at, in_hand=True)
                    else:
                        self._lost(held)
            if failed is not None:
                raise QueueUnavailable(f"a dead letter could not be stored: {failed}", reason="redis_unavailable")

    def dead_bounds(self) -> tuple[str, str]:
        """Return the bounds of one part's dead letters, as the scripts want them."""
        share = "" if self._dead_bytes_max is None else str(max(1, self._dead_bytes_max // self._server.shards))
        return share, "" if self.dead_age_max_s is None else str(int(self.dead_age_max_s))

    def _lost(self, held: Held) -> None:
        """Note that an entry is somebody else's, or gone."""
        if self.held.get(held.ident) is not held:
            return
        self.in_flight_own -= len(held.leases) if held.own else 0
        self.in_flight_adopted -= 0 if held.own else len(held.leases)
        if not held.own:
            self.adopted_in_hand -= held.left
        self._let_go(held)
        held.lose()

    # -- what the server is told

    def confirm(self, of: Sequence[Held], idle_ms: Callable[[Held], int] = lambda _: 0) -> bool:
        """Ask which entries are still this process's, and set how long they count as idle; False: nobody answered."""
        asked: list[tuple[int, list[Command]]] = []
        parts: list[list[tuple[Held, int]]] = []
        by_shard: dict[int, list[tuple[Held, int]]] = {}
        for held in of:
            by_shard.setdefault(held.shard, []).append((held, idle_ms(held)))
        for shard, mine in by_shard.items():
            for first in range(0, len(mine), _AT_ONCE_MAX):
                part = mine[first : first + _AT_ONCE_MAX]
                call: list[Any] = [SCRIPTS["hold"], 1, self.key(shard), self.writer]
                for held, idle in part:
                    call += [held.lane, held.id, idle]
                    held.told = held.told or idle > 0
                asked.append((shard, [tuple(call)]))
                parts.append(part)
        sure_until = boot_s() + self._lease_s / 2
        answered = True
        for part, answers in zip(parts, self._ask(asked), strict=True):
            if isinstance(answers, Away) or isinstance(answers[0], Fault):
                answered = False
                continue
            for (held, idle), still_mine in zip(part, answers[0], strict=True):
                if not still_mine:
                    self._lost(held)
                elif not idle:
                    held.sure_until, held.told = sure_until, False
        return answered

    def _idle_ms(self, held: Held) -> int:
        """Return how idle an entry is to look: not at all in flight, a whole lease when others may take it."""
        if held.leases:
            return 0
        lease_ms = int(self._lease_s * 1000)
        return max(0, lease_ms - int(max(0.0, held.due - self._clock.monotonic()) * 1000))

    def tell(self) -> None:
        """Say of what was given back, as far as nothing of it is in flight, when others may take it."""
        if self._to_tell and self.confirm([one for one in self._to_tell.values() if not one.leases], self._idle_ms):
            self._to_tell.clear()  # what is in flight comes here again when it is given back

    def renew(self) -> None:
        """Keep what is in flight, or waits for a time that has not come."""
        now = self._clock.monotonic()
        self.confirm([held for held in list(self.held.values()) if held.leases or held.due > now], self._idle_ms)

    def know_waiting(self, shard: int, waiting: Iterable[tuple[str, int]]) -> None:
        """Take note of what a look found; under the lock, after ``take_note``."""
        for lane in self.lanes.values():
            lane.waiting[shard] = 0
        for url, events in waiting:
            self.lane(url).waiting[shard] = max(0, events)

    def close(self) -> None:
        """Hand nothing out any more, and forget what is in hand."""
        for held in list(self.held.values()):
            self._lost(held)
        self.lanes.clear()
        self.closed = True

    def key(self, shard: int) -> str:
        """Return the key that a part's scripts are called with."""
        return prefix(self._route.name, shard) + "sum"

    def _ask(self, asked: list[tuple[int, list[Command]]]) -> list[list[Any] | Away]:
        return self._route.ask_all(asked, monotonic() + self._timeout_s) if asked else []


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
