"""When an endpoint is left alone, when it is tried, and how much may be in flight."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventpost.sender.breaker import START_LIMIT, Breaker, Change
from eventpost.sender.retry import RetryPolicy

POLICY = RetryPolicy(jitter=0.0)


def opened(reason: str = "connect") -> Breaker:
    """Return a breaker that has just opened, at 0."""
    breaker = Breaker(POLICY, 300)
    changes = [breaker.failed(0.0, reason, 0.0, probe=False) for _ in range(5)]
    assert changes == [None] * 4 + [Change("open", reason, 1.0)]
    return breaker


def test_it_opens_after_five_failures_in_a_row() -> None:
    """Nothing delivered in between; then nothing may start until the first probe, after a second."""
    breaker = opened()
    assert breaker.room(0.99, 0) == 0
    assert breaker.probe_due_at == 1.0
    assert breaker.room(1.0, 0) == 1


def test_a_delivery_in_between_keeps_it_closed() -> None:
    """Failures count in a row only."""
    breaker = Breaker(POLICY, 300)
    for _ in range(10):
        for _ in range(4):
            assert breaker.failed(0.0, "connect", 0.0, probe=False) is None
        breaker.delivered(0.0, backlog=False)
    assert not breaker.blocked


def test_a_refusal_proves_that_the_endpoint_works() -> None:
    """A 400 in between is an answer."""
    breaker = Breaker(POLICY, 300)
    for _ in range(10):
        breaker.failed(0.0, "reset", 0.0, probe=False)
        breaker.answered()
    assert not breaker.blocked


def test_probes_come_after_1_2_4_up_to_30_seconds() -> None:
    """One at a time, and each failure doubles the wait."""
    breaker, now, waits = opened(), 0.0, []
    for _ in range(8):
        at = breaker.probe_due_at
        assert at is not None
        waits.append(at - now)
        now = at
        assert breaker.start_probe() == Change("half_open", "connect", 0.0)
        assert breaker.room(now + 100, 0) == 0
        assert breaker.probe_due_at is None
        change = breaker.failed(now, "connect", 0.0, probe=True)
        assert change is not None
        assert change.state == "open"
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_after_a_recovery_it_ramps_up_from_one() -> None:
    """In flight 1, then double with each delivery, up to where a new endpoint starts."""
    breaker = opened()
    breaker.start_probe()
    assert breaker.delivered(0.0, backlog=True) == Change("closed", "recovered")
    limits = [breaker.room(2.0, 0)]
    for _ in range(3):
        breaker.delivered(0.0, backlog=True)
        limits.append(breaker.limit)
    assert limits == [1, 2, 4, 4]
    assert opened().room(1.0, 0) == 1


def test_a_recovery_forgets_the_failed_probes() -> None:
    """The next outage begins with a second again."""
    breaker = opened()
    for now in (1.0, 3.0):
        breaker.start_probe()
        breaker.failed(now, "connect", 0.0, probe=True)
    breaker.start_probe()
    breaker.delivered(0.0, backlog=False)
    for _ in range(4):
        breaker.failed(100.0, "connect", 0.0, probe=False)
    assert breaker.failed(100.0, "connect", 0.0, probe=False) == Change("open", "connect", 1.0)


def test_in_flight_starts_at_four_and_doubles_only_while_a_backlog_stands() -> None:
    """200 quiet workers open 800 connections at most, not 60,000."""
    breaker = Breaker(POLICY, 300)
    for _ in range(1000):
        breaker.delivered(0.0, backlog=False)
    assert breaker.limit == START_LIMIT == 4
    limits = set()
    for _ in range(1000):
        breaker.delivered(0.0, backlog=True)
        limits.add(breaker.limit)
    assert limits == {8, 16, 32, 64, 128, 256, 300}
    breaker.ran_dry()
    assert breaker.limit == 4


@pytest.mark.parametrize("limit_max", [1, 2, 3, 4, 7])
def test_the_ceiling_holds(limit_max: int) -> None:
    """Also where it lies below the start."""
    breaker = Breaker(POLICY, limit_max)
    for _ in range(100):
        breaker.delivered(0.0, backlog=True)
        assert breaker.limit <= limit_max
    breaker.ran_dry()
    assert 1 <= breaker.room(0.0, 0) <= limit_max


def test_retry_after_closes_the_tap_for_that_time() -> None:
    """One 429 or 503 with a Retry-After is enough."""
    breaker = Breaker(POLICY, 300)
    assert breaker.failed(10.0, "http_429", 0.0, probe=False, wait_s=120.0, throttled=True) == Change(
        "open", "http_429", 120.0
    )
    assert breaker.room(129.0, 0) == 0
    assert breaker.room(130.0, 0) == 1
    change = Breaker(POLICY, 300).failed(1234.5678, "http_429", 0.0, probe=False, wait_s=3600.4)
    assert change == Change("open", "http_429", 3600.4)  # what was asked for, to the last digit


def test_a_later_wish_for_more_time_is_respected() -> None:
    """Requests that were out when the tap closed may bring a longer Retry-After."""
    breaker = Breaker(POLICY, 300)
    breaker.failed(0.0, "http_429", 0.0, probe=False, wait_s=10.0)
    assert breaker.failed(1.0, "http_429", 0.0, probe=False, wait_s=60.0) is None
    assert breaker.probe_due_at == 61.0


@pytest.mark.parametrize("late", ["delivered", "held", "failed"])
def test_nothing_shortens_the_time_that_was_asked_for(late: str) -> None:
    """Not a 2xx, a 401 or a failure of a request that was out already."""
    breaker = Breaker(POLICY, 300)
    breaker.failed(0.0, "http_429", 0.0, probe=False, wait_s=120.0, throttled=True)
    if late == "delivered":
        assert breaker.delivered(1.0, backlog=True) is None
    elif late == "held":
        assert breaker.hold(1.0, "http_401", 0.0, probe=False) == Change("held", "http_401", 119.0)
    else:
        breaker.failed(1.0, "http_503", 0.0, probe=False, wait_s=2.0)
    assert breaker.blocked
    assert (breaker.room(119.9, 0), breaker.room(120.0, 0)) == (0, 1)
    breaker.start_probe()
    assert breaker.delivered(120.1, backlog=True, probe=True) == Change("closed", "recovered")


def test_a_wish_that_comes_while_a_probe_is_out_outlasts_the_probe() -> None:
    """Whatever the probe is answered; then there is another one."""
    for answer in ("delivered", "failed", "vanished"):
        breaker = opened()
        breaker.start_probe()
        breaker.failed(2.0, "http_429", 0.0, probe=False, wait_s=60.0)
        if answer == "delivered":
            assert breaker.delivered(3.0, backlog=True, probe=True) is None
        elif answer == "failed":
            breaker.failed(3.0, "http_503", 0.0, probe=True)
        else:
            breaker.probe_vanished()
        assert (breaker.state, breaker.probe_due_at) == ("open", 62.0)


def test_a_429_halves_what_is_in_flight() -> None:
    """Less is what it asks for."""
    breaker = Breaker(POLICY, 300)
    for _ in range(100):
        breaker.delivered(0.0, backlog=True)
    before = breaker.limit
    breaker.failed(0.0, "http_429", 0.0, probe=False, throttled=True)
    assert breaker.limit == before // 2


def test_a_misconfigured_endpoint_is_held_at_once_and_probed() -> None:
    """One 401 is enough; said once, not for each request that was out."""
    breaker = Breaker(POLICY, 300)
    assert breaker.hold(0.0, "http_401", 0.0, probe=False) == Change("held", "http_401", 1.0)
    assert breaker.hold(0.0, "http_401", 0.0, probe=False) is None
    assert breaker.room(0.5, 0) == 0
    assert breaker.start_probe() is None
    assert breaker.hold(1.0, "http_401", 0.0, probe=True) == Change("held", "http_401", 2.0)
    breaker.start_probe()
    assert breaker.delivered(0.0, backlog=False) == Change("closed", "recovered")


def test_late_failures_of_requests_from_before_change_nothing() -> None:
    """Only the probe's own failure doubles the wait."""
    breaker = opened()
    for _ in range(50):
        assert breaker.failed(0.5, "connect", 0.0, probe=False) is None
    assert breaker.probe_due_at == 1.0


