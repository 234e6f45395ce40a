"""The life of the sender's thread, step by step: its start, each of its waits and looks, and its end."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from eventpost.transports.protocol import Completion
from eventpost.watch.signals import Trouble
from thread_support import STARTED, URL, Life, TimedTransport


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Life:
    """Return a life that can start."""
    return Life(monkeypatch)


# -- the start


def test_the_first_event_starts_it_in_this_order(life: Life) -> None:
    """What is to happen first, then the transport, then the thread; and all of it ends as it began."""
    life.thread.notice(URL, urgent=False)
    assert life.said == [*STARTED, ("step", 0), ("land", 0), "abandon", ("close", pytest.approx(0.15))]
    assert not life.thread._running
    assert life.thread._ended.is_set()
    assert life.thread._quotas == {}
    assert not life.thread.on_own_thread
    assert life.thread._step_lock.acquire(False)
    assert life.thread._start_lock.acquire(False)


def test_while_it_lives_it_is_on_its_own_thread_and_steps_alone(life: Life) -> None:
    """A put does nothing while it is busy; nobody else may step, flush or wait for it."""

    def busy() -> float:
        assert life.thread._running
        assert life.thread.on_own_thread
        assert life.thread._quotas is None
        assert not life.thread._step_lock.acquire(False)
        assert not life.thread._ended.is_set()
        assert not life.thread.flush(1.0)
        life.thread.start()  # nothing: it runs
        assert life.transport.wakes == 0
        life.thread.notice(URL, urgent=True)
        assert life.transport.wakes == 0
        return 0.0

    life.live(busy)
    assert life.said.count("thread") == 1
    assert "flush" not in life.said


def test_a_transport_need_not_be_made_ready(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no part of the protocol."""
    monkeypatch.delattr(TimedTransport, "make_ready")
    life.live()
    assert life.said[:2] == ["on_start", "thread"]


def test_where_no_thread_can_be_started_the_next_event_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to happen first happens once."""
    life = Life(monkeypatch, starts=False)
    for _ in range(2):
        life.thread.notice(URL, urgent=False)
        assert not life.thread._running
        assert life.thread._quotas == {}
    assert life.said == [*STARTED, "make_ready", "thread"]
    life.starts = True
    life.thread.notice(URL, urgent=False)
    assert life.said[5:8] == ["make_ready", "thread", ("step", 0)]


def test_who_puts_while_it_is_being_started_waits_for_nothing(life: Life) -> None:
    """An observer of the start, say: it is started once, by who is at it."""

    def observer() -> None:
        life.said.append("on_start")
        life.thread.start()

    life.thread._on_start = observer
    life.live()
    assert life.said[:4] == [*STARTED, ("step", 0)]
    assert life.said.count("thread") == 1


def test_once_it_is_to_end_nothing_starts_it(life: Life) -> None:
    """Neither an event nor a caller."""
    assert life.thread.close()
    life.thread.notice(URL, urgent=True)
    life.thread.start()
    life.thread._start()
    life.thread.hurry()
    assert not life.thread.flush(1.0)
    assert life.said == [("close", 0.0)]


def test_where_none_may_be_started_yet_nothing_happens_and_the_next_event_asks_again(life: Life) -> None:
    """Not what is to happen first, either."""
    may: list[bool] = [False, False, True]
    life.thread._may_start = lambda: may.pop(0)
    for left in (2, 1):
        life.thread.notice(URL, urgent=False)
        assert (life.said, len(may), life.thread._quotas) == ([], left, {})
    life.thread.notice(URL, urgent=False)
    assert life.said[:3] == STARTED


# -- its rounds


def test_it_waits_as_long_as_the_last_round_said_and_never_over_a_minute(life: Life) -> None:
    """At first not at all."""
    assert life.live(5.0, 0.25, 1000.0, 0.0) == [0.0, 5.0, 0.25, 60.0, 0.0, 0.0]


def test_what_arrived_before_it_sleeps_is_looked_at_at_once_and_then_seldom(life: Life) -> None:
    """A queue that promises what it does not hand out must not make it spin; a round without an arrival forgets it."""
    life.arrivals = [True, True, True, False, True, True]
    assert life.live(5.0, 5.0, 0.01, 5.0, 5.0, 5.0) == [0.0, 0.0, 0.05, 0.01, 5.0, 0.0, 0.05, 0.0]
    assert life.arrivals == []


def test_who_goes_on_at_once_need_not_look(life: Life) -> None:
    """And it does not count as a look."""
    life.arrivals = [True, True, True]
    life.live(0.0, 5.0, 0.0, 5.0)
    assert life.transport.waits_s == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert life.arrivals == [True]


def test_a_round_that_fails_is_told_and_the_next_one_comes_in_half_a_second(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    """With the kind of the error, and all of it in the log; a put wakes it meanwhile."""

    def after() -> float:
        life.said.append(life.thread._quotas)
        return 5.0

    def failing() -> Any:
        return ZeroDivisionError("a payload")

    life.arrivals = [True, False]
    with caplog.at_level(logging.ERROR, "eventpost"):
        assert life.live(5.0, failing, after) == [0.0, 0.0, 0.5, 5.0, 0.0]
    (trouble,) = life.signals
    assert isinstance(trouble, Trouble)
    assert trouble.what
    assert trouble.detail == "ZeroDivisionError"
    (record,) = caplog.records
    assert (record.name, type(record.msg)) == ("eventpost", str)
    assert record.exc_info


def test_a_put_while_it_waits_after_a_failure_wakes_it(life: Life) -> None:
    """As while it waits at any time."""
    wait = life.transport.wait

    def waiting(timeout_s: float) -> Any:
        if timeout_s == 0.5:
            assert life.thread._quotas == {}
            life.thread.notice(URL, urgent=False)
            assert life.transport.wakes == 1
        return wait(timeout_s)

    life.transport.wait = waiting  # type: ignore[method-assign] # an event comes at this very moment
    life.live(ZeroDivisionError)
    assert life.transport.wakes == 1


# -- its end


def test_at_the_end_it_waits_a_moment_for_what_is_out(life: Life) -> None:
    """Until nothing is waited for, or the moment is over, to the last bit of it."""
    life.transport.takes_s = 0.0625
    life.landing = lambda _: True
    life.steps = [life.end]
    life.thread.start()
    assert life.transport.waits_s == [0.0, 0.0, *(pytest.approx(left) for left in (0.0875, 0.025))]
    assert life.said[-2:] == ["abandon", ("close", pytest.approx(0.15))]


def test_a_moment_that_is_exactly_over_is_over(life: Life) -> None:
    """One round more would be one too many."""

    def landing(_completions: Sequence[Completion]) -> bool:
        life.clock.advance(0.15)
        return True

    life.landing = landing
    life.thread._stopping = True
    life.thread._finish()
    assert life.transport.waits_s == [0.0]


def test_the_end_is_bounded_where_time_stands_still(life: Life) -> None:
    """However much there is to land."""
    life.landing = lambda _: True
    life.live()
    assert 100 < len(life.transport.waits_s) < 10_000


def test_an_end_that_fails_is_logged_and_gives_back_what_is_left(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    """And lets go of the transport."""

    def failing(_completions: Sequence[Completion]) -> bool:
        raise OSError(5, "broken")

    life.landing = failing
    with caplog.at_level(logging.ERROR, "eventpost"):
        life.live()
    assert life.said[-2:] == ["abandon", ("close", pytest.approx(0.15))]
    (record,) = caplog.records
    assert (record.name, type(record.msg)) == ("eventpost", str)
    assert record.exc_info
