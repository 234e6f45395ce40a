"""How the relay speaks TLS, and asks for client certificates."""

from __future__ import annotations

import ssl

from .settings import RelaySettings


def tls_context(settings: RelaySettings) -> ssl.SSLContext | None:
    """Return how to speak TLS, None: not at all.  Raises OSError for files that can't be read or don't fit together."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    if settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(settings.tls_client_ca)
    return context
