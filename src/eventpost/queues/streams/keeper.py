"""What is done now and then, on the sender's thread.

==================  ==================================================================================================
every 50 ms         look how much waits in each part's lanes, and say what was given back: one round trip
every second        take over what others let go of; take back puts whose answer never came
a third of a lease  renew what is in flight
every minute        see whether the server is still what it was; drop old dead letters, forget consumers that are gone
==================  ==================================================================================================
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from .claims import Claims
from .client import SCRIPTS, Command, Fault
from .hand import Hand
from .holding import Holding
from .names import prefix
from .put import Puts
from .route import Away, Route
from .server import Server
from .settling import Settling

LOOK_S: Final = 0.05
SWEEP_S: Final = 1.0
TIDY_S: Final = 60.0
_CONSUMER_GONE_MS: Final = 600_000
_LANE_GONE_MS: Final = 3_600_000


class Keeper:
    """The periodic work; under the hand's lock."""

    def __init__(
        self, route: Route, server: Server, *, puts: Puts, hand: Hand, holding: Holding, claims: Claims,
        settling: Settling, timeout_s: float,
    ) -> None:  # fmt: skip
        """Keep the arguments; asks nothing."""
        self._route = route
        self._server = server
        self._puts = puts
        self._hand = hand
        self._holding = holding
        self._claims = claims
        self._settling = settling
        self._timeout_s = timeout_s
        self._renew_s = holding.lease_ms / 3000
        self.reset()

    def reset(self) -> None:
        """Everything is due."""
        self._looked_at = self._swept_at = self._renewed_at = self._tidied_at = -1e9
        self.looks = 0

    def tend(self) -> float:
        """Do what is due; returns the seconds until the next."""
        self._server.look_again(self._deadline)
        if not self._server.joined:  # one that takes no more events is emptied all the same
            return max(LOOK_S, self._route.away_for_s(self._server.home))
        now = monotonic()
        if now - self._renewed_at >= self._renew_s:
            self._renewed_at = now
            self._holding.renew()
        self.look()
        if now - self._swept_at >= min(SWEEP_S, self._renew_s):
            self._swept_at = now
            self._claims.sweep()
            self._puts.void_what_is_unsure(self._deadline)
        if now - self._tidied_at >= TIDY_S:
            self._tidied_at = now
            self._tidy()
        return max(LOOK_S, min(self._route.away_for_s(shard) for shard in range(self._server.shards)))

    @property
    def _deadline(self) -> float:
        return monotonic() + self._timeout_s

    def look_if_old(self) -> bool:
        """Look, unless that was done just now; True if so."""
        if monotonic() - self._looked_at < LOOK_S or not self._server.joined:
            return False
        self.look()
        return True

    def look(self) -> None:
        """See how much waits, and for whom; say what was given back."""
        self._holding.tell()
        self._hand.take_note()
        self._looked_at = monotonic()
        self.looks += 1
        asked: list[tuple[int, list[Command]]] = [
            (shard, [("HGETALL", prefix(self._route.name, shard) + "lanes")])
            for shard in range(self._server.shards)
            if not self._route.away_for_s(shard) or self._server.shards == 1
        ]
        if asked and asked[0][0] == 0:
            asked[0][1].append(self._server.shards_call)
        for (shard, _), answers in zip(asked, self._route.ask_all(asked, self._deadline), strict=True):
            if isinstance(answers, Away) or isinstance(answers[0], Fault):
                self._hand.know_waiting(shard, ())
                continue
            if len(answers) > 1:
                self._server.hear_shards(answers[1], self._deadline)
            pairs = answers[0]
            self._hand.know_waiting(
                shard,
                [
                    (url.decode("utf-8", "replace"), int(events))
                    for url, events in zip(pairs[::2], pairs[1::2], strict=True)
                ],
            )

    def _tidy(self) -> None:
        calls = []
        for shard in range(self._server.shards):
            key = prefix(self._route.name, shard) + "sum"
            call: Command = (
                SCRIPTS["tidy"], 1, key, self._hand.writer, *self._settling.dead_bounds(), _CONSUMER_GONE_MS,
                _LANE_GONE_MS,
            )  # fmt: skip
            calls.append((shard, [call]))
        self._route.ask_all(calls, self._deadline)
