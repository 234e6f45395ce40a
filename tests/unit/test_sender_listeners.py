"""What listeners to requests hear, and what their mistakes cost."""

import pytest

from eventpost.event import Envelope
from eventpost.sender.retry import RetryPolicy
from eventpost.transports.protocol import Response
from eventpost.watch.signals import Trouble
from sender_support import UP, Rounds, alone, sharing

PATIENT = RetryPolicy(breaker_failures=100)


def test_listeners_hear_each_event_at_its_first_request_only() -> None:
    """A body that carries others too is made anew of those that are new; a retry alone is no news."""
    rounds = Rounds(linger_s=1.0, policy=PATIENT)
    heard: list[tuple[str, bytes]] = []
    rounds.heard.append(lambda envelope, body: heard.append((envelope.url, body)))
    rounds.put(*sharing(b"1"))
    rounds.step()
    rounds.after(1.0)
    rounds.answer(by=Response(500))
    rounds.step()
    rounds.put(*sharing(b"2"))
    rounds.after(0.625)
    rounds.after(1.0)
    assert rounds.out == [b"[1,2]"]
    rounds.answer(by=Response(500))
    rounds.step()
    for _ in range(3):
        rounds.after(60.0)
    assert len(rounds.transport.requests) > 2
    assert heard == [(UP, b"[1]"), (UP, b"[2]")]


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, GeneratorExit])
def test_a_listener_that_fails_is_told_by_the_kind_of_its_error(error: type[BaseException]) -> None:
    """What it says may hold a payload; the next listener is called, and the request begins."""

    def fail(_envelope: Envelope, _body: bytes) -> None:
        raise error("a payload")

    rounds = Rounds()
    heard: list[bytes] = []
    rounds.heard += [fail, lambda _envelope, body: heard.append(body)]
    rounds.put(*alone(b"1"))
    rounds.step()
    (trouble,) = rounds.news(Trouble)
    assert trouble.what
    assert trouble.detail == error.__name__
    assert (heard, rounds.out) == ([b"1"], [b"1"])


def test_who_presses_ctrl_c_in_a_listener_is_obeyed() -> None:
    """``close`` may be what drives the sender; nothing was begun, and the queue gives it back when it closes."""

    def interrupted(_envelope: Envelope, _body: bytes) -> None:
        raise KeyboardInterrupt

    rounds = Rounds()
    rounds.heard.append(interrupted)
    rounds.put(*alone(b"1"))
    with pytest.raises(KeyboardInterrupt):
        rounds.step()
    assert rounds.out == []
    rounds.sender.abandon()
    rounds.queue.close()
    assert rounds.queue.stats().queued == 1
