"""What ``eventpost check`` looks at, one function each: what it found, and what to do about it.

Nothing is changed and no event is sent: a folder that is not there is not made, an endpoint is asked with a GET, by the
very transport that sends events, so that proxies, authorities and name servers are the real ones.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import ssl
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from ..errors import JournalUnusable
from ..event import Envelope, Event, shown_url
from ..queues import shown
from ..queues.journal import inspect
from ..queues.journal.dead import DeadLetter
from ..queues.journal.disk import Disk
from ..queues.journal.filesystem import NETWORK_FS, file_system_of
from ..queues.journal.folder import resolved
from ..relay.answers import Denied
from ..relay.body import Reader, parse_batch
from ..relay.settings import RelaySettings
from ..relay.strict import strict_errors
from ..relay.tls import tls_context
from ..settings import ENDPOINT_BODY_BYTES_MAX, build_transport
from ..transports.protocol import Request, Response, TransportError
from ..transports.tls import find_authorities
from . import show

State = Literal["ok", "look", "bad"]
TIMEOUT_S: Final = 10.0
SYNC_TRIES: Final = 5
SLOW_SYNC_S: Final = 0.02
ANSWER_CHARS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: ``ok``; ``look``: it works, and may not be what is meant; ``bad``: it does not work.

    ``what``: the check.  ``remedy``: what to do, "" where there is nothing to do.
    """

    what: str
    state: State
    detail: str
    remedy: str = ""


def check_settings(settings: RelaySettings) -> Iterator[Finding]:
    """Tell where the settings come from, and what of them should be meant."""
    said = ", ".join(f"{name} ({source})" for name, source in settings.sources.items())
    yield Finding("settings", "ok", f"they make sense; not at their defaults: {said or 'none'}")
    if settings.open and not settings.loopback:
        yield Finding(
            "settings", "look", "open: anyone who can connect may send events",
            "put it behind something that decides who can, or name tokens, origins or a client authority",
        )  # fmt: skip
    for url in sorted(settings.allowed_urls):
        host = url.partition("//")[2].partition("/")[0]
        if url.startswith("http://") and not host.startswith(("127.", "localhost", "[::1]")):
            remedy = "use https, unless the way there is your own"
            yield Finding("settings", "look", f"events go to {shown_url(url)} without TLS", remedy)


def check_listen(settings: RelaySettings) -> Iterator[Finding]:
    """Try whether the address can be listened on."""
    host, port = settings.address
    try:
        family, kind, number, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(where)
            one.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = "right, if this relay runs; else stop what does, or choose another port"
            yield Finding("listen", "look", f"somebody listens on {settings.listen} already", remedy)
            return
        remedy = "choose an address of this machine, and a port from 1024 up where this is not root"
        yield Finding("listen", "bad", f"{settings.listen}: {error.strerror or error}", remedy)
        return
    yield Finding("listen", "ok", f"{settings.listen} is free")


def check_tls(settings: RelaySettings) -> Iterator[Finding]:
    """Load the relay's own certificate, and the authorities of its clients."""
    if settings.tls_cert is None:
        return
    try:
        tls_context(settings)
    except OSError as error:
        remedy = "name files that this user can read: a chain and its key in PEM, and a bundle of authorities"
        yield Finding("certificate", "bad", f"{settings.tls_cert}: {error.strerror or error}", remedy)
        return
    yield Finding("certificate", "ok", f"{settings.tls_cert} and its key fit together")


def check_authorities() -> Iterator[Finding]:
    """Look whether there are authorities to check endpoints by."""
    found = find_authorities(None)
    if found.path is None or not os.path.exists(found.path):
        yield Finding("authorities", "bad", "no certificate can be checked", found.remedy())
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if found.is_directory:
            count = len(os.listdir(found.path))
        else:
            context.load_verify_locations(found.path)
            count = len(context.get_ca_certs())
    except OSError as error:
        yield Finding(
            "authorities", "bad", f"{found.path} (from {found.source}): {error.strerror or error}", found.remedy()
        )  # fmt: skip
        return
    if not count:
        yield Finding("authorities", "bad", f"there is none in {found.path} (from {found.source})", found.remedy())
        return
    yield Finding("authorities", "ok", f"{count} in {found.path} (from {found.source})")


