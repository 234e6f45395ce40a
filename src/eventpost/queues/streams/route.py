"""Which server a part of the queue is on, and whether to ask it just now.

Whoever has asked something and does not know whether it was done asks once more over a new connection, or, if it must
know, until its time is over; whoever has not been able to ask is told so at once.

Behind sentinels the master is asked for again, and in a cluster the map of slots, whenever a server is gone, refuses to
write, or sends us elsewhere; four times a second at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from ...sender.primitives import pause
from .address import Address, Place
from .client import Broken, Command, Fault, Link, Login, key_slot
from .names import prefix
from .node import Node, NotAsked

_PAUSE_FIRST_S: Final = 0.005
_PAUSE_MAX_S: Final = 0.1
_LOOK_AGAIN_S: Final = 0.25
_ELSEWHERE: Final = frozenset({"MOVED", "ASK", "READONLY"})
_NOT_NOW: Final = frozenset({"LOADING", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN"})


class Away(Exception):  # noqa: N818 - names a state
    """The server did not answer.  ``sent``: what was asked may have been done all the same."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Denied(Away):
    """It answered, and does not let us in: ``fault`` is its word."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message, sent=False)
        self.fault = fault


class Route:
    """The way to each part of one queue."""

    def __init__(self, address: Address, login: Login, sentinel_login: Login, name: str) -> None:
        """Keep the arguments; connects to nothing."""
        self.address = address
        self.name = name
        self._login = login
        self._sentinel_login = sentinel_login
        self.reset()

    def reset(self) -> None:
        """Forget all connections, without a word to anybody."""
        self.torn = 0
        """Grows when an answer did not come to what was asked: it may have been done."""
        self.news = 0
        """Grows when a server came back, or another one took its place: what was known of it may not hold."""
        self._nodes: dict[Place, Node] = {}
        self._master: Place | None = None
        self._slots: dict[int, Place] = {}
        self._looked_at = -1e9

    def ask(self, shard: int, calls: Sequence[Command], deadline: float, *, insist: bool = False) -> list[Any]:
        """Make the calls in one round trip.  Raises Away.

        Where the connection breaks they are made once more over a new one; with ``insist`` again and again until
        ``deadline``, for who must know what became of them.
        """
        sent, pause_s = False, _PAUSE_FIRST_S
        there: Place | None = None  # where we were sent to, for this once
        for turn in itertools.count(1):
            asking, at_once = there is not None, turn == 1
            try:
                node = self._node(there or self._place(shard, deadline))
                answers = self._answers(node, calls, deadline, insist=sent, asking=asking)
            except NotAsked as error:
                raise Away(str(error), sent=sent) from None
            except Denied as denied:
                denied.sent = sent  # by an earlier turn
                raise
            except Broken as error:
                self.torn += error.sent
                why, there = str(error), None
                sent = sent or error.sent
                if not sent or (turn > 1 and not insist):
                    raise Away(why, sent=sent) from None
            else:
                faults = [one for one in answers if isinstance(one, Fault) and one.code in _ELSEWHERE | _NOT_NOW]
                if not faults:
                    return answers
                why = f"{node.place} says: {faults[0]}"
                if faults[0].code == "READONLY" and self.address.kind == "single":
                    why = f"{node.place} is a read-only replica: name its master, or sentinels that know it"
                if deadline - monotonic() <= pause_s or (faults[0].code in _NOT_NOW and not insist):
                    node.failed(why)  # it is there, and of no use for now
                    raise Away(why, sent=sent)
                there, at_once = self._elsewhere(shard, node.place, faults[0])
            if deadline - monotonic() <= pause_s:
                raise Away(why, sent=sent)
            if not at_once:
                pause(pause_s)
                pause_s = min(_PAUSE_MAX_S, pause_s * 2)
        raise AssertionError  # the loop has no end of its own

    def _answers(
        self, node: Node, calls: Sequence[Command], deadline: float, *, insist: bool, asking: bool
    ) -> list[Any]:
        """Ask one server once.  Raises Broken, or Denied."""
        try:
            with node.link(deadline, insist=insist) as link:
                if asking:
                    return link.run([one for call in calls for one in (("ASKING",), call)], deadline)[1::2]
                answers = link.run(calls, deadline)
        except NotAsked:
            raise
        except Broken:
            self._forget_places()
            raise
        except Fault as error:
            why = f"{node.place} refuses the connection: {error}"
            node.failed(why)
            raise Denied(why, error) from None
        self.news += node.worked()
        return answers

    def ask_all(self, asked: Sequence[tuple[int, Sequence[Command]]], deadline: float) -> list[list[Any] | Away]:
        """Make calls to several parts; in one round trip for each server that has some of them."""
        if not asked:
            return []
        if self.address.kind == "cluster" and len(asked) > 1:
            return self._ask_servers(asked, deadline)
        try:
            answers = self.ask(asked[0][0], [call for _, calls in asked for call in calls], deadline)
        except Away as away:
            return [away] * len(asked)
        return [*_dealt(answers, [calls for _, calls in asked])]

    def _ask_servers(self, asked: Sequence[tuple[int, Sequence[Command]]], deadline: float) -> list[list[Any] | Away]:
        """Make calls to a cluster's parts; what was not answered, or sent elsewhere, is asked again by itself."""
        together: dict[Place, list[int]] = {}
        for at, (shard, _) in enumerate(asked):
            place = self._known(shard)
            if place is not None:
                together.setdefault(place, []).append(at)
        found: dict[int, list[Any]] = {}
        for place, those in together.items():
            calls = [asked[at][1] for at in those]
            try:
                answers = self._answers(
                    self._node(place), [call for one in calls for call in one], deadline, insist=False, asking=False
                )
            except (Broken, Denied):
                continue
            found |= {
                at: part for at, part in zip(those, _dealt(answers, calls), strict=True)
                if not any(isinstance(one, Fault) and one.code in _ELSEWHERE | _NOT_NOW for one in part)
            }  # fmt: skip
        return [found.get(at) or self._alone(shard, calls, deadline) for at, (shard, calls) in enumerate(asked)]

    def _alone(self, shard: int, calls: Sequence[Command], deadline: float) -> list[Any] | Away:
        try:
            return self.ask(shard, calls, deadline)
        except Away as away:
            return away

    def away_for_s(self, shard: int) -> float:
        """Return for how long a part's server is not asked, as far as is known."""
        place = self._known(shard)
        node = None if place is None else self._nodes.get(place)
        return 0.0 if node is None else node.away_for_s

    def shown(self, shard: int) -> str:
        """Return where a part is, for people."""
        place = self._known(shard)
        return str(self.address if place is None else place)

    @property
    def has_many(self) -> bool:
        """Whether parts may be on different servers.

        Where they are on one, a wait cut short for the sake of what comes after it gains nothing: it could only take a
        server that is far away for one that is not there.
        """
        return self.address.kind == "cluster"

    def close(self) -> None:
        """Close all idle connections."""
        for node in list(self._nodes.values()):
            node.close()

    # -- where

    def _node(self, place: Place) -> Node:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes.setdefault(place, Node(place, self._login))
        return node

    def _known(self, shard: int) -> Place | None:
        if self.address.kind == "single":
            return self.address.places[0]
        return self._master if self.address.kind == "sentinel" else self._slots.get(self._slot(shard))

    def _slot(self, shard: int) -> int:
        return key_slot(prefix(self.name, shard).encode())

    def _place(self, shard: int, deadline: float) -> Place:
        """Return where to ask for a part.  Raises Broken if nobody says."""
        place = self._known(shard)
        if place is None:
            if monotonic() - self._looked_at < _LOOK_AGAIN_S:
                raise Broken(f"{self.address} was not there a moment ago", sent=False)
            self._looked_at = monotonic()
            if self.address.kind == "sentinel":
                self._ask_sentinels(deadline)
            else:
                self._ask_for_slots(deadline)
            place = self._known(shard)
            if place is None:
                raise Broken(f"no server of {self.address} has this part of the queue", sent=False)
            self.news += 1
        return place

    def _forget_places(self) -> None:
        """Ask again where things are, unless that was done just now."""
        if monotonic() - self._looked_at >= _LOOK_AGAIN_S:
            self._master = None
            self._slots.clear()

    def _elsewhere(self, shard: int, asked: Place, fault: Fault) -> tuple[Place | None, bool]:
        """Return where to ask this once (None: where the part is), and whether to do so at once."""
        if fault.code in _NOT_NOW:
            return None, False
        if fault.code == "READONLY":
            self._forget_places()
            self.news += 1
            return None, False
        host, _, port = str(fault).split()[-1].rpartition(":")
        place = Place(host.strip("[]") or asked.host, int(port))
        if fault.code == "ASK":
            return place, True
        self._slots[self._slot(shard)] = place
        self.news += 1
        return None, True

    def _ask_sentinels(self, deadline: float) -> None:
        why = ""
        places = self.address.places
        for at, place in enumerate(places):
            until = monotonic() + (deadline - monotonic()) / (len(places) - at)
            try:
                link = Link(place, self._sentinel_login, until)
                (found,) = link.ask([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.address.service)], until)
                link.close()
            except (Broken, Fault) as error:
                why = str(error)
                continue
            if isinstance(found, list) and len(found) == 2:
                self._master = Place(found[0].decode(), int(found[1]))
                return
            why = f"{place} knows no service {self.address.service!r}"
        raise Broken(f"no sentinel of {self.address} names the master: {why}", sent=False)

    def _ask_for_slots(self, deadline: float) -> None:
        why = ""
        places = list(dict.fromkeys([*self._nodes, *self.address.places]))
        for at, place in enumerate(places):
            until = monotonic() + (deadline - monotonic()) / (len(places) - at)
            try:
                link = Link(place, self._login, until)
                (found,) = link.ask([("CLUSTER", "SLOTS")], until)
                link.close()
            except (Broken, Fault) as error:
                why = str(error)
                continue
            if isinstance(found, list):
                for first, last, master, *_ in found:
                    host = master[0].decode() if master[0] else place.host
                    for slot in range(int(first), int(last) + 1):
                        self._slots[slot] = Place(host, int(master[1]))
                return
            why = f"{place} says: {found}"
        raise Broken(f"no server of {self.address} tells its slots: {why}", sent=False)


def _dealt(answers: Sequence[Any], calls: Sequence[Sequence[Command]]) -> list[list[Any]]:
    """Return answers by the calls that they are to."""
    parts: list[list[Any]] = []
    at = 0
    for one in calls:
        parts.append(list(answers[at : at + len(one)]))
        at += len(one)
    return parts
