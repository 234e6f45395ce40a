"""``eventpost check`` against real folders, files, sockets and endpoints: what it finds, and what it says to do."""

import gzip
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

import pytest
import trustme

from eventpost import EventDispatcher, JournalQueue, LogEvent
from eventpost.cli import checks
from eventpost.queues.journal import Disk
from eventpost.testing import Collector, Reply
from relay_support import SRC, Relay, batch, free_port
from support import missing

SECRET = "a-visitor-nobody-should-see"


def check(*options, stdin=None, **environ):
    """Run the command with JSON output; return its exit code and its findings."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("EVENTPOST_")}
    command = [sys.executable, "-m", "eventpost.cli", "check", "--json", *map(str, options)]
    environ = {**base, "PYTHONPATH": str(SRC), **environ}
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False, env=environ)
    assert done.returncode in (0, 1), done.stderr
    assert SECRET.encode() not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def of(found, what, state=None):
    """Return the findings of a check."""
    return [one for one in found if one["what"] == what and state in {None, one["state"]}]


@pytest.fixture
def collector():
    """Give an endpoint that answers a GET with 404."""
    with Collector(lambda one: Reply(404 if one.method == "GET" else 204)) as up:
        yield up


def test_a_relay_that_would_work(tmp_path, collector):
    """Exit code 0; each check says what it found; nothing is made, and no event is sent."""
    code, found = check(
        "--journal", tmp_path / "j", "--endpoint", collector.url, "--listen", f"127.0.0.1:{free_port()}"
    )
    assert (code, {one["state"] for one in found}) == (0, {"ok"})
    assert [one["what"] for one in found] == ["settings", "listen", "folder", "authorities", "endpoint"]
    assert "answers (404 to a GET" in of(found, "endpoint")[0]["detail"]
    assert not (tmp_path / "j").exists()
    assert [one.method for one in collector.requests] == ["GET"]


def test_settings_are_named_by_where_they_came_from(tmp_path):
    """File, environment and flag; a mistake in any of them is one finding that names it, exit code 1."""
    file = tmp_path / "relay.toml"
    file.write_text('workers = 2\nlisten = "127.0.0.1:1"\n')
    options = ("--config", file, "--offline", "--journal", tmp_path / "j")
    _, found = check(*options, EVENTPOST_RELAY_EU="1")
    detail = of(found, "settings", "ok")[0]["detail"]
    for said in ("journal (--journal)", "eu (EVENTPOST_RELAY_EU)", f"workers ({file}: workers)"):
        assert said in detail
    for text, environ, says in (
        ("worker = 2", {}, "there is no setting 'worker'; 'workers'?"),
        ("workers = 0", {}, "workers must be at least 1"),
        ("= 1", {}, str(file)),
        ("", {"EVENTPOST_RELAY_WORKERS": "many"}, "EVENTPOST_RELAY_WORKERS must be a whole number"),
        ('listen = "0.0.0.0:8787"', {}, "beyond loopback anyone could send events"),
    ):
        file.write_text(text)
        code, found = check(*options[:3], **environ)
        assert (code, [one["state"] for one in found]) == (1, ["bad"])
        assert says in found[0]["detail"]
        assert found[0]["remedy"]
    code, found = check("--config", tmp_path / "none.toml", "--offline")
    assert (code, len(found)) == (1, 1)
    assert "No such file" in found[0]["detail"]


def test_what_should_be_meant_is_looked_at(tmp_path):
    """A relay that is open to all, and events without TLS: it works, and is said."""
    code, found = check(
        "--offline",
        "--journal",
        tmp_path / "j",
        "--listen",
        f"0.0.0.0:{free_port()}",
        "--open",
        "--endpoint",
        "http://10.0.0.1/x",
    )
    assert code == 0
    assert len(of(found, "settings", "look")) == 2
    assert all(one["remedy"] for one in of(found, "settings", "look"))


def test_an_address_that_is_taken_or_not_ours(tmp_path):
    """Taken: perhaps by this very relay; another machine's: it does not work."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, found = check("--offline", "--journal", tmp_path / "j", "--listen", f"127.0.0.1:{port}")
        assert (code, of(found, "listen")[0]["state"]) == (0, "look")
    code, found = check("--offline", "--journal", tmp_path / "j", "--listen", "192.0.2.1:80", "--open")
    assert (code, of(found, "listen")[0]["state"]) == (1, "bad")


