"""What the keeper does, and when: by the clock, to the second."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, URL, HookedDisk, event

from eventpost.queues.journal import JournalQueue
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal, Trouble


class Diary:
    """A queue in a folder, and what its keeper does, each with the seconds since it began."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.clock = ManualClock(0.0)  # as on a machine that was just started: everything is due
        self.queue = JournalQueue(folder, clock=self.clock, **options)
        self.done: list[tuple[float, str]] = []
        queue = self.queue
        for what, owner, method in (
            ("sync", queue._store.syncs, "sync"), ("scan", queue._orphans, "scan"), ("look", queue._erasing, "look"),
            ("expire", queue._expiry, "expire"), ("reap", queue._count, "reap_own_dead"),
            ("lock", queue._store.presence, "enter"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, method, self._noting(what, getattr(owner, method)))

    def _noting(self, what: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **keywords: Any) -> Any:
            told = "".join(f" {name}={value}" for name, value in keywords.items())
            self.done.append((self.clock.monotonic(), what + told))
            return do(*arguments, **keywords)

        return noting

    def at(self, seconds: float) -> float | None:
        """Tend at this second; how long until the next time."""
        self.clock.advance(seconds - self.clock.monotonic())
        return self.queue.tend()

    def told(self) -> list[tuple[float, str]]:
        """Return what was done since the last time."""
        done, self.done = self.done, []
        return done


def test_who_is_elected_looks_every_five_seconds_and_expires_every_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything at once at first, nothing before its time, and the answer is when the next thing is due."""
    diary = Diary(tmp_path, monkeypatch)
    assert diary.at(0) == 5.0
    assert diary.told() == [(0, "look elected=False"), (0, "scan"), (0, "expire"), (0, "reap")]
    assert (diary.at(2), diary.at(4.5)) == (3.0, 0.5)
    assert diary.told() == []
    assert diary.at(5) == 5.0
    assert diary.told() == [(5, "look elected=True"), (5, "scan")]
    assert diary.at(59.5) == 5.0  # from when it was done, not from when it was due
    diary.told()
    assert diary.at(60) == 4.5
    assert diary.told() == [(60, "expire"), (60, "reap")]
    assert (diary.at(64.5), diary.at(119.5)) == (5.0, 5.0)
    assert [what for _, what in diary.told()] == ["look elected=True", "scan"] * 2
    diary.at(120)
    assert diary.told() == [(120, "expire"), (120, "reap")]
    diary.queue.close()


def test_who_never_adopts_looks_after_its_own_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, before the first put; then its lock, and what is asked of its segments; its letters once a minute."""
    diary = Diary(tmp_path, monkeypatch, adopt="never", sync_interval_s=0, scan_interval_s=7.0)
    assert diary.at(0) is None
    diary.queue.put([event(1), event(2)])
    diary.told()
    assert diary.at(1) == 7.0
    assert diary.told() == [(1, "lock"), (1, "look elected=False"), (1, "scan")]
    diary.queue.bury(diary.queue.claim(URL, 1, ALL), "rejected")
    diary.told()
    assert diary.at(2) == 6.0
    assert diary.told() == [(2, "reap")]
    assert diary.at(61.5) == 7.0
    assert [what for _, what in diary.told()] == ["lock", "look elected=False", "scan"]
    diary.at(62)
    assert diary.told() == [(62, "reap")]
    diary.queue.close()


def test_a_sender_of_its_own_looks_for_new_names_a_hundred_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan only where they changed; all that anybody may have left, every five seconds."""
    diary = Diary(tmp_path, monkeypatch, adopt="always")
    os.utime(tmp_path / "segments", (1, 1))
    assert diary.at(0) == pytest.approx(0.01)
    diary.told()
    assert diary.at(0.005) == pytest.approx(0.005)
    assert diary.at(1) == pytest.approx(0.01)
    assert diary.told() == []
    os.utime(tmp_path / "segments", (2, 2))
    assert diary.at(1.005) == pytest.approx(0.005)
    assert diary.told() == []
    assert diary.at(1.02) == pytest.approx(0.01)
    assert [what for _, what in diary.told()] == ["scan"]
    assert diary.at(5) == pytest.approx(0.01)
    assert diary.told() == [(5, "look elected=True"), (5, "scan")]
    diary.queue.close()


def test_who_sends_for_one_that_only_stores_looks_for_new_names_four_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as that one lives, and may begin another segment."""
    other = JournalQueue(tmp_path, adopt="never")
    other.sends = False
    other.put([event(1)])
    diary = Diary(tmp_path, monkeypatch)
    assert diary.at(0) == 0.25
    os.utime(tmp_path / "segments", (1, 1))
    diary.told()
    assert diary.at(0.125) == 0.125
    assert diary.told() == []
    assert diary.at(0.25) == 0.25
    assert diary.told() == [(0.25, "scan")]
    assert diary.at(0.5) == 0.25
    assert diary.told() == []
    other.close()
    diary.queue.ack(diary.queue.claim(URL, 9, ALL))
    assert diary.at(1) == 4.0
    diary.queue.close()


def test_while_a_purge_waits_for_what_is_out_it_is_looked_at_ten_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or as often as the folder is looked at anyway, if that is more."""
    for number, (interval_s, wait_s) in enumerate(((5.0, 0.1), (0.0625, 0.0625))):
        diary = Diary(tmp_path / str(number), monkeypatch, scan_interval_s=interval_s)
        monkeypatch.setattr(diary.queue._erasing, "recalls", True)
        monkeypatch.setattr(diary.queue._erasing, "look", lambda **_: None)
        assert diary.at(0) == pytest.approx(wait_s)
        diary.told()
        diary.at(0.125)
        assert diary.told() == [(0.125, "scan")]
        diary.queue.close()


def test_a_sync_is_due_while_something_is_not_safe_or_not_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A put wakes nobody, so a sender with a backlog asks each time; where nothing is left nothing is due."""
    diary = Diary(tmp_path, monkeypatch, adopt="never", sync_interval_s=0.5, scan_interval_s=100.0)
    queue = diary.queue
    assert diary.at(0) is None
    queue.put([event(1)])
    diary.at(0.125)
    assert [what for _, what in diary.told()] == ["lock", "lock", "look elected=False", "scan"]
    assert diary.at(0.25) == 0.25  # due half a second after it was asked for, not after a put
    assert diary.at(0.5) == 0.5
    assert diary.told() == [(0.5, "sync")]
    (lease,) = queue.claim(URL, 9, ALL)
    assert diary.at(1.0) == 0.5  # all is safe, and one is out
    assert diary.told() == []
    queue.ack([lease])
    assert diary.at(1.5) == 98.625
    assert diary.told() == []
    queue.put([event(2)])
    queue.ack(queue.claim(URL, 9, ALL))
    assert diary.at(2.0) == 0.5  # it was synced just now
    assert diary.told() == [(2.0, "sync")]
    assert diary.at(2.5) == 97.625
    queue.close()


@pytest.mark.parametrize("options", [{"durability": "fsync"}, {"sync_interval_s": 0}])
def test_nobody_syncs_in_the_background_who_was_not_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """At ``fsync`` each put does; an interval of zero means never."""
    diary = Diary(tmp_path, monkeypatch, scan_interval_s=30.0, **options)
    diary.queue.put([event(1)])
    assert diary.at(0) == 30.0
    assert diary.at(29) == 1.0
    assert "sync" not in [what for _, what in diary.told()]
    diary.queue.close()


def test_a_sync_that_fails_is_told_with_its_folder(tmp_path: Path) -> None:
    """And the queue goes on; a second sync would say that all is well, so what was asked for is not asked for again."""
    disk, heard = HookedDisk(), list[Signal]()
    queue = JournalQueue(tmp_path, disk=disk)
    queue.emit = heard.append
    queue.put([event(1)])

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk.hooks["datasync"] = fails
    queue.tend()
    queue.tend()
    assert heard == [Trouble("journal", f"{tmp_path} cannot be synced")]
    disk.hooks.clear()
    queue.close()


def test_a_lock_that_cannot_be_made_anew_is_told_with_its_folder(tmp_path: Path) -> None:
    """Others take this process for dead from then on."""
    disk, heard = HookedDisk(), list[Signal]()
    queue = JournalQueue(tmp_path, disk=disk, adopt="never")
    queue.emit = heard.append
    queue.put([event(1)])
    for lock in (tmp_path / "writers").iterdir():
        lock.unlink()

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    disk.hooks["create"] = fails
    queue.tend()
    assert heard == [Trouble("journal", f"{tmp_path} cannot be used any more: No space left on device")]
    disk.hooks.clear()
    queue.close()
