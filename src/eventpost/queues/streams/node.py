"""One server: its idle connections, and whether to ask it just now.

A server that did not answer is left alone for a while that doubles up to five seconds; whoever asks meanwhile is told
no at once, and when the time is over one caller tries, while the others still are.  A connection that had been idle and
is found closed says nothing about the server, which may close those, or be new: a new one is tried.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from ...sender.primitives import Lock, get_ident, original
from .address import Place
from .client import Broken, Link, Login

_AWAY_FIRST_S: Final = 0.1
_AWAY_MAX_S: Final = 5.0
_IDLE_MAX: Final = 8


class NotAsked(Broken):
    """It is known to be away."""


class Node:
    """One server: its idle connections, and whether it answers."""

    def __init__(self, place: Place, login: Login) -> None:
        """Keep the arguments; connects to nothing."""
        self.place = place
        self._login = login
        self._idle: dict[int, deque[Link]] = {}
        self._probing = Lock()
        self._away_s = 0.0
        self._again_at = 0.0
        self._why = ""

    @property
    def away_for_s(self) -> float:
        """For how long it is not asked, in seconds; 0: it may be."""
        return max(0.0, self._again_at - monotonic()) if self._away_s else 0.0

    @contextmanager
    def link(self, deadline: float, *, insist: bool) -> Iterator[Link]:
        """Lend a connection.  Raises Broken at once while the server is known to be away, unless ``insist``."""
        probes = False
        if self._away_s and not insist:
            if self.away_for_s > 0 or not self._probing.acquire(False):
                raise NotAsked(f"{self._why} (not asked again for a moment)", sent=False)
            probes = True
        try:
            mine = self._idle.setdefault(get_ident() if _patched() else 0, deque())
            link: Link | None = None
            while link is None and mine:
                try:
                    link = mine.pop()
                except IndexError:  # another thread took it
                    break
                link = link if link.is_open else None
            was_idle = link is not None
            try:
                link = link or Link(self.place, self._login, deadline)
                yield link
            except Broken as error:
                if was_idle and error.closed:
                    self.close()
                else:
                    self.failed(str(error))
                raise
            if link.is_open:
                if len(mine) < _IDLE_MAX:
                    mine.append(link)
                else:
                    link.close()
        finally:
            if probes:
                self._probing.release()

    def failed(self, why: str) -> None:
        """Leave it alone for a while, and what connections there are with it."""
        if self.away_for_s <= 0:
            self._away_s = min(_AWAY_MAX_S, self._away_s * 2 or _AWAY_FIRST_S)
            self._again_at = monotonic() + self._away_s
        self._why = why
        self.close()

    def worked(self) -> bool:
        """Note that it answers; True if it did not before."""
        was_away, self._away_s = self._away_s > 0, 0.0
        return was_away

    def close(self) -> None:
        """Close the idle connections."""
        for links in list(self._idle.values()):
            while links:
                try:
                    links.pop().close()
                except IndexError:
                    break


def _patched() -> bool:
    """Tell whether sockets are gevent's or eventlet's, which belong to the thread that made them."""
    return socket.socket is not original("socket", "socket")
