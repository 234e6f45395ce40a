"""Each way in which a process ends or forks, with a memory queue and a journal: the table of docs/exits.md, run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventpost.queues.journal import inspect
from eventpost.testing import Collector
from exit_ends import ENDS, PRELUDE
from support import deliver_leftovers


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Give a fake endpoint."""
    with Collector() as endpoint:
        yield endpoint


def cells() -> Iterator[tuple[str, str]]:
    """Yield each row with the levels that it is run at: at ``fsync`` those where something is kept."""
    for end, row in ENDS.items():
        yield from ((end, durability) for durability in ("memory", "os"))
        if "lost" in (row.memory, row.child):
            yield end, "fsync"


@pytest.mark.parametrize(("end", "durability"), list(cells()))
def test_what_an_end_means(collector: Collector, tmp_path: Path, end: str, durability: str) -> None:
    """What was accepted is delivered before the end, or kept for another process, or lost: as the table says."""
    row = ENDS[end]
    script, said = tmp_path / "script.py", tmp_path / "said"
    script.write_text(PRELUDE + row.code)
    journal = tmp_path / "journal"
    done = subprocess.run(
        [sys.executable, str(script), collector.url, str(journal), str(said), durability],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == row.exit_code, done.stderr.decode()
    accepted = said.read_text().split()
    assert len(accepted) >= 10
    before = dict(collector.uuids)
    in_doubt = set()
    for name in accepted:
        fate = row.fate(durability, name)
        taken_over = fate == "kept" and row.child is not None  # by the parent, which may live long enough
        if taken_over:  # its sender may have been ended with the request out, which is made again
            in_doubt.add(name)
        assert taken_over or (name in before) == (fate == "delivered"), (name, done.stderr.decode())
    if durability != "memory":
        deliver_leftovers(journal)
        status = inspect.folder_status(journal)
        assert (status.queued, status.dead, status.dropped, status.closes) == (0, 0, {}, True)
        assert set(collector.uuids) == set(accepted)
    assert {name for name, times in collector.uuids.items() if times > 1} <= in_doubt
    assert set(collector.uuids.values()) <= {1, 2}
