"""One put: its number, its answer, and what is done where there is none.

A put is numbered within its *slot*, of which each has one put under way at most.  The script ignores a number that it
has seen, so a put may be repeated when its connection breaks.  A slot whose last put has no answer when time runs out
has that put voided before it is used again.

Each put bears a mark of its own beside its number.  Where a number is taken by another mark, somebody else goes by this
writer's name (a machine's snapshot was resumed twice): the put is made again in a slot that nobody can know.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from ...errors import QueueFull, QueueUnavailable
from ...event import Event
from ...sender import primitives
from ..protocol import Overflow
from . import check
from .client import SCRIPTS, Command, Fault
from .entry import entries
from .names import lane_key, prefix
from .route import Away, Route
from .server import Server, is_denied, remedy

_OTHERS_S: Final = 1.0
_STORED_MAX: Final = 1000
_WAIT_LATE_S: Final = 0.15
"""A server that has nothing to do looks ten times a second whether a WAIT has waited long enough."""
Arrived = tuple[int, str, int]


class _Slot:
    """Puts of which one is under way at most.  ``unsure``: the part and the lanes of the last one, if unanswered."""

    __slots__ = ("mark", "name", "serial", "unsure")

    def __init__(self, name: str) -> None:
        self.name = name
        self.serial = 0
        self.mark = ""
        self.unsure: tuple[int, dict[str, str]] | None = None


class _Twice(Exception):  # noqa: N818 - names a state
    """The number of a put is another's."""


class Puts:
    """The puts of one writer.

    ``accepted``: events by part that are known to be stored.  ``arrived``: what was stored, by part, lane and number,
    for the claiming side to take note of.
    """

    def __init__(self, route: Route, server: Server, *, bytes_max: int, overflow: Overflow) -> None:
        """Keep the arguments."""
        self._route = route
        self._server = server
        self._bytes_max = bytes_max
        self._overflow = overflow
        self.reset("")

    def reset(self, writer: str) -> None:
        """Start from zero, as another writer."""
        self.writer = writer
        self.accepted: dict[int, int] = {}
        self.arrived: deque[Arrived] = deque(maxlen=10_000)
        self._others_bytes = 0
        """What the other parts hold, as of the last look: the bound is on all of them."""
        self._others_known_at = -1e9
        self._stored: deque[tuple[int, int]] = deque()
        self._folding = primitives.Lock()
        self._slots: deque[_Slot] = deque()
        self._slots_made = 0

    def send(self, events: Sequence[Event], deadline: float) -> None:
        """Store all of the events or none, by ``deadline``.  Raises QueueError."""
        self._server.make_sure(deadline)
        self._look_at_others(deadline)
        if self._route.away_for_s(self._server.home):
            self._server.move_home()
        while True:
            slot = self._slot()
            try:
                self._send_in(slot, events, deadline)
            except _Twice:
                self._server.tell(
                    f"another process goes by this one's name, {self.writer}: was a snapshot of its machine resumed "
                    "twice? Nothing is lost; start it again"
                )
                slot = _Slot(os.urandom(8).hex())
            else:
                return
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
        slot.mark = os.urandom(4).hex()
        room = self._bytes_max - self._others_bytes
        mode = "drop" if self._overflow == "drop_oldest" else ""
        key = prefix(self._route.name, home) + "sum"
        put: list[Any] = [SCRIPTS["put"], 1, key, self.writer, slot.name, slot.serial, slot.mark, room, mode]
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
        if answers[0][0] == b"ok" and answers[0][3]:
            self._server.is_new(deadline)
        count: dict[str, int] = {}
        for one in made:
            count[one.url] = count.get(one.url, 0) + one.events
        for url, number in count.items():
            self.arrived.append((home, url, number))
        self._count(home, len(events))

    def _read(self, slot: _Slot, answers: Sequence[Any], kept: check.Kept) -> None:
        said = answers[0]
        if isinstance(said, Fault):
            if said.code == "WRONGTYPE" or is_denied(said):
                raise QueueUnavailable(remedy(said), reason="redis_unusable")
            raise QueueUnavailable(f"the server does not store: {said}", reason="redis_unavailable")
        if said[0] == b"memory":
            slot.unsure = None
            raise QueueFull("the server's memory is full (maxmemory)", reason="redis_full")
        if said[0] == b"full":
            slot.unsure = None
            raise QueueFull(f"the queue holds its {self._bytes_max} bytes")
        if said[0] not in (b"ok", b"stored"):
            slot.unsure = None
            raise _Twice
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
                shard, [(SCRIPTS["void"], 1, key, self.writer, slot.name, slot.serial, slot.mark, *pairs)], deadline
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
        if self._server.shards < 2 or now - self._others_known_at < _OTHERS_S:
            return
        self._others_known_at = now
        others = [shard for shard in range(self._server.shards) if shard != self._server.home]
        asked = [(shard, [("HGET", prefix(self._route.name, shard) + "sum", "b")]) for shard in others]
        if self._route.has_many:  # one that is silent must leave time for the put, which may go elsewhere
            deadline = now + (deadline - now) / 4
        self.know_others([0 if isinstance(one, Away) else one[0] for one in self._route.ask_all(asked, deadline)])

    def know_others(self, stored: Sequence[Any]) -> None:
        """Take note of what the other parts hold."""
        self._others_bytes = sum([int(one) for one in stored if one is not None and not isinstance(one, Fault)])
        self._others_known_at = monotonic()

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

    def sync(self, deadline: float) -> bool:
        """Make what is stored as safe as the server can; True if it is on its disk, and the replicas' that were asked.

        All writes are in one order there: a write of now that is safe means that what came before it is.
        """
        if not self.void_what_is_unsure(deadline):
            return False
        left_ms = max(1, int(1000 * (deadline - monotonic() - _WAIT_LATE_S)))
        for shard in sorted({*self.accepted, self._server.home}):
            kept = self._server.kept
            wait = kept.wait if kept.level != "os" and kept.wait else ("WAITAOF", 1, 0)
            touch: Command = ("HINCRBY", prefix(self._route.name, shard) + "sum", "b", 0)
            try:
                answer = self._route.ask(shard, [touch, (*wait, left_ms)], deadline)[1]
            except Away:
                return False
            if not check.confirmed(answer, wait) and not (isinstance(answer, Fault) and kept.level != "os"):
                return False
        return True
