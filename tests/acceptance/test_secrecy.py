"""What lies on the disk is private, what is planted there is not followed, and nothing secret is said anywhere.

Every secret of a run has a marker of its own in it: visitor ids, attributes, tags, a header, and the user, password and
query of the URL.  Everything that the run logged (all loggers, DEBUG), printed, raised or shows by
``repr`` is searched.
"""

import json
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec

import pytest

from eventpost import JournalQueue
from eventpost.errors import JournalUnusable, QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues.journal import inspect
from eventpost.testing import Collector, Reply
from support import missing

SECRETS = {
    name: f"zq{name}qz"
    for name in ("visitor", "session", "attribute", "tag", "header", "user", "password", "query", "getquery", "thing")
}
ANY = re.compile("zq[a-z]+qz")
RUN = """
import json, logging, os, signal, sys, traceback
from importlib.resources import files
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s %(exc_info)s")
from optimizely import optimizely
logging.getLogger("optimizely").setLevel(logging.CRITICAL)  # the SDK's own lines name the user at DEBUG and INFO
import eventpost
from eventpost import EventDispatcher, EventProcessor, JournalQueue, LogEvent, MemoryQueue
from eventpost.queues.journal import inspect
from eventpost.transports.protocol import Request, Response

ORIGIN, FOLDER, TRANSPORT, SECRETS = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
URL = "http://%s:%s@%s/v1/events?token=%s" % (SECRETS["user"], SECRETS["password"], ORIGIN, SECRETS["query"])
if TRANSPORT == "pool":
    from eventpost.transports.pool import PoolTransport as Http
else:
    from eventpost.transports.curl import CurlTransport as Http

def event(key, url=URL, **more):
    one = {"uuid": key, "key": key, "timestamp": 1, "tags": {"note": SECRETS["tag"]}}
    visitor = {"visitor_id": SECRETS["visitor"], "session_id": SECRETS["session"],
               "attributes": [{"key": "plan", "value": SECRETS["attribute"]}], "snapshots": [{"events": [one]}]}
    return LogEvent(url, {"visitors": [visitor], **more}, "POST", {"Authorization": "Bearer " + SECRETS["header"]})

def shown(*things):
    for one in things:
        print(repr(one), str(one), flush=True)

def observer(signal):
    shown(signal)
    if type(signal).__name__ == "Adopted":
        raise RuntimeError("an observer's own mistake")

class Odd:
    def __repr__(self):
        return SECRETS["thing"]
    __str__ = __repr__

def raised(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        traceback.print_exc()
        shown(error, *error.args)

def offer(dispatcher):
    '''Everything a door says yes and no to.'''
    for key in ("fine", "bad", "later", "reset", "garbage"):
        assert dispatcher.dispatch_event(event(key))
    assert dispatcher.dispatch_event(LogEvent(URL, {"q": SECRETS["getquery"]}, "GET"))
    dispatcher.dispatch_event(event("refused", "http://u:%(password)s@127.0.0.1:9/x?%(query)s" % SECRETS))
    dispatcher.dispatch_event(event("nobody", "http://u:%s@no-such-host.invalid/" % SECRETS["password"]))
    for odd in (
        event("odd", extra=Odd()), event("nan", extra={SECRETS["visitor"] + "-1": float("nan")}),
        event("key", extra={Odd(): 1}),
        event("url", "ftp://u:%s@host/" % SECRETS["password"]), event("port", URL.replace("/v1", "x/v1")),
        LogEvent(URL, {"visitors": []}, "POST", {"X-Key": SECRETS["header"] + "\\r\\nX: y"}),
        LogEvent(URL, {"visitors": []}, SECRETS["thing"]), event("large", extra="x" * 4_000_000),
    ):
        assert not dispatcher.dispatch_event(odd)
    raised(dispatcher.dispatch_event, Odd())
    raised(dispatcher.dispatch_event, SECRETS["thing"])

class Broken(MemoryQueue):
    '''Somebody's queue, whose errors quote what they were about.'''
    def put(self, events):
        raise RuntimeError(f"cannot store {[bytes(one.payload) for one in events]}")

class Theirs:
    '''Somebody's dispatcher, whose errors do the same.'''
    def dispatch_event(self, log_event):
        shown(log_event)
        raise RuntimeError(str(log_event.params))

for queue in (JournalQueue(FOLDER), MemoryQueue()):
    dispatcher = EventDispatcher(queue, transport=Http(), observers=[observer], timeout_s=5)
    offer(dispatcher)
    client = optimizely.Optimizely(
        files("eventpost").joinpath("demo_datafile.json").read_text("utf-8"), event_processor=EventProcessor(dispatcher)
    )
    raised(setattr, dispatcher, "endpoint", URL)
    user = client.create_user_context(SECRETS["visitor"], {"plan": SECRETS["attribute"]})
    known = json.loads(files("eventpost").joinpath("demo_datafile.json").read_text("utf-8"))
    user.decide(known["featureFlags"][0]["key"])
    user.track_event(known["events"][0]["key"], {"note": SECRETS["tag"], "odd": Odd()})
    dispatcher.flush(1.5)
    shown(dispatcher, queue, client.event_processor, dispatcher.stats(), dispatcher._sender, dispatcher._thread)
    shown(*dispatcher._sender._lanes.values())
    for lane in queue.lanes():
        leases = queue.claim(lane, 9, 1 << 20)
        for lease in leases:
            envelope, payload = lease.event
            shown(lease, lease.event, envelope, Request(envelope, payload, lease, 1.0))
        queue.release(leases)
    shown(event("x"), Response(400, None, SECRETS["visitor"].encode()))
    dispatcher.close(0.2)
for dispatcher in (
    EventDispatcher(Broken(), transport=Http(), observers=[observer]),
    EventDispatcher(MemoryQueue(), transport=Theirs(), observers=[observer]),
):
    dispatcher.dispatch_event(event("fine"))
    dispatcher.flush(1)
    dispatcher.close(0.2)
raised(EventDispatcher, MemoryQueue(), *())
raised(lambda: EventDispatcher(MemoryQueue(), endpoint="http://u:%s@/" % SECRETS["password"]))
shown(inspect.folder_status(FOLDER), *inspect.tail(FOLDER), *inspect.dead_letters(FOLDER), *inspect.verify(FOLDER))
child = os.fork()
if not child:
    queue = JournalQueue(FOLDER)
    dispatcher = EventDispatcher(queue, transport=Http(), sender="none")
    for key in ("fine", "fine", "bad"):
        dispatcher.dispatch_event(event(key))
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
"""


