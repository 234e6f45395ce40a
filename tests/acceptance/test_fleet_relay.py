"""Relays on a queue that machines share, in processes of their own, on a real Valkey."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventpost.event import Envelope, Event
from eventpost.queues.place import SharedQueue
from eventpost.queues.protocol import Answer
from eventpost.queues.view import Status
from eventpost.testing import Collector
from eventpost.testing.collector import Reply
from page_support import Endpoint, Visit, chromium, conversion, post
from redis_support import RedisServer, a_valkey
from relay_support import Relay, ask, batch, clients, uuid_of, wait_for

NUMBERS = itertools.count()
QUICK = {"EVENTPOST_QUEUE_LEASE_S": "3", "EVENTPOST_TIMEOUT_S": "1", "EVENTPOST_LINGER_S": "0.1"}
SAFE = {"appendonly": "yes", "appendfsync": "always"}
SLOWEST_NO_S = 3.0


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    """One Valkey that syncs each write, which stays up."""
    with a_valkey(**SAFE) as server:
        yield server


@pytest.fixture
def name() -> str:
    """Return a queue's name that nobody else has."""
    return f"relay-{os.getpid()}-{next(NUMBERS)}"


def fleet_relay(server: RedisServer, name: str, *options: str, endpoint: str, **more: Any) -> Relay:
    """Start a relay on a queue."""
    own = ("--queue", server.url, "--queue-name", name, "--durability", "fsync")
    return Relay(None, *own, *options, endpoint=endpoint, **QUICK, **more)


def status(server: RedisServer, name: str) -> Status:
    """Count a queue from outside."""
    view = SharedQueue(server.url, name).view()
    try:
        return view.status()
    finally:
        view.close()


def everything(taken: list[int]) -> set[str]:
    """Return the uuids of what was answered 204."""
    return {uuid_of(number) for number in taken}


def test_two_relays_share_a_queue(valkey: RedisServer, name: str) -> None:
    """What one takes and does not send, the other delivers; both tell the same sum, and the last line does."""
    with (
        Collector() as collector,
        fleet_relay(valkey, name, "--no-send", "--workers", "2", endpoint=collector.url) as taking,
        fleet_relay(valkey, name, endpoint=collector.url) as sending,
    ):
        assert f"queue {valkey.url} ({name}), others send" in taking.first_line
        assert f"queue {valkey.url} ({name}), sending to" in sending.first_line
        for number in range(30):
            assert ask(taking.port, batch(number)).status == 204
        wait_for(lambda: len(collector.uuids) == 30)
        wait_for(lambda: status(valkey, name).delivered == 30)
        for relay in (taking, sending):
            found = wait_for(lambda relay=relay: _metrics(relay, "eventpost_journal_delivered_events_total", 30))
            assert f'journal="{valkey.url} ({name})"' in found
            assert ask(relay.port, path="/readyz", method="GET").status == 200
        code, out, err = taking.stop()
        assert (code, err) == (0, "")
        assert out.strip() == "stopped: accepted 30 = delivered 30 + queued 0 + dead 0 + dropped 0"


def _metrics(relay: Relay, name: str, value: float) -> str:
    """Return the line of a metric once it has a value, else nothing."""
    text = ask(relay.port, path="/metrics", method="GET").body.decode()
    lines = [line for line in text.splitlines() if line.startswith(name + "{")]
    return lines[0] if lines and float(lines[0].rpartition(" ")[2]) == value else ""


def test_a_worker_and_then_the_relay_are_killed(valkey: RedisServer, name: str) -> None:
    """Every 204 is in the queue: a worker has a successor, and the other relay goes on with what a dead one held."""
    stop = threading.Event()
    with Collector() as collector, fleet_relay(valkey, name, "--workers", "2", endpoint=collector.url) as relay:
        with clients(relay.port, 4, batch, stop) as taken:
            wait_for(lambda: len(taken) > 50)
            victim = relay.workers[0]
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: len(relay.workers) == 2 and victim not in relay.workers)
            before = len(taken)
            wait_for(lambda: len(taken) > before + 50)
            for pid in [*relay.workers, relay.process.pid]:
                os.kill(pid, signal.SIGKILL)
            relay.process.wait(10)
        with fleet_relay(valkey, name, endpoint=collector.url) as successor:
            wait_for(lambda: everything(taken) <= set(collector.uuids), 30)
            wait_for(lambda: not status(valkey, name).queued, 30)
            code, _, err = successor.stop()
    assert (code, err) == (0, "")
    assert status(valkey, name).closes


