"""Who may send events, and who may see the page.  Pure: values in, a verdict out; time is an argument.

Events are taken from

1. who shows a token that is on the list (``Authorization: Bearer TOKEN``, or Basic with the token as the password,
   which a client makes of ``http://:TOKEN@relay/v1/events``),
2. a web page whose origin is on the list: ``sendBeacon`` can carry no token.  An Origin is no proof where the client is
   no browser, so requests that nothing but their origin lets in are bounded in rate,
3. anyone who can connect, where that is only this machine, or who has a client certificate, or if ``open`` says so;
   then too, a request with an origin that is not on the list is refused: somebody's browser was made to send it.

The page is shown to who has a token for it, or, without one, if the relay listens on loopback or ``open_page`` says so,
and the request's Host is a name of this machine, an address, or on the list: a web page that had its own host name
point to this machine (DNS rebinding) comes with that name.

Tokens have 256 random bits, so their SHA-256 is enough at rest: there is nothing to guess that a slow hash would
protect.  A comparison looks at every digest on the list, each in constant time.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import ipaddress
import re
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from .answers import Denied

DIGEST_PREFIX: Final = "sha256:"
ADDRESSES_MAX: Final = 10_000
AUTHORIZATION_BYTES_MAX: Final = 1024
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Headers = Mapping[bytes, bytes]
"""A request's headers by lower-case name; of a repeated one, the last."""


def make_digest(token: str) -> str:
    """Return what is kept of a token."""
    return DIGEST_PREFIX + hashlib.sha256(token.encode()).hexdigest()


def digest_of(text: str) -> str:
    """Return a digest as it is kept.  Raises ValueError, without quoting what may be a token."""
    found = text.strip().lower().removeprefix(DIGEST_PREFIX)
    if not _DIGEST.fullmatch(found):
        raise ValueError(f"not a token's digest: {DIGEST_PREFIX} and 64 hex digits; `eventpost relay-token` makes one")
    return DIGEST_PREFIX + found


def origin_of(text: str) -> str:
    """Return an origin as browsers send it, or ``*``.  Raises ValueError."""
    if text == "*":
        return text
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("an origin is needed: http:// or https://, a host, and no path")
    usual = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in (None, usual) else f":{port}")


def network_of(text: str) -> Network:
    """Return an address or network.  Raises ValueError."""
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError("an address or a network (10.0.0.0/8) is needed") from None


