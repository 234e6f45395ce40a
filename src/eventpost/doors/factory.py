"""OptimizelyFactory: the official client, wired so that its events come through here.

The class is a subclass of the SDK's, so that changing the import is enough.  The SDK's own factory methods make a
batch processor and never start it: their clients send nothing.  Ours let the SDK build the client exactly as it does
(polling, CMAB, whatever a version adds), then put an :class:`EventProcessor` in the place of the one that never ran.

Who closes what: ``client.close()`` calls the processor's ``stop()``.  A dispatcher that was made here is closed with
it, one that was handed in is flushed and stays open, since other clients may share it.
"""

from __future__ import annotations

import logging
from typing import Any

from optimizely import optimizely as sdk
from optimizely.notification_center import NotificationCenter
from optimizely.optimizely_factory import OptimizelyFactory as SdkFactory

from .dispatcher import EventDispatcher
from .processor import EventProcessor

FLUSH_INTERVAL_SUSPECT_S = 300

_log = logging.getLogger("eventpost")


class OptimizelyFactory(SdkFactory):
    """Makes clients of the official SDK that deliver through Eventpost.

    ``sdk_key``, ``datafile`` and all other options go to ``optimizely.Optimizely`` unchanged; with ``sdk_key`` the SDK
    polls the datafile.  ``event_dispatcher`` among them is the default of :meth:`client`.

    The static setters are the SDK's.  ``set_batch_size`` and ``set_flush_interval`` set ``batch_events_max`` and
    ``linger_s`` of the dispatchers that are made here (not of those handed in); the other ones act on
    ``default_instance`` and ``custom_instance``, as in the SDK.

    Raises TypeError for options that exclude each other or that have no effect with this processor.
    """

    def __init__(self, sdk_key: str | None = None, datafile: str | bytes | None = None, **client_options: Any) -> None:
        if client_options.get("event_processor") is not None and client_options.get("event_dispatcher") is not None:
            raise TypeError(_BOTH)
        if client_options.get("event_processor") is None and client_options.get("event_processor_options"):
            raise TypeError(
                "event_processor_options are for the SDK's BatchEventProcessor, which is not used here; "
                "EventDispatcher takes batch_events_max and linger_s"
            )
        self._options: dict[str, Any] = {"sdk_key": sdk_key, "datafile": datafile, **client_options}

    def client(self, event_dispatcher: Any = None) -> sdk.Optimizely:
        """Return a client whose events go through an EventProcessor, started.

        ``event_dispatcher``: an EventDispatcher, or any object or class with ``dispatch_event(event)``; None makes an
        ``EventDispatcher()``, which is closed with the client.  An ``event_processor`` among the factory's options is
        used as it is, and excludes a dispatcher.
        """
        options = dict(self._options)
        if event_dispatcher is None:
            event_dispatcher = options.get("event_dispatcher")
        if options.get("event_processor") is not None:
            if event_dispatcher is not None:
                raise TypeError(_BOTH)
            return sdk.Optimizely(**options)
        if options.get("notification_center") is None:
            options["notification_center"] = NotificationCenter(options.get("logger"))
        processor = _processor(event_dispatcher, options["notification_center"])
        options["event_dispatcher"] = processor.dispatcher
        options["event_processor"] = processor
        try:
            return sdk.Optimizely(**options)
        except BaseException:
            processor.stop(timeout_s=0)
            raise

    @staticmethod
    def set_flush_interval(flush_interval: Any) -> int:
        """Set how long a visitor waits for company, in seconds.

        The SDK's documentation of this method says milliseconds, its code takes seconds, and so do we.
        """
        if isinstance(flush_interval, (int, float)) and flush_interval > FLUSH_INTERVAL_SUSPECT_S:
            _log.warning("set_flush_interval(%r): the unit is the second, in the SDK's code too", flush_interval)
        return SdkFactory.set_flush_interval(flush_interval)

    @staticmethod
    def default_instance(sdk_key: str, datafile: str | None = None) -> sdk.Optimizely:
        """Return a client that polls its datafile; the SDK's arguments."""
        return _rewired(SdkFactory.default_instance(sdk_key, datafile), None)

    @staticmethod
    def default_instance_with_config_manager(config_manager: Any) -> sdk.Optimizely:
        """Return a client with this config manager; the SDK's argument."""
        return OptimizelyFactory(config_manager=config_manager).client()

    @staticmethod
    def custom_instance(  # noqa: PLR0917 - the SDK's arguments, in the SDK's order
        sdk_key: str,
        datafile: str | None = None,
        event_dispatcher: Any = None,
        logger: Any = None,
        error_handler: Any = None,
        skip_json_validation: bool | None = None,  # noqa: FBT001 - as above
        user_profile_service: Any = None,
        config_manager: Any = None,
        notification_center: Any = None,
        settings: Any = None,
    ) -> sdk.Optimizely:
        """Return a client with these parts; the SDK's arguments.  ``event_dispatcher`` as in :meth:`client`."""
        client = SdkFactory.custom_instance(
            sdk_key,
            datafile,
            event_dispatcher,
            logger,
            error_handler,
            skip_json_validation,
            user_profile_service,
            config_manager,
            notification_center,
            settings,
        )
        return _rewired(client, event_dispatcher)


_BOTH = (
    "event_processor and event_dispatcher exclude each other: the client calls its processor only, "
    "and the processor has its own dispatcher, EventProcessor(dispatcher)"
)


def _processor(event_dispatcher: Any, notification_center: Any) -> EventProcessor:
    if isinstance(event_dispatcher, EventDispatcher):
        return EventProcessor(event_dispatcher, notification_center=notification_center)
    made = EventDispatcher(transport=event_dispatcher, **_batching())
    return EventProcessor(made, notification_center=notification_center, close_dispatcher=True)


def _batching() -> dict[str, Any]:
    """Return what set_batch_size and set_flush_interval said, if it is usable; like the SDK, the defaults if not."""
    settings: dict[str, Any] = {}
    size, interval = SdkFactory.max_event_batch_size, SdkFactory.max_event_flush_interval
    if isinstance(size, int) and size > 0:
        settings["batch_events_max"] = size
    if isinstance(interval, (int, float)) and 0 < interval < float("inf"):
        settings["linger_s"] = float(interval)
    return settings


def _rewired(client: sdk.Optimizely, event_dispatcher: Any) -> sdk.Optimizely:
    """Put our processor in the place of the one that the SDK's factory made."""
    processor = _processor(event_dispatcher, client.notification_center)
    idle: Any = client.event_processor
    client.event_processor = processor
    client.event_dispatcher = processor.dispatcher
    if getattr(idle, "is_running", False):  # no SDK that we know starts it
        idle.stop()
    return client
