"""The transport that an EventDispatcher gets when it is not given one: libcurl where pycurl is installed, else urllib3.

pycurl has wheels for CPython on Linux (glibc), macOS and Windows; none for Alpine, PyPy or free-threaded builds.  There
``pip install eventpost`` must not fail, and the pool keeps the same contract with fewer requests in flight.
"""

from __future__ import annotations

import os

from .pool import PoolTransport
from .protocol import Transport


def build_http_transport(
    *,
    ca: str | os.PathLike[str] | None = None,
    client_cert: str | os.PathLike[str] | None = None,
    client_key: str | os.PathLike[str] | None = None,
    proxy: str | None = None,
) -> Transport:
    """Return a CurlTransport, or a PoolTransport where pycurl can't be imported; ``repr`` says which.

    The arguments are those of CurlTransport.  Raises FileNotFoundError or ValueError for files that are not there.
    """
    try:
        from .curl import LOOKUPS_HAVE_DEADLINE, CurlTransport  # noqa: PLC0415 - the extra may not be installed
    except ImportError:
        return PoolTransport(ca=ca, client_cert=client_cert, client_key=client_key, proxy=proxy)
    if not LOOKUPS_HAVE_DEADLINE:
        return PoolTransport(ca=ca, client_cert=client_cert, client_key=client_key, proxy=proxy)
    return CurlTransport(ca=ca, client_cert=client_cert, client_key=client_key, proxy=proxy)
