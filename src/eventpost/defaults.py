"""Defaults that can be told from the same value in somebody's call, although signatures show plain numbers and text.

Each is an instance of its own: equal to its value, but not identical to what a call passes: ``value is DEFAULT``.
"""

from __future__ import annotations


class IntDefault(int):
    """A default that is this very object."""


class FloatDefault(float):
    """A default that is this very object."""


class StrDefault(str):
    """A default that is this very object."""

    __slots__ = ()
