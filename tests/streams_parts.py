"""The queue on Redis Streams without a server: what its parts would ask is noted, and answered as told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from support import ALL, URL, event, missing, number_of

try:
    from eventpost.queues.streams import commit as commit_module
    from eventpost.queues.streams import queue as queue_module
    from eventpost.queues.streams.address import Address, parse
    from eventpost.queues.streams.claims import Claims
    from eventpost.queues.streams.client import Fault, Script
    from eventpost.queues.streams.entry import pack
    from eventpost.queues.streams.hand import Hand
    from eventpost.queues.streams.held import Held
    from eventpost.queues.streams.holding import Holding
    from eventpost.queues.streams.names import lane_key
    from eventpost.queues.streams.put import Puts
    from eventpost.queues.streams.route import Away
    from eventpost.queues.streams.server import Server
except ModuleNotFoundError as error:
    missing(f"{error.name} (the extra redis)")
from eventpost.errors import QueueFull, QueueUnavailable
from eventpost.testing.clock import ManualClock

__all__ = [
    "GONE",
    "INFO",
    "LANE",
    "ME",
    "OTHER",
    "SAID",
    "Claimer",
    "FakeRoute",
    "Fault",
    "Parts",
    "Whole",
    "a_row",
    "an_entry",
    "claim_call",
    "claimed",
    "is_free",
    "joined",
    "key_of",
]  # fmt: skip

ME = "me-1-00"
LANE = lane_key(URL)
INFO = b"redis_version:7.2.4\r\nmaxmemory:0\r\naof_enabled:1\r\naof_last_write_status:ok\r\nrole:master\r\n"
GONE = Away("it is gone", sent=True)
OTHER = "other-2-11"
SOON = 5001.0
"""A deadline; it is five thousand seconds past nothing now."""
OK = [[b"ok", 90, 0, 0]]
SAID = {
    "join": [1, 2, 0], "INFO": INFO, "CONFIG": [b"appendfsync", b"always"], "put": [b"ok", 9, 0, 0],
    "claim": [[], 0, 0], "HGET": None, "HGETALL": [], "void": 0, "leave": 1, "tidy": 1, "settle": [1], "bury": [1],
    "hold": [1], "WAIT": 1, "HINCRBY": 0, "WAITAOF": [1, 0], "XPENDING": [],
}  # fmt: skip
"""What a server that does as it is asked answers to which command."""
Asked = tuple[int, list[tuple[Any, ...]]]


def shown(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a command with its script's name in the script's place."""
    return tuple(word.name if isinstance(word, Script) else word for word in call)


class FakeRoute:
    """The way to the parts of a queue called ``q``.

    ``asked``: what was asked, by round trip: part and commands.  ``deadlines``: until when, for each of these.
    ``insisted``: whether who asked had to know.  ``answers``: what each part that is asked says, in turn; an exception
    is raised, or stands in the part's place where several are asked.  ``otherwise`` says it when there is none left.
    """

    def __init__(self, otherwise: Callable[[int, list[tuple[Any, ...]]], Any] | None = None) -> None:
        self.name = "q"
        self.address: Address = parse("redis://h")
        self.torn = self.news = 0
        self.has_many = False
        self.away: dict[int, float] = {}
        self.asked: list[list[Asked]] = []
        self.deadlines: list[float] = []
        self.insisted: list[bool] = []
        self.answers: list[Any] = []
        self.otherwise = otherwise
        self.closed = 0

    @property
    def last(self) -> list[Asked]:
        """What was asked last; it is forgotten."""
        return self.asked.pop()

    def away_for_s(self, shard: int) -> float:
        """As told."""
        return self.away.get(shard, 0.0)

    def shown(self, shard: int) -> str:
        """As a route would."""
        return f"h:{shard}"

    def reset(self) -> None:
        """Forget what was asked."""
        self.asked.clear()

    def close(self) -> None:
        """Count it."""
        self.closed += 1

    def _answer(self, shard: int, calls: Any) -> Any:
        those = [shown(call) for call in calls]
        said = self.answers.pop(0) if self.answers or self.otherwise is None else self.otherwise(shard, those)
        return said(shard, those) if callable(said) else said

    def ask(self, shard: int, calls: Any, deadline: float, *, insist: bool = False) -> Any:
        """Note it, and say what there is to say."""
        self.asked.append([(shard, [shown(call) for call in calls])])
        self.deadlines.append(deadline)
        self.insisted.append(insist)
        said = self._answer(shard, calls)
        if isinstance(said, Exception):
            raise said
        return said

    def ask_all(self, asked: Any, deadline: float) -> list[Any]:
        """Note it as one round trip, and say for each part what there is to say."""
        self.asked.append([(shard, [shown(call) for call in calls]) for shard, calls in asked])
        self.deadlines.append(deadline)
        self.insisted.append(False)
        return [self._answer(shard, calls) for shard, calls in asked]


