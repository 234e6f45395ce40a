"""The state as the page shows it: one sum over all folders, endpoints with what waits for them, and a verdict.  Pure.

The verdict answers the one question of somebody who was called: is anything being lost?  Three levels:

* ``good``: no, and there is nothing to look at.
* ``watch``: no, but something waits for a person, or for an endpoint.
* ``bad``: events were lost lately, or are turned away by the relay itself, or nobody knows.

A loss is what was dropped without anybody's word: discarding a dead letter and erasing a visitor are somebody's.  What
was lost long ago is said, and does not keep the page red for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

STALE_S: Final = 5.0
UNCLOSED_S: Final = 4.0
LATELY_S: Final = 600.0
OLD_S: Final = 60.0
WANTED: Final = frozenset({"dead_discarded", "purged"})
"""What was dropped because somebody said so."""
SENDERS_FAULT: Final = frozenset({
    "empty", "not_json", "not_a_batch", "not_packed", "encoding", "slow_body", "too_large", "token", "origin",
    "too_fast", "method", "strict", "header_too_large", "slow_header", "malformed", "disconnected",
})  # fmt: skip
"""Why a request is refused that is itself at fault; any other reason is the relay's: it could not store."""
State = Mapping[str, Any]


def ledger(state: State) -> dict[str, Any]:
    """Return the sum over all folders.  ``in_flight`` is None where it is not known: then ``queued`` holds it."""
    journals = state.get("journals") or []
    dropped: dict[str, int] = {}
    for journal in journals:
        for reason, count in journal["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    flying = [journal.get("in_flight") for journal in journals]
    queued = sum(journal["queued"] for journal in journals)
    in_flight = None if None in flying else min(queued, sum(flying))
    return {
        "accepted": sum(journal["accepted"] for journal in journals),
        "delivered": sum(journal["delivered"] for journal in journals),
        "queued": queued - (in_flight or 0),
        "in_flight": in_flight,
        "dead": sum(journal["dead"] for journal in journals),
        "dropped": dropped,
        "refused": dict(state.get("refused") or {}),
        "closes": all(journal["closes"] for journal in journals),
        "oldest_age_s": max((one["oldest_age_s"] for one in journals if one["queued"]), key=_or_0, default=None),
    }


def _or_0(value: float | None) -> float:
    return value or 0.0


def endpoints(state: State) -> list[dict[str, Any]]:
    """Return the endpoints with what is queued for each; those that nothing was sent to yet are there, too."""
    found = {one["endpoint"]: {**one, "queued": 0, "oldest_age_s": None} for one in state.get("endpoints") or []}
    for journal in state.get("journals") or []:
        for lane in journal["lanes"]:
            held = lane.get("entries_held", 0)
            if not (lane["queued"] or held) and lane["url"] not in found:
                continue
            one = found.setdefault(lane["url"], {"endpoint": lane["url"], "breaker": None, "queued": 0})
            one["queued"] += lane["queued"]
            if held:
                one["entries_held"] = one.get("entries_held", 0) + held
            if lane["queued"]:
                one["oldest_age_s"] = max(_or_0(one.get("oldest_age_s")), _or_0(lane["oldest_age_s"]))
    return sorted(found.values(), key=lambda one: str(one["endpoint"]))


def verdict(
    state: State | None,
    now: float,
    *,
    unclosed_s: float = 0.0,
    turned_away: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return ``level``, ``headline`` and ``reasons``, each with its level, text and the part of the page it is about.

    ``unclosed_s``: for how long the sum has not closed; between two reads of a folder at work it may not.
    ``turned_away``: what was refused lately, by reason.
    """
    if state is None:
        return _said("bad", "No figures yet", [_bad("The relay's main process has not written any.", "ledger")])
    age_s = now - state["at"]
    if age_s > STALE_S + float(state.get("next_s") or 0.0):
        text = f"The relay's main process has written nothing for {age_s:.0f} s. What stands below is of then."
        return _said("bad", "No news", [_bad(text, "ledger")])
    total = ledger(state)
    reasons = [*_losses(state, total, now), *_turned_away(turned_away or {})]
    if not total["closes"] and unclosed_s > UNCLOSED_S:
        reasons.insert(0, _bad(_why_unclosed(state), "ledger"))
    reasons += _to_look_at(state, total)
    reasons.sort(key=lambda one: one["level"] != "bad")
    if reasons and reasons[0]["level"] == "bad":
        return _said("bad", reasons[0]["headline"], reasons)
    return _said("watch" if reasons else "good", "Nothing is being lost", reasons)


def _why_unclosed(state: State) -> str:
    kinds = {journal.get("kind") for journal in state.get("journals") or [] if not journal["closes"]}
    if kinds == {"streams"}:
        return "The sum does not close: the queue's server came back without something that it knew, or was emptied."
    return "The sum does not close: run `eventpost verify` on the journal."


def _losses(state: State, total: Mapping[str, Any], now: float) -> list[dict[str, str]]:
    lost = {reason: count for reason, count in total["dropped"].items() if reason not in WANTED and count}
    lately = {
        row["reason"] for row in state.get("happened") or [] if row["what"] == "dropped" and row["at"] > now - LATELY_S
    } & set(lost)
    found = []
    if lately:
        text = f"{_count(lost, lately)} of accepted events dropped, some in the last 10 minutes: {_by_reason(lost)}."
        found.append(_bad(text, "ledger", headline="Events are being lost"))
    elif lost:
        found.append(_watch(f"{_count(lost)} dropped earlier, none in the last 10 min: {_by_reason(lost)}.", "ledger"))
    return found


def _turned_away(turned_away: Mapping[str, int]) -> list[dict[str, str]]:
    own = {reason: count for reason, count in turned_away.items() if reason not in SENDERS_FAULT and count}
    if not own:
        return []
    text = f"{_count(own)} turned away in the last minute, because the relay could not store: {_by_reason(own)}."
    return [_bad(text, "ledger", headline="Events are being turned away")]


def _to_look_at(state: State, total: Mapping[str, Any]) -> list[dict[str, str]]:
    found = []
    for one in endpoints(state):
        waiting = f"{one['queued']:,} {_events(one['queued'])} kept for it"
        if one.get("entries_held"):  # of a shared queue, whose server counts these by entries
            waiting += f", and {one['entries_held']:,} {'entry' if one['entries_held'] == 1 else 'entries'} in hand"
        if one["breaker"] == "held":
            remedy = f" {one['detail']}." if one.get("detail") else ""
            found.append(_watch(f"{one['endpoint']} needs a look ({one['reason']}).{remedy} {waiting}.", "endpoints"))
        elif one["breaker"] in ("open", "half_open"):
            found.append(_watch(f"{one['endpoint']} is left alone ({one['reason']}). {waiting}.", "endpoints"))
    if total["oldest_age_s"] is not None and total["oldest_age_s"] > OLD_S and not found:
        found.append(_watch(f"The oldest event has been waiting for {age(total['oldest_age_s'])}.", "ledger"))
    if total["dead"]:
        noun = "dead letter waits" if total["dead"] == 1 else "dead letters wait"
        found.append(_watch(f"{total['dead']:,} {noun} for a decision.", "dead"))
    for journal in state.get("journals") or []:
        needs = [line for line in journal.get("needs") or [] if not line.startswith("the sum does not close")]
        found += [_watch(f"{line}.", "journals") for line in needs]
        bound = journal.get("bytes_max")
        if bound and journal["stored_bytes"] > 0.8 * bound:
            share = journal["stored_bytes"] / bound
            found.append(_watch(f"{journal['path']} is {share:.0%} full; at 100 % events are refused.", "journals"))
    return found


def age(seconds: float) -> str:
    """Return a duration for people."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _events(count: int) -> str:
    return "event" if count == 1 else "events"


def _count(counts: Mapping[str, int], only: Iterable[str] | None = None) -> str:
    total = sum(counts[reason] for reason in (counts if only is None else only))
    return f"{total:,} {_events(total)}"


def _by_reason(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))


def _bad(text: str, about: str, *, headline: str = "The sum does not close") -> dict[str, str]:
    return {"level": "bad", "text": text, "about": about, "headline": headline}


def _watch(text: str, about: str) -> dict[str, str]:
    return {"level": "watch", "text": text, "about": about}


def _said(level: str, headline: str, reasons: list[dict[str, str]]) -> dict[str, Any]:
    return {"level": level, "headline": headline, "reasons": reasons}
