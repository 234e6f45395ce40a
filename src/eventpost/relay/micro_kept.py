"""What ``eventpost micro`` has received: good events, bad requests, counts; bounded, the oldest go first.

Good is a request that the endpoint would use: a batch without a fault by the published description (``strict``).  It
is kept event by event, each with its visitor and its batch, since tests ask for events.  Bad is any other, kept as it
came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .strict import IMPRESSION_KEY

BODY_CHARS_MAX: Final = 10_000
COUNTS: Final = ("requests", "good", "bad", "failed", "events", "forgotten")
FILTERS: Final = ("kind", "key", "entity_id", "uuid", "visitor_id", "path")


class Kept:
    """The memory of one micro.

    Args:
        rows_max: events, and bad requests, that are kept, each.
        bytes_max: bytes of the bodies that they came in.
    """

    def __init__(self, *, rows_max: int, bytes_max: int) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._good: deque[tuple[int, list[dict[str, Any]]]] = deque()
        self._bad: deque[tuple[int, dict[str, Any]]] = deque()
        self._bytes = self._events = 0
        self._counts = dict.fromkeys(COUNTS, 0)

    def counts(self) -> dict[str, int]:
        """Return how many requests came: good, bad, or failed by the script; events in good ones; rows forgotten."""
        return dict(self._counts)

    def add_failed(self) -> None:
        """Count a request that the script let fail: an endpoint would not have taken it."""
        self._counts["requests"] += 1
        self._counts["failed"] += 1

    def add_good(self, batch: Mapping[str, Any], *, path: str, at_s: float, body_bytes: int) -> None:
        """Keep the events of a batch without a fault."""
        self._counts["requests"] += 1
        self._counts["good"] += 1
        number = self._counts["requests"]
        around = {name: value for name, value in batch.items() if name != "visitors"}
        rows = [
            {
                "request": number, "at": at_s, "path": path, "kind": _kind(event), "event": event,
                "visitor_id": visitor["visitor_id"], "attributes": visitor.get("attributes", []),
                "decisions": snapshot.get("decisions", []), "batch": around,
            }
            for visitor in batch["visitors"] for snapshot in visitor["snapshots"] for event in snapshot["events"]
        ]  # fmt: skip
        self._counts["events"] += len(rows)
        if rows:
            self._good.append((body_bytes, rows))
            self._events += len(rows)
            self._bytes += body_bytes
            self._make_room()

    def add_bad(
        self, body: bytes, *, path: str, at_s: float, status: int, reason: str, errors: Sequence[str]
    ) -> None:  # fmt: skip
        """Keep a request that the endpoint would not use, with what is wrong with it and what was answered."""
        self._counts["requests"] += 1
        self._counts["bad"] += 1
        text = body.decode("utf-8", "replace")
        row = {
            "request": self._counts["requests"], "at": at_s, "path": path, "status": status, "reason": reason,
            "errors": list(errors), "body": text[:BODY_CHARS_MAX], "body_bytes": len(body),
        }  # fmt: skip
        size = min(len(text), BODY_CHARS_MAX)
        self._bad.append((size, row))
        self._bytes += size
        self._make_room()

    def _make_room(self) -> None:
        while self._good and (self._events > self._rows_max or self._bytes > self._bytes_max):
            size, rows = self._good.popleft()
            self._events -= len(rows)
            self._bytes -= size
            self._counts["forgotten"] += len(rows)
        while self._bad and (len(self._bad) > self._rows_max or self._bytes > self._bytes_max):
            self._bytes -= self._bad.popleft()[0]
            self._counts["forgotten"] += 1

    def good(self, filters: Mapping[str, str], limit: int | None) -> list[dict[str, Any]]:
        """Return the good events in the order in which they came; ``limit``: only so many of the newest.

        ``filters``: what fields must say, by FILTERS' names.
        """
        found = [row for _, rows in self._good for row in rows if _fits(row, filters)]
        return found if limit is None else found[len(found) - min(limit, len(found)) :]

    def bad(self, filters: Mapping[str, str], limit: int | None) -> list[dict[str, Any]]:
        """Return the bad requests; as ``good``, by ``path`` and ``reason``."""
        found = [row for _, row in self._bad if all(str(row.get(name)) == text for name, text in filters.items())]
        return found if limit is None else found[len(found) - min(limit, len(found)) :]


def _kind(event: Mapping[str, Any]) -> str:
    return "impression" if IMPRESSION_KEY in {event.get("key"), event.get("type")} else "conversion"


def _fits(row: Mapping[str, Any], filters: Mapping[str, str]) -> bool:
    return all(str(row[name] if name in row else row["event"].get(name)) == text for name, text in filters.items())
