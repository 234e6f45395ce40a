"""Build a dispatcher from scratch, and let Eventpost put its queue, batches and retries in front of it.

The documentation asks a dispatcher of your own to do one thing: POST ``event.params`` as JSON to ``event.url``, with
the event's headers.  ``MyDispatcher`` does that and no more.  What makes one usable in production (a queue that
survives the process, batches, retries, a count of everything) stands in front of it and needs no line in it.

Run it: ``python examples/from_scratch.py`` sends to a collector that it starts itself; with an URL as the argument it
sends there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.resources import files
from urllib.request import Request, urlopen

import eventpost
from eventpost import EventDispatcher, JournalQueue, OptimizelyFactory, Report
from eventpost.testing import Collector

DATAFILE = files(eventpost).joinpath("demo_datafile.json").read_text()


class MyDispatcher:
    """Sends one event.  ``False`` or an exception means: later, please."""

    def dispatch_event(self, event: eventpost.LogEvent) -> bool:
        """POST the event; True if the endpoint took it."""
        body = json.dumps(event.params).encode()
        request = Request(event.url, body, dict(event.headers), method=event.http_verb)  # noqa: S310 - the event's own URL
        with urlopen(request, timeout=5) as answer:  # noqa: S310 - as above; an HTTP error raises: later
            return bool(200 <= answer.status < 300)


def main(endpoint: str, folder: str) -> Report:
    """Track a few purchases through MyDispatcher and return the count."""
    queue = JournalQueue(folder)
    dispatcher = EventDispatcher(queue, transport=MyDispatcher(), endpoint=endpoint, linger_s=0.1)
    client = OptimizelyFactory(datafile=DATAFILE).client(event_dispatcher=dispatcher)
    for number in range(25):
        user = client.create_user_context(f"user-{number}", {"plan": "gold", "age": 20 + number})
        if user.decide("checkout_flow").enabled:
            user.track_event("purchase", {"revenue": 4200, "value": 42.0})
    client.close()
    return dispatcher.close(timeout_s=10)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as journal:
        if len(sys.argv) > 1:
            print(main(sys.argv[1], journal))
        else:
            with Collector() as collector:
                print(main(collector.url, journal))
                print(f"the collector saw {len(collector.uuids)} events in {collector.requests_total} requests")