def test_the_server_is_away(name: str) -> None:
    """At once a no with its reason, and unready; back again it takes and delivers, and nothing accepted is lost."""
    with a_valkey(**SAFE) as server, Collector() as collector:
        collector.answer = lambda _: Reply(503)
        with fleet_relay(server, name, endpoint=collector.url) as relay:
            for number in range(10):
                assert ask(relay.port, batch(number)).status == 204
            server.kill()
            began = time.monotonic()
            said = ask(relay.port, batch(100))
            assert (said.status, said.reason) == (503, "redis_unavailable")
            assert "retry-after" in said.headers
            assert time.monotonic() - began < SLOWEST_NO_S
            ready = ask(relay.port, path="/readyz", method="GET")
            assert (ready.status, ready.reason) == (503, "redis_unavailable")
            collector.answer = lambda _: Reply(204)
            server.start()
            wait_for(lambda: ask(relay.port, batch(101)).status == 204)
            wanted = {uuid_of(number) for number in (*range(10), 101)}
            wait_for(lambda: wanted <= set(collector.uuids), 30)
            wait_for(lambda: status(server, name).queued == 0, 30)
            code, out, err = relay.stop()
            assert code == 0
            assert "Traceback" not in err
            assert "queued 0 + dead 0 + dropped 0" in out


def test_a_stop_while_the_server_is_away(name: str) -> None:
    """It ends in order and in time, and says that nobody can count."""
    with a_valkey(**SAFE) as server, fleet_relay(server, name, endpoint="http://127.0.0.1:9/v1/events") as relay:
        assert ask(relay.port, batch(1)).status == 204
        server.kill()
        began = time.monotonic()
        code, _, err = relay.stop()
        assert time.monotonic() - began < 20
    assert code == 0
    assert "the queue cannot be counted" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("sends", [True, False])
def test_a_spill_takes_what_comes_meanwhile(name: str, tmp_path: Path, sends: bool) -> None:
    """204 also while the server is away, ready all the time; the page tells what waits here; then it flows to it."""
    with a_valkey(**SAFE) as server, Collector() as collector:
        options = ("--spill", str(tmp_path / "spill"), *([] if sends else ["--no-send"]))
        with fleet_relay(server, name, *options, endpoint=collector.url) as relay:
            assert ask(relay.port, batch(1)).status == 204
            server.kill()
            for number in range(2, 22):
                assert ask(relay.port, batch(number)).status == 204
            assert ask(relay.port, path="/readyz", method="GET").status == 200
            text = wait_for(lambda: _metrics(relay, "eventpost_journal_queued_events", 20))
            assert name in text
            server.start()
            if sends:
                wait_for(lambda: everything([*range(1, 22)]) <= set(collector.uuids), 40)
            else:
                wait_for(lambda: status(server, name).queued == 21, 40)
            code, _, err = relay.stop()
    assert code == 0
    assert "Traceback" not in err


@pytest.mark.parametrize("sends", [True, False])
def test_what_a_stopped_relay_had_spilled_goes_on_with_the_next_one(name: str, tmp_path: Path, sends: bool) -> None:
    """It ends in time while the server is away, says what stays and where; the next relay moves it, traffic or not."""
    with a_valkey(**SAFE) as server, Collector() as collector:
        options = ("--spill", str(tmp_path / "spill"), *([] if sends else ["--no-send"]))
        with fleet_relay(server, name, *options, endpoint=collector.url) as relay:
            server.kill()
            for number in range(5):
                assert ask(relay.port, batch(number)).status == 204
            began = time.monotonic()
            code, _, err = relay.stop()
            assert time.monotonic() - began < 20
        assert code == 0
        assert f"5 of them on this machine, in {tmp_path / 'spill'}" in err
        server.start()
        with fleet_relay(server, name, *options, endpoint=collector.url):
            if sends:
                wait_for(lambda: everything([*range(5)]) <= set(collector.uuids))
            else:
                wait_for(lambda: status(server, name).queued == 5)


def test_a_server_that_does_not_keep_what_is_asked(name: str) -> None:
    """The relay says so where somebody looks; one that evicts keys it does not use at all."""
    with a_valkey() as server, fleet_relay(server, name, endpoint="http://127.0.0.1:9/v1/events") as relay:
        wait_for(lambda: _metrics(relay, "eventpost_journal_needs", 1))
        assert ask(relay.port, batch(1)).status == 204
        code, _, err = relay.stop()
        assert (code, "durability 'fsync' was asked for, 'os' is kept" in err) == (0, True)
    with a_valkey(maxmemory="64mb", maxmemory_policy="allkeys-lru") as server:
        refused = fleet_relay(server, name, endpoint="http://127.0.0.1:9/v1/events")
        with refused:
            code, _, err = refused.stop()
    assert code == 2
    assert "maxmemory-policy noeviction" in err


