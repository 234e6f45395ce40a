"""Events as people look on: each once, in order, with what became of it; nothing is read twice."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from proof.fuzz_segments import NAME
from tests.support import ALL, URL, HookedDisk, event, number_of
from tests.unit import test_journal_forged as forged

from eventpost.queues.journal import JournalQueue, dead, tail
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.tail import Seen, Tail
from eventpost.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock."""
    return ManualClock()


@pytest.fixture
def queue(tmp_path: Path, clock: ManualClock) -> JournalQueue:
    """Give a queue whose folder is looked at."""
    return JournalQueue(tmp_path / "j", clock=clock, segment_bytes_max=1 << 18)


@pytest.fixture
def disk() -> HookedDisk:
    """Give the disk of who looks on."""
    return HookedDisk()


@pytest.fixture
def folder(queue: JournalQueue, disk: HookedDisk) -> Folder:
    """Give its folder, as somebody else sees it."""
    return Folder(queue.path, disk=disk, gid=None, allow_network_fs=True)


def shown(seen: list[Seen]) -> list[tuple[int, str]]:
    """Return number and state of events."""
    return [(number_of(one.event.payload), one.state) for one in seen]


def segments(queue: JournalQueue) -> list[str]:
    """Return the names of the segments, oldest first."""
    return sorted(os.listdir(f"{queue.path}/segments"))


def test_each_event_is_seen_once_in_the_order_of_time(queue: JournalQueue, folder: Folder, clock: ManualClock) -> None:
    """With its id, bytes, time and state; of several endpoints they are one list."""
    follower = Tail(folder)
    assert follower.look() == []
    queue.put([event(0)])
    clock.advance(1)
    queue.put([event(1, url=URL + "/other")])
    clock.advance(1)
    queue.put([event(2)])
    queue.ack(queue.claim(URL, 1, ALL))
    seen = follower.look()
    assert shown(seen) == [(0, "delivered"), (1, "queued"), (2, "queued")]
    assert seen[2].event == event(2)
    assert [one.at_s for one in seen] == [1_700_000_000, 1_700_000_001, 1_700_000_002]
    first, other = (name.removesuffix(".seg") for name in segments(queue))
    assert [one.id for one in seen] == [f"{first}:0", f"{other}:0", f"{first}:1"]
    assert follower.look() == []
    queue.put([event(3)])
    assert shown(follower.look()) == [(3, "queued")]
    assert shown(Tail(folder).look(2)) == [(2, "queued"), (3, "queued")]
    queue.close()


def test_an_ended_segment_is_read_once(queue: JournalQueue, folder: Folder, disk: HookedDisk) -> None:
    """And passed over where newer ones hold enough; one that is gone is nothing."""
    queue.sends = False
    for number in range(3):
        queue.put([event(number, 200_000)])  # of two, each begins a segment
    old, middle, newest = segments(queue)
    reads: list[int] = []
    disk.hooks["read"] = lambda fd, length, at: reads.append(os.fstat(fd).st_ino)
    few, all_of_it = Tail(folder), Tail(folder)
    assert shown(few.look(1)) == [(2, "queued")]
    heads = [reads.count(os.stat(f"{queue.path}/segments/{name}").st_ino) for name in (old, middle)]
    assert heads == [2, 2], "no more than their headers, in two reads each"
    assert shown(all_of_it.look()) == [(0, "queued"), (1, "queued"), (2, "queued")]
    reads.clear()
    assert few.look() == all_of_it.look() == []
    assert set(reads) == {os.stat(f"{queue.path}/segments/{newest}").st_ino}
    os.unlink(f"{queue.path}/segments/{old}")
    assert shown(Tail(folder).look()) == [(1, "queued"), (2, "queued")]
    assert list(tail.events(folder, old)) == []
    assert shown(list(tail.events(folder, middle))) == [(1, "queued")], "of one that was ended, too"
    assert shown(list(tail.events(folder, newest))) == [(2, "queued")]
    queue.close()


