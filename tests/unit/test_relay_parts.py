"""The relay's parts by themselves: merging, group commit, the allow-list, readiness, the standing with a worker."""

import asyncio
import json
import os
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventpost import EventDispatcher, JournalQueue
from eventpost.errors import EventTooLarge, QueueFull, QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues.journal import Disk
from eventpost.queues.journal.probe import why_full_or_gone
from eventpost.relay import merge
from eventpost.relay.allowed import AllowedTransport
from eventpost.relay.answers import Denied
from eventpost.relay.body import parse_batch, project_of
from eventpost.relay.children import RESTART_FIRST_S, RESTART_MAX_S, Slot, Told, hear
from eventpost.relay.commit import TOGETHER_MAX, GroupCommit, put_now
from eventpost.relay.readiness import Readiness
from eventpost.relay.settings import read_settings
from eventpost.testing import RecordingTransport
from eventpost.transports.protocol import Request, Response, TransportError
from eventpost.watch.signals import BreakerChanged
from relay_support import wait_for
from support import HookedDisk

BARE = Envelope("http://127.0.0.1:9/v1/events")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["account_id", "visitors", "revision", "visitor s", '"visitors"', "x"])


class TestMerge:
    """``merge.cut``."""

    @given(
        before=st.dictionaries(NAMES, JSON, max_size=3),
        visitors=st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=3),
        after=st.dictionaries(NAMES, JSON, max_size=3),
        spaces=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]),
        ascii_only=st.booleans(),
    )
    def test_pieces_are_the_body(self, before, visitors, after, spaces, ascii_only):
        """Whatever the body: put together again it is the same bytes, and what is cut out is the visitors."""
        batch = {**before, "visitors": visitors, **{name: one for name, one in after.items() if name != "visitors"}}
        try:
            body = json.dumps(batch, separators=spaces, ensure_ascii=ascii_only).encode()
        except UnicodeEncodeError:
            return
        parsed = parse_batch(body)
        assert isinstance(parsed, dict)
        event = merge.cut(BARE, body)
        assert event.envelope.body([event.payload]) == body
        if event.envelope.shared:
            twice = json.loads(event.envelope.body([event.payload, event.payload]))
            assert twice == {**json.loads(body), "visitors": visitors + visitors}

    def test_the_usual_is_cut(self):
        """A batch as SDKs send it shares; it is no test that nothing is ever cut."""
        for body in (b'{"a":1,"visitors":[{"b":[1]}],"c":"d"}', b'{ "visitors" : [ {} , {} ] }'):
            assert merge.cut(BARE, body).envelope.shared

    @pytest.mark.parametrize(
        "body",
        [
            b'{"visitors":[]}',
            b'{"visitors":[{}],"x":"]"}',
            b'{"visitors":[{}],"x":[1]}',
            b'{"visitors":[{}],"visitors":[{"a":1}]}',
            b'{"visitors":[{"visitors":[{}]}]}',
            b'{"x":{"visitors":[{}]},"\\u0076isitors":[{}]}',
            b'{"x":"\\"visitors\\":[","visitors":[{}]}',
        ],
    )
    def test_what_cannot_be_told_travels_alone(self, body):
        """Where the visitors' place is not beyond doubt the whole body is the event."""
        event = merge.cut(BARE, body)
        assert event == Event(BARE, body) or event.envelope.body([event.payload]) == body


class TestBatches:
    """``body.project_of``: the quick look says what the thorough one does."""

    BODY = b'{"account_id":"1","project_id":"77","visitors":[{"a":[1,-2.5e3,true,null,"x\\n"]}],"z":{"q":"\\u00e9"}}'
    PIECES = (
        b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b".", b"e", b"E+", b"\0", b"\n", b"tru", b"null",
        b"\\u12", b"\\ud800", b"\xff", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80", b"NaN", b"-Infinity", b"//", b"1e999",
        b"00", b'"visitors":[]', b',"visitors":3', b'"project_id":7,', b"\x7f", b"\xef\xbb\xbf",
    )  # fmt: skip

    @given(st.data())
    def test_the_quick_look_agrees(self, data):
        """Whatever is done to a body: both take it, or both refuse it for the same reason."""
        body = bytearray(data.draw(st.sampled_from([self.BODY, b'{"visitors":[]}'])))
        for _ in range(data.draw(st.integers(0, 4))):
            at = data.draw(st.integers(0, len(body)))
            body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from((*self.PIECES, b"")))
        quick, thorough = project_of(bytes(body)), parse_batch(bytes(body))
        if isinstance(thorough, Denied):
            assert quick == thorough
        else:
            project = thorough.get("project_id")
            assert quick == (project if isinstance(project, str) else "")

    def test_the_project(self):
        """It is read where it is a text."""
        assert project_of(self.BODY) == "77"
        assert project_of(b'{"visitors":[],"project_id":77}') == ""
        assert project_of(b'{"visitors":[]}') == ""


