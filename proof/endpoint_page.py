"""docs/endpoints.md, written from the rows of ``endpoint_faults``; a test compares the two."""

from __future__ import annotations

from .endpoint_faults import FAULTS, TRANSPORTS, Fault
from .record import ROOT

PAGE = ROOT / "docs" / "endpoints.md"


def page() -> str:
    """Return docs/endpoints.md."""
    rows = [INTRO]
    for fault in FAULTS:
        if f"\n## {fault.group}\n" not in "".join(rows):
            rows.append(
                f"\n## {fault.group}\n\n"
                "| the endpoint | is taken for | the events | the ledger says | test |\n|---|---|---|---|---|\n"
            )
        cells = (fault.what, taken_for(fault), fate_of(fault), told_of(fault), f"`test_an_endpoint[{fault.key}-...]`")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(rows)


def taken_for(fault: Fault) -> str:
    """Return what the transports make of it, in words."""
    said = {
        name: " or ".join(f"`{one}`" for one in sorted(reasons) if one != "http_*")
        for name, reasons in fault.reasons.items()
    }
    if "http_*" in fault.reasons["curl"]:
        return "`http_` and the status"
    curl, pool = (said[name] or ("an answer" if fault.fate in ("delivered", "some") else "") for name in TRANSPORTS)
    if fault.fate == "delivered" and said["curl"]:
        return f"an answer; {curl} where the next request met the end of the connection"
    return curl if curl == pool else f"libcurl: {curl}; urllib3: {pool}"


def fate_of(fault: Fault) -> str:
    """Return what becomes of the events, in words."""
    words = {
        "later": "kept, tried again, delivered once it is well",
        "held": "kept; only a probe now and then until somebody has mended it, then delivered",
        "dead": "dead letters, with the status and the answer",
        "delivered": "delivered",
        "some": "",
    }[fault.fate]
    return "; ".join(part for part in (words, fault.tells) if part)


def told_of(fault: Fault) -> str:
    """Return the signals and the count, in words."""
    if fault.fate == "some":
        told = [
            name
            for name, known in (("`Retrying`", not fault.merge and fault.dead is None), ("`Buried`", fault.dead))
            if known
        ]
        told += ["`BreakerChanged` held and, once well, closed"] if fault.key == "refuses_everything" else []
        return ", ".join([*told, "`Delivered`"]) + (
            "; `dead`, the others `delivered`" if fault.dead else "; `delivered`"
        )
    if fault.fate == "delivered":
        return "`Delivered`; `delivered`"
    if fault.fate == "dead":
        return "`Buried`; `dead`"
    state = "open" if fault.fate == "later" else "held"
    return f"`Retrying`, `BreakerChanged` {state} and, once well, closed; `queued`, then `delivered`"


INTRO = """# What an endpoint can do to us

Written from the rows of `proof/endpoint_faults.py` by `python -m proof endpoints --write-page`;
`tests/acceptance/test_endpoint_matrix.py` runs each row against libcurl and urllib3, and fails if this page says
something else. For every row it is shown that

- no event is lost: after the endpoint is well again each event was delivered to a server that said yes to it, or is a
  dead letter with its reason; the report, the folder's sum and the server's own list of uuids agree;
- no wait is without bound: a put never waits for the endpoint, an attempt ends at `timeout_s` plus half a second, and
  so does `close(timeout_s)`, also in the middle of the fault; what it leaves in the folder is delivered by the next
  process.

An event can arrive twice where the server had taken it and the answer did not come (resets and hangs behind the body,
answers that are cut); uuid and timestamp are the same, and Optimizely drops the repeat.

What is a yes: a 2xx in the status line, though the header behind it be cut; a body, if one is announced, must be whole,
or longer than the 1 MiB that is read of it.
"""
