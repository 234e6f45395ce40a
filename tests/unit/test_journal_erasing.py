"""What a purge asks of the process that has a segment in hand: what goes at once, what waits, and what is counted."""

import errno
import os
from pathlib import Path
from typing import Any

from tests.support import ALL, URL, HookedDisk, closes, drain, event, number_of

from eventpost.queues.journal import JournalQueue, dead, erase
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.erase import NO_RECORD, Place
from eventpost.queues.journal.format import Kind, Outcome
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal, Trouble

SPAN = (14, 54)
"""Where somebody's bytes are in the payload of each event here; its number is before them."""
BLANK = b" " * 40


class Asked:
    """A queue that holds events 0 to 5, one put each, and what is asked of its segments."""

    def __init__(self, path: Path, *, events: int = 6, sends: bool = True, **options: Any) -> None:
        self.path = path
        self.disk, self.clock = HookedDisk(), ManualClock()
        self.queue = JournalQueue(path, disk=self.disk, clock=self.clock, **options)
        self.queue.sends = sends
        self.heard: list[Signal] = []
        self.queue.emit = self.heard.append
        for number in range(events):
            self.queue.put([event(number)])
        self.synced: list[int] = []
        self.disk.hooks["datasync"] = self.synced.append

    def files(self) -> list[Path]:
        """Return the segments."""
        return sorted((self.path / "segments").iterdir())

    def places(self, wholes: tuple[int, ...], cuts: tuple[int, ...] = ()) -> dict[str, list[Place]]:
        """Return where these events are, to be erased as a whole or in part."""
        found: dict[str, list[Place]] = {}
        for path in self.files():
            data = path.read_bytes()
            header = fmt.decode_header(data)
            for at, frame, _ in dead.walk(data, header.records_at):
                if frame is not None and frame.kind == Kind.EVENT and frame.payload[:1] == b"{":
                    number = number_of(frame.payload)
                    some = found.setdefault(f"segments/{path.name}", [])
                    some += [Place(at, frame.ordinal)] * (number in wholes)
                    some += [Place(at, frame.ordinal, (SPAN,))] * (number in cuts)
        return {file: some for file, some in found.items() if some}

    def ask(self, *wholes: int, cuts: tuple[int, ...] = ()) -> None:
        """Ask for these."""
        self.asked = self.places(wholes, cuts)
        erase.write_note(self.queue.folder, self.asked)

    def written(self) -> list[int]:
        """Return where the disk is written to from now on."""
        places: list[int] = []
        self.disk.hooks["write"] = lambda _, __, at: places.append(at)
        return places

    def look(self, *, elected: bool = False) -> None:
        """Let the queue look at the note."""
        self.synced.clear()
        self.queue._erasing.look(elected=elected)
        assert closes(self.queue.stats())

    def recalls(self) -> bool:
        """Tell whether the sender is asked for what it holds."""
        return self.queue.recalls

    def told(self) -> tuple[int, int, dict[str, int]]:
        """Return what is queued, in flight and dropped."""
        stats = self.queue.stats()
        assert closes(stats)
        return stats.queued, stats.in_flight, dict(stats.dropped)

    def outcomes(self) -> list[int]:
        """Return the outcomes of the first segment's events."""
        data = self.files()[0].read_bytes()
        return list(data[fmt.decode_header(data).outcomes_at :][:6])

    def shown(self) -> list[int]:
        """Return which events' bytes are on the disk."""
        data = b"".join(path.read_bytes() for path in self.files())
        return [number for number in range(9) if event(number).payload in data]


def blanked(number: int) -> bytes:
    """Return an event's payload without somebody's bytes."""
    payload = event(number).payload
    return payload[: SPAN[0]] + BLANK + payload[SPAN[1] :]


