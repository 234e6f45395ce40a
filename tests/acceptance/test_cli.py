"""The command line against real journals: what is printed, what is masked, what the exit code says."""

import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from eventpost import EventDispatcher, JournalQueue, LogEvent, __version__
from eventpost.doors.encode import log_event_to_event
from eventpost.testing import Collector, Reply
from support import missing

URL = "https://logx.optimizely.com/v1/events"
SECRET = "a-visitor-nobody-should-see"
ESCAPE = "\x1b[31m"


def eventpost(*arguments, timeout_s=30, **options):
    """Run a command; returns the finished process."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    command = [sys.executable, "-m", "eventpost.cli", *map(str, arguments)]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True} | options
    return subprocess.run(command, timeout=timeout_s, check=False, **options)


def log_event(uuid, key="purchase"):
    """Return a LogEvent with one event in it."""
    event = {"uuid": uuid, "timestamp": 1, "key": key, "tags": {"link": f"/users/{SECRET}?age=30", "number": 12345}}
    attributes = [{"key": "$opt_bucketing_id", "type": "custom", "value": SECRET}, {"key": "plan", "value": "gold"}]
    visitor = {
        "visitor_id": SECRET, "session_id": 12345, "attributes": attributes, "snapshots": [{"events": [event]}]
    }  # fmt: skip
    return LogEvent(URL, {"account_id": "1", "visitors": [visitor]})


def store(path, endpoint, *uuids, key="purchase"):
    """Store events without sending them."""
    dispatcher = EventDispatcher(JournalQueue(path), endpoint=endpoint, sender="none")
    for uuid in uuids:
        assert dispatcher.dispatch_event(log_event(uuid, key))
    dispatcher.close()


@pytest.fixture
def collector():
    """Give an endpoint that refuses events called bad, with an answer that would like to write on the terminal."""
    with Collector(
        lambda one: Reply(400, body=ESCAPE.encode() + b"[b]no[/b]") if b'"bad"' in one.body else Reply()
    ) as up:
        yield up


@pytest.fixture
def with_dead(tmp_path, collector):
    """Give a journal with one dead letter and one delivered event."""
    dispatcher = EventDispatcher(JournalQueue(tmp_path / "j"), endpoint=collector.url)
    for uuid, key in (("u-bad", "bad"), ("u-good", "good")):
        assert dispatcher.dispatch_event(log_event(uuid, key))
    report = dispatcher.close(timeout_s=10)
    assert (report.delivered, report.dead) == (1, 1)
    return tmp_path / "j"


def test_send_until_empty_delivers_what_others_stored(tmp_path, collector):
    """Whoever wrote it; the sum is the folder's; exit code 0 once nothing waits."""
    store(tmp_path / "j", collector.url, "a", "b")
    store(tmp_path / "j", collector.url, "c")
    done = eventpost("send", "--journal", tmp_path / "j", "--until-empty", "--timeout", 20)
    assert done.returncode == 0, done.stderr
    assert collector.uuids == {"a": 1, "b": 1, "c": 1}
    assert "accepted 3 (adopted 3), delivered 3, queued 0" in done.stdout
    status = json.loads(eventpost("status", "--journal", tmp_path / "j", "--json").stdout)
    assert (status["accepted"], status["delivered"], status["queued"], status["closes"]) == (3, 3, 0, True)


def test_until_empty_goes_on_until_more_segments_than_it_opens_at_once_are_empty(tmp_path, collector):
    """Three hundred dead writers left one segment each; a sender opens 256 at once, and ends when all are delivered."""
    store(tmp_path / "j", collector.url, "first")
    (segment,) = (tmp_path / "j" / "segments").glob("*.seg")
    stem, data = segment.name.split("-"), segment.read_bytes()
    for number in range(300):  # the same bytes under the names of writers that are gone
        copy = segment.with_name(f"{stem[0]}-{number:012x}-{stem[2]}")
        copy.write_bytes(data)
    done = eventpost("send", "--journal", tmp_path / "j", "--until-empty", "--timeout", 60, timeout_s=90)
    assert done.returncode == 0, done.stderr
    assert collector.uuids == {"first": 301}
    status = json.loads(eventpost("status", "--journal", tmp_path / "j", "--json").stdout)
    assert (status["delivered"], status["queued"], status["closes"]) == (301, 0, True)