def answers(request):
    """Quote everything back, as some endpoints do."""
    body = request.body
    if b'"bad"' in body:
        return Reply(400, body=body + request.head)
    if b'"later"' in body:
        return Reply(503, body=body, retry_after=SECRETS["header"])
    if b'"reset"' in body:
        return Reply(reset="after")
    if b'"garbage"' in body:
        return Reply(garbage=b"HTTP/9.9 nonsense " + body + b"\r\n\r\n")
    return Reply(204, headers={"X-Echo": SECRETS["header"]})


def said(command, **options):
    """Run a command; return all that it said."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("transport", ["curl", "pool"])
def test_a_full_run_tells_no_secret(tmp_path, transport):
    """Doors, queues, both transports, faults and a crash: the markers arrive at the endpoint, and are shown nowhere."""
    for module in ("optimizely", *(["pycurl"] if transport == "curl" else [])):
        if find_spec(module) is None:
            missing(module)
    with Collector(answers) as up:
        words = [up.url.split("/")[2], tmp_path / "j", transport, json.dumps(SECRETS)]
        spoken = said(["-X", "dev", "-c", RUN, *words])
        sent = b"".join(request.head + request.body for request in up.requests).decode()
        assert [line for line in spoken.splitlines() if ANY.search(line)] == []
        assert "Delivered(" in spoken, "it was a real run"
        assert "urllib3" in spoken or transport != "pool", "DEBUG of all loggers was on"
        arrived = ("visitor", "attribute", "tag", "header", "query", "getquery")
        assert {SECRETS[one] for one in arrived} <= set(ANY.findall(sent))
        if transport == "curl" and find_spec("typer") is not None:
            tell_no_secret_by_command(tmp_path / "j")


def tell_no_secret_by_command(folder):
    """Ask every command about what the run left, damaged as it is."""
    [path, *_] = sorted((folder / "segments").glob("*.seg"), reverse=True)
    data = bytearray(path.read_bytes())
    data[data.index(b'"fine"') + 1] ^= 1
    path.write_bytes(data)
    letters = [one.id for one in inspect.dead_letters(folder)]
    assert letters
    asked = [
        [*words.split(), "--journal", str(folder), *more]
        for words in ("verify", "tail", "status", "dead list", f"dead show {letters[0]}", "dead export")
        for more in ([], ["--json"])
    ]
    asked += [["send", "--until-empty", "--timeout", "2", "--journal", str(folder)]]
    asked += [["dead", "export", "--visitor-ids", "--journal", str(folder)]]
    with ThreadPoolExecutor(3) as some:
        spoken = list(some.map(lambda words: said(["-m", "eventpost.cli", *words]), asked))
    payload = {SECRETS["attribute"], SECRETS["tag"]}  # what these two commands are there to show
    for words, text in zip(asked[:-1], spoken[:-1], strict=True):
        expected = payload if words[:2] in (["dead", "show"], ["dead", "export"]) else set()
        assert set(ANY.findall(text)) == expected, words
    assert {SECRETS["visitor"], SECRETS["header"]} <= set(ANY.findall(spoken[-1])), "the search finds what is there"


LIFE = """
import os, sys
os.umask(int(sys.argv[2], 8))
from eventpost import EventDispatcher, JournalQueue, LogEvent
from eventpost.queues.journal import inspect
from eventpost.queues.protocol import Answer
path, group = sys.argv[1], int(sys.argv[3]) if sys.argv[3] else None
queue = JournalQueue(path, "fsync", group=group)
dispatcher = EventDispatcher(queue, sender="none")
for n in range(4):
    assert dispatcher.dispatch_event(LogEvent("http://127.0.0.1:9/", {"n": n}))
