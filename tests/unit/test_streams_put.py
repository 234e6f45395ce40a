"""One put on Redis Streams: what the server is asked, and what its answer, or none, means for it and for the next."""

from __future__ import annotations

import pytest

from eventpost.queues.streams import check
from eventpost.queues.streams.entry import pack
from eventpost.queues.streams.names import lane_key
from eventpost.queues.streams.route import Away
from streams_parts import GONE, INFO, LANE, ME, OK, SOON, Fault, Putter, key_of
from support import URL, event

OTHER = URL + "/b"


@pytest.fixture
def one(monkeypatch):
    """Make one with one part."""
    return Putter(monkeypatch)


@pytest.fixture
def many(monkeypatch):
    """Make one with three parts, its home the first."""
    return Putter(monkeypatch, shards=3)


def test_a_put_is_one_call_with_an_entry_for_each_endpoint(one):
    """Numbered, and marked as no other is; made by whoever must know, within its time."""
    events = [event(1), event(2, url=OTHER), event(3)]
    call = one.put(*events)
    mark = call[6]
    assert call == (
        "put", 1, key_of(0), ME, "1", 1, mark, 1000, "", URL, LANE, 2, pack([events[0], events[2]]),
        OTHER, lane_key(OTHER), 1, pack([events[1]]),
    )  # fmt: skip
    assert (one.route.deadlines, one.route.insisted) == ([SOON], [True])
    assert list(one.puts.arrived) == [(0, URL, 2), (0, OTHER, 1)]
    assert one.accepted() == {0: 3}
    again = one.put(event(4))
    assert again[4:6] == ("1", 2)
    assert again[6] != mark
    assert len(bytes.fromhex(mark)) >= 4
    assert one.accepted() == {0: 4}


def test_events_of_an_endpoint_that_need_several_entries_arrive_as_one_number(one):
    """An entry is bounded, a put is not."""
    call = one.put(*[event(number) for number in range(1025)])
    assert [call[at : at + 3] for at in (9, 13)] == [(URL, LANE, 1024), (URL, LANE, 1)]
    assert list(one.puts.arrived) == [(0, URL, 1025)]


def test_a_queue_that_drops_the_oldest_says_so_with_each_put(monkeypatch):
    """The script makes room then."""
    assert Putter(monkeypatch, overflow="drop_oldest").put()[8] == "drop"
    assert Putter(monkeypatch, overflow="block").put()[8] == ""


def test_the_server_is_known_before_anything_is_put(monkeypatch):
    """It is asked what it is first, within the put's time; one that can't be asked refuses."""
    one = Putter(monkeypatch)
    one.server.reset()
    assert one.refused(GONE) == "redis_unavailable"
    assert one.route.last[0][1][0][0] == "join"
    assert one.route.deadlines[-1] == SOON
    one.route.answers = [[[1, 1, 0]], [INFO, []], OK]
    one.puts.send([event(1)], SOON)
    assert one.accepted() == {0: 1}


def test_a_server_that_knew_nothing_of_the_queue_is_told_of_its_parts(many):
    """It is new, or was emptied: others look for all parts."""
    others = [[b"0"], [None]]
    many.route.answers = [*others, [[b"ok", 9, 0, 1]], [None], [1]]
    many.puts.send([event(1)], SOON)
    assert [[call[0] for call in trip[0][1]] for trip in many.route.asked[1:]] == [["put"], ["HGET"], ["join"]]
    assert many.route.deadlines[1:] == [SOON] * 3
    many.route.asked.clear()
    many.put(says=[[b"stored", 0]])
    assert many.accepted() == {0: 2}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Fault("WRONGTYPE no"), "redis_unusable"),
        (Fault("NOPERM no"), "redis_unusable"),
        (Fault("ERR ACL failure in script: no"), "redis_unusable"),
        (Fault("ERR no"), "redis_unavailable"),
    ],
)
def test_a_put_that_failed_on_the_server_is_taken_back_before_the_next(one, said, reason):
    """What it did before it failed nobody knows."""
    assert one.refused([said]) == reason
    first = one.route.last[0][1][0]
    one.route.answers = [[0], OK]
    one.puts.send([event(2)], SOON)
    void, put = [trip[0][1][0] for trip in one.route.asked]
    assert void == ("void", 1, key_of(0), ME, "1", 1, first[6], LANE, URL)
    assert put[3:6] == (ME, "1", 2)
    assert one.accepted() == {0: 1}


