"""Ask the relay beside this process for ``/livez``, or the path given; exit code 0: it answered 200.

For images without curl.  Where the relay listens is read as the relay reads it, from file and environment, so in an
image settings belong there and not among the flags.  The certificate is not checked: this asks whether the process
answers, at an address that no certificate names.  Where every client must show a certificate of its own, a connection
is all that is asked for.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
from typing import Final

from eventpost.relay.settings import RelaySettings, read_settings

TIMEOUT_S: Final = 3.0
LOCAL: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask, not where to listen


def answers(settings: RelaySettings, path: str) -> bool:
    """Tell whether the relay answers 200; raises OSError or HTTPException if it does not answer at all."""
    host, port = settings.address
    host = LOCAL.get(host, host)
    if settings.tls_client_ca:
        socket.create_connection((host, port), TIMEOUT_S).close()
        return True
    if settings.tls_cert:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    connection.request("GET", path)
    return connection.getresponse().status == 200


def main() -> int:
    """Ask once."""
    path = sys.argv[1] if len(sys.argv) > 1 else "/livez"
    try:
        return 0 if answers(read_settings({}), path) else 1
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
