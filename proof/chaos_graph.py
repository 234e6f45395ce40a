"""The soak as a picture: plain SVG, a panel for each figure, faults as bands and marks; no library needed.

A picture is made of blocks: panels one under the other over one axis of time (``block``), under a head with a legend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 1000, 96, 62, 130, 74, 26
FOOT = 24
POINTS_MAX = 600
TICKS = 6
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
BANDS = {"refused": "#ffb3ad", "reset": "#ffd8a8", "slow": "#fff3b0", "429": "#d0e2ff", "503": "#e2d4f7"}
SIGNS: Final = {
    "kill -9": ("M0 -4 L4 4 L-4 4 Z", "#d1242f", 8),
    "SIGSTOP": ("M-3 -4 H3 V4 H-3 Z", "#57606a", 18),
}
"""What was done to a process: its sign, colour, and how far above the panels it stands."""
Series = Mapping[str, Sequence[tuple[float, float]]]
Panels = Sequence[tuple[str, Series]]
Bands = Sequence[tuple[float, float, str]]
Marks = Sequence[tuple[float, str]]


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most POINTS_MAX of the points, the highest of each group: no peak is hidden."""
    step = -(-len(points) // POINTS_MAX)
    if step <= 1:
        return points
    return [max(points[at : at + step], key=lambda point: point[1]) for at in range(0, len(points), step)]


def number(value: float) -> str:
    """Return a figure for an axis."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def high(panels: int) -> int:
    """Return how high a block is, without what stands under its axis."""
    return panels * (PANEL + GAP) - GAP


def head(title: str, height: int, bands: Sequence[str], signs: Sequence[str]) -> list[str]:
    """Return a picture's beginning: its title, and what colours and signs mean."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        "<style>text { font-size: 11px } text.title { font-size: 14px }</style>",
        f'<title>{title}</title><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" class="title">{title}</text>',
    ]
    at = LEFT
    for name in bands:
        out.append(
            f'<rect x="{at}" y="31" width="12" height="12" fill="{BANDS[name]}"/>'
            f'<text x="{at + 16}" y="41">{name}</text>'
        )
        at += 74
    out.append(f'<text x="{at}" y="41">endpoint;</text>')
    for name in signs:
        sign, colour, _ = SIGNS[name]
        at += 66
        out.append(
            f'<path d="{sign}" fill="{colour}" transform="translate({at} 37)"/><text x="{at + 8}" y="41">{name}</text>'
        )
    return out


def block(
    top: int, begin_s: float, end_s: float, panels: Panels, bands: Bands = (), marks: Marks = (), *,
    shown: Callable[[float], str],
) -> list[str]:  # fmt: skip
    """Return panels over the time from ``begin_s`` to ``end_s``.  ``shown``: what stands under the axis."""
    wide, bottom = WIDTH - LEFT - RIGHT, top + high(len(panels))

    def x(at_s: float) -> float:
        return round(LEFT + wide * (at_s - begin_s) / (end_s - begin_s), 1)

    out = [
        f'<rect x="{x(begin)}" y="{top}" width="{max(1.0, x(end) - x(begin)):.1f}" height="{bottom - top}" '
        f'fill="{BANDS.get(name, "#eee")}" opacity="0.6"/>'
        for begin, end, name in bands
    ]
    for when, name in marks:
        sign, colour, above = SIGNS["kill -9" if name.startswith("kill") else "SIGSTOP"]
        out.append(f'<path d="{sign}" fill="{colour}" transform="translate({x(when)} {top - above})"/>')
    for row, (label, series) in enumerate(panels):
        upper = top + row * (PANEL + GAP)
        most = max((value for points in series.values() for _, value in points), default=1.0) * 1.05 or 1.0
        out.append(f'<rect x="{LEFT}" y="{upper}" width="{wide}" height="{PANEL}" fill="none" stroke="#ccc"/>')
        out.append(f'<text x="{LEFT + 4}" y="{upper + 13}" fill="#333">{label}</text>')
        out.append(f'<text x="{LEFT - 5}" y="{upper + 10}" text-anchor="end">{number(most)}</text>')
        out.append(f'<text x="{LEFT - 5}" y="{upper + PANEL}" text-anchor="end">0</text>')
        for index, (name, points) in enumerate(series.items()):
            colour = COLOURS[index % len(COLOURS)]
            y = [round(upper + PANEL * (1 - value / most), 1) for _, value in thinned(points)]
            line = " ".join(f"{x(when)},{up}" for (when, _), up in zip(thinned(points), y, strict=True))
            out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.1"/>')
            out.append(f'<text x="{WIDTH - RIGHT + 8}" y="{upper + 12 + 15 * index}" fill="{colour}">{name}</text>')
    for step in range(TICKS + 1):
        at_s = begin_s + (end_s - begin_s) * step / TICKS
        out.append(f'<text x="{x(at_s)}" y="{bottom + 16}" text-anchor="middle">{shown(at_s)}</text>')
    return out


def in_minutes(length_s: float) -> Callable[[float], str]:
    """Return how times of a run of that length are shown."""
    return lambda at_s: f"{at_s / 60:.3g} min" if length_s >= 600 else f"{at_s:.3g} s"


def draw(path: Path, title: str, length_s: float, panels: Panels, bands: Bands, marks: Marks) -> None:
    """Write the picture.  ``bands``: what the endpoint did, from, to; ``marks``: what was done to processes, when."""
    out = head(title, TOP + high(len(panels)) + GAP + FOOT, [*BANDS], [*SIGNS])
    out += block(TOP, 0.0, length_s, panels, bands, marks, shown=in_minutes(length_s))
    path.write_text("\n".join([*out, "</svg>"]) + "\n")
