"""Which leases travel together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventpost.event import Envelope, Event
from eventpost.queues.protocol import Lease
from eventpost.sender.batch import Batch, Former, body_size

A = Envelope("http://a/", shared=True, prefix=b"[", suffix=b"]")
B = Envelope("http://a/", shared=True, prefix=b'{"b":[', suffix=b"]}")
SOLO = Envelope("http://a/")


def lease(envelope: Envelope, payload: bytes) -> Lease:
    """Return a lease of such an event."""
    return Lease(Event(envelope, payload), None, 0.0)


def leases(envelope: Envelope, *payloads: bytes) -> list[Lease]:
    """Return leases of such events."""
    return [lease(envelope, payload) for payload in payloads]


def bodies(former: Former) -> list[bytes]:
    """Return what is ready, as bodies."""
    return [batch.body() for batch in former.ready]


def test_a_full_batch_is_ready_at_once() -> None:
    """Full by number of events."""
    former = Former(2, 1000)
    former.add(leases(A, b"1", b"2", b"3"), 0.0)
    assert bodies(former) == [b"[1,2]"]
    assert (former.missing, former.forming_since) == (1, 0.0)


def test_a_batch_is_full_by_bytes_of_its_body() -> None:
    """Prefix, suffix and commas count; the event that did not fit begins the next."""
    former = Former(100, len(b"[11,22]"))
    former.add(leases(A, b"11", b"22", b"3"), 0.0)
    assert bodies(former) == [b"[11,22]"]
    former.finish(0.0, 0.0)
    assert bodies(former) == [b"[11,22]", b"[3]"]


def test_what_shares_with_nobody_goes_alone_and_at_once() -> None:
    """A LogEvent never lingers, and breaks nobody's batch."""
    former = Former(100, 1000)
    former.add([*leases(A, b"1"), *leases(SOLO, b"{}", b"{}"), *leases(A, b"2")], 0.0)
    assert bodies(former) == [b"{}", b"{}"]
    former.finish(0.0, 0.0)
    assert bodies(former)[2:] == [b"[1,2]"]


def test_different_envelopes_do_not_mix() -> None:
    """Each keeps its own order."""
    former = Former(100, 1000)
    former.add([*leases(A, b"1"), *leases(B, b"2"), *leases(A, b"3"), *leases(B, b"4")], 0.0)
    former.finish(0.0, 0.0)
    assert bodies(former) == [b"[1,3]", b'{"b":[2,4]}']


def test_linger_counts_from_the_first_claim() -> None:
    """What has waited that long is ready; what was begun later waits on."""
    former = Former(100, 1000)
    former.add(leases(A, b"1"), 1.0)
    former.add([*leases(A, b"2"), *leases(B, b"3")], 2.0)
    former.finish(1.9, 1.0)
    assert not former.ready
    former.finish(2.0, 1.0)
    assert bodies(former) == [b"[1,2]"]
    assert former.forming_since == 2.0


def test_an_event_larger_than_a_batch_goes_alone() -> None:
    """It is the endpoint's to refuse it."""
    former = Former(100, 10)
    former.add(leases(A, b"1", b"x" * 50, b"2"), 0.0)
    former.finish(0.0, 0.0)
    assert bodies(former) == [b"[1]", b"[" + b"x" * 50 + b"]", b"[2]"]


@pytest.mark.parametrize(
    ("sizes", "first"),
    [([10, 10, 10, 10], 2), ([1, 1, 1, 97], 3), ([97, 1, 1, 1], 1), ([50, 25, 25], 1), ([0, 0], 1), ([3, 4, 7, 14], 3)],
)
def test_halves_by_bytes_part_where_half_the_bytes_are(sizes: list[int], first: int) -> None:
    """The first half takes what fits into half the bytes, one event at least, and leaves one."""
    items = [lease(A, b"x" * size) for size in sizes]
    some, rest = Batch(A, items, body_size(A, items), 0.0, 1).halves_by_bytes()
    assert (some.leases, rest.leases) == (items[:first], items[first:])


