"""What a folder's status says, to the event and to the byte, of segments in every state that they can be in."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support import ENVELOPE, URL, event

from eventpost.event import Event
from eventpost.queues.journal import Disk, JournalQueue, dead, inspect
from eventpost.queues.journal import folder as folder_module
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.format import Kind, Outcome
from eventpost.testing.clock import ManualClock

AT_S = 1_784_000_000
NOW_S = AT_S + 100
OTHER = "https://user:secret@events.example/v1?key=1"
CREATED_MS = (AT_S - 50) * 1000 + 999


def put(ordinal: int, at_s: int = AT_S, kind: int = Kind.EVENT) -> bytes:
    """Return an event's frame."""
    return fmt.frame(kind, ordinal, at_s, 0, b'{"n":%d}' % ordinal)


def letter(ordinal: int, **meta: Any) -> bytes:
    """Return a dead letter's frame."""
    note = {"reason": "http_400", "status": 400} | meta
    return fmt.frame(Kind.DEAD, ordinal, AT_S, 0, fmt.encode_dead(note, b'{"n":%d}' % ordinal))


def lies(
    folder: Path, number: int, *frames: bytes, part: str = "segments", lane: str = URL, retry: bool = False,
    outcomes: list[int] | None = None, sealed: int | None = None,
) -> int:  # fmt: skip
    """Let a segment of a writer that is gone lie there; returns its bytes."""
    header = fmt.encode_header(lane, "4194305.aa", CREATED_MS, sender=True, retry=retry, outcome_pages=1)
    definition = fmt.frame(Kind.ENVELOPE, 0, AT_S - 99, 0, fmt.encode_envelope(ENVELOPE))
    data = bytearray(header + bytes(outcomes or []).ljust(fmt.PAGE_BYTES, b"\0") + definition + b"".join(frames))
    if sealed is not None:
        data[fmt.SEAL_AT : fmt.SEAL_AT + fmt.SEAL_BYTES] = fmt.encode_seal(sealed, len(data))
    (folder / part / name(number)).write_bytes(data)
    return len(data)


def name(number: int) -> str:
    """Return a segment's name."""
    return f"{number:013d}-4194305.aa-{number:06d}.seg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a journal's folder in which nothing lies."""
    JournalQueue(tmp_path).close()
    return tmp_path


def status_of(folder: Path) -> inspect.FolderStatus:
    """Return its status."""
    return inspect.folder_status(folder, clock=ManualClock(epoch_s=float(NOW_S)))


def test_the_sum_is_over_all_that_lies_there_and_all_that_is_gone(folder: Path) -> None:
    """By endpoint, too; what was put back is not accepted again, what was never promised not at all."""
    sizes = [
        lies(folder, 1, put(0), put(1), put(2), sealed=3, outcomes=[Outcome.DELIVERED, Outcome.OVERFLOW]),
        lies(folder, 2, put(0), put(1, AT_S + 7), outcomes=[Outcome.DAMAGED]),
        lies(folder, 3, put(0), sealed=1, lane=OTHER, outcomes=[Outcome.OVERFLOW]),
        lies(folder, 4, put(0), put(1), put(2), sealed=3, lane=OTHER, retry=True, outcomes=[Outcome.DELIVERED]),
        lies(folder, 5, put(0), put(1), put(2), sealed=3, lane=OTHER, outcomes=[Outcome.VOID, Outcome.DEAD]),
    ]
    parked = [
        lies(folder, 6, letter(0), letter(1), letter(2), part="dead", lane="", sealed=3, outcomes=[Outcome.RETRIED]),
        lies(folder, 7, letter(0), letter(1), part="dead", lane="", outcomes=[Outcome.EXPIRED]),
    ]
    gone = {"accepted": 40, "delivered": 30, "dropped": {"overflow": 5, "purged": 2}, "folded": []}
    (folder / "totals.json").write_bytes(orjson.dumps(gone))
    (folder / "bad" / "x.bad").write_bytes(b"x")
    writer = JournalQueue(folder)
    writer.put([event(1, url=OTHER)])
    (own,) = (path for path in (folder / "segments").iterdir() if path.name[0] != "0" or path.name[5] != "0")
    status = status_of(folder)
    assert replace(status, lanes=[]) == inspect.FolderStatus(
        path=str(folder), accepted=40 + 3 + 2 + 1 + 2 + 1, delivered=30 + 1 + 1, queued=1 + 1 + 2 + 1 + 1, dead=2 + 1,
        dropped={"overflow": 5 + 1 + 1, "purged": 2, "damaged": 1, "dead_expired": 1},
        segments=6, stored_bytes=sum(sizes) + own.stat().st_size, dead_bytes=sum(parked), writers=1, newer=0, bad=1,
        oldest_age_s=100.0, lanes=[], trouble=[],
    )  # fmt: skip
    mine, other = status.lanes
    assert mine == inspect.LaneStatus(URL, 2, sizes[0] + sizes[1], 100.0)
    assert other == inspect.LaneStatus(OTHER, 2 + 1 + 1, sum(sizes[2:]) + own.stat().st_size, 100.0)
    writer.close()


