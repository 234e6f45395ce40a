"""What travels through the house: one LogEvent at the door, one Event behind it.

A door serialises what it is handed exactly once.  From then on an event is bytes plus an :class:`Envelope`; nothing
behind the door parses or changes them, so uuid, timestamp and entity_id survive every retry (the page: "do not modify
the event payload returned from Optimizely").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

JSON_HEADERS: Final[Mapping[str, str]] = MappingProxyType({"Content-Type": "application/json"})


@dataclass(frozen=True, slots=True, repr=False)
class LogEvent:
    """The SDK's unit of dispatch: an URL and the JSON body to POST there.

    ``url`` is the page's ``EndPoint``, ``params`` its ``Event``.  Any object with these four attributes is taken by the
    doors; this class is for people who build one themselves, and is what a dispatcher of their own is handed.
    """

    url: str
    params: Mapping[str, Any]
    http_verb: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: dict(JSON_HEADERS))

    def __repr__(self) -> str:
        return f"LogEvent({shown_url(self.url)!r}, {self.http_verb}, params=<redacted>)"


class Envelope(NamedTuple):
    """Everything that events of one kind have in common: where they go, and what stands around them in a body.

    Events whose envelopes are equal may share a request if ``shared`` is true: its body is then
    ``prefix + b",".join(payloads) + suffix``.  With ``shared`` false an event's payload is a whole body (for the verb
    GET: a whole query string) and it travels alone.
    """

    url: str
    verb: str = "POST"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    shared: bool = False
    prefix: bytes = b""
    suffix: bytes = b""

    def body(self, payloads: Sequence[bytes]) -> bytes:
        """Return the request body that carries these payloads, in order."""
        if len(payloads) == 1:
            return self.prefix + payloads[0] + self.suffix if self.shared else payloads[0]
        return self.prefix + b",".join(payloads) + self.suffix

    def __repr__(self) -> str:
        return f"Envelope({self.verb} {shown_url(self.url)}, shared={self.shared})"


class Event(NamedTuple):
    """One thing to deliver.  It counts 1 in the ledger, whatever is inside."""

    envelope: Envelope
    payload: bytes

    @property
    def lane(self) -> str:
        """The endpoint it goes to; events of one lane wait for the same breaker."""
        return self.envelope.url

    def __repr__(self) -> str:
        return f"Event({self.envelope!r}, <{len(self.payload)} bytes>)"


def shown_url(url: str) -> str:
    """Return an URL fit for logs and pages: scheme, host, port and path; no user, password, query or fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "<unreadable URL>"
    return f"{parts.scheme}://{host}{port}{parts.path}"
