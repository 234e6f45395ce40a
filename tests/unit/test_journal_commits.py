"""Puts at ``fsync``: the yes comes after the sync, and what was refused is never sent."""

import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_journal_puts import LANES, Storing, event, refuse
from tests.unit.test_journal_room import in_another_thread

from eventpost.errors import QueueUnavailable
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal import sync as sync_module
from eventpost.queues.journal.format import Outcome
from eventpost.queues.journal.segment import SegmentWriter
from eventpost.sender.primitives import RLock

VOID = bytes([Outcome.VOID])


@pytest.fixture
def durable(tmp_path: Path) -> Storing:
    """Give one that promises at ``fsync``."""
    return Storing(tmp_path, durable=True)


def outcomes(writer: SegmentWriter) -> bytes:
    """Return the outcomes of a segment's first six events."""
    return Path(writer.path).read_bytes()[fmt.PAGE_BYTES :][:6]


def never_in_turn(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let somebody else be in the middle of a sync for good."""
    monkeypatch.setattr(sync_module, "SYNC_WAIT_S", 0.001)
    in_another_thread(lambda: storing.store.syncs._sync_lock.acquire(False))


@pytest.mark.parametrize("promised", [False, True])
def test_the_names_on_the_way_are_safe_before_a_segment_has_its_own(tmp_path: Path, *, promised: bool) -> None:
    """Where that is promised; its bytes are, too."""
    storing = Storing(tmp_path, durable=promised)
    storing.folder.make()
    calls: list[str] = []
    storing.disk.hooks = {
        "sync_folder": lambda path: calls.append(os.path.relpath(path, storing.folder.path)),
        "rename": lambda _old, new: calls.append("rename") if new.endswith(".seg") else None,
        "datasync": lambda _fd: calls.append("bytes"),
    }
    storing.put(event())
    assert ("." in calls, calls[-4:]) == (
        promised, ["bytes", "rename", "segments", "bytes"] if promised else ["rename"],
    )  # fmt: skip
    if promised:
        assert calls.index(".") < calls.index("rename")


def test_nothing_is_seen_before_it_is_safe(durable: Storing) -> None:
    """One sync for a put to one endpoint, however many events it has."""
    durable.put(event(b"a"))
    durable.watch_syncs()
    seen: list[list[bytes]] = []
    hook = durable.disk.hooks["datasync"]

    def synced(fd: int) -> None:
        hook(fd)
        seen.append(durable.claimed())

    durable.disk.hooks["datasync"] = synced
    durable.put(event(b"b"))
    durable.put(event(b"c"), event(b"d"))
    assert (len(durable.syncs), seen, durable.claimed()) == (2, [[b"a"], [b"b"]], [b"c", b"d"])
    [writer] = durable.open()
    assert (writer.synced, writer.synced_count) == (writer.end, 4)


def test_a_put_to_several_endpoints_is_safe_as_a_whole_before_it_is_seen(durable: Storing) -> None:
    """Each is synced once."""
    durable.put(*[event(b"before", url) for url in LANES])
    durable.watch_syncs()
    durable.put(*[event(b"%d" % n, LANES[n % 2]) for n in range(4)])
    assert durable.syncs == ["a", "b"]
    assert durable.claimed(*LANES) == [b"before", b"0", b"2", b"before", b"1", b"3", b"before"]


def test_a_refused_sync_refuses_what_all_endpoints_were_to_get(durable: Storing) -> None:
    """Also what is on the device already; what was there before stays."""
    durable.put(*[event(b"before", url) for url in LANES])
    writers = durable.open()
    durable.watch_syncs()
    hook = durable.disk.hooks["datasync"]

    def synced(fd: int) -> None:
        hook(fd)
        if fd == writers[1].fd:
            refuse()

    durable.disk.hooks["datasync"] = synced
    with pytest.raises(QueueUnavailable, match="sync") as refused:
        durable.put(*[event(b"%d" % n, LANES[n % 2]) for n in range(6)])
    assert refused.value.reason == "sync_failed"
    assert (durable.syncs, durable.open(), durable.store.accepted()) == (["a", "b"], writers[2:], 3)
    assert [(writer.sealed, writer.count) for writer in writers] == [(True, 1), (True, 1), (False, 1)]
    assert durable.claimed(*LANES) == [b"before"] * 3


def test_a_refused_sync_ends_its_segment_only(durable: Storing) -> None:
    """At what was safe; the next put begins another."""
    durable.put(event(b"a"))
    durable.put(event(b"x", LANES[0]))
    writer, other = durable.open()
    durable.disk.hooks["datasync"] = refuse
    assert durable.refused(event(b"b"), event(b"c")) == "sync_failed"
    durable.disk.hooks.clear()
    assert (writer.sealed, durable.open(), durable.store.accepted()) == (True, [other], 2)
    assert durable.claims.count_passed() == (0, 0)  # it was taken back, which nobody need be told
    durable.put(event(b"d"))
    assert durable.claimed() == [b"a", b"d"]


def test_a_put_in_the_middle_of_a_sync_is_safe_by_itself(durable: Storing) -> None:
    """A signal handler's: who has the locks may wait for this thread, so it goes to a segment of its own."""
    durable.put(event(b"a"))
    [writer] = durable.open()
    durable.watch_syncs()
    hook = durable.disk.hooks["datasync"]

    def handler(fd: int) -> None:
        durable.disk.hooks["datasync"] = hook
        hook(fd)
        durable.put(event(b"c"))

    durable.disk.hooks["datasync"] = handler
    durable.put(event(b"b"))
    assert (durable.open(), [one.sealed for one in durable.writers()]) == ([writer], [False, True])
    assert [one.synced == one.end for one in durable.writers()] == [True, True]
    assert len(durable.syncs) == 3  # of the put, of the handler's new file, and of its event
    assert (durable.claimed(), durable.store.accepted()) == ([b"a", b"b", b"c"], 3)


@pytest.mark.parametrize("interrupted", [0, 15])
def test_a_put_aside_that_cannot_be_made_safe_is_refused(
    durable: Storing, monkeypatch: pytest.MonkeyPatch, interrupted: int
) -> None:
    """However many others it interrupts."""
    monkeypatch.setattr(durable.store, "_is_opening", lambda: True)
    durable.store._free_aside = durable.store._free_aside[: 16 - interrupted]
    made = len(durable.writers())

    def synced(fd: int) -> None:
        if any(writer.fd == fd for writer in durable.writers()[made:]):
            refuse()

    durable.disk.hooks["datasync"] = synced
    assert durable.refused(event()) == "sync_failed"
    assert (durable.store.accepted(), durable.claimed()) == (0, [])


def test_what_is_open_can_be_synced(durable: Storing, tmp_path: Path) -> None:
    """By a flush: at ``fsync`` what no put has synced yet, at ``os`` all, with the names on the way."""
    durable.put(event(b"a"))
    with durable.store.lock:
        durable.store._append(durable.store._levels[0], 0, event(b"b"))
    assert durable.claimed() == [b"a"]
    assert durable.store.syncs.sync() is True
    assert durable.claimed() == [b"b"]
    plain = Storing(tmp_path / "plain")
    plain.put(event())
    [writer] = plain.open()
    folders: list[str] = []
    plain.disk.hooks["sync_folder"] = folders.append
    assert plain.store.syncs.unsynced() == [writer]
    assert plain.store.syncs.sync() is True
    assert (plain.store.syncs.unsynced(), plain.folder.path in folders) == ([], True)
    plain.put(event(1 << 18))
    plain.store.syncs.sync()
    assert plain.store.syncs.unsynced() == []
    plain.store.remember_unsynced(writer)
    assert plain.store.syncs.unsynced() == [writer]


# -- segments that end


def test_what_waits_for_its_sync_is_safe_before_its_segment_ends(durable: Storing) -> None:
    """The end is what tells the reader that all of it may be sent."""
    durable.put(event(b"a"))
    with durable.store.lock:
        writer = durable.store._append(durable.store._levels[0], 0, event(b"b"))
    durable.watch_syncs()
    durable.store.close()
    assert (durable.syncs, writer.sealed, writer.synced, writer.synced_count) == (["s"], True, writer.end, 2)
    assert (durable.claimed(), durable.store.accepted()) == ([b"a", b"b"], 2)


def test_what_cannot_be_made_safe_at_the_end_is_taken_back(durable: Storing) -> None:
    """It was promised to nobody."""
    durable.put(event(b"a"))
    with durable.store.lock:
        durable.store._append(durable.store._levels[0], 0, event(b"b"))
    durable.disk.hooks["datasync"] = refuse
    durable.store.close()
    assert (durable.claimed(), durable.store.accepted()) == ([b"a"], 1)


def test_an_end_at_os_waits_for_no_sync(tmp_path: Path) -> None:
    """Nor does any put."""
    storing = Storing(tmp_path)
    storing.watch_syncs()
    storing.put(event(b"a"), event(b"b", LANES[0]))
    storing.put(event(1 << 18))
    storing.store.close()
    assert (storing.syncs, storing.store.accepted()) == ([], 3)


def test_a_segment_that_cannot_be_cut_ends_all_the_same(tmp_path: Path) -> None:
    """Its file is longer than it need be."""
    storing = Storing(tmp_path)
    storing.put(event(b"a"))
    [writer] = storing.open()
    storing.disk.hooks["truncate"] = refuse
    storing.store.close()
    assert (writer.sealed, storing.open(), storing.claimed()) == (True, [], [b"a"])


def test_one_that_could_not_be_synced_is_ended_wherever_it_is_open(durable: Storing) -> None:
    """Of the puts that interrupt each other, too; no other ends."""

    def handler(*_: object, **__: object) -> None:
        if durable.store._depth < 3:
            durable.put(event(), event())

    durable.disk.hooks["allocate"] = handler
    durable.put(event(), event())
    writers = [durable.open(depth)[0] for depth in range(3)]
    durable.store._end(writers[1])
    assert [writer.sealed for writer in writers] == [False, True, False]
    assert durable.open(1) == []


# -- a sync that does not come in time


def test_what_is_refused_for_a_late_sync_is_void(durable: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events, and no others: they are passed over, and not counted."""
    durable.put(event(b"a"), event(b"b"), event(b"c"))
    [writer] = durable.open()
    never_in_turn(durable, monkeypatch)
    assert durable.refused(event(b"d")) == "sync_timeout"
    assert durable.refused(event(b"e"), event(b"f")) == "sync_timeout"
    assert (outcomes(writer), durable.claims.count_passed()) == (bytes(3) + VOID * 3, (3, 3))
    assert (durable.store.accepted(), durable.open()) == (6, [writer])
    durable.store.syncs._sync_lock = RLock()
    durable.put(event(b"g"))
    assert durable.claimed() == [b"a", b"b", b"c", b"g"]


def test_what_was_void_is_gone_with_what_is_taken_back(durable: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not counted twice."""
    durable.put(event(b"a"))
    [writer] = durable.open()
    never_in_turn(durable, monkeypatch)
    assert durable.refused(event(b"b")) == durable.refused(event(b"c"), event(b"d")) == "sync_timeout"
    assert durable.claims.count_passed() == (3, 3)
    durable.disk.hooks["datasync"] = refuse
    durable.store.close()
    assert (durable.store.accepted(), durable.claims.count_passed()) == (1, (0, 0))
    assert (outcomes(writer), durable.claimed()) == (bytes(6), [b"a"])


@pytest.mark.parametrize("interrupts", [False, True])
def test_a_sync_that_came_all_the_same_is_a_yes(durable: Storing, *, interrupts: bool) -> None:
    """Nothing is void; who interrupts a put waits for nobody to find that out."""
    durable.put(event(b"a"))
    commit = durable.store.syncs.commit

    def late(writer: SegmentWriter, end: int) -> None:
        commit(writer, end)
        raise QueueUnavailable(reason="sync_timeout")

    durable.store.syncs.commit = late  # type: ignore[method-assign]
    if interrupts:

        def within() -> bool:
            with durable.store.lock:
                durable.put(event(b"b"), event(b"c"))
            return True

        with durable.claims.lock:
            assert in_another_thread(within)
        assert durable.claims.count_passed() == (0, 0)
    else:
        durable.put(event(b"b"), event(b"c"))
        assert durable.claimed() == [b"a", b"b", b"c"]
    assert durable.store.accepted() == 3


def test_a_refused_put_that_interrupts_another_waits_for_nobody(durable: Storing) -> None:
    """Who has the claims' lock may wait for the put below: nothing is void, the segment has ended."""
    durable.put(event(b"a"))
    durable.disk.hooks["datasync"] = refuse

    def within() -> str | None:
        with durable.store.lock:
            return durable.refused(event(b"b"))

    with durable.claims.lock:
        assert in_another_thread(within) == "sync_failed"
    assert (durable.store.accepted(), durable.open()) == (1, [])


def test_where_the_disk_fails_a_late_put_stays(durable: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and may be sent all the same: it stays accepted."""
    durable.put(event(b"a"))
    never_in_turn(durable, monkeypatch)

    def fails(path: str, **_: Any) -> None:
        refuse()

    durable.disk.hooks["open"] = fails
    assert durable.refused(event(b"b")) == "sync_timeout"
    durable.disk.hooks.clear()
    assert (durable.store.accepted(), durable.claims.count_passed()) == (2, (0, 0))
    durable.store.syncs._sync_lock = RLock()
    durable.put(event(b"c"))
    assert durable.claimed() == [b"a", b"b", b"c"]
