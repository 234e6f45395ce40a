"""Where there is no pycurl: a few threads on urllib3, and the same contract as ``curl.py``.

Each thread has connections of its own, so nothing is shared and a fork leaves nothing locked.  urllib3's own timeouts
bound each step; the deadline over all of them, DNS included, is kept by ``threads.py``, which also cuts the connection
of a stuck attempt, so that an answer that drips for ever does not hold a thread for ever.

An answer that ends early is no answer, but a refusal (4xx, 5xx) is believed from its status line; the same rule as in
``curl.py``.  1xx answers are skipped: the standard library takes all of them but 100 for the final one, and would then
credit the next request on the connection with the answer to this one.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - a lookup imports it, on its thread: forked then, a child would wait for it for ever
import http.client
import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeoutError
from urllib3.util.ssl_match_hostname import CertificateError

from ..event import shown_url
from .outgoing import UnfitRequestError, outgoing_headers, target
from .protocol import BODY_EXCERPT_BYTES_MAX, FaultKind, Request, Response, TransportError
from .threads import Job, ThreadedTransport, Worker
from .tls import check_client_pair, find_authorities

ANSWER_BYTES_MAX: Final = 1024 * 1024
"""An answer longer than this is cut off; what it means is judged by its status all the same."""
THREADS_MAX: Final = 8
STUCK_MAX: Final = 24
HOSTS_MAX: Final = 4
"""Connections to different hosts that one thread keeps."""


_CHECKS_HOST_NAMES_ITSELF: Final = not hasattr(urllib3, "BaseHTTPResponse")  # before urllib3 2
"""Whether this urllib3 has OpenSSL check no address, and compares names itself where OpenSSL does not."""
_TLS_ALERTS: Final = ("ALERT_CERTIFICATE", "CERTIFICATE_REQUIRED", "UNKNOWN_CA", "BAD_CERTIFICATE")


class _FinalResponse(http.client.HTTPResponse):
    """Skips every 1xx answer (RFC 9110, 15.2) but 101, which is final for those who asked for it, and we never do."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed leaves it out
            if not http.client.CONTINUE < status < http.client.OK or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _State:
    """What one thread holds: its connections by proxy, all with one TLS context, and the one that it is using.

    ``query`` is what the connection adds to the request's path: urllib3 logs what it is asked for, and must not know.
    """

    __slots__ = ("connection", "context", "managers", "proxies", "query")

    def __init__(self) -> None:
        self.context: ssl.SSLContext | None = None
        self.connection: Any = None
        self.query = ""
        self.proxies: dict[tuple[str, str], str | None] = {}
        self.managers: dict[tuple[str | None, bool], urllib3.PoolManager] = {}


