"""``eventpost purge`` with real processes: those that are gone, those that live and hold the segments, a frozen one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from eventpost import EventDispatcher, JournalQueue, LogEvent
from eventpost.queues.journal import inspect
from eventpost.queues.journal.purge import purge
from eventpost.testing import Collector, Reply
from support import missing

NOBODY = "http://127.0.0.1:9/v1/events"
ALICE = 'alice+"é"@example.com'
BOB, CAROL = "bob@example.com", "carol@example.com"
CHILD = """
import sys, time, json
from eventpost import EventDispatcher, JournalQueue, LogEvent
path, url, sender, bodies = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
dispatcher = EventDispatcher(JournalQueue(path, scan_interval_s=0.1), sender=sender, linger_s=0.0)
for params in bodies:
    assert dispatcher.dispatch_event(LogEvent(url, params))
print("stored", flush=True)
for line in sys.stdin:
    print(json.dumps(dispatcher.stats().as_dict()), flush=True)
dispatcher.close(0.5)
"""


def visitor(visitor_id, uuid, **more):
    """Return one visitor with one event."""
    return {
        "visitor_id": visitor_id,
        "attributes": [],
        "snapshots": [{"events": [{"uuid": uuid, "timestamp": 1}]}],
        **more,
    }


def batch(*visitors):
    """Return a body."""
    return {"account_id": "1", "visitors": list(visitors), "revision": "3"}


def store(path, *batches, url=NOBODY):
    """Store bodies as a process does that ends in order."""
    dispatcher = EventDispatcher(JournalQueue(path), sender="none")
    for one in batches:
        assert dispatcher.dispatch_event(LogEvent(url, one))
    dispatcher.close()


def names(visitor_id):
    """Return the forms in which an id can stand on the disk."""
    return {
        json.dumps(visitor_id).strip('"').encode(),
        json.dumps(visitor_id, ensure_ascii=False)[1:-1].encode(),
        visitor_id.encode(),
    }


def holding(path, visitor_id):
    """Return the files of a folder that hold an id."""
    files = [one for one in pathlib.Path(path).rglob("*") if one.is_file()]
    return [str(one.relative_to(path)) for one in files if any(name in one.read_bytes() for name in names(visitor_id))]


def command(path, visitor_id, *more, stdin=None):
    """Run the command; returns the finished process.  Whatever it says, the id is not in it."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    words = [sys.executable, "-m", "eventpost.cli", "purge", "--journal", path, "--visitor", visitor_id, *more]
    done = subprocess.run(
        list(map(str, words)), input=stdin, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    for name in filter(None, {visitor_id.lstrip("-"), (stdin or "").strip()}):
        assert name not in done.stdout + done.stderr
        assert json.dumps(name)[1:-1] not in done.stdout + done.stderr
    return done


class Child:
    """A process that has stored something, and lives."""

    def __init__(self, path, *batches, url=NOBODY, sender="thread"):
        command = [sys.executable, "-c", CHILD, str(path), url, sender, json.dumps(batches)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "stored\n"

    def stats(self):
        """Ask it for its count."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


def status(path):
    """Return the folder's sum, which closes."""
    counted = inspect.folder_status(path)
    assert counted.closes, counted
    assert inspect.verify(path) == []
    return counted


def deliver(path):
    """Send what lies in a folder; return the bodies that arrive."""
    with Collector() as up:
        dispatcher = EventDispatcher(JournalQueue(path, adopt="always"), send_to=up.url, linger_s=0.0)
        dispatcher.start()
        assert up.wait_until(lambda: not inspect.folder_status(path).queued, 20)
        assert dispatcher.close(timeout_s=10).pending == 0
        return up.bodies


def test_what_the_dead_left_is_erased_and_the_others_arrive(tmp_path):
    """Sole events are dropped as purged; out of shared ones the visitor is taken, the rest arrives byte for byte."""
    bob, carol = visitor(BOB, "b"), visitor(CAROL, "c", attributes=[{"key": "x", "value": "y"}])
    store(tmp_path / "j", batch(visitor(ALICE, "1")), batch(bob, visitor(ALICE, "2"), carol), batch(bob))
    store(tmp_path / "j", batch(visitor(ALICE, "3")), batch(visitor(ALICE, "4"), visitor(ALICE, "5")))
    assert len(holding(tmp_path, ALICE)) == 2
    done = command(tmp_path / "j", ALICE)
    assert done.returncode == 0, done.stderr
    assert "purged 3 events: 3 queued, 0 dead" in done.stdout
    assert "taken out of 1 events" in done.stdout
    assert holding(tmp_path, ALICE) == []
    counted = status(tmp_path / "j")
    assert (counted.accepted, counted.queued, counted.dropped) == (5, 2, {"purged": 3})
    bodies = deliver(tmp_path / "j")
    assert sorted(map(json.loads, bodies), key=repr) == sorted([batch(bob, carol), batch(bob)], key=repr)
    shared = max(bodies, key=len)
    assert json.dumps(carol, separators=(",", ":")).encode() in shared
    counted = status(tmp_path / "j")
    assert (counted.accepted, counted.delivered, counted.dropped) == (5, 2, {"purged": 3})
    again = command(tmp_path / "j", ALICE)
    assert (again.returncode, again.stdout) == (0, "purged 0 events: 0 queued, 0 dead\n")


def test_dead_letters_and_what_the_endpoint_answered_are_erased(tmp_path):
    """Also of a living process, also where the answer quotes the visitor; a shared one can be retried without them."""
    path = tmp_path / "j"
    with Collector(lambda one: Reply(400, body=one.body[:900])) as up:
        dispatcher = EventDispatcher(JournalQueue(path, scan_interval_s=0.1), linger_s=0.0)
        for one in (
            batch(visitor(ALICE, "1")),
            batch(visitor(BOB, "2")),
            batch(visitor(BOB, "3"), visitor(ALICE, "4")),
        ):
            assert dispatcher.dispatch_event(LogEvent(up.url, one))
        assert up.wait_until(lambda: dispatcher.stats().dead == 3, 20)
        done = json.loads(command(path, ALICE, "--json").stdout)
        assert (done["dead"], done["queued"], done["cut"], done["left"]) == (1, 0, 1, [])
        assert holding(tmp_path, ALICE) == []
        report = dispatcher.stats()
        assert (report.dead, report.dropped, report.closes) == (2, {"purged": 1}, True)
        dispatcher.close()
    letters = {one.answer.strip() == "" for one in inspect.dead_letters(path) if b'"uuid":"3"' in one.event.payload}
    assert letters == {True}
    assert inspect.retry_dead(path, None) == 2
    assert [[one["visitor_id"] for one in json.loads(body)["visitors"]] for body in deliver(path)] == [[BOB], [BOB]]
    assert status(path).dropped == {"purged": 1}


def test_a_living_sender_erases_what_it_has_in_hand(tmp_path):
    """Its endpoint is down; its own events, and what it adopted, go within the wait; its count says so."""
    path = tmp_path / "j"
    store(path, batch(visitor(ALICE, "adopted")), batch(visitor(BOB, "b"), visitor(ALICE, "shared")))
    with Child(path, batch(visitor(ALICE, "own")), batch(visitor(BOB, "b2"))) as child:
        deadline = time.monotonic() + 20
        while child.stats()["accepted"] < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        done = command(path, ALICE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "purged 2 events: 2 queued, 0 dead" in done.stdout
        assert holding(tmp_path, ALICE) == []
        stats = child.stats()
        assert stats["dropped"] == {"purged": 2}
        assert stats["accepted"] == stats["queued"] + stats["in_flight"] + 2 == 4
    assert status(path).dropped == {"purged": 2}
    assert [[one["visitor_id"] for one in json.loads(body)["visitors"]] for body in deliver(path)] == [[BOB], [BOB]]


def test_an_events_in_flight_is_not_called_back_and_its_bytes_go_after_its_answer(tmp_path):
    """The purge waits for the answer; the event is delivered, and then nothing of it is left."""
    path = tmp_path / "j"
    with Collector(lambda _: Reply(delay_s=1.5)) as up:
        with Child(path, batch(visitor(ALICE, "1")), url=up.url) as child:
            assert up.wait_requests(1)
            done = json.loads(command(path, ALICE, "--json").stdout)
            assert (done["queued"], done["erased"], done["left"]) == (0, 1, [])
            assert holding(tmp_path, ALICE) == []
            assert child.stats()["delivered"] == 1
        assert up.uuids == {"1": 1}


def test_a_living_process_that_only_stores_needs_no_word(tmp_path):
    """Nobody sends its events: they go at once, whatever else it goes on storing."""
    path = tmp_path / "j"
    with Child(path, batch(visitor(ALICE, "1")), batch(visitor(BOB, "2")), sender="none") as child:
        done = command(path, ALICE, "--timeout", 0)
        assert done.returncode == 0, done.stdout
        assert holding(tmp_path, ALICE) == []
        assert child.stats()["dropped"] == {"purged": 1}
    assert status(path).dropped == {"purged": 1}


def test_a_frozen_sender_is_named_and_erases_once_it_thaws(tmp_path):
    """Exit code 1, the process named, nothing of its events touched; what was asked is done as soon as it goes on."""
    path = tmp_path / "j"
    with Child(path, batch(visitor(ALICE, "1")), batch(visitor(BOB, "2"))) as child:
        os.kill(child.process.pid, signal.SIGSTOP)
        done = command(path, ALICE, "--timeout", 1)
        assert done.returncode == 1
        assert f"process {child.process.pid} sends it and did not answer in time" in done.stdout
        assert holding(tmp_path, ALICE) != []
        assert holding(path, ALICE) == [one for one in holding(path, ALICE) if one.startswith("segments/")]
        os.kill(child.process.pid, signal.SIGCONT)
        deadline = time.monotonic() + 20
        while holding(tmp_path, ALICE) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert holding(tmp_path, ALICE) == []
        assert child.stats()["dropped"] == {"purged": 1}
        assert command(path, ALICE).returncode == 0
        assert not (path / "purge.json").exists()


def test_a_purge_that_was_killed_is_finished_by_who_sends_next(tmp_path):
    """The note says where; whoever adopts the segments does it before it reads them."""
    path = tmp_path / "j"
    store(path, batch(visitor(ALICE, "1")), batch(visitor(BOB, "2"), visitor(ALICE, "3")))
    code = (
        "import os, signal, sys; from eventpost.queues.journal import erase, purge;"
        "erase.carry_out = lambda *_: os.kill(os.getpid(), signal.SIGKILL); purge.purge(sys.argv[1], sys.argv[2])"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path), ALICE], timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not any(name in (path / "purge.json").read_bytes() for name in names(ALICE))
    bodies = deliver(path)
    assert [one["visitor_id"] for body in bodies for one in json.loads(body)["visitors"]] == [BOB]
    assert status(path).dropped == {"purged": 1}
    assert holding(tmp_path, ALICE) == []


def test_settled_events_that_are_not_removed_yet_are_erased_too(tmp_path):
    """A delivered event lies in its segment until all of that is settled; its outcome stays what it was."""
    path = tmp_path / "j"
    with Collector(lambda one: Reply(503 if b"waits" in one.body else 204)) as up:
        dispatcher = EventDispatcher(JournalQueue(path, scan_interval_s=0.1), linger_s=0.0)
        for one in (batch(visitor(ALICE, "1")), batch(visitor(BOB, "waits"))):
            assert dispatcher.dispatch_event(LogEvent(up.url, one))
        assert up.wait_until(lambda: dispatcher.stats().delivered == 1, 20)
        assert holding(tmp_path, ALICE) != []
        result = purge(path, ALICE)
        assert (result.queued, result.erased, result.left) == (0, 1, [])
        assert holding(tmp_path, ALICE) == []
        assert dispatcher.close(timeout_s=0).delivered == 1
    assert (status(path).delivered, status(path).dropped) == (1, {})


def test_damaged_bytes_that_show_the_id_are_erased(tmp_path):
    """In bad/, also of a segment whose header is gone, and where they lie; what shows nobody's id is counted."""
    path = tmp_path / "j"
    store(path, batch(visitor(ALICE, "1")), batch(visitor(BOB, "2")), batch(visitor(ALICE, "3")))
    store(path, batch(visitor(ALICE, "4")), batch(visitor(BOB, "5")))
    first, second = sorted((path / "segments").iterdir())
    data = bytearray(first.read_bytes())
    data[data.index(b'"uuid":"1"') + 8] ^= 1
    data[data.index(b'"uuid":"3"') + 8] ^= 1
    first.write_bytes(data)
    second.write_bytes(b"\0" * 4096 + second.read_bytes()[4096:])
    queue = JournalQueue(path, adopt="always")
    queue.scan()
    assert len(queue.claim(NOBODY, 1, 1 << 20)) == 1  # passes the first damaged place, which goes to bad/
    queue.close()
    assert sorted(one.split("/")[0] for one in holding(path, ALICE)) == ["bad", "bad", "segments"]
    result = purge(path, ALICE)
    assert (result.queued, result.left) == (0, [])
    assert result.damaged >= 3
    assert holding(tmp_path, ALICE) == []
    assert len(holding(path, BOB)) == 2
    assert [[one["visitor_id"] for one in json.loads(body)["visitors"]] for body in deliver(path)] == [[BOB]]
    counted = inspect.folder_status(path)
    assert (counted.delivered, counted.dropped, counted.closes) == (1, {"damaged": 2}, True)
    assert holding(tmp_path, ALICE) == []


def test_the_id_is_read_from_standard_input(tmp_path):
    """``--visitor -``: so that it stands in no list of processes."""
    store(tmp_path / "j", batch(visitor(ALICE, "1")))
    done = command(tmp_path / "j", "-", stdin=f"{ALICE}\n")
    assert done.returncode == 0
    assert "purged 1 events" in done.stdout
    assert holding(tmp_path, ALICE) == []


def test_wrong_usage(tmp_path):
    """No journal, no id, another purge at work: said, with the exit code of its kind, and nothing is changed."""
    assert command(tmp_path / "none", ALICE).returncode == 2
    store(tmp_path / "j", batch(visitor(ALICE, "1")))
    done = command(tmp_path / "j", "-", stdin="\n")
    assert done.returncode == 2
    assert "a visitor's id is needed" in done.stderr
    import fcntl

    with open(tmp_path / "j" / "purge.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = command(tmp_path / "j", ALICE, "--timeout", 0.2)
    assert done.returncode == 1
    assert "another purge is at work here; try again" in done.stderr
    assert status(tmp_path / "j").queued == 1


def test_what_others_say_of_the_visitor_is_left_and_counted(tmp_path):
    """Another's event that holds the id as a value is that other's."""
    store(tmp_path / "j", batch(visitor(BOB, "1", attributes=[{"key": "friend", "value": ALICE}])))
    done = command(tmp_path / "j", ALICE)
    assert done.returncode == 0
    assert "1 events of others hold the id as somebody's value" in done.stdout
    assert status(tmp_path / "j").queued == 1


def test_a_newer_segment_is_named_and_left_alone(tmp_path):
    """It may hold the visitor's events, so the exit code is 1."""
    path = tmp_path / "j"
    store(path, batch(visitor(ALICE, "1")))
    (segment,) = (path / "segments").iterdir()
    data = segment.read_bytes()
    from eventpost.queues.journal import format as fmt

    header = fmt.decode_header(data)
    text = fmt.encode_header(header.lane, header.writer, 1, sender=False, retry=False, outcome_pages=1)
    newer = text.replace(b'"version":1', b'"version":9')
    length = fmt.header_bytes_wanted(newer)
    from zlib import crc32

    body = newer[64 : newer.index(b"\0", 64)]
    newer = newer[:20] + fmt.U32.pack(crc32(body)) + newer[24:]
    segment.write_bytes(newer[:length] + data[length:])
    done = command(path, ALICE)
    assert done.returncode == 1
    assert "a newer release can look into it" in done.stdout
    assert holding(path, ALICE) != []


def test_a_note_of_anothers_making_reaches_nothing_outside(tmp_path):
    """In a shared folder any member can write one: files outside, links and odd places are not followed."""
    path, outside = tmp_path / "j", tmp_path / "outside"
    store(path, batch(visitor(BOB, "1")))
    outside.write_bytes(b"x" * 5000)
    os.symlink(outside, path / "bad" / "link")
    places = [[0, -1, [[0, 4000]], ""]]
    files = ("../outside", "bad/../../outside", "bad/link", "segments/..", "writers/x", "totals.json")
    note = dict.fromkeys(files, places)
    (path / "purge.json").write_text(json.dumps(note))
    purge(path, ALICE, timeout_s=0.2)
    assert outside.read_bytes() == b"x" * 5000
    for text in ("[]", "{", '{"segments/a": 5}', '{"segments/a": [[1]]}', '"x"'):
        (path / "purge.json").write_text(text)
        assert [one.file for one in purge(path, ALICE, timeout_s=0.2).left] == ["bad/link"]
    assert outside.read_bytes() == b"x" * 5000
    assert len(deliver(path)) == 1


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_what_is_put_meanwhile_is_not_its_business(tmp_path, durability):
    """A process goes on storing the visitor's events: the purge ends, and the events that came later are there."""
    path = tmp_path / "j"
    dispatcher = EventDispatcher(JournalQueue(path, durability), sender="none")
    assert dispatcher.dispatch_event(LogEvent(NOBODY, batch(visitor(ALICE, "1"))))
    time.sleep(1.1)  # times in a segment are whole seconds

    def put(*_):
        assert dispatcher.dispatch_event(LogEvent(NOBODY, batch(visitor(ALICE, "later"))))

    result = purge(path, ALICE, progress=put)
    assert result.left == []
    assert result.queued >= 1
    put()
    dispatcher.close()
    assert status(path).dropped == {"purged": result.queued}
