"""What this process has to know of the server before it uses it, and anew whenever that may have changed.

It is asked once at first use, again after the server was away or another one took its place, and once a minute.  A
server that can't hold a queue is not used, and asked again then.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from ...errors import QueueUnavailable, RedisUnusable
from ...sender.primitives import RLock
from ...watch.signals import Signal, Trouble
from ..protocol import Durability
from . import check
from .client import SCRIPTS, Command, Fault
from .names import prefix
from .route import Away, Denied, Route

FORMAT: Final = 1
_AGAIN_S: Final = 60.0
_UNUSABLE_AGAIN_S: Final = 5.0


class Server:
    """The facts, the number of parts, and this process's home among them."""

    def __init__(
        self, route: Route, *, shards: int, asked: Durability, replicas: int, emit: Callable[[Signal], None]
    ) -> None:
        """Keep the arguments; asks nothing."""
        self._route = route
        self._shards_asked = shards
        self._asked = asked
        self._replicas = replicas
        self._emit = emit
        self.reset()

    def reset(self) -> None:
        """Know nothing."""
        self._lock = RLock()
        self._busy = False
        self._news = -1
        self._checked_at = -1e9
        self._said = ""
        self.joined = False
        self.unusable = ""
        self.shards = self._shards_asked
        self.home = 0
        self.facts: dict[int, check.Facts] = {}
        self.kept = check.Kept("os", (), "the server was not asked yet")

    def make_sure(self, deadline: float) -> None:
        """Have asked what has to be known.  Raises QueueUnavailable."""
        if self.joined and not self.unusable and self._news == self._route.news and not self._is_old:
            return
        if not self._lock.acquire(True, max(0.0, deadline - monotonic())):
            raise QueueUnavailable("the server is being asked what it is", reason="redis_unavailable")
        try:
            if self._busy:  # a signal handler's put, over this thread's own question
                if not self.joined:
                    raise QueueUnavailable("the server is being asked what it is", reason="redis_unavailable")
                return
            self._busy = True
            try:
                if not self.joined or self._news != self._route.news or self._is_old:
                    self._ask(deadline)
            except Denied as denied:
                raise QueueUnavailable(remedy(denied.fault), reason="redis_unusable") from None
            except Away as away:
                raise QueueUnavailable(str(away), reason="redis_unavailable") from None
            finally:
                self._busy = False
        finally:
            self._lock.release()
        if self.unusable:
            raise QueueUnavailable(self.unusable, reason="redis_unusable")

    def look_again(self, deadline: float) -> None:
        """As ``make_sure``, for who raises nothing: the sender, now and then."""
        try:
            self.make_sure(deadline)
        except QueueUnavailable:
            return

    def first_look(self, deadline: float) -> None:
        """Ask for the first time.  Raises RedisUnusable; a server that is away is no error."""
        try:
            self.make_sure(deadline)
        except QueueUnavailable as error:
            if error.reason == "redis_unusable":
                raise RedisUnusable(str(error)) from None

    @property
    def _is_old(self) -> bool:
        return monotonic() - self._checked_at > (_UNUSABLE_AGAIN_S if self.unusable else _AGAIN_S)

    def _ask(self, deadline: float) -> None:
        news = self._route.news
        if not self.joined:
            self._join(deadline)
            if self.unusable:
                return
        else:
            with suppress(Away):  # a cluster's other parts are used all the same
                soon = monotonic() + (deadline - monotonic()) / (4 if self._route.has_many else 1)
                self.hear_shards(self._route.ask(0, [self.shards_call], soon)[0], soon)
        problems = []
        away: Away | None = None
        shards = range(self.shards) if self._route.address.kind == "cluster" else range(1)
        for shard in shards:
            left_s = (deadline - monotonic()) / (len(shards) - shard)  # one that is away must leave time for the others
            try:
                facts = check.read(self._route.ask(shard, check.QUESTIONS, monotonic() + left_s))
            except Away as error:
                away = error
                continue
            except ValueError as error:
                problems.append(str(error))
                continue
            self.facts[shard] = facts
            problem = check.fault(facts)
            if problem:
                problems.append(problem)
        if away is not None and not self.facts:
            raise away
        self.unusable = problems[0] if problems else ""
        kept = [check.kept(facts, self._asked, self._replicas) for facts in self.facts.values()]
        if kept:
            level = check.weakest([one.level for one in kept])
            self.kept = next(one for one in kept if one.level == level)
        self._news, self._checked_at = max(news, self._route.news), monotonic()
        if self.unusable:
            self.tell(self.unusable)
        elif self.kept.level != self._asked:
            self.tell(f"durability {self._asked!r} was asked for, {self.kept.level!r} is kept: {self.kept.because}")

    def tell(self, text: str) -> None:
        """Tell of trouble, once."""
        if text != self._said:
            self._said = text
            self._emit(Trouble("redis", text))

    def _join(self, deadline: float) -> None:
        (answer,) = self._route.ask(0, [self._join_call(self._shards_asked)], deadline)
        if isinstance(answer, Fault):
            self.unusable = remedy(answer)
            return
        form, shards, number = (int(one) for one in answer)
        if form > FORMAT:
            self.unusable = f"the queue is of format {form}, made by a newer Eventpost: update this one"
            return
        self.unusable = ""
        self.shards = shards
        self.home = number % shards
        self.joined = True

    def move_home(self) -> None:
        """Put into another part from now on: the server of this one is away, and not all are.

        Any other: the processes that had their home on a lost server share out over all that are left.
        """
        there = [shard for shard in range(self.shards) if not self._route.away_for_s(shard)]
        if there:
            self.home = random.choice(there)

    @property
    def shards_call(self) -> Command:
        """How to ask for the number of parts; ``hear_shards`` takes the answer."""
        return ("HGET", prefix(self._route.name, 0) + "meta", "shards")

    def hear_shards(self, answer: Any, deadline: float) -> None:
        """Know of parts that somebody added; tell a server that forgot (it was emptied) how many there are."""
        if isinstance(answer, Fault):
            return
        if int(answer or 0) >= self.shards:
            self.shards = int(answer)
            return
        try:
            self._route.ask(0, [self._join_call(self.shards)], deadline)
        except Away:
            return

    def is_new(self, deadline: float) -> None:
        """Tell a server that knows of nothing how many parts there are, if it was emptied: others look for them."""
        with suppress(Away):
            self.hear_shards(self._route.ask(0, [self.shards_call], deadline)[0], deadline)

    def _join_call(self, shards: int) -> Command:
        return (SCRIPTS["join"], 1, prefix(self._route.name, 0) + "sum", FORMAT, shards)

    def describe(self) -> dict[str, Any]:
        """Return what was asked for and what is so, as plain values."""
        return {
            "address": str(self._route.address),
            "name": self._route.name,
            "shards": self.shards,
            "asked": {"durability": self._asked, "replicas": self._replicas},
            "durability": self.kept.level,
            "because": self.kept.because,
            "waits": " ".join(map(str, self.kept.wait)),
            "unusable": self.unusable,
            "servers": {self._route.shown(shard): facts.as_dict() for shard, facts in self.facts.items()},
        }


def remedy(fault: Fault) -> str:
    """Return what an error of the server's means at the first use."""
    if fault.code in ("NOAUTH", "WRONGPASS"):
        return f"the server lets nobody in without the right user and password: {fault}"
    if fault.code == "WRONGTYPE":
        return f"keys of the queue's name hold something else ({fault}): give the queue another name=, or remove them"
    if is_denied(fault):
        return (
            f"the server's user may not do this ({fault}): allow +@read +@write +@stream +@scripting +time "
            "+info +wait +waitaof, in a cluster +cluster, and the keys ~{NAME:*"
        )
    return f"the server cannot hold a queue: {fault}"


def is_denied(fault: Fault) -> bool:
    """Tell whether the server's user lacks a right; within a script each server has words of its own for that."""
    return fault.code == "NOPERM" or "ACL failure in script" in str(fault) or "user executing the script" in str(fault)
