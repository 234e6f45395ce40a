"""A clock that moves only when it is told to."""

from __future__ import annotations


class ManualClock:
    """A Clock for tests.  ``start_s`` is the first monotonic reading, ``epoch_s`` the first time."""

    def __init__(self, start_s: float = 1000.0, epoch_s: float = 1_700_000_000.0) -> None:
        self._monotonic_s = start_s
        self._epoch_s = epoch_s

    def monotonic(self) -> float:
        """Return the seconds that this clock was moved to."""
        return self._monotonic_s

    def time(self) -> float:
        """Return seconds since the epoch; moves along with :meth:`monotonic`."""
        return self._epoch_s

    def advance(self, seconds: float) -> None:
        """Move both readings forward.  Raises ValueError for a negative step: monotonic time never runs backwards."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds} s")
        self._monotonic_s += seconds
        self._epoch_s += seconds

    def __repr__(self) -> str:
        return f"ManualClock({self._monotonic_s})"
