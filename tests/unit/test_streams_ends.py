"""Who may use a queue on Redis Streams, and when; and what becomes of it in the end."""

from __future__ import annotations

import pytest

from eventpost.errors import QueueUnavailable
from eventpost.queues.protocol import QueueStats
from streams_parts import GONE, Whole, is_free, key_of
from support import ALL, URL, event


@pytest.fixture
def one(monkeypatch):
    """Make one as it is by default."""
    return Whole(monkeypatch)


# -- who may do what, and when


class Busy:
    """A lock that somebody else holds for long."""

    def __init__(self):
        self.waited = []

    def acquire(self, *arguments):
        """Wait in vain."""
        self.waited.append(arguments)
        return False

    def _is_owned(self):
        return False


def test_a_caller_waits_for_the_sender_three_times_the_servers_time_and_no_longer(monkeypatch):
    """Then it is told so; nothing is done by halves, and the figures are the last ones."""
    one = Whole(monkeypatch, timeout_s=0.5)
    leases = one.lease(events=2)
    one.queue.put([event(1)])
    one.says["HGETALL"] = [b"a", b"1"]
    figures = one.queue.stats()
    assert figures.accepted == 3
    one.route.asked.clear()
    lock = one.queue._hand.lock = Busy()
    for work in (lambda: one.queue.ack(leases), lambda: one.queue.bury(leases, "rejected")):
        with pytest.raises(QueueUnavailable) as caught:
            work()
        assert caught.value.reason == "redis_unavailable"
        assert " " in str(caught.value), "in words"
    assert one.queue.claim(URL, 1, ALL) == []
    assert one.queue.tend() is None
    assert one.queue.sync(1.0) is False
    assert one.queue.stats() is figures
    one.queue.close()
    assert lock.waited == [(True, 1.5)] * 7
    assert not one.route.asked
    assert one.route.closed == 0


def test_what_interrupts_the_senders_work_does_nothing_beside_it(one):
    """A signal handler on its thread: a close is done when that has ended."""
    leases = one.lease(events=2)
    refused = []

    def interrupts(*_):
        for work in (lambda: one.queue.ack(leases), lambda: one.queue.bury(leases, "rejected")):
            with pytest.raises(QueueUnavailable) as caught:
                work()
            refused.append(caught.value.reason)
        assert one.queue.claim(URL, 1, ALL) == []
        assert one.queue.tend() is None
        assert one.queue.sync(1.0) is False
        assert one.queue.stats() == QueueStats()
        return [1]

    one.says["settle"] = interrupts
    one.queue.ack(leases[:1])
    assert refused == ["redis_unavailable"] * 2
    assert [name for trip in one.route.asked for _, calls in trip for name, *_ in calls] == ["settle"]
    assert one.queue.tend() == 0.05

    def ends(*_):
        one.queue.close()
        assert one.route.closed == 0
        return [1]

    one.says["settle"] = ends
    one.queue.ack(leases[1:])
    assert one.route.closed == 1
    assert one.queue.tend() is None


def test_work_goes_on_after_work_that_failed(one):
    """Nothing stays locked."""
    leases = one.lease()
    one.says["settle"] = (GONE,)
    with pytest.raises(QueueUnavailable):
        one.queue.ack(leases)
    one.queue.ack(leases)
    assert not leases[0].live
    assert is_free(one.queue._hand.lock)


# -- the end


