"""Who may send events, and who may see the page."""

import hmac
from base64 import b64encode

import pytest

from eventpost.relay import access
from eventpost.relay.access import Access, Rate, Rules, client_behind, host_of, make_digest, network_of, origin_of

TOKENS = ("evp_one", "evp_two", "evp_three")
DIGESTS = tuple(make_digest(one) for one in TOKENS)
SHOP = b"https://shop.example"
PEER = "203.0.113.9"


def bearer(token: str) -> dict[bytes, bytes]:
    """Return the header that shows a token."""
    return {b"authorization": b"Bearer " + token.encode()}


def basic(token: str, user: str = "") -> dict[bytes, bytes]:
    """Return the header that a client makes of ``http://user:token@host/``."""
    return {b"authorization": b"Basic " + b64encode(f"{user}:{token}".encode())}


def status(rules: Rules, headers: dict[bytes, bytes], peer: str = PEER, now: float = 0.0) -> int:
    """Return the status with which an event is denied; 0: it is not."""
    denied = Access(rules).event_denied(headers, peer, now)
    return 0 if denied is None else denied.status


class TestEvents:
    """``event_denied``."""

    @pytest.mark.parametrize("headers", [*map(bearer, TOKENS), *map(basic, TOKENS), basic("evp_two", "anyone")])
    def test_a_token_on_the_list(self, headers):
        """Each token on the list will do, in either form."""
        assert status(Rules(loopback=False, tokens=DIGESTS), headers) == 0

    @pytest.mark.parametrize(
        "headers",
        [
            {}, bearer("evp_four"), bearer(""), basic(""), bearer("evp_on"), bearer("EVP_ONE"), basic("x", "evp_one"),
            {b"authorization": b"evp_one"}, {b"authorization": b"Token evp_one"}, {b"authorization": b"Basic evp_one"},
            {b"authorization": b"Basic " + b"=" * 50}, {b"authorization": b"Bearer " + DIGESTS[0].encode()},
            {b"authorization": b"Bearer \xff\xfe"}, {b"authorization": b"Bearer evp_one" + b" " * 2000 + b"x"},
        ],
    )  # fmt: skip
    def test_anything_else(self, headers):
        """Without one of them it is 401, on loopback too once there are tokens, with a challenge."""
        for loopback in (True, False):
            denied = Access(Rules(loopback=loopback, tokens=DIGESTS)).event_denied(headers, PEER, 0.0)
            assert denied is not None
            assert (denied.status, denied.reason) == (401, "token")
            assert denied.challenge

    def test_every_digest_is_compared(self, monkeypatch):
        """A comparison takes as long whichever token is shown, or none: all of them, each in constant time."""
        calls = []
        real = hmac.compare_digest
        monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: calls.append((a, b)) or real(a, b))
        for token in (*TOKENS, "evp_none"):
            calls.clear()
            Access(Rules(tokens=DIGESTS)).event_denied(bearer(token), PEER, 0.0)
            assert len(calls) == len(DIGESTS)
            assert all(len(a) == len(b) == 32 for a, b in calls)

    def test_nothing_is_kept_of_a_token_but_its_digest(self):
        """A token cannot be read from what the settings hold."""
        assert not any(token in repr(Rules(tokens=DIGESTS)) for token in TOKENS)

    def test_anyone_on_loopback_or_with_a_certificate_or_if_told_so(self):
        """Where nobody else can connect, or everybody may."""
        assert status(Rules(loopback=True), {}) == 0
        assert status(Rules(loopback=False, certificates=True), {}) == 0
        assert status(Rules(loopback=False, open=True), {}) == 0
        assert status(Rules(loopback=False, origins=("https://shop.example",)), {}) == 401

    @pytest.mark.parametrize("rules", [Rules(), Rules(loopback=False, open=True), Rules(certificates=True)])
    @pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"", SHOP + b".evil", b"http://localhost"])
    def test_an_unknown_origin_is_refused_everywhere(self, rules, origin):
        """Somebody's browser was made to send it; also where anyone else may."""
        assert status(rules, {b"origin": origin}) == 403

    def test_an_unknown_origin_is_refused_with_a_token_too(self):
        """A token in a foreign page is a stolen one."""
        rules = Rules(tokens=DIGESTS, origins=("https://shop.example",))
        assert status(rules, {**bearer("evp_one"), b"origin": b"https://evil.example"}) == 403
        assert status(rules, {**bearer("evp_one"), b"origin": SHOP}) == 0

    def test_a_known_origin_needs_no_token_but_has_a_rate(self):
        """So many requests a second from one address; others have their own; time brings more."""
        rules = Rules(loopback=False, tokens=DIGESTS, origins=("https://shop.example",), origin_rate_per_s=2)
        asked = Access(rules)
        said = [asked.event_denied({b"origin": SHOP}, PEER, 1.0) for _ in range(3)]
        assert said[:2] == [None, None]
        assert said[2] is not None
        assert (said[2].status, said[2].reason) == (429, "too_fast")
        assert said[2].retry_after_s >= 1
        assert asked.event_denied({b"origin": SHOP}, "203.0.113.10", 1.0) is None
        assert asked.event_denied({b"origin": SHOP, **bearer("evp_one")}, PEER, 1.0) is None
        assert asked.event_denied({b"origin": SHOP}, PEER, 1.6) is None

    def test_any_origin(self):
        """``*`` lists every page, those without a name, too."""
        rules = Rules(origins=("*",))
        assert status(rules, {b"origin": b"https://any.example"}) == 0
        assert status(rules, {b"origin": b"null"}) == 0

    def test_a_rate_for_all(self):
        """Where it is set, a token does not lift it."""
        asked = Access(Rules(tokens=DIGESTS, rate_per_s=1))
        assert asked.event_denied(bearer("evp_one"), PEER, 0.0) is None
        assert asked.event_denied(bearer("evp_one"), PEER, 0.1).status == 429
        assert asked.event_denied(bearer("evp_one"), PEER, 1.1) is None
        assert not asked.needs_no_look
        assert Access(Rules()).needs_no_look

    def test_an_address_behind_a_proxy(self):
        """Behind a trusted proxy the rate is that of the client that it names, and of nobody else's claims."""
        asked = Access(Rules(origins=("*",), origin_rate_per_s=1, proxies=("10.0.0.0/8",)))
        for number in range(5):
            headers = {b"origin": SHOP, b"x-forwarded-for": b"1.2.3.4, 198.51.100.%d" % number}
            assert asked.event_denied(headers, "10.1.1.1", 0.0) is None
            assert (asked.event_denied(headers, PEER, 0.0) is None) == (number == 0)


