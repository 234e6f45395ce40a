"""What you need to test against Eventpost, or to test a queue or a transport of your own.

``Collector`` is a scripted fake endpoint, ``Reply`` one of its answers.  ``RecordingTransport`` is a transport that
answers from a script.  Names are imported when they are asked for, so that the contract classes, which need pytest,
cost nothing to those who don't use them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collector import CollectedRequest, Collector, Reply
    from .transports import RecordingTransport

_HOMES = {
    "CollectedRequest": "collector",
    "Collector": "collector",
    "Reply": "collector",
    "RecordingTransport": "transports",
}
__all__ = ["CollectedRequest", "Collector", "RecordingTransport", "Reply"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f".{home}", __name__), name)
