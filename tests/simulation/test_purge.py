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
SEEDS = 120
POWER_SEEDS = 100
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


# -- at each call


@pytest.mark.parametrize("mapped", [True, False])
def test_a_purge_that_is_killed_at_any_call_is_finished_and_costs_nobody_else_an_event(mapped: bool) -> None:
    """Also in the middle of a store: what it left half done is done before anybody reads it."""
    seen = at_each_call(PurgeWorld, KILLED, "kill", range(2), mapped=mapped)
    assert seen["purges killed"] > 100
    assert seen["damaged places"] == 0


def test_power_that_fails_at_any_call_of_a_purge_costs_nobody_else_an_event() -> None:
    """What is on the device then is a part of its stores; the note that says which ones was there before them."""
    seen = at_each_call(PowerPurgeWorld, KILLED, "cut", range(2))
    assert seen["cuts in a purge"] > 100


def test_a_purge_that_is_killed_while_others_hold_the_segments_is_finished_by_them() -> None:
    """The one that sends has its own and the other's in hand, and carries out what was written down."""
    actions, kinds = [*PUTS, Action("scan", 0)], ("both", "stores", "sends")
    seen = at_each_call(PurgeWorld, actions, "kill", range(2), calls=range(0, 150, 2), kinds=kinds)
    assert seen["purges killed"] > 100
    assert seen["purges with something left"] == 0


# -- each of these, left out, is found


def found(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, without: Any, work: Callable[[], object]) -> str:
    """Return what the work says once something is left out."""
    with monkeypatch.context() as patch, pytest.raises((Violation, AssertionError)) as caught:
        patch.setattr(owner, name, without)
        work()
    return str(caught.value)


def test_each_precaution_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of them an event is lost, sent or counted wrongly, and the tests above say so."""

    def killed() -> object:
        return at_each_call(PurgeWorld, KILLED, "kill", range(3))

    def cut() -> object:
        return at_each_call(PowerPurgeWorld, KILLED, "cut", range(6))

    said = found(monkeypatch, erasing.Erasing, "before_reading", lambda self, taken: None, killed)
    assert "damage where there was none" in said

    write_note, sync_folder = erase.write_note, ModelDisk.sync_folder

    def unsynced(folder: Any, places: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ModelDisk, "sync_folder", lambda self, path: None)
            write_note(folder, places)
        assert ModelDisk.sync_folder is sync_folder

    assert found(monkeypatch, erase, "write_note", unsynced, cut)
    said = found(monkeypatch, command._Purge, "_write_down", lambda self: None, killed)
    assert said
