"""What ``eventpost micro`` says of itself at ``/openapi.json``: the endpoint that it stands for, and ``/micro``."""

from __future__ import annotations

from typing import Final

from .app import EU_EVENTS, EVENTS
from .body import ENCODINGS
from .micro_kept import COUNTS, FILTERS
from .micro_script import DELAY_S_MAX, REPLY, RESETS, STATUSES, TIMES_MAX
from .openapi import (
    PATH,
    Described,
    Reasons,
    answer,
    array,
    document,
    merged,
    noes,
    parameter,
    published_schemas,
    record,
    ref,
)

TAKE: Final[Reasons] = {
    400: ("empty", "not_json", "not_a_batch", "not_packed", "strict"),
    405: ("method",),
    408: ("slow_body",),
    413: ("too_large",),
    415: ("encoding",),
    503: ("busy",),
}
ASK: Final[Reasons] = {403: ("host",), 405: ("method",)}
FILTER: Final[Reasons] = {400: ("filter",)}
SCRIPT: Final[Reasons] = {400: ("script",)}
ABOUT: Final = """Optimizely's event endpoint for test suites: what came can be asked for, and it fails when told to.
What a script orders for a request for events, be it a status, a delay, a reset or silence, stands nowhere below."""
_JSON: Final = "application/json"
_EITHER: Final[Described] = {"anyOf": [ref("Batch"), ref("AnyBatch")]}
_TYPES: Final = {int: "integer", float: "number", str: "string", bool: "boolean", dict: "object"}


def described() -> Described:
    """Return the description."""
    left = record(left="integer", always="boolean")
    scripted = {"required": True, "content": {_JSON: {"schema": {"anyOf": [array(ref("Reply")), ref("Script")]}}}}
    counts = {"type": "object", "properties": {name: {"type": "integer"} for name in COUNTS}, "required": list(COUNTS)}
    paths = {
        EVENTS: _events("Events for the US"),
        EU_EVENTS: _events("Events for the EU"),
        "/": {"get": _ask("What this is", record(eventpost="string", events="array", micro="array"))},
        "/micro/all": {"get": _ask("How many came", counts)},
        "/micro/good": {"get": _ask("The events of good requests", array(ref("Good")), *FILTERS)},
        "/micro/bad": {"get": _ask("The bad requests", array(ref("Bad")), "path", "reason")},
        "/micro/reset": {"post": _ask("Forget everything", counts)},
        "/micro/script": {
            "get": _ask("How much of the script is left", left),
            "post": _say("Answers from now on", left, scripted),
            "delete": _ask("Answer as usual", left),
        },
        PATH: {"get": _ask("This description", {"type": "object"})},
    }
    return document("Eventpost micro", ABOUT, paths, _schemas())


def _ask(summary: str, schema: Described, *filters: str) -> Described:
    found: Described = {"summary": summary}
    reasons: Reasons = ASK
    if filters:
        reasons = merged(ASK, FILTER)
        limit = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
        found["parameters"] = [parameter("limit", "query", "So many of the newest.", limit)]
        found["parameters"] += [parameter(name, "query", "What it has to be.") for name in filters]
    return found | {"responses": {"200": answer("It.", _JSON, schema), **noes(reasons)}}


def _say(summary: str, schema: Described, body: Described) -> Described:
    yes = {"200": answer("It is noted.", _JSON, schema)}
    return {"summary": summary, "requestBody": body, "responses": yes | noes(merged(ASK, SCRIPT))}


def _events(summary: str) -> Described:
    strict = "`true`: a batch that breaks the published schema is answered 400 with where; else 204, and listed as bad."
    packed = "How the body is packed: gzip or deflate."
    return {
        "post": {
            "summary": summary,
            "parameters": [
                parameter("X-Optimizely-Strict", "header", strict, {"type": "string", "examples": ["true", "false"]}),
                parameter("Content-Encoding", "header", packed, {"type": "string", "enum": list(ENCODINGS)}),
            ],
            "requestBody": {"required": True, "content": {_JSON: {"schema": _EITHER}}},
            "responses": {"204": answer("The endpoint would say so."), **noes(TAKE)},
        },
        "options": {"summary": "A browser's preflight", "responses": {"204": answer("It may.")}},
    }


def _reply() -> Described:
    """Return the schema of one answer of a script, its fields as the script reads them."""
    fields: dict[str, Described] = {}
    for name, types in REPLY.items():
        found = [_TYPES[one] for one in (types if isinstance(types, tuple) else (types,))]
        fields[name] = {"type": found if len(found) > 1 else found[0]}
    fields["status"] |= {"minimum": STATUSES.start, "maximum": STATUSES.stop - 1}
    fields["delay_s"] |= {"minimum": 0, "maximum": DELAY_S_MAX}
    fields["times"] |= {"minimum": 1, "maximum": TIMES_MAX}
    fields["reset"] = {"enum": list(RESETS)}
    fields["headers"]["additionalProperties"] = {"type": "string"}
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _schemas() -> dict[str, Described]:
    always = {"anyOf": [ref("Reply"), {"type": "null"}]}
    good = record(
        request="integer", at="number", path="string", kind={"enum": ["impression", "conversion"]}, event=ref("Event"),
        visitor_id="string", attributes=array(ref("Attribute")), decisions=array(ref("Decision")), batch="object",
    )  # fmt: skip
    bad = record(
        request="integer", at="number", path="string", status="integer", reason="string",
        errors=array({"type": "string"}), body="string", body_bytes="integer",
    )  # fmt: skip
    return {
        **published_schemas(),
        "AnyBatch": record(visitors="array"),
        "Good": good,
        "Bad": bad,
        "Reply": _reply(),
        "Script": {
            "type": "object",
            "properties": {"replies": array(ref("Reply")), "always": always},
            "additionalProperties": False,
        },
    }
