"""Whole runs of the sender, without threads, sockets or time: a scripted transport and a clock that is told."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventpost.event import Envelope, Event
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.protocol import QueueStats
from eventpost.sender.lane import Limits
from eventpost.sender.loop import Sender
from eventpost.sender.retry import RetryPolicy
from eventpost.testing.clock import ManualClock
from eventpost.testing.queue_contract import assert_sum_closes
from eventpost.testing.transports import RecordingTransport
from eventpost.transports.protocol import Request, Response, TransportError
from eventpost.watch.signals import BreakerChanged, Buried, Delivered, Dropped, Retrying, Signal, Trouble

UP = "http://127.0.0.1:1/v1/events"
DOWN = "http://127.0.0.1:2/v1/events"
Outcome = Response | TransportError


def shared(url: str = UP) -> Envelope:
    """Return an envelope whose events join."""
    return Envelope(url, shared=True, prefix=b"[", suffix=b"]")


def visitors(*numbers: int, url: str = UP) -> list[Event]:
    """Return events that may share requests."""
    return [Event(shared(url), b"%d" % number) for number in numbers]


def log_events(*numbers: int, url: str = UP) -> list[Event]:
    """Return events that go alone."""
    return [Event(Envelope(url), b"%d" % number) for number in numbers]


class World:
    """A sender with everything around it."""

    def __init__(
        self,
        answer: Callable[[Request], Outcome] | None = None,
        *,
        policy: RetryPolicy | None = None,
        chance: Callable[[], float] = lambda: 0.0,
        hold: bool = False,
        latency_s: float = 0.0,
        queue: MemoryQueue | None = None,
        **limits: Any,
    ) -> None:
        self.clock = ManualClock(start_s=0.0)
        self.queue = queue or MemoryQueue(clock=self.clock)
        self.queue._clock = self.clock
        self.transport = RecordingTransport(answer, hold=hold, monotonic=self.clock.monotonic, latency_s=latency_s)
        self.signals: list[Signal] = []
        self.on_request: list[Callable[[Envelope, bytes], None]] = []
        self.sender = Sender(
            self.queue,
            self.transport,
            clock=self.clock,
            chance=chance,
            emit=self.signals.append,
            policy=policy or RetryPolicy(jitter=0.0),
            limits=Limits(**limits),
            on_request=self.on_request,
        )

    def step(self) -> float:
        """Run one round; check the sum; return what the sender wants to wait."""
        wanted_s = self.sender.step(self.transport.wait(0.0))
        assert_sum_closes(self.queue)
        return wanted_s

    def run(self, seconds: float, *, steps_max: int = 5000) -> None:
        """Run for so long of the clock's time, jumping to each deadline."""
        until = self.clock.monotonic() + seconds
        idle = 0
        for _ in range(steps_max):
            wanted_s = self.step()
            due = [at for _, at in self.transport._under_way] if not self.transport.hold else []
            at = min([self.clock.monotonic() + wanted_s, *due])
            if at >= until:
                self.clock.advance(until - self.clock.monotonic())
                self.step()
                return
            ahead = max(0.0, at - self.clock.monotonic())
            idle = 0 if ahead else idle + 1
            assert idle < 1000, "the sender spins"
            self.clock.advance(ahead)
        raise AssertionError("too many steps: the sender spins")

    def of(self, kind: type[Signal]) -> list[Any]:
        """Return the signals of a kind."""
        return [signal for signal in self.signals if isinstance(signal, kind)]

    @property
    def bodies(self) -> list[bytes]:
        """What was sent."""
        return self.transport.bodies


def numbers(body: bytes) -> list[int]:
    """Return the numbers in a body."""
    return [int(part) for part in body.strip(b"[]").split(b",")]


# -- batching and lingering


def test_visitors_linger_and_share_a_request() -> None:
    """From the claim on, for linger_s; then what has come by then goes together, in order."""
    world = World()
    world.queue.put(visitors(1, 2))
    assert world.step() == pytest.approx(1.0)
    world.clock.advance(0.9)
    world.queue.put(visitors(3))
    world.step()
    assert world.bodies == []
    world.clock.advance(0.1)
    world.step()
    assert world.bodies == [b"[1,2,3]"]
    world.step()
    assert world.queue.stats().delivered == 3
    (delivered,) = world.of(Delivered)
    assert (delivered.events, delivered.attempts, delivered.status) == (3, 1, 204)


