"""What comes of a lease on a journal's events, and of a segment whose events are all settled; the count of all that."""

import os
from pathlib import Path

import pytest
from tests.support import URL
from tests.unit.test_journal_claims import OTHER, Claiming, names, settled

from eventpost.queues.journal.format import Outcome


@pytest.fixture
def claiming(tmp_path: Path) -> Claiming:
    """Give a folder's claims."""
    return Claiming(tmp_path)


# -- what comes of a lease


def test_an_answer_settles_what_it_is_about(claiming: Claiming) -> None:
    """Leases of several segments at once; each once, however often it is told."""
    claiming.own("a", "b", "c", "d")
    claiming.own("e", "f", "g")
    leases = claiming.claim()
    first, second = leases[0].cursor, leases[4].cursor
    some = [leases[0], leases[2], leases[5], leases[3]]
    for _ in range(2):
        claiming.claims.ack(some)
        assert claiming.count() == {"delivered": 4, "in_flight": 3}
        assert (settled(first), settled(second), first.leased, second.leased) == ([0, 2, 3], [1], 1, 2)
        assert first.outcomes() == {Outcome.DELIVERED: 3}
        assert claiming.claims.done == []
    claiming.claims.ack([leases[1]])
    assert claiming.claims.done == [first]
    claiming.claims.ack([])
    claiming.claims.ack(leases)
    assert claiming.count() == {"delivered": 7}
    assert claiming.claims.done == [first, second]
    assert not claiming.claims.backlog()


def test_an_answer_that_cannot_be_noted_is_taken_again(claiming: Claiming) -> None:
    """Nothing was settled then."""
    claiming.own("a", "b", "c")
    leases = claiming.claim()

    class Full:
        def __getitem__(self, key: slice) -> bytes:
            return bytes(key.stop - key.start)

        def __setitem__(self, key: slice, value: bytes) -> None:
            raise OSError(28, "No space left on device")

    cursor = leases[0].cursor
    mapped, cursor.map = cursor.map, Full()  # type: ignore[assignment]  # a disk that takes no more stores
    with pytest.raises(OSError, match="No space left"):
        claiming.claims.ack(leases[:2])
    assert (claiming.count(), cursor.leased, [lease.live for lease in leases]) == ({"in_flight": 3}, 3, [True] * 3)
    cursor.map = mapped
    claiming.claims.ack(leases[:2])
    assert (claiming.count(), settled(cursor)) == ({"delivered": 2, "in_flight": 1}, [0, 1])


def test_what_is_given_back_waits_and_keeps_its_attempts(claiming: Claiming) -> None:
    """Once, however often it is given back; it is no reason to fold its segment."""
    claiming.own("a", "b", "c", "d")
    leases = claiming.claim()
    cursor = leases[0].cursor
    for attempts in (2, 3, 4):
        claiming.claims.release([leases[0], leases[0], leases[1], leases[3]], 0.0)
        assert claiming.count() == {"in_flight": 1, "waiting": 3}
        assert (cursor.leased, cursor.waiting, claiming.claims.backlog(), cursor.is_done) == (1, 3, True, False)
        leases = [*(again := claiming.claim())[:2], leases[2], *again[2:]]
        assert names(leases) == ["a", "b", "c", "d"]
        assert [lease.attempts for lease in again] == [attempts] * 3
        assert claiming.count() == {"in_flight": 4}
        assert (cursor.leased, cursor.waiting) == (4, 0)
    claiming.claims.ack(leases)
    assert claiming.claims.done == [cursor]


def test_a_late_answer_settles_what_waits(claiming: Claiming) -> None:
    """The event is delivered, once; when its time comes it is passed over, and what follows is handed out."""
    claiming.own("a", "b", "c", "d", "e")
    claiming.claims.ack(claiming.claim(1))
    leases = claiming.claim()
    cursor = leases[0].cursor
    claiming.claims.release(leases, 1.0)
    for _ in range(2):
        claiming.claims.ack([leases[0]])
        assert claiming.count() == {"delivered": 2, "waiting": 3}
        assert (settled(cursor), cursor.waiting, cursor.leased) == ([0, 1], 3, 0)
        assert cursor.outcomes() == {Outcome.DELIVERED: 2}
    claiming.clock.advance(1.0)
    assert claiming.names() == "c d e"
    assert claiming.count() == {"delivered": 2, "in_flight": 3}


