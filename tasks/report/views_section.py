"""What the report says of test-time augmentation: the views tried on val, their gain and their cost.

Reads the entry `tta` of metrics.json, made by `tasks/evaluate/view_search.py`; `tasks/report/report.py`
renders what is returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

CONDITION_NAMES = {"clean": "val", "heavy": "val, heavy mix"}


class Row(NamedTuple):
    """One step of the path."""

    view: str
    cells: list[tuple[float, float | None]]
    """Of each condition: accuracy over the views so far, and what this one brought; None for the first."""
    used: bool


class Path(NamedTuple):
    """How the views were chosen."""

    conditions: list[str]
    rows: list[Row]
    verdict: str
    cost: str


def path(entry: Mapping[str, Any]) -> Path | None:
    """Return how the views were chosen; None where none but the image alone were asked for.

    Args:
        entry: asked, views, steps, gain, interval, reason and times_slower.
    """
    steps = entry.get("steps", ())
    if len(steps) < 2 and entry.get("asked") != "search":
        return None
    conditions = list(steps[0]["accuracy"])
    rows = [
        Row(
            step["view"],
            [
                (accuracy, accuracy - before["accuracy"][name] if before else None)
                for name, accuracy in step["accuracy"].items()
            ],
            step["view"] in entry["views"],
        )
        for step, before in zip(steps, [None, *steps], strict=False)
    ]
    names = [CONDITION_NAMES.get(name, name) for name in conditions]
    return Path(names, rows, _verdict(entry, len(steps)), _cost(int(entry["times_slower"])))


def uses_views(asked: str, entry: Mapping[str, Any]) -> bool:
    """Return whether predictions are averaged over more than the image itself."""
    return asked not in ("none", "identity") and list(entry.get("views", ())) != ["identity"]


def spoken(asked: str, entry: Mapping[str, Any]) -> str:
    """Return e.g. "the 3 views that a search on val chose"."""
    if asked == "search":
        return f"the {len(entry['views'])} views that a search on val chose"
    return f"the views of “{asked}”"


def _verdict(entry: Mapping[str, Any], num_steps: int) -> str:
    low, high = entry["interval"]
    interval = f"95\N{NO-BREAK SPACE}% interval {_points(low)} to {_points(high)}"
    gain = f"{_points(entry['gain'])} points over the image alone ({interval})"
    if entry["reason"] and num_steps > 1:
        return (
            f"All together: {gain}. They are not used: {entry['reason']}. Every figure is of the image alone."
        )
    if entry["reason"]:
        return f"The image alone is used: {entry['reason']}."
    return f"All together: {gain}."


def _cost(times_slower: int) -> str:
    if times_slower == 1:
        return "A prediction takes the time of one view."
    return f"A prediction takes {times_slower} times as long as with the image alone."


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")