def test_a_log_event_never_lingers_and_shares_with_nobody() -> None:
    """It goes at once, past visitors that wait for company."""
    world = World()
    world.queue.put([*visitors(1), *log_events(2, 3), *visitors(4)])
    world.step()
    assert world.bodies == [b"2", b"3"]


def test_a_full_batch_goes_at_once() -> None:
    """batch_events_max of them are not made to wait."""
    world = World(batch_events_max=3)
    world.queue.put(visitors(*range(7)))
    world.step()
    assert world.bodies == [b"[0,1,2]", b"[3,4,5]"]


def test_a_flush_ends_the_linger() -> None:
    """At once, and is done when everything accepted before is settled."""
    world = World()
    world.queue.put(visitors(1))
    world.step()
    flush = world.sender.request_flush()
    world.step()
    assert world.bodies == [b"[1]"]
    assert not flush.done
    world.step()
    assert flush.done


def test_a_flush_does_not_wait_for_what_came_later() -> None:
    """Under steady traffic a flush ends although the queue is never empty."""
    world = World(latency_s=0.01)
    world.queue.put(log_events(*range(50)))
    flush = world.sender.request_flush()
    for at in range(100, 400):
        world.queue.put(log_events(at))
        world.run(0.004)
        if flush.done:
            break
    assert flush.done
    assert world.queue.stats().queued + world.queue.stats().in_flight > 0
    assert {numbers(body)[0] for body in world.bodies} >= set(range(50))


@pytest.mark.parametrize("fault", [Response(503), TransportError("connect", "")])
def test_a_flush_is_hopeless_if_only_endpoints_that_are_left_alone_are_waited_for(fault: Outcome) -> None:
    """Also with requests out to them, and with another endpoint that is well and idle; not while one may deliver."""
    policy = RetryPolicy(jitter=0.0, breaker_failures=1, first_s=30.0)
    world = World(policy=policy, hold=True)
    world.queue.put(log_events(1, 2, url=DOWN))
    world.queue.put(log_events(3))
    world.step()
    flush = world.sender.request_flush()
    by_body = {request.body: request for request in world.transport.under_way}
    world.transport.complete(by_body[b"1"], fault)
    world.step()
    assert not flush.hopeless
    world.transport.complete(by_body[b"3"])
    world.step()
    assert world.transport.under_way == [by_body[b"2"]]
    assert flush.hopeless
    assert not flush.done


def test_a_flush_is_not_hopeless_while_a_retry_may_help() -> None:
    """One endpoint is left alone; another's event failed once, and is due in a while."""
    world = World(lambda request: TransportError("connect", "") if request.envelope.url == DOWN else Response(503))
    world.queue.put(log_events(*range(8), url=DOWN))
    world.queue.put(log_events(100))
    flush = world.sender.request_flush()
    world.run(0.2)
    assert world.sender._lanes[DOWN].breaker.blocked
    assert not flush.hopeless
    world.transport.answer = lambda request: Response(204 if request.envelope.url == UP else 503)
    world.run(1.0)
    assert world.queue.stats().delivered == 1
    assert flush.hopeless


def test_a_flush_waits_for_what_was_given_back() -> None:
    """An old event that waits for its retry is still waited for, whatever younger ones are delivered meanwhile."""
    world = World(
        lambda request: Response(503) if request.body == b"7" and world.clock.monotonic() < 3 else Response(204)
    )
    world.queue.put(log_events(7))
    world.step()
    flush = world.sender.request_flush()
    for at in range(100, 120):
        world.queue.put(log_events(at))
        world.run(0.1)
        assert not flush.done
    world.run(5.0)
    assert flush.done


# -- the policy, in action


def test_a_retry_sends_the_same_bytes_after_growing_delays() -> None:
    """0.5, 1, 2, 4 s; the uuid inside cannot change, since the bytes do not."""
    times: list[float] = []

    def answer(request: Request) -> Outcome:
        times.append(world.clock.monotonic())
        return Response(503) if len(times) < 5 else Response(204)

    world = World(answer, policy=RetryPolicy(jitter=0.0, breaker_failures=100))
    world.queue.put(log_events(1))
    world.run(20.0)
    assert times == [0.0, 0.5, 1.5, 3.5, 7.5]
    assert world.bodies == [b"1"] * 5
    assert world.queue.stats().delivered == 1
    assert [signal.delay_s for signal in world.of(Retrying)] == [0.5, 1, 2, 4]


