"""One round of the sender: judge what came back, settle it, claim, form batches, start requests.

``Sender.step`` never waits and reads no clock but the one it was handed; whoever drives it (``thread.py``, a test, a
simulation) waits on the transport in between.  What an answer means is in ``retry.py``, when an endpoint is left alone
in ``breaker.py``, what travels together in ``batch.py``; here they meet.

Every lease is in exactly one place: in a lane's ``former`` (lingering or ready), in ``flying`` (its request is out), or
settled.  Leases of an endpoint that goes down stay in the former and are the next probes; new ones are not claimed.
How the queue is told is in ``settlement.py``, how many requests may be out in ``in_flight.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from ..clock import Clock
from ..event import Envelope, Event
from ..queues.protocol import Answer, Lease, Queue
from ..transports.protocol import Completion, Request, Response, Transport, TransportError
from ..watch.signals import BreakerChanged, Buried, Retrying, Signal, Trouble
from ..watch.signals import Delivered as DeliveredSignal
from .batch import Batch
from .breaker import Change
from .flush import Flush
from .in_flight import InFlight
from .lane import Lane, Limits
from .retry import Delivered, History, Hold, Rejected, RetryLater, RetryPolicy, TooLarge, blames_event, judge
from .settlement import Settlement

IDLE_S: Final = 60.0
TELL_S: Final = 1.0
PROBE_AGAIN_S: Final = 0.05
ANSWER_CHARS_MAX: Final = 1024
NEVER: Final = 1 << 62
OnRequest = Callable[[Envelope, bytes], None]


class Sender:
    """Moves events from a queue to their endpoints.  All methods but :meth:`request_flush` belong to one thread.

    Args:
        queue, transport, clock: the parts it works with.
        chance: returns a random float in [0, 1).
        emit: takes every signal; must not raise.
        policy, limits: see there.
        send_to: URL that everything is sent to; None: each event's own.
        on_request: callables that hear of each event's first request; read anew each time.
        project_of: returns what signals name for an event's project; must not raise.
    """

    def __init__(
        self,
        queue: Queue,
        transport: Transport,
        *,
        clock: Clock,
        chance: Callable[[], float],
        emit: Callable[[Signal], None],
        policy: RetryPolicy,
        limits: Limits,
        send_to: str | None = None,
        on_request: Sequence[OnRequest] = (),
        project_of: Callable[[Event], str] = lambda _: "",
    ) -> None:
        self._queue = queue
        self._transport = transport
        self._clock = clock
        self._chance = chance
        self._emit = emit
        self._policy = policy
        self._limits = limits
        self._send_to = send_to
        self._on_request = on_request
        self._project_of = project_of
        self._start_from_zero()

    def _start_from_zero(self) -> None:
        self.end_by = inf
        """When requests that begin now have to have ended, in monotonic seconds: who drives this has no longer."""
        self._lanes: dict[str, Lane] = {}
        self._in_flight = InFlight(self._limits)
        self._settlement = Settlement(self._queue, self._emit)
        self._tend_at = self._tell_at = -inf
        self._claimed = False
        """Something was claimed since the last periodic work, which may bring the next forward."""
        self._wishes: deque[Flush] = deque()
        self._flushes: list[Flush] = []

    def after_fork_in_child(self) -> None:
        """Forget everything: it is the parent's."""
        self._start_from_zero()

    def request_flush(self) -> Flush:
        """End lingering until all that is accepted by now is settled.  From any thread; wake the sender then."""
        flush = Flush()
        self._wishes.append(flush)
        return flush

    # -- one round

    def step(self, completions: Sequence[Completion]) -> float:
        """Do all that can be done now; return the seconds until there is something to do without being told."""
        now = self._clock.monotonic()
        self._judge(completions, now)
        del completions  # else their bodies and leases would live on beside those that are claimed next
        self._settlement.settle(now)
        if now >= self._tend_at:
            self._tend(now)
            self._claimed = False
        while self._wishes:
            self._note(self._wishes.popleft())
        claimed_before = self._claimed
        self._send(now)
        if self._claimed and not claimed_before:  # what came while the queue was idle: it may want a sync soon
            self._tend_at = min(self._tend_at, self._tended(now))
        if self._flushes:
            self._check_flushes()
        return self._timeout_s(now)

    def land(self, completions: Sequence[Completion]) -> bool:
        """Take what came back and start nothing more; return whether an answer is still waited for."""
        now = self._clock.monotonic()
        self._judge(completions, now)
        self._settlement.settle(now)
        return self._in_flight.requests > 0

    def _judge(self, completions: Sequence[Completion], now: float) -> None:
        for completion in completions:
            try:
                self._complete(completion, now)
            except Exception as error:  # noqa: BLE001 - one answer's surprise must not cost the others
                self._emit(Trouble("an answer could not be dealt with", f"{type(error).__name__}: {error}"))
                self._salvage(completion.request.token)

    def _send(self, now: float) -> None:
        for url in self._queue.lanes():
            if url not in self._lanes:
                self._lanes[url] = Lane(url, self._policy, self._limits, self._send_to)
                self._in_flight.meet()
        lanes = self._lanes
        for lane in list(lanes.values()):
            try:
                self._send_lane(lane, now)
            except Exception as error:  # noqa: BLE001 - one endpoint's trouble must not hold up another
                self._emit(Trouble("events could not be claimed or started", f"{type(error).__name__}: {error}"))
        if len(lanes) > 1:  # the next round begins with the next endpoint
            first = next(iter(lanes))
            lanes[first] = lanes.pop(first)

    def _send_lane(self, lane: Lane, now: float) -> None:
        limits, former, breaker = self._limits, lane.former, lane.breaker
        if breaker.blocked:
            if self._in_flight.room(lane, now):
                self._probe(lane, now)
            return
        linger_s = 0.0 if self._flushes else limits.linger_s
        self._start_ready(lane, now)
        while True:
            room = self._in_flight.room(lane, now) - len(former.ready)
            if room <= 0:
                former.finish(now, linger_s)
                lane.backlog = bool(former.ready) or self._queue.pending(lane.url) > 0
                return
            wanted = room if lane.solo else room * limits.batch_events_max
            bytes_max = limits.in_flight_bytes_max - self._in_flight.bytes
            leases = self._queue.claim(lane.url, wanted, max(1, bytes_max))
            claimed = len(leases)
            if leases:
                lane.solo = not leases[-1].event.envelope.shared
                joining = lane.single_out(leases, self._policy.server_error_max) if lane.suspects else leases
                former.add(joining, now)
                self._count_claimed(lane, leases)
            former.finish(now, linger_s)  # only now: what was just claimed may still join
            self._start_ready(lane, now)
            if not claimed or (claimed < wanted and self._in_flight.bytes < limits.in_flight_bytes_max):
                lane.backlog = False
                if not lane.flying and not former.ready:
                    breaker.ran_dry()
                return

    def _start_ready(self, lane: Lane, now: float) -> None:
        ready, in_flight = lane.former.ready, self._in_flight
        for _ in range(min(len(ready), in_flight.room(lane, now)) if ready else 0):
            self._start(lane, ready.popleft())
            if in_flight.bytes >= self._limits.in_flight_bytes_max:
                return

    def _probe(self, lane: Lane, now: float) -> None:
        former = lane.former
        if not former.ready:
            former.finish(now, 0.0)
        if not former.ready:
            leases = self._queue.claim(lane.url, 1, 1)
            if not leases:
                return
            former.add(leases, now)
            self._count_claimed(lane, leases)
            former.finish(now, 0.0)
        batch = former.ready.popleft()
        if len(batch.leases) > 1:
            batch, rest = batch.split(1)
            former.ready.appendleft(rest)
        batch.probe = True
        self._tell(lane, lane.breaker.start_probe())
        self._start(lane, batch)

    def _start(self, lane: Lane, batch: Batch) -> None:
        body = batch.body()
        if self._on_request and not batch.started:
            self._tell_request(batch, body)
        batch.started = True
        self._in_flight.add(lane, batch)
        try:
            envelope = batch.envelope if self._send_to is None else batch.envelope._replace(url=self._send_to)
            timeout_s = self._limits.timeout_s
            if self.end_by < inf:
                timeout_s = min(timeout_s, max(0.001, self.end_by - self._clock.monotonic()))
            self._transport.start(Request(envelope, body, batch, timeout_s, len(batch.leases)))
        except BaseException:
            self._salvage(batch)
            raise

    def _tell_request(self, batch: Batch, body: bytes) -> None:
        first_times = [lease.event.payload for lease in batch.leases if lease.attempts == 1]
        if len(first_times) < len(batch.leases):
            if not first_times:
                return
            body = batch.envelope.body(first_times)
        for listener in list(self._on_request):
            try:
                listener(batch.envelope, body)
            except KeyboardInterrupt:  # a person's, while close() drives this
                raise
            except BaseException as error:  # noqa: BLE001 - a listener's mistake, sys.exit too, costs nothing else
                self._emit(Trouble("a listener to requests failed", type(error).__name__))

    # -- what came back

    def _complete(self, completion: Completion, now: float) -> None:
        batch: Batch = completion.request.token
        outcome = completion.outcome
        lane = self._lanes.get(batch.envelope.url)
        if lane is None or not self._in_flight.remove(lane, batch):
            return
        alone = len(batch.leases) == 1
        errors, took_others = 0, False
        if blames_event(outcome):
            errors, took_others = lane.suspect(batch, answered=isinstance(outcome, Response))
        history = History(batch.attempts, lane.refusals, errors, took_others)
        verdict = judge(self._policy, outcome, history, alone=alone, now_epoch_s=self._clock.time())
        if isinstance(verdict, Delivered):
            self._deliver(lane, batch, verdict.status, outcome.elapsed_s, now)
        elif isinstance(verdict, RetryLater):
            self._retry(lane, batch, verdict, now)
        elif isinstance(verdict, Hold):
            unsent = isinstance(outcome, TransportError)
            change = lane.breaker.hold(now, verdict.reason, self._chance(), probe=batch.probe)
            self._tell(lane, change, outcome.message if isinstance(outcome, TransportError) else "")
            self._give_back(lane, batch, verdict.reason, verdict.status, 0.0 if unsent else self._delay_s(batch))
        else:
            self._refused(lane, batch, verdict, outcome)

    def _salvage(self, batch: Batch) -> None:
        """Give back what no answer will come for, or what could not be settled by it."""
        lane = self._lanes[batch.envelope.url]
        self._in_flight.remove(lane, batch)
        if batch.probe:
            lane.breaker.probe_vanished()
        self._release(lane, [lease for lease in batch.leases if lease.live], self._delay_s(batch))

    def _deliver(self, lane: Lane, batch: Batch, status: int, elapsed_s: float, now: float) -> None:
        self._settlement.deliver(batch.leases)
        lane.deliveries += 1
        lane.refusals = 0
        lane.acquit(batch)
        self._tell(lane, lane.breaker.delivered(now, backlog=lane.backlog, probe=batch.probe))
        project = self._project_of(batch.leases[0].event)  # all of a batch have one envelope
        self._emit(DeliveredSignal(lane.endpoint, len(batch.leases), status, elapsed_s, batch.attempts, project))

    def _retry(self, lane: Lane, batch: Batch, verdict: RetryLater, now: float) -> None:
        if verdict.reason == "closed":  # our own transport's end says nothing about the endpoint
            if batch.probe:
                lane.breaker.probe_vanished()
            self._give_back(lane, batch, verdict.reason, 0, 0.0)
            return
        change = lane.breaker.failed(
            now,
            verdict.reason,
            self._chance(),
            probe=batch.probe,
            wait_s=verdict.delay_min_s,
            throttled=verdict.status == 429,
        )
        self._tell(lane, change)
        if verdict.split:
            lane.former.ready.extendleft(reversed(batch.halves()))
            self._emit(Retrying(lane.endpoint, len(batch.leases), verdict.reason, 0.0, verdict.status))
            return
        # While the endpoint is left alone, the wait is the breaker's; what may be the cause itself goes to the back.
        waits_itself = verdict.blames_event or not lane.breaker.blocked
        delay_s = max(self._delay_s(batch), verdict.delay_min_s) if waits_itself else 0.0
        self._give_back(lane, batch, verdict.reason, verdict.status, delay_s)

    def _refused(
        self, lane: Lane, batch: Batch, verdict: Rejected | TooLarge, outcome: Response | TransportError
    ) -> None:
        lane.breaker.answered()
        if batch.probe:
            lane.breaker.probe_vanished()
        if len(batch.leases) > 1:
            halves = batch.halves_by_bytes() if isinstance(verdict, TooLarge) else batch.halves()
            lane.former.ready.extendleft(reversed(halves))
            return
        reason = "too_large" if isinstance(verdict, TooLarge) else verdict.reason
        body = outcome.body if isinstance(outcome, Response) else b""
        answer = Answer(verdict.status, body.decode("utf-8", "replace")[:ANSWER_CHARS_MAX])
        if not self._settlement.bury(batch.leases, reason, answer):
            self._give_back(lane, batch, reason, verdict.status, self._delay_s(batch))
            return
        lane.refusals += 1
        lane.acquit(batch)
        self._emit(Buried(lane.endpoint, 1, reason, verdict.status, self._project_of(batch.leases[0].event)))

    def _delay_s(self, batch: Batch) -> float:
        return self._policy.delay_s(batch.attempts, self._chance())

    def _give_back(self, lane: Lane, batch: Batch, reason: str, status: int, delay_s: float) -> None:
        self._release(lane, batch.leases, delay_s)
        self._emit(Retrying(lane.endpoint, len(batch.leases), reason, delay_s, status))

    def _release(self, lane: Lane, leases: Sequence[Lease], delay_s: float) -> None:
        self._settlement.release(leases, delay_s)
        lane.delayed_until = max(lane.delayed_until, self._clock.monotonic() + delay_s)

    def _tell(self, lane: Lane, change: Change | None, detail: str = "") -> None:
        if change is not None:
            self._emit(BreakerChanged(lane.endpoint, change.state, change.reason, change.retry_in_s, detail))

    # -- periodic work, flushing, and when to come back

    def _tended(self, now: float) -> float:
        next_s = self._settlement.tend()
        return now + (IDLE_S if next_s is None else next_s)

    def _tend(self, now: float) -> None:
        self._tend_at = self._tended(now)
        self._settlement.recall(lane.former.clear for lane in self._lanes.values())
        if now >= self._tell_at or self._tend_at - now >= TELL_S:  # to count can be dear
            self._tell_at = now + TELL_S
            self._settlement.tell_dropped()

    def tell_dropped(self) -> None:
        """Emit what the queue has dropped since the last time."""
        self._settlement.tell_dropped()

    def _note(self, flush: Flush) -> None:
        pending = {lane: self._queue.pending(lane) for lane in self._queue.lanes()}
        serials = {lane.url: lane.former.serial for lane in self._lanes.values()}
        flush.note(self._queue.stats(), pending, serials)
        self._flushes.append(flush)

    def _count_claimed(self, lane: Lane, leases: Sequence[Lease]) -> None:
        self._claimed = True
        if self._flushes:
            first_claims = len([lease for lease in leases if lease.attempts == 1])
            for flush in self._flushes:
                flush.claimed(lane.url, first_claims, lane.former.serial)

    def _check_flushes(self) -> None:
        stats = self._queue.stats()
        if not stats.queued and not stats.in_flight:
            self._settlement.returned = 0
        hopeless = self._hopeless()
        for flush in self._flushes:
            flush.hopeless = hopeless
            flush.check(stats, self._settlement.returned, self._serials)
        self._flushes = [flush for flush in self._flushes if not flush.done and not flush.given_up]

    def _serials(self, url: str) -> list[int]:
        lane = self._lanes.get(url)
        return [] if lane is None else lane.serials()

    def _hopeless(self) -> bool:
        """Whether all that is left waits for an endpoint that is left alone: also what is out to it, a probe too."""
        now = self._clock.monotonic()
        return not any(
            lane.flying or lane.former.held() or self._queue.pending(lane.url) or lane.delayed_until > now
            for lane in self._lanes.values()
            if not lane.breaker.blocked
        )

    def _timeout_s(self, now: float) -> float:
        """Return the seconds until the next deadline of any kind."""
        at = min(self._tend_at, self._settlement.again_at)
        due_s = self._queue.next_due_s()
        if due_s:  # what is due already could not be claimed just now: its endpoint is left alone or busy
            at = min(at, now + due_s)
        for lane in self._lanes.values():
            if lane.breaker.blocked:
                probe_at = lane.breaker.probe_due_at
                if probe_at is None or (probe_at <= now and not self._in_flight.room(lane, now)):
                    continue  # a probe that is due and has no room begins when another request ends
                if lane.former.held() or self._queue.pending(lane.url):
                    # One that is due could not begin: what is pending is not handed out (half of another's record).
                    at = min(at, probe_at if probe_at > now else now + PROBE_AGAIN_S)
            else:
                since = lane.former.forming_since
                if since is not None and self._in_flight.room(lane, now) > 0:
                    at = min(at, since + self._limits.linger_s)
        return max(0.0, at - now)

    def quotas(self) -> dict[str, int]:
        """Return, by lane, after how many more arrivals the sender would like to be woken; others: after the first."""
        now = self._clock.monotonic()
        quotas = {}
        for lane in self._lanes.values():
            if lane.breaker.blocked:
                idle_probe = lane.breaker.probe_due_at is not None and not lane.former.held()
                quotas[lane.url] = 1 if idle_probe and not self._queue.pending(lane.url) else NEVER
            elif self._in_flight.room(lane, now) <= len(lane.former.ready):
                quotas[lane.url] = NEVER
            else:
                quotas[lane.url] = max(1, lane.former.missing)
        return quotas

    def arrived(self, quotas: dict[str, int]) -> bool:
        """Return whether there is something to claim that came before the quotas were made known."""
        pending = self._queue.pending
        return any(quotas.get(url, 1) < NEVER and pending(url) > 0 for url in self._queue.lanes())

    def abandon(self) -> None:
        """Give back all leases: this sender ends.  What is in flight may be delivered and sent again."""
        self._settlement.settle(self._clock.monotonic(), at_once=True)
        for lane in self._lanes.values():
            leases = lane.former.clear()
            for batch in sorted(lane.flying, key=lambda batch: batch.serial):
                leases += batch.leases
                self._in_flight.remove(lane, batch)
            self._settlement.release(leases, 0.0)
