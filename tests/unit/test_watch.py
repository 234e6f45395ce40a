"""The ledger's words and the log's manners."""

import copy
import dataclasses
import json
import logging
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.support import ALL, URL, drain, event

from eventpost import EventDispatcher, JournalQueue, MemoryQueue
from eventpost.queues.protocol import QueueStats
from eventpost.testing.clock import ManualClock
from eventpost.testing.transports import RecordingTransport
from eventpost.watch.ledger import Report, Tally, make_report
from eventpost.watch.logs import LogObserver
from eventpost.watch.signals import (
    BreakerChanged,
    Buried,
    Closed,
    Delivered,
    Dropped,
    FlowedBack,
    Refused,
    Retrying,
    Signal,
    Spilling,
    Trouble,
)

LANE = "https://user:secret@example.org/v1/events?key=secret"


def test_a_report_closes_when_every_event_is_in_one_place() -> None:
    """And says so when not."""
    stats = QueueStats(accepted=10, delivered=4, queued=2, in_flight=1, dead=1, dropped={"overflow": 2})
    report = make_report(stats, {"queue_full": 3})
    assert report.closes
    assert (report.offered, report.pending) == (13, 3)
    assert not Report(accepted=2, delivered=1).closes
    assert str(report) == (
        "accepted 10, delivered 4, queued 2, in flight 1, dead 1, dropped 2 (overflow 2), refused 3 (queue_full 3)"
    )
    assert report.as_dict()["dropped"] == {"overflow": 2}


def test_a_report_is_plain_data_and_nobody_elses() -> None:
    """Its reasons are dicts: a worker can send it to its parent, an application write it as JSON."""
    counted, refused = {"overflow": 2}, {"queue_full": 3}
    report = make_report(QueueStats(accepted=2, dropped=counted), refused)
    assert (type(report.dropped), type(report.refused), type(Report().refused)) == (dict, dict, dict)
    assert pickle.loads(pickle.dumps(report)) == copy.deepcopy(report) == report
    assert json.loads(json.dumps(dataclasses.asdict(report))) == report.as_dict()
    counted["overflow"] = refused["queue_full"] = 0
    assert (report.dropped, report.refused) == ({"overflow": 2}, {"queue_full": 3})


def test_a_tally_is_torn_neither_by_threads_nor_by_signals() -> None:
    """Every addition counts once, wherever it is interrupted."""
    tally = Tally()
    by_handler: list[int] = []

    def handler(signum: int, frame: object) -> None:
        del signum, frame
        tally.add("handler")
        by_handler.append(1)
        tally.read()

    before = signal.signal(signal.SIGALRM, handler)
    threads = [threading.Thread(target=lambda: [tally.add("thread") for _ in range(5000)]) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0003)
        until = time.monotonic() + 0.3
        added = 0
        while time.monotonic() < until:
            tally.add("main", 2)
            added += 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        for thread in threads:
            thread.join(10)
    assert tally.read() == {"main": added, "handler": len(by_handler), "thread": 15_000}


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock."""
    return ManualClock()


@pytest.fixture
def observer(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> LogObserver:
    """Give an observer whose lines caplog catches."""
    caplog.set_level(logging.INFO, "eventpost")
    return LogObserver(clock=clock)


def test_a_repeated_loss_is_one_line_a_minute_with_the_count(
    observer: LogObserver, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is hidden: the next line speaks of all since the last."""
    for _ in range(100):
        observer(Refused("queue_full"))
    clock.advance(61.0)
    observer(Refused("queue_full"))
    assert [record.getMessage() for record in caplog.records] == [
        "eventpost: 1 event refused (queue_full)",
        "eventpost: 100 events refused (queue_full)",
    ]


