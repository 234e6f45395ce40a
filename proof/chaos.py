"""Chaos at a constant rate: writers, `eventpost send` and a memory dispatcher, while everything around them fails.

Three processes store into one journal (one at ``fsync``, one that also sends), `eventpost send` delivers, a fourth
process keeps its events in memory.  The endpoint is away, slow, resets connections, answers 429 and 503; writers and
sender are killed with SIGKILL and started again, and frozen with SIGSTOP.  Each second the sum is checked, and memory,
descriptors, threads and disk are sampled; at the end every uuid is compared, and nothing may have grown.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

from eventpost.queues.journal import inspect

from .chaos_graph import Panels, draw
from .chaos_judge import WARM_UP_S, Broken, acknowledged, check_end, check_memory, check_sum, judge_flat
from .chaos_parts import Endpoint, Life, start
from .record import ROOT, Figures

WRITERS = {"stores": ("none", "os"), "fsyncs": ("none", "fsync"), "sends": ("thread", "os")}
MODES = ("refused", "slow", "reset", "429", "503")
DEEDS = ("kill sender", "kill writer", "stop sender", "stop writer", "stop memory")
TICK_S = 0.05
SHORT_MINUTES = 2.0
DRAIN_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the numbers; the defaults are those of make soak."""
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=200, help="events a second, over all processes")
    parser.add_argument("--seed", type=int, default=1, help="of the order and length of the faults")
    parser.add_argument("--graph", type=Path, default=ROOT / "docs" / "soak.svg", help="where the picture goes")


