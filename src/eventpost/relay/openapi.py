"""Pure: what OpenAPI descriptions are made of: the answers of an operation, and the published schema of a body.

A description is plain values.  Whatever is defined elsewhere is taken from there: the fields of a batch from the table
in ``strict``, a no's form from ``answers``.  Which status and which reason an operation may answer is written once, as
``Reasons``; a test holds them against the code, and another one asks a real relay everything that they allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .. import __version__
from .strict import SCHEMA, Field

Described = dict[str, Any]
Reasons = Mapping[int, tuple[str, ...]]
"""The reasons that an operation gives for a no, by status."""

PATH: Final = "/openapi.json"
_STATUSES: Final = {
    400: "The request makes no sense; nothing of it was taken.",
    401: "A token is needed.",
    403: "It is not for who asks.",
    404: "There is no such thing, or no longer.",
    405: "Another method is asked for.",
    408: "It did not arrive in time.",
    409: "Something else is under way.",
    413: "It is larger than may be.",
    415: "It is packed, or typed, as nobody can read it here.",
    429: "More than is allowed; try later.",
    431: "The request's header is larger than may be.",
    503: "Not just now; try later.",
}
_RETRY_AFTER: Final = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
_ALLOW: Final = {"description": "The methods that there are.", "schema": {"type": "string"}, "required": True}
_OBJECTS: Final = {
    "batch": "Batch", "visitor": "Visitor", "attribute": "Attribute", "snapshot": "Snapshot", "decision": "Decision",
    "metadata": "Metadata", "event": "Event",
}  # fmt: skip


def ref(name: str) -> Described:
    """Return a reference to a schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def published_schemas() -> dict[str, Described]:
    """Return the published description of a batch: a schema for each object of the table."""
    return {
        _OBJECTS[kind]: {
            "type": "object",
            "properties": {field.name: _field(field) for field in fields},
            "required": [field.name for field in fields if field.required],
        }
        for kind, fields in SCHEMA.items()
    }


def _field(field: Field) -> Described:
    types = list(field.types) if len(field.types) > 1 else field.types[0]
    if field.items is None:
        return {"type": types}
    inner = ref(_OBJECTS[field.items])
    return {"type": "array", "items": inner} if field.types == ("array",) else inner


DENIED: Final[Described] = {
    "type": "object",
    "description": "A no. `reason` is one word for programs, `detail` says to a person what to do.",
    "properties": {
        "reason": {"type": "string"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["reason", "detail"],
    "additionalProperties": False,
}


def merged(*tables: Reasons) -> dict[int, tuple[str, ...]]:
    """Return the reasons of several tables together."""
    found: dict[int, tuple[str, ...]] = {}
    for table in tables:
        for status, reasons in table.items():
            known = found.get(status, ())
            found[status] = known + tuple(one for one in reasons if one not in known)
    return dict(sorted(found.items()))


def noes(reasons: Reasons) -> dict[str, Described]:
    """Return the answers that say no."""
    return {str(status): _no(status, words) for status, words in reasons.items()}


def _no(status: int, reasons: tuple[str, ...]) -> Described:
    said = {"allOf": [ref("Denied"), {"properties": {"reason": {"enum": list(reasons)}}}]}
    found: Described = {"description": _STATUSES[status], "content": {"application/json": {"schema": said}}}
    if status in (429, 503):
        found["headers"] = {"Retry-After": _RETRY_AFTER}
    if status == 405:
        found["headers"] = {"Allow": _ALLOW}
    return found


def answer(description: str, kind: str = "", schema: Described | None = None) -> Described:
    """Return an answer that says yes; without ``kind`` it has no body."""
    return {"description": description} | ({"content": {kind: {"schema": schema or {}}}} if kind else {})


def parameter(name: str, where: str, description: str, schema: Described | None = None) -> Described:
    """Return a parameter; one in the path is required."""
    found = {"name": name, "in": where, "description": description, "schema": schema or {"type": "string"}}
    return found | ({"required": True} if where == "path" else {})


def array(items: Described) -> Described:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def record(*, some: Mapping[str, Described] | None = None, **always: Described | str) -> Described:
    """Return the schema of an object with fields that are always there, by type or schema, and some that may be."""
    fields = {name: {"type": one} if isinstance(one, str) else one for name, one in always.items()}
    return {"type": "object", "properties": {**fields, **(some or {})}, "required": list(fields)}


def document(
    title: str, text: str, paths: Mapping[str, Described], schemas: Mapping[str, Described], *, prefix: str = ""
) -> Described:
    """Return a whole description, of a server whose paths all begin with ``prefix``."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__, "description": text, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": prefix or "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": {"Denied": DENIED, **schemas},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "For events: the setting `token`."},
                "token_in_url": {"type": "http", "scheme": "basic", "description": "The same, as the URL's password."},
                "page_token": {"type": "http", "scheme": "bearer", "description": "The setting `page_token`."},
            },
        },
    }