def test_a_bad_event_is_found_by_bisection_and_the_rest_is_delivered() -> None:
    """400 to every body that holds it: it alone dies, with its answer."""

    def answer(request: Request) -> Outcome:
        return Response(400, body=b"bad") if 37 in numbers(request.body) else Response(204)

    world = World(answer)
    world.queue.put(visitors(*range(100)))
    world.run(5.0)
    stats = world.queue.stats()
    assert (stats.delivered, stats.dead) == (99, 1)
    (letter,) = world.queue.dead_letters()
    assert (letter.event.payload, letter.reason) == (b"37", "http_400")
    assert letter.answer is not None
    assert (letter.answer.status, letter.answer.body) == (400, "bad")
    assert len(world.bodies) <= 20
    assert world.of(Buried) == [Buried(UP, 1, "http_400", 400)]


def test_a_body_that_is_too_large_is_halved_until_it_fits() -> None:
    """By bytes; a single event that is too large is dead, and only that."""
    world = World(lambda request: Response(413) if len(request.body) > 100 else Response(204))
    world.queue.put([*visitors(*range(60)), Event(shared(), b"9" * 150)])
    world.run(5.0)
    stats = world.queue.stats()
    assert (stats.delivered, stats.dead) == (60, 1)
    assert world.queue.dead_letters()[0].reason == "too_large"


def test_a_body_that_is_too_large_is_halved_by_bytes_and_not_by_events() -> None:
    """One large event and nine small ones are parted behind the large one: two more requests, and not four."""
    world = World(lambda request: Response(413) if len(request.body) > 100 else Response(204))
    world.queue.put([Event(shared(), b"9" * 90), *[Event(shared(), b"9" * 9) for _ in range(9)]])
    world.run(5.0)
    assert world.queue.stats().delivered == 10
    assert [request.events for request in world.transport.requests] == [10, 1, 9]


def test_a_poison_event_that_gets_5xx_is_found_while_others_are_taken() -> None:
    """Five times, then bisected; alone and still 5xx it is dead, and everything else is delivered."""

    def answer(request: Request) -> Outcome:
        return Response(500) if 37 in numbers(request.body) else Response(204)

    world = World(answer)
    world.queue.put(visitors(*range(100)))
    for at in range(200):
        world.queue.put(log_events(1000 + at))
        world.run(0.5)
    stats = world.queue.stats()
    assert (stats.delivered, stats.dead) == (299, 1)
    assert world.queue.dead_letters()[0].reason == "server_error"


def test_missing_answers_do_not_make_a_5xx_the_last() -> None:
    """Five 5xx are five answers that say so: an event that met four timeouts and a 503, while others went, is kept."""
    outcomes = iter([*[TransportError("timeout", "")] * 4, Response(503), *[TransportError("reset", "")] * 4])

    def answer(request: Request) -> Outcome:
        return next(outcomes, Response(204)) if request.body == b"7" else Response(204)

    world = World(answer)
    world.queue.put(log_events(7))
    for at in range(1000, 1600):
        world.queue.put(log_events(at))
        world.run(0.5)
    stats = world.queue.stats()
    assert (stats.delivered, stats.dead) == (601, 0)
    assert next(outcomes, None) is None


def test_an_event_that_failed_alone_takes_no_others_along_again() -> None:
    """One that never gets an answer has found its place once: whoever comes later waits for no timeout of its."""
    never = TransportError("timeout", "")
    world = World(lambda request: never if 7 in numbers(request.body) else Response(204),
                  policy=RetryPolicy(jitter=0.0, server_error_max=2))  # fmt: skip
    world.queue.put(visitors(7))
    for at in range(60):
        world.queue.put([*visitors(1000 + at), *log_events(2000 + at)])
        world.run(0.5)
    tried = [numbers(body) for body in world.bodies if 7 in numbers(body)]
    first_alone = tried.index([7])
    assert tried[first_alone:] == [[7]] * (len(tried) - first_alone)
    assert len(tried) - first_alone > 1


