"""The door: a request in, a stored event and 204 out, or a no with its reason; nothing is stored then.

The order of the questions is that of their cost: method, origin and token, what the header says of the body; then the
body, its encoding, JSON, strict mode where it is asked; then the queue.  Each no is counted by its reason.

CORS.  A ``sendBeacon`` with a JSON type asks first (preflight) and comes with credentials, so the answers name the one
origin and allow them; the door itself reads no cookie.  An origin that is not on the list gets no such header and no
event stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any, Final, Protocol

from .. import guard
from ..event import Envelope, Event, shown_url
from . import answers, body, merge
from .access import Access, host_of
from .answers import Denied, Header, Receive, Scope, Send
from .commit import GroupCommit, Putting, put_now

_ALLOW: Final[Header] = (b"allow", b"POST, OPTIONS")
_VARY: Final[Header] = (b"vary", b"origin")
_NOT_POST: Final = Denied(405, "method", "events are posted: POST")
_NO_CORS: Final = Denied(403, "origin", "web pages of this origin may not send events")
_PREFLIGHT_S: Final = b"7200"
_PREFLIGHT_HEADERS: Final = b"content-type, content-encoding, authorization, x-optimizely-strict"
_ACCEPTS: Final[Header] = (b"accept-encoding", b"gzip, deflate")


class DoorMetrics(Protocol):
    """What a worker counts."""

    def accepted(
        self, endpoint: str, project: str, events: int, body_bytes: int, elapsed_s: float, *, fits: bool | None
    ) -> None:  # fmt: skip
        """Count what was stored; ``endpoint`` as it is shown, ``fits``: the published schema, None: nobody looked."""
        ...

    def refused(self, reason: str) -> None:
        """Count a no."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where events of a path go.  ``shown``: as it is shown; ``held``: why nothing may go there from here."""

    envelope: Envelope
    shown: str
    held: str = ""

    @classmethod
    def to(cls, url: str) -> Target:
        """Return the target for an endpoint."""
        evidence = guard.evidence() if guard.is_optimizely(url) else None
        return cls(Envelope(url), shown_url(url), "" if evidence is None else f"{evidence}; {guard.LIFTED_BY}")


