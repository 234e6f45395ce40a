"""The relay's description of itself, as it serves it at ``/openapi.json``: every path, every status with its reasons.

What a program may ask of a relay is here: events, probes, metrics, and the page's lists.  What changes something on the
page is described, too, but no program can use it: it needs a cookie and a token that only the page has (``safety``);
programs use the ``eventpost`` command.
"""

from __future__ import annotations

from typing import Final

from .app import EU_EVENTS, EVENTS, LIVEZ, METRICS, READYZ
from .body import ENCODINGS
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

CONNECTION: Final[Reasons] = {
    400: ("malformed",), 408: ("slow_header",), 431: ("header_too_large",), 503: ("connections",),
}  # fmt: skip
"""What any request may be answered, before anybody looks at its path."""
DOOR: Final[Reasons] = {
    400: ("empty", "not_json", "not_a_batch", "not_packed", "strict"),
    401: ("token",),
    403: ("origin",),
    405: ("method",),
    408: ("slow_body",),
    413: ("too_large",),
    415: ("encoding",),
    429: ("too_fast",),
    503: (
        "queue_full", "disk_full", "folder_gone", "permission", "sync_timeout", "sync_failed", "disk", "reentrant",
        "forked", "no_descriptors", "queue_unavailable", "redis_unavailable", "redis_full", "redis_unconfirmed",
        "redis_unusable", "busy", "closed", "test_run",
    ),
}  # fmt: skip
READY: Final[Reasons] = {
    503: (
        "queue_full", "disk_full", "folder_gone", "permission", "no_descriptors", "disk", "redis_unavailable",
        "redis_full", "redis_unusable", "closed",
    ),
}  # fmt: skip
METHOD: Final[Reasons] = {405: ("method",)}
PAGE: Final[Reasons] = {401: ("page_token",), 403: ("page_off", "host"), 405: ("method",), 503: ("disk", "queue")}
GONE: Final[Reasons] = {404: ("gone",)}
PLACE: Final[Reasons] = {400: ("id",)}
STREAM: Final[Reasons] = {503: ("pages",)}
FORGED: Final[Reasons] = {403: ("forged", "token")}
BODY: Final[Reasons] = {413: ("too_large",), 415: ("type",)}
CHANGE: Final[Reasons] = {**FORGED, **BODY, 400: ("choice", "id", "not_json"), 409: ("busy",)}
FORM: Final[Reasons] = {**FORGED, **BODY, 400: ("form",)}
EXPORT: Final[Reasons] = {**FORM, 400: ("form", "choice", "id"), 429: ("busy",)}
ABOUT: Final = """One safe hop for every SDK: 204 is answered once an event is stored, and it is delivered from then on.
Every no is JSON with a reason; of a request that was answered no, nothing is stored.  Any content type is taken for a
body, which has to be JSON in UTF-8."""
_JSON: Final = "application/json"
_HTML: Final = "text/html"
_EITHER: Final[Described] = {"anyOf": [ref("Batch"), ref("AnyBatch")]}
_TOKENS: Final[list[Described]] = [{}, {"token": []}, {"token_in_url": []}]
_PAGE_TOKENS: Final[list[Described]] = [{}, {"page_token": []}]
_KINDS: Final = ["impression", "conversion", "mixed", "other"]


def described(prefix: str) -> Described:
    """Return the description of a relay whose paths begin with ``prefix``."""
    paths = {EVENTS: _events("Events for the US"), EU_EVENTS: _events("Events for the EU")}
    paths |= {
        LIVEZ: {"get": _get("This process answers", {"200": answer("It does.", "text/plain")}, METHOD)},
        READYZ: {"get": _get("It can store", {"200": answer("It can.", "text/plain")}, METHOD, READY)},
        METRICS: {"get": _get("Counters for Prometheus", {"200": answer("Them.", "text/plain")}, _gate(), page=True)},
        PATH: {"get": _get("This description", {"200": answer("It.", _JSON, {"type": "object"})}, METHOD)},
    }
    paths |= _page_paths()
    return document("Eventpost relay", ABOUT, paths, _schemas(), prefix=prefix)


def _gate() -> Reasons:
    return {status: reasons for status, reasons in PAGE.items() if status != 503}


def _get(summary: str, yes: dict[str, Described], *reasons: Reasons, page: bool = False, **more: object) -> Described:
    found = {"summary": summary, **more, "responses": yes | noes(merged(CONNECTION, *reasons))}
    return found | ({"security": _PAGE_TOKENS} if page else {})


def _events(summary: str) -> Described:
    strict = "`true`: a batch that breaks the published schema is answered 400 with where; else it is taken."
    packed = "How the body is packed: gzip or deflate."
    return {
        "post": {
            "summary": summary,
            "parameters": [
                parameter("X-Optimizely-Strict", "header", strict, {"type": "string", "examples": ["true", "false"]}),
                parameter("Content-Encoding", "header", packed, {"type": "string", "enum": list(ENCODINGS)}),
            ],
            "requestBody": {"required": True, "content": {_JSON: {"schema": _EITHER}}},
            "responses": {"204": answer("It is stored."), **noes(merged(CONNECTION, DOOR))},
            "security": _TOKENS,
        },
        "options": {
            "summary": "A browser's preflight",
            "responses": {"204": answer("It may."), **noes(merged(CONNECTION, {403: ("origin",)}))},
        },
    }


