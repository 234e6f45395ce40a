"""The fuzzing target ``retry_after``: what stands behind that name in an answer, on both transports' ways.

urllib3's way: the header's bytes go through the standard library's parser, and its text to ``judge``.  libcurl's way:
the header is read in C, and its seconds come as a decimal text; a sample of the inputs goes over a real socket through
both transports.  The oracle: nothing raises; the wait is None or within 0 and the cap; digits and dates that were made
by hand mean what they say, whatever the time zone of this machine; the breaker's next probe is finite.
"""

from __future__ import annotations

import calendar
import http.client
import io
import math
import os
import re
import time
from collections import Counter
from email.utils import formatdate
from random import Random

from urllib3 import HTTPHeaderDict

from eventpost.event import Envelope
from eventpost.sender.breaker import Breaker
from eventpost.sender.retry import History, RetryLater, RetryPolicy, judge, parse_retry_after
from eventpost.transports.protocol import Request, Response, Transport, TransportError

NOW = 1_784_000_000.0
CAP_S = 3600.0
POLICY = RetryPolicy(retry_after_cap_s=CAP_S)
SENT_OF = 1000
"""One in so many inputs goes over a socket."""
SENT_MAX = 2000
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<month>{'|'.join(MONTHS)})"
_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
DATES = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>[1-9]\d{{3}}) {_CLOCK} (GMT|UTC|[+-]0000)",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_CLOCK} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_CLOCK} (?P<year>[1-9]\d{{3}})",
    )
)
"""The three ways in which RFC 9110, 5.6.7, writes a date, all of them GMT; and other words for that."""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WORDS = (
    b"Mon, ", b"Sun, ", b"Sunday, ", b"06 Nov 1994 ", b"Nov", b"29 Feb 2023", b"31 Dec 9999 ", b"00:00:00",
    b"23:59:60", b"25:61:61", b" GMT", b" UTC", b" +0000", b" -0000", b" +9999", b" EST", b"1994-11-06T08:49:37Z",
    b"-", b"+", b".", b",", b":", b"0", b"1", b"9", b"120", b"1e9", b"inf", b"nan", b"0x10", b"\xb2", b"\xd9\xa1",
    b"999999999999999999999", b" ", b"\t", b"\0", b"\x85", b"\r\n ", b"\r\nX: y", b"\r\nRetry-After: 7", b"(", b")",
    b'"', b"=?utf-8?q?=31?=", b"soon", b"-5", b"1.5", b"1.", b"1_0",
)  # fmt: skip


def date_texts(at_s: int) -> tuple[str, ...]:
    """Return a time in the three ways."""
    when = time.gmtime(at_s)
    imf = formatdate(at_s, usegmt=True)
    day, month = imf[5:7], imf[8:11]
    clock = time.strftime("%H:%M:%S", when)
    return (
        imf,
        f"{DAYS[when.tm_wday]}, {day}-{month}-{when.tm_year % 100:02d} {clock} GMT",
        f"{imf[:3]} {month} {when.tm_mday:2d} {clock} {when.tm_year}",
    )