def test_the_cause_of_a_split_is_told_with_its_status() -> None:
    """Like that of any other retry."""
    world = World(lambda _request: Response(503), policy=RetryPolicy(jitter=0.0, server_error_max=1))
    world.queue.put(visitors(1, 2))
    world.run(1.5)
    retrying = world.of(Retrying)[0]
    assert (retrying.events, retrying.reason, retrying.status) == (2, "http_503", 503)


def test_a_refusal_between_failures_tells_that_the_endpoint_works() -> None:
    """It is left alone after so many failures in a row, and an answer of another kind ends a row."""
    policy = RetryPolicy(jitter=0.0, breaker_failures=2)
    world = World(lambda request: Response(400 if request.body == b"2" else 503), policy=policy)
    for number, left_alone in ((1, False), (2, False), (3, False), (4, True)):
        world.queue.put(log_events(number))
        world.step()
        world.step()
        assert bool(world.of(BreakerChanged)) is left_alone
    assert world.bodies == [b"1", b"2", b"3", b"4"]


def test_a_poison_event_is_found_also_when_nothing_else_comes() -> None:
    """The probes of the breaker, one event each, are the others that the endpoint takes."""
    world = World(lambda request: Response(500) if 37 in numbers(request.body) else Response(204))
    world.queue.put(visitors(*range(100)))
    world.run(900.0)
    stats = world.queue.stats()
    assert stats.delivered == 99
    assert stats.queued + stats.in_flight + stats.dead == 1


def test_an_outage_of_5xx_buries_nothing() -> None:
    """Hours of 503 to everything, then a recovery: all is delivered."""
    world = World(lambda _request: Response(503 if world.clock.monotonic() < 10_000 else 204))
    world.queue.put(visitors(*range(250)))
    world.queue.put(log_events(*range(300, 320)))
    world.run(10_200.0, steps_max=20_000)
    stats = world.queue.stats()
    assert (stats.delivered, stats.dead) == (270, 0)
    assert len(world.bodies) < 600


@pytest.mark.parametrize("kind", ["connect", "timeout", "reset", "dns"])
def test_an_outage_without_answers_buries_nothing_and_probes_seldom(kind: Any) -> None:
    """One event a probe, at most every 30 s; after it everything flows again."""
    world = World(lambda _request: TransportError(kind, "") if world.clock.monotonic() < 3600 else Response(204))
    world.queue.put(visitors(*range(500)))
    world.run(3600.0)
    sent = len(world.bodies)
    assert sent < 160
    assert [signal.state for signal in world.of(BreakerChanged)][:2] == ["open", "half_open"]
    world.run(100.0)
    assert world.queue.stats().delivered == 500


def test_an_endpoint_that_refuses_everything_is_held_after_twenty() -> None:
    """A proxy that answers 400 to everything: 20 are dead, then nothing more, and a repair delivers the rest."""
    world = World(lambda _request: Response(400 if world.clock.monotonic() < 1000 else 204))
    world.queue.put(log_events(*range(200)))
    world.run(1000.0)
    assert world.queue.stats().dead == 20
    assert world.of(BreakerChanged)[0].state == "held"
    world.run(200.0)
    stats = world.queue.stats()
    assert (stats.delivered, stats.dead) == (180, 20)


@pytest.mark.parametrize(
    "outcome", [Response(401), Response(403), Response(404), Response(302), TransportError("tls", "")]
)
def test_a_misconfigured_endpoint_loses_nothing(outcome: Outcome) -> None:
    """Held, probed, told; a repair delivers everything."""
    world = World(lambda _request: outcome if world.clock.monotonic() < 5000 else Response(204))
    world.queue.put(log_events(*range(30)))
    world.queue.put(visitors(*range(100, 400)))
    world.run(5000.0)
    assert world.queue.stats().dead == world.queue.stats().delivered == 0
    assert len(world.bodies) < 300
    assert {signal.state for signal in world.of(BreakerChanged)} == {"held"}
    world.run(200.0)
    assert world.queue.stats().delivered == 330


def test_one_event_that_is_forbidden_does_not_hold_up_the_rest() -> None:
    """A firewall's 403 to one body holds the endpoint, but the next probe is another event."""
    world = World(lambda request: Response(403) if 5 in numbers(request.body) else Response(204))
    world.queue.put(log_events(*range(50)))
    world.run(600.0)
    assert world.queue.stats().delivered == 49
    assert world.queue.stats().dead == 0


