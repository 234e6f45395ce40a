"""Puts of several threads on Redis Streams, around a sending side that only notes what it is handed."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from support import event, missing, number_of

try:
    from eventpost.queues.streams import commit
    from eventpost.queues.streams.commit import Commit
except ModuleNotFoundError as error:
    missing(f"{error.name} (the extra redis)")
from redis_support import until


class Puts:
    """What sends: notes each put's events and deadline; ``says``: what is raised in turn, or called, or None."""

    def __init__(self):
        self.sent = []
        self.deadlines = []
        self.says = []

    def send(self, events, deadline):
        """Note it, and raise what there is to raise."""
        self.sent.append([number_of(one.payload) for one in events])
        self.deadlines.append(deadline)
        said = self.says.pop(0) if self.says else None
        if callable(said):
            said = said()
        if said is not None:
            raise said


class Together:
    """Who puts; ``time`` stands still, and a pause moves it."""

    def __init__(self, monkeypatch, **options):
        self.time = SimpleNamespace(now=100.0, paused=[])
        monkeypatch.setattr(commit, "monotonic", lambda: self.time.now)
        monkeypatch.setattr(commit.primitives, "pause", self.pause)
        self.puts = Puts()
        told = {"bytes_max": 10**6, "overflow": "refuse", "block_timeout_s": 1.0, "timeout_s": 20.0,
                "is_sender": lambda: False}  # fmt: skip
        self.commit = Commit(self.puts, **{**told, **options})
        self.threads = []
        self.errors = {}

    def pause(self, seconds):
        """Move the time."""
        self.time.paused.append(seconds)
        self.time.now += seconds

    def put(self, *numbers, size=40):
        """Put events on this thread."""
        self.commit.put([event(number, size) for number in numbers])

    def behind(self, *numbers, size=40):
        """Put events on another thread, while somebody sends; returns when it waits."""
        waiting = len(self.commit._waiting)

        def put():
            try:
                self.put(*numbers, size=size)
            except BaseException as error:
                self.errors[numbers] = error

        self.threads.append(threading.Thread(target=put))
        self.threads[-1].start()
        until(lambda: len(self.commit._waiting) > waiting)

    def led(self, *others, size=40, says=()):
        """Put event 0, and have others come while it is sent; what is said is said to those."""

        def come():
            for numbers in others:
                self.behind(*numbers, size=size)

        self.puts.says = [come, *says]
        self.put(0)
        for thread in self.threads:
            thread.join(10)
        return self.puts.sent[1:]
