"""One table of settings: name, default, environment variable, meaning.

A value that is passed wins over the environment, and that over the table; ``defaults`` is how they are told apart.
``EVENTPOST_TEST_MODE`` and ``EVENTPOST_ALLOW_TEST_SENDS`` are switches, see ``guard``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Final

from .defaults import FloatDefault, IntDefault, StrDefault
from .queues.memory import MemoryQueue
from .queues.place import LEASE_S, NAME, SharedQueue
from .queues.protocol import Queue
from .transports.build import build_http_transport
from .transports.protocol import Transport

ENDPOINT_BODY_BYTES_MAX: Final = 3_500_000
"""What the endpoint takes in one JSON body (Optimizely's Event API); nothing larger can ever be delivered."""
BATCH_BYTES_MARGIN_MAX: Final = 3_000_000


@dataclass(frozen=True)
class Setting:
    """One row.  ``kind`` parses the environment's text; ``lowest`` and ``highest`` bound numbers, inclusive."""

    name: str
    default: Any
    env: str
    kind: Callable[[Any], Any]
    meaning: str
    lowest: float = 0
    highest: float = inf
    choices: tuple[str, ...] = ()
    without: str = ""
    """What holds where there is no value, for the documentation."""

    def check(self, value: Any, source: str) -> Any:
        """Return the value, or raise ValueError or TypeError naming ``source``."""
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{source} must be one of {', '.join(map(repr, self.choices))}, not {value!r}")
            return value
        if self.kind is str:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (self.kind is int and value != int(value)):
            raise TypeError(f"{source} must be a {'whole ' if self.kind is int else ''}number, not {value!r}")
        if not isfinite(value) or not self.lowest <= value <= self.highest:
            upper = "" if self.highest == inf else f" and at most {self.highest:,}"
            raise ValueError(f"{source} must be at least {self.lowest:,}{upper}, not {value!r}")
        return self.kind(value)


BATCH_EVENTS_MAX: Final = IntDefault(100)
BATCH_BYTES_MAX: Final = IntDefault(1_000_000)
LINGER_S: Final = FloatDefault(1.0)
IN_FLIGHT_MAX: Final = IntDefault(300)
IN_FLIGHT_BYTES_MAX: Final = IntDefault(16 * 1024 * 1024)
TIMEOUT_S: Final = FloatDefault(10)
CLOSE_TIMEOUT_S: Final = FloatDefault(10)
SENDER: Final = StrDefault("thread")
QUEUE_NAME: Final = StrDefault(NAME)
QUEUE_LEASE_S: Final = FloatDefault(LEASE_S)

SETTINGS: Final[dict[str, Setting]] = {
    setting.name: setting
    for setting in (
        Setting(
            "endpoint",
            None,
            "EVENTPOST_ENDPOINT",
            str,
            "URL to send to, instead of each event's own",
            without="each event's own URL",
        ),
        Setting(
            "batch_events_max", BATCH_EVENTS_MAX, "EVENTPOST_BATCH_EVENTS_MAX", int, "events in one request", lowest=1
        ),
        Setting(
            "batch_bytes_max",
            BATCH_BYTES_MAX,
            "EVENTPOST_BATCH_BYTES_MAX",
            int,
            "bytes of one request's body; the endpoint takes 3.5 MB",
            lowest=1,
            highest=BATCH_BYTES_MARGIN_MAX,
        ),
        Setting("linger_s", LINGER_S, "EVENTPOST_LINGER_S", float, "seconds that a visitor waits for company"),
        Setting("in_flight_max", IN_FLIGHT_MAX, "EVENTPOST_IN_FLIGHT_MAX", int, "requests in flight at once", lowest=1),
        Setting(
            "in_flight_bytes_max",
            IN_FLIGHT_BYTES_MAX,
            "EVENTPOST_IN_FLIGHT_BYTES_MAX",
            int,
            "bytes of bodies in flight at once",
            lowest=1,
        ),
        Setting(
            "timeout_s", TIMEOUT_S, "EVENTPOST_TIMEOUT_S", float, "seconds for one request, DNS included", lowest=0.001
        ),
        Setting("close_timeout_s", CLOSE_TIMEOUT_S, "EVENTPOST_CLOSE_TIMEOUT_S", float, "seconds to drain in at exit"),
        Setting(
            "sender",
            SENDER,
            "EVENTPOST_SENDER",
            str,
            "'thread' delivers in this process, 'none' only stores",
            choices=("thread", "none"),
        ),
        Setting("queue", None, "EVENTPOST_QUEUE", str, "URL of the queue that machines share", without="memory"),
        Setting("queue_name", QUEUE_NAME, "EVENTPOST_QUEUE_NAME", str, "its name: part of all its keys"),
        Setting("queue_password", None, "EVENTPOST_QUEUE_PASSWORD", str, "its password", without="the URL's"),
        Setting(
            "queue_password_file",
            None,
            "EVENTPOST_QUEUE_PASSWORD_FILE",
            str,
            "file with its password, on one line",
            without="the URL's",
        ),
        Setting(
            "queue_lease_s",
            QUEUE_LEASE_S,
            "EVENTPOST_QUEUE_LEASE_S",
            float,
            "seconds until others may take what a sender claimed and did not renew; the same for a whole fleet",
            lowest=1,
        ),
        Setting(
            "queue_ca",
            None,
            "EVENTPOST_QUEUE_CA",
            str,
            "file or folder of the authorities that its certificate is checked by",
            without="as for endpoints",
        ),
    )
}


def setting(name: str, value: Any) -> Any:
    """Return the value of a setting: what was passed, else the environment's, else the table's.

    Raises ValueError or TypeError, naming the argument or the variable, for a value that makes no sense.
    """
    row = SETTINGS[name]
    if value is not row.default:
        return row.check(value, name)
    text = os.environ.get(row.env, "")
    if not text:
        return row.default if row.default is None else row.kind(row.default)
    try:
        parsed = row.kind(text)
    except ValueError:
        raise ValueError(f"{row.env} must be a number, not {text!r}") from None
    return row.check(parsed, row.env)


def shared_queue(url: str | None = None, name: str | None = None) -> SharedQueue | None:
    """Return the queue that machines share, as the arguments, else the environment, name it; None: neither does.

    Password and authorities are the environment's: a command line is shown to every user of the machine.

    Raises ValueError, naming the variable, OSError for a file that can't be read.
    """
    found = url or setting("queue", None)
    if not found:
        return None
    password = setting("queue_password", None)
    file = setting("queue_password_file", None)
    if file and password:
        raise ValueError("EVENTPOST_QUEUE_PASSWORD and EVENTPOST_QUEUE_PASSWORD_FILE are both set: one is meant")
    if file:
        with open(file, encoding="utf-8") as lines:
            password = lines.readline().rstrip("\r\n")
    return SharedQueue(
        found,
        str(name or setting("queue_name", QUEUE_NAME)),
        password or None,
        setting("queue_ca", None),
        float(setting("queue_lease_s", QUEUE_LEASE_S)),
    )


def build_queue() -> Queue:
    """Return the queue of a dispatcher that was not given one: in memory, unless the environment names one."""
    shared = shared_queue()
    return MemoryQueue() if shared is None else shared.open()


def build_transport() -> Transport:
    """Return the transport of a dispatcher that was not given one."""
    return build_http_transport()
