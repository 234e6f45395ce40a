"""How an Envelope becomes a request line and headers; the same for every transport that speaks HTTP.

Framing belongs to the client library: headers that describe it are left out, so that a LogEvent can't contradict what
is really sent.  A header that would smuggle a second line is refused (RFC 9110, 5.5: no CR, LF or NUL in a value).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from .. import __version__, guard
from ..event import Envelope
from .protocol import FaultKind

FRAMING: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
USER_AGENT: Final = f"eventpost/{__version__}"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_UNFIT: Final = re.compile(r"[\r\n\0]")


class UnfitRequestError(ValueError):
    """This envelope cannot be written as an HTTP request; the message names the part, never a header's value."""

    kind: FaultKind = "other"


class HeldBackError(UnfitRequestError):
    """This is a test run, and the request would go to Optimizely."""

    kind: FaultKind = "test_run"


@lru_cache(maxsize=1024)
def outgoing_headers(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the headers to send, User-Agent included.  Raises UnfitRequestError for one that can't be sent."""
    kept: list[tuple[str, str]] = []
    named = False
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise UnfitRequestError("a header's name is not a token")
        if _UNFIT.search(value):
            raise UnfitRequestError(f"the header {name} has a line break or NUL in its value")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise UnfitRequestError(f"the header {name} has a character beyond Latin-1") from None
        lower = name.lower()
        if lower in FRAMING:
            continue
        named = named or lower == "user-agent"
        kept.append((name, value.strip(" \t")))
    if not named:
        kept.append(("User-Agent", USER_AGENT))
    return tuple(kept)


def target(envelope: Envelope, body: bytes) -> str:
    """Return the URL to ask: for the verb GET with ``body`` as its query; without a fragment in any case.

    Raises UnfitRequestError, also for Optimizely's from a test run.
    """
    evidence = guard.evidence() if guard.is_optimizely(envelope.url) else None
    if evidence is not None:
        raise HeldBackError(f"{evidence}; {guard.LIFTED_BY}")
    url = envelope.url.partition("#")[0]
    if not url[:8].lower().startswith(("http://", "https://")):  # libcurl would guess
        raise UnfitRequestError("only http and https URLs can be asked")
    if envelope.verb != "GET" or not body:
        return url
    try:
        query = body.decode("ascii")
    except UnicodeDecodeError:
        raise UnfitRequestError("the query string is not ASCII") from None
    return f"{url}{'&' if '?' in url else '?'}{query}"
