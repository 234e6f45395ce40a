"""The command line: what an operator sees of a journal, and does with it.

``app`` holds the commands, ``dead`` the group for dead letters, ``show`` how things look (and what is masked), ``send``
the sender of its own, ``demo`` the show and ``demo_*`` who takes part in it.  Everything known about a folder
comes from ``queues.journal.inspect``; no command has a view of its own.

Exit codes: 0 done; 1 something needs a person (``status``, ``verify``), or not everything could be done (in time);
2 wrong usage, no journal there, or the extra ``eventpost[cli]`` is missing; 130 interrupted.
"""

from __future__ import annotations

import sys

from ..relay.stopping import stop_signals


def main() -> int:
    """Run the command line on ``sys.argv``; say what to install if its packages are not there."""
    if sys.argv[1:2] == ["relay"]:
        stop_signals()
    try:
        from .app import run  # noqa: PLC0415 - typer and rich are an extra
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.stderr.write("The command line needs two more packages: pip install 'eventpost[cli]'\n")
        return 2
    return run()