def numbered(count: int) -> list[Event]:
    """Return some events."""
    return [Event(BARE, b'{"n":%d}' % number) for number in range(count)]


class Recorder:
    """A queue that notes its puts, and refuses what it is told to, or waits."""

    def __init__(self, refuses=lambda _: None):
        self.puts = []
        self.refuses = refuses
        self.gate = threading.Event()
        self.gate.set()

    def put(self, events):
        """See Queue.put."""
        assert self.gate.wait(20)
        self.puts.append(list(events))
        error = self.refuses(events)
        if error is not None:
            raise error


async def committed(queue, rounds):
    """Hand in each round's events at once, wait for all, and return what became of them."""
    commit = GroupCommit(queue, asyncio.get_running_loop())
    try:
        said = []
        for events in rounds:
            said += await asyncio.gather(*(commit.put(one) for one in events))
        return said
    finally:
        commit.close(5)


class TestGroupCommit:
    """Puts together."""

    def test_what_waits_is_put_together(self):
        """While a put is under way others gather; they are one put, in order, and each gets its answer."""
        queue = Recorder()
        queue.gate.clear()
        events = numbered(50)

        async def scenario():
            commit = GroupCommit(queue, asyncio.get_running_loop())
            first = commit.put(events[0])
            await asyncio.sleep(0.2)
            others = [commit.put(one) for one in events[1:]]
            queue.gate.set()
            said = await asyncio.gather(first, *others)
            commit.close(5)
            return said

        assert asyncio.run(scenario()) == [None] * 50
        assert queue.puts == [events[:1], events[1:]]

    def test_a_joint_refusal_is_tried_one_by_one(self):
        """Where one event is the cause, the others are stored all the same."""
        bad = Event(BARE, b"bad")
        queue = Recorder(lambda events: EventTooLarge("too large") if bad in events else None)
        good = numbered(3)
        said = asyncio.run(committed(queue, [[*good, bad]]))
        assert said[:3] == [None] * 3
        assert (said[3].status, said[3].reason) == (413, "too_large")
        stored = [event for put in queue.puts if bad not in put for event in put]
        assert sorted(stored) == sorted(good)

    def test_a_full_queue_takes_what_still_fits(self):
        """A joint put that finds no room is tried one by one, until one finds none; nobody is asked after that."""
        events = numbered(10)
        room = [3]

        def refuses(put):
            if len(put) > room[0]:
                return QueueFull()
            room[0] -= len(put)
            return None

        queue = Recorder(refuses)
        queue.gate.clear()

        async def scenario():
            commit = GroupCommit(queue, asyncio.get_running_loop())
            waiting = [commit.put(one) for one in events]
            queue.gate.set()
            said = await asyncio.gather(*waiting)
            commit.close(5)
            return said

        said = asyncio.run(scenario())
        assert [one is None for one in said].count(True) == 3
        assert {one.reason for one in said if one is not None} == {"queue_full"}
        assert len([put for put in queue.puts if len(put) == 1]) <= 3 + 2

    @pytest.mark.parametrize("reason", ["sync_timeout", "sync_failed", "disk_full", "folder_gone"])
    def test_a_disk_that_fails_is_asked_once(self, reason):
        """A group's refusal by the disk is each one's: a wait of half a minute must not be repeated for each."""
        queue = Recorder(lambda _: QueueUnavailable(reason=reason))
        queue.gate.clear()

        async def scenario():
            commit = GroupCommit(queue, asyncio.get_running_loop())
            waiting = [commit.put(one) for one in numbered(50)]
            queue.gate.set()
            said = await asyncio.gather(*waiting)
            commit.close(5)
            return said

        assert {one.reason for one in asyncio.run(scenario())} == {reason}
        assert len(queue.puts) <= 2

    @pytest.mark.parametrize(
        ("error", "status", "reason"),
        [
            (QueueFull(), 503, "queue_full"),
            (QueueUnavailable(reason="disk_full"), 503, "disk_full"),
            (QueueUnavailable(reason="sync_failed"), 503, "sync_failed"),
            (EventTooLarge(), 413, "too_large"),
            (RuntimeError("quotes a payload"), 503, "queue_unavailable"),
        ],
    )
    def test_each_refusal_is_an_answer(self, error, status, reason):
        """A queue's no, of whatever kind, is a no to the client, and says nothing of the event."""
        said = put_now(Recorder(lambda _: error), numbered(1)[0])
        assert (said.status, said.reason) == (status, reason)
        assert (said.retry_after_s > 0) == (status == 503)
        assert "payload" not in said.detail

    def test_groups_are_bounded(self):
        """A put holds so many events and bytes, and no more."""
        queue = Recorder()
        assert asyncio.run(committed(queue, [numbered(3 * TOGETHER_MAX)])) == [None] * (3 * TOGETHER_MAX)
        assert max(len(put) for put in queue.puts) <= TOGETHER_MAX
        large = [Event(BARE, bytes(3 << 20)) for _ in range(4)]
        queue = Recorder()
        asyncio.run(committed(queue, [large]))
        assert max(len(put) for put in queue.puts) <= 2

    def test_an_answer_nobody_waits_for(self):
        """A client that went away while its event was stored disturbs nobody."""
        queue = Recorder()

        async def scenario():
            commit = GroupCommit(queue, asyncio.get_running_loop())
            queue.gate.clear()
            gone = commit.put(numbered(1)[0])
            gone.cancel()
            queue.gate.set()
            said = await commit.put(numbered(2)[1])
            commit.close(5)
            return said

        assert asyncio.run(scenario()) is None

    def test_one_sync_for_all(self, tmp_path):
        """At ``fsync`` a group is one sync of the segment, and what was answered is on the disk."""
        disk = HookedDisk()
        syncs = []
        queue = JournalQueue(tmp_path / "j", "fsync", disk=disk)
        queue.sends = False
        queue.put(numbered(1))
        disk.hooks["datasync"] = lambda fd: syncs.append(fd)  # noqa: PLW0108 - it returns None
        assert put_now(queue, *numbered(100)) is None
        assert len(syncs) == 1
        queue.close()