def test_halves_keep_what_is_known_of_the_whole() -> None:
    """When it was begun, where it stands in line, and that it went out before: a flush and an observer ask for it."""
    items = leases(A, b"1", b"2", b"3")
    batch = Batch(A, items, body_size(A, items), 7.5, 42)
    assert (batch.started, batch.probe) == (False, False)
    for started in (False, True):
        batch.started = started
        for half in batch.halves():
            assert (half.since, half.serial, half.started, half.probe) == (7.5, 42, started, False)
    assert [len(half.leases) for half in batch.halves()] == [1, 2]


def test_what_stands_around_a_body_counts_where_events_share_it() -> None:
    """An envelope that is not shared has no use for a prefix, and its size is the payload's."""
    odd = SOLO._replace(prefix=b"[", suffix=b"]")
    former = Former(10, 1000)
    former.add(leases(odd, b"{}"), 0.0)
    former.add_alone(lease(odd, b"{}"))
    former.add_alone(lease(A, b"1"))
    assert [(batch.size, len(batch.body())) for batch in former.ready] == [(2, 2), (2, 2), (3, 3)]


def test_clearing_gives_everything_back_in_order_of_claiming() -> None:
    """Ready or lingering, alone or not: what was claimed first comes first; then nothing is left."""
    former = Former(2, 1000)
    former.add(leases(A, b"1"), 1.0)
    former.add_alone(lease(A, b"2"))
    former.add(leases(B, b"3"), 2.0)
    former.add_alone(lease(B, b"4"))
    former.add_alone(lease(B, b"5"))
    former.add(leases(SOLO, b"6"), 3.0)
    former.add(leases(A, b"7", b"8"), 4.0)
    serials = [batch.serial for batch in former.held()]
    assert len(set(serials)) == len(serials) == 7
    assert [one.event.payload for one in former.clear()] == [b"1", b"7", b"2", b"3", b"4", b"5", b"6", b"8"]
    assert (former.held(), former.forming_since, former.missing) == ([], None, 0)
    assert former.clear() == []


@given(st.lists(st.integers(0, 60), min_size=2, max_size=40))
def test_halves_by_bytes_are_balanced_and_never_empty(sizes: list[int]) -> None:
    """Order and every event are kept; neither part exceeds half by more than one event."""
    items = [lease(A, b"x" * size) for size in sizes]
    batch = Batch(A, items, body_size(A, items), 0.0, 1)
    first, rest = batch.halves_by_bytes()
    assert first.leases
    assert rest.leases
    assert first.leases + rest.leases == items
    payloads = sum(sizes)
    assert sum(len(item.event.payload) for item in first.leases) <= payloads / 2 + max(sizes)
    assert (first.size, rest.size) == (len(first.body()), len(rest.body()))


KINDS = st.tuples(st.sampled_from([A, B, SOLO]), st.binary(max_size=30))


@given(st.lists(st.lists(KINDS, max_size=12), max_size=6), st.integers(1, 5), st.integers(1, 80))
def test_nothing_is_lost_doubled_or_reordered(
    rounds: list[list[tuple[Envelope, bytes]]], events_max: int, bytes_max: int
) -> None:
    """Every lease is in one batch, in order of its envelope; sizes are the bodies' and within the limits."""
    former, given_in = Former(events_max, bytes_max), []
    for now, items in enumerate(rounds):
        made = [lease(envelope, payload) for envelope, payload in items]
        given_in += made
        former.add(made, float(now))
        assert sum(len(batch.leases) for batch in former.held()) == len(given_in)
        if former.forming_since is not None:
            assert 1 <= former.missing < events_max
    former.finish(float("inf"), 0.0)
    batches = list(former.ready)
    for envelope in (A, B, SOLO):
        out = [item for batch in batches if batch.envelope == envelope for item in batch.leases]
        assert out == [item for item in given_in if item.event.envelope == envelope]
    for batch in batches:
        assert batch.size == len(batch.body())
        assert len(batch.leases) <= (events_max if batch.envelope.shared else 1)
        assert batch.size <= bytes_max or len(batch.leases) == 1
