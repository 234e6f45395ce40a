"""Requests that offer another protocol are answered in this one: Java's client offers h2c with each.

The parser stops at such a header, and takes what follows, the body too, for that protocol.  So it is given the header
once more, without the offer.  One after the other: many of them may come in one piece.
"""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OffersPassedOver(HttpToolsProtocol):
    """uvicorn's protocol, for which an offer is a header as others are."""

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._unset_keepalive_if_required()
        try:
            self.feed(data)
        except httptools.HttpParserError:
            self.send_400_response("this is no HTTP/1.1 request")

    def feed(self, data: bytes) -> None:
        """Have the parser parse bytes, with its callbacks.  Raises HttpParserError."""
        left = data
        while True:
            try:
                self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as upgrade:
                left = self._without_offer(left[upgrade.args[0] :])
            else:
                return

    def _without_offer(self, rest: bytes) -> bytes:
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("CONNECT")
        self.parser = httptools.HttpRequestParser(self)
        lines = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([method + b" " + self.url + b" HTTP/1.1", *lines, b"", rest])

    def on_headers_complete(self) -> None:
        """Begin a request, unless its header comes once more."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
