"""One seed, whole system; and power loss: some of the seeds of ``make soak``, and what they found, one by one."""

from __future__ import annotations

import argparse
import errno
from collections import Counter
from typing import Any

import pytest
from proof import power, simulation
from proof.actions import KIB, LANES, Action, Plan, Twist
from proof.disk_model import ModelDisk, Violation
from proof.power import PowerWorld
from proof.wiring import PATH, wired
from proof.world import World

from eventpost.queues.journal import Disk, JournalQueue
from eventpost.transports.protocol import Request

A, B, C = LANES
SEEDS = 250
POWER_SEEDS = 150
BASE = Plan("os", mapped=True, overflow="refuse", bytes_max=10_000 * KIB, segment_bytes_max=16 * KIB,
            dead_bytes_max=None, kinds=("both", "both"), lanes=LANES)  # fmt: skip


def put(*lanes: str, who: int = 0, size: int = 0, thinks: str = "", twist: Twist | None = None) -> Action:
    """Put one event to each of these lanes, all at once."""
    return Action("put", who, tuple((lane, 0, size, thinks) for lane in lanes), twist)


def play(actions: list[Action], kind: type[World] = World, **plan: Any) -> Counter[str]:
    """Play these actions in some worlds; raises Violation."""
    seen: Counter[str] = Counter()
    for seed in range(10):
        kind(seed, BASE._replace(**plan), seen).play(actions)  # type: ignore[call-arg]
    return seen


# -- many seeds


def test_every_acknowledged_event_is_accounted_for_whatever_happens() -> None:
    """None is lost, invented, changed or sent twice without a reason; and the faults did occur."""
    seen = simulation.run_seeds(range(SEEDS))
    rare = {"failed syncs", "dropped dead_expired", "late arrivals", "retry_dead", "discard_dead"}
    assert not [what for what in simulation.SOMETIMES if not seen[what] and what not in rare]


def test_power_loss_costs_nothing_at_fsync() -> None:
    """At any moment, with any part of what was not synced surviving."""
    seen, _ = power.run_seeds(range(POWER_SEEDS), "fsync")
    assert not [what for what in power.SOMETIMES if not seen[what] and what != "refused sync_failed"]


