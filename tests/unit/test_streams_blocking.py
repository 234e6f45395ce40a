"""Puts on Redis Streams that wait for room."""

from __future__ import annotations

import pytest

from eventpost.errors import QueueFull
from streams_together import Together


@pytest.fixture
def blocks(monkeypatch):
    """Make one that waits for room."""
    return Together(monkeypatch, overflow="block")


def test_a_put_that_blocks_tries_again_until_there_is_room(blocks):
    """Fifty times a second; each time within the server's own time."""
    blocks.puts.says = [QueueFull("no")] * 3
    blocks.put(1)
    assert blocks.puts.sent == [[1]] * 4
    assert blocks.time.paused == [0.02] * 3
    assert blocks.puts.deadlines == pytest.approx([120.0, 120.02, 120.04, 120.06])


def test_a_put_that_blocks_waits_no_longer_than_it_is_told(blocks):
    """Its last try is when the time is over."""
    full = QueueFull("no")
    blocks.puts.says = [full] * 100
    with pytest.raises(QueueFull) as caught:
        blocks.put(1)
    assert caught.value is full
    assert 1.0 <= sum(blocks.time.paused) < 1.03


def test_a_put_that_blocks_for_no_time_tries_once_more(monkeypatch):
    """When its time is over it is, to the instant."""
    one = Together(monkeypatch, overflow="block", block_timeout_s=(100.0 + 0.02) - 100.0)
    one.puts.says = [QueueFull("no")] * 9
    with pytest.raises(QueueFull):
        one.put(1)
    assert one.time.paused == [0.02]


def test_a_put_that_tries_again_is_a_put_like_any_other(blocks):
    """It leads; and what interrupts it goes alone."""
    led = []

    def interrupts():
        led.append(not blocks.commit._leading.acquire(False))
        blocks.put(2)

    blocks.puts.says = [QueueFull("no"), interrupts]
    blocks.put(1)
    assert blocks.puts.sent == [[1], [1], [2]]
    assert led == [True]


@pytest.mark.parametrize("first", [True, False])
def test_only_a_full_queue_is_waited_for(blocks, first):
    """Not a server whose memory is full, nor one that is away."""
    full = QueueFull("no", reason="redis_full")
    blocks.puts.says = [full] if first else [QueueFull("no"), full]
    with pytest.raises(QueueFull) as caught:
        blocks.put(1)
    assert caught.value.reason == "redis_full"
    assert not blocks.puts.says
    assert len(blocks.time.paused) == (not first)


def test_who_makes_room_does_not_wait_for_it(monkeypatch):
    """The sender's thread; nor does a put that interrupts another."""
    one = Together(monkeypatch, overflow="block", is_sender=lambda: True)
    one.puts.says = [QueueFull("no")]
    with pytest.raises(QueueFull):
        one.put(1)
    assert not one.time.paused

    other = Together(monkeypatch, overflow="block")

    def interrupts():
        with pytest.raises(QueueFull):
            other.put(2)

    other.puts.says = [interrupts, QueueFull("no")]
    other.put(1)
    assert not other.time.paused


def test_a_queue_that_refuses_does_not_wait(monkeypatch):
    """It says so at once."""
    one = Together(monkeypatch)
    one.puts.says = [QueueFull("no")]
    with pytest.raises(QueueFull):
        one.put(1)
    assert not one.time.paused
