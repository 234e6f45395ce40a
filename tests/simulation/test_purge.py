"""Purges in the middle of everything, on a model of a disk: seeds, and a command that ends at each of its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from proof import purge
from proof.actions import KIB, LANES, Action, Plan, Twist
from proof.disk_model import ModelDisk, Violation
from proof.purge import VISITORS, PowerPurgeWorld, PurgeWorld

from eventpost.queues.journal import erase, erasing
from eventpost.queues.journal import purge as command

A, B, _ = LANES
SEEDS = 100
POWER_SEEDS = 80
BASE = Plan("fsync", mapped=True, overflow="refuse", bytes_max=10_000 * KIB, segment_bytes_max=16 * KIB,
            dead_bytes_max=None, kinds=("both", "stores"), lanes=LANES)  # fmt: skip
PUTS = [
    Action("mood", 0, (A, "refuses")), Action("mood", 0, (B, "down")),
    *(Action("put", who, tuple((lane, form, size, "") for form, size in ((0, 5000), (0, 40), (1, 300), (0, 9000))))
      for who, lane in ((0, A), (0, B), (1, B))),
    Action("run", 0, (1.0,)), Action("check"),
]  # fmt: skip
"""Events of one and of several visitors, queued and dead, by a process that sends and by one that only stores."""
KILLED = [*PUTS, Action("kill", 0), Action("kill", 1)]
"""The same, and nobody lives who has any of it in hand."""
LAST_CALL = 400


def play(world: type[PurgeWorld], seed: int, actions: list[Action], seen: Counter[str], **plan: Any) -> None:
    """Play these actions; raises Violation."""
    world(seed, BASE._replace(**plan), seen).play(actions)


def at_each_call(
    world: type[PurgeWorld], actions: list[Action], what: Any, seeds: range, *, calls: range | None = None, **plan: Any
) -> Counter[str]:  # fmt: skip
    """Let a purge end at its first call of the disk, at its second, and so on until it comes to its own end.

    ``calls``: these only, of a purge that waits for others and so makes calls without end.
    """
    seen: Counter[str] = Counter()
    for seed in seeds:
        who = seed % len(VISITORS)
        for call in calls or range(LAST_CALL):
            before = seen["purges killed"] + seen["cuts in a purge"]
            ends = Action("purge", who, (), Twist(call, what))
            again = [Action("purge", who)] if seed % 2 else []  # else those who read the segments next finish it
            play(world, seed, [*actions, ends, *again], seen, **plan)
            if seen["purges killed"] + seen["cuts in a purge"] == before:
                break
        else:
            assert calls, f"a purge of {len(actions)} actions makes more than {LAST_CALL} calls"
    return seen


# -- many seeds


def test_a_purge_in_the_middle_of_anything_leaves_nothing_and_breaks_nothing() -> None:
    """Whatever lives, dies, holds or sends: what it says is erased is erased, the rest goes on, every sum closes."""
    seen = purge.run_seeds(range(SEEDS))
    rare = {"injected errors"}
    assert not [what for what in purge.SOMETIMES if not seen[what] and what not in rare and "cuts" not in what]


def test_power_loss_in_a_purge_costs_nobody_else_an_event() -> None:
    """At fsync, at any moment, with any part of what was not synced surviving."""
    seen = purge.run_seeds(range(POWER_SEEDS), power=True)
    assert seen["cuts in a purge"] > 50
    assert seen["purged"] > 50


@pytest.mark.parametrize(("seed", "power"), [
    (103, False), (186, False), (202, False), (677, False), (2880, False), (7656, False), (20446, False),
    (31049, False), (74, True), (354, True), (8952, True), (21958, True),
])  # fmt: skip
def test_what_seeds_have_found(seed: int, *, power: bool) -> None:
    """Each broke something once."""
    assert purge.run_seeds([seed], power=power)["purges"]


# -- at each call


@pytest.mark.parametrize(("seed", "mapped"), [(0, True), (1, True), (2, False)])
def test_a_purge_that_is_killed_at_any_call_is_finished_and_costs_nobody_else_an_event(
    seed: int, *, mapped: bool
) -> None:  # fmt: skip
    """Also in the middle of a store: what it left half done is done before anybody reads it."""
    seen = at_each_call(PurgeWorld, KILLED, "kill", range(seed, seed + 1), mapped=mapped)
    assert seen["purges killed"] > 50
    assert seen["damaged places"] == 0


@pytest.mark.parametrize("seed", [0, 6])
def test_power_that_fails_at_any_call_of_a_purge_costs_nobody_else_an_event(seed: int) -> None:
    """What is on the device then is a part of its stores; the note that says which ones was there before them."""
    seen = at_each_call(PowerPurgeWorld, KILLED, "cut", range(seed, seed + 1))
    assert seen["cuts in a purge"] > 50


def test_a_purge_that_is_killed_while_others_hold_the_segments_is_finished_by_them() -> None:
    """The one that sends has its own and the other's in hand, and carries out what was written down."""
    actions, kinds = [*PUTS, Action("scan", 0)], ("both", "stores", "sends")
    seen = at_each_call(PurgeWorld, actions, "kill", range(2), calls=range(0, 150, 2), kinds=kinds)
    assert seen["purges killed"] > 100
    assert seen["purges with something left"] == 0


# -- each of these, left out, is found


def found(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, without: Any, work: Callable[[], object]) -> str:
    """Return what the work says once something is left out."""
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, without)
        with pytest.raises((Violation, AssertionError)) as caught:
            work()
    return str(caught.value)


def killed() -> object:
    """Kill a purge at each of its calls."""
    return at_each_call(PurgeWorld, KILLED, "kill", range(1))


def test_without_erasing_before_reading_half_a_store_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adopts a segment would read what a killed purge left half done."""
    said = found(monkeypatch, erasing.Erasing, "before_reading", lambda self, taken: None, killed)
    assert "damage where there was none" in said


def test_without_the_note_nobody_finishes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be erased is written down first."""
    assert "damage where there was none" in found(monkeypatch, command._Purge, "_write_down", lambda self: None, killed)


def test_a_note_that_is_not_on_the_device_is_no_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power loss keeps half of the stores and not the note: an event of others is lost."""
    write_note = erase.write_note

    def unsynced(folder: Any, places: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ModelDisk, "sync_folder", lambda self, path: None)
            write_note(folder, places)

    def cut() -> object:
        return at_each_call(PowerPurgeWorld, KILLED, "cut", range(6, 7))

    assert "lost at fsync" in found(monkeypatch, erase, "write_note", unsynced, cut)
