"""Putting: once, all or none, and many threads' puts in one round trip.

Who comes first leads: it takes everything that waits by then and sends it as one put; what comes meanwhile is the next
one's.  A thread that is in the middle of a put already (a signal handler or a finalizer interrupts it, or greenlets
share it) neither leads nor follows: its put goes alone, over another connection.

A put is numbered within its *slot*, of which each has one put under way at most.  The script ignores a number that it
has seen, so a put may be repeated when its connection breaks.  A slot whose last put has no answer when time runs out
has that put voided before it is used again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from ...errors import EventTooLarge, QueueError, QueueFull, QueueUnavailable
from ...event import Event
from ...sender import primitives
from ..protocol import Overflow
from . import check
from .client import SCRIPTS, Command, Fault
from .entry import entries
from .names import lane_key, prefix
from .route import Away, Route
from .server import Server

TOGETHER_EVENTS_MAX: Final = 2048
TOGETHER_BYTES_MAX: Final = 4 << 20
_BLOCK_POLL_S: Final = 0.02
_OTHERS_S: Final = 1.0
_STORED_MAX: Final = 1000
_WAIT_LATE_S: Final = 0.15
"""A server that has nothing to do looks ten times a second whether a WAIT has waited long enough."""
Arrived = tuple[int, str, int]


class _Slot:
    """Puts of which one is under way at most.  ``unsure``: the part and the lanes of the last one, if unanswered."""

    __slots__ = ("name", "serial", "unsure")

    def __init__(self, name: str) -> None:
        self.name = name
        self.serial = 0
        self.unsure: tuple[int, dict[str, str]] | None = None


class _Waiting:
    """One caller's put."""

    __slots__ = ("deadline", "done", "error", "events", "gate", "size")

    def __init__(self, events: Sequence[Event], size: int, deadline: float) -> None:
        self.events = events
        self.size = size
        self.deadline = deadline
        self.done = False
        self.error: QueueError | None = None
        self.gate = primitives.Event()


