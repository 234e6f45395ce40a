"""RedisStreamsQueue: the queue that machines share.  See the package's docstring for the theory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...clock import Clock
from ...event import Event
from ...watch.signals import Signal
from ..protocol import Answer, Durability, Lease, Overflow, QueueStats

GIB: Final = 1 << 30
MIB: Final = 1 << 20
DAY_S: Final = 86_400.0


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
        clock: Time, for delays.

    Raises:
        RedisUnusable: the server can't be used for a queue (too old, evicts keys, denies a command, does not let us
            in); the message names the remedy.  A server that is merely away raises nothing here.
        ValueError: an argument is out of its range.
    """

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
        clock: Clock | None = None,
    ) -> None:
        raise NotImplementedError

    emit: Callable[[Signal], None]
    """Takes what happens; a dispatcher sets it."""
    sends: bool
    """Whether this process delivers; False leaves that to others.  A dispatcher sets it."""
    writer: str
    """This process's name on the server: as a writer of entries, and as a consumer."""
    lease_s: float

    @property
    def durability(self) -> Durability:
        """What the server confirmed that a returned put survives; at most what was asked for."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what was asked for and what was checked, as plain values; no secrets."""
        raise NotImplementedError

    def put(self, events: Sequence[Event]) -> None:
        """See Queue.put.  Waits at most ``timeout_s`` for the server, and not at all while that is known to be away."""
        raise NotImplementedError

    def lanes(self) -> Sequence[str]:
        """See Queue.lanes."""
        raise NotImplementedError

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """See Queue.claim."""
        raise NotImplementedError

    def pending(self, lane: str) -> int:
        """See Queue.pending; as of the last look, at most 50 ms ago while the sender is awake."""
        raise NotImplementedError

    def next_due_s(self) -> float | None:
        """See Queue.next_due_s."""
        raise NotImplementedError

    def ack(self, leases: Sequence[Lease]) -> None:
        """See Queue.ack.  Raises QueueUnavailable if the server could not be told: ask again."""
        raise NotImplementedError

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """See Queue.release.  Tells the server with the next look."""
        raise NotImplementedError

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """See Queue.bury.  Raises QueueUnavailable if the server could not be told."""
        raise NotImplementedError

    def tend(self) -> float | None:
        """See Queue.tend."""
        raise NotImplementedError

    def sync(self, timeout_s: float) -> bool:
        """See Queue.sync: asks the server for what was asked of it (WAIT, WAITAOF)."""
        raise NotImplementedError

    def stats(self) -> QueueStats:
        """See Queue.stats.  The last known figures while the server is away; never raises."""
        raise NotImplementedError

    def after_fork_in_child(self) -> None:
        """See Queue.after_fork_in_child: a new writer with new connections."""
        raise NotImplementedError

    def close(self, timeout_s: float = 10.0) -> None:
        """See Queue.close.  What is not delivered stays on the server, where any sender may take it."""
        raise NotImplementedError
