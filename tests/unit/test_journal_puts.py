"""What a put stores, and where; what it refuses, and what is left of it then."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, ENVELOPE, URL, HookedDisk
from tests.unit.test_journal_room import in_another_thread

from eventpost.errors import EventTooLarge, QueueFull, QueueUnavailable
from eventpost.event import Event
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal import segment as segment_module
from eventpost.queues.journal import store as store_module
from eventpost.queues.journal.claims import Claims
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import Kind
from eventpost.queues.journal.segment import SegmentWriter
from eventpost.queues.journal.store import Store
from eventpost.testing.clock import ManualClock

NOW_S = 1_700_000_000
LANES = [f"{URL}/{name}" for name in "abc"]
DEFINED = 2 * fmt.frame_bytes(len(fmt.encode_envelope(ENVELOPE)))
"""What the definition of an envelope takes."""


def event(payload: bytes | int = b"payload", url: str = URL, **envelope: Any) -> Event:
    """One event; a number: of so many bytes."""
    data = b"x" * payload if isinstance(payload, int) else payload
    return Event(ENVELOPE._replace(url=url, **envelope), data)


class Storing:
    """A store, and what its side of the journal knows."""

    def __init__(self, folder: Path, *, durable: bool = False, **options: Any) -> None:
        self.disk, self.clock = HookedDisk(), ManualClock()
        self.folder = Folder(folder, disk=self.disk, gid=None, allow_network_fs=True)
        self.claims = Claims(self.folder, self.clock, on_damage=print, emit=print)
        self.reaped = 0
        self.pauses: list[float] = []
        self.syncs: list[str] = []
        known = {
            "bytes_max": 1 << 26, "segment_bytes_max": 1 << 21, "overflow": "refuse", "block_timeout_s": 1.0,
            "make_room": lambda _: False,
        }  # fmt: skip
        self.store = Store(
            self.folder, self.clock, durable=durable, reap=self.reap, claims=self.claims, **{**known, **options}
        )

    def reap(self) -> None:
        """Count."""
        self.reaped += 1

    def put(self, *events: Event, **options: Any) -> None:
        """Put them."""
        self.store.put(events, **options)

    def refused(self, *events: Event, **options: Any) -> str | None:
        """Put them, and return for which reason they are refused."""
        with pytest.raises(QueueUnavailable) as refusal:
            self.store.put(events, **options)
        assert "None" not in str(refusal.value)
        return refusal.value.reason

    def writers(self) -> list[SegmentWriter]:
        """Return all that were begun, in their order."""
        return [writer for lane in self.claims.lanes.values() for writer in lane.own]

    def open(self, depth: int = 0) -> list[SegmentWriter]:
        """Return those that are appended to."""
        return list(self.store._levels[depth].values())

    def sizes(self) -> list[int]:
        """Return how large the files of the open segments are."""
        return [os.path.getsize(writer.path) for writer in self.open()]

    def claimed(self, *urls: str) -> list[bytes]:
        """Claim all there is."""
        return [lease.event.payload for url in urls or (URL,) for lease in self.claims.claim(url, 9999, ALL)]

    def watch_syncs(self) -> None:
        """Note from now on which lane's segment is synced."""
        self.disk.hooks["datasync"] = lambda fd: self.syncs.append(
            next((writer.header.lane[-1] for writer in self.writers() if writer.fd == fd), "new")
        )


@pytest.fixture
def storing(tmp_path: Path) -> Storing:
    """Give one that promises at ``os``."""
    return Storing(tmp_path)


@pytest.fixture
def durable(tmp_path: Path) -> Storing:
    """Give one that promises at ``fsync``."""
    return Storing(tmp_path, durable=True)


def refuse(*_: object, **__: object) -> None:
    """Fail."""
    raise OSError(errno.EIO, "Input/output error")


def frames(writer: SegmentWriter) -> list[tuple[int, int, int, int, bytes]]:
    """Return the frames of a segment: kind, ordinal, time, envelope, payload."""
    data, at, found = Path(writer.path).read_bytes(), writer.header.records_at, []
    while isinstance(frame := fmt.read_frame(data, at), fmt.Frame):
        found.append(frame[:-1])
        at = frame.end
    assert at == writer.end
    return found


