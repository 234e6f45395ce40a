"""Who may see the page, and who may change things from it: over the wire, and in a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from eventpost.queues.journal import inspect
from eventpost.relay.access import make_digest
from page_support import Endpoint, Visit, chromium, conversion, post, wait_for
from relay_support import Answer, Relay, Wire, ask, request

TOKEN = "evp_a-token-of-the-page"
FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"


class Caller:
    """A program that plays a browser: it has the page's cookie and token."""

    def __init__(self, port: int) -> None:
        self.port = port
        page = ask(port, b"", "Accept: text/html", path="/", method="GET")
        assert page.status == 200
        self.cookie = page.headers["set-cookie"].partition(";")[0]
        found = re.search(rb'data-token="(\w+)"', page.body)
        assert found is not None
        self.token = found[1].decode()

    def change(self, action: str, value: Any, *lines: str, drop: tuple[str, ...] = ()) -> Answer:
        """Ask for a change as the page does, with other lines, or without some."""
        own = {
            "Host": f"127.0.0.1:{self.port}", "Origin": f"http://127.0.0.1:{self.port}",
            "Sec-Fetch-Site": "same-origin", "X-CSRF-Token": self.token, "Cookie": self.cookie,
            "Content-Type": "application/json",
        }  # fmt: skip
        for line in lines:
            name, _, said = line.partition(": ")
            own[name] = said
        headers = [f"{name}: {said}" for name, said in own.items() if name not in drop]
        return ask(self.port, json.dumps(value).encode(), *headers, path=f"/letters/{action}")


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Path]]:
    """Return a relay with three dead letters, and its journal."""
    journal = tmp_path_factory.mktemp("page") / "j"
    with Endpoint() as endpoint, Relay(journal, "--workers", "2", endpoint=endpoint.collector.url) as relay:
        endpoint.bad = {b"broken"}
        post(relay.port, *(conversion(number, "broken") for number in range(3)))
        wait_for(lambda: len(list(inspect.dead_letters(journal))) == 3)
        yield relay, journal


@pytest.mark.parametrize("action", ["retry", "discard", "stop"])
@pytest.mark.parametrize(
    ("lines", "drop"),
    [
        ((), ("X-CSRF-Token",)),
        (("X-CSRF-Token: 0123",), ()),
        ((), ("Cookie",)),
        (("Cookie: a=b",), ()),
        (("Sec-Fetch-Site: cross-site",), ()),
        (("Sec-Fetch-Site: same-site",), ()),
        (("Origin: http://evil.example",), ("Sec-Fetch-Site",)),
        (("Origin: null",), ("Sec-Fetch-Site",)),
        ((), ("Sec-Fetch-Site", "Origin")),
    ],
)
def test_what_does_not_come_from_the_page_changes_nothing(
    dead: tuple[Relay, Path], action: str, lines: tuple[str, ...], drop: tuple[str, ...]
) -> None:  # fmt: skip
    """No other site, no token, no cookie, another's cookie: refused, whichever worker is asked."""
    relay, journal = dead
    refused = Caller(relay.port).change(action, {"matching": {}}, *lines, drop=drop)
    assert refused.status == 403
    assert refused.reason in ("forged", "token")
    status = inspect.folder_status(journal)
    assert (status.dead, status.queued, status.dropped) == (3, 0, {})


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ({}, 400),
        ({"ids": []}, 400),
        ([], 400),
        ({"ids": ["../../etc/passwd:1"]}, 400),
        ({"ids": ["0/0000000000001-1.aa-000000:1"]}, 200),
        ({"ids": ["x" * 100] * 5000}, 400),
        ({"ids": ["x" * 300] * 5000}, 413),
    ],
)
def test_a_change_names_what_it_means(dead: tuple[Relay, Path], value: Any, status: int) -> None:
    """What is no id is refused, also for an export; one of no letter changes nothing."""
    relay, journal = dead
    caller = Caller(relay.port)
    answer = caller.change("discard", value)
    assert answer.status == status
    if status == 400:
        form = urlencode({"csrf": caller.token, "choice": json.dumps(value)}).encode()
        lines = (f"Cookie: {caller.cookie}", "Sec-Fetch-Site: same-origin", FORM)
        assert ask(relay.port, form, *lines, path="/letters/export").status == 400
    if status == 200:
        assert answer.json()["job"]["changed"] == 0
    assert inspect.folder_status(journal).dead == 3


def test_other_ways_in(dead: tuple[Relay, Path]) -> None:
    """Methods, types and paths that the page does not use are refused, in JSON, with the policy's headers."""
    relay, _ = dead
    caller = Caller(relay.port)
    assert caller.change("retry", {}, "Content-Type: text/plain").status == 415
    assert caller.change("purge", {}).status == 404
    for path in (
        "/letters/retry",
        "/nothing",
        "/static/",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/none.js",
    ):
        answer = ask(relay.port, path=path, method="GET")
        assert (answer.status, answer.headers.get("allow")) in ((404, None), (405, "POST")), path
        assert answer.reason == ("path" if answer.status == 404 else "method")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("/event?id=x", "/event?id=0/1-a-1:1", "/letter?id=", "/letter?id=9/1-a-1:1", "/letters?before=x"):
        assert ask(relay.port, path=path, method="GET").status in (400, 404), path


