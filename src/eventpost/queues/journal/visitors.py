"""Whose an event is, and which of its bytes: a payload is taken apart without being changed.  Pure.

A visitor's bytes can be taken out of an event that holds others too: spaces stand in their place, with the comma that
set them apart.  White space means nothing between the values of JSON, so what is left is the same body for the others,
byte for byte, and as long as before.

The standard library's decoder tells where a value ends.  It is handed the bytes as Latin-1, one character for each of
them: all that gives JSON its structure is ASCII, so its places are the bytes' places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, quote_plus

from ...event import Envelope

Span = tuple[int, int]

_space: Final = re.compile(r"[ \t\r\n]*").match
_value_at: Final = json.JSONDecoder(strict=False).raw_decode


class Found(NamedTuple):
    """What of a payload is the visitor's: ``whole``, or these ``spans`` of it."""

    whole: bool
    spans: tuple[Span, ...] = ()


class Visitor:
    """One visitor, by id, and how to tell what is about them."""

    def __init__(self, visitor_id: str) -> None:
        """Raise ValueError for an empty id, or one that is no text."""
        if not visitor_id:
            raise ValueError("a visitor's id is needed")
        try:
            raw = visitor_id.encode()
        except UnicodeEncodeError:
            raise ValueError("a visitor's id must be text") from None
        self._id = visitor_id
        escaped = json.dumps(visitor_id)[1:-1].encode()
        written = json.dumps(visitor_id, ensure_ascii=False)[1:-1].encode()
        self._written = raw  # as it stands in JSON that escapes nothing
        self._quoted = tuple({b'"' + text + b'"' for text in (raw, escaped, written)})
        # In what is damaged, its end may be missing.
        self._opened = tuple(
            {b'"' + text for text in (raw, escaped, written)}
            | {b"=" + text.encode() for text in (quote(visitor_id, safe=""), quote_plus(visitor_id))}
        )

    def __repr__(self) -> str:
        return "Visitor(<masked>)"

    def find(self, envelope: Envelope | None, payload: bytes) -> Found | None:
        """Return what of an event's payload is theirs; None: nothing.  ``envelope`` None: it was lost."""
        if envelope is not None and envelope.verb == "GET":
            return Found(whole=True) if self._is_in_query(payload) else None
        if self._written not in payload and b"\\" not in payload:
            return None
        try:
            lists = self._lists(payload.decode("latin-1"), shared=None if envelope is None else envelope.shared)
        except (ValueError, RecursionError):
            return None  # no JSON
        theirs = [[self._is_theirs(payload[start:stop]) for start, stop in spans] for spans in lists]
        if not any(map(any, theirs)):
            return None
        if all(map(all, theirs)):
            return Found(whole=True)
        return Found(whole=False, spans=tuple(cut for pair in zip(lists, theirs, strict=True) for cut in _cuts(*pair)))

    def is_mentioned(self, payload: bytes) -> bool:
        """Tell whether the id stands, as a string of its own, anywhere in bytes."""
        return any(text in payload for text in self._quoted)

    def shows_in(self, damaged: bytes) -> bool:
        """Tell whether bytes that can't be read show the id, or one that begins with it."""
        return any(text in damaged for text in self._opened)

    def _is_in_query(self, payload: bytes) -> bool:
        return any(value == self._id for _, value in parse_qsl(payload.decode("utf-8", "replace")))

    def _lists(self, text: str, *, shared: bool | None) -> list[list[Span]]:
        """Return where the visitors stand: in a body's array, or one after the other in a piece of one."""
        if shared:
            return [list(_values(text, 0, ""))]
        found = [
            list(_values(text, start + 1, "]"))
            for key, start in _members(text)
            if key == "visitors" and text.startswith("[", start)
        ]
        return [list(_values(text, 0, ""))] if shared is None and not found else found

    def _is_theirs(self, visitor: bytes) -> bool:
        try:
            value = json.loads(visitor.decode("utf-8", "replace"), strict=False, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, _Pairs) and any(key == "visitor_id" and self._is_named(one) for key, one in value)

    def _is_named(self, value: Any) -> bool:
        return isinstance(value, (str, int)) and not isinstance(value, bool) and str(value) == self._id


class _Pairs(list[tuple[str, Any]]):
    """An object, with the names that occur twice."""


def _cuts(spans: list[Span], theirs: list[bool]) -> list[Span]:
    """Return what becomes spaces: each of theirs, with the comma before it, or after it if only theirs come before."""
    cuts: list[Span] = []
    kept = False
    for index, (start, stop) in enumerate(spans):
        if not theirs[index]:
            kept = True
        elif kept:
            cuts.append((spans[index - 1][1], stop))
        else:
            cuts.append((start, spans[index + 1][0] if index + 1 < len(spans) else stop))
    return cuts


def _at(text: str, place: int) -> int:
    """Return the first place from here on that is no white space."""
    match = _space(text, place)
    assert match is not None  # noqa: S101 - the pattern matches the empty string, too
    return match.end()


def _values(text: str, place: int, closing: str) -> Iterator[Span]:
    """Yield the values from a place on, set apart by commas, until ``closing`` ("": the text's end)."""
    place = _at(text, place)
    if text[place : place + 1] == closing:
        return
    while True:
        stop = _value_at(text, place)[1]
        yield place, stop
        place = _at(text, stop)
        if text[place : place + 1] != ",":
            break
        place = _at(text, place + 1)
    if text[place : place + 1] != closing:
        raise ValueError("no list of values")


def _members(text: str) -> Iterator[tuple[str, int]]:
    """Yield the names in the text's object, each with the place of its value."""
    place = _at(text, 0)
    if text[place : place + 1] != "{":
        raise ValueError("no object")
    place = _at(text, place + 1)
    while text[place : place + 1] == '"':
        key, place = _value_at(text, place)
        place = _at(text, place)
        if text[place : place + 1] != ":":
            raise ValueError("no object")
        place = _at(text, place + 1)
        yield key, place
        place = _at(text, _value_at(text, place)[1])
        if text[place : place + 1] == ",":
            place = _at(text, place + 1)


def answer_span(meta: bytes) -> Span | None:
    """Return where in a dead letter's own text the endpoint's answer stands, without its quotes; None: nowhere."""
    text = meta.decode("latin-1")
    try:
        for key, start in _members(text):
            if key == "answer" and text.startswith('"', start):
                return start + 1, _value_at(text, start)[1] - 1
    except (ValueError, RecursionError):
        return None
    return None
