"""How the queue is told what became of its leases, also while it can't be told."""

from collections.abc import Sequence
from math import inf
from typing import Any

from eventpost.event import Envelope, Event
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.protocol import Answer, Lease
from eventpost.sender.settlement import Settlement
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import Dropped, Signal, Trouble

URL = "http://127.0.0.1:1/"
NO = Answer(400, "no")


class Told(MemoryQueue):
    """A queue that notes what it is told, and can be made to fail."""

    def __init__(self, **options: Any) -> None:
        super().__init__(clock=ManualClock(), **options)
        self.told: list[Any] = []
        self.failing = False

    def _note(self, *what: Any) -> None:
        if self.failing:
            raise OSError(28, "No space left on device")
        self.told.append(what)

    def ack(self, leases: Sequence[Lease]) -> None:
        """Note it."""
        self._note("ack", len(leases))
        super().ack(leases)

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """Note it."""
        self._note("release", len(leases), delay_s)
        super().release(leases, delay_s)

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """Note it."""
        self._note("bury", len(leases), reason, answer)
        super().bury(leases, reason, answer)

    def tend(self) -> float | None:
        """Note it."""
        self._note("tend")
        return 7.0


class Recalling(Told):
    """A queue that may want leases back."""

    recalls = True

    def recalled(self) -> None:
        """Note it."""
        self._note("recalled")


class Hand:
    """A settlement over a queue that holds events, and what it said."""

    def __init__(self, queue: Told | None = None, events: int = 10) -> None:
        self.queue = queue or Told()
        self.signals: list[Signal] = []
        self.settlement = Settlement(self.queue, self.signals.append)
        self.queue.put([Event(Envelope(URL), b"%d" % number) for number in range(events)])

    def claim(self, count: int) -> list[Lease]:
        """Return leases."""
        return self.queue.claim(URL, count, 1 << 20)

    def troubles(self, what: str) -> int:
        """Return how often it was said that the queue could not do something."""
        said = Trouble(what, "OSError: [Errno 28] No space left on device")
        return sum(one == said for one in self.signals)


def test_deliveries_are_noted_together_and_once() -> None:
    """What is delivered in a round is one note; where nothing is, the queue hears nothing."""
    hand = Hand()
    hand.settlement.deliver(hand.claim(2))
    hand.settlement.deliver(hand.claim(1))
    assert hand.queue.told == []
    hand.settlement.settle(0.0)
    hand.settlement.settle(0.0)
    assert hand.queue.told == [("ack", 3)]
    assert hand.queue.stats().delivered == 3
    assert hand.settlement.again_at == inf


def test_deliveries_that_cannot_be_noted_are_noted_a_second_later() -> None:
    """With those that came since; each attempt that fails is told."""
    hand = Hand()
    hand.queue.failing = True
    hand.settlement.deliver(hand.claim(1))
    for now in (100.0, 100.5, 100.999):
        hand.settlement.settle(now)
    assert hand.settlement.again_at == 101.0
    assert hand.troubles("the queue could not note deliveries") == 1
    hand.settlement.settle(101.0)
    assert hand.troubles("the queue could not note deliveries") == 2
    hand.queue.failing = False
    hand.settlement.deliver(hand.claim(1))
    hand.settlement.settle(101.9)
    assert hand.queue.told == []
    hand.settlement.settle(102.0)
    assert hand.queue.told == [("ack", 2)]
    assert hand.settlement.again_at == inf
    hand.settlement.deliver(hand.claim(1))
    hand.settlement.settle(102.1)
    assert hand.queue.stats().delivered == 3


def test_at_the_end_they_are_noted_at_once() -> None:
    """Whoever ends does not wait for the second to be over."""
    hand = Hand()
    hand.queue.failing = True
    hand.settlement.deliver(hand.claim(1))
    hand.settlement.settle(0.0)
    hand.queue.failing = False
    hand.settlement.settle(0.1, at_once=True)
    assert hand.queue.told == [("ack", 1)]


def test_a_letter_is_buried_or_it_is_said_that_it_could_not_be() -> None:
    """With its reason and its answer."""
    hand = Hand()
    assert hand.settlement.bury(hand.claim(1), "http_400", NO) is True
    assert hand.queue.told == [("bury", 1, "http_400", NO)]
    hand.queue.failing = True
    assert hand.settlement.bury(hand.claim(1), "http_400", NO) is False
    assert hand.troubles("the queue could not set an event aside") == 1


