"""The part of the report about test-time augmentation: the views tried on val, their gain and their cost.

Reads the entry `tta` of the metrics, which `tasks/evaluate/view_search.py` makes; `tasks/report/report.py`
renders it.
"""

from __future__ import annotations

from typing import NamedTuple

from hemaflow.tasks.core.run_metrics import ViewChoice

CONDITION_NAMES = {"clean": "val", "heavy_mix": "val, heavy mix"}


class Row(NamedTuple):
    """One step of the search."""

    view: str
    cells: list[tuple[float, float | None]]
    """For each condition: the accuracy with all views so far and the gain of this one; None for the first."""
    used: bool


class Path(NamedTuple):
    """How the views were chosen."""

    conditions: list[str]
    rows: list[Row]
    verdict: str
    cost: str


def path(choice: ViewChoice | None) -> Path | None:
    """Return how the views were chosen; None where only the unchanged image was requested."""
    if choice is None or (len(choice.steps) < 2 and choice.asked != "search"):
        return None
    steps = choice.steps
    conditions = list(steps[0].accuracy)
    rows = [
        Row(
            step.view,
            [
                (accuracy, accuracy - before.accuracy[name] if before else None)
                for name, accuracy in step.accuracy.items()
            ],
            step.view in choice.views,
        )
        for step, before in zip(steps, [None, *steps], strict=False)
    ]
    names = [CONDITION_NAMES.get(name, name) for name in conditions]
    return Path(names, rows, _verdict(choice), _cost(choice.times_slower))


def uses_views(asked: str, choice: ViewChoice | None) -> bool:
    """Return whether predictions are averaged over more than the unchanged image."""
    return asked not in ("none", "identity") and (choice is None or choice.views != ["identity"])


def describe(asked: str, choice: ViewChoice | None) -> str:
    """Return e.g. "the 3 views that a search on val chose"."""
    if asked == "search" and choice:
        return f"the {len(choice.views)} views that a search on val chose"
    return f"the views of “{asked}”"


def _verdict(choice: ViewChoice) -> str:
    low, high = choice.interval
    interval = f"95\N{NO-BREAK SPACE}% interval {_points(low)} to {_points(high)}"
    gain = f"{_points(choice.gain)} points over the image alone ({interval})"
    if choice.reason and len(choice.steps) > 1:
        return (
            f"All together: {gain}. They are not used: {choice.reason}. Every figure is of the image alone."
        )
    if choice.reason:
        return f"The image alone is used: {choice.reason}."
    return f"All together: {gain}."


def _cost(times_slower: int) -> str:
    if times_slower == 1:
        return "A prediction takes the time of one view."
    return f"A prediction takes {times_slower} times as long as with the image alone."


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")