def test_a_late_delivery_closes_it() -> None:
    """A 2xx is a 2xx."""
    breaker = opened()
    assert breaker.delivered(0.0, backlog=False) == Change("closed", "recovered")


def test_a_probe_that_vanishes_is_repeated() -> None:
    """A probe that was refused for its own sake, or never left, says nothing."""
    breaker = opened()
    breaker.start_probe()
    breaker.probe_vanished()
    assert breaker.state == "open"
    assert breaker.room(1.0, 0) == 1


def test_jitter_spreads_the_probes() -> None:
    """Two hundred workers do not come back at the same moment."""
    breaker = Breaker(RetryPolicy(jitter=0.5), 300)
    for _ in range(4):
        breaker.failed(0.0, "connect", 0.5, probe=False)
    change = breaker.failed(0.0, "connect", 0.5, probe=False)
    assert change is not None
    assert change.retry_in_s == pytest.approx(1.25)


@given(
    st.lists(st.sampled_from(["ok", "fail", "wait", "hold", "probe", "vanish", "dry", "time"]), max_size=80),
    st.integers(1, 300),
)
def test_any_history_leaves_a_breaker_that_can_recover(history: list[str], limit_max: int) -> None:
    """It never gets stuck: blocked, it has a probe under way or one due within bounds; closed, it has room."""
    breaker, now, probing = Breaker(RetryPolicy(), limit_max), 0.0, False
    for word in history:
        if word == "time":
            now += 7.0
        elif word == "probe" and breaker.blocked and breaker.room(now, 0):
            breaker.start_probe()
            probing = True
        elif word == "vanish" and probing:
            breaker.probe_vanished()
            probing = False
        elif word == "ok":
            breaker.delivered(now, backlog=True, probe=probing)
            probing = False
        elif word in {"fail", "wait"}:
            breaker.failed(now, "connect", 0.3, probe=probing, wait_s=100.0 if word == "wait" else 0.0)
            probing = False
        elif word == "hold":
            breaker.hold(now, "http_401", 0.3, probe=probing)
            probing = False
        elif word == "dry":
            breaker.ran_dry()
        assert 1 <= breaker.limit <= limit_max
        if breaker.blocked and not probing:
            assert breaker.probe_due_at is not None
            assert breaker.probe_due_at <= now + 3600
        elif not breaker.blocked:
            assert breaker.room(now, 0) >= 1