def key_of(shard: int) -> str:
    """Return the key that a part's scripts are called with."""
    return f"{{q:{shard}}}:sum"


def joined(route: FakeRoute, shards: int = 1, home: int = 0, replicas: int = 0, asked: Any = "os") -> Server:
    """Make a server that answered; ``told`` holds what it told."""
    told: list[Any] = []
    server = Server(route, shards=shards, asked=asked, replicas=replicas, emit=told.append)  # type: ignore[arg-type]
    route.answers[:0] = [[[1, shards, home]], [INFO, [b"appendfsync", b"always"]]]
    server.make_sure(1e6)
    server.told = told  # type: ignore[attr-defined]
    route.asked.clear()
    route.deadlines.clear()
    route.insisted.clear()
    return server


class Parts:
    """What the claiming side is made of, around a route that is none; the clocks stand still until they are moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shards: int = 2, **options: Any) -> None:
        self.clock = ManualClock()
        self.time = SimpleNamespace(now=5000.0)
        for module in ("holding", "keeper", "server", "put", "commit", "queue"):
            monkeypatch.setattr(f"eventpost.queues.streams.{module}.monotonic", lambda: self.time.now)
        monkeypatch.setattr("eventpost.queues.streams.holding.boot_s", lambda: self.time.now)
        monkeypatch.setattr("eventpost.queues.streams.claims.boot_s", lambda: self.time.now)
        self.route = FakeRoute()
        self.server = joined(self.route, shards, **options)
        self.puts = Puts(self.route, self.server, bytes_max=1000, overflow="refuse")  # type: ignore[arg-type]
        self.puts.reset(ME)
        self.hand = Hand()
        self.hand.reset(ME, self.puts.arrived)
        self.holding = Holding(self.route, self.hand, self.clock, lease_s=60.0, timeout_s=2.0)  # type: ignore[arg-type]

    def take(self, held: Held) -> Held:
        """Take an entry into hand."""
        self.hand.add(self.hand.lane(held.url), held)
        return held


class Claimer(Parts):
    """Who claims; ``told``: the signals."""

    def __init__(self, monkeypatch, **options):
        super().__init__(monkeypatch, **options)
        self.told = []
        self.claims = Claims(self.route, self.server, self.hand, self.holding, self.clock, emit=self.told.append)

    @property
    def lane(self):
        """The lane of all events here."""
        return self.hand.lane(URL)

    def claim(self, events_max=100, bytes_max=ALL):
        """Claim; returns the events' numbers."""
        return [number_of(lease.event.payload) for lease in self.claims.claim(URL, events_max, bytes_max)]

    def give_back(self, held, at, delay_s):
        """Give an event back as settling does."""
        lease = held.leases.pop(at)
        lease.live = False
        held.states[at] = 2
        held.attempts[at] = lease.attempts
        self.hand.landed(held)
        self.hand.give_back(held, at, self.clock.monotonic() + delay_s)


class Putter(Parts):
    """Who puts."""

    def __init__(self, monkeypatch, *, shards=1, **options):
        self.options = {"bytes_max": 1000, "overflow": "refuse", **options}
        super().__init__(monkeypatch, shards=shards)
        self.puts = Puts(self.route, self.server, **self.options)
        self.puts.reset(ME)

    def put(self, *events, says=OK):
        """Put, with this as the server's answer; returns the only call that was made."""
        self.route.answers.append(says)
        self.puts.send(events or [event(1)], SOON)
        ((shard, (call, *_)),) = self.route.last
        assert shard == self.server.home
        return call

    def refused(self, *says, events=None):
        """Put, with these answers; returns why it was refused."""
        self.route.answers += says
        with pytest.raises((QueueFull, QueueUnavailable)) as caught:
            self.puts.send(events or [event(1)], SOON)
        assert not self.route.answers
        self.why = str(caught.value)
        assert " " in self.why, "in words"
        return caught.value.reason

    def accepted(self):
        """Return what is known to be stored, by part."""
        self.puts.fold()
        return self.puts.accepted