def is_loopback(host: str) -> bool:
    """Tell whether a host to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(value: bytes) -> str:
    """Return the host name in a Host header, without its port; "" if it is none."""
    text = value.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


def client_behind(peer: str, forwarded: bytes, proxies: Iterable[Network]) -> str:
    """Return who really asks: the last address in X-Forwarded-For that is no trusted proxy, if the peer is one."""
    trusted = tuple(proxies)
    here = peer
    for said in reversed(forwarded.decode("latin-1").split(",")):
        if not _is_in(here, trusted) or not said.strip():
            break
        here = said.strip()
    return here


def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    found = _as_address(address)
    return found is not None and any(found.version == one.version and found in one for one in networks)


def _as_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address; one of IPv4 also where a socket for both families writes it as one of IPv6."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if found.version == 6 else found


def neighbourhood(address: str) -> str:
    """Return what a rate is counted by: the address, or its /64 where it is one of IPv6.

    A /64 is what one host, or one household, is given: who has it has as many addresses as there are.
    """
    if ":" not in address:
        return address
    found = _as_address(address)
    if found is None or found.version == 4:
        return str(found or address)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class Rate:
    """A token bucket for each address: ``per_s`` a second, and as many at once.  Forgets who was quiet longest."""

    def __init__(self, per_s: float, *, addresses_max: int = ADDRESSES_MAX) -> None:
        self.per_s = per_s
        self._burst = max(1.0, per_s)
        self._addresses_max = addresses_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Take one; 0: it was there, else the seconds until one will be."""
        if not self.per_s:
            return 0.0
        address = neighbourhood(address)
        left, then = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - then) * self.per_s)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / self.per_s
        self._buckets[address] = (left if wait_s else left - 1.0, now)
        if len(self._buckets) > self._addresses_max:
            self._buckets.popitem(last=False)
        return wait_s


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about access; digests as ``digest_of`` returns them."""

    loopback: bool = True
    tokens: tuple[str, ...] = ()
    page_tokens: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    open: bool = False
    open_page: bool = False
    certificates: bool = False
    origin_rate_per_s: float = 0.0
    rate_per_s: float = 0.0
    proxies: tuple[str, ...] = ()


class Access:
    """The rules, and how many came lately.  Not for several threads."""

    def __init__(self, rules: Rules = Rules()) -> None:
        self.rules = rules
        self._tokens = _digests(rules.tokens)
        self._page_tokens = _digests(rules.page_tokens)
        self._origins = frozenset(one.encode() for one in rules.origins)
        self._any_origin = b"*" in self._origins
        self._hosts = frozenset(rules.hosts)
        self._proxies = tuple(network_of(one) for one in rules.proxies)
        self._rate = Rate(rules.rate_per_s)
        self._origin_rate = Rate(rules.origin_rate_per_s)
        self._anyone = not rules.tokens and (rules.loopback or rules.certificates or rules.open)
        self.needs_no_look = self._anyone and not rules.rate_per_s
        """Whether a request without an Origin needs no look: the usual case, on the hot path."""

    def knows_origin(self, origin: bytes) -> bool:
        """Tell whether a web page of this origin may send events."""
        return self._any_origin or origin in self._origins

    def event_denied(self, headers: Headers, peer: str, now: float) -> Denied | None:
        """Return why this request may not bring an event; None: it may.  ``now``: monotonic seconds."""
        origin = headers.get(b"origin")
        known = origin is not None and self.knows_origin(origin)
        address = client_behind(peer, headers.get(b"x-forwarded-for", b""), self._proxies) if self._proxies else peer
        if wait_s := self._rate.wait_s(address, now):
            return _too_fast(wait_s)
        if self._tokens and b"authorization" in headers and _shows(headers, self._tokens):
            return None if known or origin is None else _FOREIGN
        if origin is not None:
            if not known:
                return _FOREIGN
            wait_s = self._origin_rate.wait_s(address, now)
            return _too_fast(wait_s) if wait_s else None
        return None if self._anyone else _NO_TOKEN

    def page_denied(self, headers: Headers) -> Denied | None:
        """Return why this request may not see the page; None: it may."""
        if self._page_tokens:
            return None if _shows(headers, self._page_tokens) else _NO_PAGE_TOKEN
        if not (self.rules.loopback or self.rules.open_page):
            return _PAGE_OFF
        return None if self._is_own_name(host_of(headers.get(b"host", b""))) else _REBOUND

    def metrics_denied(self, headers: Headers) -> Denied | None:
        """Return why this request may not see the metrics, which name endpoints and projects, and nobody's events."""
        return None if self.rules.open else self.page_denied(headers)

    def _is_own_name(self, host: str) -> bool:
        if host in self._hosts or host == "localhost":
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True


def _digests(kept: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(one.removeprefix(DIGEST_PREFIX)) for one in kept)


def _shows(headers: Headers, digests: tuple[bytes, ...]) -> bool:
    """Tell whether the request shows one of these tokens; takes as long for each, and for none."""
    shown = headers.get(b"authorization", b"")
    scheme, _, value = shown.partition(b" ") if len(shown) <= AUTHORIZATION_BYTES_MAX else (b"", b"", b"")
    token = value.strip()
    if scheme.lower() == b"basic":
        try:
            token = b64decode(token, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            token = b""
    elif scheme.lower() != b"bearer":
        token = b""
    digest = hashlib.sha256(token).digest()
    found = False
    for one in digests:
        found |= hmac.compare_digest(digest, one)
    return found


def _too_fast(wait_s: float) -> Denied:
    return Denied(429, "too_fast", "more requests a second than one address may send", max(1, round(wait_s + 0.5)))


_FOREIGN: Final = Denied(
    403, "origin", "web pages of this origin may not send events; the setting `origin` lists who may"
)
_NO_TOKEN: Final = Denied(
    401, "token", "a token is needed: Authorization: Bearer TOKEN, or as the password of the URL",
    challenge=b'Bearer realm="eventpost"',
)  # fmt: skip
_NO_PAGE_TOKEN: Final = Denied(
    401, "page_token", "a token for the page is needed: any user name, the token as the password",
    challenge=b'Basic realm="eventpost", charset="UTF-8"',
)  # fmt: skip
_PAGE_OFF: Final = Denied(
    403, "page_off", "beyond loopback the page needs a token of its own (the setting `page_token`), or --open-page"
)  # fmt: skip
_REBOUND: Final = Denied(403, "host", "the page is not known by this host name; the setting `host` lists further ones")
