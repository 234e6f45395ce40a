"""Servers that are none, for the way to them: what each is asked is noted, and answered as told."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from support import missing

try:
    from eventpost.queues.streams import route as route_module
    from eventpost.queues.streams.address import Place, parse
    from eventpost.queues.streams.client import Broken, Fault, Login, key_slot
    from eventpost.queues.streams.route import Away, Route
except ModuleNotFoundError as error:
    missing(f"{error.name} (the extra redis)")

LOGIN, SENTINELS = [
    Login(username=None, password=word, database=0, authorities=None) for word in ("server", "sentinels")
]
A, B, C = (Place(host, 7) for host in "abc")
SLOTS = [key_slot(b"{q:%d}:" % shard) for shard in range(4)]
TORN, UNSENT = Broken("cut", sent=True), Broken("no way", sent=False)
PING = [("PING",)]


class Refused(Fault):
    """The server lets nobody in: nothing can be asked."""


class World:
    """Servers that are none: ``says`` holds what each is to say in turn; ``done`` is what it was asked.

    Time stands still but for pauses.
    """

    def __init__(self, monkeypatch, url):
        self.time = SimpleNamespace(now=100.0, paused=[])
        self.says = {}
        self.done = []
        self.worked = []
        self.failed = []
        self.away = {}
        monkeypatch.setattr(route_module, "monotonic", lambda: self.time.now)
        monkeypatch.setattr(route_module, "pause", self.pause)
        monkeypatch.setattr(route_module, "Node", self.node)
        monkeypatch.setattr(route_module, "Link", self.link)
        self.route = Route(parse(url), LOGIN, SENTINELS, "q")

    def pause(self, seconds):
        """Move the time."""
        self.time.paused.append(seconds)
        self.time.now += seconds

    def say(self, place):
        """Return or raise what a server is to say."""
        said = self.says[place].pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def node(self, place, login):
        """Make a server as it is asked for a part."""
        assert login is LOGIN

        @contextmanager
        def link(deadline, *, insist):
            def run(calls, until):
                assert until == deadline
                self.done.append((place.host, [" ".join(map(str, call)) for call in calls]))
                if insist:
                    self.done.append("insists")
                self.until = until
                return self.say(place)

            yield SimpleNamespace(run=run)

        return SimpleNamespace(
            place=place, link=link, failed=lambda why: self.failed.append((place.host, why)),
            worked=lambda: self.worked.pop() if self.worked else False, away_for_s=self.away.get(place, 0.0),
            close=lambda: self.done.append(("close", place.host)),
        )  # fmt: skip

    def link(self, place, login, until):
        """Make a connection as it is asked where things are."""

        def ask(calls, deadline):
            assert deadline == until
            ((*words,),) = calls
            password = login.password
            self.done.append((place.host, password, " ".join(words), round(until - self.time.now, 6)))
            try:
                return [self.say(place)]
            except Fault as fault:
                return [fault]

        if isinstance(self.says[place][0], Refused):
            self.done.append((place.host, "refused"))
            self.say(place)
        return SimpleNamespace(ask=ask, close=lambda: self.done.append(("close", place.host)))

    def ask(self, shard=0, calls=PING, *, within_s=1.0, **options):
        """Ask."""
        return self.route.ask(shard, calls, self.time.now + within_s, **options)

    def away_from(self, **options):
        """Ask in vain; returns whether something was sent."""
        with pytest.raises(Away) as caught:
            self.ask(**options)
        self.why = str(caught.value)
        assert type(caught.value) is Away
        return caught.value.sent
