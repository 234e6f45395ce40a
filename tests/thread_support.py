"""A sender's thread whose life happens here and now, with a clock that is told; the sender says what it is told to."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from eventpost.queues.memory import MemoryQueue
from eventpost.sender import thread as module
from eventpost.sender.flush import Flush
from eventpost.sender.lane import Limits
from eventpost.sender.loop import Sender
from eventpost.sender.retry import RetryPolicy
from eventpost.sender.thread import SenderThread
from eventpost.testing.clock import ManualClock
from eventpost.testing.transports import RecordingTransport
from eventpost.transports.protocol import Completion
from eventpost.watch.signals import Signal

URL = "http://127.0.0.1:1/"
STARTED = ["on_start", "make_ready", "thread"]


class Scripted(Sender):
    """A sender that says what it is told to, and notes what it is asked."""

    life: "Life"

    def step(self, completions: Sequence[Completion]) -> float:
        """Say what comes next; without a next, end."""
        return self.life.stepped(completions)

    def quotas(self) -> dict[str, int]:
        """Say what was last said."""
        return {URL: len(self.life.said)}

    def arrived(self, quotas: dict[str, int]) -> bool:
        """By now they must be known to those who put."""
        assert self.life.thread._quotas is quotas
        assert quotas == self.quotas()
        return self.life.arrivals.pop(0) if self.life.arrivals else False

    def land(self, completions: Sequence[Completion]) -> bool:
        """Say how many are still out."""
        self.life.said.append(("land", len(completions)))
        return self.life.landing(completions)

    def abandon(self) -> None:
        """Note it."""
        self.life.said.append("abandon")

    def request_flush(self) -> Flush:
        """Hand out one that the test holds, too."""
        self.life.said.append("flush")
        return self.life.flush

    def after_fork_in_child(self) -> None:
        """Note it; it is called before there is a life, too."""
        self.life.said.append("fork")


class TimedTransport(RecordingTransport):
    """Notes how long it is waited for; to wait takes as long as ``takes_s`` says."""

    life: "Life"
    takes_s = 0.0
    due: Sequence[Any] = ()

    def wait(self, timeout_s: float) -> Any:
        """Note it."""
        self.waits_s.append(timeout_s)
        self.life.clock.advance(self.takes_s)
        due, self.due = self.due, ()
        return due

    def make_ready(self) -> None:
        """Note it."""
        self.life.said.append("make_ready")

    def close(self, timeout_s: float) -> None:
        """Note it."""
        self.life.said.append(("close", timeout_s))


class Life:
    """A thread whose life happens here and now: what would start it lives it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, starts: bool = True) -> None:
        self.said: list[Any] = []
        self.signals: list[Signal] = []
        self.pauses: list[float] = []
        self.on_pause: Callable[[], object] = lambda: None
        self.steps: list[Any] = []
        self.arrivals: list[bool] = []
        self.landing: Callable[[Sequence[Completion]], bool] = lambda _: False
        self.flush = Flush()
        self.starts = starts
        self.clock, self.queue, self.transport = ManualClock(start_s=0.0), MemoryQueue(), TimedTransport()
        self.transport.life = self
        self.sender = Scripted(
            self.queue, self.transport, clock=self.clock, chance=lambda: 0.0, emit=self.signals.append,
            policy=RetryPolicy(), limits=Limits(),
        )  # fmt: skip
        self.sender.life = self
        self.thread = SenderThread(
            self.sender, self.queue, self.transport, clock=self.clock, emit=self.signals.append,
            on_start=lambda: self.said.append("on_start"),
        )  # fmt: skip
        monkeypatch.setattr(module, "start_new_thread", self._start)
        monkeypatch.setattr(module, "pause", self._pause)

    def _start(self, run: Callable[..., None], args: tuple[Any, ...]) -> int:
        self.said.append("thread")
        if not self.starts:
            raise RuntimeError("can't start new thread")
        run(*args)
        return 1

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)
        self.on_pause()

    def stepped(self, completions: Sequence[Completion]) -> float:
        """Take the next step of the script."""
        self.said.append(("step", len(completions)))
        next_ = self.steps.pop(0) if self.steps else self.end
        value = next_() if callable(next_) else next_
        if isinstance(value, BaseException):
            raise value
        return float(value)

    def end(self) -> float:
        """End from within, as an observer may."""
        assert not self.thread.close()
        return 0.0

    def live(self, *steps: Any) -> list[float]:
        """Live through these steps; return how long was waited before each, and before the end."""
        self.steps = list(steps)
        self.transport.waits_s.clear()
        self.thread.start()
        return self.transport.waits_s
