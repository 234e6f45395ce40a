"""Is anything being lost?  What the page answers, for each state there can be."""

from typing import Any

import pytest

from eventpost.relay.page.verdict import SENDERS_FAULT, age, endpoints, ledger, verdict

NOW = 1_700_000_000.0
URL = "https://example.org/v1/events"
CALM = "Nothing is being lost"


def journal(**more: Any) -> dict[str, Any]:
    """One folder of a hundred delivered events."""
    lane = {"url": URL, "queued": more.get("queued", 0), "oldest_age_s": more.get("oldest_age_s"), "stored_bytes": 1}
    return {
        "path": "/j", "accepted": 100, "delivered": 100, "queued": 0, "dead": 0, "dropped": {}, "closes": True,
        "oldest_age_s": None, "stored_bytes": 10, "bytes_max": 1000, "in_flight": 0, "needs": [], "lanes": [lane],
    } | more  # fmt: skip


def endpoint(**more: Any) -> dict[str, Any]:
    """One endpoint that takes events."""
    return {"endpoint": URL, "breaker": "closed", "reason": "", "detail": "", "delivered": 100} | more


def state(*journals: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One state."""
    return {
        "at": NOW - 0.5, "journals": list(journals or [journal()]), "refused": {}, "endpoints": [endpoint()],
        "happened": [],
    } | more  # fmt: skip


def said(found: dict[str, Any]) -> str:
    """Return the texts of a verdict's reasons."""
    return " | ".join(reason["text"] for reason in found["reasons"])


def test_all_is_well() -> None:
    """Nothing to look at."""
    assert verdict(state(), NOW) == {"level": "good", "headline": "Nothing is being lost", "reasons": []}


@pytest.mark.parametrize(
    ("found", "level", "headline", "text"),
    [
        (None, "bad", "No figures yet", "main process"),
        (state(at=NOW - 30), "bad", "No news", "nothing for 30 s"),
        (state(journal(accepted=112, dropped={"overflow": 12})), "watch", CALM, "12 events dropped earlier"),
        (
            state(
                journal(accepted=112, dropped={"overflow": 12}),
                happened=[{"what": "dropped", "reason": "overflow", "at": NOW - 60}],
            ),
            "bad", "Events are being lost", "overflow 12",
        ),
        (
            state(
                journal(accepted=112, dropped={"overflow": 12}),
                happened=[{"what": "dropped", "reason": "overflow", "at": NOW - 3600}],
            ),
            "watch", CALM, "earlier",
        ),
        (state(journal(accepted=103, dropped={"dead_discarded": 2, "purged": 1})), "good", CALM, ""),
        (state(journal(accepted=101, dead=1)), "watch", CALM, "1 dead letter waits"),
        (state(journal(accepted=102, dead=2)), "watch", CALM, "2 dead letters wait"),
        (
            state(journal(accepted=105, queued=5), endpoints=[endpoint(breaker="open", reason="http_503")]),
            "watch", CALM, "is left alone (http_503). 5 events kept",
        ),
        (
            state(endpoints=[endpoint(breaker="held", reason="http_401", detail="look at its token")]),
            "watch", CALM, "needs a look (http_401). look at its token. 0 events",
        ),
        (state(journal(accepted=101, queued=1, oldest_age_s=300.0)), "watch", CALM, "waiting for 5 min"),
        (state(journal(accepted=101, queued=1, oldest_age_s=3.0)), "good", CALM, ""),
        (state(journal(stored_bytes=900)), "watch", CALM, "90% full"),
        (state(journal(needs=["3 damaged places were set aside"])), "watch", CALM, "3 damaged places"),
    ],
)  # fmt: skip
def test_each_state_has_its_answer(found: Any, level: str, headline: str, text: str) -> None:
    """Kept is not lost; what somebody discarded is not lost; what nobody can tell is bad."""
    answer = verdict(found, NOW)
    assert (answer["level"], answer["headline"]) == (level, headline)
    assert text in said(answer)
    assert bool(text) == bool(answer["reasons"])


def test_a_sum_that_does_not_close_for_a_moment_is_no_news() -> None:
    """Between two reads of a folder at work it may not; for good, it is the first thing to know."""
    odd = state(journal(accepted=101, closes=False, needs=["the sum does not close: run `eventpost verify`"]))
    assert verdict(odd, NOW, unclosed_s=1.0)["level"] == "good"
    answer = verdict(odd, NOW, unclosed_s=10.0)
    assert (answer["level"], answer["headline"], len(answer["reasons"])) == ("bad", "The sum does not close", 1)
    assert "eventpost verify" in said(answer)
    shared = state(journal(kind="streams", accepted=101, closes=False))
    assert "the queue's server came back without something" in said(verdict(shared, NOW, unclosed_s=10.0))


def test_what_senders_of_a_fleet_have_in_hand_is_kept_for_an_endpoint() -> None:
    """The server counts it by entries, so it is told beside the events that wait."""
    lane = {"url": URL, "queued": 3, "entries_held": 2, "oldest_age_s": 1.0}
    found = state(journal(kind="streams", lanes=[lane]), endpoints=[endpoint(breaker="open", reason="http_503")])
    assert "3 events kept for it, and 2 entries in hand." in said(verdict(found, NOW))


def test_what_the_relay_turns_away_itself_is_bad() -> None:
    """A sender that sends nonsense, or has no token, is another thing."""
    assert verdict(state(), NOW, turned_away=dict.fromkeys(SENDERS_FAULT, 5))["level"] == "good"
    answer = verdict(state(), NOW, turned_away={"queue_full": 3, "token": 9})
    assert (answer["level"], answer["headline"]) == ("bad", "Events are being turned away")
    assert "3 events turned away" in said(answer)
    assert verdict(state(), NOW, turned_away={"queue_full": 0})["level"] == "good"
    lost = state(journal(accepted=101, dropped={"overflow": 1}))
    assert [one["level"] for one in verdict(lost, NOW, turned_away={"queue_full": 3})["reasons"]] == ["bad", "watch"]


def test_a_main_process_that_counts_long_is_not_missed_at_once() -> None:
    """A state says when the next one comes."""
    assert verdict(state(at=NOW - 12, next_s=8.0), NOW)["level"] == "good"
    assert verdict(state(at=NOW - 14, next_s=8.0), NOW)["headline"] == "No news"


def test_the_sum_is_that_of_all_folders() -> None:
    """What is in flight is taken from what is queued; where one folder does not know, it stays there."""
    one = journal(accepted=107, queued=5, oldest_age_s=3.0, in_flight=2, dead=1, dropped={"overflow": 1})
    two = journal(accepted=104, queued=2, oldest_age_s=7.0, in_flight=1, dropped={"overflow": 1, "purged": 1})
    total = ledger(state(one, two, refused={"token": 4}))
    assert total == {
        "accepted": 211, "delivered": 200, "queued": 4, "in_flight": 3, "dead": 1, "refused": {"token": 4},
        "dropped": {"overflow": 2, "purged": 1}, "closes": True, "oldest_age_s": 7.0,
    }  # fmt: skip
    parts = total["delivered"] + total["queued"] + total["in_flight"] + total["dead"] + sum(total["dropped"].values())
    assert total["accepted"] == parts
    unknown = ledger(state(one, two | {"in_flight": None}))
    assert (unknown["queued"], unknown["in_flight"]) == (7, None)
    assert ledger(state(one | {"in_flight": 50}))["queued"] == 0  # read at two moments
    assert ledger({"journals": []})["oldest_age_s"] is None


def test_endpoints_are_shown_before_anything_was_sent_to_them() -> None:
    """What waits for an endpoint is summed over the folders."""
    found = endpoints(state(journal(queued=2, oldest_age_s=4.0), journal(queued=3, oldest_age_s=1.0), endpoints=[]))
    assert found == [{"endpoint": URL, "breaker": None, "queued": 5, "oldest_age_s": 4.0}]
    (known,) = endpoints(state())
    assert (known["breaker"], known["queued"], known["oldest_age_s"]) == ("closed", 0, None)
    assert endpoints(state(journal(), endpoints=[])) == []  # a lane that is empty, and that nobody heard of


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_ages(seconds: float, shown: str) -> None:
    """In the unit in which there are at least two."""
    assert age(seconds) == shown
