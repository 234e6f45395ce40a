"""A short chaos: `python -m proof chaos`, a hundredth of what make soak runs."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from proof.chaos_judge import SLACK_MB, floor, grown, leaked

from support import missing

ROOT = Path(__file__).parents[2]


def test_a_short_chaos_holds(tmp_path: Path) -> None:
    """Every fault comes, the sum holds at each look, every acknowledged uuid arrives; the picture is drawn."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    words = ["chaos", "--minutes", "0.3", "--graph", str(tmp_path / "soak.svg")]
    done = subprocess.run(
        [sys.executable, "-m", "proof", *words], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0" in done.stdout
    assert (tmp_path / "soak.svg").read_text().count("<polyline") > 10


@pytest.mark.parametrize(("step", "leaks"), [(0.0, False), (0.02, False), (0.2, True)])
def test_the_judge_sees_a_leak(step: float, *, leaks: bool) -> None:
    """Noise and bursts are no growth, 0.2 MB a second is."""
    values = [30 + step * at + (20 if at % 11 == 0 else at % 3) for at in range(100)]
    assert (grown(values, SLACK_MB) > 0) is leaks
    assert (grown(values, SLACK_MB, floor) > 0) is leaks


@pytest.mark.parametrize("seconds", [100, 600])
def test_the_judge_tells_a_leak_from_what_a_burst_leaves_behind(seconds: int) -> None:
    """Four steps of 3 MB are stairs that end; 5 MB that come little by little are a leak, with or without the steps."""
    stairs = [30 + sum(3 * (at > seconds * part) for part in (0.2, 0.4, 0.6, 0.9)) for at in range(seconds)]
    ramp = [5 * at / seconds + at % 3 * 0.1 for at in range(seconds)]
    assert leaked(stairs) <= SLACK_MB
    assert leaked(ramp) > SLACK_MB
    assert leaked([one + more for one, more in zip(stairs, ramp, strict=True)]) > SLACK_MB
