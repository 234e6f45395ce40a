"""The main process's figures: counted over all folders, written for the workers, also while a folder is away."""

import time
from types import SimpleNamespace

from eventpost import EventDispatcher, JournalQueue, MemoryQueue
from eventpost.errors import QueueUnavailable
from eventpost.event import Envelope, Event
from eventpost.queues.journal.view import JournalView
from eventpost.queues.view import Status
from eventpost.relay.children import Slot
from eventpost.relay.figures import NEXT_S_MAX, Figures
from eventpost.relay.holding import Holding
from eventpost.relay.state import Monitor, read_state
from relay_support import wait_for

EVENT = Event(Envelope("http://127.0.0.1:9/v1/events"), b'{"visitors":[]}')


def figures_of(tmp_path, *names):
    """Return figures of journals with one event each, and their dispatchers."""
    senders = []
    for name in names:
        queue = JournalQueue(tmp_path / name)
        holding = Holding(queue, JournalView(tmp_path / name), 1 << 30 if name == "own" else None, queue.scan)
        senders.append((holding, EventDispatcher(queue, sender="none")))
        queue.put([EVENT])
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return Figures(str(run_dir), senders, [Slot()], Monitor(), lambda: {"token": 3}), senders


def test_what_is_written(tmp_path):
    """The folders' sums, the workers, what was refused, and what the monitor knows."""
    figures, senders = figures_of(tmp_path, "own", "app")
    next_s = figures.write()
    state = read_state(str(tmp_path / "run"))
    assert state is not None
    assert state["next_s"] == next_s >= 0.5
    assert [one["path"] for one in state["journals"]] == [str(tmp_path / "own"), str(tmp_path / "app")]
    assert [one["queued"] for one in state["journals"]] == [1, 1]
    assert [one["bytes_max"] for one in state["journals"]] == [1 << 30, None]
    assert all(one["closes"] for one in state["journals"])
    assert state["refused"] == {"token": 3}
    assert state["workers"] == [{"pid": 0, "restarts": 0}]
    assert abs(state["at"] - time.time()) < 10
    for _, dispatcher in senders:
        dispatcher.close()


def test_a_count_that_took_long_puts_the_next_off_by_a_bound(tmp_path, monkeypatch):
    """Ten times what it took, and half a minute at most: a disk that stalled once leaves nobody without figures."""
    figures, senders = figures_of(tmp_path, "own")
    times = iter([0.0, 0.0, 2.0, 100.0, 100.0, 160.0])
    monkeypatch.setattr("eventpost.relay.figures.time", SimpleNamespace(time=time.time, monotonic=lambda: next(times)))
    assert figures.write() == 20.0
    assert figures.write() == NEXT_S_MAX
    assert read_state(str(tmp_path / "run"))["next_s"] == NEXT_S_MAX
    senders[0][1].close()


def test_a_folder_that_is_away(tmp_path):
    """What was last known of it stands there, with why it is no longer counted; the others go on."""
    figures, senders = figures_of(tmp_path, "own", "app")
    figures.write()
    (tmp_path / "app").rename(tmp_path / "away")
    senders[0][0].queue.put([EVENT])
    figures.write()
    state = read_state(str(tmp_path / "run"))
    own, app = state["journals"]
    assert (own["queued"], app["queued"]) == (2, 1)
    assert "cannot be counted" in app["needs"][0]
    (tmp_path / "away").rename(tmp_path / "app")
    for _, dispatcher in senders:
        dispatcher.close()


class Shared:
    """A queue that machines share as the figures see it: its own sum, and away when told to be."""

    place = "redis://host:6379 (name)"
    away = False

    def status(self):
        """Count it."""
        if self.away:
            raise QueueUnavailable("no answer")
        return Status(
            kind="streams", place=self.place, accepted=10, delivered=6, queued=4, dead=0, dropped={}, stored_bytes=1,
            dead_bytes=0, oldest_age_s=1.0, closes=True, in_flight=1,
            values={"accepted": 10, "delivered": 6, "queued": 4, "dead": 0, "dropped": {}, "closes": True, "lanes": []},
        )  # fmt: skip


def test_what_has_spilled_is_accepted_and_queued(tmp_path):
    """Beside the fleet's sum, also while that cannot be had; what has moved on is the fleet's."""
    spill = JournalQueue(tmp_path / "spill")
    spill.put([EVENT, EVENT])
    view = Shared()
    (tmp_path / "run").mkdir()
    holding = Holding(MemoryQueue(), view, 100, lambda: None, str(tmp_path / "spill"))
    figures = Figures(str(tmp_path / "run"), [(holding, None)], [Slot()], Monitor(), dict)

    def told():
        figures.write()
        (one,) = read_state(str(tmp_path / "run"))["journals"]
        return [one[name] for name in ("accepted", "delivered", "queued", "in_flight", "closes")], one["needs"]

    sums, needs = told()
    assert sums == [12, 6, 6, 1, True]
    assert "2 events in" in needs[0]
    view.away = True
    sums, needs = told()
    assert sums == [12, 6, 6, 1, True]
    assert "cannot be counted: no answer" in needs[0]
    view.away = False
    spill.ack(spill.claim(EVENT.lane, 2, 1 << 20))
    sums, needs = told()
    assert (sums, needs) == ([10, 6, 4, 1, True], [])
    spill.close()


def test_it_goes_on_by_itself(tmp_path):
    """Started, it writes again and again, and a fault in between does not end it."""
    figures, senders = figures_of(tmp_path, "own")
    figures.start()
    first = wait_for(lambda: read_state(str(tmp_path / "run")))
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    time.sleep(0.8)
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    wait_for(lambda: read_state(str(tmp_path / "run"))["at"] > first["at"] + 1)
    figures.close()
    senders[0][1].close()
