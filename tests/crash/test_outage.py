"""A short outage behind the relay: `python -m proof outage`, a hundredth of what make soak runs; and its judge."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from proof.chaos_judge import Broken
from proof.outage_graph import most_at_once, per_second
from proof.outage_judge import allowed, check_ramp, in_flight
from proof.outage_wire import CHANGED, body, number_of

from support import missing

ROOT = Path(__file__).parents[2]


def test_a_short_outage_holds(tmp_path: Path) -> None:
    """The relay is killed twice while its endpoint is away; each 204 arrives, the sum holds, no storm at the return."""
    for name in ("typer", "uvicorn", "uvloop"):
        if find_spec(name) is None:
            missing(f"{name} (the extras cli and relay)")
    words = ["outage", "--minutes", "0.1", "--rate", "300", "--graph", str(tmp_path / "outage.svg")]
    done = subprocess.run(
        [sys.executable, "-m", "proof", *words], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0" in done.stdout
    assert "kills 2" in done.stdout
    picture = (tmp_path / "outage.svg").read_text()
    assert picture.count("<polyline") == 9
    assert "+0.00 s" in picture


def ramp(rounds: int, storm_at: int | None = None) -> list[tuple[float, int, int]]:
    """Return a return in rounds of a second, each as large as is allowed; one of them larger."""
    begins: list[float] = []
    ends: list[float] = []
    for number in range(rounds):
        size = allowed(len(ends)) + (number == storm_at)
        begins += [float(number)] * size
        ends += [number + 0.9] * size
    return in_flight(begins, ends)


def test_the_judge_lets_the_ramp_pass() -> None:
    """One, one, two, four, and then twice as many after as many successes."""
    assert [allowed(successes) for successes in (0, 1, 2, 3, 6, 7, 14, 15, 10_000)] == [1, 1, 2, 4, 4, 8, 8, 16, 300]
    assert check_ramp(ramp(8)) == 64


@pytest.mark.parametrize("storm_at", range(8))
def test_the_judge_sees_a_storm(storm_at: int) -> None:
    """One request more than is allowed, at any time of the return."""
    with pytest.raises(Broken, match="a storm"):
        check_ramp(ramp(8, storm_at))


def test_the_judge_wants_to_see_a_ramp() -> None:
    """A return with a few requests shows nothing."""
    with pytest.raises(Broken, match="no ramp"):
        check_ramp(ramp(3))


def test_the_oracle_knows_each_body() -> None:
    """The number is read from the body's own bytes, and from no others."""
    for number in (0, 7, 599_999, 1_000_001):
        assert number_of(body(number)) == number
    assert number_of(body(7).replace(b"pro", b"PRO")) == CHANGED
    assert number_of(b"{}") == CHANGED


def test_the_picture_counts_what_is_at_once() -> None:
    """What begins and ends within a step, what goes on through one, and what only touches it."""
    begins, ends = [0.1, 0.2, 1.5], [0.15, 2.5, 1.6]
    assert most_at_once(begins, ends, 0.0, 4.0, 1.0) == [(0.5, 1.0), (1.5, 2.0), (2.5, 1.0), (3.5, 0.0)]
    assert per_second(begins, 0.0, 2.0, 0.5) == [(0.25, 4.0), (0.75, 0.0), (1.25, 0.0), (1.75, 2.0)]
