"""A sender in rounds: all that it asks of its queue, begins and tells stands in one list, in order."""

from collections.abc import Callable, Sequence
from typing import Any

from eventpost.clock import Clock
from eventpost.event import Envelope, Event
from eventpost.queues.memory import MemoryQueue
from eventpost.queues.protocol import Answer, Lease
from eventpost.sender.flush import Flush
from eventpost.sender.lane import Limits
from eventpost.sender.loop import Sender
from eventpost.sender.retry import RetryPolicy
from eventpost.testing.clock import ManualClock
from eventpost.testing.transports import RecordingTransport
from eventpost.transports.protocol import Completion, Request, Response, TransportError
from eventpost.watch.signals import Signal

UP, DOWN, OTHER = "http://127.0.0.1:1/", "http://127.0.0.1:2/", "http://127.0.0.1:3/"
MIB_16 = 16 * 1024 * 1024
Outcome = Response | TransportError


def alone(*payloads: bytes, url: str = UP) -> list[Event]:
    """Return events that travel alone."""
    return [Event(Envelope(url), payload) for payload in payloads]


def sharing(*payloads: bytes, url: str = UP) -> list[Event]:
    """Return events that may share a request."""
    return [Event(Envelope(url, shared=True, prefix=b"[", suffix=b"]"), payload) for payload in payloads]


class RecordingQueue(MemoryQueue):
    """Notes what it is asked.  ``tends``: what the next ``tend`` returns; ``failing``: what raises."""

    def __init__(self, said: list[Any], clock: Clock, **bounds: Any) -> None:
        self.said = said
        self.tends: list[float | None] = []
        self.failing: set[str] = set()
        self.counts = 0
        super().__init__(clock=clock, **bounds)

    def claim(self, lane: str, events_max: int, bytes_max: int) -> list[Lease]:
        """Note it, with what was leased."""
        leases = super().claim(lane, events_max, bytes_max)
        self._note("claim", lane, events_max, bytes_max, payloads(leases))
        return leases

    def ack(self, leases: Sequence[Lease]) -> None:
        """Note it."""
        self._note("ack", payloads(leases))
        super().ack(leases)

    def release(self, leases: Sequence[Lease], delay_s: float = 0.0) -> None:
        """Note it."""
        self._note("release", payloads(leases), delay_s)
        super().release(leases, delay_s)

    def bury(self, leases: Sequence[Lease], reason: str, answer: Answer | None = None) -> None:
        """Note it."""
        assert answer is not None
        self._note("bury", payloads(leases), reason, answer.status, answer.body)
        super().bury(leases, reason, answer)

    def tend(self) -> float | None:
        """Note it."""
        self._note("tend")
        super().tend()
        return self.tends.pop(0) if self.tends else 60.0

    def stats(self) -> Any:
        """Count how often it is counted."""
        self.counts += 1
        return super().stats()

    def _note(self, what: str, *how: Any) -> None:
        self.said.append((what, *how))
        if what in self.failing:
            raise OSError(28, "full")


class Recalling(RecordingQueue):
    """A queue that may want its leases back."""

    recalls = False

    def recalled(self) -> None:
        """Note it."""
        self._note("recalled")
        self.recalls = False


class NotingTransport(RecordingTransport):
    """Notes what is begun; answers when it is told to."""

    def __init__(self, said: list[Any]) -> None:
        super().__init__(hold=True)
        self.said = said
        self.failing = False

    def start(self, request: Request) -> None:
        """Note it."""
        self.said.append(("start", request.envelope.url, request.body, request.timeout_s, request.events))
        if self.failing:
            raise RuntimeError("broken")
        super().start(request)


class Rounds:
    """A sender and its parts.  Chance is always a half, so jitter makes each wait a quarter longer."""

    def __init__(
        self,
        *,
        policy: RetryPolicy | None = None,
        queue: type[RecordingQueue] = RecordingQueue,
        bounds: dict[str, Any] | None = None,
        project_of: Callable[[Event], str] | None = None,
        send_to: str | None = None,
        **limits: Any,
    ) -> None:
        self.said: list[Any] = []
        self.clock = ManualClock(start_s=100.0)
        self.queue = queue(self.said, self.clock, **(bounds or {}))
        self.transport = NotingTransport(self.said)
        self.heard: list[Callable[[Envelope, bytes], None]] = []
        more: dict[str, Any] = {} if project_of is None else {"project_of": project_of}
        self.sender = Sender(
            self.queue, self.transport, clock=self.clock, chance=lambda: 0.5, emit=self.said.append,
            policy=policy or RetryPolicy(), limits=Limits(**limits), send_to=send_to, on_request=self.heard, **more,
        )  # fmt: skip

    def put(self, *events: Event) -> None:
        """Store them."""
        self.queue.put(events)

    def step(self) -> float:
        """Run one round with what came back."""
        return self.sender.step(self.back())

    def back(self) -> Sequence[Completion]:
        """Return what came back."""
        return self.transport.wait(0.0)

    def after(self, seconds: float) -> float:
        """Run a round so much later."""
        self.clock.advance(seconds)
        return self.step()

    def answer(self, *bodies: bytes, by: Outcome | None = None) -> None:
        """Let the requests with these bodies end, with 204 unless something else is said; without any, all."""
        for body in bodies or self.out:
            request = next(request for request in self.transport.under_way if request.body == body)
            self.transport.complete(request, by)

    def flush(self) -> Flush:
        """Ask for a flush and let the sender note it."""
        flush = self.sender.request_flush()
        self.step()
        return flush

    @property
    def out(self) -> list[bytes]:
        """The bodies of the requests that are out."""
        return [request.body for request in self.transport.under_way]

    def news(self, *kinds: str | type[Signal]) -> list[Any]:
        """Return, and forget, what was said since the last time: all, or of these kinds."""
        said = list(self.said)
        self.said.clear()
        return [one for one in said if not kinds or (one[0] if isinstance(one, tuple) else type(one)) in kinds]


def payloads(leases: Sequence[Lease]) -> list[bytes]:
    """Return what is leased."""
    return [lease.event.payload for lease in leases]