def test_an_export_is_asked_for_by_the_page(dead: tuple[Relay, Path]) -> None:
    """Its token stands in the form."""
    relay, _ = dead
    caller = Caller(relay.port)
    lines = [FORM, f"Host: 127.0.0.1:{relay.port}", "Sec-Fetch-Site: same-origin", f"Cookie: {caller.cookie}"]
    form = {"csrf": caller.token, "choice": json.dumps({"matching": {}})}
    with Wire(relay.port) as wire:
        wire.send(request(urlencode(form).encode(), *lines, "Connection: close", path="/letters/export"))
        told = b"".join(iter(lambda: wire.socket.recv(65536), b""))
    assert told.count(b'"uuids"') == 3
    assert b"attachment" in told
    for wrong in ({"csrf": "x"}, {"choice": "{"}, {"choice": "{}"}):
        body = urlencode({**form, **wrong}).encode()
        assert ask(relay.port, body, *lines, path="/letters/export").status in (400, 403), wrong


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """Return a relay whose page asks for a token, below a prefix."""
    journal = tmp_path_factory.mktemp("page") / "j"
    with Relay(journal, "--page-token", make_digest(TOKEN), "--prefix", "/relay", "--workers", "2") as relay:
        yield relay


def test_a_browser_shows_its_token_once(guarded: Relay) -> None:
    """A form, a cookie that no script sees, the page; signing out ends it."""
    with chromium() as browser, Visit(browser, f"http://127.0.0.1:{guarded.port}") as visit:
        assert visit.go("/relay/").status == 401
        page = visit.page
        assert page.title() == "Sign in · Eventpost relay"
        page.get_by_label("Token").fill("evp_wrong")
        page.get_by_role("button", name="Sign in").click()
        visit.wait_for_text("#said", "not a token for the page")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        visit.wait_for_text("#verdict", "Nothing is being lost")
        visit.wait_for_text("#live-text", "Live")
        assert page.url.endswith("/relay/")
        (cookie,) = visit.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/relay")
        assert TOKEN not in cookie["value"]
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        visit.wait_for_text("h1", "Eventpost relay")
        page.get_by_label("Token").wait_for()
        assert visit.context.cookies() == []
        # The two 401 answers are logged by the browser itself.
        visit.errors[:] = [said for said in visit.errors if "401" not in said]


def test_a_program_is_challenged_and_the_pages_script_is_not(guarded: Relay) -> None:
    """A challenge would make the browser ask by a box of its own."""
    for path in ("/relay/live", "/relay/letters", "/relay/event?id=x", "/relay/"):
        answer = ask(guarded.port, path=path, method="GET")
        assert (answer.status, answer.reason) == (401, "page_token")
        assert answer.headers["www-authenticate"].startswith("Basic")
        own = ask(guarded.port, b"", "X-Eventpost-Page: 1", path=path, method="GET")
        assert own.status == 401
        assert "www-authenticate" not in own.headers
    known = ask(guarded.port, b"", f"Authorization: Bearer {TOKEN}", path="/relay/letters", method="GET")
    assert (known.status, known.json()) == (200, {"rows": [], "more": ""})
    assert ask(guarded.port, path="/relay/static/main.js", method="GET").status == 200
    assert ask(guarded.port, path="/", method="GET").status == 404


def test_tokens_are_not_tried_without_end(guarded: Relay) -> None:
    """A few a second; and only from the form."""
    lines = [FORM, "Host: relay.example", "Origin: http://relay.example"]
    found = [ask(guarded.port, b"token=evp_wrong", *lines, path="/relay/login").status for _ in range(12)]
    assert 401 in found
    assert 429 in found
    foreign = ask(guarded.port, b"token=x", FORM, "Origin: http://evil.example", path="/relay/login")
    assert (foreign.status, foreign.reason) == (403, "forged")


def test_a_foreign_host_name_sees_nothing(dead: tuple[Relay, Path]) -> None:
    """A site that had its own name point here (DNS rebinding)."""
    relay, _ = dead
    for path in ("/", "/live", "/letters", "/event"):
        answer = ask(relay.port, b"", "Host: evil.example", "Accept: text/html", path=path, method="GET")
        assert (answer.status, answer.reason) == (403, "host")


def test_the_stream_ends_with_the_relay(tmp_path: Path) -> None:
    """A page that listens holds up no stop."""
    relay = Relay(tmp_path / "j")
    with Wire(relay.port) as wire:
        wire.send(request(path="/live", method="GET"))
        told = b""
        while b"event: state" not in told:
            told += wire.socket.recv(65536)
        code, _, said = relay.stop(timeout_s=15.0)
        assert code == 0
        assert "Traceback" not in said
        while wire.socket.recv(65536):
            pass
