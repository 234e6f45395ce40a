"""Ends the processes of a show whose own process was killed: it reads their numbers, and its input's end is theirs.

Lines are ``+PID`` for one that began and ``-PID`` for one that is known to have ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO


class Leash:
    """Holds the other end."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "eventpost.cli.demo_leash"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - ours

    def take(self, pid: int) -> None:
        """End this process with the show, if nobody else does."""
        self._say(b"+%d\n" % pid)

    def let_go(self, pid: int) -> None:
        """Leave this one alone: it has ended, and its number may be another's soon."""
        self._say(b"-%d\n" % pid)

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        with suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def close(self) -> None:
        """End all that were not let go of."""
        assert self._process.stdin is not None  # noqa: S101 - as above
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait(10)


def hold(lines: IO[bytes]) -> None:
    """Note processes until the input ends; then end them."""
    held: set[int] = set()
    for line in lines:
        pid = int(line[1:])
        if line.startswith(b"+"):
            held.add(pid)
        else:
            held.discard(pid)
    for pid in held:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the show's to handle
    hold(sys.stdin.buffer)