def test_a_429_with_retry_after_closes_the_tap() -> None:
    """Nothing is sent before that time has passed; then one request, then more."""
    world = World()
    world.transport.script([Response(429, retry_after="120")])
    world.queue.put(log_events(1))
    world.step()
    world.step()
    sent = len(world.bodies)
    world.queue.put(log_events(*range(2, 50)))
    world.run(119.0)
    assert len(world.bodies) == sent
    world.run(10.0)
    assert world.queue.stats().delivered == 49


def test_a_rate_limit_that_takes_some_is_left_alone_for_as_long_as_it_asks() -> None:
    """Of four requests in flight one is told to come back in two minutes, the others are taken: nothing goes before."""
    world = World(hold=True)
    world.queue.put(log_events(*range(50)))
    world.step()
    limited, *taken = list(world.transport.under_way)
    world.transport.complete(limited, Response(429, retry_after="120"))
    for request in taken:
        world.transport.complete(request)
    world.run(119.9)
    assert (len(world.bodies), world.queue.stats().delivered) == (4, 3)
    world.transport.hold = False
    world.run(30.0)
    assert world.queue.stats().delivered == 50


# -- lanes and flow


def test_an_endpoint_that_is_down_never_holds_up_another() -> None:
    """With a backlog of thousands for it, the other's events go as they come."""
    world = World(lambda request: TransportError("timeout", "") if request.envelope.url == DOWN else Response(204))
    world.queue.put(visitors(*range(5000), url=DOWN))
    world.run(60.0)
    for at in range(100):
        world.queue.put(log_events(at))
        world.step()
        world.step()
        assert world.queue.stats().delivered == at + 1
    world.run(5.0)
    assert world.queue.stats().in_flight <= 1000


def test_a_hanging_endpoint_never_holds_up_another() -> None:
    """Requests that hang until their timeout take at most their own lane's share."""
    world = World(hold=True)
    world.queue.put(log_events(*range(1000), url=DOWN))
    world.step()
    assert len(world.transport.under_way) == 4
    world.queue.put(log_events(1))
    world.step()
    assert world.transport.under_way[-1].envelope.url == UP


@pytest.mark.parametrize(("in_flight_max", "kept"), [(300, 4), (8, 1)])
def test_endpoints_that_hang_with_all_they_may_have_never_hold_up_another(in_flight_max: int, kept: int) -> None:
    """Well, with a backlog, and hanging from one moment to the next: neither a known endpoint waits nor a new one."""
    world = World(in_flight_max=in_flight_max)
    known, new = [f"http://127.0.0.1:{port}/v1/events" for port in (10, 11, 12)], "http://127.0.0.1:13/v1/events"
    for url in known:
        world.queue.put(log_events(1, url=url))
    world.run(1.0)
    assert world.queue.stats().delivered == 3
    world.transport.hold = True

    def hanging(url: str) -> list[Request]:
        return [request for request in world.transport.under_way if request.envelope.url == url]

    for url in (*known, new):
        world.queue.put(log_events(*range(5000), url=url))
        world.step()
        assert len(hanging(url)) >= kept
        for _ in range(12):  # it is well, while those before it hang
            for request in hanging(url):
                world.transport.complete(request)
            world.step()
        assert len(world.transport.under_way) <= in_flight_max
    assert len(hanging(known[0])) >= in_flight_max // 2
    assert len(hanging(known[0])) + 3 * kept <= in_flight_max


def test_an_endpoint_whose_large_bodies_hang_never_holds_up_another() -> None:
    """The bytes that may be in flight are all its own: another endpoint has one request out all the same."""
    world = World(hold=True, in_flight_bytes_max=1000)
    world.queue.put([Event(Envelope(DOWN), b"x" * 400) for _ in range(50)])
    world.step()
    world.queue.put(log_events(1, 2))
    world.step()
    assert [request.body for request in world.transport.under_way if request.envelope.url == UP] == [b"1"]
    for _ in range(3):
        world.step()
    assert len(world.transport.under_way) == 4


