"""A purge, round by round: how long it waits and for whom, what it asks of them, and what it counts as whose work."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventpost.event import Envelope, Event
from eventpost.queues.journal import Disk, JournalQueue, dead, erase
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal import purge as module
from eventpost.queues.journal.erase import Done, Place, Places
from eventpost.queues.journal.folder import open_folder
from eventpost.queues.journal.format import Outcome
from eventpost.queues.journal.purge import Purged, purge
from eventpost.queues.protocol import Answer
from eventpost.testing.clock import ManualClock

URL = "http://127.0.0.1:9/v1/events"
ALICE, BOB = "alice@example.com", "bob@example.com"


def body(*visitors: str, **more: Any) -> Event:
    """Return an event with these visitors."""
    return Event(Envelope(URL), json.dumps({"visitors": [{"visitor_id": one} for one in visitors], **more}).encode())


def left(folder: Path, *events: Event, bury: int = 0, answer: Answer | None = None) -> Path:
    """Let a process store these, set some aside, and be killed; its segment."""
    queue = JournalQueue(folder)
    before = set((folder / "segments").iterdir())
    queue.put(events)
    if bury:
        queue.bury(queue.claim(URL, bury, 1 << 20), "rejected", answer)
    queue.after_fork_in_child()
    (mine,) = set((folder / "segments").iterdir()) - before
    return mine


def holds(path: Path, visitor: str = ALICE) -> bool:
    """Tell whether a file holds an id."""
    return visitor.encode() in path.read_bytes()


class Time(ManualClock):
    """A clock from zero on that a pause moves; ``at`` a pause something may happen."""

    def __init__(self) -> None:
        super().__init__(start_s=0.0)
        self.pauses: list[float] = []
        self.at: dict[int, Callable[[], object]] = {}

    def pause(self, seconds: float) -> None:
        """Take the place of a pause."""
        self.pauses.append(seconds)
        self.advance(seconds)
        self.at.pop(len(self.pauses), lambda: None)()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Make a clock, and let a purge pause by it."""
    clock = Time()
    monkeypatch.setattr(module, "pause", clock.pause)
    return clock


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Places]]:
    """Collect what is written down."""
    found: list[Places] = []
    write = erase.write_note
    monkeypatch.setattr(erase, "write_note", lambda folder, places: (found.append(places), write(folder, places)))
    return found


class Held:
    """Somebody who has a file in hand, until ``let_go``."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def let_go(self) -> None:
        """Have it no more."""
        self.file.close()


def file_of(path: Path) -> str:
    """Return a file's name in its folder."""
    return f"{path.parent.name}/{path.name}"


# -- waiting


def test_it_waits_for_another_purge(tmp_path: Path, time: Time) -> None:
    """Until its time is over, to the moment, and then says so as an error of the system; or goes on when that ends."""
    mine = left(tmp_path, body(ALICE))
    (tmp_path / "purge.lock").touch()
    held = Held(tmp_path / "purge.lock")
    with pytest.raises(BlockingIOError) as caught:
        purge(tmp_path, ALICE, timeout_s=0.1, clock=time)
    assert (caught.value.errno, caught.value.filename) == (errno.EAGAIN, str(tmp_path))
    assert time.pauses == [0.05, 0.05]
    assert holds(mine)
    time.at[4] = held.let_go
    assert purge(tmp_path, ALICE, timeout_s=1.0, clock=time).queued == 1
    assert len(time.pauses) == 4


def test_half_a_minute_is_its_time_unless_another_is_named(tmp_path: Path, time: Time) -> None:
    """For others, whichever they are."""
    left(tmp_path, body(ALICE))
    (tmp_path / "purge.lock").touch()
    held = Held(tmp_path / "purge.lock")
    with pytest.raises(BlockingIOError):
        purge(tmp_path, ALICE, clock=time)
    held.let_go()
    assert sum(time.pauses) == pytest.approx(30.0, abs=0.051)


def test_it_waits_for_who_has_a_segment_in_hand(tmp_path: Path, time: Time) -> None:
    """It tries again each 50 ms until its time is over, and looks no further then: one round, told file by file."""
    mine, other = left(tmp_path, body(ALICE)), left(tmp_path, body(ALICE))
    held = Held(mine)
    seen: list[tuple[int, int]] = []
    result = purge(tmp_path, ALICE, timeout_s=0.1, clock=time, progress=lambda done, of: seen.append((done, of)))
    assert time.pauses == [0.05, 0.05]
    assert seen == [(1, 2), (2, 2)]
    assert [(one.file, one.places) for one in result.left] == [(file_of(mine), 1)]
    assert (result.queued, holds(mine), holds(other)) == (1, True, False)
    held.let_go()
    assert purge(tmp_path, BOB, timeout_s=0.0, clock=time) == Purged(), "it was asked by another"
    assert not holds(mine)


