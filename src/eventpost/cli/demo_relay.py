"""The relay in the demo: ``eventpost relay`` on the demo's journal, on a free port of 127.0.0.1, with default settings.

Started as ``python -m eventpost.cli.demo_relay``.  Its settings come from its arguments alone, whatever is set for the
person's own relay; what its processes share lies in the demo's folder; and it ends in order when the demo is gone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from typing import Final

from ..relay.settings import read_settings
from .relay import run_relay

LOOK_S: Final = 0.2
DRAIN_TIMEOUT_S: Final = 5.0


def end_with(parent: int) -> None:
    """End in order, as by SIGTERM, once the parent is gone."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Run until SIGTERM, or until the demo is gone."""
    parser = argparse.ArgumentParser(prog="python -m eventpost.cli.demo_relay")
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--journal", required=True)
    parser.add_argument("--folder", required=True, help="for what goes with its processes")
    parser.add_argument("--parent", type=int, required=True, help="the demo's process")
    options = parser.parse_args()
    tempfile.tempdir = options.folder
    settings = read_settings(
        {
            "listen": "127.0.0.1:0", "journal": [options.journal], "endpoint": options.endpoint,
            "drain_timeout_s": DRAIN_TIMEOUT_S,
        },
        environ={},
    )  # fmt: skip
    threading.Thread(target=end_with, args=(options.parent,), name="eventpost-demo-parent", daemon=True).start()
    return run_relay(settings)


if __name__ == "__main__":
    sys.exit(main())