def test_in_flight_grows_while_a_backlog_stands_and_keeps_its_ceilings() -> None:
    """From 4, doubling; never more than in_flight_max less what is kept, nor in_flight_bytes_max bytes but for one."""
    world = World(hold=True, in_flight_max=20)
    world.queue.put(log_events(*range(2000)))
    seen = []
    for _ in range(60):
        world.step()
        seen.append(len(world.transport.under_way))
        for request in world.transport.under_way:
            world.transport.complete(request)
    assert seen[0] == 4
    assert max(seen) == 20 - 2
    world = World(hold=True, in_flight_bytes_max=1000)
    world.queue.put([Event(Envelope(UP), b"x" * 400) for _ in range(50)])
    world.step()
    assert sum(len(request.body) for request in world.transport.under_way) <= 1400


def test_without_a_backlog_in_flight_stays_where_it_starts() -> None:
    """Events that come no faster than four requests take them opens no fifth connection."""
    world, most = World(latency_s=0.05), 0
    for number in range(1000):
        world.queue.put(log_events(number))
        world.run(0.02)
        most = max(most, len(world.transport.under_way))
    assert 1 < most <= 4
    assert world.sender._lanes[UP].breaker.limit == 4


def test_after_a_recovery_requests_ramp_up_from_one() -> None:
    """The first round after the probe has one request in flight, then two, then four."""
    world = World(
        lambda _request: TransportError("connect", "") if world.clock.monotonic() < 20 else Response(204),
        latency_s=0.01,
    )
    world.queue.put(log_events(*range(500)))
    world.run(19.0)
    seen: list[int] = []
    for _ in range(2000):
        world.run(0.01)
        if world.sender._lanes[UP].breaker.state == "closed":
            seen.append(len(world.transport.under_way))
    assert seen[:3] == [1, 2, 4]
    assert max(seen) > 4
    assert world.queue.stats().delivered == 500


def test_what_is_claimed_is_bounded_by_what_may_be_in_flight() -> None:
    """A million queued events are not leased all at once."""
    world = World(hold=True)
    world.queue.put(visitors(*range(50_000)))
    world.step()
    assert world.queue.stats().in_flight <= 500


def test_the_last_words_of_dropped_events_are_told_once() -> None:
    """What the queue dropped is signalled by reason, as a difference."""
    clock = ManualClock(start_s=0.0)
    world = World(hold=True, queue=MemoryQueue(events_max=10, overflow="drop_oldest", clock=clock))
    for at in range(15):
        world.queue.put(log_events(at))
    world.run(130.0)
    assert world.of(Dropped) == [Dropped("overflow", 5)]


def test_a_probe_that_is_due_waits_for_room_without_spinning() -> None:
    """The one request that may be in flight is another endpoint's: its end wakes the sender, not the probe's time."""
    world = World(
        lambda request: Response(204) if request.envelope.url == UP else Response(403), latency_s=5.0, in_flight_max=1
    )
    world.queue.put(log_events(1, 2, url=DOWN))
    world.run(5.1)
    assert world.sender._lanes[DOWN].breaker.blocked
    world.queue.put(log_events(*range(3, 6)))
    world.step()
    world.clock.advance(2.0)
    probe_at = world.sender._lanes[DOWN].breaker.probe_due_at
    assert probe_at is not None
    assert probe_at <= world.clock.monotonic()
    assert world.step() > 0


# -- listeners and other people's mistakes


def test_a_probe_that_is_due_and_finds_nothing_to_send_does_not_spin() -> None:
    """A queue may promise what it does not hand out yet, as half a record of another process."""

    class Promising(MemoryQueue):
        def pending(self, lane: str) -> int:
            return 1

    world = World(lambda _: Response(403), queue=Promising())
    world.queue.put(log_events(1))
    world.run(5.0)
    assert world.sender._lanes[UP].breaker.blocked
    world.clock.advance(600.0)
    assert world.queue.claim(UP, 1, 1)
    requests = len(world.bodies)
    assert 0.01 <= world.step() <= 0.1
    assert len(world.bodies) == requests


