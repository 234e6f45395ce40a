"""Two queues as one: which refusals spill, how what was spilled flows back, and the count of what is under way."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from eventpost import EventDispatcher, JournalQueue, LogEvent, MemoryQueue
from eventpost.errors import EventTooLarge, QueueError, QueueFull, QueueUnavailable
from eventpost.event import Event
from eventpost.queues.journal import inspect
from eventpost.queues.protocol import Lease, QueueStats
from eventpost.queues.spill import SpillQueue, carrier, flow
from eventpost.queues.spill.flow import Pace
from eventpost.queues.spill.queue import spills
from eventpost.testing import RecordingTransport
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import FlowedBack, Signal, Spilling, Trouble
from support import ALL, URL, HookedDisk, closes, event, interrupted, number_of

AWAY = QueueUnavailable("nobody answers", reason="redis_unavailable")
OTHER = "http://127.0.0.1:9/other"


class First(MemoryQueue):
    """A queue that may refuse: what ``refusal`` says, or returns for the events."""

    def __init__(self, **options: Any) -> None:
        super().__init__(events_max=1 << 30, **options)
        self.refusal: QueueError | Callable[[Sequence[Event]], QueueError | None] | None = None
        self.asked = 0
        self.taken: list[int] = []

    def put(self, events: Sequence[Event]) -> None:
        """Refuse, or store and note the order."""
        self.asked += 1
        refusal = self.refusal(events) if callable(self.refusal) else self.refusal
        if refusal is not None:
            raise refusal
        super().put(events)
        self.taken += [number_of(one.payload) for one in events]


@pytest.fixture
def first() -> First:
    """Make the queue that is away now and then."""
    return First()


@pytest.fixture
def spill(tmp_path: Path) -> JournalQueue:
    """Make the journal that stands in."""
    return JournalQueue(tmp_path / "spill")


@pytest.fixture
def queue(first: First, spill: JournalQueue) -> Iterator[SpillQueue]:
    """Make the two as one; in the end the sum closes."""
    both = SpillQueue(first, spill)
    both.emit = lambda _: None
    yield both
    assert closes(both.stats())
    both.close()
    assert closes(both.stats())


def until(met: Callable[[], Any], within_s: float = 15.0) -> None:
    """Wait for something; fail if it does not come."""
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.001)


def all_moved(queue: SpillQueue) -> bool:
    """Do rounds of periodic work until nothing is spilled."""
    queue.tend()
    return not queue.spilling


# -- which refusals spill, and which do not


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (QueueUnavailable(reason="redis_unavailable"), True),
        (QueueUnavailable(reason="redis_unconfirmed"), True),
        (QueueUnavailable(reason="redis_unusable"), True),
        (QueueUnavailable(), True),
        (QueueFull(reason="redis_full"), True),
        (QueueFull(), False),
        (EventTooLarge(), False),
        (QueueUnavailable(reason="closed"), False),
        (QueueUnavailable(reason="forked"), False),
    ],
    ids=lambda value: getattr(value, "reason", value),
)
def test_what_spills(error: QueueError, wanted: bool) -> None:
    """A first queue that can't store does, its own bound and its end do not."""
    assert spills(error) is wanted


def test_a_bound_that_was_configured_refuses(queue: SpillQueue, first: First) -> None:
    """``bytes_max`` says how much may wait; a spill behind it would be a second bound."""
    first.refusal = QueueFull()
    with pytest.raises(QueueFull):
        queue.put([event(1)])
    assert (queue.stats().accepted, queue.spilling) == (0, False)


def test_what_is_refused_by_both_says_both(tmp_path: Path, first: First) -> None:
    """A full disk under the spill: refused with its reason, and with what came before it; nothing is counted."""
    disk = HookedDisk()
    queue = SpillQueue(first, JournalQueue(tmp_path, disk=disk))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    disk.hooks["allocate"] = full
    first.refusal = AWAY
    with pytest.raises(QueueUnavailable, match=r"No space left .*nobody answers") as caught:
        queue.put([event(1)])
    assert caught.value.reason == "disk_full"
    assert queue.stats().accepted == 0
    disk.hooks.clear()
    queue.put([event(2)])
    disk.hooks["allocate"] = full
    with pytest.raises(QueueUnavailable) as caught:
        queue.put([event(3, size=1 << 20)])
    assert caught.value.reason == "disk_full", "it is refused behind older events, too"
    assert (queue.stats().accepted, queue.stats().queued) == (1, 1)
    queue.close()


