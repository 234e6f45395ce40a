"""Metrics of one process, and what a relay's state says of its folders; labels are bounded, whatever a body holds."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from eventpost import EventDispatcher, LogEvent, MemoryQueue
from eventpost.testing import Collector, Reply
from eventpost.watch.prometheus import DoorMetrics, MetricsObserver, render
from eventpost.watch.prometheus.door import ACCEPT_BUCKETS_S
from eventpost.watch.prometheus.labels import LABELS_MAX
from eventpost.watch.signals import (
    Adopted,
    BreakerChanged,
    Buried,
    Closed,
    Damaged,
    Delivered,
    Dropped,
    FlowedBack,
    Refused,
    Retrying,
    Spilling,
    Trouble,
)

URL = "https://user:secret@logx.example/v1/events?token=secret"
SHOWN = "https://logx.example/v1/events"
LANE = {"url": SHOWN, "queued": 3, "stored_bytes": 100, "oldest_age_s": 4.5}
JOURNAL = {
    "path": "/", "accepted": 10, "delivered": 5, "queued": 3, "dead": 1, "dropped": {"purged": 1}, "segments": 1,
    "stored_bytes": 100, "dead_bytes": 7, "oldest_age_s": 4.5, "lanes": [LANE], "closes": True, "needs": ["a"],
    "bytes_max": 1000, "in_flight": 2, "durability": "os",
}  # fmt: skip
PART = {"number": 0, "queued": 2, "in_flight": 1, "oldest_age_s": 4.5, "stored_bytes": 90, "trouble": ""}
QUEUE = {name: told for name, told in JOURNAL.items() if name != "lanes"} | {
    "kind": "streams", "path": "redis://host:6379 (name)", "shards": [PART, PART | {"number": 1, "trouble": "away"}],
    "members": [
        {"name": "a-1-x", "entries_held": 2, "idle_s": 7.0}, {"name": "b-1-x", "entries_held": 1, "idle_s": 3.0},
        {"name": "c-1-x", "entries_held": 0, "idle_s": 900.0},
    ],
    "lanes": [{"url": SHOWN, "queued": 2, "entries": 1, "entries_held": 1, "oldest_age_s": 4.5}],
}  # fmt: skip
STATE = {
    "version": 1, "at": 5.0, "started_at": 4.0, "pid": 1, "journals": [JOURNAL, QUEUE],
    "workers": [{"pid": 2, "restarts": 1}, {"pid": 3, "restarts": 2}],
}  # fmt: skip


def parsed(text):
    """Return a page's samples, by name and labels, as a scraper reads them."""
    families = text_string_to_metric_families(text.decode() if isinstance(text, bytes) else text)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def value(samples, name, **labels):
    """Return one sample."""
    return samples[(f"eventpost_{name}", *sorted(labels.items()))]


