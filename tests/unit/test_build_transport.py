"""Which transport an EventDispatcher gets."""

import sys
from pathlib import Path

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


def test_the_pool_where_lookups_would_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libcurl that can't look names up beside its transfers keeps no deadline, so the pool is taken."""
    curl_transport().close()
    monkeypatch.setattr("eventpost.transports.curl.LOOKUPS_HAVE_DEADLINE", False)
    assert isinstance(build_http_transport(), PoolTransport)


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
