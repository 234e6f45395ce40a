"""Where events are held: a journal's folder, or a queue that machines share.  The one place that opens either.

What a kind of queue needs is imported when it is opened: redis is an extra.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..errors import RedisUnusable
from .view import View

if TYPE_CHECKING:
    from .streams import RedisStreamsQueue
    from .streams.view import StreamsView

NAME: Final = "eventpost"
LEASE_S: Final = 60.0
VIEW_TIMEOUT_S: Final = 5.0
_MISSING: Final = "a queue in Redis or Valkey needs one more package: pip install 'eventpost[redis]'"


@dataclass(frozen=True, slots=True)
class SharedQueue:
    """A queue that machines share, by its URL and what is said beside it.  Its ``repr`` and ``str`` hold no secret.

    ``name``: the queue's; ``password``: instead of the URL's; ``ca``: file or folder of authorities for TLS;
    ``lease_s``: for how long a claim holds that is not renewed.
    """

    url: str = field(repr=False)
    name: str = NAME
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    lease_s: float = LEASE_S

    def open(self, **more: Any) -> RedisStreamsQueue:
        """Return the queue, for who puts or sends; ``more``: as RedisStreamsQueue.

        Raises RedisUnusable, ValueError.
        """
        try:
            from .streams import RedisStreamsQueue  # noqa: PLC0415 - redis is an extra
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        given: dict[str, Any] = {"name": self.name, "password": self.password, "ca": self.ca, "lease_s": self.lease_s}
        made: RedisStreamsQueue = RedisStreamsQueue(self.url, **given, **more)
        return made

    def view(self, *, timeout_s: float = VIEW_TIMEOUT_S) -> StreamsView:
        """Return the queue as it is seen from outside.  Raises RedisUnusable, ValueError."""
        try:
            from .streams.view import StreamsView  # noqa: PLC0415 - as above
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        return StreamsView(self, timeout_s=timeout_s)

    def __str__(self) -> str:
        return shown_address(self.url)


@dataclass(frozen=True, slots=True)
class JournalFolder:
    """A journal's folder."""

    path: str

    def view(self) -> View:
        """Return the folder as it is seen from outside.  Raises as ``open_folder``."""
        from .journal.view import JournalView  # noqa: PLC0415 - each kind when it is opened

        return JournalView(self.path)

    def __str__(self) -> str:
        return os.path.abspath(self.path)


Place = SharedQueue | JournalFolder


def check_address(url: str) -> str:
    """Return an URL of a server.  Raises ValueError, which quotes no password; RedisUnusable without the extra."""
    shown_address(url)
    return url


def shown_address(url: str) -> str:
    """Return where an URL leads, for people: without user and password.  Raises as :func:`check_address`."""
    try:
        from .streams.address import parse  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return str(parse(url))


def _missing(error: ModuleNotFoundError) -> Exception:
    """Return what to say where the extra is not installed."""
    return RedisUnusable(_MISSING) if (error.name or "").partition(".")[0] in ("redis", "hiredis") else error