def test_what_the_spill_refuses_goes_ahead_of_its_turn_rather_than_nowhere(tmp_path: Path, first: First) -> None:
    """The server is back and older events still flow: what the disk has no room for goes to the server."""
    disk = HookedDisk()
    queue = SpillQueue(first, JournalQueue(tmp_path, disk=disk))
    first.refusal = AWAY
    for number in range(flow.EVENTS_FIRST * 40):
        queue.put([event(number)])
    first.refusal = None
    queue.tend()
    assert queue.spilling

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    disk.hooks["allocate"] = full
    queue.put([event(9999, size=1 << 20)])
    assert first.taken[-1] == 9999
    first.refusal = AWAY
    with pytest.raises(QueueUnavailable) as caught:
        queue.put([event(10_000, size=1 << 20)])
    assert caught.value.reason == "disk_full"
    assert first.asked - len(first.taken) < 100, "it was asked once"
    asked = first.asked
    with pytest.raises(QueueUnavailable):
        queue.put([event(10_001, size=1 << 20)])
    assert first.asked == asked, "and not again while it is known to be away"
    queue.close()


# -- while it is away


def test_while_it_is_away_it_is_not_asked_again_by_puts(queue: SpillQueue, first: First) -> None:
    """The put that finds out may wait; those behind it go to the spill at once."""
    first.refusal = AWAY
    for number in range(10):
        queue.put([event(number)])
    assert first.asked == 1
    stats = queue.stats()
    assert (stats.accepted, stats.queued, stats.in_flight) == (10, 10, 0)


def test_it_flows_back_in_order_and_new_events_stay_behind(queue: SpillQueue, first: First) -> None:
    """While older events wait in the spill, the next go behind them, also when the server is back."""
    queue.put([event(0)])
    first.refusal = AWAY
    for number in range(1, 500):
        queue.put([event(number)])
    first.refusal = None
    for number in range(500, 520):
        queue.put([event(number)])
    assert first.taken == [0]
    until(lambda: all_moved(queue))
    queue.put([event(520)])
    assert first.taken == list(range(521))
    stats = queue.stats()
    assert (stats.accepted, stats.queued, stats.delivered) == (521, 521, 0)
    queue.ack(queue.claim(URL, 521, ALL))
    assert (queue.stats().delivered, queue.stats().queued) == (521, 0)


def test_the_server_is_tried_again_soon_and_then_more_seldom() -> None:
    """Steps begin small and double; a refusal doubles the pause, up to a second; too little room makes them smaller."""
    pace = Pace(flow.EVENTS_FIRST)
    sizes = []
    for _ in range(6):
        sizes.append(pace.events)
        pace = pace.went_well()
    assert sizes == [64, 128, 256, 512, 1024, 1024]
    pauses = []
    for _ in range(7):
        pace = pace.refused(full=False)
        pauses.append(pace.again_s)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert pace.events == flow.EVENTS_FIRST
    assert pace.refused(full=True).events == flow.EVENTS_FIRST // 4
    assert Pace(1).refused(full=True).events == 1
    assert pace.went_well().again_s == 0.0


def test_an_attempt_that_waits_takes_a_fifth_of_the_movers_time(tmp_path: Path) -> None:
    """A server that hangs costs its timeout; the sender has four times as long for the rest of its work."""
    clock = ManualClock()
    first = First(clock=clock)
    queue = SpillQueue(first, JournalQueue(tmp_path, clock=clock), clock=clock)

    def hang(_: Sequence[Event]) -> QueueError:
        clock.advance(1.0)
        return AWAY

    first.refusal = hang
    queue.put([event(1)])
    queue.tend()
    assert first.asked == 2
    for _ in range(39):
        clock.advance(0.1)
        queue.tend()
    assert first.asked == 2
    clock.advance(0.2)
    queue.tend()
    assert first.asked == 3
    queue.close()


