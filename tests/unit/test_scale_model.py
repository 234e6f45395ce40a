"""The model of docs/scale.md: its arithmetic, and that the page says what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench import scale
from bench.scale_model import (
    BATCH_EVENTS_MAX,
    Costs,
    Line,
    World,
    busiest_us,
    events_per_request,
    fitted,
    fullest,
    loads,
    plan,
    slot,
)
from bench.scale_run import Events, tell

ROOT = Path(__file__).parents[2]
COSTS = Costs(
    put_client=Line(1.5, 48.0), put_server=Line(1.5, 42.0), take_client=Line(3.0, 8.0), take_server=Line(1.0, 11.0),
    memory=Line(500.0, 500.0), wire=Line(1000.0, 1000.0), trips=Line(0.0, 1.0), payload=494.0, send_us=2.0,
    request_us=33.0, relay_us=39.0,
)  # fmt: skip
WORLD = World(memory_s=600.0)
SHORT = Events(outage_from_s=600.0, outage_to_s=1800.0, lost_at_s=2400.0, length_s=6000.0, step_s=20.0)


def test_a_line_goes_through_its_points():
    """Costs that are an event's and its share of an entry's are found again; a cost never falls below zero."""
    line = Line(2.0, 40.0)
    found = fitted({n: line.at(n) for n in (1, 10, 100)})
    assert (found.event, found.entry) == pytest.approx((2.0, 40.0))
    assert fitted({1: 5.0, 10: 5.0, 100: 5.0}).at(30) == pytest.approx(5.0)
    assert fitted({1: 1.0, 100: 9.0}).entry == 0.0


def test_slots_are_the_clusters():
    """A part's slot is what the client reckons, and a cluster does."""
    pytest.importorskip("redis", reason="needs redis (the extra redis)")
    from eventpost.queues.streams.client import key_slot
    from eventpost.queues.streams.names import prefix

    parts = range(200)
    assert [slot("eventpost", part) for part in parts] == [
        key_slot(prefix("eventpost", part).encode()) for part in parts
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spill", [True, False])
@pytest.mark.parametrize("node_bytes", [1e8, 2e9, 1e12])
def test_no_event_is_in_no_place_or_in_two(seed, spill, node_bytes):
    """Offered is delivered, waiting or refused, whatever is away, lost or full; with a spill nothing is refused."""
    found = plan(50_000.0, COSTS, WORLD, seed=seed)
    story = tell(
        found, COSTS, WORLD, replace(SHORT, lost=seed % found.nodes), seed=seed, node_bytes=node_bytes, spill=spill
    )
    assert story.missing == pytest.approx(0.0, abs=1e-6 * story.offered)
    assert min(story.queued) >= 0.0
    assert max(story.memory_fullest) <= node_bytes * 1.000001
    if spill:
        assert story.refused == 0.0
    elif node_bytes == 1e8:
        assert story.refused > 0.0


def test_the_backlog_is_what_came_while_the_endpoint_was_away():
    """With room for all of it, what waits at the endpoint's return is the outage's length times the rate."""
    story = tell(plan(50_000.0, COSTS, WORLD, seed=1), COSTS, WORLD, SHORT, seed=1, node_bytes=1e12)
    away_s = SHORT.outage_to_s - SHORT.outage_from_s
    assert max(story.queued) + max(story.spilled) == pytest.approx(50_000.0 * away_s, rel=0.02)


def test_a_longer_outage_leaves_more_and_takes_longer():
    """Backlog, memory and the time until all is sent grow with the outage; more senders shorten it."""
    found = plan(50_000.0, COSTS, WORLD, seed=1)
    stories = [
        tell(found, COSTS, WORLD, replace(SHORT, outage_to_s=to_s), seed=1, node_bytes=1e12)
        for to_s in (1200.0, 1800.0, 2400.0)
    ]
    assert [max(one.memory_fullest) for one in stories] == sorted({max(one.memory_fullest) for one in stories})
    assert [one.caught_up_s for one in stories] == sorted({one.caught_up_s for one in stories})
    eager = tell(found, COSTS, replace(WORLD, catch_up_s=3600.0), SHORT, seed=1, node_bytes=1e12)
    assert eager.caught_up_s < stories[1].caught_up_s


def test_chance_is_the_seeds():
    """The same seed tells the same story, another one another."""
    found = plan(50_000.0, COSTS, WORLD, seed=1)
    first, again, other = (tell(found, COSTS, WORLD, SHORT, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.offered_s != other.offered_s


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("world", [WORLD, World(), World(memory_s=600.0, gather_s=0.005), World(by_hand=False)])
def test_more_events_need_no_less(world, direct):
    """From a thousand to a million a second nothing needed shrinks, and no server does more than planned."""
    found = [plan(rate, COSTS, world, seed=3, direct=direct) for rate in (1e3, 1e4, 1e5, 1e6)]
    for name in ("nodes", "relays", "senders", "memory_bytes", "disk_bytes", "wire_bits_s", "trips_s", "requests_s"):
        values = [getattr(one, name) for one in found]
        assert values == sorted(values), name
    for one in found:
        assert one.memory_bytes * one.skew / one.nodes <= world.node_bytes
        busy = one.rate * busiest_us(one.events_per_entry, COSTS, world) / 1e6
        assert busy * one.skew / one.nodes <= world.busy_max


def test_dearer_events_need_more_servers():
    """Twice the server's CPU an event is about twice the servers."""
    dear = replace(COSTS, put_server=Line(3.0, 84.0), take_server=Line(2.0, 22.0))
    cheap, dearer = (plan(1e6, costs, WORLD, seed=1, direct=True).nodes for costs in (COSTS, dear))
    assert 1.7 * cheap <= dearer <= 2.3 * cheap


def test_a_busy_project_fills_requests():
    """Events a request grow with the rate up to a full batch, and fewer projects share requests better."""
    together = [events_per_request(rate, WORLD) for rate in (10.0, 1e3, 1e5, 1e7)]
    assert together == sorted(together)
    assert 1.0 <= together[0] < together[-1] <= BATCH_EVENTS_MAX
    assert events_per_request(1e4, replace(WORLD, projects=10)) > events_per_request(1e4, WORLD)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_lost_servers_processes_go_elsewhere(by_hand):
    """What was put into its parts is shared by the others, and none of it is left out."""
    world = replace(WORLD, by_hand=by_hand)
    rates = [1.0] * 96
    before, after = loads(rates, 6, world), loads(rates, 6, world, lost=2)
    assert after[2] == 0.0 < before[2]
    assert sum(before) == pytest.approx(96.0) == sum(after)
    assert all(then > earlier for earlier, then in zip(before, after, strict=True) if then)


def test_the_fullest_server_is_told_by_its_share():
    """It is told as a multiple of the mean; parts that were placed by hand are even, where the hash puts them not."""
    assert fullest([2.0, 1.0, 1.0, 0.0]) == 2.0
    assert fullest(loads([1.0] * 48, 6, WORLD)) == 1.0 < fullest(loads([1.0] * 48, 6, replace(WORLD, by_hand=False)))


def test_the_page_says_what_the_model_says():
    """The tables that docs/scale.md shows of the model are what it makes of the costs that were measured last."""
    costs = Costs.read(json.loads((ROOT / "bench/fleet.json").read_text("utf-8"))["costs"])
    page = (ROOT / "docs/scale.md").read_text("utf-8")
    assert [text for text in scale.texts(costs, scale.SEED) if text not in page] == []