def test_a_new_endpoint_is_trusted() -> None:
    """It is closed, for no reason, has room, and nothing to wait for."""
    breaker = Breaker(POLICY, 300)
    assert (breaker.state, breaker.reason, breaker.probe_due_at, breaker.blocked) == ("closed", "", None, False)
    assert [breaker.room(0.0, in_flight) for in_flight in (0, 1, 4, 9)] == [4, 3, 0, 0]


def test_what_may_be_in_flight_doubles_after_as_many_deliveries() -> None:
    """Four, then eight, then sixteen; what came before a 429, or before the lane ran dry, does not count."""
    breaker = Breaker(POLICY, 300)

    def deliveries_until_doubled() -> int:
        before = breaker.limit
        for count in range(1, 1000):
            breaker.delivered(0.0, backlog=True)
            if breaker.limit != before:
                assert breaker.limit == 2 * before
                return count
        return 0

    assert [deliveries_until_doubled() for _ in range(3)] == [4, 8, 16]
    for _ in range(5):
        breaker.delivered(0.0, backlog=True)
    breaker.failed(0.0, "http_429", 0.0, probe=False, throttled=True)
    assert (breaker.limit, deliveries_until_doubled()) == (16, 16)
    for _ in range(5):
        breaker.delivered(0.0, backlog=True)
    breaker.ran_dry()
    assert (breaker.limit, deliveries_until_doubled()) == (4, 4)