def test_there_is_room_for_a_few_at_a_time(queue: SpillQueue, first: First) -> None:
    """A first queue with little room gets smaller steps, down to one event."""
    first.refusal = AWAY
    for number in range(20):
        queue.put([event(number)])
    first.refusal = lambda events: QueueFull() if len(events) > 1 else None
    until(lambda: all_moved(queue))
    assert first.taken == list(range(20))


def test_what_can_never_fit_becomes_a_dead_letter_and_holds_up_nothing(
    queue: SpillQueue, first: First, spill: JournalQueue
) -> None:
    """It is set aside in the spill's folder with the reason too_large, alone."""
    first.refusal = AWAY
    for number in range(20):
        queue.put([event(number, size=5000 if number == 7 else 10)])
    first.refusal = lambda events: EventTooLarge() if any(len(one.payload) > 1000 for one in events) else None
    until(lambda: all_moved(queue))
    assert first.taken == [number for number in range(20) if number != 7]
    assert (queue.stats().dead, queue.stats().queued) == (1, 19)
    (letter,) = inspect.dead_letters(spill.path)
    assert (letter.reason, number_of(letter.event.payload)) == ("too_large", 7)


def test_endpoints_take_turns(queue: SpillQueue, first: First) -> None:
    """A large backlog of one does not hold up the other."""
    first.refusal = AWAY
    queue.put([event(number) for number in range(3000)])
    queue.put([event(5000, url=OTHER)])
    first.refusal = None
    for _ in range(2):
        queue._flow.step(at_once=True)
    assert 5000 in first.taken
    assert len(first.taken) < 3001


# -- the count


