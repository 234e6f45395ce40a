"""How ``eventpost micro`` is told to fail: the next answers, one each, and what follows them."""

from __future__ import annotations

from collections import deque
from math import isfinite
from typing import Any, Final

from ..testing.collector import PLAIN, Reply

DELAY_S_MAX: Final = 3600.0
TIMES_MAX: Final = 100_000
STATUSES: Final = range(200, 600)
REPLY: Final[dict[str, type | tuple[type, ...]]] = {
    "status": int, "headers": dict, "body": str, "delay_s": (int, float), "retry_after": (int, float, str),
    "retry_after_date_s": (int, float), "reset": str, "hang": bool, "times": int,
}  # fmt: skip
"""The fields of an answer, each with its types; a bool is no number."""
RESETS: Final = ("before", "during", "after")


class BadScript(ValueError):  # noqa: N818 - names a state, and is answered as 400
    """A script makes no sense; the message says where."""


def parse_reply(value: Any, where: str) -> tuple[Reply, int]:
    """Return an answer of a script, and how often it is given.  Raises BadScript."""
    if not isinstance(value, dict):
        raise BadScript(f"{where}: an object is needed, with any of {', '.join(REPLY)}")
    for name, one in value.items():
        if name not in REPLY:
            raise BadScript(f"{where}: there is no {str(name)[:40]!r}; known are {', '.join(REPLY)}")
        if not isinstance(one, REPLY[name]) or (isinstance(one, bool) and name != "hang"):
            raise BadScript(f"{where}.{name}: wrong type")
    if value.get("status", 204) not in STATUSES:
        raise BadScript(f"{where}.status: from 200 to 599")
    if value.get("reset", "before") not in RESETS:
        raise BadScript(f"{where}.reset: one of {', '.join(RESETS)}")
    if not (isfinite(value.get("delay_s", 0)) and 0 <= value.get("delay_s", 0) <= DELAY_S_MAX):
        raise BadScript(f"{where}.delay_s: from 0 to {DELAY_S_MAX:g}")
    if not 1 <= value.get("times", 1) <= TIMES_MAX:
        raise BadScript(f"{where}.times: from 1 to {TIMES_MAX:,}")
    headers = value.get("headers", {})
    texts = [*headers, *headers.values(), *[one for one in [value.get("retry_after")] if isinstance(one, str)]]
    if not all(isinstance(one, str) and one.isascii() and one.isprintable() for one in texts):
        raise BadScript(f"{where}: headers are printable ASCII")
    more = {name: one for name, one in value.items() if name not in {"times", "body"}}
    return Reply(**more, body=value.get("body", "").encode()), value.get("times", 1)


class Script:
    """What is left of the answers."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Answer as usual from now on."""
        self._replies: deque[Reply] = deque()
        self._always: Reply = PLAIN

    def next(self) -> Reply:
        """Return how the next request is answered."""
        return self._replies.popleft() if self._replies else self._always

    def left(self) -> dict[str, Any]:
        """Return how many answers are left, and whether an unusual one follows them."""
        return {"left": len(self._replies), "always": self._always is not PLAIN}

    def add(self, value: Any) -> None:
        """Take a list of answers, or an object with ``replies`` and ``always``.  Raises BadScript."""
        if isinstance(value, list):
            value = {"replies": value}
        if not isinstance(value, dict) or not value.keys() <= {"replies", "always"}:
            raise BadScript("a list of answers is needed, or an object with replies, always, or both")
        replies = value.get("replies", [])
        if not isinstance(replies, list):
            raise BadScript("replies: a list is needed")
        parsed = [parse_reply(one, f"replies[{index}]") for index, one in enumerate(replies)]
        if len(self._replies) + sum(times for _, times in parsed) > TIMES_MAX:
            raise BadScript(f"replies: {TIMES_MAX:,} at most")
        if "always" in value:
            self._always = PLAIN if value["always"] is None else parse_reply(value["always"], "always")[0]
        for reply, times in parsed:
            self._replies.extend([reply] * times)
