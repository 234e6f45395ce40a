"""Whom JournalQueue tells of what happened, and when; and how it parks, forks and ends."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, URL, closes, event
from tests.unit.test_journal_dropping import raising
from tests.unit.test_journal_hands import BIG, queue_in, spoil
from tests.unit.test_journal_queue import at, other_locks_are_free, refusing
from tests.unit.test_journal_status import lies, put

from eventpost.errors import QueueUnavailable
from eventpost.queues.journal import JournalQueue, inspect
from eventpost.queues.journal import format as fmt
from eventpost.queues.protocol import Answer, QueueStats
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Damaged, Signal, Trouble

# -- whom it tells


@pytest.mark.parametrize("call", ["put", "claim", "bury", "tend", "recalled", "scan", "sync", "close"])
def test_what_happened_is_told_by_the_end_of_the_call(tmp_path: Path, call: str) -> None:
    """In its order, under no lock, for whoever hears it may call anything."""
    queue, _, heard = at(ManualClock(), tmp_path)
    queue.put([event(1)])
    (lease,) = queue.claim(URL, 1, ALL)
    free: list[bool] = []
    queue.emit = lambda signal: (heard.append(signal), free.append(other_locks_are_free(queue)))  # type: ignore[assignment,func-returns-value]
    happened: list[Signal] = [Trouble("journal", str(number)) for number in range(3)]
    for one in happened:
        queue._tell(one)
    arguments: dict[str, Any] = {"put": ([event(2)],), "claim": (URL, 1, ALL), "bury": ([lease], "x"), "sync": (1.0,)}
    getattr(queue, call)(*arguments.get(call, ()))
    assert (heard, free) == (happened, [True] * 3)
    queue.close()


def test_whatever_part_says_something_is_heard(tmp_path: Path) -> None:
    """Those that look, count, expire, erase and adopt."""
    queue, _, heard = at(ManualClock(), tmp_path)
    for part in (queue._claims, queue._count, queue._erasing, queue._orphans, queue._expiry, queue._keeper):
        part.emit(Trouble("journal", type(part).__name__))
    queue.scan()
    assert [str(getattr(one, "detail", "")) for one in heard] == [
        "Claims", "Count", "Erasing", "Orphans", "Expiry", "Keeper"
    ]  # fmt: skip
    queue.close()


@pytest.mark.parametrize("holds", ["claims", "store"])
def test_who_holds_a_lock_tells_nothing_yet(tmp_path: Path, holds: str) -> None:
    """Whoever lets it go does."""
    queue, _, heard = at(ManualClock(), tmp_path)
    queue._tell(Trouble("journal", "x"))
    with getattr(queue, f"_{holds}").lock:
        queue.scan()
        assert heard == []
    queue.scan()
    assert heard == [Trouble("journal", "x")]
    queue.close()


@pytest.mark.parametrize(("adopted", "kept"), [(False, True), (True, True), (True, False)])
def test_damage_is_counted_and_told_with_where_its_bytes_are(tmp_path: Path, *, adopted: bool, kept: bool) -> None:
    """In the folder's ``bad``, or, where they can't be set aside, where they were; once, and the others are sent."""
    writer = JournalQueue(tmp_path, adopt="never")
    writer.put([event(number) for number in (1, 2, 3, 4)])
    if adopted:
        writer.close()
    (path,) = (tmp_path / "segments").iterdir()
    data = path.read_bytes()
    place = [data.index(event(number).payload) - fmt.FRAME_HEAD_BYTES for number in (1, 2, 3, 4)]
    spoil(tmp_path, b'{"n":1')
    spoil(tmp_path, b'{"n":3')
    queue = writer
    if adopted:
        queue = JournalQueue(tmp_path)
        queue.scan()
    heard: list[Signal] = []
    queue.emit = heard.append
    if not kept:
        (tmp_path / "bad").rmdir()
    assert queue.pending(URL) == 4
    expired: list[int] = []
    queue._expiry.expire_bad = lambda: expired.append(1)  # type: ignore[method-assign]  # as it is called
    assert [lease.event for lease in queue.claim(URL, 9, ALL)] == [event(2), event(4)]
    assert (queue.pending(URL), expired) == (0, [1, 1])
    for said, at_byte, ends in zip(heard, place[::2], place[1::2], strict=True):
        assert isinstance(said, Damaged)
        assert Path(said.path).parent == (tmp_path / "bad" if kept else path.parent)
        assert Path(said.path).name == (f"{path.name}-{at_byte}.bad" if kept else path.name)
        assert (said.at_byte, said.length_bytes, bool(said.why)) == (at_byte, ends - at_byte, True)
    stats = queue.stats()
    assert (stats.dropped, stats.accepted, stats.adopted) == ({"damaged": 2}, 4, 4 if adopted else 0)
    assert closes(stats)
    queue.close()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("damaged")])
def test_damage_that_cannot_be_kept_within_its_bound_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is told, counted, and passed over; the bound is looked after once a minute anyway."""
    queue, _, heard = at(ManualClock(), tmp_path)
    queue.put([event(1), event(2)])
    spoil(tmp_path, b'{"n":1')
    monkeypatch.setattr(queue._expiry, "expire_bad", raising(error))
    assert [lease.event for lease in queue.claim(URL, 9, ALL)] == [event(2)]
    assert ([type(one) for one in heard], queue.stats().dropped) == ([Damaged], {"damaged": 1})
    queue.close()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("damaged")])
