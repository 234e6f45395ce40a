"""The stream that every open page hears."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest

from eventpost.relay.page import live
from eventpost.relay.page.events import News
from eventpost.relay.page.live import Live
from eventpost.relay.page.rows import Filter


class FakeWindow:
    """A window that shows what it is told to."""

    def __init__(self) -> None:
        self.looks = 0
        self.kept: list[dict[str, Any]] = []
        self.fails = False

    def look(self) -> tuple[dict[str, Any], News]:
        """Return a look with one event."""
        self.looks += 1
        if self.fails:
            raise OSError(5, "Input/output error")
        row = {"id": f"0/{self.looks}", "kind": "conversion" if self.looks % 2 else "impression", "key": "k"}
        self.kept.append(row)
        series = [[number, 0] for number in range(1, self.looks + 1)]
        look = {"at": 1.0, "verdict": {}, "dead": {"total": 0}, "job": None, "series": series}
        return look, News([row], [], 0)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows so far."""
        return list(self.kept)


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> FakeWindow:
    """Return a window that is looked through often."""
    monkeypatch.setattr(live, "TICK_S", 0.02)
    return FakeWindow()


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call at once."""
    return function(*arguments)


async def told(stream: AsyncIterator[bytes], count: int) -> list[tuple[str, Any]]:
    """Return the next events of a stream."""
    found = []
    while len(found) < count:
        part = await asyncio.wait_for(anext(stream), 10)
        for one in part.decode().split("\n\n"):
            if one.startswith("event: "):
                name, _, data = one.removeprefix("event: ").partition("\ndata: ")
                found.append((name, orjson.loads(data)))
    return found


def test_a_stream_begins_with_the_whole_picture_and_goes_on_with_news(window: FakeWindow) -> None:
    """What has not changed is not told again; of the series only new rows."""

    async def scenario() -> None:
        stream = Live(window, in_thread, run="r").stream(Filter())  # type: ignore[arg-type]  # a fake stands for it
        first = await told(stream, 5)
        assert [name for name, _ in first] == ["hello", "state", "dead", "job", "events"]
        assert (first[0][1], first[1][1]["reset"], first[4][1]["reset"]) == ({"run": "r"}, True, True)
        assert len(first[4][1]["rows"]) == 1
        after = await told(stream, 2)
        assert [name for name, _ in after] == ["state", "events"]
        assert (after[0][1]["reset"], len(after[0][1]["series"]), len(after[1][1]["rows"])) == (False, 1, 1)
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator

    asyncio.run(scenario())


def test_nobody_looks_while_nobody_watches(window: FakeWindow) -> None:
    """The last page that goes ends the looking; the next one begins it anew."""

    async def scenario() -> None:
        streams = Live(window, in_thread, run="r")  # type: ignore[arg-type]  # as above
        one, two = streams.stream(Filter()), streams.stream(Filter(kind="impression"))
        await told(one, 5)
        seen = (await told(two, 5))[4][1]["rows"]
        assert {row["kind"] for row in seen} <= {"impression"}
        await one.aclose()  # type: ignore[attr-defined]  # as above
        before = window.looks
        await told(two, 3)
        assert window.looks > before
        await two.aclose()  # type: ignore[attr-defined]  # as above
        await asyncio.sleep(0.1)
        before = window.looks
        await asyncio.sleep(0.2)
        assert window.looks == before
        assert (await told(streams.stream(Filter()), 5))[1][1]["reset"]

    asyncio.run(scenario())


def test_a_page_that_does_not_read_is_let_go(window: FakeWindow) -> None:
    """It would fill the memory; it comes back by itself."""

    async def scenario() -> None:
        streams = Live(window, in_thread, run="r")  # type: ignore[arg-type]  # as above
        stream = streams.stream(Filter())
        await told(stream, 5)
        for _ in range(200):
            await asyncio.sleep(0.02)
            if not streams._readers:
                break
        assert not streams._readers
        rest = [part async for part in stream]
        assert len(rest) <= 4 * live.BEHIND_MAX

    asyncio.run(scenario())


def test_a_look_that_fails_is_no_end(window: FakeWindow, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that errs for a while is logged, and looked at again."""

    async def scenario() -> None:
        stream = Live(window, in_thread, run="r").stream(Filter())  # type: ignore[arg-type]  # as above
        await told(stream, 5)
        window.fails = True
        await asyncio.sleep(0.1)
        window.fails = False
        before = window.looks
        await told(stream, 20)
        assert window.looks > before

    asyncio.run(scenario())
    assert "the page could not look" in caplog.text


def test_a_stream_ends_so_that_who_reads_is_asked_again(window: FakeWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour; the browser opens it anew."""
    monkeypatch.setattr(live, "STREAM_S", 0.1)

    async def scenario() -> None:
        stream = Live(window, in_thread, run="r").stream(Filter())  # type: ignore[arg-type]  # as above
        parts = [part async for part in stream]
        assert 4 < len(parts) < 200

    asyncio.run(asyncio.wait_for(scenario(), 20))