# -- what is stored, and where


def test_a_put_is_a_frame_in_a_segment_of_its_lane(storing: Storing) -> None:
    """Whose name and header tell writer and time; envelopes are defined where they first come."""
    storing.clock.advance(0.5)
    storing.put(event(b"a"))
    storing.clock.advance(1.25)
    storing.put(event(b"b"), event(b"c", verb="PUT"), event(b"d"), event(b"e", verb="PUT"))
    storing.put(event(b"f", verb="PUT"))
    [writer] = storing.open()
    assert storing.writers() == [writer]
    name = storing.store.own_name()
    assert name == storing.store.presence.name != ""
    assert writer.name == f"{NOW_S * 1000 + 500:013d}-{name}-000000.seg"
    assert writer.path == f"{storing.folder.segments}/{writer.name}"
    header = fmt.decode_header(Path(writer.path).read_bytes())
    assert (header.lane, header.writer, header.created_ms) == (URL, name, NOW_S * 1000 + 500)
    assert (header.sender, header.retry, header.outcome_pages) == (True, False, 1)
    assert (os.path.getsize(writer.path), os.stat(writer.path).st_mode & 0o777) == (1 << 18, storing.folder.file_mode)
    defined = [fmt.encode_envelope(ENVELOPE), fmt.encode_envelope(ENVELOPE._replace(verb="PUT"))]
    assert frames(writer) == [
        *[(Kind.ENVELOPE, 0, NOW_S, 0, defined[0])] * 2, (Kind.EVENT, 0, NOW_S, 0, b"a"),
        *[(Kind.ENVELOPE, 1, NOW_S + 1, 1, defined[1])] * 2, (Kind.EVENT, 1, NOW_S + 1, 0, b"b"),
        (Kind.EVENT, 2, NOW_S + 1, 1, b"c"), (Kind.EVENT, 3, NOW_S + 1, 0, b"d"), (Kind.EVENT, 4, NOW_S + 1, 1, b"e"),
        (Kind.EVENT, 5, NOW_S + 1, 1, b"f"),
    ]  # fmt: skip
    assert storing.claimed() == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert (storing.store.accepted(), storing.store._depth, storing.reaped) == (6, 0, 0)
    assert storing.store.syncs.unsynced() == [writer]


def test_a_segment_is_its_folders_groups(storing: Storing) -> None:
    """With the mode that its other files have."""
    storing.folder.gid, storing.folder.file_mode = os.getgid(), 0o660
    made: list[tuple[int, int | None]] = []
    storing.disk.hooks["create"] = lambda path, mode, gid: made.append((mode, gid)) if ".seg" in path else None
    storing.put(event())
    assert made == [(0o660, os.getgid())]


def test_a_header_tells_whether_its_writer_sends(storing: Storing) -> None:
    """And whether its events were dead letters; who only stores looks for what others have settled, at each segment."""
    storing.store.sends, storing.store.retry = False, True
    storing.put(*[event(url=url) for url in LANES])
    assert storing.reaped == 1
    assert [(one.header.sender, one.header.retry, one.header.lane) for one in storing.writers()] == [
        (False, True, url) for url in LANES
    ]
    storing.put(event(url=LANES[0]))
    assert storing.reaped == 1
    storing.put(event(1 << 18, url=LANES[0]))
    assert storing.reaped == 2


def test_segments_grow_as_much_is_put(storing: Storing) -> None:
    """From a quarter of a megabyte twice as large each time, to what was asked; a larger put has one that just fits."""
    for _ in range(25):
        storing.put(event(200_000))
    assert [writer.size for writer in storing.writers()] == [1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 21]
    assert storing.sizes() == [1 << 21]
    for size in (3_000_000, 5_000_001):
        storing.put(event(size))
        [writer] = storing.open()
        assert writer.end == writer.size == os.path.getsize(writer.path)
        assert writer.end == writer.header.records_at + DEFINED + fmt.frame_bytes(size)


