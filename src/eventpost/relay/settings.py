"""One table of the relay's settings: the fields of :class:`RelaySettings`.

File (TOML), environment and flags are read by it, the documentation and ``eventpost check`` print it.  A flag wins over
the environment, that over the file, and that over the default; a message about a value names where it came from.

====================  =================================================
in                    a setting ``drain_timeout_s`` is called
====================  =================================================
the file              ``drain_timeout_s = 30``
the environment       ``EVENTPOST_RELAY_DRAIN_TIMEOUT_S=30``
flags                 ``--drain-timeout 30``: without the unit
====================  =================================================

Of lists the environment takes items between commas, and a flag is given once for each.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, Literal

from ..doors.encode import check_url
from ..errors import EventpostError
from ..queues.journal.folder import resolved
from ..queues.place import SharedQueue, check_address
from ..settings import ENDPOINT_BODY_BYTES_MAX, SETTINGS, shared_queue
from .access import Rules, digest_of, is_loopback, network_of, origin_of
from .row import Row, SettingError

CONFIG_ENV: Final = "EVENTPOST_RELAY_CONFIG"
QUEUE_ENV: Final = SETTINGS["queue"].env
"""Names the queue of every process of a machine; a relay that is told of a journal is not meant."""
US_ENDPOINT: Final = "https://logx.optimizely.com/v1/events"
EU_ENDPOINT: Final = "https://eu.logx.optimizely.com/v1/events"
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


def _row(default: Any, meaning: str, *, secret: bool = False, **more: Any) -> Any:
    return field(default=default, repr=not secret, metadata={"meaning": meaning, **more})


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[IPv6]:PORT``.  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare and bare == host) or not port.isdecimal() or int(port) > 65535:
        raise ValueError("HOST:PORT is needed, an IPv6 address in brackets")
    return bare, int(port)


def _listen(text: str) -> str:
    parse_listen(text)
    return text


def _url(text: str) -> str:
    try:
        return check_url(text)
    except EventpostError as error:
        raise ValueError(str(error)) from None


def _prefix(text: str) -> str:
    bare = "/" + text.strip("/") if text.strip("/") else ""
    if not _PREFIX.fullmatch(bare):
        raise ValueError("a path of letters, digits and . _ ~ - between slashes is needed")
    return bare


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("a host name without a port is needed")
    return text.lower().rstrip(".")


def _journal(text: str) -> str:
    resolved(text)
    return text


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The settings in force.  ``sources`` says where those came from that are no defaults."""

    listen: str = _row("127.0.0.1:8787", "address and port to listen on", check=_listen)
    journal: tuple[str, ...] = _row(
        ("~/.local/state/eventpost/relay",),
        "folder of the relay's own journal; further ones are those of applications, whose events it sends, too",
        check=_journal,
    )
    queue: str | None = _row(
        None, "URL of a queue in Redis or Valkey, instead of journals; EVENTPOST_QUEUE names it, too",
        check=check_address, secret=True,
    )  # fmt: skip
    queue_name: str | None = _row(
        None, "its name, part of all its keys; none: as EVENTPOST_QUEUE_NAME says, or eventpost"
    )
    replicas: int = _row(0, "how many of the server's replicas have to have an event before the 204", highest=16)
    spill: str | None = _row(
        None, "folder of a journal for what comes while the queue is away; none: 503", check=_journal
    )
    send: bool = _row(True, "send what is stored; off where others do (`eventpost send`)")
    durability: Literal["os", "fsync", "host"] = _row(
        "os", "what a 204 survives: the death of every process (os), power loss (fsync), the loss of the server (host)",
        choices=("os", "fsync", "host"),
    )  # fmt: skip
    bytes_max: int = _row(
        4 << 30,
        "bound on the relay's own journal, or on the queue, in bytes; beyond it the answer is 503",
        lowest=1 << 20,
    )
    group: str | None = _row(None, "group that shares the relay's own journal; none: private to the user")
    endpoint: str | None = _row(None, "URL to send everything to, instead of Optimizely's two", check=_url)
    eu: bool = _row(False, "send what comes to /v1/events to the EU endpoint")
    eu_host: tuple[str, ...] = _row((), "host names under which /v1/events means the EU endpoint", check=_host)
    allow_endpoint: tuple[str, ...] = _row(
        (), "further URLs that events of applications' journals may be sent to; others are held", check=_url
    )
    prefix: str = _row("", "path in front of every path, for a relay behind a proxy", check=_prefix)
    merge: bool = _row(False, "let events with equal envelopes share requests; visitors' bytes are kept")
    workers: int = _row(1, "processes that take events", lowest=1, highest=64)
    worker_timeout_s: float = _row(
        30.0, "seconds without a sign of life after which a worker is killed, and another one started; 0: never"
    )
    drain_timeout_s: float = _row(10.0, "seconds that a stop goes on sending what is queued")
    stop_timeout_s: float = _row(5.0, "seconds that a stop waits for requests it has accepted", lowest=0.1)
    open: bool = _row(False, "take events from anyone who can connect, and show them /metrics")
    open_page: bool = _row(False, "show the page, and let it change things, to anyone who can connect")
    token: tuple[str, ...] = _row(
        (), "digest of a token that may send events (`eventpost relay-token` makes both)", check=digest_of
    )
    page_token: tuple[str, ...] = _row((), "digest of a token for the page and /metrics", check=digest_of)
    origin: tuple[str, ...] = _row((), "origin of web pages that may send events without a token", check=origin_of)
    host: tuple[str, ...] = _row((), "host name under which the page may be asked for without a token", check=_host)
    origin_rate_per_s: float = _row(
        50.0, "requests a second from one address that its origin alone lets in, for each worker; 0: no limit"
    )
    rate_per_s: float = _row(0.0, "requests a second from any one address, for each worker; 0: no limit")
    trusted_proxy: tuple[str, ...] = _row(
        (), "address or network of a proxy whose X-Forwarded-For is believed", check=lambda one: str(network_of(one))
    )
    tls_cert: str | None = _row(None, "file with the certificate chain; makes the relay speak HTTPS")
    tls_key: str | None = _row(None, "file with its key; none: it lies in the certificate's file")
    tls_client_ca: str | None = _row(None, "file with the authorities of client certificates; asks for one, always")
    body_bytes_max: int = _row(
        ENDPOINT_BODY_BYTES_MAX, "bytes of a body, as it comes and unpacked", lowest=1, highest=ENDPOINT_BODY_BYTES_MAX
    )
    bodies_bytes_max: int = _row(
        64 << 20, "bytes of bodies that each worker holds at once, while they come in", lowest=ENDPOINT_BODY_BYTES_MAX
    )
    header_bytes_max: int = _row(16_384, "bytes of a request's header", lowest=1024, highest=1 << 20)
    connections_max: int = _row(1000, "connections at once, for each worker", lowest=1)
    header_timeout_s: float = _row(10.0, "seconds for a header, and for a TLS handshake", lowest=0.1)
    body_timeout_s: float = _row(30.0, "seconds for a body", lowest=0.1)
    keep_alive_s: float = _row(30.0, "seconds that a connection may wait for its next request", lowest=0.1)
    visitor_ids: bool = _row(False, "show visitor ids on the page; masked otherwise")
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        return parse_listen(self.listen)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.address[0])

    @property
    def shared_with(self) -> str | int | None:
        """The group, by its number if it is one."""
        return int(self.group) if self.group is not None and self.group.isdecimal() else self.group

    @property
    def shared(self) -> SharedQueue | None:
        """The queue that machines share, with what the environment says beside it; None: journals.

        Raises ValueError, OSError: a password's file can't be read.
        """
        return None if self.queue is None else shared_queue(self.queue, self.queue_name)

    @property
    def us_url(self) -> str:
        """Where an event that came to ``/v1/events`` goes."""
        return self.endpoint or (EU_ENDPOINT if self.eu else US_ENDPOINT)

    @property
    def eu_url(self) -> str:
        """Where an event that came to ``/eu/v1/events`` goes."""
        return self.endpoint or EU_ENDPOINT

    @property
    def allowed_urls(self) -> frozenset[str]:
        """Where requests may go at all."""
        return frozenset({self.us_url, self.eu_url, *self.allow_endpoint} if self.endpoint is None else {self.endpoint})

    @property
    def rules(self) -> Rules:
        """What is said about access."""
        return Rules(
            loopback=self.loopback, tokens=self.token, page_tokens=self.page_token, origins=self.origin,
            hosts=self.host, open=self.open, open_page=self.open_page, certificates=self.tls_client_ca is not None,
            origin_rate_per_s=self.origin_rate_per_s, rate_per_s=self.rate_per_s, proxies=self.trusted_proxy,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, without their sources."""
        return {row.name: getattr(self, row.name) for row in TABLE}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RelaySettings:
        """Return what :meth:`as_dict` was made of."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**given)


_KINDS: Final = {"int": int, "float": float, "bool": bool, "tuple[str, ...]": tuple}
TABLE: Final[tuple[Row, ...]] = tuple(
    Row(one.name, _KINDS.get(str(one.type), str), one.default, **one.metadata)
    for one in fields(RelaySettings)
    if one.name != "sources"
)


def read_settings(
    flags: Mapping[str, Any], *, config: str | None = None, environ: Mapping[str, str] | None = None
) -> RelaySettings:
    """Return the settings in force.

    ``flags``: what the command line said, by the settings' names; None and empty lists: it said nothing.  ``config``:
    the TOML file, else ``EVENTPOST_RELAY_CONFIG`` names it.  ``environ``: None for the process's own.

    Raises SettingError, naming the source of what makes no sense, OSError for a file that can't be read.
    """
    environ = os.environ if environ is None else environ
    path = config or environ.get(CONFIG_ENV) or None
    in_file = {} if path is None else _read_file(path)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for row in TABLE:
        said = flags.get(row.name)
        if said is not None and said not in ((), []):
            value, source = said, row.flag
        elif environ.get(row.env):
            value, source = row.parse(environ[row.env], row.env), row.env
        elif row.name in in_file:
            value, source = in_file[row.name], f"{path}: {row.name}"
        elif row.name == "queue" and "journal" not in values and environ.get(QUEUE_ENV):
            value, source = environ[QUEUE_ENV], QUEUE_ENV
        else:
            continue
        values[row.name] = row.checked(value, source)
        sources[row.name] = source
    made = RelaySettings(**values, sources=sources)
    _check_together(made)
    return made


def _read_file(path: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - its kin below is an extra, and the command line works without it
    else:
        import tomli as tomllib  # noqa: PLC0415 - as above
    with open(path, "rb") as file:
        try:
            found: dict[str, Any] = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingError(f"{path}: {error}") from None
    known = [row.name for row in TABLE]
    for name in found:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise SettingError(f"{path}: there is no setting {name!r}{f'; {near[0]!r}?' if near else ''}")
    return found


def _check_together(made: RelaySettings) -> None:
    """Refuse what makes no sense together, above all a relay that anyone could use without its owner's word."""
    if not made.journal:
        raise SettingError("a journal is needed")
    if made.queue is not None:
        _check_queue(made)
    else:
        for name in ("queue_name", "replicas", "spill"):
            if name in made.sources:
                raise SettingError(f"{_named(made, name)} means nothing without queue")
        if made.durability == "host":
            raise SettingError(f"{_named(made, 'durability')}: host needs a queue on a server with replicas")
    if len({resolved(path) for path in made.journal}) < len(made.journal):
        raise SettingError(f"{_named(made, 'journal')}: the same folder is named twice")
    if made.tls_key and not made.tls_cert:
        raise SettingError(f"{_named(made, 'tls_key')} needs tls_cert")
    if made.tls_client_ca and not made.tls_cert:
        raise SettingError(f"{_named(made, 'tls_client_ca')} needs tls_cert")
    if made.endpoint and made.allow_endpoint:
        raise SettingError(f"{_named(made, 'allow_endpoint')} means nothing with endpoint: everything goes there")
    if not (made.loopback or made.token or made.origin or made.tls_client_ca or made.open):
        raise SettingError(
            f"{_named(made, 'listen')}: beyond loopback anyone could send events. Name a token (`eventpost relay-token`"
            " makes one), the origins of web pages, or the authority of client certificates; or say --open"
        )


def _check_queue(made: RelaySettings) -> None:
    for name in ("journal", "group"):
        if name in made.sources:
            raise SettingError(
                f"{_named(made, name)} means nothing with queue: what lies in a folder is sent by `eventpost send`, or "
                "by a relay of its own"
            )
    if made.durability == "host" and not made.replicas:
        raise SettingError(f"{_named(made, 'durability')}: host needs replicas, at least 1")
    try:
        assert made.shared is not None  # noqa: S101 - queue is set
    except ValueError as error:
        raise SettingError(str(error)) from None
    except OSError as error:
        raise SettingError(f"EVENTPOST_QUEUE_PASSWORD_FILE: {error.filename}: {error.strerror}") from None


def share_run_dir(path: str) -> None:
    """Have the counters of this process and its children kept in a folder; before the first is made."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = path


def _named(made: RelaySettings, name: str) -> str:
    return made.sources.get(name, name)
