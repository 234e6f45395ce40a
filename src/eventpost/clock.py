"""Time, as something that is handed in.

Everything that decides by time takes a :class:`Clock`, so that a test (``eventpost.testing.clock.ManualClock``) or a
simulation can run hours in milliseconds and get the same result twice.
"""

from __future__ import annotations

import time as _time
from typing import Protocol


class Clock(Protocol):
    """Two readings, both in seconds."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards; for intervals and deadlines."""
        ...

    def time(self) -> float:
        """Return seconds since the epoch; for what people and HTTP dates mean by time."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    monotonic = staticmethod(_time.monotonic)
    time = staticmethod(_time.time)

    def __repr__(self) -> str:
        return "SystemClock()"