def test_a_late_answer_settles_what_another_lease_holds(claiming: Claiming) -> None:
    """That lease is over then; its answer is no second one."""
    claiming.own("a", "b", "c", "d")
    first = claiming.claim()
    cursor = first[0].cursor
    claiming.claims.release(first, 0.0)
    second = claiming.claim()
    claiming.claims.ack([first[0]])
    assert claiming.count() == {"delivered": 1, "in_flight": 3}
    assert (cursor.leased, cursor.waiting, [lease.live for lease in second]) == (3, 0, [False, True, True, True])
    claiming.claims.ack(second[:1])
    claiming.claims.release(second[:1], 0.0)
    assert claiming.count() == {"delivered": 1, "in_flight": 3}
    claiming.claims.ack([second[1], first[1], second[1], first[2], first[2]])  # both of one event, in one answer
    assert claiming.count() == {"delivered": 3, "in_flight": 1}
    assert claiming.claims.done == []
    claiming.claims.ack([first[3]])
    assert (claiming.count(), claiming.claims.done, settled(cursor)) == ({"delivered": 4}, [cursor], [0, 1, 2, 3])


def test_a_late_answer_for_what_waits_may_be_the_last(claiming: Claiming) -> None:
    """Then the segment can be folded."""
    claiming.own("a")
    leases = claiming.claim()
    claiming.claims.release(leases, 9.0)
    claiming.claims.ack(leases)
    assert claiming.claims.done == [leases[0].cursor]
    assert not claiming.claims.backlog()


def test_letters_settle_their_events(claiming: Claiming) -> None:
    """As dead; the last of them lets the segment be folded."""
    claiming.own("a", "b", "c")
    leases = claiming.claim()
    cursor = leases[0].cursor
    claiming.claims.settle_dead(leases[:2])
    assert claiming.count() == {"dead": 2, "in_flight": 1}
    assert (cursor.outcomes(), cursor.leased, claiming.claims.done) == ({Outcome.DEAD: 2}, 1, [])
    claiming.claims.ack(leases[:2])
    claiming.claims.settle_dead(leases[2:])
    assert (claiming.count(), claiming.claims.done, settled(cursor)) == ({"dead": 3}, [cursor], [0, 1, 2])


# -- what becomes of a segment


def test_what_is_settled_is_folded(claiming: Claiming) -> None:
    """Into the totals, and its file goes; a dead letter that was put back was counted before."""
    claiming.own("a", "b", "c")
    claiming.own("d", "e")
    claiming.adopted("f", retry=True)
    leases = claiming.claim()
    claiming.claims.settle_dead(leases[:1])
    claiming.claims.ack(leases)
    cursors = {lease.cursor for lease in leases}
    for cursor in cursors:
        claiming.claims.retire_if_done(cursor)  # is told twice, and is folded once
    assert len(claiming.claims.done) == 3
    claiming.claims.fold_done()
    assert claiming.count() == {"adopted": 1, "delivered": 5, "dead": 1, "folds": 3}
    assert (claiming.claims.done, claiming.claims.open, claiming.disk._descriptors) == ([], set(), set())
    assert os.listdir(claiming.folder.segments) == []
    totals = claiming.totals()
    assert (totals["accepted"], totals["delivered"], totals["dropped"]) == (5, 5, {})
    for cursor in cursors:
        claiming.claims.retire_if_done(cursor)
    assert claiming.claims.done == []


def test_what_was_settled_before_its_segment_ended_is_folded_when_it_has(claiming: Claiming) -> None:
    """The next claim finds that nothing follows."""
    writer = claiming.own("a", sealed=False)
    claiming.claims.ack(claiming.claim())
    assert claiming.claims.done == []
    writer.seal(claiming.disk)
    assert claiming.names() == ""
    claiming.claims.fold_done()
    assert claiming.count() == {"delivered": 1, "folds": 1}


def test_a_living_writers_segment_is_its_own_to_fold(claiming: Claiming) -> None:
    """It is let go and remembered; the others are folded all the same."""
    claiming.own("b")
    cursor = claiming.adopted("a", lives=True)
    cursor.header = cursor.header._replace(sealed_events=1)
    cursor.end = os.path.getsize(cursor.path)
    leases = claiming.claim()
    assert names(leases) == ["a", "b"]
    claiming.claims.ack(leases)
    claiming.claims.fold_done()
    assert claiming.claims.finished == {cursor.name}
    assert os.listdir(claiming.folder.segments) == [cursor.name]
    assert claiming.count() == {"adopted": 1, "delivered": 2, "folds": 1}
    assert (claiming.claims.open, claiming.claims.done, cursor.fd) == (set(), [], -1)


