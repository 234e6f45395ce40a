"""What becomes of leases on Redis Streams: exactly what the server is told of it, and what stays in hand."""

from __future__ import annotations

import time
from importlib.util import find_spec, module_from_spec

import pytest

from eventpost.errors import QueueUnavailable
from eventpost.queues.protocol import Answer
from eventpost.queues.streams import holding, settling
from eventpost.queues.streams.claims import Claims
from eventpost.queues.streams.entry import pack
from eventpost.queues.streams.held import LEASED, READY, SETTLED, WAITING
from eventpost.queues.streams.settling import Settling
from streams_parts import GONE, LANE, ME, Fault, Parts, an_entry, key_of
from support import ALL, URL, event


class Sender(Parts):
    """Who claims and settles."""

    def __init__(self, monkeypatch, *, dead_bytes_max=1000, dead_age_max_s=90.5, **options):
        super().__init__(monkeypatch, **options)
        self.claims = Claims(self.route, self.server, self.hand, self.holding, self.clock, emit=print)
        self.settling = Settling(
            self.server, self.hand, self.holding, self.clock, dead_bytes_max=dead_bytes_max,
            dead_age_max_s=dead_age_max_s,
        )  # fmt: skip

    def leases(self, *entries):
        """Lease all events of some entries."""
        for held in entries:
            self.take(held)
        return self.claims.claim(URL, 10**6, ALL)

    @property
    def counts(self):
        """What is in flight of the own and of others' events, and what became of the latter."""
        hand = self.hand
        return (
            hand.in_flight_own, hand.in_flight_adopted, hand.adopted_in_hand, hand.adopted_delivered, hand.adopted_dead
        )  # fmt: skip


@pytest.fixture
def sender(monkeypatch):
    """Make one with two parts."""
    return Sender(monkeypatch)


def settled(shard, *entries):
    """Return the call that says that events are delivered."""
    words = [word for number, writer, events, which in entries
             for word in (LANE, f"{number}-0", writer, events, 10 * number, which)]  # fmt: skip
    return (shard, [("settle", 1, key_of(shard), "d", *words)])


def test_what_is_delivered_is_told_in_one_round_trip_by_part_and_entry(sender):
    """All of an entry in one word, else which of its events; the rest of the entry stays in hand."""
    mine, theirs, far = an_entry(1, 3), an_entry(2, 4, own=False), an_entry(3, 1, shard=1)
    leases = sender.leases(mine, theirs, far)
    assert sender.counts == (4, 4, 4, 0, 0)
    sender.route.answers = [[[3, 2]], [[1]]]
    done = [*leases[:3], leases[3], leases[6], leases[3], leases[7]]
    sender.settling.ack(done)
    assert sender.route.asked == [
        [settled(0, (1, ME, 3, ""), (2, "other-2-11", 4, "1-1,4-4,")), settled(1, (3, ME, 1, ""))]
    ]
    assert sender.route.deadlines == [sender.time.now + 2.0]
    assert sender.counts == (0, 2, 2, 2, 0)
    assert [lease.live for lease in leases] == [False, False, False, False, True, True, False, False]
    assert list(sender.hand.held) == [theirs.ident]
    assert list(theirs.states) == [SETTLED, LEASED, LEASED, SETTLED]
    sender.settling.ack(done)
    assert len(sender.route.asked) == 1, "nobody is asked of what is known to be settled"


def test_events_that_somebody_else_settled_first_are_not_counted_again(sender):
    """The server says how many of an entry were not settled before."""
    leases = sender.leases(an_entry(1, 3, own=False))
    sender.route.answers = [[[1]]]
    sender.settling.ack(leases)
    assert sender.counts == (0, 0, 0, 1, 0)
    assert not sender.hand.held
    leases = sender.leases(an_entry(2, 2, own=False))
    sender.route.answers = [[[2]]]
    sender.settling.ack(leases)
    assert sender.counts == (0, 0, 0, 3, 0)


