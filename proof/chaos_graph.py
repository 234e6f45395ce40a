"""The soak as a picture: plain SVG, a panel for each figure, faults as bands and marks; no library needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 1000, 96, 62, 130, 74, 26
POINTS_MAX = 600
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
BANDS = {"refused": "#ffb3ad", "reset": "#ffd8a8", "slow": "#fff3b0", "429": "#d0e2ff", "503": "#e2d4f7"}
Series = Mapping[str, Sequence[tuple[float, float]]]
Panels = Sequence[tuple[str, Series]]


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most POINTS_MAX of the points, the highest of each group: no peak is hidden."""
    step = -(-len(points) // POINTS_MAX)
    if step <= 1:
        return points
    return [max(points[at : at + step], key=lambda point: point[1]) for at in range(0, len(points), step)]


def number(value: float) -> str:
    """Return a figure for an axis."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def draw(
    path: Path, title: str, length_s: float, panels: Panels, bands: Sequence[tuple[float, float, str]],
    marks: Sequence[tuple[float, str]],
) -> None:  # fmt: skip
    """Write the picture.  ``bands``: what the endpoint did, from, to; ``marks``: what was done to processes, when."""
    wide, high = WIDTH - LEFT - RIGHT, TOP + len(panels) * (PANEL + GAP) + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" font-family="sans-serif">',
        "<style>text { font-size: 11px } text.title { font-size: 14px }</style>",
        f'<title>{title}</title><rect width="{WIDTH}" height="{high}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" class="title">{title}</text>',
    ]

    def x(at_s: float) -> float:
        return round(LEFT + wide * at_s / length_s, 1)

    at = LEFT
    for name, colour in BANDS.items():
        out.append(
            f'<rect x="{at}" y="31" width="12" height="12" fill="{colour}"/><text x="{at + 16}" y="41">{name}</text>'
        )
        at += 74
    out.append(f'<text x="{at}" y="41">endpoint;</text>')
    for name, sign, colour in (
        ("kill -9", "M0 -4 L4 4 L-4 4 Z", "#d1242f"),
        ("SIGSTOP", "M-3 -4 H3 V4 H-3 Z", "#57606a"),
    ):
        at += 66
        out.append(
            f'<path d="{sign}" fill="{colour}" transform="translate({at} 37)"/><text x="{at + 8}" y="41">{name}</text>'
        )
    bottom = TOP + len(panels) * (PANEL + GAP) - GAP
    out.extend(
        f'<rect x="{x(begin)}" y="{TOP}" width="{max(1.0, x(end) - x(begin)):.1f}" height="{bottom - TOP}" '
        f'fill="{BANDS.get(name, "#eee")}" opacity="0.6"/>'
        for begin, end, name in bands
    )
    for when, name in marks:
        killed = name.startswith("kill")
        sign = "M0 -4 L4 4 L-4 4 Z" if killed else "M-3 -4 H3 V4 H-3 Z"
        y, colour = (TOP - 8, "#d1242f") if killed else (TOP - 18, "#57606a")
        out.append(f'<path d="{sign}" fill="{colour}" transform="translate({x(when)} {y})"/>')
    for row, (label, series) in enumerate(panels):
        top = TOP + row * (PANEL + GAP)
        most = max((value for points in series.values() for _, value in points), default=1.0) * 1.05 or 1.0
        out.append(f'<rect x="{LEFT}" y="{top}" width="{wide}" height="{PANEL}" fill="none" stroke="#ccc"/>')
        out.append(f'<text x="{LEFT + 4}" y="{top + 13}" fill="#333">{label}</text>')
        out.append(f'<text x="{LEFT - 5}" y="{top + 10}" text-anchor="end">{number(most)}</text>')
        out.append(f'<text x="{LEFT - 5}" y="{top + PANEL}" text-anchor="end">0</text>')
        for index, (name, points) in enumerate(series.items()):
            colour = COLOURS[index % len(COLOURS)]
            y = [round(top + PANEL * (1 - value / most), 1) for _, value in thinned(points)]
            line = " ".join(f"{x(when)},{up}" for (when, _), up in zip(thinned(points), y, strict=True))
            out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.1"/>')
            out.append(f'<text x="{WIDTH - RIGHT + 8}" y="{top + 12 + 15 * index}" fill="{colour}">{name}</text>')
    for step in range(7):
        at_s = length_s * step / 6
        shown = f"{at_s / 60:.0f} min" if length_s >= 600 else f"{at_s:.0f} s"
        out.append(f'<text x="{x(at_s)}" y="{bottom + 16}" text-anchor="middle">{shown}</text>')
    path.write_text("\n".join([*out, "</svg>"]) + "\n")
