"""For ``merge``: a batch's visitors cut out of its body, so that batches with equal envelopes can share a request.

The bytes stay what they are: prefix, visitors and suffix put together again are the body.  Where the visitors begin and
end is found by looking for their name, and believed only if two parses agree with the whole: without the visitors it is
the same batch with an empty list, and the visitors alone are that list.  Anything else travels alone, which is always
right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from ..event import Envelope, Event

_NAME: Final = b'"visitors"'
_OPENS: Final = re.compile(rb"\s*:\s*\[")


def cut(bare: Envelope, body: bytes, batch: Mapping[str, Any]) -> Event:
    """Return the event that carries this body, with an envelope that it may share if that can be told.

    ``batch``: the body, parsed.
    """
    if body.count(_NAME) != 1 or not batch["visitors"]:
        return Event(bare, body)
    opens = _OPENS.match(body, body.index(_NAME) + len(_NAME))
    ends = body.rfind(b"]")
    if opens is None or ends < opens.end():
        return Event(bare, body)
    prefix, visitors, suffix = body[: opens.end()], body[opens.end() : ends], body[ends:]
    try:
        around, inside = orjson.loads(prefix + suffix), orjson.loads(b"[" + visitors + b"]")
    except orjson.JSONDecodeError:
        return Event(bare, body)
    if around != {**batch, "visitors": []} or inside != batch["visitors"]:
        return Event(bare, body)
    return Event(bare._replace(shared=True, prefix=prefix, suffix=suffix), visitors)
