"""What the keys are called; pure."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

GROUP: Final = "g"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_name(name: str) -> str:
    """Return the name of a queue.  Raises ValueError for one that can't be part of a key."""
    if not _NAME.fullmatch(str(name)):
        raise ValueError(f"name must be 1 to 64 letters, digits, '_', '.' or '-', not {name!r}")
    return name


def prefix(name: str, shard: int) -> str:
    """Return what all keys of a part begin with; its hash tag puts them into one slot of a cluster."""
    return f"{{{name}:{shard}}}:"


def lane_key(url: str) -> str:
    """Return an endpoint's part of a key: a digest, since an URL may hold anything."""
    return blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def writer_id(host: str, pid: int, chance: bytes) -> str:
    """Return a name that no other incarnation of a process has; its beginning tells people where it runs."""
    shown = re.sub(r"[^A-Za-z0-9_.-]", "", host)[:40] or "host"
    return f"{shown}-{pid}-{chance.hex()}"
