"""What the outage is judged by: the sum, each second; every uuid, at the end; and how the endpoint was met again.

The sum is read from three sides that know nothing of each other: the clients' counts, what the folder says, and what
the endpoint wrote down.  They can't be read at one instant, so each reading stands between two others:
acknowledged before <= accepted <= posts after (an event whose answer was cut off by the kill may be stored, and is
posted again), and delivered <= what the endpoint has answered.

No storm: from its return on, the endpoint never has more requests at once than as many successes as it has given allow.
One is the probe; after it there may be one, and then each success doubles that until there are four, and after that as
many successes as may be in flight double it, up to the sender's bound.  That is the rule in ``sender/breaker.py``,
written down here a second time and from the other side: by what the endpoint saw.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from eventpost import settings
from eventpost.queues.journal import inspect

from .chaos_judge import LOOK_AGAIN_S, PATIENCE_S, Broken
from .outage_wire import CHANGED, RECORD

FIRST: Final = 4
"""Up to here each single success doubles what may be in flight; a new endpoint starts here."""
GROWN_TO: Final = 16
"""A return that was never met with as many requests at once shows no ramp."""


class Counts(NamedTuple):
    """What the clients wrote down."""

    begun: int
    acknowledged: int
    posts: int
    unanswered: int
    refused: int


class Seen:
    """What the endpoint wrote down, read on from time to time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.times = bytearray()
        """How often each number was answered, up to 255."""
        self.begins = array("d")
        self.ends = array("d")
        self.distinct = 0

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return len(self.ends)

    def read(self) -> None:
        """Read what is new.  Raises Broken if a body is not what was posted."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = len(data) - len(data) % RECORD.size
        self._offset += whole
        for begin, end, number in RECORD.iter_unpack(data[:whole]):
            if number == CHANGED:
                raise Broken("a body arrived that nobody has posted")
            if number >= len(self.times):
                self.times.extend(bytes(number + 1 - len(self.times)))
            self.distinct += not self.times[number]
            self.times[number] = min(255, self.times[number] + 1)
            self.begins.append(begin)
            self.ends.append(end)


def check_sum(journal: str, seen: Seen, counts: Callable[[], Counts]) -> inspect.FolderStatus:
    """Compare the three sides.  Raises Broken."""
    until = time.monotonic() + PATIENCE_S
    while True:
        before = counts()
        status = inspect.folder_status(journal)
        after = counts()
        seen.read()
        wrong = []
        if not status.closes:
            wrong.append("the folder's sum does not close")
        if not before.acknowledged <= status.accepted <= after.posts:
            wrong.append(f"acknowledged {before.acknowledged}, accepted {status.accepted}, posts {after.posts}")
        if status.delivered > seen.answered:
            wrong.append(f"{status.delivered} noted as delivered, {seen.answered} were answered")
        if status.dead or status.dropped or status.bad or status.trouble:
            wrong.append(f"dead {status.dead}, dropped {status.dropped}, set aside {status.bad}")
        if not wrong:
            return status
        if time.monotonic() > until:
            raise Broken(f"{'; '.join(wrong)}: {status}")
        time.sleep(LOOK_AGAIN_S)


def check_end(journal: str, seen: Seen, counts: Counts, left: Sequence[int]) -> int:
    """Compare each uuid that was acknowledged with what arrived; returns how many arrived again.  Raises Broken."""
    seen.read()
    status = inspect.folder_status(journal)
    if not status.closes or status.accepted != status.delivered:
        raise Broken(f"not everything is delivered: {status}")
    if findings := inspect.verify(journal):
        raise Broken(f"damaged: {findings}")
    if len(seen.times) > counts.begun:
        raise Broken(f"{len(seen.times) - counts.begun} events were invented")
    seen.times.extend(bytes(counts.begun - len(seen.times)))
    lost = {number for number, times in enumerate(seen.times) if not times} - set(left)
    if lost:
        raise Broken(f"{len(lost)} acknowledged events were not delivered: {sorted(lost)[:5]}")
    if counts.acknowledged != counts.begun - len(left):
        raise Broken(f"{counts}, and {len(left)} without a yes")
    return seen.answered - seen.distinct


def allowed(successes: int) -> int:
    """Return how many requests may be in flight after so many successes since the return."""
    if successes < 2:
        return 1
    return min(settings.IN_FLIGHT_MAX, 1 << ((successes + 1).bit_length() - 1))


def in_flight(begins: Sequence[float], ends: Sequence[float]) -> list[tuple[float, int, int]]:
    """Return for the begin of each request when, how many are in flight with it, and how many have ended before it."""
    found, done = [], 0
    ended = sorted(ends)
    for index, begin in enumerate(sorted(begins)):
        while done < len(ended) and ended[done] <= begin:
            done += 1
        found.append((begin, index + 1 - done, done))
    return found


def check_ramp(rows: Sequence[tuple[float, int, int]]) -> int:
    """Check that what came after the return came without a storm; returns the most in flight.  Raises Broken.

    ``rows``: as :func:`in_flight` returns them, of all requests since then.
    """
    for number, (_, flying, done) in enumerate(rows):
        if flying > allowed(done):
            raise Broken(f"a storm: request {number} after the return made {flying} at once, after {done} successes")
    most = max((flying for _, flying, _ in rows), default=0)
    if most < GROWN_TO:
        raise Broken(f"no ramp was seen: {most} requests at once, at most")
    return most
