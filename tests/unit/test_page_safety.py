"""What keeps the page's visitors safe."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from eventpost.relay.page import safety
from eventpost.relay.page.safety import Sessions, foreign, root_of, shared_key, with_headers

HOST = (b"host", b"relay.internal:8787")
KEY = b"k" * 32


def asked(*headers: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    """Return a request's headers."""
    return dict((HOST, *headers))


@pytest.mark.parametrize(
    "headers",
    [
        [(b"sec-fetch-site", b"same-origin")],
        [(b"sec-fetch-site", b"same-origin"), (b"origin", b"https://seen-from-outside")],
        [(b"origin", b"http://relay.internal:8787")],
        [(b"origin", b"https://RELAY.internal:8787")],
        [(b"origin", b"https://listed.example")],
    ],
)
def test_the_page_itself_may_change_things(headers: list[tuple[bytes, bytes]]) -> None:
    """By the browser's word; TLS may end before the relay, and a proxy's name for it is on a list."""
    assert foreign(asked(*headers), frozenset({"listed.example"})) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"same-site"), (b"origin", b"http://relay.internal:8787")],
        [(b"sec-fetch-site", b"none")],
        [(b"origin", b"null")],
        [(b"origin", b"")],
        [(b"origin", b"http://relay.internal:8788")],
        [(b"origin", b"http://relay.internal")],
        [(b"origin", b"http://relay.internal:8787.evil.example")],
        [(b"origin", b"http://evil.example")],
    ],
)
def test_another_site_may_not(headers: list[tuple[bytes, bytes]]) -> None:
    """Nor one on another port of the same host, nor who does not say."""
    assert foreign(asked(*headers), frozenset({"listed.example"})) is not None


@pytest.mark.parametrize(
    "around", [(b"", b""), (b'theme={"a":1}; ', b""), (b"a[b]=1; =; ;x; ", b"; c=\xe9"), (b"%(name)b=forged; ", b"")]
)
def test_cookies_of_others(around: tuple[bytes, bytes]) -> None:
    """Browsers share a host's cookies among its ports: whatever others set there, ours is found."""
    sessions = Sessions(bytes(32))
    value = sessions.make("login")
    before, after = around
    before = before.replace(b"%(name)b", sessions.cookie.encode())
    sent = before + f"{sessions.cookie}={value}".encode() + after
    assert sessions.find({b"cookie": sent}) == value


def test_a_request_without_a_host_is_from_nowhere() -> None:
    """An empty name equals no other empty name."""
    assert foreign({b"origin": b"null"}, frozenset()) is not None
    assert foreign({b"origin": b""}, frozenset()) is not None


def test_a_cookie_is_known_by_every_worker_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes with one cookie; a change anywhere makes it nobody's; after its time it is none."""
    one, same, other = Sessions(KEY), Sessions(KEY), Sessions(b"o" * 32)
    value = one.make("login")
    sent = {b"cookie": f"a=b; {one.cookie}={value}".encode()}
    assert same.find(sent) == value
    assert other.find({b"cookie": f"{other.cookie}={value}".encode()}) is None
    assert other.cookie != one.cookie
    assert one.is_login(value)
    assert not one.is_login(one.make("visit"))
    assert not one.is_login(None)
    assert same.is_token(value, one.token(value))
    assert not same.is_token(one.make("login"), one.token(value))
    assert not same.is_token(value, "")
    for forged in (value.replace("login", "visit"), value[:-1], value + "0", "", "login", "..", "\xe4." + value):
        assert one.find({b"cookie": f"{one.cookie}={forged}".encode("latin-1")}) is None, forged
    assert one.find({}) is None
    assert one.find({b"cookie": b"\xff\x00;;==="}) is None
    monkeypatch.setattr(safety, "time", lambda: 4_000_000_000)
    assert one.find(sent) is None


def test_a_cookie_is_for_this_site_and_no_script() -> None:
    """Secure where the relay speaks TLS; below its prefix only; an empty one takes it away."""
    sessions = Sessions(KEY)
    header = sessions.header("v", root="/relay", secure=True)
    assert header == f"{sessions.cookie}=v; Path=/relay; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"
    assert "Secure" not in sessions.header("v", root="", secure=False)
    assert "Path=/;" in sessions.header("v", root="", secure=False)
    assert "Max-Age=0" in sessions.header("", root="", secure=False)


def test_workers_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    """Private, whole, and nothing left beside it."""
    found: list[bytes] = []
    for _ in range(2):  # threads of one process share a name for what is temporary: a worker makes it once
        thread = threading.Thread(target=lambda: found.append(shared_key(str(tmp_path))))
        thread.start()
        thread.join(10)
    assert found[0] == found[1]
    assert len(found[0]) == safety.KEY_BYTES
    assert os.listdir(tmp_path) == [safety.KEY]
    assert os.stat(tmp_path / safety.KEY).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("path", "status", "kept"),
    [
        ("/p/static/main.js", 200, b"no-cache"),
        ("/p/static/main.js", 304, b"no-cache"),
        ("/p/static/none.js", 404, b"no-store"),
        ("/p/letters", 200, b"no-store"),
        ("/p/", 401, b"no-store"),
    ],
)
def test_every_answer_carries_the_policy(path: str, status: int, kept: bytes) -> None:
    """An error, too; and no handler can weaken what may be stored."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"cache-control", b"public"), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(with_headers(app)({"path": path, "root_path": "/p"}, None, send))  # type: ignore[arg-type]  # it reads nothing
    headers = dict(sent[0]["headers"])
    policy = headers[b"content-security-policy"].decode()
    assert "unsafe" not in policy
    for rule in (
        "default-src 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "require-trusted-types-for 'script'",
    ):
        assert rule in policy
    assert headers[b"x-frame-options"] == b"DENY"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"x-own"] == b"1"
    assert [value for name, value in sent[0]["headers"] if name == b"cache-control"] == [kept]


def test_the_root_has_no_slash_at_its_end() -> None:
    """A path of the page is the root and what begins with a slash."""
    assert [root_of(scope) for scope in ({}, {"root_path": ""}, {"root_path": "/a"}, {"root_path": "/a/"})] == [
        "", "", "/a", "/a",
    ]  # fmt: skip
