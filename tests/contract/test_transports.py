"""Every transport keeps the contract."""

import json
import urllib.error
import urllib.request
from typing import Any

from eventpost.testing.transport_contract import HttpTransportContract, TransportContract
from eventpost.transports.custom import CustomTransport
from eventpost.transports.pool import PoolTransport
from eventpost.transports.protocol import Transport
from support import curl_transport


class TestCurl(HttpTransportContract):
    """libcurl."""

    def make_transport(self) -> Transport:
        """Return a new one."""
        return curl_transport()


class TestPool(HttpTransportContract):
    """urllib3 on threads."""

    def make_transport(self) -> Transport:
        """Return a new one."""
        return PoolTransport()


class Urllib:
    """A dispatcher of somebody else's: no timeout, no retries."""

    def dispatch_event(self, event: Any) -> bool:
        """Post it; False if the endpoint refuses."""
        body = json.dumps(event.params).encode()
        request = urllib.request.Request(event.url, body, dict(event.headers), method=event.http_verb)
        try:
            with urllib.request.urlopen(request):
                return True
        except urllib.error.HTTPError:
            return False


class TestCustom(TransportContract):
    """Somebody else's dispatcher behind the protocol."""

    def make_transport(self) -> Transport:
        """Return a new one."""
        return CustomTransport(Urllib())
