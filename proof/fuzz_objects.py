"""What the fuzzing target ``door`` is made of: values, and objects that are, or are not, log events."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import uuid
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

import orjson

URL = "http://127.0.0.1:9/v1/events"
LEAVES_MAX = 200


CODE = compile("1", "", "eval")


class Word(str):
    """A text of a class of its own."""

    __slots__ = ()


class Whole(int):
    """A number of a class of its own."""


class Part(float):
    """A fraction of a class of its own."""


class Rows(list):  # type: ignore[type-arg]
    """A list of a class of its own."""


class Mode(str, enum.Enum):
    """A text and a member."""

    FAST = "fast"


class Level(enum.IntEnum):
    """A number and a member."""

    HIGH = 3


class Colour(enum.Enum):
    """A member."""

    RED = 1


class Flags(enum.IntFlag):
    """A number and a flag."""

    ONE = 1


Pair = namedtuple("Pair", "left right")  # noqa: PYI024 - the untyped one is what people have


@dataclasses.dataclass
class Point:
    """A record."""

    x: int = 1


class Raises:
    """Its own code fails at whatever is asked."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


class RaisingDict(dict):  # type: ignore[type-arg]
    """It cannot be gone through."""

    def items(self) -> Any:
        """Raise."""
        raise OSError("no")


class RaisingText(str):
    """It cannot be hashed."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise OverflowError

    def upper(self) -> str:
        """Raise."""
        raise OverflowError


TEXTS = (
    "", "a", "null", "NaN", "visitors", "\0", "\ud800", "\udfff\ud800", "é", "😀", "\u2028", '"\\', "x" * 300,
    "__class__", "1e999", "\x7f", "Infinity", '","visitors":[', "]}", "\ufeff",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400, 10**4299,
    0.0, -0.0, 0.1, 1e16, 1e22, 5e-324, 1.7976931348623157e308, 1e308 * 10, float("nan"), float("-inf"),
    True, False, None,
)  # fmt: skip
ODD: tuple[Callable[[], Any], ...] = (
    lambda: decimal.Decimal("1.5"), lambda: decimal.Decimal("NaN"), lambda: fractions.Fraction(1, 3),
    lambda: dt.datetime(2026, 1, 1), lambda: dt.date(2026, 1, 1), lambda: dt.timedelta(1), lambda: uuid.UUID(int=7),  # noqa: DTZ001 - naive on purpose
    lambda: Colour.RED, lambda: Mode.FAST, lambda: Level.HIGH, lambda: Flags.ONE, Point, lambda: Pair(1, "b"),
    lambda: Word("w"), lambda: Whole(7), lambda: Part(0.5), lambda: Part("nan"), lambda: Rows([1]),
    lambda: b"bytes", lambda: bytearray(b"x"), lambda: memoryview(b"x"), lambda: {1, 2}, frozenset, lambda: 1j,
    lambda: ..., object, Raises, lambda: RaisingDict(a=1), lambda: RaisingText("t"), lambda: OrderedDict(a=1),
    lambda: defaultdict(list, a=[1]), lambda: UserDict(a=1), lambda: MappingProxyType({"a": 1}), lambda: range(3),
    lambda: (n for n in (1, 2)), lambda: len, lambda: int, lambda: orjson.Fragment(b"{}"),
    lambda: ipaddress.ip_address("::1"), lambda: CODE, lambda: Exception("e"), lambda: SimpleNamespace(a=1),
    lambda: Counter("aab"), lambda: {1: 2, "1": 3}, lambda: {None: 1, True: 2, 1.5: 3}, lambda: {(1, 2): 3},
    lambda: {b"k": 1}, lambda: {Mode.FAST: 1}, lambda: {Level.HIGH: 1}, lambda: {float("nan"): 1},
    lambda: {Word("k"): None},
)  # fmt: skip


class Choices:
    """Choices that are read from an input's bytes; zeros when they are used up, which choose the simplest."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.left = LEAVES_MAX

    def below(self, n: int) -> int:
        """Return a number below ``n``, at most 256."""
        at, self._at = self._at, self._at + 1
        return self._data[at] % n if at < len(self._data) else 0

    def of(self, things: Sequence[Any]) -> Any:
        """Return one of these."""
        return things[self.below(len(things))]

    def value(self, depth: int) -> Any:
        """Return a value as it may stand in params."""
        self.left -= 1
        kind = self.below(16) if self.left > 0 else 0
        if kind < 4:
            return self.of(NUMBERS[:15] if kind < 3 else NUMBERS)
        if kind < 7:
            return self.of(TEXTS) if kind < 6 else self.of(TEXTS) + self.of(TEXTS)
        if kind == 15:
            return self.of(ODD)() if self.below(3) == 0 else self.below(256)
        if depth <= 0:
            return self.below(256) - 128
        if kind < 11:
            return [self.value(depth - 1) for _ in range(self.below(5))]
        if kind < 14:
            return {self.of(TEXTS) + self.of(TEXTS): self.value(depth - 1) for _ in range(self.below(5))}
        return tuple(self.value(depth - 1) for _ in range(self.below(3)))

    def params(self) -> Any:
        """Return what stands for params: mostly a batch, or something like one."""
        kind = self.below(16)
        if kind < 8:
            params = {
                "account_id": self.value(0),
                "visitors": [self.value(4) for _ in range(self.below(3))],
                "revision": self.value(1),
            }
            return params if kind < 7 else dict(reversed(params.items()))
        if kind < 12:
            return {self.of(TEXTS): self.value(5) for _ in range(self.below(6))}
        if kind == 12:
            return self.deep()
        if kind == 13:
            return {"visitors": self.value(3), "n": self.value(1)}
        return self.value(5)

    def deep(self) -> Any:
        """Return something nested deeply, or in itself."""
        value: Any = self.value(1)
        if self.below(4) == 0:
            loop: Any = [value]
            loop.append(loop if self.below(2) else {"in": loop})
            return {"visitors": loop}
        for _ in range((3, 60, 200, 300)[self.below(4)] if self.below(16) else 20_000):
            value = [value]
        return {"visitors": value} if self.below(2) else value