@pytest.mark.parametrize("failure", [GONE, [Fault("ERR it is gone")]])
def test_what_could_not_be_told_stays_leased_and_is_told_again(sender, failure):
    """One part's failure is not another's; the error names it."""
    near, far = an_entry(1, 1), an_entry(2, 1, shard=1)
    leases = sender.leases(near, far)
    sender.route.answers = [failure, [[1]]]
    with pytest.raises(QueueUnavailable, match="it is gone") as caught:
        sender.settling.ack(leases)
    assert caught.value.reason == "redis_unavailable"
    assert [lease.live for lease in leases] == [True, False]
    assert sender.counts == (1, 0, 0, 0, 0)
    sender.route.answers = [[[1]]]
    sender.settling.ack(leases)
    assert sender.route.last == [settled(0, (1, ME, 1, ""))]
    assert sender.counts == (0, 0, 0, 0, 0)


def test_no_script_call_is_for_more_than_so_many_entries(sender, monkeypatch):
    """The server does nothing else meanwhile; all of them go in one round trip all the same."""
    assert settling.AT_ONCE_MAX <= 1000
    monkeypatch.setattr(settling, "AT_ONCE_MAX", 3)
    leases = sender.leases(*[an_entry(number) for number in range(1, 8)], an_entry(9, shard=1))
    sender.route.answers = [[[1] * 3], [[1] * 3], [[1]], [[1]]]
    sender.settling.ack(leases)
    (asked,) = sender.route.asked
    assert asked == [
        settled(0, *[(number, ME, 1, "") for number in (1, 2, 3)]),
        settled(0, *[(number, ME, 1, "") for number in (4, 5, 6)]),
        settled(0, (7, ME, 1, "")), settled(1, (9, ME, 1, "")),
    ]  # fmt: skip
    assert not sender.hand.held


def test_that_something_is_delivered_is_told_though_its_lease_is_gone(sender):
    """An ack is a fact: of an entry that is lost, and of one that came back into hand meanwhile."""
    lost = an_entry(1, 2)
    leases = sender.leases(lost)
    sender.hand.lost(lost)
    sender.route.answers = [[[1]], [[1]]]
    sender.settling.ack(leases[1:])
    assert sender.route.last == [settled(0, (1, ME, 2, "2-2,"))]
    again = sender.take(an_entry(1, 2))
    sender.settling.ack(leases[:1])
    assert sender.route.last == [settled(0, (1, ME, 2, "1-1,"))]
    assert list(again.states) == [SETTLED, READY], "what is in hand now is what is settled"
    assert not sender.route.answers


def test_what_is_given_back_waits_for_its_time_and_counts_its_attempts(sender):
    """The server is told with the next look; who holds it by then is asked nothing now."""
    held = an_entry(1, 2)
    leases = sender.leases(held)
    leases[0].attempts = 7
    sender.settling.release(leases[:1], 5.0)
    assert not sender.route.asked
    assert (leases[0].live, list(held.states), sender.counts[0]) == (False, [WAITING, LEASED], 1)
    assert sender.claims.next_due_s() == 5.0
    assert held.due == sender.clock.monotonic() + 5.0
    assert list(sender.hand.to_tell.values()) == [held]
    sender.settling.release(leases[1:], 3.0)
    assert held.due == sender.clock.monotonic() + 5.0, "the entry is kept until the last of its events is due"
    assert sender.claims.next_due_s() == 3.0
    sender.clock.advance(3.0)
    again = sender.claims.claim(URL, 9, ALL)
    assert [(lease.event, lease.attempts) for lease in again] == [(held.events[1], 2)]
    sender.clock.advance(2.0)
    (last,) = sender.claims.claim(URL, 9, ALL)
    assert (last.event, last.attempts, last.claimed_at) == (held.events[0], 8, sender.clock.monotonic())
    sender.settling.release(leases, 0.0)
    assert last.live, "a lease that ended says nothing of the one that followed"
    assert sender.counts[0] == 2


def test_a_stale_lease_gives_nothing_back_and_those_beside_it_do(sender):
    """Also one that still calls itself live."""
    leases = sender.leases(an_entry(1, 2))
    sender.settling.release(leases[:1], 0.0)
    leases[0].live = True
    sender.claims.claim(URL, 1, ALL)
    sender.settling.release(leases, 9.0)
    assert leases[0].live
    assert sender.counts[0] == 1
    assert sender.claims.next_due_s() == 9.0


def buried(shard, reason, answer, *letters, bounds=("500", "90")):
    """Return the call that makes dead letters."""
    words = [word for number, writer, events, at, attempts in letters
             for word in (LANE, URL, f"{number}-0", writer, events, 10 * number, at, attempts,
                          pack([event(100 * number + at - 1)]))]  # fmt: skip
    return (shard, [("bury", 1, key_of(shard), ME, reason, *answer, *bounds, *words)])