def test_once_they_let_go_it_goes_on(tmp_path: Path, time: Time) -> None:
    """At once it looks again, at all files, until nothing more is found."""
    mine, _ = left(tmp_path, body(ALICE)), left(tmp_path, body(ALICE))
    time.at[2] = Held(mine).let_go
    seen: list[tuple[int, int]] = []
    result = purge(tmp_path, ALICE, timeout_s=0.3, clock=time, progress=lambda done, of: seen.append((done, of)))
    assert len(time.pauses) == 2
    assert seen == [(1, 2), (2, 2)] * 2
    assert (result, holds(mine)) == (Purged(queued=2), False)
    assert not (tmp_path / "purge.json").exists()


def test_its_time_runs_from_its_beginning(tmp_path: Path, time: Time) -> None:
    """What the wait for another purge took is not there for the wait for a segment."""
    mine = left(tmp_path, body(ALICE))
    (tmp_path / "purge.lock").touch()
    time.at[3] = Held(tmp_path / "purge.lock").let_go
    held = Held(mine)
    assert len(purge(tmp_path, ALICE, timeout_s=0.2, clock=time).left) == 1
    held.let_go()
    assert len(time.pauses) == 4


# -- what it leaves


def test_all_folders_are_on_the_device_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing was found: what somebody removed before, power loss must not bring back."""
    folder = tmp_path / "BOX"
    left(folder, body(BOB))
    synced: list[str] = []
    monkeypatch.setattr(Disk, "sync_folder", lambda _, path: synced.append(path))
    assert purge(folder, ALICE, timeout_s=0.0) == Purged()
    assert Purged() == Purged(0, 0, 0, 0, 0, 0, 0, [])
    assert synced == [str(folder), *[f"{folder}/{part}" for part in ("segments", "dead", "bad")]]


def test_nothing_stays_open(tmp_path: Path, time: Time) -> None:
    """However often it looked at a segment, and where a run comes to no end."""
    mine = left(tmp_path, body(ALICE))
    held = Held(mine)
    before = len(os.listdir("/proc/self/fd"))
    purge(tmp_path, ALICE, timeout_s=0.1, clock=time)
    assert len(os.listdir("/proc/self/fd")) == before

    def ends() -> None:
        raise KeyboardInterrupt

    time.at[len(time.pauses) + 1] = ends
    with pytest.raises(KeyboardInterrupt):
        purge(tmp_path, BOB, timeout_s=0.1, clock=time)
    assert len(os.listdir("/proc/self/fd")) == before
    held.let_go()


def test_what_is_left_is_told_by_file_in_order(tmp_path: Path, time: Time) -> None:
    """How many places each has, those that another purge asked for among them, and who has it in hand."""
    files = [left(tmp_path, body(BOB), body(ALICE), body(ALICE)) for _ in range(3)]
    held = [Held(path) for path in files]
    assert [one.places for one in purge(tmp_path, BOB, timeout_s=0.0, clock=time).left] == [1, 1, 1]
    held.pop(1).let_go()
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert [(one.file, one.places) for one in result.left] == [(file_of(files[at]), 3) for at in (0, 2)]
    assert (result.queued, holds(files[1], BOB)) == (2, False)
    for one in held:
        one.let_go()


def test_a_letter_that_somebody_is_at_is_named_otherwise(tmp_path: Path, time: Time) -> None:
    """No sender has it, so none is to be stopped."""
    mine = left(tmp_path, body(ALICE), bury=1)
    (letters,) = (tmp_path / "dead").iterdir()
    held = Held(letters)
    segment = Held(mine)
    first, second = purge(tmp_path, ALICE, timeout_s=0.0, clock=time).left
    assert (first.file, second.file) == (file_of(letters), file_of(mine))
    assert "stop it" in second.why
    assert "stop it" not in first.why
    held.let_go()
    segment.let_go()


def test_an_event_is_read_as_its_envelope_says(tmp_path: Path, time: Time) -> None:
    """What is sent as a query is one."""
    query = Event(Envelope(URL, "GET"), b"visitor=alice%40example.com")
    mine = left(tmp_path, query, body(BOB), query._replace(payload=b"visitor=bob"))
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged(queued=1)
    assert mine.read_bytes().count(b"visitor=") == 1


def test_a_segment_whose_header_is_damaged_is_bytes_of_nothing(tmp_path: Path, time: Time) -> None:
    """What of it is a record and the visitor's goes as such bytes do."""
    mine = left(tmp_path, body(ALICE))
    mine.write_bytes(b"\xff" * 64 + mine.read_bytes()[64:])
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert (result.damaged, result.left, holds(mine)) == (1, [], False)


