"""Which authorities a transport trusts, and what it says when the check fails.

Neither libcurl nor urllib3 honours the variables that people set for requests and curl, and the libcurl inside
pycurl's wheel knows no system bundle at all, so both transports ask here.  The first that applies wins: the argument
``ca``, ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``, ``SSL_CERT_FILE``, ``SSL_CERT_DIR`` (the order of requests, then
OpenSSL's own), the system's bundle, certifi's if it is installed.  A path that was asked for is never replaced by
another one when it turns out to be missing: that would widen what is trusted; the request fails, and the message names
the path.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CA_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Environment variables that name a bundle (or a directory of hashed certificates), in the order they are honoured."""

SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, the BSDs
)


@dataclass(frozen=True, slots=True)
class Authorities:
    """Where the trusted certificates lie: ``path`` (a file or a directory), and ``source``, who named it.

    ``path`` None: nothing was found, so every check fails.
    """

    path: str | None
    source: str

    @property
    def is_directory(self) -> bool:
        """Whether ``path`` is a directory of certificates named by hash (``c_rehash``) and not a bundle."""
        return self.path is not None and os.path.isdir(self.path)

    def spelled(self, turn: int) -> str | None:
        """Return the path, at every other turn in other words: libcurl keeps for a day what it read under a name."""
        if self.path is None or self.is_directory or not turn % 2:
            return self.path
        folder, name = os.path.split(self.path)
        return os.path.join(folder or os.curdir, os.curdir, name)

    def remedy(self) -> str:
        """Return what to do when a certificate is not trusted, naming the file that was believed."""
        if self.path is None:
            return "no CA bundle was found: pass ca=, set SSL_CERT_FILE, or install ca-certificates or certifi"
        if not os.path.exists(self.path):
            return f"the CA bundle {self.path} (from {self.source}) does not exist: correct or unset {self.source}"
        return (
            f"trusted authorities: {self.path} (from {self.source}); if the endpoint or a proxy has a private"
            " authority, pass ca= or set REQUESTS_CA_BUNDLE to a bundle that holds it"
        )


def find_authorities(ca: str | os.PathLike[str] | None, environ: Mapping[str, str] | None = None) -> Authorities:
    """Return the authorities to trust.  ``environ`` stands in for ``os.environ``.

    Raises FileNotFoundError if ``ca`` is given and does not exist; a variable's missing file is told by the request.
    """
    if ca is not None:
        path = os.fspath(ca)
        if not os.path.exists(path):
            msg = f"ca={path!r} does not exist"
            raise FileNotFoundError(msg)
        return Authorities(path, "the argument ca")
    environ = os.environ if environ is None else environ
    for name in CA_VARIABLES:
        value = environ.get(name)
        if value:
            return Authorities(value, name)
    defaults = ssl.get_default_verify_paths()
    for candidate in (defaults.cafile, *SYSTEM_BUNDLES):
        if candidate and os.path.isfile(candidate):
            return Authorities(candidate, "the system")
    if defaults.capath and os.path.isdir(defaults.capath) and os.listdir(defaults.capath):
        return Authorities(defaults.capath, "the system")
    try:
        import certifi  # noqa: PLC0415 - optional: asked for only where the system has no bundle
    except ImportError:
        return Authorities(None, "nowhere")
    return Authorities(certifi.where(), "certifi")


def check_client_pair(cert: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None) -> None:
    """Raise ValueError for a key without its certificate, FileNotFoundError for a file that is not there."""
    if key is not None and cert is None:
        msg = "client_key needs client_cert"
        raise ValueError(msg)
    for name, path in (("client_cert", cert), ("client_key", key)):
        if path is not None and not os.path.exists(path):
            msg = f"{name}={os.fspath(path)!r} does not exist"
            raise FileNotFoundError(msg)