def test_a_dead_letter_is_told_with_all_that_it_keeps(sender):
    """Reason, answer, attempts and the event itself; an excerpt of the answer, and both bounds."""
    mine, theirs, far = an_entry(1, 2), an_entry(2, 2, own=False), an_entry(3, 1, shard=1)
    leases = sender.leases(mine, theirs, far)
    leases[1].attempts = 4
    sender.route.answers = [[[1, 1]], [[1]]]
    sender.settling.bury([leases[1], leases[2], leases[4]], "rejected", Answer(400, "no" * 600))
    said = (400, "no" * 512)
    assert sender.route.asked == [
        [
            buried(0, "rejected", said, (1, ME, 2, 2, 4), (2, "other-2-11", 2, 1, 1)),
            buried(1, "rejected", said, (3, ME, 1, 1, 1)),
        ]
    ]
    assert sender.counts == (1, 1, 1, 0, 1)
    assert list(mine.states) == [LEASED, SETTLED]
    assert far.ident not in sender.hand.held
    assert [lease.live for lease in leases] == [True, False, False, True, False]


def test_what_is_somebody_elses_by_now_is_not_buried(sender):
    """Nothing of that entry is in flight here any more; the other is dead, and neither is asked for again."""
    gone, dead = an_entry(1, 3, own=False), an_entry(2, 1)
    leases = sender.leases(gone, dead)
    sender.route.answers = [[[0, 1]]]
    sender.settling.bury([leases[0], leases[3]], "expired", None)
    assert sender.route.last == [buried(0, "expired", (0, ""), (1, "other-2-11", 3, 1, 1), (2, ME, 1, 1, 1))]
    assert sender.counts == (0, 0, 0, 0, 0)
    assert gone.lost
    assert not sender.hand.held
    sender.settling.bury(leases, "expired", None)
    assert not sender.route.asked


def test_a_lease_that_was_followed_by_another_buries_nothing(sender):
    """Also one that still calls itself live, or one that does not."""
    held = an_entry(1, 2)
    leases = sender.leases(held)
    sender.settling.release(leases, 0.0)
    leases[0].live = True
    sender.claims.claim(URL, 9, ALL)[1].live = False
    sender.settling.bury([leases[0], held.leases[1]], "rejected", None)
    assert not sender.route.asked


@pytest.mark.parametrize("failure", [GONE, [Fault("ERR it is gone")]])
def test_a_dead_letter_that_could_not_be_told_stays_leased(sender, failure):
    """One part's failure is not another's; the error names it."""
    leases = sender.leases(an_entry(1), an_entry(2, shard=1))
    sender.route.answers = [failure, [[1]]]
    with pytest.raises(QueueUnavailable, match="it is gone") as caught:
        sender.settling.bury(leases, "rejected", None)
    assert caught.value.reason == "redis_unavailable"
    assert [lease.live for lease in leases] == [True, False]


@pytest.mark.parametrize(
    ("bytes_max", "age_max_s", "told"),
    [(None, None, ("", "")), (1, 0, ("1", "0")), (1001, 2.9, ("500", "2"))],
)
def test_each_part_bounds_its_share_of_the_dead_letters(monkeypatch, bytes_max, age_max_s, told):
    """None is no bound; a byte is the least, for nothing would be no bound."""
    sender = Sender(monkeypatch, dead_bytes_max=bytes_max, dead_age_max_s=age_max_s)
    assert sender.settling.dead_bounds() == told


# -- what is held