def test_what_cannot_be_folded_now_stays_for_the_next_time(claiming: Claiming) -> None:
    """While somebody else is at the totals nothing is said; where the disk refuses, each of them is named."""
    paths = [claiming.own("a").path, claiming.own("b").path]
    claiming.claims.ack(claiming.claim())
    with claiming.folder.notes_lock() as locked:
        assert locked
        claiming.claims.fold_done()
    assert (claiming.count(), len(claiming.claims.done), claiming.troubles()) == ({"delivered": 2}, 2, [])

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    claiming.disk.hooks["create"] = fails
    claiming.claims.fold_done()
    assert (len(claiming.claims.done), len(claiming.claims.open), claiming.troubles()) == (2, 2, paths)
    claiming.disk.hooks.clear()
    claiming.claims.fold_done()
    assert claiming.count() == {"delivered": 2, "folds": 2}


def test_a_segment_that_was_settled_as_a_whole_is_folded(claiming: Claiming) -> None:
    """At once, or when it can be had."""
    for taken in (False, True):
        cursor = claiming.adopted("a", "b")
        claiming.claims.lanes.clear()
        claiming.claims.open.clear()
        cursor.mark(range(2), Outcome.OVERFLOW)
        cursor.ordinal = 2
        with claiming.folder.notes_lock() as locked:
            assert locked
            if taken:
                claiming.claims.discard(cursor)
                assert (claiming.claims.open, claiming.claims.done) == ({cursor}, [cursor])
        if taken:
            claiming.claims.fold_done()
        else:
            claiming.claims.discard(cursor)
        assert claiming.claims.folds == 1 + taken
    assert claiming.totals()["dropped"] == {"overflow": 4}


def test_a_closed_side_hands_out_nothing(claiming: Claiming) -> None:
    """All descriptors go; what it had handed out, others may send as well, so an answer is nobody's any more."""
    claiming.own("a", "b")
    claiming.own("c", "d")
    claiming.adopted("e", lives=True)
    claiming.claims.purged.add(claiming.claims.lanes[URL].cursors[0], [0])
    leases = claiming.claim(3)
    claiming.claims.close()
    assert claiming.claims.closed is True
    assert (claiming.claims.open, claiming.disk._descriptors & {lease.cursor.fd for lease in leases}) == (set(), set())
    assert not claiming.claims.purged
    assert claiming.claim() == []


# -- the count


def test_what_is_unread_is_queued(claiming: Claiming) -> None:
    """Of the own segments; of what was adopted only what is handed out is known to be here, but a look finds more."""
    claiming.own("a", "b", "c", sealed=False)
    claiming.own("d", "e")
    claiming.own("f", url=OTHER)
    assert (claiming.claims.unread(), claiming.claims.pending(URL), claiming.claims.pending(OTHER)) == (6, 5, 1)
    cursor = claiming.adopted("x", "y", "z")
    assert (claiming.claims.unread(), claiming.claims.pending(URL)) == (6, 8)
    assert claiming.names(1) == "x"
    assert (claiming.claims.unread(), claiming.claims.pending(URL)) == (6, 7)
    assert claiming.names(4) == "y z a b"
    assert (claiming.claims.unread(), claiming.claims.pending(URL)) == (4, 3)
    claiming.adopted("p", "q", lives=True)
    assert (claiming.claims.unread(), claiming.claims.pending(URL)) == (4, 4)  # that there is more, not how much
    assert cursor.is_done is False
    assert claiming.names() == "c p q d e"
    assert (claiming.claims.unread(), claiming.claims.pending(URL), claiming.claims.pending(OTHER)) == (1, 0, 1)


def test_anything_that_is_not_settled_is_a_backlog(claiming: Claiming) -> None:
    """One event, wherever it is; what others write is not."""
    writer = claiming.own("a", sealed=False)
    assert claiming.claims.backlog()
    [lease] = claiming.claim()
    assert claiming.claims.backlog()
    claiming.claims.release([lease], 1.0)
    assert claiming.claims.backlog()
    claiming.claims.ack([lease])
    assert not claiming.claims.backlog()
    claiming.append(writer, b"b")
    assert claiming.claims.backlog()
    claiming.claims.ack(claiming.claim())
    claiming.adopted("x", lives=True)
    assert not claiming.claims.backlog()


