"""libcurl's multi interface: hundreds of requests in flight on the sender's one thread.

``wait`` is a loop of ``curl_multi_perform`` (advances every transfer, in C, with no callback into Python) and ``poll``
on libcurl's descriptors plus a pipe of our own, which ``wake`` writes to.  ``curl_multi_socket_action`` with epoll
would look at the ready sockets only, but calls back into Python four times a request and gives up the interpreter's
lock each time: measured 27,000 against 45,000 POST/s alone, and 32 against 690 beside a thread that is busy computing,
where every return to Python may wait 5 ms.

libcurl names its descriptors in an ``fd_set``, which holds numbers below 1,024.  In a process with more files open a
transfer may be invisible to ``poll``: then ``wait`` looks every few milliseconds instead.  And no sleep with requests
under way is longer than ``LOOK_AGAIN_S``, whatever libcurl says.

**Handles outlive us unless they can be closed cleanly.**  All of them are held by one list with a reference that is
never dropped but by a clean ``close``.  Two things depend on it.  After a fork the child must never close its parent's
connections, not even by ending normally: TLS would send a close_notify on the shared socket.  And
``curl_multi_cleanup`` joins the threads that are stuck in ``getaddrinfo`` (measured: 5 s), so a transport whose
lookups may be under way is abandoned instead of closed.

What libcurl does by itself, and we let it: it repeats a request, silently, on a new connection when a kept-alive one
turns out to be dead before a byte of an answer came (the endpoint deduplicates); it skips 1xx; it reads the proxy
variables.  An answer that ends early is no answer, with one exception: a refusal (4xx, 5xx) is believed from its status
line, because a server that refuses a large body often resets the connection behind it.

What it does not do by itself: leave a connection that went silent (a balancer or firewall that forgot it).  A timeout
closes one of HTTP/1.1, and only a stream of HTTP/2, so that every further request would wait on the same dead
connection; kept ones beside it may be as dead.  So after a timeout, as after a failed lookup, nothing older is
believed: until that endpoint answers, its name is looked up anew and connections from before are closed instead of
taken.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import pycurl

from ..event import shown_url
from ..sender.primitives import original
from .curl_faults import fault, is_believed, is_lookup_timeout
from .outgoing import UnfitRequestError, outgoing_headers, target
from .protocol import BODY_EXCERPT_BYTES_MAX, Completion, Request, Response, TransportError
from .tls import check_client_pair, find_authorities
from .wakeup import WakePipe, make_immortal

ANSWER_BYTES_MAX: Final = 1024 * 1024
"""An answer longer than this is cut off; what it means is judged by its status all the same."""
CONNECTION_LIFE_S: Final = 600
"""A connection is replaced at this age, so that a change in DNS is followed."""
CONNECTIONS_KEPT_MAX: Final = 512
UPLOAD_BUFFER_BYTES: Final = 16 * 1024
NAMES_KEPT_S: Final = 60
"""How long a resolved name is remembered; libcurl's own default."""
DOUBTED_MAX: Final = 1024
LOOK_AGAIN_S: Final = 0.25
LOOK_AGAIN_CROWDED_S: Final = 0.005
FD_SETSIZE: Final = 1024
FD_MARGIN: Final = 64

_POLLIN: Final = 1  # <poll.h>, the same on every system; a patched select module lacks the names
_POLLOUT: Final = 4
_BODY_KEPT_BYTES: Final = 16 * 1024
_LIBCURL, _FEATURES = pycurl.version_info()[2], pycurl.version_info()[4]
_HAS_HTTP2: Final = bool(_FEATURES & 1 << 16)
_LOOKUPS_APART: Final = 1 << 7
if not (hasattr(pycurl, "RETRY_AFTER") and _LIBCURL >= 0x08_10_00 and _FEATURES & _LOOKUPS_APART):
    # Before pycurl 7.48 nothing tells of Retry-After without a callback for each header.  Before libcurl 8.16 (8.12 was
    # tried) a transfer whose time is over waits for its lookup, and everything with it; and a bundle or folder that it
    # was built with may be trusted beside the one that is named.
    msg = f"too old for what Eventpost needs: {pycurl.version}; pycurl 7.48 and libcurl 8.16 are not"
    raise ImportError(msg)


