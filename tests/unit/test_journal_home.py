"""The folder itself: who may use what is made in it, whose locks mean what, and in which order a note is written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import HookedDisk
from tests.unit.test_journal_status import lies, name, put

from eventpost.errors import JournalUnusable
from eventpost.queues.journal import folder as folder_module
from eventpost.queues.journal.folder import Folder, open_folder, resolved, writer_of

GONE = "4194305.aa"
"""A writer that cannot live: no process has that number."""


class Log(HookedDisk):
    """A disk that notes what is asked of it, in order: the method, and what it is told."""

    def __init__(self, *methods: str) -> None:
        super().__init__()
        self.log: list[tuple[Any, ...]] = []
        for method in methods:
            self.hooks[method] = self._noting(method)

    def _noting(self, method: str) -> Callable[..., None]:
        def noting(*arguments: Any, **keywords: Any) -> None:
            self.log.append((method, *arguments, *keywords.values()))

        return noting

    def fails(self, method: str, code: int, *, only: str = "") -> None:
        """Let a method fail, for paths that end so."""

        def failing(*arguments: Any, **_: Any) -> None:
            if not only or str(arguments[0]).endswith(only):
                raise OSError(code, os.strerror(code), str(arguments[0]))

        self.hooks[method] = failing

    @property
    def open_files(self) -> int:
        """How many are."""
        return len(self._descriptors)


def folder_in(path: Path, disk: HookedDisk | None = None, gid: int | None = None) -> Folder:
    """Return a folder."""
    return Folder(path, disk=disk, gid=gid, allow_network_fs=False)


@pytest.fixture
def disk() -> Log:
    """Give one that notes nothing yet."""
    return Log()


@pytest.fixture
def folder(tmp_path: Path, disk: Log) -> Folder:
    """Give a folder."""
    return folder_in(tmp_path / "j", disk)


@pytest.fixture
def bare_umask() -> Iterator[None]:
    """Let nothing but the code say who may do what."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path: Path | str) -> int:
    """Return a file's mode."""
    return stat.S_IMODE(os.stat(path).st_mode)


# -- whose it is


@pytest.mark.usefixtures("bare_umask")
@pytest.mark.parametrize(
    ("gid", "folder_mode", "file_mode"), [(None, 0o700, 0o600), (os.getgid(), 0o2770, 0o660)], ids=["own", "shared"]
)
def test_what_is_made_is_for_its_user_or_for_its_group(
    tmp_path: Path, gid: int | None, folder_mode: int, file_mode: int
) -> None:
    """Each part, and each file; what stands above it is for everybody to pass and for its maker to change."""
    disk = Log("make_folder", "create")
    folder = folder_in(tmp_path / "a" / "b" / "j", disk, gid)
    parts = [folder.path, folder.segments, folder.dead, folder.bad, folder.writers]
    assert [os.path.relpath(part, folder.path) for part in parts] == [".", "segments", "dead", "bad", "writers"]
    assert [one[1:] for one in disk.log if one[0] == "make_folder"] == [(part, folder_mode, gid) for part in parts]
    assert {mode_of(part) for part in parts} == {folder_mode}
    assert [mode_of(tmp_path / above) for above in ("a", "a/b")] == [0o755, 0o755]
    assert (folder.gid, folder.file_mode, folder.folder_mode) == (gid, file_mode, folder_mode)
    folder.enter()
    folder.write_note("x.json", {})
    with folder.notes_lock():
        pass
    folder.set_aside("s", 1, b"x")
    assert {one[2:] for one in disk.log if one[0] == "create"} == {(file_mode, gid)}
    assert len([one for one in disk.log if one[0] == "create"]) == 5  # the first one was tried, and is gone
    files = [path for path in Path(folder.path).rglob("*") if path.is_file()]
    assert {mode_of(path) for path in files} == {file_mode}
    assert len(files) == 4


