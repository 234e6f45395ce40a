"""What JournalQueue takes, what it is when nothing is said, and what a thread is in the middle of."""

from __future__ import annotations

import errno
import grp
import inspect as signatures
import math
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support import ALL, URL, HookedDisk, event
from tests.unit.test_journal_status import lies, put

from eventpost.clock import SystemClock
from eventpost.queues.journal import Disk, JournalQueue
from eventpost.queues.journal import disk as disk_module
from eventpost.queues.journal.bounds import Bounds
from eventpost.queues.journal.interruption import Interruptions
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal


def refusing(code: int = errno.EIO) -> Any:
    """Return a hook under which a method fails."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fails


def at(clock: ManualClock, folder: Path, **options: Any) -> tuple[JournalQueue, HookedDisk, list[Signal]]:
    """Return a queue, its disk, and what it tells."""
    disk, heard = HookedDisk(), list[Signal]()
    queue = JournalQueue(folder, disk=disk, clock=clock, **options)
    queue.emit = heard.append
    return queue, disk, heard


def other_locks_are_free(queue: JournalQueue) -> bool:
    """Tell whether another thread could have both locks of a queue now."""
    out: list[bool] = []

    def look() -> None:
        for lock in (queue._claims.lock, queue._store.lock):
            out.append(lock.acquire(blocking=False))
            if out[-1]:
                lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    return out == [True, True]


# -- what it takes


def test_what_it_is_when_nothing_is_said() -> None:
    """The figures that the documentation tells."""
    defaults = {
        one.name: one.default
        for one in signatures.signature(JournalQueue).parameters.values()
        if one.default is not one.empty
    }
    assert defaults == {
        "durability": "os", "bytes_max": 4 << 30, "overflow": "refuse", "block_timeout_s": 1.0,
        "dead_bytes_max": 256 << 20, "dead_age_max_s": 30 * 86400, "segment_bytes_max": 8 << 20,
        "sync_interval_s": 1.0, "scan_interval_s": 5.0, "adopt": "elected", "group": None, "allow_network_fs": False,
        "disk": None, "clock": None,
    }  # fmt: skip
    assert list(signatures.signature(JournalQueue.release).parameters.values())[2].default == 0.0
    assert list(signatures.signature(JournalQueue.close).parameters.values())[1].default == 10.0


@pytest.mark.parametrize(
    ("argument", "least"),
    [
        ("bytes_max", 1 << 20), ("segment_bytes_max", 1 << 18), ("block_timeout_s", 0), ("sync_interval_s", 0),
        ("scan_interval_s", 0.01), ("dead_bytes_max", 1), ("dead_age_max_s", 0),
    ],
)  # fmt: skip
def test_the_least_that_can_be_named(tmp_path: Path, argument: str, least: float) -> None:
    """Below it, and what is no number, is refused by its name, and nothing is made; the bounds may be none."""
    less = least - 1 if isinstance(least, int) else least / 2
    for wrong in (less, math.nan):
        with pytest.raises(ValueError, match=re.escape(f"{argument}={wrong}: must be at least {least}") + "$"):
            JournalQueue(tmp_path / "j", **{argument: wrong})
    assert not (tmp_path / "j").exists()
    JournalQueue(tmp_path / "j", **{argument: least}).close()
    if argument.startswith("dead_"):
        queue = JournalQueue(tmp_path / "j", **{argument: None})
        assert getattr(queue._expiry.bounds.in_force(queue.folder), argument) is None
        queue.close()


@pytest.mark.parametrize(
    ("argument", "choices"),
    [
        ("durability", "'os', 'fsync'"), ("overflow", "'refuse', 'drop_oldest', 'block'"),
        ("adopt", "'elected', 'always', 'never'"),
    ],
)  # fmt: skip
def test_a_choice_that_there_is_not(tmp_path: Path, argument: str, choices: str) -> None:
    """Which one, what it was, and what there is."""
    with pytest.raises(ValueError, match=f"^{argument}='both': must be one of {choices}$"):
        JournalQueue(tmp_path / "j", **{argument: "both"})
    assert not (tmp_path / "j").exists()


def test_a_group_by_its_name_or_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there is named."""
    gid = os.getgid()
    with monkeypatch.context() as patched:
        patched.setattr(grp, "getgrnam", {"events": SimpleNamespace(gr_gid=gid)}.__getitem__)
        for number, given in enumerate(("events", gid)):
            queue = JournalQueue(tmp_path / str(number), group=given)
            assert (queue.folder.gid, os.stat(queue.path).st_gid) == (gid, gid)
            queue.close()
    with pytest.raises(ValueError, match=r"^group='no-such-group': \w"):
        JournalQueue(tmp_path / "j", group="no-such-group")


