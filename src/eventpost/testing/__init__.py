"""What you need to test against Eventpost, or to test a queue or a transport of your own.

``Collector`` is a scripted fake endpoint, ``Reply`` one of its answers.  ``RecordingTransport`` is a transport that
answers from a script, ``ManualClock`` a clock that moves when it is told to.  ``QueueContract`` and
``TransportContract`` are what every queue and every transport must do, as tests: subclass them.  Names are imported
when they are asked for, so that the contracts, which need pytest and hypothesis, cost nothing to those who don't use
them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clock import ManualClock
    from .collector import CollectedRequest, Collector, Reply
    from .queue_contract import QueueContract
    from .transport_contract import TransportContract
    from .transports import RecordingTransport

_HOMES = {
    "CollectedRequest": "collector",
    "Collector": "collector",
    "ManualClock": "clock",
    "QueueContract": "queue_contract",
    "RecordingTransport": "transports",
    "Reply": "collector",
    "TransportContract": "transport_contract",
}
__all__ = [
    "CollectedRequest",
    "Collector",
    "ManualClock",
    "QueueContract",
    "RecordingTransport",
    "Reply",
    "TransportContract",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f".{home}", __name__), name)