def test_a_folder_is_not_empty_while_a_segment_waits_to_be_adopted(tmp_path, collector):
    """What could be adopted and was not yet is counted; what a living sender holds, or sends itself, is not."""
    store(tmp_path / "j", collector.url, "a")
    looking = JournalQueue(tmp_path / "j", adopt="always")
    assert looking.left_to_adopt() == 1
    holding = JournalQueue(tmp_path / "j", adopt="always")
    assert holding.scan() == 1
    assert looking.left_to_adopt() == 0
    assert holding.left_to_adopt() == 0
    holding.close()
    assert looking.left_to_adopt() == 1
    sending = EventDispatcher(JournalQueue(tmp_path / "j", adopt="never"), endpoint="http://127.0.0.1:9/none")
    assert sending.dispatch_event(log_event("b"))
    assert looking.left_to_adopt() == 1
    sending.close(timeout_s=0)
    looking.close()


def test_send_sends_elsewhere_if_told_so(tmp_path, collector):
    """``--endpoint`` overrides what was stored with the events, and changes no byte of them."""
    store(tmp_path / "j", "http://127.0.0.1:9/v1/events", "a")
    done = eventpost("send", "--journal", tmp_path / "j", "--until-empty", "--timeout", 20, "--endpoint", collector.url)
    assert done.returncode == 0, done.stderr
    assert json.loads(collector.bodies[0]) == log_event("a").params


def test_send_in_a_test_run_keeps_what_is_optimizelys(tmp_path, collector, monkeypatch):
    """It is not sent, not lost, and said; ``--endpoint`` is where it really would go, and may take it."""
    queue = JournalQueue(tmp_path / "j")
    queue.put([log_event_to_event(log_event("a"), endpoint=None, merge=False)])
    queue.close()
    monkeypatch.setenv("EVENTPOST_TEST_MODE", "1")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        done = eventpost("send", "--journal", tmp_path / "j", "--until-empty", "--timeout", 1)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert done.returncode == 1
    assert "queued 1" in done.stdout
    assert done.stderr.count("EVENTPOST_ALLOW_TEST_SENDS=1 lifts this") == 1
    done = eventpost("send", "--journal", tmp_path / "j", "--until-empty", "--timeout", 20, "--endpoint", collector.url)
    assert done.returncode == 0, done.stderr
    assert len(collector.bodies) == 1