class Commit:
    """The putting side of one queue.

    ``accepted``: events by part that are known to be stored.  ``arrived``: what was stored, by part, lane and number,
    for the claiming side to take note of.
    """

    def __init__(
        self, route: Route, server: Server, *, bytes_max: int, overflow: Overflow, block_timeout_s: float,
        timeout_s: float, is_sender: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Keep the arguments; ``is_sender``: whether this is the thread that makes room, and must not wait for some."""
        self._route = route
        self._server = server
        self._bytes_max = bytes_max
        self._overflow = overflow
        self._block_timeout_s = block_timeout_s
        self._timeout_s = timeout_s
        self._is_sender = is_sender
        self.reset("")

    def reset(self, writer: str) -> None:
        """Start from zero, as another writer."""
        self.writer = writer
        self.closed = False
        self.accepted: dict[int, int] = {}
        self.arrived: deque[Arrived] = deque(maxlen=10_000)
        self.others_bytes = 0
        """What the other parts hold, as of the last look: the bound is on all of them."""
        self.others_known_at = -1e9
        self._stored: deque[tuple[int, int]] = deque()
        self._folding = primitives.Lock()
        self._leading = primitives.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._inside: set[int] = set()
        self._slots: deque[_Slot] = deque()
        self._slots_made = 0

    def put(self, events: Sequence[Event]) -> None:
        """Store all of the events or none.  Raises QueueError."""
        if self.closed:
            raise QueueUnavailable("the queue is closed", reason="closed")
        if not events:
            return
        size = sum([len(event.payload) for event in events])
        if size > self._bytes_max:
            raise EventTooLarge(f"{len(events)} events of {size} bytes: more than the queue holds when it is empty")
        me = primitives.get_ident()
        interrupts = me in self._inside
        try:
            self._put(tuple(events), size, me, interrupts=interrupts)
        except QueueFull as full:
            if self._overflow != "block" or interrupts or full.reason != "queue_full" or self._is_sender():
                raise
            self._put_when_there_is_room(tuple(events), size, me)

    def _put(self, events: Sequence[Event], size: int, me: int, *, interrupts: bool) -> None:
        item = _Waiting(events, size, monotonic() + self._timeout_s)
        if interrupts:
            self._store([item])
        else:
            self._inside.add(me)
            try:
                self._put_together(item)
            finally:
                self._inside.discard(me)
        if item.error is not None:
            raise item.error

    def _put_when_there_is_room(self, events: Sequence[Event], size: int, me: int) -> None:
        deadline = monotonic() + self._block_timeout_s
        while True:
            primitives.pause(_BLOCK_POLL_S)
            try:
                self._put(events, size, me, interrupts=False)
            except QueueFull as full:
                if full.reason != "queue_full" or monotonic() >= deadline:
                    raise
            else:
                return

    # -- together

    def _put_together(self, item: _Waiting) -> None:
        self._waiting.append(item)
        while not item.done:
            if self._leading.acquire(False):
                try:
                    if not item.done:
                        self._lead()
                finally:
                    self._leading.release()
                    self._call_the_next()
                continue
            if item.gate.wait(item.deadline - monotonic()):
                item.gate.clear()
                continue
            try:
                self._waiting.remove(item)  # nobody took it: nothing was sent
            except ValueError:
                item.gate.wait(self._timeout_s)  # somebody did, and knows no later than this
            if not item.done:
                item.error = QueueUnavailable("the server did not answer in time", reason="redis_unavailable")
            return

    def _call_the_next(self) -> None:
        try:
            self._waiting[0].gate.set()
        except IndexError:
            return

    def _lead(self) -> None:
        """Take what waits, and store it as one put; tell each what became of it."""
        group: list[_Waiting] = []
        events = size = 0
        while self._waiting and events < TOGETHER_EVENTS_MAX and size < TOGETHER_BYTES_MAX:
            try:
                group.append(self._waiting.popleft())
            except IndexError:  # it gave up just now
                break
            events += len(group[-1].events)
            size += group[-1].size
        try:
            self._store(group)
        except BaseException:  # a signal handler's: the others must not wait for what nobody does any more
            for one in group:
                one.error = one.error or QueueUnavailable("the put was interrupted", reason="redis_unavailable")
            raise
        finally:
            for one in group:
                one.done = True
                one.gate.set()

    def _store(self, group: list[_Waiting]) -> None:
        if not group:
            return
        try:
            self._send([event for one in group for event in one.events], min(one.deadline for one in group))
        except QueueError as error:
            if len(group) == 1 or not isinstance(error, (QueueFull, EventTooLarge)):
                for one in group:
                    one.error = error
                return
            full: QueueError | None = None
            for one in group:  # one alone may fit
                if full is None:
                    self._store([one])
                    full = one.error if isinstance(one.error, QueueFull) else None
                else:
                    one.error = full
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the application
            for one in group:
                one.error = QueueUnavailable(f"the put failed: {type(error).__name__}", reason="queue_unavailable")

    # -- one put

    def _send(self, events: Sequence[Event], deadline: float) -> None:
        self._server.make_sure(deadline)
        self._look_at_others(deadline)
        if self._route.away_for_s(self._server.home):
            self._server.move_home()
        slot = self._slot()
        try:
            self._send_in(slot, events, deadline)
        finally:
            self._slots.append(slot)

    def _slot(self) -> _Slot:
        """Return a slot to put in; not one whose last put can't be voided now while another one's can do without."""
        for _ in range(len(self._slots)):
            try:
                slot = self._slots.pop()
            except IndexError:
                break
            unsure = slot.unsure
            if unsure is None or unsure[0] == self._server.home or not self._route.away_for_s(unsure[0]):
                return slot
            self._slots.appendleft(slot)
        self._slots_made += 1
        return _Slot(str(self._slots_made))

    def _send_in(self, slot: _Slot, events: Sequence[Event], deadline: float) -> None:
        self._void(slot, deadline)
        home, kept = self._server.home, self._server.kept
        made = list(entries(events))
        digests = {lane_key(url): url for url in {one.url for one in made}}
        by_url = {url: digest for digest, url in digests.items()}
        slot.serial += 1
        room = self._bytes_max - self.others_bytes
        mode = "drop" if self._overflow == "drop_oldest" else ""
        key = prefix(self._route.name, home) + "sum"
        put: list[Any] = [SCRIPTS["put"], 1, key, self.writer, slot.name, slot.serial, room, mode]
        for one in made:
            put += [one.url, by_url[one.url], one.events, one.data]
        calls: list[Command] = [tuple(put)]
        if kept.wait:
            left_s = deadline - monotonic()
            calls.append((*kept.wait, max(1, int(1000 * max(left_s / 2, left_s - _WAIT_LATE_S)))))
        slot.unsure = (home, digests)
        try:
            answers = self._route.ask(home, calls, deadline, insist=True)
        except Away as away:
            if not away.sent:
                slot.unsure = None
            raise QueueUnavailable(str(away), reason="redis_unavailable") from None
        self._read(slot, answers, kept)
        count: dict[str, int] = {}
        for one in made:
            count[one.url] = count.get(one.url, 0) + one.events
        for url, number in count.items():
            self.arrived.append((home, url, number))
        self._count(home, len(events))

    def _read(self, slot: _Slot, answers: Sequence[Any], kept: check.Kept) -> None:
        said = answers[0]
        if isinstance(said, Fault):
            if said.code == "OOM":
                slot.unsure = None
                raise QueueFull("the server's memory is full (maxmemory)", reason="redis_full")
            raise QueueUnavailable(f"the server does not store: {said}", reason="redis_unavailable")
        if said[0] == b"full":
            slot.unsure = None
            raise QueueFull(f"the queue holds its {self._bytes_max} bytes")
        if kept.wait and not check.confirmed(answers[1], kept.wait):
            raise QueueUnavailable(
                f"too few have stored it in time ({' '.join(map(str, kept.wait))}): look at the replicas",
                reason="redis_unconfirmed",
            )
        slot.unsure = None

    def _void(self, slot: _Slot, deadline: float) -> None:
        """Take back the slot's last put, if nobody knows what became of it.  Raises QueueUnavailable."""
        if slot.unsure is None:
            return
        shard, digests = slot.unsure
        key = prefix(self._route.name, shard) + "sum"
        pairs = [part for pair in digests.items() for part in pair]
        try:
            (stay,) = self._route.ask(
                shard, [(SCRIPTS["void"], 1, key, self.writer, slot.name, slot.serial, *pairs)], deadline
            )
        except Away as away:
            raise QueueUnavailable(str(away), reason="redis_unavailable") from None
        if isinstance(stay, Fault):
            raise QueueUnavailable(f"the server does not answer for a put: {stay}", reason="redis_unavailable")
        slot.unsure = None
        self._count(shard, int(stay))

    def void_what_is_unsure(self, deadline: float) -> bool:
        """Clear up after puts without an answer; True if there is none any more."""
        clear = True
        for _ in range(len(self._slots)):
            try:
                slot = self._slots.popleft()
            except IndexError:
                break
            try:
                if clear:
                    self._void(slot, deadline)
            except QueueUnavailable:
                clear = False
            finally:
                self._slots.append(slot)
        return clear

    def _look_at_others(self, deadline: float) -> None:
        now = monotonic()
        if self._server.shards < 2 or now - self.others_known_at < _OTHERS_S:
            return
        self.others_known_at = now
        others = [shard for shard in range(self._server.shards) if shard != self._server.home]
        asked = [(shard, [("HGET", prefix(self._route.name, shard) + "sum", "b")]) for shard in others]
        self.know_others([0 if isinstance(one, Away) else one[0] for one in self._route.ask_all(asked, deadline)])

    def know_others(self, stored: Sequence[Any]) -> None:
        """Take note of what the other parts hold."""
        self.others_bytes = sum([int(one) for one in stored if one is not None and not isinstance(one, Fault)])
        self.others_known_at = monotonic()

    def _count(self, shard: int, events: int) -> None:
        """Count what is stored: an append can't be torn by what interrupts it; only ``fold`` adds up."""
        self._stored.append((shard, events))
        if len(self._stored) > _STORED_MAX:
            self.fold()

    def fold(self) -> None:
        """Add up what was stored.  Where somebody is at it already, it is done the next time."""
        if not self._folding.acquire(False):
            return
        try:
            while self._stored:
                shard, events = self._stored.popleft()
                self.accepted[shard] = self.accepted.get(shard, 0) + events
        finally:
            self._folding.release()
