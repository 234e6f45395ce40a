"""Server-sent events: one look a second at state, folders and dead letters, told to every page that is open.

Nobody looks while nobody watches.  What a look finds is the same for all; only the events that go to a page depend on
its filter.  A page that reads too slowly is let go, and comes back by itself with everything anew, as one does that was
away: each stream begins with the whole picture.

``hello`` names the run, ``state`` the figures, ``events`` the tail, ``dead`` the letters by reason, ``job`` what is
being done to them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, Final

import orjson

from ..state import read_state
from . import verdict
from .events import EventsTail, News
from .jobs import Jobs
from .letters import Letters
from .rows import Filter, Row

TICK_S: Final = 1.0
STREAM_S: Final = 3600.0
READERS_MAX: Final = 64
BEHIND_MAX: Final = 8
TOLD_MAX: Final = 100
LATELY_S: Final = 60.0
LETTERS_REST: Final = 10.0
"""Between two counts of the dead letters lies this many times what the last one took."""
LETTERS_AT_LEAST_S: Final = 10.0
_log = logging.getLogger("eventpost.relay")

InThread = Callable[..., Awaitable[Any]]
Look = dict[str, Any]


def sse(name: str, value: Any) -> bytes:
    """Return one server-sent event; JSON has no line breaks of its own."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value))


class Window:
    """What can be seen from here, read from the disk; belongs to one thread at a time."""

    def __init__(self, run_dir: str, tail: EventsTail, letters: Letters, jobs: Jobs) -> None:
        self._run_dir = run_dir
        self._tail = tail
        self._letters = letters
        self._jobs = jobs
        self._by_reason: dict[str, int] = {}
        self._dead: int | None = None
        self._letters_at = 0.0
        self._letters_took_s = 0.0
        self._unclosed_at: float | None = None
        self._refused: deque[tuple[float, Mapping[str, int]]] = deque()

    def look(self) -> tuple[Look, News]:
        """Look at everything once."""
        now = time()
        state = read_state(self._run_dir)
        total = None if state is None else verdict.ledger(state)
        turned_away = self._turned_away({} if total is None else total["refused"])
        if total is None or total["closes"]:
            self._unclosed_at = None
        elif self._unclosed_at is None:
            self._unclosed_at = monotonic()
        unclosed_s = 0.0 if self._unclosed_at is None else monotonic() - self._unclosed_at
        self._count_letters(None if total is None else total["dead"])
        look = {
            "at": now,
            "verdict": verdict.verdict(state, now, unclosed_s=unclosed_s, turned_away=turned_away),
            "ledger": None if total is None else total | {"closes": unclosed_s <= verdict.UNCLOSED_S},
            "dead": {"by_reason": self._by_reason, "total": sum(self._by_reason.values())},
            "job": self._jobs.note(),
        }
        if state is not None:
            look |= {name: state.get(name) or [] for name in ("series", "workers", "journals", "happened")}
            look |= {"endpoints": verdict.endpoints(state), "started_at": state.get("started_at")}
            look["written_at"] = state["at"]
        return look, self._tail.look(self._letters.origins)

    def rows(self) -> list[Row]:
        """Return the events that are remembered."""
        return self._tail.rows()

    def _turned_away(self, refused: Mapping[str, int]) -> dict[str, int]:
        """Return what was refused within the last minute, by reason; what was before the first look is not told."""
        now = monotonic()
        self._refused.append((now, dict(refused)))
        while len(self._refused) > 1 and self._refused[0][0] < now - LATELY_S:
            self._refused.popleft()
        before = self._refused[0][1]
        return {reason: count - before.get(reason, 0) for reason, count in refused.items()}

    def _count_letters(self, dead: int | None) -> None:
        """Count the letters by reason where their number has changed, and now and then."""
        now = monotonic()
        rest_s = LETTERS_REST * self._letters_took_s
        if now < self._letters_at + (rest_s if dead != self._dead else max(rest_s, LETTERS_AT_LEAST_S)):
            return
        self._by_reason = self._letters.by_reason()
        self._dead, self._letters_at = dead, monotonic()
        self._letters_took_s = self._letters_at - now