class Clockwork:
    """Something that calls back when it is told to."""

    def __init__(self):
        self.calls = []

    def later(self, seconds, call):
        """Note a call."""
        assert 0 < seconds <= 1
        self.calls.append(call)

    def tick(self):
        """Do what is due."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_what_a_door_took_and_refused():
    """Events, bytes and seconds by endpoint, events by project; put off, and nothing is lost by that."""
    registry, clock = CollectorRegistry(), Clockwork()
    door = DoorMetrics(clock.later, registry=registry)
    for project, seconds in (("12", 0.0003), ("12", 0.3), ("", 99.0)):
        door.accepted(SHOWN, project, 1, 500, seconds, fits={0.0003: False, 0.3: True}.get(seconds))
    door.refused("queue_full")
    assert len(clock.calls) == 1
    assert not [one for one in parsed(generate_latest(registry)) if one[0].endswith("_total")]
    clock.tick()
    samples = parsed(generate_latest(registry))
    assert value(samples, "accepted_events_total", endpoint=SHOWN, project="12") == 2
    assert value(samples, "accepted_bytes_total", endpoint=SHOWN, project="12") == 1000
    assert value(samples, "accepted_events_total", endpoint=SHOWN, project="") == 1
    assert value(samples, "examined_events_total", endpoint=SHOWN, project="12") == 2
    assert value(samples, "unfit_events_total", endpoint=SHOWN, project="12") == 1
    assert ("eventpost_unfit_events_total", ("endpoint", SHOWN), ("project", "")) not in samples
    assert value(samples, "accept_seconds_count", endpoint=SHOWN) == 3
    assert value(samples, "accept_seconds_sum", endpoint=SHOWN) == pytest.approx(99.3003)
    assert value(samples, "accept_seconds_bucket", endpoint=SHOWN, le="0.0005") == 1
    assert value(samples, "accept_seconds_bucket", endpoint=SHOWN, le="0.5") == 2
    assert value(samples, "accept_seconds_bucket", endpoint=SHOWN, le="10.0") == 2
    assert value(samples, "refused_requests_total", reason="queue_full") == 1
    door.accepted(SHOWN, "12", 1, 1, 0.1)
    clock.tick()
    assert value(parsed(generate_latest(registry)), "accepted_events_total", endpoint=SHOWN, project="12") == 3
    door.refused("queue_full")
    assert door.refused_by_reason() == {"queue_full": 2}


@given(st.lists(st.floats(0, 60), min_size=1, max_size=30))
def test_a_duration_lies_in_the_bucket_that_prometheus_would_choose(durations):
    """What is handed over at once is what one observation after the other would have made."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    door, clock = DoorMetrics(None, registry=ours), Clockwork()
    late = DoorMetrics(clock.later, registry=theirs)
    for duration in durations:
        door.accepted(SHOWN, "1", 1, 1, duration)
        late.accepted(SHOWN, "1", 1, 1, duration)
    clock.tick()
    for registry in (ours, theirs):
        samples = parsed(generate_latest(registry))
        for bound in ACCEPT_BUCKETS_S:
            expected = sum(one <= bound for one in durations)
            assert value(samples, "accept_seconds_bucket", endpoint=SHOWN, le=str(float(bound))) == expected


@pytest.mark.parametrize(
    "project", ["x" * 65, "a b", 'q"uote', "new\nline", "\ud800", "é", "<script>", "\x00", "a" * 100_000]
)
def test_what_looks_like_no_project_is_other(project):
    """A body may say anything: the page stays one that can be read, and no body is quoted in it."""
    registry = CollectorRegistry()
    door = DoorMetrics(registry=registry)
    door.accepted(SHOWN, project, 1, 1, 0.1)
    door.accepted(SHOWN, project, 1, 1, 0.1)
    assert value(parsed(generate_latest(registry)), "accepted_events_total", endpoint=SHOWN, project="other") == 2


def test_labels_are_bounded():
    """A hundred projects by name, the rest as one; nothing is missing from the sum, and memory does not grow."""
    registry = CollectorRegistry()
    door = DoorMetrics(Clockwork().later, registry=registry)
    for number in range(10 * LABELS_MAX):
        door.accepted(SHOWN, str(number), 1, 1, 0.1)
        door.refused(f"reason {number}")
    door.flush()
    samples = parsed(generate_latest(registry))
    projects = {
        dict(key[1:])["project"]: found for key, found in samples.items() if key[0].endswith("accepted_events_total")
    }
    assert len(projects) == LABELS_MAX + 1
    assert projects["other"] == 9 * LABELS_MAX
    assert sum(projects.values()) == 10 * LABELS_MAX
    assert len(door._rows) <= LABELS_MAX + 1
    assert len(door.refused_by_reason()) == LABELS_MAX + 1


SIGNALS = [
    Delivered(URL, 10, 204, 0.2, 1, "12"), Delivered(URL, 1, 200, 0.02, 3), Retrying(URL, 4, "http_503", 1.0, 503),
    Buried(URL, 2, "http_400", 400, "12"), Buried(URL, 1, "http_400", 400, "<script>"), Dropped("overflow", 3),
    Refused("queue_full", 5), Adopted("/j/x", 6),
    Damaged("/j/bad/x", 1, 2, "why"), Trouble("journal", "detail with a secret"), Closed(None),
]  # fmt: skip


