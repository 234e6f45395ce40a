"""The sum that outlives the segments.

A settled segment is folded in two steps: its counts go into ``totals.json`` together with its name, then it is
unlinked. A crash between them leaves a file that the totals already name: the next fold unlinks it, and nobody counts
it twice. Who comes to fold a segment whose name is gone finds it folded.  On a full disk there is no room for new
totals: the segment's records, which nobody needs any more, are cut off first.

The totals are synced before the rename that puts them in place, or an empty file might take the place of a good one;
neither rename nor unlink is synced after it: power loss may undo them, and then the sum repeats or misses the counts of
what was folded last.  No event hangs on that: what comes back is settled, or sent once more.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

import orjson

from . import format as fmt
from .format import DROPPED, Outcome

if TYPE_CHECKING:
    from .folder import Folder

NAME: Final = "totals.json"
LOST: Final = "totals.json cannot be read; the counts of segments that are gone are lost"
_COUNT_MAX: Final = 1 << 53
"""No count of events comes near it: a larger one is damage, and sums of such would be too large for their file."""


def empty() -> dict[str, Any]:
    """Return the totals of a folder that nothing has gone from; ``folded`` names what may still be there."""
    return {"accepted": 0, "delivered": 0, "dropped": {}, "folded": []}


def read(folder: Folder) -> dict[str, Any]:
    """Return the counts of the segments that are gone, with ``unreadable`` if they are damaged.  Raises OSError."""
    data = folder.read_note(NAME)
    if data is None:
        return empty()
    try:
        loaded = orjson.loads(data)
    except orjson.JSONDecodeError:
        loaded = None
    if not isinstance(loaded, dict) or not _are_totals(found := {**empty(), **loaded}):
        return {**empty(), "unreadable": True}
    return found


def fold(
    folder: Folder, path: str, events: int, outcomes: dict[Outcome, int], *, retry: bool, dead: bool = False
) -> bool:
    """Add a settled segment's counts to the totals, then remove it; False: somebody else is at them, try later.

    Raises OSError.
    """
    name = path.rsplit("/", 1)[1]
    key = f"dead/{name}" if dead else name
    with folder.notes_lock() as locked:
        if not locked:
            return False
        if not folder.disk.size(path):
            return True  # its writer was faster
        totals = read(folder)
        if key not in totals["folded"]:
            if not retry and not dead:
                totals["accepted"] += events - outcomes.get(Outcome.VOID, 0)
            totals["delivered"] += outcomes.get(Outcome.DELIVERED, 0)
            for outcome, reason in DROPPED.items():
                if outcome in outcomes:
                    totals["dropped"][reason] = totals["dropped"].get(reason, 0) + outcomes[outcome]
            for folded in totals["folded"]:  # a crash may have come before its unlink
                folder.disk.unlink(f"{folder.path if folded.startswith('dead/') else folder.segments}/{folded}")
            totals["folded"] = [key]
            try:
                folder.write_note(NAME, totals)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                _cut_records(folder, path, events)
                folder.write_note(NAME, totals)
        folder.disk.unlink(path)  # counted first: a crash in between leaves what ``folded`` names, not events uncounted
    return True


def begin_anew(folder: Folder) -> str:
    """Set totals that can't be read aside and begin anew; why that can't be done, or "".  Raises OSError."""
    with folder.notes_lock() as locked:
        if not locked:
            return "somebody else is at it"
        if not folder.set_aside(NAME, len(folder.disk.names(folder.bad)), folder.read_note(NAME) or b""):
            return "its bytes cannot be set aside: is the disk full?"
        folder.write_note(NAME, empty())
    return ""


def _cut_records(folder: Folder, path: str, events: int) -> None:
    """Give back the blocks of a settled segment's records; the seal and the outcomes still tell its count."""
    fd = folder.disk.open(path)
    try:
        header = fmt.decode_header(folder.disk.read(fd, fmt.header_bytes_wanted(folder.disk.read(fd, 4096, 0)), 0))
        # The seal first: a crash in between leaves records beyond it, which nobody reads.
        folder.disk.write(fd, fmt.encode_seal(events, header.records_at), fmt.SEAL_AT)
        folder.disk.truncate(fd, header.records_at)
    finally:
        folder.disk.close(fd)


def _are_totals(found: dict[str, Any]) -> bool:
    dropped, folded = found["dropped"], found["folded"]
    return (
        isinstance(dropped, dict)
        and isinstance(folded, list)
        and all(
            type(one) is int and 0 <= one <= _COUNT_MAX
            for one in (found["accepted"], found["delivered"], *dropped.values())
        )
        # These are unlinked: a name of this folder, or none.
        and all(isinstance(one, str) and one.removeprefix("dead/").count("/") == 0 for one in folded)
    )
