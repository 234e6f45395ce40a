"""The commands.  Each is short: what it knows it asks a ``View``, what it shows it hands to ``show``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from .. import __version__
from ..errors import JournalUnusable, QueueUnavailable, RedisUnusable
from ..queues import shown
from ..queues.journal import inspect
from ..queues.journal.repair import repair as mend
from ..queues.shown import seen_as_dict
from . import dead, show, where
from .dead import Json, VisitorIds
from .micro import LISTEN as MICRO_LISTEN
from .micro import run_micro
from .purge import TIMEOUT_S, run_purge
from .relay import Config, make_token, run_relay, says_extra, settings_or_usage
from .relay_options import with_settings
from .where import Journal, Queue, QueueName

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)  # fmt: skip
app.add_typer(dead.app, name="dead")

SERIOUS = frozenset({"damaged", "header", "totals"})
LOOK_AGAIN_S = 0.1
FOLLOW_S = 0.25
YEAR_S = 365 * 86400


def _say_version(value: bool) -> None:  # noqa: FBT001 - typer hands it over so
    if value:
        show.say(f"eventpost {__version__}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Eventpost: the durable event dispatcher for Optimizely.  Not affiliated with Optimizely."""


@app.command()
def demo(
    *,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the journal's folder, and name it; on a terminal leave the page open, too."),
    ] = False,
) -> None:
    """Show a real client, an outage, a kill -9 and a recovery, counted; and the relay's page, while it happens.

    Takes under a minute and needs no network.
    """
    from .demo import run_demo  # noqa: PLC0415 - it loads the SDK

    raise typer.Exit(run_demo(keep=keep))


@app.command("demo-fleet")
def demo_fleet() -> None:
    """Show two relays, two senders and two applications on one Valkey, and a kill -9 of each kind, counted."""
    from .demo_fleet import run_demo_fleet  # noqa: PLC0415 - it loads the HTTP client

    raise typer.Exit(run_demo_fleet())


@app.command()
def send(
    *,
    journal: Journal = None,
    queue: Queue = None,
    queue_name: QueueName = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End once nothing waits that no other live sender holds.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", min=0, max=YEAR_S, metavar="S", help="End after this many seconds.", show_default="none"
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="Send everything to this URL.", show_default="each event's own"),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="NAME", help="The group that shares the folder.", show_default="private"),
    ] = None,
) -> None:
    """Deliver what lies in a queue, whoever put it there.  Runs until SIGTERM or Ctrl-C unless told to end."""
    from .send import run_send  # noqa: PLC0415 - it loads the transports

    place = where.place(journal, queue, queue_name)
    raise typer.Exit(run_send(place, until_empty=until_empty, timeout_s=timeout, endpoint=endpoint, group=group))


@app.command()
@with_settings
def relay(*, config: Config = None, flags: dict[str, Any]) -> None:
    """Take events over HTTP from any SDK, say 204 once they are stored, and deliver them; until SIGTERM or Ctrl-C."""
    if says_extra():
        raise typer.Exit(2)
    raise typer.Exit(run_relay(settings_or_usage(flags, config)))


@app.command()
def micro(
    *,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Address and port to listen on; port 0: any free one.")
    ] = MICRO_LISTEN,
    strict: Annotated[
        bool, typer.Option("--strict", help="Answer 400 to a batch that breaks the published description.")
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Listen beyond loopback, for anyone who can connect.")
    ] = False,
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many events, and bad requests, are kept.")] = 100_000,
) -> None:  # fmt: skip
    """Be an endpoint for a test suite: takes what the relay takes, keeps it, and fails when told to; until Ctrl-C."""
    raise typer.Exit(run_micro(listen, strict=strict, open_=open_, keep=keep))


@app.command()
@with_settings
def check(
    *,
    config: Config = None,
    payload: Annotated[
        Path | None,
        typer.Option("--payload", metavar="FILE", help="Body to check in strict mode; - reads it from stdin."),
    ] = None,
    send: Annotated[
        str | None, typer.Option("--send", metavar="URL", help="Send it there, in strict mode, and say what came back.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no endpoint.")] = False,
    json_: Json = False,
    flags: dict[str, Any],
) -> None:
    """Say whether a relay with these settings would work here, what does not, and what to do; or check a payload.

    Exit code 1: something does not work.
    """
    if says_extra():
        raise typer.Exit(2)
    from .check import run_check  # noqa: PLC0415 - the extra may be missing

    said = {name: value for name, value in flags.items() if value is not None and value != []}
    raise typer.Exit(run_check(said, config=config, payload=payload, send=send, offline=offline, json_=json_))


@app.command("relay-token")
def relay_token(*, json_: Json = False) -> None:
    """Make a token for the relay: itself, which is shown this once, and its digest for the relay's settings."""
    token, digest = make_token()
    if json_:
        show.say_json({"token": token, "digest": digest})
        return
    show.say(f"token:  {token}")
    show.say(f"digest: {digest}")
    show.say("The relay gets the digest (--token, or --page-token for the page); who sends or looks gets the token.")


