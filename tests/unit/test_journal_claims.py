"""What is claimed of a journal's segments, what comes of a lease, and the count of all that."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.support import ALL, ENVELOPE, URL, HookedDisk

from eventpost.queues.journal import claims as claims_module
from eventpost.queues.journal import format as fmt
from eventpost.queues.journal.claims import Claims
from eventpost.queues.journal.cursor import Cursor, JournalLease
from eventpost.queues.journal.folder import Folder
from eventpost.queues.journal.format import Kind
from eventpost.queues.journal.segment import SegmentWriter
from eventpost.sender.primitives import get_ident
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal, Trouble

OTHER = "http://127.0.0.1:9/other"
FRAME = fmt.FRAME_HEAD_BYTES + 10
"""What an event of ten bytes takes of a claim's bytes while it is read; once it was given back, its ten bytes."""


class Claiming:
    """A folder's claims over real segments; ``held`` and ``count`` tell what they have and know."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.clock = HookedDisk(), ManualClock()
        self.folder = Folder(folder, disk=self.disk, gid=None, allow_network_fs=True)
        self.folder.make()
        self.heard: list[Signal] = []
        self.damage: list[int] = []
        self.claims = Claims(
            self.folder, self.clock, on_damage=lambda _cursor, _at, _data, count, _why: self.damage.append(count),
            emit=self.heard.append,
        )  # fmt: skip
        self.made = 0

    def write(
        self, *payloads: bytes, url: str = URL, sender: bool = True, retry: bool = False
    ) -> SegmentWriter:  # fmt: skip
        """Begin a segment with these events."""
        self.made += 1
        header = fmt.encode_header(url, "7.aa", 1, sender=sender, retry=retry, outcome_pages=1)
        writer = SegmentWriter(
            self.disk, self.folder.segments, f"{self.made:013d}-7.aa-{self.made:06d}.seg", header, 1 << 16, mode=0o600,
            gid=None, durable=False,
        )  # fmt: skip
        writer.define(ENVELOPE._replace(url=url), fmt.encode_envelope(ENVELOPE._replace(url=url)), 1)
        for payload in payloads:
            self.append(writer, payload)
        return writer

    def append(self, writer: SegmentWriter, payload: bytes) -> None:
        """Append an event."""
        writer.append(Kind.EVENT, 0, payload, 1)

    def own(self, *names: str, url: str = URL, sealed: bool = True) -> SegmentWriter:
        """Begin an own segment of ten-byte events."""
        writer = self.write(*[name.ljust(10).encode() for name in names], url=url)
        self.claims.add_own(writer)
        if sealed:
            writer.seal(self.disk)
        return writer

    def adopted(self, *names: str, lives: bool = False, **options: Any) -> Cursor:
        """Adopt a segment of ten-byte events; ``lives``: its writer does, and has not ended it."""
        writer = self.write(*[name.ljust(10).encode() for name in names], **options)
        if not lives:
            writer.seal(self.disk)
        cursor = Cursor(self.disk, writer.path, alive=lambda: lives, on_damage=self.claims.on_damage)
        self.claims.add_adopted(cursor)
        return cursor

    def claim(self, events_max: int = 100, bytes_max: int = ALL, url: str = URL) -> list[JournalLease]:
        """Claim."""
        return self.claims.claim(url, events_max, bytes_max)  # type: ignore[return-value]  # its leases

    def names(self, events_max: int = 100, bytes_max: int = ALL, url: str = URL) -> str:
        """Claim, and return what was claimed."""
        return " ".join(names(self.claim(events_max, bytes_max, url)))

    def count(self) -> dict[str, Any]:
        """Return all counts that are not zero."""
        known = ("adopted", "delivered", "in_flight", "waiting", "dead", "dropped", "folds")
        return {name: value for name in known if (value := getattr(self.claims, name))}

    def totals(self) -> dict[str, Any]:
        """Return what was folded."""
        found: dict[str, Any] = json.loads(Path(self.folder.path, "totals.json").read_bytes())
        return found

    def troubles(self) -> list[str]:
        """Return the files that something was said of."""
        assert all(isinstance(one, Trouble) and one.what == "journal" for one in self.heard)
        told = [one.detail.split(" ")[0] for one in self.heard if isinstance(one, Trouble)]
        self.heard.clear()
        return told


def names(leases: list[JournalLease]) -> list[str]:
    """Return the names of what was claimed."""
    return [lease.event.payload.decode().strip() for lease in leases]


def settled(cursor: Cursor) -> list[int]:
    """Return which of the first events are settled."""
    return [ordinal for ordinal in range(8) if cursor.is_settled(ordinal)]


@pytest.fixture
def claiming(tmp_path: Path) -> Claiming:
    """Give one."""
    return Claiming(tmp_path)


# -- claiming


def test_nothing_is_known_at_first(claiming: Claiming) -> None:
    """No lane, no lease, no loss; and all of it again after a fork."""
    for _ in range(2):
        assert claiming.count() == {}
        claims = claiming.claims
        assert (claims.dropped, claims.open, claims.done, claims.finished) == ({}, set(), [], set())
        assert (claims.claimer, claims.closed, claims.backlog(), claims.follows()) == (None, False, False, False)
        assert (claims.next_due_s(), claims.pending(URL), claims.unread(), claims.count_passed()) == (
            None,
            0,
            0,
            (0, 0),
        )
        assert claiming.claim() == []
        assert claims.claimer == get_ident()
        claiming.own("a", sealed=False)
        claiming.claim(1)
        claims.reset()


def test_segments_are_read_one_after_the_other(claiming: Claiming) -> None:
    """The adopted ones, then the own ones, as far as was asked, and none is opened for nothing."""
    claiming.own("a", "b")
    claiming.own("c")
    claiming.own("d", "e", "f")
    claiming.own("g")
    claiming.own("other", url=OTHER)
    claiming.adopted("A")
    claiming.adopted("B", "C")
    assert claiming.names(0) == claiming.names(-1) == claiming.names(url="http://nobody/") == ""
    assert len(claiming.claims.open) == 2
    assert claiming.names(3) == "A B C"
    assert len(claiming.claims.open) == 2
    assert claiming.names(2) == "a b"
    assert len(claiming.claims.open) == 3
    assert claiming.names(bytes_max=2 * FRAME) == "c d"
    assert len(claiming.claims.open) == 5
    assert claiming.names(bytes_max=FRAME + 1) == "e f"
    assert claiming.names() == "g"
    assert claiming.names(url=OTHER) == "other"
    assert claiming.count() == {"adopted": 3, "in_flight": 11}
    assert claiming.names() == ""


@pytest.mark.parametrize(("events_max", "bytes_max", "claimed"), [
    (9, FRAME + 1, "a b"), (9, 2 * FRAME, "a b"), (9, 2 * FRAME + 1, "a b c"), (9, FRAME, "a"), (9, 1, "a"),
    (2, ALL, "a b"), (3, ALL, "a b c"), (4, ALL, "a b c d"), (9, 4 * FRAME, "a b c d"),
])  # fmt: skip
def test_a_claim_goes_over_several_segments(
    claiming: Claiming, events_max: int, bytes_max: int, claimed: str
) -> None:  # fmt: skip
    """As if they were one."""
    for one in ("a", "b", "c"):
        claiming.own(one)
    claiming.own("d", "e", "f")
    assert claiming.names(events_max, bytes_max) == claimed


@pytest.mark.parametrize(("events_max", "bytes_max", "claimed"), [
    (1, ALL, "a"), (2, ALL, "a b"), (3, ALL, "a b c"), (4, ALL, "a b c d"), (9, 9, "a"), (9, 10, "a"), (9, 11, "a b"),
    (9, 20, "a b"), (9, 21, "a b c"), (9, 30, "a b c"), (9, 30 + FRAME, "a b c d"), (9, 31 + FRAME, "a b c d e"),
])  # fmt: skip
def test_what_was_given_back_comes_first_when_it_is_due(
    claiming: Claiming, events_max: int, bytes_max: int, claimed: str
) -> None:
    """In the order of giving back; it counts for what was asked, and with none left no segment is opened."""
    claiming.own("a", "b", "c")
    leases = claiming.claim()
    assert [lease.attempts for lease in leases] == [1, 1, 1]
    claiming.claims.release(leases, 5.0)
    assert claiming.count() == {"waiting": 3}
    claiming.own("d", "e")
    assert claiming.claims.next_due_s() == 5.0
    claiming.clock.advance(4.75)
    assert claiming.claims.next_due_s() == 0.25
    assert claiming.claims.pending(URL) == 2
    claiming.clock.advance(0.25)
    assert claiming.claims.next_due_s() == 0.0
    assert claiming.claims.pending(URL) == 5
    again = claiming.claim(events_max, bytes_max)
    assert " ".join(names(again)) == claimed
    assert [lease.attempts for lease in again[:3]] == [2] * len(again[:3])
    assert all((lease.claimed_at, lease.at_s, lease.live) == (1005.0, 1, True) for lease in again)
    assert [lease.ordinal for lease in again[:3]] == [0, 1, 2][: len(again)]
    assert len(claiming.claims.open) == 1 + (len(again) > 3)
    left = 3 - len(again[:3])
    assert claiming.count() == {"in_flight": len(again)} | ({"waiting": left} if left else {})
    claiming.clock.advance(1.0)
    assert claiming.claims.next_due_s() == (0.0 if left else None)


def test_the_earliest_is_due_first_whoever_was_given_back_first(claiming: Claiming) -> None:
    """In each lane; and only what is due is handed out."""
    claiming.own("a", "b", "c")
    claiming.own("x", url=OTHER)
    a, b, c = claiming.claim()
    claiming.claims.release([a], 3.0)
    claiming.claims.release([b], 1.0)
    claiming.claims.release([c], 2.0)
    claiming.claims.release(claiming.claim(url=OTHER), 0.5)
    assert claiming.claims.next_due_s() == 0.5
    assert claiming.claims.pending(OTHER) == 0
    claiming.clock.advance(2.0)
    assert claiming.claims.pending(OTHER) == 1
    assert claiming.names() == "b c"
    assert claiming.claims.next_due_s() == 0.0
    claiming.clock.advance(2.0)
    assert (claiming.names(), claiming.names(url=OTHER)) == ("a", "x")


def test_an_own_segment_is_read_while_it_is_written(claiming: Claiming) -> None:
    """It ends when it is sealed; what is damaged in it is told, and what cannot be read just now stays."""
    writer = claiming.own("a", "b", sealed=False)
    assert (claiming.claims.unread(), claiming.claims.pending(URL), claiming.claims.backlog()) == (2, 2, True)
    assert claiming.names(1) == "a"
    assert (claiming.claims.unread(), claiming.claims.pending(URL)) == (1, 1)
    assert claiming.names() == "b"
    for name in (b"c", b"d"):
        claiming.append(writer, name.ljust(10))
    assert writer.map is not None
    at = writer.end - 64 + fmt.FRAME_HEAD_BYTES
    writer.map[at : at + 1] = b"C"
    assert claiming.names() == "d"
    assert claiming.damage == [1]
    [cursor] = claiming.claims.open
    assert (cursor.leased, cursor.ended) == (3, False)
    claiming.append(writer, b"e".ljust(10))
    [cursor] = claiming.claims.lanes[URL].cursors
    writer.seal(claiming.disk)

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    claiming.disk.hooks["read"] = fails
    assert claiming.names() == ""
    assert claiming.troubles() == [writer.path]
    assert claiming.claims.unread() == 1
    claiming.disk.hooks.clear()
    assert claiming.names() == "e"
    assert (cursor.leased, cursor.ended, claiming.claims.lanes[URL].cursors) == (4, True, [])


def test_no_more_segments_are_open_than_a_process_can_have(
    claiming: Claiming, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Own ones wait for their turn."""
    assert claims_module._CURSORS_MAX == 512
    monkeypatch.setattr(claims_module, "_CURSORS_MAX", 2)
    claiming.own("a", "b")
    claiming.adopted(lives=True)
    second = claiming.adopted(lives=True)
    assert claiming.names() == ""
    assert (claiming.claims.unread(), claiming.claims.pending(URL)) == (2, 2)
    claiming.claims.lanes[URL].cursors.remove(second)
    assert claiming.names(1) == "a"


