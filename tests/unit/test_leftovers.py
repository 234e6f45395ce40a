"""Whether a queue that machines share still holds something that a sender may get to send."""

from dataclasses import replace

import pytest

from eventpost.cli.leftovers import ASK_AGAIN_S, Leftovers
from eventpost.errors import QueueUnavailable
from eventpost.queues.view import Lane, Status

EMPTY = Status(
    kind="streams", place="here", accepted=0, delivered=0, queued=0, dead=0, dropped={}, stored_bytes=0, dead_bytes=0,
    oldest_age_s=None, closes=True, values={"members": []},
)  # fmt: skip


class Fleet:
    """A queue as it is told to be; None: away."""

    def __init__(self):
        self.now = 100.0
        self.asked = 0
        self.status_is = EMPTY

    def status(self):
        """Count it."""
        self.asked += 1
        if self.status_is is None:
            raise QueueUnavailable("away")
        return self.status_is

    def hold(self, name, entries, idle_s):
        """Have somebody hold entries, who asked last so long ago."""
        member = {"name": name, "entries_held": entries, "idle_s": idle_s}
        self.status_is = replace(EMPTY, values={"members": [member]})


@pytest.fixture
def fleet():
    """Return a queue."""
    return Fleet()


@pytest.fixture
def look(fleet):
    """Return what looks, later each time by the seconds that it is given."""
    leftovers = Leftovers(fleet, "me", monotonic=lambda: fleet.now)

    def later(seconds=ASK_AGAIN_S):
        fleet.now += seconds
        return leftovers.look()

    return later


def test_an_empty_queue_holds_nothing(look):
    """Then the sender may end."""
    assert look() is False


def test_what_nobody_has_claimed_is_left(fleet, look):
    """Somebody put it just now."""
    fleet.status_is = replace(EMPTY, lanes=[Lane("http://x", 3)])
    assert look() is True


def test_while_the_server_is_away_nobody_knows(fleet, look):
    """So the sender stays."""
    fleet.status_is = None
    assert look() is True


def test_the_server_is_not_asked_all_the_time(fleet, look):
    """In between the answer is yes: to stay a moment longer costs nothing."""
    look()
    assert look(ASK_AGAIN_S / 2) is True
    assert fleet.asked == 1


def test_what_a_dead_sender_held_is_left_until_its_lease_ends(fleet, look):
    """It asks for nothing any more, however often one looks; gone with its lease, it is gone."""
    for passed in range(1, 60):
        fleet.hold("gone", 2, float(passed))
        assert look(1.0) is True
    fleet.hold("gone", 0, 60.0)
    assert look(1.0) is False


def test_what_a_living_sender_holds_is_its_own(fleet, look):
    """It has asked since it was first seen, so it lives; from then on it is not waited for."""
    fleet.hold("busy", 2, 5.0)
    assert look(1.0) is True
    fleet.hold("busy", 2, 0.1)
    assert look(1.0) is False
    fleet.hold("busy", 2, 1.1)
    assert look(1.0) is False


def test_what_this_sender_holds_itself_is_left(fleet, look):
    """It is settled, and the server does not know it yet."""
    fleet.hold("me", 1, 0.0)
    look(1.0)
    fleet.hold("me", 1, 0.0)
    assert look(1.0) is True
