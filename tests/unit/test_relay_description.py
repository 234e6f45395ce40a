"""The relay's and micro's descriptions of themselves say what the code says: paths, methods, statuses, reasons."""

import ast
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route

from eventpost.queues.journal import JournalQueue
from eventpost.queues.journal.disk import _REASONS
from eventpost.relay import app, description, micro_description, openapi, strict
from eventpost.relay.access import Access
from eventpost.relay.micro import Micro
from eventpost.relay.page.app import _Page
from eventpost.relay.page.parts import parts_of

SRC = Path(__file__).parents[2] / "src" / "eventpost"
RELAY = SRC / "relay"


def said_in(path):
    """Return the statuses and reasons of the noes that are written down in a module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            words = [one.value if isinstance(one, ast.Constant) else None for one in node.args]
            if name == "unavailable":
                words = [503, *words]
            if name in {"Denied", "Refusal", "unavailable"} and None not in words[:2]:
                yield words[0], words[1]
            elif name in {"_say", "json_answer"} and len(words) > 1 and isinstance(node.args[0], ast.Dict):
                said = {key.value: one for key, one in zip(node.args[0].keys, node.args[0].values, strict=True) if key}
                if isinstance(said.get("reason"), ast.Constant):
                    yield words[1], said["reason"].value


def described_in(document):
    """Return the statuses and reasons that a description knows."""
    found = set()
    for status, said in (
        one
        for operations in document["paths"].values()
        for operation in operations.values()
        for one in operation["responses"].items()
    ):
        schema = said.get("content", {}).get("application/json", {}).get("schema", {})
        if int(status) >= 400 and schema:
            found |= {(int(status), reason) for reason in schema["allOf"][1]["properties"]["reason"]["enum"]}
    return found


def written(paths):
    """Return the noes of some modules."""
    return {no for path in paths for no in said_in(path)}


def test_every_no_of_the_relay_is_described():
    """Each that stands in the code; and none that stands nowhere, but those that a journal says."""
    micro = set(RELAY.glob("micro*.py"))
    said = written([*set(RELAY.glob("*.py")) - micro, *(RELAY / "page").glob("*.py")]) - {(404, "path")}
    known = described_in(description.described(""))
    assert len(said) > 30
    assert said - known == set()
    source = "".join(path.read_text("utf-8") for path in [*(SRC / "queues").rglob("*.py"), SRC / "errors.py"])
    others = known - said - {(404, "path")}
    assert {status for status, _ in others} == {503}
    assert [reason for _, reason in others if f'"{reason}"' not in source] == []


def test_every_reason_of_a_journal_is_described():
    """What a queue may say when it takes nothing is what events may be answered with 503."""
    said = set()
    for path in (SRC / "queues" / "journal").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "QueueUnavailable":
                words = [one.value for one in node.keywords if one.arg == "reason"]
                said |= {one.value for word in words for one in ast.walk(word) if isinstance(one, ast.Constant)}
    said |= set(_REASONS.values())
    assert len(said) > 4
    assert said - set(description.DOOR[503]) == set()


def test_every_no_of_micro_is_described():
    """As of the relay; what it takes from the relay's reader included."""
    said = written([*RELAY.glob("micro*.py"), RELAY / "body.py"]) - {(404, "path")}
    assert said == described_in(micro_description.described())


def routes(application):
    """Return paths and methods of a Starlette application."""
    return {
        (route.path, method.lower())
        for route in application.routes if isinstance(route, Route)
        for method in (route.methods or {"POST", "OPTIONS"}) - {"HEAD"}
    }  # fmt: skip


def operations(document):
    """Return paths and methods of a description."""
    return {(path, method) for path, methods in document["paths"].items() for method in methods}


def test_every_path_is_described(tmp_path):
    """The bare paths of the relay, its page's, and micro's, with their methods; and no others."""
    JournalQueue(tmp_path / "j").close()
    parts = parts_of([str(tmp_path / "j")], None, visitor_ids=False)
    page = _Page(str(tmp_path), parts, Access(), visitor_ids=False)
    events = {(path, method) for path in (app.EVENTS, app.EU_EVENTS) for method in ("post", "options")}
    bare = {(path, "get") for path in app.GETS}
    assert operations(description.described("")) == events | bare | routes(page._app)
    assert operations(micro_description.described()) == routes(Micro().app)


@pytest.mark.parametrize("document", [description.described("/relay"), micro_description.described()])
def test_schemas_are_schemas(document):
    """Each is one, what it refers to is there, and the servers' paths begin as the relay's do."""
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)

    def walk(value):
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/components/schemas/") in schemas
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(document)
    assert document["servers"] == [{"url": "/relay" if "relay" in document["info"]["title"] else "/"}]


def test_the_schema_of_a_batch_is_the_table():
    """Every field of every object of the published schema is there, required where it is."""
    found = openapi.published_schemas()
    assert len(found) == len(strict.SCHEMA)
    for schema, fields in zip(found.values(), strict.SCHEMA.values(), strict=True):
        assert list(schema["properties"]) == [field.name for field in fields]
        assert schema["required"] == [field.name for field in fields if field.required]
