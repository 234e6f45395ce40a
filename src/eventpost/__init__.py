"""Eventpost: the durable event dispatcher for Optimizely Feature Experimentation.

    from eventpost import EventDispatcher, EventProcessor, JournalQueue

    dispatcher = EventDispatcher(JournalQueue("/var/lib/myapp/events"))
    client = optimizely.Optimizely(datafile, event_processor=EventProcessor(dispatcher))

Once a door has said yes, the event is delivered, still queued, dead with a reason, or dropped with a reason; the sum
closes, and ``dispatcher.stats()`` shows it.

The names load when they are first used, so that importing the package costs little and a part whose extra is not
installed costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .doors.aio import AsyncEventDispatcher as AsyncEventDispatcher
    from .doors.dispatcher import EventDispatcher as EventDispatcher
    from .doors.factory import OptimizelyFactory as OptimizelyFactory
    from .doors.processor import EventProcessor as EventProcessor
    from .event import LogEvent as LogEvent
    from .queues.journal import JournalQueue as JournalQueue
    from .queues.memory import MemoryQueue as MemoryQueue
    from .queues.streams import RedisStreamsQueue as RedisStreamsQueue
    from .sender.retry import RetryPolicy as RetryPolicy
    from .watch.ledger import Report as Report

_WHERE = {
    "AsyncEventDispatcher": "doors.aio",
    "EventDispatcher": "doors.dispatcher",
    "EventProcessor": "doors.processor",
    "JournalQueue": "queues.journal",
    "LogEvent": "event",
    "MemoryQueue": "queues.memory",
    "OptimizelyFactory": "doors.factory",
    "RedisStreamsQueue": "queues.streams",
    "Report": "watch.ledger",
    "RetryPolicy": "sender.retry",
}
_EXTRAS = {"optimizely": "the official SDK", "redis": "redis-py"}

__version__ = "0.1.0"
__all__ = [
    "AsyncEventDispatcher",
    "EventDispatcher",
    "EventProcessor",
    "JournalQueue",
    "LogEvent",
    "MemoryQueue",
    "OptimizelyFactory",
    "RedisStreamsQueue",
    "Report",
    "RetryPolicy",
    "__version__",
]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f".{where}", __name__), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        remedy = f"eventpost.{name} needs {extra}: pip install 'eventpost[{error.name}]'"
        raise ModuleNotFoundError(remedy, name=error.name) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