class Instant(MemoryQueue):
    """A queue each of whose changes happens in one instruction, as another thread sees it: ``now`` is all there is."""

    def __init__(self) -> None:
        super().__init__()
        self.now: tuple[tuple[Event, ...], int, int] = ((), 0, 0)
        """What is queued, how many are in flight, how many are delivered."""

    def put(self, events: Sequence[Event]) -> None:
        """Store them."""
        queued, in_flight, delivered = self.now
        self.now = ((*queued, *events), in_flight, delivered)

    def lanes(self) -> Sequence[str]:
        """There is one."""
        return [URL]

    def pending(self, lane: str) -> int:
        """Count what is queued."""
        del lane
        return len(self.now[0])

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Lease the first ones."""
        del lane, bytes_max
        queued, in_flight, delivered = self.now
        leases = [Lease(one, None, 0.0) for one in queued[:events_max]]
        self.now = (queued[len(leases) :], in_flight + len(leases), delivered)
        return leases

    def ack(self, leases: Sequence[Lease]) -> None:
        """Count them as delivered."""
        queued, in_flight, delivered = self.now
        self.now = (queued, in_flight - len(leases), delivered + len(leases))

    def stats(self) -> QueueStats:
        """Return the count of this instant."""
        queued, in_flight, delivered = self.now
        accepted = len(queued) + in_flight + delivered
        return QueueStats(accepted=accepted, delivered=delivered, queued=len(queued), in_flight=in_flight)


def test_the_count_holds_at_every_instruction_of_a_move() -> None:
    """Whoever reads it while events move finds each of them once: not missing, not twice."""
    seen: set[tuple[int, int, int]] = set()

    def attempt(at: int) -> bool:
        first, spill = Instant(), Instant()
        queue = SpillQueue(first, spill)
        spill.put([event(number) for number in range(4)])
        came = False

        def look() -> None:
            nonlocal came
            came = True
            stats = queue.stats()
            assert closes(stats)
            seen.add((stats.accepted, stats.queued, stats.in_flight))

        interrupted(lambda: queue._flow.step(at_once=True), at, look)
        assert (len(first.now[0]), spill.now[2]) == (4, 4)
        return came

    at = 1
    while attempt(at):
        at += 1
    assert at > 300
    assert seen == {(4, 4, 0)}


def test_the_count_holds_at_every_instruction_of_who_reads_it() -> None:
    """The other way round: whatever has moved while somebody reads, it is counted once."""
    found: set[tuple[int, int]] = set()

    def attempt(at: int, events: int) -> bool:
        first, spill = Instant(), Instant()
        queue = SpillQueue(first, spill)
        spill.put([event(number) for number in range(events)])
        came = False

        def move() -> None:
            nonlocal came
            came = True
            queue._flow.step(at_once=True)

        stats = interrupted(queue.stats, at, move)
        assert closes(stats)
        found.add((events, stats.accepted))
        return came

    for events in (4, flow.EVENTS_FIRST * 3):  # one step moves all, or a part
        at = 1
        while attempt(at, events):
            at += 1
        assert at > 100
    assert found == {(4, 4), (flow.EVENTS_FIRST * 3, flow.EVENTS_FIRST * 3)}


def test_it_holds_where_the_spill_can_not_note_what_has_moved(tmp_path: Path, first: First) -> None:
    """The events are at the server and not acknowledged here: counted once, moved once, and noted later."""
    spill = JournalQueue(tmp_path)
    clock = ManualClock()
    queue = SpillQueue(first, spill, clock=clock)
    told: list[Signal] = []
    queue.emit = told.append
    first.refusal = AWAY
    for number in range(5):
        queue.put([event(number)])
    first.refusal = None
    ack = spill.ack

    def fail(_: Sequence[Lease]) -> None:
        raise OSError(5, "Input/output error")

    spill.ack = fail  # type: ignore[method-assign]
    for _ in range(3):
        queue.tend()
        clock.advance(2.0)
        stats = queue.stats()
        assert closes(stats)
        assert (stats.accepted, stats.queued) == (5, 5)
    assert first.taken == [0, 1, 2, 3, 4]
    assert [one.what for one in told if isinstance(one, Trouble)]
    spill.ack = ack  # type: ignore[method-assign]
    queue.tend()
    assert not queue.spilling
    assert (queue.stats().accepted, queue.stats().queued, spill.stats().delivered) == (5, 5, 5)
    queue.close()


def test_what_others_left_in_the_folder_is_adopted_and_counted_so(tmp_path: Path) -> None:
    """A process that died in an outage: whoever has the folder open moves its events, in their order."""
    dead = JournalQueue(tmp_path)
    dead.put([event(number) for number in range(50)])
    dead.close()
    first = First()
    queue = SpillQueue(first, JournalQueue(tmp_path))
    queue.put([event(100)])
    until(lambda: queue.tend() and len(first.taken) == 51)
    assert first.taken == [100, *range(50)]
    stats = queue.stats()
    assert (stats.accepted, stats.adopted, stats.queued) == (51, 50, 51)
    queue.close()
    assert inspect.folder_status(tmp_path).queued == 0


# -- puts beside a move


def test_a_put_at_any_instruction_of_a_move_keeps_its_turn() -> None:
    """Whatever the mover is doing, a put that comes then and the next one arrive in this order, behind the older."""

    def attempt(at: int) -> bool:
        first = First()
        queue = SpillQueue(first, MemoryQueue())
        first.refusal = AWAY
        queue.put([event(0), event(1)])
        first.refusal = None
        came = False

        def two_puts() -> None:
            nonlocal came
            came = True
            queue.put([event(2)])
            queue.put([event(3)])

        interrupted(lambda: queue._flow.step(at_once=True), at, two_puts)
        queue.put([event(4)])
        while queue.spilling:
            queue._flow.step(at_once=True)
        queue.put([event(5)])
        assert first.taken == [0, 1, *([2, 3] if came else []), 4, 5], at
        return came

    at = 1
    while attempt(at):
        at += 1
    assert at > 500


def test_a_move_at_any_instruction_of_a_put_lets_the_next_keep_its_turn() -> None:
    """The other way round: while a put is on its way into the spill, the mover finds that empty, or does not."""

    def attempt(at: int) -> bool:
        first = First()
        queue = SpillQueue(first, MemoryQueue())
        first.refusal = AWAY
        queue.put([event(0)])
        first.refusal = None
        came = False

        def move() -> None:
            nonlocal came
            came = True
            while queue._flow.step(at_once=True) is not None and not queue._spill.stats().in_flight:
                if not queue._spill.pending(URL):
                    break

        interrupted(lambda: queue.put([event(1)]), at, move)
        queue.put([event(2)])
        while queue.spilling:
            queue._flow.step(at_once=True)
        queue.put([event(3)])
        assert first.taken == [0, 1, 2, 3], at
        return came

    at = 1
    while attempt(at):
        at += 1
    assert at > 100


def test_threads_keep_their_order_while_the_server_comes_and_goes(queue: SpillQueue, first: First) -> None:
    """Four threads put, a fifth moves, the server flaps: each thread's events arrive in its order, each once."""
    chance = random.Random(1)
    each = 1500
    first.refusal = lambda _: AWAY if chance.random() < 0.02 else None

    def puts(base: int) -> None:
        for number in range(each):
            queue.put([event(base + number)])

    threads = [threading.Thread(target=puts, args=(at * 10_000,)) for at in range(4)]
    for one in threads:
        one.start()
    while any(one.is_alive() for one in threads):
        queue.tend()
        assert closes(queue.stats())
    first.refusal = None
    until(lambda: all_moved(queue))
    for at in range(4):
        own = [number for number in first.taken if number // 10_000 == at]
        assert own == list(range(at * 10_000, at * 10_000 + each))


def test_steady_puts_do_not_keep_the_spill_filled(queue: SpillQueue, first: First) -> None:
    """Puts that come without a pause let the last few pass: soon they go to the server directly again."""
    first.refusal = AWAY
    for number in range(300):
        queue.put([event(number)])
    first.refusal = None
    stop = threading.Event()

    def puts() -> None:
        number = 300
        while not stop.wait(0.00005):
            queue.put([event(number)])
            number += 1

    thread = threading.Thread(target=puts)
    thread.start()
    try:
        until(lambda: all_moved(queue))
        asked = first.asked
        until(lambda: first.asked > asked + 50)
        assert not queue.spilling
    finally:
        stop.set()
        thread.join()
    assert first.taken == sorted(first.taken)


# -- what it says, and the rest of a queue


def test_an_outage_is_told_once_and_so_is_its_end(queue: SpillQueue, first: First) -> None:
    """One signal when puts begin to go to the spill, one when all of it has flowed back."""
    told: list[Signal] = []
    queue.emit = told.append
    first.refusal = AWAY
    for number in range(10):
        queue.put([event(number)])
    first.refusal = None
    until(lambda: all_moved(queue))
    spilling, back = told
    assert isinstance(spilling, Spilling)
    assert (spilling.reason, spilling.detail) == ("redis_unavailable", "nobody answers")
    assert isinstance(back, FlowedBack)
    assert back.events == 10


def test_what_is_left_in_the_spill_is_said_at_the_end(first: First, spill: JournalQueue) -> None:
    """It stays on this machine's disk: how much, where, and what to do."""
    queue = SpillQueue(first, spill)
    told: list[Signal] = []
    queue.emit = told.append
    first.refusal = AWAY
    queue.put([event(1), event(2)])
    assert queue.left_here() == f"2 of them on this machine, in {spill.path}"
    queue.close()
    queue.close()
    (left,) = [one for one in told if isinstance(one, Trouble)]
    assert "2 of them on this machine" in left.detail
    assert "eventpost send --journal" in left.detail
    assert (queue.stats().queued, queue.stats().accepted) == (2, 2)
    with pytest.raises(QueueUnavailable) as caught:
        queue.put([event(3)])
    assert caught.value.reason == "closed"


def test_it_says_what_both_queues_are(queue: SpillQueue, first: First, spill: JournalQueue) -> None:
    """The durability is the weaker one; the first queue's own attributes are there; describe tells of the spill."""
    assert (queue.durability, queue.lease_s, queue.spill) == ("memory", None, spill)
    assert queue.events_max == first.events_max
    first.durability = "host"
    assert queue.durability == "os"
    first.refusal = AWAY
    queue.put([event(1)])
    told = queue.describe()
    assert told["durability"] == "os"
    assert told["spill"] == {
        "path": spill.path, "durability": "os", "spilling": True, "away": True, "queued": 1,
        "stored_bytes": spill.stats().stored_bytes,
    }  # fmt: skip
    assert "spilling" in repr(queue)
    with pytest.raises(AttributeError):
        queue.no_such_thing  # noqa: B018 - it is the asking
    assert not queue.recalls


def test_what_is_no_queue_is_refused_where_it_is_written(first: First) -> None:
    """A path is none: the remedy is in the message."""
    with pytest.raises(TypeError, match=r"spill must be a queue, such as JournalQueue\(folder\), not str"):
        SpillQueue(first, "/var/lib/app/spill")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another queue"):
        SpillQueue(first, first)


def test_a_sync_moves_what_it_can_and_does_not_wait_for_a_server_that_is_away(queue: SpillQueue, first: First) -> None:
    """The end of a process that only stores: all is at the server if that is there; else it is over at once."""
    first.refusal = AWAY
    for number in range(5000):
        queue.put([event(number)])
    asked = first.asked
    assert not queue.sync(5.0)
    assert first.asked == asked + 1
    first.refusal = None
    queue.sync(10.0)
    assert not queue.spilling
    assert len(first.taken) == 5000


def test_pending_counts_what_is_about_to_come(queue: SpillQueue, first: First) -> None:
    """While the server takes events again, what flows to it is pending; while it is away, it is not."""
    first.refusal = AWAY
    queue.put([event(number) for number in range(3000)])
    assert (queue.pending(URL), list(queue.lanes())) == (0, [])
    first.refusal = None
    queue._flow.step(at_once=True)
    assert queue.pending(URL) == 3000
    assert list(queue.lanes()) == [URL]


# -- a process without a sender


def ended(queue: SpillQueue) -> bool:
    """Tell whether the thread has gone."""
    return not queue._carrier._running


def test_without_a_sender_a_thread_moves_what_was_spilled_and_ends(queue: SpillQueue, first: First) -> None:
    """It begins with the first event that spills, and ends when nothing is left; the next outage starts another."""
    queue.sends = False
    for outage in range(2):
        first.refusal = AWAY
        for number in range(100):
            queue.put([event(outage * 100 + number)])
        first.refusal = None
        until(lambda: not queue.spilling and ended(queue))
    assert first.taken == list(range(200))


def test_it_looks_for_what_others_left_at_its_first_put_and_now_and_then(tmp_path: Path) -> None:
    """Nothing has spilled here; a dead process's events flow all the same."""
    clock = ManualClock()
    first = First(clock=clock)
    queue = SpillQueue(first, JournalQueue(tmp_path), clock=clock)
    queue.sends = False
    for at in range(2):
        dead = JournalQueue(tmp_path)
        dead.put([event(10 + at)])
        dead.close()
        queue._spill._keeper.reset()  # type: ignore[attr-defined]  # its own scan is due
        queue.put([event(at)])
        until(lambda at=at: 10 + at in first.taken and ended(queue))
        clock.advance(carrier.LOOK_S)
    queue.close()


def test_where_no_thread_may_be_started_puts_go_on_and_a_sync_moves(queue: SpillQueue, first: First) -> None:
    """In uWSGI's master, and at the interpreter's end."""
    queue.sends = False
    queue.may_start = lambda: False
    first.refusal = AWAY
    queue.put([event(1)])
    first.refusal = None
    assert ended(queue)
    queue.sync(5.0)
    assert first.taken == [1]


def test_an_interpreter_that_ends_starts_none(queue: SpillQueue, first: First, monkeypatch: Any) -> None:
    """Python refuses new threads then."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(carrier, "start_new_thread", refuse)
    queue.sends = False
    first.refusal = AWAY
    queue.put([event(1)])
    assert ended(queue)
    assert queue.stats().queued == 1


def test_a_thread_that_meets_the_unforeseen_tells_it_and_goes_on(
    queue: SpillQueue, first: First, monkeypatch: Any
) -> None:
    """What waits is somebody's data."""
    monkeypatch.setattr(carrier, "_AFTER_ERROR_S", 0.01)
    told: list[Signal] = []
    queue.emit = told.append
    queue.sends = False
    first.refusal = AWAY
    queue.put([event(1)])

    def surprise(_: Sequence[Event]) -> None:
        raise ZeroDivisionError

    first.refusal = surprise
    until(lambda: [one for one in told if isinstance(one, Trouble)])
    assert closes(queue.stats())
    first.refusal = None
    until(lambda: first.taken == [1] and ended(queue))


def test_a_child_starts_from_zero_and_moves_its_own(first: First, tmp_path: Path) -> None:
    """What the parent has spilled is the parent's."""
    queue = SpillQueue(first, JournalQueue(tmp_path))
    first.refusal = AWAY
    queue.put([event(1)])
    queue.after_fork_in_child()
    assert (queue.stats().accepted, queue.stats().queued, queue.spilling) == (0, 0, False)
    queue.put([event(2)])
    assert queue.spilling
    first.refusal = None
    until(lambda: all_moved(queue))
    assert 2 in first.taken
    queue.close()


def test_what_a_thread_overlooks_at_its_end_starts_the_next(first: First) -> None:
    """A put that stores after the last look finds the thread still running, and starts none: the thread looks again."""
    rounds: list[int] = []

    def work() -> None:
        rounds.append(len(rounds))
        one.start()  # what a put does that came just now

    one = carrier.Carrier(work, lambda: len(rounds) < 3, ManualClock(), lambda _: None)
    del first
    one.start()
    until(lambda: len(rounds) == 3 and not one._running)
    one.stop()
    one.start()
    assert len(rounds) == 3


def test_a_refused_move_leaves_the_count_alive(queue: SpillQueue, first: First) -> None:
    """What the first queue delivers while it takes no puts is seen."""
    queue.put([event(0)])
    first.refusal = AWAY
    queue.put([event(1)])
    queue.tend()
    queue.ack(queue.claim(URL, 1, ALL))
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.queued) == (2, 1, 1)