def test_what_cannot_be_tidied_refuses_no_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Before a segment is begun two of each endpoint are, at most; what is in the way is told."""
    queue, _, heard = at(ManualClock(), tmp_path)
    queue.sends = False
    asked: list[Any] = []

    def reap(**wanted: Any) -> int:
        asked.append(wanted)
        raise error

    monkeypatch.setattr(queue._count, "reap_own", reap)
    queue.put([event(1)])
    (said,) = heard
    assert isinstance(said, Trouble)
    assert (said.what, str(tmp_path) in said.detail, str(error) in said.detail) == ("journal", True, True)
    assert asked == [{"oldest": 2}]
    assert queue.stats().accepted == 1
    assert queue.sync(1.0)  # nor does it make a sync fail
    queue.close()


def test_a_purge_that_waits_for_what_is_out_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked of this process, and not what was asked of those that are gone."""
    queue = JournalQueue(tmp_path)
    queue.scan()
    asked: list[Any] = []
    monkeypatch.setattr(queue._erasing, "look", lambda **how: asked.append(how))
    queue.recalled()
    assert asked == [{"elected": False}]
    queue.close()


@pytest.mark.parametrize("sends", [False, True])
def test_a_sync_of_one_that_only_stores_folds_what_others_delivered(tmp_path: Path, *, sends: bool) -> None:
    """A sender folds its own as they are settled."""
    queue = queue_in(tmp_path, adopt="never")
    queue.sends = False
    for number in range(2):
        queue.put([event(number, BIG)])
    other = queue_in(tmp_path, adopt="always")
    other.scan()
    other.ack(other.claim(URL, 9, ALL))
    other.close()
    queue.sends = sends
    assert queue.sync(1.0)
    assert len(os.listdir(tmp_path / "segments")) == 1 + sends
    queue.close()


# -- dead letters


@pytest.mark.parametrize("fails", ["create", "datasync", "settle"])
def test_a_letter_that_cannot_be_stored_goes_back_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """The event stays queued, is not counted as dead, and is due again; why, and where, is told."""
    clock = ManualClock()
    queue, disk, heard = at(clock, tmp_path, durability="fsync")
    queue.put([event(1)])
    leases = queue.claim(URL, 9, ALL)
    if fails == "settle":
        monkeypatch.setattr(queue._claims, "settle_dead", refusing())
    else:
        disk.hooks[fails] = refusing()
    queue.bury(leases, "rejected")
    (said,) = heard
    assert isinstance(said, Trouble)
    assert (said.what, queue.folder.dead in said.detail, os.strerror(errno.EIO) in said.detail) == (
        "journal", True, True
    )  # fmt: skip
    stats = queue.stats()
    assert (stats.dead, stats.queued, stats.in_flight, queue.next_due_s()) == (0, 1, 0, 60.0)
    disk.hooks.clear()
    monkeypatch.undo()
    assert list(inspect.dead_letters(tmp_path)) == []
    clock.advance(60)
    (lease,) = queue.claim(URL, 9, ALL)
    queue.bury([lease], "rejected", Answer(400, "no such project"))
    assert (queue.stats().dead, lease.attempts) == (1, 2)
    (letter,) = inspect.dead_letters(tmp_path)
    assert (letter.reason, letter.status, letter.answer) == ("rejected", 400, "no such project")
    queue.close()


def test_a_letter_makes_its_process_a_writer(tmp_path: Path) -> None:
    """Others must find it alive; at ``fsync`` the names on the way are safe before a letter is promised."""
    JournalQueue(tmp_path / "j").close()
    lies(tmp_path / "j", 1, put(0), sealed=1)
    queue, disk, _ = at(ManualClock(), tmp_path / "j", durability="fsync", adopt="always")
    queue.scan()
    leases = queue.claim(URL, 9, ALL)
    synced: list[str] = []
    disk.hooks["sync_folder"] = synced.append
    queue.bury(leases, "rejected")
    assert f"{tmp_path}/j" in synced
    (lock,) = (tmp_path / "j" / "writers").iterdir()
    assert f"-{lock.name.removesuffix('.lock')}-" in os.listdir(tmp_path / "j" / "dead")[0]
    assert queue.folder.is_alive(lock.name.removesuffix(".lock"))
    queue.close()


# -- its end