def test_listeners_to_requests_hear_each_event_once() -> None:
    """The first request of an event, not its retries, nor the halves of a batch that was refused."""

    def answer(request: Request) -> Outcome:
        if len(world.bodies) == 1:
            return Response(503)
        return Response(400) if 3 in numbers(request.body) else Response(204)

    world = World(answer)
    heard: list[bytes] = []
    world.on_request.append(lambda envelope, body: heard.append(body))
    world.queue.put(visitors(1, 2, 3))
    world.run(1.2)
    world.queue.put(visitors(4))
    world.run(30.0)
    assert Counter(number for body in heard for number in numbers(body)) == {1: 1, 2: 1, 3: 1, 4: 1}


def test_a_listener_that_fails_costs_nothing() -> None:
    """It is told, and the request goes out."""
    world = World()
    world.on_request.append(lambda envelope, body: 1 / 0)  # type: ignore[arg-type,return-value] # it fails on purpose
    world.queue.put(log_events(1))
    world.run(1.0)
    assert world.queue.stats().delivered == 1
    assert world.of(Trouble)


class Failing(MemoryQueue):
    """A queue whose disk is full now and then."""

    failing: frozenset[str] = frozenset()

    def ack(self, leases: Any) -> None:
        """Fail, or do it."""
        self._maybe("ack")
        super().ack(leases)

    def release(self, leases: Any, delay_s: float = 0.0) -> None:
        """Fail, or do it."""
        self._maybe("release")
        super().release(leases, delay_s)

    def bury(self, leases: Any, reason: str, answer: Any = None) -> None:
        """Fail, or do it."""
        self._maybe("bury")
        super().bury(leases, reason, answer)

    def claim(self, lane: str, events_max: int, bytes_max: int) -> Any:
        """Fail, or do it."""
        self._maybe("claim")
        return super().claim(lane, events_max, bytes_max)

    def tend(self) -> float | None:
        """Fail, or do it."""
        self._maybe("tend")
        return super().tend()

    def _maybe(self, operation: str) -> None:
        if operation in self.failing:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("operation", ["ack", "bury", "claim", "tend"])
def test_a_queue_that_fails_for_a_while_loses_nothing(operation: str) -> None:
    """Deliveries are noted later, letters buried later, events claimed later; nothing is sent over and over."""
    queue = Failing()
    world = World(lambda request: Response(400) if request.body == b"3" else Response(204), queue=queue)
    queue.failing = frozenset({operation})
    queue.put(log_events(1, 2, 3, 4))
    for _ in range(20):
        world.clock.advance(0.1)
        world.step()
    assert {one.detail for one in world.of(Trouble)} == {"OSError: [Errno 28] No space left on device"}
    queue.failing = frozenset()
    world.run(200.0)
    stats = queue.stats()
    assert (stats.delivered, stats.dead, stats.queued, stats.in_flight) == (3, 1, 0, 0)
    if operation == "ack":
        assert len(world.bodies) == 4


def test_a_transport_that_raises_loses_nothing() -> None:
    """start() is not supposed to raise; if it does, the event goes back."""
    world = World()
    start = world.transport.start

    def broken(request: Request) -> None:
        if world.clock.monotonic() < 2:
            raise RuntimeError("broken")
        start(request)

    world.transport.start = broken  # type: ignore[method-assign] # a transport with a mistake in it
    world.queue.put(log_events(1, 2, 3))
    for _ in range(100):
        world.clock.advance(0.1)
        world.step()
    assert world.queue.stats().delivered == 3


def test_abandoning_gives_everything_back() -> None:
    """What lingers, what is ready and what is in flight is queued again when the sender ends."""
    world = World(hold=True)
    world.queue.put(log_events(*range(20)))
    world.queue.put(visitors(*range(100, 103)))
    world.step()
    world.sender.abandon()
    assert (world.queue.stats().in_flight, world.queue.stats().queued) == (0, 23)
    assert (world.sender._in_flight.requests, world.sender._in_flight.bytes) == (0, 0)


def test_an_event_that_met_no_endpoint_waits_as_long_as_others() -> None:
    """Before the endpoint is left alone, too: nobody is asked again at once."""
    times: list[float] = []

    def answer(_request: Request) -> Outcome:
        times.append(world.clock.monotonic())
        return TransportError("connect", "") if len(times) < 4 else Response(204)

    world = World(answer, policy=RetryPolicy(jitter=0.0, breaker_failures=100))
    world.queue.put(log_events(1))
    world.run(20.0)
    assert times == [0.0, 0.5, 1.5, 3.5]


