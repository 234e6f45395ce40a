"""It refuses to send from a test run: what shows that this is one, and whose URLs are meant.

The doors refuse such an event (``test_run``).  What lies in a queue already, stored by a process that was no test run,
is kept: our own HTTP transports do not send it, whoever hands it to them.
"""

from __future__ import annotations

import os
import sys
from typing import Final
from urllib.parse import urlsplit

OPTIMIZELY_DOMAIN: Final = "optimizely.com"
LIFTED_BY: Final = "EVENTPOST_ALLOW_TEST_SENDS=1 lifts this"


def is_optimizely(url: str) -> bool:
    """Return whether a URL's host is Optimizely's: the domain itself or anything under it."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return host == OPTIMIZELY_DOMAIN or host.endswith("." + OPTIMIZELY_DOMAIN)


def evidence() -> str | None:
    """Return what shows that this is a test run, which must not send to Optimizely; None if nothing does.

    ``EVENTPOST_TEST_MODE=1``, ``PYTEST_CURRENT_TEST``, or pytest's or unittest's runner as the main module; never that
    something is merely imported.  ``EVENTPOST_ALLOW_TEST_SENDS=1`` lifts all of it.
    """
    environ = os.environ
    if environ.get("EVENTPOST_ALLOW_TEST_SENDS") == "1":
        return None
    if environ.get("EVENTPOST_TEST_MODE") == "1":
        return "EVENTPOST_TEST_MODE=1"
    if environ.get("PYTEST_CURRENT_TEST"):
        return "PYTEST_CURRENT_TEST is set"
    return _test_runner()


def _test_runner() -> str | None:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    name = getattr(spec, "name", "") or ""
    package = name.partition(".")[0]
    if package in {"pytest", "_pytest", "unittest"}:
        return f"the main module is {package}'s runner"
    file = os.path.basename(getattr(main, "__file__", None) or "")
    return "the main module is pytest's runner" if file in {"pytest", "py.test", "pytest.exe"} else None


def may_begin() -> bool:
    """Return whether :func:`evidence` may say something else later: while a test runner is loaded, it may.

    Elsewhere a dispatcher remembers the answer for each URL: a variable that is set later comes too late for it, since
    a look into the environment (1 to 4 us) at every event would cost as much as the put.
    """
    return "_pytest" in sys.modules
