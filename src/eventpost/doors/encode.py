"""From what an application hands over to bytes: JSON that is exact, or a refusal; a LogEvent becomes an Event.

The oracle is the standard library: ``json.loads(ours) == json.loads(json.dumps(value))``, types included, and what
``json.dumps`` refuses is refused here.  ``orjson`` is some ten times faster, but more generous: it writes NaN and the
infinities as null, and accepts UUIDs and enums.  (Its natives that can be switched off are switched off.)  So its bytes
count only if two checks hold:

1. ``marshal.dumps(value)`` succeeds.  It walks the value in C and knows exact built-in types only.  What it takes
   beyond JSON (bytes, sets, complex numbers, code) orjson refuses, so where both succeed there was nothing but None,
   bool, int, float, str, list, tuple and dict.  With one exception: an Enum whose members are bytes, which marshal
   takes as bytes and orjson as whatever its value is.  Where there may be one, what marshal made of it is encoded.
2. No null stands where there was none.  If ``null`` occurs in the bytes at all they are read back and compared.

Everything else takes the slow path, ``json.dumps``, which either knows what to do (subclasses of str, int, float and
dict, keys that are no strings, integers over 64 bits, lone surrogates, nesting over 254) or refuses.  Both ways the
value is read at the door: the caller may change it as soon as we return.

An :class:`UnencodableEvent` names the type of the value and the way to it, never the value.  Of the way, names are
shown that look like names in a program; a key with a digit or a sign in it may be somebody's id, and is shown as ``?``.

With ``merge`` the visitors of a LogEvent are cut out of its finished body, so that the pieces put together again are
that body, byte for byte, and events whose pieces around the visitors are equal can share one.
"""

from __future__ import annotations

import json
import marshal
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import urlencode, urlsplit

import orjson

from ..errors import EventpostError, InvalidEvent, UnencodableEvent
from ..event import JSON_HEADERS, Envelope, Event

ENVELOPES_MAX: Final = 1024
FRAMING_HEADERS: Final = frozenset({"content-length", "transfer-encoding"})

_STRICT: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_JSON_HEADERS: Final = tuple(JSON_HEADERS.items())
_BYTES_LIKE: Final = b"\xf3"  # marshal's code for one that others refer to as well, as its class does to a member
_URL: Final = re.compile(r"[\x21-\x7e]+\Z")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.1: a token
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*\Z")  # RFC 9110, 5.5, without obs-text: what every client can send
_SHOWN_KEY: Final = re.compile(r"[A-Za-z_]{1,40}\Z")
_SEARCH_NODES_MAX: Final = 10_000

_envelopes: dict[Any, Envelope] = {}