class Caller:
    """A program that plays a browser: it has the page's cookie and token."""

    def __init__(self, port: int) -> None:
        self.port = port
        page = ask(port, b"", "Accept: text/html", path="/", method="GET")
        self.cookie = page.headers["set-cookie"].partition(";")[0]
        found = re.search(rb'data-token="(\w+)"', page.body)
        assert found is not None
        self.token = found[1].decode()

    def change(self, action: str, value: Any) -> Any:
        """Ask for a change as the page does."""
        lines = [
            f"Host: 127.0.0.1:{self.port}", "Sec-Fetch-Site: same-origin", f"X-CSRF-Token: {self.token}",
            f"Cookie: {self.cookie}", "Content-Type: application/json",
        ]  # fmt: skip
        return ask(self.port, json.dumps(value).encode(), *lines, path=f"/letters/{action}").json()

    def get(self, path: str) -> Any:
        """Ask for something."""
        return ask(self.port, path=path, method="GET").json()


def bury(shared: SharedQueue, url: str) -> None:
    """Have 25 events die."""
    queue = shared.open()
    queue.put([Event(Envelope(url), conversion(number, f"broken_{number % 2}")) for number in range(25)])
    leases = wait_for(lambda: queue.claim(url, 25, 1 << 20))
    queue.bury(leases, "http_400", Answer(400, "unknown entity of visitor-7"))
    queue.close()


def test_dead_letters_from_the_page(valkey: RedisServer, name: str) -> None:
    """Listed the newest first, a page at a time; retried and discarded by id and by filter; the sum follows."""
    url = "http://127.0.0.1:9/v1/events"
    bury(SharedQueue(valkey.url, name), url)
    with Endpoint() as endpoint, fleet_relay(valkey, name, endpoint=endpoint.collector.url) as relay:
        caller = Caller(relay.port)
        first = caller.get("/letters")
        second = caller.get(f"/letters?before={first['more']}")
        rows = first["rows"] + second["rows"]
        assert (len(first["rows"]), len(rows), second["more"]) == (20, 25, "")
        assert len({row["id"] for row in rows}) == 25
        assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
        assert all(row["visitor"] == "****" for row in rows)
        letter = caller.get(f"/letter?id={rows[3]['id']}")
        assert (letter["status"], letter["reason"]) == (400, "http_400")
        assert "visitor-7" not in json.dumps(letter)
        job = caller.change("retry", {"ids": [row["id"] for row in rows[:2]]})["job"]
        assert (job["state"], job["changed"]) == ("done", 2)
        assert caller.change("retry", {"ids": ["0/1:x-1"]})["reason"] == "id"
        assert caller.get("/letters?before=0/x")["reason"] == "id"
        assert caller.get("/event?id=0/1:lane:1-1:1")["reason"] == "gone"
        job = caller.change("discard", {"matching": {"text": "broken_1", "reason": ""}})["job"]
        assert job["state"] == "done"
        wait_for(lambda: status(valkey, name).delivered == 2)
        found = status(valkey, name)
        assert found.dead == 25 - 2 - job["changed"]
        assert found.dropped == {"dead_discarded": job["changed"]}
        assert found.closes


def test_the_page_shows_the_fleet(valkey: RedisServer, name: str) -> None:
    """In a browser: the sum, the events, who holds what, and the parts of the queue."""
    with (
        chromium() as browser,
        Endpoint() as endpoint,
        fleet_relay(valkey, name, endpoint=endpoint.collector.url) as relay,
        Visit(browser, f"http://127.0.0.1:{relay.port}") as visit,
    ):
        visit.go()
        endpoint.bad = {b"broken"}
        post(relay.port, conversion(1, "broken"))
        visit.wait_for_number("dead", 1)
        visit.wait_for_rows("#dead-rows", 1)
        endpoint.down = True
        post(relay.port, *(conversion(number, "bought") for number in range(2, 5)))
        rows = "[...document.querySelectorAll('#events-rows tr')]"  # the first one may have died between two looks
        visit.wait(f"{rows}.filter((one) => one.textContent.includes('bought')).length === 3")
        visit.wait(
            "[...document.querySelectorAll('.senders td:nth-child(2)')].some((one) => Number(one.textContent) > 0)"
        )
        assert visit.text("#journals-h") == "Queue"
        assert name in visit.text(".journal h3")
        visit.wait("document.querySelectorAll('.parts tbody tr').length === 4")
        assert "slowest" in visit.page.evaluate(
            "getComputedStyle(document.querySelector('.senders tr[data-level=watch] td:last-child'), '::after').content"
        )
        visit.page.locator("#dead-rows .open").first.click()
        visit.wait_for_text("#panel-body", "unknown entity")