def _page_paths() -> dict[str, Described]:
    id_ = parameter("id", "query", "As a list says.")
    wanted = [parameter(name, "query", f"A {name} to look for.") for name in ("text", "kind", "state", "reason")]
    html = {"200": answer("It.", _HTML)}
    moved = {"303": answer("Done: the page.")}
    listed = [wanted[0], wanted[3], parameter("before", "query", "`more` of the answer before.")]
    news = answer("`hello`, `state`, `events`, `dead`, `job`.", "text/event-stream", {"type": "string"})
    form = {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}
    paths = {
        "/": {"get": _get("The page", html, PAGE, page=True)},
        "/live": {"get": _get("What happens", {"200": news}, PAGE, STREAM, page=True, parameters=wanted)},
        "/event": {"get": _one("An event that waits, or has waited lately", "EventSeen", id_)},
        "/letter": {"get": _one("A dead letter", "Letter", id_)},
        "/letters": {
            "get": _get(
                "Dead letters, the newest first",
                {"200": answer("A part of the list.", _JSON, record(rows=array(ref("LetterRow")), more="string"))},
                PAGE, PLACE, page=True, parameters=listed,
            ),
        },
        **_changes(),
        "/login": {
            "get": _get("A form for the token", html | moved, PAGE),
            "post": _get("The token, shown once", moved, PAGE, FORM, requestBody={"content": form}),
        },
        "/logout": {"post": _get("The cookie is taken away", moved, PAGE, FORM, requestBody={"content": form})},
    }  # fmt: skip
    tried = {"401": "This is not a token for the page.", "429": "Too many tries."}
    paths["/login"]["post"]["responses"] |= {status: answer(text, _HTML) for status, text in tried.items()}
    for path in paths.values():
        for operation in path.values():
            operation["responses"]["401"]["content"][_HTML] = {"schema": {}}  # a browser is shown the form
    return paths


def _one(summary: str, schema: str, id_: Described) -> Described:
    yes = {"200": answer("It, with its payload.", _JSON, ref(schema))}
    return _get(summary, yes, PAGE, GONE, page=True, parameters=[id_])


def _changes() -> dict[str, Described]:
    """Return what the page does to dead letters; for the page alone."""
    ids = array({"type": "string"}) | {"minItems": 1}
    choice = {"anyOf": [record(ids=ids), record(matching="object")]}
    job = record(job=ref("Job"))
    token = parameter("X-CSRF-Token", "header", "The page's own.")
    body = {"content": {_JSON: {"schema": choice}}}
    done = {"200": answer("It is done.", _JSON, job), "202": answer("It goes on.", _JSON, job)}
    form = {"application/x-www-form-urlencoded": {"schema": record(csrf="string", choice="string")}}
    lines = {"200": answer("The letters, one a line.", "application/x-ndjson", {"type": "string"})}
    stopped = {"200": answer("It is asked to end.", _JSON, job)}
    return {
        "/letters/retry": {"post": _page_post("Put letters back", done, CHANGE, parameters=[token], requestBody=body)},
        "/letters/discard": {"post": _page_post("Give letters up", done, CHANGE, parameters=[token], requestBody=body)},
        "/letters/stop": {"post": _page_post("End what is under way", stopped, FORGED, parameters=[token])},
        "/letters/export": {"post": _page_post("Hand letters out", lines, EXPORT, requestBody={"content": form})},
    }


def _page_post(summary: str, yes: dict[str, Described], reasons: Reasons, **more: object) -> Described:
    return _get(f"{summary}; for the page alone", yes, PAGE, reasons, page=True, **more)


def _schemas() -> dict[str, Described]:
    row = record(
        kind={"enum": _KINDS}, key="string", variation="string", project="string", uuid="string", visitor="string",
        events="integer", bytes="integer", endpoint="string",
    )  # fmt: skip
    letter = record(
        id="string", at="number", reason="string", status="integer", attempts="integer", answer="string"
    )  # fmt: skip
    request = record(verb="string", headers="object", shared="boolean", payload="string")
    died = {"letter": {"type": "string"}, "reason": {"type": "string"}, "attempts": {"type": "integer"}}
    return {
        **published_schemas(),
        "AnyBatch": record(visitors="array"),
        "EventSeen": {"allOf": [row, request, record(id="string", at="number", state="string", some=died)]},
        "LetterRow": {"allOf": [row, letter]},
        "Letter": {"allOf": [row, letter, request]},
        "Job": {
            "anyOf": [
                {"type": "null"},
                record(
                    id="string", action={"enum": ["retry", "discard"]}, done="integer", changed="integer",
                    state={"enum": ["running", "done", "stopped", "failed"]}, started_at="number", error="string",
                    total={"type": ["integer", "null"]}, some={"ended_at": {"type": "number"}},
                ),
            ],
        },
    }  # fmt: skip
