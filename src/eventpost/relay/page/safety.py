"""What keeps the page's visitors safe: headers, a cookie, tokens against forged requests.

Every answer carries a policy by which a browser runs and loads only this page's own files, never a script or style in
the HTML, and shows the page in nobody's frame.  ``require-trusted-types-for`` makes the browser refuse every way of
turning text into markup, so what an event says can only be shown as text.

Whatever changes something must prove that it comes from the page: by the browser's word (``Sec-Fetch-Site``, else
``Origin``, which no other site can forge) and by a token that the page carries and that is bound to the browser's
cookie.  The cookie is signed with a key that the workers share in the run_dir, so any of them can answer; it goes with
the relay.  Its name tells relays on one host apart, since browsers do not by port.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from time import time
from typing import Any, Final

from ..access import Headers, host_of
from ..answers import ASGIApp, Receive, Scope, Send
from ..run_dir import KEY

KEY_BYTES: Final = 32
LOGIN_S: Final = 12 * 3600
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
STATIC: Final = "/static/"


def with_headers(app: ASGIApp) -> ASGIApp:
    """Return an application whose every answer carries the headers; only the page's own files may be kept."""

    async def safe(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"cache-control"]
                path = scope["path"].removeprefix(scope.get("root_path", ""))
                kept = message["status"] in (200, 304) and path.startswith(STATIC)
                message["headers"] = [*own, *HEADERS, (b"cache-control", b"no-cache" if kept else b"no-store")]
            await send(message)

        await app(scope, receive, send_safely)

    return safe


def shared_key(run_dir: str) -> bytes:
    """Return the key that all workers of this relay sign with; who comes first makes it.  Raises OSError."""
    path = os.path.join(run_dir, KEY)
    with suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):
            os.link(temporary, path)  # whole, or not at all
    finally:
        os.close(fd)
        os.unlink(temporary)
    with open(path, "rb") as file:
        return file.read()


def foreign(headers: Headers, hosts: frozenset[str]) -> str | None:
    """Return why a request that would change something does not come from the page; None: it does.

    ``hosts``: further host names that are the page's, where a proxy does not hand on the one that was asked for.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is None and origin is None:
        return "it does not say where it comes from (no Origin header); programs use the `eventpost` command"
    if site is not None:
        return None if site == b"same-origin" else f"the browser says that it is {site.decode('latin-1')[:20]}"
    authority = (origin or b"").lower().partition(b"://")[2]
    if authority and (authority == headers.get(b"host", b"").lower() or host_of(authority) in hosts):
        return None
    return "its Origin is not the Host that was asked for; behind a proxy list the page's name: the setting `host`"


class Sessions:
    """The browsers' cookies, and the tokens that go with them.

    A cookie says ``visit`` (somebody who may see the page anyway) or ``login`` (somebody who showed a token), until
    when it holds, and something that nobody can guess.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.run = hashlib.sha256(b"run" + key).hexdigest()[:12]
        self.cookie = f"eventpost_{self.run}"

    def make(self, kind: str) -> str:
        """Return a cookie's value."""
        text = f"{kind}.{int(time()) + LOGIN_S}.{secrets.token_hex(16)}"
        return f"{text}.{self._mac('cookie', text)}"

    def find(self, headers: Headers) -> str | None:
        """Return the value of the cookie that came with a request, if it is one of ours and still holds."""
        for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):  # what others say there is their business
            name, _, value = part.strip().partition("=")
            if name == self.cookie and self._holds(value):
                return value
        return None

    def _holds(self, value: str) -> bool:
        text, _, mac = value.rpartition(".")
        signed = hmac.compare_digest(mac.encode(), self._mac("cookie", text).encode())
        return signed and int(text.split(".")[1]) > time()

    def is_login(self, value: str | None) -> bool:
        """Tell whether a cookie was given for a token."""
        return value is not None and value.startswith("login.")

    def token(self, value: str) -> str:
        """Return the token that a page carries whose browser has this cookie."""
        return self._mac("token", value)

    def is_token(self, value: str, token: str) -> bool:
        """Tell whether a token goes with a cookie."""
        return hmac.compare_digest(token.encode(), self.token(value).encode())

    def header(self, value: str, *, root: str, secure: bool) -> str:
        """Return the header that sets a cookie; an empty value takes it away."""
        age_s = LOGIN_S if value else 0
        more = "; Secure" if secure else ""
        return f"{self.cookie}={value}; Path={root or '/'}; Max-Age={age_s}; HttpOnly; SameSite=Strict{more}"

    def _mac(self, what: str, text: str) -> str:
        return hmac.new(self._key, f"{what}:{text}".encode(), hashlib.sha256).hexdigest()


def root_of(scope: Mapping[str, Any]) -> str:
    """Return what every path of the page begins with."""
    return str(scope.get("root_path", "")).rstrip("/")