def test_a_purge_of_the_spill_gets_back_what_is_in_hand(tmp_path: Path, first: First) -> None:
    """Events that wait for the server in the mover's hands are given back before anything of theirs is erased."""

    class Recalling(JournalQueue):
        recalls = False  # type: ignore[assignment]  # who erases sets it
        held: ClassVar[list[int]] = []

        def recalled(self) -> None:
            self.held.append(self.stats().in_flight)

    spill = Recalling(tmp_path)
    queue = SpillQueue(first, spill)
    first.refusal = AWAY
    queue.put([event(number) for number in range(10)])
    queue.tend()
    assert spill.stats().in_flight == 10
    spill.recalls = True  # type: ignore[misc]
    queue.tend()
    assert spill.held == [0]
    spill.recalls = False  # type: ignore[misc]
    first.refusal = None
    until(lambda: all_moved(queue))
    assert first.taken == list(range(10))
    queue.close()


def test_a_door_counts_what_neither_takes(tmp_path: Path, first: First) -> None:
    """The server is away and the disk is full: False, a count and the disk's reason."""
    disk = HookedDisk()
    queue = SpillQueue(first, JournalQueue(tmp_path, disk=disk))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    disk.hooks["allocate"] = full
    first.refusal = AWAY
    with EventDispatcher(queue, transport=RecordingTransport(), linger_s=0.0) as dispatcher:
        assert dispatcher.dispatch_event(LogEvent(URL, {"n": 1, "visitors": []})) is False
        disk.hooks.clear()
        assert dispatcher.dispatch_event(LogEvent(URL, {"n": 1, "visitors": []})) is True
        first.refusal = None
        report = dispatcher.flush(10)
    assert (report.refused, report.delivered, report.closes) == ({"disk_full": 1}, 1, True)