def an_entry(number: int = 1, events: int = 1, *, shard: int = 0, own: bool = True, **options: Any) -> Held:
    """Make an entry; its events' numbers begin with a hundred times its own."""
    those = [event(100 * number + at) for at in range(events)]
    told = {"lane": LANE, "entry_id": f"{number}-0", "writer": ME if own else "other-2-11", "size": 10 * number}
    return Held(shard, URL, events=those, own=own, **{"settled": b"", "sure_until": 5001.0, **told, **options})


def a_row(number: int = 1, events: int = 1, *, writer: str = ME, settled: bytes = b"") -> list[Any]:
    """Make what a claim says of such an entry."""
    data = pack([event(100 * number + at) for at in range(events)])
    return [b"%d-0" % number, writer.encode(), events, data, settled]


def claim_call(shard, events, size=ALL, others=0, *ids, lane=LANE, url=URL):
    """Return the call of a claim."""
    return (shard, [("claim", 1, key_of(shard), ME, lane, url, events, size, 60_000, others, *ids)])


def claimed(*rows, idle=(), waiting=0, taken_over=0):
    """Return what a claim is answered."""
    return [[list(idle), waiting, taken_over, *rows]]


class Whole:
    """A queue without a server; ``says`` is what is answered to which command, a list for several in turn."""

    def __init__(self, monkeypatch, url="redis://h", **options):
        self.time = SimpleNamespace(now=5000.0, paused=[])
        for name in ("holding", "keeper", "server", "put", "commit", "queue", "count"):
            monkeypatch.setattr(f"eventpost.queues.streams.{name}.monotonic", lambda: self.time.now)
        monkeypatch.setattr("eventpost.queues.streams.holding.boot_s", lambda: self.time.now)
        monkeypatch.setattr("eventpost.queues.streams.claims.boot_s", lambda: self.time.now)
        monkeypatch.setattr(commit_module.primitives, "pause", self.pause)
        monkeypatch.setattr(queue_module, "Route", self.made_with)
        self.clock = ManualClock()
        self.says = dict(SAID)
        self.route = FakeRoute(self.answer)
        self.seen = []
        self.queue = queue_module.RedisStreamsQueue(url, clock=self.clock, **options)

    def pause(self, seconds):
        """Move the time."""
        self.time.paused.append(seconds)
        self.time.now += seconds

    def made_with(self, *arguments):
        """Return the route, for a queue that makes one."""
        self.arguments = arguments
        self.route.address, self.route.name = arguments[0], "q"
        return self.route

    def answer(self, shard, calls):
        """Answer each command."""
        answers = []
        for call in calls:
            said = self.says[call[0]]
            if isinstance(said, tuple):
                self.says[call[0]], said = said[1:] or SAID[call[0]], said[0]
            said = said(shard, call) if callable(said) else said
            if isinstance(said, Exception) and not isinstance(said, Fault):
                return said
            answers.append(said)
        return answers

    def asked(self, name):
        """Return what was asked by that name, with its part; all is forgotten."""
        found = [
            (shard, call) for trip in self.route.asked for shard, calls in trip for call in calls if call[0] == name
        ]
        self.route.asked.clear()
        return found

    def until(self, work):
        """Return by when, in seconds from now, all that is asked in some work has to be done."""
        self.route.deadlines.clear()
        work()
        return {deadline - self.time.now for deadline in self.route.deadlines}

    def lease(self, number=1, events=1):
        """Lease an entry's events."""
        self.says["HGETALL"] = ([URL.encode(), b"%d" % events], [])
        self.says["claim"] = (*claimed(a_row(number, events)),)
        self.time.now += 1.0
        leases = self.queue.claim(URL, events, ALL)
        assert [number_of(lease.event.payload) for lease in leases] == [100 * number + at for at in range(events)]
        self.route.asked.clear()
        return leases


def is_free(lock):
    """Tell whether another thread can have a lock."""
    found = []

    def look():
        found.append(lock.acquire(False))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    return found[0]
