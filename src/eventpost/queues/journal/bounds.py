"""The bounds of dead letters and of ``bad/``, which are the folder's and not a process's.

Dead letters outlive who parked them, and whoever is elected expires them: with bounds of its own, ``eventpost send`` at
its defaults would drop what an application keeps for ever.  So who names a bound notes it in the folder
(``bounds.json``), and everybody goes by what is noted, or else by the defaults.  The last one who names a bound wins;
who names none changes nothing.  To tell a default from the same value in somebody's call, each is an object of its own.

Where the note can't be read nothing expires: a bound that is kept too late costs room, one too early costs letters.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

if TYPE_CHECKING:
    from .folder import Folder

_BYTES_MAX: Final = 1 << 24


class _Int(int):
    """A default that is this very object."""


class _Float(float):
    """A default that is this very object."""


DEAD_BYTES_MAX: Final = _Int(256 << 20)
DEAD_AGE_MAX_S: Final = _Float(30 * 86_400)


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
        try:
            noted = _noted(folder)
        except ValueError:
            noted = {}
        if named.items() <= noted.items():
            return
        disk, temporary = folder.disk, f"{folder.path}/.bounds-{secrets.token_hex(4)}"
        fd = disk.create(temporary, folder.file_mode, folder.gid)
        try:
            disk.write(fd, orjson.dumps(noted | named), 0)
            disk.datasync(fd)
        except OSError:
            disk.unlink(temporary)
            raise
        finally:
            disk.close(fd)
        disk.rename(temporary, f"{folder.path}/bounds.json")


def _noted(folder: Folder) -> dict[str, Any]:
    try:
        fd = folder.disk.open(f"{folder.path}/bounds.json", write=False)
    except FileNotFoundError:
        return {}
    try:
        noted = orjson.loads(folder.disk.read(fd, _BYTES_MAX, 0))
    finally:
        folder.disk.close(fd)
    if not isinstance(noted, dict) or not all(
        value is None or (type(value) in {int, float} and value >= 0) for value in map(noted.get, Bounds._fields)
    ):
        raise ValueError("bounds.json is damaged: nothing expires until somebody names bounds anew")
    return noted
