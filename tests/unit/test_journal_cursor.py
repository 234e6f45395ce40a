"""What a reader settles: these events, and no others."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from eventpost.queues.journal.cursor import runs


@given(st.sets(st.integers(0, 12)))
def test_neighbours_are_settled_together_and_nobody_else(ordinals: set[int]) -> None:
    """Every one of them once, in any order of asking, and none that lies between; as few runs as can be."""
    found = runs(sorted(ordinals, reverse=True))
    assert [one for run in found for one in run] == sorted(ordinals)
    assert all(before.stop < after.start for before, after in pairwise(found))
