"""The bounds of dead letters and of ``bad/``, which are the folder's and not a process's.

Dead letters outlive who parked them, and whoever is elected expires them: with bounds of its own, ``eventpost send`` at
its defaults would drop what an application keeps for ever.  So who names a bound notes it in the folder
(``bounds.json``), and everybody goes by what is noted, or else by the defaults.  The last one who names a bound wins;
who names none changes nothing.

Where the note can't be read nothing expires: a bound that is kept too late costs room, one too early costs letters.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from ...defaults import FloatDefault, IntDefault
from ...sender.primitives import pause

if TYPE_CHECKING:
    from .folder import Folder

_NAME: Final = "bounds.json"
_LOCK_TRIES: Final = 50
_LOCK_POLL_S: Final = 0.01


DEAD_BYTES_MAX: Final = IntDefault(256 << 20)
DEAD_AGE_MAX_S: Final = FloatDefault(30 * 86_400)


class Bounds(NamedTuple):
    """``dead_bytes_max`` in bytes, ``dead_age_max_s`` in seconds; None: no bound."""

    dead_bytes_max: int | None = DEAD_BYTES_MAX
    dead_age_max_s: float | None = DEAD_AGE_MAX_S

    def in_force(self, folder: Folder) -> Bounds:
        """Return the folder's bounds.  Raises OSError, ValueError for a note that can't be read."""
        noted = _noted(folder)
        return Bounds(
            noted.get("dead_bytes_max", self.dead_bytes_max), noted.get("dead_age_max_s", self.dead_age_max_s)
        )

    def note(self, folder: Folder) -> None:
        """Make those that were named the folder's.  Raises OSError."""
        defaults = Bounds._field_defaults
        named = {name: value for name, value in self._asdict().items() if value is not defaults[name]}
        for _ in range(_LOCK_TRIES):
            if named.items() <= _noted_or_none(folder).items():
                return
            with folder.notes_lock() as locked:
                if locked:
                    folder.write_note(_NAME, _noted_or_none(folder) | named)
                    return
            pause(_LOCK_POLL_S)
        raise OSError(errno.EBUSY, f"somebody holds {folder.path}/totals.lock")


def _noted_or_none(folder: Folder) -> dict[str, Any]:
    try:
        return _noted(folder)
    except ValueError:  # who names bounds mends a damaged note
        return {}


def _noted(folder: Folder) -> dict[str, Any]:
    data = folder.read_note(_NAME)
    noted = {} if data is None else orjson.loads(data)
    if not isinstance(noted, dict) or not all(
        value is None or (type(value) in {int, float} and value >= 0) for value in map(noted.get, Bounds._fields)
    ):
        raise ValueError("bounds.json is damaged: nothing expires until somebody names bounds anew")
    return noted