def test_an_own_segment_whose_name_is_gone_is_read_as_long_as_it_is_open(claiming: Claiming) -> None:
    """After that its events are lost, with their reason, and the next segment is read."""
    lost, writer = claiming.own("l", "m"), claiming.own("a", sealed=False)
    for path in (lost.path, writer.path):
        os.unlink(path)
    assert writer.map is not None
    claiming.append(writer, b"b".ljust(10))
    at = writer.end - 32 + fmt.FRAME_HEAD_BYTES
    writer.map[at : at + 1] = b"B"
    claiming.append(writer, b"c".ljust(10))
    assert claiming.names() == "a c"
    assert (claiming.damage, claiming.troubles()) == ([1], [lost.path])
    assert claiming.count() == {"in_flight": 2, "dropped": {"vanished": 2}}
    claiming.append(writer, b"d".ljust(10))
    assert claiming.names() == "d"
    claiming.claims.close()
    assert claiming.disk._descriptors == {writer.fd}


def test_an_own_segment_that_cannot_be_opened_is_tried_again(claiming: Claiming) -> None:
    """With a name and without one; no descriptor stays meanwhile."""
    writer = claiming.own("a", sealed=False)
    assert writer.map is not None
    for gone in (False, True):
        if gone:
            os.unlink(writer.path)
        writer.map[0:1] = b"e"  # no magic
        for _ in range(2):
            assert claiming.names() == ""
            assert (claiming.troubles(), claiming.disk._descriptors) == ([writer.path], {writer.fd})
        assert (claiming.claims.unread(), claiming.claims.open) == (1, set())
        writer.map[0:1] = b"E"
    assert claiming.names() == "a"


def test_equal_envelopes_are_one_object(claiming: Claiming, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last thousands."""
    assert claims_module._ENVELOPES_MAX == 4096
    monkeypatch.setattr(claims_module, "_ENVELOPES_MAX", 2)
    first, second, third = (ENVELOPE._replace(verb=verb) for verb in ("A", "B", "C"))
    assert claiming.claims.intern(first) is first
    assert claiming.claims.intern(second) is second
    assert claiming.claims.intern(first._replace()) == first  # forgotten at the third look
    assert len(claiming.claims._envelopes) == 1
    assert claiming.claims.intern(third) is third
    monkeypatch.undo()
    assert claiming.claims.intern(third._replace(verb="C")) is third
