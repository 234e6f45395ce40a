"""Helpers that more than one test file uses."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from eventpost.transports.curl import CurlTransport


def missing(what: str) -> NoReturn:
    """Skip a test because a tool is missing; where CI is set that is a failure: CI installs everything."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}")


def curl_transport(**options: Any) -> CurlTransport:
    """Return a new CurlTransport; where its package is not installed the test is skipped."""
    if find_spec("pycurl") is None:
        missing("pycurl (the extra curl)")
    from eventpost.transports.curl import CurlTransport

    return CurlTransport(**options)