@pytest.mark.parametrize(
    ("mode", "shared"),
    [(0o2770, True), (0o2771, True), (0o2070, True), (0o770, False), (0o2750, False), (0o700, False)],
)  # fmt: skip
def test_who_comes_later_follows_the_folder(tmp_path: Path, mode: int, *, shared: bool) -> None:
    """One with the group's bit, where the group may do all, is shared by that group; who names a group, by that."""
    (tmp_path / "j").mkdir()
    (tmp_path / "j").chmod(mode if os.geteuid() == 0 else mode | 0o700)
    disk = Log("make_folder")
    folder = folder_in(tmp_path / "j", disk)
    gid = os.stat(tmp_path / "j").st_gid
    told = (gid, 0o660, 0o2770) if shared else (None, 0o600, 0o700)
    assert (folder.gid, folder.file_mode, folder.folder_mode) == told
    assert {one[2:] for one in disk.log} == {(told[2], told[0])}
    other = next((one for one in os.getgroups() if one != gid), gid)
    assert folder_in(tmp_path / "j", None, other).gid == other


def test_root_makes_what_the_folders_user_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own folder, and as another user, nobody becomes anybody."""
    uid = os.geteuid() or 12345
    for asks, owner, follows in ((0, uid, uid), (0, 0, None), (uid, uid, None)):
        folder = tmp_path / f"{asks}-{owner}"
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, owner, -1)
        elif not owner:
            continue
        monkeypatch.setattr(os, "geteuid", lambda asks=asks: asks)
        disk = Log()
        folder_in(folder, disk)
        assert disk.uid == follows
        monkeypatch.undo()


def test_a_disk_is_asked_for_mappings_as_its_file_system_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it was told; the file system is that of the folder."""
    asked: list[str] = []
    for kind, told, mapped in (
        ("ext4", None, True),
        ("btrfs", None, False),
        ("ext4", False, False),
        ("zfs", True, True),
    ):
        monkeypatch.setattr(folder_module, "file_system_of", lambda path, kind=kind: asked.append(path) or kind)
        disk = HookedDisk(mapped=told)
        folder_in(tmp_path / "j", disk)
        assert disk.mapped is mapped
    assert set(asked) == {str(tmp_path / "j")}


@pytest.mark.parametrize("method", ["create", "lock", "make_folder"])
def test_a_folder_that_cannot_be_used_leaves_nothing_open(tmp_path: Path, disk: Log, method: str) -> None:
    """And nothing behind; it is named, and what the system said."""
    disk.fails(method, errno.EIO)
    with pytest.raises(JournalUnusable) as caught:
        folder_in(tmp_path / "j", disk)
    assert str(caught.value).startswith(f"{tmp_path}/j: ")
    assert os.strerror(errno.EIO) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert disk.open_files == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOLCK, errno.ENOSPC])
def test_each_refusal_has_a_remedy_of_its_own(tmp_path: Path, disk: Log, code: int) -> None:
    """By what the system said; a folder that was not made is told from one that is another's."""
    disk.fails("create", code)
    (tmp_path / "j").mkdir(mode=0o700)
    with pytest.raises(JournalUnusable) as caught:
        folder_in(tmp_path / "j", disk)
    said = str(caught.value)
    words = {
        errno.EACCES: f"belongs to uid {os.geteuid()} with mode 0700", errno.EPERM: "chmod 2770",
        errno.EROFS: "read-only file system", errno.ELOOP: f"{tmp_path}/j/.probe-", errno.ENOLCK: "file locks",
        errno.ENOSPC: "cannot be used: No space left on device",
    }  # fmt: skip
    assert [one for one, word in words.items() if word in said] in ([code], [errno.EACCES, errno.EPERM])
    disk.hooks.clear()
    disk.fails("make_folder", code)
    with pytest.raises(JournalUnusable, match=r"cannot be made .*uid"):
        folder_in(tmp_path / "none", disk)


# -- names that lead to it