def test_a_disk_that_fails_at_a_look_fails_no_purge(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its holder has done is not known then; what is to do is done."""
    mine = left(tmp_path, body(ALICE))
    still_named, failed = Disk.still_named, list[int]()

    def fail(disk: Disk, fd: int, path: str) -> bool:
        if not failed:
            failed.append(fd)
            raise OSError(errno.EIO, "Input/output error")
        return still_named(disk, fd, path)

    monkeypatch.setattr(Disk, "still_named", fail)
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged(queued=1)
    assert (len(failed), holds(mine)) == (1, False)


def test_letters_that_cannot_be_read_hold_up_nothing(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which events they are about is not known then; what is queued is erased all the same."""
    mine = left(tmp_path, body(ALICE))

    def fail(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(dead.Parked, "by_segment", fail)
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged(queued=1)
    assert not holds(mine)


def test_all_files_are_counted_together(tmp_path: Path, time: Time) -> None:
    """Whatever each of them held."""
    for _ in range(2):
        left(tmp_path, body(ALICE), body(ALICE), body(ALICE, BOB), bury=1)
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged(queued=2, dead=2, cut=2, erased=2)


def test_what_its_holder_has_done_is_counted_and_the_rest_is_left(
    tmp_path: Path, time: Time, notes: list[Places]
) -> None:
    """Place for place, in any order."""
    mine = left(tmp_path, body(BOB), body(ALICE), body(ALICE), body(ALICE, BOB))
    held = Held(mine)

    def work() -> None:
        disk = Disk()
        fd = disk.open(str(mine))
        header = erase.read_header(disk, fd)
        disk.write(fd, bytes([Outcome.PURGED]), header.outcomes_at + 2)
        for place in notes[0][file_of(mine)][1:]:
            erase.erase(disk, fd, place, header)
        disk.close(fd)

    time.at[1] = work
    result = purge(tmp_path, ALICE, timeout_s=0.1, clock=time)
    assert (result.queued, result.cut, result.erased, result.left[0].places) == (1, 1, 0, 1)
    held.let_go()


# -- what it writes down


def records(path: Path) -> list[int]:
    """Return where a segment's events begin."""
    data = path.read_bytes()
    header = fmt.decode_header(data[: fmt.header_bytes_wanted(data[: fmt.PAGE_BYTES])])
    return [at for at, frame, _ in dead.walk(data, header.records_at) if frame and frame.kind != fmt.Kind.ENVELOPE]


def test_a_whole_event_leaves_zeros(tmp_path: Path, time: Time, notes: list[Places]) -> None:
    """Nothing is kept of it; and there is no note once that is done."""
    mine = left(tmp_path, body(BOB), body(ALICE))
    purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert notes == [{file_of(mine): [Place(records(mine)[1], 1, (), "")]}, {}]


def test_of_an_event_that_others_share_their_bytes_stay(tmp_path: Path, time: Time, notes: list[Places]) -> None:
    """To the byte."""
    mine = left(tmp_path, body(ALICE, BOB))
    payload = body(ALICE, BOB).payload
    span = (payload.index(b'{"visitor_id"'), payload.rindex(b'{"visitor_id"'))
    purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert notes == [{file_of(mine): [Place(records(mine)[0], 0, (span,))]}, {}]


def test_an_event_whose_envelope_cannot_be_read_is_the_visitors_all_the_same(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried as whatever it may be."""
    mine = left(tmp_path, body(ALICE))

    def fail(_: bytes) -> Envelope:
        raise ValueError("no envelope")

    monkeypatch.setattr(fmt, "decode_envelope", fail)
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time).queued == 1
    assert not holds(mine)


def test_of_a_letter_that_others_share_the_answer_goes_too(tmp_path: Path, time: Time, notes: list[Places]) -> None:
    """It may quote what was sent; spaces stand for it, and the rest of the letter is what it was."""
    said = f"no {ALICE}"
    left(tmp_path, body(ALICE, BOB), bury=1, answer=Answer(400, said))
    (letters,) = (tmp_path / "dead").iterdir()
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert (result.cut, result.dead, result.erased, result.queued) == (1, 0, 1, 0)
    (letter,) = [one for _, one in dead.letters(open_folder(tmp_path), letters.name)]
    assert letter.answer == " " * len(said)
    assert json.loads(letter.event.payload) == {"visitors": [{"visitor_id": BOB}]}
    assert (letter.reason, letter.status) == ("rejected", 400)


def test_an_answer_of_nothing_is_no_place(tmp_path: Path, time: Time, notes: list[Places]) -> None:
    """There is the visitor's part of the event alone."""
    left(tmp_path, body(ALICE, BOB), bury=1, answer=Answer(400, ""))
    purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    ((place,),) = [some for file, some in notes[0].items() if file.startswith("dead/")]
    assert len(place.spans) == 1


@pytest.mark.parametrize("others", [["carol"], []])
def test_two_who_stand_in_one_event_are_one_place(
    tmp_path: Path, time: Time, notes: list[Places], others: list[str]
) -> None:
    """What is asked for the second is found as the first leaves it: with nobody else in it, all of the event goes."""
    mine = left(tmp_path, body(ALICE, BOB, *others), body(ALICE), body(BOB))
    held = Held(mine)
    purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    ((first, alices),) = notes[-1].values()
    assert (len(first.spans), alices.whole) == (1, True)
    result = purge(tmp_path, BOB, timeout_s=0.0, clock=time)
    assert (result.left[0].places, result.queued) == (3, 0)
    (places,) = erase.read_note(open_folder(tmp_path)).values()
    joined, bobs = (next(one for one in places if one.at == at) for at in (records(mine)[0], records(mine)[2]))
    assert len(joined.spans) == (2 if others else 0)
    assert (joined.spans[:1] == first.spans) is bool(others)
    assert [one.at for one in places].count(joined.at) == 1
    assert alices in places
    assert bobs.whole
    held.let_go()
    result = purge(tmp_path, "nobody", timeout_s=0.0, clock=time)
    assert result == Purged(), "it was asked by others"
    assert not holds(mine)
    assert not holds(mine, BOB)
    data = mine.read_bytes()
    at = records(mine)[0] + fmt.FRAME_HEAD_BYTES
    kept = data[at : at + len(body(ALICE, BOB, *others).payload)]
    assert json.loads(kept) == {"visitors": [{"visitor_id": "carol"}]} if others else not any(kept)


# -- round by round


def test_what_is_put_meanwhile_is_not_its_business(tmp_path: Path, time: Time) -> None:
    """What was put in the second in which it began may be of before: it is looked at in each round; later ones not."""
    mine = left(tmp_path, body(ALICE))
    clock = ManualClock(epoch_s=time.time())
    queue = JournalQueue(tmp_path, clock=clock)
    queue.sends = False
    rounds: list[int] = []

    def put(done: int, of: int) -> None:
        if done < of or len(rounds) == 2:
            return
        rounds.append(of)
        clock.advance(len(rounds) - 1)  # in the second round: in the second after it began
        queue.put([body(ALICE)])

    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time, progress=put).queued == 2
    assert not holds(mine)
    (path,) = set((tmp_path / "segments").iterdir()) - {mine}
    assert path.read_bytes().count(ALICE.encode()) == 1
    queue.close()


def test_what_was_set_aside_meanwhile_is_found(tmp_path: Path, time: Time) -> None:
    """An event in flight may die, whatever the time, and damaged bytes may be set aside; each is looked for anew."""
    left(tmp_path, body(ALICE))
    rounds: list[int] = []
    later = ManualClock(epoch_s=time.time() + 100)

    def set_aside(done: int, of: int) -> None:
        if done < of or rounds:
            return
        rounds.append(of)
        queue = JournalQueue(tmp_path / "other", clock=later)
        queue.put([body(ALICE)])
        (lease,) = queue.claim(URL, 1, 1)
        queue.bury([lease], "rejected")
        queue.after_fork_in_child()
        for part in ("dead", "segments"):
            (path,) = (tmp_path / "other" / part).iterdir()
            path.rename(tmp_path / ("dead" if part == "dead" else "bad") / path.name)

    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time, progress=set_aside)
    assert (result.queued, result.dead) == (1, 1)
    assert [path for path in (*(tmp_path / "dead").iterdir(), *(tmp_path / "bad").iterdir()) if holds(path)] == []


def test_what_is_no_place_for_events_is_left_alone(tmp_path: Path, time: Time) -> None:
    """A total that was set aside holds numbers, and endpoints; a file that is being made is nobody's yet."""
    left(tmp_path, body(BOB))
    total, begun = tmp_path / "bad" / "totals-1.json", tmp_path / "segments" / ".0000000000003-1.aa-000000.seg.tmp"
    for path in (total, begun):
        path.write_text(json.dumps([ALICE, "x" * 200]))
    assert purge(tmp_path, ALICE, timeout_s=0.0, clock=time) == Purged()
    assert holds(total)
    assert holds(begun)


def test_damaged_bytes_are_looked_at_wherever_nobody_writes(tmp_path: Path, time: Time) -> None:
    """In what a dead process left, and in all that was set aside, also of one who lives; from the first byte on."""
    mine = left(tmp_path, body(BOB, x="carol"), body(BOB))
    data = mine.read_bytes()
    mine.write_bytes(data.replace(b"carol", b"Carol"))
    queue = JournalQueue(tmp_path)
    queue.sends = False
    queue.put([body(BOB)])
    (living,) = {path.name for path in (tmp_path / "segments").iterdir()} - {mine.name}
    aside = [tmp_path / "bad" / living, tmp_path / "bad" / "x-0.bad"]
    for path in aside:
        path.write_text(json.dumps(ALICE))
    (tmp_path / "bad" / "y-0.bad").write_bytes(b"\xff" * 50)
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert result == Purged(damaged=2, unreadable=2)
    assert not any(map(holds, aside))
    queue.close()


def test_a_segment_that_goes_between_the_look_and_the_note_is_gone(tmp_path: Path, time: Time) -> None:
    """With its bytes."""
    mine = left(tmp_path, body(ALICE))
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time, progress=lambda *_: mine.unlink(missing_ok=True))
    assert result == Purged(erased=1)