def test_what_was_given_back_and_is_not_settled_is_counted() -> None:
    """By event, however often it is given back; delivered or buried it is settled; never less than none."""
    hand = Hand()
    hand.settlement.deliver(hand.claim(3))
    hand.settlement.settle(0.0)
    assert hand.settlement.returned == 0
    hand.settlement.release(hand.claim(3), 0.0)
    assert hand.settlement.returned == 3
    hand.settlement.release(hand.claim(3), 0.0)
    assert hand.settlement.returned == 3
    first, second, third, fresh = hand.claim(4)
    assert fresh.attempts == 1
    hand.settlement.deliver([first, fresh])
    hand.settlement.settle(0.0)
    assert hand.settlement.returned == 2
    assert hand.settlement.bury([second], "http_400", NO)
    assert hand.settlement.returned == 1
    hand.settlement.returned = 0  # an empty queue was seen meanwhile
    hand.settlement.deliver([third])
    hand.settlement.settle(0.0)
    assert hand.settlement.returned == 0
    assert ("release", 3, 0.0) in hand.queue.told


def test_more_settled_than_given_back_leaves_none() -> None:
    """The count errs upwards only: a flush waits rather longer."""
    hand = Hand()
    hand.settlement.release(hand.claim(2), 0.0)
    hand.settlement.returned = 1
    hand.settlement.deliver(hand.claim(2))
    hand.settlement.settle(0.0)
    assert hand.settlement.returned == 0


def test_what_cannot_be_given_back_stays_leased_and_is_told() -> None:
    """It comes back when the queue closes."""
    hand = Hand()
    leases = hand.claim(2)
    hand.queue.failing = True
    hand.settlement.release(leases, 3.5)
    assert hand.troubles("the queue could not take events back") == 1
    assert hand.queue.stats().in_flight == 2
    hand.queue.failing = False
    hand.settlement.release(leases, 3.5)
    assert hand.queue.told == [("release", 2, 3.5)]
    assert hand.queue.next_due_s() == 3.5


def test_periodic_work_that_fails_is_tried_again_soon() -> None:
    """The queue says when else."""
    hand = Hand()
    assert hand.settlement.tend() == 7.0
    hand.queue.failing = True
    assert hand.settlement.tend() == 1.0
    assert hand.troubles("the queue's periodic work failed") == 1


def test_a_queue_that_wants_its_leases_back_gets_what_was_not_sent() -> None:
    """And is told so; one that does not want them, or never does, is not asked."""
    for queue in (Told(), Recalling()):
        hand = Hand(queue)
        held = [hand.claim(2), hand.claim(1)]
        asked: list[int] = []

        def forgets(at: int, held: list[list[Lease]] = held, asked: list[int] = asked) -> list[Lease]:
            asked.append(at)
            return held[at]

        for recalls in (False, True):
            if isinstance(queue, Recalling):
                queue.recalls = recalls
            hand.settlement.recall([lambda: forgets(0), lambda: forgets(1)])
            if isinstance(queue, Recalling) and recalls:
                assert queue.told == [("release", 2, 0.0), ("release", 1, 0.0), ("recalled",)]
                assert asked == [0, 1]
            else:
                assert queue.told == asked == []
    queue.failing = True
    hand.settlement.recall([])
    assert hand.troubles("the queue could not go on with what it recalled") == 1


def test_what_was_dropped_is_told_by_reason_and_once() -> None:
    """As a difference to the last time."""
    hand = Hand(Told(events_max=10, overflow="drop_oldest"))
    hand.settlement.tell_dropped()
    assert hand.signals == []
    for more in (1, 3):
        hand.queue.put([Event(Envelope(URL), b"x")] * more)
        hand.settlement.tell_dropped()
        hand.settlement.tell_dropped()
    hand.queue.drop_remaining("memory_at_exit")
    hand.settlement.tell_dropped()
    assert hand.signals == [Dropped("overflow", 1), Dropped("overflow", 3), Dropped("memory_at_exit", 10)]
