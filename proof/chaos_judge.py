"""What the chaos is judged by: the sum, each second and at the end; and whether anything grew.

The sum is read from three sides that know nothing of each other: what the writers acknowledged (their mapped counts),
what the folder says (``eventpost status``), and the uuids that the endpoint said yes to.  They can't be read at one
instant, so each reading stands between two others: acknowledged before <= accepted <= acknowledged after, plus the one
event that each process can have under way.  A folder that is being folded may be read wrongly for a moment; what is
still wrong after ``PATIENCE_S`` of looking again is a violation.

Flat means: of a process's life, without its warm-up, the median of the last third is no higher than that of the first
third by more than the slack; and of the folder, its floor.  Connections are kept for the next burst, so of sockets only
the bound is checked: as many as there may be requests in flight.  They and the bodies they carried leave memory behind
for the next burst as well, so a life's memory is a flight of stairs: a burst that is larger than all before is a step.
A leak is a ramp.  Told apart by what is typical: how much more it is a sixteenth of a life later, in the median, is
nothing on stairs, and a sixteenth of the whole on a ramp.  And the stairs end: a process may have no more than its
requests in flight explain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median, quantiles

from eventpost import settings
from eventpost.queues.journal import inspect

from .chaos_parts import Endpoint, Life

PATIENCE_S = 5.0
LOOK_AGAIN_S = 0.05
SLACK_MB, SLACK_DESCRIPTORS, SLACK_THREADS, SLACK_DISK_MB = 3.0, 12, 2, 8.0
WARM_UP_S = 20.0
SOCKET_MB = 0.1
"""What libcurl may keep for each handle: 64 KiB to send from, 16 KiB to receive into, and what is its own."""
SOCKETS_MAX = settings.IN_FLIGHT_MAX + 8


class Broken(AssertionError):  # noqa: N818 - says what the sum is
    """The sum does not hold."""


def acknowledged(lives: Iterable[Life]) -> int:
    """Return how many events writers were told yes for."""
    return sum(life.count()[0] for life in lives)


def check_sum(journal: str, endpoint: Endpoint, lives: Sequence[Life]) -> inspect.FolderStatus:
    """Compare the three sides; ``lives`` are those that write into the folder.  Raises Broken."""
    until = time.monotonic() + PATIENCE_S
    while True:
        before = acknowledged(lives)
        status = inspect.folder_status(journal)
        after = acknowledged(lives)
        seen = sum(1 for uuid in list(endpoint.seen) if not uuid.startswith("memory"))
        wrong = []
        if not status.closes:
            wrong.append("the folder's sum does not close")
        if not before <= status.accepted <= after + len(lives):
            wrong.append(f"acknowledged {before}..{after} (+{len(lives)} under way), accepted {status.accepted}")
        if status.delivered > seen:
            wrong.append(f"{status.delivered} noted as delivered, {seen} were seen")
        if status.dead or status.dropped or status.bad:
            wrong.append(f"dead {status.dead}, dropped {status.dropped}, set aside {status.bad}")
        if not wrong:
            return status
        if time.monotonic() > until:
            raise Broken(f"{'; '.join(wrong)}: {status}")
        time.sleep(LOOK_AGAIN_S)


def check_memory(life: Life) -> None:
    """Check the memory dispatcher's own sum, which it stores together with its count."""
    acked, refused, delivered, queued, in_flight, dropped = life.count()
    if refused or dropped or not delivered + queued + in_flight <= acked:
        raise Broken(f"memory: {life.count()}")


def check_end(endpoint: Endpoint, lives: Sequence[Life]) -> tuple[int, int]:
    """Compare what was acknowledged with what arrived, uuid by uuid; returns how many, and how many arrived again."""
    due: set[str] = set()
    may: set[str] = set()
    for life in lives:
        if life.cells is not None:
            acked = life.count()[0]
            due.update(f"{life.kind}.{life.number}.{n}" for n in range(acked))
            if life.killed:
                may.add(f"{life.kind}.{life.number}.{acked}")
    seen = set(endpoint.seen)
    if due - seen:
        raise Broken(f"{len(due - seen)} acknowledged events were not delivered: {sorted(due - seen)[:5]}")
    if seen - due - may:
        raise Broken(f"{len(seen - due - may)} events were invented: {sorted(seen - due - may)[:5]}")
    return len(due), sum(count - 1 for count in endpoint.seen.values())


def grown(values: Sequence[float], slack: float, middle: Callable[[Sequence[float]], float] = median) -> float:
    """Return by how much the last third lies above the first beyond the slack; 0 or less: flat.  Short ones are."""
    third = len(values) // 3
    if third < 5:
        return 0.0
    return middle(values[-third:]) - middle(values[:third]) - slack


def leaked(values: Sequence[float]) -> float:
    """Return by how much the whole grew steadily, steps apart; short ones did not."""
    lag = len(values) // 16
    return median(after - before for before, after in zip(values, values[lag:], strict=False)) * 16 if lag > 4 else 0.0


def floor(values: Sequence[float]) -> float:
    """Return the lower quartile: backlogs come and go, what stays is the leak."""
    return quantiles(values, n=4)[0]


def judge_flat(lives: Iterable[Life], disk: Sequence[tuple[float, float]], warm_up_s: float) -> int:
    """Check that nothing grew; returns how many lives were long enough to tell.  Raises Broken."""
    judged = 0
    for life in lives:
        settled = [one for one in life.samples if one[0] >= life.began + warm_up_s]
        most = max((one[4] for one in life.samples), default=0)
        if most > SOCKETS_MAX:
            raise Broken(f"{life.kind}, life {life.number}: {most} sockets")
        judged += len(settled) >= 15
        memory = [one[1] for one in settled]
        if (by := leaked(memory)) > SLACK_MB:
            raise Broken(f"{life.kind}, life {life.number}: {by:.1f} MB of memory leaked")
        if memory and (by := max(memory) - memory[0]) > SOCKETS_MAX * SOCKET_MB + SLACK_MB:
            raise Broken(f"{life.kind}, life {life.number}: {by:.1f} more MB of memory than its requests explain")
        for rows, name, slack in (
            ([float(one[2]) for one in settled], "descriptors", SLACK_DESCRIPTORS),
            ([float(one[3]) for one in settled], "threads", SLACK_THREADS),
        ):
            by = grown(rows, slack)
            if by > 0:
                raise Broken(f"{life.kind}, life {life.number}: {by + slack:.1f} more {name} at its end")
    by = grown([value for _, value in disk], SLACK_DISK_MB, floor)
    if by > 0:
        raise Broken(f"the folder: {by + SLACK_DISK_MB:.1f} more MB at its end")
    return judged