class Chaos:
    """One run."""

    def __init__(self, root: Path, *, rate: float, length_s: float, seed: int) -> None:
        self.root, self.rate, self.length_s = root, rate, length_s
        self.journal = str(root / "j")
        self.short = length_s < 60 * SHORT_MINUTES
        self.chance = random.Random(seed)
        self.endpoint = Endpoint()
        self.began = time.monotonic()
        self.lives: dict[str, Life] = {}
        self.past: list[Life] = []
        self.happened: Counter[str] = Counter()
        self.bands: list[tuple[float, float, str]] = []
        self.marks: list[tuple[float, str]] = []
        self.rows: dict[str, list[tuple[float, float]]] = {
            name: [] for name in ("acknowledged", "delivered", "queued", "memory queued", "disk")
        }
        self.checks = 0

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def all_lives(self) -> list[Life]:
        """Every process there was and is."""
        return [*self.past, *self.lives.values()]

    def begin(self, kind: str) -> None:
        """Start a process, the first time or again."""
        number = self.happened[f"began {kind}"]
        self.happened[f"began {kind}"] += 1
        if kind == "sender":
            words = ["eventpost.cli", "send", "--journal", self.journal]
        else:
            sender, durability = WRITERS.get(kind, ("thread", "os"))
            words = ["proof.chaos_parts", "--endpoint", self.endpoint.url, "--rate", str(self.rate / 4)]
            words += ["--sender", sender, "--durability", durability]
            words += ["--journal", self.journal] if kind in WRITERS else []
        self.past += [self.lives.pop(kind)] if kind in self.lives else []
        self.lives[kind] = start(kind, number, self.root, words, counts=kind != "sender", now=self.now)

    def writers(self) -> list[Life]:
        """Return all lives of those that write into the folder."""
        return [life for life in self.all_lives if life.kind in WRITERS]

    def run(self) -> None:
        """Do it all: faults, checks, the drain."""
        for kind in (*WRITERS, "memory"):
            self.begin(kind)
        while not Path(self.journal, "segments").exists():
            time.sleep(TICK_S)
            if self.now > 20:
                raise Broken("no writer began")
        self.begin("sender")
        self.warm()
        endpoint_at, deed_at, second = self.now + self.span(4), self.now + self.span(3), 0.0
        undo: list[tuple[float, str, str]] = []
        modes, deeds = self.shuffled(MODES), self.shuffled(DEEDS)
        while self.now < self.length_s:
            time.sleep(TICK_S)
            now = self.now
            if now >= endpoint_at:
                endpoint_at = now + self.change_endpoint(modes)
                modes = modes or self.shuffled(MODES)
            if now >= deed_at and not undo:
                undo.append(self.do(deeds.pop()))
                deeds = deeds or self.shuffled(DEEDS)
                deed_at = now + self.span(15)
            for at, what, kind in list(undo):
                if now >= at:
                    undo.remove((at, what, kind))
                    self.begin(kind) if what == "begin" else self.lives[kind].stop(stopped=False)
            if now >= second:
                second = now + 1
                self.look()
        for _, what, kind in undo:
            self.begin(kind) if what == "begin" else self.lives[kind].stop(stopped=False)
        self.calm()
        self.warm()
        self.drain()

    def warm(self) -> None:
        """Wait until everybody is at work: a process that is frozen or ended before it began proves nothing."""
        until = self.now + 30
        while not all(life.count()[0] for life in self.lives.values() if life.cells is not None) or not any(
            uuid.startswith("stores") for uuid in list(self.endpoint.seen)
        ):
            time.sleep(TICK_S)
            if self.now > until:
                raise Broken("not everybody began: see the logs")

    def span(self, mean_s: float) -> float:
        """Return how long something takes: around the mean, and a tenth of it in a short run."""
        return (0.12 if self.short else 1.0) * mean_s * self.chance.uniform(0.5, 1.5)

    def shuffled(self, names: tuple[str, ...]) -> list[str]:
        """Return all of them in another order: each comes once before one comes again."""
        return self.chance.sample(names, len(names))

    def change_endpoint(self, modes: list[str]) -> float:
        """Break the endpoint, or mend it; returns for how long."""
        if self.endpoint.mode != "fine":
            self.calm()
            return self.span(12)
        mode = modes.pop()
        self.endpoint.change(mode)
        self.happened[mode] += 1
        self.bands.append((self.now, self.now, mode))
        return self.span(9)

    def calm(self) -> None:
        """Mend the endpoint."""
        if self.endpoint.mode != "fine":
            self.endpoint.change("fine")
            begin, _, mode = self.bands[-1]
            self.bands[-1] = (begin, self.now, mode)

    def do(self, deed: str) -> tuple[float, str, str]:
        """Kill or freeze somebody; returns when, how and for whom it ends."""
        what, whom = deed.split()
        kind = self.chance.choice([*WRITERS]) if whom == "writer" else whom
        life = self.lives[kind]
        self.happened[deed] += 1
        self.marks.append((self.now, deed))
        if what == "stop":
            life.stop(stopped=True)
            return self.now + self.span(6), "go on", kind
        waiting = inspect.folder_status(self.journal).queued
        self.happened["killed over a backlog"] += bool(waiting)
        life.kill()
        return self.now + self.span(3), "begin", kind

    def look(self) -> None:
        """Check the sum, and sample everybody."""
        for kind, life in self.lives.items():
            if not life.killed and life.process.poll() is not None:
                raise Broken(f"{kind} ended by itself with {life.process.returncode}: see its log")
        status = check_sum(self.journal, self.endpoint, self.writers())
        check_memory(self.lives["memory"])
        self.checks += 1
        now = self.now
        for life in self.lives.values():
            if not life.killed:
                life.sample(now)
        acked = acknowledged(life for life in self.all_lives if life.cells is not None)
        values = acked, len(self.endpoint.seen), status.queued, sum(self.lives["memory"].count()[3:5]), self.disk_mb()
        for row, value in zip(self.rows.values(), values, strict=True):
            row.append((now, float(value)))
        if self.checks % 30 == 0:
            print(
                f"  {now:5.0f} s: acknowledged {acked:,}, queued {status.queued:,}, {dict(self.happened)}", flush=True
            )

    def disk_mb(self) -> float:
        """Return what the folder takes."""
        size = 0
        for path in Path(self.journal).rglob("*"):
            try:
                size += path.lstat().st_blocks * 512
            except FileNotFoundError:
                continue
        return size / 1e6

    def drain(self) -> None:
        """End the writers in order, let the sender deliver the rest, and compare every uuid."""
        for kind in (*WRITERS, "memory"):
            if self.lives[kind].end(60):
                raise Broken(f"{kind} did not end in order: see its log")
        until = time.monotonic() + DRAIN_S
        while inspect.folder_status(self.journal).queued:
            if time.monotonic() > until:
                raise Broken(f"not delivered in {DRAIN_S:g} s: {inspect.folder_status(self.journal)}")
            time.sleep(0.2)
        if self.lives["sender"].end(60):
            raise Broken("the sender did not end in order: see its log")
        status = check_sum(self.journal, self.endpoint, self.writers())
        if status.accepted != status.delivered or inspect.verify(self.journal):
            raise Broken(f"{status}, {inspect.verify(self.journal)}")
        if sum(life.count()[1] for life in self.all_lives):
            raise Broken("a put was refused")

    def close(self) -> None:
        """End what is left."""
        for life in self.lives.values():
            if life.process.poll() is None:
                life.kill()
        self.endpoint.close()

    def panels(self) -> Panels:
        """Return the picture's parts."""

        def rates(name: str) -> list[tuple[float, float]]:
            row = self.rows[name]
            return [(after[0], (after[1] - before[1]) / (after[0] - before[0])) for before, after in pairwise(row)]

        def of(at: int) -> dict[str, list[tuple[float, float]]]:
            out: dict[str, list[tuple[float, float]]] = {}
            for life in self.all_lives:
                out.setdefault(life.kind, []).extend((one[0], float(one[at])) for one in life.samples)
            return {kind: sorted(points) for kind, points in sorted(out.items())}

        return [
            ("events/s", {name: rates(name) for name in ("delivered", "acknowledged")}),
            ("queued events", {"journal": self.rows["queued"], "memory": self.rows["memory queued"]}),
            ("memory of each process, MB", of(1)),
            ("descriptors, sockets apart", of(2)),
            ("sockets", of(4)),
            ("threads", of(3)),
            ("folder on the disk, MB", {"journal": self.rows["disk"]}),
        ]


