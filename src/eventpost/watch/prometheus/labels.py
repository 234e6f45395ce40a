"""What a label may say: so many values and no more."""

from __future__ import annotations

import re
from typing import Final

LABELS_MAX: Final = 100
OTHER: Final = "other"
_PROJECT: Final = re.compile(r"[A-Za-z0-9._-]{0,64}\Z")


class Known:
    """The values of one label, so many and no more."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def value(self, text: str) -> str:
        """Return the text, or OTHER once there are too many."""
        if text not in self._values:
            if len(self._values) >= LABELS_MAX:
                return OTHER
            self._values.add(text)
        return text


class Projects(Known):
    """Projects' ids, which come out of bodies: what does not look like one is OTHER."""

    def value(self, text: str) -> str:
        """Return the id, or OTHER."""
        return super().value(text if _PROJECT.match(text) else OTHER)
