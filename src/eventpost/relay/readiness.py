"""``/readyz``: can this worker store?  Asked of the queue itself, in a thread, with a deadline, and not too often.

An endpoint that is down does not make the relay unready: taking events meanwhile is what it is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from .answers import Denied, unavailable

AGE_MAX_S: Final = 1.0
DEADLINE_S: Final = 5.0


class Readiness:
    """Why nothing can be stored; the answer to one asker serves who asks within ``AGE_MAX_S``."""

    def __init__(self, look: Callable[[], str | None]) -> None:
        self._look = look
        self._looking: asyncio.Future[str | None] | None = None
        self._said: Denied | None = None
        self._said_at = -AGE_MAX_S
        self.stopping = False

    async def __call__(self) -> Denied | None:
        """Return a no, or None."""
        if self.stopping:
            return unavailable("closed", "the relay is stopping")
        if self._looking is None and monotonic() - self._said_at < AGE_MAX_S:
            return self._said
        if self._looking is None:
            self._looking = asyncio.get_running_loop().run_in_executor(None, self._look)
        looking = self._looking
        done, _ = await asyncio.wait([looking], timeout=DEADLINE_S)
        if not done:  # it goes on: a disk that hangs must not collect a thread for each question
            return unavailable("disk", f"the disk, or the server, did not answer within {DEADLINE_S:g} s")
        if self._looking is looking:
            self._looking, self._said_at = None, monotonic()
            why = looking.result()
            self._said = None if why is None else unavailable(why, "the queue cannot store at the moment")
        return self._said
