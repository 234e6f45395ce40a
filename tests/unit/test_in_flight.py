"""How much may be in flight over all endpoints, and what is kept free for each."""

import pytest

from eventpost.event import Envelope, Event
from eventpost.queues.protocol import Lease
from eventpost.sender.batch import Batch
from eventpost.sender.in_flight import InFlight
from eventpost.sender.lane import Lane, Limits
from eventpost.sender.retry import RetryPolicy

MANY = 10_000
"""What the breaker of a lane allows here, that the shared ceilings show."""


class Sending:
    """Lanes of one sender."""

    def __init__(self, *, lanes: int = 1, in_flight_max: int = 80, in_flight_bytes_max: int = 1000) -> None:
        self.limits = Limits(in_flight_max=in_flight_max, in_flight_bytes_max=in_flight_bytes_max)
        self.in_flight = InFlight(self.limits)
        self.lanes = [self.meet() for _ in range(lanes)]

    def meet(self) -> Lane:
        """Return one more endpoint's lane."""
        lane = Lane("http://127.0.0.1:1/", RetryPolicy(), self.limits)
        lane.breaker.limit = MANY
        self.in_flight.meet()
        return lane

    def room(self, lane: Lane) -> int:
        """Return how many more requests may begin for it."""
        return self.in_flight.room(lane, 0.0)

    def fill(self, lane: Lane, *, size: int = 1) -> list[Batch]:
        """Begin as many requests as may begin."""
        batches = []
        while self.room(lane) > 0:
            lease = Lease(Event(Envelope(lane.url), b"x" * size), None, 0.0)
            batches.append(Batch(Envelope(lane.url), [lease], size, 0.0, len(batches)))
            self.in_flight.add(lane, batches[-1])
        return batches


@pytest.mark.parametrize(("in_flight_max", "kept"), [(80, 4), (32, 4), (31, 3), (8, 1), (7, 0)])
def test_a_few_requests_are_kept_free_for_an_endpoint_that_is_not_known_yet(in_flight_max: int, kept: int) -> None:
    """Four, or an eighth of all where that is less; the one that is known may have all the others."""
    sending = Sending(in_flight_max=in_flight_max, in_flight_bytes_max=MANY)
    assert sending.room(sending.lanes[0]) == in_flight_max - kept
    assert len(sending.fill(sending.lanes[0])) == in_flight_max - kept
    assert len(sending.fill(sending.meet())) == kept


def test_each_endpoint_that_has_less_than_its_own_keeps_the_rest_of_it() -> None:
    """Of three that are known, one has two of its four in flight: two are kept for it, four for each of two others."""
    sending = Sending(lanes=3)
    first, second, _ = sending.lanes
    for batch in sending.fill(first)[2:]:
        sending.in_flight.remove(first, batch)
    assert sending.room(second) == 80 - 2 - 2 - 4 - 4
    assert sending.room(first) == 80 - 2 - 4 - 4 - 4


def test_half_of_all_is_kept_free_at_most() -> None:
    """However many endpoints there are; each begins its own first ones as long as there is room at all."""
    sending = Sending(lanes=100, in_flight_max=16)
    first, second, third, *_ = sending.lanes
    assert len(sending.fill(first)) == 8
    for lane in (second, third):
        assert len(sending.fill(lane)) == 2
    assert sending.in_flight.requests == 12
    odd = Sending(lanes=100, in_flight_max=17)
    assert repr(odd.room(odd.lanes[0])) == "9"  # requests are whole


def test_ends_give_back_what_begins_took() -> None:
    """An end that comes twice counts once."""
    sending = Sending()
    (lane,) = sending.lanes
    before = sending.room(lane)
    batches = sending.fill(lane, size=3)
    assert (sending.in_flight.requests, sending.in_flight.bytes) == (before, 3 * before)
    assert [sending.in_flight.remove(lane, batch) for batch in batches] == [True] * before
    assert (sending.in_flight.requests, sending.in_flight.bytes) == (0, 0)
    assert not sending.in_flight.remove(lane, batches[0])
    assert (sending.in_flight.requests, sending.in_flight.bytes) == (0, 0)
    for _ in range(3):  # neither does anything add up over many rounds
        assert sending.room(lane) == before
        for batch in sending.fill(lane):
            sending.in_flight.remove(lane, batch)


def test_bytes_are_exceeded_by_one_request_and_by_an_endpoint_that_has_none_out() -> None:
    """What is reached is full, also exactly."""
    sending = Sending(lanes=2, in_flight_bytes_max=1000)
    first, second = sending.lanes
    assert len(sending.fill(first, size=500)) == 2
    assert len(sending.fill(second, size=700)) == 1
    assert sending.in_flight.bytes == 1700


def test_the_breaker_has_the_last_word() -> None:
    """An endpoint that is new begins four, and one that is left alone nothing."""
    sending = Sending()
    (lane,) = sending.lanes
    lane.breaker.limit = 4
    assert sending.room(lane) == 4
    lane.breaker.hold(0.0, "http_403", 0.0, probe=False)
    assert sending.room(lane) == 0
    assert sending.in_flight.room(lane, 1e9) == 1  # its probe is due