def test_a_queue_that_is_closed_says_so_and_leaves_its_leases_to_others(one):
    """Each part is told, in one round trip and in time; then nothing is asked any more, and the count stands."""
    leases = one.lease(events=2)
    one.queue.put([event(1)])
    one.says["HGETALL"] = lambda _, call: [b"a", b"1"] if ":w:" in call[1] else []
    one.route.asked.clear()
    assert one.until(lambda: one.queue.close(0.25)) == {0.25, 1.0}
    assert one.route.asked[0] == [(shard, [("leave", 1, key_of(shard), one.queue.writer, 60_000)]) for shard in (0, 1)]
    assert one.route.closed == 1
    assert not leases[0].live
    figures = one.queue.stats()
    assert (figures.accepted, figures.queued, figures.in_flight) == (1, 1, 0)
    one.route.asked.clear()
    with pytest.raises(QueueUnavailable) as caught:
        one.queue.put([event(1)])
    assert caught.value.reason == "closed"
    assert one.queue.claim(URL, 1, ALL) == []
    assert one.queue.tend() is None
    assert one.queue.sync(1.0) is False
    assert one.queue.stats() is figures
    one.queue.close()
    assert not one.route.asked
    assert one.route.closed == 1
    assert repr(figures) in repr(one.queue)


def test_a_close_takes_no_longer_than_anything(monkeypatch):
    """Whatever it is given."""
    one = Whole(monkeypatch, timeout_s=3.0)
    assert one.until(one.queue.close) == {3.0}


def test_a_close_while_the_server_is_away_asks_nothing_more_of_it(one):
    """The figures are the last that are known; as where it was never there, or a put can't be cleared up."""
    one.queue.put([event(1)])
    one.says["HGETALL"] = [b"a", b"1"]
    one.says["leave"] = GONE
    one.route.asked.clear()
    one.queue.close()
    assert [trip[0][1][0][0] for trip in one.route.asked] == ["leave"]
    assert one.queue.stats().accepted == 1


def test_a_close_that_one_part_answers_asks_for_the_figures(one):
    """Those of that part may have changed."""
    one.says["leave"] = lambda shard, _: GONE if shard else 1
    one.route.asked.clear()
    one.queue.close()
    assert len(one.route.asked) == 2


@pytest.mark.parametrize("joined", [True, False])
def test_a_close_with_a_put_that_nobody_answered_clears_that_up_first(one, joined):
    """In time; where that fails nothing else is tried, and others take what was held when its lease is over."""
    one.says["put"] = GONE
    with pytest.raises(QueueUnavailable):
        one.queue.put([event(1)])
    one.says["void"] = GONE
    one.queue._server.joined = joined
    one.route.asked.clear()
    one.route.deadlines.clear()
    one.queue.close(0.25)
    assert [trip[0][1][0][0] for trip in one.route.asked] == ["void"] * joined
    assert one.route.deadlines == [one.time.now + 0.25] * joined
    assert one.route.closed == 1


def test_a_forked_child_starts_from_zero_as_another_writer(one):
    """With nothing in hand, nothing to tell, and the server not asked yet; a closed one stays closed."""
    one.queue.put([event(1)])
    one.lease(events=2)
    one.says["HGETALL"] = [b"a", b"1"]
    assert one.queue.stats().accepted == 3
    one.says["HGETALL"] = []
    writer = one.queue.writer
    one.queue._tell("the parent's")
    one.queue.tend()
    one.queue._working = one.queue._close_when_done = True
    one.queue._commit._leading.acquire()
    one.route.asked.append([(0, [("the parent's",)])])
    one.queue.after_fork_in_child()
    assert not one.route.asked
    assert one.queue.writer != writer
    assert repr(QueueStats()) in repr(one.queue)
    assert one.queue.stats() == QueueStats()
    told = []
    one.queue.emit = told.append
    one.queue.put([event(2)])
    assert not told
    assert [trip[0][1][0][0] for trip in one.route.asked[:2]] == ["join", "INFO"]
    ((_, put),) = one.asked("put")
    assert put[3:6] == (one.queue.writer, "1", 1)
    one.time.now += 1.0
    assert one.queue.claim(URL, 2, ALL) == []
    assert one.asked("claim")[0][1][3] == one.queue.writer
    assert one.queue.tend() == 0.05
    assert one.asked("tidy"), "all is due"
    one.queue.close()
    one.queue.after_fork_in_child()
    with pytest.raises(QueueUnavailable):
        one.queue.put([event(1)])
    assert one.queue.stats() == QueueStats()
    assert one.queue.tend() is None
