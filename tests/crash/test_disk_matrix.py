"""Whatever a disk does: the application gets an answer, nothing acknowledged suffers, and the rest goes on.

Real faults where they can be had: a small tmpfs (root), RLIMIT_FSIZE, RLIMIT_NOFILE, another user, SIGSTOP.  The rest
by a Disk that fails as told.  docs/disk-faults.md has a row for each test here and below, which the last test checks.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_journal_segments import URL, adopt, closes, drain, event

from eventpost import EventDispatcher, LogEvent
from eventpost.errors import JournalUnusable, QueueFull, QueueUnavailable
from eventpost.queues.journal import Disk, JournalQueue, inspect
from eventpost.queues.journal import format as fmt
from eventpost.queues.protocol import Answer
from eventpost.testing import Collector
from eventpost.watch.signals import Trouble
from support import missing

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def small() -> Iterator[Path]:
    """Give a file system of 2 MB."""
    where = Path(tempfile.mkdtemp())
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "none", where], check=False, capture_output=True
        ).returncode
    ):
        where.rmdir()
        missing("the right to mount a small tmpfs")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)
        where.rmdir()


def fill(queue: JournalQueue, size: int = 400) -> tuple[int, str]:
    """Put until refused; returns how many were taken, and the reason."""
    for n in range(100_000):
        try:
            queue.put([event(n, size)])
        except (QueueUnavailable, QueueFull) as error:
            return n, error.reason
    raise AssertionError("never refused")


def in_child(work: Callable[[], object], uid: int | None = None) -> None:
    """Run a piece of work in a child of its own, as another user if told so."""
    child = os.fork()
    if not child:
        code = 1
        try:
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_file_system_that_is_really_full(small: Path, durability: Any, *, mapped: bool) -> None:
    """A tmpfs of 2 MB: refused as disk_full; all that was taken is delivered and noted; then there is room again."""
    queue = JournalQueue(small / "j", durability, disk=Disk(mapped=mapped))
    taken, reason = fill(queue)
    assert reason == "disk_full"
    assert taken > 1000
    leases = queue.claim(URL, 20, 1 << 20)
    queue.bury(leases[:1], "rejected", Answer(400))  # no room for the letter: it stays queued
    queue.ack(leases[1:])
    stats = queue.stats()
    assert closes(stats)
    assert (stats.accepted, stats.delivered, stats.queued + stats.dead) == (taken, 19, taken - 19)
    assert len(drain(queue)) >= taken - 20
    queue.tend()
    queue.put([event(1)])
    queue.close()
    status = inspect.folder_status(small / "j")
    assert (status.accepted, status.closes) == (taken + 1, True)


class Half:
    """A map whose stores can fail half way."""

    def __init__(self, inner: Any, disk: FullAt) -> None:
        self.inner, self.disk = inner, disk

    def __getitem__(self, key: slice) -> bytes:
        return self.inner[key]

    def __setitem__(self, key: slice, value: bytes) -> None:
        start = key.start or 0
        what = (
            "seal"
            if start == fmt.SEAL_AT and len(value) == fmt.SEAL_BYTES
            else "note"
            if len(value.strip(bytes(value[:1]))) == 0 and len(value) < 20 and start < 64 * 4096
            else "record"
        )
        try:
            self.disk._count(what)
        except OSError:
            self.inner[start : start + len(value) // 2] = value[: len(value) // 2]
            raise
        self.inner[key] = value

    def close(self) -> None:
        """Let it go."""
        self.inner.close()


class FullAt(Disk):
    """A disk that is full (or fails otherwise) from the n-th of some call on, after a part of the bytes."""

    def __init__(self, call: str, at: int, error: int = errno.ENOSPC) -> None:
        super().__init__(mapped=False)
        self.call, self.at, self.error, self.happened = call, at, error, False

    def _count(self, call: str) -> None:
        if call == self.call:
            self.at -= 1
            if self.at < 0:
                self.happened = True
                raise OSError(self.error, os.strerror(self.error))

    def map(self, fd: int, length: int) -> Any:
        """Map, with stores that can fail half way."""
        return Half(super().map(fd, length), self)

    def truncate(self, fd: int, length: int) -> None:
        """Cut, or fail."""
        self._count("cut")
        super().truncate(fd, length)

    def rename(self, old: str, new: str) -> None:
        """Rename, or fail."""
        self._count("rename")
        super().rename(old, new)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["record", "seal", "note", "cut", "rename"])
@pytest.mark.parametrize("at", [1, 7])
def test_full_in_the_middle_of(tmp_path: Path, call: str, at: int, error: int) -> None:
    """Of a record, a seal, an ack's note, a cut, a rename: nothing acknowledged is lost, nothing is counted twice."""
    disk = FullAt(call, at, error)
    queue = JournalQueue(tmp_path / "j", disk=disk, segment_bytes_max=1 << 18)
    taken: list[int] = []
    owed: list[Any] = []
    reasons: set[str] = set()
    for n in range(2500):
        try:
            queue.put([event(n, 900)])
            taken.append(n)
        except (QueueUnavailable, OSError) as refused:
            reasons.add(getattr(refused, "reason", type(refused).__name__))
        if n % 50 == 49 and n < 1000:
            leases = queue.claim(URL, 10, 1 << 20)
            try:
                queue.ack(leases)
            except OSError:
                owed.append(leases)  # as the sender does
        if disk.happened and n > 1500:
            break
        assert closes(queue.stats())
    assert reasons <= {"disk_full", "disk"}
    queue.tend()
    disk.call = ""  # there is room again
    for leases in owed:
        queue.ack(leases)
    before = queue.stats()
    assert before.accepted == len(taken)
    delivered = before.delivered
    got = drain(queue)
    queue.close()
    assert closes(queue.stats())
    assert len(taken) == delivered + len(got)
    assert len(set(got)) == len(got)
    assert disk.happened or (call != "record" and at > 1), "it never came to that"
    queue, _ = adopt(tmp_path / "j")
    assert drain(queue) == []
    queue.close()
    status = inspect.folder_status(tmp_path / "j")
    assert (status.closes, status.accepted, status.queued) == (True, len(taken), 0)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, as a quota does: refused, not killed by SIGXFSZ; what was taken is delivered."""

    def work() -> None:
        queue = JournalQueue(tmp_path / "j")
        queue.put([event(n) for n in range(10)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        _, reason = fill(queue)
        assert reason in {"disk", "disk_full"}, reason
        assert len(drain(queue)) > 10
        assert closes(queue.stats())

    in_child(work)


def test_no_descriptors_left(tmp_path: Path) -> None:
    """RLIMIT_NOFILE: puts into the open segment go on, a new one is refused; afterwards all goes on."""

    def work() -> None:
        queue = JournalQueue(tmp_path / "j", segment_bytes_max=1 << 18)
        queue.put([event(0)])
        most = max(map(int, os.listdir("/proc/self/fd"))) + 40
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        taken: list[int] = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        stored, reason = fill(queue)
        assert (stored > 50, reason) == (True, "no_descriptors")
        queue.scan()
        queue.tend()
        assert closes(queue.stats())
        for fd in taken:
            os.close(fd)
        queue.put([event(1)])
        assert len(drain(queue)) == stored + 2

    in_child(work)


def test_a_read_only_folder(tmp_path: Path) -> None:
    """A file system that cannot be written: the constructor names the remedy, and verify and status still read it."""
    if os.geteuid():
        missing("root, to mount it read-only")
    queue = JournalQueue(tmp_path / "j")
    queue.put([event(1)])
    queue.close()
    mount = ["mount", "--bind", tmp_path / "j", tmp_path / "j"]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        missing("the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path / "j"], check=True)
        with pytest.raises(JournalUnusable, match="read-only file system; choose another folder"):
            JournalQueue(tmp_path / "j")
    finally:
        subprocess.run(["umount", "-l", tmp_path / "j"], check=True)
    queue, _ = adopt(tmp_path / "j")
    assert drain(queue) == [1]
    queue.close()


def test_a_folder_that_is_removed(tmp_path: Path) -> None:
    """Removed while in use: the next segment is refused, what the open one holds is still delivered."""
    queue = JournalQueue(tmp_path / "j", segment_bytes_max=1 << 18)
    queue.put([event(0)])
    shutil.rmtree(tmp_path / "j")
    stored, reason = fill(queue)
    assert reason == "folder_gone"
    assert len(drain(queue)) == stored + 1
    queue.close()


def test_permissions_that_are_lost(tmp_path: Path) -> None:
    """Another user owns the folder now: refused as permission, the open segment goes on, and it is told; no crash."""
    if os.geteuid():
        missing("root, to become another user")
    root = Path(tempfile.mkdtemp())  # not below pytest's own folder, which is closed to others
    root.chmod(0o755)
    folder = root / "j"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    read, write = os.pipe()
    go_read, go_write = os.pipe()

    def work() -> None:
        queue = JournalQueue(folder, segment_bytes_max=1 << 18)
        heard: list[Any] = []
        queue.emit = heard.append
        queue.put([event(0)])
        os.write(write, b"x")
        os.read(go_read, 1)
        stored, reason = fill(queue)
        assert reason == "permission", reason
        queue.scan()
        queue.tend()
        assert closes(queue.stats())
        assert stored > 50
        assert any(isinstance(one, Trouble) for one in heard), heard
        os.write(write, b"y")
        os.read(go_read, 1)
        queue.tend()
        assert len(drain(queue)) == stored + 1
        queue.put([event(1)])
        queue.close()

    try:
        if not (child := os.fork()):
            in_child_code = 1
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                work()
                in_child_code = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                os.write(write, b"!")
            finally:
                os._exit(in_child_code)
        for part in (lambda: os.chown(folder, 0, 0), lambda: os.chown(folder, NOBODY, NOBODY)):
            os.read(read, 1)
            part()
            os.write(go_write, b"g")
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(AssertionError):
            in_child(lambda: JournalQueue(folder), uid=1234)
    finally:
        shutil.rmtree(root)


def test_old_and_new_format_in_one_folder(tmp_path: Path) -> None:
    """Segments of a newer release stay byte for byte, are told and counted; all others are sent."""
    queue = JournalQueue(tmp_path / "j")
    queue.put([event(n) for n in range(3)])
    queue.close()
    [path] = (tmp_path / "j/segments").glob("*.seg")
    newer = bytearray(path.read_bytes().replace(b'"version":1', b'"version":2', 1))
    newer[8] = fmt.VERSION + 1
    other = path.with_name("0000000000001-1.aa-000000.seg")
    other.write_bytes(newer)
    queue, heard = adopt(tmp_path / "j")
    assert drain(queue) == [0, 1, 2]
    queue.close()
    assert other.read_bytes() == bytes(newer)
    assert [one.what for one in heard if isinstance(one, Trouble)] == ["newer_format"]
    assert inspect.folder_status(tmp_path / "j").newer == 1
    assert [one.kind for one in inspect.verify(tmp_path / "j")] == ["newer"]


def test_freeze_and_thaw(tmp_path: Path) -> None:
    """A sender is frozen with requests in flight, its connections die meanwhile; thawed, it delivers all."""
    with Collector() as up:
        child = os.fork()
        if not child:
            dispatcher = EventDispatcher(JournalQueue(tmp_path / "j"), endpoint=up.url)
            number = 0
            while True:
                number += 1
                visitor = {"visitor_id": "v", "snapshots": [{"events": [{"uuid": str(number)}]}]}
                dispatcher.dispatch_event(LogEvent(up.url, {"visitors": [visitor]}))
                time.sleep(0.005)
        try:
            assert up.wait_for(50, timeout_s=20)
            os.kill(child, signal.SIGSTOP)
            up.reset_connections()
            time.sleep(0.4)
            before = len(up.uuids)
            os.kill(child, signal.SIGCONT)
            assert up.wait_for(before + 50, timeout_s=20)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        dispatcher = EventDispatcher(JournalQueue(tmp_path / "j"), endpoint=up.url)
        dispatcher.queue.scan()  # type: ignore[attr-defined]
        dispatcher.start()
        assert up.wait_until(lambda: inspect.folder_status(tmp_path / "j").queued == 0, 20)
        report = dispatcher.close(10)
        assert report.dropped == {}
    status = inspect.folder_status(tmp_path / "j")
    assert status.closes
    assert status.accepted == status.delivered == len(up.uuids)
    assert sorted(map(int, up.uuids)) == list(range(1, len(up.uuids) + 1))


def test_no_socket_is_no_journal(tmp_path: Path) -> None:
    """Odd things in the folder (sockets, pipes, folders, names that are no segment's) are passed over."""
    queue = JournalQueue(tmp_path / "j")
    os.mkfifo(tmp_path / "j/segments/0000000000001-1.aa-000000.seg")
    (tmp_path / "j/segments/0000000000002-1.aa-000000.seg").mkdir()
    (tmp_path / "j/segments/README").write_text("hello")
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(tmp_path / "j/dead")
        try:
            one.bind("0000000000003-1.aa-000000.seg")
        finally:
            os.chdir(here)
        queue.put([event(1)])
        queue.scan()
        queue.tend()
        assert drain(queue) == [1]
        queue.close()
        inspect.folder_status(tmp_path / "j")
        assert {one.kind for one in inspect.verify(tmp_path / "j")} == {"header"}


def test_the_table_is_not_stale() -> None:
    """docs/disk-faults.md names every test of this file, every row names a test, and every named test exists."""
    page = (ROOT / "docs/disk-faults.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    ours = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE)) - {
        "test_the_table_is_not_stale"
    }
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(rows) > 15
    assert [row for row in rows if "::test_" not in row or row.count("|") != 6] == []
    assert ours <= {name for _, name in named}, "not in the table"
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
