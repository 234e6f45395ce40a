"""Ten minutes without an endpoint, behind the relay, which is killed twice meanwhile.

Clients post one event a request to a real ``eventpost relay`` with two workers, 1,000 a second, the whole time.  The
endpoint's process is killed.  A third and two thirds into its absence all processes of the relay are killed with
SIGKILL, and a moment later it is started again; clients whose connection was refused or whose answer never came post
the same bytes again.  Then the endpoint comes back.

What must hold: the sum, each second; each event that got a 204 arrives at the endpoint, bytes unchanged; the backlog is
delivered while new events come in; and the endpoint is met without a storm (``outage_judge``).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

from eventpost.queues.journal import inspect

from .chaos_judge import Broken
from .outage_cast import WAIT_S, Cast
from .outage_graph import draw, most_at_once, per_second
from .outage_judge import Seen, allowed, check_end, check_ramp, check_sum, in_flight
from .record import ROOT, Figures

DOWN_S: Final = 2.0
"""How long the relay stays away after a kill."""
DRAIN_S: Final = 900.0
CALM_S: Final = 10.0
"""How long everything is well before the outage, and once more after it; in a short run a tenth of the outage."""
TICK_S: Final = 0.05
NEAR_S: Final = (-0.6, 3.0)
FEW: Final = 32.0
"""Up to here one panel shows the ramp, which begins with too few requests to be seen beside hundreds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the numbers; the defaults are those of make soak."""
    parser.add_argument("--minutes", type=float, default=10, help="how long the endpoint is away")
    parser.add_argument("--rate", type=float, default=1000, help="events a second")
    parser.add_argument("--graph", type=Path, default=ROOT / "docs" / "outage.svg", help="where the picture goes")


class Outage:
    """One run in a folder of its own."""

    def __init__(self, root: Path, rate: float, away_s: float) -> None:
        self.root, self.rate, self.away_s = root, rate, away_s
        self.cast = Cast(root, rate)
        self.journal = self.cast.journal
        self.began = time.monotonic()
        self.calm_s = min(CALM_S, max(1.0, away_s / 10))
        self.seen = Seen(root / "records")
        self.bands: list[tuple[float, float, str]] = []
        self.marks: list[tuple[float, str]] = []
        self.rows: list[tuple[float, int, int, int]] = []
        """Once a second: when, acknowledged, answered by the endpoint, queued."""
        self.looked_at = self.back_s = 0.0
        self.drained_s = 0.0

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def run(self) -> None:
        """Do it all.  Raises Broken."""
        self.cast.start_endpoint()
        self.wait(lambda: self.cast.listens("endpoint"), "the endpoint did not begin")
        self.cast.start_relay()
        self.wait(lambda: self.cast.listens("relay"), "the relay did not begin")
        self.cast.start_clients()
        self.wait(lambda: self.seen.answered > self.rate, "nothing arrived")
        self.pass_time(self.calm_s)
        self.cast.kill("endpoint")
        gone_s = self.now
        self.bands.append((gone_s, gone_s, "refused"))
        for third in (1, 2):
            self.pass_time(gone_s + self.away_s * third / 3 - self.now)
            self.marks.append((self.now, "kill -9"))
            self.cast.kill("relay")
            self.pass_time(min(DOWN_S, self.away_s / 12))
            self.cast.start_relay()
            self.wait(lambda: self.cast.listens("relay"), "the relay did not begin again")
        self.pass_time(gone_s + self.away_s - self.now)
        self.back_s = self.now
        self.bands[0] = (gone_s, self.back_s, "refused")
        self.cast.start_endpoint()
        self.wait(lambda: self.rows[-1][3] < self.rate / 2, f"not drained in {DRAIN_S:g} s", DRAIN_S)
        self.drained_s = self.now - self.back_s
        self.pass_time(self.calm_s)
        self.cast.end("clients")
        self.wait(lambda: not inspect.folder_status(self.journal).queued, "the rest was not delivered")
        self.cast.end("relay")
        self.cast.end("endpoint")

    def wait(self, until: Callable[[], bool], otherwise: str, timeout_s: float = WAIT_S) -> None:
        """Wait for something, looking each second.  Raises Broken."""
        end = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > end:
                raise Broken(f"{otherwise}: {self.cast.counts()}")
            self.pass_time(TICK_S)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, looking each second."""
        end = time.monotonic() + seconds
        while True:
            if self.now >= self.looked_at + 1 and Path(self.journal, "segments").exists():
                self.look()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, TICK_S))

    def look(self) -> None:
        """Check the sum, and that everybody lives."""
        self.looked_at = self.now
        self.cast.check()
        status, counts = check_sum(self.journal, self.seen, self.cast.counts), self.cast.counts()
        self.rows.append((self.now, counts.acknowledged, self.seen.answered, status.queued))
        if len(self.rows) % 30 == 0:
            print(
                f"  {self.now:5.0f} s: {counts}, answered {self.seen.answered:,}, queued {status.queued:,}", flush=True
            )

    def draw(self, path: Path) -> None:
        """Write the picture."""
        begins = [at - self.began for at in self.seen.begins]
        ends = [at - self.began for at in self.seen.ends]
        first = min(at for at in begins if at >= self.back_s)
        near_s = (first + NEAR_S[0], first + NEAR_S[1])
        close = [(begin, end) for begin, end in zip(begins, ends, strict=True) if near_s[0] < end < near_s[1] + 1]
        near_begins, near_ends = [begin for begin, _ in close], [end for _, end in close]
        pairs = list(pairwise(self.rows))
        rates = {
            name: [(new[0], (new[column] - old[column]) / (new[0] - old[0])) for old, new in pairs]
            for name, column in (("204 by the relay", 1), ("204 by the endpoint", 2))
        }
        panels = [
            ("events queued in the relay's journal", {"queued": [(row[0], float(row[3])) for row in self.rows]}),
            ("answers a second", rates),
            ("requests at once at the endpoint", {"most": most_at_once(begins, ends, 0.0, self.now, 1.0)}),
        ]
        most = most_at_once(near_begins, near_ends, *near_s, 0.005)
        bound = [(first, 1.0)]
        for begin, _, done in in_flight(near_begins, near_ends):
            if begin > first and (limit := float(allowed(done))) != bound[-1][1]:
                bound += [(begin, bound[-1][1]), (begin, limit)]
        bound.append((near_s[1], bound[-1][1]))
        few = [
            (name, [(at, min(FEW, value)) for at, value in row]) for name, row in (("most", most), ("allowed", bound))
        ]
        near = [
            ("requests at once at the endpoint", {"most": most, "allowed": bound}),
            (f"the same, up to {FEW:g}", dict(few)),
            ("requests a second at the endpoint", {"begun": per_second(near_begins, *near_s, 0.05)}),
        ]
        title = f"{self.away_s / 60:g} minutes without an endpoint at {self.rate:g} events/s, the relay killed twice"
        draw(path, title, self.now, panels, self.bands, self.marks, back_s=first, near_s=near_s, near=near)

    def judge(self) -> Figures:
        """Judge it, and return the figures.  Raises Broken."""
        counts, said = self.cast.counts(), json.loads((self.root / "left").read_text())
        again = check_end(self.journal, self.seen, counts, said["left"])
        back = self.began + self.back_s
        after = [(begin, end) for begin, end in zip(self.seen.begins, self.seen.ends, strict=True) if begin >= back]
        ramp = in_flight([begin for begin, _ in after], [end for _, end in after])
        most = check_ramp(ramp)
        deepest = max(row[3] for row in self.rows)
        never = [] if counts.refused else ["refused connections"]
        never += [] if counts.unanswered else ["posts whose answer was cut off"]
        never += [] if deepest > self.rate * self.away_s / 10 else ["a backlog"]
        if never:
            raise Broken(f"never happened, so nothing was shown: {', '.join(never)}")
        grown = next(begin for begin, flying, _ in ramp if flying >= most / 2)
        return {
            "minutes": self.away_s / 60, "events/s": self.rate, "acknowledged": counts.acknowledged, "lost": 0,
            "without a 204 at the end": len(said["left"]), "answered 5xx": sum(said["noes"].values()),
            "kills": len(self.marks), "connections refused": counts.refused, "answers cut off": counts.unanswered,
            "delivered twice": again, "sums checked": len(self.rows), "deepest queue": deepest,
            "first request after the return, s": round(ramp[0][0] - back, 1),
            "from 1 to half of the most at once, s": round(grown - ramp[0][0], 2), "most at once": most,
            "drained after the return, s": round(self.drained_s),
            "most requests in a second": int(max(new[2] - old[2] for old, new in pairwise(self.rows))),
        }  # fmt: skip


def run(arguments: argparse.Namespace) -> Figures:
    """Run it; raises on the first violation, with the folder kept."""
    root = Path(tempfile.mkdtemp(prefix="outage-"))
    outage = Outage(root, arguments.rate, 60 * arguments.minutes)
    try:
        outage.run()
        if arguments.graph is not None:
            outage.draw(arguments.graph)
        figures = outage.judge()
    except BaseException:
        print(f"repeat: python -m proof outage --minutes {arguments.minutes:g} --rate {arguments.rate:g}; kept: {root}")
        raise
    finally:
        outage.cast.close()
    shutil.rmtree(root)
    return figures
