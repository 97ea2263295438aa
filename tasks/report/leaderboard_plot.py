"""The plot of a leaderboard: every member's accuracies with their intervals, one line each, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COLOURS = ("#6d3fb0", "#cf2f6c", "#16794f")
"""Of the conditions, in order: those of the report."""
INK, LINE = "#221a30", "#e4dfec"
ROW_INCHES = 0.55


class Point(NamedTuple):
    """An accuracy with its interval, all in 0..1."""

    accuracy: float
    low: float
    high: float


def draw(members: Sequence[tuple[str, Mapping[str, Point]]]) -> bytes:
    """Plot members, the first on top.

    Args:
        members: Of each its name, and condition (`clean`, …) → its accuracy; at most three conditions.

    Returns:
        A PNG.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    conditions = list(dict.fromkeys(condition for _, points in members for condition in points))
    style = {
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.0, 1.3 + ROW_INCHES * len(members)), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for place, condition in enumerate(conditions):
            for row, (_, points) in enumerate(members):
                if condition not in points:
                    continue
                point = points[condition]
                height = row + 0.18 * (place - (len(conditions) - 1) / 2)
                axes.plot([point.low, point.high], [height, height], color=COLOURS[place], linewidth=2)
                axes.plot(point.accuracy, height, "o", color=COLOURS[place], label="" if row else condition)
        axes.set_yticks(range(len(members)), [name for name, _ in members], parse_math=False)
        axes.set_ylim(len(members) - 0.5, -0.5)  # the first on top
        axes.set_xlabel("accuracy on the test split, 95 % interval")
        axes.grid(axis="x", color=LINE)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