class PoolTransport(ThreadedTransport):
    """Requests over urllib3 on up to ``threads_max`` daemon threads.

    The other arguments are those of CurlTransport (no HTTP/2 here).  Raises FileNotFoundError or ValueError for files
    that are not there; a bundle that can't be read is told by each request, as kind "tls".
    """

    inline_is_bounded = True  # but for a lookup that hangs and an answer that drips: there nobody is left to end it
    is_guarded = True
    """Sends nothing to Optimizely from a test run."""

    def __init__(
        self,
        *,
        ca: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        proxy: str | None = None,
        threads_max: int = THREADS_MAX,
    ) -> None:
        self._authorities = find_authorities(ca)
        check_client_pair(client_cert, client_key)
        self._client_cert = None if client_cert is None else os.fspath(client_cert)
        self._client_key = None if client_key is None else os.fspath(client_key)
        self._proxy = proxy
        self._context: ssl.SSLContext | None = None
        super().__init__(threads_max, STUCK_MAX)

    def _attempt(self, request: Request, job: Job, worker: Worker) -> Response | TransportError:
        shown = shown_url(request.envelope.url)
        if worker.state is None:
            worker.state = _State()
        state: _State = worker.state
        try:
            url = target(request.envelope, request.body)
            headers = dict(outgoing_headers(request.envelope.headers))
            parts = urlsplit(url)
            if not parts.hostname:
                return TransportError("other", "cannot be sent: the URL has no host")
            if parts.username is not None:
                credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                headers.update(urllib3.make_headers(basic_auth=credentials))
                url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
            query = urllib3.util.parse_url(url).query
            state.query, url = "" if query is None else f"?{query}", url.partition("?")[0]
            scheme = parts.scheme.lower()
            manager = self._manager(
                state, self._proxy_for(state, scheme, parts.netloc.rpartition("@")[2]), secure=scheme == "https"
            )
        except UnfitRequestError as error:
            return TransportError(error.kind, f"cannot be sent: {error}")
        except ValueError:
            return TransportError("other", "cannot be sent: the URL or the proxy's is not one")
        except (OSError, ssl.SSLError) as error:
            return TransportError("tls", f"{shown}: {type(error).__name__}: {self._authorities.remedy()}")
        verb = request.envelope.verb
        try:
            answer = manager.request(
                verb,
                url,
                body=None if verb == "GET" else request.body,
                headers=headers,
                timeout=urllib3.Timeout(total=job.left_s()),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                enforce_content_length=True,
            )
        except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            return self._fault(error, shown)
        return self._read(answer, job, shown)

    def _read(self, answer: Any, job: Job, shown: str) -> Response | TransportError:
        """Take the excerpt of the body, and give the connection back only if the answer was read to its end."""
        kept, seen, clean = bytearray(), 0, False
        fault: TransportError | None = None
        try:
            while not job.over:
                part = answer.read(16384)
                if not part:
                    clean = True
                    break
                seen += len(part)
                kept += part[: max(0, BODY_EXCERPT_BYTES_MAX - len(kept))]
                if seen > ANSWER_BYTES_MAX:
                    break
        except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            fault = self._fault(error, shown)
        if clean:
            answer.release_conn()
        else:
            answer.close()
        if answer.status == http.client.SWITCHING_PROTOCOLS:
            return TransportError("protocol", f"{shown}: 101 without having been asked for")
        if fault is not None and not (answer.status >= http.client.BAD_REQUEST and fault.kind == "reset"):
            return fault
        return Response(answer.status, answer.headers.get("Retry-After"), bytes(kept))

    def _fault(self, error: Exception, shown: str) -> TransportError:
        kind, message = _told(error)
        if kind == "tls":
            self._context = None  # the next check reads the bundle again: it may have been mended
            message = f"{message}; {self._authorities.remedy()}"
        return TransportError(kind, f"{shown}: {message}")

    def _proxy_for(self, state: _State, scheme: str, host: str) -> str | None:
        """Return the proxy to take, or None; the environment is read once per thread and host: it takes 0.2 ms."""
        if self._proxy is not None:
            return self._proxy or None
        if (scheme, host) not in state.proxies:
            proxies: Mapping[str, str] = getproxies()
            proxy = proxies.get(scheme) or proxies.get("all")
            state.proxies[(scheme, host)] = None if not proxy or proxy_bypass(host) else proxy
        return state.proxies[(scheme, host)]

    def _manager(self, state: _State, proxy: str | None, *, secure: bool) -> urllib3.PoolManager:
        checks = secure or (proxy is not None and proxy.lower().startswith("https:"))
        if checks and state.context is not (context := self._tls_context()):
            for old in state.managers.values():
                old.clear()
            state.managers.clear()
            state.context = context
        manager = state.managers.get((proxy, secure))
        if manager is None:
            options: dict[str, Any] = {"num_pools": HOSTS_MAX, "maxsize": 1}
            if checks:
                options["ssl_context"] = state.context
            if proxy is None:
                manager = urllib3.PoolManager(**options)
            else:
                url = proxy if "://" in proxy else f"http://{proxy}"
                parts = urlsplit(url)
                if parts.scheme not in ("http", "https"):
                    raise UnfitRequestError(f"a proxy of the scheme {parts.scheme} needs the extra eventpost[curl]")
                if parts.username is not None:
                    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                    options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=credentials)
                manager = urllib3.ProxyManager(url, proxy_ssl_context=options.get("ssl_context"), **options)
            manager.pool_classes_by_scheme = _noting_pools(state)
            state.managers[(proxy, secure)] = manager
        return manager

    def _tls_context(self) -> ssl.SSLContext:
        """Return the one context of all threads; reading a bundle takes tens of milliseconds."""
        context = self._context
        if context is None:  # another thread may be at it, too: the last one's is everybody's from the next request on
            context = self._context = self._new_tls_context()
        return context

    def _new_tls_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name, and trusts nobody yet
        if _CHECKS_HOST_NAMES_ITSELF:
            context.check_hostname = False
        path = self._authorities.path
        if path is not None:
            context.load_verify_locations(**{"capath" if self._authorities.is_directory else "cafile": path})
        if self._client_cert is not None:
            context.load_cert_chain(self._client_cert, self._client_key)
        return context

    def _interrupt(self, worker: Worker) -> None:
        """Cut the connection: a thread that reads from it fails at once."""
        state = worker.state
        sock = getattr(getattr(state, "connection", None), "sock", None)
        if isinstance(sock, socket.socket):
            with suppress(OSError):  # not connected, yet or any more
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's, which changes it under its reader

    def _leave(self, worker: Worker) -> None:
        state, worker.state = worker.state, None
        for manager in state.managers.values() if state is not None else ():
            manager.clear()


