"""What every queue hands out: leases, answers and the count."""

from eventpost.event import Envelope, Event
from eventpost.queues.protocol import Answer, Lease, QueueStats

EVENT = Event(Envelope("http://user:secret@127.0.0.1:9/v1?key=secret"), b"payload")


def test_a_count_of_nothing() -> None:
    """Zero of everything, and no age where there is nothing that could be old; it adds up."""
    assert QueueStats() == QueueStats(0, 0, 0, 0, 0, 0, {}, 0, None)


def test_a_lease_is_the_first_one_and_lives() -> None:
    """Unless its queue says otherwise; neither payload nor secrets are in its repr."""
    lease = Lease(EVENT, "ref", 3.0)
    assert (lease.event, lease.ref, lease.claimed_at, lease.attempts, lease.live) == (EVENT, "ref", 3.0, 1, True)
    assert Lease(EVENT, "ref", 3.0, 7).attempts == 7
    assert "attempts=1, live=True" in repr(lease)
    assert "secret" not in repr(lease)
    assert "payload" not in repr(lease)


def test_no_answer_is_none_of_http() -> None:
    """Status 0 and nothing said; what was said is not shown, for it may quote the event."""
    assert Answer() == Answer(0, "")
    assert repr(Answer(400, "secret")) == "Answer(400, <6 characters>)"
