"""Signals as lines of the logger ``eventpost``.

The library configures no logging and adds no handler, not even a null one: where an application configured nothing,
Python's last resort prints warnings to stderr, and a loss is one.  A reason that comes again and again is logged the
first time, then at most once in ``every_s`` seconds, with the count.  Nothing here holds a payload or a visitor id.
"""

from __future__ import annotations

import logging
from typing import Final

from ..clock import Clock, SystemClock
from ..event import shown_url
from .signals import (
    Adopted,
    BreakerChanged,
    Buried,
    Closed,
    Damaged,
    Delivered,
    Dropped,
    FlowedBack,
    Refused,
    Retrying,
    Signal,
    Spilling,
    Trouble,
)

EVERY_S: Final = 60.0
KINDS_MAX: Final = 1000
STATUS_EXPECTED: Final = 204
UNEXPECTED_EVERY_S: Final = 3600.0


class LogObserver:
    """An observer that logs.  ``logger``: where to; ``clock``: for the rate; ``every_s``: seconds between repeats."""

    def __init__(
        self, logger: logging.Logger | None = None, *, clock: Clock | None = None, every_s: float = EVERY_S
    ) -> None:
        self._log = logger or logging.getLogger("eventpost")
        self._clock: Clock = clock or SystemClock()
        self._every_s = every_s
        self._kinds: dict[tuple[str, str], list[float]] = {}  # [next line at, events since the last line]

    def __call__(self, signal: Signal) -> None:
        """Log the signal."""
        match signal:
            case Delivered() | Retrying():
                if isinstance(signal, Delivered) and signal.status != STATUS_EXPECTED:
                    self._unexpected(signal)
                if self._log.isEnabledFor(logging.DEBUG):
                    self._log.debug("eventpost: %r", signal)
            case Refused(reason, events, detail):
                self._loss("refused", reason, events, detail)
            case Buried(lane, events, reason, status):
                self._loss(
                    "set aside as dead", reason, events, f"{shown_url(lane)}{f' answered {status}' if status else ''}"
                )
            case Dropped(reason, events, detail):
                self._loss("dropped", reason, events, detail)
            case BreakerChanged():
                self._breaker(signal)
            case Adopted(path, events):
                self._log.info("eventpost: took over %d events from %s", events, path)
            case Damaged(path, at_byte, length_bytes, why):
                self._log.error(
                    "eventpost: %d damaged bytes at %d set aside in %s: %s", length_bytes, at_byte, path, why
                )
            case Spilling(reason, detail):
                if self._due("spilling", reason, 1):
                    text = "eventpost: events go to the spill on this machine (%s)%s"
                    self._log.warning(text, reason or "older ones wait there", f": {detail}" if detail else "")
            case FlowedBack(events, after_s):
                self._log.info("eventpost: %d spilled events have flowed back, %.1f s after the first", events, after_s)
            case Trouble(what, detail):
                count = self._due("trouble", what, 1)
                if count:
                    self._log.error("eventpost: %s%s%s", what, _times(count), f": {detail}" if detail else "")
            case Closed(report):
                self._log.info("eventpost: closed: %s", report)
            case _:
                self._log.debug("eventpost: %r", signal)

    def _breaker(self, signal: BreakerChanged) -> None:
        where = shown_url(signal.lane)
        if signal.state == "held":
            text = "eventpost: %s needs a look (%s): events are kept; next probe in %.1f s%s"
            if self._due("held " + where, signal.reason, 1):
                detail = signal.detail and f": {signal.detail}"
                self._log.error(text, where, signal.reason, signal.retry_in_s, detail)
        elif signal.state == "open":
            if self._due("open " + where, signal.reason, 1):
                text = "eventpost: %s is left alone (%s): events are kept; next probe in %.1f s"
                self._log.warning(text, where, signal.reason, signal.retry_in_s)
        elif signal.state == "closed":
            self._log.info("eventpost: %s takes events again", where)

    def _unexpected(self, signal: Delivered) -> None:
        """Say that it was another 2xx: delivered, if it was the endpoint that answered, and no proxy before it."""
        where = shown_url(signal.lane)
        count = self._due("taken by " + where, str(signal.status), signal.events, UNEXPECTED_EVERY_S)
        if count:
            text = "eventpost: %s took %d events with status %d, where %d is expected: they count as delivered"
            self._log.warning(text, where, count, signal.status, STATUS_EXPECTED)

    def _loss(self, what: str, reason: str, events: int, detail: str) -> None:
        count = self._due(what, reason, events)
        if count:
            noun = "event" if count == 1 else "events"
            self._log.warning("eventpost: %d %s %s (%s)%s", count, noun, what, reason, f": {detail}" if detail else "")

    def _due(self, what: str, reason: str, events: int, every_s: float | None = None) -> int:
        """Return how many events a line should speak of; 0: no line now."""
        now = self._clock.monotonic()
        if len(self._kinds) > KINDS_MAX:
            self._kinds.clear()
        kind = self._kinds.setdefault((what, reason), [now, 0])
        kind[1] += events
        if now < kind[0]:
            return 0
        count = int(kind[1])
        kind[:] = [now + (self._every_s if every_s is None else every_s), 0]
        return count


def _times(count: int) -> str:
    return "" if count == 1 else f" ({count} times)"
