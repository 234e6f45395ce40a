"""The relay and micro, asked everything that their own descriptions allow, and much that they do not.

schemathesis reads ``/openapi.json`` and makes requests of it: examples, every boundary of every parameter, methods that
there are none, bodies that are nearly right, and random ones.  Each answer has to be one that the description knows, by
status, type, headers and schema; none may be a 5xx, and none may take long.  Afterwards the processes hold as many
descriptors and connections from clients as before, and hardly more memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from eventpost.queues.journal import inspect
from eventpost.testing import Collector, Reply

from .record import ROOT, Figures

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
HANGS_S = 20.0
"""An answer that takes longer never comes: they take milliseconds, but a machine may be busy."""
GROWTH_BYTES_MAX = 24 << 20
START_S = 30.0
SETTLE_S = 10.0
ENDLESS = "/live"
"""A stream without an end: it is no request that could be waited for."""
SCRIPT = "/micro/script"
"""Asked by itself: what it orders, the paths of events would do."""


class Broken(AssertionError):  # noqa: N818 - names a state
    """What was found; the message is schemathesis's, with a command that repeats it."""


class Held(NamedTuple):
    """What some processes hold: files, connections from clients, memory of their own.

    Connections to the endpoint are none of these: the sender keeps as many as it last had use for.
    """

    files: int
    connections: int
    bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--examples", type=int, default=2_000, help="random requests for each operation")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")


def run(options: argparse.Namespace) -> Figures:
    """Ask, and return the figures."""
    seed = options.seed or time.time_ns() % 1_000_000_000
    figures: dict[str, int | float | str] = {}
    for name, ask in (("relay", ask_relay), ("micro", ask_micro)):
        asked = ask(options.examples, seed)
        print(f"   {name}: seed {seed}, {asked:,} requests", flush=True)
        figures[f"{name} requests"] = asked
    return figures


def ask_relay(examples: int, seed: int) -> int:
    """Ask a relay whose endpoint refuses some; return how many requests that were.  Raises Broken."""
    with (
        tempfile.TemporaryDirectory(prefix="eventpost-openapi-") as folder,
        Collector(lambda one: Reply(400 if b"refused" in one.body else 204)) as endpoint,
        serving("relay", "--journal", f"{folder}/journal", "--endpoint", endpoint.url, "--drain-timeout", "0") as up,
    ):
        for key in ("taken", "refused") * 20:
            assert up.ask("/v1/events", example(key)) == b""
        until(lambda: inspect.folder_status(f"{folder}/journal").dead == 20, "the endpoint's noes became no letters")
        page = up.ask("/", headers={"Accept": "text/html"}).decode()
        token = re.search(r'data-token="(\w+)"', page)
        assert token is not None
        letters = json.loads(up.ask("/letters"))["rows"]
        seen = list(inspect.tail(f"{folder}/journal", last=1))
        described = json.loads(up.ask("/openapi.json"))
        give(described, "/letter", "get", id=letters[0]["id"])
        give(described, "/event", "get", id=f"0/{seen[0].id}" if seen else "0/0")
        ids = [one["id"] for one in letters]
        for action in ("retry", "discard"):
            some = body_of(described, f"/letters/{action}")["anyOf"][0]["properties"]["ids"]
            some["items"] = {"anyOf": [{"enum": ids}, {"type": "string"}]}
        form = body_of(described, "/letters/export")["properties"]
        choices = [
            {"matching": {}},
            {"matching": {"reason": "http_400"}},
            {"ids": ids[:1]},
            {"ids": ["?"]},
            {"ids": []},
        ]
        form["csrf"] = {"enum": [token[1], "0123"]}
        form["choice"] = {"anyOf": [{"enum": [json.dumps(one) for one in choices]}, {"type": "string"}]}
        shown = {"Cookie": up.cookie, "X-CSRF-Token": token[1], "Sec-Fetch-Site": "same-origin"}
        words = [f"--header={name}: {text}" for name, text in shown.items()]
        return asked(up, described, folder, examples, seed, [*words, "--exclude-path", ENDLESS])


def ask_micro(examples: int, seed: int) -> int:
    """Ask a micro, its script last; return how many requests that were.  Raises Broken."""
    with tempfile.TemporaryDirectory(prefix="eventpost-openapi-") as folder, serving("micro") as up:
        for _ in range(20):
            up.ask("/v1/events", example("taken"))
        described = json.loads(up.ask("/openapi.json"))
        found = asked(up, described, folder, examples, seed, ["--exclude-path", SCRIPT])
        found += asked(up, described, folder, examples, seed, ["--include-path", SCRIPT])
        up.ask(SCRIPT, method="DELETE")
        up.ask("/v1/events", example("taken"))
        return found


