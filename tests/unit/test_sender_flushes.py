"""When a flush is done, and when it is hopeless."""

import pytest

from eventpost.sender.retry import RetryPolicy
from eventpost.transports.protocol import Response, TransportError
from sender_support import DOWN, OTHER, UP, Rounds, alone, sharing

ONCE = RetryPolicy(breaker_failures=1)
NO_ROUTE = TransportError("connect", "")


def down(rounds: Rounds, url: str = DOWN) -> None:
    """Let an endpoint be left alone; its event is asked with in 1.25 s."""
    rounds.put(*alone(b"down", url=url))
    rounds.step()
    rounds.answer(b"down", by=NO_ROUTE)
    rounds.step()


# -- when it is done


def test_a_flush_of_nothing_is_done_at_once() -> None:
    """The next round says so."""
    assert Rounds().flush().done


def test_a_flush_waits_for_what_was_pending_and_not_for_what_came_later() -> None:
    """One lane is held up, and another delivers what came later, as many as were accepted before."""
    rounds = Rounds(policy=RetryPolicy(breaker_failures=1, breaker_first_s=8.0))
    down(rounds)
    rounds.put(*alone(b"1", url=DOWN))
    flush = rounds.flush()
    rounds.put(*alone(b"2", b"3", b"4"))
    rounds.step()
    rounds.answer()
    rounds.step()
    assert rounds.queue.stats().delivered == 3
    assert not flush.done
    rounds.after(10.0)
    while rounds.out:
        rounds.answer()
        rounds.step()
    assert flush.done


def test_a_flush_waits_for_what_was_in_the_queue_and_is_out_by_now() -> None:
    """All that was out when it was asked for is settled, and as many others as were accepted by then."""
    rounds = Rounds()
    rounds.put(*alone(b"0"))
    rounds.step()
    rounds.answer()
    rounds.put(*alone(b"1", b"2", b"3", b"4", b"5", b"6"))
    rounds.step()
    flush = rounds.flush()
    assert (rounds.out, rounds.queue.pending(UP)) == ([b"1", b"2", b"3", b"4"], 2)
    rounds.put(*alone(b"7", b"8", b"9", url=OTHER))
    rounds.answer()
    rounds.step()
    rounds.answer(b"7", b"8")
    rounds.step()
    assert (rounds.out, flush.done) == ([b"5", b"6", b"9"], False)
    rounds.answer(b"5")
    rounds.step()
    assert not flush.done
    rounds.answer(b"6")
    rounds.step()
    assert (rounds.out, flush.done) == ([b"9"], True)


def test_a_flush_waits_for_what_was_out_when_it_was_asked_for() -> None:
    """As many were settled as were accepted then, but not the same."""
    rounds = Rounds()
    rounds.put(*alone(b"1"))
    rounds.step()
    flush = rounds.flush()
    rounds.put(*alone(b"2", b"3"))
    rounds.step()
    rounds.answer(b"2")
    rounds.step()
    assert not flush.done
    rounds.answer(b"1")
    rounds.step()
    assert rounds.out == [b"3"]
    assert flush.done


def test_a_flush_waits_for_what_lingered_and_was_sent_by_it() -> None:
    """It ends the lingering of what came before it and of what comes while it lasts."""
    rounds = Rounds(linger_s=60.0)
    rounds.put(*sharing(b"1"))
    rounds.step()
    assert rounds.out == []
    flush = rounds.flush()
    assert rounds.out == [b"[1]"]
    rounds.put(*sharing(b"2"))
    rounds.step()
    assert rounds.out == [b"[1]", b"[2]"]
    rounds.answer(b"[2]")
    rounds.step()
    assert not flush.done
    rounds.put(*sharing(b"3"))
    rounds.step()
    rounds.answer(b"[1]")
    rounds.step()
    assert (rounds.out, flush.done) == ([b"[3]"], True)


