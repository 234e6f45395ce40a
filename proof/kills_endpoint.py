"""The endpoint of the kill rounds: an in-process Collector under weather that changes, which remembers when what came.

What may be wrong with an answer is drawn at random; what was received and answered is the oracle.  Poisoned visitors
are refused with 400, always, so that dead letters are among what is killed.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from typing import Final, NamedTuple

import orjson

from eventpost.testing import CollectedRequest, Collector, Reply

WEATHER: Final = {
    "fine": [Reply()],
    "slow": [Reply(delay_s=0.01), Reply(delay_s=0.05), Reply(delay_s=0.15)],
    "unwell": [Reply(), Reply(delay_s=0.02), Reply(503), Reply(429, retry_after=0), Reply(500)],
    "resets": [Reply(), Reply(delay_s=0.02), Reply(reset="before"), Reply(reset="during"), Reply(reset="after")],
    "down": [Reply(503)],
}
OK: Final = 300


class Arrival(NamedTuple):
    """One request's stay of an event: when it came, and when its answer left (``time.monotonic``)."""

    came_s: float
    left_s: float
    surely: bool
    """Whether a 2xx left whole: what it says cannot have been missed by a process that lives."""


class Endpoint:
    """Answers by the weather; keeps, by uuid, each stay that the collector counts as delivered."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.weather = "fine"
        self.stays: defaultdict[str, list[Arrival]] = defaultdict(list)
        self.refused: set[str] = set()
        self.owners: dict[str, str] = {}
        self.collector = Collector(self.answer, keep=False)
        self._open: list[tuple[float, set[str]]] = []
        self._lock = threading.Lock()

    def answer(self, request: CollectedRequest) -> Reply:
        """Choose an answer; called on the collector's thread."""
        now = time.monotonic()
        visitors = orjson.loads(request.body)["visitors"]
        uuids = request.uuids()
        with self._lock:
            if any(visitor["visitor_id"].endswith("poison") for visitor in visitors):
                if len(visitors) == 1:
                    self.refused.update(uuids)
                return Reply(400, body=b"poison")
            for visitor in visitors:
                for uuid in (event["uuid"] for snapshot in visitor["snapshots"] for event in snapshot["events"]):
                    self.owners[uuid] = visitor["visitor_id"].partition(":")[0]
            reply = self.chance.choice(WEATHER[self.weather])
            left = now + reply.delay_s + (0.02 if reply.reset == "during" else 0.0)
            self._open = [one for one in self._open if one[0] > now]
            self._open.append((left, {visitor["visitor_id"].partition(":")[0] for visitor in visitors}))
            if reply.status < OK and reply.reset in (None, "during"):
                for uuid in uuids:
                    self.stays[uuid].append(Arrival(now, left, reply.reset is None))
        return reply

    def is_sending(self, name: str) -> bool:
        """Tell whether a request with an event of this writer ("": anybody's) waits for its answer now."""
        now = time.monotonic()
        with self._lock:
            return any(left > now and (not name or name in names) for left, names in self._open)
