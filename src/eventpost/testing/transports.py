"""A transport that answers from a script: no sockets, no threads, no time but the clock it is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ..transports.protocol import Completion, Request, Response, TransportError

Outcome = Response | TransportError


class RecordingTransport:
    """Records every request, and answers each from ``script``, then from ``answer``, then with 204.

    ``hold`` True keeps what is started under way until ``complete`` is called.  ``monotonic`` and ``latency_s``
    together let an answer come only when that clock has advanced by ``latency_s``.  ``wait`` never sleeps: a test
    advances its own clock.  Follows the Transport protocol, and like the real ones it answers each request once.
    """

    in_flight_max = 1000

    def __init__(
        self,
        answer: Callable[[Request], Outcome] | None = None,
        *,
        script: Iterable[Outcome] = (),
        hold: bool = False,
        monotonic: Callable[[], float] | None = None,
        latency_s: float = 0.0,
    ) -> None:
        self.answer = answer
        self.hold = hold
        self.requests: list[Request] = []
        self.wakes = 0
        self.waits_s: list[float] = []
        self.closed = False
        self.forks = 0
        self.latency_s = latency_s
        self._monotonic = monotonic or (lambda: 0.0)
        self._script: deque[Outcome] = deque(script)
        self._under_way: list[tuple[Request, float]] = []
        self._done: deque[Completion] = deque()

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all requests so far."""
        return [request.body for request in self.requests]

    @property
    def under_way(self) -> list[Request]:
        """The requests that were started and have no outcome yet, oldest first."""
        return [request for request, _ in self._under_way]

    def script(self, outcomes: Iterable[Outcome]) -> None:
        """Answer the next requests with these, one each."""
        self._script.extend(outcomes)

    def complete(self, request: Request | None = None, outcome: Outcome | None = None) -> Request:
        """Let ``request`` (the oldest without it) end with ``outcome`` (what the script says without it)."""
        for at, (held, _) in enumerate(self._under_way):
            if request is None or held is request:
                del self._under_way[at]
                self._done.append(Completion(held, self._outcome(held) if outcome is None else outcome))
                return held
        msg = f"not under way: {request!r}"
        raise LookupError(msg)

    def start(self, request: Request) -> None:
        """Record it."""
        self.requests.append(request)
        if self.closed:
            self._done.append(Completion(request, TransportError("closed", "the transport is closed")))
        else:
            self._under_way.append((request, self._monotonic() + self.latency_s))

    def wait(self, timeout_s: float) -> Sequence[Completion]:
        """Return what is due; never sleeps."""
        self.waits_s.append(timeout_s)
        if not self.hold:
            now = self._monotonic()
            for request in [request for request, due in self._under_way if due <= now]:
                self.complete(request)
        completions = list(self._done)
        self._done.clear()
        return completions

    def wake(self) -> None:
        """Count it."""
        self.wakes += 1

    def close(self, timeout_s: float) -> None:
        """End what is under way as "closed"."""
        del timeout_s  # nothing here waits
        self.closed = True
        for request, _ in self._under_way:
            self._done.append(Completion(request, TransportError("closed", "the transport was closed")))
        self._under_way.clear()

    def after_fork_in_child(self) -> None:
        """Forget what the parent has under way."""
        self.forks += 1
        self._under_way.clear()
        self._done.clear()

    def _outcome(self, request: Request) -> Outcome:
        if self._script:
            return self._script.popleft()
        return Response(204) if self.answer is None else self.answer(request)

    def __repr__(self) -> str:
        return f"RecordingTransport(requests={len(self.requests)}, under_way={len(self._under_way)})"