def test_power_loss_at_os_costs_a_sender_its_sync_interval_and_spares_what_was_flushed() -> None:
    """What was put, or set aside as dead, longer ago than that is there; so is what a flush said is safe."""
    power.run_seeds(range(POWER_SEEDS // 2), "os")
    _, lost = power.run_seeds(range(POWER_SEEDS), "measured")
    assert lost
    assert max(age_s for age_s, sends in lost if sends) <= power.SYNC_INTERVAL_S + 0.1


def test_a_seed_repeats_itself() -> None:
    """The same seed counts the same."""
    first, second = simulation.run_seeds(range(20, 40)), simulation.run_seeds(range(20, 40))
    assert first == second


def test_a_violation_is_found_shortened_and_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """An ack that notes nothing sends events twice: the simulation says so, in few actions."""
    monkeypatch.setattr("eventpost.queues.journal.cursor.Cursor.mark", lambda *_: 0)
    with pytest.raises(AssertionError, match="repeat it: python -m proof simulation --seed"):
        simulation.run_seeds(range(50))
    assert capsys.readouterr().err.count("Action(") <= 6


def test_a_sync_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sync of a new segment's name, events are lost at fsync, and the model of the disk shows it."""
    monkeypatch.setattr(ModelDisk, "sync_folder", lambda self, path: None)
    with pytest.raises(AssertionError, match="lost at fsync"):
        power.run_seeds(range(50), "fsync")


def test_what_is_sent_again_without_need_is_found() -> None:
    """Neither in two requests at once, nor after a yes that somebody heard who lives."""
    world = World(1, BASE, Counter())
    with wired(world):
        process = world.start(0, None)
        assert process is not None
        one = world.make(process, A, 0, 0, "")
        request = Request(one.event.envelope, one.event.payload, None, 10.0)
        process.transport.start(request)
        with pytest.raises(Violation, match="in two requests of one process"):
            process.transport.start(request)
        process.hears([one])
        other = world.start(1, None)
        assert other is not None
        with pytest.raises(Violation, match="whoever heard it lives"):
            other.sending([one])


@pytest.mark.parametrize("part", [simulation, power])
def test_a_run_in_which_nothing_happened_fails(part: Any) -> None:
    """A few quiet seeds prove nothing, and say so."""
    with pytest.raises(AssertionError, match="this never occurred, so nothing was tested"):
        part.run(argparse.Namespace(seed=None, first=0, seeds=2, os_seeds=2))


def test_the_model_stands_for_all_of_the_disk() -> None:
    """Whatever a Disk can do, the model does itself: no call reaches the real one."""
    own = {name for name in vars(Disk) if not name.startswith("_")}
    assert own <= set(vars(ModelDisk)), own - set(vars(ModelDisk))


# -- what they found


def test_a_put_to_several_endpoints_at_the_bound_is_stored_or_refused() -> None:
    """Making room for the second endpoint's segment does not seal the first one's, into which it is about to go."""
    play([put(A, B, C, who=1, size=3000), Action("close", 1), put(A, B)], bytes_max=64 * KIB)


def test_a_refused_sync_refuses_a_put_to_several_endpoints_as_a_whole() -> None:
    """Also what went to the endpoints whose segments were synced, or are yet to be, is never sent."""
    for calls in range(6):
        twist = Twist(calls, "error", errno.EIO)
        play([put(A), put(B), put(C), put(A, B, C, A, twist=twist), Action("run", 0, (3.0,))], durability="fsync")


def test_dead_letters_of_a_killed_process_do_not_stay_once_they_are_settled() -> None:
    """Its segment of letters was never sealed; it goes as soon as nothing in it is left."""
    play([put(A, thinks="poison"), Action("run", 0, (3.0,)), Action("kill", 0), Action("retry_dead")])


def test_a_segment_whose_end_cannot_be_noted_is_let_go_all_the_same() -> None:
    """No descriptor stays open."""
    for calls in range(8):
        twist = Twist(calls, "error", errno.EIO)
        actions = [put(A), Action("mood", 0, (A, "refuses")), Action("run", 0, (3.0,)), Action("close", 0, (), twist)]
        play(actions, mapped=False)


def test_a_segment_that_cannot_be_dropped_is_let_go() -> None:
    """Held on to after a fault of the disk, it would be nobody's to send while that process lives."""
    left = [put(A, who=1, size=3000), put(B, who=1, size=3000), put(C, who=1, size=12_000), Action("kill", 1)]
    for calls in range(20, 60):
        twist = Twist(calls, "error", errno.EIO)
        play([*left, put(A, B, C, twist=twist), Action("close", 0)], mapped=False, bytes_max=64 * KIB,
             overflow="drop_oldest")  # fmt: skip


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_what_a_killed_process_left_unsynced_of_the_path_is_synced_by_the_next(durability: str) -> None:
    """Who finds the folder made does not know that its name is safe."""
    for calls in range(8):
        first = put(A, twist=Twist(calls, "kill"))
        play([first, put(A), Action("flush", 0), Action("cut")], PowerWorld, durability=durability, kinds=("stores",))


def test_dead_letters_are_flushed_and_synced_like_events() -> None:
    """At os a letter is safe from power loss when the next sync is through."""
    plan = BASE._replace(kinds=("both",))
    for seed in range(20):
        world = PowerWorld(seed, plan, Counter())
        actions = [put(A, thinks="poison"), Action("run", 0, (3.0,)), Action("run", 0, (3.0,)), Action("cut")]
        world.play(actions)
        assert world.lost == []


def test_the_background_sync_comes_in_time_after_a_quiet_hour_and_in_an_outage() -> None:
    """A put that wakes nobody, since its endpoint is down, is synced within the interval as well."""
    plan = BASE._replace(kinds=("both",))
    for seed in range(20):
        world = PowerWorld(seed, plan, Counter())
        quiet = [put(A), *[Action("run", 0, (12.0,))] * 3, Action("mood", 0, (A, "down")), put(A)]
        outage = [Action("run", 0, (1.2,)), *[Action("run", 0, (12.0,))] * 3, put(A), Action("run", 0, (1.2,))]
        world.play([*quiet, *outage, Action("cut")])
        assert world.lost == []


def test_a_file_that_cannot_be_opened_for_a_sync_is_synced_the_next_time() -> None:
    """No descriptor to be had is no failed sync, which nothing may repeat."""
    world = World(1, BASE, Counter())
    with wired(world):
        disk = ModelDisk(world.fs)
        queue = JournalQueue(
            PATH, "os", segment_bytes_max=16 * KIB, allow_network_fs=True, disk=disk, clock=world.clock
        )
        process = world.start(0, None)
        assert process is not None
        queue.put([world.make(process, A, 0, 0, "").event])
        synced: list[int] = []
        disk.datasync = synced.append  # type: ignore[method-assign]

        def spring(_disk: ModelDisk, op: str) -> None:
            assert op == "open"
            raise OSError(errno.EMFILE, "too many open files")

        disk.set_trap(0, spring)
        assert not queue.sync(1.0)
        assert queue.sync(1.0)
        assert len(synced) == 1


def test_a_store_beyond_its_file_is_a_violation() -> None:
    """The model shows what would be a SIGBUS."""
    world = World(1, BASE, Counter())
    disk = ModelDisk(world.fs)
    fd = disk.create("/file", 0o600, None)
    disk.allocate(fd, 8192, written=False)
    window = disk.map(fd, 8192)
    disk.truncate(fd, 4096)
    with pytest.raises(Violation, match="SIGBUS"):
        window[5000:5001] = b"x"
