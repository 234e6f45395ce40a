"""The examples do what they say."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from eventpost.testing import Collector, Reply
from eventpost.watch.signals import Closed, Delivered, Retrying

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    """Return the names of an example as a dict, without running its __main__ part."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


def test_from_scratch_delivers_through_a_dispatcher_of_ones_own(tmp_path):
    """Everything arrives, in batches, also though the endpoint fails at first."""
    with Collector() as collector:
        collector.script([Reply(status=500)])
        report = example("from_scratch")["main"](collector.url, str(tmp_path / "journal"))
        assert report.closes
        assert report.delivered == report.accepted == len(collector.uuids) > 25
        assert collector.requests_total < 10


def test_start_with_provided_uses_the_parts_that_were_handed_in():
    """Queue, retry policy, observer and clock are the example's own."""
    signals = []
    with Collector() as collector:
        collector.script([Reply(status=503)])
        report, queue, clock = example("start_with_provided")["main"](collector.url, signals.append)
        assert report.delivered == report.accepted == len(collector.uuids) >= 50
        assert queue.by_endpoint == {collector.url: report.accepted}
    assert clock.readings > 10
    assert any(isinstance(signal, Retrying) and signal.status == 503 for signal in signals)
    assert sum(signal.events for signal in signals if isinstance(signal, Delivered)) == report.delivered
    assert isinstance(signals[-1], Closed)


@pytest.mark.parametrize("name", ["from_scratch", "start_with_provided"])
def test_an_example_runs_by_itself(name):
    """``python examples/x.py`` needs no argument and no network."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "the collector saw" in done.stdout
    assert "delivered" in done.stdout
