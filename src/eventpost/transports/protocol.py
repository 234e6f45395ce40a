"""How a request leaves the process.

A transport makes one attempt per request: no retry, no sleep, and no opinion on what a status means.  Every request
that was started comes back from ``wait`` exactly once, with a :class:`Response` if the endpoint answered, with a
:class:`TransportError` if it did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from ..event import Envelope, shown_url

FaultKind = Literal[
    "dns", "connect", "tls", "timeout", "reset", "protocol", "dispatcher", "closed", "test_run", "not_allowed", "other"
]
BODY_EXCERPT_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One attempt.  ``token`` is handed back untouched.  ``events`` is how many events it carries.

    For the verb GET ``body`` is the query string.  ``timeout_s`` is total: DNS, connect, TLS, send and answer.
    """

    envelope: Envelope
    body: bytes
    token: Any
    timeout_s: float
    events: int = 1

    def __repr__(self) -> str:
        return f"Request({self.envelope.verb} {shown_url(self.envelope.url)}, <{len(self.body)} bytes>)"


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """What the endpoint answered.  ``retry_after`` is the header's value as it came, or seconds as a decimal string."""

    status: int
    retry_after: str | None = None
    body: bytes = b""
    elapsed_s: float = 0.0

    def __repr__(self) -> str:
        return f"Response({self.status}, retry_after={self.retry_after!r}, <{len(self.body)} bytes>)"


@dataclass(frozen=True, slots=True)
class TransportError:
    """No answer.

    ``kind`` "tls" is a failed certificate check; "dispatcher" a custom dispatcher's False or exception; "test_run"
    what a test run does not send to Optimizely; "not_allowed" what may not be sent to that URL from here.

    ``message`` says what to do where that is known, and holds neither payload nor secrets.
    """

    kind: FaultKind
    message: str
    elapsed_s: float = 0.0


class Completion(NamedTuple):
    """A request and how it ended."""

    request: Request
    outcome: Response | TransportError


@runtime_checkable
class Transport(Protocol):
    """One attempt per request, hundreds at a time.  All but ``wake`` is called from one thread, the sender's.

    A transport may have an attribute ``in_flight_max``: more requests than that at once only wait inside it, while
    their time runs.  It may have a method ``make_ready()``, which is called by the thread that starts the sender's,
    before that; it must not raise.  After ``close``, ``wait`` returns at once, first what was abandoned, as "closed".
    """

    def start(self, request: Request) -> None:
        """Begin one attempt; returns at once and does not raise for anything the endpoint or the network does."""
        ...

    def wait(self, timeout_s: float) -> Sequence[Completion]:
        """Return what has completed, waiting up to ``timeout_s`` for the first; early and empty when woken."""
        ...

    def wake(self) -> None:
        """Make a ``wait`` on another thread return soon.  From any thread and from signal handlers; never blocks."""
        ...

    def close(self, timeout_s: float) -> None:
        """Abandon what is under way within ``timeout_s``; never raises, never hangs."""
        ...

    def after_fork_in_child(self) -> None:
        """Abandon the parent's handles without closing them (a TLS close_notify would end the parent's connection)."""
        ...