def test_send_sends_elsewhere_without_pycurl_too(tmp_path, collector):
    """The same through urllib3's pool, which is taken where pycurl can't be imported."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "pycurl.py").write_text(
        "open(__file__ + '.wanted', 'w').close()\nraise ImportError('hidden by a test')\n"
    )
    store(tmp_path / "j", "http://127.0.0.1:9/v1/events", "a", "b")
    paths = [str(tmp_path / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = eventpost(
        "send", "--journal", tmp_path / "j", "--until-empty", "--timeout", 20, "--endpoint", collector.url,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hidden" / "pycurl.py.wanted").exists()
    assert sorted(map(json.loads, collector.bodies), key=repr) == [log_event("a").params, log_event("b").params]


def test_send_says_so_when_it_could_not_deliver_everything(tmp_path):
    """Exit code 1, and everything is still queued."""
    store(tmp_path / "j", "http://127.0.0.1:9/v1/events", "a")
    done = eventpost("send", "--journal", tmp_path / "j", "--until-empty", "--timeout", 1)
    assert done.returncode == 1
    assert "queued 1" in done.stdout
    status = json.loads(eventpost("status", "--journal", tmp_path / "j", "--json").stdout)
    assert (status["accepted"], status["queued"]) == (1, 1)


def test_send_delivers_for_whoever_only_stores_until_sigterm(tmp_path, collector, monkeypatch):
    """A living process with ``sender="none"`` is served at once, its last event included; SIGTERM ends it in order."""
    writer = EventDispatcher(JournalQueue(tmp_path / "j"), endpoint=collector.url, sender="none")
    assert writer.dispatch_event(log_event("first"))
    monkeypatch.setenv("EVENTPOST_SENDER", "none")  # meant for the application; the sender sends all the same
    command = [sys.executable, "-m", "eventpost.cli", "send", "--journal", str(tmp_path / "j")]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert collector.wait_for(1, timeout_s=20)
        assert writer.dispatch_event(log_event("second"))
        assert collector.wait_for(2, timeout_s=5)
        took_s = []
        for number in range(3, 53):
            began = time.time()
            assert writer.dispatch_event(log_event(f"number {number}"))
            assert collector.wait_for(number, timeout_s=5)
            took_s.append(collector.requests[-1].time - began)
        # Promised are 20 ms, and 7 are usual; a full look every 5 s, or ten a second, would not do.
        assert statistics.median(took_s) < 0.045, took_s
        sender.send_signal(signal.SIGTERM)
        said, _ = sender.communicate(timeout=15)
        assert sender.returncode == 0
        assert "delivered 52" in said
    finally:
        sender.kill()
        sender.wait(5)
    assert writer.close().delivered == 52


@contextmanager
def sending(folder):
    """Run ``eventpost send`` beside the test; gives the process."""
    command = [sys.executable, "-m", "eventpost.cli", "send", "--journal", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sender:
        try:
            yield sender
        finally:
            sender.kill()


def test_sigterm_ends_it_whichever_thread_it_meets(tmp_path, collector):
    """The kernel may give a signal to any thread; the main one waits without an end, and is woken all the same."""
    store(tmp_path / "j", collector.url, "a")
    with sending(tmp_path / "j") as sender:
        assert collector.wait_for(1, timeout_s=20)
        threads = f"/proc/{sender.pid}/task"
        if not os.path.isdir(threads):
            missing("/proc, to name another process's threads")
        other = next(int(one) for one in os.listdir(threads) if int(one) != sender.pid)
        os.kill(other, signal.SIGTERM)
        said, _ = sender.communicate(timeout=15)
    assert sender.returncode == 0
    assert "delivered 1" in said


def test_ctrl_c_does_not_wait_for_an_endpoint_that_is_left_alone(tmp_path):
    """It has no prospect, and everything is kept: the ten seconds that an end may take are for living endpoints."""
    store(tmp_path / "j", "http://127.0.0.1:9/v1/events", *"abcde")
    with sending(tmp_path / "j") as sender:
        assert "is left alone" in sender.stderr.readline()
        sender.send_signal(signal.SIGINT)
        said, complained = sender.communicate(timeout=8)
    assert (sender.returncode, complained) == (0, "")
    assert "queued 5" in said


def test_a_second_ctrl_c_waits_no_longer(tmp_path):
    """The first one waits for what is in flight and says so; the next one leaves it, and it is kept."""
    with Collector(lambda _: Reply(delay_s=60)) as slow:
        store(tmp_path / "j", slow.url, "a")
        with sending(tmp_path / "j") as sender:
            assert slow.wait_requests(1, timeout_s=20)
            sender.send_signal(signal.SIGINT)
            assert "1 events pending, waiting up to 10 s for them; Ctrl-C to leave at once" in sender.stderr.readline()
            sender.send_signal(signal.SIGINT)
            said, complained = sender.communicate(timeout=8)
    assert (sender.returncode, complained) == (0, "")
    assert "queued 1" in said


def test_until_empty_leaves_what_a_living_sender_holds(tmp_path):
    """That one delivers it, however long its endpoint is away; there is nothing to wait for."""
    application = EventDispatcher(JournalQueue(tmp_path / "j", adopt="never"), endpoint="http://127.0.0.1:9/v1/events")
    assert application.dispatch_event(log_event("its own"))
    done = eventpost("send", "--journal", tmp_path / "j", "--until-empty")
    assert (done.returncode, done.stderr) == (0, "")
    assert "accepted 0, delivered 0" in done.stdout
    assert application.close(timeout_s=0).queued == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--endpoint", "localhost:8080"], {}, "--endpoint: the URL is not http:// or https:// with a host"),
        (["--endpoint", "http://[::1"], {}, "--endpoint: the URL is not http:// or https:// with a host"),
        (["--endpoint", "http://host:99999/"], {}, "--endpoint: the URL is not http:// or https:// with a host"),
        (["--timeout", "-1"], {}, "--timeout"),
        (["--timeout", "inf"], {}, "--timeout"),
        (["--group", "no-such-group"], {}, "no such group"),
        ([], {"EVENTPOST_TIMEOUT_S": "soon"}, "EVENTPOST_TIMEOUT_S must be a number, not 'soon'"),
    ],
)
def test_send_with_a_value_that_makes_no_sense_is_wrong_usage(tmp_path, arguments, environment, words):
    """Exit code 2 and a sentence that says what is wanted; no traceback."""
    store(tmp_path / "j", "http://127.0.0.1:9/v1/events", "a")
    done = eventpost("send", "--journal", tmp_path / "j", *arguments, env={**os.environ, **environment})
    assert done.returncode == 2
    assert words in done.stderr.replace("'--", "--").replace("':", ":")
    assert "Traceback" not in done.stderr


def eventpost_as_nobody(*arguments):
    """Run a command under another user, in the group 4242 only; returns the finished process."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        missing("root and setpriv, to become another user")
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--groups=4242", os.path.realpath(sys.executable)]
    packages = os.pathsep.join(one for one in sys.path if one)  # of this interpreter's environment
    options = {"env": {**os.environ, "PYTHONPATH": packages}, "capture_output": True, "text": True, "timeout": 40}
    if subprocess.run([*become, "-c", "import eventpost.cli.app"], check=False, **options).returncode:
        missing("an interpreter and packages that other users may read")
    return subprocess.run([*become, "-m", "eventpost.cli", *map(str, arguments)], check=False, **options)