def test_a_file_that_goes_while_it_looks_is_passed_over(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody was done with it."""
    mine = left(tmp_path, body(ALICE))
    names = Disk.names
    monkeypatch.setattr(Disk, "names", lambda disk, path: ["0000000000000-1.aa-000000.seg", *names(disk, path)])
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    assert (result.queued, result.left, holds(mine)) == (1, [], False)


@pytest.mark.parametrize(("part", "counted"), [("segments", Purged(cut=1, queued=0)), ("dead", Purged(erased=1))])
def test_a_file_that_goes_before_it_is_done_is_done(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch, part: str, counted: Purged
) -> None:
    """Of a segment in sight the outcome tells what became of each event; of another file: the bytes are gone."""
    mine = left(tmp_path, body(ALICE, BOB), body(BOB), bury=1 if part == "dead" else 0)
    target = mine if part == "segments" else next((tmp_path / "dead").iterdir())
    write = erase.write_note

    def goes(folder: Any, places: Places) -> None:
        write(folder, places)
        for path in {target, mine}:
            path.unlink(missing_ok=True)

    monkeypatch.setattr(erase, "write_note", goes)
    result = purge(tmp_path, ALICE, timeout_s=0.0, clock=time)
    if part == "dead":
        counted.erased += 1  # its event's bytes, settled before
    assert result == counted


RAW = Place(10, erase.NO_RECORD, ((0, 5),))
WHOLE = Place(10, 0)
CUT = Place(10, 0, ((0, 5),))


@pytest.mark.parametrize(
    ("place", "outcome", "done"),
    [
        (RAW, b"\0", Done(raw=1)), (RAW, bytes([Outcome.PURGED]), Done(raw=1)),
        (WHOLE, bytes([Outcome.PURGED]), Done(purged=1)), (WHOLE, bytes([Outcome.DELIVERED]), Done(erased=1)),
        (WHOLE, b"\0", Done(erased=1)),
        (CUT, b"\0", Done(cut=1)), (CUT, bytes([Outcome.DELIVERED]), Done(erased=1)),
    ],
)  # fmt: skip
def test_what_somebody_else_did_is_told_by_the_outcome(place: Place, outcome: bytes, done: Done) -> None:
    """Purged; settled before, or gone; or cut, and still there for the others."""
    assert module._done(place, outcome) == done
