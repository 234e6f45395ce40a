"""The parts that the interop tests stand on: the hop's cutting, and the pages."""

import json
import re
import socket
from pathlib import Path

import pytest

from eventpost.testing import Collector
from interop import pages
from interop.hop import Exchange, Hop, exchanges
from interop.sdks import BUILDS, PROGRAMS


def test_two_streams_are_cut_into_requests_and_their_answers():
    """Bodies of a length and in chunks, answers without a body, interim answers, and what is not complete yet."""
    asked = (
        b"POST /a HTTP/1.1\r\ncontent-length: 4\r\n\r\n\r\n\r\nPOST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\n2\r\n\r\n\r\n0\r\n\r\nPOST /c HTTP/1.1\r\nContent-Length: 2\r\n\r\nokPOST /d HTTP/1.1\r\n"
        b"Content-Length: 3\r\n\r\nno"
    )
    answered = b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\n\r\nHTTP/1.1 503 S\r\nContent-Length: 5\r\n\r\nHTTP/"
    assert [(one.body, one.status) for one in exchanges(asked, answered)] == [
        (b"\r\n\r\n", 204), (b"abc\r\n", 503), (b"ok", None),
    ]  # fmt: skip


def test_a_hop_passes_on_records_refuses_and_comes_back():
    """What went through is known to the byte; down means refused, at the same address."""
    request = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-One: two\r\nContent-Length: 4\r\n\r\n\x00\xff{}"
    with Collector() as collector:
        hop = Hop()
        for time in range(2):
            hop.up(collector.port)
            with socket.create_connection(("127.0.0.1", hop.port), 5) as client:
                client.sendall(request)
                assert client.recv(1000).startswith(b"HTTP/1.1 204")
                assert collector.bodies == [b"\x00\xff{}"] * (time + 1)
                assert hop.exchanges[time] == Exchange(request[:-8], b"\x00\xff{}", 204)
                assert hop.exchanges[time].header("x-one") == "two"
                hop.down()
                assert client.recv(1000) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", hop.port), 5)


def pinned(language: str) -> str:
    """Return the version of a language's SDK that its program is built with."""
    if language == "javascript":
        manifest = json.loads((PROGRAMS / language / "package.json").read_text())
        return manifest["dependencies"]["@optimizely/optimizely-sdk"]
    file, pattern = {
        "go": (PROGRAMS / "go" / "go.mod", r"go-sdk/v2 v(\S+)"),
        "java": (PROGRAMS / "java" / "pom.xml", r"core-httpclient-impl</artifactId>\s*<version>([\d.]+)"),
        "python": (pages.ROOT / "requirements-dev.txt", r"optimizely-sdk==(\S+)"),
    }[language]
    return re.findall(pattern, Path(file).read_text())[0]


@pytest.mark.parametrize("language", BUILDS)
def test_a_page_names_the_version_that_it_was_run_with(language):
    """And holds the files that its program is built around."""
    text = (pages.PAGES / f"{language}.md").read_text("utf-8")
    assert f" {pinned(language)};" in text
    assert len(pages.files(language)) == text.count("\n```\n") > 0


def test_each_page_is_run():
    """No page without a program, no program without a page."""
    assert {path.stem for path in pages.PAGES.glob("*.md")} == set(BUILDS)
