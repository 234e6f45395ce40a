"""Whose an event is that the relay sends, for its counters: read from its bytes, as the door does.

Events that share requests have their project in their envelope, which is read once.  Any other is a body of its own,
and is read when it was delivered or died: its request costs a hundred times that.
"""

from __future__ import annotations

from typing import Final

from ..event import Envelope, Event
from .answers import Denied
from .body import project_of

ENVELOPES_MAX: Final = 1000


class Projects:
    """Returns the project of an event, "" for what names none.  Raises nothing.  Belongs to one thread."""

    def __init__(self) -> None:
        self._known: dict[Envelope, str] = {}

    def __call__(self, event: Event) -> str:
        """Return it."""
        envelope = event.envelope
        if not envelope.shared:
            return _named_in(event.payload)
        found = self._known.get(envelope)
        if found is None:
            if len(self._known) >= ENVELOPES_MAX:
                self._known.clear()
            found = self._known[envelope] = _named_in(envelope.body([b"{}"]))
        return found


def _named_in(body: bytes) -> str:
    found = project_of(body)
    return "" if isinstance(found, Denied) else found
