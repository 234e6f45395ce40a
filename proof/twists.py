"""What befalls a process in the middle of a call: a trap on its disk; and a clock that somebody steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventpost.testing.clock import ManualClock

from .actions import Twist
from .disk_model import READS, Killed, ModelDisk, PowerCut, Trap

if TYPE_CHECKING:
    from .world import World


class WorldClock(ManualClock):
    """A clock whose wall time can be stepped."""

    def step(self, seconds: float) -> None:
        """Step the wall clock, as somebody's ntpd does."""
        self._epoch_s += seconds

    def __deepcopy__(self, memo: dict[int, Any]) -> WorldClock:
        return self


def arm(world: World, disk: ModelDisk, twist: Twist | None) -> None:
    """Set the trap that a twist asks for."""
    if twist is None:
        return
    if twist.what == "error":
        disk.set_trap(twist.calls, _error(world, twist.extra))
        return

    def spring(_disk: ModelDisk, _op: str) -> type[BaseException] | None:
        if twist.what == "nest":
            world.seen["acted in between"] += 1
            world.perform(twist.extra)
            return None
        if twist.what == "kill":
            world.seen["killed in the middle"] += 1
            return Killed
        world.fs.off = True
        if world.acting:
            world.seen[f"cuts in a {world.acting[-1][0]}"] += 1
        return PowerCut

    disk.set_trap(twist.calls, spring)


def _error(world: World, number: int) -> Trap:
    def spring(disk: ModelDisk, op: str) -> None:
        if op in READS or op in {"store", "unlink"}:  # these do not fail while the folder is there
            disk.set_trap(0, spring)
            return
        world.seen["injected errors"] += 1
        if op in {"datasync", "sync_folder"}:
            world.seen["failed syncs"] += 1
        raise OSError(number, "injected")

    return spring
