"""The command line on a queue that machines share, against a real Valkey."""

import itertools
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import trustme

from eventpost.event import Envelope, Event
from eventpost.queues.protocol import Answer
from eventpost.testing import Collector, Reply
from redis_support import a_redis, a_valkey, free_port
from relay_support import wait_for as until
from support import ALL, missing

NUMBERS = itertools.count()
SECRET = "a-visitor-nobody-should-see"
PASSWORD = "a-password-nobody-should-see"


@pytest.fixture(scope="module")
def server():
    """One Valkey with a password, for all tests here."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    with a_valkey(requirepass=PASSWORD) as running:
        yield running


@pytest.fixture
def queue(server, monkeypatch):
    """Return a queue of a fresh name, which the environment names, too."""
    from eventpost import RedisStreamsQueue

    name = f"cli-{os.getpid()}-{next(NUMBERS)}"
    made = RedisStreamsQueue(server.url, name=name, password=PASSWORD)
    monkeypatch.setenv("EVENTPOST_QUEUE", server.url)
    monkeypatch.setenv("EVENTPOST_QUEUE_NAME", name)
    monkeypatch.setenv("EVENTPOST_QUEUE_PASSWORD", PASSWORD)
    yield made
    made.close()


def body(number, key="bought"):
    """Return a batch's body, with a visitor that nobody should see."""
    event = {"uuid": f"u-{number}", "timestamp": 1, "key": key, "tags": {"link": f"/users/{SECRET}"}}
    visitor = {"visitor_id": SECRET, "attributes": [], "snapshots": [{"decisions": [], "events": [event]}]}
    return json.dumps({"account_id": "1", "visitors": [visitor]}).encode()


def put(queue, url, *numbers, key="bought"):
    """Put events, together."""
    queue.put([Event(Envelope(url), body(number, key)) for number in numbers])


def bury(queue, url, *numbers):
    """Have events die."""
    put(queue, url, *numbers)
    leases = until(lambda: queue.claim(url, len(numbers), ALL))
    queue.bury(leases, "http_400", Answer(400, f"no such user: {SECRET}"))


URL = "http://127.0.0.1:9/v1/events"


@pytest.fixture
def eventpost(monkeypatch, capsys):
    """Return what runs a command in this process: its exit code, what it printed, what it complained of."""
    from eventpost.cli.app import run

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["eventpost", *map(str, arguments)])
        capsys.readouterr()
        code = run()
        said = capsys.readouterr()
        assert PASSWORD not in said.out + said.err
        return code, said.out, said.err

    return call


def test_status_says_who_holds_what(eventpost, queue):
    """The sum of all processes, what waits and what is in hand, part by part, who is slowest, what the server keeps."""
    put(queue, URL, 1, 2, 3)
    assert len(until(lambda: queue.claim(URL, 2, ALL))) == 2
    code, out, _ = eventpost("status")
    assert code == 0
    assert "accepted 3 = delivered 0 + queued 3 + dead 0 + dropped 0" in out
    assert f"slowest: {queue.writer}, which asked last" in out
    assert "appendonly no" in out
    assert "durability os can be had" in out
    told = json.loads(eventpost("status", "--json")[1])
    assert [told[name] for name in ("accepted", "queued", "in_flight", "closes")] == [3, 3, 3, True]
    assert [(one["name"], one["entries_held"]) for one in told["members"]] == [(queue.writer, 1)]
    assert sum(one["in_flight"] for one in told["shards"]) == 3


def test_tail_shows_what_waits_and_who_has_it(eventpost, queue):
    """The newest last, masked; what is delivered is gone."""
    put(queue, URL, 1)
    put(queue, URL, 2)
    (lease,) = until(lambda: queue.claim(URL, 1, ALL))
    rows = [json.loads(line) for line in eventpost("tail", "--json")[1].splitlines()]
    assert [(one["uuids"], one["state"]) for one in rows] == [("u-1", f"held by {queue.writer}"), ("u-2", "queued")]
    queue.ack([lease])
    code, out, _ = eventpost("tail", "-n", "5")
    assert (code, out.count("u-1"), out.count("u-2"), SECRET in out) == (0, 0, 1, False)
    assert SECRET in eventpost("tail", "--visitor-ids")[1]


