"""What a purge does where files come and go, and what of an odd payload is whose."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from proof.fuzz_segments import NAME
from tests.unit import test_journal_forged as forged

from eventpost.event import Envelope, Event
from eventpost.queues.journal import Disk, JournalQueue
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal import purge as module
from eventpost.queues.journal.erase import Place
from eventpost.queues.journal.erase import read_header as header
from eventpost.queues.journal.purge import Purged, purge
from eventpost.queues.journal.visitors import Found, Visitor
from eventpost.testing.clock import ManualClock

URL = "http://127.0.0.1:9/v1/events"
ALICE = "alice@example.com"
BODY = Envelope(URL)
PIECE = BODY._replace(shared=True)


def left(folder: Path, *visitors: str) -> Path:
    """Let a process store an event with these visitors, and be killed; its segment."""
    queue = JournalQueue(folder)
    before = set((folder / "segments").iterdir())
    queue.put([Event(BODY, json.dumps({"visitors": [{"visitor_id": one} for one in visitors]}).encode())])
    queue.after_fork_in_child()
    (mine,) = set((folder / "segments").iterdir()) - before
    return mine


def is_at(fd: int, path: Path) -> bool:
    """Tell whether a descriptor is a file's."""
    return os.path.samestat(os.fstat(fd), path.stat())


def test_folders_are_synced_by_their_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the journal's is."""
    folder = tmp_path / "XX"
    left(folder, "bob")
    synced: list[str] = []
    monkeypatch.setattr(Disk, "sync_folder", lambda _, path: synced.append(path))
    purge(folder, ALICE, timeout_s=0.0)
    assert synced == [str(folder), *(f"{folder}/{part}" for part in ("segments", "dead", "bad"))]


def test_a_segment_that_goes_once_it_was_read_is_erased(tmp_path: Path) -> None:
    """Its bytes are gone; what is in other files is erased as ever."""
    first, second = sorted([left(tmp_path, ALICE), left(tmp_path, ALICE)])

    def told(done: int, of: int) -> None:
        if done == of and first.exists():
            first.unlink()

    assert purge(tmp_path, ALICE, timeout_s=0.0, progress=told) == Purged(queued=1, erased=1)
    assert ALICE.encode() not in second.read_bytes()


def test_letters_that_cannot_be_read_hold_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could have parked an event is looked up in them; where that fails it is erased all the same."""
    mine = left(tmp_path, ALICE)

    def fails(_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.Parked, "by_segment", fails)
    assert purge(tmp_path, ALICE, timeout_s=0.0) == Purged(queued=1)
    assert ALICE.encode() not in mine.read_bytes()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), fmt.BadHeader("damaged")])
def test_a_segment_in_hand_that_cannot_be_read_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What its holder did is not known; the next purge sees to it."""
    mine, other = left(tmp_path, ALICE), left(tmp_path, ALICE)

    def fails(*_: Any) -> Any:
        raise error

    with mine.open("rb") as held, monkeypatch.context() as patched:
        fcntl.flock(held, fcntl.LOCK_EX)
        patched.setattr(module.erase, "read_header", lambda disk, fd: fails() if is_at(fd, mine) else header(disk, fd))
        result = purge(tmp_path, ALICE, timeout_s=0.0)
    assert ([one.file for one in result.left], result.queued) == ([f"segments/{mine.name}"], 1)
    assert ALICE.encode() not in other.read_bytes()
    assert purge(tmp_path, "nobody", timeout_s=0.0) == Purged()
    assert ALICE.encode() not in mine.read_bytes()


def test_a_segment_that_goes_unread_is_not_said_to_be_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder may have sent what was in it: nobody knows, so it is named and counted nowhere."""
    mine = left(tmp_path, ALICE)
    inode, write = mine.stat().st_ino, module.erase.write_note

    def fails(disk: Any, fd: int) -> Any:
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, "Input/output error")
        return header(disk, fd)

    def goes(*noted: Any) -> None:
        write(*noted)
        mine.unlink(missing_ok=True)

    monkeypatch.setattr(module.erase, "read_header", fails)
    monkeypatch.setattr(module.erase, "write_note", goes)
    result = purge(tmp_path, ALICE, timeout_s=0.0)
    assert [(one.file, one.places) for one in result.left] == [(f"segments/{mine.name}", 1)]
    assert (result.queued, result.erased) == (0, 0)


def test_what_a_holder_did_is_told_event_by_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each event's own outcome, wherever in the segment it is; no longer than that takes."""
    clock, queue = ManualClock(), JournalQueue(tmp_path)
    queue.put([Event(BODY, b'{"visitors":[{"visitor_id":"%s"}]}' % one.encode()) for one in (ALICE, "bob", ALICE)])

    def pause(seconds: float) -> None:
        clock.advance(seconds)
        queue.recalled()

    monkeypatch.setattr(module, "pause", pause)
    began_s = clock.monotonic()
    assert purge(tmp_path, ALICE, clock=clock) == Purged(queued=2)
    assert clock.monotonic() - began_s == pytest.approx(0.05)
    assert queue.stats().dropped == {"purged": 2}
    queue.close()


