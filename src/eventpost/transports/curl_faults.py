"""What libcurl's error codes mean to us.  Numbers are those of ``curl/curl.h``; they never change their meaning."""

from __future__ import annotations

from typing import Final

from .protocol import FaultKind

_FAULTS: Final[dict[int, FaultKind]] = {
    1: "protocol",  # UNSUPPORTED_PROTOCOL; also an answer that is not HTTP ("HTTP/0.9")
    3: "other",  # URL_MALFORMAT
    5: "dns",  # COULDNT_RESOLVE_PROXY
    6: "dns",  # COULDNT_RESOLVE_HOST
    7: "connect",  # COULDNT_CONNECT
    8: "protocol",  # WEIRD_SERVER_REPLY
    16: "protocol",  # HTTP2
    18: "reset",  # PARTIAL_FILE
    28: "timeout",  # OPERATION_TIMEDOUT
    35: "connect",  # SSL_CONNECT_ERROR
    45: "connect",  # INTERFACE_FAILED
    52: "reset",  # GOT_NOTHING
    55: "reset",  # SEND_ERROR
    56: "reset",  # RECV_ERROR
    58: "tls",  # SSL_CERTPROBLEM: our own certificate
    60: "tls",  # PEER_FAILED_VERIFICATION
    77: "tls",  # SSL_CACERT_BADFILE
    83: "tls",  # SSL_ISSUER_ERROR
    91: "tls",  # SSL_INVALIDCERTSTATUS
    92: "protocol",  # HTTP2_STREAM
    97: "connect",  # PROXY
    100: "protocol",  # TOO_LARGE: headers without end
}
_AFTER_THE_STATUS: Final = frozenset({18, 55, 56})
_OWN_CERTIFICATE: Final = 58
_TLS_ALERTS: Final = ("alert certificate", "alert bad certificate", "alert unknown ca", "certificate required")


def is_believed(code: int, status: int) -> bool:
    """Return whether this end of a transfer leaves an answer.

    A whole answer does; one that was cut short only if it is a refusal, which its status line says already: a server
    that refuses a large body often resets the connection behind its answer.  A cut 2xx is no yes.
    """
    return bool(status) and (code == 0 or (code in _AFTER_THE_STATUS and status >= 400))


def is_lookup_timeout(code: int, message: str) -> bool:
    """Return whether time ran out in the name lookup, so that its thread may still be there."""
    return code == 28 and message.startswith("Resolving")


def fault(code: int, message: str, remedy: str) -> tuple[FaultKind, str]:
    """Return the kind and the text of a transfer that failed.  ``remedy`` is what to do about a failed check."""
    kind = _FAULTS.get(code, "other")
    lowered = message.lower()
    if kind in ("reset", "connect") and any(alert in lowered for alert in _TLS_ALERTS):
        kind, message = "tls", f"{message}; the endpoint wants another client certificate: see client_cert, client_key"
    elif code == _OWN_CERTIFICATE:
        message = f"{message}; see client_cert and client_key"
    elif kind == "tls":
        message = f"{message}; {remedy}"
    elif kind == "reset" and "connect tunnel failed" in lowered:
        kind = "connect"
    return kind, f"{message} (libcurl {code})"
