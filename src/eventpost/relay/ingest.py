"""The door: a request in, a stored event and 204 out, or a no with its reason; nothing is stored then.

The order of the questions is that of their cost: method, origin and token, what the header says of the body; then the
body, its encoding, JSON, strict mode where it is asked; then the queue.  Each no is counted by its reason.

CORS.  A ``sendBeacon`` with a JSON type asks first (preflight) and comes with credentials, so the answers name the one
origin and allow them; the door itself reads no cookie.  An origin that is not on the list gets no such header and no
event stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any, Final, Protocol

from ..event import Envelope, Event, shown_url
from . import answers, body, merge
from .access import Access, host_of
from .answers import Denied, Header, Receive, Scope, Send
from .commit import GroupCommit

_ALLOW: Final[Header] = (b"allow", b"POST, OPTIONS")
_VARY: Final[Header] = (b"vary", b"origin")
_NOT_POST: Final = Denied(405, "method", "events are posted: POST")
_NO_CORS: Final = Denied(403, "origin", "web pages of this origin may not send events")
_PREFLIGHT_S: Final = b"7200"
_PREFLIGHT_HEADERS: Final = b"content-type, content-encoding, authorization, x-optimizely-strict"
_ACCEPTS: Final[Header] = (b"accept-encoding", b"gzip, deflate")


class DoorMetrics(Protocol):
    """What a worker counts."""

    def accepted(self, endpoint: str, project: str, events: int, body_bytes: int, elapsed_s: float) -> None:
        """Count what was stored; ``endpoint`` as it is shown."""
        ...

    def refused(self, reason: str) -> None:
        """Count a no."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where events of a path go."""

    envelope: Envelope
    shown: str = field(default="")

    @classmethod
    def to(cls, url: str) -> Target:
        """Return the target for an endpoint."""
        return cls(Envelope(url), shown_url(url))


class Ingest:
    """The door of one worker.

    Args:
        put: stores one event at once, and says why not; for a queue that never waits.
        commit: stores events together, for one that does; it is used instead of ``put``.
        refuse: told of each no, by reason and detail, once more than ``metrics``: the ledger's count.
        held: why events may not go to an endpoint from this process at all, by its URL.
        strict: returns what a batch breaks of the published schema.
    """

    def __init__(
        self,
        *,
        put: Callable[[Event], Denied | None],
        commit: GroupCommit | None,
        reader: body.Reader,
        access: Access,
        metrics: DoorMetrics,
        refuse: Callable[[str, str], Any],
        strict: Callable[[Any], Sequence[str]],
        eu_hosts: Sequence[str] = (),
        eu_target: Target | None = None,
        merges: bool = False,
        held: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._put = put
        self._commit = commit
        self._reader = reader
        self._access = access
        self._metrics = metrics
        self._count_refused = refuse
        self._strict = strict
        self._eu_hosts = frozenset(eu_hosts)
        self._eu_target = eu_target
        self._merges = merges
        self._held = held

    async def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a path of events."""
        began = perf_counter()
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if scope["method"] != "POST":
            await self._no_post(scope["method"], headers, send)
            return
        cors = () if origin is None else self._cors(origin)
        try:
            said = self._before_body(scope, headers, origin)
            if said is not None:
                await self._refuse(send, said, cors, closing=not await self._skipped(headers, receive))
                return
            message = await receive()
            if message["type"] != "http.request":
                raise body.Gone  # noqa: TRY301 - one place answers for it, wherever a client goes away
            raw: bytes | Denied = message.get("body", b"")
            closing = False
            if message.get("more_body", False):
                raw = await self._reader.rest(receive, message.get("body", b""))
                closing = isinstance(raw, Denied) and not (raw.status == 413 and await self._reader.skip(receive))
        except body.Gone:
            self._note("disconnected", "the client went away before its body had arrived")
            return
        stored = raw if isinstance(raw, Denied) else await self._store(target, headers, raw, began)
        if stored is not None:
            await self._refuse(send, stored, cors, closing=closing)
            return
        if cors:
            await answers.answer(send, 204, cors)
            return
        await send(answers.NO_CONTENT)
        await send(answers.END)

    def _before_body(self, scope: Scope, headers: dict[bytes, bytes], origin: bytes | None) -> Denied | None:
        """Return what is known to be wrong before the body is read."""
        if origin is not None or not self._access.needs_no_look:
            client = scope.get("client")
            denied = self._access.event_denied(headers, client[0] if client else "", monotonic())
            if denied is not None:
                return denied
        length = headers.get(b"content-length")
        if length is not None and self._reader.is_too_large(length):
            return self._reader.too_large
        return None

    async def _store(self, target: Target, headers: dict[bytes, bytes], raw: bytes, began: float) -> Denied | None:
        """Store a body; None: the queue's durability holds."""
        if b"content-encoding" in headers:
            unpacked = self._reader.unpack(raw, headers[b"content-encoding"])
            if isinstance(unpacked, Denied):
                return unpacked
            raw = unpacked
        batch = body.parse_batch(raw)
        if isinstance(batch, Denied):
            return batch
        if b"x-optimizely-strict" in headers and headers[b"x-optimizely-strict"].strip().lower() == b"true":
            errors = self._strict(batch)
            if errors:
                return Denied(400, "strict", "the batch breaks the published schema", errors=tuple(errors))
        if self._eu_hosts and self._eu_target is not None and host_of(headers.get(b"host", b"")) in self._eu_hosts:
            target = self._eu_target
        why_held = self._held(target.envelope.url)
        if why_held:
            return answers.unavailable("test_run", why_held)
        event = merge.cut(target.envelope, raw, batch) if self._merges else Event(target.envelope, raw)
        said = self._put(event) if self._commit is None else await self._commit.put(event)
        if said is None:
            project = batch.get("project_id")
            shown = project if type(project) is str else ""
            self._metrics.accepted(target.shown, shown, 1, len(raw), perf_counter() - began)
        return said

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

    def _cors(self, origin: bytes) -> tuple[Header, ...]:
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
            await self._refuse(send, _NOT_POST, () if origin is None else self._cors(origin), closing=False)
        elif origin is None or b"access-control-request-method" not in headers:
            await answers.answer(send, 204, [_ALLOW])
        elif not self._access.knows_origin(origin):
            await self._refuse(send, _NO_CORS, [_VARY], closing=False)
        else:
            more: list[Header] = [
                *self._cors(origin),
                (b"access-control-allow-methods", b"POST"),
                (b"access-control-allow-headers", _PREFLIGHT_HEADERS),
                (b"access-control-max-age", _PREFLIGHT_S),
            ]
            if headers.get(b"access-control-request-private-network") == b"true":
                more.append((b"access-control-allow-private-network", b"true"))
            await answers.answer(send, 204, more)