@dataclass(eq=False)
class _Reader:
    """One open page.  ``after``: the time of the last row of the series that it was told."""

    wanted: Filter
    queue: asyncio.Queue[tuple[Look, News] | None] = field(default_factory=lambda: asyncio.Queue(BEHIND_MAX))
    after: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)


class Live:
    """The streams of one worker.  Belongs to its loop."""

    def __init__(self, window: Window, in_thread: InThread, *, run: str) -> None:
        self._window = window
        self._in_thread = in_thread
        self._run = run
        self._readers: set[_Reader] = set()
        self._task: asyncio.Task[None] | None = None
        self._newest: Look | None = None

    @property
    def is_full(self) -> bool:
        """Whether no further page can be told."""
        return len(self._readers) >= READERS_MAX

    async def stream(self, wanted: Filter) -> AsyncIterator[bytes]:
        """Yield what one page is told, for an hour at most: then it comes back, and is asked again who it is."""
        reader = _Reader(wanted)
        self._readers.add(reader)
        ends_at = monotonic() + STREAM_S
        try:
            yield b"retry: 1000\n\n" + sse("hello", {"run": self._run})
            if self._task is None or self._task.done():
                self._newest = None
                self._task = asyncio.get_running_loop().create_task(self._look_on())
            elif self._newest is not None:
                for part in self._whole(reader, self._newest, await self._in_thread(self._window.rows)):
                    yield part
            while monotonic() < ends_at:
                told = await reader.queue.get()
                if told is None:
                    return
                look, news = told
                if reader.after:
                    parts = self._news(reader, look, news)
                else:
                    parts = self._whole(reader, look, await self._in_thread(self._window.rows))
                for part in parts:
                    yield part
        finally:
            self._readers.discard(reader)

    async def _look_on(self) -> None:
        while self._readers:
            began = monotonic()
            try:
                look, news = await self._in_thread(self._window.look)
            except Exception:  # noqa: BLE001 - whatever a disk does, the next look may succeed
                _log.exception("eventpost relay: the page could not look")
            else:
                self._newest = look
                for reader in list(self._readers):
                    self._tell(reader, look, news)
            await asyncio.sleep(max(TICK_S / 4, TICK_S - (monotonic() - began)))

    def _tell(self, reader: _Reader, look: Look, news: News) -> None:
        try:
            reader.queue.put_nowait((look, news))
        except asyncio.QueueFull:
            self._readers.discard(reader)
            with suppress(asyncio.QueueEmpty):
                while True:
                    reader.queue.get_nowait()
            reader.queue.put_nowait(None)

    def _whole(self, reader: _Reader, look: Look, rows: list[Row]) -> list[bytes]:
        """Return the whole picture."""
        reader.after, reader.told = 0.0, {}
        wanted = [row for row in rows if reader.wanted.takes(row)][-TOLD_MAX:]
        events = sse("events", {"reset": True, "rows": wanted, "changed": [], "passed_over": 0})
        return [*self._figures(reader, look), events]

    def _news(self, reader: _Reader, look: Look, news: News) -> list[bytes]:
        """Return what is new to a page."""
        parts = self._figures(reader, look)
        wanted = [row for row in news.rows if reader.wanted.takes(row)]
        told = wanted[-TOLD_MAX:]
        passed_over = news.passed_over + len(wanted) - len(told)
        if told or news.changed or passed_over:
            # Those that a filter took, takes now, or takes no longer: the page knows which of them it shows.
            value = {"reset": False, "rows": told, "changed": news.changed, "passed_over": passed_over}
            parts.append(sse("events", value))
        return parts

    def _figures(self, reader: _Reader, look: Look) -> list[bytes]:
        series = look.get("series") or []
        rows = [row for row in series if row[0] > reader.after]
        state = {name: value for name, value in look.items() if name not in ("series", "dead", "job")}
        state |= {"series": rows, "reset": not reader.after}
        reader.after = series[-1][0] if series else (reader.after or 1.0)
        parts = [sse("state", state)]
        for name in ("dead", "job"):
            if name not in reader.told or reader.told[name] != look[name]:
                reader.told[name] = look[name]
                parts.append(sse(name, look[name]))
        return parts
