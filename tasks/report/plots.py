"""The report's plots: matplotlib figures as inline SVG in the colours and the font of the page around it.

Guarantees: the same values give the same bytes (no dates, seeded ids); ids are prefixed with the plot's name,
so that several plots can share a page; the SVG refers to nothing outside itself.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.core.run_metrics import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder colours. The SVG has the page's CSS variables instead: one plot for light, dark and print.
_THEME = {
    "#010203": "var(--ink)",
    "#010204": "var(--muted)",
    "#010205": "var(--line)",
    "#010206": "var(--train)",
    "#010207": "var(--val)",
}
_INK, _MUTED, _LINE, _TRAIN, _VAL = _THEME

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _LINE,
    "ytick.labelcolor": _MUTED,
}


def training_curves(history: Sequence[EpochRow], best_epoch: int) -> str:
    """Plot loss and accuracy of train and val over the epochs.

    Args:
        history: At least one epoch.
        best_epoch: Number of the epoch to mark, if it is in the history.

    Returns:
        An `<svg>` element.
    """

    def draw(figure: Figure) -> None:
        epochs = [row.epoch for row in history]
        few = {"marker": "o", "markersize": 4} if len(epochs) <= 12 else {}
        panels = figure.subplots(1, 2)
        for axes, name, title in zip(panels, ("accuracy", "loss"), ("Accuracy", "Loss"), strict=True):
            for key, label, colour, style in (
                (name, "train", _TRAIN, (0, (4, 1.6))),
                (f"val_{name}", "val", _VAL, "-"),
            ):
                values = [_number(getattr(row, key)) for row in history]
                if not all(map(math.isnan, values)):  # val without images
                    axes.plot(epochs, values, color=colour, linestyle=style, label=label, **few)
            _mark_phases(axes, history)
            best = math.nan
            if best_epoch in epochs:
                best = _number(getattr(history[epochs.index(best_epoch)], f"val_{name}"))
            if not math.isnan(best):
                axes.plot(
                    [best_epoch], [best], "o", color=_VAL, markersize=10, markerfacecolor="none",
                    markeredgewidth=2, label=f"best epoch ({best_epoch})",
                )  # fmt: skip
            axes.set_title(title, pad=20)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.margins(x=0.04)
        panels[0].legend(loc="lower right")

    return _svg("training", (9.6, 3.5), draw)


def reliability(bins: Reliability) -> str:
    """Plot accuracy against confidence, and below it the number of images in each bin.

    Args:
        bins: Of equal width, covering 0..1; at least one has images.

    Returns:
        An `<svg>` element.
    """

    from matplotlib.ticker import NullLocator

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        count = bins.count
        filled = [i for i, images in enumerate(count) if images]
        upper.plot([0, 1], [0, 1], color=_MUTED, linestyle=(0, (2, 2)), linewidth=1.2)
        upper.annotate(
            "as sure as right", (0.16, 0.16), xytext=(0, 7), textcoords="offset points", rotation=45,
            rotation_mode="anchor", transform_rotates_text=True, ha="center", color=_MUTED, fontsize=9,
        )  # fmt: skip
        x, y = ([values[i] for i in filled] for values in (bins.confidence, bins.accuracy))
        upper.plot(x, y, color=_VAL, linewidth=1.4)
        most = max(count, default=0) or 1
        upper.scatter(
            x, y, s=[20 + 130 * (count[i] / most) ** 0.5 for i in filled], color=_VAL, clip_on=False
        )
        upper.set(ylabel="share right", xlim=(0, 1), ylim=(-0.02, 1.04))
        width = 1 / max(len(count), 1)
        lower.bar([(i + 0.5) * width for i in range(len(count))], count, width=width * 0.88, color=_TRAIN)
        lower.set(ylabel="images", xlabel="probability given to the predicted class", yscale="symlog")
        lower.set_ylim(0, None)
        lower.set_yticks([0, *(10**power for power in range(1, 7) if 10**power <= most * 3)])
        lower.yaxis.set_minor_locator(NullLocator())
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        figure.align_ylabels([upper, lower])

    return _svg("reliability", (5.0, 4.8), draw)


def _mark_phases(axes: Axes, history: Sequence[EpochRow]) -> None:
    """Draw a line between training phases, and write each phase's name above its epochs."""
    start = 0
    for i in range(1, len(history) + 1):
        if i < len(history) and history[i].phase == history[start].phase:
            continue
        first, last = history[start].epoch, history[i - 1].epoch
        if start:
            axes.axvline(first - 0.5, color=_MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
        axes.text(
            (first + last) / 2,
            1.02,
            history[start].phase[:24],
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=9,
            color=_MUTED,
            parse_math=False,
        )
        start = i


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _svg(name: str, size_inches: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size_inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    for colour, variable in _THEME.items():
        text = text.replace(colour, variable)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)  # it would style the whole page
    head = r'<svg \1 aria-hidden="true" stroke-linejoin="round" stroke-linecap="butt">'
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', head, text, count=1)
