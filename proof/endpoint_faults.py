"""The table of the endpoint matrix: each row is one way in which an endpoint goes wrong, and what must become of it.

``docs/endpoints.md`` is written from these rows, and the tests run them: neither can go stale.
"""

# ruff: noqa: E501 - a fault is a row, and a row is a line

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal

from eventpost.testing import CollectedRequest, Collector, Reply

from . import endpoint_servers as raw

Fate = Literal["later", "held", "dead", "delivered", "some"]
TRANSPORTS = ("curl", "pool")
YEAR_S = 365 * 86_400


@dataclass(frozen=True)
class Fault:
    """One row.

    ``what``: how the endpoint behaves.  ``server``: makes it.  ``reasons``: what it is taken for, by transport.
    ``fate``: what becomes of the events: tried again until it is well; held until then; dead; delivered at once;
    or ``some`` of these (told by ``tells``).  ``hangs``: each attempt lasts until its timeout.  ``codes``: an endpoint
    for each status.  ``dead``: how many of the events end as dead letters, None: as the fate says.  ``wait_s``: within
    what the first wait for the next probe lies.  ``size``: bytes of an event.  ``merge``: events share requests.
    ``poison``: the first event holds this word.
    """

    key: str
    group: str
    what: str
    server: Callable[[], Any] | None
    reasons: Mapping[str, tuple[str, ...]]
    fate: Fate
    tells: str = ""
    hangs: bool = False
    tls: str = ""
    dns: str = ""
    codes: tuple[int, ...] = ()
    dead: int | None = None
    events: int = 3
    merge: bool = False
    poison: str = ""
    size: int = 10
    wait_s: tuple[float, float] | None = None
    policy: Mapping[str, float] = field(default_factory=dict)


class Scripted:
    """A Collector that answers as told until it is well."""

    def __init__(self, answer: Callable[[CollectedRequest], Reply], **options: Any) -> None:
        self.collector = Collector(answer, **options).start()
        self.port = self.collector.port

    @property
    def hits(self) -> int:
        """How many requests arrived."""
        return self.collector.requests_total

    @property
    def yes(self) -> set[str]:
        """The events that it has said yes to."""
        return set(self.collector.uuids)


def says(reply: Reply) -> Callable[[], Scripted]:
    """Return what makes an endpoint that always answers so."""
    return lambda: Scripted(lambda _: reply)


def does(behave: raw.Behaviour) -> Callable[[], raw.Raw]:
    """Return what makes an endpoint that does so to each connection."""
    return lambda: raw.Raw(behave)


def by_path(request: CollectedRequest) -> Reply:
    """Answer with the status that the path names; a redirect leads to where all is well."""
    return Reply(int(request.path.rpartition("/")[2]), headers={"Location": "/v1/events"})


def both(*reasons: str) -> dict[str, tuple[str, ...]]:
    """Return the same reasons for both transports."""
    return dict.fromkeys(TRANSPORTS, reasons)


def _refuse_poison(request: CollectedRequest) -> Reply:
    return Reply(400 if b"poison" in request.body else 204)


def _refuse_large(request: CollectedRequest) -> Reply:
    return Reply(413 if len(request.body) > 700 else 204)


def _date(seconds: float) -> Callable[[], Scripted]:
    return lambda: Scripted(lambda _: Reply(503, retry_after=formatdate(time.time() + seconds, usegmt=True)))


HELD = (401, 403, 404, 405, 407)
LATER = (408, 425, 429)
OTHER_4XX = tuple(code for code in range(400, 500) if code not in (*HELD, *LATER, 413))
GARBAGE = (
    b"\0\xff\xfe" * 50 + b"\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/9.9 204 No\r\n\r\n",
    b"HTTP/1.1 \r\n\r\n",
    b"\r\n\r\n\r\n",
)
OK = b"HTTP/1.1 200 OK\r\n"

