"""A handful of the rounds that ``python -m proof kills`` plays by the hundred."""

import random
import sys

import pytest
from proof.kills import play_all

ROUNDS = 4


def test_no_rounds_prove_nothing() -> None:
    """A run in which nobody was killed fails, and says what never was."""
    with pytest.raises(SystemExit, match="in 0 rounds there never were: kills, kills in the middle of sending"):
        play_all([])


def test_some_rounds() -> None:
    """Real processes with the real SDK, SIGKILL and SIGSTOP at random moments: nothing acknowledged is lost."""
    seeds = [random.randrange(1 << 31) for _ in range(ROUNDS)]
    print("seeds", seeds, file=sys.stderr)
    found = play_all(seeds, sometimes=("kills", "acknowledged"))
    assert found["rounds"] == ROUNDS
    assert found["lost"] == 0
