"""``eventpost micro``: the relay without an upstream, for test suites."""

from __future__ import annotations

import signal

import typer

from ..relay.access import is_loopback
from ..relay.settings import parse_listen
from . import show
from .relay import says_extra

LISTEN = "127.0.0.1:8788"


def run_micro(listen: str, *, strict: bool, open_: bool, keep: int) -> int:
    """Run it until a signal; return the exit code."""
    try:
        host, port = parse_listen(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    if not (is_loopback(host) or open_):
        raise typer.BadParameter(
            "beyond loopback anyone could read and script it: say --open if that is meant", param_hint="--listen"
        )
    if says_extra():
        return 2
    from ..relay.micro import Micro, names_of, serve  # noqa: PLC0415 - the extra may be missing

    for number in (signal.SIGTERM, signal.SIGINT):  # which uvicorn raises once more when it has ended in order
        signal.signal(number, lambda *_: None)
    micro = Micro(strict=strict, names=() if open_ else names_of(host), rows_max=keep)
    try:
        serve(micro, host, port, ready=_announce)
    except OSError as error:
        show.say(f"{listen}: {error.strerror}", to=show.err)
        return 2
    counts = micro.kept.counts()
    show.say(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    return 0


def _announce(url: str) -> None:
    show.say(f"eventpost micro: events to {url}/v1/events, what came at {url}/micro/all")
