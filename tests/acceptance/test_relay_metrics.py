"""``/metrics`` of a whole relay: whichever process answers shows the sum of all, over the death of any of them."""

import os
import signal
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventpost.testing import Collector, Reply
from relay_support import Relay, Wire, ask, batch, request, wait_for


def metrics(port):
    """Return what is shown, by name and labels."""
    found = ask(port, path="/metrics", method="GET")
    assert found.status == 200
    assert found.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(found.body.decode())
    return {
        (sample.name.removeprefix("eventpost_"), *sorted(sample.labels.items())): sample.value
        for family in families for sample in family.samples
    }  # fmt: skip


def total(samples, name, **labels):
    """Return the sum of the samples of a name that have these labels."""
    return sum(value for key, value in samples.items() if key[0] == name and set(labels.items()) <= set(key[1:]))


def test_two_workers_show_the_sum_of_all_whoever_answers(tmp_path):
    """Each of many connections, and so both workers, tell the same; what was taken is what was delivered or is dead."""
    with (
        Collector(lambda one: Reply(400 if b'"-bad"' in one.body else 204)) as up,
        Relay(tmp_path / "j", "--workers", "2", endpoint=up.url) as relay,
    ):
        for number in range(60):
            assert ask(relay.port, batch(number, revision="-bad" if number % 10 == 0 else "1")).status == 204
        assert ask(relay.port, b"no").status == 400
        assert ask(relay.port, b"{}").status == 400
        url, told = up.url, {"accepted_events_total": 60, "refused_requests_total": 2, "dead_events_total": 6}
        told |= {"journal_accepted_events_total": 60, "journal_queued_events": 0}

        def all_told():
            found = metrics(relay.port)
            return all(total(found, name) == events for name, events in told.items()) and found

        first = wait_for(all_told)
        for _ in range(20):
            found = metrics(relay.port)
            assert total(found, "accepted_events_total", endpoint=url, project="2") == 60
            assert total(found, "accepted_bytes_total") == sum(len(batch(one, revision="1")) for one in range(60)) + 18
            assert total(found, "accept_seconds_count", endpoint=url) == 60
            assert total(found, "refused_requests_total", reason="not_json") == 1
            assert total(found, "refused_requests_total", reason="not_a_batch") == 1
            assert total(found, "delivered_events_total", endpoint=url) == 54
            assert total(found, "deliver_seconds_count", endpoint=url) == 54
            assert total(found, "dead_events_total", endpoint=url, reason="http_400") == 6
        assert total(first, "journal_accepted_events_total") == 60
        assert total(first, "journal_delivered_events_total") == 54
        assert total(first, "journal_dead_events") == 6
        assert total(first, "journal_closes") == 1
        assert total(first, "workers") == 2
        assert first["breaker_state", ("endpoint", url), ("state", "closed")] == 1


@pytest.mark.parametrize("options", [(), ("--merge",)])
def test_by_project(tmp_path, options):
    """Accepted, delivered and dead by the project that a batch names; what does not fit the schema is counted."""
    with (
        Collector(lambda one: Reply(400 if b'"2-bad"' in one.body else 204)) as up,
        Relay(tmp_path / "j", *options, endpoint=up.url) as relay,
    ):
        for number, project in enumerate(["1", "1", "2-bad", "<none>"]):
            assert ask(relay.port, batch(number, project_id=project)).status == 204
        assert ask(relay.port, batch(9, project_id="1", revision=9)).status == 204
        told = {"accepted_events_total": 5, "delivered_events_total": 4, "dead_events_total": 1}

        def all_told():
            now = metrics(relay.port)
            return all(total(now, name) == events for name, events in told.items()) and now

        found = wait_for(all_told)
        for name, events in {
            "accepted_events_total": 3, "delivered_events_total": 3, "examined_events_total": 3, "unfit_events_total": 1
        }.items():  # fmt: skip
            assert total(found, name, endpoint=up.url, project="1") == events
        assert total(found, "dead_events_total", endpoint=up.url, project="2-bad", reason="http_400") == 1
        assert total(found, "delivered_events_total", project="other") == 1
        assert total(found, "unfit_events_total") == 1


def test_counters_outlive_the_worker_that_counted(tmp_path):
    """A killed worker's counts stay, its successor's are added; how often one took its place is told."""
    with Relay(tmp_path / "j") as relay:
        for number in range(10):
            assert ask(relay.port, batch(number)).status == 204
        wait_for(lambda: total(metrics(relay.port), "accepted_events_total") == 10)
        (worker,) = relay.workers
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: relay.workers and relay.workers != [worker])
        assert ask(relay.port, batch(11)).status == 204
        found = wait_for(lambda: (now := metrics(relay.port)) and total(now, "worker_restarts_total") == 1 and now)
        wait_for(lambda: total(metrics(relay.port), "accepted_events_total") == 11)
        assert total(found, "workers") == 1


def test_an_outage_is_seen(tmp_path):
    """Depth and age grow, the breaker is not closed, and what went back to the queue is counted by its reason."""
    with Relay(tmp_path / "j") as relay:
        for number in range(5):
            assert ask(relay.port, batch(number)).status == 204
        found = wait_for(lambda: (now := metrics(relay.port)) and total(now, "journal_oldest_seconds") >= 1 and now)
        assert total(found, "queue_events") == 5
        assert total(found, "retried_events_total", reason="connect") >= 1
        wait_for(lambda: total(metrics(relay.port), "breaker_state", state="closed") == 0)
        assert total(metrics(relay.port), "breaker_state") == 1


def test_metrics_are_asked_for_while_events_come_in(tmp_path):
    """A scrape reads what processes write to just now, and is whole each time."""
    with Relay(tmp_path / "j", "--workers", "2") as relay, Wire(relay.port) as wire:
        deadline, number = time.monotonic() + 3, 0
        while time.monotonic() < deadline:
            number += 1
            assert wire.send(request(batch(number))).answer().status == 204
            if number % 20 == 0:
                assert total(metrics(relay.port), "workers") in {0, 2}
        wait_for(lambda: total(metrics(relay.port), "accepted_events_total") == number)