class _Slot:
    """One easy handle, reused, and the request that it carries."""

    __slots__ = ("chunks", "config", "curl", "kept", "overlong", "request", "seen")

    def __init__(self, curl: pycurl.Curl) -> None:
        self.curl = curl
        self.config: tuple[object, ...] | None = None
        self.request: Request | None = None
        self.chunks: list[bytes] = []
        self.kept = 0
        self.seen = 0
        self.overlong = False

    def write(self, data: bytes) -> int | None:
        """Keep an excerpt of the answer's body; stop an answer without end (0 makes libcurl give up)."""
        self.seen += len(data)
        if self.kept < BODY_EXCERPT_BYTES_MAX:
            part = data[: BODY_EXCERPT_BYTES_MAX - self.kept]
            self.chunks.append(part)
            self.kept += len(part)
        if self.seen > ANSWER_BYTES_MAX:
            self.overlong = True
            return 0
        return None

    def clear(self) -> None:
        self.request = None
        self.seen = self.kept = 0
        self.overlong = False
        if self.chunks:
            self.chunks = []


class CurlTransport:
    """Requests over libcurl.  Nothing is opened, and no thread started, before the first ``start``.  Not for Windows.

    ``ca``: bundle or hashed directory of trusted authorities (see ``transports.tls`` for what applies without it);
    ``client_cert``, ``client_key``: PEM files; ``proxy``: URL of a proxy for everything, ``""`` for none, None: as the
    environment says (``http_proxy``, ``https_proxy``, ``all_proxy``, ``no_proxy``); ``http2``: use it where offered.
    Raises FileNotFoundError or ValueError for files that are not there.
    """

    in_flight_max = 1000
    is_guarded = True
    """Sends nothing to Optimizely from a test run."""

    def __init__(
        self,
        *,
        ca: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        proxy: str | None = None,
        http2: bool = True,
    ) -> None:
        self._authorities = find_authorities(ca)
        check_client_pair(client_cert, client_key)
        self._client_cert = None if client_cert is None else os.fspath(client_cert)
        self._client_key = None if client_key is None else os.fspath(client_key)
        self._proxy = proxy
        self._http2 = http2 and _HAS_HTTP2
        self._closed = False
        self._forget()

    def _forget(self) -> None:
        """Start from nothing, dropping the references but those that keep the handles alive."""
        self._multi: pycurl.CurlMulti | None = None
        self._keep: list[object] = []
        self._free: list[_Slot] = []
        self._busy: dict[pycurl.Curl, _Slot] = {}
        self._done: deque[Completion] = deque()
        self._pipe: WakePipe | None = None
        self._poll: Any = None
        self._polled: tuple[list[int], list[int]] = ([], [])
        self._waiting = False
        self._woken = False
        self._lookup_stuck = False
        self._checks_failed = 0
        self._doubted: dict[str, float] = {}
        """When requests to a URL failed without a word, in monotonic seconds; forgotten with its next answer."""

    # -- the protocol -----------------------------------------------------------------------------------------------

    def start(self, request: Request) -> None:
        """Begin one attempt; its outcome, whatever it is, comes from ``wait``."""
        if self._closed:
            self._done.append(Completion(request, TransportError("closed", "the transport is closed")))
            return
        multi = self._multi or self._open()
        slot = self._free.pop() if self._free else self._new_slot()
        try:
            self._configure(slot, request)
            multi.add_handle(slot.curl)
        except (UnfitRequestError, UnicodeError, ValueError, TypeError, pycurl.error) as error:
            slot.config = None
            self._free.append(slot)
            unfit = error if isinstance(error, UnfitRequestError) else None
            what = str(unfit) if unfit else f"{type(error).__name__} for this URL"
            self._done.append(
                Completion(request, TransportError(unfit.kind if unfit else "other", f"cannot be sent: {what}"))
            )
            return
        slot.request = request
        self._busy[slot.curl] = slot

    def wait(self, timeout_s: float) -> Sequence[Completion]:
        """Advance all transfers until one completes, ``wake`` is called or ``timeout_s`` has passed."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self._busy:
                self._advance()
            if self._done or self._woken or self._closed:
                break
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            self._sleep(left_s)
        self._woken = False
        completions = list(self._done)
        self._done.clear()
        return completions

    def wake(self) -> None:
        """Make ``wait`` return soon.  Costs a system call only while ``wait`` sleeps."""
        self._woken = True
        pipe = self._pipe
        if self._waiting and pipe is not None:
            pipe.ring()

    def close(self, timeout_s: float = 0.0) -> None:
        """Abandon what is under way: each comes from the next ``wait`` as "closed".  Needs no time to speak of."""
        del timeout_s  # nothing here waits
        if self._closed:
            return
        self._closed = True
        multi, keep, busy = self._multi, self._keep, self._busy
        self._multi, self._keep, self._busy, self._free = None, [], {}, []
        for slot in busy.values():
            if slot.request is not None:
                self._done.append(Completion(slot.request, TransportError("closed", "the transport was closed")))
        self._pipe = self._poll = None
        if multi is None:
            return
        try:
            # A transfer that is not connected yet may be in getaddrinfo, where nothing can interrupt it.
            if self._lookup_stuck or any(curl.getinfo(pycurl.PRETRANSFER_TIME) == 0 for curl in busy):
                return
            for curl in busy:
                multi.remove_handle(curl)
            multi.close()
        except pycurl.error:
            return
        keep.clear()

    def after_fork_in_child(self) -> None:
        """Start from nothing.  The parent's handles stay where they are, unreachable and never closed."""
        self._forget()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"in_flight={len(self._busy)}"
        return f"CurlTransport({state}, ca={self._authorities.path!r}, http2={self._http2})"

    # -- inside -----------------------------------------------------------------------------------------------------

    def _open(self) -> pycurl.CurlMulti:
        multi = self._multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_MAXCONNECTS, CONNECTIONS_KEPT_MAX)
        self._keep.append(multi)
        make_immortal(self._keep)
        return multi

    def _new_slot(self) -> _Slot:
        curl = pycurl.Curl()
        slot = _Slot(curl)
        self._keep.append(curl)
        set_option = curl.setopt
        set_option(pycurl.NOSIGNAL, 1)
        set_option(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        set_option(pycurl.FOLLOWLOCATION, 0)
        set_option(pycurl.PATH_AS_IS, 1)
        set_option(pycurl.TCP_KEEPALIVE, 1)
        set_option(pycurl.UPLOAD_BUFFERSIZE, UPLOAD_BUFFER_BYTES)  # one for each handle, and 64 KiB is no faster
        set_option(pycurl.WRITEFUNCTION, slot.write)
        version = pycurl.CURL_HTTP_VERSION_2TLS if self._http2 else pycurl.CURL_HTTP_VERSION_1_1
        set_option(pycurl.HTTP_VERSION, version)
        set_option(pycurl.SSL_VERIFYPEER, 1)
        set_option(pycurl.SSL_VERIFYHOST, 2)
        if self._client_cert is not None:
            set_option(pycurl.SSLCERT, self._client_cert)
            set_option(pycurl.SSLKEY, self._client_key or self._client_cert)
        if self._proxy is not None:
            set_option(pycurl.PROXY, self._proxy)
        return slot

    def _configure(self, slot: _Slot, request: Request) -> None:
        envelope = request.envelope
        verb = envelope.verb
        url = target(envelope, request.body)
        names_s, life_s = self._believed_s(envelope.url)
        config = (url, verb, envelope.headers, request.timeout_s, names_s, life_s, self._checks_failed)
        set_option = slot.curl.setopt
        if slot.config != config:
            slot.config = None
            set_option(pycurl.URL, url.encode())
            pairs = outgoing_headers(envelope.headers)
            lines = [f"{name}: {value}" if value else f"{name};" for name, value in pairs]
            set_option(pycurl.HTTPHEADER, [line.encode("latin-1") for line in (*lines, "Expect:")])
            set_option(pycurl.DNS_CACHE_TIMEOUT, names_s)
            set_option(pycurl.MAXLIFETIME_CONN, life_s)
            path = self._authorities.spelled(self._checks_failed)
            if path is not None:
                set_option(pycurl.CAPATH if self._authorities.is_directory else pycurl.CAINFO, path)
                set_option(pycurl.PROXY_CAPATH if self._authorities.is_directory else pycurl.PROXY_CAINFO, path)
            set_option(pycurl.TIMEOUT_MS, max(1, int(request.timeout_s * 1000)))
            set_option(pycurl.PIPEWAIT, 1 if self._http2 and url[:6].lower() == "https:" else 0)
            slot.curl.unsetopt(pycurl.CUSTOMREQUEST)
            if verb == "GET":
                set_option(pycurl.HTTPGET, 1)
            else:
                set_option(pycurl.POST, 1)
                if verb != "POST":
                    set_option(pycurl.CUSTOMREQUEST, verb)
            slot.config = config
        if verb != "GET":
            set_option(pycurl.POSTFIELDS, request.body)

    def _believed_s(self, url: str) -> tuple[int, int]:
        """Return for how many seconds a name, also one that could not be resolved, and a connection are good."""
        doubted_at = self._doubted.get(url)
        if doubted_at is None:
            return NAMES_KEPT_S, CONNECTION_LIFE_S
        return 0, min(CONNECTION_LIFE_S, max(1, int(time.monotonic() - doubted_at)))

    def _advance(self) -> None:
        multi: Any = self._multi
        try:
            multi.perform()
            more = 1
            while more:
                more, succeeded, failed = multi.info_read(1000)
                for curl in succeeded:
                    self._finish(curl, 0, "")
                for curl, code, message in failed:
                    self._finish(curl, code, message)
        except pycurl.error as error:
            self._give_up(f"libcurl failed: {error}")

    def _give_up(self, why: str) -> None:
        """Answer for everything under way and begin again: the multi handle itself failed."""
        for slot in self._busy.values():
            if slot.request is not None:
                self._done.append(Completion(slot.request, TransportError("other", why)))
        self._multi, self._keep, self._busy, self._free = None, [], {}, []

    def _finish(self, curl: pycurl.Curl, code: int, message: str) -> None:
        slot = self._busy.pop(curl)
        request: Any = slot.request
        self._done.append(Completion(request, self._judge(slot, request, code, message)))
        slot.clear()
        multi: Any = self._multi
        multi.remove_handle(curl)
        if len(request.body) > _BODY_KEPT_BYTES and request.envelope.verb != "GET":
            curl.setopt(pycurl.POSTFIELDS, b"")  # an idle handle would hold the body
        self._free.append(slot)

    def _judge(self, slot: _Slot, request: Request, code: int, message: str) -> Response | TransportError:
        curl = slot.curl
        status: int = curl.getinfo(pycurl.RESPONSE_CODE)
        elapsed_s: float = curl.getinfo(pycurl.TOTAL_TIME)
        if slot.overlong or is_believed(code, status):
            retry_after = None
            if status >= 300:
                # libcurl has turned a date into seconds; 0 is no header, or a time that has passed
                seconds = curl.getinfo(pycurl.RETRY_AFTER)
                retry_after = str(seconds) if seconds > 0 else None
            self._doubted.pop(request.envelope.url, None)
            return Response(status, retry_after, b"".join(slot.chunks), elapsed_s)
        if is_lookup_timeout(code, message):
            self._lookup_stuck = True
        kind, text = fault(code, message, self._authorities.remedy())
        self._checks_failed += kind == "tls"  # the next one reads the bundle again: it may have been mended
        if kind in ("dns", "timeout") and len(self._doubted) < DOUBTED_MAX:
            self._doubted[request.envelope.url] = time.monotonic()
        return TransportError(kind, f"{shown_url(request.envelope.url)}: {text}", elapsed_s)

    def _sleep(self, left_s: float) -> None:
        poll, due_ms = self._who_to_wait_for()
        if due_ms == 0:
            return
        if self._busy:
            left_s = min(left_s, LOOK_AGAIN_CROWDED_S if self._crowded() else LOOK_AGAIN_S)
            if due_ms > 0:
                left_s = min(left_s, due_ms / 1000)
        pipe: Any = self._pipe
        self._waiting = True
        try:
            if self._woken:  # looked at after _waiting was set: wake() either saw that or was seen here
                return
            ready = poll.poll(left_s * 1000)
        finally:
            self._waiting = False
        if any(fd == pipe.reader for fd, _ in ready):
            pipe.drain()

    def _who_to_wait_for(self) -> tuple[Any, int]:
        """Return a poll object for libcurl's descriptors and our pipe, and libcurl's own next time in ms, or -1."""
        if self._pipe is None:
            self._pipe = WakePipe()
        readable: list[int] = []
        writable: list[int] = []
        due_ms = -1
        if self._busy:
            multi: Any = self._multi
            readable, writable, _ = multi.fdset()
            due_ms = multi.timeout()
        if self._poll is None or self._polled != (readable, writable):
            poll = original("select", "poll")()
            poll.register(self._pipe.reader, _POLLIN)
            both = set(readable).intersection(writable)
            for fd in readable:
                poll.register(fd, _POLLIN | _POLLOUT if fd in both else _POLLIN)
            for fd in writable:
                if fd not in both:
                    poll.register(fd, _POLLOUT)
            self._poll, self._polled = poll, (readable, writable)
        return self._poll, due_ms

    def _crowded(self) -> bool:
        """Tell whether new sockets get numbers that an fd_set can't hold: the lowest free number says it."""
        pipe: Any = self._pipe
        try:
            probe = os.dup(pipe.reader)
        except OSError:
            return True
        os.close(probe)
        return probe >= FD_SETSIZE - FD_MARGIN
