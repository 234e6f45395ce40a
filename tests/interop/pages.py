"""The pages under docs/sdks, and the files that lie in them: a name in backticks and a colon, then the file, fenced."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "sdks"
_FILE = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files(language: str) -> dict[str, str]:
    """Return the files in a language's page, by their names."""
    return dict(_FILE.findall((PAGES / f"{language}.md").read_text("utf-8")))
