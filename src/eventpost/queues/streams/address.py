"""What an URL says about where the server is; pure.

::

    redis://[user:password@]host[:port][/database]
    rediss://...                                      TLS
    unix://[user:password@]/path/of/the/socket[?db=0]
    redis+sentinel://[user:password@]host[:port],host[:port]/service[/database]      rediss+sentinel://...
    redis+cluster://[user:password@]host[:port],host[:port]                          rediss+cluster://...

``valkey`` may stand for ``redis`` in any of them.  A sentinel's own password: ``?sentinel_password=``.  The database
may stand in ``?db=``; any other option is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_OPTIONS: Final = (
    "url: behind '?' stand db=, and with sentinels sentinel_password=, and nothing else; a user and a password stand "
    "before the host, or in username= and password="
)
Kind = Literal["single", "sentinel", "cluster"]


class _UnknownOption(Exception):  # noqa: N818 - names a state
    """There is something behind the question mark that nothing here would heed."""


class Place(NamedTuple):
    """One server: a host and a port, or, with port 0, the path of a socket."""

    host: str
    port: int

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{shown}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class Address:
    """Where to find a queue's server, and what to say there.  ``repr`` and ``str`` hold no password."""

    kind: Kind
    places: tuple[Place, ...]
    tls: bool = False
    database: int = 0
    service: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind == "single" else f"+{self.kind}")
        if not self.places[0].port:
            scheme = "unix"
        path = "".join(f"/{part}" for part in (self.service, self.database or "") if part)
        return f"{scheme}://{','.join(map(str, self.places))}{path}"


def parse(url: str, *, username: str | None = None, password: str | None = None) -> Address:
    """Read an URL.  Raises ValueError, which never quotes what could be a password."""
    if not isinstance(url, str):
        raise TypeError(f"url must be text, not {type(url).__name__}")
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower().replace("valkey", "redis", 1)
    base, _, suffix = scheme.partition("+")
    kinds = ("",) if base == "unix" else ("", "sentinel", "cluster")
    if base not in ("redis", "rediss", "unix") or suffix not in kinds or not rest:
        raise ValueError(
            "url must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and name a server"
        )
    try:
        address = _unix(rest) if base == "unix" else _network(rest, suffix, tls=base == "rediss")
    except _UnknownOption:
        raise ValueError(_OPTIONS) from None
    except (ValueError, TypeError, LookupError):
        raise ValueError(
            f"url cannot be read: {scheme}://[user:password@]host[:port]... (percent-encode '@', ':', '/', '?' and '#' "
            "in a user or password)"
        ) from None
    if username is not None or password is not None:
        address = replace(address, username=username or address.username, password=password or address.password)
    return address


def _unix(rest: str) -> Address:
    if "@" in rest:
        login, _, rest = rest.rpartition("@")
        user, secret = _login(login)
    else:
        user = secret = None
    path, _, query = rest.partition("?")
    database = int(_options(query, "db").get("db", 0))
    if not path or database < 0:
        raise ValueError
    return Address("single", (Place(unquote(path), 0),), database=database, username=user, password=secret)


def _network(rest: str, suffix: str, *, tls: bool) -> Address:
    parts = urlsplit(f"//{rest}")
    login, _, hosts = parts.netloc.rpartition("@")
    user, secret = _login(login)
    port = _SENTINEL_PORT if suffix == "sentinel" else _PORT
    places = tuple(_place(one, port) for one in hosts.split(",") if one)
    options = _options(parts.query, *(("db", "sentinel_password") if suffix == "sentinel" else ("db",)))
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = ""
    if suffix == "sentinel":
        service = path.pop(0)
    database = int(path.pop(0) if path else options.get("db", 0))
    if not places or path or database < 0 or (suffix == "cluster" and database) or (not suffix and len(places) > 1):
        raise ValueError
    kind: Kind = "sentinel" if suffix == "sentinel" else "cluster" if suffix == "cluster" else "single"
    return Address(kind, places, tls, database, service, user, secret, options.get("sentinel_password"))


def _options(query: str, *known: str) -> dict[str, str]:
    """Read what stands behind the question mark.  Raises _UnknownOption: whoever gave one relies on it."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not options.keys() <= set(known):
        raise _UnknownOption
    return options


def _login(login: str) -> tuple[str | None, str | None]:
    user, colon, secret = login.partition(":")
    return unquote(user) or None, unquote(secret) if colon else None


def _place(text: str, port: int) -> Place:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return Place(parts.hostname, parts.port or port)
