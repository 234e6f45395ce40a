"""EventProcessor: the door through which the official client hands over its user events, one by one.

The client calls ``process(user_event)`` for every decision and every ``track()``.  The event is encoded at once, on the
caller's thread, and handed to the dispatcher's queue as a visitor that may share a request; batches are the sender's
business.  So there is no queue of user events in between that could overflow or die, which is where the SDK's own
BatchEventProcessor loses most.

The client's ``close()`` calls ``stop()``, and never its dispatcher.  ``stop()`` flushes the dispatcher, and closes it
only if nobody else can: when this processor made it, or was told to.

Listeners: the SDK tells the LOG_EVENT listeners of a notification center what it is about to send.  Here that is known
when the sender starts a request, so an :class:`Announcer` hangs in the dispatcher's ``on_request``.  A body is parsed
only if somebody listens.  A LogEvent that travels alone is not announced: whoever made it has done it.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from optimizely.event.event_processor import BaseEventProcessor
from optimizely.event.log_event import LogEvent
from optimizely.helpers.enums import NotificationTypes

from ..errors import EventpostError
from ..event import Envelope
from ..watch.ledger import Report
from .dispatcher import EventDispatcher
from .encode import check_url
from .visitor import VisitorEncoder, fitting_rules

_log = logging.getLogger("eventpost")


class EventProcessor(BaseEventProcessor):
    """Takes the SDK's user events and lets them share requests: ``Optimizely(datafile, event_processor=this)``.

    ``dispatcher``: an EventDispatcher, or any object or class with ``dispatch_event(event)``, like the SDK's: then
    queue, batches and retries are put in front of it, ``EventDispatcher(transport=dispatcher)``, closed by ``stop()``.
    ``endpoint``: the URL to send to instead of the project's; the dispatcher's own wins.
    ``notification_center``: whose LOG_EVENT listeners hear the batches that this process sends.
    ``close_dispatcher``: ``stop()`` closes the dispatcher also if it was not made here.

    Raises TypeError for a dispatcher without ``dispatch_event``, ValueError for an endpoint that is no http(s) URL.
    """

    def __init__(
        self,
        dispatcher: Any,
        *,
        endpoint: str | None = None,
        notification_center: Any = None,
        close_dispatcher: bool = False,
    ) -> None:
        if endpoint is not None:
            check_url(endpoint)
        if dispatcher is None:
            raise TypeError(
                "EventProcessor takes an EventDispatcher or any object with dispatch_event(event), not None"
            )
        ours = isinstance(dispatcher, EventDispatcher)
        self.dispatcher: EventDispatcher = dispatcher if ours else EventDispatcher(transport=dispatcher)
        if self.dispatcher.endpoint is not None:
            endpoint = self.dispatcher.endpoint
        self._closes = close_dispatcher or not ours
        self._encode = VisitorEncoder(endpoint, fitting_rules()).encode
        self._put = self.dispatcher.put_event
        self._announcer = None if notification_center is None else _announce(self.dispatcher, notification_center)

    def process(self, user_event: object) -> bool:  # type: ignore[override]  # the SDK's returns None and ignores it
        """Take one ImpressionEvent or ConversionEvent; True once the queue has it at its durability.

        False if not: the dispatcher has counted and logged the reason (``invalid`` for anything that is no such event,
        or a conversion whose event the datafile does not know; ``unencodable`` for values JSON cannot express).
        Never waits for the network, and raises nothing into the application.
        """
        try:
            event = self._encode(user_event)
        except EventpostError as error:
            return self.dispatcher.refuse(getattr(error, "reason", "invalid"), str(error))
        except Exception as error:  # noqa: BLE001 - a subclass of the SDK's events may raise anything when looked at
            return self.dispatcher.refuse("invalid", f"{type(error).__name__} while a user event was read")
        return self._put(event, urgent=False)

    def flush(self, timeout_s: float = 10.0) -> Report:
        """Wait, up to ``timeout_s`` seconds, until what was accepted before is delivered; return the count."""
        return self.dispatcher.flush(timeout_s=timeout_s)

    def stop(self, timeout_s: float = 10.0) -> Report:
        """Flush the dispatcher within ``timeout_s`` seconds, close it if it is ours to close, and return the count.

        The client's ``close()`` calls this.  Idempotent.  An open dispatcher goes on taking events afterwards.
        """
        if self._closes:
            report = self.dispatcher.close(timeout_s=timeout_s)
        else:
            report = self.dispatcher.flush(timeout_s=timeout_s)
        announcer, self._announcer = self._announcer, None
        if announcer is not None:
            announcer.leave()
        return report

    def __repr__(self) -> str:
        return f"EventProcessor({self.dispatcher!r})"


class Announcer:
    """Tells one notification center's LOG_EVENT listeners what the sender starts to send.

    ``hooks`` is the dispatcher's ``on_request``.  Of several processors with the same center only the first one's
    announcer speaks, so a batch is announced once.
    """

    def __init__(self, center: Any, hooks: list[Any]) -> None:
        self.center = center
        self._hooks = hooks

    def __call__(self, envelope: Envelope, body: bytes) -> None:
        """Build the SDK's LogEvent and hand it to the listeners, if there are any.  Called by the sender's thread."""
        if not envelope.shared or not self._has_listeners():
            return
        speaker = next((hook for hook in self._hooks if getattr(hook, "center", None) is self.center), self)
        if speaker is self:
            log_event = LogEvent(envelope.url, json.loads(body), "POST", dict(envelope.headers))
            self.center.send_notifications(NotificationTypes.LOG_EVENT, log_event)

    def leave(self) -> None:
        """Hear no more requests."""
        if self in self._hooks:
            self._hooks.remove(self)

    def _has_listeners(self) -> bool:
        by_type = getattr(self.center, "notification_listeners", None)
        return by_type is None or bool(by_type.get(NotificationTypes.LOG_EVENT))


def _announce(dispatcher: EventDispatcher, center: Any) -> Announcer | None:
    """Hang an announcer for this center on the dispatcher."""
    if not callable(getattr(center, "send_notifications", None)):
        _log.warning("the notification center given to EventProcessor has no send_notifications: nobody is told")
        return None
    announcer = Announcer(center, dispatcher.on_request)
    dispatcher.on_request.append(announcer)
    return announcer