def test_the_names_on_the_way_are_safe_from_the_folder_up(folder: Folder, disk: Log) -> None:
    """All of them, whoever made them, up to the root."""
    disk.hooks["sync_folder"] = disk._noting("sync_folder")
    folder.sync_path()
    asked = [Path(one[1]) for one in disk.log]
    assert asked == [Path(folder.path), *Path(folder.path).parents]


def test_what_is_not_ours_to_sync_is_passed_over(folder: Folder, disk: Log) -> None:
    """Above the folder only, and only what cannot be done there: what a disk says is raised."""
    above = os.path.dirname(folder.path)
    for code in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EROFS):
        disk.fails("sync_folder", code, only=above)
        folder.sync_path()
        disk.fails("sync_folder", code, only=folder.path)
        with pytest.raises(OSError, match=os.strerror(code)):
            folder.sync_path()
    disk.fails("sync_folder", errno.EIO, only=above)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        folder.sync_path()


def test_what_names_a_folder_and_what_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without links, from the home folder; and a journal is one that has segments."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for given in (
        tmp_path / "link" / "j",
        "~/link/j",
        os.fsencode(tmp_path / "link" / "j"),
        tmp_path / "link/../real/j",
    ):
        assert resolved(given) == str(tmp_path / "real" / "j")
    for wrong in ("", "~nobody-has-this-name/x"):
        with pytest.raises(ValueError, match=f"path={wrong!r}: must name a folder") as caught:
            resolved(wrong)
        assert ("no home" in str(caught.value)) is bool(wrong)
    with pytest.raises(TypeError):
        resolved(3)  # type: ignore[arg-type]  # a mistake
    (tmp_path / "real" / "segments").write_text("no folder")
    for path in (tmp_path, tmp_path / "real"):
        with pytest.raises(FileNotFoundError) as missed:
            open_folder(path)
        assert (missed.value.errno, missed.value.filename) == (errno.ENOENT, str(path))
    folder_in(tmp_path / "real" / "j")
    found = open_folder(tmp_path / "link" / "j")
    assert (found.path, found.gid) == (str(tmp_path / "real" / "j"), None)


def test_what_another_makes_on_the_way_meanwhile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that start at once both find their folder."""
    make = os.mkdir

    def making(path: Any, mode: int = 0o777) -> None:
        make(path, mode)
        if str(path).endswith("/way"):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    monkeypatch.setattr(os, "mkdir", making)
    assert folder_in(tmp_path / "way" / "j").path == str(tmp_path / "way" / "j")


def test_a_journal_that_is_not_ours_to_see_is_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that whose it is can be said, and not that there is none."""
    folder_in(tmp_path / "j")
    look = os.stat

    def looking(path: Any, *arguments: Any, **keywords: Any) -> os.stat_result:
        if str(path).endswith("/segments"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path, *arguments, **keywords)

    monkeypatch.setattr(os, "stat", looking)
    assert open_folder(tmp_path / "j").path == str(tmp_path / "j")


def test_a_segments_name_tells_its_writer(folder: Folder) -> None:
    """What else lies there is none: half made, hidden, of another form."""
    assert [writer_of(one) for one in (name(1), "a-b-c-d", "a-b", "", "--")] == [GONE, "b", "", "", ""]
    for one in ("2-a-1.seg", "1-a-1.seg", ".1-a-1.seg.tmp", ".1-a-1.seg", "1-a-1", "1-1.seg", "1-a-b-1.seg"):
        Path(folder.segments, one).write_bytes(b"12345")
    assert folder.segment_names(folder.segments) == ["1-a-1.seg", "2-a-1.seg"]
    assert folder.stored_bytes() == 7 * 5


# -- writers


