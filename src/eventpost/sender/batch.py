"""Which leases travel together.  Pure.

Leases whose envelopes are equal and ``shared`` join, in order, until a batch holds ``events_max`` events or
``bytes_max`` bytes of body (prefix, suffix and commas included).  What is full, or shared with nobody, is ready at
once; a batch that may still find company *lingers*, from the moment its first lease was claimed.  A single event that
is larger than ``bytes_max`` travels alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ..event import Envelope
from ..queues.protocol import Lease


class Batch:
    """What one request carries.

    ``size`` is its body's length in bytes.  ``serial`` orders batches by their forming.  ``started`` is set when it
    went out once, whole or as part of a larger one.  ``probe``: the breaker's question to the endpoint.
    """

    __slots__ = ("envelope", "leases", "probe", "serial", "since", "size", "started")

    def __init__(self, envelope: Envelope, leases: list[Lease], size: int, since: float, serial: int) -> None:
        self.envelope = envelope
        self.leases = leases
        self.size = size
        self.since = since
        self.serial = serial
        self.started = False
        self.probe = False

    def body(self) -> bytes:
        """Return the request's body."""
        return self.envelope.body([lease.event.payload for lease in self.leases])

    @property
    def attempts(self) -> int:
        """The largest number of claims among its events."""
        return max([lease.attempts for lease in self.leases])

    def keep_live(self) -> bool:
        """Forget those whose lease has ended: they are somebody else's by now.  False: none is left."""
        if False in [lease.live for lease in self.leases]:
            self.leases = [lease for lease in self.leases if lease.live]
            self.size = body_size(self.envelope, self.leases)
        return bool(self.leases)

    def split(self, at: int) -> tuple[Batch, Batch]:
        """Return the first ``at`` leases and the rest, each as a batch that keeps what is known of this one."""
        parts = []
        for leases in (self.leases[:at], self.leases[at:]):
            part = Batch(self.envelope, leases, body_size(self.envelope, leases), self.since, self.serial)
            part.started = self.started
            parts.append(part)
        return parts[0], parts[1]

    def halves(self) -> tuple[Batch, Batch]:
        """Return two halves of about the same number of events; it has two at least."""
        return self.split(len(self.leases) // 2)

    def halves_by_bytes(self) -> tuple[Batch, Batch]:
        """Return two parts of about the same number of bytes, neither of them empty; it has two events at least."""
        sizes = [len(lease.event.payload) for lease in self.leases]
        half, first = sum(sizes) / 2, 0
        at = 0
        while at < len(sizes) - 1 and (at == 0 or first + sizes[at] <= half):
            first += sizes[at]
            at += 1
        return self.split(at)

    def __repr__(self) -> str:
        return f"Batch({self.envelope!r}, events={len(self.leases)}, size={self.size})"


def body_size(envelope: Envelope, leases: Sequence[Lease]) -> int:
    """Return the length in bytes of the body that carries these leases."""
    payloads = sum([len(lease.event.payload) for lease in leases])
    around = len(envelope.prefix) + len(envelope.suffix) if envelope.shared else 0
    return payloads + len(leases) - 1 + around


class Former:
    """Makes batches out of one lane's leases.  ``ready`` is what may go out, in order."""

    __slots__ = ("_forming", "bytes_max", "events_max", "ready", "serial")

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self.events_max = events_max
        self.bytes_max = bytes_max
        self.ready: deque[Batch] = deque()
        self.serial = 0
        self._forming: dict[Envelope, Batch] = {}

    def add(self, leases: Iterable[Lease], now: float) -> None:
        """Take leases in, in order."""
        events_max, bytes_max, ready, forming = self.events_max, self.bytes_max, self.ready, self._forming
        envelope: Envelope | None = None
        batch: Batch | None = None
        for lease in leases:
            event = lease.event
            if event.envelope is not envelope:
                envelope = event.envelope
                batch = forming.get(envelope) if envelope.shared else None
            size = len(event.payload)
            if batch is not None and batch.size + size + 1 <= bytes_max:
                batch.leases.append(lease)
                batch.size += size + 1
            else:
                if batch is not None:
                    ready.append(forming.pop(batch.envelope))
                self.serial += 1
                around = len(envelope.prefix) + len(envelope.suffix) if envelope.shared else 0
                batch = Batch(envelope, [lease], size + around, now, self.serial)
                if not envelope.shared:
                    ready.append(batch)
                    batch = None
                    continue
                forming[envelope] = batch
            if len(batch.leases) >= events_max:
                ready.append(forming.pop(batch.envelope))
                batch = None

    def add_alone(self, lease: Lease) -> None:
        """Take in a lease that is to travel alone, although it may share."""
        self.serial += 1
        envelope = lease.event.envelope
        self.ready.append(Batch(envelope, [lease], body_size(envelope, [lease]), 0.0, self.serial))

    def finish(self, now: float, linger_s: float) -> None:
        """Make ready what has been lingering for ``linger_s`` seconds or longer; 0: everything."""
        if self._forming:
            for batch in [batch for batch in self._forming.values() if batch.since + linger_s <= now]:
                self.ready.append(self._forming.pop(batch.envelope))

    @property
    def forming_since(self) -> float | None:
        """When the oldest batch that still lingers was begun; None if none does."""
        return min([batch.since for batch in self._forming.values()]) if self._forming else None

    @property
    def missing(self) -> int:
        """How many more events may fill one of the lingering batches; 0 if none lingers."""
        if not self._forming:
            return 0
        return self.events_max - max([len(batch.leases) for batch in self._forming.values()])

    def held(self) -> list[Batch]:
        """Return every batch that has not gone out: ready ones, then lingering ones."""
        return [*self.ready, *self._forming.values()]

    def clear(self) -> list[Lease]:
        """Forget every batch that has not gone out; return its leases, in order of claiming."""
        batches = sorted(self.held(), key=lambda batch: batch.serial)
        self.ready.clear()
        self._forming.clear()
        return [lease for batch in batches for lease in batch.leases]
