"""The relay as processes: killed in any of them while clients post, stopped in order, restarted; each 204 is kept."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from eventpost import JournalQueue
from eventpost.queues.journal import inspect
from eventpost.testing import Collector
from eventpost.testing.collector import Reply
from relay_support import (
    NOWHERE,
    SRC,
    Relay,
    Wire,
    ask,
    batch,
    bodies,
    clients,
    free_port,
    request,
    uuid_of,
    uuids,
    wait_for,
)

CLIENTS = 4


def everything(taken: list[int]) -> set[str]:
    """Return the uuids of what was answered 204."""
    return {uuid_of(number) for number in taken}


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_workers_killed_while_clients_post(tmp_path, durability):
    """Kill -9 of workers, again and again: another one takes each place, and every 204 is in the folder."""
    stop = threading.Event()
    with Relay(tmp_path / "j", "--workers", "2", "--durability", durability) as relay:
        with clients(relay.port, CLIENTS, batch, stop) as taken:
            for _ in range(4):
                before = len(taken)
                wait_for(lambda taken=taken, before=before: len(taken) > before + 50)
                victim = relay.workers[0]
                os.kill(victim, signal.SIGKILL)
                wait_for(lambda victim=victim: len(relay.workers) == 2 and victim not in relay.workers)
            before = len(taken)
            wait_for(lambda: len(taken) > before + 50)
        code, out, err = relay.stop()
    assert code == 0, err
    assert "Traceback" not in err
    assert len(taken) > 250
    assert everything(taken) <= uuids(bodies(tmp_path / "j"))
    assert f"{inspect.folder_status(tmp_path / 'j').queued:,} stay in" in out


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_the_main_process_killed_while_clients_post(tmp_path, durability):
    """Kill -9 of the main process: the workers end by themselves, every 204 is in the folder, a new relay goes on."""
    stop = threading.Event()
    port = free_port()
    first = Relay(tmp_path / "j", "--workers", "2", "--durability", durability, port=port)
    with first as relay, clients(port, CLIENTS, batch, stop) as taken:
        wait_for(lambda: len(taken) > 100)
        workers = relay.workers
        relay.kill()
        with Relay(tmp_path / "j", "--durability", durability, port=port) as successor:
            before = len(taken)
            wait_for(lambda: len(taken) > before + 50)
            stop.set()
            wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
            code, _, err = successor.stop()
    assert code == 0, err
    assert everything(taken) <= uuids(bodies(tmp_path / "j"))


def test_everything_killed_and_delivered_later(tmp_path):
    """What a relay took before all its processes were killed at once is delivered by the next one, once or more."""
    stop = threading.Event()
    with Relay(tmp_path / "j", "--workers", "2") as relay, clients(relay.port, CLIENTS, batch, stop) as taken:
        wait_for(lambda: len(taken) > 200)
        for pid in [*relay.workers, relay.process.pid]:
            os.kill(pid, signal.SIGKILL)
        relay.process.wait(10)
    with Collector() as endpoint, Relay(tmp_path / "j", endpoint=endpoint.url) as successor:
        wait_for(lambda: everything(taken) <= set(endpoint.uuids))
        code, out, _ = successor.stop()
    assert code == 0
    assert "stay in" not in out
    status = inspect.folder_status(tmp_path / "j")
    assert (status.queued, status.dead, status.closes) == (0, 0, True)


def breaker(relay: Relay, url: str) -> str:
    """Return how the relay stands to an endpoint."""
    shown = ask(relay.port, path="/metrics", method="GET").body.decode()
    return "".join(re.findall(rf'eventpost_breaker_state{{endpoint="{re.escape(url)}",state="(\w+)"}} 1.0', shown))


class TestStopping:
    """SIGTERM and SIGINT."""

    def test_in_order(self, tmp_path):
        """It stops accepting, answers what it accepted, delivers what is queued, and says how the sum stands."""
        stop = threading.Event()
        with Collector() as endpoint, Relay(tmp_path / "j", "--workers", "2", endpoint=endpoint.url) as relay:
            with clients(relay.port, CLIENTS, batch, stop) as taken:
                wait_for(lambda: len(taken) > 200)
                code, out, err = relay.stop()
            assert (code, err) == (0, "")
            assert everything(taken) <= set(endpoint.uuids)
            delivered = len(endpoint.uuids)
        assert out.splitlines() == [
            f"stopped: accepted {delivered:,} = delivered {delivered:,} + queued 0 + dead 0 + dropped 0"
        ]

    def test_under_way(self, tmp_path):
        """A request whose body is still on its way when the signal comes is answered, and its connection ends."""
        body = batch(5)
        with Relay(tmp_path / "j") as relay, Wire(relay.port) as slow, Wire(relay.port) as idle:
            assert idle.send(request(batch(4))).answer().status == 204
            slow.send(request(body)[:-20])
            time.sleep(0.2)
            relay.process.send_signal(signal.SIGTERM)
            assert idle.ends()
            slow.send(body[-20:])
            answer = slow.answer()
            assert (answer.status, answer.headers["connection"]) == (204, "close")
            relay.stop()
        assert uuids(bodies(tmp_path / "j")) == {uuid_of(4), uuid_of(5)}

    def test_a_sender_that_stalls_is_not_waited_for(self, tmp_path):
        """The wait for what is under way ends at ``--stop-timeout``."""
        with Relay(tmp_path / "j", "--stop-timeout", "1") as relay, Wire(relay.port) as slow:
            slow.send(request(batch())[:-20])
            time.sleep(0.2)
            began = time.monotonic()
            code, _, err = relay.stop()
            assert code == 0
            assert 0.9 < time.monotonic() - began < 6
            assert "1 requests were not answered" in err
            assert slow.ends()

    def test_the_drain_has_a_deadline(self, tmp_path):
        """An endpoint that hangs is given ``--drain-timeout``; the rest stays on the disk, and it says so."""
        hangs = Collector(answer=lambda _: Reply(hang=True))
        with hangs, Relay(tmp_path / "j", "--drain-timeout", "1", endpoint=hangs.url) as relay:
            assert ask(relay.port, batch()).status == 204
            began = time.monotonic()
            code, out, _ = relay.stop()
            assert time.monotonic() - began < 8
        assert code == 0
        assert "queued 1" in out
        assert f"1 stay in {tmp_path / 'j'}" in out
        assert inspect.folder_status(tmp_path / "j").queued == 1

    def test_an_endpoint_that_is_down_is_not_waited_for(self, tmp_path):
        """Nobody waits for an endpoint that is left alone anyway."""
        with Relay(tmp_path / "j", "--drain-timeout", "60") as relay:
            for number in range(20):
                assert ask(relay.port, batch(number)).status == 204
            wait_for(lambda: breaker(relay, NOWHERE) == "open")
            began = time.monotonic()
            code, _, _ = relay.stop()
        assert code == 0
        assert time.monotonic() - began < 10

    def test_a_second_signal_ends_the_waiting(self, tmp_path):
        """Who asks twice does not want to wait for the drain."""
        hangs = Collector(answer=lambda _: Reply(hang=True))
        with hangs, Relay(tmp_path / "j", "--drain-timeout", "60", endpoint=hangs.url) as relay:
            assert ask(relay.port, batch()).status == 204
            relay.process.send_signal(signal.SIGINT)
            wait_for(lambda: not relay.workers)
            time.sleep(0.5)
            began = time.monotonic()
            code, out, _ = relay.stop()
            assert time.monotonic() - began < 8
        assert code == 0
        assert "1 stay in" in out


class TestStarting:
    """What stops a relay from starting, with exit code 2 and a line that says what to do."""

    def fails(self, *options: str) -> str:
        """Return what a relay says that does not start."""
        with Relay(*options) as relay:
            out, err = relay.process.communicate(timeout=30)
        assert relay.process.returncode == 2, (out, err)
        return err

    def test_a_taken_port(self, tmp_path):
        """A port that somebody else listens on."""
        with Relay(tmp_path / "one") as first, Relay(tmp_path / "two", port=first.port) as second:
            _, err = second.process.communicate(timeout=60)
            assert second.process.returncode == 2
        assert "in use" in err

    def test_a_folder_that_cannot_be_used(self, tmp_path):
        """A journal that is a file."""
        (tmp_path / "file").write_text("")
        assert "is a file" in self.fails(tmp_path / "file")

    def test_a_journal_of_nobody(self, tmp_path):
        """A further journal that is none is a wrong path, not an empty folder."""
        err = self.fails(tmp_path / "j", "--journal", str(tmp_path / "wrong"))
        assert "no journal here" in err
        assert not (tmp_path / "wrong").exists()

    def test_a_group_of_nobody(self, tmp_path):
        """A group that does not exist."""
        assert "no such group" in self.fails(tmp_path / "j", "--group", "of-nobody-at-all")

    def test_beyond_loopback(self, tmp_path):
        """Listening for everybody without saying who may send."""
        err = self.fails(tmp_path / "j", "--listen", "0.0.0.0:0")
        assert "relay-token" in err

    def test_a_certificate_that_is_none(self, tmp_path):
        """A file that holds no certificate."""
        (tmp_path / "cert").write_text("none")
        assert "certificate" in self.fails(tmp_path / "j", "--tls-cert", str(tmp_path / "cert"))


def test_it_sends_what_applications_stored(tmp_path):
    """A further ``--journal`` is an application's: what it stores is delivered, except to URLs that are not allowed."""
    with Collector() as endpoint, Collector() as elsewhere:
        store = (
            "import sys; from eventpost import EventDispatcher, JournalQueue, LogEvent\n"
            "d = EventDispatcher(JournalQueue(sys.argv[1]), sender='none')\n"
            "for url in sys.argv[2:]:\n"
            "    visitor = {'visitor_id': 'v', 'snapshots': [{'events': [{'uuid': url}]}]}\n"
            "    assert d.dispatch_event(LogEvent(url, {'visitors': [visitor]}))\n"
        )
        environ = {**os.environ, "PYTHONPATH": str(SRC)}
        command = [sys.executable, "-c", store, str(tmp_path / "app"), endpoint.url, elsewhere.url]
        subprocess.run(command, check=True, env=environ, timeout=30)
        options = ("--journal", str(tmp_path / "app"), "--allow-endpoint", endpoint.url, "--drain-timeout", "1")
        with Relay(tmp_path / "own", *options, endpoint="") as relay:
            wait_for(lambda: endpoint.uuids)
            wait_for(lambda: breaker(relay, elsewhere.url) == "held")
            code, out, err = relay.stop()
        assert code == 0
        assert not elsewhere.requests
        assert "is not on the allow-list" in err
        assert f"1 stay in {tmp_path / 'app'}" in out