def test_who_only_stores_is_followed_until_it_ends(claiming: Claiming) -> None:
    """Nobody else sends what it will append; who sends itself needs no one."""
    claiming.own("a", sealed=False)
    claiming.names()
    claiming.adopted("b", lives=True)
    claiming.adopted("c", sender=False)
    assert not claiming.claims.follows()
    claiming.adopted("d", sender=False, lives=True)
    assert claiming.claims.follows()


def test_a_cursor_that_has_read_all_sees_the_seal(claiming: Claiming) -> None:
    """And can be folded when it is settled."""
    writer = claiming.own("a", sealed=False)
    leases = claiming.claim()
    claiming.claims.ack(leases)
    lane, cursor = claiming.claims.lanes[URL], leases[0].cursor
    claiming.claims.read_to_end(lane, cursor)
    assert (lane.cursors, claiming.claims.done) == ([cursor], [])
    writer.seal(claiming.disk)
    claiming.claims.read_to_end(lane, cursor)
    assert (lane.cursors, claiming.claims.done) == ([], [cursor])


def test_what_a_put_takes_back_is_passed_over(claiming: Claiming) -> None:
    """But for what is in hand already; nobody counts it as queued."""
    writer = claiming.own("a", "b", "c", "d", sealed=False)
    unopened = claiming.own("e", "f", "g", sealed=False)
    assert claiming.claims.count_passed() == (0, 0)
    first = claiming.claim(2)
    claiming.claims.void(writer, [0, 1, 2])
    assert claiming.claims.count_passed() == (1, 1)
    claiming.claims.void(unopened, [0, 1])
    assert claiming.claims.count_passed() == (3, 3)
    claiming.claims.lose("purged", claiming.claims.purged.add(unopened, [2]))
    claiming.claims.purged.add(writer, [3])
    assert claiming.claims.count_passed() == (3, 5)
    assert names(first) == ["a", "b"]
    assert claiming.names(1) == ""
    writer.seal(claiming.disk)
    assert claiming.names() == ""
    assert claiming.claims.count_passed() == (3, 0)
    assert claiming.count()["in_flight"] == 2
    assert settled(first[0].cursor) == [2, 3]


def test_only_what_was_purged_is_passed_over_too(claiming: Claiming) -> None:
    """Nothing is void then."""
    writer = claiming.own("a", "b", sealed=False)
    claiming.claims.purged.add(writer, [0])
    assert claiming.claims.count_passed() == (0, 1)


def test_a_file_that_somebody_removed_is_a_loss(claiming: Claiming) -> None:
    """Of those of its events that are not counted otherwise."""
    writer = claiming.own(*"abcdefghij", sealed=False)
    claiming.claims.void(writer, [0, 1, 2])
    claiming.claims.lose("purged", claiming.claims.purged.add(writer, [3, 4]))
    claiming.claims.vanished(writer, 1)
    assert claiming.count() == {"dropped": {"purged": 2, "vanished": 4}}
    assert claiming.troubles() == [writer.path]
    assert claiming.claims.purged.forget(writer.name) == 0
    claiming.claims.vanished(claiming.own("a", "b"))
    claiming.claims.vanished(claiming.own("c"), 1)
    assert claiming.count() == {"dropped": {"purged": 2, "vanished": 6}}
    claiming.claims.lose("overflow", 0)
    assert claiming.count() == {"dropped": {"purged": 2, "vanished": 6}}


def test_what_others_settled_is_taken_over(claiming: Claiming) -> None:
    """Each as what it became; what was purged here was counted when it was."""
    writer = claiming.own("a", "b", "c", sealed=False)
    claiming.claims.lose("purged", claiming.claims.purged.add(writer, [0, 2]))
    outcomes = {
        Outcome.DELIVERED: 3, Outcome.DEAD: 4, Outcome.OVERFLOW: 5, Outcome.DAMAGED: 6, Outcome.DISCARDED: 7,
        Outcome.EXPIRED: 8, Outcome.PURGED: 9, Outcome.VOID: 10, Outcome.RETRIED: 11,
    }  # fmt: skip
    losses = {"overflow": 5, "damaged": 6, "dead_discarded": 7, "dead_expired": 8, "purged": 9}
    claiming.claims.absorb(writer.name, outcomes)
    assert claiming.count() == {"delivered": 3, "dead": 4, "dropped": losses}
    claiming.claims.absorb(writer.name, outcomes)
    assert claiming.count() == {"delivered": 6, "dead": 8, "dropped": {name: 2 * n for name, n in losses.items()}}
    claiming.claims.absorb(writer.name, {})
    assert claiming.count() == {"delivered": 6, "dead": 8, "dropped": {name: 2 * n for name, n in losses.items()}}
