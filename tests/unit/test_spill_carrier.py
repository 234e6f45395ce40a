"""The thread that moves where there is no sender: when it is started, how long it waits, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventpost.queues.spill import carrier
from eventpost.queues.spill.carrier import Carrier
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Signal, Trouble


class Wake:
    """Stands in for the event that ends a pause; notes the pauses."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.was_set = False

    def set(self) -> None:
        """Note it."""
        self.was_set = True

    def wait(self, timeout_s: float) -> None:
        """Note it."""
        self.waits.append(timeout_s)


class Case:
    """A carrier whose thread runs when ``run`` is called; ``work`` answers one of ``answers`` after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: float | Callable[[], float | None] | None) -> None:
        monkeypatch.setattr(carrier, "start_new_thread", lambda run, _: self.start(run))
        monkeypatch.setattr(carrier, "Event", Wake)
        self.clock = ManualClock(start_s=1024.0)
        self.answers = list(answers)
        self.threads: list[Callable[[], None]] = []
        self.told: list[Signal] = []
        self.wanted = False
        self.carrier = Carrier(self.work, lambda: self.wanted, self.clock, self.told.append)

    def start(self, run: Callable[[], None]) -> None:
        """Take the place of a thread's start."""
        self.threads.append(run)

    def work(self) -> float | None:
        """Answer."""
        answer = self.answers.pop(0)
        return answer() if callable(answer) else answer

    @property
    def wake(self) -> Any:
        """What ends its pauses."""
        return self.carrier._wake


def test_it_works_until_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the pauses that its work asks for, a second at most."""
    case = Case(monkeypatch, 0.25, 5.0, 1.0, None)
    case.carrier.start()
    case.threads[0]()
    assert case.wake.waits == [0.25, 1.0, 1.0]
    assert (case.answers, case.told, len(case.threads)) == ([], [], 1)


def test_it_is_due_at_first_and_each_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since it was started last; never while it runs."""

    def work() -> None:
        case.clock.advance(100)
        assert not case.carrier.is_due

    case = Case(monkeypatch, None, work)
    assert case.carrier.is_due
    case.carrier.start()
    case.threads[0]()
    assert not case.carrier.is_due
    case.clock.advance(29.5)
    assert not case.carrier.is_due
    case.clock.advance(0.5)
    assert case.carrier.is_due
    case.carrier.start()
    case.threads[1]()
    assert case.carrier.is_due


def test_there_is_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a signal handler starts it over a start; the next one begins when it has ended."""
    case = Case(monkeypatch, None, None)
    starts = case.start
    monkeypatch.setattr(case, "start", lambda run: (starts(run), case.carrier.start()))
    case.carrier.start()
    case.carrier.start()
    assert len(case.threads) == 1
    case.threads[0]()
    case.carrier.start()
    assert len(case.threads) == 2


@pytest.mark.parametrize("wanted", [True, False])
def test_what_came_at_its_end_starts_the_next(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    """A put that saw it running started none."""
    case = Case(monkeypatch, None)
    case.wanted = wanted
    case.carrier.start()
    case.threads[0]()
    assert len(case.threads) == (2 if wanted else 1)


def test_an_error_is_told_and_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second later."""

    def fail() -> None:
        raise ZeroDivisionError("by nothing")

    case = Case(monkeypatch, fail, None)
    case.carrier.start()
    case.threads[0]()
    assert case.wake.waits == [1.0]
    (trouble,) = case.told
    assert isinstance(trouble, Trouble)
    assert trouble.detail == "ZeroDivisionError: by nothing"
    assert trouble.what


def test_a_stop_ends_it_and_no_other_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pause ends at once; in a child all begins anew."""

    def stop() -> float:
        case.carrier.stop()
        return 1.0

    case = Case(monkeypatch, stop, None)
    case.wanted = True
    case.carrier.start()
    case.threads[0]()
    case.carrier.start()
    assert (len(case.threads), case.wake.was_set, len(case.answers)) == (1, True, 1)
    case.carrier.reset()
    assert case.carrier.is_due
    case.carrier.start()
    assert len(case.threads) == 2


def test_where_no_thread_may_be_started_the_next_put_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays due."""
    case = Case(monkeypatch)
    case.carrier.may_start = lambda: False
    case.carrier.start()
    assert (case.threads, case.carrier.is_due) == ([], True)
    case.carrier.may_start = lambda: True
    case.carrier.start()
    assert len(case.threads) == 1


def test_where_no_thread_can_be_started_a_later_put_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is out of threads, or ends: that is not told to who puts."""
    case = Case(monkeypatch)

    def refuse(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(case, "start", refuse)
        case.carrier.start()
    case.carrier.start()
    assert len(case.threads) == 1