@pytest.fixture
def passable():
    """Give a folder that others may pass, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


def test_a_group_shares_the_folder_with_a_sender_under_another_user(passable, collector):
    """What one user wrote, another one in the group sends; and his dead letters the first one retries."""
    writer = EventDispatcher(JournalQueue(passable / "j", group=4242), endpoint=collector.url, sender="none")
    assert writer.dispatch_event(log_event("a"))
    assert writer.dispatch_event(log_event("u-bad", "bad"))
    send = ["send", "--journal", passable / "j", "--until-empty", "--timeout", 20]
    done = eventpost_as_nobody(*send, "--group", 4242)
    assert done.returncode == 0, done.stderr
    assert set(collector.uuids) == {"a"}
    assert (writer.stats().delivered, writer.stats().dead) == (1, 1)
    collector.answer = None
    done = eventpost("dead", "retry", "--all", "--journal", passable / "j")
    assert (done.returncode, done.stdout) == (0, "retried 1\n")
    assert eventpost_as_nobody(*send).returncode == 0
    writer.close()
    status = json.loads(eventpost("status", "--journal", passable / "j", "--json").stdout)
    assert (status["accepted"], status["delivered"], status["closes"]) == (2, 2, True)


@pytest.mark.parametrize("command", ["status", "send", "dead list"])
def test_a_folder_of_another_user_is_said_to_be_so(passable, collector, command):
    """With owner, mode and remedy, by exit code 2: not that there were none."""
    store(passable / "j", collector.url, "a")
    done = eventpost_as_nobody(*command.split(), "--journal", passable / "j")
    assert done.returncode == 2
    assert "belongs to uid 0 with mode 0700" in done.stderr


def test_tail_follows(tmp_path, collector):
    """The newest first, then what comes, each once, from whichever process; Ctrl-C ends it."""
    store(tmp_path / "j", collector.url, *(f"old-{number}" for number in range(20)))
    command = [sys.executable, "-m", "eventpost.cli", "tail", "-f", "-n", "2", "--json", "--journal", tmp_path / "j"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as tail:
        try:
            seen = [json.loads(tail.stdout.readline())["uuids"] for _ in range(2)]
            store(tmp_path / "j", collector.url, "new-1")
            seen.append(json.loads(tail.stdout.readline())["uuids"])
            store(tmp_path / "j", collector.url, "new-2")
            seen.append(json.loads(tail.stdout.readline())["uuids"])
            tail.send_signal(signal.SIGINT)
            assert tail.wait(10) == 130
            assert tail.stdout.read() == ""
        finally:
            tail.kill()
    assert seen == ["old-18", "old-19", "new-1", "new-2"]


@pytest.mark.parametrize("command", ["tail", "tail --json", "dead export"])
def test_a_reader_that_has_enough_is_no_trouble(with_dead, collector, command):
    """As in ``| head -1``: no traceback, no complaint; exit code 1."""
    store(with_dead, collector.url, "a")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = eventpost(
            *command.split(), "--journal", with_dead, capture_output=False, stdout=writer, stderr=subprocess.PIPE
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("command", ["status", "tail", "verify", "send", "dead list", "dead export"])
def test_a_path_without_a_journal_is_said_and_left_alone(tmp_path, command):
    """Exit code 2; a typing error makes no folder."""
    done = eventpost(*command.split(), "--journal", tmp_path / "typo")
    assert done.returncode == 2
    assert "no journal here" in done.stderr
    assert not (tmp_path / "typo").exists()


def test_status_prints_the_sum(with_dead):
    """The words of the ledger; exit code 0 where nothing needs a person."""
    done = eventpost("status", "--journal", with_dead)
    assert done.returncode == 0, done.stdout
    assert "accepted 2 = delivered 1 + queued 0 + dead 1 + dropped 0" in done.stdout


def test_verify_names_damage_and_changes_nothing(tmp_path):
    """A flipped byte is named with its place, by exit code 1 too; the file stays as it is."""
    store(tmp_path / "j", "http://127.0.0.1:9/v1/events", "aaaa", "bbbb")
    segment = next((tmp_path / "j" / "segments").glob("*.seg"))
    assert eventpost("verify", "--journal", tmp_path / "j").returncode == 0
    data = bytearray(segment.read_bytes())
    data[data.index(b"aaaa")] ^= 1
    segment.write_bytes(data)
    done = eventpost("verify", "--journal", tmp_path / "j", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["kind"] == "damaged"
    assert "`eventpost verify --repair` mends what it can" in eventpost("verify", "--journal", tmp_path / "j").stdout
    assert segment.read_bytes() == bytes(data)


def test_verify_repair_mends_and_says_what_it_did(tmp_path):
    """The event whose record is damaged is counted as dropped; run again, it finds nothing to do."""
    store(tmp_path / "j", "http://127.0.0.1:9/v1/events", "aaaa", "bbbb")
    segment = next((tmp_path / "j" / "segments").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[data.index(b"aaaa")] ^= 1
    segment.write_bytes(data)
    done = eventpost("verify", "--repair", "--journal", tmp_path / "j")
    assert done.returncode == 0
    assert "1 event dropped: damaged" in done.stdout
    assert "every record is whole" in done.stdout
    assert eventpost("verify", "--repair", "--journal", tmp_path / "j").stdout.startswith("nothing to repair")
    status = eventpost("status", "--journal", tmp_path / "j")
    assert status.returncode == 1
    assert "queued 1 + dead 0 + dropped 1 (damaged 1)" in status.stdout
    assert "1 damaged place set aside" in status.stdout


def test_visitor_ids_are_masked_unless_asked_for(with_dead):
    """In every command that shows an event, also where an attribute or a tag repeats the id."""
    letter = json.loads(eventpost("dead", "list", "--journal", with_dead, "--json").stdout)[0]
    store(with_dead, "http://127.0.0.1:9/v1/events", "waiting")
    for command in (["tail"], ["tail", "--json"], ["dead", "list"], ["dead", "show", letter["id"]], ["dead", "export"]):
        masked = eventpost(*command, "--journal", with_dead)
        assert masked.returncode == 0, masked.stderr
        assert SECRET not in masked.stdout
        assert "12345" not in masked.stdout
        assert "****" in masked.stdout
        assert SECRET in eventpost(*command, "--journal", with_dead, "--visitor-ids").stdout


def test_tail_tells_what_became_of_each_event(tmp_path, collector):
    """Key, uuid and state; no payload."""
    store(tmp_path / "j", collector.url, "u-1", "u-2")
    rows = [json.loads(line) for line in eventpost("tail", "--journal", tmp_path / "j", "--json").stdout.splitlines()]
    assert [(row["uuids"], row["events"], row["state"]) for row in rows] == [
        ("u-1", "purchase", "queued"),
        ("u-2", "purchase", "queued"),
    ]
    last = eventpost("tail", "--journal", tmp_path / "j", "--last", 1).stdout
    assert "u-2" in last
    assert "u-1" not in last


def test_stored_data_does_not_reach_the_terminal_as_commands(with_dead):
    """Neither escape sequences nor markup in an answer are obeyed."""
    letter = json.loads(eventpost("dead", "list", "--journal", with_dead, "--json").stdout)[0]
    shown = eventpost("dead", "show", letter["id"], "--journal", with_dead).stdout
    assert "\x1b" not in shown
    assert "[b]no[/b]" in shown


def test_a_dead_letter_is_retried_with_its_bytes_unchanged(with_dead, collector):
    """Once the endpoint takes it, it is delivered with the uuid it had."""
    sent = next(body for body in collector.bodies if b'"bad"' in body)
    collector.answer = None
    done = eventpost("dead", "retry", "--all", "--journal", with_dead)
    assert (done.returncode, done.stdout) == (0, "retried 1\n")
    assert eventpost("send", "--journal", with_dead, "--until-empty", "--timeout", 20).returncode == 0
    assert collector.bodies[-1] == sent
    status = eventpost("status", "--journal", with_dead).stdout
    assert "accepted 2 = delivered 2 + queued 0 + dead 0 + dropped 0" in status


def test_discarding_has_to_be_meant(with_dead):
    """Where nobody can be asked it needs --yes; then the ledger counts it with its reason."""
    refused = eventpost("dead", "discard", "--all", "--journal", with_dead)
    assert refused.returncode == 2
    assert "dead 1" in eventpost("status", "--journal", with_dead).stdout
    done = eventpost("dead", "discard", "--all", "--yes", "--journal", with_dead, "--json")
    assert json.loads(done.stdout) == {"discarded": 1}
    status = eventpost("status", "--journal", with_dead).stdout
    assert "dead 0 + dropped 1 (dead_discarded 1)" in status


def test_on_a_terminal_discarding_asks_first(with_dead):
    """It names how many it is about; an id that is none is said before anybody is asked."""
    if os.name != "posix":
        missing("pseudo-terminals")
    ours, theirs = os.openpty()
    try:
        unknown = eventpost("dead", "discard", "no-such-letter:0", "--journal", with_dead, stdin=theirs)
        assert (unknown.returncode, unknown.stdout) == (2, "")
        for answer, code, words in ((b"n\n", 1, "dead 1"), (b"y\n", 0, "dropped 1 (dead_discarded 1)")):
            os.write(ours, answer)
            done = eventpost("dead", "discard", "--all", "--journal", with_dead, stdin=theirs)
            assert done.returncode == code, done.stderr
            assert "Discard 1 dead letter for good? [y/N]" in done.stdout + done.stderr
            assert words in eventpost("status", "--journal", with_dead).stdout
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("command", ["retry", "discard"])
def test_changes_need_ids_or_all(with_dead, command):
    """Neither nothing nor both, and an unknown id changes nothing."""
    yes = ["--yes"] if command == "discard" else []
    letter = json.loads(eventpost("dead", "list", "--journal", with_dead, "--json").stdout)[0]["id"]
    for arguments in ([], [letter, "--all"], ["no-such-letter:0"], [letter, "no-such-letter:0"]):
        done = eventpost("dead", command, *arguments, *yes, "--journal", with_dead)
        assert done.returncode == 2, done.stdout
    assert "dead 1" in eventpost("status", "--journal", with_dead).stdout


def test_export_is_private_and_never_overwrites(with_dead, tmp_path):
    """0600 whatever the umask, exact payloads if ids are asked for, and a file that exists stays."""
    target = tmp_path / "dead.jsonl"
    before = os.umask(0)
    try:
        done = eventpost("dead", "export", "--journal", with_dead, "--output", target, "--visitor-ids")
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    letter = json.loads(target.read_text())
    assert json.loads(letter["payload"]) == log_event("u-bad", "bad").params
    assert (letter["status"], letter["uuids"]) == (400, "u-bad")
    assert eventpost("dead", "export", "--journal", with_dead, "--output", target).returncode == 2
    assert json.loads(target.read_text()) == letter


def test_it_says_which_version_it_is():
    """As a report of a fault should."""
    done = eventpost("--version")
    assert (done.returncode, done.stdout) == (0, f"eventpost {__version__}\n")


def test_without_its_packages_it_says_what_to_install(tmp_path):
    """``eventpost`` without the extra is a sentence, not a traceback."""
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    done = eventpost("status", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr == "The command line needs two more packages: pip install 'eventpost[cli]'\n"
