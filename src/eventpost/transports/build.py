"""The transport that an EventDispatcher gets when it is not given one: libcurl where it can be used, else urllib3.

| where | transport | why |
|---|---|---|
| pycurl is installed | libcurl | hundreds of requests in flight on one thread, HTTP/2 |
| no pycurl: Alpine, PyPy, free-threaded builds lack a wheel | the pool | it must install there, too |
| pycurl before 7.48 | the pool | nothing tells of ``Retry-After`` there |
| libcurl before 8.16, or without lookups of its own threads | the pool | one that hangs would stop everything |
| no ``select.poll``: Windows | the pool | there ``select`` takes sockets only, and libcurl's wait ends by a pipe, too |

The pool keeps the same contract with fewer requests in flight.
"""

from __future__ import annotations

import os

from ..sender.primitives import original
from .pool import PoolTransport
from .protocol import Transport


def build_http_transport(
    *,
    ca: str | os.PathLike[str] | None = None,
    client_cert: str | os.PathLike[str] | None = None,
    client_key: str | os.PathLike[str] | None = None,
    proxy: str | None = None,
) -> Transport:
    """Return a CurlTransport, or a PoolTransport where that can't be used; ``repr`` says which.

    The arguments are those of CurlTransport.  Raises FileNotFoundError or ValueError for files that are not there.
    """
    try:
        from .curl import CurlTransport  # noqa: PLC0415 - the extra may not be installed, or be too old
    except ImportError:
        return PoolTransport(ca=ca, client_cert=client_cert, client_key=client_key, proxy=proxy)
    if not _can_poll():
        return PoolTransport(ca=ca, client_cert=client_cert, client_key=client_key, proxy=proxy)
    return CurlTransport(ca=ca, client_cert=client_cert, client_key=client_key, proxy=proxy)


def _can_poll() -> bool:
    try:
        original("select", "poll")
    except AttributeError:
        return False
    return True