def fresh(name):
    """Load a module once more, beside the one that is in use."""
    spec = find_spec(f"eventpost.queues.streams.{name}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def held_call(shard, *rows):
    """Return the call that says of entries how idle they are."""
    return (shard, [("hold", 1, key_of(shard), ME, *[word for row in rows for word in row])])


def test_what_was_given_back_is_said_when_others_may_take_it(sender):
    """A whole lease idle at once, less for each second that it waits; what is in flight beside it keeps its entry."""
    now, soon, busy, far = an_entry(1), an_entry(2), an_entry(3, 2), an_entry(4, shard=1)
    leases = sender.leases(now, soon, busy, far)
    sender.settling.release(leases[:1], 0.0)
    sender.settling.release([leases[1], leases[4]], 20.5)
    sender.settling.release(leases[2:3], 70.0)
    sender.route.answers = [[[1, 1]], [[1]]]
    sender.holding.tell()
    assert sender.route.last == [held_call(0, (LANE, "1-0", 60_000), (LANE, "2-0", 39_500)),
                                 held_call(1, (LANE, "4-0", 39_500))]  # fmt: skip
    assert [one.told for one in (now, soon, busy, far)] == [True, True, False, True]
    sender.holding.tell()
    assert not sender.route.asked, "once"
    sender.settling.release(leases[3:4], 70.0)
    sender.route.answers = [[[1]]]
    sender.holding.tell()
    assert sender.route.last == [held_call(0, (LANE, "3-0", 0))], "others may not have it before its time: it is kept"
    assert not busy.told


@pytest.mark.parametrize("failure", [GONE, [Fault("ERR it is gone")]])
def test_what_could_not_be_said_is_said_with_the_next_look(sender, failure):
    """Until the server has answered; but it may have been told all the same, so the entry is asked about first."""
    leases = sender.leases(an_entry(1), an_entry(2, shard=1))
    sender.settling.release(leases, 0.0)
    sender.route.answers = [failure, [[1]]]
    sender.holding.tell()
    first = sender.route.last
    sender.route.answers = [[[1]], [[1]]]
    sender.holding.tell()
    assert sender.route.last == first
    assert not sender.hand.to_tell


def test_what_is_in_flight_or_waits_for_its_time_is_renewed(sender):
    """And is sure for half a lease from now; what could be handed out at once is left to whoever comes."""
    flies, waits, due, ready = an_entry(1), an_entry(2), an_entry(3), an_entry(4)
    leases = sender.leases(flies, waits, due)
    sender.take(ready)
    sender.settling.release(leases[1:2], 90.0)
    sender.settling.release(leases[2:], 0.0)
    sender.time.now += 100
    sender.route.answers = [[[1, 0]]]
    sender.holding.renew()
    assert sender.route.last == [held_call(0, (LANE, "1-0", 0), (LANE, "2-0", 0))]
    assert (flies.sure_until, flies.told, ready.sure_until) == (sender.time.now + 30.0, False, 5001.0)
    assert waits.lost, "it is somebody else's"
    assert waits.ident not in sender.hand.held
    assert sender.route.deadlines == [sender.time.now + 2.0]


def test_an_entry_that_is_told_to_be_taken_is_not_sure_when_it_is_confirmed(sender):
    """It is this process's just now, and may be somebody else's in a moment."""
    held = sender.take(an_entry(1))
    sender.route.answers = [[[1]], [[1]]]
    assert sender.holding.confirm([held], lambda _: 1)
    assert (held.told, held.sure_until) == (True, 5001.0)
    assert sender.holding.confirm([held])
    assert (held.told, held.sure_until) == (False, sender.time.now + 30.0)
    assert sender.holding.confirm([])
    assert len(sender.route.asked) == 2
    sender.route.answers = [GONE]
    assert not sender.holding.confirm([held])
    assert (held.told, held.sure_until) == (False, sender.time.now + 30.0), "that was no word to others"


def test_the_time_for_which_something_is_sure_goes_on_while_the_machine_sleeps(monkeypatch):
    """Where the system has such a clock."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        monkeypatch.setattr(time, "clock_gettime", lambda clock: ("time of", clock))
        assert fresh("holding").boot_s() == ("time of", time.CLOCK_BOOTTIME)
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert fresh("holding").boot_s is time.monotonic


def test_no_look_says_of_more_than_so_many_entries_in_a_call(sender, monkeypatch):
    """As with what is settled."""
    monkeypatch.setattr(holding, "AT_ONCE_MAX", 3)
    entries = [sender.take(an_entry(number)) for number in range(1, 8)]
    sender.route.answers = [[[1] * 3], [[1] * 3], [[1]]]
    assert sender.holding.confirm(entries)
    assert sender.route.last == [
        held_call(0, *[(LANE, f"{number}-0", 0) for number in numbers]) for numbers in ((1, 2, 3), (4, 5, 6), (7,))
    ]
    sender.time.now += 9
    sender.route.answers = [[[1] * 3], GONE, [[1]]]
    assert not sender.holding.confirm(entries), "one of three did not answer"
    assert [one.sure_until - sender.time.now for one in entries] == [30.0] * 3 + [21.0] * 3 + [30.0]
