"""The relay's page in a real Chromium, and an endpoint behind it that refuses what it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from eventpost.testing import Collector
from eventpost.testing.collector import CollectedRequest, Reply
from relay_support import ask, wait_for
from support import missing

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT_MS = 20_000


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Run a browser; where there is none the test is skipped, and fails in CI."""
    if not os.path.exists(CHROMIUM):
        missing(f"{CHROMIUM} (Debian's package chromium)")
    if find_spec("playwright") is None:
        missing("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """A page that is open.  What it logs as an error, and what it asks of any host but its own, is noted."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.root = url
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(WAIT_MS)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.strangers: list[str] = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.errors.append(said.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.root).netloc:
            self.strangers.append(request.url)

    def go(self, path: str = "/") -> Any:
        """Load the page; returns the answer."""
        return self.page.goto(self.root + path)

    def text(self, selector: str) -> str:
        """Return what stands in an element."""
        return str(self.page.locator(selector).inner_text())

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until a text stands in an element."""
        self.page.locator(selector, has_text=text).first.wait_for()

    def wait(self, expression: str) -> None:
        """Wait until an expression is true.  Asked from outside: within the page its policy lets nobody evaluate."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while not self._is_true(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            self.page.wait_for_timeout(50)

    def _is_true(self, expression: str) -> bool:
        try:
            return bool(self.page.evaluate(expression))
        except Exception as error:
            if "navigation" in str(error):  # the page was loaded anew just now
                return False
            raise

    def wait_for_rows(self, body: str, count: int) -> None:
        """Wait until a table has so many rows."""
        self.wait(f"document.querySelectorAll('{body} tr').length === {count}")

    def number(self, term: str) -> int:
        """Return a term of the ledger; -1: it is not known yet."""
        shown = self.text(f'.term[data-term="{term}"] .n').replace(",", "")
        return int(shown) if shown.isdigit() else -1

    def wait_for_number(self, term: str, value: int) -> None:
        """Wait until a term of the ledger has a value."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while (shown := self.number(term)) != value:
            assert time.monotonic() < deadline, f"{term} is {shown}, not {value}"
            self.page.wait_for_timeout(50)

    def check(self) -> None:
        """No error was logged, and nobody else was asked for anything."""
        assert self.errors == []
        assert self.strangers == []

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            self.check()


class Endpoint:
    """An endpoint that answers 400 to what holds one of ``bad``, and 503 to everything while it is ``down``."""

    def __init__(self) -> None:
        self.bad: set[bytes] = set()
        self.down = False
        self.bodies: list[bytes] = []
        self._lock = threading.Lock()
        self.collector = Collector(answer=self._answer)

    def _answer(self, request: CollectedRequest) -> Reply:
        if self.down:
            return Reply(503)
        for word in self.bad:
            if word in request.body:
                return Reply(400, body=b'{"message": "unknown entity of visitor-7", "html": "<b>no</b>"}')
        with self._lock:
            self.bodies.append(request.body)
        return Reply(204)

    def __enter__(self) -> Endpoint:
        self.collector.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self.collector.__exit__(*details)


def conversion(number: int, key: str, *, project: str = "77", visitor: str = "visitor-7") -> bytes:
    """Return a batch with one conversion."""
    event = {"uuid": uuid_of(number), "timestamp": 1_700_000_000_000, "key": key, "entity_id": "7", "type": key}
    return _batch(visitor, project, {"events": [event]})


def impression(number: int, flag: str, variation: str, *, project: str = "77") -> bytes:
    """Return a batch with one impression."""
    named = {"flag_key": flag, "rule_key": "r", "rule_type": "experiment", "variation_key": variation, "enabled": True}
    decision = {"campaign_id": "1", "experiment_id": "2", "variation_id": "3", "metadata": named}
    event = {"uuid": uuid_of(number), "timestamp": 1_700_000_000_000, "key": "campaign_activated", "entity_id": "1"}
    event["type"] = "campaign_activated"
    return _batch("visitor-7", project, {"decisions": [decision], "events": [event]})


def uuid_of(number: int) -> str:
    """Return the uuid of the event with that number."""
    return f"00000000-0000-4000-8000-{number:012d}"


def _batch(visitor: str, project: str, snapshot: dict[str, Any]) -> bytes:
    visitors = [{"visitor_id": visitor, "attributes": [], "snapshots": [snapshot]}]
    return json.dumps({"account_id": "1", "project_id": project, "visitors": visitors}).encode()


def post(port: int, *bodies: bytes) -> None:
    """Hand events to the relay."""
    for body in bodies:
        assert ask(port, body, "Content-Type: application/json").status == 204


__all__ = ["CHROMIUM", "Endpoint", "Visit", "chromium", "conversion", "impression", "post", "uuid_of", "wait_for"]
