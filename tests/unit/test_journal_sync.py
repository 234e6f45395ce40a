"""What is synced for whom, in which order, and what becomes of it where the disk refuses."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import HookedDisk

from eventpost.errors import QueueUnavailable
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal import sync as sync_module
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import Kind
from eventpost.queues.journal.segment import SegmentWriter
from eventpost.queues.journal.sync import Syncs
from eventpost.sender.primitives import RLock

SIZE = 8 * fmt.PAGE_BYTES


def in_time(work: Callable[[], Any]) -> Any:
    """Do it on a thread of its own; what it returned.  Fails if it does not end."""
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(work()), daemon=True)
    thread.start()
    thread.join(10)
    assert out, "it has not ended, or has failed"
    return out[0]


class Storing:
    """A store's syncs, over real segments."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.disk = HookedDisk()
        self.folder = Folder(folder, disk=self.disk, gid=None, allow_network_fs=True)
        self.lock = RLock()
        self.durable = durable
        self.open: list[SegmentWriter] = []
        self.ended: list[SegmentWriter] = []
        self.names: dict[int, str] = {}
        self.done: list[str] = []
        """Each sync, by what was synced."""
        self.syncs = Syncs(
            self.folder, self.lock, durable=durable, writers=lambda: list(self.open), end=self.end,
            sync_path=lambda: self.done.append("path"),
        )  # fmt: skip

    def begin(self, name: str, *, part: str | None = None) -> SegmentWriter:
        """Begin a segment, and put one event into it."""
        header = fmt.encode_header("http://127.0.0.1:9/", "7.aa", 1, sender=True, retry=False, outcome_pages=1)
        writer = SegmentWriter(
            self.disk, part or self.folder.segments, name, header, SIZE, mode=0o600, gid=None, durable=self.durable
        )
        self.append(writer)
        self.open.append(writer)
        self.names[os.fstat(writer.fd).st_ino] = name
        if not self.durable:
            self.syncs.remember(writer)
        return writer

    def append(self, writer: SegmentWriter) -> None:
        """Append an event."""
        writer.append(Kind.EVENT, 0, b"payload", 1)

    def end(self, writer: SegmentWriter) -> None:
        """End a segment that could not be synced."""
        self.ended.append(writer)
        self.open = [one for one in self.open if one is not writer]

    def watch(self, then: Callable[[str], None] = lambda name: None) -> None:
        """Note what is synced from now on, and do something before each."""

        def synced(what: Any) -> None:
            name = self.names[os.fstat(what).st_ino] if isinstance(what, int) else os.path.basename(what)
            self.done.append(name)
            then(name)

        self.disk.hooks |= {"datasync": synced, "sync_folder": synced}


def refuse(name: str) -> None:
    """Fail."""
    raise OSError(errno.EIO, "Input/output error", name)


@pytest.fixture
def durable(tmp_path: Path) -> Storing:
    """Give one that promises at ``fsync``."""
    return Storing(tmp_path, durable=True)


@pytest.fixture
def plain(tmp_path: Path) -> Storing:
    """Give one that promises at ``os``."""
    return Storing(tmp_path, durable=False)


# -- group commit


def test_a_put_returns_once_its_bytes_are_on_the_device(durable: Storing) -> None:
    """Those of others that are there by then are, too: who comes next finds them there, and syncs nothing."""
    writer = durable.begin("a")
    first = writer.end
    durable.append(writer)
    durable.watch()
    durable.syncs.commit(writer, first)
    assert (writer.synced, writer.synced_count) == (writer.end, 2)
    durable.syncs.commit(writer, writer.end)
    assert durable.done == ["a"]


def test_who_waited_for_another_ones_sync_finds_its_bytes_there(durable: Storing) -> None:
    """One sync for all who appended before it; what came later is not theirs to wait for."""
    writer = durable.begin("a")
    durable.append(writer)
    others: list[threading.Thread] = []

    def meanwhile(_: str) -> None:
        if not others:
            others.append(threading.Thread(target=durable.syncs.commit, args=(writer, writer.end), daemon=True))
            others[0].start()
            durable.append(writer)

    durable.watch(meanwhile)
    durable.syncs.commit(writer, writer.end)
    others[0].join(10)
    assert durable.done == ["a"]


