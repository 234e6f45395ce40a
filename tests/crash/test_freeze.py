"""Frozen and thawed, for some seconds; ``python -m proof freeze`` does it for a minute."""

import argparse
from importlib.util import find_spec

from proof import freeze

from support import missing


def test_what_is_frozen_goes_on_where_it_stopped() -> None:
    """Requests in flight, connections that died, neighbours that go on: nothing is lost, and nobody sends for them."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    figures = freeze.run(argparse.Namespace(seconds=4.0))
    assert figures["lost"] == 0
    assert figures["acknowledged"] > 500