FAULTS: tuple[Fault, ...] = (
    Fault("refused", "connection", "nobody listens", raw.Nobody, both("connect"), "later"),
    Fault("unroutable", "connection", "the connection is never made: packets are dropped, the backlog is full", raw.Backlog, both("timeout"), "later", hangs=True),
    Fault("closed_at_once", "connection", "the connection is taken and closed", does(raw.close_at_once), both("reset"), "later"),
    Fault("dns_fails", "connection", "the name does not exist", None, both("dns"), "later", dns="missing"),
    Fault("dns_hangs", "connection", "the name server never answers", None, both("timeout"), "later", hangs=True, dns="silent"),
    Fault("tls_expired", "TLS", "the certificate has expired", None, both("certificate"), "held", tls="expired"),
    Fault("tls_wrong_host", "TLS", "the certificate is for another host", None, both("certificate"), "held", tls="wrong_host"),
    Fault("tls_self_signed", "TLS", "the certificate is signed by nobody whom we trust", None, both("certificate"), "held", tls="self_signed"),
    Fault("tls_plain", "TLS", "it speaks no TLS", does(raw.speaks_plainly), both("connect"), "later", tls="good"),
    Fault("tls_hangs", "TLS", "it says nothing in the handshake", does(raw.silent), both("timeout"), "later", hangs=True, tls="good"),
    Fault("reset_at_once", "reset", "the connection is taken and reset", does(raw.reset_at_once), both("reset", "connect"), "later"),
    Fault("reset_before_body", "reset", "reset once the header is there", says(Reply(reset="before")), both("reset"), "later"),
    Fault("reset_in_body", "reset", "reset in the middle of the body", does(raw.reset_in_body), both("reset"), "later", size=500_000),
    Fault("reset_after_body", "reset", "reset after the body, before an answer", says(Reply(reset="after")), both("reset"), "later"),
    Fault("reset_in_answer", "reset", "reset in the middle of a 204", says(Reply(204, reset="during")), both("reset"), "later"),
    Fault("never_reads", "hang", "it reads nothing", does(raw.never_reads), both("timeout"), "later", hangs=True, size=3_000_000),
    Fault("hang_before_header", "hang", "it reads, and never answers", says(Reply(hang=True)), both("timeout"), "later", hangs=True),
    Fault("hang_in_header", "hang", "it stops in the middle of the header", does(raw.answering(b"HTTP/1.1 2", close=False)), both("timeout"), "later", hangs=True),
    Fault("hang_after_header", "hang", "200, a length, and no body", does(raw.answering(OK + b"Content-Length: 10\r\n\r\n", close=False)), both("timeout"), "later", hangs=True),
    Fault("drip_header", "hang", "204, byte by byte", says(Reply(204, drip_s=0.05)), both("timeout"), "later", hangs=True),
    Fault("drip_body", "hang", "200, and a body byte by byte", says(Reply(200, body=b"x" * 2000, drip_s=0.002)), both("timeout"), "later", hangs=True),
    Fault("garbage", "answer", "bytes that are not HTTP: noise, SSH, another version, no status, empty lines", does(raw.cycling(*GARBAGE)), both("protocol", "reset"), "later"),
    Fault("half_a_status", "answer", "an answer that ends within its status", does(raw.answering(b"HTTP/1.1 20")), both("protocol", "reset"), "later"),
    Fault("half_a_header", "answer", "a 204 that ends within its header", does(raw.answering(b"HTTP/1.1 204 No Content\r\nX-Mo", yes=True)), both(), "delivered", "the status line is the answer, and a 204 has no body that could be missing"),
    Fault("half_a_body", "answer", "a 200 that ends within its body", says(Reply(200, body=b"abc", content_length=10, close=True)), both("reset"), "later"),
    Fault("half_a_refusal", "answer", "a 400 that ends within its body", says(Reply(400, body=b"abc", content_length=10, close=True)), both("http_400"), "dead"),
    Fault("length_too_long", "answer", "200, a Content-Length beyond the body, and silence", does(raw.answering(OK + b"Content-Length: 10\r\n\r\nabc", close=False)), both("timeout"), "later", hangs=True),
    Fault("length_too_short", "answer", "200, and a body beyond its Content-Length that looks like answers", does(raw.answering(OK + b"Content-Length: 2\r\n\r\n{}HTTP/1.1 500 No\r\n\r\n", yes=True)), both("reset"), "delivered"),
    Fault("length_nonsense", "answer", "200, and a Content-Length that is no number", does(raw.answering(OK + b"Content-Length: x\r\n\r\n{}", yes=True)), {"curl": ("protocol",), "pool": ()}, "some", "libcurl takes it for no answer, urllib3 for a 200"),
    Fault("length_twice", "answer", "200, and two Content-Lengths that contradict each other", does(raw.answering(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", yes=True)), {"curl": ("protocol",), "pool": ("reset", "protocol", "other")}, "some", "libcurl takes it for no answer, urllib3 for a 200"),
    Fault("gigantic", "answer", "200, and 20 MB", says(Reply(200, body=b"x" * 20_000_000)), both(), "delivered"),
    Fault("endless_body", "answer", "200, and a chunked body without end", does(raw.repeating(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n", every_s=0, yes=True)), both(), "delivered"),
    Fault("endless_header", "answer", "204, and a header without end", does(raw.repeating(b"HTTP/1.1 204 No\r\n", b"X-More: 1234567890\r\n" * 1000, every_s=0)), both("protocol", "reset"), "later"),
    Fault("unasked", "answer", "two answers to one request, the second without having been asked", does(raw.unasked), both("http_503", "reset"), "some", "the second answer is nobody's"),
    Fault("kept_alive_closed", "answer", "the kept connection is closed as the next request arrives", does(raw.once_each), both("reset"), "delivered"),
    Fault("kept_alive_reset", "answer", "the connection is closed behind each 204, unannounced", says(Reply(204, close=True, announce_close=False)), both("reset"), "delivered"),
    Fault("interim", "1xx", "100, 102 and 103 before each 204", says(Reply(204, interim=(100, 102, 103))), both(), "delivered"),
    Fault("interim_only", "1xx", "103, and silence", does(raw.answering(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", close=False)), both("timeout"), "later", hangs=True),
    Fault("interim_endless", "1xx", "100, again and again", does(raw.repeating(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n")), both("timeout"), "later", hangs=True),
    Fault("switching", "1xx", "101, without having been asked for it", does(raw.answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")), both("protocol", "reset"), "later"),
    Fault("status_2xx", "status", "every 2xx (204 is expected, the others are counted by their status)", lambda: Scripted(by_path), both(), "delivered", codes=tuple(range(200, 300))),
    Fault("status_3xx", "status", "every 3xx; none is followed", lambda: Scripted(by_path), both("http_*"), "held", codes=tuple(range(300, 400))),
    Fault("status_misconfigured", "status", "401, 403, 404, 405, 407", lambda: Scripted(by_path), both("http_*"), "held", codes=HELD),
    Fault("status_later", "status", "408, 425, 429", lambda: Scripted(by_path), both("http_*"), "later", codes=LATER),
    Fault("status_413", "status", "413 to a single event", lambda: Scripted(by_path), both("too_large"), "dead", codes=(413,)),
    Fault("status_other_4xx", "status", "every other 4xx, to a single event", lambda: Scripted(by_path), both("http_*"), "dead", codes=OTHER_4XX),
    Fault("status_5xx", "status", "every 5xx", lambda: Scripted(by_path), both("http_*"), "later", codes=tuple(range(500, 600))),
    Fault("poison", "status", "400 to a batch for one event in it", lambda: Scripted(_refuse_poison), both("http_400"), "some", "the batch is halved until the event stands alone, and is dead; the others are delivered", events=12, merge=True, poison="poison", dead=1),
    Fault("too_large", "status", "413 to a batch that is too large", lambda: Scripted(_refuse_large), both(), "some", "the batch is halved by bytes; all are delivered", events=12, merge=True, dead=0),
    Fault("refuses_everything", "status", "400 to everything, as a proxy does", says(Reply(400)), both("http_400", "refuses_everything"), "some", "after 20 in a row the endpoint itself is suspect: held, and nothing more is dead", events=9, dead=3, policy={"refusals_in_a_row_max": 3}),
    Fault("retry_after_seconds", "Retry-After", "503, `Retry-After: 1`", says(Reply(503, retry_after=1)), both("http_503"), "later", "not before the second is over", wait_s=(1.0, 1.0)),
    Fault("retry_after_date", "Retry-After", "503, a date in a second or two", _date(1.2), both("http_503"), "later", "not before that date", wait_s=(0.1, 2.1)),
    Fault("retry_after_past", "Retry-After", "503, a date that has passed", _date(-3600.0), both("http_503"), "later", "counts as none", wait_s=(0.0, 0.2)),
    Fault("retry_after_nonsense", "Retry-After", "429, `Retry-After: soon`", says(Reply(429, retry_after="soon")), both("http_429"), "later", "counts as none", wait_s=(0.0, 0.2)),
    Fault("retry_after_year", "Retry-After", "503, a year in seconds", says(Reply(503, retry_after=YEAR_S)), both("http_503"), "later", "counts as `retry_after_cap_s` (1 h)", wait_s=(0.4, 0.4), policy={"retry_after_cap_s": 0.4}),
    Fault("retry_after_year_date", "Retry-After", "503, a date in a year", _date(YEAR_S), both("http_503"), "later", "counts as `retry_after_cap_s` (1 h)", wait_s=(0.4, 0.4), policy={"retry_after_cap_s": 0.4}),
)  # fmt: skip