def asked(
    up: Served, described: dict[str, Any], folder: str, examples: int, seed: int, words: Sequence[str]
) -> int:  # fmt: skip
    """Have schemathesis ask, and look what the processes hold before and after."""
    before = up.held()
    schema, report = Path(folder) / "openapi.json", Path(folder) / "report.json"
    schema.write_text(json.dumps(described), encoding="utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(schema), "--url", up.url]
    command += ["--phases", "examples,coverage,fuzzing", "--checks", ",".join(CHECKS), "--max-examples", str(examples)]
    command += ["--seed", str(seed), "--request-timeout", str(HANGS_S)]
    command += ["--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off", "--no-color"]
    command += ["--report-json-path", str(report), "--continue-on-failure", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        again = f"python -m proof openapi --examples {examples} --seed {seed}"
        raise Broken(f"{again} says it again:\n{done.stdout}\n{done.stderr}")
    until(lambda: up.connections() <= before.connections, "connections stay open")
    after = up.held()
    if after.files > before.files + 4 or after.bytes > before.bytes + GROWTH_BYTES_MAX:
        raise Broken(f"seed {seed}: the processes held {before}, and now {after}")
    cases = json.loads(report.read_text())["test_cases"]
    return int(cases["generated"])


def body_of(described: dict[str, Any], path: str) -> Any:
    """Return the schema of what is posted to a path."""
    (kind,) = described["paths"][path]["post"]["requestBody"]["content"].values()
    return kind["schema"]


def give(described: dict[str, Any], path: str, method: str, **values: str) -> None:
    """Tell schemathesis values of parameters that nobody could guess."""
    for one in described["paths"][path][method]["parameters"]:
        if one["name"] in values:
            one["example"] = values[one["name"]]


def example(key: str) -> bytes:
    """Return a batch with one event."""
    event = {"uuid": os.urandom(8).hex(), "timestamp": 1_700_000_000_000, "key": key}
    visitor = {"visitor_id": "v", "snapshots": [{"events": [event]}]}
    return json.dumps({"account_id": "1", "project_id": "2", "visitors": [visitor]}).encode()


class Served:
    """A server in processes of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.cookie = ""

    def ask(
        self, path: str, body: bytes | None = None, *, method: str = "", headers: dict[str, str] | None = None
    ) -> bytes:  # fmt: skip
        """Ask, and return the answer's body; anything but a yes raises."""
        request = urllib.request.Request(self.url + path, body, headers or {}, method=method or None)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=HANGS_S) as answer:
            self.cookie = (answer.headers["Set-Cookie"] or self.cookie).partition(";")[0]
            return bytes(answer.read())

    def held(self) -> Held:
        """Return what the processes hold."""
        files = bytes_ = 0
        for pid in family(self.process.pid):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    files += not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
            status = Path(f"/proc/{pid}/status").read_text()
            bytes_ += int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]  # Linux has it
        return Held(files, self.connections(), bytes_)

    def connections(self) -> int:
        """Return how many connections to its port are open at its end, also where the client has closed its own."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ours = f":{int(self.url.rpartition(':')[2]):04X}"
        return sum(row[1].endswith(ours) and row[3] in ("01", "08") for row in rows)


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for one in found:
        found += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    return found


@contextlib.contextmanager
def serving(command: str, *options: str) -> Iterator[Served]:
    """Run a command of ours on a free port until it listens; end it in order, which has to work."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    words = [sys.executable, "-m", "eventpost.cli", command, "--listen", f"127.0.0.1:{port}", *options]
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("EVENTPOST_", "PYTEST"))}
    environ["PYTHONPATH"] = str(ROOT / "src")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "it did not start"
        served = Served(process, f"http://127.0.0.1:{port}")
        until(lambda: connects(port), "it does not listen")
        yield served
        process.terminate()
        _, said = process.communicate(timeout=START_S)
        if process.returncode or "Traceback" in said:
            raise Broken(f"{command} ended with {process.returncode}: {said}")
    finally:
        process.kill()
        process.communicate()


def connects(port: int) -> bool:
    """Tell whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def until(what: Any, otherwise: str) -> None:
    """Wait until something holds; raises Broken if it does not come about."""
    deadline = time.monotonic() + SETTLE_S
    while not what():
        if time.monotonic() > deadline:
            raise Broken(otherwise)
        time.sleep(0.05)


def is_there() -> bool:
    """Tell whether schemathesis is installed."""
    return find_spec("schemathesis") is not None
