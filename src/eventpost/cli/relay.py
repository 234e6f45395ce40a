"""``eventpost relay`` and ``eventpost relay-token``."""

from __future__ import annotations

import logging
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ..errors import EventpostError, JournalUnusable
from ..relay.access import make_digest
from ..relay.row import SettingError
from ..relay.settings import RelaySettings, read_settings
from . import show

TOKEN_PREFIX: Final = "evp_"  # noqa: S105 - what tokens begin with, so that a scanner of repositories can find a lost one
TOKEN_BYTES: Final = 32
EXTRA: Final = "The relay needs more packages: pip install 'eventpost[relay]'"
PACKAGES: Final = ("uvicorn", "httptools", "uvloop", "starlette", "jinja2", "msgspec", "prometheus_client")
"""What the extra ``relay`` brings: without all of it a relay would not come far."""

Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with settings.", show_default="EVENTPOST_RELAY_CONFIG", dir_okay=False),
]


def settings_or_usage(flags: dict[str, Any], config: Path | None) -> RelaySettings:
    """Return the settings in force; a value that makes no sense is wrong usage."""
    try:
        return read_settings(flags, config=None if config is None else str(config))
    except SettingError as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}") from None


def lacks_packages() -> bool:
    """Tell whether packages of the extra ``relay`` are missing."""
    return any(find_spec(name) is None for name in PACKAGES)


def says_extra() -> bool:
    """Say what to install, if packages of the extra are missing; tell whether they are."""
    if lacks_packages():
        show.say(EXTRA, to=show.err)
        return True
    return False


def run_relay(settings: RelaySettings) -> int:
    """Run the relay until a signal; return the exit code: 2 if it could not start."""
    from ..relay.holding import CannotStart  # noqa: PLC0415 - the extra may be missing
    from ..relay.supervisor import LOG_FORMAT, Supervisor  # noqa: PLC0415 - as above

    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)
    try:
        supervisor = Supervisor(settings, say=show.say)
        code = supervisor.run()
    except (CannotStart, JournalUnusable) as error:
        show.say(error, to=show.err)
        return 2
    try:
        found = supervisor.status()
    except (OSError, EventpostError) as error:
        show.say(f"stopped; the queue cannot be counted: {error}", to=show.err)
        return code
    for status in found:
        told = show.the_sum(status.accepted, status.delivered, status.queued, status.dead, status.dropped)
        kept = f"; {status.queued:,} stay in {status.place}" if status.queued else ""
        show.say(f"stopped: {told}{kept}")
    return code


def make_token() -> tuple[str, str]:
    """Return a new token, and its digest for the settings."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    return token, make_digest(token)