def _noting_pools(state: _State) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return urllib3's pools with connections that tell ``state`` when they are in use, so that they can be cut."""

    class Plain(HTTPConnection):
        response_class = _FinalResponse

        def connect(self) -> None:
            state.connection = self
            super().connect()

        def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            state.connection = self
            super().putrequest(method, url + state.query, *args, **kwargs)

    class Secure(HTTPSConnection):
        response_class = _FinalResponse

        def connect(self) -> None:
            state.connection = self
            super().connect()

        def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            state.connection = self
            super().putrequest(method, url + state.query, *args, **kwargs)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _told(error: BaseException) -> tuple[FaultKind, str]:
    """Return what kind of fault an exception is, and a message without secrets.  Looks through urllib3's wrappings."""
    chain: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        link = todo.pop(0)
        if isinstance(link, BaseException) and link not in chain:
            chain.append(link)
            todo += [link.__cause__, link.__context__, getattr(link, "original_error", None), *link.args]

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((link for link in chain if isinstance(link, kinds)), None)

    if (certificate := first(ssl.SSLCertVerificationError, ssl.CertificateError, CertificateError)) is not None:
        why = getattr(certificate, "verify_message", "") or "the certificate does not match the host"
        return "tls", f"certificate check failed: {why}"
    if (handshake := first(ssl.SSLError) or first(SSLError)) is not None and first(ssl.SSLEOFError) is None:
        reason = str(getattr(handshake, "reason", "") or type(handshake).__name__)
        if any(alert in reason.upper() for alert in _TLS_ALERTS):
            return "tls", f"{reason}: the endpoint wants another client certificate: see client_cert and client_key"
        return "connect", f"TLS failed: {reason}"
    kind: FaultKind
    if first(socket.gaierror) is not None:
        kind, what = "dns", "the host's name could not be resolved"
    elif first(PoolTimeoutError, ConnectTimeoutError, TimeoutError) is not None and first(ConnectionError) is None:
        kind, what = "timeout", "timed out"
    elif first(NewConnectionError, ConnectionRefusedError, ProxyError) is not None:
        kind, what = "connect", "no connection"
    elif first(IncompleteRead, http.client.IncompleteRead, ConnectionError, ssl.SSLEOFError) is not None:
        kind, what = "reset", "the connection ended before the answer was complete"
    elif first(http.client.HTTPException, ProtocolError) is not None:
        kind, what = "protocol", "the answer is not HTTP"
    elif first(LocationValueError, ValueError) is not None:
        kind, what = "other", "the URL cannot be used"
    elif first(OSError) is not None:
        kind, what = "reset", "the connection failed"
    else:
        kind, what = "other", "failed"
    return kind, f"{what} ({' < '.join(type(link).__name__ for link in chain[:3])})"