queue.bury(queue.claim("http://127.0.0.1:9/", 1, 1 << 20), "rejected", Answer(400))
queue.scan()
queue.tend()
dispatcher.flush(1)
child = os.fork()
if not child:
    other = JournalQueue(path, group=group)
    other.put([inspect.tail(path, last=1)[0].event])
    os._exit(0)
os.waitpid(child, 0)
"""


def wrong_modes(root, folders, files):
    """Return what below ``root`` has another mode than told."""
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in [root, *root.rglob("*")]}
    assert len(found) > 7
    return {str(path): oct(mode) for path, mode in found.items() if mode != (folders if path.is_dir() else files)}


@pytest.mark.parametrize(("umask", "shared"), [("000", False), ("777", False), ("000", True), ("077", True)])
def test_modes_of_every_file_whatever_the_umask(tmp_path, umask, shared):
    """A whole life, a crash, adoption, damage, commands: folders 0700 and files 0600; shared ones 2770 and 0660."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    folder, group = tmp_path / "new" / "j", str(os.getgid()) if shared else ""
    if umask == "777":
        folder = tmp_path / "j"  # no way on can be made below a folder that nobody may enter, but by root
    said(["-c", LIFE, folder, umask, group])
    modes = (0o2770, 0o660) if shared else (0o700, 0o600)
    assert wrong_modes(folder, *modes) == {}
    seg = min((folder / "segments").glob("*.seg"))
    data = bytearray(seg.read_bytes())
    data[data.rindex(b'"n":')] ^= 1
    seg.write_bytes(data)
    with Collector() as up:
        code = f"import os; os.umask(0o{umask}); from eventpost.cli import main; import sys; sys.exit(main())"
        said(["-c", code, "dead", "retry", "--all", "--journal", folder])
        words = ["send", "--until-empty", "--timeout", "10", "--endpoint", up.url, "--journal", folder]
        said(["-c", code, *words, *(["--group", group] if shared else [])])
    assert wrong_modes(folder, *modes) == {}
    if umask != "777":
        assert not folder.parent.stat().st_mode & 0o022, "the way to it is writable by its maker only"


PARTS = ("segments", "dead", "bad", "writers")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_folder_that_is_a_link_is_refused(tmp_path, part):
    """Somebody put a link in the place of segments/, dead/, bad/ or writers/: nothing behind it is touched."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.tmp").write_text("kept")
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / part).symlink_to(elsewhere)
    with pytest.raises(JournalUnusable, match="symbolic link"):
        JournalQueue(tmp_path / "j")
    assert os.listdir(elsewhere) == ["precious.tmp"]


@pytest.mark.parametrize("part", PARTS)
def test_a_link_that_is_planted_later_is_not_followed(tmp_path, part):
    """The folder's parts are swapped for links while it is in use: puts are refused, nothing appears or goes there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("precious.tmp", ".0000000000001-1.aa-000000.seg.tmp", "1.aa.lock", "0000000000001-1.aa-000000.seg"):
        (elsewhere / name).write_text("kept")
    queue = JournalQueue(tmp_path / "j", adopt="always")
    queue.put([Event(Envelope("http://127.0.0.1:9/"), b"{}")])
    (tmp_path / "j" / part).rename(tmp_path / "moved")
    (tmp_path / "j" / part).symlink_to(elsewhere)
    before = {name: (elsewhere / name).stat() for name in os.listdir(elsewhere)}
    queue.bury(queue.claim("http://127.0.0.1:9/", 9, 1 << 20), "rejected")
    queue.scan()
    queue.tend()
    with suppress(QueueUnavailable):
        queue.put([Event(Envelope("http://127.0.0.1:9/other"), b"{}")])
    queue.folder.set_aside("x", 0, b"bytes")
    queue.stats()
    queue.close()
    assert {name: (elsewhere / name).stat() for name in os.listdir(elsewhere)} == before


@pytest.mark.parametrize("name", ["totals.json", "totals.lock", "scanner.lock", ".totals.tmp"])
def test_a_file_of_the_folder_that_is_a_link_is_not_followed(tmp_path, name):
    """Somebody put a link in the place of a file: what it names is neither read nor changed."""
    target = tmp_path / "target"
    target.write_text('{"accepted": 5, "delivered": 5, "dropped": {}, "folded": []}')
    queue = JournalQueue(tmp_path / "j", adopt="always")
    (tmp_path / "j" / name).symlink_to(target)
    queue.put([Event(Envelope("http://127.0.0.1:9/"), b"{}")])
    queue.scan()
    queue.ack(queue.claim("http://127.0.0.1:9/", 9, 1 << 20))
    queue.close()
    assert queue.stats().delivered == 1
    assert target.read_text().startswith('{"accepted": 5')
    assert target.lstat().st_nlink == 1