def test_what_a_holder_did_counts_though_more_is_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two events is erased when the time is over: one counts, one is left."""
    path = tmp_path / "segments" / NAME
    JournalQueue(tmp_path).close()
    payload = b'{"visitor_id":"%s"}' % ALICE.encode()
    path.write_bytes(forged.segment(*(fmt.frame(fmt.Kind.EVENT, n, forged.AT_S, 0, payload) for n in range(2))))
    clock, disk = ManualClock(), Disk()

    def pause(seconds: float) -> None:
        clock.advance(seconds)
        fd = disk.open(str(path))
        at = path.read_bytes().rindex(payload) - fmt.FRAME_HEAD_BYTES
        disk.write(fd, bytes([fmt.Outcome.PURGED]), forged.OUTCOMES_AT + 1)
        module.erase.erase(disk, fd, Place(at, 1), header(disk, fd))
        disk.close(fd)

    monkeypatch.setattr(module, "pause", pause)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = purge(tmp_path, ALICE, timeout_s=0.05, clock=clock)
    assert (result.queued, [one.places for one in result.left]) == (1, [1])


def test_what_was_done_is_summed_over_all_files(tmp_path: Path) -> None:
    """Letters, events that others share, and what was settled before."""
    for _ in range(2):
        left(tmp_path, ALICE, "bob")
        queue = JournalQueue(tmp_path)
        queue.put([Event(BODY, json.dumps({"visitors": [{"visitor_id": ALICE}]}).encode())])
        queue.bury(queue.claim(URL, 1, 1 << 20), "rejected")
        queue.after_fork_in_child()
    assert purge(tmp_path, ALICE, timeout_s=0.0) == Purged(dead=2, erased=2, cut=2)


def test_a_file_that_has_no_name_yet_is_not_looked_at(tmp_path: Path) -> None:
    """It is its writer's, or is swept; all others are read."""
    mine = left(tmp_path, ALICE)
    half = tmp_path / "dead/.0000000000003-1.aa-000000.seg.tmp"
    half.write_bytes(b"\xff" * 100 + json.dumps(ALICE).encode() + b"\xff" * 100)
    before = half.read_bytes()
    assert purge(tmp_path, ALICE, timeout_s=0.0) == Purged(queued=1)
    assert half.read_bytes() == before
    assert ALICE.encode() not in mine.read_bytes()


def damaged(visitor: str) -> bytes:
    """Return bytes that are no record and show an id."""
    return b"\xff" * 64 + json.dumps(visitor).encode() + b"\xff" * 64


def test_damage_is_looked_into_unless_somebody_writes_there(tmp_path: Path) -> None:
    """In a dead writer's segment, and in what was set aside of a living one's; each place counts."""
    mine = left(tmp_path, "bob")
    data = mine.read_bytes().rstrip(b"\0")
    mine.write_bytes(data.ljust(len(data) + -len(data) % 8, b"\0") + damaged(ALICE))
    queue = JournalQueue(tmp_path)
    queue.put([Event(BODY, b"{}")])
    (living,) = set((tmp_path / "segments").iterdir()) - {mine}
    aside = [tmp_path / f"bad/{living.name}-{at}.bad" for at in range(4)]
    for path, visitor in zip(aside, (ALICE, ALICE, "carol", "carol"), strict=True):
        path.write_bytes(damaged(visitor))
    assert purge(tmp_path, ALICE, timeout_s=0.0) == Purged(damaged=3, unreadable=2)
    assert not any(ALICE.encode() in path.read_bytes() for path in (mine, *aside))
    assert [path.read_bytes() for path in aside[2:]] == [damaged("carol")] * 2
    queue.close()


