"""Where figures go: raw to proof/results.json, and as a table into docs/guarantees.md, between two marks."""

from __future__ import annotations

import datetime as dt
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

Figures = Mapping[str, int | float | str]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "proof" / "results.json"
PAGE = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- proof -->", "<!-- /proof -->"


def record(part: str, figures: Figures, took_s: float) -> None:
    """Keep one part's figures, with what they were measured on."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[part] = {
        "figures": dict(figures),
        "took_s": round(took_s),
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "optimizely-sdk": metadata.version("optimizely-sdk"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }
    RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(kept)}{END}{after}")


def table(kept: Mapping[str, Mapping[str, object]]) -> str:
    """Return the kept figures as a table."""
    lines = ["", "| part | figures | took | on |", "|---|---|---:|---|"]
    for part, row in sorted(kept.items()):
        figures = row["figures"]
        assert isinstance(figures, dict)
        shown = "; ".join(
            f"{name}: {value:,}" if isinstance(value, int | float) else f"{name}: {value}"
            for name, value in figures.items()
        )
        on = f"{row['date']}, Python {row['python']}, SDK {row['optimizely-sdk']}, {row['system']}"
        anchor = f'<a id="{part}"></a>'  # the first table links to it
        lines.append(f"| {anchor}`python -m proof {part}` | {shown} | {row['took_s']:,} s | {on} |")
    return "\n".join([*lines, "", ""])
