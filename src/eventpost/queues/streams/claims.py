"""Claiming: what was given back and is due, then what is in hand, then what the server has."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...clock import Clock
from ...sender.primitives import get_ident
from ...watch.signals import Signal, Trouble
from ..protocol import Lease
from .client import SCRIPTS, Command, Fault
from .entry import unpack
from .hand import Hand
from .held import LEASED, READY, WAITING, Held, Lane, StreamsLease
from .holding import Holding, boot_s
from .names import GROUP, prefix
from .route import Away, Route
from .server import Server

_SWEEP_COUNT: Final = 16
_OTHERS_MAX: Final = 256
_HOARD_MAX: Final = 64
"""Events in hand, of one lane, beyond which others' entries are taken over when they are claimed, and not before."""
_WANTED_AT: Final = 6
_OTHERS_AT: Final = 9
"""Where a claim's call has how many events and how many of others' entries it wants."""
_SETTLED: Final = b"1"
_LOST_MAX: Final = 1000


class Claims:
    """The claiming side; what it changes is in ``hand``, under its lock."""

    def __init__(
        self, route: Route, server: Server, hand: Hand, holding: Holding, clock: Clock, *,
        emit: Callable[[Signal], None],
    ) -> None:  # fmt: skip
        """Keep the arguments; asks nothing."""
        self._route = route
        self._server = server
        self._hand = hand
        self._holding = holding
        self._clock = clock
        self._emit = emit
        self._torn = 0

    def pending(self, url: str) -> int:
        """Return about how many events could be claimed now."""
        with self._hand.lock:
            self._hand.take_note()
            lane = self._hand.lanes.get(url)
            if lane is None:
                return 0
            waiting = sum([events for at, events in lane.waiting.items() if not self._route.away_for_s(at)])
            left_behind = len([at for at in lane.left_behind if not self._route.away_for_s(at)])
            in_hand = lane.in_hand(self._clock.monotonic())
            if in_hand and not waiting and self._route.away_for_s(self._server.home):
                in_hand = 0  # whether it still is this process's can't be asked just now
            return in_hand + waiting + left_behind

    def next_due_s(self) -> float | None:
        """Return the seconds until the next of those that were given back is due."""
        with self._hand.lock:
            dues = [due for lane in list(self._hand.lanes.values()) if (due := lane.next_due()) is not None]
        return max(0.0, min(dues) - self._clock.monotonic()) if dues else None

    def claim(self, url: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Lease events: what was given back and is due, then what is in hand, then what the server has."""
        with self._hand.lock:
            self._hand.take_note()
            lane = self._hand.lanes.get(url)
            if lane is None or self._hand.closed:
                return []
            self._hand.claimer = get_ident()
            leases: list[Lease] = []
            size = self._hand_out(lane, leases, events_max, bytes_max, 0)
            if len(leases) < events_max and size < bytes_max and (lane.left_behind or any(lane.waiting.values())):
                self._fetch(lane, events_max - len(leases), bytes_max - size)
                self._hand_out(lane, leases, events_max, bytes_max, size)
            return leases

    def _hand_out(self, lane: Lane, leases: list[Lease], events_max: int, bytes_max: int, size: int) -> int:
        """Lease what is in hand; returns the bytes of all that is leased in this claim."""
        now = self._clock.monotonic()
        again, ready = lane.due(now, events_max - len(leases)), deque[tuple[Held, int]]()
        while lane.ready and len(again) + len(ready) < events_max - len(leases):
            held, at = lane.ready.popleft()
            if held.states[at] == READY:
                ready.append((held, at))
        self._make_sure([*((row[2], row[3]) for row in again), *ready])
        kept = deque(again)
        while kept and len(leases) < events_max and size < bytes_max and self._is_sure(kept[0][2]):
            _, _, held, at = kept.popleft()
            if held.states[at] == WAITING:
                size += self._lease(held, at, leases, now)
        while ready and not kept and len(leases) < events_max and size < bytes_max and self._is_sure(ready[0][0]):
            held, at = ready.popleft()
            if held.states[at] == READY:
                size += self._lease(held, at, leases, now)
        for row in kept:
            heapq.heappush(lane.again, row)
        lane.ready.extendleft(reversed(ready))
        return size

    def _is_sure(self, held: Held) -> bool:
        """Tell whether nobody else can have it; of what is somebody else's, nothing is handed out anyway."""
        return held.lost or (not held.told and held.sure_until > boot_s())

    def _make_sure(self, events: Sequence[tuple[Held, int]]) -> None:
        """Ask about those of which it is not known by now; what is not answered stays unsure."""
        unsure = {held.ident: held for held, _ in events if not self._is_sure(held)}
        if unsure:
            self._holding.confirm(list(unsure.values()))

    def _lease(self, held: Held, at: int, leases: list[Lease], now: float) -> int:
        event = held.events[at]
        lease = StreamsLease(event, (held, at), now, held.attempts.get(at, 0) + 1)
        held.states[at] = LEASED
        held.leases[at] = lease
        self._hand.leased(held)
        leases.append(lease)
        return len(event.payload)

    def _fetch(self, lane: Lane, events: int, size: int) -> None:
        """Claim on the server, from as many parts as it takes by what is known of them."""
        asked: list[tuple[int, list[Command]]] = []
        left = events
        for shard in self._in_turn(lane):
            if left <= 0:
                break
            others = min(_OTHERS_MAX, left) if shard in lane.left_behind else 0
            asked.append((shard, [self._claim(lane, shard, left, size, others)]))
            left -= max(others, lane.waiting.get(shard, 0))
        self._take(lane, asked)

    def _in_turn(self, lane: Lane) -> list[int]:
        shards = [at for at in {**lane.waiting, **dict.fromkeys(lane.left_behind)} if lane.has(at)]
        shards = [at for at in shards if not self._route.away_for_s(at)]
        if shards and shards[0] in lane.waiting:  # the next claim begins with another part
            lane.waiting[shards[0]] = lane.waiting.pop(shards[0])
        return shards

    def _claim(self, lane: Lane, shard: int, events: int, size: int, others: int, *ids: str) -> Command:
        return (
            SCRIPTS["claim"], 1, self._holding.key(shard), self._hand.writer, lane.key, lane.url, events, size,
            self._holding.lease_ms, others, *ids,
        )  # fmt: skip

    def sweep(self) -> None:
        """Look for what others let go of; take over a few entries of each lane, and note where there are more."""
        for lane in list(self._hand.lanes.values()):
            shards = [at for at in range(self._server.shards) if not self._route.away_for_s(at)]
            few = 1 if len(lane.ready) + len(lane.again) >= _HOARD_MAX else _SWEEP_COUNT
            idle = self._take(lane, [(at, [self._claim(lane, at, 0, 0, few)]) for at in shards])
            self._take_what_was_lost(lane, idle)
        torn = self._route.torn
        if torn != self._torn and self._look_for_what_was_lost():
            self._torn = torn

    def _look_for_what_was_lost(self) -> bool:
        """Find what was claimed by a call whose answer never came, without waiting a lease for it; False: not all."""
        answered = True
        for lane in list(self._hand.lanes.values()):
            asked: list[tuple[int, list[Command]]] = []
            for shard in range(self._server.shards):
                key = f"{prefix(self._route.name, shard)}s:{lane.key}"
                asked.append((shard, [("XPENDING", key, GROUP, "-", "+", _LOST_MAX, self._hand.writer)]))
            mine = []
            for (shard, _), answers in zip(asked, self._holding.ask(asked), strict=True):
                if isinstance(answers, Away):
                    answered = False
                elif not isinstance(answers[0], Fault):  # there is no such group
                    mine.append((shard, [_text(one[0]) for one in answers[0]]))
            self._take_what_was_lost(lane, mine)
        return answered

    def _take_what_was_lost(self, lane: Lane, mine: list[tuple[int, list[str]]]) -> None:
        """Have once more what is this process's by the server's word, and what it does not know of."""
        lost = [(at, [one for one in ids if (at, lane.key, one) not in self._hand.held]) for at, ids in mine]
        self._take(lane, [(at, [self._claim(lane, at, 0, 0, 0, *ids)]) for at, ids in lost if ids])

    def _take(self, lane: Lane, asked: list[tuple[int, list[Command]]]) -> list[tuple[int, list[str]]]:
        """Take into hand what claims bring; returns, by part, which entries of this process's own are idle."""
        idle = []
        sure_until = self._holding.sure_until()
        for (shard, (call,)), answers in zip(asked, self._holding.ask(asked), strict=True):
            if isinstance(answers, Away):
                continue
            (answer,) = answers
            if isinstance(answer, Fault):
                self._emit(Trouble("redis", f"events could not be claimed: {answer}"))
                lane.waiting[shard] = 0  # until the next look
                continue
            mine, waiting, taken_over, *rows = answer
            idle.append((shard, [_text(one) for one in mine]))
            if call[_WANTED_AT]:
                lane.waiting[shard] = int(waiting)
            if call[_OTHERS_AT]:
                note = lane.left_behind.add if taken_over >= call[_OTHERS_AT] else lane.left_behind.discard
                note(shard)
            for row in rows:
                self._add(lane, shard, row, sure_until)
        return idle

    def _add(self, lane: Lane, shard: int, row: Sequence[Any], sure_until: float) -> None:
        """Take an entry into hand."""
        entry_id, writer, data, settled = _text(row[0]), _text(row[1]), row[3], row[4]
        known = self._hand.held.get((shard, lane.key, entry_id))
        if known is not None:  # let go of, and taken over again by ourselves
            known.sure_until, known.told = sure_until, False
            for at in range(len(settled)):
                if settled[at : at + 1] == _SETTLED:
                    self._hand.settled(known, at)
            return
        try:
            events = unpack(data, int(row[2]))
        except ValueError as error:
            self._damaged(lane, shard, row, str(error))
            return
        held = Held(
            shard, lane.url, lane=lane.key, entry_id=entry_id, writer=writer, events=events, size=len(data),
            own=writer == self._hand.writer, settled=settled, sure_until=sure_until,
        )  # fmt: skip
        self._hand.add(lane, held)

    def _damaged(self, lane: Lane, shard: int, row: Sequence[Any], why: str) -> None:
        """Give up an entry that is none of ours, or was changed: it is counted, and the rest goes on."""
        call = (
            SCRIPTS["settle"], 1, self._holding.key(shard), "-damaged", lane.key, row[0], row[1], int(row[2]),
            len(row[3]), "",
        )  # fmt: skip
        self._holding.ask([(shard, [call])])
        if _text(row[1]) != self._hand.writer:
            self._hand.dropped("damaged", int(row[2]))
        self._emit(Trouble("redis", f"entry {_text(row[0])} of part {shard} cannot be read ({why}): it is dropped"))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