def test_what_is_no_event_is_passed_over(queue: JournalQueue, folder: Folder) -> None:
    """An envelope that is none, an ordinal beyond what can be, a letter among events: the others are seen."""
    data = forged.segment(
        fmt.frame(fmt.Kind.ENVELOPE, 0, forged.AT_S, 5, b"[]"), forged.event(0),
        fmt.frame(fmt.Kind.EVENT, 1, forged.AT_S, 5, b"{}"), forged.event(4096),
        fmt.frame(fmt.Kind.DEAD, 2, forged.AT_S, 0, b"{}"), forged.event(4095),
        outcomes=b"\0" * 4095 + forged.DELIVERED,
    )  # fmt: skip
    Path(queue.path, "segments", NAME).write_bytes(data)
    seen = Tail(folder).look()
    stem = NAME.removesuffix(".seg")
    assert [(one.id, one.state, one.at_s) for one in seen] == [
        (f"{stem}:0", "queued", forged.AT_S), (f"{stem}:4095", "delivered", forged.AT_S),
    ]  # fmt: skip
    assert [one.event.payload for one in seen] == [b'{"n":0}', b'{"n":4095}']
    queue.close()


def test_a_follower_goes_on_within_a_segment_by_what_it_read(
    queue: JournalQueue, folder: Folder, disk: HookedDisk
) -> None:
    """It reads from the end of what it knows, and nothing of the records where nothing came."""
    follower = Tail(folder)
    queue.put([event(0), event(1)])
    assert shown(follower.look()) == [(0, "queued"), (1, "queued")]
    path = Path(queue.path, "segments", *segments(queue))
    end = max(frame.end for _, frame, _ in dead.walk(path.read_bytes(), 2 * fmt.PAGE_BYTES) if frame is not None)
    reads: list[tuple[int, int]] = []
    opened: list[bool] = []
    disk.hooks["open"] = lambda _, *, write=True: opened.append(write)
    disk.hooks["read"] = lambda fd, length, at: reads.append((at, length))
    assert follower.look() == []
    assert [one for one in reads if one[0] >= 2 * fmt.PAGE_BYTES] == [(end, fmt.FRAME_HEAD_BYTES)]
    reads.clear()
    queue.put([event(2)])
    assert shown(follower.look()) == [(2, "queued")]
    assert {at for at, _ in reads if at >= 2 * fmt.PAGE_BYTES} == {end}
    queue.close()
    assert follower.look() == [], "it was ended"
    reads.clear()
    assert follower.look() == []
    assert reads == []
    tail.states(folder, path.name, [0])
    assert set(opened) == {False}, "who looks on need not be allowed to write"


def test_what_cannot_be_read_hides_nothing_else(queue: JournalQueue, folder: Folder, disk: HookedDisk) -> None:
    """A damaged record, an event whose envelope is lost, a file that is no segment; no descriptor stays."""
    queue.put([event(number) for number in range(4)])
    (name,) = segments(queue)
    path = Path(queue.path, "segments", name)
    data = bytearray(path.read_bytes())
    at = data.index(b'{"n":1')
    data[at] ^= 1
    path.write_bytes(data)
    Path(queue.path, "segments", "0000000000001-1.aa-000000.seg").write_bytes(b"noise")
    before = len(disk._descriptors)
    assert shown(Tail(folder).look()) == [(0, "queued"), (2, "queued"), (3, "queued")]
    at = fmt.PAGE_BYTES
    for found in (3, 0):  # one of the two records that define the envelope is lost, then both
        at = data.index(URL.encode(), at)
        data[at] ^= 1
        path.write_bytes(data)
        assert len(Tail(folder).look()) == found
    assert len(disk._descriptors) == before


def test_the_states_of_events_are_looked_up(queue: JournalQueue, folder: Folder, disk: HookedDisk) -> None:
    """By their ordinals, those that can be; a segment that is gone held settled ones only."""
    queue.put([event(number) for number in range(4)])
    (name,) = segments(queue)
    first, second, *_ = queue.claim(URL, 3, ALL)
    queue.ack([first])
    queue.bury([second], "rejected")
    before = len(disk._descriptors)
    assert tail.states(folder, name, [3, 0, 1, 4095, 4096, 1 << 30]) == {
        3: "queued", 0: "delivered", 1: "dead", 4095: "queued",
    }  # fmt: skip
    assert tail.states(folder, "0000000000001-1.aa-000000.seg", [0]) is None

    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk.hooks["read"] = fails
    with pytest.raises(OSError, match="Input/output error"):
        tail.states(folder, name, [0])
    assert len(disk._descriptors) == before
    queue.close()


def test_a_long_endpoint_takes_a_header_of_several_pages(queue: JournalQueue, folder: Folder) -> None:
    """Its events and their states are found all the same."""
    url = URL + "/" + "x" * 2 * fmt.PAGE_BYTES
    queue.put([event(7, url=url)])
    assert shown(Tail(folder).look()) == [(7, "queued")]
    assert tail.states(folder, segments(queue)[0], [0]) == {0: "queued"}
    queue.close()