class RetryAfterTarget:
    """See the module."""

    name = "retry_after"
    must_meet = ("digits", "a date", "nonsense", "capped", "past", "sent through both")

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()
        self._sample: list[bytes] = []
        self._zone: str | None = None

    def __enter__(self) -> RetryAfterTarget:
        self._zone = os.environ.get("TZ")
        os.environ["TZ"] = "Asia/Kathmandu"  # a quarter past: no mistake hides behind a whole hour
        time.tzset()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._zone is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = self._zone
        time.tzset()

    def make(self, chance: Random) -> bytes:
        """Return digits, a date, a date with a few bytes changed, words that dates are made of, or noise."""
        kind = chance.randrange(10)
        if kind == 0:
            return b"%d" % chance.randrange(10 ** chance.randrange(1, 400))
        if kind == 1:
            return chance.choice(date_texts(int(NOW) + chance.randrange(-(10**9), 10**9))).encode()
        if kind == 2:
            return chance.randbytes(chance.randrange(40))
        if kind < 6:
            data = bytearray(chance.choice(date_texts(int(NOW) + chance.randrange(-5000, 5000))).encode())
            for _ in range(chance.randrange(1, 4)):
                at = chance.randrange(len(data) + 1)
                data[at : at + chance.randrange(3)] = (
                    chance.choice(WORDS) if chance.random() < 0.5 else chance.randbytes(1)
                )
            return bytes(data)
        return b"".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 9)))

    def check(self, data: bytes) -> None:
        """Take one value both ways."""
        value = self._as_urllib3_reads(data)
        self._judge(value)
        text = data.decode("latin-1")
        self._judge(text)
        if value is None:
            self.met["no header"] += 1
        wait_s = parse_retry_after(text, now_epoch_s=NOW, cap_s=CAP_S)
        if text.isascii() and text.isdigit():
            self.met["digits"] += 1
            assert wait_s == min(CAP_S, float(text)), f"{wait_s} s for these digits"
            self._judge(str(int(text)) if len(text) < 19 and int(text) else None)  # as libcurl tells them
        elif wait_s is None:
            self.met["nonsense"] += 1
        else:
            self.met["a date"] += 1
            self.met["capped"] += wait_s == CAP_S
            self.met["past"] += wait_s == 0
            self._check_date(text, wait_s)
        if (
            len(self._sample) < SENT_MAX
            and (self.met["digits"] + self.met["a date"] + self.met["nonsense"]) % SENT_OF == 1
        ):
            self._sample.append(data)

    def _check_date(self, text: str, wait_s: float) -> None:
        """Compare a date that is written in one of the three ways with what it says."""
        match = next((match for match in (one.fullmatch(text) for one in DATES) if match), None)
        if match is None:
            return
        self.met["a date as RFC 9110 writes it"] += 1
        day, month, year, hour, minute, second = match.group("day", "month", "year", "hour", "minute", "second")
        century = 0 if len(year) > 2 else 2000 if int(year) <= 68 else 1900
        parts = (century + int(year), MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
        expected_s = min(CAP_S, max(0.0, calendar.timegm(parts) - NOW))
        assert wait_s == expected_s, f"{wait_s} s, not {expected_s}"

    def _as_urllib3_reads(self, data: bytes) -> str | None:
        try:
            message = http.client.parse_headers(io.BytesIO(b"Retry-After: " + data + b"\r\n\r\n"))
        except http.client.HTTPException:
            self.met["no HTTP"] += 1
            return None
        value = HTTPHeaderDict(message.items()).get("Retry-After")
        assert value is None or isinstance(value, str)
        return value

    def _judge(self, value: str | None) -> None:
        wait_s = parse_retry_after(value, now_epoch_s=NOW, cap_s=CAP_S)
        assert wait_s is None or 0 <= wait_s <= CAP_S, f"a wait of {wait_s} s"
        verdict = judge(POLICY, Response(503, value), History(), alone=True, now_epoch_s=NOW)
        assert isinstance(verdict, RetryLater), verdict
        assert verdict.delay_min_s == (wait_s or 0.0)
        breaker = Breaker(POLICY, 4)
        breaker.failed(5.0, verdict.reason, 0.5, probe=False, wait_s=verdict.delay_min_s)
        assert math.isfinite(breaker.probe_at)
        assert breaker.probe_at <= 5.0 + CAP_S

    def finish(self, inputs: int) -> None:
        """Send the sample through both transports."""
        del inputs
        from eventpost.testing import CollectedRequest, Collector, Reply
        from eventpost.transports.curl import CurlTransport
        from eventpost.transports.pool import PoolTransport

        values = [data for data in self._sample if b"\n" not in data and b"\r" not in data]

        def answer(request: CollectedRequest) -> Reply:
            return Reply(503, retry_after=values[int(request.body)].decode("latin-1"))

        for make in (CurlTransport, PoolTransport):
            with Collector(answer, keep=False) as collector:
                transport: Transport = make()
                for number, data in enumerate(values):
                    transport.start(Request(Envelope(collector.url), b"%d" % number, None, 5.0))
                    outcome = self._outcome(transport)
                    if isinstance(outcome, TransportError):
                        assert outcome.kind in ("protocol", "reset"), (data, outcome)
                        self.met[f"no answer for {make.__name__}"] += 1
                        continue
                    assert outcome.status == 503
                    self._judge(outcome.retry_after)
                    if data.isdigit() and 0 < int(data) <= CAP_S:
                        assert outcome.retry_after is not None
                        assert int(outcome.retry_after) == int(data), (data, outcome)
                    self.met["sent through both"] += make is PoolTransport
                transport.close(0)

    def _outcome(self, transport: Transport) -> Response | TransportError:
        while True:
            for completion in transport.wait(10.0):
                return completion.outcome
