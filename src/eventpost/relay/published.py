"""A body looked at by msgspec: is it a batch, whose, and does it fit the published schema?  Pure.

msgspec reads every byte of a body and makes objects of those names only that it is told of.  Two readers: one knows
what every batch has, the other one the whole table of ``strict``, as types.  What the latter takes fits, but for the
rules between fields, which are looked at here; its verdict is that of ``strict_errors`` (tested over mutated bodies) at
a twentieth of the price, so that each event can be looked at and not only those whose sender asks for it.  It does not
say what is wrong: ``strict`` does.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, Final

import msgspec

from .strict import IMPRESSION_KEY, INT64, SCHEMA, Field


class _Batch(msgspec.Struct):
    visitors: list[msgspec.Raw]
    project_id: Any = ""


class _Object(msgspec.Struct):
    """Any object: what lies in it is passed over."""


_SCALARS: Final[dict[str, Any]] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "null": type(None), "object": _Object,
}  # fmt: skip
_BESIDE: Final[dict[str, list[tuple[str, Any, Any]]]] = {
    "attribute": [("entity_id", Any, msgspec.UNSET), ("key", Any, msgspec.UNSET)]
}
"""Fields that the table leaves to the rules."""


def _type_of(field: Field) -> Any:
    if field.items is not None:
        inner = _struct_of(field.items)
        return list[inner] if field.types == ("array",) else inner  # type: ignore[valid-type]  # it is made just now
    return reduce(or_, (_SCALARS[one] for one in field.types))


def _struct_of(kind: str) -> Any:
    """Return a type for an object of the table."""
    fields: list[Any] = [
        (field.name, _type_of(field)) if field.required else (field.name, _type_of(field), None)
        for field in SCHEMA[kind]
    ]
    return msgspec.defstruct(f"_{kind}", [*fields, *_BESIDE.get(kind, ())], kw_only=True, gc=False)


read_batch: Final = msgspec.json.Decoder(_Batch).decode
"""Returns an object with ``project_id``.  Raises FAILS."""
_read_published: Final = msgspec.json.Decoder(_struct_of("batch")).decode
FAILS: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""A reader does not take a body, which does not mean that nobody does."""


def fitting_project_in(body: bytes) -> str | None:
    """Return the project of a batch that fits the published schema, None if it breaks a rule.  Raises FAILS."""
    if not body.isascii():
        body.decode()  # msgspec looks into no text that it passes over
    batch = _read_published(body)
    for visitor in batch.visitors:
        for attribute in visitor.attributes or ():
            if not _is_attribute(attribute):
                return None
        for snapshot in visitor.snapshots:
            if not _is_snapshot(snapshot):
                return None
    return batch.project_id or ""


def _is_attribute(attribute: Any) -> bool:
    name, entity_id = attribute.key, attribute.entity_id
    if attribute.type == "custom":
        return type(name) is str and type(entity_id) is str
    return entity_id in (None, msgspec.UNSET) and (name in (None, msgspec.UNSET) or type(name) is str)


def _is_snapshot(snapshot: Any) -> bool:
    for event in snapshot.events:
        if event.revenue is not None and event.revenue not in INT64:
            return False
        if event.key == IMPRESSION_KEY and not any(
            one.campaign_id == event.entity_id for one in snapshot.decisions or ()
        ):
            return False
    return True