@pytest.mark.parametrize(("said", "reason"), [(b"memory", "redis_full"), (b"full", "queue_full")])
def test_a_put_for_which_there_is_no_room_leaves_nothing_to_take_back(one, said, reason):
    """It stored nothing, and says so."""
    assert one.refused([[said, 990]]) == reason
    one.route.asked.clear()
    assert one.put()[4:6] == ("1", 2)
    assert one.accepted() == {0: 1}


def test_a_put_that_was_never_sent_leaves_nothing_to_take_back(one):
    """The next one is the next number all the same."""
    assert one.refused(Away("no way", sent=False)) == "redis_unavailable"
    one.route.asked.clear()
    assert one.put()[4:6] == ("1", 2)


def test_a_put_without_an_answer_is_voided_before_its_slot_is_used_again(one):
    """What of it stays, for it is claimed already, is accepted after all."""
    assert one.refused(GONE, events=[event(1), event(2), event(3, url=OTHER)]) == "redis_unavailable"
    mark = one.route.last[0][1][0][6]
    assert one.refused(GONE) == "redis_unavailable"
    assert "it is gone" in one.why
    ((shard, (void,)),) = one.route.last
    assert (shard, void[:7]) == (0, ("void", 1, key_of(0), ME, "1", 1, mark))
    assert {void[7:9], void[9:]} == {(LANE, URL), (lane_key(OTHER), OTHER)}
    assert one.route.deadlines[-1] == SOON
    assert one.refused([Fault("ERR no")]) == "redis_unavailable"
    assert one.route.last == [(0, [void])]
    assert one.accepted() == {}
    one.route.answers = [[b"2"], OK]
    one.puts.send([event(2)], SOON)
    assert one.accepted() == {0: 3}
    assert [trip[0][1][0][0] for trip in one.route.asked] == ["void", "put"]


@pytest.mark.parametrize("said", [b"twice", b"void"])
def test_a_number_that_is_taken_is_left_to_who_has_it(one, said):
    """Another process goes by this one's name: the put is made where nobody else puts, and it is told."""
    one.route.answers = [[[said, 0]], OK]
    one.puts.send([event(1)], SOON)
    first, second = [trip[0][1][0] for trip in one.route.asked]
    assert first[4] == "1"
    assert second[5] == 1
    assert len(bytes.fromhex(second[4])) >= 8
    assert ME in one.server.told[0].detail
    assert one.accepted() == {0: 1}
    one.route.asked.clear()
    assert one.put()[4:6] == (second[4], 2), "that is where the next one is made, too"
    assert len(one.server.told) == 1


def kept(level, *wait):
    """Make what a server keeps."""
    return check.Kept(level, wait, "why")


@pytest.mark.parametrize(("left_s", "wait_ms"), [(2.5, 2350), (0.5, 350), (0.25, 125), (-1.0, 1)])
def test_a_put_that_replicas_have_to_have_waits_for_them(one, left_s, wait_ms):
    """In the same round trip; a server looks late whether the time is over, so it is told a little less."""
    one.server.kept = kept("os", "WAIT", 2)
    one.route.answers = [[*OK, 2]]
    one.puts.send([event(1)], one.time.now + left_s)
    ((_, calls),) = one.route.last
    assert calls[1:] == [("WAIT", 2, wait_ms)]
    assert one.accepted() == {0: 1}


def test_a_put_that_too_few_replicas_have_is_refused_and_taken_back(one):
    """Who asked for them must not be told that it is stored."""
    one.server.kept = kept("host", "WAITAOF", 1, 1)
    assert one.refused([*OK, [1, 0]]) == "redis_unconfirmed"
    assert one.accepted() == {}
    one.route.answers = [[0], [*OK, [1, 1]]]
    one.puts.send([event(1)], SOON)
    assert [trip[0][1][0][0] for trip in one.route.asked[-2:]] == ["void", "put"]
    assert one.accepted() == {0: 1}


