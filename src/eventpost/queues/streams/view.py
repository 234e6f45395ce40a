"""A queue that machines share as a :class:`~eventpost.queues.view.View`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ..place import SharedQueue
from ..shown import count
from ..view import Follower, Lane, Letter, Progress, Status
from .inspect import Fleet, FleetStatus, as_dict

IDLE_S: Final = 120.0
"""A holder that has asked for nothing for longer than two usual leases is gone, and its events are anybody's."""


def status_of(found: FleetStatus, described: Mapping[str, Any]) -> Status:
    """Return a fleet's status in the words that all queues share."""
    unclaimed = sum(lane.queued for lane in found.lanes)
    values = as_dict(found)
    values |= {
        "path": f"{found.address} ({found.name})", "segments": sum(lane.entries for lane in found.lanes),
        "writers": len({one.name for one in found.members}), "newer": 0, "bad": 0,
        "slowest": slowest(found), "server": dict(described), "kept": kept(described),
    }  # fmt: skip
    return Status(
        kind="streams", place=str(values["path"]), accepted=found.accepted, delivered=found.delivered,
        queued=found.queued, dead=found.dead, dropped=found.dropped, stored_bytes=found.stored_bytes,
        dead_bytes=found.dead_bytes, oldest_age_s=found.oldest_age_s, closes=found.closes,
        in_flight=max(0, found.queued - unclaimed),
        lanes=[Lane(one.url, one.queued, None, one.oldest_age_s) for one in found.lanes],
        needs=needs(found, described), values=values,
    )  # fmt: skip


def slowest(found: FleetStatus) -> dict[str, Any] | None:
    """Return the holder that has asked for nothing for longest; None: nobody holds anything."""
    holding = [one for one in found.members if one.entries]
    if not holding:
        return None
    last = max(holding, key=lambda one: one.idle_s)
    return {"name": last.name, "part": last.shard, "entries": last.entries, "idle_s": last.idle_s}


def kept(described: Mapping[str, Any]) -> list[str]:
    """Return what the server was seen to be set to, a line for each."""
    lines = []
    for where, facts in described.get("servers", {}).items():
        aof = f"appendfsync {facts['appendfsync'] or 'not told'}" if facts["appendonly"] else "appendonly no"
        bound = f"{facts['maxmemory']:,} bytes, {facts['eviction']}" if facts["maxmemory"] else "none"
        lines.append(
            f"{where}: {facts['product']} {facts['version']}, {facts['role']}, {aof}, "
            f"{count(facts['replicas'], 'replica')}, maxmemory {bound}"
        )
    return lines


def needs(found: FleetStatus, described: Mapping[str, Any]) -> list[str]:
    """Return what a person has to look at."""
    lines = [*found.trouble, *(f"part {one.number}: {one.trouble}" for one in found.shards if one.trouble)]
    if described.get("unusable"):
        lines.append(str(described["unusable"]))
    if not found.closes:
        lines.append("the sum does not close: the server came back without something that it knew, or was emptied")
    for one in found.members:
        if one.entries and one.idle_s > IDLE_S:
            lines.append(
                f"{one.name} holds {count(one.entries, 'entry', 'entries')} of part {one.shard} and has asked for "
                f"nothing for {one.idle_s:.0f} s: start a sender, which takes what others left"
            )
    return list(dict.fromkeys(lines))


class StreamsView:
    """See :class:`~eventpost.queues.view.View`.  Raises RedisUnusable, ValueError."""

    def __init__(self, shared: SharedQueue, *, timeout_s: float) -> None:
        """Ask nothing yet that takes longer than ``timeout_s``."""
        self.fleet = Fleet(shared.url, name=shared.name, password=shared.password, ca=shared.ca, timeout_s=timeout_s)
        self.place = f"{shared} ({shared.name})"

    def status(self) -> Status:
        """See View.status."""
        return status_of(self.fleet.status(), self.fleet.describe())

    def follow(self) -> Follower:
        """See View.follow."""
        raise NotImplementedError

    def dead_letters(self) -> Iterator[Letter]:
        """See View.dead_letters."""
        return self.fleet.dead_letters()

    def retry_dead(self, ids: Iterable[str] | None, *, progress: Progress | None = None) -> int:
        """See View.retry_dead."""
        return self.fleet.retry_dead(ids, progress=progress)

    def discard_dead(self, ids: Iterable[str] | None, *, progress: Progress | None = None) -> int:
        """See View.discard_dead."""
        return self.fleet.discard_dead(ids, progress=progress)

    def close(self) -> None:
        """See View.close."""
        self.fleet.close()