def test_what_nobody_has_claimed_goes_at_once(tmp_path: Path) -> None:
    """Dropped, or without its part from then on; on the device; what is read already is read anew."""
    asked = Asked(tmp_path)
    assert not asked.recalls()
    (first,) = asked.queue.claim(URL, 1, ALL)
    asked.ask(2, cuts=(3,))
    written = asked.written()
    asked.look()
    (whole, part) = (one.at for some in asked.asked.values() for one in some)
    # Its outcome once more before the bytes go: a sync that failed may have forgotten it.
    assert written == [fmt.PAGE_BYTES + 2, fmt.PAGE_BYTES + 2, whole, part]
    assert asked.told() == (4, 1, {"purged": 1})
    assert (asked.outcomes(), asked.shown()) == ([0, 0, Outcome.PURGED, 0, 0, 0], [0, 1, 4, 5])
    assert (len(asked.synced), asked.recalls()) == (1, False)
    asked.look()
    assert asked.told() == (4, 1, {"purged": 1})
    leases = asked.queue.claim(URL, 9, ALL)
    assert [one.event.payload for one in leases] == [event(1).payload, blanked(3), event(4).payload, event(5).payload]
    asked.queue.ack([first, *leases])
    assert asked.told() == (0, 0, {"purged": 1})
    asked.queue.close()


def test_what_the_sender_holds_comes_back_first(tmp_path: Path) -> None:
    """Nothing of it changes until then; an answer that comes meanwhile is its outcome, and its bytes go after it."""
    asked = Asked(tmp_path)
    leases = asked.queue.claim(URL, 2, ALL)
    asked.ask(0, 1)
    asked.look()
    assert asked.recalls()
    assert (asked.told(), asked.shown(), asked.synced) == ((4, 2, {}), [0, 1, 2, 3, 4, 5], [])
    asked.queue.ack(leases[:1])
    asked.queue.release(leases[1:], 0.0)
    asked.look()
    assert not asked.recalls()
    assert (asked.told(), asked.shown()) == ((4, 0, {"purged": 1}), [2, 3, 4, 5])
    assert asked.outcomes() == [Outcome.DELIVERED, Outcome.PURGED, 0, 0, 0, 0]
    assert asked.queue.stats().delivered == 1
    assert drain(asked.queue) == [2, 3, 4, 5]
    erase.write_note(asked.queue.folder, {})
    asked.queue._erasing.recalls = True
    asked.look()
    assert not asked.recalls()
    asked.queue.close()


def test_what_waits_to_be_sent_again_is_dropped_or_sent_without_its_part(tmp_path: Path) -> None:
    """The ones beside it stay as they are, and come when their time comes."""
    asked = Asked(tmp_path)
    leases = asked.queue.claim(URL, 5, ALL)
    asked.queue.release(leases[:4], 5.0)
    asked.ask(1, cuts=(2,))
    asked.look()
    assert (asked.told(), asked.recalls()) == ((4, 1, {"purged": 1}), False)
    assert (asked.outcomes(), asked.shown()) == ([0, Outcome.PURGED, 0, 0, 0, 0], [0, 3, 4, 5])
    asked.look()
    assert asked.told() == (4, 1, {"purged": 1})
    asked.clock.advance(5.0)
    again = asked.queue.claim(URL, 9, ALL)
    assert [one.event.payload for one in again] == [
        event(0).payload, blanked(2), event(3).payload, event(5).payload,
    ]  # fmt: skip
    assert {one.event.envelope for one in again} == {event(0).envelope}
    assert asked.told() == (0, 5, {"purged": 1})
    asked.queue.ack([*again, leases[4]])
    assert asked.queue.stats().delivered == 5
    asked.queue.close()


def test_what_waits_and_is_purged_holds_none_of_its_bytes(tmp_path: Path) -> None:
    """In memory neither: it stays there until its time."""
    asked = Asked(tmp_path, events=2)
    asked.queue.release(asked.queue.claim(URL, 1, ALL), 5.0)
    asked.ask(0)
    asked.look()
    ((_, _, again),) = asked.queue._claims.lanes[URL].again
    assert (again.event, again.cursor.waiting) == (event(0)._replace(payload=b""), 0)
    asked.queue.close()