class Ingest:
    """The door of one worker.

    Args:
        queue: where events are stored, at once.
        group: stores them together instead, for a queue whose puts wait.
        refuse: told of each no, by reason and detail, once more than ``metrics``: the ledger's count.
        eu_target: where an event goes that came to one of ``eu_hosts``.
        unable: why nothing can be stored whatever the queue says; None: something can.
        strict: returns what a batch breaks of the published schema.
    """

    def __init__(
        self,
        *,
        queue: Putting,
        group: GroupCommit | None,
        reader: body.Reader,
        access: Access,
        metrics: DoorMetrics,
        refuse: Callable[[str, str], Any],
        strict: Callable[[Any], Sequence[str]],
        eu_hosts: Sequence[str] = (),
        eu_target: Target,
        merges: bool = False,
        unable: Callable[[], Denied | None] = lambda: None,
    ) -> None:
        self._queue = queue
        self._commit = group
        self._reader = reader
        self._digits_max = reader.digits_max
        self._access = access
        self._metrics = metrics
        self._count_refused = refuse
        self._strict = strict
        self._eu_hosts = frozenset(eu_hosts)
        self._eu_target = eu_target
        self._merges = merges
        self._unable = unable
        self._always_looks = not access.needs_no_look
        self._looks = body.Looks()
        self._pass_over = 0

    async def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a path of events."""
        began = perf_counter()
        headers = dict(scope["headers"])
        if scope["method"] != "POST":
            await self._no_post(scope["method"], headers, send)
            return
        if self._eu_hosts and host_of(headers.get(b"host", b"")) in self._eu_hosts:
            target = self._eu_target
        closing = False
        try:
            said = None
            # Most often nothing can be wrong before the body is read; a length of few digits is no large one.
            if (
                self._always_looks
                or b"origin" in headers
                or len(headers.get(b"content-length", b"")) >= self._digits_max
            ):
                said = self._before_body(scope, headers)
            if said is not None:
                closing = not await self._skipped(headers, receive)
            else:
                message = await receive()
                if message["type"] != "http.request":
                    raise body.Gone  # noqa: TRY301 - one place answers for it, wherever a client goes away
                raw: bytes | Denied = message.get("body", b"")
                if message.get("more_body", False):
                    raw = await self._reader.rest(receive, message.get("body", b""))
                    if isinstance(raw, Denied):
                        closing = raw.status != 413 or not await self._reader.skip(receive)
                ready = raw if isinstance(raw, Denied) else self._event_of(target, headers, raw, began)
                if isinstance(ready, Denied):
                    said = ready
                else:
                    event, project, fits = ready
                    said = put_now(self._queue, event) if self._commit is None else await self._commit.put(event)
                    if said is None:
                        took_s = perf_counter() - began
                        self._metrics.accepted(target.shown, project, 1, len(event.payload), took_s, fits=fits)
        except body.Gone:
            self._note("disconnected", "the client went away before its body had arrived")
            return
        if said is None and b"origin" not in headers:
            await send(answers.NO_CONTENT)
            await send(answers.END)
        elif said is None:
            await answers.answer(send, 204, self._cors(headers))
        else:
            await self._refuse(send, said, self._cors(headers), closing=closing)

    def _before_body(self, scope: Scope, headers: dict[bytes, bytes]) -> Denied | None:
        """Return what is known to be wrong before the body is read."""
        if self._always_looks or b"origin" in headers:
            client = scope.get("client")
            denied = self._access.event_denied(headers, client[0] if client else "", monotonic())
            if denied is not None:
                return denied
        return self._reader.too_large if self._reader.is_too_large(headers.get(b"content-length", b"0")) else None

    def _event_of(
        self, target: Target, headers: dict[bytes, bytes], raw: bytes, now: float
    ) -> tuple[Event, str, bool | None] | Denied:
        """Return the event that a body is, its project, and whether it fits the schema; or why it is none."""
        if len(raw) > self._reader.body_bytes_max:
            return self._reader.too_large
        if b"content-encoding" in headers:
            unpacked = self._reader.unpack(raw, headers[b"content-encoding"])
            if isinstance(unpacked, Denied):
                return unpacked
            raw = unpacked
        strict = b"x-optimizely-strict" in headers and headers[b"x-optimizely-strict"].strip().lower() == b"true"
        fits: bool | None = None
        if self._pass_over and not strict:
            self._pass_over -= 1
            project = body.project_of(raw)
            if isinstance(project, Denied):
                return project
        else:
            self._pass_over = self._looks.pass_over(now)
            seen = body.look(raw)
            if isinstance(seen, Denied):
                return seen
            project, fits = seen
        if strict and not fits:
            errors = self._strict(body.parse_batch(raw))
            if errors:
                return Denied(400, "strict", "the batch breaks the published schema", errors=tuple(errors))
        if target.held:
            return answers.unavailable("test_run", target.held)
        unable = self._unable()
        if unable is not None:
            return unable
        return merge.cut(target.envelope, raw) if self._merges else Event(target.envelope, raw), project, fits

    async def _skipped(self, headers: dict[bytes, bytes], receive: Receive) -> bool:
        """Read away the body of a request that is refused; False: its connection has to end."""
        if b"expect" in headers:
            return False  # it has not been sent, and will not be
        return await self._reader.skip(receive)

    async def _refuse(self, send: Send, denied: Denied, cors: Sequence[Header], *, closing: bool) -> None:
        self._note(denied.reason, denied.detail)
        more = [*cors]
        if closing:
            more.append(answers.CLOSE)
        if denied.status == 405:
            more.append(_ALLOW)
        if denied.status == 415:
            more.append(_ACCEPTS)
        await answers.deny(send, denied, more)

    def _note(self, reason: str, detail: str) -> None:
        self._metrics.refused(reason)
        self._count_refused(reason, detail)

    def _cors(self, headers: dict[bytes, bytes]) -> tuple[Header, ...]:
        origin = headers.get(b"origin")
        if origin is None:
            return ()
        if not self._access.knows_origin(origin):
            return (_VARY,)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", b"retry-after"),
            _VARY,
        )

    async def _no_post(self, method: str, headers: dict[bytes, bytes], send: Send) -> None:
        """Answer a preflight, or say that events are posted."""
        origin = headers.get(b"origin")
        if method != "OPTIONS":
            await self._refuse(send, _NOT_POST, self._cors(headers), closing=False)
        elif origin is None or b"access-control-request-method" not in headers:
            await answers.answer(send, 204, [_ALLOW])
        elif not self._access.knows_origin(origin):
            await self._refuse(send, _NO_CORS, [_VARY], closing=False)
        else:
            more: list[Header] = [
                *self._cors(headers),
                (b"access-control-allow-methods", b"POST"),
                (b"access-control-allow-headers", _PREFLIGHT_HEADERS),
                (b"access-control-max-age", _PREFLIGHT_S),
            ]
            if headers.get(b"access-control-request-private-network") == b"true":
                more.append((b"access-control-allow-private-network", b"true"))
            await answers.answer(send, 204, more)
