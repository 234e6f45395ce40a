"""``eventpost check``: whether a relay with these settings would work here, and a payload is what endpoints want."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from ..doors.encode import check_url
from ..errors import EventpostError
from ..relay.row import SettingError
from ..relay.settings import RelaySettings, read_settings
from . import checks, show
from .checks import Finding

STYLES: Final = {"ok": "green", "look": "yellow", "bad": "red"}


def run_check(
    flags: dict[str, Any], *, config: Path | None, payload: Path | None, send: str | None, offline: bool, json_: bool
) -> int:  # fmt: skip
    """Check, and say what was found; return the exit code: 1 if something does not work."""
    if send is not None:
        if payload is None:
            raise typer.BadParameter("what is to be sent? Name it with --payload", param_hint="--send")
        try:
            check_url(send)
        except EventpostError as error:
            raise typer.BadParameter(str(error), param_hint="--send") from None
    raw = None if payload is None else _read(payload)
    found = []
    for one in _all(flags, config, raw, send, offline=offline):
        found.append(one)
        if not json_:
            _say(one)
    if json_:
        show.say_json([dataclasses.asdict(one) for one in found])
    return int(any(one.state == "bad" for one in found))


def _all(
    flags: dict[str, Any], config: Path | None, raw: bytes | None, send: str | None, *, offline: bool
) -> Iterator[Finding]:  # fmt: skip
    if raw is None or flags or config is not None:
        yield from _relay(flags, config, offline=offline)
    if raw is not None:
        findings, body = checks.check_payload(raw)
        yield from findings
        if send is not None and body is not None:
            yield checks.send_payload(body, send)


def _relay(flags: dict[str, Any], config: Path | None, *, offline: bool) -> Iterator[Finding]:
    try:
        settings = read_settings(flags, config=None if config is None else str(config))
    except SettingError as error:
        yield Finding("settings", "bad", str(error), "correct it there; docs/relay.md says what it may be")
        return
    except OSError as error:
        yield Finding("settings", "bad", f"{error.filename}: {error.strerror}", "name a file that this user can read")
        return
    yield from checks.check_settings(settings)
    yield from checks.check_listen(settings)
    yield from checks.check_tls(settings)
    if settings.queue is not None:
        from .check_queue import check_queue  # noqa: PLC0415 - redis is an extra, which is there: the URL was read

        yield from check_queue(settings)
    for number, path in enumerate(_folders(settings)):
        yield from checks.check_folder(path, settings, own=not number)
    yield from checks.check_authorities()
    if offline:
        yield Finding("endpoint", "look", "not asked: --offline")
        return
    for url in sorted(settings.allowed_urls):
        yield from checks.check_endpoint(url)


def _folders(settings: RelaySettings) -> Sequence[str]:
    """Return the folders that the relay would use, its own first."""
    if settings.queue is None:
        return settings.journal
    return [] if settings.spill is None else [settings.spill]


def _read(payload: Path) -> bytes:
    if str(payload) == "-":
        return sys.stdin.buffer.read() if sys.stdin else b""
    return payload.read_bytes()


def _say(one: Finding) -> None:
    show.say(f"{one.state:<5} {one.what}: {one.detail}", style=STYLES[one.state])
    if one.remedy:
        show.say(f"      -> {one.remedy}")