def test_a_segment_that_was_not_opened_yet_is_erased_where_it_lies(tmp_path: Path) -> None:
    """Events only: what looks like none may be half of one that is put this moment; and only what was promised."""
    asked = Asked(tmp_path)
    places = asked.places((1, 4), (2,))
    (file,) = places
    beyond = asked.queue._claims.lanes[URL].own[0].visible
    places[file] += [Place(asked.places((5,))[file][0].at, NO_RECORD, ((20, 60),)), Place(beyond, 6)]
    erase.write_note(asked.queue.folder, places)
    before = set(asked.disk._descriptors)
    written = asked.written()
    asked.look()
    first, cut, last, *_ = (one.at for one in places[file])
    outcomes_at = [fmt.PAGE_BYTES + 1, fmt.PAGE_BYTES + 4]
    assert written == [*outcomes_at, outcomes_at[0], first, cut, outcomes_at[1], last]
    assert asked.disk._descriptors == before
    assert asked.told() == (4, 0, {"purged": 2})
    assert (asked.outcomes(), asked.shown()) == ([0, Outcome.PURGED, 0, 0, Outcome.PURGED, 0], [0, 3, 5])
    assert len(asked.synced) == 1
    erase.write_note(asked.queue.folder, {file: places[file][-2:]})
    asked.look()
    assert (asked.synced, asked.shown()) == ([], [0, 3, 5])
    assert drain(asked.queue) == [0, 2, 3, 5]
    asked.queue.close()


def test_what_is_not_promised_yet_is_not_touched(tmp_path: Path) -> None:
    """To the byte: an event that is being put has no outcome, and somebody writes there."""
    for claimed in (0, 1):
        asked = Asked(tmp_path / str(claimed))
        asked.queue.ack(asked.queue.claim(URL, claimed, ALL))
        (file,) = places = asked.places((3, 4))
        writer = next(iter([*asked.queue._claims.lanes[URL].own, *(one.writer for one in asked.queue._claims.open)]))
        assert writer is not None
        writer.hold = places[file][1].at
        erase.write_note(asked.queue.folder, places)
        asked.look()
        writer.hold = None
        assert (asked.told()[2], asked.shown()) == ({"purged": 1}, [0, 1, 2, 4, 5])
        asked.queue.close()


def test_what_somebody_else_sends_is_not_its_business(tmp_path: Path) -> None:
    """A process that only stores leaves its segments alone: anybody may be sending them."""
    asked = Asked(tmp_path, sends=False)
    asked.ask(1)
    asked.look()
    assert (asked.told(), asked.shown()) == ((6, 0, {}), [0, 1, 2, 3, 4, 5])
    asked.queue.close()


def test_an_own_segment_that_is_gone_is_lost_which_its_turn_will_tell(tmp_path: Path) -> None:
    """Not here."""
    asked = Asked(tmp_path, events=2)
    asked.ask(1)
    os.unlink(asked.files()[0])
    asked.look()
    assert (asked.heard, asked.told()) == ([], (2, 0, {}))
    asked.queue.close()


def left(path: Path, *numbers: int) -> None:
    """Let a process store these and be killed."""
    queue = JournalQueue(path)
    for number in numbers:
        queue.put([event(number)])
    queue.after_fork_in_child()


def test_what_was_adopted_is_purged_before_it_is_read(tmp_path: Path) -> None:
    """Each is accepted and dropped here; damaged bytes of the dead are erased, too; the others arrive."""
    left(tmp_path, 0, 1, 2)
    left(tmp_path, 3, 4)
    left(tmp_path, 7)
    asked = Asked(tmp_path, events=0, adopt="always")
    places = asked.places((1, 3))
    (last,) = asked.places((4,))  # not the last by name: two may be of the same millisecond
    places[last].append(Place(asked.places((4,))[last][0].at, NO_RECORD, ((34, 74),)))
    erase.write_note(asked.queue.folder, places)
    assert asked.queue.scan() == 3
    stats = asked.queue.stats()
    assert (stats.accepted, stats.adopted, stats.dropped, closes(stats)) == (2, 2, {"purged": 2}, True)
    assert asked.shown() == [0, 2, 7]
    assert {one.fd for one in asked.queue._claims.open if one.name in "".join(places)} <= set(asked.synced)
    lease, *_ = asked.queue.claim(URL, 1, ALL)
    asked.ask(0, 2)
    asked.look()
    assert asked.recalls()
    stats = asked.queue.stats()
    assert (stats.accepted, stats.in_flight, stats.dropped, closes(stats)) == (4, 1, {"purged": 3}, True)
    asked.queue.release([lease], 9.0)
    asked.look()
    assert asked.queue.stats().dropped["purged"] == 4
    assert drain(asked.queue) == [7]
    asked.queue.close()


