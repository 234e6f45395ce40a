"""The main process's figures: counted over all folders, written for the workers, also while a folder is away."""

import time

from eventpost import EventDispatcher, JournalQueue
from eventpost.event import Envelope, Event
from eventpost.queues.journal.view import JournalView
from eventpost.relay.children import Slot
from eventpost.relay.figures import Figures
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