def test_a_put_of_many_small_events_has_room_for_their_outcomes(storing: Storing) -> None:
    """A byte each; a larger segment has room for more of them, a page for each half megabyte."""
    for count, pages in ((4096, 1), (4097, 2), (8193, 3)):
        storing.put(*[event(b"")] * count)
        [writer] = storing.open()
        assert (writer.count, writer.header.outcome_pages) == (count, pages)
    storing.put(event(1 << 20))
    assert [writer.header.outcome_pages for writer in storing.open()] == [4]
    assert storing.store.accepted() == 4096 + 4097 + 8193 + 1


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("over", [1, 8, 20, 32, 1000])
def test_a_segment_is_filled_to_its_last_byte(storing: Storing, over: int, more: int) -> None:
    """And no further; whether events are put one by one or at once."""
    storing.put(event(1000))
    [writer] = storing.open()
    rest = writer.size - writer.end - fmt.FRAME_HEAD_BYTES - more * fmt.frame_bytes(0)
    storing.put(event(rest + over), *[event(b"")] * more)
    assert (writer.sealed, storing.open() != [writer], storing.store.accepted()) == (True, True, 2 + more)
    assert len(storing.claimed()) == 2 + more


@pytest.mark.parametrize("left", [0, 8, -8])
def test_an_envelope_has_to_fit_too(storing: Storing, left: int) -> None:
    """With both of its definitions, to the last byte."""
    storing.put(event(1000))
    [writer] = storing.open()
    rest = writer.size - writer.end - fmt.FRAME_HEAD_BYTES - DEFINED
    storing.put(event(rest - left, verb="PUTS"))  # as long as the other
    assert writer.sealed is (left < 0)
    assert (storing.open() == [writer], writer.end == writer.size - left) == (left >= 0, left >= 0)
    assert len(storing.claimed()) == 2


def test_a_segment_has_so_many_events(storing: Storing) -> None:
    """One more begins the next, also where it is put alone."""
    storing.put(*[event(b"")] * 4095)
    [writer] = storing.open()
    storing.put(event(b""))
    assert storing.open() == [writer]
    storing.put(event(b""))
    assert (writer.count, writer.sealed, [one.count for one in storing.open()]) == (4096, True, [1])


