"""SpillQueue: the face of two queues.  See the package's docstring for the theory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ...clock import Clock, SystemClock
from ...errors import QueueError, QueueFull, QueueUnavailable
from ...event import Event
from ...watch.signals import Signal, Spilling, Trouble
from ..protocol import Answer, Durability, Lease, Queue, QueueStats
from .carrier import Carrier
from .flow import Flow, counted_once

_LEVELS: Final[tuple[Durability, ...]] = ("memory", "os", "fsync", "host")
_NOT_AWAY: Final = frozenset({"closed", "forked"})
_STATS_TRIES: Final = 10
_TEND_MAX_S: Final = 1.0
"""How soon the sender looks whether something has spilled since, in seconds."""
_STOP_S: Final = 0.3


def spills(error: QueueError) -> bool:
    """Tell whether what the first queue refused so goes to the spill: it can't store, and that is not its own bound."""
    if isinstance(error, QueueFull):
        return error.reason != QueueFull.reason
    return isinstance(error, QueueUnavailable) and error.reason not in _NOT_AWAY


class SpillQueue:
    """A queue that puts into ``first``, and while that is away into ``spill``, from where it flows back.

    Whatever ``first`` has beside the protocol is there, too, by the same name.

    Args:
        first: The queue that events are delivered from.
        spill: A queue of this process's own, on this machine: a ``JournalQueue`` in a folder of its own, which the
            machine's processes may share.
        clock: Time, for pauses.

    Raises TypeError if one of them is no queue, ValueError if they are the same.
    """

    def __init__(self, first: Queue, spill: Queue, *, clock: Clock | None = None) -> None:
        for name, queue in (("first", first), ("spill", spill)):
            if not isinstance(queue, Queue):
                raise TypeError(f"{name} must be a queue, such as JournalQueue(folder), not {type(queue).__name__}")
        if first is spill:
            raise ValueError("spill must be another queue than the one that it stands in for")
        self._first = first
        self._spill = spill
        self._emit: Callable[[Signal], None] = _nobody
        self._sends = True
        self._closed = False
        self._clock: Clock = clock or SystemClock()
        self._flow = Flow(first, spill, self._clock, self._say)
        self._carrier = Carrier(self._carry, self._is_spilling, self._clock, self._say)
        self._last = QueueStats()

    def __getattr__(self, name: str) -> Any:
        """Return what the first queue has beside the protocol."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._first, name)

    # -- what a dispatcher sets

    @property
    def emit(self) -> Callable[[Signal], None]:
        """Takes what happens."""
        return self._emit

    @emit.setter
    def emit(self, value: Callable[[Signal], None]) -> None:
        self._emit = value
        for queue in (self._first, self._spill):
            if hasattr(queue, "emit"):
                queue.emit = value

    def _say(self, signal: Signal) -> None:
        self._emit(signal)

    @property
    def sends(self) -> bool:
        """Whether this process delivers.  It moves what it has spilled in any case."""
        return self._sends

    @sends.setter
    def sends(self, value: bool) -> None:
        self._sends = value
        if hasattr(self._first, "sends"):
            self._first.sends = value

    @property
    def may_start(self) -> Callable[[], bool]:
        """Whether a thread may be started in this process by now."""
        return self._carrier.may_start

    @may_start.setter
    def may_start(self, value: Callable[[], bool]) -> None:
        self._carrier.may_start = value

    # -- the facts

    @property
    def durability(self) -> Durability:
        """The weaker of the two: what each returned put survives, wherever it went."""
        return min(self._first.durability, self._spill.durability, key=_LEVELS.index)

    @property
    def lease_s(self) -> float | None:
        """See Queue.lease_s: the first queue's."""
        return self._first.lease_s

    @property
    def spill(self) -> Queue:
        """The queue that stands in."""
        return self._spill

    @property
    def spilling(self) -> bool:
        """Whether puts go to the spill just now."""
        return self._is_spilling()

    def _is_spilling(self) -> bool:
        return bool(self._flow.inside)

    def describe(self) -> dict[str, Any]:
        """Return what the first queue says of itself, and what holds of the spill, as plain values."""
        own: Callable[[], dict[str, Any]] | None = getattr(self._first, "describe", None)
        stats = self._spill.stats()
        spill = {
            "path": str(getattr(self._spill, "path", "")),
            "durability": self._spill.durability,
            "spilling": self.spilling,
            "away": self._flow.away,
            "queued": stats.queued + stats.in_flight,
            "stored_bytes": stats.stored_bytes,
        }
        return {**({} if own is None else own()), "durability": self.durability, "spill": spill}

    # -- put

    def put(self, events: Sequence[Event]) -> None:
        """Store into the first queue, or into the spill while that is away or older events wait there.

        Waits for the first queue as long as that waits; not at all while anything of this process is in the spill.
        Raises QueueError if neither takes them.
        """
        if self._closed:
            raise QueueUnavailable("the queue is closed", reason="closed")
        flow = self._flow
        if flow.inside and not flow.is_passed():
            self._put_behind(events)
            return
        try:
            self._first.put(events)
        except QueueError as error:
            if not spills(error):
                raise
            self._put_aside(events, error)
        else:
            if not self._sends and self._carrier.is_due:
                self._carrier.start()

    def _put_aside(self, events: Sequence[Event], why: QueueError) -> None:
        self._flow.away = True
        try:
            self._spill.put(events)
        except QueueError as error:
            raise type(error)(f"{error}; and before it: {why}", reason=error.reason) from why
        self._stored(why)

    def _put_behind(self, events: Sequence[Event]) -> None:
        try:
            self._spill.put(events)
        except QueueError as error:
            if self._flow.away or error.reason in _NOT_AWAY:
                raise
            try:
                self._first.put(events)  # out of turn, and not lost
            except QueueError:
                self._flow.away = True
                raise error from None
        else:
            self._stored(None)

    def _stored(self, why: QueueError | None) -> None:
        if self._flow.stored():  # told before a thread can tell that all of it has flowed back
            self._emit(Spilling("" if why is None else why.reason, "" if why is None else str(why)))
        if not self._sends:
            self._carrier.start()

    # -- the sender's side: what waits in the spill has to move before it can be claimed

    def lanes(self) -> Sequence[str]:
        """See Queue.lanes."""
        lanes = self._first.lanes()
        return list(dict.fromkeys([*lanes, *self._spill.lanes()])) if self._flow.flows else lanes

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """See Queue.claim."""
        return self._first.claim(lane, events_max, bytes_max)

    def pending(self, lane: str) -> int:
        """See Queue.pending; what is just flowing back counts."""
        pending = self._first.pending(lane)
        return pending + self._spill.pending(lane) if self._flow.flows else pending

    def next_due_s(self) -> float | None:
        """See Queue.next_due_s."""
        return self._first.next_due_s()

    def ack(self, leases: Sequence[Lease]) -> None:
        """See Queue.ack."""
        self._first.ack(leases)

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """See Queue.release."""
        self._first.release(leases, delay_s)

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """See Queue.bury."""
        self._first.bury(leases, reason, answer)

    @property
    def recalls(self) -> bool:
        """See Recalls."""
        return bool(getattr(self._first, "recalls", False))

    def recalled(self) -> None:
        """See Recalls."""
        self._first.recalled()  # type: ignore[attr-defined]  # who recalls has it

    # -- now and then

    def tend(self) -> float | None:
        """See Queue.tend: both queues' work, and a step of the way back."""
        waits: list[float | None] = [_TEND_MAX_S]
        try:
            waits.append(self._tend_spill())
            waits.append(self._flow.step())
        finally:
            waits.append(self._first.tend())
        return min(wait_s for wait_s in waits if wait_s is not None)

    def _tend_spill(self) -> float | None:
        wait_s = self._spill.tend()
        if getattr(self._spill, "recalls", False) and self._flow.give_back():
            self._spill.recalled()  # type: ignore[attr-defined]  # who recalls has it
        return wait_s

    def _carry(self) -> float | None:
        tend_s = self._tend_spill()
        wait_s = self._flow.step()
        return wait_s if wait_s is None or tend_s is None else min(wait_s, tend_s)

    def look_for_left(self) -> None:
        """See whether others left something here, if that is due: for a process that neither puts nor sends."""
        if not self._sends and not self._closed and self._carrier.is_due:
            self._carrier.start()

    def sync(self, timeout_s: float) -> bool:
        """See Queue.sync: moves what was spilled, if the first queue takes it by now."""
        deadline = self._clock.monotonic() + timeout_s
        moved = self._flow.drain(timeout_s)
        safe = self._spill.sync(max(0.0, deadline - self._clock.monotonic()))
        return self._first.sync(max(0.0, deadline - self._clock.monotonic())) and safe and moved

    def stats(self) -> QueueStats:
        """See Queue.stats: of both; what moves counts once."""
        for _ in range(_STATS_TRIES):
            found = counted_once(self._first.stats, self._spill.stats, self._flow)
            if found is not None:
                self._last = found
                break
        return self._last

    def left_here(self) -> str:
        """Return, for people, how many events wait on this machine and not in the first queue; empty if none do."""
        stats = self._spill.stats()
        count = stats.queued + stats.in_flight
        return f"{count:,} of them on this machine, in {getattr(self._spill, 'path', self._spill)}" if count else ""

    def after_fork_in_child(self) -> None:
        """See Queue.after_fork_in_child."""
        self._flow.reset()
        self._carrier.reset()
        self._last = QueueStats()
        self._first.after_fork_in_child()
        self._spill.after_fork_in_child()
        if self._closed:
            self._carrier.stop()

    def close(self, timeout_s: float = 10.0) -> None:
        """See Queue.close.  What is in the spill stays there, for the next process that opens it."""
        closed, self._closed = self._closed, True
        self._carrier.stop()
        if not closed:
            self._flow.stop(min(timeout_s, _STOP_S))
        try:
            self._first.close(timeout_s)
        finally:
            self._spill.close(timeout_s)
        left = "" if closed else self.left_here()
        if left:
            text = f"{left}: it flows on when a process opens that folder; eventpost send --journal delivers it, too"
            self._emit(Trouble("events wait in the spill", text))

    def __repr__(self) -> str:
        return f"SpillQueue({self._first!r}, spill={self._spill!r}{', spilling' if self.spilling else ''})"


def _nobody(signal: Signal) -> None:
    """Hear a signal that nobody listens to."""