def check_folder(path: str, settings: RelaySettings, *, own: bool) -> Iterator[Finding]:
    """Look whether a folder can be used, by whom else, and how full it is."""
    try:
        full = resolved(path)
    except ValueError as error:
        yield Finding("folder", "bad", str(error), "name a folder")
        return
    if not os.path.lexists(os.path.join(full, "segments")):
        yield from _missing_folder(full, own=own)
        return
    try:
        folder = inspect.open_folder(full)
    except (JournalUnusable, OSError) as error:
        yield Finding("folder", "bad", str(error), "do what it says, as the user that runs the relay")
        return
    mode = stat.S_IMODE(os.stat(full).st_mode)
    if mode & 0o007 or (mode & 0o070 and mode & 0o2070 != 0o2070):
        remedy = "`eventpost verify --repair` puts the modes right"
        yield Finding("folder", "look", f"{full} has mode {mode:04o}: others than its user may get at events", remedy)
    status = inspect.folder_status(full)
    for line in inspect.needs_a_person(status):
        yield Finding("folder", "look", f"{full}: {line}", "see `eventpost status`")
    works = f"{status.writers} processes at work" if status.writers else "nobody at work"
    told = f"{full} can be used; {status.queued:,} queued, {status.dead:,} dead, {works}"
    yield Finding("folder", "ok", told)
    yield from _room(full, settings.bytes_max if own else 0)
    yield from _locks(folder.path, folder.disk)
    if own:
        yield from _sync(folder.path, folder.disk, durable=settings.durability == "fsync")
    for lane in status.lanes:
        if lane.queued and settings.endpoint is None and lane.url not in settings.allowed_urls:
            told = f"{lane.queued:,} events in {full} are for {shown_url(lane.url)}, and would be held"
            yield Finding("folder", "look", told, "name it with allow_endpoint if they are to go there")