def test_dead_letters_are_looked_at_and_put_back(eventpost, queue):
    """List, show, retry one, discard one, export the rest: the sum tells what became of each."""
    bury(queue, URL, 1, 2, 3)
    listed = json.loads(eventpost("dead", "list", "--json")[1])
    assert [(one["uuids"], one["reason"], one["status"]) for one in listed] == [
        (f"u-{number}", "http_400", 400) for number in (1, 2, 3)
    ]  # fmt: skip
    assert SECRET not in json.dumps(listed)
    first, second, third = (one["id"] for one in listed)
    shown = eventpost("dead", "show", first)[1]
    assert "no such user: ****" in shown
    assert eventpost("dead", "retry", first)[1] == "retried 1\n"
    assert eventpost("dead", "discard", second, "--yes")[1] == "discarded 1\n"
    code, _, err = eventpost("dead", "retry", first)
    assert (code, "no dead letter is called" in err) == (2, True)
    exported = [json.loads(line) for line in eventpost("dead", "export", "--visitor-ids")[1].splitlines()]
    assert [(one["id"], one["payload"]) for one in exported] == [(third, body(3).decode())]
    out = eventpost("status")[1]
    assert "accepted 3 = delivered 0 + queued 1 + dead 1 + dropped 1 (dead_discarded 1)" in out
    assert until(lambda: queue.claim(URL, 5, ALL))[0].event.payload == body(1)


def test_purge_says_that_it_does_not_reach_the_queue(eventpost, queue):
    """It erases nothing, says so, and what to do; a script that goes by the exit code does not take it for done."""
    put(queue, URL, 1)
    code, out, err = eventpost("purge", "--visitor", SECRET)
    assert (code, out) == (1, "")
    assert "nothing was erased" in err
    assert SECRET not in err
    assert "queued 1" in eventpost("status")[1]


def test_a_queue_that_nobody_has_made_is_said(eventpost, queue):
    """A name that is written wrong is no empty queue."""
    code, out, _ = eventpost("status", "--queue-name", "nobodys")
    assert code == 1
    assert "there is no queue called nobodys here" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--queue", "http://u:secret@x/"], 2, "must begin with redis://"),
        (["--queue", "redis://u:secret@127.0.0.1:1/"], 1, "does not answer"),
        (["--queue", "redis://x", "--journal", "/nowhere"], 2, "not both"),
        (["--journal", "/nowhere"], 2, "/nowhere"),
        (["--queue", "redis://x", "--queue-name", "two words"], 2, "name must be"),
    ],
)
def test_a_wrong_queue_is_said(eventpost, queue, arguments, code, said):
    """With what to do, and without what could be a password."""
    got, out, err = eventpost("status", *arguments)
    assert (got, out) == (code, "")
    assert said in " ".join(err.split())
    assert "secret" not in err


def test_without_any_queue_the_usage_is_told(eventpost, monkeypatch):
    """Neither an option nor the environment names one."""
    monkeypatch.delenv("EVENTPOST_QUEUE", raising=False)
    code, _, err = eventpost("status")
    assert code == 2
    assert "--queue or EVENTPOST_QUEUE" in " ".join(err.split())


def test_a_password_comes_from_a_file(eventpost, queue, tmp_path, monkeypatch):
    """One line; the right one lets in, a wrong one is said, and so are two sources and no file."""
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("EVENTPOST_QUEUE_PASSWORD_FILE", str(file))
    assert "both set" in " ".join(eventpost("status")[2].split())
    monkeypatch.delenv("EVENTPOST_QUEUE_PASSWORD")
    put(queue, URL, 1)
    assert eventpost("status")[0] == 0
    file.write_text("wrong\n")
    code, _, err = eventpost("status")
    assert (code, "user and password" in err, "wrong" in err.split(":")[0]) == (2, True, False)
    monkeypatch.setenv("EVENTPOST_QUEUE_PASSWORD_FILE", str(tmp_path / "none"))
    code, _, err = eventpost("status")
    assert (code, "none: No such file" in err) == (2, True)


def test_check_says_what_the_server_keeps(eventpost, queue):
    """A durability that it does not keep is bad; less than that is told, with what to do."""
    ask = ("check", "--offline", "--listen", "127.0.0.1:0", "--json")
    code, out, _ = eventpost(*ask, "--durability", "fsync")
    found = {one["what"]: one for one in json.loads(out)}
    assert code == 1
    assert found["durability"]["state"] == "bad"
    assert "appendfsync always" in found["durability"]["remedy"]
    assert found["server"]["detail"].count("valkey") == 1
    assert found["memory"]["state"] == "look"
    code, out, _ = eventpost(*ask)
    assert (code, "restart of the server forgets" in out) == (0, True)


def test_check_refuses_a_server_that_evicts(eventpost):
    """It would forget what it said yes to."""
    with a_valkey(maxmemory="64mb", maxmemory_policy="allkeys-lru") as evicting:
        code, out, _ = eventpost("check", "--offline", "--listen", "127.0.0.1:0", "--queue", evicting.url)
    assert code == 1
    assert "maxmemory-policy noeviction" in " ".join(out.split())


