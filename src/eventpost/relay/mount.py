"""Where the parts with packages of their own are put in: the page and the counters.

Each is imported when it is first needed.
"""

from __future__ import annotations

from .access import Access
from .answers import ASGIApp
from .ingest import DoorMetrics
from .settings import RelaySettings


class _Uncounted:
    def accepted(self, endpoint: str, project: str, events: int, body_bytes: int, elapsed_s: float) -> None:
        """Count nothing."""

    def refused(self, reason: str) -> None:
        """Count nothing."""

    def refused_by_reason(self) -> dict[str, int]:
        """Return nothing."""
        return {}


def make_metrics(run_dir: str) -> DoorMetrics:  # noqa: ARG001 - until watch.prometheus is there
    """Return the counters of this process."""
    return _Uncounted()


def render_metrics(run_dir: str) -> tuple[bytes, str]:  # noqa: ARG001 - until watch.prometheus is there
    """Return the counters of all processes, and their content type."""
    return b"", "text/plain"


def make_page(settings: RelaySettings, run_dir: str, access: Access) -> ASGIApp | None:  # noqa: ARG001 - until relay.page is there
    """Return the page."""
    return None
