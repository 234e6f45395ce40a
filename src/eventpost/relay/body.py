"""From a request to a batch: read within bounds, unpack within bounds, look whether it is one.

Every step has a bound: bytes as they come, bytes once unpacked (a megabyte of gzip can hold a gigabyte), seconds, and
the bytes of all bodies that one worker holds while they come in.  A body that arrived whole with its header, which is
the usual case, is handed out by the server in one piece and costs nothing here.

What is a batch is decided as the endpoint does, which takes what it can read and validates later: a JSON object with a
list of visitors.  ``strict`` says more, where it is asked.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NoReturn

import orjson

from . import published
from .answers import Denied, Receive, unavailable

_WINDOWS: Final = {b"gzip": (31,), b"x-gzip": (31,), b"deflate": (15, -15)}
"""By encoding, zlib's ``wbits`` in the order to try: "deflate" means zlib's format, but often comes without its frame.
"""
ENCODINGS: Final = ("", "identity", *(name.decode() for name in _WINDOWS))
"""The content-encodings that are taken."""
_STEP_BYTES: Final = 1 << 16
_MEMBERS_MAX: Final = 1000
LOOKS_PER_S: Final = 1000
LOOKS_SHARE: Final = 16
"""Beyond ``LOOKS_PER_S`` one body in this many is looked at thoroughly."""
EMPTY: Final = Denied(400, "empty", "there is no body")
NOT_JSON: Final = Denied(400, "not_json", "the body is no JSON in UTF-8")
NOT_A_BATCH: Final = Denied(400, "not_a_batch", "the body is no JSON object with a list of visitors")
NOT_PACKED: Final = Denied(400, "not_packed", "the body is not what its content-encoding says")
ENCODING: Final = Denied(415, "encoding", "the relay unpacks gzip and deflate, one of them")
SLOW: Final = Denied(408, "slow_body", "the body did not arrive in time")
BUSY: Final = unavailable("busy", "this worker holds as many bytes of bodies as it may")


class Gone(Exception):  # noqa: N818 - names a state: nobody is there to be answered
    """The client went away before its body had arrived."""


class Reader:
    """Reads the bodies of one worker."""

    def __init__(self, *, body_bytes_max: int, bodies_bytes_max: int, timeout_s: float) -> None:
        self.body_bytes_max = body_bytes_max
        self.digits_max = len(str(body_bytes_max))
        self.too_large = Denied(413, "too_large", f"a body may have {body_bytes_max:,} bytes, also once unpacked")
        self._bodies_bytes_max = bodies_bytes_max
        self._timeout_s = timeout_s
        self.held_bytes = 0

    def is_too_large(self, content_length: bytes) -> bool:
        """Tell whether a body is too large by what its header says of it."""
        return not content_length.isdigit() or int(content_length[:20]) > self.body_bytes_max

    async def rest(self, receive: Receive, first: bytes) -> bytes | Denied:
        """Return a body of which ``first`` has arrived, or why not.  Raises Gone.

        The server wakes ``receive`` now and then, also where nothing came: so a sender that stalls is noticed.
        """
        deadline = monotonic() + self._timeout_s
        parts, size = [first], len(first)
        self.held_bytes += size
        try:
            while size <= self.body_bytes_max:
                if self.held_bytes > self._bodies_bytes_max:
                    return BUSY
                message = await receive()
                if message["type"] != "http.request":
                    raise Gone
                part = message.get("body", b"")
                size += len(part)
                self.held_bytes += len(part)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts) if size <= self.body_bytes_max else self.too_large
                if monotonic() > deadline:
                    return SLOW
            return self.too_large
        finally:
            self.held_bytes -= size

    async def skip(self, receive: Receive) -> bool:
        """Read away what is left of a body whose request was refused; False: it is too much, or comes too slowly.

        A client that is still sending when the connection ends may never see the answer.
        """
        deadline = monotonic() + self._timeout_s
        left = 2 * self.body_bytes_max
        while left > 0 and monotonic() < deadline:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            if not message.get("more_body", False):
                return True
            left -= len(message.get("body", b""))
        return False

    def unpack(self, body: bytes, encoding: bytes) -> bytes | Denied:
        """Return the body without its content-encoding, or why not."""
        name = encoding.strip().lower()
        if name in (b"", b"identity"):
            return body
        if name not in _WINDOWS:
            return ENCODING
        for bits in _WINDOWS[name]:
            try:
                found = _inflate(body, bits, self.body_bytes_max)
            except zlib.error:
                continue
            return self.too_large if found is None else found
        return NOT_PACKED


def _inflate(packed: bytes, bits: int, bytes_max: int) -> bytes | None:
    """Return what is inside; None: more than ``bytes_max``.  Raises zlib.error for anything that is not whole."""
    parts: list[bytes] = []
    size, data = 0, packed
    for _ in range(_MEMBERS_MAX):  # gzip may hold several, one after the other
        one = zlib.decompressobj(bits)
        while not one.eof:
            part = one.decompress(data, _STEP_BYTES)
            data = one.unconsumed_tail
            size += len(part)
            if size > bytes_max:
                return None
            parts.append(part)
            if not part and not data and not one.eof:
                raise zlib.error("it ends too early")
        data = one.unused_data
        if not data:
            return b"".join(parts)
        if bits <= zlib.MAX_WBITS:
            break
    raise zlib.error("something follows")


_read: Final = published.read_batch


class Looks:
    """How many bodies are passed over until the next one is looked at thoroughly, which costs some times as much."""

    def __init__(self) -> None:
        self._since_s = 0.0
        self._left = LOOKS_PER_S

    def pass_over(self, now: float) -> int:
        """Return it, once one was: none, until there are many a second.  ``now``: seconds of any clock that runs on."""
        if now - self._since_s >= 1.0:
            self._since_s, self._left = now, LOOKS_PER_S
        self._left -= 1
        return 0 if self._left > 0 else LOOKS_SHARE - 1


def look(body: bytes) -> tuple[str, bool] | Denied:
    """Return the project of a batch, and whether it fits the published schema; or why the body is no batch."""
    with suppress(*published.FAILS):
        if (project := published.fitting_project_in(body)) is not None:
            return project, True
    found = project_of(body)
    return found if isinstance(found, Denied) else (found, False)


def project_of(body: bytes) -> str | Denied:
    """Return the project of a batch, "" if it names none; or why the body is no batch.

    What msgspec does not take is looked at by :func:`parse_batch`, which decides, and says why.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec looks into no text that it passes over
        project = _read(body).project_id
    except published.FAILS:
        batch = parse_batch(body)
        if isinstance(batch, Denied):
            return batch
        project = batch.get("project_id")
    return project if type(project) is str else ""


def parse_batch(body: bytes) -> Mapping[str, Any] | Denied:
    """Return what a body says, or why it is no batch."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        start = body[:1024].lstrip(b" \t\r\n")
        if not start.startswith(b"{"):
            return NOT_JSON if body.strip(b" \t\r\n") else EMPTY
        try:  # what is JSON all the same: half a surrogate pair, a number beyond a double
            value = json.loads(body.decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return NOT_JSON
    if type(value) is not dict or type(value.get("visitors")) is not list:
        return NOT_A_BATCH
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
