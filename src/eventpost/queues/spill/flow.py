"""The way back: what was spilled moves from one queue into another, in order, a bounded step at a time.

A step claims some events, puts them into the other queue in one put, and acknowledges them here once that has them.  A
crash in between repeats them.  Steps begin small and double while they succeed; a pause as long as the step itself
follows each, so the mover takes half of its thread's time at most, and of a slow server's less.  After a refusal the
pause doubles up to a second, and is at least four times as long as the attempt took.

*Is anything of this process in there?*  That decides where its next put goes, and no put may wait for a lock that the
mover holds while it waits for one of the spill's: a signal handler on the thread that holds that one would wait for
ever.  So there is no lock.  A put first stores and then adds the number of the current *round* to ``inside``.  The
mover begins a new round, then looks whether the spill is empty, then takes the numbers of earlier rounds out: of a put
that stored after the look the number is a later one.

*The last few.*  Under steady puts the spill never is empty.  So while its last events move, puts wait for that, once
and some milliseconds at most, as they would have waited for the server.

*The count.*  An event under way is in both queues from the put's return to the ack.  ``Move`` says what has to be known
to count it once, without a lock: see :func:`counted_once`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ...clock import Clock
from ...errors import EventTooLarge, QueueError
from ...sender.primitives import Lock, get_ident, pause
from ...watch.signals import FlowedBack, Signal, Trouble
from ..protocol import Lease, Queue, QueueStats

EVENTS_FIRST: Final = 64
EVENTS_MAX: Final = 1024
BYTES_MAX: Final = 1 << 20
_FULL_SHRINKS: Final = 4
_PAUSE_MIN_S: Final = 0.001
_PAUSE_MAX_S: Final = 0.1
_AGAIN_FIRST_S: Final = 0.05
_AGAIN_MAX_S: Final = 1.0
_AGAIN_SHARE: Final = 4
_ACK_AGAIN_S: Final = 1.0
_ROUNDS_MAX: Final = 4
_LAST_FEW_POLLS: Final = 40
_LAST_FEW_POLL_S: Final = 0.0005
_DRAIN_POLL_S: Final = 0.01


class Move:
    """One put that is under way from the spill to the first queue."""

    __slots__ = ("before", "delivered", "done", "events")

    def __init__(self, events: int, before: QueueStats, delivered: int) -> None:
        self.events = events
        self.before = before
        """The first queue's count before the put."""
        self.delivered = delivered
        """What the spill called delivered before: it grows with the ack."""
        self.done = False
        """The put has returned."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is moved in one step, and when the next one may begin."""

    events: int
    again_s: float = 0.0

    def went_well(self) -> Pace:
        """Return the pace after a step that succeeded."""
        return Pace(min(EVENTS_MAX, self.events * 2))

    def refused(self, *, full: bool) -> Pace:
        """Return the pace after a refusal; ``full``: there was no room for so many."""
        events = max(1, self.events // _FULL_SHRINKS) if full else EVENTS_FIRST
        return Pace(events, min(_AGAIN_MAX_S, self.again_s * 2 or _AGAIN_FIRST_S))


class Flow:
    """Moves from ``spill`` to ``first``.  One caller at a time does; others are told to come again.

    ``away``: the last attempt to put into the first queue was refused.  ``emit`` takes signals, under no lock.
    """

    def __init__(self, first: Queue, spill: Queue, clock: Clock, emit: Callable[[Signal], None]) -> None:
        """Keep the arguments; touches neither queue."""
        self._first = first
        self._spill = spill
        self._clock = clock
        self._emit = emit
        self.reset()

    def reset(self) -> None:
        """Know of nothing that was spilled."""
        self.inside: set[int] = set()
        self.away = False
        self.move: Move | None = None
        self._round = 0
        self._working = Lock()
        self._mover: int | None = None
        self._last_few = False
        self._in_hand: list[Lease] = []
        """Claimed from the spill, oldest first, and not in the first queue yet."""
        self._unacked: list[Lease] = []
        self._pace = Pace(EVENTS_FIRST)
        self._again_at = -1e9
        self._turn = 0
        self._since = 0.0
        self._moved = 0
        self._said_spilling = False

    # -- the putting side

    def stored(self) -> bool:
        """Note that a put has stored into the spill; True if that is news."""
        self.inside.add(self._round)
        news, self._said_spilling = not self._said_spilling, True
        if news:
            self._since = self._clock.monotonic()
        return news

    def is_passed(self) -> bool:
        """Tell whether a put may pass the spill by now; waits a moment where the last of it is just moving."""
        if self._mover != get_ident():
            polls = 0
            while self._last_few:
                if polls == _LAST_FEW_POLLS:
                    self._last_few = False  # it takes longer: nobody else waits for it
                    break
                polls += 1
                pause(_LAST_FEW_POLL_S)
        return not self.inside

    @property
    def flows(self) -> bool:
        """Whether something is to be moved, as far as is known, and the first queue takes it."""
        return bool(self.inside) and not self.away

    # -- the mover

    def step(self, *, at_once: bool = False) -> float | None:
        """Move some, if it is time (or ``at_once``); the seconds until the next step, None if nothing is left."""
        if not self._working.acquire(False):
            return _PAUSE_MAX_S
        self._mover = get_ident()
        try:
            wait_s = self._again_at - self._clock.monotonic()
            return wait_s if wait_s > 0 and not at_once else self._step()
        finally:
            self._last_few = False
            self._mover = None
            self._working.release()

    def drain(self, timeout_s: float) -> bool:
        """Move all there is within ``timeout_s``, as long as the first queue takes it; False: something is left."""
        if self._mover == get_ident():
            return False  # a signal handler over a step
        deadline = self._clock.monotonic() + timeout_s
        wait_s = self.step(at_once=True)
        while wait_s is not None:
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0 or self.away:
                return False
            pause(min(wait_s, left_s, _DRAIN_POLL_S))
            wait_s = self.step()
        return True

    def stop(self, timeout_s: float) -> bool:
        """Move nothing any more; waits for a step that is under way.  False: it did not end in time."""
        return self._mover != get_ident() and bool(self._working.acquire(True, timeout_s))

    def _step(self) -> float | None:
        began = self._clock.monotonic()
        try:
            if not self._ack_again():
                return self._come_again(_ACK_AGAIN_S)
            moved = 0
            for _ in range(_ROUNDS_MAX):
                asked = self._pace.events
                some = self._move(self._take(asked))
                if self._unacked:
                    return self._come_again(_ACK_AGAIN_S)
                moved += some
                waiting = self._look()
                if not waiting and self._is_over():
                    return None
                self._last_few = waiting < self._pace.events
                if some == asked or not self._last_few:
                    break
            if not moved:  # what waits is not handed out yet
                return self._come_again(_PAUSE_MAX_S)
        except QueueError as error:
            self._pace = self._pace.refused(full=error.reason == "queue_full")
            self.away = True
            took_s = self._clock.monotonic() - began
            return self._come_again(max(self._pace.again_s, _AGAIN_SHARE * took_s))
        took_s = self._clock.monotonic() - began
        return self._come_again(min(_PAUSE_MAX_S, max(_PAUSE_MIN_S, took_s)))

    def _come_again(self, wait_s: float) -> float:
        self._again_at = self._clock.monotonic() + wait_s
        return wait_s

    def _take(self, events_max: int) -> list[Lease]:
        """Return the next so many, claimed from all lanes; another lane is first each time.

        What could not be put stays in hand: given back, it would come behind what was given back before it.
        """
        wanted = events_max - len(self._in_hand)
        size = sum([len(lease.event.payload) for lease in self._in_hand])
        lanes = list(self._spill.lanes()) if wanted > 0 and size < BYTES_MAX else []
        self._turn += 1
        for at in range(len(lanes)):
            some = self._spill.claim(lanes[(at + self._turn) % len(lanes)], wanted, BYTES_MAX - size)
            self._in_hand += some
            wanted -= len(some)
            size += sum([len(lease.event.payload) for lease in some])
            if wanted <= 0 or size >= BYTES_MAX:
                break
        return self._in_hand[:events_max]

    def _move(self, leases: list[Lease]) -> int:
        """Put them into the first queue and acknowledge them here.  Raises QueueError; the rest stays in hand."""
        left = [leases] if leases else []
        while left:
            some = left.pop()
            try:
                self._put(some)
            except EventTooLarge:
                if len(some) > 1:
                    half = len(some) // 2
                    left += [some[half:], some[:half]]
                else:  # it will never fit, and must not hold up the others
                    del self._in_hand[:1]
                    self._spill.bury(some, "too_large")
                continue
            self.away = False
            self._moved += len(some)
            self._pace = self._pace.went_well()
            if not self._ack_again():
                break
        return len(leases)

    def give_back(self) -> bool:
        """Give back what is in hand: somebody erases events from the spill.  False: it is being moved just now."""
        if not self._working.acquire(False):
            return False
        try:
            in_hand, self._in_hand = self._in_hand, []
            self._spill.release(in_hand)
        finally:
            self._working.release()
        return True

    def _put(self, leases: list[Lease]) -> None:
        move = Move(len(leases), self._first.stats(), self._spill.stats().delivered)
        self.move = move
        try:
            self._first.put([lease.event for lease in leases])
        except BaseException:
            self.move = None
            raise
        self._unacked = leases
        del self._in_hand[: len(leases)]
        move.done = True

    def _ack_again(self) -> bool:
        """Acknowledge what has moved; False if the spill could not note it."""
        if not self._unacked:
            return True
        try:
            self._spill.ack(self._unacked)
        except (OSError, ValueError, QueueError) as error:
            self._emit(Trouble("the spill could not note what was moved from it", f"{type(error).__name__}: {error}"))
            return False
        self._unacked = []
        return True

    def _look(self) -> int:
        """Begin a round; return about how many events are left in the spill."""
        self._round += 1
        return sum([self._spill.pending(lane) for lane in self._spill.lanes()]) + len(self._in_hand)

    def _is_over(self) -> bool:
        """Let puts pass the spill, if nothing of this process is in it: looked at just before, in this round."""
        if self._spill.next_due_s() is not None:
            return False
        self.inside.difference_update([one for one in self.inside.copy() if one < self._round])
        if self.inside:
            return False
        if self._said_spilling:
            self._said_spilling = False
            self._emit(FlowedBack(self._moved, self._clock.monotonic() - self._since))
        self._moved = 0
        self._pace = Pace(EVENTS_FIRST)
        return True


def counted_once(first: Callable[[], QueueStats], spill: Callable[[], QueueStats], flow: Flow) -> QueueStats | None:
    """Return the count over both queues; None: a move came in between, ask again.

    What the spill calls delivered is what has moved: the first queue counts it from then on.  The spill is read first.
    If the put of a move has not returned by then, the first queue is taken as it was before it; if it has, both queues
    have what is not acknowledged yet, and one of the two is not counted.
    """
    move = flow.move
    there = spill()
    both = 0
    if move is None:
        here = first()
    elif move.done:
        here = first()
        both = max(0, move.events - (there.delivered - move.delivered))
    else:
        here = move.before
    if flow.move is not move:
        return None
    dropped = dict(here.dropped)
    for reason, events in there.dropped.items():
        dropped[reason] = dropped.get(reason, 0) + events
    ages = [age for age in (here.oldest_age_s, there.oldest_age_s) if age is not None]
    return QueueStats(
        accepted=here.accepted + there.accepted - there.delivered - both,
        adopted=here.adopted + there.adopted,
        delivered=here.delivered,
        queued=here.queued + there.queued + there.in_flight - both,
        in_flight=here.in_flight,
        dead=here.dead + there.dead,
        dropped=dropped,
        stored_bytes=here.stored_bytes + there.stored_bytes,
        oldest_age_s=max(ages, default=None),
    )
