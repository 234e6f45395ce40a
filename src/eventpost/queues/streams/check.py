"""What the server is, and what a put there survives: asked of the server, decided here.

=========  ===========================================================================================================
level      confirmed by
=========  ===========================================================================================================
``os``     every answer: the event is in another process.  What a restart of the server keeps depends on its settings:
           with ``appendfsync everysec`` all but about the last second, without append-only file less or nothing
``fsync``  ``appendonly yes`` with ``appendfsync always``; or, with any other ``appendfsync``, WAITAOF after each put
``host``   the same, and that each put was acknowledged by ``replicas`` >= 1 (WAIT, or WAITAOF for both at once)
=========  ===========================================================================================================

What is asked for and not confirmed is not claimed: ``durability`` says the highest level that was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from ..protocol import Durability
from .client import Command, Fault

OLDEST: Final = (6, 2)
"""XPENDING with IDLE, and ranges without their ends, came with Redis 6.2; every Valkey has them."""
_WAITAOF_SINCE: Final = (7, 2)
_LEVELS: Final = ("memory", "os", "fsync", "host")
QUESTIONS: Final[tuple[Command, ...]] = (("INFO",), ("CONFIG", "GET", "appendfsync"))


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself.  ``appendfsync`` is empty where it may not be asked for."""

    product: str = ""
    version: tuple[int, ...] = ()
    appendonly: bool = False
    appendfsync: str = ""
    replicas: int = 0
    maxmemory: int = 0
    eviction: str = ""
    role: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return them as plain values."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {
            "version": ".".join(map(str, self.version))
        }


@dataclass(frozen=True, slots=True)
class Kept:
    """What a put survives, and the command behind each put that makes it so (WAIT, WAITAOF), without its timeout."""

    level: Durability = "os"
    wait: tuple[Any, ...] = ()
    because: str = ""


def read(answers: Sequence[Any]) -> Facts:
    """Read what came back for QUESTIONS.  Raises ValueError if the server may not be asked at all."""
    info, config = answers
    if isinstance(info, Fault):
        raise ValueError(  # noqa: TRY004 - an answer, not an argument
            f"the server denies INFO ({info}): allow +info"
        )
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    told = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    policy = ""
    if isinstance(config, list) and len(config) == 2:
        policy = config[1].decode() if isinstance(config[1], bytes) else str(config[1])
    valkey = told.get("valkey_version")
    return Facts(
        product="valkey" if valkey else "redis",
        version=_numbers(valkey or told.get("redis_version", "")),
        appendonly=told.get("aof_enabled") == "1" and told.get("aof_last_write_status", "ok") == "ok",
        appendfsync=policy,
        replicas=int(told.get("connected_slaves", 0)),
        maxmemory=int(told.get("maxmemory", 0)),
        eviction=told.get("maxmemory_policy", ""),
        role=told.get("role", ""),
    )


def fault(facts: Facts) -> str:
    """Return why this server can't hold a queue, with the remedy; empty if it can."""
    if facts.product == "redis" and facts.version[:2] < OLDEST:
        shown = ".".join(map(str, facts.version)) or "of an unknown version"
        return f"Redis {shown} lacks XPENDING IDLE: a queue needs Redis 6.2 or newer, or Valkey"
    if facts.maxmemory and facts.eviction not in ("noeviction", ""):
        return (
            f"the server evicts keys when its memory is full (maxmemory-policy {facts.eviction}), and with them events "
            "that were accepted: set maxmemory-policy noeviction, or use a server of its own for the queue"
        )
    return ""


def kept(facts: Facts, asked: Durability, replicas: int) -> Kept:
    """Return what puts survive on this server, given what was asked for."""
    wanted = _LEVELS.index(asked)
    waitaof = facts.product == "valkey" or facts.version[:2] >= _WAITAOF_SINCE
    wait: tuple[Any, ...] = ("WAIT", replicas) if replicas else ()
    if wanted <= _LEVELS.index("os"):
        return Kept("os", wait, "nothing more was asked for")
    if not facts.appendonly:
        return Kept("os", wait, "the server keeps no append-only file (appendonly no), or cannot write it")
    if facts.appendfsync != "always":
        if not waitaof:
            return Kept("os", wait, f"appendfsync is {facts.appendfsync or 'not told'}, and the server has no WAITAOF")
        wait = ("WAITAOF", 1, replicas)
    if asked == "host" and not replicas:
        return Kept("fsync", wait, "without replicas the server's machine is the only one that has it")
    if asked == "host":
        return Kept("host", wait, f"synced by the server and acknowledged by {replicas} of its replicas, put by put")
    return Kept("fsync", wait, "synced by the server before it answers" if not wait else "waited for, put by put")


def confirmed(answer: Any, wait: Sequence[Any]) -> bool:
    """Tell whether WAIT or WAITAOF said that enough have it."""
    if isinstance(answer, Fault):
        return False
    if wait[0] == "WAIT":
        return int(answer) >= int(wait[1])
    return int(answer[0]) >= int(wait[1]) and int(answer[1]) >= int(wait[2])


def weakest(levels: Sequence[Durability]) -> Durability:
    """Return the lowest of several servers' levels."""
    found: Durability = min(levels, key=_LEVELS.index, default="os")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
