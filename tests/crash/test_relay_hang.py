"""Workers that hang, and signals that come too early: what the main process does about both."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventpost.queues.journal import inspect
from eventpost.relay.children import START_S, STILL_S, Slot
from relay_support import SRC, Relay, Wire, ask, batch, bodies, free_port, request, uuid_of, uuids, wait_for

SPINS = """
import signal, sys

def spin(*_):
    while True:
        pass

if "eventpost.relay.worker" in sys.orig_argv:
    signal.signal(signal.SIGUSR1, spin)
"""


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGUSR1], ids=["stopped", "endless loop"])
def test_a_worker_that_hangs_is_replaced(tmp_path, how):
    """After ``--worker-timeout``, and said; what it had stored is kept, and events are taken again."""
    (tmp_path / "sitecustomize.py").write_text(SPINS)
    with Relay(tmp_path / "j", "--worker-timeout", "1.5", path=str(tmp_path)) as relay:
        assert ask(relay.port, batch(1)).status == 204
        (victim,) = relay.workers
        began = time.monotonic()
        os.kill(victim, how)
        with Wire(relay.port) as waiting:
            waiting.send(request(batch(2)))
            wait_for(lambda: relay.workers and victim not in relay.workers)
            assert time.monotonic() - began > 1
            assert ask(relay.port, batch(3)).status == 204
        metrics = ask(relay.port, path="/metrics", method="GET").body.decode()
        assert 'eventpost_troubles_total{what="worker_hung"} 1.0' in metrics
        code, _, err = relay.stop()
    assert code == 0
    assert "no sign of life for 1.5 s" in err
    assert {uuid_of(1), uuid_of(3)} <= uuids(bodies(tmp_path / "j"))
    assert inspect.folder_status(tmp_path / "j").closes


def test_one_that_works_is_left_alone(tmp_path):
    """Neither a bound that is soon over, nor a main process that stood still itself, costs a worker that goes on."""
    with Relay(tmp_path / "j", "--workers", "2", "--worker-timeout", "1") as relay:
        workers = relay.workers
        for pid in [relay.process.pid, *workers]:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(STILL_S + 0.5)
        for pid in [relay.process.pid, *workers]:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1.5)
        assert relay.workers == workers
        assert relay.stop()[2] == ""


def test_how_long_a_worker_may_be_silent():
    """One that is ready ``timeout_s``; one that starts has its time; 0: never too long; nobody is killed twice."""
    slot = Slot()
    assert not slot.hangs(1e9, 1.0)
    slot.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    slot._looked_at = slot._heard_at = 100.0
    try:
        assert not slot.hangs(100 + START_S, 1.0)
        assert slot.hangs(100.1 + START_S, 1.0)
        assert not slot.hangs(1e9, 0.0)
        slot.ready = True
        assert not slot.hangs(101.0, 1.0)
        assert slot.hangs(101.1, 1.0)
        slot.kill()
        assert not slot.hangs(1e9, 1.0)
        assert slot.process.wait(10) == -signal.SIGKILL
    finally:
        slot.process.kill()
        slot.process.communicate()


def caught(pid):
    """Tell whether a process has a handler for SIGTERM."""
    found = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(found, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_signal_in_the_first_moments(tmp_path):
    """The handler is there before anything else is: a SIGTERM just then ends the relay in order, with its sum."""
    command = [sys.executable, "-m", "eventpost.cli", "relay", "--listen", f"127.0.0.1:{free_port()}"]
    environ = {**os.environ, "PYTHONPATH": str(SRC)}
    process = subprocess.Popen(
        [*command, "--journal", str(tmp_path / "j")], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_for(lambda: caught(process.pid))
    assert not (tmp_path / "j").exists()
    assert "orjson" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["stopped: accepted 0 = delivered 0 + queued 0 + dead 0 + dropped 0"]
