"""What a label may say: so many values and no more."""

from __future__ import annotations

from typing import Final

LABELS_MAX: Final = 100
OTHER: Final = "other"


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
