"""A pipe that a waiting thread polls beside its sockets, so that others can wake it; and handles that outlive us."""

from __future__ import annotations

import os
from contextlib import suppress

try:  # here, not on the sender's thread: a child that is forked in the middle of an import can't import it any more
    import ctypes
except ImportError:
    ctypes = None  # type: ignore[assignment] # a Python without ctypes

from ..sender.primitives import original


class WakePipe:
    """What ``wake`` writes to.  Closed when nobody holds it any more, so that no late ``wake`` meets another file."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        self._read, self._write, self._close = original("os", "read"), original("os", "write"), os.close

    def ring(self) -> None:
        """Make ``reader`` readable."""
        with suppress(BlockingIOError):  # full: it is readable, which is all we want
            self._write(self.writer, b"\0")

    def drain(self) -> None:
        """Make ``reader`` unreadable."""
        with suppress(BlockingIOError):
            self._read(self.reader, 4096)

    def __del__(self) -> None:
        self._close(self.reader)
        self._close(self.writer)


_immortal: list[object] = []


def make_immortal(handles: object) -> None:
    """Give the object a reference that nothing drops: not even the end of the interpreter, which empties modules."""
    try:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handles))
    except AttributeError:  # no ctypes, or no pythonapi in it: as good as it gets
        _immortal.append(handles)