@pytest.mark.parametrize(
    ("outcomes", "sealed", "age_s"),
    [
        ([], 3, 150.0),  # nothing is settled: by when the segment was begun
        ([0, Outcome.DELIVERED], 3, 150.0),
        ([Outcome.DELIVERED] * 2, 2, None),
        ([Outcome.DELIVERED], 3, 70.0),
        ([Outcome.DELIVERED, Outcome.PURGED], 3, 40.0),
        ([Outcome.DELIVERED] * 3, 3, None),
        ([Outcome.DELIVERED] * 4, 3, None),
        ([], None, 100.0),
        ([Outcome.DELIVERED], None, 70.0),
        ([Outcome.DELIVERED] * 3, None, None),
    ],
)
def test_the_oldest_is_the_first_that_is_not_settled(
    folder: Path, outcomes: list[int], sealed: int | None, age_s: float | None
) -> None:
    """An envelope that was defined before it is no event."""
    envelope = fmt.frame(Kind.ENVELOPE, 2, AT_S - 9, 1, fmt.encode_envelope(ENVELOPE))
    lies(folder, 1, put(0), put(1, AT_S + 30), envelope, put(2, AT_S + 60), outcomes=outcomes, sealed=sealed)
    status = status_of(folder)
    assert (status.oldest_age_s, [lane.oldest_age_s for lane in status.lanes]) == (age_s, [age_s])


def test_of_many_endpoints_the_oldest_counts_and_none_is_younger_than_now(folder: Path) -> None:
    """Where a clock was put back, an event may be of the future."""
    lies(folder, 1, put(0, NOW_S + 60))
    assert status_of(folder).oldest_age_s == 0.0
    lies(folder, 2, put(0, NOW_S - 3), lane=OTHER)
    lies(folder, 3, put(0, NOW_S - 2))
    status = status_of(folder)
    assert (status.oldest_age_s, [lane.oldest_age_s for lane in status.lanes]) == (3.0, [2.0, 3.0])


def test_without_an_end_records_and_outcomes_tell_how_many_there_are(folder: Path) -> None:
    """Whichever tells of more; noise among the outcomes tells nothing, and what is damaged is not read."""
    broken = bytearray(put(1))
    broken[fmt.FRAME_HEAD_BYTES] ^= 1
    for frames, outcomes, events in (
        ([], [], 0), ([put(0)], [], 1), ([put(0), bytes(broken), put(2)], [], 3), ([put(0)], [0, 0, 0xD1], 3),
        ([put(0)], [0xD1, 0, 0xD1, 0], 3), ([put(0)], [0, 1, 0xD1], 1), ([], [0xD1], 1),
        ([], [0, 1, 0xD1], 0), ([], [0xD1, ord("X")], 0),
    ):  # fmt: skip
        lies(folder, 1, *frames, outcomes=outcomes)
        assert status_of(folder).accepted == events, (frames, outcomes)
    lies(folder, 1, put(0), put(1), sealed=1)  # what lies behind the end is nobody's
    assert (status_of(folder).accepted, status_of(folder).queued) == (1, 1)
    lies(folder, 1, put(0), sealed=3, outcomes=[0xD1])  # nor is what should lie before it not there
    assert (status_of(folder).accepted, status_of(folder).queued) == (3, 2)
    lies(folder, 1, put(0), sealed=1, outcomes=[0xD1, 0xD1])
    assert (status_of(folder).queued, status_of(folder).delivered) == (0, 2)