class TestAllowed:
    """``AllowedTransport``."""

    def test_only_what_is_on_the_list_is_asked(self):
        """A request for another URL never reaches the transport; it comes back as held."""
        inner = RecordingTransport()
        transport = AllowedTransport(inner, {BARE.url})
        good = Request(BARE, b"{}", 1, 1.0)
        bad = Request(Envelope("http://169.254.169.254/latest"), b"{}", 2, 1.0)
        transport.start(good)
        transport.start(bad)
        done = {one.request.token: one.outcome for one in transport.wait(1.0)}
        assert isinstance(done[1], Response)
        assert isinstance(done[2], TransportError)
        assert (done[2].kind, "169.254" in done[2].message) == ("not_allowed", True)
        assert [request.token for request in inner.requests] == [1]

    def test_such_events_are_kept_and_reported(self, tmp_path):
        """Their endpoint is held; nothing is lost, nothing is sent."""
        seen = []
        dispatcher = EventDispatcher(
            JournalQueue(tmp_path / "j"), transport=AllowedTransport(RecordingTransport(), {"http://127.0.0.1:1/"}),
            observers=[seen.append],
        )  # fmt: skip
        assert dispatcher.put_event(numbered(1)[0], urgent=True)
        wait_for(lambda: [one for one in seen if isinstance(one, BreakerChanged)])
        change = next(one for one in seen if isinstance(one, BreakerChanged))
        assert (change.state, change.reason) == ("held", "not_allowed")
        assert dispatcher.close(0.5).queued == 1