def test_a_put_has_no_more_envelopes_than_a_segment_takes(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too many for one is refused as what it is; what is too many for this one begins the next."""
    monkeypatch.setattr(store_module, "ENVELOPES_MAX", 3)
    monkeypatch.setattr(segment_module, "ENVELOPES_MAX", 3)
    some = [event(verb=verb) for verb in "ABCD"]
    storing.put(*some[:2])
    storing.put(*some[:3])
    [writer] = storing.open()
    assert (len(writer.envelopes), writer.count) == (3, 5)
    storing.put(some[3])
    assert [one.count for one in storing.open()] == [1]
    storing.put(*some[1:], some[1])
    storing.put(*some[1:])
    assert [one.count for one in storing.open()] == [8]
    with pytest.raises(EventTooLarge, match="4 different envelopes"):
        storing.put(*some)
    storing.put(*some[:3])
    assert [(one.count, len(one.envelopes)) for one in storing.open()] == [(3, 3)]
    assert storing.store.accepted() == len(storing.claimed()) == 16


def test_no_more_segments_are_open_than_a_process_can_have(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest ends for another lane; a put that needs more at once has them."""
    assert store_module._LANES_OPEN_MAX == 64
    monkeypatch.setattr(store_module, "_LANES_OPEN_MAX", 2)
    for url in LANES:
        storing.put(event(url=url))
    first, second, third = storing.writers()
    assert ([first.sealed, second.sealed, third.sealed], storing.open()) == ([True, False, False], [second, third])
    storing.put(event(url=LANES[1]))
    assert storing.open() == [second, third]
    storing.put(*[event(url=url) for url in LANES])
    assert (len(storing.open()), third.sealed, len(storing.writers())) == (3, True, 6)
    assert storing.store.accepted() == 7
    assert len(storing.claimed(*LANES)) == 7


def test_a_journal_takes_what_just_fits_it(tmp_path: Path) -> None:
    """One byte more can never be stored there."""
    size = 2 * fmt.PAGE_BYTES + DEFINED + fmt.frame_bytes(1 << 18)
    Storing(tmp_path / "fits", bytes_max=size).put(event(1 << 18))
    storing = Storing(tmp_path / "not", bytes_max=size - 1)
    with pytest.raises(EventTooLarge, match=f"bytes_max={size - 1}"):
        storing.put(event(1 << 18))
    assert (storing.store.accepted(), storing.claims.lanes) == (0, {})


def test_room_is_made_for_a_put(tmp_path: Path) -> None:
    """As much as it needs, by who knows how; and not while this thread may be waited for."""
    made: list[int] = []

    def make(size: int) -> bool:
        made.append(size)
        for writer in storing.writers():
            if writer.sealed:
                os.unlink(writer.path)
        return True

    storing = Storing(tmp_path, bytes_max=(1 << 18) + 1000, make_room=make)
    storing.put(event(200_000))

    def within() -> bool:
        with storing.store.lock, pytest.raises(QueueFull):
            storing.put(event(url=LANES[0]))
        return True

    with storing.claims.lock:
        assert in_another_thread(within)
    assert (made, storing.store.accepted()) == ([], 1)
    storing.put(event(url=LANES[0]))
    assert (made, storing.store.accepted()) == ([1 << 18], 2)


# -- a file that somebody removed


def test_a_segments_name_is_looked_at_once_a_second(tmp_path: Path) -> None:
    """At ``fsync`` by each put."""
    for durable, looks in ((False, [0, 1, 1, 2, 2]), (True, [0, 1, 2, 3, 4])):
        storing = Storing(tmp_path / str(durable), durable=durable)
        seen: list[str] = []
        storing.disk.hooks["still_named"] = lambda _fd, path: seen.append(path)  # noqa: B023 - called in this round
        found = []
        for at in range(5):
            storing.put(event())
            found.append(sum(path.endswith(".seg") for path in seen))
            if at == 2:
                storing.clock.advance(1.0)
        assert found == looks
        storing.put(event(), event())
        storing.put(event())
        assert sum(path.endswith(".seg") for path in seen) == looks[-1] + 1 + durable
        assert len(storing.writers()) == 1


@pytest.mark.parametrize("more", [1, 2])
def test_what_is_put_after_a_file_was_removed_goes_to_another(storing: Storing, more: int) -> None:
    """It ends, though there is no room for the other; what was in it is counted as lost once its turn comes."""
    storing.put(event(b"a"))
    [writer] = storing.open()
    os.unlink(writer.path)
    storing.clock.advance(1.0)
    storing.disk.hooks["allocate"] = refuse
    assert storing.refused(*[event(b"b")] * more) == "disk"
    assert (writer.sealed, storing.open()) == (True, [])
    storing.disk.hooks.clear()
    storing.put(*[event(b"b")] * more)
    assert (writer.sealed, storing.open() != [writer], storing.store.accepted()) == (True, True, 1 + more)
    assert storing.claimed() == [b"b"] * more
    assert storing.claims.dropped == {"vanished": 1}


def test_a_folder_that_is_gone_is_not_made_anew(storing: Storing) -> None:
    """It may be a lost mount, and come back: the segment stays open."""
    storing.put(event(b"a"))
    [writer] = storing.open()
    os.rename(storing.folder.path, f"{storing.folder.path}.gone")
    storing.clock.advance(1.0)
    for _ in range(2):
        with pytest.raises(QueueUnavailable, match=re.escape(storing.folder.path)) as refused:
            storing.put(event())
        assert refused.value.reason == "folder_gone"
    assert (storing.open(), writer.sealed, storing.store.accepted()) == ([writer], False, 1)
    os.rename(f"{storing.folder.path}.gone", storing.folder.path)
    storing.put(event(b"b"))
    assert (storing.open(), storing.claimed()) == ([writer], [b"a", b"b"])


def test_where_nobody_can_tell_what_is_open_goes_on(storing: Storing) -> None:
    """Permissions that were lost, say."""
    storing.put(event())
    storing.clock.advance(1.0)
    storing.disk.hooks["still_named"] = refuse
    storing.put(event())
    storing.put(event(), event())
    assert ([one.count for one in storing.open()], len(storing.writers())) == ([4], 1)