def test_what_is_left_at_the_end_is_queued_and_anybodys(tmp_path: Path) -> None:
    """What was out, too; the segment is sealed, the count stays as it was then, and a second end changes nothing."""
    queue = JournalQueue(tmp_path)
    queue.put([event(number) for number in range(5)])
    leases = queue.claim(URL, 3, ALL)
    queue.ack(leases[:1])
    queue.close()
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.queued, stats.in_flight) == (5, 1, 4, 0)
    with pytest.raises(QueueUnavailable):
        queue.put([event(9)])
    assert (queue.tend(), queue.claim(URL, 9, ALL)) == (None, [])
    queue.bury(leases[1:], "rejected")
    queue.close()
    assert queue.stats() == stats
    (path,) = (tmp_path / "segments").iterdir()
    assert queue.folder.read_header(str(path)).sealed_events == 5
    assert len(os.listdir(tmp_path / "writers")) == 1  # whoever takes the segment asks for it
    assert os.listdir(tmp_path / "dead") == []
    other = JournalQueue(tmp_path, adopt="always")
    assert (other.scan(), len(other.claim(URL, 9, ALL))) == (1, 4)
    other.close()


@pytest.mark.parametrize("sends", [True, False])
def test_where_nothing_is_left_nothing_stays(tmp_path: Path, *, sends: bool) -> None:
    """Neither segments nor a lock; with a dead letter there is something left."""
    queue = JournalQueue(tmp_path, adopt="never")
    queue.sends = sends
    queue.put([event(1)])
    other = JournalQueue(tmp_path, adopt="always")
    sender = queue if sends else other
    other.scan()
    sender.ack(sender.claim(URL, 9, ALL))
    queue.close()
    assert os.listdir(tmp_path / "segments") == []
    assert os.listdir(tmp_path / "writers") == []
    other.close()
    dead = JournalQueue(tmp_path)
    dead.put([event(2)])
    dead.bury(dead.claim(URL, 9, ALL), "rejected")
    dead.close()
    assert os.listdir(tmp_path / "segments") == []
    (letters,) = (tmp_path / "dead").iterdir()
    assert dead.folder.read_header(str(letters)).sealed_events == 1
    assert len(os.listdir(tmp_path / "writers")) == 1


@pytest.mark.parametrize(("method", "left"), [("truncate", False), ("unlink", True), ("fold", False)])
def test_an_end_that_fails_somewhere_is_told_and_is_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, *, left: bool
) -> None:
    """Whatever it was: no descriptor stays, the next one may have it all, and nothing is raised."""
    queue, disk, heard = at(ManualClock(), tmp_path)
    queue.scan()
    queue.put([event(1), event(2)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected")
    queue.ack(queue.claim(URL, 1, ALL))
    if method == "fold":
        monkeypatch.setattr(queue._count, "reap_own_dead", refusing())
    else:
        monkeypatch.setattr(queue._store.presence if left else queue._store, "leave" if left else "close", refusing())
    queue.close()
    (said,) = heard
    assert isinstance(said, Trouble)
    assert (said.what, str(tmp_path) in said.detail, os.strerror(errno.EIO) in said.detail) == ("journal", True, True)
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.dead, stats.in_flight) == (2, 1, 1, 0)
    with (tmp_path / "scanner.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    disk.hooks.clear()
    monkeypatch.undo()


def test_a_child_of_a_fork_starts_from_nothing(tmp_path: Path) -> None:
    """No count, no lane, no signal, no election, no descriptor, and everything is due; a closed one stays closed."""
    clock = ManualClock()
    queue, disk, heard = at(clock, tmp_path, adopt="always", sync_interval_s=0)
    queue.put([event(1), event(2), event(3)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected")
    queue.ack(queue.claim(URL, 1, ALL))
    queue.tend()
    queue._erasing.recalls = True
    queue._tell(Trouble("journal", "x"))
    name_before = queue._store.presence.name
    queue.after_fork_in_child()
    assert (len(disk._descriptors), queue._orphans.elected_fd, queue.recalls) == (0, -1, False)
    assert list(queue.lanes()) == []
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.dead, stats.queued, stats.in_flight) == (0, 0, 0, 0, 0)
    assert (queue._store.presence.name, queue._dead.names) == ("", [])
    queue.put([event(4)])
    assert heard == []
    assert queue._store.presence.name != name_before
    (lease,) = queue.claim(URL, 9, ALL)
    assert lease.event == event(4)
    queue.close()
    queue.after_fork_in_child()
    assert queue.stats() == QueueStats()
    assert (queue.tend(), queue.claim(URL, 9, ALL)) == (None, [])
    with pytest.raises(QueueUnavailable):
        queue.put([event(5)])


def test_a_child_of_a_fork_looks_for_itself(tmp_path: Path) -> None:
    """At once, at what came meanwhile, too; what its parent has counted of others' doings is not its own."""
    clock = ManualClock()
    queue, _, _ = at(clock, tmp_path)
    queue.put([event(1)])
    queue.bury(queue.claim(URL, 1, ALL), "rejected")
    assert inspect.discard_dead(tmp_path, None) == 1
    assert queue.stats().dropped == {"dead_discarded": 1}
    os.utime(tmp_path / "segments", (1, 1))
    queue.tend()
    assert (queue._orphans.elected_fd >= 0, queue._orphans.changed) == (True, False)
    queue.after_fork_in_child()
    assert (queue._orphans.elected_fd, queue._orphans.changed) == (-1, True)
    assert queue.stats().dropped == {}
    queue.tend()
    assert queue._orphans.elected_fd >= 0
    queue.close()
