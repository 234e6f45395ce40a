"""Requests go to endpoints on the allow-list, whatever URL lies in a journal.

The relay's own journal holds only URLs of its settings.  A journal of an application holds what that application, or
whoever can write to the folder, chose: from a host that may reach more than others this would be a way around its
firewall.  Such an event is neither sent nor lost: its endpoint is held and reported until somebody puts it on the list.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..event import shown_url
from ..transports.protocol import Completion, Request, Transport, TransportError


class AllowedTransport:
    """A Transport in front of another one, which sees only requests to ``urls``."""

    def __init__(self, inner: Transport, urls: Collection[str]) -> None:
        self._inner = inner
        self._urls = frozenset(urls)
        self._held: list[Completion] = []
        self.in_flight_max: int | None = getattr(inner, "in_flight_max", None)
        self.is_guarded: bool = getattr(inner, "is_guarded", False)

    def start(self, request: Request) -> None:
        """See Transport.start."""
        if request.envelope.url in self._urls:
            self._inner.start(request)
            return
        why = f"{shown_url(request.envelope.url)} is not on the allow-list (the setting allow_endpoint)"
        self._held.append(Completion(request, TransportError("not_allowed", why)))

    def wait(self, timeout_s: float) -> Sequence[Completion]:
        """See Transport.wait."""
        held, self._held = self._held, []
        return [*held, *self._inner.wait(0.0 if held else timeout_s)]

    def wake(self) -> None:
        """See Transport.wake."""
        self._inner.wake()

    def close(self, timeout_s: float) -> None:
        """See Transport.close."""
        self._inner.close(timeout_s)

    def after_fork_in_child(self) -> None:
        """See Transport.after_fork_in_child."""
        self._held = []
        self._inner.after_fork_in_child()

    def __repr__(self) -> str:
        return f"AllowedTransport({self._inner!r}, {len(self._urls)} URLs)"
