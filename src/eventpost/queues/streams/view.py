"""A queue that machines share as a :class:`~eventpost.queues.view.View`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ...errors import QueueUnavailable, RedisUnusable
from ..place import SharedQueue
from ..shown import count
from ..view import Lane, Letter, Progress, Status
from . import check
from .shown import FleetStatus, as_dict
from .window import FleetWindow, Follower

IDLE_S: Final = 120.0
"""A holder that has asked for nothing for longer than two usual leases is gone, and its events are anybody's."""
Servers = Mapping[str, check.Facts]


def status_of(found: FleetStatus, servers: Servers) -> Status:
    """Return a fleet's status in the words that all queues share; ``queued`` holds what is in flight, too."""
    place = f"{found.address} ({found.name})"
    queued = found.queued + max(0, found.in_flight)
    needed = needs(found)
    values = as_dict(found) | {
        "path": place, "queued": queued, "in_flight": found.in_flight,
        "segments": sum(lane.entries for lane in found.lanes), "writers": len(found.members), "newer": 0, "bad": 0,
        "slowest": slowest(found), "servers": {where: facts.as_dict() for where, facts in servers.items()},
        "kept": kept(servers), "needs": needed,
    }  # fmt: skip
    return Status(
        kind="streams", place=place, accepted=found.accepted, delivered=found.delivered, queued=queued,
        dead=found.dead, dropped=found.dropped, stored_bytes=found.stored_bytes, dead_bytes=found.dead_bytes,
        oldest_age_s=found.oldest_age_s, closes=found.closes, in_flight=found.in_flight,
        lanes=[Lane(one.url, one.queued, None, one.oldest_age_s) for one in found.lanes], needs=needed, values=values,
    )  # fmt: skip


def slowest(found: FleetStatus) -> dict[str, Any] | None:
    """Return, of who holds something, the one that has asked for nothing for longest; None: nobody holds anything."""
    holding = [one for one in found.members if one.entries_held]
    if not holding:
        return None
    last = max(holding, key=lambda one: one.idle_s)
    return {"name": last.name, "entries_held": last.entries_held, "idle_s": last.idle_s}


def kept(servers: Servers) -> list[str]:
    """Return what each server was seen to be set to, and what puts there can survive, a line for each."""
    lines = []
    for where, facts in servers.items():
        told = facts.as_dict()
        aof = f"appendfsync {facts.appendfsync or 'not told'}" if facts.appendonly else "appendonly no"
        bound = f"{facts.maxmemory:,} bytes, {facts.eviction}" if facts.maxmemory else "none"
        most = check.kept(facts, "host" if facts.replicas else "fsync", min(1, facts.replicas))
        lines.append(
            f"{where}: {facts.product} {told['version']}, {facts.role}, {aof}, {count(facts.replicas, 'replica')}, "
            f"maxmemory {bound}; durability {most.level} can be had: {most.because}"
        )
    return lines


def needs(found: FleetStatus) -> list[str]:
    """Return what a person has to look at."""
    lines = list(found.trouble)
    if not found.shards:
        lines.append(f"there is no queue called {found.name} here: nobody has put anything, or the name is another")
    if not found.closes:
        lines.append("the sum does not close: the server came back without something that it knew, or was emptied")
    lines += [
        f"{one.name} holds {count(one.entries_held, 'entry', 'entries')} and has asked for nothing for "
        f"{one.idle_s:.0f} s: start a sender, which takes what others left"
        for one in found.members
        if one.entries_held and one.idle_s > IDLE_S
    ]
    return lines


class StreamsView:
    """See :class:`~eventpost.queues.view.View`.  Raises ValueError; to look, RedisUnusable and QueueUnavailable."""

    def __init__(self, shared: SharedQueue, *, timeout_s: float) -> None:
        """Keep the arguments; asks nothing."""
        self.fleet = FleetWindow(
            shared.url, name=shared.name, password=shared.password, ca=shared.ca, timeout_s=timeout_s
        )
        self.place = f"{self.fleet.address} ({shared.name})"

    def status(self) -> Status:
        """See View.status."""
        return status_of(self.fleet.status(), self._servers())

    def _servers(self) -> Servers:
        try:
            return self.fleet.servers()
        except (QueueUnavailable, RedisUnusable):  # of several one may be away, and a user may not be let ask
            return {}

    def follow(self) -> Follower:
        """See View.follow."""
        return Follower(self.fleet)

    def dead_letters(self) -> Iterator[Letter]:
        """See View.dead_letters."""
        return self.fleet.dead_letters()

    def retry_dead(self, ids: Iterable[str] | None, *, progress: Progress | None = None) -> int:
        """See View.retry_dead."""
        return self.fleet.retry_dead(ids, progress=progress)

    def discard_dead(self, ids: Iterable[str] | None, *, progress: Progress | None = None) -> int:
        """See View.discard_dead."""
        return self.fleet.discard_dead(ids, progress=progress)

    def why_not(self, bytes_max: int | None) -> str | None:
        """Return why a put would be refused just now, in the ledger's word; None: it would not.  Raises nothing."""
        return self.fleet.why_not(bytes_max)

    def close(self) -> None:
        """See View.close."""
        self.fleet.close()
