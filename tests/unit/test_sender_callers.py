"""Who waits for the sender's thread, step by step: flushes and closes, with a thread and where none can be."""

from collections.abc import Callable

import pytest

from eventpost.event import Envelope, Event
from thread_support import STARTED, URL, Life


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Life:
    """Return a life that can start."""
    return Life(monkeypatch)


# -- a caller who waits


def running(life: Life) -> Life:
    """Let it seem to run elsewhere."""
    life.thread._started = life.thread._running = True
    return life


def test_a_flush_of_nothing_starts_nothing(life: Life) -> None:
    """It is done."""
    assert life.thread.flush(1.0)
    assert life.said == []


@pytest.mark.parametrize("claimed", [0, 1, 2])
def test_a_flush_waits_for_what_is_stored_also_before_anything_was_started(life: Life, claimed: int) -> None:
    """What is in the queue counts, and so does what somebody has claimed."""
    life.queue.put([Event(Envelope(URL), b"1")] * 2)
    life.queue.claim(URL, claimed, 1000)
    life.flush.done = True
    assert life.thread.flush(1.0)
    assert life.said == ["flush"]


def test_a_flush_looks_seldom_the_longer_it_takes_and_wakes_the_sender_each_time(life: Life) -> None:
    """From half a millisecond to ten; the end of it is found by the next look."""
    running(life)
    life.on_pause = lambda: setattr(life.flush, "done", len(life.pauses) == 7)
    assert life.thread.flush(1.0)
    assert life.pauses == [0.0005, 0.001, 0.002, 0.004, 0.008, 0.01, 0.01]
    assert life.transport.wakes == 7
    assert life.thread._quotas is None
    assert life.flush.given_up


def test_a_flush_ends_with_its_time(life: Life) -> None:
    """To the last bit of it, and says that it is not done; nothing lingers less for it any more."""
    running(life)
    assert not life.thread.flush(0.0078125)
    assert life.pauses == [0.0005, 0.001, 0.002, 0.004, pytest.approx(0.0003125)]
    assert life.flush.given_up
    assert not life.thread.flush(0.0)
    assert len(life.pauses) == 5


def test_a_flush_that_is_hopeless_ends_where_that_was_asked_for(life: Life) -> None:
    """Else it goes on to its time."""
    running(life)
    life.flush.hopeless = True
    assert not life.thread.flush(1.0, hopeless_ends_it=True)
    assert life.pauses == []
    life.on_pause = lambda: setattr(life.flush, "done", True)
    assert life.thread.flush(1.0)
    assert life.pauses == [0.0005]


def test_who_waits_for_longer_is_told_once(life: Life) -> None:
    """After three tenths of a second, and not before."""
    running(life)
    told: list[float] = []
    assert not life.thread.flush(0.5, told=lambda: told.append(life.clock.monotonic()))
    assert len(told) == 1
    assert 0.3 <= told[0] < 0.32
    told.clear()
    assert not life.thread.flush(0.25, told=lambda: told.append(0.0))
    assert told == []


def test_a_flush_of_what_was_put_where_no_thread_can_be_does_the_rounds_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each begins no request that outlasts the flush, and waits no longer than the round wants, or a hundredth."""
    life = Life(monkeypatch, starts=False)
    life.queue.put([Event(Envelope(URL), b"1")])
    seen: list[float] = []

    def noted(wanted_s: float, *, done: bool = False) -> Callable[[], float]:
        def step() -> float:
            seen.append(life.sender.end_by)
            life.flush.done = done
            return wanted_s

        return step

    life.steps = [noted(5.0), noted(0.004), noted(-1.0), noted(0.0, done=True)]
    assert life.thread.flush(2.0)
    assert seen == [2.0] * 4
    assert life.transport.waits_s == [0.0, 0.01, 0.0, 0.004, 0.0, 0.0, 0.0, 0.0]
    assert life.sender.end_by == float("inf")
    assert life.thread._step_lock.acquire(False)
    assert life.said.count("on_start") == 1


def test_what_comes_back_to_a_caller_is_dealt_with_in_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next flush may never come."""
    life = Life(monkeypatch, starts=False)

    def step() -> float:
        life.transport.due = ["a completion"]
        return 0.0

    life.steps = [step, 0.0]
    life.thread._drive(1.0, 1.0)
    assert life.said == ["on_start", ("step", 0), ("step", 1)]


def test_a_round_that_fails_on_a_callers_thread_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller hears of it; the next one may step."""
    life = Life(monkeypatch, starts=False)
    life.steps = [ZeroDivisionError]
    with pytest.raises(ZeroDivisionError):
        life.thread._drive(1.0, 1.0)
    assert life.sender.end_by == float("inf")
    assert life.thread._step_lock.acquire(False)


def test_of_two_callers_one_steps_and_the_other_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment each time, within its own bound."""
    life = Life(monkeypatch, starts=False)
    life.queue.put([Event(Envelope(URL), b"1")])
    life.thread._step_lock.acquire()
    assert not life.thread.flush(0.002)
    assert life.pauses == [0.0005] * 4
    assert ("step", 0) not in life.said


# -- its end, from outside


def test_who_closes_a_sender_that_never_started_ends_the_transport_at_once(life: Life) -> None:
    """Nothing is out."""
    assert life.thread.close()
    assert life.said == [("close", 0.0)]
    assert life.thread._step_lock.acquire(False)


def test_who_closes_where_no_thread_runs_ends_it_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same moment for what is out."""
    life = Life(monkeypatch, starts=False)
    life.thread.start()
    life.said.clear()
    assert life.thread.close()
    assert life.said == [("land", 0), "abandon", ("close", pytest.approx(0.15))]
    assert life.thread._step_lock.acquire(False)


def test_who_closes_while_another_caller_steps_waits_a_moment(life: Life) -> None:
    """Then leaves it what it holds."""
    life.thread._step_lock.acquire()
    assert not life.thread.close()
    assert life.said == []


@pytest.mark.parametrize("comes_back", [True, False])
def test_who_closes_wakes_the_thread_and_waits_a_moment_for_it(life: Life, comes_back: bool) -> None:
    """A thread that does not come back is left alone with what it holds."""
    running(life)
    life.on_pause = lambda: life.thread._ended.set() if comes_back and len(life.pauses) == 3 else None
    assert life.thread.close() is comes_back
    assert life.transport.wakes == 1
    assert life.said == []
    assert set(life.pauses) == {0.0005}
    assert len(life.pauses) == 3 if comes_back else life.clock.monotonic() == pytest.approx(0.3, abs=0.001)


def test_a_child_process_starts_its_own(life: Life) -> None:
    """Nothing of the parent's thread is left, and the sender forgets its own."""
    running(life)
    life.thread._quotas = None
    life.thread._step_lock.acquire()
    life.thread._start_lock.acquire()
    life.thread.after_fork_in_child()
    assert life.said == ["fork"]
    life.thread.notice(URL, urgent=False)
    assert life.said[1:5] == [*STARTED, ("step", 0)]
