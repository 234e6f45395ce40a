"""Events from web pages, as a real Chromium sends them: with its own preflights, beacons and rules."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from page_support import chromium, conversion
from relay_support import Door, bodies, uuid_of, uuids, wait_for

SENDS = """async ([url, bodies]) => {
  const json = {"content-type": "application/json"};
  const told = async (answer) => [answer.status, await answer.text()];
  const asked = (body, more) => fetch(url, {method: "POST", body, headers: json, ...more}).then(told, () => ["failed"]);
  return [
    navigator.sendBeacon(url, new Blob([bodies[0]], {type: "application/json"})),
    navigator.sendBeacon(url, bodies[1]),
    await asked(bodies[2], {}),
    await asked(bodies[3], {credentials: "include", keepalive: true}),
    await asked("{", {}),
  ];
}"""


class Shop(http.server.BaseHTTPRequestHandler):
    """A web page with nothing on it."""

    def do_GET(self) -> None:
        """Show it."""
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def shop() -> Iterator[int]:
    """Serve the page; its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(10)


def test_web_pages(tmp_path: Path) -> None:
    """A page on the list sends by beacon and fetch, and may read a no; of any other page nothing is stored."""
    with shop() as port, Door(tmp_path / "j", origin=[f"http://127.0.0.1:{port}"]) as door, chromium() as browser:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        sent = [conversion(number, "bought").decode() for number in range(8)]
        url = f"http://127.0.0.1:{door.port}/v1/events"
        beacon, text, fetched, kept, refused = page.evaluate(SENDS, [url, sent[:4]])
        assert (beacon, text, fetched[0], kept[0]) == (True, True, 204, 204)
        assert refused[0] == 400
        assert "not_json" in refused[1]
        wait_for(lambda: len(bodies(tmp_path / "j")) == 4)
        page.goto(f"http://localhost:{port}/")  # the same page under another name is another origin
        assert page.evaluate(SENDS, [url, sent[4:]])[2:] == [["failed"]] * 3
        page.goto("about:blank")  # what is under way is sent
        assert uuids(bodies(tmp_path / "j")) == {uuid_of(number) for number in range(4)}