def test_only_a_429_asks_for_less() -> None:
    """Any other failure leaves what may be in flight as it is; a 429 halves it, down to one."""
    breaker = Breaker(POLICY, 300)
    breaker.failed(0.0, "http_500", 0.0, probe=False)
    limits = [breaker.limit]
    for _ in range(3):
        breaker.failed(0.0, "http_429", 0.0, probe=False, throttled=True)
        limits.append(breaker.limit)
    assert limits == [4, 2, 1, 1]
    assert breaker.room(0.0, 0) == 1


def test_a_lane_that_runs_dry_while_it_ramps_up_goes_on_ramping() -> None:
    """A recovered endpoint that has nothing to do is not taken for a new one."""
    breaker = opened()
    breaker.delivered(5.0, backlog=False)
    breaker.ran_dry()
    assert breaker.limit == 1


def test_after_a_refusal_five_failures_are_five() -> None:
    """What failed before the endpoint answered is forgotten, all of it."""
    breaker = Breaker(POLICY, 300)
    for _ in range(4):
        breaker.failed(0.0, "reset", 0.0, probe=False)
    breaker.answered()
    changes = [breaker.failed(0.0, "reset", 0.0, probe=False) for _ in range(5)]
    assert changes == [None] * 4 + [Change("open", "reset", 1.0)]


def test_a_late_delivery_frees_no_probe() -> None:
    """While an endpoint has asked for time, a 2xx from before says nothing of the probe that is under way."""
    breaker = Breaker(POLICY, 300)
    breaker.failed(0.0, "http_429", 0.0, probe=False, wait_s=10.0)
    breaker.start_probe()
    breaker.failed(10.0, "http_429", 0.0, probe=False, wait_s=10.0)
    assert breaker.delivered(11.0, backlog=False) is None
    assert (breaker.probe_due_at, breaker.room(100.0, 0)) == (None, 0)
    assert breaker.delivered(12.0, backlog=False, probe=True) is None
    assert (breaker.probe_due_at, breaker.state) == (20.0, "open")


def test_a_held_endpoint_stays_held_until_a_probe_is_delivered() -> None:
    """A probe that fails otherwise is no repair; another reason is told; what vanishes changes no state."""
    breaker = Breaker(POLICY, 300)
    breaker.hold(0.0, "http_401", 0.0, probe=False)
    breaker.start_probe()
    assert breaker.failed(1.0, "reset", 0.0, probe=True) == Change("held", "reset", 2.0)
    assert breaker.hold(1.0, "http_403", 0.0, probe=False) == Change("held", "http_403", 4.0)
    breaker.start_probe()
    breaker.probe_vanished()
    assert (breaker.state, breaker.room(5.0, 0)) == ("held", 1)
    breaker.start_probe()
    assert breaker.delivered(5.0, backlog=False) == Change("closed", "recovered")
    assert (breaker.reason, breaker.probe_due_at) == ("", None)


def test_an_open_endpoint_can_turn_out_to_be_misconfigured() -> None:
    """Also for the reason that it is open for already: it is another state."""
    breaker = opened("http_401")
    change = breaker.hold(0.5, "http_401", 0.0, probe=False)
    assert change == Change("held", "http_401", 2.0)


def test_a_delivery_closes_it_the_moment_a_retry_after_is_over() -> None:
    """Not a moment before."""
    breaker = Breaker(POLICY, 300)
    breaker.failed(0.0, "http_429", 0.0, probe=False, wait_s=10.0)
    assert breaker.delivered(9.9, backlog=False) is None
    assert breaker.delivered(10.0, backlog=False) == Change("closed", "recovered")


def test_the_policy_says_how_soon_a_held_endpoint_is_probed() -> None:
    """Nobody has asked for more time."""
    breaker = Breaker(RetryPolicy(jitter=0.0, breaker_first_s=0.25), 300)
    assert breaker.hold(0.0, "http_401", 0.0, probe=False) == Change("held", "http_401", 0.25)