class TestPage:
    """``page_denied`` and ``metrics_denied``."""

    def page(self, rules: Rules, **headers: str) -> int:
        """Return the status with which the page is denied; 0: it is not."""
        denied = Access(rules).page_denied({name.encode(): value.encode() for name, value in headers.items()})
        return 0 if denied is None else denied.status

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8787", "127.0.0.1:8787", "[::1]:8787", "10.0.0.3"])
    def test_on_loopback_by_an_own_name(self, host):
        """By a name of this machine, or an address, which no foreign name server can point here."""
        assert self.page(Rules(), host=host) == 0

    @pytest.mark.parametrize("host", ["evil.example:8787", "localhost.evil.example", "", "127.0.0.1.evil.example"])
    def test_a_rebound_name_is_refused(self, host):
        """A foreign page that had its own name point to this machine comes with that name."""
        assert self.page(Rules(), host=host) == 403
        assert self.page(Rules(loopback=False, open_page=True), host=host) == 403

    def test_a_name_on_the_list(self):
        """Further names can be listed."""
        assert self.page(Rules(hosts=("relay.example",)), host="relay.example:443") == 0

    def test_beyond_loopback(self):
        """The page is off without a token of its own; an event's token does not open it."""
        assert self.page(Rules(loopback=False, tokens=DIGESTS), host="10.0.0.3") == 403
        rules = Rules(loopback=False, tokens=DIGESTS[:1], page_tokens=DIGESTS[1:2])
        assert self.page(rules, host="any.example") == 401
        for token, wanted in (("evp_one", 401), ("evp_two", 0)):
            headers = {name.decode(): value.decode() for name, value in basic(token, "me").items()}
            assert self.page(rules, host="any.example", **headers) == wanted

    def test_the_challenge_is_one_that_browsers_know(self):
        """So a browser asks its user for the token."""
        denied = Access(Rules(page_tokens=DIGESTS)).page_denied({})
        assert denied is not None
        assert denied.challenge.startswith(b"Basic ")

    def test_metrics(self):
        """``open`` shows the metrics, and not the page."""
        asked = Access(Rules(loopback=False, open=True))
        assert asked.metrics_denied({}) is None
        assert asked.page_denied({}) is not None
        assert Access(Rules(loopback=False, tokens=DIGESTS)).metrics_denied({}) is not None