def test_of_a_record_that_was_set_aside_the_visitor_alone_goes(tmp_path: Path) -> None:
    """It may be whole: then the others in it stay, and so does its head."""
    JournalQueue(tmp_path).close()
    payload = json.dumps({"visitors": [{"visitor_id": one} for one in ("bob", ALICE, "carol")]}).encode()
    record = fmt.frame(fmt.Kind.EVENT, 3, forged.AT_S, 7, payload)
    path = tmp_path / "bad" / f"{NAME}-8192.bad"
    path.write_bytes(record)
    assert purge(tmp_path, ALICE, timeout_s=0.0) == Purged(damaged=1)
    frame = fmt.read_frame(path.read_bytes(), 0)
    assert isinstance(frame, fmt.Frame)
    assert frame == fmt.Frame(fmt.Kind.EVENT, 3, forged.AT_S, 7, frame.payload, len(record))
    assert json.loads(frame.payload) == {"visitors": [{"visitor_id": "bob"}, {"visitor_id": "carol"}]}


def test_an_events_envelope_tells_how_it_is_read(tmp_path: Path) -> None:
    """A query by its values, a piece by its visitors, a body by its list; an envelope that is none hides no other."""
    JournalQueue(tmp_path).close()
    query = fmt.encode_envelope(BODY._replace(verb="GET"))
    body = fmt.encode_envelope(BODY)
    shared = b'{"visitor_id":"%s"},{"visitor_id":"bob"}' % ALICE.encode()
    data = forged.segment(
        fmt.frame(fmt.Kind.ENVELOPE, 0, forged.AT_S, 5, b"[]"),
        fmt.frame(fmt.Kind.ENVELOPE, 0, forged.AT_S, 1, query), fmt.frame(fmt.Kind.ENVELOPE, 0, forged.AT_S, 2, body),
        fmt.frame(fmt.Kind.EVENT, 0, forged.AT_S, 1, b"v=alice%40example.com"),
        fmt.frame(fmt.Kind.EVENT, 1, forged.AT_S, 2, b'{"visitor_id":"%s"}' % ALICE.encode()),
        fmt.frame(fmt.Kind.EVENT, 2, forged.AT_S, 0, shared),
    )  # fmt: skip
    path = tmp_path / "segments" / NAME
    path.write_bytes(data)
    assert purge(tmp_path, ALICE, timeout_s=0.0) == Purged(queued=1, cut=1, mentioned=1)
    now = path.read_bytes()
    assert b"alice%40" not in now
    assert now.index(b'{"visitor_id":"bob"}') == data.index(b'{"visitor_id":"bob"}')
    assert now.count(ALICE.encode()) == 1


def test_an_id_is_found_in_each_form_at_once() -> None:
    """With a quote in it that is escaped, and a letter that is not; with a space and a slash in a query."""
    both = json.dumps('é"b', ensure_ascii=False)
    assert Visitor('é"b').is_mentioned(both.encode())
    assert Visitor('é"b').shows_in(both.encode()[:-1])
    for text in ("v=a%20b%2Fc", "v=a+b%2Fc"):
        assert Visitor("a b/c").shows_in(text.encode())


@pytest.mark.parametrize(
    ("envelope", "payload", "found"),
    [
        (BODY, b'{"visitors":[],"visitors":[{"visitor_id":"7"}]}', Found(whole=True, spans=())),
        (BODY, b'{"visitors":[ ] , "visitors":[{"visitor_id":"7"}]}', Found(whole=True, spans=())),
        (PIECE, b'{"visitor_id":"7"} ', Found(whole=True, spans=())),
        (PIECE, b'{"visitor_id":"7"} 8', None),
        (PIECE, b'{"visitor_id":"7"}}', None),
    ],
)
def test_a_list_ends_where_it_says(envelope: Envelope, payload: bytes, found: Any) -> None:
    """One that is empty hides no other; what goes on behind its end is no list."""
    assert Visitor("7").find(envelope, payload) == found


def test_what_is_too_deep_to_be_read_is_nobodys() -> None:
    """At whatever depth the decoder gives up: nothing is erased that may be another's."""
    frame, left = sys._getframe(), sys.getrecursionlimit()
    while frame.f_back is not None:
        frame, left = frame.f_back, left - 1
    for depth in range(left - 25, left):
        nested = b"[" * depth + b"7" + b"]" * depth
        assert Visitor("7").find(BODY, b'{"visitors":[{"visitor_id":"8","x":%s}]}' % nested) is None
