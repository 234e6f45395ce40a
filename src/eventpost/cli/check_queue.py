"""What ``eventpost check`` looks at of a queue that machines share: can its server hold one, and what does it keep."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from ..errors import QueueUnavailable, RedisUnusable
from ..queues.streams import check
from ..queues.streams.address import parse
from ..queues.streams.view import StreamsView
from ..relay.settings import RelaySettings
from . import show
from .checks import Finding

TIMEOUT_S: Final = 5.0
TRIES: Final = 5
SLOW_S: Final = 0.02


def check_queue(settings: RelaySettings) -> Iterator[Finding]:
    """Ask the server what it is, what it keeps, how far away it is, and how full the queue."""
    shared = settings.shared
    if shared is None:
        return
    yield from _way(settings)
    try:
        view = shared.view(timeout_s=TIMEOUT_S)
        servers = view.fleet.servers()
        status = view.status()
        took_s = min(_round_trips(view))
    except (QueueUnavailable, RedisUnusable) as error:
        remedy = "do what it says; if the server is away, start it, or correct the URL"
        yield Finding("queue", "bad", f"{shared}: {error}", remedy)
        return
    for where, facts in servers.items():
        yield from _server(where, facts, settings)
    if any(check.fault(facts) or facts.role == "slave" for facts in servers.values()):
        return
    for line in status.needs:
        yield Finding("queue", "look", line, "see `eventpost status --queue`")
    told = f"{status.place} can be used; {status.queued:,} queued, {status.dead:,} dead, "
    yield Finding("queue", "ok", f"{told}{show.size(status.stored_bytes)} of {show.size(settings.bytes_max)} stored")
    state = f"{took_s * 1000:.1f} ms, and every 204 waits for one"
    if took_s > SLOW_S:
        yield Finding("round trip", "look", state, "a server that is nearer, or a spill and more workers")
    else:
        yield Finding("round trip", "ok", state)


def _way(settings: RelaySettings) -> Iterator[Finding]:
    """Look at the URL: who can read it, and what goes over the way there."""
    address = parse(settings.queue or "")
    said_by = settings.sources.get("queue", "")
    if urlsplit(settings.queue or "").password and said_by.startswith("--"):
        remedy = "name it in EVENTPOST_QUEUE_PASSWORD_FILE, or in the file of settings (0600)"
        yield Finding("password", "look", "it stands in the command line, which every user here can read", remedy)
    near = all(place.port == 0 or place.host in ("127.0.0.1", "::1", "localhost") for place in address.places)
    if not address.tls and not near:
        yield Finding("queue", "look", f"{address} is reached without TLS", "use rediss://, unless the way is your own")


def _server(where: str, facts: check.Facts, settings: RelaySettings) -> Iterator[Finding]:
    product = f"{where}: {facts.product} {facts.as_dict()['version']}, {facts.role}"
    fault = check.fault(facts)
    if fault:
        yield Finding("server", "bad", product, fault)
        return
    if facts.role == "slave":
        remedy = "name its master, or sentinels that know it: redis+sentinel://host:26379/service"
        yield Finding("server", "bad", f"{product}: a read-only replica takes no events", remedy)
        return
    yield Finding("server", "ok", product)
    if facts.maxmemory:
        told = f"{where}: maxmemory {show.size(facts.maxmemory)}, {facts.eviction}"
        if facts.maxmemory < settings.bytes_max * 2:
            remedy = "bytes_max counts events only: half of maxmemory leaves room for what stands around them"
            yield Finding("memory", "look", f"{told}; the queue may take {show.size(settings.bytes_max)}", remedy)
        else:
            yield Finding("memory", "ok", told)
    else:
        remedy = "set maxmemory, with maxmemory-policy noeviction: then a full server says so instead of being killed"
        yield Finding("memory", "look", f"{where}: it has no bound", remedy)
    kept = check.kept(facts, settings.durability, settings.replicas)
    asked = f"durability {settings.durability}"
    if kept.level != settings.durability:
        remedy = "set appendonly yes and appendfsync always at the server, or ask for less"
        yield Finding(
            "durability", "bad", f"{where}: {asked} was asked for, {kept.level} is kept: {kept.because}", remedy
        )
    elif settings.durability == "os" and not facts.appendonly:
        remedy = "set appendonly yes, or lose what is queued with the server's process"
        yield Finding("durability", "look", f"{where}: appendonly no: a restart of the server forgets events", remedy)
    else:
        yield Finding("durability", "ok", f"{where}: {asked}: {kept.because}")
    if settings.replicas > facts.replicas:
        told = f"{where}: {settings.replicas} replicas have to confirm, and {facts.replicas} are connected"
        yield Finding("replicas", "bad", told, "connect them, or ask for fewer: every event would be refused")


def _round_trips(view: StreamsView) -> Iterator[float]:
    for _ in range(TRIES):
        began = perf_counter()
        view.fleet.shards()
        yield perf_counter() - began