def test_what_the_totals_name_is_counted_there(folder: Path) -> None:
    """A crash came before its removal; letters of the same name are others; the next ones count."""
    for part in ("segments", "dead"):
        for number in (1, 2):
            frame = put(0) if part == "segments" else letter(0)
            lies(folder, number, frame, part=part)
    for folded, left in (([name(1)], (1, 1, 2)), ([f"dead/{name(1)}"], (2, 2, 1)), ([], (2, 2, 2))):
        gone = {"accepted": 0, "delivered": 0, "dropped": {}, "folded": folded}
        (folder / "totals.json").write_bytes(orjson.dumps(gone))
        status = status_of(folder)
        assert (status.segments, status.queued, status.dead) == left


def test_what_goes_while_it_is_counted_is_not_missed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are."""
    for number in (1, 2):
        lies(folder, number, put(0))
    open_it = Disk.open

    def opening(disk: Disk, path: str, *, write: bool = True) -> int:
        if path.endswith(name(1)):
            Path(path).unlink()
        return open_it(disk, path, write=write)

    monkeypatch.setattr(Disk, "open", opening)
    status = status_of(folder)
    assert (status.segments, status.trouble) == (1, [])


def test_what_a_newer_release_wrote_is_counted_apart(folder: Path) -> None:
    """And costs the others nothing."""
    for number in (1, 2):
        lies(folder, number, put(0))
    path = folder / "segments" / name(1)
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[64 : fmt.PAGE_BYTES] = bytes(data[64 : fmt.PAGE_BYTES]).replace(b'"version":1', b'"version":2')
    path.write_bytes(data)
    status = status_of(folder)
    assert (status.newer, status.segments, status.trouble) == (1, 1, [])


def test_an_endpoint_whose_url_is_long(folder: Path) -> None:
    """Its segments have a header of more than one page."""
    size = lies(folder, 1, put(0), lane=f"{URL}/{'u' * 5000}", outcomes=[Outcome.DELIVERED])
    status = status_of(folder)
    assert (status.delivered, status.stored_bytes, status.trouble) == (1, size, [])


def test_counting_leaves_no_file_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of what it read nor of what it could not; and it opens nothing to write."""
    opened: list[bool] = []
    open_it = Disk.open

    def opening(disk: Disk, path: str, *, write: bool = True) -> int:
        opened.append(write)
        return open_it(disk, path, write=write)

    lies(folder, 1, put(0))
    lies(folder, 2, put(0), sealed=1)
    (folder / "segments" / name(3)).write_bytes(b"noise")
    found = inspect.open_folder(folder)
    monkeypatch.setattr(inspect, "open_folder", lambda _: found)
    monkeypatch.setattr(Disk, "open", opening)
    assert len(status_of(folder).trouble) == 1
    assert len(opened) >= 3
    assert not any(opened)
    assert not found.disk._descriptors


def test_a_status_as_plain_values(folder: Path) -> None:
    """For JSON: every name of it, the endpoints without what is secret in them, and whether the sum closes."""
    size = lies(folder, 1, put(0), put(1), lane=OTHER)
    status = status_of(folder)
    assert inspect.as_dict(status) == {
        "path": str(folder), "accepted": 2, "delivered": 0, "queued": 2, "dead": 0, "dropped": {}, "segments": 1,
        "stored_bytes": size, "dead_bytes": 0, "writers": 0, "newer": 0, "bad": 0, "oldest_age_s": 100.0, "trouble": [],
        "lanes": [
            {"url": "https://events.example/v1", "queued": 2, "stored_bytes": size, "oldest_age_s": 100.0}
        ],
        "closes": True,
    }  # fmt: skip
    assert not inspect.as_dict(replace(status, queued=3))["closes"]


def test_the_newest_ten_are_shown_unless_told(folder: Path) -> None:
    """By the time of their put."""
    lies(folder, 1, *(put(ordinal, AT_S + ordinal) for ordinal in range(12)))
    assert [one.at_s - AT_S for one in inspect.tail(folder)] == list(range(2, 12))
    assert len(inspect.tail(folder, last=None)) == 12


# -- dead letters