def test_what_the_sender_did():
    """Each signal once, by endpoint as it is shown; a breaker is in one state at a time."""
    registry = CollectorRegistry()
    observer = MetricsObserver(registry)
    for signal in SIGNALS:
        observer(signal)
    text = generate_latest(registry)
    samples = parsed(text)
    assert value(samples, "delivered_events_total", endpoint=SHOWN, project="12") == 10
    assert value(samples, "delivered_events_total", endpoint=SHOWN, project="") == 1
    assert value(samples, "delivered_requests_total", endpoint=SHOWN, status="204") == 1
    assert value(samples, "deliver_seconds_count", endpoint=SHOWN) == 2
    assert value(samples, "deliver_seconds_bucket", endpoint=SHOWN, le="0.025") == 1
    assert value(samples, "retried_events_total", endpoint=SHOWN, reason="http_503") == 4
    assert value(samples, "dead_events_total", endpoint=SHOWN, project="12", reason="http_400") == 2
    assert value(samples, "dead_events_total", endpoint=SHOWN, project="other", reason="http_400") == 1
    assert value(samples, "dropped_events_total", reason="overflow") == 3
    assert value(samples, "refused_events_total", reason="queue_full") == 5
    assert value(samples, "adopted_events_total") == 6
    assert value(samples, "damaged_places_total") == 1
    assert value(samples, "troubles_total", what="journal") == 1
    assert b"secret" not in text
    for signal, spilling in ((Spilling("redis_unavailable"), 1), (FlowedBack(100, 2.5), 0)):
        observer(signal)
        assert value(parsed(generate_latest(registry)), "spilling") == spilling
    for state in ("open", "half_open", "open", "held", "closed"):
        observer(BreakerChanged(URL, state, "http_503", 1.0))
        samples = parsed(generate_latest(registry))
        states = {
            one: value(samples, "breaker_state", endpoint=SHOWN, state=one)
            for one in ("closed", "open", "half_open", "held")
        }
        assert states == {one: float(one == state) for one in states}


def test_an_endpoint_that_was_never_in_trouble_is_shown_as_closed():
    """From its first answer on; another observer of the same registry does not take an open breaker for closed."""
    registry = CollectorRegistry()
    MetricsObserver(registry)(Delivered(URL, 1, 204, 0.1, 1))
    assert value(parsed(generate_latest(registry)), "breaker_state", endpoint=SHOWN, state="closed") == 1
    MetricsObserver(registry)(BreakerChanged(URL, "open", "x"))
    MetricsObserver(registry)(Delivered(URL, 1, 204, 0.1, 1))
    samples = parsed(generate_latest(registry))
    assert value(samples, "breaker_state", endpoint=SHOWN, state="open") == 1
    assert value(samples, "delivered_events_total", endpoint=SHOWN, project="") == 2


def test_an_observer_of_an_application_s_own_dispatcher():
    """Without a relay, in one process, beside whatever else the application has in its registry."""
    registry = CollectorRegistry()
    with Collector(lambda one: Reply(400 if b'"bad"' in one.body else 204)) as up:
        dispatcher = EventDispatcher(MemoryQueue(), observers=[MetricsObserver(registry)])
        for key in ("good", "bad", "good"):
            assert dispatcher.dispatch_event(LogEvent(up.url, {"key": key}))
        dispatcher.close()
        samples = parsed(generate_latest(registry))
        assert value(samples, "delivered_events_total", endpoint=up.url, project="") == 2
        assert value(samples, "dead_events_total", endpoint=up.url, project="", reason="http_400") == 1
        assert value(samples, "breaker_state", endpoint=up.url, state="closed") == 1


def test_endpoints_are_bounded():
    """A journal may hold events for any number of URLs."""
    registry = CollectorRegistry()
    observer = MetricsObserver(registry)
    for number in range(12 * LABELS_MAX):
        observer(Delivered(f"http://host-{number}/", 1, 204, 0.1, 1))
    samples = parsed(generate_latest(registry))
    delivered = {key: found for key, found in samples.items() if key[0] == "eventpost_delivered_events_total"}
    assert len(delivered) == LABELS_MAX + 1
    assert sum(delivered.values()) == 12 * LABELS_MAX


