"""The end of a run: everything heals, what is left is delivered, and then every event is accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventpost.queues.journal import inspect

from .actions import Action
from .disk_model import Violation
from .network import Told
from .process_model import Process
from .wiring import PATH

if TYPE_CHECKING:
    from .world import World

JUMPS_S = (0.3, 0.3, 11.0, 61.0, 4000.0)


def finish(world: World) -> None:
    """Heal, deliver, end, look."""
    world.room()
    world.network.moods.clear()
    for one in world.told:
        one.touchy = one.poison = False  # alone, these two would be the endpoint's own trouble, and wait for ever
    for slot, process in enumerate(world.slots):
        if process is not None:
            ends = world.rng.choice(("goes on", "goes on", "closes", "killed"))
            if ends == "killed":
                world.perform(Action("kill", slot))
            elif ends == "closes":
                world.perform(Action("close", slot))
    world.slots.append(None)
    world.plan = world.plan._replace(kinds=(*world.plan.kinds, "sends"))
    last = len(world.slots) - 1
    world.start(last, None)
    _drain(world)
    for slot in range(len(world.slots)):
        if world.slots[slot] is not None:
            world.perform(Action("close", slot))
    world.start(last, None)
    _drain(world)
    world.perform(Action("close", last))
    world.start(last, None)
    world.perform(Action("scan", last))  # sweeps what became nobody's after the last look
    world.perform(Action("close", last))
    look(world)


def _drain(world: World) -> None:
    for turn in range(400):  # one event a turn, where a sender may have one in flight only
        for slot, process in enumerate(world.slots):
            if process is not None and process.steps:
                world.perform(Action("step", slot))
        if turn > len(JUMPS_S) and all(_idle(process) for process in world.slots if process is not None):
            return
        world.wait(JUMPS_S[turn % len(JUMPS_S)])
    raise Violation(f"it does not come to an end: {[p.queue.stats() for p in world.slots if p is not None]}")


def _idle(process: Process) -> bool:
    if not process.steps:
        return True
    stats = process.queue.stats()
    return not stats.queued and not stats.in_flight


def look(world: World) -> None:
    """Account for every event.  Raises Violation."""
    world.network.clock.advance(100.0)
    world.network.advance()
    if world.fs.descriptions:
        raise Violation(f"{world.fs.descriptions} descriptors are left open")
    _look_at_memory(world)
    durable = [one for one in world.told if one.durable]
    if not any(one.said for one in durable) and PATH + "/segments" not in world.fs.folders:
        return
    world.tool_disk = world.new_disk()
    if world.may_be_damaged:
        world.look()
        return
    status = inspect.folder_status(PATH, clock=world.clock)
    letters = dead_letters(world)
    missing = [one.uuid for one in durable if one.said == "yes" and not one.received and one.uuid not in letters]
    dropped = sum(status.dropped.values())
    if len(missing) > dropped:
        raise Violation(f"lost: {missing}, and {dropped} were dropped: {status}")
    if status.queued or status.trouble or status.segments:
        raise Violation(f"something is left: {status}")
    if not set(status.dropped) <= {"overflow", "dead_expired", "dead_discarded", "purged"}:
        raise Violation(f"dropped for a reason that did not occur: {status.dropped}")
    surplus = status.delivered + status.dead + dropped - status.accepted
    if not 0 <= surplus <= world.slack:
        raise Violation(f"the folder's sum does not close: {surplus} too many, {world.slack} explained; {status}")
    yes = sum(one.said == "yes" for one in durable)
    unsaid = sum(not one.said for one in durable)
    if not yes <= status.accepted <= yes + unsaid:
        raise Violation(f"{yes} were accepted (of {unsaid} nobody knows); the folder says {status.accepted}")
    left = [f"{part}/{name}" for part in ("segments", "writers") for name in world.tool_disk.names(f"{PATH}/{part}")]
    if [name for name in left if not name.startswith("writers") or not status.dead]:
        raise Violation(f"left behind: {left}")


def dead_letters(world: World) -> dict[str, Told]:
    """Return the dead letters' events, by uuid; each as it was handed in."""
    found: dict[str, Told] = {}
    for letter in inspect.dead_letters(PATH):
        one = world.by_payload.get(letter.event.payload)
        if one is None or not one.may_be(letter.event):
            raise Violation(f"a dead letter is not what was handed in: {letter.id}")
        if one.said == "no" and not one.excused:
            raise Violation(f"{one.uuid} was refused, and is a dead letter")
        found[one.uuid] = one
    return found


def _look_at_memory(world: World) -> None:
    for process in world.ended:
        if process.kind == "memory":
            stats = process.queue.stats()
            if stats.queued or stats.in_flight:
                raise Violation(f"{process} ended with events that it does not account for: {stats}")
