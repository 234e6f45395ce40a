"""``eventpost send``: a sender of its own for a queue that other processes put into.

Of a folder it adopts whatever its writers are not sending themselves: segments of processes that are gone, and of those
that only store (``sender="none"``).  A segment whose writer lives and sends is left to that writer.  From a queue that
machines share it claims beside all other senders; what one of these held that is gone, it takes when its lease ends.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final

import typer
from rich.progress import Progress

from ..doors.dispatcher import EventDispatcher
from ..doors.encode import check_url
from ..queues.journal import JournalQueue
from ..queues.place import JournalFolder, Place, SharedQueue
from ..queues.protocol import Queue
from . import show
from .leftovers import Leftovers
from .where import wrong_usage

LOOK_S: Final = 0.05
EMPTY_FOR_S: Final = 0.3
"""How long nothing must be waiting before the folder is looked through once more, and then counts as empty."""
CLOSE_TIMEOUT_S: Final = 10.0


def run_send(
    place: Place,
    *,
    until_empty: bool,
    timeout_s: float | None,
    endpoint: str | None,
    group: str | None,
) -> int:
    """Deliver until told to end; returns the exit code: 1 if ``until_empty`` was not reached in time."""
    with wrong_usage("--endpoint"):
        send_to = None if endpoint is None else check_url(endpoint)
    if isinstance(place, JournalFolder):
        place.view()  # a sender makes no folder: a wrong path is an error, not an empty journal
    told = _told_to_end()
    queue, begin, is_left = _opened(place, group)
    with wrong_usage("the environment"):
        dispatcher = EventDispatcher(queue, send_to=send_to, sender="thread")  # this one sends, whatever is set
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    begin()  # before there is a sender's thread: what lies here now is counted from the first look on
    dispatcher.start()
    emptied = stopped = False
    try:
        if until_empty:
            emptied, stopped = _until_empty(dispatcher, is_left, told, deadline)
        else:  # nothing to count here: an idle sender costs only its thread's looks
            stopped = bool(select.select([told], [], [], timeout_s)[0])
    finally:
        left = CLOSE_TIMEOUT_S if deadline is None or stopped else max(0.0, deadline - time.monotonic())
        signal.signal(signal.SIGINT, signal.default_int_handler)  # once more: do not wait
        dispatcher.close_at_exit(min(CLOSE_TIMEOUT_S, left))  # what an endpoint that is left alone would get is kept
        show.say(dispatcher.stats())
    return 1 if until_empty and not emptied else 0


def _opened(place: Place, group: str | None) -> tuple[Queue, Callable[[], object], Callable[[], bool]]:
    """Return the queue, how it begins, and what tells whether something is left that this sender may get to send."""
    if isinstance(place, SharedQueue):
        if group is not None:
            raise typer.BadParameter("a group shares a journal's folder, not a queue", param_hint="--group")
        with wrong_usage("--queue"):
            shared = place.open()
        leftovers = Leftovers(place.view(), shared.writer)
        return shared, lambda: None, leftovers.look
    shared_with: str | int | None = int(group) if group is not None and group.isdecimal() else group
    with wrong_usage("--group"):
        queue = JournalQueue(place.path, adopt="always", group=shared_with, allow_network_fs=True)
    return queue, queue.scan, lambda: queue.left_to_adopt() > 0


def _told_to_end() -> int:
    """Return a descriptor that can be read from once SIGTERM or Ctrl-C has come.

    The interpreter writes to it in the signal's own moment, whichever thread the kernel gives the signal to; a handler
    runs only when the main thread comes round, and a wait without an end is not woken for it.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return told


def _until_empty(
    dispatcher: EventDispatcher, is_left: Callable[[], bool], told: int, deadline: float | None
) -> tuple[bool, bool]:
    """Wait until nothing is left, a signal, or the deadline; tells whether nothing was, and whether a signal came."""
    empty_since: float | None = None
    with Progress(console=show.err, disable=not show.err.is_terminal, transient=True) as bar:
        task = bar.add_task("sending", total=None)
        while deadline is None or time.monotonic() < deadline:
            if select.select([told], [], [], LOOK_S)[0]:
                return False, True
            now = time.monotonic()
            count = dispatcher.stats()
            bar.update(task, total=count.accepted or None, completed=count.accepted - count.queued - count.in_flight)
            if count.queued or count.in_flight:
                empty_since = None
                continue
            empty_since = now if empty_since is None else empty_since
            if now - empty_since >= EMPTY_FOR_S and not is_left():
                return True, False
    return False, False