def test_what_it_is_told_it_goes_by(tmp_path: Path) -> None:
    """Each bound and interval; segments are no larger than a quarter of the folder."""
    clock = ManualClock()
    queue = JournalQueue(
        tmp_path, "fsync", 3 << 20, "block", block_timeout_s=7.0, dead_bytes_max=11, dead_age_max_s=12.0,
        segment_bytes_max=1 << 30, sync_interval_s=13.0, scan_interval_s=14.0, adopt="never", clock=clock,
    )  # fmt: skip
    store, keeper = queue._store, queue._keeper
    assert (queue.durability, queue.overflow, queue.path) == ("fsync", "block", str(tmp_path))
    assert (store.bytes_max, store.segment_bytes_max, store.overflow) == (3 << 20, 3 << 18, "block")
    assert isinstance(store.segment_bytes_max, int)
    assert (store.block_timeout_s, keeper.sync_interval_s, keeper.scan_interval_s) == (7.0, 13.0, 14.0)
    assert queue._expiry.bounds.in_force(queue.folder) == Bounds(11, 12.0)
    assert (queue._orphans.adopt, queue.lease_s, queue.clock) == ("never", None, clock)
    assert {part.clock for part in (store, keeper, queue._orphans, queue._claims, queue._dead)} == {clock}
    queue.close()
    plain = JournalQueue(tmp_path)
    assert (plain.durability, isinstance(plain.clock, SystemClock), isinstance(plain.folder.disk, Disk)) == (
        "os", True, True
    )  # fmt: skip
    assert plain._store.segment_bytes_max == 8 << 20
    plain.close()


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_what_is_promised_at_fsync_is_on_the_device(tmp_path: Path, durability: Any) -> None:
    """Events and dead letters, each before the call returns; at ``os`` neither is waited for."""
    queue, disk, _ = at(ManualClock(), tmp_path, durability=durability)
    synced: list[int] = []
    disk.hooks["datasync"] = synced.append
    queue.put([event(1), event(2)])
    assert bool(synced) is (durability == "fsync")
    leases = queue.claim(URL, 9, ALL)
    synced.clear()
    queue.bury(leases[:1], "rejected")
    assert bool(synced) is (durability == "fsync")
    queue.close()


def test_what_is_put_says_whether_its_writer_sends_and_was_accepted_before(tmp_path: Path) -> None:
    """As it was set before the first put."""
    queue = JournalQueue(tmp_path)
    assert (queue.sends, queue.retry) == (True, False)
    queue.sends, queue.retry = False, True
    assert (queue.sends, queue.retry) == (False, True)
    queue.put([event(1)])
    (path,) = (tmp_path / "segments").iterdir()
    header = queue.folder.read_header(str(path))
    assert (header.sender, header.retry) == (False, True)
    queue.close()


def test_a_lane_is_one_in_which_something_lies_or_waits(tmp_path: Path) -> None:
    """Own segments, opened ones, and what was given back."""
    queue = JournalQueue(tmp_path, adopt="always")
    assert list(queue.lanes()) == []
    lies(tmp_path, 1, put(0), sealed=1, lane=f"{URL}/others")
    queue.scan()
    assert list(queue.lanes()) == [f"{URL}/others"]
    queue.put([event(1)])
    assert list(queue.lanes()) == [f"{URL}/others", URL]
    queue.claim(URL, 9, ALL)
    assert list(queue.lanes()) == [f"{URL}/others", URL]  # its segment is open
    leases = queue.claim(f"{URL}/others", 9, ALL)
    queue.claim(f"{URL}/others", 9, ALL)
    assert list(queue.lanes()) == [URL]
    queue.release(leases)
    assert list(queue.lanes()) == [f"{URL}/others", URL]
    queue.close()


# -- in the middle of something


def test_what_a_thread_is_in_the_middle_of(tmp_path: Path) -> None:
    """A close must wait for a put, an open and a sync; who has the claims may wait for these, unless he is it."""
    queue = JournalQueue(tmp_path)
    here: Interruptions = queue._store.interruptions
    depth = [0]
    here._put_depth = lambda: depth[0]
    claims, store, opening = queue._claims.lock, queue._store.lock, disk_module._opening
    syncing = queue._store.syncs._syncing
    me = threading.get_ident()
    for locks, puts, syncs, waited_for, cannot_end in (
        ((), 0, False, False, False), ((), 1, False, False, False), ((store,), 0, False, True, True),
        ((store,), 1, False, True, True), ((claims,), 0, False, False, False), ((claims,), 1, False, False, False),
        ((claims, store), 0, False, False, False), ((claims, store), 1, False, False, True),
        ((opening,), 0, False, True, True), ((claims, opening), 0, False, False, True),
        ((), 0, True, True, True), ((claims,), 0, True, False, True),
    ):  # fmt: skip
        depth[0] = puts
        for lock in locks:
            lock.acquire()
        if syncs:
            syncing.add(me)
        found = (here.may_be_waited_for, here.nothing_can_end)
        syncing.discard(me)
        for lock in locks:
            lock.release()
        assert found == (waited_for, cannot_end), (locks, puts, syncs)
    queue.close()


def test_what_was_put_off_is_done_when_nothing_is_under_way(tmp_path: Path) -> None:
    """Once; the newest first; and by whoever comes first."""
    queue = JournalQueue(tmp_path)
    done: list[str] = []
    here = queue._store.interruptions
    here.left_to_do += [lambda: done.append("first"), lambda: done.append("second")]
    with queue._store.lock:
        here.do_what_is_left()
        assert done == []
    here.do_what_is_left()
    assert done == ["second", "first"]
    for call in (queue.tend, queue.stats, lambda: queue.sync(1.0), lambda: queue.put([event(1)])):
        here.left_to_do.append(lambda: done.append("more"))
        done.clear()
        call()
        assert done == ["more"]
    queue.close()
