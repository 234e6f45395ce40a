"""Metrics for Prometheus: of one process, or of a relay's several processes as one.

prometheus-client keeps the counters.  Where ``PROMETHEUS_MULTIPROC_DIR`` was set before it was imported, they lie in
files of that folder, one for each process, and :func:`render` adds them up: whichever process answers shows the same.
Without that folder they are this process's own, in prometheus-client's registry, and shown as it always shows them.

Three kinds of figures:

* what a door took and refused (:class:`DoorMetrics`, in each worker);
* what the sender did (:class:`MetricsObserver`, an observer like any other, also of a plain ``EventDispatcher``);
* what lies in the folders (``journals``, read from the state that a relay's main process writes): the ledger, which is
  over all processes and restarts, depth and age of the queues, bytes, room on the disk.

A label's values are bounded: by an endpoint's URL as it is shown, a project's id, a reason.  Project ids come out of
bodies, which anybody may have written, so only what looks like one becomes a label, and of these the first hundred.

A door's counters are on the hot path.  They are plain additions; what they add up to is handed to prometheus-client
four times a second (``later``), at once where nothing calls back later.
"""

from .door import DoorMetrics
from .folders import render
from .sender import MetricsObserver

__all__ = ["DoorMetrics", "MetricsObserver", "render"]