def _missing_folder(full: str, *, own: bool) -> Iterator[Finding]:
    if not own:
        told = f"{full} is no journal (no folder named segments in it)"
        yield Finding("folder", "bad", told, "start the application that writes it first, or correct the path")
        return
    above = full
    while not os.path.lexists(above) and above != os.path.dirname(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        yield Finding("folder", "bad", f"{full} cannot be made: {above} is no folder", "choose another path")
    elif not os.access(above, os.W_OK | os.X_OK):
        remedy = f"make it for uid {os.geteuid()}, or choose a path that it may write to"
        yield Finding("folder", "bad", f"{full} cannot be made in {above} by uid {os.geteuid()}", remedy)
    elif (kind := file_system_of(above)) in NETWORK_FS:
        remedy = "choose a local disk: locks and mappings may not hold there"
        yield Finding("folder", "bad", f"{above} is on a network file system ({kind})", remedy)
    else:
        yield Finding("folder", "ok", f"{full} is not there yet, and will be made")


def _room(full: str, bytes_max: int) -> Iterator[Finding]:
    with suppress(OSError):
        found = os.statvfs(full)
        free = found.f_frsize * found.f_bavail
        if bytes_max and free < bytes_max:
            told = f"{show.size(free)} are free, and the journal may take {show.size(bytes_max)}"
            yield Finding("room", "look", told, "a full disk is answered with 503: set bytes_max lower, or make room")
        else:
            yield Finding("room", "ok", f"{show.size(free)} are free")


def _locks(path: str, disk: Disk) -> Iterator[Finding]:
    """Look whether a lock that one has is refused to another."""
    probe = f"{path}/.probe-{secrets.token_hex(4)}"
    try:
        first = disk.create(probe, 0o600, None)
        try:
            second = disk.open(probe)
            try:
                holds = disk.lock(first) and not disk.lock(second)
            finally:
                disk.close(second)
        finally:
            disk.close(first)
            disk.unlink(probe)
    except OSError as error:
        yield Finding("locks", "bad", f"{path}: {error.strerror}", "use a local disk")
        return
    kind = file_system_of(path) or "unknown"
    if holds:
        yield Finding("locks", "ok", f"they hold (file system: {kind})")
    else:
        told = f"a lock is given to two at once (file system: {kind}): two senders would send the same events"
        yield Finding("locks", "bad", told, "use a local disk")


def _sync(path: str, disk: Disk, *, durable: bool) -> Iterator[Finding]:
    """Measure a sync, which every 204 waits for at ``fsync``."""
    probe = f"{path}/.probe-{secrets.token_hex(4)}"
    took: list[float] = []
    try:
        fd = disk.create(probe, 0o600, None)
        try:
            for number in range(SYNC_TRIES):
                disk.write(fd, os.urandom(4096), 4096 * number)
                began = time.perf_counter()
                disk.datasync(fd)
                took.append(time.perf_counter() - began)
        finally:
            disk.close(fd)
            disk.unlink(probe)
    except OSError as error:
        yield Finding("sync", "bad", f"{path}: {error.strerror}", "the disk refuses to make anything safe: look at it")
        return
    told = f"a sync takes {sorted(took)[len(took) // 2] * 1000:.1f} ms"
    if durable and min(took) > SLOW_SYNC_S:
        remedy = "a faster disk, or durability os, which survives all but power loss"
        yield Finding("sync", "look", f"{told}, and every 204 waits for one", remedy)
    else:
        yield Finding("sync", "ok", told if durable else f"{told}; durability os: no 204 waits for one")


def check_endpoint(url: str) -> Iterator[Finding]:
    """Ask an endpoint for anything, with a GET: that it answers at all is what counts."""
    outcome = ask(Request(Envelope(url, "GET", ()), b"", None, TIMEOUT_S))
    if isinstance(outcome, TransportError):
        if outcome.kind == "test_run":
            yield Finding("endpoint", "look", f"{shown_url(url)} was not asked: {outcome.message}")
            return
        yield _no_answer("endpoint", url, outcome)
        return
    told = f"{shown_url(url)} answers ({outcome.status} to a GET, in {outcome.elapsed_s * 1000:.0f} ms)"
    if 300 <= outcome.status < 400:
        yield Finding("endpoint", "look", told, "redirects are not followed: name where it leads to")
    else:
        yield Finding("endpoint", "ok", told)


_REMEDIES: Final = {
    "dns": "check the name, and the name server that this machine asks",
    "connect": "check host, port, firewall and proxy (https_proxy, no_proxy)",
    "tls": "see what it says of the authorities; a proxy that opens TLS has one of its own",
    "timeout": "check firewall and proxy: packets are dropped on the way, or the endpoint hangs",
    "reset": "check what stands in between: it took the connection and ended it",
    "protocol": "check the port: what answers there speaks no HTTP",
    "dispatcher": "", "closed": "", "test_run": "", "not_allowed": "", "other": "check the URL",
}  # fmt: skip


def _no_answer(what: str, url: str, error: TransportError) -> Finding:
    where = "" if shown_url(url) in error.message else f"{shown_url(url)}: "
    return Finding(what, "bad", f"{where}{error.message} ({error.kind})", _REMEDIES[error.kind])


def ask(request: Request) -> Response | TransportError:
    """Send one request by the transport that events are sent with; return how it ended."""
    transport = build_transport()
    deadline = time.monotonic() + request.timeout_s + 2.0
    try:
        transport.start(request)
        while time.monotonic() < deadline:
            for completion in transport.wait(deadline - time.monotonic()):
                return completion.outcome
    finally:
        transport.close(0.5)
    return TransportError("timeout", "no answer")


def check_payload(raw: bytes) -> tuple[list[Finding], bytes | None]:
    """Check a body as strict mode does; return what was found, and the body if it can be sent at all."""
    if len(raw) > ENDPOINT_BODY_BYTES_MAX:
        told = f"{len(raw):,} bytes, and the endpoint takes {ENDPOINT_BODY_BYTES_MAX:,}"
        return [Finding("payload", "bad", told, "send its visitors in several bodies")], None
    if raw[:2] == b"\x1f\x8b":
        reader = Reader(body_bytes_max=ENDPOINT_BODY_BYTES_MAX, bodies_bytes_max=1 << 30, timeout_s=0)
        unpacked = reader.unpack(raw, b"gzip")
        if isinstance(unpacked, Denied):
            return [Finding("payload", "bad", unpacked.detail, "unpack it, and look")], None
        raw = unpacked
    batch = parse_batch(raw)
    if isinstance(batch, Denied):
        return [Finding("payload", "bad", batch.detail, "the body of a request is needed, as an SDK sends it")], None
    remedy = "mend what makes it: the endpoint says 204 to it and does not use it"
    faults = [Finding("payload", "bad", line, remedy) for line in strict_errors(batch)]
    if faults:
        return faults, raw
    visitors: Sequence[dict[str, list[dict[str, list[object]]]]] = batch["visitors"]
    events = sum(len(snapshot["events"]) for visitor in visitors for snapshot in visitor["snapshots"])
    told = f"{shown.count(len(visitors), 'visitor')}, {shown.count(events, 'event')}"
    return [Finding("payload", "ok", f"no fault by the published description: {told}")], raw


def send_payload(raw: bytes, url: str) -> Finding:
    """Send a body to an endpoint in strict mode; return what it said."""
    headers = (("Content-Type", "application/json"), ("X-Optimizely-Strict", "true"))
    outcome = ask(Request(Envelope(url, "POST", headers), raw, None, TIMEOUT_S))
    if isinstance(outcome, TransportError):
        return _no_answer("send", url, outcome)
    said = outcome.body.decode("utf-8", "replace")[:ANSWER_CHARS_MAX]
    event = Event(Envelope(url, "POST", headers), raw)
    masked = shown.answer(DeadLetter("", event, "", outcome.status, said, 0, 1), visitor_ids=False)
    told = f"{shown_url(url)} answered {outcome.status}{f': {masked}' if masked.strip() else ''}"
    if 200 <= outcome.status < 300:
        return Finding("send", "ok", told)
    return Finding("send", "bad", told, "it does not take this body: compare with what is said of it above")