def run(arguments: argparse.Namespace) -> Figures:
    """Run it; raises on the first violation, with the folder kept."""
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(root, rate=arguments.rate, length_s=60 * arguments.minutes, seed=arguments.seed)
    try:
        chaos.run()
        acked, again = check_end(chaos.endpoint, chaos.all_lives)
        judged = judge_flat(chaos.all_lives, chaos.rows["disk"], 2.0 if chaos.short else WARM_UP_S)
        never = [name for name in (*MODES, *DEEDS, "killed over a backlog") if not chaos.happened[name]]
        never += [f"answered {name}" for name in ("429", "503", "reset") if not chaos.endpoint.answers[name]]
        never += [] if again or chaos.short else ["sent twice"]
        if never:
            raise Broken(  # noqa: TRY301 - the place where everything ends
                f"never happened, so nothing was shown: {', '.join(never)}"
            )
    except BaseException:
        samples = {f"{life.kind} {life.number}": life.samples for life in chaos.all_lives}
        (root / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
        print(f"repeat: python -m proof chaos --minutes {arguments.minutes:g} --seed {arguments.seed}; kept: {root}")
        raise
    finally:
        chaos.close()
        if arguments.graph is not None and chaos.checks > 3:
            title = f"{arguments.minutes:g} minutes of chaos at {arguments.rate:g} events/s"
            draw(arguments.graph, title, chaos.now, chaos.panels(), chaos.bands, chaos.marks)
    shutil.rmtree(root)
    kills = sum(chaos.happened[name] for name in DEEDS if name.startswith("kill"))
    return {
        "minutes": arguments.minutes, "acknowledged": acked, "lost": 0, "sent twice": again, "kills": kills,
        "frozen": sum(chaos.happened[name] for name in DEEDS if name.startswith("stop")),
        "endpoint faults": sum(chaos.happened[name] for name in MODES), "sums checked": chaos.checks,
        "lives judged flat": judged, "deepest queue": int(max(value for _, value in chaos.rows["queued"])),
        "largest process, MB": round(max(one[1] for life in chaos.all_lives for one in life.samples)),
        "largest folder, MB": round(max(value for _, value in chaos.rows["disk"]), 1),
    }  # fmt: skip
