"""What posts to the relay in the demo: events over plain HTTP, as an SDK of any language would, until told to stop.

Started as ``python -m eventpost.cli.demo_post``.  It knows nothing of Eventpost but a URL: one batch a request, on a
kept-alive connection.  The witness, as that of ``demo_traffic``, gets the uuid of each event that was answered 204; one
that got no answer is posted again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
import uuid
from http.client import HTTPConnection, HTTPException
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 5.0
AGAIN_S: Final = 0.1


def batch(known: dict[str, Any], chance: random.Random, event_id: str) -> bytes:
    """Return the body for one conversion; ``known``: the datafile."""
    kind = chance.choice(known["events"])
    event = {
        "uuid": event_id, "timestamp": int(time.time() * 1000), "key": kind["key"], "entity_id": kind["id"],
        "type": kind["key"], "revenue": chance.randrange(10_000), "tags": {},
    }  # fmt: skip
    visitor = {
        "visitor_id": f"visitor-{chance.randrange(100_000)}", "attributes": [],
        "snapshots": [{"decisions": [], "events": [event]}],
    }  # fmt: skip
    envelope = {
        "account_id": known["accountId"], "project_id": known["projectId"], "revision": known["revision"],
        "client_name": "demo-http", "client_version": "1", "anonymize_ip": True, "enrich_decisions": True,
    }  # fmt: skip
    return json.dumps({**envelope, "visitors": [visitor]}).encode()


class Poster:
    """One kept-alive connection to a URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._connection = HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT_S)

    def post(self, body: bytes) -> bool:
        """Post once; return whether it was answered 204."""
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, HTTPException):
            self._connection.close()  # the next one connects anew
            return False
        return answer.status == 204


def main() -> int:
    """Post until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m eventpost.cli.demo_post")
    parser.add_argument("--url", required=True)
    parser.add_argument("--witness", required=True)
    parser.add_argument("--rate", type=float, required=True, help="events a second")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="the demo's process")
    options = parser.parse_args()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    known = json.loads(files("eventpost").joinpath("demo_datafile.json").read_text("utf-8"))
    witness = os.open(options.witness, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    chance, poster = random.Random(options.seed), Poster(options.url)
    due, body, event_id = time.monotonic(), b"", ""
    while not told:
        if os.getppid() != options.parent:
            os._exit(1)  # the demo was killed: nobody looks on, and nobody would tell it to end
        if not body:
            event_id = str(uuid.uuid4())
            body = batch(known, chance, event_id)
        if not poster.post(body):
            time.sleep(AGAIN_S)
            continue
        os.write(witness, f"{event_id}\n".encode("ascii"))
        body = b""
        due += 1 / options.rate
        time.sleep(max(0.0, due - time.monotonic()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
