"""The outage as a picture: the whole run, and below it the moments around the endpoint's return."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .chaos_graph import FOOT, GAP, LEFT, TOP, Bands, Marks, Panels, block, head, high, in_minutes

BETWEEN: Final = 74
"""Between the two blocks: the axis of the upper one, and the lower one's title."""
Points = list[tuple[float, float]]


def per_second(times: Sequence[float], begin_s: float, end_s: float, step_s: float) -> Points:
    """Return how many of the times fall into each step, as a rate."""
    counts = [0] * max(1, round((end_s - begin_s) / step_s))
    for at in times:
        index = int((at - begin_s) / step_s)
        if 0 <= index < len(counts):
            counts[index] += 1
    return [(begin_s + (index + 0.5) * step_s, count / step_s) for index, count in enumerate(counts)]


def most_at_once(begins: Sequence[float], ends: Sequence[float], begin_s: float, end_s: float, step_s: float) -> Points:
    """Return the most requests at once in each step."""
    most = [0] * max(1, round((end_s - begin_s) / step_s))
    flying, upto = 0, 0
    for at, change in sorted([(at, 1) for at in begins] + [(at, -1) for at in ends]):
        index = min(len(most), max(0, int((at - begin_s) / step_s)))
        for step in range(upto, index):  # what goes on through a step counts there, too
            most[step] = max(most[step], flying)
        upto = max(upto, index)
        flying += change
        if upto < len(most):
            most[upto] = max(most[upto], flying, flying - change)
    return [(begin_s + (index + 0.5) * step_s, float(value)) for index, value in enumerate(most)]


def draw(
    path: Path, title: str, length_s: float, panels: Panels, bands: Bands, marks: Marks, *, back_s: float,
    near_s: tuple[float, float], near: Panels,
) -> None:  # fmt: skip
    """Write the picture.

    ``near``: the panels from ``near_s[0]`` to ``near_s[1]``, around the first request after the return; times under
    them are counted from ``back_s``, when that came.
    """
    lower = TOP + high(len(panels)) + BETWEEN
    out = head(title, lower + high(len(near)) + GAP + FOOT, ["refused"], ["kill -9"])
    out += block(TOP, 0.0, length_s, panels, bands, marks, shown=in_minutes(length_s))
    told = "around the first request after the return, in seconds from it"
    out.append(f'<text x="{LEFT}" y="{lower - 14}" class="title">{told}</text>')
    seen = [(max(near_s[0], begin), min(near_s[1], end), name) for begin, end, name in bands if end > near_s[0]]
    out += block(lower, *near_s, near, seen, shown=lambda at_s: f"{round(at_s - back_s, 2) + 0.0:+.2f} s")
    path.write_text("\n".join([*out, "</svg>"]) + "\n")