def test_letters_that_cannot_be_read_hide_no_others(folder: Path) -> None:
    """Oldest first, of one process and of all."""
    (folder / "dead" / name(1)).write_bytes(b"noise")
    lies(folder, 2, letter(0), letter(1), part="dead")
    lies(folder, 3, letter(0), part="dead")
    found = [one.id for one in inspect.dead_letters(folder)]
    assert found == [f"{name(2)[:-4]}:0", f"{name(2)[:-4]}:1", f"{name(3)[:-4]}:0"]


@pytest.mark.parametrize("what", ["retry_dead", "discard_dead"])
def test_letters_that_somebody_dealt_with_meanwhile_are_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A letter, and a segment that is gone; each of them is told as done with, and the others are dealt with."""
    for number in (1, 2, 3):
        lies(folder, number, letter(0), part="dead", sealed=1)
    read, progress = dead.letters, list[int]()

    def reading(place: Any, of: str) -> Any:
        found = list(read(place, of))
        if of == name(1):
            dead.settle(place, of, [0], Outcome.DISCARDED)
        elif of == name(2):
            (folder / "dead" / of).unlink()
        return found

    monkeypatch.setattr(dead, "letters", reading)
    assert getattr(inspect, what)(folder, None, progress=progress.append) == 1
    assert progress == [1, 1, 1]
    status = status_of(folder)
    assert (status.dead, status.queued) == (0, int(what == "retry_dead"))
    assert status.dropped["dead_discarded"] == 1 + (what == "discard_dead")


def test_a_letter_that_is_put_back_is_anybodys_to_send_and_not_accepted_again(folder: Path) -> None:
    """It lies in a segment of its own, whose writer does not send, and waits for nobody's interval."""
    lies(folder, 1, letter(0), letter(1), letter(2), part="dead", sealed=3)
    ids = [one.id for one in inspect.dead_letters(folder)]
    assert inspect.retry_dead(folder, [ids[2], ids[0], ids[2]]) == 2
    (segment,) = (folder / "segments").iterdir()
    header = fmt.decode_header(segment.read_bytes())
    assert (header.sender, header.retry, header.lane, header.sealed_events) == (False, True, URL, 2)
    seen = [one.event for one in inspect.tail(folder)]
    assert seen == [Event(ENVELOPE, b'{"n":2}'), Event(ENVELOPE, b'{"n":0}')]
    status = status_of(folder)
    assert (status.accepted, status.queued, status.dead, status.writers) == (0, 2, 1, 0)


@pytest.mark.parametrize("what", ["retry_dead", "discard_dead"])
def test_letters_that_somebody_is_at_are_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """For a moment, on any file system that the journal lies on."""
    monkeypatch.setattr(folder_module, "file_system_of", lambda _: "nfs4")
    lies(folder, 1, letter(0), letter(1), part="dead", sealed=2)
    lies(folder, 2, letter(0), part="dead", sealed=1)
    with (folder / "dead" / name(1)).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waited: list[float] = []

        def pause(seconds: float) -> None:
            waited.append(seconds)
            if sum(waited) > 4.9:
                fcntl.flock(file, fcntl.LOCK_UN)

        monkeypatch.setattr(dead, "pause", pause)
        assert getattr(inspect, what)(folder, None) == 3
    assert status_of(folder).dead == 0


def test_nothing_to_put_back_leaves_no_trace(folder: Path) -> None:
    """Without letters, and for no ids."""
    before = sorted(path.name for path in folder.rglob("*"))
    for ids in (None, []):
        assert (inspect.retry_dead(folder, ids), inspect.discard_dead(folder, ids)) == (0, 0)
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_an_id_that_names_no_letter_is_told(folder: Path) -> None:
    """As it was given; nothing is done about the others."""
    lies(folder, 1, letter(0), part="dead", sealed=1)
    (good,) = [one.id for one in inspect.dead_letters(folder)]
    for wrong in (f"{good}1", "x:", "x:-1", "x", f"{good[:-1]}x"):
        for what in (inspect.retry_dead, inspect.discard_dead):
            with pytest.raises(KeyError) as caught:
                what(folder, [good, wrong])
            assert caught.value.args == (wrong,)
    assert status_of(folder).dead == 1