def encode_json(obj: Any, *, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return ``obj`` as UTF-8 JSON that reads back like ``json.dumps(obj, default=default)``.

    ``default`` is called for objects that the standard library would hand to it.  Raises UnencodableEvent for what
    ``json.dumps`` refuses, for NaN and infinity, and for whatever a value's own code raises meanwhile.
    """
    try:
        encoded = orjson.dumps(obj, None, _STRICT)
        marshalled = marshal.dumps(obj)
        if _BYTES_LIKE in marshalled:
            encoded = orjson.dumps(marshal.loads(marshalled), None, _STRICT)  # noqa: S302 - our own bytes
        if b"null" not in encoded or orjson.loads(encoded) == obj:
            return encoded
    except (TypeError, ValueError, RecursionError, MemoryError):
        pass
    return encode_json_slowly(obj, default=default)


def encode_json_slowly(obj: Any, *, default: Callable[[Any], Any] | None = None) -> bytes:
    """Do what :func:`encode_json` promises by the standard library alone."""
    try:
        try:
            return _dump(obj, default)
        except RecursionError:
            raise
        except RuntimeError:  # "changed size during iteration": another thread writes to it
            return _dump(obj, default)
    except Exception as error:  # noqa: BLE001 - a value's own code may raise anything; it costs this event only
        raise refusal(obj, error, default=default) from None


def _dump(obj: object, default: Callable[[Any], Any] | None) -> bytes:
    try:
        return json.dumps(obj, allow_nan=False, separators=(",", ":"), default=default).encode()
    except ValueError as error:
        if not str(error).startswith("Out of range float"):
            raise
    # A NaN is no JSON as a value, but as a key json.dumps makes it the string "NaN".
    text = json.dumps(obj, separators=(",", ":"), default=default)
    json.loads(text, parse_constant=_refuse_constant)
    return text.encode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def refusal(obj: object, error: Exception, *, default: Callable[[Any], Any] | None = None) -> UnencodableEvent:
    """Return the exception that says why ``obj`` could not be written, after ``error`` was raised by trying.

    The message of ``error`` is left out, it may quote a value.
    """
    if isinstance(error, RecursionError) or "Circular reference detected" in error.args:
        return UnencodableEvent("nested too deeply for JSON, or recursive")
    try:
        found = _find_culprit(obj, default)
    except Exception:  # noqa: BLE001 - the search runs the same foreign code that has just failed
        found = None
    return UnencodableEvent(found or f"{type(error).__name__} while it was encoded")


def _find_culprit(obj: object, default: Callable[[Any], Any] | None) -> str | None:
    """Return what JSON cannot express and where, as far as a bounded search finds it."""
    todo: list[tuple[object, str]] = [(obj, "")]
    for _ in range(_SEARCH_NODES_MAX):
        if not todo:
            return None
        value, path = todo.pop()
        where = f" at {path.lstrip('.')}" if path else ""
        if isinstance(value, float):
            if not math.isfinite(value):
                return f"NaN or infinity{where}"
        elif isinstance(value, dict):
            for key, item in value.items():
                if key is not None and not isinstance(key, (str, int, float)):
                    return f"a key of type {_type_name(key)}{where}"
                shown = key if isinstance(key, str) and _SHOWN_KEY.match(key) else "?"
                todo.append((item, f"{path}.{shown}"))
        elif isinstance(value, (list, tuple)):
            todo.extend((item, f"{path}[{index}]") for index, item in enumerate(value))
        elif value is not None and not isinstance(value, (str, int)):
            if default is None:
                return f"{_type_name(value)}{where}"
            try:
                todo.append((default(value), path))
            except Exception:  # noqa: BLE001 - refusing is how a default says no
                return f"{_type_name(value)}{where}"
    return None


def _type_name(value: object) -> str:
    return type(value).__name__[:80]


def log_event_to_event(log_event: Any, *, endpoint: str | None, merge: bool) -> Event:
    """Return the Event that carries ``log_event``: any object with ``url``, ``params``, ``http_verb`` and ``headers``.

    ``endpoint`` replaces the event's own URL.  A missing or empty ``http_verb`` is POST; missing ``headers`` are
    ``Content-Type: application/json``.  With the verb GET ``params`` become the query string, as ``requests`` would
    write it.  ``merge`` lets a POST with a non-empty ``visitors`` list share requests with events of equal envelopes.

    Raises TypeError if ``url`` or ``params`` is missing (a programmer's mistake), InvalidEvent for an URL, verb or
    header that makes no request and for whatever else an attribute's own code raises, UnencodableEvent for params that
    JSON cannot express.
    """
    try:
        url = log_event.url if endpoint is None else endpoint
        params = log_event.params
    except AttributeError:
        raise TypeError(_not_a_log_event(log_event)) from None
    except Exception as error:  # noqa: BLE001 - a property of the caller's; it must not stop the caller's request
        raise InvalidEvent(f"{type(error).__name__} while its attributes were read") from None
    try:
        return _as_event(log_event, url, params, merge=merge)
    except EventpostError:
        raise
    except Exception as error:  # noqa: BLE001 - as above: a TypeError of an attribute's is no programmer's mistake here
        raise InvalidEvent(f"{type(error).__name__} while its URL, verb and headers were read") from None


def _as_event(log_event: Any, url: Any, params: Any, *, merge: bool) -> Event:
    verb = getattr(log_event, "http_verb", None)
    headers = getattr(log_event, "headers", None)
    pairs = _JSON_HEADERS if headers is None else tuple(headers.items())
    bare = _envelope(url, "POST" if verb is None else verb, pairs, b"", b"")
    if bare.verb == "GET":
        return Event(bare, _query(params))
    if merge and type(params) is dict:
        return _merged(bare, params.copy())
    return Event(bare, encode_json(params))


def _not_a_log_event(log_event: object) -> str:
    wanted = "a LogEvent: an object with url, params, http_verb and headers"
    hint = (
        " (user events go to EventProcessor.process)" if "event_context" in getattr(log_event, "__dict__", ()) else ""
    )
    return f"dispatch_event takes {wanted}, not {_type_name(log_event)}{hint}"


def check_url(url: object) -> str:
    """Return ``url`` as an exact str if a request can go there: http or https, a host, a port in range, visible ASCII.

    Raises InvalidEvent, which never quotes the URL: it may hold a password.
    """
    if not isinstance(url, str):
        raise InvalidEvent(f"the URL is no str but {_type_name(url)}")
    text = str.__str__(url)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not _URL.match(text):
        raise InvalidEvent("the URL is not http:// or https:// with a host")
    return text


def _envelope(url: Any, verb: Any, pairs: tuple[Any, ...], prefix: bytes, suffix: bytes) -> Envelope:
    """Return the one Envelope object for these facts, checked when first seen.  Equal ones are identical."""
    key = (url, verb, pairs, prefix, suffix)
    try:
        return _envelopes[key]
    except (KeyError, TypeError):  # TypeError: something unhashable, which the checks below refuse
        pass
    checked_url, checked_verb, headers = check_url(url), _check_verb(verb), _check_headers(pairs)
    envelope = Envelope(checked_url, checked_verb, headers, bool(prefix), prefix, suffix)
    plain = (checked_url, checked_verb, headers, prefix, suffix)
    envelope = _envelopes.get(plain, envelope)
    if len(_envelopes) >= ENVELOPES_MAX:
        _envelopes.clear()
    _envelopes[plain] = envelope
    if all(type(part) is str for part in (url, verb, *(part for pair in pairs for part in pair))):
        _envelopes[key] = envelope  # as it came, with the verb in lower case, say
    return envelope


def _check_verb(verb: object) -> str:
    if not isinstance(verb, str):
        raise InvalidEvent(f"the verb is no str but {_type_name(verb)}")
    upper = str.upper(verb) or "POST" if str.isascii(verb) else ""  # "po\u017ft".upper() is "POST"
    if upper not in {"POST", "GET"}:
        raise InvalidEvent("the verb is neither POST nor GET")
    return upper


def _check_headers(pairs: Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Return the headers in the order given, but those that frame the body: the transport writes them.

    A None value leaves a header out, as with ``requests``.
    """
    headers = []
    for pair in pairs:
        if type(pair) is not tuple or len(pair) != len(("name", "value")):
            raise InvalidEvent("the headers are no mapping of names to values")
        name, value = pair
        if not isinstance(name, str) or not _HEADER_NAME.match(name):
            raise InvalidEvent(f"a header's name is no token but {_type_name(name)}")
        if value is None or name.lower() in FRAMING_HEADERS:
            continue
        if not isinstance(value, str) or not _HEADER_VALUE.match(value):
            raise InvalidEvent(f"the value of a header is no line of ASCII but {_type_name(value)}")
        headers.append((str.__str__(name), str.__str__(value)))
    return tuple(headers)


def _query(params: Any) -> bytes:
    """Return params as a query string, like ``requests``: repeated keys for sequences, None left out."""
    pairs: list[tuple[Any, Any]] = []
    try:
        for key, values in () if params is None else params.items() if isinstance(params, Mapping) else params:
            several = hasattr(values, "__iter__") and not isinstance(values, (str, bytes))
            pairs.extend((key, value) for value in (values if several else (values,)) if value is not None)
        return urlencode(pairs, doseq=True).encode("ascii")
    except Exception as error:  # noqa: BLE001 - a value's own code may raise anything; it costs this event only
        raise UnencodableEvent(f"{type(error).__name__} while the query string was written") from None


def _merged(bare: Envelope, params: dict[Any, Any]) -> Event:
    """Return the Event with its visitors cut out of the finished body; without a visitors list, the whole body.

    ``params`` is our own copy, so its keys stay put.  What stands before and after the visitors is encoded by itself
    and then looked for in the body; if it is not there (one part needed the slow path, or a value changed under our
    hands) the event travels alone, which is always right.
    """
    body = encode_json(params)
    visitors = params.get("visitors")
    if type(visitors) is not list or not visitors or any(type(key) is not str for key in params):
        return Event(bare, body)
    keys = list(params)
    at = keys.index("visitors")
    head = encode_json({key: params[key] for key in keys[:at]})[:-1]
    tail = encode_json({key: params[key] for key in keys[at + 1 :]})[1:]
    prefix = head + (b',"visitors":[' if at else b'"visitors":[')
    suffix = (b"]," if at + 1 < len(keys) else b"]") + tail
    if not body.startswith(prefix) or not body.endswith(suffix) or len(body) <= len(prefix) + len(suffix):
        return Event(bare, body)
    envelope = _envelope(bare.url, bare.verb, bare.headers, prefix, suffix)
    return Event(envelope, body[len(prefix) : len(body) - len(suffix)])
