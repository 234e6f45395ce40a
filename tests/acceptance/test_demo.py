"""``eventpost demo``, run as a person would run it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from support import missing

PROCESSES = 8  # three applications on each side, the relay, and what posts to it


@pytest.fixture(scope="module")
def performance(tmp_path_factory):
    """Run the demo once, keeping its folder; returns what ended, how long it took, and where its folders go.

    A proxy is set that is not there: the demo needs no network, and goes past it.
    """
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    here = tmp_path_factory.mktemp("demo")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "eventpost.cli", "demo", "--keep"],
        env={**os.environ, "TMPDIR": str(here), "http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done, time.monotonic() - began, here


def with_relay():
    """Skip where the relay's packages are not there."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    from eventpost.cli.relay import lacks_packages

    if lacks_packages():
        missing("what the extra relay brings")


def numbers(line):
    """Return the whole numbers in a line."""
    return [int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*\b", line)]


def test_the_demo_loses_nothing_and_says_so(performance):
    """Through an outage and a kill -9 every event that was accepted arrives; the collector counted."""
    done, _, _ = performance
    assert done.returncode == 0, done.stdout + done.stderr
    ours = next(line for line in done.stdout.splitlines() if line.startswith("Eventpost:  "))
    accepted, delivered, lost = numbers(ours)
    assert accepted > 1000
    assert (delivered, lost) == (accepted, 0)


def test_the_sdk_alone_loses_events_in_the_same_story(performance):
    """What stands beside it was counted in the same way: handed in = delivered + lost."""
    done, _, _ = performance
    alone = next(line for line in done.stdout.splitlines() if line.startswith("the SDK alone:  "))
    handed_in, delivered, lost, *_ = numbers(alone)
    assert handed_in == delivered + lost
    assert lost > 0


def test_what_came_through_the_relay_is_in_the_same_ledger(performance):
    """What was posted to it over plain HTTP arrived as well, and the journal's sum holds both."""
    with_relay()
    done, _, _ = performance
    lines = done.stdout.splitlines()
    through = numbers(next(line for line in lines if line.startswith("the relay:  ")))
    ours = numbers(next(line for line in lines if line.startswith("Eventpost:  ")))
    assert through[0] > 300
    assert through[1:] == [through[0], 0]
    accepted, delivered, queued, dead, dropped = numbers(next(line for line in lines if line.startswith("journal:  ")))
    assert (delivered, queued, dead, dropped) == (accepted, 0, 0, 0)
    assert accepted >= through[0] + ours[0]


def test_the_demo_names_the_page_at_its_start(performance):
    """Before anything happens, so that one can look on."""
    with_relay()
    done, _, _ = performance
    found = re.search(r"its page, [^:]+: (http://127\.0\.0\.1:\d+/)$", done.stdout, re.MULTILINE)
    assert found
    assert found.start() < done.stdout.find("applications start")


def test_the_demo_tells_its_story_in_plain_lines(performance):
    """Without a terminal it prints lines, no escapes, no questions."""
    done, _, _ = performance
    story = ["applications start", "outage", "kill -9", "started again", "endpoint is back", "close their clients"]
    places = [done.stdout.find(word) for word in story]
    assert -1 not in places
    assert places == sorted(places)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_the_demo_shows_the_recovery(performance):
    """What the outage held up arrives while the audience looks on, before the applications end."""
    done, _, _ = performance
    before, _, after = done.stdout.partition("the endpoint is back")
    arrived = [
        [numbers(line.partition(";")[0])[-1] for line in part.splitlines() if "Eventpost: taken" in line]
        for part in (before.partition("outage")[2], after.partition("close their clients")[0])
    ]
    during, afterwards = arrived
    assert during[-1] - during[0] < 200 < afterwards[-1] - during[-1]


def test_the_demo_takes_less_than_a_minute(performance):
    """So that people watch it to its end."""
    assert performance[1] < 60


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_no_process_behind(tmp_path, end):
    """However it ends; and no folder, where it is told and not killed.  Until then its page can be opened."""
    with_relay()
    if not os.path.isdir("/proc/self"):
        missing("/proc, to look for processes")
    command = [sys.executable, "-m", "eventpost.cli", "demo"]
    with subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            page = demo.stdout.readline().split()[-1]
            until(lambda: len(processes_about(tmp_path)) == PROCESSES)
            assert "<title>" in urlopen(page, timeout=10).read().decode()
            demo.send_signal(end)
            assert demo.wait(20) == (-signal.SIGKILL if end == signal.SIGKILL else 130)
            until(lambda: not processes_about(tmp_path))
            assert demo.stderr.read() == ""
        finally:
            demo.kill()
    assert bool(list(tmp_path.iterdir())) == (end == signal.SIGKILL)


def processes_about(folder):
    """Return the numbers of the processes that name this folder among their arguments."""
    found = []
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdecimal() and str(folder).encode() in Path(entry.path, "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def until(condition, timeout_s=30):
    """Wait until something holds; fail if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_the_demo_keeps_can_be_looked_at(performance):
    """``--keep`` names the folder; its journal tells the sum that was printed."""
    done, _, here = performance
    (kept,) = here.iterdir()
    assert f"kept: {kept}" in done.stdout
    command = [sys.executable, "-m", "eventpost.cli", "status", "--journal", str(kept / "journal"), "--json"]
    status = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)
    assert status["closes"]
    assert f"accepted {status['accepted']:,} = delivered {status['delivered']:,} + queued 0" in done.stdout


def test_the_demo_goes_on_without_the_relays_packages(monkeypatch, capsys):
    """It says what to install, in one line, and the two sides stand as before."""
    if find_spec("typer") is None:
        missing("typer (the extra cli)")
    from eventpost.cli import demo, demo_sides

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with demo_sides.scene(keep=False) as cast:
        assert [side.title for side in cast.sides] == ["Eventpost", "the SDK alone"]
        monkeypatch.setattr(demo, "PROCESSES", 0)
        monkeypatch.setattr(demo, "START_TIMEOUT_S", 0.0)
        with pytest.raises(demo.DemoError, match="nothing arrived"), demo.Stage(cast) as stage:
            demo.play(cast, stage)
    said = [line for line in capsys.readouterr().out.splitlines() if "pip install 'eventpost[relay]'" in line]
    assert len(said) == 1