def test_folders(tmp_path):
    """Not there, in a file's place, another's that is not there, used by others, too open: each with what to do."""
    (tmp_path / "file").write_text("x")
    for path, says in ((tmp_path / "file" / "j", "is no folder"), (tmp_path / "file", "is no folder")):
        code, found = check("--offline", "--journal", path)
        assert (code, of(found, "folder")[0]["state"]) == (1, "bad")
        assert says in of(found, "folder")[0]["detail"]
    code, found = check("--offline", "--journal", tmp_path / "own", "--journal", tmp_path / "theirs")
    assert code == 1
    assert "is no journal" in of(found, "folder", "bad")[0]["detail"]
    writer = EventDispatcher(JournalQueue(tmp_path / "own"), sender="none")
    params = {"visitors": [{"visitor_id": SECRET}]}
    assert writer.dispatch_event(LogEvent("http://127.0.0.1:9/elsewhere", params))
    os.chmod(tmp_path / "own", 0o755)
    code, found = check("--offline", "--journal", tmp_path / "own")
    looks = [one["detail"] for one in of(found, "folder", "look")]
    assert any("has mode 0755" in one for one in looks)
    assert any("1 events" in one and "would be held" in one for one in looks)
    assert "1 queued, 0 dead, 1 processes at work" in of(found, "folder", "ok")[0]["detail"]
    assert (code, of(found, "locks")[0]["state"], of(found, "sync")[0]["state"]) == (0, "ok", "ok")
    writer.close()
    assert [one for one in os.listdir(tmp_path / "own") if one.startswith(".probe")] == []


def test_a_folder_of_another_user():
    """Its owner and mode, and how it can be shared."""
    if os.getuid() != 0:
        missing("root, to make a folder that this user may not use")
    with tempfile.TemporaryDirectory() as name:  # which others may pass, unlike pytest's
        os.chmod(name, 0o755)
        asked_by_nobody(f"{name}/j")


def asked_by_nobody(path):
    """Make a journal, and check it as another user."""
    JournalQueue(path).close()
    code = (
        "import os, sys; from eventpost.cli import checks; from eventpost.relay.settings import read_settings;"
        "os.setgid(65534); os.setuid(65534); s = read_settings({'journal': [sys.argv[1]]}, environ={});"
        "print([(one.state, one.detail) for one in checks.check_folder(sys.argv[1], s, own=True)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30, check=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )  # fmt: skip
    assert "'bad'" in done.stdout
    assert "uid 65534" in done.stdout


class Lockless(Disk):
    """A disk whose locks keep nobody out, as on some network file systems."""

    def lock(self, fd, *, wait=False):
        """Say yes."""
        return True


class Broken(Disk):
    """A disk that can't sync."""

    def datasync(self, fd):
        """Say no."""
        raise OSError(5, "Input/output error")


def test_locks_that_hold_nobody_and_syncs_that_fail(tmp_path):
    """Two senders would send the same; nothing would be safe: both are bad."""
    (lock,) = checks._locks(str(tmp_path), Lockless())
    assert (lock.state, "two senders" in lock.detail) == ("bad", True)
    (sync,) = checks._sync(str(tmp_path), Broken(), durable=True)
    assert sync.state == "bad"
    (held,) = checks._locks(str(tmp_path), Disk())
    assert held.state == "ok"
    assert os.listdir(tmp_path) == []


def test_a_slow_sync_is_looked_at_where_every_answer_waits_for_it(tmp_path):
    """At fsync; at os it is only told."""

    class Slow(Disk):
        def datasync(self, fd):
            time.sleep(0.03)

    (durable,) = checks._sync(str(tmp_path), Slow(), durable=True)
    (plain,) = checks._sync(str(tmp_path), Slow(), durable=False)
    assert (durable.state, plain.state) == ("look", "ok")


def test_certificates(tmp_path):
    """The relay's own chain and key, and the authorities that endpoints are checked by."""
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    cert.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    cert.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    ca.issue_cert("other").private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    base = ("--offline", "--journal", tmp_path / "j", "--tls-cert", tmp_path / "cert.pem")
    code, found = check(*base, "--tls-key", tmp_path / "key.pem")
    assert (code, of(found, "certificate")[0]["state"]) == (0, "ok")
    for key in ("other.pem", "none.pem"):
        code, found = check(*base, "--tls-key", tmp_path / key)
        assert (code, of(found, "certificate")[0]["state"]) == (1, "bad")
    (tmp_path / "empty.pem").write_text("")
    for bundle in ("none.pem", "empty.pem"):
        code, found = check("--offline", "--journal", tmp_path / "j", REQUESTS_CA_BUNDLE=str(tmp_path / bundle))
        assert (code, of(found, "authorities")[0]["state"]) == (1, "bad")
        assert "REQUESTS_CA_BUNDLE" in of(found, "authorities")[0]["detail"] + of(found, "authorities")[0]["remedy"]


def test_endpoints_that_cannot_be_reached(tmp_path, collector):
    """Nobody listens, no such name, a certificate of nobody's, no HTTP, silence: what it is, and what to look at."""
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        Collector(cert=str(tmp_path / "both.pem")) as secure,
        Collector(lambda _: Reply(garbage=b"SSH-2.0-x\r\n")) as odd,
    ):
        for url, kind in (
            (f"http://127.0.0.1:{free_port()}/v1/events", "connect"), ("http://no-such-host.invalid/", "dns"),
            (secure.url, "tls"), (odd.url, ""),
        ):  # fmt: skip
            (found,) = checks.check_endpoint(url)
            assert found.state == "bad"
            assert found.detail.endswith(f"({kind})") or not kind
            assert found.remedy
        settings = ("--journal", tmp_path / "j", "--endpoint", secure.url)
        code, found = check(*settings, REQUESTS_CA_BUNDLE=str(tmp_path / "ca.pem"))
        assert (code, of(found, "endpoint")[0]["state"]) == (0, "ok")
    with Collector(lambda _: Reply(301, headers={"Location": "/x"})) as moved:
        (found,) = checks.check_endpoint(moved.url)
        assert (found.state, "redirects are not followed" in found.remedy) == ("look", True)


