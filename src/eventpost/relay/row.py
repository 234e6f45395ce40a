"""One row of a table of settings: how a value is read and checked, with the source of what makes no sense named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Final

from ..errors import EventpostError

ENV_PREFIX: Final = "EVENTPOST_RELAY_"
_SWITCH: Final = {
    "1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip


class SettingError(ValueError, EventpostError):
    """A value makes no sense; the message names where it came from, and never quotes a secret."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.  ``kind``: str, int, float, bool, or tuple for a list of texts; bounds are inclusive."""

    name: str
    kind: type
    default: Any
    meaning: str
    lowest: float = 0
    highest: float = inf
    choices: tuple[str, ...] = ()
    check: Callable[[str], Any] | None = None

    @property
    def env(self) -> str:
        """The environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command line's option."""
        name = self.name if self.name.endswith("_per_s") else self.name.removesuffix("_s")
        return "--" + name.replace("_", "-")

    def parse(self, text: str, source: str) -> Any:
        """Return the value that a text from the environment stands for.  Raises SettingError."""
        if self.kind is tuple:
            return tuple(part for one in text.split(",") if (part := one.strip()))
        if self.kind is bool:
            if text.lower() not in _SWITCH:
                raise SettingError(f"{source} must be one of {', '.join(_SWITCH)}")
            return _SWITCH[text.lower()]
        if self.kind is str:
            return text
        try:
            return self.kind(text.replace("_", ""))
        except ValueError:
            raise SettingError(f"{source} must be a {self._noun()}") from None

    def checked(self, value: Any, source: str) -> Any:
        """Return the value as it is used.  Raises SettingError, naming ``source``."""
        if value is None and self.default is None:
            return None
        if self.kind is tuple and isinstance(value, (list, tuple)):
            return tuple(self._checked_text(one, source) for one in value)
        if self.kind is str:
            return self._checked_text(value, source)
        if self.kind is bool and isinstance(value, bool):
            return value
        if self.kind in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
            if not isfinite(value) or (self.kind is int and value != int(value)):
                raise SettingError(f"{source} must be a {self._noun()}")
            if not self.lowest <= value <= self.highest:
                upper = "" if self.highest == inf else f" and at most {self.highest:,}"
                raise SettingError(f"{source} must be at least {self.lowest:,}{upper}, not {value:,}")
            return self.kind(value)
        raise SettingError(f"{source} must be a {self._noun()}")

    def _checked_text(self, value: Any, source: str) -> str:
        if not isinstance(value, str):
            raise SettingError(f"{source} must be a {self._noun()}")
        if self.choices and value not in self.choices:
            raise SettingError(f"{source} must be one of {', '.join(self.choices)}")
        if self.check is None:
            return value
        try:
            return str(self.check(value))
        except ValueError as error:
            raise SettingError(f"{source}: {error}") from None

    def _noun(self) -> str:
        names = {int: "whole number", float: "number", bool: "switch (true or false)", tuple: "list of texts"}
        return names.get(self.kind, "text")