def test_check_refuses_a_replica(eventpost):
    """It can be looked at, and takes nothing."""
    with a_valkey() as master, a_valkey(replicaof=f"127.0.0.1 {master.port}") as replica:
        code, out, _ = eventpost("check", "--offline", "--listen", "127.0.0.1:0", "--json", "--queue", replica.url)
    found = {one["what"]: one for one in json.loads(out)}
    assert (code, found["server"]["state"]) == (1, "bad")
    assert "name its master" in found["server"]["remedy"]
    assert "queue" not in found


def test_check_looks_at_a_password_in_the_command_line(eventpost, server):
    """Every user of the machine can read it there."""
    url = server.url.replace("//", f"//:{PASSWORD}@")
    found = json.loads(eventpost("check", "--offline", "--listen", "127.0.0.1:0", "--json", "--queue", url)[1])
    assert [one["state"] for one in found if one["what"] == "password"] == ["look"]


def sender(*options, **environment):
    """Start a sender on the queue that the environment names."""
    command = [sys.executable, "-m", "eventpost.cli", "send", *options]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


def test_a_sender_empties_the_queue(queue):
    """What others put arrives, and it ends once nothing is left."""
    with Collector() as collector:
        for number in range(20):
            put(queue, collector.url, number)
        with sender("--until-empty", "--timeout", "30") as sending:
            out = sending.communicate(timeout=40)[0]
        assert sending.returncode == 0
        assert collector.uuids.keys() == {f"u-{number}" for number in range(20)}
    assert "adopted 20), delivered 20" in out


def test_a_sender_goes_on_with_what_a_killed_one_held(queue):
    """It waits for the lease of the dead one, and takes its events then: none is lost."""
    quick = {"EVENTPOST_QUEUE_LEASE_S": "2", "EVENTPOST_TIMEOUT_S": "1", "EVENTPOST_LINGER_S": "0.1"}
    with Collector(lambda _: Reply(503)) as collector:
        put(queue, collector.url, *range(10))
        with sender(**quick) as killed:
            until(lambda: collector.requests_total, 30)
            killed.kill()
        collector.answer = lambda _: Reply(204)
        began = time.monotonic()
        with sender("--until-empty", "--timeout", "30", **quick) as sending:
            sending.communicate(timeout=40)
        assert sending.returncode == 0
        assert collector.statuses[204] > 0
        assert queue.stats().delivered == 10
        assert time.monotonic() - began < 25


def test_events_of_an_application_reach_the_queue_by_the_environment(queue):
    """A dispatcher that is given no queue takes the one that EVENTPOST_QUEUE names."""
    from eventpost import EventDispatcher, LogEvent, RedisStreamsQueue

    dispatcher = EventDispatcher(sender="none")
    assert isinstance(dispatcher.queue, RedisStreamsQueue)
    assert dispatcher.dispatch_event(LogEvent(URL, {"account_id": "1", "visitors": []}))
    dispatcher.close()
    assert until(lambda: queue.claim(URL, 5, ALL))[0].event.payload == b'{"account_id":"1","visitors":[]}'


def test_a_user_with_few_rights_over_tls(eventpost, tmp_path, monkeypatch):
    """The rights that docs/redis.md names are enough for every command; the authority comes from the environment."""
    from eventpost import RedisStreamsQueue

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own = tmp_path / "own.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(own))
    port = free_port()
    tls = {"tls_cert_file": str(own), "tls_key_file": str(own), "tls_ca_cert_file": str(tmp_path / "ca.pem")}
    with a_redis(**tls, tls_port=str(port), tls_auth_clients="no") as server:
        rights = "~{few:* +@read +@write +@stream +@scripting +time +info +wait -config"
        assert server.ask("ACL", "SETUSER", "post", "on", f">{PASSWORD}", *rights.split()) == "+OK"
        monkeypatch.setenv("EVENTPOST_QUEUE", f"rediss://post@localhost:{port}")
        monkeypatch.setenv("EVENTPOST_QUEUE_NAME", "few")
        monkeypatch.setenv("EVENTPOST_QUEUE_PASSWORD", PASSWORD)
        assert "cannot be reached" in eventpost("status")[2] or "ertificate" in eventpost("status")[2]
        monkeypatch.setenv("EVENTPOST_QUEUE_CA", str(tmp_path / "ca.pem"))
        queue = RedisStreamsQueue(
            f"rediss://post@localhost:{port}", name="few", password=PASSWORD, ca=str(tmp_path / "ca.pem")
        )
        bury(queue, URL, 1)
        put(queue, URL, 2)
        code, out, _ = eventpost("status")
        assert (code, "accepted 2 = delivered 0 + queued 1 + dead 1" in out) == (0, True)
        assert "appendonly no" in out
        assert "u-2" in eventpost("tail")[1]
        assert eventpost("dead", "retry", "--all")[1] == "retried 1\n"
        assert eventpost("check", "--offline", "--listen", "127.0.0.1:0")[0] == 0
        queue.close()
