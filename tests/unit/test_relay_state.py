"""What the relay's main process tells its workers."""

import json
import os
import threading
from pathlib import Path

import pytest
from tests.support import event

from eventpost import JournalQueue
from eventpost.queues.journal.view import JournalView
from eventpost.relay import state
from eventpost.relay.state import Monitor
from eventpost.testing.clock import ManualClock
from eventpost.watch.signals import (
    Adopted,
    BreakerChanged,
    Buried,
    Damaged,
    Delivered,
    Dropped,
    Refused,
    Retrying,
    Trouble,
)

LANE = "https://user:s3cret@example.org/v1/events?key=s3cret"
SHOWN = "https://example.org/v1/events"


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that stands still."""
    return ManualClock()


@pytest.fixture
def monitor(clock: ManualClock) -> Monitor:
    """Return a monitor that has heard nothing."""
    return Monitor(clock=clock)


def only(monitor: Monitor) -> dict:
    """Return the one endpoint."""
    (found,) = monitor.as_dict()["endpoints"]
    return found


def test_an_endpoint_is_counted_and_shown_without_its_secrets(monitor: Monitor, clock: ManualClock) -> None:
    """Delivered, retried and dead are events; requests are requests."""
    monitor(Delivered(LANE, 10, 204, 0.05, 1))
    monitor(Delivered(LANE, 5, 200, 0.07, 2))
    monitor(Retrying(LANE, 3, "http_503", 1.0, 503))
    monitor(Buried(LANE, 1, "rejected", 400))
    monitor(Adopted("/var/lib/x", 3))
    found = only(monitor)
    assert (found["endpoint"], found["breaker"], found["since"]) == (SHOWN, "closed", clock.time())
    assert [found[name] for name in ("requests", "delivered", "retried", "dead", "status")] == [2, 15, 3, 1, 400]
    assert found["answered_at"] == clock.time()
    assert "s3cret" not in json.dumps(monitor.as_dict())


def test_the_breaker_is_told_with_its_reason_since_and_next_probe(monitor: Monitor, clock: ManualClock) -> None:
    """``since`` is when the outage began, however many probes have failed meanwhile."""
    monitor(BreakerChanged(LANE, "open", "connect", 1.0))
    began = clock.time()
    clock.advance(0.4)
    assert only(monitor)["retry_in_s"] == pytest.approx(0.6)
    clock.advance(0.7)
    assert only(monitor)["retry_in_s"] == 0
    monitor(BreakerChanged(LANE, "half_open", "connect"))
    assert (only(monitor)["breaker"], only(monitor)["retry_in_s"]) == ("half_open", None)
    monitor(BreakerChanged(LANE, "open", "timeout", 2.0))
    found = only(monitor)
    assert (found["breaker"], found["reason"], found["since"], found["retry_in_s"]) == ("open", "timeout", began, 2.0)
    clock.advance(5)
    monitor(BreakerChanged(LANE, "half_open", "timeout"))
    monitor(BreakerChanged(LANE, "closed", "recovered"))
    found = only(monitor)
    assert (found["breaker"], found["reason"], found["since"], found["retry_in_s"]) == (
        "closed",
        "",
        clock.time(),
        None,
    )
    assert [row["what"] for row in monitor.as_dict()["happened"]] == ["open", "closed"]


def test_what_a_held_endpoint_needs_is_kept(monitor: Monitor) -> None:
    """The detail says what somebody has to do."""
    monitor(BreakerChanged(LANE, "held", "certificate", 30.0, "the certificate has expired"))
    assert only(monitor)["detail"] == "the certificate has expired"
    assert monitor.as_dict()["happened"][0]["detail"] == "the certificate has expired"


def test_latency_quantiles_are_those_of_the_last_minute(monitor: Monitor, clock: ManualClock) -> None:
    """Within the buckets' 4 %; what is older is forgotten."""
    for hundredth in range(100):
        monitor(Delivered(LANE, 1, 204, 0.001 * (hundredth + 1), 1))
    assert only(monitor)["p50_s"] == pytest.approx(0.050, rel=0.05)
    assert only(monitor)["p99_s"] == pytest.approx(0.099, rel=0.05)
    clock.advance(30)
    monitor(Delivered(LANE, 1, 204, 5.0, 1))
    assert only(monitor)["p99_s"] == pytest.approx(0.1, rel=0.05)
    clock.advance(31)
    assert only(monitor)["p50_s"] == pytest.approx(5.0, rel=0.05)
    clock.advance(30)
    assert (only(monitor)["p50_s"], only(monitor)["p99_s"]) == (None, None)


@pytest.mark.parametrize("elapsed_s", [0.0, 1e-9, 1e-4, 0.00011, 0.5, 3600.0])
def test_a_quantile_is_near_what_was_counted(elapsed_s: float) -> None:
    """From what no clock can tell apart to an hour."""
    found = state.quantile_s(state.Counter([state.bucket_of(elapsed_s)]), 0.5)
    assert found == pytest.approx(max(elapsed_s, 1e-4), rel=0.041)