def test_an_applications_folder_that_goes_closes_no_door(tmp_path):
    """A worker that is started again takes events also where an application's journal is gone by then."""
    JournalQueue(tmp_path / "app").close()
    with Relay(tmp_path / "own", "--journal", str(tmp_path / "app")) as relay:
        (tmp_path / "app").rename(tmp_path / "away")
        victim = relay.workers[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: relay.workers and victim not in relay.workers)
        assert ask(relay.port, batch()).status == 204
        assert ask(relay.port, path="/", method="GET").status == 200
        relay.stop()


def test_nowhere_is_left_alone(tmp_path):
    """Events are taken and kept while the endpoint is down; the relay stays ready."""
    with Relay(tmp_path / "j", "--drain-timeout", "0", endpoint=NOWHERE) as relay:
        for number in range(30):
            assert ask(relay.port, batch(number)).status == 204
        assert ask(relay.port, path="/readyz", method="GET").status == 200
        relay.stop()
    assert len(bodies(tmp_path / "j")) == 30


def test_a_page_that_listens_holds_up_no_stop(tmp_path):
    """A stop does not wait for a browser that goes on listening for news, and complains of nothing."""
    with Relay(tmp_path / "j", "--prefix", "/relay") as relay, Wire(relay.port) as wire:
        shown = ask(relay.port, path="/relay/", method="GET")
        assert (shown.status, b"<script>" in shown.body) == (200, False)
        wire.send(request(method="GET", path="/relay/live"))
        assert b"text/event-stream" in wire.socket.recv(1000)
        began = time.monotonic()
        code, _, err = relay.stop()
        assert (code, err) == (0, "")
        assert time.monotonic() - began < 4