class TestRate:
    """Token buckets."""

    def test_what_is_saved_up_is_bounded(self):
        """After any pause so many come at once, and no more."""
        rate = Rate(5)
        assert rate.wait_s("a", 0.0) == 0
        assert [rate.wait_s("a", 1000.0) > 0 for _ in range(7)] == [False] * 5 + [True] * 2

    def test_less_than_one_a_second(self):
        """A slow rate gives its first one at once, and says how long the next takes."""
        rate = Rate(0.1)
        assert rate.wait_s("a", 0.0) == 0
        assert rate.wait_s("a", 1.0) == pytest.approx(9.0)
        assert rate.wait_s("a", 10.0) == 0

    def test_addresses_are_bounded(self):
        """A flood of addresses fills no memory; who comes again and again is not forgotten for it."""
        rate = Rate(1, addresses_max=100)
        for number in range(1000):
            rate.wait_s(str(number), 0.0)
            assert number == 0 or rate.wait_s("0", 0.0) > 0
        assert len(rate._buckets) == 100

    @pytest.mark.parametrize(
        ("one", "other", "shared"),
        [
            ("2001:db8:0:1::7", "2001:db8:0:1:ffff::8", True),
            ("2001:db8:0:1::7", "2001:db8:0:2::7", False),
            ("::ffff:192.0.2.1", "192.0.2.1", True),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
            ("192.0.2.1", "192.0.2.2", False),
            ("not:an:address", "not:another", False),
        ],
    )
    def test_who_shares_a_rate(self, one, other, shared):
        """A /64 of IPv6 is one client's to choose from; an address of IPv4 is the same in either form."""
        rate = Rate(1)
        assert rate.wait_s(one, 0.0) == 0
        assert (rate.wait_s(other, 0.0) > 0) is shared


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", b"1.2.3.4", "203.0.113.9"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", b"9.9.9.9, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.1", b"1.2.3.4,", "10.0.0.1"),
        ("::ffff:10.0.0.1", b"1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("not-an-address", b"1.2.3.4", "not-an-address"),
        ("fe80::1", b"2001:db8::7", "2001:db8::7"),
    ],
)
def test_the_client_behind_proxies(peer, forwarded, client):
    """The last address that is no trusted proxy's; what stands before it anybody may have written."""
    assert client_behind(peer, forwarded, (network_of("10.0.0.0/8"), network_of("fe80::/10"))) == client


@pytest.mark.parametrize(
    ("header", "host"),
    [(b"a.example:80", "a.example"), (b"A.Example.", "a.example"), (b"[::1]:80", "::1"), (b"[::1", "::1"), (b"", "")],
)
def test_host_names(header, host):
    """A Host header's name, without port, in lower case."""
    assert host_of(header) == host


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://shop.example", "https://shop.example"), ("https://Shop.Example:443/", "https://shop.example"),
        ("http://localhost:3000", "http://localhost:3000"), ("http://[::1]:3000", "http://[::1]:3000"), ("*", "*"),
    ],
)  # fmt: skip
def test_origins_are_kept_as_browsers_send_them(text, origin):
    """Lower case, without the usual port or a slash."""
    assert origin_of(text) == origin
