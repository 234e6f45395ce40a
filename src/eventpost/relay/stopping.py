"""SIGTERM and SIGINT, noted from the first moment on.

A process without a handler is killed by SIGTERM, except process 1 of a container, where the kernel drops it: the relay
would go on until it is killed.  So the command line installs this before it loads anything else, and whoever is to stop
asks it.  What comes before Python itself runs, some hundredths of a second, nobody can note.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """How often this process was told to stop.  Made on the main thread, which the signals interrupt."""

    def __init__(self) -> None:
        self._count = 0
        self.impatient = False
        """From now on a signal raises KeyboardInterrupt, which ends the waiting that it interrupts."""
        self.fd, self._tell = os.pipe()
        """``fd`` is readable once a signal came, for who waits for more than that."""
        for fd in (self.fd, self._tell):
            os.set_blocking(fd, False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._count += 1
        if self.impatient:
            raise KeyboardInterrupt
        with suppress(OSError):
            os.write(self._tell, b".")

    def told(self) -> bool:
        """Tell whether a signal came."""
        return self._count > 0

    def drain(self) -> None:
        """Make ``fd`` wait for the next signal."""
        with suppress(BlockingIOError):
            os.read(self.fd, 64)


_made: list[Stop] = []


def stop_signals() -> Stop:
    """Return the process's one; the first call installs it."""
    if not _made:
        _made.append(Stop())
    return _made[0]