def test_what_lies_in_the_folders(tmp_path):
    """The ledger, each queue's depth and age, bytes and bound, the disk; and the relay's processes."""
    text, kind = render(str(tmp_path), STATE)
    assert kind.startswith("text/plain")
    samples = parsed(text)
    for name, expected in (
        ("journal_accepted_events_total", 10), ("journal_delivered_events_total", 5), ("journal_queued_events", 3),
        ("journal_dead_events", 1), ("journal_oldest_seconds", 4.5), ("journal_bytes", 100), ("journal_dead_bytes", 7),
        ("journal_bytes_max", 1000), ("journal_closes", 1), ("journal_needs", 1), ("in_flight_events", 2),
    ):  # fmt: skip
        assert value(samples, name, journal="/") == expected, name
    assert value(samples, "journal_dropped_events_total", journal="/", reason="purged") == 1
    assert value(samples, "queue_events", journal="/", endpoint=SHOWN) == 3
    assert value(samples, "queue_bytes", journal="/", endpoint=SHOWN) == 100
    assert value(samples, "queue_oldest_seconds", journal="/", endpoint=SHOWN) == 4.5
    assert 0 < value(samples, "disk_free_bytes", journal="/") <= value(samples, "disk_bytes", journal="/")
    assert value(samples, "workers") == 2
    assert value(samples, "worker_restarts_total") == 3
    assert value(samples, "relay_start_time_seconds") == 4
    assert value(samples, "state_age_seconds") > 1000


def test_what_lies_in_a_queue_that_machines_share(tmp_path):
    """Each part's depth and age, whether its server answers, and the slowest of those who hold something."""
    samples = parsed(render(str(tmp_path), STATE)[0])
    where = QUEUE["path"]
    assert value(samples, "journal_accepted_events_total", journal=where) == 10
    assert value(samples, "part_queued_events", journal=where, part="0") == 2
    assert value(samples, "part_in_flight_events", journal=where, part="0") == 1
    assert value(samples, "part_oldest_seconds", journal=where, part="0") == 4.5
    assert value(samples, "part_bytes", journal=where, part="1") == 90
    assert [value(samples, "part_up", journal=where, part=part) for part in "01"] == [1, 0]
    assert value(samples, "holders", journal=where) == 2
    assert value(samples, "slowest_holder_seconds", journal=where) == 7
    assert value(samples, "queue_events", journal=where, endpoint=SHOWN) == 2


def test_every_metric_is_documented(tmp_path):
    """docs/metrics.md has a row for each, with its labels, and no others."""
    registry = CollectorRegistry()
    door, observer = DoorMetrics(registry=registry), MetricsObserver(registry)
    door.accepted(SHOWN, "1", 1, 1, 0.1, fits=False)
    door.refused("x")
    for signal in SIGNALS:
        observer(signal)
    found = {}
    for text in (generate_latest(registry), render(str(tmp_path), STATE)[0]):
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                if not sample.name.endswith(("_bucket", "_count", "_created")):
                    labels = ", ".join(sorted(sample.labels))
                    found[sample.name.removesuffix("_sum")] = labels
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(eventpost_\w+)` \| ([\w, ]*)\|", page, re.MULTILINE)
    assert {name: ", ".join(sorted(filter(None, labels.strip().split(", ")))) for name, labels in rows} == found


def test_figures_that_are_not_known(tmp_path):
    """No state yet, a bound that is another process's, a folder that is gone: what is known is shown."""
    assert parsed(render(str(tmp_path), None)[0]) == {}
    unknown = {**JOURNAL, "path": str(tmp_path / "gone"), "bytes_max": None, "in_flight": None, "oldest_age_s": None}
    samples = parsed(render(str(tmp_path), {**STATE, "journals": [unknown]})[0])
    assert value(samples, "journal_oldest_seconds", journal=unknown["path"]) == 0
    names = {key[0] for key in samples}
    assert not names & {"eventpost_journal_bytes_max", "eventpost_in_flight_events", "eventpost_disk_bytes"}


def test_a_file_that_is_no_counters_costs_the_others_nothing(tmp_path):
    """A worker may be killed while it makes one, or a file be empty just now."""
    for name, data in (("counter_1.db", b""), ("counter_2.db", b"\xff" * 100), ("gauge_x.db", b"\0" * 8)):
        (tmp_path / name).write_bytes(data)
    text, _ = render(str(tmp_path), STATE)
    assert value(parsed(text), "workers") == 2


def test_signals_that_nobody_knows_are_passed_over():
    """Newer releases bring new ones."""
    registry = CollectorRegistry()
    MetricsObserver(registry)(SimpleNamespace())
    assert not [one for one in parsed(generate_latest(registry)) if one[0].endswith("events_total") and dict(one[1:])]