def test_an_event_that_is_claimed_as_a_probe_is_no_longer_waited_for_once_it_is_settled() -> None:
    """Its endpoint is left alone and had nothing to ask with; what came later is still out."""
    rounds = Rounds(policy=ONCE)
    down(rounds)
    rounds.after(1.25)
    rounds.answer(by=Response(400))
    rounds.step()
    assert (rounds.sender._lanes[DOWN].breaker.blocked, rounds.queue.stats().dead) == (True, 1)
    rounds.put(*alone(b"1", url=DOWN))
    flush = rounds.flush()
    assert rounds.out == [b"1"]
    rounds.put(*alone(b"2"))
    rounds.step()
    assert not flush.done
    rounds.answer(b"1")
    rounds.step()
    assert (rounds.out, flush.done) == ([b"2"], True)


@pytest.mark.parametrize("given_up", [False, True])
def test_after_a_flush_events_linger_again(given_up: bool) -> None:
    """Whether it is done or nobody waits for it any more."""
    rounds = Rounds()
    rounds.put(*alone(b"1"))
    rounds.step()
    flush = rounds.flush()
    if given_up:
        flush.given_up = True
    else:
        rounds.answer()
    rounds.step()
    assert flush.done is not given_up
    rounds.put(*sharing(b"2"))
    assert rounds.step() == 1.0
    assert b"[2]" not in rounds.out


def test_what_came_back_is_forgotten_when_nothing_is_left() -> None:
    """Somebody else settled it: a later flush does not wait for it."""
    rounds = Rounds(policy=RetryPolicy(breaker_failures=100))
    rounds.put(*alone(b"1"))
    rounds.step()
    lease = rounds.transport.under_way[0].token.leases[0]
    rounds.answer(by=Response(500))
    rounds.step()
    rounds.queue.ack([lease])
    assert rounds.flush().done
    rounds.put(*alone(b"2"))
    flush = rounds.flush()
    rounds.put(*alone(b"3"))
    rounds.step()
    rounds.answer(b"2")
    rounds.step()
    assert (rounds.out, flush.done) == ([b"3"], True)


# -- when it is hopeless


def test_a_flush_is_hopeless_once_all_that_is_left_waits_for_endpoints_that_are_left_alone() -> None:
    """A request that is out elsewhere is hope; a probe is none."""
    rounds = Rounds(policy=ONCE)
    down(rounds)
    rounds.put(*alone(b"1"))
    flush = rounds.flush()
    assert (rounds.out, flush.hopeless) == ([b"1"], False)
    rounds.answer()
    rounds.step()
    assert flush.hopeless
    rounds.after(1.25)
    assert (rounds.out, flush.hopeless) == ([b"down"], True)
    assert not flush.done


@pytest.mark.parametrize("leased", [False, True])
def test_what_waits_for_room_is_hope(leased: bool) -> None:
    """A probe has all the room there is; another endpoint's event is still in the queue, or was claimed before."""
    rounds = Rounds(policy=ONCE, in_flight_max=1, linger_s=60.0)
    down(rounds)
    if leased:
        rounds.put(*sharing(b"1"))
        rounds.step()
    rounds.after(1.25)
    assert rounds.out == [b"down"]
    if not leased:
        rounds.put(*sharing(b"1"))
    flush = rounds.flush()
    assert rounds.out == [b"down"]
    assert rounds.queue.pending(UP) == (not leased)
    assert not flush.hopeless


def test_a_retry_that_is_due_later_is_hope_until_then() -> None:
    """The longest of them counts; its end is none."""
    rounds = Rounds(policy=RetryPolicy(breaker_failures=3))
    rounds.put(*alone(b"1", b"2", url=DOWN))
    rounds.put(*alone(b"3"))
    rounds.step()
    rounds.answer(b"3", by=Response(500))
    rounds.answer(b"1", by=NO_ROUTE)
    rounds.answer(b"2", by=TransportError("tls", ""))
    flush = rounds.flush()
    assert not flush.hopeless
    rounds.after(0.5)
    assert not flush.hopeless
    rounds.clock.advance(0.125)
    assert rounds.queue.claim(UP, 9, 9)  # by somebody else
    rounds.step()
    assert flush.hopeless