URLS = (
    "", "http://", "ftp://h/", "//h", "h", "http://h:0/", "http://h:99999/", "http://[::1", "http://h/\n",
    "http://u:p@127.0.0.1:9/x", "HTTP://127.0.0.1:9", "http://127.0.0.1:9/é", "http://127.0.0.1:9/?q=1#f", None, 7,
    b"http://h/", Word(URL), RaisingText(URL), ["http://h/"],
)  # fmt: skip
VERBS = (
    "POST",
    "post",
    "GET",
    "get",
    "",
    None,
    "PUT",
    "P\0ST",
    7,
    b"POST",
    ["POST"],
    Word("POST"),
    RaisingText("POST"),
    "po\u017ft",
)
HEADERS: tuple[Callable[[], Any], ...] = (
    lambda: {"Content-Type": "application/json"}, lambda: None, dict, lambda: {"A": None}, lambda: {"A": 1},
    lambda: {"A": "b\r\nC: d"}, lambda: {"a b": "c"}, lambda: {1: "a"}, lambda: {"A": "é"}, lambda: [("A", "b")],
    lambda: "A: b", lambda: 7, lambda: RaisingDict(A="b"), lambda: {"Content-Length": "1"},
    lambda: {Word("A"): Word("b")}, lambda: {"A": ["b"]}, lambda: {("A", "b"): "c"}, lambda: UserDict(A="b"),
    lambda: {"A": RaisingText("b")}, lambda: SimpleNamespace(items=lambda: [(1, 2, 3), "ab", None]),
    lambda: SimpleNamespace(items=lambda: 7), Raises,
)  # fmt: skip
PLAIN_HEADERS = 3
"""The first of HEADERS that any client may send."""


class Deceiving:
    """Its attributes raise."""

    http_verb = "POST"
    headers: Any = None

    @property
    def url(self) -> str:
        """Raise."""
        raise RuntimeError

    params = url
