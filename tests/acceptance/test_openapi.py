"""The relay and micro do what their descriptions say: asked by schemathesis, and where it cannot get."""

import sys

import pytest
from jsonschema import Draft202012Validator
from proof import openapi

from eventpost.relay.access import make_digest
from relay_support import Door, Wire, ask, batch, request
from support import missing

EXAMPLES = 3
"""Random requests for each operation, after all examples and boundaries; ``python -m proof openapi`` makes more."""
SEED = 7


@pytest.mark.parametrize("ask_one", [openapi.ask_relay, openapi.ask_micro])
def test_every_answer_is_one_that_is_described(ask_one):
    """No 5xx, no hang, nothing that is left over, and no status, type, header or body that is not described."""
    if sys.version_info < (3, 11):
        pytest.skip("schemathesis needs Python 3.11")
    if not openapi.is_there():
        missing("schemathesis")
    assert ask_one(EXAMPLES, SEED) > 400


class Description:
    """A relay's description, as it serves it."""

    def __init__(self, port, prefix=""):
        found = ask(port, path=f"{prefix}/openapi.json", method="GET")
        assert (found.status, found.headers["content-type"]) == (200, "application/json")
        self.document = found.json()

    def check(self, answer, path, method="get"):
        """Assert that an answer is described: its status, its type, and what it says."""
        said = self.document["paths"][path][method]["responses"][str(answer.status)]
        kind = answer.headers.get("content-type", "").partition(";")[0]
        assert kind in said.get("content", {"": {}})
        if kind == "application/json":
            schema = {**said["content"][kind]["schema"], "components": self.document["components"]}
            Draft202012Validator(schema).validate(answer.json())
        if answer.status in (429, 503) and path.endswith("/v1/events"):
            assert int(answer.headers["retry-after"]) > 0
        return answer.status


def test_who_may_not_is_told_so(tmp_path):
    """Where tokens are asked for: every path without one, and a page that comes from elsewhere."""
    tokens = {"token": [make_digest("evp_a")], "page_token": [make_digest("evp_b")], "prefix": "/relay"}
    with Door(tmp_path / "j", **tokens) as door:
        described = Description(door.port, "/relay")
        assert described.document["servers"] == [{"url": "/relay"}]
        for path, operations in described.document["paths"].items():
            for method in operations:
                where = "/relay" + path
                body = batch() if method == "post" else b""
                found = ask(door.port, body, "Origin: http://evil.example", path=where, method=method.upper())
                status = described.check(found, path, method)
                open_to_all = path in {"/livez", "/readyz", "/openapi.json", "/login"}
                assert status in ({200, 403} if open_to_all else {403, 204} if "v1" in path else {401})
        assert described.check(ask(door.port, batch(), path="/relay/v1/events"), "/v1/events", "post") == 401


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * 20_000, 431),
        (b"no HTTP\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: y\r\n", 408),
    ],
)
def test_what_comes_before_a_request_is_described(tmp_path, sent, status):
    """A header that is too large or too slow, and what is no HTTP."""
    with Door(tmp_path / "j", header_timeout_s=0.2) as door, Wire(door.port) as wire:
        assert Description(door.port).check(wire.send(sent).answer(), "/livez") == status


def test_what_a_relay_cannot_do_just_now_is_described(tmp_path):
    """A folder that is gone, too many connections, too many requests, a body that does not come."""
    with Door(tmp_path / "j", rate_per_s=3.0, body_timeout_s=0.2, connections_max=2) as door:
        described = Description(door.port)

        def post():
            return described.check(ask(door.port, batch()), "/v1/events", "post")

        assert post() == 204
        with Wire(door.port) as slow:
            assert described.check(slow.send(request(batch())[:-9]).answer(), "/v1/events", "post") == 408
        (tmp_path / "j").rename(tmp_path / "away")
        assert {post() for _ in range(9)} >= {429}
        assert described.check(ask(door.port, path="/readyz", method="GET"), "/readyz") == 503
        with Wire(door.port), Wire(door.port):
            assert post() == 503
