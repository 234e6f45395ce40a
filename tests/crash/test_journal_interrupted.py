"""What interrupts the journal on a thread of its own: a signal handler or a finalizer that puts, closes, asks, forks.

Where a handler could come at any instruction, each of them is tried.  Where two threads could wait for each other, one
is stopped where it holds what the other wants; what may hang runs on a thread that the test does not wait for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, URL, HookedDisk, closes, drain, event, interrupted, number_of

from eventpost.errors import QueueError, QueueUnavailable
from eventpost.queues.journal import Disk, JournalQueue, inspect
from eventpost.queues.journal import disk as disk_module
from eventpost.queues.protocol import QueueStats
from eventpost.sender.primitives import RLock

BIG = 200_000
"""Of two such events, each begins a segment of its own."""
DAY_S = 86_400.0
WAIT_S = 0.3
"""How long a thread is given to come to where it waits."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where a journal may be made."""
    return tmp_path / "j"


def in_time(*works: Callable[[], Any]) -> list[Any]:
    """Do these at once, each on a thread; what they returned.  Fails if one does not end."""
    out: list[Any] = []
    threads = [threading.Thread(target=lambda work=work: out.append(work()), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads), "two threads wait for each other"
    return out


def once(work: Callable[[], object]) -> Callable[..., None]:
    """Return a hook that does it the first time."""
    first = iter([1])

    def hook(*_: object, **__: object) -> None:
        for _one in first:
            work()

    return hook


def begun(work: Callable[[], object]) -> threading.Thread:
    """Start it on a thread, and give that time to come to where it waits."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(WAIT_S)
    return thread


# -- at any instruction


def a_first_put(queue: JournalQueue) -> Callable[[], None]:
    """Return a put that makes this process a writer."""
    return lambda: queue.put([event(5)])


def a_put(queue: JournalQueue) -> Callable[[], None]:
    """Return a put into a segment that is open."""
    queue.put([event(1)])
    return lambda: queue.put([event(5)])


def a_put_that_begins_a_segment(queue: JournalQueue) -> Callable[[], None]:
    """Return a put that ends one segment and begins the next."""
    queue.put([event(1, BIG)])
    return lambda: queue.put([event(5, BIG)])


PUTS = [
    pytest.param(a_first_put, 8, id="the first"),
    pytest.param(a_put, 2, id="one more"),
    pytest.param(a_put_that_begins_a_segment, 17, id="one that begins a segment"),
]


def rounds(folder: Path, step: int, durability: Any = "os") -> Iterator[tuple[int, JournalQueue, Path]]:
    """Yield instructions to interrupt, each with a journal of its own; the caller ends it."""
    for at in count(1, step):
        here = folder.with_name(f"j{at}")
        yield at, JournalQueue(here, durability), here


def delivered_by_another(here: Path) -> list[int]:
    """Return what a sender finds in a folder, in order; the folder's sum closes."""
    other = JournalQueue(here, adopt="always")
    other.scan()
    got = drain(other)
    other.close()
    status = inspect.folder_status(here)
    assert (status.closes, status.queued, status.delivered) == (True, 0, len(got)), status
    return sorted(got)


@pytest.mark.parametrize(("make", "step"), PUTS)
def test_a_put_over_a_put(folder: Path, make: Callable[[JournalQueue], Callable[[], None]], step: int) -> None:
    """Both are stored, once, wherever the one interrupts the other; and one writer leaves."""
    for at, queue, here in rounds(folder, step):
        put, nested = make(queue), iter([7])
        before = queue.stats().accepted
        interrupted(put, at, lambda queue=queue, nested=nested: queue.put([event(next(nested))]))
        if next(nested, 0):
            break
        assert queue.stats().accepted == before + 2
        assert closes(queue.stats())
        assert len(os.listdir(here / "writers")) == 1, at
        queue.close()
        assert delivered_by_another(here) == [1] * before + [5, 7], at
    assert at > 200


def closed_over(queue: JournalQueue, put: Callable[[], None], at: int) -> tuple[bool | None, QueueStats, QueueStats]:
    """Let a close interrupt a put: whether that said yes (None: there was nothing to interrupt), and both counts."""
    seen: list[QueueStats] = []

    def close() -> None:
        queue.close()
        seen.append(queue.stats())

    yes = True
    try:
        interrupted(put, at, close)
    except QueueUnavailable as error:
        if error.reason != "closed":
            raise
        yes = False
    return (yes if seen else None), (seen or [QueueStats()])[0], queue.stats()


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize(("make", "step"), PUTS)
def test_a_close_over_a_put(
    folder: Path, make: Callable[[JournalQueue], Callable[[], None]], step: int, durability: str
) -> None:
    """As ``close()`` in a SIGTERM handler: what the put says is true, and the close is done before it returns.

    The process lives: a segment that is cut under a store is a SIGBUS.
    """
    child = os.fork()  # it may die of it
    if not child:
        code = 1
        try:
            for at, queue, here in rounds(folder, step * (1 if durability == "os" else 5), durability):
                put = make(queue)
                before = queue.stats().accepted
                yes, then, last = closed_over(queue, put, at)
                if yes is None:
                    break
                assert closes(then)
                assert closes(last)
                assert (last.accepted, last.queued) == (before + yes, before + yes), at
                with pytest.raises(QueueUnavailable, match="queue_unavailable"):
                    queue.put([event(9)])
                assert not queue.folder.disk._descriptors, "it is closed"
                assert delivered_by_another(here) == [1] * before + [5] * yes, at
            assert at > 200
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_fork_over_a_put(folder: Path) -> None:
    """A handler forks, and the child's half of that put goes on: it touches nothing that it opened since."""
    for at, queue, _ in rounds(folder, 3):
        put = a_put(queue)
        forked: list[int] = []

        def fork(queue: JournalQueue = queue, forked: list[int] = forked) -> None:
            forked.append(os.fork())
            if not forked[0]:
                queue.after_fork_in_child()
                for n in range(8):  # these get the numbers of what was the parent's
                    descriptor = os.open(folder.with_name(f"mine{n}"), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                    os.write(descriptor, b"x" * 30_000)

        with suppress(QueueError):  # in the child
            interrupted(put, at, fork)
        if not forked:
            break
        if not forked[0]:
            sizes = {os.path.getsize(folder.with_name(f"mine{n}")) for n in range(8)}
            os._exit(0 if sizes == {30_000} and closes(queue.stats()) else 1)
        assert os.waitpid(forked[0], 0)[1] == 0, at
        assert drain(queue) == [1, 5]
        queue.close()
    assert at > 150


# -- two threads


def test_a_put_over_who_has_the_claims_lock(folder: Path) -> None:
    """Another thread asks for the count meanwhile; neither waits for the other."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.put([event(0)])
    assert len(queue.claim(URL, 1, ALL)) == 1
    queue.put([event(1)])

    def interrupt() -> None:
        queue._count._look_s, queue._count._looked_at = DAY_S, time.monotonic()  # the other need not look, too
        begun(queue.stats)
        queue.put([event(2)])

    disk.hooks["read"] = once(interrupt)  # it looks for the oldest event
    in_time(queue.stats)
    assert queue.stats().accepted == 3
    assert drain(queue) == [1, 2]


class Opening:
    """Interrupts the next opening of a file on the thread that does not say otherwise, in the middle."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        lock, self._open = RLock(), os.open  # all queues share the lock: if it were left locked, others would hang
        patch.setattr(disk_module, "_opening", lock)
        patch.setattr(Disk, "is_opening_here", lock._is_owned)
        patch.setattr(disk_module.os, "open", self.open)
        self.others: list[threading.Thread] = []
        """The threads that ``interrupt`` started."""
        self._interrupts: Iterator[Callable[[], None]] = iter([])

    def interrupt(self, work: Callable[[], None]) -> None:
        """Do this in the middle of the next one."""
        self._interrupts = iter([work])

    def open(self, *arguments: Any, **keywords: Any) -> int:
        """Open a file, and before that do what is to interrupt it."""
        for work in self._interrupts:
            work()
        return self._open(*arguments, **keywords)


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Opening:
    """Return what interrupts the opening of files."""
    return Opening(monkeypatch)


@pytest.mark.parametrize("what", ["a file is opened", "a put opens a file", "nobody is a writer yet"])
def test_a_put_over_the_opening_of_a_file(folder: Path, opening: Opening, what: str) -> None:
    """Another thread's put begins a segment meanwhile; neither waits for the other, and all of it is stored."""
    queue = JournalQueue(folder)
    if what != "nobody is a writer yet":
        queue.put([event(0, BIG)])

    def interrupt() -> None:
        opening.others.append(begun(lambda: queue.put([event(1, BIG)])))
        queue.put([event(2)])

    opening.interrupt(interrupt)
    in_time((lambda: queue.put([event(3, BIG)])) if what == "a put opens a file" else queue.scan)
    in_time(*(thread.join for thread in opening.others))
    expected = {"a file is opened": [0, 1, 2], "a put opens a file": [0, 1, 2, 3], "nobody is a writer yet": [1, 2]}
    stats = queue.stats()
    assert closes(stats)
    assert stats.accepted == stats.queued == len(expected[what])
    assert sorted(drain(queue)) == expected[what]
    assert len(os.listdir(folder / "writers")) == 1
    queue.close()
    assert inspect.folder_status(folder).closes


def test_the_count_over_the_opening_of_a_file(folder: Path, opening: Opening) -> None:
    """Another thread, in the middle of a claim, wants to open one, too: the sum closes, and the claim goes on."""
    queue = JournalQueue(folder)
    for n in range(4):
        queue.put([event(n, BIG)])
    assert len(queue.claim(URL, 1, ALL)) == 1
    seen: list[QueueStats] = [queue.stats()]
    claimed: list[Any] = []

    def interrupt() -> None:
        opening.others.append(begun(lambda: claimed.extend(queue.claim(URL, 4, ALL))))
        seen.append(queue.stats())
        queue.sync(0.1)
        queue.close()

    opening.interrupt(interrupt)
    in_time(queue.scan)
    in_time(*(thread.join for thread in opening.others))
    assert len(claimed) == 3
    queue.stats()
    assert [closes(one) for one in [*seen, queue.stats()]] == [True] * 3
    assert delivered_by_another(folder) == [0, 1, 2, 3]


def test_a_put_over_a_sync(folder: Path) -> None:
    """At fsync: another thread's put begins a segment, and has to wait for that sync; all of them are stored."""
    disk = HookedDisk()
    queue = JournalQueue(folder, "fsync", disk=disk)
    queue.put([event(0, BIG)])
    others: list[threading.Thread] = []

    def interrupt() -> None:
        others.append(begun(lambda: queue.put([event(1, BIG)])))
        queue.put([event(2)])

    disk.hooks["datasync"] = once(interrupt)
    in_time(lambda: queue.put([event(3)]))
    in_time(*(thread.join for thread in others))
    assert queue.stats().accepted == 4
    assert sorted(drain(queue)) == [0, 1, 2, 3]


def test_a_put_over_a_put_waits_for_no_ones_turn_to_sync(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At fsync: another thread has the turn, and needs the put lock that the interrupted put holds."""
    monkeypatch.setattr("eventpost.queues.journal.sync.SYNC_WAIT_S", 2.0)
    queue = JournalQueue(folder, "fsync")
    queue.put([event(0)])
    others: list[threading.Thread] = []
    syncs = queue._store.syncs

    def take_the_turn() -> None:
        with syncs._sync_lock:
            syncs._sync(queue._store._levels[0][URL])

    def interrupt() -> None:
        others.append(begun(take_the_turn))
        queue.put([event(1)])

    append = queue._store._append
    monkeypatch.setattr(queue._store, "_append", lambda *arguments: (first(), append(*arguments))[1])
    first = once(interrupt)
    began = time.monotonic()
    in_time(lambda: queue.put([event(2)]))
    assert time.monotonic() - began < WAIT_S + 1.0
    in_time(*(thread.join for thread in others))
    assert drain(queue) == [0, 2, 1] or sorted(drain(queue)) == []


def test_the_count_over_a_put(folder: Path) -> None:
    """A handler asks for it in the middle of a put, while who has the claims' lock waits for that put to end."""
    queue = JournalQueue(folder)
    queue.put([event(0)])
    seen: list[QueueStats] = []
    append = queue._store._append
    store, claims = queue._store, queue._claims

    def wait_for_the_put() -> None:
        with claims.lock, store.lock:
            pass

    def interrupt() -> None:
        begun(wait_for_the_put)
        seen.append(queue.stats())
        queue.sync(1.0)
        queue.close()

    first = once(interrupt)
    store._append = lambda *arguments: (first(), append(*arguments))[1]  # type: ignore[method-assign]
    in_time(lambda: queue.put([event(1)]))
    assert [closes(one) for one in seen] == [True]
    assert queue.stats().accepted == 2
    assert delivered_by_another(folder) == [0, 1]


def test_a_finalizer_on_the_senders_thread(folder: Path) -> None:
    """It puts while that thread settles a dead letter, and another one begins a segment: nobody waits for nobody."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk)
    queue.put([event(0, BIG)])
    leases = queue.claim(URL, 1, ALL)
    others: list[threading.Thread] = []

    def interrupt() -> None:
        others.append(begun(lambda: queue.put([event(1, BIG)])))
        queue.put([event(2)])

    disk.hooks["still_named"] = once(interrupt)  # whether it is a writer still
    in_time(lambda: queue.bury(leases, "http_400"))
    in_time(*(thread.join for thread in others))
    stats = queue.stats()
    assert (stats.accepted, stats.dead, stats.queued) == (3, 1, 2)
    assert sorted(drain(queue)) == [1, 2]


# -- nobody waits for who looks on


def test_a_put_waits_for_nobody_who_asks_for_the_count(folder: Path) -> None:
    """The sender writes the totals, somebody waits to be told the count, and a put waits for neither."""
    disk = HookedDisk()
    queue = JournalQueue(folder, disk=disk, segment_bytes_max=1 << 18)
    queue.put([event(0, BIG)])
    queue.put([event(1, BIG)])
    leases = queue.claim(URL, 1, ALL)
    goes_on, syncing = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        syncing.set()
        assert goes_on.wait(10)

    queue.ack([*leases, *queue.claim(URL, 1, ALL)])
    assert [number_of(lease.event.payload) for lease in leases] == [0]
    disk.hooks["datasync"] = hang
    queue._count._look_s, queue._count._looked_at = DAY_S, time.monotonic()
    sender = begun(queue._claims.fold_done)
    assert syncing.is_set()
    asks = begun(queue.stats)
    try:
        in_time(lambda: queue.put([event(2)]))
        assert asks.is_alive()
    finally:
        goes_on.set()
    sender.join(10)
    asks.join(10)
    assert closes(queue.stats())