@app.command()
def status(
    *, journal: Journal = None, queue: Queue = None, queue_name: QueueName = None, json_: Json = False
) -> None:  # fmt: skip
    """Count a queue, over all processes, machines and restarts.  Exit code 1: something needs a person."""
    view = where.view(journal, queue, queue_name)
    counted = view.status()
    if not counted.closes:  # somebody was at work between two reads
        time.sleep(LOOK_AGAIN_S)
        counted = view.status()
    if json_:
        show.say_json(counted.values)
    else:
        show.show_status(counted)
    if counted.needs:
        raise typer.Exit(1)


@app.command()
def tail(
    *,
    journal: Journal = None,
    queue: Queue = None,
    queue_name: QueueName = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, metavar="N", help="How many.")] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is put from now on, until Ctrl-C.")
    ] = False,
    json_: Json = False,
    visitor_ids: VisitorIds = False,
) -> None:
    """Show the newest events, in order, with what became of them."""
    followed = where.view(journal, queue, queue_name).follow()
    seen = followed.look(last)
    while True:
        rows = [seen_as_dict(one, visitor_ids=visitor_ids) for one in seen]
        if json_:
            show.say_json_lines(rows)
        else:
            show.lines(rows, ("id", "at", "state", "endpoint", "events", "uuids", "visitors"))
        if not follow:
            return
        time.sleep(FOLLOW_S)
        seen = followed.look()


@app.command()
def purge(
    visitor: Annotated[
        str,
        typer.Option("--visitor", metavar="ID", help="The visitor's id; - reads it from stdin.", show_default=False),
    ],
    *,
    journal: Journal = None,
    queue: Queue = None,
    queue_name: QueueName = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, help="Wait this many seconds for those who have segments in hand.")
    ] = TIMEOUT_S,
    json_: Json = False,
) -> None:
    """Erase one visitor's queued and dead events from the disk, for good, and what is left of settled ones.

    Exit code 1: something is not erased yet; it stays asked for.
    """
    place = where.place(journal, queue, queue_name)
    raise typer.Exit(run_purge(place, visitor, timeout_s=timeout, json_=json_))


@app.command()
def verify(
    journal: Annotated[
        Path, typer.Option("--journal", metavar="DIR", help="The journal's folder.", show_default=False, readable=False)
    ],
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what nobody holds, and say what was done.")] = False,
    json_: Json = False,
) -> None:
    """Read every byte of a folder and name what is damaged.  Without --repair it changes nothing.

    Exit code 1: something is damaged, or stays so.
    """
    with Progress(console=show.err, disable=not show.err.is_terminal, transient=True) as bar:
        task = bar.add_task("mending", total=None, visible=repair)
        repaired = mend(journal, progress=lambda count: bar.advance(task, count)) if repair else []
        bar.update(task, visible=False)
        task = bar.add_task("reading", total=None)
        findings = inspect.verify(journal, progress=lambda done, of: bar.update(task, completed=done, total=of))
    if json_:
        found = [{name: getattr(one, name) for name in one.__slots__} for one in findings]
        done = [{name: getattr(one, name) for name in one.__slots__} for one in repaired]
        show.say_json({"repaired": done, "findings": found} if repair else found)
    else:
        for what in repaired:
            lost = f", {shown.count(what.events, 'event')} dropped: damaged" if what.events else ""
            show.say(f"{what.did}: {what.path}: {what.detail}{lost}", style="yellow" if what.did == "left" else "green")
        if repair and not repaired:
            show.say("nothing to repair")
        for one in findings:
            where = f"{one.path} at byte {one.at_byte:,}, {one.length_bytes:,} bytes"
            show.say(f"{one.kind}: {where}: {one.detail}", style="red" if one.kind in SERIOUS else "yellow")
        remedy = "what is left needs a person" if repair else "`eventpost verify --repair` mends what it can"
        damaged = SERIOUS & {one.kind for one in findings}
        show.say(f"damage found: see above; {remedy}" if damaged else "every record is whole")
    if SERIOUS & {one.kind for one in findings}:
        raise typer.Exit(1)


def run() -> int:
    """Run the command line; returns the exit code."""
    try:
        app()
    except KeyError as error:
        show.say(f"no dead letter is called {error.args[0]}; `eventpost dead list` names them", to=show.err)
    except FileExistsError as error:
        show.say(f"{error.filename} exists, and is not written over: name another file", to=show.err)
    except (FileNotFoundError, JournalUnusable, PermissionError) as error:
        show.say(f"{error.filename}: {error.strerror}" if error.filename else str(error), to=show.err)
    except RedisUnusable as error:
        show.say(error, to=show.err)
    except QueueUnavailable as error:
        show.say(f"the queue does not answer: {error}", to=show.err)
        return 1
    except BrokenPipeError:  # who read the output has enough; what is left in its buffer must not be tried again
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        show.say(f"{error.filename or 'eventpost'}: {error.strerror}", to=show.err)
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
    return 2
