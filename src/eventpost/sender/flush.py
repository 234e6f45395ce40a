"""Know when everything is settled that was accepted before a certain moment.

The easy answer is an empty queue.  Under steady traffic a queue never is, so there is a second one, made of what each
lane's first-in-first-out order allows to know: all that was pending then has been claimed, every batch that was formed
up to that point is settled, nothing that was given back is still waiting, and as many events are settled as were
accepted. It errs towards waiting longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..queues.protocol import QueueStats


class Flush:
    """One caller's wish.  The caller's thread reads ``done`` and ``hopeless`` and sets ``given_up``.

    ``hopeless``: all that is left waits for an endpoint that is left alone.
    """

    __slots__ = ("_accepted", "_marks", "_missing", "done", "given_up", "hopeless")

    def __init__(self) -> None:
        self.done = False
        self.hopeless = False
        self.given_up = False
        self._accepted = 0
        self._missing: dict[str, int] = {}
        self._marks: dict[str, int] = {}

    def note(self, stats: QueueStats, pending: Mapping[str, int], serials: Mapping[str, int]) -> None:
        """Note the moment: what each lane has pending, and the serial of the last batch that it formed."""
        self._accepted = stats.accepted
        self._missing = {lane: count for lane, count in pending.items() if count > 0}
        self._marks = {lane: serial for lane, serial in serials.items() if lane not in self._missing}

    def claimed(self, lane: str, first_claims: int, serial: int) -> None:
        """Note that the lane's next ``first_claims`` events were claimed for the first time."""
        missing = self._missing.get(lane)
        if missing is None:
            return
        if missing > first_claims:
            self._missing[lane] = missing - first_claims
        else:
            del self._missing[lane]
            self._marks[lane] = serial

    def check(self, stats: QueueStats, returned: int, held: Callable[[str], Iterable[int]]) -> bool:
        """Update and return ``done``.

        ``returned``: events that were given back and are not settled since.  ``held(lane)``: the serials of the batches
        of a lane that are neither settled nor given back.
        """
        if not stats.queued and not stats.in_flight:
            self.done = True
        elif not self._missing and not returned:
            settled = stats.delivered + stats.dead + sum(stats.dropped.values())
            self.done = settled >= self._accepted and not any(
                serial <= mark for lane, mark in self._marks.items() for serial in held(lane)
            )
        return self.done