@pytest.mark.parametrize(
    ("event", "level", "words"),
    [
        (Dropped("memory_at_exit", 7), logging.WARNING, "7 events dropped (memory_at_exit)"),
        (Buried(LANE, 1, "http_400", 400), logging.WARNING, "1 event set aside as dead (http_400)"),
        (BreakerChanged(LANE, "open", "connect", 1.0), logging.WARNING, "left alone (connect)"),
        (BreakerChanged(LANE, "held", "http_401", 1.0), logging.ERROR, "needs a look (http_401)"),
        (BreakerChanged(LANE, "closed", "recovered"), logging.INFO, "takes events again"),
        (Trouble("disk full", "/var"), logging.ERROR, "disk full: /var"),
        (
            Spilling("redis_unavailable", "no answer"),
            logging.WARNING,
            "to the spill on this machine (redis_unavailable)",
        ),
        (Spilling(""), logging.WARNING, "(older ones wait there)"),
        (FlowedBack(12, 3.21), logging.INFO, "12 spilled events have flowed back, 3.2 s after the first"),
        (Closed(Report()), logging.INFO, "closed: accepted 0"),
    ],
)
def test_what_matters_has_its_level_and_no_secret(
    observer: LogObserver, caplog: pytest.LogCaptureFixture, event: object, level: int, words: str
) -> None:
    """A loss is a warning, what needs a person an error; an URL's user and query stay out."""
    observer(event)  # type: ignore[arg-type] # a table of signals
    (record,) = caplog.records
    assert record.levelno == level
    assert words in record.getMessage()
    assert "secret" not in record.getMessage()


def test_deliveries_and_retries_are_for_debugging(observer: LogObserver, caplog: pytest.LogCaptureFixture) -> None:
    """A busy process logs nothing while all is well."""
    observer(Delivered(LANE, 100, 204, 0.1, 1))
    observer(Retrying(LANE, 100, "http_503", 0.5, 503))
    assert not caplog.records


def test_another_2xx_than_204_is_counted(
    observer: LogObserver, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that says 200 to everything would be a silent loss; once an hour, with the count, by status."""
    for status in (200, 204, 200, 202, 200):
        observer(Delivered(LANE, 100, status, 0.1, 1))
    clock.advance(3601.0)
    observer(Delivered(LANE, 1, 200, 0.1, 1))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" took ")[2].partition(",")[0] for line in lines] == [
        "100 events with status 200",
        "100 events with status 202",
        "201 events with status 200",
    ]
    assert not [line for line in lines if "secret" in line]


def test_the_library_configures_no_logging() -> None:
    """No handler, no level: where nothing is configured, Python's last resort prints the warnings."""
    logger = logging.getLogger("eventpost")
    assert logger.handlers == []
    assert logger.propagate


@pytest.mark.parametrize("kind", ["journal", "memory"])
def test_every_loss_is_told_exactly_once(tmp_path: Path, clock: ManualClock, kind: str) -> None:
    """Through a dispatcher, by reason: events dropped to make room, and dead letters that are too old."""
    age_s = 1000.0
    queue = (
        MemoryQueue(events_max=500, overflow="drop_oldest", dead_age_max_s=age_s, clock=clock)
        if kind == "memory"
        else JournalQueue(tmp_path / "j", bytes_max=1 << 20, overflow="drop_oldest", dead_age_max_s=age_s, clock=clock)
    )
    told: list[Signal] = []
    dispatcher = EventDispatcher(queue, transport=RecordingTransport(), clock=clock, observers=[told.append])
    for n in range(3000):
        queue.put([event(n, 500)])
    queue.bury(queue.claim(URL, 5, ALL), "http_400")
    drain(queue)
    clock.advance(2 * age_s)
    for _ in range(3):  # dead letters are looked after once a minute
        dispatcher._sender.step(())
        clock.advance(61.0)
    report = dispatcher.close()
    assert set(report.dropped) == {"overflow", "dead_expired"}, report
    counted = dict.fromkeys(report.dropped, 0)
    for one in told:
        if isinstance(one, Dropped):
            counted[one.reason] += one.events
    assert counted == report.dropped
