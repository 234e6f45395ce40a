"""Which transport an EventDispatcher gets."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eventpost import __version__
from eventpost.transports.build import build_http_transport
from eventpost.transports.outgoing import USER_AGENT
from eventpost.transports.pool import PoolTransport
from support import curl_transport


def test_libcurl_where_it_is_installed() -> None:
    """With pycurl the transport is libcurl's; repr says so."""
    libcurls = type(curl_transport())
    transport = build_http_transport()
    assert isinstance(transport, libcurls)
    assert "CurlTransport" in repr(transport)


def test_the_pool_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pycurl it is the pool."""
    monkeypatch.setitem(sys.modules, "pycurl", None)
    monkeypatch.delitem(sys.modules, "eventpost.transports.curl", raising=False)
    transport = build_http_transport()
    assert isinstance(transport, PoolTransport)
    assert "PoolTransport" in repr(transport)


@pytest.mark.parametrize("lack", ["retry_after", "libcurl", "lookups"])
def test_the_pool_where_pycurl_can_not_do_what_is_needed(monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    """Too old to tell of Retry-After, or to keep a deadline over a name lookup: the pool, and a word on the reason."""
    curl_transport().close()
    installed = sys.modules["pycurl"]
    old: Any = ModuleType("pycurl")
    vars(old).update(vars(installed))
    info = list(installed.version_info())
    if lack == "retry_after":
        del old.RETRY_AFTER
    elif lack == "libcurl":
        info[2] = 0x08_0F_00
    else:
        info[4] &= ~(1 << 7)
    old.version_info = lambda: tuple(info)
    monkeypatch.setitem(sys.modules, "pycurl", old)
    monkeypatch.delitem(sys.modules, "eventpost.transports.curl")
    assert isinstance(build_http_transport(), PoolTransport)
    with pytest.raises(ImportError, match=r"pycurl 7\.48 and libcurl 8\.16"):
        import_module("eventpost.transports.curl")


def test_the_pool_where_there_is_no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has wheels of pycurl and no ``select.poll``, which libcurl's transport waits with."""
    curl_transport().close()
    monkeypatch.delattr("select.poll")
    assert isinstance(build_http_transport(), PoolTransport)


def test_arguments_are_handed_on(tmp_path: Path) -> None:
    """A file that is not there is told, by the name of its argument."""
    for name in ("ca", "client_cert"):
        with pytest.raises(FileNotFoundError, match=name):
            build_http_transport(**{name: tmp_path / "no"})  # type: ignore[arg-type]  # one of several by name


def test_user_agent() -> None:
    """We say who we are."""
    assert f"eventpost/{__version__}" == USER_AGENT