# -- what the other parts hold


def test_the_bound_is_on_all_parts(many):
    """What the others hold is asked once a second, in one round trip, and left out of this part's room."""
    many.route.answers = [[b"300"], [b"4"]]
    many.route.otherwise = lambda *_: OK
    many.puts.send([event(1)], SOON)
    looked = [(1, [("HGET", key_of(1), "b")]), (2, [("HGET", key_of(2), "b")])]
    assert many.route.asked[0] == looked
    assert many.route.last[0][1][0][7] == 1000 - 304
    assert many.route.deadlines[0] == SOON
    many.route.asked.clear()
    many.time.now += 0.9
    assert many.put()[7] == 696
    many.time.now += 0.1
    many.route.answers = [GONE, [Fault("ERR no")], OK]
    many.puts.send([event(1)], SOON)
    assert many.route.asked[0] == looked
    assert many.route.last[0][1][0][7] == 1000, "what is not known bounds nothing"
    many.puts.know_others([b"7", None, Fault("ERR no"), b"-3"])
    many.route.asked.clear()
    assert many.put()[7] == 996
    many.time.now += 0.9
    assert many.put()[7] == 996, "whoever tells it saves the question"


def test_a_queue_of_one_part_has_no_others(one):
    """Nobody is asked."""
    assert one.put()[7] == 1000


def test_a_look_at_the_others_that_a_put_interrupts_is_not_made_twice(monkeypatch):
    """That put goes by what is known; two parts are several."""
    one = Putter(monkeypatch, shards=2)

    def interrupts(*_):
        one.route.answers = [OK]
        one.puts.send([event(2)], SOON)
        return [b"9"]

    one.route.answers = [interrupts]
    one.route.otherwise = lambda *_: OK
    one.puts.send([event(1)], SOON)
    assert [trip[0][1][0][0] for trip in one.route.asked] == ["HGET", "put", "put"]
    assert [trip[0][1][0][7] for trip in one.route.asked[1:]] == [1000, 991]


def test_where_parts_are_on_several_servers_the_look_at_them_leaves_time_for_the_put(many):
    """One of them may be silent."""
    many.route.has_many = True
    many.route.answers = [[b"1"], [b"1"], OK]
    many.puts.send([event(1)], many.time.now + 1.0)
    assert many.route.deadlines == [many.time.now + 0.25, many.time.now + 1.0]


# -- the count


def test_what_is_stored_is_added_up_where_it_is_asked_for_and_never_grows_long(one):
    """A put that interrupts the adding leaves it alone; of itself it happens every thousand puts."""
    one.route.otherwise = lambda *_: OK
    one.puts._stored.extend([(0, 1)] * 999)
    one.put()
    assert one.puts.accepted == {}
    one.put()
    assert one.puts.accepted == {0: 1001}
    one.put()
    one.puts._folding.acquire()
    one.puts.fold()
    assert one.puts.accepted == {0: 1001}
    one.puts._folding.release()
    one.puts.fold()
    one.puts.fold()
    assert one.puts.accepted == {0: 1002}


def test_what_is_put_and_never_claimed_here_does_not_pile_up(one):
    """Ten thousand puts are remembered for the claiming side, which a process may not have."""
    one.puts.arrived.extend((0, URL, number) for number in range(10_001))
    assert [len(one.puts.arrived), one.puts.arrived[0]] == [10_000, (0, URL, 1)]


def test_another_writer_starts_from_zero(one):
    """A child that was forked: its numbers, its count, and what it knows."""
    one.put()
    one.puts.fold()
    one.refused(GONE)
    one.puts.know_others([b"7"])
    one.puts.reset("child")
    one.route.asked.clear()
    call = one.put()
    assert (call[3:6], call[7]) == (("child", "1", 1), 1000)
    assert one.accepted() == {0: 1}
    assert list(one.puts.arrived) == [(0, URL, 1)]
