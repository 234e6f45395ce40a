"""The exception tree.

::

    EventpostError
      QueueError
        QueueFull             the bound is reached; try later, or choose another overflow
        QueueUnavailable      the queue cannot store (disk full, folder gone, closed); the reason is in ``reason``
        EventTooLarge         this one event can never be stored
      JournalUnusable         JournalQueue(path): the folder cannot be used; the message says what to do
      RedisUnusable         RedisStreamsQueue(url): the server cannot hold a queue; the message says what to do
      UnencodableEvent        this one event cannot be written as JSON
      InvalidEvent            this one event cannot be sent as it is: its URL, verb or headers make no request

Expected outcomes (a 503, a refused put seen from ``dispatch_event``) are values; broken promises are exceptions.
"""

from __future__ import annotations


class EventpostError(Exception):
    """Base of everything that this package raises on purpose."""


class QueueError(EventpostError):
    """A queue could not take the events it was handed.  None of them is stored.  ``reason`` is the ledger's word."""

    reason = "queue_error"

    def __init__(self, message: str = "", *, reason: str | None = None) -> None:
        super().__init__(message or self.reason)
        if reason is not None:
            self.reason = reason


class QueueFull(QueueError):  # noqa: N818 - the standard library's queue.Full and the design use the bare word
    """The queue's bound on events or bytes is reached."""

    reason = "queue_full"


class QueueUnavailable(QueueError):  # noqa: N818 - names a state, like QueueFull
    """The queue cannot store at all just now: disk full, folder gone, permissions lost, closed."""

    reason = "queue_unavailable"


class EventTooLarge(QueueError):  # noqa: N818 - names a state, like QueueFull
    """This event is larger than the queue or the endpoint can ever take."""

    reason = "too_large"


class JournalUnusable(EventpostError, OSError):  # noqa: N818 - names a state, like QueueFull
    """The journal's folder cannot be used; raised by the constructor only, with the remedy in the message."""


class RedisUnusable(EventpostError):  # noqa: N818 - names a state, like QueueFull
    """The server answers but cannot hold a queue: too old, evicts keys, denies commands, or does not let us in."""


class UnencodableEvent(EventpostError, ValueError):  # noqa: N818 - names a state, like QueueFull
    """The event holds a value that JSON cannot express (the message names its type, never its value)."""

    reason = "unencodable"


class InvalidEvent(EventpostError, ValueError):  # noqa: N818 - names a state, like QueueFull
    """The event cannot become a request: no http(s) URL with a host, an unknown verb, headers that are no headers."""

    reason = "invalid"
