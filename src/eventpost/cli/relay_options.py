"""The relay's settings as options of a command, made from their table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from ..relay.row import Row
from ..relay.settings import TABLE

_METAVARS: Final = {
    "listen": "HOST:PORT",
    "journal": "DIR",
    "group": "NAME",
    "prefix": "PATH",
    "queue": "URL",
    "queue_name": "NAME",
    "spill": "DIR",
}


def _option(row: Row) -> Any:
    flags = [f"{row.flag}/--no-{row.flag[2:]}"] if row.kind is bool else [row.flag]
    more: dict[str, Any] = {"metavar": _METAVARS[row.name]} if row.name in _METAVARS else {}
    return typer.Option(
        *flags, help=f"{row.meaning[0].upper()}{row.meaning[1:]}.", show_default=row.shown_default, **more
    )


def _annotation(row: Row) -> Any:
    kind: Any = list[str] if row.kind is tuple else row.kind
    return Annotated[kind | None, _option(row)]


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that takes ``flags``, a dict by the settings' names, an option for each of the relay's settings.

    Its other parameters, keyword-only, stay its own options and come first; a setting that is called as one of them has
    no option there.
    """
    own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "flags"]
    rows = [row for row in TABLE if row.name not in {one.name for one in own}]
    names = {row.name for row in rows}

    def called(**values: Any) -> Any:
        flags = {name: value for name, value in values.items() if name in names}
        rest = {name: value for name, value in values.items() if name not in names}
        return command(**rest, flags=flags)

    parameters = [
        inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(row))
        for row in rows
    ]
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__signature__ = inspect.Signature([*own, *parameters])  # type: ignore[attr-defined]  # read by inspect, and so by typer
    return called