def test_what_waits_of_one_segment_says_nothing_of_another(tmp_path: Path) -> None:
    """Each has its own first event; one that came back and went out again is in hand as before."""
    left(tmp_path, 0)
    asked = Asked(tmp_path, events=0, adopt="always")
    asked.queue.scan()
    for number in (1, 2):
        asked.queue.put([event(number)])
    theirs, mine, other = asked.queue.claim(URL, 9, ALL)
    asked.queue.release([theirs], 9.0)
    asked.queue.release([other], 0.0)
    (again,) = asked.queue.claim(URL, 9, ALL)
    asked.ask(1, 2)
    asked.look()
    assert asked.recalls()
    assert (asked.told(), asked.shown()) == ((1, 2, {}), [0, 1, 2])
    asked.queue.ack([mine, again])
    asked.look()
    assert (asked.recalls(), asked.shown(), asked.queue.stats().delivered) == (False, [0], 2)
    asked.clock.advance(9.0)
    assert drain(asked.queue) == [0]
    asked.queue.close()


def test_an_event_that_cannot_be_is_not_counted(tmp_path: Path) -> None:
    """A sealed segment tells how many there are: what a note says of one more is another's word."""
    queue = JournalQueue(tmp_path)
    queue.put([event(0)])
    queue.put([event(1)])
    queue.close()
    asked = Asked(tmp_path, events=0, adopt="always")
    asked.queue.scan()
    (file,) = places = asked.places((1,))
    erase.write_note(asked.queue.folder, {file: [Place(places[file][0].at, 2)]})
    asked.look()
    assert (asked.told(), asked.queue.stats().adopted, asked.shown()) == ((0, 0, {}), 0, [0, 1])
    assert drain(asked.queue) == [0, 1]
    asked.queue.close()


def test_a_segment_of_which_a_purge_settles_the_last_event_is_folded(tmp_path: Path) -> None:
    """Nobody has to ask for its next event first."""
    left(tmp_path, 0, 1)
    asked = Asked(tmp_path, events=0, adopt="always")
    asked.queue.scan()
    leases = asked.queue.claim(URL, 9, ALL)
    asked.queue.ack(leases[:1])
    asked.queue.release(leases[1:], 99.0)
    asked.ask(1)
    asked.look()
    asked.queue._claims.fold_done()
    assert asked.files() == []
    assert asked.told() == (0, 0, {"purged": 1})
    asked.queue.close()


def test_who_adopted_nothing_does_not_look_for_what_is_asked(tmp_path: Path) -> None:
    """It looks for leftovers often."""
    asked = Asked(tmp_path)
    opened: list[str] = []
    asked.disk.hooks["open"] = lambda path, **_: opened.append(path)
    asked.queue._erasing.before_reading([])
    assert opened == []
    asked.queue.close()


def test_who_is_elected_does_what_a_command_left_undone(tmp_path: Path) -> None:
    """Of segments that nobody has in hand; others leave that to it."""
    left(tmp_path, 0, 1)
    asked = Asked(tmp_path, events=0, adopt="never")
    asked.ask(0)
    asked.look()
    assert asked.shown() == [0, 1]
    asked.look(elected=True)
    assert (asked.shown(), asked.outcomes()[:2]) == ([1], [Outcome.PURGED, 0])
    assert not (tmp_path / "purge.json").exists()
    asked.queue.close()


def test_a_purge_that_cannot_be_carried_out_is_told(tmp_path: Path) -> None:
    """What it asked of the sender before is forgotten; the next look tries again."""
    asked = Asked(tmp_path)
    asked.queue.claim(URL, 1, ALL)
    asked.ask(0, 1)
    asked.look()
    assert asked.recalls()

    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    asked.disk.hooks["open"] = refuses
    asked.queue._erasing.look(elected=False)
    asked.queue._say()
    asked.disk.hooks.clear()
    (said,) = asked.heard
    assert isinstance(said, Trouble)
    assert (said.what, str(tmp_path) in str(said.detail)) == ("journal", True)
    assert not asked.recalls()
    asked.look()
    assert asked.recalls()
    assert len(asked.heard) == 1
    asked.queue.close()