def test_who_enters_holds_a_lock_by_its_name(folder: Folder, disk: Log) -> None:
    """The process's number and some more, or the name that it had; others find it alive as long as it is held."""
    writer, fd = folder.enter()
    number, _, rest = writer.partition(".")
    assert (number, len(rest) >= 10) == (str(os.getpid()), True)
    assert os.listdir(folder.writers) == [f"{writer}.lock"]
    assert folder.is_entered(writer, fd)
    assert folder.is_alive(writer)
    assert folder.is_alive(writer, bury=True)
    assert (folder.is_entered(writer, -1), folder.is_entered("another", fd)) == (False, False)
    os.unlink(f"{folder.writers}/{writer}.lock")
    assert not folder.is_entered(writer, fd)
    assert folder.is_alive(writer)  # somebody took its name: it still has it open
    assert folder.enter(writer)[0] == writer
    assert disk.open_files == 2


def test_a_lock_that_somebody_else_had_first_is_left_and_another_made(folder: Folder, disk: Log) -> None:
    """Ten times; then it is said where, and nothing is left, open or by its name."""
    tries: list[int] = []
    disk.hooks["still_named"] = lambda _, path: os.unlink(path)
    disk.hooks["create"] = lambda *_: tries.append(1)
    with pytest.raises(BlockingIOError) as caught:
        folder.enter()
    assert caught.value.filename == folder.writers
    assert caught.value.strerror
    assert (len(tries), disk.open_files, os.listdir(folder.writers)) == (10, 0, [])
    disk.hooks["still_named"] = lambda _, path: os.unlink(path) if len(tries) < 12 else None
    writer, _ = folder.enter()
    assert (len(tries), disk.open_files, os.listdir(folder.writers)) == (12, 1, [f"{writer}.lock"])


def test_a_lock_that_fails_leaves_nothing(folder: Folder, disk: Log) -> None:
    """Neither its name nor its descriptor."""
    disk.fails("lock", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        folder.enter()
    assert (disk.open_files, os.listdir(folder.writers)) == (0, [])


def test_the_dead_are_told_from_those_who_cannot_be_judged(folder: Folder, disk: Log) -> None:
    """A lock that nobody holds; none at all; and one that cannot be opened, which may be anybody's."""
    lock = Path(folder.writers, f"{GONE}.lock")
    assert not folder.is_alive(GONE)
    assert not folder.is_alive("no number.aa")
    lock.touch()
    assert not folder.is_alive(GONE)
    assert lock.exists()
    disk.fails("open", errno.EACCES)
    assert folder.is_alive(GONE, bury=True)
    disk.hooks.clear()
    disk.hooks["still_named"] = lambda _, path: (os.unlink(path), Path(path).touch())
    assert not folder.is_alive(GONE, bury=True)  # somebody is just coming to life by this name
    assert lock.exists()
    disk.hooks.clear()
    assert not folder.is_alive(GONE, bury=True)
    assert not lock.exists()
    assert disk.open_files == 0


def test_a_sweep_takes_what_a_crash_left_half_made(folder: Folder, tmp_path: Path) -> None:
    """Locks of the dead without segments, and their temporary files; not those of the living."""
    living, _ = folder.enter()
    lies(tmp_path / "j", 1, put(0))
    lies(tmp_path / "j", 2, put(0), part="dead")
    os.rename(f"{folder.dead}/{name(2)}", f"{folder.dead}/2-4194306.bb-000001.seg")
    keep = {f"{GONE}.lock", "4194306.bb.lock", f"{living}.lock"}
    for lock in {*keep, "4194307.cc.lock"}:
        Path(folder.writers, lock).touch()
    for part in (folder.segments, folder.dead):
        for one in (f".1-{GONE}-1.seg.tmp", f".1-{living}-1.seg.tmp", f"1-{GONE}-1.other", "x.tmp"):
            Path(part, one).touch()
    folder.sweep()
    assert set(os.listdir(folder.writers)) == keep
    for part, segment in ((folder.segments, name(1)), (folder.dead, "2-4194306.bb-000001.seg")):
        assert set(os.listdir(part)) == {segment, f".1-{living}-1.seg.tmp", f"1-{GONE}-1.other"}