class TestReadiness:
    """``/readyz``."""

    def test_many_askers_one_look(self):
        """Who asks while a look is under way, or soon after it, gets its answer."""
        looks = []

        def look():
            looks.append(1)
            time.sleep(0.1)

        async def scenario():
            ready = Readiness(look)
            said = await asyncio.gather(*(ready() for _ in range(20)))
            return [*said, await ready()]

        assert asyncio.run(scenario()) == [None] * 21
        assert len(looks) == 1

    def test_it_is_asked_again(self, monkeypatch):
        """An answer is soon old."""
        monkeypatch.setattr("eventpost.relay.readiness.AGE_MAX_S", 0.0)
        answers = iter(["disk_full", None])

        async def scenario():
            ready = Readiness(lambda: next(answers))
            return [await ready(), await ready()]

        first, second = asyncio.run(scenario())
        assert (first.status, first.reason) == (503, "disk_full")
        assert second is None

    def test_a_disk_that_hangs(self, monkeypatch):
        """No answer in time is a no; the next asker does not cost another thread."""
        monkeypatch.setattr("eventpost.relay.readiness.DEADLINE_S", 0.1)
        hangs = threading.Event()
        looks = []

        def look():
            looks.append(1)
            hangs.wait(20)

        async def scenario():
            ready = Readiness(look)
            said = [await ready() for _ in range(3)]
            hangs.set()
            return said

        assert [one.reason for one in asyncio.run(scenario())] == ["disk"] * 3
        assert len(looks) == 1

    def test_stopping(self):
        """A relay that stops is not ready."""
        ready = Readiness(lambda: None)
        ready.stopping = True
        assert asyncio.run(ready()).reason == "closed"


class TestProbe:
    """``why_full_or_gone``."""

    def test_well(self, tmp_path):
        """A folder that takes events says nothing, and nothing is left in it."""
        queue = JournalQueue(tmp_path / "j")
        before = sorted(os.listdir(tmp_path / "j"))
        for durable in (False, True):
            assert why_full_or_gone(queue.folder, bytes_max=1 << 30, durable=durable) is None
        assert sorted(os.listdir(tmp_path / "j")) == before
        queue.close()

    @pytest.mark.parametrize(
        ("method", "number", "reason"),
        [
            ("allocate", 28, "disk_full"),
            ("create", 13, "permission"),
            ("create", 24, "no_descriptors"),
            ("datasync", 5, "disk"),
        ],
    )
    def test_each_fault_is_named(self, tmp_path, method, number, reason):
        """In the ledger's words; and nothing is left behind."""
        disk = HookedDisk()
        queue = JournalQueue(tmp_path / "j", disk=disk)
        before = sorted(os.listdir(tmp_path / "j"))

        def fail(*_, **__):
            raise OSError(number, "injected")

        disk.hooks[method] = fail
        assert why_full_or_gone(queue.folder, bytes_max=1 << 30, durable=True) == reason
        disk.hooks.clear()
        assert sorted(os.listdir(tmp_path / "j")) == before
        queue.close()

    def test_full(self, tmp_path):
        """No room for one more segment under the bound."""
        queue = JournalQueue(tmp_path / "j", disk=Disk())
        assert why_full_or_gone(queue.folder, bytes_max=1000, durable=False) == "queue_full"
        queue.close()


class TestChildren:
    """The standing with a worker."""

    def test_told_and_heard(self):
        """The settings arrive as they were sent; an end before their end is an end."""
        told = Told(read_settings({"workers": 3}, environ={}), "/run", "format")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(told.as_line())
            heard = hear(theirs)
            assert heard is not None
            assert (heard.settings.as_dict(), heard.run_dir) == (told.settings.as_dict(), "/run")
            ours.sendall(told.as_line()[:-10])
            ours.close()
            assert hear(theirs) is None

    def test_pauses_between_restarts_grow_and_begin_anew(self, monkeypatch):
        """A worker that dies at once is followed after ever longer pauses, up to a bound; one that lived, at once."""
        now = [1000.0]
        monkeypatch.setattr("eventpost.relay.children.time.monotonic", lambda: now[0])
        slot = Slot()
        pauses = []

        class Dead:
            def poll(self):
                return 1

        for _ in range(12):
            slot.process = Dead()
            slot._started_at = now[0]
            assert slot.reap(now[0]) == 1
            pauses.append(slot.due_at - now[0])
            now[0] = slot.due_at
        assert pauses[:3] == [0.0, RESTART_FIRST_S, 2 * RESTART_FIRST_S]
        assert pauses[-1] == RESTART_MAX_S
        slot.process, slot._started_at = Dead(), now[0] - 3600
        slot.reap(now[0])
        assert slot.due_at == now[0]