def test_a_test_run_does_not_ask_optimizely(tmp_path):
    """It is said that it was not asked, and how to lift that; nothing leaves the machine."""
    code, found = check("--journal", tmp_path / "j", EVENTPOST_TEST_MODE="1", https_proxy="http://127.0.0.1:9")
    assert code == 0
    asked = of(found, "endpoint")
    assert len(asked) == 2
    assert all(one["state"] == "look" and "EVENTPOST_ALLOW_TEST_SENDS=1" in one["detail"] for one in asked)


def test_while_the_relay_runs(tmp_path, collector):
    """Its address and folder are taken, and all is well."""
    with Relay(tmp_path / "j", endpoint=collector.url) as relay:
        settings = ("--journal", tmp_path / "j", "--endpoint", collector.url, "--listen", f"127.0.0.1:{relay.port}")
        code, found = check(*settings)
        assert (code, [one["what"] for one in found if one["state"] == "look"]) == (0, ["listen"])


def test_a_payload_in_strict_mode(tmp_path):
    """A file or standard input, packed or not; each fault with its path; of the relay nothing is checked then."""
    file = tmp_path / "body.json"
    file.write_bytes(batch(1))
    code, found = check("--payload", file)
    assert (code, [one["state"] for one in found]) == (0, ["ok"])
    assert "1 visitor, 1 event" in found[0]["detail"]
    code, found = check("--payload", "-", stdin=gzip.compress(batch(1)))
    assert code == 0
    fault = json.loads(batch(1))
    fault["visitors"][0]["visitor_id"] = {SECRET: SECRET}
    del fault["visitors"][0]["snapshots"][0]["events"][0]["uuid"]
    code, found = check("--payload", "-", stdin=json.dumps(fault).encode())
    assert code == 1
    assert [one["detail"] for one in found] == [
        "visitors[0].visitor_id: must be a string, not an object",
        "visitors[0].snapshots[0].events[0].uuid: is missing",
    ]
    for raw, says in (
        (b"", "there is no body"), (b"{", "no JSON"), (b"{}", "no JSON object with a list"),
        (b"\x1f\x8bno", "not what its content-encoding says"), (b" " * 3_500_001, "3,500,001 bytes"),
    ):  # fmt: skip
        code, found = check("--payload", "-", stdin=raw)
        assert (code, len(found), says in found[0]["detail"]) == (1, 1, True)
    code, found = check("--payload", file, "--journal", tmp_path / "j", "--offline")
    assert [one["what"] for one in found][-1] == "payload"
    assert of(found, "settings")


def test_a_payload_is_sent_to_an_endpoint_that_is_given():
    """Its bytes, in strict mode; what came back is told, without what it quotes of the payload."""
    body = json.loads(batch(1))
    body["visitors"][0]["visitor_id"] = SECRET
    raw = json.dumps(body).encode()
    with Collector(lambda one: Reply(400 if b"bad" in one.body else 204, body=b"no: " + one.body)) as up:
        code, found = check("--payload", "-", "--send", up.url, stdin=raw)
        assert (code, [one["state"] for one in found]) == (0, ["ok", "ok"])
        assert up.bodies == [raw]
        assert up.requests[0].headers["x-optimizely-strict"] == "true"
        code, found = check("--payload", "-", "--send", up.url, stdin=raw.replace(b"bought", b"bad"))
        assert code == 1
        assert "answered 400: no: " in of(found, "send")[0]["detail"]
        check("--payload", "-", "--send", up.url, stdin=b"{}")
        assert len(up.bodies) == 2
    code, found = check("--payload", "-", "--send", up.url, stdin=raw)
    assert (code, of(found, "send")[0]["state"]) == (1, "bad")


def test_for_people():
    """One line for each finding, and what to do under it."""
    command = [sys.executable, "-m", "eventpost.cli", "check", "--payload", "-"]
    done = subprocess.run(
        command, input=b"{}", capture_output=True, timeout=30, check=False, env={**os.environ, "PYTHONPATH": str(SRC)}
    )
    assert done.returncode == 1
    first, second = done.stdout.decode().splitlines()
    assert first == "bad   payload: the body is no JSON object with a list of visitors"
    assert second.startswith("      -> ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--send", "http://127.0.0.1:9/"], "Name it with --payload"),
        (["--payload", "-", "--send", "ftp://x"], "the URL is not http:// or https://"),
        (["--payload", "/no/such/file"], "No such file"),
    ],
)
def test_wrong_usage(options, says):
    """Exit code 2."""
    command = [sys.executable, "-m", "eventpost.cli", "check", *options]
    done = subprocess.run(
        command,
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert done.returncode == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())