def test_an_answer_that_cannot_be_dealt_with_costs_no_other() -> None:
    """It is told, its events come back, and the others are delivered."""
    world = World(lambda request: Response("nonsense" if request.body == b"1" and len(world.bodies) < 3 else 204))  # type: ignore[arg-type] # a transport with a mistake in it
    world.queue.put(log_events(1, 2))
    world.run(10.0)
    assert world.queue.stats().delivered == 2
    (said,) = world.of(Trouble)
    assert (said.what, said.detail.partition(":")[0]) == ("an answer could not be dealt with", "TypeError")


# -- anything


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_is_answered_nothing_is_lost(seed: int) -> None:
    """Random answers, endpoints that come and go; once they are well, everything is delivered or dead."""
    dice = random.Random(seed)
    badness = dice.random()
    outcomes: list[Outcome] = [
        *(Response(status) for status in (200, 204, 301, 400, 401, 408, 413, 422, 429, 500, 503, 0)),
        Response(429, retry_after="3"),
        Response(503, retry_after="nonsense"),
        *(TransportError(kind, "") for kind in ("connect", "timeout", "reset", "tls", "dispatcher", "other")),  # type: ignore[arg-type]
    ]
    well = False

    def answer(_request: Request) -> Outcome:
        return Response(204) if well or dice.random() > badness else dice.choice(outcomes)

    world = World(
        answer,
        chance=dice.random,
        latency_s=dice.choice((0.0, 0.05, 2.0)),
        batch_events_max=dice.choice((1, 3, 10)),
        policy=RetryPolicy(),
    )
    made = 0
    for _ in range(25):
        for _ in range(dice.randint(0, 4)):
            make = dice.choice((visitors, log_events))
            count = dice.randint(1, 8)
            world.queue.put(make(*range(made, made + count), url=dice.choice((UP, DOWN))))
            made += count
        world.run(dice.choice((0.01, 0.3, 2.0, 40.0)))
    well = True
    world.run(400.0)
    stats = world.queue.stats()
    assert stats.accepted == made
    assert stats.delivered + stats.dead == made, (stats, world.sender._lanes)
    delivered = sum(signal.events for signal in world.of(Delivered))
    assert delivered == stats.delivered
    assert sum(signal.events for signal in world.of(Buried)) == stats.dead
    assert (world.sender._in_flight.requests, world.sender._in_flight.bytes) == (0, 0)


def test_a_queue_that_is_tended_often_is_not_counted_as_often() -> None:
    """A count may look at every file of a folder: once a second is enough to tell of what was dropped."""

    class Watching(MemoryQueue):
        counts = 0

        def tend(self) -> float | None:
            return 0.01

        def stats(self) -> QueueStats:
            self.counts += 1
            return super().stats()

    queue = Watching(events_max=2, overflow="drop_oldest")
    world = World(queue=queue)
    for _ in range(200):
        world.sender.step([])
        world.clock.advance(0.01)
    assert queue.counts <= 4
    queue.put(log_events(1, 2))
    queue.put(log_events(3))
    world.run(1.1)
    assert [signal.events for signal in world.of(Dropped)] == [1]


def test_what_is_no_longer_leased_is_not_sent() -> None:
    """A sender that slept with events lingering, whose leases others have taken meanwhile, sends the rest only."""
    world = World(linger_s=10.0)
    world.queue.put(visitors(1, 2, 3))
    world.step()
    (batch,) = next(iter(world.sender._lanes.values())).former.held()
    taken = batch.leases[1]
    taken.live = False  # as the queue says when it has learned so
    world.clock.advance(11.0)
    world.step()
    assert world.bodies == [b"[1,3]"]


def test_a_batch_of_which_nothing_is_left_is_no_request() -> None:
    """Nor is it in flight; what comes later goes out as ever."""
    world = World(linger_s=10.0)
    world.queue.put(visitors(1, 2))
    world.step()
    (batch,) = next(iter(world.sender._lanes.values())).former.held()
    for lease in batch.leases:
        lease.live = False
    world.clock.advance(11.0)
    world.step()
    assert world.bodies == []
    assert world.sender._in_flight.requests == 0
    world.queue.put(visitors(3))
    world.run(11.0)
    assert world.bodies == [b"[3]"]