def test_the_series_has_a_row_for_each_second(monitor: Monitor, clock: ManualClock) -> None:
    """Rates are by the time that has really gone by; the last ten minutes are kept."""
    monitor.sample(100, 7)  # what was there before is no rate
    assert monitor.as_dict()["series"] == []
    monitor(Delivered(LANE, 40, 204, 0.1, 1))
    clock.advance(2.0)
    monitor.sample(130, 5)
    (row,) = monitor.as_dict()["series"]
    assert dict(zip(state.SERIES, row, strict=True)) == {
        "at": clock.time(), "accepted_per_s": 15.0, "delivered_per_s": 20.0, "queued": 5,
        "p50_s": pytest.approx(0.1, rel=0.05), "p99_s": pytest.approx(0.1, rel=0.05),
    }  # fmt: skip
    clock.advance(1.0)
    monitor.sample(20, 0)  # a folder that vanished
    assert monitor.as_dict()["series"][-1][1:] == [0.0, 0.0, 0, None, None]
    monitor.sample(20, 0)  # no time went by
    assert len(monitor.as_dict()["series"]) == 2
    for _ in range(700):
        clock.advance(1.0)
        monitor.sample(20, 0)
    assert len(monitor.as_dict()["series"]) == state.SERIES_ROWS


def test_what_happened_is_told_once_a_minute_with_a_count(monitor: Monitor, clock: ManualClock) -> None:
    """The newest last, and no more than fit on a page."""
    for _ in range(3):
        monitor(Refused("queue_full", 2))
        monitor(Dropped("overflow", 5, "made room"))
    monitor(Damaged("/j/bad/x", 3, 17, "checksum"))
    monitor(Trouble("a full disk", "28"))
    rows = monitor.as_dict()["happened"]
    assert [(row["what"], row["reason"], row["times"], row["events"]) for row in rows] == [
        ("refused", "queue_full", 3, 6), ("dropped", "overflow", 3, 15), ("damaged", "checksum", 1, 0),
        ("trouble", "a full disk", 1, 0),
    ]  # fmt: skip
    clock.advance(61)
    monitor(Dropped("overflow", 1))
    assert [row["events"] for row in monitor.as_dict()["happened"] if row["what"] == "dropped"] == [15, 1]
    for number in range(100):
        monitor(Trouble(f"trouble {number}", ""))
    assert len(monitor.as_dict()["happened"]) == state.HAPPENED_ROWS


def test_endpoints_are_bounded(monitor: Monitor) -> None:
    """A journal with ever new endpoints fills no memory."""
    for number in range(state.ENDPOINTS_MAX + 5):
        monitor(Delivered(f"http://127.0.0.1/{number:04}", 1, 204, 0.1, 1))
    found = [one["endpoint"] for one in monitor.as_dict()["endpoints"]]
    assert (len(found), found[0]) == (state.ENDPOINTS_MAX, "http://127.0.0.1/0005")


def test_many_threads_lose_no_count(monitor: Monitor) -> None:
    """One sender for each journal, each on its own thread."""

    def deliver() -> None:
        for _ in range(500):
            monitor(Delivered(LANE, 1, 204, 0.1, 1))
            monitor.as_dict()

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert only(monitor)["delivered"] == 2000


def test_the_state_is_written_privately_and_read_back(tmp_path: Path, monitor: Monitor) -> None:
    """In one piece: no half of it is ever seen."""
    assert state.read_state(str(tmp_path)) is None
    monitor(Delivered(LANE, 1, 204, 0.1, 1))
    state.write_state(str(tmp_path), {"pid": 1, **monitor.as_dict()})
    assert state.read_state(str(tmp_path)) == json.loads(json.dumps({"version": 1, "pid": 1, **monitor.as_dict()}))
    state.write_state(str(tmp_path), {"pid": 2})
    assert state.read_state(str(tmp_path)) == {"version": 1, "pid": 2}
    assert os.stat(tmp_path / "state.json").st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["state.json"]


@pytest.mark.parametrize("written", [b"", b"{", b"[]", b"3", b'{"version":2}', b"\xff"])
def test_what_is_no_state_is_none(tmp_path: Path, written: bytes) -> None:
    """A page of this release beside a main process of another one shows nothing rather than something wrong."""
    (tmp_path / "state.json").write_bytes(written)
    assert state.read_state(str(tmp_path)) is None


def test_a_folders_part_has_the_sum_and_what_needs_a_person(tmp_path: Path) -> None:
    """Plain values, ready for JSON."""
    queue = JournalQueue(tmp_path / "j", adopt="never")
    queue.put([event(1), event(2)])
    (tmp_path / "j" / "bad" / "x.bad").write_bytes(b"x")
    found = state.journal_as_dict(JournalView(tmp_path / "j").status(), durability="os", bytes_max=5, in_flight=1)
    queue.close()
    assert json.loads(json.dumps(found)) == found
    assert [found[name] for name in ("accepted", "queued", "in_flight", "closes", "durability", "bytes_max")] == [
        2, 2, 1, True, "os", 5,
    ]  # fmt: skip
    assert "1 damaged place set aside" in found["needs"][0]
