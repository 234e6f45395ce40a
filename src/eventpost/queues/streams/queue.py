"""RedisStreamsQueue: the queue that machines share.  See the package's docstring for the theory."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, get_args

from ...clock import Clock, SystemClock
from ...errors import QueueUnavailable
from ...event import Event
from ...sender.primitives import get_ident, is_mine
from ...transports.tls import find_authorities
from ...watch.signals import Signal
from ..protocol import Answer, Durability, Lease, Overflow, Queue, QueueStats
from ..spill import SpillQueue
from .address import parse
from .claims import Claims
from .client import SCRIPTS, Command, Login
from .commit import Commit
from .count import Count
from .hand import Hand
from .holding import Holding
from .keeper import Keeper
from .names import check_name, writer_id
from .put import Puts
from .route import Away, Route
from .server import Server
from .settling import Settling

GIB: Final = 1 << 30
MIB: Final = 1 << 20
DAY_S: Final = 86_400.0
SHARDS_MAX: Final = 1024
_SYNC_MAX_S: Final = 2.0
_UNTOLD_MAX: Final = 1000
_LOCK_TIMEOUTS: Final = 3
"""How many of the server's timeouts a caller waits for the sender to be done with the queue."""


class RedisStreamsQueue:
    """A durable queue in Redis (6.2 or newer) or Valkey, shared by any number of processes on any number of machines.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``unix:///path``, ``redis+sentinel://host:port,host:port/service``,
            ``redis+cluster://host:port,host:port``; user, password and the number of the database may stand in it.
            With ``rediss+sentinel`` and ``rediss+cluster`` over TLS.
        name: The queue's name, part of all its keys; processes that use the same one share it.
        shards: In how many parts it is divided, at least; a queue that has more already keeps them.
        bytes_max: Bound on the bytes stored, of payloads and what stands around them, over all parts; what is in flight
            is stored.  Dead letters have a bound of their own.
        overflow: What a put does at the bound: ``"refuse"`` raises QueueFull, ``"drop_oldest"`` drops the oldest
            entries of its part that nobody has claimed (counted event by event), ``"block"`` waits up to
            ``block_timeout_s`` and then raises QueueFull.
        block_timeout_s: See ``overflow``.
        lease_s: Seconds after which others may take what a process has claimed and neither settled nor renewed.
        timeout_s: Seconds that anything here waits for the server, at most; name resolution included.
        dead_bytes_max: Bound on dead letters over all parts, in bytes; None: no bound.
        dead_age_max_s: Age at which a dead letter is dropped, in seconds; None: never.
        durability: What is asked for; ``durability`` says what the server confirmed, ``describe()`` both.  ``"os"``:
            a put survives the end of this process and its machine, and of the server what that one's settings keep.
            ``"fsync"``: power loss at the server.  ``"host"``: the loss of the server's machine; needs ``replicas``.
        replicas: How many replicas have to have each put before it returns (WAIT, or WAITAOF where there is one and
            more than ``"os"`` is asked for); a put that too few confirm in time is refused, and taken back if it can.
        username: ACL user; instead of the one in the URL.
        password: Its password; instead of the one in the URL.
        ca: File or folder of the trusted authorities; None: as the environment or the system says.
        spill: A queue on this machine that takes events while the server cannot, such as ``JournalQueue(folder)``; from
            there they flow to the server.  A queue and not a path: its bound, its durability and who may read it are
            worth choosing.  What is made then is a :class:`~eventpost.queues.spill.SpillQueue` around this one, which
            has all that this one has.  None: events are refused meanwhile.
        clock: Time, for delays.

    Raises:
        RedisUnusable: the server can't be used for a queue (too old, evicts keys, denies a command, does not let us
            in); the message names the remedy.  A server that is merely away raises nothing here.
        ValueError: an argument is out of its range.
    """

    put_waits = True
    """A put waits for an answer from elsewhere: an event loop has it made on a thread."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "eventpost",
        shards: int = 4,
        bytes_max: int = GIB,
        overflow: Overflow = "refuse",
        block_timeout_s: float = 1.0,
        lease_s: float = 60.0,
        timeout_s: float = 1.0,
        dead_bytes_max: int | None = 256 * MIB,
        dead_age_max_s: float | None = 30 * DAY_S,
        durability: Durability = "os",
        replicas: int = 0,
        username: str | None = None,
        password: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        spill: Queue | None = None,
        clock: Clock | None = None,
    ) -> None:
        del spill  # see __new__
        if overflow not in get_args(Overflow):
            raise ValueError(f"overflow must be one of {', '.join(map(repr, get_args(Overflow)))}, not {overflow!r}")
        if durability not in ("os", "fsync", "host"):
            raise ValueError(f"durability must be 'os', 'fsync' or 'host', not {durability!r}")
        if durability == "host" and replicas < 1:
            raise ValueError("durability 'host' needs replicas=1 or more: one server's machine can be lost")
        for what, value, least in (
            ("shards", shards, 1), ("bytes_max", bytes_max, 1), ("block_timeout_s", block_timeout_s, 0),
            ("lease_s", lease_s, 0.05), ("timeout_s", timeout_s, 0.01), ("dead_bytes_max", dead_bytes_max, 1),
            ("dead_age_max_s", dead_age_max_s, 0), ("replicas", replicas, 0),
        ):  # fmt: skip
            if value is not None and not value >= least:
                raise ValueError(f"{what} must be at least {least:g}, not {value!r}")
        if shards > SHARDS_MAX:
            raise ValueError(f"shards must be at most {SHARDS_MAX}, not {shards}")
        address = parse(url, username=username, password=password)
        authorities = find_authorities(ca) if address.tls else None
        self.emit: Callable[[Signal], None] = _nobody
        self.sends = True
        self.name = check_name(name)
        self.overflow: Overflow = overflow
        self.lease_s: float = lease_s
        self.clock: Clock = clock or SystemClock()
        self._signals: deque[Signal] = deque(maxlen=_UNTOLD_MAX)
        self._timeout_s = timeout_s
        login = Login(
            username=address.username, password=address.password, database=address.database, authorities=authorities
        )
        sentinel_login = Login(username=None, password=address.sentinel_password, database=0, authorities=authorities)
        self._route = Route(address, login, sentinel_login, self.name)
        self._server = Server(self._route, shards=shards, asked=durability, replicas=replicas, emit=self._tell)
        self._hand = Hand()
        self._holding = Holding(self._route, self._hand, self.clock, lease_s=lease_s, timeout_s=timeout_s)
        self._claims = Claims(self._route, self._server, self._hand, self._holding, self.clock, emit=self._tell)
        self._settling = Settling(
            self._server, self._hand, self._holding, self.clock, dead_bytes_max=dead_bytes_max,
            dead_age_max_s=dead_age_max_s,
        )  # fmt: skip
        self._puts = Puts(self._route, self._server, bytes_max=bytes_max, overflow=overflow)
        self._commit = Commit(
            self._puts, bytes_max=bytes_max, overflow=overflow, block_timeout_s=block_timeout_s,
            timeout_s=timeout_s, is_sender=lambda: get_ident() == self._hand.claimer,
        )  # fmt: skip
        self._count = Count(self._route, self._server, self._puts, self._hand, timeout_s=timeout_s)
        self._keeper = Keeper(
            self._route, self._server, puts=self._puts, hand=self._hand, holding=self._holding, claims=self._claims,
            settling=self._settling, timeout_s=timeout_s,
        )  # fmt: skip
        self._start_from_zero()
        try:
            self._server.first_look(monotonic() + timeout_s)
        except BaseException:
            self._route.close()
            raise

    def __new__(cls, *arguments: Any, spill: Queue | None = None, **options: Any) -> Any:
        """Make one, or two queues that look like one: neither knows of the other."""
        if spill is None:
            return super().__new__(cls)
        return SpillQueue(cls(*arguments, **options), spill, clock=options.get("clock"))

    __new__.__wrapped__ = __init__  # type: ignore[attr-defined]  # who asks for the signature is told this one's

    def _start_from_zero(self) -> None:
        self.writer = writer_id(socket.gethostname(), os.getpid(), os.urandom(4))
        self._signals.clear()
        self._puts.reset(self.writer)
        self._commit.reset()
        self._hand.reset(self.writer, self._puts.arrived)
        self._count.reset()
        self._keeper.reset()
        self._working = False
        self._close_when_done = False
        self._last = QueueStats()
        self._closed: QueueStats | None = None

    @property
    def durability(self) -> Durability:
        """What the server confirmed that a returned put survives; at most what was asked for."""
        return self._server.kept.level

    def describe(self) -> dict[str, Any]:
        """Return what was asked for and what was checked, as plain values; no secrets."""
        return {"writer": self.writer, **self._server.describe()}

    def look_at_server(self) -> None:
        """See whether the server is still what it was, if that is due: for who neither puts nor sends.

        Waits at most ``timeout_s``; raises nothing.
        """
        self._server.look_again(monotonic() + self._timeout_s)
        self._say()

    def _tell(self, signal: Signal) -> None:
        self._signals.append(signal)

    def _say(self) -> None:
        """Tell what happened, once no lock is held: an observer may call anything, and wait for anybody.

        What the constructor found out is told with the first put or look: nobody listens before.
        """
        while self._signals and self.emit is not _nobody and not is_mine(self._hand.lock):
            try:
                signal = self._signals.popleft()
            except IndexError:  # another thread said it
                return
            self.emit(signal)

    @contextmanager
    def _at_work(self) -> Iterator[bool]:
        """Hold the hand's lock.  False: this interrupts something that holds it on this thread, and must not go on."""
        if not self._hand.lock.acquire(True, self._timeout_s * _LOCK_TIMEOUTS):
            yield False
            return
        try:
            if self._working:
                yield False
                return
            self._working = True
            try:
                yield True
            finally:
                self._working = False
        finally:
            self._hand.lock.release()
            if self._close_when_done and not self._working:
                self._close_when_done = False
                self.close()
            if self._signals:
                self._say()

    def put(self, events: Sequence[Event]) -> None:
        """See Queue.put.  Waits at most ``timeout_s`` for the server, and not at all while that is known to be away."""
        try:
            self._commit.put(events)
        finally:
            if self._signals:
                self._say()

    def lanes(self) -> Sequence[str]:
        """See Queue.lanes."""
        with self._hand.lock:
            self._hand.take_note()
            lanes = list(self._hand.lanes.values())
        return [lane.url for lane in lanes if lane.ready or lane.again or any(lane.waiting.values())]

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """See Queue.claim."""
        with self._at_work() as may:
            if not may or self._closed is not None:
                return []
            leases = self._claims.claim(lane, events_max, bytes_max)
            if not leases and self._keeper.look_if_old():
                leases = self._claims.claim(lane, events_max, bytes_max)
            return leases

    def pending(self, lane: str) -> int:
        """See Queue.pending; as of the last look, at most 50 ms ago while the sender is awake."""
        return self._claims.pending(lane)

    def next_due_s(self) -> float | None:
        """See Queue.next_due_s."""
        return self._claims.next_due_s()

    def ack(self, leases: Sequence[Lease]) -> None:
        """See Queue.ack.  Raises QueueUnavailable if the server could not be told: ask again."""
        with self._at_work() as may:
            if not may:
                raise QueueUnavailable("the queue is busy", reason="redis_unavailable")
            self._settling.ack(leases)

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """See Queue.release.  Tells the server with the next look."""
        with self._hand.lock:
            self._settling.release(leases, delay_s)

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """See Queue.bury.  Raises QueueUnavailable if the server could not be told."""
        with self._at_work() as may:
            if not may:
                raise QueueUnavailable("the queue is busy", reason="redis_unavailable")
            self._settling.bury(leases, reason, answer)

    def tend(self) -> float | None:
        """See Queue.tend."""
        with self._at_work() as may:
            return self._keeper.tend() if may and self._closed is None else None

    def sync(self, timeout_s: float) -> bool:
        """See Queue.sync: True once the server has on its disk what was put here (WAITAOF; Redis 7.2 or newer)."""
        with self._at_work() as may:
            return may and self._closed is None and self._puts.sync(monotonic() + min(timeout_s, _SYNC_MAX_S))

    def stats(self) -> QueueStats:
        """See Queue.stats.  The last known figures while the server is away; never raises."""
        if self._closed is not None:
            return self._closed
        with self._at_work() as may:
            if may:
                self._last = self._count.stats()
            return self._last

    def after_fork_in_child(self) -> None:
        """See Queue.after_fork_in_child: a new writer with new connections."""
        closed = self._closed is not None
        self._route.reset()
        self._server.reset()
        self._start_from_zero()
        if closed:
            self._commit.closed = True
            self._closed = QueueStats()

    def close(self, timeout_s: float = 10.0) -> None:
        """See Queue.close.  What is not delivered stays on the server, where any sender may take it.

        In a signal handler that interrupts something here, the rest is done when that has ended.
        """
        self._commit.closed = True
        if self._closed is not None:
            return
        with self._at_work() as may:
            if not may:
                self._close_when_done = self._working
                return
            if self._closed is None:
                self._end(monotonic() + min(timeout_s, self._timeout_s))

    def _end(self, deadline: float) -> None:
        answered = False
        if self._server.joined and self._puts.void_what_is_unsure(deadline):
            calls: list[tuple[int, list[Command]]] = []
            for shard in range(self._server.shards):
                leave = (SCRIPTS["leave"], 1, self._holding.key(shard), self.writer, self._holding.lease_ms)
                calls.append((shard, [leave]))
            answered = not all(isinstance(one, Away) for one in self._route.ask_all(calls, deadline))
        self._hand.close()
        self._closed = self._last = self._count.stats(ask=answered)
        self._route.close()

    def __repr__(self) -> str:
        return f"RedisStreamsQueue({self._route.address}, name={self.name!r}, {self._last})"


def _nobody(signal: Signal) -> None:
    del signal
