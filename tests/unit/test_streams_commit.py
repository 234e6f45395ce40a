"""Puts of many threads on Redis Streams, together: who sends whose, and what each of them is told."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

import pytest

from eventpost.errors import EventTooLarge, QueueFull, QueueUnavailable
from eventpost.queues.streams import commit
from streams_together import Together
from support import event

SIZE = len(event(100).payload)


@pytest.fixture
def one(monkeypatch):
    """Make one."""
    return Together(monkeypatch)


def test_a_put_alone_is_sent_at_once_within_its_time(one):
    """Nothing is sent of no events, and what is more than the queue can ever hold is refused."""
    one.put(1, 2)
    assert (one.puts.sent, one.puts.deadlines) == ([[1, 2]], [120.0])
    one.commit.put([])
    assert len(one.puts.sent) == 1
    one.put(3)
    assert one.puts.sent[1:] == [[3]]


def test_the_bound_is_for_a_put_as_a_whole(monkeypatch):
    """One that just fits an empty queue is sent; a byte more never could be."""
    one = Together(monkeypatch, bytes_max=2 * SIZE)
    one.put(100, 101)
    with pytest.raises(EventTooLarge, match=f"{2 * SIZE + 1}"):
        one.commit.put([event(100), event(101, 41)])
    assert one.puts.sent == [[100, 101]]


def test_a_closed_queue_refuses_until_it_is_made_anew(one):
    """A child that was forked starts from nothing."""
    one.commit.closed = True
    with pytest.raises(QueueUnavailable) as caught:
        one.put(1)
    assert caught.value.reason == "closed"
    assert " " in str(caught.value), "in words"
    with pytest.raises(QueueUnavailable):
        one.commit.put([])
    one.commit.reset()
    one.put(1)
    assert one.puts.sent == [[1]]


def test_what_comes_while_somebody_sends_goes_together_next(one):
    """In the order in which it came, within the time of the first of them."""
    assert one.led((1, 2), (3,), (4,)) == [[1, 2, 3, 4]]
    assert not one.errors
    one.put(5)
    assert one.puts.sent[-1] == [5]


def test_those_who_go_together_have_the_time_of_the_first(one):
    """Whose is over first."""
    went = []

    def come():
        one.behind(1)
        one.time.now += 5
        one.behind(2)

    one.puts.says = [come, lambda: went.append(one.puts.deadlines[-1])]
    one.put(0)
    for thread in one.threads:
        thread.join(10)
    assert one.puts.deadlines == [120.0, 120.0]


def test_no_put_is_of_more_than_so_many_events_but_for_the_last_that_is_taken(one, monkeypatch):
    """A put is not divided; what is beyond the bound goes next."""
    assert commit.TOGETHER_EVENTS_MAX >= 1000
    monkeypatch.setattr(commit, "TOGETHER_EVENTS_MAX", 4)
    assert one.led((1, 2), (3, 4), (5,)) == [[1, 2, 3, 4], [5]]
    one.puts.sent.clear()
    assert one.led((1, 2), (3,), (4, 5), (6,)) == [[1, 2, 3, 4, 5], [6]]


def test_no_put_is_of_more_than_so_many_bytes_but_for_the_last_that_is_taken(one, monkeypatch):
    """As with events."""
    assert commit.TOGETHER_BYTES_MAX >= 1 << 20
    monkeypatch.setattr(commit, "TOGETHER_BYTES_MAX", 2 * SIZE)
    assert one.led((100,), (101,), (102,)) == [[100, 101], [102]]
    one.puts.sent.clear()
    assert one.led((100,), (101,), (102,), (103,), size=39) == [[100, 101, 102], [103]]


@pytest.mark.parametrize("error", [QueueUnavailable("no", reason="redis_unavailable"), QueueFull("no", reason="x")])
def test_a_put_alone_that_is_refused_says_why(one, error):
    """And is not made again."""
    one.puts.says = [error]
    with pytest.raises(type(error)) as caught:
        one.put(1)
    assert caught.value is error
    assert one.puts.sent == [[1]]


def test_all_that_went_together_are_told_why_it_was_refused(one):
    """A server that is away is away for each of them."""
    why = QueueUnavailable("no", reason="redis_unavailable")
    assert one.led((1,), (2,), says=[why]) == [[1, 2]]
    assert one.errors == {(1,): why, (2,): why}


@pytest.mark.parametrize("error", [QueueFull("no"), EventTooLarge("no")])
def test_one_that_does_not_fit_does_not_cost_those_that_went_with_it(one, error):
    """Each is sent again by itself."""
    assert one.led((1,), (2, 3), (4,), says=[error, None, error, None]) == [[1, 2, 3, 4], [1], [2, 3], [4]]
    assert one.errors == {(2, 3): error}


def test_one_that_is_as_large_as_one_that_did_not_fit_is_not_tried(one):
    """A smaller one is."""
    full = QueueFull("no")

    def come():
        one.behind(1, 2)
        one.behind(3)
        one.behind(4, 5)
        one.behind(6)

    one.puts.says = [come, full, full, full]
    one.put(0)
    for thread in one.threads:
        thread.join(10)
    assert one.puts.sent[1:] == [[1, 2, 3, 4, 5, 6], [1, 2], [3]]
    assert one.errors == dict.fromkeys([(1, 2), (3,), (4, 5), (6,)], full)
    assert one.commit._store([]) is None


def test_an_error_of_ours_does_not_reach_the_application(one):
    """It is a put that was refused, by the error's name, for all that went together."""
    assert one.led((1,), (2,), says=[ZeroDivisionError()]) == [[1, 2]]
    assert {error.reason for error in one.errors.values()} == {"queue_unavailable"}
    assert "ZeroDivisionError" in str(one.errors[1,])
    assert len(one.errors) == 2


