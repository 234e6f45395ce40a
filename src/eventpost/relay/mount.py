"""Where the parts with packages of their own are put in: the page and the counters.

Each is imported when it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..queues.journal.inspect import open_folder
from ..watch.signals import Observer
from .access import Access
from .answers import ASGIApp
from .settings import RelaySettings
from .state import read_state

if TYPE_CHECKING:
    from ..watch.prometheus import DoorMetrics


def make_metrics(
    run_dir: str, later: Callable[[float, Callable[[], None]], Any] | None = None
) -> DoorMetrics:  # fmt: skip
    """Return the counters of this process, which ``later`` puts off; after ``share_run_dir``."""
    from ..watch.prometheus import DoorMetrics  # noqa: PLC0415 - looks for the shared folder when it is imported

    return DoorMetrics(later, folder=run_dir)


def make_observers() -> tuple[Observer, ...]:
    """Return what counts the senders' signals; after ``share_run_dir``."""
    from ..watch.prometheus import MetricsObserver  # noqa: PLC0415 - as above

    return (MetricsObserver(None),)


def render_metrics(run_dir: str) -> tuple[bytes, str]:
    """Return the counters of all processes, and their content type."""
    from ..watch.prometheus import render  # noqa: PLC0415 - as above

    return render(run_dir, read_state(run_dir))


def make_page(settings: RelaySettings, run_dir: str, access: Access) -> ASGIApp:
    """Return the page; without the journals that are gone: a worker has to be able to start without them."""
    from .page import build_page  # noqa: PLC0415 - starlette and jinja2 take a while, and micro has no page

    there = [] if settings.queue is not None else [path for path in settings.journal if _is_there(path)]
    return build_page(
        run_dir=run_dir, journals=there, shared=settings.shared, access=access, visitor_ids=settings.visitor_ids
    )


def _is_there(path: str) -> bool:
    try:
        open_folder(path)
    except (OSError, ValueError):
        return False
    return True
