"""Start with the provided dispatcher and replace what you want different: queue, retry policy, observer, clock.

Each part is an argument.  Here: a queue that keeps a tally of its own, retries that are quicker than the defaults, an
observer that prints what happens, and a clock that can be asked how often it was read.

Run it: ``python examples/start_with_provided.py`` sends to a collector that it starts itself, which answers 503 first;
with an URL as the argument it sends there.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files

from optimizely.optimizely import Optimizely

import eventpost
from eventpost import EventDispatcher, EventProcessor, MemoryQueue, Report, RetryPolicy
from eventpost.clock import SystemClock
from eventpost.event import Event
from eventpost.testing import Collector, Reply
from eventpost.watch.signals import Signal

DATAFILE = files(eventpost).joinpath("demo_datafile.json").read_text()


class TalliedQueue(MemoryQueue):
    """A queue of one's own: the provided one, which also counts events by endpoint."""

    def __init__(self, events_max: int) -> None:
        super().__init__(events_max=events_max, overflow="drop_oldest")
        self.by_endpoint: Counter[str] = Counter()

    def put(self, events: Sequence[Event]) -> None:
        """Store the events, then count them: a put that raises stores and counts nothing."""
        super().put(events)
        self.by_endpoint.update(event.lane for event in events)


class CountingClock:
    """A clock of one's own: any object with monotonic() and time(), in seconds."""

    def __init__(self) -> None:
        self.readings = 0
        self._clock = SystemClock()

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        self.readings += 1
        return self._clock.monotonic()

    def time(self) -> float:
        """Return seconds since the epoch."""
        self.readings += 1
        return self._clock.time()


def main(endpoint: str, observer: Callable[[Signal], None]) -> tuple[Report, TalliedQueue, CountingClock]:
    """Track a few purchases and return the count, with the parts that were ours."""
    queue, clock = TalliedQueue(events_max=10_000), CountingClock()
    dispatcher = EventDispatcher(
        queue,
        endpoint=endpoint,
        retry=RetryPolicy(first_s=0.05, max_s=5.0, breaker_first_s=0.05, breaker_max_s=2.0),
        linger_s=0.1,
        observers=[observer],
        clock=clock,
    )
    client = Optimizely(DATAFILE, event_processor=EventProcessor(dispatcher))
    for number in range(25):
        user = client.create_user_context(f"user-{number}", {"plan": "gold", "age": 20 + number})
        user.decide("search_ranking")
        user.track_event("purchase", {"revenue": 4200, "value": 42.0})
    client.close()
    return dispatcher.close(timeout_s=10), queue, clock


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(main(sys.argv[1], print)[0])
    else:
        with Collector() as collector:
            collector.script([Reply(status=503)])
            print(main(collector.url, print)[0])
            print(f"the collector saw {len(collector.uuids)} events in {collector.requests_total} requests")