def test_a_refused_sync_is_a_refused_put_and_the_segments_end(durable: Storing) -> None:
    """Whoever it covers is told; the sync lock is free again."""
    writer = durable.begin("a")
    durable.watch(refuse)
    for _ in range(2):
        with pytest.raises(QueueUnavailable, match="the disk refused a sync; the segment is given up") as refused:
            durable.syncs.commit(writer, writer.end)
        assert refused.value.reason == "sync_failed"
    assert durable.done == ["a"]
    assert durable.ended[0] is writer
    assert not durable.syncs.is_syncing_here()
    assert in_time(lambda: durable.syncs._sync_lock.acquire(False))


def test_a_put_waits_for_its_turn_so_long(durable: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute, then it is refused; the sync that is under way goes on."""
    assert sync_module.SYNC_WAIT_S == 30.0
    monkeypatch.setattr(sync_module, "SYNC_WAIT_S", 0.01)
    writer = durable.begin("a")
    reasons: list[str] = []

    def late() -> bool:
        with pytest.raises(QueueUnavailable, match="the disk did not answer a sync in time") as refused:
            durable.syncs.commit(writer, writer.end)
        reasons.append(refused.value.reason)
        return True

    durable.watch(lambda _: reasons or in_time(late))
    durable.syncs.commit(writer, writer.end)
    assert reasons == ["sync_timeout"]
    assert durable.done == ["a"]


def test_who_interrupts_a_put_waits_for_nobodys_turn(durable: Storing) -> None:
    """Who has it may wait for the put that is interrupted; the handler syncs by itself."""
    writer = durable.begin("a")
    durable.watch()
    in_time(lambda: durable.syncs._sync_lock.acquire(False))  # and never lets go
    with durable.lock:
        durable.syncs.commit(writer, writer.end)
    assert durable.done == ["a"]


def test_what_is_safe_already_waits_for_nobodys_turn(durable: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another's sync is about what came later."""
    monkeypatch.setattr(sync_module, "SYNC_WAIT_S", 0.01)
    writer = durable.begin("a")
    durable.syncs.commit(writer, writer.end)
    in_time(lambda: durable.syncs._sync_lock.acquire(False))  # and never lets go
    durable.syncs.commit(writer, writer.end)


def test_a_background_sync_only_reads(plain: Storing) -> None:
    """It needs no right to write, and changes nothing."""
    plain.begin("a")
    opened: list[bool] = []

    def look(_: str, *, write: bool = True) -> None:
        opened.append(write)

    plain.disk.hooks["open"] = look
    assert plain.syncs.sync() is True
    assert opened == [False]


def test_a_thread_knows_that_it_is_in_the_middle_of_a_sync(durable: Storing) -> None:
    """Only that one, and only then; also after a sync that came in the middle of it."""
    writer, other = durable.begin("a"), durable.begin("b")
    seen: list[tuple[bool, bool]] = []

    def look(name: str) -> None:
        if name == "a":
            durable.syncs._sync(other)  # what a signal handler's put does
        seen.append((durable.syncs.is_syncing_here(), in_time(durable.syncs.is_syncing_here)))

    durable.watch(look)
    assert not durable.syncs.is_syncing_here()
    durable.syncs.commit(writer, writer.end)
    assert seen == [(True, False), (True, False)]
    assert not durable.syncs.is_syncing_here()


def test_a_flush_at_fsync_syncs_what_is_open(durable: Storing) -> None:
    """All of it, though one is refused; in the middle of a sync or an open nothing: who has the lock may wait."""
    writers = [durable.begin(name) for name in "abc"]

    def one_fails(name: str) -> None:
        assert durable.syncs.sync() is True  # from a handler in the middle of it: nothing is done
        if name == "b":
            refuse(name)

    durable.watch(one_fails)
    assert durable.syncs.sync() is False
    assert durable.done == ["a", "b", "c"]
    assert durable.ended == [writers[1]]
    assert durable.syncs.sync() is True
    assert durable.done == ["a", "b", "c"]
    durable.append(writers[0])
    durable.disk.is_opening_here = lambda: True  # type: ignore[method-assign]
    assert durable.syncs.sync() is True
    assert durable.done == ["a", "b", "c"]


# -- background syncs


def test_bytes_come_before_the_names_that_make_them_part_of_the_journal(plain: Storing) -> None:
    """Each file once, then each folder once, then the names above; what is safe is not synced again."""
    for name in "ab":
        plain.begin(name)
    plain.begin("c", part=plain.folder.dead)
    plain.watch()
    assert [writer.name for writer in plain.syncs.unsynced()] == ["a", "b", "c"]
    assert plain.syncs.sync() is True
    assert plain.done == ["a", "b", "c", "dead", "segments", "path"]
    assert plain.syncs.unsynced() == []
    assert plain.syncs.sync() is True
    assert len(plain.done) == 6
    plain.append(plain.open[1])
    assert plain.syncs.sync() is True
    assert plain.done[6:] == ["b"]  # its name is safe


def test_what_is_appended_meanwhile_is_not_taken_for_safe(plain: Storing) -> None:
    """The next sync is about it."""
    writer = plain.begin("a")
    before = writer.end
    plain.watch(lambda name: plain.append(writer) if name == "a" else None)
    assert plain.syncs.sync() is True
    assert writer.synced == before < writer.end
    assert plain.syncs.unsynced() == [writer]


def test_a_sealed_segment_is_forgotten_once_it_is_safe(plain: Storing) -> None:
    """Also one that was safe already, and one that was settled and is gone; the descriptors go, too."""
    writers = [plain.begin(name) for name in "abc"]
    writers[0].seal(plain.disk)
    writers[1].seal(plain.disk)
    os.unlink(writers[1].path)
    plain.watch()
    before = len(plain.disk._descriptors)
    assert plain.syncs.unsynced() == writers
    assert plain.syncs.sync() is True
    assert plain.done == ["a", "c", "segments", "path"]
    assert plain.syncs.unsynced() == []
    assert len(plain.disk._descriptors) == before
    writers[2].seal(plain.disk)
    assert plain.syncs.unsynced() == [writers[2]]  # sealing may have stored more than was synced
    assert plain.syncs.sync() is True
    assert plain.syncs.unsynced() == []
    assert plain.done == ["a", "c", "segments", "path"]


@pytest.mark.parametrize("fails", ["a", "segments"])
def test_a_refusal_is_told_once(plain: Storing, fails: str) -> None:
    """A second sync would say that all is well; the others are synced all the same."""
    plain.begin("a")
    plain.begin("b")
    plain.watch(lambda name: refuse(name) if name == fails else None)
    before = len(plain.disk._descriptors)
    assert plain.syncs.sync() is False
    assert plain.done == ["a", "b", "segments", *(["path"] if fails == "a" else [])]
    assert plain.syncs.sync() is True
    assert len(plain.disk._descriptors) == before


def test_some_are_synced_at_a_time(plain: Storing) -> None:
    """Those only, and as safe as all would be."""
    writers = [plain.begin(name) for name in "abc"]
    plain.watch()
    assert plain.syncs.sync(writers[1:2]) is True
    assert plain.done == ["b", "segments", "path"]
    assert plain.syncs.unsynced() == [writers[0], writers[2]]
    assert plain.syncs.sync([]) is True
    assert plain.done == ["b", "segments", "path"]


def test_where_nobody_syncs_what_is_gone_is_forgotten(plain: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 256, when another begins: no list grows without end."""
    assert sync_module._UNSYNCED_MAX == 256
    monkeypatch.setattr(sync_module, "_UNSYNCED_MAX", 3)
    writers = [plain.begin(name) for name in "abc"]
    for writer in writers[:2]:
        os.unlink(writer.path)
    assert len(plain.syncs.unsynced()) == 3
    plain.begin("d")
    assert [writer.name for writer in plain.syncs.unsynced()] == ["c", "d"]