def test_who_is_interrupted_while_it_sends_for_others_says_so(one):
    """By a signal handler's exception: nobody waits for what nobody does any more."""
    one.puts.says = [lambda: one.behind(1) or KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        one.put(0)
    one.threads[0].join(10)
    assert one.puts.sent == [[0], [1]]
    assert not one.errors

    def come():
        one.behind(2)
        one.behind(3)

    one.puts.says = [come, KeyboardInterrupt()]
    one.put(4)
    for thread in one.threads:
        thread.join(10)
    assert one.puts.sent[2:] == [[4], [2, 3]]
    led, other = sorted(one.errors.values(), key=lambda error: isinstance(error, QueueUnavailable))
    assert (type(led), type(other)) == (KeyboardInterrupt, QueueUnavailable), "whichever of the two led"
    assert other.reason == "redis_unavailable"
    assert " " in str(other), "in words"


def test_a_put_that_interrupts_a_put_goes_alone(one):
    """It neither waits for the one that it stands in the way of, nor is taken along; and is told of its own."""
    full = QueueFull("no")
    told = []

    def interrupts():
        with pytest.raises(QueueFull) as caught:
            one.put(2)
        told.append(caught.value)
        one.put(3)

    one.puts.says = [interrupts, full, None]
    one.put(1)
    assert (one.puts.sent, told) == ([[1], [2], [3]], [full])
    assert one.puts.deadlines == [120.0] * 3
    one.puts.says = [lambda: one.behind(5)]
    one.put(4)
    one.threads[0].join(10)
    assert one.puts.sent[3:] == [[4], [5]], "a put that has ended is interrupted by none"


class Gate:
    """What a put waits at: ``happens``, in turn, is what goes on meanwhile; whether it is opened."""

    happens: ClassVar[list] = []
    waited: ClassVar[list] = []

    def wait(self, timeout_s):
        """Note the time, and let it happen."""
        self.waited.append(timeout_s)
        return self.happens.pop(0)()

    def clear(self):
        """Note it."""
        self.waited.append("closed again")

    def set(self):
        """Note it."""
        self.waited.append("opened")


@pytest.fixture
def behind(one, monkeypatch):
    """Make one whose lead is somebody else's."""
    monkeypatch.setattr(commit.primitives, "Event", Gate)
    Gate.waited = []
    one.commit._leading.acquire()
    return one


def test_who_waits_in_vain_is_told_and_nothing_of_it_is_sent(behind):
    """Its time is over before anybody took it."""
    Gate.happens = [lambda: False]
    with pytest.raises(QueueUnavailable) as caught:
        behind.put(1)
    assert caught.value.reason == "redis_unavailable"
    assert " " in str(caught.value), "in words"
    assert Gate.waited == [20.0]
    assert not behind.commit._waiting
    assert not behind.puts.sent


@pytest.mark.parametrize("known", [True, False])
def test_who_was_taken_along_is_told_what_became_of_it_also_when_its_time_is_over(behind, known):
    """Whoever sends it knows no later than that."""
    taken = []

    def done():
        taken[0].done = known
        return known

    Gate.happens = [lambda: taken.append(behind.commit._waiting.popleft()), done]
    if known:
        behind.put(1)
    else:
        with pytest.raises(QueueUnavailable) as caught:
            behind.put(1)
        assert caught.value.reason == "redis_unavailable"
    assert Gate.waited == [20.0, 20.0]


def test_who_is_called_and_finds_another_leading_waits_on(behind):
    """For what is left of its time; called again, it leads, and calls the next."""

    def called():
        behind.time.now += 3.0
        return True

    def free():
        behind.commit._leading.release()
        return True

    Gate.happens = [called, free]
    behind.puts.says = [lambda: behind.commit._waiting.append(commit._Waiting([event(2)], SIZE, 0.0))]
    behind.put(1)
    assert Gate.waited == [20.0, "closed again", 17.0, "closed again", "opened", "opened"]
    assert behind.puts.sent == [[1]]
    assert behind.commit._leading.acquire(False)


def test_who_leads_goes_on_until_its_own_is_sent(one, monkeypatch):
    """Others who came first may fill a put by themselves."""
    monkeypatch.setattr(commit, "TOGETHER_EVENTS_MAX", 2)
    one.commit._waiting.append(commit._Waiting([event(2), event(3)], 2 * SIZE, 110.0))
    one.put(1)
    assert one.puts.sent == [[2, 3], [1]]
    assert one.puts.deadlines == [110.0, 120.0]


def test_who_gives_up_while_it_is_taken_keeps_nobody_from_being_sent(one):
    """Its time is over just then."""

    class Racing(deque):
        def popleft(self):
            if len(self) == 1:
                self.clear()
            return super().popleft()

    one.commit._waiting = Racing([commit._Waiting([event(number)], SIZE, 120.0) for number in (1, 2)])
    one.commit._lead()
    assert one.puts.sent == [[1]]
